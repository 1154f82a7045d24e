//! Whether the data set is the one that was here before: it may be older than an invalidation if its server was
//! restarted with what it had saved, or if a replica took its primary's place.
//!
//! A server is told from every other one, and from itself before a restart, by its run id and its replication id. Which
//! one a data set was last seen under stands in the data set; who connects and finds another one acts by the policy,
//! before anything is read.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use redis::{ErrorKind, RedisResult, aio::MultiplexedConnection};

use super::{
    EVERYTHING, TOKEN_LIFE, chance,
    errors::is_out_of_memory,
    names::Names,
    pending::Pending,
    scripts::{self, Batch},
    share::Share,
};
use crate::{
    clock::millis,
    store::{OwnedScope, Scope},
};

/// Invalidations kept to be replayed; above that they are merged into one of everything.
const CAP: usize = 10_000;

/// What to do when a data set appears that may be older than the latest invalidations: see
/// [`RedisStoreBuilder::on_restored`](super::RedisStoreBuilder::on_restored).
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
pub(super) struct Guard {
    policy: Restored,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// The identities that this process has connected to.
    met: HashSet<Arc<str>>,
    invalidations: VecDeque<(Instant, OwnedScope)>,
}

/// Who a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    id: Arc<str>,
    /// Whether there is nothing on it at all.
    empty: bool,
}

impl Identity {
    /// Asks a server who it is; an error if it is no primary. `None` if it doesn't say.
    pub(super) async fn ask(connection: &mut MultiplexedConnection) -> RedisResult<Option<Self>> {
        let info: RedisResult<String> =
            redis::cmd("INFO").arg("server").arg("replication").arg("keyspace").query_async(connection).await;
        let info = match info {
            Ok(info) => info,
            Err(error) if error.code() == Some("NOPERM") => {
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

    pub(super) fn id(&self) -> &Arc<str> {
        &self.id
    }
}

impl Guard {
    pub(super) fn new(policy: Restored) -> Self {
        Self { policy, recent: Mutex::default() }
    }

    /// Takes note of an invalidation that was delivered.
    pub(super) fn remember(&self, scope: Scope<'_>) {
        let Restored::Replay(last) = self.policy else { return };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Acts on who the server is, before the connection to it is used. `tags` leads to where tags are kept, which may
    /// be another server; what is to be repeated is left with `pending`.
    pub(super) async fn check(
        &self,
        identity: &Identity,
        share: &Share,
        tags: &mut MultiplexedConnection,
        names: &Names,
        pending: &Pending,
    ) -> RedisResult<()> {
        if let Restored::Replay(last) = self.policy {
            self.replay(identity, share, last, pending);
        }
        let clear = self.policy == Restored::Clear && !identity.empty;
        let (id, everything, note) = (names.identity(share.name()), names.tag(EVERYTHING), names.last_invalidation());
        let (policy, chance, life) = (if clear { "clear" } else { "keep" }, chance(), millis(TOKEN_LIFE).to_string());
        let mut batch = Batch::default();
        batch.call(
            &scripts::IDENTIFY,
            &[&id, &everything, &note],
            &[identity.id.as_bytes(), policy.as_bytes(), chance.as_bytes(), life.as_bytes()],
        );
        match batch.run::<(bool,)>(tags).await {
            Ok((cleared,)) => {
                if cleared {
                    tracing::warn!("this data set may be older than an invalidation: everything was invalidated");
                }
                Ok(())
            }
            // There is no room to write a new token, but no token will do as well.
            Err(error) if is_out_of_memory(&error) && clear => {
                redis::cmd("UNLINK").arg(&everything).arg(&note).query_async(tags).await
            }
            Err(error) if is_out_of_memory(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn replay(&self, identity: &Identity, share: &Share, last: Duration, pending: &Pending) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.met.contains(&identity.id) {
            return;
        }
        for (when, scope) in &recent.invalidations {
            if when.elapsed() <= last && share.covers(scope.borrow()) {
                pending.add(scope.borrow());
            }
        }
        recent.met.insert(identity.id.clone());
    }
}
