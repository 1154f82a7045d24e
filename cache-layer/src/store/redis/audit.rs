//! The audit: a capped stream, which all processes with the same prefix write to.
//!
//! Each entry has one field, `record`, which people can read by `XREVRANGE <prefix>:audit + - COUNT 10`. If [names are
//! hidden](super::RedisStoreBuilder::sealed_with), the record is sealed like an entry.

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
    clock::millis,
    entry::{Deadlines, Entry, EntryId},
    key::Key,
    store::StoreError,
};

/// The number of records that are kept.
pub(crate) const CAP: usize = 10_000;
/// After this time without a new record, all are deleted.
const LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

impl RedisStore {
    pub(super) async fn add_record(&self, record: &[u8]) -> Result<(), StoreError> {
        let connection = self.connection_to_tags();
        let session = connection.session()?;
        let mut batch = Batch::default();
        batch.append(&self.0.context.names.audit(), CAP, &self.sealed_record(&of_audit(), record, LIFE), millis(LIFE));
        let (Bulk(_),): (Bulk,) = connection.run(Operation::Append, &session, &batch).await?;
        Ok(())
    }

    /// The records, the newest first. Those that can't be opened are left out, and entries of other programs.
    pub(super) async fn read_records(&self, most: usize) -> Result<Vec<Bytes>, StoreError> {
        let connection = self.connection_to_tags();
        let session = connection.session()?;
        let mut batch = Batch::default();
        batch.last(&self.0.context.names.audit(), most);
        let (Records(records),): (Records,) = connection.run(Operation::Last, &session, &batch).await?;
        let records = records.into_iter().flatten();
        Ok(records.filter_map(|record| self.opened_record(&of_audit(), record.into())).collect())
    }

    /// The record; if names are hidden, it is sealed, valid for `life`, and bound to `of`.
    pub(super) fn sealed_record(&self, of: &Key, record: &[u8], life: Duration) -> Bytes {
        let sealing = self.0.context.names.sealing();
        let record = Bytes::copy_from_slice(record);
        if !sealing.hides_names() {
            return record;
        }
        let gone = self.0.context.clock.now() + millis(life);
        let (made, fresh) = (Deadlines::UNKNOWN, gone);
        let deadlines = Deadlines { made, fresh, stale_while_revalidate: gone, stale_if_error: gone, gone };
        sealing.encode(&Entry::new(EntryId::random(), of, deadlines, Bytes::new(), record))
    }

    pub(super) fn opened_record(&self, of: &Key, record: Bytes) -> Option<Bytes> {
        let sealing = self.0.context.names.sealing();
        match sealing.hides_names() {
            true => sealing.decode(of, &record).ok().map(|entry| entry.payload().clone()),
            false => Some(record),
        }
    }
}

/// The key that a sealed record is bound to.
fn of_audit() -> Key {
    Key::new(["audit"])
}

#[cfg(test)]
mod tests {
    use tests::RedisServer;

    use super::super::fleet_tests::connect;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn entries_of_another_program_are_left_out_and_cost_no_connection() {
        let server = RedisServer::start();
        let store = connect(server.url()).await;
        store.add_record(b"one").await.unwrap();
        server.command::<String>(&["XADD", "test:audit", "*", "who", "me", "why", "test"]);
        server.command::<String>(&["XADD", "test:audit", "*", "note", "test"]);
        store.add_record(b"two").await.unwrap();
        assert_eq!(store.read_records(9).await.unwrap(), ["two", "one"]);
        assert!(store.connected());
        assert_eq!(store.state().lost_connections, 0);
    }
}
