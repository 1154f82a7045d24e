//! Explains each request just before it is answered, and compares the explanation with the answer's `Cache-Status`: for
//! `tests/conformance/run --explain`.
//!
//! Both are made at one instant: the cache's clock stands still until the request is decided, and again from the origin's
//! response on until the answer is. An answer is not compared if something else may have come in between: another request for
//! the same path, or the end of its load.

use std::{
    collections::{HashMap, hash_map::Entry},
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use cache_layer::{Clock, Explanation, Verdict};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
};
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt as _, service_fn};

/// How long a request waits for a load of its response before it is explained, and for how long the clock stands still for it.
const PATIENCE: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(1);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Explaining = Pin<Box<dyn Future<Output = Explanation> + Send>>;

/// A clock that follows the system's, and stands still while someone holds it. Clones are one clock.
#[derive(Clone)]
pub(crate) struct StandingClock(Arc<Standing>);

struct Standing {
    clock: Clock,
    holders: Mutex<usize>,
}

/// As long as this exists, the clock stands still.
struct Held(StandingClock);

impl StandingClock {
    /// A clock that goes as long as this runtime does.
    pub(crate) fn start() -> Self {
        let clock = Self(Arc::new(Standing { clock: Clock::manual(), holders: Mutex::default() }));
        let goes = clock.clone();
        tokio::spawn(async move {
            loop {
                sleep(TICK).await;
                let holders = lock(&goes.0.holders);
                goes.catch_up(*holders);
            }
        });
        clock
    }

    pub(crate) fn clock(&self) -> Clock {
        self.0.clock.clone()
    }

    fn catch_up(&self, holders: usize) {
        if holders == 0 {
            let behind = Clock::system().now().saturating_sub(self.0.clock.now());
            self.0.clock.advance(Duration::from_millis(behind));
        }
    }

    fn hold(&self) -> Held {
        let mut holders = lock(&self.0.holders);
        self.catch_up(*holders);
        *holders += 1;
        Held(self.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *lock(&self.0.0.holders) -= 1;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happens to one request, in an extension of it.
#[derive(Clone)]
struct Note {
    clock: StandingClock,
    so_far: Arc<Mutex<SoFar>>,
}

/// What the origin answered.
#[derive(Default)]
enum Answer {
    #[default]
    None,
    Failed,
    /// The head of a response.
    Response(Response<Hinted>),
}

#[derive(Default)]
struct SoFar {
    held: Option<Held>,
    /// How often the origin was asked.
    calls: usize,
    answer: Answer,
    /// The request was not decided in time.
    is_late: bool,
    is_over: bool,
}

impl Note {
    /// The origin is asked: the request is decided.
    fn asked(&self) {
        let mut so_far = lock(&self.so_far);
        so_far.calls += 1;
        so_far.held = None;
    }

    /// The origin has answered. A background refresh may do so long after the request was answered.
    fn answered(&self, answer: Option<Response<Hinted>>) {
        let mut so_far = lock(&self.so_far);
        if !so_far.is_over {
            so_far.held = Some(self.clock.hold());
            so_far.answer = answer.map_or(Answer::Failed, Answer::Response);
        }
    }

    /// The clock goes on, for requests that wait for something.
    fn gives_up(&self) {
        let mut so_far = lock(&self.so_far);
        so_far.is_late = so_far.held.take().is_some();
    }

    fn ends(&self) -> SoFar {
        std::mem::replace(&mut lock(&self.so_far), SoFar { is_over: true, ..SoFar::default() })
    }
}

/// A body of which nothing but its length is known.
struct Hinted(SizeHint);

impl Body for Hinted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn size_hint(&self) -> SizeHint {
        self.0
    }
}

/// The origin, with its answers noted: to be put directly behind the cache.
pub(crate) fn noted<B, S, R>(
    origin: S,
) -> impl Service<Request<B>, Response = Response<R>, Error = S::Error, Future: Send> + Clone + Send + 'static
where
    B: Send + 'static,
    S: Service<Request<B>, Response = Response<R>, Future: Send> + Clone + Send + 'static,
    R: Body + Send + 'static,
    S::Error: Send,
{
    service_fn(move |request: Request<B>| {
        let origin = origin.clone();
        async move {
            let note = request.extensions().get::<Note>().cloned();
            note.iter().for_each(Note::asked);
            let result = origin.oneshot(request).await;
            if let Some(note) = note {
                note.answered(result.as_ref().ok().map(head));
            }
            result
        }
    })
}

fn head<R: Body>(response: &Response<R>) -> Response<Hinted> {
    let mut head = Response::new(Hinted(response.body().size_hint()));
    *head.status_mut() = response.status();
    *head.headers_mut() = response.headers().clone();
    *head.extensions_mut() = response.extensions().clone();
    head
}

/// Compares explanations and answers. Clones share the counts.
#[derive(Clone)]
pub(crate) struct Explained(Arc<Shared>);

struct Shared {
    clock: StandingClock,
    explain: Box<dyn Fn(Request<Full<Bytes>>) -> Explaining + Send + Sync>,
    /// The requests under way by their paths, and how many have begun since there was none.
    paths: Mutex<HashMap<String, UnderWay>>,
    compared: AtomicUsize,
    differing: AtomicUsize,
    left_alone: AtomicUsize,
}

#[derive(Clone, Copy, Default)]
struct UnderWay {
    now: usize,
    begun: usize,
}

/// A request under way, until it is dropped.
struct Entered<'a> {
    shared: &'a Shared,
    path: String,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut found) = lock(&self.shared.paths).entry(self.path.clone()) {
            found.get_mut().now -= 1;
            if found.get().now == 0 {
                found.remove();
            }
        }
    }
}

