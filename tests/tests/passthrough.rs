//! Stored responses are sent as they were, and responses that are not stored pass through unchanged.

use std::time::Duration;

use bytes::Bytes;
use cache_layer::{CacheLayer, Clock};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use tests::{
    App, Backend, Body, CacheStatus, Failure, Feed, HOST, Origin, echo, full, over_each_store, request, wait_until,
};

type Fields = &'static [(&'static str, &'static str)];

const MAX_AGE: Fields = &[("cache-control", "max-age=60")];
const MINUTE: Duration = Duration::from_secs(60);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn app(backend: &Backend, origin: &Origin, clock: &Clock, set: impl FnOnce(CacheLayer) -> CacheLayer) -> App {
    App::new(backend.cache().await.clock(clock.clone()).build(), origin, set)
}

/// A body in pieces, with these trailers.
fn in_pieces(pieces: &[&'static str], trailers: Option<HeaderMap>) -> Body {
    let pieces: Vec<_> = pieces.iter().map(|piece| Frame::data(Bytes::from_static(piece.as_bytes()))).collect();
    let frames = pieces.into_iter().chain(trailers.map(Frame::trailers)).map(Ok);
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

fn trailers(value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([("x-checksum".parse().unwrap(), HeaderValue::from_static(value))])
}

/// The next piece of a body.
async fn piece<B>(response: &mut Response<B>) -> Bytes
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Unpin,
{
    let frame = tokio::time::timeout(seconds(30), response.body_mut().frame()).await;
    frame.expect("a piece in time").expect("a piece").unwrap().into_data().expect("a piece of data")
}

mod a_request {
    use super::*;

    /// The application answers piece by piece as the request comes in, and ends with the request's trailers.
    async fn with_a_body_passes_in_both_directions_at_once(backend: &Backend) {
        let origin = Origin::new(|_, request| async move {
            let (feed, answer) = Feed::new();
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(frame) = body.frame().await {
                    feed.frame(frame.unwrap()).unwrap();
                }
            });
            let response = Response::builder().header("cache-control", "max-age=60");
            Ok(response.body(answer).unwrap())
        });
        let app = App::on(backend, &origin).await;
        for method in ["POST", "PUT", "PATCH", "GET"] {
            let (feed, body) = Feed::new();
            let request = Request::builder().method(method).uri("/").header("host", HOST);
            let mut response = app.begin(request.body(body).unwrap()).await.unwrap();
            assert_eq!(response.headers()["x-cache"], "BYPASS");
            for chunk in ["one", "two", "three"] {
                feed.data(chunk).unwrap();
                assert_eq!(piece(&mut response).await, chunk, "{method}");
            }
            feed.trailers(trailers("of the request")).unwrap();
            drop(feed);
            let rest = response.into_body().collect().await.unwrap();
            assert_eq!(rest.trailers(), Some(&trailers("of the request")), "{method}");
            assert!(rest.to_bytes().is_empty());
        }
    }

    async fn reaches_the_application_as_it_is(backend: &Backend) {
        #[derive(Debug, Clone, PartialEq)]
        struct RequestId(u32);
        #[derive(Debug, Clone, PartialEq)]
        struct Matched(u32);

        let origin = Origin::new(|call, request| async move {
            let RequestId(id) = *request.extensions().get().expect("the extension");
            let obs_text = request.headers()["x-raw"].as_bytes() == b"caf\xe9";
            let twice: Vec<_> = request.headers().get_all("x-twice").iter().cloned().collect();
            assert!(obs_text && twice == ["one", "two"] && request.version() == http::Version::HTTP_10);
            let mut response = echo(call, &request, MAX_AGE);
            response.extensions_mut().insert(Matched(id));
            Ok(response)
        });
        let app = App::on(backend, &origin).await;
        for (id, method) in [(1, Method::GET), (2, Method::HEAD), (3, Method::POST)] {
            let mut request = request(method, &format!("/{id}"), &[("x-twice", "one"), ("x-twice", "two")]);
            request.headers_mut().insert("x-raw", HeaderValue::from_bytes(b"caf\xe9").unwrap());
            request.extensions_mut().insert(RequestId(id));
            *request.version_mut() = http::Version::HTTP_10;
            let response = app.begin(request).await.unwrap();
            assert_eq!(response.extensions().get(), Some(&Matched(id)));
        }
    }

    async fn that_is_not_for_the_cache_is_told_why(backend: &Backend) {
        let app = App::on(backend, &Origin::echo(MAX_AGE)).await;
        app.get("/", &[]).await;
        let cases: [(&str, &str, Fields, &str, Option<&str>); 12] = [
            ("POST", "/", &[], "method", None),
            ("OPTIONS", "/", &[], "method", None),
            ("CONNECT", "a.example:443", &[], "method", None),
            ("GET", "/", &[("upgrade", "websocket"), ("connection", "Upgrade")], "bypass", Some("upgrade")),
            ("GET", "/", &[("range", "pages=0-1")], "bypass", Some("range")),
            ("HEAD", "/", &[("range", "pages=0-1")], "bypass", Some("range")),
            ("GET", "/", &[("if-match", "*")], "bypass", Some("conditional")),
            ("GET", "/", &[("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT")], "bypass", Some("conditional")),
            ("GET", "/", &[("cache-control", "no-store")], "bypass", Some("request-no-store")),
            ("HEAD", "/", &[("cache-control", "max-age=0, No-Store")], "bypass", Some("request-no-store")),
            ("GET", "/", &[("host", "")], "bypass", Some("no-authority")),
            ("GET", "/", &[("host", "a"), ("host", "b")], "bypass", Some("no-authority")),
        ];
        for (call, (method, uri, fields, fwd, detail)) in cases.into_iter().enumerate() {
            let answer = app.send(method.parse().unwrap(), uri, fields).await;
            assert_eq!((answer.x_cache(), answer.call()), ("BYPASS", call + 2), "{method} {fields:?}");
            let expected =
                CacheStatus { fwd: Some(fwd.into()), detail: detail.map(Into::into), ..CacheStatus::default() };
            assert_eq!(answer.cache_status(), expected, "{method} {fields:?}");
            assert_eq!(answer.header("age"), None);
        }
    }

    over_each_store!(
        with_a_body_passes_in_both_directions_at_once,
        reaches_the_application_as_it_is,
        that_is_not_for_the_cache_is_told_why,
    );
}

