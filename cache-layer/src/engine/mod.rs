//! The engine: looks keys up, lets one request load what is missing, stores what came, and invalidates. It knows keys,
//! entries, their tags and their deadlines, and nothing of what they mean.
//!
//! Each of these knows only those below it:
//!
//! - [`verify`]: whether what is fresh is still what would be loaded
//! - [`fetch`]: from a miss to the right to load, once for both front ends; waiting for another request's load
//! - [`permit`]: the right to load, its lease, and the commit
//! - [`delete_pattern`]: deletion by pattern, as it is asked for
//! - [`soft_invalidation`]: invalidation that makes stale, as it is asked for
//! - [`invalidate`]: invalidation, hard and soft
//! - [`inspect`]: what a cache has and knows, for people
//! - [`audit`]: who changed what, as operators' tools say it
//! - [`switching`]: what an operator turns off or on
//! - [`span`]: one request's lookup, and its load, as traces and observers see them
//! - [`patience`]: how long a request waits for others, and how often it asks again
//! - [`builder`]: the settings
//! - [`cache`]: the handle, and what its clones share
//! - [`flight`]: requests of this process for one key, of which one loads, in a task of its own
//! - [`in_progress`], [`growing_body`]: what other requests may have of a load before it has ended
//! - [`backoff`]: recent failures, and how long to leave the application alone after them
//! - [`load_limit`]: how many loads run at one time
//! - [`recent_keys`]: keys that it makes no sense to wait for
//! - [`verifier`]: which hits are verified
//! - [`early`]: when to refresh what is still fresh

mod audit;
pub(crate) mod backoff;
mod builder;
mod cache;
mod delete_pattern;
pub(crate) mod early;
#[cfg(all(test, feature = "memory"))]
mod elsewhere_tests;
pub(crate) mod fetch;
pub(crate) mod flight;
pub(crate) mod growing_body;
pub(crate) mod in_progress;
pub(crate) mod inspect;
mod invalidate;
pub(crate) mod load_limit;
pub(crate) mod patience;
pub(crate) mod permit;
pub(crate) mod recent_keys;
mod soft_invalidation;
pub(crate) mod span;
mod switching;
pub(crate) mod verifier;
pub(crate) mod verify;

pub(crate) use self::cache::{Reading, Retrieved};
pub use self::{
    builder::CacheBuilder,
    cache::Cache,
    delete_pattern::DeletePattern,
    inspect::{EntryDetails, InspectError, Inspected, TagChange, TagDetails},
    invalidate::InvalidateError,
    soft_invalidation::SoftInvalidation,
    switching::SwitchError,
};
