//! Some hits are loaded again in the background, to see whether they are still what would be loaded: nothing of that is stored, and
//! nobody waits for it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cache_layer::{
    Cache, CacheLayer, Clock, Coding, Encode, Key, Loaded, Rule, SetCookie, Vary, Verify, codec::Postcard,
    store::MemoryStore, telemetry::Event, testing::verified,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tests::{App, Backend, Failure, Gate, Origin, full, over_each_store, request};
use tower::{Layer as _, ServiceExt as _};

const FIELDS: Fields = &[("cache-control", "public, max-age=3600, stale-while-revalidate=60")];

/// An application that says what it is told to, until it is told something else.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Words>>);

type Fields = &'static [(&'static str, &'static str)];

/// The status, the text, and the fields that are not the usual ones, if there are any.
type Words = (StatusCode, String, Option<Fields>);

impl Told {
    fn say(&self, status: StatusCode, text: &str) {
        *self.0.lock().unwrap() = (status, text.to_owned(), None);
    }

    fn say_with(&self, status: StatusCode, text: &str, fields: Fields) {
        *self.0.lock().unwrap() = (status, text.to_owned(), Some(fields));
    }

    fn origin(&self) -> Origin {
        let told = self.clone();
        Origin::new(move |call, request| {
            let (status, text, fields) = told.0.lock().unwrap().clone();
            let varies = request.uri().path() == "/varies";
            async move {
                let mut response = http::Response::new(full(text));
                *response.status_mut() = status;
                for (name, value) in fields.unwrap_or(FIELDS) {
                    response.headers_mut().insert(*name, HeaderValue::from_static(value));
                }
                if varies {
                    response.headers_mut().insert("vary", HeaderValue::from_static("accept-language"));
                }
                response.headers_mut().insert("x-call", call.into());
                response.headers_mut().insert("x-request-id", call.into());
                Ok(response)
            }
        })
    }
}

/// The longest window: no turn comes while a test runs.
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// An application that never says the same twice, and answers no more than that many requests until the gate is open.
fn gated(open_for: usize, gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::new(move |call, request| {
        let gate = gate.clone();
        async move {
            if call > open_for {
                gate.pass().await;
            }
            Ok(tests::echo(call, &request, FIELDS))
        }
    })
}

async fn app(backend: &Backend, origin: &Origin, set: impl FnOnce(CacheLayer) -> CacheLayer) -> App {
    App::new(backend.cache().await.build(), origin, set)
}

/// With all that was to be verified.
async fn settled(cache: &Cache) {
    assert!(cache.drain(Duration::from_secs(60)).await);
    tokio::time::timeout(Duration::from_secs(60), verified(cache)).await.expect("it ends");
}

/// A hit of what the first call has brought, and what its verification leaves behind.
async fn hit(app: &App) {
    let answer = app.get("/", &[]).await;
    assert_eq!((answer.x_cache(), answer.header("x-call")), ("HIT", Some("1")));
    let status = answer.header("cache-status").unwrap();
    assert!(status.contains("hit") && !status.contains("verif"), "{status}");
}

mod a_response {
    use super::*;

    async fn that_is_the_same_is_said_to_be_and_nothing_is_stored(backend: &Backend) {
        // A field that is not stored is not compared, either.
        let other = Verify::new(1.0).fields([HeaderName::from_static("x-request-id")]);
        for (verify, namespace) in [(Verify::new(1.0), "usual "), (other, "other ")] {
            let told = Told::default();
            let origin = told.origin();
            let app = app(backend, &origin, |layer| layer.verify(verify).namespace(namespace)).await;
            app.get("/", &[]).await;
            for verified in 1..=3 {
                hit(&app).await;
                let counts = app.cache.counts();
                assert_eq!((counts.verified, counts.differing, counts.stored), (verified, 0, 1));
                assert_eq!(origin.calls() as u64, 1 + verified);
            }
        }
    }

    async fn that_has_changed_is_found_and_is_stale_for_certain_once_two_loads_have_said_so(backend: &Backend) {
        let told = Told::default();
        let origin = told.origin();
        let app = app(backend, &origin, |layer| layer.verify(1.0)).await;
        app.get("/", &[]).await;
        for (status, text) in [(StatusCode::OK, "another"), (StatusCode::NOT_FOUND, "")] {
            told.say(status, text);
            let before = app.cache.counts();
            hit(&app).await;
            let first = app.cache.counts();
            assert_eq!((first.verified, first.differing), (before.verified + 1, before.differing + 1), "{status}");
            assert_eq!((first.stale_for_certain, first.unstable), (before.stale_for_certain, 0), "{status}");
            hit(&app).await;
            let second = app.cache.counts();
            assert_eq!((second.verified, second.stale_for_certain), (first.verified, first.stale_for_certain + 1));
            assert_eq!((second.stored, second.unstable), (1, 0), "{status}");
        }
        // An error says nothing.
        told.say(StatusCode::SERVICE_UNAVAILABLE, "");
        let before = app.cache.counts();
        hit(&app).await;
        assert_eq!(app.cache.counts().verified, before.verified);
    }

