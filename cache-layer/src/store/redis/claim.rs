//! Look-ups that take the lease as well: if a load will most likely follow, it need not ask for the lease in a round trip of its
//! own.
//!
//! The lease is taken first, and its entry is read after it, so that the reply is as good as that to
//! [`acquire_lease`](RedisStore::acquire_lease). In a cluster, a lease needs two servers: there, each load asks for it.

use std::sync::{Arc, atomic::Ordering};

use tokio::{
    sync::SetOnce,
    time::{sleep, timeout},
};
use tracing::Instrument as _;

use super::{
    RedisStore,
    connection::{
        batcher::{Claim, Claimed},
        context::Context,
        handle::{Connection, Limit},
        session::Session,
    },
    lookup::opened,
    tracking::claims::{LIFE, Offer, PendingClaim},
    wire::operation::Operation,
};
use crate::{
    entry::Entry,
    key::Key,
    store::{Lease, Lookup, Seen, StoreError},
};

/// A connection, and its session.
type Over<'a> = (&'a Connection, &'a Arc<Session>);

impl RedisStore {
    /// The claim for a look-up of `key`, if a load will most likely follow.
    pub(super) fn begin_claim(&self, key: &Key, session: &Session) -> Option<PendingClaim> {
        let Context { names, fresh, claims, leases, lease_life, clock, .. } = &*self.0.context;
        let id = key.id();
        let possible = session.tracking && !session.is_full() && !names.is_clustered() && !id.is_variant();
        let likely = || fresh.is_trusted() && !fresh.has(id, clock.now()) && !leases.has_any(id);
        // Without an earlier load, the life of a lease is not known.
        let known = possible && lease_life.load(Ordering::Relaxed) > 0;
        if known && likely() { claims.begin(id) } else { None }
    }

    /// `None` if a look-up without a claim [returns `None`](Self::lookup), too.
    pub(super) async fn lookup_and_claim(
        &self,
        key: &Key,
        (connection, session): Over<'_>,
        (tags, tags_session): Over<'_>,
        claim: PendingClaim,
    ) -> Result<Option<Lookup>, StoreError> {
        let Context { names, fresh, lease_life, clock, .. } = &*self.0.context;
        // Part of the lease's value. Afterwards, the list is tracked from before the read.
        let bans = self.known_bans(tags, tags_session).await?;
        let watch = tags_session.tokens.watch_bans();
        let (life, outcome) = (lease_life.load(Ordering::Relaxed), Arc::default());
        let lease = Lease::new(key, self.lease_token(), [0; 16]).knowing(bans);
        let over = [(connection, session), (tags, tags_session)];
        let (request, set_back) = (self.begin_lease(key, lease.token, over)?, clock.times_set_back());
        let (name, note) = (names.lease(key), names.last_invalidation());
        let asked = Claim { lease: name, note, value: lease.value(), life, outcome: Arc::clone(&outcome) };
        let answer = session.lookups.ask_and_claim(key, || names.entry(key), asked);
        let mut sent = SentClaim { store: self, lease: lease.clone(), outcome: &outcome, claim: Some(claim) };
        let answered = async { answer.wait().await.as_ref().map_err(Clone::clone) };
        let wait = connection.wait(Operation::Claim, session, Limit::Request, answered);
        let (found, ()) = tokio::join!(wait, self.learn_life_of_everything(tags, tags_session));
        let lookup = match opened(found?, key, self.0.context.names.sealing()) {
            Ok(entry) => {
                let judged = self.judge(tags, tags_session, key, &entry).await?;
                let Some(state) = judged.unless_in_doubt(&tags_session.tokens, watch) else { return Ok(None) };
                Lookup::judged(entry, state)
            }
            Err(lookup) => lookup,
        };
        match outcome.get() {
            Some(Claimed::Taken(started)) => {
                if let Some(seen) = self.to_be_loaded(&lookup) {
                    if !request.granted() {
                        self.watch_again(connection, session, &lease, Limit::Request).await;
                    }
                    let lease = lease.started(*started).under(tags.dataset_id(), set_back);
                    if sent.claim.take().is_some_and(|claim| claim.taken(lease, seen, life)) {
                        self.attend_to_claims();
                    }
                } else {
                    fresh.learn(false);
                }
            }
            Some(Claimed::NotTaken) => drop(sent.claim.take()),
            Some(Claimed::Doubtful) | None => {}
        }
        if self.to_be_loaded(&lookup).is_none() {
            self.note_fresh(key, &lookup);
        }
        Ok(Some(lookup))
    }

