//! The right to load a key: taken before the load, kept alive while it runs, and compared when its result is stored.

use std::time::Duration;
#[cfg(feature = "typed")]
use std::{any::Any, sync::Arc};

use tokio::time::{Instant, sleep, timeout_at};

use super::Cache;
use super::backoff::{BackOff, Setback};
use super::flight::{Flight, Landing};
use super::look::not_kept;
use super::rope::Rope;
use super::share::{Begun, Sharing};
use crate::{
    key::Key,
    store::{Acquired, Committed, Failed, Fill, Lease, LeaseToken, Seen, StoreError, Writes},
    tag::Tags,
    telemetry::{Event, FillOutcome, LoadOutcome, NoCacheReason, Release, WaitScope},
};

/// How long a key whose response could not be kept is loaded without waiting for one another.
const REMEMBER_UNCACHEABLE: Duration = Duration::from_secs(5);

/// How long a load keeps its place at least, and in lock timeouts.
const LONGEST_LOAD: Duration = Duration::from_secs(60);
const LONGEST_LOAD_TIMEOUTS: u32 = 12;

/// Why nothing is stored, by what the store answered.
fn reason_of(error: &StoreError) -> NoCacheReason {
    if *error == StoreError::Full { NoCacheReason::StoreFull } else { NoCacheReason::StoreUnavailable }
}

/// What the leader of a flight may do.
#[allow(clippy::large_enum_variant)] // there is one for each load, and it moves once
pub(crate) enum Permission {
    Load(Permit),
    /// The key changed, or may have: look again, and ask again.
    LookAgain(Flight),
    /// A recent load of this key could not be kept: load without a thought of storing. The flight has landed.
    Uncacheable,
    /// A recent load of this key failed: leave the application alone. The flight has landed.
    BackedOff(Setback),
}

/// How a load deals with failures.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Caution {
    /// How long to leave the application alone after one; `None`: not at all.
    pub(crate) back_off: Option<BackOff>,
    /// Whether those that came before hold this one up.
    pub(crate) heeds: bool,
}

/// The right to load. Every way to end it tells the flight's followers; dropped without a word, it was lost.
pub(crate) struct Permit {
    cache: Cache,
    /// Dropped after the hold on the lease: by the time a follower is woken, the lease is free.
    hold: Hold,
    flight: Flight,
    invalidations: u64,
    back_off: Option<BackOff>,
}

/// A lease that is given back when it is dropped; or why there is none, and nothing will be stored.
struct Hold {
    cache: Cache,
    lease: Result<Lease, NoCacheReason>,
    /// How it ends, unless it is said otherwise.
    release: Release,
    outcome: LoadOutcome,
    begun: Instant,
    /// How long the load took, once it has ended.
    took: Option<Duration>,
}

impl Hold {
    fn ends(&mut self, release: Release, outcome: LoadOutcome) {
        (self.release, self.outcome, self.took) = (release, outcome, Some(self.begun.elapsed()));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Ok(lease) = &self.lease {
            self.cache.0.store.release(lease, None);
        }
        self.cache.emit(Event::Release(self.release));
        let duration = self.took.unwrap_or_else(|| self.begun.elapsed());
        self.cache.emit(Event::Loaded { outcome: self.outcome, duration });
    }
}

impl Cache {
    /// Asks to load `key`, having `seen` what is there. Waits while somebody else in the fleet does, until `deadline`;
    /// after that the load goes ahead, and is not stored.
    pub(crate) async fn ask_to_load(
        &self,
        flight: Flight,
        key: &Key,
        seen: Seen,
        deadline: Instant,
        Caution { back_off, heeds }: Caution,
    ) -> Permission {
        let permit = |flight, lease| Permission::Load(self.permit(flight, lease, back_off));
        let acquired = if heeds && back_off.is_some() {
            self.0.store.acquire(key, seen, self.lease_life())
        } else {
            self.0.store.insist(key, seen, self.lease_life())
        };
        match acquired.await {
            Ok(Acquired::Granted(lease)) => permit(flight, Ok(lease)),
            Ok(Acquired::Changed) => Permission::LookAgain(flight),
            Ok(Acquired::Held) => match self.wait_for_the_fleet(key, deadline).await {
                Release::Done => Permission::LookAgain(flight),
                _ => {
                    self.emit(Event::Release(Release::WaitTimeout));
                    permit(flight, Err(NoCacheReason::WaitedTooLong))
                }
            },
            Ok(Acquired::Uncacheable) => {
                self.0.predictor.remember(&key.primary(), REMEMBER_UNCACHEABLE);
                flight.land(Landing::Uncacheable);
                Permission::Uncacheable
            }
            Ok(Acquired::BackOff { remaining, status }) => {
                let setback = Setback::new(status, remaining);
                self.0.setbacks.remember(key, setback);
                flight.land(Landing::Failed);
                Permission::BackedOff(setback)
            }
            Err(error) => {
                tracing::debug!(%error, "could not take a lease");
                permit(flight, Err(reason_of(&error)))
            }
        }
    }

