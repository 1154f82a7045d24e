//! The one clock that freshness is judged by.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// The source of the current time: the system, or a clock that a test moves by hand.
///
/// ```
/// use std::time::Duration;
/// use cache_layer::Clock;
///
/// let clock = Clock::manual();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now() - before, 60_000);
/// ```
#[derive(Clone, Default)]
pub struct Clock(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<AtomicU64>),
    /// A moment of Tokio's clock, and its time in milliseconds.
    Tokio(Instant, u64),
    /// The system's clock, ahead by this many milliseconds.
    Skewed(Arc<AtomicI64>),
    Following(Arc<Followed>),
}

/// As good as for ever, while sums with it are far from any overflow.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The moment `timeout` from now; at most a century from now.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(CENTURY)
}

/// A moment by two clocks, in milliseconds since the Unix epoch: by the one that a cache judges freshness by, which may be a server's, and
/// by this machine's own, which all caches of a process have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Moment {
    pub(crate) now: u64,
    pub(crate) local: u64,
}

/// How long the machine has been up, including the time that it slept. This clock can't be set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Uptime(Duration);

#[cfg_attr(not(feature = "redis"), allow(dead_code))]
impl Uptime {
    #[cfg(target_os = "linux")]
    pub(crate) fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)))
    }

    /// On other systems, the time that the machine slept is missing until the server is asked for the time again.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn now() -> Self {
        static BEGIN: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
        Self(BEGIN.elapsed())
    }

    pub(crate) fn millis(self) -> u64 {
        millis(self.0)
    }

    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Another machine's clock. Between two answers of that machine it follows the uptime of this one, which can't be set.
#[derive(Debug)]
pub(crate) struct Followed {
    born: Uptime,
    /// The other machine's time when this clock was made, in milliseconds since the Unix epoch.
    at_birth: AtomicU64,
    local: Clock,
}

#[cfg_attr(not(feature = "redis"), allow(dead_code))]
impl Followed {
    /// A clock that follows `local` until the other machine's time is known.
    pub(crate) fn new(local: Clock) -> Self {
        Self { born: Uptime::now(), at_birth: AtomicU64::new(local.now()), local }
    }

    /// When this clock was made.
    pub(crate) fn born(&self) -> Uptime {
        self.born
    }

    /// The time of this machine's clock.
    pub(crate) fn local(&self) -> u64 {
        self.local.now()
    }

    /// Sets the other machine's time at the moment when this clock was made.
    pub(crate) fn set(&self, at_birth: u64) {
        self.at_birth.store(at_birth, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.at_birth.load(Ordering::Relaxed).saturating_add(millis(Uptime::now().since(self.born)))
    }
}

impl Clock {
    /// The system's wall clock, the default.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still, at the present moment, until it is [advanced](Self::advance). Clones share it.
    #[must_use]
    pub fn manual() -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(Self::system().now()))))
    }

    /// A clock that follows Tokio's, from the present moment on: if Tokio's clock is paused, entries age with
    /// `tokio::time::advance`, and as timers advance it.
    #[must_use]
    pub fn tokio() -> Self {
        Self(Source::Tokio(Instant::now(), Self::system().now()))
    }

    /// The system's clock, ahead by this many milliseconds, or behind: a machine's wrong clock, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn skewed(millis: i64) -> Self {
        Self(Source::Skewed(Arc::new(AtomicI64::new(millis))))
    }

    /// Sets a [skewed](Self::skewed) clock, as a machine's clock can be set.
    #[doc(hidden)]
    pub fn skew(&self, millis: i64) {
        if let Source::Skewed(skew) = &self.0 {
            skew.store(millis, Ordering::Release);
        }
    }

    /// This moment, by this clock and by the machine's own.
    #[cfg_attr(not(feature = "typed"), allow(dead_code))]
    pub(crate) fn moment(&self) -> Moment {
        let now = self.now();
        Moment { now, local: self.local_at(now) }
    }

    /// Another machine's clock.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub(crate) fn following(followed: Arc<Followed>) -> Self {
        Self(Source::Following(followed))
    }

    /// The time of this machine's own clock when this clock has the time `moment`: it dates what this machine dates, such as the
    /// application's responses.
    pub(crate) fn local_at(&self, moment: u64) -> u64 {
        match &self.0 {
            Source::Following(followed) => moment.saturating_add(followed.local()).saturating_sub(followed.now()),
            _ => moment,
        }
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    #[inline]
    pub fn now(&self) -> u64 {
        match &self.0 {
            Source::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
            Source::Manual(now) => now.load(Ordering::Acquire),
            Source::Tokio(begin, at) => at.saturating_add(millis(begin.elapsed())),
            Source::Skewed(skew) => Self::system().now().saturating_add_signed(skew.load(Ordering::Acquire)),
            Source::Following(followed) => followed.now(),
        }
    }

    /// Moves a manual clock forward; has no effect on the system's clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(millis(by), Ordering::AcqRel);
        }
    }

    /// Sets a manual clock back, as a system's clock may be corrected; has no effect on the system's clock.
    pub fn set_back(&self, by: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_sub(millis(by), Ordering::AcqRel);
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Clock(system)",
            Source::Manual(_) => "Clock(manual)",
            Source::Tokio(..) => "Clock(tokio)",
            Source::Skewed(_) => "Clock(skewed)",
            Source::Following(_) => "Clock(server)",
        })
    }
}

/// Whole milliseconds; at most a century.
pub(crate) fn millis(duration: Duration) -> u64 {
    // So many fit.
    duration.min(CENTURY).as_millis() as u64
}
