//! The HTTP front end: a Tower layer and what it is made of.
//!
//! In the order that a request meets them, each of which knows only those below it:
//!
//! - [`layer`]: [`CacheLayer`] and its settings
//! - [`service`]: [`CacheService`], what becomes of one request: a hit in memory is answered here
//! - [`fetch`], [`lookup`]: a request whose answer is not in memory; found in the store, waited for, or loaded
//! - [`write`]: a request that may change something
//! - [`load`]: asking the application once for all requests that wait
//! - [`receive`], [`revalidate`]: a new response, and word that a stored one still holds; passed to the client, and stored
//! - [`fill`]: how a load begins, and how it ends without a response to store
//! - [`forward`]: a request that the application answers by itself
//! - [`failure`]: what a request gets while a failing application is left alone
//! - [`respond`]: an answer out of a stored response: whole, a part, or a 304
//! - [`nested`]: layers in one another's way
//! - [`select`]: which stored response a request may have
//! - [`ranges`]: ranges of what is not stored
//! - [`plan`], [`record`]: what to store of a response, and the copy of its body; [`minted`]: entity tags for what has none
//! - [`context`]: what all requests through one layer share; [`load_limit`]: how many of them may be at the application;
//!   [`range_memory`]: what is remembered of the ranges that clients ask for
//! - [`rules`]: settings for some requests; [`hints`]: what layers outside say of one
//! - [`target`]: the key of a request
//! - [`response_entry`], [`stored`]: a response as an entry, and as its metadata
//! - [`annotate`]: what the cache says about itself in a response; [`remaining_freshness`]: the same to caches that ignore `Age`
//! - [`body`], [`future`], [`oneshot`], [`origin`], [`reply`]: the types that Tower and the tasks of loads ask for

mod annotate;
mod body;
mod context;
mod failure;
mod fetch;
mod fill;
mod forward;
mod future;
mod hints;
mod layer;
mod load;
mod load_limit;
mod lookup;
mod minted;
mod nested;
mod oneshot;
mod origin;
#[cfg(feature = "unstable-parts")]
mod parts;
mod plan;
mod range_memory;
mod ranges;
mod receive;
mod record;
mod remaining_freshness;
mod reply;
mod respond;
mod response_entry;
mod revalidate;
mod rules;
mod select;
mod service;
mod stored;
mod target;
mod write;

pub use body::{BodyError, ResponseBody};
pub use future::ResponseFuture;
pub use hints::Hints;
pub use layer::CacheLayer;
#[cfg(feature = "unstable-parts")]
pub use parts::Parts;
pub use rules::{Rule, Rules};
pub use service::CacheService;
