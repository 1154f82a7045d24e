//! What an operator turns off, or on, for a while.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    clock::{Clock, millis},
    labels::labels,
};

labels! {
    /// What an operator may turn off, or on, for a while: by [`Cache::switch`](crate::Cache::switch), in every process with the
    /// same Redis and prefix.
    pub enum Switch {
        /// Requests go to the application as they are, and nothing that comes is kept (`detail=switched`). Values are not affected.
        BypassReads => "bypass-reads",
        /// Nothing that is loaded is stored (`detail=fills-stopped`). What the application sets itself is.
        StopFills => "stop-fills",
        /// No process keeps anything of its own before Redis: each hit asks Redis.
        FirstTierOff => "first-tier-off",
        /// What is stale is used for as long as it is kept: while it is refreshed, and in place of an error. What may never be used
        /// stale is not.
        WiderGrace => "wider-grace",
    }
}

/// The longest that a switch may be on.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Until when each switch is on.
#[derive(Default)]
pub struct Switches {
    /// In milliseconds since the Unix epoch, by this process's clock; 0 for one that is off.
    until: [AtomicU64; Switch::ALL.len()],
}

impl Switches {
    fn until(&self, switch: Switch) -> &AtomicU64 {
        &self.until[switch as usize]
    }

    pub(crate) fn is_on(&self, switch: Switch) -> bool {
        self.left(switch).is_some()
    }

    /// For how much longer it is on; `None` if it is off.
    pub(crate) fn left(&self, switch: Switch) -> Option<Duration> {
        match self.until(switch).load(Ordering::SeqCst) {
            0 => None,
            until => until.checked_sub(now()).filter(|left| *left > 0).map(Duration::from_millis),
        }
    }

    /// Turns it on for so long, or off.
    pub(crate) fn set(&self, switch: Switch, on_for: Option<Duration>) {
        self.set_since(now(), switch, on_for);
    }

    /// Turns it on for so long from a moment on, or off.
    pub(crate) fn set_since(&self, moment: u64, switch: Switch, on_for: Option<Duration>) {
        let until = on_for.map_or(0, |on_for| moment.saturating_add(millis(on_for)));
        self.until(switch).store(until, Ordering::SeqCst);
    }

    /// Those that are on, and for how much longer.
    pub(crate) fn on(&self) -> impl Iterator<Item = (Switch, Duration)> + '_ {
        Switch::ALL.iter().filter_map(|switch| Some((*switch, self.left(*switch)?)))
    }

    /// How long it takes until one that is on goes off.
    #[cfg(feature = "redis")]
    pub(crate) fn next_end(&self) -> Option<Duration> {
        self.on().map(|(_, left)| left).min()
    }
}

/// In milliseconds since the Unix epoch, by this process's clock.
pub(crate) fn now() -> u64 {
    Clock::system().now()
}

impl fmt::Debug for Switches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.on()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
