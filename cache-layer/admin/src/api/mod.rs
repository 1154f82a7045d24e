//! The API: JSON for machines, and for the page.

mod explain;
mod invalidations;
mod keys;
mod live;
mod once;
mod parameters;
mod patterns;
mod purge;
mod sizing;
mod stats;
mod stored;
mod switches;
mod top;

use std::sync::LazyLock;

use axum::{
    Json, Router,
    routing::{get, post},
};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};

pub(crate) use self::purge::{purge_url, said_in_fields};
use crate::state::Context;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Operating a cache",
        description = "See, explain and purge. Reading takes a token unless the client is on the same machine; changing always does.",
    ),
    security((), ("token" = [])),
    modifiers(&Bearer),
    paths(
        explain::explain,
        explain::explain_content,
        stored::entry,
        stored::tag,
        purge::purge,
        invalidations::audit,
        patterns::patterns,
        switches::switches,
        switches::turn,
        stats::stats,
        sizing::sizing,
        top::top,
        live::live,
    ),
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

pub(crate) async fn document() -> Json<&'static utoipa::openapi::OpenApi> {
    static DOCUMENT: LazyLock<utoipa::openapi::OpenApi> = LazyLock::new(Document::openapi);
    Json(&*DOCUMENT)
}

pub(crate) fn routes() -> Router<Context> {
    Router::new()
        .route("/api/explain", get(explain::explain).post(explain::explain_content))
        .route("/api/entry", get(stored::entry))
        .route("/api/tag/{*tag}", get(stored::tag))
        .route("/api/purge", post(purge::purge))
        .route("/api/audit", get(invalidations::audit))
        .route("/api/patterns", get(patterns::patterns))
        .route("/api/switches", get(switches::switches).post(switches::turn))
        .route("/api/stats", get(stats::stats))
        .route("/api/sizing", get(sizing::sizing))
        .route("/api/top", get(top::top))
        .route("/api/live", get(live::live))
}
