//! Events of a cache, kept for a while and in bounded memory, for people to look at.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cache_layer::{
    Key,
    telemetry::{Counted, Covers, Event, LookupEvent, LookupResult, Named, NoCacheReason, Observer, SpaceSaving},
};
use tokio::sync::broadcast;

use crate::{
    redact,
    sizing::{self, Sizing},
    stats::{Counts, Rings},
};

/// Enough shards that threads rarely meet at one.
const SHARDS: usize = 4;
/// The number of keys that a shard counts: each key with a larger share of the total than one in this number is among them.
const COUNTED: usize = 256;
/// The number of decisions that a shard remembers.
const RECENT: usize = 256;
/// The number of invalidations that are remembered.
const INVALIDATIONS: usize = 500;
/// The number of decisions that a watcher may lag behind before it loses some.
const BEHIND: usize = 4096;

/// An observer that records for the operator: counts of the last minute, quarter of an hour and day; the keys that are asked for
/// most, and those whose loads take longest; the last decisions and invalidations. It takes about a megabyte. Clones share their
/// records.
///
/// To use it with another observer, make a pair of both:
///
/// ```
/// use cache_layer::{Cache, store::MemoryStore, telemetry::Event};
/// use cache_layer_admin::Recorder;
///
/// let recorder = Recorder::new();
/// let metrics = |event: Event| println!("{event:?}");
/// let cache = Cache::builder(MemoryStore::new(1 << 20)).observer((metrics, recorder.clone())).build();
/// ```
#[derive(Clone, Default)]
pub struct Recorder(Arc<Shared>);

struct Shared {
    shards: [Mutex<Shard>; SHARDS],
    invalidations: Mutex<VecDeque<Invalidation>>,
    /// The curve, if it is estimated.
    sizing: Option<Sizing>,
    watched: broadcast::Sender<Watched>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            shards: Default::default(),
            invalidations: Mutex::default(),
            sizing: None,
            watched: broadcast::Sender::new(BEHIND),
        }
    }
}

/// The counts of some of the threads.
struct Shard {
    rings: Rings,
    hot: SpaceSaving<Key>,
    dear: SpaceSaving<Key>,
    recent: VecDeque<Decision>,
    /// Look-ups that have not been added to the curve yet, and the near ones among them.
    untold: (u64, u64),
}

impl Default for Shard {
    fn default() -> Self {
        let sketch = || SpaceSaving::new(COUNTED);
        Self { rings: Rings::default(), hot: sketch(), dear: sketch(), recent: VecDeque::new(), untold: (0, 0) }
    }
}

/// A look-up that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    /// In milliseconds since the Unix epoch.
    pub(crate) at: u64,
    pub(crate) key: Key,
    pub(crate) event: LookupEvent,
    pub(crate) reason: Option<NoCacheReason>,
}

/// An event for watchers.
#[derive(Clone, Debug)]
pub(crate) enum Watched {
    Decided(Decision),
    /// A request was not looked up, at this time. The key is that of its target, if the request states one.
    Bypassed(u64, Option<Key>, NoCacheReason),
}

tokio::task_local! {
    static BY_OPERATOR: ();
}

/// Runs the invalidations of an operator: they are not recorded as the application's.
pub(crate) async fn by_operator<T>(invalidations: impl Future<Output = T>) -> T {
    BY_OPERATOR.scope((), invalidations).await
}

/// An invalidation by the application.
#[derive(Clone, Debug)]
pub(crate) struct Invalidation {
    /// In milliseconds since the Unix epoch.
    pub(crate) at: u64,
    /// `key`, `tag`, `pattern` or `all`.
    pub(crate) kind: &'static str,
    pub(crate) names: Vec<String>,
    pub(crate) soft: bool,
    pub(crate) delivered: bool,
}

impl Recorder {
    /// A recorder without any records.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A recorder that also estimates how the hit ratio depends on the size of the cache. It knows the last thousand keys that
    /// were asked for, and follows at most 8,192 of the others, one in twelve at first, in some 700 KiB. It assumes that entries
    /// never expire.
    #[must_use]
    pub fn with_sizing() -> Self {
        Self(Arc::new(Shared { sizing: Some(Sizing::new(now() / 1000)), ..Shared::default() }))
    }

    /// The hit ratio, from 0 to 1, that an LRU cache with room for this many entries would have. `None` without
    /// [sizing](Self::with_sizing), for fewer than 1,024 entries, and before a thousand look-ups were followed.
    #[must_use]
    pub fn hit_ratio_with(&self, entries: u64) -> Option<f64> {
        let sizing = self.0.sizing.as_ref()?;
        for shard in &self.0.shards {
            let (untold, near) = std::mem::take(&mut lock(shard).untold);
            sizing.add(untold, near, now() / 1000);
        }
        sizing.hit_ratio(entries)
    }

