//! The public calls for soft invalidation: at once, or over a window.

use std::{fmt, pin::Pin, time::Duration};

use super::{cache::Cache, invalidate::InvalidateError};
use crate::{key::Key, store::Hardness, tag::Tags};

/// A soft invalidation, from [`Cache::soft_invalidate`] and the like; await it to run it.
///
/// ```
/// # use std::time::Duration;
/// # use cache_layer::{Cache, store::MemoryStore};
/// # async fn example() -> Result<(), cache_layer::InvalidateError> {
/// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
/// // A new release has been deployed: its pages replace the old ones within a minute, but not all at one moment.
/// cache.soft_invalidate_tag("pages").over(Duration::from_secs(60)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "nothing is invalidated until it is awaited"]
pub struct SoftInvalidation<T = ()> {
    cache: Cache,
    part: Part,
    window: Duration,
    /// The value to return once it is delivered.
    value: T,
}

#[derive(Clone)]
enum Part {
    Key(Key),
    Tags(Tags),
    Pattern(String),
    /// All that is stored for a URI.
    Uri(Tags, Vec<Key>),
    All,
}

impl Cache {
    /// Makes the entry of `key`, with all its variants, stale at once, or [over a window](SoftInvalidation::over). The entry is
    /// then treated as if its freshness had ended now: while it may be used stale, it is used while it is loaded again;
    /// otherwise it is validated first. Its validators are kept, so that the application can answer that nothing has changed.
    ///
    /// Loads that began before are not stored, as with [`invalidate`](Self::invalidate). The first variant that is loaded
    /// again invalidates the others.
    ///
    /// # Errors
    ///
    /// As for [`invalidate`](Self::invalidate); if the invalidation is kept to be retried, it is retried as a hard one.
    pub fn soft_invalidate(&self, key: &Key) -> SoftInvalidation {
        self.softening(Part::Key(key.clone()))
    }

    /// Makes every entry that carries `tag` stale, as [`soft_invalidate`](Self::soft_invalidate) does, at the cost of one
    /// small write.
    ///
    /// ```
    /// # use cache_layer::{Cache, store::MemoryStore};
    /// # async fn example() -> Result<(), cache_layer::InvalidateError> {
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// // Prices may be some seconds old: no request has to wait for the new ones.
    /// cache.soft_invalidate_tag("prices").await?;
    /// // A withdrawn product may not be shown again.
    /// cache.invalidate_tag("product:42").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`soft_invalidate`](Self::soft_invalidate).
    pub fn soft_invalidate_tag(&self, tag: &str) -> SoftInvalidation {
        self.soft_invalidate_tags([tag])
    }

    /// Makes every entry that carries one of `tags` stale, in one round trip.
    ///
    /// # Errors
    ///
    /// As for [`soft_invalidate`](Self::soft_invalidate).
    pub fn soft_invalidate_tags<T: AsRef<str>>(&self, tags: impl IntoIterator<Item = T>) -> SoftInvalidation {
        self.softening(Part::Tags(Tags::new(tags)))
    }

    /// Makes every entry stale.
    ///
    /// # Errors
    ///
    /// As for [`soft_invalidate`](Self::soft_invalidate).
    pub fn soft_invalidate_all(&self) -> SoftInvalidation {
        self.softening(Part::All)
    }

    /// Makes every entry whose key matches `pattern` stale, with its variants. See [`delete_pattern`](Self::delete_pattern) for
    /// patterns, and for how the entries are found.
    ///
    /// # Errors
    ///
    /// As for [`soft_invalidate`](Self::soft_invalidate); if the call is kept to be retried, it is retried as a deletion. Redis
    /// users need the permission to `SCAN`; without it, everything is invalidated.
    pub fn soft_invalidate_pattern(&self, pattern: &str) -> SoftInvalidation {
        self.softening(Part::Pattern(pattern.to_owned()))
    }

    /// The soft invalidation of a URI: of these tags, and of each of these keys. `known` says whether the URI has a host.
    pub(crate) fn soft_invalidate_uri(&self, tags: Tags, keys: Vec<Key>, known: bool) -> SoftInvalidation<bool> {
        SoftInvalidation { cache: self.clone(), part: Part::Uri(tags, keys), window: Duration::ZERO, value: known }
    }

    fn softening(&self, part: Part) -> SoftInvalidation {
        SoftInvalidation { cache: self.clone(), part, window: Duration::ZERO, value: () }
    }
}

impl<T> SoftInvalidation<T> {
    /// Spreads the invalidation over `window`, a week at most; it is at once unless set. Each key has a turn within the window,
    /// given by a hash, so that it is the same in all processes. Until that turn, the entry keeps its freshness; then it is
    /// stale. So the loads that follow are spread over the window instead of coming all at once: for deployments and imports.
    ///
    /// - When the window is over, no covered entry is fresh any more, by the clocks of the processes, which are assumed to
    ///   agree, as for all freshness.
    /// - Loads that began before the call are not stored. Entries that are loaded after it are not covered, whenever their
    ///   key's turn is.
    /// - A second call before the first window is over also covers entries that were loaded in between. For entries that both
    ///   calls cover, the earlier turn counts: a stale entry stays stale, and no entry is fresh after the first window that
    ///   became stale in it. Up to 32 windows of one tag are tracked; of more, the two closest are merged so that no key's
    ///   turn becomes later.
    /// - A soft invalidation without a window ends all windows under way, at once; so does a hard one.
    /// - If Redis loses the tag's token, the entries that carried it are invalid, as always.
    ///
    /// For a key or a pattern, turns are in whole seconds, and a window of less than two seconds is at once.
    pub fn over(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }
}

impl<T: Send + 'static> IntoFuture for SoftInvalidation<T> {
    type Output = Result<T, InvalidateError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { cache, part, window, value } = self;
        let hardness = if window.is_zero() { Hardness::Soft } else { Hardness::Ramp(window) };
        Box::pin(async move {
            match part {
                Part::Key(key) => cache.run_on_key(&key, hardness).await?,
                Part::Tags(tags) => cache.run_on_tags(&tags, hardness).await?,
                Part::Pattern(pattern) => cache.run_on_pattern(&pattern, hardness).await?,
                Part::Uri(tags, keys) => cache.run_on_uri(&tags, &keys, hardness).await?,
                Part::All => cache.run_on_all(hardness).await?,
            }
            Ok(value)
        })
    }
}

impl<T> fmt::Debug for SoftInvalidation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftInvalidation").field("window", &self.window).finish_non_exhaustive()
    }
}
