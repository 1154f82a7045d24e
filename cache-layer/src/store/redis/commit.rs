//! Writes the result of a load, if nothing overtook it.
//!
//! Entries are sent with the tokens that their tags are believed to have, in one round trip: tokens that are known here, and new
//! ones for tags of which nothing is known. The script that writes compares them with the actual tokens, and returns those if
//! they differ. An entry with another token than its tag's is void, so that a wrong belief costs a load, and nothing else.

use std::{sync::Arc, time::Duration};

use redis::{Value, aio::MultiplexedConnection, from_redis_value};
use tokio::sync::oneshot;

use super::{
    RedisStore,
    connection::{
        gathered_fills::{self, FillAsk},
        gathering::answered,
        handle::{Connection, Limit},
        session::Session,
    },
    tracking::tag_tracker::Known,
    wire::token_life::lives,
    wire::{
        names::{EVERYTHING, nonce},
        operation::Operation,
        replies::{Commit, Moment, Stamped, Values, exactly, no_answer},
        scripts::{self, Batch, Call},
    },
};
use crate::{
    ban::Bans,
    entry::{Entry, envelope},
    store::{Committed, Fill, Lease, StoreError},
    tag::{TagRecord, TagStamp, TagState, TagToken},
};

/// How often a fill is sent whose tags have other tokens than believed. Each attempt returns the actual tokens.
const ATTEMPTS: usize = 3;

/// A tag of a fill, with the token for its entries.
struct Believed {
    stamp: TagStamp,
    /// Made here, for a tag that is believed to have none.
    new: bool,
    /// Whether the script has to compare the token.
    compared: bool,
    /// Whether a ban that the load did not know of covers the key. Readers would find that out, too.
    banned: bool,
}

impl Believed {
    /// Takes over the actual token of the tag.
    fn learn(&mut self, record: &TagRecord, lease: &Lease) {
        self.stamp.token = record.token;
        self.banned = is_banned(record, lease);
        self.new = false;
    }
}

impl RedisStore {
    pub(super) async fn commit_fill(&self, fill: &Fill) -> Result<Committed, StoreError> {
        let Fill { lease, writes, .. } = fill;
        let connection = self.connection(&lease.key);
        let session = connection.settled()?;
        let (tags_connection, tags_session) = self.connection_to_read_tags(&connection, &session)?;
        // After a change of the server, an earlier invalidation may be unknown, and the clock is another one. If the clock was set
        // back, a later invalidation may seem to be an earlier one.
        let clock = &self.0.context.clock;
        let known_clock = tags_connection.dataset_id() == lease.granted_by && clock.times_set_back() == lease.set_back;
        let now = clock.now();
        let life = |entry: &Entry| entry.deadlines().life(now);
        let longest = writes.entries.iter().map(|(_, entry)| life(entry)).max().unwrap_or(0);
        if !known_clock || longest == 0 {
            self.release_lease(lease, None);
            return Ok(Committed::Refused);
        }

        let Some(stored) =
            self.write_fill(fill, (&connection, &session), (&tags_connection, &tags_session), longest).await?
        else {
            self.release_lease(lease, None);
            return Ok(Committed::Refused);
        };
        self.0.context.leases.end(lease);
        if !stored {
            return Ok(Committed::Refused);
        }
        self.0.context.counters.stored();
        writes.entries.iter().for_each(|(key, entry)| self.note_stored(key, entry));
        // The server's push comes only after its reply.
        if let Some(local_tier) = self.0.context.local_tier.get() {
            writes.entries.iter().for_each(|(key, _)| local_tier.void(key.id()));
        }
        Ok(Committed::Stored)
    }

    /// Sends a fill whose entries live for this many milliseconds; returns whether it was stored, or `None` if it need not be
    /// sent, because an invalidation overtook it.
    async fn write_fill(
        &self,
        fill: &Fill,
        (connection, session): (&Connection, &Arc<Session>),
        (tags, tags_session): (&Connection, &Arc<Session>),
        longest: u64,
    ) -> Result<Option<bool>, StoreError> {
        let mut believed = believed(tags_session, fill, longest);
        let mut last = None;
        let started = &fill.lease.started;
        // A missing token may be a forgotten one, and a token that was made since may replace a forgotten one: was anything
        // invalidated since the load began?
        let is_doubted =
            |believed: &[Believed]| believed.iter().any(|tag| !tag.new && tag.stamp.token.created_since(started));
        for _ in 0..ATTEMPTS {
            let asks = believed.iter().any(|tag| tag.compared) || (last.is_none() && is_doubted(&believed));
            if asks && self.0.context.names.is_clustered() {
                // In a cluster, tags lie in a slot of their own.
                last = Some(self.ask_for_tokens(tags, tags_session, &mut believed, &fill.lease, longest).await?);
            }
            let (doubted, overtaken) =
                (is_doubted(&believed), believed.iter().any(|tag| tag.banned || tag.stamp.token.overtook(started)));
            if overtaken || (doubted && last.is_some_and(|last| last >= *started)) {
                return Ok(None);
            }
            let (call, has_variant) = self.commit_call(fill, &believed, doubted && last.is_none(), longest);
            let answer = match last {
                Some(_) if !self.0.context.names.is_clustered() => {
                    self.commit_and_learn((call, has_variant), connection, session, &believed).await?
                }
                _ => self.commit_with_others((call, has_variant), connection, session).await?,
            };
            match answer {
                Commit::Stored => return Ok(Some(true)),
                Commit::Refused => return Ok(Some(false)),
                Commit::Differs(noted, records) => {
                    last = Some(noted);
                    learn(&mut believed, records, &fill.lease)?;
                }
            }
        }
        Ok(None)
    }

