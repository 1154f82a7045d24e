//! What keeps the faults of a handler, or of a client, to one request.

use std::{any::Any, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{Method, StatusCode, Uri},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{app::App, config::Config, problem::Problem};

/// The largest request body that is read: many times the largest product.
pub(super) const MAX_REQUEST_BODY: usize = 64 * 1024;

/// `routes` with limits of size and time, an answer to unknown methods, and one to panics.
pub(super) fn limited(routes: Router<App>, config: &Config) -> Router<App> {
    routes
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BODY))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(config.request_timeout, time_limit))
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
