//! A store for tests: slow, unreachable, forgetful, or out of order, on command.

use std::{collections::VecDeque, fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::oneshot, time::sleep};
use tracing::Instrument as _;

use super::{
    Acquired, BoxFuture, Committed, Estimate, Failed, Failures, Fill, Hardness, Invalidated, Lease, LeaseState,
    LeaseToken, ListedPatterns, Lookup, MemoryStore, OwnedScope, Reach, Scope, Seen, Store, StoreBackend, StoreError,
    SweepListener,
};
use crate::{
    entry::Entry,
    key::{Key, readable_in_full},
    pattern::Pattern,
    switches::{SwitchState, Switches},
    sync::Mutex,
    tag::{TagToken, Tags},
};

/// The most bytes that its entries take.
const BYTES: u64 = 64 * 1024 * 1024;

/// A store that behaves like one across a network, without a network: it can be slow, unreachable, forgetful, or out of order,
/// and reports what was loaded. For tests of code that uses a cache. Clones are one store; caches over clones behave to each
/// other like separate processes.
///
/// ```
/// use std::{convert::Infallible, time::Duration};
/// use cache_layer::{Cache, testing::TestStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = TestStore::new();
/// let cache = Cache::new(store.clone());
/// let price = async |id: u32| {
///     let load = async move || Ok::<_, Infallible>(id * 100);
///     let price = cache.get_or_load(("price", id), load).await;
///     assert!(cache.drain(Duration::from_secs(5)).await);
///     price
/// };
///
/// assert_eq!((price(7).await, price(7).await), (Ok(700), Ok(700)));
/// store.assert_loaded(["price:7"]);
///
/// // As an eviction would.
/// store.lose(("price", 7));
/// price(7).await;
/// store.assert_loaded(["price:7"]);
///
/// // While it is away, everything is loaded, and nothing fails.
/// store.disconnect();
/// assert_eq!(price(7).await, Ok(700));
/// assert!(cache.counts().unavailable > 0);
/// store.reconnect();
/// price(7).await;
/// store.assert_loaded::<&str>([]);
/// # }
/// ```
#[derive(Clone)]
pub struct TestStore(Arc<Inner>);

struct Inner {
    store: MemoryStore,
    faults: Mutex<Faults>,
    /// Held while invalidations are delivered, so that no other read overtakes them.
    delivery: tokio::sync::Mutex<()>,
    /// The readable keys of the leases that were granted since the last query.
    loaded: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Faults {
    delay: Option<RangeInclusive<Duration>>,
    away: bool,
    /// Invalidations from the time without a connection.
    outbox: Vec<(OwnedScope, Hardness)>,
    /// Commits that wait, the oldest first; `None` if commits don't wait.
    held: Option<VecDeque<oneshot::Sender<()>>>,
}

impl Default for TestStore {
    fn default() -> Self {
        Self::new()
    }
}

impl TestStore {
    /// A store without faults.
    #[must_use]
    pub fn new() -> Self {
        let (faults, delivery, loaded) = (Mutex::default(), tokio::sync::Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { store: MemoryStore::new(BYTES), faults, delivery, loaded }))
    }

    /// From now on, every answer takes a random time within these bounds, so that concurrent operations complete in any order.
    /// Bounds of zero end this.
    pub fn delay(&self, bounds: RangeInclusive<Duration>) {
        self.0.faults.lock().delay = Some(bounds).filter(|bounds| !bounds.end().is_zero());
    }

    /// From now on the store answers nothing, like a server that is unreachable: look-ups fail, nothing is stored, and
    /// invalidations are kept, and return an error. The store doesn't learn how a load ended: other caches wait until its lease
    /// has run out.
    pub fn disconnect(&self) {
        self.0.faults.lock().away = true;
    }

    /// The store answers again. Invalidations of the meantime are delivered before anything is read.
    pub fn reconnect(&self) {
        self.0.faults.lock().away = false;
    }

