//! The layer and its settings.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, Request, StatusCode, Uri, header::HOST, request};
use tower_layer::Layer;

use super::{
    context::Context,
    encode::Jobs,
    hints::Hints,
    owner::Owner,
    rules::{RequestSettings, Rule, Ruled, Rules},
    service::{CacheService, Settings},
    target::{Affected, Target},
    variations::Variations,
};
use crate::{
    clock::millis,
    engine::{Cache, InvalidateError, SoftInvalidation},
    error::{ConfigError, ConfigErrorKind},
    key::Key,
    policy::{Encode, KeepIf, NoVarySearch, Profile, Remaining, RequestPredicate, SetCookie, Vary, Verify, Voids},
    semantics::{cache_status::CacheName, caching_policy::CachingPolicy, names::Names, one_request::OF_ONE_REQUEST},
    store::Hardness,
    tag::Tags,
    telemetry::NoCacheReason,
};

/// Puts a [`Cache`] in front of a service.
///
/// A response to GET is stored when the application says for how long (`Cache-Control`, `Expires`,
/// [`Freshness`](crate::Freshness)); a successful one is also stored when a rule set here says so. Stored responses answer HEAD,
/// conditional requests and ranges, too, as RFC 9111 describes; every other request passes through untouched.
///
/// A request for a range of a response that can't be stored passes through as well: from the first request on for a client that
/// sends `Cookie` or `Authorization`, unless the application says that the response may be shared, and otherwise from the second
/// request on.
///
/// A response is never stored if it says `no-store` or `private`, sets a cookie, varies on everything, answers a request with
/// `Authorization` or other [credentials](Self::credentials) without permission to share (RFC 9111, section 3.5), is longer than
/// [`max_body`](Self::max_body), or has an incomplete body.
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
/// [`ignore_query`](Self::ignore_query) and [`max_loads`](Self::max_loads). The others follow below, by subject.
///
/// # Where to put it
///
/// Put the layer outside of the code that makes a response, and inside of the layers that change the response for one client:
/// compression, CORS, request ids and access checks go outside of the cache. Limits that protect the application go inside, so
/// that hits don't count. [The guide](crate::guide::neighbours) has
/// a row for each layer of tower-http and its neighbours for which the place matters.
///
/// The key of a request is its host, path and query *as this layer sees them*. Inside axum's `nest`, the path has lost its
/// prefix: either each of two nested routers over one cache needs a [`namespace`](Self::namespace), or the layer goes outside of
/// both. With the feature `axum`, keys and rules have the whole path there, as long as only prefixes were removed from it.
///
/// `http` and `https` are one site unless [`schemes_apart`](Self::schemes_apart) is set, and
/// [`canonical_host`](Self::canonical_host) makes two hosts one site.
///
/// A request may pass two layers over one cache: one around a router and one around a route, or one in each of two processes over
/// one Redis prefix. The outer layer stores the response by its settings, and the inner layer passes the request through
/// (`detail=nested`), so that the inner layer's rules have no effect there. To store responses in both, give each layer its own
/// namespace or prefix. Between processes, only what is on the wire arrives: tags in `Cache-Tag`, but not tags in extensions.
/// A load over Redis carries the request field `Cache-Layer-Load`, by which the inner layer recognizes it; its number is
/// valid for this load only. If a client sends that field, the layer removes and ignores it.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is put on a service"]
pub struct CacheLayer {
    pub(super) context: Context,
    /// `None` if no rule was ever set.
    rules: Option<Rules>,
}

impl CacheLayer {
    /// A layer over `cache` that stores a response only if the application says so.
    pub fn new(cache: Cache) -> Self {
        Self { context: Context::new(cache), rules: None }
    }

    /// The initial settings of a private cache.
    pub(super) fn for_private_use(cache: Cache) -> Self {
        let mut layer = Self::new(cache);
        // Only a layer of an owner is private: `with` hands these settings out.
        layer.context.policy.caching = CachingPolicy { private: false, ..CachingPolicy::private() };
        // Tag fields are between a server and the caches in front of it.
        layer.context.policy.tag_fields = Vec::new();
        layer
    }

    /// The same settings, for one owner alone.
    pub(super) fn of_owner(&self, mut owner: Owner) -> Self {
        owner.add_credentials(self.context.policy.caching.credentials.iter().cloned());
        Self { context: self.context.clone().of_owner(owner), rules: self.rules.clone() }
    }
}

/// # Rules
///
/// Settings for some of the requests.
impl CacheLayer {
    /// Adds settings for the requests to a path, and, if the [rule](Rule) says so, only to one host or by some methods. Of
    /// several rules that match a request, the most specific one applies; where it sets nothing, the layer's own settings
    /// apply.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cache_layer::{Cache, CacheLayer, ConfigError, Rule, store::MemoryStore};
    /// # fn main() -> Result<(), ConfigError> {
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    /// let layer = CacheLayer::new(cache)
    ///     .rule(Rule::prefix("/shops").ttl(minute).stale_while_revalidate(minute))?
    ///     .rule(Rule::path("/shops/{id}/orders").ttl(second))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If no request can match the rule, or if there already is a rule for the same requests.
    pub fn rule(mut self, rule: Rule) -> Result<Self, ConfigError> {
        self.rules = Some(self.rules.unwrap_or_default().with(rule)?);
        Ok(self)
    }