    /// Waits until another process's load of `key` may have ended.
    async fn wait_for_the_fleet(&self, key: &Key, deadline: Instant) -> Release {
        let began = Instant::now();
        let release = match timeout_at(deadline, self.0.store.changed(key)).await {
            Ok(()) if Instant::now() < deadline => Release::Done,
            _ => Release::WaitTimeout,
        };
        self.emit(Event::Waited { scope: WaitScope::Fleet, release, duration: began.elapsed() });
        release
    }

    /// The right to load when the store is known not to answer.
    pub(crate) fn load_without_store(&self, flight: Flight) -> Permit {
        self.permit(flight, Err(NoCacheReason::StoreUnavailable), None)
    }

    fn permit(&self, flight: Flight, lease: Result<Lease, NoCacheReason>, back_off: Option<BackOff>) -> Permit {
        let (release, outcome) = (Release::Dangling, LoadOutcome::Lost);
        let hold = Hold { cache: self.clone(), lease, release, outcome, begun: Instant::now(), took: None };
        let invalidations = self.invalidations();
        Permit { cache: self.clone(), hold, flight, invalidations, back_off }
    }
}

impl Permit {
    /// Why nothing will be stored, if that is known beforehand.
    pub(crate) fn refusal(&self) -> Option<NoCacheReason> {
        self.hold.lease.as_ref().err().copied()
    }

    /// By what the lease is known, if there is one.
    pub(crate) fn token(&self) -> Option<LeaseToken> {
        self.hold.lease.as_ref().ok().map(|lease| lease.token)
    }

    /// Runs `load`, and keeps the lease alive for as long as it takes.
    pub(crate) async fn while_loading<T>(&self, load: impl Future<Output = T>) -> T {
        let ttl = self.cache.lease_life();
        let longest = LONGEST_LOAD.max(self.cache.0.lock_timeout.saturating_mul(LONGEST_LOAD_TIMEOUTS));
        let heartbeat = async {
            let mut lease = self.hold.lease.as_ref().ok();
            while self.hold.begun.elapsed() < longest {
                sleep((ttl / 3).max(Duration::from_millis(1))).await;
                if let Some(held) = lease
                    && self.cache.0.store.renew(held, ttl).await == Ok(false)
                {
                    // What is lost stays lost: the commit will be refused.
                    lease = None;
                }
            }
            self.cache.emit(Event::Release(Release::AgeTimeout));
            if let Some(held) = lease {
                self.cache.0.store.release(held, None);
            }
            self.flight.leave();
            std::future::pending().await
        };
        tokio::select! {
            biased;
            result = load => result,
            never = heartbeat => never,
        }
    }

    /// The application said that what is stored still holds.
    pub(crate) fn not_modified(&mut self) {
        self.hold.outcome = LoadOutcome::NotModified;
    }

    /// Lets those who wait have what is going to be written while its `payload` comes in.
    pub(crate) fn share(&self, writes: &Writes, payload: Rope) {
        let begun = Begun { lease: self.hold.lease.clone(), invalidations: self.invalidations };
        self.flight.share(Sharing { entries: writes.entries.clone().into(), payload, begun });
    }

    pub(crate) fn emit(&self, event: Event) {
        self.cache.emit(event);
    }

    /// The load failed, with a response of this status or without any. `backs_off`: that says something about the next.
    pub(crate) fn failed(self, status: Option<u16>, backs_off: bool) {
        self.fail(status, backs_off, Landing::Failed);
    }

    /// The load failed, with an error for all who wait.
    #[cfg(feature = "typed")]
    pub(crate) fn failed_with(self, error: Arc<dyn Any + Send + Sync>) {
        self.fail(None, true, Landing::FailedWith(error));
    }

    fn fail(self, status: Option<u16>, backs_off: bool, landing: Landing) {
        let Self { cache, mut hold, flight, invalidations, back_off, .. } = self;
        hold.ends(Release::TransientError, LoadOutcome::Failed);
        if let (Ok(lease), Some(back_off)) = (&hold.lease, back_off.filter(|_| backs_off)) {
            let pause = back_off.pause(lease.failures);
            if cache.invalidations() == invalidations {
                cache.0.setbacks.remember(&lease.key, Setback::new(status, pause));
            }
            cache.0.store.fail(lease, Failed { status, pause, remembered: back_off.longest() });
            hold.lease = Err(NoCacheReason::ServiceFailed);
        }
        drop(hold);
        flight.land(landing);
    }

