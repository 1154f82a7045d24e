//! What a layer would do with a request, and why: asked by the same functions as a request's, in the order of
//! [`service`](super::service), [`lookup`](super::lookup) and [`load`](super::load). Nothing is loaded or changed.

use std::{fmt, sync::Arc, time::Duration};

use http::{Extensions, HeaderMap, HeaderName, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, SizeHint};

use super::{
    annotate::{self, Served},
    context::Context,
    layer::CacheLayer,
    plan::{CacheRequest, Plan},
    receive::Planned,
    response_entry::{ResponseEntry, times},
    select::{Hit, Miss, Selection, Varies},
    target::Target,
};
use crate::{
    engine::{EntryDetails, permit::Purpose},
    entry::Entry,
    key::Key,
    labels::labels,
    semantics::{
        cache_status::ForwardReason, staleness::is_replaceable_error, storable::refusal_of_request, update::selects,
    },
    store::LeaseState,
    telemetry::{NoCacheReason, Tier},
};

labels! {
    /// What becomes of a request.
    pub enum Verdict {
        /// What is stored answers it, and is fresh.
        Hit => "hit",
        /// What is stored answers it, and is stale; it is refreshed in the background, if no request does so already.
        Stale => "stale",
        /// What is stored answers it, since the application failed lately and is left alone for a while.
        BackedOff => "backed-off",
        /// It waits for the load of another request, here or in another process.
        Wait => "wait",
        /// The application is asked, and its response may be stored.
        Load => "load",
        /// The application is asked whether what is stored still holds.
        Validate => "validate",
        /// The application is asked, and its response is not stored.
        Forward => "forward",
        /// The cache has nothing to do with it.
        Bypass => "bypass",
        /// The cache refuses it, without asking the application.
        Refuse => "refuse",
    }
}

/// What a layer would do with a request, from [`CacheLayer::explain`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// What becomes of the request.
    pub verdict: Verdict,
    /// What `Cache-Status` would say. Where the [application decides](Self::is_final), it is what it says of a response that
    /// may be stored.
    pub cache_status: String,
    /// Whether `cache_status` is known, whatever the application answers.
    pub is_final: bool,
    /// Why it is not answered from what is stored, or why the response is not stored, if there is a name for that.
    pub reason: Option<NoCacheReason>,
    /// Under which key the layer looks; `None` if the request doesn't say clearly which host it is for.
    pub key: Option<KeyDetails>,
    /// Where the entry was found.
    pub tier: Tier,
    /// What is stored for the request, whether or not it may answer it.
    pub entry: Option<ResponseDetails>,
    /// Which variant of the key the request selects, if the key has variants.
    pub variant: Option<VariantDetails>,
    /// For how long a rule of the layer's keeps what states no freshness of its own.
    pub rule: Option<Duration>,
    /// Whether this process is loading what the request asks for.
    pub is_loading: bool,
    /// What is at the place of the lease; `None` if the store was not asked, or did not answer.
    pub lease: Option<LeaseState>,
    /// Whether what is stored stands in if the application fails: with an error, or without any response.
    pub stands_in: bool,
    /// What would be stored of the response that was [given](Self::if_answered).
    pub plan: Option<PlanDetails>,
    pending: Option<Arc<Pending>>,
}

/// The key of a request, and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyDetails {
    /// As it is.
    pub key: Key,
    /// What the keys of the layer begin with; empty unless set.
    pub namespace: String,
    /// Scheme and host, as the layer takes them.
    pub origin: String,
    /// Path and query, without the parameters that make no difference.
    pub path_and_query: String,
    /// Request fields that are part of it.
    pub fields: Vec<HeaderName>,
}

/// A variant of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VariantDetails {
    /// Its own key.
    pub key: Key,
    /// The request fields that select it, with commas between them.
    pub fields: String,
    /// How many variants of the key were made, as far as this entry knows.
    pub variants: u16,
}

