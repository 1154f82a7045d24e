//! RFC 9111 and its companions as pure functions.
//!
//! Nothing here performs I/O, awaits, or reads a clock: fields go in, decisions come out, and time is an
//! argument. Where a specification leaves room, the stricter reading wins, so that a mistake in a response
//! costs a miss and never a wrong hit.
//!
//! # Layout
//!
//! - [`caching_policy`]: the choices that the specifications leave to a cache
//! - [`cache_control`]: the directives of `Cache-Control`, on [`delta_seconds`]
//! - [`targeted`]: the directives that address this cache (RFC 9213), on [`structured`] fields
//! - [`date`]: the three date formats of HTTP
//! - [`received`]: a response as it arrived
//! - [`freshness`]: how long a response is fresh, and how old it already is
//! - [`stale_windows`]: how a stale response may be used, and for how long
//! - [`storable`]: what may be stored, and the name of every refusal
//! - [`vary`]: the request fields that select a response, on [`list`], [`preference`] and [`negotiated_fields`]
//! - [`encodable`]: which responses this cache may encode itself; [`accept_encoding`]: the codings that a client accepts;
//!   [`coded_tag`]: the entity tags of coded representations
//! - [`one_request`]: fields that are about one request or for one client, by [`names`]
//! - [`cookies`]: which cookies of a request make a difference
//! - [`compressed`]: content that is compressed already
//! - [`path`]: which spellings of a path are one
//! - [`query`]: the parameters of a target that make no difference, by the settings
//! - [`no_vary_search`]: the parameters that make no difference, by the response
//! - [`content_key`]: what the content of a request adds to its key (RFC 10008)
//! - [`incremental`]: messages that are to be passed on as they arrive (RFC 10036)
//! - [`reuse`]: what a request says about the stored response that it wants
//! - [`conditional`]: preconditions, a client's and the cache's own, on [`validator`]
//! - [`update`]: what a 304 and a HEAD change in a stored response
//! - [`range`]: parts of a stored response
//! - [`hop_by_hop`]: fields that belong to one connection
//! - [`invalidation`]: which responses an unsafe request invalidates
//! - [`sites`]: which schemes and hosts share stored responses
//! - [`groups`]: responses that are invalidated together (RFC 9875)
//! - [`tag_fields`]: the fields by which a response names its tags
//! - [`cache_status`]: the `Cache-Status` field (RFC 9211)

pub(crate) mod accept_encoding;
pub(crate) mod cache_control;
pub(crate) mod cache_status;
pub(crate) mod caching_policy;
pub(crate) mod coded_tag;
pub(crate) mod compressed;
pub(crate) mod conditional;
#[cfg(test)]
mod conformance;
pub(crate) mod content_key;
pub(crate) mod cookies;
pub(crate) mod date;
pub(crate) mod delta_seconds;
#[cfg(test)]
mod differential_tests;
pub(crate) mod encodable;
pub(crate) mod freshness;
pub(crate) mod groups;
pub(crate) mod hop_by_hop;
pub(crate) mod incremental;
pub(crate) mod invalidation;
pub(crate) mod list;
pub(crate) mod names;
pub(crate) mod negotiated_fields;
pub(crate) mod no_vary_search;
pub(crate) mod one_request;
pub(crate) mod path;
pub(crate) mod preference;
pub(crate) mod query;
pub(crate) mod range;
pub(crate) mod received;
pub(crate) mod reuse;
pub(crate) mod sites;
pub(crate) mod stale_windows;
pub(crate) mod storable;
pub(crate) mod structured;
pub(crate) mod tag_fields;
pub(crate) mod targeted;
#[cfg(test)]
pub(crate) mod test_fields;
pub(crate) mod update;
pub(crate) mod validator;
pub(crate) mod vary;