    /// The curve, if it is estimated.
    pub(crate) fn sizing(&self) -> Option<&Sizing> {
        self.0.sizing.as_ref()
    }

    fn shard(&self) -> MutexGuard<'_, Shard> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        lock(&self.0.shards[MINE.get()])
    }

    /// The slots of a ring, the oldest first: the start of each, in seconds since the Unix epoch, and its counts.
    pub(crate) fn ring(&self, ring: usize) -> Vec<(u64, Counts)> {
        let now = now() / 1000;
        let mut merged: Vec<(u64, Counts)> = Vec::new();
        for shard in &self.0.shards {
            let shard = lock(shard);
            for (place, (begins, counts)) in shard.rings.read(ring, now).enumerate() {
                if merged.len() == place {
                    merged.push((begins, Counts::default()));
                }
                counts.into_iter().for_each(|counts| merged[place].1.add(counts));
            }
        }
        merged
    }

    /// The keys that were asked for most.
    pub(crate) fn hottest(&self) -> Vec<Counted<Key>> {
        self.sketch(|shard| &shard.hot)
    }

    /// The keys whose misses took longest, in total, in microseconds.
    pub(crate) fn dearest(&self) -> Vec<Counted<Key>> {
        self.sketch(|shard| &shard.dear)
    }

    fn sketch(&self, of: impl Fn(&Shard) -> &SpaceSaving<Key>) -> Vec<Counted<Key>> {
        // The shards are locked one after the other, so that no thread waits for all.
        let sketches: Vec<_> = self.0.shards.iter().map(|shard| of(&lock(shard)).clone()).collect();
        let mut counted = SpaceSaving::merged(&sketches);
        counted.sort_by(|one, other| other.sum.cmp(&one.sum).then_with(|| one.key.digest().cmp(&other.key.digest())));
        counted
    }

    /// The last decisions about a key, or about all, the newest first.
    pub(crate) fn recent(&self, about: Option<&Key>, most: usize) -> Vec<Decision> {
        let mut recent: Vec<Decision> = Vec::new();
        for shard in &self.0.shards {
            let shard = lock(shard);
            recent.extend(shard.recent.iter().filter(|one| about.is_none_or(|key| *key == one.key)).cloned());
        }
        recent.sort_by_key(|decision| std::cmp::Reverse(decision.at));
        recent.truncate(most);
        recent
    }

    /// The key with this digest, if it is among those that are remembered.
    pub(crate) fn key_with(&self, digest: &str) -> Option<Key> {
        let counted = self.hottest().into_iter().chain(self.dearest()).map(|one| one.key);
        let recent = self.recent(None, usize::MAX).into_iter().map(|decision| decision.key);
        counted.chain(recent).find(|key| key.digest() == digest)
    }

    /// The last invalidations, the newest first.
    pub(crate) fn invalidations(&self) -> Vec<Invalidation> {
        lock(&self.0.invalidations).iter().rev().cloned().collect()
    }

    /// Receives events from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Watched> {
        self.0.watched.subscribe()
    }

    fn is_watched(&self) -> bool {
        self.0.watched.receiver_count() > 0
    }
}

impl Observer for Recorder {
    fn observe(&self, event: Event) {
        let counts = matches!(event, Event::Lookup(_) | Event::Bypass(_) | Event::NotStored(_) | Event::Loaded { .. });
        if counts {
            self.shard().rings.count(event, now() / 1000);
        }
    }

    fn wants_names(&self) -> bool {
        true
    }

    fn observe_named(&self, named: &Named<'_>) {
        match named {
            Named::Lookup { key, event, reason, .. } => {
                // A response that is never stored takes no room.
                let near = self.0.sizing.as_ref().map(|sizing| sizing.asked(sizing::hash(key), reason.is_none()));
                let decision = Decision { at: now(), key: (*key).clone(), event: *event, reason: *reason };
                if self.is_watched() {
                    let _ = self.0.watched.send(Watched::Decided(decision.clone()));
                }
                let mut shard = self.shard();
                if let Some(near) = near {
                    shard.untold = (shard.untold.0 + 1, shard.untold.1 + u64::from(near));
                }
                shard.hot.add(key, 1);
                if matches!(event.result, LookupResult::Miss | LookupResult::Error) {
                    shard.dear.add(key, micros(event.duration));
                }
                if shard.recent.len() == RECENT {
                    shard.recent.pop_front();
                }
                shard.recent.push_back(decision);
            }
            Named::Bypass { key, reason, .. } if self.is_watched() => {
                // There may be no watcher any more.
                let _ = self.0.watched.send(Watched::Bypassed(now(), key.cloned(), *reason));
            }
            // The audit has it already.
            Named::Invalidation { .. } if BY_OPERATOR.try_with(|()| ()).is_ok() => {}
            Named::Invalidation { covers, soft, delivered, .. } => {
                let (kind, names) = named_by(covers);
                let (soft, delivered) = (*soft, *delivered);
                let mut invalidations = lock(&self.0.invalidations);
                if invalidations.len() == INVALIDATIONS {
                    invalidations.pop_front();
                }
                invalidations.push_back(Invalidation { at: now(), kind, names, soft, delivered });
            }
            _ => {}
        }
    }
}

