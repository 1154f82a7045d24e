//! Many entries in one round trip: for all keys that share a connection, everything is sent at once.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use redis::{RedisResult, aio::MultiplexedConnection};

use super::{
    RedisStore,
    connection::{
        handle::{Connection, Limit},
        session::Session,
    },
    tracking::tag_tracker::Verdict,
    wire::token_life::lives,
    wire::{
        invalidation::with_dataset_id,
        names::EVERYTHING,
        operation::Operation,
        replies::{Flag, Stamped, Values, exactly},
        scripts::{self, Batch},
    },
};
use crate::{
    entry::Entry,
    key::Key,
    store::{Hardness, Lookup, Scope, Seen, StoreError},
    tag::{BansKnown, TagStamp, Tags},
    telemetry::Rejection,
};

/// The number of attempts at a write whose tags are invalidated meanwhile. After the last one, the entry is there and invalid.
const ATTEMPTS: usize = 3;

impl RedisStore {
    pub(super) async fn lookup_many(&self, keys: &[Key]) -> Vec<Result<Lookup, StoreError>> {
        self.lookup_within(keys, Limit::Request).await
    }

    /// As [`lookup_many`](Self::lookup_many), if no request waits for it.
    pub(super) async fn fetch_many(&self, keys: &[Key]) -> Vec<Result<Lookup, StoreError>> {
        self.lookup_within(keys, Limit::Background).await
    }

    async fn lookup_within(&self, keys: &[Key], limit: Limit) -> Vec<Result<Lookup, StoreError>> {
        let groups = self.by_connection(keys.iter());
        if let [(connection, _)] = &groups[..] {
            let keys: Vec<&Key> = keys.iter().collect();
            return match self.lookup_on(connection, &keys, limit).await {
                Ok(lookups) => lookups.into_iter().map(Ok).collect(),
                Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
            };
        }
        let answers = groups.iter().map(|(connection, places)| {
            let keys: Vec<&Key> = places.iter().map(|&place| &keys[place]).collect();
            async move { self.lookup_on(connection, &keys, limit).await }
        });
        let mut found: Vec<_> = keys.iter().map(|_| Err(StoreError::Unavailable)).collect();
        for ((_, places), answer) in groups.iter().zip(join_all(answers).await) {
            match answer {
                Ok(lookups) => places.iter().zip(lookups).for_each(|(&place, lookup)| found[place] = Ok(lookup)),
                Err(error) => places.iter().for_each(|&place| found[place] = Err(error.clone())),
            }
        }
        found
    }

    async fn lookup_on(
        &self,
        connection: &Arc<Connection>,
        keys: &[&Key],
        limit: Limit,
    ) -> Result<Vec<Lookup>, StoreError> {
        let session = connection.settled()?;
        let (tags, tags_session) = self.connection_to_read_tags(connection, &session)?;
        let watch = self.watch_bans(&tags, &tags_session).await?;
        let local_tier = self.0.context.local_tier.get().filter(|_| session.tracking);
        let reads = keys.iter().map(|key| local_tier.map(|tier| tier.begin_read(key))).collect::<Vec<_>>();
        let values = self.read_values(connection, &session, keys, limit, local_tier.is_some()).await?;
        let sealing = self.0.context.names.sealing();
        let decoded: Vec<Option<Result<Entry, Rejection>>> = keys
            .iter()
            .zip(values)
            .map(|(key, reply)| reply.map(|bytes| sealing.decode(key, &Bytes::from(bytes))))
            .collect();
        let opened = decoded.iter().filter_map(|entry| entry.as_ref()?.as_ref().ok());
        self.learn_tokens(&tags, &tags_session, opened).await?;
        let mut found = Vec::with_capacity(keys.len());
        for ((key, decoded), read) in keys.iter().zip(decoded).zip(reads) {
            found.push(match decoded {
                None => Lookup::Absent,
                Some(Err(rejection)) => Lookup::Rejected(rejection, Seen::Unusable),
                Some(Ok(entry)) => {
                    // Most likely, all tags are known.
                    let judged = match tags_session.tokens.judge(&entry, key) {
                        Verdict::Known(judged) => judged,
                        Verdict::Unknown(..) => self.judge(&tags, &tags_session, key, &entry).await?,
                    };
                    let Some(state) = judged.unless_in_doubt(&tags_session.tokens, watch) else {
                        found.push(self.lookup(key, false).await?);
                        continue;
                    };
                    if let Some(read) = read.filter(|_| !state.is_void()) {
                        read.complete(session.number, &entry);
                    }
                    Lookup::judged(entry, state)
                }
            });
        }
        Ok(found)
    }

    /// What is stored under `keys`, in one round trip. `tracks`: the server is to tell of changes.
    async fn read_values(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
        keys: &[&Key],
        limit: Limit,
        tracks: bool,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let names = &self.0.context.names;
        // In a cluster, one command reads from one slot only; the round trip carries one command for each name.
        let at_once = if names.is_clustered() { 1 } else { keys.len().max(1) };
        let mut batch = Batch::default();
        for keys in keys.chunks(at_once) {
            if tracks {
                batch.track(session.tracking);
            }
            batch.values(keys.iter().map(|key| names.entry(key)));
        }
        connection
            .run_with(Operation::Mget, session, limit, async |mut driver: MultiplexedConnection| {
                let replies: Vec<Values> = batch.run(&mut driver).await?;
                let replies = replies.into_iter().zip(keys.chunks(at_once));
                let values: Vec<_> = replies.map(|(values, keys)| values.of(keys.len())).collect::<RedisResult<_>>()?;
                exactly(keys.len(), values.into_iter().flatten().collect())
            })
            .await
    }

