//! The promises of RFC 9111 and its companions to the clients of a cache, and the choices that a user has.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cache_layer::{CacheLayer, Clock, Freshness, Profile, SetCookie, Tags, store::LeaseState};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use http_body_util::BodyExt as _;
use tests::{
    App, Backend, Body, CacheStatus, Failure, Feed, Gate, Origin, ask, echo, full, over_each_store, request, wait_until,
};
use tokio::time::sleep;

type Fields = &'static [(&'static str, &'static str)];

const MAX_AGE: Fields = &[("cache-control", "max-age=60")];
const MINUTE: Duration = Duration::from_secs(60);
/// Long before any test runs.
const LAST_MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn app(backend: &Backend, origin: &Origin, clock: &Clock, set: impl FnOnce(CacheLayer) -> CacheLayer) -> App {
    App::new(backend.cache().await.clock(clock.clone()).build(), origin, set)
}

fn strict(layer: CacheLayer) -> CacheLayer {
    layer.profile(Profile::Strict)
}

/// What an application says to one call.
#[derive(Clone, Copy)]
enum Reply {
    Answer(u16, Fields, &'static str),
    Fails,
}

use Reply::{Answer, Fails};

impl Reply {
    fn give(self) -> Result<http::Response<Body>, Failure> {
        let Answer(status, fields, body) = self else { return Err(Failure("the application's own")) };
        let mut response = http::Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        Ok(response.body(full(body)).unwrap())
    }
}

/// The fields of every request that an application got, by call.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<HeaderMap>>>);

impl Asked {
    fn note(&self, headers: &HeaderMap) {
        self.0.lock().unwrap().push(headers.clone());
    }

    /// What the last request said in a field.
    fn last(&self, name: &str) -> Option<String> {
        let all = self.0.lock().unwrap();
        all.last().expect("a request").get(name).map(|value| value.to_str().unwrap().to_owned())
    }
}

/// An application that answers its calls by `replies`, one after the other, and all that follow by the last.
fn replies(replies: &'static [Reply]) -> (Origin, Asked) {
    let asked = Asked::default();
    let noted = asked.clone();
    let origin = Origin::new(move |call, request| {
        noted.note(request.headers());
        std::future::ready(replies[call.min(replies.len()) - 1].give())
    });
    (origin, asked)
}

/// As [`Origin::gated_echo`], but for the first call, which is answered at once.
fn echo_then_gated(gate: &Gate, fields: Fields) -> Origin {
    let gate = gate.clone();
    Origin::new(move |call, request| {
        let gate = gate.clone();
        async move {
            if call > 1 {
                gate.pass().await;
            }
            Ok(echo(call, &request, fields))
        }
    })
}

/// A URI that no cache has seen: one whose responses could not be kept is remembered for a while.
fn unseen() -> String {
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    format!("/unseen/{}", SEEN.fetch_add(1, Ordering::Relaxed))
}

/// A GET whose answer nobody has waited for yet.
fn asking(app: &App, uri: &'static str) -> tokio::task::JoinHandle<tests::Response> {
    let app = app.clone();
    tokio::spawn(async move { app.get(uri, &[]).await })
}

/// The answer to a GET, while loads may still be under way.
async fn at_once(app: &App, uri: &str) -> tests::Response {
    ask(&app.service(), request(Method::GET, uri, &[])).await.unwrap()
}

mod validation {
    use super::*;

    const TAGGED: Fields = &[("cache-control", "max-age=60"), ("etag", "\"a\"")];

    async fn asks_with_exactly_the_stored_validators(backend: &Backend) {
        const DATED: Fields = &[("cache-control", "max-age=60"), ("last-modified", LAST_MODIFIED)];
        const BOTH: Fields = &[
            ("cache-control", "max-age=60"),
            ("etag", "W/\"a, b\""),
            ("last-modified", "sunday, 06-nov-94 08:49:37 gmt"),
        ];
        const CASES: [(&[Reply], Option<&str>, Option<&str>); 3] = [
            (&[Answer(200, TAGGED, "stored"), Answer(304, &[], "")], Some("\"a\""), None),
            (&[Answer(200, DATED, "stored"), Answer(304, &[], "")], None, Some(LAST_MODIFIED)),
            (
                &[Answer(200, BOTH, "stored"), Answer(304, &[], "")],
                Some("W/\"a, b\""),
                Some("sunday, 06-nov-94 08:49:37 gmt"),
            ),
        ];
        const OF_THE_CLIENT: [Fields; 4] = [
            &[],
            &[("if-none-match", "\"of the client\"")],
            &[("if-modified-since", "Sun, 06 Nov 1988 08:49:37 GMT"), ("if-none-match", "\"x\"")],
            &[("range", "bytes=0-"), ("if-range", "\"x\"")],
        ];
        for (script, tag, date) in CASES {
            for of_the_client in OF_THE_CLIENT {
                let (clock, (origin, asked)) = (Clock::manual(), replies(script));
                let app = app(backend, &origin, &clock, |layer| layer).await;
                app.cache.invalidate_all().await.unwrap();
                app.get("/", &[]).await;
                clock.advance(seconds(61));
                let answer = app.get("/", of_the_client).await;
                assert_eq!((answer.status.as_u16(), answer.text(), origin.calls()), (200, "stored", 2));
                let (tag, date) = (tag.map(Into::into), date.map(Into::into));
                assert_eq!((asked.last("if-none-match"), asked.last("if-modified-since")), (tag, date));
                assert_eq!((asked.last("range"), asked.last("if-range")), (None, None), "{of_the_client:?}");
            }
        }
    }

