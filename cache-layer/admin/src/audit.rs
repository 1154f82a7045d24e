//! Who purged what, when and why: in Redis for the whole fleet, and the last of this process in memory.

use std::{
    borrow::Cow,
    collections::{HashSet, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use cache_layer::Cache;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{answers::Asked, recorder::now};

/// The number of records of this process that are kept in memory.
const CAP: usize = 1_000;
/// The purged target is truncated after this many characters.
const MOST: usize = 1_000;

/// The last changes through this API.
pub(crate) struct Audit {
    /// Distinguishes this process from the others of the fleet.
    process: String,
    records: Mutex<VecDeque<Record>>,
    made: AtomicU64,
}

/// A purge, or another change, that was requested.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Record {
    /// Its number since the process began.
    #[schema(example = 17)]
    pub(crate) id: u64,
    /// The process that received the request.
    #[serde(default)]
    #[schema(example = "5f0c66d1")]
    pub(crate) process: String,
    /// The time, in milliseconds since the Unix epoch.
    #[schema(example = 1795940000000_u64)]
    pub(crate) at: u64,
    /// `api` for a purge through this API, `method` for a `PURGE` request, `application` for an invalidation by the application.
    #[schema(example = "api")]
    pub(crate) by: Cow<'static, str>,
    /// Who made it, according to the request.
    #[schema(example = "ada")]
    pub(crate) actor: Option<String>,
    /// Why, according to the request.
    #[schema(example = "wrong price")]
    pub(crate) reason: Option<String>,
    /// The kind of target: `url`, `key`, `tag`, `pattern`, `group` or `all`; or `switch`.
    #[schema(example = "tag")]
    pub(crate) kind: Cow<'static, str>,
    /// The target.
    #[schema(example = "product:42")]
    pub(crate) what: String,
    /// `hard` or `soft`; for a switch, `on` or `off`.
    #[schema(example = "hard")]
    pub(crate) mode: Cow<'static, str>,
    /// How many keys it covered, if the store can tell.
    #[schema(example = 3)]
    pub(crate) matched: Option<u64>,
    /// Whether the store has received it. Otherwise a purge is kept to be retried; a switch is most likely as it was, but other
    /// processes may know of the change.
    pub(crate) delivered: bool,
    /// The address of the client.
    #[schema(example = "127.0.0.1")]
    pub(crate) from: Option<String>,
    /// Identifies a repeated request. It is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    pub(crate) asked: Option<Asked>,
}

impl Default for Audit {
    fn default() -> Self {
        // 32 bits: in a fleet of a hundred, two are equal once in a million times.
        let process = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), now()) >> 32;
        Self { process: format!("{process:08x}"), records: Mutex::default(), made: AtomicU64::new(0) }
    }
}

impl Record {
    /// A change that is made now.
    pub(crate) fn new(by: &'static str, kind: &'static str, what: &str, mode: &'static str) -> Self {
        let [by, kind, mode] = [by, kind, mode].map(Cow::Borrowed);
        let what =
            what.char_indices().nth(MOST).map_or_else(|| what.to_owned(), |(end, _)| format!("{}…", &what[..end]));
        Self {
            id: 0,
            process: String::new(),
            at: now(),
            by,
            actor: None,
            reason: None,
            kind,
            what,
            mode,
            matched: None,
            delivered: true,
            from: None,
            asked: None,
        }
    }
}

impl Audit {
    fn records(&self) -> MutexGuard<'_, VecDeque<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next record.
    pub(crate) fn next(&self) -> u64 {
        self.made.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Distinguishes this process from the others of the fleet.
    pub(crate) fn process(&self) -> &str {
        &self.process
    }

    /// Whether the record is from this process.
    fn is_own(&self, record: &Record) -> bool {
        record.process == self.process
    }

    /// Adds a record in this process, to the log and, if the cache's store has an audit, to that.
    pub(crate) async fn add(&self, cache: &Cache, record: Record) {
        let record = Record { process: self.process.clone(), at: now(), ..record };
        tracing::info!(
            by = &*record.by,
            actor = record.actor.as_deref(),
            reason = record.reason.as_deref(),
            kind = &*record.kind,
            what = record.what,
            mode = &*record.mode,
            matched = record.matched,
            delivered = record.delivered,
            "{}",
            if record.kind == "switch" { "switched" } else { "purged" }
        );
        let line = serde_json::to_vec(&record).unwrap_or_default();
        self.keep(record);
        if let Err(error) = cache.audit(&line).await {
            tracing::warn!(%error, "a record could not be added to the audit of the fleet; only this process has it");
        }
    }

    fn keep(&self, record: Record) {
        let mut records = self.records();
        if records.len() == CAP {
            records.pop_front();
        }
        records.push_back(record);
    }

    /// The newest first: all of this process, and up to `most` of the fleet.
    pub(crate) async fn last(&self, cache: &Cache, most: usize) -> Vec<Record> {
        // If the store does not answer, only those of this process are returned.
        let lines = cache.audited(most).await.unwrap_or_default();
        let mut all: Vec<Record> = self.records().iter().rev().cloned().collect();
        let known: HashSet<u64> = all.iter().map(|record| record.id).collect();
        let read = lines.iter().filter_map(|line| serde_json::from_slice::<Record>(line).ok());
        all.extend(read.filter(|record| !(self.is_own(record) && known.contains(&record.id))));
        all.sort_by_key(|record| std::cmp::Reverse((record.at, record.id)));
        all.truncate(most);
        all
    }

    /// The record of a request with this idempotency key, if it is among the last of the fleet.
    pub(crate) async fn asked_before(&self, cache: &Cache, asked: &Asked) -> Option<Record> {
        const LOOKED_AT: usize = 256;
        let last = self.last(cache, LOOKED_AT).await;
        last.into_iter().find(|record| record.asked.as_ref().is_some_and(|before| before.key == asked.key))
    }
}

#[cfg(test)]
mod tests {
    use cache_layer::store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn a_hundred_thousand_purges_stay_within_the_cap_and_the_newest_are_kept() {
        let (audit, cache) = (Audit::default(), Cache::new(MemoryStore::new(1 << 20)));
        for _ in 0..100_000 {
            audit.add(&cache, Record { id: audit.next(), ..Record::new("api", "tag", "t", "hard") }).await;
        }
        let last = audit.last(&cache, usize::MAX).await;
        assert_eq!((last.len(), last[0].id, last[CAP - 1].id), (CAP, 100_000, 99_001));
    }

    #[test]
    fn what_is_long_is_cut_off() {
        let record = Record::new("api", "pattern", &"ü".repeat(5_000), "hard");
        assert_eq!(record.what.chars().count(), MOST + 1);
        assert_eq!(Record::new("api", "tag", "t", "hard").what, "t");
    }
}
