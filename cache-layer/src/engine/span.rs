//! A look-up and a load, as traces and observers see them.
//!
//! Their spans are at level `DEBUG`, and their fields are named by the conventions of OpenTelemetry; an
//! exporter derives kind, name and links from them. Without a subscriber, each call here costs one comparison.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{Span, debug_span, field::Empty};

use super::{cache::Cache, flight::Follower};
use crate::{
    entry::Entry,
    key::Key,
    telemetry::{EntryTags, Event, LookupEvent, LookupResult, Named, NoCacheReason, Release, Tier, WaitScope},
};

/// A look-up under way. It ends when this is dropped: as a miss, unless another result was recorded.
pub(crate) struct LookupSpan {
    span: Span,
    observed: Option<Observed>,
    result: LookupResult,
    tier: Tier,
    age: Option<Duration>,
    saved: Duration,
    reason: Option<NoCacheReason>,
    /// The application's route that matched the request, if that is known.
    route: Option<Box<str>>,
}

/// What is reported to the observer at the end, and to what counts what answers, if that is wanted.
struct Observed {
    cache: Cache,
    began: Instant,
    /// Boxed: a look-up that goes on to a load passes through several steps.
    names: Option<Box<Names>>,
}

/// What is reported to an observer that wants names.
struct Names {
    key: Key,
    /// The entry that answered, if it has tags.
    entry: Option<Entry>,
    /// The rule for the request, if there is one.
    rule: Option<Arc<str>>,
}

impl Cache {
    /// Begins a traced look-up of `key`.
    pub(crate) fn lookup_span(&self, key: &Key) -> LookupSpan {
        let name = &*self.0.name;
        let span = debug_span!(
            "cache.get",
            otel.name = %format_args!("cache.get {name}"),
            cache.name = name,
            cache.key = Empty,
            cache.hit = Empty,
            cache_layer.key_hash = Empty,
            cache_layer.result = Empty,
            cache_layer.tier = Empty,
            cache_layer.age = Empty,
            cache_layer.reason = Empty,
            cache_layer.wait_ms = Empty,
        );
        self.name_key(&span, key);
        self.begin_lookup(span, Some(key))
    }

    /// Begins a look-up that is traced by `span`, if the span is enabled.
    #[cfg(feature = "typed")]
    pub(crate) fn lookup_span_in(&self, span: Span) -> LookupSpan {
        self.begin_lookup(span, None)
    }

    fn begin_lookup(&self, span: Span, key: Option<&Key>) -> LookupSpan {
        let named = |key: &Key| Box::new(Names { key: key.clone(), entry: None, rule: None });
        LookupSpan {
            span,
            observed: self.0.hears_lookups.then(|| Observed {
                cache: self.clone(),
                began: Instant::now(),
                names: key.filter(|_| self.0.telemetry.wants_names()).map(named),
            }),
            result: LookupResult::Miss,
            tier: Tier::None,
            age: None,
            saved: Duration::ZERO,
            reason: None,
            route: None,
        }
    }

    /// The span of many lookups.
    #[cfg(feature = "typed")]
    pub(crate) fn batch_span(&self, keys: usize) -> Span {
        let name = &*self.0.name;
        let keys = i64::try_from(keys).unwrap_or(i64::MAX);
        debug_span!("cache.get", otel.name = %format_args!("cache.get {name}"), cache.name = name, cache_layer.keys = keys)
    }

    /// The span of the load of many keys, within that of their lookups.
    #[cfg(feature = "typed")]
    pub(crate) fn batch_load_span(&self, keys: usize, lookups: &Span) -> Span {
        let name = &*self.0.name;
        let keys = i64::try_from(keys).unwrap_or(i64::MAX);
        lookups.in_scope(|| {
            debug_span!(
                "cache.load",
                otel.name = %format_args!("cache.load {name}"),
                cache.name = name,
                cache_layer.keys = keys,
                cache_layer.reason = Empty,
            )
        })
    }

    /// The span of a load that `lookup` waits for.
    pub(crate) fn load_span(&self, key: &Key, lookup: &LookupSpan) -> Span {
        let name = &*self.0.name;
        let span = lookup.span.in_scope(|| {
            debug_span!(
                "cache.load",
                otel.name = %format_args!("cache.load {name}"),
                cache.name = name,
                cache.key = Empty,
                cache_layer.key_hash = Empty,
                cache_layer.reason = Empty,
            )
        });
        self.name_key(&span, key);
        span
    }

    /// The span of a load in the background: `lookup` caused it, and doesn't wait for it.
    pub(crate) fn background_span(&self, key: &Key, lookup: &LookupSpan) -> Span {
        let name = &*self.0.name;
        let span = debug_span!(
            parent: None,
            "cache.load",
            otel.name = %format_args!("cache.load {name}"),
            cache.name = name,
            cache.key = Empty,
            cache_layer.key_hash = Empty,
            cache_layer.reason = Empty,
        );
        span.follows_from(&lookup.span);
        self.name_key(&span, key);
        span
    }

    /// The key for a log: in readable form only if [traces](crate::CacheBuilder::keys_in_traces) have it so. It may contain one
    /// client's cookies, or a credential.
    #[cfg(feature = "typed")]
    pub(crate) fn key_for_logs(&self, key: &Key) -> String {
        if self.0.keys_in_traces { key.readable() } else { key.digest() }
    }

