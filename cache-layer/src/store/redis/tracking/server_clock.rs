//! The server's clock, extrapolated by the uptime of this machine. All processes with the same server judge freshness by it,
//! so that neither a wrong clock of a machine nor a change of it makes a difference.
//!
//! Each `TIME` is a sample: the server's clock had that value at some time between the question and the answer, and half of that
//! interval is the error. Of the last samples, the one with the smallest error counts. Samples that contradict each other mean
//! that the server's clock was set, that it is another server, or that this machine slept: then only the new one counts.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    clock::{Clock, Followed, Uptime},
    sync::Mutex,
};

/// The number of samples that are kept, one for each heartbeat; heartbeats are a second apart.
const SAMPLES: usize = 8;
/// The assumed drift between two clocks: one microsecond in this many, 200 ppm, as of a bad quartz.
const DRIFT: i64 = 5_000;
/// The times that are accepted, from the year 2001 to the year 5138, in microseconds.
const SENSIBLE: std::ops::Range<i64> = 1_000_000_000_000_000..100_000_000_000_000_000;
/// A difference up to this is no contradiction: clocks tick by the microsecond, and threads are late.
const SLACK: i64 = 1_000;

/// The server's clock, as this process knows it.
#[derive(Debug)]
pub(crate) struct ServerClock {
    /// Does not follow the server if a user who can set the server's clock could have expired entries served.
    clock: Clock,
    followed: Arc<Followed>,
    samples: Mutex<VecDeque<Sample>>,
    /// How often the server's clock was found to be set back.
    set_back: AtomicU64,
}

/// A sample; all values are in microseconds.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// The server's time when this process's clock began to count.
    begin: i64,
    error: i64,
    /// When the sample was taken.
    at: i64,
}

impl Sample {
    /// The error of the sample at `now`.
    fn error_at(&self, now: i64) -> i64 {
        self.error + (now - self.at).max(0) / DRIFT
    }
}

/// The offset of a server's clock from this machine's, from [`RedisState::clock`](crate::store::RedisState::clock).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClockOffset {
    /// How many milliseconds the server's clock is ahead of this machine's wall clock; negative if it is behind.
    pub millis: i64,
    /// The error of `millis`: half a round trip.
    pub error: Duration,
}

impl ServerClock {
    /// `local` is used until the server has answered. `follows`: whether [the clock](Self::clock) is the server's after that.
    pub(crate) fn new(local: Clock, follows: bool) -> Self {
        let followed = Arc::new(Followed::new(local.clone()));
        let clock = if follows { Clock::following(followed.clone()) } else { local };
        Self { clock, followed, samples: Mutex::default(), set_back: AtomicU64::new(0) }
    }

    /// The clock by which freshness is judged.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The time of that clock, in milliseconds since the Unix epoch.
    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Takes a sample: the server was asked for the time at `asked`, and answered with these seconds and microseconds.
    pub(crate) fn note(&self, asked: Uptime, (seconds, micros): (u64, u64)) {
        let (asked, at) = (self.since_birth(asked), self.since_birth(Uptime::now()));
        let said = seconds.checked_mul(1_000_000).and_then(|said| i64::try_from(said.checked_add(micros)?).ok());
        let Some(said) = said.filter(|said| SENSIBLE.contains(said)) else { return };
        let (middle, error) = (asked.midpoint(at), (at - asked) / 2 + 1);
        let mut samples = self.samples.lock();
        if add(&mut samples, Sample { begin: said - middle, error, at }) {
            self.set_back.fetch_add(1, Ordering::SeqCst);
        }
        if let Some(best) = best(&samples, at) {
            self.followed.set(u64::try_from(best.begin / 1000).unwrap_or_default());
        }
    }

    /// The server's time in microseconds, which may be later by the error; `None` until the server has answered.
    pub(crate) fn earliest(&self) -> Option<u64> {
        let at = self.since_birth(Uptime::now());
        let best = best(&self.samples.lock(), at)?;
        u64::try_from(best.begin + at - best.error_at(at)).ok()
    }

    /// How often the server's clock was found to be set back: invalidations that came after that may be dated before a moment
    /// that came before it.
    pub(crate) fn times_set_back(&self) -> u64 {
        self.set_back.load(Ordering::SeqCst)
    }

    /// The offset from this machine's clock; `None` until the server has answered.
    pub(crate) fn offset(&self) -> Option<ClockOffset> {
        let at = self.since_birth(Uptime::now());
        let best = best(&self.samples.lock(), at)?;
        let (server, local) = ((best.begin + at) / 1000, i64::try_from(self.followed.local()).unwrap_or(i64::MAX));
        let error = Duration::from_micros(u64::try_from(best.error_at(at)).unwrap_or_default());
        Some(ClockOffset { millis: server.saturating_sub(local), error })
    }

