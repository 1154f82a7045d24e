//! Invalidations: delivered at once, or kept until they are.

use std::sync::Arc;

use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, Script, Value, aio::MultiplexedConnection};

#[cfg(feature = "cluster")]
use super::topology::routes::Topology;
use super::{
    RedisStore,
    connection::{
        deliver::wait_for_delivery,
        handle::{Connection, Limit},
        session::Session,
    },
    wire::{
        errors::is_out_of_memory,
        names::{EVERYTHING, Names, nonce},
        operation::Operation,
        replies::{Count, Flag, Maybe, Moment, OfTwo, exactly, text},
        scripts::{self, Batch},
        token_life::life_invalidated,
    },
};
use crate::{
    key::Key,
    store::{Scope, StoreError},
};

/// How often an invalidation is sent: databases may be swapped while it is on its way.
const ATTEMPTS: usize = 3;

impl RedisStore {
    /// Hard or soft; one that can't be delivered is kept as a hard one.
    pub(super) async fn deliver(&self, scope: Scope<'_>, hardness: Hardness) -> Result<(), StoreError> {
        let outbox = &self.0.context.outbox;
        let connection = self.connection_of(scope);
        let delivered = match connection.session() {
            Ok(session) => self.deliver_over(&connection, &session, scope, hardness).await,
            Err(error) => Err(error),
        };
        #[cfg(feature = "cluster")]
        let delivered = match (delivered, &self.0.topology) {
            (Err(StoreError::Unavailable), Topology::Cluster(cluster)) if connection.is_connected() => {
                self.deliver_to_where_it_went(cluster, scope).await
            }
            (delivered, _) => delivered,
        };
        if delivered.is_err() {
            // No connection to that server is used again before it has delivered this.
            outbox.add(scope);
            self.0.topology.beside(&self.connection_of(scope)).iter().for_each(|connection| connection.reset());
        }
        self.forget(scope);
        // One that is kept, too: it will have been delivered by the time that a data set is restored.
        self.0.context.guard.remember(scope);
        match delivered {
            Err(error) => self.wait_for_delivery(scope).await.then_some(()).ok_or(error),
            delivered => delivered,
        }
    }

    /// Over a connection that there is, to the data set that it is known to lead to.
    async fn deliver_over(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
        scope: Scope<'_>,
        hardness: Hardness,
    ) -> Result<(), StoreError> {
        let names = &self.0.context.names;
        for _ in 0..ATTEMPTS {
            let mark = connection
                .run_with(
                    operation(scope, hardness),
                    session,
                    Limit::Background,
                    async |mut driver: MultiplexedConnection| match hardness {
                        Hardness::Hard => invalidate(names, &mut driver, scope).await,
                        Hardness::Soft => soften(names, &mut driver, scope).await,
                    },
                )
                .await?;
            if connection.leads_to(session, mark.as_deref()).await? {
                return Ok(());
            }
        }
        Err(StoreError::Unavailable)
    }

    /// Waits for a kept invalidation to be delivered, unless the server is gone for too long already.
    pub(super) async fn wait_for_delivery(&self, scope: Scope<'_>) -> bool {
        wait_for_delivery(&self.0.context.outbox, scope, self.connection_of(scope).waits_until()).await
    }

    /// Lets go of what `scope` covers. This process's other connections hear of it by a push of their own, but not before
    /// the invalidation returns; and what a lost connection knew may still be served.
    fn forget(&self, scope: Scope<'_>) {
        let near = self.0.context.near.get();
        match scope {
            Scope::Key(key) => {
                let primary = key.primary().id();
                self.0.context.leases.revoke_key(primary);
                near.into_iter().for_each(|near| near.void(primary));
            }
            Scope::Tags(_) | Scope::Everything => self.0.context.leases.revoke_all(),
        }
        for session in self.connections().iter().filter_map(|connection| connection.believed()) {
            match scope {
                Scope::Key(key) => session.waiters.wake(key.primary().id()),
                Scope::Tags(tags) => tags.iter().for_each(|tag| session.tokens.void(tag)),
                Scope::Everything => session.tokens.void(EVERYTHING),
            }
        }
    }
}

fn operation(scope: Scope<'_>, hardness: Hardness) -> Operation {
    match (scope, hardness) {
        (Scope::Key(_), Hardness::Hard) => Operation::Unlink,
        (Scope::Key(_), Hardness::Soft) => Operation::SoftenEntry,
        (_, Hardness::Hard) => Operation::InvalidateTag,
        (_, Hardness::Soft) => Operation::SoftenTag,
    }
}

/// What becomes of what an invalidation covers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hardness {
    /// It is void.
    Hard,
    /// It is stale.
    Soft,
}

/// The mark of the data set that something was done to: `None` in a cluster, or if it has none.
pub(super) type Mark = Option<String>;

