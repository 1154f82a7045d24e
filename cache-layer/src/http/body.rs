//! The body of a response that passed the cache.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::engine::growing_body::{BodyReader, Incomplete};

/// Why the [body](ResponseBody) of a response is incomplete. An error of the application is in [`Inner`](Self::Inner); its
/// message and its source are then those of the application's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyError<E> {
    /// The application's body failed.
    Inner(E),
    /// The body was shared by several requests, and broke off: it failed, its length differed from the announced one, its load
    /// was lost, or it is longer than the limit and this request read nothing for half a minute while other requests waited.
    BrokenOff,
}

impl<E: fmt::Display> fmt::Display for BodyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inner(error) => error.fmt(f),
            Self::BrokenOff => f.write_str("the response that this one shares broke off"),
        }
    }
}

// `E: Error` is not required: a boxed error does not implement `Error`, and bodies with boxed errors must compile as well.
impl<E: fmt::Debug + fmt::Display> Error for BodyError<E> {}

pin_project! {
    /// The body of a response of [`CacheService`](super::CacheService): the application's own, a stored one, or one that
    /// is being loaded for another request.
    pub struct ResponseBody<R: Body> {
        #[pin]
        kind: Kind<R>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<R: Body> {
        /// Untouched.
        Inner { #[pin] body: R },
        Stored { payload: Option<Bytes> },
        /// Being loaded by this request, through the recorder.
        Recorded { feed: Feed<R>, size: SizeHint },
        /// Being loaded by another request.
        Joined { reader: BodyReader, over: bool },
    }
}

/// A piece of a body that is being recorded.
pub(super) enum Piece<R: Body> {
    Frame(Frame<Bytes>),
    Failed(R::Error),
    /// The rest is not recorded: it comes straight from the application.
    Rest(Pin<Box<R>>),
    /// The rest is not recorded, and other requests read it as well. The feed reports its end and its trailers.
    Shared(BodyReader),
    /// The body is complete. A feed that ends without this broke off.
    End,
}

/// The client's end of a recording.
pub(super) struct Feed<R: Body> {
    pieces: mpsc::UnboundedReceiver<Piece<R>>,
    rest: Option<Rest<R>>,
    ended: bool,
    /// To pass a panic of the application on to its client's task, where it would have occurred without a cache.
    task: Option<JoinHandle<()>>,
}

enum Rest<R> {
    Alone(Pin<Box<R>>),
    Shared(BodyReader),
}

/// An empty body, for layers that answer requests themselves.
impl<R: Body> Default for ResponseBody<R> {
    fn default() -> Self {
        Self::empty()
    }
}

type NextFrame<R> = Result<Frame<Bytes>, BodyError<<R as Body>::Error>>;

impl<R: Body> ResponseBody<R> {
    pub(super) fn inner(body: R) -> Self {
        Self { kind: Kind::Inner { body } }
    }

    pub(super) fn stored(payload: Bytes) -> Self {
        Self { kind: Kind::Stored { payload: Some(payload).filter(|payload| !payload.is_empty()) } }
    }

    pub(super) fn joined(reader: BodyReader) -> Self {
        Self { kind: Kind::Joined { reader, over: false } }
    }

    pub(super) fn empty() -> Self {
        Self { kind: Kind::Stored { payload: None } }
    }

    pub(super) fn recorded(pieces: mpsc::UnboundedReceiver<Piece<R>>, size: SizeHint) -> Self {
        let feed = Feed { pieces, rest: None, ended: false, task: None };
        Self { kind: Kind::Recorded { feed, size } }
    }

    /// Takes the place of a client while the body is recorded, so that the recording is not abandoned; drops the body once it is
    /// complete, or is not going to be stored.
    pub(super) async fn received(self) {
        let Kind::Recorded { mut feed, .. } = self.kind else { return };
        while let Some(Piece::Frame(_)) = feed.pieces.recv().await {}
    }

    /// Sets the task that records this body.
    pub(super) fn set_recorder(&mut self, task: JoinHandle<()>) {
        if let Kind::Recorded { feed, .. } = &mut self.kind {
            feed.task = Some(task);
        }
    }
}

impl<R: Body<Data = Bytes>> Body for ResponseBody<R> {
    type Data = Bytes;
    type Error = BodyError<R::Error>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.project().kind.project() {
            KindProj::Inner { body } => body.poll_frame(cx).map_err(BodyError::Inner),
            KindProj::Stored { payload } => Poll::Ready(payload.take().map(|payload| Ok(Frame::data(payload)))),
            KindProj::Recorded { feed, size } => {
                let frame = ready!(feed.poll_frame(cx));
                if let Some(Ok(data)) = frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref)) {
                    *size = less(size, data.map_or(0, Bytes::len) as u64);
                }
                Poll::Ready(frame)
            }
            KindProj::Joined { over: true, .. } => Poll::Ready(None),
            KindProj::Joined { reader, over } => {
                let next = ready!(reader.poll_next(cx));
                *over = !matches!(next, Some(Ok(_)));
                Poll::Ready(next.map(|data| data.map(Frame::data).map_err(|Incomplete| BodyError::BrokenOff)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Stored { payload } => payload.is_none(),
            Kind::Recorded { feed, .. } => feed.ended,
            Kind::Joined { over, .. } => *over,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Stored { payload } => SizeHint::with_exact(payload.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Recorded { size, .. } => *size,
            Kind::Joined { reader, .. } => reader.left().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl<R: Body<Data = Bytes>> Feed<R> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<NextFrame<R>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            match &mut self.rest {
                None => {}
                Some(Rest::Alone(rest)) => return rest.as_mut().poll_frame(cx).map_err(BodyError::Inner),
                Some(Rest::Shared(reader)) => match ready!(reader.poll_next(cx)) {
                    Some(Ok(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Some(Err(Incomplete)) => return Poll::Ready(Some(Err(self.incomplete()))),
                    None => self.rest = None,
                },
            }
            match ready!(self.pieces.poll_recv(cx)) {
                Some(Piece::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
                Some(Piece::Failed(error)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(BodyError::Inner(error))));
                }
                Some(Piece::Rest(rest)) => self.rest = Some(Rest::Alone(rest)),
                Some(Piece::Shared(reader)) => self.rest = Some(Rest::Shared(reader)),
                Some(Piece::End) => self.ended = true,
                None => return self.poll_broken_off(cx),
            }
        }
    }

    /// Why the body is incomplete: the application's own error, if it had one.
    fn incomplete(&mut self) -> BodyError<R::Error> {
        self.ended = true;
        match self.pieces.try_recv() {
            Ok(Piece::Failed(error)) => BodyError::Inner(error),
            _ => BodyError::BrokenOff,
        }
    }

    /// The recording task ended in the middle of the body. The client must not take that for the body's end.
    fn poll_broken_off<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        if let Some(task) = &mut self.task
            && let Err(error) = ready!(Pin::new(task).poll(cx))
        {
            self.task = None;
            if let Ok(panic) = error.try_into_panic() {
                std::panic::resume_unwind(panic);
            }
        }
        // The runtime is shutting down, and ends the client's task, too.
        Poll::Pending
    }
}

fn less(size: &SizeHint, by: u64) -> SizeHint {
    let mut left = SizeHint::new();
    left.set_lower(size.lower().saturating_sub(by));
    if let Some(upper) = size.upper() {
        left.set_upper(upper.saturating_sub(by));
    }
    left
}

impl<R: Body> fmt::Debug for ResponseBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Kind::Inner { .. } => "ResponseBody(inner)",
            Kind::Stored { .. } => "ResponseBody(stored)",
            Kind::Recorded { .. } => "ResponseBody(recorded)",
            Kind::Joined { .. } => "ResponseBody(joined)",
        })
    }
}
