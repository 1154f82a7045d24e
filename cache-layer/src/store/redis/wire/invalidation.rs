//! The commands of invalidations: one round trip each, which also identifies the data set that was invalidated.

use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, Script, Value, aio::MultiplexedConnection};

use super::{
    errors::is_out_of_memory,
    names::{EVERYTHING, Names, nonce},
    replies::{Banned, Count, Flag, Maybe, Moment, OfTwo, exactly, no_answer, text},
    scripts::{self, Batch, Window},
    token_life::life_invalidated,
};
use crate::{ban::LONGEST_PATTERN, key::Key, pattern::Pattern, store::Scope};

/// The id of the data set that an operation reached: `None` in a cluster, or if it has none.
pub(crate) type DatasetId = Option<String>;

/// One invalidation, in one round trip.
pub(crate) async fn invalidate(
    names: &Names,
    driver: &mut MultiplexedConnection,
    scope: Scope<'_>,
) -> RedisResult<DatasetId> {
    match scope {
        // The lease is deleted with the entry, so that a load in flight can't commit. Variants are reached through this entry
        // alone, and their loads compare it when they commit.
        Scope::Key(key) => {
            let key = key.primary();
            let mut unlink = redis::cmd("UNLINK");
            unlink.arg(names.entry(&key)).arg(names.lease(&key));
            unlinked(names, driver, unlink, 2).await
        }
        Scope::Tags(tags) => {
            renew_tokens(names, driver, (&scripts::INVALIDATE_TAG, &[]), tags.iter()).await.map(|(id, _)| id)
        }
        // Everything is voided, which includes what the scope covers.
        Scope::Pattern(_) | Scope::Everything => {
            renew_tokens(names, driver, (&scripts::INVALIDATE_TAG, &[]), [EVERYTHING]).await.map(|(id, _)| id)
        }
    }
}

/// Invalidates many keys in one round trip, each like [`invalidate`].
pub(crate) async fn invalidate_keys(
    names: &Names,
    driver: &mut MultiplexedConnection,
    keys: &[Key],
) -> RedisResult<DatasetId> {
    let mut batch = Batch::default();
    for key in keys {
        let key = key.primary();
        batch.unlink([names.entry(&key), names.lease(&key)]);
    }
    with_dataset_id::<OfTwo>(names, batch, keys.len(), driver).await
}

/// One soft invalidation, in one round trip; also returns whether it became a hard one. What the server has a token for is dated by
/// the server.
pub(crate) async fn soften(
    names: &Names,
    driver: &mut MultiplexedConnection,
    scope: Scope<'_>,
    window: Window,
) -> RedisResult<(DatasetId, bool)> {
    let over = &window.length.to_string()[..];
    match scope {
        Scope::Key(key) => {
            let key = key.primary();
            let mut batch = Batch::default();
            batch.soften_entry(&names.entry(&key), &names.lease(&key), window, key.id().turn());
            with_dataset_id::<Flag>(names, batch, 1, driver).await.map(|id| (id, false))
        }
        Scope::Tags(tags) => renew_tokens(names, driver, (&scripts::SOFTEN_TAG, &[over]), tags.iter()).await,
        Scope::Pattern(_) | Scope::Everything => {
            renew_tokens(names, driver, (&scripts::SOFTEN_TAG, &[over]), [EVERYTHING]).await
        }
    }
}

/// One ban, in one round trip: hard, or soft over this many milliseconds; `None` if the list or the server has no room.
pub(crate) async fn ban(
    names: &Names,
    driver: &mut MultiplexedConnection,
    pattern: &Pattern,
    soft_over: Option<u64>,
) -> RedisResult<Option<DatasetId>> {
    if pattern.as_str().len() > LONGEST_PATTERN {
        return Ok(None);
    }
    let (nonce, life) = (nonce(), life_invalidated(EVERYTHING).to_string());
    let (kind, window) = soft_over.map_or(("h", 0), |window| ("s", window));
    let window = format!("{window:08x}");
    let arguments = [&nonce, &life, kind, &window, pattern.as_str()].map(str::as_bytes);
    let mut batch = Batch::default();
    batch.call(&scripts::BAN, &[&names.last_invalidation(), &names.tag(EVERYTHING)], &arguments);
    if !names.is_clustered() {
        batch.get(&names.dataset_id(""));
    }
    let mut replies = match batch.run::<Vec<Value>>(driver).await {
        // A deletion will make room.
        Err(error) if is_out_of_memory(&error) => return Ok(None),
        replies => replies?.into_iter(),
    };
    let banned = Banned::from_redis_value(replies.next().ok_or_else(no_answer)?)?;
    let reached = replies.next().map_or(Ok(None), dataset_id)?;
    Ok((banned == Banned::Listed).then_some(reached))
}