    /// Commits, together with the other fills that are ready.
    async fn commit_with_others(
        &self,
        (call, has_variant): (Call, bool),
        connection: &Connection,
        session: &Arc<Session>,
    ) -> Result<Commit, StoreError> {
        let (reply, answer) = oneshot::channel();
        let (driver, clustered) = (session.driver(), self.0.context.names.is_clustered());
        session
            .fills
            .add(FillAsk { call, has_variant, reply }, move |asks| gathered_fills::commit(driver, clustered, asks));
        connection.wait(Operation::Commit, session, Limit::Background, answered(answer)).await
    }

    /// Commits, and reads the tokens of the tags in the same round trip, so that the next fill that carries them knows them.
    async fn commit_and_learn(
        &self,
        (call, has_variant): (Call, bool),
        connection: &Connection,
        session: &Arc<Session>,
        believed: &[Believed],
    ) -> Result<Commit, StoreError> {
        let (mut batch, script) =
            (Batch::default(), if has_variant { &scripts::COMMIT_VARIANT } else { &scripts::COMMIT });
        batch.add(&call, script);
        if !session.tracking {
            return Ok(commit(batch, connection, session, 1).await?.0);
        }
        let tags: Vec<Arc<str>> = believed.iter().filter(|tag| tag.compared).map(|tag| tag.stamp.tag.clone()).collect();
        batch.track(session.tracking);
        let names = &self.0.context.names;
        batch.values(tags.iter().map(|tag| names.tag(tag)).chain([names.dataset_id("")]));
        let reads = session.tokens.begin_read(&tags);
        let (answer, values) = commit(batch, connection, session, 2).await?;
        if let Some(Ok(mut values)) = values.map(|values| values.of(tags.len() + 1)) {
            let reached = values.pop().flatten();
            // If another database was swapped in, its tokens say nothing about the one that will be swapped back.
            if !connection.is_dataset(reached.as_deref().and_then(|id| str::from_utf8(id).ok())) {
                return Ok(answer);
            }
            let records: Vec<_> = values.iter().map(|value| value.as_deref().and_then(TagRecord::parse)).collect();
            reads.complete(&records);
            self.note_bans(&records);
        }
        Ok(answer)
    }

    /// Asks the server that has the tags for their tokens, and for the time of the last invalidation of any tag.
    ///
    /// An invalidation between this and the commit changes a token that is already on the entry, which makes the entry invalid:
    /// no invalidation is missed.
    async fn ask_for_tokens(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
        believed: &mut [Believed],
        lease: &Lease,
        longest: u64,
    ) -> Result<[u8; 16], StoreError> {
        let names = &self.0.context.names;
        let mut batch = Batch::default();
        for Believed { stamp: TagStamp { tag, .. }, .. } in believed.iter() {
            batch.stamp(&names.tag(tag), &lives(tag, longest));
        }
        // This is read after the tokens, since it has to show whether one of them was forgotten and made anew.
        batch.call(&scripts::LAST_INVALIDATION, &[&names.last_invalidation()], &[]);
        let asked = believed.len();
        let (stamped, last) = connection
            .run_with(Operation::TagStamp, session, Limit::Background, async |mut driver: MultiplexedConnection| {
                let mut replies: Vec<Value> = exactly(asked + 1, batch.run(&mut driver).await?)?;
                let last = replies.pop().ok_or_else(no_answer)?;
                let (Moment(last), Moment(_)) = from_redis_value(last)?;
                let stamped = replies.into_iter().map(from_redis_value).collect::<Result<Vec<Stamped>, _>>()?;
                Ok((stamped, last))
            })
            .await?;
        for (tag, Stamped { record }) in believed.iter_mut().zip(stamped) {
            tag.learn(&record, lease);
            tag.compared = false;
        }
        Ok(last)
    }

