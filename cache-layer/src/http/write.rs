//! A request that may change something: it is passed through, and the responses that it makes outdated are invalidated.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use tokio::{runtime::Handle, task::JoinHandle};
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
        Cache, InvalidateError,
        enclosing::EnclosingLoads,
        flight::Role,
        miss::Attempt,
        patience::Patience,
        permit::{FailurePolicy, WritePermit},
    },
    key::Key,
    semantics::{
        cache_status::ForwardReason,
        freshness::lifetime,
        groups::invalidated_groups,
        invalidation::{invalidates, is_safe},
        names::Shapes,
        received::Received,
        storable::{is_grpc, post_answers_get},
    },
    store::{Hardness, Seen},
    tag::Tags,
    telemetry::NoCacheReason,
    throttle::Throttle,
};

/// A write without an answer yet. If it is dropped before it is answered, its client has left, or the application has failed,
/// and the write may have taken effect: the target is invalidated to be safe.
struct Abandoned {
    cache: Cache,
    affected: Option<Affected>,
}

impl Abandoned {
    /// Invalidates the target in a task of its own, which runs to its end even if no one awaits it.
    fn invalidate(&mut self) -> Option<JoinHandle<()>> {
        // Without a runtime, this process does not serve stored responses any more.
        let (Some(affected), Ok(_)) = (self.affected.take(), Handle::try_current()) else { return None };
        let cache = self.cache.clone();
        Some(self.cache.spawn(invalidate(cache, affected)))
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
    target: Target<'static>,
) -> Result<Response<ResponseBody<S::Content>>, S::Error> {
    let method = request.method().clone();
    let headers = request.headers().clone();
    let is_hinted = is_hinted(request.extensions());
    let names_user = request.uri().authority().is_some_and(|authority| authority.as_str().contains('@'));
    add_plain_tags(&mut request);
    let voids = &settings.context(&target, &method).policy.voids;
    let (changes, request) = if is_safe(&method) { (false, request) } else { voids.judge(request) };
    let context = settings.context(&target, &Method::GET);
    let time = context.cache.now();
    let key = settings.key(&target, &headers);
    let mut abandoned = changes.then(|| {
        let affected = settings.affected(&target, &headers, &HeaderMap::new());
        Abandoned { cache: context.cache.clone(), affected: Some(affected) }
    });
    let response = match Oneshot::new(service, request).await {
        Ok(response) => response,
        Err(error) => {
            // The application may have failed after the write took effect.
            if let Some(invalidated) = abandoned.as_mut().and_then(Abandoned::invalidate) {
                let _ = invalidated.await;
            }
            return Err(error);
        }
    };
    if let Some(abandoned) = &mut abandoned {
        abandoned.affected = None;
    }
    let is_call = is_grpc(&headers) && is_grpc(response.headers());
    let request = CacheRequest { target, key, method, has_content: false, is_hinted, headers: headers.into(), time };
    if changes && !is_call {
        let mut affected = Affected::default();
        if invalidates(&request.method, response.status()) {
            affected = settings.affected(&request.target, &request.headers, response.headers());
        }
        context.invalidate_outdated(&request, response.headers(), affected).await;
    }
    // What a user who is named in the URI is told is not for others.
    if request.method == Method::POST
        && !names_user
        && context.policy.bypass.is_none()
        && context.answers_get(&request.target, &response)
    {
        return Ok(context.keep_for_get(request, response).await);
    }
    Ok(context.bypassed(response, NoCacheReason::Method))
}

impl Context {
    /// Invalidates the responses that a write makes outdated: its `affected` targets, and the groups that its response names.
    async fn invalidate_outdated(&self, request: &CacheRequest, response: &HeaderMap, mut affected: Affected) {
        let CacheRequest { target, method, .. } = request;
        // Whatever the status: the application has said so itself (RFC 9875, section 3).
        let groups = invalidated_groups(method, response);
        affected.tags.extend(groups.iter().map(|group| self.group_tag(target, group)));
        if affected.is_empty() {
            return;
        }
        // In a task of its own: the write has taken effect, even if its client leaves now.
        let invalidated = self.cache.spawn(invalidate(self.cache.clone(), affected));
        // It fails only if the runtime is shutting down.
        let _ = invalidated.await;
    }

    /// Stores a response to POST that also answers GET (RFC 9110, section 9.3.3).
    async fn keep_for_get<R>(
        self: &Arc<Self>,
        request: CacheRequest,
        response: Response<R>,
    ) -> Response<ResponseBody<R>>
    where
        R: Body<Data = Bytes, Error: Send + 'static> + Send + 'static,
    {
        let Some(permit) = self.permit_to_replace(&request.key).await else {
            return self.bypassed(response, NoCacheReason::Method);
        };
        let detail = Route { why: ForwardReason::Miss, varies: None };
        let miss = Miss { key: request.key.clone(), expected: Some(Seen::Unusable), stale: None, detail };
        let (context, enclosing) = (self.clone(), EnclosingLoads::here());
        let task = self.cache.flights().spawn_load(Span::none(), |reply_to| {
            let asked = Box::new(Asked { context, request, miss, enclosing });
            let load = GrantedLoad::<R, Infallible> { asked, permit, reply_to };
            async move { load.receive(response).await }
        });
        match task.reply().await {
            (LoadReply::Response(mut response), task) => {
                response.body_mut().set_recorder(task);
                response
            }
            // The client of a POST gets the response as it is.
            (LoadReply::Entry(..) | LoadReply::WithCookies(_), _) => {
                unreachable!("a response to POST is not cut, and has no precondition")
            }
        }
    }

    /// The right to store a response that no look-up asked for; `None` while its key is being loaded, or if it would not be
    /// stored.
    async fn permit_to_replace(&self, key: &Key) -> Option<Box<WritePermit>> {
        let Role::Leader(flight) = self.cache.flights().join(key) else { return None };
        let (mut patience, policy) = (Patience::none(), FailurePolicy::default());
        match self.cache.try_acquire(flight, key, Seen::Unusable, &mut patience, policy).await {
            Attempt::Granted(permit) => Some(permit),
            Attempt::LookAgain(_) | Attempt::Uncacheable | Attempt::BackedOff(_) => None,
        }
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
    use std::time::Duration;

    use http_body_util::Full;
    use tokio::time::Instant;
    use tower::{Layer as _, ServiceExt as _, service_fn};

    use super::*;
    use crate::{CacheLayer, store::TestStore};

    #[tokio::test(start_paused = true)]
    async fn what_a_write_makes_outdated_is_invalidated_at_one_time() {
        const ANSWER: Duration = Duration::from_millis(100);
        let store = TestStore::new();
        store.delay(ANSWER..=ANSWER);
        let cache = Cache::new(store);
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
