//! A copy of a body, made while its client reads it.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::{Body, Frame};
use tokio::sync::mpsc;

use super::body::Piece;
use crate::{engine::growing_body::BodyWriter, telemetry::NoCacheReason};

/// A body as it arrives.
pub(super) struct Incoming<R: Body> {
    body: Pin<Box<R>>,
    ahead: Ahead<R>,
    ended: bool,
}

/// Frames that were taken ahead of a body's reader. Most bodies that are complete at once have one frame, which needs no buffer.
struct Ahead<R: Body> {
    first: Option<Taken<R>>,
    others: VecDeque<Taken<R>>,
}

type Taken<R> = Result<Frame<<R as Body>::Data>, <R as Body>::Error>;

impl<R: Body> Ahead<R> {
    fn push(&mut self, frame: Taken<R>) {
        match self.first {
            None if self.others.is_empty() => self.first = Some(frame),
            _ => self.others.push_back(frame),
        }
    }

    fn pop(&mut self) -> Option<Taken<R>> {
        self.first.take().or_else(|| self.others.pop_front())
    }
}

impl<R: Body<Data = Bytes>> Incoming<R> {
    pub(super) fn new(body: R) -> Self {
        let ahead = Ahead { first: None, others: VecDeque::new() };
        Self { body: Box::pin(body), ahead, ended: false }
    }

    /// Takes the frames that are present, without waiting; `true` if the body is complete, and has this length. Most bodies
    /// were made before their response was.
    pub(super) fn take_at_once(&mut self, length: u64) -> bool {
        let mut taken = 0;
        // A reader that waits polls again, with a waker of its own.
        let mut unwoken = Context::from_waker(Waker::noop());
        while taken <= length
            && let Poll::Ready(next) = self.body.as_mut().poll_frame(&mut unwoken)
        {
            let data = next.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            // Frames without data, and the end, are left to the reader; and so are empty frames, which could go on forever.
            let goes_on = data.is_some_and(|data| !data.is_empty());
            taken += data.map_or(0, |data| data.len() as u64);
            self.ended |= next.is_none();
            if let Some(next) = next {
                self.ahead.push(next);
            }
            if !goes_on {
                break;
            }
        }
        self.ended && taken == length
    }

    /// The data that was taken.
    pub(super) fn taken(&self) -> impl Iterator<Item = &Bytes> + Clone {
        self.ahead.first.iter().chain(&self.ahead.others).flatten().filter_map(Frame::data_ref)
    }

    async fn next(&mut self) -> Option<Result<Frame<R::Data>, R::Error>> {
        poll_fn(|cx| {
            if let Some(frame) = self.ahead.pop() {
                return Poll::Ready(Some(frame));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let next = ready!(self.body.as_mut().poll_frame(cx));
            self.ended = next.is_none();
            Poll::Ready(next)
        })
        .await
    }
}

/// A body that is not stored.
pub(super) struct Unkept<R: Body> {
    pub(super) reason: NoCacheReason,
    /// The rest of the body, if other requests read it with the client.
    pub(super) rest: Option<Incoming<R>>,
}

impl<R: Body> From<NoCacheReason> for Unkept<R> {
    fn from(reason: NoCacheReason) -> Self {
        Self { reason, rest: None }
    }
}

/// Passes `body` on through `feed`, and to the requests that share it, and keeps a copy; returns the copy if the body is
/// complete, by the length that is `known` of it, and within `max` bytes. The caller has to end the feed.
pub(super) async fn record<R: Body<Data = Bytes>>(
    mut body: Incoming<R>,
    max: u64,
    known: Option<u64>,
    feed: &mpsc::UnboundedSender<Piece<R>>,
    shared: &mut Option<BodyWriter>,
) -> Result<Vec<Bytes>, Unkept<R>> {
    let mut recorded = Vec::new();
    let mut length = 0u64;
    let mut trailers = false;
    // If the client is gone, every send fails; the recording continues without it.
    while let Some(frame) = body.next().await {
        let data = match frame.map(Frame::into_data) {
            Ok(Ok(data)) => data,
            Ok(Err(other)) => {
                trailers |= other.is_trailers();
                let _ = feed.send(Piece::Frame(other));
                continue;
            }
            Err(error) => {
                let _ = feed.send(Piece::Failed(error));
                return Err(NoCacheReason::BodyFailed.into());
            }
        };
        length += data.len() as u64;
        if length > max {
            let reason = NoCacheReason::BodyTooLarge;
            if let Some(shared) = shared
                && let Some(reader) = shared.outgrow(max)
            {
                let _ = feed.send(Piece::Shared(reader));
                shared.push(data);
                return Err(Unkept { reason, rest: Some(body) });
            }
            let _ = feed.send(Piece::Frame(Frame::data(data)));
            while let Some(frame) = body.ahead.pop() {
                let _ = feed.send(frame.map_or_else(Piece::Failed, Piece::Frame));
            }
            let _ = feed.send(if body.ended { Piece::End } else { Piece::Rest(body.body) });
            return Err(reason.into());
        }
        recorded.push(data.clone());
        if let Some(shared) = shared {
            shared.push(data.clone());
        }
        let _ = feed.send(Piece::Frame(Frame::data(data)));
    }
    if known.is_some_and(|known| known != length) {
        let _ = feed.send(Piece::End);
        return Err(NoCacheReason::BodyTruncated.into());
    }
    if trailers {
        if let Some(shared) = shared.take() {
            shared.end(recorded.concat().into());
        }
        let _ = feed.send(Piece::End);
        return Err(NoCacheReason::Trailers.into());
    }
    Ok(recorded)
}

/// Passes on the rest of a body that is too long to be stored, to all its readers, at the pace of the slowest, until the body
/// ends, or has no reader any more.
pub(super) async fn pass_on<R: Body<Data = Bytes>>(
    mut rest: Incoming<R>,
    feed: &mpsc::UnboundedSender<Piece<R>>,
    shared: BodyWriter,
) {
    while shared.has_room().await {
        let frame = tokio::select! {
            frame = rest.next() => frame,
            () = shared.deserted() => return,
        };
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => shared.push(data),
            Some(Ok(Err(other))) => drop(feed.send(Piece::Frame(other))),
            // Sent before the other readers learn that the body broke off, so that this error is the reason.
            Some(Err(error)) => return drop(feed.send(Piece::Failed(error))),
            None => {
                shared.end_streamed();
                let _ = feed.send(Piece::End);
                return;
            }
        }
    }
}