    /// The call that writes the entries of a fill, stamped, each for its life, and whether one is a variant. `doubted`: the
    /// script refuses if any tag was invalidated since the load began.
    fn commit_call(
        &self,
        Fill { lease, writes, .. }: &Fill,
        believed: &[Believed],
        doubted: bool,
        longest: u64,
    ) -> (Call, bool) {
        let names = &self.0.context.names;
        let guard = match writes.guard.as_deref() {
            Some((key, version)) => (key, &envelope::version(*version)[..]),
            None => (&lease.key, &b""[..]),
        };
        let variant = match &writes.entries[..] {
            [(primary, leading), (variant, _)] if !primary.id().is_variant() && variant.id().is_variant() => {
                Some((primary, variant, leading.most_variants()))
            }
            _ => None,
        };
        let compared: Vec<&Believed> = believed.iter().filter(|tag| tag.compared).collect();
        let others = if compared.is_empty() && !doubted { 0 } else { compared.len() + 1 };
        let mut call = Call::default();
        call.key(names.lease(&lease.key)).key(names.entry(guard.0));
        call.arg(lease.value()).arg(guard.1.to_vec()).arg(others.to_string()).arg(lease.started.to_vec());
        call.arg(flag(doubted));
        if let Some((primary, variant, most)) = variant {
            call.key(names.variants(primary)).arg(names.variant_digits(variant)).arg(most.to_string());
        }
        let stamps: Vec<TagStamp> = believed.iter().map(|tag| tag.stamp.clone()).collect();
        // The entries also carry the token of everything, the last one.
        let of_everything = stamps.last().map(|stamp| &stamp.token);
        let bans = lease.bans.as_deref().zip(of_everything).map_or(0, |(known, token)| known.under(token));
        let now = self.0.context.clock.now();
        for (key, entry) in &writes.entries {
            let entry = entry.clone().stamped(&stamps).knowing_bans(bans);
            let life = entry.deadlines().life(now).max(1).to_string();
            call.key(names.entry(key)).arg(names.sealing().encode(&entry)).arg(life);
        }
        if others > 0 {
            call.key(names.last_invalidation());
        }
        for Believed { stamp: TagStamp { tag, token }, new, .. } in compared {
            let [least, made, extended] = lives(tag, longest);
            call.key(names.tag(tag)).arg(token.0.to_vec()).arg(flag(*new));
            call.arg(least).arg(made).arg(extended);
        }
        (call, variant.is_some())
    }
}

/// Makes the call, which has this many replies: returns how it ended, and the tokens that were read with it.
async fn commit(
    call: Batch,
    connection: &Connection,
    session: &Arc<Session>,
    replies: usize,
) -> Result<(Commit, Option<Values>), StoreError> {
    connection
        .run_with(Operation::Commit, session, Limit::Background, async |mut driver: MultiplexedConnection| {
            let mut replies = exactly(replies, call.run::<Vec<Value>>(&mut driver).await?)?.into_iter();
            let answer = from_redis_value(replies.next().ok_or_else(no_answer)?)?;
            Ok((answer, replies.next().map(from_redis_value).transpose()?))
        })
        .await
}

fn flag(flag: bool) -> &'static str {
    if flag { "1" } else { "0" }
}

/// The tokens that the tags of a fill are believed to have, the one of everything last.
fn believed(session: &Session, Fill { lease, tags, .. }: &Fill, longest: u64) -> Vec<Believed> {
    let all = tags.as_slice().iter().cloned().chain([EVERYTHING.into()]);
    let believe = |tag: Arc<str>| {
        let known = session.tokens.get(&tag);
        let lives = known.as_ref().is_some_and(|known| known.lives_for(Duration::from_millis(longest)));
        let token = known.as_ref().map_or_else(|| TagToken::created_by(lease.started, &nonce()), Known::token);
        let banned = known.as_ref().is_some_and(|known| is_banned(known.record(), lease));
        Believed { stamp: TagStamp { tag, token }, new: known.is_none(), compared: !lives, banned }
    };
    all.map(believe).collect()
}

/// Whether a listed ban covers the key of a load that did not know of it.
fn is_banned(record: &TagRecord, lease: &Lease) -> bool {
    let known = lease.bans.as_deref().map_or(0, |known| known.under(&record.token));
    let covers =
        |bans: &Bans| bans.state_of(known, lease.key.canonical(), || lease.key.id().turn()) != TagState::Current;
    record.bans().is_some_and(covers)
}

/// Takes over the actual tokens of the tags that were compared.
fn learn(believed: &mut [Believed], records: Vec<Option<TagRecord>>, lease: &Lease) -> Result<(), StoreError> {
    let compared: Vec<&mut Believed> = believed.iter_mut().filter(|tag| tag.compared).collect();
    if compared.len() != records.len() {
        return Err(StoreError::Failed("the tokens of other tags than were asked for".to_owned()));
    }
    for (tag, record) in compared.into_iter().zip(records) {
        match record {
            Some(record) => tag.learn(&record, lease),
            None => (tag.stamp.token, tag.new) = (TagToken::created_by(lease.started, &nonce()), true),
        }
    }
    Ok(())
}