    /// What was loaded can't be kept; nor, if it is to be `remembered` for this primary key, will what is loaded next.
    pub(crate) fn uncacheable(self, reason: NoCacheReason, remembered: Option<&Key>) {
        let Self { cache, mut hold, flight, .. } = self;
        let outcome = hold.outcome.unless_lost();
        hold.ends(Release::GiveUp, outcome);
        not_kept(reason);
        cache.emit(Event::NotStored(reason));
        if let Some(key) = remembered {
            cache.0.predictor.remember(key, REMEMBER_UNCACHEABLE);
            if let Ok(lease) = std::mem::replace(&mut hold.lease, Err(reason)) {
                cache.0.store.release(&lease, Some(REMEMBER_UNCACHEABLE));
            }
        }
        drop(hold);
        flight.land(Landing::Uncacheable);
    }

    /// Stores what was loaded, unless an invalidation came first.
    pub(crate) async fn commit(self, writes: Writes, tags: Tags) {
        let Self { cache, mut hold, flight, invalidations, .. } = self;
        let outcome = hold.outcome.unless_lost();
        hold.ends(Release::Done, outcome);
        let sizes: Vec<u64> = writes.entries.iter().map(|(_, entry)| entry.payload().len() as u64).collect();
        let committed = match hold.lease.clone() {
            Ok(lease) => {
                let fill = Fill { lease, writes, tags };
                let committed = match cache.0.commits.try_acquire() {
                    Ok(_slot) => cache.0.store.commit(&fill).await,
                    Err(_) => Err(StoreError::Unavailable),
                };
                if committed.is_ok() {
                    // The commit ended it.
                    hold.lease = Err(NoCacheReason::LeaseLost);
                }
                committed.map_err(|error| (reason_of(&error), fill.writes))
            }
            Err(reason) => {
                not_kept(reason);
                Err((reason, writes))
            }
        };
        drop(hold);
        let (outcome, landing) = match committed {
            Ok(Committed::Stored) => (FillOutcome::Stored, Landing::Stored),
            Ok(Committed::Refused) => (FillOutcome::Fenced, Landing::Void),
            Err((reason, writes)) => {
                let full = reason == NoCacheReason::StoreFull;
                let outcome = if full { FillOutcome::Full } else { FillOutcome::Unavailable };
                let overtaken = cache.invalidations() != invalidations;
                (outcome, if overtaken { Landing::Void } else { Landing::Unstored(writes.entries.into()) })
            }
        };
        cache.emit(Event::Fill(outcome));
        if outcome == FillOutcome::Stored {
            sizes.into_iter().for_each(|bytes| cache.emit(Event::Kept { bytes }));
        }
        flight.land(landing);
    }
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::{engine::flight::Seat, store::MemoryStore};

    async fn permission(cache: &Cache, key: &Key) -> Option<Permit> {
        let Seat::Leader(flight) = cache.flights().board(key) else { return None };
        let deadline = Instant::now() + cache.lock_timeout();
        match cache.ask_to_load(flight, key, Seen::Unusable, deadline, Caution::default()).await {
            Permission::Load(permit) => Some(permit),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_that_hangs_loses_its_place_to_the_next() {
        let (cache, key) = (Cache::new(MemoryStore::new(1 << 20)), Key::new(["k"]));
        let hung = permission(&cache, &key).await.unwrap();
        let (wake, woken) = oneshot::channel::<()>();
        let load = tokio::spawn(async move {
            hung.while_loading(woken).await.unwrap();
            hung
        });
        sleep(LONGEST_LOAD / 2).await;
        assert!(permission(&cache, &key).await.is_none(), "it still has its place");
        sleep(LONGEST_LOAD).await;
        assert_eq!(cache.counts().releases, [(Release::AgeTimeout, 1)]);

        let next = permission(&cache, &key).await.unwrap();
        assert_eq!(next.refusal(), None);
        wake.send(()).unwrap();
        let nothing = || Writes { entries: Vec::new(), guard: None };
        load.await.unwrap().commit(nothing(), Tags::default()).await;
        assert_eq!((cache.counts().fenced, cache.counts().stored), (1, 0));
        assert!(permission(&cache, &key).await.is_none(), "its end is not the next one's");
        next.commit(nothing(), Tags::default()).await;
        assert_eq!((cache.counts().fenced, cache.counts().stored), (1, 1));
    }
}
