//! The loads that some code is part of: a load may need values or responses of its own cache, whose loads must not wait for it.
//!
//! They need no places of their own at the limits at which an enclosing load has one: otherwise loads could wait for each other's
//! places forever. And a load that needs the value that it loads itself gets it without the cache.

use std::sync::Arc;

#[cfg(feature = "typed")]
use smallvec::SmallVec;

#[cfg(feature = "typed")]
use super::cache::Cache;
use super::load_limit::{LoadLimit, LoadPermit};
#[cfg(feature = "typed")]
use crate::key::{Key, KeyHash};

tokio::task_local! {
    /// The loads that this code is part of.
    static ENCLOSING: EnclosingLoads;
}

/// The loads that some code is part of, from the innermost outwards. Clones share their places, so that a load that its caller has
/// left still has one.
#[derive(Clone, Debug, Default)]
pub(crate) struct EnclosingLoads(Option<Arc<Noted>>);

/// One thing that is known of these loads, and the rest.
#[derive(Debug)]
struct Noted {
    what: What,
    outer: EnclosingLoads,
}

#[derive(Debug)]
enum What {
    /// One of them has a place at these limits. The permit is empty if it has waited for one in vain.
    Place(LoadLimit, LoadPermit),
    /// One of them loads these values of a cache.
    #[cfg(feature = "typed")]
    Values(Cache, SmallVec<[KeyHash; 1]>),
}

impl EnclosingLoads {
    /// The loads that the caller of this is part of.
    pub(crate) fn here() -> Self {
        ENCLOSING.try_with(Clone::clone).unwrap_or_default()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn all(&self) -> impl Iterator<Item = &What> {
        std::iter::successors(self.0.as_deref(), |noted| noted.outer.0.as_deref()).map(|noted| &noted.what)
    }

    #[cfg_attr(
        not(feature = "typed"),
        allow(clippy::unnecessary_filter_map, reason = "without values, there are places only")
    )]
    fn places(&self) -> impl Iterator<Item = (&LoadLimit, &LoadPermit)> {
        self.all().filter_map(|what| match what {
            What::Place(limit, permit) => Some((limit, permit)),
            #[cfg(feature = "typed")]
            What::Values(..) => None,
        })
    }

    /// The place at the limit of a cache, if they have one.
    pub(crate) fn place_at(&self, limit: &LoadLimit) -> Option<&LoadPermit> {
        self.places().find(|(held, _)| held.shares_that_of_the_cache(limit)).map(|(_, permit)| permit)
    }

    /// The part of a limit at which they have no place.
    pub(crate) fn not_placed_at(&self, limit: &LoadLimit) -> LoadLimit {
        self.places().fold(limit.clone(), |limit, (held, _)| limit.without(held))
    }

    /// These loads, of which the innermost has this place.
    pub(crate) fn placed(self, limit: &LoadLimit, place: LoadPermit) -> Self {
        if limit.is_none() { self } else { self.with(What::Place(limit.clone(), place)) }
    }

    /// Whether one of them loads this value.
    #[cfg(feature = "typed")]
    pub(crate) fn are_loading(&self, cache: &Cache, key: &Key) -> bool {
        self.all().any(|what| match what {
            What::Values(of, keys) => keys.contains(&key.hash()) && of.shares_with(cache),
            What::Place(..) => false,
        })
    }

    /// These loads, of which the innermost loads the values of these keys.
    #[cfg(feature = "typed")]
    pub(crate) fn loading<'k>(self, cache: &Cache, keys: impl Iterator<Item = &'k Key>) -> Self {
        self.with(What::Values(cache.clone(), keys.map(Key::hash).collect()))
    }

    fn with(self, what: What) -> Self {
        Self(Some(Arc::new(Noted { what, outer: self })))
    }

    /// Runs `load` as part of these loads.
    pub(crate) async fn hold<T>(self, load: impl Future<Output = T>) -> T {
        ENCLOSING.scope(self, load).await
    }

    /// Runs a `step` of a load as part of these loads.
    pub(crate) fn hold_at_once<T>(self, step: impl FnOnce() -> T) -> T {
        ENCLOSING.sync_scope(self, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_is_at_its_own_limits_and_free_once_all_have_left_it() {
        let (one, other) = (LoadLimit::new(1), LoadLimit::new(1));
        let loads = EnclosingLoads::default().placed(&one, one.take().expect("it is empty"));
        let within = loads.hold(async {
            assert!(EnclosingLoads::here().place_at(&one).is_some());
            assert!(EnclosingLoads::here().place_at(&other).is_none());
            EnclosingLoads::here().placed(&other, other.take().expect("it is empty"))
        });
        let left = within.await;
        assert!(
            left.place_at(&one).is_some() && left.place_at(&other.within(7)).is_some(),
            "a front end's is its cache's"
        );
        assert!(left.place_at(&LoadLimit::default()).is_none());
        assert!(one.take().is_none() && other.take().is_none(), "what goes on has both places");
        drop(left);
        assert!(one.take().is_some() && other.take().is_some());
        assert!(EnclosingLoads::here().is_empty());
    }

    #[tokio::test]
    async fn a_front_end_of_its_own_limit_needs_a_place_there_alone() {
        let cache = LoadLimit::new(1);
        let (one, other) = (cache.within(1), cache.within(1));
        let loads = EnclosingLoads::default().placed(&one, one.take().expect("it is empty"));
        assert!(loads.not_placed_at(&one).is_none() && loads.not_placed_at(&cache).is_none());
        let rest = loads.not_placed_at(&other);
        let place = rest.take().expect("nothing of the cache's is needed");
        assert!(rest.take().is_none(), "its own is taken");
        assert!(loads.placed(&rest, place).not_placed_at(&other).is_none());
    }
}
