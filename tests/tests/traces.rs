//! The spans of a request in a trace: which there are, their parents, their links, and their fields.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use cache_layer::{
    Cache, CacheLayer, Clock, Rule,
    store::{MemoryStore, RedisStore, TieredStore},
    telemetry::{Event, LoadOutcome, LookupEvent, LookupResult, Named, Observer, Release, Tier, WaitScope},
};
use http::Method;
use tests::{App, Backend, Gate, Origin, RedisServer, echo, request, wait_until};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
};

const MINUTE: &[(&str, &str)] = &[("cache-control", "max-age=60")];
const TAGGED: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("cache-tag", "t")];
const STALE_AT_ONCE: &[(&str, &str)] = &[("cache-control", "max-age=0, stale-while-revalidate=60")];

/// A span that was begun.
#[derive(Clone, Debug, Default)]
struct Seen {
    id: u64,
    name: &'static str,
    target: String,
    parent: Option<u64>,
    follows: Vec<u64>,
    fields: BTreeMap<&'static str, String>,
}

impl Seen {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }
}

/// Every span of this thread, in the order that they began.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Seen>>>);

impl Recorder {
    /// Records until what is returned with it is dropped.
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let recorder = Self::default();
        let subscriber = tracing_subscriber::registry().with(recorder.clone());
        (recorder, tracing::subscriber::set_default(subscriber))
    }

    fn change(&self, id: &Id, change: impl FnOnce(&mut Seen)) {
        // A subscriber uses an id again once its span is closed.
        if let Some(seen) = self.0.lock().unwrap().iter_mut().rev().find(|seen| seen.id == id.into_u64()) {
            change(seen);
        }
    }

    fn named(&self, name: &str) -> Vec<Seen> {
        self.0.lock().unwrap().iter().filter(|seen| seen.name == name).cloned().collect()
    }

    /// What the look-ups came to, in the order that they began.
    fn results(&self) -> Vec<(String, String)> {
        let of = |seen: &Seen, name| seen.field(name).unwrap_or_default().to_owned();
        self.named("cache.get").iter().map(|get| (of(get, "cache_layer.result"), of(get, "cache_layer.tier"))).collect()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let metadata = attributes.metadata();
        let parent = context.span(id).and_then(|span| Some(span.parent()?.id().into_u64()));
        let (name, target) = (metadata.name(), metadata.target().to_owned());
        let mut seen = Seen { id: id.into_u64(), name, target, parent, ..Seen::default() };
        attributes.record(&mut Fields(&mut seen.fields));
        self.0.lock().unwrap().push(seen);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.change(id, |seen| values.record(&mut Fields(&mut seen.fields)));
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, _: Context<'_, S>) {
        self.change(id, |seen| seen.follows.push(follows.into_u64()));
    }
}

/// The lines of the log of this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<BTreeMap<&'static str, String>>>>);

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut fields = BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        self.0.lock().unwrap().push(fields);
    }
}

struct Fields<'a>(&'a mut BTreeMap<&'static str, String>);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

async fn app(cache: cache_layer::CacheBuilder, fields: &'static [(&'static str, &'static str)]) -> App {
    let origin = Origin::new(move |call, request| async move { Ok(echo(call, &request, fields)) });
    App::new(cache.name("products").build(), &origin, |layer| layer).unexplained()
}

fn memory() -> cache_layer::CacheBuilder {
    Cache::builder(MemoryStore::new(1 << 20))
}

fn pair(result: &str, tier: &str) -> (String, String) {
    (result.to_owned(), tier.to_owned())
}

#[tokio::test]
async fn a_miss_has_its_load_inside_and_a_hit_has_none() {
    let (spans, _recording) = Recorder::start();
    let app = app(memory(), MINUTE).await;
    app.get("/a", &[]).await;
    app.get("/a", &[]).await;

    assert_eq!(spans.results(), [pair("miss", "none"), pair("hit", "memory")]);
    let (gets, loads) = (spans.named("cache.get"), spans.named("cache.load"));
    assert_eq!(loads.len(), 1);
    assert_eq!(loads[0].parent, Some(gets[0].id));
    assert_eq!(gets[0].field("otel.name"), Some("cache.get products"));
    assert_eq!(loads[0].field("otel.name"), Some("cache.load products"));
    assert_eq!((gets[0].field("cache.hit"), gets[1].field("cache.hit")), (Some("false"), Some("true")));
    assert_eq!((gets[0].field("cache_layer.age"), gets[1].field("cache_layer.age")), (None, Some("0")));
    assert!(gets.iter().chain(&loads).all(|span| span.target.starts_with("cache_layer")));
}

