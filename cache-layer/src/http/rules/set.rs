//! The rules of a layer, which may be replaced while requests run.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::Method;

use super::{
    index::Index,
    path_pattern::{PlainSegments, Segments, with_canonical_segments, with_segments},
    rule::Rule,
};
use crate::{
    error::{ConfigError, ConfigErrorKind},
    sync::Mutex,
};

/// The rules of one or more [layers](crate::CacheLayer), which can be replaced while requests run; clones share the rules.
///
/// Each request is answered by one complete set of rules. Entries that are already stored do not change: to make a shorter
/// lifetime effective at once, invalidate the entries that it is for. Change what keys are made of (`key_headers`, `key_cookies`,
/// `ignore_query`) with an invalidation, too: a write reaches what is stored for its URI by former rules, but not what these stored
/// for it under another query.
///
/// ```
/// use std::time::Duration;
/// use cache_layer::{Cache, CacheLayer, ConfigError, Rule, Rules, store::MemoryStore};
///
/// # fn main() -> Result<(), ConfigError> {
/// let rules = Rules::new([Rule::prefix("/products").ttl(Duration::from_secs(60))])?;
/// let layer = CacheLayer::new(Cache::new(MemoryStore::new(1024 * 1024))).rules(rules.clone());
///
/// // Later, when an operator changes the rules:
/// rules.replace([Rule::prefix("/products").ttl(Duration::from_secs(5))])?;
/// assert!(rules.replace([Rule::path("/products/{id")]).is_err());
/// // The former rules stay in force.
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Rules(Arc<Shared>);

#[derive(Default)]
struct Shared {
    current: Mutex<Arc<RuleSet>>,
    /// The generation of the current set; written after the set.
    generation: Arc<AtomicU64>,
}

/// One complete set of rules.
#[derive(Debug, Default)]
pub(super) struct RuleSet {
    /// Counts the sets of one [`Rules`].
    pub(super) generation: u64,
    pub(super) rules: Vec<Rule>,
    index: Index,
    /// Whether there are rules, and no path that one of them names has another spelling.
    has_one_spelling: bool,
}

impl Rules {
    /// A set of these rules, in any order.
    ///
    /// # Errors
    ///
    /// If no request can match one of them, or if two are for the same requests; the error names the first such rule.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Result<Self, ConfigError> {
        let set = Arc::new(RuleSet::new(rules, 0)?);
        Ok(Self(Arc::new(Shared { current: Mutex::new(set), generation: Arc::default() })))
    }

    /// Replaces all rules, for all requests from now on.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new). The former rules then stay in force.
    pub fn replace(&self, rules: impl IntoIterator<Item = Rule>) -> Result<(), ConfigError> {
        let mut set = RuleSet::new(rules, 0)?;
        let mut current = self.0.current.lock();
        set.generation = current.generation + 1;
        let generation = set.generation;
        *current = Arc::new(set);
        self.0.generation.store(generation, Ordering::Release);
        Ok(())
    }

    /// The current set.
    pub(super) fn current(&self) -> Arc<RuleSet> {
        self.0.current.lock().clone()
    }

    /// The generation of the current set.
    pub(super) fn generation(&self) -> &Arc<AtomicU64> {
        &self.0.generation
    }

    /// These rules and one more.
    pub(in crate::http) fn with(&self, rule: Rule) -> Result<Self, ConfigError> {
        Self::new(self.current().rules.iter().cloned().chain([rule]))
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.current().rules).finish()
    }
}

/// The application may read the path of a request as another path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct Unclear;

impl RuleSet {
    fn new(rules: impl IntoIterator<Item = Rule>, generation: u64) -> Result<Self, ConfigError> {
        let mut set = Self { generation, ..Self::default() };
        for rule in rules {
            let scope = rule.checked_scope()?;
            let has_one_spelling = scope.path.has_one_spelling();
            set.has_one_spelling = has_one_spelling && (set.has_one_spelling || set.rules.is_empty());
            set.index.insert(scope, set.rules.len()).map_err(|other| {
                let other = &set.rules[other];
                let message = format!("rule for {rule}: there is one for the same requests already, {other}");
                ConfigError::new(ConfigErrorKind::Conflict, message)
            })?;
            set.rules.push(rule);
        }
        Ok(set)
    }

    /// The number of the rule that applies to a request, if one does.
    #[inline(always)]
    pub(super) fn find<'h>(
        &self,
        host: impl FnOnce() -> &'h str,
        path: &str,
        method: &Method,
    ) -> Result<Option<usize>, Unclear> {
        match self.has_one_spelling.then(|| PlainSegments::of(path)).flatten() {
            Some(path) => Ok(self.index.find(host, path, method)),
            None => self.find_by_a_closer_look(host(), path, method),
        }
    }

    /// As [`find`](Self::find), for a path that is long, short, has what may mean something else, or may have another spelling.
    #[inline(never)]
    fn find_by_a_closer_look(&self, host: &str, path: &str, method: &Method) -> Result<Option<usize>, Unclear> {
        let find = |path: Segments<'_>| self.index.find(|| host, path, method);
        match self.has_one_spelling {
            _ if self.rules.is_empty() => Ok(None),
            true => with_segments(path, find).ok_or(Unclear),
            false => with_canonical_segments(path, find).ok_or(Unclear),
        }
    }
}
