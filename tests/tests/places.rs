//! Places among the loads that run at one time: a load and the loads that it makes share one, in whichever task they run, and no
//! more loads run than there are places.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use cache_layer::{Cache, Clock, Freshness, GetOrLoad, Inspected, Lock, telemetry::Release};
use futures_util::future::join_all;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tests::{App, Backend, Body, Failure, Gate, Origin, full, over_each_store, wait_until};

const MINUTE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(10);
/// A lock timeout that a test waits for; leases are renewed within a ninth of it, which a busy machine must not miss.
const PATIENCE: Duration = Duration::from_secs(9);

over_each_store!(
    a_load_with_a_place_waits_for_no_load_that_waits_for_a_place,
    a_load_with_a_place_waits_for_no_load_of_many_that_waits_for_a_place,
    a_handler_with_a_place_waits_for_no_load_that_waits_for_a_place,
    what_a_body_loads_while_it_is_read_is_part_of_the_load_that_has_the_place,
    what_a_body_of_known_length_begins_to_load_is_part_of_the_load_that_has_the_place,
    a_refresh_within_a_load_has_a_place_of_its_own_or_none,
    what_a_load_leaves_behind_keeps_its_place,
    a_place_of_one_cache_is_none_of_another,
    loads_of_two_caches_that_load_from_each_other_wait_for_no_place_that_they_have,
    of_what_is_made_from_something_stale_no_more_run_than_there_are_places,
    calls_that_wait_for_a_slow_load_do_not_repeat_it,
    a_call_that_has_waited_for_a_place_looks_the_value_up_once_more,
    loads_whose_callers_leave_while_they_wait_for_a_place_go_on,
    a_load_whose_client_leaves_while_it_waits_for_a_place_goes_on,
    the_time_that_a_load_takes_is_without_its_wait_for_a_place,
);

/// Counts calls.
#[derive(Clone, Default)]
struct Calls(Arc<AtomicUsize>);

