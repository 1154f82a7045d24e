//! Events: what a cache reports to an [`Observer`], one event for each occurrence, with closed sets of names for labels.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use crate::{
    coding::Coding,
    semantics::storable::NoCacheReason,
    space_saving::{Counted, SpaceSaving},
};
use crate::{
    key::Key,
    labels::labels,
    tag::{TagStamp, Tags},
};

labels! {
    /// Why bytes that a store returned are not used as the entry that was looked up. Each is a miss, never an error.
    pub enum Rejection {
        /// Not written by this library.
        Foreign => "foreign",
        /// Written in another version of the envelope, as happens while versions change in a fleet.
        Version => "version",
        /// Fewer bytes than the envelope announces.
        Truncated => "truncated",
        /// The checksum doesn't match.
        Checksum => "checksum",
        /// The envelope is another key's.
        Key => "key",
        /// The envelope is whole but can't be read.
        Malformed => "malformed",
        /// The seal does not verify: the entry was sealed with a key that this process does not have, or was changed, or was put
        /// under another name. Or the entry is not sealed, in a store whose entries are.
        Seal => "seal",
        /// The value was written by a codec that this cache does not have.
        Codec => "codec",
        /// The value is of another schema than this cache's.
        Schema => "schema",
        /// The key holds another type of value.
        Type => "type",
        /// A tag of the entry was invalidated, or its token is gone.
        Tag => "tag",
        /// A pattern that matches its key was deleted.
        Pattern => "pattern",
        /// The entry was made more than a second in the future, by the cache's clock: over Redis, the server's was set back; for
        /// a memory store and for sealed entries, the machine's was, or it differs from another machine's. The entry's age is
        /// unknown, so it counts as stale; its validators are used.
        Future => "future",
    }
}

labels! {
    /// How a fill ended.
    pub enum FillOutcome {
        /// The entry is in the store.
        Stored => "stored",
        /// An invalidation came in between, or the lease ran out: the entry was dropped.
        Fenced => "fenced",
        /// The store could not be reached.
        Unavailable => "unavailable",
        /// The store is full, and evicts nothing.
        Full => "full",
        /// The store could not keep up: too much was on its way to it, or waited for too long.
        Shed => "shed",
        /// It was loaded for the first time, and is only stored from the second on.
        FirstSight => "first-sight",
    }
}

labels! {
    /// How the followers of a load were released (the states of the cache lock in pingora). Every load ends in one of the first
    /// four.
    pub enum Release {
        /// The load and its fill ended: the followers look the entry up. [`FillOutcome`] says how the fill ended.
        Done => "done",
        /// The load failed: the followers get a stale response, share the failure, or load for themselves.
        TransientError => "transient-error",
        /// The result can't be shared: each follower loads for itself.
        GiveUp => "give-up",
        /// The load was lost, by a panic or with its runtime, or ended because no request waited for it: one of the
        /// followers loads.
        Dangling => "dangling",
        /// A follower waited for the lock timeout, and loads for itself.
        WaitTimeout => "wait-timeout",
        /// The load takes so long that it has lost its place: one of the followers loads.
        AgeTimeout => "age-timeout",
    }
}

labels! {
    /// The result of a [warm start](crate::Cache::warm).
    pub enum WarmOutcome {
        /// An entry was found, and is in the first tier.
        Found => "found",
        /// An entry was not found, or could not be read.
        Missing => "missing",
        /// The list of another process could not be read.
        RefusedList => "refused-list",
    }
}

labels! {
    /// The result of a look-up.
    pub enum LookupResult {
        /// A fresh entry was found.
        Hit => "hit",
        /// A stale entry was found and used.
        Stale => "stale",
        /// A fresh entry was found that records an absence, such as `None` or a 404.
        Negative => "negative",
        /// No usable entry was found, and another request's load provided the answer.
        Collapsed => "collapsed",
        /// No usable entry was found.
        Miss => "miss",
        /// The store didn't answer, so the application was asked.
        Error => "error",
    }
}

impl LookupResult {
    /// Whether the answer came from the cache: [`Counts`] counts these results as hits.
    #[must_use]
    pub fn is_hit(self) -> bool {
        !matches!(self, Self::Miss | Self::Error)
    }
}

labels! {
    /// Where the answer to a look-up was found.
    pub enum Tier {
        /// In this process.
        Memory => "memory",
        /// In the store that processes share.
        Store => "store",
        /// It was not found.
        None => "none",
    }
}

