//! A model of freshness by one clock, explored in full: two machines, whose wall clocks may be wrong from the beginning and may be set at
//! any moment, a server with a clock of its own, and an entry that one of them stores and both read.
//!
//! No read takes for fresh what has lived for longer than it was made to, and none takes for stale what has not: as if there were one
//! clock. Each guard, taken out, is missed at once.
//!
//! | action | in `cache-layer/src` |
//! |---|---|
//! | [`Pass`](Action::Pass) | time, by the server's clock and by the monotonic ones |
//! | [`Set`](Action::Set) | somebody sets a machine's wall clock |
//! | [`Ask`](Action::Ask) | `store/redis/connection/dataset.rs`: `TIME`, and `tracking/server_clock.rs`: what is made of it |
//! | [`Store`](Action::Store) | `http/plan.rs`, `typed/terms.rs`: deadlines, by the cache's clock |
//! | [`Read`](Action::Read) | `entry/deadlines.rs`: judged by the cache's clock |
//!
//! Not in the model, because they are measured: the error of a sample, half a round trip, and drift.

use stateright::{Checker, HasDiscoveries, Model, Path, Property};

/// How long an entry is fresh.
const LIFETIME: i8 = 2;
/// How long it goes on.
const END: i8 = 5;
/// How far wall clocks may be off.
const OFF: [i8; 3] = [-3, 0, 3];

const NEVER_STALE: &str = "nothing is fresh for longer than it was made to be";
const NEVER_LOST: &str = "nothing is stale before";

#[test]
fn nothing_is_fresh_for_too_long_or_stale_too_soon_whatever_wall_clocks_say() {
    let checker = Clocks::default().checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    println!("{} states", checker.unique_state_count());
    assert!(checker.unique_state_count() > 1_000);
}

#[test]
fn the_model_finds_machines_that_go_by_their_own_clocks() {
    let model = Clocks { follows: false, ..Clocks::default() };
    let path = model.counterexample(NEVER_LOST);
    assert!(path.iter().any(|action| matches!(action, Action::Read(_))));
}

#[test]
fn the_model_finds_an_offset_to_a_wall_clock_that_is_set() {
    let model = Clocks { monotonic: false, ..Clocks::default() };
    let path = model.clone().counterexample(NEVER_STALE);
    assert!(path.iter().any(|action| matches!(action, Action::Set(..))), "{path:?}");
    let path = model.counterexample(NEVER_LOST);
    assert!(path.iter().any(|action| matches!(action, Action::Set(..))), "{path:?}");
}

#[test]
fn the_model_finds_entries_that_are_read_before_the_server_was_asked() {
    let model = Clocks { asks_first: false, ..Clocks::default() };
    model.counterexample(NEVER_LOST);
}

#[derive(Clone)]
struct Clocks {
    /// The server's clock is gone by.
    follows: bool,
    /// By the monotonic clock, not by the wall clock and an offset.
    monotonic: bool,
    /// Nothing is stored or read before.
    asks_first: bool,
}

impl Default for Clocks {
    fn default() -> Self {
        Self { follows: true, monotonic: true, asks_first: true }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// By the server's clock, from which the monotonic ones differ by what is constant.
    now: i8,
    machines: [Machine; 2],
    entry: Option<Entry>,
    /// The last read, if there was one: whether it was judged fresh, and whether that is true.
    read: Option<(bool, bool)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Machine {
    /// By how much its wall clock is ahead.
    off: i8,
    /// And was, when it began.
    off_at_birth: i8,
    /// And was, when the server was asked last.
    off_when_asked: Option<i8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry {
    /// When it was, in truth.
    stored: i8,
    /// As it says.
    made: i8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Pass,
    Set(usize, i8),
    Ask(usize),
    Store(usize),
    Read(usize),
}

impl Clocks {
    /// The time by the cache's clock on a machine.
    fn clock(&self, state: &State, machine: &Machine) -> i8 {
        if !self.follows {
            return state.now + machine.off;
        }
        match machine.off_when_asked {
            // Until something is heard of the server's, this machine's stands in.
            None => state.now + machine.off_at_birth,
            Some(_) if self.monotonic => state.now,
            Some(then) => state.now + machine.off - then,
        }
    }

    fn may_use(&self, machine: &Machine) -> bool {
        !self.asks_first || !self.follows || machine.off_when_asked.is_some()
    }

    fn counterexample(self, property: &'static str) -> Vec<Action> {
        let checker = self.checker().finish_when(HasDiscoveries::AnyOf([property].into())).spawn_bfs().join();
        let path: Path<State, Action> = checker.discovery(property).expect("the guard was not needed");
        path.into_actions()
    }
}

impl Model for Clocks {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let machine = |off| Machine { off, off_at_birth: off, off_when_asked: None };
        let both = OFF.iter().flat_map(|one| OFF.iter().map(move |other| [machine(*one), machine(*other)]));
        both.map(|machines| State { now: 0, machines, entry: None, read: None }).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now < END {
            actions.push(Action::Pass);
        }
        for (number, machine) in state.machines.iter().enumerate() {
            actions.extend(OFF.iter().filter(|off| **off != machine.off).map(|off| Action::Set(number, *off)));
            actions.push(Action::Ask(number));
            if self.may_use(machine) {
                if state.entry.is_none() {
                    actions.push(Action::Store(number));
                } else {
                    actions.push(Action::Read(number));
                }
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = State { read: None, ..last.clone() };
        match action {
            Action::Pass => state.now += 1,
            Action::Set(machine, off) => state.machines[machine].off = off,
            Action::Ask(machine) => state.machines[machine].off_when_asked = Some(state.machines[machine].off),
            Action::Store(machine) => {
                let made = self.clock(last, &last.machines[machine]);
                state.entry = Some(Entry { stored: last.now, made });
            }
            Action::Read(machine) => {
                let (entry, now) = (last.entry.as_ref()?, self.clock(last, &last.machines[machine]));
                let fresh = entry.made <= now && now < entry.made + LIFETIME;
                state.read = Some((fresh, last.now < entry.stored + LIFETIME));
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEVER_STALE, |_, state: &State| state.read != Some((true, false))),
            Property::always(NEVER_LOST, |_, state: &State| state.read != Some((false, true))),
            Property::sometimes("something is fresh", |_, state: &State| state.read == Some((true, true))),
            Property::sometimes("something is stale", |_, state: &State| state.read == Some((false, false))),
        ]
    }
}
