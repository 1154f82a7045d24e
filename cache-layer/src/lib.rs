//! A correct, distributed HTTP cache for any Tower stack.
//!
//! [`CacheLayer`] answers requests from a [`Cache`], over a store in this process or in Redis, and asks the service behind
//! it only for what it can't answer. It never fails a request, never slows a miss, and never shows one user what was made
//! for another.
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
//!     .layer(CacheLayer::new(cache.clone()).path("/products", Duration::from_secs(60)))
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
//! The same engine keeps any other value: `Cache::get_or_load`, and `#[cached]`, which is that on a function. The module
//! `guide` leads through both, and through invalidation, Redis and tests.
//!
//! # Layout
//!
//! A request comes in through `http`, which turns it into a key and, in the end, a response into an entry; a value through
//! `typed`, which does the same. What is made from cached things is told what they are by `inherit`. `engine` looks
//! up, decides who loads, and fills; `store` keeps entries; `entry` is what is kept, and its form on the wire; `semantics`
//! holds the rules of RFC 9111 as pure functions. Each knows only those that come after it.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `memory` | yes | [`MemoryStore`](store::MemoryStore) |
//! | `redis` | yes | [`RedisStore`](store::RedisStore) and [`TieredStore`](store::TieredStore); implies `memory` |
//! | `sentinel` | no | `redis+sentinel://`: the primary is whom the sentinels name |
//! | `cluster` | no | `redis+cluster://`: a Redis Cluster |
//! | `typed` | yes | values of any type that serde knows: [`Cache::get_or_load`] and its like |
//! | `postcard` | no | a compact [`Codec`] beside JSON; implies `typed` |
//! | `macros` | no | `#[cached]`; implies `typed` |
//! | `zstd` | no | what is large is kept compressed in Redis; implies `redis` |
//! | `tls` | no | `rediss://` URLs, trusting the system's certificates, or `SSL_CERT_FILE` and `SSL_CERT_DIR` |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]
// Without a store there is nobody to use the rest.
#![cfg_attr(not(feature = "memory"), allow(dead_code))]

#[cfg(feature = "redis")]
mod bounded;
mod clock;
mod engine;
mod entry;
mod error;
// A door that only `cargo fuzz` opens: it sets `fuzzing`.
#[cfg(any(fuzzing, all(test, feature = "redis")))]
#[doc(hidden)]
pub mod fuzz;
// For readers, who see everything.
#[cfg(all(doc, feature = "macros", feature = "redis"))]
pub mod guide;
mod http;
mod inherit;
mod key;
mod pattern;
mod policy;
mod semantics;
pub mod store;
mod sync;
mod tag;
pub mod telemetry;
mod throttle;
#[cfg(feature = "typed")]
#[cfg_attr(docsrs, doc(cfg(feature = "typed")))]
mod typed;

pub use self::{
    clock::Clock,
    engine::{Cache, CacheBuilder},
    error::{ConfigError, InvalidateError},
    http::{BodyError, CacheLayer, CacheService, ResponseBody, ResponseFuture},
    key::Key,
    policy::{Freshness, Profile, Remaining, SetCookie},
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
pub use self::typed::{Codec, GetOrLoad, Loaded, Lock, Set, SetError, Stale, depends_on};
#[cfg(feature = "macros")]
#[cfg_attr(docsrs, doc(cfg(feature = "macros")))]
pub use cache_layer_macros::cached;

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