mod an_upgrade {
    use hyper::{body::Incoming, server::conn::http1, service::Service as _};
    use hyper_util::{rt::TokioIo, service::TowerToHyperService};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };
    use tower::{Layer as _, service_fn};

    use super::*;

    async fn goes_through_to_the_application(backend: &Backend) {
        let shout = service_fn(async |mut request: Request<Incoming>| {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut word = [0; 5];
                stream.read_exact(&mut word).await.unwrap();
                stream.write_all(&word.to_ascii_uppercase()).await.unwrap();
            });
            let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header("upgrade", "shout");
            Ok::<_, Failure>(response.header("connection", "upgrade").body(full("")).unwrap())
        });
        let layer = CacheLayer::new(backend.cache().await.build()).ttl(MINUTE);
        let service = TowerToHyperService::new(layer.layer(shout));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(move |request| service.call(request));
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await.unwrap();
        });

        let stream = TcpStream::connect(addr).await.unwrap();
        let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let request = request(Method::GET, "/", &[("connection", "upgrade"), ("upgrade", "shout")]);
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(CacheStatus::of(response.headers()).detail.as_deref(), Some("upgrade"));
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        stream.write_all(b"hello").await.unwrap();
        let mut word = [0; 5];
        stream.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"HELLO");
        server.await.unwrap();
    }

    over_each_store!(goes_through_to_the_application);
}

mod a_stream {
    use super::*;

    /// An application whose body a test sends; only the first of them is left to it.
    fn in_hand(fields: Fields) -> (Origin, Feed) {
        let (feed, body) = Feed::new();
        let body = std::sync::Mutex::new(Some(body));
        let origin = Origin::new(move |call, request| {
            let body = body.lock().unwrap().take();
            let mut response = echo(call, &request, fields);
            if let Some(body) = body {
                *response.body_mut() = body;
            }
            std::future::ready(Ok(response))
        });
        (origin, feed)
    }

