//! What a layer would do with a request, and why: asked by the functions that requests are answered by, in their order. Nothing is
//! loaded, stored or learned.
//!
//! - [`layers`]: explaining a request, by a layer
//! - [`response`]: the half that the application's response decides
//! - [`request`]: the half that the request decides
//! - [`explanation`], [`details`]: what comes of it

mod details;
mod explanation;
mod layers;
mod request;
mod response;

pub use details::{
    KeyDetails, PlanDetails, ResponseDetails, SettingDetails, SettingOrigin, SettingsDetails, VariantDetails, Verdict,
};
pub use explanation::Explanation;
