//! The right to load a key: taken before the load, kept alive while it runs, and compared when its result is stored.

#[cfg(feature = "typed")]
use std::any::Any;
use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout},
};

use super::{
    backoff::{BackOff, RecentFailure},
    cache::Cache,
    flight::{Flight, FlightOutcome, LentPlace},
    growing_body::GrowingBody,
    in_progress::InProgress,
    load_limit::WaitForPlace,
    recent_keys::REMEMBER_UNCACHEABLE,
    span::not_kept,
};
use crate::{
    entry::Entry,
    key::Key,
    store::{Committed, Failed, Failures, Fill, Lease, LeaseToken, StoreError, Writes},
    tag::Tags,
    telemetry::{Event, FillOutcome, LoadOutcome, NoCacheReason, Release},
    throttle::Throttle,
};

/// The longest time between two checks whether a request waits for a load.
const LONGEST_BEAT: Duration = Duration::from_secs(1);

/// How long a key is refreshed in the foreground after a background refresh returned nothing.
const REMEMBER_FAILED_REFRESH: Duration = Duration::from_secs(60);

/// The room, among entries on their way to the store, that a body of unknown length takes until it is complete.
const OF_UNKNOWN_LENGTH: u64 = 64 * 1024;
/// The approximate size of an entry without its payload.
const BESIDE_THE_PAYLOAD: u64 = 1024;

/// Why nothing is stored, by the store's error.
pub(super) fn reason_of(error: &StoreError) -> NoCacheReason {
    if *error == StoreError::Full { NoCacheReason::StoreFull } else { NoCacheReason::StoreUnavailable }
}

/// The outcome of a fill, by why nothing is stored.
fn outcome_of(reason: NoCacheReason) -> FillOutcome {
    if reason == NoCacheReason::StoreFull { FillOutcome::Full } else { FillOutcome::Unavailable }
}

/// The purpose of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To answer a request.
    Answer,
    /// To answer a request that a stale entry may answer as well: the last background refresh of that entry returned nothing.
    RetriedRefresh,
    /// In the background, for later requests: the entry is stale, or will soon be.
    Refresh,
    EarlyRefresh,
}

impl Purpose {
    /// Whether no request waits for the load.
    pub(crate) fn is_in_background(self) -> bool {
        matches!(self, Self::Refresh | Self::EarlyRefresh)
    }
}

/// How a load treats failures, and what other loads of its key have left.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FailurePolicy {
    /// The back-off after a failure; `None` for none.
    pub(crate) back_off: Option<BackOff>,
    /// Whether earlier failures prevent this load.
    pub(crate) heed: bool,
    /// Whether it may store its result although an earlier one could not be stored.
    pub(crate) anew: bool,
    /// Whether it overtakes a load that it has waited for in vain, which is then not stored.
    pub(crate) overtakes: bool,
}

impl FailurePolicy {
    pub(super) fn failures(self) -> Failures {
        match (self.heed && self.back_off.is_some(), self.anew) {
            (true, false) => Failures::Heed,
            (true, true) => Failures::HeedAnew,
            (false, false) => Failures::Ignore,
            (false, true) => Failures::IgnoreAnew,
        }
    }
}

/// Whether a load is waited for, as far as its front end knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// By the request that asked for it.
    Awaited,
    Unawaited,
    /// No request waits for it, and a request waits for a place at the application.
    Contended,
}

