//! The engine: looks keys up, lets one request load a missing entry, stores the result, and invalidates. It handles keys,
//! entries, their tags and their deadlines, and does not know what they mean.
//!
//! Each module knows only modules below it in this list:
//!
//! - [`verify`]: whether a fresh entry is still what a load would return
//! - [`miss`]: from a miss to the right to load, for both front ends; waiting for another request's load
//! - [`early_lease`]: the right to store what a write answers
//! - [`permit`]: the right to load, its lease, and the commit
//! - [`delete_pattern`]: the call that deletes by pattern
//! - [`soft_invalidation`]: the calls that make entries stale
//! - [`invalidate`]: invalidation, hard and soft
//! - [`inspect`]: what a cache has and knows, for operators
//! - [`warm`]: fetches the entries of other processes' hot keys before there are requests; [`hot_list`]: the lists of those keys
//! - [`audit`]: a record of who changed what, written by operators' tools
//! - [`requests`]: requests of operators' tools that one process of the fleet carries out
//! - [`switching`]: the switches that an operator turns on for a while
//! - [`span`]: one request's look-up, and its load, as traces and observers see them
//! - [`patience`]: how long a request waits for other loads, and how often it asks again
//! - [`builder`]: the settings
//! - [`hot`]: the keys that are hit most
//! - [`cache`]: the handle, and the state that its clones share
//! - [`flight`]: requests of this process for one key, of which one loads, in a task of its own
//! - [`in_progress`], [`growing_body`]: the part of a load that other requests may use before it has ended
//! - [`backoff`]: recent failures, and how long the back-off after them lasts
//! - [`doorkeeper`]: which keys were loaded before
//! - [`enclosing`]: the loads that some code is part of
//! - [`load_limit`]: how many loads run at one time
//! - [`recent_keys`]: keys whose loads are not worth waiting for
//! - [`verifier`]: which hits are verified
//! - [`early`]: when to refresh a fresh entry

mod audit;
pub(crate) mod backoff;
mod builder;
mod cache;
mod delete_pattern;
mod doorkeeper;
pub(crate) mod early;
pub(crate) mod early_lease;
#[cfg(all(test, feature = "memory"))]
mod elsewhere_tests;
pub(crate) mod enclosing;
pub(crate) mod flight;
pub(crate) mod growing_body;
mod hot;
pub(crate) mod hot_list;
pub(crate) mod in_progress;
pub(crate) mod inspect;
mod invalidate;
pub(crate) mod load_limit;
pub(crate) mod miss;
pub(crate) mod patience;
pub(crate) mod permit;
pub(crate) mod recent_keys;
mod requests;
mod soft_invalidation;
pub(crate) mod span;
mod switching;
pub(crate) mod verifier;
pub(crate) mod verify;
mod warm;

pub(crate) use self::cache::{Reading, Retrieved};
pub use self::{
    builder::CacheBuilder,
    cache::Cache,
    delete_pattern::DeletePattern,
    inspect::{EntryDetails, InspectError, Inspected, TagChange, TagDetails},
    invalidate::InvalidateError,
    soft_invalidation::SoftInvalidation,
    switching::SwitchError,
    warm::{HotKey, Warmed},
};
