//! A store in this process, bounded by bytes, with an admission policy that keeps the entries that are asked for.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap, hash_map},
    fmt,
    future::ready,
    sync::{
        Arc, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quick_cache::{Weighter, sync::Cache as QuickCache};
use smallvec::SmallVec;
use tokio::{runtime::Handle, sync::Notify, task::spawn_blocking, time::sleep};

use super::{
    Acquired, Amended, BoxFuture, Committed, Estimate, Eviction, Failed, Failures, Fill, Hardness, Invalidated, Lease,
    LeaseHolder, LeaseState, LeaseToken, ListedPattern, ListedPatterns, Lookup, Reach, Scope, Seen, Store,
    StoreBackend, StoreError, Sweep, SweepListener, SweepListeners, Swept, Writes, entry_cache::EntryCache,
    recent_invalidations::RecentInvalidations,
};
use crate::{
    ban::{Ban, Bans, LONGEST_PATTERN},
    clock::Clock,
    entry::{Entry, EntryId},
    hex,
    key::{Hashed, Key, KeyHash, readable_in_full},
    pattern::Pattern,
    ramp::{Ramp, Ramps},
    switches::{SwitchState, Switches},
    sync::{Mutex, RwLock},
    tag::{TagRecord, TagStamp, TagState, TagToken, Tags},
    telemetry::{Rejection, SweepCause},
};

/// A store in this process, bounded by bytes (S3-FIFO: entries that are asked for again stay). Cheap to clone; clones are one
/// store.
///
/// ```
/// use cache_layer::{Cache, store::MemoryStore};
///
/// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
/// ```
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    entries: EntryCache<KeyHash>,
    tokens: QuickCache<Arc<str>, TagRecord, Weight>,
    /// The last moment, by the store's clock, of a change that covers entries without being written into them: a soft
    /// invalidation of everything, or a ban. It covers no entry that is younger. Written last.
    last_over_all: AtomicU64,
    /// The last soft invalidation of everything, and what still counts of earlier ones.
    all_ramps: RwLock<Option<Ramps>>,
    /// Shared, so that a look-up compares patterns without this lock.
    bans: RwLock<Arc<Bans>>,
    /// How often bans were taken off the list. A look-up that found an entry before that, and reads the list after it, looks
    /// again.
    taken_off: AtomicU64,
    /// Whether a task is sweeping banned entries.
    is_swept: AtomicBool,
    /// Whether a tag was invalidated since the last sweep of what tags have made void, and whether a task is sweeping that.
    has_void: AtomicBool,
    is_reclaimed: AtomicBool,
    sweeps: SweepListeners,
    fills: Mutex<Fills>,
    /// A lease ended.
    ended: Notify,
    /// The switches of this process alone.
    switches: Arc<Switches>,
}

/// The weight of a tag's token, in bytes.
#[derive(Clone)]
struct Weight;

impl Weighter<Arc<str>, TagRecord> for Weight {
    fn weight(&self, tag: &Arc<str>, _: &TagRecord) -> u64 {
        tag.len() as u64 + 192
    }
}

/// The leases, and what [`StoreBackend::acquire`] has to remember besides. Commits and invalidations take its lock, one at a
/// time; reads never do.
///
/// Failures and uncacheable keys are remembered here, although the engine of each [`Cache`](crate::Cache) remembers its own:
/// several caches may share one store.
#[derive(Default)]
struct Fills {
    leases: Leases,
    failures: BTreeMap<KeyHash, Failure>,
    /// Keys whose response can't be stored, each with the time until which their requests don't wait for each other.
    uncacheable: BTreeMap<KeyHash, Instant>,
    /// The store's clock, in microseconds since the Unix epoch: no two leases or invalidations have the same time.
    now: u64,
    /// When a tag was last invalidated.
    last_invalidation: u64,
    /// Which tags were invalidated during loads: an absent token may mean "never invalidated", or "forgotten".
    recent: RecentInvalidations,
}

/// The leases that are held; those of a key and of its variants are together.
#[derive(Default)]
struct Leases(HashMap<u64, SmallVec<[Lease; 1]>, Hashed>);

impl Leases {
    fn get(&self, id: KeyHash) -> Option<&Lease> {
        self.0.get(&id.primary)?.iter().find(|lease| lease.key.hash() == id)
    }

    fn insert(&mut self, lease: Lease) {
        self.0.entry(lease.key.hash().primary).or_default().push(lease);
    }

    /// Takes this lease away; `false` if it is not held.
    fn remove(&mut self, lease: &Lease) -> bool {
        self.remove_if(lease.key.hash(), |held| held.token == lease.token)
    }

    /// Takes the lease of this key away, if it is one that `goes`; `false` if there is none.
    fn remove_if(&mut self, id: KeyHash, goes: impl Fn(&Lease) -> bool) -> bool {
        let hash_map::Entry::Occupied(mut leases) = self.0.entry(id.primary) else { return false };
        let is_it = |held: &Lease| held.key.hash() == id && goes(held);
        let Some(place) = leases.get().iter().position(is_it) else { return false };
        match leases.get().len() {
            1 => drop(leases.remove()),
            _ => drop(leases.get_mut().swap_remove(place)),
        }
        true
    }

    /// Takes away the leases of a key and all its variants.
    fn remove_all_of(&mut self, primary: u64) {
        self.0.remove(&primary);
    }

    fn retain(&mut self, stays: impl Fn(&Lease) -> bool) {
        self.0.retain(|_, leases| {
            leases.retain(|lease| stays(lease));
            !leases.is_empty()
        });
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the oldest load began, by the store's clock.
    fn oldest(&self) -> Option<u64> {
        self.0.values().flatten().map(|lease| lease.started).min().and_then(|started| hex::parse(&started))
    }
}

/// Consecutive failed loads of a key.
struct Failure {
    count: u32,
    status: Option<u16>,
    /// When to ask the application again.
    ready: Instant,
    forgotten: Instant,
}

impl Fills {
    fn tick(&mut self) -> u64 {
        self.tick_at(Clock::system().now())
    }

    /// A ramp from now on, over `window` milliseconds; 0 is at once. Its number keeps the order, also if the clock was set back, and
    /// the clock says when it begins.
    fn ramp(&mut self, window: u64) -> Ramp {
        let now = Clock::system().now();
        let at = self.tick_at(now);
        Ramp { at, start: at.min(now.saturating_mul(1000)), window: window * 1000 }
    }

