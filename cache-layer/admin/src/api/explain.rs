//! What the cache would do with a request, and why.

use axum::{Json, extract::State};
use bytes::Bytes;
use cache_layer::{
    Explanation, Inspected, Key, PlanDetails, ResponseDetails, ResponseKey, SettingDetails, Verdict,
    store::LeaseState,
    telemetry::{NoCacheReason, Rejection, Tier},
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    parameters::{Parameters, fields, hints},
    stored::{Entry, Lease, StoredHead, Tag, left},
    top::Decided,
};
use crate::{
    problem::Problem,
    reasons::meaning,
    redact,
    state::{Context, Layer},
};

/// What the cache would do with a request, and why.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Explained {
    /// The layer that explains the request; null for a key of the application's own.
    #[schema(example = "products")]
    layer: Option<String>,
    /// `hit`, `stale`, `backed-off`, `wait`, `load`, `validate`, `forward`, `bypass` or `refuse`.
    #[schema(example = "hit")]
    verdict: &'static str,
    /// The outcome as a sentence.
    #[schema(example = "Answered from what is stored, which is fresh.")]
    sentence: &'static str,
    /// The resulting `Cache-Status`; if `is_final` is not set, for a response that may be stored. Null for a value, which has none.
    #[schema(example = "cache-layer; hit; ttl=58")]
    cache_status: Option<String>,
    /// Whether that outcome does not depend on the application's response.
    is_final: bool,
    /// Why the request is not answered from the cache, or why the response would not be stored.
    reason: Option<Reason>,
    /// Why an earlier response could not be stored, if that is remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_reason: Option<Reason>,
    /// What can't be determined here, for a person.
    notes: Vec<&'static str>,
    key: Option<KeyParts>,
    /// Where the entry was found: `memory`, `store` or `none`.
    #[schema(example = "memory")]
    tier: &'static str,
    /// The requests that the applicable rule matches; null if only the layer's settings apply.
    #[schema(example = "GET shop.example/products/{id}")]
    rule: Option<String>,
    /// Each setting that applies to the request, and its source.
    settings: Vec<Setting>,
    entry: Option<StoredResponse>,
    /// What is stored under the key, if it is not examined as a response.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Entry>,
    /// The key of the stored response, if it is another query's and also answers this one (No-Vary-Search).
    #[serde(skip_serializing_if = "Option::is_none")]
    alias_of: Option<String>,
    /// Why the stored entry is not used, if it can't be: `tag`, if it was invalidated by a tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<&'static str>,
    /// The deleted pattern that voids the stored entry, until the entry is swept.
    #[serde(skip_serializing_if = "Option::is_none")]
    banned_by: Option<String>,
    variant: Option<Variant>,
    /// Whether this process is loading this response.
    is_loading: bool,
    lease: Option<Lease>,
    /// Whether the stored response is served if the application fails.
    stands_in: bool,
    /// The state of each tag of the entry.
    tags: Vec<Tag>,
    /// What would be stored of the given response.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Plan>,
    /// The last decisions about this key in this process, the newest first.
    recent: Vec<Decided>,
}

/// A reason by its name in `Cache-Status`, and its meaning.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Reason {
    #[schema(example = "no-freshness")]
    name: &'static str,
    means: &'static str,
}

impl Reason {
    pub(super) fn of(reason: NoCacheReason) -> Self {
        Self { name: reason.as_str(), means: meaning(reason) }
    }
}

/// A setting, for one request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Setting {
    #[schema(example = "ttl")]
    name: &'static str,
    #[schema(example = "60s for /api/products")]
    value: String,
    /// `default`, `layer`, `rule` or `hint`.
    #[schema(example = "layer")]
    origin: &'static str,
}

impl Setting {
    fn of(setting: &SettingDetails) -> Self {
        Self { name: setting.name, value: setting.value.clone(), origin: setting.origin.as_str() }
    }
}

/// A key, and its parts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyParts {
    /// The readable form.
    readable: String,
    digest: String,
    namespace: String,
    origin: String,
    /// Without the parameters that make no difference.
    path_and_query: String,
    /// The names of the request fields that are part of it.
    fields: Vec<String>,
    /// The names of the cookies that are part of it.
    cookies: Vec<String>,
    /// The number of parts that an outer layer has added.
    hinted: usize,
    /// The digest of the content that is part of it.
    content: Option<String>,
}

/// A stored response.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StoredResponse {
    #[serde(flatten)]
    response: StoredHead,
    #[serde(flatten)]
    entry: Entry,
}

/// A variant of a key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Variant {
    digest: String,
    /// The request fields that select it.
    #[schema(example = "accept-language")]
    fields: String,
    /// The number of variants, as far as is known.
    variants: u16,
}

