//! Delivers what is in the [outbox](crate::store::redis::tracking::outbox), over a connection that nothing else uses yet.

use std::time::Duration;

use redis::{ErrorKind, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::time::{Instant, timeout, timeout_at};

use super::shard::Shard;
use crate::{
    key::Key,
    store::{
        Scope,
        redis::{
            tracking::{
                dataset_guard::DatasetGuard,
                outbox::{Backlog, Delivery, Outbox},
            },
            wire::{
                invalidation::{DatasetId, ban, invalidate, invalidate_keys},
                names::Names,
                sweep::delete_matching,
            },
        },
    },
    tag::Tags,
};

/// The number of keys that are delivered in one round trip.
const KEYS_AT_ONCE: usize = 500;
/// How long a delivery of keys and tags may take before the connection is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Delivers everything that is kept for the server that has `shard` to the data set with this id. `guard` remembers it from then on:
/// a replica may not have it yet.
pub(crate) async fn deliver(
    outbox: &Outbox,
    guard: &DatasetGuard,
    names: &Names,
    shard: &dyn Shard,
    dataset: Option<&str>,
    driver: &mut MultiplexedConnection,
) -> RedisResult<()> {
    // Without turns, a connection whose deliveries time out again and again could overtake another one.
    let _turn = outbox.turns().lock().await;
    let mut delivery = begin(outbox, shard).await;
    let backlog = &mut delivery.backlog;
    if backlog.everything || outbox.holds_everything() {
        // It may stand for keys of a server that was lost, while the one that has the tags was not.
        shard.hold_up_tags();
        if !shard.covers(Scope::Everything) {
            return Err((ErrorKind::Io, "the node that has the tags must receive kept invalidations first").into());
        }
    }
    let anything = !backlog.is_empty();
    match timeout(PATIENCE, deliver_scopes(backlog, guard, names, dataset, driver)).await {
        Ok(delivered) => delivered?,
        Err(_) => {
            // One invalidation is delivered sooner than many. On servers without the tags, fewer are left each time.
            if shard.covers(Scope::Everything) {
                *backlog = Backlog::everything();
            }
            return Err((ErrorKind::Io, "no answer to kept invalidations").into());
        }
    }
    // Patterns for which there is no room on the list of bans have no overall limit: each step of theirs has one, but a large
    // server is not a slow one.
    let patterns: Vec<_> = backlog.patterns.iter().collect();
    if !patterns.is_empty() {
        // The first tier is void: it belongs to connections that are gone.
        delete_matching(names, &patterns, &mut |_| {}, driver).await?;
        patterns.iter().for_each(|pattern| guard.remember(Scope::Pattern(pattern)));
    }
    *backlog = Backlog::default();
    if anything {
        tracing::info!("delivered the invalidations that were kept while Redis was away");
    }
    Ok(())
}

/// Waits for any other delivery to end.
async fn begin<'a>(outbox: &'a Outbox, shard: &dyn Shard) -> Delivery<'a> {
    loop {
        let delivered = outbox.delivered();
        if let Some(delivery) = outbox.begin_delivery(|scope| shard.covers(scope)) {
            return delivery;
        }
        delivered.await;
    }
}

async fn deliver_scopes(
    backlog: &mut Backlog,
    guard: &DatasetGuard,
    names: &Names,
    dataset: Option<&str>,
    driver: &mut MultiplexedConnection,
) -> RedisResult<()> {
    let told = |found: DatasetId| match names.is_clustered() || found.as_deref() == dataset {
        true => Ok(()),
        false => Err(RedisError::from((ErrorKind::Io, "another data set took its place"))),
    };
    if backlog.everything {
        told(invalidate(names, driver, Scope::Everything).await?)?;
        guard.remember(Scope::Everything);
    }
    if !backlog.tags.is_empty() {
        let tags = Tags::new(&backlog.tags);
        told(invalidate(names, driver, Scope::Tags(&tags)).await?)?;
        guard.remember(Scope::Tags(&tags));
    }
    while !backlog.keys.is_empty() {
        let keys: Vec<Key> = backlog.keys.values().take(KEYS_AT_ONCE).cloned().collect();
        told(invalidate_keys(names, driver, &keys).await?)?;
        for key in &keys {
            guard.remember(Scope::Key(key));
            backlog.keys.remove(&key.id());
        }
    }
    let mut left = Vec::new();
    for pattern in &backlog.patterns {
        match ban(names, driver, pattern, None).await? {
            Some(found) => told(found)?,
            // Not every server of a cluster hears when another one is back.
            None if names.is_clustered() => drop(invalidate(names, driver, Scope::Everything).await?),
            None => {
                left.push(pattern.clone());
                continue;
            }
        }
        guard.remember(Scope::Pattern(pattern));
    }
    backlog.patterns = left;
    Ok(())
}

/// Waits until `scope` is no longer kept, but no longer than `deadline`; `true` if it was delivered.
pub(crate) async fn wait_for_delivery(outbox: &Outbox, scope: Scope<'_>, deadline: std::time::Instant) -> bool {
    let deadline = Instant::from_std(deadline);
    loop {
        let delivered = outbox.delivered();
        if !outbox.may_hold(scope) {
            return true;
        }
        if timeout_at(deadline, delivered).await.is_err() {
            return false;
        }
    }
}
