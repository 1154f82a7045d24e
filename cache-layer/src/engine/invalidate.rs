//! Invalidation: of a key, by tags, by a pattern, or of everything; hard or soft.

use std::{fmt, sync::atomic::Ordering, time::Duration};

use super::cache::Cache;
use crate::{
    key::Key,
    pattern::Pattern,
    store::{Hardness, Scope, StoreError},
    tag::Tags,
    telemetry::{Covers, Event, InvalidationKind, Named},
};

/// What an invalidation covers, and whether it makes entries void or stale.
#[derive(Clone, Copy, Debug)]
struct Invalidation<'a> {
    scope: Scope<'a>,
    hardness: Hardness,
}

/// Forgets what this process has learned of the loads that a hard invalidation covers: once the store has the invalidation, or
/// when the caller leaves before that, since the store goes on with it.
struct Forgets<'a> {
    cache: &'a Cache,
    scope: Scope<'a>,
}

impl<'a> Forgets<'a> {
    /// `None` for a soft invalidation.
    fn of(cache: &'a Cache, Invalidation { scope, hardness }: Invalidation<'a>) -> Option<Self> {
        (hardness == Hardness::Hard).then_some(Self { cache, scope })
    }
}

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        self.cache.forget_what_was_learned(self.scope);
    }
}

impl Cache {
    /// Voids the entry of `key`, with all its variants. [`CacheLayer::key`](crate::CacheLayer::key) returns the key of a URI.
    ///
    /// Once this has returned, no load that began before it becomes visible any more. As every invalidation does, it continues
    /// even if its caller doesn't wait.
    ///
    /// # Errors
    ///
    /// If the store could not be reached: see [`InvalidateError`].
    pub async fn invalidate(&self, key: &Key) -> Result<(), InvalidateError> {
        self.run_on_key(key, Hardness::Hard).await
    }

    /// Voids every entry that carries `tag`, at the cost of one small write.
    ///
    /// # Errors
    ///
    /// As for [`invalidate`](Self::invalidate).
    pub async fn invalidate_tag(&self, tag: &str) -> Result<(), InvalidateError> {
        self.invalidate_tags([tag]).await
    }

