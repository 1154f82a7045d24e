//! Single flight: of the requests of this process for one key, one loads and the others wait for how it ends.
//!
//! The followers learn that it has ended, and look their key up again: what they get has passed the fence of the commit. Or
//! they have part in it before that, if the leader [publishes](Flight::publish_partial) what is coming in and no invalidation
//! overtook it: a load that one overtook reaches no request that came after the invalidation.

#[cfg(feature = "typed")]
use std::any::Any;
use std::{
    collections::{HashMap, hash_map},
    sync::{Arc, MutexGuard, OnceLock},
};

use tokio::sync::watch;
use tracing::{Span, span};

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

#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<KeyHash, Arc<Shared>, Hashed>>);

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
        self.0.lock()
    }

    /// Loads under way.
    pub(crate) fn count(&self) -> usize {
        self.table().len()
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
                Role::Leader(Flight { flights: self.clone(), id, shared, outcome: FlightOutcome::Void })
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

    /// Lets the followers have what is coming in.
    pub(super) fn publish_partial(&self, in_progress: InProgress) {
        let mut progress = self.shared.progress.lock();
        progress.stage = Stage::InProgress(Arc::new(in_progress));
        if let Some(followers) = &progress.followers {
            followers.send_replace(progress.stage.clone());
        }
    }

    /// Whether a follower waits for how it ends, or reads what it publishes.
    pub(super) fn is_followed(&self) -> bool {
        self.shared.progress.lock().is_followed()
    }

    /// Lets requests that come from now on join another flight.
    pub(crate) fn leave(&self) {
        if let hash_map::Entry::Occupied(flight) = self.flights.table().entry(self.id)
            && Arc::ptr_eq(flight.get(), &self.shared)
        {
            flight.remove();
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
        // From here on nothing can join.
        if let Some(followers) = self.shared.progress.lock().followers.take() {
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

    #[test]
    fn another_key_is_another_flight() {
        let flights: Arc<Flights> = Arc::default();
        let _leader = lead(&flights);
        assert!(matches!(flights.join(&Key::new(["other"])), Role::Leader(_)));
    }
}
