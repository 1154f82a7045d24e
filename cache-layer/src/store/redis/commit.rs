//! Writing what was loaded, if nothing overtook it.

use std::sync::Arc;

use redis::{Value, aio::MultiplexedConnection, from_redis_value};

use super::{
    EVERYTHING, RedisStore,
    names::Names,
    operation::Operation,
    replies::{Flag, Moment, Stamped, exactly, no_answer},
    scripts::{self, Batch},
    tokens::lives,
};
use crate::{
    clock::Clock,
    entry::{Entry, envelope},
    store::{Committed, Fill, StoreError},
    tag::TagStamp,
};

impl RedisStore {
    pub(super) async fn commit_fill(&self, Fill { lease, writes, tags }: &Fill) -> Result<Committed, StoreError> {
        let link = self.link(&lease.key);
        let live = link.settled()?;
        let (tags_link, tags_live) = self.link_to_read_tags(&link, &live)?;
        // Under another server, an invalidation of that time may be unknown, and its clock is another one.
        if tags_link.mark() != lease.granted_by {
            self.release_lease(lease, None);
            return Ok(Committed::Refused);
        }
        let now = Clock::system().now();
        let life = |entry: &Entry| entry.deadlines().gone.saturating_sub(now);
        let longest = writes.entries.iter().map(|(_, entry)| life(entry)).max().unwrap_or(0);
        if longest == 0 {
            self.release_lease(lease, None);
            return Ok(Committed::Refused);
        }

        // Tags lie in slots of their own, so they are read before the commit, not in it. An invalidation between the
        // two changes a token that is already on the entry, which makes the entry invalid: nothing slips through.
        let names = &self.0.names;
        let all: Vec<Arc<str>> = tags.as_slice().iter().cloned().chain([EVERYTHING.into()]).collect();
        let mut batch = Batch::default();
        for tag in &all {
            batch.stamp(&names.tag(tag), &lives(tag, longest));
        }
        // After the tokens: what it is compared for is whether one of them was forgotten and made anew.
        batch.call(&scripts::LAST_INVALIDATION, &[&names.last_invalidation()], &[]);
        let (stamped, last) = tags_link
            .run_patiently(Operation::pipeline("stamp"), &tags_live, async |mut connection: MultiplexedConnection| {
                let mut replies: Vec<Value> = exactly(all.len() + 1, batch.run(&mut connection).await?)?;
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
                self.release_lease(lease, None);
                return Ok(Committed::Refused);
            }
            stamps.push(TagStamp { tag, token });
        }

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
            let bytes = envelope::encode(&entry.clone().stamped(&stamps));
            call.key(names.entry(key)).arg(&bytes[..]).arg(life(entry).max(1));
        }
        let Flag(stored) = link
            .run_patiently(Operation::script("commit"), &live, async |mut connection: MultiplexedConnection| {
                call.invoke_async(&mut connection).await
            })
            .await?;
        self.0.grants.end(lease);
        if stored {
            self.0.tally.stored();
        }
        // The server's push comes only after its answer.
        if let Some(near) = self.0.near.get().filter(|_| stored) {
            writes.entries.iter().for_each(|(key, _)| near.forget(key.id()));
        }
        Ok(if stored { Committed::Stored } else { Committed::Refused })
    }
}
