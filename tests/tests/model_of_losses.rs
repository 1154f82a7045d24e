//! A model of how processes lose Redis and find it again, explored in full: three of them over one server, which is restarted
//! empty or whose connections blink; a truth that an entry is made from; and writes through any of them.
//!
//! This model covers what the [other model](../model.rs) leaves out because time bounds it, with the bounds as promises:
//! nobody settles while somebody is still away, and a blip is over before an invalidation that waits for it is given up. No
//! read is stale then, and each guard, taken out, is missed at once.
//!
//! | action | in `cache-layer/src/store/redis` |
//! |---|---|
//! | [`Lose`](Action::Lose), [`Return`](Action::Return) | the server |
//! | [`Blink`](Action::Blink), [`Back`](Action::Back) | `connection/loss.rs`: a blip, at whose end kept invalidations are delivered |
//! | [`Reconnect`](Action::Reconnect) | `connection/connect.rs`: `connect`, the same after a loss |
//! | [`GiveUp`](Action::GiveUp) | `invalidate.rs`: `wait_for_delivery` ends in vain |
//! | [`Settle`](Action::Settle) | `connection/supervisor.rs`: `watch`, when the settle time is over |
//! | [`Write`](Action::Write) | the truth changes; `invalidate.rs`: `deliver` |
//! | [`Load`](Action::Load), [`Commit`](Action::Commit) | `lease.rs` and `commit.rs`, in a process that reads |
//! | [`Read`](Action::Read) | `lookup.rs`, in a process that reads; any other asks the application |

use stateright::{Checker, HasDiscoveries, Model, Property};

const PROCESSES: usize = 3;
const NEVER_STALE: &str = "no read is older than what was acknowledged before it";

