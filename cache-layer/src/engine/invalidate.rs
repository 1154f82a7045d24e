//! Invalidation: of a key, by tags, by a pattern, or of everything; hard or soft.

use std::{
    fmt,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::runtime::Handle;
use tracing::Instrument as _;

use super::cache::Cache;
use crate::{
    key::Key,
    pattern::Pattern,
    store::{BoxFuture, Extent, Hardness, Invalidated, OwnedScope, Scope, StoreError},
    tag::Tags,
    telemetry::{Covers, Event, InvalidationKind, Named},
};

/// What an invalidation covers, and whether it makes entries void or stale.
#[derive(Clone, Copy, Debug)]
struct Invalidation<'a> {
    scope: Scope<'a>,
    hardness: Hardness,
}

/// An invalidation that the store has begun, and whose end is reported once: by the caller that waits for it, or if that leaves,
/// by a task in its place.
struct Begun {
    cache: Cache,
    /// What it covers, and the store's result; `None` once that is reported.
    left: Option<(OwnedScope, BoxFuture<'static, Result<Invalidated, StoreError>>)>,
    hardness: Hardness,
}

impl Future for Begun {
    type Output = Result<Invalidated, InvalidateError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some((_, result)) = &mut self.left else { return Poll::Pending };
        let result = ready!(result.as_mut().poll(context));
        let Some((scope, _)) = self.left.take() else { return Poll::Pending };
        Poll::Ready(self.cache.delivered(result, scope.borrow(), self.hardness))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some((scope, mut result)) = self.left.take() else { return };
        let (cache, hardness) = (self.cache.clone(), self.hardness);
        let at_once = result.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(result) = at_once {
            let _ = cache.delivered(result, scope.borrow(), hardness);
        } else if let Ok(runtime) = Handle::try_current() {
            let report = async move { drop(cache.delivered(result.await, scope.borrow(), hardness)) };
            runtime.spawn(report.in_current_span());
        }
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
        let pattern = Pattern::new(pattern);
        self.begin(Invalidation { scope: Scope::Pattern(&pattern), hardness }).await.map(drop)
    }

    /// Deletes the matching entries, and counts them.
    pub(super) async fn sweep_pattern(&self, pattern: &str) -> Result<u64, InvalidateError> {
        self.0.invalidations.fetch_add(1, Ordering::SeqCst);
        let pattern = Pattern::new(pattern);
        let deleted = self.0.store.delete_matching(&pattern);
        let left = Some((OwnedScope::Pattern(pattern), deleted));
        Begun { cache: self.clone(), left, hardness: Hardness::Hard }.await.map(|swept| swept.deleted)
    }