    /// Sets rules that can be [replaced](Rules::replace) while requests run, in place of all rules set before.
    pub fn rules(mut self, rules: Rules) -> Self {
        self.rules = Some(rules);
        self
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
    /// [`ttl_for_path`](Self::ttl_for_path) is set, such responses are not kept. Zero means that they are not kept, for stale use
    /// either.
    ///
    /// Set it only if these responses are the same for all clients. A response to a request with a `Cookie` is not kept by
    /// this setting alone.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.context.policy.set_ttl(ttl);
        self
    }

    /// As [`ttl`](Self::ttl), for the path `prefix` and all paths below it, by whole segments: `/a` covers `/a/b` and not
    /// `/ab`. The longest matching prefix decides; zero means that its responses are not kept. A path that the application may
    /// read as another one, as with dot segments or `%61`, is kept by no setting like this one, nor by [`ttl`](Self::ttl). A
    /// prefix without a leading slash gets one, and `{any}` in it stands for any one segment. A warning says if a prefix is one
    /// that no request can have, which a rule would be refused for: for this and for other settings, use [`rule`](Self::rule).
    pub fn ttl_for_path(mut self, prefix: impl AsRef<str>, ttl: Duration) -> Self {
        let prefix = prefix.as_ref();
        if let Err(error) = Rules::new([Rule::prefix(format!("/{}", prefix.trim_matches('/')))]) {
            tracing::warn!(%error, "ttl_for_path({prefix:?}) is for no request");
        }
        self.context.policy.add_path(prefix, ttl);
        self
    }

    /// Several [`ttl_for_path`](Self::ttl_for_path) rules.
    pub fn ttl_for_paths<P: AsRef<str>>(self, rules: impl IntoIterator<Item = (P, Duration)>) -> Self {
        rules.into_iter().fold(self, |layer, (prefix, ttl)| layer.ttl_for_path(prefix, ttl))
    }

    /// How long to keep responses with this status, such as 404, that state no freshness of their own; not at all unless
    /// set, or if it is zero. [`stale_while_revalidate`](Self::stale_while_revalidate) and
    /// [`stale_if_error`](Self::stale_if_error) apply to them, too.
    pub fn negative_ttl(mut self, status: StatusCode, ttl: Duration) -> Self {
        self.context.policy.caching.negative_ttl.insert(status.as_u16(), millis(ttl));
        self
    }

    /// The longest that any response is fresh, whatever it says; without a limit unless set. With zero, nothing is stored.
    pub fn ttl_cap(mut self, cap: Duration) -> Self {
        self.context.policy.caching.ttl_cap = Some(millis(cap));
        self
    }

    /// Shortens every freshness at random by up to this share of what is left of it on arrival, 0 to 100 per cent, so that
    /// responses that were stored together do not expire together; 0 unless set.
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
    /// 5.2.1). Off in the safe profile, since any client could make requests bypass the cache; `no-store` is always honoured.
    pub fn request_directives(mut self, honoured: bool) -> Self {
        self.context.policy.caching.request_directives = honoured;
        self
    }
}

/// # Staleness and failures
///
/// When stale responses are used: while they are refreshed, and in place of an error.
impl CacheLayer {
    /// `stale-while-revalidate` for responses that have none (RFC 5861, section 3); none unless set.
    ///
    /// If the response to a background refresh could not be stored, the next request refreshes in the foreground. That request
    /// gets the stale response if the application fails, or takes longer than the [lock
    /// timeout](crate::CacheBuilder::lock_timeout). After a 500, 502, 503 or 504, refreshes stay in the background, one in each
    /// [back-off](Self::failure_backoff): an application that is down delays no request for what is there.
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.context.policy.caching.default_stale_while_revalidate = millis(window);
        self
    }

    /// `stale-if-error` for responses that have none (RFC 5861, section 4); none unless set.
    ///
    /// A later response that is not stored, such as a 404, does not take the stored one from other requests: that may still replace
    /// an error. A write to its URI, or an [invalidation](crate::guide::invalidation), does.
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.context.policy.caching.default_stale_if_error = millis(window);
        self
    }

    /// Whether `stale-while-revalidate` and `stale-if-error` stay in force in a response that also has `s-maxage`. By RFC 9111,
    /// section 5.2.2.10, `s-maxage` forbids all stale use; off unless set.
    pub fn s_maxage_permits_stale(mut self, permits: bool) -> Self {
        self.context.policy.caching.s_maxage_permits_stale = permits;
        self
    }

    /// How long a request waits, from its start, if a stale response may stand in for an error
    /// ([`stale_if_error`](Self::stale_if_error)). After that, the request is answered with the stale response, and the load
    /// continues and is stored for later requests. Without a limit unless set; without effect if there is no such response.
    ///
    /// The time counts until the head of the new response arrives, for GET, and limits every wait for it: for the application,
    /// for another request's load, for another process's load, and for a [place](Self::max_loads). The load continues for as
    /// long as a load may keep its place: a minute or twelve [lock timeouts](crate::CacheBuilder::lock_timeout). In a [private
    /// cache](crate::PrivateCacheLayer), cookies of a response that comes later reach no request.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    ///
    /// // Rather a page that is up to an hour old than one that takes longer than a tenth of a second.
    /// let layer = CacheLayer::new(Cache::new(MemoryStore::new(64 * 1024 * 1024)))
    ///     .ttl(Duration::from_secs(60))
    ///     .stale_if_error(Duration::from_secs(3600))
    ///     .soft_timeout(Duration::from_millis(100));
    /// ```
    pub fn soft_timeout(mut self, limit: Duration) -> Self {
        self.context.policy.soft_timeout = Some(limit);
        self
    }

    /// Refreshes responses in the background before they are stale, so that no request ever waits for a frequently requested
    /// response; off unless set. Each GET that is answered from the cache decides by chance whether to refresh (XFetch). The
    /// probability rises as the remaining freshness shrinks, and with the duration of the last load. It is above zero only in the
    /// last fifth of a freshness of a second or more. If several requests decide to refresh, one request in the fleet does.
    ///
    /// `beta` sets how early: at 1, a refresh most often begins a few load durations before the end of freshness; a higher value
    /// is earlier, for loads whose duration varies. Zero, a negative number or NaN turns it off. The
    /// application gets requests for responses that are still fresh, as it gets requests for stale ones with
    /// `stale-while-revalidate`.
    pub fn early_refresh(mut self, beta: f32) -> Self {
        self.context.policy.set_early_refresh(beta);
        self
    }

    /// How long the back-off after a failed load lasts, in all processes with the same store: `first` after one failure of
    /// a key, doubled with each further failure, `longest` at most, and a fifth more or less at random; 1 s and 30 s unless
    /// set. Zero turns it off.
    ///
    /// A failure is an error of the service, or a 500, 502, 503 or 504, in answer to a request without `Authorization` and
    /// `Cookie`; in a [private cache](crate::PrivateCacheLayer), in answer to any request, for those with the same credentials.
    /// During the back-off, a stale response that may stand in for an error is used without asking the application. A request
    /// without such a response still goes to the application, unless [`share_failures`](Self::share_failures) is set. A success
    /// ends the back-off, and so does an invalidation of the key.
    pub fn failure_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.context.policy.failure_backoff = (first, longest);
        self
    }

    /// Whether requests for a key are refused during its back-off ([`failure_backoff`](Self::failure_backoff)) if no stale
    /// response may answer them: with the status of the failure, 502 if there was no response, and `Retry-After`. Off unless
    /// set; a shared cache never refuses requests with `Authorization` or `Cookie`.
    pub fn share_failures(mut self, on: bool) -> Self {
        self.context.policy.share_failures = on;
        self
    }
}