impl Calls {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn called(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// How many run at one time, and the most that did.
#[derive(Clone, Default)]
struct Busy {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Busy {
    async fn work(&self) {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(SOON).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

async fn settled(cache: &Cache) {
    assert!(cache.drain(LIMIT).await, "loads were still under way after {LIMIT:?}");
}

/// As [`wait_until`], within a load.
async fn once(condition: impl Fn() -> bool + Send) {
    while !condition() {
        tokio::time::sleep(SOON).await;
    }
}

type Asking = Pin<Box<dyn Future<Output = usize> + Send>>;

/// Asks for one value.
fn one(cache: Cache, calls: Calls) -> Asking {
    Box::pin(async move {
        let load = async move || Ok::<_, Infallible>(calls.called());
        cache.get_or_load("inner", load).await.unwrap()
    })
}

/// Asks for two values at once, of which each is the number of the call.
fn many(cache: Cache, calls: Calls) -> Asking {
    Box::pin(async move {
        let load = async move |missing: Vec<&'static str>| {
            let call = calls.called();
            Ok::<_, Infallible>(missing.into_iter().map(|key| (key, call)).collect::<Vec<_>>())
        };
        let values = cache.get_or_load_many(["inner", "other"], load).await.unwrap();
        assert_eq!(values[0], values[1]);
        values[0].unwrap()
    })
}

/// Code that has the only place, and then needs what another call is about to load, which waits for a place.
async fn needs_what_waits(cache: Cache, calls: Calls, has_place: Gate, inner: fn(Cache, Calls) -> Asking) -> usize {
    let before = cache.loads_in_flight();
    has_place.open();
    once(|| cache.loads_in_flight() > before).await;
    inner(cache, calls).await
}

/// A cache with one place, in which nobody loses patience.
async fn with_one_place(backend: &Backend) -> Cache {
    backend.cache().await.max_loads(1).lock_timeout(10 * MINUTE).build()
}

async fn expect_no_standstill(backend: &Backend, inner: fn(Cache, Calls) -> Asking) {
    let (cache, calls, has_place) = (with_one_place(backend).await, Calls::default(), Gate::closed());
    let outer = {
        let (cache, calls, has_place) = (cache.clone(), calls.clone(), has_place.clone());
        async move || Ok::<_, Infallible>(needs_what_waits(cache, calls, has_place, inner).await)
    };
    let outer = tokio::spawn(cache.get_or_load("outer", outer).into_future());
    has_place.pass().await;
    let other = tokio::spawn(inner(cache.clone(), calls.clone()));
    let value = tokio::time::timeout(LIMIT, outer).await.expect("it waits for nobody that waits for its place");
    assert_eq!((value.unwrap(), other.await.unwrap()), (Ok(1), 1));
    assert_eq!(calls.count(), 1, "one load is for both");
}

async fn a_load_with_a_place_waits_for_no_load_that_waits_for_a_place(backend: &Backend) {
    expect_no_standstill(backend, one).await;
}

async fn a_load_with_a_place_waits_for_no_load_of_many_that_waits_for_a_place(backend: &Backend) {
    expect_no_standstill(backend, many).await;
}

async fn a_handler_with_a_place_waits_for_no_load_that_waits_for_a_place(backend: &Backend) {
    let (cache, calls, has_place) = (with_one_place(backend).await, Calls::default(), Gate::closed());
    let origin = {
        let (cache, calls, has_place) = (cache.clone(), calls.clone(), has_place.clone());
        Origin::new(move |_, _| {
            let needing = needs_what_waits(cache.clone(), calls.clone(), has_place.clone(), one);
            async move { Ok(http::Response::new(full(needing.await.to_string()))) }
        })
    };
    let app = App::new(cache.clone(), &origin, |layer| layer.ttl(MINUTE)).unexplained();
    let page = tokio::spawn(async move { app.get("/page", &[]).await });
    has_place.pass().await;
    let other = tokio::spawn(one(cache, calls.clone()));
    assert_eq!(page.await.unwrap().text(), "1", "it waits for nobody that waits for its place");
    assert_eq!((other.await.unwrap(), calls.count()), (1, 1));
}

/// A body whose second half is asked for together with the first.
struct Halves<A> {
    ask: A,
    length: SizeHint,
    second: Option<Asking>,
    is_over: bool,
}

impl<A: Fn() -> Asking + Send + Unpin + 'static> Halves<A> {
    fn body(ask: A, length: SizeHint) -> Body {
        Self { ask, length, second: None, is_over: false }.boxed_unsync()
    }
}

impl<A: Fn() -> Asking + Unpin> http_body::Body for Halves<A> {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let Some(second) = &mut self.second else {
            let second = (self.ask)();
            self.second = Some(second);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from("1")))));
        };
        let value = ready!(second.as_mut().poll(cx));
        self.is_over = true;
        Poll::Ready(Some(Ok(Frame::data(value.to_string().into()))))
    }

    fn size_hint(&self) -> SizeHint {
        self.length
    }
}

async fn expect_a_body_to_need_no_other_place(backend: &Backend, length: SizeHint) {
    let (cache, calls) = (with_one_place(backend).await, Calls::default());
    let origin = {
        let (cache, calls) = (cache.clone(), calls.clone());
        Origin::new(move |_, _| {
            let (cache, calls) = (cache.clone(), calls.clone());
            let body = Halves::body(move || one(cache.clone(), calls.clone()), length);
            async move { Ok(http::Response::new(body)) }
        })
    };
    let app = App::new(cache, &origin, |layer| layer.ttl(MINUTE)).unexplained();
    for _ in 0..2 {
        let page = tokio::time::timeout(LIMIT, app.get("/page", &[])).await;
        assert_eq!(page.expect("it waits for no place while it has the only one").text(), "11");
    }
    assert_eq!((origin.calls(), calls.count()), (1, 1));
}

async fn what_a_body_loads_while_it_is_read_is_part_of_the_load_that_has_the_place(backend: &Backend) {
    expect_a_body_to_need_no_other_place(backend, SizeHint::new()).await;
}

/// What is there of it is taken when its head comes.
async fn what_a_body_of_known_length_begins_to_load_is_part_of_the_load_that_has_the_place(backend: &Backend) {
    expect_a_body_to_need_no_other_place(backend, SizeHint::with_exact(2)).await;
}