/// A look-up that has ended. If its request was given up before there was an answer, it is a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LookupEvent {
    /// The result.
    pub result: LookupResult,
    /// Where the answer was found.
    pub tier: Tier,
    /// The time from the start of the look-up to the answer, including a load that the request waited for.
    pub duration: Duration,
    /// The age of the response that was found, in whole seconds; values have no age.
    pub age: Option<Duration>,
    /// The duration of the load that a hit saved; zero if none was saved.
    pub saved: Duration,
}

impl LookupEvent {
    /// A look-up that took no time: for tests of an observer.
    #[must_use]
    pub fn new(result: LookupResult, tier: Tier) -> Self {
        Self { result, tier, duration: Duration::ZERO, age: None, saved: Duration::ZERO }
    }
}

/// The former name of [`LookupEvent`].
#[deprecated(note = "renamed to `LookupEvent`")]
pub type Lookup = LookupEvent;

labels! {
    /// How a load ended.
    pub enum LoadOutcome {
        /// With a new response or value.
        Loaded => "ok",
        /// With a confirmation that the stored response still holds.
        NotModified => "not-modified",
        /// With an error.
        Failed => "error",
        /// By a panic, or with its runtime.
        Lost => "lost",
        /// It was cancelled, because no request waited for it any more.
        Abandoned => "abandoned",
    }
}

impl LoadOutcome {
    /// The outcome of a load that is known not to be lost.
    pub(crate) fn unless_lost(self) -> Self {
        if self == Self::Lost { Self::Loaded } else { self }
    }
}

labels! {
    /// Whose load a request waited for.
    pub enum WaitScope {
        /// Another request's of this process.
        Process => "process",
        /// Another process's.
        Fleet => "fleet",
    }
}

labels! {
    /// What an invalidation covers.
    pub enum InvalidationKind {
        /// A key with its variants.
        Key => "key",
        /// What carries a tag, or one of several.
        Tag => "tag",
        /// Keys that match a pattern.
        Pattern => "pattern",
        /// Everything.
        All => "all",
    }
}

labels! {
    /// Why a sweep removed entries.
    pub enum SweepCause {
        /// Their keys match a deleted pattern.
        Pattern => "pattern",
        /// One of their tags was invalidated, or all entries were.
        Tag => "tag",
    }
}