/// A stored response.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResponseDetails {
    /// Its entry.
    pub entry: EntryDetails,
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its age, in seconds (RFC 9111, section 4.2.3).
    pub age: u64,
    /// Whether it doesn't change while it is fresh (RFC 8246).
    pub immutable: bool,
    /// Whether no client may accept it stale.
    pub never_stale: bool,
    /// Whether the application can be asked if it still holds.
    pub can_be_validated: bool,
}

/// What would be stored of a response. Moments are in milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanDetails {
    /// When the response is taken to have come.
    pub made: u64,
    /// Until when it is fresh; of a layer with [`jitter`](CacheLayer::jitter), one moment of many.
    pub fresh: u64,
    /// Until when it answers while it is refreshed.
    pub stale_while_revalidate: u64,
    /// Until when it answers in place of an error.
    pub stale_if_error: u64,
    /// Until when it is kept.
    pub gone: u64,
    /// Its tags, sorted.
    pub tags: Vec<String>,
    /// The request fields that select it among its variants, with commas between them; empty if it has none.
    pub vary: String,
}

/// A request, as far as it matters.
struct Asked<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
    has_body: bool,
}

impl<'a> Asked<'a> {
    fn of<B: Body>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
            has_body: !request.body().is_end_stream(),
        }
    }
}

/// What is left to be decided by the response.
#[derive(Clone)]
enum Rest {
    Nothing,
    /// Nothing is stored; an error of the application's may be replaced by this.
    Forward(Option<Entry>),
    Load(Miss),
}

/// A request that the application has still to answer.
struct Pending {
    context: Context,
    uri: Uri,
    headers: HeaderMap,
    rest: Rest,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// # Explaining
impl CacheLayer {
    /// What this layer would do with `request` now, and why: computed by the functions that a request is answered by, while
    /// nothing is loaded, stored or sent to the application. It reads the store as a request does, and is no look-up to
    /// observers; stored bytes that it turns away are counted as such.
    ///
    /// The next such request is treated so, unless the entry, its tags, or the loads under way change in between. Three things
    /// are not known beforehand: what the application will [answer](Explanation::if_answered), whether there will be
    /// [room](Self::max_loads) at it, and the chance by which an entry is [refreshed early](Self::early_refresh).
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, Verdict, store::MemoryStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let layer = CacheLayer::new(Cache::new(MemoryStore::new(1 << 20)));
    /// let request = http::Request::get("http://shop.example/products").body(String::new()).unwrap();
    /// let explanation = layer.explain(&request).await;
    /// assert_eq!(explanation.verdict, Verdict::Load);
    /// assert_eq!(explanation.cache_status, "cache-layer; fwd=uri-miss; stored");
    /// # }
    /// ```
    pub fn explain<B: Body>(&self, request: &Request<B>) -> impl Future<Output = Explanation> + Send {
        let (context, asked) = (&self.context, Asked::of(request));
        async move {
            let (explanation, rest) = context.examine(&asked).await;
            let (context, uri, mut headers) = (context.clone(), asked.uri.clone(), asked.headers.clone());
            context.take_mark(&mut headers);
            let pending = Some(Arc::new(Pending { context, uri, headers, rest }));
            Explanation { pending, ..explanation }
        }
    }
}

impl Explanation {
    /// The same, if the application answers with `response`: whether that would be stored, for how long, and under which
    /// tags. Its extensions count as those of a handler's response do; what its handler
    /// [read](CacheLayer::inherit) doesn't.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore, telemetry::NoCacheReason};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let layer = CacheLayer::new(Cache::new(MemoryStore::new(1 << 20)));
    /// let request = http::Request::get("http://shop.example/basket").body(String::new()).unwrap();
    /// let response = http::Response::builder().header("cache-control", "private").body(String::new()).unwrap();
    /// let explanation = layer.explain(&request).await.if_answered(&response);
    /// assert_eq!(explanation.reason, Some(NoCacheReason::Private));
    /// assert_eq!(explanation.cache_status, "cache-layer; fwd=uri-miss; detail=private");
    /// # }
    /// ```
    #[must_use]
    pub fn if_answered<R: Body>(mut self, response: &Response<R>) -> Self {
        let mut head = Response::new(());
        *head.status_mut() = response.status();
        *head.headers_mut() = response.headers().clone();
        *head.extensions_mut() = response.extensions().clone();
        if let Some(pending) = self.pending.take() {
            pending.decide(head, response.body().size_hint(), &mut self);
        }
        self
    }