/// The number of the call, fresh for a minute and then stale for ten more.
fn part(cache: &Cache, id: u32, calls: &Calls, gate: &Gate) -> GetOrLoad<usize, Infallible> {
    let (calls, gate) = (calls.clone(), gate.clone());
    let load = async move || {
        let call = calls.called();
        gate.pass().await;
        Ok(call)
    };
    cache.get_or_load(("part", id), load).ttl(MINUTE).stale_while_revalidate(10 * MINUTE)
}

fn open() -> Gate {
    let gate = Gate::closed();
    gate.open();
    gate
}

/// `ids` of parts that are all stale.
async fn stale_parts(cache: &Cache, clock: &Clock, ids: std::ops::Range<u32>) {
    for id in ids {
        assert_eq!(part(cache, id, &Calls::default(), &open()).await, Ok(1));
    }
    settled(cache).await;
    clock.advance(2 * MINUTE);
}

async fn a_refresh_within_a_load_has_a_place_of_its_own_or_none(backend: &Backend) {
    const ONE_BY_ONE: u32 = 8;
    let (clock, calls) = (Clock::manual(), Calls::default());
    let cache = backend.cache().await.clock(clock.clone()).max_loads(1).build();
    let together = |cache: &Cache, calls: &Calls| {
        let calls = calls.clone();
        let load = async move |missing: Vec<(&'static str, u32)>| {
            calls.called();
            Ok::<_, Infallible>(missing.into_iter().map(|key| (key, key.1)).collect::<Vec<_>>())
        };
        let keys = [1, 2].map(|id| ("together", id));
        cache.get_or_load_many(keys, load).ttl(MINUTE).stale_while_revalidate(10 * MINUTE)
    };
    together(&cache, &Calls::default()).await.unwrap();
    stale_parts(&cache, &clock, 0..ONE_BY_ONE).await;
    let whole = {
        let (cache, calls) = (cache.clone(), calls.clone());
        async move || {
            for id in 0..ONE_BY_ONE {
                assert_eq!(part(&cache, id, &calls, &open()).await, Ok(1));
            }
            assert_eq!(together(&cache, &calls).await, Ok(vec![Some(1), Some(2)]));
            let refreshes = u64::from(ONE_BY_ONE) + 1;
            let begun = || cache.counts().skipped_refreshes + calls.count() as u64;
            once(|| begun() >= refreshes).await;
            Ok::<_, Infallible>(calls.count())
        }
    };
    assert_eq!(cache.get_or_load("whole", whole).await, Ok(0), "the only place was taken");
    settled(&cache).await;
    assert_eq!(part(&cache, 0, &calls, &open()).await, Ok(1));
    wait_until("a later call refreshes", async || calls.count() == 1).await;
}

async fn what_a_load_leaves_behind_keeps_its_place(backend: &Backend) {
    let (clock, calls, gate) = (Clock::manual(), Calls::default(), Gate::closed());
    let cache = backend.cache().await.clock(clock.clone()).max_loads(1).build();
    let part = |cache: &Cache, gate: &Gate| {
        let (calls, gate) = (calls.clone(), gate.clone());
        let load = async move || {
            let call = calls.called();
            gate.pass().await;
            Ok::<_, &str>(call)
        };
        cache.get_or_load("part", load).ttl(MINUTE).stale_if_error(10 * MINUTE)
    };
    assert_eq!(part(&cache, &open()).await, Ok(1));
    settled(&cache).await;
    clock.advance(2 * MINUTE);
    let slow = part(&cache, &gate).soft_timeout(SOON);
    assert_eq!(cache.get_or_load("whole", async move || slow.await).await, Ok(1));
    wait_until("the part is all that loads", async || cache.loads_in_flight() == 1).await;
    let others = Calls::default();
    let other = |cache: &Cache| {
        let others = others.clone();
        cache.get_or_load("other", async move || Ok::<_, &str>(others.called()))
    };
    assert_eq!(other(&cache).hard_timeout(20 * SOON, "too late").await, Err("too late"));
    assert_eq!((others.count(), calls.count()), (0, 2), "the part is still loaded, in the only place");
    gate.open();
    settled(&cache).await;
    assert!(other(&cache).await.is_ok());
    assert_eq!(cache.get::<usize>("part").await, Some(2));
}

