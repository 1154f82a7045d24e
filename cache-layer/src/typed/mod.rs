//! The typed front end: values of any type that serde can serialize, by the same engine that keeps responses.
//!
//! - [`load`]: getting a value, from the cache or from its load
//! - [`ask`]: what a call asks for, and how its load ends; [`stand_in`]: what the call returns if the load is late, or fails
//! - [`many`]: getting many values at once; [`batch`]: the load of the missing values
//! - [`loaded`]: the result of a load, and what the load is given
//! - [`set`]: storing values without a load
//! - [`terms`]: for how long, under which tags, and which callers wait for one load
//! - [`value`]: a value as an entry
//! - [`attribute`], [`argument`]: the code that `#[cached]` expands to, and its keys

use std::hash::Hash;

use serde::{Serialize, de::DeserializeOwned};
use tracing::{Instrument as _, Span};

use self::{load::Load, value::Hit};
use crate::{
    engine::{Cache, InvalidateError, Retrieved, miss::Found, span::LookupSpan},
    entry::Entry,
    inherit::{self, Reads},
    key::Key,
    tag::Tags,
    telemetry::{Event, LookupResult, Rejection, Tier},
};

#[cfg(feature = "macros")]
mod argument;
mod ask;
#[cfg(feature = "macros")]
pub mod attribute;
mod batch;
mod load;
mod loaded;
mod many;
mod set;
mod stand_in;
mod terms;
mod value;
mod verify;

#[cfg(feature = "macros")]
pub use self::argument::unordered;
pub use self::{
    load::GetOrLoad,
    loaded::{Loaded, Stale},
    many::GetOrLoadMany,
    set::{Set, SetError},
    terms::Lock,
};

/// Values of any type.
///
/// A key is a pair such as `("product", 42)`, a string, or a [`Key::new`].
impl Cache {
    /// The value of `key`: from the cache if it is there and fresh, and otherwise from `load`, which runs once for all calls
    /// that ask for the key meanwhile. Only `load` can make the call fail: if the store is away, or holds something else, that
    /// is a miss.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cache_layer::{Cache, store::MemoryStore};
    ///
    /// # #[derive(Clone, Debug)] struct DbError;
    /// # async fn query(id: u64) -> Result<String, DbError> { Ok(format!("product {id}")) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), DbError> {
    /// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let id = 42;
    /// let product: String = cache
    ///     .get_or_load(("product", id), move || query(id))
    ///     .ttl(Duration::from_secs(60))
    ///     .tags([format!("product:{id}")])
    ///     .stale_while_revalidate(Duration::from_secs(10))
    ///     .await?;
    /// # assert_eq!(product, "product 42");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The error of `load`, for every caller that waited for it. The error is cloned for that; put an error that can't be
    /// cloned into an `Arc` (`.map_err(Arc::new)`). If a load panics, the caller that it was begun for panics; of the other
    /// callers, one loads anew.
    ///
    /// # Cancellation
    ///
    /// A load that other calls may share runs in a task of its own. If its caller is dropped, the load still ends and is stored;
    /// [`drain`](Cache::drain) waits for it.
    ///
    /// A load for this call alone stores nothing, and ends with the call. So a call loads while another one loads the key, if it
    /// does not wait for that by its [`Lock`], has waited for the [lock timeout](crate::CacheBuilder::lock_timeout), or is part of
    /// the other load; and after a load whose result could be neither stored nor shared.
    pub fn get_or_load<V, E, F, Fut>(&self, key: impl Into<Key>, load: F) -> GetOrLoad<V, E>
    where
        V: Serialize + DeserializeOwned + Send + 'static,
        E: Clone + Send + Sync + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
    {
        self.get_or_load_with(key, |_| async { load().await.map(Loaded::new) })
    }

