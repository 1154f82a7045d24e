//! The stale value or fallback that a call returns if its load is late, or fails.

use std::{sync::Arc, time::Duration};

use crate::{engine::miss::Miss, entry::Entry, sync::Mutex};

/// What a call returns instead of a loaded value, and after what time. Clones share the state: a fallback is used once.
#[derive(Debug)]
pub(super) struct StandIn<V> {
    /// How long to wait for a load if there is a stale value.
    pub(super) soft_timeout: Option<Duration>,
    shared: Option<Arc<Shared<V>>>,
}

#[derive(Debug)]
struct Shared<V> {
    fallback: Mutex<Option<V>>,
    has_fallback: bool,
    /// The last stale value that was found.
    stale: Mutex<Option<Entry>>,
}

impl<V> StandIn<V> {
    /// Enables it to remember stale values.
    pub(super) fn knows_stale(&mut self) {
        if self.shared.is_none() {
            self.share(None);
        }
    }

    pub(super) fn set_fallback(&mut self, value: V) {
        self.share(Some(value));
    }

    fn share(&mut self, fallback: Option<V>) {
        let has_fallback = fallback.is_some();
        self.shared = Some(Arc::new(Shared { fallback: Mutex::new(fallback), has_fallback, stale: Mutex::default() }));
    }

    pub(super) fn has_fallback(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.has_fallback)
    }

    pub(super) fn take_fallback(&self) -> Option<V> {
        self.shared.as_ref()?.fallback.lock().take()
    }

    pub(super) fn note_stale(&self, miss: &Miss) {
        if let Some(shared) = &self.shared {
            shared.stale.lock().clone_from(&miss.stale);
        }
    }

    pub(super) fn stale(&self) -> Option<Entry> {
        self.shared.as_ref()?.stale.lock().clone()
    }
}

// Not derived: a derive would require the same traits of the value.
impl<V> Default for StandIn<V> {
    fn default() -> Self {
        Self { soft_timeout: None, shared: None }
    }
}

impl<V> Clone for StandIn<V> {
    fn clone(&self) -> Self {
        Self { soft_timeout: self.soft_timeout, shared: self.shared.clone() }
    }
}
