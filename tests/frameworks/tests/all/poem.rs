//! poem: a Tower service behind the layer is an endpoint.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{Full, combinators::BoxBody};
use poem::{Route, endpoint::TowerCompatExt as _, test::TestClient};
use tower::{ServiceBuilder, service_fn};

use crate::{caching, settled};

/// What poem's adapter gives a service.
type Incoming = BoxBody<Bytes, std::io::Error>;

#[tokio::test]
async fn has_it_around_a_service() {
    let (cache, layer) = caching();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let service = ServiceBuilder::new().layer(layer).service(service_fn(move |_: http::Request<Incoming>| {
        let call = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move { Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(format!("answer {call}"))))) }
    }));
    let client = TestClient::new(Route::new().nest("/", service.compat()));
    for (path, x_cache, text) in [("/a", "MISS", "answer 1"), ("/a", "HIT", "answer 1"), ("/b", "MISS", "answer 2")] {
        let response = client.get(path).header("host", "shop.example").send().await;
        response.assert_header("x-cache", x_cache);
        response.assert_text(text).await;
        settled(&cache).await;
    }
}