/// The right to load, and to store the result. Every way to end it informs the flight's followers; if it is dropped otherwise,
/// the load was lost. It is boxed, because it is passed from one step of a load to the next.
pub(crate) struct WritePermit {
    cache: Cache,
    /// Dropped before the flight: by the time a follower is woken, the lease is free.
    lease_guard: LeaseGuard,
    flight: Flight,
    invalidations: u64,
    back_off: Option<BackOff>,
    /// The alias that leads to its entries, and is stored with them.
    alias: Option<Box<(Key, Entry)>>,
    /// Whether it is known to be worth a place in the store, or not to be.
    judged: bool,
    /// Room for its entries on their way to the store; or why there is none, though there is a lease.
    room: Result<Option<OwnedSemaphorePermit>, NoCacheReason>,
    /// When the lease was granted, or last renewed.
    renewed: Instant,
    /// Since when no request waits for the load.
    unawaited: Option<Instant>,
    /// The wait of the load for its place, unless it got one at once.
    wait: Option<Arc<WaitForPlace>>,
    /// The load has lost its place.
    overaged: bool,
    /// The load has lost its lease.
    overtaken: bool,
    /// The result is not stored: it is for the present followers alone.
    is_transient: bool,
}

/// A lease that is given back when it is dropped; or why there is none, and nothing will be stored.
struct LeaseGuard {
    cache: Cache,
    lease: Result<Lease, NoCacheReason>,
    /// How the load ends unless another way is recorded.
    release: Release,
    outcome: LoadOutcome,
    begun: Instant,
    /// How long the load took, once it has ended.
    took: Option<Duration>,
    /// The entry that the load refreshes, if it does. Boxed: most loads don't, and a permit is moved several times.
    refreshes: Option<Box<Refreshes>>,
    /// Whether the load got any answer.
    answered: bool,
}

/// A refresh of a present entry.
struct Refreshes {
    key: Key,
    /// Whether it is in the background. Otherwise it repeats, in the foreground, a background refresh that returned nothing.
    in_background: bool,
}

impl LeaseGuard {
    fn is_in_background(&self) -> bool {
        self.refreshes.as_ref().is_some_and(|refreshes| refreshes.in_background)
    }

    fn ends(&mut self, release: Release, outcome: LoadOutcome) {
        (self.release, self.outcome) = (release, outcome);
        self.took = self.cache.0.telemetry.is_observed().then(|| self.begun.elapsed());
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        if let Ok(lease) = &self.lease {
            self.cache.0.store.release(lease, None);
        }
        self.cache.emit(Event::Release(self.release));
        if self.cache.0.telemetry.is_observed() {
            let duration = self.took.unwrap_or_else(|| self.begun.elapsed());
            self.cache.emit(Event::Loaded { outcome: self.outcome, duration });
        }
        if let Some(Refreshes { key, in_background: true }) = self.refreshes.as_deref()
            && !self.answered
        {
            self.cache.refresh_failed(key, self.outcome);
        }
    }
}

impl Cache {
    /// The right to load when the store is known not to answer.
    pub(crate) fn load_without_store(&self, flight: Flight) -> Box<WritePermit> {
        self.permit(flight, Err(NoCacheReason::StoreUnavailable), None)
    }

    pub(super) fn permit(
        &self,
        flight: Flight,
        lease: Result<Lease, NoCacheReason>,
        back_off: Option<BackOff>,
    ) -> Box<WritePermit> {
        let now = Instant::now();
        Box::new(WritePermit {
            cache: self.clone(),
            lease_guard: LeaseGuard {
                cache: self.clone(),
                lease,
                release: Release::Dangling,
                outcome: LoadOutcome::Lost,
                begun: now,
                took: None,
                refreshes: None,
                answered: false,
            },
            flight,
            invalidations: self.invalidations(),
            back_off,
            alias: None,
            judged: false,
            room: Ok(None),
            renewed: now,
            unawaited: None,
            wait: None,
            overaged: false,
            overtaken: false,
            is_transient: false,
        })
    }

    /// Records that a background refresh of `key` got no answer, because of an error, a panic, or a timeout.
    fn refresh_failed(&self, key: &Key, outcome: LoadOutcome) {
        static THROTTLE: Throttle = Throttle::new();
        self.emit(Event::RefreshFailed);
        self.0.failed_refreshes.remember(key, REMEMBER_FAILED_REFRESH);
        if let Some(kept_back) = THROTTLE.pass() {
            let outcome = outcome.as_str();
            tracing::warn!(outcome, kept_back, "a refresh in the background had no answer");
        }
    }

