//! The result of explaining a request.

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
    /// How the request is handled.
    pub verdict: Verdict,
    /// The value of `Cache-Status`, whatever name the field has. If the [application decides](Self::is_final), this is the
    /// value for a response that may be stored.
    pub cache_status: String,
    /// The [field](crate::CacheLayer::cache_status_field) that has this value; `None` if none does.
    pub cache_status_field: Option<HeaderName>,
    /// Whether `cache_status` holds whatever the application answers.
    pub is_final: bool,
    /// Why the request is not answered from the cache, or its response not stored, if one of the reasons applies.
    pub reason: Option<NoCacheReason>,
    /// Why an earlier response could not be stored, if that is remembered, and this process knows it.
    pub first_reason: Option<NoCacheReason>,
    /// The settings for the request; `None` if the request doesn't clearly state its host.
    pub settings: Option<SettingsDetails>,
    /// The key that the layer looks up; `None` as for `settings`, and for content that can't be part of a key.
    pub key: Option<KeyDetails>,
    /// Where the entry was found.
    pub tier: Tier,
    /// The stored response for the request, whether or not it may answer the request.
    pub entry: Option<ResponseDetails>,
    /// The key of the stored response, if it was stored for another query and answers this one as well
    /// ([`no_vary_search`](crate::CacheLayer::no_vary_search)).
    pub alias_of: Option<Key>,
    /// The deleted [pattern](crate::Cache::delete_pattern) that voids the stored response, if one does.
    pub banned_by: Option<String>,
    /// Which variant of the key the request selects, if the key has variants.
    pub variant: Option<VariantDetails>,
    /// Whether this process is loading the response.
    pub is_loading: bool,
    /// The state of the lease; `None` if the store was not asked, or did not answer.
    pub lease: Option<LeaseState>,
    /// Whether the stored response is used if the application fails, with an error or without any response.
    pub stands_in: bool,
    /// The entry that would be stored for the response that was [given](Self::if_answered).
    pub plan: Option<PlanDetails>,
    pub(super) pending: Option<Arc<Pending>>,
}

/// A request that the application has yet to answer.
pub(super) struct Pending {
    pub(super) context: Arc<Context>,
    pub(super) request: Request<()>,
    pub(super) target: Target<'static>,
    pub(super) key: Key,
    pub(super) rest: Rest,
}

/// What the response will decide.
pub(super) enum Rest {
    /// Nothing is stored; this entry may replace an error of the application.
    Forward(Option<Entry>),
    /// The response may be stored, unless `not_stored` already says why not.
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
            banned_by: None,
            variant: None,
            is_loading: false,
            lease: None,
            stands_in: false,
            plan: None,
            pending: None,
        }
    }

    /// Sets `cache_status` to the value that `say` writes.
    pub(super) fn says(&mut self, say: impl FnOnce(&mut HeaderMap)) {
        let mut headers = HeaderMap::new();
        say(&mut headers);
        let said = headers.get("cache-status").and_then(|value| value.to_str().ok());
        self.cache_status = said.unwrap_or_default().to_owned();
    }
}

impl fmt::Debug for Pending {
    /// Omits the request's fields, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("key", &self.key).finish_non_exhaustive()
    }
}
