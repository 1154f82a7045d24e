//! Clocks that are set, and clocks that differ: nothing is fresh for longer than it was made to be, and what may be of any age
//! says so.

use std::{convert::Infallible, time::Duration};

use cache_layer::{Cache, CacheLayer, Clock, Profile, telemetry::Rejection};
use http::StatusCode;
use tests::{App, Backend, Origin, Response, echo, over_each_store};

type Fields = &'static [(&'static str, &'static str)];

const HOUR: Duration = Duration::from_secs(3600);
const TWO_SECONDS: Fields = &[("cache-control", "max-age=2"), ("etag", "\"v\"")];

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A clock that can be set back without what is kept being over by the stores' own, which nobody sets.
fn clock() -> Clock {
    let clock = Clock::manual();
    clock.advance(4 * HOUR);
    clock
}

async fn cache(backend: &Backend, clock: &Clock) -> Cache {
    backend.cache().await.clock(clock.clone()).build()
}

async fn app(backend: &Backend, clock: &Clock, origin: &Origin) -> App {
    App::new(cache(backend, clock).await, origin, |layer| layer)
}

fn rejected(cache: &Cache) -> u64 {
    cache.counts().rejected.iter().find(|(reason, _)| *reason == Rejection::Future).map_or(0, |(_, count)| *count)
}

/// A new answer in place of one from the future.
fn assert_from_the_future(answer: &Response) {
    let status = answer.cache_status();
    assert!(matches!(answer.x_cache(), "MISS" | "REVALIDATED"), "{answer:?}");
    assert_eq!((status.fwd.as_deref(), status.detail.as_deref()), (Some("stale"), Some("from-the-future")));
    assert!(status.stored, "{answer:?}");
}

async fn what_was_made_before_the_clock_was_set_back_is_stale_and_says_why(backend: &Backend) {
    const VARIES: Fields = &[("cache-control", "max-age=2"), ("vary", "accept")];
    for (number, fields) in [TWO_SECONDS, &TWO_SECONDS[..1], VARIES].into_iter().enumerate() {
        let clock = clock();
        let app = app(backend, &clock, &Origin::echo(fields)).await;
        for later in [0, 1, 3] {
            let path = format!("/{number}/{later}");
            app.get(&path, &[]).await;
            assert_eq!(app.get(&path, &[]).await.x_cache(), "HIT");
            clock.set_back(HOUR);
            clock.advance(seconds(later));
            assert_from_the_future(&app.get(&path, &[]).await);
            let hit = app.get(&path, &[]).await;
            assert_eq!((hit.x_cache(), hit.cache_status().ttl), ("HIT", Some(2)), "the new one is of now");
        }
        assert_eq!(rejected(&app.cache), 3);
    }
}

async fn what_was_made_while_the_clock_was_ahead_is_stale_once_it_is_right(backend: &Backend) {
    let clock = clock();
    let app = app(backend, &clock, &Origin::echo(&[("cache-control", "max-age=60")])).await;
    app.get("/before", &[]).await;
    clock.advance(2 * HOUR);
    assert_eq!(app.get("/before", &[]).await.cache_status().detail, None, "it is stale by its own time");
    app.get("/ahead", &[]).await;
    clock.set_back(2 * HOUR);
    for path in ["/before", "/ahead"] {
        assert_from_the_future(&app.get(path, &[]).await);
        let hit = app.get(path, &[]).await;
        assert_eq!((hit.x_cache(), hit.cache_status().ttl), ("HIT", Some(60)));
    }
}

