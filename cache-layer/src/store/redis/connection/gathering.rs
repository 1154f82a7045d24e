//! What several tasks ask of a connection at one time, gathered into one message.
//!
//! As with [look-ups](super::batcher), the first task that asks lets every other task that is ready have its turn, and no task
//! waits for a clock. Each asks its own question and gets its own answer.

use std::sync::Arc;

use redis::RedisResult;
use tokio::{runtime::Handle, sync::oneshot, task::yield_now};

use crate::sync::Mutex;

pub(crate) struct Gathering<T> {
    runtime: Handle,
    /// The most questions that wait for each other.
    most: usize,
    next: Mutex<Vec<T>>,
}

impl<T: Send + 'static> Gathering<T> {
    /// Gathers for a connection that is driven in the current runtime.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { runtime: Handle::current(), most, next: Mutex::default() })
    }

    /// Adds `one` to the questions that are sent next, by the `send` of the first or the last of them.
    pub(crate) fn add<F>(self: &Arc<Self>, one: T, send: impl FnOnce(Vec<T>) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        let mut next = self.next.lock();
        next.push(one);
        let full = match next.len() {
            gathered if gathered == self.most => Some(std::mem::take(&mut *next)),
            1 => None,
            _ => return,
        };
        let gathering = self.clone();
        self.runtime.spawn(async move {
            if let Some(all) = full {
                return send(all).await;
            }
            // This returns once every task that is ready has run.
            yield_now().await;
            let gathered = std::mem::take(&mut *gathering.next.lock());
            if !gathered.is_empty() {
                send(gathered).await;
            }
        });
    }
}

/// The answer to a question. If it was lost, as when the runtime shuts down, the deadline of the task that waits ends the wait.
pub(crate) async fn answered<T>(
    answer: impl Future<Output = Result<RedisResult<T>, oneshot::error::RecvError>>,
) -> RedisResult<T> {
    match answer.await {
        Ok(answer) => answer,
        Err(_) => std::future::pending().await,
    }
}
