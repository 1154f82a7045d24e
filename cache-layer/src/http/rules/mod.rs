//! Rules: settings for some of a layer's requests.
//!
//! - [`path_pattern`]: which paths a rule is for
//! - [`index`]: the most specific rule that matches a request; [`names`]: its tables
//! - [`rule`]: a rule, and the settings that it changes
//! - [`set`]: the rules of a layer, which are replaced as a whole
//! - [`effective`]: the settings of one request, with the rules applied

mod effective;
mod index;
mod name_table;
mod path_pattern;
mod rule;
mod set;

pub(super) use effective::{Choice, RequestSettings, Ruled};
pub use rule::Rule;
pub use set::Rules;
