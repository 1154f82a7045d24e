//! Invalidation by pattern: a ban, or on every server a [sweep](super::wire::sweep) of its names; it is kept if that fails.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;

use super::{
    RedisStore,
    connection::{
        handle::{Connection, Limit},
        session::Session,
    },
    tracking::local_tier::LocalTier,
    wire::{
        invalidation::with_dataset_id,
        operation::Operation,
        replies::Flag,
        scripts::{Batch, Window},
        sweep::{delete_matching, soften_matching},
    },
};
use crate::{
    pattern::Pattern,
    store::{Extent, Hardness, Invalidated, Scope, StoreError},
};

impl RedisStore {
    /// Records that matching entries are void, or stale; readers obey that until those are swept. If there is no room for the
    /// record, they are swept now.
    pub(super) async fn ban(&self, pattern: &Pattern, hardness: Hardness) -> Result<Extent, StoreError> {
        if self.0.context.names.sealing().hides_names() {
            // The lurker could not sweep, and the pattern would reveal hidden names.
            return self.deliver(Scope::Everything, hardness).await.map(|extent| extent.and(Extent::EVERYTHING));
        }
        if let Some(extent) = self.deliver_if_there_is_room(Scope::Pattern(pattern), hardness).await? {
            self.begin_to_lurk();
            return Ok(extent);
        }
        self.0.context.counters.overflowed();
        self.sweep_with_others(pattern, hardness).await
    }

    /// Sweeps a pattern for which the list has no room: one sweep at a time, for all that wait by then.
    async fn sweep_with_others(&self, pattern: &Pattern, hardness: Hardness) -> Result<Extent, StoreError> {
        let swept = self.0.waiting_patterns.add(pattern, hardness);
        let turn = self.0.waiting_patterns.turn.lock().await;
        // None, if an earlier sweep has taken this pattern with it.
        for group in self.0.waiting_patterns.take() {
            let patterns: Vec<&Pattern> = group.iter().map(|waiting| &waiting.pattern).collect();
            let result = self.invalidate_patterns(&patterns, group[0].hardness).await.map(|swept| swept.extent);
            for waiting in group {
                // Its caller may have gone away with its runtime.
                let _ = waiting.done.send(result.clone());
            }
        }
        drop(turn);
        swept.await.unwrap_or(Err(StoreError::Unavailable))
    }

    /// Deletes matching entries, or makes them stale; a call that can't be delivered is kept as a deletion.
    pub(super) async fn invalidate_patterns(
        &self,
        patterns: &[&Pattern],
        hardness: Hardness,
    ) -> Result<Invalidated, StoreError> {
        if self.0.context.names.sealing().hides_names() {
            // A pattern can't be matched against hidden names.
            return self.deliver(Scope::Everything, hardness).await.map(|_| Extent::EVERYTHING.into());
        }
        let local_tier = self.0.context.local_tier.get().map(|tier| &**tier);
        let mut deleted = Ok(Invalidated::default());
        // In a cluster, a name may move from one server to another while they are swept one after the other, but not twice.
        let rounds = if self.0.context.names.is_clustered() { 2 } else { 1 };
        for connection in std::iter::repeat_n(self.0.topology.one_of_each_server(), rounds).flatten() {
            let here = match connection.session() {
                Ok(session) => self.sweep(&connection, &session, (patterns, hardness), local_tier).await,
                Err(error) => Err(error),
            };
            deleted = deleted.and_then(|before| here.map(|here| before.and(here)));
        }
        if deleted.is_err() {
            for pattern in patterns {
                local_tier.into_iter().for_each(|tier| tier.void_matching(pattern));
                self.0.context.outbox.add(Scope::Pattern(pattern));
            }
            self.connections().iter().for_each(|connection| connection.reset());
        }
        deleted
    }

    async fn sweep(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
        (patterns, hardness): (&[&Pattern], Hardness),
        local_tier: Option<&LocalTier>,
    ) -> Result<Invalidated, StoreError> {
        let names = &self.0.context.names;
        let window = Window { begin: self.0.context.clock.now(), length: hardness.window() };
        let delete = async |mut driver: MultiplexedConnection| {
            // Deleted entries leave the first tier before the caller gets the result.
            let mut void = |id| local_tier.into_iter().for_each(|tier| tier.void(id));
            let deleted = match hardness {
                Hardness::Hard => delete_matching(names, patterns, &mut void, &mut driver).await?,
                Hardness::Soft | Hardness::Ramp(_) => {
                    soften_matching(names, patterns, window, &mut void, &mut driver).await?
                }
            };
            // A node of a cluster has no data set id to read, and takes no empty batch.
            let reached = match names.is_clustered() {
                true => None,
                false => with_dataset_id::<Flag>(names, Batch::default(), 0, &mut driver).await?,
            };
            Ok((deleted, reached))
        };
        let (deleted, reached) = connection.run_with(Operation::Scan, session, Limit::Steps, delete).await?;
        if !connection.leads_to(session, reached.as_deref()).await? {
            return Err(StoreError::Unavailable);
        }
        Ok(deleted.map_or(Extent::EVERYTHING.into(), |deleted| Invalidated { deleted, ..Invalidated::default() }))
    }
}
