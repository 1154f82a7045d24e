//! What a layer explains just before a request has to be what comes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cache_layer::{Cache, Explanation, Verdict, telemetry::NoCacheReason};
use http::Request;

use crate::{Origin, Response};

/// Compares what a layer explains before each request with what `Cache-Status` says then, unless there is another request or load
/// at the same time. Clones are one.
///
/// ```
/// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
/// # use tests::{Foreteller, Origin, ask, request};
/// # use tower::Layer as _;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let cache = Cache::new(MemoryStore::new(1 << 20));
/// let origin = Origin::echo(&[("cache-control", "max-age=60")]);
/// let layer = CacheLayer::new(cache.clone());
/// let (service, foreteller) = (layer.layer(origin.clone()), Foreteller::new(cache, &origin));
/// let request = request(http::Method::GET, "/", &[]);
/// let foretold = foreteller.foretell(&request, layer.explain(&request)).await;
/// foreteller.compare(foretold, &ask(&service, request).await.unwrap());
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Foreteller {
    cache: Cache,
    origin: Origin,
    /// Requests that began, and requests that have ended.
    asks: Arc<[AtomicUsize; 2]>,
}

/// What a layer explained before a request was sent.
#[derive(Debug)]
pub struct Foretold {
    explanation: Box<Explanation>,
    request: String,
    /// How many requests had begun by then, this one included; 0 if it is not the only one.
    began: usize,
    calls: usize,
}

impl Foreteller {
    /// For requests to this cache in front of this origin, and for no others.
    #[must_use]
    pub fn new(cache: Cache, origin: &Origin) -> Self {
        Self { cache, origin: origin.clone(), asks: Arc::default() }
    }

    /// What is explained of a request that is about to be sent.
    // No `async fn`, which would keep a body that is not `Sync`.
    pub fn foretell<B, F>(
        &self,
        request: &Request<B>,
        explaining: F,
    ) -> impl Future<Output = Foretold> + Send + use<B, F>
    where
        F: Future<Output = Explanation> + Send,
    {
        let [begun, ended] = &*self.asks;
        let before = begun.fetch_add(1, Ordering::SeqCst);
        let alone = before == ended.load(Ordering::SeqCst) && self.cache.loads_in_flight() == 0;
        let calls = self.origin.calls();
        let request = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
        let cache = self.cache.clone();
        async move {
            // Nor may anything go on that a request has left behind, such as the invalidation of a write.
            let alone = alone && cache.drain(Duration::ZERO).await;
            let began = if alone { before + 1 } else { 0 };
            Foretold { explanation: Box::new(explaining.await), request, began, calls }
        }
    }

    /// Whether a failing application was to be left alone: for a while that ends by no clock of a test, perhaps in between.
    fn leaves_alone(&self, explanation: &Explanation) -> bool {
        let counts = self.cache.counts();
        let has_failed = counts.backed_off + counts.failed_refreshes > 0;
        explanation.reason == Some(NoCacheReason::BackedOff) || (explanation.verdict == Verdict::Stale && has_failed)
    }

    /// Compares it with what came; panics if the two differ.
    pub fn compare(&self, foretold: Foretold, response: &Response) {
        let Foretold { explanation, request, began, calls } = foretold;
        let [begun, ended] = &*self.asks;
        ended.fetch_add(1, Ordering::SeqCst);
        // A request that waits answers as the other one's load ends.
        if begun.load(Ordering::SeqCst) != began || explanation.verdict == Verdict::Wait {
            return;
        }
        let called = self.origin.calls() - calls;
        let a_pause_may_have_ended = called > 0 && self.leaves_alone(&explanation);
        let explanation = match (explanation.is_final, self.origin.last()) {
            (true, _) => *explanation,
            (false, Some(head)) if called == 1 => explanation.if_answered(head.response()),
            (false, None) if called == 1 => explanation.if_failed(),
            (false, _) => return,
        };
        // A response to POST that may be kept for GET.
        if !explanation.is_final {
            return;
        }
        // Without it, nothing says what the cache did.
        let Some(field) = &explanation.cache_status_field else { return };
        let came =
            response.headers.get_all(field).iter().next_back().and_then(|line| line.to_str().ok()).unwrap_or_default();
        // Then the application is asked, and the answer is its own, or stands in for it.
        if a_pause_may_have_ended && came.contains("; fwd=stale") {
            return;
        }
        assert!(
            is_same(&explanation.cache_status, came),
            "explained as {:?}, and then {came:?} came to {request}: {explanation:?}",
            explanation.cache_status
        );
    }
}

fn is_same(foretold: &str, came: &str) -> bool {
    let [(said, foretold_ttl), (mut same, ttl)] = [foretold, came].map(without_ttl);
    // A cache trusts for a second, by no clock of a test, what it remembers of a failure, and answers with what is stale; then
    // the store tells it of the same failure once more, and it says so.
    if said.ends_with("; hit") && foretold_ttl.is_some_and(|ttl| ttl < 0) {
        same = same.replace("; detail=backed-off", "");
    }
    // A second may have begun in between; and what is softened is stale since the moment at which that is noticed.
    let in_time = match (foretold_ttl, ttl) {
        (Some(foretold), Some(ttl)) => foretold.abs_diff(ttl) <= 1,
        (foretold, ttl) => foretold == ttl,
    };
    said == same && in_time
}

/// A member of `Cache-Status`, and its `ttl` apart.
fn without_ttl(member: &str) -> (String, Option<i64>) {
    let is_ttl = |parameter: &&str| parameter.starts_with("ttl=");
    let ttl = member.split("; ").find(is_ttl).and_then(|parameter| parameter[4..].parse().ok());
    (member.split("; ").filter(|parameter| !is_ttl(parameter)).collect::<Vec<_>>().join("; "), ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_by_more_than_a_second_is_not_the_same() {
        assert!(is_same("c; hit; ttl=58", "c; hit; ttl=57") && is_same("c; fwd=miss", "c; fwd=miss"));
        for came in ["c; hit; ttl=56", "c; hit", "c; fwd=stale; ttl=58", ""] {
            assert!(!is_same("c; hit; ttl=58", came), "{came}");
        }
    }

    #[test]
    fn what_is_stale_may_be_backed_off_a_moment_later() {
        let [plain, backed_off] = ["c; hit; ttl=-1", "c; hit; ttl=-1; detail=backed-off"];
        assert!(is_same(plain, backed_off) && !is_same(backed_off, plain));
        let fresh = ["c; hit; ttl=58", "c; hit; ttl=58; detail=backed-off"];
        for [foretold, came] in [fresh, [plain, "c; fwd=stale; detail=backed-off"]] {
            assert!(!is_same(foretold, came), "{came}");
        }
    }
}
