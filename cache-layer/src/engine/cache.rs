//! The [`Cache`] handle, and the state that its clones share.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

#[cfg(feature = "typed")]
use super::verifier::{Turn, Verifier};
use super::{
    backoff::{RecentFailure, RecentFailures},
    doorkeeper::Doorkeeper,
    flight::Flights,
    hot::HotSet,
    load_limit::LoadLimit,
    recent_keys::{RecentKeys, VoidRefusals},
};
use crate::{
    clock::{Clock, Moment},
    entry::{Entry, EntryId},
    key::Key,
    store::{Amended, LeaseToken, Lookup, Seen, StoreBackend, StoreError, SweepListener},
    switches::{Switch, Switches},
    tag::Tags,
    telemetry::{Counts, Event, Named, NoCacheReason, Telemetry, Tier},
    throttle::Throttle,
};
#[cfg(feature = "typed")]
use crate::{codec::Chosen, telemetry::FillOutcome};

/// The most commits under way at one time, to a store outside of this process. More commits wait for their turn.
pub(super) const COMMITS: usize = 256;

/// The most bytes of entries on their way to the store, in units of [`UNIT`]. An entry counts from when its response says that
/// it will be stored until it is. If the store can't keep up, the newest entries are dropped: bodies must not pile up here.
pub(super) const ON_THEIR_WAY: usize = 128 * 1024;
const UNIT: u64 = 1024;

/// How long a load may keep its place: the longer of a fixed time and a number of lock timeouts.
pub(super) const LONGEST_LOAD: Duration = Duration::from_secs(60);
const LONGEST_LOAD_TIMEOUTS: u32 = 12;

/// A cache: one handle over one store, cheap to clone. Layers and typed calls read through it, and applications invalidate
/// through it.
///
/// ```
/// use cache_layer::{Cache, store::MemoryStore};
///
/// # async fn example() -> Result<(), cache_layer::InvalidateError> {
/// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
/// cache.invalidate_tags(["product:42", "products"]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cache(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) store: Box<dyn StoreBackend>,
    /// Whether the store is in this process, all of it.
    pub(super) is_local: bool,
    pub(super) name: Cow<'static, str>,
    pub(super) keys_in_traces: bool,
    pub(super) clock: Clock,
    pub(super) telemetry: Telemetry,
    /// Called by the store for as long as the cache lives.
    pub(super) _on_sweep: Arc<SweepListener>,
    /// What answers most, if that is wanted.
    pub(super) hot: Option<Arc<HotSet>>,
    /// Whether look-ups have to be reported to an observer.
    pub(super) hears_lookups: bool,
    pub(super) lock_timeout: Duration,
    #[cfg(feature = "typed")]
    pub(super) codec: Chosen,
    pub(super) flights: Arc<Flights>,
    pub(super) uncacheable: RecentKeys,
    pub(super) void_refusals: VoidRefusals,
    pub(super) recent_failures: RecentFailures,
    /// Counts the invalidations that began in this process, and the hard ones that ended: a result that was loaded before one,
    /// and couldn't be stored, is not shared after it.
    pub(super) invalidations: AtomicU64,
    /// Keys whose last background refresh returned nothing that could be stored.
    pub(super) failed_refreshes: RecentKeys,
    pub(super) abandoned_load: Duration,
    /// What knows which keys were loaded before, if others are not to be stored.
    pub(super) doorkeeper: Option<Doorkeeper>,
    pub(super) load_limit: LoadLimit,
    #[cfg(feature = "typed")]
    pub(super) verifier: Option<Verifier>,
    /// The switches, if the cache has them.
    pub(super) switches: Option<Arc<Switches>>,
    pub(super) commits: Semaphore,
    pub(super) on_their_way: Arc<Semaphore>,
}

/// The purpose for which an entry is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// To answer with it, or to load if it is missing.
    Answer,
    /// To show it: no lease is claimed, and no event is emitted.
    Inspection,
}

