//! One connection as operations see it: its current session, if any, and how an operation runs over it.
//!
//! This is the breaker. An operation needs a [`Session`] that is published here; while the server is unreachable there is none,
//! so operations fail at once. The [supervisor](super::supervisor), never a request, finds out when the server is back.

use std::{
    fmt,
    future::Future,
    sync::{Arc, MutexGuard, atomic::Ordering},
    time::{Duration, Instant},
};

use redis::{FromRedisValue, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::{sync::Notify, time::timeout};
use tracing::Instrument as _;

use super::{address::Address, context::Context, identify::Known, session::Session, shard::Shard};
use crate::{
    store::{
        StoreError,
        redis::wire::{
            errors::{is_out_of_memory, proves_connection_useless},
            operation::{Operation, failed},
            scripts::Batch,
        },
    },
    sync::{Mutex, RwLock},
};

/// A heartbeat may take this long, or as long as an operation if that is longer: it decides whether the connection is given up.
pub(super) const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Connection {
    pub(super) context: Arc<Context>,
    pub(super) address: Address,
    pub(super) shard: Box<dyn Shard>,
    /// Whether its first session is made after a loss, as far as the store is concerned.
    pub(super) rejoins: bool,
    current: RwLock<Option<Arc<Session>>>,
    /// The session that was given up last, and when, while what was read over it may still be served.
    last_session: RwLock<Option<(Arc<Session>, Instant)>>,
    /// Since when there is no session; `None` if there is one.
    absent: Mutex<Option<Instant>>,
    /// Why there is no session, if there is none.
    last_error: RwLock<String>,
    /// The data set behind the connection, or the last one.
    data_set: Mutex<Option<Known>>,
    /// Wakes the supervisor before its next heartbeat.
    pub(super) wake: Arc<Notify>,
    /// Wakes all tasks that wait for the first session.
    pub(super) connected: Notify,
}

/// How long an operation may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// A request waits for it.
    Request,
    /// No request waits for it.
    Background,
    /// It has many steps, each with a limit of its own.
    Steps,
}

impl Connection {
    pub(crate) fn new(address: Address, shard: Box<dyn Shard>, rejoins: bool, context: Arc<Context>) -> Arc<Self> {
        Arc::new(Self {
            context,
            address,
            shard,
            rejoins,
            current: RwLock::new(None),
            last_session: RwLock::new(None),
            absent: Mutex::new(Some(Instant::now())),
            last_error: RwLock::new("still connecting".to_owned()),
            data_set: Mutex::new(None),
            wake: Arc::default(),
            connected: Notify::new(),
        })
    }

    /// The session, if there is one.
    pub(crate) fn session(&self) -> Result<Arc<Session>, StoreError> {
        self.current.read().clone().ok_or(StoreError::Unavailable)
    }

    /// The session, if there is one that may be read over.
    pub(crate) fn settled(&self) -> Result<Arc<Session>, StoreError> {
        self.session().and_then(|session| if session.is_settled() { Ok(session) } else { Err(StoreError::Unavailable) })
    }

    /// The session whose knowledge counts: the current one, or one that was lost a moment ago.
    pub(crate) fn believed(&self) -> Option<Arc<Session>> {
        self.session().ok().or_else(|| {
            let grace = self.grace();
            let lost = self.last_session.read().clone();
            lost.filter(|(_, at)| at.elapsed() < grace).map(|(session, _)| session)
        })
    }

    /// How long to wait for a heartbeat: at least as long as for any operation, which it may have to queue behind.
    pub(super) fn heartbeat_timeout(&self) -> Duration {
        self.context.timeouts.operation.max(HEARTBEAT_TIMEOUT)
    }

    /// When an operation that begins now will have timed out, if no request waits for it: in microseconds by the server's clock, and
    /// rather too early. `None` if that clock is not known, as in a cluster, where nodes have clocks of their own.
    pub(crate) fn times_out_at(&self) -> Option<u64> {
        let earliest = self.context.clock.earliest().filter(|_| self.shard.is_everything())?;
        earliest.checked_add(u64::try_from(self.heartbeat_timeout().as_micros()).ok()?)
    }

    fn grace(&self) -> Duration {
        self.context.local_tier.get().map_or(Duration::ZERO, |tier| tier.grace())
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.current.read().is_some()
    }

    /// Why there is no connection, if there is none.
    pub(crate) fn last_error(&self) -> String {
        self.last_error.read().clone()
    }

    pub(crate) fn note_error(&self, reason: String) {
        *self.last_error.write() = reason;
    }

    /// The id of the data set behind the connection.
    pub(crate) fn dataset_id(&self) -> Option<Arc<str>> {
        self.data_set().as_ref().map(|known| known.id.clone())
    }

