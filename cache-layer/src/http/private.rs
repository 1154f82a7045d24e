//! A private cache (RFC 9111, section 1): in front of a client, for one owner.

use http::{HeaderName, Uri};
use tower_layer::Layer;

use super::{layer::CacheLayer, owner::Owner, query::QueryLayer, service::CacheService};
#[cfg(feature = "memory")]
use crate::store::MemoryStore;
use crate::{
    engine::{Cache, InvalidateError},
    error::{ConfigError, ConfigErrorKind},
    key::Key,
};

/// The most bytes of an owner's name, which is part of a tag.
const LONGEST_OWNER: usize = 200;

/// Puts a cache in front of a *client*, for one owner: a browser's cache, for a program that calls APIs.
///
/// The service inside is the client, such as hyper-util's, or reqwest's behind a few lines that the
/// [guide](https://docs.rs/cache-layer/latest/cache_layer/guide/client/) shows. The client gets the requests whose responses
/// are not stored, and requests that validate stale responses.
///
/// ```
/// use bytes::Bytes;
/// use cache_layer::PrivateCacheLayer;
/// use http::Request;
/// use http_body_util::Empty;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower::{ServiceBuilder, ServiceExt as _};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
/// let client = ServiceBuilder::new().layer(PrivateCacheLayer::in_memory(16 << 20)).service(client);
///
/// let request = Request::get("http://api.example/rates").header("authorization", "Bearer …").body(Empty::new())?;
/// let response = client.clone().oneshot(request).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Whose it is
///
/// A private cache keeps responses for one owner: make one layer for each user. Responses can't reach another owner, because
/// the layer has a [memory of its own](Self::in_memory), or [the owner's name](Self::of) is in each of its keys. No setting
/// makes a [`CacheLayer`] private, and no `CacheLayer` reads the entries of a private one, even over the same [`Cache`].
///
/// A digest of the credentials is part of the key as well: `Authorization`, `Cookie`, and [others](Self::credentials). With
/// another token or session, a request does not find responses that were stored with the former one. This layer does not see
/// what a client adds further in (a cookie store, default fields, a client certificate): there, only the owner's name
/// distinguishes users.
///
/// # What differs from a shared cache
///
/// | | here | [`CacheLayer`] |
/// |---|---|---|
/// | `private` | stored (RFC 9111, section 5.2.2.7) | not stored |
/// | `s-maxage`, `proxy-revalidate`, `CDN-Cache-Control` | ignored | honoured, the last by choice |
/// | `Authorization` | needs no permission; in the key | needs permission to store (section 3.5) |
/// | `Cookie` | in the key, whatever states the freshness | needs stated freshness |
/// | `Set-Cookie` | passed to the request that waits for the load; the response is stored without it, as in browsers, so that no hit undoes a later cookie | not stored |
/// | no stated freshness | estimated (section 4.2.2), if the status permits it | not stored |
/// | directives of requests | honoured: `max-stale` for a day after the end of freshness | by choice |
/// | a failure, by [`share_failures`](CacheLayer::share_failures) | shared by requests with the same credentials, of this owner alone | not shared by requests with credentials |
/// | `http` and `https` | two sites, always | one site |
/// | `Cache-Tag`, `Surrogate-Key` | passed on, and ignored | tags, and not passed on |
///
/// A cookie that comes with the response of a background refresh, or after a [soft timeout](CacheLayer::soft_timeout), reaches no
/// request: the client keeps the former one. For responses that renew a session, do without
/// [`soft_timeout`](CacheLayer::soft_timeout), [`stale_while_revalidate`](CacheLayer::stale_while_revalidate) and
/// [`early_refresh`](CacheLayer::early_refresh), such as by a [rule](Self::try_with).
///
/// All else is the same: validation, `must-revalidate`, `no-store`, `Vary`, ranges, one load for all requests that wait, and
/// invalidation by unsafe methods, whatever the credentials with which a response was stored.
///
/// # Where to put it
///
/// Inside of a layer that follows redirects, and outside of a layer that retries. A client that follows redirects itself
/// returns the last response for the first URI, and this layer would store it for the first URI: turn that off in the client
/// (`redirect::Policy::none()` in reqwest), and use tower-http's `FollowRedirect` around this layer.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is put on a service"]
pub struct PrivateCacheLayer {
    settings: CacheLayer,
    owner: Owner,
}

impl PrivateCacheLayer {
    /// Keeps responses in a memory of its own, of `bytes` bytes; clones of the layer share it.
    #[cfg(feature = "memory")]
    #[cfg_attr(docsrs, doc(cfg(feature = "memory")))]
    pub fn in_memory(bytes: u64) -> Self {
        Self::owned(Owner::new(String::new()), Cache::new(MemoryStore::new(bytes)))
    }

