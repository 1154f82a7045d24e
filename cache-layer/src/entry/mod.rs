//! The entry: its contents, its deadlines, and its envelope in Redis.
//!
//! - [`contents`]: the entry itself
//! - [`codings`]: its payload in content codings; [`representations`]: which forms of the payload are present
//! - [`deadlines`]: until when it may be used for which purpose
//! - [`version`]: how the states of a key are distinguished
//! - [`weight`]: how much memory an entry takes
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
pub(crate) use self::{
    codings::Form,
    contents::{Entry, EntryHead},
    deadlines::{Deadlines, Use},
    version::{EntryId, Version},
};
#[cfg(feature = "redis")]
pub(crate) use self::{compression::Compression, version::SoftMark};