/// Before it needs a place, a load may wait for another process, for longer than the load that needs its value.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_not_lent_to_a_load_that_waits_for_another_process_once_its_lender_has_gone() {
    let backend = Backend::redis();
    let (here, elsewhere) = (with_one_place(&backend).await, with_one_place(&backend).await);
    let (begun, gate) = (Gate::closed(), Gate::closed());
    let slow = {
        let (begun, gate) = (begun.clone(), gate.clone());
        async move || {
            begun.open();
            gate.pass().await;
            Ok::<_, &str>(1)
        }
    };
    let slow = tokio::spawn(elsewhere.get_or_load("inner", slow).into_future());
    begun.pass().await;
    let inner = |cache: &Cache| cache.get_or_load("inner", async || Ok::<_, &str>(2));
    let waiting = tokio::spawn(inner(&here).into_future());
    wait_until("it to wait for the other process", async || here.loads_in_flight() == 1).await;
    let needs_it = inner(&here).hard_timeout(20 * SOON, "too late");
    let outer = here.get_or_load("outer", async move || Ok::<_, &str>(needs_it.await.is_ok()));
    assert_eq!(outer.await, Ok(false), "it gave up");
    let next = here.get_or_load("next", async || Ok::<_, &str>(3)).into_future();
    assert_eq!(tokio::time::timeout(LIMIT, next).await, Ok(Ok(3)), "the place is free");
    assert!(!waiting.is_finished());
    gate.open();
    assert_eq!((waiting.await.unwrap(), slow.await.unwrap()), (Ok(1), Ok(1)));
}

async fn a_place_of_one_cache_is_none_of_another(backend: &Backend) {
    let pages = backend.cache().await.max_loads(8).build();
    let values = backend.cache().await.max_loads(2).build();
    let busy = Busy::default();
    let value = |id: String| {
        let (values, busy) = (values.clone(), busy.clone());
        async move {
            let load = async move || {
                busy.work().await;
                Ok::<_, Infallible>(7)
            };
            values.get_or_load(("value", id), load).await
        }
    };
    let calls = (0..8).map(|id| {
        let value = value(format!("of {id}"));
        tokio::spawn(pages.get_or_load(("page", id), async move || value.await).into_future())
    });
    for page in join_all(calls.collect::<Vec<_>>()).await {
        assert_eq!(page.unwrap(), Ok(7));
    }
    let origin = {
        let (values, busy) = (values.clone(), busy.clone());
        Origin::new(move |_, request: http::Request<_>| {
            let (values, busy) = (values.clone(), busy.clone());
            async move {
                let load = async move || {
                    busy.work().await;
                    Ok::<_, Infallible>(7)
                };
                let Ok(value) = values.get_or_load(("value", request.uri().path()), load).await;
                Ok(http::Response::new(full(value.to_string())))
            }
        })
    };
    let app = App::new(pages, &origin, |layer| layer.ttl(MINUTE));
    let requests = (0..8).map(|id| {
        let app = app.clone();
        tokio::spawn(async move { app.get(&format!("/{id}"), &[]).await.status })
    });
    for status in join_all(requests.collect::<Vec<_>>()).await {
        assert_eq!(status.unwrap(), 200);
    }
    assert!(busy.most() <= 2, "{} loads of values at one time, where two may run", busy.most());
}

async fn loads_of_two_caches_that_load_from_each_other_wait_for_no_place_that_they_have(backend: &Backend) {
    let (pages, values) = (with_one_place(backend).await, with_one_place(backend).await);
    let (inner, innermost) = (values.clone(), pages.clone());
    let load = async move || {
        let part = async move || innermost.get_or_load("part", async || Ok::<_, Infallible>(7)).await;
        inner.get_or_load("value", part).await
    };
    let page = tokio::time::timeout(LIMIT, pages.get_or_load("page", load).into_future()).await;
    assert_eq!(page, Ok(Ok(7)));
}

