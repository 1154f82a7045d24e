//! Switches, which an operator turns on for a while: the calls of a [`Cache`].

use std::{fmt, time::Duration};

use super::cache::Cache;
use crate::{
    store::StoreError,
    switches::{LONGEST, Switch, SwitchState},
};

/// Why a switch was not turned.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SwitchError {
    /// The cache was built without [switches](crate::CacheBuilder::switches).
    NoSwitches,
    /// The time is less than a second, or more than a day.
    Time(Duration),
    /// The rate is not a number from 0 to 1.
    Rate,
    /// The store did not answer: most likely the switch has not changed.
    Store(String),
    /// The store is [sealed](https://docs.rs/cache-layer/latest/cache_layer/store/struct.RedisStoreBuilder.html#method.sealed_with),
    /// and [`Switch::WiderGrace`] is not taken from its server: [`switch_here`](Cache::switch_here) turns it on in one process.
    Sealed,
}

impl fmt::Display for SwitchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSwitches => f.write_str("the cache was built without switches"),
            Self::Time(time) => write!(f, "a switch can be on for a second to a day, and not for {time:?}"),
            Self::Rate => f.write_str("a rate is a number from 0 to 1"),
            Self::Store(why) => write!(f, "most likely the switch is as it was: {why}"),
            Self::Sealed => f.write_str("the store is sealed: this switch can be turned on in one process at a time"),
        }
    }
}

impl std::error::Error for SwitchError {}

impl From<StoreError> for SwitchError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Sealed => Self::Sealed,
            error => Self::Store(error.to_string()),
        }
    }
}

/// Whether a switch may be on for this long.
fn fits(state: &SwitchState) -> Result<(), SwitchError> {
    match state.on_for {
        Some(time) if time < Duration::from_secs(1) || time > LONGEST => Err(SwitchError::Time(time)),
        _ => Ok(()),
    }
}

fn verification(rate: f64, on_for: Duration) -> Result<SwitchState, SwitchError> {
    match (0.0..=1.0).contains(&rate) {
        true => Ok(SwitchState { rate, ..SwitchState::new(Switch::VerificationRate, Some(on_for)) }),
        false => Err(SwitchError::Rate),
    }
}

/// # Switches
///
/// For an operator in trouble. Over Redis, all processes with the same prefix share the switches: they are one key, which each
/// process tracks, so that it learns of a change with the server's next push. Each switch goes off by itself. A process that
/// starts later reads the key; a process without a connection keeps the last state that it knew. If Redis loses the key, the
/// processes that knew it keep that state until the switch's time is over.
impl Cache {
    /// Turns a switch on, for `on_for` from now on: a second to a day.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cache_layer::{Cache, Switch, SwitchError, store::MemoryStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), SwitchError> {
    /// let cache = Cache::builder(MemoryStore::new(1 << 20)).switches(true).build();
    /// cache.switch(Switch::StopFills, Duration::from_secs(600)).await?;
    /// assert_eq!(cache.switched_on()[0].0, Switch::StopFills);
    /// cache.switch_off(Switch::StopFills).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the cache has no [switches](crate::CacheBuilder::switches), the time is out of range, the store did not answer, or it is
    /// sealed and the switch is [`Switch::WiderGrace`].
    pub async fn switch(&self, switch: Switch, on_for: Duration) -> Result<(), SwitchError> {
        self.set_switch(SwitchState::new(switch, Some(on_for))).await
    }

    /// Turns [`Switch::VerificationRate`] on, for `on_for` from now on: this share of the hits is verified, from 0 (none) to 1,
    /// in place of every rate that is set in a layer, a rule or a cache. [`switch`](Self::switch) turns it on at 0.01. Each
    /// layer, each rule that sets a rate, and the cache for its values count their own hits; what is compared, and whether an
    /// outdated entry is made stale, is as they [set it](crate::Verify).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cache_layer::{Cache, Switch, SwitchError, store::MemoryStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), SwitchError> {
    /// let cache = Cache::builder(MemoryStore::new(1 << 20)).switches(true).build();
    /// cache.switch_verification(0.05, Duration::from_secs(600)).await?;
    /// assert_eq!(cache.switched_rate(), Some(0.05));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`switch`](Self::switch), and if the rate is out of range.
    pub async fn switch_verification(&self, rate: f64, on_for: Duration) -> Result<(), SwitchError> {
        self.set_switch(verification(rate, on_for)?).await
    }

    /// Turns a switch off.
    ///
    /// # Errors
    ///
    /// If the cache has no switches, or the store did not answer.
    pub async fn switch_off(&self, switch: Switch) -> Result<(), SwitchError> {
        self.set_switch(SwitchState::off(switch)).await
    }

    /// Turns a switch on in this process alone, without the store, for `on_for` from now on: a second to a day. It ends earlier if
    /// the switch is turned in the fleet meanwhile: this process learns of that as soon as it is connected. A switch that it finds on
    /// in the fleet then may have been turned before: it can't tell, and goes by the fleet.
    ///
    /// For a store that does not answer, so that [`switch`](Self::switch) fails. A first tier is turned off within a second.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cache_layer::{Cache, Switch, SwitchError, store::MemoryStore};
    /// let cache = Cache::builder(MemoryStore::new(1 << 20)).switches(true).build();
    /// cache.switch_here(Switch::BypassReads, Duration::from_secs(600))?;
    /// assert_eq!(cache.switched_on()[0].0, Switch::BypassReads);
    /// cache.switch_off_here(Switch::BypassReads)?;
    /// assert_eq!(cache.switched_on(), []);
    /// # Ok::<(), SwitchError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the cache has no [switches](crate::CacheBuilder::switches), or the time is out of range.
    pub fn switch_here(&self, switch: Switch, on_for: Duration) -> Result<(), SwitchError> {
        self.turn_here(SwitchState::new(switch, Some(on_for)))
    }

    /// As [`switch_verification`](Self::switch_verification), in this process alone, without the store.
    ///
    /// # Errors
    ///
    /// As [`switch_here`](Self::switch_here), and if the rate is out of range.
    pub fn switch_verification_here(&self, rate: f64, on_for: Duration) -> Result<(), SwitchError> {
        self.turn_here(verification(rate, on_for)?)
    }

    /// Turns a switch off in this process alone, until it is turned on again, here or in the fleet.
    ///
    /// # Errors
    ///
    /// If the cache has no switches.
    pub fn switch_off_here(&self, switch: Switch) -> Result<(), SwitchError> {
        self.turn_here(SwitchState::off(switch))
    }

    fn turn_here(&self, state: SwitchState) -> Result<(), SwitchError> {
        fits(&state)?;
        let switches = self.0.switches.as_ref().ok_or(SwitchError::NoSwitches)?;
        switches.turn_here(state);
        Ok(())
    }

    async fn set_switch(&self, state: SwitchState) -> Result<(), SwitchError> {
        fits(&state)?;
        if !self.has_switches() {
            return Err(SwitchError::NoSwitches);
        }
        Ok(self.0.store.set_switch(state).await?)
    }

    /// The switches that are on, as this process knows them, and for how much longer.
    #[must_use]
    pub fn switched_on(&self) -> Vec<(Switch, Duration)> {
        self.0.switches.iter().flat_map(|switches| switches.on()).collect()
    }

    /// The share of the hits that an operator has had verified, while [`Switch::VerificationRate`] is on.
    #[must_use]
    pub fn switched_rate(&self) -> Option<f64> {
        self.0.switches.as_ref()?.rate()
    }
}