    pub(super) async fn put_many(&self, entries: Vec<(Key, Entry)>, tags: &Tags) -> Result<(), StoreError> {
        let groups = self.by_connection(entries.iter().map(|(key, _)| key));
        let writes = groups.iter().map(|(connection, places)| {
            let entries: Vec<&(Key, Entry)> = places.iter().map(|&place| &entries[place]).collect();
            async move {
                // A server may fail over before its reply is here, or soon after.
                let remember = |key| self.0.context.guard.remember(Scope::Key(key));
                entries.iter().for_each(|(key, _)| remember(key));
                let written = match connection.session() {
                    Ok(session) => self.put_on(connection, &session, &entries, tags).await,
                    Err(error) => Err(error),
                };
                if written.is_err() {
                    // The present entry is older than the one to be written. Even a full server deletes it.
                    join_all(entries.iter().map(|(key, _)| self.deliver(Scope::Key(key), Hardness::Hard))).await;
                }
                // This process hears of the write by a push, but not before this returns.
                let local_tier = self.0.context.local_tier.get();
                for (key, entry) in entries {
                    if written.is_ok() {
                        self.note_stored(key, entry);
                        remember(key);
                    }
                    self.0.context.leases.revoke_key(key.id());
                    local_tier.into_iter().for_each(|tier| tier.void(key.id()));
                }
                written
            }
        });
        join_all(writes).await.into_iter().collect()
    }

    /// Writes entries with the tokens that their tags are believed to have, and reads the actual tokens in the same round trip.
    /// An entry with another token is invalid from the start, so it is written once more.
    async fn put_on(
        &self,
        connection: &Arc<Connection>,
        session: &Arc<Session>,
        entries: &[&(Key, Entry)],
        tags: &Tags,
    ) -> Result<(), StoreError> {
        let (tags_connection, tags_session) = self.connection_of_tags(connection, session)?;
        let names = &self.0.context.names;
        let now = self.0.context.clock.now();
        let life = |entry: &Entry| entry.deadlines().life(now).max(1);
        let longest = entries.iter().map(|(_, entry)| life(entry)).max().unwrap_or(0);
        let all: Vec<Arc<str>> = tags.as_slice().iter().cloned().chain([EVERYTHING.into()]).collect();
        // For everything, read its bans as well: earlier bans do not cover the entries that are put now.
        let mut tokens: Option<Vec<BansKnown>> =
            all.iter().map(|tag| tags_session.tokens.get(tag).map(|known| known.record().bans_known())).collect();
        for _ in 0..ATTEMPTS {
            let (mut asking, mut writing) = (Batch::default(), Batch::default());
            for tag in &all {
                asking.stamp(&names.tag(tag), &lives(tag, longest));
            }
            if let Some(tokens) = &tokens {
                let stamp = |(tag, known): (&Arc<str>, &BansKnown)| TagStamp { tag: tag.clone(), token: known.token() };
                let stamps: Vec<TagStamp> = all.iter().zip(tokens).map(stamp).collect();
                let bans = tokens.last().map_or(0, BansKnown::newest);
                writing = self.puts(entries, &stamps, bans, life, || connection.times_out_at());
            }
            let ask = tags_connection.run_with(
                Operation::TagStamp,
                &tags_session,
                Limit::Background,
                async |mut driver: MultiplexedConnection| {
                    exactly(all.len(), asking.run::<Vec<Stamped>>(&mut driver).await?)
                },
            );
            let write = connection.run_with(
                Operation::Put,
                session,
                Limit::Background,
                async |mut driver: MultiplexedConnection| {
                    let expected = if tokens.is_some() { entries.len() } else { return Ok(None) };
                    with_dataset_id::<Flag>(names, writing, expected, &mut driver).await.map(Some)
                },
            );
            let (current, written) = tokio::join!(ask, write);
            let current = Some(current?.into_iter().map(|stamped| stamped.record.bans_known()).collect());
            let in_place = match written? {
                Some(reached) => connection.leads_to(session, reached.as_deref()).await?,
                None => false,
            };
            if in_place {
                self.0.context.counters.stored();
            }
            if in_place && tokens == current {
                return Ok(());
            }
            tokens = current;
        }
        Ok(())
    }

    /// The calls that write `entries`, stamped; they know of the bans up to `bans`. Each entry gets its `life` in milliseconds. After
    /// `latest`, which is asked for once the entries are encoded, the server refuses them.
    fn puts(
        &self,
        entries: &[&(Key, Entry)],
        stamps: &[TagStamp],
        bans: u64,
        life: impl Fn(&Entry) -> u64,
        latest: impl Fn() -> Option<u64>,
    ) -> Batch {
        let names = &self.0.context.names;
        let encode = |entry: &Entry| names.sealing().encode(&entry.clone().stamped(stamps).knowing_bans(bans));
        let encoded: Vec<_> = entries.iter().map(|(_, entry)| encode(entry)).collect();
        let latest = latest().map_or_else(String::new, |latest| latest.to_string());
        let mut batch = Batch::default();
        for ((key, entry), bytes) in entries.iter().copied().zip(&encoded) {
            let life = life(entry).to_string();
            let arguments = [bytes, life.as_bytes(), latest.as_bytes()];
            batch.call(&scripts::PUT, &[&names.entry(key), &names.lease(key)], &arguments);
        }
        batch
    }

    /// The indices of `keys`, grouped by the connection for each.
    fn by_connection<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> Vec<(Arc<Connection>, Vec<usize>)> {
        let mut groups: Vec<(Arc<Connection>, Vec<usize>)> = Vec::new();
        for (place, key) in keys.enumerate() {
            let connection = self.connection(key);
            match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &connection)) {
                Some((_, places)) => places.push(place),
                None => groups.push((connection.into_owned(), vec![place])),
            }
        }
        groups
    }
}
