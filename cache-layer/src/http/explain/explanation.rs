//! An explanation.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, Request};

use super::details::{KeyDetails, PlanDetails, ResponseDetails, SettingsDetails, VariantDetails, Verdict};
use crate::{
    entry::Entry,
    http::{context::Context, select::Miss, target::Target},
    key::Key,
    store::LeaseState,
    telemetry::{NoCacheReason, Tier},
};

/// What a layer would do with a request, from [`CacheLayer::explain`](crate::CacheLayer::explain).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// What becomes of the request.
    pub verdict: Verdict,
    /// What `Cache-Status` would say, by whichever name. Where the [application decides](Self::is_final), it is what it says of a
    /// response that may be stored.
    pub cache_status: String,
    /// The [field](crate::CacheLayer::cache_status_field) that says so; `None` if none does.
    pub cache_status_field: Option<HeaderName>,
    /// Whether `cache_status` is known, whatever the application answers.
    pub is_final: bool,
    /// Why it is not answered from what is stored, or why the response is not stored, if there is a name for that.
    pub reason: Option<NoCacheReason>,
    /// Why an earlier response could not be kept, if that is remembered, and this process knows it.
    pub first_reason: Option<NoCacheReason>,
    /// By which settings it is answered; `None` if it doesn't say clearly which host it is for.
    pub settings: Option<SettingsDetails>,
    /// Under which key the layer looks; `None` as for `settings`, and for content that can't be part of a key.
    pub key: Option<KeyDetails>,
    /// Where the entry was found.
    pub tier: Tier,
    /// What is stored for the request, whether or not it may answer it.
    pub entry: Option<ResponseDetails>,
    /// The key of the stored response, as people read it, if that is another query's, and answers this one as well
    /// ([`no_vary_search`](crate::CacheLayer::no_vary_search)).
    pub alias_of: Option<String>,
    /// Which variant of the key the request selects, if the key has variants.
    pub variant: Option<VariantDetails>,
    /// Whether this process is loading what the request asks for.
    pub is_loading: bool,
    /// What is at the place of the lease; `None` if the store was not asked, or did not answer.
    pub lease: Option<LeaseState>,
    /// Whether what is stored stands in if the application fails: with an error, or without any response.
    pub stands_in: bool,
    /// What would be stored of the response that was [given](Self::if_answered).
    pub plan: Option<PlanDetails>,
    pub(super) pending: Option<Arc<Pending>>,
}

/// A request that the application has still to answer.
pub(super) struct Pending {
    pub(super) context: Arc<Context>,
    pub(super) request: Request<()>,
    pub(super) target: Target<'static>,
    pub(super) key: Key,
    pub(super) rest: Rest,
}

/// What is left to be decided by the response.
pub(super) enum Rest {
    /// Nothing is stored; an error of the application's may be replaced by this.
    Forward(Option<Entry>),
    /// It may be stored, unless it is known why it will not be, whatever comes.
    Load { miss: Miss, not_stored: Option<NoCacheReason> },
}

impl Explanation {
    pub(super) fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            cache_status: String::new(),
            cache_status_field: None,
            is_final: true,
            reason: None,
            first_reason: None,
            settings: None,
            key: None,
            tier: Tier::None,
            entry: None,
            alias_of: None,
            variant: None,
            is_loading: false,
            lease: None,
            stands_in: false,
            plan: None,
            pending: None,
        }
    }

    /// `Cache-Status` as `say` writes it.
    pub(super) fn says(&mut self, say: impl FnOnce(&mut HeaderMap)) {
        let mut headers = HeaderMap::new();
        say(&mut headers);
        let said = headers.get("cache-status").and_then(|value| value.to_str().ok());
        self.cache_status = said.unwrap_or_default().to_owned();
    }
}

impl fmt::Debug for Pending {
    /// Without the request's fields, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("key", &self.key).finish_non_exhaustive()
    }
}
