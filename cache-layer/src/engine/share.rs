//! What others may have of a load before it has ended, and who of them.

use std::sync::Arc;

use super::{Cache, growing_body::Rope};
use crate::{entry::Entry, key::Key, store::Lease, telemetry::NoCacheReason};

/// A load whose result will be stored, or would be if the store could be reached, and may be had by others.
#[derive(Debug)]
pub(crate) struct Sharing {
    /// What will be stored; the last of them may still be without its payload.
    pub(crate) entries: Arc<[(Key, Entry)]>,
    pub(crate) payload: Rope,
    pub(super) begun: Begun,
}

/// By what right, and when, a load began.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) lease: Result<Lease, NoCacheReason>,
    /// Invalidations that had begun in this process by then.
    pub(super) invalidations: u64,
}

impl Cache {
    /// Whether a request may be given what `sharing` brings: nothing that was invalidated before the request came. To
    /// be asked after its own look-up, and whether that `reached_store`: with the store's answer, this process has
    /// heard of every invalidation before it.
    pub(crate) fn may_join(&self, sharing: &Sharing, reached_store: bool) -> bool {
        let Begun { lease, invalidations } = &sharing.begun;
        let stands = match lease {
            Ok(lease) => reached_store && !self.0.store.overtaken(lease),
            // Nobody here can ask the store, and what it knows is nobody's to miss.
            Err(NoCacheReason::StoreUnavailable) => !reached_store,
            Err(_) => false,
        };
        stands && *invalidations == self.invalidations()
    }
}
