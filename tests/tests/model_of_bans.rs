//! A model of bans, explored in full: one key that all patterns match but one, a truth that its entry is made from, two nodes that load it,
//! one that reads it with a first tier, and a lurker. What of the protocol has nothing to do with patterns is in `model.rs`.
//!
//! | action | in `cache-layer/src/store/redis` |
//! |---|---|
//! | [`Ban`](Action::Ban) | `invalidate.rs`: the script `BAN`, which notes that something was invalidated, and lists the pattern |
//! | [`BanAnother`](Action::BanAnother) | the same, of a pattern that does not match the key |
//! | [`Sweep`](Action::Sweep) | `patterns.rs`: there is no room on the list; leases, then entries, and only then it returns |
//! | [`Lurk`](Action::Lurk) | `lurker.rs`: reads the list, sweeps the leases of loads that knew of less, then the entries, and takes off what it has read |
//! | [`Claim`](Action::Claim) | `claim.rs`, `lease.rs`: the lease, and which bans there are by the tracked record |
//! | [`Begin`](Action::Begin) | the application reads its database |
//! | [`Commit`](Action::Commit) | `commit.rs`: with the token that is there, or a new one if nothing was noted since the load began |
//! | [`Join`](Action::Join) | `engine/flight.rs`: a request joins a load of its process that is not overtaken as far as is known there |
//! | [`Get`](Action::Get), [`Deliver`](Action::Deliver), [`Handle`](Action::Handle) | `lookup.rs`: a tracked `GET`, what comes in, and the verdict by the tracked record |
//! | [`Peek`](Action::Peek), [`Judge`](Action::Judge) | `tracking/local_tier.rs`: an entry of the first tier is found, and judged |
//! | [`Learn`](Action::Learn) | meanwhile, another look-up of that process reads the record |
//!
//! A ban is acknowledged as soon as it takes effect, and what is on its way to the reader may take as long as it likes.

use std::collections::VecDeque;

use stateright::{Checker, HasDiscoveries, Model, Property};

const NEVER_STALE: &str = "no read is stale";
const STORE_NEVER_STALE: &str = "the server holds nothing valid that is stale";
const ONE_LOAD: &str = "no load that knew of a ban loses its lease to the sweep";
const NEAR_NEVER_STALE: &str = "a first tier is not stale once every push on its way to it has arrived";

#[test]
fn nothing_is_stale_whoever_loads_and_whatever_is_swept_or_lost() {
    FILLS.explore();
}

#[test]
fn no_read_is_stale_while_bans_come_and_go() {
    READS.explore();
}

#[test]
fn the_model_finds_an_entry_that_does_not_say_which_bans_it_knew_of() {
    let path = Protocol { known_compared: false, ..FILLS }.counterexample();
    assert!(path.contains(&Action::Ban));
}

#[test]
fn the_model_finds_a_load_that_asks_what_is_banned_after_it_has_read() {
    Protocol { known_before: false, ..FILLS }.counterexample();
}

#[test]
fn the_model_finds_a_list_that_is_lost_while_its_token_stays() {
    let path = Protocol { list_with_token: false, ..FILLS }.counterexample();
    assert!(path.contains(&Action::Lose));
}

#[test]
fn the_model_finds_a_ban_that_is_taken_off_before_the_leases_were_swept() {
    let path = Protocol { leases_swept: false, ..FILLS }.counterexample();
    assert_eq!(path.iter().filter(|action| **action == Action::Lurk).count(), 2);
}

#[test]
fn the_model_finds_a_second_load_of_a_key_whose_load_knew_of_the_ban() {
    let path = Protocol { leases_compared: false, ..FILLS }.counterexample();
    assert_eq!(path.last(), Some(&Action::Lurk));
}

#[test]
fn the_model_finds_a_ban_that_is_taken_off_for_one_of_another_token() {
    let path = Protocol { of_one_token: false, ..FILLS }.counterexample();
    assert!(path.contains(&Action::Lose) && path.contains(&Action::Lurk));
}

#[test]
fn the_model_finds_a_ban_that_was_not_noted_and_is_lost() {
    let path = Protocol { noted: false, ..FILLS }.counterexample();
    assert!(path.contains(&Action::Lose));
}

#[test]
fn the_model_finds_a_flight_that_is_joined_after_a_ban() {
    let path = Protocol { flights_voided: false, ..FILLS }.counterexample();
    assert!(matches!(path.last(), Some(Action::Join(_))));
}

