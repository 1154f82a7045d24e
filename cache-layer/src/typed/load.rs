//! Getting a value, from the cache or from the load that makes it.

use std::{fmt, pin::Pin, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{Instrument as _, Span};

use super::{
    ask::{Ask, LoadResult, Next, Skipped},
    loaded::{Loaded, Stale},
    terms::Lock,
    value::Hit,
};
use crate::{
    engine::{
        Cache,
        backoff::BackOff,
        fetch::{AcquireOutcome, Found, Miss},
        flight::{Flight, LoadTask, ReplyTo, Role, resume_panic},
        load_limit::LoadLimit,
        patience::Patience,
        permit::Purpose,
        span::LookupSpan,
    },
    inherit,
    key::Key,
    policy::beta_of,
    store::Seen,
    telemetry::{Event, LookupResult, Tier},
};

type Loading<V, E> = Pin<Box<dyn Future<Output = Result<Loaded<V>, E>> + Send>>;
pub(super) type Load<V, E> = Box<dyn FnOnce(Option<Stale<V>>) -> Loading<V, E> + Send>;

/// A value that is asked for, from [`Cache::get_or_load`] or [`Cache::get_or_load_with`]; await it.
///
/// ```
/// use std::time::Duration;
/// use cache_layer::{Cache, store::MemoryStore};
///
/// # #[derive(Clone, Debug)] enum DbError { TimedOut }
/// # async fn query() -> Result<Vec<String>, DbError> { Ok(vec!["lamp".to_owned()]) }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), DbError> {
/// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
/// let products = cache
///     .get_or_load("bestsellers", query)
///     .ttl(Duration::from_secs(60))
///     // Loaded anew before it is stale, so that nobody waits for what is asked for often.
///     .early_refresh(1.0)
///     // What is stale stands in for a failure, and for what takes longer than 50 ms.
///     .stale_if_error(Duration::from_secs(3600))
///     .soft_timeout(Duration::from_millis(50))
///     // Where there is nothing stale, the call ends after two seconds.
///     .hard_timeout(Duration::from_secs(2), DbError::TimedOut)
///     .await?;
/// # assert_eq!(products, ["lamp"]);
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is asked for until it is awaited"]
pub struct GetOrLoad<V, E> {
    ask: Ask<V>,
    load: Load<V, E>,
    hard_timeout: Option<(Duration, E)>,
}

impl<V, E> GetOrLoad<V, E> {
    pub(super) fn new(cache: Cache, key: Key, load: Load<V, E>) -> Self {
        Self { ask: Ask::new(cache, key), load, hard_timeout: None }
    }

    /// How long the value is fresh; five minutes unless set. Zero: it is not kept.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ask.terms.ttl = ttl;
        self
    }

    /// Shortens the life of the value at random by up to this share, 0 to 100 per cent, so that what was loaded together does
    /// not expire together; 0 unless set.
    pub fn jitter(mut self, per_cent: u8) -> Self {
        self.ask.terms.jitter = per_cent.min(100);
        self
    }

    /// Tags by which it can be [invalidated](Cache::invalidate_tag). It carries those of what its load reads from the
    /// cache, too, and is fresh no longer than that is.
    pub fn tags<T: AsRef<str>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.ask.terms.add_tags(tags);
        self
    }

    /// For so long after it ceased to be fresh, the value is used while it is loaded anew in the background; none unless
    /// set.
    ///
    /// After a load in the background that brought nothing to be kept, the next call loads before it returns. It has the stale
    /// value if that load fails, or takes longer than the [lock timeout](crate::CacheBuilder::lock_timeout), or than a
    /// [soft timeout](Self::soft_timeout).
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.ask.terms.stale_while_revalidate = window;
        self
    }

    /// For so long after it ceased to be fresh, the value is used if loading it anew fails, or takes longer than a
    /// [soft timeout](Self::soft_timeout); none unless set.
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.ask.terms.stale_if_error = window;
        self
    }

    /// For so long after it ceased to be fresh, the value is there for its load, which may say that it
    /// [still holds](Stale::not_modified); none unless set, beyond the two windows above. Nobody is given it as it is.
    pub fn keep(mut self, window: Duration) -> Self {
        self.ask.terms.keep = window;
        self
    }

    /// Refreshes the value in the background before it is stale, so that nobody ever waits for what is asked for often; off
    /// unless set. Each call that finds it decides by chance, the more likely the less of its life is left and the longer its
    /// load took (XFetch), in the last fifth of a life of a second or more; of all in the fleet, one loads.
    ///
    /// `beta` is how early: at 1, most often a few times as long before the end as a load takes; at more, earlier, which is for
    /// loads whose duration varies. Zero or less, or what is no number, turns it off.
    pub fn early_refresh(mut self, beta: f32) -> Self {
        self.ask.early = beta_of(beta);
        self
    }

    /// How long the call waits, from its begin on, where a stale value may stand in by
    /// [`stale_if_error`](Self::stale_if_error): then it returns that, and the load goes on and is stored for later calls; without a
    /// limit unless set. It has no effect where there is no such value.
    ///
    /// It limits every wait for what is loaded: for this call's own load, for another call's, for another process's, and for
    /// a [place](crate::CacheBuilder::max_loads). A load that is left goes on for as long as one keeps its place, a minute or
    /// twelve [lock timeouts](crate::CacheBuilder::lock_timeout). Calls meanwhile wait as long as this one did.
    pub fn soft_timeout(mut self, limit: Duration) -> Self {
        self.ask.stand_in.soft_timeout = Some(limit);
        self
    }

    /// How long the call waits at most, from its begin on, whatever it waits for; without a limit unless set. Then it returns
    /// the stale value, if one may stand in for an error, or else the [fallback](Self::fallback), or else `error`.
    ///
    /// The load goes on as if its caller had left, and what it brings within
    /// [`abandoned_load`](crate::CacheBuilder::abandoned_load) is stored.
    pub fn hard_timeout(mut self, limit: Duration, error: E) -> Self {
        self.hard_timeout = Some((limit, error));
        self.ask.stand_in.knows_stale();
        self
    }

    /// What the call returns in place of an error if nothing stale may stand in: of the load, or of the
    /// [hard timeout](Self::hard_timeout). It is not stored, and neither is what is made from it. A slow load is waited for all the
    /// same: it is a last resort.
    pub fn fallback(mut self, value: V) -> Self {
        self.ask.stand_in.set_fallback(value);
        self
    }

    /// How long a failing load is left alone, by all processes with the same store, while a stale value or a
    /// [fallback](Self::fallback) stands in: `first` after one failure, doubling with each that follows, `longest` at most, and a
    /// fifth more or less at random; 1 s and 30 s unless set. Zero turns it off. Calls for which nothing stands in load as
    /// ever. A success ends it, and so does the invalidation of the key.
    pub fn failure_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.ask.back_off = BackOff::new(first, longest);
        self
    }

    /// Who waits for whose load; [`Lock::Fleet`] unless set.
    pub fn lock(mut self, lock: Lock) -> Self {
        self.ask.lock = lock;
        self
    }

    /// Loads anew, whatever is there, and stores what comes. What is there stays until then.
    pub fn refresh(mut self) -> Self {
        self.ask.refresh = true;
        self
    }
}