/// # What is stored
impl CacheLayer {
    /// Sets all choices that RFC 9111 leaves to a cache from a profile; [`Profile::Safe`] unless set. Call it before the setters
    /// below: it overwrites such choices that were made before.
    pub fn profile(mut self, profile: Profile) -> Self {
        let caching = &mut self.context.policy.caching;
        // What has credentials is no choice that a specification leaves to a cache.
        let credentials = std::mem::take(&mut caching.credentials);
        *caching = CachingPolicy { credentials, ..CachingPolicy::of(profile) };
        self
    }

    /// More request fields with credentials, in addition to `Authorization`: a response to a request that has one of them is stored
    /// only if it says `public`, `s-maxage` or `must-revalidate` (RFC 9111, section 3.5; `detail=authorization`). Not needed if a
    /// layer outside of the cache checks the credentials of each request, hits included, and all allowed clients may see the same
    /// responses.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let api_key = http::HeaderName::from_static("x-api-key");
    /// let layer = CacheLayer::new(cache).ttl(Duration::from_secs(60)).credentials([api_key]);
    /// ```
    ///
    /// Requests with such a field are treated as those with `Authorization` in all else, too: failures of theirs are not shared,
    /// and their hits are not [verified](Self::verify).
    pub fn credentials(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.context.policy.caching.credentials = names.into_iter().collect();
        self
    }

