//! Getting a value, from the cache or from its load.

use std::{fmt, future::ready, iter::once, pin::Pin, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    pin,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tracing::{Instrument as _, Span};

use super::{
    ask::{Ask, LoadResult, Next, Refresh, Skipped},
    loaded::{Loaded, Stale},
    terms::Lock,
    value::Hit,
};
use crate::{
    engine::{
        Cache,
        backoff::BackOff,
        enclosing::EnclosingLoads,
        flight::{Flight, LoadTask, ReplyTo, Role, resume_panic},
        miss::{AcquireOutcome, Found, Miss},
        patience::Patience,
        permit::Purpose,
        span::LookupSpan,
    },
    inherit::{self, Reads},
    key::Key,
    policy::beta_of,
    store::Seen,
    telemetry::{Event, LookupResult, NoCacheReason, Tier},
};

type Loading<V, E> = Pin<Box<dyn Future<Output = Result<Loaded<V>, E>> + Send>>;
pub(super) type Load<V, E> = Box<dyn FnOnce(Option<Stale<V>>) -> Loading<V, E> + Send>;

/// A call of [`Cache::get_or_load`] or [`Cache::get_or_load_with`]; await it to get the value.
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

    /// How long the value is fresh; five minutes unless set. With zero, it is not stored.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ask.terms.ttl = ttl;
        self
    }

    /// Shortens the freshness of the value at random by up to this share, 0 to 100 per cent, so that values that were loaded
    /// together do not expire together; 0 unless set.
    pub fn jitter(mut self, per_cent: u8) -> Self {
        self.ask.terms.jitter = per_cent.min(100);
        self
    }

    /// Tags by which the value can be [invalidated](Cache::invalidate_tag). It also carries the tags of the values that its
    /// load reads from the cache, and is fresh no longer than these are.
    pub fn tags<T: AsRef<str>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.ask.terms.add_tags(tags);
        self
    }

    /// How long the value is used after its freshness, while it is loaded anew in the background; not at all unless set.
    ///
    /// If a load in the background failed, or its result could not be stored, the next call loads before it returns, or the first
    /// one after the [back-off](Self::failure_backoff) of a failure. That call gets the stale value if its load fails, or takes
    /// longer than the [lock timeout](crate::CacheBuilder::lock_timeout) or a [soft timeout](Self::soft_timeout). A result that is
    /// [not to be stored](Self::stale_if_error) takes the stale value away.
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.ask.terms.stale_while_revalidate = window;
        self
    }

    /// How long the value is used after its freshness, if a new load fails, or takes longer than a
    /// [soft timeout](Self::soft_timeout); not at all unless set.
    ///
    /// A value that was loaded supersedes it even if it is not stored itself: because its freshness is zero, it has too many tags,
    /// or it can't be written. No later call gets the former value.
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.ask.terms.stale_if_error = window;
        self
    }

    /// How long after its freshness the value is kept for its load, which may find that the value
    /// [still holds](Stale::not_modified); only for the two windows above unless set. No call returns it unless its load says so.
    pub fn keep(mut self, window: Duration) -> Self {
        self.ask.terms.keep = window;
        self
    }

    /// Refreshes the value in the background before it is stale, so that no call ever waits for a frequently read value; off
    /// unless set. Each call that finds the value decides by chance whether to refresh (XFetch). The probability rises as the
    /// remaining freshness shrinks, and with the duration of the last load. It is above zero only in the last fifth of a
    /// freshness of a second or more. If several calls decide to refresh, one in the fleet does.
    ///
    /// `beta` sets how early: at 1, a refresh most often begins a few load durations before the end of freshness; a higher
    /// value is earlier, for loads whose duration varies. Zero, a negative number or NaN turns it off.
    pub fn early_refresh(mut self, beta: f32) -> Self {
        self.ask.early = beta_of(beta);
        self
    }

    /// How long the call waits, from its start, if a stale value may be used by [`stale_if_error`](Self::stale_if_error). After
    /// that, the call returns the stale value, and the load continues and is stored for later calls, unless it is a load
    /// [for this call alone](crate::Cache::get_or_load), which ends. Without a limit unless set; without effect if there
    /// is no such value.
    ///
    /// It limits every wait for the new value: for this call's own load, for another call's load, for another process's load,
    /// and for a [place](crate::CacheBuilder::max_loads). The load continues for as long as a load may keep its place, a minute
    /// or twelve [lock timeouts](crate::CacheBuilder::lock_timeout). Each further call in that time waits as long as this one
    /// did.
    pub fn soft_timeout(mut self, limit: Duration) -> Self {
        self.ask.stand_in.soft_timeout = Some(limit);
        self
    }

    /// How long the call waits at most, from its start, whatever it waits for; without a limit unless set. After that, the call
    /// returns the stale value, if one may be used in place of an error, or else the [fallback](Self::fallback), or else
    /// `error`.
    ///
    /// The load [continues as if its caller had left](crate::Cache::get_or_load), and its value is stored if it comes
    /// within [`abandoned_load`](crate::CacheBuilder::abandoned_load).
    ///
    /// A load that can't fail, whose error is [`Infallible`](std::convert::Infallible), has no error for a call that takes too
    /// long: give it an error type. `#[cached]` asks for a function that returns a `Result`.
    pub fn hard_timeout(mut self, limit: Duration, error: E) -> Self {
        self.hard_timeout = Some((limit, error));
        self.ask.stand_in.knows_stale();
        self
    }

    /// The value that the call returns in place of an error, of the load or of the [hard timeout](Self::hard_timeout), if no
    /// stale value may be used. It is not stored, and values that are made from it are not stored either. It is a last resort:
    /// the call still waits for a slow load.
    pub fn fallback(mut self, value: V) -> Self {
        self.ask.stand_in.set_fallback(value);
        self
    }

    /// How long the back-off after a failed load lasts, in all processes with the same store: `first` after one failure,
    /// doubled with each further failure, `longest` at most, and a fifth more or less at random; 1 s and 30 s unless set. Zero
    /// turns it off. During the back-off, calls return a stale value or a [fallback](Self::fallback); calls that have neither
    /// load as usual, and so does a [refresh](Self::refresh). A success ends the back-off, and so does an invalidation of the key.
    pub fn failure_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.ask.back_off = BackOff::new(first, longest);
        self
    }

    /// Which calls share a load; [`Lock::Fleet`] unless set.
    pub fn lock(mut self, lock: Lock) -> Self {
        self.ask.lock = lock;
        self
    }

    /// Loads anew even if there is a fresh value, and stores the result. The present value stays until then; it is gone as well if
    /// the result is not to be stored. A load that has begun since the call did is as good as its own: of refreshes at one time,
    /// most share one.
    ///
    /// A load that began before the call may return what is to be replaced. The call waits for it where any other call would, by
    /// [`lock`](Self::lock), and for as long. Then it overtakes that load, whose value still goes to the call that leads it, but is
    /// not stored any more; the calls that wait for it until its end wait for the newer load. Of the refreshes in a process that waited for the
    /// same load, one overtakes it and is stored; the others load for themselves. If refreshes keep coming while loads take longer
    /// than the [lock timeout](crate::CacheBuilder::lock_timeout), or without a lock, only the last one is stored.
    ///
    /// Nothing is stored if the call is part of a load of the same key, or if the store does not answer. Then a load that began
    /// before is not overtaken, either.
    pub fn refresh(mut self) -> Self {
        self.ask.refresh = Refresh::First;
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
        let Self { ask, load, hard_timeout } = self;
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

/// The result of such a load.
type Answer<V, E> = LoadResult<V, E, Unrun<V, E>>;

/// A load that did not run, and the miss that it is for.
type Unrun<V, E> = (Load<V, E>, Miss);

/// What a load that has its place brings.
enum LoadEnd<V, E> {
    /// Another process has stored this value while the load waited.
    Found(Hit<V>),
    /// The result, what it is made from, when the load began, and the loads that it is part of, with their places.
    Loaded((Result<Loaded<V>, E>, Reads), u64, EnclosingLoads),
}

impl<V> Ask<V>
where
    V: Serialize + DeserializeOwned + Send + 'static,
{
    /// As [`answer`](Self::answer), with the call's timeouts and fallback applied.
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

    /// The result of a call that has reached its hard timeout.
    fn too_late<E>(&self, error: E) -> Result<V, E> {
        match self.stand_in.stale().and_then(|entry| self.usable(&entry)) {
            Some(hit) => Ok(self.stands_in(hit)),
            None => {
                self.cache.emit(Event::Miss);
                Err(error)
            }
        }
    }

    async fn answer<E>(mut self, load: Load<V, E>) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        // Of the task that awaits it, which may be another one than made it.
        self.enclosing = EnclosingLoads::here();
        let lookup = self.cache.lookup_span(&self.key);
        let span = lookup.span();
        self.fetch(load, lookup).instrument(span).await
    }

    async fn fetch<E>(mut self, load: Load<V, E>, mut span: LookupSpan) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        let mut patience = self.patience();
        if self.is_nested() {
            let miss = self.pass_through(&mut span);
            return self.load_uncached(load, &miss, &patience, &mut span).await;
        }
        let mut waited = false;
        loop {
            let (found, tier) = self.find().await;
            span.at(tier);
            let mut miss = match found {
                Found::Fresh(hit) => {
                    self.cache.emit(Event::Hit);
                    self.describe(&hit, waited, &mut span);
                    if self.is_due_early(&hit) {
                        self.refresh_early(&hit, load, patience, &span);
                    } else {
                        self.verify(&hit, load);
                    }
                    return Ok(hit.noted(&self.cache));
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
            let follower = match self.join() {
                Role::Leader(flight) => {
                    let led = LedLoad { ask: self.clone(), flight, miss, load, patience, purpose: Purpose::Answer };
                    return self.lead(led, span).await;
                }
                Role::Follower(_) if self.lock == Lock::Off => {
                    return self.load_uncached(load, &miss, &patience, &mut span).await;
                }
                Role::Follower(follower) => follower,
            };
            if !waited {
                waited = true;
                self.cache.emit(Event::Coalesced);
            }
            match self.follow(follower, &mut miss, &mut patience, &mut span).await {
                Next::Return(result) => return result,
                Next::LookAgain => {}
                Next::LoadUncached => return self.load_uncached(load, &miss, &patience, &mut span).await,
            }
        }
    }

    /// Begins an early refresh of a fresh value, if no other call does.
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

    /// Returns a stale value that may be used, and begins its refresh if no other call does: in the background, or, if the last
    /// background refresh returned nothing, before the call returns.
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
        if !self.is_backing_off()
            && let Role::Leader(flight) = self.cache.flights().join(&self.key)
        {
            self.stand_in.note_stale(&miss);
            let purpose = self.cache.purpose_of_refresh(&self.key);
            let until = patience.end_with_stale();
            let led = LedLoad { ask: self.clone(), flight, miss, load, patience, purpose };
            if purpose == Purpose::RetriedRefresh {
                return self.lead_until(until, led, hit, span).await;
            }
            drop(led.begin(self.cache.background_span(&self.key, &span)));
        }
        self.cache.emit(Event::Hit);
        span.found(LookupResult::Stale);
        Ok(hit.noted(&self.cache))
    }

    /// Leads a load, and waits for its result; returns `hit` if the load panics, or has not ended by `until`, unless the hit has
    /// become too old by then.
    async fn lead_until<E>(self, until: Instant, led: LedLoad<V, E>, hit: Hit<V>, mut span: LookupSpan) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        let task = led.begin(self.cache.load_span(&self.key, &span));
        let replied = match task.reply_by(until).await {
            Ok(replied) => replied,
            Err(task) if self.is_usable(&hit.entry) => {
                self.cache.flights().leave_to_later(task, self.cache.longest_load(), |_| ready(()));
                return Ok(self.stands_in(hit));
            }
            Err(task) => task.reply_unless_panicked().await,
        };
        match replied {
            Ok((result, _)) => self.settle(result, &mut span).await,
            Err(_) if self.is_usable(&hit.entry) => Ok(self.stands_in(hit)),
            Err(task) => self.panics(task).await,
        }
    }

    /// Resumes the panic of the load that the call led.
    async fn panics<T>(&self, task: JoinHandle<()>) -> T {
        self.cache.emit(Event::Miss);
        resume_panic(task).await
    }

    async fn find(&self) -> (Found<Hit<V>>, Tier) {
        if self.is_refresh() {
            let key = self.key.clone();
            let miss = Miss { key, expected: Some(Seen::Unusable), stale: None, detail: () };
            return (Found::Missing(miss), Tier::None);
        }
        self.cache.find(&self.key).await
    }

    /// Loads for this one call, and stores nothing.
    async fn load_uncached<E>(
        &self,
        load: Load<V, E>,
        miss: &Miss,
        patience: &Patience,
        span: &mut LookupSpan,
    ) -> Result<V, E> {
        let stale = self.stale_if_slow(miss, patience);
        let loading = self.load_alone(load, miss);
        pin!(loading);
        let brought = match stale {
            None => loading.await,
            Some((hit, until)) => match timeout_at(until, &mut loading).await {
                Ok(brought) => brought,
                Err(_) if self.is_usable(&hit.entry) => return Ok(self.stands_in(hit)),
                Err(_) => loading.await,
            },
        };
        match brought {
            LoadEnd::Found(hit) => {
                self.cache.emit(Event::Hit);
                self.describe(&hit, true, span);
                Ok(hit.noted(&self.cache))
            }
            LoadEnd::Loaded((loaded, reads), ..) => self.unshared(loaded, &reads, miss),
        }
    }

    async fn load_alone<E>(&self, load: Load<V, E>, miss: &Miss) -> LoadEnd<V, E> {
        let former = self.former(miss);
        let (enclosing, has_waited) = self.placed(self.place_alone()).await;
        if has_waited && let Some(hit) = self.found_meanwhile(miss).await {
            return LoadEnd::Found(hit);
        }
        self.load_in(enclosing, load, former).await
    }

    /// The value that another load has stored while this one waited for its place.
    async fn found_meanwhile(&self, miss: &Miss) -> Option<Hit<V>> {
        if self.is_refresh() || !miss.reached_store() {
            return None;
        }
        match self.find().await.0 {
            Found::Fresh(hit) => Some(hit),
            Found::Stale(..) | Found::Missing(_) => None,
        }
    }

    /// Loads, as part of these loads.
    async fn load_in<E>(&self, enclosing: EnclosingLoads, load: Load<V, E>, former: Option<Stale<V>>) -> LoadEnd<V, E> {
        let began = self.cache.now();
        let within = enclosing.clone().loading(&self.cache, once(&self.key));
        let loaded = inherit::collect(within.hold(async { load(former).await })).await;
        LoadEnd::Loaded(loaded, began, enclosing)
    }

    /// Leads a load, and waits for its result.
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
            Err(task) => self.panics(task).await,
        }
    }

    /// The result of the call that led a load.
    async fn settle<E>(self, result: Answer<V, E>, span: &mut LookupSpan) -> Result<V, E> {
        match self.settled(result, span) {
            Ok(result) => result,
            Err((load, miss)) => self.load_uncached(load, &miss, &Patience::none(), span).await,
        }
    }
}

