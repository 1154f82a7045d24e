//! Requests of operators that one process of the fleet carries out: `SET NX`, and the record of the first, which only that process
//! replaces.
//!
//! If [names are hidden](super::RedisStoreBuilder::sealed_with), the record is sealed like an entry. The name contains the
//! caller's id as it is.

use std::time::Duration;

use bytes::Bytes;

use super::{
    RedisStore,
    wire::{operation::Operation, replies::Taken, scripts::Batch},
};
use crate::{
    clock::millis,
    key::Key,
    store::{Reserved, StoreError},
};

impl RedisStore {
    pub(super) async fn reserve(&self, id: &str, record: &[u8], life: Duration) -> Result<Reserved, StoreError> {
        let sealed = self.sealed_record(&of_request(id), record, life);
        // An election by the same command as the lurker's.
        let taken = self.take(|batch| batch.set_unless_set(&self.0.context.names.request(id), &sealed, millis(life)));
        Ok(match self.opened(id, taken.await?)? {
            // It was sent twice.
            Some(before) if before == record => Reserved::Now,
            Some(before) => Reserved::Before(before),
            None => Reserved::Now,
        })
    }

    /// Puts `record` in the place of what this process `reserved`, unless another process has reserved the request since.
    pub(super) async fn record(
        &self,
        id: &str,
        reserved: &[u8],
        record: &[u8],
        life: Duration,
    ) -> Result<Reserved, StoreError> {
        let sealed = self.sealed_record(&of_request(id), record, life);
        // Twice: a record can be sealed in many ways, so that only its own process can compare it.
        let mut before = Bytes::new();
        for _ in 0..2 {
            let name = self.0.context.names.request(id);
            let taken = self.take(|batch| batch.replace(&name, &before, &sealed, millis(life))).await?;
            before = match &taken {
                Taken::Not(found) => Bytes::copy_from_slice(found),
                Taken::Now | Taken::Foreign => Bytes::new(),
            };
            match self.opened(id, taken)? {
                None => return Ok(Reserved::Now),
                Some(found) if found == reserved => {}
                Some(found) => return Ok(Reserved::Before(found)),
            }
        }
        Err(StoreError::Failed("the record of the request changes all the time".into()))
    }

    async fn take(&self, add: impl FnOnce(&mut Batch)) -> Result<Taken, StoreError> {
        let connection = self.connection_to_tags();
        let session = connection.session()?;
        let mut batch = Batch::default();
        add(&mut batch);
        let (taken,): (Taken,) = connection.run(Operation::Elect, &session, &batch).await?;
        Ok(taken)
    }

    /// The record that is there; an empty one if it can't be opened, and so is another process's as well.
    fn opened(&self, id: &str, taken: Taken) -> Result<Option<Bytes>, StoreError> {
        match taken {
            Taken::Now => Ok(None),
            Taken::Not(before) => Ok(Some(self.opened_record(&of_request(id), before.into()).unwrap_or_default())),
            Taken::Foreign => Err(StoreError::Failed("the name of the request has another type".into())),
        }
    }
}

/// The key that a sealed record is bound to.
fn of_request(id: &str) -> Key {
    Key::new(["request", id])
}
