//! Caches between this one and its clients that ignore `Age`: what they are told of the freshness that is left, and what real
//! ones make of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::Method, middleware, routing::get};
use cache_layer::{Cache, CacheLayer, Clock, Freshness, Remaining, store::MemoryStore};
use tests::{App, HttpClient, Neighbour, Origin, wait_until};

type Fields = &'static [(&'static str, &'static str)];

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn app(origin: &Origin, clock: &Clock, set: impl FnOnce(CacheLayer) -> CacheLayer) -> App {
    App::new(Cache::builder(MemoryStore::new(1 << 20)).clock(clock.clone()).build(), origin, set)
}

mod an_answer {
    use super::*;

    const FIELDS: Fields = &[("cache-control", "public, max-age=60, stale-while-revalidate=20"), ("etag", "\"v1\"")];

    /// The fields that say how long an answer may be kept.
    fn said(response: &tests::Response) -> [Option<&str>; 4] {
        ["x-cache", "cache-control", "age", "x-accel-expires"].map(|name| response.header(name))
    }

    #[tokio::test]
    async fn says_by_age_what_rfc_9111_asks_for_unless_something_else_is_set() {
        let clock = Clock::manual();
        let app = app(&Origin::echo(FIELDS), &clock, |layer| layer);
        app.get("/", &[]).await;
        clock.advance(seconds(50));
        assert_eq!(said(&app.get("/", &[]).await), [Some("HIT"), Some(FIELDS[0].1), Some("50"), None]);
    }

    #[tokio::test]
    async fn says_it_to_nginx_besides() {
        let clock = Clock::manual();
        let app = app(&Origin::echo(FIELDS), &clock, |layer| layer.remaining(Remaining::AccelExpires));
        // The first as well: nginx would not count the time that it has spent on its way.
        assert_eq!(said(&app.get("/", &[]).await), [Some("MISS"), Some(FIELDS[0].1), None, Some("60")]);
        clock.advance(seconds(50));
        let hit = [Some("HIT"), Some(FIELDS[0].1), Some("50"), Some("10")];
        assert_eq!(said(&app.get("/", &[]).await), hit);
        assert_eq!(said(&app.send(Method::HEAD, "/", &[]).await), hit);
        assert_eq!(said(&app.get("/", &[("if-none-match", "\"v1\"")]).await), hit);
        clock.advance(seconds(15));
        assert_eq!(said(&app.get("/", &[]).await), [Some("STALE"), Some(FIELDS[0].1), Some("65"), Some("0")]);
    }

    #[tokio::test]
    async fn says_it_by_max_age_as_if_it_were_made_anew() {
        let clock = Clock::manual();
        let app = app(&Origin::echo(FIELDS), &clock, |layer| layer.remaining(Remaining::MaxAge));
        let miss = app.get("/", &[]).await;
        assert_eq!(said(&miss), [Some("MISS"), Some(FIELDS[0].1), None, None]);
        clock.advance(seconds(50));
        let ten = "public, max-age=10, stale-while-revalidate=20";
        let hit = app.get("/", &[]).await;
        assert_eq!(said(&hit), [Some("HIT"), Some(ten), None, None]);
        assert_eq!(hit.header("x-cache-age"), Some("50"));
        assert_ne!(hit.header("date"), miss.header("date"), "a cache that reads it would take the answer for 50 s old");
        assert_eq!(said(&app.get("/", &[("if-none-match", "\"v1\"")]).await), [Some("HIT"), Some(ten), None, None]);
        // Two caches in a row are stale for as long as one.
        clock.advance(seconds(15));
        let rest = "public, max-age=0, stale-while-revalidate=15";
        assert_eq!(said(&app.get("/", &[]).await), [Some("STALE"), Some(rest), None, None]);
    }

    /// Of a cache behind this one, whose answers are old when they come.
    #[tokio::test]
    async fn that_came_with_an_age_is_not_new() {
        const AGED: Fields = &[("cache-control", "max-age=60"), ("age", "50")];
        for (by, expected) in [
            (Remaining::AccelExpires, [Some("MISS"), Some("max-age=60"), Some("50"), Some("10")]),
            (Remaining::MaxAge, [Some("MISS"), Some("max-age=10"), None, None]),
        ] {
            let app = app(&Origin::echo(AGED), &Clock::manual(), |layer| layer.remaining(by));
            assert_eq!(said(&app.get("/", &[]).await), expected);
        }
    }

