//! One connection to the server, and the task that keeps it: connects, proves by heartbeat that it still works, gives
//! it up when it doesn't, and tries again.
//!
//! This is the breaker, too. An operation needs a connection that is published here; there is none while the server is
//! unreachable, so operations fail at once. It is the keeper, never a request, that finds out when the server is back.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, ConnectionAddr, ErrorKind, PushInfo, PushKind, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    NearSlot,
    address::Address,
    errors::{is_out_of_memory, proves_connection_useless},
    grants::Grants,
    guard::{Guard, Identity},
    names::{Named, Names},
    operation::{Operation, Server, failed},
    pending::Pending,
    reads::Reads,
    scripts,
    share::Share,
    tally::{Push, Tally},
    tokens::Tokens,
    waiters::Waiters,
};
use crate::{clock::millis, store::StoreError};

/// Pause between heartbeats: with its deadline, the bound on noticing a link of which only one half is left.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A heartbeat may be slow where an operation may not: it is the last word on a connection.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(1);
/// Operations that must time out, without one that succeeds for twice their deadline, before the connection is given
/// up: one slow reply proves nothing, and a burst of them is one stall.
const TIMEOUTS_TO_GIVE_UP: u32 = 5;
/// How long a server that was full is not asked to store anything.
const FULL: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// Operations on their way to a connection before the next one has to wait. Of those of many clients at once, none should:
/// what waits wakes up once more, and comes too late to be sent with the others.
const IN_FLIGHT: usize = 1024;

static NUMBERS: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) operation: Duration,
}

/// What all connections of a store have in common.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) names: Names,
    pub(super) pending: Arc<Pending>,
    pub(super) guard: Arc<Guard>,
    pub(super) near: NearSlot,
    pub(super) grants: Arc<Grants>,
    pub(super) tally: Arc<Tally>,
    pub(super) timeouts: Timeouts,
}

pub(super) struct Link {
    address: Address,
    share: Share,
    names: Names,
    pending: Arc<Pending>,
    guard: Arc<Guard>,
    near: NearSlot,
    grants: Arc<Grants>,
    tally: Arc<Tally>,
    timeouts: Timeouts,
    live: RwLock<Option<Arc<Live>>>,
    /// The connection that was given up last, and when, while what was read over it may still be served.
    lost: RwLock<Option<(Arc<Live>, Instant)>>,
    /// Why there is no connection, when there is none.
    absence: RwLock<String>,
    /// Wakes the keeper before its next heartbeat.
    trouble: Notify,
    /// Wakes whoever waits for the first connection.
    connected: Notify,
}

/// A connection that works as far as anybody knows.
pub(super) struct Live {
    connection: MultiplexedConnection,
    /// Look-ups by it.
    pub(super) reads: Arc<Reads>,
    /// Tells it from every other one of this process.
    pub(super) number: u64,
    pub(super) tokens: Arc<Tokens>,
    pub(super) waiters: Arc<Waiters>,
    /// Whether the server tracks what this connection reads; a proxy or an access list may refuse it.
    pub(super) tracking: bool,
    /// Who the server is, if it says so.
    identity: Option<Identity>,
    server: Server,
    born: Instant,
    /// Milliseconds after `born` of the last operation that succeeded, and the timeouts since.
    last_success: AtomicU64,
    timeouts: AtomicU32,
    /// Milliseconds after `born` until when the server is taken to be full.
    full_until: AtomicU64,
}

impl Link {
    pub(super) fn new(
        address: Address,
        share: Share,
        Shared { names, pending, guard, near, grants, tally, timeouts }: Shared,
    ) -> Arc<Self> {
        Arc::new(Self {
            address,
            share,
            names,
            pending,
            guard,
            near,
            grants,
            tally,
            timeouts,
            live: RwLock::new(None),
            lost: RwLock::new(None),
            absence: RwLock::new("still connecting".to_owned()),
            trouble: Notify::new(),
            connected: Notify::new(),
        })
    }

