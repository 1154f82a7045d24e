//! Looking entries up.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::{
    RedisStore,
    connection::{
        batcher::Found,
        handle::{Connection, Limit},
        session::Session,
    },
    tracking::tag_tracker::{BansWatch, Judged, LeadingRead, SharedTurn, Verdict, judge_by},
    wire::{
        names::EVERYTHING,
        operation::Operation,
        replies::{AnyType, Values},
        scripts::Batch,
        sealing::Sealing,
    },
};
use crate::{
    entry::Entry,
    key::Key,
    store::{Lookup, Seen, StoreError},
    tag::{TagRecord, TagState},
    telemetry::Rejection,
};

/// How often an entry is read while bans come and go, with the list that this process knows, and with a list of its own.
const KNOWN_ATTEMPTS: usize = 2;
const ATTEMPTS: usize = 3;
/// How often a look-up waits for another one that reads the record of everything, before it reads the record itself.
const FOLLOWED: usize = 2;

/// Who reads the record of everything.
pub(super) enum ReadTurn<'a> {
    /// It is known by now.
    Known,
    /// The caller, and perhaps for others as well.
    Own(Option<LeadingRead<'a>>),
}

impl<'a> ReadTurn<'a> {
    /// Returns once no other task reads, or after several have read in vain.
    async fn comes(session: &'a Session, patience: Duration) -> Result<Self, StoreError> {
        for _ in 0..FOLLOWED {
            if session.tokens.get(EVERYTHING).is_some() {
                return Ok(Self::Known);
            }
            match session.tokens.share_read() {
                SharedTurn::Lead(leading) => return Ok(Self::Own(Some(leading))),
                SharedTurn::Follow(end) => match timeout(patience, end.wait()).await {
                    Ok(ended) => ended.clone()?,
                    Err(_) => session.tokens.give_up_on(&end),
                },
            }
        }
        Ok(if session.tokens.get(EVERYTHING).is_some() { Self::Known } else { Self::Own(None) })
    }

    /// Ends the turn with the result of the read.
    pub(super) fn end<T>(self, read: &Result<T, StoreError>) {
        if let (Self::Own(Some(leading)), Err(error)) = (self, read) {
            leading.failed(error);
        }
    }
}

/// What must be read to judge an entry.
struct Unknown<'a> {
    tags: Vec<Arc<str>>,
    turn: ReadTurn<'a>,
    /// The state by the other tags.
    judged: Judged,
}

impl RedisStore {
    /// Looks an entry up. `loads`: a load will most likely follow if there is none; otherwise no lease is claimed, and nothing is
    /// learned.
    pub(super) async fn lookup(&self, key: &Key, loads: bool) -> Result<Lookup, StoreError> {
        // Without tracking, the list is not known for longer than a reply.
        let tracks = || self.connection_to_tags().session().is_ok_and(|session| session.tracking);
        for attempt in 0..KNOWN_ATTEMPTS {
            if attempt > 0 && !tracks() {
                break;
            }
            if let Some(lookup) = self.look_up(key, loads).await? {
                return Ok(lookup);
            }
        }
        for _ in 0..ATTEMPTS {
            if let Some(lookup) = self.look_up_in_doubt(key).await? {
                return Ok(lookup);
            }
        }
        Ok(Lookup::Rejected(Rejection::Pattern, Seen::Unusable))
    }

    /// `None` if bans came or went meanwhile, so that it is not known whether one covers the entry.
    async fn look_up(&self, key: &Key, loads: bool) -> Result<Option<Lookup>, StoreError> {
        let connection = self.connection(key);
        let session = connection.settled()?;
        // Taken before the entry is read: the connection that judges it must not have begun to track later than the read.
        let (tags, tags_session) = self.connection_to_read_tags(&connection, &session)?;
        if let Some(claim) = loads.then(|| self.begin_claim(key, &session)).flatten() {
            return self.lookup_and_claim(key, (&connection, &session), (&tags, &tags_session), claim).await;
        }
        let watch = self.watch_bans(&tags, &tags_session).await?;
        let read = self.0.context.local_tier.get().filter(|_| session.tracking).map(|tier| tier.begin_read(key));
        let answer = session.lookups.ask(key, read.is_some(), || self.0.context.names.entry(key));
        let asked = async { answer.wait().await.as_ref().map_err(Clone::clone) };
        let found = connection.wait(Operation::Get, &session, Limit::Request, asked).await?;
        let lookup = match opened(found, key, self.0.context.names.sealing()) {
            Ok(entry) => {
                let judged = self.judge(&tags, &tags_session, key, &entry).await?;
                let Some(state) = judged.unless_in_doubt(&tags_session.tokens, watch) else { return Ok(None) };
                if let Some(read) = read.filter(|_| !state.is_void()) {
                    read.complete(session.number, &entry);
                }
                Lookup::judged(entry, state)
            }
            Err(lookup) => lookup,
        };
        if loads {
            self.learn_from(key, &lookup);
        }
        Ok(Some(lookup))
    }

