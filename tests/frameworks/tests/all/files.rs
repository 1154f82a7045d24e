//! tower-http's files: what its `ServeDir` leaves out of conditions and ranges, the cache makes up for.

use cache_layer::CacheLayer;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use tower::{Layer as _, ServiceExt as _};
use tower_http::services::ServeDir;

use crate::{caching, settled};

type Fields<'a> = &'a [(&'a str, &'a str)];

/// The status, `X-Cache`, `Content-Range` and the body of a response.
type Seen = (u16, Option<String>, Option<String>, Vec<u8>);

async fn ask(layer: Option<&CacheLayer>, method: Method, fields: Fields<'_>) -> Seen {
    let mut request = Request::builder().method(method).uri("http://shop.example/lib.rs");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    let files = ServeDir::new(env!("CARGO_MANIFEST_DIR"));
    let (head, body) = match layer {
        None => {
            let (head, body) = files.oneshot(request).await.unwrap().into_parts();
            (head, body.collect().await.unwrap().to_bytes())
        }
        Some(layer) => {
            let (head, body) = layer.layer(files).oneshot(request).await.unwrap().into_parts();
            (head, body.collect().await.unwrap().to_bytes())
        }
    };
    let field = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    (head.status.as_u16(), field("x-cache"), field("content-range"), body.to_vec())
}

const RANGE: (&str, &str) = ("range", "bytes=0-3");
const NOPE: (&str, &str) = ("if-range", "\"nope\"");

#[tokio::test]
async fn are_cut_by_the_rules_behind_it() {
    let (cache, layer) = caching();
    let (_, _, _, whole) = ask(None, Method::GET, &[]).await;
    let first = ask(Some(&layer), Method::GET, &[RANGE]).await;
    settled(&cache).await;
    let range = format!("bytes 0-3/{}", whole.len());
    assert_eq!(first, (206, Some("MISS".to_owned()), Some(range.clone()), whole[..4].to_vec()));
    // A condition that fails: the whole. By itself, ServeDir sends the part.
    assert_eq!(ask(None, Method::GET, &[RANGE, NOPE]).await.0, StatusCode::PARTIAL_CONTENT);
    let failed = ask(Some(&layer), Method::GET, &[RANGE, NOPE]).await;
    assert_eq!(failed, (200, Some("HIT".to_owned()), None, whole.clone()));
    // HEAD has no ranges (RFC 9110, section 14.2).
    assert_eq!(ask(None, Method::HEAD, &[RANGE]).await.0, StatusCode::PARTIAL_CONTENT);
    assert_eq!(ask(Some(&layer), Method::HEAD, &[RANGE]).await.0, StatusCode::OK);
    // Several ranges.
    let several = [("range", "bytes=0-1,4-5")];
    assert_eq!(ask(None, Method::GET, &several).await.0, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(ask(Some(&layer), Method::GET, &several).await.0, StatusCode::PARTIAL_CONTENT);
}
