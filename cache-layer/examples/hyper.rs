//! A cache in a Tower stack that a plain hyper server runs, without a framework.
//!
//! ```sh
//! cargo run -p cache-layer --example hyper
//! curl -i http://127.0.0.1:3000/   # X-Cache: MISS
//! curl -i http://127.0.0.1:3000/   # X-Cache: HIT
//! ```

use std::{convert::Infallible, error::Error};

use bytes::Bytes;
use cache_layer::{Cache, CacheLayer, store::MemoryStore};
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CACHE_CONTROL, HeaderValue},
    server::conn::http1,
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, service_fn};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    let service = ServiceBuilder::new().layer(CacheLayer::new(cache)).service(service_fn(answer));

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                eprintln!("{error}");
            }
        });
    }
}

/// The layer has no rule, so the response itself states how long it may be kept.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::from(format!("this is {}\n", request.uri().path())));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
    Ok(response)
}
