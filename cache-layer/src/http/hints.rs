//! What the layers outside of a cache know of a request.

use std::time::Duration;

use http::Extensions;

use crate::policy::Policy;

/// What a layer outside of the cache knows of a request: who it is for, or that it is to have no stored response. Put into the
/// request's extensions, where no client can put anything. They stay there, for caches that are further in.
///
/// ```
/// use cache_layer::Hints;
/// use http::{Request, StatusCode, header::AUTHORIZATION};
///
/// # struct Claims { tenant: String }
/// # fn verify(_: &http::HeaderValue) -> Option<Claims> { None }
/// /// Before the cache: who is not known does not get that far.
/// fn authenticate<B>(mut request: Request<B>) -> Result<Request<B>, StatusCode> {
///     // Taken out, since the cache keeps nothing for who brings credentials that it knows nothing of.
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
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The request goes to the application, and what comes is not kept (`detail=hint`).
    pub fn bypass(mut self) -> Self {
        self.bypass = true;
        self
    }

    /// The request is not answered by what is stored, which is loaded anew, or validated: what comes is kept for those who come
    /// after it. For a client that may ask for that, an editor's browser say.
    pub fn refresh(mut self) -> Self {
        self.refresh = true;
        self
    }

    /// One more part of the key: only requests with the same parts, in this order, share what is stored. In
    /// [patterns](crate::Cache::delete_pattern) and traces it stands behind the path and a `#`.
    ///
    /// A write invalidates what is stored under its own parts. For more than that, use [tags](crate::Tags).
    pub fn key_part(mut self, part: impl AsRef<str>) -> Self {
        self.key_parts.push(part.as_ref().into());
        self
    }

    /// How long to keep the response if the application states no freshness, in place of what a rule or the layer says; zero
    /// means not at all. Of requests that wait for one load, the hints of the one that loads count.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Makes a request's policy that of these.
    pub(super) fn apply(&self, policy: &mut Policy) {
        policy.refresh = self.refresh;
        if let Some(ttl) = self.ttl {
            policy.set_only_ttl(ttl);
        }
    }

    /// The settings that they say something of, by the names that people know.
    pub(super) fn says(&self) -> Vec<&'static str> {
        let said = [("bypass", self.bypass), ("refresh", self.refresh), ("ttl", self.ttl.is_some())];
        said.into_iter().filter(|(_, said)| *said).map(|(name, _)| name).collect()
    }

    /// Puts these into a request's extensions, beside what others have said there: parts of keys come after theirs, and of two
    /// lifetimes the shorter counts.
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