    async fn that_succeeds_freshens_what_is_stored(backend: &Backend) {
        const STORED: Fields = &[
            ("cache-control", "max-age=60"),
            ("etag", "\"a\""),
            ("content-length", "6"),
            ("content-type", "text/plain"),
            ("x-old", "1"),
            ("x-changed", "old"),
            ("x-changed", "twice"),
        ];
        const FRESHENED: Fields = &[
            ("cache-control", "max-age=120"),
            ("etag", "\"a\""),
            ("content-length", "0"),
            ("content-encoding", "br"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("x-changed", "new"),
            ("x-new", "1"),
        ];
        let (origin, _) = replies(&[Answer(200, STORED, "stored"), Answer(304, FRESHENED, "")]);
        let clock = Clock::manual();
        let app = app(backend, &origin, &clock, |layer| layer).await;
        let first = app.get("/", &[]).await;
        clock.advance(seconds(61));
        let validated = app.get("/", &[]).await;
        assert_eq!(validated.x_cache(), "REVALIDATED");
        let expected =
            CacheStatus { fwd: Some("stale".into()), fwd_status: Some(304), stored: true, ..CacheStatus::default() };
        assert_eq!(validated.cache_status(), expected);
        clock.advance(seconds(119));
        let hit = app.get("/", &[]).await;
        assert_eq!(hit.cache_status(), CacheStatus { hit: true, ttl: Some(1), ..CacheStatus::default() });
        assert_eq!((hit.header("age"), origin.calls()), (Some("119"), 2));
        for answer in [validated, hit] {
            assert_eq!((answer.status.as_u16(), answer.text()), (200, "stored"));
            let changed: Vec<_> = answer.headers.get_all("x-changed").iter().collect();
            assert_eq!(changed, ["new"]);
            for (name, value) in [
                ("cache-control", Some("max-age=120")),
                ("content-length", Some("6")),
                ("content-type", Some("text/plain")),
                ("content-encoding", None),
                ("x-old", Some("1")),
                ("x-new", Some("1")),
                ("x-hop", None),
            ] {
                assert_eq!(answer.header(name), value, "{name}");
            }
            assert_ne!(answer.header("date"), first.header("date"));
        }
    }

    /// RFC 9111, sections 4.2.3 and 4.3.4.
    async fn by_an_older_304_leaves_only_the_rest_of_the_freshness(backend: &Backend) {
        let (origin, _) = replies(&[Answer(200, TAGGED, "stored"), Answer(304, &[("age", "50")], "")]);
        let clock = Clock::manual();
        let app = app(backend, &origin, &clock, |layer| layer).await;
        app.get("/", &[]).await;
        for (later, x_cache, age, calls) in
            [(61, "REVALIDATED", "50", 2), (9, "HIT", "59", 2), (2, "REVALIDATED", "50", 3)]
        {
            clock.advance(seconds(later));
            let answer = app.get("/", &[]).await;
            assert_eq!((answer.x_cache(), answer.header("age"), answer.text()), (x_cache, Some(age), "stored"));
            assert_eq!((answer.headers.get_all("age").iter().count(), origin.calls()), (1, calls));
        }
    }

    async fn that_fails_replaces_what_is_stored(backend: &Backend) {
        const OTHER: Fields = &[("cache-control", "max-age=60"), ("etag", "\"b\"")];
        let (origin, _) = replies(&[Answer(200, TAGGED, "old"), Answer(200, OTHER, "new")]);
        let clock = Clock::manual();
        let app = app(backend, &origin, &clock, |layer| layer).await;
        app.get("/", &[]).await;
        clock.advance(seconds(61));
        let replaced = app.get("/", &[]).await;
        assert_eq!((replaced.x_cache(), replaced.text()), ("MISS", "new"));
        let expected = CacheStatus { fwd: Some("stale".into()), stored: true, ..CacheStatus::default() };
        assert_eq!(replaced.cache_status(), expected);
        let hit = app.get("/", &[]).await;
        assert_eq!((hit.x_cache(), hit.text(), hit.header("etag")), ("HIT", "new", Some("\"b\"")));
    }

    async fn is_what_no_cache_demands_every_time(backend: &Backend) {
        const SCRIPTS: [&[Reply]; 2] = [
            &[Answer(200, &[("cache-control", "no-cache"), ("etag", "\"a\"")], "stored"), Answer(304, &[], "")],
            &[
                Answer(200, &[("cache-control", "max-age=60, no-cache"), ("last-modified", LAST_MODIFIED)], "stored"),
                Answer(304, &[], ""),
            ],
        ];
        for script in SCRIPTS {
            let (clock, (origin, _)) = (Clock::manual(), replies(script));
            let app = app(backend, &origin, &clock, |layer| layer.stale_while_revalidate(MINUTE)).await;
            app.cache.invalidate_all().await.unwrap();
            assert_eq!(app.get("/", &[]).await.x_cache(), "MISS");
            for call in 2..=4 {
                clock.advance(seconds(1));
                let answer = app.get("/", &[]).await;
                assert_eq!((answer.x_cache(), answer.text(), origin.calls()), ("REVALIDATED", "stored", call));
            }
        }
    }

    async fn of_one_variant_leaves_the_others(backend: &Backend) {
        const VARIES: Fields = &[("cache-control", "max-age=60"), ("etag", "\"a\""), ("vary", "accept-language")];
        let origin = Origin::new(|call, request| {
            let stored = request.headers().contains_key("if-none-match");
            let reply = Answer(304, VARIES, "").give();
            std::future::ready(if stored { reply } else { Ok(echo(call, &request, VARIES)) })
        });
        let clock = Clock::manual();
        let app = app(backend, &origin, &clock, |layer| layer).await;
        let (german, english): (Fields, Fields) = (&[("accept-language", "de")], &[("accept-language", "en")]);
        app.get("/", german).await;
        clock.advance(seconds(30));
        app.get("/", english).await;
        clock.advance(seconds(31));
        let validated = app.get("/", german).await;
        assert_eq!((validated.x_cache(), validated.call()), ("REVALIDATED", 1));
        for (language, call) in [(german, 1), (english, 2)] {
            let hit = app.get("/", language).await;
            assert_eq!((hit.x_cache(), hit.call()), ("HIT", call), "{language:?}");
        }
    }

    async fn keeps_the_tags(backend: &Backend) {
        let origin = Origin::new(|call, _| async move {
            if call == 2 {
                return Answer(304, &[], "").give();
            }
            let mut response = Answer(200, TAGGED, "stored").give()?;
            response.extensions_mut().insert(Tags::new(["products"]));
            Ok(response)
        });
        let clock = Clock::manual();
        let app = app(backend, &origin, &clock, |layer| layer).await;
        app.get("/", &[]).await;
        clock.advance(seconds(61));
        assert_eq!(app.get("/", &[]).await.x_cache(), "REVALIDATED");
        assert_eq!(app.get("/", &[]).await.x_cache(), "HIT");
        app.cache.invalidate_tag("products").await.unwrap();
        assert_eq!(app.get("/", &[]).await.x_cache(), "MISS");
    }

    async fn that_an_invalidation_overtakes_is_not_stored(backend: &Backend) {
        for by in ["key", "tag", "everything"] {
            let gate = Gate::closed();
            let opens = gate.clone();
            let origin = Origin::new(move |call, _| {
                let gate = gate.clone();
                async move {
                    if call == 2 {
                        gate.pass().await;
                        return Answer(304, TAGGED, "").give();
                    }
                    let mut response = Answer(200, TAGGED, if call == 1 { "old" } else { "new" }).give()?;
                    response.extensions_mut().insert(Tags::new(["products"]));
                    Ok(response)
                }
            });
            let clock = Clock::manual();
            let app = app(backend, &origin, &clock, |layer| layer).await;
            app.cache.invalidate_all().await.unwrap();
            app.get("/", &[]).await;
            clock.advance(seconds(61));
            let validated = asking(&app, "/");
            wait_until("it is being validated", async || origin.calls() == 2).await;
            let key = CacheLayer::new(app.cache.clone()).key(&"http://shop.example/".parse().unwrap()).unwrap();
            match by {
                "key" => app.cache.invalidate(&key).await.unwrap(),
                "tag" => app.cache.invalidate_tag("products").await.unwrap(),
                _ => app.cache.invalidate_all().await.unwrap(),
            }
            opens.open();
            assert_eq!(validated.await.unwrap().status, StatusCode::OK);
            let after = app.get("/", &[]).await;
            assert_eq!((after.x_cache(), after.text()), ("MISS", "new"), "{by}");
        }
    }

    async fn of_another_response_is_not_merged(backend: &Backend) {
        const OF_ANOTHER: Fields = &[("cache-control", "max-age=600"), ("etag", "\"b\""), ("x-changed", "new")];
        let script: &[Reply] = &[Answer(200, TAGGED, "old"), Answer(304, OF_ANOTHER, ""), Answer(200, TAGGED, "new")];
        let (origin, asked) = replies(script);
        let clock = Clock::manual();
        let app = app(backend, &origin, &clock, |layer| layer).await;
        app.get("/", &[]).await;
        clock.advance(seconds(61));
        let answer = app.get("/", &[]).await;
        assert_eq!((answer.header("etag"), answer.header("x-changed")), (Some("\"a\""), None));
        assert!(!answer.cache_status().stored);
        let after = app.get("/", &[]).await;
        assert_eq!((after.x_cache(), after.text()), ("MISS", "new"));
        assert_eq!(asked.last("if-none-match"), None);
    }

    /// The validators of a 304, and those of the stored response: in another spelling, or without a match.
    const UNMATCHED: [(Fields, Fields); 7] = [
        // nginx, with gzip on
        (&[("etag", "W/\"a\"")], &[("etag", "\"a\"")]),
        // Caddy and Jetty
        (&[("etag", "\"a-gzip\"")], &[("etag", "\"a\"")]),
        (&[("etag", "\"a\"")], &[("etag", "\"another\"")]),
        (&[("etag", "\"a\"")], &[("etag", "\"a\""), ("etag", "\"b\"")]),
        (&[("etag", "\"a\"")], &[("last-modified", LAST_MODIFIED)]),
        (&[("last-modified", LAST_MODIFIED)], &[("etag", "\"a\"")]),
        (&[("last-modified", LAST_MODIFIED)], &[("last-modified", "Mon, 07 Nov 1994 08:49:37 GMT")]),
    ];

    /// Answers every precondition with a 304 that says `confirmed`, and else with an echo that has the fields `stored`.
    fn mismatching(control: &'static str, (stored, confirmed): (Fields, Fields), varies: bool) -> (Origin, Asked) {
        let asked = Asked::default();
        let noted = asked.clone();
        let origin = Origin::new(move |call, request| {
            noted.note(request.headers());
            let conditional = ["if-none-match", "if-modified-since"];
            let conditional = conditional.iter().any(|name| request.headers().contains_key(*name));
            let fields = if conditional { confirmed } else { stored };
            let mut response = echo(call, &request, fields);
            response.headers_mut().insert("cache-control", control.parse().unwrap());
            if varies {
                response.headers_mut().insert("vary", "accept-encoding".parse().unwrap());
            }
            if conditional {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                *response.body_mut() = full("");
            }
            std::future::ready(Ok(response))
        });
        (origin, asked)
    }

    async fn that_can_not_be_matched_is_followed_by_the_whole(backend: &Backend) {
        for control in ["max-age=60, must-revalidate", "max-age=60, proxy-revalidate", "s-maxage=60", "max-age=60"] {
            for (validators, varies) in UNMATCHED.into_iter().zip([true, false].into_iter().cycle()) {
                let (clock, (origin, asked)) = (Clock::manual(), mismatching(control, validators, varies));
                let app = app(backend, &origin, &clock, |layer| layer).await;
                app.cache.invalidate_all().await.unwrap();
                app.get("/", &[]).await;
                clock.advance(seconds(61));
                let confirmed = app.get("/", &[]).await;
                let case = format!("{control} {validators:?}");
                assert_eq!((confirmed.status.as_u16(), confirmed.x_cache()), (200, "REVALIDATED"), "{case}");
                assert_eq!((confirmed.call(), confirmed.header("age")), (1, Some("61")), "not made fresh: {case}");
                let expected = CacheStatus {
                    fwd: Some("stale".into()),
                    fwd_status: Some(304),
                    detail: Some("unmatched".into()),
                    ..CacheStatus::default()
                };
                assert_eq!(confirmed.cache_status(), expected, "{case}");
                let whole = app.get("/", &[]).await;
                assert_eq!((whole.x_cache(), whole.call(), whole.cache_status().stored), ("MISS", 3, true), "{case}");
                assert_eq!((asked.last("if-none-match"), asked.last("if-modified-since")), (None, None), "{case}");
                for _ in 0..3 {
                    let hit = app.get("/", &[]).await;
                    assert_eq!((hit.x_cache(), hit.call(), origin.calls()), ("HIT", 3, 3), "{case}");
                }
                // A response that was loaded anew may be validated again.
                clock.advance(seconds(61));
                assert_eq!((app.get("/", &[]).await.call(), origin.calls()), (3, 4), "{case}");
                assert!(asked.last("if-none-match").or(asked.last("if-modified-since")).is_some(), "{case}");
            }
        }
    }

    async fn that_can_not_be_matched_where_each_request_is_to_be_validated(backend: &Backend) {
        for control in ["no-cache", "max-age=60, no-cache", "max-age=0, must-revalidate"] {
            let (origin, _) = mismatching(control, UNMATCHED[0], true);
            let app = App::on(backend, &origin).await;
            app.cache.invalidate_all().await.unwrap();
            for (x_cache, call) in [("MISS", 1), ("REVALIDATED", 1), ("MISS", 3), ("REVALIDATED", 3), ("MISS", 5)] {
                let answer = app.get("/", &[]).await;
                assert_eq!((answer.status, answer.x_cache(), answer.call()), (StatusCode::OK, x_cache, call));
            }
        }
    }

    /// No request waits for this response, so none is answered by it; later requests are.
    async fn that_can_not_be_matched_in_the_background_is_followed_by_the_whole(backend: &Backend) {
        for validators in UNMATCHED {
            let clock = Clock::manual();
            let (origin, asked) = mismatching("max-age=60, stale-while-revalidate=60", validators, true);
            let app = app(backend, &origin, &clock, |layer| layer).await;
            app.cache.invalidate_all().await.unwrap();
            app.get("/", &[]).await;
            clock.advance(seconds(61));
            for (x_cache, call) in [("STALE", 1), ("STALE", 1), ("HIT", 3), ("HIT", 3)] {
                let answer = app.get("/", &[]).await;
                assert_eq!((answer.x_cache(), answer.call()), (x_cache, call), "{validators:?}");
            }
            assert_eq!((origin.calls(), asked.last("if-none-match")), (3, None), "{validators:?}");
        }
    }

    async fn that_can_not_be_matched_is_one_question_for_all_who_wait(backend: &Backend) {
        let (inner, _) = mismatching("max-age=60, must-revalidate", UNMATCHED[0], true);
        let (gate, clock) = (Gate::closed(), Clock::manual());
        let origin = Origin::new({
            let (gate, inner) = (gate.clone(), inner.clone());
            move |call, request| {
                let (gate, mut inner) = (gate.clone(), inner.clone());
                async move {
                    if call > 1 {
                        gate.pass().await;
                    }
                    tower::Service::call(&mut inner, request).await
                }
            }
        });
        let app = app(backend, &origin, &clock, |layer| layer).await;
        app.get("/", &[]).await;
        clock.advance(seconds(61));
        let clients: Vec<_> = (0..8).map(|_| asking(&app, "/")).collect();
        wait_until("seven of them wait", async || app.cache.counts().coalesced == 7).await;
        gate.open();
        let mut calls = Vec::new();
        for client in clients {
            let answer = client.await.unwrap();
            assert_eq!(answer.status, StatusCode::OK);
            calls.push(answer.call());
        }
        calls.sort_unstable();
        assert_eq!((calls, origin.calls()), (vec![1, 3, 3, 3, 3, 3, 3, 3], 3));
    }

    /// The old response is written once more then: this must not undo an invalidation.
    async fn that_can_not_be_matched_brings_nothing_back_that_is_void(backend: &Backend) {
        let (inner, asked) = mismatching("max-age=60", UNMATCHED[0], false);
        let gate = Gate::closed();
        let origin = Origin::new({
            let (gate, inner) = (gate.clone(), inner.clone());
            move |call, request| {
                let (gate, mut inner) = (gate.clone(), inner.clone());
                async move {
                    if call == 2 {
                        gate.pass().await;
                    }
                    tower::Service::call(&mut inner, request).await
                }
            }
        });
        let clock = Clock::manual();
        let app = app(backend, &origin, &clock, |layer| layer).await;
        app.get("/", &[]).await;
        clock.advance(seconds(61));
        let validated = asking(&app, "/");
        wait_until("it is being validated", async || origin.calls() == 2).await;
        let key = CacheLayer::new(app.cache.clone()).key(&"http://shop.example/".parse().unwrap()).unwrap();
        app.cache.invalidate(&key).await.unwrap();
        gate.open();
        assert_eq!(validated.await.unwrap().call(), 1);
        let after = app.get("/", &[]).await;
        assert_eq!((after.call(), after.cache_status().fwd.as_deref()), (3, Some("uri-miss")));

        app.cache.soft_invalidate(&key).await.unwrap();
        assert_eq!((app.get("/", &[]).await.call(), origin.calls()), (3, 4));
        assert_eq!((app.get("/", &[]).await.call(), asked.last("if-none-match")), (5, None));
    }

    async fn that_names_the_same_date_in_another_form_succeeds(backend: &Backend) {
        const STORED: Fields = &[("cache-control", "max-age=60"), ("last-modified", "Sunday, 06-Nov-94 08:49:37 GMT")];
        const CONFIRMED: Fields = &[("cache-control", "max-age=60"), ("last-modified", LAST_MODIFIED)];
        let (origin, _) = replies(&[Answer(200, STORED, "stored"), Answer(304, CONFIRMED, "")]);
        let clock = Clock::manual();
        let app = app(backend, &origin, &clock, |layer| layer).await;
        app.get("/", &[]).await;
        clock.advance(seconds(61));
        assert_eq!(app.get("/", &[]).await.x_cache(), "REVALIDATED");
        assert_eq!((app.get("/", &[]).await.x_cache(), origin.calls()), ("HIT", 2));
    }

    /// If an application answers every request with 304, the cache has no other response than the stored one.
    async fn that_nobody_asked_for_is_no_clients_answer(backend: &Backend) {
        const TAGGED: Fields = &[("etag", "\"a\"")];
        let stale: Fields = &[("cache-control", "max-age=60, must-revalidate"), ("etag", "W/\"a\"")];
        for (stored, confirmed) in [(MAX_AGE, TAGGED), (MAX_AGE, MAX_AGE), (stale, TAGGED)] {
            let origin = Origin::new(move |call, request| {
                let mut response = echo(call, &request, if call == 1 { stored } else { confirmed });
                if call > 1 {
                    *response.status_mut() = StatusCode::NOT_MODIFIED;
                    *response.body_mut() = full("");
                }
                std::future::ready(Ok(response))
            });
            let clock = Clock::manual();
            let app = app(backend, &origin, &clock, |layer| layer).await;
            app.cache.invalidate_all().await.unwrap();
            app.get("/", &[]).await;
            clock.advance(seconds(61));
            for _ in 0..3 {
                let answer = app.get("/", &[]).await;
                assert_eq!((answer.status.as_u16(), answer.call()), (200, 1), "{stored:?}");
                assert_eq!(answer.cache_status().detail.as_deref(), Some("unmatched"), "not made fresh: {stored:?}");
            }
        }
    }

    over_each_store!(
        that_can_not_be_matched_is_followed_by_the_whole,
        that_can_not_be_matched_where_each_request_is_to_be_validated,
        that_can_not_be_matched_in_the_background_is_followed_by_the_whole,
        that_can_not_be_matched_is_one_question_for_all_who_wait,
        that_can_not_be_matched_brings_nothing_back_that_is_void,
        that_names_the_same_date_in_another_form_succeeds,
        that_nobody_asked_for_is_no_clients_answer,
        asks_with_exactly_the_stored_validators,
        that_succeeds_freshens_what_is_stored,
        by_an_older_304_leaves_only_the_rest_of_the_freshness,
        that_fails_replaces_what_is_stored,
        is_what_no_cache_demands_every_time,
        of_one_variant_leaves_the_others,
        keeps_the_tags,
        that_an_invalidation_overtakes_is_not_stored,
        of_another_response_is_not_merged,
    );
}

mod a_condition {
    use super::*;

    const STRONG: Fields = &[
        ("cache-control", "max-age=60"),
        ("etag", "\"a\""),
        ("last-modified", LAST_MODIFIED),
        ("content-length", "5"),
        ("content-type", "text/plain"),
    ];
    const WEAK: Fields = &[("cache-control", "max-age=60"), ("etag", "W/\"a\"")];

    const HOLDS: [(&[Reply], Fields); 10] = [
        (&[Answer(200, STRONG, "whole")], &[("if-none-match", "\"a\"")]),
        (&[Answer(200, STRONG, "whole")], &[("if-none-match", "W/\"a\"")]),
        (&[Answer(200, STRONG, "whole")], &[("if-none-match", "\"x\", \"b,c\" ,\"a\"")]),
        (&[Answer(200, STRONG, "whole")], &[("if-none-match", "\"x\""), ("if-none-match", "\"a\"")]),
        (&[Answer(200, STRONG, "whole")], &[("if-none-match", "*")]),
        (&[Answer(200, WEAK, "whole")], &[("if-none-match", "\"a\"")]),
        (&[Answer(200, WEAK, "whole")], &[("if-none-match", "W/\"a\"")]),
        (&[Answer(200, STRONG, "whole")], &[("if-modified-since", LAST_MODIFIED)]),
        (&[Answer(200, STRONG, "whole")], &[("if-modified-since", "Mon, 07 Nov 1994 08:49:37 GMT")]),
        (
            &[Answer(200, STRONG, "whole")],
            &[("if-none-match", "\"a\""), ("if-modified-since", "Sat, 05 Nov 1994 08:49:37 GMT")],
        ),
    ];
    const FAILS: [(&[Reply], Fields); 7] = [
        (&[Answer(200, STRONG, "whole")], &[("if-none-match", "\"x\"")]),
        (&[Answer(200, STRONG, "whole")], &[("if-none-match", "\"A\", W/\"x\"")]),
        (&[Answer(200, STRONG, "whole")], &[("if-none-match", "\"x, a\"")]),
        (&[Answer(200, STRONG, "whole")], &[("if-modified-since", "Sat, 05 Nov 1994 08:49:37 GMT")]),
        (&[Answer(200, STRONG, "whole")], &[("if-modified-since", "yesterday")]),
        (&[Answer(200, STRONG, "whole")], &[("if-none-match", "\"x\""), ("if-modified-since", LAST_MODIFIED)]),
        (&[Answer(200, MAX_AGE, "whole")], &[("if-none-match", "\"a\"")]),
    ];

