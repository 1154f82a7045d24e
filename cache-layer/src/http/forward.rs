//! A request that the application answers alone: the response is not stored.

use std::{mem::take, pin::Pin};

use http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, IF_RANGE, RANGE},
};
use http_body::Body;
use tokio::time::Instant;

use super::{
    annotate::{self, Refusal, Served},
    asking::Sending,
    body::ResponseBody,
    coded_fields::vary,
    context::{Context, within},
    origin::Origin,
    plan::{CacheRequest, OriginResponse},
    record::content_length,
};
use crate::{
    engine::enclosing::EnclosingLoads,
    entry::Entry,
    inherit::Reads,
    key::Key,
    policy::Freshness,
    semantics::{
        coded_tag::{self, asks_for_part_by_date},
        conditional::{is_not_modified, retain_not_modified_fields},
        invalidation::is_safe,
        names::Shapes,
        range::complete_length,
        stale_windows::is_replaceable_error,
    },
    tag::Tags,
    telemetry::{Event, NoCacheReason},
};

/// A request that was looked up, and is forwarded alone.
pub(super) struct Forward<'a, S: Origin<B>, B> {
    pub(super) sending: Pin<Box<Sending<S, B>>>,
    pub(super) key: &'a Key,
    /// Why it is.
    pub(super) refusal: Refusal,
    /// Until when to wait for a place at the application.
    pub(super) deadline: Instant,
    /// The entry that may answer in place of an error, or if there was no place.
    pub(super) stale: Option<&'a Entry>,
    /// The loads that the request is part of.
    pub(super) enclosing: EnclosingLoads,
}

impl<S: Origin<B>, B> Forward<'_, S, B> {
    pub(super) fn request(&mut self) -> &mut Request<B> {
        self.sending.as_mut().request_mut()
    }
}

/// The answer to a request that was forwarded alone.
pub(super) struct Answered<R: Body> {
    pub(super) response: Response<ResponseBody<R>>,
    /// Whether it is the application's. The cache's own, in place of an error or for want of a place, says nothing of what the
    /// application has.
    pub(super) by_application: bool,
}

impl<R: Body> Answered<R> {
    fn by_cache(response: Response<ResponseBody<R>>) -> Self {
        Self { response, by_application: false }
    }
}

