//! One connection to the server, and the task that keeps it: connects, proves by heartbeat that it still works, gives
//! it up when it doesn't, and tries again.
//!
//! This is the breaker, too. An operation needs a connection that is published here; there is none while the server is
//! unreachable, so operations fail at once. It is the keeper, never a request, that finds out when the server is back.
//!
//! A server that was away is away for the others as well, and they are not all back at the same time. What was written
//! through one that isn't, and acknowledged, is unknown to the server until that one is. So after such a loss a connection
//! [settles](Session::is_settled): it takes invalidations, which are delivered before anything else, but nothing is read over
//! it, nor loaded, until the others have had time to come back. A blip is none of that: the same server, back before any
//! invalidation stopped [waiting](Connection::waits_until) for it.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
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
    address::Address,
    greeting,
    batcher::LookupBatcher,
    shard::Share,
    counters::{Counters, Push},
};
use crate::store::redis::{
    NearSlot,
    tracking::{
        grants::Grants,
        guard::{Guard, Identity, Known},
        pending::Pending,
        tokens::Tokens,
        waiters::Waiters,
    },
    wire::{
        errors::{is_out_of_memory, proves_connection_useless},
        names::{Named, Names},
        operation::{Operation, Server, failed},
        replies::Done,
        scripts,
    },
};
use crate::{
    clock::millis,
    store::StoreError,
    sync::{Mutex, RwLock},
};

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
/// Short, since until every process is back none of them reads.
const LONGEST_BACKOFF: Duration = Duration::from_millis(250);
/// A connection that was lost sooner than this after it was made will be lost again.
const SHORT_LIVED: Duration = Duration::from_secs(2);
/// The share of the time for which invalidations wait that a blip may take: others may be back so much later.
const BLIP: u32 = 4;

/// Operations on their way to a connection before the next one has to wait. Of those of many clients at once, none should:
/// what waits wakes up once more, and comes too late to be sent with the others.
const IN_FLIGHT: usize = 1024;

static NUMBERS: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) operation: Duration,
    /// For how long after a loss an invalidation waits for the server.
    pub(crate) delivery: Duration,
    /// For how long nothing is read after a loss that was no blip.
    pub(crate) settling: Duration,
}

/// What all connections of a store have in common.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) names: Names,
    pub(crate) pending: Arc<Pending>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) near: NearSlot,
    pub(crate) grants: Arc<Grants>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) timeouts: Timeouts,
}

pub(crate) struct Connection {
    address: Address,
    share: Share,
    names: Names,
    pending: Arc<Pending>,
    guard: Arc<Guard>,
    near: NearSlot,
    grants: Arc<Grants>,
    counters: Arc<Counters>,
    timeouts: Timeouts,
    session: RwLock<Option<Arc<Session>>>,
    /// The connection that was given up last, and when, while what was read over it may still be served.
    lost: RwLock<Option<(Arc<Session>, Instant)>>,
    /// Since when there is no connection, if there is none.
    absent: Mutex<Option<Instant>>,
    /// The data set behind the connection, or the last one.
    data_set: Mutex<Option<Known>>,
    /// Whether its first connection is made after a loss, as far as the store is concerned.
    rejoins: bool,
    /// Why there is no connection, when there is none.
    last_error: RwLock<String>,
    /// Wakes the keeper before its next heartbeat.
    wake: Arc<Notify>,
    /// Wakes whoever waits for the first connection.
    connected: Notify,
}

/// A connection that works as far as anybody knows.
pub(crate) struct Session {
    driver: MultiplexedConnection,
    /// Look-ups by it.
    pub(crate) reads: Arc<LookupBatcher>,
    /// Tells it from every other one of this process.
    pub(crate) number: u64,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) waiters: Arc<Waiters>,
    /// Whether the server tracks what this connection reads; a proxy or an access list may refuse it.
    pub(crate) tracking: bool,
    /// Who the server is, if it says so.
    identity: Option<Identity>,
    server: Server,
    born: Instant,
    /// When the other side closed it, if it has.
    closed: Arc<OnceLock<Instant>>,
    /// Whether it may be read over.
    settled: AtomicBool,
    /// Milliseconds after `born` of the last operation that succeeded, and the timeouts since.
    last_success: AtomicU64,
    timeouts: AtomicU32,
    /// Milliseconds after `born` until when the server is taken to be full.
    full_until: AtomicU64,
}

