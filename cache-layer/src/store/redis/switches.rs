//! The operator's switches: one key that all processes track, and a task that reads it again when it changes.
//!
//! The value has a line for each switch: its name, its rate, if it has one, and until when it is on, in milliseconds by the
//! server's clock; or `off`, and since when. A line outlives its switch, for processes that hear of it late. If the key is gone,
//! evicted or flushed, a process goes by what it knew, until the switch ends.
//!
//! The value is not sealed: a script changes single lines of it, by the server's clock. If entries [are
//! sealed](super::RedisStoreBuilder::sealed_with), the server's word for a switch that has more stale entries used does not count.

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
    switches::{self, LONGEST, Switch, SwitchState, Switches, USUAL_RATE},
};

/// How often the task checks whether the connection has changed, and, without tracking, reads the key.
const PAUSE: Duration = Duration::from_secs(1);
/// How many milliseconds before a turn in this process the fleet's word still counts: moments are rounded, and servers' clocks differ.
const IN_DOUBT: u64 = 1_000;

impl RedisStore {
    pub(super) async fn turn_for_all(&self, state: SwitchState) -> Result<(), StoreError> {
        if !self.believes(&state) {
            return Err(StoreError::Sealed);
        }
        let connection = self.connection_to_tags();
        let session = connection.session()?;
        let name = self.0.context.names.switches();
        let word = match state {
            SwitchState { on_for: None, .. } => "off ".to_owned(),
            SwitchState { switch: Switch::VerificationRate, rate, .. } => format!("{rate} "),
            _ => String::new(),
        };
        let [life, longest] = [state.on_for.unwrap_or_default(), LONGEST].map(|time| millis(time).to_string());
        let mut batch = Batch::default();
        let arguments = [state.switch.as_str(), &word, &life, &longest].map(str::as_bytes);
        batch.call(&scripts::SWITCH, &[&name], &arguments);
        let asked = switches::now();
        let (Flag(_),): (Flag,) = connection.run(Operation::Switch, &session, &batch).await?;
        let mut applied = self.0.context.applied_switches.lock().await;
        if let Err(error) = self.read_switches(&connection, &session, &mut applied).await {
            // It is turned; the push tells the other processes, and this one when it is connected again.
            tracing::debug!(%error, "a switch was turned, but can't be read again");
            self.presume(asked, state, &mut applied);
        }
        Ok(())
    }

    /// Turns a switch as of `moment`, until it is read again: another process may have turned it since, and `applied`, the value that
    /// was applied last, may have that already.
    fn presume(&self, moment: u64, state: SwitchState, applied: &mut Vec<u8>) {
        *applied = without(applied, state.switch);
        self.0.context.switches.set_since(moment, state);
        self.apply_switches();
        self.0.context.switches_changed.notify_one();
    }

    /// Starts a task that keeps the switches up to date, for as long as the store exists.
    pub(super) fn begin_to_follow_switches(&self) -> Arc<Switches> {
        self.0.follows_switches.call_once(|| {
            self.0.runtime.spawn(follow(Arc::downgrade(&self.0)));
        });
        self.0.context.switches.clone()
    }

    /// Reads the key, which is tracked from then on. Reads with `applied`, the value that was applied last, follow each other: what
    /// was read earlier is never applied later.
    async fn read_switches(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
        applied: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        // The server's clock is read after this one: a remaining time computed from it ends here no later than there.
        let asked = switches::now();
        let mut batch = Batch::default();
        batch.track(session.tracking);
        batch.get_any(&self.0.context.names.switches());
        batch.time();
        let (AnyType(said), Time(now)): (AnyType, Time) = connection.run(Operation::Watch, session, &batch).await?;
        let answered = switches::now();
        let now = str::from_utf8(&now).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        if let (Some(said), Some(now)) = (said, now) {
            let (switches, now) = (&self.0.context.switches, now / 1000);
            let before = std::mem::replace(applied, said.clone());
            for Line { state, moment } in parse(&new_lines(&said, &before), now) {
                // By the server's clock, and no later than it was.
                let turned_here = switches
                    .turned_here(state.switch)
                    .map(|then| now - answered.saturating_sub(then).saturating_add(IN_DOUBT).min(now));
                if self.believes(&state) && turned_here.is_none_or(|turned_here| moment >= turned_here) {
                    switches.set_since(asked, state);
                }
            }
        }
        self.apply_switches();
        Ok(())
    }