labels! {
    /// How a response or value that was loaded for verification differs from the stored, fresh one.
    pub enum Difference {
        /// The status differs.
        Status => "status",
        /// The body or the value differs.
        Body => "body",
        /// One of the compared fields differs.
        Fields => "fields",
    }
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A request was answered from the cache.
    Hit,
    /// A request was looked up, and not answered from the cache.
    Miss,
    /// A request was not looked up, for this reason.
    Bypass(NoCacheReason),
    /// The details of a look-up that ended, which is also a [`Hit`](Self::Hit) or a [`Miss`](Self::Miss): how, where, and how
    /// long it took.
    Lookup(LookupEvent),
    /// A request waits for another request's load.
    Coalesced,
    /// A wait ended: of a request for another request's load, or of a load for another process's load.
    Waited {
        /// Whose load it was.
        scope: WaitScope,
        /// How the wait ended. How another process's load ended isn't known here.
        release: Release,
        /// How long the wait took.
        duration: Duration,
    },
    /// A load ended that other requests could have waited for, or a load in the background.
    Loaded {
        /// How it ended.
        outcome: LoadOutcome,
        /// The time from the permission to load until the result was complete.
        duration: Duration,
    },
    /// A request or a call did not go to the application, because of the back-off after failures of its key: it was answered with
    /// what is stale, with the failure, or with a fallback.
    BackedOff,
    /// A follower is answered while the body of the load is still arriving.
    Joined,
    /// A fresh response or value is being refreshed in the background, because it will soon be stale.
    EarlyRefresh,
    /// A background refresh was skipped, because no place at the application was free.
    RefreshSkipped,
    /// A background refresh got no response: the service, or the load of a value, returned an error, panicked, or did not answer
    /// for as long as a load may take. The next request for the same key loads in the foreground, and gets the stale response if
    /// that load fails or takes too long. If all refreshes fail, the framework may not let a layer call the inner service after
    /// its request is answered. A response that is an error, such as a 503, is not meant: it is [`Loaded`](Self::Loaded) with an
    /// outcome of its own, and the next refresh is in the background again.
    RefreshFailed,
    /// A request was refused, because no place at the application became free while it waited.
    Overloaded,
    /// A response was not stored, for this reason.
    NotStored(NoCacheReason),
    /// A fill ended.
    Fill(FillOutcome),
    /// An entry was stored.
    Kept {
        /// The size of its body, or of its value as written, before compression.
        bytes: u64,
    },
    /// A stored response was encoded, once for all requests that will get it in this coding.
    Encoded {
        /// The coding.
        coding: Coding,
        /// The size before encoding, in bytes.
        content: u64,
        /// The size after encoding, in bytes; `None` if the coded form is not kept, because it is not shorter by a tenth.
        coded: Option<u64>,
        /// How long the encoding took.
        duration: Duration,
    },
    /// The followers of a load, if there are any, were released.
    Release(Release),
    /// Stored bytes were rejected.
    Rejected(Rejection),
    /// A hit was loaded again in the background, to compare ([`CacheLayer::verify`](crate::CacheLayer::verify)).
    Verified {
        /// Whether the entry equals the loaded response or value.
        same: bool,
        /// The age of the entry, in whole seconds: since the response was received, or the value was made.
        age: Duration,
    },
    /// An entry that differed was loaded once more.
    VerifiedAgain {
        /// Whether both loads returned the same: then the entry is outdated, though it counts as fresh. Otherwise each load
        /// returns something else.
        stable: bool,
    },
    /// An invalidation reached the store (`delivered`), or is kept to be retried.
    Invalidation {
        /// What it covers.
        kind: InvalidationKind,
        /// Whether it makes entries stale, rather than unusable.
        soft: bool,
        /// Whether the store has received it.
        delivered: bool,
        /// Whether it has become more than was asked for: a hard one instead of a soft one, or one of everything instead of a pattern,
        /// as `kind` and `soft` say. For instance because a slot of a Redis Cluster was being moved, or because Redis is full.
        hardened: bool,
    },
    /// The store's lurker, in this process, has swept entries that were void already: this gives their room back, and no answer
    /// depends on it. Over Redis, one process of a fleet sweeps at a time. Each cache over the store reports it.
    Swept {
        /// Why the entries were void.
        cause: SweepCause,
        /// The number of patterns that were swept and taken off the list of bans; 0 for another cause.
        patterns: u64,
        /// The number of entries that were looked at.
        examined: u64,
        /// The number of entries that were removed or, for a soft pattern, marked as stale.
        removed: u64,
        /// How long the sweep took, most of which is pauses.
        duration: Duration,
    },
    /// A [warm start](crate::Cache::warm) ended; one event for each outcome that occurred.
    Warmed {
        /// The outcome.
        outcome: WarmOutcome,
        /// The number of entries, or of lists.
        count: u64,
    },
    /// The store did not answer in time.
    StoreUnavailable,
}

/// Receives every [`Event`], on the path of requests: an observer must be quick and must not block.
///
/// Closures are observers:
///
/// ```
/// use cache_layer::{Cache, store::MemoryStore, telemetry::Event};
///
/// let cache = Cache::builder(MemoryStore::new(1 << 20))
///     .observer(|event: Event| println!("{event:?}"))
///     .build();
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Is called for each event. Look-ups go to [`observe_lookup`](Self::observe_lookup), whose default calls this.
    fn observe(&self, event: Event);

    /// Is called for each look-up, an [`Event::Lookup`], with the application's route that matched the request, such as
    /// `/products/{id}`, for the label of a metric. `route` is the route that axum's router has matched, with the feature
    /// `axum` and the layer inside of the router; otherwise it is `None`. There are only as many values as the application has
    /// routes, whatever clients request.
    ///
    /// The default implementation calls [`observe`](Self::observe), without the route.
    ///
    /// ```
    /// use std::{collections::HashMap, sync::Mutex};
    /// use cache_layer::telemetry::{Event, LookupEvent, LookupResult, Observer};
    ///
    /// #[derive(Default)]
    /// struct Hits(Mutex<HashMap<(String, LookupResult), u64>>);
    ///
    /// impl Observer for Hits {
    ///     fn observe(&self, _: Event) {}
    ///
    ///     fn observe_lookup(&self, lookup: LookupEvent, route: Option<&str>) {
    ///         let labels = (route.unwrap_or("none").to_owned(), lookup.result);
    ///         *self.0.lock().unwrap().entry(labels).or_default() += 1;
    ///     }
    /// }
    /// ```
    fn observe_lookup(&self, lookup: LookupEvent, route: Option<&str>) {
        let _ = route;
        self.observe(Event::Lookup(lookup));
    }

    /// Whether the observer wants [`observe_named`](Self::observe_named) to be called, with keys and tags; asked once, when the
    /// cache is built. `false` by default: names cost each look-up the copy of a handle, and are not suitable as labels of a
    /// metric.
    fn wants_names(&self) -> bool {
        false
    }

    /// Is called with the key or the tags of an event, after [`observe`](Self::observe) was called with the event itself.
    fn observe_named(&self, named: &Named<'_>) {
        let _ = named;
    }
}

