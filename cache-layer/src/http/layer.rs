//! The layer and its settings.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, StatusCode, Uri, request};
use tower_layer::Layer;

use super::{
    context::Context,
    encode::Encoders,
    hints::Hints,
    owner::Owner,
    rules::{RequestSettings, Rule, RuledContexts, Rules},
    service::CacheService,
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
    tag::Tags,
    telemetry::NoCacheReason,
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
/// Outside of what makes a response, inside of what changes it for one client: compression, CORS and request ids go around the
/// cache, and so does a check of who may ask at all. Limits that protect the application go inside, so that hits don't count.
/// `docs/middleware.md` of the repository has a row for each layer of tower-http and its neighbours.
///
/// The key of a request is its host, path and query *as this layer sees them*. Inside axum's `nest`, the path has lost its
/// prefix: two nested routers over one cache need a [`namespace`](Self::namespace) each, or the layer outside of both. With the
/// feature `axum`, keys and rules have the whole path there, as long as nothing but prefixes was taken off.
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
    pub(super) context: Context,
    /// None where it has never had any.
    rules: Option<Rules>,
}

impl CacheLayer {
    /// A layer over `cache` that keeps what the application says, and nothing else.
    pub fn new(cache: Cache) -> Self {
        Self { context: Context::new(cache), rules: None }
    }

    /// The settings that a private cache begins with.
    pub(super) fn for_private_use(cache: Cache) -> Self {
        let mut layer = Self::new(cache);
        layer.context.policy.caching = CachingPolicy::private();
        // They are between a server and the caches in front of it.
        layer.context.policy.tag_fields = Vec::new();
        layer
    }

    /// The same settings, for one owner alone.
    pub(super) fn of_owner(&self, owner: Owner) -> Self {
        Self { context: self.context.clone().of_owner(owner), rules: self.rules.clone() }
    }
}

/// # Rules
///
/// Settings for some of the requests.
impl CacheLayer {
    /// Settings for the requests of a path, and, if the [rule](Rule) says so, of a host or of some methods. Of several that match,
    /// the most special one is for a request, and what that leaves open is as the layer has it.
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
    /// If no request can match the rule, or if there is one for the same requests.
    pub fn rule(mut self, rule: Rule) -> Result<Self, ConfigError> {
        self.rules = Some(self.rules.unwrap_or_default().with(rule)?);
        Ok(self)
    }

    /// Rules that can be [replaced](Rules::replace) while requests run, in place of those before.
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
    /// without decoding, and one with dot segments is covered by no rule; a prefix without its leading slash is given one, and
    /// `{any}` in it stands for any one segment. For other settings than this one, there is [`rule`](Self::rule).
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

    /// How long a request waits, from its begin on, where a stale response may stand in for an error
    /// ([`stale_if_error`](Self::stale_if_error)): then it is answered with that, and the load goes on and is stored for later
    /// requests; without a limit unless set. It has no effect where there is no such response.
    ///
    /// It counts until the head of the new response is there, for GET, and limits every wait for it: for the application, for
    /// another request's load, for another process's, and for [room](Self::max_loads). A load that is left goes on for as long
    /// as one keeps its place, a minute or twelve [lock timeouts](crate::CacheBuilder::lock_timeout).
    ///
    /// ```
    /// use std::time::Duration;
    /// use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    ///
    /// // A page that is an hour old at most, rather than one that takes longer than a tenth of a second.
    /// let layer = CacheLayer::new(Cache::new(MemoryStore::new(64 * 1024 * 1024)))
    ///     .ttl(Duration::from_secs(60))
    ///     .stale_if_error(Duration::from_secs(3600))
    ///     .soft_timeout(Duration::from_millis(100));
    /// ```
    pub fn soft_timeout(mut self, limit: Duration) -> Self {
        self.context.policy.soft_timeout = Some(limit);
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
        self.context.policy.set_early_refresh(beta);
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

    /// Which responses to keep, of those that may be kept; all of them unless set. For what their fields say no word of
    /// `Cache-Control` about: an error that comes as 200, say (`detail=keep-if`).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cache_layer::{Cache, CacheLayer, ConfigError, Rule, store::MemoryStore};
    /// # use http::header::CACHE_CONTROL;
    /// # fn main() -> Result<(), ConfigError> {
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// // async-graphql says `Cache-Control` where there is no error, and says nothing where there is one.
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

    /// Response fields that are not stored, since they say something of one request; a name that ends in `*` is a prefix. The
    /// response to the request that loaded has them, and hits don't. [`NOT_STORED`](Self::NOT_STORED) unless set.
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

    /// The fields that are [not stored](Self::not_stored) unless others are set: ids of requests and traces, what a request took,
    /// and what is left of a client's limit.
    pub const NOT_STORED: &'static [&'static str] = OF_ONE_REQUEST;

