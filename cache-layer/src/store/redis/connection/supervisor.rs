//! The task that keeps a connection: it connects, checks by heartbeats that the session still works, gives the session up if it
//! doesn't, and tries again.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{handle::Connection, loss::Loss, session::Session};

/// The pause between heartbeats: with the heartbeat's deadline, it limits how long a half-open socket goes unnoticed.
const HEARTBEAT: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// Short, since no process reads until all of them are back.
const LONGEST_BACKOFF: Duration = Duration::from_millis(250);
/// A session that is lost sooner than this after it was made will probably be lost again.
const SHORT_LIVED: Duration = Duration::from_secs(2);

impl Connection {
    /// Connects and keeps connecting until `stop`.
    pub(crate) async fn supervise(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            // First: a session that was given up with it was not lost.
            biased;
            () = stop.cancelled() => self.publish(None),
            () = self.reconnect() => {}
        }
    }

    /// Connects, watches the session to its end, and begins again.
    async fn reconnect(&self) {
        let mut backoff = Backoff(FIRST_BACKOFF);
        let mut reported = false;
        let mut loss = self.rejoins.then(Loss::unwitnessed);
        loop {
            match self.connect(loss.as_ref()).await {
                Ok(session) => {
                    self.report(&session);
                    reported = false;
                    self.connected.notify_waiters();
                    let reason = self.watch(&session).await;
                    loss = Some(Loss::of(&session));
                    self.note_error(reason.clone());
                    self.give_up(&session);
                    self.shard.refresh_topology();
                    tracing::warn!(%reason, server = %self.address, "lost Redis; serving without it until it is back");
                    // A session that is lost at once will be lost again: a server that accepts connections and then refuses the
                    // important commands must not be asked in a tight loop.
                    if session.born.elapsed() < SHORT_LIVED {
                        backoff.pause().await;
                    } else {
                        backoff = Backoff(FIRST_BACKOFF);
                    }
                }
                Err(error) => {
                    loss.get_or_insert_with(Loss::unwitnessed);
                    self.note_error(error.to_string());
                    self.shard.refresh_topology();
                    if !reported {
                        let server = &self.address;
                        tracing::warn!(%error, %server, "can't connect to Redis; serving without it until it is there");
                        reported = true;
                    }
                    backoff.pause().await;
                }
            }
        }
    }

    fn report(&self, session: &Session) {
        if session.is_settled() {
            tracing::info!(tracking = session.tracking, "connected to Redis");
        } else {
            let after = self.context.timeouts.settling;
            tracing::info!(tracking = session.tracking, ?after, "connected to Redis; reading from it begins later");
        }
    }

    /// Returns when the connection can no longer be used, with the reason.
    async fn watch(&self, session: &Arc<Session>) -> String {
        let settling = sleep(self.context.timeouts.settling);
        tokio::pin!(settling);
        loop {
            tokio::select! {
                () = self.wake.notified() => {
                    if session.end.closed.get().is_some() {
                        return "the other side closed the connection".to_owned();
                    }
                    if !self.has(session) {
                        return "an operation failed".to_owned();
                    }
                }
                () = &mut settling, if !session.is_settled() => {
                    session.settle();
                    tracing::info!("reading from Redis again");
                }
                () = sleep(HEARTBEAT) => {
                    match timeout(self.heartbeat_timeout(), self.heartbeat(session)).await {
                        Ok(Ok(())) => {
                            session.succeeded();
                            self.use_dataset_id(session).await;
                        }
                        Ok(Err(error)) => return error.to_string(),
                        Err(_) => return "no answer to a heartbeat".to_owned(),
                    }
                }
            }
        }
    }
}

/// The next pause between attempts: each is twice as long as the one before, up to the longest.
struct Backoff(Duration);

impl Backoff {
    async fn pause(&mut self) {
        sleep(self.0.mul_f64(0.5 + fastrand::f64())).await;
        self.0 = (self.0 * 2).min(LONGEST_BACKOFF);
    }
}