    async fn that_is_stale_for_certain_is_softened_if_that_is_wanted(backend: &Backend) {
        let told = Told::default();
        let origin = told.origin();
        let app = app(backend, &origin, |layer| layer.verify(Verify::new(1.0).soften(true))).await;
        app.get("/", &[]).await;
        told.say(StatusCode::OK, "another");
        hit(&app).await;
        hit(&app).await;
        let stale = app.get("/", &[]).await;
        assert_eq!(stale.x_cache(), "STALE");
        assert_eq!(app.get("/", &[]).await.text(), "another");
    }

    /// What the next client gets is at stake: an entry that differs twice becomes stale, and its refresh is not judged.
    async fn is_compared_neither_with_an_error_of_the_moment_nor_with_what_no_load_would_store(backend: &Backend) {
        let (told, ok) = (Told::default(), StatusCode::OK);
        let origin = told.origin();
        let app = app(backend, &origin, |layer| layer.verify(Verify::new(1.0).soften(true))).await;
        app.get("/", &[]).await;
        let of_the_moment = [408, 425, 429, 500, 501, 502, 503, 504, 520, 529]
            .map(|code| (StatusCode::from_u16(code).unwrap(), FIELDS))
            .into_iter()
            .chain([(StatusCode::TOO_MANY_REQUESTS, &[][..])]);
        let not_stored: [(StatusCode, Fields); 7] = [
            (ok, &[("cache-control", "no-store")]),
            (ok, &[("cache-control", "private")]),
            (ok, &[]),
            (ok, &[("set-cookie", "a=b"), ("cache-control", "max-age=3600")]),
            (ok, &[("content-length", "1000"), ("cache-control", "max-age=3600")]),
            (StatusCode::FOUND, &[("location", "/login")]),
            (StatusCode::FORBIDDEN, &[]),
        ];
        for (status, fields) in of_the_moment.chain(not_stored) {
            told.say_with(status, "not it", fields);
            let before = origin.calls();
            hit(&app).await;
            hit(&app).await;
            let counts = app.cache.counts();
            assert_eq!((counts.verified, counts.stale_for_certain), (0, 0), "{status} {fields:?}");
            assert_eq!(origin.calls(), before + 2, "{status} {fields:?}");
        }
        // Which of these a resource is now does not depend on whether that may be stored.
        for status in [StatusCode::MOVED_PERMANENTLY, StatusCode::NOT_FOUND, StatusCode::GONE] {
            told.say_with(status, "", &[("cache-control", "no-store")]);
            let before = app.cache.counts();
            hit(&app).await;
            assert_eq!(app.cache.counts().differing, before.differing + 1, "{status}");
            told.say(ok, "");
            hit(&app).await;
        }
    }

    /// What is made from something stale is not stored, and says nothing of what is.
    async fn is_not_compared_with_what_is_made_from_a_fallback(backend: &Backend) {
        let cache = backend.cache().await.build();
        let (broken, values) = (Arc::new(AtomicBool::new(false)), cache.clone());
        let origin = Origin::new({
            let broken = broken.clone();
            move |call, _| {
                let (values, broken) = (values.clone(), broken.load(Ordering::SeqCst));
                async move {
                    let load = async move || if broken { Err(Failure("down")) } else { Ok(7) };
                    let value = values.get_or_load("value", load).ttl(Duration::ZERO).fallback(0).await?;
                    let mut response = http::Response::new(full(value.to_string()));
                    response.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=3600"));
                    response.headers_mut().insert("x-call", call.into());
                    Ok(response)
                }
            }
        });
        let layer = |layer: CacheLayer| layer.inherit(true).ttl(WEEK).verify(Verify::new(1.0).soften(true));
        let app = App::new(cache, &origin, layer).unexplained();
        // What its own load brings is not stored.
        app.cache.set("value", &7).await.unwrap();
        app.get("/", &[]).await;
        app.cache.invalidate(&Key::new(["value"])).await.unwrap();
        broken.store(true, Ordering::SeqCst);
        hit(&app).await;
        hit(&app).await;
        assert_eq!((app.cache.counts().verified, origin.calls()), (0, 3));
    }

    /// Each of these fields differs from one response to the next, or is not there in what is stored.
    async fn is_compared_in_none_of_the_fields_that_are_not_stored(backend: &Backend) {
        let origin = Origin::new(|call, _| async move {
            let mut response = http::Response::new(full("same"));
            for (name, value) in FIELDS.iter().chain(&[
                ("connection", "x-hop"),
                ("x-hop", "1"),
                ("set-cookie", "a=b"),
                ("cache-status", "inner; hit"),
                ("age", "1"),
            ]) {
                response.headers_mut().append(*name, HeaderValue::from_static(value));
            }
            let date = format!("Mon, 30 Nov 2099 10:00:{call:02} GMT");
            response.headers_mut().insert("date", HeaderValue::from_str(&date).unwrap());
            response.headers_mut().insert("x-call", call.into());
            Ok(response)
        });
        let chosen = ["x-hop", "set-cookie", "cache-status", "age", "date"].map(HeaderName::from_static);
        let set =
            |layer: CacheLayer| layer.set_cookie(SetCookie::Strip).ttl(WEEK).verify(Verify::new(1.0).fields(chosen));
        let app = app(backend, &origin, set).await;
        app.get("/", &[]).await;
        hit(&app).await;
        assert_eq!((app.cache.counts().verified, app.cache.counts().differing), (1, 0));
    }

