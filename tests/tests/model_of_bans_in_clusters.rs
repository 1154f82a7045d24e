//! A model of bans over several servers, explored in full: what `model_of_bans.rs` leaves out. A primary entry and its
//! variants lie on one of two servers, and move to the other, name by name, while a sweep goes over the servers in turn; the list of
//! bans lies on a third. A process that reads hears of both over connections of their own.
//!
//! | action | in `cache-layer/src/store/redis` |
//! |---|---|
//! | [`Ban`](Action::Ban) | `invalidate.rs`: the script `BAN`, on the server that has the tags |
//! | [`Sweep`](Action::Sweep), [`SweepName`](Action::SweepName) | `lurker.rs`: on each server in turn the leases, then the entries, one after the other in any order |
//! | | `patterns.rs`: the same for a pattern that is not listed: it is said on each server in turn, and only then the call returns |
//! | [`TakeOff`](Action::TakeOff) | `lurker.rs`: what it has swept is taken off the list |
//! | [`Move`](Action::Move) | a slot is moved to another server: `MIGRATE`, of one name |
//! | [`Claim`](Action::Claim) | `lease.rs`: the lease, and which bans there are |
//! | [`Begin`](Action::Begin) | the application reads its database |
//! | [`Stamp`](Action::Stamp) | `commit.rs`: the token is asked for on the server that has the tags, or made |
//! | [`Commit`](Action::Commit) | `commit.rs`: the script `COMMIT_VARIANT`, on the server that has the lease |
//! | [`Get`](Action::Get), [`Deliver`](Action::Deliver), [`Handle`](Action::Handle) | `lookup.rs`: a tracked `GET`, what comes in from either server, and the verdict |
//! | [`Peek`](Action::Peek), [`Learn`](Action::Learn), [`Judge`](Action::Judge) | `tracking/local_tier.rs`: an entry of the first tier is found, and judged |
//!
//! A ban may reach a reader of a cluster later than its caller is told: what is on its way from the server that has the tags may take as
//! long as it likes. But a reader that has heard of a ban never again reads what it voids.

use std::collections::VecDeque;

use stateright::{Checker, HasDiscoveries, Model, Property};

const NEVER_STALE: &str = "no read is of what the reader has heard to be void";
const STORE_NEVER_STALE: &str = "the servers hold nothing valid that is stale";

#[test]
fn nothing_is_stale_though_names_move_while_bans_are_swept() {
    MOVES.explore();
}

#[test]
fn nothing_is_stale_though_names_move_while_a_pattern_is_said_on_each_server_in_turn() {
    AT_ONCE.explore();
}

#[test]
fn no_variant_is_stale_whoever_loads_and_whatever_is_swept_or_lost() {
    VARIANTS.explore();
}

#[test]
fn no_read_is_stale_though_servers_are_heard_in_any_order() {
    READS.explore();
}

#[test]
fn the_model_finds_a_lurker_that_goes_over_the_servers_once() {
    let path = Protocol { rounds: 1, ..MOVES }.counterexample();
    assert!(path.contains(&Action::TakeOff) && path.iter().any(|action| matches!(action, Action::Move(_))));
}

#[test]
fn the_model_finds_a_pattern_that_is_said_on_each_server_once() {
    let path = Protocol { rounds: 1, ..AT_ONCE }.counterexample();
    assert!(path.iter().any(|action| matches!(action, Action::Move(_))));
}

#[test]
fn the_model_finds_leases_that_are_swept_on_the_first_server_only() {
    Protocol { leases_everywhere: false, ..MOVES }.counterexample();
}

#[test]
fn the_model_finds_variants_that_are_not_swept() {
    let path = Protocol { variants_swept: Swept::Never, ..VARIANTS }.counterexample();
    assert!(path.contains(&Action::TakeOff));
}

