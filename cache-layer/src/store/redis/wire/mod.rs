//! The commands and replies on a connection. Wire never remembers: it has no state and no connection.
//!
//! - [`names`]: the names of keys; [`sealing`]: whether names are hidden and entries sealed
//! - [`scripts`]: the scripts on the server, and batches of commands
//! - [`replies`]: the replies that are accepted
//! - [`invalidation`], [`sweep`]: invalidation by key and tag, and by pattern; [`reclaim`]: the entries that tags have made void
//! - [`moving`]: invalidation of what moves from one server of a cluster to another
//! - [`errors`]: what an error says about the server
//! - [`operation`]: the name of a round trip in a trace
//! - [`token_life`]: how long the token of a tag is kept

pub(crate) mod errors;
pub(crate) mod invalidation;
pub(crate) mod moving;
pub(crate) mod names;
pub(crate) mod operation;
pub(crate) mod reclaim;
pub(crate) mod replies;
#[cfg(test)]
pub(crate) mod replies_tests;
pub(crate) mod sample;
pub(crate) mod scripts;
pub(crate) mod sealing;
pub(crate) mod sweep;
pub(crate) mod token_life;
