//! Batches of look-ups: every task that is ready asks first, and then all reads are sent at once, each key once. This pattern is
//! known as a *dataloader*.
//!
//! For many small requests, the system calls that carry them cost more than the commands, here and at the server. So the first
//! task that asks lets every other task that is ready have its turn before anything is sent. If no other task is ready, that
//! takes no time; no task waits for a clock, or for an earlier round trip.
//!
//! A task that asks for a key that is about to be read shares that read. The read has not been sent, so it sees everything that
//! was written before any of these tasks asked.
//!
//! A look-up may [claim](Claim) the lease on its key: in the same message, and before the read, so that no other load can change
//! the entry after it is read.

use std::{
    sync::{Arc, MutexGuard, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use redis::{
    FromRedisValue as _, Pipeline, RedisError, RedisResult, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
};
use tokio::{runtime::Handle, sync::SetOnce, task::yield_now, time::timeout};

use crate::store::redis::wire::{
    errors::is_wrong_type,
    replies::{self, Taken, Time, Values, no_answer},
    sealing::Sealing,
};
use crate::{entry::Entry, key::Key, sync::Mutex, telemetry::Rejection};

/// The most keys that wait for each other: finding a key among more would take longer than reading it.
const TOGETHER: usize = 64;
/// The number of keys whose replies the driver hands over together: more of them cost less, but let the first wait for the last.
const AT_ONCE: usize = 8;

/// The look-ups of one connection.
pub(crate) struct LookupBatcher {
    driver: MultiplexedConnection,
    runtime: Handle,
    /// The time limit of a round trip. The tasks that wait have a deadline as well, so that this one only has to end it.
    deadline: Duration,
    /// The reads that are sent next.
    next: Mutex<Vec<Read>>,
}

struct Read {
    key: Key,
    name: String,
    tracked: bool,
    claim: Option<Claim>,
    answer: Arc<Answer>,
}

/// A lease that is asked for together with its entry.
pub(crate) struct Claim {
    /// The names of the lease, and of the last invalidation.
    pub(crate) lease: String,
    pub(crate) note: String,
    /// The [value](crate::store::Lease::value) of the lease.
    pub(crate) value: Vec<u8>,
    /// In milliseconds.
    pub(crate) life: u64,
    pub(crate) outcome: Arc<SetOnce<Claimed>>,
}

/// The outcome of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// The lease was taken at this time of the server's clock, and it is tracked, as the last invalidation is.
    Taken([u8; 16]),
    NotTaken,
    /// The outcome is not known.
    Doubtful,
}

/// The server's reply, for all tasks that asked.
pub(crate) type Answer = SetOnce<RedisResult<Found>>;

/// The value of a key.
pub(crate) enum Found {
    Nothing,
    /// A value of another type.
    Foreign,
    Envelope(Envelope),
}

/// The bytes of an entry, which are parsed once for all tasks that asked.
pub(crate) struct Envelope {
    bytes: Bytes,
    entry: OnceLock<Result<Entry, Rejection>>,
}

impl LookupBatcher {
    /// A batcher for a connection that is driven in the current runtime.
    pub(crate) fn new(driver: MultiplexedConnection, deadline: Duration) -> Arc<Self> {
        Arc::new(Self { driver, runtime: Handle::current(), deadline, next: Mutex::default() })
    }

    fn next(&self) -> MutexGuard<'_, Vec<Read>> {
        self.next.lock()
    }

    /// Asks for `key`, which is kept under `name`; `tracked` if the server is to push its changes.
    pub(crate) fn ask(self: &Arc<Self>, key: &Key, tracked: bool, name: impl FnOnce() -> String) -> Arc<Answer> {
        self.add(key, tracked, name, None)
    }

    /// As [`ask`](Self::ask), with a claim.
    pub(crate) fn ask_and_claim(
        self: &Arc<Self>,
        key: &Key,
        name: impl FnOnce() -> String,
        claim: Claim,
    ) -> Arc<Answer> {
        self.add(key, false, name, Some(claim))
    }

    fn add(
        self: &Arc<Self>,
        key: &Key,
        tracked: bool,
        name: impl FnOnce() -> String,
        claim: Option<Claim>,
    ) -> Arc<Answer> {
        let mut next = self.next();
        if let Some(read) = next.iter_mut().find(|read| read.key == *key) {
            read.tracked |= tracked;
            match (&read.claim, claim) {
                (None, claim) => read.claim = claim,
                (Some(_), Some(second)) => second.came_to(Claimed::NotTaken),
                (Some(_), None) => {}
            }
            return read.answer.clone();
        }
        let answer = Arc::new(Answer::new());
        next.push(Read { key: key.clone(), name: name(), tracked, claim, answer: answer.clone() });
        match next.len() {
            1 => {
                let reads = self.clone();
                self.runtime.spawn(async move {
                    // This returns once every task that is ready has run.
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

    /// Sends the reads.
    async fn send(&self, asked: Vec<Read>) {
        let _ = timeout(self.deadline, join_all(asked.chunks(AT_ONCE).map(|reads| self.read(reads)))).await;
    }

    /// Reads them in one message to the driver.
    async fn read(&self, reads: &[Read]) {
        let pipeline = questions(reads);
        let mut values = match self.driver.clone().req_packed_commands(&pipeline, 0, pipeline.len()).await {
            Ok(values) => values.into_iter(),
            Err(error) => {
                reads.iter().filter_map(|read| read.claim.as_ref()).for_each(|claim| claim.came_to(Claimed::Doubtful));
                return reads.iter().for_each(|read| read.answer_with(Err(error.clone())));
            }
        };
        let (mut taken, mut answers) = (Vec::new(), Vec::with_capacity(reads.len()));
        for read in reads {
            if read.claim.is_some() {
                taken.push(values.next());
            }
            let tracked = if read.tracked { values.next() } else { Some(Value::Okay) };
            answers.push(match (tracked, values.next()) {
                (Some(Value::Okay), Some(value)) => found(value),
                // The server would not push changes, so that the value can't be used.
                (Some(Value::ServerError(refusal)), _) => Err(refusal.into()),
                _ => Err(no_answer()),
            });
        }
        // Claims are settled first: a task that has its answer looks at its claim.
        let claims: Vec<&Claim> = reads.iter().filter_map(|read| read.claim.as_ref()).collect();
        let settled = settle(&claims, taken, &values.collect::<Vec<_>>());
        if settled.is_none() {
            claims.iter().for_each(|claim| claim.came_to(Claimed::Doubtful));
        }
        for (read, answer) in reads.iter().zip(answers) {
            read.answer_with(if settled.is_some() { answer } else { Err(no_answer()) });
        }
    }
}

/// The leases first, and their entries after them; then, once for all claims, the watch and the time.
fn questions(reads: &[Read]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(2 * reads.len() + 3);
    for read in reads {
        if let Some(Claim { lease, value, life, .. }) = &read.claim {
            pipeline.cmd("SET").arg(lease).arg(value).arg("NX").arg("GET").arg("PX").arg(*life);
        }
        if read.tracked {
            pipeline.cmd("CLIENT").arg("CACHING").arg("YES");
        }
        pipeline.cmd("GET").arg(&read.name);
    }
    let claims: Vec<&Claim> = reads.iter().filter_map(|read| read.claim.as_ref()).collect();
    if let Some(first) = claims.first() {
        pipeline.cmd("CLIENT").arg("CACHING").arg("YES").cmd("MGET");
        for claim in &claims {
            pipeline.arg(&claim.lease);
        }
        pipeline.arg(&first.note).cmd("TIME");
    }
    pipeline
}

/// Settles the claims, by the value before each of them and by the `rest` of the replies; `None` if a reply does not answer its
/// question.
fn settle(claims: &[&Claim], taken: Vec<Option<Value>>, rest: &[Value]) -> Option<()> {
    if claims.is_empty() {
        return rest.is_empty().then_some(());
    }
    let refused = |value: &Value| matches!(value, Value::ServerError(_));
    let watched = match rest {
        [_, _, _] if rest.iter().any(refused) => None,
        [Value::Okay, held, time] => {
            let held = Values::from_redis_value_ref(held).ok()?.of(claims.len() + 1).ok()?;
            Some((held, Time::from_redis_value_ref(time).ok()?.0))
        }
        _ => return None,
    };
    // If the note was lost, the time of the last invalidation is not known.
    let watched = watched.filter(|(held, _)| held.last().and_then(|last| replies::moment(last.as_deref()?)).is_some());
    let mut outcomes = Vec::with_capacity(claims.len());
    for (place, (claim, taken)) in claims.iter().zip(taken).enumerate() {
        let taken = taken?;
        let unknown = refused(&taken);
        outcomes.push(match (Taken::from_redis_value(taken), &watched) {
            (Ok(Taken::Not(_) | Taken::Foreign), _) => Claimed::NotTaken,
            (Ok(Taken::Now), Some((held, time))) if held[place].as_deref() == Some(&claim.value[..]) => {
                Claimed::Taken(*time)
            }
            (Ok(Taken::Now), _) => Claimed::Doubtful,
            (Err(_), _) if unknown => Claimed::Doubtful,
            (Err(_), _) => return None,
        });
    }
    claims.iter().zip(outcomes).for_each(|(claim, outcome)| claim.came_to(outcome));
    Some(())
}

impl Claim {
    fn came_to(&self, outcome: Claimed) {
        // Set nowhere else.
        let _ = self.outcome.set(outcome);
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
    /// The entry of `key` in this envelope.
    pub(crate) fn open(&self, key: &Key, sealing: &Sealing) -> Result<Entry, Rejection> {
        self.entry.get_or_init(|| sealing.decode(key, &self.bytes)).clone()
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