    /// Loses the entry under `key`, as by an eviction: this voids no load.
    pub fn lose(&self, key: impl Into<Key>) {
        self.0.store.lose(&key.into());
    }

    /// Loses all entries.
    pub fn lose_all(&self) {
        self.0.store.lose_all();
    }

    /// Holds up commits until they are released, to test what happens if something comes in between. Callers get their values all
    /// the same.
    pub fn hold_commits(&self) {
        self.0.faults.lock().held.get_or_insert_default();
    }

    /// The number of commits that are held up.
    #[must_use]
    pub fn held_commits(&self) -> usize {
        self.0.faults.lock().held.as_ref().map_or(0, VecDeque::len)
    }

    /// Releases the newest commit that is held up; `false` if there is none.
    pub fn release_newest_commit(&self) -> bool {
        self.release(VecDeque::pop_back)
    }

    /// Releases the oldest commit that is held up; `false` if there is none.
    pub fn release_oldest_commit(&self) -> bool {
        self.release(VecDeque::pop_front)
    }

    /// Releases all commits that are held up, and holds up no further ones.
    pub fn release_commits(&self) {
        // A commit continues when its sender is dropped.
        drop(self.0.faults.lock().held.take());
    }

    fn release(&self, which: fn(&mut VecDeque<oneshot::Sender<()>>) -> Option<oneshot::Sender<()>>) -> bool {
        let released = self.0.faults.lock().held.as_mut().and_then(which);
        released.is_some()
    }

    /// The readable keys of all leases that were granted since the last call, in their order: the permissions to load a key and
    /// to store the result. A load without one is not included: while the store is [disconnected](Self::disconnect), if another
    /// call has the lease and this one does not wait for it ([`Lock::Off`](crate::Lock)), or no longer does. A lease whose load
    /// does not run is: a background refresh takes it before it finds that there is no free
    /// [place](crate::CacheBuilder::max_loads).
    #[must_use]
    pub fn take_loaded(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.loaded.lock())
    }

    /// Asserts that exactly these keys were loaded, by their leases, since the last call of this or of
    /// [`take_loaded`](Self::take_loaded), in readable form and any order: `"price:7"`, `"http://shop.example/"`.
    ///
    /// # Panics
    ///
    /// If other keys were loaded, or one of them more than once.
    #[track_caller]
    pub fn assert_loaded<K: AsRef<str>>(&self, keys: impl IntoIterator<Item = K>) {
        let mut loaded = self.take_loaded();
        let mut expected: Vec<String> = keys.into_iter().map(|key| key.as_ref().to_owned()).collect();
        loaded.sort_unstable();
        expected.sort_unstable();
        assert!(loaded == expected, "loaded were {loaded:?}, and not {expected:?}");
    }

    /// The store that keeps the entries.
    #[cfg(test)]
    pub(super) fn memory(&self) -> MemoryStore {
        self.0.store.clone()
    }

    /// Waits for the delay of an answer, and returns an error if there is none.
    async fn answers(&self) -> Result<(), StoreError> {
        let delay = self.0.faults.lock().delay.clone();
        if let Some(bounds) = delay {
            sleep(within(&bounds)).await;
        }
        let _delivery = self.0.delivery.lock().await;
        let outbox = {
            let mut faults = self.0.faults.lock();
            if faults.away {
                return Err(StoreError::Unavailable);
            }
            std::mem::take(&mut faults.outbox)
        };
        for (scope, hardness) in outbox {
            self.0.store.invalidate(scope.borrow(), hardness).await?;
        }
        Ok(())
    }

    fn is_away(&self) -> bool {
        self.0.faults.lock().away
    }

    /// Keeps an invalidation that could not be delivered.
    fn keep(&self, scope: OwnedScope, hardness: Hardness) {
        self.0.faults.lock().outbox.push((scope, hardness));
    }

    /// Waits until the commit may continue, if commits are held up.
    async fn released(&self) {
        let waiting = self.0.faults.lock().held.as_mut().map(|held| {
            let (sender, receiver) = oneshot::channel();
            held.push_back(sender);
            receiver
        });
        if let Some(receiver) = waiting {
            let _ = receiver.await;
        }
    }
}

