//! What every store promises, and the words it is said in.

use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::runtime::Handle;

#[cfg(feature = "redis")]
use crate::tag::BansKnown;
use crate::{
    clock::{Clock, millis},
    entry::{Entry, EntryId, Version},
    hex,
    key::Key,
    pattern::Pattern,
    ramp::LONGEST,
    switches::{Switch, Switches},
    tag::{TagState, TagToken, Tags},
    telemetry::{InvalidationKind, Rejection},
};

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A place where entries are kept.
///
/// The contract behind it is this crate's own for now; what implements it is listed [here](super).
pub trait Store: StoreBackend {}

/// The contract. Time is the store's own: a lease's start is compared with invalidations by the same clock.
pub trait StoreBackend: fmt::Debug + Send + Sync + 'static {
    /// The valid entry of `key`, if this process has it in memory: an answer without waiting. Its time may be up, as its
    /// deadlines say. `None` says nothing about other places.
    fn peek(&self, key: &Key) -> Option<Entry>;

    /// As [`get`](Self::get), without waiting; `None` if only that can tell. The time of what is found may be up.
    fn get_at_once(&self, key: &Key) -> Option<Lookup> {
        self.peek(key).map(Lookup::Found)
    }

    /// Whether what this process adds to an entry is kept, by [`amend`](Self::amend).
    fn keeps_additions(&self) -> bool {
        false
    }

    /// Puts what `amends` makes of it, which is the same with something added, in the place of the entry with this id, in the memory
    /// of this process: `true` if it is there, and there is room. It can only be gone sooner, never come back by this.
    fn amend(&self, _key: &Key, _of: EntryId, _amends: &dyn Fn(&Entry) -> Entry) -> bool {
        false
    }

    /// Whether all there is, is in this process.
    fn is_local(&self) -> bool {
        false
    }

    /// Tells stores of this process apart: clones of one have the same.
    fn identity(&self) -> usize;

    /// The valid entry of `key`. A store may take the lease along, for an [`acquire`](Self::acquire) of this process that most
    /// likely follows; if none does, it is soon free again.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>>;

    /// The operator's switches, which this process follows from now on.
    fn follow_switches(&self) -> Arc<Switches>;

    /// Turns a switch on for so long, or off, for all who follow the switches of this store.
    fn turn<'a>(&'a self, switch: Switch, on_for: Option<Duration>) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Adds a record to the audit that all who share this store have; `false` if it has none.
    fn audit<'a>(&'a self, _record: &'a [u8]) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(ready(Ok(false)))
    }

    /// The last records of the audit, the newest first.
    fn audited<'a>(&'a self, _most: usize) -> BoxFuture<'a, Result<Vec<Bytes>, StoreError>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    /// Leaves a list of hot keys for other processes, for ten minutes; `false` if there are none.
    fn leave_list<'a>(&'a self, _list: &'a [u8]) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(ready(Ok(false)))
    }

    /// The lists that processes have left, the newest first; and how many could not be opened.
    fn lists<'a>(&'a self) -> BoxFuture<'a, Result<(Vec<Bytes>, usize), StoreError>> {
        Box::pin(ready(Ok((Vec::new(), 0))))
    }

    /// Whether this process keeps what it reads.
    fn has_first_tier(&self) -> bool {
        false
    }

    /// The clock that all who share this store have in common, if there is one.
    fn clock(&self) -> Option<Clock> {
        None
    }

    /// Where a task of the store's may run, if it has any.
    fn runtime(&self) -> Option<Handle> {
        None
    }

    /// As [`get`](Self::get), for one who only looks: nothing is taken along.
    fn look<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>> {
        self.get(key)
    }

    /// What [`acquire`](Self::acquire) would meet at `key`: read, and nothing changed or tracked.
    fn lease_state<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<LeaseState, StoreError>>;

    /// The token that `tag` has now.
    fn tag_token<'a>(&'a self, tag: &'a str) -> BoxFuture<'a, Result<Option<TagToken>, StoreError>>;

    /// How many primary keys have an entry that `reach` covers, whatever its tags have come to; `None` if that takes more
    /// than to look at names.
    fn count<'a>(&'a self, reach: Reach<'a>) -> BoxFuture<'a, Result<Option<u64>, StoreError>>;

    /// The same, and what loading them again takes, in about so long: where the time is up before all were looked at, by those that were;
    /// `None` if they say nothing of the others.
    fn estimate<'a>(
        &'a self,
        reach: Reach<'a>,
        within: Duration,
    ) -> BoxFuture<'a, Result<Option<Estimate>, StoreError>>;

    /// Takes the lease on `key` for `ttl`, unless another load has it, the entry is no longer the one that was `seen`, or the
    /// key backs off from a failure that is to be heeded.
    fn acquire<'a>(
        &'a self,
        key: &'a Key,
        seen: Seen,
        ttl: Duration,
        failures: Failures,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>>;

    /// As [`acquire`](Self::acquire), without waiting; `None` if only that can.
    fn acquire_at_once(&self, _key: &Key, _seen: Seen, _failures: Failures) -> Option<Acquired> {
        None
    }

    /// Extends a lease that is still held; `false` if it no longer is.
    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Duration) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Whether the lease of this token is held on `key`. Its holder may be in another process.
    fn is_held_by<'a>(&'a self, key: &'a Key, token: LeaseToken) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Whether this process may have heard of something since the lease was granted that makes its load void: without
    /// waiting, and for any doubt `true`. Once this process has read what another one's invalidation left, it is `true`.
    fn overtaken(&self, lease: &Lease) -> bool;

    /// Writes the entries of `fill` and ends its lease, all or nothing, if nothing overtook it.
    fn commit<'a>(&'a self, fill: &'a Fill) -> BoxFuture<'a, Result<Committed, StoreError>>;

    /// As [`commit`](Self::commit), without waiting; `None` if only that can.
    fn commit_at_once(&self, _fill: &Fill) -> Option<Committed> {
        None
    }

    /// Ends a lease without a fill, without waiting. `uncacheable`: for so long, [`acquire`](Self::acquire) tells
    /// everybody not to wait for one another.
    fn release(&self, lease: &Lease, uncacheable: Option<Duration>);

    /// Ends a lease whose load failed, without waiting. Until its pause is over, [`acquire`](Self::acquire) tells everybody
    /// to leave the application alone; what else ends a lease, or voids it, ends that too.
    fn fail(&self, lease: &Lease, failed: Failed);

    /// Returns when a lease held by somebody else may have ended; the caller looks again.
    fn lease_ended<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, ()>;

    /// Makes what `scope` covers invalid or stale, at once or by a [ramp](crate::ramp), and voids fills of it that are in flight. Once this returned `Ok`, no store
    /// reads it again, or none as fresh; once it returned an error, this store reads it no more, however soft the
    /// invalidation was, and goes on trying.
    fn invalidate<'a>(&'a self, scope: Scope<'a>, hardness: Hardness) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Deletes the entries whose readable key matches, now and one by one, voids fills of them that are in flight, and tells how
    /// many primary keys had one. Otherwise as [`invalidate`](Self::invalidate), which does no more than to say what is void.
    fn delete_matching<'a>(&'a self, pattern: &'a Pattern) -> BoxFuture<'a, Result<u64, StoreError>>;

    /// The valid entries of `keys`, in their order, at the cost of one.
    fn get_many<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Lookup, StoreError>>>;

    /// Writes entries that no load stands behind, whatever is there, and ends the leases on their keys: what was
    /// loaded under them is older. Once this returned `Ok`, nobody reads what was there before; once it returned an
    /// error, the keys are invalidated like by an [`invalidate`](Self::invalidate) that did.
    fn put<'a>(&'a self, entries: Vec<(Key, Entry)>, tags: &'a Tags) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Whether a recent failure to load a key holds up the next load of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failures {
    /// Until the pause after it is over.
    Heed,
    Ignore,
}

