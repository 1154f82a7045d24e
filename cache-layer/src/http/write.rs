//! A request that may change something: passed through, and what it makes stale voided.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use tokio::{runtime::Handle, sync::oneshot};
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
        fill::{Caution, Permission},
        flight::Seat,
        patience::Patience,
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

/// A write that nobody has answered yet. Dropped with its key, its client has left, and what the application has done by
/// then nobody knows: the key is voided to be safe.
struct Abandoned {
    cache: Cache,
    key: Option<Key>,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        // Without a runtime there is no process left to serve what is stored.
        let (Some(key), Ok(_)) = (self.key.take(), Handle::try_current()) else { return };
        let cache = self.cache.clone();
        self.cache.spawn(async move {
            if let Err(error) = cache.invalidate(&key).await {
                undelivered(&error);
            }
        });
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
    let abandoned =
        changes.then(|| Abandoned { cache: shared.cache.clone(), key: Some(target.key(&shared.naming(&headers))) });
    let result = Oneshot::new(inner, request).await;
    if let Some(mut abandoned) = abandoned {
        abandoned.key = None;
    }
    let response = result?;
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
        let task =
            self.cache.spawn(async move { shared.answer(permit, &asked, Place::default(), response, tell).await });
        match told.await {
            Ok(Led::Response(response)) => response.map(|body| body.recorded_by(task)),
            // Told of nothing else, or the runtime is shutting down.
            Ok(Led::Entry(..)) | Err(_) => std::future::pending().await,
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
