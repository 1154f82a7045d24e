//! The body of a request that may be answered by its content: the cache reads it first, and the application gets the same bytes.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, timeout_at};

use crate::telemetry::NoCacheReason;

pin_project! {
    /// The body of a request as the service behind a [`QueryLayer`](super::QueryLayer) gets it: the client's own, or the same
    /// bytes from memory.
    pub struct QueryBody<B: Body> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B: Body> {
        Untouched { #[pin] body: B },
        /// All of it.
        Content { left: Option<Bytes> },
        /// The part that was read, and the rest, if there is one.
        Begun { ahead: VecDeque<Result<Frame<Bytes>, B::Error>>, rest: Option<Pin<Box<B>>> },
    }
}

impl<B: Body<Data = Bytes>> QueryBody<B> {
    pub(super) fn untouched(body: B) -> Self {
        Self { kind: Kind::Untouched { body } }
    }

    pub(super) fn of_content(content: Bytes) -> Self {
        Self { kind: Kind::Content { left: Some(content).filter(|content| !content.is_empty()) } }
    }

    /// The content, if all of it is in memory.
    pub(super) fn content(&self) -> Option<Bytes> {
        match &self.kind {
            Kind::Content { left } => Some(left.clone().unwrap_or_default()),
            Kind::Untouched { .. } | Kind::Begun { .. } => None,
        }
    }

    /// Reads `body` to its end, until `deadline`, if it has at most `most` bytes and the `declared` length. Otherwise the body is
    /// returned as if it had not been read, with the reason.
    pub(super) async fn read(
        body: B,
        most: u64,
        declared: Option<u64>,
        deadline: Instant,
    ) -> Result<Bytes, (Self, NoCacheReason)> {
        if body.size_hint().lower().max(declared.unwrap_or(0)) > most {
            return Err((Self::untouched(body), NoCacheReason::ContentTooLarge));
        }
        let mut rest = Box::pin(body);
        let (mut ahead, mut length) = (VecDeque::new(), 0);
        let reason = loop {
            let next = std::future::poll_fn(|cx| rest.as_mut().poll_frame(cx));
            let Ok(next) = timeout_at(deadline, next).await else { break NoCacheReason::ContentUnread };
            let Some(frame) = next else {
                if declared.is_some_and(|declared| declared != length) {
                    return Err((Self { kind: Kind::Begun { ahead, rest: None } }, NoCacheReason::ContentUnread));
                }
                return Ok(joined(&ahead, length));
            };
            let data = frame.as_ref().map(|frame| frame.data_ref().map_or(0, Bytes::len) as u64);
            let reason = match &data {
                Err(_) => Some(NoCacheReason::ContentUnread),
                // Trailers are not content, and are not part of any key.
                Ok(_) if frame.as_ref().is_ok_and(|frame| !frame.is_data()) => Some(NoCacheReason::Trailers),
                Ok(more) if length + more > most => Some(NoCacheReason::ContentTooLarge),
                Ok(more) => {
                    length += more;
                    None
                }
            };
            ahead.push_back(frame);
            if let Some(reason) = reason {
                break reason;
            }
        };
        Err((Self { kind: Kind::Begun { ahead, rest: Some(rest) } }, reason))
    }
}

fn joined<E>(ahead: &VecDeque<Result<Frame<Bytes>, E>>, length: u64) -> Bytes {
    let mut pieces = ahead.iter().flatten().filter_map(Frame::data_ref).filter(|piece| !piece.is_empty());
    match (pieces.next(), pieces.next()) {
        (None, _) => Bytes::new(),
        (Some(only), None) => only.clone(),
        (Some(first), Some(second)) => {
            let mut content = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
            [first, second].into_iter().chain(pieces).for_each(|piece| content.extend_from_slice(piece));
            content.freeze()
        }
    }
}

impl<B: Body<Data = Bytes>> Body for QueryBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Untouched { body } => body.poll_frame(cx),
            KindProj::Content { left } => Poll::Ready(left.take().map(|content| Ok(Frame::data(content)))),
            KindProj::Begun { ahead, rest } => {
                if let Some(frame) = ahead.pop_front() {
                    // After an error there is nothing more.
                    if frame.is_err() {
                        *rest = None;
                    }
                    return Poll::Ready(Some(frame));
                }
                let Some(body) = rest else { return Poll::Ready(None) };
                let next = ready!(body.as_mut().poll_frame(cx));
                if next.is_none() {
                    *rest = None;
                }
                Poll::Ready(next)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched { body } => body.is_end_stream(),
            Kind::Content { left } => left.is_none(),
            Kind::Begun { ahead, rest } => ahead.is_empty() && rest.as_ref().is_none_or(|rest| rest.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched { body } => body.size_hint(),
            Kind::Content { left } => SizeHint::with_exact(left.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Begun { ahead, rest } => {
                let read: u64 = ahead.iter().flatten().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
                let rest = rest.as_ref().map_or_else(|| SizeHint::with_exact(0), |rest| rest.size_hint());
                let mut size = SizeHint::new();
                size.set_lower(read + rest.lower());
                if let Some(upper) = rest.upper() {
                    size.set_upper(read + upper);
                }
                size
            }
        }
    }
}

impl<B: Body> fmt::Debug for QueryBody<B> {
    /// Omits the content, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Kind::Untouched { .. } => "QueryBody(untouched)",
            Kind::Content { .. } => "QueryBody(content)",
            Kind::Begun { .. } => "QueryBody(begun)",
        })
    }
}