    /// A rule for it may have come later, or another instance may have stored it.
    async fn that_is_longer_than_may_be_stored_here_is_the_same_all_the_same(backend: &Backend) {
        let told = Told::default();
        let origin = told.origin();
        told.say(StatusCode::OK, "ten bytes.");
        let cache = backend.cache().await.build();
        App::new(cache.clone(), &origin, |layer| layer).get("/", &[]).await;
        let app = App::new(cache, &origin, |layer| layer.max_body(7).verify(1.0));
        hit(&app).await;
        assert_eq!((app.cache.counts().verified, app.cache.counts().differing), (1, 0));
        told.say(StatusCode::OK, "eleven bytes");
        hit(&app).await;
        hit(&app).await;
        assert_eq!((app.cache.counts().differing, app.cache.counts().stale_for_certain), (1, 1));
    }

    /// The codings and the entity tags of the cache are not the application's, and what it negotiates by is what a load sends.
    async fn is_compared_as_it_came_from_the_application(backend: &Backend) {
        let text = Arc::new(Mutex::new("text ".repeat(500)));
        let origin = Origin::new({
            let text = text.clone();
            move |call, request| {
                let accepted = request.headers().get("accept-encoding").cloned();
                let mut response = http::Response::new(full(format!("{accepted:?} {}", text.lock().unwrap())));
                for (name, value) in FIELDS.iter().chain(&[("content-type", "text/plain"), ("vary", "accept-encoding")])
                {
                    response.headers_mut().insert(*name, HeaderValue::from_static(value));
                }
                response.headers_mut().insert("x-call", call.into());
                async move { Ok(response) }
            }
        });
        let set = |layer: CacheLayer| {
            let encode = Encode::new([Coding::Zstd, Coding::Gzip]);
            layer.encode(encode).etags(true).vary(Vary::negotiate(["br"]).unwrap()).verify(1.0)
        };
        let app = app(backend, &origin, set).await;
        app.get("/", &[("accept-encoding", "zstd, gzip")]).await;
        let clients = ["zstd, gzip", "gzip", "gzip;q=0.5, zstd;q=0.1", "identity"];
        for (verified, accepted) in (1..).zip(clients) {
            let hit = app.get("/", &[("accept-encoding", accepted), ("if-none-match", "\"x\"")]).await;
            assert_eq!((hit.x_cache(), hit.header("x-call")), ("HIT", Some("1")), "{accepted}");
            assert_eq!((app.cache.counts().verified, app.cache.counts().differing), (verified, 0), "{accepted}");
        }
        text.lock().unwrap().push('!');
        app.get("/", &[("accept-encoding", "zstd")]).await;
        assert_eq!(app.cache.counts().differing, 1);
    }

    async fn of_several_variants_is_in_doubt_by_itself(backend: &Backend) {
        // The look at a variant that is as it should be leaves the doubt about the other one alone, too.
        for (english, outdated) in [("new", 2), ("old", 1)] {
            let told = Told::default();
            let origin = told.origin();
            let app = app(backend, &origin, |layer| layer.verify(1.0).namespace(english)).await;
            let get = async |language, text| {
                told.say(StatusCode::OK, text);
                app.get("/varies", &[("accept-language", language)]).await
            };
            get("de", "old").await;
            get("en", "old").await;
            for _ in 0..6 {
                get("de", "new").await;
                get("en", english).await;
            }
            let counts = app.cache.counts();
            assert!(counts.stale_for_certain >= outdated, "{english}: {counts:?}");
            assert!(counts.differing <= counts.stale_for_certain + outdated, "{english}: {counts:?}");
            assert_eq!((counts.unstable, counts.stored), (0, 2), "{english}");
        }
    }

    async fn that_is_never_the_same_twice_is_told_from_a_stale_one_and_is_not_softened(backend: &Backend) {
        let origin = Origin::echo(FIELDS);
        let app = app(backend, &origin, |layer| layer.verify(Verify::new(1.0).soften(true))).await;
        app.get("/", &[]).await;
        for _ in 0..2 {
            hit(&app).await;
            hit(&app).await;
        }
        let counts = app.cache.counts();
        assert_eq!((counts.differing, counts.unstable, counts.stale_for_certain), (2, 2, 0));
        assert_eq!(counts.stored, 1);
    }

