//! Switches, which an operator turns on for a while.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    clock::{Uptime, millis},
    labels::labels,
};

labels! {
    /// A change of behaviour that an operator can turn on for a while, by [`Cache::switch`](crate::Cache::switch), in every
    /// process with the same Redis and prefix.
    pub enum Switch {
        /// Requests go to the application unchanged, and responses are not stored (`detail=switched`). Values are not affected.
        BypassReads => "bypass-reads",
        /// Results of loads are not stored (`detail=fills-stopped`). Values that the application sets itself are stored.
        StopFills => "stop-fills",
        /// No process uses a first tier: each hit asks Redis.
        FirstTierOff => "first-tier-off",
        /// Stale entries are used for as long as they are kept: while they are refreshed, and in place of an error. Entries
        /// that must never be used stale are not. Where entries are sealed, it is turned on [in one process at a
        /// time](crate::Cache::switch_here).
        WiderGrace => "wider-grace",
        /// Hits are [verified](crate::CacheLayer::verify) at a rate that [the switch](crate::Cache::switch_verification) has,
        /// in place of every rate that is set in a layer, a rule or a cache.
        VerificationRate => "verification-rate",
    }
}

/// The longest that a switch may be on.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The rate of verification, if the switch is turned on without one: one hit in a hundred.
pub(crate) const USUAL_RATE: f64 = 0.01;

/// How a switch is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwitchState {
    pub(crate) switch: Switch,
    /// For how long it is on, from the moment at which it is turned; `None` if it is off.
    pub(crate) on_for: Option<Duration>,
    /// The rate of verification, from 0 to 1, for the switch that has one.
    pub(crate) rate: f64,
}

impl SwitchState {
    pub(crate) fn new(switch: Switch, on_for: Option<Duration>) -> Self {
        Self { switch, on_for, rate: USUAL_RATE }
    }

    pub(crate) fn off(switch: Switch) -> Self {
        Self::new(switch, None)
    }
}

/// The switches, and until when each of them is on.
#[derive(Default)]
pub struct Switches {
    /// In milliseconds of this machine's [uptime](Uptime), so that a clock that is set back prolongs no switch; 0 for a switch that
    /// is off.
    until: [AtomicU64; Switch::ALL.len()],
    /// When each of them was last turned in this process alone, by the same clock; 0 if it never was.
    turned_here: [AtomicU64; Switch::ALL.len()],
    /// The bits of the rate of verification; meaningful while its switch is on.
    rate: AtomicU64,
    /// Whether a switch that concerns hits has ever been on. Until then, a hit looks at nothing else.
    has_changed_hits: AtomicBool,
}

impl Switches {
    fn until(&self, switch: Switch) -> &AtomicU64 {
        &self.until[switch as usize]
    }

    pub(crate) fn is_on(&self, switch: Switch) -> bool {
        self.left(switch).is_some()
    }

    /// For how much longer a switch is on; `None` if it is off.
    pub(crate) fn left(&self, switch: Switch) -> Option<Duration> {
        match self.until(switch).load(Ordering::SeqCst) {
            0 => None,
            until => until.checked_sub(now()).filter(|left| *left > 0).map(Duration::from_millis),
        }
    }

    /// Turns a switch.
    pub(crate) fn set(&self, state: SwitchState) {
        self.set_since(now(), state);
    }

    /// Turns a switch in this process alone.
    pub(crate) fn turn_here(&self, state: SwitchState) {
        let moment = now();
        self.turned_here[state.switch as usize].store(moment, Ordering::SeqCst);
        self.set_since(moment, state);
    }

    /// When a switch was last turned in this process alone.
    #[cfg(feature = "redis")]
    pub(crate) fn turned_here(&self, switch: Switch) -> Option<u64> {
        Some(self.turned_here[switch as usize].load(Ordering::SeqCst)).filter(|moment| *moment > 0)
    }