impl Entered<'_> {
    /// Whether there was no other request for the path since this one began.
    fn is_alone(&self) -> bool {
        lock(&self.shared.paths).get(&self.path).is_some_and(|path| path.begun == 1)
    }
}

impl Explained {
    /// `explain` is the layer's. It gets the request with its whole content.
    pub(crate) fn new(
        clock: StandingClock,
        explain: impl Fn(Request<Full<Bytes>>) -> Explaining + Send + Sync + 'static,
    ) -> Self {
        let [compared, differing, left_alone] = [const { AtomicUsize::new(0) }; 3];
        let (explain, paths) = (Box::new(explain), Mutex::default());
        Self(Arc::new(Shared { clock, explain, paths, compared, differing, left_alone }))
    }

    /// The cache, with its answers compared. Requests reach it once their content is complete; their trailers are dropped.
    pub(crate) fn before<S, R>(
        &self,
        cache: S,
    ) -> impl Service<Request<Incoming>, Response = Response<R>, Error = BoxError, Future: Send> + Clone + Send + 'static
    where
        S: Service<Request<Full<Bytes>>, Response = Response<R>, Error: Into<BoxError> + Send, Future: Send>,
        S: Clone + Send + 'static,
        R: Send + 'static,
    {
        let explained = self.0.clone();
        service_fn(move |request: Request<Incoming>| {
            let (explained, cache) = (explained.clone(), cache.clone());
            async move {
                let (parts, body) = request.into_parts();
                let content = Full::new(body.collect().await?.to_bytes());
                explained.answer(cache, Request::from_parts(parts, content)).await
            }
        })
    }

    /// What came of it, in one line.
    pub(crate) fn report(&self) -> String {
        let Shared { compared, differing, left_alone, .. } = &*self.0;
        let [compared, differing, left_alone] =
            [compared, differing, left_alone].map(|count| count.load(Ordering::Relaxed));
        format!("explain: {compared} answers compared, {differing} differ, {left_alone} left alone")
    }
}

impl Shared {
    fn enters(&self, path: &str) -> Entered<'_> {
        let mut paths = lock(&self.paths);
        let under_way = paths.entry(path.to_owned()).or_default();
        *under_way = UnderWay { now: under_way.now + 1, begun: under_way.begun + 1 };
        Entered { shared: self, path: path.to_owned() }
    }

    async fn answer<S, R>(&self, cache: S, mut request: Request<Full<Bytes>>) -> Result<Response<R>, BoxError>
    where
        S: Service<Request<Full<Bytes>>, Response = Response<R>, Error: Into<BoxError>>,
    {
        let what = format!("{} {}", request.method(), request.uri());
        let entered = self.enters(request.uri().path());
        let (explanation, held) = self.explained(&request).await;
        let so_far = Arc::new(Mutex::new(SoFar { held: Some(held), ..SoFar::default() }));
        let note = Note { clock: self.clock.clone(), so_far };
        request.extensions_mut().insert(note.clone());
        let mut answer = std::pin::pin!(cache.oneshot(request));
        let result = tokio::select! {
            biased;
            result = &mut answer => result,
            () = sleep(PATIENCE) => {
                note.gives_up();
                answer.await
            }
        };
        let so_far = note.ends();
        if let Ok(response) = &result {
            match decided(explanation, &so_far).filter(|_| entered.is_alone()) {
                Some(explanation) => self.compare(&what, &explanation, response),
                None => drop(self.left_alone.fetch_add(1, Ordering::Relaxed)),
            }
        }
        result.map_err(Into::into)
    }

    /// The explanation, and the clock, which stands still since. A load of the same response has a while to end before it.
    async fn explained(&self, request: &Request<Full<Bytes>>) -> (Explanation, Held) {
        let end = Instant::now() + PATIENCE;
        loop {
            let held = self.clock.hold();
            let explanation = (self.explain)(request.clone()).await;
            if !is_loading(&explanation) || Instant::now() >= end {
                return (explanation, held);
            }
            drop(held);
            sleep(TICK).await;
        }
    }

    fn compare<R>(&self, what: &str, explanation: &Explanation, response: &Response<R>) {
        // Without the field, the answer does not say what the cache did.
        let Some(field) = &explanation.cache_status_field else { return };
        let came = response.headers().get_all(field).iter().next_back();
        let came = came.map(|line| String::from_utf8_lossy(line.as_bytes())).unwrap_or_default();
        self.compared.fetch_add(1, Ordering::Relaxed);
        if came != explanation.cache_status {
            self.differing.fetch_add(1, Ordering::Relaxed);
            eprintln!("explain: {what} was explained as {:?}, and answered with {came:?}", explanation.cache_status);
        }
    }
}