impl Connection {
    pub(crate) fn new(
        address: Address,
        share: Share,
        rejoins: bool,
        Context { names, pending, guard, near, grants, counters, timeouts }: Context,
    ) -> Arc<Self> {
        Arc::new(Self {
            address,
            share,
            names,
            pending,
            guard,
            near,
            grants,
            counters,
            timeouts,
            session: RwLock::new(None),
            lost: RwLock::new(None),
            absent: Mutex::new(Some(Instant::now())),
            data_set: Mutex::new(None),
            rejoins,
            last_error: RwLock::new("still connecting".to_owned()),
            wake: Arc::default(),
            connected: Notify::new(),
        })
    }

    /// The connection, if there is one.
    pub(crate) fn session(&self) -> Result<Arc<Session>, StoreError> {
        self.session.read().clone().ok_or(StoreError::Unavailable)
    }

    /// The connection, if there is one that may be read over.
    pub(crate) fn settled(&self) -> Result<Arc<Session>, StoreError> {
        self.session().and_then(|session| if session.is_settled() { Ok(session) } else { Err(StoreError::Unavailable) })
    }

    /// The connection whose knowledge counts: that which is there, or was there a moment ago.
    pub(crate) fn believed(&self) -> Option<Arc<Session>> {
        self.session().ok().or_else(|| {
            let grace = self.grace();
            let lost = self.lost.read().clone();
            lost.filter(|(_, at)| at.elapsed() < grace).map(|(session, _)| session)
        })
    }

    fn grace(&self) -> Duration {
        self.near.get().map_or(Duration::ZERO, |near| near.grace())
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.session.read().is_some()
    }

    /// Why there is no connection, when there is none.
    pub(crate) fn last_error(&self) -> String {
        self.last_error.read().clone()
    }

    pub(crate) fn note_error(&self, reason: String) {
        *self.last_error.write() = reason;
    }

    /// The mark of the data set behind the connection.
    pub(crate) fn mark(&self) -> Option<Arc<str>> {
        self.data_set().as_ref().map(|known| known.mark.clone())
    }

