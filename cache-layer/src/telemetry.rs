//! Events: what a cache tells an [`Observer`], one event for each occurrence, with closed sets of names for labels.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use crate::{coding::Coding, semantics::storable::NoCacheReason};
use crate::{key::Key, labels::labels, tag::Tags};

labels! {
    /// Why bytes that a store returned are not the entry that was asked for. Each is a miss, never an error.
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
        /// Sealed with a key that this process has not, or not as its key sealed it: it was changed, or put under another
        /// name. Or not sealed at all, in a store whose entries are.
        Seal => "seal",
        /// The value was written by a codec that this cache has not.
        Codec => "codec",
        /// The value is of another schema than this cache's.
        Schema => "schema",
        /// The key holds another type of value.
        Type => "type",
        /// A tag of the entry was invalidated, or its token is gone.
        Tag => "tag",
        /// A pattern that its key matches was deleted.
        Pattern => "pattern",
        /// The entry was made later than it is now, by this process's clock: that has been set back, or the clocks of
        /// processes differ by more than a second. It may be of any age, and is stale; its validators are used.
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
        /// The store has no room, and evicts nothing to make some.
        Full => "full",
        /// The store could not keep up: too much was on its way to it, or waited for too long.
        Shed => "shed",
    }
}

labels! {
    /// How the requests that waited for a load of the same key were released (the states of the cache lock in pingora). Every load
    /// ends in one of the first four.
    pub enum Release {
        /// The load ended, and so did its fill: they look the entry up. [`FillOutcome`] says what became of that.
        Done => "done",
        /// The load failed: a stale response stands in, they share the failure, or ask for themselves.
        TransientError => "transient-error",
        /// What was loaded can't be shared: they all ask for themselves.
        GiveUp => "give-up",
        /// The load was lost, by a panic or with its runtime, or ended since no request waited for it: another one of the
        /// waiting requests loads.
        Dangling => "dangling",
        /// One of them waited for as long as the lock timeout, and asks for itself.
        WaitTimeout => "wait-timeout",
        /// The load takes so long that it has lost its place: another one of them loads.
        AgeTimeout => "age-timeout",
    }
}

labels! {
    /// What came of a look-up.
    pub enum LookupResult {
        /// What was there is fresh.
        Hit => "hit",
        /// What was there is stale, and was used all the same.
        Stale => "stale",
        /// What was there is fresh, and says that there is nothing.
        Negative => "negative",
        /// It wasn't there, and another request's load brought it.
        Collapsed => "collapsed",
        /// It wasn't there.
        Miss => "miss",
        /// The store didn't answer, so the application was asked.
        Error => "error",
    }
}

impl LookupResult {
    /// Whether the answer came from the cache: what [`Counts`] has among the hits.
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
        /// Nowhere.
        None => "none",
    }
}

/// A look-up that has ended. One whose request was given up is a miss, unless its answer was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LookupEvent {
    /// What came of it.
    pub result: LookupResult,
    /// Where the answer was found.
    pub tier: Tier,
    /// From the question to the answer, the load included if one was waited for.
    pub duration: Duration,
    /// How old the response is that was found, in whole seconds; values have no age.
    pub age: Option<Duration>,
    /// How long the load took that was spared; zero if none was.
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
        /// With something new.
        Loaded => "ok",
        /// With word that what is stored still holds.
        NotModified => "not-modified",
        /// With an error.
        Failed => "error",
        /// By a panic, or with its runtime.
        Lost => "lost",
        /// Before its end, since no request waited for it any more.
        Abandoned => "abandoned",
    }
}

impl LoadOutcome {
    /// What it is once it is known not to be lost.
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
    /// In what a response or a value that is loaded differs from what is stored, and taken to be fresh.
    pub enum Difference {
        /// It has another status.
        Status => "status",
        /// It has another body, or is another value.
        Body => "body",
        /// One of the fields that are compared is another one.
        Fields => "fields",
    }
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A request was answered from the cache.
    Hit,
    /// A request was not answered from the cache, though it might have been.
    Miss,
    /// A request was not looked up, for this reason.
    Bypass(NoCacheReason),
    /// A look-up ended, which is a [`Hit`](Self::Hit) or a [`Miss`](Self::Miss): how, where, and how long it took.
    Lookup(LookupEvent),
    /// A request waits for another one's load.
    Coalesced,
    /// A request has waited for another one's load, or a load for another process's.
    Waited {
        /// Whose load it was.
        scope: WaitScope,
        /// What ended the wait. How another process's load ended isn't known here.
        release: Release,
        /// How long it took.
        duration: Duration,
    },
    /// A load ended that others could have waited for, or one in the background.
    Loaded {
        /// How.
        outcome: LoadOutcome,
        /// From the permission to load until everything had come in.
        duration: Duration,
    },
    /// The application, which failed for this key lately, was spared a request.
    BackedOff,
    /// A request that waited for another one's load is answered while it comes in.
    Joined,
    /// A fresh response is being refreshed in the background, since it will soon be stale.
    EarlyRefresh,
    /// A refresh in the background was left out, since there was no room at the application.
    RefreshSkipped,
    /// A refresh in the background had no answer: the service failed, panicked, or said nothing for as long as a load may
    /// take. The next request for the same loads it itself, and has what is stale if that fails or takes too long. Where
    /// all of them fail, the framework may not let a layer call inward once its request is answered.
    RefreshFailed,
    /// A request was turned away, since there was no room at the application for as long as it waited.
    Overloaded,
    /// A response was not stored, for this reason.
    NotStored(NoCacheReason),
    /// A fill ended.
    Fill(FillOutcome),
    /// An entry was stored.
    Kept {
        /// Of its body, or of its value as it is written, before it is compressed.
        bytes: u64,
    },
    /// What is stored was encoded, for all requests that will get it so.
    Encoded {
        /// In which coding.
        coding: Coding,
        /// Bytes of what was encoded.
        content: u64,
        /// Bytes of what came of it; none if it is not kept, since it is not shorter by a tenth.
        coded: Option<u64>,
        /// How long it took.
        duration: Duration,
    },
    /// Requests that wait for a load, if there are any, were released.
    Release(Release),
    /// Stored bytes were turned away.
    Rejected(Rejection),
    /// A hit was loaded again in the background, to compare ([`CacheLayer::verify`](crate::CacheLayer::verify)).
    Verified {
        /// Whether what is stored is the same as what was loaded.
        same: bool,
        /// How old what is stored is, in whole seconds: since it came in, or since the value was made.
        age: Duration,
    },
    /// What differed was loaded once more.
    VerifiedAgain {
        /// Whether that said the same as the load before: then what is stored is stale, though it is taken to be fresh. Otherwise
        /// what is loaded differs each time.
        stable: bool,
    },
    /// An invalidation reached the store (`delivered`), or is kept to be retried.
    Invalidation {
        /// What it covers.
        kind: InvalidationKind,
        /// Whether that becomes stale, rather than void.
        soft: bool,
        /// Whether the store has it.
        delivered: bool,
    },
    /// The store could not be asked in time.
    StoreUnavailable,
}

