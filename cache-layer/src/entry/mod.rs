//! What is stored: an entry, its deadlines, and its envelope on the wire.
//!
//! - [`contents`]: the entry itself
//! - [`codings`]: its payload in content codings; [`representations`]: what is there of it
//! - [`deadlines`]: until when it serves which purpose
//! - [`version`]: what tells one state of a key from another
//! - [`weight`]: what an entry takes in memory
//! - `envelope`: an entry as bytes, on `compression`; `seal`: the same, encrypted

mod codings;
#[cfg(feature = "redis")]
mod compression;
#[cfg(all(test, feature = "zstd"))]
mod compression_tests;
mod contents;
mod deadlines;
#[cfg(feature = "redis")]
pub(crate) mod envelope;
mod representations;
#[cfg(feature = "sealed")]
mod seal;
mod version;
pub(crate) mod weight;

#[cfg(feature = "sealed")]
pub use self::seal::KeyRing;
#[cfg(feature = "redis")]
pub(crate) use self::version::SoftMark;
pub(crate) use self::{
    codings::Form,
    contents::{Entry, EntryHead},
    deadlines::Deadlines,
    version::{EntryId, Version},
};
