//! One established connection, and what is known through it: it begins and ends with the socket.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use tokio::sync::oneshot;

use super::{
    batcher::LookupBatcher,
    gathered_fills::{self, FillAsk},
    gathered_leases::{self, LeaseAsk},
    gathering::Gathering,
    identify::Identity,
};
use crate::{
    clock::millis,
    store::{
        StoreError,
        redis::{
            tracking::{tag_tracker::TagTracker, waiters::Waiters},
            wire::operation::Server,
        },
    },
};

/// The number of operations that must time out, without a success for twice their deadline, before the connection is given up:
/// one slow reply proves nothing, and a burst of timeouts is one stall.
const TIMEOUTS_TO_GIVE_UP: u32 = 5;
/// For how long a full server is not asked to store anything.
const FULL: Duration = Duration::from_secs(1);

/// A load that asks for the moment at which it begins.
pub(crate) type MomentAsk = oneshot::Sender<Result<[u8; 16], StoreError>>;

static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// A connection that works as far as this process knows.
pub(crate) struct Session {
    pub(super) driver: MultiplexedConnection,
    /// Look-ups over this session.
    pub(crate) lookups: Arc<LookupBatcher>,
    /// Leases, moments and fills that are asked for over this session.
    pub(crate) leases: Arc<Gathering<LeaseAsk>>,
    pub(crate) moments: Arc<Gathering<MomentAsk>>,
    pub(crate) fills: Arc<Gathering<FillAsk>>,
    /// Distinguishes this session from all others of this process.
    pub(crate) number: u64,
    pub(crate) tokens: Arc<TagTracker>,
    pub(crate) waiters: Arc<Waiters>,
    /// Whether the server tracks what this connection reads; a proxy or an ACL may refuse it.
    pub(crate) tracking: bool,
    /// The identity of the server, if the server says it.
    pub(super) identity: Option<Identity>,
    pub(super) server: Server,
    pub(super) born: Instant,
    pub(super) end: Arc<End>,
    /// Whether reads are allowed.
    settled: AtomicBool,
    /// Milliseconds after `born` of the last operation that succeeded, and the timeouts since.
    last_success: AtomicU64,
    timeouts: AtomicU32,
    /// Until when the server is assumed to be full, in milliseconds after `born`.
    full_until: AtomicU64,
}

/// How a session ended.
#[derive(Default)]
pub(super) struct End {
    /// When the server closed the connection, if it has.
    pub(super) closed: OnceLock<Instant>,
    /// Whether the session was given up, with all that was known through it.
    pub(super) is_given_up: AtomicBool,
}

/// What is known of a connection that was just made.
pub(super) struct Established {
    pub(super) driver: MultiplexedConnection,
    pub(super) server: Server,
    pub(super) tracking: bool,
    pub(super) identity: Option<Identity>,
}

impl Session {
    /// A session whose operations may take this long: those that a request waits for, and the others.
    pub(super) fn new(
        Established { driver, server, tracking, identity }: Established,
        tokens: Arc<TagTracker>,
        waiters: Arc<Waiters>,
        end: Arc<End>,
        (request, background): (Duration, Duration),
    ) -> Self {
        Self {
            lookups: LookupBatcher::new(driver.clone(), request),
            leases: Gathering::new(gathered_leases::TOGETHER, background),
            // Each command about them has a deadline.
            moments: Gathering::new(usize::MAX, Duration::MAX),
            fills: Gathering::new(gathered_fills::TOGETHER, background),
            driver,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            tokens,
            waiters,
            tracking,
            identity,
            server,
            born: Instant::now(),
            end,
            settled: AtomicBool::new(false),
            last_success: AtomicU64::new(0),
            timeouts: AtomicU32::new(0),
            full_until: AtomicU64::new(0),
        }
    }

    /// Whether the server refused to store a moment ago, so that fills need not be tried.
    pub(crate) fn is_full(&self) -> bool {
        millis(self.born.elapsed()) < self.full_until.load(Ordering::Relaxed)
    }

    /// Assumes for a while that the server is full.
    pub(super) fn note_full(&self) {
        self.full_until.store(millis(self.born.elapsed() + FULL), Ordering::Relaxed);
    }

    /// Allows reads from now on.
    pub(super) fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    /// When the server was last known to answer.
    pub(super) fn last_seen(&self) -> Instant {
        let answered = self.born + Duration::from_millis(self.last_success.load(Ordering::Relaxed));
        self.end.closed.get().map_or(answered, |closed| answered.max(*closed))
    }

    /// Whether reads are allowed: the other processes are back as well, if they ever lost the server.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// The connection of the driver, for an operation over several servers.
    pub(crate) fn driver(&self) -> MultiplexedConnection {
        self.driver.clone()
    }

    pub(super) fn succeeded(&self) {
        // Written only if it changes: other processors must fetch the cache line again after a write.
        let now = millis(self.born.elapsed());
        if self.last_success.load(Ordering::Relaxed) != now {
            self.last_success.store(now, Ordering::Relaxed);
        }
        if self.timeouts.load(Ordering::Relaxed) != 0 {
            self.timeouts.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a timeout; `true` if the connection must be given up.
    pub(super) fn timed_out(&self, deadline: Duration) -> bool {
        let timeouts = self.timeouts.fetch_add(1, Ordering::Relaxed) + 1;
        let silent = millis(self.born.elapsed()).saturating_sub(self.last_success.load(Ordering::Relaxed));
        timeouts >= TIMEOUTS_TO_GIVE_UP && silent >= 2 * millis(deadline)
    }
}