    /// The same, if the application gives no response: its service fails. Without something that [stands
    /// in](Self::stands_in), so does the request.
    #[must_use]
    pub fn if_failed(mut self) -> Self {
        let Some(pending) = self.pending.take() else { return self };
        if let Rest::Nothing = pending.rest {
            return self;
        }
        (self.is_final, self.reason) = (true, Some(NoCacheReason::ServiceFailed));
        if !pending.stands_in(&mut self, None) {
            self.cache_status.clear();
        }
        self
    }
}

impl Explanation {
    fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            cache_status: String::new(),
            is_final: true,
            reason: None,
            key: None,
            tier: Tier::None,
            entry: None,
            variant: None,
            rule: None,
            is_loading: false,
            lease: None,
            stands_in: false,
            plan: None,
            pending: None,
        }
    }

    /// `Cache-Status` as `say` writes it.
    fn says(&mut self, say: impl FnOnce(&mut HeaderMap)) {
        let mut headers = HeaderMap::new();
        say(&mut headers);
        let said = headers.get("cache-status").and_then(|value| value.to_str().ok());
        self.cache_status = said.unwrap_or_default().to_owned();
    }
}

impl Context {
    /// The part of the request: what becomes of it, and what the response has still to decide.
    async fn examine(&self, asked: &Asked<'_>) -> (Explanation, Rest) {
        let mut headers = asked.headers.clone();
        let mark = self.take_mark(&mut headers);
        let refusal = refusal_of_request(asked.method, &headers, asked.has_body);
        let target = Target::of(&self.sites, asked.uri, &headers);
        let mut explanation = Explanation::new(Verdict::Bypass);
        if let Some(target) = &target {
            explanation.key = Some(self.key_details(target, &headers));
            explanation.rule = self.policy.ttl(target.path());
        }
        let key = match (refusal, explanation.key.as_ref()) {
            (None, Some(key)) => key.key.clone(),
            (Some(reason), _) => return self.passed_by(explanation, asked.method, reason),
            (None, None) => return self.passed_by(explanation, asked.method, NoCacheReason::NoAuthority),
        };
        let nested = match mark {
            _ if self.is_nested(&key, asked.extensions) => true,
            Some(mark) => self.keep_mark(&mut headers.clone(), &key, mark).await,
            None => false,
        };
        if nested {
            return self.passed_by(explanation, asked.method, NoCacheReason::Nested);
        }
        if self.policy.is_bypassed_by_cookie(&headers) {
            return self.passed_by(explanation, asked.method, NoCacheReason::Cookie);
        }
        if let Some(entry) = self.select_in_memory(&key, &headers) {
            (explanation.verdict, explanation.tier) = (Verdict::Hit, Tier::Memory);
            self.answered(&mut explanation, &entry, Served::Hit);
            return (explanation, Rest::Nothing);
        }
        if self.cache.is_uncacheable(&key) && !self.directives(&headers).only_if_cached() {
            return self.passed_by(explanation, asked.method, NoCacheReason::Remembered);
        }
        let asked = Asked { headers: &headers, ..*asked };
        self.looked_up(explanation, &asked, &key).await
    }

    fn key_details(&self, target: &Target<'_>, headers: &HeaderMap) -> KeyDetails {
        let rules = self.key_rules(headers);
        KeyDetails {
            key: target.key(&rules),
            namespace: self.namespace.clone(),
            origin: target.origin(),
            path_and_query: target.path_and_query(&rules).into_owned(),
            fields: self.policy.key_headers.clone(),
        }
    }

    /// It is not looked up.
    fn passed_by(&self, mut explanation: Explanation, method: &Method, reason: NoCacheReason) -> (Explanation, Rest) {
        explanation.verdict = Verdict::Bypass;
        explanation.reason = Some(reason);
        // A response to POST may be kept for GET.
        explanation.is_final =
            !(reason == NoCacheReason::Method && *method == Method::POST && self.policy.caching.post_for_get);
        explanation.says(|headers| annotate::bypass(headers, &self.name, reason));
        (explanation, Rest::Nothing)
    }