    /// Which of the storable responses to store; all of them unless set. For properties that no `Cache-Control` expresses,
    /// such as an error that is sent with status 200 (`detail=keep-if`).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cache_layer::{Cache, CacheLayer, ConfigError, Rule, store::MemoryStore};
    /// # use http::header::CACHE_CONTROL;
    /// # fn main() -> Result<(), ConfigError> {
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// // async-graphql sends `Cache-Control` with a result, and omits it with an error.
    /// let graphql = Rule::path("/graphql").ttl_cap(Duration::from_secs(60));
    /// let graphql = graphql.keep_if(|_, headers| headers.contains_key(CACHE_CONTROL));
    /// let layer = CacheLayer::new(cache).rule(graphql)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn keep_if(mut self, keeps: impl Fn(StatusCode, &HeaderMap) -> bool + Send + Sync + 'static) -> Self {
        self.context.policy.keep_if = Some(KeepIf::new(keeps));
        self
    }

    /// Response fields that are not stored, since they describe one request; a name that ends in `*` is a prefix. The
    /// client whose request loaded gets them, unless it is answered from the stored response: after a 304, or because it asked
    /// for a range or had a precondition. Hits don't have them. [`NOT_STORED`](Self::NOT_STORED) unless set.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let and_mine = CacheLayer::NOT_STORED.iter().copied().chain(["x-served-by"]);
    /// let layer = CacheLayer::new(cache).not_stored(and_mine);
    /// ```
    pub fn not_stored<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(|name| name.as_ref().to_ascii_lowercase());
        self.context.policy.not_stored = Names::new(names);
        self
    }

    /// The fields that are [not stored](Self::not_stored) unless others are set: ids of requests and traces, timings of a
    /// request, and the state of a client's rate limit.
    pub const NOT_STORED: &'static [&'static str] = OF_ONE_REQUEST;

    /// The longest body to store, in bytes; 1 MiB unless set. It is also the most that is buffered of a response in transit.
    ///
    /// A longer body is passed on whole, and not stored. If several requests already read a body of unknown length when it
    /// exceeds the limit, they continue at the pace of the slowest, and up to the same amount again is buffered. A range of a
    /// response that is not stored yet is answered once the whole body has arrived; after a body turned out to be too long, the
    /// application answers the following requests for ranges.
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.context.policy.max_body = bytes;
        self
    }

    /// Whether the cache adds a strong `ETag`, computed from the body, to responses that have neither `ETag` nor `Last-Modified`,
    /// such as those of a JSON API, so that clients can validate them with a 304; off unless set.
    ///
    /// Only successful responses that are stored get one, and none that says `no-transform`. When a body streams to the client
    /// whose request loaded it, its tag is not known yet: only hits have it. The application never sees such a tag in a
    /// validation, and does not know it, so a write with `If-Match` can't succeed by it. If a layer outside changes bodies but
    /// leaves strong tags as they are, as tower-http's compression does, two representations share one tag: leave this off if
    /// clients resume interrupted downloads there.
    pub fn etags(mut self, minted: bool) -> Self {
        self.context.policy.etags = minted;
        self
    }

    /// The content codings that responses are kept and sent in, each encoded once; none unless set. Name the coding with the
    /// shortest results first. This replaces a compression layer around this one, which would compress on every hit.
    ///
    /// ```
    /// # #[cfg(feature = "encode")] {
    /// # use cache_layer::{Cache, CacheLayer, Coding::{Brotli, Gzip, Zstd}, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let layer = CacheLayer::new(cache).encode([Zstd, Brotli, Gzip]);
    /// # }
    /// ```
    ///
    /// Stored text-like content is encoded in a coding when a client of a hit first accepts that coding, after that client has its
    /// answer; over Redis, and if it takes the place of a stale response, when it is stored. Until the coded form exists, and for
    /// clients that accept no coding, responses go out as the application made them. A response is left as it is if it does not
    /// shrink by a tenth, is in a coding already, varies by `Accept-Encoding`, says `no-transform`, or has a signature or a
    /// digest of its bytes. So an application that encodes responses itself continues to do so.
    ///
    /// The weights in `Accept-Encoding` decide first (RFC 9110, section 12.5.3); for equal weights, the order of this list
    /// does. A response that another client could get in another coding says `Vary: Accept-Encoding`. If the application's
    /// strong `ETag` is `"v"`, the response in gzip has `"v-cl~gzip"`, and the cache understands both in conditional requests.
    /// Ranges are of the representation that is sent.
    ///
    /// Each coding counts towards the size of a store in memory. [`Encode`] has more settings, and says what Redis keeps.
    pub fn encode(mut self, encode: impl Into<Encode>) -> Self {
        let encode = encode.into();
        self.context.encoding_jobs = encode.most_at_once().map_or_else(Jobs::default, Jobs::at_once);
        self.context.policy.set_encode(encode);
        self
    }

    /// The most variants of one URI to keep; 64 unless set, at least 1. When one more is stored, the former ones are dropped.
    /// Each adds eight bytes to the entry that leads to all of them, which is read first.
    pub fn max_variants(mut self, variants: u16) -> Self {
        self.context.policy.max_variants = variants.max(1);
        self
    }

    /// What happens to responses that set a cookie; [`SetCookie::Refuse`] in the safe profile.
    pub fn set_cookie(mut self, choice: SetCookie) -> Self {
        self.context.policy.caching.set_cookie = choice;
        self
    }

    /// The fields that address this cache rather than all caches, the most specific first (RFC 9213); none in the safe
    /// profile. `CDN-Cache-Control` is meant for a CDN in front, which has its own purges and does not know of this cache.
    pub fn targeted_fields(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.context.policy.caching.targets = names.into_iter().collect();
        self
    }

    /// Whether a response inherits from the typed values that its handler reads from the cache: it gets the tags of all of them,
    /// and is fresh no longer than any of them. A response that states no freshness, and for which there is no rule, is kept
    /// until the first of these values expires. Off unless set.
    ///
    /// The reads that count are those in the handler's own task until it returns a response. Reads while a body streams, in
    /// tasks that the handler spawns, or in a handler behind a `Buffer`, are not seen.
    #[cfg(feature = "typed")]
    pub fn inherit(mut self, inherits: bool) -> Self {
        self.context.policy.inherits = inherits;
        self
    }
}

/// # Load on the application
impl CacheLayer {
    /// The most requests that the application has to answer at one time because the cache could not, at least 1; without a
    /// limit unless set. It protects an application that depends on its cache when the cache is lost.
    ///
    /// Each of these takes a *place*: a load, from its request until its body is complete, and a request that goes to the
    /// application alone, because the store does not answer or the wait for another load took too long, until the head of its
    /// response arrives. A load that no request waits for any more gives its place to a request that needs one. Places are
    /// counted in this process, over all services made with this layer or its clones. Requests that the cache could not have
    /// answered anyway need no place: writes, and requests that are passed through or known not to be cacheable.
    ///
    /// [`CacheBuilder::max_loads`](crate::CacheBuilder::max_loads) limits the loads of all layers over a cache together with
    /// those of values; a layer's own limit applies in addition. A request within a load that has a place needs none at the same
    /// limit. Where loads send requests through another layer of this process that has a limit of its own, they do wait for a
    /// place there, and hold that of the cache meanwhile: let the cache have the lower limit, or none.
    ///
    /// When all places are taken, a request waits, first come, first served, for
    /// [`lock_timeout`](crate::CacheBuilder::lock_timeout) at most. Then it is answered with a stale response that may be used on
    /// errors, or else with 503, `Retry-After` and the detail `overloaded`. No other setting but
    /// [`share_failures`](Self::share_failures) makes the cache refuse requests. A background refresh does not wait: if no place
    /// is free, it is left to a later request.
    pub fn max_loads(mut self, most: usize) -> Self {
        self.context.load_limit = self.context.cache.load_limit().within(most);
        self
    }
}

