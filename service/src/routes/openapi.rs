//! `/openapi.json` and `/docs`, all of it from this binary.

use std::sync::{Arc, LazyLock};

use axum::{
    Json, Router,
    extract::{Path, Request, rejection::PathRejection},
    http::{HeaderValue, StatusCode, Version, header},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use tower_http::{compression::CompressionLayer, set_header::SetResponseHeaderLayer};
use utoipa::OpenApi;
use utoipa_swagger_ui::Config;

use super::{categories, health, metrics, products};
use crate::{app::App, problem::Problem};

#[derive(OpenApi)]
#[openapi(
    info(title = "Product catalogue"),
    tags(
        (name = "products", description = "The catalogue. Every read may come from the cache; a change voids what it touches."),
        (name = "health", description = "The state of the service."),
    ),
    paths(
        products::list,
        products::add,
        products::show,
        products::replace,
        products::remove,
        products::forget,
        categories::list,
        health::health,
        health::live,
        health::ready,
        metrics::metrics,
    ),
)]
struct Document;

static DOCUMENT: LazyLock<utoipa::openapi::OpenApi> = LazyLock::new(Document::openapi);

/// Relative, so that it also holds behind a proxy that adds a path; and without the default
/// validator, which is a server elsewhere.
static INTERFACE: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from("../openapi.json").validator_url("none").try_it_out_enabled(true)));

/// The page runs the scripts of this binary, talks to this service, and is shown in no other page. Its style sheet is its own
/// as well, but its scripts set styles and draw icons in line.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

pub(super) fn routes() -> Router<App> {
    const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
    const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");
    Router::new()
        .route("/", get(Redirect::temporary("docs/")))
        .route("/docs", get(Redirect::permanent("docs/")))
        .route("/docs/", get(|| file(Ok(Path(String::new())))))
        .route("/docs/{*file}", get(file))
        .route("/openapi.json", get(Json(&*DOCUMENT)))
        .layer(SetResponseHeaderLayer::overriding(header::CACHE_CONTROL, NO_STORE))
        .layer(SetResponseHeaderLayer::overriding(header::CONTENT_SECURITY_POLICY, POLICY))
        .layer(SetResponseHeaderLayer::overriding(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF))
        // A megabyte of scripts.
        .layer(CompressionLayer::new())
        .layer(middleware::from_fn(with_its_length))
}

/// A response that is compressed on the way has no length, and in HTTP/1.0 its end looks like a truncation.
async fn with_its_length(mut request: Request, next: Next) -> Response {
    if request.version() < Version::HTTP_11 {
        request.headers_mut().remove(header::ACCEPT_ENCODING);
    }
    next.run(request).await
}

async fn file(path: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let Ok(Path(path)) = path else {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the path is not UTF-8, percent-encoded"));
    };
    match utoipa_swagger_ui::serve(&path, Arc::clone(&INTERFACE)) {
        Ok(Some(file)) => {
            let content_type = [(header::CONTENT_TYPE, file.content_type)];
            Ok((content_type, file.bytes.into_owned()).into_response())
        }
        Ok(None) => Err(Problem::new(StatusCode::NOT_FOUND, format!("the documentation has no file {path}"))),
        Err(error) => Err(Problem::internal(&error)),
    }
}