    /// It was not answered from memory.
    async fn looked_up(&self, mut explanation: Explanation, asked: &Asked<'_>, key: &Key) -> (Explanation, Rest) {
        explanation.tier = self.cache.far_tier();
        match self.select(key, asked.headers).await {
            Selection::Fresh(hit) => {
                explanation.verdict = Verdict::Hit;
                self.found(&mut explanation, &hit, key);
                self.answered(&mut explanation, &hit.entry, Served::Hit);
                (explanation, Rest::Nothing)
            }
            Selection::Stale(hit, miss) => {
                self.found(&mut explanation, &hit, key);
                explanation.is_loading = self.cache.flights().has(&miss.key);
                let refreshes = *asked.method != Method::HEAD
                    && self.cache.recent_failure(&miss.key).is_none()
                    && !explanation.is_loading;
                if refreshes && self.cache.purpose_of_refresh(&miss.key) == Purpose::RetriedRefresh {
                    return self.missed(explanation, asked, key, miss).await;
                }
                explanation.verdict = Verdict::Stale;
                self.answered(&mut explanation, &hit.entry, Served::Stale);
                (explanation, Rest::Nothing)
            }
            Selection::Missing(miss) => {
                self.route(&mut explanation, &miss);
                self.missed(explanation, asked, key, miss).await
            }
        }
    }

    /// What was found, if anything was.
    fn route(&self, explanation: &mut Explanation, miss: &Miss) {
        explanation.entry = miss.stale.clone().and_then(ResponseEntry::new).map(|entry| self.details(&entry));
        if explanation.entry.is_none() {
            explanation.tier = Tier::None;
        }
        explanation.variant = miss.detail.varies.as_ref().map(|varies| variant(&miss.key, varies));
    }

    fn found(&self, explanation: &mut Explanation, hit: &Hit, primary: &Key) {
        let miss = hit.miss(primary, ForwardReason::Stale);
        self.route(explanation, &miss);
    }

    fn details(&self, entry: &ResponseEntry) -> ResponseDetails {
        let (response, now) = (entry.response(), self.cache.now());
        let mut headers = response.headers.clone();
        annotate::clear(&mut headers);
        self.policy.strip_internal(&mut headers);
        headers.remove(http::header::AGE);
        ResponseDetails {
            entry: EntryDetails::of(entry, now),
            status: response.status,
            headers,
            age: response.age(now),
            immutable: response.traits.immutable,
            never_stale: response.traits.never_stale,
            can_be_validated: response.can_be_validated(),
        }
    }

    /// `entry` answers.
    fn answered(&self, explanation: &mut Explanation, entry: &ResponseEntry, served: Served) {
        let now = self.cache.now();
        let times = times(entry.response(), &entry.deadlines_at(now), now);
        explanation.entry = Some(self.details(entry));
        explanation.says(|headers| annotate::stored(headers, &self.name, &times, served));
    }

    /// Nothing that is stored answers by itself.
    async fn missed(
        &self,
        mut explanation: Explanation,
        asked: &Asked<'_>,
        key: &Key,
        miss: Miss,
    ) -> (Explanation, Rest) {
        let stale = miss.stale.as_ref();
        explanation.stands_in = [None, Some(StatusCode::INTERNAL_SERVER_ERROR.as_u16())]
            .iter()
            .any(|status| self.stale_if_error_entry(asked.headers, stale, *status).is_some());
        explanation.is_loading = self.cache.flights().has(&miss.key);
        if self.directives(asked.headers).only_if_cached() {
            return self.refused(explanation, NoCacheReason::OnlyIfCached);
        }
        if let Some(failure) = self.cache.recent_failure(&miss.key)
            && let Some(settled) = self.backed_off(&mut explanation, asked, stale, failure.status)
        {
            return (settled, Rest::Nothing);
        }
        let came = stale.cloned().and_then(ResponseEntry::new).map(|entry| entry.response().response_time);
        let alone = match *asked.method {
            Method::HEAD => Some(NoCacheReason::HeadMiss),
            _ => self.passes_range(key, asked.headers, came),
        };
        if let Some(reason) = alone {
            return self.forwarded(explanation, reason, miss.stale);
        }
        if explanation.is_loading {
            return self.waits(explanation);
        }
        self.asks_for_the_lease(explanation, asked, miss).await
    }