/// What was sent goes on, even if its caller leaves.
fn detached<T: Send + 'static>(
    sent: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> BoxFuture<'static, Result<T, StoreError>> {
    match Handle::try_current() {
        Ok(runtime) => {
            let task = runtime.spawn(sent.in_current_span());
            Box::pin(async move { task.await.unwrap_or(Err(StoreError::Unavailable)) })
        }
        Err(_) => Box::pin(sent),
    }
}

fn within(bounds: &RangeInclusive<Duration>) -> Duration {
    let (least, most) = (bounds.start().as_micros(), bounds.end().as_micros());
    let [least, most] = [least.min(most), most].map(|micros| u64::try_from(micros).unwrap_or(u64::MAX));
    Duration::from_micros(fastrand::u64(least..=most))
}

impl Store for TestStore {}

impl StoreBackend for TestStore {
    /// This store behaves like one across a network: it has nothing in this process.
    fn peek(&self, _: &Key) -> Option<Entry> {
        None
    }

    fn identity(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>> {
        Box::pin(async move {
            self.answers().await?;
            self.0.store.get(key).await
        })
    }

    fn follow_switches(&self) -> Arc<Switches> {
        self.0.store.follow_switches()
    }

    fn set_switch(&self, state: SwitchState) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.answers().await?;
            self.0.store.set_switch(state).await
        })
    }

    fn lease_state<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<LeaseState, StoreError>> {
        Box::pin(async move {
            self.answers().await?;
            self.0.store.lease_state(key).await
        })
    }

    fn tag_token<'a>(&'a self, tag: &'a str) -> BoxFuture<'a, Result<Option<TagToken>, StoreError>> {
        Box::pin(async move {
            self.answers().await?;
            self.0.store.tag_token(tag).await
        })
    }

    fn patterns(&self) -> BoxFuture<'_, Result<ListedPatterns, StoreError>> {
        Box::pin(async move {
            self.answers().await?;
            self.0.store.patterns().await
        })
    }

    fn banned_by<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(async move {
            self.answers().await?;
            self.0.store.banned_by(key).await
        })
    }

    fn count<'a>(&'a self, reach: Reach<'a>) -> BoxFuture<'a, Result<Option<u64>, StoreError>> {
        Box::pin(async move {
            self.answers().await?;
            self.0.store.count(reach).await
        })
    }

    fn estimate<'a>(
        &'a self,
        reach: Reach<'a>,
        within: Duration,
    ) -> BoxFuture<'a, Result<Option<Estimate>, StoreError>> {
        Box::pin(async move {
            self.answers().await?;
            self.0.store.estimate(reach, within).await
        })
    }

    fn acquire<'a>(
        &'a self,
        key: &'a Key,
        seen: Seen,
        ttl: Duration,
        failures: Failures,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        Box::pin(async move {
            self.answers().await?;
            let acquired = self.0.store.acquire(key, seen, ttl, failures).await?;
            if matches!(acquired, Acquired::Granted(_)) {
                self.0.loaded.lock().push(readable_in_full(key.canonical()));
            }
            Ok(acquired)
        })
    }

    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            self.answers().await?;
            self.0.store.renew(lease, ttl).await
        })
    }

    fn on_sweep(&self, listener: &Arc<SweepListener>) {
        self.0.store.on_sweep(listener);
    }

    fn is_held_by<'a>(&'a self, key: &'a Key, token: LeaseToken) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            self.answers().await?;
            self.0.store.is_held_by(key, token).await
        })
    }

    fn overtaken(&self, lease: &Lease) -> bool {
        self.is_away() || self.0.store.overtaken(lease)
    }

    fn commit<'a>(&'a self, fill: &'a Fill) -> BoxFuture<'a, Result<Committed, StoreError>> {
        Box::pin(async move {
            self.released().await;
            self.answers().await?;
            self.0.store.commit(fill).await
        })
    }

    fn release(&self, lease: &Lease, uncacheable: Option<Duration>) {
        if !self.is_away() {
            self.0.store.release(lease, uncacheable);
        }
    }

    fn supersede<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.answers().await?;
            self.0.store.supersede(lease).await
        })
    }

    fn end_lease<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.answers().await?;
            self.0.store.end_lease(key).await
        })
    }

    fn note_write(&self, key: &Key) {
        self.0.store.note_write(key);
    }

    fn fail(&self, lease: &Lease, failed: Failed) {
        if !self.is_away() {
            self.0.store.fail(lease, failed);
        }
    }

    fn lease_ended<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, ()> {
        self.0.store.lease_ended(key)
    }

    fn invalidate(&self, scope: Scope<'_>, hardness: Hardness) -> BoxFuture<'static, Result<Invalidated, StoreError>> {
        let (store, scope) = (self.clone(), scope.to_owned());
        detached(async move {
            if let Err(error) = store.answers().await {
                // A kept invalidation is a hard one, as with any store.
                store.keep(scope, Hardness::Hard);
                return Err(error);
            }
            store.0.store.invalidate(scope.borrow(), hardness).await
        })
    }

    fn delete_matching(&self, pattern: &Pattern) -> BoxFuture<'static, Result<Invalidated, StoreError>> {
        let (store, pattern) = (self.clone(), pattern.clone());
        detached(async move {
            if let Err(error) = store.answers().await {
                store.keep(OwnedScope::Pattern(pattern), Hardness::Hard);
                return Err(error);
            }
            store.0.store.delete_matching(&pattern).await
        })
    }

    fn get_many<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Lookup, StoreError>>> {
        Box::pin(async move {
            match self.answers().await {
                Ok(()) => self.0.store.get_many(keys).await,
                Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
            }
        })
    }

    fn put<'a>(&'a self, entries: Vec<(Key, Entry)>, tags: &'a Tags) -> BoxFuture<'a, Result<(), StoreError>> {
        let (store, tags) = (self.clone(), tags.clone());
        detached(async move {
            if let Err(error) = store.answers().await {
                entries.into_iter().for_each(|(key, _)| store.keep(OwnedScope::Key(key), Hardness::Hard));
                return Err(error);
            }
            store.0.store.put(entries, &tags).await
        })
    }
}