    /// The longest body to keep, in bytes, which is also the most that is held of a response on its way; 1 MiB unless set.
    /// A longer one is passed on whole, and not kept; where several requests read one of an unknown length by then, they go on
    /// at the pace of the slowest, and as much again is held of it. A range of a response that is not stored yet is answered
    /// once the whole is there; of one that turned out to be longer, the next ranges are the application's to answer.
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.context.policy.max_body = bytes;
        self
    }

    /// Whether responses that come without `ETag` and `Last-Modified` are given a strong `ETag` of their bytes, so that clients which
    /// have them are answered with a 304, as of an API in JSON; off unless set.
    ///
    /// It is for successes that are stored, and not for what says `no-transform`. A body that streams to the client who loaded
    /// it has no tag there yet: hits have it. The application is never asked by such a tag, and knows nothing of it, so that a
    /// write with `If-Match` can't succeed by it. A layer outside that changes bodies and leaves a strong tag as it is, as
    /// tower-http's compression does, makes one tag of two representations: clients that resume an interrupted download there
    /// need it off.
    pub fn etags(mut self, minted: bool) -> Self {
        self.context.policy.etags = minted;
        self
    }

    /// In which content codings responses are kept and sent, each encoded once, the shortest first; in none unless set. It takes the
    /// place of a layer that compresses around this one, and would on every hit.
    ///
    /// ```
    /// # #[cfg(feature = "encode")] {
    /// # use cache_layer::{Cache, CacheLayer, Coding::{Brotli, Gzip, Zstd}, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let layer = CacheLayer::new(cache).encode([Zstd, Brotli, Gzip]);
    /// # }
    /// ```
    ///
    /// Text-like content that is stored is encoded when it is first wanted: by the request that loaded it, once that has its answer, or by
    /// a later one. Until that is done, and for clients that accept no coding, responses go out as the application made them. What does
    /// not shrink by a tenth stays as it is, and so does what is in a coding already, varies by `Accept-Encoding`, says
    /// `no-transform`, or has a digest of its bytes or a signature: an application that encodes itself goes on doing it.
    ///
    /// Clients have the last word, by `Accept-Encoding` and its weights (RFC 9110, section 12.5.3). Responses that could have been
    /// another say `Vary: Accept-Encoding`; a strong `ETag` is `"v"` as the application gave it, and `"v-gzip"` in gzip, and both
    /// are known when they come back. Ranges are of the representation that is sent.
    ///
    /// Each coding counts for the size of a store in memory. Settings beyond that, and what Redis keeps, are in [`Encode`].
    pub fn encode(mut self, encode: impl Into<Encode>) -> Self {
        let encode = encode.into();
        self.context.encoders = encode.most_at_once().map_or_else(Encoders::default, Encoders::at_once);
        self.context.policy.set_encode(encode);
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
    /// [`CacheBuilder::max_loads`](crate::CacheBuilder::max_loads) limits the loads of all layers over a cache, and those of
    /// values; a layer's own limit holds beside it.
    ///
    /// One request more waits, first come, first served, for [`lock_timeout`](crate::CacheBuilder::lock_timeout) at most;
    /// then it is answered with what is stale and may be used on errors, or else with 503, `Retry-After`
    /// and the detail `overloaded`. This is the one setting by which the cache turns requests away. A refresh in the
    /// background waits for nothing: if there is no room, it is left to a later request.
    pub fn max_loads(mut self, most: usize) -> Self {
        self.context.load_limit = self.context.cache.load_limit().within(most);
        self
    }
}

/// # Verification
impl CacheLayer {
    /// Which share of the hits is verified, none unless set: whether what is fresh by all that was said is still what the application
    /// would answer. It tells whether lifetimes are right, and whether all is invalidated that should be.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, Verify, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let layer = CacheLayer::new(cache).verify(0.001);
    /// // As well, and makes stale what differs:
    /// let layer = layer.verify(Verify::new(0.001).soften(true));
    /// ```
    ///
    /// Once a client has its answer, its request goes to the application in the background; status, body and some
    /// [fields](Verify::fields) of what comes are compared with what is stored, and
    /// [`Event::Verified`](crate::telemetry::Event::Verified) says whether they are the same, and of what age. Nothing of it is
    /// stored, and `Cache-Status` says nothing of it. What differs is loaded once more by a later hit, if one comes within half a minute:
    /// [`Event::VerifiedAgain`](crate::telemetry::Event::VerifiedAgain) tells what is stale from what never says the same twice.
    /// An application that answers with an error has said nothing.
    ///
    /// - Never more than this share of the hits that could be: GET, answered with a fresh 200, without `Authorization` and without
    ///   any cookie but [ignored](Self::ignore_cookies) ones. Of so many in a row one is, at random. It counts for this layer in
    ///   this process; a [rule](Rule::verify) counts for itself.
    /// - It takes room that is to spare: where [`max_loads`](Self::max_loads) is set, never the last place, and it gives way to a
    ///   request that waits for one. At most sixteen run at one time, and none for longer than a load may.
    /// - The application sees a request more, as by a refresh in the background. What a handler reads from a cache of typed values is
    ///   verified [there](crate::CacheBuilder::verify).
    pub fn verify(mut self, verify: impl Into<Verify>) -> Self {
        self.context.policy.set_verify(verify.into());
        self.context = self.context.settled();
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

    /// Cookies whose values are part of the key, and which therefore don't keep a response from being stored: those of a
    /// [rule](Rule::key_cookies) most often. None unless set.
    pub fn key_cookies<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.context.policy.cookies.keyed = names.into_iter().map(|name| name.as_ref().into()).collect();
        self
    }

