//! The contract of every store, and its vocabulary.

use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::runtime::Handle;

#[cfg(any(feature = "memory", feature = "redis"))]
use crate::ban::Ban;
#[cfg(feature = "redis")]
use crate::tag::BansKnown;
use crate::{
    clock::{Clock, millis},
    entry::{Entry, EntryId, Version},
    hex,
    key::Key,
    pattern::Pattern,
    ramp::LONGEST,
    store::sweeps::SweepListener,
    switches::{SwitchState, Switches},
    tag::{TagState, TagToken, Tags},
    telemetry::{InvalidationKind, Rejection},
};

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A place where entries are kept.
///
/// The contract is private to this crate for now; the stores that implement it are listed [here](super).
pub trait Store: StoreBackend {}

/// The contract. All times are by the store's own clock: a lease's start is compared with invalidations by the same clock.
pub trait StoreBackend: fmt::Debug + Send + Sync + 'static {
    /// The valid entry of `key`, if this process has it in memory, without waiting. It may have expired, as its deadlines say.
    /// `None` says nothing about other places.
    fn peek(&self, key: &Key) -> Option<Entry>;

    /// As [`get`](Self::get), without waiting; `None` if only `get` can tell. The entry may have expired.
    fn get_at_once(&self, key: &Key) -> Option<Lookup> {
        self.peek(key).map(Lookup::Found)
    }

    /// Whether the store keeps what this process adds to an entry, by [`amend`](Self::amend).
    fn keeps_additions(&self) -> bool {
        false
    }

    /// Replaces the entry with this id, in the memory of this process, by what `amends` makes of it: the same entry with an
    /// addition. This may drop the entry, but never restores one that is gone.
    fn amend(&self, _key: &Key, _of: EntryId, _amends: &dyn Fn(&Entry) -> Entry) -> Amended {
        Amended::Gone
    }

    /// Whether the whole store is in this process.
    fn is_local(&self) -> bool {
        false
    }

    /// Tells the stores of this process apart: clones of a store have the same identity.
    fn identity(&self) -> usize;

    /// The valid entry of `key`. A store may take the lease as well, for an [`acquire`](Self::acquire) of this process that will
    /// most likely follow; if none follows, the lease is soon free again.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>>;

    /// The operator's switches, which this process follows from now on.
    fn follow_switches(&self) -> Arc<Switches>;

    /// Turns a switch in all processes that follow the switches of this store.
    fn set_switch(&self, state: SwitchState) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Adds a record to the audit that all processes with this store share; `false` if the store has no audit.
    fn audit<'a>(&'a self, _record: &'a [u8]) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(ready(Ok(false)))
    }

    /// The last records of the audit, the newest first.
    fn audited<'a>(&'a self, _most: usize) -> BoxFuture<'a, Result<Vec<Bytes>, StoreError>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    /// Reserves a request for this process: see [`Cache::reserve_request`](crate::Cache::reserve_request).
    fn reserve_request<'a>(
        &'a self,
        _id: &'a str,
        _record: &'a [u8],
        _life: Duration,
    ) -> BoxFuture<'a, Result<Reserved, StoreError>> {
        Box::pin(ready(Ok(Reserved::Unshared)))
    }

    /// Replaces the record of a request that is `reserved` by this process.
    fn record_request<'a>(
        &'a self,
        _id: &'a str,
        _reserved: &'a [u8],
        _record: &'a [u8],
        _life: Duration,
    ) -> BoxFuture<'a, Result<Reserved, StoreError>> {
        Box::pin(ready(Ok(Reserved::Unshared)))
    }

    /// Leaves a list of hot keys for other processes, for ten minutes; `false` if the store has no such lists.
    fn leave_list<'a>(&'a self, _list: &'a [u8]) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(ready(Ok(false)))
    }

    /// The lists that processes have left, the newest first; and the number of those that could not be opened.
    fn lists<'a>(&'a self) -> BoxFuture<'a, Result<(Vec<Bytes>, usize), StoreError>> {
        Box::pin(ready(Ok((Vec::new(), 0))))
    }

    /// As [`get_many`](Self::get_many), for a warm start: no request waits for it, so that it may take longer.
    fn fetch<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Lookup, StoreError>>> {
        self.get_many(keys)
    }

    /// Calls `listener` at the end of each sweep of this process, for as long as it lives.
    fn on_sweep(&self, _listener: &Arc<SweepListener>) {}

    /// Whether this process keeps in memory, at this moment, the entries that it reads from elsewhere.
    fn keeps_what_it_reads(&self) -> bool {
        false
    }

    /// The clock that all processes with this store share, if there is one.
    fn clock(&self) -> Option<Clock> {
        None
    }

    /// The runtime for tasks of the store, if it has any.
    fn runtime(&self) -> Option<Handle> {
        None
    }

    /// As [`get`](Self::get), for an inspection: no lease is taken.
    fn look<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>> {
        self.get(key)
    }

    /// What [`acquire`](Self::acquire) would find at `key`: read only, nothing is changed or tracked.
    fn lease_state<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<LeaseState, StoreError>>;

    /// The current token of `tag`.
    fn tag_token<'a>(&'a self, tag: &'a str) -> BoxFuture<'a, Result<Option<TagToken>, StoreError>>;

    /// The bans that are listed, and the process that sweeps.
    fn patterns(&self) -> BoxFuture<'_, Result<ListedPatterns, StoreError>> {
        Box::pin(ready(Ok(ListedPatterns::default())))
    }

    /// The hard ban that covers the entry of `key`, if there is an entry and one does: its pattern. The youngest of several.
    fn banned_by<'a>(&'a self, _key: &'a Key) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(ready(Ok(None)))
    }

    /// How many primary keys have an entry that `reach` covers, whether or not its tags are still current; `None` if names alone
    /// can't tell.
    fn count<'a>(&'a self, reach: Reach<'a>) -> BoxFuture<'a, Result<Option<u64>, StoreError>>;

    /// As [`count`](Self::count), with the time that loading these keys again would take, in about the time `within`. If the time
    /// is up before all keys were examined, the result is extrapolated from those that were; `None` if they tell nothing of the
    /// others. A store that has all keys in memory may count them all, however long that takes.
    fn estimate<'a>(
        &'a self,
        reach: Reach<'a>,
        within: Duration,
    ) -> BoxFuture<'a, Result<Option<Estimate>, StoreError>>;

    /// Takes the lease on `key` for `ttl`, unless another load has it, the entry is no longer the one that was `seen`, or the key
    /// backs off from a failure that is to be heeded.
    fn acquire<'a>(
        &'a self,
        key: &'a Key,
        seen: Seen,
        ttl: Duration,
        failures: Failures,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>>;

    /// As [`acquire`](Self::acquire), without waiting; `None` if only `acquire` can do it.
    fn acquire_at_once(&self, _key: &Key, _seen: Seen, _failures: Failures) -> Option<Acquired> {
        None
    }

    /// Extends a lease that is still held; `false` if it no longer is.
    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Duration) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Whether the lease with this token is held on `key`. Its holder may be in another process.
    fn is_held_by<'a>(&'a self, key: &'a Key, token: LeaseToken) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Whether, since the lease was granted, this process may have heard of something that makes its load void: without waiting,
    /// and `true` in any doubt. It is `true` once this process has read what another process's invalidation left.
    fn overtaken(&self, lease: &Lease) -> bool;

    /// Writes the entries of `fill` and ends its lease, all or nothing, unless something overtook it.
    fn commit<'a>(&'a self, fill: &'a Fill) -> BoxFuture<'a, Result<Committed, StoreError>>;

    /// As [`commit`](Self::commit), without waiting; `None` if only `commit` can do it.
    fn commit_at_once(&self, _lease: &Lease, _writes: &Writes, _tags: &Tags) -> Option<Committed> {
        None
    }

    /// Ends a lease without a fill, without waiting. `uncacheable`: for this time, [`acquire`](Self::acquire) tells requests not
    /// to wait for each other.
    fn release(&self, lease: &Lease, uncacheable: Option<Duration>);

    /// Ends a lease whose load has returned something that is not to be stored, and removes the entry of its key, which that has
    /// superseded: both in one step, or neither if something overtook the load. Once this has returned `Ok`, this process does not
    /// find that entry any more.
    fn supersede<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Ends the lease on `key`, whoever holds it: what is loaded under it is not stored any more. The entry stays, and so does what
    /// is remembered of loads that have ended. Once this has returned `Ok`, the lease is free, unless another load has taken it
    /// since.
    fn end_lease<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Notes that an entry has been stored in the place of an invalidation of its key. Where invalidations are repeated to a data
    /// set that may be older, so is this one.
    fn note_write(&self, _key: &Key) {}

    /// Ends a lease whose load failed, without waiting. Until its pause is over, [`acquire`](Self::acquire) tells requests to
    /// leave the application alone. Whatever else ends a lease, or voids it, ends the pause, too.
    fn fail(&self, lease: &Lease, failed: Failed);

    /// Returns when a lease that another request or process holds may have ended; the caller then looks the entry up again.
    fn lease_ended<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, ()>;

    /// Makes the entries that `scope` covers invalid or stale, at once or by a [ramp](crate::ramp), and voids fills of them that
    /// are in flight. Once this has returned `Ok`, no store returns them, or none returns them as fresh. Once it has returned an
    /// error, this store no longer returns them, even if the invalidation was soft, and it goes on trying. It is under way once
    /// this is called, whether its result is waited for or not.
    fn invalidate(&self, scope: Scope<'_>, hardness: Hardness) -> BoxFuture<'static, Result<Invalidated, StoreError>>;

    /// Deletes the entries whose readable key matches, now and one by one, voids fills of them that are in flight, and counts the
    /// primary keys that had one. Otherwise as [`invalidate`](Self::invalidate), which only records what is void.
    fn delete_matching(&self, pattern: &Pattern) -> BoxFuture<'static, Result<Invalidated, StoreError>>;

    /// The valid entries of `keys`, in their order, at the cost of one look-up.
    fn get_many<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Lookup, StoreError>>>;

    /// Writes entries that do not come from a load, whatever is there, and ends the leases on their keys: what was loaded under
    /// them is older. Once this has returned `Ok`, no reader gets the earlier entries; once it has returned an error, the keys
    /// are invalidated as by an [`invalidate`](Self::invalidate) that returned one. What has failed for want of an answer is not written
    /// afterwards, except in a cluster.
    fn put<'a>(&'a self, entries: Vec<(Key, Entry)>, tags: &'a Tags) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Whether a recent failure to load a key holds up the next load of it, and whether that load is refused if a recent response
/// could not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failures {
    /// A failure holds it up, until the pause after the failure is over.
    Heed,
    Ignore,
    /// As [`Heed`](Self::Heed), and it is granted whatever could not be stored.
    HeedAnew,
    /// As [`Ignore`](Self::Ignore), and it is granted whatever could not be stored.
    IgnoreAnew,
}

