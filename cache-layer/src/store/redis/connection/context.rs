//! What all connections of a store have in common.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::counters::Counters;
use crate::store::redis::{
    tracking::{grants::Grants, guard::Guard, near::Near, pending::Pending, tokens::Tokens, waiters::Waiters},
    wire::names::Names,
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
    pub(crate) guard: Guard,
    pub(crate) pending: Pending,
    pub(crate) grants: Grants,
    /// The first tier of this store, once there is one.
    pub(crate) near: OnceLock<Arc<Near>>,
    pub(crate) counters: Counters,
}

impl Context {
    pub(crate) fn new(names: Names, timeouts: Timeouts, guard: Guard) -> Self {
        Self {
            names,
            timeouts,
            guard,
            pending: Pending::default(),
            grants: Grants::default(),
            near: OnceLock::new(),
            counters: Counters::default(),
        }
    }

    /// Lets go of everything that is known by one connection, and of what any of them may have missed with it.
    pub(super) fn forget_all(&self, tokens: &Tokens, waiters: &Waiters) {
        tokens.forget_all();
        self.grants.void_all();
        waiters.wake_all();
        self.near.get().into_iter().for_each(|near| near.forget_all());
    }
}
