//! Single flight: of the requests of this process for one key, one loads, in a task of its own, and the others wait until the
//! load ends.
//!
//! When the load has ended, the followers look their key up again, so that their entry has passed the fence of the commit. They
//! can also use the load before it has ended, if the leader [publishes](Flight::publish_partial) its response and no
//! invalidation overtook the load: a load that was overtaken reaches no request that came after the invalidation.

#[cfg(feature = "typed")]
use std::any::Any;
use std::{
    collections::{HashMap, hash_map},
    future::poll_fn,
    pin::Pin,
    sync::{Arc, MutexGuard, OnceLock, Weak},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span, instrument::Instrumented, span};

use super::{in_progress::InProgress, load_limit::LoadPermit};
use crate::{
    entry::Entry,
    key::{Hashed, Key, KeyHash},
    sync::Mutex,
    telemetry::Release,
};

/// How a flight ended (the states of pingora's lock).
#[derive(Clone, Debug)]
pub(crate) enum FlightOutcome {
    /// The entry is in the store.
    Stored,
    /// An entry that another load has stored is in the store: that load may have begun before the flight did.
    Found,
    /// The entries could not be stored: they are for followers that can't reach the store either.
    Unstored(Arc<[(Key, Entry)]>),
    /// The result is not stored, but is as good for the followers that were present at the end as for the leader; there may be no
    /// entry of it.
    Transient(Arc<[(Key, Entry)]>),
    /// The result can't be shared. Each follower loads for itself, at once.
    Uncacheable,
    /// The same; and the result has superseded the entry that the followers may have found.
    #[cfg(feature = "typed")]
    Superseded,
    /// The load failed, with a response of this status or without any. Each follower loads for itself, at once.
    Failed(Option<u16>),
    /// The load failed with this error, which each follower returns.
    #[cfg(feature = "typed")]
    FailedWith(Arc<dyn Any + Send + Sync>),
    /// An invalidation overtook the load, or its leader was lost: another request should lead.
    Void,
}

impl FlightOutcome {
    /// How the followers were released.
    pub(crate) fn release(&self) -> Release {
        match self {
            Self::Stored | Self::Found | Self::Unstored(_) | Self::Transient(_) => Release::Done,
            Self::Uncacheable => Release::GiveUp,
            #[cfg(feature = "typed")]
            Self::Superseded => Release::GiveUp,
            Self::Failed(_) => Release::TransientError,
            #[cfg(feature = "typed")]
            Self::FailedWith(_) => Release::TransientError,
            Self::Void => Release::Dangling,
        }
    }
}

/// How far a flight is.
#[derive(Clone, Debug, Default)]
enum Stage {
    #[default]
    Loading,
    /// Other requests may use the response that is arriving.
    InProgress(Arc<InProgress>),
    Finished(FlightOutcome),
}

/// The loads of this process, and the tasks in which loads and their follow-up work run.
#[derive(Debug)]
pub(crate) struct Flights {
    table: Mutex<HashMap<KeyHash, Arc<Shared>, Hashed>>,
    tasks: TaskTracker,
    /// The tasks that verify hits.
    verifications: TaskTracker,
}

impl Default for Flights {
    fn default() -> Self {
        let [tasks, verifications] = [(); 2].map(|()| TaskTracker::new());
        // A closed tracker lets a wait end as soon as it is empty; it still accepts new tasks.
        tasks.close();
        verifications.close();
        Self { table: Mutex::default(), tasks, verifications }
    }
}

/// The role of a request in a flight.
pub(crate) enum Role {
    Leader(Flight),
    Follower(Follower),
}

/// The leader's side of a flight. If it is dropped without an outcome, the flight ends as [`Void`](FlightOutcome::Void).
pub(crate) struct Flight {
    flights: Arc<Flights>,
    id: KeyHash,
    shared: Arc<Shared>,
    /// The outcome, once that is known.
    outcome: FlightOutcome,
    /// Another flight, whose followers wait for this load as well.
    along: Option<Box<Self>>,
    /// What learns the outcome, without being a follower.
    end: Option<oneshot::Sender<FlightOutcome>>,
}

