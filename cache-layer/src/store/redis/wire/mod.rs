//! What is said on a connection. Wire never remembers: there is no state here, and no connection.
//!
//! - [`names`]: what the keys are called; [`sealing`]: whether they are hidden, and entries sealed
//! - [`scripts`]: what runs on the server, and how commands go out together
//! - [`replies`]: what the server may answer
//! - [`invalidation`], [`sweep`]: what makes entries invalid, by key and tag, and by pattern
//! - [`errors`]: what an error says about the server
//! - [`operation`]: what a round trip is called in a trace
//! - [`token_life`]: for how long the token of a tag is kept

pub(crate) mod errors;
pub(crate) mod invalidation;
pub(crate) mod names;
pub(crate) mod operation;
pub(crate) mod replies;
#[cfg(test)]
pub(crate) mod replies_tests;
pub(crate) mod sample;
pub(crate) mod scripts;
pub(crate) mod sealing;
pub(crate) mod sweep;
pub(crate) mod token_life;