    /// As [`tick`](Self::tick), but as early as possible after all others: a lease only has to be told from what came before it
    /// and from what comes after it, so that the system's clock is not asked.
    fn step(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// As [`tick`](Self::tick), at this moment of the system's clock, in milliseconds.
    fn tick_at(&mut self, now: u64) -> u64 {
        self.now = (self.now + 1).max(now.saturating_mul(1000));
        self.now
    }

    fn holds(&self, lease: &Lease) -> bool {
        self.leases.get(lease.key.hash()).is_some_and(|held| held.token == lease.token)
    }

    fn is_overtaken(&self, lease: &Lease) -> bool {
        !self.holds(lease) || hex::of_u64(self.last_invalidation) >= lease.started
    }

    /// Takes away the leases of a key and all its variants, and forgets their failures.
    fn void(&mut self, primary: KeyHash) {
        let last = KeyHash { variant: u64::MAX, ..primary };
        self.leases.remove_all_of(primary.primary);
        while let Some((&id, _)) = self.failures.range(primary..=last).next() {
            self.failures.remove(&id);
        }
    }

    fn fail(&mut self, lease: &Lease, Failed { status, pause, remembered }: Failed) {
        let now = Instant::now();
        if self.failures.len() >= REMEMBERED_CAP {
            self.failures.retain(|_, failure| now < failure.forgotten);
        }
        if self.failures.len() < REMEMBERED_CAP {
            let (count, ready) = (lease.failures.saturating_add(1), now + pause);
            let failure = Failure { count, status, ready, forgotten: ready + remembered };
            self.failures.insert(lease.key.hash(), failure);
        }
    }

    fn remember_uncacheable(&mut self, key: &Key, duration: Duration) {
        if self.uncacheable.len() >= REMEMBERED_CAP {
            // A search for expired keys would take longer than it does for requests to wait for each other once more.
            self.uncacheable.clear();
        }
        self.uncacheable.insert(key.hash(), Instant::now() + duration);
    }

    /// Records that a tag is invalidated.
    fn invalidated(&mut self, tag: &Arc<str>, now: u64) {
        self.last_invalidation = now;
        if self.leases.is_empty() {
            self.recent.clear();
        } else {
            self.recent.add(tag, now, || self.leases.oldest());
        }
    }

    /// Ends a lease; `false` if it is not held.
    fn end(&mut self, lease: &Lease) -> bool {
        self.leases.remove(lease)
    }
}

/// The most keys that are remembered as uncacheable, and the most that are remembered as failing.
const REMEMBERED_CAP: usize = 10_000;

impl MemoryStore {
    /// A store whose entries take about `max_bytes` bytes of memory. It counts what is allocated for an entry once the entry has
    /// been asked for: the bytes of body, key and tags, some 600 bytes of bookkeeping, and for a response, besides the bytes of
    /// its head, 100 to 300 for each header field, however short.
    ///
    /// The largest entry that is kept takes 7 MiB, or nine tenths of a store below 8 MiB. In a store above 128 MiB it takes a
    /// twentieth of the store or 60 MiB, whichever is less; in a store above 4 GiB, a hundredth.
    #[must_use]
    pub fn new(max_bytes: u64) -> Self {
        let entries = EntryCache::new(max_bytes);
        let bytes = (max_bytes / 4).max(1 << 20);
        let tokens = QuickCache::with_weighter(usize::try_from(bytes / 256).unwrap_or(usize::MAX), bytes, Weight);
        Self(Arc::new(Inner {
            entries,
            tokens,
            last_over_all: AtomicU64::new(0),
            all_ramps: RwLock::new(None),
            bans: RwLock::default(),
            taken_off: AtomicU64::new(0),
            is_swept: AtomicBool::new(false),
            has_void: AtomicBool::new(false),
            is_reclaimed: AtomicBool::new(false),
            sweeps: SweepListeners::default(),
            fills: Mutex::default(),
            ended: Notify::new(),
            switches: Arc::default(),
        }))
    }

    /// The bytes that the entries take at this moment, approximately. Expired entries count until they are asked for, have to
    /// make room, or are swept: within a minute, if there are writes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.entries.size().1
    }

    /// The number of entries at this moment, counted as [`bytes`](Self::bytes) does.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.0.entries.size().0
    }

    /// [Patterns](crate::Cache::delete_pattern) that are listed and not swept yet.
    ///
    /// ```
    /// assert_eq!(cache_layer::store::MemoryStore::new(64 * 1024 * 1024).bans(), 0);
    /// ```
    #[must_use]
    pub fn bans(&self) -> usize {
        self.0.bans.read().as_slice().len()
    }

    /// The entries that left since the store was made, by reason. Entries that left by an invalidation of everything are counted
    /// when their memory is reused.
    ///
    /// ```
    /// let store = cache_layer::store::MemoryStore::new(64 * 1024 * 1024);
    /// let evicted: Vec<_> = store.evictions().map(|(why, count)| (why.as_str(), count)).collect();
    /// assert_eq!(evicted, [("size", 0), ("expired", 0), ("invalidated", 0)]);
    /// ```
    pub fn evictions(&self) -> impl Iterator<Item = (Eviction, u64)> + '_ {
        self.0.entries.evictions()
    }
}

