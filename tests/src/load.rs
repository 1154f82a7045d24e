//! Many clients at once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use tokio::task::JoinSet;

use crate::{HttpClient, wait_until};

/// Clients that ask for the same URLs in turn, each waiting for one answer before its next question.
#[derive(Debug)]
pub struct Load {
    clients: JoinSet<Report>,
    stopped: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

/// The results that the clients saw.
#[derive(Debug, Default)]
pub struct Report {
    /// How long each whole answer took, in rising order.
    pub latencies: Vec<Duration>,
    /// How often each `X-Cache` came.
    pub x_cache: BTreeMap<String, usize>,
    /// Every request without a whole answer of status 200, in words.
    pub failures: Vec<String>,
}

impl Load {
    /// Starts `clients` copies of `client` on `urls`.
    #[must_use]
    pub fn start(client: &HttpClient, clients: usize, urls: &[String]) -> Self {
        assert!(!urls.is_empty(), "a load needs a URL");
        let stopped = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let clients = (0..clients)
            .map(|first| {
                // They start at different places, so that they do not move in step.
                let urls: Vec<String> =
                    urls.iter().cycle().skip(first % urls.len()).take(urls.len()).cloned().collect();
                ask(client.clone(), urls, Arc::clone(&stopped), Arc::clone(&answered))
            })
            .collect();
        Self { clients, stopped, answered }
    }

    /// Waits until the clients have had this many more answers.
    pub async fn more(&self, answers: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + answers;
        wait_until(&format!("the clients have {answers} more answers"), async || {
            self.answered.load(Ordering::Relaxed) >= goal
        })
        .await;
    }

    /// Lets each client finish its request, and adds up.
    pub async fn stop(self) -> Report {
        self.stopped.store(true, Ordering::Relaxed);
        let mut total = Report::default();
        for report in self.clients.join_all().await {
            total.latencies.extend(report.latencies);
            total.failures.extend(report.failures);
            for (x_cache, count) in report.x_cache {
                *total.x_cache.entry(x_cache).or_default() += count;
            }
        }
        total.latencies.sort_unstable();
        total
    }
}

impl Report {
    /// Panics unless every request got its 200.
    #[track_caller]
    pub fn assert_no_failure(&self) {
        let examples: Vec<&String> = self.failures.iter().take(5).collect();
        assert!(
            examples.is_empty(),
            "{} of {} requests failed, such as {examples:#?}",
            self.failures.len(),
            self.failures.len() + self.latencies.len(),
        );
    }

    /// The latency that this share of the answers, `0.0..=1.0`, did not exceed.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        assert!(!self.latencies.is_empty(), "nothing was answered");
        let last = self.latencies.len() - 1;
        self.latencies[(last as f64 * share).round() as usize]
    }
}

async fn ask(client: HttpClient, urls: Vec<String>, stopped: Arc<AtomicBool>, answered: Arc<AtomicUsize>) -> Report {
    let mut report = Report::default();
    for url in urls.iter().cycle() {
        if stopped.load(Ordering::Relaxed) {
            break;
        }
        let asked = Instant::now();
        match client.try_request(Method::GET, url, &[], "").await {
            Ok(response) if response.status == 200 => {
                report.latencies.push(asked.elapsed());
                *report.x_cache.entry(response.x_cache().to_owned()).or_default() += 1;
            }
            Ok(response) => report.failures.push(format!("GET {url}: {} {}", response.status, response.text())),
            Err(error) => report.failures.push(error.to_string()),
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
    report
}