    async fn of_events_arrives_one_by_one_and_is_not_kept(backend: &Backend) {
        let (origin, feed) =
            in_hand(&[("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "max-age=60")]);
        let app = App::on(backend, &origin).await;
        let mut stream = app.begin(request(Method::GET, "/", &[])).await.unwrap();
        assert_eq!(CacheStatus::of(stream.headers()).detail.as_deref(), Some("event-stream"));
        for event in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
            feed.data(event).unwrap();
            assert_eq!(piece(&mut stream).await, event);
        }
        // Nobody holds on to it but its client.
        app.settled().await;
        drop(stream);
        assert!(feed.data("data: four\n\n").is_err(), "somebody still listens");
        assert_eq!(app.get("/", &[]).await.call(), 2);
    }

    async fn that_will_be_stored_arrives_as_it_is_made(backend: &Backend) {
        let (origin, feed) = in_hand(MAX_AGE);
        let app = App::on(backend, &origin).await;
        let mut stream = app.begin(request(Method::GET, "/", &[])).await.unwrap();
        for chunk in ["one ", "two "] {
            feed.data(chunk).unwrap();
            assert_eq!(piece(&mut stream).await, chunk);
        }
        feed.data("three").unwrap();
        drop(feed);
        assert_eq!(stream.into_body().collect().await.unwrap().to_bytes(), "three");
        app.settled().await;
        let hit = app.get("/", &[]).await;
        assert_eq!((hit.x_cache(), &*hit.body), ("HIT", &b"one two three"[..]));
    }

    async fn that_grows_too_long_goes_on_as_it_is_made(backend: &Backend) {
        let (origin, feed) = in_hand(MAX_AGE);
        let app = app(backend, &origin, &Clock::system(), |layer| layer.max_body(6)).await;
        let mut stream = app.begin(request(Method::GET, "/", &[])).await.unwrap();
        for chunk in ["one ", "two ", "three ", "four "] {
            feed.data(chunk).unwrap();
            assert_eq!(piece(&mut stream).await, chunk);
        }
        feed.trailers(trailers("of a long body")).unwrap();
        drop(feed);
        let rest = stream.into_body().collect().await.unwrap();
        assert_eq!(rest.trailers(), Some(&trailers("of a long body")));
        app.settled().await;
        assert_eq!(app.get("/", &[]).await.call(), 2);
    }

    /// The body may never end: it must not be recorded once no client reads it.
    async fn that_is_too_long_ends_with_its_client(backend: &Backend) {
        let (origin, feed) = in_hand(MAX_AGE);
        let app = app(backend, &origin, &Clock::system(), |layer| layer.max_body(6)).await;
        let mut stream = app.begin(request(Method::GET, "/", &[])).await.unwrap();
        feed.data("one ").unwrap();
        assert_eq!(piece(&mut stream).await, "one ");
        drop(stream);
        wait_until("nobody listens any more", async || feed.data("more ").is_err()).await;
        app.settled().await;
    }

    async fn with_trailers_keeps_them_and_is_not_kept(backend: &Backend) {
        let origin = Origin::new(|_, _| async {
            let body = in_pieces(&["a ", "body"], Some(trailers("of the response")));
            Ok(Response::builder().header("cache-control", "max-age=60").body(body).unwrap())
        });
        let app = App::on(backend, &origin).await;
        for calls in 1..=2 {
            let answer = app.get("/", &[]).await;
            assert_eq!((answer.text(), &answer.trailers), ("a body", &Some(trailers("of the response"))));
            assert_eq!(origin.calls(), calls);
        }
    }

    over_each_store!(
        of_events_arrives_one_by_one_and_is_not_kept,
        that_will_be_stored_arrives_as_it_is_made,
        that_grows_too_long_goes_on_as_it_is_made,
        that_is_too_long_ends_with_its_client,
        with_trailers_keeps_them_and_is_not_kept,
    );
}

mod a_body {
    use super::*;

    async fn is_kept_up_to_the_limit_and_passed_on_above_it(backend: &Backend) {
        const PIECES: [(&[&str], bool); 5] = [
            (&["12345678"], true),
            (&["1234", "5678"], true),
            (&["123456789"], false),
            (&["1234", "5678", "9"], false),
            (&["1", "2", "3", "4", "5", "6", "7", "8", "9", "0"], false),
        ];
        for (row, (pieces, kept)) in PIECES.into_iter().enumerate() {
            for announced in [false, true] {
                let whole = pieces.concat();
                let length = announced.then_some(whole.len());
                let origin = Origin::new(move |_, _| {
                    let mut response = Response::builder().header("cache-control", "max-age=60");
                    if let Some(length) = length {
                        response = response.header("content-length", length);
                    }
                    std::future::ready(Ok(response.body(in_pieces(pieces, None)).unwrap()))
                });
                let app = app(backend, &origin, &Clock::system(), |layer| layer.max_body(8)).await;
                let uri = format!("/{row}/{announced}");
                for _ in 0..2 {
                    let answer = app.get(&uri, &[]).await;
                    assert_eq!((answer.status, answer.text()), (StatusCode::OK, &*whole));
                }
                assert_eq!(origin.calls(), if kept { 1 } else { 2 }, "{pieces:?}");
            }
        }
    }

    async fn that_is_announced_to_be_too_long_is_said_to_be(backend: &Backend) {
        let origin = Origin::echo(MAX_AGE);
        let app = app(backend, &origin, &Clock::system(), |layer| layer.max_body(8)).await;
        let first = app.get("/", &[]).await;
        assert_eq!((first.x_cache(), first.cache_status().detail.as_deref()), ("MISS", Some("body-too-large")));
        let second = app.get("/", &[]).await;
        assert_eq!(
            (second.x_cache(), second.cache_status().detail.as_deref()),
            ("BYPASS", Some("remembered/body-too-large"))
        );
    }

    /// Servers send an exact one with a length, and not in chunks.
    async fn has_an_exact_length_where_it_had_one(backend: &Backend) {
        let app = App::on(backend, &Origin::echo(MAX_AGE)).await;
        for x_cache in ["MISS", "HIT"] {
            let response = app.begin(request(Method::GET, "/", &[])).await.unwrap();
            assert_eq!(response.headers()["x-cache"], x_cache);
            let exact = response.body().size_hint().exact();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(exact, Some(body.len() as u64), "{x_cache}");
            app.settled().await;
        }
    }

    async fn may_be_empty(backend: &Backend) {
        let origin = Origin::new(async |_, _| {
            Ok(Response::builder().header("cache-control", "max-age=60").body(full("")).unwrap())
        });
        let app = App::on(backend, &origin).await;
        app.get("/", &[]).await;
        let hit = app.begin(request(Method::GET, "/", &[])).await.unwrap();
        assert_eq!(hit.headers()["x-cache"], "HIT");
        assert!(hit.body().is_end_stream() && hit.body().size_hint().exact() == Some(0));
        assert!(hit.into_body().collect().await.unwrap().to_bytes().is_empty());
    }

    over_each_store!(
        is_kept_up_to_the_limit_and_passed_on_above_it,
        that_is_announced_to_be_too_long_is_said_to_be,
        has_an_exact_length_where_it_had_one,
        may_be_empty,
    );
}

mod the_head {
    use super::*;

    async fn of_a_hit_is_the_one_of_the_miss_to_the_byte(backend: &Backend) {
        let origin = Origin::new(|call, request| async move {
            let fields: Fields = &[
                ("cache-control", "max-age=60"),
                ("content-type", "text/plain; charset=utf-8"),
                ("etag", "W/\"a, b\""),
                ("link", "</a>; rel=preload"),
                ("x-first", "1"),
                ("link", "</b>; rel=preload, </c>"),
                ("x-empty", ""),
                ("link", "</a>; rel=preload"),
                ("date", "Sun, 06 Nov 2095 08:49:37 GMT"),
            ];
            let mut response = echo(call, &request, fields);
            response.headers_mut().insert("x-raw", HeaderValue::from_bytes(b"caf\xe9 \xff\t|").unwrap());
            Ok(response)
        });
        let app = App::on(backend, &origin).await;
        let own = |headers: &HeaderMap| {
            let mut headers = headers.clone();
            for name in ["x-cache", "x-cache-age", "age", "cache-status"] {
                headers.remove(name);
            }
            headers
        };
        let miss = app.get("/", &[]).await;
        let hit = app.get("/", &[]).await;
        assert_eq!((miss.x_cache(), hit.x_cache()), ("MISS", "HIT"));
        assert_eq!(own(&hit.headers), own(&miss.headers));
        assert_eq!(hit.headers["x-raw"].as_bytes(), b"caf\xe9 \xff\t|");
        let links: Vec<_> = hit.headers.get_all("link").iter().collect();
        assert_eq!(links, ["</a>; rel=preload", "</b>; rel=preload, </c>", "</a>; rel=preload"]);
        assert_eq!(hit.header("x-empty"), Some(""));
    }

    async fn loses_what_belonged_to_one_connection(backend: &Backend) {
        let fields: Fields = &[
            ("cache-control", "max-age=60"),
            ("connection", "x-hop, Keep-Alive"),
            ("connection", "X-OTHER-HOP"),
            ("x-hop", "1"),
            ("x-other-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authentication-info", "a=b"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-end-to-end", "1"),
        ];
        let app = App::on(backend, &Origin::echo(fields)).await;
        let miss = app.get("/", &[]).await;
        let hit = app.get("/", &[]).await;
        assert_eq!(hit.x_cache(), "HIT");
        assert_eq!(hit.header("x-end-to-end"), Some("1"));
        let hop_by_hop = &fields[1..12];
        for (name, _) in hop_by_hop {
            assert!(miss.headers.contains_key(*name), "{name} is the server's business, which it passed on to");
            assert!(!hit.headers.contains_key(*name), "{name}");
        }
    }

    async fn says_nothing_that_another_cache_said_about_another_request(backend: &Backend) {
        let fields: Fields = &[
            ("cache-control", "max-age=60"),
            ("x-cache", "HIT from elsewhere"),
            ("x-cache-age", "12345"),
            ("cache-status", "elsewhere; hit; ttl=5"),
            ("age", "7"),
        ];
        let clock = Clock::manual();
        let app = app(backend, &Origin::echo(fields), &clock, |layer| layer).await;
        let miss = app.get("/", &[]).await;
        assert_eq!(miss.headers.get_all("x-cache").iter().collect::<Vec<_>>(), ["MISS"]);
        assert_eq!((miss.header("x-cache-age"), miss.header("age")), (None, Some("7")));
        let lines: Vec<_> = miss.headers.get_all("cache-status").iter().collect();
        assert_eq!(lines, ["elsewhere; hit; ttl=5", "cache-layer; fwd=uri-miss; stored"]);

        clock.advance(seconds(3));
        let hit = app.get("/", &[]).await;
        for (name, value) in
            [("x-cache", "HIT"), ("x-cache-age", "3"), ("age", "10"), ("cache-status", "cache-layer; hit; ttl=50")]
        {
            assert_eq!(hit.headers.get_all(name).iter().collect::<Vec<_>>(), [value], "{name}");
        }
    }

    /// Two caches of this kind in a row, or an application that plays one.
    async fn says_nothing_of_its_own_that_is_anothers_however_the_request_went(backend: &Backend) {
        const OF_ANOTHER: Fields = &[
            ("x-cache", "HIT"),
            ("x-cache", "of another"),
            ("x-cache-age", "99"),
            ("x-cache-age", "98"),
            ("cache-status", "another; hit; ttl=5"),
            ("cache-control", "max-age=60"),
            ("etag", "\"a\""),
        ];
        let origin = Origin::new(|call, request| async move {
            let validates = request.headers().contains_key("if-none-match");
            let mut response = echo(call, &request, OF_ANOTHER);
            match request.uri().path() {
                _ if validates => *response.status_mut() = StatusCode::NOT_MODIFIED,
                "/private" => drop(response.headers_mut().insert("cache-control", HeaderValue::from_static("private"))),
                "/broken" => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
                _ => {}
            }
            Ok(response)
        });
        let clock = Clock::manual();
        let app = app(backend, &origin, &clock, |layer| layer.bypass_on_cookies(["session"])).await;
        let cases: [(Method, &str, Fields, &str); 12] = [
            (Method::GET, "/", &[], "MISS"),
            (Method::GET, "/", &[], "HIT"),
            (Method::GET, "/part", &[("range", "bytes=0-3")], "MISS"),
            (Method::GET, "/known", &[("if-none-match", "\"a\"")], "MISS"),
            (Method::GET, "/private", &[], "MISS"),
            (Method::GET, "/private", &[], "BYPASS"),
            (Method::GET, "/broken", &[], "MISS"),
            (Method::HEAD, "/head", &[], "MISS"),
            (Method::POST, "/post", &[], "BYPASS"),
            (Method::GET, "/fresh", &[("cache-control", "no-store")], "BYPASS"),
            (Method::GET, "/", &[("cookie", "session=1")], "BYPASS"),
            (Method::GET, "/part", &[("range", "pages=0-3")], "BYPASS"),
        ];
        let check = |answer: &tests::Response, x_cache: &str, case: &str| {
            let lines = |name| answer.headers.get_all(name).iter().collect::<Vec<_>>();
            assert_eq!(lines("x-cache"), [x_cache], "{case}");
            let from_cache = x_cache == "HIT";
            assert_eq!(lines("x-cache-age"), if from_cache { vec!["0"] } else { vec![] }, "{case}");
        };
        for (method, uri, fields, x_cache) in cases {
            let case = format!("{method} {uri} {fields:?}");
            check(&app.send(method, uri, fields).await, x_cache, &case);
        }
        clock.advance(seconds(61));
        check(&app.get("/", &[]).await, "REVALIDATED", "validated");
    }

    async fn says_what_the_cache_did(backend: &Backend) {
        let clock = Clock::manual();
        let origin = Origin::new(|call, request| async move {
            let fields: Fields = match request.uri().path() {
                "/varies" => &[("cache-control", "max-age=60"), ("vary", "accept-language")],
                "/unstated" => &[],
                _ => MAX_AGE,
            };
            Ok(echo(call, &request, fields))
        });
        let app = app(backend, &origin, &clock, |layer| layer).await;
        let forwarded = |fwd: &str, detail: Option<&str>| CacheStatus {
            fwd: Some(fwd.to_owned()),
            stored: detail.is_none(),
            detail: detail.map(str::to_owned),
            ..CacheStatus::default()
        };
        let hit = |ttl| CacheStatus { hit: true, ttl: Some(ttl), ..CacheStatus::default() };

        assert_eq!(app.get("/", &[]).await.cache_status(), forwarded("uri-miss", None));
        assert_eq!(app.get("/", &[]).await.cache_status(), hit(60));
        clock.advance(Duration::from_millis(1500));
        assert_eq!(app.get("/", &[]).await.cache_status(), hit(58));
        clock.advance(seconds(58));
        assert_eq!(app.get("/", &[]).await.cache_status(), hit(0));
        clock.advance(seconds(1));
        let expired = app.get("/", &[]).await;
        assert_eq!((expired.x_cache(), expired.cache_status()), ("MISS", forwarded("stale", None)));

        app.get("/varies", &[]).await;
        let german = app.get("/varies", &[("accept-language", "de")]).await;
        assert_eq!((german.x_cache(), german.cache_status()), ("MISS", forwarded("vary-miss", None)));
        let unstated = app.get("/unstated", &[]).await;
        assert_eq!(
            (unstated.x_cache(), unstated.cache_status()),
            ("MISS", forwarded("uri-miss", Some("no-freshness")))
        );
    }

    async fn is_dated_once_and_for_all(backend: &Backend) {
        let clock = Clock::manual();
        let app = app(backend, &Origin::echo(MAX_AGE), &clock, |layer| layer).await;
        let miss = app.get("/", &[]).await;
        let date = miss.header("date").expect("a date").to_owned();
        for age in ["10", "20"] {
            clock.advance(seconds(10));
            let hit = app.get("/", &[]).await;
            assert_eq!((hit.header("date"), hit.header("age")), (Some(&*date), Some(age)));
        }
        clock.advance(MINUTE);
        assert_ne!(app.get("/", &[]).await.header("date"), Some(&*date));
    }

    over_each_store!(
        of_a_hit_is_the_one_of_the_miss_to_the_byte,
        loses_what_belonged_to_one_connection,
        says_nothing_that_another_cache_said_about_another_request,
        says_nothing_of_its_own_that_is_anothers_however_the_request_went,
        says_what_the_cache_did,
        is_dated_once_and_for_all,
    );
}

mod head_requests {
    use super::*;

    async fn are_answered_from_a_stored_get(backend: &Backend) {
        let origin = Origin::echo(&[("cache-control", "max-age=60"), ("etag", "\"a\"")]);
        let app = App::on(backend, &origin).await;
        let get = app.get("/", &[]).await;
        let head = app.send(Method::HEAD, "/", &[]).await;
        assert_eq!((head.status, head.x_cache(), head.call()), (StatusCode::OK, "HIT", 1));
        assert_eq!(head.header("content-length"), Some(&*get.body.len().to_string()));
        assert_eq!(head.header("etag"), Some("\"a\""));
        assert!(head.body.is_empty());
        assert_eq!(origin.calls(), 1);
    }

    async fn that_miss_go_to_the_application_and_leave_nothing(backend: &Backend) {
        let origin = Origin::new(|call, request| async move {
            let mut response = echo(call, &request, &[("cache-control", "max-age=60"), ("content-length", "1234")]);
            *response.body_mut() = full("");
            Ok(response)
        });
        let app = App::on(backend, &origin).await;
        for call in 1..=2 {
            let head = app.send(Method::HEAD, "/", &[]).await;
            assert_eq!((head.x_cache(), head.call()), ("MISS", call));
            assert_eq!(head.header("content-length"), Some("1234"));
            assert_eq!(head.cache_status().detail.as_deref(), Some("head"));
        }
    }

    /// RFC 9110, section 8.6.
    async fn of_what_has_no_content_say_no_length(backend: &Backend) {
        for fields in [MAX_AGE, &[("cache-control", "max-age=60"), ("content-length", "0")]] {
            let origin = Origin::new(move |call, request| async move {
                let mut response = echo(call, &request, fields);
                *response.status_mut() = StatusCode::NO_CONTENT;
                *response.body_mut() = full("");
                Ok(response)
            });
            let app = App::on(backend, &origin).await;
            app.cache.invalidate_all().await.unwrap();
            for (method, x_cache) in [(Method::GET, "MISS"), (Method::HEAD, "HIT"), (Method::GET, "HIT")] {
                let answer = app.send(method, "/", &[]).await;
                assert_eq!((answer.status, answer.x_cache()), (StatusCode::NO_CONTENT, x_cache));
                assert_eq!(answer.header("content-length"), None, "{x_cache}");
            }
        }
    }

    over_each_store!(
        are_answered_from_a_stored_get,
        that_miss_go_to_the_application_and_leave_nothing,
        of_what_has_no_content_say_no_length,
    );
}

mod a_write {
    use super::*;

    const READABLE: [&str; 6] =
        ["/own", "/own?x=1", "/location", "/content-location?x", "/unrelated", "http://other.example/location"];

    /// Which of [`READABLE`] are read anew after `method` of `/own` was answered like this.
    async fn made_stale(backend: &Backend, method: &str, status: u16, fields: Fields) -> Vec<&'static str> {
        let origin = Origin::new(move |call, request| async move {
            let get = request.method() == Method::GET;
            let mut response = echo(call, &request, if get { MAX_AGE } else { fields });
            if !get {
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
            }
            Ok(response)
        });
        let app = App::on(backend, &origin).await;
        app.cache.invalidate_all().await.unwrap();
        for uri in READABLE {
            app.get(uri, &[]).await;
            assert_eq!(app.get(uri, &[]).await.x_cache(), "HIT");
        }
        assert_eq!(app.send(method.parse().unwrap(), "/own", &[]).await.status, status);
        let mut stale = Vec::new();
        for uri in READABLE {
            if app.get(uri, &[]).await.x_cache() != "HIT" {
                stale.push(uri);
            }
        }
        stale
    }

    async fn that_succeeds_makes_its_target_stale(backend: &Backend) {
        for method in ["POST", "PUT", "DELETE", "PATCH", "UNHEARD-OF"] {
            assert_eq!(made_stale(backend, method, 200, &[]).await, ["/own"], "{method}");
        }
        for status in [201, 204, 303] {
            assert_eq!(made_stale(backend, "POST", status, &[]).await, ["/own"], "{status}");
        }
    }

    async fn makes_stale_what_it_says_to_have_changed_of_its_own_origin(backend: &Backend) {
        let own: [Fields; 5] = [
            &[("location", "/location"), ("content-location", "/content-location?x")],
            &[("location", "location"), ("content-location", "./a/../content-location?x#fragment")],
            &[("location", "http://shop.example/location"), ("content-location", "//shop.example/content-location?x")],
            &[("location", "HTTP://SHOP.example:80/location"), ("content-location", "/content-location?x")],
            &[
                ("location", "https://shop.example/location"),
                ("content-location", "https://shop.example:443/content-location?x"),
            ],
        ];
        for fields in own {
            let stale = made_stale(backend, "POST", 201, fields).await;
            assert_eq!(stale, ["/own", "/location", "/content-location?x"], "{fields:?}");
        }
        let foreign: [Fields; 3] = [
            &[("location", "http://other.example/location")],
            &[("location", "ftp://shop.example/location")],
            &[("content-location", "http://shop.example:8080/location")],
        ];
        for fields in foreign {
            assert_eq!(made_stale(backend, "POST", 201, fields).await, ["/own"], "{fields:?}");
        }
    }

    async fn that_fails_makes_nothing_stale(backend: &Backend) {
        for status in [400, 404, 409, 500, 503] {
            let stale = made_stale(backend, "POST", status, &[("location", "/location")]).await;
            assert_eq!(stale, [""; 0], "{status}");
        }
    }

    /// The application may have carried out the write before it failed.
    async fn that_ends_in_an_error_of_the_application_makes_its_target_stale(backend: &Backend) {
        let origin = Origin::new(|call, request| {
            let failed = request.method() != Method::GET;
            let answer = if failed { Err(Failure("after the write")) } else { Ok(echo(call, &request, MAX_AGE)) };
            std::future::ready(answer)
        });
        let app = App::on(backend, &origin).await;
        for method in [Method::PUT, Method::POST] {
            app.get("/", &[]).await;
            assert_eq!(app.get("/", &[]).await.x_cache(), "HIT");
            let error = app.begin(request(method.clone(), "/", &[])).await.unwrap_err();
            assert_eq!(error, Failure("after the write"));
            assert_eq!(app.get("/", &[]).await.x_cache(), "MISS", "{method}");
        }
    }

    /// A body of an application's that panics when it is looked at.
    struct Panics;

    impl http_body::Body for Panics {
        type Data = Bytes;
        type Error = Failure;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Failure>>> {
            panic!("the body")
        }

        fn size_hint(&self) -> http_body::SizeHint {
            panic!("the body")
        }
    }

    async fn whose_body_panics_panics_where_it_is_waited_for(backend: &Backend) {
        let origin = Origin::new(|_, _| {
            let head = Response::builder().header("cache-control", "max-age=60").header("content-location", "/");
            std::future::ready(Ok(head.body(Panics.boxed_unsync()).unwrap()))
        });
        let strict = |layer: CacheLayer| layer.profile(cache_layer::Profile::Strict);
        let app = app(backend, &origin, &Clock::system(), strict).await;
        let post = tokio::spawn(async move { app.begin(request(Method::POST, "/", &[])).await.map(|_| ()) });
        let panic = post.await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref(), Some(&"the body"));
    }

    /// A cache with `/` in it in front of an application that answers other methods in the type that they come in, or in
    /// `answered`.
    async fn in_front_of_calls(
        backend: &Backend,
        answered: Option<&'static str>,
        set: impl FnOnce(CacheLayer) -> CacheLayer,
    ) -> App {
        let origin = Origin::new(move |call, request| async move {
            let mut response = echo(call, &request, MAX_AGE);
            let own = request.headers().get("content-type").cloned();
            if let Some(answered) = answered.map(HeaderValue::from_static).or(own) {
                response.headers_mut().insert("content-type", answered);
            }
            response.headers_mut().insert("location", HeaderValue::from_static("/location"));
            Ok(response)
        });
        let app = app(backend, &origin, &Clock::system(), set).await;
        app.cache.invalidate_all().await.unwrap();
        for uri in ["/", "/location"] {
            app.get(uri, &[]).await;
        }
        app
    }

    async fn is_not_what_a_grpc_call_does(backend: &Backend) {
        const TYPES: [&str; 4] =
            ["application/grpc", "application/grpc+proto", "Application/gRPC-Web+proto; charset=x", "application/json"];
        for content_type in TYPES {
            for answered in [None, Some("application/json")] {
                let app = in_front_of_calls(backend, answered, |layer| layer).await;
                let before = app.cache.counts().invalidations;
                app.send(Method::POST, "/", &[("content-type", content_type)]).await;
                let is_call = content_type != "application/json" && answered.is_none();
                let (hit, voided) = if is_call { ("HIT", 0) } else { ("MISS", 2) };
                assert_eq!(app.cache.counts().invalidations - before, voided, "{content_type} {answered:?}");
                for uri in ["/", "/location"] {
                    assert_eq!(app.get(uri, &[]).await.x_cache(), hit, "{content_type} {answered:?}");
                }
            }
        }
    }

    async fn is_what_the_user_says(backend: &Backend) {
        let app = in_front_of_calls(backend, None, |layer| {
            layer.voids(|request| request.uri.path() != "/graphql" && !request.headers.contains_key("x-reads"))
        })
        .await;
        let before = app.cache.counts().invalidations;
        let answer = app.send(Method::POST, "/graphql", &[]).await;
        assert_eq!((answer.status, answer.x_cache()), (StatusCode::OK, "BYPASS"));
        app.send(Method::DELETE, "/", &[("x-reads", "1")]).await;
        assert_eq!(app.cache.counts().invalidations, before);
        assert_eq!(app.get("/location", &[]).await.x_cache(), "HIT");
        app.send(Method::POST, "/", &[]).await;
        for uri in ["/", "/location"] {
            assert_eq!(app.get(uri, &[]).await.x_cache(), "MISS", "{uri}");
        }
    }

    async fn is_not_what_a_safe_method_does(backend: &Backend) {
        for method in ["HEAD", "OPTIONS", "TRACE", "PROPFIND", "QUERY"] {
            assert_eq!(made_stale(backend, method, 200, &[("location", "/location")]).await, [""; 0], "{method}");
        }
    }

    async fn makes_every_variant_stale(backend: &Backend) {
        let origin = Origin::echo(&[("cache-control", "max-age=60"), ("vary", "accept-language")]);
        let app = App::on(backend, &origin).await;
        let languages: [Fields; 3] = [&[("accept-language", "de")], &[("accept-language", "en")], &[]];
        for language in languages {
            app.get("/", language).await;
            assert_eq!(app.get("/", language).await.x_cache(), "HIT");
        }
        app.send(Method::PUT, "/", &[("accept-language", "de")]).await;
        for language in languages {
            assert_eq!(app.get("/", language).await.x_cache(), "MISS", "{language:?}");
        }
    }

    /// RFC 9112, section 3.2.2: an application that is asked for the whole URI ignores `Host`. Another one may not, or not know.
    async fn makes_stale_whatever_it_may_be_for(backend: &Backend) {
        let app = App::on(backend, &Origin::echo(MAX_AGE)).await;
        let (one, two) = ([("host", "one.example")], [("host", "two.example")]);
        let both = [one[0], two[0]];
        for (uri, hosts, stale) in [
            ("http://one.example/a", &two[..], "both"),
            ("http://one.example/a", &both, "both"),
            ("http://user@one.example/a", &two, "both"),
            ("/a", &both, "both"),
            ("http://user@one.example/a", &[], "one"),
            ("http://one.example/a", &[("host", "user@two.example")], "both"),
            ("http://one.example/a", &[("host", "a/b")], "one"),
            ("/a", &[one[0], ("host", "")], "one"),
            ("/a", &one, "one"),
        ] {
            for host in [&one, &two] {
                app.get("/a", host).await;
                assert_eq!(app.get("/a", host).await.x_cache(), "HIT");
            }
            assert_eq!(app.send(Method::POST, uri, hosts).await.status, StatusCode::OK);
            let expected = if stale == "both" { ["MISS", "MISS"] } else { ["MISS", "HIT"] };
            for (host, expected) in [&one, &two].into_iter().zip(expected) {
                assert_eq!(app.get("/a", host).await.x_cache(), expected, "{uri} {hosts:?} {host:?}");
            }
        }
        // What one request may cost is limited: of five hosts, it is the first four.
        for host in [&one, &two] {
            app.get("/a", host).await;
        }
        let others = ["c", "d", "e"].map(|host| ("host", host));
        let many = [one[0], others[0], others[1], others[2], two[0]];
        assert_eq!(app.send(Method::POST, "/a", &many).await.status, StatusCode::OK);
        for (host, expected) in [(&one, "MISS"), (&two, "HIT")] {
            assert_eq!(app.get("/a", host).await.x_cache(), expected, "{host:?}");
        }
        // No stored response answers such a request for reading, and none is stored for it.
        for _ in 0..2 {
            let read = app.get("http://one.example/a", &two).await;
            assert_eq!(read.cache_status().detail.as_deref(), Some("no-authority"));
        }
    }

    over_each_store!(
        makes_stale_whatever_it_may_be_for,
        that_succeeds_makes_its_target_stale,
        makes_stale_what_it_says_to_have_changed_of_its_own_origin,
        that_fails_makes_nothing_stale,
        that_ends_in_an_error_of_the_application_makes_its_target_stale,
        whose_body_panics_panics_where_it_is_waited_for,
        is_not_what_a_grpc_call_does,
        is_what_the_user_says,
        is_not_what_a_safe_method_does,
        makes_every_variant_stale,
    );
}

mod freshness {
    use super::*;

