//! Inspections of the server's content, for people: nothing is changed, tracked or kept.

use std::{sync::Arc, time::Duration};

use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::{
    RedisStore,
    connection::{context::Context, handle::Limit, session::Session},
    wire::{
        names::EVERYTHING,
        operation::Operation,
        replies::{AnyType, Left, Values},
        sample::Sample,
        scripts::Batch,
        sweep::{count_carrying, count_matching, sample},
    },
};
use crate::{
    clock::deadline,
    key::Key,
    pattern::Pattern,
    store::{Estimate, LeaseHolder, LeaseState, ListedPattern, ListedPatterns, Reach, StoreError},
    tag::{TagRecord, TagToken},
};

impl RedisStore {
    pub(super) async fn read_lease(&self, key: &Key) -> Result<LeaseState, StoreError> {
        let connection = self.connection(key);
        let session = connection.session()?;
        if session.is_full() {
            return Ok(LeaseState::NoRoom);
        }
        let name = self.0.context.names.lease(key);
        let mut question = Batch::default();
        question.get_any(&name);
        let (AnyType(held),): (AnyType,) = connection.run(Operation::Watch, &session, &question).await?;
        let held = held.unwrap_or_default();
        // The pause ends by the server's clock.
        match lease_state(&held, self.0.context.clock.now().saturating_mul(1000)) {
            // A look-up of this process took the lease for the next load.
            LeaseState::Held(_) if self.0.context.claims.has(key.id()) => Ok(LeaseState::Free),
            LeaseState::Held(_) => {
                let holder = self.0.context.lease_tokens.holder(&held, self.0.context.clock.now());
                // Not asked together with the lease: the user may not be allowed to.
                let mut question = Batch::default();
                question.left(&name);
                let left: Result<(Left,), StoreError> = connection.run(Operation::Watch, &session, &question).await;
                let remaining = left.ok().and_then(|(left,)| left.life());
                Ok(LeaseState::Held(LeaseHolder { remaining, ..holder }))
            }
            state => Ok(state),
        }
    }

    pub(super) async fn read_tag(&self, tag: &str) -> Result<Option<TagToken>, StoreError> {
        let connection = self.connection_to_tags();
        let session = connection.session()?;
        let mut batch = Batch::default();
        batch.values([self.0.context.names.tag(tag)]);
        let values = connection
            .run_with(Operation::Mget, &session, Limit::Request, async |mut driver: MultiplexedConnection| {
                let (values,): (Values,) = batch.run(&mut driver).await?;
                values.of(1)
            })
            .await?;
        Ok(values.first().and_then(|value| TagRecord::parse(value.as_deref()?)).map(|record| record.token))
    }

    /// As the server lists them now.
    pub(super) async fn read_patterns(&self) -> Result<ListedPatterns, StoreError> {
        let Context { names, lease_tokens, clock, .. } = &*self.0.context;
        let connection = self.connection_to_tags();
        let session = connection.session()?;
        let mut batch = Batch::default();
        batch.get_any(&names.tag(EVERYTHING));
        batch.get_any(&names.lurker());
        let read: (AnyType, AnyType) = connection.run(Operation::Mget, &session, &batch).await?;
        let (AnyType(record), AnyType(sweeper)) = read;
        let record = record.and_then(|record| TagRecord::parse(&record));
        let bans = record.as_ref().and_then(TagRecord::bans);
        let patterns = bans.map(|bans| bans.as_slice().iter().map(ListedPattern::of).collect());
        let sweeper = sweeper.map(|token| lease_tokens.holder(&token, clock.now()));
        Ok(ListedPatterns { patterns: patterns.unwrap_or_default(), sweeper })
    }

