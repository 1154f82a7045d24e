//! What this process knows of the server, and until when it may believe it. Tracking never sends.
//!
//! - [`tracked`]: values that were read and are known until the server pushes a change, for the next three
//! - [`tag_tracker`]: the tokens of tags, as a connection last read them
//! - [`claims`]: leases that look-ups took for the loads that will follow
//! - [`fresh_keys`]: which look-ups take them
//! - [`lease_tracker`]: leases that were granted to this process, and whether they still stand
//! - [`local_tier`]: entries as connections last read them: the first tier of a tiered store
//! - [`waiters`]: tasks that wait for the end of another process's lease
//! - [`server_clock`]: the server's clock, by which freshness is judged
//! - [`outbox`]: invalidations that could not be delivered yet
//! - [`dataset_guard`]: the policy for a data set that may be older than an invalidation, and the invalidations to replay on it

pub(crate) mod claims;
pub(crate) mod dataset_guard;
#[cfg(test)]
pub(crate) mod dataset_guard_tests;
pub(crate) mod fresh_keys;
pub(crate) mod lease_tracker;
pub(crate) mod local_tier;
pub(crate) mod outbox;
pub(crate) mod server_clock;
pub(crate) mod tag_tracker;
#[cfg(test)]
pub(crate) mod tag_tracker_tests;
mod tracked;
#[cfg(test)]
mod tracked_tests;
pub(crate) mod waiters;
#[cfg(test)]
mod waiters_tests;
