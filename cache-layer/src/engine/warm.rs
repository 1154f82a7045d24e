//! The warm start: a new process reads the lists of hot keys that other processes have left, and fetches their entries into its
//! first tier.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};

use super::{
    cache::{Cache, Inner},
    hot::SAMPLE,
    hot_list::{self, Merged},
    inspect::InspectError,
};
use crate::{
    key::Key,
    store::{Lookup, StoreError},
    telemetry::{Event, WarmOutcome},
};

/// The most keys that are fetched in one round trip, and about the most bytes: nothing else is received on a connection while they
/// are. The first round trip is for one key, since the sizes of entries are not known before.
const MOST_KEYS: usize = 64;
const MOST_BYTES: usize = 512 * 1024;
/// The number of round trips, one after the other, that may bring nothing in time. What was late is still to be received before
/// the next one, and a connection that brings nothing for too long is given up, with all that was fetched over it.
const MOST_LATE: usize = 3;
/// The time from the start of a process to its first list, and the pause between two lists after that.
const FIRST: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(60);

/// A key of the [hot set](Cache::hot).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HotKey {
    /// The key of the entry that answered; for an entry with variants, the variant's key.
    pub key: Key,
    /// The approximate number of recent hits: all of the last two million for each thousand keys that there is room for, and
    /// half, a quarter and so on of earlier ones.
    pub hits: u64,
}

/// The result of a [warm start](Cache::warm).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warmed {
    /// Whether there is a first tier to fetch into. If not, nothing is fetched: the store has none, an operator has [turned it
    /// off](crate::Switch::FirstTierOff) or has requests [bypass](crate::Switch::BypassReads) the cache, or the server does not
    /// track what this process reads, so that nothing may be kept.
    pub first_tier: bool,
    /// The number of processes whose lists were read.
    pub nodes: usize,
    /// The number of lists that could not be read, because another program or a newer version wrote them.
    pub refused_lists: usize,
    /// The number of keys that were asked for and about which the store answered, at most the number that the caller allowed.
    pub asked: usize,
    /// The number of those keys whose entries were found, and were in the first tier then: neither too large for it nor changed in
    /// the meantime.
    pub found: usize,
    /// Whether the warm start was completed; otherwise the deadline ended it, or the store did not answer about every key, even
    /// when it was asked again.
    pub complete: bool,
}

/// # The hot set and a warm start
impl Cache {
    /// The keys whose entries have answered most requests in this process, at most `n`, the most frequent one first; none, unless
    /// the cache was built to [count them](super::CacheBuilder::hot_keys).
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use cache_layer::{Cache, store::MemoryStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let cache = Cache::builder(MemoryStore::new(1 << 20)).hot_keys(100).build();
    /// for _ in 0..1000 {
    ///     let load = async || Ok::<_, Infallible>(1);
    ///     cache.get_or_load(("product", 42), load).await.unwrap();
    /// }
    /// assert_eq!(cache.hot(1)[0].key.to_string(), "product:42");
    /// # }
    /// ```
    #[must_use]
    pub fn hot(&self, n: usize) -> Vec<HotKey> {
        let counted = self.0.hot.iter().flat_map(|hot| hot.hottest()).take(n);
        counted.map(|one| HotKey { key: Key::of_canonical(&one.key), hits: one.sum.saturating_mul(SAMPLE) }).collect()
    }

    /// Fetches the hot sets of other processes into the first tier, asking for at most `n` entries, until `deadline` has passed.
    /// It is for a new process, before it takes requests: they then find the most requested entries in memory.
    ///
    /// Each process that [counts its hot keys](super::CacheBuilder::hot_keys) leaves a list every minute, beside the tags, for
    /// ten minutes: `<prefix>:hot` has the last eight. Without a [first tier](Warmed::first_tier), nothing is done. The fetched entries are
    /// tracked as in any read: an invalidation in the meantime voids them. The bytes of a list are not trusted: they name keys,
    /// and an entry is compared with its key. A round trip is for at most 64 entries, of about half a megabyte; on a slow
    /// connection, each may take a second.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use cache_layer::{Cache, store::{RedisStore, TieredStore}};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let redis = RedisStore::builder("redis://127.0.0.1:6379/0").build()?;
    /// redis.wait_connected(Duration::from_secs(5)).await;
    /// let cache = Cache::builder(TieredStore::new(64 << 20, redis)).hot_keys(4096).build();
    /// let warmed = cache.warm(4096, Duration::from_secs(2)).await;
    /// println!("{} entries of {} are here", warmed.found, warmed.asked);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn warm(&self, n: usize, deadline: Duration) -> Warmed {
        let mut warmed = Warmed { first_tier: self.0.store.keeps_what_it_reads(), ..Warmed::default() };
        if warmed.first_tier {
            // A deadline that is too far away never comes.
            let until = Instant::now().checked_add(deadline);
            let done = self.warm_into(n, &mut warmed);
            warmed.complete = match until {
                Some(until) => timeout_at(until, done).await.unwrap_or(false),
                None => done.await,
            };
        }
        let Warmed { asked, found, refused_lists, .. } = warmed;
        let counts = [
            (WarmOutcome::Found, found),
            (WarmOutcome::Missing, asked.saturating_sub(found)),
            (WarmOutcome::RefusedList, refused_lists),
        ];
        for (outcome, count) in counts {
            if count > 0 {
                self.emit(Event::Warmed { outcome, count: count as u64 });
            }
        }
        warmed
    }

