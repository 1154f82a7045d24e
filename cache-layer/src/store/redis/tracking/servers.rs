//! Which server the connections of a shard lead to: to one server at a time. An invalidation that one server has received, and the
//! other one has not, would otherwise be missing where this process reads.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::sync::Mutex;

#[derive(Debug, Default)]
pub(crate) struct Servers(Mutex<HashMap<String, Found>>);

/// The servers that were found for one shard.
#[derive(Debug, Default)]
struct Found {
    current: Option<Arc<str>>,
    /// Those that were left for another one, and have not heard yet what that was told.
    behind: HashSet<Arc<str>>,
}

impl Servers {
    /// From now on, connections for `shard` lead to `server`; those to another one are to be given up by `leave_others`. Returns
    /// whether it has to hear of what others were told since it was left.
    pub(crate) fn lead_to(&self, shard: &str, server: &Arc<str>, leave_others: impl FnOnce()) -> bool {
        let mut servers = self.0.lock();
        // Within: no connection to another server is published meanwhile.
        leave_others();
        let found = servers.entry(shard.to_owned()).or_default();
        let left = found.current.replace(server.clone()).filter(|left| left != server);
        found.behind.extend(left);
        found.behind.contains(server)
    }

    /// Runs `action`, while no connection finds another server, if those for `shard` lead to `server`; returns whether it did. A
    /// server that does not identify itself is not distinguished from any other.
    pub(crate) fn if_leading_to(&self, shard: &str, server: Option<&Arc<str>>, action: impl FnOnce()) -> bool {
        let servers = self.0.lock();
        let is_current = server.is_none() || servers.get(shard).is_some_and(|found| found.current.as_ref() == server);
        if is_current {
            action();
        }
        is_current
    }

    /// Notes that `server` has heard, or will hear first, of all that others were told.
    pub(crate) fn caught_up(&self, shard: &str, server: &Arc<str>) {
        if let Some(found) = self.0.lock().get_mut(shard).filter(|found| found.current.as_ref() == Some(server)) {
            found.behind.remove(server);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_was_left_is_behind_until_it_has_caught_up() {
        let servers = Servers::default();
        let [a, b] = ["a", "b"].map(Arc::<str>::from);
        let lead_to = |server| servers.lead_to("", server, || ());
        assert!(!lead_to(&a) && !lead_to(&a) && !lead_to(&b));
        assert!(!servers.if_leading_to("", Some(&a), || unreachable!("it was left")));
        assert!(servers.if_leading_to("", Some(&b), || ()) && servers.if_leading_to("", None, || ()));
        assert!(lead_to(&a) && lead_to(&a), "each connection sees to it until one has");
        servers.caught_up("", &b);
        assert!(lead_to(&b), "it was left before it had caught up");
        servers.caught_up("", &b);
        assert!(!lead_to(&b));
        assert!(!servers.lead_to("another shard", &a, || ()));
    }
}
