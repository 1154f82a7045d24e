//! Getting many values at once: one look-up for all, and one load for what is missing.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tracing::{Instrument as _, Span};

use super::{
    ask::{Ask, Next, Refresh},
    batch::{self, Led, LoadMany, Part},
    loaded::{Loaded, Stale},
    terms::Lock,
    value::Hit,
};
use crate::{
    clock::deadline,
    engine::{
        Cache, Retrieved,
        backoff::BackOff,
        enclosing::EnclosingLoads,
        flight::{Follower, ReplyTo, Role, resume_panic},
        miss::{Found, Miss},
        patience::Patience,
        permit::Purpose,
        span::LookupSpan,
    },
    entry::Entry,
    inherit::{self, Reads},
    key::Key,
    policy::beta_of,
    store::Seen,
    tag::Tags,
    telemetry::{Event, LookupResult, Tier},
};

/// Values that are requested together, from [`Cache::get_or_load_many`] or [`Cache::get_or_load_many_with`]; await it, or
/// [`each`](Self::each).
///
/// Each value is stored by itself, in the same form and under the same key as [`get_or_load`](Cache::get_or_load) of an `Option`
/// stores it.
#[must_use = "nothing is asked for until it is awaited"]
pub struct GetOrLoadMany<K, V, E> {
    /// The settings for each key.
    ask: Ask<Option<V>>,
    ids: Vec<K>,
    tags_of: Option<TagsOf<K>>,
    load: LoadMany<K, V, E>,
    hard_timeout: Option<(Duration, E)>,
}

/// The tags of a key's own value.
type TagsOf<K> = Box<dyn Fn(&K) -> Tags + Send>;

/// A key, and what it waits for.
type Waits<K, V, E> = (Asked<K, V>, Waiting<V, E>);

impl<K, V, E> GetOrLoadMany<K, V, E> {
    pub(super) fn new(cache: Cache, ids: Vec<K>, load: LoadMany<K, V, E>) -> Self {
        // The key of each value replaces this one.
        let ask = Ask::new(cache, Key::new([b""]));
        Self { ask, ids, tags_of: None, load, hard_timeout: None }
    }

    /// How long the values are fresh; five minutes unless set. Zero: they are not stored.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ask.terms.ttl = ttl;
        self
    }

    /// As for [`GetOrLoad`](crate::GetOrLoad::jitter): each value gets its own lifetime.
    pub fn jitter(mut self, per_cent: u8) -> Self {
        self.ask.terms.jitter = per_cent.min(100);
        self
    }

    /// How long the absence of a key's value is fresh, which the load reports by leaving the key out; as long as for any value,
    /// unless set. Zero: it is not stored.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.ask.negative = Some((ttl, Option::is_none));
        self
    }

    /// Tags of every value, in addition to those of entries that the load reads from the cache.
    pub fn tags<T: AsRef<str>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.ask.terms.add_tags(tags);
        self
    }

    /// Tags of the value of each key, and of its absence, in addition to those of all.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use cache_layer::{Cache, store::MemoryStore};
    /// # async fn example(cache: &Cache) {
    /// let load = async |missing: Vec<(&'static str, u64)>| {
    ///     Ok::<_, Infallible>(missing.into_iter().map(|key| (key, format!("product {}", key.1))).collect::<Vec<_>>())
    /// };
    /// let products = cache
    ///     .get_or_load_many([1, 2].map(|id| ("product", id)), load)
    ///     .tags(["products"])
    ///     .tags_of(|(_, id)| [format!("product:{id}")])
    ///     .await;
    /// # assert_eq!(products.unwrap()[1].as_deref(), Some("product 2"));
    /// # }
    /// ```
    pub fn tags_of<I>(mut self, tags_of: impl Fn(&K) -> I + Send + 'static) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.tags_of = Some(Box::new(move |id| Tags::new(tags_of(id))));
        self
    }

    /// As for [`GetOrLoad`](crate::GetOrLoad::stale_while_revalidate); stale values are loaded again together.
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.ask.terms.stale_while_revalidate = window;
        self
    }

    /// As for [`GetOrLoad`](crate::GetOrLoad::stale_if_error), for each value by itself.
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.ask.terms.stale_if_error = window;
        self
    }

    /// As for [`GetOrLoad`](crate::GetOrLoad::keep).
    pub fn keep(mut self, window: Duration) -> Self {
        self.ask.terms.keep = window;
        self
    }

    /// As for [`GetOrLoad`](crate::GetOrLoad::early_refresh).
    pub fn early_refresh(mut self, beta: f32) -> Self {
        self.ask.early = beta_of(beta);
        self
    }

    /// As for [`GetOrLoad`](crate::GetOrLoad::soft_timeout): keys with a stale value get that value then, and the call waits for
    /// the others.
    pub fn soft_timeout(mut self, limit: Duration) -> Self {
        self.ask.stand_in.soft_timeout = Some(limit);
        self
    }

    /// As for [`GetOrLoad`](crate::GetOrLoad::hard_timeout), for each value that is not there by then.
    pub fn hard_timeout(mut self, limit: Duration, error: E) -> Self {
        self.hard_timeout = Some((limit, error));
        self
    }

    /// As for [`GetOrLoad`](crate::GetOrLoad::failure_backoff).
    pub fn failure_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.ask.back_off = BackOff::new(first, longest);
        self
    }

    /// Whether calls wait for each other's loads of a key; [`Lock::Fleet`] unless set.
    pub fn lock(mut self, lock: Lock) -> Self {
        self.ask.lock = lock;
        self
    }

    /// As for [`GetOrLoad`](crate::GetOrLoad::refresh).
    pub fn refresh(mut self) -> Self {
        self.ask.refresh = Refresh::First;
        self
    }
}

