//! The data set behind a connection: it is checked when the connection is made, with each heartbeat, and with each invalidation.

use std::sync::Arc;

use redis::{ErrorKind, RedisResult, Value, aio::MultiplexedConnection};
use tokio::time::timeout;

use super::{
    context::Context,
    handle::{Connection, HEARTBEAT_TIMEOUT},
    identify::{Identify, Identity, Known},
    session::Session,
};
use crate::{
    clock::Uptime,
    store::{StoreError, redis::wire::names::EVERYTHING},
};

impl Connection {
    /// Finds out [which data set](super::identify) there is, and remembers it.
    pub(super) async fn check(
        &self,
        identity: Option<&Identity>,
        known: Option<Known>,
        tags: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        let Context { guard, outbox, names, clock, .. } = &*self.context;
        let asked = Uptime::now();
        // This comes before anything is read over the connection. A connection that has failed fails below.
        if let Ok(time) = redis::cmd("TIME").query_async(tags).await {
            clock.note(asked, time);
        }
        let found = Identify { guard, outbox, names, shard: &*self.shard }.run(identity, known, tags).await?;
        if found.is_none() {
            self.context.counters.refused();
        }
        *self.data_set() = found;
        Ok(())
    }

    /// Checks that the server answers, and that the data set behind the connection has not changed.
    pub(super) async fn heartbeat(&self, session: &Session) -> RedisResult<()> {
        let mut driver = session.driver.clone();
        if !self.shard.is_everything() {
            redis::cmd("PING").query_async::<()>(&mut driver).await?;
            return self.shard.is_served(&mut driver).await;
        }
        let (server, dataset) =
            (self.context.names.identity(self.shard.name()), self.context.names.dataset_id(self.shard.name()));
        // A read rather than a `PING`: it also keeps rarely read keys from being evicted, such as the token that is known here.
        let everything = self.context.names.tag(EVERYTHING);
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME").cmd("MGET").arg(&server).arg(&dataset).arg(everything);
        type Seen = ((u64, u64), (Option<String>, Option<String>, Value));
        let asked = Uptime::now();
        let ((seconds, micros), (seen, dataset, _)): Seen = pipeline.query_async(&mut driver).await?;
        self.context.clock.note(asked, (seconds, micros));
        let id = session.identity.as_ref().map(|identity| &**identity.id());
        if seen.is_some() && id.is_some() && seen.as_deref() != id {
            return Err((ErrorKind::Io, "the server has another one's data set").into());
        }
        if (seen.is_none() && id.is_some()) || !self.is_dataset(dataset.as_deref()) || dataset.is_none() {
            return self.identify(session).await;
        }
        if let Some(known) = self.data_set().as_mut().filter(|known| dataset.as_deref() == Some(&*known.id)) {
            known.seen = format!("{:016x}", seconds.saturating_mul(1_000_000).saturating_add(micros));
        }
        Ok(())
    }

    /// Reads the identity of this server of a cluster and the id of its data set, where the tags are: keys that are never read are evicted
    /// first, and a process that finds neither takes the data set for another one. The result is ignored.
    pub(super) async fn use_dataset_id(&self, session: &Session) {
        if self.shard.is_everything() {
            return;
        }
        let reading = async {
            let mut tags = self.shard.driver_to_tags(&session.driver).await?;
            let (server, dataset) =
                (self.context.names.identity(self.shard.name()), self.context.names.dataset_id(self.shard.name()));
            let everything = self.context.names.tag(EVERYTHING);
            let mut pipeline = redis::pipe();
            pipeline.cmd("TIME").cmd("MGET").arg(server).arg(dataset).arg(everything);
            let asked = Uptime::now();
            let (time, _): ((u64, u64), Value) = pipeline.query_async(&mut tags).await?;
            self.context.clock.note(asked, time);
            RedisResult::Ok(())
        };
        let _ = timeout(HEARTBEAT_TIMEOUT / 2, reading).await;
    }

    /// Whether `found` is the id of the data set that this connection is for. A cluster's servers have one each.
    pub(crate) fn is_dataset(&self, found: Option<&str>) -> bool {
        !self.shard.is_everything() || self.data_set().as_ref().map(|known| &*known.id) == found
    }

    /// Whether an operation over `session` reached the data set that this connection is for, by the id that was found with it.
    /// If it was another data set, the connection is for that one from now on.
    pub(crate) async fn leads_to(&self, session: &Arc<Session>, reached: Option<&str>) -> Result<bool, StoreError> {
        if self.is_dataset(reached) {
            return Ok(true);
        }
        if timeout(self.heartbeat_timeout(), self.identify(session)).await.is_ok_and(|identified| identified.is_ok()) {
            return Ok(false);
        }
        self.give_up(session);
        Err(StoreError::Unavailable)
    }

    /// Finds out which data set is behind the connection, and drops what is known of the last one.
    pub(crate) async fn identify(&self, session: &Session) -> RedisResult<()> {
        let known = self.data_set().clone();
        let before = known.as_ref().map(|known| known.id.clone());
        let identity = session.identity.as_ref().map(Identity::later);
        let mut tags = session.driver.clone();
        self.check(identity.as_ref(), known, &mut tags).await?;
        if before == self.dataset_id() {
            return Ok(());
        }
        tracing::info!("the connection to Redis leads to another data set; what was known of the last one is void");
        self.context.forget_all(&session.tokens, &session.waiters);
        if self.context.outbox.concerns(|scope| self.shard.covers(scope)) {
            return Err((ErrorKind::Io, "the other data set must receive the kept invalidations first").into());
        }
        Ok(())
    }
}
