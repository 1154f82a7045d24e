//! The half of an explanation that the request decides, in the order of [`service`](crate::http::service) and
//! [`fetch`](crate::http::fetch).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method, Request, StatusCode, header::AGE};

use super::{
    details::{KeyDetails, ResponseDetails, SettingDetails, SettingOrigin, SettingsDetails, VariantDetails, Verdict},
    explanation::{Explanation, Pending, Rest},
};
use crate::{
    engine::{EntryDetails, Reading, permit::Purpose},
    entry::Entry,
    http::{
        annotate::{self, Refusal, Served},
        context::Context,
        hints::Hints,
        layer::CacheLayer,
        respond::times,
        response_entry::ResponseEntry,
        rules::{Choice, RequestSettings, Rule},
        select::{Hit, Miss, Selection, Varies},
        target::Target,
    },
    key::Key,
    policy::Policy,
    semantics::{
        cache_status::ForwardReason, conditional::ignore_undefined, incremental::is_incremental,
        storable::refusal_of_request,
    },
    store::LeaseState,
    switches::Switch,
    telemetry::{NoCacheReason, Tier},
};

/// The parts of a request that matter.
pub(super) struct Asked {
    request: Request<()>,
    has_body: bool,
    pub(super) content: Content,
}

/// How the content of a request affects its key.
pub(super) enum Content {
    /// The content is not part of the key.
    NoPart,
    /// The content is part of the key, by this digest.
    Part([u8; 32]),
    /// The content should be part of the key, but can't be.
    Refused(NoCacheReason),
}

impl From<Option<Result<[u8; 32], NoCacheReason>>> for Content {
    fn from(read: Option<Result<[u8; 32], NoCacheReason>>) -> Self {
        match read {
            None => Self::NoPart,
            Some(Ok(digest)) => Self::Part(digest),
            Some(Err(reason)) => Self::Refused(reason),
        }
    }
}

impl Asked {
    pub(super) fn new<B>(request: &Request<B>, has_body: bool) -> Self {
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        *head.extensions_mut() = request.extensions().clone();
        Self { request: head, has_body, content: Content::NoPart }
    }

    pub(super) fn request(&self) -> &Request<()> {
        &self.request
    }

    /// Why the cache must not handle the request, if it must not.
    fn refusal(&self) -> Option<NoCacheReason> {
        match self.content {
            Content::Part(_) => None,
            // Any other POST.
            Content::Refused(reason) if *self.request.method() != Method::POST => Some(reason),
            Content::Refused(_) | Content::NoPart => {
                refusal_of_request(self.request.method(), self.request.headers(), self.has_body)
            }
        }
    }
}

/// A request whose key and settings are known.
struct Examined {
    context: Arc<Context>,
    request: Request<()>,
    target: Target<'static>,
    key: Key,
    explanation: Explanation,
}