impl<K, V, E> GetOrLoadMany<K, V, E>
where
    K: Clone + Eq + Hash + Into<Key> + Send + Sync + 'static,
    V: Serialize + DeserializeOwned + Clone + Send + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// The value of each key, in the order of the keys: values that were found are returned even if the load of the others fails.
    pub async fn each(self) -> Vec<Result<Option<V>, E>> {
        let cache = self.ask.cache.clone();
        let span = cache.batch_span(self.ids.len());
        self.answer(span.clone()).instrument(span).await
    }

    async fn answer(self, span: Span) -> Vec<Result<Option<V>, E>> {
        let (mut call, places) = Call::begin(self, span);
        let mut pending = call.asked();
        while !pending.is_empty() {
            pending = call.round(pending).await;
        }
        call.load_uncached().await;
        // Every key has been settled.
        let settled = call.settled.into_iter().map(|settled| settled.unwrap_or(Ok(None)));
        if places.len() == settled.len() {
            return settled.collect();
        }
        // A key was asked for more than once.
        let settled: Vec<_> = settled.collect();
        places.into_iter().map(|place| settled[place].clone()).collect()
    }
}

impl<K, V, E> IntoFuture for GetOrLoadMany<K, V, E>
where
    K: Clone + Eq + Hash + Into<Key> + Send + Sync + 'static,
    V: Serialize + DeserializeOwned + Clone + Send + 'static,
    E: Clone + Send + Sync + 'static,
{
    type Output = Result<Vec<Option<V>>, E>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.each().await.into_iter().collect() })
    }
}

impl<K: fmt::Debug, V, E> fmt::Debug for GetOrLoadMany<K, V, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetOrLoadMany")
            .field("keys", &self.ids)
            .field("terms", &self.ask.terms)
            .field("lock", &self.ask.lock)
            .finish_non_exhaustive()
    }
}

/// The state of one call for all its keys.
struct Call<K, V, E> {
    cache: Cache,
    load: LoadMany<K, V, E>,
    span: Span,
    hard_timeout: Option<(Instant, E)>,
    asked: Vec<Asked<K, V>>,
    /// The result for each distinct key.
    settled: Vec<Option<Result<Option<V>, E>>>,
    /// Keys that are to be loaded without storing the result.
    uncached: Vec<(Asked<K, V>, Miss)>,
}

/// One key, once.
struct Asked<K, V> {
    place: usize,
    id: K,
    /// Boxed, since keys are passed on from step to step.
    ask: Box<Ask<Option<V>>>,
    patience: Patience,
    span: LookupSpan,
    waited: bool,
    /// The last stale entry that was found.
    stale: Option<Entry>,
}

