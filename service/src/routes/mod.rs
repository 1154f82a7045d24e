//! The HTTP interface.

mod categories;
mod health;
mod host;
mod list_query;
mod metrics;
mod openapi;
mod products;

use std::{any::Any, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{Method, StatusCode, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tower_http::{catch_panic::CatchPanicLayer, trace::TraceLayer};

use crate::{
    cache::ProductCache,
    catalogue::Catalogue,
    config::Config,
    database::Database,
    problem::Problem,
    server::ShutdownHandle,
    telemetry::{
        metrics::{self as measuring, Metrics},
        traces::{self, ServerSpan},
    },
};

/// The largest request body that is read: many times the largest product.
const MAX_REQUEST_BODY: usize = 64 * 1024;

/// What handlers work with.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) database: Database,
    pub(crate) cache: ProductCache,
    pub(crate) catalogue: Catalogue,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: ShutdownHandle,
}

/// All routes. From the outside in: metrics, log, cache, limits, handler.
pub(crate) fn router(app: App, config: &Config) -> Router {
    let cache = app.cache.layer(config);
    let cached = products::routes().merge(categories::routes());
    let log = TraceLayer::new_for_http()
        .make_span_with(ServerSpan)
        .on_response(ServerSpan)
        .on_request(())
        .on_eos(())
        // A problem logs its own cause.
        .on_failure(());
    let measured = middleware::from_fn_with_state(app.metrics.clone(), measuring::measure);
    let one_host = middleware::from_fn(host::one_host);
    // A health check must not wait for the store of the cache; and what asks every few seconds, for as long as the service
    // lives, would be most of the traces.
    let probes = limited(health::routes().merge(metrics::routes()), config).layer(one_host.clone());
    limited(cached, config)
        .layer(cache)
        .merge(limited(openapi::routes(), config))
        .fallback(not_found)
        .layer(one_host)
        // Outside of the cache: it names this request, not the one whose answer is kept.
        .layer(middleware::from_fn(traces::name_trace))
        .layer(log)
        .merge(probes)
        .layer(measured)
        .with_state(app)
}

/// Keeps what goes wrong in a handler to its own request.
fn limited(routes: Router<App>, config: &Config) -> Router<App> {
    routes
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BODY))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(config.request_timeout, time_limit))
}

async fn not_found(uri: Uri) -> Problem {
    let detail = format!("there is nothing at {}", uri.path());
    Problem::new(StatusCode::NOT_FOUND, detail)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} does not know {method}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

#[allow(clippy::needless_pass_by_value)] // the signature that `CatchPanicLayer` asks for
fn panicked(payload: Box<dyn Any + Send>) -> Response {
    Problem::panic(&*payload).into_response()
}

async fn time_limit(State(limit): State<Duration>, request: Request, next: Next) -> Result<Response, Problem> {
    tokio::time::timeout(limit, next.run(request)).await.map_err(|_| Problem::too_slow(limit))
}

#[cfg(test)]
mod tests;
