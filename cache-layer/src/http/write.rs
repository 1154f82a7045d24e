//! A request that may change something: it is passed through, and the responses that it makes outdated are invalidated.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use tokio::{runtime::Handle, sync::oneshot, task::JoinHandle, time::timeout};
use tracing::Span;

use super::{
    body::ResponseBody,
    context::Context,
    forward::add_plain_tags,
    granted_load::{Asked, GrantedLoad},
    oneshot::Oneshot,
    origin::Origin,
    plan::{CacheRequest, is_hinted},
    reply::LoadReply,
    rules::RequestSettings,
    select::{Miss, Route},
    target::{Affected, Target},
};
use crate::{
    engine::{
        Cache, InvalidateError, early_lease::EarlyLease, enclosing::EnclosingLoads, flight::FlightOutcome,
        permit::WritePermit,
    },
    key::Key,
    policy::Policy,
    semantics::{
        cache_status::ForwardReason,
        freshness::lifetime,
        groups::invalidated_groups,
        invalidation::{invalidates, is_safe},
        names::Shapes,
        received::Received,
        sites::Sites,
        storable::{is_grpc, post_answers_get},
    },
    store::{Hardness, Seen},
    tag::Tags,
    telemetry::NoCacheReason,
    throttle::Throttle,
};

/// What a write is for.
pub(super) struct Written {
    target: Target<'static>,
    /// The other targets that it may be for, if its request does not state its host clearly.
    others: Vec<Target<'static>>,
    is_clear: bool,
}

impl Written {
    /// What a write is for with this target, if its request states one clearly. `None` if nothing is known of its host.
    pub(super) fn of<B>(target: Option<Target<'_>>, sites: &Sites, request: &Request<B>) -> Option<Self> {
        if let Some(target) = target {
            return Some(Self { target: target.into_owned(), others: Vec::new(), is_clear: true });
        }
        let mut candidates = Target::candidates(sites, request).into_iter();
        Some(Self { target: candidates.next()?, others: candidates.collect(), is_clear: false })
    }
}

/// A write that has made these targets outdated, or may have. If this is dropped before they are invalidated, its client has
/// left, or the application has failed, and the write may have taken effect: they are invalidated to be safe.
struct Abandoned {
    cache: Cache,
    affected: Option<Affected>,
}

impl Abandoned {
    /// Invalidates the targets in a task of its own, which runs to its end even if no one awaits it.
    fn invalidate(&mut self) -> Option<JoinHandle<()>> {
        // Without a runtime, this process does not serve stored responses any more.
        let (Some(affected), Ok(_)) = (self.affected.take(), Handle::try_current()) else { return None };
        let cache = self.cache.clone();
        Some(self.cache.spawn(invalidate(cache, affected)))
    }

    /// Invalidates the targets. The write has taken effect, so that this is done even if its client leaves now.
    async fn invalidated(&mut self) {
        if let Some(invalidated) = self.invalidate() {
            // It fails only if the runtime is shutting down.
            let _ = invalidated.await;
        }
    }

    /// Takes the targets with these keys apart, to be invalidated by themselves.
    fn part(&mut self, is_part: impl Fn(&Key) -> bool) -> Self {
        let Some(Affected { keys, tags }) = self.affected.take() else {
            return Self { cache: self.cache.clone(), affected: None };
        };
        let (part, rest) = keys.into_iter().partition(is_part);
        let some = |affected: Affected| Some(affected).filter(|affected| !affected.is_empty());
        self.affected = some(Affected { keys: rest, tags });
        Self { cache: self.cache.clone(), affected: some(Affected { keys: part, tags: Vec::new() }) }
    }
}

/// Invalidates everything that is stored for these targets, all at once.
async fn invalidate(cache: Cache, Affected { keys, tags }: Affected) {
    if let Err(error) = cache.run_on_uri(&Tags::new(tags), &keys, Hardness::Hard).await {
        undelivered(&error);
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        drop(self.invalidate());
    }
}

/// Logs an invalidation that was not delivered, which would otherwise occur with every write while the store is away.
fn undelivered(error: &InvalidateError) {
    static THROTTLE: Throttle = Throttle::new();
    if let Some(kept_back) = THROTTLE.pass() {
        tracing::warn!(%error, kept_back, "a write is not invalidated everywhere yet");
    }
}

