//! Which stored response a request may have (RFC 9111, section 4).

use http::HeaderMap;

use super::stored::{Stored, StoredResponse};
use crate::{
    engine::{Cache, Looked},
    entry::{Entry, EntryId},
    key::Key,
    semantics::{cache_status::ForwardReason, vary::VaryFields},
    store::Seen,
};

/// What a look-up means for one request.
pub(super) enum Selection {
    /// This entry is a fresh response to it.
    Hit(Entry),
    Miss(Vacancy),
    /// The store did not answer; the miss is about its primary key.
    Unavailable,
}

/// The place that a response to the request will take.
pub(super) struct Vacancy {
    /// Where it goes, unless its own `Vary` says otherwise.
    pub(super) key: Key,
    pub(super) seen: Seen,
    /// The entry of the primary key that led here, if it names the fields that select a variant.
    pub(super) varies: Option<Varies>,
    pub(super) why: ForwardReason,
}

#[derive(Clone)]
pub(super) struct Varies {
    pub(super) id: EntryId,
    pub(super) fields: VaryFields,
}

/// The response that `entry` holds.
pub(super) fn response(entry: &Entry) -> Option<&StoredResponse> {
    match view(entry)? {
        Stored::Response(response) => Some(response),
        Stored::Varies(_) => None,
    }
}

fn view(entry: &Entry) -> Option<&Stored> {
    entry.view(Stored::from_bytes)
}

/// The key of the variant of `key` that a request with `headers` selects.
pub(super) fn variant_key(key: &Key, fields: &VaryFields, headers: &HeaderMap) -> Key {
    let mut selector = Vec::with_capacity(64);
    for value in fields.selecting_values(headers) {
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

/// Where an entry of the primary key leads.
enum Step {
    Hit,
    Stale(EntryId),
    Variant(Key, Varies),
    /// Not an entry of this front end's.
    Unreadable,
}

fn step(entry: &Entry, key: &Key, headers: &HeaderMap, now: u64) -> Step {
    match view(entry) {
        Some(Stored::Response(_)) if now < entry.deadlines().fresh => Step::Hit,
        Some(Stored::Response(_)) => Step::Stale(entry.id()),
        Some(Stored::Varies(fields)) => {
            let varies = Varies { id: entry.id(), fields: fields.clone() };
            Step::Variant(variant_key(key, fields, headers), varies)
        }
        None => Step::Unreadable,
    }
}

fn is_variant_of(entry: &Entry, varies: &Varies) -> bool {
    response(entry).is_some_and(|response| response.parent == Some(varies.id))
}

/// The hit that this process has in memory, if it has one: an answer without waiting.
pub(super) fn select_in_memory(cache: &Cache, key: &Key, headers: &HeaderMap) -> Option<Entry> {
    let now = cache.now();
    let entry = cache.peek(key)?;
    match step(&entry, key, headers, now) {
        Step::Hit => Some(entry),
        Step::Variant(key, varies) => {
            cache.peek(&key).filter(|entry| is_variant_of(entry, &varies) && now < entry.deadlines().fresh)
        }
        Step::Stale(_) | Step::Unreadable => None,
    }
}

/// What the store has for a request.
pub(super) async fn select(cache: &Cache, key: &Key, headers: &HeaderMap) -> Selection {
    let miss = |key, seen, varies, why| Selection::Miss(Vacancy { key, seen, varies, why });
    let entry = match cache.look_up(key).await {
        Looked::Found(entry) => entry,
        Looked::Missing(seen) => return miss(key.clone(), seen, None, ForwardReason::UriMiss),
        Looked::Unavailable => return Selection::Unavailable,
    };
    let (variant, varies) = match step(&entry, key, headers, cache.now()) {
        Step::Hit => return Selection::Hit(entry),
        Step::Stale(id) => return miss(key.clone(), Seen::Entry(id), None, ForwardReason::Stale),
        Step::Unreadable => return miss(key.clone(), Seen::Unusable, None, ForwardReason::Miss),
        Step::Variant(key, varies) => (key, varies),
    };
    match cache.look_up(&variant).await {
        Looked::Found(entry) if !is_variant_of(&entry, &varies) => {
            miss(variant, Seen::Entry(entry.id()), Some(varies), ForwardReason::VaryMiss)
        }
        Looked::Found(entry) if cache.now() < entry.deadlines().fresh => Selection::Hit(entry),
        Looked::Found(entry) => miss(variant, Seen::Entry(entry.id()), Some(varies), ForwardReason::Stale),
        Looked::Missing(seen) => miss(variant, seen, Some(varies), ForwardReason::VaryMiss),
        Looked::Unavailable => Selection::Unavailable,
    }
}

/// The one of `entries`, a primary key's, that answers a request; for entries that could not be stored.
pub(super) fn select_among(entries: &[(Key, Entry)], key: &Key, headers: &HeaderMap, now: u64) -> Option<Entry> {
    let find = |key: &Key| entries.iter().find(|(one, _)| one == key).map(|(_, entry)| entry);
    let entry = find(key)?;
    match step(entry, key, headers, now) {
        Step::Hit => Some(entry.clone()),
        Step::Variant(key, varies) => find(&key).filter(|entry| is_variant_of(entry, &varies)).cloned(),
        Step::Stale(_) | Step::Unreadable => None,
    }
}