async fn of_what_is_made_from_something_stale_no_more_run_than_there_are_places(backend: &Backend) {
    const REQUESTS: u64 = 20;
    let (clock, busy, gate) = (Clock::manual(), Busy::default(), Gate::closed());
    let cache = backend.cache().await.clock(clock.clone()).max_loads(3).lock_timeout(LIMIT).build();
    stale_parts(&cache, &clock, 0..1).await;
    let origin = {
        let (cache, busy, gate) = (cache.clone(), busy.clone(), gate.clone());
        Origin::new(move |call, _| {
            let (cache, busy, gate) = (cache.clone(), busy.clone(), gate.clone());
            async move {
                // The refresh takes one of the places for a long time.
                let Ok(part) = part(&cache, 0, &Calls::default(), &gate).await;
                if call == 1 {
                    once(|| cache.counts().coalesced == REQUESTS - 1).await;
                }
                busy.work().await;
                let mut response = http::Response::new(full(part.to_string()));
                // Freshness that a handler sets in this way is for one response: other requests can't have it.
                response.extensions_mut().insert(Freshness::of(MINUTE));
                Ok(response)
            }
        })
    };
    let app = App::new(cache, &origin, |layer| layer.inherit(true)).unexplained();
    let requests = (0..REQUESTS).map(|_| {
        let app = app.clone();
        let request = tests::request(http::Method::GET, "/page", &[]);
        tokio::spawn(async move { tests::ask(&app.service(), request).await.unwrap().text().to_owned() })
    });
    for text in join_all(requests.collect::<Vec<_>>()).await {
        assert_eq!(text.unwrap(), "1");
    }
    gate.open();
    app.settled().await;
    assert!(busy.most() <= 3, "{} at one time, where three may run", busy.most());
}

/// A load that has the only place until the gate is open.
async fn in_the_way(cache: &Cache, gate: &Gate) -> tokio::task::JoinHandle<Result<usize, &'static str>> {
    let (begun, gate) = (Gate::closed(), gate.clone());
    let load = {
        let begun = begun.clone();
        async move || {
            begun.open();
            gate.pass().await;
            Ok::<_, &str>(0)
        }
    };
    let load = tokio::spawn(cache.get_or_load("in the way", load).into_future());
    begun.pass().await;
    load
}

async fn calls_that_wait_for_a_slow_load_do_not_repeat_it(backend: &Backend) {
    const CALLS: usize = 8;
    let cache = backend.cache().await.max_loads(1).lock_timeout(PATIENCE).build();
    let (calls, gate) = (Calls::default(), Gate::closed());
    let ask = || {
        let (calls, gate) = (calls.clone(), gate.clone());
        let load = async move || {
            let call = calls.called();
            gate.pass().await;
            Ok::<_, &str>(call)
        };
        tokio::spawn(cache.get_or_load("slow", load).into_future())
    };
    let first = ask();
    wait_until("it loads", async || calls.count() == 1).await;
    let others: Vec<_> = (1..CALLS).map(|_| ask()).collect();
    wait_until("the others wait", async || cache.counts().coalesced == CALLS as u64 - 1).await;
    // Longer than they wait for another call's load.
    tokio::time::sleep(PATIENCE + 100 * SOON).await;
    gate.open();
    assert_eq!(first.await.unwrap(), Ok(1));
    for other in others {
        assert_eq!(other.await.unwrap(), Ok(1));
    }
    assert_eq!(calls.count(), 1);
}

