//! The handle, and what its clones share.

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
use super::verifier::Verifier;
use super::{
    backoff::{RecentFailure, RecentFailures},
    doorkeeper::Doorkeeper,
    flight::Flights,
    hot::HotSet,
    load_limit::LoadLimit,
    recent_keys::RecentKeys,
};
use crate::{
    clock::Clock,
    entry::{Entry, EntryId},
    key::Key,
    store::{LeaseToken, Lookup, Seen, StoreBackend, StoreError},
    switches::{Switch, Switches},
    tag::Tags,
    telemetry::{Counts, Event, Named, NoCacheReason, Telemetry, Tier},
    throttle::Throttle,
};
#[cfg(feature = "typed")]
use crate::{codec::Chosen, telemetry::FillOutcome};

/// Commits under way at one time, to a store outside of this process. More wait for their turn.
pub(super) const COMMITS: usize = 256;

/// Bytes of entries on their way to the store, in units of [`UNIT`]: from when an answer says that it will be stored until it
/// is. A store that can't keep up is spared the newest: bodies must not pile up here.
pub(super) const ON_THEIR_WAY: usize = 128 * 1024;
const UNIT: u64 = 1024;

/// How long a load keeps its place at least, and in lock timeouts.
pub(super) const LONGEST_LOAD: Duration = Duration::from_secs(60);
const LONGEST_LOAD_TIMEOUTS: u32 = 12;

/// A cache: one handle over one store, cheap to clone. Front ends answer from it, and applications invalidate through
/// it.
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
    /// What answers most, if that is wanted.
    pub(super) hot: Option<Arc<HotSet>>,
    /// Whether anybody is to be told of look-ups.
    pub(super) hears_lookups: bool,
    pub(super) lock_timeout: Duration,
    #[cfg(feature = "typed")]
    pub(super) codec: Chosen,
    pub(super) flights: Arc<Flights>,
    pub(super) uncacheable: RecentKeys,
    pub(super) recent_failures: RecentFailures,
    /// Invalidations that began in this process: what was loaded before one and couldn't be stored isn't shared after.
    pub(super) invalidations: AtomicU64,
    /// Keys whose last refresh in the background brought nothing to be stored.
    pub(super) failed_refreshes: RecentKeys,
    pub(super) abandoned_load: Duration,
    /// What knows which keys were loaded before, if others are not to be stored.
    pub(super) doorkeeper: Option<Doorkeeper>,
    pub(super) load_limit: LoadLimit,
    #[cfg(feature = "typed")]
    pub(super) verifier: Option<Verifier>,
    /// What an operator has turned off or on, if that may be.
    pub(super) switches: Option<Arc<Switches>>,
    pub(super) commits: Semaphore,
    pub(super) on_their_way: Arc<Semaphore>,
}

/// What an entry is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// To answer with it, or to load what isn't there.
    Answer,
    /// To be shown: nothing is taken along for a load, and no observer is told.
    Inspection,
}

/// What the store has for a key.
pub(crate) enum Retrieved {
    Found(Entry),
    Missing(Seen),
    /// The store did not answer; this request should not ask it again.
    Unavailable,
}

