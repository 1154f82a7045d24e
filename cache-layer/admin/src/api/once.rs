//! Requests with an idempotency key: one process of the fleet carries them out, once.
//!
//! The process that receives a request first reserves it in Redis, in one step, and later puts its answer there. Before that,
//! other processes refuse the request; from then on, they give the same answer. In the same process, a request waits for the
//! answer. While Redis is away, only the requests of one process are told apart: a purge must not wait for that.

use std::{pin::pin, time::Duration};

use cache_layer::store::Reserved;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;

use super::purge::{Purged, to_json};
use crate::{answers::Asked, problem::Problem, state::Context};

/// For how long a request is reserved, so that it can be sent again if the process has died; and how often that is renewed.
const TERM: Duration = Duration::from_secs(60);
const RENEWED: Duration = Duration::from_secs(20);
/// For how long its answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What is known of a request in the fleet.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    /// The digest of its content.
    request: String,
    /// The process that carries it out.
    process: String,
    /// `None` while it is carried out.
    answer: Option<Value>,
}

/// The answer to a request: that of the first with its key, or else what `run` returns.
pub(super) async fn once(
    context: &Context,
    asked: &Asked,
    run: impl Future<Output = Result<Value, Problem>> + Send,
) -> Result<Value, Problem> {
    let answer = context.0.answers.of(asked).map_err(|_| reused())?;
    let answered = answer.get_or_try_init(|| in_the_fleet(context, asked, run)).await.cloned();
    if answered.as_ref().is_err_and(|problem| problem.status() == StatusCode::UNPROCESSABLE_ENTITY) {
        // The key belongs to another request, which may be sent to this process as well.
        context.0.answers.forget(asked);
    }
    answered
}

async fn in_the_fleet(
    context: &Context,
    asked: &Asked,
    run: impl Future<Output = Result<Value, Problem>> + Send,
) -> Result<Value, Problem> {
    let (cache, audit) = (&context.0.cache, &context.0.audit);
    let known = Known { request: asked.request.clone(), process: audit.process().to_owned(), answer: None };
    let own = serde_json::to_vec(&known).unwrap_or_default();
    match cache.reserve_request(&asked.key, &own, TERM).await {
        Ok(Reserved::Before(record)) => return answered(asked, &record),
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(%error, "a request with an idempotency key is carried out here, and may be carried out by another process as well")
        }
    }
    let (request, answer) = match audit.asked_before(cache, asked).await {
        // The reservation was evicted, or made by a version that makes none.
        Some(before) => {
            let answer = to_json(&Purged::of(&before))?;
            (before.asked.map(|before| before.request).unwrap_or_default(), answer)
        }
        // Whether a renewal works shows when the answer is recorded.
        None => {
            let renew = || async { drop(cache.record_request(&asked.key, &own, &own, TERM).await) };
            (asked.request.clone(), renewing(run, renew).await?)
        }
    };
    let known = Known { request: request.clone(), answer: Some(answer.clone()), ..known };
    let record = serde_json::to_vec(&known).unwrap_or_default();
    match cache.record_request(&asked.key, &own, &record, KEPT).await {
        // This process was held up for longer than its term, and another one has carried the request out as well.
        Ok(Reserved::Before(record)) => {
            if let Ok(theirs) = answered(asked, &record) {
                return Ok(theirs);
            }
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(%error, "only this process knows the answer to a request with an idempotency key")
        }
    }
    if request == asked.request { Ok(answer) } else { Err(reused()) }
}

/// Runs, and renews the reservation meanwhile.
async fn renewing<T, R: Future<Output = ()>>(run: impl Future<Output = T>, mut renew: impl FnMut() -> R) -> T {
    let mut run = pin!(run);
    loop {
        match timeout(RENEWED, &mut run).await {
            Ok(done) => return done,
            Err(_) => renew().await,
        }
    }
}

