//! The scripts of the protocol. Each touches keys of one slot, and runs in microseconds; none is on the path of a hit.
//!
//! A lease's key holds the token of its holder or, once that has ended, what came of it: `!u`, uncacheable; or
//! `!f<failures>:<status or 0>:<time>`, failed so many times, not to be loaded again before that time.

use std::sync::LazyLock;

use redis::{
    ErrorKind, FromRedisValue, Pipeline, RedisResult, Script, ServerErrorKind, ToRedisArgs, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
    from_redis_value,
};

use super::{
    names::nonce,
    replies::{exactly, no_answer},
};

macro_rules! script {
    ($(#[$doc:meta])* $name:ident = $code:expr) => {
        $(#[$doc])*
        pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| Script::new($code));
    };
}

/// The server's time as 16 hex digits of microseconds: what leases and tokens are compared by.
macro_rules! now {
    () => {
        "local t = redis.call('TIME'); local now = string.format('%016x', t[1] * 1000000 + t[2]);"
    };
}

script! {
    /// KEYS entry, lease. ARGV token, milliseconds, the seen entry's id (`*`: any), whether to insist (1) although the last
    /// load failed. Returns `changed`, `held`, `uncacheable`, `backoff:<milliseconds>:<status or 0>`, or the time of the
    /// grant and how many loads failed before it.
    ///
    /// What another program left under these names counts as nothing, and is overwritten.
    ACQUIRE = concat!(
        "local found = redis.pcall('GETRANGE', KEYS[1], 8, 23);",
        "if type(found) ~= 'string' then found = '' end;",
        "if ARGV[3] ~= '*' and found ~= ARGV[3] then return 'changed' end;",
        "local held = redis.pcall('SET', KEYS[2], ARGV[1], 'NX', 'GET', 'PX', ARGV[2]);",
        "if type(held) == 'table' then redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]); held = false end;",
        // The same call, made again with the others of its batch.
        "if held == ARGV[1] then held = false end;",
        "if held == '!u' then return 'uncacheable' end;",
        now!(),
        "if not held then return now .. '0' end;",
        "local failures, status, ready = held:match('^!f(%d+):(%d+):(%x+)$');",
        "if not failures then return 'held' end;",
        "if ARGV[4] ~= '1' and now < ready then",
        "  local left = math.ceil((tonumber(ready, 16) - tonumber(now, 16)) / 1000);",
        "  return string.format('backoff:%d:%s', left, status)",
        "end;",
        "redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]);",
        "return now .. failures"
    )
}

script! {
    /// KEYS lease. Returns what it holds, and for how many milliseconds more. To be tracked: what the server tracks of a
    /// script may be all its keys from its first read on, so that one that reads and then writes wakes its own caller.
    WATCH = "local held = redis.pcall('GET', KEYS[1]);
             return {type(held) == 'string' and held or '', redis.call('PTTL', KEYS[1])}"
}

script! {
    /// KEYS lease. ARGV token, milliseconds. Returns whether the lease was still held.
    RENEW = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end;
             return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
}

script! {
    /// KEYS lease. ARGV token, milliseconds to remember that it is uncacheable (0: don't).
    RELEASE = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end;
               if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end;
               redis.call('SET', KEYS[1], '!u', 'PX', ARGV[2]);
               return 1"
}

script! {
    /// KEYS lease. ARGV token, milliseconds until the next load, how many have failed, status, milliseconds to remember it.
    FAIL = concat!(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end;",
        "local t = redis.call('TIME');",
        "local ready = string.format('%016x', t[1] * 1000000 + t[2] + ARGV[2] * 1000);",
        "redis.call('SET', KEYS[1], '!f' .. ARGV[3] .. ':' .. ARGV[4] .. ':' .. ready, 'PX', ARGV[5]);",
        "return 1"
    )
}

script! {
    /// KEYS lease, guard, then the entries. ARGV token, the guard's mark and id (empty: no guard), then for each entry its
    /// bytes and its milliseconds. Returns whether it wrote. Then the lease is gone in any case.
    ///
    /// A `SET` comes first: the server looks for room only until a script has written something.
    COMMIT = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end;
              if ARGV[2] ~= '' and redis.call('GETRANGE', KEYS[2], 4, 23) ~= ARGV[2] then
                  redis.call('DEL', KEYS[1]);
                  return 0
              end;
              for i = 3, #KEYS do
                  redis.call('SET', KEYS[i], ARGV[2 * i - 3], 'PX', ARGV[2 * i - 2])
              end;
              redis.call('DEL', KEYS[1]);
              return 1"
}

script! {
    /// KEYS lease, guard, known variants, primary entry, variant. ARGV token, the guard's mark and id (empty: no guard), the
    /// variant's digits, how many variants there may be (0: any number), then for each of the two entries its bytes and its
    /// milliseconds. Returns as [`COMMIT`].
    ///
    /// Another primary entry leads to none of the variants so far: they are deleted, or they would stay until their time
    /// is up, as many as there are values of the fields that select them. So is the oldest, where there are too many: loads
    /// that ran at the same time have each counted themselves alone.
    COMMIT_VARIANT = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end;
              if ARGV[2] ~= '' and redis.call('GETRANGE', KEYS[2], 4, 23) ~= ARGV[2] then
                  redis.call('DEL', KEYS[1]);
                  return 0
              end;
              local digits, most, life = ARGV[3], tonumber(ARGV[4]), math.max(ARGV[6], ARGV[8]);
              local known = redis.pcall('GET', KEYS[3]);
              if type(known) ~= 'string' or #known % 32 ~= 0 then known = '' end;
              local function delete(variants)
                  local at = KEYS[5]:find(digits, 1, true);
                  local before, after = KEYS[5]:sub(1, at - 1), KEYS[5]:sub(at + 32);
                  for old in variants:gmatch(('%x'):rep(32)) do
                      if old ~= digits then redis.pcall('UNLINK', before .. old .. after) end
                  end
              end;
              local same = redis.pcall('GETRANGE', KEYS[4], 8, 23) == ARGV[5]:sub(9, 24);
              redis.call('SET', KEYS[4], ARGV[5], 'PX', ARGV[6]);
              redis.call('SET', KEYS[5], ARGV[7], 'PX', ARGV[8]);
              redis.call('DEL', KEYS[1]);
              if known ~= '' then
                  if same then
                      life = math.max(life, redis.call('PTTL', KEYS[3]))
                  else
                      delete(known);
                      known = ''
                  end
              end;
              if not known:find(digits, 1, true) then
                  known = known .. digits;
                  local spare = #known - most * 32;
                  if most > 0 and spare > 0 then
                      delete(known:sub(1, spare));
                      known = known:sub(spare + 1)
                  end;
                  redis.call('SET', KEYS[3], known, 'PX', string.format('%d', life))
              elseif redis.call('PTTL', KEYS[3]) < life then
                  redis.call('PEXPIRE', KEYS[3], string.format('%d', life))
              end;
              return 1"
}

script! {
    /// KEYS entry, lease. ARGV the entry's bytes and its milliseconds. Ends the lease: what is loaded under it is older. A
    /// `SET` first, as in [`COMMIT`].
    PUT = "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]);
           redis.call('DEL', KEYS[2]);
           return 1"
}

script! {
    /// KEYS tag. ARGV chance, then in milliseconds how long the token is to live at least, how long one that is made lives,
    /// and how long one whose life is too short. Returns the tag's token, and whether it was made just now.
    ///
    /// A token's life is extended by more than it must be: extending it wakes everybody who tracks it.
    STAMP = concat!(
        "local token = redis.pcall('GET', KEYS[1]);",
        "if type(token) == 'string' and #token == 32 and token:find('^%x+[cis]$') then",
        "  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end;",
        "  return {token, 0}",
        "end;",
        now!(),
        "token = now .. ARGV[1] .. 'c';",
        "redis.call('SET', KEYS[1], token, 'PX', ARGV[3]);",
        "return {token, 1}"
    )
}

script! {
    /// KEYS tag. ARGV chance, milliseconds. Gives the tag a new token.
    INVALIDATE_TAG = concat!(
        now!(),
        "redis.call('SET', KEYS[1], now .. ARGV[1] .. 'i', 'PX', ARGV[2]);",
        "return now"
    )
}

script! {
    /// KEYS tag. ARGV chance, milliseconds. Gives the tag a new token of the same line; of a line of its own, if there was
    /// none: what had carried it is void, and stays so.
    SOFTEN_TAG = concat!(
        now!(),
        "local token, line, life = redis.pcall('GET', KEYS[1]), ARGV[1], tonumber(ARGV[2]);",
        "if type(token) == 'string' and #token == 32 and token:find('^%x+[cis]$') then",
        "  line = token:sub(17, 31);",
        // The entries live on, and so must the token.
        "  life = math.max(life, redis.call('PTTL', KEYS[1]))",
        "end;",
        "redis.call('SET', KEYS[1], now .. line .. 's', 'PX', string.format('%d', life));",
        "return now"
    )
}

script! {
    /// KEYS entry, lease. Drops the lease and marks the entry, in the place that its envelope has for that; what has no
    /// such place is deleted.
    SOFTEN_ENTRY = "redis.call('DEL', KEYS[2]);
                    local head = redis.pcall('GETRANGE', KEYS[1], 0, 7);
                    if head == '' then return 0 end;
                    if type(head) ~= 'string' or #head < 8 or head:sub(1, 4) ~= 'CLE\\002' then
                        return redis.call('DEL', KEYS[1])
                    end;
                    local mark = math.max(redis.call('TIME')[1] + 1, struct.unpack('>I4', head, 5) + 1);
                    redis.call('SETRANGE', KEYS[1], 4, struct.pack('>I4', mark));
                    return 1"
}

script! {
    /// KEYS entry. Returns its canonical key; nothing, if it is no entry.
    CANONICAL_KEY = "local length = redis.pcall('GETRANGE', KEYS[1], 76, 79);
                     if type(length) ~= 'string' or #length < 4 then return '' end;
                     return redis.call('GETRANGE', KEYS[1], 94, 93 + struct.unpack('>I4', length))"
}

script! {
    /// KEYS last invalidation. Notes that tags are being invalidated.
    NOTE_INVALIDATION = concat!(now!(), "redis.call('SET', KEYS[1], now); return now")
}

script! {
    /// KEYS last invalidation. Returns it and the time; if it was lost, it is now, since one may have been lost with it.
    /// Called with every grant of a lease, so that a loss doesn't void what is loaded after it.
    LAST_INVALIDATION = concat!(
        now!(),
        "local last = redis.pcall('GET', KEYS[1]);",
        "if type(last) == 'string' and #last == 16 and not last:find('[^0-9a-f]') then return {last, now} end;",
        // Before this moment: a lease of the same microsecond comes after it.
        "last = string.format('%016x', t[1] * 1000000 + t[2] - 1);",
        "redis.call('SET', KEYS[1], last);",
        "return {last, now}"
    )
}

script! {
    /// KEYS identity, mark, the tag of everything, last invalidation. ARGV the server's identity (empty: unknown), a new
    /// mark, `clear` or `keep`, chance, milliseconds, the mark that the caller last found and when by this server's clock
    /// (both empty: none). Returns the mark of the data set, whether everything got a new token, and the time.
    ///
    /// A data set that has another server's identity, or no mark, or not the one that its caller knows, may have missed
    /// invalidations. So everything in it gets a new token, unless the token that it has is younger than the caller's
    /// knowledge: then whatever is valid is younger, too, and was invalidated here if at all. The same goes for the note
    /// that refuses loads which began before.
    IDENTIFY = concat!(
        now!(),
        "local server, mark = redis.pcall('GET', KEYS[1]), redis.pcall('GET', KEYS[2]);",
        "local marked = type(mark) == 'string' and #mark == 15 and not mark:find('[^0-9a-f]');",
        "local known = marked and mark == ARGV[6];",
        "if ARGV[1] ~= '' and server ~= ARGV[1] then",
        // Lost, and only that, if the mark is the right one.
        "  if server or not known then marked = false; known = false end;",
        "end;",
        "if known or (marked and ARGV[6] == '') then",
        "  if ARGV[1] ~= '' and not server then redis.call('SET', KEYS[1], ARGV[1]) end;",
        "  return {mark, 0, now}",
        "end;",
        "local younger = function(time) return type(time) == 'string' and ARGV[7] ~= '' and time > ARGV[7] end;",
        "local everything, note = redis.pcall('GET', KEYS[3]), redis.pcall('GET', KEYS[4]);",
        "local clear = ARGV[3] == 'clear' and everything",
        "  and not younger(type(everything) == 'string' and everything:sub(1, 16));",
        "if ARGV[7] == '' or (note and not younger(note)) then redis.call('SET', KEYS[4], now) end;",
        "if clear then redis.call('SET', KEYS[3], now .. ARGV[4] .. 'i', 'PX', ARGV[5]) end;",
        "if ARGV[1] ~= '' then redis.call('SET', KEYS[1], ARGV[1]) end;",
        "if not marked then mark = ARGV[2]; redis.call('SET', KEYS[2], mark) end;",
        "return {mark, clear and 1 or 0, now}"
    )
}

/// Makes the server know every script, so that a call is its digest and not its text.
pub(crate) async fn load(driver: &mut MultiplexedConnection) -> RedisResult<()> {
    for script in [
        &ACQUIRE,
        &WATCH,
        &RENEW,
        &RELEASE,
        &FAIL,
        &COMMIT,
        &COMMIT_VARIANT,
        &PUT,
        &STAMP,
        &INVALIDATE_TAG,
        &SOFTEN_TAG,
        &SOFTEN_ENTRY,
        &CANONICAL_KEY,
        &NOTE_INVALIDATION,
        &LAST_INVALIDATION,
        &IDENTIFY,
    ] {
        script.load_async(driver).await?;
    }
    Ok(())
}

/// Several calls in one round trip, in their order.
#[derive(Default)]
pub(crate) struct Batch {
    pipeline: Pipeline,
    /// What each of them answers.
    expected: Vec<Expected>,
}

#[derive(Clone, Copy, Debug)]
enum Expected {
    /// What the caller wants to know.
    Reply,
    /// `OK`, and no news.
    Done,
    /// A number that nobody needs.
    Number,
}

impl Batch {
    fn cmd(&mut self, name: &str, expected: Expected) -> &mut Pipeline {
        self.expected.push(expected);
        self.pipeline.cmd(name)
    }

    pub(crate) fn call(&mut self, script: &Script, keys: &[&str], arguments: &[&[u8]]) {
        self.cmd("EVALSHA", Expected::Reply).arg(script.get_hash()).arg(keys.len()).arg(keys).arg(arguments);
    }

    pub(crate) fn call_on(&mut self, script: &Script, key: &[u8]) {
        self.cmd("EVALSHA", Expected::Reply).arg(script.get_hash()).arg(1).arg(key);
    }

    /// The token of the tag of that name, which is to live for [so long](crate::store::redis::wire::token_life::lives).
    pub(crate) fn stamp(&mut self, tag: &str, lives: &[String; 3]) {
        let nonce = nonce();
        let [least, made, extended] = lives.each_ref().map(|life| life.as_bytes());
        self.call(&STAMP, &[tag], &[nonce.as_bytes(), least, made, extended]);
    }

    /// Reads the values of all these names.
    pub(crate) fn values<N: ToRedisArgs>(&mut self, names: impl IntoIterator<Item = N>) {
        let command = self.cmd("MGET", Expected::Reply);
        for name in names {
            command.arg(name);
        }
    }

    /// Deletes all these names.
    pub(crate) fn unlink<N: ToRedisArgs>(&mut self, names: impl IntoIterator<Item = N>) {
        let command = self.cmd("UNLINK", Expected::Reply);
        for name in names {
            command.arg(name);
        }
    }

    /// Asks for what is at `name`, as the last reply.
    pub(crate) fn get(&mut self, name: &str) {
        self.cmd("GET", Expected::Reply).arg(name);
    }

    /// Has the next call's reads tracked, where the server tracks at all.
    pub(crate) fn track(&mut self, tracking: bool) {
        if tracking {
            self.cmd("CLIENT", Expected::Done).arg("CACHING").arg("YES");
        }
    }

    /// Begins to watch a key of any type, whatever it holds.
    pub(crate) fn watch(&mut self, tracking: bool, name: &str) {
        if tracking {
            self.track(tracking);
            self.cmd("PTTL", Expected::Number).arg(name);
        }
    }

    /// Every call's reply; the first error, if there is one. Scripts that the server forgot are given to it again, and then
    /// all calls are made again: what is called here may be repeated.
    pub(crate) async fn run<T: FromRedisValue>(&self, driver: &mut MultiplexedConnection) -> RedisResult<T> {
        match self.replies(driver).await {
            Err(error) if matches!(error.kind(), ErrorKind::Server(ServerErrorKind::NoScript)) => {
                load(driver).await?;
                self.replies(driver).await
            }
            result => result,
        }
    }

    async fn replies<T: FromRedisValue>(&self, driver: &mut MultiplexedConnection) -> RedisResult<T> {
        let values = driver.req_packed_commands(&self.pipeline, 0, self.expected.len()).await?;
        let mut values = exactly(self.expected.len(), values)?;
        if let Some(Value::ServerError(error)) = values.iter().find(|value| matches!(value, Value::ServerError(_))) {
            return Err(error.clone().into());
        }
        if self.expected.iter().any(|expected| !matches!(expected, Expected::Reply)) {
            let mut replies = Vec::with_capacity(values.len());
            for (value, expected) in values.into_iter().zip(&self.expected) {
                match (expected, value) {
                    (Expected::Reply, value) => replies.push(value),
                    (Expected::Done, Value::Okay) | (Expected::Number, Value::Int(_)) => {}
                    (Expected::Done | Expected::Number, _) => return Err(no_answer()),
                }
            }
            values = replies;
        }
        Ok(from_redis_value(Value::Array(values))?)
    }
}
