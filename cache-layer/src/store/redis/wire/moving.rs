//! Invalidations of what is being moved from one server of a cluster to another, as single commands of one name each: some of the
//! names may be on either server.

use redis::{
    Cmd, Pipeline, RedisResult, Script, ServerErrorKind, Value, aio::MultiplexedConnection, from_redis_value_ref,
};

use super::{
    names::{EVERYTHING, Names, nonce},
    replies::{Count, Done, Moment},
    scripts,
    token_life::life_invalidated,
};
use crate::store::Scope;

/// An invalidation as single commands of one key each. In this order they need not be sent together: what they void is void once
/// the last one is done, and a fill that comes between them is not stored, or is voided with the rest.
pub(crate) fn commands(names: &Names, scope: Scope<'_>) -> Vec<Cmd> {
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

/// Runs one of the [`commands`]. If its key is on another server by now, that is not done: returns that server's address.
pub(crate) async fn run(command: &Cmd, driver: &mut MultiplexedConnection) -> RedisResult<Option<String>> {
    match command.query_async(driver).await {
        Err(error) if error.kind() == ServerErrorKind::Ask.into() => match error.redirect_node() {
            Some((address, _)) => Ok(Some(address.to_owned())),
            None => Err(error),
        },
        reply => is_done(&reply?).map(|()| None),
    }
}

/// Runs one of the [`commands`] on the server that gets its key.
pub(crate) async fn run_where_it_went(command: &Cmd, driver: &mut MultiplexedConnection) -> RedisResult<()> {
    // Sent together, since other commands share the connection.
    let mut pipeline = Pipeline::new();
    pipeline.cmd("ASKING").add_command(command.clone());
    let (Done, reply) = pipeline.query_async(driver).await?;
    is_done(&reply)
}

/// Checks that this is the reply to one of the [`commands`]: the number of deleted keys, or a time.
fn is_done(reply: &Value) -> RedisResult<()> {
    let count = from_redis_value_ref::<Count>(reply).map(|_| ());
    Ok(count.or_else(|_| from_redis_value_ref::<Moment>(reply).map(|_| ()))?)
}
