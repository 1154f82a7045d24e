//! RangeMemory of what is not kept: the application answers them itself.
//!
//! Of what is not stored, a load asks for the whole, and cuts the part out of it. If the whole then is not kept, the client
//! has lost its range. So a client's kind of request that will most likely bring nothing to keep goes on as it came, from the
//! first one on where that can be guessed, and else from the second one on. A wrong guess costs a hit, and no more.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
};

use http::{
    HeaderMap, Response, StatusCode,
    header::{ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, COOKIE, RANGE},
};

use super::{
    context::Context,
    plan::{CacheRequest, OriginResponse, is_lasting},
    record::content_length,
};
use crate::{
    inherit::Reads,
    key::{Key, KeyId},
    policy::Freshness,
    semantics::range::complete_length,
    sync::Mutex,
    tag::Tags,
    telemetry::NoCacheReason,
};

/// Keys remembered at one time.
const CAP: usize = 10_000;
/// How long one is, in milliseconds.
const REMEMBERED: u64 = 60 * 60 * 1000;

/// What is remembered of ranges, by key and kind of client. Clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct RangeMemory(Arc<Mutex<HashMap<(KeyId, Client), Learned>>>);

/// What of a client may decide whether its response is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Client {
    authorized: bool,
    has_cookies: bool,
}

impl Client {
    fn of(request: &HeaderMap) -> Self {
        Self { authorized: request.contains_key(AUTHORIZATION), has_cookies: request.contains_key(COOKIE) }
    }

    /// A response to it may be its own: such are rarely kept.
    fn is_known_to_the_application(self) -> bool {
        self.authorized || self.has_cookies
    }
}

#[derive(Clone, Copy, Debug)]
struct Learned {
    /// Whether the whole is kept.
    kept: bool,
    /// In milliseconds since the Unix epoch.
    at: u64,
}

impl RangeMemory {
    fn table(&self) -> MutexGuard<'_, HashMap<(KeyId, Client), Learned>> {
        self.0.lock()
    }

    fn learned(&self, key: &Key, client: Client, now: u64) -> Option<Learned> {
        let learned = self.table().get(&(key.id(), client)).copied()?;
        // One from the future is from before the clock was set back.
        (now.checked_sub(learned.at)? < REMEMBERED).then_some(learned)
    }

    fn learn(&self, key: &Key, client: Client, learned: Learned) {
        let mut table = self.table();
        if table.len() >= CAP {
            // To look for those whose time is up would take longer than to learn them once more.
            table.clear();
        }
        table.insert((key.id(), client), learned);
    }
}

impl Context {
    /// Why a request for a part of what is not stored, or has been `stale` since this response came, goes to the application
    /// as it is; `None` if the whole is to be loaded.
    pub(super) fn passes_range(&self, key: &Key, request: &HeaderMap, stale: Option<u64>) -> Option<NoCacheReason> {
        if !request.contains_key(RANGE) {
            return None;
        }
        let client = Client::of(request);
        match (self.range_memory.learned(key, client, self.cache.now()), stale) {
            // What was stored after that is newer.
            (Some(Learned { kept: false, at }), stale) if stale.is_none_or(|came| came < at) => {
                Some(NoCacheReason::Remembered)
            }
            (None, None) if client.is_known_to_the_application() => Some(NoCacheReason::RangeRequest),
            _ => None,
        }
    }

    /// Learns from the whole that it is not kept, if that may matter: a range was asked for, or is offered.
    pub(super) fn learn_from_whole(&self, asked: &CacheRequest, offers_ranges: bool, reason: NoCacheReason) {
        let matters = offers_ranges || asked.headers.contains_key(RANGE);
        if matters && is_lasting_for_client(reason) {
            let learned = Learned { kept: false, at: self.cache.now() };
            self.range_memory.learn(&asked.key, Client::of(&asked.headers), learned);
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
            headers,
            tags: Tags::default(),
            freshness: response.extensions().get::<Freshness>().copied(),
            inherited: response.extensions().get::<Reads>().cloned(),
            length: length.unwrap_or(0),
        };
        let client = Client::of(&asked.headers);
        let kept = match self.plan(asked, came) {
            Err(reason) if !is_lasting_for_client(reason) => return,
            // It was not watched what the handler read: the whole may inherit its freshness.
            Err(NoCacheReason::NoFreshness) if self.policy.inherits => return,
            Err(_) => false,
            // Whoever has seen the whole knows better than a head, which may say nothing of its length or its trailers.
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

#[cfg(test)]
mod tests {
    use super::*;

    const ANYBODY: Client = Client { authorized: false, has_cookies: false };

    #[test]
    fn what_is_learned_is_forgotten_in_time_and_bounded() {
        let ranges = RangeMemory::default();
        let (key, learned) = (Key::new(["k"]), Learned { kept: false, at: 5 });
        ranges.learn(&key, ANYBODY, learned);
        let known = |now| ranges.learned(&key, ANYBODY, now).is_some();
        assert_eq!([5, 4 + REMEMBERED, 5 + REMEMBERED, 4].map(known), [true, true, false, false]);
        assert!(ranges.learned(&key, Client { authorized: true, ..ANYBODY }, 5).is_none());
        for number in 0..=CAP {
            ranges.learn(&Key::new([number.to_string()]), ANYBODY, learned);
        }
        assert!((1..=CAP).contains(&ranges.table().len()));
    }
}
