//! Soft invalidation, as it is asked for: at once, or over a window.

use std::{fmt, pin::Pin, time::Duration};

use super::{cache::Cache, invalidate::InvalidateError};
use crate::{key::Key, store::Hardness, tag::Tags};

/// A soft invalidation that is asked for, from [`Cache::soft_invalidate`] and its like; await it.
///
/// ```
/// # use std::time::Duration;
/// # use cache_layer::{Cache, store::MemoryStore};
/// # async fn example() -> Result<(), cache_layer::InvalidateError> {
/// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
/// // A new release has been deployed: its pages replace the old ones within a minute, and not all at one moment.
/// cache.soft_invalidate_tag("pages").over(Duration::from_secs(60)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "nothing is invalidated until it is awaited"]
pub struct SoftInvalidation<T = ()> {
    cache: Cache,
    parts: Vec<Part>,
    window: Duration,
    /// What is returned once all parts are delivered.
    value: T,
}

#[derive(Clone)]
enum Part {
    Key(Key),
    Tags(Tags),
    Pattern(String),
    All,
}

impl Cache {
    /// Makes the entry of `key`, with all its variants, stale at once, or [over a window](SoftInvalidation::over): it is used as if
    /// its freshness had ended now, for no longer than it may be used stale, while it is loaded again; where it may not be used
    /// stale, it is validated first. Its validators are kept, so that the application may answer that nothing has changed.
    ///
    /// Loads that began before are dealt with as by [`invalidate`](Self::invalidate). The first variant that is loaded
    /// again voids the other ones.
    ///
    /// # Errors
    ///
    /// As for [`invalidate`](Self::invalidate); what is kept to be retried is a hard invalidation.
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
    /// // Prices may be some seconds old: nobody has to wait for the new ones.
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

    /// Makes every entry whose key matches `pattern` stale, with its variants: what
    /// [`delete_pattern`](Self::delete_pattern) says of patterns, and of what becomes of them, is true of this, too.
    ///
    /// # Errors
    ///
    /// As for [`soft_invalidate`](Self::soft_invalidate); what is kept to be retried is a deletion. Redis users need the permission
    /// to `SCAN`; without it, everything is invalidated.
    pub fn soft_invalidate_pattern(&self, pattern: &str) -> SoftInvalidation {
        self.softening(Part::Pattern(pattern.to_owned()))
    }

    /// What is done for a URI: these tags, and each of these keys. `known`: the URI names something.
    pub(crate) fn soft_invalidate_uri(&self, tags: Tags, keys: Vec<Key>, known: bool) -> SoftInvalidation<bool> {
        let parts = [Part::Tags(tags)].into_iter().chain(keys.into_iter().map(Part::Key)).collect();
        SoftInvalidation { cache: self.clone(), parts, window: Duration::ZERO, value: known }
    }

    fn softening(&self, part: Part) -> SoftInvalidation {
        SoftInvalidation { cache: self.clone(), parts: vec![part], window: Duration::ZERO, value: () }
    }
}

impl<T> SoftInvalidation<T> {
    /// Spreads it over so long, a week at most; at once unless set. Each key has its turn within the window, the same in all
    /// processes, by a hash: until then, its entry is as fresh as it was, and then it is stale. So the loads that follow come one
    /// after the other instead of all together: for deployments, and imports.
    ///
    /// - What it covers is not fresh any more once the window is over, by the clocks of the processes, which are taken to agree as
    ///   for all freshness.
    /// - Loads that began before it are not stored. What is loaded after it is not covered by it, whenever its key's turn is.
    /// - A second one before the first is over covers what has been loaded in between as well. For what both cover, the earlier
    ///   turn counts: what was stale stays so, and nothing is fresh after the first window that was to be stale in it. Up to eight of
    ///   one tag are told apart; of more, the two oldest are merged, to be no later than either.
    /// - A soft invalidation without a window ends all that are under way, at once; so does a hard one.
    /// - If Redis loses the tag's token, what carried it is void, as ever.
    ///
    /// For a key or a pattern, turns are told in whole seconds, and less than two seconds is at once.
    pub fn over(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }
}

impl<T: Send + 'static> IntoFuture for SoftInvalidation<T> {
    type Output = Result<T, InvalidateError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { cache, parts, window, value } = self;
        let hardness = if window.is_zero() { Hardness::Soft } else { Hardness::Ramp(window) };
        Box::pin(async move {
            let mut result = Ok(());
            for part in parts {
                let done = match part {
                    Part::Key(key) => cache.run_on_key(&key, hardness).await,
                    Part::Tags(tags) => cache.run_on_tags(&tags, hardness).await,
                    Part::Pattern(pattern) => cache.run_on_pattern(&pattern, hardness).await,
                    Part::All => cache.run_on_all(hardness).await,
                };
                // Each is to be tried, whatever became of the one before.
                result = done.and(result);
            }
            result.map(|()| value)
        })
    }
}

impl<T> fmt::Debug for SoftInvalidation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftInvalidation")
            .field("parts", &self.parts.len())
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
