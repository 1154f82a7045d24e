//! Which stored response may answer a request (RFC 9111, section 4).

use http::HeaderMap;

use super::{
    context::Context,
    response_entry::{ResponseEntry, view},
    stored::{Stored, StoredVaries},
};
use crate::{
    engine::{
        Reading, Retrieved,
        early::{Life, is_due},
        miss::{self, Found},
    },
    entry::{Entry, EntryId, Version},
    key::Key,
    semantics::{
        cache_status::ForwardReason,
        reuse::{Candidate, Reuse},
        vary::accepts_codings,
    },
    store::Seen,
    switches::Switch,
    tag::TagState,
    telemetry::{Event, Rejection},
};

/// The result of a look-up for one request.
pub(super) type Selection = Found<Hit, Route>;

/// The place that a response to the request will take, unless its own `Vary` says otherwise.
pub(super) type Miss = miss::Miss<Route>;

/// A stored response that answers a request.
pub(super) struct Hit {
    pub(super) entry: ResponseEntry,
    /// The variant's key, and the entry that led to it, if the response is a variant.
    variant: Option<(Key, Varies)>,
}

/// Why a request goes to the application, and the entries that led to this.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) why: ForwardReason,
    /// The entry of the primary key that led to the miss, if that entry names the fields that select a variant. Boxed: most misses
    /// have none, and a miss is moved several times.
    pub(super) varies: Option<Box<Varies>>,
}

#[derive(Clone)]
pub(super) struct Varies {
    pub(super) version: Version,
    pub(super) stored: StoredVaries,
    /// What soft invalidations of its key have done to all variants.
    pub(super) softening: TagState,
    /// That entry.
    pub(super) index: Entry,
}

impl Hit {
    /// Its own key; `primary` is the key that was looked up.
    pub(super) fn key(&self, primary: &Key) -> Key {
        self.variant.as_ref().map_or(primary, |(key, _)| key).clone()
    }

    /// The place that the response to the request would take, were the request forwarded; `primary` is the key that was
    /// looked up.
    pub(super) fn miss(&self, primary: &Key, why: ForwardReason) -> Miss {
        let (key, varies) = match &self.variant {
            Some((key, varies)) => (key.clone(), Some(Box::new(varies.clone()))),
            None => (primary.clone(), None),
        };
        // The new response may be any.
        let (expected, stale) = (Some(Seen::Entry(self.entry.id())), Some((*self.entry).clone()));
        Miss { key, expected, stale, detail: Route { why, varies } }
    }
}

/// The result of a look-up in the memory of this process.
pub(super) enum InMemory {
    /// The answer at this moment, in milliseconds since the Unix epoch.
    Answer(ResponseEntry, u64),
    /// The whole store is in this process, and has no entry under the primary key.
    Missing(Seen),
    Unknown,
}

/// The decision about an entry for one request.
pub(super) enum Decision {
    Answer(ResponseEntry),
    AnswerAndRefresh(ResponseEntry),
    Validate(ResponseEntry, ForwardReason),
    /// The key has variants, and the request selects this one.
    Variant(Key, Varies),
    /// It is in a coding that the client refuses.
    Refused(EntryId),
    /// It is not an entry of this front end.
    Unreadable(EntryId),
}

impl Context {
    pub(super) fn decide(&self, entry: Entry, key: &Key, headers: &HeaderMap, now: u64) -> Decision {
        match view(&entry) {
            Some(Stored::Response(_)) => self.decide_on(ResponseEntry::written(entry), key, headers, now),
            Some(Stored::Varies(stored)) => {
                let variant = self.variant_key(key, &stored.fields, headers);
                let (version, stored, softening) = (entry.version(), stored.clone(), entry.softening());
                Decision::Variant(variant, Varies { version, stored, softening, index: entry })
            }
            None => Decision::Unreadable(entry.id()),
        }
    }

    fn decide_on(&self, entry: ResponseEntry, key: &Key, headers: &HeaderMap, now: u64) -> Decision {
        let response = entry.response();
        if !response.info.traits.plain {
            // It may redirect its clients in a circle.
            if response.info.status.is_redirection() && !response.info.traits.no_circle {
                return Decision::Validate(entry, ForwardReason::Miss);
            }
            if response.info.traits.encodable {
                return match self.legible(entry, key, headers) {
                    Ok(entry) => self.decide_by_age(entry, headers, now),
                    Err(id) => Decision::Unreadable(id),
                };
            }
            // No client gets a coding that it can't read, however the entry was found.
            if !accepts_codings(headers, &response.headers) {
                return Decision::Refused(entry.id());
            }
        }
        self.decide_by_age(entry, headers, now)
    }

