//! Representations in content codings: made once from a stored response, and chosen for each request.
//!
//! - [`commit`]: a load whose response is stored, and encoded
//! - [`representation`]: which representation a request gets, and its fields
//! - [`encoders`]: the running encoders, and their limit

mod commit;
mod encoders;
mod representation;

pub(super) use self::{commit::Encoding, encoders::Encoders, representation::Representation};
