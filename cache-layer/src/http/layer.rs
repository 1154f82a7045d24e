//! The layer and its settings.

use std::{sync::Arc, time::Duration};

use tower_layer::Layer;

use super::service::{CacheService, Shared};
use crate::{engine::Cache, error::ConfigError, policy::Policy, semantics::cache_status::CacheName};

/// Puts a [`Cache`] in front of a service.
///
/// 200 responses to GET are kept when the application says for how long (`Cache-Control`, `Expires`), or when a rule set
/// here does; HEAD is answered from them; everything else passes through untouched.
///
/// ```
/// use std::time::Duration;
/// use cache_layer::{Cache, CacheLayer, store::MemoryStore};
///
/// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
/// let app: axum::Router = axum::Router::new()
///     .route("/api/products", axum::routing::get(|| async { "…" }))
///     .layer(CacheLayer::new(cache).path("/api/products", Duration::from_secs(60)));
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is put on a service"]
pub struct CacheLayer {
    cache: Cache,
    policy: Policy,
    name: CacheName,
}

impl CacheLayer {
    /// A layer over `cache` that keeps what the application says, and nothing else.
    pub fn new(cache: Cache) -> Self {
        Self { cache, policy: Policy::default(), name: CacheName::default() }
    }

    /// How long to keep responses whose application states no freshness; none of them unless set.
    ///
    /// A rule says that these responses are the same for everybody. A response to a request with a `Cookie` is not kept by
    /// a rule alone, and never one that says `private` or `no-store`, sets a cookie, or answers an `Authorization`.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.policy.set_ttl(ttl);
        self
    }

    /// As [`ttl`](Self::ttl), for paths that are `prefix` or lie below it, by whole segments: `/a` covers `/a/b` and
    /// not `/ab`. The longest prefix decides.
    pub fn path(mut self, prefix: impl AsRef<str>, ttl: Duration) -> Self {
        self.policy.add_path(prefix.as_ref(), ttl);
        self
    }

    /// Several [`path`](Self::path) rules.
    pub fn paths<P: AsRef<str>>(self, rules: impl IntoIterator<Item = (P, Duration)>) -> Self {
        rules.into_iter().fold(self, |layer, (prefix, ttl)| layer.path(prefix, ttl))
    }

    /// The longest body to keep, in bytes; 1 MiB unless set. A longer one is passed on whole, and not kept.
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.policy.max_body = bytes;
        self
    }
}

impl CacheLayer {
    /// What this cache calls itself in `Cache-Status`, where several caches on the way are told apart; `cache-layer`
    /// unless set.
    ///
    /// # Errors
    ///
    /// If `name` is empty, or has other characters than printable ASCII.
    pub fn name(mut self, name: &str) -> Result<Self, ConfigError> {
        self.name = CacheName::new(name)
            .ok_or_else(|| ConfigError::new(format!("cache name {name:?}: must be printable ASCII, not empty")))?;
        Ok(self)
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = CacheService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self { cache, policy, name } = self.clone();
        CacheService::new(inner, Arc::new(Shared { cache, policy, name }))
    }
}