    /// Whether the last background refresh of `key` returned nothing that could be stored.
    pub(crate) fn refresh_failed_lately(&self, key: &Key) -> bool {
        self.0.failed_refreshes.has(key)
    }
}

impl WritePermit {
    /// Why nothing will be stored, if that is known beforehand.
    pub(crate) fn refusal(&self) -> Option<NoCacheReason> {
        self.lease_guard.lease.as_ref().err().or(self.room.as_ref().err()).copied()
    }

    /// Whether a load with this purpose is of any use: the result of one in the background has to be stored.
    pub(crate) fn is_useful(&self, purpose: Purpose) -> bool {
        !purpose.is_in_background() || self.refusal().is_none()
    }

    /// The token of the lease, if there is one.
    pub(crate) fn token(&self) -> Option<LeaseToken> {
        self.lease_guard.lease.as_ref().ok().map(|lease| lease.token)
    }

    /// Notes that the load waits for its place. Returns the place that a follower lends to the load, until this is dropped.
    pub(crate) fn waits_for_place(&mut self, wait: Arc<WaitForPlace>) -> LentPlace {
        self.wait = Some(wait);
        self.flight.lent_place()
    }

    /// Since when the load runs: its wait for a place does not count.
    fn runs_since(&self) -> Instant {
        self.wait.as_ref().and_then(|wait| wait.since()).unwrap_or(self.lease_guard.begun)
    }

    /// Ends a load that has become needless: another process has stored the result while it waited.
    #[cfg(feature = "typed")]
    pub(crate) fn found(self: Box<Self>) {
        let Self { mut lease_guard, flight, .. } = *self;
        lease_guard.ends(Release::Done, LoadOutcome::Loaded);
        lease_guard.answered = true;
        drop(lease_guard);
        flight.finish(FlightOutcome::Found);
    }

    /// Sets the purpose of the load of `key`.
    pub(crate) fn set_purpose(&mut self, purpose: Purpose, key: &Key) {
        self.lease_guard.refreshes = match purpose {
            Purpose::Answer => None,
            Purpose::RetriedRefresh | Purpose::Refresh | Purpose::EarlyRefresh => {
                Some(Box::new(Refreshes { key: key.clone(), in_background: purpose.is_in_background() }))
            }
        };
    }

    /// Notes that the load's result says nothing of later refreshes of its entry.
    pub(crate) fn tells_nothing_of_later_ones(&mut self) {
        self.lease_guard.refreshes = None;
    }

    /// Reserves room for an entry of `bytes` bytes, if that is known, on its way to the store. If there is none, the
    /// load will not be stored, for the reason that [`refusal`](Self::refusal) then returns.
    pub(crate) fn reserve(&mut self, bytes: Option<u64>) {
        if self.cache.is_local() || self.lease_guard.lease.is_err() {
            return;
        }
        let bytes = bytes.map_or(OF_UNKNOWN_LENGTH, |bytes| bytes + BESIDE_THE_PAYLOAD);
        self.room = self.cache.room_for(bytes).map(Some).ok_or(NoCacheReason::StoreBusy);
    }

    /// Notes that the load began when so many invalidations had begun in this process.
    pub(super) fn began_at(&mut self, invalidations: u64) {
        self.invalidations = invalidations;
    }

    /// Notes that there is an entry at the key, or was one: this is not the first load of the key.
    pub(super) fn note_known(&mut self) {
        self.judged = true;
    }

    /// If [`second_sight`](super::CacheBuilder::second_sight) is on, decides whether to store the result. If not,
    /// [`refusal`](Self::refusal) says so from now on. Must be called after the load has returned something.
    pub(crate) fn admit(&mut self) {
        let Some(doorkeeper) = self.cache.0.doorkeeper.as_ref() else { return };
        let LeaseGuard { lease: Ok(lease), refreshes: None, .. } = &self.lease_guard else { return };
        if std::mem::replace(&mut self.judged, true) || doorkeeper.meet(&lease.key) {
            return;
        }
        if self.runs_since().elapsed() < doorkeeper.bound && !self.flight.is_followed() {
            self.room = Err(NoCacheReason::FirstSight);
        }
    }

