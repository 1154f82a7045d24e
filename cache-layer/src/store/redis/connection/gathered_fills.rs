//! Fills that are committed together: one call of one script for many of them, or in a cluster one message.
//!
//! Each fill is compared and written by itself, in the order in which they were asked for, and each has its own outcome: a lease
//! that is lost, a tag with another token, or an error holds up no other.

use std::ops::Range;

use redis::{
    ErrorKind, FromRedisValue as _, RedisError, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection,
};
use tokio::sync::oneshot;

use crate::store::redis::wire::{
    replies::{Commit, exactly, no_answer},
    scripts::{self, Batch, Call},
};

/// The most fills in one message.
pub(crate) const TOGETHER: usize = 128;

/// The most that one call of the script does, during which the server does nothing else: the fills, the names that they touch,
/// and the bytes that they send. A server that has no room also notices that only between two calls.
const FILLS: usize = 64;
const NAMES: usize = 256;
const BYTES: usize = 256 * 1024;

/// A fill to be committed.
pub(crate) struct FillAsk {
    pub(crate) call: Call,
    /// Whether it writes a variant as well, by a script of its own.
    pub(crate) has_variant: bool,
    pub(crate) reply: oneshot::Sender<RedisResult<Commit>>,
}

/// Sends `asks`, and answers each.
pub(crate) async fn commit(mut driver: MultiplexedConnection, clustered: bool, asks: Vec<FillAsk>) {
    let mut left = calls(&asks, if clustered { 1 } else { FILLS });
    let mut outcomes: Vec<Option<RedisResult<Commit>>> = asks.iter().map(|_| None).collect();
    // A script that the server has forgotten is loaded again, and then the calls that found it missing are repeated. They have
    // done nothing, and the others must not be repeated.
    for attempt in 0..2 {
        if attempt > 0
            && let Err(error) = scripts::load(&mut driver).await
        {
            left.iter().flat_map(Range::clone).for_each(|place| outcomes[place] = Some(Err(error.clone())));
            break;
        }
        let mut batch = Batch::default();
        left.iter().for_each(|call| add(&mut batch, &asks[call.clone()]));
        let replies = batch.each(&mut driver).await;
        let mut forgotten = Vec::new();
        for (place, call) in left.into_iter().enumerate() {
            let reply =
                replies.as_ref().map_err(Clone::clone).and_then(|replies| outcomes_of(&replies[place], call.len()));
            match reply {
                Err(error) if is_forgotten(&error) && attempt == 0 => forgotten.push(call),
                Err(error) => call.for_each(|place| outcomes[place] = Some(Err(error.clone()))),
                Ok(each) => call.zip(each).for_each(|(place, outcome)| outcomes[place] = Some(outcome)),
            }
        }
        left = forgotten;
        if left.is_empty() {
            break;
        }
    }
    for (ask, outcome) in asks.into_iter().zip(outcomes) {
        // A task that asked may have gone away.
        let _ = ask.reply.send(outcome.unwrap_or_else(|| Err(no_answer())));
    }
}

/// Which fills are sent by one call each: neighbours, at most `most` of them.
fn calls(asks: &[FillAsk], most: usize) -> Vec<Range<usize>> {
    let (mut calls, mut names, mut bytes): (Vec<Range<usize>>, _, _) = (Vec::new(), 0, 0);
    for (place, ask) in asks.iter().enumerate() {
        names += ask.call.names();
        bytes += ask.call.bytes();
        match calls.last_mut() {
            Some(call)
                if call.len() < most
                    && names <= NAMES
                    && bytes <= BYTES
                    && !ask.has_variant
                    && !asks[call.start].has_variant =>
            {
                call.end = place + 1;
            }
            _ => {
                calls.push(place..place + 1);
                (names, bytes) = (ask.call.names(), ask.call.bytes());
            }
        }
    }
    calls
}

fn add(batch: &mut Batch, asks: &[FillAsk]) {
    match asks {
        [one] if one.has_variant => batch.add(&one.call, &scripts::COMMIT_VARIANT),
        [one] => batch.add(&one.call, &scripts::COMMIT),
        many => batch.commit_many(many.iter().map(|ask| &ask.call)),
    }
}

/// The outcomes of a call for this many fills.
fn outcomes_of(reply: &Value, fills: usize) -> RedisResult<Vec<RedisResult<Commit>>> {
    let outcome = |reply: &Value| match reply {
        Value::ServerError(error) => Err(RedisError::from(error.clone())),
        reply => Ok(Commit::from_redis_value_ref(reply)?),
    };
    match reply {
        Value::ServerError(error) => Err(RedisError::from(error.clone())),
        Value::Array(replies) if fills > 1 => Ok(exactly(fills, replies.iter().map(outcome).collect())?),
        reply if fills == 1 => Ok(vec![outcome(reply)]),
        _ => Err(no_answer()),
    }
}

fn is_forgotten(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::NoScript))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(names: usize, bytes: usize, has_variant: bool) -> FillAsk {
        let mut call = Call::default();
        for name in 0..names {
            call.key(name.to_string());
        }
        call.arg(vec![0; bytes]);
        FillAsk { call, has_variant, reply: oneshot::channel().0 }
    }

    fn lengths(asks: impl IntoIterator<Item = FillAsk>, most: usize) -> Vec<usize> {
        let asks: Vec<_> = asks.into_iter().collect();
        let calls = calls(&asks, most);
        assert!(calls.iter().flat_map(Range::clone).eq(0..asks.len()), "each once, in order");
        calls.iter().map(Range::len).collect()
    }

    #[test]
    fn one_call_does_so_much_and_no_more() {
        assert_eq!(lengths((0..100).map(|_| ask(2, 100, false)), FILLS), [64, 36]);
        assert_eq!(lengths((0..3).map(|_| ask(2, 100, false)), 1), [1, 1, 1]);
        assert_eq!(lengths((0..10).map(|_| ask(60, 100, false)), FILLS), [4, 4, 2]);
        assert_eq!(lengths((0..5).map(|_| ask(2, BYTES / 2, false)), FILLS), [2, 2, 1]);
        assert_eq!(lengths([10, 2 * BYTES, 10, 10].map(|bytes| ask(2, bytes, false)), FILLS), [1, 1, 2]);
        assert_eq!(lengths([false, false, true, true, false].map(|variant| ask(2, 100, variant)), FILLS), [2, 1, 1, 1]);
        assert_eq!(lengths([], FILLS), [0; 0]);
    }

    #[test]
    fn an_answer_has_as_many_outcomes_as_there_are_fills() {
        let (one, two) = (Value::Int(1), Value::Array(vec![Value::Int(1), Value::Nil]));
        assert!(matches!(outcomes_of(&one, 1).unwrap()[..], [Ok(Commit::Stored)]));
        assert!(matches!(outcomes_of(&two, 2).unwrap()[..], [Ok(Commit::Stored), Err(_)]));
        assert!(outcomes_of(&one, 2).is_err() && outcomes_of(&two, 3).is_err());
    }
}