    async fn that_holds_is_answered_from_what_is_stored(backend: &Backend) {
        for (script, fields) in HOLDS {
            let (origin, _) = replies(script);
            let app = App::on(backend, &origin).await;
            app.cache.invalidate_all().await.unwrap();
            let etag = app.get("/", &[]).await.header("etag").map(str::to_owned);
            for method in [Method::GET, Method::HEAD] {
                let answer = app.send(method, "/", fields).await;
                assert_eq!((answer.status, answer.x_cache()), (StatusCode::NOT_MODIFIED, "HIT"), "{fields:?}");
                assert!(answer.body.is_empty());
                assert_eq!((answer.header("content-length"), answer.header("content-type")), (None, None));
                assert_eq!(
                    (answer.header("etag"), answer.header("cache-control")),
                    (etag.as_deref(), Some("max-age=60"))
                );
                assert!(answer.header("date").is_some() && answer.header("age").is_some());
            }
            assert_eq!(origin.calls(), 1);
        }
    }

    async fn that_holds_is_answered_on_a_miss_and_the_whole_is_stored(backend: &Backend) {
        for (script, fields) in HOLDS {
            let (origin, asked) = replies(script);
            let app = App::on(backend, &origin).await;
            app.cache.invalidate_all().await.unwrap();
            let answer = app.get("/", fields).await;
            assert_eq!((answer.status, answer.x_cache()), (StatusCode::NOT_MODIFIED, "MISS"), "{fields:?}");
            assert!(answer.body.is_empty() && answer.cache_status().stored);
            assert_eq!((asked.last("if-none-match"), asked.last("if-modified-since")), (None, None));
            let plain = app.get("/", &[]).await;
            assert_eq!((plain.status.as_u16(), plain.x_cache(), plain.text()), (200, "HIT", "whole"));
        }
    }

    async fn that_fails_gets_the_whole(backend: &Backend) {
        for (script, fields) in FAILS {
            let (origin, _) = replies(script);
            let app = App::on(backend, &origin).await;
            app.cache.invalidate_all().await.unwrap();
            for x_cache in ["MISS", "HIT"] {
                let answer = app.get("/", fields).await;
                assert_eq!((answer.status.as_u16(), answer.text()), (200, "whole"), "{fields:?}");
                assert_eq!(answer.x_cache(), x_cache, "{fields:?}");
            }
        }
    }

    async fn is_answered_before_the_body_is_there(backend: &Backend) {
        let (feed, body) = Feed::new();
        let body = Mutex::new(Some(body));
        let origin = Origin::new(move |_, _| {
            let body = body.lock().unwrap().take().expect("one call");
            let response = http::Response::builder().header("cache-control", "max-age=60").header("etag", "\"a\"");
            std::future::ready(Ok(response.body(body).unwrap()))
        });
        let app = App::on(backend, &origin).await;
        let head = app.begin(request(Method::GET, "/", &[("if-none-match", "\"a\"")])).await.unwrap();
        assert_eq!(head.status(), StatusCode::NOT_MODIFIED);
        drop(head);
        feed.data("who").unwrap();
        feed.data("le").unwrap();
        drop(feed);
        app.settled().await;
        let plain = app.get("/", &[]).await;
        assert_eq!((plain.x_cache(), plain.text()), ("HIT", "whole"));
    }

    async fn about_the_resource_is_the_applications_to_judge(backend: &Backend) {
        let script: &[Reply] = &[Answer(200, STRONG, "whole"), Answer(412, &[], "")];
        let cases: [(&str, &str); 2] = [("if-match", "\"a\""), ("if-unmodified-since", LAST_MODIFIED)];
        for (name, value) in cases {
            let (origin, asked) = replies(script);
            let app = App::on(backend, &origin).await;
            app.cache.invalidate_all().await.unwrap();
            app.get("/", &[]).await;
            let answer = app.get("/", &[(name, value)]).await;
            assert_eq!((answer.status, answer.x_cache()), (StatusCode::PRECONDITION_FAILED, "BYPASS"));
            assert_eq!(asked.last(name).as_deref(), Some(value));
            assert_eq!(app.get("/", &[]).await.x_cache(), "HIT");
        }
    }

    async fn says_nothing_about_an_error(backend: &Backend) {
        let (origin, _) = replies(&[Answer(404, STRONG, "whole")]);
        let app = App::on(backend, &origin).await;
        for x_cache in ["MISS", "HIT"] {
            let answer = app.get("/", &[("if-none-match", "\"a\"")]).await;
            assert_eq!((answer.status.as_u16(), answer.x_cache(), answer.text()), (404, x_cache, "whole"));
        }
    }

    over_each_store!(
        that_holds_is_answered_from_what_is_stored,
        that_holds_is_answered_on_a_miss_and_the_whole_is_stored,
        that_fails_gets_the_whole,
        is_answered_before_the_body_is_there,
        about_the_resource_is_the_applications_to_judge,
        says_nothing_about_an_error,
    );
}

mod a_range {
    use super::*;

    const DIGITS: &str = "0123456789";
    const FIELDS: Fields = &[
        ("cache-control", "max-age=60"),
        ("etag", "\"a\""),
        ("last-modified", LAST_MODIFIED),
        ("content-length", "10"),
        ("content-type", "text/plain"),
    ];
    const PARTS: [(&str, std::ops::Range<usize>); 9] = [
        ("bytes=0-3", 0..4),
        ("bytes=3-6", 3..7),
        ("bytes=-4", 6..10),
        ("bytes=8-", 8..10),
        ("bytes=0-0", 0..1),
        ("bytes=0-", 0..10),
        ("bytes=5-999", 5..10),
        ("bytes=-999", 0..10),
        ("Bytes=9-9", 9..10),
    ];

    fn assert_part(answer: &tests::Response, part: &std::ops::Range<usize>) {
        assert_eq!((answer.status, answer.text()), (StatusCode::PARTIAL_CONTENT, &DIGITS[part.clone()]));
        let of_the_whole = format!("bytes {}-{}/10", part.start, part.end - 1);
        assert_eq!(answer.header("content-range"), Some(&*of_the_whole));
        assert!(answer.header("content-length").is_none_or(|length| length == part.len().to_string()));
        assert_eq!((answer.header("etag"), answer.header("content-type")), (Some("\"a\""), Some("text/plain")));
    }

    async fn of_what_is_stored_is_cut_out_of_it(backend: &Backend) {
        let (origin, _) = replies(&[Answer(200, FIELDS, DIGITS)]);
        App::on(backend, &origin).await.get("/", &[]).await;
        for (range, part) in PARTS {
            // A process that has nothing in memory yet.
            let app = App::on(backend, &origin).await;
            for _ in 0..2 {
                let answer = app.get("/", &[("range", range)]).await;
                assert_part(&answer, &part);
                assert_eq!(answer.x_cache(), "HIT", "{range}");
            }
            assert_eq!(app.get("/", &[]).await.text(), DIGITS);
        }
        assert_eq!(origin.calls(), 1);
    }

    async fn of_what_is_not_stored_yet_is_cut_out_of_the_whole(backend: &Backend) {
        for (range, part) in PARTS {
            let (origin, asked) = replies(&[Answer(200, FIELDS, DIGITS)]);
            let app = App::on(backend, &origin).await;
            app.cache.invalidate_all().await.unwrap();
            let answer = app.get("/", &[("range", range), ("if-range", "\"a\"")]).await;
            assert_part(&answer, &part);
            assert_eq!((answer.x_cache(), answer.cache_status().stored), ("MISS", true));
            assert_eq!((asked.last("range"), asked.last("if-range")), (None, None));
            let whole = app.get("/", &[]).await;
            assert_eq!((whole.status.as_u16(), whole.x_cache(), whole.text()), (200, "HIT", DIGITS));
            assert_eq!((whole.header("content-length"), whole.header("content-range")), (Some("10"), None));
        }
    }

    async fn of_what_is_stale_is_cut_out_of_what_is_validated(backend: &Backend) {
        let (origin, asked) = replies(&[Answer(200, FIELDS, DIGITS), Answer(304, MAX_AGE, "")]);
        let clock = Clock::manual();
        let app = app(backend, &origin, &clock, |layer| layer).await;
        app.get("/", &[]).await;
        clock.advance(seconds(61));
        let answer = app.get("/", &[("range", "bytes=2-5")]).await;
        assert_part(&answer, &(2..6));
        assert_eq!((answer.x_cache(), asked.last("range")), ("REVALIDATED", None));
    }

    async fn beyond_the_end_can_not_be_satisfied(backend: &Backend) {
        let (origin, _) = replies(&[Answer(200, FIELDS, DIGITS)]);
        let app = App::on(backend, &origin).await;
        for range in ["bytes=10-", "bytes=10-20", "bytes=99999999999999999999-", "bytes=-0"] {
            app.cache.invalidate_all().await.unwrap();
            for x_cache in ["MISS", "HIT"] {
                let answer = app.get("/", &[("range", range)]).await;
                assert_eq!((answer.status, answer.x_cache()), (StatusCode::RANGE_NOT_SATISFIABLE, x_cache));
                assert_eq!(answer.header("content-range"), Some("bytes */10"));
                assert!(answer.body.is_empty(), "{range}");
                assert!(answer.header("content-length").is_none_or(|length| length == "0"));
            }
            assert_eq!(app.get("/", &[]).await.text(), DIGITS);
        }
    }

    async fn of_another_version_is_the_whole(backend: &Backend) {
        let (origin, _) = replies(&[Answer(200, FIELDS, DIGITS)]);
        let app = App::on(backend, &origin).await;
        app.get("/", &[]).await;
        for same in ["\"a\"", LAST_MODIFIED] {
            let answer = app.get("/", &[("range", "bytes=1-2"), ("if-range", same)]).await;
            assert_part(&answer, &(1..3));
        }
        for other in ["\"b\"", "W/\"a\"", "Mon, 07 Nov 1994 08:49:37 GMT", "Sat, 05 Nov 1994 08:49:37 GMT", "nonsense"]
        {
            let answer = app.get("/", &[("range", "bytes=1-2"), ("if-range", other)]).await;
            assert_eq!((answer.status.as_u16(), answer.x_cache(), answer.text()), (200, "HIT", DIGITS), "{other}");
        }
        assert_eq!(origin.calls(), 1);
    }

    async fn that_is_one_of_several_is_a_part_of_its_own(backend: &Backend) {
        const TYPED: Fields = &[("cache-control", "max-age=60"), ("content-type", "text/plain"), ("etag", "\"a\"")];
        let (origin, asked) = replies(&[Answer(200, TYPED, DIGITS)]);
        let app = App::on(backend, &origin).await;
        for x_cache in ["MISS", "HIT"] {
            let answer = app.get("/", &[("range", "bytes=7-,0-1,1-2")]).await;
            assert_eq!(
                (answer.status.as_u16(), answer.x_cache(), answer.header("content-range")),
                (206, x_cache, None)
            );
            let boundary =
                answer.header("content-type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
            let part = |range, data| {
                format!("--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {range}/10\r\n\r\n{data}\r\n")
            };
            assert_eq!(answer.text(), format!("{}{}--{boundary}--\r\n", part("7-9", "789"), part("0-2", "012")));
            assert_eq!((answer.header("etag"), asked.last("range")), (Some("\"a\""), None));
        }
        let answer = app.get("/", &[("range", "bytes=0-4,3-9")]).await;
        assert_part_of(&answer, "bytes 0-9/10", DIGITS);
        let answer = app.get("/", &[("range", "bytes=10-,-0")]).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-range")), (416, Some("bytes */10")));
        assert_eq!(origin.calls(), 1);
    }

    /// A single part is sent while the whole response comes in; several parts are put together once the response is complete.
    async fn that_are_several_wait_for_what_comes_in(backend: &Backend) {
        let (feed, body) = Feed::new();
        let body = Mutex::new(Some(body));
        let origin = Origin::new(move |_, _| {
            let body = body.lock().unwrap().take().expect("it is asked once");
            let response = http::Response::builder().header("cache-control", "max-age=60").header("content-length", 10);
            std::future::ready(Ok(response.body(body).unwrap()))
        });
        let app = App::on(backend, &origin).await;
        let first = app.begin(request(Method::GET, "/", &[])).await.unwrap();
        let several = tokio::spawn({
            let app = app.clone();
            async move { app.get("/", &[("range", "bytes=0-1,4-5")]).await }
        });
        wait_until("it waits", async || app.cache.counts().coalesced == 1).await;
        for piece in [&DIGITS[..4], &DIGITS[4..]] {
            feed.data(piece).unwrap();
        }
        drop(feed);
        assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), DIGITS);
        let several = several.await.unwrap();
        let content_type = several.header("content-type").unwrap_or_default();
        assert!(several.status == 206 && content_type.starts_with("multipart/byteranges"), "{several:?}");
    }

    fn assert_part_of(answer: &tests::Response, range: &str, text: &str) {
        assert_eq!((answer.status.as_u16(), answer.header("content-range"), answer.text()), (206, Some(range), text));
    }

    async fn has_no_digest_of_the_whole_content(backend: &Backend) {
        const DIGESTS: Fields = &[
            ("cache-control", "max-age=60"),
            ("content-digest", "sha-256=:aGk=:"),
            ("repr-digest", "sha-256=:aGk=:"),
            ("unencoded-digest", "sha-256=:aGk=:"),
        ];
        let (origin, _) = replies(&[Answer(200, DIGESTS, DIGITS)]);
        let app = App::on(backend, &origin).await;
        let digests = |answer: &tests::Response| {
            ["content-digest", "repr-digest", "unencoded-digest"].map(|name| answer.header(name).is_some())
        };
        assert_eq!(digests(&app.get("/", &[]).await), [true; 3]);
        assert_eq!(digests(&app.get("/", &[]).await), [true; 3]);
        for ranges in ["bytes=0-1", "bytes=0-1,4-5"] {
            assert_eq!(digests(&app.get("/", &[("range", ranges)]).await), [false, true, true], "{ranges}");
        }
        assert_eq!(digests(&app.send(Method::HEAD, "/", &[]).await), [false, true, true]);
    }

    async fn that_is_none_gets_the_whole(backend: &Backend) {
        let (origin, _) = replies(&[Answer(200, FIELDS, DIGITS)]);
        let app = App::on(backend, &origin).await;
        for range in ["bytes=0-1,2-1", "bytes=5-2", "bytes=a-b", "bytes=", "bytes=-", "bytes=+1-2"] {
            app.cache.invalidate_all().await.unwrap();
            for x_cache in ["MISS", "HIT"] {
                let answer = app.get("/", &[("range", range)]).await;
                assert_eq!(
                    (answer.status.as_u16(), answer.x_cache(), answer.text()),
                    (200, x_cache, DIGITS),
                    "{range}"
                );
                assert_eq!(answer.header("content-range"), None);
            }
        }
    }