/// Handles an unsafe request: the application answers it, and the responses that it makes outdated are invalidated before the
/// client gets the answer. Responses for its target, and for the URIs that its response names, are stored by the settings for
/// GET.
pub(super) async fn write_through<S: Origin<B>, B>(
    settings: RequestSettings,
    service: S,
    mut request: Request<B>,
    Written { target, others, is_clear }: Written,
) -> Result<Response<ResponseBody<S::Content>>, S::Error> {
    let method = request.method().clone();
    let headers = request.headers().clone();
    let is_hinted = is_hinted(request.extensions());
    add_plain_tags(&mut request);
    let targets = || std::iter::once(&target).chain(&others);
    let mut changes = false;
    for target in targets().filter(|_| !is_safe(&method)) {
        let changes_here;
        (changes_here, request) = settings.context(target, &method).policy.voids.judge(request);
        changes |= changes_here;
    }
    let context = settings.context(&target, &Method::GET);
    let key = settings.key(&target, &headers);
    // What a user who is named in the URI is told is not for others, nor what may be of another host.
    let mut early = match method == Method::POST && is_clear && !is_hinted {
        true => context.lease_for_get(&mut request, &key).await,
        false => None,
    };
    let none = HeaderMap::new();
    let affected = changes.then(|| affected(&settings, targets(), &headers, &none));
    let mut abandoned = Abandoned { cache: context.cache.clone(), affected };
    let time = context.cache.now();
    let response = match EarlyLease::hold(&mut early, Oneshot::new(service, request)).await {
        Ok(response) => response,
        Err(error) => {
            // The application may have failed after the write took effect.
            abandoned.invalidated().await;
            return Err(error);
        }
    };
    let is_call = is_grpc(&headers) && is_grpc(response.headers());
    let request = CacheRequest { target, key, method, has_content: false, is_hinted, headers: headers.into(), time };
    let outdated = match changes && !is_call {
        true => context.outdated_by(&settings, &request, &others, &response),
        false => Affected::default(),
    };
    abandoned.affected = Some(outdated).filter(|outdated| !outdated.is_empty());
    if let Some(lease) = early.take_if(|_| context.answers_get(&request.target, &response))
        && let Some(right) = lease.into_permit()
    {
        return Ok(context.keep_for_get(request, response, right, abandoned).await);
    }
    abandoned.invalidated().await;
    Ok(context.bypassed(response, NoCacheReason::Method))
}

/// The responses that a write makes outdated, for each of these targets.
fn affected<'t>(
    settings: &RequestSettings,
    targets: impl Iterator<Item = &'t Target<'t>>,
    request: &HeaderMap,
    response: &HeaderMap,
) -> Affected {
    let mut all = Affected::default();
    for target in targets {
        let Affected { keys, tags } = settings.affected(target, request, response);
        all.keys.extend(keys);
        all.tags.extend(tags);
    }
    all
}

