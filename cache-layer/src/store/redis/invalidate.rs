//! Invalidations: delivered at once, or kept until they are.

use redis::{RedisResult, Script, aio::MultiplexedConnection};

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
    /// Hard or soft; one that can't be delivered is kept as a hard one.
    pub(super) async fn deliver(&self, scope: Scope<'_>, hardness: Hardness) -> Result<(), StoreError> {
        let Inner { names, pending, .. } = &*self.0;
        let link = match scope {
            Scope::Key(key) => self.link(key),
            Scope::Tags(_) | Scope::Everything => self.any_link(),
        };
        let delivered = match link.live() {
            Ok(live) => {
                link.run_patiently(&live, async |mut connection: MultiplexedConnection| match hardness {
                    Hardness::Hard => invalidate(names, &mut connection, scope).await,
                    Hardness::Soft => soften(names, &mut connection, scope).await,
                })
                .await
            }
            Err(error) => Err(error),
        };
        if delivered.is_err() {
            // No connection is used again before it has delivered this.
            pending.add(scope);
            self.0.links.iter().for_each(|link| link.reset());
        }
        self.forget(scope);
        delivered
    }

    /// Lets go of what `scope` covers. This process's other connections hear of it by a push of their own, but not before
    /// the invalidation returns; and what a lost connection knew may still be served.
    fn forget(&self, scope: Scope<'_>) {
        let near = self.0.near.get();
        for live in self.0.links.iter().filter_map(|link| link.believed()) {
            match scope {
                Scope::Key(key) => near.into_iter().for_each(|near| near.forget(key.primary().id())),
                Scope::Tags(tags) => tags.iter().for_each(|tag| live.tokens.forget(tag)),
                Scope::Everything => live.tokens.forget(EVERYTHING),
            }
        }
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

/// One invalidation, in one round trip.
pub(super) async fn invalidate(
    names: &Names,
    connection: &mut MultiplexedConnection,
    scope: Scope<'_>,
) -> RedisResult<()> {
    match scope {
        // The lease goes with the entry: a load in flight can't commit any more. Variants are reached through this
        // entry alone, and theirs compare it when they commit.
        Scope::Key(key) => {
            let key = key.primary();
            redis::cmd("UNLINK")
                .arg(names.entry(&key))
                .arg(names.lease(&key))
                .query_async::<i64>(connection)
                .await
                .map(drop)
        }
        Scope::Tags(tags) => renew_tokens(names, connection, &scripts::INVALIDATE_TAG, tags.iter()).await,
        Scope::Everything => renew_tokens(names, connection, &scripts::INVALIDATE_TAG, [EVERYTHING]).await,
    }
}

/// One soft invalidation, in one round trip.
async fn soften(names: &Names, connection: &mut MultiplexedConnection, scope: Scope<'_>) -> RedisResult<()> {
    match scope {
        Scope::Key(key) => {
            let key = key.primary();
            let mut batch = Batch::default();
            batch.call(&scripts::SOFTEN_ENTRY, &[&names.entry(&key), &names.lease(&key)], &[]);
            batch.run::<(i64,)>(connection).await.map(drop)
        }
        Scope::Tags(tags) => renew_tokens(names, connection, &scripts::SOFTEN_TAG, tags.iter()).await,
        Scope::Everything => renew_tokens(names, connection, &scripts::SOFTEN_TAG, [EVERYTHING]).await,
    }
}

async fn renew_tokens<'a>(
    names: &Names,
    connection: &mut MultiplexedConnection,
    script: &Script,
    tags: impl IntoIterator<Item = &'a str>,
) -> RedisResult<()> {
    let life = millis(TOKEN_LIFE).to_string();
    let mut batch = Batch::default();
    // Noted first: a fill that finds no token must find the note.
    batch.call(&scripts::NOTE_INVALIDATION, &[&names.last_invalidation()], &[]);
    for tag in tags {
        batch.call(script, &[&names.tag(tag)], &[chance().as_bytes(), life.as_bytes()]);
    }
    batch.run::<Vec<String>>(connection).await.map(drop)
}
