//! The audit: a capped stream, which all processes with the same prefix write to.
//!
//! Each entry has one field, `record`: what was said, for people to read by `XREVRANGE <prefix>:audit + - COUNT 10`. Where
//! [names are hidden](super::RedisStoreBuilder::sealed_with) it is sealed as entries are.

use std::time::Duration;

use bytes::Bytes;

use super::{
    RedisStore,
    wire::{
        operation::Operation,
        replies::{Bulk, Records},
        scripts::Batch,
    },
};
use crate::{
    clock::{Clock, millis},
    entry::{Deadlines, Entry, EntryId},
    key::Key,
    store::StoreError,
};

/// Records that are kept.
pub(crate) const CAP: usize = 10_000;
/// After so long without a new one, all are gone.
const LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

impl RedisStore {
    pub(super) async fn add_record(&self, record: &[u8]) -> Result<(), StoreError> {
        let connection = self.connection_to_tags();
        let session = connection.session()?;
        let mut batch = Batch::default();
        batch.append(&self.0.context.names.audit(), CAP, &self.sealed_record(record), millis(LIFE));
        let (Bulk(_),): (Bulk,) = connection.run(Operation::Audit, &session, &batch).await?;
        Ok(())
    }

    /// The newest first. What does not open is left out.
    pub(super) async fn read_records(&self, most: usize) -> Result<Vec<Bytes>, StoreError> {
        let connection = self.connection_to_tags();
        let session = connection.session()?;
        let mut batch = Batch::default();
        batch.last(&self.0.context.names.audit(), most);
        let (Records(records),): (Records,) = connection.run(Operation::Audited, &session, &batch).await?;
        Ok(records.into_iter().filter_map(|record| self.opened_record(record.into())).collect())
    }

    fn sealed_record(&self, record: &[u8]) -> Bytes {
        let sealing = self.0.context.names.sealing();
        let record = Bytes::copy_from_slice(record);
        if !sealing.hides_names() {
            return record;
        }
        let gone = Clock::system().now() + millis(LIFE);
        let (made, fresh) = (Deadlines::UNKNOWN, gone);
        let deadlines = Deadlines { made, fresh, stale_while_revalidate: gone, stale_if_error: gone, gone };
        sealing.encode(&Entry::new(EntryId::random(), &of_audit(), deadlines, Bytes::new(), record))
    }

    fn opened_record(&self, record: Bytes) -> Option<Bytes> {
        let sealing = self.0.context.names.sealing();
        match sealing.hides_names() {
            true => sealing.decode(&of_audit(), &record).ok().map(|entry| entry.payload().clone()),
            false => Some(record),
        }
    }
}

/// What a sealed record is bound to.
fn of_audit() -> Key {
    Key::new(["audit"])
}