    async fn means_nothing_to_head(backend: &Backend) {
        let (origin, _) = replies(&[Answer(200, FIELDS, DIGITS)]);
        let app = App::on(backend, &origin).await;
        app.get("/", &[]).await;
        for range in ["bytes=0-3", "bytes=10-"] {
            let head = app.send(Method::HEAD, "/", &[("range", range)]).await;
            assert_eq!((head.status.as_u16(), head.x_cache()), (200, "HIT"));
            assert_eq!((head.header("content-length"), head.header("content-range")), (Some("10"), None));
            assert!(head.body.is_empty());
        }
        assert_eq!(origin.calls(), 1);
    }

    async fn of_what_is_too_long_to_keep_is_the_whole_as_it_is_made(backend: &Backend) {
        let (feed, body) = Feed::new();
        let body = Mutex::new(Some(body));
        let asked = Asked::default();
        let noted = asked.clone();
        let origin = Origin::new(move |_, request| {
            noted.note(request.headers());
            let body = body.lock().unwrap().take().unwrap_or_else(|| full(DIGITS));
            let response = http::Response::builder().header("cache-control", "max-age=60");
            std::future::ready(Ok(response.body(body).unwrap()))
        });
        let app = app(backend, &origin, &Clock::system(), |layer| layer.max_body(4)).await;
        feed.data("012").unwrap();
        feed.data("345").unwrap();
        let mut head = app.begin(request(Method::GET, "/", &[("range", "bytes=0-1")])).await.unwrap();
        assert_eq!((head.status(), asked.last("range")), (StatusCode::OK, None));
        assert!(!head.headers().contains_key("content-range"));
        for piece in ["012", "345"] {
            assert_eq!(head.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
        }
        feed.data("6789").unwrap();
        drop(feed);
        assert_eq!(head.into_body().collect().await.unwrap().to_bytes(), "6789");
        app.settled().await;
        assert_ne!(app.get("/", &[]).await.x_cache(), "HIT");
        assert_eq!(origin.calls(), 2);
    }

    async fn of_what_is_announced_to_be_too_long_is_the_whole(backend: &Backend) {
        let (origin, _) = replies(&[Answer(200, FIELDS, DIGITS)]);
        let app = app(backend, &origin, &Clock::system(), |layer| layer.max_body(4)).await;
        let answer = app.get("/", &[("range", "bytes=0-1")]).await;
        assert_eq!((answer.status.as_u16(), answer.x_cache(), answer.text()), (200, "MISS", DIGITS));
        assert_eq!((answer.header("content-length"), answer.header("content-range")), (Some("10"), None));
        assert_ne!(app.get("/", &[]).await.x_cache(), "HIT");
    }

    async fn is_not_offered_where_the_application_offers_none(backend: &Backend) {
        const NONE: Fields = &[("cache-control", "max-age=60"), ("accept-ranges", "none")];
        let (origin, _) = replies(&[Answer(200, NONE, DIGITS)]);
        let app = App::on(backend, &origin).await;
        for x_cache in ["MISS", "HIT"] {
            let answer = app.get("/", &[("range", "bytes=0-1")]).await;
            assert_eq!((answer.status.as_u16(), answer.x_cache(), answer.text()), (200, x_cache, DIGITS));
        }
    }

    /// An application that knows ranges: of its ten digits it has what these fields say.
    fn in_parts(fields: impl Fn(usize) -> Fields + Send + Sync + 'static) -> (Origin, Asked) {
        let asked = Asked::default();
        let noted = asked.clone();
        let origin = Origin::new(move |call, request| {
            noted.note(request.headers());
            let mut response = http::Response::builder().header("accept-ranges", "bytes").header("x-call", call);
            for (name, value) in fields(call) {
                response = response.header(*name, *value);
            }
            let response = if request.headers().contains_key("range") {
                let part = response.status(206).header("content-range", "bytes 2-4/10").header("content-length", "3");
                part.body(full(&DIGITS[2..5]))
            } else {
                response.header("content-length", "10").body(full(DIGITS))
            };
            std::future::ready(Ok(response.unwrap()))
        });
        (origin, asked)
    }

    const THREE: &[(&str, &str)] = &[("range", "bytes=2-4"), ("if-range", "\"a\"")];

    fn assert_is_the_applications(answer: &tests::Response, asked: &Asked, call: usize, case: &str) {
        assert_eq!((answer.status, answer.text()), (StatusCode::PARTIAL_CONTENT, "234"), "{case}");
        assert_eq!(answer.header("x-call"), Some(&*call.to_string()), "{case}");
        assert_eq!(answer.header("content-range"), Some("bytes 2-4/10"), "{case}");
        let went = (asked.last("range"), asked.last("if-range"));
        assert_eq!(went, (Some("bytes=2-4".into()), Some("\"a\"".into())), "{case}");
    }

    /// By what each of these says of itself, it is not kept.
    const NOT_KEPT: [Fields; 8] = [
        &[("cache-control", "private, max-age=60")],
        &[("cache-control", "no-store")],
        &[("cache-control", "no-cache")],
        &[],
        &[("etag", "\"a\"")],
        &[("cache-control", "max-age=60"), ("set-cookie", "a=b")],
        &[("cache-control", "max-age=60"), ("vary", "*")],
        &[("cache-control", "max-age=60"), ("trailer", "expires")],
    ];

    async fn of_what_is_not_kept_is_the_applications_from_the_second_one_on(backend: &Backend) {
        const TOO_LONG: Fields = MAX_AGE;
        for fields in NOT_KEPT.into_iter().chain([TOO_LONG]) {
            let (clock, (origin, asked)) = (Clock::manual(), in_parts(move |_| fields));
            let app = app(backend, &origin, &clock, |layer| layer.max_body(9)).await;
            app.cache.invalidate_all().await.unwrap();
            let (path, case) = (unseen(), format!("{fields:?}"));
            assert_eq!(app.get(&path, THREE).await.status, StatusCode::OK, "{case}");
            for call in 2..=3 {
                assert_is_the_applications(&app.get(&path, THREE).await, &asked, call, &case);
            }
            // The cache no longer remembers that the response was not stored, except for requests for a range.
            app.cache.invalidate_all().await.unwrap();
            for call in 4..=6 {
                clock.advance(seconds(50 * 60));
                assert_is_the_applications(&app.get(&path, THREE).await, &asked, call, &case);
            }
            // A request for the whole response gets it, and a later request for a part gets the part.
            assert_eq!(app.get(&path, &[]).await.text(), DIGITS, "{case}");
            assert_is_the_applications(&app.get(&path, THREE).await, &asked, 8, &case);
        }
    }

    async fn after_the_whole_that_is_not_kept_is_the_applications(backend: &Backend) {
        for fields in NOT_KEPT {
            let (origin, asked) = in_parts(move |_| fields);
            let app = App::on(backend, &origin).await;
            let path = unseen();
            app.get(&path, &[]).await;
            app.cache.invalidate_all().await.unwrap();
            assert_is_the_applications(&app.get(&path, THREE).await, &asked, 2, &format!("{fields:?}"));
        }
    }

    async fn after_a_head_that_says_it_is_not_kept_is_the_applications(backend: &Backend) {
        for fields in [NOT_KEPT[0], NOT_KEPT[3], MAX_AGE] {
            let (origin, asked) = in_parts(move |_| fields);
            let app = app(backend, &origin, &Clock::system(), |layer| layer.max_body(9)).await;
            let path = unseen();
            app.send(Method::HEAD, &path, &[]).await;
            assert_is_the_applications(&app.get(&path, THREE).await, &asked, 2, &format!("{fields:?}"));
        }
    }

    /// The request shows that the response is most likely for this client alone.
    async fn of_a_client_that_says_who_it_is_is_the_applications_from_the_first_one_on(backend: &Backend) {
        for who in [("cookie", "session=1"), ("authorization", "Basic eA==")] {
            let fields: Vec<(&str, &str)> = THREE.iter().copied().chain([who]).collect();
            let (origin, asked) = in_parts(|_| &[]);
            let app = app(backend, &origin, &Clock::system(), |layer| layer.ttl(MINUTE)).await;
            app.cache.invalidate_all().await.unwrap();
            for call in 1..=3 {
                assert_is_the_applications(&app.get("/", &fields).await, &asked, call, who.0);
            }
            let anybodys = app.get("/", &THREE[..1]).await;
            let expected = (StatusCode::PARTIAL_CONTENT, "234", "MISS", None);
            assert_eq!((anybodys.status, anybodys.text(), anybodys.x_cache(), asked.last("range")), expected);
            assert_eq!(app.get("/", &THREE[..1]).await.x_cache(), "HIT", "a rule keeps it for those who say nothing");
        }
    }

    /// The guess costs one hit.
    async fn of_a_client_that_says_who_it_is_is_cut_out_of_what_is_everybodys(backend: &Backend) {
        for who in [("cookie", "session=1"), ("authorization", "Basic eA==")] {
            let fields: Vec<(&str, &str)> = THREE.iter().copied().chain([who]).collect();
            let (origin, asked) = in_parts(|_| &[("cache-control", "public, max-age=60"), ("etag", "\"a\"")]);
            let app = App::on(backend, &origin).await;
            app.cache.invalidate_all().await.unwrap();
            assert_is_the_applications(&app.get("/", &fields).await, &asked, 1, who.0);
            for x_cache in ["MISS", "HIT"] {
                let answer = app.get("/", &fields).await;
                assert_eq!((answer.x_cache(), answer.text(), origin.calls()), (x_cache, "234", 2), "{}", who.0);
                assert_eq!(asked.last("range"), None, "{}", who.0);
            }
        }
    }

    async fn of_what_is_kept_no_longer_is_the_applications(backend: &Backend) {
        let (origin, asked) = in_parts(|call| match call {
            2..=4 => &[("cache-control", "private")],
            _ => FIELDS.split_at(3).0,
        });
        let clock = Clock::manual();
        let app = app(backend, &origin, &clock, |layer| layer).await;
        // A response for one client alone changes nothing for the others.
        let fields: Vec<(&str, &str)> = THREE.iter().copied().chain([("cookie", "session=1")]).collect();
        app.get("/", &[]).await;
        clock.advance(seconds(61));
        assert_eq!(app.get("/", &fields).await.status, StatusCode::OK, "it could be validated");
        for call in 3..=4 {
            clock.advance(seconds(1));
            assert_is_the_applications(&app.get("/", &fields).await, &asked, call, "private by now");
        }
        clock.advance(seconds(1));
        assert!(app.get("/", &[]).await.cache_status().stored, "and kept again");
        assert_eq!(app.get("/", &fields).await.x_cache(), "HIT");
        clock.advance(seconds(61));
        let answer = app.get("/", &fields).await;
        assert_eq!((answer.text(), asked.last("range"), origin.calls()), ("234", None, 6));
    }

    over_each_store!(
        of_what_is_not_kept_is_the_applications_from_the_second_one_on,
        after_the_whole_that_is_not_kept_is_the_applications,
        after_a_head_that_says_it_is_not_kept_is_the_applications,
        of_a_client_that_says_who_it_is_is_the_applications_from_the_first_one_on,
        of_a_client_that_says_who_it_is_is_cut_out_of_what_is_everybodys,
        of_what_is_kept_no_longer_is_the_applications,
        of_what_is_stored_is_cut_out_of_it,
        of_what_is_not_stored_yet_is_cut_out_of_the_whole,
        of_what_is_stale_is_cut_out_of_what_is_validated,
        beyond_the_end_can_not_be_satisfied,
        of_another_version_is_the_whole,
        that_are_several_wait_for_what_comes_in,
        that_is_one_of_several_is_a_part_of_its_own,
        has_no_digest_of_the_whole_content,
        that_is_none_gets_the_whole,
        means_nothing_to_head,
        of_what_is_too_long_to_keep_is_the_whole_as_it_is_made,
        of_what_is_announced_to_be_too_long_is_the_whole,
        is_not_offered_where_the_application_offers_none,
    );
}

mod stale_while_revalidate {
    use super::*;

    const WINDOW: Fields = &[("cache-control", "max-age=60, stale-while-revalidate=30")];

    async fn answers_at_once_and_refreshes_once(backend: &Backend) {
        let (clock, gate) = (Clock::manual(), Gate::closed());
        let origin = echo_then_gated(&gate, WINDOW);
        let one = app(backend, &origin, &clock, |layer| layer).await;
        let other = app(backend, &origin, &clock, |layer| layer).await;
        one.get("/", &[]).await;
        clock.advance(seconds(65));
        for _ in 0..10 {
            for app in [&one, &other] {
                let answer = at_once(app, "/").await;
                assert_eq!((answer.x_cache(), answer.call(), answer.header("age")), ("STALE", 1, Some("65")));
                let expected = CacheStatus { hit: true, ttl: Some(-5), ..CacheStatus::default() };
                assert_eq!(answer.cache_status(), expected);
            }
        }
        wait_until("it is being refreshed", async || origin.calls() == 2).await;
        gate.open();
        one.settled().await;
        other.settled().await;
        for app in [one, other] {
            let hit = app.get("/", &[]).await;
            assert_eq!((hit.x_cache(), hit.call(), hit.header("age")), ("HIT", 2, Some("0")));
        }
        assert_eq!(origin.calls(), 2);
    }

    async fn is_over_after_the_window(backend: &Backend) {
        let (clock, gate) = (Clock::manual(), Gate::closed());
        let origin = echo_then_gated(&gate, WINDOW);
        let app = app(backend, &origin, &clock, |layer| layer).await;
        app.get("/", &[]).await;
        clock.advance(seconds(90));
        let waits = asking(&app, "/");
        wait_until("it is being loaded", async || origin.calls() == 2).await;
        gate.open();
        let answer = waits.await.unwrap();
        assert_eq!((answer.x_cache(), answer.call()), ("MISS", 2));
        assert_eq!(answer.cache_status().fwd.as_deref(), Some("stale"));
    }

    /// Whether a response with this `Cache-Control`, a minute and a second old, is answered stale.
    async fn is_used(backend: &Backend, fields: Fields, set: impl FnOnce(CacheLayer) -> CacheLayer) -> bool {
        let clock = Clock::manual();
        let app = app(backend, &Origin::echo(fields), &clock, set).await;
        app.cache.invalidate_all().await.unwrap();
        app.get("/", &[]).await;
        clock.advance(seconds(61));
        let answer = app.get("/", &[]).await;
        assert_eq!((answer.x_cache() == "STALE", answer.x_cache() == "MISS"), (answer.call() == 1, answer.call() == 2));
        answer.x_cache() == "STALE"
    }

