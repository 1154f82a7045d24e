//! The HTTP interface.

mod categories;
mod health;
mod host;
mod limits;
mod list_query;
mod metrics;
mod openapi;
mod products;

use axum::{
    Router,
    http::{StatusCode, Uri},
    middleware,
};
use cache_layer_admin::PurgeLayer;
use tower_http::trace::TraceLayer;

use self::limits::limited;
use crate::{
    app::App,
    config::Config,
    problem::Problem,
    telemetry::{
        metrics as measuring,
        traces::{self, ServerSpan},
    },
};

/// All routes. From the outside in: metrics, log, `PURGE` (where it is taken), cache (unless it is off), limits, handler.
pub(crate) fn router(app: App, config: &Config, purge: Option<PurgeLayer>) -> Router {
    let products = limited(products::routes().merge(categories::routes()), config);
    let products = match app.cache.layer() {
        Some(cache) => products.layer(cache),
        None => products,
    };
    let products = match purge {
        Some(purge) => products.layer(purge),
        None => products,
    };
    let log = TraceLayer::new_for_http()
        .make_span_with(ServerSpan)
        .on_response(ServerSpan)
        .on_request(())
        .on_eos(())
        // A problem logs its own cause.
        .on_failure(());
    let measured = middleware::from_fn_with_state(app.metrics.clone(), measuring::measure);
    let one_host = middleware::from_fn(host::one_host);
    // A health check must not wait for the store of the cache; and probes, which come every few seconds, would be most of the
    // traces.
    let probes = limited(health::routes().merge(metrics::routes()), config).layer(one_host.clone());
    products
        .merge(limited(openapi::routes(), config))
        .fallback(not_found)
        .layer(one_host)
        // Outside of the cache: it names this request, not the one whose response is stored.
        .layer(middleware::from_fn(traces::name_trace))
        .layer(log)
        .merge(probes)
        .layer(measured)
        .with_state(app)
}

async fn not_found(uri: Uri) -> Problem {
    let detail = format!("there is nothing at {}", uri.path());
    Problem::new(StatusCode::NOT_FOUND, detail)
}

#[cfg(test)]
mod tests;
