//! Which stored response a request may have (RFC 9111, section 4).

use http::HeaderMap;

use super::{
    annotate,
    service::Shared,
    stored::{Stored, StoredResponse, StoredVaries},
};
use crate::{
    engine::Looked,
    entry::{Entry, Version},
    key::Key,
    semantics::{
        cache_status::ForwardReason,
        reuse::{Candidate, RequestDirectives, Reuse},
        vary::VaryFields,
    },
    store::Seen,
    telemetry::{Event, Rejection},
};

/// What a look-up means for one request.
pub(super) enum Selection {
    /// This answers it.
    Hit(Found),
    /// This answers it, and is due to be refreshed.
    Stale(Found),
    Miss(Vacancy),
    /// The store did not answer; the miss is about its primary key.
    Unavailable,
}

/// An entry that answers a request.
pub(super) struct Found {
    pub(super) entry: Entry,
    /// Its own key, and what led there, if it is not the primary one.
    variant: Option<(Key, Varies)>,
}

impl Found {
    /// The place that the response to the request would take, were it sent on; `primary` is the key that was looked up.
    pub(super) fn vacancy(&self, primary: &Key) -> Vacancy {
        let (key, varies) = match &self.variant {
            Some((key, varies)) => (key.clone(), Some(varies.clone())),
            None => (primary.clone(), None),
        };
        let (seen, stale) = (Seen::Entry(self.entry.id()), Some(self.entry.clone()));
        Vacancy { key, seen, varies, why: ForwardReason::Stale, stale }
    }
}

/// The place that a response to the request will take.
pub(super) struct Vacancy {
    /// Where it goes, unless its own `Vary` says otherwise.
    pub(super) key: Key,
    pub(super) seen: Seen,
    /// The entry of the primary key that led here, if it names the fields that select a variant.
    pub(super) varies: Option<Varies>,
    pub(super) why: ForwardReason,
    /// What is there: to be validated, or to fall back on.
    pub(super) stale: Option<Entry>,
}

#[derive(Clone)]
pub(super) struct Varies {
    pub(super) version: Version,
    pub(super) stored: StoredVaries,
    /// Since when a soft invalidation makes all variants stale, in milliseconds since the Unix epoch.
    pub(super) softened: Option<u64>,
}

/// The header fields of the response that `entry` holds: taken out of it, if it is nobody else's.
pub(super) fn into_headers(mut entry: Entry) -> HeaderMap {
    match entry.own_view() {
        Some(Stored::Response(response)) => std::mem::take(&mut response.headers),
        _ => response(&entry).map_or_else(HeaderMap::new, |response| response.headers.clone()),
    }
}

/// The response that `entry` holds.
pub(super) fn response(entry: &Entry) -> Option<&StoredResponse> {
    match view(entry)? {
        Stored::Response(response) => Some(response),
        Stored::Varies(_) => None,
    }
}

fn view(entry: &Entry) -> Option<&Stored> {
    entry.view(|meta| {
        let mut stored = Stored::from_bytes(meta)?;
        // Of what nobody else has, no copies are made.
        if let Stored::Response(response) = &mut stored
            && entry.is_shared()
        {
            response.headers = annotate::with_room(&response.headers);
        }
        Some(stored)
    })
}

/// Where an entry leads.
pub(super) enum Step {
    Answer,
    AnswerAndRefresh,
    Validate(ForwardReason),
    Variant(Key, Varies),
    /// It is not an entry of this front end's.
    Unreadable,
}

impl Shared {
    /// The key of the variant of `key` that a request with `headers` selects.
    pub(super) fn variant_key(&self, key: &Key, fields: &VaryFields, headers: &HeaderMap) -> Key {
        let mut selector = Vec::with_capacity(64);
        for value in fields.selecting_values(headers, self.policy.caching.normalization) {
            match value {
                // Absent and empty are two values.
                None => selector.push(0),
                Some(value) => {
                    selector.push(1);
                    selector.extend_from_slice(&(value.len() as u64).to_be_bytes());
                    selector.extend_from_slice(&value);
                }
            }
        }
        key.variant(&selector)
    }

    pub(super) fn directives(&self, headers: &HeaderMap) -> RequestDirectives {
        RequestDirectives::from_headers(headers, self.policy.caching.request_directives)
    }

    pub(super) fn step(&self, entry: &Entry, key: &Key, headers: &HeaderMap, now: u64) -> Step {
        let response = match view(entry) {
            Some(Stored::Response(response)) => response,
            Some(Stored::Varies(stored)) => {
                let softened = entry.is_soft_invalidated().then_some(entry.deadlines().fresh);
                let varies = Varies { version: entry.version(), stored: stored.clone(), softened };
                return Step::Variant(self.variant_key(key, &stored.fields, headers), varies);
            }
            None => return Step::Unreadable,
        };
        // It may lead its clients round in a circle.
        if response.status.is_redirection() && !response.traits.no_circle {
            return Step::Validate(ForwardReason::Miss);
        }
        let deadlines = entry.deadlines_at(now);
        let from_the_future = entry.is_from_the_future(now);
        let candidate = Candidate {
            age: response.age(now),
            freshness_left_ms: milliseconds_left(deadlines.fresh, now),
            immutable: response.traits.immutable,
            never_stale: response.traits.never_stale || from_the_future,
        };
        match self.directives(headers).reuse(candidate) {
            Reuse::Fresh | Reuse::AcceptedStale => Step::Answer,
            Reuse::Stale if now < deadlines.stale_while_revalidate => Step::AnswerAndRefresh,
            Reuse::Stale if from_the_future => Step::Validate(ForwardReason::FromTheFuture),
            Reuse::Stale => Step::Validate(ForwardReason::Stale),
            Reuse::Unwanted => Step::Validate(ForwardReason::Request),
        }
    }

