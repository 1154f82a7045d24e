//! A request whose answer is not in memory: answered from the store, by another request's load, or by the application.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response};
use tokio::time::timeout_at;
use tracing::Instrument as _;

use super::{
    alias::Alias,
    annotate::Served,
    body::ResponseBody,
    context::Context,
    forward::Forward,
    load::Load,
    lookup::{Answer, Next, RequestLookup},
    oneshot::Oneshot,
    origin::Origin,
    plan::CacheRequest,
    response_entry::ResponseEntry,
};
use crate::{
    engine::span::LookupSpan,
    entry::{Entry, EntryId},
    key::Key,
    semantics::update::head_outdates,
    telemetry::{Event, NoCacheReason},
    throttle::Throttle,
};

/// Answers a request whose answer is not in memory, or is the entry `due` there, which is to be refreshed.
#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` keeps its arguments twice: as they came, and as it uses them"
)]
pub(super) fn fetch<S: Origin<B>, B: Send + 'static>(
    context: Arc<Context>,
    service: S,
    request: Request<B>,
    key: Key,
    due: Option<EntryId>,
    mut span: LookupSpan,
) -> impl Future<Output = Result<Response<ResponseBody<S::Content>>, S::Error>> + Send {
    async move {
        let mut patience = context.cache.patience();
        let end = patience.end();
        let mut lookup = RequestLookup {
            context: &context,
            key: &key,
            method: request.method(),
            headers: request.headers(),
            due,
            patience: &mut patience,
            span: &mut span,
        };
        let (flight, miss, purpose, answer) = match lookup.next().await {
            Next::Respond(response) => return Ok(response),
            Next::Forward { reason, stale, learns } => {
                let stale = stale.as_ref();
                let forward = Forward { service, request, key: &key, reason, deadline: end, stale };
                return context.forward(forward, learns).await;
            }
            Next::Lead { flight, miss, purpose, answer } => (flight, miss, purpose, answer),
        };
        // It had a host when its key was made.
        let Some(asked) = CacheRequest::of_get(&context, key.clone(), &request) else {
            let (reason, stale) = (NoCacheReason::NoAuthority, None);
            let forward = Forward { service, request, key: &key, reason, deadline: end, stale };
            return context.forward_uncached(forward).await;
        };
        let headers = asked.headers.clone();
        let load = Load { context: context.clone(), service, request, asked, miss, purpose, patience };
        let replied = match answer {
            Answer::Stored(response) => {
                load.begin_in_background(flight, &span);
                return Ok(response);
            }
            Answer::Load => load.begin(flight, &span).reply().await,
            Answer::LoadOrStale(stale) => {
                let Ok(Ok(replied)) = timeout_at(end, load.begin(flight, &span).reply_unless_panicked()).await else {
                    let served = Served::StaleIfError(None);
                    return Ok(context.respond_after_miss(stale, &Method::GET, &headers, served));
                };
                replied
            }
        };
        let (reply, task) = replied;
        let response = context.respond_with_loaded(reply, &Method::GET, &headers, &mut span)?;
        Ok(response.map(|body| body.recorded_by(task)))
    }
}

/// As [`fetch`], for a request that what is stored for another query may answer.
pub(super) async fn fetch_or_alias<S: Origin<B>, B: Send + 'static>(
    context: Arc<Context>,
    service: S,
    request: Request<B>,
    key: Key,
    alias: Alias,
    mut span: LookupSpan,
) -> Result<Response<ResponseBody<S::Content>>, S::Error> {
    if let Some(entry) = context.select_by_alias(&key, request.headers(), &alias).await {
        span.at(context.cache.far_tier());
        return Ok(context.respond(entry, request.method(), request.headers(), Served::Hit, &mut span));
    }
    fetch(context, service, request, key, None, span).await
}

/// As [`fetch`], for a request with the mark of another process's load. What is in memory does not answer it before it is
/// clear that the mark is not this key's: a refresh is not to bring back what is to be refreshed.
pub(super) async fn fetch_unless_nested<S: Origin<B>, B: Send + 'static>(
    context: Arc<Context>,
    service: S,
    mut request: Request<B>,
    key: Key,
    mark: HeaderValue,
) -> Result<Response<ResponseBody<S::Content>>, S::Error> {
    let lookup = context.cache.lookup_span(&key);
    if context.keep_mark(request.headers_mut(), &key, mark).await {
        let reason = NoCacheReason::Nested;
        lookup.bypassed(reason);
        context.cache.emit(Event::Bypass(reason));
        return Ok(context.bypassed(Oneshot::new(service, request).await?, reason));
    }
    let span = lookup.span();
    fetch(context, service, request, key, None, lookup).instrument(span).await
}

impl Context {
    /// Forwards a request for which nothing is loaded. A response to HEAD may say that what is `stale` has changed.
    async fn forward<S: Origin<B>, B>(
        &self,
        forward: Forward<'_, S, B>,
        learns: bool,
    ) -> Result<Response<ResponseBody<S::Content>>, S::Error> {
        if !learns {
            return self.forward_uncached(forward).await;
        }
        let (key, stale, is_head) = (forward.key, forward.stale, forward.request.method() == Method::HEAD);
        let response = self.forward_and_learn(forward).await?;
        if is_head && is_outdated_by(&response, stale) {
            self.drop_outdated(key).await;
        }
        Ok(response)
    }

    /// Drops what a response to HEAD says has changed.
    async fn drop_outdated(&self, key: &Key) {
        if let Err(error) = self.cache.invalidate(key).await {
            static THROTTLE: Throttle = Throttle::new();
            if let Some(kept_back) = THROTTLE.pass() {
                tracing::warn!(%error, kept_back, "an outdated response is not dropped everywhere yet");
            }
        }
    }
}

/// Whether a response to HEAD says that what is stored has changed.
fn is_outdated_by<R>(head: &Response<R>, stored: Option<&Entry>) -> bool {
    stored.cloned().and_then(ResponseEntry::new).is_some_and(|stored| {
        let length = stored.payload().len() as u64;
        head_outdates(head.status(), head.headers(), &stored.response().headers, length)
    })
}