    fn name_key(&self, span: &Span, key: &Key) {
        if span.is_disabled() {
            return;
        }
        if self.0.keys_in_traces {
            span.record("cache.key", key.readable());
        } else {
            let digest = u128::from_be_bytes(key.id().primary);
            span.record("cache_layer.key_hash", format!("{digest:032x}"));
        }
    }
}

impl LookupSpan {
    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Records that an answer was found, or came with another request's load.
    pub(crate) fn found(&mut self, result: LookupResult) {
        self.result = result;
    }

    /// Records the tier in which the entry was found.
    pub(crate) fn at(&mut self, tier: Tier) {
        self.tier = tier;
    }

    /// Records the entry that answers, and its age, which is computed only for an observer or a trace.
    pub(crate) fn answered_by(&mut self, entry: &Entry, age: impl FnOnce() -> Option<Duration>) {
        if self.observed.is_none() && self.span.is_disabled() {
            return;
        }
        (self.age, self.saved) = (age(), Duration::from_millis(entry.load_time()));
        let Some(observed) = &mut self.observed else { return };
        if let Some(names) = observed.names.as_mut().filter(|_| !entry.stamps().is_empty()) {
            names.entry = Some(entry.clone());
        }
        if let Some(hot) = observed.cache.0.hot.as_ref().filter(|_| self.result.is_hit()) {
            hot.hit(entry);
        }
    }

    /// Records the request's route, if there is an observer, and the rule that applies to the request, if the observer wants names.
    pub(crate) fn came_by(&mut self, route: impl FnOnce() -> Option<Box<str>>, rule: Option<&Arc<str>>) {
        if let Some(observed) = &mut self.observed {
            self.route = route();
            if let Some(names) = &mut observed.names {
                names.rule = rule.cloned();
            }
        }
    }

    pub(crate) fn because(&mut self, reason: NoCacheReason) {
        self.reason = Some(reason);
    }

    /// Records that the request is not looked up.
    pub(crate) fn bypassed(&mut self, reason: NoCacheReason) {
        self.observed = None;
        self.span.record("cache.hit", false);
        self.span.record("cache_layer.result", "bypass");
        self.span.record("cache_layer.reason", reason.as_str());
        self.span = Span::none();
    }

    /// Records that the store didn't answer.
    pub(crate) fn unavailable(&mut self) {
        self.result = LookupResult::Error;
        self.reason = Some(NoCacheReason::StoreUnavailable);
    }

    /// Begins to wait for the load that `follower` is on.
    pub(crate) fn wait_for(&self, follower: &Follower) -> Wait {
        if !self.span.is_disabled() {
            self.span.follows_from(follower.load());
        }
        Wait {
            span: self.span.clone(),
            observed: self.observed.as_ref().map(|observed| observed.cache.clone()),
            began: Instant::now(),
        }
    }
}

impl Drop for LookupSpan {
    fn drop(&mut self) {
        let Self { span, observed, result, tier, age, saved, reason, route } = self;
        let (hit, tier) = (result.is_hit(), if result.is_hit() { *tier } else { Tier::None });
        let (age, saved) = if hit { (*age, *saved) } else { (None, Duration::ZERO) };
        if !span.is_disabled() {
            span.record("cache.hit", hit);
            span.record("cache_layer.result", result.as_str());
            span.record("cache_layer.tier", tier.as_str());
            if let Some(age) = age {
                span.record("cache_layer.age", i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
            }
            if let Some(reason) = reason {
                span.record("cache_layer.reason", reason.as_str());
            }
        }
        if let Some(Observed { cache, began, names }) = observed {
            let telemetry = &cache.0.telemetry;
            let event = LookupEvent { result: *result, tier, duration: began.elapsed(), age, saved };
            telemetry.emit_lookup(event, route.as_deref());
            if let Some(Names { key, entry, rule }) = names.as_deref() {
                let (route, rule) = (route.as_deref(), rule.as_deref());
                let tags = EntryTags(entry.as_ref().filter(|_| hit).map(Entry::stamps).unwrap_or_default());
                telemetry.name(&Named::Lookup { key, event, reason: *reason, route, rule, tags });
            }
        }
    }
}

/// A wait for another request's load.
pub(crate) struct Wait {
    span: Span,
    observed: Option<Cache>,
    began: Instant,
}

impl Wait {
    pub(crate) fn ended(self, release: Release) {
        let duration = self.began.elapsed();
        self.span.record("cache_layer.wait_ms", i64::try_from(duration.as_millis()).unwrap_or(i64::MAX));
        if let Some(cache) = self.observed {
            cache.emit(Event::Waited { scope: WaitScope::Process, release, duration });
        }
    }
}

/// Records in the span of the running load why its result is not stored.
pub(crate) fn not_kept(reason: NoCacheReason) {
    let span = Span::current();
    if span.metadata().is_some_and(|metadata| metadata.name() == "cache.load") {
        span.record("cache_layer.reason", reason.as_str());
    }
}

#[cfg(all(test, feature = "memory", feature = "typed"))]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[test]
    fn a_log_names_a_key_only_if_traces_do() {
        let key = Key::new(["secret"]);
        for (named, expected) in [(false, key.digest()), (true, "secret".to_owned())] {
            let cache = Cache::builder(MemoryStore::new(1 << 20)).keys_in_traces(named).build();
            assert_eq!(cache.key_for_logs(&key), expected);
        }
    }
}