impl CacheLayer {
    pub(super) async fn examine(&self, mut asked: Asked) -> Explanation {
        let base = &self.context;
        let enclosing = base.take_enclosing(asked.request.headers_mut());
        let (method, headers) = (asked.request.method(), asked.request.headers());
        let (refusal, hints) = (asked.refusal(), asked.request.extensions().get::<Hints>());
        let mut explanation = Explanation::new(Verdict::Bypass);
        explanation.cache_status_field = base.signature.status_field();
        let Some(target) = Target::of_request(&base.sites, &asked.request).map(Target::into_owned) else {
            let reason = refusal.unwrap_or(NoCacheReason::NoAuthority);
            return explanation.bypassed(base, method, reason.into());
        };
        let settings = self.settings(base.clone(), hints);
        explanation.settings = Some(settings_details(&settings, &target, hints));
        let Choice { context, key, bypass } = match &asked.content {
            Content::Part(digest) => {
                settings.choose_with(&target, headers, |rules| target.key_with_content(rules, method, digest))
            }
            Content::NoPart | Content::Refused(_) => settings.choose_with(&target, headers, |rules| target.key(rules)),
        };
        if !matches!(asked.content, Content::Refused(_)) {
            explanation.key = Some(context.key_details(&target, &key, hints, &asked));
        }
        if let Some(reason) = refusal {
            return explanation.bypassed(&context, method, reason.into());
        }
        // The outer layer decides what is stored.
        if context.is_nested(&key, asked.request.extensions()) {
            return explanation.bypassed(&context, method, NoCacheReason::Nested.into());
        }
        let judged = || context.policy.bypass_if.as_ref().is_some_and(|judge| judge.judge(asked.request.clone()).0);
        if let Some(reason) = bypass.or_else(|| judged().then_some(NoCacheReason::BypassIf)) {
            return explanation.bypassed(&context, method, reason.into());
        }
        if let Some(enclosing) = &enclosing
            && context.is_enclosed_by(&mut headers.clone(), &key, enclosing.clone(), Reading::Inspection).await
        {
            return explanation.bypassed(&context, method, NoCacheReason::Nested.into());
        }
        let mut request = asked.request;
        if matches!(asked.content, Content::Part(_)) {
            ignore_undefined(&mut request);
        }
        let examined = Examined { context, request, target, key, explanation };
        if enclosing.is_some() { examined.looked_up().await } else { examined.at_once().await }
    }
}

impl Explanation {
    /// It is not looked up.
    fn bypassed(mut self, context: &Context, method: &Method, refusal: Refusal) -> Self {
        let Refusal { reason, first } = refusal;
        self.verdict = Verdict::Bypass;
        (self.reason, self.first_reason) = (Some(reason), first);
        // A response to POST may be stored for GET.
        let may_answer_get =
            reason == NoCacheReason::Method && *method == Method::POST && context.policy.caching.post_for_get;
        self.is_final = !may_answer_get;
        self.says(|headers| annotate::bypass(headers, &context.signature.plain(), refusal));
        self
    }
}

impl Examined {
    fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    fn is_head(&self) -> bool {
        *self.request.method() == Method::HEAD
    }

    fn only_if_cached(&self) -> bool {
        self.context.directives(self.headers()).only_if_cached()
    }

    /// Explains by the entry in memory, or else by the store.
    async fn at_once(self) -> Explanation {
        if let Some(entry) = self.context.peek_answer(&self.key, self.headers()) {
            return self.hit(Tier::Memory, &entry, Served::Hit);
        }
        if self.context.remembers_refusal(&self.key) && !self.only_if_cached() {
            let refusal = self.context.refusal(NoCacheReason::Remembered, &self.key);
            return self.explanation.bypassed(&self.context, self.request.method(), refusal);
        }
        self.looked_up().await
    }

    fn hit(mut self, tier: Tier, entry: &ResponseEntry, served: Served) -> Explanation {
        (self.explanation.verdict, self.explanation.tier) = (Verdict::Hit, tier);
        self.context.answered(&mut self.explanation, entry, served);
        self.explanation
    }

    /// Explains by the entry in the store.
    async fn looked_up(mut self) -> Explanation {
        let cache = &self.context.cache;
        self.explanation.tier = cache.far_tier();
        match self.context.select(&self.key, self.request.headers(), Reading::Inspection).await {
            Selection::Fresh(hit) => {
                self.found(&hit);
                let tier = self.explanation.tier;
                self.hit(tier, &hit.entry, Served::Hit)
            }
            Selection::Stale(hit, miss) => {
                let is_loading = cache.flights().has(&miss.key);
                let refreshes = !self.is_head() && cache.recent_failure(&miss.key).is_none() && !is_loading;
                let purpose = refreshes.then(|| cache.purpose_of_refresh(&miss.key));
                self.explanation.is_loading = is_loading;
                self.found(&hit);
                if self.remembers_refusal(&miss) || purpose == Some(Purpose::RetriedRefresh) {
                    return self.missed(miss).await;
                }
                self.explanation.verdict = Verdict::Stale;
                self.context.answered(&mut self.explanation, &hit.entry, Served::Stale);
                self.explanation
            }
            Selection::Missing(miss) => {
                if let Some(entry) = self.stored_for_another_query(&miss).await {
                    self.explanation.alias_of = Some(Key::of_canonical(entry.canonical()));
                    let tier = self.explanation.tier;
                    return self.hit(tier, &entry, Served::Alias { collapsed: false });
                }
                self.route(&miss);
                if self.explanation.entry.is_none() && miss.reached_store() {
                    // The store answered a moment ago; without an answer now, the reason is not known.
                    self.explanation.banned_by = self.context.cache.inspect_ban(&miss.key).await.ok().flatten();
                }
                self.missed(miss).await
            }
        }
    }

