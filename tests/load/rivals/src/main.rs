//! The load comparison's handler, behind what one would use instead of `cache-layer`. Each is set up as its documentation
//! says, except for the size of what is kept in memory, which is the same for all.

#[path = "../../src/handler.rs"]
mod handler;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    error_handling::HandleErrorLayer,
    extract::{RawQuery, State},
    http::{StatusCode, Uri},
    response::Response,
    routing::get,
};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use hitbox::{Config, policy::PolicyConfig};
use hitbox_http::{
    BufferedBody,
    extractors::{Method, path::PathExtractor as _, query::QueryExtractor as _},
    predicates::{NeutralRequestPredicate, NeutralResponsePredicate},
};
use hitbox_redis::{ConnectionMode, RedisBackend};
use http_cache::MokaManager;
use http_cache_tower_server::{QueryKeyer, ServerCacheLayer};
use moka::future::Cache;
use tokio::net::TcpListener;
use tower::ServiceBuilder;

use self::handler::{body, compute, response, serve};

/// How long what is kept may be used.
const TTL: Duration = Duration::from_secs(3_600);

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// The layer of http-cache-tower-server, over moka.
    HttpCache,
    /// The layer of hitbox-tower, over Redis.
    Hitbox,
    /// What one writes by hand: a moka in the handler, with one load for each key.
    Moka,
}

/// Serves until it is killed, and prints its address first.
#[derive(Debug, Parser)]
struct Args {
    #[arg(value_enum)]
    mode: Mode,
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    #[arg(long, default_value = "redis://127.0.0.1:6379")]
    redis: String,
    /// Bytes of memory for entries
    #[arg(long, default_value_t = 1 << 30)]
    memory: u64,
    /// Microseconds of the processor's time that the handler takes
    #[arg(long, default_value_t = 0)]
    work: u64,
}

async fn answer(State(work): State<Duration>, RawQuery(query): RawQuery) -> Response {
    compute(work);
    response(body(query.as_deref()))
}

async fn answer_by_hand(
    State((cache, work)): State<(Cache<String, Bytes>, Duration)>,
    uri: Uri,
    RawQuery(query): RawQuery,
) -> Response {
    let load = async {
        compute(work);
        body(query.as_deref())
    };
    response(cache.get_with(uri.to_string(), load).await)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let work = Duration::from_micros(args.work);
    let routes = Router::new().route("/v/{*any}", get(answer)).with_state(work);
    let listener = TcpListener::bind(args.listen).await?;
    println!("{}", listener.local_addr()?);
    match args.mode {
        Mode::HttpCache => {
            let weigher = |key: &String, entry: &Arc<Vec<u8>>| weight(key.len() + entry.len());
            let moka = Cache::builder().weigher(weigher).max_capacity(args.memory).build();
            let layer = ServerCacheLayer::with_keyer(MokaManager::new(moka), QueryKeyer);
            let failed = HandleErrorLayer::new(async |_| StatusCode::INTERNAL_SERVER_ERROR);
            serve(listener, ServiceBuilder::new().layer(failed).layer(layer).service(routes)).await?;
        }
        Mode::Hitbox => {
            let backend = RedisBackend::builder().connection(ConnectionMode::single(args.redis)).build()?;
            // The query is that of this handler: the key has no others.
            let extractor = Method::new().path("/v/{any}*").query("bytes".to_owned());
            let config = Config::builder()
                .request_predicate(NeutralRequestPredicate::new())
                .response_predicate(NeutralResponsePredicate::new())
                .extractor(extractor)
                .policy(PolicyConfig::builder().ttl(TTL).build())
                .build();
            let layer = hitbox_tower::Cache::builder().backend(backend).config(config).build();
            let body = |response: axum::http::Response<BufferedBody<Body>>| response.map(Body::new);
            serve(listener, ServiceBuilder::new().map_response(body).layer(layer).service(routes)).await?;
        }
        Mode::Moka => {
            let weigher = |key: &String, entry: &Bytes| weight(key.len() + entry.len());
            let cache = Cache::builder().weigher(weigher).max_capacity(args.memory).time_to_live(TTL).build();
            serve(listener, Router::new().route("/v/{*any}", get(answer_by_hand)).with_state((cache, work))).await?;
        }
    }
    Ok(())
}

fn weight(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