#[tokio::test]
async fn the_log_says_which_redis_can_not_be_used_and_why_without_the_password() {
    let redis = RedisServer::builder().password("hunter2").start();
    let place = format!("127.0.0.1:{}", redis.port());
    for (credentials, why) in [("", "the server wants a password"), (":hunter3@", "WRONGPASS")] {
        let log = Log::default();
        let _logging = tracing::subscriber::set_default(tracing_subscriber::registry().with(log.clone()));
        // What is told is the first thing that goes wrong, which must not be that the time is up.
        let builder = RedisStore::builder(format!("redis://{credentials}{place}"));
        let _store = builder.connect_timeout(Duration::from_secs(30)).build().unwrap();
        let lines = || log.0.lock().unwrap().clone();
        let is_told = |line: &BTreeMap<&str, String>| line.get("server") == Some(&place);
        wait_until("it is logged", async || lines().iter().any(is_told)).await;
        let told = lines().into_iter().find(is_told).unwrap();
        assert!(told["error"].contains(why), "{told:?}");
        assert!(lines().iter().flat_map(BTreeMap::values).all(|value| !value.contains("hunter")), "{told:?}");
    }
}

#[tokio::test]
async fn the_application_runs_inside_the_load() {
    let (spans, _recording) = Recorder::start();
    let origin = Origin::new(move |call, request| async move {
        tracing::info_span!("application").in_scope(|| ());
        Ok(echo(call, &request, MINUTE))
    });
    let app = App::new(memory().build(), &origin, |layer| layer);
    app.get("/a", &[]).await;
    assert_eq!(spans.named("application")[0].parent, Some(spans.named("cache.load")[0].id));
}

#[tokio::test]
async fn who_waited_for_a_load_is_linked_with_it() {
    let (spans, _recording) = Recorder::start();
    let gate = Gate::closed();
    let app = App::new(memory().build(), &Origin::gated_echo(&gate, MINUTE), |layer| layer);
    let asked = |app: &App| {
        let app = app.clone();
        tokio::spawn(async move { app.get("/a", &[]).await })
    };
    let (leader, follower) = (asked(&app), asked(&app));
    wait_until("the second request waits", async || app.cache.counts().coalesced == 1).await;
    gate.open();
    leader.await.unwrap();
    follower.await.unwrap();

    assert_eq!(spans.results(), [pair("miss", "none"), pair("collapsed", "memory")]);
    let (gets, loads) = (spans.named("cache.get"), spans.named("cache.load"));
    assert_eq!(loads.len(), 1);
    assert_eq!(gets[1].follows, [loads[0].id]);
    assert!(gets[0].follows.is_empty());
    assert!(gets[1].field("cache_layer.wait_ms").is_some());
}

#[tokio::test]
async fn a_refresh_in_the_background_is_a_trace_of_its_own_linked_with_what_began_it() {
    let (spans, _recording) = Recorder::start();
    let app = app(memory(), STALE_AT_ONCE).await;
    app.get("/a", &[]).await;
    app.get("/a", &[]).await;

    assert_eq!(spans.results(), [pair("miss", "none"), pair("stale", "memory")]);
    let (gets, loads) = (spans.named("cache.get"), spans.named("cache.load"));
    assert_eq!(loads.len(), 2);
    assert_eq!((loads[1].parent, &loads[1].follows), (None, &vec![gets[1].id]));
}

#[tokio::test]
async fn values_are_traced_as_responses_are() {
    let (spans, _recording) = Recorder::start();
    let cache = memory().name("names").build();
    for _ in 0..2 {
        let loaded = cache.get_or_load("k", async || Ok::<_, std::convert::Infallible>(7)).await;
        assert_eq!(loaded, Ok(7));
        assert!(cache.drain(Duration::from_secs(5)).await);
    }
    assert_eq!(cache.get::<u32>("other").await, None);
    assert_eq!(spans.results(), [pair("miss", "none"), pair("hit", "memory"), pair("miss", "none")]);
    let (gets, loads) = (spans.named("cache.get"), spans.named("cache.load"));
    assert_eq!(loads.len(), 1);
    assert_eq!(loads[0].parent, Some(gets[0].id));
    assert_eq!(gets[0].field("otel.name"), Some("cache.get names"));
}