    async fn is_verified_for_who_says_nothing_of_himself_alone(backend: &Backend) {
        let told = Told::default();
        let origin = told.origin();
        let set = |layer: CacheLayer| {
            layer.verify(1.0).request_directives(true).ignore_cookies(["_ga"]).key_cookies(["currency"])
        };
        let app = app(backend, &origin, set).await;
        let personal: [&[(&str, &str)]; 4] = [
            &[("authorization", "Bearer t")],
            &[("cookie", "session=1")],
            &[("cookie", "currency=EUR")],
            &[("cache-control", "only-if-cached")],
        ];
        app.get("/", &[]).await;
        app.get("/", &[("cookie", "currency=EUR")]).await;
        let before = origin.calls();
        for fields in personal {
            assert_eq!(app.get("/", fields).await.x_cache(), "HIT", "{fields:?}");
        }
        app.send(Method::HEAD, "/", &[]).await;
        assert_eq!((origin.calls(), app.cache.counts().verified), (before, 0));
        app.get("/", &[("cookie", "_ga=1")]).await;
        app.get("/", &[("range", "bytes=0-0"), ("if-none-match", "\"x\"")]).await;
        assert_eq!(app.cache.counts().verified, 2);
    }

    async fn has_no_hit_wait_for_a_slow_application(backend: &Backend) {
        let gate = Gate::closed();
        let origin = gated(1, &gate);
        let app = app(backend, &origin, |layer| layer.verify(1.0)).await;
        app.get("/", &[]).await;
        for _ in 0..40 {
            let answer = app.begin(request(Method::GET, "/", &[])).await.unwrap();
            let field = |name| answer.headers()[name].to_str().unwrap();
            assert_eq!((field("x-cache"), field("x-call")), ("HIT", "1"));
        }
        gate.open();
        app.settled().await;
        let loads = origin.calls() - 1;
        assert!((1..=16).contains(&loads), "{loads} at one time");
    }

    /// At a shutdown, nobody waits for what it would say.
    async fn that_hangs_keeps_no_process_from_its_end(backend: &Backend) {
        let gate = Gate::closed();
        let origin = gated(1, &gate);
        let app = app(backend, &origin, |layer| layer.verify(1.0)).await;
        app.get("/", &[]).await;
        drop(app.begin(request(Method::GET, "/", &[])).await.unwrap());
        tests::wait_until("the verification loads", async || origin.calls() == 2).await;
        assert!(app.cache.drain(Duration::from_secs(3)).await);
        gate.open();
    }

    /// It is kept on purpose, and the load is to come in its turn.
    async fn that_an_invalidation_makes_stale_in_its_turn_is_not_verified(backend: &Backend) {
        for (path, is_of_everything) in [("/", false), ("/varies", false), ("/", true)] {
            let told = Told::default();
            let origin = told.origin();
            let namespace = format!("{path} {is_of_everything}");
            let verify = Verify::new(1.0).soften(true);
            let app = app(backend, &origin, |layer| layer.verify(verify).namespace(&namespace)).await;
            app.get(path, &[]).await;
            told.say(StatusCode::OK, "another");
            if is_of_everything {
                app.cache.soft_invalidate_all().over(WEEK).await.unwrap();
            } else {
                let uri = format!("http://shop.example{path}").parse().unwrap();
                assert!(app.layer.soft_invalidate_uri(&uri).over(WEEK).await.unwrap());
            }
            for _ in 0..3 {
                let answer = app.get(path, &[]).await;
                assert_eq!((answer.x_cache(), answer.header("x-call")), ("HIT", Some("1")), "{namespace}");
            }
            let counts = app.cache.counts();
            assert_eq!((counts.verified, counts.stale_for_certain, origin.calls()), (0, 0, 1), "{namespace}");
        }
    }

    async fn that_is_invalidated_while_it_is_loaded_again_is_not_compared(backend: &Backend) {
        for way in ["hard", "soft", "ramp", "uri", "pattern"] {
            let gate = Gate::closed();
            let origin = gated(1, &gate);
            let app = app(backend, &origin, |layer| layer.verify(1.0).namespace(way)).await;
            app.get("/", &[]).await;
            let answer = app.begin(request(Method::GET, "/", &[])).await.unwrap();
            assert_eq!(answer.headers()["x-cache"], "HIT");
            tests::wait_until("the verification to load", async || origin.calls() == 2).await;
            match way {
                "hard" => app.cache.invalidate_all().await.unwrap(),
                "soft" => app.cache.soft_invalidate_all().await.unwrap(),
                "uri" => assert!(app.layer.invalidate_uri(&"http://shop.example/".parse().unwrap()).await.unwrap()),
                "pattern" => app.cache.delete_pattern("*").await.unwrap(),
                _ => app.cache.soft_invalidate_all().over(WEEK).await.unwrap(),
            }
            gate.open();
            app.settled().await;
            assert_eq!((app.cache.counts().verified, origin.calls()), (0, 2), "{way}");
        }
    }

