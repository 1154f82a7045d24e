//! Purges: hard or soft, or a dry run.

use std::{borrow::Cow, fmt, net::SocketAddr, time::Duration};

use axum::{
    Json,
    extract::{ConnectInfo, Extension, State, rejection::JsonRejection},
};
use cache_layer::{Cache, InspectError, Inspected, InvalidateError, Key, store::Estimate};
use http::{HeaderMap, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{once::once, parameters::uri};
use crate::{
    answers::Asked,
    audit::Record,
    problem::Problem,
    recorder::by_operator,
    redact,
    state::{Context, LOOKING},
};

/// What to purge: exactly one of `url`, `key`, `tag`, `pattern`, `group` and `all`.
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
    /// Redis, it is given for a tag or for everything in a dry run only, since every entry has to be examined for it. What
    /// matches a pattern is counted once the purge is in force.
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
/// With the field `Idempotency-Key`, a repeated request gets the answer of the first, and purges nothing: for a day, over Redis in
/// every process of the fleet.
#[utoipa::path(
    post,
    path = "/api/purge",
    request_body = Purge,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 characters, the same when a request is sent again")),
    security(("token" = [])),
    responses(
        (status = 200, description = "What was purged or, in a dry run, would be", body = Purged),
        (status = 400, description = "The request is invalid", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The token is missing or wrong", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Another process is carrying out the request with this idempotency key: ask again for its answer", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The idempotency key was already used for another request", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "In a dry run: too many other counts are under way", body = Problem, content_type = "application/problem+json"),
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
    let key = idempotency_key(&headers)?;
    // A mistaken request has no effect, so that its key is free for the corrected one.
    let order = Order::of(&context, purge)?;
    // A dry run changes nothing, however often it runs.
    let Some(key) = key.filter(|_| !order.purge.dry_run) else {
        return to_its_end(async move { run(&context, &order, from, None).await }).await.map(Json);
    };
    let asked = Asked::new(key, &serde_json::to_string(&order.purge).unwrap_or_default());
    to_its_end(async move { once(&context, &asked, run(&context, &order, from, Some(asked.clone()))).await })
        .await
        .map(Json)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=200).contains(&key.len()));
    key.map(Some).ok_or_else(|| Problem::bad_request("Idempotency-Key: must be 1 to 200 characters of visible ASCII"))
}

/// Who purges and why, as a `PURGE` request says: the fields `X-Actor` and `X-Reason`. They are for the audit alone, and nothing is
/// allowed or refused for what they say.
///
/// # Errors
///
/// If one of them comes twice, or is unfit for the audit.
pub(crate) fn said_in_fields(headers: &HeaderMap) -> Result<[Option<String>; 2], Problem> {
    let said = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let text = str::from_utf8(value.as_bytes()).ok().filter(|_| values.next().is_none());
        let text = text.ok_or_else(|| Problem::bad_request(format!("{name}: is to be one text in UTF-8")))?;
        Ok(Some(text.trim_matches(' ').to_owned()).filter(|text| !text.is_empty()))
    };
    let [actor, reason] = [said("x-actor")?, said("x-reason")?];
    fit_for_the_audit(actor.as_deref(), reason.as_deref())?;
    Ok([actor, reason])
}

/// Purges what is stored for a URL, for a request to the application; `false` if the store has not received it yet.
pub(crate) async fn purge_url(
    context: &Context,
    url: &str,
    from: Option<String>,
    [actor, reason]: [Option<String>; 2],
) -> Result<bool, Problem> {
    let purge = Purge { url: Some(url.to_owned()), by_method: true, actor, reason, ..Purge::default() };
    let (context, order) = (context.clone(), Order::of(context, purge)?);
    let purged = to_its_end(async move { run(&context, &order, from, None).await }).await?;
    Ok(purged["delivered"] == Value::Bool(true))
}

/// Runs a change in a task of its own: the client may disconnect, and the change, its record and its answer belong together.
pub(super) async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let ended = tokio::spawn(change).await;
    ended.unwrap_or_else(|error| Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
}

/// A purge in which nothing is wrong.
struct Order {
    purge: Purge,
    target: Target,
    soft: bool,
    over: Duration,
}

impl Order {
    fn of(context: &Context, purge: Purge) -> Result<Self, Problem> {
        let target = target(context, &purge)?;
        let soft = match purge.mode.as_deref() {
            None | Some("hard") => false,
            Some("soft") => true,
            Some(mode) => return Err(Problem::bad_request(format!("mode {mode:?}: must be hard or soft"))),
        };
        let over = over(&purge, soft)?;
        fit_for_the_audit(purge.actor.as_deref(), purge.reason.as_deref())?;
        Ok(Self { purge, target, soft, over })
    }

