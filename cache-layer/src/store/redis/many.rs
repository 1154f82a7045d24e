//! Many entries in one round trip: of all keys that share a connection, everything goes out at once.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use futures_util::future::join_all;
use redis::{RedisResult, aio::MultiplexedConnection};

use super::{
    EVERYTHING, RedisStore,
    invalidate::{Hardness, marked},
    link::{Link, Live},
    operation::Operation,
    replies::{Flag, Stamped, Values, exactly},
    scripts::{self, Batch},
    tokens::{Verdict, lives},
};
use crate::{
    clock::Clock,
    entry::{Entry, envelope},
    key::Key,
    store::{Lookup, Scope, Seen, StoreError},
    tag::{TagStamp, TagState, TagToken, Tags},
    telemetry::Rejection,
};

/// Attempts at a write whose tags are invalidated meanwhile. After the last one, the entry is there and invalid.
const ATTEMPTS: usize = 3;

impl RedisStore {
    pub(super) async fn lookup_many(&self, keys: &[Key]) -> Vec<Result<Lookup, StoreError>> {
        let groups = self.by_link(keys.iter());
        let answers = groups.iter().map(|(link, places)| {
            let keys: Vec<&Key> = places.iter().map(|&place| &keys[place]).collect();
            async move { self.lookup_on(link, &keys).await }
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

    async fn lookup_on(&self, link: &Arc<Link>, keys: &[&Key]) -> Result<Vec<Lookup>, StoreError> {
        let live = link.settled()?;
        let (tags, tags_live) = self.link_to_read_tags(link, &live)?;
        let near = self.0.near.get().filter(|_| live.tracking);
        let reads = keys.iter().map(|key| near.map(|near| near.ask(key))).collect::<Vec<_>>();
        let names: Vec<String> = keys.iter().map(|key| self.0.names.entry(key)).collect();
        // One command reads from one slot of a cluster; there, the round trip carries one for each.
        let at_once = if self.0.names.is_clustered() { 1 } else { names.len().max(1) };
        let mut batch = Batch::default();
        for names in names.chunks(at_once) {
            if near.is_some() {
                batch.track(&live);
            }
            batch.values(names);
        }
        let values = link
            .run(Operation::command("MGET"), &live, async |mut connection: MultiplexedConnection| {
                let replies: Vec<Values> = batch.run(&mut connection).await?;
                let replies = replies.into_iter().zip(names.chunks(at_once));
                let values: Vec<_> =
                    replies.map(|(values, names)| values.of(names.len())).collect::<RedisResult<_>>()?;
                exactly(keys.len(), values.into_iter().flatten().collect())
            })
            .await?;
        let decoded: Vec<Option<Result<Entry, Rejection>>> = keys
            .iter()
            .zip(values)
            .map(|(key, reply)| reply.map(|bytes| envelope::decode(key, &Bytes::from(bytes))))
            .collect();
        self.learn_tokens(&tags, &tags_live, decoded.iter().flatten().flatten()).await?;
        let mut found = Vec::with_capacity(keys.len());
        for (decoded, read) in decoded.into_iter().zip(reads) {
            found.push(match decoded {
                None => Lookup::Absent,
                Some(Err(rejection)) => Lookup::Rejected(rejection, Seen::Unusable),
                Some(Ok(entry)) => {
                    let state = self.tag_state(&tags, &tags_live, &entry).await?;
                    if let Some(read) = read.filter(|_| state != TagState::Invalid) {
                        read.answer(&live, &entry);
                    }
                    Lookup::judged(entry, state)
                }
            });
        }
        Ok(found)
    }

    /// Reads the tokens that must be known to judge `entries`, all at once. Without tracking nothing can be known for
    /// longer than a reply, and each entry is judged by a read of its own.
    async fn learn_tokens(
        &self,
        link: &Link,
        live: &Arc<Live>,
        entries: impl Iterator<Item = &Entry>,
    ) -> Result<(), StoreError> {
        let unknown: HashSet<Arc<str>> = entries
            .filter_map(|entry| match live.tokens.judge(entry.stamps()) {
                Verdict::Unknown(tags, _) => Some(tags),
                Verdict::Known(_) => None,
            })
            .flatten()
            .collect();
        if unknown.is_empty() || !live.tracking {
            return Ok(());
        }
        let unknown: Vec<Arc<str>> = unknown.into_iter().collect();
        let mut batch = Batch::default();
        batch.track(live);
        batch.values(unknown.iter().map(|tag| self.0.names.tag(tag)));
        let question = live.tokens.ask(&unknown);
        let values = link
            .run(Operation::command("MGET"), live, async |mut connection: MultiplexedConnection| {
                let (values,): (Values,) = batch.run(&mut connection).await?;
                values.of(unknown.len())
            })
            .await?;
        for (tag, value) in unknown.iter().zip(values) {
            live.tokens.answer(question, tag, value.as_deref().and_then(TagToken::parse));
        }
        Ok(())
    }

    pub(super) async fn put_many(&self, entries: Vec<(Key, Entry)>, tags: &Tags) -> Result<(), StoreError> {
        let groups = self.by_link(entries.iter().map(|(key, _)| key));
        let writes = groups.iter().map(|(link, places)| {
            let entries: Vec<&(Key, Entry)> = places.iter().map(|&place| &entries[place]).collect();
            async move {
                let written = match link.live() {
                    Ok(live) => self.put_on(link, &live, &entries, tags).await,
                    Err(error) => Err(error),
                };
                if written.is_err() {
                    // What is there is older than what should be there. Even a server that is full deletes it.
                    join_all(entries.iter().map(|(key, _)| self.deliver(Scope::Key(key), Hardness::Hard))).await;
                }
                // This process hears of it by a push, but not before this returns.
                let near = self.0.near.get();
                for (key, _) in entries {
                    self.0.grants.void_key(key.id());
                    near.into_iter().for_each(|near| near.forget(key.id()));
                }
                written
            }
        });
        join_all(writes).await.into_iter().collect()
    }

    /// Writes entries with the tokens that their tags are believed to have, and reads in the same round trip what they
    /// are. An entry with another one is invalid from the start, so it is written once more.
    async fn put_on(
        &self,
        link: &Arc<Link>,
        live: &Arc<Live>,
        entries: &[&(Key, Entry)],
        tags: &Tags,
    ) -> Result<(), StoreError> {
        let (tags_link, tags_live) = self.link_of_tags(link, live)?;
        let names = &self.0.names;
        let now = Clock::system().now();
        let life = |entry: &Entry| entry.deadlines().gone.saturating_sub(now).max(1);
        let longest = entries.iter().map(|(_, entry)| life(entry)).max().unwrap_or(0);
        let all: Vec<Arc<str>> = tags.as_slice().iter().cloned().chain([EVERYTHING.into()]).collect();
        let mut tokens: Option<Vec<TagToken>> = all.iter().map(|tag| tags_live.tokens.get(tag)).collect();
        for _ in 0..ATTEMPTS {
            let (mut asking, mut writing) = (Batch::default(), Batch::default());
            for tag in &all {
                asking.stamp(&names.tag(tag), &lives(tag, longest));
            }
            if let Some(tokens) = &tokens {
                let stamps: Vec<TagStamp> =
                    all.iter().zip(tokens).map(|(tag, &token)| TagStamp { tag: tag.clone(), token }).collect();
                for (key, entry) in entries {
                    let bytes = envelope::encode(&entry.clone().stamped(&stamps));
                    let life = life(entry).to_string();
                    writing.call(&scripts::PUT, &[&names.entry(key), &names.lease(key)], &[&bytes, life.as_bytes()]);
                }
            }
            let ask = tags_link.run_patiently(
                Operation::pipeline("stamp"),
                &tags_live,
                async |mut connection: MultiplexedConnection| {
                    exactly(all.len(), asking.run::<Vec<Stamped>>(&mut connection).await?)
                },
            );
            let write =
                link.run_patiently(Operation::pipeline("put"), live, async |mut connection: MultiplexedConnection| {
                    let expected = if tokens.is_some() { entries.len() } else { return Ok(None) };
                    marked::<Flag>(names, writing, expected, &mut connection).await.map(Some)
                });
            let (current, written) = tokio::join!(ask, write);
            let current = Some(current?.into_iter().map(|stamped| stamped.token).collect());
            let in_place = match written? {
                Some(mark) => link.leads_to(live, mark.as_deref()).await?,
                None => false,
            };
            if in_place {
                self.0.tally.stored();
            }
            if in_place && tokens == current {
                return Ok(());
            }
            tokens = current;
        }
        Ok(())
    }

    /// The places of `keys`, by the connection that each goes over.
    fn by_link<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> Vec<(Arc<Link>, Vec<usize>)> {
        let mut groups: Vec<(Arc<Link>, Vec<usize>)> = Vec::new();
        for (place, key) in keys.enumerate() {
            let link = self.link(key);
            match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &link)) {
                Some((_, places)) => places.push(place),
                None => groups.push((link.into_owned(), vec![place])),
            }
        }
        groups
    }
}