/// The length that the response announces, if it does. An error if there are two lengths, or one that is not a number.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, NoCacheReason> {
    let mut lines = headers.get_all(CONTENT_LENGTH).into_iter();
    let Some(line) = lines.next() else { return Ok(None) };
    match (number(line.as_bytes()), lines.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err(NoCacheReason::BodyTruncated),
    }
}

/// The number, if the bytes consist of digits only.
fn number(digits: &[u8]) -> Option<u64> {
    let add = |number: u64, digit: &u8| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    };
    (!digits.is_empty()).then(|| digits.iter().try_fold(0, add)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_written_in_digits() {
        for (text, expected) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("+1", None),
            ("1 ", None),
            ("1.0", None),
        ] {
            assert_eq!(number(text.as_bytes()), expected, "{text:?}");
        }
    }

    /// What a body says when it is asked, one answer after the other; a pause, where there is `None`.
    struct Told(VecDeque<Option<Result<Frame<Bytes>, &'static str>>>);

    impl Body for Told {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            match self.0.pop_front() {
                Some(Some(frame)) => Poll::Ready(Some(frame)),
                Some(None) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                None => Poll::Ready(None),
            }
        }
    }

    type Answers = Vec<Option<Result<Frame<Bytes>, &'static str>>>;

    fn data(text: &'static str) -> Option<Result<Frame<Bytes>, &'static str>> {
        Some(Ok(Frame::data(text.into())))
    }

    /// What was taken at once of a body of six bytes, and what a reader has of it afterwards.
    async fn take(answers: Answers) -> (Option<Vec<u8>>, Vec<Result<Bytes, &'static str>>) {
        let mut incoming = Incoming::new(Told(answers.into()));
        let taken = incoming.take_at_once(6).then(|| incoming.taken().flatten().copied().collect());
        let mut read = Vec::new();
        while let Some(frame) = incoming.next().await {
            read.push(frame.map(|frame| frame.into_data().unwrap_or_else(|_| "trailers".into())));
        }
        (taken, read)
    }

    #[tokio::test]
    async fn a_body_that_is_there_is_taken_at_once() {
        let (taken, _) = take(vec![data("one"), data("two")]).await;
        assert_eq!(taken.as_deref(), Some(&b"onetwo"[..]));
    }

    #[tokio::test]
    async fn what_is_not_the_whole_is_left_to_the_reader_as_it_came() {
        let trailers = || Some(Ok(Frame::trailers(HeaderMap::new())));
        let cases: [(Answers, &[Result<&'static str, &'static str>]); 7] = [
            (vec![data("one"), None, data("two")], &[Ok("one"), Ok("two")]),
            (vec![data("onetwo"), None], &[Ok("onetwo")]),
            (vec![data("one"), Some(Err("the disk is gone"))], &[Ok("one"), Err("the disk is gone")]),
            (vec![data("onetwo"), trailers()], &[Ok("onetwo"), Ok("trailers")]),
            (vec![data("one")], &[Ok("one")]),
            (vec![data("one"), data(""), data("two")], &[Ok("one"), Ok(""), Ok("two")]),
            (vec![data("onetwo"), data("three"), data("four")], &[Ok("onetwo"), Ok("three"), Ok("four")]),
        ];
        for (answers, expected) in cases {
            let (taken, read) = take(answers).await;
            let expected: Vec<_> = expected.iter().map(|part| part.map(Bytes::from)).collect();
            assert_eq!((taken, read), (None, expected));
        }
    }
}
