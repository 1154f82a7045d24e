//! The explanation of a request, made just before it is sent, has to agree with its response.

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

/// Compares a layer's explanation before each request with the `Cache-Status` of its response, unless there is another request
/// or load at the same time. Clones share the state.
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

/// A layer's explanation before a request was sent.
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

    /// The explanation of a request that is about to be sent.
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
            // Nor may follow-up work of an earlier request be under way, such as the invalidation of a write.
            let alone = alone && cache.drain(Duration::ZERO).await;
            let began = if alone { before + 1 } else { 0 };
            Foretold { explanation: Box::new(explaining.await), request, began, calls }
        }
    }

    /// Whether the key was in back-off, whose end does not depend on a test's clock, and may come in between.
    fn leaves_alone(&self, explanation: &Explanation) -> bool {
        let counts = self.cache.counts();
        let has_failed = counts.backed_off + counts.failed_refreshes > 0;
        explanation.reason == Some(NoCacheReason::BackedOff) || (explanation.verdict == Verdict::Stale && has_failed)
    }

    /// Compares it with the response; panics if the two differ.
    pub fn compare(&self, foretold: Foretold, response: &Response) {
        let Foretold { explanation, request, began, calls } = foretold;
        let [begun, ended] = &*self.asks;
        ended.fetch_add(1, Ordering::SeqCst);
        // The answer to a request that waits depends on how the other request's load ends.
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
        // A response to POST may be stored for GET.
        if !explanation.is_final {
            return;
        }
        // Without the field, the response does not say what the cache did.
        let Some(field) = &explanation.cache_status_field else { return };
        let came =
            response.headers.get_all(field).iter().next_back().and_then(|line| line.to_str().ok()).unwrap_or_default();
        // The application was asked then, and the answer is its own, or a stale one in its place.
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
    // For a second, which does not depend on a test's clock, a cache relies on its memory of a failure, and answers with a stale
    // response; after that, the store reports the same failure again, and `Cache-Status` says so.
    if said.ends_with("; hit") && foretold_ttl.is_some_and(|ttl| ttl < 0) {
        same = same.replace("; detail=backed-off", "");
    }
    // A new second may have begun in between; and a soft-invalidated entry is stale from the time at which that is noticed.
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
