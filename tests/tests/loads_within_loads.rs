//! Loads that are part of other loads: they share the place of the outermost one, whichever front end they belong to, and do not
//! wait for the value that they are part of.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::ready,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cache_layer::{Cache, CacheLayer, CacheService, Clock, PrivateCacheLayer, cached};
use http::{Method, StatusCode};
use tests::{Backend, Gate, Origin, echo, full, over_each_store, request, wait_until};
use tower::Layer as _;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(30);
const URI: &str = "http://api.example/page";
const MAX_AGE: &[(&str, &str)] = &[("cache-control", "max-age=60")];

over_each_store!(
    two_layers_over_one_cache_share_the_place_of_a_request,
    a_request_within_the_load_of_a_value_shares_its_place,
    a_value_within_a_request_within_the_load_of_a_value_shares_its_place,
    a_load_keeps_its_place_through_a_cache_without_a_limit,
    a_request_lends_its_place_to_the_load_that_it_waits_for,
    a_function_of_one_that_asks_the_function_of_many_does_not_wait_for_itself,
    a_function_of_many_that_asks_the_function_of_one_does_not_wait_for_itself,
    a_load_within_a_load_of_its_own_key_has_nothing_of_the_cache,
    a_load_of_its_own_key_is_known_beyond_a_request,
    a_call_that_another_task_awaits_is_no_part_of_the_load_that_made_it,
);

async fn settled(cache: &Cache) {
    assert!(cache.drain(LIMIT).await, "loads were still under way after {LIMIT:?}");
}

/// A cache with one place, in which a request gets 503 if it waits for a second one.
async fn with_one_place(backend: &Backend) -> Cache {
    backend.cache().await.max_loads(1).lock_timeout(SECOND).build()
}

/// In time, or the test fails.
async fn in_time<F: IntoFuture>(work: F) -> F::Output {
    tokio::time::timeout(LIMIT, work.into_future()).await.expect("it waits for nothing that waits for it")
}

/// The status and text of the answer.
async fn get(service: &CacheService<impl Inner>, method: Method, uri: &str) -> (StatusCode, String) {
    let answer = in_time(tests::ask(service, request(method, uri, &[]))).await.unwrap();
    (answer.status, answer.text().to_owned())
}

/// A service behind a layer.
trait Inner:
    tower::Service<
        http::Request<tests::Body>,
        Response = http::Response<Self::Content>,
        Error: std::fmt::Debug + Send + 'static,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
    type Content: http_body::Body<Data = bytes::Bytes, Error: std::fmt::Debug + Send + 'static> + Send + 'static;
}

impl<S, C> Inner for S
where
    S: tower::Service<http::Request<tests::Body>, Response = http::Response<C>> + Clone + Send + 'static,
    S::Error: std::fmt::Debug + Send + 'static,
    S::Future: Send + 'static,
    C: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    C::Error: std::fmt::Debug + Send + 'static,
{
    type Content = C;
}

async fn two_layers_over_one_cache_share_the_place_of_a_request(backend: &Backend) {
    let (cache, origin) = (with_one_place(backend).await, Origin::echo(MAX_AGE));
    let plain = CacheLayer::new(cache.clone());
    for (uri, layer) in [("/plain", plain.clone()), ("/own", plain.max_loads(1))] {
        let service = layer.clone().layer(layer.namespace("inner").layer(origin.clone()));
        for method in [Method::HEAD, Method::GET] {
            assert_eq!(get(&service, method.clone(), uri).await.0, StatusCode::OK, "{method} {uri}");
        }
    }
    settled(&cache).await;
    assert_eq!(cache.counts().overloaded, 0);
    assert_eq!(cache.get_or_load("next", async || Ok::<_, Infallible>(1)).await, Ok(1), "the place is free again");
}

async fn a_request_within_the_load_of_a_value_shares_its_place(backend: &Backend) {
    let (cache, origin) = (with_one_place(backend).await, Origin::echo(MAX_AGE));
    let service = PrivateCacheLayer::of("owner", cache.clone()).unwrap().layer(origin);
    for method in [Method::HEAD, Method::GET] {
        let (asked, service) = (method.clone(), service.clone());
        let load = async move || Ok::<_, Infallible>(get(&service, asked, URI).await.0.as_u16());
        assert_eq!(in_time(cache.get_or_load(("status", method.as_str()), load)).await, Ok(200), "{method}");
    }
    settled(&cache).await;
    assert_eq!(cache.counts().overloaded, 0);
}