/// Whether the response is being loaded, here or in another process.
fn is_loading(explanation: &Explanation) -> bool {
    explanation.is_loading || explanation.verdict == Verdict::Wait
}

/// The explanation of a request of which this became; `None` if that does not decide it.
fn decided(explanation: Explanation, so_far: &SoFar) -> Option<Explanation> {
    if is_loading(&explanation) || so_far.is_late {
        return None;
    }
    let explanation = match (explanation.is_final, &so_far.answer) {
        (true, _) => explanation,
        (false, Answer::Response(head)) if so_far.calls == 1 => explanation.if_answered(head),
        (false, Answer::Failed) if so_far.calls == 1 => explanation.if_failed(),
        // The origin was to be asked, and was not.
        (false, Answer::None) if so_far.calls == 0 => return Some(explanation),
        (false, _) => return None,
    };
    // A response to POST may be stored for GET.
    Some(explanation).filter(|explanation| explanation.is_final)
}

#[cfg(test)]
mod tests {
    use cache_layer::{Cache, CacheLayer, CacheService, store::MemoryStore};
    use tower::Layer as _;

    use super::*;

    fn layer(clock: &StandingClock) -> CacheLayer {
        CacheLayer::new(Cache::builder(MemoryStore::new(1 << 20)).clock(clock.clock()).build())
    }

    fn cached(
        layer: &CacheLayer,
    ) -> CacheService<
        impl Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    > {
        layer.layer(noted(service_fn(async |request: Request<Full<Bytes>>| {
            let field = if request.uri().path().starts_with("/private") { "private" } else { "max-age=60" };
            sleep(Duration::from_millis(20)).await;
            Ok(Response::builder().header("cache-control", field).body(Full::from("content")).unwrap())
        })))
    }

    fn get(path: &str) -> Request<Full<Bytes>> {
        Request::get(path).header("host", "shop.example").body(Full::default()).unwrap()
    }

    fn explained(
        clock: StandingClock,
        layer: CacheLayer,
        asked: fn(Request<Full<Bytes>>) -> Request<Full<Bytes>>,
    ) -> Explained {
        Explained::new(clock, move |request| {
            let (layer, request) = (layer.clone(), asked(request));
            Box::pin(async move { layer.explain(&request).await })
        })
    }

    #[tokio::test]
    async fn answers_are_as_they_were_explained() {
        let clock = StandingClock::start();
        let layer = layer(&clock);
        let (service, explained) = (cached(&layer), explained(clock, layer, |request| request));
        for path in ["/a", "/a", "/private", "/private", "/a?b"] {
            explained.0.answer(service.clone(), get(path)).await.unwrap();
        }
        assert_eq!(explained.report(), "explain: 5 answers compared, 0 differ, 0 left alone");
    }

    #[tokio::test]
    async fn a_wrong_explanation_is_found() {
        let clock = StandingClock::start();
        let layer = layer(&clock);
        let (service, explained) = (cached(&layer), explained(clock, layer, |_| get("/other")));
        for _ in 0..2 {
            explained.0.answer(service.clone(), get("/a")).await.unwrap();
        }
        // The first one is a miss, as explained.
        assert_eq!(explained.report(), "explain: 2 answers compared, 1 differ, 0 left alone");
    }

    #[tokio::test]
    async fn requests_for_one_path_at_one_time_are_left_alone() {
        let clock = StandingClock::start();
        let layer = layer(&clock);
        let (service, explained) = (cached(&layer), explained(clock, layer, |request| request));
        let both = tokio::join!(
            explained.0.answer(service.clone(), get("/a")),
            explained.0.answer(service.clone(), get("/a?b"))
        );
        assert!(both.0.is_ok() && both.1.is_ok());
        assert_eq!(explained.report(), "explain: 0 answers compared, 0 differ, 2 left alone");
    }

    #[tokio::test]
    async fn the_clock_stands_still_while_it_is_held() {
        let standing = StandingClock::start();
        let (one, other) = (standing.hold(), standing.hold());
        let stood = standing.clock().now();
        drop(one);
        sleep(20 * TICK).await;
        assert_eq!(standing.clock().now(), stood);
        drop(other);
        while standing.clock().now() == stood {
            sleep(TICK).await;
        }
    }
}