    /// Whether a process goes by this state of a switch if it is read from the server.
    fn believes(&self, state: &SwitchState) -> bool {
        let uses_more = state.switch == Switch::WiderGrace && state.on_for.is_some();
        !(uses_more && self.0.context.names.sealing().hides_names())
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

/// A line of the value.
struct Line {
    state: SwitchState,
    /// Until when the switch is on, or since when it is off: it was turned no later than this.
    moment: u64,
}

/// The lines that are not in the value from `before`: a switch that was turned in this process alone since then stays as it is.
fn new_lines(said: &[u8], before: &[u8]) -> Vec<u8> {
    let known: Vec<&[u8]> = before.split(|byte| *byte == b'\n').collect();
    let new: Vec<&[u8]> = said.split(|byte| *byte == b'\n').filter(|line| !known.contains(line)).collect();
    new.join(&b'\n')
}

/// The lines of `said` without those of `switch`.
fn without(said: &[u8], switch: Switch) -> Vec<u8> {
    let is_of = |line: &&[u8]| line.strip_prefix(switch.as_str().as_bytes()).is_some_and(|rest| rest.starts_with(b" "));
    let others: Vec<&[u8]> = said.split(|byte| *byte == b'\n').filter(|line| !is_of(line)).collect();
    others.join(&b'\n')
}

/// The lines with the state of each switch, by the value of the key at `now`.
fn parse(said: &[u8], now: u64) -> Vec<Line> {
    let text = String::from_utf8_lossy(said);
    let line = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let switch = *Switch::ALL.iter().find(|switch| switch.as_str() == name)?;
        let (word, moment) = rest.rsplit_once(' ').unzip();
        let moment = moment.unwrap_or(rest).parse::<u64>().ok()?;
        let rate = word.and_then(|word| word.parse().ok()).filter(|rate| (0.0..=1.0).contains(rate));
        if word.is_some() && rate.is_none() {
            return Some(Line { state: SwitchState::off(switch), moment });
        }
        let left = moment.checked_sub(now).filter(|left| *left > 0).map(Duration::from_millis);
        let state = SwitchState { rate: rate.unwrap_or(USUAL_RATE), ..SwitchState::new(switch, left) };
        Some(Line { state, moment })
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
            let mut applied = store.0.context.applied_switches.lock().await;
            let read = store.read_switches(&connection, &session, &mut applied).await;
            read_over = read.is_ok().then_some(session.number);
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
    use ::tests::{RedisServer, wait_until};

    use super::*;
    use crate::store::redis::fleet_tests::connect;

    /// As after a read that failed, while another process turned the switch off.
    #[tokio::test]
    async fn a_switch_that_could_not_be_read_again_is_as_the_server_says_at_last() {
        let server = RedisServer::start();
        let (store, other) = (connect(server.url()).await, connect(server.url()).await);
        let switches = store.begin_to_follow_switches();
        let on = SwitchState::new(Switch::BypassReads, Some(Duration::from_secs(3_600)));
        store.turn_for_all(on).await.unwrap();
        other.turn_for_all(SwitchState::off(Switch::BypassReads)).await.unwrap();
        wait_until("it to be read", async || !switches.is_on(Switch::BypassReads)).await;
        store.presume(switches::now(), on, &mut *store.0.context.applied_switches.lock().await);
        assert!(switches.is_on(Switch::BypassReads));
        wait_until("it to be read again", async || !switches.is_on(Switch::BypassReads)).await;
    }

    #[test]
    fn what_is_forgotten_of_a_switch_says_nothing_of_another() {
        let said = b"bypass-reads 2000\nstop-fills off 9000\nbypass-reads-of-the-future 7";
        assert_eq!(without(said, Switch::BypassReads), b"stop-fills off 9000\nbypass-reads-of-the-future 7");
        assert_eq!(without(b"stop-fills off 9000", Switch::StopFills), b"");
    }

    #[test]
    fn a_line_counts_once() {
        let before = b"bypass-reads 2000\nstop-fills off 9000";
        assert_eq!(new_lines(before, b""), before);
        assert_eq!(new_lines(before, before), b"");
        assert_eq!(new_lines(b"bypass-reads 2000\nstop-fills 9500", before), b"stop-fills 9500");
    }

    #[test]
    fn what_is_over_or_off_or_unknown_is_not_on() {
        let said = b"bypass-reads 2000\nstop-fills off 9000\nwider-grace 1000\nof-the-future 9000\nnonsense";
        let lines: Vec<_> = parse(said, 1000).into_iter().map(|Line { state, moment }| (state, moment)).collect();
        assert_eq!(
            lines,
            [
                (SwitchState::new(Switch::BypassReads, Some(Duration::from_millis(1000))), 2000),
                (SwitchState::off(Switch::StopFills), 9000),
                (SwitchState::off(Switch::WiderGrace), 1000),
            ]
        );
    }

    #[test]
    fn a_rate_is_read_as_it_was_written_and_what_is_none_turns_nothing_on() {
        let rate_of = |line: &str| {
            let state = parse(line.as_bytes(), 1000).pop()?.state;
            state.on_for.map(|_| state.rate)
        };
        for rate in [0.0, 1.0, 0.001, 1e-9, 1.0 / 3.0] {
            assert_eq!(rate_of(&format!("verification-rate {rate} 2000")), Some(rate));
        }
        assert_eq!(rate_of("verification-rate 2000"), Some(USUAL_RATE));
        for line in ["NaN 2000", "2 2000", "-1 2000", "inf 2000", "off 2000", "0.5 1000", "0.5 x", "0.5 ", ""] {
            assert_eq!(rate_of(&format!("verification-rate {line}")), None, "{line}");
        }
    }
}