/// # Verification
impl CacheLayer {
    /// The share of the hits that is verified, none unless set: the cache compares a fresh response with the application's
    /// present response. The result shows whether lifetimes are right, and whether the application forgets an invalidation.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, Verify, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let layer = CacheLayer::new(cache).verify(0.001);
    /// // The same, and a response that differs becomes stale:
    /// let layer = layer.verify(Verify::new(0.001).soften(true));
    /// ```
    ///
    /// After a client has been answered, its request goes to the application in the background. The status, the body and some
    /// [fields](Verify::fields) of that response are compared with the stored ones, and
    /// [`Event::Verified`](crate::telemetry::Event::Verified) says whether they are the same, and how old the stored response
    /// is. The new response is not stored, and `Cache-Status` does not mention the verification. If the two differ, the next
    /// hit within half a minute loads once more: [`Event::VerifiedAgain`](crate::telemetry::Event::VerifiedAgain) distinguishes
    /// a stale response from one that is different each time. Nothing is compared if the stored response was invalidated or
    /// replaced meanwhile, or if the answer is not one that a load would store in its place: an error of the moment (408, 425,
    /// 429 or 5xx), or a response that says `no-store`, sets a cookie, or is made from something stale. A 301, 308, 404 or 410
    /// is compared in any case, and so is content that has become too long.
    ///
    /// - For a share of `1/n`, one hit at random out of every `n` in a row is drawn. It is verified if it is a GET that was answered
    ///   with a fresh 200, without `Authorization` and without cookies other than [ignored](Self::ignore_cookies) ones. A
    ///   response that an invalidation [over a while](crate::SoftInvalidation::over) makes stale in its turn is not verified. The
    ///   share is of this layer's hits in this process; a [rule](Rule::verify) with a share counts its own hits. While an
    ///   operator's [switch](crate::Switch::VerificationRate) is on, its rate takes the place of this one and of each rule's.
    /// - Verification uses spare capacity only: where [`max_loads`](Self::max_loads) is set, it never takes the last place, and
    ///   gives its place to a request that waits for one. At most sixteen of a layer, with all its rules, run at one time, and
    ///   none for longer than a load may.
    /// - The application gets one more request, as with a background refresh. Values that a handler reads from a cache are
    ///   verified [there](crate::CacheBuilder::verify).
    /// - A layer further in, in this process, asks the application as well. In another process over the same store, it answers with
    ///   the stored response, which never differs from itself: let the innermost layer verify.
    pub fn verify(mut self, verify: impl Into<Verify>) -> Self {
        self.context.policy.set_verify(verify.into());
        self.context = self.context.settled();
        self
    }
}