    fn decide_by_age(&self, entry: ResponseEntry, headers: &HeaderMap, now: u64) -> Decision {
        let response = entry.response();
        let deadlines = entry.deadlines_at(now);
        let from_the_future = entry.is_from_the_future(now);
        let candidate = Candidate {
            age: response.info.age(now),
            freshness_left_ms: milliseconds_left(deadlines.fresh, now),
            immutable: response.info.traits.immutable,
            never_stale: response.info.traits.never_stale || from_the_future,
        };
        match self.directives(headers).reuse(candidate) {
            Reuse::Fresh | Reuse::AcceptedStale => Decision::Answer(entry),
            Reuse::Stale if now < deadlines.stale_while_revalidate => Decision::AnswerAndRefresh(entry),
            Reuse::Stale if !from_the_future && self.has_wider_grace(&entry, now) => Decision::AnswerAndRefresh(entry),
            Reuse::Stale if from_the_future => Decision::Validate(entry, ForwardReason::FromTheFuture),
            Reuse::Stale => Decision::Validate(entry, ForwardReason::Stale),
            Reuse::Unwanted => Decision::Validate(entry, ForwardReason::Request),
        }
    }

    /// Whether a stale entry is used for as long as it is kept, because of an operator's switch.
    fn has_wider_grace(&self, entry: &ResponseEntry, now: u64) -> bool {
        let is_kept = !entry.response().info.traits.never_stale && now < entry.deadlines().gone;
        is_kept && self.cache.is_switched(Switch::WiderGrace)
    }

    /// The answer that `entry` is, or that it leads to by `find`, if that needs no further look-up.
    fn answer_of(
        &self,
        entry: Entry,
        find: impl Fn(&Key) -> Option<Entry>,
        key: &Key,
        headers: &HeaderMap,
        now: u64,
    ) -> Option<ResponseEntry> {
        let decision = match self.decide(entry, key, headers, now) {
            Decision::Variant(key, varies) => self.decide(variant_of(find(&key)?, &varies).ok()?, &key, headers, now),
            decision => decision,
        };
        match decision {
            Decision::Answer(entry) => Some(entry),
            _ => None,
        }
    }

    /// The answer that this process has in memory. This is not a look-up: no event is emitted.
    pub(super) fn peek_answer(&self, key: &Key, headers: &HeaderMap) -> Option<ResponseEntry> {
        self.answer_of(self.cache.peek(key)?, |key| self.cache.peek(key), key, headers, self.cache.now())
    }

    /// What this process can tell from its memory.
    pub(super) fn select_in_memory(&self, key: &Key, headers: &HeaderMap) -> InMemory {
        let entry = match self.cache.lookup_at_once(key) {
            Some(Retrieved::Found(entry)) => entry,
            Some(Retrieved::Missing(seen)) => return InMemory::Missing(seen),
            Some(Retrieved::Unavailable) | None => return InMemory::Unknown,
        };
        let now = self.cache.now();
        let answer = self.answer_of(entry, |key| self.cache.peek(key), key, headers, now);
        answer.map_or(InMemory::Unknown, |answer| InMemory::Answer(answer, now))
    }

    /// Selects the entry that answers a request among the `entries` of a primary key, which are not stored, or not yet.
    pub(super) fn select_among(
        &self,
        entries: &[(Key, Entry)],
        key: &Key,
        headers: &HeaderMap,
    ) -> Option<ResponseEntry> {
        let find = |key: &Key| entries.iter().find(|(one, _)| one == key).map(|(_, entry)| entry.clone());
        self.answer_of(find(key)?, find, key, headers, self.cache.now())
    }

    /// Selects a stored response for a request.
    pub(super) async fn select(&self, key: &Key, headers: &HeaderMap, purpose: Reading) -> Selection {
        let entry = match self.cache.read(key, purpose).await {
            Retrieved::Found(entry) => entry,
            Retrieved::Missing(seen) => return Selection::Missing(missing_uri(key, seen)),
            Retrieved::Unavailable => return unreachable_store(key),
        };
        let (variant, varies) = match self.decide(entry, key, headers, self.cache.now()) {
            Decision::Variant(variant, varies) => (variant, varies),
            decision => return self.selected(key, decision, None, purpose),
        };
        let seen = match self.cache.read(&variant, purpose).await {
            Retrieved::Found(entry) => match variant_of(entry, &varies) {
                Ok(entry) => {
                    let decision = self.decide(entry, &variant, headers, self.cache.now());
                    return self.selected(key, decision, Some((variant, varies)), purpose);
                }
                Err(id) => Seen::Entry(id),
            },
            Retrieved::Missing(seen) => seen,
            Retrieved::Unavailable => return unreachable_store(key),
        };
        missing(variant, Some(seen), ForwardReason::VaryMiss, Some(varies))
    }