async fn a_call_that_has_waited_for_a_place_looks_the_value_up_once_more(backend: &Backend) {
    let (cache, calls, gate) = (with_one_place(backend).await, Calls::default(), Gate::closed());
    let load = {
        let (calls, gate) = (calls.clone(), gate.clone());
        async move |missing: Vec<&'static str>| {
            let call = calls.called();
            gate.pass().await;
            Ok::<_, &str>(missing.into_iter().map(|key| (key, call)).collect::<Vec<_>>())
        }
    };
    let many = || cache.get_or_load_many(["a", "b"], load.clone());
    let one = || {
        let (calls, gate) = (calls.clone(), gate.clone());
        let load = async move || {
            let call = calls.called();
            gate.pass().await;
            Ok::<_, &str>(Some(call))
        };
        cache.get_or_load("a", load)
    };
    let first = tokio::spawn(many().into_future());
    wait_until("it loads", async || calls.count() == 1).await;
    // They do not wait for another call's load, but they wait for its place.
    let waiting =
        (tokio::spawn(one().lock(Lock::Off).into_future()), tokio::spawn(many().lock(Lock::Off).into_future()));
    tokio::time::sleep(20 * SOON).await;
    gate.open();
    assert_eq!(first.await.unwrap(), Ok(vec![Some(1), Some(1)]));
    assert_eq!(waiting.0.await.unwrap(), Ok(Some(1)));
    assert_eq!(waiting.1.await.unwrap(), Ok(vec![Some(1), Some(1)]));
    assert_eq!(calls.count(), 1);
    // A refresh is not content with that.
    let gate = Gate::closed();
    let way = in_the_way(&cache, &gate).await;
    let led = tokio::spawn(one().refresh().into_future());
    wait_until("it waits for a place", async || cache.loads_in_flight() == 2).await;
    let alone = tokio::spawn(one().lock(Lock::Off).refresh().into_future());
    tokio::time::sleep(20 * SOON).await;
    gate.open();
    let (led, alone) = (led.await.unwrap().unwrap(), alone.await.unwrap().unwrap());
    assert!([led, alone] == [Some(2), Some(3)] || [led, alone] == [Some(3), Some(2)], "{led:?} and {alone:?}");
    assert_eq!(way.await.unwrap(), Ok(0));
}

/// Another process loads for longer than a call waits for that, and ends while the call waits for a place.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_has_waited_for_another_process_and_then_for_a_place_looks_the_value_up_once_more() {
    let backend = Backend::redis();
    let cache = async || backend.cache().await.max_loads(1).lock_timeout(PATIENCE).build();
    let (here, elsewhere, calls) = (cache().await, cache().await, Calls::default());
    let (blocked, gate) = (Gate::closed(), Gate::closed());
    let way = in_the_way(&here, &blocked).await;
    let ask = |cache: &Cache, key: &'static str| {
        let (calls, gate) = (calls.clone(), gate.clone());
        let load = async move |missing: Vec<&'static str>| {
            let call = calls.called();
            gate.pass().await;
            Ok::<_, &str>(missing.into_iter().map(|key| (key, call)).collect::<Vec<_>>())
        };
        let one = load.clone();
        let one =
            cache.get_or_load(key, async move || Ok::<_, &str>(one(vec![key]).await?.pop().map(|(_, call)| call)));
        (one, cache.get_or_load_many([key, "another"], load))
    };
    let slow = tokio::spawn(ask(&elsewhere, "k").1.into_future());
    wait_until("the other process loads", async || calls.count() == 1).await;
    let one = tokio::spawn(ask(&here, "k").0.into_future());
    let in_vain = || here.counts().releases.contains(&(Release::WaitTimeout, 1));
    wait_until("it waits in vain", async || in_vain()).await;
    gate.open();
    assert_eq!(slow.await.unwrap(), Ok(vec![Some(1), Some(1)]));
    settled(&elsewhere).await;
    blocked.open();
    assert_eq!((one.await.unwrap(), way.await.unwrap()), (Ok(Some(1)), Ok(0)));
    assert_eq!(calls.count(), 1);
}

async fn loads_whose_callers_leave_while_they_wait_for_a_place_go_on(backend: &Backend) {
    let cache = backend.cache().await.max_loads(1).lock_timeout(LIMIT).build();
    let (gate, calls) = (Gate::closed(), Calls::default());
    let load = {
        let (calls, gate) = (calls.clone(), gate.clone());
        async move || {
            gate.pass().await;
            Ok::<_, &str>(calls.called())
        }
    };
    let many = {
        let (calls, gate) = (calls.clone(), gate.clone());
        async move |missing: Vec<&'static str>| {
            gate.pass().await;
            let call = calls.called();
            Ok::<_, &str>(missing.into_iter().map(|key| (key, call)).collect::<Vec<_>>())
        }
    };
    // One of them has the place, and none of them has a caller any more. A call that ends before its look-up does loads nothing.
    let left = tokio::join!(
        cache.get_or_load("a", load.clone()).hard_timeout(200 * SOON, "too late").into_future(),
        cache.get_or_load("b", load).hard_timeout(200 * SOON, "too late").into_future(),
        cache.get_or_load_many(["c", "d"], many).hard_timeout(200 * SOON, "too late").into_future(),
    );
    assert_eq!(left, (Err("too late"), Err("too late"), Err("too late")));
    // Several looks at whether it is still wanted.
    tokio::time::sleep(350 * SOON).await;
    gate.open();
    wait_until("all are loaded", async || calls.count() == 3).await;
    settled(&cache).await;
    for key in ["a", "b"] {
        assert!(cache.get::<usize>(key).await.is_some(), "{key}");
    }
    for key in ["c", "d"] {
        assert!(cache.get::<Option<usize>>(key).await.flatten().is_some(), "{key}");
    }
}