    /// For how many seconds a response to `/shop/items/1` is served.
    async fn lifetime(backend: &Backend, fields: Fields, set: impl FnOnce(CacheLayer) -> CacheLayer) -> u64 {
        let clock = Clock::manual();
        let app = app(backend, &Origin::echo(fields), &clock, set).await;
        app.cache.invalidate_all().await.unwrap();
        let call = app.get("/shop/items/1", &[]).await.call();
        for second in 1..200 {
            clock.advance(seconds(1));
            if app.get("/shop/items/1", &[]).await.call() != call {
                return second;
            }
        }
        panic!("it is served for ever");
    }

    async fn is_what_the_application_says(backend: &Backend) {
        assert_eq!(lifetime(backend, &[("cache-control", "max-age=10")], |layer| layer).await, 10);
        assert_eq!(lifetime(backend, &[("cache-control", "max-age=10, s-maxage=20")], |layer| layer).await, 20);
        assert_eq!(lifetime(backend, &[("cache-control", "max-age=20, s-maxage=10")], |layer| layer).await, 10);
        let fields: Fields = &[("date", "Sun, 06 Nov 2095 08:49:37 GMT"), ("expires", "Sun, 06 Nov 2095 08:49:52 GMT")];
        assert_eq!(lifetime(backend, fields, |layer| layer).await, 15);
        let fields: Fields = &[("cache-control", "max-age=10"), ("age", "4")];
        assert_eq!(lifetime(backend, fields, |layer| layer).await, 6);
    }

