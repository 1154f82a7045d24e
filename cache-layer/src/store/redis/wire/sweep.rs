//! A pass over the names of one server: `SCAN` in small steps, over the leases first and then over the entries. In that order a
//! fill in flight is either voided, or has put its entry where the second pass finds it.
//!
//! The server selects names by the literal beginning of the pattern; the rest is compared here, since a readable key that is
//! capped shows only how the key begins.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use redis::{ErrorKind, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::time::{Instant, sleep, timeout};

use super::{
    errors::is_not_allowed,
    invalidation::invalidate,
    names::{Kind, Names},
    reclaim::Reclaim,
    replies::{AnyType, Bulk, Count, Flag, Scanned, exactly, no_answer},
    sample::Sample,
    scripts::{self, Batch, Window},
};
use crate::{
    ban::{Ban, Bans},
    key::{CAPPED, KeyId, READABLE_CAP, readable_in_full},
    pattern::Pattern,
    store::{Scope, Swept},
    tag::TagToken,
};

/// How many names the server examines in one step, so that it has time for other clients in between.
const STEP: std::ops::RangeInclusive<usize> = 100..=1_000;
const FIRST_STEP: usize = 200;
/// A step that takes longer is followed by shorter ones, and one that takes less than a quarter of it by longer ones.
const LONG_STEP: Duration = Duration::from_millis(2);
/// The longest pause after a step; otherwise the pause is as long as the step was, so that the sweep takes at most half the time.
const LONGEST_PAUSE: Duration = Duration::from_millis(5);
/// The step of the lurker, for which no caller waits: it takes a fifth of the time, and pauses after each step.
const LURKER_STEP: usize = 200;
const LURKER_PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(50);
/// How long one step may take before the connection is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Deletes the entries on one server that any of the patterns matches; returns how many primary keys had one, or nothing if
/// everything was invalidated instead. `deleted` is called with the id of each entry that matched, variants included.
pub(crate) async fn delete_matching(
    names: &Names,
    patterns: &[&Pattern],
    deleted: &mut (dyn FnMut(KeyId) + Send),
    driver: &mut MultiplexedConnection,
) -> RedisResult<Option<u64>> {
    swept(Sweep { names, patterns, purpose: Purpose::Delete(deleted), driver, step: FIRST_STEP, examined: 0 }).await
}

/// As [`delete_matching`], but makes the entries stale, each in the `window` of the moment when it is reached; variants are stale
/// with their primary entry.
pub(crate) async fn soften_matching(
    names: &Names,
    patterns: &[&Pattern],
    window: &(dyn Fn() -> Window + Sync),
    softened: &mut (dyn FnMut(KeyId) + Send),
    driver: &mut MultiplexedConnection,
) -> RedisResult<Option<u64>> {
    let purpose = Purpose::Soften(window, softened);
    swept(Sweep { names, patterns, purpose, driver, step: FIRST_STEP, examined: 0 }).await
}

async fn swept(mut sweep: Sweep<'_>) -> RedisResult<Option<u64>> {
    match sweep.run().await {
        Err(error) if is_not_allowed(&error) => {
            // If it were kept, it would be refused for ever, and nothing would be read again.
            let Sweep { names, driver, .. } = sweep;
            // Not the pattern, which may contain most of a key.
            tracing::warn!(%error, "Redis refuses to scan for a pattern; everything is invalidated instead");
            in_time(invalidate(names, driver, Scope::Everything)).await.map(|_| None)
        }
        result => result.map(Some),
    }
}

/// Sweeps entries on one server that are covered by these bans, which are listed under `token`; the leases come first. Returns how
/// many entries were deleted, or marked anew. There is no fallback: an error leaves the bans on the list.
pub(crate) async fn sweep_banned(
    names: &Names,
    bans: &Bans,
    token: &TagToken,
    driver: &mut MultiplexedConnection,
) -> RedisResult<Swept> {
    let patterns: Vec<&Pattern> = bans.as_slice().iter().map(|ban| &ban.pattern).collect();
    let purpose = Purpose::Lurk(bans, token);
    let mut sweep = Sweep { names, patterns: &patterns, purpose, driver, step: LURKER_STEP, examined: 0 };
    let removed = sweep.run().await?;
    Ok(Swept { examined: sweep.examined, removed })
}