    const FORBIDDING: [Fields; 3] = [
        &[("cache-control", "max-age=60, stale-while-revalidate=30, must-revalidate")],
        &[("cache-control", "max-age=60, stale-while-revalidate=30, proxy-revalidate")],
        &[("cache-control", "s-maxage=60, stale-while-revalidate=30, must-revalidate")],
    ];
    const SHARED: Fields = &[("cache-control", "s-maxage=60, stale-while-revalidate=30")];

    async fn is_forbidden_by_whoever_demands_validation(backend: &Backend) {
        for fields in FORBIDDING.into_iter().chain([SHARED]) {
            assert!(!is_used(backend, fields, |layer| layer).await, "{fields:?}");
            assert!(!is_used(backend, fields, |layer| layer.stale_while_revalidate(MINUTE)).await, "{fields:?}");
        }
        assert!(is_used(backend, WINDOW, |layer| layer).await);
    }

    async fn is_left_in_force_by_s_maxage_if_the_user_says_so(backend: &Backend) {
        let permits = |layer: CacheLayer| layer.s_maxage_permits_stale(true);
        assert!(is_used(backend, SHARED, permits).await);
        for fields in FORBIDDING {
            assert!(!is_used(backend, fields, permits).await, "{fields:?}");
        }
        // The response states no window, so that `s-maxage` stands alone.
        let alone: Fields = &[("cache-control", "s-maxage=60")];
        assert!(!is_used(backend, alone, |layer| permits(layer).stale_while_revalidate(MINUTE)).await);
    }

    async fn is_the_users_where_the_response_has_none(backend: &Backend) {
        let by_default = |layer: CacheLayer| layer.stale_while_revalidate(MINUTE);
        assert!(!is_used(backend, MAX_AGE, |layer| layer).await);
        assert!(is_used(backend, MAX_AGE, by_default).await);
        let none: Fields = &[("cache-control", "max-age=60, stale-while-revalidate=0")];
        assert!(!is_used(backend, none, by_default).await);
    }

    async fn goes_on_without_the_client_that_began_it(backend: &Backend) {
        let (clock, gate) = (Clock::manual(), Gate::closed());
        let origin = echo_then_gated(&gate, WINDOW);
        let app = app(backend, &origin, &clock, |layer| layer).await;
        app.get("/", &[]).await;
        clock.advance(seconds(61));
        drop(app.begin(request(Method::GET, "/", &[])).await.unwrap());
        wait_until("it is being refreshed", async || origin.calls() == 2).await;
        gate.open();
        app.settled().await;
        let hit = app.get("/", &[]).await;
        assert_eq!((hit.x_cache(), hit.call()), ("HIT", 2));
    }

    async fn validates(backend: &Backend) {
        const TAGGED: Fields = &[("cache-control", "max-age=60, stale-while-revalidate=30"), ("etag", "\"a\"")];
        let (origin, asked) = replies(&[Answer(200, TAGGED, "stored"), Answer(304, &[], "")]);
        let clock = Clock::manual();
        let app = app(backend, &origin, &clock, |layer| layer).await;
        app.get("/", &[]).await;
        clock.advance(seconds(61));
        let part = app.get("/", &[("range", "bytes=0-1")]).await;
        assert_eq!((part.status, part.x_cache(), part.text()), (StatusCode::PARTIAL_CONTENT, "STALE", "st"));
        assert_eq!((asked.last("if-none-match").as_deref(), asked.last("range")), (Some("\"a\""), None));
        let hit = app.get("/", &[]).await;
        assert_eq!((hit.x_cache(), hit.text(), hit.header("age"), origin.calls()), ("HIT", "stored", Some("0"), 2));
    }

    async fn outlives_a_refresh_that_fails(backend: &Backend) {
        const SCRIPTS: [&[Reply]; 2] = [
            &[Answer(200, WINDOW, "old"), Answer(500, &[], "error"), Answer(200, WINDOW, "new")],
            &[Answer(200, WINDOW, "old"), Answer(503, &[], "error"), Answer(200, WINDOW, "new")],
        ];
        for (row, script) in SCRIPTS.into_iter().enumerate() {
            let (clock, (origin, _)) = (Clock::manual(), replies(script));
            let app =
                app(backend, &origin, &clock, |layer| layer.failure_backoff(Duration::ZERO, Duration::ZERO)).await;
            app.cache.invalidate_all().await.unwrap();
            app.get("/", &[]).await;
            clock.advance(seconds(61));
            for call in 2..=3 {
                let answer = app.get("/", &[]).await;
                assert_eq!((answer.x_cache(), answer.text(), origin.calls()), ("STALE", "old", call), "script {row}");
            }
            let hit = app.get("/", &[]).await;
            assert_eq!((hit.x_cache(), hit.text(), origin.calls()), ("HIT", "new", 3), "script {row}");
        }
    }

    /// An application may answer only while a client waits.
    async fn is_made_up_for_by_the_next_request_if_a_refresh_has_no_answer(backend: &Backend) {
        const SCRIPT: &[Reply] = &[Answer(200, WINDOW, "old"), Fails, Answer(200, WINDOW, "new")];
        let (clock, (origin, _)) = (Clock::manual(), replies(SCRIPT));
        let app = app(backend, &origin, &clock, |layer| layer.failure_backoff(Duration::ZERO, Duration::ZERO)).await;
        app.cache.invalidate_all().await.unwrap();
        app.get("/", &[]).await;
        clock.advance(seconds(61));
        for (x_cache, text, calls) in [("STALE", "old", 2), ("MISS", "new", 3), ("HIT", "new", 3)] {
            let answer = app.get("/", &[]).await;
            assert_eq!((answer.x_cache(), answer.text(), origin.calls()), (x_cache, text, calls));
        }
    }

    over_each_store!(
        answers_at_once_and_refreshes_once,
        is_over_after_the_window,
        is_forbidden_by_whoever_demands_validation,
        is_left_in_force_by_s_maxage_if_the_user_says_so,
        is_the_users_where_the_response_has_none,
        goes_on_without_the_client_that_began_it,
        validates,
        outlives_a_refresh_that_fails,
        is_made_up_for_by_the_next_request_if_a_refresh_has_no_answer,
    );
}

mod stale_if_error {
    use super::*;

    const WINDOW: Fields = &[("cache-control", "max-age=60, stale-if-error=30")];

    /// The answer when the application fails, so many seconds after a response with these fields was stored.
    async fn at(
        backend: &Backend,
        age: u64,
        script: &'static [Reply],
        set: impl FnOnce(CacheLayer) -> CacheLayer,
    ) -> Result<tests::Response, Failure> {
        let (clock, (origin, _)) = (Clock::manual(), replies(script));
        let app = app(backend, &origin, &clock, set).await;
        app.cache.invalidate_all().await.unwrap();
        app.get("/", &[]).await;
        clock.advance(seconds(age));
        let answer = ask(&app.service(), request(Method::GET, "/", &[])).await;
        app.settled().await;
        assert_eq!(origin.calls(), 2);
        answer
    }

    fn assert_replaced(answer: Result<tests::Response, Failure>, status: Option<i64>) {
        let answer = answer.unwrap();
        assert_eq!((answer.status.as_u16(), answer.x_cache(), answer.text()), (200, "STALE", "stored"));
        let expected = CacheStatus { fwd: Some("stale".into()), fwd_status: status, ..CacheStatus::default() };
        assert_eq!(answer.cache_status(), expected);
    }

    fn assert_passed_on(answer: Result<tests::Response, Failure>, status: Option<u16>) {
        match answer {
            Ok(answer) => assert_eq!((Some(answer.status.as_u16()), answer.text()), (status, "error")),
            Err(failure) => assert_eq!((failure, status), (Failure("the application's own"), None)),
        }
    }

    const ERRORS: [(&[Reply], Option<u16>); 5] = [
        (&[Answer(200, WINDOW, "stored"), Answer(500, &[], "error")], Some(500)),
        (&[Answer(200, WINDOW, "stored"), Answer(502, &[], "error")], Some(502)),
        (&[Answer(200, WINDOW, "stored"), Answer(503, MAX_AGE, "error")], Some(503)),
        (&[Answer(200, WINDOW, "stored"), Answer(504, &[], "error")], Some(504)),
        (&[Answer(200, WINDOW, "stored"), Fails], None),
    ];

    async fn replaces_errors_within_the_window(backend: &Backend) {
        for (script, status) in ERRORS {
            assert_replaced(at(backend, 60, script, |layer| layer).await, status.map(i64::from));
            assert_replaced(at(backend, 89, script, |layer| layer).await, status.map(i64::from));
        }
    }

    /// The answers to eight requests at once, 61 seconds after a response with these fields was stored, of an application that
    /// fails with this status.
    async fn at_once_while_it_fails(
        backend: &Backend,
        (fields, status): (Fields, StatusCode),
        set: impl FnOnce(CacheLayer) -> CacheLayer,
    ) -> (App, Origin, Vec<tests::Response>) {
        let (clock, gate) = (Clock::manual(), Gate::closed());
        let origin = Origin::new({
            let gate = gate.clone();
            move |call, request| {
                let gate = gate.clone();
                async move {
                    if call == 1 {
                        return Ok(echo(call, &request, fields));
                    }
                    gate.pass().await;
                    let mut response = echo(call, &request, &[]);
                    *response.status_mut() = status;
                    Ok(response)
                }
            }
        });
        let app = app(backend, &origin, &clock, set).await;
        app.get("/", &[]).await;
        clock.advance(seconds(61));
        let clients: Vec<_> = (0..8).map(|_| asking(&app, "/")).collect();
        wait_until("seven of them wait", async || app.cache.counts().coalesced == 7).await;
        gate.open();
        let mut answers = Vec::new();
        for client in clients {
            answers.push(client.await.unwrap());
        }
        (app, origin, answers)
    }

    /// One of the requests asks the application, and the response that replaces its error is for all of them.
    async fn replaces_the_error_for_all_who_wait(backend: &Backend) {
        let failing = (WINDOW, StatusCode::SERVICE_UNAVAILABLE);
        let (app, origin, answers) = at_once_while_it_fails(backend, failing, |layer| layer).await;
        for answer in answers {
            assert_eq!((answer.status, answer.x_cache(), answer.call()), (StatusCode::OK, "STALE", 1));
        }
        assert_eq!(origin.calls(), 2);
        let counts = app.cache.counts();
        assert_eq!((counts.hits, counts.misses), (0, 9), "each request is counted once");
    }

    /// RFC 9111, section 4.2.4: an application that answers is not disconnected.
    async fn replaces_the_error_for_nobody_who_waits_where_it_may_not(backend: &Backend) {
        let failing = (MAX_AGE, StatusCode::INTERNAL_SERVER_ERROR);
        let (_, _, answers) = at_once_while_it_fails(backend, failing, strict).await;
        for answer in answers {
            assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{answer:?}");
        }
    }

    async fn is_over_after_the_window(backend: &Backend) {
        for (script, status) in ERRORS {
            assert_passed_on(at(backend, 90, script, |layer| layer).await, status);
        }
    }

    async fn replaces_no_answer_that_the_application_means(backend: &Backend) {
        const ANSWERS: [(&[Reply], u16); 4] = [
            (&[Answer(200, WINDOW, "stored"), Answer(404, &[], "error")], 404),
            (&[Answer(200, WINDOW, "stored"), Answer(403, &[], "error")], 403),
            (&[Answer(200, WINDOW, "stored"), Answer(429, &[], "error")], 429),
            (&[Answer(200, WINDOW, "stored"), Answer(501, &[], "error")], 501),
        ];
        for (script, status) in ANSWERS {
            assert_passed_on(at(backend, 61, script, |layer| layer).await, Some(status));
        }
    }

    async fn is_forbidden_by_whoever_demands_validation(backend: &Backend) {
        const MUST: Fields = &[("cache-control", "max-age=60, stale-if-error=30, must-revalidate")];
        const PROXY: Fields = &[("cache-control", "max-age=60, stale-if-error=30, proxy-revalidate")];
        const SHARED: Fields = &[("cache-control", "s-maxage=60, stale-if-error=30")];
        const SCRIPTS: [(&[Reply], Option<u16>); 5] = [
            (&[Answer(200, MUST, "stored"), Answer(500, &[], "error")], Some(500)),
            (&[Answer(200, MUST, "stored"), Fails], None),
            (&[Answer(200, PROXY, "stored"), Answer(503, &[], "error")], Some(503)),
            (&[Answer(200, SHARED, "stored"), Answer(500, &[], "error")], Some(500)),
            (&[Answer(200, SHARED, "stored"), Fails], None),
        ];
        for (script, status) in SCRIPTS {
            assert_passed_on(at(backend, 61, script, |layer| layer).await, status);
            assert_passed_on(at(backend, 61, script, |layer| layer.stale_if_error(MINUTE)).await, status);
            assert_passed_on(at(backend, 61, script, strict).await, status);
        }
        let permits = |layer: CacheLayer| layer.s_maxage_permits_stale(true);
        for (script, status) in &SCRIPTS[..3] {
            assert_passed_on(at(backend, 61, script, permits).await, *status);
        }
        for (script, status) in &SCRIPTS[3..] {
            assert_replaced(at(backend, 61, script, permits).await, status.map(i64::from));
        }
    }

    const UNSTATED: [(&[Reply], Option<u16>); 2] = [
        (&[Answer(200, MAX_AGE, "stored"), Answer(500, &[], "error")], Some(500)),
        (&[Answer(200, MAX_AGE, "stored"), Fails], None),
    ];

    async fn is_off_unless_somebody_says_so(backend: &Backend) {
        for (script, status) in UNSTATED {
            assert_passed_on(at(backend, 61, script, |layer| layer).await, status);
            let by_default = |layer: CacheLayer| layer.stale_if_error(MINUTE);
            assert_replaced(at(backend, 61, script, by_default).await, status.map(i64::from));
            assert_passed_on(at(backend, 120, script, by_default).await, status);
        }
    }

    async fn is_what_the_strict_profile_does_without_the_application(backend: &Backend) {
        let [(error, status), (none, _)] = UNSTATED;
        assert_passed_on(at(backend, 61, error, strict).await, status);
        assert_replaced(at(backend, 61, none, strict).await, None);
    }

