//! The part of the data that the server of a connection has: a shard of a cluster or, by default, everything.

use std::{fmt, future::ready};

use redis::{ErrorKind, RedisResult, aio::MultiplexedConnection};

use crate::store::{BoxFuture, Scope};

/// A part of the data. By default it is all of the data, on one server.
pub(crate) trait Shard: fmt::Debug + Send + Sync {
    /// Distinguishes the server from the others of the same data.
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

    /// Nothing more is read from the server that has the tags before it has received what is kept for it; if that is this server, it
    /// receives that anyway.
    fn hold_up_tags(&self) {}

    /// A key was not where it was expected, or its server did not answer: the topology must be read again.
    fn refresh_topology(&self) {}

    /// An error if the server has its data but may not serve it.
    fn is_served<'a>(&'a self, _: &'a mut MultiplexedConnection) -> BoxFuture<'a, RedisResult<()>> {
        Box::pin(ready(Ok(())))
    }

    /// A connection to the server that has the tags, for the supervisor of `own`. If that is another server, this waits for it:
    /// at the start, all servers are connected to at the same time.
    fn driver_to_tags<'a>(
        &'a self,
        own: &'a MultiplexedConnection,
    ) -> BoxFuture<'a, RedisResult<MultiplexedConnection>> {
        Box::pin(ready(Ok(own.clone())))
    }

    /// A connection to the server at `address`, to which this one redirects.
    fn driver_at<'a>(&'a self, _address: &'a str) -> BoxFuture<'a, RedisResult<MultiplexedConnection>> {
        Box::pin(ready(Err((ErrorKind::Io, "a single server redirects to no other").into())))
    }
}

/// All of the data: on a single server, or behind sentinels.
#[derive(Debug)]
pub(crate) struct Everything;

impl Shard for Everything {}
