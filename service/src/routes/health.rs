//! `/health`: for people and monitors; `/health/live` and `/health/ready`: for orchestrators.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    routing::get,
};
use serde::Serialize;
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::ToSchema;

use crate::{app::App, cache::RedisHealth, database::Database, problem::Problem, telemetry::Throttle};

/// A health check is asked every few seconds: it must not hang for longer than that.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) fn routes() -> Router<App> {
    const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
    Router::new()
        .route("/health", get(health))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .layer(SetResponseHeaderLayer::overriding(header::CACHE_CONTROL, NO_STORE))
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Status {
    Healthy,
    /// The database or Redis is missing; the service works without, as far as it can.
    Degraded,
}

#[derive(Serialize, ToSchema)]
struct Health {
    status: Status,
    /// The Redis of the cache; null if none is configured and the cache is in memory, or if the cache is off.
    redis: Option<RedisHealth>,
    /// What an operator has turned off or on for a while, and for how many seconds more; nothing, most of the time.
    #[schema(example = json!({"stop-fills": 540}))]
    switches: BTreeMap<String, u64>,
    database: DatabaseHealth,
}

#[derive(Serialize, ToSchema)]
struct DatabaseHealth {
    connected: bool,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Probe {
    Alive,
    Ready,
}

#[derive(Serialize, ToSchema)]
struct ProbeStatus {
    status: Probe,
}

/// The state of the service, its database and its Redis. Always 200: whether to send requests here is another question.
#[utoipa::path(get, path = "/health", tag = "health", responses((status = 200, description = "The state of each part", body = Health)))]
async fn health(State(app): State<App>) -> Json<Health> {
    let (database, redis) = tokio::join!(reachable(&app.database), app.cache.redis_health());
    let healthy = database && redis.as_ref().is_none_or(|redis| redis.connected && !redis.full);
    Json(Health {
        status: if healthy { Status::Healthy } else { Status::Degraded },
        redis,
        switches: app.cache.switched_on(),
        database: DatabaseHealth { connected: database },
    })
}

/// Whether the process answers at all.
#[utoipa::path(
    get,
    path = "/health/live",
    tag = "health",
    responses((status = 200, description = "Alive", body = ProbeStatus, example = json!({"status": "alive"}))),
)]
async fn live() -> Json<ProbeStatus> {
    Json(ProbeStatus { status: Probe::Alive })
}

/// Whether to send requests here: this process is not shutting down, and has its SQLite file, if it uses one.
///
/// Redis and a database server don't count. All replicas share them: if one were down, every replica would be unready, and none
/// would be left to answer what the cache still has.
#[utoipa::path(
    get,
    path = "/health/ready",
    tag = "health",
    responses(
        (status = 200, description = "Ready", body = ProbeStatus, example = json!({"status": "ready"})),
        (status = 503, description = "Shutting down, or its SQLite file is gone", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn ready(State(app): State<App>) -> Result<Json<ProbeStatus>, Problem> {
    let unready = |detail| Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    if app.shutdown.is_shutting_down() {
        unready("the service is shutting down")
    } else if let Err(error) = app.database.is_in_place() {
        static GONE: Throttle = Throttle::new();
        if let Some(kept_back) = GONE.pass() {
            tracing::error!("not ready: {error}{kept_back}");
        }
        unready("the file of the database is gone")
    } else {
        Ok(Json(ProbeStatus { status: Probe::Ready }))
    }
}

async fn reachable(database: &Database) -> bool {
    matches!(tokio::time::timeout(PATIENCE, database.ping()).await, Ok(Ok(())))
}
