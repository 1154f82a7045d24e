//! The layer and its settings.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, StatusCode, Uri, request};
use tower_layer::Layer;

use super::{
    context::Context,
    load_limit::LoadLimit,
    service::CacheService,
    target::{Affected, Target},
    variations::Variations,
};
use crate::{
    clock::millis,
    engine::{Cache, InvalidateError},
    error::{ConfigError, ConfigErrorKind},
    key::Key,
    policy::{NoVarySearch, Profile, Remaining, SetCookie, Vary, Voids},
    semantics::{cache_status::CacheName, caching_policy::CachingPolicy},
};

/// Puts a [`Cache`] in front of a service.
///
/// Responses to GET are kept when the application says for how long (`Cache-Control`, `Expires`,
/// [`Freshness`](crate::Freshness)), and successes when a rule set here does. HEAD, conditional requests and single ranges
/// are answered from them, as RFC 9111 has it; everything else passes through untouched. So does a range of what is not kept:
/// for a client that sends `Cookie` or `Authorization` from the first request on, unless the application says that the
/// response is everybody's, and else from the second one on. Never kept is a response that says
/// `no-store` or `private`, sets a cookie, varies on everything, answers an `Authorization` without permission to share
/// (RFC 9111, section 3.5), is longer than [`max_body`](Self::max_body), or does not end as it should.
///
/// ```
/// use std::time::Duration;
/// use cache_layer::{Cache, CacheLayer, store::MemoryStore};
///
/// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
/// let app: axum::Router = axum::Router::new()
///     .route("/api/products", axum::routing::get(|| async { "…" }))
///     .layer(CacheLayer::new(cache).ttl_for_path("/api/products", Duration::from_secs(60)));
/// ```
///
/// Five settings matter to most applications: [`ttl_for_path`](Self::ttl_for_path),
/// [`stale_while_revalidate`](Self::stale_while_revalidate), [`stale_if_error`](Self::stale_if_error),
/// [`ignore_query`](Self::ignore_query) and [`max_loads`](Self::max_loads). The others are below, by what they are about.
///
/// # Where to put it
///
/// Outside of what makes a response, inside of what changes it for one client: compression goes around the cache, and
/// so does a check of who may ask at all. Limits that protect the application go inside, so that hits don't count.
///
/// The key of a request is its host, path and query *as this layer sees them*. Inside axum's `nest`, the path has
/// lost its prefix: two nested routers over one cache need a [`namespace`](Self::namespace) each, or the layer outside of both.
///
/// `http` and `https` are one site unless [`schemes_apart`](Self::schemes_apart) says otherwise, and hosts are one where
/// [`canonical_host`](Self::canonical_host) says so.
///
/// Two layers over one cache may be in one request's way, around a router and around one of its routes, or in two processes
/// over one Redis prefix: the outer one keeps the response by its settings, and the inner one passes its requests through
/// (`detail=nested`), so that its own rules have no effect there. To keep responses in both, give them a namespace or a
/// prefix each. From another process, only what is on the wire arrives: tags in `Cache-Tag`, and none in extensions. To be known
/// there, a load over Redis has the request field `Cache-Layer-Load`, with a number that is good for this load alone; from a
/// client, it goes no further and means nothing.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is put on a service"]
pub struct CacheLayer {
    context: Context,
}

impl CacheLayer {
    /// A layer over `cache` that keeps what the application says, and nothing else.
    pub fn new(cache: Cache) -> Self {
        Self { context: Context::new(cache) }
    }

    pub(super) fn with_content_keys(mut self) -> Self {
        self.context.has_content_keys = true;
        self
    }
}

