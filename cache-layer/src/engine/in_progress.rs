//! A load under way, as far as other requests may use it before it has ended.

use std::sync::Arc;

use super::growing_body::GrowingBody;
use crate::{entry::Entry, key::Key, store::Lease, telemetry::NoCacheReason};

/// A load whose result will be stored, or would be if the store could be reached, while its payload comes in.
#[derive(Debug)]
pub(crate) struct InProgress {
    /// The entries that will be stored; the response's own entry may still lack its payload.
    pub(crate) entries: Arc<[(Key, Entry)]>,
    pub(crate) payload: GrowingBody,
    /// The lease that the load runs under, or why there is none.
    pub(super) lease: Result<Lease, NoCacheReason>,
    /// How many invalidations had begun in this process by the time that the load began.
    pub(super) invalidations: u64,
}
