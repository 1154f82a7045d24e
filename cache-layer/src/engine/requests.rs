//! Requests that one process of the fleet carries out, for operators' tools.

use std::time::Duration;

use super::{cache::Cache, inspect::InspectError};
use crate::store::Reserved;

/// # Requests that are sent again
///
/// For operators' tools, whose requests may reach two processes of the fleet, such as one with an idempotency key that a client
/// sends again. Over Redis, `<prefix>:request:<id>` is set in one step, unless it is set already: of the processes that receive
/// the request, at the same moment or one after the other, one carries it out.
impl Cache {
    /// Reserves the request `id` for this process, for `life`, with a record that other processes get instead. The record is at
    /// most 64 KiB in any format, and must differ from those of other processes.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cache_layer::{Cache, store::{MemoryStore, Reserved}};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let cache = Cache::new(MemoryStore::new(1 << 20));
    /// let reserved = cache.reserve_request("purge-7", b"process 1", Duration::from_secs(60)).await;
    /// assert_eq!(reserved, Ok(Reserved::Unshared));
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the record is too long, or the store did not answer; in the latter case, the request may be reserved nevertheless.
    pub async fn reserve_request(&self, id: &str, record: &[u8], life: Duration) -> Result<Reserved, InspectError> {
        fits(record)?;
        self.0.store.reserve_request(id, record, life).await.map_err(InspectError::from)
    }

    /// Puts a record, such as its answer, in the place of the one by which this process has `reserved` the request, and keeps it
    /// for `life` from now on. If the reservation has run out, and another process has reserved the request since, that process's
    /// record stays, and is returned.
    ///
    /// # Errors
    ///
    /// As for [`reserve_request`](Self::reserve_request).
    pub async fn record_request(
        &self,
        id: &str,
        reserved: &[u8],
        record: &[u8],
        life: Duration,
    ) -> Result<Reserved, InspectError> {
        fits(record)?;
        self.0.store.record_request(id, reserved, record, life).await.map_err(InspectError::from)
    }
}

/// Refuses a record that is too long.
pub(super) fn fits(record: &[u8]) -> Result<(), InspectError> {
    const MOST: usize = 64 * 1024;
    if record.len() > MOST {
        let length = record.len();
        return Err(InspectError::failed(format!("a record has at most {MOST} bytes, and this one {length}")));
    }
    Ok(())
}
