//! Single flight: of the requests of this process for one key, one loads, in a task of its own, and the others wait for how it
//! ends.
//!
//! The followers learn that it has ended, and look their key up again: what they get has passed the fence of the commit. Or
//! they have part in it before that, if the leader [publishes](Flight::publish_partial) what is coming in and no invalidation
//! overtook it: a load that one overtook reaches no request that came after the invalidation.

#[cfg(feature = "typed")]
use std::any::Any;
use std::{
    collections::{HashMap, hash_map},
    future::poll_fn,
    pin::Pin,
    sync::{Arc, MutexGuard, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span, instrument::Instrumented, span};

use super::in_progress::InProgress;
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
    /// It could not be stored: here is what would be in the store, for those who can't reach it either.
    Unstored(Arc<[(Key, Entry)]>),
    /// What was loaded can't be shared. Each follower loads for itself, at once.
    Uncacheable,
    /// The load failed. Each follower loads for itself, at once.
    Failed,
    /// The load failed with this error, which each follower fails with.
    #[cfg(feature = "typed")]
    FailedWith(Arc<dyn Any + Send + Sync>),
    /// An invalidation overtook the load, or its leader was lost: another request should lead.
    Void,
}

impl FlightOutcome {
    /// How the followers were released.
    pub(crate) fn release(&self) -> Release {
        match self {
            Self::Stored | Self::Unstored(_) => Release::Done,
            Self::Uncacheable => Release::GiveUp,
            Self::Failed => Release::TransientError,
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
    /// What is coming in may be had by others.
    InProgress(Arc<InProgress>),
    Finished(FlightOutcome),
}

/// The loads of this process, and the tasks that they and what follows from them run in.
#[derive(Debug)]
pub(crate) struct Flights {
    table: Mutex<HashMap<KeyHash, Arc<Shared>, Hashed>>,
    tasks: TaskTracker,
}

impl Default for Flights {
    fn default() -> Self {
        let tasks = TaskTracker::new();
        // So that waiting for them ends whenever there is none; it takes new ones all the same.
        tasks.close();
        Self { table: Mutex::default(), tasks }
    }
}

/// What a request is to a flight.
pub(crate) enum Role {
    Leader(Flight),
    Follower(Follower),
}

/// The leader's side of a flight. Dropped without a word, the flight ends as [`Void`](FlightOutcome::Void).
pub(crate) struct Flight {
    flights: Arc<Flights>,
    id: KeyHash,
    shared: Arc<Shared>,
    /// How it ends, once that is known.
    outcome: FlightOutcome,
    /// Another one, whose followers are this one's as well.
    along: Option<Box<Self>>,
}

#[derive(Debug)]
pub(crate) struct Follower {
    stage: watch::Receiver<Stage>,
    shared: Arc<Shared>,
}

/// What leader and followers have in common.
#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    /// The span that the load is in.
    load: OnceLock<span::Id>,
}

/// How far a flight is, for the followers that come; and those that are there. Most loads have none, and need no channel.
#[derive(Debug, Default)]
struct Progress {
    stage: Stage,
    followers: Option<watch::Sender<Stage>>,
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

    /// Loads under way.
    pub(crate) fn count(&self) -> usize {
        self.table().len()
    }

    /// Whether this process is loading `key`.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.table().contains_key(&key.hash())
    }

    /// Joins the flight for `key`; there is one leader at a time.
    pub(crate) fn join(self: &Arc<Self>, key: &Key) -> Role {
        let id = key.hash();
        match self.table().entry(id) {
            hash_map::Entry::Occupied(flight) => {
                let shared = flight.get().clone();
                // Before the flight can be left: its end is told to those who follow it by then.
                let stage = shared.progress.lock().follow();
                Role::Follower(Follower { stage, shared })
            }
            hash_map::Entry::Vacant(vacant) => {
                let shared = vacant.insert(Arc::default()).clone();
                Role::Leader(Flight { flights: self.clone(), id, shared, outcome: FlightOutcome::Void, along: None })
            }
        }
    }
}

impl Flight {
    /// Says which span the load is in, for the followers.
    pub(crate) fn is_in(&self, load: &Span) {
        if let Some(id) = load.id() {
            let _ = self.shared.load.set(id);
        }
    }

    /// Takes another flight along, if none is: its followers wait for this load, too, and learn how it ends.
    pub(crate) fn take_along(&mut self, other: Box<Self>) {
        self.along.get_or_insert(other);
    }

    /// Lets the followers have what is coming in.
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
        // Nobody is woken while a lock is held.
        drop(progress);
        if let Some(followers) = followers {
            followers.send_replace(stage);
        }
    }

    /// Whether a follower waits for how it ends, or reads what it publishes.
    pub(super) fn is_followed(&self) -> bool {
        self.shared.progress.lock().is_followed() || self.along.as_ref().is_some_and(|along| along.is_followed())
    }

    /// Lets requests that come from now on join another flight.
    pub(crate) fn leave(&self) {
        if let hash_map::Entry::Occupied(flight) = self.flights.table().entry(self.id)
            && Arc::ptr_eq(flight.get(), &self.shared)
        {
            flight.remove();
        }
        if let Some(along) = &self.along {
            along.leave();
        }
    }

    /// Ends the flight, and tells the followers how.
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
        // From here on nothing can join.
        let followers = self.shared.progress.lock().followers.take();
        if let Some(followers) = followers {
            let outcome = std::mem::replace(&mut self.outcome, FlightOutcome::Void);
            followers.send_replace(Stage::Finished(outcome));
        }
    }
}

