//! Reclaims the room of entries that their tags have made void: at low priority, in one process of a fleet, at long intervals, and
//! only if anything was invalidated since the last time. Nothing depends on it, since readers compare tokens.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use tokio::time::sleep;

use super::{
    RedisStore,
    connection::{context::Context, handle::Limit},
    election::{Over, Term},
    store::Inner,
    wire::{
        operation::Operation,
        reclaim::Reclaim,
        replies::{AnyType, Done},
        scripts::Batch,
        sweep::reclaim_void,
    },
};
use crate::{
    clock::millis,
    store::{StoreError, Sweep, Swept},
    telemetry::SweepCause,
};

/// The pause after a sweep, as a multiple of its duration, of which a fifth is work. It is up to a quarter shorter, so that this
/// takes a hundredth of a server's time at most.
const PAUSE: u32 = 30;
/// For how long the server remembers after which invalidation it was last swept. If it forgets that, it is swept once more.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl RedisStore {
    /// Starts the task that reclaims, each time after a pause of `every`.
    pub(super) fn begin_to_reclaim(&self, every: Duration) {
        let Inner { context, runtime, stop, .. } = &*self.0;
        // The names of tags in sealed entries are hidden, and so is which tags an entry carries.
        if context.lurker.is_none() || context.names.sealing().hides_names() {
            return;
        }
        let (store, stop) = (Arc::downgrade(&self.0), stop.clone());
        runtime.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = reclaim(store, every) => {}
            }
        });
    }

    #[cfg(test)]
    pub(in crate::store) fn hides_names(&self) -> bool {
        self.0.context.names.sealing().hides_names()
    }

    /// Sweeps once.
    #[cfg(test)]
    pub(in crate::store) async fn reclaim_now(&self) -> Swept {
        let context = self.0.context.clone();
        let connection = self.connection_to_tags();
        let session = connection.session().expect("a connection");
        let (tags, store) = ((connection, session), Arc::downgrade(&self.0));
        let term = Term::begin(&context, &tags, context.names.reclaimer()).await.expect("an answer").expect("elected");
        let swept = sweep_all(&store, &term).await.expect("an answer");
        term.end().await;
        swept
    }
}

async fn reclaim(store: Weak<Inner>, every: Duration) {
    let (mut pause, mut last) = (every, None);
    loop {
        // Processes that were started together don't ask together.
        sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        pause = match reclaim_once(&store, every, &mut last).await {
            Ok(pause) => pause,
            Err(StoreError::Failed(reason)) if reason.contains("NOPERM") => {
                tracing::debug!(reason, "Redis refuses to scan for void entries: they stay until they expire");
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "void entries are not reclaimed now");
                every
            }
        };
    }
}

/// Sweeps, unless nothing was invalidated since the last sweep of the fleet, or another process sweeps; returns the pause until the
/// next time. `last` is what this process swept, in case the server has forgotten it, or has no room for it. The store is held
/// only while the next step is determined.
async fn reclaim_once(
    store: &Weak<Inner>,
    every: Duration,
    last: &mut Option<Vec<u8>>,
) -> Result<Duration, StoreError> {
    let Some((context, tags)) = over(store)? else { return Ok(every) };
    let mut batch = Batch::default();
    batch.get_any(&context.names.last_invalidation());
    batch.get_any(&context.names.reclaimed());
    let (AnyType(note), AnyType(swept)): (AnyType, AnyType) =
        tags.0.run(Operation::LastInvalidation, &tags.1, &batch).await?;
    if note.is_some() && (note == *last || note == swept) {
        return Ok(every);
    }
    let Some(term) = Term::begin(&context, &tags, context.names.reclaimer()).await? else { return Ok(every) };
    let begun = Instant::now();
    match sweep_all(store, &term).await {
        Ok(swept) => {
            let duration = begun.elapsed();
            if let Some(note) = &note {
                remember(&context, &tags, note).await;
            }
            *last = note;
            context.sweeps.tell(&Sweep { cause: SweepCause::Tag, patterns: Vec::new(), swept, duration });
            let pause = every.max(PAUSE * duration);
            // Also for the other processes.
            term.keep_for(pause * 3 / 4).await;
            Ok(pause)
        }
        Err(error) => {
            term.end().await;
            Err(error)
        }
    }
}

/// Tells the other processes that everything is swept that was void by the time of this invalidation.
async fn remember(context: &Context, (connection, session): &Over, note: &[u8]) {
    let mut batch = Batch::default();
    batch.set_for(&context.names.reclaimed(), note, millis(REMEMBERED));
    let told: Result<(Done,), StoreError> = connection.run(Operation::Elect, session, &batch).await;
    if let Err(error) = told {
        tracing::debug!(%error, "other processes reclaim once more what was reclaimed");
    }
}

/// The way to the tags; `None` if the store is gone.
fn over(store: &Weak<Inner>) -> Result<Option<(Arc<Context>, Over)>, StoreError> {
    let Some(store) = store.upgrade().map(RedisStore) else { return Ok(None) };
    let connection = store.connection_to_tags();
    let session = connection.session()?;
    Ok(Some((store.0.context.clone(), (connection, session))))
}

async fn sweep_all(store: &Weak<Inner>, term: &Term<'_>) -> Result<Swept, StoreError> {
    let servers: Vec<Over> = {
        let Some(store) = store.upgrade().map(RedisStore) else { return Err(StoreError::Unavailable) };
        let all = store.0.topology.one_of_each_server().into_iter();
        all.map(|connection| connection.session().map(|session| (connection, session))).collect::<Result<_, _>>()?
    };
    let mut reclaim = Reclaim::new(term.tags().1.driver());
    for (connection, session) in &servers {
        let (names, found) = (&term.context().names, &mut reclaim);
        let sweep = |mut driver: MultiplexedConnection| async move { reclaim_void(names, found, &mut driver).await };
        tokio::select! {
            swept = connection.run_with(Operation::Scan, session, Limit::Steps, sweep) => swept?,
            // The store is gone, so that no cache needs the room.
            () = term.last(store) => return Err(StoreError::Unavailable),
        }
    }
    Ok(reclaim.swept())
}
