//! Whether the data set behind a connection is the one that was here before: it may be older than an invalidation if its server
//! was restarted with saved data, or if a replica took its primary's place.
//!
//! A server is distinguished from every other one, and from itself before a restart, by its run id and its replication id. A data
//! set records the server under which it was last seen; a connection that finds another server's record acts by the
//! [policy](crate::store::redis::tracking::dataset_guard), before anything is read over it.
//!
//! A server has several data sets, and `SWAPDB` puts another one under a live connection without telling its clients. So each
//! data set also has a unique id. The id is checked with each heartbeat and with each invalidation, since a data set that is
//! swapped back has missed the invalidations of the other one. An id that is missing may have been flushed with everything else,
//! or evicted, or never written: that counts as another data set as well.

use std::sync::Arc;

use redis::{ErrorKind, RedisResult, aio::MultiplexedConnection};

use super::shard::Shard;
use crate::{
    clock::millis,
    store::{
        Scope,
        redis::{
            tracking::{
                dataset_guard::{DatasetGuard, Repeated},
                outbox::Outbox,
            },
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
    pub(crate) id: Arc<str>,
    /// When it was last recognized: 16 hex digits, by the server's clock.
    pub(crate) seen: String,
}

impl Known {
    /// The same data set, for a server whose clock may be another one.
    pub(crate) fn by_another_clock(self) -> Self {
        Self { seen: String::new(), ..self }
    }
}

/// The identity of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    id: Arc<str>,
    /// Whether the server has no data at all.
    empty: bool,
}

impl Identity {
    /// Asks a server for its identity; an error if it is no primary. `None` if it doesn't say.
    pub(crate) async fn ask(connection: &mut MultiplexedConnection) -> RedisResult<Option<Self>> {
        let info: RedisResult<String> =
            redis::cmd("INFO").arg("server").arg("replication").arg("keyspace").query_async(connection).await;
        let info = match info {
            Ok(info) => info,
            Err(error) if is_not_allowed(&error) => {
                tracing::warn!(%error, "Redis does not say which server it is, so that a restored data set is not noticed");
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

    /// The same server at a later time: there may be data on it by now.
    pub(crate) fn later(&self) -> Self {
        Self { empty: false, ..self.clone() }
    }
}

/// Handles a data set that may be older than an invalidation, for the server that has `shard`.
pub(crate) struct Identify<'a> {
    pub(crate) guard: &'a DatasetGuard,
    pub(crate) outbox: &'a Outbox,
    pub(crate) names: &'a Names,
    pub(crate) shard: &'a dyn Shard,
}

impl Identify<'_> {
    /// Acts on the identity of the server and its data set, before anything more is read from it; `None` if the data set could
    /// not be given an id, for lack of room. `tags` leads to the server that has the tags, which may be another one. `known` is what
    /// this connection, or the one before it, found. Invalidations that must be repeated are left in the outbox.
    pub(crate) async fn run(
        &self,
        identity: Option<&Identity>,
        known: Option<Known>,
        tags: &mut MultiplexedConnection,
    ) -> RedisResult<Option<Known>> {
        if let Some(identity) = identity {
            self.repeat(!identity.empty, |again| self.guard.replay_unless_met(&identity.id, again));
        }
        let server = identity.map(|identity| identity.id.clone());
        // Another server's clock is not comparable here, and the connection that found that server first has done what is
        // necessary.
        let known = known.filter(|known| known.server == server);
        let clear = self.guard.clears() && identity.is_none_or(|identity| !identity.empty);
        match self.identify(server.as_deref(), clear, known.as_ref()).run::<((Bulk, Flag, Moment),)>(tags).await {
            Ok(((Bulk(id), Flag(cleared), Moment(seen)),)) => {
                let (id, seen) = (Arc::<str>::from(text(id)?), text(seen.to_vec())?);
                if cleared {
                    tracing::warn!("this data set may be older than an invalidation: everything was invalidated");
                }
                if known.is_some_and(|known| known.id != id) {
                    self.repeat(true, |again| self.guard.replay(again));
                }
                Ok(Some(Known { server, id, seen }))
            }
            Err(error) if is_out_of_memory(&error) => {
                // Nothing is written about a data set that is known.
                if known.is_some() {
                    self.repeat(true, |again| self.guard.replay(again));
                }
                self.unlink(clear, tags).await.map(|()| None)
            }
            Err(error) => Err(error),
        }
    }

    fn identify(&self, server: Option<&str>, clear: bool, known: Option<&Known>) -> Batch {
        let (names, shard) = (self.names, self.shard.name());
        let (policy, life) = (if clear { "clear" } else { "keep" }, millis(TOKEN_LIFE).to_string());
        let mut batch = Batch::default();
        batch.call(
            &scripts::IDENTIFY,
            &[&names.identity(shard), &names.dataset_id(shard), &names.tag(EVERYTHING), &names.last_invalidation()],
            &[
                server.unwrap_or_default().as_bytes(),
                nonce().as_bytes(),
                policy.as_bytes(),
                nonce().as_bytes(),
                life.as_bytes(),
                known.map_or("", |known| &known.id).as_bytes(),
                known.map_or("", |known| &known.seen).as_bytes(),
            ],
        );
        batch
    }

    /// There is no room to write a new token, but a missing token voids entries as well. The id that another server gave is
    /// deleted, too: each connection would take the data set for another one because of it.
    async fn unlink(&self, clear: bool, tags: &mut MultiplexedConnection) -> RedisResult<()> {
        let (names, shard) = (self.names, self.shard.name());
        let mut unlink = redis::cmd("UNLINK");
        unlink.arg(names.identity(shard)).arg(names.dataset_id(shard));
        if clear {
            unlink.arg(names.tag(EVERYTHING)).arg(names.last_invalidation());
        }
        unlink.query_async::<Count>(tags).await?.at_most(4).map(|_| ())
    }

    /// Leaves what this server must hear again in the outbox. `has_entries`: it has some that may be older than a pattern.
    fn repeat(&self, has_entries: bool, replay: impl FnOnce(&mut dyn FnMut(Repeated<'_>))) {
        let mut holds_up_tags = false;
        replay(&mut |repeated| {
            let (scope, is_merged) = match repeated {
                Repeated::One(scope) => (scope, false),
                Repeated::Merged => (Scope::Everything, true),
            };
            let is_covered = self.shard.covers(scope);
            // A ban, wherever it is listed, is obeyed for the entries of this server; so is a new token of everything, which stands
            // for invalidations of its keys.
            let is_for_all = is_merged || matches!(scope, Scope::Pattern(_));
            let is_for_tags = !is_covered && has_entries && is_for_all;
            if is_covered || is_for_tags {
                self.outbox.add(scope);
            }
            // Within the replay, for whose end another connection to this server waits.
            if is_for_tags && !std::mem::replace(&mut holds_up_tags, true) {
                self.shard.hold_up_tags();
            }
        });
    }
}
