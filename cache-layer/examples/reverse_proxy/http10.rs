//! Bodies for clients of HTTP/1.0. A body without a length ends with its connection, so that a client can't distinguish a body
//! that broke off from a complete one (RFC 9112, section 6.3). So the body is held until it is complete, and its length is
//! known.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either};
use hyper::{
    Response,
    body::{Body, Frame, SizeHint},
    header,
};
use tokio::time::{Instant, timeout_at};

use crate::{BoxError, interim::Requests};

/// The most that is held of a body, in bytes, and for how long. A larger or slower body is sent as it arrives.
const MOST: usize = 4 << 20;
const LONGEST: Duration = Duration::from_secs(5);

/// The response, with a body that is complete, or that resets its connection if it breaks off.
pub(crate) async fn hold<B>(
    response: Response<B>,
    requests: &Requests,
) -> Result<Response<Either<B, Held<B>>>, BoxError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    if response.body().size_hint().exact().is_some() {
        return Ok(response.map(Either::Left));
    }
    let (parts, mut body) = response.into_parts();
    let mut held = VecDeque::new();
    let mut bytes = 0;
    let deadline = Instant::now() + LONGEST;
    // A stream of events has no end to wait for.
    let endless =
        parts.headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    let whole = loop {
        if endless || bytes > MOST {
            break false;
        }
        match timeout_at(deadline, body.frame()).await {
            Ok(Some(frame)) => {
                if let Ok(data) = frame.map_err(Into::into)?.into_data() {
                    bytes += data.len();
                    held.push_back(data);
                }
            }
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    if !whole {
        requests.end_with_connection();
    }
    let rest = (!whole).then_some(body);
    Ok(Response::from_parts(parts, Either::Right(Held { held, rest })))
}

/// A body that has been read in part, or in full.
pub(crate) struct Held<B> {
    held: VecDeque<Bytes>,
    rest: Option<B>,
}

impl<B> Body for Held<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(data) = self.held.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match &mut self.rest {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.held.iter().map(|data| data.len() as u64).sum()),
        }
    }
}
