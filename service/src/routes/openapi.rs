//! `/openapi.json` and `/docs`, all of it from this binary.

use std::sync::{Arc, LazyLock};

use axum::{
    Json, Router,
    extract::Path,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use tower_http::{compression::CompressionLayer, set_header::SetResponseHeaderLayer};
use utoipa::OpenApi;
use utoipa_swagger_ui::Config;

use super::{App, categories, health, metrics, products};
use crate::problem::Problem;

#[derive(OpenApi)]
#[openapi(
    info(title = "Product catalogue"),
    tags(
        (name = "products", description = "The catalogue. Every read may come from the cache; a change voids what it touches."),
        (name = "health", description = "How the service is."),
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

pub(super) fn routes() -> Router<App> {
    const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
    Router::new()
        .route("/", get(Redirect::temporary("docs/")))
        .route("/docs", get(Redirect::permanent("docs/")))
        .route("/docs/", get(|| file(Path(String::new()))))
        .route("/docs/{*file}", get(file))
        .route("/openapi.json", get(Json(&*DOCUMENT)))
        .layer(SetResponseHeaderLayer::overriding(header::CACHE_CONTROL, NO_STORE))
        // A megabyte of scripts.
        .layer(CompressionLayer::new())
}

async fn file(Path(path): Path<String>) -> Result<Response, Problem> {
    match utoipa_swagger_ui::serve(&path, Arc::clone(&INTERFACE)) {
        Ok(Some(file)) => {
            let content_type = [(header::CONTENT_TYPE, file.content_type)];
            Ok((content_type, file.bytes.into_owned()).into_response())
        }
        Ok(None) => Err(Problem::new(StatusCode::NOT_FOUND, format!("the documentation has no file {path}"))),
        Err(error) => Err(Problem::internal(&error)),
    }
}
