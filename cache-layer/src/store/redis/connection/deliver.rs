//! Delivers what is in the [outbox](crate::store::redis::tracking::outbox), over a connection that nothing else uses yet.

use std::time::Duration;

use redis::{ErrorKind, RedisResult, aio::MultiplexedConnection};
use tokio::time::{Instant, timeout, timeout_at};

use super::shard::Shard;
use crate::{
    key::Key,
    pattern::Pattern,
    store::{
        Scope,
        redis::{
            tracking::{
                dataset_guard::DatasetGuard,
                outbox::{Backlog, Delivery, Outbox},
            },
            wire::{
                errors::is_being_moved,
                invalidation::{DatasetId, ban, invalidate, invalidate_keys},
                moving::{commands, run, run_where_it_went},
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
    let to = Receiver { names, shard, dataset, driver };
    match timeout(PATIENCE, deliver_scopes(backlog, guard, to)).await {
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

async fn deliver_scopes(backlog: &mut Backlog, guard: &DatasetGuard, mut to: Receiver<'_>) -> RedisResult<()> {
    if backlog.everything {
        to.invalidate(Scope::Everything).await?;
        guard.remember(Scope::Everything);
    }
    if !backlog.tags.is_empty() {
        let tags = Tags::new(&backlog.tags);
        to.invalidate(Scope::Tags(&tags)).await?;
        guard.remember(Scope::Tags(&tags));
    }
    while !backlog.keys.is_empty() {
        let keys: Vec<Key> = backlog.keys.values().take(KEYS_AT_ONCE).cloned().collect();
        let all_are_here = to.invalidate_keys(&keys).await?;
        for key in &keys {
            if !all_are_here {
                to.invalidate(Scope::Key(key)).await?;
            }
            guard.remember(Scope::Key(key));
            backlog.keys.remove(&key.id());
        }
    }
    let mut left = Vec::new();
    for pattern in &backlog.patterns {
        match to.ban(pattern).await? {
            Some(found) => to.is_told(found.as_deref())?,
            // Not every server of a cluster hears when another one is back.
            None if to.names.is_clustered() => to.invalidate(Scope::Everything).await?,
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

/// A server that receives invalidations, and the id of its data set.
struct Receiver<'a> {
    names: &'a Names,
    shard: &'a dyn Shard,
    dataset: Option<&'a str>,
    driver: &'a mut MultiplexedConnection,
}

impl Receiver<'_> {
    fn is_told(&self, found: Option<&str>) -> RedisResult<()> {
        match self.names.is_clustered() || found == self.dataset {
            true => Ok(()),
            false => Err((ErrorKind::Io, "another data set took its place").into()),
        }
    }

    /// Invalidates `scope`; if some of it is just being moved to another server, name by name, where it is.
    async fn invalidate(&mut self, scope: Scope<'_>) -> RedisResult<()> {
        match invalidate(self.names, self.driver, scope).await {
            Err(error) if is_being_moved(&error) => {}
            found => return self.is_told(found?.as_deref()),
        }
        for command in commands(self.names, scope) {
            if let Some(address) = run(&command, self.driver).await? {
                run_where_it_went(&command, &mut self.shard.driver_at(&address).await?).await?;
            }
        }
        Ok(())
    }

    /// Invalidates `keys` together; `false` if some of them are just being moved to another server.
    async fn invalidate_keys(&mut self, keys: &[Key]) -> RedisResult<bool> {
        match invalidate_keys(self.names, self.driver, keys).await {
            Err(error) if is_being_moved(&error) => Ok(false),
            found => self.is_told(found?.as_deref()).map(|()| true),
        }
    }

    /// Lists `pattern` as a ban; `None` if there is no room for it, or if the list is just being moved to another server.
    async fn ban(&mut self, pattern: &Pattern) -> RedisResult<Option<DatasetId>> {
        match ban(self.names, self.driver, pattern, None).await {
            Err(error) if is_being_moved(&error) => Ok(None),
            banned => banned,
        }
    }
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
