//! Storing values without a load.

use std::{fmt, pin::Pin, time::Duration};

use super::{terms::Terms, value::write};
use crate::{
    engine::{Cache, InvalidateError},
    inherit::Reads,
    key::Key,
    store::Hardness,
    tag::Tags,
    telemetry::NoCacheReason,
};

/// Values on their way into the cache, from [`Cache::set`] or [`Cache::set_many`]; await it.
#[must_use = "nothing is stored until it is awaited"]
pub struct Set {
    cache: Cache,
    values: Vec<(Key, Result<Vec<u8>, String>)>,
    terms: Terms,
}

impl Set {
    pub(super) fn new(cache: Cache, values: Vec<(Key, Result<Vec<u8>, String>)>) -> Self {
        Self { cache, values, terms: Terms::default() }
    }

    /// How long the values are fresh; five minutes unless set. With zero, they are not stored, and present values are dropped.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.terms.ttl = ttl;
        self
    }

    /// Tags by which the values can be [invalidated](Cache::invalidate_tag).
    pub fn tags<T: AsRef<str>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.terms.add_tags(tags);
        self
    }

    /// As for [`GetOrLoad`](crate::GetOrLoad::stale_while_revalidate).
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.terms.stale_while_revalidate = window;
        self
    }

    /// As for [`GetOrLoad`](crate::GetOrLoad::stale_if_error).
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.terms.stale_if_error = window;
        self
    }

    async fn store(self) -> Result<(), SetError> {
        let Self { cache, values, terms } = self;
        let at = cache.moment();
        let (deadlines, tags) = match terms.settle(&terms.apply_to(&Reads::default(), at), at) {
            Ok(settled) => settled,
            Err(NoCacheReason::TooManyTags) => return Err(SetError::TooManyTags),
            Err(_) => {
                let keys: Vec<Key> = values.into_iter().map(|(key, _)| key).collect();
                let invalidated = cache.run_on_uri(&Tags::default(), &keys, Hardness::Hard).await;
                return invalidated.map_err(SetError::Undelivered);
            }
        };
        let mut entries = Vec::with_capacity(values.len());
        for (key, value) in values {
            let value = value.map_err(SetError::Unserializable)?;
            let entry = write(&key, cache.codec(), value, deadlines);
            entries.push((key, entry));
        }
        cache.put(entries, &tags).await.map_err(|error| SetError::Undelivered(error.into()))
    }
}

impl IntoFuture for Set {
    type Output = Result<(), SetError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.store())
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.values.iter().map(|(key, _)| key).collect();
        f.debug_struct("Set").field("keys", &keys).field("terms", &self.terms).finish_non_exhaustive()
    }
}

/// Why a value was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetError {
    /// The cache's [codec](crate::codec::Codec) can't write this value so that it is read back unchanged; the former value stays.
    Unserializable(String),
    /// There are more than 1,024 tags, or one has more than 256 bytes; the former value stays.
    TooManyTags,
    /// The store could not be reached. The former value is outdated, so it is invalidated.
    Undelivered(InvalidateError),
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unserializable(reason) => write!(f, "the value can't be written: {reason}"),
            Self::TooManyTags => f.write_str("more tags, or longer ones, than an entry can carry"),
            Self::Undelivered(_) => f.write_str("the value did not reach the store"),
        }
    }
}

impl std::error::Error for SetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Undelivered(error) => Some(error),
            Self::Unserializable(_) | Self::TooManyTags => None,
        }
    }
}
