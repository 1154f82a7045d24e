//! Refreshing a response before it is stale.

use super::{select::response, service::Shared};
use crate::{
    engine::early::{Life, is_due},
    entry::Entry,
};

impl Shared {
    /// Whether a request that `entry` answers should have it refreshed.
    pub(super) fn is_due_early(&self, entry: &Entry) -> bool {
        let Some(beta) = self.policy.early_refresh else { return false };
        let Some(stored) = response(entry) else { return false };
        let fresh = entry.deadlines().fresh;
        let life = Life {
            lifetime: fresh.saturating_sub(stored.response_time),
            left: fresh.saturating_sub(self.cache.now()),
            load_time: entry.load_time(),
        };
        is_due(beta, life, fastrand::f64)
    }
}