    async fn is_what_a_rule_says_where_the_application_says_nothing(backend: &Backend) {
        let quiet: [Fields; 3] = [&[], &[("cache-control", "public")], &[("cache-control", "must-revalidate")]];
        for fields in quiet {
            assert_eq!(lifetime(backend, fields, |layer| layer.ttl(seconds(30))).await, 30, "{fields:?}");
        }
    }

    async fn is_the_applications_to_say_before_any_rule(backend: &Backend) {
        let rule = |layer: CacheLayer| layer.ttl(seconds(30)).ttl_for_path("/shop", seconds(40));
        assert_eq!(lifetime(backend, &[("cache-control", "max-age=10")], rule).await, 10);
        assert_eq!(lifetime(backend, &[("cache-control", "max-age=100")], rule).await, 100);
    }

    async fn is_what_the_most_specific_rule_says(backend: &Backend) {
        let shop = ("/shop", seconds(20));
        let items = ("/shop/items", seconds(10));
        let others = [("/shop/it", seconds(1)), ("/shop/items/10", seconds(2)), ("/SHOP/items/1", seconds(3))];
        let ttl = |layer: CacheLayer| layer.ttl(seconds(30)).ttl_for_paths(others);
        assert_eq!(lifetime(backend, &[], ttl).await, 30);
        assert_eq!(lifetime(backend, &[], |layer| ttl(layer).ttl_for_path(shop.0, shop.1)).await, 20);
        for rules in [[shop, items], [items, shop]] {
            assert_eq!(lifetime(backend, &[], |layer| ttl(layer).ttl_for_paths(rules)).await, 10, "{rules:?}");
        }
        let exact = |layer: CacheLayer| layer.ttl_for_path("/shop/items/1", seconds(5)).ttl_for_path(items.0, items.1);
        assert_eq!(lifetime(backend, &[], exact).await, 5);
    }

