//! The audit: a record of who changed what, written by operators' tools.

use bytes::Bytes;

use super::{cache::Cache, inspect::InspectError, requests::fits};

/// # Audit
///
/// For operators' tools, which record who purged what. Over Redis the audit is one stream for all processes with the same
/// prefix, `<prefix>:audit`, of the last 10,000 records; it expires after 90 days without a new record. Invalidations without
/// such a tool are not in it.
impl Cache {
    /// Adds a record, at most 64 KiB in any format. Returns `false` if the store is in this process, and so has no audit.
    ///
    /// ```
    /// # use cache_layer::{Cache, store::MemoryStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let cache = Cache::new(MemoryStore::new(1 << 20));
    /// assert_eq!(cache.audit(br#"{"actor":"ada","tag":"product:42"}"#).await, Ok(false));
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the record is too long, or the store did not answer; in the latter case, the record may have been added nevertheless.
    pub async fn audit(&self, record: &[u8]) -> Result<bool, InspectError> {
        fits(record)?;
        self.0.store.audit(record).await.map_err(InspectError::from)
    }

    /// The last records, the newest first; none if the store has no audit.
    ///
    /// # Errors
    ///
    /// If the store did not answer.
    pub async fn audited(&self, most: usize) -> Result<Vec<Bytes>, InspectError> {
        self.0.store.audited(most).await.map_err(InspectError::from)
    }
}