/// # Lifetime
///
/// For how long responses are fresh.
impl CacheLayer {
    /// How long to keep responses for which the application states no freshness. Unless this or a
    /// [`ttl_for_path`](Self::ttl_for_path) is set, such responses are not kept.
    ///
    /// A rule says that these responses are the same for everybody. A response to a request with a `Cookie` is not kept by
    /// a rule alone.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.context.policy.set_ttl(ttl);
        self
    }

    /// As [`ttl`](Self::ttl), for paths that are `prefix` or lie below it, by whole segments: `/a` covers `/a/b` and
    /// not `/ab`. The longest prefix decides; zero means that these are not kept. Paths are compared as they were sent,
    /// without decoding, and one with dot segments is covered by no rule; a prefix without its leading slash is given one.
    pub fn ttl_for_path(mut self, prefix: impl AsRef<str>, ttl: Duration) -> Self {
        self.context.policy.add_path(prefix.as_ref(), ttl);
        self
    }

    /// Several [`ttl_for_path`](Self::ttl_for_path) rules.
    pub fn ttl_for_paths<P: AsRef<str>>(self, rules: impl IntoIterator<Item = (P, Duration)>) -> Self {
        rules.into_iter().fold(self, |layer, (prefix, ttl)| layer.ttl_for_path(prefix, ttl))
    }

    /// How long to keep responses with this status that state no freshness of their own, such as 404; not at all unless
    /// set.
    pub fn negative_ttl(mut self, status: StatusCode, ttl: Duration) -> Self {
        self.context.policy.caching.negative_ttl.insert(status.as_u16(), millis(ttl));
        self
    }

    /// The longest that any response is fresh, whatever it says; without a limit unless set.
    pub fn ttl_cap(mut self, cap: Duration) -> Self {
        self.context.policy.caching.ttl_cap = Some(millis(cap));
        self
    }

    /// Shortens every freshness at random by up to this share, 0 to 100 per cent, so that what was stored together does
    /// not expire together; 0 unless set.
    pub fn jitter(mut self, per_cent: u8) -> Self {
        self.context.policy.jitter = per_cent.min(100);
        self
    }

    /// Whether to estimate freshness from `Last-Modified` where nothing else states it (RFC 9111, section 4.2.2): a
    /// tenth of the time since then, a day at most. Off in the safe profile.
    pub fn heuristics(mut self, on: bool) -> Self {
        self.context.policy.caching.heuristics = on;
        self
    }

    /// Whether clients may ask for a younger response, or accept a stale one, by `Cache-Control` (RFC 9111, section
    /// 5.2.1). Off in the safe profile, since any client could send load past the cache; `no-store` always counts.
    pub fn request_directives(mut self, honoured: bool) -> Self {
        self.context.policy.caching.request_directives = honoured;
        self
    }
}

