//! A request that may change something: passed through, and what it makes stale voided.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use tokio::{runtime::Handle, sync::oneshot, task::JoinHandle};
use tower_service::Service;

use super::{
    annotate,
    body::ResponseBody,
    load::{Led, Place},
    oneshot::Oneshot,
    plan::Asked,
    service::Shared,
    target::Target,
};
use crate::{
    engine::{
        Cache,
        flight::Seat,
        patience::Patience,
        permit::{Caution, Permission},
    },
    error::InvalidateError,
    key::Key,
    semantics::{
        freshness::lifetime,
        groups::invalidated_groups,
        invalidation::{invalidates, is_safe},
        storable::{is_grpc, post_answers_get},
        targeted::ResponseDirectives,
    },
    store::Seen,
    telemetry::NoCacheReason,
    throttle::Throttle,
};

/// A write that nobody has answered yet. Dropped with its key, its client has left, or the application has failed, and what
/// it has done by then nobody knows: the key is voided to be safe.
struct Abandoned {
    cache: Cache,
    key: Option<Key>,
}

impl Abandoned {
    /// In a task of its own, whether or not its end is waited for.
    fn void(&mut self) -> Option<JoinHandle<()>> {
        // Without a runtime there is no process left to serve what is stored.
        let (Some(key), Ok(_)) = (self.key.take(), Handle::try_current()) else { return None };
        let cache = self.cache.clone();
        Some(self.cache.spawn(async move {
            if let Err(error) = cache.invalidate(&key).await {
                undelivered(&error);
            }
        }))
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        drop(self.void());
    }
}

/// With every write while the store is away.
fn undelivered(error: &InvalidateError) {
    static THROTTLE: Throttle = Throttle::new();
    if let Some(kept_back) = THROTTLE.pass() {
        tracing::warn!(%error, kept_back, "a write is not invalidated everywhere yet");
    }
}

/// An unsafe request: the application answers it, and what that makes stale is gone before the client knows.
pub(super) async fn write_through<S, B, R>(
    shared: Arc<Shared>,
    inner: S,
    request: Request<B>,
    target: Target<'static>,
) -> Result<Response<ResponseBody<R>>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    let method = request.method().clone();
    let headers = request.headers().clone();
    let time = shared.cache.now();
    let (changes, request) = if is_safe(&method) { (false, request) } else { shared.policy.voids.judge(request) };
    let mut abandoned =
        changes.then(|| Abandoned { cache: shared.cache.clone(), key: Some(target.key(&shared.naming(&headers))) });
    let response = match Oneshot::new(inner, request).await {
        Ok(response) => response,
        Err(error) => {
            // It may have failed only after it had done the write.
            if let Some(voided) = abandoned.as_mut().and_then(Abandoned::void) {
                let _ = voided.await;
            }
            return Err(error);
        }
    };
    if let Some(abandoned) = &mut abandoned {
        abandoned.key = None;
    }
    let naming = shared.naming(&headers);
    let is_call = is_grpc(&headers) && is_grpc(response.headers());
    if changes && !is_call && invalidates(&method, response.status()) {
        let keys = target.affected(&naming, response.headers());
        let groups = invalidated_groups(&method, response.headers());
        let groups: Vec<String> = groups.iter().map(|group| shared.group_tag(&target, group)).collect();
        let cache = shared.cache.clone();
        // In a task of its own: the write is done, whether or not its client waits for what follows from it.
        let invalidated = shared.cache.spawn(async move {
            let mut results = vec![cache.invalidate_tags(groups).await];
            for key in keys {
                results.push(cache.invalidate(&key).await);
            }
            for error in results.into_iter().filter_map(Result::err) {
                undelivered(&error);
            }
        });
        // It fails only if the runtime is shutting down.
        let _ = invalidated.await;
    }
    if method == Method::POST && shared.answers_get(&target, &response) {
        let key = target.key(&naming);
        return Ok(shared.keep_for_get(Asked { target, key, method, headers: headers.into(), time }, response).await);
    }
    let mut response = response.map(ResponseBody::inner);
    shared.policy.strip_internal(response.headers_mut());
    annotate::bypass(response.headers_mut(), &shared.name, NoCacheReason::Method);
    Ok(response)
}

impl Shared {
    /// A response to POST that GET would have, too (RFC 9110, section 9.3.3).
    async fn keep_for_get<R>(self: &Arc<Self>, asked: Asked, response: Response<R>) -> Response<ResponseBody<R>>
    where
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Send + 'static,
    {
        let permission = match self.cache.flights().board(&asked.key) {
            Seat::Leader(flight) => {
                self.cache
                    .ask_to_load(flight, &asked.key, Seen::Unusable, &mut Patience::none(), Caution::default())
                    .await
            }
            Seat::Follower(_) => Permission::Uncacheable,
        };
        let Permission::Load(permit) = permission else {
            let mut response = response.map(ResponseBody::inner);
            self.policy.strip_internal(response.headers_mut());
            annotate::bypass(response.headers_mut(), &self.name, NoCacheReason::Method);
            return response;
        };
        let (tell, told) = oneshot::channel::<Led<R, Infallible>>();
        let shared = self.clone();
        let task = self
            .cache
            .spawn(async move { shared.answer(permit, &asked, Place::default(), response, tell, None).await });
        match told.await {
            Ok(Led::Response(response)) => response.map(|body| body.recorded_by(task)),
            // It tells of nothing else.
            Ok(Led::Entry(..)) | Err(_) => {
                // A panic of the application's goes on where it would have without a cache.
                if let Some(panic) = task.await.err().and_then(|error| error.try_into_panic().ok()) {
                    std::panic::resume_unwind(panic);
                }
                // The runtime is shutting down, and this task with it.
                std::future::pending().await
            }
        }
    }

    /// Whether this response to POST is to be kept for GET.
    fn answers_get<R>(&self, target: &Target<'_>, response: &Response<R>) -> bool {
        let (policy, headers) = (&self.policy.caching, response.headers());
        let directives = ResponseDirectives::from_headers(headers, &policy.targets);
        let lifetime = lifetime(policy, &directives, response.status(), headers, self.cache.now(), None);
        post_answers_get(policy, target.reference(&self.sites), response.status(), headers, lifetime)
    }
}
