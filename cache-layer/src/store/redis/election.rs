//! Elections: one process of a fleet does work that each could do. That saves work, and correctness does not depend on it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    connection::{context::Context, handle::Connection, session::Session},
    store::Inner,
    wire::{
        operation::Operation,
        replies::{Flag, Taken},
        scripts::{self, Batch},
    },
};
use crate::{
    clock::millis,
    store::{LeaseToken, StoreError},
};

/// For how long a process is elected. It renews that while it works.
const TERM: Duration = Duration::from_secs(30);
/// How often a process looks whether its store is gone.
const LOOK: Duration = Duration::from_millis(100);

/// A connection, and the session that must last for as long as the work.
pub(super) type Over = (Arc<Connection>, Arc<Session>);

/// A process's term. The server's key for it expires by itself if the process dies.
pub(super) struct Term<'a> {
    context: &'a Context,
    tags: &'a Over,
    name: String,
    token: LeaseToken,
}

impl<'a> Term<'a> {
    /// `None` if another process is elected; `name` is the server's key.
    pub(super) async fn begin(context: &'a Context, tags: &'a Over, name: String) -> Result<Option<Self>, StoreError> {
        // People can tell by it which process works, and since when.
        let token = context.lease_tokens.next(context.clock.now());
        let mut batch = Batch::default();
        batch.elect(&name, &token, millis(TERM));
        let (taken,): (Taken,) = tags.0.run(Operation::Elect, &tags.1, &batch).await?;
        Ok((taken == Taken::Now).then_some(Self { context, tags, name, token }))
    }

    /// Renews the term until the store is gone.
    pub(super) async fn last(&self, store: &Weak<Inner>) {
        let mut looked = 0_u32;
        while store.strong_count() > 0 {
            sleep(LOOK).await;
            looked += 1;
            if looked * LOOK >= TERM / 3 {
                looked = 0;
                self.keep_for(TERM).await;
            }
        }
    }

    /// Keeps the term for this long, whatever becomes of the process: no other process is elected before.
    pub(super) async fn keep_for(&self, life: Duration) {
        let mut batch = Batch::default();
        batch.call(&scripts::RENEW, &[&self.name], &[&self.token, millis(life).to_string().as_bytes()]);
        let _: Result<(Flag,), StoreError> = self.tags.0.run(Operation::Elect, &self.tags.1, &batch).await;
    }

    pub(super) async fn end(self) {
        let mut batch = Batch::default();
        batch.call(&scripts::RELEASE, &[&self.name], &[&self.token, b"0"]);
        let _: Result<(Flag,), StoreError> = self.tags.0.run(Operation::Elect, &self.tags.1, &batch).await;
    }

    pub(super) fn context(&self) -> &'a Context {
        self.context
    }

    pub(super) fn tags(&self) -> &'a Over {
        self.tags
    }
}
