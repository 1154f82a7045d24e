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
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        broadcast::{
            Receiver,
            error::{RecvError, TryRecvError},
        },
    },
    time::{Instant, sleep_until},
};

use super::{parameters::Parameters, top::Decided};
use crate::{problem::Problem, recorder::Watched, redact, state::Context};

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
            return Err(Problem::bad_request(format!("sample {sample}: must be above 0 and at most 1")));
        }
        let text = |name| parameters.get(name).map(str::to_owned);
        let (path, result, reason) = (text("path"), text("result"), text("reason"));
        Ok(Self { path, result, reason, every: (1.0 / sample).round() as u64, seen: 0 })
    }

    /// The decision as it is shown; `None` if the filter excludes it.
    fn show(&mut self, watched: &Watched) -> Option<Decided> {
        let (key, reason) = match watched {
            Watched::Decided(decision) => (Some(&decision.key), decision.reason),
            Watched::Bypassed(_, key, reason) => (key.as_ref(), Some(*reason)),
        };
        let by = |wanted: &Option<String>, is: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(is);
        let wanted = by(&self.path, &|path| key.is_some_and(|key| redact::key(key).contains(path)))
            && by(&self.reason, &|name| reason.is_some_and(|reason| reason.as_str() == name))
            && by(&self.result, &|name| result(watched) == name);
        if !wanted {
            return None;
        }
        self.seen += 1;
        self.seen.is_multiple_of(self.every).then(|| match watched {
            Watched::Decided(decision) => Decided::of(decision),
            Watched::Bypassed(at, key, reason) => Decided::bypassed(*at, key.as_ref(), *reason),
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
/// number of decisions that were left out, filtered or not: a watcher is sent 500 a second at most, each 10 ms or less after it was made.
#[utoipa::path(
    get,
    path = "/api/live",
    params(
        ("path" = Option<String>, Query, description = "Only keys that contain this"),
        ("result" = Option<String>, Query, description = "Only this result: `hit`, `miss`, `bypass` and so on"),
        ("reason" = Option<String>, Query, description = "Only this reason"),
        ("sample" = Option<f64>, Query, description = "The share of the decisions to show, above 0 and at most 1"),
    ),
    responses(
        (status = 200, description = "A stream without end", content_type = "text/event-stream"),
        (status = 404, description = "Nothing is recorded", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many clients are watching already", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn live(State(context): State<Context>, parameters: Parameters) -> Result<impl IntoResponse, Problem> {
    let parameters = parameters.known(&["path", "result", "reason", "sample"])?;
    let filter = Filter::of(&parameters)?;
    let place = context.place_to_watch().ok_or_else(|| Problem::busy("watchers"))?;
    let watch = context.recorder()?.watch();
    Ok(Sse::new(events(watch, filter, place)).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

/// The most decisions that a watcher is shown in each `SPAN`: to write them takes longer than to make them, and no one reads more.
const MOST: usize = 50;
const SPAN: Duration = Duration::from_millis(100);
/// A watcher looks for new decisions this often at most: to be woken by each would cost the requests more than the decision.
const PAUSE: Duration = Duration::from_millis(10);

/// What a watcher is sent.
struct Watcher {
    watch: Receiver<Watched>,
    filter: Filter,
    /// The number of decisions that were shown since `since`.
    shown: usize,
    since: Instant,
    /// When all decisions had been looked at.
    looked: Instant,
    /// The number of decisions that the watcher has not been shown.
    missed: u64,
    /// A decision that is sent after the number of those that were missed before it.
    next: Option<Decided>,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    fn new(watch: Receiver<Watched>, filter: Filter, place: OwnedSemaphorePermit) -> Self {
        let now = Instant::now();
        Self { watch, filter, shown: 0, since: now, looked: now, missed: 0, next: None, _place: place }
    }

    /// The next event; `None` if there will be none.
    async fn event(&mut self) -> Option<Event> {
        loop {
            if self.missed > 0 && (self.next.is_some() || self.watch.is_empty()) {
                let missed = std::mem::take(&mut self.missed);
                return Some(Event::default().event("missed").data(missed.to_string()));
            }
            if let Some(decided) = self.next.take() {
                return Event::default().event("decision").json_data(decided).ok();
            }
            if self.shown == MOST {
                self.end_span().await;
            }
            match self.watch.try_recv() {
                Ok(watched) => self.take(&watched),
                Err(TryRecvError::Lagged(behind)) => self.missed += behind,
                Err(TryRecvError::Closed) => return None,
                Err(TryRecvError::Empty) => {
                    sleep_until(self.looked + PAUSE).await;
                    match self.watch.recv().await {
                        Ok(watched) => self.take(&watched),
                        Err(RecvError::Lagged(behind)) => self.missed += behind,
                        Err(RecvError::Closed) => return None,
                    }
                    self.looked = Instant::now();
                }
            }
        }
    }

    fn take(&mut self, watched: &Watched) {
        if self.since.elapsed() >= SPAN {
            (self.since, self.shown) = (Instant::now(), 0);
        }
        self.next = self.filter.show(watched);
        self.shown += usize::from(self.next.is_some());
    }

    /// Waits until decisions may be shown again: the last `MOST` of those that were made meanwhile.
    async fn end_span(&mut self) {
        sleep_until(self.since + SPAN).await;
        (self.since, self.shown) = (Instant::now(), 0);
        while self.watch.len() > MOST {
            match self.watch.try_recv() {
                Ok(_) => self.missed += 1,
                Err(TryRecvError::Lagged(behind)) => self.missed += behind,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }
}

fn events(
    watch: Receiver<Watched>,
    filter: Filter,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    unfold(Watcher::new(watch, filter, place), |mut watcher| async move { Some((Ok(watcher.event().await?), watcher)) })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cache_layer::telemetry::NoCacheReason;
    use futures_util::{FutureExt as _, StreamExt as _};
    use tokio::sync::{Semaphore, broadcast};

    use super::*;

    /// The types and data of events, as text.
    async fn next(stream: &mut (impl Stream<Item = Result<Event, Infallible>> + Unpin)) -> String {
        let Some(Ok(event)) = stream.next().await else { panic!("the stream has no end") };
        format!("{event:?}")
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_is_shown_so_many_in_a_while_and_told_how_many_it_missed() {
        let (sender, watch) = broadcast::channel(1_000);
        let filter = Filter { path: None, result: None, reason: None, every: 1, seen: 0 };
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let mut stream = Box::pin(events(watch, filter, place));
        let send = |count: usize| {
            (0..count).for_each(|at| drop(sender.send(Watched::Bypassed(at as u64, None, NoCacheReason::Method))));
        };
        send(MOST + 20);
        for _ in 0..MOST {
            assert!(next(&mut stream).await.contains("decision"));
        }
        // The span ends, and the last of those that were made meanwhile are shown.
        for _ in 0..20 {
            assert!(next(&mut stream).await.contains("decision"));
        }
        send(2 * MOST + 7);
        for _ in 20..MOST {
            assert!(next(&mut stream).await.contains("decision"));
        }
        let said = next(&mut stream).await;
        assert!(said.contains("missed") && said.contains("27"), "{said}");
        for _ in 0..MOST {
            assert!(next(&mut stream).await.contains("decision"));
        }
        assert!(next(&mut stream).now_or_never().is_none(), "all have been shown or missed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_is_woken_once_in_a_while_and_not_by_each_decision() {
        let (sender, watch) = broadcast::channel(1_000);
        let filter = Filter { path: None, result: Some("miss".to_owned()), reason: None, every: 1, seen: 0 };
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let mut stream = tokio_test::task::spawn(Box::pin(events(watch, filter, place)));
        assert!(stream.poll_next().is_pending());
        let mut woken = 0;
        // A thousand decisions in a tenth of a second, of which the filter shows none.
        for at in 0..1_000 {
            sender.send(Watched::Bypassed(at, None, NoCacheReason::Method)).unwrap();
            tokio::time::advance(Duration::from_micros(100)).await;
            if stream.is_woken() {
                woken += 1;
                assert!(stream.poll_next().is_pending());
            }
        }
        assert!((5..=30).contains(&woken), "{woken}");
    }
}