impl Failures {
    pub(crate) fn are_heeded(self) -> bool {
        matches!(self, Self::Heed | Self::HeedAnew)
    }

    /// Whether the load is granted although a recent response could not be stored.
    pub(crate) fn load_anew(self) -> bool {
        matches!(self, Self::HeedAnew | Self::IgnoreAnew)
    }
}

/// What an invalidation does to the entries that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardness {
    /// They are not used again.
    Hard,
    /// They are stale at once.
    Soft,
    /// They become stale one after the other, each key at its turn within this time from now on.
    Ramp(Duration),
}

impl Hardness {
    /// Whether the entries may still be used as stale ones.
    pub(crate) fn is_soft(self) -> bool {
        self != Self::Hard
    }

    /// The window in milliseconds; 0 if all entries are covered at once.
    pub(crate) fn window(self) -> u64 {
        match self {
            Self::Hard | Self::Soft => 0,
            Self::Ramp(window) => millis(window).min(LONGEST),
        }
    }
}

/// What a store has made of an invalidation, if it is more than was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// It was to be soft, and became a hard one.
    pub(crate) hard: bool,
    /// It was to be of a pattern, and became one of everything.
    pub(crate) everything: bool,
}

#[cfg(feature = "redis")]
impl Extent {
    pub(crate) const EVERYTHING: Self = Self { hard: false, everything: true };