async fn a_value_within_a_request_within_the_load_of_a_value_shares_its_place(backend: &Backend) {
    let cache = backend.cache().await.max_loads(1).lock_timeout(10 * MINUTE).build();
    let inner = cache.clone();
    let origin = Origin::new(move |_, _| {
        let value = inner.get_or_load("inner", async || Ok::<_, Infallible>(7));
        async move { Ok(http::Response::new(full(value.await.unwrap().to_string()))) }
    });
    let service = CacheLayer::new(cache.clone()).ttl(MINUTE).layer(origin);
    let load = async move || Ok::<_, Infallible>(get(&service, Method::GET, "/").await.1);
    assert_eq!(in_time(cache.get_or_load("outer", load)).await.as_deref(), Ok("7"));
}

async fn a_load_keeps_its_place_through_a_cache_without_a_limit(backend: &Backend) {
    let cache = backend.cache().await.max_loads(1).lock_timeout(10 * MINUTE).build();
    let (between, innermost) = (backend.cache().await.lock_timeout(10 * MINUTE).build(), cache.clone());
    let handler = {
        let cache = cache.clone();
        Origin::new(move |_, _| {
            let value = cache.get_or_load("of the handler", async || Ok::<_, Infallible>(8));
            async move { Ok(http::Response::new(full(value.await.unwrap().to_string()))) }
        })
    };
    let service = CacheLayer::new(between.clone()).ttl(MINUTE).layer(handler);
    let load = async move || {
        let part = async move || innermost.get_or_load("innermost", async || Ok::<_, Infallible>(7)).await;
        let part = between.get_or_load("between", part).await?;
        let page = get(&service, Method::GET, "/").await.1;
        Ok::<_, Infallible>(format!("{part} {page}"))
    };
    assert_eq!(in_time(cache.get_or_load("outer", load)).await.as_deref(), Ok("7 8"));
}

/// The load of a page waits for the only place, and the code that has the place then asks for that page.
async fn a_request_lends_its_place_to_the_load_that_it_waits_for(backend: &Backend) {
    let cache = backend.cache().await.max_loads(1).lock_timeout(LIMIT).build();
    let (origin, has_place) = (Origin::echo(MAX_AGE), Gate::closed());
    let service = CacheLayer::new(cache.clone()).layer(origin.clone());
    let outer = {
        let (cache, service, has_place) = (cache.clone(), service.clone(), has_place.clone());
        async move || {
            has_place.open();
            while cache.loads_in_flight() < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok::<_, Infallible>(get(&service, Method::GET, "/page").await.0.as_u16())
        }
    };
    let outer = tokio::spawn(cache.get_or_load("outer", outer).into_future());
    has_place.pass().await;
    let other = tokio::spawn(async move { get(&service, Method::GET, "/page").await.0 });
    assert_eq!(in_time(outer).await.unwrap(), Ok(200));
    assert_eq!((other.await.unwrap(), origin.calls()), (StatusCode::OK, 1), "one load is for both");
}

/// A table of products, asked one by one or together.
#[derive(Clone)]
struct Catalogue {
    cache: Cache,
    queries: Arc<AtomicUsize>,
}

impl Catalogue {
    async fn over(backend: &Backend) -> (Self, Clock) {
        let clock = Clock::manual();
        let cache = backend.cache().await.clock(clock.clone()).lock_timeout(10 * MINUTE).build();
        (Self { cache, queries: Arc::default() }, clock)
    }

    fn queried(&self) -> usize {
        self.queries.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }

    #[cached(name = "product", cache = "self.cache", ttl = "60s", stale_while_revalidate = "10m", many(id in ids))]
    async fn products(&self, ids: &[u64]) -> HashMap<u64, usize> {
        let query = self.queried();
        ids.iter().map(|id| (*id, query)).collect()
    }

    #[cached(name = "product", cache = "self.cache", ttl = "60s", stale_while_revalidate = "10m")]
    async fn product(&self, id: u64) -> Option<usize> {
        self.products(&[id]).await.remove(&id)
    }

    /// Many, of which each is asked for alone.
    #[cached(name = "item", cache = "self.cache", ttl = "60s", stale_while_revalidate = "10m", many(id in ids))]
    async fn items(&self, ids: &[u64]) -> HashMap<u64, usize> {
        let mut items = HashMap::new();
        for id in ids {
            items.extend(self.item(*id).await.map(|query| (*id, query)));
        }
        items
    }

    #[cached(name = "item", cache = "self.cache", ttl = "60s", stale_while_revalidate = "10m")]
    async fn item(&self, id: u64) -> Option<usize> {
        let _ = id;
        Some(self.queried())
    }
}

