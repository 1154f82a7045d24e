//! For tests of code that uses a cache: a store that a test can make misbehave, and that records what was loaded. A test moves
//! time with a manual [`Clock`](crate::Clock). The [guide](crate::guide::testing) shows both.

use crate::Cache;

#[doc(inline)]
pub use crate::store::TestStore;

/// Returns once the hits of this cache are [verified](crate::Verify) that came until now: [`drain`](Cache::drain) does not wait for
/// that.
///
/// ```
/// use std::{convert::Infallible, time::Duration};
/// use cache_layer::{Cache, store::MemoryStore, testing::verified};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let cache = Cache::builder(MemoryStore::new(1 << 20)).verify(1.0).build();
/// for _ in 0..2 {
///     cache.get_or_load("k", async || Ok::<_, Infallible>(1)).await.unwrap();
///     assert!(cache.drain(Duration::from_secs(5)).await);
/// }
/// verified(&cache).await;
/// assert_eq!(cache.counts().verified, 1);
/// # }
/// ```
pub async fn verified(cache: &Cache) {
    cache.verifications_ended().await;
}
