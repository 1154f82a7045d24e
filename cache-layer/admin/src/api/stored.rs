//! Stored data: an entry, a tag.

use axum::{
    Json,
    extract::{Path, State},
};
use cache_layer::{EntryDetails, Inspected, Key, TagDetails, store::LeaseState, telemetry::Tier};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    parameters::{Parameters, uri},
    purge::millis,
};
use crate::{
    problem::Problem,
    redact,
    state::{Context, LOOKING},
};

/// The moments at which an entry's uses end, in milliseconds since the Unix epoch, and the time that is left for each: negative
/// once it is over.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Deadline {
    /// The use that ends then.
    #[schema(example = "fresh")]
    name: &'static str,
    #[schema(example = 1795940060000_u64)]
    at: u64,
    #[schema(example = 41000)]
    left: i64,
}

/// An entry without its content.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entry {
    /// The time of this inspection, in milliseconds since the Unix epoch.
    now: u64,
    /// When it was made; 0 if that is not known.
    made: u64,
    deadlines: Vec<Deadline>,
    /// Whether a soft invalidation covers it.
    soft_invalidated: bool,
    /// Whether it was made later than `now`, so that its age is unknown.
    from_the_future: bool,
    tags: Vec<String>,
    /// The size of its body, or of its value as written.
    bytes: u64,
    /// The bytes of memory that it takes in a store in this process.
    memory_bytes: u64,
    /// How long its load took, in milliseconds; 0 if that is not known.
    load_ms: u64,
}

impl Entry {
    pub(super) fn of(entry: &EntryDetails) -> Self {
        let deadline = |name, at: u64| Deadline { name, at, left: left(at, entry.now) };
        Self {
            now: entry.now,
            made: entry.made,
            deadlines: vec![
                deadline("fresh", entry.fresh),
                deadline("stale while revalidating", entry.stale_while_revalidate),
                deadline("stale on error", entry.stale_if_error),
                deadline("gone", entry.gone),
            ],
            soft_invalidated: entry.soft_invalidated,
            from_the_future: entry.from_the_future,
            tags: entry.tags.clone(),
            bytes: entry.bytes,
            memory_bytes: entry.memory,
            load_ms: u64::try_from(entry.load_time.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

pub(super) fn left(at: u64, now: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX).saturating_sub(i64::try_from(now).unwrap_or(i64::MAX))
}

/// The state of a key's lease.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Lease {
    /// `free`, `held`, `uncacheable`, `failed`, or `no-room` if the store has no room for more.
    #[schema(example = "free")]
    state: &'static str,
    /// For how much longer the application is left alone, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    back_off_ms: Option<u64>,
    /// The status of the last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// How many loads failed, one after the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    failures: Option<u32>,
}

impl Lease {
    pub(super) fn of(lease: LeaseState) -> Self {
        let plain = |state| Self { state, back_off_ms: None, status: None, failures: None };
        match lease {
            LeaseState::Free => plain("free"),
            LeaseState::Held => plain("held"),
            LeaseState::Uncacheable => plain("uncacheable"),
            LeaseState::NoRoom => plain("no-room"),
            LeaseState::Failed { remaining, status, failures } => Self {
                state: "failed",
                back_off_ms: Some(u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX)),
                status,
                failures: Some(failures),
            },
            _ => plain("unknown"),
        }
    }
}

/// What is stored under one key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Place {
    /// The layer; null for a key that was given by its parts.
    layer: Option<String>,
    /// The readable form.
    key: String,
    digest: String,
    /// `memory`, `store` or `none`.
    tier: &'static str,
    entry: Option<Entry>,
    /// Why the stored entry is not used, if it isn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<&'static str>,
    lease: Option<Lease>,
}