    /// The lease on `key` that a look-up took, if the look-up found what was `seen`, and took the lease for `life` milliseconds.
    pub(super) async fn claimed(&self, key: &Key, seen: Seen, life: u64) -> Option<Lease> {
        let Context { claims, leases, fresh, timeouts, .. } = &*self.0.context;
        loop {
            match claims.take(key.id()) {
                Offer::None => return None,
                // Waits no longer than this: the task of that look-up may have been dropped by its caller.
                Offer::Asked(asked) => timeout(timeouts.operation, asked.cancelled()).await.ok()?,
                Offer::Taken(taken) => {
                    fresh.learn(true);
                    let as_seen = taken.seen == seen || seen == Seen::Unusable;
                    // If it changed since, the attempt to acquire another lease finds that out.
                    if as_seen && taken.life == life && leases.stands(&taken.lease) {
                        return Some(taken.lease);
                    }
                    self.give_back(&taken.lease).await;
                }
            }
        }
    }

    /// Gives back claims that no load takes.
    fn attend_to_claims(&self) {
        let store = self.clone();
        self.0.runtime.spawn(async move {
            loop {
                sleep(LIFE).await;
                let Some(overdue) = store.0.context.claims.overdue() else { return };
                for (lease, claim) in overdue {
                    store.0.context.fresh.learn(false);
                    store.give_back_claim(lease, claim);
                }
            }
        });
    }

    /// Gives a claim back. Until that is done, loads of this process wait for it.
    fn give_back_claim(&self, lease: Lease, claim: PendingClaim) {
        let store = self.clone();
        let give_back = async move {
            store.give_back(&lease).await;
            drop(claim);
        };
        self.0.runtime.spawn(give_back.in_current_span());
    }

    /// Adjusts the guess about claims by the result of a look-up without a claim.
    pub(super) fn learn_from(&self, key: &Key, lookup: &Lookup) {
        let (Context { fresh, clock, .. }, id) = (&*self.0.context, key.id());
        if id.is_variant() {
            return;
        }
        let loaded = self.to_be_loaded(lookup).is_some();
        if !fresh.has(id, clock.now()) && !fresh.is_trusted() {
            fresh.learn(loaded);
        }
        if loaded { fresh.forget(id) } else { self.note_fresh(key, lookup) }
    }

    fn note_fresh(&self, key: &Key, lookup: &Lookup) {
        if let Lookup::Found(entry) = lookup {
            self.note_stored(key, entry);
        }
    }

    /// Notes that `key` has an entry.
    pub(super) fn note_stored(&self, key: &Key, entry: &Entry) {
        if !key.id().is_variant() {
            self.0.context.fresh.note(key.id(), entry.deadlines().fresh);
        }
    }

    /// What a load that follows would have seen; `None` if no load is expected.
    fn to_be_loaded(&self, lookup: &Lookup) -> Option<Seen> {
        match lookup {
            Lookup::Absent => Some(Seen::Nothing),
            Lookup::Rejected(_, seen) => Some(*seen),
            Lookup::Found(entry) => {
                (entry.deadlines().fresh <= self.0.context.clock.now()).then(|| Seen::Entry(entry.id()))
            }
        }
    }
}

/// A claim that was sent. If its look-up is gone when the lease is granted, it is given back.
struct SentClaim<'a> {
    store: &'a RedisStore,
    lease: Lease,
    outcome: &'a Arc<SetOnce<Claimed>>,
    claim: Option<PendingClaim>,
}

impl Drop for SentClaim<'_> {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        let (store, lease, outcome) = (self.store.clone(), self.lease.clone(), self.outcome.clone());
        let give_back = async move {
            // The claim may not have been sent yet, and the command that gives it back must not overtake it.
            let _ = timeout(2 * store.0.context.timeouts.operation, outcome.wait()).await;
            if outcome.get() != Some(&Claimed::NotTaken) {
                store.give_back(&lease).await;
            }
            drop(claim);
        };
        self.store.0.runtime.spawn(give_back.in_current_span());
    }
}