impl Cache {
    /// Waits until loads that are under way have ended and their entries are stored, at most for `timeout`; `true` if
    /// all have. For an orderly shutdown, once no request comes in any more. Invalidations that could not be delivered are
    /// not waited for: nobody knows for how long.
    pub async fn drain(&self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.0.flights.landed()).await.is_ok()
    }

    /// Keys that this process is loading at this moment.
    #[must_use]
    pub fn loads_in_flight(&self) -> usize {
        self.0.flights.count()
    }

    /// What happened since the cache was built.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.telemetry.counts()
    }

    pub(crate) fn emit(&self, event: Event) {
        self.0.telemetry.emit(event);
    }

    /// Tells the observer what an event was about, if it wants to know.
    pub(crate) fn tell(&self, named: &Named<'_>) {
        self.0.telemetry.name(named);
    }

    /// What hits of typed values are verified by, if some are.
    #[cfg(feature = "typed")]
    pub(crate) fn verifier(&self) -> Option<&Verifier> {
        self.0.verifier.as_ref()
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.clock.now()
    }

    /// What this machine's own clock said at that moment of the cache's, which may be a server's. The application is taken to date by it.
    pub(crate) fn local_time(&self, moment: u64) -> u64 {
        self.0.clock.local_at(moment)
    }

    pub(crate) fn lock_timeout(&self) -> Duration {
        self.0.lock_timeout
    }

    /// How long a lease holds others back unless it is renewed. Well below their patience: they must still be waiting
    /// when it runs out, and for the load of the one that takes it next.
    pub(crate) fn lease_life(&self) -> Duration {
        self.0.lock_timeout / 3
    }

    /// How long a load keeps its place: a lease, and one of those that may load at one time.
    pub(crate) fn longest_load(&self) -> Duration {
        LONGEST_LOAD.max(self.0.lock_timeout.saturating_mul(LONGEST_LOAD_TIMEOUTS))
    }

    pub(crate) fn load_limit(&self) -> &LoadLimit {
        &self.0.load_limit
    }

    pub(crate) fn flights(&self) -> &Arc<Flights> {
        &self.0.flights
    }

    /// Runs `task` to its end whatever becomes of its caller; [`drain`](Self::drain) waits for it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.0.flights.spawn(task)
    }

    /// Whether what one of the two loads is stored for the other one, as far as this process can tell.
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.store.identity() == other.0.store.identity()
    }

    /// Whether the lease of this token is held on `key`; `None` if the store doesn't say.
    pub(crate) async fn is_held_by(&self, key: &Key, token: LeaseToken) -> Option<bool> {
        self.0.store.is_held_by(key, token).await.ok()
    }

    /// Where a lookup finds what this process doesn't [have at hand](Self::peek).
    pub(crate) fn far_tier(&self) -> Tier {
        if self.is_local() { Tier::Memory } else { Tier::Store }
    }

    /// Whether an operator may turn things off.
    pub(crate) fn has_switches(&self) -> bool {
        self.0.switches.is_some()
    }

    /// Whether an operator has turned this on.
    pub(crate) fn is_switched(&self, switch: Switch) -> bool {
        self.0.switches.as_ref().is_some_and(|switches| switches.is_on(switch))
    }

    /// Whether the store is in this process, all of it.
    pub(crate) fn is_local(&self) -> bool {
        self.0.is_local
    }

    /// The key as the store finds it: to be asked for once, before the key goes there.
    pub(crate) fn named(&self, key: impl Into<Key>) -> Key {
        let key = key.into();
        if self.is_local() { key } else { key.named() }
    }

    /// The entry of `key`, if this process has it in memory.
    pub(crate) fn peek(&self, key: &Key) -> Option<Entry> {
        self.0.store.peek(key).map(|entry| entry.seen_at(|| self.now()))
    }

    /// Whether what is [added](Self::amend) to entries is kept.
    pub(crate) fn keeps_additions(&self) -> bool {
        self.0.store.keeps_additions()
    }

    /// Adds something to the entry with this id, in the memory of this process: `true` if it is there, and there is room.
    pub(crate) fn amend(&self, key: &Key, of: EntryId, amends: impl Fn(&Entry) -> Entry) -> bool {
        self.0.store.amend(key, of, &amends)
    }

    /// As [`lookup`](Self::lookup), without waiting; `None` if only that can tell. The time of what is found may be up.
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

    /// Whether a response for this primary key could not be kept lately.
    pub(crate) fn is_uncacheable(&self, key: &Key) -> bool {
        self.0.uncacheable.has(key)
    }

    /// Why it could not, as far as this process knows.
    pub(crate) fn first_reason(&self, key: &Key) -> Option<NoCacheReason> {
        self.0.uncacheable.reason(key)
    }

    /// The failure that the key backs off from, as far as this process remembers.
    pub(crate) fn recent_failure(&self, key: &Key) -> Option<RecentFailure> {
        self.0.recent_failures.get(key)
    }

    /// The entries of `keys`, in their order, at the cost of one.
    #[cfg(feature = "typed")]
    pub(crate) async fn lookup_many(&self, keys: &[Key]) -> Vec<Retrieved> {
        self.0.store.get_many(keys).await.into_iter().map(|found| self.retrieved(found)).collect()
    }

    /// Stores what no load stands behind, over whatever is there or being loaded.
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

    /// Stores what leads to an entry, and is none itself: nothing is counted, and without it there is one miss more.
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

    /// Room for so many bytes on their way to the store, if there is.
    pub(super) fn room_for(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        self.0.on_their_way.clone().try_acquire_many_owned(units(bytes)).ok()
    }

    /// Waits for room for so many bytes, of which there is some already, and for a turn to commit them.
    pub(super) async fn turn_to_commit(
        &self,
        room: Option<OwnedSemaphorePermit>,
        bytes: u64,
    ) -> (Option<OwnedSemaphorePermit>, Option<SemaphorePermit<'_>>) {
        // The semaphores are never closed.
        let room = match room {
            Some(room) if room.num_permits() >= units(bytes) as usize => Some(room),
            // No commit waits for more room while it holds some: all could, and none would ever get it.
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

/// One that is larger than there is room for has all of it.
fn units(bytes: u64) -> u32 {
    bytes.div_ceil(UNIT).min(ON_THEIR_WAY as u64) as u32
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("store", &self.0.store).field("counts", &self.counts()).finish_non_exhaustive()
    }
}
