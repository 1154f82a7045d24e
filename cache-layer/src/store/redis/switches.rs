//! The operator's switches: one key that all processes track, and a task that reads it again when it changes.
//!
//! The value has a line for each switch: its name, and until when it is on, in milliseconds by the server's clock; or `off`, and
//! until when that has to be known. If the key is gone, evicted or flushed, a process goes by what it knew, until the switch
//! ends.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    RedisStore,
    connection::{handle::Connection, session::Session},
    store::Inner,
    wire::{
        operation::Operation,
        replies::{AnyType, Flag, Time},
        scripts::{self, Batch},
    },
};
use crate::{
    clock::millis,
    store::StoreError,
    switches::{self, LONGEST, Switch, Switches},
};

/// How often the task checks whether the connection has changed, and, without tracking, reads the key.
const PAUSE: Duration = Duration::from_secs(1);

impl RedisStore {
    pub(super) async fn turn_for_all(&self, switch: Switch, on_for: Option<Duration>) -> Result<(), StoreError> {
        let connection = self.connection_to_tags();
        let session = connection.session()?;
        let name = self.0.context.names.switches();
        // `off` is kept for as long as any process may take the switch to be on, including those that go by a lost key.
        let (word, life) = on_for.map_or(("off ", LONGEST), |on_for| ("", on_for));
        let life = millis(life).to_string();
        let mut batch = Batch::default();
        let arguments = [switch.as_str(), word, &life].map(str::as_bytes);
        batch.call(&scripts::SWITCH, &[&name], &arguments);
        let asked = switches::now();
        let (Flag(_),): (Flag,) = connection.run(Operation::Switch, &session, &batch).await?;
        if let Err(error) = self.read_switches(&connection, &session).await {
            // It is turned; the push tells the other processes, and this one when it is connected again.
            tracing::debug!(%error, "a switch is turned, and can't be read again");
            self.0.context.switches.set_since(asked, switch, on_for);
            self.apply_switches();
        }
        Ok(())
    }

    /// Starts a task that keeps the switches up to date, for as long as the store exists.
    pub(super) fn begin_to_follow_switches(&self) -> Arc<Switches> {
        self.0.follows_switches.call_once(|| {
            self.0.runtime.spawn(follow(Arc::downgrade(&self.0)));
        });
        self.0.context.switches.clone()
    }

    /// Reads the key, which is tracked from then on.
    async fn read_switches(&self, connection: &Connection, session: &Arc<Session>) -> Result<(), StoreError> {
        // The server's clock is read after this one: a remaining time computed from it ends here no later than there.
        let asked = switches::now();
        let mut batch = Batch::default();
        batch.track(session.tracking);
        batch.get_any(&self.0.context.names.switches());
        batch.time();
        let (AnyType(said), Time(now)): (AnyType, Time) = connection.run(Operation::Watch, session, &batch).await?;
        let now = str::from_utf8(&now).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        if let (Some(said), Some(now)) = (said, now) {
            for (switch, on_for) in parse(&said, now / 1000) {
                self.0.context.switches.set_since(asked, switch, on_for);
            }
        }
        self.apply_switches();
        Ok(())
    }

    /// Applies the switches to the first tier.
    fn apply_switches(&self) {
        let switches = &self.0.context.switches;
        let off = switches.is_on(Switch::FirstTierOff) || switches.is_on(Switch::BypassReads);
        if let Some(tier) = self.0.context.local_tier.get() {
            tier.turn_off(off);
        }
    }
}

/// The state of each switch, by the value of the key at `now`.
fn parse(said: &[u8], now: u64) -> Vec<(Switch, Option<Duration>)> {
    let text = String::from_utf8_lossy(said);
    let line = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let switch = *Switch::ALL.iter().find(|switch| switch.as_str() == name)?;
        let left = rest.parse::<u64>().ok().and_then(|until| until.checked_sub(now)).filter(|left| *left > 0);
        Some((switch, left.map(Duration::from_millis)))
    };
    text.lines().filter_map(line).collect()
}

async fn follow(store: Weak<Inner>) {
    let mut read_over = None;
    loop {
        let Some(store) = store.upgrade().map(RedisStore) else { return };
        let (connection, changed) = (store.connection_to_tags(), store.0.context.switches_changed.clone());
        if let Ok(session) = connection.session()
            && (read_over != Some(session.number) || !session.tracking)
        {
            read_over = store.read_switches(&connection, &session).await.is_ok().then_some(session.number);
        }
        store.apply_switches();
        let pause = store.0.context.switches.next_end().map_or(PAUSE, |end| end.min(PAUSE));
        drop((store, connection));
        tokio::select! {
            // Wakes just after the end of a switch, so that it is over.
            () = sleep(pause + Duration::from_millis(1)) => {}
            () = changed.notified() => read_over = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_or_off_or_unknown_is_not_on() {
        let said = b"bypass-reads 2000\nstop-fills off 9000\nwider-grace 1000\nof-the-future 9000\nnonsense";
        assert_eq!(
            parse(said, 1000),
            [
                (Switch::BypassReads, Some(Duration::from_millis(1000))),
                (Switch::StopFills, None),
                (Switch::WiderGrace, None),
            ]
        );
    }
}
