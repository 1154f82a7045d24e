//! Explains what a layer would do with a request, and why, by the same functions as an actual request, in the same order.
//! Nothing is loaded, stored or learned.
//!
//! - [`layers`]: the public methods of the layers
//! - [`response`]: the half that the application's response decides
//! - [`request`]: the half that the request decides
//! - [`value`]: a call for a value
//! - [`explanation`], [`details`]: the result

mod details;
mod explanation;
mod layers;
mod request;
mod response;
mod value;

pub use details::{
    KeyDetails, PlanDetails, ResponseDetails, SettingDetails, SettingOrigin, SettingsDetails, VariantDetails, Verdict,
};
pub use explanation::Explanation;
pub use value::ValueExplanation;
