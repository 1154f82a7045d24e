//! Looking entries up.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;

use super::{
    RedisStore,
    link::{Link, Live},
    operation::Operation,
    reads::Found,
    replies::Values,
    scripts::Batch,
    tokens::Verdict,
};
use crate::{
    entry::Entry,
    key::Key,
    store::{Lookup, Seen, StoreError},
    tag::{TagState, TagToken},
    telemetry::Rejection,
};

impl RedisStore {
    pub(super) async fn lookup(&self, key: &Key) -> Result<Lookup, StoreError> {
        let link = self.link(key);
        let live = link.settled()?;
        // In hand before the entry is read: what judges it must not have begun to listen later.
        let (tags, tags_live) = self.link_to_read_tags(&link, &live)?;
        let read = self.0.near.get().filter(|_| live.tracking).map(|near| near.ask(key));
        let answer = live.reads.ask(key, read.is_some(), || self.0.names.entry(key));
        let asked = async { answer.wait().await.as_ref().map_err(Clone::clone) };
        let entry = match link.wait(Operation::command("GET"), &live, asked).await? {
            Found::Nothing => return Ok(Lookup::Absent),
            Found::Foreign => return Ok(Lookup::Rejected(Rejection::Type, Seen::Unusable)),
            Found::Envelope(envelope) => match envelope.open(key) {
                Ok(entry) => entry,
                Err(rejection) => return Ok(Lookup::Rejected(rejection, Seen::Unusable)),
            },
        };
        let state = self.tag_state(&tags, &tags_live, &entry).await?;
        if let Some(read) = read.filter(|_| state != TagState::Invalid) {
            read.answer(&live, &entry);
        }
        Ok(Lookup::judged(entry, state))
    }

    /// What `entry` is worth by the tokens that its tags have now. To be asked after the entry's bytes came in: then every
    /// invalidation that came before them counts.
    pub(super) async fn tag_state(&self, link: &Link, live: &Arc<Live>, entry: &Entry) -> Result<TagState, StoreError> {
        let (unknown, mut state) = match live.tokens.judge(entry.stamps()) {
            Verdict::Known(state) => return Ok(state),
            Verdict::Unknown(unknown, state) => (unknown, state),
        };
        let mut batch = Batch::default();
        batch.track(live);
        batch.values(unknown.iter().map(|tag| self.0.names.tag(tag)));
        let question = live.tracking.then(|| live.tokens.ask(&unknown));
        let values = link
            .run(Operation::command("MGET"), live, async |mut connection: MultiplexedConnection| {
                let (values,): (Values,) = batch.run(&mut connection).await?;
                values.of(unknown.len())
            })
            .await?;
        for (tag, value) in unknown.iter().zip(values) {
            let token = value.as_deref().and_then(TagToken::parse);
            if let Some(question) = question {
                live.tokens.answer(question, tag, token);
            }
            let carried = entry.stamps().iter().find(|stamp| stamp.tag == *tag);
            let by_tag = match (carried, token) {
                (Some(stamp), Some(current)) => stamp.token.compared_with(&current),
                _ => TagState::Invalid,
            };
            state = state.and(by_tag);
        }
        Ok(state)
    }
}
