//! Rules: settings for some of a layer's requests.
//!
//! - [`pattern`]: which paths a rule is for
//! - [`index`]: the most special rule that matches a request
//! - [`rule`]: a rule, and what it changes of a policy
//! - [`set`]: the rules of a layer, replaced as one
//! - [`effective`]: the settings that they make of a layer's

mod effective;
mod index;
mod pattern;
mod rule;
mod set;

pub(super) use effective::{Choice, RequestSettings, Ruled, RuledContexts};
pub use rule::Rule;
pub use set::Rules;
