//! Representations in content codings: made once from a stored response, and chosen for each request.
//!
//! - [`fill`]: a load whose response is stored, and encoded
//! - [`representation`]: which representation a request gets, and its fields
//! - [`encoders`]: the running encoders, and their limit

mod encoders;
mod fill;
mod representation;

pub(super) use self::{encoders::Encoders, fill::Encoding, representation::Representation};
