//! The state of the cache: now, and in the last minute, quarter of an hour and day.

use std::time::Duration;

use axum::{Json, extract::State};
use cache_layer::{
    Switch,
    store::{Breaker, Eviction, RedisStore},
    telemetry::LookupResult,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{parameters::Parameters, stored::process};
use crate::{
    problem::Problem,
    recorder::{Recorder, now},
    state::{Context, Memory},
    stats::{Counts, RINGS},
};

/// A switch that is on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct On {
    #[schema(example = "stop-fills")]
    name: &'static str,
    /// How much longer it is on.
    left_ms: u64,
}

impl On {
    fn of((switch, left): (Switch, Duration)) -> Self {
        Self { name: switch.as_str(), left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// The state of the cache.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Stats {
    /// The name of the cache.
    #[schema(example = "products")]
    name: String,
    /// The switches that are on.
    switches: Vec<On>,
    /// Whether the dependence of the hit ratio on the size is estimated: `/api/sizing`.
    sizing: bool,
    /// The names of the layers.
    layers: Vec<String>,
    /// The current time, in milliseconds since the Unix epoch.
    now: u64,
    /// The beginning of these counts.
    since: u64,
    /// Whether changes are possible, because a token is set.
    can_purge: bool,
    /// Keys that this process is loading at this moment.
    loads_in_flight: usize,
    /// Deleted patterns that are listed and whose entries are not swept yet, as far as this process knows.
    bans: usize,
    totals: Totals,
    memory: Option<MemoryUse>,
    redis: Option<Redis>,
    /// Empty without a recorder.
    windows: Vec<Window>,
}

/// Counts since the cache was built.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Totals {
    hits: u64,
    misses: u64,
    bypasses: u64,
    coalesced: u64,
    joined: u64,
    backed_off: u64,
    early_refreshes: u64,
    overloaded: u64,
    stored: u64,
    not_stored: u64,
    fenced: u64,
    shed: u64,
    unavailable: u64,
    invalidations: u64,
    undelivered_invalidations: u64,
}

/// Entries in this process.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MemoryUse {
    /// `all`, or `first tier`.
    kind: &'static str,
    bytes: u64,
    entries: u64,
    /// The number of entries that left, by reason.
    evictions: Vec<Named>,
}

/// A name and a number.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Named {
    name: &'static str,
    count: u64,
}

/// The Redis behind the cache.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Redis {
    /// Distinguishes this process from the others with the same Redis, in leases.
    #[schema(example = "5f0c66d1")]
    process: String,
    connected: bool,
    ping_us: Option<u64>,
    used_memory: Option<String>,
    clients: Option<u64>,
    full: bool,
    /// `closed`: operations are sent; `half-open`: some are sent; `open`: requests are served without Redis.
    #[schema(example = "closed")]
    breaker: &'static str,
    /// Invalidations that Redis has not received yet.
    pending_invalidations: usize,
    /// Connections that were lost since the process began.
    lost_connections: u64,
    error: Option<String>,
}

/// A stretch of time in 60 slots, the oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Window {
    /// `1m`, `15m` or `24h`.
    name: &'static str,
    /// The length of a slot in seconds.
    slot: u64,
    slots: Vec<Slot>,
    sum: Sum,
}

/// One slot.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Slot {
    /// The beginning of the slot, in seconds since the Unix epoch.
    at: u64,
    hits: u64,
    stale: u64,
    collapsed: u64,
    misses: u64,
    bypasses: u64,
    loads: u64,
}

/// All slots together.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Sum {
    /// By result.
    lookups: Vec<Named>,
    hits: u64,
    misses: u64,
    bypasses: u64,
    /// The share of hits among all look-ups, 0 to 1; null without look-ups.
    hit_ratio: Option<f64>,
    hits_in_memory: u64,
    hits_in_store: u64,
    loads: u64,
    failed_loads: u64,
    /// The total duration of loads, and of the loads that hits saved, in milliseconds.
    load_ms: u64,
    saved_ms: u64,
    not_stored: u64,
    /// Why requests bypassed the cache, and why responses were not stored; the most frequent first.
    reasons: Vec<Named>,
    /// How long hits took, by tier, in microseconds; accurate to a factor of two.
    latency: Vec<Latency>,
}

/// How long hits of a tier took.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Latency {
    tier: &'static str,
    p50_us: Option<u64>,
    p99_us: Option<u64>,
}

/// The state of the cache.
#[utoipa::path(
    get,
    path = "/api/stats",
    responses((status = 200, description = "The state of the cache", body = Stats)),
)]
pub(super) async fn stats(State(context): State<Context>, parameters: Parameters) -> Result<Json<Stats>, Problem> {
    parameters.known(&[])?;
    let inner = &context.0;
    Ok(Json(Stats {
        name: inner.name.clone(),
        switches: inner.cache.switched_on().into_iter().map(On::of).collect(),
        sizing: inner.memory.is_some() && inner.recorder.as_ref().is_some_and(|recorder| recorder.sizing().is_some()),
        layers: inner.layers.iter().map(|(name, _)| name.clone()).collect(),
        now: now(),
        since: inner.since,
        can_purge: inner.access.token.get().is_some(),
        loads_in_flight: inner.cache.loads_in_flight(),
        bans: bans(inner.redis.as_ref(), inner.memory.as_ref()),
        totals: totals(&context),
        memory: inner.memory.as_ref().map(memory),
        redis: redis(&context).await,
        windows: inner.recorder.as_ref().map(windows).unwrap_or_default(),
    }))
}

