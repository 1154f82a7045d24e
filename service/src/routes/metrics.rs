//! `/metrics`: for Prometheus.

use axum::{
    Router,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::{app::App, problem::Problem};

pub(super) fn routes() -> Router<App> {
    const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
    Router::new()
        .route("/metrics", get(metrics))
        .layer(SetResponseHeaderLayer::overriding(header::CACHE_CONTROL, NO_STORE))
}

/// What this process has counted since it started, in the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    responses((status = 200, description = "All metrics", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    const TEXT: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    match app.metrics.text() {
        Ok(text) => Ok((TEXT, text)),
        Err(error) => {
            tracing::error!(%error, "metrics can't be encoded");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be encoded"))
        }
    }
}
