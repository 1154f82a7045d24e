//! From a miss to the right to load, and waiting for another request's load, for both front ends.
//!
//! A front end looks a request up, and expresses the result as [`Found`]. A [`Miss`] joins the flight of its key
//! ([`Flights::join`](super::flight::Flights::join)): its leader [acquires](Cache::acquire) the right to load, and the others
//! [follow](Follower::follow).

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{
    backoff::RecentFailure,
    cache::Cache,
    flight::{Flight, FlightOutcome, Follower},
    in_progress::InProgress,
    patience::{LONGEST_PAUSE, LONGEST_PAUSE_FOR_A_LEASE, Patience},
    permit::{FailurePolicy, Purpose, WritePermit, reason_of},
    recent_keys::REMEMBER_UNCACHEABLE,
    span::Wait,
};
use crate::{
    entry::Entry,
    key::Key,
    store::{Acquired, Lease, Seen},
    switches::Switch,
    telemetry::{Event, NoCacheReason, Release, WaitScope},
};

/// The result of a lookup for one request. `H` is an answer, and `D` is what a front end knows of a miss.
pub(crate) enum Found<H, D = ()> {
    /// This answers the request.
    Fresh(H),
    /// This answers the request, and is to be refreshed.
    Stale(H, Miss<D>),
    Missing(Miss<D>),
}

/// The place in the store that the result of a load will take.
#[derive(Clone, Debug)]
pub(crate) struct Miss<D = ()> {
    pub(crate) key: Key,
    /// What the lookup saw there; `None` if the store did not answer.
    pub(crate) expected: Option<Seen>,
    /// The entry that is there, to be validated or to fall back on.
    pub(crate) stale: Option<Entry>,
    pub(crate) detail: D,
}

impl<D> Miss<D> {
    /// Whether the store answered the lookup.
    pub(crate) fn reached_store(&self) -> bool {
        self.expected.is_some()
    }
}

/// The result of asking for the right to load, for the leader of a flight.
pub(crate) enum AcquireOutcome<H> {
    Granted(Box<WritePermit>),
    /// Another load has provided this answer. The flight has ended.
    Found(H),
    /// A recent load of this key could not be stored: load without storing. The flight has ended.
    Uncacheable,
    /// A recent load of this key failed: leave the application alone. The flight has ended.
    BackedOff(RecentFailure),
}

/// The result of asking once for the right to load.
pub(crate) enum Attempt {
    Granted(Box<WritePermit>),
    /// The key changed, or may have: look again, and ask again.
    LookAgain(Flight),
    /// A recent load of this key could not be stored. The flight has ended.
    Uncacheable,
    /// A recent load of this key failed. The flight has ended.
    BackedOff(RecentFailure),
}

/// The result of asking once for the right to load, without waiting.
pub(crate) enum AttemptNow {
    Granted(Box<WritePermit>),
    /// The key changed, or may have.
    Changed(Flight),
    /// Another process loads it.
    Held(Flight),
    /// A recent load of this key could not be stored. The flight has ended.
    Uncacheable,
    /// A recent load of this key failed. The flight has ended.
    BackedOff(RecentFailure),
}

impl From<AttemptNow> for Attempt {
    fn from(attempted: AttemptNow) -> Self {
        match attempted {
            AttemptNow::Granted(permit) => Self::Granted(permit),
            AttemptNow::Changed(flight) | AttemptNow::Held(flight) => Self::LookAgain(flight),
            AttemptNow::Uncacheable => Self::Uncacheable,
            AttemptNow::BackedOff(failure) => Self::BackedOff(failure),
        }
    }
}

/// How a request's wait for another request's load ended.
pub(crate) enum Followed<T> {
    /// The request is answered from the body that is arriving.
    Joined(T),
    Ended(FlightOutcome),
    TimedOut,
}

impl Cache {
    /// Asks for the right to load the key of `miss`. While the key is loaded elsewhere in the fleet, or changes, the request
    /// waits, and looks again with `find`, until its `patience` is over; then the load goes ahead, and its result is not stored
    /// unless it overtakes the other load.
    /// `miss` is updated to the last result.
    pub(crate) async fn acquire<H, D, F: Future<Output = Found<H, D>>>(
        &self,
        mut flight: Flight,
        miss: &mut Miss<D>,
        patience: &mut Patience,
        policy: impl Fn(&Miss<D>) -> FailurePolicy,
        find: impl Fn() -> F,
    ) -> AcquireOutcome<H> {
        loop {
            let Some(seen) = miss.expected else {
                return AcquireOutcome::Granted(self.load_without_store(flight));
            };
            match self.try_acquire(flight, &miss.key, seen, patience, policy(miss)).await {
                Attempt::Granted(permit) => return AcquireOutcome::Granted(permit),
                Attempt::LookAgain(again) => flight = again,
                Attempt::Uncacheable => return AcquireOutcome::Uncacheable,
                Attempt::BackedOff(failure) => return AcquireOutcome::BackedOff(failure),
            }
            // Boxed, so that the future of a load that looks no second time is smaller.
            *miss = match Box::pin(find()).await {
                Found::Fresh(hit) => {
                    flight.finish(FlightOutcome::Found);
                    return AcquireOutcome::Found(hit);
                }
                Found::Stale(_, miss) | Found::Missing(miss) => miss,
            };
        }
    }

