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
    purge::{fit_for_the_audit, to_its_end},
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
    /// The share of the hits that is verified, while `verification-rate` is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 0.01)]
    rate: Option<f64>,
}

/// A request to turn a switch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Turn {
    /// `bypass-reads`, `stop-fills`, `first-tier-off`, `wider-grace` or `verification-rate`.
    #[schema(example = "stop-fills")]
    switch: String,
    /// How many seconds it is on, up to a day; 0 turns it off.
    #[schema(example = 600)]
    seconds: u64,
    /// For `verification-rate`, the share of the hits that is verified: from 0 (none) to 1; 0.01 unless given.
    #[serde(default)]
    #[schema(example = 0.01)]
    rate: Option<f64>,
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
        Switch::BypassReads => "Requests go to the application unchanged, and responses are not stored.",
        Switch::StopFills => "Loaded responses and values are not stored; stored ones are used.",
        Switch::FirstTierOff => "No process uses a first tier in front of Redis.",
        Switch::WiderGrace => {
            "Stale responses and values are used for as long as they are kept: during a refresh, and in place of an error."
        }
        Switch::VerificationRate => "This share of the hits is loaded again in the background, and compared.",
        _ => "See the documentation.",
    }
}

fn states(context: &Context) -> Vec<SwitchState> {
    let (on, rate) = (context.0.cache.switched_on(), context.0.cache.switched_rate());
    let state = |switch: &Switch| {
        let left = on.iter().find(|(one, _)| one == switch).map(|(_, left)| *left);
        let left_ms = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let rate = rate.filter(|_| *switch == Switch::VerificationRate);
        SwitchState { name: switch.as_str(), does: does(*switch), on: left.is_some(), left_ms, rate }
    };
    Switch::ALL.iter().map(state).collect()
}

fn switch_of(name: &str) -> Result<Switch, Problem> {
    let known = Switch::ALL.iter().find(|known| known.as_str() == name).copied();
    known.ok_or_else(|| {
        let names: Vec<_> = Switch::ALL.iter().map(|switch| switch.as_str()).collect();
        Problem::bad_request(format!("switch: must be one of {}", names.join(", ")))
    })
}

/// The switches, as this process knows them.
#[utoipa::path(
    get,
    path = "/api/switches",
    responses((status = 200, description = "All switches", body = Vec<SwitchState>)),
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
        (status = 200, description = "All switches, as this process knows them now", body = Vec<SwitchState>),
        (status = 400, description = "The request is invalid", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The token is missing or wrong", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The application's cache has no switches, or its entries are sealed and the switch is `wider-grace`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The store did not answer. Most likely, the switch has not changed; `here` turns it in this process", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn turn(
    State(context): State<Context>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    body: Result<Json<Turn>, JsonRejection>,
) -> Result<Json<Vec<SwitchState>>, Problem> {
    let Json(turn) = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let switch = switch_of(&turn.switch)?;
    if turn.rate.is_some() && (switch != Switch::VerificationRate || turn.seconds == 0) {
        return Err(Problem::bad_request("rate: only verification-rate has a rate, when it is turned on"));
    }
    fit_for_the_audit(turn.actor.as_deref(), turn.reason.as_deref())?;
    let from = peer.map(|Extension(ConnectInfo(peer))| peer.ip().to_string());
    to_its_end(async move {
        turned(&context, switch, turn, from).await?;
        Ok(Json(states(&context)))
    })
    .await
}

/// Turns a switch, and records that, also if the store did not answer: other processes may know of it nevertheless.
async fn turned(context: &Context, switch: Switch, turn: Turn, from: Option<String>) -> Result<(), Problem> {
    let Turn { seconds, rate, here, actor, reason, .. } = turn;
    let (cache, on_for) = (&context.0.cache, Duration::from_secs(seconds));
    let result = match (here, seconds, rate) {
        (true, 0, _) => cache.switch_off_here(switch),
        (true, _, Some(rate)) => cache.switch_verification_here(rate, on_for),
        (true, _, None) => cache.switch_here(switch, on_for),
        (false, 0, _) => cache.switch_off(switch).await,
        (false, _, Some(rate)) => cache.switch_verification(rate, on_for).await,
        (false, _, None) => cache.switch(switch, on_for).await,
    };
    if let Ok(()) | Err(SwitchError::Store(_)) = result {
        let mode = if seconds == 0 { "off" } else { "on" };
        let rated = rate.map_or_else(|| switch.to_string(), |rate| format!("{switch} {rate}"));
        let what = if here { format!("{rated} in this process alone") } else { rated };
        let (id, delivered) = (context.0.audit.next(), result.is_ok());
        let record = Record { id, actor, reason, from, delivered, ..Record::new("api", "switch", &what, mode) };
        context.0.audit.add(cache, record).await;
    }
    result.map_err(|error| match error {
        SwitchError::NoSwitches => Problem::new(StatusCode::CONFLICT, error.to_string()),
        SwitchError::Sealed => Problem::new(StatusCode::CONFLICT, format!("{error}, by \"here\": true")),
        SwitchError::Time(_) => Problem::bad_request(format!("seconds: {error}")),
        SwitchError::Rate => Problem::bad_request(format!("rate: {error}")),
        error => Problem::unavailable(&format!("{error}; \"here\": true turns it in this process alone")),
    })
}
