//! How large a cache should be.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::parameters::Parameters;
use crate::{
    problem::Problem,
    state::{Context, Memory},
};

/// Points of the curve from one power of two to the next.
const STEPS: i32 = 4;
/// The curve goes from a sixteenth of the present size to sixteen times that.
const POWERS: i32 = 4;

/// How the hit ratio depends on the memory for entries in this process.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SizingCurve {
    /// The present size of the entries, in bytes.
    #[schema(example = 67108864)]
    bytes: u64,
    /// The present number of entries.
    #[schema(example = 52000)]
    entries: u64,
    /// The approximate number of keys that were asked for recently.
    #[schema(example = 180000)]
    keys: u64,
    /// The number of these keys that are followed.
    #[schema(example = 4096)]
    followed: usize,
    /// The hit ratio at the present size, according to the curve; null while too little is known.
    #[schema(example = 0.71)]
    hit_ratio: Option<f64>,
    /// The curve, the smallest size first; empty while too little is known.
    points: Vec<Point>,
}

/// A point of the curve.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Point {
    /// The size in bytes, for entries of the present average size.
    #[schema(example = 134217728)]
    bytes: u64,
    #[schema(example = 104000)]
    entries: u64,
    /// The hit ratio of an LRU cache of this size.
    #[schema(example = 0.83)]
    hit_ratio: f64,
}

/// The miss-ratio curve of the look-ups of this process, by SHARDS.
///
/// It assumes that entries never expire, and that the least recently used entry is evicted first. For a first tier, it is the
/// ratio of hits in that tier.
#[utoipa::path(
    get,
    path = "/api/sizing",
    responses(
        (status = 200, description = "The curve", body = SizingCurve),
        (status = 404, description = "The application does not estimate the curve", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn sizing(
    State(context): State<Context>,
    parameters: Parameters,
) -> Result<Json<SizingCurve>, Problem> {
    parameters.known(&[])?;
    let recorder = context.recorder()?;
    let (Some(sizing), Some(memory)) = (recorder.sizing(), &context.0.memory) else {
        let detail =
            "the curve is not learned: the application has no `Recorder::with_sizing`, or no store in this process";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    };
    let (entries, bytes) = match memory {
        Memory::All(store) => (store.entries(), store.bytes()),
        Memory::FirstTier(store) => (store.memory_entries(), store.memory_bytes()),
    };
    let hit_ratio = recorder.hit_ratio_with(entries);
    let point = |step: i32| {
        let factor = (f64::from(step) / f64::from(STEPS)).exp2();
        let [entries, bytes] = [entries, bytes].map(|now| (now as f64 * factor) as u64);
        Some(Point { bytes, entries, hit_ratio: recorder.hit_ratio_with(entries)? })
    };
    let points = if entries > 0 { (-POWERS * STEPS..=POWERS * STEPS).filter_map(point).collect() } else { Vec::new() };
    let (keys, followed) = sizing.keys();
    Ok(Json(SizingCurve { bytes, entries, keys, followed, hit_ratio, points }))
}