    /// As [`get_or_load`](Self::get_or_load), for a load that decides itself for how long and under which tags a value is
    /// kept, and that can use the former value. The former value is there while one of its windows lasts:
    /// [`stale_while_revalidate`](GetOrLoad::stale_while_revalidate), [`stale_if_error`](GetOrLoad::stale_if_error) or
    /// [`keep`](GetOrLoad::keep).
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    /// use cache_layer::{Cache, Loaded, Stale, store::MemoryStore};
    ///
    /// # async fn newer_than(version: u64) -> Option<u64> { (version < 2).then_some(2) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let rates = cache
    ///     .get_or_load_with("rates", async |stale: Option<Stale<u64>>| {
    ///         let known = stale.as_deref().copied().unwrap_or(0);
    ///         Ok::<_, Infallible>(match (newer_than(known).await, stale) {
    ///             (None, Some(stale)) => stale.not_modified(),
    ///             (newer, _) => Loaded::new(newer.unwrap_or(known)).ttl(Duration::from_secs(30)),
    ///         })
    ///     })
    ///     .stale_if_error(Duration::from_secs(3600))
    ///     .await;
    /// # assert_eq!(rates, Ok(2));
    /// # }
    /// ```
    pub fn get_or_load_with<V, E, F, Fut>(&self, key: impl Into<Key>, load: F) -> GetOrLoad<V, E>
    where
        V: Serialize + DeserializeOwned + Send + 'static,
        E: Clone + Send + Sync + 'static,
        F: FnOnce(Option<Stale<V>>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded<V>, E>> + Send + 'static,
    {
        let load: Load<V, E> = Box::new(move |stale| Box::pin(load(stale)));
        GetOrLoad::new(self.clone(), self.named(key), load)
    }

    /// The values of `keys`, in their order, and `None` for keys without a value. Present values come in one round trip, and
    /// `load` is called once for the missing ones: it gets the missing keys, and returns pairs of a key and its value. A key
    /// that it leaves out has no value, which is stored as well ([`negative_ttl`](GetOrLoadMany::negative_ttl)).
    ///
    /// This works like [`get_or_load`](Self::get_or_load) of an `Option` for each key, but together: of all calls that ask for
    /// a key meanwhile, in the whole fleet, one loads it. So `load` is called with the keys that no other call is loading, and
    /// this call waits for the others; for those of them that do not come, it is called again. A key that occurs twice is loaded
    /// once.
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    /// use cache_layer::{Cache, store::MemoryStore};
    ///
    /// /// `SELECT … WHERE id = ANY($1)`
    /// async fn products(ids: Vec<u64>) -> Vec<(u64, String)> {
    ///     ids.into_iter().filter(|id| *id < 100).map(|id| (id, format!("product {id}"))).collect()
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let load = async |missing: Vec<(&'static str, u64)>| {
    ///     let found = products(missing.into_iter().map(|(_, id)| id).collect()).await;
    ///     Ok::<Vec<_>, Infallible>(found.into_iter().map(|(id, product)| (("product", id), product)).collect())
    /// };
    /// let keys = [7, 8, 1_000].map(|id| ("product", id));
    /// let found = cache.get_or_load_many(keys, load).ttl(Duration::from_secs(60)).await;
    /// assert_eq!(found, Ok(vec![Some("product 7".to_owned()), Some("product 8".to_owned()), None]));
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The error of `load`, if one of the keys has neither a present value nor a stale one that may be used.
    /// [`each`](GetOrLoadMany::each) returns a result for each key. Values that other calls load are stored all the same.
    ///
    /// # Calls of the load
    ///
    /// `load` is cloned for each time that it is called: most often once. It is called again, maybe while it runs, for those keys
    ///
    /// - that another call is loading, if this call [does not wait](Lock) for that, or has waited for too long
    /// - that another call has loaded, if that brought nothing for this call: it failed in another process, was overtaken by an
    ///   invalidation, or returned something that could be neither stored nor shared; or if this call is a
    ///   [refresh](GetOrLoadMany::refresh), and the other one began before it
    /// - that are being loaded by a load that this call is part of.
    ///
    /// # Cancellation
    ///
    /// As for [`get_or_load`](Self::get_or_load).
    pub fn get_or_load_many<K, V, E, F, Fut, L>(
        &self,
        keys: impl IntoIterator<Item = K>,
        load: F,
    ) -> GetOrLoadMany<K, V, E>
    where
        K: Clone + Eq + Hash + Into<Key> + Send + Sync + 'static,
        V: Serialize + DeserializeOwned + Clone + Send + 'static,
        E: Clone + Send + Sync + 'static,
        F: FnOnce(Vec<K>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: IntoIterator<Item = (K, V)>,
    {
        self.get_or_load_many_with(keys, async move |wanted: Vec<(K, Option<Stale<V>>)>| {
            let brought = load(wanted.into_iter().map(|(key, _)| key).collect()).await?;
            Ok(brought.into_iter().map(|(key, value)| (key, Ok(Loaded::new(value)))).collect())
        })
    }

    /// As [`get_or_load_many`](Self::get_or_load_many), for a load that decides for each value for how long and under
    /// which tags it is kept, that may fail for some keys, and that can use the former values, as with
    /// [`get_or_load_with`](Self::get_or_load_with).
    ///
    /// ```
    /// use std::time::Duration;
    /// use cache_layer::{Cache, Loaded, Stale, store::MemoryStore};
    ///
    /// #[derive(Clone, Debug, PartialEq)]
    /// struct Unreadable;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let load = async |wanted: Vec<(&'static str, Option<Stale<u32>>)>| {
    ///     let value = |key| match key {
    ///         "bad" => Err(Unreadable),
    ///         _ => Ok(Loaded::new(7).ttl(Duration::from_secs(30)).tags([key])),
    ///     };
    ///     Ok(wanted.into_iter().map(|(key, _)| (key, value(key))).collect())
    /// };
    /// let each = cache.get_or_load_many_with(["good", "bad"], load).each().await;
    /// assert_eq!(each, [Ok(Some(7)), Err(Unreadable)]);
    /// # assert!(cache.drain(Duration::from_secs(1)).await);
    /// assert!(cache.contains("good").await);
    /// # }
    /// ```
    pub fn get_or_load_many_with<K, V, E, F, Fut>(
        &self,
        keys: impl IntoIterator<Item = K>,
        load: F,
    ) -> GetOrLoadMany<K, V, E>
    where
        K: Clone + Eq + Hash + Into<Key> + Send + Sync + 'static,
        V: Serialize + DeserializeOwned + Clone + Send + 'static,
        E: Clone + Send + Sync + 'static,
        F: FnOnce(Vec<(K, Option<Stale<V>>)>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<(K, Result<Loaded<V>, E>)>, E>> + Send + 'static,
    {
        GetOrLoadMany::new(self.clone(), keys.into_iter().collect(), many::shared(load))
    }

    /// The value of `key`, if it is there and fresh. A value that is not of this type is deleted.
    pub async fn get<V: DeserializeOwned + 'static>(&self, key: impl Into<Key>) -> Option<V> {
        let key = self.named(key);
        let mut lookup = self.lookup_span(&key);
        lookup.at(Tier::Memory);
        let hit = match self.find_here(&key) {
            Some(hit) => Some(hit),
            None => {
                lookup.at(self.far_tier());
                let retrieved = self.lookup(&key).instrument(lookup.span()).await;
                self.fresh(&key, retrieved, self.now())
            }
        };
        self.answered(hit, lookup)
    }

    /// The values of `keys`, in their order, as [`get`](Self::get) returns them: those that are not in memory come in one round
    /// trip.
    ///
    /// ```
    /// # use cache_layer::{Cache, store::MemoryStore};
    /// # async fn example(cache: &Cache) {
    /// let names: Vec<Option<String>> = cache.get_many([1, 2, 3].map(|id| ("name", id))).await;
    /// # }
    /// ```
    pub async fn get_many<V: DeserializeOwned + 'static>(
        &self,
        keys: impl IntoIterator<Item = impl Into<Key>>,
    ) -> Vec<Option<V>> {
        let (mut values, mut elsewhere, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        for (place, key) in keys.into_iter().enumerate() {
            let (key, mut lookup) = (self.named(key), self.lookup_span_in(Span::none()));
            lookup.at(Tier::Memory);
            values.push(match self.find_here(&key) {
                Some(hit) => self.answered(Some(hit), lookup),
                None => {
                    elsewhere.push((place, lookup));
                    asked.push(key);
                    None
                }
            });
        }
        if asked.is_empty() {
            return values;
        }
        let span = self.batch_span(values.len());
        let (retrieved, now) = (self.lookup_many(&asked).instrument(span).await, self.now());
        for (((place, mut lookup), key), retrieved) in elsewhere.into_iter().zip(&asked).zip(retrieved) {
            lookup.at(self.far_tier());
            values[place] = self.answered(self.fresh(key, retrieved, now), lookup);
        }
        values
    }

    /// Whether there is a fresh value of `key`, of any type. This does not count as a hit or a miss.
    pub async fn contains(&self, key: impl Into<Key>) -> bool {
        let key = self.named(key);
        let is_fresh = |entry: &Entry| {
            let now = self.now();
            now < entry.deadlines_at(now).fresh
        };
        match self.peek(&key) {
            Some(entry) if is_fresh(&entry) => true,
            _ => matches!(self.lookup(&key).await, Retrieved::Found(entry) if is_fresh(&entry)),
        }
    }

    /// Stores `value`, and replaces a present one. Loads of this key that are under way are not stored any more, because their
    /// values are older. A value that the codec writes but can't read back is stored, and then not found: see
    /// [`Json`](crate::codec::Json).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cache_layer::{Cache, SetError, store::MemoryStore};
    /// # async fn example(cache: &Cache) -> Result<(), SetError> {
    /// cache.set(("name", 7), "lamp").ttl(Duration::from_secs(60)).tags(["product:7"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set<V: Serialize + ?Sized>(&self, key: impl Into<Key>, value: &V) -> Set {
        Set::new(self.clone(), vec![(self.named(key), self.codec().encode(value))])
    }

    /// Stores values, as [`set`](Self::set) does, in one round trip.
    pub fn set_many<'v, K: Into<Key>, V: Serialize + ?Sized + 'v>(
        &self,
        values: impl IntoIterator<Item = (K, &'v V)>,
    ) -> Set {
        let codec = self.codec();
        Set::new(self.clone(), values.into_iter().map(|(key, value)| (self.named(key), codec.encode(value))).collect())
    }

    /// Deletes the value of `key`; another name for [`invalidate`](Self::invalidate).
    ///
    /// # Errors
    ///
    /// As for [`invalidate`](Self::invalidate).
    pub async fn delete(&self, key: impl Into<Key>) -> Result<(), InvalidateError> {
        self.invalidate(&key.into()).await
    }

    /// The value that was found, if it is fresh; a value of another type is deleted.
    fn fresh<V: DeserializeOwned + 'static>(&self, key: &Key, retrieved: Retrieved, now: u64) -> Option<Hit<V>> {
        let Retrieved::Found(entry) = retrieved else { return None };
        let value = self.value_of(&entry);
        if matches!(value, Err(Rejection::Type)) {
            let (cache, key) = (self.clone(), key.clone());
            self.spawn(async move { cache.invalidate(&key).await });
        }
        match self.judge_value(key, entry, value, now) {
            Found::Fresh(hit) => Some(hit),
            Found::Stale(..) | Found::Missing(_) => None,
        }
    }

    fn answered<V>(&self, hit: Option<Hit<V>>, mut lookup: LookupSpan) -> Option<V> {
        self.emit(if hit.is_some() { Event::Hit } else { Event::Miss });
        if let Some(hit) = &hit {
            lookup.found(LookupResult::Hit);
            lookup.answered_by(&hit.entry, || None);
        }
        hit.map(|hit| hit.noted(self))
    }
}

/// Adds `tags` to the value or response that is being made now, so that it is dropped when one of them is invalidated. Call it
/// in a load, or in the handler of a response that [inherits](crate::CacheLayer::inherit); elsewhere it does nothing.
///
/// ```
/// use cache_layer::{Cache, depends_on, store::MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
/// let load = async || {
///     let ids = [7, 8];
///     depends_on(ids.map(|id| format!("product:{id}")));
///     Ok::<_, std::convert::Infallible>(ids)
/// };
/// cache.get_or_load("bestsellers", load).await?;
/// # assert!(cache.drain(std::time::Duration::from_secs(1)).await);
/// # assert!(cache.contains("bestsellers").await);
/// cache.invalidate_tag("product:8").await?;
/// assert!(!cache.contains("bestsellers").await);
/// # Ok(())
/// # }
/// ```
pub fn depends_on<T: AsRef<str>>(tags: impl IntoIterator<Item = T>) {
    inherit::note(|| Reads::new(&Tags::new(tags), None));
}