    /// The answer that this process has in memory, if it has one that asks for nothing more.
    pub(super) fn select_in_memory(&self, key: &Key, headers: &HeaderMap) -> Option<Entry> {
        let entry = self.cache.peek(key)?;
        match self.step(&entry, key, headers, self.cache.now()) {
            Step::Answer => Some(entry),
            Step::Variant(key, varies) => {
                let entry = variant_of(self.cache.peek(&key)?, &varies).ok()?;
                matches!(self.step(&entry, &key, headers, self.cache.now()), Step::Answer).then_some(entry)
            }
            Step::AnswerAndRefresh | Step::Validate(_) | Step::Unreadable => None,
        }
    }

    /// What the store has for a request.
    pub(super) async fn select(&self, key: &Key, headers: &HeaderMap) -> Selection {
        let entry = match self.cache.look_up(key).await {
            Looked::Found(entry) => entry,
            Looked::Missing(seen) => return miss(key.clone(), seen, None, ForwardReason::UriMiss),
            Looked::Unavailable => return Selection::Unavailable,
        };
        let (variant, varies) = match self.step(&entry, key, headers, self.cache.now()) {
            Step::Variant(variant, varies) => (variant, varies),
            step => return self.selected(key, entry, None, &step),
        };
        match self.cache.look_up(&variant).await {
            Looked::Found(entry) => match variant_of(entry, &varies) {
                Ok(entry) => {
                    let step = self.step(&entry, &variant, headers, self.cache.now());
                    self.selected(key, entry, Some((variant, varies)), &step)
                }
                Err(entry) => miss(variant, Seen::Entry(entry.id()), Some(varies), ForwardReason::VaryMiss),
            },
            Looked::Missing(seen) => miss(variant, seen, Some(varies), ForwardReason::VaryMiss),
            Looked::Unavailable => Selection::Unavailable,
        }
    }

    fn selected(&self, primary: &Key, entry: Entry, variant: Option<(Key, Varies)>, step: &Step) -> Selection {
        let found = Found { entry, variant };
        match step {
            Step::Answer => Selection::Hit(found),
            Step::AnswerAndRefresh => Selection::Stale(found),
            Step::Validate(why) => {
                if *why == ForwardReason::FromTheFuture {
                    self.cache.emit(Event::Rejected(Rejection::Future));
                }
                Selection::Miss(Vacancy { why: *why, ..found.vacancy(primary) })
            }
            Step::Variant(..) | Step::Unreadable => {
                Selection::Miss(Vacancy { why: ForwardReason::Miss, stale: None, ..found.vacancy(primary) })
            }
        }
    }

    /// The one of `entries`, a primary key's, that answers a request; for entries that could not be stored.
    pub(super) fn select_among(&self, entries: &[(Key, Entry)], key: &Key, headers: &HeaderMap) -> Option<Entry> {
        let now = self.cache.now();
        let find = |key: &Key| entries.iter().find(|(one, _)| one == key).map(|(_, entry)| entry);
        let entry = find(key)?;
        match self.step(entry, key, headers, now) {
            Step::Answer => Some(entry.clone()),
            Step::Variant(key, varies) => {
                let entry = variant_of(find(&key)?.clone(), &varies).ok()?;
                matches!(self.step(&entry, &key, headers, now), Step::Answer).then_some(entry)
            }
            Step::AnswerAndRefresh | Step::Validate(_) | Step::Unreadable => None,
        }
    }
}

/// The entry, if `varies` leads to it, and as stale as that is.
fn variant_of(entry: Entry, varies: &Varies) -> Result<Entry, Entry> {
    let leads_here = response(&entry).is_some_and(|response| response.parent == Some(varies.version.id));
    match varies.softened {
        _ if !leads_here => Err(entry),
        Some(moment) => Ok(entry.soft_invalidated(moment)),
        None => Ok(entry),
    }
}

fn miss(key: Key, seen: Seen, varies: Option<Varies>, why: ForwardReason) -> Selection {
    Selection::Miss(Vacancy { key, seen, varies, why, stale: None })
}

/// Milliseconds until `moment`; negative after it.
pub(super) fn milliseconds_left(moment: u64, now: u64) -> i64 {
    // Both are milliseconds since the Unix epoch, and fit for the next 292 million years.
    (moment as i64).saturating_sub(now as i64)
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;
    use tower_layer::Layer as _;

    use super::*;
    use crate::{
        CacheLayer,
        engine::Cache,
        entry::{Deadlines, EntryId},
        http::stored::Traits,
        store::MemoryStore,
    };

    #[test]
    fn a_redirect_that_may_lead_to_itself_is_not_answered_with() {
        let shared = CacheLayer::new(Cache::new(MemoryStore::new(1 << 20))).layer(()).shared;
        let key = Key::new(["k"]);
        let step = |status, no_circle| {
            let stored = Stored::Response(StoredResponse {
                status,
                headers: HeaderMap::new(),
                response_time: 0,
                initial_age: 0,
                stale_if_disconnected: 0,
                traits: Traits { no_circle, ..Traits::default() },
                parent: None,
            });
            let deadlines = Deadlines::fresh_until(1_000_000);
            let entry = Entry::new(EntryId::random(), &key, deadlines, stored.to_bytes(), Bytes::new());
            shared.step(&entry, &key, &HeaderMap::new(), 1_000)
        };
        assert!(matches!(step(StatusCode::OK, false), Step::Answer));
        assert!(matches!(step(StatusCode::MOVED_PERMANENTLY, true), Step::Answer));
        assert!(matches!(step(StatusCode::MOVED_PERMANENTLY, false), Step::Validate(ForwardReason::Miss)));
    }
}