#[derive(Debug)]
pub(crate) struct Follower {
    stage: watch::Receiver<Stage>,
    shared: Arc<Shared>,
    /// The place that this follower offers the load, for as long as it waits.
    offered: Option<Arc<LoadPermit>>,
}

/// The flight that a follower waits for.
#[cfg(feature = "typed")]
pub(crate) struct FollowedFlight(Arc<Shared>);

#[cfg(feature = "typed")]
impl FollowedFlight {
    /// Whether its load overtakes the load of a former flight.
    pub(crate) fn overtakes(&self) -> bool {
        self.0.overtakes
    }
}

/// The state that leader and followers share.
#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    /// The span of the load.
    load: OnceLock<span::Id>,
    /// Whether it overtakes the load of a former flight.
    #[cfg(feature = "typed")]
    overtakes: bool,
}

/// The stage of a flight, for followers that come, and the present followers. Most loads have no followers, and need no channel.
#[derive(Debug, Default)]
struct Progress {
    stage: Stage,
    followers: Option<watch::Sender<Stage>>,
    loan: Loan,
}

/// A follower lends its place to the load that it waits for: the load may need a place, and the follower may have the last.
#[derive(Debug)]
enum Loan {
    /// The load has not asked for a place yet: it may wait for another process first, or at the limit of its front end, for longer
    /// than a follower waits. So an offer ends with its follower.
    Offered(Vec<Weak<LoadPermit>>),
    /// The load has asked. It waits, or needs no place from a follower any more: then the other end is gone.
    Awaited(Option<oneshot::Sender<LoadPermit>>),
}

impl Default for Loan {
    fn default() -> Self {
        Self::Offered(Vec::new())
    }
}

/// The place that a follower may lend; `None` if none does. The load asks for it when this is first polled, and not before: until
/// it can use the place, as long as it waits for another one at its front end, the place leaves with its follower.
pub(crate) struct LentPlace {
    of: Arc<Shared>,
    lent: Option<oneshot::Receiver<LoadPermit>>,
}

impl Future for LentPlace {
    type Output = Option<LoadPermit>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { of, lent } = &mut *self;
        Pin::new(lent.get_or_insert_with(|| of.ask_for_place())).poll(cx).map(Result::ok)
    }
}

impl Shared {
    fn ask_for_place(&self) -> oneshot::Receiver<LoadPermit> {
        let (lender, lent) = oneshot::channel();
        let mut progress = self.progress.lock();
        let offered = match &progress.loan {
            Loan::Offered(offers) => offers.iter().find_map(Weak::upgrade),
            Loan::Awaited(_) => None,
        };
        progress.loan = match offered {
            Some(place) => {
                // The load does not wait yet, so that no task is woken while a lock is held.
                let _ = lender.send((*place).clone());
                Loan::Awaited(None)
            }
            None => Loan::Awaited(Some(lender)),
        };
        lent
    }
}

/// The first place that is lent.
pub(crate) async fn first_lent(mut places: Vec<LentPlace>) -> LoadPermit {
    let first = poll_fn(|cx| {
        let mut first = None;
        places.retain_mut(|place| match Pin::new(place).poll(cx) {
            Poll::Pending => true,
            Poll::Ready(lent) => {
                first = first.take().or(lent);
                false
            }
        });
        first.map_or(Poll::Pending, Poll::Ready)
    });
    first.await
}

impl Progress {
    fn follow(&mut self) -> watch::Receiver<Stage> {
        self.followers.get_or_insert_with(|| watch::Sender::new(self.stage.clone())).subscribe()
    }

    fn is_followed(&self) -> bool {
        let is_read = matches!(&self.stage, Stage::InProgress(in_progress) if in_progress.payload.is_read());
        is_read || self.followers.as_ref().is_some_and(|followers| followers.receiver_count() > 0)
    }
}

