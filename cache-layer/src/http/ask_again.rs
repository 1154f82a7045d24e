//! An application that follows the letter of RFC 9110 answers a failed precondition with 304 to GET and HEAD, and with 412 to
//! every other method (section 13.2.2). RFC 10008 requires 304 for QUERY, too. Until all frameworks do so, a 412 makes the
//! cache send the request again, without the precondition.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{self, Poll},
};

use bytes::Bytes;
use http::{
    HeaderName, Request, Response, StatusCode,
    header::{IF_MODIFIED_SINCE, IF_NONE_MATCH},
};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{oneshot::Oneshot, query_body::QueryBody};
use crate::semantics::list::has_any;

static PRECONDITIONS: [HeaderName; 2] = [IF_NONE_MATCH, IF_MODIFIED_SINCE];

/// The service behind a [`QueryLayer`](super::QueryLayer), as the cache calls it.
#[derive(Clone, Debug)]
pub struct AskAgain<S>(S);

impl<S> AskAgain<S> {
    pub(super) fn new(service: S) -> Self {
        Self(service)
    }

    /// The service itself.
    pub fn get_ref(&self) -> &S {
        &self.0
    }
}

impl<S, B, R> Service<Request<QueryBody<B>>> for AskAgain<S>
where
    S: Service<Request<QueryBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data = Bytes, Error: Send> + Send + 'static,
    R: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Asking<S::Future, Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<QueryBody<B>>) -> Self::Future {
        let content = request.body().content().filter(|_| has_any(request.headers(), &PRECONDITIONS));
        let Some(content) = content else { return Asking { kind: Kind::Once { future: self.0.call(request) } } };
        let (mut parts, body) = request.into_parts();
        let asked = self.0.call(Request::from_parts(parts.clone(), body));
        let service = self.0.clone();
        let future = Box::pin(async move {
            let response = asked.await?;
            if response.status() != StatusCode::PRECONDITION_FAILED {
                return Ok(response);
            }
            drop(response);
            PRECONDITIONS.iter().for_each(|name| drop(parts.headers.remove(name)));
            Oneshot::new(service, Request::from_parts(parts, QueryBody::of_content(content))).await
        });
        Asking { kind: Kind::Twice { future } }
    }
}

pin_project! {
    /// The future of [`AskAgain`].
    pub struct Asking<F, T> {
        #[pin]
        kind: Kind<F, T>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<F, T> {
        Once { #[pin] future: F },
        Twice { future: Pin<Box<dyn Future<Output = T> + Send>> },
    }
}

impl<F: Future<Output = T>, T> Future for Asking<F, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<T> {
        match self.project().kind.project() {
            KindProj::Once { future } => future.poll(cx),
            KindProj::Twice { future } => future.as_mut().poll(cx),
        }
    }
}

impl<F, T> fmt::Debug for Asking<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asking")
    }
}
