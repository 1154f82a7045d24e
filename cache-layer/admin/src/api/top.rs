//! The keys with the highest counts, and decisions as they are shown.

use axum::{Json, extract::State};
use cache_layer::{
    Key,
    telemetry::{self, NoCacheReason},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{explain::Reason, parameters::Parameters};
use crate::{problem::Problem, recorder::Decision, redact, state::Context};

/// A key, and its sum.
type Counter = telemetry::Counted<Key>;

/// The number of keys that are shown by default, and the maximum.
const SHOWN: usize = 20;
const MOST: usize = 256;

/// The keys with the highest counts in this process, since it began.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Top {
    /// The keys that are asked for most.
    hottest: Vec<Counted>,
    /// The keys whose misses took longest in total.
    dearest: Vec<Counted>,
}

/// A key, and its count.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Counted {
    key: String,
    /// The URL that the key is made from; null if the key has further parts, or a part of the URL is not shown.
    #[schema(example = "http://shop.example/api/products?page=2")]
    url: Option<String>,
    digest: String,
    /// Look-ups; for the dearest keys, the microseconds that their misses took. At least the true sum, and at most `error` more.
    sum: u64,
    error: u64,
    /// How often it was counted, while it was among the keys that are tracked.
    times: u64,
}

impl Counted {
    fn of(counter: &Counter) -> Self {
        let Counter { key, sum, error, times, .. } = counter;
        let (sum, error, times) = (*sum, *error, *times);
        Self { key: redact::key(key), url: redact::url_of(key), digest: key.digest(), sum, error, times }
    }
}

/// A decision.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Decided {
    /// In milliseconds since the Unix epoch.
    at: u64,
    key: Option<String>,
    /// The URL that the key is made from, if it is made from one alone, which is shown in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    digest: Option<String>,
    /// `hit`, `stale`, `negative`, `collapsed`, `miss`, `error` or `bypass`.
    #[schema(example = "hit")]
    pub(super) result: &'static str,
    /// `memory`, `store` or `none`.
    #[schema(example = "memory")]
    tier: &'static str,
    /// The time from the request to the answer, in microseconds.
    duration_us: u64,
    /// The age of the entry, in seconds.
    age: Option<u64>,
    reason: Option<Reason>,
}

impl Decided {
    pub(super) fn of(decision: &Decision) -> Self {
        let event = &decision.event;
        Self {
            at: decision.at,
            key: Some(redact::key(&decision.key)),
            url: redact::url_of(&decision.key),
            digest: Some(decision.key.digest()),
            result: event.result.as_str(),
            tier: event.tier.as_str(),
            duration_us: u64::try_from(event.duration.as_micros()).unwrap_or(u64::MAX),
            age: event.age.map(|age| age.as_secs()),
            reason: decision.reason.map(Reason::of),
        }
    }

    pub(super) fn bypassed(at: u64, key: Option<&Key>, reason: NoCacheReason) -> Self {
        Self {
            at,
            key: key.map(redact::key),
            url: key.and_then(redact::url_of),
            digest: key.map(Key::digest),
            result: "bypass",
            tier: "none",
            duration_us: 0,
            age: None,
            reason: Some(Reason::of(reason)),
        }
    }
}

/// The keys with the highest counts in this process.
#[utoipa::path(
    get,
    path = "/api/top",
    params(("limit" = Option<usize>, Query, description = "How many of each, 20 unless given, at most 256")),
    responses(
        (status = 200, description = "The keys", body = Top),
        (status = 404, description = "Nothing is recorded", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn top(State(context): State<Context>, parameters: Parameters) -> Result<Json<Top>, Problem> {
    let limit = parameters.known(&["limit"])?.number("limit")?.unwrap_or(SHOWN).min(MOST);
    let recorder = context.recorder()?;
    let first = |counters: Vec<Counter>| counters.iter().take(limit).map(Counted::of).collect();
    Ok(Json(Top { hottest: first(recorder.hottest()), dearest: first(recorder.dearest()) }))
}