    async fn is_loaded_whole_whatever_the_client_asked_for(backend: &Backend) {
        const CONDITIONS: [&str; 3] = ["range", "if-none-match", "if-modified-since"];
        let conditional = Arc::new(AtomicUsize::new(0));
        let origin = Origin::new({
            let conditional = conditional.clone();
            move |_, request: http::Request<_>| {
                let some = CONDITIONS.iter().any(|name| request.headers().contains_key(*name));
                conditional.fetch_add(usize::from(some), Ordering::SeqCst);
                let mut response = http::Response::new(full("the whole"));
                response.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=3600"));
                async move { Ok(response) }
            }
        });
        let app = app(backend, &origin, |layer| layer.verify(1.0)).await;
        app.get("/", &[]).await;
        let fields = [
            ("range", "bytes=0-2"),
            ("if-none-match", "\"x\""),
            ("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ];
        for field in fields {
            app.get("/", &[field]).await;
        }
        let counts = app.cache.counts();
        assert_eq!((counts.verified, counts.differing, conditional.load(Ordering::SeqCst)), (3, 0, 0));
    }

    async fn is_compared_with_what_the_application_says_and_not_with_a_layer_further_in(backend: &Backend) {
        let told = Told::default();
        let (origin, cache) = (told.origin(), backend.cache().await.build());
        let layer = CacheLayer::new(cache.clone());
        let service = layer.clone().verify(1.0).layer(layer.layer(origin.clone()));
        for text in ["one", "another"] {
            told.say(StatusCode::OK, text);
            tests::ask(&service, request(Method::GET, "/", &[])).await.unwrap();
            settled(&cache).await;
        }
        assert_eq!((origin.calls(), cache.counts().verified, cache.counts().differing), (2, 1, 1));
    }

    over_each_store!(
        is_loaded_whole_whatever_the_client_asked_for,
        is_compared_with_what_the_application_says_and_not_with_a_layer_further_in,
        that_is_the_same_is_said_to_be_and_nothing_is_stored,
        that_has_changed_is_found_and_is_stale_for_certain_once_two_loads_have_said_so,
        that_is_stale_for_certain_is_softened_if_that_is_wanted,
        is_compared_neither_with_an_error_of_the_moment_nor_with_what_no_load_would_store,
        is_not_compared_with_what_is_made_from_a_fallback,
        is_compared_in_none_of_the_fields_that_are_not_stored,
        that_is_longer_than_may_be_stored_here_is_the_same_all_the_same,
        is_compared_as_it_came_from_the_application,
        of_several_variants_is_in_doubt_by_itself,
        that_is_never_the_same_twice_is_told_from_a_stale_one_and_is_not_softened,
        is_verified_for_who_says_nothing_of_himself_alone,
        has_no_hit_wait_for_a_slow_application,
        that_hangs_keeps_no_process_from_its_end,
        that_an_invalidation_makes_stale_in_its_turn_is_not_verified,
        that_is_invalidated_while_it_is_loaded_again_is_not_compared,
    );
}

#[tokio::test]
async fn never_more_hits_are_verified_than_the_rate_says() {
    let told = Told::default();
    let origin = told.origin();
    let app = app(&Backend::memory(), &origin, |layer| layer.verify(0.25)).await;
    app.get("/", &[]).await;
    for hits in 1..=400_usize {
        hit(&app).await;
        assert!(origin.calls() - 1 <= hits.div_ceil(4), "{} of {hits}", origin.calls() - 1);
    }
    assert!(origin.calls() > 60, "{}", origin.calls());
}

/// A hit of a client's own is drawn like any other, and then not verified: that takes nothing from the others, nor adds to them.
#[tokio::test]
async fn of_hits_half_of_which_are_a_clients_own_the_same_share_of_the_others_is_verified() {
    const HITS: usize = 1_600;
    let told = Told::default();
    let origin = told.origin();
    let set = |layer: CacheLayer| layer.verify(0.25).request_directives(true);
    let app = app(&Backend::memory(), &origin, set).await;
    app.get("/", &[]).await;
    for _ in 0..HITS / 2 {
        hit(&app).await;
        assert_eq!(app.get("/", &[("cache-control", "only-if-cached")]).await.x_cache(), "HIT");
    }
    let (verified, expected) = (app.cache.counts().verified as f64, HITS as f64 / 8.0);
    let sigma = (expected * 0.75).sqrt();
    assert!((verified - expected).abs() <= 5.0 * sigma, "{verified} instead of {expected}, {sigma}");
}

#[tokio::test]
async fn it_takes_no_place_that_a_request_may_need() {
    for (most, verified) in [(1, 0), (2, 1)] {
        let told = Told::default();
        let origin = told.origin();
        let app = app(&Backend::memory(), &origin, |layer| layer.max_loads(most).verify(1.0)).await;
        app.get("/", &[]).await;
        hit(&app).await;
        assert_eq!(app.cache.counts().verified, verified, "with {most} places");
    }
}

/// What a body loads while it is read needs no place besides that of the verification, for which there may be none.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_read_in_the_place_of_its_verification() {
    let (verification, other) = (Gate::closed(), Gate::closed());
    let cache = Backend::memory().cache().await.max_loads(2).build();
    let origin = Origin::new({
        let (cache, verification, other) = (cache.clone(), verification.clone(), other.clone());
        move |call, _| {
            let (cache, verification, other) = (cache.clone(), verification.clone(), other.clone());
            async move {
                match call {
                    1 => {}
                    2 => verification.pass().await,
                    _ => other.pass().await,
                }
                let content = async move {
                    let load = async || Ok::<_, Failure>("value".to_owned());
                    let value = cache.get_or_load("value", load).ttl(Duration::ZERO).await?;
                    Ok(http_body::Frame::data(bytes::Bytes::from(value)))
                };
                let body = http_body_util::StreamBody::new(futures_util::stream::once(content));
                Ok(http::Response::new(http_body_util::BodyExt::boxed_unsync(body)))
            }
        }
    });
    let app = App::new(cache, &origin, |layer| layer.ttl(WEEK).verify(1.0)).unexplained();
    app.get("/", &[]).await;
    app.begin(request(Method::GET, "/", &[])).await.unwrap();
    tests::wait_until("the verification to load", async || origin.calls() == 2).await;
    let loading = tokio::spawn({
        let app = app.clone();
        async move { app.get("/other", &[]).await }
    });
    tests::wait_until("the other place to be taken", async || origin.calls() == 3).await;
    verification.open();
    tests::wait_until("the body to be read", async || app.cache.counts().verified == 1).await;
    other.open();
    assert_eq!(loading.await.unwrap().text(), "value");
    assert_eq!(app.cache.counts().differing, 0);
}

#[tokio::test]
async fn a_rule_says_for_its_own_paths() {
    let told = Told::default();
    let origin = told.origin();
    let rules = |layer: CacheLayer| {
        let layer = layer.verify(1.0).rule(Rule::prefix("/never").verify(0.0)).unwrap();
        layer.rule(Rule::prefix("/other").ttl_cap(Duration::from_secs(60))).unwrap()
    };
    let app = app(&Backend::memory(), &origin, rules).await;
    for (path, verified) in [("/never", 0), ("/other", 1), ("/third", 2)] {
        app.get(path, &[]).await;
        app.get(path, &[]).await;
        assert_eq!(app.cache.counts().verified, verified, "{path}");
    }
}

#[tokio::test]
async fn a_stale_response_that_its_client_accepts_is_not_verified() {
    let told = Told::default();
    let (origin, clock) = (told.origin(), Clock::manual());
    let cache = Cache::builder(MemoryStore::new(1 << 20)).clock(clock.clone()).build();
    let app = App::new(cache, &origin, |layer| layer.verify(1.0).request_directives(true));
    app.get("/", &[]).await;
    told.say(StatusCode::OK, "another");
    for (passed, verified) in [(3590, 1), (20, 1)] {
        clock.advance(Duration::from_secs(passed));
        let answer = app.get("/", &[("cache-control", "max-stale")]).await;
        assert_eq!((answer.header("x-call"), app.cache.counts().verified), (Some("1"), verified), "{passed}");
    }
    assert_eq!((app.cache.counts().stale_for_certain, origin.calls()), (0, 2));
}

/// Each rule counts its own hits; the loads of all of them are at most as many as those of one.
#[tokio::test]
async fn as_many_run_at_one_time_with_rules_as_without() {
    let gate = Gate::closed();
    let origin = gated(3, &gate);
    let rules = |layer: CacheLayer| {
        let layer = layer.verify(1.0).rule(Rule::prefix("/a").verify(1.0)).unwrap();
        layer.rule(Rule::prefix("/b").verify(1.0)).unwrap()
    };
    let app = app(&Backend::memory(), &origin, rules).await;
    let paths = ["/a", "/b", "/c"];
    for path in paths {
        app.get(path, &[]).await;
    }
    for path in paths.repeat(40) {
        let answer = app.begin(request(Method::GET, path, &[])).await.unwrap();
        assert_eq!(answer.headers()["x-cache"], "HIT");
    }
    gate.open();
    app.settled().await;
    let loads = origin.calls() - 3;
    assert!((1..=16).contains(&loads), "{loads} at one time");
}

/// An application that changes at a known rate, and tells nobody: what is measured is that rate.
#[tokio::test]
async fn the_share_that_differs_is_that_of_what_has_changed() {
    const KEYS: u64 = 1_200;
    const AGE: f64 = 30.0;
    const CHANGES_A_SECOND: f64 = 1.0 / 60.0;
    let clock = Clock::manual();
    let begin = clock.now();
    let origin = Origin::new({
        let clock = clock.clone();
        move |_, request| {
            let number: u64 = request.uri().path()[1..].parse().unwrap();
            let mut random = fastrand::Rng::with_seed(number * 7_919 + 3);
            let (mut change, mut version) = (0.0, 0);
            while change < (clock.now() - begin) as f64 / 1000.0 {
                change -= (1.0 - random.f64()).ln() / CHANGES_A_SECOND;
                version += 1;
            }
            let mut response = http::Response::new(full(version.to_string()));
            response.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=3600"));
            async move { Ok(response) }
        }
    });
    let ages = Arc::new(Mutex::new(Vec::new()));
    let observer = {
        let ages = ages.clone();
        move |event: Event| {
            if let Event::Verified { age, .. } = event {
                ages.lock().unwrap().push(age);
            }
        }
    };
    let cache = Cache::builder(MemoryStore::new(64 << 20)).clock(clock.clone()).observer(observer).build();
    let app = App::new(cache, &origin, |layer| layer.verify(1.0)).unexplained();
    clock.advance(Duration::from_secs(1_000));
    for number in 0..KEYS {
        app.get(&format!("/{number}"), &[]).await;
    }
    clock.advance(Duration::from_secs_f64(AGE));
    for number in 0..KEYS {
        app.get(&format!("/{number}"), &[]).await;
    }
    let counts = app.cache.counts();
    // Some turns are kept for a second look.
    assert!(counts.verified > KEYS * 9 / 10, "{}", counts.verified);
    let (measured, expected) =
        (counts.differing as f64 / counts.verified as f64, 1.0 - (-CHANGES_A_SECOND * AGE).exp());
    let sigma = (expected * (1.0 - expected) / counts.verified as f64).sqrt();
    assert!((measured - expected).abs() <= 3.0 * sigma, "{measured} instead of {expected}, {sigma}");
    assert!(ages.lock().unwrap().iter().all(|age| *age == Duration::from_secs(30)));
    assert_eq!(counts.stored, KEYS, "nothing of it is stored");
}

/// With and without, in turn, in one run. A hit that is not drawn takes the same path, and the loads of those that are make no
/// other one slower.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, for a quiet machine"]
async fn of_a_hundred_hits_the_slowest_is_as_fast_with_verification_as_without() {
    const ROUNDS: usize = 31;
    const HITS: usize = 10_000;
    let origin = Origin::echo(FIELDS);
    let without = app(&Backend::memory(), &origin, |layer| layer).await.unexplained();
    let with = app(&Backend::memory(), &origin, |layer| layer.verify(0.001)).await.unexplained();
    // The median, and the 99th percentile.
    let percentiles = async |app: &App| {
        let service = app.service();
        let mut times = Vec::with_capacity(HITS);
        for _ in 0..HITS {
            let (request, service) = (request(Method::GET, "/", &[]), service.clone());
            let begun = Instant::now();
            let answer = service.oneshot(request).await.unwrap();
            times.push(begun.elapsed());
            assert_eq!(answer.headers()["x-cache"], "HIT");
        }
        times.sort_unstable();
        [HITS / 2, HITS * 99 / 100].map(|place| times[place].as_secs_f64())
    };
    for app in [&without, &with] {
        app.get("/", &[]).await;
    }
    let (mut usual, mut slowest) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    for round in 0..ROUNDS {
        // Each is as often first as second.
        let (before, verified) = if round % 2 == 0 {
            let before = percentiles(&without).await;
            (before, percentiles(&with).await)
        } else {
            let verified = percentiles(&with).await;
            (percentiles(&without).await, verified)
        };
        usual.push(verified[0] / before[0]);
        slowest.push(verified[1] / before[1]);
    }
    with.settled().await;
    let [usual, slowest] = [usual, slowest].map(|mut ratios| {
        ratios.sort_unstable_by(f64::total_cmp);
        ratios[ROUNDS / 2]
    });
    let verified = with.cache.counts().verified;
    println!("with verification, beside hits without it: half {usual:.3}, 99 % {slowest:.3}; {verified} verified");
    assert!((1..=(ROUNDS * HITS) as u64 / 1000).contains(&verified), "{verified} of {}", ROUNDS * HITS);
    assert!(usual <= 1.1 && slowest <= 1.1, "{usual} and {slowest}");
}

mod a_value {
    use super::*;

