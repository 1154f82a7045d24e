//! Which part of the data the server of a connection has: a shard of a cluster's, or, by default, everything.

use std::{fmt, future::ready};

use redis::{RedisResult, aio::MultiplexedConnection};

use crate::store::{BoxFuture, Scope};

/// As its defaults are, the whole data on one server.
pub(crate) trait Shard: fmt::Debug + Send + Sync {
    /// Tells it from the other servers of the same data set.
    fn name(&self) -> &str {
        ""
    }

    fn is_everything(&self) -> bool {
        true
    }

    /// Whether an invalidation of `scope` is for this server.
    fn covers(&self, _: Scope<'_>) -> bool {
        true
    }

    /// Something was not where it was looked for, or nobody was there: who has what is to be asked again.
    fn refresh_topology(&self) {}

    /// An error if the server has its data but may not serve it.
    fn is_served<'a>(&'a self, _: &'a mut MultiplexedConnection) -> BoxFuture<'a, RedisResult<()>> {
        Box::pin(ready(Ok(())))
    }

    /// A connection to the server that has the tags, for the supervisor of `own`. Where that is another server, it is waited
    /// for: at a start, all of them are connected to at the same time.
    fn driver_to_tags<'a>(
        &'a self,
        own: &'a MultiplexedConnection,
    ) -> BoxFuture<'a, RedisResult<MultiplexedConnection>> {
        Box::pin(ready(Ok(own.clone())))
    }
}

/// All of the data: what a server alone has, or one behind sentinels.
#[derive(Debug)]
pub(crate) struct Everything;

impl Shard for Everything {}
