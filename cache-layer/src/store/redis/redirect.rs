//! Invalidations in a cluster whose slots are being moved: they follow redirections, as hard ones.
//!
//! Reads and fills don't do this: one that meets a redirection continues without the cache.

use redis::{Cmd, aio::MultiplexedConnection};

use super::{
    RedisStore,
    connection::handle::Limit,
    topology::cluster::Cluster,
    wire::{
        moving::{commands, run, run_where_it_went},
        operation::Operation,
    },
};
use crate::store::{Scope, StoreError};

/// How often an invalidation is sent again: the cluster may not have settled when it is asked for its slots.
const ATTEMPTS: usize = 3;

impl RedisStore {
    /// Delivers `scope`, one command after the other, each to the server that has its key by now.
    pub(super) async fn deliver_to_where_it_went(&self, cluster: &Cluster, scope: Scope<'_>) -> Result<(), StoreError> {
        for command in commands(&self.0.context.names, scope) {
            let mut attempts = 0;
            while let Err(error) = self.send(cluster, scope, &command).await {
                attempts += 1;
                if attempts == ATTEMPTS {
                    return Err(error);
                }
                cluster.look_again().await;
            }
        }
        Ok(())
    }

    async fn send(&self, cluster: &Cluster, scope: Scope<'_>, command: &Cmd) -> Result<(), StoreError> {
        let connection = self.connection_of(scope);
        let redirected = connection
            .run_with(
                Operation::Unlink,
                &connection.session()?,
                Limit::Background,
                async |mut driver: MultiplexedConnection| run(command, &mut driver).await,
            )
            .await?;
        let Some(address) = redirected else { return Ok(()) };
        let (connection, session) = cluster.session_at(&address)?;
        connection
            .run_with(Operation::Asking, &session, Limit::Background, async |mut driver: MultiplexedConnection| {
                run_where_it_went(command, &mut driver).await
            })
            .await
    }
}