/// What is stored for a URL, by every layer, or for one of the application's own keys.
///
/// For a key with variants, this is the entry that leads to them: `/api/explain` shows the variant that a request selects.
#[utoipa::path(
    get,
    path = "/api/entry",
    params(
        ("url" = Option<String>, Query, description = "An absolute URL"),
        ("key" = Vec<String>, Query, description = "A part of a key of the application's own; once for each part, in their order"),
    ),
    responses(
        (status = 200, description = "What is there, or that there is nothing", body = Vec<Place>),
        (status = 400, description = "Something is wrong with the query", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The store did not answer", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn entry(State(context): State<Context>, parameters: Parameters) -> Result<Json<Vec<Place>>, Problem> {
    let parameters = parameters.known(&["url", "key"])?;
    let mut keys: Vec<(Option<String>, Key)> = Vec::new();
    let parts: Vec<&str> = parameters.all("key").collect();
    if !parts.is_empty() {
        keys.push((None, Key::new(parts)));
    }
    if let Some(url) = parameters.get("url") {
        let uri = uri(url)?;
        let of_layer = context.0.layers.iter().map(|(name, layer)| (Some(name.clone()), layer.cache_layer().key(&uri)));
        let before = keys.len();
        keys.extend(of_layer.filter_map(|(name, key)| Some((name, key?))));
        if keys.len() == before && !context.0.layers.is_empty() {
            return Err(Problem::bad_request("url: has no host"));
        }
    }
    if keys.is_empty() {
        return Err(Problem::bad_request("name a url or a key"));
    }
    let mut places = Vec::with_capacity(keys.len());
    for (layer, key) in keys {
        places.push(place(&context, layer, &key).await?);
    }
    Ok(Json(places))
}

async fn place(context: &Context, layer: Option<String>, key: &Key) -> Result<Place, Problem> {
    let cache = &context.0.cache;
    let (tier, entry, rejected) = match cache.inspect(key).await.map_err(|error| Problem::unavailable(&error))? {
        Inspected::Entry(tier, entry) => (tier, Some(Entry::of(&entry)), None),
        Inspected::Rejected(rejection) => (Tier::None, None, Some(rejection.as_str())),
        _ => (Tier::None, None, None),
    };
    let lease = cache.inspect_lease(key).await.ok().map(Lease::of);
    let shown = redact::url(&key.to_string());
    Ok(Place { layer, key: shown, digest: key.digest(), tier: tier.as_str(), entry, rejected, lease })
}

/// What is known of a tag.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tag {
    #[schema(example = "product:42")]
    name: String,
    /// The time of its last change, in milliseconds since the Unix epoch, by the store's clock; null if it has no token, so that
    /// no entry that carries it is used.
    since: Option<u64>,
    /// `created` by an entry that carries it, `invalidated`, or `soft-invalidated`.
    #[schema(example = "invalidated")]
    change: Option<&'static str>,
    /// Its purpose, if the cache has made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    means: Option<&'static str>,
    /// How many keys carry it, void ones included; null if the store can't tell.
    #[schema(example = 3)]
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<u64>,
    /// The error of `keys`, to either side, at 95 % confidence: there are more entries than can be examined in a few seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 1200)]
    keys_error: Option<u64>,
    /// How long it takes to load these keys again, by the duration of their loads, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 5400)]
    reload_ms: Option<u64>,
}

impl Tag {
    pub(super) fn of(name: &str, details: Option<TagDetails>) -> Self {
        let (since, change) = (details.map(|tag| tag.since), details.map(|tag| tag.change.as_str()));
        Self {
            name: name.to_owned(),
            since,
            change,
            means: meaning(name),
            keys: None,
            keys_error: None,
            reload_ms: None,
        }
    }
}

/// The purpose of a tag that the cache makes.
fn meaning(tag: &str) -> Option<&'static str> {
    let hex = |rest: &str| rest.len() == 3 && rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    match tag.split_once(' ')? {
        ("uri", rest) if hex(rest) => Some("a write to the target reaches it, whatever else is in its key"),
        ("path", rest) if hex(rest) => {
            Some("a write to any target of the path reaches it: it answers for several queries")
        }
        ("group", _) => Some("a cache group of its origin (RFC 9875)"),
        _ => None,
    }
}

/// What is known of a tag.
#[utoipa::path(
    get,
    path = "/api/tag/{tag}",
    params(("tag" = String, Path, description = "The tag, percent-encoded")),
    responses(
        (status = 200, description = "What is known", body = Tag),
        (status = 503, description = "The store did not answer, or other counts are under way", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn tag(State(context): State<Context>, Path(tag): Path<String>) -> Result<Json<Tag>, Problem> {
    let cache = &context.0.cache;
    let details = cache.inspect_tag(&tag).await.map_err(|error| Problem::unavailable(&error))?;
    let _turn = context.turn_to_count().await.ok_or_else(|| Problem::busy("counts"))?;
    let reach = cache.estimate_tag(&tag, LOOKING).await.map_err(|error| Problem::unavailable(&error))?;
    let keys_error = reach.map(|reach| reach.error).filter(|error| *error > 0);
    let (keys, reload_ms) = (reach.map(|reach| reach.keys), reach.map(|reach| millis(reach.load_time)));
    Ok(Json(Tag { keys, keys_error, reload_ms, ..Tag::of(&tag, details) }))
}