/// What would be stored of a response.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Plan {
    fresh_ms: i64,
    stale_while_revalidate_ms: i64,
    stale_if_error_ms: i64,
    kept_ms: i64,
    tags: Vec<String>,
    vary: String,
    /// Whether the cache would add an entity tag.
    minted: bool,
    /// Whether it also answers other queries, according to its No-Vary-Search.
    answers_other_queries: bool,
}

impl Plan {
    fn of(plan: &PlanDetails) -> Self {
        let of = |moment| left(moment, plan.made);
        Self {
            fresh_ms: of(plan.fresh),
            stale_while_revalidate_ms: of(plan.stale_while_revalidate),
            stale_if_error_ms: of(plan.stale_if_error),
            kept_ms: of(plan.gone),
            tags: plan.tags.iter().map(|tag| redact::url(tag)).collect(),
            vary: plan.vary.clone(),
            minted: plan.minted,
            answers_other_queries: plan.answers_other_queries,
        }
    }
}

impl StoredResponse {
    fn of(response: &ResponseDetails) -> Self {
        Self { response: StoredHead::of(response), entry: Entry::of(&response.entry) }
    }
}

fn sentence(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Hit => "Answered from what is stored, which is fresh or accepted as it is.",
        Verdict::Stale => "Answered from what is stored, which is stale, while it is refreshed in the background.",
        Verdict::BackedOff => "Answered from what is stored, since the application failed lately and is left alone.",
        Verdict::Wait => "Waits for a load of the same key that is under way.",
        Verdict::Load => "Nothing stored answers: the application is asked, once for all who wait.",
        Verdict::Validate => "The application is asked whether what is stored still holds.",
        Verdict::Forward => "The application answers this request alone; nothing is stored.",
        Verdict::Bypass => "The cache has nothing to do with this request.",
        Verdict::Refuse => "The cache refuses the request without asking the application.",
        _ => "See the documentation.",
    }
}