/// # Staleness and failures
///
/// What is used while it is refreshed, and in place of an error.
impl CacheLayer {
    /// `stale-while-revalidate` for responses that have none (RFC 5861, section 3); none unless set.
    ///
    /// After a refresh in the background that brought nothing to be kept, the next request refreshes in the foreground. It has
    /// what is stale if the application fails, or takes longer than the
    /// [lock timeout](crate::CacheBuilder::lock_timeout).
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.context.policy.caching.default_stale_while_revalidate = millis(window);
        self
    }

    /// `stale-if-error` for responses that have none (RFC 5861, section 4); none unless set.
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.context.policy.caching.default_stale_if_error = millis(window);
        self
    }

    /// Whether `s-maxage` leaves `stale-while-revalidate` and `stale-if-error` beside it in force. By RFC 9111, section
    /// 5.2.2.10, it forbids all stale use; off unless set.
    pub fn s_maxage_permits_stale(mut self, permits: bool) -> Self {
        self.context.policy.caching.s_maxage_permits_stale = permits;
        self
    }

    /// Refreshes responses in the background before they are stale, so that of those that are asked for often no request
    /// ever waits; off unless set. Each GET that is answered from the cache decides by chance, the more likely the less
    /// freshness is left and the longer the last load took (XFetch), in the last fifth of a freshness of a second or more.
    /// Whoever decides so, in the whole fleet one does it.
    ///
    /// `beta` is how early: at 1, a refresh most often begins a few times as long before the end as a load takes; at
    /// more, earlier, which is for loads whose duration varies. Zero or less, or what is no number, turns it off. The
    /// application sees requests for what is still fresh, as it does with `stale-while-revalidate` for what is stale.
    pub fn early_refresh(mut self, beta: f32) -> Self {
        self.context.policy.early_refresh = Some(beta).filter(|beta| beta.is_finite() && *beta > 0.0);
        self
    }

    /// How long a failing application is left alone, by all processes with the same store: `first` after one failure of
    /// a key, doubling with each that follows, `longest` at most, and a fifth more or less at random; 1 s and 30 s unless
    /// set. Zero turns it off.
    ///
    /// A failure is an error of the service, or a 500, 502, 503 or 504, in answer to a request without `Authorization` and
    /// `Cookie`. In the meantime, stale responses that may stand in for an error are used without asking; a request for
    /// which there is none goes to the application as ever, unless [`share_failures`](Self::share_failures) is set. A
    /// success ends it, and so does the invalidation of the key.
    pub fn failure_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.context.policy.failure_backoff = (first, longest);
        self
    }

    /// Whether requests for a key that failed, and that nothing stale may answer, are refused while the application is
    /// left alone ([`failure_backoff`](Self::failure_backoff)): with the status of the failure, 502 if there was no response,
    /// and `Retry-After`. Off unless set; never done to requests with `Authorization` or `Cookie`.
    pub fn share_failures(mut self, on: bool) -> Self {
        self.context.policy.share_failures = on;
        self
    }
}

/// # What is stored
impl CacheLayer {
    /// Starts all choices that RFC 9111 leaves to a cache anew, from a profile; [`Profile::Safe`] unless set. To be called
    /// before the setters below.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.context.policy.caching = CachingPolicy::of(profile);
        self
    }

    /// The longest body to keep, in bytes, which is also the most that is held of a response on its way; 1 MiB unless set.
    /// A longer one is passed on whole, and not kept; where several requests read one of an unknown length by then, they go on
    /// at the pace of the slowest, and as much again is held of it. A range of a response that is not stored yet is answered
    /// once the whole is there; of one that turned out to be longer, the next ranges are the application's to answer.
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.context.policy.max_body = bytes;
        self
    }

    /// The most variants of one URI to keep; 64 unless set, at least 1. One more, and they begin anew.
    pub fn max_variants(mut self, variants: u16) -> Self {
        self.context.policy.max_variants = variants.max(1);
        self
    }

    /// What becomes of responses that set a cookie; [`SetCookie::Refuse`] in the safe profile.
    pub fn set_cookie(mut self, choice: SetCookie) -> Self {
        self.context.policy.caching.set_cookie = choice;
        self
    }

    /// The fields that speak to this cache rather than to all, the most specific first (RFC 9213); none in the safe
    /// profile. `CDN-Cache-Control` is meant for a CDN in front, which purges what it keeps; this cache it doesn't know.
    pub fn targeted_fields(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.context.policy.caching.targets = names.into_iter().collect();
        self
    }

    /// Whether responses inherit from what their handlers read from the cache: the tags of every typed value, and that they
    /// are fresh no longer than any of those. A response that states no freshness, and for which there is no rule, is kept
    /// until the first of them expires. Off unless set.
    ///
    /// It counts what the handler reads until it returns a response, in its own task: reads of a body as it streams, or of
    /// tasks that the handler spawns, are not seen. Neither are those of a handler behind a `Buffer`.
    #[cfg(feature = "typed")]
    pub fn inherit(mut self, inherits: bool) -> Self {
        self.context.policy.inherits = inherits;
        self
    }
}

