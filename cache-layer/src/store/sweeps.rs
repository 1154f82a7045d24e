//! What sweeps report: a store tells each cache over it, and the cache its observer.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use crate::{sync::Mutex, telemetry::SweepCause};

/// A sweep that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    pub(crate) cause: SweepCause,
    /// The patterns that were swept; none for another cause.
    pub(crate) patterns: Vec<String>,
    pub(crate) swept: Swept,
    pub(crate) duration: Duration,
}

/// Numbers of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Those that were looked at.
    pub(crate) examined: u64,
    /// Those of them that were removed, or marked as stale.
    pub(crate) removed: u64,
}

impl Swept {
    pub(crate) fn and(self, other: Self) -> Self {
        Self { examined: self.examined + other.examined, removed: self.removed + other.removed }
    }
}

/// Is called at the end of each sweep of this process.
pub(crate) type SweepListener = dyn Fn(&Sweep) + Send + Sync;

/// The listeners of a store: caches, which may be gone before the store is.
#[derive(Default)]
pub(crate) struct SweepListeners(Mutex<Vec<Weak<SweepListener>>>);

impl SweepListeners {
    pub(crate) fn add(&self, listener: &Arc<SweepListener>) {
        let mut listeners = self.0.lock();
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Arc::downgrade(listener));
    }

    pub(crate) fn tell(&self, sweep: &Sweep) {
        let listeners: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        listeners.iter().for_each(|listener| listener(sweep));
    }
}