    /// The connection, if there is one.
    pub(super) fn live(&self) -> Result<Arc<Live>, StoreError> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Unavailable)
    }

    /// The connection whose knowledge counts: that which is there, or was there a moment ago.
    pub(super) fn believed(&self) -> Option<Arc<Live>> {
        self.live().ok().or_else(|| {
            let grace = self.grace();
            let lost = self.lost.read().unwrap_or_else(PoisonError::into_inner).clone();
            lost.filter(|(_, at)| at.elapsed() < grace).map(|(live, _)| live)
        })
    }

    fn grace(&self) -> Duration {
        self.near.get().map_or(Duration::ZERO, |near| near.grace())
    }

    pub(super) fn is_live(&self) -> bool {
        self.live.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Why there is no connection, when there is none.
    pub(super) fn absence(&self) -> String {
        self.absence.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note_absence(&self, reason: String) {
        *self.absence.write().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    fn note_loss(&self, lost: Option<(Arc<Live>, Instant)>) {
        *self.lost.write().unwrap_or_else(PoisonError::into_inner) = lost;
    }

    fn publish(&self, live: Option<Arc<Live>>) {
        self.note_loss(None);
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
    }

    /// Returns once there is a connection.
    pub(super) async fn wait_connected(&self) {
        loop {
            let connected = self.connected.notified();
            if self.is_live() {
                return;
            }
            connected.await;
        }
    }

    /// Gives the connection up: nobody gets it any more, and the keeper makes a new one.
    pub(super) fn give_up(&self, live: &Arc<Live>) {
        let mut published = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if published.as_ref().is_some_and(|current| Arc::ptr_eq(current, live)) {
            *published = None;
            self.tally.lost_a_connection();
            if self.grace().is_zero() {
                live.tokens.forget_all();
            } else {
                self.note_loss(Some((live.clone(), Instant::now())));
            }
            self.grants.void_all();
            live.waiters.wake_all();
            self.trouble.notify_one();
        }
    }

    /// Gives up whatever connection there is.
    pub(super) fn reset(&self) {
        if let Ok(live) = self.live() {
            self.give_up(&live);
        }
    }

    /// Runs one operation, within its deadline.
    pub(super) fn run<T, F>(
        &self,
        what: Operation,
        live: &Arc<Live>,
        operation: impl FnOnce(MultiplexedConnection) -> F,
    ) -> impl Future<Output = Result<T, StoreError>>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.run_within(self.timeouts.operation, what, live, operation)
    }

    /// As [`run`](Self::run), for an operation that is on its way already.
    pub(super) fn wait<T>(
        &self,
        what: Operation,
        live: &Arc<Live>,
        operation: impl Future<Output = RedisResult<T>>,
    ) -> impl Future<Output = Result<T, StoreError>> {
        self.wait_within(self.timeouts.operation, what, live, operation)
    }

    /// Runs one operation that no request waits for.
    pub(super) fn run_patiently<T, F>(
        &self,
        what: Operation,
        live: &Arc<Live>,
        operation: impl FnOnce(MultiplexedConnection) -> F,
    ) -> impl Future<Output = Result<T, StoreError>>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.run_within(self.timeouts.operation.max(HEARTBEAT_TIMEOUT), what, live, operation)
    }

    /// Runs an operation of many steps, each of which has a limit of its own.
    pub(super) fn run_at_length<T, F>(
        &self,
        what: Operation,
        live: &Arc<Live>,
        operation: impl FnOnce(MultiplexedConnection) -> F,
    ) -> impl Future<Output = Result<T, StoreError>>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.run_within(Duration::MAX, what, live, operation)
    }

    // No `async fn`, which would keep the operation twice: as it came, and as it is run.
    fn run_within<T, F>(
        &self,
        deadline: Duration,
        what: Operation,
        live: &Arc<Live>,
        operation: impl FnOnce(MultiplexedConnection) -> F,
    ) -> impl Future<Output = Result<T, StoreError>>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.wait_within(deadline, what, live, operation(live.connection.clone()))
    }

    fn wait_within<T>(
        &self,
        deadline: Duration,
        what: Operation,
        live: &Arc<Live>,
        operation: impl Future<Output = RedisResult<T>>,
    ) -> impl Future<Output = Result<T, StoreError>> {
        self.tally.went(what);
        let span = what.span(&live.server);
        async move {
            match timeout(deadline, operation).instrument(span.clone()).await {
                Ok(Ok(reply)) => {
                    live.succeeded();
                    Ok(reply)
                }
                Ok(Err(reply)) => {
                    let error = self.judge(live, &reply);
                    failed(&span, &error, Some(&reply));
                    Err(error)
                }
                Err(_) => {
                    if live.timed_out(self.timeouts.operation) {
                        self.give_up(live);
                    }
                    failed(&span, &StoreError::TimedOut, None);
                    Err(StoreError::TimedOut)
                }
            }
        }
    }

    /// What an error says of the connection and of its server, and to whoever asked.
    fn judge(&self, live: &Arc<Live>, error: &RedisError) -> StoreError {
        if proves_connection_useless(error) {
            self.give_up(live);
            return StoreError::Unavailable;
        }
        live.succeeded();
        if error.is_cluster_error() {
            self.share.misses();
            return StoreError::Unavailable;
        }
        if is_out_of_memory(error) {
            live.full_until.store(millis(live.born.elapsed() + FULL), Ordering::Relaxed);
        }
        StoreError::Failed(error.to_string())
    }

    /// Connects and keeps connecting until `stop`.
    pub(super) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let keeping = async {
            let mut backoff = FIRST_BACKOFF;
            let mut reported = false;
            loop {
                match self.connect().await {
                    Ok(live) => {
                        tracing::info!(tracking = live.tracking, "connected to Redis");
                        reported = false;
                        self.connected.notify_waiters();
                        let reason = self.watch(&live).await;
                        self.note_absence(reason.clone());
                        self.give_up(&live);
                        self.share.misses();
                        tracing::warn!(%reason, "lost Redis; serving without it until it is back");
                        // One that is lost at once will be lost again: a server that takes connections and then
                        // refuses what matters must not be asked in a tight loop.
                        if live.born.elapsed() < LONGEST_BACKOFF {
                            sleep(backoff.mul_f64(0.5 + fastrand::f64())).await;
                            backoff = (backoff * 2).min(LONGEST_BACKOFF);
                        } else {
                            backoff = FIRST_BACKOFF;
                        }
                    }
                    Err(error) => {
                        self.note_absence(error.to_string());
                        self.share.misses();
                        if !reported {
                            tracing::warn!(%error, "can't connect to Redis; serving without it until it is there");
                            reported = true;
                        }
                        sleep(backoff.mul_f64(0.5 + fastrand::f64())).await;
                        backoff = (backoff * 2).min(LONGEST_BACKOFF);
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => self.publish(None),
            () = keeping => {}
        }
    }

    /// A new connection, published: kept invalidations have been delivered over it.
    async fn connect(&self) -> RedisResult<Arc<Live>> {
        let tokens = Arc::new(Tokens::default());
        let waiters = Arc::new(Waiters::default());
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeouts.connect))
            // Every operation has a deadline of ours.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(IN_FLIGHT)
            .set_push_sender(apply_pushes(
                self.names.clone(),
                tokens.clone(),
                self.grants.clone(),
                waiters.clone(),
                self.near.clone(),
                self.tally.clone(),
            ));
        let client = self.address.client().await?;
        let connecting = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            let tracking: RedisResult<()> =
                redis::cmd("CLIENT").arg("TRACKING").arg("ON").arg("OPTIN").query_async(&mut connection).await;
            let tracking = match tracking {
                Ok(()) => true,
                Err(error) if proves_connection_useless(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "Redis refuses client tracking; tags are read with every hit");
                    false
                }
            };
            scripts::load(&mut connection).await?;
            let identity = Identity::ask(&mut connection).await?;
            self.share.is_served(&mut connection).await?;
            if let Some(identity) = &identity {
                let mut tags = self.share.connection_to_tags(&connection)?;
                self.guard.check(identity, &self.share, &mut tags, &self.names, &self.pending).await?;
            }
            Ok((connection, tracking, identity))
        };
        // Covers what the driver's own connection timeout doesn't: a server that accepts and then says nothing.
        let (mut connection, tracking, identity) =
            timeout(self.timeouts.connect.saturating_add(HEARTBEAT_TIMEOUT), connecting)
                .await
                .unwrap_or_else(|_| Err((ErrorKind::Io, "no answer while connecting").into()))?;
        let live = Arc::new(Live {
            reads: Reads::new(connection.clone(), self.timeouts.operation),
            connection: connection.clone(),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            tokens,
            waiters,
            tracking,
            identity,
            server: server(client.get_connection_info().addr()),
            born: Instant::now(),
            last_success: AtomicU64::new(0),
            timeouts: AtomicU32::new(0),
            full_until: AtomicU64::new(0),
        });
        // One that is added between the last delivery and the publication would be overlooked: they exclude each other.
        while !self.pending.if_empty(&self.share, || self.publish(Some(live.clone()))) {
            self.pending.deliver(&self.names, &self.share, &mut connection).await?;
        }
        Ok(live)
    }

    /// Whether the server is there, and still the one with the data set that this connection was made for.
    async fn heartbeat(&self, live: &Live) -> RedisResult<()> {
        let mut connection = live.connection.clone();
        let Some(identity) = live.identity.as_ref().filter(|_| self.share.is_everything()) else {
            redis::cmd("PING").query_async::<()>(&mut connection).await?;
            return self.share.is_served(&mut connection).await;
        };
        let name = self.names.identity(self.share.name());
        // Read rather than a `PING`: it also keeps what is seldom read from being evicted.
        match redis::cmd("GET").arg(&name).query_async::<Option<String>>(&mut connection).await? {
            Some(seen) if *seen == **identity.id() => Ok(()),
            Some(_) => Err((ErrorKind::Io, "the server has another data set").into()),
            // Evicted or flushed, under a connection that lives: nothing was restored.
            None => match redis::cmd("SET").arg(&name).arg(&identity.id()[..]).query_async::<()>(&mut connection).await
            {
                Err(error) if proves_connection_useless(&error) => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// Returns when the connection is of no more use, with the reason.
    async fn watch(&self, live: &Arc<Live>) -> String {
        loop {
            tokio::select! {
                () = self.trouble.notified() => {
                    if !self.live().is_ok_and(|current| Arc::ptr_eq(&current, live)) {
                        return "an operation failed".to_owned();
                    }
                }
                () = sleep(HEARTBEAT) => {
                    match timeout(HEARTBEAT_TIMEOUT, self.heartbeat(live)).await {
                        Ok(Ok(())) => live.succeeded(),
                        Ok(Err(error)) => return error.to_string(),
                        Err(_) => return "no answer to a heartbeat".to_owned(),
                    }
                }
            }
        }
    }
}

impl Live {
    /// Whether the server refused to store more a moment ago: no need to try each fill.
    pub(super) fn is_full(&self) -> bool {
        millis(self.born.elapsed()) < self.full_until.load(Ordering::Relaxed)
    }

    /// Who the server is, if it says so.
    pub(super) fn identity(&self) -> Option<Arc<str>> {
        self.identity.as_ref().map(|identity| identity.id().clone())
    }

    /// The connection itself, for the keeper of another one.
    #[cfg(feature = "cluster")]
    pub(super) fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    fn succeeded(&self) {
        // Written only where it changes: what one thread writes, the others have to fetch again.
        let now = millis(self.born.elapsed());
        if self.last_success.load(Ordering::Relaxed) != now {
            self.last_success.store(now, Ordering::Relaxed);
        }
        if self.timeouts.load(Ordering::Relaxed) != 0 {
            self.timeouts.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a timeout; `true` if it was one too many.
    fn timed_out(&self, deadline: Duration) -> bool {
        let timeouts = self.timeouts.fetch_add(1, Ordering::Relaxed) + 1;
        let silent = millis(self.born.elapsed()).saturating_sub(self.last_success.load(Ordering::Relaxed));
        timeouts >= TIMEOUTS_TO_GIVE_UP && silent >= 2 * millis(deadline)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("live", &self.is_live()).finish_non_exhaustive()
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

/// Applies the server's pushes. The driver calls this inline in its reader, between replies: see [`tokens`](super::tokens).
fn apply_pushes(
    names: Names,
    tokens: Arc<Tokens>,
    grants: Arc<Grants>,
    waiters: Arc<Waiters>,
    near: NearSlot,
    tally: Arc<Tally>,
) -> impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static {
    move |push| {
        let everything = || {
            tokens.forget_all();
            grants.void_all();
            waiters.wake_all();
            near.get().into_iter().for_each(|near| near.forget_all());
        };
        match (push.kind, push.data.first()) {
            (PushKind::Invalidate, Some(Value::Array(changed))) => {
                for name in changed {
                    let Value::BulkString(name) = name else { continue };
                    match names.parse(name) {
                        Some(Named::Tag(tag)) => {
                            tally.heard(Push::Tag);
                            tokens.forget(tag);
                        }
                        Some(Named::Entry(id)) => {
                            tally.heard(Push::Entry);
                            near.get().into_iter().for_each(|near| near.forget(id));
                            if !id.is_variant() {
                                grants.void_variants(id);
                            }
                        }
                        Some(Named::Lease(id)) => {
                            tally.heard(Push::Lease);
                            grants.doubt(id);
                            waiters.wake(id);
                        }
                        Some(Named::LastInvalidation) => {
                            tally.heard(Push::Invalidation);
                            grants.void_all();
                        }
                        None => {}
                    }
                }
            }
            // Judged by the time that has passed since then.
            (PushKind::Disconnection, _) if near.get().is_some_and(|near| !near.grace().is_zero()) => {}
            // The whole data set is gone.
            (PushKind::Invalidate, _) => {
                tally.heard(Push::Everything);
                everything();
            }
            // Nobody will tell what becomes of it.
            (PushKind::Disconnection, _) => everything(),
            _ => {}
        }
        Ok(())
    }
}
