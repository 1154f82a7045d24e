//! What there is to say of a request, a stored response, and what would be stored.

use http::{HeaderMap, HeaderName, StatusCode};

use crate::{engine::EntryDetails, http::plan::Plan, key::Key, labels::labels};

labels! {
    /// What becomes of a request.
    pub enum Verdict {
        /// What is stored answers it, and is fresh.
        Hit => "hit",
        /// What is stored answers it, and is stale; it is refreshed in the background, if no request does so already.
        Stale => "stale",
        /// What is stored answers it, since the application failed lately and is left alone for a while.
        BackedOff => "backed-off",
        /// It waits for the load of another request, here or in another process.
        Wait => "wait",
        /// The application is asked, and its response may be stored.
        Load => "load",
        /// The application is asked whether what is stored still holds.
        Validate => "validate",
        /// The application is asked, and its response is not stored.
        Forward => "forward",
        /// The cache has nothing to do with it.
        Bypass => "bypass",
        /// The cache refuses it, without asking the application.
        Refuse => "refuse",
    }
}

labels! {
    /// Who says what a setting is for a request.
    pub enum SettingOrigin {
        /// Nobody: it is as it is unless set.
        Default => "default",
        /// The layer.
        Layer => "layer",
        /// The rule that is for the request.
        Rule => "rule",
        /// A layer outside, by its hints.
        Hint => "hint",
    }
}

/// By which settings a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettingsDetails {
    /// Which requests the [rule](crate::Rule) is for that is for this one, such as `GET shop.example/shops/{id}`; `None` if there
    /// is no such rule.
    pub rule: Option<String>,
    /// Each setting.
    pub all: Vec<SettingDetails>,
}

/// A setting, for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettingDetails {
    /// What its setter is called.
    pub name: &'static str,
    /// What it is, for people.
    pub value: String,
    /// Who says so.
    pub origin: SettingOrigin,
}

/// The key of a request, and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyDetails {
    /// As it is.
    pub key: Key,
    /// What the keys of the layer begin with; empty unless set.
    pub namespace: String,
    /// Scheme and host, as the layer takes them.
    pub origin: String,
    /// Path and query, without the parameters that make no difference.
    pub path_and_query: String,
    /// Request fields that are part of it.
    pub fields: Vec<HeaderName>,
    /// Cookies that are part of it, by their names.
    pub cookies: Vec<String>,
    /// What a layer outside has [added](crate::Hints::key_part).
    pub hinted: Vec<String>,
    /// The digest of the content that is part of it, as hex digits; `None` if no content is.
    pub content: Option<String>,
}

/// A variant of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VariantDetails {
    /// Its own key.
    pub key: Key,
    /// The request fields that select it, with commas between them.
    pub fields: String,
    /// How many variants of the key were made, as far as this entry knows.
    pub variants: u16,
}

/// A stored response.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResponseDetails {
    /// Its entry.
    pub entry: EntryDetails,
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its age, in seconds (RFC 9111, section 4.2.3).
    pub age: u64,
    /// Whether it doesn't change while it is fresh (RFC 8246).
    pub immutable: bool,
    /// Whether no client may accept it stale.
    pub never_stale: bool,
    /// Whether its entity tag is the [cache's own](crate::CacheLayer::etags), of which the application knows nothing.
    pub minted: bool,
    /// Whether the application can be asked if it still holds.
    pub can_be_validated: bool,
}

/// What would be stored of a response. Moments are in milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanDetails {
    /// When the response is taken to have come.
    pub made: u64,
    /// Until when it is fresh; of a layer with [`jitter`](crate::CacheLayer::jitter), one moment of many.
    pub fresh: u64,
    /// Until when it answers while it is refreshed.
    pub stale_while_revalidate: u64,
    /// Until when it answers in place of an error.
    pub stale_if_error: u64,
    /// Until when it is kept.
    pub gone: u64,
    /// Its tags, sorted. Those that begin with `uri` and `path` are the cache's own, by which a write to the target reaches it.
    pub tags: Vec<String>,
    /// The request fields that select it among its variants, with commas between them; empty if it has none.
    pub vary: String,
    /// Whether it is given an entity tag.
    pub minted: bool,
    /// Whether it answers for other queries as well, as its `No-Vary-Search` says.
    pub answers_other_queries: bool,
}

impl PlanDetails {
    pub(super) fn of(plan: &Plan) -> Self {
        let vary = plan.vary.as_ref().map(|fields| String::from_utf8_lossy(&fields.to_bytes()).into_owned());
        Self {
            made: plan.deadlines.made,
            fresh: plan.deadlines.fresh,
            stale_while_revalidate: plan.deadlines.stale_while_revalidate,
            stale_if_error: plan.deadlines.stale_if_error,
            gone: plan.deadlines.gone,
            tags: plan.tags.iter().map(str::to_owned).collect(),
            vary: vary.unwrap_or_default(),
            minted: plan.mints,
            answers_other_queries: plan.variation.is_some(),
        }
    }
}
