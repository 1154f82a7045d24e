//! Bodies for clients of HTTP/1.0. One whose length isn't said ends with its connection, and a client can't tell a body that
//! broke off from a whole one (RFC 9112, section 6.3). So it is held until it is whole, and its length is known.

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

/// The most that is held of a body, in bytes, and for how long. What is larger or slower is sent as it comes.
const MOST: usize = 4 << 20;
const LONGEST: Duration = Duration::from_secs(5);

/// The response, with a body that is whole, or that resets its connection if it breaks off.
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
    // Nobody waits for the end of a stream of events.
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

/// A body that is here in part, or all.
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