    /// The right to load the key of `miss`, if the store is in this process and grants it; otherwise the flight.
    pub(crate) fn acquire_at_once<D>(
        &self,
        flight: Flight,
        miss: &Miss<D>,
        policy: FailurePolicy,
    ) -> Result<Box<WritePermit>, Flight> {
        if self.is_switched(Switch::StopFills) {
            return Err(flight);
        }
        let policy = self.as_refusals_stand(policy);
        let granted = miss.expected.and_then(|seen| self.0.store.acquire_at_once(&miss.key, seen, policy.failures()));
        match granted {
            Some(Acquired::Granted(lease)) => Ok(self.granted(flight, lease, policy)),
            _ => Err(flight),
        }
    }

    /// Asks once for the right to load `key`, having `seen` what is there. Waits while another process loads it, for as long as
    /// there is `patience`; after that as [`attempt_at_last`](Self::attempt_at_last).
    pub(crate) async fn try_acquire(
        &self,
        flight: Flight,
        key: &Key,
        seen: Seen,
        patience: &mut Patience,
        policy: FailurePolicy,
    ) -> Attempt {
        // A lookup may not see the change: the store may read from a replica that lags. The waits are boxed, so that the future of
        // a request that need not wait is smaller.
        let (flight, looks_again) = match self.attempt(flight, key, Some(seen), policy).await {
            AttemptNow::Granted(permit) => return Attempt::Granted(permit),
            AttemptNow::Uncacheable => return Attempt::Uncacheable,
            AttemptNow::BackedOff(failure) => return Attempt::BackedOff(failure),
            AttemptNow::Changed(flight) => (flight, Box::pin(patience.again(LONGEST_PAUSE, Duration::ZERO)).await),
            AttemptNow::Held(flight) => (flight, Box::pin(self.wait_out(key, patience)).await),
        };
        match looks_again {
            true => Attempt::LookAgain(flight),
            false => Box::pin(self.attempt_at_last(flight, key, policy)).await.into(),
        }
    }

    /// The right to load `key` after a wait that was too long. A load that overtakes the other one ends its lease, so that it is
    /// not stored any more, and takes the lease itself. Any other load goes ahead, and is not stored. The key is neither held nor
    /// changed any more.
    pub(crate) async fn attempt_at_last(&self, flight: Flight, key: &Key, policy: FailurePolicy) -> AttemptNow {
        self.emit(Event::Release(Release::WaitTimeout));
        let flight = if policy.overtakes {
            if let Err(error) = self.0.store.end_lease(key).await {
                tracing::debug!(%error, "could not end a lease");
            }
            match self.attempt(flight, key, Some(Seen::Unusable), policy).await {
                // By a load that has begun since.
                AttemptNow::Changed(flight) | AttemptNow::Held(flight) => flight,
                attempted => return attempted,
            }
        } else {
            flight
        };
        AttemptNow::Granted(self.permit(flight, Err(NoCacheReason::WaitedTooLong), policy.back_off))
    }

    /// Asks once for the right to load `key`, without waiting.
    pub(crate) async fn attempt(
        &self,
        flight: Flight,
        key: &Key,
        expected: Option<Seen>,
        policy: FailurePolicy,
    ) -> AttemptNow {
        let Some(seen) = expected else { return AttemptNow::Granted(self.load_without_store(flight)) };
        let permit = |flight, lease| AttemptNow::Granted(self.permit(flight, lease, policy.back_off));
        if self.is_switched(Switch::StopFills) {
            return permit(flight, Err(NoCacheReason::FillsStopped));
        }
        let policy = self.as_refusals_stand(policy);
        let (failures, invalidations) = (policy.failures(), self.invalidations());
        let acquired = match self.0.store.acquire_at_once(key, seen, failures) {
            Some(acquired) => Ok(acquired),
            None => self.0.store.acquire(key, seen, self.lease_life(), failures).await,
        };
        // What an invalidation has ended since the store was asked is remembered by nobody: it may have been forgotten already.
        let is_over = || self.invalidations() != invalidations;
        match acquired {
            Ok(Acquired::Granted(lease)) => {
                let mut permit = self.granted(flight, lease, policy);
                if seen != Seen::Nothing {
                    permit.note_known();
                }
                AttemptNow::Granted(permit)
            }
            Ok(Acquired::Changed) => AttemptNow::Changed(flight),
            Ok(Acquired::Held) => AttemptNow::Held(flight),
            Ok(Acquired::Uncacheable) => {
                self.0.uncacheable.remember(key, REMEMBER_UNCACHEABLE);
                if is_over() || self.refusals_are_void() {
                    self.0.uncacheable.forget(key);
                }
                flight.finish(FlightOutcome::Uncacheable);
                AttemptNow::Uncacheable
            }
            Ok(Acquired::BackOff { remaining, status }) => {
                let recent_failure = RecentFailure::new(status, remaining);
                self.0.recent_failures.remember(key, recent_failure);
                if is_over() {
                    self.0.recent_failures.forget(key);
                }
                flight.finish(FlightOutcome::Failed(status));
                AttemptNow::BackedOff(recent_failure)
            }
            Err(error) => {
                tracing::debug!(%error, "could not take a lease");
                permit(flight, Err(reason_of(&error)))
            }
        }
    }