    /// The neighbour would keep the response, and no invalidation reaches it there.
    #[tokio::test]
    async fn that_says_nothing_to_other_caches_goes_on_saying_nothing() {
        let by_itself = || {
            Origin::new(|call, request| async move {
                let mut response = tests::echo(call, &request, &[]);
                response.extensions_mut().insert(Freshness::of(seconds(60)));
                Ok(response)
            })
        };
        for by in [Remaining::AccelExpires, Remaining::MaxAge] {
            let clock = Clock::manual();
            for app in [
                app(&Origin::echo(&[]), &clock, |layer| layer.ttl(seconds(60)).remaining(by)),
                app(&by_itself(), &clock, |layer| layer.remaining(by)),
            ] {
                for result in ["MISS", "HIT"] {
                    let response = app.get("/", &[]).await;
                    assert_eq!(response.header("x-cache"), Some(result));
                    assert_eq!([response.header("cache-control"), response.header("x-accel-expires")], [None, None]);
                }
            }
        }
    }

    #[tokio::test]
    async fn that_is_not_kept_stays_as_it_was_made() {
        const PRIVATE: Fields = &[("cache-control", "private, max-age=60"), ("age", "50")];
        for by in [Remaining::AccelExpires, Remaining::MaxAge] {
            let app = app(&Origin::echo(PRIVATE), &Clock::manual(), |layer| layer.remaining(by));
            for result in ["MISS", "BYPASS"] {
                let as_made = [Some(result), Some("private, max-age=60"), Some("50"), None];
                assert_eq!(said(&app.get("/", &[]).await), as_made);
            }
        }
    }
}

/// A server with a cache in it, whose one response is fresh for six seconds more of its minute, and how often it was asked.
async fn six_seconds_before_the_end(by: Remaining) -> (SocketAddr, Arc<AtomicUsize>) {
    let clock = Clock::manual();
    let cache = Cache::builder(MemoryStore::new(1 << 20)).clock(clock.clone()).build();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let app = Router::new()
        .route("/", get(async || ([("cache-control", "max-age=60")], "one for all")))
        .layer(CacheLayer::new(cache.clone()).remaining(by))
        .layer(middleware::from_fn(move |request, next: middleware::Next| {
            count.fetch_add(1, Ordering::SeqCst);
            next.run(request)
        }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    // The host that neighbours ask for, so that they get what this one leaves.
    let client = HttpClient::new();
    let url = format!("http://{addr}/");
    assert_eq!(client.get(&url, &[("host", "shop.example")]).await.header("x-cache"), Some("MISS"));
    assert!(cache.drain(seconds(30)).await);
    clock.advance(seconds(54));
    asked.store(0, Ordering::SeqCst);
    (addr, asked)
}

/// Whether `neighbour` asks again when the time is up, or keeps what it got for the whole minute from then on.
async fn asks_again(neighbour: impl FnOnce(SocketAddr) -> Neighbour, by: Remaining) -> bool {
    let (upstream, asked) = six_seconds_before_the_end(by).await;
    let neighbour = neighbour(upstream);
    let client = HttpClient::new().host("shop.example");
    let get = async || {
        let response = client.get(&neighbour.url(), &[]).await;
        assert_eq!(response.text(), "one for all");
    };
    get().await;
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    get().await;
    assert_eq!(asked.load(Ordering::SeqCst), 1, "it caches nothing");
    if by == Remaining::Age {
        tokio::time::sleep(seconds(9)).await;
        get().await;
    } else {
        wait_until("it asks again", async || {
            get().await;
            asked.load(Ordering::SeqCst) > 1
        })
        .await;
    }
    asked.load(Ordering::SeqCst) > 1
}

#[tokio::test]
async fn nginx_ignores_age_and_is_told_by_either_field() {
    let (by_age, by_accel_expires, by_max_age) = tokio::join!(
        asks_again(Neighbour::nginx, Remaining::Age),
        asks_again(Neighbour::nginx, Remaining::AccelExpires),
        asks_again(Neighbour::nginx, Remaining::MaxAge),
    );
    assert_eq!((by_age, by_accel_expires, by_max_age), (false, true, true));
}

#[tokio::test]
async fn haproxy_ignores_age_and_is_told_by_max_age() {
    let (by_age, by_max_age) =
        tokio::join!(asks_again(Neighbour::haproxy, Remaining::Age), asks_again(Neighbour::haproxy, Remaining::MaxAge));
    assert_eq!((by_age, by_max_age), (false, true));
}
