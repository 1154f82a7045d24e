//! For tests of code that uses a cache: a store that a test can make misbehave, and that records what was loaded. A test moves
//! time with a manual [`Clock`](crate::Clock). The [guide](crate::guide::testing) shows both.

#[doc(inline)]
pub use crate::store::TestStore;
