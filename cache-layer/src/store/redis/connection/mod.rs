//! One connection to a server and the task that keeps it. This is where tracking and wire meet: what is sent, what comes
//! back, and what the server pushes in between.
//!
//! - [`address`], [`sentinel`]: where the server is
//! - [`greeting`]: whether it can be used
//! - [`shard`]: which part of the keys it has
//! - [`link`]: the connection, its keeper, and the breaker
//! - [`batcher`]: look-ups on their way, sent together
//! - [`counters`]: what happened over the connections so far

pub(crate) mod address;
pub(crate) mod greeting;
pub(crate) mod link;
#[cfg(test)]
pub(crate) mod loss_tests;
pub(crate) mod batcher;
#[cfg(test)]
pub(crate) mod batcher_tests;
#[cfg(feature = "sentinel")]
pub(crate) mod sentinel;
#[cfg(all(test, feature = "sentinel"))]
pub(crate) mod sentinel_tests;
pub(crate) mod shard;
pub(crate) mod counters;