    /// Whether the keys are counted before the purge. In memory that takes no time, and what a purge has removed can't be
    /// counted afterwards.
    fn counts_first(&self, context: &Context) -> bool {
        self.purge.dry_run || matches!(self.target, Target::Url(..) | Target::Key(..)) || context.0.redis.is_none()
    }

    /// Whether the keys are counted after the purge. Over Redis, each of them has to be examined, and a pattern is in force before
    /// that begins; the entries stay until they are swept, so that they can be counted.
    fn counts_afterwards(&self, context: &Context) -> bool {
        !self.counts_first(context) && matches!(self.target, Target::Pattern(_))
    }
}

async fn run(context: &Context, order: &Order, from: Option<String>, asked: Option<Asked>) -> Result<Value, Problem> {
    let Order { purge, target, soft, .. } = order;
    let cache = &context.0.cache;
    let by = if purge.by_method { "method" } else { "api" };
    let mut reached = match order.counts_first(context) {
        true => reach(context, target).await,
        false => Ok(None),
    };
    if purge.dry_run && matches!(reached, Err(Uncounted::Busy)) {
        return Err(Problem::busy("counts"));
    }
    let result = match purge.dry_run {
        true => Ok(()),
        false => by_operator(invalidate(context, order)).await,
    };
    if result.is_ok() && order.counts_afterwards(context) {
        reached = reach(context, target).await;
    }
    let delivered = result.is_ok();
    let (reached, uncounted) = match reached {
        Ok(reached) => (reached, None),
        Err(why) => (None, Some(why.to_string())),
    };
    let matched = reached.map(|reached| reached.keys);
    let has_other_keys = matches!(target, Target::Url(..)) && matched == Some(0);
    let note = result.err().map(|error| error.to_string()).or(uncounted);
    let note = note.or_else(|| has_other_keys.then(|| OTHER_KEYS.to_owned()));
    let (kind, what) = target.names();
    let mode = if *soft { "soft" } else { "hard" };
    let id = (!purge.dry_run).then(|| context.0.audit.next());
    if let Some(id) = id {
        let (actor, reason) = (purge.actor.clone(), purge.reason.clone());
        let record =
            Record { id, actor, reason, matched, delivered, from, asked, ..Record::new(by, kind, &what, mode) };
        context.0.audit.add(cache, record).await;
    }
    to_json(&Purged {
        id,
        kind: kind.into(),
        what,
        mode: mode.into(),
        dry_run: purge.dry_run,
        matched,
        matched_error: reached.map(|reached| reached.error).filter(|error| *error > 0),
        reload_ms: reached.map(|reached| millis(reached.load_time)),
        delivered,
        note,
    })
}

