//! Whether the data set is the one that was here before: it may be older than an invalidation if its server was
//! restarted with what it had saved, or if a replica took its primary's place.
//!
//! A server is told from every other one, and from itself before a restart, by its run id and its replication id. Which
//! one a data set was last seen under stands in the data set; who connects and finds another one acts by the policy,
//! before anything is read.
//!
//! A server has several data sets, and `SWAPDB` puts another one under a connection that lives; no server tells its clients
//! of that. So each data set has a mark, too, and none has that of another one. It is looked at with each heartbeat and with
//! each invalidation, since one that went to another data set is unknown to this one when it is back. A mark that is missing
//! may have been flushed with everything else, or evicted, or there never was one: that is another data set as well.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

use redis::{ErrorKind, RedisResult, aio::MultiplexedConnection};

use super::pending::Pending;
use crate::store::redis::{
    connection::shard::Shard,
    wire::{
        errors::{is_not_allowed, is_out_of_memory},
        names::{EVERYTHING, Names, TOKEN_LIFE, nonce},
        replies::{Bulk, Count, Flag, Moment, text},
        scripts::{self, Batch},
    },
};
use crate::{
    clock::millis,
    store::{OwnedScope, Scope},
    sync::Mutex,
};

/// Invalidations kept to be replayed; above that they are merged into one of everything.
const CAP: usize = 10_000;

/// What to do when a data set appears that may be older than the latest invalidations: see
/// [`RedisStoreBuilder::on_restored`](crate::store::redis::RedisStoreBuilder::on_restored).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restored {
    /// Invalidate everything: nothing is ever served that an invalidation covered. Costs a cold cache after a fail-over.
    #[default]
    Clear,
    /// Repeat what this process invalidated in the last so long, which should be longer than replicas lag or dumps are
    /// old. Misses invalidations by processes that are gone.
    Replay(Duration),
    /// Use the data set as it is: an invalidation that it has not heard of is lost.
    Trust,
}

#[derive(Debug)]
pub(crate) struct Guard {
    policy: Restored,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// The identities that this process has connected to.
    met: HashSet<Arc<str>>,
    invalidations: VecDeque<(Instant, OwnedScope)>,
}

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

impl Guard {
    pub(crate) fn new(policy: Restored) -> Self {
        Self { policy, recent: Mutex::default() }
    }

    /// Takes note of an invalidation that was delivered, or will be.
    pub(crate) fn remember(&self, scope: Scope<'_>) {
        let Restored::Replay(last) = self.policy else { return };
        let mut recent = self.recent();
        let invalidations = &mut recent.invalidations;
        while invalidations.front().is_some_and(|(when, _)| when.elapsed() > last) {
            invalidations.pop_front();
        }
        if invalidations.len() >= CAP {
            invalidations.clear();
            invalidations.push_back((Instant::now(), OwnedScope::Everything));
        }
        invalidations.push_back((Instant::now(), scope.to_owned()));
    }

    /// Acts on who the server is and on which data set it has, before anything more is read from it; `None` if the data set
    /// could not be marked, for want of room. `tags` leads to where tags are kept, which may be another server; `known` is
    /// what this connection, or the one before it, found; what is to be repeated is left with `pending`.
    pub(crate) async fn check(
        &self,
        identity: Option<&Identity>,
        known: Option<Known>,
        shard: &dyn Shard,
        tags: &mut MultiplexedConnection,
        names: &Names,
        pending: &Pending,
    ) -> RedisResult<Option<Known>> {
        if let (Restored::Replay(last), Some(identity)) = (self.policy, identity) {
            self.replay_unless_met(identity, shard, last, pending);
        }
        let server = identity.map(|identity| identity.id.clone());
        // Another server's clock says nothing here, and whoever found it first has done what there is to do.
        let known = known.filter(|known| known.server == server);
        let clear = self.policy == Restored::Clear && identity.is_none_or(|identity| !identity.empty);
        let [everything, note] = [names.tag(EVERYTHING), names.last_invalidation()];
        let (policy, life) = (if clear { "clear" } else { "keep" }, millis(TOKEN_LIFE).to_string());
        let mut batch = Batch::default();
        batch.call(
            &scripts::IDENTIFY,
            &[&names.identity(shard.name()), &names.mark(shard.name()), &everything, &note],
            &[
                server.as_deref().unwrap_or_default().as_bytes(),
                nonce().as_bytes(),
                policy.as_bytes(),
                nonce().as_bytes(),
                life.as_bytes(),
                known.as_ref().map_or("", |known| &known.mark).as_bytes(),
                known.as_ref().map_or("", |known| &known.seen).as_bytes(),
            ],
        );
        match batch.run::<((Bulk, Flag, Moment),)>(tags).await {
            Ok(((Bulk(mark), Flag(cleared), Moment(seen)),)) => {
                let (mark, seen) = (Arc::<str>::from(text(mark)?), text(seen.to_vec())?);
                if cleared {
                    tracing::warn!("this data set may be older than an invalidation: everything was invalidated");
                }
                if let Restored::Replay(last) = self.policy
                    && known.is_some_and(|known| known.mark != mark)
                {
                    self.replay(shard, last, pending);
                }
                Ok(Some(Known { server, mark, seen }))
            }
            // There is no room to write a new token, but no token will do as well. So will no mark, where the one that is
            // there is of another server: who finds it again and again takes the data set for another one each time.
            Err(error) if is_out_of_memory(&error) => {
                let mut unlink = redis::cmd("UNLINK");
                unlink.arg(names.identity(shard.name())).arg(names.mark(shard.name()));
                if clear {
                    unlink.arg(&everything).arg(&note);
                }
                unlink.query_async::<Count>(tags).await?.at_most(4).map(|_| None)
            }
            Err(error) => Err(error),
        }
    }

    fn replay_unless_met(&self, identity: &Identity, shard: &dyn Shard, last: Duration, pending: &Pending) {
        let met = |recent: &mut Recent| !recent.met.insert(identity.id.clone());
        if !met(&mut self.recent()) {
            self.replay(shard, last, pending);
        }
    }

    fn replay(&self, shard: &dyn Shard, last: Duration, pending: &Pending) {
        for (when, scope) in &self.recent().invalidations {
            if when.elapsed() <= last && shard.covers(scope.borrow()) {
                pending.add(scope.borrow());
            }
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock()
    }
}