/// What an invalidation covers, as it is shown.
fn named_by(covers: &Covers<'_>) -> (&'static str, Vec<String>) {
    match covers {
        Covers::Key(key) => ("key", vec![redact::key(key)]),
        Covers::Tags(tags) => ("tag", tags.iter().map(redact::url).collect()),
        Covers::Pattern(pattern) => ("pattern", vec![redact::url(pattern)]),
        _ => ("all", Vec::new()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The counts are consistent after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use cache_layer::{Cache, store::MemoryStore, telemetry::Tier};

    use super::*;

    async fn load(cache: &Cache, id: u32) {
        let value: u32 =
            cache.get_or_load(("product", id), move || async move { Ok::<_, Infallible>(id) }).await.unwrap();
        assert_eq!(value, id);
    }

    #[tokio::test]
    async fn what_happened_is_remembered_by_key() {
        let recorder = Recorder::new();
        let cache = Cache::builder(MemoryStore::new(1 << 20)).observer(recorder.clone()).build();
        for id in [1, 1, 1, 2] {
            load(&cache, id).await;
        }
        let top: Vec<(String, u64)> = recorder.hottest().iter().map(|one| (one.key.to_string(), one.sum)).collect();
        assert_eq!(top, [("product:1".to_owned(), 3), ("product:2".to_owned(), 1)]);
        assert_eq!(recorder.dearest().len(), 2, "each was loaded once");
        let one = recorder.recent(Some(&Key::from(("product", 1))), 10);
        let results: Vec<LookupResult> = one.iter().map(|decision| decision.event.result).collect();
        assert_eq!(results.len(), 3);
        assert_eq!(results.iter().filter(|result| **result == LookupResult::Miss).count(), 1);
        assert!(one.iter().any(|decision| decision.event.tier == Tier::Memory));
        let minute: u64 = recorder.ring(0).iter().map(|(_, counts)| counts.hits()).sum();
        assert_eq!(minute, 2);
    }

    #[tokio::test]
    async fn invalidations_are_remembered_by_what_they_covered_and_no_more_than_there_is_room_for() {
        let recorder = Recorder::new();
        let cache = Cache::builder(MemoryStore::new(1 << 20)).observer(recorder.clone()).build();
        cache.invalidate(&Key::from(("product", 1))).await.unwrap();
        cache.soft_invalidate_tags(["b", "a"]).await.unwrap();
        cache.delete_pattern("product:*").await.unwrap();
        cache.invalidate_all().await.unwrap();
        let said: Vec<String> = recorder
            .invalidations()
            .iter()
            .map(|one| format!("{} {:?} {}", one.kind, one.names, if one.soft { "soft" } else { "hard" }))
            .collect();
        assert_eq!(
            said,
            ["all [] hard", "pattern [\"product:*\"] hard", "tag [\"a\", \"b\"] soft", "key [\"product:1\"] hard"]
        );
        for _ in 0..INVALIDATIONS + 5 {
            cache.invalidate_tag("t").await.unwrap();
        }
        assert_eq!(recorder.invalidations().len(), INVALIDATIONS);
    }

    #[tokio::test]
    async fn decisions_are_bounded_and_told_to_who_watches() {
        let recorder = Recorder::new();
        let cache = Cache::builder(MemoryStore::new(1 << 22)).observer(recorder.clone()).build();
        let mut watch = recorder.watch();
        load(&cache, 1).await;
        let Watched::Decided(decision) = watch.recv().await.unwrap() else { panic!("a look-up") };
        assert_eq!(decision.key, Key::from(("product", 1)));
        for id in 0..BEHIND as u32 + 100 {
            load(&cache, id).await;
        }
        let all = recorder.recent(None, usize::MAX);
        assert!((RECENT..=RECENT * SHARDS).contains(&all.len()), "{}", all.len());
        assert!(matches!(
            tokio::time::timeout(Duration::from_secs(5), watch.recv()).await.unwrap(),
            Err(broadcast::error::RecvError::Lagged(_))
        ));
    }
}
