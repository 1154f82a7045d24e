//! Errors as clients see them: problem details, RFC 9457.

use std::{any::Any, fmt::Display, sync::Arc, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{sql_error::is_absent, telemetry::Throttle};

/// When to try again after a 503, in seconds: soon enough for a database that restarts, and not with every request.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// An error response: `application/problem+json`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The name of the status.
    #[schema(example = "Not Found")]
    title: &'static str,
    /// The status code of the response.
    #[schema(example = 404)]
    status: u16,
    /// What is wrong, for a person.
    #[schema(example = "there is no product 4711")]
    detail: String,
    /// Everything that is wrong with the request, if that is the problem.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Invalid>,
}

/// One part of a request that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Invalid {
    /// The parameter of the path or of the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, example = "per_page")]
    parameter: Option<&'static str>,
    /// Where in the body, as a JSON pointer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, example = "#/price")]
    pointer: Option<String>,
    /// What is allowed there.
    #[schema(example = "must be a whole number from 1 to 100")]
    detail: String,
}

impl Invalid {
    pub(crate) fn parameter(name: &'static str, detail: impl Into<String>) -> Self {
        Self { parameter: Some(name), pointer: None, detail: detail.into() }
    }

    pub(crate) fn field(name: &str, detail: impl Into<String>) -> Self {
        let token = name.replace('~', "~0").replace('/', "~1");
        Self { parameter: None, pointer: Some(format!("#/{token}")), detail: detail.into() }
    }

    pub(crate) fn body(detail: impl Into<String>) -> Self {
        Self { parameter: None, pointer: Some("#".to_owned()), detail: detail.into() }
    }
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    /// 422, naming all that is wrong at once.
    pub(crate) fn invalid(errors: Vec<Invalid>) -> Self {
        let detail = match errors.len() {
            1 => "1 part of the request is not valid".to_owned(),
            count => format!("{count} parts of the request are not valid"),
        };
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    pub(crate) fn no_product(id: i64) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no product {id}"))
    }

    pub(crate) fn too_slow(limit: Duration) -> Self {
        static SLOW: Throttle = Throttle::new();
        if let Some(kept_back) = SLOW.pass() {
            tracing::error!("request took longer than {limit:?}{kept_back}");
        }
        let detail = format!("the service could not answer within {limit:?}");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// 503: there is no database. Throttled, since every request would log the same line.
    fn no_database(cause: &sqlx::Error) -> Self {
        static ABSENT: Throttle = Throttle::new();
        if let Some(kept_back) = ABSENT.pass() {
            tracing::error!("requests fail for want of the database: {cause}{kept_back}");
        }
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the database can't be reached now; the cause is in the service's log",
        )
    }

    /// 500. The client learns that it is not to blame; the cause goes to the log.
    pub(crate) fn internal(cause: &dyn Display) -> Self {
        tracing::error!("request failed: {cause}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the service could not answer; the cause is in its log")
    }

    /// 500 for a handler that panicked with `payload`.
    pub(crate) fn panic(payload: &(dyn Any + Send)) -> Self {
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Self::internal(&format_args!("panic: {message}"))
    }
}

impl From<&sqlx::Error> for Problem {
    fn from(error: &sqlx::Error) -> Self {
        if is_absent(error) { Self::no_database(error) } else { Self::internal(error) }
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::from(&error)
    }
}

impl From<Arc<sqlx::Error>> for Problem {
    fn from(error: Arc<sqlx::Error>) -> Self {
        Self::from(&*error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], Json(self)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_rfc_9457_asks_for() {
        let problem = Problem::invalid(vec![
            Invalid::parameter("page", "must be a whole number"),
            Invalid::field("a/b", "is not a field of a product"),
        ]);
        assert_eq!(
            serde_json::to_value(problem).unwrap(),
            serde_json::json!({
                "type": "about:blank",
                "title": "Unprocessable Entity",
                "status": 422,
                "detail": "2 parts of the request are not valid",
                "errors": [
                    {"parameter": "page", "detail": "must be a whole number"},
                    {"pointer": "#/a~1b", "detail": "is not a field of a product"},
                ],
            })
        );
    }

    #[test]
    fn a_database_that_is_away_is_503_and_one_that_errs_is_500() {
        let error = |error: std::io::ErrorKind| sqlx::Error::Io(error.into());
        for absent in [
            sqlx::Error::PoolTimedOut,
            sqlx::Error::PoolClosed,
            error(std::io::ErrorKind::ConnectionRefused),
            error(std::io::ErrorKind::UnexpectedEof),
        ] {
            let response = Problem::from(absent).into_response();
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        }
        for fault in [sqlx::Error::RowNotFound, sqlx::Error::ColumnNotFound("stock".to_owned())] {
            let response = Problem::from(fault).into_response();
            assert_eq!(response.status(), 500);
            assert!(!response.headers().contains_key(header::RETRY_AFTER));
        }
    }

    #[test]
    fn the_cause_of_a_500_stays_inside() {
        let problem = Problem::from(sqlx::Error::Protocol("secret table".to_owned()));
        assert_eq!(problem.status, 500);
        assert!(!serde_json::to_string(&problem).unwrap().contains("secret"));
    }
}
