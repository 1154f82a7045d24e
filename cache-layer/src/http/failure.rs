//! What a request gets while the application, which failed for its key, is left alone.

use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{AUTHORIZATION, COOKIE, RETRY_AFTER},
};
use http_body::Body;

use super::{
    annotate::{self, Note},
    body::ResponseBody,
    load::Led,
    service::Shared,
};
use crate::{
    engine::{
        backoff::{BackOff, Setback},
        permit::Caution,
    },
    entry::Entry,
    semantics::cache_status::ForwardReason,
    telemetry::{Event, NoCacheReason},
};

/// Whether a response may be due to this one client.
pub(super) fn is_personal(request: &HeaderMap) -> bool {
    request.contains_key(AUTHORIZATION) || request.contains_key(COOKIE)
}

impl Shared {
    /// How a load deals with failures: those that came before, if there is something else to answer with or `nobody_waits`,
    /// and its own.
    pub(super) fn caution(&self, request: &HeaderMap, stale: Option<&Entry>, nobody_waits: bool) -> Caution {
        let (first, longest) = self.policy.failure_backoff;
        // The permission that counts for every kind of failure.
        let any = StatusCode::INTERNAL_SERVER_ERROR.as_u16();
        let spares =
            nobody_waits || self.shares_failures(request) || self.stands_in(request, stale, Some(any)).is_some();
        Caution { back_off: BackOff::new(first, longest), heeds: spares }
    }

    fn shares_failures(&self, request: &HeaderMap) -> bool {
        self.policy.share_failures && !is_personal(request)
    }

    /// What a request gets without asking the application; `None` if the application has to be asked all the same.
    pub(super) fn spare<R: Body, E>(
        &self,
        request: &HeaderMap,
        stale: Option<&Entry>,
        setback: &Setback,
    ) -> Option<Led<R, E>> {
        let led = match self.stands_in(request, stale, setback.status) {
            Some(entry) => Led::Entry(entry, Note::BackedOff),
            None if self.shares_failures(request) => {
                self.cache.emit(Event::Miss);
                Led::Response(self.failure(setback))
            }
            None => return None,
        };
        self.cache.emit(Event::BackedOff);
        Some(led)
    }

    /// The failure of another request's, as an answer to this one.
    fn failure<R: Body>(&self, setback: &Setback) -> Response<ResponseBody<R>> {
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() =
            setback.status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::BAD_GATEWAY);
        let seconds = setback.remaining().as_millis().div_ceil(1000).max(1);
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)));
        annotate::miss(headers, &self.name, ForwardReason::Miss, Some(NoCacheReason::BackedOff));
        response
    }
}
