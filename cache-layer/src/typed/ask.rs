//! What a call asks for, on which terms, and how its load ends.

use std::{any::Any, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use smallvec::smallvec;
use tokio::time::Instant;

use super::{
    loaded::{Loaded, Stale},
    stand_in::StandIn,
    terms::{Lock, Terms},
    value::{Hit, write},
};
use crate::{
    clock::deadline,
    engine::{
        Cache,
        backoff::BackOff,
        early::{Life, is_due},
        enclosing::EnclosingLoads,
        flight::{FlightOutcome, FollowedFlight, Follower, LentPlace, ReplyTo, Role, first_lent},
        load_limit::{LoadLimit, LoadPermit, WaitForPlace},
        miss::{Followed, Miss},
        patience::{LONGEST_PAUSE, Patience},
        permit::{Demand, FailurePolicy, Purpose, WritePermit},
        span::LookupSpan,
    },
    entry::Entry,
    inherit::{self, Reads},
    key::Key,
    store::{Seen, Writes},
    telemetry::{Event, LookupResult, Named, NoCacheReason},
    throttle::Throttle,
};

/// How long the back-off lasts unless set: after the first failure, and at most.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);

/// How long a negative value (such as `None`) is fresh, and the test for one.
pub(super) type Negative<V> = (Duration, fn(&V) -> bool);

/// Whether a call loads anew, even if there is a fresh value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Refresh {
    #[default]
    No,
    /// It does; a load under way may have begun before the call did.
    First,
    /// It has waited for a load: one that it finds under way now has begun since, and is as good as its own.
    Waited,
    /// The same, but a load from before the call may still hold the lease: the call ends that, unless another refresh does.
    Overtakes,
}

/// The key that a call asks for, and the terms.
pub(super) struct Ask<V> {
    pub(super) cache: Cache,
    pub(super) key: Key,
    pub(super) terms: Terms,
    pub(super) lock: Lock,
    pub(super) negative: Option<Negative<V>>,
    pub(super) refresh: Refresh,
    pub(super) early: Option<f32>,
    pub(super) back_off: Option<BackOff>,
    pub(super) stand_in: StandIn<V>,
    /// The loads that the call is part of.
    pub(super) enclosing: EnclosingLoads,
}

/// The result of a load, for the call that leads it. `L` is the load function, where each call has its own.
pub(super) enum LoadResult<V, E, L> {
    /// Another load has stored this value meanwhile.
    Found(Hit<V>),
    Loaded(V, Reads),
    /// The load failed, or would have to wait for too long; this stale value is used.
    StaleIfError(Hit<V>),
    /// The load is in back-off after a failure. The call uses its fallback; without one, it runs its load by itself.
    BackedOff(L),
    Failed(E),
    /// The load can't be shared: each call runs its own.
    Unshared(L),
}

/// The place of a load, if loads are limited.
pub(super) enum Place {
    Taken(LoadPermit),
    /// The load waits for a place. Followers may lend theirs.
    Awaited(Arc<WaitForPlace>, Vec<LentPlace>),
}

/// A background refresh was skipped, because no place is free; a later call will refresh.
pub(super) struct Skipped;

/// How a call continues after it waited for another call's load.
pub(super) enum Next<V, E> {
    Return(Result<V, E>),
    LookAgain,
    LoadUncached,
}

impl<V> Ask<V> {
    pub(super) fn new(cache: Cache, key: Key) -> Self {
        Self {
            cache,
            key,
            terms: Terms::default(),
            lock: Lock::default(),
            negative: None,
            refresh: Refresh::No,
            early: None,
            back_off: BackOff::new(FIRST_BACK_OFF, LONGEST_BACK_OFF),
            stand_in: StandIn::default(),
            enclosing: EnclosingLoads::default(),
        }
    }

    /// The same terms for another key.
    pub(super) fn of(&self, key: Key) -> Self {
        let Self { cache, key: _, terms, lock, negative, refresh, early, back_off, stand_in, enclosing } = self;
        Self {
            cache: cache.clone(),
            key,
            terms: terms.clone(),
            lock: *lock,
            negative: *negative,
            refresh: *refresh,
            early: *early,
            back_off: *back_off,
            stand_in: stand_in.clone(),
            enclosing: enclosing.clone(),
        }
    }

