//! An invalidation that did not reach the store.

use std::fmt;

use crate::store::StoreError;

/// An invalidation that has not reached the store yet.
///
/// This process no longer serves what it covers. The store keeps the invalidation and delivers it before anything else
/// once it is connected again; until then, other processes may still serve what they hold. If this process ends first,
/// the invalidation is lost. A soft one is kept as a hard one; more than 10,000 keys and tags, or 16 patterns, that are
/// kept are merged into one of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidateError(StoreError);

impl From<StoreError> for InvalidateError {
    fn from(error: StoreError) -> Self {
        Self(error)
    }
}

impl fmt::Display for InvalidateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the invalidation is kept and will be retried: {}", self.0)
    }
}

impl std::error::Error for InvalidateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}