/// The store's answer for a key.
pub(crate) enum Retrieved {
    Found(Entry),
    Missing(Seen),
    /// The store did not answer; this request should not ask it again.
    Unavailable,
}

impl Cache {
    /// Waits until the loads under way have ended and their entries are stored, at most for `timeout`; returns `true` if
    /// all have. For an orderly shutdown, once no more requests arrive. It does not wait for invalidations that could not be
    /// delivered, because the wait could take any time; nor for [verifications](crate::Verify), of which nothing is stored.
    pub async fn drain(&self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.0.flights.landed()).await.is_ok()
    }

    /// The number of keys that this process is loading now.
    #[must_use]
    pub fn loads_in_flight(&self) -> usize {
        self.0.flights.count()
    }

    /// Counts of the events since the cache was built.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.telemetry.counts()
    }

    pub(crate) fn emit(&self, event: Event) {
        self.0.telemetry.emit(event);
    }

    /// Whether the observer wants to know the keys and tags of events.
    pub(crate) fn is_told_names(&self) -> bool {
        self.0.telemetry.wants_names()
    }

    /// Reports an event's key or tags to the observer, if it wants them.
    pub(crate) fn tell(&self, named: &Named<'_>) {
        self.0.telemetry.name(named);
    }

    /// The turn of the next hit of a typed value, of `key`, if it may be verified.
    #[cfg(feature = "typed")]
    pub(crate) fn verification_turn(&self, key: &Key) -> Option<Turn<'_>> {
        self.0.verifier.as_ref()?.turn(key)
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.clock.now()
    }

    /// What this machine's own clock said at that moment of the cache's, which may be a server's. The application is taken to
    /// date by it.
    pub(crate) fn local_time(&self, moment: u64) -> u64 {
        self.0.clock.local_at(moment)
    }

    /// This moment, by the cache's clock and by the machine's own.
    #[cfg_attr(not(feature = "typed"), allow(dead_code))]
    pub(crate) fn moment(&self) -> Moment {
        self.0.clock.moment()
    }

    pub(crate) fn lock_timeout(&self) -> Duration {
        self.0.lock_timeout
    }

    /// How long a lease holds other processes back unless it is renewed. This is well below the lock timeout: requests must
    /// still be waiting when the lease runs out, and while the next holder loads.
    pub(crate) fn lease_life(&self) -> Duration {
        self.0.lock_timeout / 3
    }

    /// How long a load may keep its lease, and its place among the loads that may run at one time.
    pub(crate) fn longest_load(&self) -> Duration {
        LONGEST_LOAD.max(self.0.lock_timeout.saturating_mul(LONGEST_LOAD_TIMEOUTS))
    }

    pub(crate) fn load_limit(&self) -> &LoadLimit {
        &self.0.load_limit
    }

    pub(crate) fn flights(&self) -> &Arc<Flights> {
        &self.0.flights
    }

    /// Runs `task` to its end even if its caller is dropped; [`drain`](Self::drain) waits for it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.0.flights.spawn(task)
    }

    /// Whether the two caches share entries, as far as this process can tell.
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.store.identity() == other.0.store.identity()
    }

    /// Whether the lease of this token is held on `key`; `None` if the store doesn't say.
    pub(crate) async fn is_held_by(&self, key: &Key, token: LeaseToken) -> Option<bool> {
        self.0.store.is_held_by(key, token).await.ok()
    }

    /// The tier in which a look-up finds entries that this process doesn't [have in memory](Self::peek).
    pub(crate) fn far_tier(&self) -> Tier {
        if self.is_local() { Tier::Memory } else { Tier::Store }
    }

    /// Whether the cache has switches.
    pub(crate) fn has_switches(&self) -> bool {
        self.0.switches.is_some()
    }

    /// The switches, if the cache has them.
    pub(crate) fn switches(&self) -> Option<Arc<Switches>> {
        self.0.switches.clone()
    }

    /// Whether an operator has requests go to the application.
    #[inline(always)]
    pub(crate) fn bypasses_reads(&self) -> bool {
        self.0.switches.as_ref().is_some_and(|switches| switches.bypasses_reads())
    }

    /// Whether an operator has turned this switch on.
    #[inline]
    pub(crate) fn is_switched(&self, switch: Switch) -> bool {
        self.0.switches.as_ref().is_some_and(|switches| switches.is_on(switch))
    }

    /// Whether the whole store is in this process.
    pub(crate) fn is_local(&self) -> bool {
        self.0.is_local
    }

    /// The key in the form by which the store finds it. Convert a key once, before it goes to the store.
    pub(crate) fn named(&self, key: impl Into<Key>) -> Key {
        let key = key.into();
        if self.is_local() { key } else { key.named() }
    }

    /// The entry of `key`, if this process has it in memory.
    pub(crate) fn peek(&self, key: &Key) -> Option<Entry> {
        self.0.store.peek(key).map(|entry| entry.seen_at(|| self.now()))
    }

    /// Whether the store keeps [additions](Self::amend) to entries.
    pub(crate) fn keeps_additions(&self) -> bool {
        self.0.store.keeps_additions()
    }

    /// Adds something to the entry with this id, in the memory of this process, if it is there, and if there is room.
    pub(crate) fn amend(&self, key: &Key, of: EntryId, amends: impl Fn(&Entry) -> Entry) -> Amended {
        self.0.store.amend(key, of, &amends)
    }

    /// As [`lookup`](Self::lookup), without waiting; `None` if only `lookup` can tell. An entry that is found may have expired.
    pub(crate) fn lookup_at_once(&self, key: &Key) -> Option<Retrieved> {
        self.0.store.get_at_once(key).map(|found| self.retrieved(Ok(found)))
    }

    /// The entry of `key`.
    pub(crate) async fn lookup(&self, key: &Key) -> Retrieved {
        let found = self.0.store.get(key).await;
        self.retrieved(found)
    }

    /// The entry of `key`, for this purpose.
    pub(crate) async fn read(&self, key: &Key, purpose: Reading) -> Retrieved {
        if purpose == Reading::Answer {
            return self.lookup(key).await;
        }
        match self.0.store.look(key).await {
            Ok(Lookup::Found(entry)) => Retrieved::Found(entry.seen_at(|| self.now())),
            Ok(Lookup::Absent) => Retrieved::Missing(Seen::Nothing),
            Ok(Lookup::Rejected(_, seen)) => Retrieved::Missing(seen),
            Err(_) => Retrieved::Unavailable,
        }
    }

    fn retrieved(&self, found: Result<Lookup, StoreError>) -> Retrieved {
        match found {
            Ok(Lookup::Found(entry)) => Retrieved::Found(entry.seen_at(|| self.now())),
            Ok(Lookup::Absent) => Retrieved::Missing(Seen::Nothing),
            Ok(Lookup::Rejected(rejection, seen)) => {
                self.emit(Event::Rejected(rejection));
                Retrieved::Missing(seen)
            }
            Err(error) => {
                tracing::debug!(%error, "look-up failed");
                self.emit(Event::StoreUnavailable);
                Retrieved::Unavailable
            }
        }
    }

    /// Whether a recent response for this key could not be stored.
    pub(crate) fn is_uncacheable(&self, key: &Key) -> bool {
        self.0.uncacheable.has(key)
    }

    /// Forgets which responses could not be stored, here and in the store: they were judged by other settings.
    pub(crate) fn forget_refusals(&self) {
        self.0.uncacheable.forget_all();
        self.0.void_refusals.set();
    }

    /// Forgets that a response for this key could not be stored.
    pub(crate) fn forget_refusal(&self, key: &Key) {
        self.0.uncacheable.forget(key);
    }

    /// Whether what the store remembers of responses that could not be stored is void.
    pub(crate) fn refusals_are_void(&self) -> bool {
        self.0.void_refusals.are_void()
    }

    /// Why that response could not be stored, as far as this process knows.
    pub(crate) fn first_reason(&self, key: &Key) -> Option<NoCacheReason> {
        self.0.uncacheable.reason(key)
    }

    /// The failure that the key backs off from, as far as this process remembers.
    pub(crate) fn recent_failure(&self, key: &Key) -> Option<RecentFailure> {
        self.0.recent_failures.get(key)
    }

    /// The entries of `keys`, in their order, in one round trip.
    #[cfg(feature = "typed")]
    pub(crate) async fn lookup_many(&self, keys: &[Key]) -> Vec<Retrieved> {
        self.0.store.get_many(keys).await.into_iter().map(|found| self.retrieved(found)).collect()
    }

    /// Stores entries without a load, over any present entry and any load under way.
    #[cfg(feature = "typed")]
    pub(crate) async fn put(&self, entries: Vec<(Key, Entry)>, tags: &Tags) -> Result<(), StoreError> {
        self.0.invalidations.fetch_add(1, Ordering::SeqCst);
        entries.iter().for_each(|(key, _)| self.0.recent_failures.forget(key));
        let sizes: Vec<u64> = entries.iter().map(|(_, entry)| entry.payload().len() as u64).collect();
        let result = self.0.store.put(entries, tags).await;
        for bytes in sizes {
            match result {
                Ok(()) => {
                    self.emit(Event::Fill(FillOutcome::Stored));
                    self.emit(Event::Kept { bytes });
                }
                Err(StoreError::Full) => self.emit(Event::Fill(FillOutcome::Full)),
                Err(_) => self.emit(Event::Fill(FillOutcome::Unavailable)),
            }
        }
        result
    }

    /// Stores an alias, which leads to an entry: nothing is counted, and losing it costs one miss.
    pub(crate) async fn put_alias(&self, alias: (Key, Entry)) {
        if let Err(error) = self.0.store.put(vec![alias], &Tags::default()).await {
            static THROTTLE: Throttle = Throttle::new();
            if let Some(kept_back) = THROTTLE.pass() {
                tracing::debug!(%error, kept_back, "an alias is not kept");
            }
        }
    }

    #[cfg(feature = "typed")]
    pub(crate) fn codec(&self) -> &Chosen {
        &self.0.codec
    }

    /// Reserves room for `bytes` bytes on their way to the store, if there is room.
    pub(super) fn room_for(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        self.0.on_their_way.clone().try_acquire_many_owned(units(bytes)).ok()
    }

    /// Waits for room for `bytes` bytes, part of which may be reserved already, and for a turn to commit them.
    pub(super) async fn turn_to_commit(
        &self,
        room: Option<OwnedSemaphorePermit>,
        bytes: u64,
    ) -> (Option<OwnedSemaphorePermit>, Option<SemaphorePermit<'_>>) {
        // The semaphores are never closed.
        let room = match room {
            Some(room) if room.num_permits() >= units(bytes) as usize => Some(room),
            // A commit must not wait for more room while it holds some: all commits could do so, and none would ever proceed.
            less => {
                drop(less);
                self.0.on_their_way.clone().acquire_many_owned(units(bytes)).await.ok()
            }
        };
        (room, self.0.commits.acquire().await.ok())
    }

    pub(super) fn invalidations(&self) -> u64 {
        self.0.invalidations.load(Ordering::SeqCst)
    }
}

/// The units for `bytes` bytes, capped at all the room there is.
fn units(bytes: u64) -> u32 {
    bytes.div_ceil(UNIT).min(ON_THEIR_WAY as u64) as u32
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("store", &self.0.store).field("counts", &self.counts()).finish_non_exhaustive()
    }
}
