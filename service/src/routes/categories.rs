//! `/api/categories`

use axum::{Json, Router, extract::State, response::IntoResponse, routing::get};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use crate::{
    cache::{Source, made_from},
    problem::Problem,
    product::Category,
};

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
    responses((status = 200, description = "The categories", body = CategoryList)),
)]
async fn list(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    let items = app.database.categories().await?;
    Ok((made_from(&Source::Categories), Json(CategoryList { items })))
}
