//! Log lines that would come with every request, written once in a while.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The least time between two lines of a kind.
const PAUSE: Duration = Duration::from_secs(10);

/// Lets one line of its kind through, and then none for a while.
#[derive(Debug)]
pub(crate) struct Throttle(Mutex<Option<Last>>);

#[derive(Debug)]
struct Last {
    said: Instant,
    kept_back: u64,
}

/// How many lines like this one were kept back before it: the end of a line, and nothing if there were none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptBack(u64);

impl Throttle {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// If it is time for the next line, how many lines were kept back since the last one.
    pub(crate) fn pass(&self) -> Option<KeptBack> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<KeptBack> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *last {
            Some(last) if now.saturating_duration_since(last.said) < PAUSE => {
                last.kept_back += 1;
                None
            }
            last => {
                let kept_back = last.as_ref().map_or(0, |last| last.kept_back);
                *last = Some(Last { said: now, kept_back: 0 });
                Some(KeptBack(kept_back))
            }
        }
    }
}

impl fmt::Display for KeptBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => f.write_str(" (and once more since it was last said)"),
            count => write!(f, " (and {count} times more since it was last said)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_repeats_is_written_once_in_a_while_and_tells_how_often_it_was_not() {
        let (throttle, start) = (Throttle::new(), Instant::now());
        let line = |at| throttle.pass_at(at).map(|kept_back| format!("no Redis{kept_back}"));
        assert_eq!(line(start).as_deref(), Some("no Redis"));
        for _ in 0..3 {
            assert_eq!(line(start + PAUSE / 2), None);
        }
        assert_eq!(line(start + PAUSE).as_deref(), Some("no Redis (and 3 times more since it was last said)"));
        assert_eq!(line(start + 2 * PAUSE).as_deref(), Some("no Redis"));
    }
}
