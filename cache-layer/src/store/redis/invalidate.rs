//! Invalidations: delivered at once, or kept until they are.

use redis::{RedisResult, aio::MultiplexedConnection};

#[cfg(feature = "cluster")]
use super::routes::Routes;
use super::{
    EVERYTHING, Inner, RedisStore, TOKEN_LIFE, chance,
    errors::is_out_of_memory,
    names::Names,
    scripts::{self, Batch},
};
use crate::{
    clock::millis,
    store::{Scope, StoreError},
};

impl RedisStore {
    pub(super) async fn deliver(&self, scope: Scope<'_>) -> Result<(), StoreError> {
        let Inner { names, pending, .. } = &*self.0;
        let link = self.link_of(scope);
        let delivered = match link.live() {
            Ok(live) => {
                link.run_patiently(&live, async |mut connection: MultiplexedConnection| {
                    invalidate(names, &mut connection, scope).await
                })
                .await
            }
            Err(error) => Err(error),
        };
        #[cfg(feature = "cluster")]
        let delivered = match (delivered, &self.0.routes) {
            (Err(StoreError::Unavailable), Routes::Cluster(cluster)) if link.is_live() => {
                self.deliver_to_where_it_went(cluster, scope).await
            }
            (delivered, _) => delivered,
        };
        match delivered {
            Ok(()) => {
                self.0.guard.remember(scope);
                match scope {
                    Scope::Key(key) => self.0.grants.void_key(key.primary().id()),
                    Scope::Tags(_) | Scope::Everything => self.0.grants.void_all(),
                }
                // This process's other connections hear of it by a push of their own, but not before this returns.
                for live in self.links().iter().filter_map(|link| link.live().ok()) {
                    match scope {
                        Scope::Key(key) => {
                            let primary = key.primary().id();
                            self.0.near.get().into_iter().for_each(|near| near.forget(primary));
                            live.waiters.wake(primary);
                        }
                        Scope::Tags(tags) => tags.iter().for_each(|tag| live.tokens.forget(tag)),
                        Scope::Everything => live.tokens.forget(EVERYTHING),
                    }
                }
                Ok(())
            }
            Err(error) => {
                // No connection to that server is used again before it has delivered this.
                pending.add(scope);
                self.0.routes.beside(&self.link_of(scope)).iter().for_each(|link| link.reset());
                Err(error)
            }
        }
    }
}

/// One invalidation, in one round trip.
pub(super) async fn invalidate(
    names: &Names,
    connection: &mut MultiplexedConnection,
    scope: Scope<'_>,
) -> RedisResult<()> {
    let life = millis(TOKEN_LIFE).to_string();
    let mut batch = Batch::default();
    let tags: Vec<&str> = match scope {
        // The lease goes with the entry: a load in flight can't commit any more. Variants are reached through this
        // entry alone, and theirs compare it when they commit.
        Scope::Key(key) => {
            let key = key.primary();
            return redis::cmd("UNLINK")
                .arg(names.entry(&key))
                .arg(names.lease(&key))
                .query_async::<i64>(connection)
                .await
                .map(drop);
        }
        Scope::Tags(tags) => tags.iter().collect(),
        Scope::Everything => vec![EVERYTHING],
    };
    // Noted first: a fill that finds no token must find the note.
    batch.call(&scripts::NOTE_INVALIDATION, &[&names.last_invalidation()], &[]);
    for tag in &tags {
        batch.call(&scripts::INVALIDATE_TAG, &[&names.tag(tag)], &[chance().as_bytes(), life.as_bytes()]);
    }
    match batch.run::<Vec<String>>(connection).await {
        Err(error) if is_out_of_memory(&error) => unlink_tags(names, connection, &tags).await,
        invalidated => invalidated.map(drop),
    }
}

/// Invalidates tags on a server that is full, where nothing can be written: without a token an entry is invalid, and
/// without a note nothing tells a fill in flight that no invalidation overtook it.
async fn unlink_tags(names: &Names, connection: &mut MultiplexedConnection, tags: &[&str]) -> RedisResult<()> {
    let mut unlink = redis::cmd("UNLINK");
    unlink.arg(names.last_invalidation());
    for tag in tags {
        unlink.arg(names.tag(tag));
    }
    unlink.query_async::<i64>(connection).await.map(drop)
}
