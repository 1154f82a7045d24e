//! Inspection of a cache, for operators. Nothing is loaded, counted as a look-up, or invalidated.

use std::{fmt, time::Duration};

use super::cache::Cache;
use crate::{
    entry::{Deadlines, Entry, Use},
    key::Key,
    pattern::Pattern,
    store::{Estimate, LeaseState, ListedPatterns, Lookup, Reach, Seen, StoreError},
    tag::TagToken,
    telemetry::{Rejection, Tier},
};

/// An entry without its content. Times are in milliseconds since the Unix epoch; soft invalidations have already been applied to
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntryDetails {
    /// The time of the inspection, by the clock that freshness is judged by.
    pub now: u64,
    /// When the entry was made; 0 if that is not known.
    pub made: u64,
    /// Until when the entry is fresh.
    pub fresh: u64,
    /// Until when the entry is used while it is refreshed.
    pub stale_while_revalidate: u64,
    /// Until when the entry is used in place of an error.
    pub stale_if_error: u64,
    /// Until when the entry is kept, at least for its validators.
    pub gone: u64,
    /// Whether a soft invalidation covers the entry.
    pub soft_invalidated: bool,
    /// Whether `made` is later than `now`, so that the entry's age is unknown.
    pub from_the_future: bool,
    /// The tags that the entry was stored with, sorted.
    pub tags: Vec<String>,
    /// The size of its body, or of its value as written, in bytes.
    pub bytes: u64,
    /// The bytes of memory that the entry takes in a store in this process; 0 without such a store.
    pub memory: u64,
    /// How long its load took; zero if that is not known.
    pub load_time: Duration,
}

/// The result of inspecting a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inspected {
    /// There is an entry, in this tier.
    Entry(Tier, EntryDetails),
    /// There is no entry.
    Absent,
    /// There is an entry that is not used, for this reason.
    Rejected(Rejection),
}

/// What is known of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TagDetails {
    /// When its token was written, in milliseconds since the Unix epoch, by the store's clock.
    pub since: u64,
    /// What wrote it.
    pub change: TagChange,
}

crate::labels::labels! {
    /// What wrote the token of a tag.
    pub enum TagChange {
        /// The first entry that carries the tag.
        Created => "created",
        /// An invalidation: entries that carried the tag before are invalid.
        Invalidated => "invalidated",
        /// A soft invalidation: entries that carried the tag before are stale.
        SoftInvalidated => "soft-invalidated",
    }
}

/// The store did not answer, or can't answer the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectError(StoreError);

impl fmt::Display for InspectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store could not be asked: {}", self.0)
    }
}

impl std::error::Error for InspectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl InspectError {
    /// The store answered that it can't do this.
    pub(super) fn failed(why: String) -> Self {
        Self(StoreError::Failed(why))
    }
}

impl From<StoreError> for InspectError {
    fn from(error: StoreError) -> Self {
        Self(error)
    }
}

impl EntryDetails {
    pub(crate) fn of(entry: &Entry, now: u64) -> Self {
        let deadlines = entry.deadlines_at(now);
        Self {
            now,
            made: deadlines.made,
            fresh: deadlines.fresh,
            stale_while_revalidate: deadlines.stale_while_revalidate,
            stale_if_error: deadlines.stale_if_error,
            gone: deadlines.gone,
            soft_invalidated: entry.is_soft_invalidated(),
            from_the_future: entry.is_from_the_future(now),
            tags: entry.tags().iter().map(str::to_owned).collect(),
            bytes: entry.payload_length(),
            #[cfg(feature = "memory")]
            memory: entry.weight() as u64,
            #[cfg(not(feature = "memory"))]
            memory: 0,
            load_time: Duration::from_millis(entry.load_time()),
        }
    }
}

impl EntryDetails {
    /// What may be done with the entry now.
    pub(crate) fn allow(&self) -> Use {
        let &Self { now, made, fresh, stale_while_revalidate, stale_if_error, gone, .. } = self;
        Deadlines { made, fresh, stale_while_revalidate, stale_if_error, gone }.allow(now)
    }
}

impl TagDetails {
    fn of(token: &TagToken) -> Self {
        let change = match token.0.last() {
            Some(b's') => TagChange::SoftInvalidated,
            Some(b'i') => TagChange::Invalidated,
            _ => TagChange::Created,
        };
        Self { since: token.time(), change }
    }
}