impl<T, E> GetOrLoad<Option<T>, E> {
    /// How long `None` is fresh; as long as any other value unless set.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.ask.negative = Some((ttl, Option::is_none));
        self
    }
}

impl<V, E> IntoFuture for GetOrLoad<V, E>
where
    V: Serialize + DeserializeOwned + Send + 'static,
    E: Clone + Send + Sync + 'static,
{
    type Output = Result<V, E>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { mut ask, load, hard_timeout } = self;
        ask.placed = LoadLimit::is_placed();
        match hard_timeout {
            None if !ask.stand_in.has_fallback() => Box::pin(ask.answer(load)),
            hard_timeout => Box::pin(ask.answer_in_time(load, hard_timeout)),
        }
    }
}

impl<V, E> fmt::Debug for GetOrLoad<V, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetOrLoad")
            .field("key", &self.ask.key)
            .field("terms", &self.ask.terms)
            .field("lock", &self.ask.lock)
            .finish_non_exhaustive()
    }
}

/// A load that a call leads.
struct LedLoad<V, E> {
    ask: Ask<V>,
    flight: Flight,
    miss: Miss,
    load: Load<V, E>,
    patience: Patience,
    purpose: Purpose,
}

/// What came of such a load.
type Answer<V, E> = LoadResult<V, E, Load<V, E>>;

