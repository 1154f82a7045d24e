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
//! - `config`: what can be set, by `APP_*` variables and flags.
//! - `server`: from start to graceful shutdown.
//! - `connections`: taken in, watched, and let go one by one.
//! - `healthcheck`: whether a service that runs is ready, asked from outside.
//! - `routes`: the HTTP interface, one file for each group of routes.
//! - `problem`: errors as clients see them.
//! - `product`, `price`: what is sold.
//! - `database`: where products live, SQLite or PostgreSQL.
//! - `cache`: the store of the cache, which paths it answers, and when a response is void.
//! - `telemetry`: logs, traces and metrics.
//! - `catalogue`: changes to products, told to the cache whatever becomes of the client.

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
mod telemetry;

pub use self::{
    config::{CachePaths, Config, ConfigError, LogFormat, Password, SecretUrl},
    healthcheck::healthcheck,
    server::{Server, ShutdownHandle, StartError},
    telemetry::Telemetry,
};
