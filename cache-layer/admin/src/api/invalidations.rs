//! Who purged what, when and why.

use axum::{Json, extract::State};

use super::{parameters::Parameters, stored::is_own_tag};
use crate::{audit::Record, problem::Problem, recorder::Invalidation, redact, state::Context};

/// The last purges by way of this API, and what the application invalidated itself, the newest first. Both are of this
/// process, and gone with it.
#[utoipa::path(
    get,
    path = "/api/audit",
    params(("by" = Option<String>, Query, description = "`api` or `application`; both unless given")),
    responses(
        (status = 200, description = "The last of them", body = Vec<Record>),
        (status = 400, description = "Something is wrong with the query", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn audit(
    State(context): State<Context>,
    parameters: Parameters,
) -> Result<Json<Vec<Record>>, Problem> {
    let parameters = parameters.known(&["by"])?;
    let by = match parameters.get("by") {
        None | Some("api" | "application") => parameters.get("by"),
        Some(_) => return Err(Problem::bad_request("by: is to be api or application")),
    };
    let asked = context.0.audit.last();
    // A purge is an invalidation as well, and was told as one.
    let is_asked = |one: &Invalidation| asked.iter().any(|record| was(record, one));
    let own = context.0.recorder.as_ref().map(|recorder| recorder.invalidations()).unwrap_or_default();
    let own: Vec<Record> = own.iter().filter(|one| !is_asked(one)).map(record).collect();
    let mut all: Vec<Record> = asked.into_iter().chain(own).filter(|one| by.is_none_or(|by| by == one.by)).collect();
    all.sort_by_key(|record| std::cmp::Reverse(record.at));
    Ok(Json(all))
}

/// Whether the invalidation is what came of this purge, which was noted right after it.
fn was(record: &Record, invalidation: &Invalidation) -> bool {
    let kind = match record.kind {
        "url" => "key",
        "group" => "tag",
        kind => kind,
    };
    let same = kind == "key" || kind == "all" || record.kind == "group" || invalidation.names.contains(&record.what);
    // What is stored for a URL under other keys is reached by tags of the cache's own.
    let of_url =
        record.kind == "url" && invalidation.kind == "tag" && invalidation.names.iter().all(|tag| is_own_tag(tag));
    ((kind == invalidation.kind && same) || of_url) && (record.began..=record.at).contains(&invalidation.at)
}

fn record(invalidation: &Invalidation) -> Record {
    let names: Vec<String> = invalidation.names.iter().map(|name| redact::url(name)).collect();
    Record {
        id: 0,
        at: invalidation.at,
        began: invalidation.at,
        by: "application",
        actor: None,
        reason: None,
        kind: invalidation.kind,
        what: names.join(", "),
        mode: if invalidation.soft { "soft" } else { "hard" },
        matched: None,
        delivered: invalidation.delivered,
        from: None,
    }
}
