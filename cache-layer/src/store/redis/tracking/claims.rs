//! Leases that look-ups took for loads that will most likely follow, until those loads take them.
//!
//! A look-up that will probably be followed by a load [claims](Claims::begin) the lease on its key in the same round trip. The
//! first load of the key in this process [takes](Claims::take) it. A load that comes while the look-up is under way waits for its
//! end: otherwise it would find the lease held, and wait for its own process as for another one. A claim that no load takes
//! within [`LIFE`] is given back, and a load that comes meanwhile waits for that.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    key::KeyId,
    store::{Lease, Seen},
    sync::Mutex,
};

/// How long a claim waits for its load, which comes as soon as it has the look-up's result. If no load comes, another process
/// waits this long in vain.
pub(crate) const LIFE: Duration = Duration::from_millis(20);
/// The most claims at one time. Look-ups beyond that claim nothing.
const MOST: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    claims: HashMap<KeyId, Claim>,
    /// Whether a task takes care of claims that no load takes.
    attended: bool,
}

#[derive(Debug)]
enum Claim {
    /// Under way, to the server or back; cancelled when it has arrived, or has failed.
    Asked(CancellationToken),
    Taken(Taken),
}

/// A lease, and what was behind it.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) lease: Lease,
    pub(crate) seen: Seen,
    /// The life for which it was taken, in milliseconds.
    pub(crate) life: u64,
    since: Instant,
}

/// The result of asking for a claim.
#[derive(Debug)]
pub(crate) enum Offer {
    None,
    /// Look again once this is cancelled.
    Asked(CancellationToken),
    Taken(Taken),
}

/// A claim that is being asked for, or given back; it is forgotten when it is dropped without a lease.
#[must_use]
pub(crate) struct PendingClaim {
    claims: Arc<Claims>,
    id: KeyId,
    asked: CancellationToken,
    /// Whether what the table has under the key is this. Afterwards, it may be another one.
    open: bool,
}

impl Claims {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock()
    }

    /// Announces that the lease on the key of this id is about to be asked for; `None` if there is a claim on it already.
    pub(crate) fn begin(self: &Arc<Self>, id: KeyId) -> Option<PendingClaim> {
        let mut table = self.table();
        if table.claims.len() >= MOST || table.claims.contains_key(&id) {
            return None;
        }
        Some(self.ask(&mut table, id))
    }

    fn ask(self: &Arc<Self>, table: &mut Table, id: KeyId) -> PendingClaim {
        let asked = CancellationToken::new();
        table.claims.insert(id, Claim::Asked(asked.clone()));
        PendingClaim { claims: self.clone(), id, asked, open: true }
    }

    /// Whether there is a claim on the key of this id, for the next load.
    pub(crate) fn has(&self, id: KeyId) -> bool {
        self.table().claims.contains_key(&id)
    }

    /// Takes the claim on the key of this id.
    pub(crate) fn take(&self, id: KeyId) -> Offer {
        let mut table = self.table();
        match table.claims.get(&id) {
            None => Offer::None,
            Some(Claim::Asked(asked)) => Offer::Asked(asked.clone()),
            Some(Claim::Taken(_)) => match table.claims.remove(&id) {
                Some(Claim::Taken(taken)) => Offer::Taken(taken),
                _ => Offer::None,
            },
        }
    }

    /// The claims that no load took in time, to be given back; `None` once no claims are left.
    pub(crate) fn overdue(self: &Arc<Self>) -> Option<Vec<(Lease, PendingClaim)>> {
        let mut table = self.table();
        table.attended = !table.claims.is_empty();
        if !table.attended {
            return None;
        }
        let is_overdue = |claim: &Claim| matches!(claim, Claim::Taken(taken) if taken.since.elapsed() >= LIFE);
        let overdue: Vec<_> = table.claims.extract_if(|_, claim| is_overdue(claim)).collect();
        let give_back = |(id, claim)| match claim {
            Claim::Taken(taken) => Some((taken.lease, self.ask(&mut table, id))),
            Claim::Asked(_) => None,
        };
        Some(overdue.into_iter().filter_map(give_back).collect())
    }
}

impl PendingClaim {
    /// Records that the lease was granted, for `life` milliseconds, and that `seen` was behind it. `true` if the caller has to
    /// start a task that gives back claims when they are [`overdue`](Claims::overdue).
    pub(crate) fn taken(mut self, lease: Lease, seen: Seen, life: u64) -> bool {
        self.record(lease, seen, life)
    }