#[tokio::test]
async fn round_trips_to_redis_are_spans_of_a_database_client() {
    let backend = Backend::tiered();
    let builder = backend.cache().await;
    let (spans, _recording) = Recorder::start();
    let app = app(builder, MINUTE).await;
    app.get("/secret-path", &[]).await;
    app.get("/secret-path", &[]).await;
    app.get("/secret-path", &[]).await;
    app.cache.invalidate_tag("secret-tag").await.unwrap();

    assert_eq!(spans.results(), [pair("miss", "none"), pair("hit", "store"), pair("hit", "memory")]);
    let (gets, loads, trips) = (spans.named("cache.get"), spans.named("cache.load"), spans.named("redis"));
    let inside = |span: &Seen| -> Vec<_> {
        let inside = trips.iter().filter(|trip| trip.parent == Some(span.id));
        inside.map(|trip| (trip.fields["db.operation.name"].as_str(), trip.field("db.stored_procedure.name"))).collect()
    };
    assert_eq!(inside(&gets[0]), [("GET", None)]);
    assert_eq!(inside(&gets[2]), [], "memory costs no round trip");
    assert!(inside(&loads[0]).contains(&("PIPELINE", None)), "{:?}", inside(&loads[0]));
    assert!(inside(&loads[0]).contains(&("EVALSHA", Some("commit"))), "{:?}", inside(&loads[0]));
    for trip in &trips {
        assert_eq!(trip.field("db.system.name"), Some("redis"));
        assert_eq!(trip.field("otel.kind"), Some("client"));
        assert_eq!(trip.field("otel.name"), trip.field("db.operation.name"));
        assert_eq!(trip.field("server.port"), Some(&*backend.server().port().to_string()));
        assert_eq!(trip.field("error.type"), None);
    }
    let all = format!("{:?}", spans.0.lock().unwrap());
    assert!(!all.contains("secret"), "a key or a tag is in a trace: {all}");
}

#[tokio::test]
async fn an_error_of_redis_is_named_in_its_span() {
    let backend = Backend::redis();
    let cache = backend.cache().await.build();
    let (spans, _recording) = Recorder::start();
    backend.server().command::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(cache.set("k", &1).await.is_err());
    let failed: Vec<_> = spans.named("redis").into_iter().filter(|trip| trip.field("error.type").is_some()).collect();
    assert!(!failed.is_empty());
    for trip in failed {
        assert_eq!(trip.field("error.type"), Some("OOM"));
        assert_eq!(trip.field("db.response.status_code"), Some("OOM"));
        assert_eq!(trip.field("otel.status_code"), Some("ERROR"));
    }
}

#[tokio::test]
async fn keys_are_named_only_if_somebody_asks_for_it() {
    let (spans, _recording) = Recorder::start();
    for named in [false, true] {
        app(memory().keys_in_traces(named), MINUTE).await.get("/secret", &[]).await;
    }
    for spans in [spans.named("cache.get"), spans.named("cache.load")] {
        assert_eq!((spans[0].field("cache.key"), spans[0].field("cache_layer.key_hash").unwrap().len()), (None, 32));
        assert!(spans[1].field("cache.key").unwrap().contains("/secret"));
        assert_eq!(spans[1].field("cache_layer.key_hash"), None);
    }
}

#[tokio::test]
async fn why_nothing_was_kept_is_said_where_it_was_found_out() {
    let (spans, _recording) = Recorder::start();
    app(memory(), &[("cache-control", "no-store")]).await.get("/a", &[]).await;
    assert_eq!(spans.named("cache.load")[0].field("cache_layer.reason"), Some("no-store"));
}

