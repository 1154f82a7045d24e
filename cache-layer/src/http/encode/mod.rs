//! Representations in content codings: made once of what is stored, and chosen for each request.
//!
//! - [`fill`]: a load whose response is stored, and encoded
//! - [`representation`]: which representation a request gets, and its fields
//! - [`encoders`]: the encoders at work, and how many there may be

mod encoders;
mod fill;
mod representation;

pub(super) use self::{
    encoders::Encoders,
    fill::Encoding,
    representation::{Representation, vary},
};