/// What a key waits for.
enum Waiting<V, E> {
    /// This call's own load; a stale value is used after the given time.
    Led(oneshot::Receiver<Part<V, E>>, Miss, Option<(Hit<Option<V>>, Instant)>),
    /// Another call's load.
    Followed(Follower, Miss),
}

/// The result of that wait.
enum Waited<V, E> {
    Next(Next<Option<V>, E>, Miss),
    /// The load panicked.
    Panicked,
}

impl<K, V, E> Call<K, V, E>
where
    K: Clone + Eq + Hash + Into<Key> + Send + Sync + 'static,
    V: Serialize + DeserializeOwned + Clone + Send + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// The call, and for each requested key its index among the distinct keys.
    fn begin(asked: GetOrLoadMany<K, V, E>, span: Span) -> (Self, Vec<usize>) {
        let GetOrLoadMany { mut ask, ids, tags_of, load, hard_timeout } = asked;
        ask.enclosing = EnclosingLoads::here();
        let cache = ask.cache.clone();
        let hard_timeout = hard_timeout.map(|(limit, error)| (deadline(limit), error));
        let (mut known, mut asked) = (HashMap::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
        let mut places = Vec::with_capacity(ids.len());
        // One for all keys, so that those whose wait is in vain are loaded together.
        let patience = ask.patience().of_many();
        for id in ids {
            let next = asked.len();
            let place = *known.entry(id.clone()).or_insert(next);
            places.push(place);
            if place == next {
                let mut ask = ask.of(ask.cache.named(id.clone()));
                if let Some(tags_of) = &tags_of {
                    ask.terms.add_tags(tags_of(&id).iter());
                }
                let (patience, span) = (patience.clone(), cache.lookup_span_in(Span::none()));
                asked.push(Asked { place, id, ask: Box::new(ask), patience, span, waited: false, stale: None });
            }
        }
        let settled = asked.iter().map(|_| None).collect();
        (Self { cache, load, span, hard_timeout, asked, settled, uncached: Vec::new() }, places)
    }

    /// The keys that are to be looked up. A key that the call is part of a load of is loaded without the cache.
    fn asked(&mut self) -> Vec<Asked<K, V>> {
        let asked = std::mem::take(&mut self.asked);
        if asked.first().is_none_or(|asked| asked.ask.enclosing.is_empty()) {
            return asked;
        }
        let (nested, asked): (Vec<_>, _) = asked.into_iter().partition(|asked| asked.ask.is_nested());
        for mut asked in nested {
            let miss = asked.ask.pass_through(&mut asked.span);
            self.uncached.push((asked, miss));
        }
        asked
    }

    /// Looks `pending` up, leads or waits for the loads of missing keys, and returns the keys that are to be looked up again.
    async fn round(&mut self, mut pending: Vec<Asked<K, V>>) -> Vec<Asked<K, V>> {
        let (mut led, mut refreshed, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        pending.retain_mut(|asked| !self.found_here(asked, &mut refreshed));
        let (retrieved, now) = (self.look_up(&mut pending).await, self.cache.now());
        for (mut asked, retrieved) in pending.into_iter().zip(retrieved) {
            match self.cache.judge(&asked.ask.key, retrieved, now) {
                Found::Fresh(hit) => self.found(&mut asked, hit, &mut refreshed),
                Found::Stale(hit, miss) => self.stale(asked, hit, miss, &mut refreshed, &mut led, &mut waiting),
                Found::Missing(miss) => self.missing(asked, miss, &mut led, &mut waiting),
            }
        }
        self.load(refreshed);
        let task = self.load(led);
        let hard_timeout = self.hard_timeout.clone();
        let waits = waiting.into_iter().map(|(asked, waiting)| asked.wait(waiting, hard_timeout.as_ref()));
        let mut again = Vec::new();
        let waits = join_all(waits);
        let loads_at_once = self.uncached.first().is_some_and(|(asked, _)| asked.ask.lock == Lock::Off);
        let waited = match loads_at_once {
            true => tokio::join!(waits, Box::pin(self.load_uncached())).0,
            false => waits.await,
        };
        for (asked, waited) in waited {
            match waited {
                Waited::Next(Next::Return(result), _) => self.settled[asked.place] = Some(result),
                Waited::Next(Next::LookAgain, _) => again.push(asked),
                Waited::Next(Next::LoadUncached, miss) => self.uncached.push((asked, miss)),
                Waited::Panicked => {
                    self.cache.emit(Event::Miss);
                    if let Some(task) = task {
                        return resume_panic(task).await;
                    }
                    break;
                }
            }
        }
        again
    }

    /// Whether the value is in memory, and fresh: the key is settled then.
    fn found_here(&mut self, asked: &mut Asked<K, V>, refreshed: &mut Vec<Led<K, V, E>>) -> bool {
        if asked.ask.is_refresh() {
            return false;
        }
        asked.span.at(Tier::Memory);
        let Some(hit) = self.cache.find_here(&asked.ask.key) else { return false };
        self.found(asked, hit, refreshed);
        true
    }

    /// Looks `pending` up, in one round trip, without the keys that are still to be loaded anew. If the hard timeout ends first,
    /// every key is settled, and none is left.
    async fn look_up(&mut self, pending: &mut Vec<Asked<K, V>>) -> Vec<Retrieved> {
        let unusable = || Retrieved::Missing(Seen::Unusable);
        let looked_up = pending.iter().filter(|asked| !asked.ask.is_refresh());
        let keys: Vec<Key> = looked_up.map(|asked| asked.ask.key.clone()).collect();
        if keys.is_empty() {
            return pending.iter().map(|_| unusable()).collect();
        }
        let looking = self.cache.lookup_many(&keys);
        let retrieved = match &self.hard_timeout {
            None => looking.await,
            Some((until, error)) => match timeout_at(*until, looking).await {
                Ok(retrieved) => retrieved,
                Err(_) => {
                    for asked in std::mem::take(pending) {
                        self.settled[asked.place] = Some(asked.too_late(error));
                    }
                    return Vec::new();
                }
            },
        };
        let (mut retrieved, tier) = (retrieved.into_iter(), self.cache.far_tier());
        let of = |asked: &mut Asked<K, V>| {
            if asked.ask.is_refresh() {
                return unusable();
            }
            asked.span.at(tier);
            retrieved.next().unwrap_or_else(unusable)
        };
        pending.iter_mut().map(of).collect()
    }

    /// A fresh value was found.
    fn found(&mut self, asked: &mut Asked<K, V>, hit: Hit<Option<V>>, refreshed: &mut Vec<Led<K, V, E>>) {
        self.cache.emit(Event::Hit);
        asked.ask.describe(&hit, asked.waited, &mut asked.span);
        let place = asked.place;
        if asked.ask.is_due_early(&hit) {
            let (key, expected) = (asked.ask.key.clone(), Some(Seen::Entry(hit.entry.id())));
            let miss = Miss { key, expected, stale: Some(hit.entry.clone()), detail: () };
            refreshed.extend(asked.refresh(miss, Purpose::EarlyRefresh));
        }
        self.settled[place] = Some(Ok(hit.noted(&asked.ask.cache)));
    }

    /// A stale value was found that may be used, and is refreshed.
    fn stale(
        &mut self,
        mut asked: Asked<K, V>,
        hit: Hit<Option<V>>,
        miss: Miss,
        refreshed: &mut Vec<Led<K, V, E>>,
        led: &mut Vec<Led<K, V, E>>,
        waiting: &mut Vec<Waits<K, V, E>>,
    ) {
        let purpose = match asked.ask.is_backing_off() {
            true => None,
            false => Some(self.cache.purpose_of_refresh(&asked.ask.key)),
        };
        if let Some(purpose @ Purpose::RetriedRefresh) = purpose
            && let Role::Leader(flight) = self.cache.flights().join(&asked.ask.key)
        {
            asked.stale.clone_from(&miss.stale);
            let until = asked.patience.end_with_stale();
            let (one, reply) = asked.lead(flight, miss.clone(), purpose);
            led.push(one);
            waiting.push((asked, Waiting::Led(reply, miss, Some((hit, until)))));
            return;
        }
        self.cache.emit(Event::Hit);
        asked.span.found(LookupResult::Stale);
        let place = asked.place;
        if let Some(purpose @ Purpose::Refresh) = purpose {
            refreshed.extend(asked.refresh(miss, purpose));
        }
        self.settled[place] = Some(Ok(hit.noted(&asked.ask.cache)));
    }

    /// A value has to be loaded, or waited for.
    fn missing(
        &mut self,
        mut asked: Asked<K, V>,
        miss: Miss,
        led: &mut Vec<Led<K, V, E>>,
        waiting: &mut Vec<Waits<K, V, E>>,
    ) {
        asked.stale.clone_from(&miss.stale);
        if let Some(value) = asked.ask.left_alone(&miss) {
            self.settled[asked.place] = Some(Ok(value));
            return;
        }
        if !miss.reached_store() {
            asked.span.unavailable();
        }
        match asked.ask.join() {
            Role::Leader(flight) => {
                let stale = asked.ask.stale_if_slow(&miss, &asked.patience);
                let (one, reply) = asked.lead(flight, miss.clone(), Purpose::Answer);
                led.push(one);
                waiting.push((asked, Waiting::Led(reply, miss, stale)));
            }
            Role::Follower(_) if asked.ask.lock == Lock::Off => self.uncached.push((asked, miss)),
            Role::Follower(follower) => {
                if !asked.waited {
                    asked.waited = true;
                    self.cache.emit(Event::Coalesced);
                }
                waiting.push((asked, Waiting::Followed(follower, miss)));
            }
        }
    }

    /// Begins the load of the keys that this call leads.
    fn load(&self, led: Vec<Led<K, V, E>>) -> Option<JoinHandle<()>> {
        if led.is_empty() {
            return None;
        }
        let span = self.cache.batch_load_span(led.len(), &self.span);
        led.iter().for_each(|one| one.flight.set_span(&span));
        Some(self.cache.flights().spawn_batch(span, batch::lead(led, self.load.clone())))
    }

    /// Looks up once more whether another load, whose wait was in vain, has stored a value by now: the call may have waited for
    /// other keys since, or, if it `has_waited`, for a place.
    async fn look_once_more(&mut self, has_waited: bool) {
        let may_be_there = |asked: &Asked<K, V>, miss: &Miss| {
            (has_waited || asked.waited) && miss.reached_store() && !asked.ask.is_refresh()
        };
        let uncached = std::mem::take(&mut self.uncached);
        let (looking, others) = uncached.into_iter().partition(|(asked, miss)| may_be_there(asked, miss));
        self.uncached = others;
        let (mut asked, misses): (Vec<_>, Vec<_>) = looking.into_iter().unzip();
        if asked.is_empty() {
            return;
        }
        let (retrieved, now, mut refreshed) = (self.look_up(&mut asked).await, self.cache.now(), Vec::new());
        for ((mut asked, miss), retrieved) in asked.into_iter().zip(misses).zip(retrieved) {
            match self.cache.judge(&asked.ask.key, retrieved, now) {
                Found::Fresh(hit) => self.found(&mut asked, hit, &mut refreshed),
                Found::Stale(..) | Found::Missing(_) => self.uncached.push((asked, miss)),
            }
        }
        self.load(refreshed);
    }

    /// The result of `load`, and the keys that wait for it. After a soft timeout, keys with a stale value wait no longer; the
    /// load ends if no key is left.
    async fn soon_or_stale<T>(
        &mut self,
        load: impl Future<Output = T>,
        waiting: Vec<(Asked<K, V>, Miss)>,
    ) -> (Option<T>, Vec<(Asked<K, V>, Miss)>) {
        let stale: Vec<_> =
            waiting.iter().map(|(asked, miss)| asked.ask.stale_if_slow(miss, &asked.patience)).collect();
        // All keys of a call have the same soft timeout.
        let Some(soon) = stale.iter().flatten().map(|(_, until)| *until).min() else {
            return (Some(load.await), waiting);
        };
        let mut load = pin!(load);
        if let Ok(loaded) = timeout_at(soon, load.as_mut()).await {
            return (Some(loaded), waiting);
        }
        let mut left = Vec::new();
        for ((asked, miss), stale) in waiting.into_iter().zip(stale) {
            match stale {
                // It may have become too old during the wait.
                Some((hit, _)) if asked.ask.is_usable(&hit.entry) => {
                    self.settled[asked.place] = Some(Ok(asked.ask.stands_in(hit)));
                }
                _ => left.push((asked, miss)),
            }
        }
        let loaded = if left.is_empty() { None } else { Some(load.await) };
        (loaded, left)
    }

    /// As [`soon_or_stale`](Self::soon_or_stale), within the hard timeout.
    async fn in_time<T>(
        &mut self,
        work: impl Future<Output = T>,
        waiting: Vec<(Asked<K, V>, Miss)>,
    ) -> Option<(T, Vec<(Asked<K, V>, Miss)>)> {
        let hard_timeout = self.hard_timeout.clone();
        let work = async move {
            match hard_timeout {
                None => Ok(work.await),
                Some((until, error)) => timeout_at(until, work).await.map_err(|_| error),
            }
        };
        let (done, left) = self.soon_or_stale(work, waiting).await;
        match done? {
            Ok(done) => Some((done, left)),
            Err(error) => {
                for (asked, miss) in left {
                    let result = asked.ask.unshared(Err(error.clone()), &Reads::default(), &miss);
                    self.settled[asked.place] = Some(result);
                }
                None
            }
        }
    }

    /// Loads the keys whose results can't be shared, for this call alone, and stores nothing.
    async fn load_uncached(&mut self) {
        if self.uncached.is_empty() {
            return;
        }
        self.look_once_more(false).await;
        let uncached = std::mem::take(&mut self.uncached);
        let Some((first, _)) = uncached.first() else { return };
        let ask = first.ask.clone();
        let Some((placed, uncached)) = self.in_time(ask.placed(ask.place_alone()), uncached).await else { return };
        let (enclosing, has_waited) = placed;
        self.uncached = uncached;
        if has_waited {
            self.look_once_more(true).await;
        }
        let uncached = std::mem::take(&mut self.uncached);
        if uncached.is_empty() {
            return;
        }
        let former = |(asked, miss): &(Asked<K, V>, Miss)| asked.ask.former(miss).and_then(Stale::transpose);
        let wanted = uncached.iter().map(|one| (one.0.id.clone(), former(one))).collect();
        let within = enclosing.loading(&self.cache, uncached.iter().map(|(asked, _)| &asked.ask.key));
        let load = self.load.clone();
        let load = inherit::collect(within.hold(async move { load(wanted).await }));
        let Some(((brought, reads), uncached)) = self.in_time(load, uncached).await else { return };
        let (mut values, error) = match brought {
            Ok(values) => (values.into_iter().collect::<HashMap<_, _>>(), None),
            Err(error) => (HashMap::new(), Some(error)),
        };
        for (asked, miss) in uncached {
            let loaded = match (values.remove(&asked.id), &error) {
                (Some(loaded), _) => loaded.map(|loaded: Loaded<V>| loaded.map(Some)),
                (None, None) => Ok(Loaded::new(None)),
                (None, Some(error)) => Err(error.clone()),
            };
            self.settled[asked.place] = Some(asked.ask.unshared(loaded, &reads, &miss));
        }
    }
}

impl<K, V> Asked<K, V>
where
    K: Clone,
    V: Serialize + DeserializeOwned + Clone + Send + 'static,
{
    /// Makes the call's load lead the key's flight; returns the receiver of its part.
    fn lead<E>(
        &self,
        flight: crate::engine::flight::Flight,
        miss: Miss,
        purpose: Purpose,
    ) -> (Led<K, V, E>, oneshot::Receiver<Part<V, E>>) {
        let (reply_to, reply) = ReplyTo::channel();
        let (id, ask, patience) = (self.id.clone(), Ask::clone(&self.ask).loads_for(purpose), self.patience.clone());
        (Led { id, ask, flight, miss, patience, is_impatient: false, purpose, reply_to }, reply)
    }

    /// The same in the background, unless the key is being loaded already.
    fn refresh<E>(&self, miss: Miss, purpose: Purpose) -> Option<Led<K, V, E>> {
        match self.ask.cache.flights().join(&self.ask.key) {
            Role::Leader(flight) => Some(self.lead(flight, miss, purpose).0),
            Role::Follower(_) => None,
        }
    }

    /// Waits for the load of this key.
    async fn wait<E>(mut self, waiting: Waiting<V, E>, hard_timeout: Option<&(Instant, E)>) -> (Self, Waited<V, E>)
    where
        E: Clone + Send + Sync + 'static,
    {
        let waits = self.wait_for(waiting);
        let waited = match hard_timeout {
            None => waits.await,
            Some((until, error)) => match timeout_at(*until, waits).await {
                Ok(waited) => waited,
                Err(_) => {
                    let miss = Miss { key: self.ask.key.clone(), expected: None, stale: None, detail: () };
                    Waited::Next(Next::Return(self.too_late(error)), miss)
                }
            },
        };
        (self, waited)
    }

    /// The result for a key when the call has reached its hard timeout.
    fn too_late<E: Clone>(&self, error: &E) -> Result<Option<V>, E> {
        match self.stale.as_ref().and_then(|entry| self.ask.usable(entry)) {
            Some(hit) => Ok(self.ask.stands_in(hit)),
            None => {
                self.ask.cache.emit(Event::Miss);
                Err(error.clone())
            }
        }
    }

    async fn wait_for<E>(&mut self, waiting: Waiting<V, E>) -> Waited<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        match waiting {
            Waiting::Followed(follower, mut miss) => {
                let next = self.ask.follow(follower, &mut miss, &mut self.patience, &mut self.span).await;
                self.stale.clone_from(&miss.stale);
                Waited::Next(next, miss)
            }
            Waiting::Led(reply, miss, None) => self.led(reply.await.ok(), miss),
            Waiting::Led(mut reply, miss, Some((hit, until))) => {
                let part = match timeout_at(until, &mut reply).await {
                    Ok(part) => part.ok(),
                    Err(_) if self.ask.is_usable(&hit.entry) => {
                        let longest = self.ask.cache.longest_load();
                        // A task waits in place of this call, so that the load is not abandoned.
                        drop(self.ask.cache.spawn(async move { drop(timeout(longest, reply).await) }));
                        return Waited::Next(Next::Return(Ok(self.ask.stands_in(hit))), miss);
                    }
                    Err(_) => reply.await.ok(),
                };
                if part.is_none() && self.ask.is_usable(&hit.entry) {
                    return Waited::Next(Next::Return(Ok(self.ask.stands_in(hit))), miss);
                }
                self.led(part, miss)
            }
        }
    }

    fn led<E>(&mut self, part: Option<Part<V, E>>, miss: Miss) -> Waited<V, E> {
        let Some(part) = part else { return Waited::Panicked };
        let next = self.ask.settled(part, &mut self.span).map_or(Next::LoadUncached, Next::Return);
        Waited::Next(next, miss)
    }
}