impl<V> Ask<V>
where
    V: Serialize + DeserializeOwned + Send + 'static,
{
    /// As [`answer`](Self::answer), with what the call has for the case that it fails, or takes too long.
    async fn answer_in_time<E>(self, load: Load<V, E>, hard_timeout: Option<(Duration, E)>) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        let answer = self.clone().answer(load);
        let answered = match hard_timeout {
            None => answer.await,
            Some((limit, error)) => match timeout(limit, answer).await {
                Ok(answered) => answered,
                Err(_) => self.too_late(error),
            },
        };
        answered.or_else(|error| self.fallback().ok_or(error))
    }

    /// What the call returns that has waited for as long as it may.
    fn too_late<E>(&self, error: E) -> Result<V, E> {
        match self.stand_in.stale().and_then(|entry| self.usable(&entry)) {
            Some(hit) => Ok(self.stands_in(hit)),
            None => {
                self.cache.emit(Event::Miss);
                Err(error)
            }
        }
    }

    async fn answer<E>(self, load: Load<V, E>) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        let lookup = self.cache.lookup_span(&self.key);
        let span = lookup.span();
        self.fetch(load, lookup).instrument(span).await
    }

    async fn fetch<E>(self, load: Load<V, E>, mut span: LookupSpan) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        let mut patience = self.patience();
        let mut waited = false;
        loop {
            let (found, tier) = self.find().await;
            span.at(tier);
            let miss = match found {
                Found::Fresh(hit) => {
                    self.cache.emit(Event::Hit);
                    self.describe(&hit, waited, &mut span);
                    if self.is_due_early(&hit) {
                        self.refresh_early(&hit, load, patience, &span);
                    } else {
                        self.verify(&hit, load);
                    }
                    return Ok(hit.noted());
                }
                Found::Stale(hit, miss) => return self.refresh_stale(hit, miss, load, patience, span).await,
                Found::Missing(miss) => miss,
            };
            self.stand_in.note_stale(&miss);
            if let Some(value) = self.left_alone(&miss) {
                return Ok(value);
            }
            if !miss.reached_store() {
                span.unavailable();
            }
            let follower = match self.cache.flights().join(&self.key) {
                Role::Leader(flight) => {
                    let ask = self.clone();
                    let led = LedLoad { ask, flight, miss, load, patience, purpose: Purpose::Answer };
                    return self.lead(led, span).await;
                }
                Role::Follower(_) if self.lock == Lock::Off => return self.load_uncached(load, &miss, &patience).await,
                Role::Follower(follower) => follower,
            };
            if !waited {
                waited = true;
                self.cache.emit(Event::Coalesced);
            }
            match self.follow(follower, &miss, &mut patience, &mut span).await {
                Next::Return(result) => return result,
                Next::LookAgain => {}
                Next::LoadUncached => return self.load_uncached(load, &miss, &patience).await,
            }
        }
    }

    /// There is a value, which is fresh, and one call refreshes it before it no longer is.
    fn refresh_early<E>(&self, hit: &Hit<V>, load: Load<V, E>, patience: Patience, span: &LookupSpan)
    where
        E: Clone + Send + Sync + 'static,
    {
        if let Role::Leader(flight) = self.cache.flights().join(&self.key) {
            let (key, expected) = (self.key.clone(), Some(Seen::Entry(hit.entry.id())));
            let miss = Miss { key, expected, stale: Some(hit.entry.clone()), detail: () };
            let led = LedLoad { ask: self.clone(), flight, miss, load, patience, purpose: Purpose::EarlyRefresh };
            drop(led.begin(self.cache.background_span(&self.key, span)));
        }
    }

    /// There is a value, which is stale and may be used, and one call refreshes it: in the background, or before it returns if
    /// the last refresh in the background brought nothing.
    async fn refresh_stale<E>(
        self,
        hit: Hit<V>,
        miss: Miss,
        load: Load<V, E>,
        patience: Patience,
        mut span: LookupSpan,
    ) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        match self.cache.flights().join(&self.key) {
            Role::Leader(flight) => {
                self.stand_in.note_stale(&miss);
                let purpose = self.cache.purpose_of_refresh(&self.key);
                let until = patience.soft_deadline().unwrap_or(patience.end());
                let led = LedLoad { ask: self.clone(), flight, miss, load, patience, purpose };
                if purpose == Purpose::RetriedRefresh {
                    return self.lead_until(until, led, hit, span).await;
                }
                drop(led.begin(self.cache.background_span(&self.key, &span)));
            }
            Role::Follower(_) => {}
        }
        self.cache.emit(Event::Hit);
        span.found(LookupResult::Stale);
        Ok(hit.noted())
    }

    /// Leads, and waits for what comes of it; `hit` is the value if the load fails, or has not come by `until`.
    async fn lead_until<E>(self, until: Instant, led: LedLoad<V, E>, hit: Hit<V>, mut span: LookupSpan) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        let task = led.begin(self.cache.load_span(&self.key, &span));
        match task.reply_by(until).await {
            Ok(Ok((LoadResult::Failed(_), _)) | Err(_)) => Ok(self.stands_in(hit)),
            Ok(Ok((result, _))) => self.settle(result, &mut span).await,
            Err(task) => {
                self.cache.flights().leave_to_later(task, self.cache.longest_load());
                Ok(self.stands_in(hit))
            }
        }
    }

    async fn find(&self) -> (Found<Hit<V>>, Tier) {
        if self.refresh {
            let key = self.key.clone();
            let miss = Miss { key, expected: Some(Seen::Unusable), stale: None, detail: () };
            return (Found::Missing(miss), Tier::None);
        }
        self.cache.find(&self.key).await
    }

    /// Loads for this one call, and stores nothing.
    async fn load_uncached<E>(self, load: Load<V, E>, miss: &Miss, patience: &Patience) -> Result<V, E> {
        let stale = self.stale_if_slow(miss, patience);
        let load = inherit::collect(self.in_place(None, load(None)));
        let (loaded, reads) = match stale {
            None => load.await,
            Some((hit, until)) => match timeout_at(until, load).await {
                Ok(loaded) => loaded,
                Err(_) => return Ok(self.stands_in(hit)),
            },
        };
        self.unshared(loaded, &reads, miss)
    }

    /// Leads, and waits for what comes of it.
    async fn lead<E>(self, led: LedLoad<V, E>, mut span: LookupSpan) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        if let Some((hit, until)) = self.stale_if_slow(&led.miss, &led.patience) {
            return Box::pin(self.lead_until(until, led, hit, span)).await;
        }
        let task = led.begin(self.cache.load_span(&self.key, &span));
        match task.reply_unless_panicked().await {
            Ok((result, _)) => self.settle(result, &mut span).await,
            Err(task) => {
                self.cache.emit(Event::Miss);
                resume_panic(task).await
            }
        }
    }

    /// What the call that led a load returns.
    async fn settle<E>(self, result: Answer<V, E>, span: &mut LookupSpan) -> Result<V, E> {
        match self.settled(result, span) {
            Ok(result) => result,
            Err(load) => {
                let miss = Miss { key: self.key.clone(), expected: None, stale: None, detail: () };
                self.load_uncached(load, &miss, &Patience::none()).await
            }
        }
    }
}

