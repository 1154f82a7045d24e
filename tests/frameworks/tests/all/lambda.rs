//! lambda_http: the events of a function URL.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use lambda_http::{
    Adapter, Body, Request, Response,
    lambda_runtime::{Context, LambdaEvent},
    request::LambdaRequest,
    service_fn,
};
use serde_json::json;
use tower::{Service as _, ServiceBuilder};

use crate::{caching, settled};

fn event(method: &str, path: &str) -> LambdaEvent<LambdaRequest> {
    let event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": { "host": "shop.example", "accept": "text/plain" },
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "shop",
            "domainName": "shop.example",
            "domainPrefix": "shop",
            "http": {
                "method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "test",
            },
            "requestId": "id",
            "routeKey": "$default",
            "stage": "$default",
            "time": "29/Nov/2026:06:00:00 +0000",
            "timeEpoch": 1_795_932_000_000_u64,
        },
        "isBase64Encoded": false,
    });
    LambdaEvent::new(serde_json::from_value(event).expect("an event of a function URL"), Context::default())
}

#[tokio::test]
async fn fits_as_it_is() {
    let (cache, layer) = caching();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let service = ServiceBuilder::new().layer(layer).service(service_fn(move |_: Request| {
        let call = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move { Ok::<_, Infallible>(Response::new(Body::from(format!("answer {call}")))) }
    }));
    let mut adapter = Adapter::from(service);
    for (method, path, x_cache, calls_then) in [
        ("GET", "/a", "MISS", 1),
        ("GET", "/a", "HIT", 1),
        ("GET", "/b", "MISS", 2),
        ("HEAD", "/a", "HIT", 2),
        ("POST", "/a", "BYPASS", 3),
        ("GET", "/a", "MISS", 4),
    ] {
        let answer = serde_json::to_value(adapter.call(event(method, path)).await.unwrap()).unwrap();
        settled(&cache).await;
        assert_eq!(answer["headers"]["x-cache"], x_cache, "{method} {path}: {answer}");
        assert_eq!(calls.load(Ordering::SeqCst), calls_then, "{method} {path}");
    }
    let answer = serde_json::to_value(adapter.call(event("GET", "/b")).await.unwrap()).unwrap();
    assert_eq!(answer["body"], "answer 2");
}