/// Also returns whether the tokens were deleted instead, which is a hard invalidation.
async fn renew_tokens<'a>(
    names: &Names,
    driver: &mut MultiplexedConnection,
    (script, more): (&Script, &[&str]),
    tags: impl IntoIterator<Item = &'a str>,
) -> RedisResult<(DatasetId, bool)> {
    let mut batch = Batch::default();
    // The note is written first: a fill that finds no token must find the note.
    batch.call(&scripts::NOTE_INVALIDATION, &[&names.last_invalidation()], &[]);
    let tags: Vec<&str> = tags.into_iter().collect();
    for tag in &tags {
        let (nonce, life) = (nonce(), life_invalidated(tag).to_string());
        let arguments: Vec<&[u8]> =
            [&nonce, &life[..]].iter().chain(more).map(|argument| argument.as_bytes()).collect();
        batch.call(script, &[&names.tag(tag)], &arguments);
    }
    match with_dataset_id::<Moment>(names, batch, tags.len() + 1, driver).await {
        Err(error) if is_out_of_memory(&error) => unlink_tags(names, driver, &tags).await.map(|id| (id, true)),
        invalidated => invalidated.map(|id| (id, false)),
    }
}

/// Runs `batch`, which has this many replies of one kind, and identifies the data set that it reached.
pub(crate) async fn with_dataset_id<T: FromRedisValue>(
    names: &Names,
    mut batch: Batch,
    asked: usize,
    driver: &mut MultiplexedConnection,
) -> RedisResult<DatasetId> {
    // In a cluster, databases can't be swapped, and the id may be on another server.
    if names.is_clustered() {
        return exactly(asked, batch.run::<Vec<T>>(driver).await?).map(|_| None);
    }
    batch.get(&names.dataset_id(""));
    let mut replies = exactly(asked + 1, batch.run::<Vec<Value>>(driver).await?)?;
    let reached = replies.pop().map_or(Ok(None), dataset_id);
    for reply in replies {
        T::from_redis_value(reply)?;
    }
    reached
}

/// Runs an `UNLINK` of this many names, and identifies the data set that it reached.
async fn unlinked(
    names: &Names,
    driver: &mut MultiplexedConnection,
    unlink: Cmd,
    asked: usize,
) -> RedisResult<DatasetId> {
    if names.is_clustered() {
        return unlink.query_async::<Count>(driver).await?.at_most(asked).map(|_| None);
    }
    let mut pipeline = Pipeline::new();
    pipeline.add_command(unlink).cmd("GET").arg(names.dataset_id(""));
    let (count, found) = pipeline.query_async::<(Count, Value)>(driver).await?;
    count.at_most(asked)?;
    dataset_id(found)
}

fn dataset_id(reply: Value) -> RedisResult<DatasetId> {
    match Maybe::from_redis_value(reply)? {
        Maybe(None) => Ok(None),
        Maybe(Some(bytes)) => text(bytes).map(Some),
    }
}

/// Invalidates tags on a full server, where nothing can be written: without a token an entry is invalid, and without a note a
/// fill in flight can't be sure that no invalidation overtook it.
async fn unlink_tags(names: &Names, driver: &mut MultiplexedConnection, tags: &[&str]) -> RedisResult<DatasetId> {
    let mut unlink = redis::cmd("UNLINK");
    unlink.arg(names.last_invalidation());
    for tag in tags {
        unlink.arg(names.tag(tag));
    }
    unlinked(names, driver, unlink, tags.len() + 1).await
}