impl Flights {
    fn table(&self) -> MutexGuard<'_, HashMap<KeyHash, Arc<Shared>, Hashed>> {
        self.table.lock()
    }

    /// The number of loads under way.
    pub(crate) fn count(&self) -> usize {
        self.table().len()
    }

    /// Whether this process is loading `key`.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.table().contains_key(&key.hash())
    }

    /// Joins the flight for `key`; there is one leader at a time.
    pub(crate) fn join(self: &Arc<Self>, key: &Key) -> Role {
        self.join_as(key, Shared::default)
    }

    /// As [`join`](Self::join); a flight that begins with this overtakes the load of a former one.
    #[cfg(feature = "typed")]
    pub(crate) fn join_overtaking(self: &Arc<Self>, key: &Key) -> Role {
        self.join_as(key, || Shared { overtakes: true, ..Shared::default() })
    }

    fn join_as(self: &Arc<Self>, key: &Key, begin: impl FnOnce() -> Shared) -> Role {
        let id = key.hash();
        match self.table().entry(id) {
            hash_map::Entry::Occupied(flight) => {
                let shared = flight.get().clone();
                // This happens before the flight can be left: its end is reported to the followers that it has then.
                let stage = shared.progress.lock().follow();
                Role::Follower(Follower { stage, shared, offered: None })
            }
            hash_map::Entry::Vacant(vacant) => {
                let shared = vacant.insert(Arc::new(begin())).clone();
                let outcome = FlightOutcome::Void;
                Role::Leader(Flight { flights: self.clone(), id, shared, outcome, along: None, end: None })
            }
        }
    }

    /// Lets requests for `key` that come from now on join another flight than this one.
    #[cfg(feature = "typed")]
    pub(crate) fn leave(&self, key: &Key, flight: &FollowedFlight) {
        self.leave_shared(key.hash(), &flight.0);
    }

    fn leave_shared(&self, id: KeyHash, shared: &Arc<Shared>) {
        if let hash_map::Entry::Occupied(flight) = self.table().entry(id)
            && Arc::ptr_eq(flight.get(), shared)
        {
            flight.remove();
        }
    }
}

impl Flight {
    /// Sets the span of the load, for the followers.
    pub(crate) fn set_span(&self, load: &Span) {
        if let Some(id) = load.id() {
            let _ = self.shared.load.set(id);
        }
    }

    /// Takes another flight along, if there is none yet: its followers wait for this load, too, and learn its outcome.
    pub(crate) fn take_along(&mut self, other: Box<Self>) {
        self.along.get_or_insert(other);
    }

    /// The outcome, once that is known, for a caller that is no follower: nothing depends on whether it waits.
    pub(super) fn end(&mut self) -> oneshot::Receiver<FlightOutcome> {
        let (end, ended) = oneshot::channel();
        self.end = Some(end);
        ended
    }

    /// Lets the followers use the response that is arriving.
    pub(super) fn publish_partial(&self, in_progress: InProgress) {
        self.publish(Stage::InProgress(Arc::new(in_progress)));
    }

    fn publish(&self, stage: Stage) {
        if let Some(along) = &self.along {
            along.publish(stage.clone());
        }
        let mut progress = self.shared.progress.lock();
        progress.stage = stage.clone();
        let followers = progress.followers.clone();
        // No task is woken while a lock is held.
        drop(progress);
        if let Some(followers) = followers {
            followers.send_replace(stage);
        }
    }

    /// The place that a follower lends to the load, by [`lend`](Follower::lend), until this is dropped.
    pub(super) fn lent_place(&self) -> LentPlace {
        LentPlace { of: self.shared.clone(), lent: None }
    }

    /// Whether a follower waits for the outcome, or reads the published response.
    pub(super) fn is_followed(&self) -> bool {
        self.shared.progress.lock().is_followed() || self.along.as_ref().is_some_and(|along| along.is_followed())
    }

