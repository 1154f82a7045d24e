//! The layer and its settings.

use std::{sync::Arc, time::Duration};

use http::Uri;
use tower_layer::Layer;

use super::{
    service::{CacheService, Shared},
    target::Target,
};
use crate::{engine::Cache, error::ConfigError, key::Key, policy::Policy, semantics::cache_status::CacheName};

/// Puts a [`Cache`] in front of a service.
///
/// 200 responses to GET are kept when the application says for how long (`Cache-Control`, `Expires`), or when a rule set
/// here does; HEAD is answered from them; everything else passes through untouched. Never kept is a response that says
/// `no-store`, `private` or `no-cache`, sets a cookie, varies on everything, answers an `Authorization` without
/// permission to share (RFC 9111, section 3.5), is longer than [`max_body`](Self::max_body), or does not end as it should.
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
///
/// # Where to put it
///
/// Outside of what makes a response, inside of what changes it for one client: compression goes around the cache, and
/// so does a check of who may ask at all. Limits that protect the application go inside, so that hits don't count.
///
/// The key of a request is its scheme, host, path and query *as this layer sees them*. Inside axum's `nest`, the path has
/// lost its prefix: two nested routers over one cache need a [`space`](Self::space) each, or the layer outside of both.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is put on a service"]
pub struct CacheLayer {
    cache: Cache,
    policy: Policy,
    name: CacheName,
    space: String,
}

impl CacheLayer {
    /// A layer over `cache` that keeps what the application says, and nothing else.
    pub fn new(cache: Cache) -> Self {
        Self { cache, policy: Policy::default(), name: CacheName::default(), space: String::new() }
    }

    /// How long to keep responses for which the application states no freshness. Unless this or a [`path`](Self::path)
    /// is set, such responses are not kept.
    ///
    /// A rule says that these responses are the same for everybody. A response to a request with a `Cookie` is not kept by
    /// a rule alone.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.policy.set_ttl(ttl);
        self
    }

    /// As [`ttl`](Self::ttl), for paths that are `prefix` or lie below it, by whole segments: `/a` covers `/a/b` and
    /// not `/ab`. The longest prefix decides; zero means that these are not kept. Paths are compared as they were sent,
    /// without decoding; a prefix without its leading slash is given one.
    pub fn path(mut self, prefix: impl AsRef<str>, ttl: Duration) -> Self {
        self.policy.add_path(prefix.as_ref(), ttl);
        self
    }

    /// Several [`path`](Self::path) rules.
    pub fn paths<P: AsRef<str>>(self, rules: impl IntoIterator<Item = (P, Duration)>) -> Self {
        rules.into_iter().fold(self, |layer, (prefix, ttl)| layer.path(prefix, ttl))
    }

    /// The longest body to keep, in bytes, which is also the most that is held of a response on its way; 1 MiB unless set.
    /// A longer one is passed on whole, and not kept.
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.policy.max_body = bytes;
        self
    }

    /// What the keys of all requests through this layer begin with; nothing unless set. Layers that see the same host and
    /// path for different things, over one cache or over one Redis prefix, need different ones.
    pub fn space(mut self, space: impl Into<String>) -> Self {
        self.space = space.into();
        self
    }

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

    /// The key under which this layer keeps what it stores for an absolute URI, for
    /// [`Cache::invalidate`](crate::Cache::invalidate); `None` for a URI without a host.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # async fn example() -> Result<(), cache_layer::InvalidateError> {
    /// # let cache = Cache::new(MemoryStore::new(1 << 20));
    /// let layer = CacheLayer::new(cache.clone());
    /// let uri = http::Uri::from_static("http://shop.example/api/products/42");
    /// if let Some(key) = layer.key(&uri) {
    ///     cache.invalidate(&key).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn key(&self, uri: &Uri) -> Option<Key> {
        Target::of_uri(uri).map(|target| target.key(&self.space))
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = CacheService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self { cache, policy, name, space } = self.clone();
        CacheService::new(inner, Arc::new(Shared { cache, policy, name, space }))
    }
}