    async fn ends_when_the_application_is_back(backend: &Backend) {
        let script: &[Reply] =
            &[Answer(200, WINDOW, "stored"), Answer(500, &[], ""), Fails, Answer(200, WINDOW, "new")];
        let (clock, (origin, _)) = (Clock::manual(), replies(script));
        let app = app(backend, &origin, &clock, |layer| layer.failure_backoff(Duration::ZERO, Duration::ZERO)).await;
        app.get("/", &[]).await;
        clock.advance(seconds(61));
        for (x_cache, text) in [("STALE", "stored"), ("STALE", "stored"), ("MISS", "new"), ("HIT", "new")] {
            let answer = app.get("/", &[]).await;
            assert_eq!((answer.x_cache(), answer.text()), (x_cache, text));
        }
    }

    /// A response that is not stored does not take a stored one from other requests, which its application let replace errors. For
    /// some seconds after one that no request's response is likely to differ from, requests go to the application alone.
    async fn outlasts_a_response_that_is_not_stored(backend: &Backend) {
        const NO_STORE: Fields = &[("cache-control", "no-store")];
        const SCRIPTS: [(&[Reply], &str, u16); 3] = [
            (&[Answer(200, WINDOW, "stored"), Answer(404, &[], ""), Answer(500, &[], "error")], "STALE", 200),
            (&[Answer(200, WINDOW, "stored"), Answer(404, NO_STORE, ""), Answer(500, &[], "error")], "STALE", 200),
            (&[Answer(200, WINDOW, "stored"), Answer(200, NO_STORE, ""), Answer(500, &[], "error")], "BYPASS", 500),
        ];
        for (script, x_cache, status) in SCRIPTS {
            let (clock, (origin, _)) = (Clock::manual(), replies(script));
            let app = app(backend, &origin, &clock, |layer| layer).await;
            app.cache.invalidate_all().await.unwrap();
            app.get("/", &[]).await;
            clock.advance(seconds(61));
            assert_eq!(app.get("/", &[]).await.x_cache(), "MISS");
            let replaced = app.get("/", &[]).await;
            assert_eq!((replaced.x_cache(), replaced.status.as_u16(), origin.calls()), (x_cache, status, 3));
        }
    }

    async fn replaces_the_error_for_head_as_for_get(backend: &Backend) {
        for (script, status) in ERRORS {
            for (age, replaced) in [(61, true), (90, false)] {
                let (clock, (origin, _)) = (Clock::manual(), replies(script));
                let app = app(backend, &origin, &clock, |layer| layer).await;
                app.cache.invalidate_all().await.unwrap();
                app.get("/", &[]).await;
                clock.advance(seconds(age));
                let head = ask(&app.service(), request(Method::HEAD, "/", &[])).await;
                assert_eq!(origin.calls(), 2);
                if !replaced {
                    assert_eq!(head.map(|head| head.status.as_u16()).ok(), status);
                    continue;
                }
                let head = head.unwrap();
                assert_eq!((head.status.as_u16(), head.x_cache(), head.text()), (200, "STALE", ""), "{status:?}");
                assert_eq!(head.header("content-length"), Some("6"));
                assert_eq!(head.cache_status().fwd_status, status.map(i64::from));
                // It voids nothing: a response that replaces an error is not a new one.
                assert_eq!(app.get("/", &[]).await.text(), "stored");
                assert_eq!(app.send(Method::HEAD, "/", &[]).await.x_cache(), "STALE", "while it is left alone, too");
            }
        }
    }

    /// A request that waited for another one's load for long enough goes alone.
    async fn replaces_the_error_for_those_who_go_alone(backend: &Backend) {
        let (clock, gate) = (Clock::manual(), Gate::closed());
        let origin = Origin::new({
            let gate = gate.clone();
            move |call, request| {
                let gate = gate.clone();
                async move {
                    let mut response = echo(call, &request, WINDOW);
                    if call == 2 {
                        gate.pass().await;
                    }
                    if call > 1 {
                        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    }
                    Ok(response)
                }
            }
        });
        // Stored by a more patient one: the lease of a load that a busy machine does not renew for a third of the timeout is lost.
        app(backend, &origin, &clock, |layer| layer).await.get("/", &[]).await;
        let cache = backend.cache().await.clock(clock.clone()).lock_timeout(Duration::from_millis(300)).build();
        let app = App::new(cache, &origin, |layer| layer);
        clock.advance(seconds(61));
        let leads = asking(&app, "/");
        wait_until("it is being loaded", async || origin.calls() == 2).await;
        let alone = at_once(&app, "/").await;
        assert_eq!((alone.status, alone.x_cache(), alone.call()), (StatusCode::OK, "STALE", 1));
        assert_eq!((alone.cache_status().fwd_status, origin.calls()), (Some(503), 3));
        gate.open();
        assert_eq!(leads.await.unwrap().call(), 1);
    }

    over_each_store!(
        outlasts_a_response_that_is_not_stored,
        replaces_the_error_for_head_as_for_get,
        replaces_the_error_for_those_who_go_alone,
        replaces_errors_within_the_window,
        replaces_the_error_for_all_who_wait,
        replaces_the_error_for_nobody_who_waits_where_it_may_not,
        is_over_after_the_window,
        replaces_no_answer_that_the_application_means,
        is_forbidden_by_whoever_demands_validation,
        is_off_unless_somebody_says_so,
        is_what_the_strict_profile_does_without_the_application,
        ends_when_the_application_is_back,
    );
}

mod a_status {
    use super::*;

    async fn is_kept_as_it_is_where_the_application_says_for_how_long(backend: &Backend) {
        for status in
            [201, 203, 204, 300, 301, 302, 303, 307, 308, 400, 403, 404, 405, 410, 414, 451, 500, 501, 503, 599]
        {
            let origin = Origin::new(move |call, request| async move {
                let mut response = echo(call, &request, MAX_AGE);
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok(response)
            });
            let app = App::on(backend, &origin).await;
            app.cache.invalidate_all().await.unwrap();
            let miss = app.get("/", &[]).await;
            let hit = app.get("/", &[]).await;
            assert_eq!((hit.x_cache(), hit.status.as_u16(), hit.call()), ("HIT", status, 1));
            assert_eq!(hit.body, miss.body);
        }
    }

    async fn of_a_part_or_a_validation_is_never_kept(backend: &Backend) {
        const SCRIPTS: [&[Reply]; 2] = [
            &[Answer(206, &[("cache-control", "max-age=60"), ("content-range", "bytes 0-3/100")], "part")],
            &[Answer(304, &[("cache-control", "max-age=60"), ("etag", "\"a\"")], "")],
        ];
        for script in SCRIPTS {
            for profile in [Profile::Safe, Profile::Strict] {
                let (origin, _) = replies(script);
                let set = |layer: CacheLayer| {
                    let layer = layer.profile(profile).ttl(MINUTE);
                    [206, 304]
                        .into_iter()
                        .fold(layer, |layer, status| layer.negative_ttl(StatusCode::from_u16(status).unwrap(), MINUTE))
                };
                let app = app(backend, &origin, &Clock::system(), set).await;
                let uri = unseen();
                for calls in 1..=2 {
                    assert_ne!(app.get(&uri, &[]).await.x_cache(), "HIT");
                    assert_eq!(origin.calls(), calls);
                }
            }
        }
    }

    async fn has_the_ttl_that_the_user_gave_it(backend: &Backend) {
        let script: &[Reply] = &[Answer(404, &[], "not here")];
        let (clock, (origin, _)) = (Clock::manual(), replies(script));
        let set = |layer: CacheLayer| layer.negative_ttl(StatusCode::NOT_FOUND, seconds(30)).ttl(MINUTE);
        let app = app(backend, &origin, &clock, set).await;
        assert_eq!(app.get("/", &[]).await.x_cache(), "MISS");
        clock.advance(seconds(29));
        let hit = app.get("/", &[]).await;
        assert_eq!((hit.status.as_u16(), hit.x_cache(), hit.text()), (404, "HIT", "not here"));
        assert_eq!(hit.cache_status().ttl, Some(1));
        clock.advance(seconds(1));
        assert_eq!(app.get("/", &[]).await.x_cache(), "MISS");
    }

    async fn has_the_ttl_that_the_application_states_before_any_other(backend: &Backend) {
        let (origin, _) = replies(&[Answer(404, &[("cache-control", "max-age=10")], "")]);
        let set = |layer: CacheLayer| layer.negative_ttl(StatusCode::NOT_FOUND, seconds(30));
        let app = app(backend, &origin, &Clock::manual(), set).await;
        app.get("/", &[]).await;
        assert_eq!(app.get("/", &[]).await.cache_status().ttl, Some(10));
    }

    async fn other_than_a_success_needs_more_than_a_rule_for_the_path(backend: &Backend) {
        const SCRIPTS: [(&[Reply], bool); 7] = [
            (&[Answer(200, &[], "")], true),
            (&[Answer(203, &[], "")], true),
            (&[Answer(204, &[], "")], true),
            (&[Answer(301, &[("location", "/")], "")], false),
            (&[Answer(404, &[], "")], false),
            (&[Answer(410, &[], "")], false),
            (&[Answer(501, &[], "")], false),
        ];
        for (script, kept) in SCRIPTS {
            let (origin, _) = replies(script);
            let set = |layer: CacheLayer| layer.ttl(MINUTE).negative_ttl(StatusCode::FORBIDDEN, MINUTE);
            let app = app(backend, &origin, &Clock::system(), set).await;
            let uri = unseen();
            let first = app.get(&uri, &[]).await;
            assert_eq!(app.get(&uri, &[]).await.x_cache() == "HIT", kept, "{}", first.status);
        }
    }

    over_each_store!(
        is_kept_as_it_is_where_the_application_says_for_how_long,
        of_a_part_or_a_validation_is_never_kept,
        has_the_ttl_that_the_user_gave_it,
        has_the_ttl_that_the_application_states_before_any_other,
        other_than_a_success_needs_more_than_a_rule_for_the_path,
    );
}

mod freshness {
    use super::*;

    async fn is_estimated_only_if_the_user_says_so(backend: &Backend) {
        let origin = Origin::echo(&[("last-modified", LAST_MODIFIED)]);
        let safe = App::on(backend, &origin).await;
        for _ in 0..2 {
            assert_ne!(safe.get("/safe", &[]).await.x_cache(), "HIT");
        }
        let clock = Clock::manual();
        let estimates = app(backend, &origin, &clock, |layer| layer.heuristics(true)).await;
        estimates.get("/", &[]).await;
        const A_DAY: i64 = 24 * 60 * 60;
        assert_eq!(estimates.get("/", &[]).await.cache_status().ttl, Some(A_DAY));
        clock.advance(seconds(A_DAY as u64));
        assert_ne!(estimates.get("/", &[]).await.x_cache(), "HIT");
        // For what neither says nor hints at anything, there is no estimate.
        let unstated = app(backend, &Origin::echo(&[]), &clock, |layer| layer.heuristics(true)).await;
        for _ in 0..2 {
            assert_ne!(unstated.get("/unstated", &[]).await.x_cache(), "HIT");
        }
    }

    async fn is_capped(backend: &Backend) {
        let clock = Clock::manual();
        let origin = Origin::new(|call, request| async move {
            let fields: Fields = match request.uri().path() {
                "/stated" => MAX_AGE,
                "/short" => &[("cache-control", "max-age=5")],
                _ => &[],
            };
            Ok(echo(call, &request, fields))
        });
        let app = app(backend, &origin, &clock, |layer| layer.ttl(MINUTE).ttl_cap(seconds(10))).await;
        for (uri, ttl) in [("/stated", 10), ("/short", 5), ("/ruled", 10)] {
            app.get(uri, &[]).await;
            assert_eq!(app.get(uri, &[]).await.cache_status().ttl, Some(ttl), "{uri}");
        }
        clock.advance(seconds(10));
        assert_eq!(app.get("/stated", &[]).await.x_cache(), "MISS");
    }

    /// The remaining freshness of 1000 seconds, for each of many keys.
    async fn left(backend: &Backend, set: impl FnOnce(CacheLayer) -> CacheLayer) -> Vec<i64> {
        let origin = Origin::echo(&[("cache-control", "max-age=1000")]);
        let app = app(backend, &origin, &Clock::manual(), set).await;
        app.cache.invalidate_all().await.unwrap();
        let mut left = Vec::new();
        for key in 0..100 {
            let uri = format!("/{key}");
            app.get(&uri, &[]).await;
            left.push(app.get(&uri, &[]).await.cache_status().ttl.expect("a hit"));
        }
        left
    }

    /// Each of a hundred responses of which two seconds are left when they come is stored, and found again unless all of them may
    /// have been taken.
    async fn expect_two_seconds_to_be_left(backend: &Backend, jitter: u8) {
        let origin = Origin::echo(&[("cache-control", "max-age=60"), ("age", "58")]);
        let app = app(backend, &origin, &Clock::manual(), |layer| layer.jitter(jitter)).await;
        app.cache.invalidate_all().await.unwrap();
        for key in 0..100 {
            let uri = format!("/{key}");
            let stored = app.get(&uri, &[]).await.cache_status();
            assert_eq!(stored.detail, None, "{key} at {jitter} %");
            if jitter < 100 {
                assert_eq!(app.get(&uri, &[]).await.x_cache(), "HIT", "{key} at {jitter} %");
            }
        }
    }

    async fn is_not_used_up_on_arrival_by_jitter(backend: &Backend) {
        expect_two_seconds_to_be_left(backend, 10).await;
    }

    #[tokio::test]
    async fn is_not_used_up_on_arrival_by_the_most_jitter() {
        expect_two_seconds_to_be_left(&Backend::memory(), 100).await;
    }

    async fn is_shortened_at_random_and_never_lengthened(backend: &Backend) {
        assert_eq!(left(backend, |layer| layer).await, [1000; 100]);
        let mut left = left(backend, |layer| layer.jitter(50)).await;
        assert!(left.iter().all(|left| (500..=1000).contains(left)), "{left:?}");
        left.sort_unstable();
        left.dedup();
        assert!(left.len() > 10, "they expire together: {left:?}");
    }

    /// An application whose handler says what this cache does.
    fn saying(freshness: Freshness, fields: Fields) -> Origin {
        Origin::new(move |call, request| async move {
            let mut response = echo(call, &request, fields);
            response.extensions_mut().insert(freshness);
            Ok(response)
        })
    }