impl<V, E> LedLoad<V, E>
where
    V: Serialize + DeserializeOwned + Send + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// Loads in a task of its own: if the caller leaves, the load continues for a while, and is stored.
    fn begin(self, span: Span) -> LoadTask<Answer<V, E>> {
        let cache = self.ask.cache.clone();
        self.flight.set_span(&span);
        cache.flights().spawn_load(span, |reply_to| self.run(reply_to))
    }

    /// Leads the flight to its end.
    async fn run(self, reply_to: ReplyTo<Answer<V, E>>) {
        let Self { ask, flight, mut miss, load, patience, purpose } = self;
        let ask = ask.loads_for(purpose);
        let mut patience = if ask.lock == Lock::Fleet { patience } else { Patience::none() };
        let asked = &ask;
        let policy = |miss: &Miss| asked.failure_policy(miss);
        let find = || async move { asked.find().await.0 };
        let mut permit = match ask.cache.acquire(flight, &mut miss, &mut patience, policy, find).await {
            AcquireOutcome::Granted(permit) => permit,
            AcquireOutcome::Found(hit) => return reply_to.send(LoadResult::Found(hit)),
            AcquireOutcome::Uncacheable => return reply_to.send(LoadResult::Unshared((load, miss))),
            AcquireOutcome::BackedOff(_) => {
                return reply_to.send(ask.while_backing_off(&miss.clone(), (load, miss)));
            }
        };
        if !permit.is_useful(purpose) {
            return permit.leave_out();
        }
        let place = match ask.place(once(purpose), once(&mut *permit)) {
            Ok(place) => place,
            Err(Skipped) => return permit.leave_out(),
        };
        let former = ask.former(&miss);
        permit.set_purpose(purpose, &ask.key);
        let demand = || ask.demand(reply_to.is_awaited());
        let loads_elsewhere = permit.refusal() == Some(NoCacheReason::WaitedTooLong);
        let loading = async {
            let (enclosing, has_waited) = asked.placed(place).await;
            if has_waited
                && loads_elsewhere
                && let Some(hit) = asked.found_meanwhile(&miss).await
            {
                return LoadEnd::Found(hit);
            }
            asked.load_in(enclosing, load, former).await
        };
        match permit.while_loading(loading, demand).await {
            None => permit.abandon(),
            Some(LoadEnd::Found(hit)) => {
                permit.found();
                reply_to.send(LoadResult::Found(hit));
            }
            // The load keeps its place until its result is stored: the next load may look for that.
            Some(LoadEnd::Loaded(loaded, began, _place)) => ask.conclude(permit, &miss, loaded, began, reply_to).await,
        }
    }
}