impl fmt::Debug for TestStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = self.0.faults.lock();
        f.debug_struct("TestStore").field("delay", &faults.delay).field("away", &faults.away).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn while_it_is_away_it_does_not_learn_how_a_load_ended() {
        let failed = Failed { status: None, pause: HOUR, remembered: HOUR };
        type End = dyn Fn(&TestStore, &Lease);
        let released = |store: &TestStore, lease: &Lease| StoreBackend::release(store, lease, Some(HOUR));
        let fails = move |store: &TestStore, lease: &Lease| store.fail(lease, failed);
        let ends: [&End; 2] = [&released, &fails];
        for end in ends {
            let (store, key) = (TestStore::new(), Key::new(["k"]));
            let acquire = async || store.acquire(&key, Seen::Nothing, HOUR, Failures::Heed).await.unwrap();
            let Acquired::Granted(lease) = acquire().await else { panic!("nobody loads it") };
            store.disconnect();
            end(&store, &lease);
            store.reconnect();
            assert!(matches!(acquire().await, Acquired::Held));
            end(&store, &lease);
            assert!(matches!(acquire().await, Acquired::Uncacheable | Acquired::BackOff { .. }));
        }
    }

    #[tokio::test]
    async fn while_it_is_away_it_does_not_say_what_is_banned() {
        let (store, key) = (TestStore::new(), Key::new(["k"]));
        store.disconnect();
        assert!(store.banned_by(&key).await.is_err());
        store.reconnect();
        assert_eq!(store.banned_by(&key).await.unwrap(), None);
    }
}