    /// How long the call waits, from now on.
    pub(super) fn patience(&self) -> Patience {
        self.cache.patience().with_soft_timeout(self.stand_in.soft_timeout)
    }

    /// How its load treats failures, and other loads. A back-off applies only where a stale value or a fallback can be returned,
    /// and not to a refresh.
    pub(super) fn failure_policy(&self, miss: &Miss) -> FailurePolicy
    where
        V: DeserializeOwned + 'static,
    {
        FailurePolicy {
            back_off: self.back_off,
            heed: !self.is_refresh() && (self.stand_in.has_fallback() || self.stale_if_error(miss).is_some()),
            anew: false,
            overtakes: matches!(self.refresh, Refresh::First | Refresh::Overtakes),
        }
    }

    /// The same for a load with this purpose: in the background, it is no part of the load that the call is part of.
    pub(super) fn loads_for(mut self, purpose: Purpose) -> Self {
        if purpose.is_in_background() {
            self.enclosing = EnclosingLoads::default();
        }
        self
    }

    /// Whether the call loads anew, even if there is a fresh value.
    pub(super) fn is_refresh(&self) -> bool {
        self.refresh != Refresh::No
    }

    /// Joins the flight of the key. A refresh that waits for no other call overtakes the load under way.
    pub(super) fn join(&mut self) -> Role {
        loop {
            let flights = self.cache.flights();
            let role = match self.refresh {
                Refresh::Overtakes => flights.join_overtaking(&self.key),
                Refresh::No | Refresh::First | Refresh::Waited => flights.join(&self.key),
            };
            match role {
                Role::Follower(follower) if self.lock == Lock::Off && self.overtake(&follower.flight()) => {}
                role => return role,
            }
        }
    }

    /// Overtakes the load of a flight, if that may be from before this refresh: the refresh will lead another one, and end the
    /// lease of the former. Says whether it does.
    fn overtake(&mut self, flight: &FollowedFlight) -> bool {
        let may_be_former = match self.refresh {
            Refresh::No | Refresh::Waited => false,
            Refresh::First => true,
            // Another call was faster to lead. If it is no refresh that overtakes, it may wait for the former lease.
            Refresh::Overtakes => !flight.overtakes(),
        };
        if may_be_former {
            self.cache.flights().leave(&self.key, flight);
            self.refresh = Refresh::Overtakes;
        }
        may_be_former
    }

    /// Whether the call is part of a load of the same value, and so must not wait for that.
    pub(super) fn is_nested(&self) -> bool {
        self.enclosing.are_loading(&self.cache, &self.key)
    }

    /// Reports that a call is answered without the cache, because it [is nested](Self::is_nested). Returns its miss.
    pub(super) fn pass_through(&self, span: &mut LookupSpan) -> Miss {
        let reason = NoCacheReason::Nested;
        span.bypassed(reason);
        self.cache.emit(Event::Bypass(reason));
        if self.cache.is_told_names() {
            self.cache.tell(&Named::Bypass { key: Some(&self.key), reason });
        }
        Miss { key: self.key.clone(), expected: None, stale: None, detail: () }
    }

    /// Whether the call is part of a load with a place among the loads of its cache.
    pub(super) fn is_placed(&self) -> bool {
        self.enclosing.place_at(self.cache.load_limit()).is_some()
    }

    /// The limit at which a load of the call needs a place.
    fn limit(&self) -> LoadLimit {
        self.enclosing.not_placed_at(self.cache.load_limit())
    }

