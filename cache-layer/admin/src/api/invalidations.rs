//! The audit: who purged what, when and why.

use axum::{Json, extract::State};

use super::parameters::Parameters;
use crate::{audit::Record, problem::Problem, recorder::Invalidation, state::Context};

/// The last purges through this API, and the last invalidations by the application, the newest first.
///
/// Over Redis, the purges are those of the whole fleet, whose last 10,000 are kept. Invalidations by the application are those of
/// this process, and are lost when it ends.
#[utoipa::path(
    get,
    path = "/api/audit",
    params(
        ("by" = Option<String>, Query, description = "`api`, `method` or `application`; all unless given"),
        ("limit" = Option<usize>, Query, description = "The most records; 1,000 unless given, up to 10,000"),
    ),
    responses(
        (status = 200, description = "The newest records", body = Vec<Record>),
        (status = 400, description = "The query is invalid", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn audit(
    State(context): State<Context>,
    parameters: Parameters,
) -> Result<Json<Vec<Record>>, Problem> {
    let parameters = parameters.known(&["by", "limit"])?;
    let limit = parameters.number("limit")?.unwrap_or(1_000).clamp(1, 10_000);
    let by = match parameters.get("by") {
        None | Some("api" | "method" | "application") => parameters.get("by"),
        Some(by) => return Err(Problem::bad_request(format!("by {by:?}: must be api, method or application"))),
    };
    let asked = match by {
        Some("application") => Vec::new(),
        _ => context.0.audit.last(&context.0.cache, limit).await,
    };
    let own = context.0.recorder.as_ref().map(|recorder| recorder.invalidations()).unwrap_or_default();
    let own: Vec<Record> = own.iter().map(record).collect();
    let asked = asked.into_iter().map(|record| Record { asked: None, ..record });
    let mut all: Vec<Record> = asked.chain(own).filter(|one| by.is_none_or(|by| by == one.by)).collect();
    all.sort_by_key(|record| std::cmp::Reverse((record.at, record.id)));
    all.truncate(limit);
    Ok(Json(all))
}

fn record(invalidation: &Invalidation) -> Record {
    let mode = if invalidation.soft { "soft" } else { "hard" };
    Record {
        at: invalidation.at,
        delivered: invalidation.delivered,
        ..Record::new("application", invalidation.kind, &invalidation.names.join(", "), mode)
    }
}
