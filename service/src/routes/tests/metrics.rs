//! What `/metrics` says, and that it stays small.

use std::collections::BTreeSet;

use cache_layer::{
    Cache, Coding,
    store::{MemoryStore, RedisStore, TieredStore},
    telemetry::{
        Event, FillOutcome, InvalidationKind, LoadOutcome, LookupEvent, LookupResult, NoCacheReason, Observer,
        Rejection, Release, SweepCause, Tier, WaitScope, WarmOutcome,
    },
};

use super::*;

/// Series: lines that are no comments.
fn series(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

/// The names of labels, and their values.
fn labels(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let inside = |line| Some(str::split_once(line, '{')?.1.rsplit_once('}')?.0);
    let pairs = series(text).filter_map(inside).flat_map(|labels| labels.split_terminator("\","));
    pairs.map(|pair| pair.split_once("=\"").map(|(name, value)| (name, value.trim_end_matches('"'))).unwrap())
}

#[tokio::test]
async fn requests_are_counted_by_route() {
    let service = Service::new().await;
    for id in 1..=30 {
        assert_eq!(service.get(&format!("/api/products/{id}")).await.status, 200);
        service.get(&format!("/nothing/{id}")).await;
        service.request("PATCH", &format!("/api/products/{id}")).await;
    }
    let metrics = service.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert_eq!(metrics.header("x-cache"), "");
    for counted in [
        r#"http_server_requests_total{http_request_method="GET",http_response_status_code="200",http_route="/api/products/{id}"} 30"#,
        r#"http_server_requests_total{http_request_method="GET",http_response_status_code="404"} 30"#,
        r#"http_server_requests_total{http_request_method="PATCH",http_response_status_code="405"} 30"#,
        r#"http_server_request_duration_seconds_count{http_route="/api/products/{id}"} 30"#,
        // Each response, and the product that it was made from.
        r#"cache_layer_lookups_total{cache="products",result="miss",tier="none"} 60"#,
        r#"cache_layer_loads_total{cache="products",outcome="ok"} 60"#,
        r#"cache_layer_load_duration_seconds_count{cache="products"} 60"#,
    ] {
        assert!(metrics.body.contains(counted), "{counted} is not in {}", metrics.body);
    }
}

#[tokio::test]
async fn nothing_that_clients_make_up_is_a_label() {
    let service = Service::new().await;
    for method in ["GET", "HEAD", "DELETE", "SECRET"] {
        for path in ["/api/products/77", "/api/products?category=secret", "/secret/77", "/api/products/77/cache"] {
            let request = Request::builder().method(method).uri(path).header(header::HOST, "secret.example");
            let request = request.header(header::USER_AGENT, "secret/1").header("x-request-id", "secret");
            service.send(request.body(Body::empty()).unwrap()).await;
        }
    }
    service.settle().await;
    let text = service.get("/metrics").await.body;
    for (name, value) in labels(&text) {
        assert!(!value.contains("secret") && !value.contains("SECRET"), "{name} is {value}");
        assert!(name == "le" || !value.contains("77"), "{name} is {value}");
    }
    let names: BTreeSet<_> = labels(&text).map(|(name, _)| name).filter(|name| !name.starts_with("service_")).collect();
    let known = [
        "cache",
        "cause",
        "http_request_method",
        "http_response_status_code",
        "http_route",
        "kind",
        "le",
        "outcome",
        "reason",
        "result",
        "telemetry_sdk_language",
        "telemetry_sdk_name",
        "telemetry_sdk_version",
        "tier",
    ];
    assert_eq!(names, BTreeSet::from(known));
}

/// All that a cache can say, with every value that it can say it with.
fn every_event() -> Vec<Event> {
    let moment = Duration::from_millis(1);
    let mut events = vec![
        Event::Bypass(NoCacheReason::Method),
        Event::EarlyRefresh,
        Event::RefreshSkipped,
        Event::RefreshFailed,
        Event::Verified { same: true, age: moment },
        Event::Verified { same: false, age: moment },
        Event::VerifiedAgain { stable: true },
        Event::VerifiedAgain { stable: false },
        Event::Warmed { outcome: WarmOutcome::Found, count: 1 },
        Event::Warmed { outcome: WarmOutcome::Missing, count: 1 },
        Event::Warmed { outcome: WarmOutcome::RefusedList, count: 1 },
        Event::Swept { cause: SweepCause::Pattern, patterns: 1, examined: 2, removed: 1, duration: moment },
        Event::Swept { cause: SweepCause::Tag, patterns: 0, examined: 2, removed: 1, duration: moment },
        Event::Overloaded,
        Event::Kept { bytes: 1 },
        Event::StoreUnavailable,
    ];
    for &result in LookupResult::ALL {
        let found_at = Tier::ALL.iter().copied().filter(|tier| result.is_hit() == (*tier != Tier::None));
        events.extend(found_at.map(|tier| Event::Lookup(lookup(result, tier, moment))));
    }
    events.extend(Release::ALL.iter().copied().map(|release| waited(WaitScope::Process, release)));
    // All that is known of another process's load.
    events.extend([Release::Done, Release::WaitTimeout].map(|release| waited(WaitScope::Fleet, release)));
    events.extend(LoadOutcome::ALL.iter().copied().map(|outcome| Event::Loaded { outcome, duration: moment }));
    events.extend(NoCacheReason::ALL.iter().copied().map(Event::NotStored));
    events.extend(FillOutcome::ALL.iter().copied().map(Event::Fill));
    events.extend(Rejection::ALL.iter().copied().map(Event::Rejected));
    for &coding in Coding::ALL {
        events.push(Event::Encoded { coding, content: 2, coded: Some(1), duration: moment });
    }
    for &kind in InvalidationKind::ALL {
        for (soft, delivered) in [(false, false), (false, true), (true, false), (true, true)] {
            events.push(Event::Invalidation { kind, soft, delivered, hardened: false });
        }
        events.push(Event::Invalidation { kind, soft: false, delivered: true, hardened: true });
    }
    events
}

fn lookup(result: LookupResult, tier: Tier, moment: Duration) -> LookupEvent {
    let mut lookup = LookupEvent::new(result, tier);
    (lookup.duration, lookup.age, lookup.saved) = (moment, Some(moment), moment);
    lookup
}

fn waited(scope: WaitScope, release: Release) -> Event {
    Event::Waited { scope, release, duration: Duration::from_millis(1) }
}

/// Requests of every kind that the service answers, and some that it doesn't.
async fn every_request(service: &Service) {
    for path in ["/api/products", "/api/products/1", "/api/categories", "/health", "/health/live", "/health/ready"] {
        for method in ["GET", "HEAD", "PATCH", "TRACE", "OPTIONS", "CONNECT", "MADE-UP"] {
            service.request(method, path).await;
            service.request(method, &format!("{path}/nothing?page=0")).await;
        }
    }
    for path in
        ["/api/products?page=0", "/api/products/0", "/api/products/4711", "/", "/docs", "/docs/", "/docs/nothing"]
    {
        service.get(path).await;
        service.request("HEAD", path).await;
    }
    for path in ["/openapi.json", "/metrics", "/docs/swagger-ui.css"] {
        service.get(path).await;
        service.request("HEAD", path).await;
    }
    for (method, path) in [("POST", "/api/products"), ("PUT", "/api/products/1"), ("PUT", "/api/products/4711")] {
        for body in [kettle().to_string(), "{}".to_owned(), "{".to_owned(), " ".repeat(70_000)] {
            service.send_json(method, path, body).await;
        }
        service.request(method, path).await;
    }
    for path in ["/api/products/1", "/api/products/4711", "/api/products/0", "/api/products/2/cache"] {
        service.request("DELETE", path).await;
    }
    service.app.database.close().await;
    for (method, path) in [("GET", "/api/products"), ("GET", "/api/products/5"), ("GET", "/api/categories")] {
        service.request(method, path).await;
    }
    service.get("/health/ready").await;
}

#[tokio::test]
async fn twenty_caches_and_their_service_stay_below_2_300_series() {
    const CACHES: [&str; 20] =
        ["products", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s"];
    let service = Service::new().await;
    let metrics = &service.app.metrics;
    let redis = RedisStore::builder("redis://127.0.0.1:1").build().unwrap();
    for name in CACHES {
        let of_cache = metrics.of_cache(name);
        let observer = of_cache.observer();
        every_event().into_iter().for_each(|event| observer.observe(event));
        of_cache.watch_cache(&Cache::new(MemoryStore::new(1 << 20)));
        of_cache.watch_first_tier(&TieredStore::new(1 << 20, redis.clone()));
        of_cache.watch_redis(&redis);
    }
    let text = metrics.text().unwrap();
    // Beyond the limit, reasons are counted together, and none is lost.
    let reasons: Vec<_> = series(&text).filter(|line| line.starts_with("cache_layer_uncacheable_total")).collect();
    let counted: f64 = reasons.iter().filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    assert_eq!(counted as usize, CACHES.len() * NoCacheReason::ALL.len());
    assert!(reasons.iter().any(|line| line.contains("otel_metric_overflow=\"true\"")), "{reasons:?}");

    every_request(&service).await;
    let text = metrics.text().unwrap();
    let total = series(&text).count();
    println!("{total} series");
    assert!(total < 2_300, "{total} series:\n{text}");
    // It is not small because something is missing.
    for name in CACHES {
        for metric in ["lookups_total", "loads_total", "load_duration_seconds_bucket", "l1_evictions_total"] {
            assert!(text.contains(&format!("cache_layer_{metric}{{cache=\"{name}\"")), "{metric} of {name}");
        }
    }
    let buckets = |metric| {
        series(&text).filter(move |line| line.starts_with(metric)).filter_map(|line| line.split("le=\"").nth(1))
    };
    let finest = buckets("cache_layer_lookup_duration_seconds_bucket").next().unwrap();
    assert!(finest.starts_with("0.00005\"") || finest.starts_with("5e-05\""), "{finest}");
}
