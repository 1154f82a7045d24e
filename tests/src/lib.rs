//! The harness of the end-to-end tests: real servers in processes of their own, proxies that break the network to them, and a
//! client.
//!
//! # Layout
//!
//! - [`RedisServer`], [`PostgresServer`]: a real server process each, on a free port, in a folder that is removed with it.
//! - [`RedisCluster`], [`RedisSentinel`]: several servers that know each other.
//! - [`RedisUsage`]: the commands that a server received, by its own count.
//! - [`ServiceProcess`]: the product service as its users run it.
//! - [`FaultProxy`]: a TCP proxy that delays, drops, cuts or corrupts data on demand.
//! - [`LyingProxy`]: a proxy in front of a Redis that replaces some replies.
//! - [`HttpClient`]: requests over real sockets, answers read to their last trailer.
//! - [`Load`]: many clients at once, and what they saw.
//! - [`Origin`], [`App`], [`Backend`]: an application that reports its requests, a cache in front of it, on every store.
//! - [`QueryApp`]: an [`App`] that answers QUERY, too.
//! - [`Foreteller`]: compares the explanation of a request, made before it is sent, with its response.
//! - [`Feed`]: a body that a test feeds piece by piece.
//! - [`CacheNode`], [`SharedOrigin`]: a process of a fleet, and the application that the fleet stands in front of.
//! - [`Neighbour`]: another cache between this one and its clients: nginx, HAProxy.
//! - [`wait_until`]: polling with a time limit, instead of sleeping for a fixed time.
//!
//! A server whose program is not installed fails the test that needs it, with the package's name. Nothing is skipped.

mod app;
mod backend;
mod cache_node;
mod certificate;
mod fault_proxy;
mod feed;
mod foretold;
mod http_client;
mod load;
mod lying_proxy;
mod neighbour;
mod origin;
mod port;
mod postgres;
mod program;
mod query_app;
mod redis_cluster;
mod redis_sentinel;
mod redis_server;
mod redis_usage;
mod service_process;
mod shared_origin;
mod supervisor;
mod wait;

pub use app::{App, CacheStatus, HOST, ask, request};
pub use backend::{Backend, heard};
pub use cache_node::{CacheNode, Storm};
pub use fault_proxy::{Direction, Fault, FaultProxy};
pub use feed::{Feed, Unread};
pub use foretold::{Foreteller, Foretold};
pub use http_client::{HttpClient, RequestError, Response};
pub use load::{Load, Report};
pub use lying_proxy::LyingProxy;
pub use neighbour::Neighbour;
pub use origin::{Body, Failure, Gate, Head, Length, Origin, echo, full, obey};
pub use postgres::PostgresServer;
pub use query_app::QueryApp;
pub use redis_cluster::{RedisCluster, RedisClusterBuilder, slot};
pub use redis_sentinel::{RedisSentinel, RedisSentinelBuilder};
pub use redis_server::{RedisServer, RedisServerBuilder};
pub use redis_usage::RedisUsage;
pub use service_process::ServiceProcess;
pub use shared_origin::SharedOrigin;
pub use wait::wait_until;
