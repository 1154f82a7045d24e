//! Responses that the cache encodes: the rules of RFC 9110, sections 8.4, 8.8.3, 12.5.3, 13 and 14, and RFC 9111, section 4.1, on
//! each store; and real clients.

use std::{
    io::Read as _,
    process::Command,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use axum::{Router, routing::get};
use cache_layer::{
    Cache, CacheLayer, Clock, Coding, Encode, Rule, Tags, Verify,
    store::{MemoryStore, RedisStore, TieredStore},
    telemetry::Event,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG, VARY},
};
use proptest::prelude::*;
use tests::{
    App, Backend, Body, Feed, Gate, Origin, RedisServer, Response, full, over_each_store, request, wait_until,
};
use tower::Service as _;
use tower_http::compression::CompressionLayer;

type Fields<'a> = &'a [(&'a str, &'a str)];

const MODIFIED: &str = "Sun, 22 Nov 2026 22:00:00 GMT";

fn page() -> String {
    let product = |id: usize| {
        format!(r#"{{"id":{id},"name":"Product {id}","price":"{}.95","stock":{}}}"#, id * 37 % 500, id * 10)
    };
    format!("[{}]", (1..=60).map(product).collect::<Vec<_>>().join(","))
}

/// Answers with a page, under the tag `"v1"`, and with what the request has it say: fields in `x-say-…`, where an empty one takes a
/// field out, and a status in `x-status`. A request that has this tag is answered with 304, where that is set.
fn pages(validates: bool) -> (Origin, Arc<Mutex<Vec<HeaderMap>>>) {
    let asked: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let requests = asked.clone();
    let origin = Origin::new(move |call, request| {
        requests.lock().unwrap().push(request.headers().clone());
        async move {
            let is_known = request.headers().get("if-none-match").is_some_and(|tag| tag == "\"v1\"");
            let body = if validates && is_known { full("") } else { full(page()) };
            let mut response = http::Response::new(body);
            if validates && is_known {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
            }
            let fields = response.headers_mut();
            for (name, value) in [
                ("content-type", "application/json"),
                ("cache-control", "max-age=60"),
                ("etag", "\"v1\""),
                ("last-modified", MODIFIED),
            ] {
                fields.insert(name, HeaderValue::from_static(value));
            }
            fields.insert("x-call", HeaderValue::from(call));
            for (name, value) in request.headers() {
                if let Some(name) = name.as_str().strip_prefix("x-say-") {
                    fields.remove(name);
                    if !value.is_empty() {
                        fields.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.clone());
                    }
                }
            }
            if let Some(status) = request.headers().get("x-status") {
                *response.status_mut() = StatusCode::from_bytes(status.as_bytes()).unwrap();
            }
            Ok(response)
        }
    });
    (origin, asked)
}

fn all() -> Encode {
    Encode::new([Coding::Zstd, Coding::Brotli, Coding::Gzip]).at_once(8)
}

/// In all codings, on each store.
async fn app(backend: &Backend, origin: &Origin) -> App {
    App::new(backend.cache().await.build(), origin, |layer| layer.encode(all().in_store(true)))
}

fn decoded(response: &Response) -> Vec<u8> {
    let (mut content, coded) = (Vec::new(), &response.body[..]);
    match response.header("content-encoding") {
        None => content.extend_from_slice(coded),
        Some("zstd") => content = zstd::stream::decode_all(coded).unwrap(),
        Some("br") => drop(brotli::Decompressor::new(coded, 4096).read_to_end(&mut content).unwrap()),
        Some("gzip") => drop(flate2::read::GzDecoder::new(coded).read_to_end(&mut content).unwrap()),
        Some(other) => panic!("{other}"),
    }
    content
}

fn coding(response: &Response) -> &str {
    response.header("content-encoding").unwrap_or("identity")
}

/// Asks until what comes is in this coding: the first answers have none.
async fn warm(app: &App, uri: &str, wanted: &str, say: Fields<'_>) -> Response {
    let fields: Vec<_> = say.iter().copied().chain([("accept-encoding", wanted)]).collect();
    for _ in 0..4 {
        let response = app.get(uri, &fields).await;
        if coding(&response) == wanted {
            return response;
        }
    }
    panic!("it is never sent in {wanted}");
}

async fn warm_all(app: &App, uri: &str, say: Fields<'_>) {
    for coding in ["zstd", "br", "gzip"] {
        warm(app, uri, coding, say).await;
    }
}

mod codings {
    use super::*;

    async fn the_first_answer_is_the_applications_own(backend: &Backend) {
        let app = app(backend, &pages(false).0).await;
        for (uri, accepts) in [("/a", "gzip"), ("/b", "zstd, br"), ("/c", "")] {
            let miss = app.get(uri, &[("accept-encoding", accepts)]).await;
            assert_eq!((miss.x_cache(), coding(&miss), miss.text()), ("MISS", "identity", &*page()));
            assert_eq!((miss.header("etag"), miss.header("vary")), (Some("\"v1\""), Some("accept-encoding")));
        }
    }

    async fn a_response_is_loaded_once_and_sent_in_each_coding(backend: &Backend) {
        let (origin, _) = pages(false);
        let app = app(backend, &origin).await;
        for (name, tag) in [("zstd", "\"v1-cl~zstd\""), ("br", "\"v1-cl~br\""), ("gzip", "\"v1-cl~gzip\"")] {
            let hit = warm(&app, "/", name, &[]).await;
            assert_eq!((hit.x_cache(), hit.cache_status().hit, hit.header("etag")), ("HIT", true, Some(tag)));
            assert_eq!(hit.header("vary"), Some("accept-encoding"));
            assert_eq!(hit.header("content-type"), Some("application/json"));
            assert!(hit.body.len() < page().len() / 3, "{name}: {}", hit.body.len());
            assert_eq!(decoded(&hit), page().as_bytes(), "{name}");
        }
        let plain = app.get("/", &[]).await;
        assert_eq!((plain.x_cache(), coding(&plain), plain.text()), ("HIT", "identity", &*page()));
        assert_eq!((plain.header("etag"), plain.header("vary")), (Some("\"v1\""), Some("accept-encoding")));
        assert_eq!(origin.calls(), 1);
    }

    /// RFC 9110, section 12.5.3.
    async fn each_client_gets_what_it_likes_best(backend: &Backend) {
        let app = app(backend, &pages(false).0).await;
        warm_all(&app, "/", &[]).await;
        for (accepts, expected) in [
            ("gzip", "gzip"),
            ("gzip, deflate", "gzip"),
            ("gzip, deflate, br", "br"),
            ("gzip, deflate, br, zstd", "zstd"),
            ("X-GZIP", "gzip"),
            ("*", "zstd"),
            ("gzip;q=1.0, br;q=0.5", "gzip"),
            ("zstd;q=0, *", "br"),
            ("identity;q=1, gzip;q=0.5", "identity"),
            ("identity, *;q=0", "identity"),
            ("identity;q=0, gzip;q=0.1", "gzip"),
            ("*;q=0", "identity"),
            ("gzip;q=0", "identity"),
            ("deflate", "identity"),
            ("", "identity"),
            ("not a list;", "identity"),
        ] {
            let hit = app.get("/", &[("accept-encoding", accepts)]).await;
            assert_eq!((hit.x_cache(), coding(&hit)), ("HIT", expected), "{accepts}");
            assert_eq!(decoded(&hit), page().as_bytes(), "{accepts}");
        }
        let lines = [("accept-encoding", "gzip;q=0.5"), ("accept-encoding", "br")];
        assert_eq!(coding(&app.get("/", &lines).await), "br");
        let refuses = [("accept-encoding", "gzip"), ("cache-control", "no-transform")];
        assert_eq!(coding(&app.get("/", &refuses).await), "identity");
    }

    async fn head_says_what_get_would(backend: &Backend) {
        let app = app(backend, &pages(false).0).await;
        let miss = app.send(Method::HEAD, "/", &[("accept-encoding", "gzip")]).await;
        assert_eq!((coding(&miss), miss.header("vary")), ("identity", Some("accept-encoding")));
        warm_all(&app, "/", &[("x-say-content-length", &page().len().to_string())]).await;
        for accepts in ["zstd", "br", "gzip", "identity"] {
            let fields = [("accept-encoding", accepts)];
            let (head, got) = (app.send(Method::HEAD, "/", &fields).await, app.get("/", &fields).await);
            let without_own = |response: &Response| {
                let mut headers = response.headers.clone();
                for name in ["age", "x-cache-age", "cache-status"] {
                    headers.remove(name);
                }
                headers
            };
            assert_eq!(without_own(&head), without_own(&got), "{accepts}");
            assert_eq!(head.header("content-length"), Some(&*got.body.len().to_string()), "{accepts}");
            assert!(head.body.is_empty());
        }
    }

    /// RFC 9111, section 4.1: beside what the application varies by, each variant has codings of its own.
    async fn variants_have_codings_of_their_own(backend: &Backend) {
        let (origin, _) = pages(false);
        let app = app(backend, &origin).await;
        let say = |language| [("x-say-vary", "Accept-Language"), ("accept-language", language)];
        for (language, call) in [("de", "1"), ("en", "2"), ("de", "1"), ("en", "2")] {
            let hit = warm(&app, "/", "gzip", &say(language)).await;
            assert_eq!(
                (hit.header("x-call"), hit.header("vary")),
                (Some(call), Some("Accept-Language, accept-encoding"))
            );
        }
        assert_eq!(origin.calls(), 2);
    }