#[tokio::test]
async fn round_trips_and_pushes_are_counted_by_what_they_are_for() {
    let server = RedisServer::start();
    // One that is given up in vain would be asked again, and counted twice.
    let patient = || RedisStore::builder(server.url()).operation_timeout(Duration::from_secs(10)).build().unwrap();
    let (store, other) = (patient(), patient());
    assert!(store.wait_connected(Duration::from_secs(10)).await && other.wait_connected(Duration::from_secs(10)).await);
    let app = app(Cache::builder(TieredStore::new(1 << 20, store.clone())), TAGGED).await;
    let went = || store.round_trips().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
    let heard = || store.pushes().map(|(push, count)| (push.as_str(), count)).collect::<BTreeMap<_, _>>();

    app.get("/a", &[]).await;
    assert!(app.cache.drain(Duration::from_secs(10)).await);
    // The first of all: it learns what every entry carries.
    let miss = [("GET", 1), ("MGET", 1), ("acquire", 1), ("last_invalidation", 1), ("commit", 1)];
    assert_eq!(went(), miss);
    app.get("/a", &[]).await;
    let [_, _, rest @ ..] = miss;
    let and_a_hit = [&[("GET", 2), ("MGET", 2)], &rest[..]].concat();
    assert_eq!(went(), and_a_hit, "the entry, and once its tags");
    app.get("/a", &[]).await;
    assert_eq!(went(), and_a_hit, "memory costs no round trip");

    let before = heard();
    Cache::new(other).invalidate_tag("t").await.unwrap();
    wait_until("it is heard of", async || heard()["tag"] > before["tag"]).await;
    let (before, after) = (before, heard());
    assert_eq!((after["entry"], after["everything"]), (before["entry"], 0));
    server.command::<()>(&["FLUSHALL"]);
    wait_until("it is heard of", async || heard()["everything"] == 1).await;
}

/// Everything that an observer is told, in order.
fn watched(builder: cache_layer::CacheBuilder) -> (cache_layer::CacheBuilder, Arc<Mutex<Vec<Event>>>) {
    let events = Arc::<Mutex<Vec<Event>>>::default();
    let seen = events.clone();
    (builder.observer(move |event: Event| seen.lock().unwrap().push(event)), events)
}

#[tokio::test]
async fn an_observer_hears_of_each_look_up_once_and_as_it_is_counted() {
    let (builder, events) = watched(memory());
    let app = app(builder, STALE_AT_ONCE).await;
    for path in ["/a", "/a", "/b", "/a"] {
        app.get(path, &[]).await;
    }
    app.send(Method::POST, "/a", &[]).await;
    let events = events.lock().unwrap();
    let lookups: Vec<LookupEvent> = events
        .iter()
        .filter_map(|event| if let Event::Lookup(lookup) = event { Some(*lookup) } else { None })
        .collect();
    let results: Vec<_> = lookups.iter().map(|lookup| (lookup.result, lookup.tier)).collect();
    let (miss, stale) = ((LookupResult::Miss, Tier::None), (LookupResult::Stale, Tier::Memory));
    assert_eq!(results, [miss, stale, miss, stale]);
    let counts = app.cache.counts();
    assert_eq!(lookups.iter().filter(|lookup| lookup.result.is_hit()).count() as u64, counts.hits);
    assert_eq!(lookups.len() as u64, counts.hits + counts.misses);
    assert_eq!(lookups.iter().map(|lookup| lookup.age.is_some()).collect::<Vec<_>>(), [false, true, false, true]);
}

#[tokio::test]
async fn an_observer_hears_how_loads_and_waits_ended_and_what_was_kept() {
    let (builder, events) = watched(memory());
    let gate = Gate::closed();
    let app = App::new(builder.build(), &Origin::gated_echo(&gate, MINUTE), |layer: CacheLayer| layer);
    let waiting = app.clone();
    let leader = tokio::spawn({
        let app = app.clone();
        async move { app.get("/a", &[]).await }
    });
    let follower = tokio::spawn(async move { waiting.get("/a", &[]).await });
    wait_until("the second request waits", async || app.cache.counts().coalesced == 1).await;
    assert_eq!(app.cache.loads_in_flight(), 1);
    gate.open();
    let length = leader.await.unwrap().body.len() as u64;
    follower.await.unwrap();
    assert_eq!(app.cache.loads_in_flight(), 0);

    let events = events.lock().unwrap();
    let has = |wanted: &dyn Fn(&Event) -> bool| events.iter().filter(|event| wanted(event)).count();
    assert_eq!(has(&|event| matches!(event, Event::Loaded { outcome: LoadOutcome::Loaded, .. })), 1);
    let (scope, release) = (WaitScope::Process, Release::Done);
    assert_eq!(
        has(&|event| matches!(event, Event::Waited { scope: s, release: r, .. } if (*s, *r) == (scope, release))),
        1
    );
    assert_eq!(has(&|event| *event == Event::Kept { bytes: length }), 1);
}