pub(super) fn to_json(purged: &Purged) -> Result<Value, Problem> {
    serde_json::to_value(purged).map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// The window of a purge.
fn over(purge: &Purge, soft: bool) -> Result<Duration, Problem> {
    match Duration::from_secs(purge.over.unwrap_or(0)) {
        over if over > LONGEST_OVER => {
            let why = format!("over {}: must be at most 604800 seconds, a week", over.as_secs());
            Err(Problem::bad_request(why))
        }
        over if !over.is_zero() && !soft => {
            let why = format!("over {}: only a soft purge takes time; mode must be soft", over.as_secs());
            Err(Problem::bad_request(why))
        }
        over => Ok(over),
    }
}

impl Purged {
    /// The answer for a purge that another process made.
    pub(super) fn of(record: &Record) -> Self {
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

/// Refuses an actor or a reason that is too long for the audit, or has characters that a terminal or a log would obey.
pub(super) fn fit_for_the_audit(actor: Option<&str>, reason: Option<&str>) -> Result<(), Problem> {
    for (name, said) in [("actor", actor), ("reason", reason)] {
        if said.is_some_and(|said| said.chars().count() > MOST_SAID) {
            return Err(Problem::bad_request(format!("{name}: must have at most {MOST_SAID} characters")));
        }
        if said.is_some_and(|said| said.contains(is_obeyed)) {
            return Err(Problem::bad_request(format!("{name}: has a control character in it")));
        }
    }
    Ok(())
}

/// Whether a character is an instruction rather than a sign: a control character, an end of line, or a change of the direction in
/// which the text is read.
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn target(context: &Context, purge: &Purge) -> Result<Target, Problem> {
    let Purge { url, key, tag, pattern, group, origin, all, .. } = purge;
    let all = all.filter(|all| *all);
    let named = [url.is_some(), key.is_some(), tag.is_some(), pattern.is_some(), group.is_some(), all.is_some()];
    if named.into_iter().filter(|named| *named).count() != 1 {
        return Err(Problem::bad_request("url, key, tag, pattern, group, all: exactly one of them must be given"));
    }
    if origin.is_some() != group.is_some() {
        return Err(Problem::bad_request("group, origin: a group belongs to an origin, so both must be given"));
    }
    let empty = [url, tag, pattern, group].into_iter().flatten().any(String::is_empty);
    if empty || key.as_ref().is_some_and(Vec::is_empty) {
        return Err(Problem::bad_request("the target of the purge is empty; to purge everything, send \"all\": true"));
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
            Err(Problem::bad_request("the application has named no layer, so that URLs have no keys here"))
        }
        true => Err(Problem::bad_request(
            "the URL has no host; it must be absolute, such as http://shop.example/products?page=2",
        )),
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

/// Why keys were not counted.
enum Uncounted {
    Store(InspectError),
    /// As many counts as may run at one time are under way.
    Busy,
}

impl fmt::Display for Uncounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Busy => f.write_str("the keys were not counted: other counts were under way"),
        }
    }
}

/// How many keys the target covers, as far as the store can tell.
async fn reach(context: &Context, target: &Target) -> Result<Option<Estimate>, Uncounted> {
    let cache = &context.0.cache;
    let told = Uncounted::Store;
    let _turn = match target {
        Target::Url(..) | Target::Key(..) => None,
        _ => Some(context.turn_to_count().await.ok_or(Uncounted::Busy)?),
    };
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

async fn reach_of_keys(cache: &Cache, keys: &[Key]) -> Result<Estimate, InspectError> {
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

/// Invalidates the target.
async fn invalidate(context: &Context, order: &Order) -> Result<(), InvalidateError> {
    let Order { target, soft, over, .. } = order;
    let cache = &context.0.cache;
    match target {
        Target::Url(_, uri, _) => {
            // Each is kept to be retried, whether or not the others fail.
            let mut result = Ok(());
            for (_, layer) in &context.0.layers {
                let layer = layer.cache_layer();
                let one = match soft {
                    true => layer.soft_invalidate_uri(uri).over(*over).await,
                    false => layer.invalidate_uri(uri).await,
                };
                result = result.and(one.map(|_| ()));
            }
            result
        }
        Target::Key(_, key) if *soft => cache.soft_invalidate(key).over(*over).await,
        Target::Key(_, key) => cache.invalidate(key).await,
        Target::Tags(_, _, tags) if *soft => cache.soft_invalidate_tags(tags).over(*over).await,
        Target::Tags(_, _, tags) => cache.invalidate_tags(tags).await,
        Target::Pattern(pattern) if *soft => cache.soft_invalidate_pattern(pattern).over(*over).await,
        Target::Pattern(pattern) => cache.delete_pattern(pattern).await,
        Target::All if *soft => cache.soft_invalidate_all().over(*over).await,
        Target::All => cache.invalidate_all().await,
    }
}

#[cfg(test)]
mod tests {
    use cache_layer::store::MemoryStore;

    use super::*;
    use crate::admin::Admin;

    #[tokio::test(start_paused = true)]
    async fn while_others_count_a_dry_run_is_refused_and_a_purge_is_made_uncounted() {
        let cache = Cache::new(MemoryStore::new(1 << 20));
        let context = Admin::new(cache.clone()).context();
        let run = async |dry_run| {
            let purge = Purge { tag: Some("t".to_owned()), dry_run, ..Purge::default() };
            run(&context, &Order::of(&context, purge).unwrap(), None, None).await
        };
        let mut counting = vec![context.turn_to_count().await.unwrap(), context.turn_to_count().await.unwrap()];
        assert_eq!(run(true).await.unwrap_err().status(), StatusCode::SERVICE_UNAVAILABLE);
        let purged = run(false).await.unwrap();
        assert_eq!((&purged["matched"], &purged["delivered"]), (&Value::Null, &Value::Bool(true)), "{purged}");
        assert!(purged["note"].as_str().unwrap().contains("other counts"), "{purged}");
        assert_eq!(cache.counts().invalidations, 1);
        counting.pop();
        assert_eq!(run(true).await.unwrap()["matched"], 0);
    }
}