async fn a_load_whose_client_leaves_while_it_waits_for_a_place_goes_on(backend: &Backend) {
    let cache = backend.cache().await.max_loads(1).lock_timeout(LIMIT).build();
    let (gate, origin) = (Gate::closed(), Origin::echo(&[("cache-control", "max-age=60")]));
    let app = App::new(cache.clone(), &origin, |layer| layer).unexplained();
    let way = in_the_way(&cache, &gate).await;
    let client = {
        let app = app.clone();
        tokio::spawn(async move { app.begin(tests::request(http::Method::GET, "/page", &[])).await.map(drop) })
    };
    wait_until("it waits for a place", async || cache.loads_in_flight() == 2).await;
    client.abort();
    tokio::time::sleep(250 * SOON).await;
    gate.open();
    assert_eq!(way.await.unwrap(), Ok(0));
    app.settled().await;
    assert_eq!((app.get("/page", &[]).await.x_cache(), origin.calls()), ("HIT", 1));
}

async fn the_time_that_a_load_takes_is_without_its_wait_for_a_place(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).max_loads(1).lock_timeout(LIMIT).build();
    let gate = Gate::closed();
    let way = in_the_way(&cache, &gate).await;
    let one = tokio::spawn(cache.get_or_load("one", async || Ok::<_, &str>(1)).ttl(10 * MINUTE).into_future());
    let load = async |missing: Vec<&'static str>| {
        Ok::<_, &str>(missing.into_iter().map(|key| (key, 2_u32)).collect::<Vec<_>>())
    };
    let many = tokio::spawn(cache.get_or_load_many(["many"], load).ttl(10 * MINUTE).into_future());
    wait_until("they wait for a place", async || cache.loads_in_flight() == 3).await;
    tokio::time::sleep(20 * SOON).await;
    clock.advance(MINUTE);
    gate.open();
    assert_eq!((one.await.unwrap(), many.await.unwrap()), (Ok(1), Ok(vec![Some(2)])));
    assert_eq!(way.await.unwrap(), Ok(0));
    settled(&cache).await;
    for key in ["in the way", "one", "many"] {
        let Ok(Inspected::Entry(_, entry)) = cache.inspect(&key.into()).await else { panic!("{key} is not there") };
        let expected = if key == "in the way" { MINUTE } else { Duration::ZERO };
        assert_eq!(entry.load_time, expected, "{key}");
    }
}

/// A wait for a place does not make a load a slow one.
#[tokio::test(flavor = "multi_thread")]
async fn a_quick_load_that_has_waited_for_a_place_is_stored_at_second_sight() {
    const QUICK: Duration = Duration::from_secs(2);
    let backend = Backend::redis();
    let cache = backend.cache().await.max_loads(1).lock_timeout(LIMIT).second_sight(QUICK).build();
    let gate = Gate::closed();
    let way = in_the_way(&cache, &gate).await;
    let quick = tokio::spawn(cache.get_or_load("quick", async || Ok::<_, &str>(1)).into_future());
    tokio::time::sleep(QUICK + 50 * SOON).await;
    gate.open();
    assert_eq!((quick.await.unwrap(), way.await.unwrap()), (Ok(1), Ok(0)));
    settled(&cache).await;
    assert!(!cache.contains("quick").await && cache.contains("in the way").await);
}
