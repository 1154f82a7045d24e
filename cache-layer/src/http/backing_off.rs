//! The response to a request during the back-off of its key.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header::RETRY_AFTER};
use http_body::Body;

use super::{
    annotate::{self, Served},
    body::ResponseBody,
    context::Context,
    reply::LoadReply,
};
use crate::{
    engine::{
        backoff::{BackOff, RecentFailure},
        permit::FailurePolicy,
    },
    entry::Entry,
    semantics::cache_status::ForwardReason,
    telemetry::{Event, NoCacheReason},
};

impl Context {
    /// How a load treats failures: earlier ones, if there is another answer or the load is `unawaited`, and its own.
    pub(super) fn failure_policy(&self, request: &HeaderMap, stale: Option<&Entry>, unawaited: bool) -> FailurePolicy {
        // The permission that holds for every kind of failure.
        let any = StatusCode::INTERNAL_SERVER_ERROR.as_u16();
        let heed =
            unawaited || self.shares_failures(request) || self.usable_on_error(request, stale, Some(any)).is_some();
        FailurePolicy { back_off: self.back_off(), heed, anew: self.policy.is_hinted, overtakes: false }
    }

    /// The back-off of loads.
    pub(super) fn back_off(&self) -> Option<BackOff> {
        let (first, longest) = self.policy.failure_backoff;
        BackOff::new(first, longest)
    }

    pub(super) fn shares_failures(&self, request: &HeaderMap) -> bool {
        self.policy.share_failures && !self.is_personal(request)
    }

    /// The response without asking the application; `None` if the application has to be asked nevertheless.
    pub(super) fn reply_while_backing_off<R: Body, E>(
        &self,
        request: &HeaderMap,
        stale: Option<&Entry>,
        failure: &RecentFailure,
    ) -> Option<LoadReply<R, E>> {
        let reply = match self.stale_if_error_entry(request, stale, failure.status) {
            Some(entry) => LoadReply::Entry(entry, Served::BackedOff),
            None if self.shares_failures(request) => {
                self.cache.emit(Event::Miss);
                LoadReply::Response(self.failure_response(failure))
            }
            None => return None,
        };
        self.cache.emit(Event::BackedOff);
        Some(reply)
    }

    /// The failure of another request's, as an answer to this one.
    fn failure_response<R: Body>(&self, failure: &RecentFailure) -> Response<ResponseBody<R>> {
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() =
            failure.status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::BAD_GATEWAY);
        let seconds = failure.remaining().as_millis().div_ceil(1000).max(1);
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)));
        annotate::miss(headers, &self.signature, ForwardReason::Miss, Some(NoCacheReason::BackedOff));
        response
    }
}