    async fn is_verified_by_its_load(backend: &Backend) {
        let cache = backend.cache().await.verify(Verify::new(1.0).soften(true)).build();
        let (loads, value) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(7)));
        let get = async || {
            let (loads, value) = (loads.clone(), value.clone());
            let load = async move || {
                loads.fetch_add(1, Ordering::SeqCst);
                Ok::<_, std::convert::Infallible>(value.load(Ordering::SeqCst))
            };
            let got = cache.get_or_load("k", load).ttl(Duration::from_secs(3600)).await.unwrap();
            settled(&cache).await;
            got
        };
        assert_eq!((get().await, get().await), (7, 7));
        assert_eq!((loads.load(Ordering::SeqCst), cache.counts().verified, cache.counts().differing), (2, 1, 0));
        value.store(8, Ordering::SeqCst);
        assert_eq!((get().await, get().await), (7, 7));
        let counts = cache.counts();
        assert_eq!((counts.differing, counts.stale_for_certain, counts.stored), (1, 1, 1));
        assert_eq!(get().await, 8, "it was softened");
    }

    async fn is_not_compared_with_what_its_load_would_not_store(backend: &Backend) {
        let cache = backend.cache().await.verify(Verify::new(1.0).soften(true)).build();
        let outage = Arc::new(AtomicUsize::new(0));
        let get = async || {
            let (inner, outage) = (cache.clone(), outage.load(Ordering::SeqCst));
            let load = async move |_| match outage {
                0 => Ok(Loaded::new(Some(7))),
                1 => Ok(Loaded::new(Some(0)).ttl(Duration::ZERO)),
                2 => Ok(Loaded::new(None)),
                _ => {
                    let down = async || Err::<u32, _>(Failure("down"));
                    inner.get_or_load("source", down).fallback(0).await.map(Some).map(Loaded::new)
                }
            };
            let got = cache.get_or_load_with("k", load).ttl(WEEK).negative_ttl(Duration::ZERO).await.unwrap();
            settled(&cache).await;
            got
        };
        assert_eq!(get().await, Some(7));
        for way in 1..=3 {
            outage.store(way, Ordering::SeqCst);
            for _ in 0..3 {
                assert_eq!(get().await, Some(7), "{way}");
            }
            assert_eq!((cache.counts().verified, cache.counts().stale_for_certain), (0, 0), "{way}");
        }
    }

    /// During a deployment, instances may write in different ways.
    async fn is_compared_whatever_codec_it_was_written_by(backend: &Backend) {
        let load = async || Ok::<_, std::convert::Infallible>(vec![1_u64, 300, 70_000]);
        let before = backend.cache().await.build();
        before.get_or_load("k", load).ttl(WEEK).await.unwrap();
        settled(&before).await;
        let after = backend.cache().await.codec(Postcard).verify(Verify::new(1.0).soften(true)).build();
        for verified in 1..=3 {
            after.get_or_load("k", load).ttl(WEEK).await.unwrap();
            settled(&after).await;
            assert_eq!((after.counts().verified, after.counts().differing), (verified, 0));
        }
        let other = async || Ok::<_, std::convert::Infallible>(vec![2_u64]);
        after.get_or_load("k", other).ttl(WEEK).await.unwrap();
        settled(&after).await;
        assert_eq!(after.counts().differing, 1);
    }

    /// Nothing is said of a value by bytes that come in another order each time.
    async fn that_is_written_differently_each_time_is_not_compared(backend: &Backend) {
        let cache = backend.cache().await.verify(Verify::new(1.0).soften(true)).build();
        for size in [2, 40] {
            let load = async move || Ok::<_, std::convert::Infallible>((0..size).map(|n| (n, n)).collect());
            for _ in 0..50 {
                let got: HashMap<u32, u32> = cache.get_or_load(("k", size), load).ttl(WEEK).await.unwrap();
                assert_eq!(got.len(), size as usize);
                settled(&cache).await;
            }
            let counts = cache.counts();
            assert_eq!(
                (counts.differing, counts.stale_for_certain, counts.stored),
                (0, 0, if size == 2 { 1 } else { 2 })
            );
        }
    }

    async fn that_a_load_asks_for_is_not_its_to_verify(backend: &Backend) {
        let cache = backend.cache().await.max_loads(4).verify(1.0).build();
        let inner = || {
            let cache = cache.clone();
            async move || cache.get_or_load("inner", async || Ok::<_, std::convert::Infallible>(1)).await
        };
        for _ in 0..3 {
            assert_eq!(cache.get_or_load("outer", inner()).await, Ok(1));
            settled(&cache).await;
        }
        assert_eq!((cache.counts().verified, cache.counts().differing), (2, 0));
    }

    async fn that_an_invalidation_makes_stale_in_its_turn_or_meanwhile_is_not_verified(backend: &Backend) {
        let cache = backend.cache().await.verify(Verify::new(1.0).soften(true)).build();
        let (loads, gate) = (Arc::new(AtomicUsize::new(0)), Gate::closed());
        let get = async || {
            let (loads, gate) = (loads.clone(), gate.clone());
            let load = async move || {
                let load = loads.fetch_add(1, Ordering::SeqCst);
                if load > 0 {
                    gate.pass().await;
                }
                Ok::<_, std::convert::Infallible>(load)
            };
            cache.get_or_load("k", load).ttl(Duration::from_secs(3600)).await.unwrap()
        };
        assert_eq!(get().await, 0);
        settled(&cache).await;
        assert_eq!(get().await, 0);
        tests::wait_until("the verification to load", async || loads.load(Ordering::SeqCst) == 2).await;
        assert!(cache.drain(Duration::from_secs(3)).await, "nobody waits for it");
        cache.soft_invalidate_all().over(WEEK).await.unwrap();
        gate.open();
        settled(&cache).await;
        assert_eq!((get().await, cache.counts().verified), (0, 0), "meanwhile");
        settled(&cache).await;
        assert_eq!((loads.load(Ordering::SeqCst), cache.counts().verified), (2, 0), "its turn is to come");
    }

    over_each_store!(
        is_verified_by_its_load,
        is_not_compared_with_what_its_load_would_not_store,
        is_compared_whatever_codec_it_was_written_by,
        that_is_written_differently_each_time_is_not_compared,
        that_a_load_asks_for_is_not_its_to_verify,
        that_an_invalidation_makes_stale_in_its_turn_or_meanwhile_is_not_verified,
    );
}
