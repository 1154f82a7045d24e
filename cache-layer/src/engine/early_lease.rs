//! The right to store what a write answers, taken before the write is sent: like a load, an answer is stored only if nothing
//! has invalidated it since it was asked for.

use std::{pin::pin, sync::atomic::Ordering, time::Duration};

use tokio::{sync::oneshot, time::timeout};

use super::{
    backoff::BackOff,
    cache::Cache,
    flight::{Flight, FlightOutcome, Role},
    permit::WritePermit,
};
use crate::{
    key::Key,
    store::{Acquired, Failed, Failures, Lease, LeaseToken, Seen},
    switches::Switch,
};

/// The lease and the flight of a key that is being written. Loads of the key wait for it, as they wait for each other.
pub(crate) struct EarlyLease {
    cache: Cache,
    /// Until a load takes it over.
    held: Option<Held>,
}

struct Held {
    lease: Lease,
    /// Dropped after the lease is given back.
    flight: Flight,
    /// How many invalidations had begun in this process.
    invalidations: u64,
    /// That of the loads of the key.
    back_off: Option<BackOff>,
}

impl Cache {
    /// The right to store what a write of `key` answers; `None` while the key is being loaded, while its loads back off, or if
    /// nothing is to be stored.
    pub(crate) async fn lease_early(&self, key: &Key, back_off: Option<BackOff>) -> Option<EarlyLease> {
        if self.is_switched(Switch::StopFills) {
            return None;
        }
        let Role::Leader(flight) = self.flights().join(key) else { return None };
        let invalidations = self.invalidations();
        // The lease takes the place of what is remembered of a failure, and a write may end without an answer to GET.
        let failures = if self.refusals_are_void() { Failures::HeedAnew } else { Failures::Heed };
        let acquired = match self.0.store.acquire_at_once(key, Seen::Unusable, failures) {
            Some(acquired) => acquired,
            None => self.0.store.acquire(key, Seen::Unusable, self.lease_life(), failures).await.ok()?,
        };
        let Acquired::Granted(lease) = acquired else { return None };
        Some(EarlyLease { cache: self.clone(), held: Some(Held { lease, flight, invalidations, back_off }) })
    }

    /// Notes that the answer to a write of `key` is stored, in the place of an invalidation.
    pub(crate) fn note_write(&self, key: &Key) {
        self.0.store.note_write(key);
    }
}

impl EarlyLease {
    /// Waits for the answer to the write, and keeps the lease meanwhile: not for the whole of its life, so that the load that takes
    /// it over has time to renew it, and no request waits long for a slow write.
    pub(crate) async fn hold<T>(early: &mut Option<Self>, answer: impl Future<Output = T>) -> T {
        let Some(Self { cache, .. }) = early else { return answer.await };
        let (longest, mut answer) = (cache.lease_life() / 2, pin!(answer));
        match timeout(longest, answer.as_mut()).await {
            Ok(answer) => answer,
            Err(_) => {
                *early = None;
                answer.await
            }
        }
    }

    /// The token of the lease.
    pub(crate) fn token(&self) -> Option<LeaseToken> {
        self.held.as_ref().map(|held| held.lease.token)
    }

    /// The right to store the answer, in the place of an invalidation of its key; and how that ends.
    pub(crate) fn into_permit(mut self) -> Option<(Box<WritePermit>, oneshot::Receiver<FlightOutcome>)> {
        let Held { lease, mut flight, invalidations, .. } = self.held.take()?;
        // What has been loaded for the key before now is older than the write; the answer itself is not.
        let before = self.cache.0.invalidations.fetch_add(1, Ordering::SeqCst);
        let end = flight.end();
        let mut permit = self.cache.permit(flight, Ok(lease), None);
        permit.began_at(if before == invalidations { before + 1 } else { invalidations });
        permit.note_known();
        Some((permit, end))
    }
}

impl Drop for EarlyLease {
    fn drop(&mut self) {
        let Some(Held { lease, flight, back_off, .. }) = self.held.take() else { return };
        let store = &self.cache.0.store;
        match (lease.failures.checked_sub(1), back_off) {
            // Their pause is over, but they still count: a write says nothing of the loads of the key.
            (Some(earlier), Some(back_off)) => {
                let failed = Failed { status: None, pause: Duration::ZERO, remembered: back_off.longest() };
                store.fail(&lease.after(earlier), failed);
            }
            _ => store.release(&lease, None),
        }
        drop(flight);
    }
}
