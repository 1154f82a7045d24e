//! Invalidations in a cluster whose slots are being moved: they follow redirections, as hard ones.
//!
//! Reads and fills don't do this: one that meets a redirection continues without the cache.

use redis::{
    Cmd, Pipeline, RedisResult, Script, ServerErrorKind, Value, aio::MultiplexedConnection, from_redis_value_ref,
};

use super::{
    RedisStore,
    connection::handle::Limit,
    topology::cluster::Cluster,
    wire::token_life::life_invalidated,
    wire::{
        names::{EVERYTHING, Names, nonce},
        operation::Operation,
        replies::{Count, Done, Moment},
        scripts,
    },
};
use crate::store::{Scope, StoreError};

/// How often an invalidation is sent again: the cluster may not have settled when it is asked for its slots.
const ATTEMPTS: usize = 3;

impl RedisStore {
    /// Delivers `scope`, one command after the other, each to the server that has its key by now.
    pub(super) async fn deliver_to_where_it_went(&self, cluster: &Cluster, scope: Scope<'_>) -> Result<(), StoreError> {
        for command in commands(&self.0.context.names, scope) {
            let mut attempts = 0;
            while let Err(error) = self.send(cluster, scope, &command).await {
                attempts += 1;
                if attempts == ATTEMPTS {
                    return Err(error);
                }
                cluster.look_again().await;
            }
        }
        Ok(())
    }

    async fn send(&self, cluster: &Cluster, scope: Scope<'_>, command: &Cmd) -> Result<(), StoreError> {
        let connection = self.connection_of(scope);
        let redirected = connection
            .run_with(
                Operation::Unlink,
                &connection.session()?,
                Limit::Background,
                async |mut driver: MultiplexedConnection| match command.query_async(&mut driver).await {
                    Err(error) if error.kind() == ServerErrorKind::Ask.into() => Ok(Some(error)),
                    reply => reply.and_then(|reply| is_done(&reply)).map(|()| None),
                },
            )
            .await?;
        let Some(error) = redirected else { return Ok(()) };
        let (address, _) = error.redirect_node().ok_or(StoreError::Unavailable)?;
        let (connection, session) = cluster.session_at(address)?;
        // Sent together, since other commands share the connection.
        let mut pipeline = Pipeline::new();
        pipeline.cmd("ASKING").add_command(command.clone());
        connection
            .run_with(Operation::Asking, &session, Limit::Background, async |mut driver: MultiplexedConnection| {
                let (Done, reply) = pipeline.query_async(&mut driver).await?;
                is_done(&reply)
            })
            .await
    }
}

/// Checks that this is the reply to one of the [`commands`]: the number of deleted keys, or a time.
fn is_done(reply: &Value) -> RedisResult<()> {
    let count = from_redis_value_ref::<Count>(reply).map(|_| ());
    Ok(count.or_else(|_| from_redis_value_ref::<Moment>(reply).map(|_| ()))?)
}

/// An invalidation as single commands of one key each. In this order they need not be sent together: what they void is void once
/// the last one is done, and a fill that comes between them is not stored, or is voided with the rest.
fn commands(names: &Names, scope: Scope<'_>) -> Vec<Cmd> {
    let unlink = |name: String| redis::cmd("UNLINK").arg(name).take();
    let tags: Vec<&str> = match scope {
        // The lease comes first: a load that still had it could write an entry after the old one is gone.
        Scope::Key(key) => return vec![unlink(names.lease(&key.primary())), unlink(names.entry(&key.primary()))],
        Scope::Tags(tags) => tags.iter().collect(),
        // Everything is voided, which includes what the scope covers.
        Scope::Pattern(_) | Scope::Everything => vec![EVERYTHING],
    };
    let call = |script: &Script, name: String, life: u64| {
        redis::cmd("EVALSHA").arg(script.get_hash()).arg(1).arg(name).arg(nonce()).arg(life).take()
    };
    let note = call(&scripts::NOTE_INVALIDATION, names.last_invalidation(), 0);
    let tokens = tags.into_iter().map(|tag| call(&scripts::INVALIDATE_TAG, names.tag(tag), life_invalidated(tag)));
    std::iter::once(note).chain(tokens).collect()
}