/// An event with the key or the tags that it is about.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use cache_layer::{Cache, store::MemoryStore, telemetry::{Event, Named, Observer}};
///
/// #[derive(Clone, Default)]
/// struct Lookups(Arc<Mutex<Vec<String>>>);
///
/// impl Observer for Lookups {
///     fn observe(&self, _: Event) {}
///
///     fn wants_names(&self) -> bool {
///         true
///     }
///
///     fn observe_named(&self, named: &Named<'_>) {
///         if let Named::Lookup { key, event, .. } = named {
///             self.0.lock().unwrap().push(format!("{key}: {}", event.result));
///         }
///     }
/// }
///
/// let cache = Cache::builder(MemoryStore::new(1 << 20)).observer(Lookups::default()).build();
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Named<'a> {
    /// [`Event::Lookup`].
    #[non_exhaustive]
    Lookup {
        /// What was looked up.
        key: &'a Key,
        /// How it ended.
        event: LookupEvent,
        /// Why it was no hit, if one of the reasons applies.
        reason: Option<NoCacheReason>,
        /// The application's route that matched the request, as for [`Observer::observe_lookup`].
        route: Option<&'a str>,
        /// The [rule](crate::Rule) that applied to the request, such as `GET shop.example/shops/{id}`, if one did.
        rule: Option<&'a str>,
        /// The tags of the entry that answered.
        tags: EntryTags<'a>,
    },
    /// [`Event::Bypass`].
    #[non_exhaustive]
    Bypass {
        /// The key of the request's target alone; `None` if the request does not clearly state its host.
        key: Option<&'a Key>,
        /// Why it was not looked up.
        reason: NoCacheReason,
    },
    /// [`Event::Verified`].
    #[non_exhaustive]
    Verified {
        /// The key of the entry.
        key: &'a Key,
        /// The age of the entry.
        age: Duration,
        /// How the entry differs, if it does.
        differs: Option<Difference>,
    },
    /// [`Event::VerifiedAgain`].
    #[non_exhaustive]
    VerifiedAgain {
        /// The key of the entry.
        key: &'a Key,
        /// Whether two loads returned the same, and the entry differs from it.
        stable: bool,
    },
    /// [`Event::Swept`], for patterns.
    #[non_exhaustive]
    Swept {
        /// The patterns.
        patterns: &'a [String],
        /// The number of entries that were looked at.
        examined: u64,
        /// The number of entries that were removed, or marked as stale.
        removed: u64,
        /// How long the sweep took.
        duration: Duration,
    },
    /// [`Event::Invalidation`].
    #[non_exhaustive]
    Invalidation {
        /// What it was to cover.
        covers: Covers<'a>,
        /// Whether it makes entries stale, rather than unusable.
        soft: bool,
        /// The window over which entries become stale; zero, if at once.
        over: Duration,
        /// Whether the store has received it; otherwise it is kept to be retried.
        delivered: bool,
        /// Whether it has become more than was asked for: of a pattern, or of keys or tags that were to be stale, nothing is used
        /// again; and instead of a pattern, it may cover everything, as the `kind` of the event says.
        hardened: bool,
    },
}

/// The tags of an entry, read only if they are asked for.
///
/// ```
/// use cache_layer::telemetry::{Named, Observer, Event};
///
/// struct Tagged;
///
/// impl Observer for Tagged {
///     fn observe(&self, _: Event) {}
///
///     fn observe_named(&self, named: &Named<'_>) {
///         if let Named::Lookup { key, tags, rule, .. } = named {
///             println!("{key}, by {rule:?}: {}", tags.iter().collect::<Vec<_>>().join(", "));
///         }
///     }
/// }
/// ```
#[derive(Clone, Copy)]
pub struct EntryTags<'a>(pub(crate) &'a [TagStamp]);

