//! How long a request waits for other loads, and how often it asks again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::cache::Cache;
use crate::clock::deadline;

/// The pauses between one round and the next, from the second one on; they double.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause if the store contradicts itself: a read returns one thing, and a write is refused because of another.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause while another process loads: the end of its load could go unnoticed for this time.
pub(super) const LONGEST_PAUSE_FOR_A_LEASE: Duration = Duration::from_millis(50);

/// The patience of one request.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    deadline: Instant,
    end: Instant,
    /// Until when to wait if a stale entry may be used.
    soft: Option<Instant>,
    rounds: u32,
    #[cfg(feature = "typed")]
    is_renewed: bool,
}

impl Cache {
    /// A request's patience: the lock timeout, and up to a quarter less for another request's load, so that the followers of a
    /// load don't all go to the application at the same moment.
    pub(crate) fn patience(&self) -> Patience {
        let longest = self.lock_timeout();
        let spread = u32::try_from(longest.as_millis() / 4).unwrap_or(u32::MAX);
        let end = deadline(longest);
        Patience::until(end - Duration::from_millis(fastrand::u32(..=spread).into()), end)
    }
}

impl Patience {
    fn until(deadline: Instant, end: Instant) -> Self {
        Self {
            deadline,
            end,
            soft: None,
            rounds: 0,
            #[cfg(feature = "typed")]
            is_renewed: false,
        }
    }

    /// No patience: nothing is waited for.
    #[cfg(feature = "typed")]
    pub(crate) fn none() -> Self {
        let now = Instant::now();
        Self::until(now, now)
    }

    /// Begins the wait for another request's load anew, once: the load that it waited for has come to nothing, and the next one
    /// may just have begun. A soft timeout stays as it is.
    #[cfg(feature = "typed")]
    pub(crate) fn renew_once(&mut self, cache: &Cache) {
        if !self.is_renewed {
            *self = Self { soft: self.soft, rounds: self.rounds, is_renewed: true, ..cache.patience() };
        }
    }

    /// The same for all keys of one call, whose waits end at one time: it is not renewed.
    #[cfg(feature = "typed")]
    pub(crate) fn of_many(self) -> Self {
        Self { is_renewed: true, ..self }
    }

    /// Adds a soft timeout, from now on, after which a stale entry is used, if there is one.
    pub(crate) fn with_soft_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.soft = timeout.map(deadline);
        self
    }

    /// The end of the soft timeout: until when to wait if a stale entry may be used in place of an error.
    pub(crate) fn soft_deadline(&self) -> Option<Instant> {
        self.soft
    }

    /// Until when to wait if a stale entry may be used in any case: the sooner of the soft timeout and the lock timeout.
    pub(crate) fn end_with_stale(&self) -> Instant {
        self.soft.map_or(self.end, |soft| soft.min(self.end))
    }

    /// Until when to wait for a place at the application.
    pub(crate) fn end(&self) -> Instant {
        self.end
    }

    /// Until when to wait for another request's load.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Waits before the next round; `false` if there is none. The first round is at once, because the result is most often
    /// there by then. The time that a round `took` counts as waited.
    pub(crate) async fn again(&mut self, longest: Duration, took: Duration) -> bool {
        if self.rounds > 0 {
            let pause = FIRST_PAUSE.saturating_mul(1 << (self.rounds - 1).min(16)).min(longest).saturating_sub(took);
            let left = self.deadline.saturating_duration_since(Instant::now());
            if !pause.is_zero() {
                sleep(pause.min(left)).await;
            }
        }
        self.rounds = self.rounds.saturating_add(1);
        // The first round only costs a look-up.
        self.rounds == 1 || !self.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(deadline: Instant) -> Patience {
        Patience::until(deadline, deadline)
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_round_and_round_does_so_ever_more_slowly_and_comes_to_an_end() {
        let began = Instant::now();
        let mut patience = until(began + Duration::from_secs(5));
        assert!(patience.again(LONGEST_PAUSE, Duration::ZERO).await);
        assert_eq!(began.elapsed(), Duration::ZERO, "the first round is at once");
        let mut rounds = 1;
        while patience.again(LONGEST_PAUSE, Duration::ZERO).await {
            rounds += 1;
        }
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        assert!((10..20).contains(&rounds), "{rounds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_took_its_time_is_not_followed_by_a_pause() {
        let began = Instant::now();
        let mut patience = Patience { rounds: 7, ..until(began + Duration::from_secs(5)) };
        assert!(patience.again(LONGEST_PAUSE_FOR_A_LEASE, LONGEST_PAUSE_FOR_A_LEASE).await);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn where_something_stale_may_be_used_the_sooner_timeout_counts() {
        let lock = Duration::from_secs(5);
        let patience = until(Instant::now() + lock);
        for (soft, expected) in [(None, lock), (Some(lock / 2), lock / 2), (Some(2 * lock), lock)] {
            let ends = patience.clone().with_soft_timeout(soft).end_with_stale();
            assert_eq!(ends - Instant::now(), expected, "{soft:?}");
        }
    }

    #[cfg(all(feature = "memory", feature = "typed"))]
    #[tokio::test(start_paused = true)]
    async fn a_wait_that_begins_anew_does_so_once_and_keeps_its_soft_timeout() {
        let cache = Cache::new(crate::store::MemoryStore::new(1 << 20));
        let mut patience = cache.patience().with_soft_timeout(Some(Duration::from_secs(1)));
        let (end, soft) = (patience.end(), patience.soft_deadline());
        for _ in 0..2 {
            sleep(cache.lock_timeout() / 2).await;
            patience.renew_once(&cache);
            assert_eq!(patience.end(), end + cache.lock_timeout() / 2);
            assert_eq!(patience.soft_deadline(), soft);
        }
    }

    #[cfg(feature = "memory")]
    #[tokio::test(start_paused = true)]
    async fn those_who_wait_together_do_not_give_up_together() {
        let cache = Cache::new(crate::store::MemoryStore::new(1 << 20));
        let began = Instant::now();
        let mut deadlines: Vec<_> = (0..300).map(|_| cache.patience().deadline() - began).collect();
        deadlines.sort_unstable();
        let (least, most) = (cache.lock_timeout() * 3 / 4, cache.lock_timeout());
        assert!(least <= deadlines[0] && deadlines[299] <= most);
        let at_one_time =
            |from: &Duration| deadlines.iter().filter(|at| **at >= *from && **at < *from + most / 100).count();
        let busiest = deadlines.iter().map(at_one_time);
        assert!(busiest.max() < Some(60), "in a hundredth of the time are 12 on average");
    }
}