    /// Keeps responses of `owner` in `cache`, which other layers may use as well: all layers with the same owner share stored
    /// responses.
    ///
    /// Anyone who can read a Redis can read its owners' responses, unless entries are sealed (`RedisStoreBuilder::sealed_with`),
    /// which also hides the owner's name in the names of keys.
    ///
    /// ```
    /// use cache_layer::{Cache, PrivateCacheLayer, store::MemoryStore};
    ///
    /// let cache = Cache::new(MemoryStore::new(64 << 20));
    /// let of_alice = PrivateCacheLayer::of("alice", cache.clone())?;
    /// let of_bob = PrivateCacheLayer::of("bob", cache)?;
    /// # Ok::<(), cache_layer::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If `owner` is empty, or longer than 200 bytes.
    pub fn of(owner: impl Into<String>, cache: Cache) -> Result<Self, ConfigError> {
        let owner = owner.into();
        if owner.is_empty() || owner.len() > LONGEST_OWNER {
            let message =
                format!("owner of a private cache: must have 1 to {LONGEST_OWNER} bytes, not {}", owner.len());
            return Err(ConfigError::new(ConfigErrorKind::Range, message));
        }
        Ok(Self::owned(Owner::new(owner), cache))
    }

    fn owned(owner: Owner, cache: Cache) -> Self {
        Self { settings: CacheLayer::for_private_use(cache), owner }
    }

    /// More request fields with credentials, in addition to `Authorization` and `Cookie`. A digest of them is part of the key.
    ///
    /// ```
    /// # use cache_layer::PrivateCacheLayer;
    /// let layer = PrivateCacheLayer::in_memory(16 << 20).credentials([http::HeaderName::from_static("x-api-key")]);
    /// ```
    pub fn credentials(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.owner.add_credentials(names);
        self
    }

    /// Changes settings, which are those of a [`CacheLayer`]. No setting shares stored responses with another owner.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cache_layer::PrivateCacheLayer;
    ///
    /// let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
    /// let layer = PrivateCacheLayer::in_memory(16 << 20)
    ///     .with(|settings| settings.ttl_for_path("/v1/rates", hour).stale_if_error(day).ignore_cookies(["_ga*"]));
    /// ```
    pub fn with(mut self, change: impl FnOnce(CacheLayer) -> CacheLayer) -> Self {
        self.settings = change(self.settings);
        self
    }

    /// As [`with`](Self::with), for settings that may be refused, such as [rules](CacheLayer::rule).
    ///
    /// ```
    /// use std::time::Duration;
    /// use cache_layer::{PrivateCacheLayer, Rule};
    ///
    /// let minute = Duration::from_secs(60);
    /// let layer = PrivateCacheLayer::in_memory(16 << 20)
    ///     .try_with(|settings| settings.rule(Rule::path("/v1/rates/{day}").host("api.example").ttl(minute)))?;
    /// # Ok::<(), cache_layer::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of `change`.
    pub fn try_with<E>(mut self, change: impl FnOnce(CacheLayer) -> Result<CacheLayer, E>) -> Result<Self, E> {
        self.settings = change(self.settings)?;
        Ok(self)
    }

    /// Keeps responses to QUERY as well, by the content of the requests, as [`CacheLayer::query`] does, and those to
    /// [`posts`](QueryLayer::posts) that only read. To be called last.
    ///
    /// ```
    /// # use cache_layer::PrivateCacheLayer;
    /// let layer = PrivateCacheLayer::in_memory(16 << 20).query().posts(|request| request.uri.path() == "/graphql");
    /// ```
    pub fn query(&self) -> QueryLayer {
        self.of_owner().query()
    }

    /// The cache that responses are kept in.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.settings.context.cache
    }

    /// The key under which the response to a GET of `uri` is stored, for a request without credentials; `None` for a URI
    /// without a host. To reach the responses for all credentials, use [`invalidate_uri`](Self::invalidate_uri).
    #[must_use]
    pub fn key(&self, uri: &Uri) -> Option<Key> {
        self.of_owner().key(uri)
    }

    /// Invalidates every response that is stored for the owner and an absolute URI, whatever the credentials; returns `false`
    /// for a URI without a host. One in 4096 of the owner's responses for other URIs is invalidated with them. A write that
    /// succeeds does the same for its own target.
    ///
    /// # Errors
    ///
    /// As for [`Cache::invalidate`].
    pub async fn invalidate_uri(&self, uri: &Uri) -> Result<bool, InvalidateError> {
        self.of_owner().invalidate_uri(uri).await
    }

    /// Invalidates everything that is stored for the owner: call it when the owner logs out.
    ///
    /// ```
    /// # use cache_layer::PrivateCacheLayer;
    /// # async fn example() -> Result<(), cache_layer::InvalidateError> {
    /// let layer = PrivateCacheLayer::in_memory(16 << 20);
    /// layer.forget().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Cache::invalidate`].
    pub async fn forget(&self) -> Result<(), InvalidateError> {
        self.cache().invalidate_tag(self.owner.tag()).await
    }

    /// The layer that answers the owner's requests.
    pub(super) fn of_owner(&self) -> CacheLayer {
        self.settings.of_owner(self.owner.clone())
    }
}

impl<S> Layer<S> for PrivateCacheLayer {
    type Service = CacheService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        self.of_owner().layer(inner)
    }
}
