//! Getting a value, from the cache or from the load that makes it.

use std::{any::Any, fmt, pin::Pin, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout_at;
use tracing::{Instrument as _, Span};

use super::{
    loaded::{Loaded, Stale},
    terms::{Lock, Terms},
    value::{Hit, read, write},
};
use crate::{
    engine::{
        Cache,
        backoff::BackOff,
        fetch::{AcquireOutcome, Followed, Found, Miss},
        flight::{Flight, FlightOutcome, Follower, LoadTask, ReplyTo, Role, resume_panic},
        patience::{LONGEST_PAUSE, Patience},
        permit::{Demand, FailurePolicy, Purpose, WritePermit},
        span::LookupSpan,
    },
    inherit::{self, Reads},
    key::Key,
    store::{Seen, Writes},
    telemetry::{Event, LookupResult, NoCacheReason, Tier},
    throttle::Throttle,
};

/// How long a failing load is left alone where a stale value stands in: after the first failure, and at most.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);

type Loading<V, E> = Pin<Box<dyn Future<Output = Result<Loaded<V>, E>> + Send>>;
pub(super) type Load<V, E> = Box<dyn FnOnce(Option<Stale<V>>) -> Loading<V, E> + Send>;

/// A value that is asked for, from [`Cache::get_or_load`] or [`Cache::get_or_load_with`]; await it.
#[must_use = "nothing is asked for until it is awaited"]
pub struct GetOrLoad<V, E> {
    ask: Ask<V>,
    load: Load<V, E>,
}

/// For how long a value is fresh that says there is nothing, and how to tell.
type Negative<V> = (Duration, fn(&V) -> bool);

/// What is asked for, and on which terms.
struct Ask<V> {
    cache: Cache,
    key: Key,
    terms: Terms,
    lock: Lock,
    negative: Option<Negative<V>>,
    refresh: bool,
}

impl<V, E> GetOrLoad<V, E> {
    pub(super) fn new(cache: Cache, key: Key, load: Load<V, E>) -> Self {
        let ask = Ask { cache, key, terms: Terms::default(), lock: Lock::default(), negative: None, refresh: false };
        Self { ask, load }
    }

    /// How long the value is fresh; five minutes unless set. Zero: it is not kept.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ask.terms.ttl = ttl;
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
    /// value if that load fails, or takes longer than the [lock timeout](crate::CacheBuilder::lock_timeout).
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.ask.terms.stale_while_revalidate = window;
        self
    }

    /// For so long after it ceased to be fresh, the value is used if loading it anew fails; none unless set.
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.ask.terms.stale_if_error = window;
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
        Box::pin(self.ask.answer(self.load))
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

/// What came of a load, for the call that leads it.
enum LoadResult<V, E> {
    /// Another load has brought this.
    Found(Hit<V>),
    Loaded(V, Reads),
    StaleIfError(Hit<V>),
    Failed(E),
    /// The load can't be shared: each call runs its own.
    Unshared(Load<V, E>),
}

/// How a call goes on that waited for another call's load.
enum Next<V, E> {
    Return(Result<V, E>),
    LookAgain,
    LoadUncached,
}

impl<V> Ask<V>
where
    V: Serialize + DeserializeOwned + Send + 'static,
{
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
        let mut patience = self.cache.patience();
        let mut waited = false;
        loop {
            let (found, tier) = self.find().await;
            span.at(tier);
            let miss = match found {
                Found::Fresh(hit) => {
                    self.cache.emit(Event::Hit);
                    self.describe(&hit, waited, &mut span);
                    return Ok(hit.noted());
                }
                Found::Stale(hit, miss) => return self.refresh_stale(hit, miss, load, patience, span).await,
                Found::Missing(miss) => miss,
            };
            if !miss.reached_store() {
                span.unavailable();
            }
            let follower = match self.cache.flights().join(&self.key) {
                Role::Leader(flight) => {
                    let ask = self.clone();
                    let led = LedLoad { ask, flight, miss, load, patience, purpose: Purpose::Answer };
                    return self.lead(led, span).await;
                }
                Role::Follower(_) if self.lock == Lock::Off => return self.load_uncached(load).await,
                Role::Follower(follower) => follower,
            };
            if !waited {
                waited = true;
                self.cache.emit(Event::Coalesced);
            }
            match self.follow(follower, &miss, &mut patience, &mut span).await {
                Next::Return(result) => return result,
                Next::LookAgain => {}
                Next::LoadUncached => return self.load_uncached(load).await,
            }
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
                let purpose = self.cache.purpose_of_refresh(&self.key);
                let led = LedLoad { ask: self.clone(), flight, miss, load, patience, purpose };
                if purpose == Purpose::RetriedRefresh {
                    return self.retry_refresh(led, hit, span).await;
                }
                drop(led.begin(self.cache.background_span(&self.key, &span)));
            }
            Role::Follower(_) => {}
        }
        self.cache.emit(Event::Hit);
        span.found(LookupResult::Stale);
        Ok(hit.noted())
    }

    /// Leads in place of a refresh in the background; `hit` is the value if the load fails or takes too long.
    async fn retry_refresh<E>(self, led: LedLoad<V, E>, hit: Hit<V>, mut span: LookupSpan) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        let end = led.patience.end();
        let task = led.begin(self.cache.load_span(&self.key, &span));
        match timeout_at(end, task.reply_unless_panicked()).await {
            Ok(Ok((LoadResult::Failed(_), _)) | Err(_)) | Err(_) => {
                self.cache.emit(Event::Miss);
                Ok(hit.noted())
            }
            Ok(Ok((result, _))) => self.settle(result, &mut span).await,
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

    /// Says in the lookup's span what was found, and is fresh.
    fn describe(&self, hit: &Hit<V>, waited: bool, span: &mut LookupSpan) {
        span.found(match self.negative {
            Some((_, is_negative)) if is_negative(&hit.value) => LookupResult::Negative,
            _ if waited => LookupResult::Collapsed,
            _ => LookupResult::Hit,
        });
        span.aged(None, Duration::from_millis(hit.entry.load_time()));
    }

    /// The stale value that may be used in place of an error.
    fn stale_if_error(&self, miss: &Miss) -> Option<Hit<V>> {
        let now = self.cache.now();
        let entry = miss.stale.clone().filter(|entry| now < entry.deadlines_at(now).stale_if_error)?;
        read(&entry).map(|value| Hit { value, entry })
    }

    /// Waits for another call's load.
    async fn follow<E: Clone + 'static>(
        &self,
        follower: Follower,
        miss: &Miss,
        patience: &mut Patience,
        span: &mut LookupSpan,
    ) -> Next<V, E> {
        let wait = span.wait_for(&follower);
        let outcome = match follower.follow(wait, patience.deadline(), |_| None::<V>).await {
            Followed::Ended(outcome) => outcome,
            Followed::Joined(_) | Followed::TimedOut => return Next::LoadUncached,
        };
        match outcome {
            // Another call's load may have begun before this call did.
            _ if self.refresh && patience.again(LONGEST_PAUSE, Duration::ZERO).await => Next::LookAgain,
            FlightOutcome::FailedWith(error) => self.failed_together(miss, &error),
            FlightOutcome::Unstored(entries) if !miss.reached_store() => {
                let value = entries.iter().find(|(key, _)| *key == self.key).and_then(|(_, entry)| read(entry));
                let Some(value) = value else { return Next::LoadUncached };
                self.cache.emit(Event::Hit);
                span.found(LookupResult::Collapsed);
                // Its tags are not known to hold.
                inherit::note(|| Reads::new(&self.terms.tags, Some(0)));
                Next::Return(Ok(value))
            }
            FlightOutcome::Stored | FlightOutcome::Unstored(_) | FlightOutcome::Void
                if patience.again(LONGEST_PAUSE, Duration::ZERO).await =>
            {
                Next::LookAgain
            }
            _ => Next::LoadUncached,
        }
    }

    /// The load that was waited for failed.
    fn failed_together<E: Clone + 'static>(&self, miss: &Miss, error: &Arc<dyn Any + Send + Sync>) -> Next<V, E> {
        // A call for the same key with another type of error loads for itself.
        let result = match (self.stale_if_error(miss), error.downcast_ref::<E>()) {
            (Some(hit), _) => Ok(hit.noted()),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => return Next::LoadUncached,
        };
        self.cache.emit(Event::Miss);
        Next::Return(result)
    }

    /// Loads for this one call, and stores nothing.
    async fn load_uncached<E>(self, load: Load<V, E>) -> Result<V, E> {
        self.cache.emit(Event::Miss);
        let (loaded, reads) = inherit::collect(load(None)).await;
        let loaded = loaded?;
        let reads = self.terms_of(&loaded).apply_to(&reads, self.cache.now());
        inherit::note(|| reads);
        Ok(loaded.value)
    }

    /// Leads, and waits for what comes of it.
    async fn lead<E>(self, led: LedLoad<V, E>, mut span: LookupSpan) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
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
    async fn settle<E>(self, result: LoadResult<V, E>, span: &mut LookupSpan) -> Result<V, E> {
        match result {
            LoadResult::Found(hit) => {
                self.describe(&hit, true, span);
                self.cache.emit(Event::Hit);
                Ok(hit.noted())
            }
            LoadResult::Unshared(load) => self.load_uncached(load).await,
            LoadResult::StaleIfError(hit) => {
                self.cache.emit(Event::Miss);
                Ok(hit.noted())
            }
            LoadResult::Loaded(value, reads) => {
                self.cache.emit(Event::Miss);
                inherit::note(|| reads);
                Ok(value)
            }
            LoadResult::Failed(error) => {
                self.cache.emit(Event::Miss);
                Err(error)
            }
        }
    }

    /// Hands out what was loaded, and then stores it.
    async fn keep<E>(
        self,
        permit: Box<WritePermit>,
        loaded: Loaded<V>,
        reads: &Reads,
        reply_to: ReplyTo<LoadResult<V, E>>,
    ) {
        let Self { cache, key, .. } = &self;
        let now = cache.now();
        let terms = self.terms_of(&loaded);
        let reads = terms.apply_to(reads, now);
        let codec = cache.codec();
        let written = terms.settle(&reads, now).map(|settled| (settled, codec.encode(&loaded.value)));
        reply_to.send(LoadResult::Loaded(loaded.value, reads));
        let proven = written.and_then(|((deadlines, tags), value)| {
            // What can't be read back would be stored and loaded again each time, and all calls would wait for it.
            let value = value.and_then(|value| codec.decode::<V>(&value).map(|_| value));
            Ok((value.map_err(|error| unserializable(key, &error))?, deadlines, tags))
        });
        match proven {
            Ok((value, deadlines, tags)) => {
                let entries = vec![(key.clone(), write(key, codec, value, deadlines))];
                permit.commit(Writes { entries, guard: None }, tags).await;
            }
            Err(reason) => permit.uncacheable(reason, None),
        }
    }

    fn terms_of(&self, loaded: &Loaded<V>) -> Terms {
        let mut terms = self.terms.clone();
        if let Some((ttl, _)) = self.negative.filter(|(_, is_negative)| is_negative(&loaded.value)) {
            terms.ttl = ttl;
        }
        loaded.on(terms)
    }
}