fn totals(context: &Context) -> Totals {
    let counts = context.0.cache.counts();
    Totals {
        hits: counts.hits,
        misses: counts.misses,
        bypasses: counts.bypasses,
        coalesced: counts.coalesced,
        joined: counts.joined,
        backed_off: counts.backed_off,
        early_refreshes: counts.early_refreshes,
        overloaded: counts.overloaded,
        stored: counts.stored,
        not_stored: counts.not_stored,
        fenced: counts.fenced,
        shed: counts.shed,
        unavailable: counts.unavailable,
        invalidations: counts.invalidations,
        undelivered_invalidations: counts.undelivered_invalidations,
    }
}

fn bans(redis: Option<&RedisStore>, memory: Option<&Memory>) -> usize {
    match (redis, memory) {
        (Some(redis), _) => redis.state().bans,
        (None, Some(Memory::All(store))) => store.bans(),
        (None, _) => 0,
    }
}

fn memory(memory: &Memory) -> MemoryUse {
    let named = |(why, count): (Eviction, u64)| Named { name: why.as_str(), count };
    match memory {
        Memory::All(store) => MemoryUse {
            kind: "all",
            bytes: store.bytes(),
            entries: store.entries(),
            evictions: store.evictions().map(named).collect(),
        },
        Memory::FirstTier(store) => MemoryUse {
            kind: "first tier",
            bytes: store.memory_bytes(),
            entries: store.memory_entries(),
            evictions: store.memory_evictions().map(named).collect(),
        },
    }
}

async fn redis(context: &Context) -> Option<Redis> {
    let store = context.0.redis.as_ref()?;
    let status = store.status().await;
    let state = store.state();
    Some(Redis {
        process: process(state.process),
        connected: status.connected,
        ping_us: status.ping.and_then(|ping| u64::try_from(ping.as_micros()).ok()),
        used_memory: status.used_memory_human,
        clients: status.connected_clients,
        full: status.full,
        breaker: match state.breaker {
            Breaker::Closed => "closed",
            Breaker::HalfOpen => "half-open",
            _ => "open",
        },
        pending_invalidations: state.pending_invalidations,
        lost_connections: state.lost_connections,
        error: status.error,
    })
}

fn windows(recorder: &Recorder) -> Vec<Window> {
    RINGS.into_iter().enumerate().map(|(ring, (name, seconds))| window(name, seconds, &recorder.ring(ring))).collect()
}

fn window(name: &'static str, slot: u64, slots: &[(u64, Counts)]) -> Window {
    let mut sum = Counts::default();
    slots.iter().for_each(|(_, counts)| sum.add(counts));
    Window { name, slot, slots: slots.iter().map(|(at, counts)| in_slot(*at, counts)).collect(), sum: summed(&sum) }
}

fn of(counts: &Counts, wanted: LookupResult) -> u64 {
    let place = LookupResult::ALL.iter().position(|result| *result == wanted);
    place.and_then(|place| counts.lookups.get(place)).copied().unwrap_or(0)
}

fn in_slot(at: u64, counts: &Counts) -> Slot {
    let (stale, collapsed) = (of(counts, LookupResult::Stale), of(counts, LookupResult::Collapsed));
    Slot {
        at,
        hits: counts.hits() - stale - collapsed,
        stale,
        collapsed,
        misses: counts.misses(),
        bypasses: counts.bypasses,
        loads: counts.loads,
    }
}

fn summed(counts: &Counts) -> Sum {
    let (hits, misses) = (counts.hits(), counts.misses());
    let all = hits + misses;
    let mut reasons = counts.reasons.clone();
    reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), reason.as_str()));
    let latency =
        |(place, tier)| Latency { tier, p50_us: counts.quantile(place, 0.5), p99_us: counts.quantile(place, 0.99) };
    let [hits_in_memory, hits_in_store] = counts.hits_by_tier;
    Sum {
        lookups: LookupResult::ALL.iter().map(|one| Named { name: one.as_str(), count: of(counts, *one) }).collect(),
        hits,
        misses,
        bypasses: counts.bypasses,
        hit_ratio: (all > 0).then(|| hits as f64 / all as f64),
        hits_in_memory,
        hits_in_store,
        loads: counts.loads,
        failed_loads: counts.failed_loads,
        load_ms: counts.load_millis,
        saved_ms: counts.saved_millis,
        not_stored: counts.not_stored,
        reasons: reasons.iter().map(|(reason, count)| Named { name: reason.as_str(), count: *count }).collect(),
        latency: [(0, "memory"), (1, "store")].into_iter().map(latency).collect(),
    }
}
