//! A load in a task of its own, and its reply: the client that asked for the load may leave, and the load goes on.

use tokio::{sync::oneshot, task::JoinHandle};
use tracing::Span;

use super::{cache::Cache, span::in_span};

/// A load in a task of its own.
pub(crate) struct LoadTask<T> {
    reply: oneshot::Receiver<T>,
    task: JoinHandle<()>,
}

/// Where a load replies, to the request that waits for it.
pub(crate) struct ReplyTo<T>(oneshot::Sender<T>);

impl Cache {
    /// Runs `load` in a task of its own, whatever becomes of the caller; [`drain`](Self::drain) waits for it.
    pub(crate) fn spawn_load<T, F>(&self, span: Span, load: impl FnOnce(ReplyTo<T>) -> F) -> LoadTask<T>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (reply_to, reply) = oneshot::channel();
        LoadTask { reply, task: self.spawn(in_span(load(ReplyTo(reply_to)), span)) }
    }
}

impl<T> LoadTask<T> {
    /// The reply, and the task, which may go on after it. A panic of the load goes on here, where it would have been without
    /// a cache.
    pub(crate) async fn reply(self) -> (T, JoinHandle<()>) {
        match self.reply_unless_panicked().await {
            Ok(replied) => replied,
            Err(task) => resume_panic(task).await,
        }
    }

    /// As [`reply`](Self::reply); the task alone, if the load panicked or its runtime is shutting down.
    pub(crate) async fn reply_unless_panicked(self) -> Result<(T, JoinHandle<()>), JoinHandle<()>> {
        match self.reply.await {
            Ok(reply) => Ok((reply, self.task)),
            Err(_) => Err(self.task),
        }
    }
}

impl<T> ReplyTo<T> {
    /// Replies. The request may be gone, which is no matter to the load.
    pub(crate) fn send(self, reply: T) {
        let _ = self.0.send(reply);
    }

    /// Whether a request waits for the reply.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.0.is_closed()
    }

    /// Replies what `reply` comes to, unless the request leaves before that: `reply` ends with it then, as it would without a
    /// cache.
    pub(crate) async fn send_while_awaited(mut self, reply: impl Future<Output = T>) {
        let reply = tokio::select! {
            reply = reply => reply,
            () = self.0.closed() => return,
        };
        self.send(reply);
    }
}

/// Goes on with the panic that ended `task`.
pub(crate) async fn resume_panic<T>(task: JoinHandle<()>) -> T {
    if let Some(panic) = task.await.err().and_then(|error| error.try_into_panic().ok()) {
        std::panic::resume_unwind(panic);
    }
    // The runtime is shutting down, and this task with it.
    std::future::pending().await
}
