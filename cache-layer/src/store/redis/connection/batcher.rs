//! Look-ups on their way: every task that is ready asks first, and then everything goes out at once, each key once. It is the
//! pattern that is known as a *dataloader*.
//!
//! Many small requests cost less by what they ask than by the system calls that carry them, here and at the server. So the
//! first task that asks lets every other one that is ready have its turn before anything is sent. Where none is, that takes
//! no time; no task waits for a clock, nor for an earlier round trip.
//!
//! A task that asks for a key that is about to be read shares that read. It has not been sent, so it sees whatever was
//! written before any of them asked.

use std::{
    sync::{Arc, MutexGuard, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use redis::{
    Pipeline, RedisError, RedisResult, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
};
use tokio::{runtime::Handle, sync::SetOnce, task::yield_now, time::timeout};

use crate::store::redis::wire::{errors::is_wrong_type, replies::no_answer};
use crate::{
    entry::{Entry, envelope},
    key::Key,
    sync::Mutex,
    telemetry::Rejection,
};

/// Keys that wait for one another at most: to look for one among more would take longer than to read it.
const TOGETHER: usize = 64;
/// Keys whose answers the driver hands over together: more of them cost less, and let the first wait for the last.
const AT_ONCE: usize = 8;

/// The look-ups of one connection.
pub(crate) struct LookupBatcher {
    driver: MultiplexedConnection,
    runtime: Handle,
    /// Of a round trip. Who waits for it has a deadline as well, so that this one only has to end it.
    deadline: Duration,
    /// What goes out next.
    next: Mutex<Vec<Read>>,
}

struct Read {
    key: Key,
    name: String,
    tracked: bool,
    answer: Arc<Answer>,
}

/// What the server answers, for everybody who asked.
pub(crate) type Answer = SetOnce<RedisResult<Found>>;

/// What is at a key.
pub(crate) enum Found {
    Nothing,
    /// A value of another type.
    Foreign,
    Envelope(Envelope),
}

/// The bytes of an entry, which is read out of them once for all who asked.
pub(crate) struct Envelope {
    bytes: Bytes,
    entry: OnceLock<Result<Entry, Rejection>>,
}

impl LookupBatcher {
    /// Of a connection that is driven in the runtime that this is called in.
    pub(crate) fn new(driver: MultiplexedConnection, deadline: Duration) -> Arc<Self> {
        Arc::new(Self { driver, runtime: Handle::current(), deadline, next: Mutex::default() })
    }

    fn next(&self) -> MutexGuard<'_, Vec<Read>> {
        self.next.lock()
    }

    /// Asks for `key`, which is kept under `name`; `tracked` if the server is to tell when it changes.
    pub(crate) fn ask(self: &Arc<Self>, key: &Key, tracked: bool, name: impl FnOnce() -> String) -> Arc<Answer> {
        let mut next = self.next();
        if let Some(read) = next.iter_mut().find(|read| read.key == *key) {
            read.tracked |= tracked;
            return read.answer.clone();
        }
        let answer = Arc::new(Answer::new());
        next.push(Read { key: key.clone(), name: name(), tracked, answer: answer.clone() });
        match next.len() {
            1 => {
                let reads = self.clone();
                self.runtime.spawn(async move {
                    // Comes back once every task that is ready has run.
                    yield_now().await;
                    let asked = std::mem::take(&mut *reads.next());
                    reads.send(asked).await;
                });
            }
            TOGETHER => {
                let (reads, asked) = (self.clone(), std::mem::take(&mut *next));
                self.runtime.spawn(async move { reads.send(asked).await });
            }
            _ => {}
        }
        answer
    }

    /// Sends what was asked.
    async fn send(&self, asked: Vec<Read>) {
        let _ = timeout(self.deadline, join_all(asked.chunks(AT_ONCE).map(|reads| self.read(reads)))).await;
    }

    /// Reads them in one message to the driver.
    async fn read(&self, reads: &[Read]) {
        let mut pipeline = Pipeline::with_capacity(2 * reads.len());
        for read in reads {
            if read.tracked {
                pipeline.cmd("CLIENT").arg("CACHING").arg("YES");
            }
            pipeline.cmd("GET").arg(&read.name);
        }
        let mut values = match self.driver.clone().req_packed_commands(&pipeline, 0, pipeline.len()).await {
            Ok(values) => values.into_iter(),
            Err(error) => return reads.iter().for_each(|read| read.answer_with(Err(error.clone()))),
        };
        for read in reads {
            let tracked = if read.tracked { values.next() } else { Some(Value::Okay) };
            read.answer_with(match (tracked, values.next()) {
                (Some(Value::Okay), Some(value)) => found(value),
                // It would not tell of changes, so that the value is worth nothing.
                (Some(Value::ServerError(refusal)), _) => Err(refusal.into()),
                _ => Err(no_answer()),
            });
        }
    }
}

impl Read {
    fn answer_with(&self, answer: RedisResult<Found>) {
        // Set nowhere else.
        let _ = self.answer.set(answer);
    }
}

fn found(value: Value) -> RedisResult<Found> {
    match value {
        Value::Nil => Ok(Found::Nothing),
        Value::BulkString(bytes) => Ok(Found::Envelope(Envelope { bytes: bytes.into(), entry: OnceLock::new() })),
        Value::ServerError(error) => {
            let error = RedisError::from(error);
            if is_wrong_type(&error) { Ok(Found::Foreign) } else { Err(error) }
        }
        _ => Err(no_answer()),
    }
}

impl Envelope {
    /// The entry of `key` that is in it.
    pub(crate) fn open(&self, key: &Key) -> Result<Entry, Rejection> {
        self.entry.get_or_init(|| envelope::decode(key, &self.bytes)).clone()
    }
}

#[cfg(test)]
impl LookupBatcher {
    /// Keys that are about to be read.
    pub(crate) fn waiting(&self) -> usize {
        self.next().len()
    }
}

#[cfg(test)]
impl Envelope {
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}