    /// This policy, under which a load is granted in any case if the store's refusals are void.
    fn as_refusals_stand(&self, policy: FailurePolicy) -> FailurePolicy {
        FailurePolicy { anew: policy.anew || self.refusals_are_void(), ..policy }
    }

    /// The right to load with this lease. What is remembered of earlier results gives way to the next one.
    fn granted(&self, flight: Flight, lease: Lease, policy: FailurePolicy) -> Box<WritePermit> {
        if policy.anew {
            self.0.uncacheable.forget(&lease.key);
            self.0.uncacheable.forget(&lease.key.primary());
        }
        self.permit(flight, Ok(lease), policy.back_off)
    }

    /// Waits until another process's load of `key` may have ended, and says whether there is patience to look again.
    pub(crate) async fn wait_out(&self, key: &Key, patience: &mut Patience) -> bool {
        let began = Instant::now();
        let release = self.wait_for_the_fleet(key, patience.deadline()).await;
        if let Some(doorkeeper) = &self.0.doorkeeper {
            // Another process has loaded it, and may have kept it from the store: the next load is the second.
            doorkeeper.meet(key);
        }
        release == Release::Done && patience.again(LONGEST_PAUSE_FOR_A_LEASE, began.elapsed()).await
    }

    /// Waits until another process's load of `key` may have ended.
    async fn wait_for_the_fleet(&self, key: &Key, deadline: Instant) -> Release {
        let began = Instant::now();
        let release = match timeout_at(deadline, self.0.store.lease_ended(key)).await {
            Ok(()) if Instant::now() < deadline => Release::Done,
            _ => Release::WaitTimeout,
        };
        self.emit(Event::Waited { scope: WaitScope::Fleet, release, duration: began.elapsed() });
        release
    }

    /// The purpose of a refresh of `key`, whose entry is stale and may be used.
    pub(crate) fn purpose_of_refresh(&self, key: &Key) -> Purpose {
        if self.refresh_failed_lately(key) { Purpose::RetriedRefresh } else { Purpose::Refresh }
    }

    /// Whether a request may get the result of `load`: it must contain nothing that was invalidated before the request came. To
    /// be called after the request's own lookup, with whether that `reached_store`: after the store's answer, this process knows
    /// of every invalidation before it.
    pub(crate) fn may_join(&self, load: &InProgress, reached_store: bool) -> bool {
        let stands = match &load.lease {
            Ok(lease) => reached_store && !self.0.store.overtaken(lease),
            // No request of this process can ask the store, so none misses an invalidation that only the store knows of.
            Err(NoCacheReason::StoreUnavailable) => !reached_store,
            Err(_) => false,
        };
        stands && load.invalidations == self.invalidations()
    }
}

impl Follower {
    /// Waits until the load has ended, or until `join` accepts the arriving body; at most until `deadline`. At that moment `longer`
    /// may name a later one, and so on.
    pub(crate) async fn follow<T>(
        mut self,
        wait: Wait,
        deadline: Instant,
        mut longer: impl FnMut() -> Option<Instant>,
        join: impl FnOnce(&InProgress) -> Option<T>,
    ) -> Followed<T> {
        let mut following = pin!(async {
            match self.in_progress().await.and_then(|load| join(&load)) {
                Some(joined) => Followed::Joined(joined),
                None => Followed::Ended(self.outcome().await),
            }
        });
        let mut followed = timeout_at(deadline, &mut following).await;
        while followed.is_err()
            && let Some(deadline) = longer()
        {
            followed = timeout_at(deadline, &mut following).await;
        }
        let followed = followed.unwrap_or(Followed::TimedOut);
        wait.ended(match &followed {
            Followed::Joined(_) => Release::Done,
            Followed::Ended(outcome) => outcome.release(),
            Followed::TimedOut => Release::WaitTimeout,
        });
        followed
    }
}