    fn selected(
        &self,
        primary: &Key,
        decision: Decision,
        variant: Option<(Key, Varies)>,
        purpose: Reading,
    ) -> Selection {
        match decision {
            Decision::Answer(entry) => Selection::Fresh(Hit { entry, variant }),
            Decision::AnswerAndRefresh(entry) => {
                let hit = Hit { entry, variant };
                let miss = hit.miss(primary, ForwardReason::Stale);
                Selection::Stale(hit, miss)
            }
            Decision::Validate(entry, why) => {
                if why == ForwardReason::FromTheFuture && purpose == Reading::Answer {
                    self.cache.emit(Event::Rejected(Rejection::Future));
                }
                Selection::Missing(Hit { entry, variant }.miss(primary, why))
            }
            Decision::Variant(_, varies) => no_response(primary, varies.version.id, variant),
            Decision::Refused(id) | Decision::Unreadable(id) => no_response(primary, id, variant),
        }
    }

    /// Whether it is remembered that a response for the variant of this miss could not be stored.
    pub(super) fn remembers_refusal_of_variant(&self, miss: &Miss) -> bool {
        miss.detail.varies.is_some() && self.remembers_refusal(&miss.key)
    }

    /// Whether a request that `entry` answers should refresh it, though it is fresh.
    pub(super) fn is_due_early(&self, entry: &ResponseEntry) -> bool {
        let Some(beta) = self.policy.early_refresh else { return false };
        let now = self.cache.now();
        let life = Life {
            lifetime: entry.deadlines().fresh.saturating_sub(entry.response().info.response_time),
            left: entry.deadlines_at(now).fresh.saturating_sub(now),
            load_time: entry.load_time(),
        };
        is_due(beta, life, fastrand::f64)
    }

    /// The stale entry that may be used in place of an error with this `status`, or of a missing response, with its payload.
    pub(super) fn stale_if_error_entry(
        &self,
        request: &HeaderMap,
        stale: Option<&Entry>,
        status: Option<u16>,
    ) -> Option<ResponseEntry> {
        self.usable_on_error(request, stale, status)?.inflated().map(ResponseEntry::written)
    }

    /// The stale entry that may be used in place of an error with this `status`, or of a missing response (RFC 5861, section
    /// 4). An entry that may be used while it is refreshed may also be used if the refresh fails.
    pub(super) fn usable_on_error(
        &self,
        request: &HeaderMap,
        stale: Option<&Entry>,
        status: Option<u16>,
    ) -> Option<ResponseEntry> {
        let entry = ResponseEntry::new(stale?.clone())?;
        let now = self.cache.now();
        if entry.is_from_the_future(now) {
            return None;
        }
        let deadlines = entry.deadlines();
        let until = match status {
            Some(_) => deadlines.stale_if_error,
            None => {
                let disconnected = entry.response().info.stale_if_disconnected.saturating_sub(entry.brought_forward());
                disconnected.max(deadlines.stale_if_error)
            }
        };
        let until = until.max(deadlines.stale_while_revalidate);
        let until = if self.has_wider_grace(&entry, now) { until.max(deadlines.gone) } else { until };
        let stale_for = now.saturating_sub(deadlines.fresh) / 1000;
        let accepted = self.directives(request).accepts_stale_on_error(stale_for);
        (now < until && accepted).then_some(entry)
    }
}

/// The entry, if `varies` leads to it, and as stale as that is; or the id of another one.
fn variant_of(entry: Entry, varies: &Varies) -> Result<Entry, EntryId> {
    let leads_here = match view(&entry) {
        Some(Stored::Response(response)) => response.info.parent == Some(varies.version.id),
        Some(Stored::Varies(_)) | None => false,
    };
    let id = entry.id();
    entry.in_state(varies.softening).filter(|_| leads_here).ok_or(id)
}

/// The miss if there is no usable entry under the primary key.
pub(super) fn missing_uri(primary: &Key, seen: Seen) -> Miss {
    let detail = Route { why: ForwardReason::UriMiss, varies: None };
    Miss { key: primary.clone(), expected: Some(seen), stale: None, detail }
}

fn missing(key: Key, expected: Option<Seen>, why: ForwardReason, varies: Option<Varies>) -> Selection {
    Selection::Missing(Miss { key, expected, stale: None, detail: Route { why, varies: varies.map(Box::new) } })
}

/// The miss if the store did not answer: it is a miss of the primary key.
fn unreachable_store(primary: &Key) -> Selection {
    missing(primary.clone(), None, ForwardReason::Miss, None)
}

/// The miss if the entry has no response in it.
fn no_response(primary: &Key, id: EntryId, variant: Option<(Key, Varies)>) -> Selection {
    let (key, varies) = match variant {
        Some((key, varies)) => (key, Some(varies)),
        None => (primary.clone(), None),
    };
    missing(key, Some(Seen::Entry(id)), ForwardReason::Miss, varies)
}