    async fn is_what_the_handler_says_whatever_the_fields_say(backend: &Backend) {
        let minute = Freshness::of(MINUTE);
        let cases: [(Freshness, Fields, Option<i64>); 7] = [
            (minute, &[("cache-control", "no-store")], Some(60)),
            (minute, &[("cache-control", "private, max-age=5")], Some(60)),
            (minute, &[("cache-control", "max-age=600")], Some(60)),
            (minute, &[("expires", LAST_MODIFIED)], Some(60)),
            (minute, &[], Some(60)),
            (Freshness::none(), MAX_AGE, None),
            (Freshness::none(), &[], None),
        ];
        for (freshness, fields, ttl) in cases {
            let set = |layer: CacheLayer| layer.ttl(seconds(30));
            let app = app(backend, &saying(freshness, fields), &Clock::manual(), set).await;
            let uri = unseen();
            app.get(&uri, &[]).await;
            let second = app.get(&uri, &[]).await;
            assert_eq!(second.cache_status().ttl, ttl, "{fields:?}");
            assert_eq!(second.x_cache() == "HIT", ttl.is_some(), "{fields:?}");
        }
    }

    async fn of_the_handler_has_windows(backend: &Backend) {
        let clock = Clock::manual();
        let freshness = Freshness::of(MINUTE).stale_while_revalidate(seconds(30));
        let app = app(backend, &saying(freshness, &[("cache-control", "no-store")]), &clock, |layer| layer).await;
        app.get("/", &[]).await;
        clock.advance(seconds(89));
        let stale = app.get("/", &[]).await;
        assert_eq!((stale.x_cache(), stale.call()), ("STALE", 1));
        assert_eq!(app.get("/", &[]).await.x_cache(), "HIT");
    }

    async fn of_the_handler_is_not_the_clients_to_see(backend: &Backend) {
        const FIELDS: Fields = &[("cache-control", "no-store"), ("expires", "0")];
        let app = App::on(backend, &saying(Freshness::of(MINUTE), FIELDS)).await;
        let without = App::on(backend, &Origin::echo(FIELDS)).await.get("/without", &[]).await;
        for x_cache in ["MISS", "HIT"] {
            let answer = app.begin(request(Method::GET, "/", &[])).await.unwrap();
            assert_eq!(answer.headers()["x-cache"], x_cache);
            assert!(answer.extensions().get::<Freshness>().is_none());
            for (name, value) in FIELDS {
                assert_eq!(answer.headers()[*name], value);
            }
            let new = |name: &&HeaderName| !without.headers.contains_key(*name);
            let expected: &[&str] = if x_cache == "MISS" { &["date"] } else { &["date", "age", "x-cache-age"] };
            let mut names: Vec<_> = answer.headers().keys().filter(new).map(HeaderName::as_str).collect();
            names.retain(|name| !expected.contains(name));
            assert!(names.is_empty(), "{names:?}");
            answer.into_body().collect().await.unwrap();
            app.settled().await;
        }
    }

    over_each_store!(
        is_estimated_only_if_the_user_says_so,
        is_capped,
        is_shortened_at_random_and_never_lengthened,
        is_not_used_up_on_arrival_by_jitter,
        is_what_the_handler_says_whatever_the_fields_say,
        of_the_handler_has_windows,
        of_the_handler_is_not_the_clients_to_see,
    );
}

mod a_cookie {
    use super::*;

    /// The answer to the second client, after a response that sets a cookie for the first.
    async fn second(backend: &Backend, set: impl FnOnce(CacheLayer) -> CacheLayer) -> (bool, Option<String>) {
        let origin = Origin::echo(&[("cache-control", "max-age=60"), ("set-cookie", "session=1"), ("x-other", "1")]);
        let app = app(backend, &origin, &Clock::system(), set).await;
        let uri = unseen();
        let first = app.get(&uri, &[]).await;
        assert_eq!(first.header("set-cookie"), Some("session=1"), "it is due to the client who asked");
        let second = app.get(&uri, &[]).await;
        assert_eq!(second.header("x-other"), Some("1"));
        (second.x_cache() == "HIT", second.header("set-cookie").map(str::to_owned))
    }

    async fn that_is_set_is_shared_only_if_the_user_says_so(backend: &Backend) {
        let cookie = Some("session=1".to_owned());
        assert_eq!(second(backend, |layer| layer).await, (false, cookie.clone()));
        assert_eq!(second(backend, |layer| layer.set_cookie(SetCookie::Refuse)).await, (false, cookie.clone()));
        assert_eq!(second(backend, |layer| layer.set_cookie(SetCookie::Strip)).await, (true, None));
        assert_eq!(second(backend, |layer| layer.set_cookie(SetCookie::Keep)).await, (true, cookie.clone()));
        assert_eq!(second(backend, strict).await, (true, cookie));
    }

    async fn that_a_validation_sets_goes_no_further_than_to_its_client(backend: &Backend) {
        const TAGGED: Fields = &[("cache-control", "max-age=60"), ("etag", "\"a\"")];
        let script: &[Reply] = &[Answer(200, TAGGED, "stored"), Answer(304, &[("set-cookie", "session=1")], "")];
        for choice in [SetCookie::Refuse, SetCookie::Strip] {
            let (clock, (origin, _)) = (Clock::manual(), replies(script));
            let app = app(backend, &origin, &clock, |layer| layer.set_cookie(choice)).await;
            app.cache.invalidate_all().await.unwrap();
            app.get("/", &[]).await;
            clock.advance(seconds(61));
            let validated = app.get("/", &[]).await;
            assert_eq!((validated.x_cache(), validated.header("set-cookie")), ("REVALIDATED", Some("session=1")));
            let hit = app.get("/", &[]).await;
            assert_eq!((hit.x_cache(), hit.header("set-cookie")), ("HIT", None));
        }
    }

    async fn of_a_session_goes_past_the_cache(backend: &Backend) {
        let origin = Origin::echo(MAX_AGE);
        let app = app(backend, &origin, &Clock::system(), |layer| layer.bypass_on_cookies(["session", "cart"])).await;
        for (call, cookie) in [(1, "session=1"), (2, "a=1; cart=2"), (3, "a=1;session=")] {
            let answer = app.get("/", &[("cookie", cookie)]).await;
            assert_eq!((answer.x_cache(), answer.call()), ("BYPASS", call), "{cookie}");
            assert_eq!(answer.cache_status().detail.as_deref(), Some("cookie"));
        }
        assert_eq!(app.get("/", &[]).await.x_cache(), "MISS");
        assert_eq!(app.get("/", &[("cookie", "session=1")]).await.call(), 5);
        for cookie in ["sessions=1", "a=session", "my-cart=1", "SESSION=1"] {
            let answer = app.get("/", &[("cookie", cookie)]).await;
            assert_eq!((answer.x_cache(), answer.call()), ("HIT", 4), "{cookie}");
        }
        for split in [[("cookie", "a=1"), ("cookie", "session=1")], [("cookie", "cart=1"), ("cookie", "a=1")]] {
            assert_eq!(app.get("/", &split).await.x_cache(), "BYPASS");
        }
    }

    over_each_store!(
        that_is_set_is_shared_only_if_the_user_says_so,
        that_a_validation_sets_goes_no_further_than_to_its_client,
        of_a_session_goes_past_the_cache,
    );
}

mod a_targeted_field {
    use super::*;

    const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");
    const OWN: HeaderName = HeaderName::from_static("shop-cache-control");

    async fn ttl(backend: &Backend, fields: Fields, set: impl FnOnce(CacheLayer) -> CacheLayer) -> Option<i64> {
        let app = app(backend, &Origin::echo(fields), &Clock::manual(), set).await;
        let uri = unseen();
        app.get(&uri, &[]).await;
        app.get(&uri, &[]).await.cache_status().ttl
    }

    async fn counts_only_where_it_is_asked_for(backend: &Backend) {
        const KEEP: Fields = &[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60")];
        const REFUSE: Fields = &[("cache-control", "max-age=10"), ("cdn-cache-control", "no-store")];
        let asks = |layer: CacheLayer| layer.targeted_fields([CDN]);
        assert_eq!(ttl(backend, KEEP, |layer| layer).await, None);
        assert_eq!(ttl(backend, REFUSE, |layer| layer).await, Some(10));
        assert_eq!(ttl(backend, KEEP, asks).await, Some(60));
        assert_eq!(ttl(backend, REFUSE, asks).await, None);
        assert_eq!(ttl(backend, KEEP, strict).await, Some(60));
        assert_eq!(ttl(backend, KEEP, |layer| layer.targeted_fields([OWN])).await, None);
    }

    async fn counts_before_those_that_are_less_specific(backend: &Backend) {
        const BOTH: Fields = &[
            ("cache-control", "max-age=10"),
            ("cdn-cache-control", "max-age=20"),
            ("shop-cache-control", "max-age=30"),
        ];
        const UNREADABLE: Fields = &[
            ("cache-control", "max-age=10"),
            ("cdn-cache-control", "max-age=20"),
            ("shop-cache-control", "max-age=="),
        ];
        assert_eq!(ttl(backend, BOTH, |layer| layer.targeted_fields([OWN, CDN])).await, Some(30));
        assert_eq!(ttl(backend, BOTH, |layer| layer.targeted_fields([CDN, OWN])).await, Some(20));
        assert_eq!(ttl(backend, UNREADABLE, |layer| layer.targeted_fields([OWN, CDN])).await, Some(20));
    }

    over_each_store!(counts_only_where_it_is_asked_for, counts_before_those_that_are_less_specific);
}

mod a_wish_of_the_client {
    use super::*;

    const WISHES: [(&str, &str); 5] = [
        ("cache-control", "no-cache"),
        ("cache-control", "max-age=0"),
        ("cache-control", "max-age=5"),
        ("cache-control", "min-fresh=100"),
        ("pragma", "no-cache"),
    ];

    fn honouring(layer: CacheLayer) -> CacheLayer {
        layer.request_directives(true)
    }

    async fn is_ignored_unless_the_user_says_so(backend: &Backend) {
        let clock = Clock::manual();
        let origin = Origin::echo(MAX_AGE);
        let app = app(backend, &origin, &clock, |layer| layer).await;
        let only = app.get("/", &[("cache-control", "only-if-cached")]).await;
        assert_eq!((only.status.as_u16(), only.x_cache()), (200, "MISS"));
        clock.advance(seconds(10));
        for wish in WISHES {
            assert_eq!(app.get("/", &[wish]).await.x_cache(), "HIT", "{wish:?}");
        }
        clock.advance(MINUTE);
        assert_eq!(app.get("/", &[("cache-control", "max-stale")]).await.x_cache(), "MISS");
    }

    async fn for_a_younger_response_is_granted(backend: &Backend) {
        let clock = Clock::manual();
        let app = app(backend, &Origin::echo(MAX_AGE), &clock, honouring).await;
        app.get("/", &[]).await;
        for (call, wish) in WISHES.into_iter().enumerate() {
            clock.advance(seconds(10));
            for granted in [("cache-control", "max-age=10"), ("cache-control", "min-fresh=50"), ("pragma", "x")] {
                assert_eq!(app.get("/", &[granted]).await.x_cache(), "HIT", "{granted:?}");
            }
            let answer = app.get("/", &[wish]).await;
            assert_eq!((answer.x_cache(), answer.call()), ("MISS", call + 2), "{wish:?}");
            assert_eq!(answer.cache_status().fwd.as_deref(), Some("request"));
            // The response is stored for the other requests.
            let hit = app.get("/", &[]).await;
            assert_eq!((hit.x_cache(), hit.call()), ("HIT", call + 2), "{wish:?}");
        }
    }

    async fn for_a_stale_response_is_granted_where_that_may_be(backend: &Backend) {
        let cases: [(Fields, bool); 4] = [
            (MAX_AGE, true),
            (&[("cache-control", "max-age=60, must-revalidate")], false),
            (&[("cache-control", "max-age=60, proxy-revalidate")], false),
            (&[("cache-control", "s-maxage=60")], false),
        ];
        for (fields, granted) in cases {
            let clock = Clock::manual();
            // With a validator, it is kept when it is stale.
            let origin = Origin::new(move |call, request| async move {
                let mut response = echo(call, &request, fields);
                response.headers_mut().insert("etag", call.to_string().parse().unwrap());
                Ok(response)
            });
            for (wish, within) in [("max-stale", true), ("max-stale=30", true), ("max-stale=5", false)] {
                let app = app(backend, &origin, &clock, honouring).await;
                app.cache.invalidate_all().await.unwrap();
                app.get("/", &[]).await;
                clock.advance(seconds(70));
                let answer = app.get("/", &[("cache-control", wish)]).await;
                let expected = if granted && within { "STALE" } else { "MISS" };
                assert_eq!(answer.x_cache(), expected, "{wish} for {fields:?}");
                if expected == "STALE" {
                    let status = CacheStatus { hit: true, ttl: Some(-10), ..CacheStatus::default() };
                    assert_eq!((answer.header("age"), answer.cache_status()), (Some("70"), status));
                }
            }
        }
    }

    async fn for_nothing_but_a_stored_response_is_granted(backend: &Backend) {
        let origin = Origin::echo(MAX_AGE);
        let app = app(backend, &origin, &Clock::system(), honouring).await;
        let wish: Fields = &[("cache-control", "only-if-cached")];
        for method in [Method::GET, Method::HEAD] {
            let none = app.send(method.clone(), "/", wish).await;
            assert_eq!((none.status, origin.calls()), (StatusCode::GATEWAY_TIMEOUT, 0), "{method}");
            assert!(none.body.is_empty());
        }
        app.get("/", &[]).await;
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(app.send(method, "/", wish).await.x_cache(), "HIT");
        }
        assert_eq!(origin.calls(), 1);
    }

    async fn for_nothing_but_a_stored_response_is_granted_where_nothing_can_be_stored(backend: &Backend) {
        let origin = Origin::echo(&[("cache-control", "no-store")]);
        let app = app(backend, &origin, &Clock::system(), honouring).await;
        app.get("/", &[]).await;
        let none = app.get("/", &[("cache-control", "only-if-cached")]).await;
        assert_eq!((none.status, origin.calls()), (StatusCode::GATEWAY_TIMEOUT, 1));
    }

    over_each_store!(
        is_ignored_unless_the_user_says_so,
        for_a_younger_response_is_granted,
        for_a_stale_response_is_granted_where_that_may_be,
        for_nothing_but_a_stored_response_is_granted,
        for_nothing_but_a_stored_response_is_granted_where_nothing_can_be_stored,
    );
}

mod a_key {
    use super::*;