impl Context {
    /// The responses that a write makes outdated: those of its targets, and the groups that its response names.
    fn outdated_by<R>(
        &self,
        settings: &RequestSettings,
        request: &CacheRequest,
        others: &[Target<'_>],
        response: &Response<R>,
    ) -> Affected {
        let CacheRequest { target, method, headers, .. } = request;
        let targets = std::iter::once(target).chain(others);
        let mut affected = match invalidates(method, response.status()) {
            true => affected(settings, targets.clone(), headers, response.headers()),
            false => Affected::default(),
        };
        // Whatever the status: the application has said so itself (RFC 9875, section 3).
        let groups = invalidated_groups(method, response.headers());
        let tags = targets.flat_map(|target| groups.iter().map(|group| self.group_tag(target, group)));
        affected.tags.extend(tags);
        affected
    }

    /// The right to store the response to a POST that also answers GET (RFC 9110, section 9.3.3), if there may be one. It is taken
    /// before the POST is forwarded: what other writes and invalidations make outdated meanwhile is not stored. The POST then
    /// encloses the requests that its handler makes: a GET of the same URI doesn't wait for it.
    async fn lease_for_get<B>(&self, request: &mut Request<B>, key: &Key) -> Option<EarlyLease> {
        let Policy { caching, bypass, .. } = &self.policy;
        // If keys have parts, the POST invalidates the tag of its target, which its own response carries.
        let is_possible = caching.post_for_get && bypass.is_none() && !self.keys_have_parts();
        if !is_possible {
            return None;
        }
        let early = self.cache.lease_early(key, self.back_off()).await?;
        self.enclose(request, key, early.token());
        Some(early)
    }

    /// Stores a response to POST that also answers GET. It takes the place of what it makes outdated for its key; if that is not
    /// done soon, the key is invalidated, with whatever else it makes outdated. The client gets the response after that, and finds
    /// nothing older then.
    async fn keep_for_get<R>(
        self: &Arc<Self>,
        request: CacheRequest,
        response: Response<R>,
        (permit, end): (Box<WritePermit>, oneshot::Receiver<FlightOutcome>),
        mut outdated: Abandoned,
    ) -> Response<ResponseBody<R>>
    where
        R: Body<Data = Bytes, Error: Send + 'static> + Send + 'static,
    {
        let key = request.key.clone();
        let mut own = outdated.part(|part| *part == key);
        let detail = Route { why: ForwardReason::Miss, varies: None };
        let miss = Miss { key: request.key.clone(), expected: Some(Seen::Unusable), stale: None, detail };
        let (context, enclosing) = (self.clone(), EnclosingLoads::here());
        let task = self.cache.flights().spawn_load(Span::none(), |reply_to| {
            let asked = Box::new(Asked { context, request, miss, enclosing });
            let load = GrantedLoad::<R, Infallible> { asked, permit, reply_to };
            async move { load.receive(response).await }
        });
        let response = match task.reply().await {
            (LoadReply::Response(mut response), task) => {
                response.body_mut().set_recorder(task);
                response
            }
            // The client of a POST gets the response as it is.
            (LoadReply::Entry(..) | LoadReply::WithCookies(_), _) => {
                unreachable!("a response to POST is not cut, and has no precondition")
            }
        };
        if own.affected.is_none() && outdated.affected.is_none() {
            return response;
        }
        let is_stored = matches!(timeout(self.cache.lease_life() / 2, end).await, Ok(Ok(FlightOutcome::Stored)));
        if is_stored && own.affected.take().is_some() {
            self.cache.note_write(&key);
        }
        // Not before: a store may refuse a response with a new tag if any tag was invalidated after its lease was taken.
        tokio::join!(own.invalidated(), outdated.invalidated());
        response
    }

    /// Whether this response to POST is to be stored for GET.
    fn answers_get<R>(&self, target: &Target<'_>, response: &Response<R>) -> bool {
        let (policy, headers) = (&self.policy.caching, response.headers());
        let directives = policy.directives(headers);
        let now = self.cache.now();
        let received = Received {
            status: response.status(),
            headers,
            names: Shapes::of(headers.keys()),
            directives: &directives,
            request_time: now,
            response_time: now,
            local_time: self.cache.local_time(now),
        };
        post_answers_get(policy, target.reference(&self.sites), &received, lifetime(policy, &received, None))
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, Either, Full, StreamBody};
    use tokio::{
        sync::mpsc,
        time::{Instant, sleep},
    };
    use tower::{Layer as _, ServiceExt as _, service_fn};

    use super::*;
    use crate::{CacheLayer, Profile, store::TestStore};

    const ANSWER: Duration = Duration::from_millis(100);
    const FOR_GET: [(&str, &str); 3] =
        [("cache-control", "max-age=60"), ("content-location", "/a"), ("cache-tag", "t")];

    /// The two caches of a fleet over one store, each answer of which takes as long as [`ANSWER`].
    fn fleet() -> [Cache; 2] {
        let store = TestStore::new();
        store.delay(ANSWER..=ANSWER);
        [store.clone(), store].map(Cache::new)
    }

    /// An application for `/a` whose answers say their number, by the strict profile.
    struct App {
        calls: AtomicU32,
        /// Told of each POST that is answered.
        written: mpsc::UnboundedSender<()>,
        /// How long the application takes, and how long the rest of the body of an answer.
        takes: [Duration; 2],
    }

    impl App {
        fn new(takes: [Duration; 2]) -> (Arc<Self>, mpsc::UnboundedReceiver<()>) {
            let (written, answers) = mpsc::unbounded_channel();
            (Arc::new(Self { calls: AtomicU32::new(0), written, takes }), answers)
        }

        /// The number of the answer, and whether it comes from the cache.
        async fn ask(self: &Arc<Self>, cache: &Cache, method: Method) -> (String, bool) {
            let app = self.clone();
            let service = service_fn(move |request: Request<Full<Bytes>>| {
                let app = app.clone();
                async move {
                    let call = app.calls.fetch_add(1, Ordering::SeqCst).to_string();
                    let [head, rest] = app.takes;
                    sleep(head).await;
                    if request.method() == Method::POST {
                        let _ = app.written.send(());
                    }
                    let mut response = Response::new(match rest.is_zero() {
                        true => Either::Left(Full::from(call)),
                        false => Either::Right(StreamBody::new(stream::once(async move {
                            sleep(rest).await;
                            Ok::<_, Infallible>(Frame::data(Bytes::from(call)))
                        }))),
                    });
                    for (name, value) in FOR_GET {
                        response.headers_mut().insert(name, http::HeaderValue::from_static(value));
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            let layer = CacheLayer::new(cache.clone())
                .profile(Profile::Strict)
                .tag_fields([http::HeaderName::from_static("cache-tag")]);
            let request = Request::builder().method(method).uri("http://shop.example/a").header("host", "shop.example");
            let response = layer.layer(service).oneshot(request.body(Full::default()).unwrap()).await.unwrap();
            let is_hit = response.headers()["x-cache"] == "HIT";
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (String::from_utf8(body.to_vec()).unwrap(), is_hit)
        }

        fn begin(self: &Arc<Self>, cache: &Cache, method: Method) -> JoinHandle<(String, bool)> {
            let (app, cache) = (self.clone(), cache.clone());
            tokio::spawn(async move { app.ask(&cache, method).await })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_post_got_answers_get_until_the_next_write_whichever_of_the_fleet_writes() {
        for offset in (0..600).step_by(10).map(Duration::from_millis) {
            for other in [0, 1] {
                for rest in [Duration::ZERO, ANSWER] {
                    let (caches, (app, _written)) = (fleet(), App::new([Duration::ZERO, rest]));
                    let first = app.begin(&caches[0], Method::POST);
                    sleep(offset).await;
                    let second = app.begin(&caches[other], Method::POST);
                    let writes = [first.await.unwrap().0, second.await.unwrap().0];
                    for cache in &caches {
                        let (answer, _) = app.ask(cache, Method::GET).await;
                        assert!(answer != "0", "{answer} after {writes:?}: {offset:?}, {other}, {rest:?}");
                    }
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_post_got_is_not_kept_if_its_tag_was_invalidated_meanwhile() {
        for head in [true, false] {
            let takes = if head { [ANSWER * 4, Duration::ZERO] } else { [Duration::ZERO, ANSWER * 4] };
            let (caches, (app, _written)) = (fleet(), App::new(takes));
            let post = app.begin(&caches[0], Method::POST);
            sleep(ANSWER * 2).await;
            caches[1].invalidate_tag("t").await.unwrap();
            post.await.unwrap();
            assert_eq!(app.ask(&caches[1], Method::GET).await, ("1".to_owned(), false), "{head}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn once_a_post_is_answered_nothing_older_answers_get() {
        // Soon enough to be kept, or too late for that; the head of the answer, or its body.
        let (soon, late) = (ANSWER, Duration::from_secs(3));
        for (takes, is_kept) in [
            ([Duration::ZERO; 2], true),
            ([soon, Duration::ZERO], true),
            ([soon, soon], true),
            ([late, Duration::ZERO], false),
            ([Duration::ZERO, late], false),
        ] {
            let (caches, (app, mut written)) = (fleet(), App::new(takes));
            for cache in &caches {
                assert_eq!(app.ask(cache, Method::GET).await.0, "0");
                assert!(cache.drain(Duration::from_secs(60)).await);
            }
            let post = app.begin(&caches[0], Method::POST);
            written.recv().await;
            assert_eq!(post.await.unwrap().0, "1");
            assert!(caches[0].drain(Duration::from_secs(60)).await);
            let expected = if is_kept { ("1", true) } else { ("2", false) };
            let (answer, is_hit) = app.ask(&caches[1], Method::GET).await;
            assert_eq!((&*answer, is_hit), expected, "{takes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_a_post_leaves_nothing_older_behind() {
        for leaves in (0..1_000).step_by(50).map(Duration::from_millis) {
            let (caches, (app, _written)) = (fleet(), App::new([ANSWER; 2]));
            assert_eq!(app.ask(&caches[1], Method::GET).await.0, "0");
            let post = app.begin(&caches[0], Method::POST);
            sleep(leaves).await;
            post.abort();
            let _ = post.await;
            // Longer than an invalidation takes.
            sleep(ANSWER * 5).await;
            let began = Instant::now();
            let was_written = app.calls.load(Ordering::SeqCst) > 1;
            let (answer, _) = app.ask(&caches[1], Method::GET).await;
            assert_eq!(answer == "0", !was_written, "{leaves:?}");
            assert!(began.elapsed() < ANSWER * 8, "{leaves:?}: no lease is left behind");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_write_makes_outdated_is_invalidated_at_one_time() {
        let [cache, _] = fleet();
        let application = service_fn(async |_: Request<Full<Bytes>>| {
            let fields = [("location", "/b"), ("content-location", "/c"), ("cache-groups", "\"g\"")];
            let mut response = Response::new(Full::<Bytes>::default());
            for (name, value) in fields {
                response.headers_mut().insert(name, http::HeaderValue::from_static(value));
            }
            Ok::<_, Infallible>(response)
        });
        let layer = CacheLayer::new(cache.clone()).layer(application);
        let write =
            Request::post("http://shop.example/a").header("host", "shop.example").body(Full::default()).unwrap();
        let began = Instant::now();
        layer.oneshot(write).await.unwrap();
        assert!(cache.counts().invalidations >= 3);
        // By a clock that only runs while all wait.
        assert!(began.elapsed() < 2 * ANSWER, "{:?}", began.elapsed());
    }
}