    fn data_set(&self) -> MutexGuard<'_, Option<Known>> {
        self.data_set.lock()
    }

    /// Until when an invalidation waits for there to be a connection: a server that is long gone slows nobody down.
    pub(crate) fn waits_until(&self) -> Instant {
        let absent = self.absent.lock();
        absent.unwrap_or_else(Instant::now) + self.timeouts.delivery
    }

    fn note_absent(&self, since: Option<Instant>) {
        *self.absent.lock() = since;
    }

    fn note_loss(&self, lost: Option<(Arc<Session>, Instant)>) {
        *self.lost.write() = lost;
    }

    fn publish(&self, session: Option<Arc<Session>>) {
        self.note_loss(None);
        self.note_absent(session.is_none().then(Instant::now));
        *self.session.write() = session;
    }

    /// Returns once there is a connection.
    pub(crate) async fn wait_connected(&self) {
        loop {
            let connected = self.connected.notified();
            if self.is_connected() {
                return;
            }
            connected.await;
        }
    }

    /// Gives the connection up: nobody gets it any more, and the keeper makes a new one.
    pub(crate) fn give_up(&self, session: &Arc<Session>) {
        let mut published = self.session.write();
        if published.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            *published = None;
            self.note_absent(Some(Instant::now()));
            self.counters.lost_a_connection();
            if self.grace().is_zero() {
                session.tokens.forget_all();
            } else {
                self.note_loss(Some((session.clone(), Instant::now())));
            }
            self.grants.void_all();
            session.waiters.wake_all();
            self.wake.notify_one();
        }
    }

    /// Gives up whatever connection there is.
    pub(crate) fn reset(&self) {
        if let Ok(session) = self.session() {
            self.give_up(&session);
        }
    }

    /// Runs one operation, within its deadline.
    pub(crate) fn run<T, F>(
        &self,
        what: Operation,
        session: &Arc<Session>,
        operation: impl FnOnce(MultiplexedConnection) -> F,
    ) -> impl Future<Output = Result<T, StoreError>>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.run_within(self.timeouts.operation, what, session, operation)
    }

    /// As [`run`](Self::run), for an operation that is on its way already.
    pub(crate) fn wait<T>(
        &self,
        what: Operation,
        session: &Arc<Session>,
        operation: impl Future<Output = RedisResult<T>>,
    ) -> impl Future<Output = Result<T, StoreError>> {
        self.wait_within(self.timeouts.operation, what, session, operation)
    }

    /// Runs one operation that no request waits for.
    pub(crate) fn run_patiently<T, F>(
        &self,
        what: Operation,
        session: &Arc<Session>,
        operation: impl FnOnce(MultiplexedConnection) -> F,
    ) -> impl Future<Output = Result<T, StoreError>>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.run_within(self.timeouts.operation.max(HEARTBEAT_TIMEOUT), what, session, operation)
    }

    /// Runs an operation of many steps, each of which has a limit of its own.
    pub(crate) fn run_at_length<T, F>(
        &self,
        what: Operation,
        session: &Arc<Session>,
        operation: impl FnOnce(MultiplexedConnection) -> F,
    ) -> impl Future<Output = Result<T, StoreError>>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.run_within(Duration::MAX, what, session, operation)
    }

    // No `async fn`, which would keep the operation twice: as it came, and as it is run.
    fn run_within<T, F>(
        &self,
        deadline: Duration,
        what: Operation,
        session: &Arc<Session>,
        operation: impl FnOnce(MultiplexedConnection) -> F,
    ) -> impl Future<Output = Result<T, StoreError>>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.wait_within(deadline, what, session, operation(session.driver.clone()))
    }

    fn wait_within<T>(
        &self,
        deadline: Duration,
        what: Operation,
        session: &Arc<Session>,
        operation: impl Future<Output = RedisResult<T>>,
    ) -> impl Future<Output = Result<T, StoreError>> {
        self.counters.sent(what);
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
                    if session.timed_out(self.timeouts.operation) {
                        self.give_up(session);
                    }
                    failed(&span, &StoreError::TimedOut, None);
                    Err(StoreError::TimedOut)
                }
            }
        }
    }

    /// What an error says of the connection and of its server, and to whoever asked.
    fn judge(&self, session: &Arc<Session>, error: &RedisError) -> StoreError {
        if proves_connection_useless(error) {
            self.give_up(session);
            return StoreError::Unavailable;
        }
        session.succeeded();
        if error.is_cluster_error() {
            self.share.refresh_topology();
            return StoreError::Unavailable;
        }
        if is_out_of_memory(error) {
            session.full_until.store(millis(session.born.elapsed() + FULL), Ordering::Relaxed);
            self.counters.refused();
            return StoreError::Full;
        }
        StoreError::Failed(error.to_string())
    }

    /// Connects and keeps connecting until `stop`.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let keeping = async {
            let mut backoff = FIRST_BACKOFF;
            let mut reported = false;
            let mut loss = self.rejoins.then(Loss::unwitnessed);
            loop {
                match self.connect(loss.as_ref()).await {
                    Ok(session) => {
                        if session.is_settled() {
                            tracing::info!(tracking = session.tracking, "connected to Redis");
                        } else {
                            let after = self.timeouts.settling;
                            tracing::info!(
                                tracking = session.tracking,
                                ?after,
                                "connected to Redis; to be read from later"
                            );
                        }
                        reported = false;
                        self.connected.notify_waiters();
                        let reason = self.watch(&session).await;
                        loss = Some(Loss::of(&session));
                        self.note_error(reason.clone());
                        self.give_up(&session);
                        self.share.refresh_topology();
                        tracing::warn!(%reason, "lost Redis; serving without it until it is back");
                        // One that is lost at once will be lost again: a server that takes connections and then
                        // refuses what matters must not be asked in a tight loop.
                        if session.born.elapsed() < SHORT_LIVED {
                            sleep(backoff.mul_f64(0.5 + fastrand::f64())).await;
                            backoff = (backoff * 2).min(LONGEST_BACKOFF);
                        } else {
                            backoff = FIRST_BACKOFF;
                        }
                    }
                    Err(error) => {
                        loss.get_or_insert_with(Loss::unwitnessed);
                        self.note_error(error.to_string());
                        self.share.refresh_topology();
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
    async fn connect(&self, loss: Option<&Loss>) -> RedisResult<Arc<Session>> {
        let tokens = Arc::new(Tokens::default());
        let waiters = Arc::new(Waiters::default());
        let closed = Arc::new(OnceLock::new());
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeouts.connect))
            // Every operation has a deadline of ours.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(IN_FLIGHT)
            .set_push_sender({
                let (closed, wake) = (closed.clone(), self.wake.clone());
                let apply = apply_pushes(
                    self.names.clone(),
                    tokens.clone(),
                    self.grants.clone(),
                    waiters.clone(),
                    self.near.clone(),
                    self.counters.clone(),
                );
                move |push: PushInfo| {
                    if push.kind == PushKind::Disconnection {
                        let _ = closed.set(Instant::now());
                        wake.notify_one();
                    }
                    apply(push)
                }
            });
        let client = self.address.client().await?;
        let connecting = async {
            let driver = client.get_multiplexed_async_connection_with_config(&config).await;
            let mut driver = driver.map_err(greeting::explain)?;
            greeting::check(&mut driver, &self.share).await?;
            let tracking: RedisResult<Done> =
                redis::cmd("CLIENT").arg("TRACKING").arg("ON").arg("OPTIN").query_async(&mut driver).await;
            let tracking = match tracking {
                Ok(Done) => true,
                Err(error) if proves_connection_useless(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "Redis refuses client tracking; tags are read with every hit");
                    false
                }
            };
            scripts::load(&mut driver).await?;
            let identity = Identity::ask(&mut driver).await?;
            self.share.is_served(&mut driver).await?;
            let mut tags = self.share.connection_to_tags(&driver).await?;
            // If it does not say who it is, it may be another one, with a clock of its own.
            let known = self.data_set().clone();
            let known = if identity.is_some() { known } else { known.map(Known::by_another_clock) };
            self.check(identity.as_ref(), known, &mut tags).await?;
            Ok((driver, tracking, identity))
        };
        // Covers what the driver's own connection timeout doesn't: a server that accepts and then says nothing.
        let (mut driver, tracking, identity) =
            timeout(self.timeouts.connect.saturating_add(HEARTBEAT_TIMEOUT), connecting)
                .await
                .unwrap_or_else(|_| Err((ErrorKind::Io, "no answer while connecting").into()))?;
        let session = Arc::new(Session {
            reads: LookupBatcher::new(driver.clone(), self.timeouts.operation),
            driver: driver.clone(),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            tokens,
            waiters,
            tracking,
            identity,
            server: server(client.get_connection_info().addr()),
            born: Instant::now(),
            closed,
            settled: AtomicBool::new(false),
            last_success: AtomicU64::new(0),
            timeouts: AtomicU32::new(0),
            full_until: AtomicU64::new(0),
        });
        let publish = || {
            let settled = self.timeouts.settling.is_zero()
                || loss.is_none_or(|loss| loss.is_blip(session.identity.as_ref(), self.timeouts.delivery));
            session.settled.store(settled, Ordering::Relaxed);
            self.publish(Some(session.clone()));
        };
        // One that is added between the last delivery and the publication would be overlooked: they exclude each other.
        while !self.pending.if_empty(&self.share, publish) {
            let mark = self.mark();
            self.pending.deliver(&self.names, &self.share, mark.as_deref(), &mut driver).await?;
        }
        Ok(session)
    }

    /// Has the [guard](Guard::check) look which data set there is, and takes note of that.
    async fn check(
        &self,
        identity: Option<&Identity>,
        known: Option<Known>,
        tags: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        let found = self.guard.check(identity, known, &self.share, tags, &self.names, &self.pending).await?;
        if found.is_none() {
            self.counters.refused();
        }
        *self.data_set() = found;
        Ok(())
    }

    /// Whether the server is there, and what is behind the connection still the data set that it was.
    async fn heartbeat(&self, session: &Session) -> RedisResult<()> {
        let mut driver = session.driver.clone();
        if !self.share.is_everything() {
            redis::cmd("PING").query_async::<()>(&mut driver).await?;
            return self.share.is_served(&mut driver).await;
        }
        let (server, mark) = (self.names.identity(self.share.name()), self.names.mark(self.share.name()));
        // Read rather than a `PING`: it also keeps what is seldom read from being evicted.
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME").cmd("MGET").arg(&server).arg(&mark);
        type Seen = ((u64, u64), (Option<String>, Option<String>));
        let ((seconds, micros), (seen, mark)): Seen = pipeline.query_async(&mut driver).await?;
        let id = session.identity.as_ref().map(|identity| &**identity.id());
        if seen.is_some() && id.is_some() && seen.as_deref() != id {
            return Err((ErrorKind::Io, "the server has another one's data set").into());
        }
        if (seen.is_none() && id.is_some()) || !self.is_mark(mark.as_deref()) || mark.is_none() {
            return self.identify(session).await;
        }
        if let Some(known) = self.data_set().as_mut().filter(|known| mark.as_deref() == Some(&*known.mark)) {
            known.seen = format!("{:016x}", seconds * 1_000_000 + micros);
        }
        Ok(())
    }

    /// Reads who this server of a cluster was and its mark, where the tags are: what nobody reads is evicted first, and who
    /// finds neither takes the data set for another one. Nothing depends on it now, whatever comes of it.
    async fn use_mark(&self, session: &Session) {
        if self.share.is_everything() {
            return;
        }
        let reading = async {
            let mut tags = self.share.connection_to_tags(&session.driver).await?;
            let (server, mark) = (self.names.identity(self.share.name()), self.names.mark(self.share.name()));
            redis::cmd("MGET").arg(server).arg(mark).query_async::<Value>(&mut tags).await
        };
        let _ = timeout(HEARTBEAT_TIMEOUT / 2, reading).await;
    }

    /// Whether `found` is the mark of the data set that this connection is for. A cluster's servers have one each.
    pub(crate) fn is_mark(&self, found: Option<&str>) -> bool {
        !self.share.is_everything() || self.data_set().as_ref().map(|known| &*known.mark) == found
    }

    /// Whether what was done over `live` was done to the data set that this connection is for, by the mark that was found
    /// with it. If it was another one, then the connection is for that one from now on.
    pub(crate) async fn leads_to(&self, session: &Arc<Session>, mark: Option<&str>) -> Result<bool, StoreError> {
        if self.is_mark(mark) {
            return Ok(true);
        }
        if timeout(HEARTBEAT_TIMEOUT, self.identify(session)).await.is_ok_and(|identified| identified.is_ok()) {
            return Ok(false);
        }
        self.give_up(session);
        Err(StoreError::Unavailable)
    }

    /// Finds out which data set is behind the connection, and lets go of what is known of the last one.
    pub(crate) async fn identify(&self, session: &Session) -> RedisResult<()> {
        let known = self.data_set().clone();
        let before = known.as_ref().map(|known| known.mark.clone());
        let identity = session.identity.as_ref().map(Identity::later);
        let mut tags = session.driver.clone();
        self.check(identity.as_ref(), known, &mut tags).await?;
        if before == self.mark() {
            return Ok(());
        }
        tracing::info!("the connection to Redis leads to another data set; what was known of the last one is void");
        session.tokens.forget_all();
        self.grants.void_all();
        session.waiters.wake_all();
        self.near.get().into_iter().for_each(|near| near.forget_all());
        if self.pending.concerns(&self.share) {
            return Err((ErrorKind::Io, "another data set is to hear of invalidations first").into());
        }
        Ok(())
    }

    /// Returns when the connection is of no more use, with the reason.
    async fn watch(&self, session: &Arc<Session>) -> String {
        let settling = sleep(self.timeouts.settling);
        tokio::pin!(settling);
        loop {
            tokio::select! {
                () = self.wake.notified() => {
                    if session.closed.get().is_some() {
                        return "the other side closed the connection".to_owned();
                    }
                    if !self.session().is_ok_and(|current| Arc::ptr_eq(&current, session)) {
                        return "an operation failed".to_owned();
                    }
                }
                () = &mut settling, if !session.is_settled() => {
                    session.settled.store(true, Ordering::Relaxed);
                    tracing::info!("reading from Redis again");
                }
                () = sleep(HEARTBEAT) => {
                    match timeout(HEARTBEAT_TIMEOUT, self.heartbeat(session)).await {
                        Ok(Ok(())) => {
                            session.succeeded();
                            self.use_mark(session).await;
                        }
                        Ok(Err(error)) => return error.to_string(),
                        Err(_) => return "no answer to a heartbeat".to_owned(),
                    }
                }
            }
        }
    }
}