async fn two_processes_whose_clocks_differ_give_away_no_more_than_was_given(backend: &Backend) {
    for (writer_ahead, reader_ahead) in [(0, 300), (300, 0)] {
        let origin = Origin::echo(TWO_SECONDS);
        let (writes, reads) = (clock(), clock());
        writes.advance(seconds(writer_ahead));
        reads.advance(seconds(reader_ahead));
        let (writer, reader) = (app(backend, &writes, &origin).await, app(backend, &reads, &origin).await);
        writer.cache.invalidate_all().await.unwrap();
        for passed in [0, 1, 3] {
            writer.get("/a", &[]).await;
            writes.advance(seconds(passed));
            reads.advance(seconds(passed));
            let answer = reader.get("/a", &[]).await;
            assert_ne!(
                answer.x_cache(),
                "HIT",
                "{passed} s later, {writer_ahead} and {reader_ahead} s ahead: {answer:?}"
            );
            writer.cache.invalidate_all().await.unwrap();
        }
        // The reader of the two that is behind sees the future, the other one the past.
        assert_eq!(rejected(&reader.cache) > 0, writer_ahead > reader_ahead);
    }
}

async fn clocks_that_differ_as_clocks_do_share_what_is_fresh(backend: &Backend) {
    let origin = Origin::echo(TWO_SECONDS);
    let (early, late) = (clock(), clock());
    // Less than what goes unnoticed, since these were not made at one moment.
    late.advance(Duration::from_millis(900));
    let (behind, ahead) = (app(backend, &early, &origin).await, app(backend, &late, &origin).await);
    ahead.get("/a", &[]).await;
    let hit = behind.get("/a", &[]).await;
    assert_eq!((hit.x_cache(), hit.cache_status().ttl), ("HIT", Some(2)), "no more is left than there was");
    early.advance(seconds(3));
    assert_ne!(behind.get("/a", &[]).await.x_cache(), "HIT");
}

async fn what_may_be_of_any_age_is_not_used_stale_either(backend: &Backend) {
    let origin = Origin::new(|call, request| async move {
        if call % 2 == 0 {
            let mut response = echo(call, &request, &[]);
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(response);
        }
        let control = "max-age=2, stale-while-revalidate=600, stale-if-error=600";
        Ok(echo(call, &request, &[("cache-control", control)]))
    });
    let clock = clock();
    let set = |layer: CacheLayer| layer.profile(Profile::Strict).failure_backoff(Duration::ZERO, Duration::ZERO);
    let app = App::new(cache(backend, &clock).await, &origin, set);
    app.get("/a", &[]).await;
    clock.set_back(HOUR);
    assert_eq!(app.get("/a", &[]).await.status, 503, "nobody knows whether the window is open");
    let answer = app.get("/a", &[("cache-control", "max-stale")]).await;
    assert_eq!((answer.status.as_u16(), answer.x_cache()), (200, "MISS"), "nor by how much it is stale");
}

async fn a_value_from_the_future_is_loaded_anew(backend: &Backend) {
    let clock = clock();
    let cache = cache(backend, &clock).await;
    let load = async |value: u32| {
        let load = async move || Ok::<_, Infallible>(value);
        let window = seconds(600);
        let loaded = cache.get_or_load("value", load).ttl(seconds(2)).stale_while_revalidate(window);
        loaded.stale_if_error(window).await.unwrap()
    };
    assert_eq!((load(1).await, load(2).await), (1, 1));
    assert!(cache.drain(seconds(30)).await);
    clock.set_back(HOUR);
    assert_eq!(cache.get::<u32>("value").await, None);
    assert_eq!(cache.get_many::<u32>(["value"]).await, [None]);
    assert!(!cache.contains("value").await);
    let failing = cache.get_or_load("value", async || Err::<u32, _>("away")).stale_if_error(seconds(600)).await;
    assert_eq!(failing, Err("away"), "nobody knows whether it may stand in");
    assert_eq!(load(3).await, 3);
    assert!(cache.drain(seconds(30)).await);
    assert_eq!(load(4).await, 3, "it is of now");
    assert!(rejected(&cache) >= 4, "{:?}", cache.counts());
}

over_each_store!(
    what_was_made_before_the_clock_was_set_back_is_stale_and_says_why,
    what_was_made_while_the_clock_was_ahead_is_stale_once_it_is_right,
    two_processes_whose_clocks_differ_give_away_no_more_than_was_given,
    clocks_that_differ_as_clocks_do_share_what_is_fresh,
    what_may_be_of_any_age_is_not_used_stale_either,
    a_value_from_the_future_is_loaded_anew,
);