impl MemoryStore {
    /// Runs `run`, which examines every entry, off the threads that answer requests, and so that it can't be cancelled halfway.
    fn aside<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Inner) -> T + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let inner = self.0.clone();
        let run = move || run(&inner);
        Box::pin(async move {
            match Handle::try_current() {
                Ok(runtime) => runtime.spawn_blocking(run).await.map_err(|_| StoreError::Unavailable),
                Err(_) => Ok(run()),
            }
        })
    }

    /// Runs `run` [aside](Self::aside), which invalidates the entries that match and returns their number.
    fn invalidate_aside(
        &self,
        pattern: &Pattern,
        run: impl FnOnce(&Inner, &Pattern) -> u64 + Send + 'static,
    ) -> BoxFuture<'static, Result<Invalidated, StoreError>> {
        let pattern = pattern.clone();
        self.aside(move |inner| {
            let deleted = run(inner, &pattern);
            inner.ended.notify_waiters();
            Invalidated { deleted, ..Invalidated::default() }
        })
    }

    /// Counts the keys that `reach` covers, [aside](Self::aside).
    fn count_aside(&self, reach: Reach<'_>) -> BoxFuture<'static, Result<Estimate, StoreError>> {
        match reach {
            Reach::Everything => self.aside(|inner| inner.count(|_| true)),
            Reach::Tag(tag) => {
                let tag = tag.to_owned();
                self.aside(move |inner| inner.count(|entry| entry.stamps().iter().any(|stamp| *stamp.tag == *tag)))
            }
            Reach::Pattern(pattern) => {
                let pattern = pattern.clone();
                self.aside(move |inner| inner.count(|entry| matches_in_full(&pattern, entry.canonical())))
            }
        }
    }

    /// Bans the entries that match; sweeps them now if there is no room on the list.
    fn ban(&self, pattern: &Pattern, hardness: Hardness) -> BoxFuture<'static, Result<Invalidated, StoreError>> {
        if self.0.ban(pattern, hardness) {
            self.0.ended.notify_waiters();
            self.begin_to_sweep();
            return Box::pin(ready(Ok(Invalidated::default())));
        }
        match hardness {
            Hardness::Hard => self.invalidate_aside(pattern, Inner::delete_matching),
            Hardness::Soft | Hardness::Ramp(_) => {
                self.invalidate_aside(pattern, move |inner, pattern| inner.soften_matching(pattern, hardness.window()))
            }
        }
    }

    /// Starts a task that sweeps banned entries, unless there is one. Without a runtime, or if that ends, bans stay listed until
    /// the next call.
    fn begin_to_sweep(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if let Some(lurker) = Lurker::begin(&self.0, |inner| &inner.is_swept) {
            runtime.spawn(lurk(lurker));
        }
    }

    /// Starts a task that sweeps entries whose tags were invalidated, unless there is one.
    fn begin_to_reclaim(&self) {
        self.0.has_void.store(true, Ordering::SeqCst);
        let Ok(runtime) = Handle::try_current() else { return };
        if let Some(lurker) = Lurker::begin(&self.0, |inner| &inner.is_reclaimed) {
            runtime.spawn(reclaim(lurker));
        }
    }
}

/// The term of a lurker, of which there is one at a time. It ends however its task ends, also by a panic or with its runtime.
struct Lurker {
    store: Weak<Inner>,
    /// Whether there is one.
    is_there: fn(&Inner) -> &AtomicBool,
}

impl Lurker {
    /// `None` if there is one.
    fn begin(store: &Arc<Inner>, is_there: fn(&Inner) -> &AtomicBool) -> Option<Self> {
        let begun = !is_there(store).load(Ordering::SeqCst) && !is_there(store).swap(true, Ordering::SeqCst);
        begun.then(|| Self { store: Arc::downgrade(store), is_there })
    }

    /// Ends the term if there is nothing left to do; work that came just now may have seen it running, so that this asks again.
    fn end(self, is_done: impl Fn(&Inner) -> bool) -> Option<Self> {
        let (inner, is_there) = (self.store.upgrade()?, self.is_there);
        drop(self);
        if is_done(&inner) { None } else { Self::begin(&inner, is_there) }
    }

    /// Runs `sweep` for one shard after the other, with pauses, on no thread that answers requests; `None` if the store is gone,
    /// the runtime has ended, or a pattern panicked.
    async fn sweep(
        &self,
        sweep: impl Fn(&Inner, usize) -> Swept + Clone + Send + 'static,
    ) -> Option<(Swept, Duration)> {
        let (begun, mut swept) = (Instant::now(), Swept::default());
        let shards = self.store.upgrade()?.entries.shards();
        for shard in 0..shards {
            let (inner, sweep) = (self.store.upgrade()?, sweep.clone());
            swept = swept.and(spawn_blocking(move || sweep(&inner, shard)).await.ok()?);
            sleep(PAUSE).await;
        }
        Some((swept, begun.elapsed()))
    }
}

impl Drop for Lurker {
    fn drop(&mut self) {
        if let Some(inner) = self.store.upgrade() {
            (self.is_there)(&inner).store(false, Ordering::SeqCst);
        }
    }
}

/// The time from the first ban to the sweep, so that bans that come together are swept together; and the pause after each shard.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(1);
/// The time from the invalidation of a tag to the sweep of the entries that carry it, and from one such sweep to the next.
const RECLAIM_PAUSE: Duration = Duration::from_secs(60);

/// The lurker: sweeps banned entries and takes the bans off the list, until none is left. It holds each lock only for as long as
/// examining one entry takes, and runs on no thread that answers requests.
///
/// A ban that it takes off covers nothing any more. Once every entry has been examined, each one that was stored before the ban
/// is gone, or its mark says that it is stale. No further one can come, since a ban takes the leases away before anything else.
async fn lurk(mut lurker: Lurker) {
    sleep(FIRST_PAUSE).await;
    loop {
        let Some(bans) = lurker.store.upgrade().map(|inner| inner.bans.read().clone()) else { return };
        if bans.is_empty() {
            let Some(again) = lurker.end(|inner| inner.bans.read().is_empty()) else { return };
            lurker = again;
            continue;
        }
        let listed = bans.clone();
        let Some((swept, duration)) = lurker.sweep(move |inner, shard| inner.sweep(shard, &listed)).await else {
            return;
        };
        let Some(inner) = lurker.store.upgrade() else { return };
        inner.take_off(&bans);
        let patterns = bans.as_slice().iter().map(|ban| ban.pattern.to_string()).collect();
        inner.sweeps.tell(&Sweep { cause: SweepCause::Pattern, patterns, swept, duration });
    }
}

/// Sweeps entries whose tags were invalidated, until no more are. Nothing depends on it: readers compare tokens.
async fn reclaim(mut lurker: Lurker) {
    loop {
        sleep(RECLAIM_PAUSE).await;
        let Some(inner) = lurker.store.upgrade() else { return };
        // Before the sweep, so that an invalidation during it counts for the next one.
        inner.has_void.store(false, Ordering::SeqCst);
        drop(inner);
        let Some((swept, duration)) = lurker.sweep(Inner::reclaim).await else { return };
        let Some(inner) = lurker.store.upgrade() else { return };
        inner.sweeps.tell(&Sweep { cause: SweepCause::Tag, patterns: Vec::new(), swept, duration });
        if !inner.has_void.load(Ordering::SeqCst) {
            let Some(again) = lurker.end(|inner| !inner.has_void.load(Ordering::SeqCst)) else { return };
            lurker = again;
        }
    }
}

