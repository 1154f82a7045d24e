//! How to use the library, topic by topic. Every example here is compiled, and most are run. A page is present if its features
//! are enabled; docs.rs has all pages.

#[cfg(all(feature = "memory", feature = "typed"))]
#[doc = include_str!("http.md")]
pub mod http {}

#[doc = include_str!("neighbours.md")]
pub mod neighbours {}

#[cfg(feature = "memory")]
#[doc = include_str!("client.md")]
pub mod client {}

#[cfg(feature = "macros")]
#[doc = include_str!("typed.md")]
pub mod typed {}

#[cfg(all(feature = "redis", feature = "typed"))]
#[doc = include_str!("invalidation.md")]
pub mod invalidation {}

#[cfg(feature = "redis")]
#[doc = include_str!("redis.md")]
pub mod redis {}

#[cfg(all(feature = "memory", feature = "typed"))]
#[doc = include_str!("testing.md")]
pub mod testing {}
