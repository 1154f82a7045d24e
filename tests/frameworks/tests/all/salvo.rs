//! salvo: the layer as a hoop, by its adapter for Tower.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use cache_layer::{Cache, CacheLayer, Clock, store::MemoryStore};
use salvo::{
    Router, Service, handler,
    http::ReqBody,
    prelude::TowerLayerCompat as _,
    test::{ResponseExt as _, TestClient},
};

use crate::{MINUTE, caching, settled};

static CALLS: AtomicUsize = AtomicUsize::new(0);
static STALE_CALLS: AtomicUsize = AtomicUsize::new(0);

#[handler]
async fn hello() -> String {
    format!("answer {}", CALLS.fetch_add(1, Ordering::SeqCst) + 1)
}

#[handler]
async fn stale() -> String {
    format!("answer {}", STALE_CALLS.fetch_add(1, Ordering::SeqCst) + 1)
}

async fn get(service: &Service, path: &str) -> (String, String) {
    let mut response = TestClient::get(format!("http://shop.example{path}")).send(service).await;
    let x_cache = response.headers()["x-cache"].to_str().unwrap().to_owned();
    (x_cache, response.take_string().await.unwrap())
}

#[tokio::test]
async fn has_hits_and_misses() {
    let (cache, layer) = caching();
    let service = Service::new(Router::with_path("{name}").hoop(layer.compat::<ReqBody>()).get(hello));
    for (path, x_cache, text) in [("/a", "MISS", "answer 1"), ("/a", "HIT", "answer 1"), ("/b", "MISS", "answer 2")] {
        assert_eq!(get(&service, path).await, (x_cache.to_owned(), text.to_owned()), "{path}");
        settled(&cache).await;
    }
}

/// Its adapter calls inward within a request alone: so the refresh has no response, and the next request loads.
#[tokio::test]
async fn has_no_refresh_in_the_background_and_makes_up_for_it() {
    let clock = Clock::manual();
    let cache = Cache::builder(MemoryStore::new(1 << 20)).clock(clock.clone()).build();
    let layer = CacheLayer::new(cache.clone()).ttl(MINUTE).stale_while_revalidate(10 * MINUTE);
    let service = Service::new(Router::with_path("{name}").hoop(layer.compat::<ReqBody>()).get(stale));
    assert_eq!(get(&service, "/a").await.1, "answer 1");
    settled(&cache).await;
    clock.advance(MINUTE + Duration::from_secs(1));
    assert_eq!(get(&service, "/a").await, ("STALE".to_owned(), "answer 1".to_owned()));
    settled(&cache).await;
    assert_eq!(cache.counts().failed_refreshes, 1);
    assert_eq!(get(&service, "/a").await, ("MISS".to_owned(), "answer 2".to_owned()));
    settled(&cache).await;
    assert_eq!(get(&service, "/a").await, ("HIT".to_owned(), "answer 2".to_owned()));
}
