//! What all connections of a store share.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::counters::Counters;
use crate::store::redis::{
    tracking::{
        claims::Claims, dataset_guard::DatasetGuard, fresh_keys::FreshKeys, lease_tracker::LeaseTracker,
        local_tier::LocalTier, outbox::Outbox, server_clock::ServerClock, tag_tracker::TagTracker, waiters::Waiters,
    },
    wire::names::Names,
};
use crate::{
    store::{LeaseTokens, SweepListeners},
    switches::Switches,
};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) operation: Duration,
    /// For how long after a loss an invalidation waits for the server.
    pub(crate) delivery: Duration,
    /// For how long nothing is read after a loss that was no blip.
    pub(crate) settling: Duration,
}

pub(crate) struct Context {
    pub(crate) names: Names,
    pub(crate) timeouts: Timeouts,
    pub(crate) guard: DatasetGuard,
    pub(crate) outbox: Outbox,
    pub(crate) leases: LeaseTracker,
    pub(crate) lease_tokens: LeaseTokens,
    pub(crate) claims: Arc<Claims>,
    pub(crate) fresh: FreshKeys,
    /// The life of leases in milliseconds, as it was last asked for; 0 until then.
    pub(crate) lease_life: AtomicU64,
    /// The first tier of this store, once there is one.
    pub(crate) local_tier: OnceLock<Arc<LocalTier>>,
    pub(crate) counters: Counters,
    pub(crate) clock: ServerClock,
    /// How long the lurker waits before it sweeps banned entries; `None` if this process has no lurker.
    pub(crate) lurker: Option<Duration>,
    /// Whether this process has ever known of a ban.
    pub(crate) has_bans: AtomicBool,
    /// Whether a lurker task is running.
    pub(crate) is_lurking: AtomicBool,
    pub(crate) sweeps: SweepListeners,
    pub(crate) switches: Arc<Switches>,
    /// The value of the key of the switches when it was last applied; locked while the key is read.
    pub(crate) applied_switches: tokio::sync::Mutex<Vec<u8>>,
    /// Notified when the key of the switches has changed, or may have.
    pub(crate) switches_changed: Arc<Notify>,
}

impl Context {
    pub(crate) fn new(
        names: Names,
        timeouts: Timeouts,
        guard: DatasetGuard,
        clock: ServerClock,
        lurker: Option<Duration>,
    ) -> Self {
        Self {
            names,
            timeouts,
            guard,
            outbox: Outbox::default(),
            leases: LeaseTracker::default(),
            lease_tokens: LeaseTokens::default(),
            claims: Arc::default(),
            fresh: FreshKeys::default(),
            lease_life: AtomicU64::new(0),
            local_tier: OnceLock::new(),
            counters: Counters::default(),
            clock,
            lurker,
            has_bans: AtomicBool::new(false),
            is_lurking: AtomicBool::new(false),
            sweeps: SweepListeners::default(),
            switches: Arc::default(),
            applied_switches: tokio::sync::Mutex::default(),
            switches_changed: Arc::default(),
        }
    }

    /// Drops everything that is known through one connection, and everything that any connection may have missed with it.
    pub(super) fn forget_all(&self, tokens: &TagTracker, waiters: &Waiters) {
        tokens.void_all();
        self.leases.revoke_all();
        waiters.wake_all();
        self.local_tier.get().into_iter().for_each(|tier| tier.void_all());
    }
}
