//! The handler behind every cache, and the server around it. The crate of the rivals has this file as well.

use std::{convert::Infallible, io, sync::LazyLock, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, header},
    response::Response,
    serve::ListenerExt as _,
};
use bytes::Bytes;
use mimalloc::MiMalloc;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;
use tower::{Service, make::Shared};

/// The service's own.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Bytes to answer with: a slice of these.
static BODY: [u8; 1 << 20] = [b'x'; 1 << 20];

/// A page of products, which shrinks as such do; asked for by the query `page`.
static PAGE: LazyLock<Bytes> = LazyLock::new(|| {
    let product = |id: usize| {
        format!(
            r#"{{"id":{id},"name":"Product {id}","description":"A product of the category {}, number {id}","price":"{}.{:02}","stock":{},"rating":{}.{},"currency":"EUR"}}"#,
            ["books", "clothing", "electronics"][id % 3],
            5 + id * 37 % 500,
            id * 49 % 100,
            id * 10,
            id % 5,
            id * 7 % 10,
        )
    };
    format!("[{}]", (1..=22).map(product).collect::<Vec<_>>().join(",")).into()
});

pub(crate) fn body(query: Option<&str>) -> Bytes {
    if query == Some("page") {
        return PAGE.clone();
    }
    let length = query.and_then(|query| query.strip_prefix("bytes=")?.split('&').next()?.parse().ok()).unwrap_or(1_580);
    Bytes::from_static(&BODY[..length.min(BODY.len())])
}

pub(crate) fn response(body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    response
}

/// Takes so much of the processor's time. By the clock on the wall, what others take of it meanwhile would be work as well.
pub(crate) fn compute(work: Duration) {
    if work.is_zero() {
        return;
    }
    let spent = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or(Duration::MAX);
    let end = spent() + work;
    while spent() < end {
        (0..100).for_each(|_| std::hint::spin_loop());
    }
}

pub(crate) async fn serve<S>(listener: TcpListener, service: S) -> io::Result<()>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let listener = listener.tap_io(|connection| {
        // As the proxies do.
        let _ = connection.set_nodelay(true);
    });
    axum::serve(listener, Shared::new(service)).await
}
