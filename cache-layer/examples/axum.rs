//! A cache in front of an axum router.
//!
//! ```sh
//! cargo run -p cache-layer --example axum
//! curl -i http://127.0.0.1:3000/products            # X-Cache: MISS
//! curl -i http://127.0.0.1:3000/products            # X-Cache: HIT
//! curl -i -X POST http://127.0.0.1:3000/products/42 # a write, which voids the list
//! curl -i http://127.0.0.1:3000/products            # X-Cache: MISS
//! ```

use std::time::Duration;

use axum::{
    Extension, Router,
    extract::State,
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use cache_layer::{Cache, CacheLayer, Tags, store::MemoryStore};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    let app = Router::new()
        .route("/products", get(list))
        .route("/products/{id}", post(change))
        .with_state(cache.clone())
        .layer(CacheLayer::new(cache).ttl_for_path("/products", Duration::from_secs(60)));

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    axum::serve(listener, app).await
}

/// Names in its tags the data that the response was made from.
async fn list() -> impl IntoResponse {
    (Extension(Tags::new(["products"])), "a long list, slowly made\n")
}

/// Invalidates what the write changed. Once this returns, no response that was made before the write is served.
async fn change(State(cache): State<Cache>) -> StatusCode {
    match cache.invalidate_tag("products").await {
        Ok(()) => StatusCode::NO_CONTENT,
        // The write itself is done: the cache delivers the rest as soon as it can.
        Err(_) => StatusCode::ACCEPTED,
    }
}