    /// Lets requests that come from now on join another flight.
    pub(crate) fn leave(&self) {
        self.flights.leave_shared(self.id, &self.shared);
        if let Some(along) = &self.along {
            along.leave();
        }
    }

    /// Ends the flight, and reports its outcome to the followers.
    pub(crate) fn finish(mut self, outcome: FlightOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.leave();
        if let Some(along) = &mut self.along {
            along.outcome = self.outcome.clone();
        }
        if let Some(end) = self.end.take() {
            let _ = end.send(self.outcome.clone());
        }
        // From here on no request can join.
        let followers = self.shared.progress.lock().followers.take();
        if let Some(followers) = followers {
            let outcome = std::mem::replace(&mut self.outcome, FlightOutcome::Void);
            followers.send_replace(Stage::Finished(outcome));
        }
    }
}

impl Follower {
    /// The flight that it waits for.
    #[cfg(feature = "typed")]
    pub(crate) fn flight(&self) -> FollowedFlight {
        FollowedFlight(self.shared.clone())
    }

    /// The span of the load, if it is traced.
    pub(crate) fn load(&self) -> Option<span::Id> {
        self.shared.load.get().cloned()
    }

    /// Lends this place to the load, if the load needs one while this follower waits.
    pub(crate) fn lend(&mut self, place: LoadPermit) {
        let mut progress = self.shared.progress.lock();
        let lender = match &mut progress.loan {
            Loan::Offered(offers) => {
                offers.retain(|offer| offer.strong_count() > 0);
                offers.push(Arc::downgrade(self.offered.insert(Arc::new(place))));
                return;
            }
            Loan::Awaited(lender) => lender.take(),
        };
        // No task is woken while a lock is held.
        drop(progress);
        if let Some(lender) = lender {
            let _ = lender.send(place);
        }
    }

    /// The load in progress, as soon as it is published; `None` if the flight ends before that.
    pub(crate) async fn in_progress(&mut self) -> Option<Arc<InProgress>> {
        match self.stage.wait_for(|stage| !matches!(stage, Stage::Loading)).await.as_deref() {
            Ok(Stage::InProgress(in_progress)) => Some(in_progress.clone()),
            Ok(Stage::Loading | Stage::Finished(_)) | Err(_) => None,
        }
    }

    /// How the flight ended, once it has.
    pub(crate) async fn outcome(mut self) -> FlightOutcome {
        match self.stage.wait_for(|stage| matches!(stage, Stage::Finished(_))).await.as_deref() {
            Ok(Stage::Finished(outcome)) => outcome.clone(),
            Ok(Stage::Loading | Stage::InProgress(_)) | Err(_) => FlightOutcome::Void,
        }
    }
}

/// A load in a task of its own, and its reply: if the client that caused the load leaves, the load continues.
pub(crate) struct LoadTask<T> {
    reply: oneshot::Receiver<T>,
    /// `None` once it was taken.
    task: Option<JoinHandle<()>>,
}

/// The channel by which a load replies to the request that waits for it.
pub(crate) struct ReplyTo<T>(oneshot::Sender<T>);

