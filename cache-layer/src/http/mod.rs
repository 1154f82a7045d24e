//! The HTTP front end: a Tower layer and what it is made of.
//!
//! In the order that a request meets them, each of which knows only those below it:
//!
//! - [`explain`]: what a layer would do with a request, and why
//! - [`query`]: [`QueryLayer`], around the one below: requests that are answered by their content, which [`query_body`] has
//!   read; [`ask_again`]: an application that means 304 and says 412
//! - [`private`]: [`PrivateCacheLayer`], for one owner in front of a client; [`owner`]: whose responses it keeps, and what tells
//!   two of that owner's requests apart
//! - [`layer`]: [`CacheLayer`] and its settings
//! - [`service`]: [`CacheService`], what becomes of one request: a hit in memory is answered here
//! - [`fetch`]: a request whose answer is not in memory: found in the store, waited for, or loaded
//! - [`write`]: a request that may change something
//! - [`load`]: asking the application once for all requests that wait
//! - [`revalidate`]: word that a stored response still holds
//! - [`granted_load`]: a load that may store what comes: how it asks, a new response, and how it ends without one
//! - [`preferences`]: what a client has sent, where the cache negotiates
//! - [`forward`]: a request that the application answers by itself
//! - [`verify`]: whether what answered a request is still what the application would
//! - [`failure`]: what a request gets while a failing application is left alone
//! - [`respond`]: an answer out of a stored response: whole, a part, or a 304
//! - [`nested`]: layers in one another's way
//! - [`encode`]: content codings: what makes them of a stored response, and which one a request gets
//! - [`select`]: which stored response a request may have
//! - [`ranges`]: ranges of what is not stored
//! - [`alias`]: responses that answer for more queries than their own; [`variations`]: of which paths that is known
//! - [`plan`], [`record`]: what to store of a response, and the copy of its body; [`minted`]: entity tags for what has none
//! - [`context`]: what all requests through one layer share; [`range_memory`]: what is remembered of the ranges that clients
//!   ask for
//! - [`rules`]: settings for some requests; [`hints`]: what layers outside say of one
//! - [`target`]: the key of a request
//! - [`response_entry`], [`stored`]: a response as an entry, and as its metadata
//! - [`annotate`]: what the cache says about itself in a response; [`remaining_freshness`]: the same to caches that ignore `Age`
//! - [`body`], [`future`], [`oneshot`], [`origin`], [`reply`]: the types that Tower and the tasks of loads ask for

mod alias;
mod annotate;
mod ask_again;
mod body;
mod context;
mod encode;
mod explain;
mod failure;
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
mod plan;
mod preferences;
mod private;
mod query;
mod query_body;
mod range_memory;
mod ranges;
mod record;
mod remaining_freshness;
mod reply;
mod respond;
mod response_entry;
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
    VariantDetails, Verdict,
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
pub use rules::{Rule, Rules};
pub use service::CacheService;