/// Adapts the load of [`Cache::get_or_load_many`].
pub(super) fn shared<K, V, E, F, Fut>(load: F) -> LoadMany<K, V, E>
where
    F: FnOnce(Vec<(K, Option<Stale<V>>)>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<(K, Result<Loaded<V>, E>)>, E>> + Send + 'static,
{
    Arc::new(move |wanted| Box::pin(load.clone()(wanted)))
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    /// The keys of one refresh may have waited for loads of which one is stored, and another one is void.
    #[tokio::test]
    async fn a_key_that_is_still_to_be_loaded_anew_is_not_looked_up_with_the_others() {
        let cache = Cache::new(MemoryStore::new(1 << 20));
        cache.set_many([("a", &Some(1_u32)), ("b", &Some(1))]).await.unwrap();
        for stored in [0, 1] {
            let load = shared(async |_: Vec<(&'static str, Option<Stale<u32>>)>| Err::<Vec<_>, ()>(()));
            let refresh = GetOrLoadMany::new(cache.clone(), vec!["a", "b"], load).refresh();
            let (mut call, _) = Call::begin(refresh, Span::none());
            let mut pending = call.asked();
            pending[stored].ask.refresh = Refresh::No;
            let found = call.look_up(&mut pending).await;
            assert!(matches!(found[stored], Retrieved::Found(_)), "{stored}");
            assert!(matches!(found[1 - stored], Retrieved::Missing(Seen::Unusable)), "{stored}");
        }
    }
}