/// # Looking inside
///
/// For operators: the results may be outdated as soon as they are returned. These calls read as a request does, so that entries
/// found in Redis may go into the first tier; they load nothing, and no metric counts them.
impl Cache {
    /// What is stored under `key`.
    ///
    /// ```
    /// # use cache_layer::{Cache, Inspected, Key, store::MemoryStore};
    /// # async fn example() -> Result<(), cache_layer::InspectError> {
    /// # let cache = Cache::new(MemoryStore::new(1 << 20));
    /// if let Inspected::Entry(tier, entry) = cache.inspect(&Key::from(("product", 42))).await? {
    ///     println!("in {tier}, {} bytes, fresh for {} ms", entry.bytes, entry.fresh.saturating_sub(entry.now));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store did not answer.
    pub async fn inspect(&self, key: &Key) -> Result<Inspected, InspectError> {
        if let Some(entry) = self.peek(key) {
            return Ok(Inspected::Entry(Tier::Memory, EntryDetails::of(&entry, self.now())));
        }
        match self.0.store.look(key).await.map_err(InspectError)? {
            Lookup::Found(entry) => {
                let now = self.now();
                let entry = entry.seen_at(|| now);
                Ok(Inspected::Entry(self.far_tier(), EntryDetails::of(&entry, now)))
            }
            Lookup::Absent => Ok(Inspected::Absent),
            Lookup::Rejected(rejection, _) => Ok(Inspected::Rejected(rejection)),
        }
    }

    /// The deleted [pattern](Self::delete_pattern) that voids the entry of `key`, if there is an entry and one does; `None` also
    /// once the entry was swept. Soft deletions void no entry.
    ///
    /// ```
    /// # use cache_layer::{Cache, Key, store::MemoryStore};
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cache = Cache::new(MemoryStore::new(1 << 20));
    /// cache.delete_pattern("products:list:*").await?;
    /// if let Some(pattern) = cache.inspect_ban(&Key::new(["products:", "list:", "2"])).await? {
    ///     println!("void by {pattern}, and not swept yet");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store did not answer.
    pub async fn inspect_ban(&self, key: &Key) -> Result<Option<String>, InspectError> {
        self.0.store.banned_by(key).await.map_err(InspectError)
    }

    /// The deleted [patterns](Self::delete_pattern) that are in force and not swept yet, soft ones included, and which process
    /// sweeps.
    ///
    /// ```
    /// # use cache_layer::{Cache, store::MemoryStore};
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cache = Cache::new(MemoryStore::new(1 << 20));
    /// for listed in cache.inspect_patterns().await?.patterns {
    ///     println!("{} since {}", listed.pattern, listed.since);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store did not answer.
    pub async fn inspect_patterns(&self) -> Result<ListedPatterns, InspectError> {
        self.0.store.patterns().await.map_err(InspectError)
    }

    /// The state of the lease of `key`: which load holds it, or how the last load ended, if that still affects other requests.
    ///
    /// # Errors
    ///
    /// If the store did not answer.
    pub async fn inspect_lease(&self, key: &Key) -> Result<LeaseState, InspectError> {
        self.0.store.lease_state(key).await.map_err(InspectError)
    }

    /// Whether the next load of `key` is the first that this process knows of, so that its result is not stored
    /// ([`second_sight`](super::CacheBuilder::second_sight)), unless the load takes long. `seen`: what a look-up found there.
    pub(crate) fn is_first_sight(&self, key: &Key, seen: Option<Seen>) -> bool {
        self.0.doorkeeper.as_ref().is_some_and(|doorkeeper| seen == Some(Seen::Nothing) && !doorkeeper.knows(key))
    }

    /// What is known of `tag`; `None` if the tag has no token, so that no entry with this tag is used.
    ///
    /// # Errors
    ///
    /// If the store did not answer.
    pub async fn inspect_tag(&self, tag: &str) -> Result<Option<TagDetails>, InspectError> {
        let token = self.0.store.tag_token(tag).await.map_err(InspectError)?;
        Ok(token.as_ref().map(TagDetails::of))
    }

    /// How many keys [`invalidate_tag`](Self::invalidate_tag) would reach, including keys whose entries are already invalid;
    /// `None` where names are
    /// [hidden](https://docs.rs/cache-layer/latest/cache_layer/store/struct.RedisStoreBuilder.html#method.sealed_with). This
    /// examines every entry: a store in memory does so on no thread that answers requests, and Redis, which keeps no list of a tag's
    /// entries, in small steps.
    ///
    /// # Errors
    ///
    /// If the store did not answer.
    pub async fn count_tag(&self, tag: &str) -> Result<Option<u64>, InspectError> {
        self.0.store.count(Reach::Tag(tag)).await.map_err(InspectError)
    }