    /// Returns whether the store answered everything.
    async fn warm_into(&self, n: usize, warmed: &mut Warmed) -> bool {
        let Ok((lists, unopened)) = self.0.store.lists().await else { return false };
        let own = self.0.hot.as_ref().map(|hot| hot.node);
        let Merged { keys, nodes, refused } = hot_list::merge(&lists, own);
        (warmed.nodes, warmed.refused_lists) = (nodes, refused + unopened);
        let keys = self.with_primaries(keys, n);
        let mut late = 0;
        let failed = self.fetch(keys, &mut late, warmed).await;
        // The server may answer again, and the keys of other servers were not delayed.
        self.fetch(failed, &mut late, warmed).await.is_empty()
    }

    /// Fetches the entries of these keys, unless [too many](MOST_LATE) round trips are `late`. Returns the keys about which the
    /// store did not answer.
    async fn fetch(&self, keys: Vec<Key>, late: &mut usize, warmed: &mut Warmed) -> Vec<Key> {
        let (mut left, mut batch, mut failed) = (&keys[..], 1, Vec::new());
        while !left.is_empty() && *late < MOST_LATE {
            let (asked, others) = left.split_at(batch.min(left.len()));
            left = others;
            let (mut answered, mut bytes) = (0, 0);
            let entries = self.0.store.fetch(asked).await;
            for (key, entry) in asked.iter().zip(&entries) {
                match entry {
                    Ok(Lookup::Found(entry)) => (answered, bytes) = (answered + 1, bytes + entry.weight()),
                    Ok(_) => answered += 1,
                    Err(_) => failed.push(key.clone()),
                }
            }
            let timed_out = entries.iter().any(|entry| matches!(entry, Err(StoreError::TimedOut)));
            *late = if timed_out && answered == 0 { *late + 1 } else { 0 };
            warmed.asked += answered;
            let is_here = |(key, entry): (&Key, &Result<Lookup, StoreError>)| {
                matches!(entry, Ok(Lookup::Found(_))) && self.0.store.peek(key).is_some()
            };
            warmed.found += asked.iter().zip(&entries).filter(|one| is_here(*one)).count();
            let fit = (MOST_BYTES * asked.len()).checked_div(bytes).unwrap_or(MOST_KEYS);
            batch = if answered == 0 { 1 } else { fit.clamp(1, (2 * asked.len()).min(MOST_KEYS)) };
        }
        failed.extend_from_slice(left);
        failed
    }

    /// At most `n` of these keys that are not in memory, each variant after the primary key that leads to it.
    fn with_primaries(&self, keys: Vec<Key>, n: usize) -> Vec<Key> {
        let mut wanted = std::collections::HashSet::new();
        let mut ordered = Vec::new();
        for key in keys {
            let primary = key.is_variant().then(|| key.primary());
            for key in primary.into_iter().chain([key]) {
                if ordered.len() == n {
                    return ordered;
                }
                let key = self.named(key);
                if self.0.store.peek(&key).is_none() && wanted.insert(key.id()) {
                    ordered.push(key);
                }
            }
        }
        ordered
    }

    /// Leaves the list of this process's hot keys at once, as a task does each minute: for an orderly shutdown, so that the next
    /// process finds it. `false` if there is no list to leave: the cache does not [count its hot
    /// keys](super::CacheBuilder::hot_keys), has had no hits, or its store is in this process.
    ///
    /// # Errors
    ///
    /// If the store did not answer.
    pub async fn leave_hot_keys(&self) -> Result<bool, InspectError> {
        let Some(hot) = &self.0.hot else { return Ok(false) };
        let hottest = hot.hottest();
        if hottest.is_empty() {
            return Ok(false);
        }
        let list = hot_list::write(hot.node, &hottest);
        self.0.store.leave_list(&list).await.map_err(InspectError::from)
    }

    /// Spawns a task that leaves the list each minute, for as long as this cache exists.
    pub(super) fn leave_hot_keys_from_now_on(&self) {
        if let (Some(_), Some(runtime)) = (&self.0.hot, self.0.store.runtime()) {
            runtime.spawn(leave_each_minute(Arc::downgrade(&self.0)));
        }
    }
}

async fn leave_each_minute(cache: Weak<Inner>) {
    let mut pause = FIRST;
    loop {
        // So that the processes of a fleet don't leave their lists all at once, however they were started.
        sleep(pause.mul_f64(fastrand::f64().mul_add(0.4, 0.8))).await;
        let Some(cache) = cache.upgrade().map(Cache) else { return };
        if let Err(error) = cache.leave_hot_keys().await {
            tracing::debug!(%error, "the list of hot keys could not be published");
        }
        pause = PAUSE;
    }
}
