//! A product-catalogue API with [`cache_layer`] in front.
//!
//! The binary is a thin shell around this library, which tests start in their own process:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use service::{Config, Server};
//!
//! let config = Config {
//!     listen: "127.0.0.1:0".parse()?,
//!     database_url: "sqlite::memory:".into(),
//!     ..Config::default()
//! };
//! let server = Server::bind(config).await?;
//! println!("http://{}", server.local_addr());
//! let shutdown = server.shutdown_handle();
//! let running = tokio::spawn(server.run());
//!
//! shutdown.shutdown();
//! running.await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! From the outside in; each imports only what comes after it, and `config` and `telemetry` are for all of them.
//!
//! - `server`: from start to graceful shutdown.
//! - `admin`: the operator's page and API, on a port of its own.
//! - `connections`: accepted, timed out, and closed gracefully.
//! - `routes`: the HTTP interface, one file for each group of routes.
//! - `app`: what handlers work with, opened once.
//! - `catalogue`: changes to products, and the invalidations that go with them, also if the client leaves.
//! - `cache`: the store of the cache, which paths it answers, and when a response is invalid.
//! - `database`: where products live, SQLite or PostgreSQL.
//! - `product`, `price`: what is sold.
//! - `problem`: errors as clients see them; `sql_error`: which of them are the database's.
//!
//! - `config`: what can be set, by `APP_*` variables and flags.
//! - `telemetry`: logs, traces and metrics.
//! - `healthcheck`: asks a running service from outside whether it is ready.

mod admin;
mod app;
mod cache;
mod catalogue;
mod config;
mod connections;
mod database;
mod healthcheck;
mod price;
mod problem;
mod product;
mod routes;
mod server;
mod sql_error;
mod telemetry;

pub use self::{
    app::{ShutdownHandle, StartError},
    cache::Reloaded,
    config::{
        CacheEncode, CachePaths, CacheRules, CacheSwitch, Config, ConfigError, LogFormat, Password, PurgePaths,
        SecretUrl, TokenFile,
    },
    healthcheck::healthcheck,
    server::{ReloadHandle, Server},
    telemetry::Telemetry,
};