    /// Stores `alias` before the entry that it leads to, so that a follower that looks it up finds it; requests that need the
    /// alias from now on wait as well, by `flight`.
    pub(crate) fn with_alias(&mut self, alias: Box<(Key, Entry)>, flight: Option<Box<Flight>>) {
        self.alias = Some(alias);
        if let Some(flight) = flight {
            self.flight.take_along(flight);
        }
    }

    /// Runs `load`, and keeps the lease alive for as long as it takes. `None` if the load was cancelled, because no request
    /// waits for it any more, neither its own, as `demand` says, nor a follower, and
    ///
    /// - its result can't be stored, or
    /// - no request has waited for longer than abandoned loads continue, or
    /// - a request waits for its place, and has for long enough to know whether its own client has left as well.
    pub(crate) async fn while_loading<T>(
        &mut self,
        load: impl Future<Output = T>,
        demand: impl Fn() -> Demand,
    ) -> Option<T> {
        // In a box, and only once it is waited for: the future of a load that is answered at once is the smaller for it.
        let mut load = pin!(load);
        let mut abandoned = pin!(async { Box::pin(self.until_abandoned(demand)).await });
        poll_fn(|cx| match load.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => abandoned.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    async fn until_abandoned(&mut self, demand: impl Fn() -> Demand) {
        let ttl = self.cache.lease_life();
        let longest = self.cache.longest_load();
        let pause = (ttl / 3).max(Duration::from_millis(1));
        let beat = pause.min(LONGEST_BEAT);
        loop {
            // A load has several phases, each of which may be too short for a beat.
            let renewal = pause.saturating_sub(self.renewed.elapsed());
            sleep(if self.renews() { beat.min(renewal) } else { beat }).await;
            if self.renews() && self.renewed.elapsed() >= pause {
                self.renew(ttl).await;
            }
            if !self.overaged && self.lease_guard.begun.elapsed() >= longest {
                self.overaged = true;
                self.cache.emit(Event::Release(Release::AgeTimeout));
                if let Ok(lease) = &self.lease_guard.lease {
                    self.cache.0.store.release(lease, None);
                }
                self.flight.leave();
            }
            if self.is_abandoned(demand(), beat) {
                // Check again once no follower can join any more: one may have joined in between.
                self.flight.leave();
                if !self.flight.is_followed() {
                    return;
                }
            }
        }
    }

    /// Whether the load has a lease to be kept alive.
    fn renews(&self) -> bool {
        !self.overaged && !self.overtaken && self.lease_guard.lease.is_ok()
    }

    /// Keeps the lease alive for `ttl` from now on. A renewal that is left half-way, since the load has gone on, counts as one.
    async fn renew(&mut self, ttl: Duration) {
        self.renewed = Instant::now();
        let Ok(lease) = &self.lease_guard.lease else { return };
        // A lost lease stays lost: the commit will be refused.
        self.overtaken = self.cache.0.store.renew(lease, ttl).await == Ok(false);
        if self.overtaken {
            // Requests that come from now on can't use this load: the next one leads another.
            self.flight.leave();
        }
    }

    fn is_abandoned(&mut self, demand: Demand, beat: Duration) -> bool {
        let is_awaited = demand == Demand::Awaited || self.flight.is_followed();
        match (&self.wait, is_awaited, self.unawaited) {
            (Some(wait), true, Some(_)) => wait.rejoined(),
            (Some(wait), false, None) => wait.left(),
            _ => {}
        }
        if is_awaited {
            self.unawaited = None;
            return false;
        }
        let unawaited = self.unawaited.get_or_insert_with(Instant::now).elapsed();
        let (background, bound) = (self.lease_guard.is_in_background(), self.cache.0.abandoned_load);
        let storable = self.refusal().is_none() && !self.overaged && !self.overtaken && !self.is_transient;
        // A load that has no place has none to give up. And a load that waits for one needs a beat to notice that it is not awaited
        // any more either.
        let has_place = self.wait.as_ref().is_none_or(|wait| wait.since().is_some());
        let contended = demand == Demand::Contended && has_place && unawaited >= if background { bound } else { beat };
        !storable || contended || (!background && unawaited >= bound)
    }

    /// Counts the refresh as skipped: the application was not asked, and a later request will refresh.
    pub(crate) fn leave_out(&mut self) {
        self.lease_guard.answered = true;
    }

    /// Ends a load that was cancelled, because no request waits for it any more.
    pub(crate) fn abandon(self: Box<Self>) {
        let Self { cache, mut lease_guard, .. } = *self;
        // A load without a lease may end before `abandoned_load`: that does not count as a refresh without an answer.
        lease_guard.answered |= lease_guard.begun.elapsed() < cache.0.abandoned_load;
        lease_guard.ends(Release::Dangling, LoadOutcome::Abandoned);
        not_kept(NoCacheReason::Abandoned);
        cache.emit(Event::NotStored(NoCacheReason::Abandoned));
    }

    /// Records that the application confirmed the stored entry.
    pub(crate) fn not_modified(&mut self) {
        self.lease_guard.outcome = LoadOutcome::NotModified;
        self.lease_guard.answered = true;
    }

    /// Lets followers use the entries that will be stored while their `payload` is still arriving.
    pub(crate) fn publish_partial(&self, entries: Arc<[(Key, Entry)]>, payload: GrowingBody) {
        let (lease, invalidations) = (self.lease_guard.lease.clone(), self.invalidations);
        self.flight.publish_partial(InProgress { entries, payload, lease, invalidations });
    }

    pub(crate) fn emit(&self, event: Event) {
        self.cache.emit(event);
    }

    /// Ends a load that failed, with a response of this status or without any. `backs_off`: the failure starts a back-off.
    pub(crate) fn failed(self: Box<Self>, status: Option<u16>, backs_off: bool) {
        self.fail(status, backs_off, FlightOutcome::Failed(status));
    }

    /// Ends a load that failed, with an error for all followers.
    #[cfg(feature = "typed")]
    pub(crate) fn failed_with(self: Box<Self>, error: Arc<dyn Any + Send + Sync>) {
        self.fail(None, true, FlightOutcome::FailedWith(error));
    }

    fn fail(self: Box<Self>, status: Option<u16>, backs_off: bool, outcome: FlightOutcome) {
        let Self { cache, mut lease_guard, flight, invalidations, back_off, .. } = *self;
        lease_guard.ends(Release::TransientError, LoadOutcome::Failed);
        // An application that answers with an error can be asked in the background: no request need wait for the next answer.
        lease_guard.answered |= status.is_some();
        if let (Ok(lease), Some(back_off)) = (&lease_guard.lease, back_off.filter(|_| backs_off)) {
            let pause = back_off.pause(lease.failures);
            if cache.invalidations() == invalidations {
                cache.0.recent_failures.remember(&lease.key, RecentFailure::new(status, pause));
            }
            cache.0.store.fail(lease, Failed { status, pause, remembered: back_off.longest() });
            lease_guard.lease = Err(NoCacheReason::ServiceFailed);
        }
        drop(lease_guard);
        flight.finish(outcome);
    }

    /// Ends a load whose result can't be stored. If it is `remembered` for this key, of one variant or of what is not known to
    /// vary, the next results are assumed not to be storable either.
    pub(crate) fn uncacheable(self: Box<Self>, reason: NoCacheReason, remembered: Option<&Key>) {
        self.unstored(reason, remembered, FlightOutcome::Uncacheable);
    }

    /// As [`uncacheable`](Self::uncacheable), where there may be an entry of the key: the result has superseded it, as one that is
    /// stored would have.
    #[cfg(feature = "typed")]
    pub(crate) async fn superseding(mut self: Box<Self>, reason: NoCacheReason) {
        if let Ok(lease) = self.lease_guard.lease.clone() {
            // Before the flight ends: the next request must not find the entry.
            if self.cache.0.store.supersede(&lease).await.is_ok() {
                self.lease_guard.lease = Err(reason);
                // There is nothing left that a later call could refresh.
                self.tells_nothing_of_later_ones();
            }
        }
        self.unstored(reason, None, FlightOutcome::Superseded);
    }

    /// Notes that the result is made from something stale, and so is for the followers alone: a commit stores nothing. `false` if
    /// there are none.
    pub(crate) fn keep_for_followers(&mut self) -> bool {
        // From now on no request can join: the next one leads a load of its own.
        self.flight.leave();
        self.is_transient = self.flight.is_followed();
        self.is_transient
    }

    /// Ends a load whose result is made from something stale, and so is not stored. The present followers may use it, as its
    /// `entries`, unless an invalidation has overtaken the load.
    pub(crate) fn made_from_stale(self: Box<Self>, entries: Vec<(Key, Entry)>) {
        // Each follower joins after its own look-up: an invalidation that the look-up has learned of is known here by now.
        self.flight.leave();
        let stands = self.cache.invalidations() == self.invalidations;
        let outcome = match &self.lease_guard.lease {
            Ok(lease) if stands && !self.cache.0.store.overtaken(lease) => FlightOutcome::Transient(entries.into()),
            Err(NoCacheReason::StoreUnavailable) if stands => FlightOutcome::Unstored(entries.into()),
            // Without a lease no later load could be shared either: each follower loads for itself, and at once.
            Err(_) => FlightOutcome::Transient(Arc::default()),
            Ok(_) => FlightOutcome::Void,
        };
        self.unstored(NoCacheReason::MadeFromStale, None, outcome);
    }

    fn unstored(self: Box<Self>, reason: NoCacheReason, remembered: Option<&Key>, ends: FlightOutcome) {
        let Self { cache, mut lease_guard, flight, .. } = *self;
        let outcome = lease_guard.outcome.unless_lost();
        lease_guard.ends(Release::GiveUp, outcome);
        lease_guard.answered = true;
        if let Some(Refreshes { key, .. }) = lease_guard.refreshes.as_deref() {
            cache.0.failed_refreshes.remember(key, REMEMBER_FAILED_REFRESH);
        }
        not_kept(reason);
        cache.emit(Event::NotStored(reason));
        if let Some(key) = remembered {
            cache.0.uncacheable.remember_why(key, REMEMBER_UNCACHEABLE, Some(reason));
            if let Ok(lease) = std::mem::replace(&mut lease_guard.lease, Err(reason)) {
                cache.0.store.release(&lease, Some(REMEMBER_UNCACHEABLE));
            }
        }
        drop(lease_guard);
        flight.finish(ends);
    }

    /// Stores the result of the load, unless an invalidation came first.
    pub(crate) async fn commit(self: Box<Self>, writes: Writes, tags: Tags) {
        if let Some(rest) = self.begin_commit(writes, tags) {
            // Boxed, so that the future of a commit in this process stays small.
            Box::pin(rest).await;
        }
    }

    /// As [`commit`](Self::commit), at once where the store is in this process; otherwise returns the rest of the commit.
    pub(crate) fn begin_commit(
        self: Box<Self>,
        writes: Writes,
        tags: Tags,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let (permit, fill) = self.commit_at_once(writes, tags)?;
        Some(permit.commit_in_turn(fill))
    }

    /// As [`commit`](Self::commit), if that needs no wait; otherwise returns the fill that is to be stored.
    fn commit_at_once(mut self: Box<Self>, writes: Writes, tags: Tags) -> Option<(Box<Self>, Fill)> {
        if self.is_transient {
            self.made_from_stale(writes.entries.into_vec());
            return None;
        }
        self.admit();
        let outcome = self.lease_guard.outcome.unless_lost();
        self.lease_guard.ends(Release::Done, outcome);
        self.lease_guard.answered = true;
        let lease = match &self.lease_guard.lease {
            Ok(lease) => lease,
            Err(reason) => {
                let reason = *reason;
                not_kept(reason);
                self.committed(Err(outcome_of(reason)), writes);
                return None;
            }
        };
        // The alias has to be stored first.
        if self.alias.is_none()
            && let Some(committed) = self.cache.0.store.commit_at_once(lease, &writes, &tags)
        {
            self.committed(Ok(committed), writes);
            return None;
        }
        let fill = Fill { lease: lease.clone(), writes, tags };
        Some((self, fill))
    }

    /// Writes `fill` when its turn comes.
    async fn commit_in_turn(mut self: Box<Self>, fill: Fill) {
        if let (Some(alias), true) = (self.alias.take(), self.room.is_ok()) {
            self.cache.put_alias(*alias).await;
        }
        let committed = match self.cache.0.store.commit_at_once(&fill.lease, &fill.writes, &fill.tags) {
            Some(committed) => Ok(committed),
            None => self.store_in_turn(&fill).await,
        };
        self.committed(committed, fill.writes);
    }

    /// Reports the outcome of a commit to observers and followers.
    fn committed(mut self: Box<Self>, committed: Result<Committed, FillOutcome>, writes: Writes) {
        if committed.is_ok() {
            // The commit ended the lease.
            self.lease_guard.lease = Err(NoCacheReason::LeaseLost);
        }
        if let (Ok(Committed::Stored), Some(Refreshes { key, .. })) =
            (&committed, self.lease_guard.refreshes.as_deref())
        {
            self.cache.0.failed_refreshes.forget(key);
        }
        let Self { cache, lease_guard, flight, invalidations, room, .. } = *self;
        drop(lease_guard);
        drop(room);
        let (fill, outcome) = match committed {
            Ok(Committed::Stored) => {
                cache.emit(Event::Fill(FillOutcome::Stored));
                writes.sizes().for_each(|bytes| cache.emit(Event::Kept { bytes }));
                return flight.finish(FlightOutcome::Stored);
            }
            Ok(Committed::Refused) => (FillOutcome::Fenced, FlightOutcome::Void),
            Err(outcome) if cache.invalidations() != invalidations => (outcome, FlightOutcome::Void),
            // Otherwise the followers would find nothing, and load one after the other.
            Err(FillOutcome::Full) => (FillOutcome::Full, FlightOutcome::Uncacheable),
            Err(outcome) => (outcome, FlightOutcome::Unstored(writes.entries.into_vec().into())),
        };
        cache.emit(Event::Fill(fill));
        flight.finish(outcome);
    }

    async fn store_in_turn(&mut self, fill: &Fill) -> Result<Committed, FillOutcome> {
        let cache = self.cache.clone();
        let room = match std::mem::replace(&mut self.room, Ok(None)) {
            Ok(room) => room,
            Err(reason) => {
                not_kept(reason);
                let is_first = reason == NoCacheReason::FirstSight;
                return Err(if is_first { FillOutcome::FirstSight } else { FillOutcome::Shed });
            }
        };
        let bytes = fill.writes.total() + BESIDE_THE_PAYLOAD;
        let turn = timeout(cache.lock_timeout(), cache.turn_to_commit(room, bytes));
        let store = async {
            let Ok(_turn) = turn.await else {
                not_kept(NoCacheReason::StoreBusy);
                return Err(FillOutcome::Shed);
            };
            cache.0.store.commit(fill).await.map_err(|error| outcome_of(reason_of(&error)))
        };
        // The lease must outlast the queue, whether or not requests wait.
        self.while_loading(store, || Demand::Awaited).await.unwrap_or(Err(FillOutcome::Shed))
    }
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        engine::{cache::LONGEST_LOAD, flight::Role, miss::Attempt},
        store::{MemoryStore, Seen},
    };

    async fn permission(cache: &Cache, key: &Key) -> Option<Box<WritePermit>> {
        let Role::Leader(flight) = cache.flights().join(key) else { return None };
        match cache.try_acquire(flight, key, Seen::Unusable, &mut cache.patience(), FailurePolicy::default()).await {
            Attempt::Granted(permit) => Some(permit),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_that_hangs_loses_its_place_to_the_next() {
        let (cache, key) = (Cache::new(MemoryStore::new(1 << 20)), Key::new(["k"]));
        let mut hung = permission(&cache, &key).await.unwrap();
        let (wake, woken) = oneshot::channel::<()>();
        let load = tokio::spawn(async move {
            hung.while_loading(woken, || Demand::Awaited).await.unwrap().unwrap();
            hung
        });
        sleep(LONGEST_LOAD / 2).await;
        assert!(permission(&cache, &key).await.is_none(), "it still has its place");
        sleep(LONGEST_LOAD).await;
        assert_eq!(cache.counts().releases, [(Release::AgeTimeout, 1)]);

        let next = permission(&cache, &key).await.unwrap();
        assert_eq!(next.refusal(), None);
        wake.send(()).unwrap();
        let nothing = || Writes { entries: Vec::new().into(), guard: None };
        load.await.unwrap().commit(nothing(), Tags::default()).await;
        assert_eq!((cache.counts().fenced, cache.counts().stored), (1, 0));
        assert!(permission(&cache, &key).await.is_none(), "its end is not the next one's");
        next.commit(nothing(), Tags::default()).await;
        assert_eq!((cache.counts().fenced, cache.counts().stored), (1, 1));
    }

    /// How long a load without an answer continues with this `demand`, after requests waited for it for `before`.
    async fn lasts(before: Duration, demand: Demand, in_background: bool) -> Option<Duration> {
        let (cache, key) = (Cache::new(MemoryStore::new(1 << 20)), Key::new(["k"]));
        let mut permit = permission(&cache, &key).await.unwrap();
        if in_background {
            permit.set_purpose(Purpose::Refresh, &key);
        }
        let began = Instant::now();
        let demand = || if began.elapsed() < before { Demand::Awaited } else { demand };
        let load = permit.while_loading(std::future::pending::<()>(), demand);
        timeout(Duration::from_secs(3600), load).await.ok()?;
        let lasted = began.elapsed().saturating_sub(before);
        permit.abandon();
        assert_eq!(cache.counts().failed_refreshes, u64::from(in_background));
        assert_eq!(cache.refresh_failed_lately(&key), in_background);
        assert!(permission(&cache, &key).await.is_some(), "it has left nothing behind");
        Some(lasted)
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_ends_that_nobody_waits_for() {
        let bound = Duration::from_secs(10);
        let about = |lasted: Option<Duration>, expected: Duration| {
            let lasted = lasted.expect("it ends");
            assert!((expected..expected + 3 * LONGEST_BEAT).contains(&lasted), "{lasted:?} instead of {expected:?}");
        };
        assert_eq!(lasts(Duration::ZERO, Demand::Awaited, false).await, None, "somebody reads it");
        about(lasts(Duration::from_secs(5), Demand::Unawaited, false).await, bound);
        about(lasts(Duration::from_secs(5), Demand::Contended, false).await, Duration::ZERO);
        // The load has lost its place by then, and will not be stored.
        about(lasts(2 * LONGEST_LOAD, Demand::Unawaited, false).await, Duration::ZERO);
        about(lasts(Duration::ZERO, Demand::Unawaited, true).await, LONGEST_LOAD);
        about(lasts(Duration::ZERO, Demand::Contended, true).await, bound);
    }
}
