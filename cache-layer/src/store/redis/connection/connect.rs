//! Makes a session: the driver's connection, the greeting, client tracking, the scripts, the data set, and delivery of kept
//! invalidations; then the session is published.

use std::{sync::Arc, time::Instant};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, PushInfo, PushKind, RedisResult,
    aio::MultiplexedConnection,
};
use tokio::time::timeout;

use super::{
    context::Context,
    deliver::deliver,
    greeting,
    handle::{Connection, HEARTBEAT_TIMEOUT},
    identify::{Identity, Known},
    loss::Loss,
    pushes::Pushes,
    session::{End, Established, Session},
};
use crate::store::redis::{
    tracking::{tag_tracker::TagTracker, waiters::Waiters},
    wire::{errors::proves_connection_useless, operation::Server, replies::Done, scripts},
};

/// The most operations on their way to a connection. Many concurrent clients should stay below it: an operation that waits wakes
/// up once more, and comes too late to be sent with the others.
const IN_FLIGHT: usize = 1024;

impl Connection {
    /// A new session, published: kept invalidations have been delivered over it.
    pub(super) async fn connect(&self, loss: Option<&Loss>) -> RedisResult<Arc<Session>> {
        let (tokens, waiters) = (Arc::<TagTracker>::default(), Arc::<Waiters>::default());
        let end = Arc::<End>::default();
        let (context, end_of) = (self.context.clone(), end.clone());
        let config = self.config(Pushes { context, tokens: tokens.clone(), waiters: waiters.clone(), end: end_of });
        let client = self.address.client().await?;
        // Covers what the driver's own connection timeout doesn't: a server that accepts and then does not answer.
        let limit = self.context.timeouts.connect.saturating_add(HEARTBEAT_TIMEOUT);
        let established = timeout(limit, self.establish(&client, &config))
            .await
            .unwrap_or_else(|_| Err((ErrorKind::Io, "no answer while connecting").into()))?;
        let mut driver = established.driver.clone();
        let limits = (self.context.timeouts.operation, self.heartbeat_timeout());
        let session = Arc::new(Session::new(established, tokens, waiters, end, limits));
        let publish = || {
            let timeouts = &self.context.timeouts;
            let settled = timeouts.settling.is_zero()
                || loss.is_none_or(|loss| loss.is_blip(session.identity.as_ref(), timeouts.delivery));
            if settled {
                session.settle();
            }
            self.publish(Some(session.clone()));
        };
        // An invalidation that is added between the last delivery and the publication would be overlooked: the two exclude each
        // other.
        while !self.context.outbox.if_empty(|scope| self.shard.covers(scope), publish) {
            let Context { outbox, guard, names, .. } = &*self.context;
            deliver(outbox, guard, names, &*self.shard, self.dataset_id().as_deref(), &mut driver).await?;
        }
        Ok(session)
    }

    fn config(&self, pushes: Pushes) -> AsyncConnectionConfig {
        let wake = self.wake.clone();
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.context.timeouts.connect))
            // Every operation has its own deadline here.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(IN_FLIGHT)
            .set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    let _ = pushes.end.closed.set(Instant::now());
                    wake.notify_one();
                }
                pushes.apply(&push);
                Ok::<(), ()>(())
            })
    }

    /// A connection to a usable server whose data set has been checked.
    async fn establish(&self, client: &Client, config: &AsyncConnectionConfig) -> RedisResult<Established> {
        let driver = client.get_multiplexed_async_connection_with_config(config).await;
        let mut driver = driver.map_err(greeting::explain)?;
        greeting::check(&mut driver, self.shard.is_everything()).await?;
        let tracking = track(&mut driver).await?;
        scripts::load(&mut driver).await?;
        let identity = Identity::ask(&mut driver).await?;
        self.shard.is_served(&mut driver).await?;
        let mut tags = self.shard.driver_to_tags(&driver).await?;
        // A server that does not identify itself may be another one, with a clock of its own.
        let known = self.data_set().clone();
        let known = if identity.is_some() { known } else { known.map(Known::by_another_clock) };
        self.check(identity.as_ref(), known, &mut tags).await?;
        let server = server(client.get_connection_info().addr());
        Ok(Established { driver, server, tracking, identity })
    }
}

/// Begins client tracking; returns whether the server tracks.
async fn track(driver: &mut MultiplexedConnection) -> RedisResult<bool> {
    let tracking: RedisResult<Done> =
        redis::cmd("CLIENT").arg("TRACKING").arg("ON").arg("OPTIN").query_async(driver).await;
    match tracking {
        Ok(Done) => Ok(true),
        Err(error) if proves_connection_useless(&error) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "Redis refuses client tracking; tags are read with every hit");
            Ok(false)
        }
    }
}

fn server(address: &ConnectionAddr) -> Server {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Server { address: host.clone(), port: Some((*port).into()) }
        }
        other => Server { address: other.to_string(), port: None },
    }
}
