//! Stores: where entries are kept. Every store keeps the same contract, and the same tests check each of them against it.
//!
//! A fill works under a *lease*: `acquire` takes the lease, and `commit` compares it and writes. An invalidation takes the lease
//! away, or leaves a newer token that the comparison finds. So a load that began before an invalidation can't overwrite what was
//! written after it, on any node: the lock saves work, and the comparison keeps the promise.
//! | store | entries live | shared by |
//! |---|---|---|
//! | [`MemoryStore`] | in this process | its clones |
//! | [`RedisStore`] | in Redis | every process with the same server and prefix |
//! | [`TieredStore`] | in Redis, and here what is read often | as above |

mod contract;
#[cfg(all(test, feature = "redis"))]
mod contract_tests;
#[cfg(all(test, feature = "memory"))]
mod cost_tests;
#[cfg(feature = "memory")]
mod entry_cache;
#[cfg(feature = "redis")]
mod lease_token;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "memory")]
mod recent_invalidations;
#[cfg(feature = "redis")]
mod redis;
mod sweeps;
#[cfg(feature = "testing")]
mod test_store;
#[cfg(feature = "redis")]
mod tiered;

#[cfg(feature = "memory")]
pub use entry_cache::Eviction;
#[cfg(feature = "memory")]
pub use memory::MemoryStore;
#[cfg(feature = "redis")]
pub use redis::{Breaker, ClockOffset, Push, RedisState, RedisStatus, RedisStore, RedisStoreBuilder, Restored};
#[cfg(feature = "testing")]
#[doc(hidden)]
pub use test_store::TestStore;
#[cfg(feature = "redis")]
pub use tiered::TieredStore;

#[cfg(feature = "sealed")]
#[cfg_attr(docsrs, doc(cfg(feature = "sealed")))]
pub use crate::entry::KeyRing;
pub(crate) use contract::*;
pub use contract::{Estimate, LeaseHolder, LeaseState, ListedPattern, ListedPatterns, Reserved, Store};
#[cfg(feature = "redis")]
pub(crate) use lease_token::LeaseTokens;
pub(crate) use sweeps::{Sweep, SweepListener};
#[cfg(any(feature = "memory", feature = "redis"))]
pub(crate) use sweeps::{SweepListeners, Swept};