async fn a_function_of_one_that_asks_the_function_of_many_does_not_wait_for_itself(backend: &Backend) {
    let (catalogue, clock) = Catalogue::over(backend).await;
    assert_eq!(in_time(catalogue.product(5)).await, Some(1));
    settled(&catalogue.cache).await;
    assert_eq!(in_time(catalogue.product(5)).await, Some(1), "it is stored");
    assert_eq!(in_time(catalogue.products(&[5])).await, HashMap::from([(5, 1)]), "for both");
    // The refresh must not find what it is to replace: neither fresh, nor stale.
    assert_eq!(in_time(catalogue.product_refresh(5)).await, Some(2));
    settled(&catalogue.cache).await;
    clock.advance(2 * MINUTE);
    assert_eq!(in_time(catalogue.product(5)).await, Some(2));
    wait_until("it is refreshed", async || catalogue.queries() == 3).await;
    settled(&catalogue.cache).await;
    assert_eq!((in_time(catalogue.product(5)).await, catalogue.queries()), (Some(3), 3));
}

async fn a_function_of_many_that_asks_the_function_of_one_does_not_wait_for_itself(backend: &Backend) {
    let (catalogue, clock) = Catalogue::over(backend).await;
    let items = in_time(catalogue.items(&[1, 2])).await;
    assert_eq!(items, HashMap::from([(1, 1), (2, 2)]));
    settled(&catalogue.cache).await;
    assert_eq!(in_time(catalogue.items(&[1, 2])).await, items, "they are stored");
    assert_eq!(in_time(catalogue.items_refresh(&[1, 2])).await, HashMap::from([(1, 3), (2, 4)]));
    settled(&catalogue.cache).await;
    clock.advance(2 * MINUTE);
    assert_eq!(in_time(catalogue.items(&[1, 2])).await, HashMap::from([(1, 3), (2, 4)]));
    wait_until("they are refreshed", async || catalogue.queries() == 6).await;
    settled(&catalogue.cache).await;
    assert_eq!((in_time(catalogue.items(&[1])).await, catalogue.queries()), (HashMap::from([(1, 5)]), 6));
}

type Asking = Pin<Box<dyn Future<Output = usize> + Send>>;

/// The number of loads of this key, one within the other.
fn depth(cache: Cache, left: usize) -> Asking {
    Box::pin(async move {
        let inner = cache.clone();
        let load = async move || {
            let deeper = if left > 0 { depth(inner, left - 1).await } else { 0 };
            Ok::<_, Infallible>(deeper + 1)
        };
        cache.get_or_load("depth", load).tags([format!("tag {left}")]).await.unwrap()
    })
}

async fn a_load_within_a_load_of_its_own_key_has_nothing_of_the_cache(backend: &Backend) {
    let (catalogue, _) = Catalogue::over(backend).await;
    let cache = catalogue.cache;
    assert_eq!(in_time(depth(cache.clone(), 3)).await, 4);
    settled(&cache).await;
    assert_eq!(cache.get::<usize>("depth").await, Some(4), "only the outermost result is stored");
    assert_eq!(cache.counts().stored, 1);
    cache.invalidate_tag("tag 0").await.unwrap();
    assert!(!cache.contains("depth").await, "with the tags of all of them");
    // What is not part of the load is answered as usual.
    cache.set("other", &7).await.unwrap();
    let inner = cache.clone();
    let other = async move || inner.get_or_load("other", async || Ok::<_, Infallible>(8)).await;
    assert_eq!(in_time(cache.get_or_load("outer", other)).await, Ok(7));
}

async fn a_load_of_its_own_key_is_known_beyond_a_request(backend: &Backend) {
    let (catalogue, _) = Catalogue::over(backend).await;
    let cache = catalogue.cache;
    let inner = cache.clone();
    let origin = Origin::new(move |call, request| {
        let value = inner.get_or_load("value", async || Ok::<_, Infallible>("inner".to_owned()));
        async move {
            let value = value.await.unwrap();
            let _ = ready(echo(call, &request, MAX_AGE)).await;
            Ok(http::Response::new(full(value)))
        }
    });
    let service = CacheLayer::new(cache.clone()).ttl(MINUTE).layer(origin);
    let load = async move || Ok::<_, Infallible>(get(&service, Method::GET, "/").await.1);
    assert_eq!(in_time(cache.get_or_load("value", load)).await.as_deref(), Ok("inner"));
}

/// It waits for that load, as any call does.
async fn a_call_that_another_task_awaits_is_no_part_of_the_load_that_made_it(backend: &Backend) {
    let (catalogue, _) = Catalogue::over(backend).await;
    let cache = catalogue.cache;
    let (inner, (send, call)) = (cache.clone(), tokio::sync::oneshot::channel());
    let send = Arc::new(std::sync::Mutex::new(Some(send)));
    let load = async move || {
        let later = inner.get_or_load("k", async || Ok::<_, Infallible>(2)).into_future();
        if let Some(send) = send.lock().unwrap().take() {
            let _ = send.send(tokio::spawn(later));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok::<_, Infallible>(1)
    };
    assert_eq!(in_time(cache.get_or_load("k", load)).await, Ok(1));
    assert_eq!(in_time(call.await.unwrap()).await.unwrap(), Ok(1));
}
