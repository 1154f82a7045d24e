//! Limits warnings that would otherwise occur with every request.

use std::time::{Duration, Instant};

use crate::sync::Mutex;

/// The shortest time between two warnings of a kind.
const PAUSE: Duration = Duration::from_secs(10);

/// Lets one warning of its kind through, and then none for a while.
#[derive(Debug)]
pub(crate) struct Throttle(Mutex<Option<Last>>);

#[derive(Debug)]
struct Last {
    said: Instant,
    kept_back: u64,
}

impl Throttle {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// If it is time for the next warning: how many were suppressed since the last one.
    pub(crate) fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut last = self.0.lock();
        match &mut *last {
            Some(last) if now.saturating_duration_since(last.said) < PAUSE => {
                last.kept_back += 1;
                None
            }
            last => {
                let kept_back = last.as_ref().map_or(0, |last| last.kept_back);
                *last = Some(Last { said: now, kept_back: 0 });
                Some(kept_back)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_that_repeats_is_said_once_in_a_while_and_tells_how_often_it_was_not() {
        let (throttle, start) = (Throttle::new(), Instant::now());
        assert_eq!(throttle.pass_at(start), Some(0));
        for _ in 0..3 {
            assert_eq!(throttle.pass_at(start + PAUSE / 2), None);
        }
        assert_eq!(throttle.pass_at(start + PAUSE), Some(3));
        assert_eq!(throttle.pass_at(start + 2 * PAUSE), Some(0));
    }
}
