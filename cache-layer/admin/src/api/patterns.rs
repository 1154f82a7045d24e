//! The deleted patterns that are in force: since when, by whom, and how far their entries are swept.

use std::time::Duration;

use axum::{Json, extract::State};
use cache_layer::store::ListedPattern;
use serde::Serialize;
use utoipa::ToSchema;

use super::{parameters::Parameters, purge::millis, stored::Holder};
use crate::{
    audit::Record,
    problem::Problem,
    redact,
    state::{Context, LOOKING},
};

/// The number of records that are searched.
const RECORDS: usize = 1_000;
/// A purge is in the audit only once its keys are counted, and by another clock.
const APART: u64 = 60_000;

/// The deleted patterns that readers obey until their entries are swept.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Patterns {
    /// The oldest first; up to 128.
    patterns: Vec<Listed>,
    /// The process that sweeps at this moment, if one does; its `age_ms` is that of the sweep.
    sweeper: Option<Holder>,
}

/// A deleted pattern.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Listed {
    #[schema(example = "http://shop.example/api/products*")]
    pattern: String,
    /// `hard` (matching entries are void) or `soft` (they are stale).
    #[schema(example = "hard")]
    mode: &'static str,
    /// The window in milliseconds over which they become stale; 0 means at once.
    over_ms: u64,
    /// When it was deleted, in milliseconds since the Unix epoch, by the store's clock.
    since: u64,
    /// The record of that in the audit, if there is one; an invalidation by the application is known in its own process alone.
    by: Option<Record>,
    /// How many keys still have a matching entry, including entries that were stored afterwards; null unless `count` asks for it,
    /// and if the store can't tell. Beside `by.matched`, it tells how far the sweep is.
    left: Option<u64>,
    /// The error of `left`, to either side, at 95 % confidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_error: Option<u64>,
}

/// The deleted patterns that are in force, and not swept yet.
#[utoipa::path(
    get,
    path = "/api/patterns",
    params(("count" = Option<bool>, Query, description = "Whether to count what is left of each: every key is examined, for a few seconds at most")),
    responses(
        (status = 200, description = "Those that are listed; most of the time, none", body = Patterns),
        (status = 400, description = "Something is wrong with the query", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The store did not answer, or other counts are under way", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn patterns(
    State(context): State<Context>,
    parameters: Parameters,
) -> Result<Json<Patterns>, Problem> {
    let parameters = parameters.known(&["count"])?;
    let counts = match parameters.get("count") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::bad_request("count: is to be true or false")),
    };
    let cache = &context.0.cache;
    let listed = cache.inspect_patterns().await.map_err(|error| Problem::unavailable(&error))?;
    let records = match listed.patterns.is_empty() {
        true => Vec::new(),
        false => context.records(RECORDS).await,
    };
    let mut patterns: Vec<Listed> = listed.patterns.iter().map(|one| Listed::of(one, &records)).collect();
    if counts && !patterns.is_empty() {
        let _turn = context.turn_to_count().await.ok_or_else(|| Problem::busy("counts"))?;
        let within = LOOKING / u32::try_from(patterns.len()).unwrap_or(u32::MAX);
        for (shown, one) in patterns.iter_mut().zip(&listed.patterns) {
            let left = cache.estimate_pattern(&one.pattern, within).await;
            let left = left.map_err(|error| Problem::unavailable(&error))?;
            shown.left = left.map(|left| left.keys);
            shown.left_error = left.map(|left| left.error).filter(|error| *error > 0);
        }
    }
    Ok(Json(Patterns { patterns, sweeper: listed.sweeper.map(Holder::of) }))
}

impl Listed {
    fn of(listed: &ListedPattern, records: &[Record]) -> Self {
        let mode = if listed.soft_over.is_some() { "soft" } else { "hard" };
        Self {
            pattern: redact::url(&listed.pattern),
            mode,
            over_ms: millis(listed.soft_over.unwrap_or(Duration::ZERO)),
            since: listed.since,
            by: record_of(listed, mode, records),
            left: None,
            left_error: None,
        }
    }
}

/// The record of the deletion: of those of this pattern, the nearest in time.
fn record_of(listed: &ListedPattern, mode: &str, records: &[Record]) -> Option<Record> {
    // As it is in a record.
    let what = Record::new("", "pattern", &redact::url(&listed.pattern), "").what;
    let is_it = |record: &&Record| record.kind == "pattern" && record.mode == mode && record.what == what;
    let apart = |record: &Record| record.at.abs_diff(listed.since);
    let nearest = records.iter().filter(is_it).min_by_key(|record| apart(record));
    nearest.filter(|record| apart(record) <= APART).cloned()
}

#[cfg(test)]
mod tests {
    use cache_layer::{Cache, store::MemoryStore};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pattern_is_ascribed_to_the_purge_that_was_near_it() {
        let cache = Cache::new(MemoryStore::new(1 << 20));
        cache.delete_pattern("https://shop.example/a*").await.unwrap();
        let listed = cache.inspect_patterns().await.unwrap().patterns;
        let [listed] = &*listed else { panic!("{listed:?}") };
        let record = |at: u64, what: &str, mode| Record { at, ..Record::new("api", "pattern", what, mode) };
        let since = listed.since;
        let right = record(since + 5_000, "https://shop.example/a*", "hard");
        let others = [
            record(since + 6_000, "https://shop.example/a*", "hard"),
            record(since, "https://shop.example/a*", "soft"),
            record(since, "https://shop.example/b*", "hard"),
            Record { kind: "tag".into(), ..record(since, "https://shop.example/a*", "hard") },
        ];
        let records: Vec<_> = others.iter().chain([&right]).cloned().collect();
        assert_eq!(record_of(listed, "hard", &records).unwrap().at, right.at);
        assert!(record_of(listed, "hard", &others[1..]).is_none());
        let earlier = record(since - 61_000, "https://shop.example/a*", "hard");
        assert!(record_of(listed, "hard", &[earlier]).is_none(), "it was another time");
    }
}
