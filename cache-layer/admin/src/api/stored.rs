//! Stored data: an entry, a tag.

use axum::{
    Json,
    extract::{Path, State},
};
use bytes::Bytes;
use cache_layer::{
    Coding, EntryDetails, Hints, Inspected, Key, ResponseDetails, TagDetails,
    store::{LeaseHolder, LeaseState},
    telemetry::Tier,
};
use http::{Request, Uri};
use http_body_util::Full;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    parameters::{Parameters, hints, uri},
    purge::millis,
    top::Decided,
};
use crate::{
    problem::Problem,
    redact,
    state::{Context, LOOKING, Layer},
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
            tags: entry.tags.iter().map(|tag| redact::url(tag)).collect(),
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
    /// The load that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<Holder>,
}

/// The load that holds a lease, as far as the store knows.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Holder {
    /// Its process: what `/api/stats` of that process has as `redis.process`. Null without Redis, and if another program has written
    /// the lease.
    #[schema(example = "5f0c66d1")]
    process: Option<String>,
    /// Whether that is the process that answers.
    here: bool,
    /// How long ago it took the lease, in milliseconds, to the second; from 18 hours on, this begins at zero again. Null without Redis.
    #[schema(example = 2000)]
    age_ms: Option<u64>,
    /// How soon the lease ends, in milliseconds, unless it is extended, as it is while the load runs. Null without Redis.
    #[schema(example = 8000)]
    left_ms: Option<u64>,
}

impl Holder {
    pub(super) fn of(holder: LeaseHolder) -> Self {
        Self {
            process: holder.process.map(process),
            here: holder.is_here,
            age_ms: holder.age.map(millis),
            left_ms: holder.remaining.map(millis),
        }
    }
}

/// The name of a process, in leases.
pub(super) fn process(process: u32) -> String {
    format!("{process:08x}")
}

impl Lease {
    pub(super) fn of(lease: LeaseState) -> Self {
        let plain = |state| Self { state, back_off_ms: None, status: None, failures: None, holder: None };
        match lease {
            LeaseState::Free => plain("free"),
            LeaseState::Held(holder) => Self { holder: Some(Holder::of(holder)), ..plain("held") },
            LeaseState::Uncacheable => plain("uncacheable"),
            LeaseState::NoRoom => plain("no-room"),
            LeaseState::Failed { remaining, status, failures } => Self {
                back_off_ms: Some(u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX)),
                status,
                failures: Some(failures),
                ..plain("failed")
            },
            _ => plain("unknown"),
        }
    }
}

/// What is stored under one key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Place {
    /// The layer; null for a key of the application's own.
    layer: Option<String>,
    /// The readable form.
    key: String,
    /// The URL that the key is made from, if it is made from one alone, which is shown in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    digest: String,
    /// `memory`, `store` or `none`.
    tier: &'static str,
    entry: Option<Entry>,
    /// Why the stored entry is not used, if it isn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<&'static str>,
    /// The response in the entry; null for a value, and for the entry that leads to variants.
    response: Option<StoredHead>,
    lease: Option<Lease>,
    /// The state of each tag of the entry.
    tags: Vec<Tag>,
    /// The last decisions about this key in this process, the newest first.
    recent: Vec<Decided>,
}

/// A stored response without its content.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StoredHead {
    #[schema(example = 200)]
    status: u16,
    /// Names and values, in their order; values that may be secret are not shown.
    headers: Vec<[String; 2]>,
    /// In seconds.
    age: u64,
    immutable: bool,
    never_stale: bool,
    /// Whether the cache has made its entity tag.
    minted: bool,
    can_be_validated: bool,
    /// Whether the cache may send it in content codings of its own.
    encodable: bool,
    /// The content codings in which its body is in this process.
    codings: Vec<Coded>,
}

/// A body in a content coding.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Coded {
    #[schema(example = "zstd")]
    coding: &'static str,
    bytes: u64,
}

impl StoredHead {
    pub(super) fn of(response: &ResponseDetails) -> Self {
        let coded = |&(coding, bytes): &(Coding, u64)| Coded { coding: coding.as_str(), bytes };
        Self {
            status: response.status.as_u16(),
            headers: redact::fields(&response.headers),
            age: response.age,
            immutable: response.immutable,
            never_stale: response.never_stale,
            minted: response.minted,
            can_be_validated: response.can_be_validated,
            encodable: response.encodable,
            codings: response.codings.iter().map(coded).collect(),
        }
    }
}