    /// The place of a load; one in the background does not wait for any. The load is for one key of each purpose, all of them in
    /// the background, or none, and has these permits.
    pub(super) fn place<'p>(
        &self,
        purposes: impl Iterator<Item = Purpose> + Clone,
        permits: impl Iterator<Item = &'p mut WritePermit>,
    ) -> Result<Place, Skipped> {
        let place = self.limit().take().map(Place::Taken);
        if !purposes.clone().any(Purpose::is_in_background) {
            return Ok(place.unwrap_or_else(|| {
                let permits: Vec<_> = permits.collect();
                let wait = Arc::new(WaitForPlace::of(permits.len()));
                let lent = permits.into_iter().map(|permit| permit.waits_for_place(wait.clone())).collect();
                Place::Awaited(wait, lent)
            }));
        }
        for purpose in purposes {
            match place {
                None => self.cache.emit(Event::RefreshSkipped),
                Some(_) if purpose == Purpose::EarlyRefresh => self.cache.emit(Event::EarlyRefresh),
                Some(_) => {}
            }
        }
        place.ok_or(Skipped)
    }

    /// The place of a load for this call alone.
    pub(super) fn place_alone(&self) -> Place {
        let awaited = || Place::Awaited(Arc::new(WaitForPlace::of(1)), Vec::new());
        self.limit().take().map_or_else(awaited, Place::Taken)
    }

    /// The loads that the code of a load is part of, once it has its place, without what it loads; and whether it had to wait.
    pub(super) async fn placed(&self, place: Place) -> (EnclosingLoads, bool) {
        let limit = self.limit();
        let (place, has_waited) = match place {
            Place::Taken(place) => (place, false),
            // Boxed, so that the future of a load that need not wait stays small.
            Place::Awaited(wait, lent) => (Box::pin(self.wait_for_place(&limit, &wait, lent)).await, true),
        };
        (self.enclosing.clone().placed(&limit, place), has_waited)
    }

    /// Waits for a place among the loads that may run at one time: until one becomes free, or a follower lends its own. If there
    /// is none for as long as a load may keep its place, the load goes ahead without.
    async fn wait_for_place(&self, limit: &LoadLimit, wait: &WaitForPlace, lent: Vec<LentPlace>) -> LoadPermit {
        let deadline = deadline(self.cache.longest_load());
        limit.wait_or_borrow(deadline, wait, first_lent(lent)).await.unwrap_or_else(|| {
            static THROTTLE: Throttle = Throttle::new();
            if let Some(kept_back) = THROTTLE.pass() {
                let key = self.cache.key_for_logs(&self.key);
                tracing::warn!(%key, kept_back, "a load has waited in vain for a place, and goes ahead");
            }
            LoadPermit::default()
        })
    }

    /// The former value, for the load.
    pub(super) fn former(&self, miss: &Miss) -> Option<Stale<V>>
    where
        V: DeserializeOwned + 'static,
    {
        let entry = miss.stale.as_ref()?;
        Some(Stale::new(self.cache.value_of(entry).ok()?, entry.tags()))
    }

    /// The demand for a load: `awaited` says whether the call that leads it waits for it.
    pub(super) fn demand(&self, awaited: bool) -> Demand {
        match awaited {
            true => Demand::Awaited,
            false if self.cache.load_limit().is_contended() => Demand::Contended,
            false => Demand::Unawaited,
        }
    }

    /// The terms of a value that was loaded.
    pub(super) fn terms_of(&self, loaded: &Loaded<V>) -> Terms {
        let mut terms = self.terms.clone();
        if let Some((ttl, _)) = self.negative.filter(|(_, is_negative)| is_negative(&loaded.value)) {
            terms.ttl = ttl;
        }
        loaded.on(terms)
    }

    /// Records in the look-up's span that a fresh value was found.
    pub(super) fn describe(&self, hit: &Hit<V>, waited: bool, span: &mut LookupSpan) {
        span.found(match self.negative {
            Some((_, is_negative)) if is_negative(&hit.value) => LookupResult::Negative,
            _ if waited => LookupResult::Collapsed,
            _ => LookupResult::Hit,
        });
        span.answered_by(&hit.entry, || None);
    }

    /// Whether a fresh value is to be refreshed by this call.
    pub(super) fn is_due_early(&self, hit: &Hit<V>) -> bool {
        let Some(beta) = self.early else { return false };
        let now = self.cache.now();
        let life = Life {
            lifetime: hit.entry.deadlines().fresh.saturating_sub(hit.entry.deadlines().made),
            left: hit.entry.deadlines_at(now).fresh.saturating_sub(now),
            load_time: hit.entry.load_time(),
        };
        is_due(beta, life, fastrand::f64) && self.cache.recent_failure(&self.key).is_none()
    }

    /// The fallback after a failure. Values that are made from it are not stored.
    pub(super) fn fallback(&self) -> Option<V> {
        let value = self.stand_in.take_fallback()?;
        inherit::note(|| Reads::new(&self.terms.tags, Some(0)));
        Some(value)
    }

    /// The stale value that may be used in place of an error.
    pub(super) fn stale_if_error(&self, miss: &Miss) -> Option<Hit<V>>
    where
        V: DeserializeOwned + 'static,
    {
        self.usable(miss.stale.as_ref()?)
    }

    /// The value of an entry, if it may be used in place of an error.
    pub(super) fn usable(&self, entry: &Entry) -> Option<Hit<V>>
    where
        V: DeserializeOwned + 'static,
    {
        if !self.is_usable(entry) {
            return None;
        }
        self.cache.value_of(entry).ok().map(|value| Hit { value, entry: entry.clone() })
    }

    /// Whether an entry may be used in place of an error: to be asked again at the end of each wait.
    pub(super) fn is_usable(&self, entry: &Entry) -> bool {
        let now = self.cache.now();
        now < entry.deadlines_at(now).stale_if_error
    }

    /// Whether this process knows of a back-off that prevents a refresh of a stale value.
    pub(super) fn is_backing_off(&self) -> bool {
        self.back_off.is_some() && self.cache.recent_failure(&self.key).is_some()
    }

    /// The result of a `load` that did not run, because of a back-off. A fallback is taken only by the call itself, whose hard
    /// timeout may come before this result.
    pub(super) fn while_backing_off<E, L>(&self, miss: &Miss, load: L) -> LoadResult<V, E, L>
    where
        V: DeserializeOwned + 'static,
    {
        match self.stale_if_error(miss) {
            Some(hit) => {
                self.cache.emit(Event::BackedOff);
                LoadResult::StaleIfError(hit)
            }
            None => LoadResult::BackedOff(load),
        }
    }

    /// The value that is returned during a back-off, if this process knows of the back-off without asking the store.
    pub(super) fn left_alone(&self, miss: &Miss) -> Option<V>
    where
        V: DeserializeOwned + 'static,
    {
        let may_stand_in = miss.stale.is_some() || self.stand_in.has_fallback();
        if self.is_refresh() || !may_stand_in || self.back_off.is_none() {
            return None;
        }
        self.cache.recent_failure(&self.key)?;
        let value = match self.stale_if_error(miss) {
            Some(hit) => self.stands_in(hit),
            None => {
                let value = self.fallback()?;
                self.cache.emit(Event::Miss);
                value
            }
        };
        self.cache.emit(Event::BackedOff);
        Some(value)
    }

    /// The result of a call that has loaded for itself alone.
    pub(super) fn unshared<E>(&self, loaded: Result<Loaded<V>, E>, reads: &Reads, miss: &Miss) -> Result<V, E>
    where
        V: DeserializeOwned + 'static,
    {
        if let (Err(_), Some(hit)) = (&loaded, self.stale_if_error(miss)) {
            return Ok(self.stands_in(hit));
        }
        if !self.is_nested() {
            self.cache.emit(Event::Miss);
        }
        let loaded = loaded?;
        let reads = self.terms_of(&loaded).apply_to(reads, self.cache.moment());
        inherit::note(|| reads);
        Ok(loaded.value)
    }

    /// The result of the call that led a load; or its load function, if the call has to run it alone.
    pub(super) fn settled<E, L>(&self, result: LoadResult<V, E, L>, span: &mut LookupSpan) -> Result<Result<V, E>, L> {
        let (result, reads) = match result {
            LoadResult::Found(hit) => {
                self.describe(&hit, true, span);
                self.cache.emit(Event::Hit);
                return Ok(Ok(hit.noted(&self.cache)));
            }
            LoadResult::Unshared(load) => return Err(load),
            LoadResult::StaleIfError(hit) => return Ok(Ok(self.stands_in(hit))),
            LoadResult::Loaded(value, reads) => (Ok(value), reads),
            LoadResult::BackedOff(load) => {
                let Some(value) = self.stand_in.take_fallback() else { return Err(load) };
                self.cache.emit(Event::BackedOff);
                (Ok(value), Reads::new(&self.terms.tags, Some(0)))
            }
            LoadResult::Failed(error) => (Err(error), Reads::default()),
        };
        self.cache.emit(Event::Miss);
        inherit::note(|| reads);
        Ok(result)
    }

    /// The stale value that is used if a load is slow, and from when on.
    pub(super) fn stale_if_slow(&self, miss: &Miss, patience: &Patience) -> Option<(Hit<V>, Instant)>
    where
        V: DeserializeOwned + 'static,
    {
        patience.soft_deadline().and_then(|deadline| Some((self.stale_if_error(miss)?, deadline)))
    }

    /// Returns a stale value in place of an error.
    pub(super) fn stands_in(&self, hit: Hit<V>) -> V {
        self.cache.emit(Event::Miss);
        hit.noted(&self.cache)
    }

    /// Waits for another call's load.
    pub(super) async fn follow<E: Clone + 'static>(
        &mut self,
        mut follower: Follower,
        miss: &mut Miss,
        patience: &mut Patience,
        span: &mut LookupSpan,
    ) -> Next<V, E>
    where
        V: DeserializeOwned + 'static,
    {
        let (wait, flight) = (span.wait_for(&follower), follower.flight());
        let stale = self.stale_if_slow(miss, patience);
        let soft = stale.as_ref().map(|(_, soft)| *soft);
        let deadline = soft.map_or(patience.deadline(), |soft| patience.deadline().min(soft));
        // The load may wait for the very place that this call has.
        let place = self.enclosing.place_at(self.cache.load_limit());
        if let Some(place) = place {
            follower.lend(place.clone());
        }
        // If the call loaded by itself, it would have to wait for a place, behind the load that it waits for now. It looks now and
        // then whether that is so.
        let queues = || soft.is_none() && place.is_none() && self.cache.load_limit().is_full();
        let longest = deadline + self.cache.longest_load();
        let longer = || {
            let now = Instant::now();
            (now < longest && queues()).then(|| longest.min(now + LONGEST_PAUSE))
        };
        let outcome = match follower.follow(wait, deadline, longer, |_| None::<V>).await {
            Followed::Ended(outcome) => outcome,
            Followed::Joined(_) | Followed::TimedOut => {
                return match stale {
                    Some((hit, _)) if self.is_usable(&hit.entry) => Next::Return(Ok(self.stands_in(hit))),
                    // It has become too old during the wait, which goes on without it.
                    Some(_) if !patience.is_over() => Next::LookAgain,
                    _ if self.overtake(&flight) => Next::LookAgain,
                    _ => Next::LoadUncached,
                };
            }
        };
        self.go_on_after(outcome, miss, patience, span).await
    }

    /// How a follower continues after the load.
    async fn go_on_after<E: Clone + 'static>(
        &mut self,
        outcome: FlightOutcome,
        miss: &mut Miss,
        patience: &mut Patience,
        span: &mut LookupSpan,
    ) -> Next<V, E>
    where
        V: DeserializeOwned + 'static,
    {
        let has_begun_since = matches!(self.refresh, Refresh::Waited | Refresh::Overtakes);
        match (self.refresh, &outcome) {
            (Refresh::First, outcome) => {
                self.refresh = match outcome {
                    // It had the lease to its end.
                    FlightOutcome::Stored | FlightOutcome::Found => Refresh::Waited,
                    // Perhaps without a lease: a load of another process may have held it since before the call.
                    _ => Refresh::Overtakes,
                };
                let goes_on = patience.again(LONGEST_PAUSE, Duration::ZERO).await;
                return if goes_on { Next::LookAgain } else { Next::LoadUncached };
            }
            // What is stored now is new.
            (Refresh::Waited | Refresh::Overtakes, FlightOutcome::Stored) => self.refresh = Refresh::No,
            // Otherwise all that waited would soon go to the application, while the load that has overtaken theirs is under way.
            (Refresh::No, FlightOutcome::Void) => patience.renew_once(&self.cache),
            _ => {}
        }
        match outcome {
            FlightOutcome::Superseded => {
                miss.stale = None;
                self.stand_in.note_stale(miss);
                Next::LoadUncached
            }
            FlightOutcome::FailedWith(error) => self.failed_together(miss, &error),
            FlightOutcome::Unstored(entries) if has_begun_since || !miss.reached_store() => self.shared(&entries, span),
            FlightOutcome::Transient(entries) if miss.reached_store() => self.shared(&entries, span),
            FlightOutcome::Failed(_) if !self.is_refresh() => {
                let result = self.while_backing_off::<E, ()>(miss, ());
                self.settled(result, span).map_or(Next::LoadUncached, Next::Return)
            }
            FlightOutcome::Stored
            | FlightOutcome::Found
            | FlightOutcome::Unstored(_)
            | FlightOutcome::Transient(_)
            | FlightOutcome::Failed(_)
            | FlightOutcome::Void
                if patience.again(LONGEST_PAUSE, Duration::ZERO).await =>
            {
                Next::LookAgain
            }
            _ => Next::LoadUncached,
        }
    }

    /// How a follower continues with the result of a load that is not stored.
    fn shared<E>(&self, entries: &[(Key, Entry)], span: &mut LookupSpan) -> Next<V, E>
    where
        V: DeserializeOwned + 'static,
    {
        let entry = entries.iter().find(|(key, _)| *key == self.key);
        let Some(value) = entry.and_then(|(_, entry)| self.cache.value_of(entry).ok()) else {
            return Next::LoadUncached;
        };
        self.cache.emit(Event::Hit);
        span.found(LookupResult::Collapsed);
        // It is not known whether its tags are still current, or what it is made from is stale.
        inherit::note(|| Reads::new(&self.terms.tags, Some(0)));
        Next::Return(Ok(value))
    }

    /// How a follower continues when the load failed.
    fn failed_together<E: Clone + 'static>(&self, miss: &Miss, error: &Arc<dyn Any + Send + Sync>) -> Next<V, E>
    where
        V: DeserializeOwned + 'static,
    {
        // A call for the same key with another type of error loads for itself.
        let result = match (self.stale_if_error(miss), error.downcast_ref::<E>()) {
            (Some(hit), _) => Ok(hit.noted(&self.cache)),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => return Next::LoadUncached,
        };
        self.cache.emit(Event::Miss);
        Next::Return(result)
    }
}