#[test]
fn the_model_finds_variants_that_are_swept_only_with_their_primary_entry() {
    let path = Protocol { variants_swept: Swept::WithPrimary, ..VARIANTS }.counterexample();
    assert!(path.contains(&Action::TakeOff));
}

#[test]
fn the_model_finds_a_variant_that_is_judged_by_the_bans_that_its_primary_entry_knew_of() {
    let path = Protocol { variants_know: false, ..VARIANTS }.counterexample();
    assert!(path.contains(&Action::Ban));
}

#[test]
fn the_model_finds_a_ban_that_is_taken_off_before_its_sweep_was_heard_of_everywhere() {
    let path = Protocol { settles: false, ..READS }.counterexample();
    assert!(path.contains(&Action::TakeOff) && path.contains(&Action::Peek));
}

#[test]
fn the_model_finds_a_read_that_does_not_notice_that_a_ban_was_taken_off() {
    let path = Protocol { reads_watch: false, ..READS }.counterexample();
    assert!(path.contains(&Action::TakeOff) && path.contains(&Action::Handle));
}

#[test]
fn the_model_finds_a_first_tier_that_does_not_notice_that_a_ban_was_taken_off() {
    let path = Protocol { near_watches: false, ..READS }.counterexample();
    assert!(path.contains(&Action::TakeOff) && matches!(path.last(), Some(Action::Judge)));
}

#[test]
fn the_model_finds_an_answer_that_is_kept_though_a_push_came_since_it_was_asked_for() {
    Protocol { push_beats_answer: false, ..READS }.counterexample();
}

/// When the variants of a swept entry are swept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Swept {
    ByThemselves,
    WithPrimary,
    Never,
}

/// The protocol, and what of it can be left out.
struct Protocol {
    changes: Version,
    losses: u8,
    /// Whether patterns are listed; otherwise they are swept before their call returns.
    listed: bool,
    /// Servers with entries.
    servers: u8,
    /// Whether the entry has two variants. Otherwise it is all that there is.
    variants: bool,
    reads: bool,
    /// How often a sweep goes over all servers.
    rounds: u8,
    /// Leases are swept on each server.
    leases_everywhere: bool,
    variants_swept: Swept,
    /// A variant says itself which bans its load knew of.
    variants_know: bool,
    /// A ban is taken off only when every connection has heard of its sweep.
    settles: bool,
    /// A look-up notices that the list changed since it asked for the entry.
    reads_watch: bool,
    /// So does one in the first tier.
    near_watches: bool,
    /// An entry that changed since it was asked for is not kept in the first tier.
    push_beats_answer: bool,
}

const MOVES: Protocol = Protocol {
    changes: 2,
    losses: 0,
    listed: true,
    servers: 2,
    variants: false,
    reads: false,
    rounds: 2,
    leases_everywhere: true,
    variants_swept: Swept::ByThemselves,
    variants_know: true,
    settles: true,
    reads_watch: true,
    near_watches: true,
    push_beats_answer: true,
};

const AT_ONCE: Protocol = Protocol { listed: false, ..MOVES };

const VARIANTS: Protocol = Protocol { servers: 1, rounds: 1, losses: 1, variants: true, ..MOVES };

const READS: Protocol = Protocol { servers: 1, rounds: 1, reads: true, ..MOVES };

impl Protocol {
    fn explore(self) {
        let checker = self.checker().threads(2).spawn_bfs().join();
        println!("{} steps between {} states", checker.state_count(), checker.unique_state_count());
        checker.assert_properties();
    }

    fn counterexample(self) -> Vec<Action> {
        let checker = self.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checker.discoveries();
        let path = [NEVER_STALE, STORE_NEVER_STALE].into_iter().find_map(|name| found.get(name).cloned());
        let actions = path.expect("a bug is found").into_actions();
        println!("{actions:?}");
        actions
    }

    /// The loads that there may be at one time: one for each variant, or as many for the same entry.
    fn loads(&self) -> usize {
        if self.reads { 1 } else { 2 }
    }

