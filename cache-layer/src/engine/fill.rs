//! The right to load a key: taken before the load, kept alive while it runs, and compared when its result is stored.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::Cache;
use super::flight::{Flight, Landing};
use crate::{
    key::Key,
    store::{Acquired, Committed, Fill, Lease, Seen, StoreError, Writes},
    tag::Tags,
    telemetry::{Event, FillOutcome, NoCacheReason},
};

/// How long a key whose response could not be kept is loaded without waiting for one another.
const REMEMBER_UNCACHEABLE: Duration = Duration::from_secs(5);

/// What the leader of a flight may do.
pub(crate) enum Permission {
    Load(Permit),
    /// The key changed, or may have: look again, and ask again.
    LookAgain(Flight),
    /// A recent load of this key could not be kept: load without a thought of storing. The flight has landed.
    Uncacheable,
}

/// The right to load. Every way to end it tells the flight's followers; dropped without a word, it was lost.
pub(crate) struct Permit {
    cache: Cache,
    /// Dropped after the hold on the lease: by the time a follower is woken, the lease is free.
    hold: Hold,
    flight: Flight,
    invalidations: u64,
}

/// A lease that is given back when it is dropped; or why there is none, and nothing will be stored.
struct Hold {
    cache: Cache,
    lease: Result<Lease, NoCacheReason>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Ok(lease) = &self.lease {
            self.cache.0.store.release(lease, None);
        }
    }
}

impl Cache {
    /// Asks to load `key`, having `seen` what is there. Waits while somebody else in the fleet does, until `deadline`;
    /// after that the load goes ahead, and is not stored.
    pub(crate) async fn ask_to_load(&self, flight: Flight, key: &Key, seen: Seen, deadline: Instant) -> Permission {
        let permit = |flight, lease| {
            let hold = Hold { cache: self.clone(), lease };
            Permission::Load(Permit { cache: self.clone(), hold, flight, invalidations: self.invalidations() })
        };
        match self.0.store.acquire(key, seen, self.lease_life()).await {
            Ok(Acquired::Granted(lease)) => permit(flight, Ok(lease)),
            Ok(Acquired::Changed) => Permission::LookAgain(flight),
            Ok(Acquired::Held) => match timeout_at(deadline, self.0.store.changed(key)).await {
                Ok(()) if Instant::now() < deadline => Permission::LookAgain(flight),
                _ => permit(flight, Err(NoCacheReason::WaitedTooLong)),
            },
            Ok(Acquired::Uncacheable) => {
                self.0.predictor.remember(&key.primary(), REMEMBER_UNCACHEABLE);
                flight.land(Landing::Uncacheable);
                Permission::Uncacheable
            }
            Err(error) => {
                tracing::debug!(%error, "could not take a lease");
                permit(flight, Err(NoCacheReason::StoreUnavailable))
            }
        }
    }

    /// The right to load when the store is known not to answer.
    pub(crate) fn load_without_store(&self, flight: Flight) -> Permit {
        let hold = Hold { cache: self.clone(), lease: Err(NoCacheReason::StoreUnavailable) };
        Permit { cache: self.clone(), hold, flight, invalidations: self.invalidations() }
    }
}

impl Permit {
    /// Why nothing will be stored, if that is known beforehand.
    pub(crate) fn refusal(&self) -> Option<NoCacheReason> {
        self.hold.lease.as_ref().err().copied()
    }

    /// Runs `load`, and keeps the lease alive for as long as it takes.
    pub(crate) async fn while_loading<T>(&self, load: impl Future<Output = T>) -> T {
        let Ok(lease) = &self.hold.lease else {
            return load.await;
        };
        let ttl = self.cache.lease_life();
        let heartbeat = async {
            loop {
                sleep(ttl / 3).await;
                // A lease that is lost stays lost: the commit will be refused.
                if self.cache.0.store.renew(lease, ttl).await == Ok(false) {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            biased;
            result = load => result,
            never = heartbeat => never,
        }
    }

    /// The load failed.
    pub(crate) fn failed(self) {
        let Self { hold, flight, .. } = self;
        drop(hold);
        flight.land(Landing::Failed);
    }

    /// What was loaded can't be kept; nor, if it is to be `remembered` for this primary key, will what is loaded next.
    pub(crate) fn uncacheable(self, reason: NoCacheReason, remembered: Option<&Key>) {
        let Self { cache, mut hold, flight, .. } = self;
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
        let Self { cache, mut hold, flight, invalidations } = self;
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
                committed.map_err(|_| fill.writes)
            }
            Err(_) => Err(writes),
        };
        drop(hold);
        let (outcome, landing) = match committed {
            Ok(Committed::Stored) => (FillOutcome::Stored, Landing::Stored),
            Ok(Committed::Refused) => (FillOutcome::Fenced, Landing::Void),
            Err(_) if cache.invalidations() != invalidations => (FillOutcome::Unavailable, Landing::Void),
            Err(writes) => (FillOutcome::Unavailable, Landing::Unstored(writes.entries.into())),
        };
        cache.emit(Event::Fill(outcome));
        flight.land(landing);
    }
}
