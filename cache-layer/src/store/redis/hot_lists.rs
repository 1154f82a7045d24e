//! The lists of hot keys that processes leave for one another: a capped stream, beside the tags. The engine defines the content
//! of a list.
//!
//! A record is the time by the server's clock, in milliseconds, in 8 bytes, and the list. If [names are
//! hidden](super::RedisStoreBuilder::sealed_with), the whole record is sealed like an entry.

use std::time::Duration;

use bytes::{Buf, Bytes};

use redis::aio::MultiplexedConnection;

use super::{
    RedisStore,
    connection::handle::Limit,
    wire::{
        operation::Operation,
        replies::{Bulk, Records},
        scripts::Batch,
    },
};
use crate::{clock::millis, key::Key, store::StoreError};

/// The number of lists that are kept. The lists of one fleet are similar.
const CAP: usize = 8;
/// How long a list is used.
const LIFE: Duration = Duration::from_secs(10 * 60);

impl RedisStore {
    pub(super) async fn leave_hot_list(&self, list: &[u8]) -> Result<(), StoreError> {
        let connection = self.connection_to_tags();
        let session = connection.session()?;
        let record = [&self.0.context.clock.now().to_be_bytes(), list].concat();
        let mut batch = Batch::default();
        batch.append(&self.0.context.names.hot(), CAP, &self.sealed_record(&of_hot(), &record, LIFE), millis(LIFE));
        let (Bulk(_),): (Bulk,) = connection.run(Operation::Append, &session, &batch).await?;
        Ok(())
    }

    /// The lists that are not too old, the newest first; and the number of records that are not lists.
    pub(super) async fn hot_lists(&self) -> Result<(Vec<Bytes>, usize), StoreError> {
        let connection = self.connection_to_tags();
        let session = connection.settled()?;
        let mut batch = Batch::default();
        batch.last(&self.0.context.names.hot(), CAP);
        // No request waits for it, and it may be two megabytes.
        let (Records(records),): (Records,) = connection
            .run_with(Operation::Last, &session, Limit::Background, async |mut driver: MultiplexedConnection| {
                batch.run(&mut driver).await
            })
            .await?;
        let now = self.0.context.clock.now();
        let (mut lists, mut refused) = (Vec::new(), 0);
        for record in records.into_iter().take(CAP) {
            let record = record.and_then(|record| self.opened_record(&of_hot(), record.into()));
            let record = record.filter(|record| record.len() > 8);
            let Some(mut record) = record else {
                refused += 1;
                continue;
            };
            if record.get_u64().abs_diff(now) <= millis(LIFE) {
                lists.push(record);
            }
        }
        Ok((lists, refused))
    }
}

/// The key that a sealed record is bound to.
fn of_hot() -> Key {
    Key::new(["hot"])
}

#[cfg(test)]
mod tests {
    use tests::RedisServer;

    use super::super::fleet_tests::connect;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn entries_of_another_program_are_counted_and_cost_no_connection() {
        let server = RedisServer::start();
        let store = connect(server.url()).await;
        store.leave_hot_list(b"list").await.unwrap();
        server.command::<String>(&["XADD", "test:hot", "*", "who", "me", "why", "test"]);
        assert_eq!(store.hot_lists().await.unwrap(), (vec!["list".into()], 1));
        assert!(store.connected());
        assert_eq!(store.state().lost_connections, 0);
    }
}
