//! The operator's side of [`cache_layer`]: see what a cache does, have its decisions explained, and purge.
//!
//! [`Admin`] is an [`axum::Router`] with a page for people at `/`, an API under `/api` and its description at `/openapi.json`,
//! to be served on a port of its own. `cachectl`, the binary of this crate, asks the same API.
//!
//! ```
//! use std::{net::SocketAddr, time::Duration};
//! use cache_layer::{Cache, CacheLayer, store::MemoryStore};
//! use cache_layer_admin::{Admin, Recorder};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemoryStore::new(64 * 1024 * 1024);
//! let recorder = Recorder::new();
//! let cache = Cache::builder(store.clone()).observer(recorder.clone()).build();
//! let layer = CacheLayer::new(cache.clone()).ttl_for_path("/api/products", Duration::from_secs(60));
//!
//! let admin = Admin::new(cache)
//!     .layer("products", &layer)
//!     .memory(store)
//!     .recorder(recorder)
//!     .token(std::fs::read_to_string("/run/secrets/admin-token")?)?
//!     .router();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:9090").await?;
//! axum::serve(listener, admin.into_make_service_with_connect_info::<SocketAddr>()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Who may ask
//!
//! A client on the same machine may read without a token; everything else requires the [token](Admin::token), as
//! `Authorization: Bearer …`. Whether a client is on the same machine is determined by the address of its connection, which
//! `into_make_service_with_connect_info` provides: without it, reading requires the token as well. A token in the query, a
//! request from a page of another origin, a `Host` that is not this machine's, and signs of a proxy are refused. For a port that
//! other machines reach, [`Admin::token_for_reading`] lets reading require the token from every client.
//!
//! No answer and no line of the log contains a stored body, a cookie, or a credential: values of fields, and of parameters in
//! URLs, that may be secret are shown as `•••`. Of the fields, cookies and hints in a response's key, only names or their number
//! are shown. Other parts of keys are shown, and keys contain whatever URLs contain.
//!
//! # What it costs
//!
//! Nothing, unless there is a [`Recorder`], which records every look-up. Explaining reads the store as a request does; counting
//! what a purge would reach examines every key.
//!
//! # Layout
//!
//! From the outside in: `admin` (settings and the router), `page`, `method` (`PURGE`), `api` (one file for each group of
//! questions), and below them `access`, `recorder` with `stats` and `sizing`, `audit`, `reasons`, `redact` and `problem`.

#![warn(missing_docs)]

mod access;
mod admin;
mod answers;
mod api;
mod audit;
mod method;
mod page;
mod problem;
mod reasons;
mod recorder;
mod redact;
mod sizing;
mod state;
mod stats;

pub use self::{
    access::{TokenError, TokenHandle},
    admin::Admin,
    method::{PurgeLayer, PurgeRule, PurgeService},
    recorder::Recorder,
};
