//! The lurker: sweeps banned entries in the background, at low priority, and then takes the bans off the list.
//!
//! One process sweeps for the fleet, by a lease. That saves work, and correctness does not depend on it: two lurkers at one time
//! do the same work twice.
//!
//! **Why a ban may be taken off.** Until then, readers void the entries that it covers by the list alone. The sweep looks at the
//! leases first: a load that did not know of the ban has lost its lease when that pass ends, or has put its entry where the
//! second pass finds it. So once both passes have ended on every server, no entry that the ban covers is left, and none can come.
//! A ban that is listed while the sweep is under way has a time of its own, and stays.
//!
//! **What it may take in vain.** If everything is invalidated while a sweep is under way, the list is gone, and what is loaded
//! since knows of no ban: the sweep takes it as well if it matches, which costs one more load.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use tokio::time::sleep;

use super::{
    RedisStore,
    connection::{context::Context, handle::Limit},
    election::{Over, Term},
    patterns::rounds,
    store::Inner,
    wire::{
        names::EVERYTHING,
        operation::Operation,
        replies::{AnyType, Count},
        scripts::{self, Batch},
        sweep::sweep_banned,
    },
};
use crate::{
    ban::{Ban, Bans},
    hex,
    store::{StoreError, Sweep, Swept},
    tag::{TagRecord, TagToken},
    telemetry::SweepCause,
};

/// How long it waits in a cluster between the sweep and taking bans off the list: by then, each connection has received the
/// pushes of the sweep on its server, or is known to be lost. Otherwise, one connection receives all of them, in order.
const SETTLING: Duration = Duration::from_secs(5);
/// How long it waits after an error.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

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

    /// Whether the lurker of this process is at work.
    #[cfg(test)]
    pub(in crate::store) fn is_lurking(&self) -> bool {
        self.0.context.is_lurking.load(Ordering::SeqCst)
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
            let lurker = Lurker { store: Arc::downgrade(&self.0), context: self.0.context.clone(), is_over: false };
            self.0.runtime.spawn(lurk(lurker));
        }
    }
}

/// The task that lurks in this process, of which there is one at a time. If it ends, also by a panic, the next ban starts another.
struct Lurker {
    store: Weak<Inner>,
    context: Arc<Context>,
    /// The task says itself whether another one may start.
    is_over: bool,
}

impl Drop for Lurker {
    fn drop(&mut self) {
        if !self.is_over {
            self.context.is_lurking.store(false, Ordering::SeqCst);
        }
    }
}

impl Lurker {
    /// Ends the lurker if there is nothing left to do: `true` if so.
    async fn has_ended(&mut self) -> bool {
        self.is_over = true;
        self.context.is_lurking.store(false, Ordering::SeqCst);
        // A ban that came just now may have seen this task as running.
        if !is_anything_listed(&self.store, &self.context).await || self.context.is_lurking.swap(true, Ordering::SeqCst)
        {
            return true;
        }
        self.is_over = false;
        false
    }
}

/// Sweeps until no ban is left.
async fn lurk(mut lurker: Lurker) {
    let Some(pause) = lurker.context.lurker else { return };
    // Bans that come together are swept together.
    sleep(pause).await;
    loop {
        let pause = match sweep_once(&lurker.store, &lurker.context).await {
            Ok(Outcome::Swept) => pause,
            Ok(Outcome::Nothing) => {
                if lurker.has_ended().await {
                    return;
                }
                pause
            }
            Ok(Outcome::Elsewhere) | Err(StoreError::Unavailable) => AFTER_FAILURE,
            // The permission will be missing the next time, too: no other task starts.
            Err(StoreError::Failed(reason)) if reason.contains("NOPERM") => {
                tracing::warn!(reason, "Redis refuses to scan for banned entries: the bans stay on the list");
                lurker.is_over = true;
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "banned entries are not swept now; readers obey the bans all the same");
                AFTER_FAILURE
            }
        };
        if lurker.store.strong_count() == 0 {
            return;
        }
        sleep(pause).await;
    }
}

/// The result of an attempt.
enum Outcome {
    Swept,
    Nothing,
    /// Another process is sweeping.
    Elsewhere,
}

