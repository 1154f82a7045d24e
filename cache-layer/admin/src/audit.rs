//! Who purged what, when and why: the last of them.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;
use utoipa::ToSchema;

/// Purges that are remembered.
const CAP: usize = 1_000;

/// The last purges by way of this API.
#[derive(Default)]
pub(crate) struct Audit {
    records: Mutex<VecDeque<Record>>,
    made: AtomicU64,
}

/// A purge that was asked for.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Record {
    /// Its number since the process began.
    #[schema(example = 17)]
    pub(crate) id: u64,
    /// When, in milliseconds since the Unix epoch.
    #[schema(example = 1795940000000_u64)]
    pub(crate) at: u64,
    /// When it began.
    #[serde(skip)]
    pub(crate) began: u64,
    /// `api` for a purge by way of this API, `application` for an invalidation of the application's own.
    #[schema(example = "api")]
    pub(crate) by: &'static str,
    /// Who, as the request says.
    #[schema(example = "ada")]
    pub(crate) actor: Option<String>,
    /// Why, as the request says.
    #[schema(example = "wrong price")]
    pub(crate) reason: Option<String>,
    /// What kind of thing: `url`, `key`, `tag`, `pattern`, `group` or `all`; or `switch`.
    #[schema(example = "tag")]
    pub(crate) kind: &'static str,
    /// Which.
    #[schema(example = "product:42")]
    pub(crate) what: String,
    /// `hard` or `soft`; of a switch, `on` or `off`.
    #[schema(example = "hard")]
    pub(crate) mode: &'static str,
    /// How many keys it covered, where the store can tell.
    #[schema(example = 3)]
    pub(crate) matched: Option<u64>,
    /// Whether it reached the store, or is kept to be retried.
    pub(crate) delivered: bool,
    /// The address that asked.
    #[schema(example = "127.0.0.1")]
    pub(crate) from: Option<String>,
}

impl Audit {
    fn records(&self) -> MutexGuard<'_, VecDeque<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next record.
    pub(crate) fn next(&self) -> u64 {
        self.made.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn add(&self, record: Record) {
        tracing::info!(
            actor = record.actor.as_deref(),
            reason = record.reason.as_deref(),
            kind = record.kind,
            what = record.what,
            mode = record.mode,
            matched = record.matched,
            delivered = record.delivered,
            "purged"
        );
        let mut records = self.records();
        if records.len() == CAP {
            records.pop_front();
        }
        records.push_back(record);
    }

    /// The newest first.
    pub(crate) fn last(&self) -> Vec<Record> {
        self.records().iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_purges_stay_within_the_cap_and_the_newest_are_kept() {
        let audit = Audit::default();
        for _ in 0..100_000 {
            audit.add(Record {
                id: audit.next(),
                at: 0,
                began: 0,
                by: "api",
                actor: None,
                reason: None,
                kind: "tag",
                what: "t".to_owned(),
                mode: "hard",
                matched: None,
                delivered: true,
                from: None,
            });
        }
        let last = audit.last();
        assert_eq!((last.len(), last[0].id, last[CAP - 1].id), (CAP, 100_000, 99_001));
    }
}
