//! The half of an explanation that the application's response decides.

use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, SizeHint};

use super::{
    details::PlanDetails,
    explanation::{Explanation, Pending, Rest},
};
use crate::{
    http::{
        annotate::{self, Served},
        granted_load::Planned,
        plan::{CacheRequest, Plan},
        response_entry::ResponseEntry,
        select::Miss,
    },
    semantics::{stale_windows::is_replaceable_error, update::selects},
    telemetry::NoCacheReason,
};

impl Explanation {
    /// The explanation for the case that the application answers with `response`: whether that response would be stored, for how
    /// long, and under which tags. Its extensions are honoured; values that its handler would
    /// [read](crate::CacheLayer::inherit) are not known.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore, telemetry::NoCacheReason};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let layer = CacheLayer::new(Cache::new(MemoryStore::new(1 << 20)));
    /// let request = http::Request::get("http://shop.example/basket").body(String::new()).unwrap();
    /// let response = http::Response::builder().header("cache-control", "private").body(String::new()).unwrap();
    /// let explanation = layer.explain(&request).await.if_answered(&response);
    /// assert_eq!(explanation.reason, Some(NoCacheReason::Private));
    /// assert_eq!(explanation.cache_status, "cache-layer; fwd=uri-miss; detail=private");
    /// # }
    /// ```
    #[must_use]
    pub fn if_answered<R: Body>(mut self, response: &Response<R>) -> Self {
        let mut head = Response::new(());
        *head.status_mut() = response.status();
        *head.headers_mut() = response.headers().clone();
        *head.extensions_mut() = response.extensions().clone();
        if let Some(pending) = self.pending.take() {
            pending.decide(head, response.body().size_hint(), &mut self);
        }
        self
    }

    /// The explanation for the case that the application's service fails and gives no response. If no stored response [stands
    /// in](Self::stands_in), the request fails, too.
    #[must_use]
    pub fn if_failed(mut self) -> Self {
        let Some(pending) = self.pending.take() else { return self };
        (self.is_final, self.reason) = (true, Some(NoCacheReason::ServiceFailed));
        if !pending.stands_in(&mut self, None) {
            self.cache_status.clear();
        }
        self
    }
}

impl Pending {
    /// Lets a stale entry replace an error with this status, or a missing response, if it may.
    fn stands_in(&self, explanation: &mut Explanation, status: Option<u16>) -> bool {
        let stale = match &self.rest {
            Rest::Forward(stale) => stale.as_ref(),
            Rest::Load { miss, .. } => miss.stale.as_ref(),
        };
        let entry = self.context.stale_if_error_entry(self.request.headers(), stale, status);
        if let Some(entry) = &entry {
            self.context.answered(explanation, entry, Served::StaleIfError(status));
        }
        entry.is_some()
    }

    fn decide(&self, head: Response<()>, hint: SizeHint, explanation: &mut Explanation) {
        explanation.is_final = true;
        let status = head.status();
        if is_replaceable_error(status) && self.stands_in(explanation, Some(status.as_u16())) {
            return;
        }
        let Rest::Load { miss, not_stored } = &self.rest else { return };
        let (context, why) = (&self.context, miss.detail.why);
        let (plan, validated) = self.plan(head, hint, miss);
        let not_stored = plan.as_ref().err().copied().or(*not_stored);
        explanation.reason = annotate::detail(why, not_stored);
        explanation.plan = plan.ok().map(|plan| PlanDetails::of(&plan));
        match validated {
            Some(entry) => context.answered(explanation, &entry, Served::Validated { why, not_stored }),
            None => {
                explanation.says(|headers| annotate::miss(headers, &context.signature.plain(), why, not_stored));
            }
        }
    }

    /// The plan for a response, or for the stored response that it confirms.
    fn plan(
        &self,
        head: Response<()>,
        hint: SizeHint,
        miss: &Miss,
    ) -> (Result<Plan, NoCacheReason>, Option<ResponseEntry>) {
        let (context, now) = (&self.context, self.context.cache.now());
        let request = CacheRequest::as_get(context, self.target.clone(), self.key.clone(), &self.request);
        let request = CacheRequest { time: now, ..request };
        let status = head.status();
        let (mut parts, ()) = head.into_parts();
        let stored = miss.stale.clone().and_then(ResponseEntry::new);
        match stored.filter(|_| status == StatusCode::NOT_MODIFIED) {
            Some(entry) if !holds(&entry, &parts.headers, now) => (Err(NoCacheReason::Unmatched), Some(entry)),
            Some(entry) => {
                let headers = context.freshened(&entry, &mut parts);
                let response = context.origin_response(&request.target, &entry, &headers, &mut parts);
                (context.plan(&request, response), Some(entry))
            }
            None => {
                let Planned { plan, .. } = context.plan_head(&request, &mut parts, hint, now);
                (plan, None)
            }
        }
    }
}

/// Whether a 304 with these fields confirms `entry`.
fn holds(entry: &ResponseEntry, not_modified: &HeaderMap, now: u64) -> bool {
    let stored = entry.response();
    stored.can_be_validated() && selects(not_modified, &stored.headers, now / 1000)
}
