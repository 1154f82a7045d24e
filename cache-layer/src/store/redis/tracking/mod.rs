//! What this process knows of the server, and until when it may believe that. Tracking never sends.
//!
//! - [`tokens`]: tag tokens known to a connection, kept right by server-assisted tracking
//! - [`grants`]: leases that were granted to this process, and whether they still stand
//! - [`near`]: entries known to a connection, in the same way, for the tiered store
//! - [`waiters`]: tasks that wait for the end of another process's lease
//! - [`pending`]: invalidations that could not be delivered yet
//! - [`guard`]: whether the data set is the one that was here before

pub(crate) mod grants;
pub(crate) mod guard;
#[cfg(test)]
pub(crate) mod guard_tests;
pub(crate) mod near;
pub(crate) mod pending;
pub(crate) mod tokens;
#[cfg(test)]
pub(crate) mod tokens_tests;
pub(crate) mod waiters;