impl<V, E> LedLoad<V, E>
where
    V: Serialize + DeserializeOwned + Send + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// Loads in a task of its own: the caller may leave, and the load goes on and is stored all the same, for a while.
    fn begin(self, span: Span) -> LoadTask<Answer<V, E>> {
        let cache = self.ask.cache.clone();
        self.flight.is_in(&span);
        cache.flights().spawn_load(span, |reply_to| self.run(reply_to))
    }

    /// Leads the flight to its end.
    async fn run(self, reply_to: ReplyTo<Answer<V, E>>) {
        let Self { ask, flight, mut miss, load, patience, purpose } = self;
        let mut patience = if ask.lock == Lock::Fleet { patience } else { Patience::none() };
        let asked = &ask;
        let policy = |miss: &Miss| asked.failure_policy(miss);
        let find = || async move { asked.find().await.0 };
        let mut permit = match ask.cache.acquire(flight, &mut miss, &mut patience, policy, find).await {
            AcquireOutcome::Granted(permit) => permit,
            AcquireOutcome::Found(hit) => return reply_to.send(LoadResult::Found(hit)),
            AcquireOutcome::Uncacheable => return reply_to.send(LoadResult::Unshared(load)),
            AcquireOutcome::BackedOff(_) => {
                return reply_to.send(ask.while_backing_off(&miss).unwrap_or(LoadResult::Unshared(load)));
            }
        };
        let place = match ask.place_unless_skipped(purpose) {
            Ok(place) => place,
            Err(Skipped) => return permit.leave_out(),
        };
        let stale =
            miss.stale.as_ref().and_then(|entry| Some(Stale::new(ask.cache.value_of(entry).ok()?, entry.tags())));
        permit.is_for(purpose, &ask.key);
        let demand = || ask.demand(reply_to.is_awaited());
        let began = ask.cache.now();
        let loading = inherit::collect(asked.in_place(place, load(stale)));
        match permit.while_loading(loading, demand).await {
            None => permit.abandon(),
            Some(loaded) => ask.conclude(permit, &miss, loaded, began, reply_to).await,
        }
    }
}
