//! `/api/products`

use axum::{
    Json, Router,
    extract::{FromRequest, FromRequestParts, Path, Request, State, rejection::JsonRejection},
    http::{StatusCode, header, request::Parts},
    response::IntoResponse,
    routing::{delete, get},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{limits::MAX_REQUEST_BODY, list_query::ListQuery};
use crate::{
    app::App,
    problem::{Invalid, Problem},
    product::{Fields, Product, ProductInput},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/api/products", get(list).post(add))
        .route("/api/products/{id}", get(show).put(replace).delete(remove))
        .route("/api/products/{id}/cache", delete(forget))
}

/// One page of products.
#[derive(Serialize, ToSchema)]
pub(super) struct ProductList {
    items: Vec<Product>,
    /// How many there are on all pages.
    #[schema(minimum = 0, example = 100)]
    total: i64,
    #[schema(minimum = 1, example = 1)]
    page: u32,
    #[schema(minimum = 1, maximum = 100, example = 20)]
    per_page: u32,
}

/// How far a removal from the cache has got.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Forgotten {
    /// Everywhere.
    Invalidated,
    /// In this process; in Redis as soon as it can be reached.
    Pending,
}

#[derive(Serialize, ToSchema)]
pub(super) struct CacheStatus {
    status: Forgotten,
}

/// A page of products, in the order of their ids.
///
/// A page after the last, and a category without products, are empty.
#[utoipa::path(
    get,
    path = "/api/products",
    tag = "products",
    operation_id = "list_products",
    params(ListQuery),
    responses(
        (status = 200, description = "The page", body = ProductList),
        (status = 400, description = "The query is not UTF-8", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Names every wrong parameter", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database can't be reached", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64, description = "Seconds"))),
    ),
)]
async fn list(State(app): State<App>, query: ListQuery) -> Result<Json<ProductList>, Problem> {
    let offset = query.offset();
    let (items, total) = app.catalogue.products(query.category, query.per_page.into(), offset).await?;
    Ok(Json(ProductList { items, total, page: query.page, per_page: query.per_page }))
}

/// A product.
#[utoipa::path(
    get,
    path = "/api/products/{id}",
    tag = "products",
    operation_id = "show_product",
    params(ProductId),
    responses(
        (status = 200, description = "The product", body = Product),
        (status = 404, description = "There is no such product", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an id", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database can't be reached", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64, description = "Seconds"))),
    ),
)]
async fn show(State(app): State<App>, ProductId { id }: ProductId) -> Result<Json<Product>, Problem> {
    app.catalogue.product(id).await?.map(Json).ok_or_else(|| Problem::no_product(id))
}

/// Adds a product.
#[utoipa::path(
    post,
    path = "/api/products",
    tag = "products",
    operation_id = "add_product",
    request_body = ProductInput,
    responses(
        (status = 201, description = "Added", body = Product, headers(("Location" = String, description = "Where the product is"))),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "Larger than 64 KiB", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Names every wrong field", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database can't be reached", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64, description = "Seconds"))),
    ),
)]
async fn add(State(app): State<App>, ProductBody(fields): ProductBody) -> Result<impl IntoResponse, Problem> {
    let input = ProductInput::from_fields(fields, None).map_err(Problem::invalid)?;
    let product = app.catalogue.add(input).await?;
    let location = [(header::LOCATION, format!("/api/products/{}", product.id))];
    Ok((StatusCode::CREATED, location, Json(product)))
}

/// Replaces a product as a whole.
#[utoipa::path(
    put,
    path = "/api/products/{id}",
    tag = "products",
    operation_id = "replace_product",
    params(ProductId),
    request_body(content = ProductInput, description = "The product; its `id`, too, if that is the one in the path, so that an answer can be changed and sent back"),
    responses(
        (status = 200, description = "The product", body = Product),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such product", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "Larger than 64 KiB", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Names every wrong field", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database can't be reached", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64, description = "Seconds"))),
    ),
)]
async fn replace(
    State(app): State<App>,
    ProductId { id }: ProductId,
    ProductBody(fields): ProductBody,
) -> Result<Json<Product>, Problem> {
    let input = ProductInput::from_fields(fields, Some(id)).map_err(Problem::invalid)?;
    app.catalogue.replace(id, input).await.map(Json)
}

/// Deletes a product. Its id is not given to another.
#[utoipa::path(
    delete,
    path = "/api/products/{id}",
    tag = "products",
    operation_id = "delete_product",
    params(ProductId),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, description = "There is no such product", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an id", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database can't be reached", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64, description = "Seconds"))),
    ),
)]
async fn remove(State(app): State<App>, ProductId { id }: ProductId) -> Result<StatusCode, Problem> {
    app.catalogue.delete(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes the cache forget a product and every list, after a change behind the service's back.
#[utoipa::path(
    delete,
    path = "/api/products/{id}/cache",
    tag = "products",
    operation_id = "forget_product",
    params(ProductId),
    responses(
        (status = 200, description = "Forgotten everywhere", body = CacheStatus, example = json!({"status": "invalidated"})),
        (status = 202, description = "Forgotten here; Redis is told as soon as it can be reached", body = CacheStatus, example = json!({"status": "pending"})),
        (status = 422, description = "Not an id", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn forget(State(app): State<App>, ProductId { id }: ProductId) -> impl IntoResponse {
    let (code, status) = if app.cache.forget_product(id).await {
        (StatusCode::OK, Forgotten::Invalidated)
    } else {
        (StatusCode::ACCEPTED, Forgotten::Pending)
    };
    (code, Json(CacheStatus { status }))
}

/// The id in a path.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct ProductId {
    #[param(minimum = 1, example = 42)]
    id: i64,
}

impl<S: Send + Sync> FromRequestParts<S> for ProductId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        // One product, one path: `+7` and `007` are not `7`.
        id.ok()
            .and_then(|Path(text)| Some((text.parse::<i64>().ok()?, text)))
            .filter(|(id, text)| *id >= 1 && id.to_string() == *text)
            .map(|(id, _)| Self { id })
            .ok_or_else(|| {
                let detail = format!("must be a whole number from 1 to {}", i64::MAX);
                Problem::invalid(vec![Invalid::parameter("id", detail)])
            })
    }
}

/// The fields in a request's body.
struct ProductBody(Fields);

impl<S: Send + Sync> FromRequest<S> for ProductBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::<Fields>::from_request(request, state).await {
            Ok(Json(fields)) => Ok(Self(fields)),
            Err(JsonRejection::JsonDataError(_)) => Err(Problem::invalid(vec![Invalid::body("must be an object")])),
            Err(rejection) => Err(match rejection.status() {
                status @ StatusCode::PAYLOAD_TOO_LARGE => {
                    Problem::new(status, format!("a body has at most {MAX_REQUEST_BODY} bytes"))
                }
                status @ StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                    Problem::new(status, "a body has the content type application/json")
                }
                status => Problem::new(status, rejection.body_text()),
            }),
        }
    }
}
