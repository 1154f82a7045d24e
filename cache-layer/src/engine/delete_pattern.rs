//! Deletion by pattern, as it is asked for: said at once, or done and counted.

use std::{fmt, pin::Pin};

use super::{cache::Cache, invalidate::InvalidateError};
use crate::store::Hardness;

/// A deletion by pattern that is asked for, from [`Cache::delete_pattern`]; await it, or have it [counted](Self::counted).
#[derive(Clone)]
#[must_use = "nothing is deleted until it is awaited"]
pub struct DeletePattern {
    cache: Cache,
    pattern: String,
}

impl Cache {
    /// Voids every entry whose key matches `pattern`, with its variants, at the cost of one small write however many there are.
    ///
    /// A key is compared as people read it: its parts one after another, so `Key::new(["products:", "list:", "2"])` is
    /// matched by `products:list:*`, and the responses of a host by `http://shop.example/*`, behind the layer's
    /// [`namespace`](crate::CacheLayer::namespace) if it has one. `https://` in a pattern means `http://` as well, since layers keep
    /// the responses of both there, unless they have [`schemes_apart`](crate::CacheLayer::schemes_apart). Of a key, what is not printable ASCII, and `{ } % * [ ] \`, stand
    /// there as `%` and two upper-case hex digits.
    ///
    /// | in a pattern | matches |
    /// |---|---|
    /// | `*` | anything, also nothing |
    /// | `?` | any one character |
    /// | `[abc]`, `[a-z]`, `[^a]` | one of these; one that is not |
    /// | `\` | the next character itself |
    ///
    /// Once it returned, nothing that matches and whose load began before is served, by any process. What it voided lies where it
    /// was until it is swept, in the background and in small steps. Until then an entry that is older than the pattern is compared
    /// with it at each hit, which takes about a microsecond; younger ones are not.
    ///
    /// Up to 128 patterns, each of up to 1,024 bytes, are kept so at one time, of which equal ones are one; one for which there is no
    /// room is swept at once, as if it were to be [counted](DeletePattern::counted). It goes on if its caller doesn't wait.
    ///
    /// ```
    /// use cache_layer::{Cache, store::MemoryStore};
    ///
    /// # async fn example() -> Result<(), cache_layer::InvalidateError> {
    /// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// cache.delete_pattern("products:list:*").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`invalidate`](Self::invalidate). Redis users need the permission to `SCAN` for what is swept; without it, a pattern for
    /// which there is no room invalidates everything.
    pub fn delete_pattern(&self, pattern: &str) -> DeletePattern {
        DeletePattern { cache: self.clone(), pattern: pattern.to_owned() }
    }
}

impl DeletePattern {
    /// Deletes what matches now, and tells how many keys had an entry; what tags and patterns had voided counts as long as it is there.
    ///
    /// This looks at the name of every key, in small steps that leave the store time for others: it takes seconds where
    /// there are millions. Once it returned, nothing that matches and was loaded before the call is served; what is loaded during the
    /// call may be deleted as well. It goes on if its caller doesn't wait.
    ///
    /// ```
    /// # use cache_layer::{Cache, store::MemoryStore};
    /// # async fn example() -> Result<(), cache_layer::InvalidateError> {
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let deleted = cache.delete_pattern("products:list:*").counted().await?;
    /// println!("{deleted} lists will be loaded again");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`delete_pattern`](Cache::delete_pattern). Without the permission to `SCAN` everything is invalidated, and nothing counted.
    pub async fn counted(self) -> Result<u64, InvalidateError> {
        self.cache.sweep_pattern(&self.pattern).await
    }
}

impl IntoFuture for DeletePattern {
    type Output = Result<(), InvalidateError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.cache.run_on_pattern(&self.pattern, Hardness::Hard).await })
    }
}

impl fmt::Debug for DeletePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeletePattern").field("pattern", &self.pattern).finish_non_exhaustive()
    }
}
