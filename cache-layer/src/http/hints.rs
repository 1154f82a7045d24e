//! Hints: what the layers outside of a cache tell it about one request.

use std::time::Duration;

use http::Extensions;

use crate::policy::Policy;

/// What a layer outside of the cache tells it about a request: who the request is for, or that it must not get a stored response.
/// Hints are in the request's extensions, which clients can't set. They stay there, for caches that are further in.
///
/// ```
/// use cache_layer::Hints;
/// use http::{Request, StatusCode, header::AUTHORIZATION};
///
/// # struct Claims { tenant: String }
/// # fn verify(_: &http::HeaderValue) -> Option<Claims> { None }
/// /// Runs before the cache, so that requests of unknown clients don't reach it.
/// fn authenticate<B>(mut request: Request<B>) -> Result<Request<B>, StatusCode> {
///     // Removed, because the cache does not store responses to requests with credentials.
///     let credentials = request.headers_mut().remove(AUTHORIZATION).ok_or(StatusCode::UNAUTHORIZED)?;
///     let claims = verify(&credentials).ok_or(StatusCode::UNAUTHORIZED)?;
///     Hints::new().key_part(&claims.tenant).add_to(request.extensions_mut());
///     Ok(request)
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "hints say something once they are in a request's extensions"]
pub struct Hints {
    pub(super) bypass: bool,
    pub(super) refresh: bool,
    pub(super) ttl: Option<Duration>,
    pub(super) key_parts: Vec<Box<str>>,
}

impl Hints {
    /// No hints.
    pub fn new() -> Self {
        Self::default()
    }

    /// The request goes to the application, and the response is not stored (`detail=hint`).
    pub fn bypass(mut self) -> Self {
        self.bypass = true;
        self
    }

    /// The request does not get the stored response: the response is loaded anew, or validated, and stored for later requests.
    /// For clients that are allowed to force this, such as an editor's browser.
    pub fn refresh(mut self) -> Self {
        self.refresh = true;
        self
    }

    /// One more part of the key: only requests with the same parts, in the same order, share a stored response. In
    /// [patterns](crate::Cache::delete_pattern) and traces, the parts follow the path and a `#`.
    ///
    /// A write is only sure to invalidate responses with the same parts as the write itself. For those with other parts, use
    /// [tags](crate::Tags), or [`CacheLayer::invalidate_uri`](crate::CacheLayer::invalidate_uri), which reaches all of them.
    pub fn key_part(mut self, part: impl AsRef<str>) -> Self {
        self.key_parts.push(part.as_ref().into());
        self
    }

    /// How long to keep the response if the application states no freshness, in place of the time that a rule or the layer sets;
    /// zero means not at all. It is not remembered that such a response could not be stored. When several requests share a load,
    /// the hints of the leader count.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Applies these hints to a request's policy.
    pub(super) fn apply(&self, policy: &mut Policy) {
        policy.refresh = self.refresh;
        policy.is_hinted = true;
        if let Some(ttl) = self.ttl {
            policy.set_only_ttl(ttl);
        }
    }

    /// The settings that these hints set, by the names of their setters.
    pub(super) fn says(&self) -> Vec<&'static str> {
        let said = [("bypass", self.bypass), ("refresh", self.refresh), ("ttl", self.ttl.is_some())];
        said.into_iter().filter(|(_, said)| *said).map(|(name, _)| name).collect()
    }

    /// Adds these hints to a request's extensions. If a layer further out has added hints, both count: these parts of the key
    /// follow the earlier ones, and the shorter of two lifetimes applies.
    pub fn add_to(self, extensions: &mut Extensions) {
        let known = extensions.get_or_insert_default::<Self>();
        known.bypass |= self.bypass;
        known.refresh |= self.refresh;
        known.ttl = known.ttl.into_iter().chain(self.ttl).min();
        known.key_parts.extend(self.key_parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_layers_know_comes_together() {
        let mut extensions = Extensions::new();
        Hints::new().key_part("tenant").ttl(Duration::from_secs(60)).add_to(&mut extensions);
        Hints::new().key_part("role").ttl(Duration::from_secs(90)).refresh().add_to(&mut extensions);
        let both = Hints::new().key_part("tenant").key_part("role").ttl(Duration::from_secs(60)).refresh();
        assert_eq!(extensions.get(), Some(&both));
    }
}