impl<'a> EntryTags<'a> {
    /// The tags, in their order; none if no entry answered.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.0.iter().map(|stamp| &*stamp.tag)
    }
}

impl fmt::Debug for EntryTags<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// What an invalidation covers, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Covers<'a> {
    /// A key with its variants.
    Key(&'a Key),
    /// What carries one of these.
    Tags(&'a Tags),
    /// Keys that match.
    Pattern(&'a str),
    /// Everything.
    All,
}

/// A pair of observers is an observer: both receive each event.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn observe(&self, event: Event) {
        self.0.observe(event);
        self.1.observe(event);
    }

    fn observe_lookup(&self, lookup: LookupEvent, route: Option<&str>) {
        self.0.observe_lookup(lookup, route);
        self.1.observe_lookup(lookup, route);
    }

    fn wants_names(&self) -> bool {
        self.0.wants_names() || self.1.wants_names()
    }

    fn observe_named(&self, named: &Named<'_>) {
        self.0.observe_named(named);
        self.1.observe_named(named);
    }
}

impl<F: Fn(Event) + Send + Sync + 'static> Observer for F {
    fn observe(&self, event: Event) {
        self(event);
    }
}

/// Counts of what happened since the cache was built.
///
/// `lookups = hits + misses` and `requests = lookups + bypasses` hold at all times, once requests in flight are done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Requests answered from the cache.
    pub hits: u64,
    /// Requests that were looked up, and not answered from the cache.
    pub misses: u64,
    /// Requests that were not looked up.
    pub bypasses: u64,
    /// Requests that waited for another request's load.
    pub coalesced: u64,
    /// Requests that did not go to the application, because of a back-off.
    pub backed_off: u64,
    /// Requests that were answered with another request's load while its body arrived.
    pub joined: u64,
    /// Refreshes of responses that were still fresh.
    pub early_refreshes: u64,
    /// Background refreshes that were skipped, because no place at the application was free.
    pub skipped_refreshes: u64,
    /// Background refreshes that got no response.
    pub failed_refreshes: u64,
    /// Requests that were refused, because no place at the application became free.
    pub overloaded: u64,
    /// Hits that were loaded again in the background, to compare.
    pub verified: u64,
    /// Verified hits that differed.
    pub differing: u64,
    /// Differing hits that were loaded once more, with the same result: their entries were outdated.
    pub stale_for_certain: u64,
    /// Differing hits that were loaded once more, with yet another result.
    pub unstable: u64,
    /// Responses that were not stored.
    pub not_stored: u64,
    /// Fills that reached the store.
    pub stored: u64,
    /// Fills that were dropped because of an invalidation.
    pub fenced: u64,
    /// Fills that were dropped, because the store could not keep up.
    pub shed: u64,
    /// Fills that were not stored, because it was the first load of their key.
    pub first_sights: u64,
    /// Fills and look-ups that the store did not answer in time.
    pub unavailable: u64,
    /// Invalidations that reached the store.
    pub invalidations: u64,
    /// Invalidations that were kept to be retried.
    pub undelivered_invalidations: u64,
    /// Stored bytes that were rejected, by reason; reasons that never occurred are left out.
    pub rejected: Vec<(Rejection, u64)>,
    /// How followers of loads were released; ways that never occurred are left out.
    pub releases: Vec<(Release, u64)>,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    bypasses: AtomicU64,
    coalesced: AtomicU64,
    backed_off: AtomicU64,
    joined: AtomicU64,
    early_refreshes: AtomicU64,
    skipped_refreshes: AtomicU64,
    failed_refreshes: AtomicU64,
    overloaded: AtomicU64,
    verified: AtomicU64,
    differing: AtomicU64,
    stale_for_certain: AtomicU64,
    unstable: AtomicU64,
    not_stored: AtomicU64,
    stored: AtomicU64,
    fenced: AtomicU64,
    shed: AtomicU64,
    first_sights: AtomicU64,
    unavailable: AtomicU64,
    invalidations: AtomicU64,
    undelivered: AtomicU64,
    rejected: [AtomicU64; Rejection::ALL.len()],
    releases: [AtomicU64; Release::ALL.len()],
}

/// The cache's own counters and, if there is one, the user's observer.
#[derive(Clone, Default)]
pub(crate) struct Telemetry {
    counters: Arc<Counters>,
    observer: Option<Arc<dyn Observer>>,
    wants_names: bool,
}

