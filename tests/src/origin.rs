//! The application behind a cache.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use tokio::sync::watch;
use tower::Service;

/// A body of any kind: neither `Clone` nor `Sync`.
pub type Body = UnsyncBoxBody<Bytes, Failure>;

/// An answer on its way.
pub struct Answered(Pin<Box<dyn Future<Output = Result<Response<Body>, Failure>> + Send>>);

impl Future for Answered {
    type Output = Result<Response<Body>, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answered")
    }
}

/// A response with the length of its body in place of the body.
#[derive(Clone, Debug)]
pub struct Head(Response<Length>);

/// A body of which only the length is known.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    least: u64,
    most: Option<u64>,
}

impl Head {
    fn of(response: &Response<Body>) -> Self {
        let hint = response.body().size_hint();
        let mut head = Response::new(Length { least: hint.lower(), most: hint.upper() });
        *head.status_mut() = response.status();
        *head.headers_mut() = response.headers().clone();
        *head.extensions_mut() = response.extensions().clone();
        Self(head)
    }

    /// As a response.
    #[must_use]
    pub fn response(&self) -> &Response<Length> {
        &self.0
    }
}

impl http_body::Body for Length {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Failure>>> {
        Poll::Ready(None)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let mut hint = http_body::SizeHint::new();
        hint.set_lower(self.least);
        self.most.into_iter().for_each(|most| hint.set_upper(most));
        hint
    }
}

/// The error of an application, or of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure(pub &'static str);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Failure {}

/// An application that counts its calls: at the call, even if its answer is never awaited.
#[derive(Clone)]
pub struct Origin {
    calls: Arc<AtomicUsize>,
    last: Arc<Mutex<Option<Head>>>,
    answer: Arc<dyn Fn(usize, Request<Body>) -> Answered + Send + Sync>,
}

impl Origin {
    /// Answers by `answer`, which gets the number of the call, from 1, and the request.
    pub fn new<A, F>(answer: A) -> Self
    where
        A: Fn(usize, Request<Body>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response<Body>, Failure>> + Send + 'static,
    {
        let answer = move |call, request| Answered(Box::pin(answer(call, request)));
        Self { calls: Arc::default(), last: Arc::default(), answer: Arc::new(answer) }
    }

    /// Answers with an [`echo`] that has these fields.
    #[must_use]
    pub fn echo(fields: &'static [(&'static str, &'static str)]) -> Self {
        Self::new(move |call, request| async move { Ok(echo(call, &request, fields)) })
    }

    /// As [`echo`](Self::echo); requests wait until `gate` is open.
    #[must_use]
    pub fn gated_echo(gate: &Gate, fields: &'static [(&'static str, &'static str)]) -> Self {
        let gate = gate.clone();
        Self::new(move |call, request| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                Ok(echo(call, &request, fields))
            }
        })
    }

    /// Answers as the request demands ([`obey`]).
    #[must_use]
    pub fn obedient() -> Self {
        Self::new(|call, request| async move { Ok(obey(call, request).await) })
    }

    /// As [`obedient`](Self::obedient); requests for which `is_held` returns `true`, by the number of the call and the request,
    /// wait until `gate` is open.
    #[must_use]
    pub fn gated_obedient(gate: &Gate, is_held: fn(usize, &Request<Body>) -> bool) -> Self {
        let gate = gate.clone();
        Self::new(move |call, request| {
            let gate = gate.clone();
            async move {
                if is_held(call, &request) {
                    gate.pass().await;
                }
                Ok(obey(call, request).await)
            }
        })
    }

    /// The head of its last answer; `None` if it failed.
    #[must_use]
    pub fn last(&self) -> Option<Head> {
        self.last.lock().unwrap().clone()
    }

    /// How often it was called.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Service<Request<Body>> for Origin {
    type Response = Response<Body>;
    type Error = Failure;
    type Future = Answered;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answered {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let (answer, last) = ((self.answer)(call, request), self.last.clone());
        *last.lock().unwrap() = None;
        Answered(Box::pin(async move {
            let response = answer.await?;
            *last.lock().unwrap() = Some(Head::of(&response));
            Ok(response)
        }))
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("calls", &self.calls).finish_non_exhaustive()
    }
}

/// A response that says which call it answers, in `X-Call` and in its body; the body also has the whole request.
pub fn echo<B>(call: usize, request: &Request<B>, fields: &[(&str, &str)]) -> Response<Body> {
    let mut response = Response::builder().header("x-call", call);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(full(asked(call, request))).expect("a valid response")
}

/// As [`echo`], with the fields that the request has with the prefix `x-say-`, and the status in `x-status`. At its end, the
/// body has the content of the request, the number of its trailers, and its error.
pub async fn obey(call: usize, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let content = match body.collect().await {
        Ok(content) => {
            let trailers = content.trailers().map_or_else(String::new, |trailers| format!("+{}", trailers.len()));
            [&content.to_bytes()[..], trailers.as_bytes()].concat()
        }
        Err(failure) => format!("failed: {failure}").into(),
    };
    let request = Request::from_parts(parts, ());
    let mut response = Response::new(full([asked(call, &request).as_bytes(), &content].concat()));
    let headers = response.headers_mut();
    headers.insert("x-call", call.into());
    for (name, value) in request.headers() {
        if let Some(name) = name.as_str().strip_prefix("x-say-") {
            headers.append(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value.clone());
        }
    }
    if let Some(status) = request.headers().get("x-status") {
        *response.status_mut() = StatusCode::from_bytes(status.as_bytes()).expect("a status");
    }
    response
}

fn asked<B>(call: usize, request: &Request<B>) -> String {
    let mut text = format!("answer {call} to {} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    text
}

/// A body that is complete at once.
pub fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Holds requests until it is opened. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Lets all requests pass, those that wait and those that come later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn pass(&self) {
        // It can't fail: a sender is right here.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}