#[cfg(feature = "testing")]
impl MemoryStore {
    /// Removes an entry, as if memory had been short.
    pub(super) fn lose(&self, key: &Key) {
        self.0.entries.remove(key.hash());
    }

    /// Removes all entries, as if memory had been short.
    pub(super) fn lose_all(&self) {
        self.0.entries.clear();
    }
}

#[cfg(test)]
impl MemoryStore {
    /// Sweeps entries whose tags were invalidated, now.
    pub(super) fn reclaim_now(&self) -> Swept {
        (0..self.0.entries.shards()).map(|shard| self.0.reclaim(shard)).fold(Swept::default(), Swept::and)
    }

    pub(super) fn has_bans(&self) -> bool {
        !self.0.bans.read().is_empty()
    }

    /// Removes the token of a tag, as if memory had been short.
    pub(super) fn lose_token(&self, tag: &str) {
        assert!(self.0.tokens.remove(tag).is_some());
    }
}

impl Inner {
    fn fills(&self) -> MutexGuard<'_, Fills> {
        self.fills.lock()
    }

    /// The look-up that found this entry under `key`, given the state of the entry's tags.
    #[inline]
    fn judge(&self, key: &Key, found: Option<(Entry, u64)>) -> Lookup {
        let Some((entry, stored)) = found else {
            return Lookup::Absent;
        };
        if !entry.is_of(key) {
            return Lookup::Rejected(Rejection::Key, Seen::Entry(entry.id()));
        }
        let last = self.last_over_all.load(Ordering::SeqCst);
        let by_all = if stored < last { self.state_by_all(stored, key) } else { TagState::Current };
        let by_tag = |stamp: &TagStamp| match self.tokens.get(&stamp.tag) {
            Some(current) => current.state_of(&stamp.token, || key.hash().turn()),
            None => TagState::Invalid,
        };
        let state = entry.stamps().iter().map(by_tag).fold(by_all, TagState::and);
        Lookup::judged(entry, state)
    }

    /// The state of an entry that was stored at `stored`, given the bans and the soft invalidations of everything since then. The
    /// moment of storing serves as well as the start of its load: a ban takes the leases away at once.
    #[cold]
    fn state_by_all(&self, stored: u64, key: &Key) -> TagState {
        let turn = || key.hash().turn();
        let softened = match &*self.all_ramps.read() {
            Some(ramps) if stored < ramps.newest() => ramps.state_of(stored, turn()),
            _ => TagState::Current,
        };
        let bans = self.bans.read().clone();
        softened.and(bans.state_of(stored, key.canonical(), turn))
    }

    fn peek(&self, key: &Key) -> Lookup {
        self.while_bans_stay(|| self.judge(key, self.entries.peek(key.hash())))
    }

    fn lookup(&self, key: &Key) -> Lookup {
        self.while_bans_stay(|| self.judge(key, self.entries.get(key.hash())))
    }

    fn while_bans_stay(&self, look: impl Fn() -> Lookup) -> Lookup {
        let mut before = self.taken_off.load(Ordering::SeqCst);
        let mut found = look();
        loop {
            let after = self.taken_off.load(Ordering::SeqCst);
            if after == before {
                return found;
            }
            (before, found) = (after, look());
        }
    }

    fn acquire(&self, key: &Key, seen: Seen, failures: Failures) -> Acquired {
        let id = key.hash();
        let mut fills = self.fills();
        if failures.load_anew() {
            fills.uncacheable.remove(&id);
        } else if fills.uncacheable.get(&id).is_some_and(|until| Instant::now() < *until) {
            return Acquired::Uncacheable;
        }
        let found = self.entries.get(id).map(|(entry, _)| entry.id());
        let changed = match seen {
            Seen::Nothing => found.is_some(),
            Seen::Entry(entry) => found != Some(entry),
            Seen::Unusable => false,
        };
        if changed {
            return Acquired::Changed;
        }
        if fills.leases.get(id).is_some() {
            return Acquired::Held;
        }
        let count = match fills.failures.get(&id).map(|failure| (failure, Instant::now())) {
            Some((failure, now)) if now >= failure.forgotten => 0,
            Some((Failure { ready, status, .. }, now)) if failures.are_heeded() && now < *ready => {
                return Acquired::BackOff { remaining: *ready - now, status: *status };
            }
            Some((failure, _)) => failure.count,
            None => 0,
        };
        let lease = Lease::new(key, Lease::random_token(), hex::of_u64(fills.step())).after(count);
        fills.leases.insert(lease.clone());
        Acquired::Granted(lease)
    }

    fn lease_state(&self, key: &Key) -> LeaseState {
        let (id, now, fills) = (key.hash(), Instant::now(), self.fills());
        if fills.uncacheable.get(&id).is_some_and(|until| now < *until) {
            return LeaseState::Uncacheable;
        }
        if fills.leases.get(id).is_some() {
            return LeaseState::Held(LeaseHolder::HERE);
        }
        match fills.failures.get(&id).filter(|failure| now < failure.forgotten) {
            Some(Failure { count, status, ready, .. }) => LeaseState::Failed {
                remaining: ready.saturating_duration_since(now),
                status: *status,
                failures: *count,
            },
            None => LeaseState::Free,
        }
    }

    /// Counts the keys whose entries `reaches` holds for. It examines every entry.
    fn count(&self, reaches: impl Fn(&Entry) -> bool) -> Estimate {
        let load_ms = Cell::new(0_u64);
        let keys = self.entries.count_where(|id, entry| {
            let reached = !id.is_variant() && reaches(entry);
            load_ms.set(load_ms.get().saturating_add(if reached { entry.load_time() } else { 0 }));
            reached
        });
        Estimate { keys, error: 0, load_time: Duration::from_millis(load_ms.get()) }
    }

    fn commit(&self, lease: &Lease, writes: &Writes, tags: &Tags) -> Committed {
        let committed = self.commit_under_lease(lease, writes, tags);
        self.ended.notify_waiters();
        committed
    }

    fn commit_under_lease(&self, lease: &Lease, writes: &Writes, tags: &Tags) -> Committed {
        let mut fills = self.fills();
        if !fills.end(lease) {
            return Committed::Refused;
        }
        fills.failures.remove(&lease.key.hash());
        let mut index = None;
        if let Some((key, version)) = writes.guard.as_deref() {
            index = self.entries.get(key.hash()).map(|(entry, _)| entry).filter(|entry| entry.version() == *version);
            if index.is_none() {
                return Committed::Refused;
            }
        }
        let mut stamps = Vec::with_capacity(tags.as_slice().len());
        for tag in tags.as_slice() {
            let known = self.tokens.get(tag).map(|record| record.token);
            let overtaken = match known {
                Some(token) if !token.created_since(&lease.started) => token.overtook(&lease.started),
                // The token may have been forgotten, and made again since.
                _ => fills.recent.overtook(tag, &lease.started),
            };
            if overtaken {
                return Committed::Refused;
            }
            let token = known.unwrap_or_else(|| self.create_token(&mut fills, tag));
            stamps.push(TagStamp { tag: tag.clone(), token });
        }
        let now = Clock::system().now();
        let stored = fills.tick_at(now);
        for (key, entry) in &writes.entries {
            let mut entry = entry.clone().stamped(&stamps);
            // Another load of a variant may have prolonged it since this one saw it.
            if let Some(present) = index.as_ref().filter(|present| present.id() == entry.id()) {
                entry = entry.lasting_as_long_as(present);
            }
            self.entries.insert_at(now, key.hash(), entry, stored);
        }
        Committed::Stored
    }

    /// Gives a new token, which voids no load, to a tag that has none.
    fn create_token(&self, fills: &mut Fills, tag: &Arc<str>) -> TagToken {
        let token = TagToken::created(fills.tick());
        self.tokens.insert(tag.clone(), token.into());
        token
    }

    fn invalidate(&self, scope: Scope<'_>) {
        let mut fills = self.fills();
        match scope {
            Scope::Key(key) => {
                // Variants are reached through the primary entry alone.
                let primary = KeyHash { variant: KeyHash::PRIMARY, ..key.hash() };
                fills.void(primary);
                fills.uncacheable.remove(&primary);
                self.entries.remove(primary);
            }
            Scope::Tags(tags) => {
                let now = fills.tick();
                for tag in tags.as_slice() {
                    fills.invalidated(tag, now);
                    self.tokens.insert(tag.clone(), TagToken::invalidated(now).into());
                }
            }
            Scope::Everything => {
                fills.leases.clear();
                fills.failures.clear();
                fills.uncacheable.clear();
                // Bans stay, for a look-up that found an earlier entry and judges it now.
                self.entries.clear();
            }
            Scope::Pattern(_) => unreachable!("a pattern is banned"),
        }
    }

    /// Soft-invalidates at once, or over `window` milliseconds.
    fn soft_invalidate(&self, scope: Scope<'_>, window: u64) {
        let mut fills = self.fills();
        let ramp = fills.ramp(window);
        match scope {
            Scope::Pattern(_) => unreachable!("a pattern is banned"),
            Scope::Key(key) => self.soften(&mut fills, key.hash(), ramp.start / 1000, window),
            Scope::Tags(tags) => {
                for tag in tags.as_slice() {
                    fills.invalidated(tag, ramp.at);
                    let record = TagRecord::soft_invalidated(ramp, self.tokens.get(tag));
                    self.tokens.insert(tag.clone(), record);
                }
            }
            Scope::Everything => {
                fills.leases.clear();
                let mut ramps = self.all_ramps.write();
                let before = ramps.take();
                *ramps = Some(Ramps::with(before.as_ref().map_or(&[], Ramps::as_slice), ramp));
                drop(ramps);
                self.last_over_all.store(ramp.at, Ordering::SeqCst);
            }
        }
    }

    /// Records that matching entries are void, or stale, and takes their leases away; `false` if the list has no room.
    fn ban(&self, pattern: &Pattern, hardness: Hardness) -> bool {
        let mut fills = self.fills();
        let soft_over = hardness.is_soft().then(|| hardness.window());
        let Ramp { at, start, .. } = fills.ramp(hardness.window());
        let ban = Ban { at, begin: start, soft_over, pattern: pattern.clone() };
        {
            let mut bans = self.bans.write();
            let Some(with) = bans.with(ban).filter(|_| pattern.as_str().len() <= LONGEST_PATTERN) else { return false };
            *bans = Arc::new(with);
        }
        fills.leases.retain(|lease| !matches_in_full(pattern, lease.key.canonical()));
        self.last_over_all.store(at, Ordering::SeqCst);
        true
    }

    /// Marks the entry of a key as of `now`, in milliseconds since the Unix epoch.
    fn soften(&self, fills: &mut Fills, key: KeyHash, now: u64, window: u64) {
        let primary = KeyHash { variant: KeyHash::PRIMARY, ..key };
        fills.void(primary);
        if let Some((entry, stored)) = self.entries.get(primary) {
            self.entries.insert(primary, entry.marked_anew(now, window, primary.turn()), stored);
        }
    }

    /// Takes bans off the list after their sweep.
    fn take_off(&self, swept: &Bans) {
        // This lock keeps new bans out.
        let _fills = self.fills();
        let mut bans = self.bans.write();
        self.taken_off.fetch_add(1, Ordering::SeqCst);
        *bans = Arc::new(bans.without(swept));
        let softened = self.all_ramps.read().as_ref().map_or(0, Ramps::newest);
        let banned = if bans.is_empty() { 0 } else { bans.newest() };
        self.last_over_all.store(softened.max(banned), Ordering::SeqCst);
    }

    /// Removes the entries of one shard that their tags have made void: they will never be valid again, since no token comes twice.
    fn reclaim(&self, shard: usize) -> Swept {
        let mut swept = Swept::default();
        for (id, entry, stored) in self.entries.each_of(shard) {
            swept.examined += 1;
            // Not `get`, which would keep the tokens of tags that are not asked for.
            let is_void = |stamp: &TagStamp| match self.tokens.peek(&stamp.tag) {
                Some(current) => current.state_of(&stamp.token, || id.turn()) == TagState::Invalid,
                None => true,
            };
            if entry.stamps().iter().any(is_void) && self.entries.remove_this(id, entry.id(), stored) {
                swept.removed += 1;
            }
        }
        swept
    }

    /// Removes the banned entries of one shard, or marks them as stale.
    fn sweep(&self, shard: usize, bans: &Bans) -> Swept {
        let mut swept = Swept::default();
        for (id, entry, stored) in self.entries.each_of(shard) {
            swept.examined += 1;
            if stored >= bans.newest() {
                continue;
            }
            let readable = readable_in_full(entry.canonical());
            let covering: SmallVec<[&Ban; 4]> = bans.covering(stored, readable.as_bytes()).collect();
            if covering.is_empty() {
                continue;
            }
            // A soft invalidation of the key may be about to replace the entry.
            let _fills = self.fills();
            let removed = if covering.iter().any(|ban| ban.soft_over.is_none()) {
                self.entries.remove_this(id, entry.id(), stored)
            } else {
                // Variants are marked as well: their primary entry may be replaced before its turn.
                let soften = |entry: &Entry, ban: &&Ban| {
                    entry.marked_anew(ban.begin / 1000, ban.soft_over.unwrap_or_default(), id.turn())
                };
                let softened =
                    |entry: &Entry| covering.iter().rev().fold(entry.clone(), |entry, ban| soften(&entry, ban));
                self.entries.amend_this(id, entry.id(), stored, softened) == Amended::Kept
            };
            swept.removed += u64::from(removed);
        }
        swept
    }

    fn delete_matching(&self, pattern: &Pattern) -> u64 {
        let matches = |canonical: &[u8]| matches_in_full(pattern, canonical);
        // Leases come first: a fill in flight is either voided here, or has put its entry where the second pass finds it.
        self.fills().leases.retain(|lease| !matches(lease.key.canonical()));
        let deleted = self.entries.remove_where(|entry| matches(entry.canonical()));
        deleted.iter().filter(|id| !id.is_variant()).count() as u64
    }

    /// Each entry is handled under the lock, so that one that is loaded meanwhile is not softened in place of the one that was
    /// there.
    fn soften_matching(&self, pattern: &Pattern, window: u64) -> u64 {
        let matches = |canonical: &[u8]| matches_in_full(pattern, canonical);
        self.fills().leases.retain(|lease| !matches(lease.key.canonical()));
        let found = self.entries.ids_where(|id, entry| !id.is_variant() && matches(entry.canonical()));
        for id in &found {
            let mut fills = self.fills();
            self.soften(&mut fills, *id, Clock::system().now(), window);
        }
        found.len() as u64
    }

    fn put(&self, entries: Vec<(Key, Entry)>, tags: &Tags) {
        let mut fills = self.fills();
        let stamp = |tag: &Arc<str>| {
            let known = self.tokens.get(tag).map(|record| record.token);
            let token = known.unwrap_or_else(|| self.create_token(&mut fills, tag));
            TagStamp { tag: tag.clone(), token }
        };
        let stamps: Vec<TagStamp> = tags.as_slice().iter().map(stamp).collect();
        let stored = fills.tick();
        for (key, entry) in entries {
            fills.void(key.hash());
            self.entries.insert(key.hash(), entry.stamped(&stamps), stored);
        }
    }
}