impl Flights {
    /// Runs `task` to its end even if its caller is dropped; [`landed`](Self::landed) waits for it.
    pub(crate) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        // Boxed, because a runtime moves a future several times.
        self.tasks.spawn(Box::pin(task))
    }

    /// Runs `load` in a task of its own, even if the caller is dropped.
    pub(crate) fn spawn_load<T, F>(&self, span: Span, load: impl FnOnce(ReplyTo<T>) -> F) -> LoadTask<T>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (reply_to, reply) = oneshot::channel();
        // Boxed from the start: it is large, and its wrappers and a runtime would move it several times.
        let load = Box::pin(load(ReplyTo(reply_to)));
        LoadTask { reply, task: Some(self.tasks.spawn(in_span(load, span))) }
    }

    /// Lets `load` continue, for `longest` at most, for later requests: its own request got a stale answer. `receive` takes the
    /// reply in its place, for as long as the load goes on.
    pub(crate) fn leave_to_later<T, F>(
        &self,
        load: LoadTask<T>,
        longest: Duration,
        receive: impl FnOnce(T) -> F + Send + 'static,
    ) where
        T: Send + 'static,
        F: Future<Output = ()> + Send,
    {
        // This task waits in place of the request, so that the load is not abandoned.
        let waiting = async move {
            if let Ok((reply, _)) = load.reply_unless_panicked().await {
                receive(reply).await;
            }
        };
        drop(self.spawn(async move { drop(timeout(longest, waiting).await) }));
    }

    /// Runs the load of several keys in a task of its own, even if the caller is dropped.
    #[cfg(feature = "typed")]
    pub(crate) fn spawn_batch(&self, span: Span, load: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.spawn(in_span(load, span))
    }

    /// Runs a verification; [`landed`](Self::landed) does not wait for it.
    pub(super) fn spawn_verification(&self, verification: impl Future<Output = ()> + Send + 'static) {
        drop(self.verifications.spawn(Box::pin(verification)));
    }

    /// Returns once no verification is under way.
    #[cfg(feature = "testing")]
    pub(super) async fn verifications_ended(&self) {
        self.verifications.wait().await;
    }

    /// Returns once no task is under way, but for verifications.
    pub(super) async fn landed(&self) {
        self.tasks.wait().await;
    }
}

/// Runs `load` in its span; if loads are not traced, in the span of its request, so that its log lines still belong to that
/// request.
fn in_span<F: Future>(load: F, span: Span) -> Instrumented<F> {
    if span.is_disabled() { load.in_current_span() } else { load.instrument(span) }
}

/// The reply of a load, and its task; the task alone, if there is no reply.
type Replied<T> = Result<(T, JoinHandle<()>), JoinHandle<()>>;

impl<T> LoadTask<T> {
    /// The reply; `None` if the load panicked or its runtime is shutting down. It must not be polled again once it is ready.
    pub(crate) fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match Pin::new(&mut self.reply).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(reply)) => Poll::Ready(Some(reply)),
            Poll::Ready(Err(_)) => Poll::Ready(None),
        }
    }

    /// The task, once there is a reply, or there will be none. It may continue after its reply.
    pub(crate) fn take_task(&mut self) -> JoinHandle<()> {
        self.task.take().expect("it is taken once")
    }

    fn poll_replied(&mut self, cx: &mut Context<'_>) -> Poll<Replied<T>> {
        self.poll_reply(cx).map(|reply| match reply {
            Some(reply) => Ok((reply, self.take_task())),
            None => Err(self.take_task()),
        })
    }

    /// The reply, and the task. A panic of the load is resumed here, where it would have occurred without a cache.
    pub(crate) async fn reply(self) -> (T, JoinHandle<()>) {
        match self.reply_unless_panicked().await {
            Ok(replied) => replied,
            Err(panicked) => Box::pin(resume_panic(panicked)).await,
        }
    }

    /// The reply, and the task.
    pub(crate) async fn reply_unless_panicked(mut self) -> Replied<T> {
        poll_fn(|cx| self.poll_replied(cx)).await
    }

    /// As [`reply_unless_panicked`](Self::reply_unless_panicked), by `deadline`; the load, if it has not replied by then.
    pub(crate) async fn reply_by(mut self, deadline: Instant) -> Result<Replied<T>, Self> {
        timeout_at(deadline, poll_fn(|cx| self.poll_replied(cx))).await.map_err(|_| self)
    }
}

impl<T> ReplyTo<T> {
    /// A channel for a part of a load.
    #[cfg(feature = "typed")]
    pub(crate) fn channel() -> (Self, oneshot::Receiver<T>) {
        let (reply_to, reply) = oneshot::channel();
        (Self(reply_to), reply)
    }

    /// Replies. If the request is gone, the reply is dropped.
    pub(crate) fn send(self, reply: T) {
        let _ = self.0.send(reply);
    }

