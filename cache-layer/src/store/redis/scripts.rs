//! The scripts of the protocol. Each touches keys of one slot, and runs in microseconds; none is on the path of a hit.

use std::sync::LazyLock;

use redis::{ErrorKind, FromRedisValue, Pipeline, RedisResult, Script, ServerErrorKind, aio::MultiplexedConnection};

macro_rules! script {
    ($(#[$doc:meta])* $name:ident = $code:expr) => {
        $(#[$doc])*
        pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new($code));
    };
}

/// The server's time as 16 hex digits of microseconds: what leases and tokens are compared by.
macro_rules! now {
    () => {
        "local t = redis.call('TIME'); local now = string.format('%016x', t[1] * 1000000 + t[2]);"
    };
}

script! {
    /// KEYS entry, lease. ARGV token, milliseconds, the seen entry's id (`*`: any).
    /// Returns `changed`, `held`, `uncacheable`, or the time of the grant.
    ///
    /// What another program left under these names counts as nothing, and is overwritten.
    ACQUIRE = concat!(
        "local found = redis.pcall('GETRANGE', KEYS[1], 8, 23);",
        "if type(found) ~= 'string' then found = '' end;",
        "if ARGV[3] ~= '*' and found ~= ARGV[3] then return 'changed' end;",
        "local held = redis.pcall('SET', KEYS[2], ARGV[1], 'NX', 'GET', 'PX', ARGV[2]);",
        "if type(held) == 'table' then redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]); held = false end;",
        "if held == '!u' then return 'uncacheable' end;",
        "if held then return 'held' end;",
        now!(),
        "return now"
    )
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
    /// KEYS lease, guard, then the entries. ARGV token, the guard's id (empty: no guard), then for each entry its
    /// bytes and its milliseconds. Returns whether it wrote. The lease is gone in any case.
    COMMIT = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end;
              redis.call('DEL', KEYS[1]);
              if ARGV[2] ~= '' and redis.call('GETRANGE', KEYS[2], 8, 23) ~= ARGV[2] then return 0 end;
              for i = 3, #KEYS do
                  redis.call('SET', KEYS[i], ARGV[2 * i - 3], 'PX', ARGV[2 * i - 2])
              end;
              return 1"
}

script! {
    /// KEYS entry, lease. ARGV the entry's bytes and its milliseconds. Ends the lease: what is loaded under it is older.
    PUT = "redis.call('DEL', KEYS[2]);
           redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]);
           return 1"
}

script! {
    /// KEYS tag. ARGV chance, milliseconds. Returns the tag's token, and whether it was made just now.
    ///
    /// A token's life is extended only when half of it is over: extending it wakes everybody who tracks it.
    STAMP = concat!(
        "local token = redis.pcall('GET', KEYS[1]);",
        "if type(token) == 'string' and #token == 32 and token:find('^%x+[ci]$') then",
        "  if redis.call('PTTL', KEYS[1]) < ARGV[2] / 2 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end;",
        "  return {token, 0}",
        "end;",
        now!(),
        "token = now .. ARGV[1] .. 'c';",
        "redis.call('SET', KEYS[1], token, 'PX', ARGV[2]);",
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
    /// KEYS last invalidation. Notes that tags are being invalidated.
    NOTE_INVALIDATION = concat!(now!(), "redis.call('SET', KEYS[1], now); return now")
}

script! {
    /// KEYS last invalidation. Returns it; if it was lost, now, since one may have been lost with it. Called with every
    /// grant of a lease, so that a loss doesn't void what is loaded after it.
    LAST_INVALIDATION = concat!(
        "local last = redis.pcall('GET', KEYS[1]);",
        "if type(last) == 'string' and #last == 16 and not last:find('%X') then return last end;",
        "local t = redis.call('TIME');",
        // Before this moment: a lease of the same microsecond comes after it.
        "last = string.format('%016x', t[1] * 1000000 + t[2] - 1);",
        "redis.call('SET', KEYS[1], last);",
        "return last"
    )
}

/// Makes the server know every script, so that a call is its digest and not its text.
pub(super) async fn load(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    for script in
        [&ACQUIRE, &RENEW, &RELEASE, &COMMIT, &PUT, &STAMP, &INVALIDATE_TAG, &NOTE_INVALIDATION, &LAST_INVALIDATION]
    {
        script.load_async(connection).await?;
    }
    Ok(())
}

/// Several calls in one round trip, in their order.
#[derive(Default)]
pub(super) struct Batch(Pipeline);

impl Batch {
    pub(super) fn call(&mut self, script: &Script, keys: &[&str], arguments: &[&[u8]]) {
        self.0.cmd("EVALSHA").arg(script.get_hash()).arg(keys.len()).arg(keys).arg(arguments);
    }

    /// Every call's reply. Scripts that the server forgot are given to it again, and then all calls are made again:
    /// what is called here may be repeated.
    pub(super) async fn run<T: FromRedisValue>(&self, connection: &mut MultiplexedConnection) -> RedisResult<T> {
        match self.0.query_async(connection).await {
            Err(error) if matches!(error.kind(), ErrorKind::Server(ServerErrorKind::NoScript)) => {
                load(connection).await?;
                self.0.query_async(connection).await
            }
            result => result,
        }
    }
}
