//! The lurker: sweeps banned entries in the background, at low priority, and then takes the bans off the list.
//!
//! One process sweeps for the fleet, by a lease. That saves work, and correctness does not depend on it: two lurkers at one time
//! do the same work twice.
//!
//! **Why a ban may be taken off.** Until then, readers void the entries that it covers by the list alone. The sweep looks at the
//! leases first: a load that did not know of the ban has lost its lease when that pass ends, or has put its entry where the
//! second pass finds it. So once both passes have ended on every server, no entry that the ban covers is left, and none can come.
//! A ban that is listed while the sweep is under way has a time of its own, and stays.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use redis::aio::MultiplexedConnection;
use tokio::time::sleep;

use super::{
    RedisStore,
    connection::{
        context::Context,
        handle::{Connection, Limit},
        session::Session,
    },
    store::Inner,
    wire::{
        names::EVERYTHING,
        operation::Operation,
        replies::{AnyType, Count, Flag, Taken},
        scripts::{self, Batch},
        sweep::sweep_banned,
    },
};
use crate::{
    ban::{Ban, Bans},
    hex,
    store::{Lease, LeaseToken, StoreError},
    tag::{TagRecord, TagToken},
};

/// For how long a lurker is elected, in milliseconds. It renews that while it sweeps.
const TERM: u64 = 30_000;
/// How long it waits in a cluster between the sweep and taking bans off the list: by then, each connection has received the
/// pushes of the sweep on its server, or is known to be lost. Otherwise, one connection receives all of them, in order.
const SETTLING: Duration = Duration::from_secs(5);
/// How long it waits after an error.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// The servers of a sweep: for each, the connection, and the session that must last from the beginning to the end.
type Servers = Vec<(Arc<Connection>, Arc<Session>)>;

impl RedisStore {
    /// Starts a task that sweeps, if these records list any bans.
    pub(super) fn note_bans(&self, records: &[Option<TagRecord>]) {
        for bans in records.iter().flatten().filter_map(TagRecord::bans) {
            self.0.context.has_bans.store(true, Ordering::Relaxed);
            if !bans.is_empty() {
                self.begin_to_lurk();
            }
        }
    }

    /// Deletes the entry of `key`, and takes all bans off the list, without sweeping leases.
    #[cfg(test)]
    pub(super) async fn take_off_hastily(&self, key: &crate::key::Key) -> bool {
        let connection = self.connection_to_tags();
        let Ok(session) = connection.session() else { return false };
        let over = (connection, session);
        let Ok(Some(bans)) = listed(&self.0.context, &over).await else { return true };
        let mut batch = Batch::default();
        batch.unlink([self.0.context.names.entry(key)]);
        let unlinked: Result<(Count,), StoreError> = over.0.run(Operation::Unlink, &over.1, &batch).await;
        unlinked.is_ok() && take_off(&self.0.context, &over, &bans).await.is_ok()
    }

    /// Whether any ban is listed on the server now.
    #[cfg(test)]
    pub(in crate::store) async fn has_bans(&self) -> bool {
        is_anything_listed(&Arc::downgrade(&self.0), &self.0.context).await
    }

    /// The bans that are listed, as far as this process knows.
    pub(super) fn bans_listed(&self) -> Option<Bans> {
        let session = self.connection_to_tags().session().ok()?;
        session.tokens.get(EVERYTHING)?.record().bans().cloned()
    }

    /// Starts a task that sweeps banned entries, unless there is one.
    pub(super) fn begin_to_lurk(&self) {
        let Context { lurker, is_lurking, names, .. } = &*self.0.context;
        // A store that hides its names has no bans.
        if lurker.is_some() && !names.sealing().hides_names() && !is_lurking.swap(true, Ordering::SeqCst) {
            self.0.runtime.spawn(lurk(Arc::downgrade(&self.0), self.0.context.clone()));
        }
    }
}

/// Sweeps until no ban is left.
async fn lurk(store: Weak<Inner>, context: Arc<Context>) {
    let Some(pause) = context.lurker else { return };
    // Bans that come together are swept together.
    sleep(pause).await;
    loop {
        let outcome = sweep_once(&store, &context).await;
        let pause = match outcome {
            Ok(Swept::Some) => pause,
            Ok(Swept::Nothing) => {
                context.is_lurking.store(false, Ordering::SeqCst);
                // A ban that came just now may have seen this task as running.
                if !is_anything_listed(&store, &context).await || context.is_lurking.swap(true, Ordering::SeqCst) {
                    return;
                }
                pause
            }
            Ok(Swept::Elsewhere) | Err(StoreError::Unavailable) => AFTER_FAILURE,
            // The permission will be missing the next time, too.
            Err(StoreError::Failed(reason)) if reason.contains("NOPERM") => {
                tracing::warn!(reason, "Redis refuses to look for what is banned: it stays on the list of bans");
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "what is banned is not swept now; readers heed it all the same");
                AFTER_FAILURE
            }
        };
        if store.strong_count() == 0 {
            return;
        }
        sleep(pause).await;
    }
}

/// The result of an attempt.
enum Swept {
    Some,
    Nothing,
    /// Another process is sweeping.
    Elsewhere,
}