#[test]
fn no_read_is_stale_after_any_loss_of_the_server() {
    let checker = SOUND.checker().threads(2).spawn_bfs().join();
    println!("{} steps between {} states", checker.state_count(), checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn the_model_finds_a_process_that_reads_while_another_one_is_away() {
    let path = Losses { settles: false, ..SOUND }.counterexample();
    assert!(path.iter().any(|action| matches!(action, Action::Lose)));
}

#[test]
fn the_model_finds_a_connection_that_is_used_before_what_was_kept_is_delivered() {
    let path = Losses { delivers_first: false, ..SOUND }.counterexample();
    assert!(path.iter().any(|action| matches!(action, Action::Write(_))));
}

#[test]
fn the_model_finds_a_write_that_does_not_wait_for_a_blip_to_end() {
    let path = Losses { waits: false, ..SOUND }.counterexample();
    assert!(path.iter().any(|action| matches!(action, Action::Blink(_))));
}

/// The protocol, and what of it can be left out.
struct Losses {
    writes: u8,
    losses: u8,
    blips: u8,
    /// After a loss nobody reads before everybody is back.
    settles: bool,
    /// Kept invalidations are delivered before a connection is used.
    delivers_first: bool,
    /// A write waits until a server that was just lost has heard of it.
    waits: bool,
}

const SOUND: Losses = Losses { writes: 2, losses: 2, blips: 2, settles: true, delivers_first: true, waits: true };

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Connection {
    Reading,
    /// Takes invalidations, and is not read over.
    Settling,
    /// Lost for a moment, to a server that is there.
    Blinking,
    /// Lost a moment ago.
    Lost,
    /// Lost for longer than a write waits.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    connection: Connection,
    /// The latest change whose invalidation is kept, and whether its writer still waits.
    kept: Option<(u8, bool)>,
    /// Of a load under way: what it read.
    load: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    truth: u8,
    /// Of the last write that was acknowledged.
    floor: u8,
    up: bool,
    entry: Option<u8>,
    lease: Option<usize>,
    processes: [Process; PROCESSES],
    losses: u8,
    blips: u8,
    stale: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Lose,
    Return,
    Blink(usize),
    Back(usize),
    Reconnect(usize),
    GiveUp(usize),
    Settle(usize),
    Write(usize),
    Load(usize),
    Commit(usize),
    Read(usize),
}

impl Losses {
    fn counterexample(self) -> Vec<Action> {
        let checker = self.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let path = checker.discoveries().remove(NEVER_STALE).expect("a stale read is found").into_actions();
        println!("{path:?}");
        path
    }

    /// The connection is there again.
    fn connect(&self, state: &mut State, id: usize, connection: Connection) {
        if let Some((change, _)) = state.processes[id].kept.take() {
            if self.delivers_first {
                state.invalidate();
            }
            // Its caller, which has waited, goes on.
            state.floor = state.floor.max(change);
        }
        state.processes[id].connection = connection;
    }
}

impl State {
    fn invalidate(&mut self) {
        (self.entry, self.lease) = (None, None);
    }

    fn is_away(&self, id: usize) -> bool {
        matches!(self.processes[id].connection, Connection::Lost | Connection::Gone)
    }
}

impl Model for Losses {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let process = Process { connection: Connection::Reading, kept: None, load: None };
        vec![State {
            truth: 0,
            floor: 0,
            up: true,
            entry: None,
            lease: None,
            processes: std::array::from_fn(|_| process.clone()),
            losses: self.losses,
            blips: self.blips,
            stale: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // One loss at a time: a server that is lost again makes no difference to a process that has not found it yet.
        let calm = state.processes.iter().all(|process| process.connection == Connection::Reading);
        if calm && state.losses > 0 {
            actions.push(Action::Lose);
        }
        if !state.up {
            actions.push(Action::Return);
        }
        for (id, process) in state.processes.iter().enumerate() {
            match process.connection {
                Connection::Reading => {
                    if state.blips > 0 {
                        actions.push(Action::Blink(id));
                    }
                    if process.load.is_none() && state.lease.is_none() && state.entry.is_none() {
                        actions.push(Action::Load(id));
                    }
                    if process.load.is_some() {
                        actions.push(Action::Commit(id));
                    }
                    actions.push(Action::Read(id));
                }
                Connection::Settling => {
                    if !self.settles || (0..PROCESSES).all(|other| !state.is_away(other)) {
                        actions.push(Action::Settle(id));
                    }
                }
                Connection::Blinking => actions.push(Action::Back(id)),
                Connection::Lost => {
                    actions.push(Action::GiveUp(id));
                    actions.extend(state.up.then_some(Action::Reconnect(id)));
                }
                Connection::Gone => actions.extend(state.up.then_some(Action::Reconnect(id))),
            }
            let waiting = process.kept.is_some_and(|(_, waits)| waits);
            if state.truth < self.writes && !waiting {
                actions.push(Action::Write(id));
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Lose => {
                state.losses -= 1;
                state.up = false;
                state.invalidate();
                for process in &mut state.processes {
                    process.connection = Connection::Lost;
                    process.load = None;
                }
            }
            Action::Return => state.up = true,
            Action::Blink(id) => {
                state.blips -= 1;
                state.processes[id].connection = Connection::Blinking;
                state.processes[id].load = None;
                if state.lease == Some(id) {
                    state.lease = None;
                }
            }
            Action::Back(id) => self.connect(&mut state, id, Connection::Reading),
            Action::Reconnect(id) => self.connect(&mut state, id, Connection::Settling),
            Action::GiveUp(id) => {
                state.processes[id].connection = Connection::Gone;
                if let Some((change, waits)) = &mut state.processes[id].kept {
                    *waits = false;
                    state.floor = state.floor.max(*change);
                }
            }
            Action::Settle(id) => state.processes[id].connection = Connection::Reading,
            Action::Write(id) => {
                state.truth += 1;
                let change = state.truth;
                match state.processes[id].connection {
                    Connection::Reading | Connection::Settling => {
                        state.invalidate();
                        state.floor = change;
                    }
                    Connection::Blinking | Connection::Lost if self.waits => {
                        state.processes[id].kept = Some((change, true));
                    }
                    Connection::Blinking | Connection::Lost | Connection::Gone => {
                        state.processes[id].kept = Some((change, false));
                        state.floor = change;
                    }
                }
            }
            Action::Load(id) => {
                state.lease = Some(id);
                state.processes[id].load = Some(state.truth);
            }
            Action::Commit(id) => {
                let load = state.processes[id].load.take()?;
                if state.lease == Some(id) {
                    (state.lease, state.entry) = (None, Some(load));
                }
            }
            Action::Read(_) => state.stale |= state.entry.is_some_and(|version| version < state.floor),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(NEVER_STALE, |_, state: &State| !state.stale)]
    }
}