/// What is stored for a URL, by every layer, or for one of the application's own keys.
///
/// For a key with variants, this is the entry that leads to them: `/api/explain` shows the variant that a request selects.
#[utoipa::path(
    get,
    path = "/api/entry",
    params(
        ("url" = Option<String>, Query, description = "An absolute URL"),
        ("key" = Vec<String>, Query, description = "A part of one of the application's own keys; once for each part, in their order"),
        ("digest" = Option<String>, Query, description = "The digest of a key that was asked for lately"),
        ("hint" = Vec<String>, Query, description = "For a URL, a hint of an outer layer: `key-part:TEXT`"),
    ),
    responses(
        (status = 200, description = "The entry in each place, or that there is none", body = Vec<Place>),
        (status = 400, description = "The query is invalid", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No key that was asked for lately has this digest", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The store did not answer", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn entry(State(context): State<Context>, parameters: Parameters) -> Result<Json<Vec<Place>>, Problem> {
    let parameters = parameters.known(&["url", "key", "digest", "hint"])?;
    let mut keys: Vec<(Option<&str>, Key)> = Vec::new();
    if let Some(key) = context.key(&parameters)? {
        keys.push((context.layer_of(&key).map(|(name, _)| name), key));
    }
    if let Some(url) = parameters.get("url") {
        let (uri, hints) = (uri(url)?, hints(&parameters)?);
        let before = keys.len();
        for (name, layer) in &context.0.layers {
            let key = match &hints {
                None => layer.cache_layer().key(&uri),
                Some(hints) => key_with(layer, &uri, hints).await,
            };
            keys.extend(key.map(|key| (Some(name.as_str()), key)));
        }
        if keys.len() == before && !context.0.layers.is_empty() {
            return Err(Problem::bad_request("url: must be absolute, such as http://shop.example/products?page=2"));
        }
    }
    if keys.is_empty() {
        return Err(Problem::bad_request("url, key, digest: one of them must be given"));
    }
    let mut places = Vec::with_capacity(keys.len());
    for (layer, key) in keys {
        places.push(place(&context, layer, &key).await?);
    }
    Ok(Json(places))
}

/// The key of a request with these hints.
async fn key_with(layer: &Layer, uri: &Uri, hints: &Hints) -> Option<Key> {
    let mut request = Request::new(Full::default());
    uri.clone_into(request.uri_mut());
    hints.clone().add_to(request.extensions_mut());
    layer.explain(&request, Bytes::new()).await.key.map(|key| key.key)
}

async fn place(context: &Context, layer: Option<&str>, key: &Key) -> Result<Place, Problem> {
    let cache = &context.0.cache;
    let (tier, entry, rejected) = match cache.inspect(key).await.map_err(|error| Problem::unavailable(&error))? {
        Inspected::Entry(tier, entry) => (tier, Some(Entry::of(&entry)), None),
        Inspected::Rejected(rejection) => (Tier::None, None, Some(rejection.as_str())),
        _ => (Tier::None, None, None),
    };
    let response = match (&entry, context.layer_of(key)) {
        (Some(_), Some((_, layer))) => layer.cache_layer().stored(key).await,
        _ => None,
    };
    let names = entry.as_ref().map(|entry| entry.tags.as_slice()).unwrap_or_default();
    Ok(Place {
        layer: layer.map(str::to_owned),
        key: redact::key(key),
        url: redact::url_of(key),
        digest: key.digest(),
        tier: tier.as_str(),
        rejected,
        response: response.as_ref().map(StoredHead::of),
        lease: cache.inspect_lease(key).await.ok().map(Lease::of),
        tags: context.tags(names).await,
        recent: context.recent(key),
        entry,
    })
}

/// The number of decisions about a key that are shown.
const DECISIONS: usize = 20;

impl Context {
    /// The state of each of these tags.
    pub(super) async fn tags(&self, names: &[String]) -> Vec<Tag> {
        let mut tags = Vec::with_capacity(names.len());
        for name in names {
            tags.push(Tag::of(name, self.0.cache.inspect_tag(name).await.unwrap_or_default()));
        }
        tags
    }

    /// The last decisions about a key.
    pub(super) fn recent(&self, key: &Key) -> Vec<Decided> {
        let recorder = self.0.recorder.as_ref();
        recorder
            .map(|recorder| recorder.recent(Some(key), DECISIONS))
            .unwrap_or_default()
            .iter()
            .map(Decided::of)
            .collect()
    }
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
            name: redact::url(name),
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
        (status = 200, description = "What is known of the tag", body = Tag),
        (status = 503, description = "The store did not answer, or too many other counts are under way", body = Problem, content_type = "application/problem+json"),
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