    /// What the store says to a request that wants to load.
    async fn asks_for_the_lease(
        &self,
        mut explanation: Explanation,
        asked: &Asked<'_>,
        miss: Miss,
    ) -> (Explanation, Rest) {
        explanation.lease = match miss.reached_store() {
            true => self.cache.inspect_lease(&miss.key).await.ok(),
            false => None,
        };
        let heeds = || {
            let policy = self.failure_policy(asked.headers, miss.stale.as_ref(), false);
            policy.heed && policy.back_off.is_some()
        };
        match explanation.lease {
            Some(LeaseState::Uncacheable) => return self.forwarded(explanation, NoCacheReason::Remembered, None),
            Some(LeaseState::Held) => return self.waits(explanation),
            Some(LeaseState::Failed { remaining, status, .. }) if !remaining.is_zero() && heeds() => {
                return match self.backed_off(&mut explanation, asked, miss.stale.as_ref(), status) {
                    Some(settled) => (settled, Rest::Nothing),
                    None => self.forwarded(explanation, NoCacheReason::BackedOff, miss.stale),
                };
            }
            Some(LeaseState::Free | LeaseState::Failed { .. }) | None => {}
        }
        let stored = miss.stale.clone().and_then(ResponseEntry::new);
        let validates = stored.is_some_and(|stored| stored.response().can_be_validated());
        explanation.verdict = if validates { Verdict::Validate } else { Verdict::Load };
        explanation.is_final = false;
        let (why, not_stored) = (miss.detail.why, self.known_refusal(&miss));
        explanation.reason = not_stored;
        explanation.says(|headers| annotate::miss(headers, &self.name, why, not_stored));
        (explanation, Rest::Load(miss))
    }

    /// Why nothing will be stored, whatever comes.
    fn known_refusal(&self, miss: &Miss) -> Option<NoCacheReason> {
        (!miss.reached_store()).then_some(NoCacheReason::StoreUnavailable)
    }

    fn refused(&self, mut explanation: Explanation, reason: NoCacheReason) -> (Explanation, Rest) {
        (explanation.verdict, explanation.reason) = (Verdict::Refuse, Some(reason));
        explanation.says(|headers| annotate::miss(headers, &self.name, ForwardReason::Miss, Some(reason)));
        (explanation, Rest::Nothing)
    }

    fn forwarded(
        &self,
        mut explanation: Explanation,
        reason: NoCacheReason,
        stale: Option<Entry>,
    ) -> (Explanation, Rest) {
        (explanation.verdict, explanation.reason) = (Verdict::Forward, Some(reason));
        explanation.is_final = !explanation.stands_in;
        explanation.says(|headers| annotate::miss(headers, &self.name, ForwardReason::Miss, Some(reason)));
        (explanation, Rest::Forward(stale))
    }

    /// Another load is under way: what it brings answers, most likely.
    fn waits(&self, mut explanation: Explanation) -> (Explanation, Rest) {
        explanation.verdict = Verdict::Wait;
        explanation.is_final = false;
        let times = annotate::Times { age: 0, resident: 0, ttl: 0, fresh: true };
        explanation.says(|headers| annotate::stored(headers, &self.name, &times, Served::Collapsed));
        (explanation, Rest::Nothing)
    }

