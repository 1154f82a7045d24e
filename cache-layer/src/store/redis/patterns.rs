//! Invalidation by pattern: a ban, or on every server a [sweep](super::wire::sweep) of its names; it is kept if that fails.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;

use super::{
    RedisStore,
    connection::handle::{Connection, Limit},
    election::Over,
    wire::{
        invalidation::with_dataset_id,
        names::Names,
        operation::Operation,
        replies::Flag,
        scripts::{Batch, Window},
        sweep::{delete_matching, in_time, soften_matching},
    },
};
use crate::{
    pattern::Pattern,
    store::{Extent, Hardness, Invalidated, Scope, StoreError},
};

/// How often a sweep goes over all servers. In a cluster, a name may move from one server to another while they are swept one after
/// the other, but not twice.
pub(super) fn rounds(names: &Names) -> usize {
    if names.is_clustered() { 2 } else { 1 }
}

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
        let context = &self.0.context;
        if context.names.sealing().hides_names() {
            // A pattern can't be matched against hidden names.
            return self.deliver(Scope::Everything, hardness).await.map(|_| Extent::EVERYTHING.into());
        }
        // A server may fail over during the sweep, which takes a while, or soon after it.
        let remember = || patterns.iter().for_each(|pattern| context.guard.remember(Scope::Pattern(pattern)));
        remember();
        let swept = self.sweep_every_server(patterns, hardness).await;
        remember();
        if swept.is_err() {
            for pattern in patterns {
                context.local_tier.get().into_iter().for_each(|tier| tier.void_matching(pattern));
                context.outbox.add(Scope::Pattern(pattern));
            }
            self.connections().iter().for_each(|connection| connection.reset());
        }
        swept
    }

    /// The servers besides those that were `swept`, each of whose sessions must last for the whole sweep.
    pub(super) fn servers_besides(&self, swept: &[Over]) -> Result<Vec<Over>, StoreError> {
        let is_swept = |connection: &Arc<Connection>| {
            let beside = self.0.topology.beside(connection);
            swept.iter().any(|(swept, _)| beside.iter().any(|one| Arc::ptr_eq(one, swept)))
        };
        let new = self.0.topology.one_of_each_server().into_iter().filter(|connection| !is_swept(connection));
        new.map(|connection| connection.session().map(|session| (connection, session))).collect()
    }

    async fn sweep_every_server(&self, patterns: &[&Pattern], hardness: Hardness) -> Result<Invalidated, StoreError> {
        let (mut servers, mut all) = (Vec::new(), Invalidated::default());
        loop {
            let new = self.servers_besides(&servers)?;
            if new.is_empty() {
                return Ok(all);
            }
            for server in std::iter::repeat_n(&new, rounds(&self.0.context.names)).flatten() {
                all = all.and(self.sweep(server, patterns, hardness).await?);
            }
            servers.extend(new);
            if !self.0.topology.shows_every_server().await {
                return Ok(all.and(self.void_what_moves(patterns, hardness).await?.into()));
            }
        }
    }

    /// Some of what matches may be on a server that gets its first slot, or that does not answer. The caller does not wait for that:
    /// readers obey a ban, until the lurker has found every server. Without room for it, everything is invalidated.
    async fn void_what_moves(&self, patterns: &[&Pattern], hardness: Hardness) -> Result<Extent, StoreError> {
        let mut extent = Extent::default();
        for pattern in patterns {
            extent = match self.deliver_if_there_is_room(Scope::Pattern(pattern), hardness).await? {
                Some(listed) => extent.and(listed),
                None => return Ok(Extent::EVERYTHING.and(self.deliver(Scope::Everything, hardness).await?)),
            };
        }
        self.begin_to_lurk();
        Ok(extent)
    }

    async fn sweep(
        &self,
        (connection, session): &Over,
        patterns: &[&Pattern],
        hardness: Hardness,
    ) -> Result<Invalidated, StoreError> {
        let context = &self.0.context;
        let names = &context.names;
        // A sweep may take longer than the stale windows of the entries that it reaches last.
        let window = || Window { begin: context.clock.now(), length: hardness.window() };
        let delete = async |mut driver: MultiplexedConnection| {
            // Deleted entries leave the first tier before the caller gets the result.
            let mut void = |id| context.local_tier.get().into_iter().for_each(|tier| tier.void(id));
            let deleted = match hardness {
                Hardness::Hard => delete_matching(names, patterns, &mut void, &mut driver).await?,
                Hardness::Soft | Hardness::Ramp(_) => {
                    soften_matching(names, patterns, &window, &mut void, &mut driver).await?
                }
            };
            // A node of a cluster has no data set id to read, and takes no empty batch.
            let reached = match names.is_clustered() {
                true => None,
                false => in_time(with_dataset_id::<Flag>(names, Batch::default(), 0, &mut driver)).await?,
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
