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
        let now = self.cache.now();
        let life = Life {
            lifetime: entry.deadlines().fresh.saturating_sub(stored.response_time),
            left: entry.deadlines_at(now).fresh.saturating_sub(now),
            load_time: entry.load_time(),
        };
        is_due(beta, life, fastrand::f64)
    }
}