/// Deletes the entries on one server that their tags have made void, as [`Reclaim`] finds them. Leases are left alone.
pub(crate) async fn reclaim_void(
    names: &Names,
    reclaim: &mut Reclaim,
    driver: &mut MultiplexedConnection,
) -> RedisResult<()> {
    let every = Pattern::new("*");
    let purpose = Purpose::Reclaim(reclaim);
    let mut sweep = Sweep { names, patterns: &[&every], purpose, driver, step: LURKER_STEP, examined: 0 };
    sweep.pass(Kind::Entry).await.map(drop)
}

/// Counts the primary keys with a matching entry on one server; nothing is changed.
pub(crate) async fn count_matching(
    names: &Names,
    pattern: &Pattern,
    driver: &mut MultiplexedConnection,
) -> RedisResult<u64> {
    Sweep { names, patterns: &[pattern], purpose: Purpose::Count, driver, step: FIRST_STEP, examined: 0 }
        .pass(Kind::Entry)
        .await
}

/// Counts the primary keys on one server with an entry that carries `tag`; nothing is changed.
pub(crate) async fn count_carrying(names: &Names, tag: &str, driver: &mut MultiplexedConnection) -> RedisResult<u64> {
    let every = Pattern::new("*");
    let purpose = Purpose::CountCarrying(tag);
    Sweep { names, patterns: &[&every], purpose, driver, step: FIRST_STEP, examined: 0 }.pass(Kind::Entry).await
}

/// As both of these, until the time of `sample` is up; the results are added to `sample`; nothing is changed.
pub(crate) async fn sample(
    names: &Names,
    pattern: &Pattern,
    sample: &mut Sample,
    driver: &mut MultiplexedConnection,
) -> RedisResult<()> {
    let purpose = Purpose::Sample(sample);
    Sweep { names, patterns: &[pattern], purpose, driver, step: FIRST_STEP, examined: 0 }
        .pass(Kind::Entry)
        .await
        .map(|_| ())
}

/// What is done with matching entries.
enum Purpose<'a> {
    /// They are counted, until the time is up.
    Sample(&'a mut Sample),
    /// They are deleted, and this is called for each as soon as it is.
    Delete(&'a mut (dyn FnMut(KeyId) + Send)),
    /// They are marked, and this is called for each as soon as it is.
    Soften(&'a (dyn Fn() -> Window + Sync), &'a mut (dyn FnMut(KeyId) + Send)),
    Count,
    /// Those that carry the tag are counted.
    CountCarrying(&'a str),
    /// They are deleted, or marked, by the bans that their loads did not know of, of those under this token.
    Lurk(&'a Bans, &'a TagToken),
    /// They are deleted if their tags have made them void.
    Reclaim(&'a mut Reclaim),
}

/// A name whose key matches.
struct Match<'n> {
    name: &'n [u8],
    id: KeyId,
    readable: Cow<'n, [u8]>,
}

struct Sweep<'a> {
    names: &'a Names,
    patterns: &'a [&'a Pattern],
    purpose: Purpose<'a>,
    driver: &'a mut MultiplexedConnection,
    /// The number of names to examine in the next step.
    step: usize,
    /// The number of entries that were found so far.
    examined: u64,
}