    /// How many keys [`delete_pattern`](Self::delete_pattern) would delete, at the same cost: this examines the name of every
    /// key, in small steps.
    ///
    /// # Errors
    ///
    /// If the store did not answer.
    pub async fn count_pattern(&self, pattern: &str) -> Result<Option<u64>, InspectError> {
        self.0.store.count(Reach::Pattern(&Pattern::new(pattern))).await.map_err(InspectError)
    }

    /// How many keys have an entry, at the cost of examining every name.
    ///
    /// # Errors
    ///
    /// If the store did not answer.
    pub async fn count_all(&self) -> Result<Option<u64>, InspectError> {
        self.0.store.count(Reach::Everything).await.map_err(InspectError)
    }

    /// As [`count_tag`](Self::count_tag), in about the time `within`, and with the cost of loading these keys again. In Redis,
    /// keys that were not examined by then are estimated; `None` in a cluster, where that is not possible. A store in memory
    /// examines every entry, however long that takes.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cache_layer::{Cache, store::MemoryStore};
    ///
    /// # async fn example() -> Result<(), cache_layer::InspectError> {
    /// let cache = Cache::new(MemoryStore::new(1 << 20));
    /// if let Some(reach) = cache.estimate_tag("product:42", Duration::from_secs(2)).await? {
    ///     println!("{} keys, give or take {}; {:?} to load again", reach.keys, reach.error, reach.load_time);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store did not answer.
    pub async fn estimate_tag(&self, tag: &str, within: Duration) -> Result<Option<Estimate>, InspectError> {
        self.0.store.estimate(Reach::Tag(tag), within).await.map_err(InspectError)
    }

    /// As [`count_pattern`](Self::count_pattern), within a time limit as for [`estimate_tag`](Self::estimate_tag).
    ///
    /// # Errors
    ///
    /// If the store did not answer.
    pub async fn estimate_pattern(&self, pattern: &str, within: Duration) -> Result<Option<Estimate>, InspectError> {
        self.0.store.estimate(Reach::Pattern(&Pattern::new(pattern)), within).await.map_err(InspectError)
    }

    /// As [`count_all`](Self::count_all), within a time limit as for [`estimate_tag`](Self::estimate_tag).
    ///
    /// # Errors
    ///
    /// If the store did not answer.
    pub async fn estimate_all(&self, within: Duration) -> Result<Option<Estimate>, InspectError> {
        self.0.store.estimate(Reach::Everything, within).await.map_err(InspectError)
    }
}

#[cfg(all(test, feature = "memory", feature = "typed"))]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    async fn kept(cache: &Cache, key: (&'static str, u32), tags: &[&str]) {
        cache.set(key, &"value").ttl(Duration::from_secs(60)).tags(tags).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_stored_can_be_seen_and_what_an_invalidation_would_reach_counted() {
        let cache = Cache::new(MemoryStore::new(1 << 20));
        for id in 0..5 {
            kept(&cache, ("product", id), if id < 3 { &["cheap"] } else { &["dear"] }).await;
        }
        let key = Key::from(("product", 1));
        let Ok(Inspected::Entry(tier, entry)) = cache.inspect(&key).await else { panic!("it is stored") };
        assert_eq!((tier, &*entry.tags, entry.bytes), (Tier::Memory, &["cheap".to_owned()][..], 7));
        assert!((59_000..=60_000).contains(&(entry.fresh - entry.now)), "{entry:?}");
        assert_eq!(cache.count_tag("cheap").await, Ok(Some(3)));
        assert_eq!(cache.count_tag("none").await, Ok(Some(0)));
        assert_eq!(cache.count_pattern("product:[34]").await, Ok(Some(2)));
        assert_eq!(cache.count_all().await, Ok(Some(5)));
        assert_eq!(cache.inspect(&Key::from(("product", 7))).await, Ok(Inspected::Absent));
        assert_eq!(cache.inspect_lease(&key).await, Ok(LeaseState::Free));
        assert_eq!((cache.counts().hits, cache.counts().misses), (0, 0), "nothing was looked up");
    }

    #[tokio::test]
    async fn a_tag_says_when_it_was_invalidated_and_how() {
        let cache = Cache::new(MemoryStore::new(1 << 20));
        assert_eq!(cache.inspect_tag("t").await, Ok(None));
        kept(&cache, ("product", 1), &["t"]).await;
        let change = async || cache.inspect_tag("t").await.unwrap().unwrap().change;
        assert_eq!(change().await, TagChange::Created);
        cache.soft_invalidate_tag("t").await.unwrap();
        assert_eq!(change().await, TagChange::SoftInvalidated);
        cache.invalidate_tag("t").await.unwrap();
        assert_eq!(change().await, TagChange::Invalidated);
        assert_eq!(cache.inspect(&Key::from(("product", 1))).await, Ok(Inspected::Rejected(Rejection::Tag)));
    }
}