fn matches_in_full(pattern: &Pattern, canonical: &[u8]) -> bool {
    pattern.matches(readable_in_full(canonical).as_bytes())
}

impl Store for MemoryStore {}

impl StoreBackend for MemoryStore {
    fn peek(&self, key: &Key) -> Option<Entry> {
        match self.0.peek(key) {
            Lookup::Found(entry) => Some(entry),
            Lookup::Absent | Lookup::Rejected(..) => None,
        }
    }

    fn get_at_once(&self, key: &Key) -> Option<Lookup> {
        Some(self.0.peek(key))
    }

    fn on_sweep(&self, listener: &Arc<SweepListener>) {
        self.0.sweeps.add(listener);
    }

    fn keeps_additions(&self) -> bool {
        true
    }

    fn amend(&self, key: &Key, of: EntryId, amends: &dyn Fn(&Entry) -> Entry) -> Amended {
        self.0.entries.amend(key.hash(), of, amends)
    }

    fn is_local(&self) -> bool {
        true
    }

    fn identity(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>> {
        Box::pin(ready(Ok(self.0.lookup(key))))
    }

    fn follow_switches(&self) -> Arc<Switches> {
        self.0.switches.clone()
    }

    fn set_switch(&self, state: SwitchState) -> BoxFuture<'_, Result<(), StoreError>> {
        self.0.switches.set(state);
        Box::pin(ready(Ok(())))
    }