/// # Load on the application
impl CacheLayer {
    /// The most requests that are at the application at one time because the cache has no answer, at least 1; without a
    /// limit unless set. It protects an application that lives behind a cache from the day the cache is lost.
    ///
    /// It holds for loads, from their request until their body is there (one that nobody waits for any more gives way to a
    /// request that needs its room), and for requests that go alone, for want of a store or of patience, until the head of
    /// their response is there; in this process, over all services made with this layer or its clones. What the cache would not have answered in any case is not counted: writes, and whatever
    /// is passed through or known not to be cacheable.
    ///
    /// One request more waits, first come, first served, for [`lock_timeout`](crate::CacheBuilder::lock_timeout) at most;
    /// then it is answered with what is stale and may be used on errors, or else with 503, `Retry-After`
    /// and the detail `overloaded`. This is the one setting by which the cache turns requests away. A refresh in the
    /// background waits for nothing: if there is no room, it is left to a later request.
    pub fn max_loads(mut self, most: usize) -> Self {
        self.context.load_limit = LoadLimit::new(most);
        self
    }
}

/// # Keys
///
/// Which requests are answered by one response.
impl CacheLayer {
    /// What the keys of all requests through this layer begin with; nothing unless set. Layers that see the same host and
    /// path for different things, over one cache or over one Redis prefix, need different ones.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.context.namespace = namespace.into();
        self
    }

    /// Whether `http` and `https` are two sites, with responses of their own; they are one unless set, and the ports 80 and
    /// 443 go without saying.
    ///
    /// A server rarely knows by which scheme a request came. HTTP/2 tells; HTTP/1.1 does not but in its absolute form, and
    /// neither does what ends TLS in front of the server, except in fields that any client can write. So a write by HTTP/2
    /// counts for HTTP/1.1 as well, and a `Location`, or a URI that is given to [`key`](Self::key), may have the scheme that
    /// clients see. A redirect from one scheme to the other, to the same path, is passed on and not kept
    /// ([`RedirectToItself`](crate::telemetry::NoCacheReason::RedirectToItself)).
    ///
    /// Where the two do answer differently, set it, and see to it that the URI of a request says by which it came, before
    /// this layer: what has no scheme is taken for `http`.
    pub fn schemes_apart(mut self, apart: bool) -> Self {
        self.context.sites.tell_schemes_apart(apart);
        self
    }

    /// Takes requests for the host `alias` for requests for `host`: they share what is stored, and a write to one counts for
    /// both. So do a `Location`, [`key`](Self::key) and groups (RFC 9875) that name it. Keys, and with them
    /// [patterns](Cache::delete_pattern), have the name of `host`. None unless set.
    ///
    /// Only for hosts that answer alike. A redirect from one to the other, to the same path, is passed on and not kept.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, ConfigError, store::MemoryStore};
    /// # fn example() -> Result<(), ConfigError> {
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let layer = CacheLayer::new(cache)
    ///     .canonical_host("www.shop.example", "shop.example")?
    ///     .canonical_host("shop.internal:8080", "shop.example")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If one of them is not a host, with a port where that is neither 80 nor 443; if both are the same, by way of other
    /// aliases as well; or if `alias` is one of another host already.
    pub fn canonical_host(mut self, alias: &str, host: &str) -> Result<Self, ConfigError> {
        self.context.sites.add_alias(alias, host).map_err(|reason| {
            ConfigError::new(ConfigErrorKind::Syntax, format!("canonical host {host:?} of {alias:?}: {reason}"))
        })?;
        Ok(self)
    }

    /// Query parameters that make no difference to the response; a name that ends in `*` is a prefix, such as `utm_*`.
    /// The application still sees them.
    pub fn ignore_query<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.context.policy.caching.ignored_query = names.into_iter().map(Into::into).collect();
        self
    }

    /// Whether responses may say themselves which queries they answer, with `No-Vary-Search`, and what of it is believed
    /// ([`NoVarySearch`]); the field is passed on and means nothing here unless set.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, NoVarySearch, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let layer = CacheLayer::new(cache).no_vary_search(NoVarySearch::new());
    /// ```
    pub fn no_vary_search(mut self, rules: NoVarySearch) -> Self {
        self.context.variations = Some(Variations::new(rules));
        self
    }

    /// Request fields that are part of the key, for what an application reads without saying so in `Vary`.
    pub fn key_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.context.policy.key_headers = names.into_iter().collect();
        self
    }

    /// Which requests are given the same variant of a response, where that varies; [`Vary::safe`] in the safe profile. All
    /// layers over one cache need the same.
    pub fn vary(mut self, vary: Vary) -> Self {
        self.context.policy.caching.normalization = vary.into_normalization();
        self
    }

    /// Cookies whose requests go to the application, whatever is stored, such as that of a session.
    pub fn bypass_on_cookies<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.context.policy.bypass_cookies = names.into_iter().map(Into::into).collect();
        self
    }

    /// The key under which this layer keeps what it stores for an absolute URI, for
    /// [`Cache::invalidate`](crate::Cache::invalidate); `None` for a URI without a host. Its scheme makes no difference
    /// unless [`schemes_apart`](Self::schemes_apart) is set. With [`key_headers`](Self::key_headers), it is the key of
    /// requests without those fields.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # async fn example() -> Result<(), cache_layer::InvalidateError> {
    /// # let cache = Cache::new(MemoryStore::new(1 << 20));
    /// let layer = CacheLayer::new(cache.clone());
    /// let uri = http::Uri::from_static("https://shop.example/api/products/42");
    /// if let Some(key) = layer.key(&uri) {
    ///     cache.invalidate(&key).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn key(&self, uri: &Uri) -> Option<Key> {
        let headers = HeaderMap::new();
        Target::of_uri(&self.context.sites, uri).map(|target| target.key(&self.context.key_rules(&headers)))
    }

    /// Voids every response that is stored for an absolute URI, whatever its key: those for other
    /// [`key_headers`](Self::key_headers), and those to [QUERY](Self::query) with any content. `false` for a URI without a host,
    /// which names nothing. A write that succeeds does the same for its own target. Where responses have such keys, one in 4096 of
    /// those of other targets is voided with them.
    ///
    /// # Errors
    ///
    /// As for [`Cache::invalidate`].
    pub async fn invalidate_uri(&self, uri: &Uri) -> Result<bool, InvalidateError> {
        let headers = HeaderMap::new();
        let Some(target) = Target::of_uri(&self.context.sites, uri) else { return Ok(false) };
        let Affected { keys, tags } = target.affected(&self.context.key_rules(&headers), &headers);
        let mut result = self.context.cache.invalidate_tags(tags).await;
        for key in keys {
            // Each is to be tried, whatever became of the one before.
            result = self.context.cache.invalidate(&key).await.and(result);
        }
        result.map(|()| true)
    }

    /// The key under which this layer keeps what it stores for a request with this URI and these fields: what a handler has
    /// at hand, where the URI is but a path, and `Host` names the host. `None` if they don't say clearly which host it is
    /// for. The URI may be another one than the handler's own; it has to be as this layer sees it, before a router that
    /// [nests](Self#where-to-put-it) takes its prefix off.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # use http::{Uri, request::Parts};
    /// async fn restock(parts: Parts, cache: Cache, layer: CacheLayer) -> Result<(), cache_layer::InvalidateError> {
    ///     // … and then, what it changed on the site that it was asked by:
    ///     let list = Uri::from_static("/api/products");
    ///     for uri in [&parts.uri, &list] {
    ///         if let Some(key) = layer.key_of(uri, &parts.headers) {
    ///             cache.invalidate(&key).await?;
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn key_of(&self, uri: &Uri, headers: &HeaderMap) -> Option<Key> {
        Target::of(&self.context.sites, uri, headers).map(|target| target.key(&self.context.key_rules(headers)))
    }
}