    pub(super) fn data_set(&self) -> MutexGuard<'_, Option<Known>> {
        self.data_set.lock()
    }

    /// Until when an invalidation waits for a connection: a long outage delays no caller.
    pub(crate) fn waits_until(&self) -> Instant {
        let absent = self.absent.lock();
        absent.unwrap_or_else(Instant::now) + self.context.timeouts.delivery
    }

    fn note_absent(&self, since: Option<Instant>) {
        *self.absent.lock() = since;
    }

    fn note_loss(&self, lost: Option<(Arc<Session>, Instant)>) {
        *self.last_session.write() = lost;
    }

    pub(super) fn publish(&self, session: Option<Arc<Session>>) {
        self.note_loss(None);
        self.note_absent(session.is_none().then(Instant::now));
        *self.current.write() = session;
    }

    /// Returns once there is a session.
    pub(crate) async fn wait_connected(&self) {
        loop {
            let connected = self.connected.notified();
            if self.is_connected() {
                return;
            }
            connected.await;
        }
    }

    /// Whether this is the session that operations get.
    pub(crate) fn has(&self, session: &Arc<Session>) -> bool {
        self.current.read().as_ref().is_some_and(|current| Arc::ptr_eq(current, session))
    }

    /// Gives the session up: operations no longer get it, and the supervisor makes a new one.
    pub(crate) fn give_up(&self, session: &Arc<Session>) {
        // Until this is released, there is no next session that anything could be known through.
        let mut published = self.current.write();
        if published.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            *published = None;
            session.end.is_given_up.store(true, Ordering::SeqCst);
            self.note_absent(Some(Instant::now()));
            self.context.counters.lost_a_connection();
            if self.grace().is_zero() {
                session.tokens.void_all();
            } else {
                self.note_loss(Some((session.clone(), Instant::now())));
            }
            self.context.leases.revoke_all();
            session.waiters.wake_all();
            self.wake.notify_one();
        }
    }

    /// Gives up the current session, if there is one.
    pub(crate) fn reset(&self) {
        if let Ok(session) = self.session() {
            self.give_up(&session);
        }
    }

    /// Runs the calls of `batch`, for which a request waits.
    pub(crate) fn run<T: FromRedisValue>(
        &self,
        what: Operation,
        session: &Arc<Session>,
        batch: &Batch,
    ) -> impl Future<Output = Result<T, StoreError>> {
        let run = move |mut driver: MultiplexedConnection| async move { batch.run(&mut driver).await };
        self.run_with(what, session, Limit::Request, run)
    }

    /// Runs one operation.
    // Not an `async fn`, which would store the operation twice: as the argument, and as the running future.
    pub(crate) fn run_with<T, F>(
        &self,
        what: Operation,
        session: &Arc<Session>,
        limit: Limit,
        operation: impl FnOnce(MultiplexedConnection) -> F,
    ) -> impl Future<Output = Result<T, StoreError>>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.wait(what, session, limit, operation(session.driver.clone()))
    }

    /// As [`run_with`](Self::run_with), for an operation that has been sent already.
    pub(crate) fn wait<T>(
        &self,
        what: Operation,
        session: &Arc<Session>,
        limit: Limit,
        operation: impl Future<Output = RedisResult<T>>,
    ) -> impl Future<Output = Result<T, StoreError>> {
        let deadline = match limit {
            Limit::Request => self.context.timeouts.operation,
            Limit::Background => self.heartbeat_timeout(),
            Limit::Steps => Duration::MAX,
        };
        self.context.counters.sent(what);
        let span = what.span(&session.server);
        async move {
            match timeout(deadline, operation).instrument(span.clone()).await {
                Ok(Ok(reply)) => {
                    session.succeeded();
                    Ok(reply)
                }
                Ok(Err(reply)) => {
                    let error = self.judge(session, &reply);
                    failed(&span, &error, Some(&reply));
                    Err(error)
                }
                Err(_) => {
                    if session.timed_out(self.context.timeouts.operation) {
                        self.give_up(session);
                    }
                    failed(&span, &StoreError::TimedOut, None);
                    Err(StoreError::TimedOut)
                }
            }
        }
    }

    /// Applies an error to the connection and the server's state, and returns it in the caller's form.
    fn judge(&self, session: &Arc<Session>, error: &RedisError) -> StoreError {
        if proves_connection_useless(error) {
            self.give_up(session);
            return StoreError::Unavailable;
        }
        session.succeeded();
        if error.is_cluster_error() {
            self.shard.refresh_topology();
            return StoreError::Unavailable;
        }
        if is_out_of_memory(error) {
            session.note_full();
            self.context.counters.refused();
            return StoreError::Full;
        }
        StoreError::Failed(error.to_string())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("connected", &self.is_connected()).finish_non_exhaustive()
    }
}