    /// For an invalidation that was to be of this hardness, and became a hard one.
    pub(crate) fn hard_for(hardness: Hardness) -> Self {
        Self { hard: hardness.is_soft(), everything: false }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self { hard: self.hard | other.hard, everything: self.everything | other.everything }
    }
}

/// An invalidation that has reached the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Invalidated {
    pub(crate) extent: Extent,
    /// The primary keys that had an entry that was deleted, if that is counted.
    pub(crate) deleted: u64,
}

impl Invalidated {
    #[cfg(feature = "redis")]
    pub(crate) fn and(self, other: Self) -> Self {
        Self { extent: self.extent.and(other.extent), deleted: self.deleted + other.deleted }
    }
}

#[cfg(feature = "redis")]
impl From<Extent> for Invalidated {
    fn from(extent: Extent) -> Self {
        Self { extent, deleted: 0 }
    }
}

/// The result of a look-up in a store.
#[derive(Debug)]
pub enum Lookup {
    Found(Entry),
    Absent,
    /// Something that can't be used, and what to pass as [`Seen`].
    Rejected(Rejection, Seen),
}

impl Lookup {
    /// The result for `entry`, given the state of its tags.
    #[inline]
    pub(crate) fn judged(entry: Entry, state: TagState) -> Self {
        if state == TagState::Current {
            return Self::Found(entry);
        }
        let id = entry.id();
        let why = if state == TagState::Banned { Rejection::Pattern } else { Rejection::Tag };
        entry.in_state(state).map_or(Self::Rejected(why, Seen::Entry(id)), Self::Found)
    }
}

