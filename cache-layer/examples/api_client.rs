//! A program that calls an API repeatedly, and downloads only what has changed: reqwest behind a private cache.
//!
//! ```sh
//! cargo run -p cache-layer --example api_client                                  # an API of its own, on loopback
//! cargo run -p cache-layer --example api_client -- http://api.example/v1/rates   # another one; TOKEN is its bearer token
//! ```
//!
//! For `https`, reqwest needs its feature `default-tls`, which this example is built without.

use std::{env, error::Error, net::Ipv4Addr, time::Duration};

use axum::{
    Router,
    extract::Request as Asked,
    response::{IntoResponse, Response as Answer},
    routing::get,
};
use cache_layer::PrivateCacheLayer;
use http::{
    HeaderMap, Request, Response, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL, ETAG, IF_NONE_MATCH},
};
use http_body_util::BodyExt as _;
use reqwest::{Body, Client, redirect::Policy};
use tokio::{net::TcpListener, time::sleep};
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = match env::args().nth(1) {
        Some(url) => url,
        None => an_api().await?,
    };
    let token = env::var("TOKEN").unwrap_or_else(|_| "alice".to_owned());

    // The cache has to see each response, so the client must not follow redirects.
    let inner = Client::builder().redirect(Policy::none()).timeout(Duration::from_secs(10)).build()?;
    // If the server has an error or can't be reached, use rates that are up to a day old.
    let day = Duration::from_secs(86_400);
    let layer = PrivateCacheLayer::in_memory(16 << 20).with(|settings| settings.stale_if_error(day));
    let client = ServiceBuilder::new().layer(layer.clone()).service(service_fn(move |request: Request<Body>| {
        let inner = inner.clone();
        async move { Ok::<_, reqwest::Error>(Response::from(inner.execute(request.try_into()?).await?)) }
    }));

    for _ in 0..5 {
        let request = Request::get(&url).header(AUTHORIZATION, format!("Bearer {token}")).body(Body::default())?;
        let response = client.clone().oneshot(request).await?;
        let (status, what) = (response.status(), response.headers().get("cache-status").cloned());
        let body = response.into_body().collect().await?.to_bytes();
        println!("{status} {} bytes  {}", body.len(), what.as_ref().map_or("", |what| what.to_str().unwrap_or("")));
        sleep(Duration::from_millis(800)).await;
    }
    // When the user logs out, drop what is stored.
    layer.forget().await?;
    Ok(())
}

/// Serves rates to authenticated clients, fresh for a second.
async fn an_api() -> Result<String, Box<dyn Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("http://{}/v1/rates", listener.local_addr()?);
    let rates = async |headers: HeaderMap, request: Asked| -> Answer {
        if !headers.contains_key(AUTHORIZATION) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        println!("  the server is asked: {} {}", request.method(), request.uri().path());
        let fields = [(CACHE_CONTROL, "private, max-age=1"), (ETAG, "\"1\"")];
        match headers.get(IF_NONE_MATCH) {
            Some(known) if known == "\"1\"" => (StatusCode::NOT_MODIFIED, fields).into_response(),
            _ => (fields, r#"{"EUR":1.0,"USD":1.08}"#).into_response(),
        }
    };
    let api = Router::new().route("/v1/rates", get(rates));
    tokio::spawn(async move { axum::serve(listener, api).await });
    Ok(url)
}
