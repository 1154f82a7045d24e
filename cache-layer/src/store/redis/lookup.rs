//! Looking entries up.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;

use super::{
    RedisStore,
    connection::{
        batcher::Found,
        handle::{Connection, Limit},
        session::Session,
    },
    tracking::tag_tracker::Verdict,
    wire::{operation::Operation, replies::Values, scripts::Batch, sealing::Sealing},
};
use crate::{
    entry::Entry,
    key::Key,
    store::{Lookup, Seen, StoreError},
    tag::{TagRecord, TagState},
    telemetry::Rejection,
};

impl RedisStore {
    /// `loads`: a load most likely follows where there is nothing; otherwise nothing is taken along, or learned.
    pub(super) async fn lookup(&self, key: &Key, loads: bool) -> Result<Lookup, StoreError> {
        let connection = self.connection(key);
        let session = connection.settled()?;
        // In hand before the entry is read: what judges it must not have begun to listen later.
        let (tags, tags_session) = self.connection_to_read_tags(&connection, &session)?;
        if let Some(claim) = loads.then(|| self.begin_claim(key, &session)).flatten() {
            return self.lookup_and_claim(key, (&connection, &session), (&tags, &tags_session), claim).await;
        }
        let read = self.0.context.local_tier.get().filter(|_| session.tracking).map(|tier| tier.begin_read(key));
        let answer = session.lookups.ask(key, read.is_some(), || self.0.context.names.entry(key));
        let asked = async { answer.wait().await.as_ref().map_err(Clone::clone) };
        let found = connection.wait(Operation::Get, &session, Limit::Request, asked).await?;
        let lookup = match opened(found, key, self.0.context.names.sealing()) {
            Ok(entry) => {
                let state = self.tag_state(&tags, &tags_session, key, &entry).await?;
                if let Some(read) = read.filter(|_| state != TagState::Invalid) {
                    read.complete(session.number, &entry);
                }
                Lookup::judged(entry, state)
            }
            Err(lookup) => lookup,
        };
        if loads {
            self.learn_from(key, &lookup);
        }
        Ok(lookup)
    }

    /// What `entry` is worth by the tokens that its tags have now. To be asked after the entry's bytes came in: then every
    /// invalidation that came before them counts.
    pub(super) async fn tag_state(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
        key: &Key,
        entry: &Entry,
    ) -> Result<TagState, StoreError> {
        let (unknown, mut state) = match session.tokens.judge(entry.stamps(), || key.id().turn()) {
            Verdict::Known(state) => return Ok(state),
            Verdict::Unknown(unknown, state) => (unknown, state),
        };
        let mut batch = Batch::default();
        batch.track(session.tracking);
        batch.values(unknown.iter().map(|tag| self.0.context.names.tag(tag)));
        let reads = session.tracking.then(|| session.tokens.begin_read(&unknown));
        let values = connection
            .run_with(Operation::Mget, session, Limit::Request, async |mut driver: MultiplexedConnection| {
                let (values,): (Values,) = batch.run(&mut driver).await?;
                values.of(unknown.len())
            })
            .await?;
        let records: Vec<Option<TagRecord>> =
            values.iter().map(|value| value.as_deref().and_then(TagRecord::parse)).collect();
        if let Some(reads) = reads {
            reads.complete(&records);
        }
        for (tag, record) in unknown.iter().zip(records) {
            let carried = entry.stamps().iter().find(|stamp| stamp.tag == *tag);
            let by_tag = match (carried, record) {
                (Some(stamp), Some(current)) => current.state_of(&stamp.token, || key.id().turn()),
                _ => TagState::Invalid,
            };
            state = state.and(by_tag);
        }
        Ok(state)
    }
}

/// The entry of `key` that was found; or why there is none.
pub(super) fn opened(found: &Found, key: &Key, sealing: &Sealing) -> Result<Entry, Lookup> {
    match found {
        Found::Nothing => Err(Lookup::Absent),
        Found::Foreign => Err(Lookup::Rejected(Rejection::Type, Seen::Unusable)),
        Found::Envelope(envelope) => {
            envelope.open(key, sealing).map_err(|rejection| Lookup::Rejected(rejection, Seen::Unusable))
        }
    }
}
