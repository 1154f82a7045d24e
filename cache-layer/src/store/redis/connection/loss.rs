//! A loss of the server, and whether it was a blip.
//!
//! A server that was away is away for the others as well, and they are not all back at the same time. What was written
//! through one that isn't, and acknowledged, is unknown to the server until that one is. So after such a loss a connection
//! [settles](Session::is_settled): it takes invalidations, which are delivered before anything else, but nothing is read over
//! it, nor loaded, until the others have had time to come back. A blip is none of that: the same server, back before any
//! invalidation stopped [waiting](super::handle::Connection::waits_until) for it.

use std::time::{Duration, Instant};

use super::{identify::Identity, session::Session};

/// The share of the time for which invalidations wait that a blip may take: others may be back so much later.
const BLIP: u32 = 4;

/// A connection that was lost, or could not be made.
pub(super) struct Loss {
    /// When the server was last known to be there.
    since: Instant,
    /// Who it was; unknown if others may have missed it for longer.
    server: Option<Identity>,
}

impl Loss {
    pub(super) fn unwitnessed() -> Self {
        Self { since: Instant::now(), server: None }
    }

    pub(super) fn of(session: &Session) -> Self {
        Self { since: session.last_seen(), server: session.identity.clone().filter(|_| session.is_settled()) }
    }

    /// Whether the same server is back so soon that invalidations of other processes, if they lost it too, still wait for it.
    pub(super) fn is_blip(&self, server: Option<&Identity>, delivery: Duration) -> bool {
        let same = self.server.as_ref().zip(server).is_some_and(|(before, now)| before.id() == now.id());
        same && self.since.elapsed() < delivery / BLIP
    }
}
