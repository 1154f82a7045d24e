//! Explaining a call for a value, by what is stored under its key.

use super::details::Verdict;
use crate::{
    engine::{Cache, EntryDetails, Inspected, permit::Purpose},
    entry::Use,
    key::Key,
    store::{LeaseState, Seen},
    switches::Switch,
    telemetry::{NoCacheReason, Rejection, Tier},
};

/// What a call for a value would do, from [`Cache::explain_value`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValueExplanation {
    /// How the call is handled: as a request, except that a value is never validated.
    pub verdict: Verdict,
    /// Why the value is not returned from the cache, or the loaded value not stored, if one of the reasons applies.
    pub reason: Option<NoCacheReason>,
    /// Where the entry was found.
    pub tier: Tier,
    /// The entry, whether or not it may be used.
    pub entry: Option<EntryDetails>,
    /// Why the entry is not used, if it can't be.
    pub rejected: Option<Rejection>,
    /// Whether this process is loading the value.
    pub is_loading: bool,
    /// The state of the lease; `None` if the store was not asked, or did not answer.
    pub lease: Option<LeaseState>,
    /// Whether the stored value is returned if its load fails.
    pub stands_in: bool,
}

impl ValueExplanation {
    fn of(inspected: &Inspected) -> Self {
        let (tier, entry, rejected) = match inspected {
            Inspected::Entry(tier, entry) => (*tier, Some(entry.clone()), None),
            Inspected::Rejected(rejection) => (Tier::None, None, Some(*rejection)),
            Inspected::Absent => (Tier::None, None, None),
        };
        let stands_in = entry.as_ref().is_some_and(|entry| entry.now < entry.stale_if_error);
        let (is_loading, lease, reason) = (false, None, None);
        Self { verdict: Verdict::Load, reason, tier, entry, rejected, is_loading, lease, stands_in }
    }

    fn is(mut self, verdict: Verdict, reason: Option<NoCacheReason>) -> Self {
        (self.verdict, self.reason) = (verdict, reason);
        self
    }
}

/// # Explaining
impl Cache {
    /// Says what a call of `get_or_load`, or of a function with `#[cached]`, would do now for `key`, and why. Nothing is loaded,
    /// and no lease is taken.
    ///
    /// What only the call knows is not considered: the type of the value, so that an entry of another type, codec or schema looks
    /// usable; a fallback; and whether the call refreshes, or has no back-off. A call by the default settings is assumed.
    ///
    /// ```
    /// # use cache_layer::{Cache, Key, Verdict, store::MemoryStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let cache = Cache::new(MemoryStore::new(1 << 20));
    /// let explanation = cache.explain_value(&Key::from(("product", 42))).await;
    /// assert_eq!(explanation.verdict, Verdict::Load);
    /// # }
    /// ```
    pub async fn explain_value(&self, key: &Key) -> ValueExplanation {
        let inspected = self.inspect(key).await;
        let mut told = ValueExplanation::of(inspected.as_ref().unwrap_or(&Inspected::Absent));
        told.is_loading = self.flights().has(key);
        match told.entry.as_ref().map_or(Use::Gone, EntryDetails::allow) {
            Use::Fresh => return told.is(Verdict::Hit, None),
            // A refresh that failed lately is tried again before the call returns.
            Use::Stale if told.is_loading || self.purpose_of_refresh(key) != Purpose::RetriedRefresh => {
                return told.is(Verdict::Stale, None);
            }
            Use::Stale => {}
            Use::Kept | Use::Gone if told.stands_in && self.recent_failure(key).is_some() => {
                return told.is(Verdict::BackedOff, Some(NoCacheReason::BackedOff));
            }
            Use::Kept | Use::Gone => {}
        }
        if told.is_loading {
            return told.is(Verdict::Wait, None);
        }
        match inspected {
            Ok(inspected) => self.explain_load(key, told, inspected == Inspected::Absent).await,
            Err(_) => told.is(Verdict::Load, Some(NoCacheReason::StoreUnavailable)),
        }
    }

    /// Explains by the state of the lease.
    async fn explain_load(&self, key: &Key, mut told: ValueExplanation, is_absent: bool) -> ValueExplanation {
        if self.is_switched(Switch::StopFills) {
            return told.is(Verdict::Load, Some(NoCacheReason::FillsStopped));
        }
        told.lease = self.inspect_lease(key).await.ok();
        match told.lease {
            None => told.is(Verdict::Load, Some(NoCacheReason::StoreUnavailable)),
            Some(LeaseState::Held(_)) => told.is(Verdict::Wait, None),
            Some(LeaseState::Uncacheable) => told.is(Verdict::Forward, Some(NoCacheReason::Remembered)),
            Some(LeaseState::NoRoom) => told.is(Verdict::Load, Some(NoCacheReason::StoreFull)),
            Some(LeaseState::Failed { remaining, .. }) if !remaining.is_zero() && told.stands_in => {
                told.is(Verdict::BackedOff, Some(NoCacheReason::BackedOff))
            }
            Some(LeaseState::Free | LeaseState::Failed { .. }) => {
                let is_first = is_absent && self.is_first_sight(key, Some(Seen::Nothing));
                told.is(Verdict::Load, is_first.then_some(NoCacheReason::FirstSight))
            }
        }
    }
}
