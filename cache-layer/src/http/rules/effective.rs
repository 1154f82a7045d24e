//! The effective settings of a request: those of the rule that applies, over the layer's.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use http::{HeaderMap, Method};

use super::{
    rule::Rule,
    set::{RuleSet, Rules, Unclear},
};
use crate::{
    http::{
        context::{Context, Generation},
        hints::Hints,
        range_memory::RangeMemory,
        target::{Affected, KeyRules, Target},
    },
    key::Key,
    switches::Switch,
    sync::RwLock,
    telemetry::NoCacheReason,
};

/// A layer's settings with its rules applied.
#[derive(Debug)]
pub(in crate::http) struct RuledContexts {
    base: Arc<Context>,
    rules: Rules,
    /// Whether the rules are the layer's own: without any, it has an empty set, which nothing replaces.
    has_rules: bool,
    /// The generation of the rules.
    generation: Arc<AtomicU64>,
    current: RwLock<Arc<Ruling>>,
}

/// A layer's settings under one set of rules.
#[derive(Debug)]
struct Ruling {
    base: Arc<Context>,
    set: Arc<RuleSet>,
    /// The settings under each rule, made when the first request needs them.
    contexts: Box<[OnceLock<Arc<Context>>]>,
}

/// A layer's settings with its rules applied, as one clone of a service has them.
#[derive(Clone, Debug)]
pub(in crate::http) struct Ruled {
    contexts: Arc<RuledContexts>,
    /// The rules as of the last [`keep_up`](Self::keep_up).
    known: Arc<Ruling>,
}

impl Ruled {
    pub(in crate::http) fn new(contexts: Arc<RuledContexts>) -> Self {
        Self { known: contexts.current(), contexts }
    }

    pub(in crate::http) fn contexts(&self) -> &RuledContexts {
        &self.contexts
    }

    /// Adopts the current rules.
    pub(in crate::http) fn keep_up(&mut self) {
        if self.known.set.generation != self.contexts.generation() {
            self.known = self.contexts.current();
        }
    }

    /// The settings for a GET or HEAD, by the rules that it has [kept up](Self::keep_up) with.
    pub(in crate::http) fn context(&self, target: &Target<'_>) -> Result<&Arc<Context>, Unclear> {
        self.known.context(target, &Method::GET)
    }
}

impl RuledContexts {
    pub(in crate::http) fn new(base: Arc<Context>, rules: Option<Rules>) -> Self {
        let (has_rules, rules) = (rules.is_some(), rules.unwrap_or_default());
        let generation = rules.generation().clone();
        let current = RwLock::new(Arc::new(Ruling::new(&base, rules.current(), &generation)));
        Self { base, rules, has_rules, generation, current }
    }

    /// The generation of the rules that are in force.
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The settings under the current rules.
    fn current(&self) -> Arc<Ruling> {
        let current = self.current.read().clone();
        if current.set.generation == self.generation() { current } else { self.renewed() }
    }

    #[cold]
    fn renewed(&self) -> Arc<Ruling> {
        let mut current = self.current.write();
        let set = self.rules.current();
        // Another thread may have come first, with an older set or with this one.
        if current.set.generation < set.generation {
            // What could not be stored by the former rules may be stored by these.
            let base = Context { range_memory: RangeMemory::default(), ..Context::clone(&self.base) };
            *current = Arc::new(Ruling::new(&base, set, &self.generation));
            self.base.cache.forget_refusals();
        }
        current.clone()
    }
}

impl Ruling {
    fn new(base: &Context, set: Arc<RuleSet>, current: &Arc<AtomicU64>) -> Self {
        let generation = Some(Generation { own: set.generation, current: current.clone() });
        let base = Arc::new(Context { generation, ..base.clone() });
        let contexts = set.rules.iter().map(|_| OnceLock::new()).collect();
        Self { base, set, contexts }
    }

    fn context(&self, target: &Target<'_>, method: &Method) -> Result<&Arc<Context>, Unclear> {
        let found = self.set.find(target.host(), target.path(), method)?;
        Ok(found.map_or(&self.base, |number| self.of_rule(number)))
    }

    fn of_rule(&self, number: usize) -> &Arc<Context> {
        self.contexts[number].get_or_init(|| {
            let mut context = Context::clone(&self.base);
            self.set.rules[number].apply(&mut context.policy);
            context.rule = Some(self.set.rules[number].to_string().into());
            Arc::new(context.settled())
        })
    }
}

/// The settings for one request, and for everything that it causes: if the rules are replaced meanwhile, the new rules apply to
/// later requests only.
pub(in crate::http) struct RequestSettings {
    base: Arc<Context>,
    /// `None` if the layer has no rules.
    ruling: Option<Arc<Ruling>>,
    has_rules: bool,
    hints: Option<Hints>,
}