/// What the cache would do with a request, and why: a dry run with the functions that answer requests.
///
/// With `status` or `response_header`, it also shows what the cache would do with such a response. For a request with content,
/// use the same by POST. With `key`, it shows what becomes of a call for a value, such as of a function with `#[cached]`; with
/// `digest`, of whatever has that key: a request, if the key is made from a URL alone.
#[utoipa::path(
    get,
    path = "/api/explain",
    params(
        ("url" = Option<String>, Query, description = "An absolute URL, or a path beside a Host", example = "http://shop.example/api/products?page=2"),
        ("key" = Vec<String>, Query, description = "In place of a URL, a part of one of the application's own keys; once for each part, in their order"),
        ("digest" = Option<String>, Query, description = "In place of a URL, the digest of a key that was asked for lately"),
        ("method" = Option<String>, Query, description = "GET unless given"),
        ("header" = Vec<String>, Query, description = "A request field as `name: value`; may be repeated"),
        ("layer" = Option<String>, Query, description = "The layer, if there are several"),
        ("hint" = Vec<String>, Query, description = "A hint of an outer layer for the request: `bypass`, `refresh`, `ttl:SECONDS` or `key-part:TEXT`; may be repeated"),
        ("status" = Option<u16>, Query, description = "The status that the application would answer with"),
        ("response_header" = Vec<String>, Query, description = "A field of that answer, as `name: value`"),
    ),
    responses(
        (status = 200, description = "What the cache would do", body = Explained),
        (status = 400, description = "The query is invalid", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No key that was asked for lately has this digest", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn explain(
    State(context): State<Context>,
    parameters: Parameters,
) -> Result<Json<Explained>, Problem> {
    match context.key(&parameters)? {
        None => answer(&context, parameters, None).await,
        Some(_) if parameters.get("url").is_some() => {
            Err(Problem::bad_request("url, key, digest: exactly one of them must be given"))
        }
        Some(key) => {
            parameters.known(&["key", "digest"])?;
            Ok(Json(of_key(&context, &key).await))
        }
    }
}

/// What becomes of whatever has this key.
async fn of_key(context: &Context, key: &Key) -> Explained {
    let Some((name, layer, uri)) = context.request_of(key) else { return of_value(context, key).await };
    let mut request = Request::new(Full::default());
    *request.uri_mut() = uri;
    let explanation = layer.explain(&request, Bytes::new()).await;
    let notes = notes(layer, &request, false, &explanation);
    Explained { notes, ..explained(context, name, &explanation).await }
}

/// What becomes of a call for the value with this key.
async fn of_value(context: &Context, key: &Key) -> Explained {
    let explanation = context.0.cache.explain_value(key).await;
    let entry = explanation.entry.as_ref();
    let banned_by = match entry {
        Some(_) => None,
        None => context.0.cache.inspect_ban(key).await.ok().flatten().as_deref().map(redact::url),
    };
    let note = match ResponseKey::of(key) {
        Some(_) => {
            "The key has parts that are not shown here, or belongs to no layer that is known: what is stored is examined by its deadlines alone. Explain the URL, with the fields or hints of such a request."
        }
        None => {
            "This is what becomes of a call by the default settings: the call may have a fallback, or expect another type of value."
        }
    };
    Explained {
        layer: None,
        verdict: explanation.verdict.as_str(),
        sentence: sentence(explanation.verdict),
        cache_status: None,
        is_final: !matches!(explanation.verdict, Verdict::Load | Verdict::Wait | Verdict::Forward),
        reason: explanation.reason.map(Reason::of),
        first_reason: None,
        notes: vec![note],
        key: Some(KeyParts::of(key)),
        tier: if entry.is_some() { explanation.tier.as_str() } else { Tier::None.as_str() },
        rule: None,
        settings: Vec::new(),
        entry: None,
        value: entry.map(Entry::of),
        banned_by,
        alias_of: None,
        rejected: explanation.rejected.map(Rejection::as_str),
        variant: None,
        is_loading: explanation.is_loading,
        lease: context.lease(Some(key), explanation.lease, explanation.is_loading).await,
        stands_in: explanation.stands_in,
        tags: context.tags(entry.map(|entry| entry.tags.as_slice()).unwrap_or_default()).await,
        plan: None,
        recent: context.recent(key),
    }
}

impl Context {
    /// The state of the lease of `key`, if an explanation `knows` it, or if it is of interest since this process loads.
    async fn lease(&self, key: Option<&Key>, knows: Option<LeaseState>, is_loading: bool) -> Option<Lease> {
        let state = match (knows, key) {
            (None, Some(key)) if is_loading => self.0.cache.inspect_lease(key).await.ok(),
            (knows, _) => knows,
        };
        state.map(Lease::of)
    }
}

impl KeyParts {
    /// The parts of a key of which only the key is known.
    fn of(key: &Key) -> Self {
        let parts = ResponseKey::of(key).unwrap_or_default();
        Self {
            readable: redact::key(key),
            digest: key.digest(),
            namespace: parts.namespace,
            origin: parts.origin,
            path_and_query: redact::url(&parts.path_and_query),
            fields: Vec::new(),
            cookies: parts.cookies,
            hinted: parts.hinted,
            content: None,
        }
    }
}

/// What the cache would do with a request whose content is this request's body.
///
/// It changes nothing, and requires no token if reading requires none.
#[utoipa::path(
    post,
    path = "/api/explain",
    params(
        ("url" = String, Query, description = "An absolute URL, or a path beside a Host", example = "http://shop.example/api/search"),
        ("method" = Option<String>, Query, description = "QUERY unless given"),
        ("header" = Vec<String>, Query, description = "A request field as `name: value`; may be repeated", example = "content-type: application/json"),
        ("layer" = Option<String>, Query, description = "The layer, if there are several"),
        ("hint" = Vec<String>, Query, description = "A hint of an outer layer for the request; may be repeated"),
        ("status" = Option<u16>, Query, description = "The status that the application would answer with"),
        ("response_header" = Vec<String>, Query, description = "A field of that answer, as `name: value`"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The content of the request"),
    responses(
        (status = 200, description = "What the cache would do", body = Explained),
        (status = 400, description = "The query is invalid", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn explain_content(
    State(context): State<Context>,
    parameters: Parameters,
    content: Bytes,
) -> Result<Json<Explained>, Problem> {
    answer(&context, parameters, Some(content)).await
}

async fn answer(context: &Context, parameters: Parameters, content: Option<Bytes>) -> Result<Json<Explained>, Problem> {
    let parameters = parameters.known(&["url", "method", "header", "layer", "hint", "status", "response_header"])?;
    let method = if content.is_some() { "QUERY" } else { "GET" };
    let mut request = parameters.request(method)?.map(|_| Full::new(content.clone().unwrap_or_default()));
    if let Some(hints) = hints(&parameters)? {
        hints.add_to(request.extensions_mut());
    }
    let (name, layer) = context.layer(parameters.get("layer"))?;
    let response = response(&parameters)?;
    let mut explanation = layer.explain(&request, content.clone().unwrap_or_default()).await;
    if let Some(response) = response {
        explanation = explanation.if_answered(&response);
    }
    let notes = notes(layer, &request, content.is_some(), &explanation);
    Ok(Json(Explained { notes, ..explained(context, name, &explanation).await }))
}

/// What can't be determined about the request here.
fn notes(
    layer: &Layer,
    request: &Request<Full<Bytes>>,
    has_content: bool,
    explanation: &Explanation,
) -> Vec<&'static str> {
    let mut notes = Vec::new();
    let keys_content =
        matches!(layer, Layer::Query(_)) && explanation.key.as_ref().is_some_and(|key| key.content.is_some());
    if keys_content && !has_content {
        notes.push("The content of the request is part of its key, and none was given: this is what becomes of an empty one. Send the content as the body of a POST.");
    }
    let judges = |setting: &SettingDetails| setting.name == "bypass_if" && setting.value != "none";
    let judged = explanation.settings.as_ref().is_some_and(|settings| settings.all.iter().any(judges));
    if judged {
        notes.push("The application's bypass_if was asked about the request as it is given here: what it looks for among the extensions of a request is not there.");
    }
    if request.method() == Method::POST && !explanation.is_final {
        notes.push("A response to POST may be kept for GET, if it states its freshness and names the target as its Content-Location.");
    }
    notes
}

/// The response in question, if there is one.
fn response(parameters: &Parameters) -> Result<Option<Response<Empty<bytes::Bytes>>>, Problem> {
    let status: Option<u16> = parameters.number("status")?;
    let headers = fields(parameters.all("response_header"), "response_header")?;
    if status.is_none() && headers.is_empty() {
        return Ok(None);
    }
    let mut response = Response::new(Empty::new());
    let status = status.unwrap_or(200);
    *response.status_mut() = StatusCode::from_u16(status)
        .map_err(|_| Problem::bad_request(format!("status {status}: must be from 100 to 999")))?;
    *response.headers_mut() = headers;
    Ok(Some(response))
}

async fn explained(context: &Context, layer: &str, explanation: &Explanation) -> Explained {
    let key = explanation.key.as_ref();
    let entry = explanation.entry.as_ref();
    let place: Option<&Key> = explanation.variant.as_ref().map(|variant| &variant.key).or(key.map(|key| &key.key));
    let rejected = match place.filter(|_| entry.is_none() && explanation.verdict == Verdict::Load) {
        Some(key) => match context.0.cache.inspect(key).await {
            Ok(Inspected::Rejected(rejection)) => Some(rejection.as_str()),
            _ => None,
        },
        None => None,
    };
    let names = entry.map(|entry| entry.entry.tags.as_slice()).unwrap_or_default();
    Explained {
        layer: Some(layer.to_owned()),
        verdict: explanation.verdict.as_str(),
        sentence: sentence(explanation.verdict),
        cache_status: Some(explanation.cache_status.clone()),
        is_final: explanation.is_final,
        reason: explanation.reason.map(Reason::of),
        first_reason: explanation.first_reason.map(Reason::of),
        notes: Vec::new(),
        key: key.map(|key| KeyParts {
            readable: redact::url(&readable(key)),
            digest: key.key.digest(),
            namespace: key.namespace.clone(),
            origin: key.origin.clone(),
            path_and_query: redact::url(&key.path_and_query),
            fields: key.fields.iter().map(ToString::to_string).collect(),
            cookies: key.cookies.clone(),
            hinted: key.hinted.len(),
            content: key.content.clone(),
        }),
        tier: if entry.is_some() { explanation.tier.as_str() } else { Tier::None.as_str() },
        rule: explanation.settings.as_ref().and_then(|settings| settings.rule.clone()),
        settings: explanation.settings.iter().flat_map(|settings| &settings.all).map(Setting::of).collect(),
        entry: entry.map(StoredResponse::of),
        value: None,
        alias_of: explanation.alias_of.as_ref().map(redact::key),
        rejected,
        banned_by: explanation.banned_by.as_deref().map(redact::url),
        variant: explanation.variant.as_ref().map(|variant| Variant {
            digest: variant.key.digest(),
            fields: variant.fields.clone(),
            variants: variant.variants,
        }),
        is_loading: explanation.is_loading,
        lease: context.lease(place, explanation.lease, explanation.is_loading).await,
        stands_in: explanation.stands_in,
        tags: context.tags(names).await,
        plan: explanation.plan.as_ref().map(Plan::of),
        recent: key.map(|key| context.recent(&key.key)).unwrap_or_default(),
    }
}

/// The key without the values of request fields, cookies and hints, which may be private.
fn readable(key: &cache_layer::KeyDetails) -> String {
    format!("{}{}{}", key.namespace, key.origin, key.path_and_query)
}
