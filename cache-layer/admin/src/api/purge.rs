//! Purges: hard or soft, or a dry run.

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use axum::{
    Json,
    extract::{ConnectInfo, Extension, State, rejection::JsonRejection},
};
use cache_layer::{Cache, Inspected, InvalidateError, Key, store::Estimate};
use http::{HeaderMap, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::parameters::uri;
use crate::{answers::Asked, audit::Record, problem::Problem, recorder::now, redact, state::Context};

/// What is to be purged: exactly one of `url`, `key`, `tag`, `pattern`, `group` and `all`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Purge {
    /// An absolute URL: what every layer has stored for it, with all its variants. Entries under its other keys (the content of a
    /// QUERY, fields, cookies, hints) are purged as well, but are not counted in `matched`.
    #[serde(default)]
    #[schema(example = "http://shop.example/api/products/42")]
    url: Option<String>,
    /// One of the application's own keys, by its parts.
    #[serde(default)]
    key: Option<Vec<String>>,
    /// All entries that carry this tag.
    #[serde(default)]
    tag: Option<String>,
    /// All entries whose readable key matches.
    #[serde(default)]
    pattern: Option<String>,
    /// A cache group (RFC 9875) of the origin in `origin`.
    #[serde(default)]
    group: Option<String>,
    /// The origin of a group, such as `https://shop.example`.
    #[serde(default)]
    origin: Option<String>,
    /// Everything, if `true`.
    #[serde(default)]
    all: Option<bool>,
    /// `hard` (void; the default) or `soft` (stale, and used as such where that is allowed).
    #[serde(default)]
    mode: Option<String>,
    /// The window in seconds over which a soft purge is spread, each key at its turn; 0, the default, means at once.
    #[serde(default)]
    #[schema(example = 60)]
    over: Option<u64>,
    /// Whether this is a dry run, which only shows what would be reached.
    #[serde(default)]
    dry_run: bool,
    /// Who purges, for the audit.
    #[serde(default)]
    actor: Option<String>,
    /// Why, for the audit.
    #[serde(default)]
    reason: Option<String>,
    /// Whether it came as a `PURGE` request to the application.
    #[serde(skip)]
    by_method: bool,
}

/// A purge, or the result of a dry run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Purged {
    /// The number of the purge in the audit; null for a dry run.
    #[schema(example = 17)]
    id: Option<u64>,
    #[schema(example = "tag")]
    kind: Cow<'static, str>,
    #[schema(example = "product:42")]
    what: String,
    #[schema(example = "hard")]
    mode: Cow<'static, str>,
    dry_run: bool,
    /// The number of keys that it covers, including those whose entries are void already; null if the store can't tell. Over
    /// Redis, it is given for a tag or for everything in a dry run only, since every entry has to be examined for it.
    #[schema(example = 3)]
    matched: Option<u64>,
    /// The error of `matched`, to either side, at 95 % confidence: the store has more keys than can be examined in a few seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 1200)]
    matched_error: Option<u64>,
    /// How long it takes to load these keys again, by the duration of their loads, in milliseconds, according to the entries that
    /// were examined.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 5400)]
    reload_ms: Option<u64>,
    /// Whether the store has received it. If not, it is kept and retried, and this process no longer serves what it covers.
    delivered: bool,
    /// A further explanation, for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// Told of a URL whose own key has nothing.
const OTHER_KEYS: &str = "nothing is stored under the URL's own key; what is stored for it under keys with fields, cookies, hints or \
     content in them is purged as well, and is not counted";
/// The maximum length of the actor and the reason.
const MOST_SAID: usize = 200;
/// The longest window.
const LONGEST_OVER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

