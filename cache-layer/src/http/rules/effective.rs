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
struct RuledContexts {
    base: Arc<Context>,
    rules: Rules,
    /// Whether the rules are the layer's own: without any, it has an empty set, which nothing replaces.
    has_rules: bool,
    /// The generation of the rules.
    generation: Arc<AtomicU64>,
    /// The settings under the rules that the layer was made with.
    first: Ruling,
    /// Those under the rules that have replaced them.
    newer: RwLock<Option<Arc<Ruling>>>,
}

/// A layer's settings under one set of rules.
#[derive(Debug)]
struct Ruling {
    base: Arc<Context>,
    set: Arc<RuleSet>,
    /// The settings under each rule, made when the first request needs them.
    contexts: Box<[OnceLock<Arc<Context>>]>,
}

/// A layer's settings with its rules applied, as one clone of a service has them. As long as the rules are those that the layer
/// was made with, a clone is one count more, as it is without rules.
#[derive(Clone, Debug)]
pub(in crate::http) struct Ruled {
    contexts: Arc<RuledContexts>,
    /// The rules as of the last [`keep_up`](Self::keep_up), if they are not the first ones.
    newer: Option<Arc<Ruling>>,
}

impl Ruled {
    /// The layer's settings under its current rules.
    pub(in crate::http) fn new(base: Arc<Context>, rules: Option<Rules>) -> Self {
        let (has_rules, rules) = (rules.is_some(), rules.unwrap_or_default());
        let generation = rules.generation().clone();
        let first = Ruling::new(&base, rules.current(), &generation);
        let contexts = RuledContexts { base, rules, has_rules, generation, first, newer: RwLock::default() };
        Self { contexts: Arc::new(contexts), newer: None }
    }

    /// The layer's settings, without its rules.
    #[inline(always)]
    pub(in crate::http) fn base(&self) -> &Arc<Context> {
        &self.contexts.base
    }

    #[inline(always)]
    fn known(&self) -> &Ruling {
        self.newer.as_deref().unwrap_or(&self.contexts.first)
    }

    /// Adopts the current rules.
    #[inline(always)]
    pub(in crate::http) fn keep_up(&mut self) {
        if self.contexts.has_rules && self.known().set.generation != self.contexts.generation() {
            self.newer = Some(self.contexts.newer());
        }
    }

    /// The same, with the current rules.
    fn kept_up(mut self) -> Self {
        self.keep_up();
        self
    }

    /// The settings for a request, by the rules that it has [kept up](Self::keep_up) with.
    #[inline(always)]
    pub(in crate::http) fn context(&self, target: &Target<'_>, method: &Method) -> Result<&Arc<Context>, Unclear> {
        self.known().context(target, method)
    }
}

impl RuledContexts {
    /// The generation of the rules that are in force.
    #[inline(always)]
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The settings under the current rules, which are not the first ones.
    #[cold]
    fn newer(&self) -> Arc<Ruling> {
        let known = self.newer.read().clone();
        match known.filter(|known| known.set.generation == self.generation()) {
            Some(known) => known,
            None => self.renewed(),
        }
    }

    fn renewed(&self) -> Arc<Ruling> {
        let mut newer = self.newer.write();
        let set = self.rules.current();
        match &*newer {
            // Another thread has come first, with this set or with a later one.
            Some(known) if known.set.generation >= set.generation => known.clone(),
            _ => {
                // What could not be stored by the former rules may be stored by these.
                let base = Context { range_memory: RangeMemory::default(), ..Context::clone(&self.base) };
                let renewed = newer.insert(Arc::new(Ruling::new(&base, set, &self.generation))).clone();
                self.base.cache.forget_refusals();
                renewed
            }
        }
    }
}

impl Ruling {
    fn new(base: &Context, set: Arc<RuleSet>, current: &Arc<AtomicU64>) -> Self {
        let generation = Some(Generation { own: set.generation, current: current.clone() });
        let base = Arc::new(Context { generation, ..base.clone() });
        let contexts = set.rules.iter().map(|_| OnceLock::new()).collect();
        Self { base, set, contexts }
    }

    #[inline(always)]
    fn context(&self, target: &Target<'_>, method: &Method) -> Result<&Arc<Context>, Unclear> {
        if self.contexts.is_empty() {
            return Ok(&self.base);
        }
        let found = self.set.find(|| target.host(), target.path(), method)?;
        Ok(found.map_or(&self.base, |number| self.of_rule(number)))
    }

    #[inline(always)]
    fn of_rule(&self, number: usize) -> &Arc<Context> {
        self.contexts[number].get().unwrap_or_else(|| self.made_for(number))
    }

    #[cold]
    fn made_for(&self, number: usize) -> &Arc<Context> {
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
    ruled: Option<Ruled>,
    hints: Option<Hints>,
}

impl RequestSettings {
    pub(in crate::http) fn new(base: Arc<Context>, ruled: Option<Ruled>, hints: Option<&Hints>) -> Self {
        Self { base, ruled: ruled.map(Ruled::kept_up), hints: hints.cloned() }
    }

    /// The settings for a request for a target. No rule applies to an unclear path.
    pub(in crate::http) fn context(&self, target: &Target<'_>, method: &Method) -> &Arc<Context> {
        let ruled = self.ruled.as_ref().and_then(|ruled| ruled.context(target, method).ok());
        ruled.unwrap_or(&self.base)
    }

    /// The rule for a request, if there is one.
    pub(in crate::http) fn rule(&self, target: &Target<'_>, method: &Method) -> Option<Rule> {
        let set = &self.ruled.as_ref()?.known().set;
        let number = set.find(|| target.host(), target.path(), method).ok()??;
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
        let has_rules = self.ruled.as_ref().is_some_and(|ruled| ruled.contexts.has_rules);
        for target in target.affected(&self.base.sites, response) {
            let context = self.context(&target, &Method::GET);
            let (rules, key) = (context.key_rules(request), self.key(&target, request));
            // Under other rules, the target's key has no more parts than this: under former ones, or in a process that is yet to
            // get these.
            if has_rules {
                affected.keys.extend(Some(target.key_of_target(&rules)).filter(|plain| *plain != key));
            }
            affected.keys.push(key);
            // Without parts in keys beyond the target, an invalidation by tag would find nothing more.
            if context.has_tagged_targets() || has_rules {
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
        let ruled = self.ruled.as_ref().map_or(Ok(&self.base), |ruled| ruled.context(target, &Method::GET));
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

    /// Whether a setting makes a request bypass the cache, or may do so.
    pub(in crate::http) fn is_to_be_judged(&self) -> bool {
        self.bypass.is_some() || self.context.policy.bypass_if.is_some()
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