    fn record(&mut self, lease: Lease, seen: Seen, life: u64) -> bool {
        self.open = false;
        let mut table = self.claims.table();
        table.claims.insert(self.id, Claim::Taken(Taken { lease, seen, life, since: Instant::now() }));
        !std::mem::replace(&mut table.attended, true)
    }
}

impl Drop for PendingClaim {
    fn drop(&mut self) {
        if self.open {
            self.claims.table().claims.remove(&self.id);
        }
        self.asked.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;

    fn lease(key: &Key) -> Lease {
        Lease::new(key, Lease::random_token(), *b"000000000000000a")
    }

    #[test]
    fn a_key_has_one_claim_and_one_load_takes_it() {
        let (claims, key) = (Arc::new(Claims::default()), Key::new(["k"]));
        let pending = claims.begin(key.id()).unwrap();
        assert!(claims.begin(key.id()).is_none());
        let Offer::Asked(asked) = claims.take(key.id()) else { panic!("it is on its way") };
        assert!(!asked.is_cancelled());
        assert!(pending.taken(lease(&key), Seen::Nothing, 7), "nobody looks after it yet");
        assert!(asked.is_cancelled() && claims.begin(key.id()).is_none());
        assert!(matches!(claims.take(key.id()), Offer::Taken(Taken { seen: Seen::Nothing, life: 7, .. })));
        assert!(matches!(claims.take(key.id()), Offer::None));
    }

    #[test]
    fn a_claim_that_comes_to_nothing_wakes_who_waits_for_it() {
        let (claims, key) = (Arc::new(Claims::default()), Key::new(["k"]));
        let pending = claims.begin(key.id()).unwrap();
        let Offer::Asked(asked) = claims.take(key.id()) else { panic!("it is on its way") };
        drop(pending);
        assert!(asked.is_cancelled() && matches!(claims.take(key.id()), Offer::None));
    }

    #[test]
    fn a_claim_that_was_taken_ends_no_later_one() {
        let (claims, key) = (Arc::new(Claims::default()), Key::new(["k"]));
        let mut pending = claims.begin(key.id()).unwrap();
        pending.record(lease(&key), Seen::Nothing, 7);
        assert!(matches!(claims.take(key.id()), Offer::Taken(_)));
        let later = claims.begin(key.id()).unwrap();
        drop(pending);
        assert!(matches!(claims.take(key.id()), Offer::Asked(_)));
        drop(later);
    }

    #[test]
    fn what_nobody_takes_is_given_back_and_then_nobody_looks_after_it() {
        let [one, other] = ["one", "other"].map(|name| Key::new([name]));
        let claims = loop {
            let (claims, begun) = (Arc::new(Claims::default()), Instant::now());
            assert!(claims.begin(one.id()).unwrap().taken(lease(&one), Seen::Nothing, 7));
            let overdue = claims.overdue().unwrap();
            // Otherwise this thread had to wait for so long that it may be.
            if begun.elapsed() < LIFE {
                assert!(overdue.is_empty(), "it is too soon");
                break claims;
            }
        };
        std::thread::sleep(LIFE);
        assert!(!claims.begin(other.id()).unwrap().taken(lease(&other), Seen::Nothing, 7), "somebody does");
        let overdue = claims.overdue().unwrap();
        assert!(overdue.iter().any(|(lease, _)| lease.key.id() == one.id()));
        assert!(matches!(claims.take(one.id()), Offer::Asked(_)), "it is on its way back");
        drop(overdue);
        claims.take(other.id());
        assert!(claims.overdue().is_none());
        assert!(claims.begin(one.id()).unwrap().taken(lease(&one), Seen::Nothing, 7), "it begins anew");
    }

    #[test]
    fn there_are_so_many_at_most() {
        let claims = Arc::new(Claims::default());
        let keys: Vec<Key> = (0..MOST).map(|number| Key::new([number.to_string()])).collect();
        let pending: Vec<_> = keys.iter().map(|key| claims.begin(key.id()).unwrap()).collect();
        assert!(claims.begin(Key::new(["one more"]).id()).is_none());
        drop(pending);
        assert!(claims.begin(Key::new(["one more"]).id()).is_some());
    }
}
