//! warp: a filter as a service.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http_body_util::BodyExt as _;
use tower::{ServiceBuilder, ServiceExt as _};
use warp::Filter as _;

use crate::{caching, settled};

#[tokio::test]
async fn fits_as_it_is() {
    let (cache, layer) = caching();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let filter = warp::path!("hello" / String).map(move |name| {
        let call = count.fetch_add(1, Ordering::SeqCst) + 1;
        format!("answer {call} to {name}")
    });
    let service = ServiceBuilder::new().layer(layer).service(warp::service(filter));
    for (path, x_cache, text) in [
        ("/hello/a", "MISS", "answer 1 to a"),
        ("/hello/a", "HIT", "answer 1 to a"),
        ("/hello/b", "MISS", "answer 2 to b"),
    ] {
        let request = http::Request::get(format!("http://shop.example{path}")).body(http_body_util::Empty::<bytes::Bytes>::new());
        let response = service.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.headers()["x-cache"], x_cache, "{path}");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), text);
        settled(&cache).await;
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}