/// # Keys
///
/// Which requests share one stored response.
impl CacheLayer {
    /// The beginning of the keys of all requests through this layer; nothing unless set. Layers over one cache or over one Redis
    /// prefix need different namespaces if the same host and path mean different things to them.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.context.namespace = namespace.into();
        self
    }

    /// Whether `http` and `https` are two sites, with responses of their own; they are one site unless set, and the ports 80 and
    /// 443 are left out of keys.
    ///
    /// A server rarely knows the scheme of a request. HTTP/2 states it; HTTP/1.1 states it only in the absolute form, and
    /// a proxy that terminates TLS in front of the server states it only in fields that any client can set. So a write by HTTP/2
    /// invalidates responses to HTTP/1.1 as well, and a `Location`, or a URI that is passed to [`key`](Self::key), may have the
    /// scheme that clients see. A redirect from one scheme to the other, to the same path, is passed on and not stored
    /// ([`RedirectToItself`](crate::telemetry::NoCacheReason::RedirectToItself)).
    ///
    /// Set this if the two schemes get different responses, and make sure that a request's URI has its scheme before it reaches
    /// this layer: a URI without a scheme counts as `http`.
    pub fn schemes_apart(mut self, apart: bool) -> Self {
        self.context.sites.tell_schemes_apart(apart);
        self
    }

    /// Treats requests for the host `alias` as requests for `host`: they share stored responses, and a write to one invalidates
    /// both. The same holds for `alias` in a `Location`, in [`key`](Self::key) and in groups (RFC 9875). Keys, and with them
    /// [patterns](Cache::delete_pattern), have the name of `host`. No aliases unless set.
    ///
    /// Use it only for hosts with the same responses. A redirect from one to the other, to the same path, is passed on and not
    /// stored.
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
    /// If one of them is not a host (with its port, if that is neither 80 nor 443); if both are the same host, also through
    /// other aliases; or if `alias` already is an alias of another host.
    pub fn canonical_host(mut self, alias: &str, host: &str) -> Result<Self, ConfigError> {
        self.context.sites.add_host_alias(alias, host).map_err(|reason| {
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

    /// Whether responses may state which queries they answer, with `No-Vary-Search`, and which statements are honoured
    /// ([`NoVarySearch`]); unless set, the field is passed on and has no effect here.
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

    /// Request fields that are part of the key, for fields that the application reads but does not name in `Vary`.
    pub fn key_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.context.policy.key_headers = names.into_iter().collect();
        self
    }

    /// Which requests get the same variant of a response that varies; [`Vary::safe`] in the safe profile. All
    /// layers over one cache need the same setting.
    pub fn vary(mut self, vary: Vary) -> Self {
        self.context.policy.caching.normalization = vary.into_normalization();
        self
    }

    /// Cookies whose values are part of the key, so that they don't prevent a response from being stored; most often set in a
    /// [rule](Rule::key_cookies). None unless set.
    pub fn key_cookies<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.context.policy.cookies.keyed = names.into_iter().map(|name| name.as_ref().into()).collect();
        self
    }

    /// Cookies that make no difference to the response, such as those of analytics; a name that ends in `*` is a prefix. To the
    /// cache, a request that only has such cookies has none, in `Vary: Cookie` as well; the application still sees
    /// them. None unless set.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let layer = CacheLayer::new(cache).ignore_cookies(["_ga*", "_gid", "consent"]).bypass_on_cookies(["session"]);
    /// ```
    pub fn ignore_cookies<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.context.policy.cookies.ignored = Names::new(names);
        self
    }

    /// Cookies, such as a session cookie, that make a request go to the application whatever is stored; a name that ends in `*`
    /// is a prefix. None unless set.
    pub fn bypass_on_cookies<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.context.policy.cookies.bypass = Names::new(names.into_iter().map(Into::into));
        self
    }

    /// The key under which this layer stores the response for an absolute URI, for
    /// [`Cache::invalidate`](crate::Cache::invalidate); `None` for a URI without a host. The URI's scheme makes no difference
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
        self.key_of_target(&Target::of_uri(&self.context.sites, uri)?, &HeaderMap::new())
    }

    /// Invalidates every response that is stored for an absolute URI, whatever its key: also those for other
    /// [`key_headers`](Self::key_headers), and those to [QUERY](Self::query) with any content. Returns `false` for a URI
    /// without a host, for which nothing can be stored. A write that succeeds does the same for its own target. If responses
    /// have such keys, one in 4096 of those for other targets is invalidated with them.
    ///
    /// # Errors
    ///
    /// As for [`Cache::invalidate`].
    pub async fn invalidate_uri(&self, uri: &Uri) -> Result<bool, InvalidateError> {
        let Some(Affected { keys, tags }) = self.affected(uri) else { return Ok(false) };
        self.context.cache.run_on_uri(&Tags::new(tags), &keys, Hardness::Hard).await?;
        Ok(true)
    }

    /// As [`invalidate_uri`](Self::invalidate_uri), but makes responses stale rather than unusable, as
    /// [`Cache::soft_invalidate`] does, at once or over a window.
    ///
    /// # Errors
    ///
    /// As for [`Cache::invalidate`].
    pub fn soft_invalidate_uri(&self, uri: &Uri) -> SoftInvalidation<bool> {
        let affected = self.affected(uri);
        let known = affected.is_some();
        let Affected { keys, tags } = affected.unwrap_or_default();
        self.context.cache.soft_invalidate_uri(Tags::new(tags), keys, known)
    }

    /// The keys and tags that reach everything stored for a URI.
    fn affected(&self, uri: &Uri) -> Option<Affected> {
        let headers = HeaderMap::new();
        let target = Target::of_uri(&self.context.sites, uri)?;
        // Another layer over the same cache may have content in its keys, even if this one has not.
        let context = Context { has_content_keys: true, ..self.context.clone() };
        Some(self.settings(context, None).affected(&target, &headers, &headers))
    }

    /// The key under which this layer stores the response to a request with this URI and these fields. It is for handlers,
    /// whose request URI is often a path only, with the host in `Host`. `None` if URI and fields don't clearly state the host.
    /// The URI may differ from that of the handler's request; it has to be as this layer sees it, before a
    /// [nested](Self#where-to-put-it) router removes its prefix.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # use http::{Uri, request::Parts};
    /// async fn restock(parts: Parts, cache: Cache, layer: CacheLayer) -> Result<(), cache_layer::InvalidateError> {
    ///     // … and then, invalidate what it changed on the request's own site:
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
        self.key_of_target(&Target::of(&self.context.sites, uri, headers)?, headers)
    }

    /// The absolute URI that a request was sent to, for [`invalidate_uri`](Self::invalidate_uri): with the path that the client has
    /// sent, also inside a [nested](Self#where-to-put-it) router. `None` if the request doesn't clearly state its host.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # let layer = CacheLayer::new(Cache::new(MemoryStore::new(1 << 20)));
    /// let request = http::Request::get("/products?page=2").header("host", "shop.example").body(()).unwrap();
    /// assert_eq!(layer.uri_of(&request).unwrap(), "http://shop.example/products?page=2");
    /// ```
    #[must_use]
    pub fn uri_of<B>(&self, request: &Request<B>) -> Option<Uri> {
        let target = Target::of_request(&self.context.sites, request)?;
        let uri = request.uri();
        let host = || request.headers().get(HOST)?.to_str().ok();
        let authority = uri.authority().map(|authority| authority.as_str()).or_else(host)?;
        let scheme = uri.scheme_str().unwrap_or("http");
        Uri::builder().scheme(scheme).authority(authority).path_and_query(target.path_and_query()).build().ok()
    }

    fn key_of_target(&self, target: &Target<'_>, headers: &HeaderMap) -> Option<Key> {
        if self.rules.is_none() {
            return Some(target.key(&self.context.key_rules(headers)));
        }
        Some(self.settings(self.context.clone(), None).key(target, headers))
    }

    /// The settings for a request with these hints: those of the rule that applies, over those in `context`.
    pub(super) fn settings(&self, context: Context, hints: Option<&Hints>) -> RequestSettings {
        let context = Arc::new(context);
        let ruled = self.rules.as_ref().map(|rules| Ruled::new(context.clone(), Some(rules.clone())));
        RequestSettings::new(context, ruled, hints)
    }
}

