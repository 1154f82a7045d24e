//! `/api/categories`

use axum::{Json, Router, extract::State, routing::get};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{app::App, problem::Problem, product::Category};

pub(super) fn routes() -> Router<App> {
    Router::new().route("/api/categories", get(list))
}

#[derive(Serialize, ToSchema)]
struct CategoryList {
    items: Vec<Category>,
}

/// The categories that have products, by name.
#[utoipa::path(
    get,
    path = "/api/categories",
    tag = "products",
    operation_id = "list_categories",
    responses(
        (status = 200, description = "The categories", body = CategoryList),
        (status = 503, description = "The database can't be reached", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64, description = "Seconds"))),
    ),
)]
async fn list(State(app): State<App>) -> Result<Json<CategoryList>, Problem> {
    Ok(Json(CategoryList { items: app.catalogue.categories().await? }))
}