#[tokio::test]
async fn a_request_that_is_given_up_was_a_miss() {
    let (builder, events) = watched(memory());
    let app = App::new(builder.build(), &Origin::gated_echo(&Gate::closed(), MINUTE), |layer| layer);
    let asked = app.clone();
    let request = tokio::spawn(async move { asked.begin(request(Method::GET, "/a", &[])).await.is_ok() });
    wait_until("the application is asked", async || app.cache.counts().misses == 1).await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    let missed = |event: &Event| matches!(event, Event::Lookup(LookupEvent { result: LookupResult::Miss, .. }));
    assert_eq!(events.lock().unwrap().iter().filter(|event| missed(event)).count(), 1);
}

/// What an observer is told by name.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<Vec<String>>>);

impl Observer for Names {
    fn observe(&self, _: Event) {}

    fn wants_names(&self) -> bool {
        true
    }

    fn observe_named(&self, named: &Named<'_>) {
        let told = match named {
            Named::Lookup { key, event, route, rule, tags, .. } => {
                format!("{} of {key}, {route:?}, {rule:?}, {tags:?}", event.result)
            }
            Named::Bypass { key, reason, .. } => format!("{reason} of {key:?}"),
            _ => return,
        };
        self.0.lock().unwrap().push(told);
    }
}

#[tokio::test]
async fn an_observer_that_wants_names_gets_key_route_rule_and_tags() {
    let names = Names::default();
    let cache = memory().observer(names.clone()).build();
    let rule = Rule::path("/products/{id}").ttl(Duration::from_secs(60));
    let layer = CacheLayer::new(cache.clone()).rule(rule.clone()).unwrap();
    let answer = async || ([("cache-tag", "b,a")], "content");
    let app: axum::Router = axum::Router::new().route("/products/{number}", axum::routing::get(answer)).layer(layer);
    for (method, uri) in [
        ("GET", "http://a/products/1"),
        ("GET", "http://a/products/1"),
        ("PUT", "http://a/products/1?x"),
        ("GET", "/products/1"),
    ] {
        let request = http::Request::builder().method(method).uri(uri).body(axum::body::Body::empty()).unwrap();
        let response = tower::ServiceExt::oneshot(app.clone(), request).await.unwrap();
        axum::body::to_bytes(response.into_body(), 100).await.unwrap();
        assert!(cache.drain(Duration::from_secs(60)).await);
    }
    let by = format!("Some(\"/products/{{number}}\"), Some({:?})", rule.to_string());
    let expected = [
        format!("miss of http://a/products/1, {by}, []"),
        format!("hit of http://a/products/1, {by}, [\"a\", \"b\"]"),
        "method of Some(Key(http://a/products/1?x))".to_owned(),
        "no-authority of None".to_owned(),
    ];
    assert_eq!(*names.0.lock().unwrap(), expected);
}

/// Once, a value that JSON does not have, and once, a load that waits for longer than loads may take.
#[tokio::test(start_paused = true)]
async fn logs_name_no_key() {
    let log = Log::default();
    let _logging = tracing::subscriber::set_default(tracing_subscriber::registry().with(log.clone()));
    let cache = Cache::builder(MemoryStore::new(1 << 20)).max_loads(1).clock(Clock::tokio()).build();
    let load = async || Ok::<_, Infallible>(f64::NAN);
    assert!(cache.get_or_load(("secret", 1), load).await.unwrap().is_nan());
    assert!(cache.drain(Duration::from_secs(1)).await);
    let gate = Gate::closed();
    let shut = gate.clone();
    let slow = tokio::spawn(
        cache
            .get_or_load(("secret", 2), async move || {
                shut.pass().await;
                Ok::<_, Infallible>(1)
            })
            .into_future(),
    );
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(cache.get_or_load(("secret", 3), async || Ok::<_, Infallible>(2)).await, Ok(2));
    gate.open();
    assert_eq!(slow.await.unwrap(), Ok(1));
    let log: Vec<_> = log.0.lock().unwrap().iter().map(|fields| format!("{fields:?}")).collect();
    for about in ["can't be written and read back", "has waited in vain for a place"] {
        assert!(log.iter().any(|line| line.contains(about)), "{about}: {log:?}");
    }
    let telling: Vec<_> = log.iter().filter(|line| line.contains("secret")).collect();
    assert!(telling.is_empty(), "{telling:?}");
}
