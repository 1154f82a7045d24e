//! Representations in content codings: made once from a stored response, and chosen for each request.
//!
//! - [`commit`]: a load whose response is stored, and encoded
//! - [`representation`]: which representation a request gets, and its fields
//! - [`jobs`]: the encodings under way, and their limit

mod commit;
mod jobs;
mod representation;

pub(super) use self::{commit::Encoding, jobs::Jobs, representation::Representation};