/// What a look-up saw before its caller decided to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Nothing,
    Entry(EntryId),
    /// Something that can't be used, even if it has changed since.
    Unusable,
}

/// Identifies the holder of a lease: 16 hex digits, so that people can read it in the store.
pub(crate) type LeaseToken = [u8; 16];

/// The right to fill a key, and the moment, by the store's clock, at which it was granted.
#[derive(Clone, Debug)]
pub struct Lease {
    pub(crate) key: Key,
    pub(crate) token: LeaseToken,
    /// 16 hex digits, as in a [`TagToken`](crate::tag::TagToken).
    pub(crate) started: [u8; 16],
    /// The server whose clock that was, if another server's clock could count later.
    #[cfg(feature = "redis")]
    pub(crate) granted_by: Option<Arc<str>>,
    /// How often that clock had been set back by then.
    #[cfg(feature = "redis")]
    pub(crate) set_back: u64,
    /// The bans that were known, for entries that have to record them; `None` if no ban was known.
    #[cfg(feature = "redis")]
    pub(crate) bans: Option<Box<BansKnown>>,
    /// The number of recent loads of this key that failed, one after the other.
    pub(crate) failures: u32,
}

impl Lease {
    pub(crate) fn new(key: &Key, token: LeaseToken, started: [u8; 16]) -> Self {
        Self {
            key: key.clone(),
            token,
            started,
            #[cfg(feature = "redis")]
            granted_by: None,
            #[cfg(feature = "redis")]
            set_back: 0,
            #[cfg(feature = "redis")]
            bans: None,
            failures: 0,
        }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn under(self, server: Option<Arc<str>>, set_back: u64) -> Self {
        Self { granted_by: server, set_back, ..self }
    }

    /// The same lease, for a load that knows of these bans before it begins. To be called before the lease is asked for, since
    /// they are part of its value.
    #[cfg(feature = "redis")]
    pub(crate) fn knowing(self, bans: Option<BansKnown>) -> Self {
        Self { bans: bans.filter(|bans| bans.newest() > 0).map(Box::new), ..self }
    }

    /// The value of the lease on a server: its token and, if the load knows of any bans, 16 hex digits of the youngest, and the
    /// line of the token under which that was listed. By these the lurker spares a lease whose load knows of the bans.
    #[cfg(feature = "redis")]
    pub(crate) fn value(&self) -> Vec<u8> {
        match &self.bans {
            None => self.token.to_vec(),
            Some(known) => [&self.token[..], &hex::of_u64(known.newest()), known.line()].concat(),
        }
    }

    /// The same lease, granted at this moment of the store's clock.
    #[cfg(feature = "redis")]
    pub(crate) fn started(self, started: [u8; 16]) -> Self {
        Self { started, ..self }
    }

    pub(crate) fn after(self, failures: u32) -> Self {
        Self { failures, ..self }
    }

    /// A token that no other lease has.
    pub(crate) fn random_token() -> LeaseToken {
        hex::of_u64(fastrand::u64(..))
    }
}

/// How an attempt to take a lease ended.
#[derive(Debug)]
pub enum Acquired {
    Granted(Lease),
    /// Another request or process is loading.
    Held,
    /// The key was filled since it was looked up.
    Changed,
    /// The response of a recent load of this key could not be stored: requests must not wait for each other.
    Uncacheable,
    /// A recent load of this key failed, with this status if it was a response: leave the application alone for this time.
    BackOff {
        remaining: Duration,
        status: Option<u16>,
    },
}

/// The state of a key's lease, from [`Cache::inspect_lease`](crate::Cache::inspect_lease).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseState {
    /// There is no lease: a load may begin.
    Free,
    /// A load holds the lease.
    Held(LeaseHolder),
    /// The response of a recent load could not be stored: requests don't wait for each other.
    Uncacheable,
    /// The store has no room, and evicts nothing: no load is granted the right to store its result.
    NoRoom,
    /// Recent loads failed.
    Failed {
        /// For how much longer the application is left alone; zero once that is over.
        remaining: Duration,
        /// The status of the last failure; `None` if there was no response.
        status: Option<u16>,
        /// How many loads failed, one after the other.
        failures: u32,
    },
}