    /// Turns a switch, as of `moment`.
    pub(crate) fn set_since(&self, moment: u64, SwitchState { switch, on_for, rate }: SwitchState) {
        let until = on_for.map_or(0, |on_for| moment.saturating_add(millis(on_for)));
        if until > 0 && matches!(switch, Switch::BypassReads | Switch::VerificationRate) {
            self.has_changed_hits.store(true, Ordering::SeqCst);
        }
        // Of a switch that is turned off, the rate stays: a hit may have seen the switch on, and be about to read it.
        if until > 0 && switch == Switch::VerificationRate {
            self.rate.store(rate.to_bits(), Ordering::SeqCst);
        }
        self.until(switch).store(until, Ordering::SeqCst);
    }

    /// Whether [`Switch::BypassReads`] is on.
    #[inline]
    pub(crate) fn bypasses_reads(&self) -> bool {
        self.has_changed_hits.load(Ordering::Relaxed) && self.is_on(Switch::BypassReads)
    }

    /// The rate of verification, while its switch is on.
    #[inline]
    pub(crate) fn rate(&self) -> Option<f64> {
        // One load, until the switch has been on for the first time.
        let is_on = self.has_changed_hits.load(Ordering::Relaxed) && self.is_on(Switch::VerificationRate);
        is_on.then(|| f64::from_bits(self.rate.load(Ordering::SeqCst)))
    }

    /// The switches that are on, and for how much longer.
    pub(crate) fn on(&self) -> impl Iterator<Item = (Switch, Duration)> + '_ {
        Switch::ALL.iter().filter_map(|switch| Some((*switch, self.left(*switch)?)))
    }

    /// The time until the next switch goes off.
    #[cfg(feature = "redis")]
    pub(crate) fn next_end(&self) -> Option<Duration> {
        self.on().map(|(_, left)| left).min()
    }
}

/// The moment, in milliseconds of this machine's uptime.
pub(crate) fn now() -> u64 {
    Uptime::now().millis()
}

impl fmt::Debug for Switches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.on()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The wall clock can be set; the kernel's uptime can't.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_time_of_switches_is_the_time_that_the_machine_has_been_up() {
        let up = || {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            (text.split(' ').next().unwrap().parse::<f64>().unwrap() * 1e3) as u64
        };
        // The kernel states hundredths of a second.
        let (before, now, after) = (up(), now(), up());
        assert!((before..=after + 10).contains(&now), "{before} {now} {after}");
    }

    #[test]
    fn a_switch_goes_off_by_itself() {
        let switches = Switches::default();
        assert_eq!(switches.on().count(), 0);
        switches.set(SwitchState::new(Switch::StopFills, Some(Duration::from_secs(60))));
        switches.set(SwitchState::new(Switch::WiderGrace, Some(Duration::from_millis(20))));
        assert!(switches.is_on(Switch::StopFills) && !switches.is_on(Switch::BypassReads));
        std::thread::sleep(Duration::from_millis(40));
        assert!(!switches.is_on(Switch::WiderGrace) && switches.is_on(Switch::StopFills));
        switches.set(SwitchState::off(Switch::StopFills));
        assert_eq!(switches.on().count(), 0);
    }

    #[test]
    fn the_rate_is_that_of_the_last_turn_and_ends_with_the_switch() {
        let switches = Switches::default();
        let on =
            |rate| SwitchState { rate, ..SwitchState::new(Switch::VerificationRate, Some(Duration::from_secs(60))) };
        assert_eq!((switches.rate(), switches.bypasses_reads()), (None, false));
        switches.set(on(0.5));
        switches.set(on(0.0));
        assert_eq!((switches.rate(), switches.bypasses_reads()), (Some(0.0), false));
        switches.set(SwitchState::off(Switch::VerificationRate));
        assert_eq!((switches.rate(), switches.bypasses_reads()), (None, false));
        let as_read_by_a_hit_that_saw_it_on = f64::from_bits(switches.rate.load(Ordering::SeqCst));
        assert_eq!(
            as_read_by_a_hit_that_saw_it_on, 0.0,
            "verification was off, and no hit is verified while that ends"
        );
        switches.set(SwitchState::new(Switch::BypassReads, Some(Duration::from_secs(60))));
        assert_eq!((switches.rate(), switches.bypasses_reads()), (None, true));
    }
}