    /// Counts by names alone; for a tag, by the tags in the entries, which the server can't read if entries are sealed.
    pub(super) async fn count_names(&self, reach: Reach<'_>) -> Result<Option<u64>, StoreError> {
        let every = Pattern::new("*");
        let pattern = match reach {
            Reach::Tag(_) if self.0.context.names.sealing().hides_names() => return Ok(None),
            Reach::Tag(_) => &every,
            Reach::Pattern(pattern) => pattern,
            Reach::Everything => &every,
        };
        let mut count = 0;
        for connection in self.0.topology.one_of_each_server() {
            let session: Arc<Session> = connection.session()?;
            let names = &self.0.context.names;
            let look = async |mut driver: MultiplexedConnection| match reach {
                Reach::Tag(tag) => count_carrying(names, tag, &mut driver).await,
                _ => count_matching(names, pattern, &mut driver).await,
            };
            count += connection.run_with(Operation::Scan, &session, Limit::Steps, look).await?;
        }
        Ok(Some(count))
    }

    /// As [`count_names`](Self::count_names), in about the time `within`, of which each server has a part. In a cluster, the
    /// names of a node may lie in an order by slot, so that a part of them is no sample of the whole.
    pub(super) async fn sample_names(
        &self,
        reach: Reach<'_>,
        within: Duration,
    ) -> Result<Option<Estimate>, StoreError> {
        let names = &self.0.context.names;
        let every = Pattern::new("*");
        let (pattern, tag) = match reach {
            Reach::Tag(tag) => (&every, Some(tag)),
            Reach::Pattern(pattern) => (pattern, None),
            Reach::Everything => (&every, None),
        };
        if names.sealing().hides_names() && !matches!(reach, Reach::Everything) {
            return Ok(None);
        }
        let (until, servers) = (deadline(within), self.0.topology.one_of_each_server());
        let mut whole = Estimate::default();
        let mut left = u32::try_from(servers.len()).unwrap_or(u32::MAX);
        for connection in servers {
            let session: Arc<Session> = connection.session()?;
            let now = Instant::now();
            let mut part = Sample::until(now + until.saturating_duration_since(now) / left.max(1), tag);
            left = left.saturating_sub(1);
            let found = &mut part;
            let look =
                |mut driver: MultiplexedConnection| async move { sample(names, pattern, found, &mut driver).await };
            connection.run_with(Operation::Scan, &session, Limit::Steps, look).await?;
            if names.is_clustered() && !part.is_whole() {
                return Ok(None);
            }
            whole = whole.and(part.estimate());
        }
        Ok(Some(whole))
    }
}

/// The state of a lease by the value of its key at `now`, in microseconds since the Unix epoch, without its holder.
fn lease_state(held: &[u8], now: u64) -> LeaseState {
    let failed = || {
        let mut parts = str::from_utf8(held).ok()?.strip_prefix("!f")?.splitn(3, ':');
        let failures = parts.next()?.parse().ok()?;
        let status = parts.next()?.parse().ok().filter(|status| *status != 0);
        let ready = u64::from_str_radix(parts.next()?, 16).ok()?;
        let remaining = Duration::from_micros(ready.saturating_sub(now));
        Some(LeaseState::Failed { remaining, status, failures })
    };
    match held {
        b"" => LeaseState::Free,
        b"!u" => LeaseState::Uncacheable,
        _ => failed().unwrap_or(LeaseState::Held(LeaseHolder::default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_of_a_lease_is_told_from_the_others() {
        let failed = |millis, status, failures| LeaseState::Failed {
            remaining: Duration::from_millis(millis),
            status,
            failures,
        };
        for (held, state) in [
            ("", LeaseState::Free),
            ("!u", LeaseState::Uncacheable),
            ("00112233445566aa", LeaseState::Held(LeaseHolder::default())),
            ("!f2:503:00000000000f4240", failed(900, Some(503), 2)),
            ("!f1:0:0000000000000001", failed(0, None, 1)),
            ("!f1:0:not a time", LeaseState::Held(LeaseHolder::default())),
        ] {
            assert_eq!(lease_state(held.as_bytes(), 100_000), state, "{held}");
        }
    }
}