/// # Tags and invalidation
impl CacheLayer {
    /// Response fields by which the application names a response's [`Tags`](crate::Tags), beside those in its extensions:
    /// `Cache-Tag`, with commas between tags, and `Surrogate-Key`, with blanks, unless set. In other fields, commas and
    /// blanks are both between tags. None means that these fields mean nothing here, and are passed on.
    ///
    /// A response that names more than 64 tags, or one of more than 256 bytes, is not kept. When the application says that
    /// a stored response still holds (304), and names tags, they replace those that were named before.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let layer = CacheLayer::new(cache).tag_fields([http::HeaderName::from_static("x-product-tags")]);
    /// ```
    pub fn tag_fields(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.context.policy.tag_fields = names.into_iter().collect();
        self
    }

    /// Whether [`tag_fields`](Self::tag_fields) are passed on to clients, for another cache on the way that reads them; they
    /// are not unless set, since they tell how an application is built.
    pub fn pass_tag_fields(mut self, pass: bool) -> Self {
        self.context.policy.pass_tag_fields = pass;
        self
    }

    /// Which requests by other methods than the safe ones change something, so that what they name is voided once they are
    /// answered; all of them unless set. For an application that reads by POST, as GraphQL does: each invalidation costs a
    /// round trip to the store.
    ///
    /// What is no change here voids nothing: neither its own target, nor what its response names in `Location`,
    /// `Content-Location` or `Cache-Group-Invalidation`. gRPC calls, told by the `Content-Type` of both request and
    /// response, never void anything, since no GET is answered by what they are about.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(1 << 20));
    /// let layer = CacheLayer::new(cache).voids(|request| request.uri.path() != "/graphql");
    /// ```
    pub fn voids(mut self, is_change: impl Fn(&request::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.context.policy.voids = Voids::by(is_change);
        self
    }
}

/// # What the cache says about itself
impl CacheLayer {
    /// What this cache calls itself in `Cache-Status`, where several caches on the way are told apart; `cache-layer`
    /// unless set.
    ///
    /// # Errors
    ///
    /// If `name` is empty, or has other characters than printable ASCII.
    pub fn name(mut self, name: &str) -> Result<Self, ConfigError> {
        self.context.name = CacheName::new(name).ok_or_else(|| {
            ConfigError::new(
                ConfigErrorKind::Syntax,
                format!("cache name {name:?}: must be printable ASCII, not empty"),
            )
        })?;
        Ok(self)
    }

