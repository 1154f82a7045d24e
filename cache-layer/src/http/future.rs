//! The future of a response.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{self, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;
use tracing::{Instrument as _, Span, instrument::Instrumented};

use super::{annotate::Refusal, body::ResponseBody, context::Context, fetch::Missing, oneshot::Oneshot};

pin_project! {
    /// The response future of [`CacheService`](super::CacheService).
    pub struct ResponseFuture<S, B, R>
    where
        S: Service<Request<B>>,
        R: Body,
    {
        #[pin]
        kind: Kind<S, B, R>,
    }
}

type Boxed<R, E> = Pin<Box<dyn Future<Output = Result<Response<ResponseBody<R>>, E>> + Send>>;

pin_project! {
    #[project = KindProj]
    enum Kind<S, B, R>
    where
        S: Service<Request<B>>,
        R: Body,
    {
        /// A hit in memory.
        Ready { response: Option<Response<ResponseBody<R>>> },
        /// The cache only adds its fields to the response.
        Bypass { #[pin] forward: Oneshot<S, Request<B>>, context: Arc<Context>, refusal: Refusal },
        /// Memory is the whole store, and has no answer.
        Missing { #[pin] future: Instrumented<Missing<S, B, R>> },
        /// Anything that may wait for a store, or for another request.
        Boxed { #[pin] future: Instrumented<Boxed<R, S::Error>> },
    }
}

impl<S, B, R> ResponseFuture<S, B, R>
where
    S: Service<Request<B>>,
    R: Body,
{
    pub(super) fn ready(response: Response<ResponseBody<R>>) -> Self {
        Self { kind: Kind::Ready { response: Some(response) } }
    }

    pub(super) fn bypass(service: S, request: Request<B>, context: Arc<Context>, refusal: Refusal) -> Self {
        Self { kind: Kind::Bypass { forward: Oneshot::new(service, request), context, refusal } }
    }

    /// A request for which memory, which is the whole store, has no answer.
    pub(super) fn missing(future: Missing<S, B, R>, span: Span) -> Self {
        Self { kind: Kind::Missing { future: future.instrument(span) } }
    }

    /// A future that runs in `span`. It is boxed first: it is large, and each wrapper would move it.
    pub(super) fn boxed(
        future: impl Future<Output = Result<Response<ResponseBody<R>>, S::Error>> + Send + 'static,
        span: Span,
    ) -> Self {
        let future: Boxed<R, S::Error> = Box::pin(future);
        Self { kind: Kind::Boxed { future: future.instrument(span) } }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B, R>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProj::Ready { response } => Poll::Ready(Ok(response.take().expect("polled after it was ready"))),
            KindProj::Bypass { forward, context, refusal } => {
                Poll::Ready(Ok(context.bypassed(ready!(forward.poll(cx))?, *refusal)))
            }
            KindProj::Missing { future } => future.poll(cx),
            KindProj::Boxed { future } => future.poll(cx),
        }
    }
}

impl<S, B, R> fmt::Debug for ResponseFuture<S, B, R>
where
    S: Service<Request<B>>,
    R: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
