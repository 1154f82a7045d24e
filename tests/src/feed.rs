//! A body that a test feeds piece by piece.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;

use crate::{Body, Failure};

type Piece = Result<Frame<Bytes>, Failure>;

/// The sender of a body. When it is dropped, the body ends.
///
/// Frames, failure and end go through one channel, so that none overtakes another.
#[derive(Debug)]
pub struct Feed(mpsc::UnboundedSender<Piece>);

/// The body was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unread;

impl Feed {
    /// A body and its sender.
    #[must_use]
    pub fn new() -> (Self, Body) {
        let (sender, pieces) = mpsc::unbounded_channel();
        (Self(sender), Fed(pieces).boxed_unsync())
    }

    /// One piece of data.
    pub fn data(&self, data: impl Into<Bytes>) -> Result<(), Unread> {
        self.frame(Frame::data(data.into()))
    }

    /// Trailers, after the data.
    pub fn trailers(&self, trailers: HeaderMap) -> Result<(), Unread> {
        self.frame(Frame::trailers(trailers))
    }

    /// One frame of any kind.
    pub fn frame(&self, frame: Frame<Bytes>) -> Result<(), Unread> {
        self.0.send(Ok(frame)).map_err(|_| Unread)
    }

    /// Breaks off.
    pub fn abort(self, failure: Failure) -> Result<(), Unread> {
        self.0.send(Err(failure)).map_err(|_| Unread)
    }
}

struct Fed(mpsc::UnboundedReceiver<Piece>);

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        self.0.poll_recv(cx)
    }
}