    /// Voids every entry that carries one of `tags`, in one round trip.
    ///
    /// # Errors
    ///
    /// As for [`invalidate`](Self::invalidate).
    pub async fn invalidate_tags<T: AsRef<str>>(
        &self,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<(), InvalidateError> {
        self.run_on_tags(&Tags::new(tags), Hardness::Hard).await
    }

    /// Voids every entry.
    ///
    /// # Errors
    ///
    /// As for [`invalidate`](Self::invalidate).
    pub async fn invalidate_all(&self) -> Result<(), InvalidateError> {
        self.run_on_all(Hardness::Hard).await
    }

    /// Bans a pattern, hard or soft.
    pub(super) async fn run_on_pattern(&self, pattern: &str, hardness: Hardness) -> Result<(), InvalidateError> {
        self.0.invalidations.fetch_add(1, Ordering::SeqCst);
        let banned = Pattern::new(pattern);
        let scope = Scope::Pattern(&banned);
        let forgets = Forgets::of(self, Invalidation { scope, hardness });
        let result = self.0.store.invalidate(scope, hardness).await;
        drop(forgets);
        self.delivered(result, InvalidationKind::Pattern, hardness, Covers::Pattern(pattern))
    }

    /// Deletes the matching entries, and counts them.
    pub(super) async fn sweep_pattern(&self, pattern: &str) -> Result<u64, InvalidateError> {
        self.0.invalidations.fetch_add(1, Ordering::SeqCst);
        let swept = Pattern::new(pattern);
        let invalidation = Invalidation { scope: Scope::Pattern(&swept), hardness: Hardness::Hard };
        let forgets = Forgets::of(self, invalidation);
        let deleted = self.0.store.delete_matching(&swept).await;
        drop(forgets);
        self.delivered(deleted, InvalidationKind::Pattern, Hardness::Hard, Covers::Pattern(pattern))
    }

    /// Invalidates everything that carries one of `tags`, and these keys, with one result.
    pub(crate) async fn run_on_uri(
        &self,
        tags: &Tags,
        keys: &[Key],
        hardness: Hardness,
    ) -> Result<(), InvalidateError> {
        let keys: Vec<Key> = keys.iter().map(|key| self.named(key)).collect();
        let tags = (!tags.is_empty()).then_some(Scope::Tags(tags));
        let scopes = tags.into_iter().chain(keys.iter().map(Scope::Key));
        // All are under way before any is waited for: a caller that goes away takes back none of them.
        let begun: Vec<_> = scopes.map(|scope| self.begin(Invalidation { scope, hardness })).collect();
        let mut result = Ok(());
        for invalidated in begun {
            // Wait for each of them, even after an error.
            result = invalidated.await.and(result);
        }
        result
    }

    pub(super) async fn run_on_key(&self, key: &Key, hardness: Hardness) -> Result<(), InvalidateError> {
        self.begin(Invalidation { scope: Scope::Key(&self.named(key)), hardness }).await
    }

    pub(super) async fn run_on_all(&self, hardness: Hardness) -> Result<(), InvalidateError> {
        self.begin(Invalidation { scope: Scope::Everything, hardness }).await
    }

    pub(super) async fn run_on_tags(&self, tags: &Tags, hardness: Hardness) -> Result<(), InvalidateError> {
        if tags.is_empty() {
            return Ok(());
        }
        self.begin(Invalidation { scope: Scope::Tags(tags), hardness }).await
    }

    /// Begins an invalidation, which is under way from here on, whether its result is waited for or not.
    fn begin<'a>(&'a self, invalidation: Invalidation<'a>) -> impl Future<Output = Result<(), InvalidateError>> + 'a {
        self.0.invalidations.fetch_add(1, Ordering::SeqCst);
        let Invalidation { scope, hardness } = invalidation;
        let forgets = Forgets::of(self, invalidation);
        let invalidated = self.0.store.invalidate(scope, hardness);
        async move {
            let result = invalidated.await;
            drop(forgets);
            let covers = match scope {
                Scope::Key(key) => Covers::Key(key),
                Scope::Tags(tags) => Covers::Tags(tags),
                Scope::Pattern(pattern) => Covers::Pattern(pattern.as_str()),
                Scope::Everything => Covers::All,
            };
            self.delivered(result, scope.into(), hardness, covers)
        }
    }

    /// A new response may be cacheable, and its load may succeed.
    fn forget_what_was_learned(&self, scope: Scope<'_>) {
        match scope {
            Scope::Key(key) => self.0.recent_failures.forget(key),
            Scope::Everything => {
                self.0.recent_failures.forget_all();
                self.0.uncacheable.forget_all();
            }
            Scope::Pattern(_) => self.0.recent_failures.forget_all(),
            Scope::Tags(_) => {}
        }
    }

    fn delivered<T>(
        &self,
        result: Result<T, StoreError>,
        kind: InvalidationKind,
        hardness: Hardness,
        covers: Covers<'_>,
    ) -> Result<T, InvalidateError> {
        let (soft, delivered) = (hardness.is_soft(), result.is_ok());
        let over = Duration::from_millis(hardness.window());
        self.emit(Event::Invalidation { kind, soft, delivered });
        self.0.telemetry.name(&Named::Invalidation { covers, soft, over, delivered });
        result.map_err(InvalidateError::from)
    }
}

/// An invalidation that has not reached the store yet.
///
/// This process no longer serves what it covers. The store keeps the invalidation and delivers it before anything else
/// once it is connected again; until then, other processes may still serve what they hold. If this process ends first,
/// the invalidation is lost. A soft one is kept as a hard one; more than 10,000 keys and tags, or 64 patterns, that are
/// kept are merged into one of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidateError(StoreError);

impl From<StoreError> for InvalidateError {
    fn from(error: StoreError) -> Self {
        Self(error)
    }
}

impl fmt::Display for InvalidateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the invalidation is kept and will be retried: {}", self.0)
    }
}

impl std::error::Error for InvalidateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}
