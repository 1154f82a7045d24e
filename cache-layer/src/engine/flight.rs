//! Single flight: of the requests of this process for one key, one loads and the others wait for how it ends.
//!
//! Those who wait never see what was loaded, only that it landed. They look it up like anybody else, so what they get
//! has passed the fence of the commit: a load that an invalidation overtook reaches nobody but its leader.

#[cfg(feature = "typed")]
use std::any::Any;
use std::{
    collections::{HashMap, hash_map},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{
    entry::Entry,
    key::{Key, KeyId},
};

/// How a flight ended (the states of pingora's lock).
#[derive(Clone, Debug)]
pub(crate) enum Landing {
    /// The entry is in the store.
    Stored,
    /// It could not be stored: here is what would be in the store, for those who can't reach it either.
    Unstored(Arc<[(Key, Entry)]>),
    /// What was loaded can't be shared. Everybody loads for themselves, at once.
    Uncacheable,
    /// The load failed. Everybody loads for themselves, at once.
    Failed,
    /// The load failed with this error, which is everybody's.
    #[cfg(feature = "typed")]
    FailedWith(Arc<dyn Any + Send + Sync>),
    /// An invalidation overtook the load, or its leader was lost: somebody else should lead.
    Void,
}

#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<KeyId, watch::Receiver<Option<Landing>>>>);

/// A place on a flight.
pub(crate) enum Seat {
    Leader(Flight),
    Follower(Follower),
}

/// The leader's hold on a flight. Dropped without a word, it lands [`Void`](Landing::Void).
pub(crate) struct Flight {
    flights: Arc<Flights>,
    id: KeyId,
    landing: watch::Sender<Option<Landing>>,
}

pub(crate) struct Follower(watch::Receiver<Option<Landing>>);

impl Flights {
    fn table(&self) -> MutexGuard<'_, HashMap<KeyId, watch::Receiver<Option<Landing>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a seat on the flight for `key`; there is one leader at a time.
    pub(crate) fn board(self: &Arc<Self>, key: &Key) -> Seat {
        let id = key.id();
        match self.table().entry(id) {
            hash_map::Entry::Occupied(flight) => Seat::Follower(Follower(flight.get().clone())),
            hash_map::Entry::Vacant(vacant) => {
                let (landing, landed) = watch::channel(None);
                vacant.insert(landed);
                Seat::Leader(Flight { flights: self.clone(), id, landing })
            }
        }
    }
}

impl Flight {
    /// Ends the flight and tells everybody how.
    pub(crate) fn land(self, landing: Landing) {
        self.landing.send_replace(Some(landing));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.table().remove(&self.id);
        self.landing.send_if_modified(|landing| {
            let lost = landing.is_none();
            if lost {
                *landing = Some(Landing::Void);
            }
            lost
        });
    }
}

impl Follower {
    /// How the flight ended, once it has.
    pub(crate) async fn landing(mut self) -> Landing {
        match self.0.wait_for(Option::is_some).await {
            Ok(landing) => landing.clone().unwrap_or(Landing::Void),
            Err(_) => Landing::Void,
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
        match flights.board(&key()) {
            Seat::Leader(flight) => flight,
            Seat::Follower(_) => panic!("there is a leader"),
        }
    }

    fn follow(flights: &Arc<Flights>) -> Follower {
        match flights.board(&key()) {
            Seat::Follower(follower) => follower,
            Seat::Leader(_) => panic!("there is no leader"),
        }
    }

    #[tokio::test]
    async fn everybody_learns_how_it_ended() {
        let flights = Arc::default();
        let leader = lead(&flights);
        let followers = [follow(&flights), follow(&flights)];
        leader.land(Landing::Stored);
        for follower in followers {
            assert!(matches!(follower.landing().await, Landing::Stored));
        }
    }

    #[tokio::test]
    async fn a_lost_leader_releases_the_others_and_the_key() {
        let flights = Arc::default();
        let leader = lead(&flights);
        let follower = follow(&flights);
        drop(leader);
        assert!(matches!(follower.landing().await, Landing::Void));
        lead(&flights);
    }

    #[test]
    fn another_key_is_another_flight() {
        let flights: Arc<Flights> = Arc::default();
        let _leader = lead(&flights);
        assert!(matches!(flights.board(&Key::new(["other"])), Seat::Leader(_)));
    }
}
