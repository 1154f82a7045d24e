//! The HTTP front end: a Tower layer and its parts.
//!
//! The modules, from those that a request meets first to those that the others use. No two of them know each other, directly or
//! through others:
//!
//! - [`explain`]: what a layer would do with a request, and why
//! - [`query`]: [`QueryLayer`], around the cache layer: requests that are answered by their content, which [`query_body`] has
//!   read; [`ask_again`]: for an application that answers 412 where QUERY requires 304
//! - [`private`]: [`PrivateCacheLayer`], for one owner in front of a client; [`owner`]: the owner, and the credentials that
//!   distinguish the owner's requests
//! - [`layer`]: [`CacheLayer`] and its settings
//! - [`service`]: [`CacheService`], which handles one request, and answers a hit in memory
//! - [`fetch`]: a request whose answer is not in memory: found in the store, waited for, or loaded
//! - [`write`]: a request that may change something
//! - [`load`]: asking the application once for all requests that wait
//! - [`revalidate`]: a 304 that confirms a stored response
//! - [`granted_load`]: a load that may store its result: the request, the new response, and the end without one
//! - [`preferences`]: the preferences that a client sent, where the cache negotiates
//! - [`forward`]: a request that the application answers alone
//! - [`verify`]: whether the response to a hit still equals the application's response
//! - [`backing_off`]: the response during a back-off
//! - [`respond`]: an answer from a stored response: whole, a part, or a 304
//! - [`nested`]: a request that passes two layers over one cache
//! - [`encode`]: content codings of stored responses, and the choice for a request
//! - [`select`]: which stored response may answer a request
//! - [`pass_ranges`]: ranges of responses that are not stored
//! - [`alias`]: responses that answer several queries; [`variations`]: the paths that have such responses
//! - [`plan`], [`record`]: what to store of a response, and the copy of its body; [`minted`]: entity tags for responses without
//!   one
//! - [`context`]: the state that all requests through one layer share; [`range_memory`]: what the layer has learned from
//!   requests for ranges
//! - [`rules`]: settings for some requests; [`hints`]: what layers outside tell about one request
//! - [`target`]: the key of a request; [`response_key`]: the parts of such a key, without values that may be private
//! - [`response_entry`], [`stored`]: a response as an entry, and as its metadata
//! - [`coded_fields`]: the fields that differ in a content coding
//! - [`annotate`]: the cache's own fields in a response; [`remaining_freshness`]: remaining freshness for caches that ignore
//!   `Age`
//! - [`body`], [`future`], [`oneshot`], [`origin`], [`reply`]: types that Tower and the tasks of loads require

mod alias;
mod annotate;
mod ask_again;
mod asking;
mod backing_off;
mod body;
mod coded_fields;
mod context;
mod encode;
mod explain;
mod fetch;
mod forward;
mod future;
mod granted_load;
mod hints;
mod layer;
mod load;
mod minted;
mod nested;
mod oneshot;
mod origin;
mod owner;
#[cfg(feature = "unstable-parts")]
mod parts;
mod pass_ranges;
mod plan;
mod preferences;
mod private;
mod query;
mod query_body;
mod range_memory;
mod record;
mod remaining_freshness;
mod reply;
mod respond;
mod response_entry;
mod response_key;
mod revalidate;
mod rules;
mod select;
mod service;
#[cfg(all(test, feature = "memory"))]
mod sizes_tests;
mod stored;
mod target;
mod variations;
mod verify;
mod write;

pub use ask_again::AskAgain;
pub use body::{BodyError, ResponseBody};
pub use explain::{
    Explanation, KeyDetails, PlanDetails, ResponseDetails, SettingDetails, SettingOrigin, SettingsDetails,
    ValueExplanation, VariantDetails, Verdict,
};
pub use future::ResponseFuture;
pub use hints::Hints;
pub use layer::CacheLayer;
#[cfg(feature = "unstable-parts")]
pub use parts::Parts;
pub use preferences::ClientPreferences;
pub use private::PrivateCacheLayer;
pub use query::{QueryLayer, QueryService};
pub use query_body::QueryBody;
pub use response_key::ResponseKey;
pub use rules::{Rule, Rules};
pub use service::CacheService;
