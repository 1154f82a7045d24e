//! Switches, which an operator turns on for a while.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
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
        /// that must never be used stale are not.
        WiderGrace => "wider-grace",
    }
}

/// The longest that a switch may be on.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The switches, and until when each of them is on.
#[derive(Default)]
pub struct Switches {
    /// In milliseconds of this machine's [uptime](Uptime), so that a clock that is set back prolongs no switch; 0 for a switch that
    /// is off.
    until: [AtomicU64; Switch::ALL.len()],
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

    /// Turns a switch on for a time, or off.
    pub(crate) fn set(&self, switch: Switch, on_for: Option<Duration>) {
        self.set_since(now(), switch, on_for);
    }

    /// Turns a switch on for a time that began at `moment`, or off.
    pub(crate) fn set_since(&self, moment: u64, switch: Switch, on_for: Option<Duration>) {
        let until = on_for.map_or(0, |on_for| moment.saturating_add(millis(on_for)));
        self.until(switch).store(until, Ordering::SeqCst);
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
        switches.set(Switch::StopFills, Some(Duration::from_secs(60)));
        switches.set(Switch::WiderGrace, Some(Duration::from_millis(20)));
        assert!(switches.is_on(Switch::StopFills) && !switches.is_on(Switch::BypassReads));
        std::thread::sleep(Duration::from_millis(40));
        assert!(!switches.is_on(Switch::WiderGrace) && switches.is_on(Switch::StopFills));
        switches.set(Switch::StopFills, None);
        assert_eq!(switches.on().count(), 0);
    }
}