#[test]
fn the_model_finds_a_ban_with_the_number_of_one_before() {
    let path = Protocol { numbered_on: false, ..FILLS }.counterexample();
    assert!(path.iter().filter(|action| **action == Action::Ban).count() > 1);
}

#[test]
fn the_model_finds_a_list_that_is_full_and_forgets_its_oldest() {
    let path = Protocol { full_is_swept: false, ..FILLS }.counterexample();
    assert!(path.contains(&Action::Ban) && path.contains(&Action::BanAnother));
}

#[test]
fn the_model_finds_a_read_that_does_not_notice_that_a_ban_was_taken_off() {
    let path = Protocol { reads_watch: false, ..READS }.counterexample();
    assert!(path.contains(&Action::Lurk));
}

#[test]
fn the_model_finds_a_first_tier_that_does_not_notice_that_a_ban_was_taken_off() {
    let path = Protocol { near_watches: false, ..READS }.counterexample();
    assert!(path.contains(&Action::Lurk) && matches!(path.last(), Some(Action::Judge)));
}

/// The protocol, and what of it can be left out.
struct Protocol {
    changes: Version,
    losses: u8,
    loads: usize,
    reads: bool,
    /// An entry says which bans its load knew of, and is covered by younger ones.
    known_compared: bool,
    /// A load knows of bans from before it began.
    known_before: bool,
    /// The list is lost only with the token.
    list_with_token: bool,
    /// The lurker sweeps leases, before entries.
    leases_swept: bool,
    /// The lurker spares the leases of loads that knew of the bans, by the bans' numbers.
    leases_compared: bool,
    /// Bans are taken off the list of the token under which they were swept.
    of_one_token: bool,
    /// A ban is noted as an invalidation.
    noted: bool,
    /// Nobody joins a load that began before a ban.
    flights_voided: bool,
    /// A list that was emptied goes on counting.
    numbered_on: bool,
    /// A pattern for which the list has no room is swept at once.
    full_is_swept: bool,
    /// A look-up notices that the list changed since it asked for the entry.
    reads_watch: bool,
    /// So does one in the first tier.
    near_watches: bool,
}

const FILLS: Protocol = Protocol {
    changes: 2,
    losses: 1,
    loads: 2,
    reads: false,
    known_compared: true,
    known_before: true,
    list_with_token: true,
    leases_swept: true,
    leases_compared: true,
    of_one_token: true,
    noted: true,
    flights_voided: true,
    numbered_on: true,
    full_is_swept: true,
    reads_watch: true,
    near_watches: true,
};

const READS: Protocol = Protocol { loads: 1, reads: true, losses: 0, ..FILLS };

/// Bans that there is room for.
const ROOM: usize = 1;

impl Protocol {
    fn explore(self) {
        let checker = self.checker().threads(2).spawn_bfs().join();
        println!("{} steps between {} states", checker.state_count(), checker.unique_state_count());
        checker.assert_properties();
    }

    fn counterexample(self) -> Vec<Action> {
        let checker = self.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checker.discoveries();
        let path = [NEVER_STALE, STORE_NEVER_STALE, ONE_LOAD, NEAR_NEVER_STALE]
            .into_iter()
            .find_map(|name| found.get(name).cloned());
        let actions = path.expect("a bug is found").into_actions();
        println!("{actions:?}");
        actions
    }
}

type Version = u8;
type Number = u8;

/// The value at the name of the tag that every entry carries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Record {
    token: u8,
    /// The youngest ban that there ever was under this token.
    newest: Number,
    /// And whether each matches the key.
    listed: Vec<(Number, bool)>,
}

impl Record {
    /// Whether an entry may be used.
    fn permits(&self, entry: Entry) -> bool {
        entry.token == self.token && self.listed.iter().all(|(ban, matches)| !matches || *ban <= entry.known)
    }

