//! Writing what was loaded, if nothing overtook it.

use std::sync::Arc;

use redis::{ScriptInvocation, Value, aio::MultiplexedConnection, from_redis_value};

use super::{
    RedisStore,
    connection::{
        handle::{Connection, Limit},
        session::Session,
    },
    wire::token_life::lives,
    wire::{
        names::{EVERYTHING, Names},
        operation::Operation,
        replies::{Flag, Moment, Stamped, exactly, no_answer},
        scripts::{self, Batch},
    },
};
use crate::{
    clock::Clock,
    entry::{Entry, envelope},
    store::{Committed, Fill, StoreError},
    tag::TagStamp,
};

impl RedisStore {
    pub(super) async fn commit_fill(&self, fill: &Fill) -> Result<Committed, StoreError> {
        let Fill { lease, writes, .. } = fill;
        let connection = self.connection(&lease.key);
        let session = connection.settled()?;
        let (tags_connection, tags_session) = self.connection_to_read_tags(&connection, &session)?;
        // Under another server, an invalidation of that time may be unknown, and its clock is another one.
        let known_clock = tags_connection.mark() == lease.granted_by;
        let now = Clock::system().now();
        let life = |entry: &Entry| entry.deadlines().gone.saturating_sub(now);
        let longest = writes.entries.iter().map(|(_, entry)| life(entry)).max().unwrap_or(0);
        if !known_clock || longest == 0 {
            self.release_lease(lease, None);
            return Ok(Committed::Refused);
        }

        let Some(stamps) = self.stamps(&tags_connection, &tags_session, fill, longest).await? else {
            self.release_lease(lease, None);
            return Ok(Committed::Refused);
        };
        let call = self.write(fill, &stamps, life);
        let Flag(stored) = connection
            .run_with(Operation::Commit, &session, Limit::Background, async |mut driver: MultiplexedConnection| {
                call.invoke_async(&mut driver).await
            })
            .await?;
        self.0.context.leases.end(lease);
        if stored {
            self.0.context.counters.stored();
        }
        // The server's push comes only after its answer.
        if let Some(local_tier) = self.0.context.local_tier.get().filter(|_| stored) {
            writes.entries.iter().for_each(|(key, _)| local_tier.void(key.id()));
        }
        Ok(if stored { Committed::Stored } else { Committed::Refused })
    }

    /// The tokens of its tags, for a fill that is to live for so many milliseconds; `None` if an invalidation overtook it.
    ///
    /// Tags lie in slots of their own, so they are read before the commit, not in it. An invalidation between the two
    /// changes a token that is already on the entry, which makes the entry invalid: nothing slips through.
    async fn stamps(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
        Fill { lease, tags, .. }: &Fill,
        longest: u64,
    ) -> Result<Option<Vec<TagStamp>>, StoreError> {
        let names = &self.0.context.names;
        let all: Vec<Arc<str>> = tags.as_slice().iter().cloned().chain([EVERYTHING.into()]).collect();
        let mut batch = Batch::default();
        for tag in &all {
            batch.stamp(&names.tag(tag), &lives(tag, longest));
        }
        // After the tokens: what it is compared for is whether one of them was forgotten and made anew.
        batch.call(&scripts::LAST_INVALIDATION, &[&names.last_invalidation()], &[]);
        let (stamped, last) = connection
            .run_with(Operation::TagStamp, session, Limit::Background, async |mut driver: MultiplexedConnection| {
                let mut replies: Vec<Value> = exactly(all.len() + 1, batch.run(&mut driver).await?)?;
                let last = replies.pop().ok_or_else(no_answer)?;
                let (Moment(last), Moment(_)) = from_redis_value(last)?;
                let stamped = replies.into_iter().map(from_redis_value).collect::<Result<Vec<Stamped>, _>>()?;
                Ok((stamped, last))
            })
            .await?;
        let mut stamps = Vec::with_capacity(all.len());
        for (tag, Stamped { token, created }) in all.into_iter().zip(stamped) {
            // An absent token may be a forgotten one, and one that was made since may stand in for it: was anything
            // invalidated since the load began?
            let overtaken = if created || token.created_since(&lease.started) {
                last >= lease.started
            } else {
                token.overtook(&lease.started)
            };
            if overtaken {
                return Ok(None);
            }
            stamps.push(TagStamp { tag, token });
        }
        Ok(Some(stamps))
    }

    /// The call that writes the entries of a fill, stamped, each for its `life` in milliseconds.
    fn write(
        &self,
        Fill { lease, writes, .. }: &Fill,
        stamps: &[TagStamp],
        life: impl Fn(&Entry) -> u64,
    ) -> ScriptInvocation<'static> {
        let names = &self.0.context.names;
        let guard = match &writes.guard {
            Some((key, version)) => (key, &envelope::version(*version)[..]),
            None => (&lease.key, &b""[..]),
        };
        let variant = match &writes.entries[..] {
            [(primary, leading), (variant, _)] if !primary.id().is_variant() && variant.id().is_variant() => {
                Some((primary, variant, leading.most_variants()))
            }
            _ => None,
        };
        let script = if variant.is_some() { &scripts::COMMIT_VARIANT } else { &scripts::COMMIT };
        let mut call = script.key(names.lease(&lease.key));
        call.key(names.entry(guard.0)).arg(&lease.token[..]).arg(guard.1);
        if let Some((primary, variant, most)) = variant {
            call.key(names.variants(primary)).arg(Names::variant_digits(variant)).arg(most);
        }
        for (key, entry) in &writes.entries {
            let bytes = envelope::encode(&entry.clone().stamped(stamps));
            call.key(names.entry(key)).arg(&bytes[..]).arg(life(entry).max(1));
        }
        call
    }
}