/// # A way past the cache
impl CacheLayer {
    /// Whether the cache is on; it is unless set. When off, the layer looks nothing up, and stores nothing (`detail=off`).
    /// Writes through it still invalidate stored responses, so that they are not outdated in processes where the cache is on, or
    /// once it is on again. Values ([`get_or_load`](crate::Cache::get_or_load), `#[cached]`) are not affected; a store of size
    /// zero, `MemoryStore::new(0)`, keeps neither responses nor values.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let layer = CacheLayer::new(cache).enabled(std::env::var_os("NO_CACHE").is_none());
    /// ```
    ///
    /// To leave the layer out altogether, so that writes invalidate nothing either, use `option_layer`. It requires the same body
    /// type with and without the layer:
    ///
    /// ```
    /// # use axum::{Router, body::Body, http::Response, routing::get};
    /// # use cache_layer::{Cache, CacheLayer, ResponseBody, store::MemoryStore};
    /// # use tower::{ServiceBuilder, util::option_layer};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let layer = std::env::var_os("NO_CACHE").is_none().then(|| {
    ///     ServiceBuilder::new()
    ///         .map_response(|response: Response<ResponseBody<Body>>| response.map(Body::new))
    ///         .layer(CacheLayer::new(cache))
    /// });
    /// let app: Router = Router::new().route("/", get(async || "hello")).layer(option_layer(layer));
    /// ```
    pub fn enabled(mut self, on: bool) -> Self {
        self.context.policy.bypass = (!on).then_some(NoCacheReason::Off);
        self
    }

    /// Which requests go to the application unchanged, with responses that are not stored (`detail=bypass-if`); none unless set.
    /// If a layer outside decides, it can use [`Hints`](crate::Hints) instead.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let layer = CacheLayer::new(cache).bypass_if(|request| request.headers.contains_key("x-preview"));
    /// ```
    pub fn bypass_if(mut self, bypasses: impl Fn(&request::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.context.policy.bypass_if = Some(RequestPredicate::new(bypasses));
        self.context = self.context.settled();
        self
    }
}

/// # Tags and invalidation
impl CacheLayer {
    /// Response fields by which the application names a response's [`Tags`](crate::Tags), in addition to those in its extensions:
    /// `Cache-Tag`, with commas between tags, and `Surrogate-Key`, with blanks, unless set. In other fields, both commas and
    /// blanks separate tags. With an empty list, these fields have no effect here, and are passed on.
    ///
    /// A response that names more than 1,024 tags, or a tag of more than 256 bytes, is not stored. If a 304 names tags, they
    /// replace the tags of the stored response that it confirms.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let layer = CacheLayer::new(cache).tag_fields([http::HeaderName::from_static("x-product-tags")]);
    /// ```
    pub fn tag_fields(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.context.policy.set_tag_fields(names);
        self
    }

    /// Whether [`tag_fields`](Self::tag_fields) are passed on to clients, for another cache on the way that reads them; they
    /// are not unless set, since they reveal how an application is built.
    pub fn pass_tag_fields(mut self, pass: bool) -> Self {
        self.context.policy.pass_tag_fields = pass;
        self
    }

    /// The tag that this layer gives to responses of the cache group `group` (RFC 9875) of the origin of `uri`, for
    /// [`Cache::invalidate_tag`](crate::Cache::invalidate_tag); `None` for a URI without a host.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # async fn example() -> Result<(), cache_layer::InvalidateError> {
    /// # let cache = Cache::new(MemoryStore::new(1 << 20));
    /// let layer = CacheLayer::new(cache.clone());
    /// let origin = http::Uri::from_static("https://shop.example/");
    /// if let Some(tag) = layer.group_tag(&origin, "prices") {
    ///     cache.invalidate_tag(&tag).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn group_tag(&self, uri: &Uri, group: &str) -> Option<String> {
        Target::of_uri(&self.context.sites, uri).map(|target| self.context.group_tag(&target, group))
    }