impl RequestSettings {
    pub(in crate::http) fn new(base: Arc<Context>, ruled: Option<&RuledContexts>, hints: Option<&Hints>) -> Self {
        let has_rules = ruled.is_some_and(|ruled| ruled.has_rules);
        Self { base, ruling: ruled.map(RuledContexts::current), has_rules, hints: hints.cloned() }
    }

    /// The settings for a request for a target. No rule applies to an unclear path.
    pub(in crate::http) fn context(&self, target: &Target<'_>, method: &Method) -> &Arc<Context> {
        let ruled = self.ruling.as_ref().and_then(|ruling| ruling.context(target, method).ok());
        ruled.unwrap_or(&self.base)
    }

    /// The rule for a request, if there is one.
    pub(in crate::http) fn rule(&self, target: &Target<'_>, method: &Method) -> Option<Rule> {
        let set = &self.ruling.as_ref()?.set;
        let number = set.find(target.host(), target.path(), method).ok()??;
        set.rules.get(number).cloned()
    }

    /// The key of the response to a GET of a target with these request fields.
    pub(in crate::http) fn key(&self, target: &Target<'_>, headers: &HeaderMap) -> Key {
        let context = self.context(target, &Method::GET);
        target.key(&context.key_rules(headers).hinted(self.hints.as_ref()))
    }

    /// The keys and tags to invalidate after a write to a target that was answered with `response`.
    pub(in crate::http) fn affected(&self, target: &Target<'_>, request: &HeaderMap, response: &HeaderMap) -> Affected {
        let mut affected = Affected::default();
        for target in target.affected(&self.base.sites, response) {
            let context = self.context(&target, &Method::GET);
            let (rules, key) = (context.key_rules(request), self.key(&target, request));
            // Under other rules, the target's key has no more parts than this: under former ones, or in a process that is yet to
            // get these.
            if self.has_rules {
                affected.keys.extend(Some(target.key_of_target(&rules)).filter(|plain| *plain != key));
            }
            affected.keys.push(key);
            // Without parts in keys beyond the target, an invalidation by tag would find nothing more.
            if context.has_tagged_targets() || self.has_rules {
                affected.tags.extend([target.tag(&rules), target.path_tag(&rules)]);
            }
        }
        affected
    }

    /// How to handle a request that is answered like a GET, under another key.
    pub(in crate::http) fn choose_with(
        self,
        target: &Target<'_>,
        headers: &HeaderMap,
        key: impl FnOnce(&KeyRules<'_>) -> Key,
    ) -> Choice {
        let ruled = self.ruling.as_ref().map_or(Ok(&self.base), |ruling| ruling.context(target, &Method::GET));
        Choice::new((&self.base, ruled), self.hints.as_ref(), headers, key)
    }
}

impl Choice {
    /// How to handle a GET or HEAD, by the settings of its rule, if there is one.
    pub(in crate::http) fn of(
        base: &Arc<Context>,
        ruled: Result<&Arc<Context>, Unclear>,
        hints: Option<&Hints>,
        target: &Target<'_>,
        headers: &HeaderMap,
    ) -> Self {
        Self::new((base, ruled), hints, headers, |rules| target.key(rules))
    }

    fn new(
        (base, ruled): (&Arc<Context>, Result<&Arc<Context>, Unclear>),
        hints: Option<&Hints>,
        headers: &HeaderMap,
        key: impl FnOnce(&KeyRules<'_>) -> Key,
    ) -> Self {
        let context = ruled.unwrap_or(base);
        let key = key(&context.key_rules(headers).hinted(hints));
        let bypass = match context.policy.bypass {
            Some(reason) => Some(reason),
            None if context.cache.is_switched(Switch::BypassReads) => Some(NoCacheReason::Switched),
            None if ruled.is_err() => Some(NoCacheReason::UnclearPath),
            None if hints.is_some_and(|hints| hints.bypass) => Some(NoCacheReason::Hint),
            None if context.policy.cookies.bypasses(headers) => Some(NoCacheReason::Cookie),
            None => None,
        };
        Self { context: hinted(context, hints), key, bypass }
    }

    /// Whether a setting may make a request bypass the cache, or verify it after it was answered.
    pub(in crate::http) fn is_to_be_judged(&self) -> bool {
        self.bypass.is_some() || self.context.detours()
    }
}

/// How to handle a request that the cache may answer.
pub(in crate::http) struct Choice {
    pub(in crate::http) context: Arc<Context>,
    pub(in crate::http) key: Key,
    /// Why the request bypasses the cache, if it does.
    pub(in crate::http) bypass: Option<NoCacheReason>,
}

/// These settings with the hints of one request applied.
fn hinted(context: &Arc<Context>, hints: Option<&Hints>) -> Arc<Context> {
    let Some(hints) = hints.filter(|hints| hints.refresh || hints.ttl.is_some()) else { return context.clone() };
    let mut context = Context::clone(context);
    hints.apply(&mut context.policy);
    Arc::new(context)
}