    fn lease_state<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<LeaseState, StoreError>> {
        Box::pin(ready(Ok(self.0.lease_state(key))))
    }

    fn tag_token<'a>(&'a self, tag: &'a str) -> BoxFuture<'a, Result<Option<TagToken>, StoreError>> {
        Box::pin(ready(Ok(self.0.tokens.get(tag).map(|record| record.token))))
    }

    fn patterns(&self) -> BoxFuture<'_, Result<ListedPatterns, StoreError>> {
        let bans = self.0.bans.read().clone();
        let patterns: Vec<_> = bans.as_slice().iter().map(ListedPattern::of).collect();
        // The first ban starts the sweep, which goes on until none is left.
        let sweeper = (!patterns.is_empty()).then_some(LeaseHolder::HERE);
        Box::pin(ready(Ok(ListedPatterns { patterns, sweeper })))
    }

    fn banned_by<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        let stored = self.0.entries.peek(key.hash()).filter(|(entry, _)| entry.is_of(key)).map(|(_, stored)| stored);
        let pattern = stored.and_then(|stored| self.0.bans.read().voiding(stored, key.canonical()));
        Box::pin(ready(Ok(pattern)))
    }

    fn count<'a>(&'a self, reach: Reach<'a>) -> BoxFuture<'a, Result<Option<u64>, StoreError>> {
        Box::pin(async move { Ok(Some(self.count_aside(reach).await?.keys)) })
    }

    fn estimate<'a>(
        &'a self,
        reach: Reach<'a>,
        _within: Duration,
    ) -> BoxFuture<'a, Result<Option<Estimate>, StoreError>> {
        Box::pin(async move { Ok(Some(self.count_aside(reach).await?)) })
    }

    fn acquire<'a>(
        &'a self,
        key: &'a Key,
        seen: Seen,
        _: Duration,
        failures: Failures,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        Box::pin(ready(Ok(self.0.acquire(key, seen, failures))))
    }

    fn acquire_at_once(&self, key: &Key, seen: Seen, failures: Failures) -> Option<Acquired> {
        Some(self.0.acquire(key, seen, failures))
    }

    fn renew<'a>(&'a self, lease: &'a Lease, _: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(ready(Ok(self.0.fills().holds(lease))))
    }

    fn is_held_by<'a>(&'a self, key: &'a Key, token: LeaseToken) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(ready(Ok(self.0.fills().leases.get(key.hash()).is_some_and(|held| held.token == token))))
    }

    fn overtaken(&self, lease: &Lease) -> bool {
        self.0.fills().is_overtaken(lease)
    }

    fn commit<'a>(&'a self, fill: &'a Fill) -> BoxFuture<'a, Result<Committed, StoreError>> {
        let Fill { lease, writes, tags } = fill;
        Box::pin(ready(Ok(self.0.commit(lease, writes, tags))))
    }

    fn commit_at_once(&self, lease: &Lease, writes: &Writes, tags: &Tags) -> Option<Committed> {
        Some(self.0.commit(lease, writes, tags))
    }

    fn release(&self, lease: &Lease, uncacheable: Option<Duration>) {
        let mut fills = self.0.fills();
        if fills.end(lease) {
            fills.failures.remove(&lease.key.hash());
            if let Some(duration) = uncacheable {
                fills.remember_uncacheable(&lease.key, duration);
            }
        }
        drop(fills);
        self.0.ended.notify_waiters();
    }

    fn supersede<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        let mut fills = self.0.fills();
        if fills.end(lease) {
            fills.failures.remove(&lease.key.hash());
            // Before the next load can store anything.
            self.0.entries.remove(lease.key.hash());
        }
        drop(fills);
        self.0.ended.notify_waiters();
        Box::pin(ready(Ok(())))
    }

    fn end_lease<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        self.0.fills().leases.remove_if(key.hash(), |_| true);
        self.0.ended.notify_waiters();
        Box::pin(ready(Ok(())))
    }

    fn fail(&self, lease: &Lease, failed: Failed) {
        let mut fills = self.0.fills();
        if fills.end(lease) {
            fills.fail(lease, failed);
        }
        drop(fills);
        self.0.ended.notify_waiters();
    }

    fn lease_ended<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, ()> {
        let id = key.hash();
        Box::pin(async move {
            let mut ended = std::pin::pin!(self.0.ended.notified());
            ended.as_mut().enable();
            if self.0.fills().leases.get(id).is_some() {
                ended.await;
            }
        })
    }

    fn invalidate(&self, scope: Scope<'_>, hardness: Hardness) -> BoxFuture<'static, Result<Invalidated, StoreError>> {
        if let Scope::Pattern(pattern) = scope {
            return self.ban(pattern, hardness);
        }
        match hardness {
            Hardness::Hard => {
                self.0.invalidate(scope);
                if let Scope::Tags(_) = scope {
                    self.begin_to_reclaim();
                }
            }
            Hardness::Soft | Hardness::Ramp(_) => self.0.soft_invalidate(scope, hardness.window()),
        }
        self.0.ended.notify_waiters();
        Box::pin(ready(Ok(Invalidated::default())))
    }

    fn delete_matching(&self, pattern: &Pattern) -> BoxFuture<'static, Result<Invalidated, StoreError>> {
        self.invalidate_aside(pattern, Inner::delete_matching)
    }

    fn get_many<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Lookup, StoreError>>> {
        Box::pin(ready(keys.iter().map(|key| Ok(self.0.lookup(key))).collect()))
    }

    fn put<'a>(&'a self, entries: Vec<(Key, Entry)>, tags: &'a Tags) -> BoxFuture<'a, Result<(), StoreError>> {
        self.0.put(entries, tags);
        self.0.ended.notify_waiters();
        Box::pin(ready(Ok(())))
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (entries, bytes) = self.0.entries.size();
        f.debug_struct("MemoryStore").field("entries", &entries).field("bytes", &bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod race_tests;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{entry::Deadlines, store::Writes};

    #[tokio::test]
    async fn what_is_remembered_as_uncacheable_is_forgotten_with_everything() {
        let (store, key) = (MemoryStore::new(1 << 20), Key::new(["k"]));
        let acquire = async || store.acquire(&key, Seen::Nothing, Duration::ZERO, Failures::Heed).await.unwrap();
        for _ in 0..2 {
            let Acquired::Granted(lease) = acquire().await else { panic!("no lease") };
            store.release(&lease, Some(Duration::from_secs(60)));
            assert!(matches!(acquire().await, Acquired::Uncacheable));
            StoreBackend::invalidate(&store, Scope::Everything, Hardness::Hard).await.unwrap();
        }
    }

    #[test]
    fn entries_are_counted_on_no_thread_that_answers_requests() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (store, key, pattern) = (MemoryStore::new(1 << 20), Key::new(["k"]), Pattern::new("k*"));
            let deadlines = Deadlines::fresh_until(Clock::system().now() + 60_000);
            let entry = Entry::new(EntryId::random(), &key, deadlines, Bytes::new(), Bytes::new());
            store.put(vec![(key, entry)], &Tags::new(["t"])).await.unwrap();
            for reach in [Reach::Everything, Reach::Tag("t"), Reach::Pattern(&pattern)] {
                // The only other thread is busy until the end of this channel.
                let (busy, until) = std::sync::mpsc::channel::<()>();
                spawn_blocking(move || until.recv());
                let both = async { (store.count(reach).await, store.estimate(reach, Duration::ZERO).await) };
                let mut both = std::pin::pin!(both);
                tokio::select! {
                    biased;
                    _ = &mut both => panic!("{reach:?} was counted on this thread"),
                    () = ready(()) => drop(busy),
                }
                let (count, estimate) = both.await;
                assert_eq!((count, estimate.unwrap().unwrap().keys), (Ok(Some(1)), 1), "{reach:?}");
            }
        });
    }

    #[test]
    fn a_ban_that_comes_during_a_sweep_stays() {
        let store = MemoryStore::new(1 << 20);
        assert!(store.0.ban(&Pattern::new("a*"), Hardness::Hard));
        let listed = store.0.bans.read().clone();
        assert!(store.0.ban(&Pattern::new("b*"), Hardness::Hard));
        store.0.take_off(&listed);
        let left = store.0.bans.read().clone();
        let left: Vec<&str> = left.as_slice().iter().map(|ban| ban.pattern.as_str()).collect();
        assert_eq!(left, ["b*"]);
    }

    #[tokio::test]
    async fn what_is_remembered_as_uncacheable_is_bounded() {
        let store = MemoryStore::new(1 << 20);
        for number in 0..=REMEMBERED_CAP {
            let key = Key::new([number.to_string()]);
            let Acquired::Granted(lease) =
                store.acquire(&key, Seen::Nothing, Duration::ZERO, Failures::Heed).await.unwrap()
            else {
                panic!("no lease");
            };
            store.release(&lease, Some(Duration::from_secs(60)));
        }
        assert!((1..=REMEMBERED_CAP).contains(&store.0.fills().uncacheable.len()));
    }

    /// The store's own count of moments goes on from where it was.
    #[tokio::test]
    async fn after_the_clock_was_set_back_a_ramp_begins_at_once_and_an_entry_is_stale_at_once() {
        const HOUR: u64 = 3_600_000;
        let (store, key, tags) = (MemoryStore::new(1 << 20), Key::new(["k"]), Tags::new(["t"]));
        store.0.fills().tick_at(Clock::system().now() + HOUR);
        let pattern = Pattern::new("k*");
        for scope in [Scope::Key(&key), Scope::Tags(&tags), Scope::Pattern(&pattern), Scope::Everything] {
            for window in [0, 10_000] {
                let deadlines = Deadlines::fresh_until(Clock::system().now() + 2 * HOUR);
                let entry = Entry::new(EntryId::random(), &key, deadlines, Bytes::new(), Bytes::new());
                store.put(vec![(key.clone(), entry)], &tags).await.unwrap();
                let hardness = if window == 0 { Hardness::Soft } else { Hardness::Ramp(Duration::from_millis(window)) };
                StoreBackend::invalidate(&store, scope, hardness).await.unwrap();
                let Lookup::Found(found) = store.get(&key).await.unwrap() else { panic!("it is there") };
                let until = Clock::system().now() + window + 1_000;
                let turn = found.deadlines().fresh;
                assert!(turn <= until, "{scope:?} over {window}: {} ms too late", turn - until);
            }
        }
    }

    async fn ban(store: &MemoryStore, pattern: &str) {
        let scope = Scope::Pattern(&Pattern::new(pattern));
        StoreBackend::invalidate(store, scope, Hardness::Hard).await.unwrap();
    }

    #[test]
    fn a_lurker_that_ends_with_its_runtime_makes_room_for_another() {
        let store = MemoryStore::new(1 << 20);
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // It ends before the lurker has begun.
        runtime().block_on(ban(&store, "a*"));
        assert!(store.has_bans());
        runtime().block_on(async {
            ban(&store, "b*").await;
            ::tests::wait_until("all bans to be swept", async || !store.has_bans()).await;
        });
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_tag_made_void_is_reclaimed_after_a_while() {
        let store = MemoryStore::new(1 << 20);
        let put = async |name: &str, tag: &str| {
            let key = Key::new([name]);
            let deadlines = Deadlines::fresh_until(Clock::system().now() + 600_000);
            let entry = Entry::new(EntryId::random(), &key, deadlines, Bytes::new(), Bytes::new());
            store.put(vec![(key, entry)], &Tags::new([tag])).await.unwrap();
        };
        let sweeps = Arc::new(Mutex::new(Vec::new()));
        let heard = sweeps.clone();
        let listener: Arc<SweepListener> = Arc::new(move |sweep: &Sweep| heard.lock().push((sweep.cause, sweep.swept)));
        store.on_sweep(&listener);
        for (name, tag) in [("a", "hard"), ("b", "soft"), ("c", "none")] {
            put(name, tag).await;
        }
        for (round, left) in [2, 1].into_iter().enumerate() {
            let (tag, other) = (Tags::new([["hard", "none"][round]]), Tags::new(["soft"]));
            StoreBackend::invalidate(&store, Scope::Tags(&other), Hardness::Soft).await.unwrap();
            StoreBackend::invalidate(&store, Scope::Tags(&tag), Hardness::Hard).await.unwrap();
            while sweeps.lock().len() <= round {
                sleep(Duration::from_secs(10)).await;
            }
            assert_eq!(sweeps.lock()[round], (SweepCause::Tag, Swept { examined: left + 1, removed: 1 }));
            assert_eq!(store.entries(), left);
        }
        assert!(store.peek(&Key::new(["b"])).is_some(), "it may be used as a stale one");
    }

    #[test]
    fn a_look_up_during_which_a_ban_is_taken_off_looks_again() {
        let (store, key) = (MemoryStore::new(1 << 20), Key::new(["k"]));
        let inner = &store.0;
        let deadlines = Deadlines::fresh_until(Clock::system().now() + 60_000);
        let entry = Entry::new(EntryId::random(), &key, deadlines, Bytes::new(), Bytes::new());
        inner.put(vec![(key.clone(), entry)], &Tags::default());
        assert!(matches!(inner.peek(&key), Lookup::Found(_)));
        assert!(inner.ban(&Pattern::new("k"), Hardness::Hard));
        let looks = Cell::new(0);
        let lookup = inner.while_bans_stay(|| {
            let found = inner.entries.peek(key.hash());
            if looks.replace(looks.get() + 1) == 0 {
                let bans = inner.bans.read().clone();
                for shard in 0..inner.entries.shards() {
                    inner.sweep(shard, &bans);
                }
                inner.take_off(&bans);
            }
            inner.judge(&key, found)
        });
        assert!(matches!(lookup, Lookup::Absent), "it was banned before this look-up began");
        assert_eq!(looks.get(), 2);
    }
    #[tokio::test]
    async fn keys_that_collide_are_never_taken_for_one_another() {
        let (store, one) = (MemoryStore::new(1 << 20), Key::new(["one"]));
        let other = Key::new(["other"]).colliding_with(&one);
        let load = async |key: &Key, seen| {
            let Acquired::Granted(lease) = store.acquire(key, seen, Duration::ZERO, Failures::Heed).await.unwrap()
            else {
                return None;
            };
            let deadlines = Deadlines::fresh_until(Clock::system().now() + 60_000);
            let entry = Entry::new(EntryId::random(), key, deadlines, Bytes::new(), Bytes::new());
            let writes = Writes { entries: vec![(key.clone(), entry)].into(), guard: None };
            store.commit(&Fill { lease, writes, tags: Tags::default() }).await.ok()
        };
        assert_eq!(load(&one, Seen::Nothing).await, Some(Committed::Stored));
        assert!(store.peek(&other).is_none());
        let Lookup::Rejected(Rejection::Key, seen) = store.get(&other).await.unwrap() else {
            panic!("it is another's")
        };
        assert_eq!(load(&other, Seen::Nothing).await, None, "there is something");
        assert_eq!(load(&other, seen).await, Some(Committed::Stored));
        assert!(store.peek(&one).is_none() && store.peek(&other).is_some());
    }
}