enum Target {
    /// The keys of a URL, and everything that is stored for it under other keys.
    Url(String, Uri, Vec<Key>),
    Key(String, Key),
    Tags(&'static str, String, Vec<String>),
    Pattern(String),
    All,
}

/// Purges, or shows what a purge would reach.
///
/// With the field `Idempotency-Key`, a repeated request gets the answer of the first, and purges nothing.
#[utoipa::path(
    post,
    path = "/api/purge",
    request_body = Purge,
    params(("Idempotency-Key" = Option<String>, Header, description = "Up to 200 characters, the same for a request that is sent again")),
    security(("token" = [])),
    responses(
        (status = 200, description = "Purged; or, of a dry run, what would be", body = Purged),
        (status = 400, description = "Something is wrong with the request", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The token is missing or wrong", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The idempotency key came with another request before", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn purge(
    State(context): State<Context>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
    body: Result<Json<Purge>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(purge) = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let from = peer.map(|Extension(ConnectInfo(peer))| peer.ip().to_string());
    let Some(key) = headers.get("idempotency-key") else {
        return run_to_its_end(&context, purge, from, None).await.map(Json);
    };
    let key = key.to_str().ok().filter(|key| (1..=200).contains(&key.len()));
    let key = key.ok_or_else(|| Problem::bad_request("Idempotency-Key: 1 to 200 characters of visible ASCII"))?;
    let request = serde_json::to_string(&purge).unwrap_or_default();
    let reused =
        || Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "Idempotency-Key: it came with another request before");
    let asked = Asked::new(key, &request);
    let answer = context.0.answers.of(&asked).map_err(|_| reused())?;
    let answer = answer.get_or_try_init(|| async {
        // Another process of the fleet may have received the request before.
        match context.0.audit.asked_before(&context.0.cache, &asked).await {
            Some(before) if before.asked.as_ref() == Some(&asked) => to_json(&Purged::of(&before)),
            Some(_) => Err(reused()),
            None => run_to_its_end(&context, purge, from, Some(asked)).await,
        }
    });
    answer.await.cloned().map(Json)
}

/// Purges what is stored for a URL, for a request to the application; `false` if the store has not received it yet.
pub(crate) async fn purge_url(context: &Context, url: &str, from: Option<String>) -> Result<bool, Problem> {
    let purge = Purge { url: Some(url.to_owned()), by_method: true, ..Purge::default() };
    let purged = run_to_its_end(context, purge, from, None).await?;
    Ok(purged["delivered"] == Value::Bool(true))
}

/// Runs in a task of its own: the client may disconnect, and the purge and its record belong together.
async fn run_to_its_end(
    context: &Context,
    purge: Purge,
    from: Option<String>,
    asked: Option<Asked>,
) -> Result<Value, Problem> {
    let context = context.clone();
    let ended = tokio::spawn(async move { run(&context, &purge, from, asked).await }).await;
    ended.unwrap_or_else(|error| Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
}

async fn run(context: &Context, purge: &Purge, from: Option<String>, asked: Option<Asked>) -> Result<Value, Problem> {
    let target = target(context, purge)?;
    let soft = match purge.mode.as_deref() {
        None | Some("hard") => false,
        Some("soft") => true,
        Some(_) => return Err(Problem::bad_request("mode: is to be hard or soft")),
    };
    let over = over(purge, soft)?;
    said_too_much(purge.actor.as_deref(), purge.reason.as_deref())?;
    let cache = &context.0.cache;
    let began = now();
    let by = if purge.by_method { "method" } else { "api" };
    // Entries that a pattern deletes are counted during the deletion. Over Redis, a purge does not wait until every entry has
    // been examined.
    let counts = match target {
        _ if purge.dry_run => true,
        Target::Pattern(_) => soft,
        Target::Tags(..) | Target::All => context.0.redis.is_none(),
        Target::Url(..) | Target::Key(..) => true,
    };
    let reach = if counts { reach(cache, &target).await } else { Ok(None) };
    let (reached, mut note) = match reach {
        Ok(reached) => (reached, None),
        Err(error) => (None, Some(error)),
    };
    let mut matched = reached.map(|reached| reached.keys);
    let mut matched_error = reached.map(|reached| reached.error).filter(|error| *error > 0);
    let reload_ms = reached.map(|reached| millis(reached.load_time));
    let result = match purge.dry_run {
        true => Ok(None),
        false => invalidate(context, &target, soft, over).await,
    };
    let delivered = result.is_ok();
    match result {
        Ok(Some(counted)) => (matched, matched_error) = (Some(counted), None),
        Ok(None) => {}
        Err(error) => note = Some(error.to_string()),
    }
    if matches!(target, Target::Url(..)) && matched == Some(0) {
        note.get_or_insert_with(|| OTHER_KEYS.to_owned());
    }
    let (kind, what) = target.names();
    let mode = if soft { "soft" } else { "hard" };
    let id = (!purge.dry_run).then(|| context.0.audit.next());
    if let Some(id) = id {
        let (actor, reason) = (purge.actor.clone(), purge.reason.clone());
        let record =
            Record { id, began, actor, reason, matched, delivered, from, asked, ..Record::new(by, kind, &what, mode) };
        context.0.audit.add(cache, record).await;
    }
    let (kind, mode) = (kind.into(), mode.into());
    to_json(&Purged {
        id,
        kind,
        what,
        mode,
        dry_run: purge.dry_run,
        matched,
        matched_error,
        reload_ms,
        delivered,
        note,
    })
}

fn to_json(purged: &Purged) -> Result<Value, Problem> {
    serde_json::to_value(purged).map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// The window of a purge.
fn over(purge: &Purge, soft: bool) -> Result<Duration, Problem> {
    match Duration::from_secs(purge.over.unwrap_or(0)) {
        over if over > LONGEST_OVER => Err(Problem::bad_request("over: at most 604800 seconds, a week")),
        over if !over.is_zero() && !soft => Err(Problem::bad_request("over: is of a soft purge; mode is to be soft")),
        over => Ok(over),
    }
}

impl Purged {
    /// The answer for a purge that another process made.
    fn of(record: &Record) -> Self {
        Self {
            id: Some(record.id),
            kind: record.kind.clone(),
            what: record.what.clone(),
            mode: record.mode.clone(),
            dry_run: false,
            matched: record.matched,
            matched_error: None,
            reload_ms: None,
            delivered: record.delivered,
            note: Some(format!("process {} did so before, for the same Idempotency-Key", record.process)),
        }
    }
}

/// Refuses an actor or a reason that is too long for the audit.
pub(super) fn said_too_much(actor: Option<&str>, reason: Option<&str>) -> Result<(), Problem> {
    for (name, said) in [("actor", actor), ("reason", reason)] {
        if said.is_some_and(|said| said.chars().count() > MOST_SAID) {
            return Err(Problem::bad_request(format!("{name}: at most {MOST_SAID} characters")));
        }
    }
    Ok(())
}

fn target(context: &Context, purge: &Purge) -> Result<Target, Problem> {
    let Purge { url, key, tag, pattern, group, origin, all, .. } = purge;
    let all = all.filter(|all| *all);
    let named = [url.is_some(), key.is_some(), tag.is_some(), pattern.is_some(), group.is_some(), all.is_some()];
    if named.into_iter().filter(|named| *named).count() != 1 {
        return Err(Problem::bad_request("name exactly one of url, key, tag, pattern, group and all"));
    }
    if origin.is_some() != group.is_some() {
        return Err(Problem::bad_request("a group is an origin's own: name both, group and origin"));
    }
    let empty = [url, tag, pattern, group].into_iter().flatten().any(String::is_empty);
    if empty || key.as_ref().is_some_and(Vec::is_empty) {
        return Err(Problem::bad_request("what is to be purged is empty; for everything, say \"all\": true"));
    }
    if let Some(url) = url {
        let uri = uri(url)?;
        let keys = by_layers(context, |layer| layer.key(&uri))?;
        return Ok(Target::Url(redact::url(url), uri, keys));
    }
    if let Some(parts) = key {
        let key = Key::new(parts);
        return Ok(Target::Key(redact::key(&key), key));
    }
    if let Some(tag) = tag {
        return Ok(Target::Tags("tag", tag.clone(), vec![tag.clone()]));
    }
    if let Some(pattern) = pattern {
        return Ok(Target::Pattern(pattern.clone()));
    }
    if let (Some(group), Some(origin)) = (group, origin) {
        let uri: Uri = uri(origin)?;
        let tags = by_layers(context, |layer| layer.group_tag(&uri, group))?;
        return Ok(Target::Tags("group", format!("{group} of {origin}"), tags));
    }
    Ok(Target::All)
}

/// The result of each layer for a URL, without repetitions.
fn by_layers<T: PartialEq>(
    context: &Context,
    of: impl Fn(&cache_layer::CacheLayer) -> Option<T>,
) -> Result<Vec<T>, Problem> {
    let mut made: Vec<T> = Vec::new();
    for one in context.0.layers.iter().filter_map(|(_, layer)| of(layer.cache_layer())) {
        if !made.contains(&one) {
            made.push(one);
        }
    }
    match made.is_empty() {
        true if context.0.layers.is_empty() => {
            Err(Problem::bad_request("no layer is known here that has keys of URLs"))
        }
        true => Err(Problem::bad_request("the URL has no host: it is to be absolute")),
        false => Ok(made),
    }
}

impl Target {
    fn names(&self) -> (&'static str, String) {
        match self {
            Self::Url(what, ..) => ("url", what.clone()),
            Self::Key(what, _) => ("key", what.clone()),
            Self::Tags(kind, what, _) => (kind, redact::url(what)),
            Self::Pattern(pattern) => ("pattern", redact::url(pattern)),
            Self::All => ("all", "everything".to_owned()),
        }
    }
}

/// How long to examine what a purge would reach.
pub(super) const LOOKING: Duration = Duration::from_secs(5);

/// How many keys the target covers, as far as the store can tell.
async fn reach(cache: &Cache, target: &Target) -> Result<Option<Estimate>, String> {
    let told = |error: cache_layer::InspectError| error.to_string();
    match target {
        Target::Url(_, _, keys) => reach_of_keys(cache, keys).await.map(Some).map_err(told),
        Target::Key(_, key) => reach_of_keys(cache, std::slice::from_ref(key)).await.map(Some).map_err(told),
        Target::Tags(_, _, tags) => {
            let mut sum = Some(Estimate::default());
            for tag in tags {
                let within = LOOKING / u32::try_from(tags.len()).unwrap_or(u32::MAX);
                let one = cache.estimate_tag(tag, within).await.map_err(told)?;
                sum = sum.zip(one).map(|(sum, one)| sum.and(one));
            }
            Ok(sum)
        }
        Target::Pattern(pattern) => cache.estimate_pattern(pattern, LOOKING).await.map_err(told),
        Target::All => cache.estimate_all(LOOKING).await.map_err(told),
    }
}

async fn reach_of_keys(cache: &Cache, keys: &[Key]) -> Result<Estimate, cache_layer::InspectError> {
    let mut reached = Estimate::default();
    for key in keys {
        let load_time = match cache.inspect(key).await? {
            Inspected::Absent => continue,
            Inspected::Entry(_, entry) => entry.load_time,
            _ => Duration::ZERO,
        };
        reached.keys += 1;
        reached.load_time += load_time;
    }
    Ok(reached)
}

/// The duration in milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Invalidates the target; returns how many keys a pattern has deleted.
async fn invalidate(
    context: &Context,
    target: &Target,
    soft: bool,
    over: Duration,
) -> Result<Option<u64>, InvalidateError> {
    let cache = &context.0.cache;
    match target {
        Target::Url(_, uri, _) => {
            // Each is kept to be retried, whether or not the others fail.
            let mut result = Ok(None);
            for (_, layer) in &context.0.layers {
                let layer = layer.cache_layer();
                let one = match soft {
                    true => layer.soft_invalidate_uri(uri).over(over).await,
                    false => layer.invalidate_uri(uri).await,
                };
                result = result.and_then(|_| one.map(|_| None));
            }
            result
        }
        Target::Key(_, key) if soft => cache.soft_invalidate(key).over(over).await.map(|()| None),
        Target::Key(_, key) => cache.invalidate(key).await.map(|()| None),
        Target::Tags(_, _, tags) if soft => cache.soft_invalidate_tags(tags).over(over).await.map(|()| None),
        Target::Tags(_, _, tags) => cache.invalidate_tags(tags).await.map(|()| None),
        Target::Pattern(pattern) if soft => cache.soft_invalidate_pattern(pattern).over(over).await.map(|()| None),
        Target::Pattern(pattern) => cache.delete_pattern(pattern).counted().await.map(Some),
        Target::All if soft => cache.soft_invalidate_all().over(over).await.map(|()| None),
        Target::All => cache.invalidate_all().await.map(|()| None),
    }
}