/// Milliseconds until `moment`; negative after it.
pub(super) fn milliseconds_left(moment: u64, now: u64) -> i64 {
    // Somebody else may have written the moment.
    let [moment, now] = [moment, now].map(|millis| i64::try_from(millis).unwrap_or(i64::MAX));
    moment.saturating_sub(now)
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use super::*;
    use crate::{
        engine::Cache,
        entry::Deadlines,
        http::stored::{StoredInfo, Traits},
        store::MemoryStore,
    };
    use bytes::Bytes;
    use http::StatusCode;

    #[test]
    fn a_moment_without_end_is_ahead_of_every_other() {
        let now = 1_795_392_000_000;
        let left = [now - 1, now, now + 1, 1 << 63, u64::MAX].map(|moment| milliseconds_left(moment, now));
        assert!(left.is_sorted() && left[..3] == [-1, 0, 1] && left[3] > 1 << 62, "{left:?}");
    }

    #[test]
    fn a_redirect_that_may_lead_to_itself_is_not_answered_with() {
        let context = Context::new(Cache::new(MemoryStore::new(1 << 20)));
        let key = Key::new(["k"]);
        let decision = |status, no_circle| {
            let info = StoredInfo {
                status,
                response_time: 0,
                initial_age: 0,
                stale_if_disconnected: 0,
                traits: Traits { no_circle, ..Traits::default() },
                parent: None,
            };
            let deadlines = Deadlines::fresh_until(1_000_000);
            let entry = Entry::new(
                EntryId::random(),
                &key,
                deadlines,
                info.with_fields(std::iter::empty()).into(),
                Bytes::new(),
            );
            context.decide(entry, &key, &HeaderMap::new(), 1_000)
        };
        assert!(matches!(decision(StatusCode::OK, false), Decision::Answer(_)));
        assert!(matches!(decision(StatusCode::MOVED_PERMANENTLY, true), Decision::Answer(_)));
        assert!(matches!(decision(StatusCode::MOVED_PERMANENTLY, false), Decision::Validate(_, ForwardReason::Miss)));
    }
    /// An entry as it comes from Redis, with the frame of its content alone, which is stale, and may be used.
    #[cfg(all(feature = "redis", feature = "encode-zstd"))]
    fn framed(key: &Key, encodable: bool) -> Entry {
        use crate::{
            coding::Coding,
            entry::{Form, envelope},
        };

        let info = StoredInfo {
            status: StatusCode::OK,
            response_time: 0,
            initial_age: 0,
            stale_if_disconnected: 0,
            traits: Traits { encodable, plain: !encodable, ..Traits::default() },
            parent: None,
        };
        let deadlines = Deadlines {
            stale_while_revalidate: 2_000,
            stale_if_error: 2_000,
            gone: 2_000,
            ..Deadlines::fresh_until(1_000)
        };
        let content = Bytes::from("number ".repeat(100));
        let frame = Form::Made(Coding::Zstd.encode(&content).unwrap());
        let meta = info.with_fields(std::iter::empty()).into();
        let entry = Entry::new(EntryId::random(), key, deadlines, meta, content).with_form(Coding::Zstd, frame);
        envelope::decode(key, &envelope::encode(&entry)).unwrap()
    }

    /// Every request that finds it stale would inflate it, though one of them leads the load.
    #[cfg(all(feature = "redis", feature = "encode-zstd"))]
    #[test]
    fn what_is_refreshed_is_not_inflated_for_that() {
        use http::{HeaderValue, header::ACCEPT_ENCODING};

        let mut context = Context::new(Cache::new(MemoryStore::new(1 << 20)));
        context.policy.set_encode([crate::Coding::Zstd].into());
        let (key, mut request) = (Key::new(["k"]), HeaderMap::new());
        request.insert(ACCEPT_ENCODING, HeaderValue::from_static("zstd"));
        let Decision::AnswerAndRefresh(entry) = context.decide(framed(&key, true), &key, &request, 1_500) else {
            panic!("it is refreshed")
        };
        let stale = Hit { entry, variant: None }.miss(&key, ForwardReason::Stale).stale.unwrap();
        assert!(stale.is_framed());
    }

    /// Its content would be left out, under the length of the whole.
    #[cfg(all(feature = "redis", feature = "encode-zstd"))]
    #[test]
    fn a_frame_of_what_is_not_encodable_is_not_read() {
        let context = Context::new(Cache::new(MemoryStore::new(1 << 20)));
        let key = Key::new(["k"]);
        let decide = |encodable| context.decide(framed(&key, encodable), &key, &HeaderMap::new(), 500);
        let Decision::Answer(entry) = decide(true) else { panic!("it is fresh") };
        assert_eq!(entry.payload().len() as u64, entry.payload_length());
        assert!(matches!(decide(false), Decision::Unreadable(_)));
    }
}