    /// Looks up an entry while bans come and go, or where the server tracks nothing: the list is read before the entry and after
    /// it. If there was no ban in between, the list from before has each ban that covers the entry and was not swept by then.
    /// `None` if there was one.
    async fn look_up_in_doubt(&self, key: &Key) -> Result<Option<Lookup>, StoreError> {
        let connection = self.connection(key);
        let session = connection.settled()?;
        let (tags, tags_session) = self.connection_to_read_tags(&connection, &session)?;
        let Some(before) = self.read_everything(&tags, &tags_session).await? else { return Ok(None) };
        let answer = session.lookups.ask(key, false, || self.0.context.names.entry(key));
        let asked = async { answer.wait().await.as_ref().map_err(Clone::clone) };
        let found = connection.wait(Operation::Get, &session, Limit::Request, asked).await?;
        let entry = match opened(found, key, self.0.context.names.sealing()) {
            Ok(entry) => entry,
            Err(lookup) => return Ok(Some(lookup)),
        };
        let judged = self.judge(&tags, &tags_session, key, &entry).await?;
        let after = self.read_everything(&tags, &tags_session).await?;
        if after.is_none_or(|after| after.bans_known() != before.bans_known()) {
            return Ok(None);
        }
        let of_everything = entry.stamps().iter().find(|stamp| &*stamp.tag == EVERYTHING);
        let known = of_everything.map(|stamp| judge_by(&before, stamp, &entry, key));
        let state = known.map_or(TagState::Invalid, |known| judged.and(known).state);
        Ok(Some(Lookup::judged(entry, state)))
    }

    /// The pattern of the ban that voids the entry of `key`, if there is an entry and one does.
    pub(super) async fn voiding_ban(&self, key: &Key) -> Result<Option<String>, StoreError> {
        let connection = self.connection(key);
        let session = connection.settled()?;
        let (tags, tags_session) = self.connection_to_read_tags(&connection, &session)?;
        let record = self.read_everything(&tags, &tags_session).await?;
        let answer = session.lookups.ask(key, false, || self.0.context.names.entry(key));
        let asked = async { answer.wait().await.as_ref().map_err(Clone::clone) };
        let found = connection.wait(Operation::Get, &session, Limit::Request, asked).await?;
        let entry = opened(found, key, self.0.context.names.sealing()).ok();
        let bans = record.as_ref().and_then(TagRecord::bans);
        Ok(bans.zip(entry).and_then(|(bans, entry)| bans.voiding(entry.bans_known(), key.canonical())))
    }

    /// The record of the tag that every entry carries, as the server has it now.
    async fn read_everything(
        &self,
        tags: &Connection,
        session: &Arc<Session>,
    ) -> Result<Option<TagRecord>, StoreError> {
        let mut batch = Batch::default();
        batch.get_any(&self.0.context.names.tag(EVERYTHING));
        let (AnyType(found),): (AnyType,) = tags.run(Operation::Mget, session, &batch).await?;
        Ok(found.and_then(|found| TagRecord::parse(&found)))
    }

    /// What is known of bans before an entry is read; if this process has known of any, the list is read if necessary.
    ///
    /// A ban is taken off the list once the entries that it covers are swept. A look-up that read an entry before that, and
    /// judges it after that, has to notice: so the list is tracked from before the read.
    pub(super) async fn watch_bans(&self, tags: &Connection, session: &Arc<Session>) -> Result<BansWatch, StoreError> {
        let watch = session.tokens.watch_bans();
        if watch.is_known() || !session.tracking || !self.0.context.has_bans.load(Ordering::Relaxed) {
            return Ok(watch);
        }
        self.know_everything(tags, session).await?;
        Ok(session.tokens.watch_bans())
    }

    /// The state of `entry` by the tokens that its tags have now. To be called after the entry's bytes arrived, so that every
    /// invalidation before them counts.
    pub(super) async fn judge(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
        key: &Key,
        entry: &Entry,
    ) -> Result<Judged, StoreError> {
        let Unknown { tags, turn, mut judged } = match self.unknown_tags(session, key, entry).await? {
            Ok(judged) => return Ok(judged),
            Err(unknown) => unknown,
        };
        let records = self.read_tags(connection, session, &tags).await;
        turn.end(&records);
        for (tag, record) in tags.iter().zip(records?) {
            let carried = entry.stamps().iter().find(|stamp| stamp.tag == *tag);
            judged = judged.and(match (carried, record) {
                (Some(stamp), Some(current)) => judge_by(&current, stamp, entry, key),
                _ => Judged { state: TagState::Invalid, banned_since: false },
            });
        }
        Ok(judged)
    }
}