    async fn is_needed_to_be_kept(backend: &Backend) {
        let origin = Origin::echo(&[]);
        let app = app(backend, &origin, &Clock::system(), |layer| layer.ttl_for_path("/other", MINUTE)).await;
        for call in 1..=2 {
            assert_eq!(app.get("/", &[]).await.call(), call);
        }
    }

    async fn of_zero_by_a_rule_is_none(backend: &Backend) {
        let origin = Origin::echo(&[]);
        let rules = [("/shop", Duration::ZERO), ("/shop/items", MINUTE)];
        let app = app(backend, &origin, &Clock::system(), |layer| layer.ttl(MINUTE).ttl_for_paths(rules)).await;
        for (uri, x_cache) in [("/shop", "BYPASS"), ("/shop/items", "HIT"), ("/", "HIT")] {
            app.get(uri, &[]).await;
            assert_eq!(app.get(uri, &[]).await.x_cache(), x_cache, "{uri}");
        }
    }

    async fn by_a_rule_is_for_successes_only(backend: &Backend) {
        for status in [201, 206, 301, 302, 304, 307, 400, 401, 404, 410, 500, 503] {
            let origin = Origin::new(move |call, request| async move {
                let mut response = echo(call, &request, &[]);
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok(response)
            });
            let app = app(backend, &origin, &Clock::system(), |layer| layer.ttl(MINUTE)).await;
            for call in 1..=2 {
                let answer = app.get(&format!("/{status}"), &[]).await;
                assert_eq!((answer.status.as_u16(), answer.call()), (status, call));
                // Nothing is held against the next answer, which may be a success.
                assert_eq!(answer.cache_status().fwd.as_deref(), Some("uri-miss"));
            }
        }
    }

    over_each_store!(
        is_what_the_application_says,
        is_what_a_rule_says_where_the_application_says_nothing,
        is_the_applications_to_say_before_any_rule,
        is_what_the_most_specific_rule_says,
        is_needed_to_be_kept,
        of_zero_by_a_rule_is_none,
        by_a_rule_is_for_successes_only,
    );
}