impl<V, E> LedLoad<V, E>
where
    V: Serialize + DeserializeOwned + Send + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// Loads in a task of its own: the caller may leave, and the load goes on and is stored all the same, for a while.
    fn begin(self, span: Span) -> LoadTask<LoadResult<V, E>> {
        let cache = self.ask.cache.clone();
        self.flight.is_in(&span);
        cache.flights().spawn_load(span, |reply_to| self.run(reply_to))
    }

    /// Leads the flight to its end.
    async fn run(self, reply_to: ReplyTo<LoadResult<V, E>>) {
        let Self { ask, flight, mut miss, load, patience, purpose } = self;
        let mut patience = if ask.lock == Lock::Fleet { patience } else { Patience::none() };
        let asked = &ask;
        // After a failure, others are left alone for a while where a stale value stands in, and only there.
        let back_off = BackOff::new(FIRST_BACK_OFF, LONGEST_BACK_OFF);
        let policy = |miss: &Miss| FailurePolicy { back_off, heed: asked.stale_if_error(miss).is_some() };
        let find = || async move { asked.find().await.0 };
        let mut permit = match ask.cache.acquire(flight, &mut miss, &mut patience, policy, find).await {
            AcquireOutcome::Granted(permit) => permit,
            AcquireOutcome::Found(hit) => return reply_to.send(LoadResult::Found(hit)),
            AcquireOutcome::Uncacheable => return reply_to.send(LoadResult::Unshared(load)),
            AcquireOutcome::BackedOff(_) => {
                let stale = ask.stale_if_error(&miss);
                return reply_to.send(stale.map_or(LoadResult::Unshared(load), LoadResult::StaleIfError));
            }
        };
        let stale = miss.stale.as_ref().and_then(|entry| Some(Stale::new(read(entry)?, entry.tags())));
        permit.is_for(purpose, &ask.key);
        let demand = || if reply_to.is_awaited() { Demand::Awaited } else { Demand::Unawaited };
        match permit.while_loading(inherit::collect(load(stale)), demand).await {
            None => permit.abandon(),
            Some((Ok(loaded), reads)) => ask.keep(permit, loaded, &reads, reply_to).await,
            Some((Err(error), _)) => {
                ask.cache.emit(Event::NotStored(NoCacheReason::ServiceFailed));
                let stale = ask.stale_if_error(&miss);
                permit.failed_with(Arc::new(error.clone()));
                reply_to.send(stale.map_or(LoadResult::Failed(error), LoadResult::StaleIfError));
            }
        }
    }
}

// Not derived: a value need not be `Clone`.
impl<V> Clone for Ask<V> {
    fn clone(&self) -> Self {
        let Self { cache, key, terms, lock, negative, refresh } = self;
        Self {
            cache: cache.clone(),
            key: key.clone(),
            terms: terms.clone(),
            lock: *lock,
            negative: *negative,
            refresh: *refresh,
        }
    }
}

/// Says, once in a while, why a value is not kept.
fn unserializable(key: &Key, error: &str) -> NoCacheReason {
    static THROTTLE: Throttle = Throttle::new();
    if let Some(kept_back) = THROTTLE.pass() {
        tracing::warn!(%error, ?key, kept_back, "a value can't be written and read back, and is not kept");
    }
    NoCacheReason::Unserializable
}