    /// The application, which failed with this status, is left alone, if there is something else to answer with.
    fn backed_off(
        &self,
        explanation: &mut Explanation,
        asked: &Asked<'_>,
        stale: Option<&Entry>,
        status: Option<u16>,
    ) -> Option<Explanation> {
        let reason = NoCacheReason::BackedOff;
        match self.stale_if_error_entry(asked.headers, stale, status) {
            Some(entry) => {
                explanation.verdict = Verdict::BackedOff;
                self.answered(explanation, &entry, Served::BackedOff);
            }
            None if self.shares_failures(asked.headers) => {
                explanation.verdict = Verdict::Refuse;
                explanation.says(|headers| annotate::miss(headers, &self.name, ForwardReason::Miss, Some(reason)));
            }
            None => return None,
        }
        explanation.reason = Some(reason);
        Some(explanation.clone())
    }
}

impl Pending {
    /// Lets what is stale answer in place of an error of this status, or of no response, if it may.
    fn stands_in(&self, explanation: &mut Explanation, status: Option<u16>) -> bool {
        let stale = match &self.rest {
            Rest::Nothing => None,
            Rest::Forward(stale) => stale.as_ref(),
            Rest::Load(miss) => miss.stale.as_ref(),
        };
        let entry = self.context.stale_if_error_entry(&self.headers, stale, status);
        if let Some(entry) = &entry {
            self.context.answered(explanation, entry, Served::StaleIfError(status));
        }
        entry.is_some()
    }

    /// The part of the response.
    fn decide(&self, head: Response<()>, hint: SizeHint, explanation: &mut Explanation) {
        if let Rest::Nothing = self.rest {
            return;
        }
        explanation.is_final = true;
        let status = head.status();
        if is_replaceable_error(status) && self.stands_in(explanation, Some(status.as_u16())) {
            return;
        }
        let context = &self.context;
        let Rest::Load(miss) = &self.rest else { return };
        let Some(target) = Target::of(&context.sites, &self.uri, &self.headers).map(Target::into_owned) else { return };
        let Some(key) = explanation.key.as_ref().map(|details| details.key.clone()) else { return };
        let headers = Arc::new(self.headers.clone());
        let request = CacheRequest { target, key, method: Method::GET, headers, time: context.cache.now() };
        let (mut parts, ()) = head.into_parts();
        let stored = miss.stale.clone().and_then(ResponseEntry::new);
        let (plan, validated) = match stored.filter(|_| status == StatusCode::NOT_MODIFIED) {
            Some(entry) if !holds(&entry, &parts.headers, context.cache.now()) => {
                (Err(NoCacheReason::Unmatched), Some(entry))
            }
            Some(entry) => (context.plan(&request, context.freshened(&entry, &mut parts)), Some(entry)),
            None => {
                let Planned { plan, .. } = context.plan_head(&request, &mut parts, hint);
                (plan, None)
            }
        };
        let not_stored = plan.as_ref().err().copied().or_else(|| context.known_refusal(miss));
        explanation.reason = not_stored;
        explanation.plan = plan.ok().map(|plan| PlanDetails::of(&plan));
        let why = miss.detail.why;
        match validated {
            Some(entry) => context.answered(explanation, &entry, Served::Validated { why, not_stored }),
            None => explanation.says(|headers| annotate::miss(headers, &context.name, why, not_stored)),
        }
    }
}

/// Whether a 304 with these fields says that `entry` still holds.
fn holds(entry: &ResponseEntry, not_modified: &HeaderMap, now: u64) -> bool {
    let stored = entry.response();
    stored.can_be_validated() && selects(not_modified, &stored.headers, now / 1000)
}

fn variant(key: &Key, varies: &Varies) -> VariantDetails {
    let fields = String::from_utf8_lossy(&varies.stored.fields.to_bytes()).into_owned();
    VariantDetails { key: key.clone(), fields, variants: varies.stored.variants }
}

impl PlanDetails {
    fn of(plan: &Plan) -> Self {
        let vary = plan.vary.as_ref().map(|fields| String::from_utf8_lossy(&fields.to_bytes()).into_owned());
        Self {
            made: plan.deadlines.made,
            fresh: plan.deadlines.fresh,
            stale_while_revalidate: plan.deadlines.stale_while_revalidate,
            stale_if_error: plan.deadlines.stale_if_error,
            gone: plan.deadlines.gone,
            tags: plan.tags.iter().map(str::to_owned).collect(),
            vary: vary.unwrap_or_default(),
        }
    }
}