    /// By which field answers tell the caches after this one how much of their freshness is left; [`Remaining::Age`] unless
    /// set. Some caches ignore `Age`, and keep what they get from this one for its whole `max-age` once more: nginx, HAProxy,
    /// npm's client and others, listed in `docs/neighbours.md` of the repository.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, Remaining, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let behind_nginx = CacheLayer::new(cache).remaining(Remaining::AccelExpires);
    /// ```
    pub fn remaining(mut self, remaining: Remaining) -> Self {
        self.context.policy.remaining = remaining;
        self
    }
}

/// # Former names
impl CacheLayer {
    /// The former name of [`ttl_for_path`](Self::ttl_for_path).
    #[deprecated(since = "0.1.0", note = "renamed to `ttl_for_path`")]
    pub fn path(self, prefix: impl AsRef<str>, ttl: Duration) -> Self {
        self.ttl_for_path(prefix, ttl)
    }

    /// The former name of [`ttl_for_paths`](Self::ttl_for_paths).
    #[deprecated(since = "0.1.0", note = "renamed to `ttl_for_paths`")]
    pub fn paths<P: AsRef<str>>(self, rules: impl IntoIterator<Item = (P, Duration)>) -> Self {
        self.ttl_for_paths(rules)
    }

    /// The former name of [`namespace`](Self::namespace).
    #[deprecated(since = "0.1.0", note = "renamed to `namespace`")]
    pub fn space(self, namespace: impl Into<String>) -> Self {
        self.namespace(namespace)
    }

    /// The former name of [`targeted_fields`](Self::targeted_fields).
    #[deprecated(since = "0.1.0", note = "renamed to `targeted_fields`")]
    pub fn targets(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.targeted_fields(names)
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = CacheService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CacheService::new(inner, Arc::new(self.context.clone()))
    }
}
