//! When to refresh a fresh entry (XFetch: Vattani, Chierichetti and Lowenstein, VLDB 2015).
//!
//! Each request for an entry decides at random, with a probability that rises as the entry nears the end of its freshness, and
//! with the duration of its load. So a popular entry is refreshed by one request of many, early enough that the load ends in
//! time, without communication between processes. At `beta` 1, `e` requests on average want to refresh; the lease lets one of
//! them do it.

/// The shortest freshness of an entry that is refreshed early, in milliseconds: below that, requests are hardly more frequent
/// than expiries.
const LEAST_LIFETIME: u64 = 1_000;

/// The freshness of an entry, for the decision, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    /// How long the entry is fresh in all, and how much of that is left.
    pub(crate) lifetime: u64,
    pub(crate) left: u64,
    /// How long its load took.
    pub(crate) load_time: u64,
}

/// Whether a request should refresh a fresh entry. `chance` returns a random number of `[0, 1)`, and is called only in the last
/// fifth of the freshness: an earlier refresh would waste a load.
pub(crate) fn is_due(beta: f32, life: Life, chance: impl FnOnce() -> f64) -> bool {
    let Life { lifetime, left, load_time } = life;
    if left > lifetime / 5 || left == 0 || lifetime < LEAST_LIFETIME {
        return false;
    }
    load_time as f64 * f64::from(beta) * -chance().ln() >= left as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Far from any clamp.
    const LONG: u64 = 1_000_000_000;
    const LOAD_TIME: u64 = 1_000;

    /// How many of the requests, one every four milliseconds, begin a load by the time that the first one's is done.
    fn loads(beta: f32, random: &mut fastrand::Rng) -> usize {
        let mut wants = |left| is_due(beta, Life { lifetime: LONG, left, load_time: LOAD_TIME }, || random.f64());
        let earliest = (14.0 * beta) as u64 * LOAD_TIME;
        let mut moments = (1..earliest).rev().step_by(4);
        let Some(first) = moments.find(|&left| wants(left)) else { return 0 };
        1 + moments.take_while(|&left| left > first.saturating_sub(LOAD_TIME)).filter(|&left| wants(left)).count()
    }

    #[test]
    fn so_many_requests_begin_a_refresh_as_the_formula_says() {
        let mut random = fastrand::Rng::with_seed(7);
        for beta in [1.0, 2.0, 4.0_f32] {
            const WINDOWS: usize = 1_000;
            let total: usize = (0..WINDOWS).map(|_| loads(beta, &mut random)).sum();
            let (mean, expected) = (total as f32 / WINDOWS as f32, (1.0 / beta).exp());
            assert!((mean - expected).abs() < expected / 10.0, "beta {beta}: {mean}, and {expected} are expected");
        }
    }

    #[test]
    fn the_less_is_left_the_likelier_it_is() {
        let life = |left| Life { lifetime: 100_000, left, load_time: 1_000 };
        let share = |left| {
            let mut random = fastrand::Rng::with_seed(7);
            (0..1_000).filter(|_| is_due(1.0, life(left), || random.f64())).count()
        };
        let shares = [20_000, 4_000, 2_000, 1_000, 500, 1].map(share);
        assert!(shares.is_sorted(), "{shares:?}");
        assert!(shares[0] == 0 && shares[5] > 990, "{shares:?}");
    }

    proptest! {
        #[test]
        fn the_first_four_fifths_of_a_life_ask_for_no_chance(
            lifetime in 0..u64::MAX,
            left in any::<u64>(),
            load_time in any::<u64>(),
            beta in 0.0..100.0_f32,
        ) {
            prop_assume!(left > lifetime / 5 || left == 0 || lifetime < LEAST_LIFETIME);
            let no_chance = || unreachable!("it was asked for");
            let life = Life { lifetime, left, load_time };
            prop_assert!(!is_due(beta, life, no_chance));
        }

        #[test]
        fn what_took_no_time_to_load_is_not_refreshed_early(lifetime in 0..LONG, left in 1..LONG, chance in 0.001..1.0) {
            let life = Life { lifetime, left, load_time: 0 };
            prop_assert!(!is_due(1.0, life, || chance));
        }
    }
}
