//! The scripts of the protocol. Each touches keys of one slot, and runs in microseconds; hits call none.
//!
//! The value of a lease's key is the [token](crate::store::LeaseTokens) of its holder, of 16 characters, followed by 16 digits of
//! the youngest ban that the load knows of, if there is any, and by the 15 of the line in which that was listed. Once the load
//! has ended, the value is its result: `!u`, uncacheable; or `!f<failures>:<status or 0>:<time>`, failed this many times, not to
//! be loaded again before that time.

use std::sync::LazyLock;

use bytes::Bytes;
use redis::{
    ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Script, ServerErrorKind, ToRedisArgs, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
    from_redis_value,
};

use super::{
    errors::is_wrong_type,
    names::nonce,
    replies::{exactly, no_answer},
};
use crate::{ban::Ban, entry::SoftMark, hex, ramp::Turn};

/// The first line of a script that runs on a server without room as well, since it takes none, or frees some.
macro_rules! without_room {
    () => {
        "#!lua flags=allow-oom\n"
    };
}

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

/// `later` says whether one moment of 16 hex digits is after another; a half that has other characters counts as zero. Lua's `<`
/// orders text by the locale of the server's process, in which letters may come before digits. A number of Lua is exact up to 53
/// bits, so that each half is parsed by itself.
macro_rules! later {
    () => {
        "local function half(time, at) return tonumber(time:sub(at, at + 7):match('^%x+$') or 0, 16) end;
         local function later(one, other)
             return (half(one, 1) - half(other, 1)) * 2 ^ 32 + half(one, 9) - half(other, 9) > 0
         end;
        "
    };
}