/// One invalidation, in one round trip.
pub(super) async fn invalidate(
    names: &Names,
    driver: &mut MultiplexedConnection,
    scope: Scope<'_>,
) -> RedisResult<Mark> {
    match scope {
        // The lease goes with the entry: a load in flight can't commit any more. Variants are reached through this
        // entry alone, and theirs compare it when they commit.
        Scope::Key(key) => {
            let key = key.primary();
            let mut unlink = redis::cmd("UNLINK");
            unlink.arg(names.entry(&key)).arg(names.lease(&key));
            unlinked(names, driver, unlink, 2).await
        }
        Scope::Tags(tags) => renew_tokens(names, driver, &scripts::INVALIDATE_TAG, tags.iter()).await,
        Scope::Everything => renew_tokens(names, driver, &scripts::INVALIDATE_TAG, [EVERYTHING]).await,
    }
}

/// Invalidations of many keys, as [`invalidate`] does one, in one round trip.
pub(super) async fn invalidate_keys(
    names: &Names,
    driver: &mut MultiplexedConnection,
    keys: &[Key],
) -> RedisResult<Mark> {
    let mut batch = Batch::default();
    for key in keys {
        let key = key.primary();
        batch.unlink([names.entry(&key), names.lease(&key)]);
    }
    marked::<OfTwo>(names, batch, keys.len(), driver).await
}

/// One soft invalidation, in one round trip.
async fn soften(names: &Names, driver: &mut MultiplexedConnection, scope: Scope<'_>) -> RedisResult<Mark> {
    match scope {
        Scope::Key(key) => {
            let key = key.primary();
            let mut batch = Batch::default();
            batch.call(&scripts::SOFTEN_ENTRY, &[&names.entry(&key), &names.lease(&key)], &[]);
            marked::<Flag>(names, batch, 1, driver).await
        }
        Scope::Tags(tags) => renew_tokens(names, driver, &scripts::SOFTEN_TAG, tags.iter()).await,
        Scope::Everything => renew_tokens(names, driver, &scripts::SOFTEN_TAG, [EVERYTHING]).await,
    }
}

async fn renew_tokens<'a>(
    names: &Names,
    driver: &mut MultiplexedConnection,
    script: &Script,
    tags: impl IntoIterator<Item = &'a str>,
) -> RedisResult<Mark> {
    let mut batch = Batch::default();
    // Noted first: a fill that finds no token must find the note.
    batch.call(&scripts::NOTE_INVALIDATION, &[&names.last_invalidation()], &[]);
    let tags: Vec<&str> = tags.into_iter().collect();
    for tag in &tags {
        let life = life_invalidated(tag).to_string();
        batch.call(script, &[&names.tag(tag)], &[nonce().as_bytes(), life.as_bytes()]);
    }
    match marked::<Moment>(names, batch, tags.len() + 1, driver).await {
        Err(error) if is_out_of_memory(&error) => unlink_tags(names, driver, &tags).await,
        invalidated => invalidated,
    }
}

/// Runs `batch`, whose calls have so many replies of one kind, and tells which data set it was for.
pub(super) async fn marked<T: FromRedisValue>(
    names: &Names,
    mut batch: Batch,
    asked: usize,
    driver: &mut MultiplexedConnection,
) -> RedisResult<Mark> {
    // In a cluster, databases can't be swapped, and the mark may be on another server.
    if names.is_clustered() {
        return exactly(asked, batch.run::<Vec<T>>(driver).await?).map(|_| None);
    }
    batch.get(&names.mark(""));
    let mut replies = exactly(asked + 1, batch.run::<Vec<Value>>(driver).await?)?;
    let mark = replies.pop().map_or(Ok(None), mark);
    for reply in replies {
        T::from_redis_value(reply)?;
    }
    mark
}

/// Runs an `UNLINK` of so many names, and tells which data set it was for.
async fn unlinked(names: &Names, driver: &mut MultiplexedConnection, unlink: Cmd, asked: usize) -> RedisResult<Mark> {
    if names.is_clustered() {
        return unlink.query_async::<Count>(driver).await?.at_most(asked).map(|_| None);
    }
    let mut pipeline = Pipeline::new();
    pipeline.add_command(unlink).cmd("GET").arg(names.mark(""));
    let (count, found) = pipeline.query_async::<(Count, Value)>(driver).await?;
    count.at_most(asked)?;
    mark(found)
}

fn mark(reply: Value) -> RedisResult<Mark> {
    match Maybe::from_redis_value(reply)? {
        Maybe(None) => Ok(None),
        Maybe(Some(bytes)) => text(bytes).map(Some),
    }
}

/// Invalidates tags on a server that is full, where nothing can be written: without a token an entry is invalid, and
/// without a note nothing tells a fill in flight that no invalidation overtook it.
async fn unlink_tags(names: &Names, driver: &mut MultiplexedConnection, tags: &[&str]) -> RedisResult<Mark> {
    let mut unlink = redis::cmd("UNLINK");
    unlink.arg(names.last_invalidation());
    for tag in tags {
        unlink.arg(names.tag(tag));
    }
    unlinked(names, driver, unlink, tags.len() + 1).await
}