    /// Whether there was a ban that its load did not know of.
    fn banned_since(&self, entry: Entry) -> bool {
        entry.known < self.newest
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Entry {
    version: Version,
    token: u8,
    known: Number,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Load {
    #[default]
    None,
    Claimed(Known),
    Began(Known, Version),
}

/// What a load knows of the bans, and of events since it was granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Known {
    token: u8,
    newest: Number,
    noted: bool,
    /// Whether anything was banned since.
    banned: bool,
    token_made: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Pass {
    Leases,
    Entries,
    TakeOff,
}

/// How far the lurker has come, and which bans it sweeps, under this token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Lurking {
    pass: Pass,
    token: u8,
    bans: Vec<(Number, bool)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Message {
    Entry(Option<Entry>),
    Record(Option<Record>),
    EntryChanged,
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

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Reader {
    inbox: VecDeque<Message>,
    table: Option<Record>,
    tracks_entry: bool,
    tracks_record: bool,
    near: Option<Entry>,
    keeps: bool,
    read: Read,
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
    /// Bans of another pattern that may still come.
    others: u8,
    record: Option<Record>,
    tokens: u8,
    entry: Option<Entry>,
    lease: Option<usize>,
    loads: Vec<Load>,
    /// Bans that are being swept.
    lurker: Option<Lurking>,
    /// A pattern there was no room for.
    sweep: Option<Pass>,
    reader: Reader,
    stale: bool,
    /// A load that knew of every ban has lost its lease to the sweep.
    robbed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    ChangeTruth,
    Ban,
    BanAnother,
    Sweep,
    Lurk,
    Lose,
    LeaseRunsOut,
    Claim(usize),
    Begin(usize),
    Commit(usize),
    Join(usize),
    Get,
    Deliver,
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
            others: 1,
            record: None,
            tokens: 0,
            entry: None,
            lease: None,
            loads: vec![Load::None; self.loads],
            lurker: None,
            sweep: None,
            reader: Reader::default(),
            stale: false,
            robbed: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.due {
            match state.sweep {
                Some(_) => actions.push(Action::Sweep),
                None if self.is_full(state) => actions.extend([Action::Sweep]),
                None => actions.push(Action::Ban),
            }
        } else if state.truth < self.changes {
            actions.push(Action::ChangeTruth);
        }
        if state.others > 0 && state.record.is_some() && !self.is_full(state) {
            actions.push(Action::BanAnother);
        }
        if state.lurker.is_some() || state.record.as_ref().is_some_and(|record| !record.listed.is_empty()) {
            actions.push(Action::Lurk);
        }
        if state.losses > 0 {
            actions.extend(state.record.as_ref().map(|_| Action::Lose));
            actions.extend(state.lease.map(|_| Action::LeaseRunsOut));
        }
        for (id, load) in state.loads.iter().enumerate() {
            match load {
                Load::None if state.lease.is_none() && !state.is_there() => actions.push(Action::Claim(id)),
                Load::None => {}
                Load::Claimed(_) => actions.push(Action::Begin(id)),
                Load::Began(known, _) => {
                    actions.push(Action::Commit(id));
                    // Its process has heard of what happened to its lease, and of the ban.
                    let stands = state.lease == Some(id) && !known.banned;
                    if stands || !self.flights_voided {
                        actions.push(Action::Join(id));
                    }
                }
            }
        }
        if self.reads {
            match &state.reader.read {
                Read::None => {
                    actions.push(Action::Get);
                    actions.extend(state.reader.near.map(|_| Action::Peek));
                }
                Read::Got(_) | Read::Told(..) => actions.push(Action::Handle),
                Read::Peeked(_) => {
                    actions.push(Action::Judge);
                    let asked = state.reader.inbox.iter().any(|message| matches!(message, Message::Record(_)));
                    actions.extend((state.reader.table.is_none() && !asked).then_some(Action::Learn));
                }
                Read::Getting | Read::Asking(_) => {}
            }
            actions.extend(state.reader.inbox.front().map(|_| Action::Deliver));
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::ChangeTruth => (state.truth, state.due) = (state.truth + 1, true),
            Action::Ban => {
                self.ban(&mut state, true);
                state.acknowledge();
            }
            Action::BanAnother => {
                state.others -= 1;
                self.ban(&mut state, false);
            }
            Action::Sweep => state.sweep_now(),
            Action::Lurk => self.lurk(&mut state),
            Action::Lose => {
                state.losses -= 1;
                match &mut state.record {
                    Some(record) if !self.list_with_token => record.listed.clear(),
                    record => *record = None,
                }
                state.record_changed();
            }
            Action::LeaseRunsOut => (state.losses, state.lease) = (state.losses - 1, None),
            Action::Claim(id) => {
                state.lease = Some(id);
                state.loads[id] = Load::Claimed(state.known());
            }
            Action::Begin(id) => {
                let Load::Claimed(known) = state.loads[id] else { return None };
                state.loads[id] = Load::Began(known, state.truth);
            }
            Action::Commit(id) => self.commit(&mut state, id),
            Action::Join(id) => {
                let Load::Began(_, version) = state.loads[id] else { return None };
                state.stale |= version < state.floor;
            }
            Action::Get => {
                let (entry, reader) = (state.entry, &mut state.reader);
                (reader.tracks_entry, reader.keeps, reader.read) = (true, true, Read::Getting);
                (reader.floor, reader.unchanged) = (state.floor, reader.table.is_some());
                reader.inbox.push_back(Message::Entry(entry));
            }
            Action::Deliver => state.reader.deliver(),
            Action::Handle => self.handle(&mut state),
            Action::Peek => {
                let reader = &mut state.reader;
                // A reader may still serve an entry until it hears of the change.
                (reader.floor, reader.unchanged) = (reader.heard(state.floor), true);
                reader.read = Read::Peeked(reader.near?);
            }
            Action::Learn => {
                state.reader.tracks_record = true;
                state.reader.inbox.push_back(Message::Record(state.record.clone()));
            }
            Action::Judge => {
                let reader = &mut state.reader;
                let Read::Peeked(entry) = std::mem::take(&mut reader.read) else { return None };
                let Some(record) = &reader.table else { return Some(state) };
                let doubted = self.near_watches && record.banned_since(entry) && !reader.unchanged;
                state.stale |= record.permits(entry) && !doubted && entry.version < reader.floor;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEVER_STALE, |_, state: &State| !state.stale),
            Property::always(ONE_LOAD, |_, state: &State| !state.robbed),
            Property::always(STORE_NEVER_STALE, |_, state: &State| {
                !state.is_there() || state.entry.is_some_and(|entry| entry.version >= state.floor)
            }),
            Property::always(NEAR_NEVER_STALE, |_, state: &State| {
                let (reader, hit) = (&state.reader, state.reader.near.zip(state.reader.table.as_ref()));
                let heard = reader.heard(state.floor);
                hit.is_none_or(|(entry, record)| !record.permits(entry) || entry.version >= heard)
            }),
            Property::sometimes("a load is overtaken", |_, state: &State| {
                state.loads.iter().any(|load| matches!(load, Load::Began(_, version) if *version < state.floor))
            }),
            Property::sometimes(
                "all is swept and taken off, and the last version is there",
                |protocol: &Self, state: &State| {
                    let swept =
                        state.record.as_ref().is_some_and(|record| record.newest > 0 && record.listed.is_empty());
                    swept && state.is_there() && state.floor == protocol.changes
                },
            ),
            Property::sometimes("a pattern for which there is no room is swept", |_, state: &State| {
                state.sweep.is_some()
            }),
        ]
    }
}

impl Protocol {
    fn is_full(&self, state: &State) -> bool {
        let listed = state.record.as_ref().map_or(0, |record| record.listed.len());
        listed >= ROOM && self.full_is_swept
    }

    fn ban(&self, state: &mut State, matches: bool) {
        state.each_known(|_, known| known.banned = true);
        if self.noted {
            state.note();
        }
        match &mut state.record {
            // The entry is void, and the result of the load under way must be, too.
            None => {
                state.note();
                state.make_token(None);
            }
            Some(record) => {
                let last = if self.numbered_on { record.newest } else { record.listed.last().map_or(0, |ban| ban.0) };
                record.newest = last + 1;
                record.listed.truncate(ROOM - 1);
                record.listed.push((last + 1, matches));
                state.record_changed();
            }
        }
    }

    fn lurk(&self, state: &mut State) {
        let first = if self.leases_swept { Pass::Leases } else { Pass::Entries };
        let begun = state.record.as_ref().map(|Record { token, listed, .. }| (*token, listed.clone()));
        let begin = |(token, bans)| Lurking { pass: first, token, bans };
        let Some(Lurking { pass, token, bans }) = state.lurker.take().or_else(|| begun.map(begin)) else { return };
        match pass {
            Pass::Leases => {
                let youngest = bans.iter().filter(|(_, matches)| *matches).map(|(ban, _)| *ban).max();
                let holder = state.lease.map(|id| state.loads[id]);
                if let (Some(youngest), Some(Load::Claimed(known) | Load::Began(known, _))) = (youngest, holder) {
                    let knows = known.token == token && known.newest >= youngest;
                    if !knows || !self.leases_compared {
                        (state.lease, state.robbed) = (None, state.robbed | knows);
                    }
                }
                state.lurker = Some(Lurking { pass: Pass::Entries, token, bans });
            }
            Pass::Entries => {
                if state.entry.is_some_and(|entry| bans.iter().any(|(ban, matches)| *matches && *ban > entry.known)) {
                    state.change_entry(None);
                }
                state.lurker = Some(Lurking { pass: Pass::TakeOff, token, bans });
            }
            Pass::TakeOff => {
                if let Some(record) = state.record.as_mut().filter(|record| record.token == token || !self.of_one_token)
                {
                    record.listed.retain(|ban| !bans.contains(ban));
                    state.record_changed();
                }
            }
        }
    }

    fn commit(&self, state: &mut State, id: usize) {
        let Load::Began(known, version) = std::mem::take(&mut state.loads[id]) else { return };
        if state.lease != Some(id) {
            return;
        }
        state.lease = None;
        // An absent token may have been forgotten, and one that was made since may stand in for it.
        if (state.record.is_none() || known.token_made) && known.noted {
            return;
        }
        if state.record.is_none() {
            state.make_token(Some(id));
        }
        let Some(record) = &state.record else { return };
        let newest = match (self.known_compared && self.known_before, known.token == record.token) {
            (false, _) => record.newest,
            (true, true) => known.newest,
            (true, false) => 0,
        };
        state.change_entry(Some(Entry { version, token: record.token, known: newest }));
    }

    fn handle(&self, state: &mut State) {
        let reader = &mut state.reader;
        let (entry, record) = match std::mem::take(&mut reader.read) {
            Read::Got(entry) => match &reader.table {
                Some(record) => (entry, Some(record.clone())),
                None => {
                    reader.tracks_record = true;
                    reader.inbox.push_back(Message::Record(state.record.clone()));
                    reader.read = Read::Asking(entry);
                    return;
                }
            },
            Read::Told(entry, record) => (entry, record),
            _ => return,
        };
        let Some(record) = record.filter(|record| record.permits(entry)) else { return };
        if self.reads_watch && record.banned_since(entry) && !reader.unchanged {
            return;
        }
        if std::mem::take(&mut reader.keeps) {
            reader.near = Some(entry);
        }
        state.stale |= entry.version < reader.floor;
    }
}

impl State {
    fn is_there(&self) -> bool {
        self.entry.zip(self.record.as_ref()).is_some_and(|(entry, record)| record.permits(entry))
    }

    fn known(&self) -> Known {
        let (token, newest) = self.record.as_ref().map_or((0, 0), |record| (record.token, record.newest));
        Known { token, newest, noted: false, banned: false, token_made: false }
    }

    fn each_known(&mut self, mut visit: impl FnMut(usize, &mut Known)) {
        for (id, load) in self.loads.iter_mut().enumerate() {
            if let Load::Claimed(known) | Load::Began(known, _) = load {
                visit(id, known);
            }
        }
    }

    fn note(&mut self) {
        self.each_known(|_, known| known.noted = true);
    }

    fn make_token(&mut self, by: Option<usize>) {
        self.tokens += 1;
        self.each_known(|id, known| known.token_made |= by != Some(id));
        self.record = Some(Record { token: self.tokens, newest: 0, listed: Vec::new() });
        self.record_changed();
    }

    fn sweep_now(&mut self) {
        match self.sweep.take().unwrap_or(Pass::Leases) {
            Pass::Leases => {
                self.lease = None;
                self.sweep = Some(Pass::Entries);
            }
            Pass::Entries | Pass::TakeOff => {
                self.change_entry(None);
                self.acknowledge();
            }
        }
    }

    fn acknowledge(&mut self) {
        (self.floor, self.due) = (self.truth, false);
    }

    fn change_entry(&mut self, entry: Option<Entry>) {
        self.entry = entry;
        if std::mem::take(&mut self.reader.tracks_entry) {
            self.reader.inbox.push_back(Message::EntryChanged);
        }
    }

    fn record_changed(&mut self) {
        if std::mem::take(&mut self.reader.tracks_record) {
            self.reader.inbox.push_back(Message::RecordChanged);
        }
    }
}

impl Reader {
    /// The oldest version that it may read in its first tier: pushes that are still on their way do not count.
    fn heard(&self, floor: Version) -> Version {
        let pushes = self.inbox.iter().any(|message| matches!(message, Message::EntryChanged | Message::RecordChanged));
        if pushes { 0 } else { floor }
    }

    fn deliver(&mut self) {
        match self.inbox.pop_front() {
            Some(Message::EntryChanged) => (self.near, self.keeps) = (None, false),
            Some(Message::RecordChanged) => (self.table, self.unchanged) = (None, false),
            Some(Message::Entry(Some(entry))) => self.read = Read::Got(entry),
            Some(Message::Entry(None)) => (self.read, self.keeps) = (Read::None, false),
            Some(Message::Record(record)) => {
                // Where a push for it is on its way behind this, it voids it.
                self.table.clone_from(&record);
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