/// The store is held only while the next step is determined: it may be dropped during the sweep.
async fn sweep_once(store: &Weak<Inner>, context: &Arc<Context>) -> Result<Swept, StoreError> {
    let servers = |store: &RedisStore| -> Result<Servers, StoreError> {
        let all = store.0.topology.one_of_each_server().into_iter();
        all.map(|connection| connection.session().map(|session| (connection, session))).collect()
    };
    let (tags, servers) = {
        let Some(store) = store.upgrade().map(RedisStore) else { return Ok(Swept::Nothing) };
        let connection = store.connection_to_tags();
        let session = connection.session()?;
        ((connection, session), servers(&store)?)
    };
    let Some(bans) = listed(context, &tags).await? else { return Ok(Swept::Nothing) };
    let token = Lease::random_token();
    if !elect(context, &tags, &token).await? {
        return Ok(Swept::Elsewhere);
    }
    let swept = sweep_all(store, context, &tags, &servers, &bans, &token).await;
    resign(context, &tags, &token).await;
    swept.map(|()| Swept::Some)
}

async fn sweep_all(
    store: &Weak<Inner>,
    context: &Arc<Context>,
    tags: &(Arc<Connection>, Arc<Session>),
    servers: &Servers,
    listed: &Listed,
    token: &LeaseToken,
) -> Result<(), StoreError> {
    // In a cluster, a name may move from one server to another while they are swept one after the other, but not twice.
    let rounds = if context.names.is_clustered() { 2 } else { 1 };
    let mut count = 0;
    for (connection, session) in std::iter::repeat_n(servers, rounds).flatten() {
        count += tokio::select! {
            swept = sweep_server(context, connection, session, listed) => swept?,
            // The store is gone, so the sweep has no use.
            () = ended(store, context, tags, token) => return Err(StoreError::Unavailable),
        };
    }
    if context.names.is_clustered() {
        sleep(SETTLING).await;
    }
    let taken_off = take_off(context, tags, listed).await?;
    context.counters.swept_bans(taken_off);
    tracing::debug!(bans = taken_off, entries = count, "swept what was banned");
    Ok(())
}

async fn sweep_server(
    context: &Context,
    connection: &Connection,
    session: &Arc<Session>,
    (bans, token): &Listed,
) -> Result<u64, StoreError> {
    let sweep = async |mut driver: MultiplexedConnection| sweep_banned(&context.names, bans, token, &mut driver).await;
    connection.run_with(Operation::Scan, session, Limit::Steps, sweep).await
}

/// Returns once the store is gone; until then, it renews the election.
async fn ended(store: &Weak<Inner>, context: &Context, tags: &(Arc<Connection>, Arc<Session>), token: &LeaseToken) {
    let mut looked = 0_u64;
    while store.strong_count() > 0 {
        sleep(Duration::from_millis(100)).await;
        looked += 1;
        // At a third of the term.
        if looked.is_multiple_of(TERM / 300) {
            let mut batch = Batch::default();
            batch.call(&scripts::RENEW, &[&context.names.lurker()], &[token, TERM.to_string().as_bytes()]);
            let _: Result<(Flag,), StoreError> = tags.0.run(Operation::Elect, &tags.1, &batch).await;
        }
    }
}

async fn is_anything_listed(store: &Weak<Inner>, context: &Context) -> bool {
    let Some(connection) = store.upgrade().map(|store| RedisStore(store).connection_to_tags()) else { return false };
    let Ok(session) = connection.session() else { return false };
    listed(context, &(connection, session)).await.is_ok_and(|listed| listed.is_some())
}

/// The current list of bans, and its token.
type Listed = (Bans, TagToken);

/// The current list of bans, if there are any.
async fn listed(
    context: &Context,
    (connection, session): &(Arc<Connection>, Arc<Session>),
) -> Result<Option<Listed>, StoreError> {
    let mut batch = Batch::default();
    batch.get_any(&context.names.tag(EVERYTHING));
    let (AnyType(found),): (AnyType,) = connection.run(Operation::Mget, session, &batch).await?;
    let record = found.and_then(|found| TagRecord::parse(&found));
    let listed = |record: TagRecord| Some((record.bans().filter(|bans| !bans.is_empty())?.clone(), record.token));
    Ok(record.and_then(listed))
}

async fn elect(
    context: &Context,
    (connection, session): &(Arc<Connection>, Arc<Session>),
    token: &LeaseToken,
) -> Result<bool, StoreError> {
    let mut batch = Batch::default();
    batch.take(&context.names.lurker(), token, TERM);
    let (taken,): (Taken,) = connection.run(Operation::Elect, session, &batch).await?;
    Ok(taken == Taken::Now)
}

/// Ends the term, however the sweep ended.
async fn resign(context: &Context, (connection, session): &(Arc<Connection>, Arc<Session>), token: &LeaseToken) {
    let mut batch = Batch::default();
    batch.call(&scripts::RELEASE, &[&context.names.lurker()], &[token, b"0"]);
    let _: Result<(Flag,), StoreError> = connection.run(Operation::Elect, session, &batch).await;
}

/// Takes bans off the list after their sweep; returns how many were on it.
async fn take_off(
    context: &Context,
    (connection, session): &(Arc<Connection>, Arc<Session>),
    (bans, token): &Listed,
) -> Result<u64, StoreError> {
    let times: Vec<[u8; 16]> = bans.as_slice().iter().map(|Ban { at, .. }| hex::of_u64(*at)).collect();
    let arguments: Vec<&[u8]> = [token.line()].into_iter().chain(times.iter().map(<[u8; 16]>::as_slice)).collect();
    let mut batch = Batch::default();
    batch.call(&scripts::TAKE_OFF, &[&context.names.tag(EVERYTHING)], &arguments);
    let (count,): (Count,) = connection.run(Operation::TakeOff, session, &batch).await?;
    count.at_most(times.len()).map_err(|error| StoreError::Failed(error.to_string()))
}
