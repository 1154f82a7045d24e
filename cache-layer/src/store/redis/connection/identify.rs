//! Whether the data set behind a connection is the one that was here before: it may be older than an invalidation if its
//! server was restarted with what it had saved, or if a replica took its primary's place.
//!
//! A server is told from every other one, and from itself before a restart, by its run id and its replication id. Which
//! one a data set was last seen under stands in the data set; a connection that finds another one there acts by the
//! [policy](crate::store::redis::tracking::dataset_guard), before anything is read over it.
//!
//! A server has several data sets, and `SWAPDB` puts another one under a connection that lives; no server tells its clients
//! of that. So each data set has a mark, too, and none has that of another one. It is looked at with each heartbeat and with
//! each invalidation, since one that went to another data set is unknown to this one when it is back. A mark that is missing
//! may have been flushed with everything else, or evicted, or there never was one: that is another data set as well.

use std::sync::Arc;

use redis::{ErrorKind, RedisResult, aio::MultiplexedConnection};

use super::shard::Shard;
use crate::{
    clock::millis,
    store::{
        Scope,
        redis::{
            tracking::{dataset_guard::DatasetGuard, outbox::Outbox},
            wire::{
                errors::{is_not_allowed, is_out_of_memory},
                names::{EVERYTHING, Names, TOKEN_LIFE, nonce},
                replies::{Bulk, Count, Flag, Moment, text},
                scripts::{self, Batch},
            },
        },
    },
};

/// The data set that was found behind a connection.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// The id of its server, if it says so.
    server: Option<Arc<str>>,
    pub(crate) mark: Arc<str>,
    /// When it was last seen to be this one: 16 hex digits, by the server's clock.
    pub(crate) seen: String,
}

impl Known {
    /// The same, for a server whose clock may be another one.
    pub(crate) fn by_another_clock(self) -> Self {
        Self { seen: String::new(), ..self }
    }
}

/// Who a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    id: Arc<str>,
    /// Whether there is nothing on it at all.
    empty: bool,
}

impl Identity {
    /// Asks a server who it is; an error if it is no primary. `None` if it doesn't say.
    pub(crate) async fn ask(connection: &mut MultiplexedConnection) -> RedisResult<Option<Self>> {
        let info: RedisResult<String> =
            redis::cmd("INFO").arg("server").arg("replication").arg("keyspace").query_async(connection).await;
        let info = match info {
            Ok(info) => info,
            Err(error) if is_not_allowed(&error) => {
                tracing::warn!(%error, "Redis does not say who it is; a data set that was restored is not noticed");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        if field("role") == Some("slave") {
            return Err((ErrorKind::Io, "the server is a replica").into());
        }
        Ok(field("run_id").zip(field("master_replid")).map(|(run, replication)| Self {
            id: format!("{run}:{replication}").into(),
            empty: !info.lines().any(|line| line.starts_with("db")),
        }))
    }

    pub(crate) fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The same server, later: by now there may be something on it.
    pub(crate) fn later(&self) -> Self {
        Self { empty: false, ..self.clone() }
    }
}

/// What is done about a data set that may be older than an invalidation, for the server that has `shard`.
pub(crate) struct Identify<'a> {
    pub(crate) guard: &'a DatasetGuard,
    pub(crate) outbox: &'a Outbox,
    pub(crate) names: &'a Names,
    pub(crate) shard: &'a dyn Shard,
}

impl Identify<'_> {
    /// Acts on who the server is and on which data set it has, before anything more is read from it; `None` if the data set
    /// could not be marked, for want of room. `tags` leads to where tags are kept, which may be another server; `known` is
    /// what this connection, or the one before it, found; what is to be repeated is left in the outbox.
    pub(crate) async fn run(
        &self,
        identity: Option<&Identity>,
        known: Option<Known>,
        tags: &mut MultiplexedConnection,
    ) -> RedisResult<Option<Known>> {
        if let Some(identity) = identity {
            self.guard.replay_unless_met(&identity.id, |scope| self.repeat(scope));
        }
        let server = identity.map(|identity| identity.id.clone());
        // Another server's clock says nothing here, and the connection that found it first has done what there is to do.
        let known = known.filter(|known| known.server == server);
        let clear = self.guard.clears() && identity.is_none_or(|identity| !identity.empty);
        match self.identify(server.as_deref(), clear, known.as_ref()).run::<((Bulk, Flag, Moment),)>(tags).await {
            Ok(((Bulk(mark), Flag(cleared), Moment(seen)),)) => {
                let (mark, seen) = (Arc::<str>::from(text(mark)?), text(seen.to_vec())?);
                if cleared {
                    tracing::warn!("this data set may be older than an invalidation: everything was invalidated");
                }
                if known.is_some_and(|known| known.mark != mark) {
                    self.guard.replay(|scope| self.repeat(scope));
                }
                Ok(Some(Known { server, mark, seen }))
            }
            Err(error) if is_out_of_memory(&error) => self.unlink(clear, tags).await.map(|()| None),
            Err(error) => Err(error),
        }
    }

    fn identify(&self, server: Option<&str>, clear: bool, known: Option<&Known>) -> Batch {
        let (names, shard) = (self.names, self.shard.name());
        let (policy, life) = (if clear { "clear" } else { "keep" }, millis(TOKEN_LIFE).to_string());
        let mut batch = Batch::default();
        batch.call(
            &scripts::IDENTIFY,
            &[&names.identity(shard), &names.mark(shard), &names.tag(EVERYTHING), &names.last_invalidation()],
            &[
                server.unwrap_or_default().as_bytes(),
                nonce().as_bytes(),
                policy.as_bytes(),
                nonce().as_bytes(),
                life.as_bytes(),
                known.map_or("", |known| &known.mark).as_bytes(),
                known.map_or("", |known| &known.seen).as_bytes(),
            ],
        );
        batch
    }

    /// There is no room to write a new token, but no token will do as well. So will no mark, where the one that is there is
    /// of another server: found again and again, it makes the data set another one each time.
    async fn unlink(&self, clear: bool, tags: &mut MultiplexedConnection) -> RedisResult<()> {
        let (names, shard) = (self.names, self.shard.name());
        let mut unlink = redis::cmd("UNLINK");
        unlink.arg(names.identity(shard)).arg(names.mark(shard));
        if clear {
            unlink.arg(names.tag(EVERYTHING)).arg(names.last_invalidation());
        }
        unlink.query_async::<Count>(tags).await?.at_most(4).map(|_| ())
    }

    fn repeat(&self, scope: Scope<'_>) {
        if self.shard.covers(scope) {
            self.outbox.add(scope);
        }
    }
}