/// A connection that was lost, or could not be made.
struct Loss {
    /// When the server was last known to be there.
    since: Instant,
    /// Who it was; unknown if others may have missed it for longer.
    server: Option<Identity>,
}

impl Loss {
    fn unwitnessed() -> Self {
        Self { since: Instant::now(), server: None }
    }

    fn of(session: &Session) -> Self {
        let answered = session.born + Duration::from_millis(session.last_success.load(Ordering::Relaxed));
        let since = session.closed.get().map_or(answered, |closed| answered.max(*closed));
        Self { since, server: session.identity.clone().filter(|_| session.is_settled()) }
    }

    /// Whether the same server is back so soon that invalidations of other processes, if they lost it too, still wait for it.
    fn is_blip(&self, server: Option<&Identity>, delivery: Duration) -> bool {
        let same = self.server.as_ref().zip(server).is_some_and(|(before, now)| before.id() == now.id());
        same && self.since.elapsed() < delivery / BLIP
    }
}

impl Session {
    /// Whether the server refused to store more a moment ago: no need to try each fill.
    pub(crate) fn is_full(&self) -> bool {
        millis(self.born.elapsed()) < self.full_until.load(Ordering::Relaxed)
    }

    /// Whether it may be read over: the other processes are back as well, if they ever lost it.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// The connection itself, for the keeper of another one.
    #[cfg(feature = "cluster")]
    pub(crate) fn driver(&self) -> MultiplexedConnection {
        self.driver.clone()
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

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("live", &self.is_connected()).finish_non_exhaustive()
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

/// Applies the server's pushes. The driver calls this inline in its reader, between replies: see [`tokens`](crate::store::redis::tracking::tokens).
fn apply_pushes(
    names: Names,
    tokens: Arc<Tokens>,
    grants: Arc<Grants>,
    waiters: Arc<Waiters>,
    near: NearSlot,
    counters: Arc<Counters>,
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
                            counters.received(Push::Tag);
                            tokens.forget(tag);
                        }
                        Some(Named::Entry(id)) => {
                            counters.received(Push::Entry);
                            near.get().into_iter().for_each(|near| near.forget(id));
                            if !id.is_variant() {
                                grants.void_variants(id);
                            }
                        }
                        Some(Named::Lease(id)) => {
                            counters.received(Push::Lease);
                            grants.doubt(id);
                            waiters.wake(id);
                        }
                        Some(Named::LastInvalidation) => {
                            counters.received(Push::Invalidation);
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
                counters.received(Push::Everything);
                everything();
            }
            // Nobody will tell what becomes of it.
            (PushKind::Disconnection, _) => everything(),
            _ => {}
        }
        Ok(())
    }
}
