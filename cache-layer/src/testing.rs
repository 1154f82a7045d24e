//! For tests of code that uses a cache: a store that misbehaves when it is told to, and says what was loaded. Time is turned by
//! a [`Clock`](crate::Clock) that is moved by hand. The [guide](crate::guide::testing) shows both.

#[doc(inline)]
pub use crate::store::TestStore;