    fn since_birth(&self, moment: Uptime) -> i64 {
        let since = moment.since(self.followed.born());
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }
}

/// Adds a sample, and drops earlier ones that contradict it; returns whether the clock was ahead in any of these.
fn add(samples: &mut VecDeque<Sample>, new: Sample) -> bool {
    let mut was_ahead = false;
    samples.retain(|old| {
        let contradicts = (old.begin - new.begin).abs() > old.error_at(new.at) + new.error + SLACK;
        was_ahead |= contradicts && old.begin > new.begin;
        !contradicts
    });
    if samples.len() == SAMPLES {
        samples.pop_front();
    }
    samples.push_back(new);
    was_ahead
}

fn best(samples: &VecDeque<Sample>, now: i64) -> Option<Sample> {
    samples.iter().min_by_key(|sample| sample.error_at(now)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(begin: i64, error: i64, at: i64) -> Sample {
        Sample { begin, error, at }
    }

    #[test]
    fn the_quickest_answer_counts() {
        let mut samples = VecDeque::new();
        for (place, error) in [900, 100, 5_000, 400].into_iter().enumerate() {
            add(&mut samples, sample(1_000_000 + error / 2, error, place as i64 * 1_000));
        }
        assert_eq!(best(&samples, 4_000).unwrap().error, 100);
    }

    #[test]
    fn an_old_answer_counts_for_less_than_a_new_one_that_was_a_little_slower() {
        let mut samples = VecDeque::new();
        add(&mut samples, sample(1_000_000, 100, 0));
        add(&mut samples, sample(1_000_050, 150, 1_000_000));
        assert_eq!(best(&samples, 1_000_000).unwrap().error, 150, "200 us of drift a second");
    }

    #[test]
    fn what_contradicts_all_before_is_believed() {
        let mut samples = VecDeque::new();
        for at in 0..SAMPLES as i64 {
            add(&mut samples, sample(1_000_000, 10, at));
        }
        // The server's clock was set back by a minute, and its answer took a while.
        add(&mut samples, sample(-59_000_000, 40_000, 20));
        assert_eq!(best(&samples, 20).unwrap().begin, -59_000_000);
        assert_eq!(samples.len(), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_is_told_from_one_that_is_set_forward_and_from_a_slow_answer() {
        let mut samples = VecDeque::new();
        assert!(!add(&mut samples, sample(1_000_000, 10, 0)));
        assert!(!add(&mut samples, sample(960_000, 40_000, 1)), "its answer took longer than it is behind");
        assert!(!add(&mut samples, sample(1_001_000, 10, 2)), "clocks tick");
        assert!(!add(&mut samples, sample(3_000_000, 10, 3)), "set forward");
        assert!(add(&mut samples, sample(2_900_000, 10, 4)), "set back");
        assert!(!add(&mut samples, sample(2_900_000, 10, 5)), "and it stays there");
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let mut samples = VecDeque::new();
        for at in 0..100 {
            add(&mut samples, sample(1_000_000, 10, at));
        }
        assert_eq!(samples.len(), SAMPLES);
    }

    #[test]
    fn the_servers_word_counts_whatever_the_local_clock_says() {
        let local = Clock::skewed(-600_000);
        let server = ServerClock::new(local.clone(), true);
        let real = Clock::system().now();
        assert!(server.now() + 590_000 < real, "nothing is known yet");
        server.note(Uptime::now(), (real / 1000, real % 1000 * 1000));
        let off = |by: u64| server.now().abs_diff(Clock::system().now()) < by;
        assert!(off(5_000), "{} and {real}", server.now());
        let offset = server.offset().unwrap();
        assert!((590_000..610_000).contains(&offset.millis), "{offset:?}");
        // The local clock is set.
        local.skew(3_600_000);
        assert!(off(5_000), "{} and {real}", server.now());
        assert!(server.offset().unwrap().millis < -2_900_000, "{:?}", server.offset());
    }

    #[test]
    fn what_is_no_time_is_not_believed() {
        let server = ServerClock::new(Clock::system(), true);
        for said in [(0, 0), (u64::MAX, u64::MAX), (u64::MAX / 1_000_000, 1), (900_000_000, 0), (1 << 60, 0)] {
            server.note(Uptime::now(), said);
        }
        assert_eq!(server.offset(), None);
        assert!(server.now().abs_diff(Clock::system().now()) < 5_000);
    }

    #[test]
    fn where_it_is_not_to_be_followed_it_is_measured_only() {
        let server = ServerClock::new(Clock::system(), false);
        server.note(Uptime::now(), (1_500_000_000, 0));
        assert!(server.offset().unwrap().millis < 0);
        assert!(server.now().abs_diff(Clock::system().now()) < 5_000);
    }
}
