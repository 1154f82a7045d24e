//! How to use the library, topic by topic. Every example here is compiled, and most are run.

#[doc = include_str!("http.md")]
pub mod http {}

#[doc = include_str!("typed.md")]
pub mod typed {}

#[doc = include_str!("invalidation.md")]
pub mod invalidation {}

#[doc = include_str!("redis.md")]
pub mod redis {}

#[doc = include_str!("testing.md")]
pub mod testing {}
