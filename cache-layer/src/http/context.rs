//! The state that all requests through one layer share.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use http::{HeaderMap, HeaderValue, Request, Response};
use tokio_util::either::Either;

use super::{
    annotate::{self, Signature},
    encode::Jobs,
    owner::Owner,
    range_memory::RangeMemory,
    target::{KeyRules, Target},
    variations::Variations,
};
use crate::{
    engine::{
        Cache,
        enclosing::EnclosingLoads,
        load_limit::LoadLimit,
        verifier::{Running, Verifier},
    },
    inherit,
    key::Key,
    policy::Policy,
    semantics::{cache_status::ForwardReason, reuse::RequestDirectives, sites::Sites, vary::VaryFields},
    telemetry::{Event, Named, NoCacheReason},
};

/// The cache, and the settings of a [`CacheLayer`](super::CacheLayer).
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) cache: Cache,
    pub(super) policy: Policy,
    /// The rule whose settings these are, if they are a rule's.
    pub(super) rule: Option<Arc<str>>,
    pub(super) signature: Signature,
    /// The beginning of all keys.
    pub(super) namespace: String,
    /// Maps the scheme and host of a request to their canonical form.
    pub(super) sites: Sites,
    pub(super) load_limit: LoadLimit,
    pub(super) range_memory: RangeMemory,
    /// The `Cache-Status` of most misses, made by the first of them.
    pub(super) usual_status: OnceLock<HeaderValue>,
    /// Whether the content of some requests is part of their keys.
    pub(super) has_content_keys: bool,
    pub(super) encoding_jobs: Jobs,
    /// What `No-Vary-Search` of responses has said, if the field is honoured.
    pub(super) variations: Option<Variations>,
    /// The owner, in a private cache.
    pub(super) owner: Option<Arc<Owner>>,
    /// The verifier, if some hits are verified, or may be by a switch.
    pub(super) verifier: Option<Verifier>,
    /// The verifications under way, of all rules.
    pub(super) verifications: Running,
    /// Whether the policy needs to examine a request before its look-up: such requests take a slower path.
    pub(super) asks_first: bool,
    /// Which rules these settings are by, if the layer has any.
    pub(super) generation: Option<Generation>,
}

/// The generation of a set of rules, and the one that is in force.
#[derive(Clone, Debug)]
pub(super) struct Generation {
    pub(super) own: u64,
    pub(super) current: Arc<AtomicU64>,
}

impl Context {
    pub(super) fn new(cache: Cache) -> Self {
        let verifications = Running::default();
        let verifier = Verifier::new(None, cache.switches(), &verifications);
        Self {
            load_limit: cache.load_limit().clone(),
            cache,
            policy: Policy::default(),
            rule: None,
            signature: Signature::default(),
            namespace: String::new(),
            sites: Sites::default(),
            range_memory: RangeMemory::default(),
            usual_status: OnceLock::new(),
            has_content_keys: false,
            encoding_jobs: Jobs::default(),
            variations: None,
            owner: None,
            verifier,
            verifications,
            asks_first: false,
            generation: None,
        }
    }

    /// The same, for one owner alone.
    pub(super) fn of_owner(mut self, owner: Owner) -> Self {
        self.policy.caching.private = true;
        // A client knows the scheme, and a response that came without TLS must not answer a request with TLS.
        self.sites.tell_schemes_apart(true);
        self.namespace = owner.namespace(&self.namespace);
        self.owner = Some(Arc::new(owner));
        self
    }

    /// The same, with the state that is derived from the policy updated.
    pub(super) fn settled(mut self) -> Self {
        self.verifier = Verifier::new(self.policy.verify.as_ref(), self.cache.switches(), &self.verifications);
        self.knowing_what_it_asks()
    }

    /// The same, for requests: each of them asks [whether it is examined](Self::asks_first).
    pub(super) fn knowing_what_it_asks(self) -> Self {
        Self { asks_first: self.policy.asks_first(), ..self }
    }

    /// Reports a request that is not looked up.
    pub(super) fn report_bypass<B>(&self, request: &Request<B>, reason: NoCacheReason) {
        self.cache.emit(Event::Bypass(reason));
        if self.cache.is_told_names() {
            let target = Target::of_request(&self.sites, request);
            let key = target.map(|target| target.key_of_target(&self.key_rules(request.headers())));
            self.cache.tell(&Named::Bypass { key: key.as_ref(), reason });
        }
    }

    /// Whether a setting needs to examine a request before its look-up.
    #[inline(always)]
    pub(super) fn asks_first(&self) -> bool {
        self.asks_first || self.cache.bypasses_reads()
    }

    /// Whether the next requests for a key are judged by these settings as well: they are neither those of one request, nor by
    /// rules that were replaced.
    pub(super) fn speaks_for_others(&self) -> bool {
        let is_current = |rules: &Generation| rules.own == rules.current.load(Ordering::Acquire);
        !self.policy.is_hinted && self.generation.as_ref().is_none_or(is_current)
    }