    async fn other_statuses_than_200_are_encoded(backend: &Backend) {
        let app = app(backend, &pages(false).0).await;
        for status in ["404", "410"] {
            let hit = warm(&app, &format!("/{status}"), "gzip", &[("x-status", status)]).await;
            assert_eq!((hit.status.as_str(), decoded(&hit)), (status, page().into()));
        }
    }

    async fn what_is_not_the_caches_to_change_stays_as_it_is(backend: &Backend) {
        let app = app(backend, &pages(false).0).await;
        let cases: [(Fields<'_>, Option<&str>); 9] = [
            (&[("x-say-cache-control", "max-age=60, no-transform")], None),
            (&[("x-say-content-encoding", "gzip")], None),
            (&[("x-say-content-encoding", "identity")], None),
            (&[("x-say-content-digest", "sha-256=:AA==:")], None),
            (&[("x-say-repr-digest", "sha-256=:AA==:")], None),
            (&[("x-say-vary", "accept-encoding")], Some("accept-encoding")),
            (&[("x-say-content-type", "image/png")], None),
            (&[("x-say-content-type", "")], None),
            (&[("x-say-etag", "v1")], None),
        ];
        for (number, (say, vary)) in cases.into_iter().enumerate() {
            let fields: Vec<_> = say.iter().copied().chain([("accept-encoding", "gzip")]).collect();
            for expected in ["MISS", "HIT", "HIT"] {
                let response = app.get(&format!("/{number}"), &fields).await;
                assert_eq!(response.x_cache(), expected, "{say:?}");
                assert_eq!((response.text(), response.header("vary")), (&*page(), vary), "{say:?}");
            }
        }
    }

    async fn a_rule_may_have_nothing_encoded(backend: &Backend) {
        let set = |layer: CacheLayer| layer.encode(all()).rule(Rule::prefix("/raw").encode([])).unwrap();
        let app = App::new(backend.cache().await.build(), &pages(false).0, set);
        for _ in 0..3 {
            let response = app.get("/raw/a", &[("accept-encoding", "zstd")]).await;
            assert_eq!((coding(&response), response.header("vary")), ("identity", None));
        }
        warm(&app, "/a", "zstd", &[]).await;
    }

    async fn what_does_not_shrink_is_tried_once(backend: &Backend) {
        let encoded = Arc::new(AtomicUsize::new(0));
        let count = encoded.clone();
        let noise: Vec<u8> = (0..4_000).map(|_| fastrand::u8(..)).collect();
        let body = noise.clone();
        let origin = Origin::new(move |_, _| {
            let body = body.clone();
            async move {
                let fields = [("content-type", "text/plain"), ("cache-control", "max-age=60")];
                let response =
                    fields.into_iter().fold(http::Response::builder(), |r, (name, value)| r.header(name, value));
                Ok(response.body(full(body)).unwrap())
            }
        });
        let cache = backend.cache().await.observer(move |event: Event| {
            if let Event::Encoded { coded, .. } = event {
                assert_eq!(coded, None);
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let app = App::new(cache.build(), &origin, |layer| layer.encode([Coding::Gzip]));
        for _ in 0..5 {
            let response = app.get("/", &[("accept-encoding", "gzip")]).await;
            assert_eq!((coding(&response), &response.body[..]), ("identity", &noise[..]));
        }
        assert_eq!(encoded.load(Ordering::SeqCst), 1);
    }

    /// Instances of two settings over one store, as while one is rolled out.
    async fn two_levels_are_two_representations(backend: &Backend) {
        let (origin, _) = pages(false);
        let at = async |encode: Encode| App::new(backend.cache().await.build(), &origin, |layer| layer.encode(encode));
        let usual = at(all().in_store(true)).await;
        let best = at(all().in_store(true).level(Coding::Brotli, 11).unwrap()).await;
        let mut seen = std::collections::HashMap::new();
        for (uri, first, second) in [("/a", &usual, &best), ("/b", &best, &usual)] {
            warm(first, uri, "br", &[]).await;
            for app in [first, second, second, first, second, second] {
                let tag = if std::ptr::eq(app, &best) { "\"v1-cl~br11\"" } else { "\"v1-cl~br\"" };
                let response = app.get(uri, &[("accept-encoding", "br")]).await;
                assert_eq!((response.x_cache(), decoded(&response)), ("HIT", page().into()), "{uri}");
                if coding(&response) == "br" {
                    assert_eq!(response.header("etag"), Some(tag), "{uri}");
                    assert_eq!(
                        *seen.entry(tag).or_insert(response.body.clone()),
                        response.body,
                        "one tag, one sequence of bytes"
                    );
                } else {
                    assert_eq!(response.header("etag"), Some("\"v1\""), "{uri}");
                }
                let other = if std::ptr::eq(app, &best) { "\"v1-cl~br\"" } else { "\"v1-cl~br11\"" };
                let fields = [("accept-encoding", "br"), ("if-none-match", other)];
                assert_eq!(app.get(uri, &fields).await.status, 200, "{uri}: it has another one");
                let fields = [("accept-encoding", "br"), ("if-none-match", tag)];
                assert_eq!(app.get(uri, &fields).await.status, 304, "{uri}");
            }
        }
        assert_ne!(seen["\"v1-cl~br11\""], seen["\"v1-cl~br\""]);
        assert_eq!(origin.calls(), 2);
    }

    over_each_store!(
        two_levels_are_two_representations,
        the_first_answer_is_the_applications_own,
        a_response_is_loaded_once_and_sent_in_each_coding,
        each_client_gets_what_it_likes_best,
        head_says_what_get_would,
        variants_have_codings_of_their_own,
        other_statuses_than_200_are_encoded,
        what_is_not_the_caches_to_change_stays_as_it_is,
        a_rule_may_have_nothing_encoded,
        what_does_not_shrink_is_tried_once,
    );
}

mod validators {
    use super::*;

    /// RFC 9110, sections 8.8.3.3 and 13.1.2.
    async fn a_client_is_told_what_it_has(backend: &Backend) {
        let app = app(backend, &pages(false).0).await;
        warm_all(&app, "/", &[]).await;
        for (accepts, has, expected) in [
            ("gzip", "\"v1-cl~gzip\"", Ok("\"v1-cl~gzip\"")),
            ("gzip", "W/\"v1-cl~gzip\"", Ok("\"v1-cl~gzip\"")),
            ("gzip", "\"v1\"", Ok("\"v1\"")),
            ("gzip, br", "\"v1-cl~gzip\"", Ok("\"v1-cl~gzip\"")),
            ("gzip, br", "\"v1\", \"v1-cl~gzip\"", Ok("\"v1-cl~gzip\"")),
            ("gzip, br", "\"x\", \"v1-cl~br\", \"v1-cl~gzip\"", Ok("\"v1-cl~br\"")),
            ("gzip, br;q=0.5", "\"v1-cl~br\", \"v1-cl~gzip\"", Ok("\"v1-cl~gzip\"")),
            ("gzip", "*", Ok("\"v1-cl~gzip\"")),
            ("", "*", Ok("\"v1\"")),
            ("", "\"v1\"", Ok("\"v1\"")),
            // The client has a representation that it does not accept, perhaps for another client.
            ("gzip", "\"v1-cl~br\"", Err("gzip")),
            ("", "\"v1-cl~gzip\"", Err("identity")),
            ("gzip;q=0", "\"v1-cl~gzip\"", Err("identity")),
            ("gzip, identity;q=0", "\"v1\"", Err("gzip")),
            ("gzip, *;q=0", "\"v1\"", Err("gzip")),
            ("gzip", "\"v0-cl~gzip\"", Err("gzip")),
            ("gzip", "\"v1-cl~deflate\"", Err("gzip")),
        ] {
            let response = app.get("/", &[("accept-encoding", accepts), ("if-none-match", has)]).await;
            let came = match response.status.as_u16() {
                304 => Ok(response.header("etag").unwrap()),
                _ => Err(coding(&response)),
            };
            assert_eq!(came, expected, "{accepts} {has}");
            assert_eq!(response.header("vary"), Some("accept-encoding"));
            if came.is_ok() {
                assert!(response.body.is_empty() && response.header("content-encoding").is_none());
            }
        }
        let by_date = [("accept-encoding", "gzip"), ("if-modified-since", MODIFIED)];
        assert_eq!(app.get("/", &by_date).await.status, 304);
    }

    /// Only a success can become a 304: for an error, the client gets the representation that it prefers.
    async fn a_client_of_an_error_gets_what_is_there(backend: &Backend) {
        let app = App::new(backend.cache().await.build(), &pages(false).0, |layer| layer.encode(all()));
        let say = [("x-status", "404")];
        warm(&app, "/", "zstd", &say).await;
        for (accepts, has) in [("zstd, gzip", "\"v1-cl~gzip\""), ("zstd", "\"v1\""), ("zstd", "*")] {
            let fields = [say[0], ("accept-encoding", accepts), ("if-none-match", has)];
            let response = app.get("/", &fields).await;
            assert_eq!((response.status.as_u16(), coding(&response)), (404, "zstd"), "{accepts} {has}");
            assert_eq!(decoded(&response), page().as_bytes(), "{accepts} {has}");
        }
    }

    /// The client's copy is from before the cache was emptied.
    async fn a_client_is_told_what_it_has_by_a_miss_too(backend: &Backend) {
        let app = app(backend, &pages(false).0).await;
        for (uri, has, expected) in [
            ("/a", "\"v1-cl~gzip\"", Some("\"v1-cl~gzip\"")),
            ("/b", "\"v1\"", Some("\"v1\"")),
            ("/c", "\"v1-cl~br\"", None),
            ("/d", "\"v0-cl~gzip\"", None),
        ] {
            let response = app.get(uri, &[("accept-encoding", "gzip"), ("if-none-match", has)]).await;
            assert_eq!(response.x_cache(), "MISS");
            assert_eq!(response.header("vary"), Some("accept-encoding"));
            match expected {
                Some(tag) => assert_eq!((response.status.as_u16(), response.header("etag")), (304, Some(tag)), "{has}"),
                None => assert_eq!((response.text(), response.header("etag")), (&*page(), Some("\"v1\"")), "{has}"),
            }
        }
    }

    async fn a_weak_tag_is_of_every_coding(backend: &Backend) {
        let app = app(backend, &pages(false).0).await;
        let weak = [("x-say-etag", "W/\"v1\"")];
        let hit = warm(&app, "/", "gzip", &weak).await;
        assert_eq!(hit.header("etag"), Some("W/\"v1\""));
        for (accepts, has, status) in
            [("gzip", "W/\"v1\"", 304), ("br", "\"v1\"", 304), ("gzip", "W/\"v1-cl~gzip\"", 200)]
        {
            let response = app.get("/", &[("accept-encoding", accepts), ("if-none-match", has)]).await;
            assert_eq!(response.status, status, "{accepts} {has}");
        }
        let resumed = [("accept-encoding", "gzip"), ("range", "bytes=5-"), ("if-range", "W/\"v1\"")];
        assert_eq!(app.get("/", &resumed).await.status, 200, "it is of no bytes");
    }

    /// Versions that the application names with tags like those that a server puts on codings.
    async fn a_version_is_not_taken_for_a_coding_of_another(backend: &Backend) {
        let (origin, asked) = pages(false);
        let app = app(backend, &origin).await;
        let former = [("accept-encoding", "gzip"), ("if-none-match", "\"v1-gzip\"")];
        for x_cache in ["MISS", "HIT", "HIT"] {
            let response = app.get("/", &former).await;
            assert_eq!((response.x_cache(), response.status.as_u16()), (x_cache, 200));
        }
        app.send(Method::PUT, "/", &[("if-match", "\"v1-gzip\"")]).await;
        assert_eq!(asked.lock().unwrap().last().unwrap().get_all("if-match").iter().count(), 1);
        // Tags like the cache's own are not encoded.
        let own = [("x-say-etag", "\"v1-cl~gzip\""), ("accept-encoding", "gzip")];
        for _ in 0..3 {
            let response = app.get("/own", &own).await;
            assert_eq!((coding(&response), response.header("vary")), ("identity", None));
        }
    }

    async fn minted_tags_are_told_apart_as_well(backend: &Backend) {
        let set = |layer: CacheLayer| layer.etags(true).encode(all().in_store(true));
        let app = App::new(backend.cache().await.build(), &pages(false).0, set);
        let without = [("x-say-etag", ""), ("x-say-last-modified", "")];
        let plain = app.get("/", &without).await.header("etag").unwrap().to_owned();
        let coded = warm(&app, "/", "gzip", &without).await.header("etag").unwrap().to_owned();
        assert_eq!(coded, format!("{}-cl~gzip\"", plain.trim_end_matches('"')));
        let again = app.get("/", &[("accept-encoding", "gzip"), ("if-none-match", &coded)]).await;
        assert_eq!((again.status.as_u16(), again.header("etag")), (304, Some(&*coded)));
    }

    /// RFC 9110, section 13.1.1: the application knows its own tags, and no others.
    async fn a_write_is_about_what_the_application_knows(backend: &Backend) {
        let (origin, asked) = pages(false);
        let app = app(backend, &origin).await;
        let seen = |name: &str| -> Vec<String> {
            let asked = asked.lock().unwrap();
            let lines = asked.last().unwrap().get_all(name).iter().map(|line| line.to_str().unwrap().to_owned());
            lines.collect()
        };
        app.send(Method::PUT, "/", &[("if-match", "\"v1-cl~gzip\"")]).await;
        assert_eq!(seen("if-match"), ["\"v1-cl~gzip\"", "\"v1\""]);
        app.send(Method::PUT, "/", &[("if-none-match", "\"v1-cl~zstd\", \"v0\"")]).await;
        assert_eq!(seen("if-none-match"), ["\"v1-cl~zstd\", \"v0\"", "\"v1\""]);
        app.get("/", &[("if-match", "\"v1-cl~br\"")]).await;
        assert_eq!(seen("if-match"), ["\"v1-cl~br\"", "\"v1\""]);
        // Of an instance with another level, or to one that encodes nothing.
        app.send(Method::PUT, "/", &[("if-match", "\"v1-cl~br9\"")]).await;
        assert_eq!(seen("if-match"), ["\"v1-cl~br9\"", "\"v1\""]);
        App::on(backend, &origin).await.send(Method::PUT, "/", &[("if-match", "\"v1-cl~br\"")]).await;
        assert_eq!(seen("if-match"), ["\"v1-cl~br\"", "\"v1\""]);
        // By a 304 for a tag that the client does not know, it would learn nothing.
        app.get("/", &[("if-match", "\"v1\""), ("if-none-match", "\"v1-cl~gzip\"")]).await;
        assert_eq!(seen("if-none-match"), ["\"v1-cl~gzip\""]);
        app.send(Method::PUT, "/", &[("if-match", "\"v1\", W/\"v1-cl~gzip\"")]).await;
        assert_eq!(seen("if-match"), ["\"v1\", W/\"v1-cl~gzip\""]);
    }

    /// Answers with a part, if `If-Match` and `If-Range` permit it.
    fn parts() -> Origin {
        Origin::new(|_, request| async move {
            let fields = request.headers();
            let has = |name: &str, value: &str| {
                fields.get_all(name).iter().any(|line| line.to_str().unwrap().contains(value))
            };
            let is_match = !fields.contains_key("if-match") || has("if-match", "\"v1\"");
            let is_same = !fields.contains_key("if-range") || has("if-range", "\"v1\"") || has("if-range", MODIFIED);
            let (status, body) = match fields.contains_key("range") && is_same {
                _ if !is_match => (412, String::new()),
                true => (206, page()[500..].to_owned()),
                false => (200, page()),
            };
            let response = http::Response::builder()
                .status(status)
                .header("content-type", "application/json")
                .header("cache-control", "public, max-age=60")
                .header("etag", "\"v1\"")
                .header("last-modified", MODIFIED);
            let part = format!("bytes 500-{}/{}", page().len() - 1, page().len());
            let response = if status == 206 { response.header("content-range", part) } else { response };
            Ok(response.body(full(body)).unwrap())
        })
    }

    /// A layer that encodes, by its own setting or by that of a rule.
    fn encoding(layer: CacheLayer, by_rule: bool, encode: Encode) -> CacheLayer {
        let layer = layer.namespace(by_rule.to_string());
        if by_rule { layer.rule(Rule::any_path().encode(encode)).unwrap() } else { layer.encode(encode) }
    }

    /// RFC 9110, sections 8.8.2.2, 13.1.1 and 13.1.5: the application does not know of which representation a client has a part.
    async fn a_part_of_another_representation_is_not_asked_for(backend: &Backend) {
        for by_rule in [false, true] {
            let set = |layer| encoding(layer, by_rule, all()).rule(Rule::prefix("/apart").bypass()).unwrap();
            asks_for_no_part_of_another_representation(App::new(backend.cache().await.build(), &parts(), set)).await;
        }
    }

    async fn asks_for_no_part_of_another_representation(app: App) {
        let range = ("range", "bytes=500-");
        let apart = ("cache-control", "no-store");
        let cases: [(&str, Fields<'_>, u16); 10] = [
            ("/a", &[("if-match", "\"v1-cl~gzip\"")], 200),
            ("/a", &[("if-match", "\"v1-cl~gzip\""), range], 412),
            ("/a", &[("if-match", "\"v1\""), range], 206),
            ("/a", &[("if-unmodified-since", MODIFIED), range], 200),
            ("/a", &[apart, range], 206),
            ("/a", &[apart, range, ("if-range", "\"v1\"")], 206),
            ("/a", &[apart, range, ("if-range", "\"v1-cl~gzip\"")], 200),
            ("/a", &[apart, range, ("if-range", MODIFIED)], 200),
            // A client that the application knows: it gets no stored response, but it may have got one.
            ("/b", &[("authorization", "Basic YQ=="), range, ("if-range", MODIFIED)], 200),
            // Of what is never stored, there is one representation.
            ("/apart", &[range, ("if-range", MODIFIED)], 206),
        ];
        for (uri, fields, status) in cases {
            let response = app.get(uri, fields).await;
            assert_eq!(response.status, status, "{fields:?}");
            if status != 412 {
                assert_eq!(response.text(), &page()[if status == 206 { 500 } else { 0 }..], "{fields:?}");
            }
        }
    }

    /// RFC 9110, sections 12.5.5 and 9.3.2: a response that is not stored could have been another one, too.
    async fn what_is_forwarded_alone_says_by_what_it_varies(backend: &Backend) {
        for by_rule in [false, true] {
            let app = async |origin: &Origin, encode| {
                App::new(backend.cache().await.build(), origin, |layer| encoding(layer, by_rule, encode))
            };
            says_by_what_it_varies(&app(&parts(), all()).await).await;
            says_by_what_heads_vary(&app(&pages(false).0, all().at_least(1_000)).await).await;
        }
    }

    async fn says_by_what_it_varies(app: &App) {
        let range = ("range", "bytes=500-");
        let known = ("authorization", "Basic YQ==");
        let cases: [(Method, Fields<'_>); 5] = [
            (Method::GET, &[("if-match", "\"v1\"")]),
            (Method::GET, &[("cache-control", "no-store")]),
            (Method::GET, &[("cache-control", "no-store"), range]),
            (Method::GET, &[known, range]),
            (Method::HEAD, &[]),
        ];
        for (method, fields) in cases {
            let response = app.send(method, "/", fields).await;
            assert_eq!(response.header("vary"), Some("accept-encoding"), "{fields:?}");
        }
    }

    async fn says_by_what_heads_vary(app: &App) {
        for (uri, say, vary) in [
            ("/long", ("x-say-content-length", &*page().len().to_string()), Some("accept-encoding")),
            ("/short", ("x-say-content-length", "100"), None),
            ("/not-stored", ("x-say-cache-control", "no-store"), None),
        ] {
            let head = app.send(Method::HEAD, uri, &[say]).await;
            assert_eq!((head.status.as_u16(), head.header("vary")), (200, vary), "{uri}");
        }
        for (has, tag) in [("\"v1-cl~gzip\"", Some("\"v1-cl~gzip\"")), ("\"v1\"", Some("\"v1\"")), ("\"v0\"", None)] {
            let fields = [("accept-encoding", "gzip"), ("if-none-match", has)];
            let head = app.send(Method::HEAD, "/head", &fields).await;
            assert_eq!(head.status, if tag.is_some() { 304 } else { 200 }, "{has}");
            assert_eq!((head.header("etag"), head.header("vary")), (tag.or(Some("\"v1\"")), Some("accept-encoding")));
        }
    }

    async fn what_the_application_validates_is_not_encoded_again(backend: &Backend) {
        let (clock, encoded) = (Clock::manual(), Arc::new(AtomicUsize::new(0)));
        let count = encoded.clone();
        let cache = backend.cache().await.clock(clock.clone()).observer(move |event: Event| {
            count.fetch_add(usize::from(matches!(event, Event::Encoded { .. })), Ordering::SeqCst);
        });
        let (origin, asked) = pages(true);
        let app = App::new(cache.build(), &origin, |layer| layer.encode(all().in_store(true)));
        warm_all(&app, "/", &[]).await;
        assert_eq!(encoded.load(Ordering::SeqCst), 3);
        for name in ["zstd", "br", "gzip", "identity"] {
            clock.advance(Duration::from_secs(61));
            let response = app.get("/", &[("accept-encoding", name)]).await;
            assert_eq!((response.x_cache(), coding(&response)), ("REVALIDATED", name));
            assert_eq!(decoded(&response), page().as_bytes());
            assert_eq!(asked.lock().unwrap().last().unwrap()["if-none-match"], "\"v1\"");
            let hit = app.get("/", &[("accept-encoding", name)]).await;
            assert_eq!((hit.x_cache(), coding(&hit), hit.header("vary")), ("HIT", name, Some("accept-encoding")));
        }
        assert_eq!((encoded.load(Ordering::SeqCst), origin.calls()), (3, 5));
        // A 304 that forbids transformations from now on.
        clock.advance(Duration::from_secs(61));
        let fields = [("accept-encoding", "gzip"), ("x-say-cache-control", "max-age=60, no-transform")];
        for x_cache in ["REVALIDATED", "HIT"] {
            let response = app.get("/", &fields).await;
            assert_eq!((response.x_cache(), coding(&response), response.text()), (x_cache, "identity", &*page()));
            assert_eq!(response.header("vary"), None);
        }
    }

    /// In Redis without a first tier, nothing but a load writes an entry.
    async fn what_the_application_validates_is_encoded_if_it_is_not_yet(backend: &Backend) {
        let clock = Clock::manual();
        let cache = async || backend.cache().await.clock(clock.clone()).build();
        let (origin, _) = pages(true);
        let before = App::new(cache().await, &origin, |layer| layer);
        let app = App::new(cache().await, &origin, |layer| layer.encode(all()));
        let best = App::new(cache().await, &origin, |layer| layer.encode(all().level(Coding::Zstd, 9).unwrap()));
        before.get("/", &[]).await;
        for (app, tag) in [(&app, "\"v1-cl~zstd\""), (&best, "\"v1-cl~zstd9\"")] {
            clock.advance(Duration::from_secs(61));
            let fields = [("accept-encoding", "zstd")];
            let validated = app.get("/", &fields).await;
            assert_eq!((validated.x_cache(), decoded(&validated)), ("REVALIDATED", page().into()));
            let hit = app.get("/", &fields).await;
            assert_eq!((hit.x_cache(), hit.header("etag"), decoded(&hit)), ("HIT", Some(tag), page().into()));
        }
    }

    /// What a 304 says holds for the answer, also if the response is not stored any more.
    async fn a_304_may_forbid_it_for_its_own_answer(backend: &Backend) {
        let clock = Clock::manual();
        let cache = backend.cache().await.clock(clock.clone());
        let app = App::new(cache.build(), &pages(true).0, |layer| layer.encode(all().in_store(true)));
        for (uri, says) in [("/a", "no-store"), ("/b", "no-store, no-transform")] {
            warm(&app, uri, "gzip", &[]).await;
            clock.advance(Duration::from_secs(61));
            let fields = [("accept-encoding", "gzip"), ("x-say-cache-control", says)];
            let response = app.get(uri, &fields).await;
            let expected = if says.contains("no-transform") { "identity" } else { "gzip" };
            assert_eq!((response.x_cache(), coding(&response)), ("REVALIDATED", expected), "{says}");
            assert_eq!((response.header("cache-control"), decoded(&response)), (Some(says), page().into()));
        }
    }

    /// RFC 9213: a field for caches of this kind.
    async fn a_targeted_field_may_forbid_it(backend: &Backend) {
        let targeted = HeaderName::from_static("cdn-cache-control");
        let set = |layer: CacheLayer| layer.encode(all().in_store(true)).targeted_fields([targeted]);
        let app = App::new(backend.cache().await.build(), &pages(false).0, set);
        let say = [("x-say-cdn-cache-control", "max-age=60, no-transform"), ("accept-encoding", "gzip")];
        for x_cache in ["MISS", "HIT", "HIT"] {
            let response = app.get("/", &say).await;
            assert_eq!((response.x_cache(), coding(&response), response.header("vary")), (x_cache, "identity", None));
        }
    }

    /// Answers have room for the fields of a coding, of which the stored response knows nothing.
    async fn what_was_sent_coded_is_compared_as_it_was_stored(backend: &Backend) {
        let (origin, _) = pages(false);
        let verify = Verify::new(1.0).fields([CONTENT_ENCODING, CONTENT_TYPE, ETAG, VARY]);
        let app =
            App::new(backend.cache().await.build(), &origin, |layer| layer.encode(all().in_store(true)).verify(verify));
        let say = [("x-say-vary", "Accept-Language"), ("accept-language", "de")];
        for coding in ["gzip", "zstd", "gzip", "zstd", "identity", "gzip"] {
            warm(&app, "/", coding, &say).await;
        }
        let counts = app.cache.counts();
        assert!(counts.verified >= 5, "{}", counts.verified);
        assert_eq!((counts.differing, counts.stored), (0, 1));
    }

    /// RFC 9111, section 4.3.5: a HEAD that the application answers is compared with what is stored, and not with what was sent.
    async fn a_head_outdates_a_response_of_another_length_only(backend: &Backend) {
        let clock = Clock::manual();
        let cache = backend.cache().await.clock(clock.clone());
        let app = App::new(cache.build(), &pages(true).0, |layer| layer.encode(all().in_store(true)));
        let length = page().len();
        for (uri, of_head, x_cache) in [("/a", length, "REVALIDATED"), ("/b", length - 1, "MISS")] {
            for _ in 0..2 {
                warm(&app, uri, "gzip", &[("x-say-content-length", &length.to_string())]).await;
            }
            clock.advance(Duration::from_secs(61));
            app.send(Method::HEAD, uri, &[("x-say-content-length", &of_head.to_string())]).await;
            let again = app.get(uri, &[("accept-encoding", "gzip")]).await;
            assert_eq!((again.x_cache(), decoded(&again)), (x_cache, page().into()), "{uri}");
        }
    }

    fn for_outages(layer: CacheLayer) -> CacheLayer {
        layer.stale_if_error(Duration::from_secs(60)).encode(all().in_store(true))
    }

    /// The page at `/` is stored in gzip, and may only be used in place of an error.
    async fn with_a_stale_page(backend: &Backend) -> App {
        let clock = Clock::manual();
        let app = App::new(backend.cache().await.clock(clock.clone()).build(), &pages(false).0, for_outages);
        warm(&app, "/", "gzip", &[]).await;
        clock.advance(Duration::from_secs(61));
        app
    }

    async fn what_is_stale_is_sent_coded(backend: &Backend) {
        let app = with_a_stale_page(backend).await;
        let stale = app.get("/", &[("accept-encoding", "gzip"), ("x-status", "503")]).await;
        assert_eq!((stale.x_cache(), coding(&stale), decoded(&stale)), ("STALE", "gzip", page().into()));
        // In Redis, there is only the frame of it.
        let stale = app.get("/", &[("x-status", "503")]).await;
        assert_eq!((stale.x_cache(), coding(&stale), decoded(&stale)), ("STALE", "identity", page().into()));
    }

    /// The cache's own answer says nothing of what the application has.
    async fn a_head_that_is_answered_with_what_is_stale_outdates_nothing(backend: &Backend) {
        let app = with_a_stale_page(backend).await;
        for method in [Method::HEAD, Method::GET, Method::HEAD, Method::GET] {
            let stale = app.send(method.clone(), "/", &[("accept-encoding", "gzip"), ("x-status", "503")]).await;
            assert_eq!((stale.status, stale.x_cache(), coding(&stale)), (StatusCode::OK, "STALE", "gzip"), "{method}");
        }
    }

    async fn nor_does_a_head_for_which_the_application_has_no_place(backend: &Backend) {
        let (clock, gate, pages) = (Clock::manual(), Gate::closed(), pages(false).0);
        let origin = Origin::new({
            let gate = gate.clone();
            move |_, request| {
                let (gate, mut pages) = (gate.clone(), pages.clone());
                async move {
                    if request.uri().path() == "/slow" {
                        gate.pass().await;
                    }
                    pages.call(request).await
                }
            }
        });
        let cache = async || backend.cache().await.clock(clock.clone());
        // Its lease lasts for longer than a part of the time that is waited for a place.
        warm(&App::new(cache().await.build(), &origin, for_outages), "/", "gzip", &[]).await;
        let hasty = cache().await.lock_timeout(Duration::from_millis(200)).build();
        let app = App::new(hasty, &origin, |layer| for_outages(layer).max_loads(1));
        clock.advance(Duration::from_secs(61));
        let calls = origin.calls();
        let slow = tokio::spawn({
            let app = app.clone();
            async move { app.begin(request(Method::GET, "/slow", &[])).await.map(|_| ()) }
        });
        wait_until("the place is taken", async || origin.calls() > calls).await;
        for method in [Method::HEAD, Method::GET] {
            let stale = app.begin(request(method.clone(), "/", &[("accept-encoding", "gzip")])).await.unwrap();
            assert_eq!(
                (stale.status(), stale.headers()["x-cache"].to_str().unwrap()),
                (StatusCode::OK, "STALE"),
                "{method}"
            );
        }
        gate.open();
        slow.await.unwrap().unwrap();
        app.settled().await;
    }

    over_each_store!(
        a_head_that_is_answered_with_what_is_stale_outdates_nothing,
        nor_does_a_head_for_which_the_application_has_no_place,
        a_client_is_told_what_it_has,
        a_client_is_told_what_it_has_by_a_miss_too,
        a_client_of_an_error_gets_what_is_there,
        a_weak_tag_is_of_every_coding,
        minted_tags_are_told_apart_as_well,
        a_version_is_not_taken_for_a_coding_of_another,
        a_write_is_about_what_the_application_knows,
        a_part_of_another_representation_is_not_asked_for,
        what_is_forwarded_alone_says_by_what_it_varies,
        what_the_application_validates_is_not_encoded_again,
        a_targeted_field_may_forbid_it,
        what_was_sent_coded_is_compared_as_it_was_stored,
        a_head_outdates_a_response_of_another_length_only,
        what_is_stale_is_sent_coded,
        what_the_application_validates_is_encoded_if_it_is_not_yet,
        a_304_may_forbid_it_for_its_own_answer,
    );
}

mod ranges {
    use super::*;

    async fn ask(app: &App, accepts: &str, range: &str, if_range: Option<&str>) -> Response {
        let if_range = if_range.map(|validator| ("if-range", validator));
        let fields: Vec<_> = [("accept-encoding", accepts), ("range", range)].into_iter().chain(if_range).collect();
        app.get("/", &fields).await
    }

    /// RFC 9110, section 14: a range is of what is sent.
    async fn a_part_is_one_of_what_is_sent(backend: &Backend) {
        let app = app(backend, &pages(false).0).await;
        warm_all(&app, "/", &[]).await;
        for name in ["zstd", "br", "gzip", "identity"] {
            let whole = app.get("/", &[("accept-encoding", name)]).await;
            let length = whole.body.len();
            let part = ask(&app, name, "bytes=10-19", None).await;
            assert_eq!((part.status.as_u16(), coding(&part)), (206, name));
            assert_eq!(part.header("content-range"), Some(&*format!("bytes 10-19/{length}")));
            assert_eq!((&part.body[..], part.header("etag")), (&whole.body[10..20], whole.header("etag")));
            assert_eq!(part.header("vary"), Some("accept-encoding"));
            let last = ask(&app, name, "bytes=-7", None).await;
            assert_eq!(last.body, whole.body[length - 7..]);
            let beyond = ask(&app, name, &format!("bytes={length}-"), None).await;
            assert_eq!(
                (beyond.status.as_u16(), beyond.header("content-range")),
                (416, Some(&*format!("bytes */{length}")))
            );
            assert_eq!((coding(&beyond), beyond.header("vary")), ("identity", Some("accept-encoding")));
            // Clients disagree about the meaning of several parts of coded content.
            let several = ask(&app, name, "bytes=0-4,20-24", None).await;
            let status = if name == "identity" { 206 } else { 200 };
            assert_eq!(several.status, status, "{name}");
        }
    }

    /// RFC 9110, section 13.1.5.
    async fn a_client_goes_on_with_what_it_has_a_part_of(backend: &Backend) {
        let app = app(backend, &pages(false).0).await;
        warm_all(&app, "/", &[]).await;
        for (accepts, if_range, expected) in [
            ("gzip", "\"v1-cl~gzip\"", Some("gzip")),
            // The client began before there was a coded representation.
            ("gzip", "\"v1\"", Some("identity")),
            ("gzip, br", "\"v1-cl~gzip\"", Some("gzip")),
            ("gzip, br, zstd", "\"v1-cl~br\"", Some("br")),
            ("", "\"v1\"", Some("identity")),
            ("gzip", "\"v1-cl~br\"", None),
            ("", "\"v1-cl~gzip\"", None),
            ("gzip", "\"v0-cl~gzip\"", None),
            ("gzip", "W/\"v1-cl~gzip\"", None),
            ("gzip, identity;q=0", "\"v1\"", None),
            // A date is that of all representations, and the client may have accepted another one before.
            ("gzip", MODIFIED, None),
            ("", MODIFIED, None),
            ("gzip;q=0", MODIFIED, None),
        ] {
            let response = ask(&app, accepts, "bytes=5-", Some(if_range)).await;
            let came = (response.status == StatusCode::PARTIAL_CONTENT).then(|| coding(&response));
            assert_eq!(came, expected, "{accepts} {if_range}");
            let whole = app.get("/", &[("accept-encoding", expected.unwrap_or(accepts))]).await;
            assert_eq!(response.body, whole.body[if came.is_some() { 5 } else { 0 }..], "{accepts} {if_range}");
        }
    }

    /// Another process, or this one before the cache was emptied, sent a coding that is not made here yet.
    async fn a_client_whose_coding_is_not_there_starts_again(backend: &Backend) {
        let app = App::new(backend.cache().await.build(), &pages(false).0, |layer| layer.encode(all()));
        warm(&app, "/", "zstd", &[]).await;
        let response = ask(&app, "zstd, gzip", "bytes=5-", Some("\"v1-cl~gzip\"")).await;
        assert_eq!((response.status.as_u16(), coding(&response), decoded(&response)), (200, "zstd", page().into()));
    }

    async fn a_part_of_a_miss_is_one_of_what_the_application_sent(backend: &Backend) {
        let app = app(backend, &pages(false).0).await;
        let part = ask(&app, "gzip", "bytes=10-19", None).await;
        assert_eq!((part.x_cache(), part.status.as_u16(), coding(&part)), ("MISS", 206, "identity"));
        assert_eq!((part.text(), part.header("etag")), (&page()[10..20], Some("\"v1\"")));
        assert_eq!(part.header("vary"), Some("accept-encoding"));
    }

    over_each_store!(
        a_part_is_one_of_what_is_sent,
        a_client_goes_on_with_what_it_has_a_part_of,
        a_client_whose_coding_is_not_there_starts_again,
        a_part_of_a_miss_is_one_of_what_the_application_sent,
    );
}

mod streams {
    use super::*;

    /// Of unknown length, piece by piece; a request that joins gets the pieces as they come in.
    async fn what_streams_is_encoded_once_it_is_there(backend: &Backend) {
        let (feed, unread) = Feed::new();
        let unread = Mutex::new(Some(unread));
        let origin = Origin::new(move |_, _| {
            let body: Option<Body> = unread.lock().unwrap().take();
            async move {
                let response = http::Response::builder().header("cache-control", "max-age=60");
                Ok(response.header("content-type", "text/plain").body(body.expect("one load")).unwrap())
            }
        });
        let app = app(backend, &origin).await;
        let gzip = [("accept-encoding", "gzip")];
        let first = tokio::spawn({
            let app = app.clone();
            async move { app.get("/", &gzip).await }
        });
        for _ in 0..10 {
            feed.data(page()).unwrap();
        }
        drop(feed);
        let first = first.await.unwrap();
        assert_eq!(
            (first.x_cache(), coding(&first), first.header("vary")),
            ("MISS", "identity", Some("accept-encoding"))
        );
        let hit = warm(&app, "/", "gzip", &[]).await;
        assert_eq!(decoded(&hit), page().repeat(10).as_bytes());
    }

    /// The length is known only once the whole body is there.
    async fn what_streams_and_is_short_is_left_alone(backend: &Backend) {
        let encoded = Arc::new(AtomicUsize::new(0));
        let count = encoded.clone();
        let cache = backend.cache().await.observer(move |event: Event| {
            count.fetch_add(usize::from(matches!(event, Event::Encoded { .. })), Ordering::SeqCst);
        });
        let (feed, unread) = Feed::new();
        let unread = Mutex::new(Some(unread));
        let origin = Origin::new(move |_, _| {
            let body: Option<Body> = unread.lock().unwrap().take();
            async move {
                let response = http::Response::builder().header("cache-control", "max-age=60");
                Ok(response.header("content-type", "text/plain").body(body.expect("one load")).unwrap())
            }
        });
        let app = App::new(cache.build(), &origin, |layer| layer.encode(all().at_least(200).in_store(true)));
        feed.data("short ".repeat(30)).unwrap();
        drop(feed);
        for x_cache in ["MISS", "HIT", "HIT"] {
            let response = app.get("/", &[("accept-encoding", "gzip")]).await;
            assert_eq!((response.x_cache(), coding(&response)), (x_cache, "identity"));
        }
        assert_eq!(encoded.load(Ordering::SeqCst), 0);
    }

    over_each_store!(what_streams_is_encoded_once_it_is_there, what_streams_and_is_short_is_left_alone);
}

mod slow_encoders {
    use super::*;

    const GZIP: Fields<'_> = &[("accept-encoding", "gzip")];
    /// Longer than any test needs, and short enough that a test that fails ends.
    const LIMIT: Duration = Duration::from_secs(30);
    const LOCK_TIMEOUT: Duration = Duration::from_secs(9);

    /// Holds every encoder of a cache up, once it has encoded, until it is released.
    #[derive(Clone, Default)]
    struct Brake {
        held: Arc<AtomicUsize>,
        released: Arc<(Mutex<bool>, Condvar)>,
    }

    impl Brake {
        /// To be called by an observer.
        fn hold(&self, event: &Event) {
            if !matches!(event, Event::Encoded { .. }) {
                return;
            }
            self.held.fetch_add(1, Ordering::SeqCst);
            let (released, changed) = &*self.released;
            let held = changed.wait_timeout_while(released.lock().unwrap(), LIMIT, |released| !*released);
            drop(held.unwrap());
        }

        async fn holds(&self, encoders: usize) {
            wait_until("the encoders are held up", async || self.held.load(Ordering::SeqCst) >= encoders).await;
        }

        fn release(&self) {
            let (released, changed) = &*self.released;
            *released.lock().unwrap() = true;
            changed.notify_all();
        }
    }

    /// So long that an encoder has a thread of its own: another one for each call. It has the tag `pages`.
    fn long_pages() -> Origin {
        Origin::new(|call, _| async move {
            let response = http::Response::builder().header("cache-control", "max-age=60").header("x-call", call);
            let mut response = response.header("content-type", "text/plain").body(full(long_page(call))).unwrap();
            response.extensions_mut().insert(Tags::new(["pages"]));
            Ok(response)
        })
    }

    fn long_page(call: usize) -> String {
        format!("page of call {call}: {}", page().repeat(12))
    }

    fn gzip() -> Encode {
        Encode::new([Coding::Gzip]).in_store(true).at_once(8)
    }

    /// An app whose encoders the brake holds up.
    async fn braked(backend: &Backend, origin: &Origin, encode: Encode) -> (App, Brake) {
        let brake = Brake::default();
        let holds = brake.clone();
        let cache = backend.cache().await.lock_timeout(LOCK_TIMEOUT).observer(move |event: Event| holds.hold(&event));
        (App::new(cache.build(), origin, |layer| layer.encode(encode)).unexplained(), brake)
    }

    /// The answer, while loads and encoders may still be under way. It is whole, and of one call.
    async fn ask(app: &App, uri: &str) -> (Response, usize) {
        let response = tests::ask(&app.service(), tests::request(Method::GET, uri, GZIP)).await.unwrap();
        let call = response.header("x-call").unwrap().parse().unwrap();
        assert_eq!(decoded(&response), long_page(call).as_bytes(), "{uri}");
        (response, call)
    }

    /// The call of the answer to a miss, once the brake holds up the encoder. In memory, the first hit has it encoded.
    async fn ask_until_held(backend: &Backend, app: &App, brake: &Brake, uri: &str) -> usize {
        let call = ask(app, uri).await.1;
        if matches!(backend, Backend::Memory(_)) {
            let hit = ask(app, uri).await;
            assert_eq!((hit.0.x_cache(), hit.1), ("HIT", call));
        }
        brake.holds(1).await;
        call
    }

    /// However it is invalidated, and by whichever process.
    async fn what_was_invalidated_meanwhile_is_not_published(backend: &Backend) {
        for (number, how) in ["key", "tag", "pattern", "everything"].into_iter().enumerate() {
            for is_other in [false, true] {
                let origin = long_pages();
                let (app, brake) = braked(backend, &origin, gzip()).await;
                let other = backend.cache().await.build();
                let (by, uri) = (if is_other { &other } else { &app.cache }, format!("/{number}/{is_other}"));
                assert_eq!(ask_until_held(backend, &app, &brake, &uri).await, 1);
                match how {
                    "key" => {
                        let target = format!("http://shop.example{uri}").parse().unwrap();
                        by.invalidate(&CacheLayer::new(by.clone()).key(&target).unwrap()).await.unwrap();
                    }
                    "tag" => by.invalidate_tag("pages").await.unwrap(),
                    "pattern" => by.delete_pattern("http://shop.example/*").await.unwrap(),
                    _ => by.invalidate_all().await.unwrap(),
                }
                // It may have to wait for the load before it, which has the lease.
                let next = tokio::spawn({
                    let (app, uri) = (app.clone(), uri.clone());
                    async move { ask(&app, &uri).await }
                });
                tokio::task::yield_now().await;
                brake.release();
                assert_eq!(next.await.unwrap().1, 2, "{how} {is_other}");
                app.settled().await;
                for _ in 0..3 {
                    assert_ne!(ask(&app, &uri).await.1, 1, "{how} {is_other}");
                    app.settled().await;
                }
            }
        }
    }

    /// The old content in a coding is not that of the new response, which is there before it.
    async fn what_was_replaced_meanwhile_gets_nothing_of_it(backend: &Backend) {
        let origin = long_pages();
        let (app, brake) = braked(backend, &origin, gzip()).await;
        let key = CacheLayer::new(app.cache.clone()).key(&"http://shop.example/".parse().unwrap()).unwrap();
        assert_eq!(ask_until_held(backend, &app, &brake, "/").await, 1);
        app.cache.invalidate(&key).await.unwrap();
        // By an instance that encodes nothing, so that it does not wait.
        let cache = match backend {
            Backend::Memory(_) => app.cache.clone(),
            Backend::Redis(_) | Backend::Tiered(_) => backend.cache().await.build(),
        };
        let plain = App::new(cache, &origin, |layer| layer).unexplained();
        let (miss, call) = ask(&plain, "/").await;
        assert_eq!((miss.x_cache(), call), ("MISS", 2));
        wait_until("it is stored", async || ask(&plain, "/").await.0.x_cache() == "HIT").await;
        if !matches!(backend, Backend::Memory(_)) {
            plain.settled().await;
        }
        brake.release();
        app.settled().await;
        the_second_answer_stays(&app, &origin).await;
    }

    /// Hits, also once what was encoded has been stored, or thrown away.
    async fn the_second_answer_stays(app: &App, origin: &Origin) {
        for _ in 0..3 {
            let (hit, call) = ask(app, "/").await;
            assert_eq!((hit.x_cache(), call), ("HIT", 2));
            app.settled().await;
        }
        assert_eq!(origin.calls(), 2);
    }

    /// In the memory of this process, for a client of a stored response.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_invalidated_while_a_hit_had_it_encoded_does_not_come_back() {
        for backend in [Backend::memory(), Backend::tiered()] {
            let origin = long_pages();
            let (app, brake) = braked(&backend, &origin, Encode::new([Coding::Gzip]).at_once(8)).await;
            let other = backend.cache().await.build();
            let key = CacheLayer::new(other.clone()).key(&"http://shop.example/".parse().unwrap()).unwrap();
            app.get("/", &[]).await;
            let (hit, call) = ask(&app, "/").await;
            assert_eq!((hit.x_cache(), call), ("HIT", 1));
            brake.holds(1).await;
            other.invalidate(&key).await.unwrap();
            // Another process's invalidation reaches a first tier by a push.
            wait_until("it is loaded again", async || ask(&app, "/").await.1 == 2).await;
            brake.release();
            app.settled().await;
            the_second_answer_stays(&app, &origin).await;
        }
    }

    /// Other processes wait for the load that encodes, and get what it stores.
    async fn the_lease_outlasts_them(backend: &Backend) {
        let origin = long_pages();
        let (app, brake) = braked(backend, &origin, gzip()).await;
        let other = App::new(backend.cache().await.lock_timeout(LIMIT).build(), &origin, |layer| layer).unexplained();
        assert_eq!(ask_until_held(backend, &app, &brake, "/").await, 1);
        // A lease that is not renewed ends after a third of this.
        tokio::time::sleep(LOCK_TIMEOUT * 2 / 3).await;
        let waits = tokio::spawn(async move { ask(&other, "/").await.1 });
        tokio::time::sleep(LOCK_TIMEOUT / 9).await;
        brake.release();
        assert_eq!(waits.await.unwrap(), 1);
        app.settled().await;
        assert_eq!((origin.calls(), app.cache.counts().stored, app.cache.counts().fenced), (1, 1, 0));
    }

    /// `gzip`, and `zstd` at a level that takes as long.
    async fn what_finds_none_free_is_stored_as_it_is(backend: &Backend) {
        for (coding, encode) in [
            ("gzip", Encode::new([Coding::Gzip])),
            ("zstd", Encode::new([Coding::Zstd]).level(Coding::Zstd, 15).unwrap()),
        ] {
            let origin = long_pages();
            let (app, brake) = braked(backend, &origin, encode.in_store(true).at_once(1)).await;
            let fields = [("accept-encoding", coding)];
            let ask = async |uri: &str| {
                let request = tests::request(Method::GET, uri, &fields);
                tests::ask(&app.service(), request).await.unwrap()
            };
            let uri = format!("/{coding}/a");
            ask(&uri).await;
            if matches!(backend, Backend::Memory(_)) {
                assert_eq!(ask(&uri).await.x_cache(), "HIT");
            }
            brake.holds(1).await;
            let uri = format!("/{coding}/b");
            assert_eq!(ask(&uri).await.x_cache(), "MISS");
            wait_until("it is stored", async || ask(&uri).await.x_cache() == "HIT").await;
            let hit = ask(&uri).await;
            assert_eq!((self::coding(&hit), &*decoded(&hit)), ("identity", long_page(2).as_bytes()), "{coding}");
            assert_eq!(brake.held.load(Ordering::SeqCst), 1, "{coding}");
            brake.release();
            app.settled().await;
            if !matches!(backend, Backend::Redis(_)) {
                warm(&app, &uri, coding, &[]).await;
            }
            assert_eq!(origin.calls(), 2);
        }
    }

    /// The only one of this runtime.
    #[tokio::test]
    async fn they_keep_no_thread_that_serves_requests() {
        for backend in [Backend::memory(), Backend::redis(), Backend::tiered()] {
            for (coding, level) in [(Coding::Zstd, 19), (Coding::Brotli, 5), (Coding::Gzip, 6)] {
                let encoded_on = Arc::new(Mutex::new(Vec::new()));
                let threads = encoded_on.clone();
                let cache = backend.cache().await.observer(move |event: Event| {
                    if matches!(event, Event::Encoded { .. }) {
                        threads.lock().unwrap().push(thread::current().id());
                    }
                });
                let encode = Encode::new([coding]).level(coding, level).unwrap().in_store(true);
                let app = App::new(cache.build(), &long_pages(), |layer| layer.encode(encode));
                warm(&app, &format!("/{coding}"), coding.as_str(), &[]).await;
                let threads = encoded_on.lock().unwrap();
                assert!(!threads.is_empty() && !threads.contains(&thread::current().id()), "{coding} {threads:?}");
            }
        }
    }

    over_each_store!(
        what_was_invalidated_meanwhile_is_not_published,
        what_was_replaced_meanwhile_gets_nothing_of_it,
        the_lease_outlasts_them,
        what_finds_none_free_is_stored_as_it_is,
    );
}

mod stores {
    use super::*;

    /// Redis keeps one frame, which clients that accept zstd get; the other codings are kept in the process.
    #[tokio::test]
    async fn redis_has_one_frame() {
        let server = RedisServer::start();
        let connect = async || {
            let store = RedisStore::builder(server.url()).operation_timeout(Duration::from_secs(10)).build().unwrap();
            assert!(store.wait_connected(Duration::from_secs(10)).await);
            store
        };
        let (origin, _) = pages(false);
        let alone = App::new(Cache::new(connect().await), &origin, |layer| layer.encode(all()));
        alone.get("/", &[]).await;
        let keys: Vec<_> = server.keys().into_iter().filter(|key| key.contains(":e:")).collect();
        let length: usize = server.command(&["STRLEN", &keys[0]]);
        assert!(keys.len() == 1 && length < page().len() / 2, "{keys:?}: {length}");

        for (accepts, expected) in [("zstd", "zstd"), ("gzip, zstd", "zstd"), ("gzip", "identity"), ("", "identity")] {
            let hit = alone.get("/", &[("accept-encoding", accepts)]).await;
            assert_eq!((hit.x_cache(), coding(&hit), decoded(&hit)), ("HIT", expected, page().into()), "{accepts}");
        }

        let store = TieredStore::new(1 << 20, connect().await);
        let tiered = App::new(Cache::new(store.clone()), &origin, |layer| layer.encode(all()));
        let bytes = async |accepts: &str, expected: &str| {
            let hit = warm(&tiered, "/", accepts, &[]).await;
            assert_eq!((hit.x_cache(), coding(&hit), decoded(&hit)), ("HIT", expected, page().into()), "{accepts}");
            store.memory_bytes()
        };
        let framed = bytes("zstd", "zstd").await;
        assert_eq!(bytes("zstd", "zstd").await, framed, "nothing was inflated");
        let inflated = bytes("identity", "identity").await;
        assert!((page().len() as u64..page().len() as u64 + 200).contains(&(inflated - framed)), "{inflated} {framed}");
        assert_eq!(bytes("identity", "identity").await, inflated, "once");
        let coded = bytes("gzip", "gzip").await;
        assert!(inflated < coded && coded < inflated + page().len() as u64 / 3, "{coded} {inflated}");
        assert_eq!(bytes("gzip", "gzip").await, coded);
        assert_eq!(origin.calls(), 1);
    }

    /// Nobody would ever get a coding otherwise.
    #[tokio::test]
    async fn redis_alone_has_all_codings_where_none_of_them_is_its_frame() {
        let backend = Backend::redis();
        let set = |layer: CacheLayer| layer.encode([Coding::Brotli, Coding::Gzip]);
        let app = App::new(backend.cache().await.build(), &pages(false).0, set);
        for accepts in ["br", "gzip"] {
            warm(&app, "/", accepts, &[]).await;
        }
    }

    /// Instances that encode and instances that do not read the same entries.
    #[tokio::test]
    async fn an_instance_that_encodes_nothing_reads_what_others_wrote() {
        for backend in [Backend::redis(), Backend::tiered()] {
            let (origin, _) = pages(false);
            let encodes = app(&backend, &origin).await;
            let plain = App::new(backend.cache().await.build(), &origin, |layer| layer);
            encodes.get("/", &[]).await;
            for accepts in ["zstd", "gzip", ""] {
                for _ in 0..2 {
                    let hit = plain.get("/", &[("accept-encoding", accepts)]).await;
                    assert_eq!((hit.x_cache(), coding(&hit), hit.text()), ("HIT", "identity", &*page()));
                    assert_eq!(hit.header("etag"), Some("\"v1\""));
                }
            }
            plain.get("/plain", &[]).await;
            warm(&encodes, "/plain", "identity", &[]).await;
            assert_eq!(origin.calls(), 2);
        }
    }

    #[tokio::test]
    async fn codings_count_for_the_size_of_a_store() {
        let store = MemoryStore::new(1 << 20);
        let app = App::new(Cache::new(store.clone()), &pages(false).0, |layer| layer.encode(all()));
        app.get("/", &[]).await;
        let plain = store.bytes();
        let mut bytes = plain;
        for name in ["zstd", "gzip"] {
            let coded = warm(&app, "/", name, &[]).await.body.len() as u64;
            assert!((coded..coded + 600).contains(&(store.bytes() - bytes)), "{name}: {} {bytes}", store.bytes());
            bytes = store.bytes();
        }
        println!("an entry of {} bytes takes {plain}, and with two codings {bytes}", page().len());
        app.send(Method::PUT, "/", &[]).await;
        assert_eq!((store.bytes(), store.entries()), (0, 0));
    }

    /// From which length on, and at which level, values are compressed that no client gets in a coding.
    #[tokio::test]
    async fn how_values_are_compressed_in_redis_can_be_set() {
        let server = RedisServer::start();
        let builder = || RedisStore::builder(server.url()).operation_timeout(Duration::from_secs(10));
        let connect = async |builder: cache_layer::store::RedisStoreBuilder| {
            let store = builder.build().unwrap();
            assert!(store.wait_connected(Duration::from_secs(10)).await);
            Cache::new(store)
        };
        let usual = connect(builder()).await;
        let none = connect(builder().compress_at_least(usize::MAX)).await;
        let all = connect(builder().compress_at_least(100)).await;
        let quick = connect(builder().compression_level(1)).await;
        let best = connect(builder().compression_level(19)).await;
        let (long, short) = (page(), "short ".repeat(100));
        let length = async |cache: &Cache, value: &String| {
            cache.set("value", value).ttl(Duration::from_secs(60)).await.unwrap();
            assert_eq!(usual.get::<String>("value").await.as_ref(), Some(value), "every process reads it");
            let keys: Vec<_> = server.keys().into_iter().filter(|key| key.contains(":e:")).collect();
            server.command::<usize>(&["STRLEN", &keys[0]])
        };
        assert!(length(&usual, &short).await > short.len() && length(&usual, &long).await < long.len() / 2);
        assert!(length(&none, &long).await > long.len());
        assert!(length(&all, &short).await < short.len());
        assert!(length(&best, &long).await < length(&quick, &long).await);
    }

    /// On the one thread that requests and encoders share.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_client_is_answered_before_anything_is_encoded() {
        for backend in [Backend::memory(), Backend::redis(), Backend::tiered()] {
            let encoded = Arc::new(AtomicUsize::new(0));
            let count = encoded.clone();
            let cache = backend.cache().await.observer(move |event: Event| {
                count.fetch_add(usize::from(matches!(event, Event::Encoded { .. })), Ordering::SeqCst);
            });
            let app = App::new(cache.build(), &pages(false).0, |layer| layer.encode(all()));
            let is_in_memory = matches!(backend, Backend::Memory(_));
            let client = tokio::spawn({
                let (app, encoded) = (app.clone(), encoded.clone());
                async move {
                    for uri in ["/a", "/b", "/c"] {
                        let before = encoded.load(Ordering::SeqCst);
                        let request = tests::request(Method::GET, uri, &[("accept-encoding", "zstd")]);
                        drop(app.begin(request).await.unwrap());
                        assert_eq!(
                            encoded.load(Ordering::SeqCst),
                            before,
                            "the answer to the miss of {uri} came first"
                        );
                        app.settled().await;
                        let at_commit = usize::from(!is_in_memory);
                        assert_eq!(encoded.load(Ordering::SeqCst), before + at_commit, "{uri}");
                    }
                    // By a hit, where what it makes is kept.
                    let before = encoded.load(Ordering::SeqCst);
                    let request = tests::request(Method::GET, "/a", &[("accept-encoding", "br")]);
                    drop(app.begin(request).await.unwrap());
                    assert_eq!(encoded.load(Ordering::SeqCst), before, "the answer to the hit came first");
                    app.settled().await;
                    assert!(!is_in_memory || encoded.load(Ordering::SeqCst) == before + 1);
                }
            });
            client.await.unwrap();
        }
    }

    /// In memory, where a coding can be made at any time.
    #[tokio::test]
    async fn what_is_asked_for_once_is_not_encoded() {
        let (clock, encoded) = (Clock::manual(), Arc::new(AtomicUsize::new(0)));
        let count = encoded.clone();
        let cache = Backend::memory().cache().await.clock(clock.clone()).observer(move |event: Event| {
            count.fetch_add(usize::from(matches!(event, Event::Encoded { .. })), Ordering::SeqCst);
        });
        let app = App::new(cache.build(), &pages(false).0, |layer| layer.encode(all()));
        let ask = async || {
            let response = app.get("/", &[("accept-encoding", "gzip")]).await;
            app.settled().await;
            (response.x_cache().to_owned(), coding(&response).to_owned(), encoded.load(Ordering::SeqCst))
        };
        let expect = |x_cache: &str, coding: &str, encoded| (x_cache.to_owned(), coding.to_owned(), encoded);
        assert_eq!(ask().await, expect("MISS", "identity", 0));
        assert_eq!(ask().await, expect("HIT", "identity", 1), "the first hit has it encoded");
        assert_eq!(ask().await, expect("HIT", "gzip", 1));
        clock.advance(Duration::from_secs(61));
        assert_eq!(
            ask().await,
            expect("MISS", "identity", 2),
            "it replaces a stale response, and was asked for before"
        );
        assert_eq!(ask().await, expect("HIT", "gzip", 2));
    }

    /// An entry that was invalidated while it was encoded does not come back.
    #[tokio::test(flavor = "multi_thread")]
    async fn no_encoder_brings_back_what_was_invalidated() {
        for _ in 0..200 {
            let app = App::new(Cache::new(MemoryStore::new(1 << 20)), &pages(false).0, |layer| layer.encode(all()));
            app.get("/", &[]).await;
            let key = CacheLayer::new(app.cache.clone()).key(&"http://shop.example/".parse().unwrap()).unwrap();
            drop(app.begin(tests::request(Method::GET, "/", &[("accept-encoding", "gzip")])).await.unwrap());
            app.cache.invalidate(&key).await.unwrap();
            app.settled().await;
            assert_eq!(app.get("/", &[("accept-encoding", "gzip")]).await.x_cache(), "MISS");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn bytes_in_are_bytes_out(
            words in prop::collection::vec("[a-z]{1,9}", 0..400),
            noise in prop::collection::vec(any::<u8>(), 0..400),
            accepts in "(zstd|br|gzip|identity|\\*)(;q=0\\.[0-9])?(, (zstd|br|gzip|identity|\\*)(;q=0\\.[0-9])?){0,3}",
        ) {
            let content = [words.join(" ").into_bytes(), noise].concat();
            let body = content.clone();
            let origin = Origin::new(move |_, _| {
                let body = body.clone();
                async move {
                    let response = http::Response::builder().header("cache-control", "max-age=60");
                    Ok(response.header("content-type", "text/plain").body(full(body)).unwrap())
                }
            });
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let app = App::new(Cache::new(MemoryStore::new(1 << 20)), &origin, |layer| layer.encode(all()));
                for _ in 0..3 {
                    assert_eq!(decoded(&app.get("/", &[("accept-encoding", &accepts)]).await), content, "{accepts}");
                }
            });
        }
    }
}

/// An application that compresses goes on doing it, and the cache keeps what it makes: each coding as a variant.
#[tokio::test]
async fn an_application_that_encodes_itself_is_left_alone() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let handler = async move || {
        count.fetch_add(1, Ordering::SeqCst);
        ([("cache-control", "max-age=60"), ("content-type", "application/json")], page())
    };
    let cache = Cache::new(MemoryStore::new(1 << 20));
    let router = Router::new()
        .route("/", get(handler))
        .layer(CompressionLayer::new())
        .layer(CacheLayer::new(cache.clone()).encode(all()));
    let ask = async |accepts: &str| {
        let request = tests::request(Method::GET, "/", &[("accept-encoding", accepts)]);
        let response = tests::ask(&router, request).await.unwrap();
        assert!(cache.drain(Duration::from_secs(10)).await);
        assert_eq!((decoded(&response), response.header("vary")), (page().into(), Some("accept-encoding")));
        (response.x_cache().to_owned(), coding(&response).to_owned())
    };
    for x_cache in ["MISS", "HIT", "HIT"] {
        assert_eq!(ask("gzip").await, (x_cache.to_owned(), "gzip".to_owned()));
        assert_eq!(ask("").await, (x_cache.to_owned(), "identity".to_owned()));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

mod clients {
    use super::*;

    /// A server with a warm cache in front of `/`, and its URL.
    async fn serve() -> String {
        let handler = async || {
            ([("cache-control", "max-age=60"), ("content-type", "application/json"), ("etag", "\"v1\"")], page())
        };
        let cache = Cache::new(MemoryStore::new(1 << 20));
        let router = Router::new().route("/", get(handler)).layer(CacheLayer::new(cache.clone()).encode(all()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        let client = tests::HttpClient::new();
        for accepts in ["zstd", "br", "gzip"] {
            for _ in 0..2 {
                client.get(&url, &[("accept-encoding", accepts)]).await;
                assert!(cache.drain(Duration::from_secs(10)).await);
            }
            assert_eq!(coding(&client.get(&url, &[("accept-encoding", accepts)]).await), accepts);
        }
        url
    }

    /// What another program's client prints: the coding, a line break, and the content as the program decoded it.
    async fn run(program: &'static str, args: Vec<String>) -> (String, String) {
        let output = tokio::task::spawn_blocking(move || Command::new(program).args(args).output()).await.unwrap();
        let output = output.unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("decoded text");
        let (coding, content) = text.split_once('\n').expect("two parts");
        (coding.trim().to_owned(), content.to_owned())
    }

    #[tokio::test]
    async fn curl_decodes_what_it_gets() {
        let url = serve().await;
        for accepts in ["zstd", "br", "gzip"] {
            // curl names the codings that its build can decode; it also decodes the coding that this field names.
            let field = format!("accept-encoding: {accepts}");
            let args = ["-sS", "--compressed", "-H", &field, "-D", "-", &url];
            let output = tokio::task::spawn_blocking({
                let args = args.map(ToOwned::to_owned);
                move || Command::new("curl").args(args).output()
            });
            let output = output.await.unwrap().expect("curl must be installed");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout).expect("decoded text");
            let (head, content) = text.split_once("\r\n\r\n").expect("a head");
            assert!(head.to_ascii_lowercase().contains(&format!("content-encoding: {accepts}")), "{head}");
            assert_eq!(content, page());
        }
    }

    #[tokio::test]
    async fn python_decodes_what_it_gets() {
        let script = "import gzip, sys, urllib.request as r\n\
            a = r.urlopen(r.Request(sys.argv[1], headers={'Accept-Encoding': 'gzip'}))\n\
            print(a.headers['Content-Encoding'])\n\
            sys.stdout.write(gzip.decompress(a.read()).decode())";
        let args = vec!["-c".to_owned(), script.to_owned(), serve().await];
        assert_eq!(run("python3", args).await, ("gzip".to_owned(), page()));
    }

    #[tokio::test]
    async fn node_decodes_what_it_gets() {
        let script = "fetch(process.argv[1], {headers: {'accept-encoding': process.argv[2]}}).then(async (a) => \
            process.stdout.write(a.headers.get('content-encoding') + '\\n' + await a.text()))";
        let url = serve().await;
        for accepts in ["gzip", "br"] {
            let args = ["-e", script, &url, accepts].map(ToOwned::to_owned).to_vec();
            assert_eq!(run("node", args).await, (accepts.to_owned(), page()));
        }
    }
}
