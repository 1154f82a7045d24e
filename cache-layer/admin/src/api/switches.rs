//! The operator's switches: settings that are turned off or on for a while, in the whole fleet.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json,
    extract::{ConnectInfo, Extension, State, rejection::JsonRejection},
};
use cache_layer::{Switch, SwitchError};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    parameters::Parameters,
    purge::{said_too_much, to_its_end},
};
use crate::{audit::Record, problem::Problem, state::Context};

/// A switch, as this process knows it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SwitchState {
    #[schema(example = "stop-fills")]
    name: &'static str,
    /// What it does while it is on.
    does: &'static str,
    on: bool,
    /// How much longer it is on, in milliseconds.
    #[schema(example = 540000)]
    left_ms: Option<u64>,
}

/// A request to turn a switch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Turn {
    /// `bypass-reads`, `stop-fills`, `first-tier-off` or `wider-grace`.
    #[schema(example = "stop-fills")]
    switch: String,
    /// How many seconds it is on, up to a day; 0 turns it off.
    #[schema(example = 600)]
    seconds: u64,
    /// Whether it is turned in this process alone: at once, and also while the store does not answer. It stays so until the switch
    /// is turned in the fleet.
    #[serde(default)]
    here: bool,
    /// Who turns it, for the audit.
    #[serde(default)]
    actor: Option<String>,
    /// Why, for the audit.
    #[serde(default)]
    reason: Option<String>,
}

fn does(switch: Switch) -> &'static str {
    match switch {
        Switch::BypassReads => "Requests go to the application as they are, and nothing that comes is kept.",
        Switch::StopFills => "What is loaded is not stored; what is stored is used.",
        Switch::FirstTierOff => "No process keeps anything of its own before Redis.",
        Switch::WiderGrace => {
            "What is stale is used for as long as it is kept: while it is refreshed, and in place of an error."
        }
        _ => "See the documentation.",
    }
}

fn states(context: &Context) -> Vec<SwitchState> {
    let on = context.0.cache.switched_on();
    let state = |switch: &Switch| {
        let left = on.iter().find(|(one, _)| one == switch).map(|(_, left)| *left);
        let left_ms = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        SwitchState { name: switch.as_str(), does: does(*switch), on: left.is_some(), left_ms }
    };
    Switch::ALL.iter().map(state).collect()
}

/// The switches, as this process knows them.
#[utoipa::path(
    get,
    path = "/api/switches",
    responses((status = 200, description = "Each of them", body = Vec<SwitchState>)),
)]
pub(super) async fn switches(
    State(context): State<Context>,
    parameters: Parameters,
) -> Result<Json<Vec<SwitchState>>, Problem> {
    parameters.known(&[])?;
    Ok(Json(states(&context)))
}

/// Turns a switch on or off: over Redis, in every process with the same prefix.
#[utoipa::path(
    post,
    path = "/api/switches",
    request_body = Turn,
    security(("token" = [])),
    responses(
        (status = 200, description = "Each of them, as this process knows them now", body = Vec<SwitchState>),
        (status = 400, description = "Something is wrong with the request", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The token is missing or wrong", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The application's cache has no switches", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The store did not answer: most likely the switch is as it was, and `here` turns it in this process", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn turn(
    State(context): State<Context>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    body: Result<Json<Turn>, JsonRejection>,
) -> Result<Json<Vec<SwitchState>>, Problem> {
    let Json(turn) = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let names = || Switch::ALL.iter().map(|switch| switch.as_str()).collect::<Vec<_>>().join(", ");
    let known = Switch::ALL.iter().find(|known| known.as_str() == turn.switch).copied();
    let switch = known.ok_or_else(|| Problem::bad_request(format!("switch: is to be one of {}", names())))?;
    said_too_much(turn.actor.as_deref(), turn.reason.as_deref())?;
    let from = peer.map(|Extension(ConnectInfo(peer))| peer.ip().to_string());
    to_its_end(async move {
        turned(&context, switch, turn, from).await?;
        Ok(Json(states(&context)))
    })
    .await
}

/// Turns a switch, and records that, also if the store did not answer: other processes may know of it nevertheless.
async fn turned(context: &Context, switch: Switch, turn: Turn, from: Option<String>) -> Result<(), Problem> {
    let Turn { seconds, here, actor, reason, .. } = turn;
    let (cache, on_for) = (&context.0.cache, Duration::from_secs(seconds));
    let result = match (here, seconds) {
        (true, 0) => cache.switch_off_here(switch),
        (true, _) => cache.switch_here(switch, on_for),
        (false, 0) => cache.switch_off(switch).await,
        (false, _) => cache.switch(switch, on_for).await,
    };
    if let Ok(()) | Err(SwitchError::Store(_)) = result {
        let mode = if seconds == 0 { "off" } else { "on" };
        let what = if here { format!("{switch} in this process alone") } else { switch.to_string() };
        let (id, delivered) = (context.0.audit.next(), result.is_ok());
        let record = Record { id, actor, reason, from, delivered, ..Record::new("api", "switch", &what, mode) };
        context.0.audit.add(cache, record).await;
    }
    result.map_err(|error| match error {
        SwitchError::NoSwitches => Problem::new(StatusCode::CONFLICT, error.to_string()),
        SwitchError::Time(_) => Problem::bad_request(format!("seconds: {error}")),
        error => Problem::unavailable(&format!("{error}; \"here\": true turns it in this process alone")),
    })
}