/// The store is held only while the next step is determined: it may be dropped during the sweep.
async fn sweep_once(store: &Weak<Inner>, context: &Arc<Context>) -> Result<Outcome, StoreError> {
    let tags = {
        let Some(store) = store.upgrade().map(RedisStore) else { return Ok(Outcome::Nothing) };
        let connection = store.connection_to_tags();
        let session = connection.session()?;
        (connection, session)
    };
    let Some(listed) = listed(context, &tags).await? else { return Ok(Outcome::Nothing) };
    let Some(term) = Term::begin(context, &tags, context.names.lurker()).await? else { return Ok(Outcome::Elsewhere) };
    let begun = Instant::now();
    let swept = tokio::select! {
        swept = sweep_all(store, &term, &listed) => swept,
        // The store is gone, so the sweep has no use.
        () = term.last(store) => Err(StoreError::Unavailable),
    };
    term.end().await;
    let (swept, duration) = (swept?, begun.elapsed());
    let patterns = listed.0.as_slice().iter().map(|ban| ban.pattern.to_string()).collect();
    context.sweeps.tell(&Sweep { cause: SweepCause::Pattern, patterns, swept, duration });
    Ok(Outcome::Swept)
}

/// Sweeps every server, and takes the bans off the list.
async fn sweep_all(store: &Weak<Inner>, term: &Term<'_>, listed: &Listed) -> Result<Swept, StoreError> {
    let context = term.context();
    let (mut servers, mut all) = (Vec::new(), Swept::default());
    loop {
        let new = store.upgrade().map(RedisStore).ok_or(StoreError::Unavailable)?.servers_besides(&servers)?;
        if new.is_empty() {
            break;
        }
        all = all.and(sweep_servers(context, &new, listed).await?);
        servers.extend(new);
        if !context.names.is_clustered() {
            break;
        }
        sleep(SETTLING).await;
        // A name may have moved to a server that had none before.
        let looked = store.upgrade().map(|store| store.topology.look_until_every_server_is_shown());
        if let Some(looked) = looked {
            looked.await;
        }
    }
    let taken_off = take_off(context, term.tags(), listed).await?;
    context.counters.swept_bans(taken_off);
    tracing::debug!(bans = taken_off, entries = all.removed, "swept banned entries");
    Ok(all)
}

/// Sweeps these servers, in as many rounds as it takes. What the first one leaves is looked at again, and not counted again.
async fn sweep_servers(context: &Context, servers: &[Over], (bans, token): &Listed) -> Result<Swept, StoreError> {
    let (names, mut all) = (&context.names, Swept::default());
    for round in 0..rounds(names) {
        for (connection, session) in servers {
            let sweep = async |mut driver: MultiplexedConnection| sweep_banned(names, bans, token, &mut driver).await;
            let swept = connection.run_with(Operation::Scan, session, Limit::Steps, sweep).await?;
            let examined = if round == 0 { swept.examined } else { 0 };
            all = all.and(Swept { examined, ..swept });
        }
    }
    Ok(all)
}

async fn is_anything_listed(store: &Weak<Inner>, context: &Context) -> bool {
    let Some(connection) = store.upgrade().map(|store| RedisStore(store).connection_to_tags()) else { return false };
    let Ok(session) = connection.session() else { return false };
    listed(context, &(connection, session)).await.is_ok_and(|listed| listed.is_some())
}

/// A list of bans, and the token under which it is.
type Listed = (Bans, TagToken);

/// The current list of bans, if there are any.
async fn listed(context: &Context, (connection, session): &Over) -> Result<Option<Listed>, StoreError> {
    let mut batch = Batch::default();
    batch.get_any(&context.names.tag(EVERYTHING));
    let (AnyType(found),): (AnyType,) = connection.run(Operation::Mget, session, &batch).await?;
    let record = found.and_then(|found| TagRecord::parse(&found));
    let listed = |record: TagRecord| Some((record.bans().filter(|bans| !bans.is_empty())?.clone(), record.token));
    Ok(record.and_then(listed))
}

/// Takes bans off the list after their sweep; returns how many were on it.
async fn take_off(context: &Context, (connection, session): &Over, (bans, token): &Listed) -> Result<u64, StoreError> {
    let times: Vec<[u8; 16]> = bans.as_slice().iter().map(|Ban { at, .. }| hex::of_u64(*at)).collect();
    let arguments: Vec<&[u8]> = [token.line()].into_iter().chain(times.iter().map(<[u8; 16]>::as_slice)).collect();
    let mut batch = Batch::default();
    batch.call(&scripts::TAKE_OFF, &[&context.names.tag(EVERYTHING)], &arguments);
    let (count,): (Count,) = connection.run(Operation::TakeOff, session, &batch).await?;
    count.at_most(times.len()).map_err(|error| StoreError::Failed(error.to_string()))
}
