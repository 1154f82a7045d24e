//! A copy of a body, made while its client reads it.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::{Body, Frame};
use tokio::sync::mpsc;

use super::body::Piece;
use crate::{engine::rope::RopeWriter, telemetry::NoCacheReason};

/// Passes `body` on through `feed`, and to those who share it, and keeps a copy; returns it if it is whole and within `max`
/// bytes.
pub(super) async fn record<R: Body<Data = Bytes>>(
    body: R,
    max: u64,
    declared_length: Option<u64>,
    feed: &mpsc::UnboundedSender<Piece<R>>,
    shared: Option<RopeWriter>,
) -> Result<Bytes, NoCacheReason> {
    let mut body = Box::pin(body);
    let mut recorded = Vec::new();
    let mut length = 0u64;
    let mut trailers = false;
    // A client that is gone makes every send fail; the recording goes on without it.
    while let Some(frame) = next_frame(body.as_mut()).await {
        let data = match frame.map(Frame::into_data) {
            Ok(Ok(data)) => data,
            Ok(Err(other)) => {
                trailers |= other.is_trailers();
                let _ = feed.send(Piece::Frame(other));
                continue;
            }
            Err(error) => {
                let _ = feed.send(Piece::Failed(error));
                return Err(NoCacheReason::BodyFailed);
            }
        };
        length += data.len() as u64;
        if length > max {
            let _ = feed.send(Piece::Frame(Frame::data(data)));
            let _ = feed.send(Piece::Rest(body));
            return Err(NoCacheReason::BodyTooLarge);
        }
        recorded.push(data.clone());
        if let Some(shared) = &shared {
            shared.push(data.clone());
        }
        let _ = feed.send(Piece::Frame(Frame::data(data)));
    }
    if declared_length.is_some_and(|declared| declared != length) {
        let _ = feed.send(Piece::End);
        return Err(NoCacheReason::BodyTruncated);
    }
    // Copied in any case: a slice of a larger buffer would keep all of it in memory.
    let mut payload = BytesMut::with_capacity(recorded.iter().map(Bytes::len).sum());
    recorded.iter().for_each(|data| payload.extend_from_slice(data));
    let payload = payload.freeze();
    if let Some(shared) = shared {
        shared.end(payload.clone());
    }
    if trailers {
        let _ = feed.send(Piece::End);
        return Err(NoCacheReason::Trailers);
    }
    Ok(payload)
}

async fn next_frame<R: Body>(mut body: Pin<&mut R>) -> Option<Result<Frame<R::Data>, R::Error>> {
    std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await
}

/// The length that the response announces, if it does. Of two, or of none in digits, nobody knows which one counts.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, NoCacheReason> {
    let mut lines = headers.get_all(CONTENT_LENGTH).into_iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let digits = line.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match (digits.and_then(|text| text.parse().ok()), lines.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err(NoCacheReason::BodyTruncated),
    }
}
