//! Ranges of what is not kept: the application answers them itself.
//!
//! Of what is not stored, a load asks for the whole, and cuts the part out of it. If the whole then is not kept, the client
//! has lost its range. So a client's kind of request that will most likely bring nothing to keep goes on as it came, from the
//! first one on where that can be guessed, and else from the second one on. A wrong guess costs a hit, and no more.

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
    semantics::{list::has, range::complete_length},
    tag::Tags,
    telemetry::NoCacheReason,
};

impl Context {
    /// Why a request for a part of what is not stored, or has been `stale` since this response came, goes to the application
    /// as it is; `None` if the whole is to be loaded.
    pub(super) fn passes_range(&self, key: &Key, request: &HeaderMap, stale: Option<u64>) -> Option<NoCacheReason> {
        if !has(request, &RANGE) {
            return None;
        }
        let client = Client::of(request, &self.policy.cookies);
        match (self.range_memory.learned(key, client, self.cache.now()), stale) {
            // What was stored after that is newer.
            (Some(Learned { kept: false, at }), stale) if stale.is_none_or(|came| came < at) => {
                Some(NoCacheReason::Remembered)
            }
            (None, None) if self.owner.is_none() && client.is_known_to_the_application() => {
                Some(NoCacheReason::RangeRequest)
            }
            _ => None,
        }
    }

    /// Learns from the whole that it is not kept, if that may matter: a range was asked for, or is offered.
    pub(super) fn learn_from_whole(&self, asked: &CacheRequest, offers_ranges: bool, reason: NoCacheReason) {
        let matters = offers_ranges || asked.headers.contains_key(RANGE);
        if matters && is_lasting_for_client(reason) {
            let learned = Learned { kept: false, at: self.cache.now() };
            self.range_memory.learn(&asked.key, Client::of(&asked.headers, &self.policy.cookies), learned);
        }
    }

    /// Learns from the answer to a range that was passed on, or to HEAD, whether the whole would be kept.
    pub(super) fn learn_from_answer<R>(&self, asked: &CacheRequest, response: &Response<R>) {
        if !asked.headers.contains_key(RANGE) && !response.headers().contains_key(ACCEPT_RANGES) {
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
            time: now,
            tags: Tags::default(),
            freshness: response.extensions().get::<Freshness>().copied(),
            inherited: response.extensions().get::<Reads>().cloned(),
            length: length.unwrap_or(0),
        };
        let client = Client::of(&asked.headers, &self.policy.cookies);
        let kept = match self.plan(asked, came) {
            Err(reason) if !is_lasting_for_client(reason) => return,
            // It was not watched what the handler read: the whole may inherit its freshness.
            Err(NoCacheReason::NoFreshness) if self.policy.inherits => return,
            Err(_) => false,
            // A load that has seen the whole knows better than a head, which may say nothing of its length or its trailers.
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
