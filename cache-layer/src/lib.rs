//! A correct, distributed HTTP cache for any Tower stack.
//!
//! [`CacheLayer`] answers requests from a [`Cache`], whose store is in this process or in Redis, and calls the service behind
//! it only for responses that are not stored. No failure of the store fails a request, no user sees another one's response, and a
//! miss takes little longer: the body streams to the client while it is recorded. Over Redis, a miss waits for a look-up and for
//! the right to load, half a millisecond or so on a local network, or for a timeout of 50 ms if Redis does not answer.
//!
//! ```
//! use std::time::Duration;
//! use cache_layer::{Cache, CacheLayer, Tags, store::MemoryStore};
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
//! let service = ServiceBuilder::new()
//!     .layer(CacheLayer::new(cache.clone()).ttl_for_path("/products", Duration::from_secs(60)))
//!     .service(service_fn(async |_: Request<Full<bytes::Bytes>>| {
//!         let mut response = Response::new(Full::from("[…]"));
//!         response.extensions_mut().insert(Tags::new(["products"]));
//!         Ok::<_, std::convert::Infallible>(response)
//!     }));
//!
//! let get = || Request::get("http://shop.example/products").body(Full::default()).unwrap();
//! assert_eq!(service.clone().oneshot(get()).await?.headers()["x-cache"], "MISS");
//! assert_eq!(service.clone().oneshot(get()).await?.headers()["x-cache"], "HIT");
//!
//! cache.invalidate_tag("products").await?;
//! assert_eq!(service.clone().oneshot(get()).await?.headers()["x-cache"], "MISS");
//! # Ok(())
//! # }
//! ```
//!
//! The same engine stores any other value: `Cache::get_or_load`, or `#[cached]` on a function. The module
//! [`guide`](https://docs.rs/cache-layer/latest/cache_layer/guide/) describes both, and rules, invalidation, Redis and tests.
//!
//! In front of a client, for one owner, a [`PrivateCacheLayer`] keeps responses that no shared cache may keep.
//!
//! # Features
//!
//! `cargo add cache-layer` is for a cache in memory; `cargo add cache-layer --features redis` for a cache that a fleet shares.
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `memory` | yes | [`MemoryStore`](store::MemoryStore) |
//! | `redis` | no | `store::RedisStore` and `store::TieredStore`; implies `memory` |
//! | `sentinel` | no | `redis+sentinel://`: the primary that the sentinels name |
//! | `cluster` | no | `redis+cluster://`: a Redis Cluster |
//! | `typed` | yes | values of any type that serde can serialize: [`Cache::get_or_load`] and the like |
//! | `axum` | no | keys and rules see the whole path of a request inside axum's nested routers; observers learn the route of each look-up |
//! | `otel` | no | `otel::Metrics`: the cache's events as OpenTelemetry metrics |
//! | `postcard` | no | a compact [codec](https://docs.rs/cache-layer/latest/cache_layer/codec/struct.Postcard.html) beside JSON; implies `typed` |
//! | `macros` | no | `#[cached]`; implies `typed` |
//! | `sealed` | no | entries in Redis are encrypted, and names hidden: `RedisStoreBuilder::sealed_with`; implies `redis` |
//! | `testing` | no | [`testing::TestStore`](https://docs.rs/cache-layer/latest/cache_layer/testing/): a store for tests that can be made slow, unreachable, forgetful, or reordering; implies `memory` |
//! | `zstd` | no | large entries are compressed in Redis; implies `redis` |
//! | `encode` | no | [`CacheLayer::encode`]: responses are kept in `zstd`, `br` and `gzip`, each encoded once; `encode-zstd`, `encode-br` and `encode-gzip` add one coding each |
//! | `tls` | no | `rediss://` URLs, trusting the system's certificates, or `SSL_CERT_FILE` and `SSL_CERT_DIR` |

// Layout. Two front ends turn a call into a key, and its result into an entry: `http` for requests and responses, `typed` for
// values. `inherit` records which entries a result is made from. `engine` looks entries up, decides which call loads, and
// stores results; `store` keeps entries; `entry` defines an entry and its binary form; `semantics` has the rules of RFC 9111 as
// pure functions. Each module imports only modules that come later in this list.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]
// Without a store, most of the crate is unused.
#![cfg_attr(not(feature = "memory"), allow(dead_code))]
// Without a coding, `Coding` is an empty enum.
#![cfg_attr(
    not(any(feature = "encode-zstd", feature = "encode-br", feature = "encode-gzip")),
    allow(clippy::empty_enums, unreachable_code, unreachable_patterns, unused_mut, unused_variables)
)]

#[cfg(any(feature = "memory", feature = "redis"))]
mod ban;
#[cfg(feature = "redis")]
mod bounded;
mod clock;
#[cfg(feature = "typed")]
#[cfg_attr(docsrs, doc(cfg(feature = "typed")))]
pub mod codec;
mod coding;
mod engine;
mod entry;
mod error;
// Public for `cargo fuzz` only, which sets `fuzzing`.
#[cfg(any(fuzzing, all(test, feature = "redis")))]
#[doc(hidden)]
pub mod fuzz;
// Documentation only.
#[cfg(doc)]
pub mod guide;
mod hex;
mod http;
mod inherit;
mod key;
mod labels;
#[cfg(feature = "otel")]
#[cfg_attr(docsrs, doc(cfg(feature = "otel")))]
pub mod otel;
mod pattern;
mod policy;
mod ramp;
mod semantics;
mod space_saving;
pub mod store;
mod switches;
mod sync;
mod tag;
mod tag_state;
pub mod telemetry;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
mod throttle;
#[cfg(feature = "typed")]
#[cfg_attr(docsrs, doc(cfg(feature = "typed")))]
mod typed;

pub use self::{
    clock::Clock,
    coding::Coding,
    engine::{
        Cache, CacheBuilder, DeletePattern, EntryDetails, HotKey, InspectError, Inspected, InvalidateError,
        SoftInvalidation, SwitchError, TagChange, TagDetails, Warmed,
    },
    error::{ConfigError, ConfigErrorKind},
    http::{
        AskAgain, BodyError, CacheLayer, CacheService, ClientPreferences, Explanation, Hints, KeyDetails, PlanDetails,
        PrivateCacheLayer, QueryBody, QueryLayer, QueryService, ResponseBody, ResponseDetails, ResponseFuture,
        ResponseKey, Rule, Rules, SettingDetails, SettingOrigin, SettingsDetails, ValueExplanation, VariantDetails,
        Verdict,
    },
    key::Key,
    policy::{Encode, Freshness, NoVarySearch, Profile, Remaining, SetCookie, Vary, Verify},
    switches::Switch,
    tag::Tags,
};

#[cfg(feature = "unstable-parts")]
#[doc(hidden)]
pub use self::http::Parts;
#[cfg(feature = "macros")]
#[doc(hidden)]
pub use self::typed::attribute as __cached;
#[cfg(feature = "macros")]
#[cfg_attr(docsrs, doc(cfg(feature = "macros")))]
pub use self::typed::unordered;
#[cfg(feature = "typed")]
pub use self::typed::{GetOrLoad, GetOrLoadMany, Loaded, Lock, Set, SetError, Stale, depends_on};
#[cfg(feature = "macros")]
#[cfg_attr(docsrs, doc(cfg(feature = "macros")))]
pub use cache_layer_macros::cached;

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