impl Telemetry {
    pub(crate) fn with_observer(observer: Option<Arc<dyn Observer>>) -> Self {
        let wants_names = observer.as_ref().is_some_and(|observer| observer.wants_names());
        Self { counters: Arc::default(), observer, wants_names }
    }

    /// Whether the observer wants to know the keys and tags of events.
    pub(crate) fn wants_names(&self) -> bool {
        self.wants_names
    }

    /// Reports an event's key or tags to the observer, if it wants them.
    pub(crate) fn name(&self, named: &Named<'_>) {
        if let Some(observer) = self.observer.as_ref().filter(|_| self.wants_names) {
            observer.observe_named(named);
        }
    }

    /// Whether there is an observer, beside the counters here.
    pub(crate) fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    pub(crate) fn emit(&self, event: Event) {
        let counters = &*self.counters;
        let counter = match event {
            Event::Lookup(_)
            | Event::Waited { .. }
            | Event::Loaded { .. }
            | Event::Kept { .. }
            | Event::Warmed { .. }
            | Event::Swept { .. }
            | Event::Encoded { .. } => return self.observe(event),
            Event::Hit => &counters.hits,
            Event::Miss => &counters.misses,
            Event::Bypass(_) => &counters.bypasses,
            Event::Coalesced => &counters.coalesced,
            Event::BackedOff => &counters.backed_off,
            Event::Joined => &counters.joined,
            Event::EarlyRefresh => &counters.early_refreshes,
            Event::RefreshSkipped => &counters.skipped_refreshes,
            Event::RefreshFailed => &counters.failed_refreshes,
            Event::Overloaded => &counters.overloaded,
            Event::Verified { same, .. } => {
                if !same {
                    counters.differing.fetch_add(1, Ordering::Relaxed);
                }
                &counters.verified
            }
            Event::VerifiedAgain { stable: true } => &counters.stale_for_certain,
            Event::VerifiedAgain { stable: false } => &counters.unstable,
            Event::NotStored(_) => &counters.not_stored,
            Event::Fill(FillOutcome::Stored) => &counters.stored,
            Event::Fill(FillOutcome::Fenced) => &counters.fenced,
            Event::Fill(FillOutcome::Shed) => &counters.shed,
            Event::Fill(FillOutcome::FirstSight) => &counters.first_sights,
            Event::Fill(FillOutcome::Unavailable | FillOutcome::Full) | Event::StoreUnavailable => {
                &counters.unavailable
            }
            Event::Invalidation { delivered: true, .. } => &counters.invalidations,
            Event::Invalidation { delivered: false, .. } => &counters.undelivered,
            Event::Rejected(rejection) => &counters.rejected[rejection as usize],
            Event::Release(release) => &counters.releases[release as usize],
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.observe(event);
    }

    fn observe(&self, event: Event) {
        if let Some(observer) = &self.observer {
            observer.observe(event);
        }
    }

    /// Reports a look-up of a request for `route`.
    pub(crate) fn emit_lookup(&self, lookup: LookupEvent, route: Option<&str>) {
        if let Some(observer) = &self.observer {
            observer.observe_lookup(lookup, route);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &*self.counters;
        Counts {
            hits: of(&counters.hits),
            misses: of(&counters.misses),
            bypasses: of(&counters.bypasses),
            coalesced: of(&counters.coalesced),
            backed_off: of(&counters.backed_off),
            joined: of(&counters.joined),
            early_refreshes: of(&counters.early_refreshes),
            skipped_refreshes: of(&counters.skipped_refreshes),
            failed_refreshes: of(&counters.failed_refreshes),
            overloaded: of(&counters.overloaded),
            verified: of(&counters.verified),
            differing: of(&counters.differing),
            stale_for_certain: of(&counters.stale_for_certain),
            unstable: of(&counters.unstable),
            not_stored: of(&counters.not_stored),
            stored: of(&counters.stored),
            fenced: of(&counters.fenced),
            shed: of(&counters.shed),
            first_sights: of(&counters.first_sights),
            unavailable: of(&counters.unavailable),
            invalidations: of(&counters.invalidations),
            undelivered_invalidations: of(&counters.undelivered),
            rejected: Rejection::ALL
                .iter()
                .copied()
                .zip(counters.rejected.iter().map(of))
                .filter(|(_, count)| *count > 0)
                .collect(),
            releases: Release::ALL
                .iter()
                .copied()
                .zip(counters.releases.iter().map(of))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().fmt(f)
    }
}