/// What becomes of the entries that an invalidation covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardness {
    /// They are not used again.
    Hard,
    /// They are stale at once.
    Soft,
    /// They are stale one after the other, each key in its turn within so long from now on.
    Ramp(Duration),
}

impl Hardness {
    /// Whether it leaves them to be used where what is stale may be.
    pub(crate) fn is_soft(self) -> bool {
        self != Self::Hard
    }

    /// Over how many milliseconds: none, if it is for all at once.
    pub(crate) fn window(self) -> u64 {
        match self {
            Self::Hard | Self::Soft => 0,
            Self::Ramp(window) => millis(window).min(LONGEST),
        }
    }
}

/// What a store found.
#[derive(Debug)]
pub enum Lookup {
    Found(Entry),
    Absent,
    /// Something that can't be used, and what to have [`Seen`].
    Rejected(Rejection, Seen),
}

impl Lookup {
    /// What there is, by what its tags have come to.
    pub(crate) fn judged(entry: Entry, state: TagState) -> Self {
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
    /// Something that can't be used, whatever it is now.
    Unusable,
}

/// By what the holder of a lease is known: 16 hex digits, so that people can read it in the store.
pub(crate) type LeaseToken = [u8; 16];

/// The right to fill a key, and the moment, by the store's clock, that it was given.
#[derive(Clone, Debug)]
pub struct Lease {
    pub(crate) key: Key,
    pub(crate) token: LeaseToken,
    /// 16 hex digits, as in a [`TagToken`](crate::tag::TagToken).
    pub(crate) started: [u8; 16],
    /// Whose clock that was, where it could be another one's later.
    #[cfg(feature = "redis")]
    pub(crate) granted_by: Option<Arc<str>>,
    /// Which bans there were, where entries have to say so; none that is known, if it is nothing.
    #[cfg(feature = "redis")]
    pub(crate) bans: Option<Box<BansKnown>>,
    /// How many loads of this key failed lately, one after the other.
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
            bans: None,
            failures: 0,
        }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn under(self, server: Option<Arc<str>>) -> Self {
        Self { granted_by: server, ..self }
    }