/// Adds the application's own entity tags to the conditions of a forwarded request, also in a layer that encodes nothing: others of
/// the fleet may, or may have.
pub(super) fn add_plain_tags<B>(request: &mut Request<B>) {
    let is_safe = is_safe(request.method());
    coded_tag::add_plain_tags(request.headers_mut(), is_safe);
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
        if self.may_be_coded_for_others(&response, refusal.reason) {
            vary(response.headers_mut());
        }
        annotate::bypass(response.headers_mut(), &self.signature, refusal);
        response
    }

    /// Whether other requests for the same target may get this response from the cache, in a coding. `reason`: why this one did
    /// not.
    fn may_be_coded_for_others<C>(&self, response: &Response<C>, reason: NoCacheReason) -> bool {
        use NoCacheReason as R;
        let is_of_request = matches!(
            reason,
            R::ConditionalRequest | R::RequestNoStore | R::RangeRequest | R::Hint | R::BypassIf | R::Switched
        );
        let Some(encode) = self.policy.encode.as_ref().filter(|_| is_of_request) else { return false };
        let may_be_encoded = |(status, headers, length): (StatusCode, HeaderMap, Option<u64>)| {
            encode.may_encode(status, &headers, length.unwrap_or(0))
                && !self.policy.caching.directives(&headers).cache_control.no_store
        };
        complete(response).is_some_and(may_be_encoded)
    }

    /// Asks for the whole response in place of a part that its client identifies by a date: the client may have a part of a
    /// representation that this cache has coded. Not if the `reason` why the request is forwarded is one why the response is never
    /// stored.
    pub(super) fn ask_for_whole<B>(&self, request: &mut Request<B>, reason: NoCacheReason) {
        use NoCacheReason as R;
        let is_never_stored = matches!(reason, R::Remembered | R::Rule | R::Off | R::Nested);
        if self.policy.encode.is_some() && !is_never_stored && asks_for_part_by_date(request.headers()) {
            request.headers_mut().remove(RANGE);
            request.headers_mut().remove(IF_RANGE);
        }
    }

    /// The reason, and the reason of the earlier request for this key from which it is remembered.
    pub(super) fn refusal(&self, reason: NoCacheReason, key: &Key) -> Refusal {
        let first = if reason == NoCacheReason::Remembered { self.cache.first_reason(key) } else { None };
        Refusal { reason, first }
    }

    /// Forwards one request, and stores nothing.
    async fn forward_uncached<S: Origin<B>, B>(
        &self,
        mut forward: Forward<'_, S, B>,
    ) -> Result<Answered<S::Content>, S::Error> {
        let Forward { key, refusal, deadline, stale, .. } = forward;
        let reason = refusal.reason;
        let mut enclosing = take(&mut forward.enclosing);
        let request = forward.request();
        self.cache.emit(Event::Miss);
        if reason != NoCacheReason::Remembered {
            let limit = enclosing.not_placed_at(&self.load_limit);
            let Some(place) = limit.wait(deadline).await else {
                return Ok(Answered::by_cache(self.without_place(request.method(), request.headers(), stale)));
            };
            enclosing = enclosing.placed(&limit, place);
        }
        let fallback = stale.map(|stale| (stale, request.method().clone(), request.headers().clone()));
        if reason == NoCacheReason::Remembered {
            // As where it is not looked up at all; an application does not know the tags of codings.
            add_plain_tags(request);
        }
        self.ask_for_whole(request, reason);
        // An inner layer must not wait for the load that this one has waited for, nor for this one's place.
        self.enclose(request, key, None);
        let result = within(enclosing, forward.sending).await;
        let failed = match &result {
            Ok(response) => Some(response.status()).filter(|status| is_replaceable_error(*status)).map(Some),
            Err(_) => Some(None),
        };
        if let (Some(status), Some((stale, method, headers))) = (failed, fallback) {
            let status = status.map(|status| status.as_u16());
            if let Some(entry) = self.stale_if_error_entry(&headers, Some(stale), status) {
                let response = self.respond_after_miss(entry, &method, &headers, Served::StaleIfError(status));
                return Ok(Answered::by_cache(response));
            }
        }
        let mut response = result?.map(ResponseBody::inner);
        self.policy.strip_internal(response.headers_mut());
        annotate::passed(response.headers_mut(), &self.signature, refusal);
        Ok(Answered { response, by_application: true })
    }

    /// As [`forward_uncached`](Self::forward_uncached), with the fields that a response would have that is stored.
    pub(super) async fn forward_alone<S: Origin<B>, B>(
        &self,
        mut forward: Forward<'_, S, B>,
    ) -> Result<Response<ResponseBody<S::Content>>, S::Error> {
        let asked = self.would_be_stored(&mut forward);
        let Answered { mut response, by_application } = self.forward_uncached(forward).await?;
        if by_application {
            self.as_stored(asked, &mut response);
        }
        Ok(response)
    }

    /// As [`forward_uncached`](Self::forward_uncached), and learns from the response how to handle the next request for a range.
    pub(super) async fn forward_and_learn<S: Origin<B>, B>(
        &self,
        mut forward: Forward<'_, S, B>,
    ) -> Result<Answered<S::Content>, S::Error> {
        let request = CacheRequest::of_get(self, forward.key.clone(), forward.request());
        let answered = self.forward_uncached(forward).await?;
        if let Some(request) = request.filter(|_| answered.by_application) {
            self.learn_from_answer(&request, &answered.response);
        }
        Ok(answered)
    }

    /// The request, and whether it is HEAD, if a response to it that is stored may be sent in codings.
    pub(super) fn would_be_stored<S: Origin<B>, B>(
        &self,
        forward: &mut Forward<'_, S, B>,
    ) -> Option<Box<(CacheRequest, bool)>> {
        // Boxed: few layers and requests have it.
        self.policy.encode.as_ref().filter(|_| forward.refusal.reason != NoCacheReason::Remembered)?;
        let key = forward.key.clone();
        let request = forward.request();
        Some(Box::new((CacheRequest::of_get(self, key, request)?, request.method() == Method::HEAD)))
    }

    /// Adapts the response to a request that was forwarded, if a response that is stored would be sent in codings: to other
    /// clients, or to this one next time. A part is judged by what it is a part of.
    pub(super) fn as_stored<R: Body>(
        &self,
        asked: Option<Box<(CacheRequest, bool)>>,
        response: &mut Response<ResponseBody<R>>,
    ) {
        let (Some(encode), Some(asked)) = (&self.policy.encode, asked) else { return };
        let (asked, is_head) = *asked;
        let Some((status, headers, length)) = complete(response) else { return };
        let length = length.unwrap_or(0);
        // This takes less than the plan.
        if !encode.may_encode(status, &headers, length) {
            return;
        }
        let whole = OriginResponse {
            status,
            headers: &headers,
            names: Shapes::of(headers.keys()),
            time: self.cache.now(),
            tags: Tags::default(),
            freshness: response.extensions().get::<Freshness>().copied(),
            inherited: response.extensions().get::<Reads>().cloned(),
            length,
        };
        if !self.plan(&asked, whole).is_ok_and(|plan| plan.is_encodable()) {
            return;
        }
        if !is_head {
            return vary(response.headers_mut());
        }
        // As GET would be answered.
        self.as_it_came(Some(&*asked.headers), status, response.headers_mut());
        if is_not_modified(&asked.headers, status, response.headers(), self.cache.now() / 1000) {
            retain_not_modified_fields(response.headers_mut());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = ResponseBody::empty();
        }
    }

    /// The answer if there was no place at the application.
    fn without_place<R: Body>(
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

/// The status, the fields and the length, where it is known, of the complete response that this one is, or is a part of.
fn complete<R>(response: &Response<R>) -> Option<(StatusCode, HeaderMap, Option<u64>)> {
    let (mut headers, mut status) = (response.headers().clone(), response.status());
    let length = match status {
        StatusCode::PARTIAL_CONTENT => complete_length(&headers),
        _ => content_length(&headers).ok()?,
    };
    if status == StatusCode::PARTIAL_CONTENT {
        status = StatusCode::OK;
        headers.remove(CONTENT_RANGE);
        headers.remove(CONTENT_LENGTH);
    }
    Some((status, headers, length))
}
