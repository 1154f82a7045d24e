//! The HTTP front end: a Tower layer and what it is made of.
//!
//! - [`layer`]: [`CacheLayer`] and its settings
//! - [`service`]: [`CacheService`], what becomes of one request
//! - [`target`]: the key of a request
//! - [`fetch`], [`write`]: a request whose answer is not in memory, and one that may change something
//! - [`select`]: which stored response a request may have
//! - [`load`]: asking the application once for all who wait
//! - [`failure`]: what a request gets while a failing application is left alone
//! - [`ranges`]: ranges of what is not kept
//! - [`nested`]: layers in one another's way
//! - [`load_limit`]: how many may be at the application
//! - [`follow`]: having what is loaded for another request, while it is loaded
//! - [`early`]: refreshing a response before it is stale
//! - [`inherit`]: a response that inherits from what its handler read
//! - [`plan`], [`record`]: what to store of its response, and the copy of its body
//! - [`respond`]: an answer out of a stored response: whole, a part, or a 304
//! - [`stored`]: a response as an entry's metadata
//! - [`annotate`]: what the cache says about itself in a response
//! - [`remaining`]: what it says to caches that ignore `Age`
//! - [`body`], [`future`], [`oneshot`]: the types that Tower asks for

mod annotate;
mod body;
mod early;
mod failure;
mod fetch;
mod follow;
mod future;
mod inherit;
mod layer;
mod load;
mod load_limit;
mod nested;
mod oneshot;
#[cfg(feature = "unstable-parts")]
mod parts;
mod plan;
mod ranges;
mod record;
mod remaining;
mod respond;
mod select;
mod service;
mod stored;
mod target;
mod write;

pub use body::{BodyError, ResponseBody};
pub use future::ResponseFuture;
pub use layer::CacheLayer;
#[cfg(feature = "unstable-parts")]
pub use parts::Parts;
pub use service::CacheService;
