//! Ranges of responses that can't be stored: the application answers them itself.
//!
//! If a response is not stored yet, a load asks for the whole response, and cuts the range out of it. If the response then
//! can't be stored, the client gets the whole response instead of its range. So a request for a range is forwarded unchanged if
//! its response will most likely not be stored: from the first request on if that can be guessed, and otherwise from the second
//! one on. A wrong guess only costs a hit.

use http::{
    HeaderMap, Response, StatusCode,
    header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, RANGE},
};

use super::{
    context::Context,
    plan::{CacheRequest, OriginResponse, is_lasting},
    range_memory::{Client, Learned},
    record::content_length,
};
use crate::{
    inherit::Reads,
    key::Key,
    policy::Freshness,
    semantics::{list::has, names::Shapes, range::complete_length},
    tag::Tags,
    telemetry::NoCacheReason,
};

impl Context {
    /// Why a request for a range of a response that is not stored, or is `stale` and was received at this time, is forwarded
    /// unchanged; `None` if the whole response is to be loaded.
    pub(super) fn passes_range(&self, key: &Key, request: &HeaderMap, stale: Option<u64>) -> Option<NoCacheReason> {
        if !has(request, &RANGE) {
            return None;
        }
        let client = Client::of(request, &self.policy);
        match (self.range_memory.learned(key, client, self.cache.now()), stale) {
            // A response that was stored after that is newer.
            (Some(Learned { kept: false, .. }), _) if self.policy.is_hinted => None,
            (Some(Learned { kept: false, at }), stale) if stale.is_none_or(|came| came < at) => {
                Some(NoCacheReason::Remembered)
            }
            (None, None) if self.owner.is_none() && client.is_known_to_the_application() => {
                Some(NoCacheReason::RangeRequest)
            }
            _ => None,
        }
    }

    /// Learns that a whole response is not stored, if that may matter: the request had a range, or the response offers ranges.
    pub(super) fn learn_from_whole(&self, asked: &CacheRequest, offers_ranges: bool, reason: NoCacheReason) {
        let matters = (offers_ranges || asked.headers.contains_key(RANGE)) && !self.policy.is_hinted;
        if matters && is_lasting_for_client(reason) {
            let learned = Learned { kept: false, at: self.cache.now() };
            self.range_memory.learn(&asked.key, Client::of(&asked.headers, &self.policy), learned);
        }
    }

    /// Learns from the answer to a forwarded range, or to HEAD, whether the whole response would be stored.
    pub(super) fn learn_from_answer<R>(&self, asked: &CacheRequest, response: &Response<R>) {
        let matters = asked.headers.contains_key(RANGE) || response.headers().contains_key(ACCEPT_RANGES);
        if !matters || self.policy.is_hinted {
            return;
        }
        let (mut headers, now) = (response.headers().clone(), self.cache.now());
        let length = match response.status() {
            StatusCode::PARTIAL_CONTENT => complete_length(&headers),
            StatusCode::OK => content_length(&headers).unwrap_or(None),
            _ => return,
        };
        for name in [CONTENT_RANGE, CONTENT_LENGTH] {
            headers.remove(name);
        }
        let came = OriginResponse {
            status: StatusCode::OK,
            headers: &headers,
            names: Shapes::of(headers.keys()),
            time: now,
            tags: Tags::default(),
            freshness: response.extensions().get::<Freshness>().copied(),
            inherited: response.extensions().get::<Reads>().cloned(),
            length: length.unwrap_or(0),
        };
        let client = Client::of(&asked.headers, &self.policy);
        let kept = match self.plan(asked, came) {
            Err(reason) if !is_lasting_for_client(reason) => return,
            // The reads of the handler were not recorded: the whole response may inherit its freshness.
            Err(NoCacheReason::NoFreshness) if self.policy.inherits => return,
            Err(_) => false,
            // A load that has seen the whole response knows more than a head, which may not state the length or trailers.
            Ok(_) if length.is_none() || self.range_memory.learned(&asked.key, client, now).is_some() => return,
            Ok(_) => true,
        };
        self.range_memory.learn(&asked.key, client, Learned { kept, at: now });
    }
}

/// Whether the next response to the same kind of client will most likely be refused for the same reason.
fn is_lasting_for_client(reason: NoCacheReason) -> bool {
    is_lasting(reason) || matches!(reason, NoCacheReason::Authorization | NoCacheReason::Cookie)
}
