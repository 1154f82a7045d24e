//! RFC 9111 and its companions as pure functions.
//!
//! Nothing here performs I/O, awaits, or reads a clock: fields go in, decisions come out, and time is an
//! argument. Where a specification leaves room, the stricter reading wins, so that a mistake in a response
//! costs a miss and never a wrong hit.
//!
//! # Layout
//!
//! - [`cache_control`]: the directives of `Cache-Control`, on [`delta_seconds`]
//! - [`date`]: the three date formats of HTTP
//! - [`freshness`]: how long a response is fresh, and how old it already is
//! - [`storable`]: what may be stored, and the name of every refusal
//! - [`vary`]: the request fields that select a response, on [`list`]
//! - [`hop_by_hop`]: fields that belong to one connection
//! - [`invalidation`]: what an unsafe request makes stale
//! - [`cache_status`]: saying what happened, per RFC 9211

pub(crate) mod cache_control;
pub(crate) mod cache_status;
pub(crate) mod date;
pub(crate) mod delta_seconds;
pub(crate) mod freshness;
pub(crate) mod hop_by_hop;
pub(crate) mod invalidation;
pub(crate) mod list;
pub(crate) mod storable;
pub(crate) mod vary;
