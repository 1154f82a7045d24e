//! A request that the application answers alone: the response is not stored.

use std::pin::Pin;

use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use tokio::time::Instant;

use super::{
    annotate::{self, Refusal, Served},
    body::ResponseBody,
    coded_fields::vary,
    context::Context,
    oneshot::Oneshot,
    origin::Origin,
    plan::CacheRequest,
};
use crate::{
    entry::Entry,
    key::Key,
    semantics::{coded_tag::add_plain_tags, invalidation::is_safe, staleness::is_replaceable_error},
    telemetry::{Event, NoCacheReason},
};

/// A request that was looked up, and is forwarded alone.
pub(super) struct Forward<'a, S: Origin<B>, B> {
    pub(super) sending: Pin<Box<Oneshot<S, Request<B>>>>,
    pub(super) key: &'a Key,
    pub(super) reason: NoCacheReason,
    /// Until when to wait for a place at the application.
    pub(super) deadline: Instant,
    /// The entry that may answer in place of an error, or if there was no place.
    pub(super) stale: Option<&'a Entry>,
}

impl<S: Origin<B>, B> Forward<'_, S, B> {
    pub(super) fn request(&mut self) -> &mut Request<B> {
        self.sending.as_mut().request_mut().expect("it is not sent yet")
    }
}

impl Context {
    /// The response to a request that was not looked up.
    pub(super) fn bypassed<R: Body>(
        &self,
        response: Response<R>,
        refusal: impl Into<Refusal>,
    ) -> Response<ResponseBody<R>> {
        let refusal = refusal.into();
        let mut response = response.map(ResponseBody::inner);
        // The outer layer stores the response, with its tags, and removes the tag fields for clients.
        if refusal.reason != NoCacheReason::Nested {
            self.policy.strip_internal(response.headers_mut());
        }
        annotate::bypass(response.headers_mut(), &self.signature, refusal);
        response
    }

    /// Adds the application's own entity tags to the conditions of a forwarded request.
    pub(super) fn add_plain_tags<B>(&self, request: &mut Request<B>) {
        if let Some(encode) = &self.policy.encode {
            let is_safe = is_safe(request.method());
            add_plain_tags(request.headers_mut(), encode.encoders(), is_safe);
        }
    }

    /// The reason, and the reason of the earlier request from which it is remembered.
    pub(super) fn refusal(&self, reason: NoCacheReason, key: &Key) -> Refusal {
        let first = if reason == NoCacheReason::Remembered { self.cache.first_reason(key) } else { None };
        Refusal { reason, first }
    }

    /// Forwards one request, and stores nothing.
    pub(super) async fn forward_uncached<S: Origin<B>, B>(
        &self,
        mut forward: Forward<'_, S, B>,
    ) -> Result<Response<ResponseBody<S::Content>>, S::Error> {
        let Forward { key, reason, deadline, stale, .. } = forward;
        let request = forward.request();
        self.cache.emit(Event::Miss);
        let room = match reason {
            NoCacheReason::Remembered => None,
            _ => match self.load_limit.wait(deadline).await {
                Some(room) => Some(room),
                None => return Ok(self.without_room(request.method(), request.headers(), stale)),
            },
        };
        let fallback = stale.map(|stale| (stale, request.method().clone(), request.headers().clone()));
        // An inner layer must not wait for the load that this one has waited for, nor for this one's place.
        self.enclose(request, key, None);
        let answer = forward.sending;
        let result = match room {
            Some(room) => self.in_its_place(room, answer).await,
            None => answer.await,
        };
        let failed = match &result {
            Ok(response) => Some(response.status()).filter(|status| is_replaceable_error(*status)).map(Some),
            Err(_) => Some(None),
        };
        if let (Some(status), Some((stale, method, headers))) = (failed, fallback) {
            let status = status.map(|status| status.as_u16());
            if let Some(entry) = self.stale_if_error_entry(&headers, Some(stale), status) {
                return Ok(self.respond_after_miss(entry, &method, &headers, Served::StaleIfError(status)));
            }
        }
        let mut response = result?.map(ResponseBody::inner);
        self.policy.strip_internal(response.headers_mut());
        annotate::passed(response.headers_mut(), &self.signature, self.refusal(reason, key));
        Ok(response)
    }

    /// As [`forward_uncached`](Self::forward_uncached), and learns from the response how to handle the next request for a range.
    pub(super) async fn forward_and_learn<S: Origin<B>, B>(
        &self,
        mut forward: Forward<'_, S, B>,
    ) -> Result<Response<ResponseBody<S::Content>>, S::Error> {
        let request = CacheRequest::of_get(self, forward.key.clone(), forward.request());
        let is_head = forward.request().method() == Method::HEAD;
        let mut response = self.forward_uncached(forward).await?;
        // As for GET.
        if is_head
            && let Some(encode) = &self.policy.encode
            && encode.may_encode(response.status(), response.headers(), 0)
        {
            vary(response.headers_mut());
        }
        if let Some(request) = request {
            self.learn_from_answer(&request, &response);
        }
        Ok(response)
    }

    /// The answer if there was no place at the application.
    fn without_room<R: Body>(
        &self,
        method: &Method,
        headers: &HeaderMap,
        stale: Option<&Entry>,
    ) -> Response<ResponseBody<R>> {
        match self.stale_if_error_entry(headers, stale, None) {
            Some(entry) => self.respond_after_miss(entry, method, headers, Served::StaleIfError(None)),
            None => self.overloaded(),
        }
    }
}