/// What is known of the load that holds a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseHolder {
    /// Distinguishes the process of the load from the others with the same Redis: there, it is `RedisState::process`. `None` in
    /// a store in memory, and if another program has written the lease.
    pub process: Option<u32>,
    /// Whether that is this process.
    pub is_here: bool,
    /// How long ago the lease was taken, to the second, by the server's clock; from 18 hours on, it begins at zero again. `None`
    /// in a store in memory, and if another program has written the lease.
    pub age: Option<Duration>,
    /// How soon the lease ends if it is not extended, which its holder does for as long as it loads. `None` in a store in memory,
    /// and if the server did not tell.
    pub remaining: Option<Duration>,
}

impl LeaseHolder {
    /// A load of this process, in a store that no other process has.
    #[cfg(feature = "memory")]
    pub(crate) const HERE: Self = Self { process: None, is_here: true, age: None, remaining: None };
}

/// The [deleted patterns](crate::Cache::delete_pattern) that readers obey until their entries are swept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedPatterns {
    /// The oldest first.
    pub patterns: Vec<ListedPattern>,
    /// The process that sweeps at this moment; its `age` is that of the sweep.
    pub sweeper: Option<LeaseHolder>,
}

/// A deleted pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedPattern {
    /// The pattern, of readable keys.
    pub pattern: String,
    /// When it was deleted, in milliseconds since the Unix epoch, by the store's clock.
    pub since: u64,
    /// The window over which matching entries become stale, for a soft deletion; `None` if they are void.
    pub soft_over: Option<Duration>,
}

impl ListedPattern {
    #[cfg(any(feature = "memory", feature = "redis"))]
    pub(crate) fn of(ban: &Ban) -> Self {
        let (pattern, since) = (ban.pattern.to_string(), ban.at / 1000);
        Self { pattern, since, soft_over: ban.soft_over.map(Duration::from_millis) }
    }
}

/// How many keys an invalidation would reach, by [`Cache::estimate_tag`](crate::Cache::estimate_tag) and its like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Estimate {
    /// Keys that have an entry, void ones included.
    pub keys: u64,
    /// The error of `keys`, to either side, at 95 % confidence; 0 if every key was examined.
    pub error: u64,
    /// How long the loads of these keys took together, as far as is known: the cost of loading them again. Of more than a
    /// thousand keys, a thousand stand for the others.
    pub load_time: Duration,
}

impl Estimate {
    /// The sum of two estimates that have no key in common.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            keys: self.keys.saturating_add(other.keys),
            // The two errors are independent.
            error: self.error.saturating_pow(2).saturating_add(other.error.saturating_pow(2)).isqrt(),
            load_time: self.load_time.saturating_add(other.load_time),
        }
    }
}

/// What an invalidation would cover.
#[derive(Clone, Copy, Debug)]
pub enum Reach<'a> {
    Tag(&'a str),
    Pattern(&'a Pattern),
    Everything,
}

/// A load that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The status of the response, if there was one.
    pub(crate) status: Option<u16>,
    /// For how long to leave the application alone.
    pub(crate) pause: Duration,
    /// For how much longer the next failure counts as one that follows this one.
    pub(crate) remembered: Duration,
}

/// The result of a load, ready to be written under its lease.
#[derive(Debug)]
pub struct Fill {
    pub(crate) lease: Lease,
    pub(crate) writes: Writes,
    pub(crate) tags: Tags,
}

/// Entries to write, all of one primary key.
#[derive(Debug)]
pub struct Writes {
    /// Most loads write one.
    pub(crate) entries: SmallVec<[(Key, Entry); 1]>,
    /// Write only if this key still holds this version of its entry, and no soft invalidation has covered it.
    pub(crate) guard: Option<Box<(Key, Version)>>,
}