    /// The kinds of names that a sweep goes through, in this order.
    fn passes(&self) -> u8 {
        2 * self.servers * self.rounds
    }

    /// The names of entries: the primary one, and variants.
    fn names(&self) -> usize {
        if self.variants { 3 } else { 1 }
    }
}

type Version = u8;
type Number = u8;
type Server = u8;
/// The place of an entry among its names.
type Name = usize;

const PRIMARY: Name = 0;
const HOME: Server = 1;
const ELSEWHERE: Server = 0;

/// The value at the name of the tag that every entry carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Record {
    token: u8,
    /// The youngest ban that there ever was under this token.
    newest: Number,
    /// The ban that is listed: equal patterns are listed once.
    listed: Option<Number>,
}

impl Record {
    /// Whether an entry may be used that knew of so many bans.
    fn permits(self, entry: Entry, known: Number) -> bool {
        entry.token == self.token && self.listed.is_none_or(|ban| ban <= known)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Entry {
    version: Version,
    token: u8,
    known: Number,
    at: Server,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Load {
    #[default]
    None,
    Claimed(Known),
    Began(Known, Version),
    Stamped(Known, Version),
}

/// What a load knows of the bans, and of events since it was granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Known {
    token: u8,
    newest: Number,
    noted: bool,
    token_made: bool,
}

/// How far a sweep has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sweeping {
    token: u8,
    ban: Number,
    pass: u8,
    /// The entries that this pass has not come to yet, as bits.
    left: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Message {
    Entry(Option<Entry>),
    EntryChanged,
    /// The record, and what was acknowledged by then.
    Record(Option<Record>, Version),
    RecordChanged,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum Read {
    #[default]
    None,
    Getting,
    Got(Entry),
    Asking(Entry),
    Told(Entry, Option<Record>),
    Peeked(Entry),
}

/// The server that a connection for reads leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Side {
    Entries,
    Tags,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Reader {
    of_entries: VecDeque<Message>,
    of_tags: VecDeque<Message>,
    table: Option<Record>,
    tracks_entry: bool,
    tracks_record: bool,
    near: Option<Entry>,
    keeps: bool,
    read: Read,
    /// The newest change that is known to be acknowledged.
    heard: Version,
    /// The least version that the read may be of.
    floor: Version,
    /// Whether the known bans have not changed since the read began.
    unchanged: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    truth: Version,
    floor: Version,
    due: bool,
    losses: u8,
    record: Option<Record>,
    tokens: u8,
    entries: [Option<Entry>; 3],
    /// The variants that are known to lead from the primary entry, as bits.
    known_variants: u8,
    lease: Option<(usize, Server)>,
    loads: [Load; 2],
    sweeping: Option<Sweeping>,
    /// The slot is being moved: what is new comes to be elsewhere.
    moving: bool,
    reader: Reader,
    stale: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Moved {
    Lease,
    Entry(Name),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    ChangeTruth,
    Ban,
    Sweep,
    SweepName(Name),
    TakeOff,
    LoseRecord,
    LoseVariants,
    Move(Moved),
    Claim(usize),
    Begin(usize),
    Stamp(usize),
    Commit(usize),
    Get,
    Deliver(Side),
    Handle,
    Peek,
    Learn,
    Judge,
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            truth: 0,
            floor: 0,
            due: false,
            losses: self.losses,
            record: None,
            tokens: 0,
            entries: [None; 3],
            known_variants: 0,
            lease: None,
            loads: [Load::None; 2],
            sweeping: None,
            moving: false,
            reader: Reader::default(),
            stale: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        match (state.due, self.listed) {
            (true, true) => actions.push(Action::Ban),
            (true, false) if state.sweeping.is_none() => actions.push(Action::Sweep),
            (false, _) if state.truth < self.changes => actions.push(Action::ChangeTruth),
            _ => {}
        }
        self.sweeps(state, actions);
        if state.losses > 0 {
            actions.extend(state.record.map(|_| Action::LoseRecord));
            actions.extend((state.known_variants > 0).then_some(Action::LoseVariants));
        }
        if self.servers > 1 {
            let at_home = |entry: &Option<Entry>| entry.is_some_and(|entry| entry.at == HOME);
            let entries = state.entries.iter().enumerate().filter(|(_, entry)| at_home(entry));
            actions.extend(entries.map(|(name, _)| Action::Move(Moved::Entry(name))));
            let lease = state.lease.filter(|(_, at)| *at == HOME);
            actions.extend(lease.map(|_| Action::Move(Moved::Lease)));
        }
        for (id, load) in state.loads.iter().enumerate().take(self.loads()) {
            match load {
                Load::None if state.lease.is_none() && !Self::has_primary(state) => actions.push(Action::Claim(id)),
                Load::None => {}
                Load::Claimed(_) => actions.push(Action::Begin(id)),
                Load::Began(known, _) => {
                    actions.push(Action::Stamp(id));
                    actions.extend((known.token > 0).then_some(Action::Commit(id)));
                }
                Load::Stamped(..) => actions.push(Action::Commit(id)),
            }
        }
        if self.reads {
            state.reader.actions(actions);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::ChangeTruth => (state.truth, state.due) = (state.truth + 1, true),
            Action::Ban => {
                state.ban();
                state.acknowledge();
            }
            Action::Sweep => self.sweep(&mut state),
            Action::SweepName(name) => self.sweep_name(&mut state, name),
            Action::TakeOff => state.take_off(),
            Action::LoseRecord => {
                (state.losses, state.record) = (state.losses - 1, None);
                state.record_changed();
            }
            Action::LoseVariants => (state.losses, state.known_variants) = (state.losses - 1, 0),
            Action::Move(moved) => {
                state.moving = true;
                match moved {
                    Moved::Lease => state.lease = state.lease.map(|(id, _)| (id, ELSEWHERE)),
                    Moved::Entry(name) => state.entries[name].as_mut()?.at = ELSEWHERE,
                }
            }
            Action::Claim(id) => {
                state.lease = Some((id, state.new_at()));
                let (token, newest) = state.record.map_or((0, 0), |record| (record.token, record.newest));
                state.loads[id] = Load::Claimed(Known { token, newest, ..Known::default() });
            }
            Action::Begin(id) => {
                let Load::Claimed(known) = state.loads[id] else { return None };
                state.loads[id] = Load::Began(known, state.truth);
            }
            Action::Stamp(id) => state.stamp(id)?,
            Action::Commit(id) => self.commit(&mut state, id)?,
            Action::Get => {
                let (entry, floor) = (state.entries[PRIMARY], state.floor);
                state.reader.begin(floor);
                let reader = &mut state.reader;
                (reader.tracks_entry, reader.keeps, reader.read) = (true, true, Read::Getting);
                reader.unchanged = reader.table.is_some();
                reader.of_entries.push_back(Message::Entry(entry));
            }
            Action::Deliver(from) => state.reader.deliver(from, self.push_beats_answer),
            Action::Handle => self.handle(&mut state),
            Action::Peek => {
                let floor = state.floor;
                state.reader.begin(floor);
                state.reader.unchanged = true;
                state.reader.read = Read::Peeked(state.reader.near?);
            }
            Action::Learn => state.ask_for_record(),
            Action::Judge => self.judge(&mut state)?,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEVER_STALE, |_, state: &State| !state.stale),
            Property::always(STORE_NEVER_STALE, |protocol: &Self, state: &State| {
                protocol.reachable(state).into_iter().flatten().all(|entry| entry.version >= state.floor)
            }),
            Property::sometimes("a load is overtaken", |_, state: &State| {
                state.loads.iter().any(|load| matches!(load, Load::Began(_, version) if *version < state.floor))
            }),
            Property::sometimes(
                "all is swept and taken off, and the last version is there",
                |protocol: &Self, state: &State| {
                    let over = match protocol.listed {
                        true => state.record.is_some_and(|record| record.newest > 0 && record.listed.is_none()),
                        false => state.sweeping.is_none(),
                    };
                    over && Self::has_primary(state) && state.floor == protocol.changes
                },
            ),
            Property::sometimes("names move while they are swept", |protocol: &Self, state: &State| {
                protocol.servers == 1 || (state.moving && state.sweeping.is_some() && state.lease.is_some())
            }),
            Property::sometimes("a variant is older than its primary entry", |protocol: &Self, state: &State| {
                let of = |name: Name| state.entries[name].map(|entry| entry.version);
                !protocol.variants || of(PRIMARY).zip(of(1)).is_some_and(|(primary, variant)| variant < primary)
            }),
            Property::sometimes("a first tier has what was swept", |protocol: &Self, state: &State| {
                !protocol.reads || (state.reader.near.is_some() && state.entries[PRIMARY].is_none())
            }),
        ]
    }
}

impl Protocol {
    fn sweeps(&self, state: &State, actions: &mut Vec<Action>) {
        let Some(Sweeping { pass, left, .. }) = state.sweeping else {
            let listed = state.record.is_some_and(|record| record.listed.is_some());
            actions.extend((self.listed && listed).then_some(Action::Sweep));
            return;
        };
        if pass == self.passes() {
            let heard = !state.reader.of_entries.contains(&Message::EntryChanged);
            actions.extend((heard || !self.settles).then_some(Action::TakeOff));
        } else if pass % 2 == 0 {
            actions.push(Action::Sweep);
        } else {
            let names = (0..self.names()).filter(|name| left & (1 << name) != 0);
            actions.extend(names.map(Action::SweepName));
        }
    }

    /// The server of a pass: one after the other.
    fn server_of(&self, pass: u8) -> Server {
        if self.servers == 1 { HOME } else { pass / 2 % self.servers }
    }

    /// Begins a sweep, or passes over the leases of a server.
    fn sweep(&self, state: &mut State) {
        let begun = Sweeping { token: 0, ban: Number::MAX, pass: 0, left: 0 };
        let listed = state.record.and_then(|record| Some((record.token, record.listed?)));
        let mut sweeping = match (state.sweeping, listed) {
            (Some(sweeping), _) => sweeping,
            (None, Some((token, ban))) if self.listed => Sweeping { token, ban, ..begun },
            (None, _) => begun,
        };
        let server = self.server_of(sweeping.pass);
        if (self.leases_everywhere || sweeping.pass == 0) && state.lease.is_some_and(|(_, at)| at == server) {
            state.lease = None;
        }
        sweeping.pass += 1;
        sweeping.left = (1 << self.names()) - 1;
        state.sweeping = Some(sweeping);
    }

    /// Passes over one entry, and on to the next server when that was the last.
    fn sweep_name(&self, state: &mut State, name: Name) {
        let Some(mut sweeping) = state.sweeping else { return };
        let here = |entry: Entry| entry.at == self.server_of(sweeping.pass) && entry.known < sweeping.ban;
        if state.entries[name].is_some_and(here) {
            let is_swept = name == PRIMARY || self.variants_swept == Swept::ByThemselves;
            if is_swept {
                state.change_entry(name, None);
            }
            if name == PRIMARY && self.variants_swept == Swept::WithPrimary {
                (1..self.names()).for_each(|variant| state.change_entry(variant, None));
            }
        }
        sweeping.left &= !(1 << name);
        sweeping.pass += u8::from(sweeping.left == 0);
        state.sweeping = Some(sweeping);
        if !self.listed && sweeping.pass == self.passes() {
            state.sweeping = None;
            state.acknowledge();
        }
    }

    fn commit(&self, state: &mut State, id: usize) -> Option<()> {
        let (Load::Began(known, version) | Load::Stamped(known, version)) = state.loads[id] else { return None };
        let Some((_, at)) = state.lease.filter(|(holder, _)| *holder == id) else {
            state.loads[id] = Load::None;
            return Some(());
        };
        // While its names are on two servers, it must be tried again.
        if state.entries.iter().flatten().any(|entry| entry.at != at) {
            return None;
        }
        state.loads[id] = Load::None;
        state.lease = None;
        let entry = Entry { version, token: known.token, known: known.newest, at };
        state.change_entry(PRIMARY, Some(entry));
        if self.variants {
            let own = id + 1;
            // The primary entry is another one: it leads to none of those before.
            for name in (1..self.names()).filter(|name| *name != own && state.known_variants & (1 << name) != 0) {
                state.entries[name] = None;
            }
            state.known_variants = 1 << own;
            state.entries[own] = Some(entry);
        }
        Some(())
    }

    fn has_primary(state: &State) -> bool {
        state.entries[PRIMARY].is_some_and(|entry| state.permits(entry, entry.known))
    }

    /// The entries that a request may be answered with.
    fn reachable(&self, state: &State) -> Vec<Option<Entry>> {
        let Some(primary) = state.entries[PRIMARY].filter(|_| Self::has_primary(state)) else { return Vec::new() };
        let known = |variant: Entry| if self.variants_know { variant.known } else { primary.known };
        let variants = state.entries[1..self.names()].iter();
        let variants = variants.map(|variant| variant.filter(|variant| state.permits(*variant, known(*variant))));
        variants.chain([Some(primary)]).collect()
    }

    fn handle(&self, state: &mut State) {
        let reader = &mut state.reader;
        let (entry, record) = match std::mem::take(&mut reader.read) {
            Read::Got(entry) => match reader.table {
                Some(record) => (entry, Some(record)),
                None => {
                    reader.read = Read::Asking(entry);
                    return state.ask_for_record();
                }
            },
            Read::Told(entry, record) => (entry, record),
            _ => return,
        };
        let Some(record) = record.filter(|record| record.permits(entry, entry.known)) else { return };
        if self.reads_watch && entry.known < record.newest && !reader.unchanged {
            return;
        }
        if std::mem::take(&mut reader.keeps) {
            reader.near = Some(entry);
        }
        state.stale |= entry.version < reader.floor;
    }

    fn judge(&self, state: &mut State) -> Option<()> {
        let reader = &mut state.reader;
        let Read::Peeked(entry) = std::mem::take(&mut reader.read) else { return None };
        let Some(record) = reader.table else { return Some(()) };
        let doubted = self.near_watches && entry.known < record.newest && !reader.unchanged;
        state.stale |= record.permits(entry, entry.known) && !doubted && entry.version < reader.floor;
        Some(())
    }
}

impl State {
    fn permits(&self, entry: Entry, known: Number) -> bool {
        self.record.is_some_and(|record| record.permits(entry, known))
    }

    /// Where a name comes to be that is new.
    fn new_at(&self) -> Server {
        if self.moving { ELSEWHERE } else { HOME }
    }

    fn acknowledge(&mut self) {
        (self.floor, self.due) = (self.truth, false);
    }

    fn each_known(&mut self, mut visit: impl FnMut(usize, &mut Known)) {
        for (id, load) in self.loads.iter_mut().enumerate() {
            if let Load::Claimed(known) | Load::Began(known, _) | Load::Stamped(known, _) = load {
                visit(id, known);
            }
        }
    }

    fn ban(&mut self) {
        self.each_known(|_, known| known.noted = true);
        match &mut self.record {
            None => self.make_token(None),
            Some(record) => {
                record.newest += 1;
                record.listed = Some(record.newest);
                self.record_changed();
            }
        }
    }

    fn take_off(&mut self) {
        let Some(Sweeping { token, ban, .. }) = self.sweeping.take() else { return };
        if let Some(record) = self.record.as_mut().filter(|record| record.token == token && record.listed == Some(ban))
        {
            record.listed = None;
            self.record_changed();
        }
    }

    /// Gives a load the token that there is, or a new one if nothing was noted since it was granted.
    fn stamp(&mut self, id: usize) -> Option<()> {
        let Load::Began(known, version) = self.loads[id] else { return None };
        // An absent token may have been forgotten, and one that was made since may stand in for it.
        if (self.record.is_none() || known.token_made) && known.noted {
            self.loads[id] = Load::None;
            self.lease = self.lease.filter(|(holder, _)| *holder != id);
            return Some(());
        }
        if self.record.is_none() {
            self.make_token(Some(id));
        }
        let token = self.record?.token;
        let newest = if known.token == token { known.newest } else { 0 };
        self.loads[id] = Load::Stamped(Known { token, newest, ..known }, version);
        Some(())
    }

    fn make_token(&mut self, by: Option<usize>) {
        self.tokens += 1;
        self.each_known(|id, known| known.token_made |= by != Some(id));
        self.record = Some(Record { token: self.tokens, newest: 0, listed: None });
        self.record_changed();
    }

    fn change_entry(&mut self, name: Name, entry: Option<Entry>) {
        let changes = self.entries[name] != entry;
        self.entries[name] = entry;
        if changes && name == PRIMARY && std::mem::take(&mut self.reader.tracks_entry) {
            self.reader.of_entries.push_back(Message::EntryChanged);
        }
    }

    fn record_changed(&mut self) {
        if std::mem::take(&mut self.reader.tracks_record) {
            self.reader.of_tags.push_back(Message::RecordChanged);
        }
    }

    fn ask_for_record(&mut self) {
        self.reader.tracks_record = true;
        self.reader.of_tags.push_back(Message::Record(self.record, self.floor));
    }
}

impl Reader {
    fn actions(&self, actions: &mut Vec<Action>) {
        match &self.read {
            Read::None => {
                actions.push(Action::Get);
                actions.extend(self.near.map(|_| Action::Peek));
            }
            Read::Got(_) | Read::Told(..) => actions.push(Action::Handle),
            Read::Peeked(_) => {
                actions.push(Action::Judge);
                let asked = self.of_tags.iter().any(|message| matches!(message, Message::Record(..)));
                actions.extend((self.table.is_none() && !asked).then_some(Action::Learn));
            }
            Read::Getting | Read::Asking(_) => {}
        }
        actions.extend(self.of_entries.front().map(|_| Action::Deliver(Side::Entries)));
        actions.extend(self.of_tags.front().map(|_| Action::Deliver(Side::Tags)));
    }

    /// Begins a read. What it has not heard of yet, it may still serve.
    fn begin(&mut self, floor: Version) {
        if !self.of_tags.contains(&Message::RecordChanged) {
            self.heard = floor;
        }
        self.floor = self.heard;
    }

    fn deliver(&mut self, from: Side, push_beats_answer: bool) {
        let inbox = match from {
            Side::Entries => &mut self.of_entries,
            Side::Tags => &mut self.of_tags,
        };
        match inbox.pop_front() {
            Some(Message::EntryChanged) => {
                self.near = None;
                self.keeps &= !push_beats_answer;
            }
            Some(Message::RecordChanged) => (self.table, self.unchanged) = (None, false),
            Some(Message::Entry(Some(entry))) => self.read = Read::Got(entry),
            Some(Message::Entry(None)) => (self.read, self.keeps) = (Read::None, false),
            Some(Message::Record(record, floor)) => {
                self.heard = self.heard.max(floor);
                // Where a push for it is on its way behind this, it voids it.
                self.table = record;
                // While it was unknown, nothing was told.
                self.unchanged = false;
                if let Read::Asking(entry) = self.read {
                    self.read = Read::Told(entry, record);
                }
            }
            None => {}
        }
    }
}
