//! The one clock that freshness is judged by.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// Where "now" comes from: the system, or a clock that a test moves by hand.
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
    /// The moment of Tokio's clock at which it was so late.
    Tokio(Instant, u64),
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

    /// A clock that goes as Tokio's does, from the present moment on: where that is paused, what is stored ages with
    /// `tokio::time::advance`, and with the timers that it runs to.
    #[must_use]
    pub fn tokio() -> Self {
        Self(Source::Tokio(Instant::now(), Self::system().now()))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn now(&self) -> u64 {
        match &self.0 {
            Source::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis),
            Source::Manual(now) => now.load(Ordering::Acquire),
            Source::Tokio(begin, at) => at.saturating_add(millis(begin.elapsed())),
        }
    }

    /// Moves a manual clock forward; the system's clock is left alone.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(millis(by), Ordering::AcqRel);
        }
    }

    /// Sets a manual clock back, as happens to a system's that was wrong; the system's clock is left alone.
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
        })
    }
}

/// Whole milliseconds, saturating: 584 million years are enough.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
