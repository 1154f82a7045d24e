//! Counts within a time limit: a part of the names is examined, and the whole is estimated from it.
//!
//! `SCAN` walks through the server's table by the cursor's bits in reverse, so a cursor tells which share of the table is behind
//! it. Names lie in the table by a keyed hash, so that any part of it is a fair sample of the whole.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::Estimate;

/// The number of entries whose load times are read, to estimate the time for loading one.
const TIMED: u64 = 1000;
/// The number of standard deviations, to either side, that contain the true value 95 times in 100.
const DEVIATIONS: f64 = 1.96;
/// If nothing was found in a part, there may be as many as would be found three times in it, with the same certainty.
const UNMET: f64 = 3.0;

/// What was found of the entries that an invalidation would reach, on one server.
pub(crate) struct Sample {
    /// A tag that the entries must carry, besides a name that matches.
    pub(crate) tag: Option<String>,
    until: Instant,
    keys: u64,
    timed: u64,
    load_ms: u64,
    /// The share of the server's table that was examined, from 0 to 1.
    share: f64,
}

impl Sample {
    pub(crate) fn until(until: Instant, tag: Option<&str>) -> Self {
        Self { tag: tag.map(str::to_owned), until, keys: 0, timed: 0, load_ms: 0, share: 0.0 }
    }

    /// Whether the pass has ended at this cursor, because it is complete or because the time is up.
    pub(crate) fn ends_at(&mut self, cursor: u64) -> bool {
        self.share = share_before(cursor);
        cursor == 0 || Instant::now() >= self.until
    }

    /// For how many more entries to read the load time.
    pub(crate) fn untimed(&self) -> usize {
        usize::try_from(TIMED - self.timed).unwrap_or(0)
    }

    /// Adds the keys that were found, and the load times that were read, in the form of the envelope.
    pub(crate) fn add(&mut self, keys: u64, load_times: &[Vec<u8>]) {
        self.keys += keys;
        for load_time in load_times.iter().filter_map(|bytes| <[u8; 4]>::try_from(&bytes[..]).ok()) {
            self.timed += 1;
            self.load_ms += u64::from(u32::from_be_bytes(load_time));
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.share >= 1.0
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "estimates"
    )]
    pub(crate) fn estimate(&self) -> Estimate {
        let (found, part) = (self.keys as f64, self.share.max(f64::MIN_POSITIVE));
        let error = match self.keys {
            _ if self.is_whole() => 0.0,
            0 => UNMET / part,
            _ => DEVIATIONS * (found * (1.0 - part)).sqrt() / part,
        };
        let keys = found / part;
        let of_one = self.load_ms as f64 / (self.timed.max(1) as f64);
        let load_time = Duration::from_millis((keys * of_one) as u64);
        Estimate { keys: keys.round() as u64, error: error.ceil() as u64, load_time }
    }
}

/// The share of a server's table that is behind a cursor.
fn share_before(cursor: u64) -> f64 {
    if cursor == 0 { 1.0 } else { cursor.reverse_bits() as f64 / 2_f64.powi(64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(cursor: u64, keys: u64) -> Estimate {
        let mut sample = Sample::until(Instant::now(), None);
        assert!(sample.ends_at(cursor));
        sample.add(keys, &[vec![0, 0, 0, 20], vec![0, 0, 0, 40], Vec::new()]);
        sample.estimate()
    }

    #[tokio::test]
    async fn a_cursor_says_how_much_is_behind_it() {
        // The order in which Redis walks through a table of eight: 0, 4, 2, 6, 1, 5, 3, 7.
        let walk = [4, 2, 6, 1, 5, 3, 7];
        for (step, cursor) in walk.into_iter().enumerate() {
            let share = share_before(cursor);
            let expected = (step + 1) as f64 / 8.0;
            assert!((share - expected).abs() < 1e-9, "{cursor}: {share}");
        }
        assert!((share_before(0) - 1.0).abs() < 1e-9);
    }

    #[tokio::test]
    async fn a_part_stands_for_the_whole_and_says_how_far_it_may_be_wrong() {
        let whole = sampled(0, 1000);
        assert_eq!(whole, Estimate { keys: 1000, error: 0, load_time: Duration::from_secs(30) });
        // A quarter was examined: 1.96 × √(1000 × 0.75) × 4.
        let part = sampled(2, 1000);
        assert_eq!(part, Estimate { keys: 4000, error: 215, load_time: Duration::from_secs(120) });
        assert_eq!((sampled(2, 0).keys, sampled(2, 0).error), (0, 12));
    }

    #[tokio::test]
    async fn it_goes_on_while_there_is_time() {
        let mut sample = Sample::until(Instant::now() + Duration::from_secs(600), None);
        assert!(!sample.ends_at(4) && !sample.is_whole());
        assert!(sample.ends_at(0) && sample.is_whole());
    }
}