    /// The response that was stored for another query, and answers this one.
    async fn stored_for_another_query(&self, miss: &Miss) -> Option<ResponseEntry> {
        if miss.detail.why != ForwardReason::UriMiss {
            return None;
        }
        let (method, extensions) = (self.request.method(), self.request.extensions());
        let alias = self.context.alias_of(&self.target, method, self.headers(), extensions)?;
        self.context.select_by_alias(&alias, self.headers(), Reading::Inspection).await
    }

    /// Records the entry that was found, if one was.
    fn route(&mut self, miss: &Miss) {
        let entry = miss.stale.clone().and_then(ResponseEntry::new).map(|entry| self.context.details(&entry));
        if entry.is_none() {
            self.explanation.tier = Tier::None;
        }
        self.explanation.entry = entry;
        self.explanation.variant = miss.detail.varies.as_deref().map(|varies| variant(&miss.key, varies));
    }

    fn found(&mut self, hit: &Hit) {
        let miss = hit.miss(&self.key, ForwardReason::Stale);
        self.route(&miss);
    }

    /// Whether the application is asked because a response to this variant could not be stored a moment ago.
    fn remembers_refusal(&self, miss: &Miss) -> bool {
        self.context.remembers_refusal_of_variant(miss) && !self.only_if_cached()
    }

    /// No stored response answers by itself.
    async fn missed(mut self, miss: Miss) -> Explanation {
        let context = self.context.clone();
        if self.remembers_refusal(&miss) {
            return self.forwarded(context.refusal(NoCacheReason::Remembered, &miss.key), None);
        }
        let stale = miss.stale.as_ref();
        self.explanation.stands_in = [None, Some(StatusCode::INTERNAL_SERVER_ERROR.as_u16())]
            .iter()
            .any(|status| context.usable_on_error(self.headers(), stale, *status).is_some());
        self.explanation.is_loading = context.cache.flights().has(&miss.key);
        if self.only_if_cached() {
            return self.refused(NoCacheReason::OnlyIfCached);
        }
        if let Some(failure) = context.cache.recent_failure(&miss.key)
            && self.backed_off(stale, failure.status)
        {
            return self.explanation;
        }
        let came = stale.cloned().and_then(ResponseEntry::new).map(|entry| entry.response().info.response_time);
        let alone = if self.is_head() {
            Some(NoCacheReason::HeadMiss)
        } else if is_incremental(self.headers()) {
            Some(NoCacheReason::Incremental)
        } else {
            context.passes_range(&self.key, self.headers(), came)
        };
        if let Some(reason) = alone {
            let refusal = context.refusal(reason, &self.key);
            return self.forwarded(refusal, miss.stale);
        }
        if self.explanation.is_loading {
            return self.waits();
        }
        self.asks_for_the_lease(miss).await
    }

