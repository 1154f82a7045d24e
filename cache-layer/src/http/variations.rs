//! What is remembered of `No-Vary-Search`, by path.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
};

use http::{HeaderMap, StatusCode, header};

use crate::{
    engine::{
        flight::{Flight, Flights},
        permit::WritePermit,
        recent_keys::RecentKeys,
    },
    entry::Entry,
    key::{Key, KeyId},
    policy::NoVarySearch,
    semantics::no_vary_search::NoVarySearch as Variation,
    sync::Mutex,
};

/// The most paths that are remembered at one time.
const CAP: usize = 10_000;
/// Which queries are equivalent, by path, as the newest response of each path has said. Clones share the state.
#[derive(Clone, Debug)]
pub(super) struct Variations {
    rules: NoVarySearch,
    /// For a path that is missing here, no alias is looked up.
    by_path: Arc<Mutex<HashMap<KeyId, Newest>>>,
    /// The loads under way, by the keys of their classes.
    pub(super) classes: Arc<Flights>,
    /// Classes whose last load returned a response of another class: their requests don't wait for each other.
    pub(super) apart: Arc<RecentKeys>,
}

/// What the newest response of a path says, and when it came, in milliseconds since the Unix epoch.
#[derive(Debug)]
struct Newest {
    variation: Arc<Variation>,
    time: u64,
}

impl Variations {
    pub(super) fn new(rules: NoVarySearch) -> Self {
        Self { rules, by_path: Arc::default(), classes: Arc::default(), apart: Arc::default() }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<KeyId, Newest>> {
        self.by_path.lock()
    }

    pub(super) fn known(&self, path: &Key) -> Option<Arc<Variation>> {
        self.table().get(&path.id()).map(|newest| newest.variation.clone())
    }

    /// Sets the variation of a path, if no newer response of the path says something else.
    pub(super) fn learn(&self, path: &Key, variation: Arc<Variation>, time: u64) {
        let mut table = self.table();
        let known = table.get(&path.id()).map(|newest| newest.time);
        if known.is_some_and(|known| known > time) {
            return;
        }
        if table.len() >= CAP && known.is_none() {
            // Paths that are still in use are learned again, at the cost of a miss.
            table.clear();
        }
        table.insert(path.id(), Newest { variation, time });
    }

    /// What a response says, if that is honoured: an error, or a response that may be for one client, can't speak for others.
    pub(super) fn of(&self, request: &HeaderMap, status: StatusCode, response: &HeaderMap) -> Option<Variation> {
        let variation = Variation::from_headers(response, self.rules.grammar())?;
        let is_everybodys = status == StatusCode::OK
            && !response.contains_key(header::SET_COOKIE)
            && !request.contains_key(header::AUTHORIZATION);
        (is_everybodys && (self.rules.believes_all() || !variation.ignores_all())).then_some(variation)
    }
}

/// An alias that is going to be stored.
pub(super) struct NewAlias {
    entry: Box<(Key, Entry)>,
    /// The flight of its class, if this load leads it.
    flight: Option<Box<Flight>>,
}

impl NewAlias {
    pub(super) fn new(entry: (Key, Entry), flight: Option<Box<Flight>>) -> Self {
        Self { entry: Box::new(entry), flight }
    }

    /// Lets the permit store it with its entries.
    pub(super) fn be_stored_by(self, permit: &mut WritePermit) {
        permit.with_alias(self.entry, self.flight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_remembered_up_to_a_bound() {
        let variations = Variations::new(NoVarySearch::new());
        let headers = HeaderMap::from_iter([("no-vary-search".parse().unwrap(), "key-order".parse().unwrap())]);
        let variation = Arc::new(variations.of(&HeaderMap::new(), StatusCode::OK, &headers).unwrap());
        for number in 0..=CAP {
            variations.learn(&Key::new([number.to_string()]), variation.clone(), 0);
        }
        let known = variations.table().len();
        assert!((1..=CAP).contains(&known), "{known}");
        assert!(variations.known(&Key::new([CAP.to_string()])).is_some());
    }
}