impl Follower {
    /// The span that the load is in, if it is traced.
    pub(crate) fn load(&self) -> Option<span::Id> {
        self.shared.load.get().cloned()
    }

    /// What is coming in, as soon as it may be had; or nothing, if the flight ends before that.
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

/// A load in a task of its own, and its reply: the client that asked for the load may leave, and the load goes on.
pub(crate) struct LoadTask<T> {
    reply: oneshot::Receiver<T>,
    /// None once there is a reply.
    task: Option<JoinHandle<()>>,
}

/// Where a load replies, to the request that waits for it.
pub(crate) struct ReplyTo<T>(oneshot::Sender<T>);

impl Flights {
    /// Runs `task` to its end whatever becomes of its caller; [`landed`](Self::landed) waits for it.
    pub(crate) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        // In a box from here on: a runtime moves what it is given several times.
        self.tasks.spawn(Box::pin(task))
    }

    /// Runs `load` in a task of its own, whatever becomes of the caller.
    pub(crate) fn spawn_load<T, F>(&self, span: Span, load: impl FnOnce(ReplyTo<T>) -> F) -> LoadTask<T>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (reply_to, reply) = oneshot::channel();
        // In a box from its beginning on: what it is wrapped in, and a runtime, would move it several times, and it is large.
        let load = Box::pin(load(ReplyTo(reply_to)));
        LoadTask { reply, task: Some(self.tasks.spawn(in_span(load, span))) }
    }

    /// Lets `load` go on, `longest` at most, for later requests: its own has something stale instead.
    pub(crate) fn leave_to_later<T: Send + 'static>(&self, load: LoadTask<T>, longest: Duration) {
        // It waits in the request's place, so that the load is not abandoned.
        drop(self.spawn(async move { drop(timeout(longest, load.reply_unless_panicked()).await) }));
    }

    /// Runs the load of several keys in a task of its own, whatever becomes of the caller.
    #[cfg(feature = "typed")]
    pub(crate) fn spawn_batch(&self, span: Span, load: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.spawn(in_span(load, span))
    }

    /// Returns once no task is under way.
    pub(super) async fn landed(&self) {
        self.tasks.wait().await;
    }
}

/// Runs `load` in its span; where loads are not traced, in whatever span its request is in, so that its log lines still
/// say whose they are.
fn in_span<F: Future>(load: F, span: Span) -> Instrumented<F> {
    if span.is_disabled() { load.in_current_span() } else { load.instrument(span) }
}

/// The reply of a load, and its task; the task alone, if there is none.
type Replied<T> = Result<(T, JoinHandle<()>), JoinHandle<()>>;

impl<T> LoadTask<T> {
    /// The reply, and the task, which may go on after it; the task alone, if the load panicked or its runtime is shutting down.
    /// Not to be asked again once it is ready.
    pub(crate) fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Replied<T>> {
        let reply = ready!(Pin::new(&mut self.reply).poll(cx));
        let task = self.task.take().expect("asked again");
        Poll::Ready(match reply {
            Ok(reply) => Ok((reply, task)),
            Err(_) => Err(task),
        })
    }

    /// As [`poll_reply`](Self::poll_reply). A panic of the load goes on here, where it would have been without a cache.
    pub(crate) async fn reply(self) -> (T, JoinHandle<()>) {
        match self.reply_unless_panicked().await {
            Ok(replied) => replied,
            Err(panicked) => Box::pin(resume_panic(panicked)).await,
        }
    }

    /// As [`poll_reply`](Self::poll_reply).
    pub(crate) async fn reply_unless_panicked(mut self) -> Replied<T> {
        poll_fn(|cx| self.poll_reply(cx)).await
    }

    /// As [`reply_unless_panicked`](Self::reply_unless_panicked), by `deadline`; the load, if it has not replied by then.
    pub(crate) async fn reply_by(mut self, deadline: Instant) -> Result<Replied<T>, Self> {
        timeout_at(deadline, poll_fn(|cx| self.poll_reply(cx))).await.map_err(|_| self)
    }
}

impl<T> ReplyTo<T> {
    /// One for a part of a load, and where its reply arrives.
    #[cfg(feature = "typed")]
    pub(crate) fn channel() -> (Self, oneshot::Receiver<T>) {
        let (reply_to, reply) = oneshot::channel();
        (Self(reply_to), reply)
    }

    /// Replies. The request may be gone, which is no matter to the load.
    pub(crate) fn send(self, reply: T) {
        let _ = self.0.send(reply);
    }

    /// Whether a request waits for the reply.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.0.is_closed()
    }

    /// Replies what `reply` comes to, unless the request leaves before that: `reply` ends with it then, as it would without a
    /// cache.
    pub(crate) async fn send_while_awaited(mut self, reply: impl Future<Output = T>) {
        let reply = tokio::select! {
            reply = reply => reply,
            () = self.0.closed() => return,
        };
        self.send(reply);
    }
}

/// Goes on with the panic that ended `task`.
pub(crate) async fn resume_panic<T>(task: JoinHandle<()>) -> T {
    if let Some(panic) = task.await.err().and_then(|error| error.try_into_panic().ok()) {
        std::panic::resume_unwind(panic);
    }
    // The runtime is shutting down, and this task with it.
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new(["k"])
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

    #[test]
    fn another_key_is_another_flight() {
        let flights: Arc<Flights> = Arc::default();
        let _leader = lead(&flights);
        assert!(matches!(flights.join(&Key::new(["other"])), Role::Leader(_)));
    }
}