    async fn has_no_parameters_that_make_no_difference(backend: &Backend) {
        let origin = Origin::echo(MAX_AGE);
        let app = app(backend, &origin, &Clock::system(), |layer| layer.ignore_query(["utm_*", "ref"])).await;
        let same = ["/a?x=1&y=2", "/a?x=1&utm_source=mail&y=2", "/a?ref=7&x=1&y=2&utm_x", "/a?x=1&y=2&ref"];
        for uri in same {
            let answer = app.get(uri, &[]).await;
            assert_eq!((answer.x_cache(), answer.call()), (if uri == same[0] { "MISS" } else { "HIT" }, 1), "{uri}");
        }
        for uri in ["/a?y=2&x=1", "/a?x=1", "/a?x=1&y=2&utm=1", "/a?x=1&y=2&reference=1", "/b?x=1&y=2"] {
            assert_eq!(app.get(uri, &[]).await.x_cache(), "MISS", "{uri}");
        }
        // The application sees them all.
        let bare = app.get("/bare?utm_source=mail", &[]).await;
        assert!(bare.text().contains("/bare?utm_source=mail\n"), "{bare:?}");
        assert_eq!(app.get("/bare", &[]).await.x_cache(), "HIT");
        // A write under one name makes the response stale under all names.
        app.send(Method::POST, "/a?x=1&y=2&utm_source=mail", &[]).await;
        assert_eq!(app.get(same[0], &[]).await.x_cache(), "MISS");
    }

    async fn has_the_fields_that_tell_tenants_apart(backend: &Backend) {
        let origin = Origin::echo(MAX_AGE);
        let by_tenant = |layer: CacheLayer| layer.key_headers([HeaderName::from_static("x-tenant")]);
        let app = app(backend, &origin, &Clock::system(), by_tenant).await;
        let tenants: [Fields; 4] = [&[("x-tenant", "a")], &[("x-tenant", "b")], &[("x-tenant", "")], &[]];
        for x_cache in ["MISS", "HIT"] {
            for (tenant, call) in tenants.into_iter().zip(1..) {
                let answer = app.get("/", tenant).await;
                assert_eq!((answer.x_cache(), answer.call()), (x_cache, call), "{tenant:?}");
            }
        }
        // A write concerns its target, whatever else is part of the keys (RFC 9111, section 4.4).
        app.send(Method::POST, "/", tenants[0]).await;
        for tenant in tenants {
            assert_eq!(app.get("/", tenant).await.x_cache(), "MISS", "{tenant:?}");
        }
    }

    over_each_store!(has_no_parameters_that_make_no_difference, has_the_fields_that_tell_tenants_apart);
}

mod variants {
    use super::*;

    const VARIES: Fields = &[("cache-control", "max-age=60"), ("vary", "accept-language")];

    async fn beyond_the_limit_are_right_all_the_same(backend: &Backend) {
        let app = app(backend, &Origin::echo(VARIES), &Clock::system(), |layer| layer.max_variants(2)).await;
        for _ in 0..3 {
            for language in ["de", "en", "fr", "it", "es"] {
                for repeated in [false, true] {
                    let answer = app.get("/", &[("accept-language", language)]).await;
                    assert!(answer.text().contains(&format!("accept-language: {language}\n")), "{answer:?}");
                    assert!(!repeated || answer.x_cache() == "HIT", "{answer:?}");
                }
            }
        }
    }

    async fn within_the_limit_stay_however_often_one_is_refreshed(backend: &Backend) {
        let clock = Clock::manual();
        let origin = Origin::new(|call, request| async move {
            let german = request.headers()["accept-language"] == "de";
            let fields: Fields =
                if german { VARIES } else { &[("cache-control", "max-age=6000"), ("vary", "accept-language")] };
            Ok(echo(call, &request, fields))
        });
        let app = app(backend, &origin, &clock, |layer| layer.max_variants(2)).await;
        let (german, english): (Fields, Fields) = (&[("accept-language", "de")], &[("accept-language", "en")]);
        app.get("/", english).await;
        for refresh in 1..=4 {
            assert_eq!(app.get("/", german).await.x_cache(), "MISS");
            assert_eq!(app.get("/", german).await.x_cache(), "HIT");
            let answer = app.get("/", english).await;
            assert_eq!((answer.x_cache(), answer.call()), ("HIT", 1), "after {refresh} refreshes of the other");
            clock.advance(seconds(61));
        }
    }

    /// By the clocks of the stores, which no test moves.
    async fn stay_when_one_that_lives_shorter_is_gone(backend: &Backend) {
        let origin = Origin::new(|call, request| async move {
            let german = request.headers()["accept-language"] == "de";
            let control = if german { "max-age=2" } else { "max-age=6000" };
            Ok(echo(call, &request, &[("cache-control", control), ("vary", "accept-language")]))
        });
        let app = app(backend, &origin, &Clock::system(), |layer| layer.max_variants(2)).await;
        let (german, english): (Fields, Fields) = (&[("accept-language", "de")], &[("accept-language", "en")]);
        app.get("/", english).await;
        for calls in 2..=3 {
            assert_eq!(app.get("/", german).await.call(), calls);
            sleep(seconds(3)).await;
            let answer = app.get("/", english).await;
            assert_eq!((answer.x_cache(), answer.call()), ("HIT", 1), "{answer:?}");
        }
    }

    async fn are_as_stale_as_their_softened_key_and_no_staler(backend: &Backend) {
        let origin = Origin::new(|call, request| async move {
            // The German one has been stale for longer than the other may be used stale.
            let german = request.headers()["accept-language"] == "de";
            let age = if german { "700" } else { "0" };
            let control = ("cache-control", "max-age=600, stale-while-revalidate=60");
            Ok(echo(call, &request, &[control, ("age", age), ("vary", "accept-language"), ("etag", "\"a\"")]))
        });
        let app = app(backend, &origin, &Clock::system(), |layer| layer).await;
        let (german, english): (Fields, Fields) = (&[("accept-language", "de")], &[("accept-language", "en")]);
        app.get("/", english).await;
        assert!(app.get("/", german).await.cache_status().stored);
        let key = CacheLayer::new(app.cache.clone()).key(&"http://shop.example/".parse().unwrap()).unwrap();
        app.cache.soft_invalidate(&key).await.unwrap();
        let answer = app.get("/", english).await;
        assert_eq!((answer.x_cache(), answer.call()), ("STALE", 1), "{answer:?}");
    }

    over_each_store!(
        beyond_the_limit_are_right_all_the_same,
        within_the_limit_stay_however_often_one_is_refreshed,
        stay_when_one_that_lives_shorter_is_gone,
        are_as_stale_as_their_softened_key_and_no_staler,
    );
}

mod a_group {
    use super::*;

    const URIS: [&str; 6] =
        ["/menu", "/both", "/drinks", "/none", "http://other.example/menu", "http://shop.example:8080/menu"];

    fn restaurant(method: &'static str) -> Origin {
        Origin::new(move |call, request| async move {
            let mut response = echo(call, &request, MAX_AGE);
            let headers = response.headers_mut();
            match request.uri().path() {
                "/menu" => headers.insert("cache-groups", "\"food\"".parse().unwrap()),
                "/both" => headers.insert("cache-groups", "\"drinks\", \"food\";x=1".parse().unwrap()),
                "/drinks" => headers.insert("cache-groups", "\"drinks\"".parse().unwrap()),
                _ => None,
            };
            if request.method() == method && request.uri().path() == "/order" {
                headers.insert("cache-group-invalidation", "\"food\", \"unheard-of\"".parse().unwrap());
            }
            Ok(response)
        })
    }

    /// Which of [`URIS`] are read anew after `method` of `uri`.
    async fn made_stale(backend: &Backend, method: &'static str, uri: &str) -> Vec<&'static str> {
        let app = App::on(backend, &restaurant(method)).await;
        app.cache.invalidate_all().await.unwrap();
        for uri in URIS {
            app.get(uri, &[]).await;
            assert_eq!(app.get(uri, &[]).await.x_cache(), "HIT", "{uri}");
        }
        app.send(method.parse().unwrap(), uri, &[]).await;
        let mut stale = Vec::new();
        for uri in URIS {
            if app.get(uri, &[]).await.x_cache() != "HIT" {
                stale.push(uri);
            }
        }
        stale
    }

    async fn is_made_stale_by_a_write_on_its_own_origin(backend: &Backend) {
        assert_eq!(made_stale(backend, "POST", "/order").await, ["/menu", "/both"]);
        assert_eq!(made_stale(backend, "DELETE", "/order").await, ["/menu", "/both"]);
        assert_eq!(made_stale(backend, "POST", "http://other.example/order").await, ["http://other.example/menu"]);
        assert_eq!(made_stale(backend, "POST", "/unrelated").await, [""; 0]);
    }

    async fn is_not_made_stale_by_a_read(backend: &Backend) {
        for method in ["GET", "HEAD", "OPTIONS"] {
            assert_eq!(made_stale(backend, method, "/order").await, [""; 0], "{method}");
        }
    }

    over_each_store!(is_made_stale_by_a_write_on_its_own_origin, is_not_made_stale_by_a_read);
}

mod a_post {
    use super::*;

    const FOR_GET: Fields = &[("cache-control", "max-age=60"), ("content-location", "/")];
    const NO_FRESHNESS: Fields = &[("content-location", "/"), ("last-modified", LAST_MODIFIED)];
    const OF_ANOTHER: Fields = &[("cache-control", "max-age=60"), ("content-location", "/other")];

    /// Whether GET is answered by what POST got.
    async fn is_kept(backend: &Backend, fields: Fields, set: impl FnOnce(CacheLayer) -> CacheLayer) -> bool {
        let app = app(backend, &Origin::echo(fields), &Clock::system(), set).await;
        app.cache.invalidate_all().await.unwrap();
        let post = app.send(Method::POST, "/", &[]).await;
        assert_eq!(post.call(), 1);
        let get = app.get("/", &[]).await;
        assert_eq!(get.x_cache() == "HIT", get.call() == 1);
        assert!(get.call() != 1 || get.body == post.body);
        get.call() == 1
    }

    async fn is_kept_for_get_only_by_the_strict_profile_and_only_if_it_says_so(backend: &Backend) {
        assert!(is_kept(backend, FOR_GET, strict).await);
        assert!(!is_kept(backend, FOR_GET, |layer| layer).await);
        assert!(!is_kept(backend, FOR_GET, |layer| layer.request_directives(true).heuristics(true)).await);
        for fields in [MAX_AGE, NO_FRESHNESS, OF_ANOTHER] {
            assert!(!is_kept(backend, fields, strict).await, "{fields:?}");
        }
        assert!(!is_kept(backend, NO_FRESHNESS, |layer| strict(layer).ttl(MINUTE)).await);
    }

    async fn makes_stale_what_was_there_before_it_is_kept(backend: &Backend) {
        let app = app(backend, &Origin::echo(FOR_GET), &Clock::system(), strict).await;
        app.get("/", &[]).await;
        assert_eq!(app.get("/", &[]).await.call(), 1);
        app.send(Method::POST, "/", &[]).await;
        let get = app.get("/", &[]).await;
        assert_eq!((get.x_cache(), get.call()), ("HIT", 2));
        assert_eq!(app.send(Method::POST, "/", &[]).await.call(), 3);
    }

    async fn is_kept_whatever_else_it_invalidates(backend: &Backend) {
        const OF_A_GROUP: Fields = &[
            ("cache-control", "max-age=60"),
            ("content-location", "/"),
            ("location", "/other"),
            ("cache-groups", "\"mine\""),
            ("cache-group-invalidation", "\"others\""),
        ];
        const OF_WHAT_IT_INVALIDATES: Fields = &[
            ("cache-control", "max-age=60"),
            ("content-location", "/"),
            ("cache-groups", "\"mine\""),
            ("cache-group-invalidation", "\"mine\""),
        ];
        assert!(is_kept(backend, OF_A_GROUP, strict).await);
        assert!(!is_kept(backend, OF_WHAT_IT_INVALIDATES, strict).await);
    }

    /// Unless it succeeds, and so invalidates its URI.
    async fn leaves_what_is_known_of_failures_as_it_was(backend: &Backend) {
        const AN_HOUR: Duration = Duration::from_secs(3600);
        for first in [AN_HOUR, Duration::from_millis(1)] {
            let set = |layer: CacheLayer| strict(layer).failure_backoff(first, AN_HOUR);
            let app = app(backend, &Origin::obedient(), &Clock::system(), set).await.unexplained();
            app.cache.invalidate_all().await.unwrap();
            let key = app.layer.key(&"http://shop.example/a".parse().unwrap()).unwrap();
            let failures = async || match app.cache.inspect_lease(&key).await.unwrap() {
                LeaseState::Failed { remaining, failures, .. } => Some((failures, !remaining.is_zero())),
                _ => None,
            };
            let backs_off = first == AN_HOUR;
            app.get("/a", &[("x-status", "503")]).await;
            wait_until("the failure to be known", async || failures().await == Some((1, backs_off))).await;
            for status in ["405", "503"] {
                assert_eq!(app.send(Method::POST, "/a", &[("x-status", status)]).await.status.as_str(), status);
                wait_until("the failure to be known still", async || failures().await == Some((1, backs_off))).await;
            }
            app.send(Method::POST, "/a", &[]).await;
            assert_eq!(failures().await, None);
        }
    }

    async fn is_answered_by_the_application_whatever_its_conditions(backend: &Backend) {
        const TAGGED: Fields = &[("cache-control", "max-age=60"), ("content-location", "/"), ("etag", "\"a\"")];
        let conditions: [Fields; 2] = [&[("if-none-match", "\"a\"")], &[("if-none-match", "*")]];
        for (condition, (fields, etags)) in
            conditions.iter().flat_map(|one| [(one, (TAGGED, false)), (one, (FOR_GET, true))])
        {
            let app = app(backend, &Origin::echo(fields), &Clock::system(), |layer| strict(layer).etags(etags)).await;
            let post = app.send(Method::POST, "/", condition).await;
            assert_eq!(post.status, StatusCode::OK, "{condition:?}");
            assert!(post.text().starts_with("answer 1 to POST"), "{condition:?}");
        }
    }

    async fn has_no_ranges(backend: &Backend) {
        let app = app(backend, &Origin::echo(FOR_GET), &Clock::system(), strict).await;
        let post = app.send(Method::POST, "/", &[("range", "bytes=0-1")]).await;
        assert_eq!(post.status, StatusCode::OK);
        assert!(post.text().starts_with("answer 1 to POST"));
    }

    over_each_store!(
        is_kept_for_get_only_by_the_strict_profile_and_only_if_it_says_so,
        makes_stale_what_was_there_before_it_is_kept,
        is_answered_by_the_application_whatever_its_conditions,
        has_no_ranges,
        is_kept_whatever_else_it_invalidates,
        leaves_what_is_known_of_failures_as_it_was,
    );
}
