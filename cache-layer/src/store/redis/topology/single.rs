//! A single server, or the one that sentinels name: it has everything.

use std::sync::{Arc, OnceLock, Weak};

use crate::store::redis::connection::{handle::Connection, shard::Shard};

/// The server as its connections see it. They find each other here, once they are made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Single(pub(crate) Arc<OnceLock<Vec<Weak<Connection>>>>);

impl Shard for Single {
    fn leave_others(&self, server: &str) {
        let connections = self.0.get().into_iter().flatten();
        connections.filter_map(Weak::upgrade).for_each(|connection| connection.leave_others(server));
    }
}