/// The answer by what another process has recorded.
fn answered(asked: &Asked, record: &[u8]) -> Result<Value, Problem> {
    let running = |process: &str| {
        let detail =
            format!("process {process} carries out the request with this Idempotency-Key: ask again for its answer");
        Problem::new(StatusCode::CONFLICT, detail).retried_after(1)
    };
    match serde_json::from_slice::<Known>(record) {
        Ok(known) if known.request != asked.request => Err(reused()),
        Ok(Known { answer: Some(answer), .. }) => Ok(answer),
        Ok(known) => Err(running(&known.process)),
        // That of a version to come, or sealed with a key that this process does not have.
        Err(_) => Err(running("unknown")),
    }
}

fn reused() -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "Idempotency-Key: was already used for another request")
}

#[cfg(test)]
mod tests {
    use ::tests::{RedisServer, wait_until};
    use cache_layer::{Cache, store::RedisStore};
    use serde_json::json;
    use tokio::{sync::oneshot, time::sleep};

    use super::*;
    use crate::admin::Admin;

    const MINUTE: Duration = Duration::from_secs(60);

    async fn process(server: &RedisServer) -> Context {
        let store = RedisStore::builder(server.url()).operation_timeout(Duration::from_secs(10)).build().unwrap();
        assert!(store.wait_connected(MINUTE).await);
        Admin::new(Cache::new(store)).context()
    }

    async fn never() -> Result<Value, Problem> {
        panic!("it is carried out elsewhere, or was")
    }

    /// The name of the only reservation.
    fn reservation(server: &RedisServer) -> Option<String> {
        server.keys().into_iter().find(|key| key.contains(":request:"))
    }

    /// How much longer the only reservation lasts, in milliseconds; 0 if there is none.
    fn life(server: &RedisServer) -> i64 {
        reservation(server).map_or(0, |key| server.command(&["PTTL", &key]))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_another_process_carries_out_is_refused_until_it_is_answered() {
        let server = RedisServer::start();
        let (here, there) = (process(&server).await, process(&server).await);
        let asked = Asked::new("key", "body");
        let (end, ended) = oneshot::channel();
        let running = tokio::spawn({
            let (here, asked) = (here.clone(), asked.clone());
            async move { once(&here, &asked, async { Ok(ended.await.unwrap()) }).await }
        });
        wait_until("it is reserved", async || life(&server) > 0).await;
        assert!(life(&server) <= 60_000, "if this process dies, it can be sent again");
        assert_eq!(once(&there, &asked, never()).await.unwrap_err().status(), StatusCode::CONFLICT);
        let another = Asked::new("key", "another body");
        assert_eq!(once(&there, &another, never()).await.unwrap_err().status(), StatusCode::UNPROCESSABLE_ENTITY);
        end.send(json!({"id": 7})).unwrap();
        assert_eq!(running.await.unwrap().unwrap(), json!({"id": 7}));
        assert!(life(&server) > 60_000);
        // What `there` refused is not remembered as the request of this key.
        let third = process(&server).await;
        for context in [&here, &there, &third, &third] {
            assert_eq!(once(context, &asked, never()).await.unwrap(), json!({"id": 7}));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_process_that_was_held_up_for_longer_than_its_term_leaves_the_answer_of_the_next_one() {
        let server = RedisServer::start();
        let (here, there) = (process(&server).await, process(&server).await);
        let asked = Asked::new("key", "body");
        let (end, ended) = oneshot::channel();
        let held_up = tokio::spawn({
            let (here, asked) = (here.clone(), asked.clone());
            async move { once(&here, &asked, async { Ok(ended.await.unwrap()) }).await }
        });
        wait_until("it is reserved", async || life(&server) > 0).await;
        // As if the term had run out.
        let _: i64 = server.command(&["DEL", &reservation(&server).unwrap()]);
        assert_eq!(once(&there, &asked, async { Ok(json!({"id": 8})) }).await.unwrap(), json!({"id": 8}));
        end.send(json!({"id": 7})).unwrap();
        assert_eq!(held_up.await.unwrap().unwrap(), json!({"id": 8}), "both have the answer that is kept");
        assert_eq!(once(&process(&server).await, &asked, never()).await.unwrap(), json!({"id": 8}));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reservation_is_renewed_in_time_for_as_long_as_it_runs() {
        let mut renewed = 0;
        renewing(sleep(5 * TERM), || {
            renewed += 1;
            async {}
        })
        .await;
        assert!(renewed >= 5 && RENEWED * 2 < TERM, "{renewed}");
    }
}