    /// Explains by the state of the lease.
    async fn asks_for_the_lease(mut self, miss: Miss) -> Explanation {
        let context = self.context.clone();
        if miss.reached_store() && context.cache.is_switched(Switch::StopFills) {
            return self.loads(miss, Some(NoCacheReason::FillsStopped));
        }
        let state = match miss.reached_store() {
            true => context.cache.inspect_lease(&miss.key).await.ok(),
            false => None,
        };
        self.explanation.lease = state;
        let heeds = || {
            let policy = context.failure_policy(self.headers(), miss.stale.as_ref(), false);
            policy.heed && policy.back_off.is_some()
        };
        match state {
            Some(LeaseState::Uncacheable) if !context.loads_anew() => {
                self.forwarded(NoCacheReason::Remembered.into(), None)
            }
            Some(LeaseState::Held(_)) => self.waits(),
            Some(LeaseState::Failed { remaining, status, .. }) if !remaining.is_zero() && heeds() => {
                match self.backed_off(miss.stale.as_ref(), status) {
                    true => self.explanation,
                    false => self.forwarded(NoCacheReason::BackedOff.into(), miss.stale),
                }
            }
            Some(LeaseState::NoRoom) => self.loads(miss, Some(NoCacheReason::StoreFull)),
            Some(LeaseState::Free | LeaseState::Failed { .. } | LeaseState::Uncacheable) => {
                let is_first = context.cache.is_first_sight(&miss.key, miss.expected);
                self.loads(miss, is_first.then_some(NoCacheReason::FirstSight))
            }
            None => self.loads(miss, Some(NoCacheReason::StoreUnavailable)),
        }
    }

    /// The application is asked; `not_stored` says why its response is not stored, if that is already known.
    fn loads(mut self, miss: Miss, not_stored: Option<NoCacheReason>) -> Explanation {
        let stored = miss.stale.clone().and_then(ResponseEntry::new);
        let validates = stored.is_some_and(|stored| stored.response().can_be_validated());
        self.explanation.verdict = if validates { Verdict::Validate } else { Verdict::Load };
        let (why, signature) = (miss.detail.why, self.context.signature.plain());
        self.explanation.reason = annotate::detail(why, not_stored);
        self.explanation.says(|headers| annotate::miss(headers, &signature, why, not_stored));
        self.pending(Rest::Load { miss, not_stored })
    }

    fn refused(mut self, reason: NoCacheReason) -> Explanation {
        (self.explanation.verdict, self.explanation.reason) = (Verdict::Refuse, Some(reason));
        let signature = self.context.signature.plain();
        self.explanation.says(|headers| annotate::miss(headers, &signature, ForwardReason::Miss, Some(reason)));
        self.explanation
    }

    /// The request is forwarded alone; the `stale` entry may replace an error.
    fn forwarded(mut self, refusal: Refusal, stale: Option<Entry>) -> Explanation {
        self.explanation.verdict = Verdict::Forward;
        (self.explanation.reason, self.explanation.first_reason) = (Some(refusal.reason), refusal.first);
        let signature = self.context.signature.plain();
        self.explanation.says(|headers| annotate::passed(headers, &signature, refusal));
        let is_final = !self.explanation.stands_in;
        Explanation { is_final, ..self.pending(Rest::Forward(stale)) }
    }

    fn pending(self, rest: Rest) -> Explanation {
        let Self { context, request, target, key, explanation } = self;
        let pending = Some(Arc::new(Pending { context, request, target, key, rest }));
        Explanation { is_final: false, pending, ..explanation }
    }

    /// Another load is under way, and will most likely answer the request.
    fn waits(mut self) -> Explanation {
        self.explanation.verdict = Verdict::Wait;
        self.explanation.is_final = false;
        let times = annotate::Times { age: 0, resident: 0, ttl: 0, fresh: true };
        let signature = self.context.signature.plain();
        self.explanation.says(|headers| annotate::stored(headers, &signature, &times, Served::Collapsed));
        self.explanation
    }

    /// The key is in back-off after a failure with this status, and there is something else to answer with.
    fn backed_off(&mut self, stale: Option<&Entry>, status: Option<u16>) -> bool {
        let (context, reason) = (self.context.clone(), NoCacheReason::BackedOff);
        match context.stale_if_error_entry(self.headers(), stale, status) {
            Some(entry) => {
                self.explanation.verdict = Verdict::BackedOff;
                context.answered(&mut self.explanation, &entry, Served::BackedOff);
            }
            None if context.shares_failures(self.headers()) => {
                self.explanation.verdict = Verdict::Refuse;
                let signature = context.signature.plain();
                self.explanation.says(|headers| annotate::miss(headers, &signature, ForwardReason::Miss, Some(reason)));
            }
            None => return false,
        }
        self.explanation.reason = Some(reason);
        true
    }
}

