//! What is remembered of the queries that make no difference.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
};

use http::{HeaderMap, StatusCode, header};

use crate::{
    key::{Key, KeyId},
    policy::NoVarySearch,
    semantics::no_vary_search::NoVarySearch as Variation,
    sync::Mutex,
};

/// Paths that are remembered at one time.
const CAP: usize = 10_000;
/// Which queries make no difference, by path: what the newest response of each has said. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct Variations {
    rules: NoVarySearch,
    /// Whoever asks for a path of which nothing is known looks nothing up.
    by_path: Arc<Mutex<HashMap<KeyId, Arc<Variation>>>>,
}

impl Variations {
    pub(super) fn new(rules: NoVarySearch) -> Self {
        Self { rules, by_path: Arc::default() }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<KeyId, Arc<Variation>>> {
        self.by_path.lock()
    }

    pub(super) fn known(&self, path: &Key) -> Option<Arc<Variation>> {
        self.table().get(&path.id()).cloned()
    }

    pub(super) fn learn(&self, path: &Key, variation: Arc<Variation>) {
        let mut table = self.table();
        if table.len() >= CAP && !table.contains_key(&path.id()) {
            // What is still in use is learned again, at the cost of a miss.
            table.clear();
        }
        table.insert(path.id(), variation);
    }

    /// What a response says, if it may be believed: an error, or what may be one client's own, says nothing for others.
    pub(super) fn of(&self, request: &HeaderMap, status: StatusCode, response: &HeaderMap) -> Option<Variation> {
        let variation = Variation::from_headers(response, self.rules.grammar())?;
        let is_everybodys = status == StatusCode::OK
            && !response.contains_key(header::SET_COOKIE)
            && !request.contains_key(header::AUTHORIZATION);
        (is_everybodys && (self.rules.believes_all() || !variation.ignores_all())).then_some(variation)
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
            variations.learn(&Key::new([number.to_string()]), variation.clone());
        }
        let known = variations.table().len();
        assert!((1..=CAP).contains(&known), "{known}");
        assert!(variations.known(&Key::new([CAP.to_string()])).is_some());
    }
}
