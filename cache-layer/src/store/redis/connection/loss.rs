//! A loss of the server, and whether it was a blip.
//!
//! A server that was unreachable was so for the other processes as well, and they do not all reconnect at the same time. An
//! invalidation that such a process has acknowledged is unknown to the server until the process is back. So after such a loss a
//! connection [settles](Session::is_settled): it takes invalidations, which are delivered before anything else, but nothing is
//! read over it, or loaded, until the other processes have had time to reconnect. A blip needs none of that: the same server is
//! back before any invalidation stopped [waiting](super::handle::Connection::waits_until) for it.

use std::time::{Duration, Instant};

use super::{identify::Identity, session::Session};

/// The share of the waiting time of invalidations that a blip may take: other processes may reconnect that much later.
const BLIP: u32 = 4;

/// A connection that was lost, or could not be made.
pub(super) struct Loss {
    /// When the server was last known to answer.
    since: Instant,
    /// The identity of the server; unknown if other processes may have missed it for longer.
    server: Option<Identity>,
}

impl Loss {
    pub(super) fn unwitnessed() -> Self {
        Self { since: Instant::now(), server: None }
    }

    pub(super) fn of(session: &Session) -> Self {
        Self { since: session.last_seen(), server: session.identity.clone().filter(|_| session.is_settled()) }
    }

    /// Whether the same server is back so soon that invalidations of other processes, if they lost it too, are still waiting for
    /// it.
    pub(super) fn is_blip(&self, server: Option<&Identity>, delivery: Duration) -> bool {
        let same = self.server.as_ref().zip(server).is_some_and(|(before, now)| before.id() == now.id());
        same && self.since.elapsed() < delivery / BLIP
    }
}
