//! One connection to a server and the task that keeps it. Here, tracking and wire meet: commands, replies, and the server's
//! pushes in between.
//!
//! From the task down to the address:
//!
//! - [`supervisor`]: the task that keeps a connection
//! - [`connect`], [`greeting`]: making a session, and whether the server can be used
//! - [`dataset`]: which data set is behind a connection
//! - [`identify`]: whether it is the one that was here before, and what is done if not
//! - [`deliver`]: invalidations that the server must receive first
//! - [`handle`]: a connection as operations see it, and the breaker
//! - [`loss`]: whether a loss of the server was a blip
//! - [`session`]: one established connection, and what is known through it
//! - [`pushes`]: the messages that the server sends on its own
//! - [`batcher`]: look-ups that are sent together; [`gathered_leases`] and [`gathered_fills`], too, by [`gathering`] them
//! - [`context`], [`counters`]: what all connections of a store share
//! - [`shard`]: which part of the data a server has
//! - [`address`], [`sentinel`], [`endpoint`]: the server's address

pub(crate) mod address;
pub(crate) mod batcher;
#[cfg(test)]
pub(crate) mod batcher_tests;
mod connect;
pub(crate) mod context;
pub(crate) mod counters;
mod dataset;
pub(crate) mod deliver;
#[cfg(any(feature = "sentinel", feature = "cluster"))]
pub(crate) mod endpoint;
pub(crate) mod gathered_fills;
pub(crate) mod gathered_leases;
pub(crate) mod gathering;
pub(crate) mod greeting;
pub(crate) mod handle;
pub(crate) mod identify;
mod loss;
#[cfg(test)]
pub(crate) mod loss_tests;
mod pushes;
#[cfg(feature = "sentinel")]
pub(crate) mod sentinel;
#[cfg(all(test, feature = "sentinel"))]
pub(crate) mod sentinel_tests;
pub(crate) mod session;
pub(crate) mod shard;
mod supervisor;
