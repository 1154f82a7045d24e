//! Invalidations: delivered at once, or kept until they are.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;

#[cfg(feature = "cluster")]
use super::topology::{cluster::Cluster, routes::Topology};
use super::{
    RedisStore,
    connection::{
        context::Context,
        deliver::wait_for_delivery,
        handle::{Connection, Limit},
        session::Session,
    },
    wire::{
        invalidation::{ban, invalidate, soften},
        names::EVERYTHING,
        operation::Operation,
        scripts::Window,
    },
};
use crate::store::{Extent, Hardness, Scope, StoreError};

/// How often an invalidation is sent: databases may be swapped while it is on its way.
const ATTEMPTS: usize = 3;

impl RedisStore {
    /// Delivers a hard or soft invalidation; one that can't be delivered is kept as a hard one.
    pub(super) async fn deliver(&self, scope: Scope<'_>, hardness: Hardness) -> Result<Extent, StoreError> {
        self.deliver_if_there_is_room(scope, hardness).await.map(Option::unwrap_or_default)
    }

    /// As [`deliver`](Self::deliver); `None` if there is no room for it, which is possible for a pattern.
    pub(super) async fn deliver_if_there_is_room(
        &self,
        scope: Scope<'_>,
        hardness: Hardness,
    ) -> Result<Option<Extent>, StoreError> {
        let outbox = &self.0.context.outbox;
        let connection = self.connection_of(scope);
        let delivered = match connection.session() {
            Ok(session) => self.deliver_over(&connection, &session, scope, hardness).await,
            Err(error) => Err(error),
        };
        #[cfg(feature = "cluster")]
        let delivered = match (delivered, &self.0.topology) {
            (Err(StoreError::Unavailable), Topology::Cluster(cluster)) if connection.is_connected() => {
                self.deliver_once_more(cluster, scope, hardness).await
            }
            (delivered, _) => delivered,
        };
        if delivered.is_err() {
            // No connection to that server is used again before it has delivered this.
            outbox.add(scope);
            self.0.topology.beside(&self.connection_of(scope)).iter().for_each(|connection| connection.reset());
        }
        match (scope, &delivered) {
            // The connections that knew of the bans are gone, and may still be believed.
            (Scope::Pattern(pattern), Err(_)) => {
                self.0.context.local_tier.get().into_iter().for_each(|tier| tier.void_matching(pattern));
                self.0.context.leases.revoke_all();
            }
            _ => self.forget(scope),
        }
        // A kept one as well: it may be delivered, and lost with a server, before this process notes that.
        if !matches!(delivered, Ok(None)) {
            self.0.context.guard.remember(scope);
        }
        let Err(error) = delivered else { return delivered };
        self.wait_for_delivery(scope).await.then_some(Some(Extent::hard_for(hardness))).ok_or(error)
    }

    /// Delivers what a server has redirected: to the server that has its keys by now, as the invalidation that it is; while these
    /// are being moved, as a hard one, which for a pattern is one of everything.
    #[cfg(feature = "cluster")]
    async fn deliver_once_more(
        &self,
        cluster: &Cluster,
        scope: Scope<'_>,
        hardness: Hardness,
    ) -> Result<Option<Extent>, StoreError> {
        let is_pattern = matches!(scope, Scope::Pattern(_));
        let extent = Extent { everything: is_pattern, ..Extent::hard_for(hardness) };
        let would_be_more = extent != Extent::default();
        for _ in 0..if would_be_more { ATTEMPTS } else { 0 } {
            cluster.look_again().await;
            let connection = self.connection_of(scope);
            let Ok(session) = connection.session() else { continue };
            match self.deliver_over(&connection, &session, scope, hardness).await {
                Err(StoreError::Unavailable) => {}
                delivered => return delivered,
            }
        }
        self.deliver_to_where_it_went(cluster, scope).await?;
        if would_be_more {
            self.0.context.counters.hardened_by_a_move();
        }
        Ok(Some(extent))
    }

    /// Delivers over an existing connection, to the data set that the connection is known to lead to.
    async fn deliver_over(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
        scope: Scope<'_>,
        hardness: Hardness,
    ) -> Result<Option<Extent>, StoreError> {
        let Context { names, clock, .. } = &*self.0.context;
        let soft_over = hardness.is_soft().then(|| hardness.window());
        let mut hardened = false;
        for _ in 0..ATTEMPTS {
            let reached = connection
                .run_with(
                    operation(scope, hardness),
                    session,
                    Limit::Background,
                    async |mut driver: MultiplexedConnection| match (scope, soft_over) {
                        (Scope::Pattern(pattern), _) => ban(names, &mut driver, pattern, soft_over).await,
                        (_, None) => invalidate(names, &mut driver, scope).await.map(Some),
                        (_, Some(length)) => {
                            let window = Window { begin: clock.now(), length };
                            let (reached, is_hard) = soften(names, &mut driver, scope, window).await?;
                            hardened |= is_hard;
                            Ok(Some(reached))
                        }
                    },
                )
                .await?;
            let Some(reached) = reached else { return Ok(None) };
            if connection.leads_to(session, reached.as_deref()).await? {
                if hardened {
                    self.0.context.counters.hardened();
                }
                return Ok(Some(Extent { hard: hardened, ..Extent::default() }));
            }
        }
        Err(StoreError::Unavailable)
    }

    /// Waits for a kept invalidation to be delivered, unless the server has been gone for too long.
    pub(super) async fn wait_for_delivery(&self, scope: Scope<'_>) -> bool {
        wait_for_delivery(&self.0.context.outbox, scope, self.connection_of(scope).waits_until()).await
    }

    /// Drops what `scope` covers from this process. The other connections of this process hear of it by a push of their own, but
    /// not before the invalidation returns; and entries of a lost connection may still be served.
    fn forget(&self, scope: Scope<'_>) {
        let local_tier = self.0.context.local_tier.get();
        match scope {
            Scope::Key(key) => {
                let primary = key.primary().id();
                self.0.context.leases.revoke_key(primary);
                self.0.context.fresh.forget(primary);
                local_tier.into_iter().for_each(|tier| tier.void(primary));
            }
            Scope::Tags(_) | Scope::Pattern(_) | Scope::Everything => self.0.context.leases.revoke_all(),
        }
        for session in self.connections().iter().filter_map(|connection| connection.believed()) {
            match scope {
                Scope::Key(key) => session.waiters.wake(key.primary().id()),
                Scope::Tags(tags) => tags.iter().for_each(|tag| session.tokens.void(tag)),
                Scope::Pattern(_) | Scope::Everything => session.tokens.void(EVERYTHING),
            }
        }
    }
}

fn operation(scope: Scope<'_>, hardness: Hardness) -> Operation {
    match (scope, hardness) {
        (Scope::Key(_), Hardness::Hard) => Operation::Unlink,
        (Scope::Key(_), _) => Operation::SoftenEntry,
        (Scope::Pattern(_), _) => Operation::Ban,
        (_, Hardness::Hard) => Operation::InvalidateTag,
        _ => Operation::SoftenTag,
    }
}