impl RedisStore {
    /// The state of `entry`, if it is known; otherwise what must be read, as soon as it is the caller's turn to do so.
    async fn unknown_tags<'s>(
        &self,
        session: &'s Session,
        key: &Key,
        entry: &Entry,
    ) -> Result<Result<Judged, Unknown<'s>>, StoreError> {
        let (tags, judged) = match session.tokens.judge(entry, key) {
            Verdict::Known(judged) => return Ok(Ok(judged)),
            Verdict::Unknown(tags, judged) => (tags, judged),
        };
        if !tags.iter().any(|tag| **tag == *EVERYTHING) {
            return Ok(Err(Unknown { tags, turn: ReadTurn::Own(None), judged }));
        }
        let turn = self.turn_to_read(session).await?;
        if matches!(turn, ReadTurn::Own(_)) {
            return Ok(Err(Unknown { tags, turn, judged }));
        }
        Ok(match session.tokens.judge(entry, key) {
            Verdict::Known(judged) => Ok(judged),
            Verdict::Unknown(tags, judged) => Err(Unknown { tags, turn: ReadTurn::Own(None), judged }),
        })
    }

    /// Waits for a look-up that reads the record of everything, if there is one, until the record is known or it is the caller's
    /// turn to read it. The caller never takes another look-up's reply, which may be older than an invalidation that the caller
    /// has to obey; only the table is as new as the caller's own last reply.
    pub(super) async fn turn_to_read<'s>(&self, session: &'s Session) -> Result<ReadTurn<'s>, StoreError> {
        if !session.tracking {
            return Ok(ReadTurn::Own(None));
        }
        // The task that reads may have been left without being dropped: the caller has to have time for a read of its own.
        ReadTurn::comes(session, self.0.context.timeouts.operation / 4).await
    }

    /// The records of these tags, tracked from now on; `None` for a tag without one.
    async fn read_tags(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
        tags: &[Arc<str>],
    ) -> Result<Vec<Option<TagRecord>>, StoreError> {
        let mut batch = Batch::default();
        batch.track(session.tracking);
        batch.values(tags.iter().map(|tag| self.0.context.names.tag(tag)));
        let reads = session.tracking.then(|| session.tokens.begin_read(tags));
        let values = connection
            .run_with(Operation::Mget, session, Limit::Request, async |mut driver: MultiplexedConnection| {
                let (values,): (Values,) = batch.run(&mut driver).await?;
                values.of(tags.len())
            })
            .await?;
        let records: Vec<_> = values.iter().map(|value| value.as_deref().and_then(TagRecord::parse)).collect();
        if let Some(reads) = reads {
            reads.complete(&records);
        }
        self.note_bans(&records);
        Ok(records)
    }

    /// Reads, at once, the records that must be known to judge `entries`. Without tracking, a record is not known beyond its reply,
    /// and each entry is judged by a read of its own.
    pub(super) async fn learn_tokens<'e>(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
        entries: impl Iterator<Item = &'e Entry> + Clone,
    ) -> Result<(), StoreError> {
        let unknown = || session.tokens.unknown(entries.clone().flat_map(|entry| entry.stamps()));
        let mut tags = unknown();
        if tags.is_empty() || !session.tracking {
            return Ok(());
        }
        let mut turn = ReadTurn::Own(None);
        if tags.contains(EVERYTHING) {
            turn = self.turn_to_read(session).await?;
            if matches!(turn, ReadTurn::Known) {
                tags = unknown();
            }
        }
        if tags.is_empty() {
            return Ok(());
        }
        let tags: Vec<Arc<str>> = tags.into_iter().collect();
        let records = self.read_tags(connection, session, &tags).await;
        turn.end(&records);
        records.map(drop)
    }
}

/// The entry of `key` that was found, or why it can't be used.
pub(super) fn opened(found: &Found, key: &Key, sealing: &Sealing) -> Result<Entry, Lookup> {
    match found {
        Found::Nothing => Err(Lookup::Absent),
        Found::Foreign => Err(Lookup::Rejected(Rejection::Type, Seen::Unusable)),
        Found::Envelope(envelope) => {
            envelope.open(key, sealing).map_err(|rejection| Lookup::Rejected(rejection, Seen::Unusable))
        }
    }
}