    /// Whether it is remembered that a response for this key could not be stored, if that says anything by these settings. Which
    /// variant a request selects is only known after its look-up.
    pub(super) fn remembers_refusal(&self, key: &Key) -> bool {
        self.cache.is_uncacheable(key) && !self.policy.is_hinted
    }

    /// Whether a load may store its response although the store remembers that another could not be stored.
    pub(super) fn loads_anew(&self) -> bool {
        self.policy.is_hinted || self.cache.refusals_are_void()
    }

    /// Whether a target may have responses that its own key does not lead to.
    pub(super) fn has_tagged_targets(&self) -> bool {
        self.has_content_keys || self.variations.is_some() || self.keys_have_parts()
    }

    /// Whether a key has more parts than its target: then the response carries the tag of its target.
    pub(super) fn keys_have_parts(&self) -> bool {
        let Policy { key_headers, cookies, .. } = &self.policy;
        !key_headers.is_empty() || !cookies.keyed.is_empty() || self.owner.is_some()
    }

    /// The rules by which the key of a request with `headers` is made.
    pub(super) fn key_rules<'a>(&'a self, headers: &'a HeaderMap) -> KeyRules<'a> {
        let Policy { caching, key_headers, cookies, .. } = &self.policy;
        KeyRules {
            sites: &self.sites,
            namespace: &self.namespace,
            ignored_query: &caching.ignored_query,
            key_headers,
            cookies,
            owner: self.owner.as_deref(),
            hinted: &[],
            headers,
            is_shared: !self.cache.is_local(),
        }
    }

    /// Whether a response may be meant for this client alone, while other clients' requests have the same key.
    pub(super) fn is_personal(&self, request: &HeaderMap) -> bool {
        if self.owner.is_some() {
            return false;
        }
        self.policy.caching.has_credentials(request) || self.policy.cookies.any_counts(request)
    }

    /// The key of the variant of `key` that a request with `headers` selects.
    pub(super) fn variant_key(&self, key: &Key, fields: &VaryFields, headers: &HeaderMap) -> Key {
        let mut selector = Vec::with_capacity(64);
        let headers = &*self.policy.cookies.that_count(headers);
        for value in fields.selecting_values(headers, &self.policy.caching.normalization) {
            match value {
                // Absent and empty differ.
                None => selector.push(0),
                Some(value) => {
                    selector.push(1);
                    selector.extend_from_slice(&(value.len() as u64).to_be_bytes());
                    selector.extend_from_slice(&value);
                }
            }
        }
        key.variant(&selector)
    }

    pub(super) fn directives(&self, headers: &HeaderMap) -> RequestDirectives {
        let directives = RequestDirectives::from_headers(headers, self.policy.caching.request_directives);
        if self.policy.refresh { directives.refreshing() } else { directives }
    }

    /// The `Cache-Status` of a request that went to the application.
    pub(super) fn status_of_miss(&self, why: ForwardReason, not_stored: Option<NoCacheReason>) -> HeaderValue {
        let status = || annotate::status_of_miss(&self.signature, why, not_stored);
        match (why, not_stored) {
            (ForwardReason::UriMiss, None) => self.usual_status.get_or_init(status).clone(),
            _ => status(),
        }
    }

    /// Runs a handler as part of these loads; if responses inherit, the response gets the reads of its handler.
    pub(super) fn with_reads<R, E>(
        &self,
        enclosing: EnclosingLoads,
        handler: impl Future<Output = Result<Response<R>, E>>,
    ) -> impl Future<Output = Result<Response<R>, E>> {
        let handler = within(enclosing, handler);
        if !self.policy.inherits {
            return Either::Left(handler);
        }
        // In a box, so that the future of a load that inherits nothing is the smaller for it.
        Either::Right(Box::pin(async {
            let (result, reads) = inherit::collect(handler).await;
            result.map(|mut response| {
                response.extensions_mut().insert(reads);
                response
            })
        }))
    }
}

/// Runs the application for a request, or reads its response, as part of these loads: what it loads itself of their caches needs no
/// places of its own.
pub(super) fn within<T>(enclosing: EnclosingLoads, handler: impl Future<Output = T>) -> impl Future<Output = T> {
    if enclosing.is_empty() {
        return Either::Left(handler);
    }
    // Boxed, so that the future of a load without a limit stays small.
    Either::Right(Box::pin(enclosing.hold(handler)))
}

/// As [`within`], for a step that does not wait.
pub(super) fn at_once_within<T>(enclosing: &EnclosingLoads, step: impl FnOnce() -> T) -> T {
    if enclosing.is_empty() { step() } else { enclosing.clone().hold_at_once(step) }
}
