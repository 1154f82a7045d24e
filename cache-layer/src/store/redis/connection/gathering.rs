//! What several tasks ask of a connection at one time, gathered into one message.
//!
//! As with [look-ups](super::batcher), the first task that asks lets every other task that is ready have its turn, and no task
//! waits for a clock. Each asks its own question and gets its own answer.

use std::{sync::Arc, time::Duration};

use redis::RedisResult;
use tokio::{runtime::Handle, sync::oneshot, task::yield_now, time::timeout};

use crate::sync::Mutex;

pub(crate) struct Gathering<T> {
    runtime: Handle,
    /// The most questions that wait for each other.
    most: usize,
    /// How long to wait for their answers: a connection that is lost may never end by itself, and what waits for it keeps it.
    deadline: Duration,
    next: Mutex<Vec<T>>,
}

impl<T: Send + 'static> Gathering<T> {
    /// Gathers for a connection that is driven in the current runtime.
    pub(crate) fn new(most: usize, deadline: Duration) -> Arc<Self> {
        Arc::new(Self { runtime: Handle::current(), most, deadline, next: Mutex::default() })
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
            let gathered = match full {
                Some(all) => all,
                None => {
                    // This returns once every task that is ready has run.
                    yield_now().await;
                    std::mem::take(&mut *gathering.next.lock())
                }
            };
            if !gathered.is_empty() {
                // The tasks that wait have deadlines of their own.
                let _ = timeout(gathering.deadline, send(gathered)).await;
            }
        });
    }
}

/// The answer to a question. If it was lost, as when the runtime shuts down, or is not waited for any more, the deadline of the task
/// that waits ends the wait.
pub(crate) async fn answered<T>(
    answer: impl Future<Output = Result<RedisResult<T>, oneshot::error::RecvError>>,
) -> RedisResult<T> {
    match answer.await {
        Ok(answer) => answer,
        Err(_) => std::future::pending().await,
    }
}
