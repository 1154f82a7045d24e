//! The public calls for deletion by pattern: as a ban, or as a sweep that is counted.

use std::{fmt, pin::Pin};

use super::{cache::Cache, invalidate::InvalidateError};
use crate::store::Hardness;

/// A deletion by pattern, from [`Cache::delete_pattern`]; await it to run it, or use [`counted`](Self::counted).
#[derive(Clone)]
#[must_use = "nothing is deleted until it is awaited"]
pub struct DeletePattern {
    cache: Cache,
    pattern: String,
}

impl Cache {
    /// Voids every entry whose key matches `pattern`, with its variants, at the cost of one small write however many there are.
    ///
    /// The pattern is compared with the readable form of a key: its parts one after another. So `products:list:*` matches
    /// `Key::new(["products:", "list:", "2"])`, and `http://shop.example/*` matches the responses of a host, after the layer's
    /// [`namespace`](crate::CacheLayer::namespace) if it has one. `https://` in a pattern also matches `http://`, since layers
    /// keep the responses of both there, unless they have [`schemes_apart`](crate::CacheLayer::schemes_apart). In the readable
    /// form, bytes that are not printable ASCII, and `{ } % * [ ] \`, are written as `%` and two upper-case hex digits.
    ///
    /// | in a pattern | matches |
    /// |---|---|
    /// | `*` | anything, also nothing |
    /// | `?` | any one character |
    /// | `[abc]`, `[a-z]`, `[^a]` | one of these; one that is not |
    /// | `\` | the next character itself |
    ///
    /// Once this has returned, no connected process reads an entry that matches and whose load began before the call; first
    /// tiers of other processes learn of it within a network delay, and so do, in a cluster, other processes that read Redis: the
    /// list of patterns may lie on another server than the entry ([`RedisStore`](crate::store::RedisStore) has the table). The
    /// void entries keep their room until they are swept, in the background and in small steps. Until then, each hit of an entry
    /// that is older than the pattern compares its key with the pattern, which takes about a microsecond; hits of younger entries
    /// do not.
    ///
    /// Up to 128 patterns, each of up to 1,024 bytes, are listed at one time; equal patterns count once. A pattern for which
    /// there is no room is swept at once, as by [`counted`](DeletePattern::counted), together with all others of this process that
    /// wait for that. The deletion continues even if its caller
    /// doesn't wait.
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
    /// As for [`invalidate`](Self::invalidate). Redis users need the permission to `SCAN` for the sweep; without it, a pattern
    /// for which there is no room invalidates everything.
    pub fn delete_pattern(&self, pattern: &str) -> DeletePattern {
        DeletePattern { cache: self.clone(), pattern: pattern.to_owned() }
    }
}

impl DeletePattern {
    /// Deletes the matching entries now, and returns how many keys had one; this includes entries that tags or patterns had
    /// already voided, as long as they are there.
    ///
    /// It examines the name of every key, in small steps that leave the store time for other work: with millions of keys, it
    /// takes seconds. Once it has returned, no entry is served that matches and was loaded before the call; an entry that is
    /// loaded during the call may be deleted as well. The deletion continues even if its caller doesn't wait. What is on a node of
    /// a cluster that is just getting its first slot is void, and not counted.
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
    /// As for [`delete_pattern`](Cache::delete_pattern). Without the permission to `SCAN`, everything is invalidated, and nothing
    /// is counted.
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