/// Whether the value of a tag's name is a token, or a token followed by the ramps that led to it, and by bans:
/// [`TagRecord`](crate::tag::TagRecord). Any other value counts as missing, and is overwritten. Of each value, both say the same:
/// one that only the scripts took for a record would refuse the fills of that tag until it expires.
///
/// `split` parses a record into its tokens and its bans: the youngest number that there ever was, and a list of the bans that
/// count, each with its time, its kind, its window, its pattern, and its whole text.
macro_rules! is_record {
    () => {
        concat!(
            later!(),
            "local function split(value)
             local bar = value:find('|', 33, true);
             if not bar then return value, nil, {} end;
             local newest, at, bans, last, high, low = value:sub(bar + 1, bar + 16), bar + 17, {}, nil, 0, 0;
             local form = '^' .. ('[0-9a-f]'):rep(16) .. '[hs]' .. ('[0-9a-f]'):rep(12) .. '$';
             if not newest:find('^[0-9a-f]+$') or #newest < 16 then return nil end;
             while at <= #value do
                 local head = value:sub(at, at + 28);
                 if not head:find(form) then return nil end;
                 local stop, time = at + 28 + tonumber(head:sub(26), 16), head:sub(1, 16);
                 if stop > #value or #bans == 128 then return nil end;
                 local h, l = tonumber(head:sub(1, 8), 16), tonumber(head:sub(9, 16), 16);
                 if last and (h - high) * 2 ^ 32 + l - low <= 0 then return nil end;
                 bans[#bans + 1] =
                     {time, head:sub(17, 17), head:sub(18, 25), value:sub(at + 29, stop), value:sub(at, stop)};
                 at, last, high, low = stop + 1, time, h, l
             end;
             if last and later(last, newest) then return nil end;
             return value:sub(1, bar - 1), newest, bans
         end;
         local function is_record(value)
             if type(value) ~= 'string' or not value:sub(1, 32):find('^[0-9a-f]+[cis]$') then return false end;
             if #value == 32 then return true end;
             local tokens = split(value);
             if not tokens then return false end;
             if #tokens == 32 then return true end;
             local ramps, last = (#tokens - 33) / 32, nil;
             if ramps < 1 or ramps > 32 or ramps % 1 ~= 0 or not tokens:sub(32):find('^s1[0-9a-f]+$') then return false end;
             for at = 34, #tokens, 32 do
                 local time, lead, window = tokens:sub(at, at + 15), tokens:sub(at + 16, at + 23), tokens:sub(at + 24, at + 31);
                 if last and not later(time, last) then return false end;
                 if tonumber(time, 16) < tonumber(lead, 16) * 1000 then return false end;
                 if tonumber(window, 16) > 1209600000 then return false end;
                 last = time
             end;
             return last == tokens:sub(1, 16)
         end;
        "
        )
    };
}

/// For each of ARGV, whether it is a record.
#[cfg(test)]
pub(crate) const ARE_RECORDS: &str = concat!(
    is_record!(),
    "local are = {}; for i, value in ipairs(ARGV) do are[i] = is_record(value) and 1 or 0 end; return are"
);

script! {
    /// KEYS entry, lease. ARGV token, milliseconds, the seen entry's id (`*`: any), whether to insist although the last load
    /// failed (`f`), or its result could not be stored (`u`). Returns `changed`, `held`, `uncacheable`,
    /// `backoff:<milliseconds>:<status or 0>`, or the time of the grant and how many loads failed before it.
    ///
    /// A value that another program left under these names counts as missing, and is overwritten.
    ACQUIRE = concat!(
        "local found = redis.pcall('GETRANGE', KEYS[1], 8, 23);",
        "if type(found) ~= 'string' then found = '' end;",
        "if ARGV[3] ~= '*' and found ~= ARGV[3] then return 'changed' end;",
        "local held = redis.pcall('SET', KEYS[2], ARGV[1], 'NX', 'GET', 'PX', ARGV[2]);",
        "if type(held) == 'table' then redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]); held = false end;",
        // The same call, repeated with the others of its batch.
        "if held == ARGV[1] then held = false end;",
        now!(),
        "if held == '!u' then",
        "  if not ARGV[4]:find('u') then return 'uncacheable' end;",
        "  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]); held = false;",
        "end;",
        "if not held then return now .. '0' end;",
        "local failures, status, ready = held:match('^!f(%d+):(%d+):(%x+)$');",
        "if not failures then return 'held' end;",
        "local left = math.ceil((tonumber(ready, 16) - tonumber(now, 16)) / 1000);",
        "if left > 0 and not ARGV[4]:find('f') then return string.format('backoff:%d:%s', left, status) end;",
        "redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]);",
        "return now .. failures"
    )
}

script! {
    /// KEYS lease. ARGV token, milliseconds. Returns whether the lease was still held.
    RENEW = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end;
             return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
}

script! {
    /// KEYS lease; and the entry that the load has superseded, if it has. ARGV token, milliseconds to remember that it is uncacheable
    /// (0: not at all). No other load has stored that entry since: it would have needed the lease.
    RELEASE = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end;
               if KEYS[2] then redis.call('UNLINK', KEYS[2]) end;
               if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end;
               redis.call('SET', KEYS[1], '!u', 'PX', ARGV[2]);
               return 1"
}

script! {
    /// KEYS lease. Ends it, whoever holds it; the result of an ended load stays. Returns whether it was held.
    END_LEASE = "local held = redis.pcall('GET', KEYS[1]);
                 if type(held) ~= 'string' or held:sub(1, 1) == '!' then return 0 end;
                 return redis.call('DEL', KEYS[1])"
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

/// The common beginning of both scripts that commit. KEYS lease, guard, …, then the last `ARGV[3]` of them, if there are any: the
/// last invalidation, and tags. ARGV token, the guard's soft mark and id (empty: no guard), the number of those keys, when the load
/// began, whether the load is void (1) if any tag was invalidated since then; …, and last, for each tag, the token that the
/// entries carry, whether that is a new one (1), then as for [`STAMP`] the three lives in milliseconds.
///
/// A new token is used for a tag that has none, unless something was invalidated since the load began: that may have been this
/// tag, whose token was lost since. The token is dated when the load began, so that a load that began before this one doubts it
/// as well.
macro_rules! compare {
    () => {
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end;
         if ARGV[2] ~= '' and redis.call('GETRANGE', KEYS[2], 4, 23) ~= ARGV[2] then
             redis.call('DEL', KEYS[1]);
             return 0
         end;
         local count, made, kept = tonumber(ARGV[3]), {}, {};
         local keys, args = #KEYS - count + 1, #ARGV - 5 * (count - 1);
         if count > 0 then
             local last, told, differs = redis.pcall('GET', KEYS[keys]), {}, false;
             if type(last) ~= 'string' or #last ~= 16 or last:find('[^0-9a-f]') then
                 local t = redis.call('TIME');
                 last = string.format('%016x', t[1] * 1000000 + t[2])
             end;
             local void = ARGV[5] == '1';
             for i = 1, count - 1 do
                 local token, at = redis.pcall('GET', KEYS[keys + i]), args + 5 * (i - 1);
                 if not is_record(token) then token = '' end;
                 if token:sub(1, 32) == ARGV[at + 1] then
                     kept[i] = at
                 elseif token == '' and ARGV[at + 2] == '1' then
                     made[i] = at;
                     void = true
                 else
                     differs = true
                 end;
                 told[i] = token
             end;
             if differs then return {last, unpack(told)} end;
             if void and not later(ARGV[4], last) then
                 redis.call('DEL', KEYS[1]);
                 return 0
             end
         end;
        "
    };
}

/// The common end, after the entries are written.
macro_rules! keep_tokens {
    () => {
        "for i, at in pairs(made) do redis.call('SET', KEYS[keys + i], ARGV[at + 1], 'PX', ARGV[at + 4]) end;
         for i, at in pairs(kept) do
             if redis.call('PTTL', KEYS[keys + i]) < tonumber(ARGV[at + 3]) then
                 redis.call('PEXPIRE', KEYS[keys + i], ARGV[at + 5])
             end
         end;
         redis.call('DEL', KEYS[1]);
        "
    };
}

/// Compares, and writes the entries.
macro_rules! commit {
    () => {
        concat!(
            compare!(),
            "for i = 3, #KEYS - count do redis.call('SET', KEYS[i], ARGV[2 * i], 'PX', ARGV[2 * i + 1]) end;",
            keep_tokens!(),
            "return 1"
        )
    };
}

script! {
    /// KEYS and ARGV as for `compare!`: in between, the entries, and for each its bytes and its milliseconds. Returns whether it
    /// wrote, after which the lease is gone in any case; otherwise when a tag was last invalidated, and each tag's token.
    ///
    /// A `SET` comes first: the server checks for room only until a script has written something.
    COMMIT = concat!(is_record!(), commit!())
}

script! {
    /// [`COMMIT`], of many fills: their KEYS one after the other. ARGV the number of fills, then for each the numbers of its KEYS
    /// and ARGV, and then the ARGV of all. Returns the outcome of each, or its error.
    COMMIT_MANY = concat!(
        is_record!(),
        "local function commit(KEYS, ARGV) ",
        commit!(),
        " end;
         local fills = tonumber(ARGV[1]);
         local outcomes, key, arg = {}, 0, 1 + 2 * fills;
         for i = 1, fills do
             local keys, args = key + ARGV[2 * i], arg + ARGV[2 * i + 1];
             local _, outcome = pcall(commit, {unpack(KEYS, key + 1, keys)}, {unpack(ARGV, arg + 1, args)});
             if type(outcome) == 'string' then outcome = redis.error_reply(outcome) end;
             outcomes[i], key, arg = outcome, keys, args
         end;
         return outcomes"
    )
}

script! {
    /// KEYS and ARGV as for `compare!`: in between, known variants, primary entry, variant; and the variant's digits, the most
    /// variants (0: any number), then for each of the two entries its bytes and its milliseconds. Returns as [`COMMIT`].
    ///
    /// If the primary entry is another one, it leads to none of the variants so far: they are deleted, or they would stay until
    /// they expire, as many as there are values of the fields that select them. The oldest is deleted, too, if there are too
    /// many: concurrent loads have each counted only themselves.
    ///
    /// The primary entry is kept at least as long as its variant, since its own moments may be of several clocks. If it is the one
    /// that was there, it is kept no shorter than before, by this clock; and its bytes stay, with the tags of the load that made
    /// them, if they are gone later: then this load has not seen a concurrent one.
    COMMIT_VARIANT = concat!(
        is_record!(),
        compare!(),
        "local digits, most = ARGV[6], tonumber(ARGV[7]);
              local known = redis.pcall('GET', KEYS[3]);
              if type(known) ~= 'string' or #known % 32 ~= 0 then known = '' end;
              local function delete(variants)
                  local at = KEYS[5]:find(digits, 1, true);
                  local before, after = KEYS[5]:sub(1, at - 1), KEYS[5]:sub(at + 32);
                  for old in variants:gmatch(('%x'):rep(32)) do
                      if old ~= digits then redis.pcall('UNLINK', before .. old .. after) end
                  end
              end;
              local function gone(entry)
                  local moment = 0;
                  for at = 65, 72 do moment = moment * 256 + entry:byte(at) end;
                  return moment
              end;
              local head, primary, left = redis.pcall('GETRANGE', KEYS[4], 0, 71), ARGV[8], math.max(ARGV[9], ARGV[11]);
              local same = type(head) == 'string' and #head == 72 and head:sub(9, 24) == primary:sub(9, 24);
              if same then
                  left = math.max(left, redis.call('PTTL', KEYS[4]));
                  if gone(head) > gone(primary) then primary = redis.call('GET', KEYS[4]) end
              end;
              local life = left;
              redis.call('SET', KEYS[4], primary, 'PX', string.format('%d', left));
              redis.call('SET', KEYS[5], ARGV[10], 'PX', ARGV[11]);",
        keep_tokens!(),
        "if known ~= '' then
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
    )
}

script! {
    /// KEYS entry, lease. ARGV the entry's bytes and its milliseconds, and the server's time in microseconds, or nothing, after which
    /// this comes too late: its caller has given it up, and a later write may be there. Ends the lease: what is loaded under it is
    /// older. Nothing is written before the `SET`, as in [`COMMIT`].
    PUT = "local t, latest = redis.call('TIME'), tonumber(ARGV[3]);
           if latest and t[1] * 1000000 + t[2] > latest then return redis.error_reply('LATE the write came too late') end;
           redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]);
           redis.call('DEL', KEYS[2]);
           return 1"
}

script! {
    /// KEYS tag. ARGV chance, then in milliseconds the minimum life of the token, the life of a new token, and the life to which
    /// a shorter one is extended. Returns the tag's token, and whether it was made just now.
    ///
    /// A token's life is extended by more than necessary: each extension sends a push to every process that tracks the token.
    STAMP = concat!(
        is_record!(),
        "local token = redis.pcall('GET', KEYS[1]);",
        "if is_record(token) then",
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
    /// KEYS tag. ARGV chance, milliseconds, the window in milliseconds (0: at once). Gives the tag a new token of the same line,
    /// or of a new line if it had none: entries that carried the lost token are void, and stay so. A new line is also used if the
    /// clock was set back since: ramps are distinguished by their times.
    ///
    /// The ramps that still count follow the token, in the form of [`Ramps::with`](crate::ramp::Ramps).
    SOFTEN_TAG = concat!(
        is_record!(),
        now!(),
        "local before, line, life, window = redis.pcall('GET', KEYS[1]), ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]);
         local at, ramps, bans = t[1] * 1000000 + t[2], {}, '';
         if is_record(before) then
             local whole = before;
             before = split(whole);
             -- The entries live on, and so must the token.
             life = math.max(life, redis.call('PTTL', KEYS[1]));
             if later(now, before) then
                 -- What is banned stays so.
                 line, bans = before:sub(17, 31), whole:sub(#before + 1);
                 for ramp in before:sub(34):gmatch(('%x'):rep(32)) do
                     local time = tonumber(ramp:sub(1, 16), 16);
                     local start = time - tonumber(ramp:sub(17, 24), 16) * 1000;
                     local stop = start + tonumber(ramp:sub(25, 32), 16) * 1000;
                     if stop <= at then ramps = {} end;
                     ramps[#ramps + 1] = {time, start, stop}
                 end;
                 if #before == 32 and before:sub(32) == 's' then
                     local time = tonumber(before:sub(1, 16), 16);
                     ramps[1] = {time, time, time}
                 end
             else
                 window = 0
             end;
             if before:sub(32, 32) == 'c' or before:sub(32, 32) == 'i' then ramps = {} end
         else
             window = 0
         end;
         ramps[#ramps + 1] = {at, at, at + window * 1000};
         while #ramps > 32 do
             local least, pair = math.huge, 1;
             for i = 1, #ramps - 1 do
                 local apart = math.max(ramps[i + 1][2] - ramps[i][2], ramps[i + 1][3] - ramps[i][3], 0);
                 if apart < least then least, pair = apart, i end
             end;
             local older = table.remove(ramps, pair);
             local newer = ramps[pair];
             local start, stop = math.min(older[2], newer[2]), math.min(older[3], newer[3]);
             newer[2] = newer[1] - math.ceil((newer[1] - start) / 1000) * 1000;
             newer[3] = newer[2] + math.max(math.floor((stop - newer[2]) / 1000), 0) * 1000
         end;
         local value = now .. line .. 's';
         if window > 0 then
             value = value .. '1';
             for _, ramp in ipairs(ramps) do
                 local lead, span = (ramp[1] - ramp[2]) / 1000, (ramp[3] - ramp[2]) / 1000;
                 value = value .. string.format('%016x%08x%08x', ramp[1], lead, span)
             end
         end;
         redis.call('SET', KEYS[1], value .. bans, 'PX', string.format('%d', life));
         return now"
    )
}

script! {
    /// KEYS last invalidation, the tag of everything. ARGV chance, milliseconds, `h` or `s`, 8 hex digits of the window, the
    /// pattern. Adds a ban to those after the token, or returns `full`. Under one token, each ban has a later time than the one
    /// before. Without a token, all entries are void, and those that are being loaded will be.
    ///
    /// The ban is noted first, like an invalidation of a tag: a fill that finds no token must find the note, and requests that
    /// may have joined a load under way hear of it.
    BAN = concat!(
        is_record!(),
        now!(),
        "redis.call('SET', KEYS[1], now);
         local value = redis.pcall('GET', KEYS[2]);
         if not is_record(value) then
             redis.call('SET', KEYS[2], now .. ARGV[1] .. 'i', 'PX', ARGV[2]);
             return now
         end;
         local tokens, newest, bans = split(value);
         local own, window, kept, count = t[1] * 1000000 + t[2], ARGV[4], '', 0;
         local at = own;
         if newest then at = math.max(own, tonumber(newest, 16) + 1) end;
         -- The clock was set back: a window that begins so late would be over late, so that it counts at once.
         if at > own + 1000000 then window = '00000000' end;
         for _, ban in ipairs(bans) do
             -- As `Ban::stands_for` has it.
             local says_more = ARGV[3] == 's' and (ban[2] == 'h' or tonumber(window, 16) > 0);
             if ban[4] ~= ARGV[5] or says_more then kept, count = kept .. ban[5], count + 1 end
         end;
         if count >= 128 then return 'full' end;
         local time = string.format('%016x', at);
         local ban = time .. ARGV[3] .. window .. string.format('%04x', #ARGV[5]) .. ARGV[5];
         redis.call('SET', KEYS[2], tokens .. '|' .. time .. kept .. ban, 'KEEPTTL');
         return now"
    )
}

script! {
    /// KEYS the tag of everything. ARGV the line of the token under which the bans were listed, and the times of those that were
    /// swept: they are taken off the list. Returns how many were on it. Under another token, other bans may have the same times.
    TAKE_OFF = concat!(
        without_room!(),
        is_record!(),
        "local value, swept, kept, count = redis.pcall('GET', KEYS[1]), {}, '', 0;
         if not is_record(value) then return 0 end;
         local tokens, newest, bans = split(value);
         if tokens:sub(17, 31) ~= ARGV[1] then return 0 end;
         for i = 2, #ARGV do swept[ARGV[i]] = true end;
         for _, ban in ipairs(bans) do
             if swept[ban[1]] then count = count + 1 else kept = kept .. ban[5] end
         end;
         if count > 0 then redis.call('SET', KEYS[1], tokens .. '|' .. newest .. kept, 'KEEPTTL') end;
         return count"
    )
}

script! {
    /// KEYS lease. ARGV the time of the youngest ban that covers its key, and the line of the token under which that is listed.
    /// Deletes the lease, or the result of an ended load, unless its load knew of that ban; returns whether it did.
    SWEEP_LEASE = concat!(
        later!(),
        "local held = redis.pcall('GET', KEYS[1]);
         if type(held) == 'string' and #held == 47
             and not later(ARGV[1], held:sub(17, 32)) and held:sub(33) == ARGV[2] then return 0 end;
         return redis.call('UNLINK', KEYS[1])"
    )
}

script! {
    /// KEYS entry. ARGV the time of a ban that covers it; and nothing, or the soft mark that the entry gets, and the lowest soft
    /// mark that is not of a ramp. Deletes the entry, or marks it, unless its load knew of that ban, or its mark says as
    /// much already; returns whether it did.
    SWEEP_ENTRY = concat!(
        without_room!(),
        later!(),
        "local head = redis.pcall('GETRANGE', KEYS[1], 0, 7);
         if head == '' then return 0 end;
         local version = type(head) == 'string' and #head == 8 and head:sub(1, 4);
         if version == 'CLE\\003' and not later(ARGV[1], redis.call('GETRANGE', KEYS[1], -16, -1)) then return 0 end;
         if not ARGV[2] or (version ~= 'CLE\\002' and version ~= 'CLE\\003') then
             return redis.call('UNLINK', KEYS[1])
         end;
         local mark, first, known = tonumber(ARGV[2]), tonumber(ARGV[3]), struct.unpack('>I4', head, 5);
         -- It is stale already, or will be no later; also if this ban said so the last time.
         if known >= first or (mark < first and known > 0 and known <= mark) then return 0 end;
         redis.call('SETRANGE', KEYS[1], 4, struct.pack('>I4', mark));
         return 1"
    )
}

script! {
    /// KEYS entry, lease. ARGV the mark of a soft invalidation at once; and nothing, or the mark of the key's turn in a ramp, and the
    /// first mark that is not of a ramp. Deletes the lease and marks the entry, at the position that its envelope has for that; a
    /// value without that position is deleted. See [`SoftMark`](crate::entry::SoftMark).
    ///
    /// The caller says when it is, by the clock that judges what is fresh: in a cluster, this server may have another one.
    SOFTEN_ENTRY = "redis.call('DEL', KEYS[2]);
                    local head = redis.pcall('GETRANGE', KEYS[1], 0, 7);
                    if head == '' then return 0 end;
                    if type(head) ~= 'string' or #head < 8 or not head:find('^CLE[\\002\\003]') then
                        return redis.call('DEL', KEYS[1])
                    end;
                    local known = struct.unpack('>I4', head, 5);
                    local mark = math.max(tonumber(ARGV[1]), known + 1);
                    if ARGV[2] and known < tonumber(ARGV[3]) then
                        mark = tonumber(ARGV[2]);
                        if known > 0 then mark = math.max(math.min(mark, known - 1), 1) end
                    end;
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
    /// KEYS last invalidation. Returns it and the time. If it was lost, the current time is written, since an invalidation may
    /// have been lost with it. Called with every grant of a lease, so that a loss doesn't void what is loaded after it.
    LAST_INVALIDATION = concat!(
        now!(),
        "local last = redis.pcall('GET', KEYS[1]);",
        "if type(last) == 'string' and #last == 16 and not last:find('[^0-9a-f]') then return {last, now} end;",
        // Just before this moment: a lease of the same microsecond comes after it.
        "last = string.format('%016x', t[1] * 1000000 + t[2] - 1);",
        "redis.call('SET', KEYS[1], last);",
        "return {last, now}"
    )
}

script! {
    /// KEYS identity, data set id, the tag of everything, last invalidation. ARGV the server's identity (empty: unknown), a new id,
    /// `clear` or `keep`, chance, milliseconds, the id that the caller last found and when by this server's clock (both empty:
    /// none). Returns the id of the data set, whether everything got a new token, and the time.
    ///
    /// A data set with another server's identity, without an id, or without the id that its caller knows, may have missed
    /// invalidations. So everything in it gets a new token, unless the present token is younger than the caller's knowledge: then
    /// every valid entry is younger, too, and any invalidation of it was made here. That does not hold for the token of a soft
    /// invalidation, which leaves older entries valid. The note that refuses loads which began before is written anew as well,
    /// unless it is younger.
    IDENTIFY = concat!(
        later!(),
        now!(),
        "local server, id = redis.pcall('GET', KEYS[1]), redis.pcall('GET', KEYS[2]);",
        "local valid = type(id) == 'string' and #id == 15 and not id:find('[^0-9a-f]');",
        "local known = valid and id == ARGV[6];",
        "if ARGV[1] ~= '' and server ~= ARGV[1] then",
        // The identity alone was lost, if the id is the right one.
        "  if server or not known then valid = false; known = false end;",
        "end;",
        "if known or (valid and ARGV[6] == '') then",
        "  if ARGV[1] ~= '' and not server then redis.call('SET', KEYS[1], ARGV[1]) end;",
        "  return {id, 0, now}",
        "end;",
        "local younger = function(time) return type(time) == 'string' and ARGV[7] ~= '' and later(time, ARGV[7]) end;",
        "local everything, note = redis.pcall('GET', KEYS[3]), redis.pcall('GET', KEYS[4]);",
        "local hard = type(everything) == 'string' and everything:sub(32, 32) ~= 's';",
        "local clear = ARGV[3] == 'clear' and everything and not (hard and younger(everything));",
        "if ARGV[7] == '' or (note and not younger(note)) then redis.call('SET', KEYS[4], now) end;",
        "if clear then redis.call('SET', KEYS[3], now .. ARGV[4] .. 'i', 'PX', ARGV[5]) end;",
        "if ARGV[1] ~= '' then redis.call('SET', KEYS[1], ARGV[1]) end;",
        "if not valid then id = ARGV[2]; redis.call('SET', KEYS[2], id) end;",
        "return {id, clear and 1 or 0, now}"
    )
}

script! {
    /// KEYS switches. ARGV the name of a switch; nothing, or `off ` or its rate and a space; for how long it is on, and the
    /// longest time that any switch is on, in milliseconds. Each line of the value is `<name> <until>`, `<name> <rate> <until>` or
    /// `<name> off <since>`. A line is kept for that longest time after its end: a process that hears of it late may know of an
    /// earlier turn, by which the switch is on for longer.
    SWITCH = "local t = redis.call('TIME');
              local now = t[1] * 1000 + math.floor(t[2] / 1000);
              local lines = {string.format('%s %s%d', ARGV[1], ARGV[2], now + ARGV[3])};
              local known = redis.pcall('GET', KEYS[1]);
              if type(known) ~= 'string' then known = '' end;
              for line in known:gmatch('[^\\n]+') do
                  local name, till = line:match('^([%l-]+) .-(%d+)$');
                  if name and name ~= ARGV[1] and till + ARGV[4] > now then lines[#lines + 1] = line end
              end;
              redis.call('SET', KEYS[1], table.concat(lines, '\\n'), 'PX', 2 * ARGV[4]);
              return 1"
}

script! {
    /// KEYS entry. ARGV tag. Returns whether the entry carries the tag, by the tags after its key: each has a length, 256 bytes
    /// at most, and a token of 32.
    CARRIES = "local head = redis.pcall('GETRANGE', KEYS[1], 0, 93);
               if type(head) ~= 'string' or #head < 94 or not head:find('^CLE[\\2\\3]') then return 0 end;
               local number = function(text, from, till)
                   local sum = 0;
                   for i = from, till do sum = sum * 256 + text:byte(i) end;
                   return sum
               end;
               local tags = number(head, 81, 82);
               if tags == 0 or head:byte(87) >= 128 then return 0 end;
               local from = 94 + number(head, 77, 80);
               local region, at = redis.call('GETRANGE', KEYS[1], from, from + 290 * tags - 1), 1;
               for i = 1, tags do
                   if at + 1 > #region then return 0 end;
                   local length = number(region, at, at + 1);
                   if region:sub(at + 2, at + 1 + length) == ARGV[1] then return 1 end;
                   at = at + 2 + length + 32
               end;
               return 0"
}

script! {
    /// KEYS entry. Returns its id and its tags, as the envelope has them; nothing, if it is no entry, or a sealed one.
    STAMPS = "local head = redis.pcall('GETRANGE', KEYS[1], 0, 93);
              if type(head) ~= 'string' or #head < 94 or not head:find('^CLE[\\2\\3]') then return '' end;
              local number = function(text, from, till)
                  local sum = 0;
                  for i = from, till do sum = sum * 256 + text:byte(i) end;
                  return sum
              end;
              local tags = number(head, 81, 82);
              if tags == 0 or head:byte(87) >= 128 then return '' end;
              local from = 94 + number(head, 77, 80);
              local region, at = redis.call('GETRANGE', KEYS[1], from, from + 290 * tags - 1), 1;
              for i = 1, tags do
                  if at + 1 > #region then return '' end;
                  at = at + 34 + number(region, at, at + 1)
              end;
              if at > #region + 1 then return '' end;
              return head:sub(9, 24) .. region:sub(1, at - 1)"
}

script! {
    /// KEYS the name of an election. ARGV token, milliseconds. As `SET … NX GET PX`: the work that the elected process does is to
    /// free room, and one small key stands in the way of nothing.
    ELECT = concat!(without_room!(), "return redis.pcall('SET', KEYS[1], ARGV[1], 'NX', 'GET', 'PX', ARGV[2])")
}

script! {
    /// KEYS a name. ARGV a value that it may have, another value, milliseconds. Sets the other one, and returns nothing; or returns a
    /// third value, if it has one.
    REPLACE = "local found = redis.pcall('GET', KEYS[1]);
               if found and found ~= ARGV[1] and found ~= ARGV[2] then return found end;
               redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]);
               return false"
}

script! {
    /// KEYS entry. ARGV the id of an entry that is void. Deletes it, if it is still that one; returns whether it did.
    RECLAIM = "if redis.pcall('GETRANGE', KEYS[1], 8, 23) ~= ARGV[1] then return 0 end;
               return redis.call('UNLINK', KEYS[1])"
}

/// Loads every script into the server, so that a call sends its digest and not its text.
pub(crate) async fn load(driver: &mut MultiplexedConnection) -> RedisResult<()> {
    for script in [
        &ACQUIRE,
        &RENEW,
        &RELEASE,
        &END_LEASE,
        &FAIL,
        &COMMIT,
        &COMMIT_MANY,
        &COMMIT_VARIANT,
        &PUT,
        &STAMP,
        &INVALIDATE_TAG,
        &SOFTEN_TAG,
        &BAN,
        &TAKE_OFF,
        &SWEEP_LEASE,
        &SWEEP_ENTRY,
        &SOFTEN_ENTRY,
        &CANONICAL_KEY,
        &NOTE_INVALIDATION,
        &LAST_INVALIDATION,
        &SWITCH,
        &CARRIES,
        &STAMPS,
        &ELECT,
        &REPLACE,
        &RECLAIM,
        &IDENTIFY,
    ] {
        script.load_async(driver).await?;
    }
    Ok(())
}

/// The window of a soft invalidation, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// By the clock that judges what is fresh.
    pub(crate) begin: u64,
    /// 0 if it is at once.
    pub(crate) length: u64,
}

/// Several calls in one round trip, in their order.
#[derive(Default)]
pub(crate) struct Batch {
    pipeline: Pipeline,
    /// The kind of reply of each call.
    expected: Vec<Expected>,
}

#[derive(Clone, Copy, Debug)]
enum Expected {
    /// A reply for the caller.
    Reply,
    /// `OK`, which the caller does not need.
    Done,
    /// A number, which the caller does not need.
    Number,
    /// A reply for the caller, which may be that the value has another type.
    AnyType,
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

    pub(crate) fn add(&mut self, Call { keys, arguments }: &Call, script: &Script) {
        let command = self.cmd("EVALSHA", Expected::Reply).arg(script.get_hash()).arg(keys.len()).arg(keys);
        for argument in arguments {
            command.arg(&argument[..]);
        }
    }

    /// One call of [`COMMIT_MANY`] for all of these calls of [`COMMIT`].
    pub(crate) fn commit_many<'c>(&mut self, calls: impl Iterator<Item = &'c Call> + Clone) {
        let names: usize = calls.clone().map(Call::names).sum();
        let command = self.cmd("EVALSHA", Expected::Reply).arg(COMMIT_MANY.get_hash()).arg(names);
        for call in calls.clone() {
            command.arg(&call.keys);
        }
        command.arg(calls.clone().count());
        for call in calls.clone() {
            command.arg(call.keys.len()).arg(call.arguments.len());
        }
        for argument in calls.flat_map(|call| &call.arguments) {
            command.arg(&argument[..]);
        }
    }

    /// The token of the tag with this name, with these [lives](crate::store::redis::wire::token_life::lives).
    pub(crate) fn stamp(&mut self, tag: &str, lives: &[String; 3]) {
        let nonce = nonce();
        let [least, made, extended] = lives.each_ref().map(|life| life.as_bytes());
        self.call(&STAMP, &[tag], &[nonce.as_bytes(), least, made, extended]);
    }

    /// Softens the entry at `name`, whose key has this turn, and deletes its lease.
    pub(crate) fn soften_entry(&mut self, name: &str, lease: &str, Window { begin, length }: Window, turn: Turn) {
        let (at_once, first) = (SoftMark::of(begin, 0, turn).to_string(), SoftMark::FIRST_TIME.to_string());
        let in_turn = SoftMark::ramped(begin, length, turn).map(|mark| mark.to_string());
        let ramp = in_turn.iter().flat_map(|mark| [mark, &first]);
        let arguments: Vec<&[u8]> = std::iter::once(&at_once).chain(ramp).map(|number| number.as_bytes()).collect();
        self.call(&SOFTEN_ENTRY, &[name, lease], &arguments);
    }

    /// Deletes the entry at `name`, or makes it stale, by this ban, which covers its key with this turn.
    pub(crate) fn sweep_entry(&mut self, name: &[u8], ban: &Ban, turn: Turn) {
        let at = hex::of_u64(ban.at);
        let command = self.cmd("EVALSHA", Expected::Reply).arg(SWEEP_ENTRY.get_hash()).arg(1).arg(name).arg(&at);
        if let Some(window) = ban.soft_over {
            command.arg(SoftMark::of(ban.at / 1000, window, turn)).arg(SoftMark::FIRST_TIME);
        }
    }

    /// Deletes the lease at `name`, unless its load knew of the ban with this number, which is listed in this line.
    pub(crate) fn sweep_lease(&mut self, name: &[u8], at: u64, line: &[u8]) {
        let command = self.cmd("EVALSHA", Expected::Reply).arg(SWEEP_LEASE.get_hash()).arg(1).arg(name);
        command.arg(&hex::of_u64(at)).arg(line);
    }

    /// Deletes the entry at `name`, if it has this id.
    pub(crate) fn reclaim(&mut self, name: &[u8], id: &[u8]) {
        self.cmd("EVALSHA", Expected::Reply).arg(RECLAIM.get_hash()).arg(1).arg(name).arg(id);
    }

    /// Reads the token of the tag whose name this is, without what follows it.
    pub(crate) fn token(&mut self, name: &str) {
        self.cmd("GETRANGE", Expected::AnyType).arg(name).arg(0).arg(31);
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

    /// Reads the value of `name`.
    pub(crate) fn get(&mut self, name: &str) {
        self.cmd("GET", Expected::Reply).arg(name);
    }

    /// Reads the value of `name`, of any type.
    pub(crate) fn get_any(&mut self, name: &str) {
        self.cmd("GET", Expected::AnyType).arg(name);
    }

    /// Reads the id of the entry at `name`.
    pub(crate) fn entry_id(&mut self, name: &str) {
        self.cmd("GETRANGE", Expected::AnyType).arg(name).arg(8).arg(23);
    }

    /// Takes the lease at `name` for this many milliseconds, unless there is one. Values that need the lease are read after this.
    pub(crate) fn take(&mut self, name: &str, value: &[u8], life: u64) {
        self.cmd("SET", Expected::AnyType).arg(name).arg(value).arg("NX").arg("GET").arg("PX").arg(life);
    }

    /// Has this process elected, under `name` and for this many milliseconds, unless another one is.
    pub(crate) fn elect(&mut self, name: &str, token: &[u8], life: u64) {
        self.cmd("EVALSHA", Expected::AnyType).arg(ELECT.get_hash()).arg(1).arg(name).arg(token).arg(life);
    }

    /// Sets `name` for this many milliseconds, unless it has a value.
    pub(crate) fn set_unless_set(&mut self, name: &str, value: &[u8], life: u64) {
        self.cmd("SET", Expected::AnyType).arg(name).arg(value).arg("NX").arg("GET").arg("PX").arg(life);
    }

    /// Sets `name` to `value` for this many milliseconds, unless it has a value other than `before`.
    pub(crate) fn replace(&mut self, name: &str, before: &[u8], value: &[u8], life: u64) {
        let command = self.cmd("EVALSHA", Expected::AnyType).arg(REPLACE.get_hash()).arg(1).arg(name);
        command.arg(before).arg(value).arg(life);
    }

    /// Sets `name` for this many milliseconds.
    pub(crate) fn set_for(&mut self, name: &str, value: &[u8], life: u64) {
        self.cmd("SET", Expected::Reply).arg(name).arg(value).arg("PX").arg(life);
    }

    /// The remaining life of `name`, in milliseconds.
    pub(crate) fn left(&mut self, name: &str) {
        self.cmd("PTTL", Expected::Reply).arg(name);
    }

    /// The server's time.
    pub(crate) fn time(&mut self) {
        self.cmd("TIME", Expected::Reply);
    }

    /// Adds a record to the stream at `name`, which keeps at most this many, and expires after this many milliseconds without a
    /// new one.
    pub(crate) fn append(&mut self, name: &str, cap: usize, record: &[u8], life: u64) {
        self.cmd("XADD", Expected::Reply).arg(name).arg("MAXLEN").arg(cap).arg("*").arg("record").arg(record);
        self.cmd("PEXPIRE", Expected::Number).arg(name).arg(life);
    }

    /// The last records of the stream at `name`.
    pub(crate) fn last(&mut self, name: &str, most: usize) {
        self.cmd("XREVRANGE", Expected::Reply).arg(name).arg("+").arg("-").arg("COUNT").arg(most);
    }

    /// Whether each entry carries `tag`.
    pub(crate) fn carries(&mut self, name: &[u8], tag: &str) {
        self.cmd("EVALSHA", Expected::Reply).arg(CARRIES.get_hash()).arg(1).arg(name).arg(tag);
    }

    /// How long the load of the entry at `name` took, in the form of the envelope.
    pub(crate) fn load_time(&mut self, name: &[u8]) {
        self.cmd("GETRANGE", Expected::AnyType).arg(name).arg(72).arg(75);
    }

    /// Makes the server track the reads of the next call, if it tracks at all.
    pub(crate) fn track(&mut self, tracking: bool) {
        if tracking {
            self.cmd("CLIENT", Expected::Done).arg("CACHING").arg("YES");
        }
    }

    /// Begins to watch a key of any type.
    pub(crate) fn watch(&mut self, tracking: bool, name: &str) {
        if tracking {
            self.track(tracking);
            self.cmd("PTTL", Expected::Number).arg(name);
        }
    }

    /// The reply of every call; the first error, if there is one. Scripts that the server has forgotten are loaded again, and
    /// then all calls are repeated: so calls must be repeatable.
    pub(crate) async fn run<T: FromRedisValue>(&self, driver: &mut MultiplexedConnection) -> RedisResult<T> {
        match self.replies(driver).await {
            Err(error) if matches!(error.kind(), ErrorKind::Server(ServerErrorKind::NoScript)) => {
                load(driver).await?;
                self.replies(driver).await
            }
            result => result,
        }
    }

    /// The reply of every call, or its error. Nothing is loaded or repeated; and nothing is sent if there is no call, which the
    /// driver would take for an error.
    pub(crate) async fn each(&self, driver: &mut MultiplexedConnection) -> RedisResult<Vec<Value>> {
        if self.expected.is_empty() {
            return Ok(Vec::new());
        }
        exactly(self.expected.len(), driver.req_packed_commands(&self.pipeline, 0, self.expected.len()).await?)
    }

    async fn replies<T: FromRedisValue>(&self, driver: &mut MultiplexedConnection) -> RedisResult<T> {
        let mut values = self.each(driver).await?;
        for (value, expected) in values.iter().zip(&self.expected) {
            if let Value::ServerError(error) = value {
                let error = RedisError::from(error.clone());
                if !(matches!(expected, Expected::AnyType) && is_wrong_type(&error)) {
                    return Err(error);
                }
            }
        }
        if self.expected.iter().any(|expected| matches!(expected, Expected::Done | Expected::Number)) {
            let mut replies = Vec::with_capacity(values.len());
            for (value, expected) in values.into_iter().zip(&self.expected) {
                match (expected, value) {
                    (Expected::Reply | Expected::AnyType, value) => replies.push(value),
                    (Expected::Done, Value::Okay) | (Expected::Number, Value::Int(_)) => {}
                    (Expected::Done | Expected::Number, _) => return Err(no_answer()),
                }
            }
            values = replies;
        }
        Ok(from_redis_value(Value::Array(values))?)
    }
}

/// A call of one script, put together piece by piece.
#[derive(Default)]
pub(crate) struct Call {
    keys: Vec<String>,
    arguments: Vec<Bytes>,
}

impl Call {
    pub(crate) fn key(&mut self, name: String) -> &mut Self {
        self.keys.push(name);
        self
    }

    pub(crate) fn arg(&mut self, argument: impl Into<Bytes>) -> &mut Self {
        self.arguments.push(argument.into());
        self
    }

    /// The names that it touches.
    pub(crate) fn names(&self) -> usize {
        self.keys.len()
    }

    /// The bytes of its arguments.
    pub(crate) fn bytes(&self) -> usize {
        self.arguments.iter().map(Bytes::len).sum()
    }
}
