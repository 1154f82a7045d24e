//! The result of a load, and the stale value that a load is given.

use std::{ops::Deref, time::Duration};

use super::terms::Terms;
use crate::tag::Tags;

/// The result of a load, with its own freshness and tags: for [`Cache::get_or_load_with`](crate::Cache::get_or_load_with).
///
/// ```
/// use std::time::Duration;
/// use cache_layer::Loaded;
///
/// let rates = Loaded::new([1.07, 0.93]).ttl(Duration::from_secs(30)).tags(["rates"]);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a load has to return it"]
pub struct Loaded<V> {
    pub(super) value: V,
    ttl: Option<Duration>,
    tags: Tags,
}

impl<V> Loaded<V> {
    /// A result with this value, on the terms of the call.
    pub fn new(value: V) -> Self {
        Self { value, ttl: None, tags: Tags::default() }
    }

    /// How long the value is fresh, whatever the call says; with zero, it is not stored.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Tags in addition to those of the call.
    pub fn tags<T: AsRef<str>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags.extend(tags);
        self
    }

    /// The same with another value.
    pub(super) fn map<T>(self, with: impl FnOnce(V) -> T) -> Loaded<T> {
        Loaded { value: with(self.value), ttl: self.ttl, tags: self.tags }
    }

    /// The terms of this result; `terms` are those of the call.
    pub(super) fn on(&self, mut terms: Terms) -> Terms {
        terms.ttl = self.ttl.unwrap_or(terms.ttl);
        terms.add_tags(self.tags.iter());
        terms
    }
}

/// A value that is no longer fresh, for its load, which may find that the value still holds.
#[derive(Clone, Debug)]
pub struct Stale<V> {
    value: V,
    tags: Tags,
}

impl<V> Stale<V> {
    pub(super) fn new(value: V, tags: Tags) -> Self {
        Self { value, tags }
    }

    /// The value still holds: it is fresh again, and keeps its tags.
    pub fn not_modified(self) -> Loaded<V> {
        Loaded::new(self.value).tags(self.tags.iter())
    }
}

impl<V> Stale<Option<V>> {
    /// The value, if there is one.
    pub(super) fn transpose(self) -> Option<Stale<V>> {
        let Self { value, tags } = self;
        value.map(|value| Stale { value, tags })
    }
}

impl<V> Deref for Stale<V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.value
    }
}
