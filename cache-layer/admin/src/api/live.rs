//! Decisions as they happen.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    response::{
        IntoResponse,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, stream::unfold};
use tokio::sync::{
    OwnedSemaphorePermit,
    broadcast::{Receiver, error::RecvError},
};

use super::{parameters::Parameters, top::Decided};
use crate::{problem::Problem, recorder::Watched, state::Context};

/// The filter of a watcher.
struct Filter {
    path: Option<String>,
    result: Option<String>,
    reason: Option<String>,
    /// One in this many.
    every: u64,
    seen: u64,
}

impl Filter {
    fn of(parameters: &Parameters) -> Result<Self, Problem> {
        let sample: f64 = parameters.number("sample")?.unwrap_or(1.0);
        if !(sample > 0.0 && sample <= 1.0) {
            return Err(Problem::bad_request("sample: is to be a share of all, above 0 and at most 1"));
        }
        let text = |name| parameters.get(name).map(str::to_owned);
        let (path, result, reason) = (text("path"), text("result"), text("reason"));
        Ok(Self { path, result, reason, every: (1.0 / sample).round() as u64, seen: 0 })
    }

    /// The decision as it is shown; `None` if the filter excludes it.
    fn show(&mut self, watched: &Watched) -> Option<Decided> {
        let (key, reason) = match watched {
            Watched::Decided(decision) => (Some(&decision.key), decision.reason),
            Watched::Bypassed(_, reason) => (None, Some(*reason)),
        };
        let by = |wanted: &Option<String>, is: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(is);
        let wanted = by(&self.path, &|path| key.is_some_and(|key| key.to_string().contains(path)))
            && by(&self.reason, &|name| reason.is_some_and(|reason| reason.as_str() == name))
            && by(&self.result, &|name| result(watched) == name);
        if !wanted {
            return None;
        }
        self.seen += 1;
        self.seen.is_multiple_of(self.every).then(|| match watched {
            Watched::Decided(decision) => Decided::of(decision),
            Watched::Bypassed(at, reason) => Decided::bypassed(*at, *reason),
        })
    }
}

fn result(watched: &Watched) -> &'static str {
    match watched {
        Watched::Decided(decision) => decision.event.result.as_str(),
        Watched::Bypassed(..) => "bypass",
    }
}

/// Decisions as they happen.
///
/// Events of the type `decision` contain a decision as in `recent` of `/api/explain`; events of the type `missed` contain the
/// number of decisions that were left out, because there were too many.
#[utoipa::path(
    get,
    path = "/api/live",
    params(
        ("path" = Option<String>, Query, description = "Only keys that contain this"),
        ("result" = Option<String>, Query, description = "Only this result: `hit`, `miss`, `bypass` and so on"),
        ("reason" = Option<String>, Query, description = "Only this reason"),
        ("sample" = Option<f64>, Query, description = "Which share of them, above 0 and at most 1"),
    ),
    responses(
        (status = 200, description = "A stream without end", content_type = "text/event-stream"),
        (status = 404, description = "Nothing is recorded", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "As many clients as may do so are watching", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn live(State(context): State<Context>, parameters: Parameters) -> Result<impl IntoResponse, Problem> {
    let parameters = parameters.known(&["path", "result", "reason", "sample"])?;
    let filter = Filter::of(&parameters)?;
    let place = context.place_to_watch().ok_or_else(|| Problem::busy("watchers"))?;
    let watch = context.recorder()?.watch();
    Ok(Sse::new(events(watch, filter, place)).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

fn events(
    watch: Receiver<Watched>,
    filter: Filter,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    unfold((watch, filter, place), |(mut watch, mut filter, place)| async move {
        loop {
            let event = match watch.recv().await {
                Ok(watched) => match filter.show(&watched) {
                    Some(decided) => Event::default().event("decision").json_data(decided).ok(),
                    None => None,
                },
                Err(RecvError::Lagged(missed)) => Some(Event::default().event("missed").data(missed.to_string())),
                Err(RecvError::Closed) => return None,
            };
            if let Some(event) = event {
                return Some((Ok(event), (watch, filter, place)));
            }
        }
    })
}
