//! Rows of `guide::neighbours` that need crates which nothing else here does: one file for each of them.

mod files;
mod graphql;
mod grpc;
mod lambda;
mod poem;
mod salvo;
mod warp;

use std::time::Duration;

use cache_layer::{Cache, CacheLayer, store::MemoryStore};

const MINUTE: Duration = Duration::from_secs(60);

/// A cache, and a layer over it that keeps what says nothing for a minute.
fn caching() -> (Cache, CacheLayer) {
    let cache = Cache::new(MemoryStore::new(1 << 20));
    (cache.clone(), CacheLayer::new(cache).ttl(MINUTE))
}

/// Waits until nothing is being loaded or stored any more.
async fn settled(cache: &Cache) {
    assert!(cache.drain(MINUTE).await, "loads are still under way");
}