    /// Whether a request waits for the reply.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.0.is_closed()
    }

    /// Sends the result of `reply`. If the request leaves before that, `reply` is cancelled, as it would be without a cache.
    pub(crate) async fn send_while_awaited(mut self, reply: impl Future<Output = T>) {
        let reply = tokio::select! {
            reply = reply => reply,
            () = self.0.closed() => return,
        };
        self.send(reply);
    }
}

/// Resumes the panic that ended `task`.
pub(crate) async fn resume_panic<T>(task: JoinHandle<()>) -> T {
    if let Some(panic) = task.await.err().and_then(|error| error.try_into_panic().ok()) {
        std::panic::resume_unwind(panic);
    }
    // The runtime is shutting down, and ends this task, too.
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::engine::load_limit::{LoadLimit, WaitForPlace};

    fn key() -> Key {
        Key::new(["k"])
    }

    fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn lead(flights: &Arc<Flights>) -> Flight {
        match flights.join(&key()) {
            Role::Leader(flight) => flight,
            Role::Follower(_) => panic!("there is a leader"),
        }
    }

    fn follow(flights: &Arc<Flights>) -> Follower {
        match flights.join(&key()) {
            Role::Follower(follower) => follower,
            Role::Leader(_) => panic!("there is no leader"),
        }
    }

    #[tokio::test]
    async fn everybody_learns_how_it_ended() {
        let flights = Arc::default();
        let leader = lead(&flights);
        let followers = [follow(&flights), follow(&flights)];
        leader.finish(FlightOutcome::Stored);
        for follower in followers {
            assert!(matches!(follower.outcome().await, FlightOutcome::Stored));
        }
    }

    #[tokio::test]
    async fn a_lost_leader_releases_the_others_and_the_key() {
        let flights = Arc::default();
        let leader = lead(&flights);
        let follower = follow(&flights);
        drop(leader);
        assert!(matches!(follower.outcome().await, FlightOutcome::Void));
        lead(&flights);
    }

    #[test]
    fn a_flight_that_was_left_takes_no_other_with_it_when_it_ends() {
        let flights = Arc::default();
        let hung = lead(&flights);
        hung.leave();
        let next = lead(&flights);
        drop(hung);
        follow(&flights);
        drop(next);
        lead(&flights);
    }

    #[cfg(feature = "typed")]
    #[tokio::test]
    async fn a_flight_that_a_follower_leaves_gives_way_to_the_next_and_ends_as_ever() {
        let flights = Arc::default();
        let (leader, follower) = (lead(&flights), follow(&flights));
        let overtaken = follower.flight();
        flights.leave(&key(), &overtaken);
        let next = lead(&flights);
        flights.leave(&key(), &overtaken);
        follow(&flights);
        leader.finish(FlightOutcome::Stored);
        assert!(matches!(follower.outcome().await, FlightOutcome::Stored));
        follow(&flights);
        drop(next);
        lead(&flights);
    }

    #[test]
    fn it_is_known_whether_anybody_follows() {
        let flights = Arc::default();
        let leader = lead(&flights);
        assert!(!leader.is_followed());
        let follower = follow(&flights);
        assert!(leader.is_followed());
        leader.leave();
        assert!(leader.is_followed());
        drop(follower);
        assert!(!leader.is_followed());
    }

    #[tokio::test]
    async fn a_flight_that_is_taken_along_is_followed_and_ends_as_the_other_does() {
        let flights: Arc<Flights> = Arc::default();
        let other = Key::new(["other"]);
        let join = || flights.join(&other);
        let mut leader = lead(&flights);
        let Role::Leader(along) = join() else { panic!("there is none yet") };
        leader.take_along(Box::new(along));
        assert!(!leader.is_followed());
        let Role::Follower(follower) = join() else { panic!("there is one") };
        assert!(leader.is_followed());
        leader.leave();
        let Role::Leader(next) = join() else { panic!("it was left with the other") };
        leader.finish(FlightOutcome::Uncacheable);
        assert!(matches!(follower.outcome().await, FlightOutcome::Uncacheable));
        assert!(matches!(join(), Role::Follower(_)), "the next one stays");
        drop(next);
    }

    #[tokio::test]
    async fn a_place_is_lent_to_a_load_that_needs_it_whichever_comes_first() {
        let limit = LoadLimit::new(1);
        let flights = Arc::default();
        for asks_first in [false, true] {
            let (leader, mut follower) = (lead(&flights), follow(&flights));
            let place = limit.take().expect("it is free");
            let mut lent = leader.lent_place();
            assert!(!asks_first || poll_once(&mut lent).is_pending());
            follower.lend(place.clone());
            let lent = lent.await.expect("it is lent");
            drop((place, follower));
            assert!(limit.take().is_none(), "the load has it now");
            drop(lent);
            assert!(limit.take().is_some());
        }
    }

    #[tokio::test]
    async fn a_load_that_needs_no_place_keeps_none() {
        let limit = LoadLimit::new(1);
        let flights = Arc::default();
        for has_asked in [false, true] {
            let (leader, followers) = (lead(&flights), [follow(&flights), follow(&flights)]);
            let mut lent = leader.lent_place();
            assert!(!has_asked || poll_once(&mut lent).is_pending());
            drop(lent);
            for mut follower in followers {
                follower.lend(limit.take().expect("it is free"));
                drop(follower);
                assert!(limit.take().is_some());
            }
        }
    }

    /// The load may wait for another process for longer than its followers wait.
    #[tokio::test]
    async fn a_place_that_was_offered_leaves_with_its_follower_and_the_others_are_still_lent() {
        let limit = LoadLimit::new(2);
        let flights = Arc::default();
        let (leader, mut stays, mut leaves) = (lead(&flights), follow(&flights), follow(&flights));
        stays.lend(limit.take().expect("it is free"));
        leaves.lend(limit.take().expect("there are two"));
        assert!(limit.take().is_none(), "the followers have both");
        drop(leaves);
        let other = limit.take().expect("one is free again");
        let lent = leader.lent_place().await;
        assert!(lent.is_some(), "the other one is still offered");
        drop((stays, lent));
        drop((other, limit.take().expect("it is free again")));
        drop(leader);

        let (leader, mut leaves) = (lead(&flights), follow(&flights));
        leaves.lend(limit.take().expect("it is free"));
        drop(leaves);
        assert!(poll_once(&mut leader.lent_place()).is_pending(), "nobody lends anything any more");
    }

    /// The load can't use the cache's place before it has one of its front end.
    #[tokio::test]
    async fn a_place_leaves_with_its_follower_while_the_load_waits_at_its_front_end() {
        let cache = LoadLimit::new(1);
        let front_end = cache.within(1);
        let flights = Arc::default();
        for lends_first in [false, true] {
            let own = front_end.clone().without(&cache).take().expect("it is free");
            let (leader, mut follower) = (lead(&flights), follow(&flights));
            let place = cache.take().expect("it is free");
            if lends_first {
                follower.lend(place.clone());
            }
            let (wait, lent) = (WaitForPlace::of(1), first_lent(vec![leader.lent_place()]));
            let deadline = Instant::now() + Duration::from_secs(3600);
            let mut load = std::pin::pin!(front_end.wait_or_borrow(deadline, &wait, lent));
            assert!(poll_once(&mut load).is_pending());
            if !lends_first {
                follower.lend(place.clone());
            }
            drop((place, follower));
            let free = cache.take().expect("the follower has left with its place");
            drop((own, free));
            assert!(load.await.is_some());
        }
    }

    #[test]
    fn another_key_is_another_flight() {
        let flights: Arc<Flights> = Arc::default();
        let _leader = lead(&flights);
        assert!(matches!(flights.join(&Key::new(["other"])), Role::Leader(_)));
    }
}