impl Sweep<'_> {
    async fn run(&mut self) -> RedisResult<u64> {
        self.pass(Kind::Lease).await?;
        self.pass(Kind::Entry).await
    }

    /// Deletes, or counts, every matching name of one kind that exists from the beginning of the pass to its end.
    async fn pass(&mut self, kind: Kind) -> RedisResult<u64> {
        let selection = self.selection(kind);
        let mut deleted = 0;
        let mut cursor = 0_u64;
        loop {
            let begun = Instant::now();
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&selection).arg("COUNT").arg(self.step);
            let Scanned { cursor: next, names: found } = in_time(scan.query_async(self.driver)).await?;
            // A server whose cursor does not move would be asked for ever.
            if next == cursor && next != 0 {
                return Err(no_answer());
            }
            cursor = next;
            self.pace(begun.elapsed()).await;
            if !found.is_empty() {
                deleted += self.deal_with(kind, &found).await?;
            }
            if self.ends_at(cursor) {
                return Ok(deleted);
            }
        }
    }

    /// The common literal beginning of all names that match any of the patterns.
    fn literal_prefix(&self, cap: usize) -> Vec<u8> {
        let common = |one: Vec<u8>, other: Vec<u8>| {
            let same = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
            one[..same].to_vec()
        };
        let each = self.patterns.iter().map(|pattern| pattern.literal_prefix(cap));
        each.reduce(common).unwrap_or_default()
    }

    fn matches(&self, readable: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(readable))
    }

    /// Whether the pass ends at this cursor.
    fn ends_at(&mut self, cursor: u64) -> bool {
        match &mut self.purpose {
            Purpose::Sample(sample) => sample.ends_at(cursor),
            _ => cursor == 0,
        }
    }

    /// A pattern for the server that selects all names that may match.
    fn selection(&self, kind: Kind) -> Vec<u8> {
        // The part that even a capped readable key shows.
        let literal = self.literal_prefix(READABLE_CAP - 10);
        let digest = "?".repeat(32);
        let mut selection = self.names.of_kind(kind);
        // Writing to a string can't fail.
        let _ = write!(selection, "{{{digest}}}:*:");
        let mut selection = selection.into_bytes();
        for byte in literal {
            if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b'^') {
                selection.push(b'\\');
            }
            selection.push(byte);
        }
        selection.push(b'*');
        selection
    }

    /// Deletes, or counts, those of the `found` names that match.
    async fn deal_with(&mut self, kind: Kind, found: &[Vec<u8>]) -> RedisResult<u64> {
        let begun = Instant::now();
        if let Purpose::Reclaim(reclaim) = &mut self.purpose {
            let entries = found.iter().filter(|name| self.names.parse_of(kind, name).is_some()).map(Vec::as_slice);
            in_time(reclaim.step(self.names, entries.collect(), self.driver)).await?;
            self.pace(begun.elapsed()).await;
            return Ok(0);
        }
        self.examined += if kind == Kind::Entry { found.len() as u64 } else { 0 };
        let matching = self.matching(kind, found).await?;
        let dealt_with = match self.purpose {
            Purpose::Sample(_) => self.sample(&matching).await,
            Purpose::Count => Ok(matching.iter().filter(|found| !found.id.is_variant()).count() as u64),
            Purpose::CountCarrying(tag) => self.count_carrying(&matching, tag).await,
            _ if matching.is_empty() => return Ok(0),
            Purpose::Soften(window, _) if kind == Kind::Entry => self.soften(window(), &matching).await,
            Purpose::Lurk(bans, _) if kind == Kind::Entry => self.sweep_banned(bans, &matching).await,
            Purpose::Lurk(bans, token) => self.sweep_leases(bans, token, &matching).await,
            Purpose::Delete(_) | Purpose::Soften(..) | Purpose::Reclaim(_) => self.delete(kind, &matching).await,
        };
        self.pace(begun.elapsed()).await;
        dealt_with
    }

    async fn sample(&mut self, matching: &[Match<'_>]) -> RedisResult<u64> {
        let Purpose::Sample(sample) = &mut self.purpose else { return Ok(0) };
        let mut found: Vec<&[u8]> =
            matching.iter().filter(|found| !found.id.is_variant()).map(|found| found.name).collect();
        if let Some(tag) = sample.tag.as_deref().filter(|_| !found.is_empty()) {
            let mut batch = Batch::default();
            found.iter().for_each(|name| batch.carries(name, tag));
            let carry: Vec<Flag> = exactly(found.len(), in_time(batch.run(self.driver)).await?)?;
            let mut carry = carry.into_iter();
            found.retain(|_| carry.next().is_some_and(|Flag(carries)| carries));
        }
        let timed = &found[..found.len().min(sample.untimed())];
        let mut load_times = Vec::new();
        if !timed.is_empty() {
            let mut batch = Batch::default();
            timed.iter().for_each(|name| batch.load_time(name));
            let read: Vec<AnyType> = exactly(timed.len(), in_time(batch.run(self.driver)).await?)?;
            load_times.extend(read.into_iter().map(|AnyType(bytes)| bytes.unwrap_or_default()));
        }
        sample.add(found.len() as u64, &load_times);
        Ok(found.len() as u64)
    }

    async fn count_carrying(&mut self, matching: &[Match<'_>], tag: &str) -> RedisResult<u64> {
        let mut batch = Batch::default();
        let primaries: Vec<&[u8]> =
            matching.iter().filter(|found| !found.id.is_variant()).map(|found| found.name).collect();
        if primaries.is_empty() {
            return Ok(0);
        }
        primaries.iter().for_each(|name| batch.carries(name, tag));
        let carry: Vec<Flag> = exactly(primaries.len(), in_time(batch.run(self.driver)).await?)?;
        Ok(carry.iter().filter(|Flag(carries)| *carries).count() as u64)
    }

    async fn matching<'n>(&mut self, kind: Kind, found: &'n [Vec<u8>]) -> RedisResult<Vec<Match<'n>>> {
        let mut matching: Vec<Match<'n>> = Vec::with_capacity(found.len());
        let mut capped = Vec::new();
        for name in found {
            let Some((id, readable)) = self.names.parse_of(kind, name) else { continue };
            match (readable.ends_with(CAPPED.as_bytes()), kind) {
                (false, _) if self.matches(readable) => matching.push(Match { name, id, readable: readable.into() }),
                (false, _) => {}
                // A lease has no content to compare. A load whose fill is refused without need loads again.
                (true, Kind::Lease | Kind::Variants) => matching.push(Match { name, id, readable: readable.into() }),
                (true, Kind::Entry) => capped.push((&name[..], id)),
            }
        }
        matching.extend(self.open(&capped).await?);
        Ok(matching)
    }

    async fn delete(&mut self, kind: Kind, matching: &[Match<'_>]) -> RedisResult<u64> {
        let (primaries, variants): (Vec<_>, Vec<_>) = matching.iter().partition(|found| !found.id.is_variant());
        // In a cluster, one command takes names of one slot only; the round trip carries one command for each name.
        let at_once = if self.names.is_clustered() { 1 } else { matching.len() };
        let mut batch = Batch::default();
        let commands: Vec<_> = primaries.chunks(at_once).chain(variants.chunks(at_once)).collect();
        for names in &commands {
            batch.unlink(names.iter().map(|found| found.name));
        }
        let counts: Vec<Count> = exactly(commands.len(), in_time(batch.run(self.driver)).await?)?;
        let unlinked = counts.into_iter().zip(&commands).map(|(count, names)| count.at_most(names.len()));
        let unlinked: Vec<u64> = unlinked.collect::<RedisResult<_>>()?;
        let deleted = unlinked.iter().take(primaries.len().div_ceil(at_once)).sum();
        if let (Kind::Entry, Purpose::Delete(deleted)) = (kind, &mut self.purpose) {
            matching.iter().for_each(|found| deleted(found.id));
        }
        Ok(deleted)
    }

    async fn soften(&mut self, window: Window, matching: &[Match<'_>]) -> RedisResult<u64> {
        let primaries: Vec<_> = matching.iter().filter(|found| !found.id.is_variant()).collect();
        if primaries.is_empty() {
            return Ok(0);
        }
        let (entries, leases) = (self.names.of_kind(Kind::Entry), self.names.of_kind(Kind::Lease));
        let mut batch = Batch::default();
        for Match { name, id, .. } in &primaries {
            let rest = name.strip_prefix(entries.as_bytes()).and_then(|rest| str::from_utf8(rest).ok());
            // Every name of the library has one.
            let rest = rest.ok_or_else(no_answer)?;
            batch.soften_entry(&format!("{entries}{rest}"), &format!("{leases}{rest}"), window, id.turn());
        }
        let softened: Vec<Flag> = exactly(primaries.len(), in_time(batch.run(self.driver)).await?)?;
        if let Purpose::Soften(_, told) = &mut self.purpose {
            primaries.iter().for_each(|found| told(found.id));
        }
        Ok(softened.iter().filter(|Flag(there)| *there).count() as u64)
    }

    /// A lease stays if its load knew of the youngest ban that covers it: its entry will not be covered. A key that is capped may
    /// be covered by any.
    async fn sweep_leases(&mut self, bans: &Bans, token: &TagToken, matching: &[Match<'_>]) -> RedisResult<u64> {
        let mut batch = Batch::default();
        let youngest = bans.as_slice().last().map_or(0, |ban| ban.at);
        for Match { name, readable, .. } in matching {
            let covering = bans.covering(0, readable).next().map(|ban| ban.at);
            let is_capped = readable.ends_with(CAPPED.as_bytes());
            batch.sweep_lease(name, covering.filter(|_| !is_capped).unwrap_or(youngest), token.line());
        }
        let swept: Vec<Flag> = exactly(matching.len(), in_time(batch.run(self.driver)).await?)?;
        Ok(swept.iter().filter(|Flag(swept)| *swept).count() as u64)
    }

    /// Each entry is swept by itself, and only if a ban still covers it: entries that were loaded since stay. Counts an entry once,
    /// by however many bans it is covered.
    async fn sweep_banned(&mut self, bans: &Bans, matching: &[Match<'_>]) -> RedisResult<u64> {
        let (mut batch, mut swept_names) = (Batch::default(), Vec::new());
        for Match { name, id, readable } in matching {
            let covering: Vec<&Ban> = bans.covering(0, readable).collect();
            let hard = covering.iter().find(|ban| ban.soft_over.is_none());
            let younger = covering.iter().filter(|ban| hard.is_none_or(|hard| hard.at < ban.at));
            // Variants are marked as well: their primary entry may be replaced before its turn, and then knows of the ban.
            for ban in hard.into_iter().chain(younger.rev()) {
                batch.sweep_entry(name, ban, id.turn());
                swept_names.push(name);
            }
        }
        if swept_names.is_empty() {
            return Ok(0);
        }
        let swept: Vec<Flag> = exactly(swept_names.len(), in_time(batch.run(self.driver)).await?)?;
        let mut changed = swept.iter();
        swept_names.retain(|_| changed.next().is_some_and(|Flag(changed)| *changed));
        swept_names.dedup();
        Ok(swept_names.len() as u64)
    }

    /// Those of the `capped` names whose entry has a key that matches.
    async fn open<'n>(&mut self, capped: &[(&'n [u8], KeyId)]) -> RedisResult<Vec<Match<'n>>> {
        if capped.is_empty() {
            return Ok(Vec::new());
        }
        let mut batch = Batch::default();
        for (name, _) in capped {
            batch.call_on(&scripts::CANONICAL_KEY, name);
        }
        let keys: Vec<Bulk> = exactly(capped.len(), in_time(batch.run(self.driver)).await?)?;
        let opened = capped.iter().zip(keys).map(|(&(name, id), Bulk(key))| {
            let readable = Cow::Owned(readable_in_full(&key).into_bytes());
            Match { name, id, readable }
        });
        Ok(opened.filter(|found| self.matches(&found.readable)).collect())
    }

    /// Pauses, so that the server has time for other clients.
    async fn pace(&mut self, taken: Duration) {
        if matches!(self.purpose, Purpose::Lurk(..) | Purpose::Reclaim(_)) {
            return sleep((4 * taken).clamp(*LURKER_PAUSE.start(), *LURKER_PAUSE.end())).await;
        }
        if taken > LONG_STEP {
            self.step = (self.step / 2).max(*STEP.start());
        } else if taken < LONG_STEP / 4 {
            self.step = (self.step * 2).min(*STEP.end());
        }
        sleep(taken.min(LONGEST_PAUSE)).await;
    }
}

/// Runs one step of what has no limit as a whole, or what follows the last one.
pub(crate) async fn in_time<T>(step: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let late = |_| Err::<T, RedisError>((ErrorKind::Io, "no answer to a step of a pattern").into());
    timeout(PATIENCE, step).await.unwrap_or_else(late)
}
