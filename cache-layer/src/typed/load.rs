//! Getting a value, from the cache or from whoever makes it.

use std::{any::Any, fmt, pin::Pin, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::oneshot, time::timeout_at};
use tracing::{Instrument as _, Span};

use super::{
    loaded::{Loaded, Stale},
    terms::{Lock, Terms},
    value::{Found, Hit, Vacancy, read, write},
};
use crate::{
    engine::{
        Cache,
        backoff::BackOff,
        flight::{Flight, Landing, Seat},
        patience::{LONGEST_PAUSE, Patience},
        permit::{Caution, Demand, Permission, Permit},
        span::{Look, in_span},
    },
    inherit::{self, Reads},
    key::Key,
    store::Writes,
    telemetry::{Event, LookupResult, NoCacheReason, Release, Tier},
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

/// What came of a load, for the one who leads it.
enum Led<V, E> {
    Found(Hit<V>),
    Loaded(V, Reads),
    StandsIn(Hit<V>),
    Failed(E),
    /// This load can't be shared: everybody runs their own.
    Alone(Load<V, E>),
}

impl<V> Ask<V>
where
    V: Serialize + DeserializeOwned + Send + 'static,
{
    async fn answer<E>(self, load: Load<V, E>) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        let look = self.cache.look(&self.key);
        let span = look.span();
        self.answer_looking(load, look).instrument(span).await
    }

    async fn answer_looking<E>(self, load: Load<V, E>, mut look: Look) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        let mut patience = self.cache.patience();
        let mut waits = false;
        loop {
            let (found, tier) = self.find().await;
            look.at(tier);
            let vacancy = match found {
                Found::Fresh(hit) => {
                    self.cache.emit(Event::Hit);
                    self.found(&hit, waits, &mut look);
                    return Ok(hit.noted());
                }
                Found::Usable(hit, vacancy) => {
                    self.cache.emit(Event::Hit);
                    look.found(LookupResult::Stale);
                    if let Seat::Leader(flight) = self.cache.flights().board(&self.key) {
                        let span = self.cache.background_span(&self.key, &look);
                        self.begin(flight, vacancy, load, patience, true, span);
                    }
                    return Ok(hit.noted());
                }
                Found::Nothing(vacancy) => vacancy,
            };
            if vacancy.seen.is_none() {
                look.unavailable();
            }
            let follower = match self.cache.flights().board(&self.key) {
                Seat::Leader(flight) => return self.lead(flight, vacancy, load, patience, look).await,
                Seat::Follower(_) if self.lock == Lock::Off => return self.go_alone(load).await,
                Seat::Follower(follower) => follower,
            };
            if !waits {
                waits = true;
                self.cache.emit(Event::Coalesced);
            }
            let wait = look.wait_for(&follower);
            let landing = timeout_at(patience.deadline(), follower.landing()).await;
            wait.ended(landing.as_ref().map_or(Release::WaitTimeout, Landing::release));
            match landing {
                // Another one's load may have begun before this call did.
                Ok(_) if self.refresh && patience.again(LONGEST_PAUSE, Duration::ZERO).await => {}
                Ok(Landing::FailedWith(error)) => return self.fail_together(&vacancy, error, load).await,
                Ok(Landing::Unstored(entries)) if vacancy.seen.is_none() => {
                    match entries.iter().find(|(key, _)| *key == self.key).and_then(|(_, entry)| read(entry)) {
                        Some(value) => {
                            self.cache.emit(Event::Hit);
                            look.found(LookupResult::Collapsed);
                            // Its tags are not known to hold.
                            inherit::note(|| Reads::new(&self.terms.tags, Some(0)));
                            return Ok(value);
                        }
                        None => return self.go_alone(load).await,
                    }
                }
                Ok(Landing::Stored | Landing::Unstored(_) | Landing::Void)
                    if patience.again(LONGEST_PAUSE, Duration::ZERO).await => {}
                Ok(_) | Err(_) => return self.go_alone(load).await,
            }
        }
    }

    async fn find(&self) -> (Found<V>, Tier) {
        if self.refresh { (Found::Nothing(Vacancy::UNSEEN), Tier::None) } else { self.cache.find(&self.key).await }
    }

    /// What was found is fresh.
    fn found(&self, hit: &Hit<V>, waited: bool, look: &mut Look) {
        look.found(match self.negative {
            Some((_, is_negative)) if is_negative(&hit.value) => LookupResult::Negative,
            _ if waited => LookupResult::Collapsed,
            _ => LookupResult::Hit,
        });
        look.aged(None, Duration::from_millis(hit.entry.load_time()));
    }

    /// The stale value that may be used in place of an error.
    fn stands_in(&self, vacancy: &Vacancy) -> Option<Hit<V>> {
        let now = self.cache.now();
        let entry = vacancy.stale.clone().filter(|entry| now < entry.deadlines_at(now).stale_if_error)?;
        read(&entry).map(|value| Hit { value, entry })
    }

    /// The load that was waited for failed.
    async fn fail_together<E: Clone + 'static>(
        self,
        vacancy: &Vacancy,
        error: Arc<dyn Any + Send + Sync>,
        load: Load<V, E>,
    ) -> Result<V, E> {
        let stale = self.stands_in(vacancy);
        // Who asks for the same key with another type of error loads for itself.
        match (stale, error.downcast_ref::<E>().cloned()) {
            (Some(hit), _) => {
                self.cache.emit(Event::Miss);
                Ok(hit.noted())
            }
            (None, Some(error)) => {
                self.cache.emit(Event::Miss);
                Err(error)
            }
            (None, None) => self.go_alone(load).await,
        }
    }

    /// Loads for this one caller, and keeps nothing.
    async fn go_alone<E>(self, load: Load<V, E>) -> Result<V, E> {
        self.cache.emit(Event::Miss);
        let (loaded, reads) = inherit::collect(load(None)).await;
        let loaded = loaded?;
        let reads = self.terms_of(&loaded).apply_to(&reads, self.cache.now());
        inherit::note(|| reads);
        Ok(loaded.value)
    }

    /// Loads in a task of its own: its caller may leave, and it goes on and is stored all the same, for a while. Or nobody
    /// waits for it from the beginning, `in_background`.
    fn begin<E>(
        self,
        flight: Flight,
        vacancy: Vacancy,
        load: Load<V, E>,
        patience: Patience,
        in_background: bool,
        span: Span,
    ) -> (oneshot::Receiver<Led<V, E>>, tokio::task::JoinHandle<()>)
    where
        E: Clone + Send + Sync + 'static,
    {
        let (tell, told) = oneshot::channel();
        let cache = self.cache.clone();
        flight.is_in(&span);
        let task = cache.spawn(in_span(self.load(flight, vacancy, load, patience, in_background, tell), span));
        (told, task)
    }

    async fn lead<E>(
        self,
        flight: Flight,
        vacancy: Vacancy,
        load: Load<V, E>,
        patience: Patience,
        mut look: Look,
    ) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        let alone = self.again();
        let cache = self.cache.clone();
        let span = cache.load_span(&self.key, &look);
        let (told, task) = self.begin(flight, vacancy, load, patience, false, span);
        let led = told.await;
        let event = match &led {
            Ok(Led::Found(hit)) => {
                alone.found(hit, true, &mut look);
                Event::Hit
            }
            _ => Event::Miss,
        };
        if !matches!(led, Ok(Led::Alone(_))) {
            cache.emit(event);
        }
        match led {
            Ok(Led::Found(hit) | Led::StandsIn(hit)) => Ok(hit.noted()),
            Ok(Led::Loaded(value, reads)) => {
                inherit::note(|| reads);
                Ok(value)
            }
            Ok(Led::Failed(error)) => Err(error),
            Ok(Led::Alone(load)) => alone.go_alone(load).await,
            Err(_) => {
                // A panic goes on where it would have without a cache.
                if let Some(panic) = task.await.err().and_then(|error| error.try_into_panic().ok()) {
                    std::panic::resume_unwind(panic);
                }
                // The runtime is shutting down, and this task with it.
                std::future::pending().await
            }
        }
    }

    /// Leads `flight` to its end.
    async fn load<E>(
        self,
        flight: Flight,
        mut vacancy: Vacancy,
        load: Load<V, E>,
        patience: Patience,
        in_background: bool,
        tell: oneshot::Sender<Led<V, E>>,
    ) where
        E: Clone + Send + Sync + 'static,
    {
        let mut patience = if self.lock == Lock::Fleet { patience } else { Patience::none() };
        let mut flight = flight;
        let mut permit = loop {
            let Some(seen) = vacancy.seen else { break self.cache.load_without_store(flight) };
            // After a failure, others are left alone for a while where a stale value stands in, and only there.
            let caution = Caution {
                back_off: BackOff::new(FIRST_BACK_OFF, LONGEST_BACK_OFF),
                heeds: self.stands_in(&vacancy).is_some(),
            };
            match self.cache.ask_to_load(flight, &self.key, seen, &mut patience, caution).await {
                Permission::Load(permit) => break permit,
                Permission::Uncacheable => {
                    let _ = tell.send(Led::Alone(load));
                    return;
                }
                Permission::BackedOff(_) => {
                    let stands_in = self.stands_in(&vacancy);
                    let _ = tell.send(stands_in.map_or(Led::Alone(load), Led::StandsIn));
                    return;
                }
                Permission::LookAgain(again) => flight = again,
            }
            vacancy = match self.find().await.0 {
                Found::Fresh(hit) => {
                    flight.land(Landing::Stored);
                    let _ = tell.send(Led::Found(hit));
                    return;
                }
                Found::Usable(_, vacancy) | Found::Nothing(vacancy) => vacancy,
            };
        };
        let stale = vacancy.stale.as_ref().and_then(|entry| Some(Stale::new(read(entry)?, entry.tags())));
        if in_background {
            permit.in_background(&self.key);
        }
        let demand = || if tell.is_closed() { Demand::Unawaited } else { Demand::Awaited };
        let Some(came) = permit.while_loading(inherit::collect(load(stale)), demand).await else {
            return permit.abandon();
        };
        match came {
            (Ok(loaded), reads) => self.keep(permit, loaded, &reads, tell).await,
            (Err(error), _) => {
                self.cache.emit(Event::NotStored(NoCacheReason::ServiceFailed));
                let stands_in = self.stands_in(&vacancy);
                permit.failed_with(Arc::new(error.clone()));
                let _ = tell.send(stands_in.map_or(Led::Failed(error), Led::StandsIn));
            }
        }
    }

    /// Hands out what was loaded, and then stores it.
    async fn keep<E>(self, permit: Permit, loaded: Loaded<V>, reads: &Reads, tell: oneshot::Sender<Led<V, E>>) {
        let Self { cache, key, .. } = &self;
        let now = cache.now();
        let terms = self.terms_of(&loaded);
        let reads = terms.apply_to(reads, now);
        let codec = cache.codec();
        let written = terms.settle(&reads, now).map(|settled| (settled, codec.encode(&loaded.value)));
        let _ = tell.send(Led::Loaded(loaded.value, reads));
        let proven = written.and_then(|((deadlines, tags), value)| {
            // What nobody could read would be stored and loaded again each time, and all would wait for it.
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

    fn again(&self) -> Self {
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
