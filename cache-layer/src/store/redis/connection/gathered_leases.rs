//! Leases that are taken together, in one message.

use redis::{FromRedisValue as _, RedisResult, Value, aio::MultiplexedConnection};
use tokio::sync::oneshot;

use crate::store::{
    Seen,
    redis::wire::{
        replies::{AnyType, Taken, Values, no_answer},
        scripts::Batch,
    },
};

/// The most leases in one message.
pub(crate) const TOGETHER: usize = 128;

/// A lease that a load asks for.
pub(crate) struct LeaseAsk {
    /// For a variant, the name of the primary entry.
    pub(crate) primary: Option<String>,
    /// The names of the entry and of the lease.
    pub(crate) entry: String,
    pub(crate) place: String,
    pub(crate) value: Vec<u8>,
    /// In milliseconds.
    pub(crate) life: u64,
    pub(crate) seen: Seen,
    pub(crate) reply: oneshot::Sender<RedisResult<Attempt>>,
}

/// How an attempt by plain commands ended.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) taken: Taken,
    /// Whether the entry, read after that, is what was seen.
    pub(crate) as_seen: bool,
    /// The value in the place of the lease, once it is watched.
    pub(crate) held: Option<Vec<u8>>,
}

/// How a connection is to be asked.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    /// Whether the server tracks what is read.
    pub(crate) tracking: bool,
    /// Whether a command may have names of one slot only.
    pub(crate) clustered: bool,
}

/// Sends `asks`, and answers each.
pub(crate) async fn take(mut driver: MultiplexedConnection, terms: Terms, asks: Vec<LeaseAsk>) {
    // A task that asked may have gone away.
    match attempts(&mut driver, terms, &asks).await {
        Ok(attempts) => asks.into_iter().zip(attempts).for_each(|(ask, attempt)| drop(ask.reply.send(Ok(attempt)))),
        Err(error) => asks.into_iter().for_each(|ask| drop(ask.reply.send(Err(error.clone())))),
    }
}

/// The leases first, then the entries behind them, which no other load changes from then on, and last what is watched.
async fn attempts(driver: &mut MultiplexedConnection, terms: Terms, asks: &[LeaseAsk]) -> RedisResult<Vec<Attempt>> {
    let (at_once, mut batch) = (if terms.clustered { 1 } else { asks.len().max(1) }, Batch::default());
    asks.iter().filter_map(|ask| ask.primary.as_ref()).for_each(|primary| batch.watch(terms.tracking, primary));
    asks.iter().for_each(|ask| batch.take(&ask.place, &ask.value, ask.life));
    let (absent, present): (Vec<_>, Vec<_>) =
        asks.iter().filter(|ask| ask.seen != Seen::Unusable).partition(|ask| ask.seen == Seen::Nothing);
    absent.chunks(at_once).for_each(|asks| batch.values(asks.iter().map(|ask| &ask.entry)));
    present.iter().for_each(|ask| batch.entry_id(&ask.entry));
    for asks in asks.chunks(at_once) {
        batch.track(terms.tracking);
        batch.values(asks.iter().map(|ask| &ask.place));
    }
    let mut replies = batch.run::<Vec<Value>>(driver).await?.into_iter();
    let mut next = || replies.next().ok_or_else(no_answer);
    let taken = asks.iter().map(|_| Ok(Taken::from_redis_value(next()?)?)).collect::<RedisResult<Vec<_>>>()?;
    let mut found = Vec::with_capacity(absent.len());
    for asks in absent.chunks(at_once) {
        found.extend(Values::from_redis_value(next()?)?.of(asks.len())?);
    }
    let ids = present.iter().map(|_| Ok(AnyType::from_redis_value(next()?)?.0)).collect::<RedisResult<Vec<_>>>()?;
    let mut held = Vec::with_capacity(asks.len());
    for asks in asks.chunks(at_once) {
        held.extend(Values::from_redis_value(next()?)?.of(asks.len())?);
    }
    let (mut found, mut ids) = (found.into_iter(), ids.into_iter());
    let attempts = asks.iter().zip(taken).zip(held).map(|((ask, taken), held)| {
        let as_seen = match ask.seen {
            Seen::Nothing => found.next()?.is_none_or(|value| value.is_empty()),
            Seen::Entry(id) => ids.next()?.is_some_and(|found| found == id.0),
            Seen::Unusable => true,
        };
        Some(Attempt { taken, as_seen, held })
    });
    attempts.collect::<Option<_>>().ok_or_else(no_answer)
}