    /// Which requests with unsafe methods count as writes, and so invalidate once they are answered; all of them unless set. It
    /// is for applications that read by POST, as GraphQL does: each invalidation costs a round trip to the store.
    ///
    /// A request that does not count as a write invalidates nothing: neither its own target, nor the URIs and groups that its
    /// response names in `Location`, `Content-Location` or `Cache-Group-Invalidation`. gRPC calls, recognized by the
    /// `Content-Type` of both request and response, never invalidate, since they have no resources that GET could read.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(1 << 20));
    /// let layer = CacheLayer::new(cache).voids(|request| request.uri.path() != "/graphql");
    /// ```
    pub fn voids(mut self, is_change: impl Fn(&request::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.context.policy.voids = Voids::If(RequestPredicate::new(is_change));
        self
    }
}

/// # What the cache says about itself
impl CacheLayer {
    /// The name of this cache in `Cache-Status`, by which clients distinguish several caches on the way; `cache-layer`
    /// unless set.
    ///
    /// # Errors
    ///
    /// If `name` is empty, or has characters other than printable ASCII.
    pub fn name(mut self, name: &str) -> Result<Self, ConfigError> {
        self.context.signature.name = CacheName::new(name).ok_or_else(|| {
            ConfigError::new(
                ConfigErrorKind::Syntax,
                format!("cache name {name:?}: must be printable ASCII, not empty"),
            )
        })?;
        Ok(self)
    }

    /// Whether responses say what the cache did, in `X-Cache`, `X-Cache-Age` and `Cache-Status`; they do unless set.
    /// They always have `Age`, which other caches need.
    pub fn announce(mut self, announces: bool) -> Self {
        if announces == self.context.signature.is_silent() {
            self.context.signature.fields_mut().silent = !announces;
        }
        self
    }

    /// The field in which responses say `HIT`, `MISS` and so on; `X-Cache` unless set, and `None` for none.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # use http::HeaderName;
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// // Behind a CDN that has an `X-Cache` of its own.
    /// let layer = CacheLayer::new(cache).x_cache_field(HeaderName::from_static("x-app-cache")).x_cache_age_field(None);
    /// ```
    pub fn x_cache_field(mut self, name: impl Into<Option<HeaderName>>) -> Self {
        self.context.signature.fields_mut().x_cache = name.into();
        self
    }

    /// The field in which responses say how many seconds ago this cache received them; `X-Cache-Age` unless set, and `None` for
    /// none.
    pub fn x_cache_age_field(mut self, name: impl Into<Option<HeaderName>>) -> Self {
        self.context.signature.fields_mut().x_cache_age = name.into();
        self
    }

    /// The field in which responses say what the cache did, and why, by RFC 9211; `Cache-Status` unless set, and `None` for
    /// none.
    pub fn cache_status_field(mut self, name: impl Into<Option<HeaderName>>) -> Self {
        self.context.signature.fields_mut().cache_status = name.into();
        self
    }

    /// The field by which responses tell the caches in front of this one their remaining freshness; [`Remaining::Age`] unless
    /// set. Some caches ignore `Age`, and keep a response from this cache for its whole `max-age` once more: nginx, HAProxy,
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
        let context = Arc::new(self.context.clone().knowing_what_it_asks());
        let settings = match &self.rules {
            None if !context.policy.asks_first() && context.verifier.is_none() && !context.cache.has_switches() => {
                Settings::Plain(context)
            }
            rules => Settings::Ruled(Ruled::new(context, rules.clone())),
        };
        CacheService::new(inner, settings)
    }
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use http::Method;

    use super::*;
    use crate::{policy::Policy, store::MemoryStore};

    /// As no default is.
    const LIFETIME: Duration = Duration::from_secs(7);

    /// The settings for a request.
    fn effective(layer: &CacheLayer) -> Policy {
        let uri = Uri::from_static("http://shop.example/a");
        let target = Target::of_uri(&layer.context.sites, &uri).unwrap();
        layer.settings(layer.context.clone(), None).context(&target, &Method::GET).policy.clone()
    }

    /// Each setting by its name, as a rule has it and as a layer has it.
    macro_rules! settings {
        ($($(#[$when:meta])? $name:ident($($value:expr),*)),* $(,)?) => {
            [$($(#[$when])? (
                stringify!($name),
                (|rule| rule.$name($($value),*)) as fn(Rule) -> Rule,
                (|layer| layer.$name($($value),*)) as fn(CacheLayer) -> CacheLayer,
            )),*]
        };
    }

    #[test]
    fn a_rule_sets_what_the_layer_sets_by_the_same_name() {
        let layer = || CacheLayer::new(Cache::new(MemoryStore::new(1 << 20)));
        let shown = |layer: &CacheLayer| format!("{:?}", effective(layer));
        let mut seen = vec![shown(&layer())];
        for (name, by_rule, by_layer) in settings![
            verify(0.5),
            ttl(LIFETIME),
            ttl_cap(LIFETIME),
            negative_ttl(StatusCode::NOT_FOUND, LIFETIME),
            stale_while_revalidate(LIFETIME),
            stale_if_error(LIFETIME),
            soft_timeout(LIFETIME),
            early_refresh(1.5),
            max_body(7),
            #[cfg(feature = "typed")]
            inherit(true),
            etags(true),
            #[cfg(feature = "encode-gzip")]
            encode("gzip".parse::<Encode>().unwrap()),
            keep_if(|_, _| true),
            key_headers([HeaderName::from_static("x-a")]),
            key_cookies(["a"]),
            ignore_query(["a"]),
            ignore_cookies(["a"]),
            bypass_on_cookies(["a"]),
        ] {
            let ruled = shown(&layer().rule(by_rule(Rule::path("/a"))).unwrap());
            assert_eq!(ruled, shown(&by_layer(layer())), "{name}");
            assert!(!seen.contains(&ruled), "{name} sets nothing of its own");
            seen.push(ruled);
        }
    }
}