impl<V> Ask<V>
where
    V: Serialize + DeserializeOwned + Send + 'static,
{
    /// Ends a load that `began` then: hands its result to the followers, and then stores it.
    pub(super) async fn conclude<E, L>(
        self,
        permit: Box<WritePermit>,
        miss: &Miss,
        (loaded, reads): (Result<Loaded<V>, E>, Reads),
        began: u64,
        reply_to: ReplyTo<LoadResult<V, E, L>>,
    ) where
        E: Clone + Send + Sync + 'static,
    {
        match loaded {
            Ok(loaded) => self.keep(permit, miss, loaded, &reads, began, reply_to).await,
            Err(error) => {
                self.cache.emit(Event::NotStored(NoCacheReason::ServiceFailed));
                let stale = self.stale_if_error(miss);
                permit.failed_with(Arc::new(error.clone()));
                reply_to.send(stale.map_or(LoadResult::Failed(error), LoadResult::StaleIfError));
            }
        }
    }

    /// Hands a loaded value to the call that waits for it, and then stores it. If it is made from something stale, it is for the
    /// present followers alone.
    async fn keep<E, L>(
        self,
        permit: Box<WritePermit>,
        miss: &Miss,
        loaded: Loaded<V>,
        reads: &Reads,
        began: u64,
        reply_to: ReplyTo<LoadResult<V, E, L>>,
    ) {
        let Self { cache, key, .. } = &self;
        let at = cache.moment();
        let terms = self.terms_of(&loaded);
        let reads = terms.apply_to(reads, at);
        let codec = cache.codec();
        let (deadlines, tags) = match terms.settle(&reads, at) {
            Ok((deadlines, tags)) => (deadlines, Some(tags)),
            Err(NoCacheReason::MadeFromStale) => (terms.deadlines(at.now, at.now), None),
            Err(reason) => {
                reply_to.send(LoadResult::Loaded(loaded.value, reads));
                return not_stored(permit, miss, reason).await;
            }
        };
        let value = codec.encode(&loaded.value);
        reply_to.send(LoadResult::Loaded(loaded.value, reads));
        // A value that can't be read back would be loaded and stored again each time, and all calls would wait for that.
        let value = match value.and_then(|value| codec.decode_own::<V>(&value).map(|_| value)) {
            Ok(value) => value,
            Err(error) => return not_stored(permit, miss, self.unserializable(&error)).await,
        };
        let entry = write(key, codec, value, deadlines).loaded_in(at.now.saturating_sub(began));
        let entry = (key.clone(), entry);
        match tags {
            Some(tags) => permit.commit(Writes { entries: smallvec![entry], guard: None }, tags).await,
            None => permit.made_from_stale(vec![entry]),
        }
    }

    /// Logs, at most once in a while, why the value is not stored.
    fn unserializable(&self, error: &str) -> NoCacheReason {
        static THROTTLE: Throttle = Throttle::new();
        if let Some(kept_back) = THROTTLE.pass() {
            let key = self.cache.key_for_logs(&self.key);
            tracing::warn!(%error, %key, kept_back, "a value can't be written and read back, and is not stored");
        }
        NoCacheReason::Unserializable
    }
}

