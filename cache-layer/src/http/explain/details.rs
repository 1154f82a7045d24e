//! The details of an explanation: of a request, of a stored response, and of the entry that would be stored.

use http::{HeaderMap, HeaderName, StatusCode};

use crate::{coding::Coding, engine::EntryDetails, http::plan::Plan, key::Key, labels::labels};

labels! {
    /// How a request is handled.
    pub enum Verdict {
        /// A fresh stored response answers it.
        Hit => "hit",
        /// A stale stored response answers it, and is refreshed in the background, if no other request does so already.
        Stale => "stale",
        /// A stale stored response answers it, because the key is in back-off after a failure.
        BackedOff => "backed-off",
        /// It waits for the load of another request, here or in another process.
        Wait => "wait",
        /// The application is asked, and its response may be stored.
        Load => "load",
        /// The application is asked whether the stored response still holds.
        Validate => "validate",
        /// The application is asked, and its response is not stored.
        Forward => "forward",
        /// It bypasses the cache.
        Bypass => "bypass",
        /// The cache refuses it, without asking the application.
        Refuse => "refuse",
    }
}

labels! {
    /// Where a setting for a request comes from.
    pub enum SettingOrigin {
        /// It was not set, and has its default.
        Default => "default",
        /// The layer.
        Layer => "layer",
        /// The rule that applies to the request.
        Rule => "rule",
        /// A layer outside, by its hints.
        Hint => "hint",
    }
}

/// The settings for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettingsDetails {
    /// The [rule](crate::Rule) that applies to the request, such as `GET shop.example/shops/{id}`; `None` if no rule does.
    pub rule: Option<String>,
    /// Each setting.
    pub all: Vec<SettingDetails>,
}

/// A setting, for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettingDetails {
    /// The name of its setter.
    pub name: &'static str,
    /// Its value, in readable form.
    pub value: String,
    /// Where it comes from.
    pub origin: SettingOrigin,
}

/// The key of a request, and its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyDetails {
    /// The key.
    pub key: Key,
    /// The beginning of the layer's keys; empty unless set.
    pub namespace: String,
    /// Scheme and host, in the layer's canonical form.
    pub origin: String,
    /// Path and query, without the parameters that make no difference.
    pub path_and_query: String,
    /// Request fields that are part of the key.
    pub fields: Vec<HeaderName>,
    /// Cookies that are part of the key, by their names.
    pub cookies: Vec<String>,
    /// The parts that a layer outside has [added](crate::Hints::key_part).
    pub hinted: Vec<String>,
    /// The digest of the content that is part of the key, as hex digits; `None` if no content is.
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
    /// Whether the response says that it doesn't change while it is fresh (RFC 8246).
    pub immutable: bool,
    /// Whether the response must never be used stale.
    pub never_stale: bool,
    /// Whether its entity tag is the [cache's own](crate::CacheLayer::etags), which the application does not know.
    pub minted: bool,
    /// Whether the application can be asked if it still holds.
    pub can_be_validated: bool,
    /// Whether the cache may send it in [content codings](crate::CacheLayer::encode) of its own.
    pub encodable: bool,
    /// The content codings in which its body is in this process, and how many bytes it has in each.
    pub codings: Vec<(Coding, u64)>,
}

/// The entry that would be stored for a response. Times are in milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanDetails {
    /// The time at which the response is assumed to arrive.
    pub made: u64,
    /// Until when it is fresh; for a layer with [`jitter`](crate::CacheLayer::jitter), this is a random example.
    pub fresh: u64,
    /// Until when it is used while it is refreshed.
    pub stale_while_revalidate: u64,
    /// Until when it is used in place of an error.
    pub stale_if_error: u64,
    /// Until when it is kept.
    pub gone: u64,
    /// Its tags, sorted. Tags that begin with `uri` and `path` are the cache's own, by which a write to the target reaches the
    /// entry.
    pub tags: Vec<String>,
    /// The request fields that select it among its variants, with commas between them; empty if it has no variants.
    pub vary: String,
    /// Whether it gets an entity tag of the cache.
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