    /// The same, of a load that knows of these bans before it begins.
    #[cfg(feature = "redis")]
    pub(crate) fn knowing(self, bans: Option<BansKnown>) -> Self {
        Self { bans: bans.filter(|bans| bans.newest() > 0).map(Box::new), ..self }
    }

    pub(crate) fn after(self, failures: u32) -> Self {
        Self { failures, ..self }
    }

    /// A token that nobody else holds.
    pub(crate) fn random_token() -> LeaseToken {
        hex::of_u64(fastrand::u64(..))
    }
}

/// How an attempt to take a lease ended.
#[derive(Debug)]
pub enum Acquired {
    Granted(Lease),
    /// Somebody else is loading.
    Held,
    /// Somebody filled the key since it was looked up.
    Changed,
    /// A recent load of this key could not be stored: don't wait for one another.
    Uncacheable,
    /// A recent load of this key failed, with this status if it was a response: leave the application alone for so long.
    BackOff {
        remaining: Duration,
        status: Option<u16>,
    },
}

/// What is at the place of a key's lease, from [`Cache::inspect_lease`](crate::Cache::inspect_lease).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseState {
    /// Nothing: a load may begin.
    Free,
    /// Somebody is loading.
    Held,
    /// What a recent load brought could not be stored: requests don't wait for one another.
    Uncacheable,
    /// The store has no room, and evicts nothing to make some: no load is given the right to store what it brings.
    NoRoom,
    /// Recent loads failed.
    Failed {
        /// For how much longer the application is left alone; zero once that is over.
        remaining: Duration,
        /// The status of the last failure; `None` if there was no response.
        status: Option<u16>,
        /// How many failed, one after the other.
        failures: u32,
    },
}

/// How many keys an invalidation would reach, by [`Cache::estimate_tag`](crate::Cache::estimate_tag) and its like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Estimate {
    /// Keys that have an entry, void ones included.
    pub keys: u64,
    /// By how many that may be wrong, to either side, 95 times in 100; 0 where every key was looked at.
    pub error: u64,
    /// How long their loads took together, as far as is known: what it costs to load them again. Of more than a thousand, a thousand of
    /// them stand for the others.
    pub load_time: Duration,
}

impl Estimate {
    /// Of two that have no key in common.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            keys: self.keys.saturating_add(other.keys),
            // Whether one is too high says nothing of the other.
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
    /// Of the response, if there was one.
    pub(crate) status: Option<u16>,
    /// For how long to leave the application alone.
    pub(crate) pause: Duration,
    /// For how much longer the next failure counts as one that follows this one.
    pub(crate) remembered: Duration,
}

/// What a load brought, ready to be written under its lease.
#[derive(Debug)]
pub struct Fill {
    pub(crate) lease: Lease,
    pub(crate) writes: Writes,
    pub(crate) tags: Tags,
}

/// Entries to write, all of one primary key.
#[derive(Debug)]
pub(crate) struct Writes {
    pub(crate) entries: Vec<(Key, Entry)>,
    /// Only if this key still holds this entry, and no soft invalidation came over it.
    pub(crate) guard: Option<(Key, Version)>,
}

impl Writes {
    /// Bytes of the payload of each entry.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().map(|(_, entry)| entry.payload().len() as u64)
    }
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
    /// What is stored under readable keys that match.
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
#[cfg(any(feature = "redis", feature = "testing"))]
#[derive(Debug)]
pub(crate) enum OwnedScope {
    Key(Key),
    Tags(Tags),
    Pattern(Pattern),
    Everything,
}

#[cfg(any(feature = "redis", feature = "testing"))]
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

#[cfg(any(feature = "redis", feature = "testing"))]
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
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable => f.write_str("the store is not connected"),
            Self::TimedOut => f.write_str("the store did not answer in time"),
            Self::Full => f.write_str("the store has no room left"),
            Self::Failed(reason) => write!(f, "the store answered: {reason}"),
        }
    }
}

impl std::error::Error for StoreError {}