/// Ends a load whose value is not to be stored.
async fn not_stored(permit: Box<WritePermit>, miss: &Miss, reason: NoCacheReason) {
    match miss.expected {
        Some(Seen::Nothing) => permit.uncacheable(reason, None),
        _ => permit.superseding(reason).await,
    }
}

// Not derived: a value need not be `Clone`.
impl<V> Clone for Ask<V> {
    fn clone(&self) -> Self {
        self.of(self.key.clone())
    }
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[test]
    fn a_refresh_that_was_not_the_first_to_lead_insists_unless_another_one_overtakes() {
        let key = Key::new(["k"]);
        let cache = Cache::new(MemoryStore::new(1 << 20));
        let refresh = || {
            let mut ask = Ask::<u32>::new(cache.clone(), key.clone());
            (ask.lock, ask.refresh) = (Lock::Off, Refresh::Overtakes);
            ask
        };
        let ordinary = cache.flights().join(&key);
        let overtaking = refresh().join();
        assert!(matches!((&ordinary, &overtaking), (Role::Leader(_), Role::Leader(_))));
        assert!(matches!(refresh().join(), Role::Follower(_)));
        let mut later = refresh();
        later.refresh = Refresh::First;
        assert!(matches!(later.join(), Role::Leader(_)), "the load may have begun before it");
    }

    #[tokio::test]
    async fn a_fallback_stays_with_its_call_until_the_call_uses_it() {
        let key = Key::new(["k"]);
        let mut ask = Ask::<u32>::new(Cache::new(MemoryStore::new(1 << 20)), key.clone());
        ask.stand_in.set_fallback(7);
        let miss = Miss { key, expected: None, stale: None, detail: () };
        // As the load does, in its task.
        let result: LoadResult<u32, (), ()> = ask.clone().while_backing_off(&miss, ());
        let mut span = ask.cache.lookup_span(&ask.key);
        let mut late = ask.clone();
        late.stand_in = StandIn::default();
        late.stand_in.set_fallback(ask.fallback().expect("the hard timeout may come before the result"));
        assert!(matches!(late.settled(result, &mut span), Ok(Ok(7))));
        let result: LoadResult<u32, (), ()> = late.clone().while_backing_off(&miss, ());
        assert!(matches!(late.settled(result, &mut span), Err(())), "without one, it loads by itself");
    }
}