impl Context {
    /// `entry` answers the request.
    pub(super) fn answered(&self, explanation: &mut Explanation, entry: &ResponseEntry, served: Served) {
        let now = self.cache.now();
        let times = times(entry.response().info, &entry.deadlines_at(now), now);
        explanation.entry = Some(self.details(entry));
        explanation.says(|headers| annotate::stored(headers, &self.signature.plain(), &times, served));
    }

    pub(super) fn details(&self, entry: &ResponseEntry) -> ResponseDetails {
        let (response, now) = (entry.response(), self.cache.now());
        let is_shown = |name: &HeaderName| !annotate::is_own(name) && *name != AGE;
        let mut headers = HeaderMap::new();
        // As they were stored: those of `response` may have places for the fields of a coding.
        for (name, value) in entry.stored_headers().iter().filter(|(name, _)| is_shown(name)) {
            headers.append(name, value.clone());
        }
        self.policy.strip_internal(&mut headers);
        ResponseDetails {
            entry: EntryDetails::of(entry, now),
            status: response.info.status,
            headers,
            age: response.info.age(now),
            immutable: response.info.traits.immutable,
            never_stale: response.info.traits.never_stale,
            minted: response.info.traits.minted,
            can_be_validated: response.can_be_validated(),
            encodable: response.info.traits.encodable,
            codings: entry.made_codings().collect(),
        }
    }

    fn key_details(&self, target: &Target<'_>, key: &Key, hints: Option<&Hints>, asked: &Asked) -> KeyDetails {
        let rules = self.key_rules(asked.request.headers());
        let hex = |digest: &[u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect();
        KeyDetails {
            key: key.clone(),
            namespace: self.namespace.clone(),
            origin: target.origin(),
            path_and_query: target.keyed_path_and_query(&rules).into_owned(),
            fields: self
                .policy
                .key_headers
                .iter()
                .chain(self.owner.iter().flat_map(|owner| owner.credentials()))
                .cloned()
                .collect(),
            cookies: self.policy.cookies.keyed.iter().map(ToString::to_string).collect(),
            hinted: hints.iter().flat_map(|hints| &hints.key_parts).map(ToString::to_string).collect(),
            content: match &asked.content {
                Content::Part(digest) => Some(hex(digest)),
                Content::NoPart | Content::Refused(_) => None,
            },
        }
    }
}

fn variant(key: &Key, varies: &Varies) -> VariantDetails {
    let fields = String::from_utf8_lossy(&varies.stored.fields.to_bytes()).into_owned();
    VariantDetails { key: key.clone(), fields, variants: varies.stored.variants }
}

/// Each setting for a request, and where it comes from.
fn settings_details(settings: &RequestSettings, target: &Target<'_>, hints: Option<&Hints>) -> SettingsDetails {
    let rule = settings.rule(target, &Method::GET);
    let said = rule.as_ref().map(Rule::says).unwrap_or_default();
    let mut policy = settings.context(target, &Method::GET).policy.clone();
    let hinted = hints.map(Hints::says).unwrap_or_default();
    if let Some(hints) = hints {
        hints.apply(&mut policy);
        if hints.bypass {
            policy.bypass.get_or_insert(NoCacheReason::Hint);
        }
    }
    let defaults = Policy::default().shown(target.path());
    let origin = |name: &'static str, value: &str| match () {
        () if hinted.contains(&name) => SettingOrigin::Hint,
        () if said.contains(&name) => SettingOrigin::Rule,
        () if defaults.iter().any(|(known, default)| *known == name && default == value) => SettingOrigin::Default,
        () => SettingOrigin::Layer,
    };
    let all = policy.shown(target.path());
    let all = all.into_iter().map(|(name, value)| SettingDetails { name, origin: origin(name, &value), value });
    SettingsDetails { rule: rule.map(|rule| rule.to_string()), all: all.collect() }
}
