//! The server's pushes: parsed first, applied second. The driver calls this inline in its reader, between replies: see
//! [tags](crate::store::redis::tracking::tag_tracker).

use std::sync::{Arc, atomic::Ordering};

use redis::{PushInfo, PushKind, Value};

use super::{context::Context, counters::Push, session::End};
use crate::store::redis::{
    tracking::{tag_tracker::TagTracker, waiters::Waiters},
    wire::names::Named,
};

/// What the pushes of one connection are applied to.
pub(super) struct Pushes {
    pub(super) context: Arc<Context>,
    pub(super) tokens: Arc<TagTracker>,
    pub(super) waiters: Arc<Waiters>,
    pub(super) end: Arc<End>,
}

/// The content of a push.
enum Notice<'a> {
    /// The values of these names have changed.
    Changed(&'a [Value]),
    /// The whole data set is gone.
    Flushed,
    /// The connection is gone: no further changes are pushed.
    Disconnected,
}

fn parse(push: &PushInfo) -> Option<Notice<'_>> {
    match (&push.kind, push.data.first()) {
        (PushKind::Invalidate, Some(Value::Array(names))) => Some(Notice::Changed(names)),
        (PushKind::Invalidate, _) => Some(Notice::Flushed),
        (PushKind::Disconnection, _) => Some(Notice::Disconnected),
        _ => None,
    }
}

impl Pushes {
    pub(super) fn apply(&self, push: &PushInfo) {
        match parse(push) {
            Some(Notice::Changed(names)) => names.iter().for_each(|name| self.changed(name)),
            Some(Notice::Flushed) => {
                self.context.counters.received(Push::Everything);
                self.context.forget_all(&self.tokens, &self.waiters);
                self.context.switches_changed.notify_one();
            }
            Some(Notice::Disconnected) => self.disconnected(),
            None => {}
        }
    }

    fn changed(&self, name: &Value) {
        let Value::BulkString(name) = name else { return };
        let Context { names, leases, local_tier, counters, .. } = &*self.context;
        match names.parse(name) {
            Some(Named::Tag(tag)) => {
                counters.received(Push::Tag);
                self.tokens.void(&tag);
            }
            Some(Named::Entry(id)) => {
                counters.received(Push::Entry);
                local_tier.get().into_iter().for_each(|tier| tier.void(id));
                if !id.is_variant() {
                    leases.revoke_variants(id);
                }
            }
            Some(Named::Lease(id)) => {
                counters.received(Push::Lease);
                leases.mark_unknown(id);
                self.waiters.wake(id);
            }
            Some(Named::LastInvalidation) => {
                counters.received(Push::Invalidation);
                leases.revoke_all();
            }
            Some(Named::Switches) => self.context.switches_changed.notify_one(),
            None => {}
        }
    }

    fn disconnected(&self) {
        // With a grace period, what is known is judged by the time since then.
        if self.context.local_tier.get().is_some_and(|tier| !tier.grace().is_zero()) {
            return;
        }
        if self.end.is_given_up.load(Ordering::SeqCst) {
            // Leases were revoked with it, and what the first tier has of it is not used: the rest is known through other sessions.
            self.tokens.void_all();
            self.waiters.wake_all();
        } else {
            self.context.forget_all(&self.tokens, &self.waiters);
        }
    }
}