    /// Invalidates everything that carries one of `tags`, and these keys, such as those of a URI, with one result.
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
        self.begin(Invalidation { scope: Scope::Key(&self.named(key)), hardness }).await.map(drop)
    }

    pub(super) async fn run_on_all(&self, hardness: Hardness) -> Result<(), InvalidateError> {
        self.begin(Invalidation { scope: Scope::Everything, hardness }).await.map(drop)
    }

    pub(super) async fn run_on_tags(&self, tags: &Tags, hardness: Hardness) -> Result<(), InvalidateError> {
        if tags.is_empty() {
            return Ok(());
        }
        self.begin(Invalidation { scope: Scope::Tags(tags), hardness }).await.map(drop)
    }

    /// Begins an invalidation, which is under way from here on, whether its result is waited for or not.
    fn begin(&self, Invalidation { scope, hardness }: Invalidation<'_>) -> Begun {
        self.0.invalidations.fetch_add(1, Ordering::SeqCst);
        let result = self.0.store.invalidate(scope, hardness);
        Begun { cache: self.clone(), left: Some((scope.to_owned(), result)), hardness }
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

    /// The end of an invalidation: what was learned of the loads that a hard one covers is forgotten, and observers are told what the
    /// store has made of it.
    fn delivered(
        &self,
        result: Result<Invalidated, StoreError>,
        scope: Scope<'_>,
        hardness: Hardness,
    ) -> Result<Invalidated, InvalidateError> {
        let extent = result.as_ref().map_or(Extent::default(), |invalidated| invalidated.extent);
        let covered = if extent.everything { Scope::Everything } else { scope };
        let hardness = if extent.hard { Hardness::Hard } else { hardness };
        if hardness == Hardness::Hard {
            // Before that: what is learned of a load that began in between is older than the invalidation, too.
            self.0.invalidations.fetch_add(1, Ordering::SeqCst);
            self.forget_what_was_learned(covered);
        }
        let (kind, hardened) = (InvalidationKind::from(covered), extent != Extent::default());
        let (soft, delivered) = (hardness.is_soft(), result.is_ok());
        let covers = match scope {
            Scope::Key(key) => Covers::Key(key),
            Scope::Tags(tags) => Covers::Tags(tags),
            Scope::Pattern(pattern) => Covers::Pattern(pattern.as_str()),
            Scope::Everything => Covers::All,
        };
        let over = Duration::from_millis(hardness.window());
        self.emit(Event::Invalidation { kind, soft, delivered, hardened });
        self.0.telemetry.name(&Named::Invalidation { covers, soft, over, delivered, hardened });
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

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::poll;

    use super::*;
    use crate::{
        store::TestStore,
        telemetry::{InvalidationKind, Observer},
    };

    /// The invalidations that were reported, with whether they were delivered.
    #[derive(Clone, Default)]
    struct Reported(Arc<Mutex<Vec<(InvalidationKind, bool)>>>);

    impl Observer for Reported {
        fn observe(&self, event: Event) {
            if let Event::Invalidation { kind, delivered, .. } = event {
                self.0.lock().unwrap().push((kind, delivered));
            }
        }
    }

    fn slow() -> (Cache, TestStore, Reported) {
        let (store, reported) = (TestStore::new(), Reported::default());
        store.delay(Duration::from_millis(100)..=Duration::from_millis(100));
        (Cache::builder(store.clone()).observer(reported.clone()).build(), store, reported)
    }

    #[tokio::test(start_paused = true)]
    async fn an_invalidation_is_reported_once_whether_its_caller_waits_or_leaves() {
        for leaves in [false, true] {
            let (cache, store, reported) = slow();
            for away in [false, true] {
                if away {
                    store.disconnect();
                }
                let (key, tags) = (Key::new(["k"]), Tags::new(["t"]));
                let uri = cache.run_on_uri(&tags, std::slice::from_ref(&key), Hardness::Hard);
                let (tag, pattern) = (cache.invalidate_tag("t"), cache.run_on_pattern("https://a/*", Hardness::Soft));
                let (all, swept) = (cache.invalidate_all(), cache.sweep_pattern("k*"));
                let mut calls = Box::pin(async move { tokio::join!(uri, tag, pattern, all, swept) });
                if leaves {
                    assert!(poll!(&mut calls).is_pending());
                    drop(calls);
                } else {
                    let _ = calls.await;
                }
                // Longer than they take.
                tokio::time::sleep(Duration::from_secs(2)).await;
                let mut events = std::mem::take(&mut *reported.0.lock().unwrap());
                events.sort_by_key(|(kind, _)| kind.as_str());
                let kinds = [
                    InvalidationKind::All,
                    InvalidationKind::Key,
                    InvalidationKind::Pattern,
                    InvalidationKind::Pattern,
                    InvalidationKind::Tag,
                    InvalidationKind::Tag,
                ];
                assert_eq!(events, kinds.map(|kind| (kind, !away)), "leaves: {leaves}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_parts_of_one_target_are_invalidated_at_one_time() {
        let (cache, _, reported) = slow();
        let keys: Vec<Key> = (0..20).map(|number| Key::new([format!("{number}")])).collect();
        let began = tokio::time::Instant::now();
        cache.run_on_uri(&Tags::new(["t"]), &keys, Hardness::Hard).await.unwrap();
        assert_eq!(reported.0.lock().unwrap().len(), 21);
        // By a clock that only runs while all wait.
        assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    }
}
