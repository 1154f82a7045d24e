//! Requests of operators that one process of the fleet carries out: `SET NX`, and the record of the first.
//!
//! If [names are hidden](super::RedisStoreBuilder::sealed_with), the record is sealed like an entry. The name contains the
//! caller's id as it is.

use std::time::Duration;

use super::{
    RedisStore,
    wire::{
        operation::Operation,
        replies::{Done, Taken},
        scripts::Batch,
    },
};
use crate::{
    clock::millis,
    key::Key,
    store::{Reserved, StoreError},
};

impl RedisStore {
    pub(super) async fn reserve(&self, id: &str, record: &[u8], life: Duration) -> Result<Reserved, StoreError> {
        let connection = self.connection_to_tags();
        let session = connection.session()?;
        let mut batch = Batch::default();
        let sealed = self.sealed_record(&of_request(id), record, life);
        batch.set_unless_set(&self.0.context.names.request(id), &sealed, millis(life));
        // An election by the same command as the lurker's.
        let (taken,): (Taken,) = connection.run(Operation::Elect, &session, &batch).await?;
        Ok(match taken {
            Taken::Now => Reserved::Now,
            // One that can't be opened is another process's as well.
            Taken::Not(before) => match self.opened_record(&of_request(id), before.into()).unwrap_or_default() {
                // It was sent twice.
                before if *before == *record => Reserved::Now,
                before => Reserved::Before(before),
            },
            Taken::Foreign => return Err(StoreError::Failed("the name of the request has another type".into())),
        })
    }

    pub(super) async fn record(&self, id: &str, record: &[u8], life: Duration) -> Result<(), StoreError> {
        let connection = self.connection_to_tags();
        let session = connection.session()?;
        let mut batch = Batch::default();
        let sealed = self.sealed_record(&of_request(id), record, life);
        batch.set_for(&self.0.context.names.request(id), &sealed, millis(life));
        let (Done,): (Done,) = connection.run(Operation::Elect, &session, &batch).await?;
        Ok(())
    }
}

/// The key that a sealed record is bound to.
fn of_request(id: &str) -> Key {
    Key::new(["request", id])
}