    /// Cookies that make no difference to the response, such as those of analytics; a name that ends in `*` is a prefix. A
    /// request that has no others is one without cookies to the cache, in `Vary: Cookie` as well; the application still sees
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

    /// Cookies whose requests go to the application, whatever is stored, such as that of a session; a name that ends in `*` is
    /// a prefix.
    pub fn bypass_on_cookies<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.context.policy.cookies.bypass = Names::new(names.into_iter().map(Into::into));
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
        self.key_of_target(&Target::of_uri(&self.context.sites, uri)?, &HeaderMap::new())
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
        let Some(Affected { keys, tags }) = self.affected(uri) else { return Ok(false) };
        let mut result = self.context.cache.invalidate_tags(tags).await;
        for key in keys {
            // Each is to be tried, whatever became of the one before.
            result = self.context.cache.invalidate(&key).await.and(result);
        }
        result.map(|()| true)
    }

    /// As [`invalidate_uri`](Self::invalidate_uri), but makes responses stale rather than void, as
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

    /// By what everything is reached that is stored for a URI.
    fn affected(&self, uri: &Uri) -> Option<Affected> {
        let headers = HeaderMap::new();
        let target = Target::of_uri(&self.context.sites, uri)?;
        // A layer over the same cache may tell requests by their content, if this one doesn't.
        let context = Context { has_content_keys: true, ..self.context.clone() };
        Some(self.settings(context, None).affected(&target, &headers, &headers))
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
        self.key_of_target(&Target::of(&self.context.sites, uri, headers)?, headers)
    }

    fn key_of_target(&self, target: &Target<'_>, headers: &HeaderMap) -> Option<Key> {
        if self.rules.is_none() {
            return Some(target.key(&self.context.key_rules(headers)));
        }
        Some(self.settings(self.context.clone(), None).key(target, headers))
    }

    /// The settings of this layer's rules, over these.
    /// The settings for a request of which a layer outside says this.
    pub(super) fn settings(&self, context: Context, hints: Option<&Hints>) -> RequestSettings {
        let context = Arc::new(context);
        let ruled = self.rules.as_ref().map(|rules| RuledContexts::new(context.clone(), rules.clone()));
        RequestSettings::new(context, ruled.as_ref(), hints)
    }
}

/// # A way past the cache
impl CacheLayer {
    /// Whether the cache is there at all; it is unless set. Turned off, it looks nothing up, and stores nothing (`detail=off`).
    /// What is written through it still voids what is stored, so that nothing is outdated where it is on, or when it is on again.
    /// Values ([`get_or_load`](crate::Cache::get_or_load), `#[cached]`) are stored all the same; a store without room,
    /// `MemoryStore::new(0)`, keeps neither.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let layer = CacheLayer::new(cache).enabled(std::env::var_os("NO_CACHE").is_none());
    /// ```
    ///
    /// To leave the layer out altogether, writes included, is a matter for `option_layer`, for which responses have to have the
    /// same body with it and without it:
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

    /// Which requests go to the application as they are, with nothing kept of what comes (`detail=bypass-if`); none unless set.
    /// For what a layer outside finds out, there are [`Hints`](crate::Hints).
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
    /// Response fields by which the application names a response's [`Tags`](crate::Tags), beside those in its extensions:
    /// `Cache-Tag`, with commas between tags, and `Surrogate-Key`, with blanks, unless set. In other fields, commas and
    /// blanks are both between tags. None means that these fields mean nothing here, and are passed on.
    ///
    /// A response that names more than 1,024 tags, or one of more than 256 bytes, is not kept. When the application says that
    /// a stored response still holds (304), and names tags, they replace those that were named before.
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
    /// are not unless set, since they tell how an application is built.
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
        self.context.policy.voids = Voids::If(RequestPredicate::new(is_change));
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
        self.context.signature.name = CacheName::new(name).ok_or_else(|| {
            ConfigError::new(
                ConfigErrorKind::Syntax,
                format!("cache name {name:?}: must be printable ASCII, not empty"),
            )
        })?;
        Ok(self)
    }

    /// Whether responses say what the cache did for them: in `X-Cache`, `X-Cache-Age` and `Cache-Status`. They do unless set.
    /// `Age`, which other caches have to know, they have in any case.
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

    /// The field in which responses say how many seconds ago they came in; `X-Cache-Age` unless set, and `None` for none.
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
        let context = Arc::new(self.context.clone());
        let ruled = match &self.rules {
            None if !context.policy.asks_first() && !context.cache.has_switches() => None,
            rules => Some(Arc::new(RuledContexts::new(context.clone(), rules.clone().unwrap_or_default()))),
        };
        CacheService::new(inner, context, ruled)
    }
}