/// Is told every [`Event`], on the path of requests: it must be quick and must not block.
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
    /// Takes note of `event`.
    fn observe(&self, event: Event);

    /// Takes note of a look-up, as an [`Event::Lookup`], and of the route of the application that its request came by:
    /// `/products/{id}`, for the label of a metric. That is what axum's router has matched, with the feature `axum` and the layer
    /// inside of the router; else `None`. There are as many as the application has routes, whatever clients ask for.
    ///
    /// Unless it is overridden, [`observe`](Self::observe) is told, without the route.
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

    /// Whether it is told by [`observe_named`](Self::observe_named) what events are about; asked once, when the cache is
    /// built. `false` unless it says otherwise: names cost each look-up the copy of a handle, and have no place among the
    /// labels of a metric.
    fn wants_names(&self) -> bool {
        false
    }

    /// Takes note of what an event is about, after [`observe`](Self::observe) was told of the event itself.
    fn observe_named(&self, named: &Named<'_>) {
        let _ = named;
    }
}

/// What an event is about.
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
        /// Why it was no hit, if there is a name for that.
        reason: Option<NoCacheReason>,
    },
    /// [`Event::Verified`].
    #[non_exhaustive]
    Verified {
        /// What was verified.
        key: &'a Key,
        /// How old it is.
        age: Duration,
        /// In what it differs, if it does.
        differs: Option<Difference>,
    },
    /// [`Event::VerifiedAgain`].
    #[non_exhaustive]
    VerifiedAgain {
        /// What was verified.
        key: &'a Key,
        /// Whether two loads have said the same, and something else than what is stored.
        stable: bool,
    },
    /// [`Event::Invalidation`].
    #[non_exhaustive]
    Invalidation {
        /// What it covers.
        covers: Covers<'a>,
        /// Whether that becomes stale, rather than void.
        soft: bool,
        /// Over how long; zero, if at once.
        over: Duration,
        /// Whether the store has it, or it is kept to be retried.
        delivered: bool,
    },
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

/// Two observers are one.
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
    /// Requests that were looked up in vain.
    pub misses: u64,
    /// Requests that were not looked up.
    pub bypasses: u64,
    /// Requests that waited for another one's load.
    pub coalesced: u64,
    /// Requests that a failing application was spared.
    pub backed_off: u64,
    /// Requests that were answered with another one's load while it came in.
    pub joined: u64,
    /// Refreshes of responses that were still fresh.
    pub early_refreshes: u64,
    /// Refreshes that were left out for want of room at the application.
    pub skipped_refreshes: u64,
    /// Refreshes in the background that had no answer.
    pub failed_refreshes: u64,
    /// Requests that were turned away for want of room at the application.
    pub overloaded: u64,
    /// Hits that were loaded again in the background, to compare.
    pub verified: u64,
    /// Those of them that differed.
    pub differing: u64,
    /// Of those that were loaded once more, the ones of which two loads said the same: they were stale.
    pub stale_for_certain: u64,
    /// And the ones of which no two did.
    pub unstable: u64,
    /// Responses that were not stored.
    pub not_stored: u64,
    /// Fills that reached the store.
    pub stored: u64,
    /// Fills that an invalidation voided.
    pub fenced: u64,
    /// Fills that were dropped, since the store could not keep up.
    pub shed: u64,
    /// Fills or look-ups that the store could not be asked for in time.
    pub unavailable: u64,
    /// Invalidations that reached the store.
    pub invalidations: u64,
    /// Invalidations that were kept to be retried.
    pub undelivered_invalidations: u64,
    /// Stored bytes that were turned away, by reason; reasons that never came up are left out.
    pub rejected: Vec<(Rejection, u64)>,
    /// How requests that wait for loads were released; ways that never came up are left out.
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

    /// Whether the observer is told what events are about.
    pub(crate) fn wants_names(&self) -> bool {
        self.wants_names
    }

    /// Tells the observer what an event is about, if it wants to know.
    pub(crate) fn name(&self, named: &Named<'_>) {
        if let Some(observer) = self.observer.as_ref().filter(|_| self.wants_names) {
            observer.observe_named(named);
        }
    }

    /// Whether anybody is told more than what is counted here anyhow.
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

    /// A look-up ended, of a request that came by `route`.
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
