//! Invalidations: delivered at once, or kept until they are.

use redis::{RedisResult, aio::MultiplexedConnection};

use super::{
    EVERYTHING, Inner, RedisStore, TOKEN_LIFE, chance,
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
        let link = match scope {
            Scope::Key(key) => self.link(key),
            Scope::Tags(_) | Scope::Everything => self.any_link(),
        };
        let delivered = match link.live() {
            Ok(live) => {
                link.run_patiently(&live, async |mut connection: MultiplexedConnection| {
                    invalidate(names, &mut connection, scope).await
                })
                .await
            }
            Err(error) => Err(error),
        };
        match delivered {
            Ok(()) => {
                // This process's other connections hear of it by a push of their own, but not before this returns.
                for live in self.0.links.iter().filter_map(|link| link.live().ok()) {
                    match scope {
                        Scope::Key(key) => {
                            let primary = key.primary().id();
                            self.0.near.get().into_iter().for_each(|near| near.forget(primary));
                            live.grants.void_key(primary);
                        }
                        Scope::Tags(tags) => {
                            tags.iter().for_each(|tag| live.tokens.forget(tag));
                            live.grants.void_all();
                        }
                        Scope::Everything => {
                            live.tokens.forget(EVERYTHING);
                            live.grants.void_all();
                        }
                    }
                }
                Ok(())
            }
            Err(error) => {
                // No connection is used again before it has delivered this.
                pending.add(scope);
                self.0.links.iter().for_each(|link| link.reset());
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
    for tag in tags {
        batch.call(&scripts::INVALIDATE_TAG, &[&names.tag(tag)], &[chance().as_bytes(), life.as_bytes()]);
    }
    batch.run::<Vec<String>>(connection).await.map(drop)
}