impl Writes {
    /// The size of the payload of each entry, in bytes.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().map(|(_, entry)| entry.payload().len() as u64)
    }

    /// The size of all payloads, in all codings in which they are written.
    pub(crate) fn total(&self) -> u64 {
        let codings = self.entries.iter().flat_map(|(_, entry)| entry.made_codings()).map(|(_, bytes)| bytes);
        self.sizes().chain(codings).sum()
    }
}

/// What became of an [addition](StoreBackend::amend) to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amended {
    Kept,
    /// The entry is not there any more, or another one is in its place.
    Gone,
    /// The entry has become too large: it stays as it was.
    NoRoom,
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    Stored,
    /// An invalidation, or a later load, came first.
    Refused,
}

/// What an invalidation covers.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// One key with all its variants.
    Key(&'a Key),
    Tags(&'a Tags),
    /// Entries under readable keys that match.
    Pattern(&'a Pattern),
    Everything,
}

impl From<Scope<'_>> for InvalidationKind {
    fn from(scope: Scope<'_>) -> Self {
        match scope {
            Scope::Key(_) => Self::Key,
            Scope::Tags(_) => Self::Tag,
            Scope::Pattern(_) => Self::Pattern,
            Scope::Everything => Self::All,
        }
    }
}

/// A [`Scope`] that outlives its caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum OwnedScope {
    Key(Key),
    Tags(Tags),
    Pattern(Pattern),
    Everything,
}

impl Scope<'_> {
    pub(crate) fn to_owned(self) -> OwnedScope {
        match self {
            Self::Key(key) => OwnedScope::Key(key.clone()),
            Self::Tags(tags) => OwnedScope::Tags(tags.clone()),
            Self::Pattern(pattern) => OwnedScope::Pattern(pattern.clone()),
            Self::Everything => OwnedScope::Everything,
        }
    }
}

impl OwnedScope {
    pub(crate) fn borrow(&self) -> Scope<'_> {
        match self {
            Self::Key(key) => Scope::Key(key),
            Self::Tags(tags) => Scope::Tags(tags),
            Self::Pattern(pattern) => Scope::Pattern(pattern),
            Self::Everything => Scope::Everything,
        }
    }
}

/// The result of [`Cache::reserve_request`](crate::Cache::reserve_request), and of
/// [`Cache::record_request`](crate::Cache::record_request).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reserved {
    /// This process carries the request out, or has done so.
    Now,
    /// The request has this record: another process carries it out, or it has been answered.
    Before(Bytes),
    /// The store is in this process, so that no other process can have received the request.
    Unshared,
}

/// Why a store could not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// There is no connection.
    Unavailable,
    /// No reply in time.
    TimedOut,
    /// The server has no room, and evicts nothing to make some.
    Full,
    /// The server answered with an error.
    Failed(String),
    /// The entries are sealed: nobody is to tell the fleet, over a server that is not trusted, to use what is stale.
    Sealed,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable => f.write_str("the store is not connected"),
            Self::TimedOut => f.write_str("the store did not answer in time"),
            Self::Full => f.write_str("the store has no room left"),
            Self::Failed(reason) => write!(f, "the store answered: {reason}"),
            Self::Sealed => f.write_str("the store is sealed, and what is stale is not used on the word of its server"),
        }
    }
}

impl std::error::Error for StoreError {}

#[cfg(all(test, feature = "encode-gzip"))]
mod tests {
    use super::*;
    use crate::{
        coding::Coding,
        entry::{Deadlines, Form},
    };

    #[test]
    fn what_is_written_counts_in_all_its_codings() {
        let key = Key::new(["k"]);
        let entry = |payload: &'static [u8]| {
            Entry::new(EntryId([0; 16]), &key, Deadlines::fresh_until(0), Bytes::new(), Bytes::from_static(payload))
        };
        let coded = entry(b"payload").with_form(Coding::Gzip, Form::Made(Bytes::from_static(b"coded")));
        let entries = vec![(key.clone(), entry(b"parent")), (key.clone(), coded)];
        let writes = Writes { entries: entries.into(), guard: None };
        assert_eq!(writes.sizes().collect::<Vec<_>>(), [6, 7]);
        assert_eq!(writes.total(), 6 + 7 + 5);
    }
}
