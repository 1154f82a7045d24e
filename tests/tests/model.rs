//! A model of the protocol that the Redis store speaks, explored in full: one key with one tag, a truth that its entry is
//! made from, nodes that load it, and a node with a first tier that reads it.
//!
//! Every interleaving is visited of: changes of the truth and their invalidation by key and by tag; look-ups, in the first
//! tier and over the connection; loads under their lease; and losses: leases that run out, tokens and notes that the server
//! forgets, connections that break. No read is stale in any of them, and each guard, taken out, is missed at once. So this
//! is the protocol's documentation, too: an [`Action`] is one step that nothing else can come in between.
//!
//! | action | in `cache-layer/src/store/redis` |
//! |---|---|
//! | [`Get`](Action::Get) | `lookup.rs`: `near.begin_read`, then a tracked `GET` |
//! | | `bulk.rs`: the same for many keys at once, as in a warm start
//! | [`GetAnother`](Action::GetAnother) | the same for another key with this tag, as far as it matters here: the tracked `MGET` |
//! | [`Deliver`](Action::Deliver) | `connection/pushes.rs`: the reader applies a push at once, and hands a reply to the task that awaits it |
//! | [`Handle`](Action::Handle) | `lookup.rs`: what the awaiting task does with the reply; a tracked `MGET` of an unknown token |
//! | [`Look`](Action::Look) | `lookup.rs`, in a process that will load: the entry as it is before the lease is asked for |
//! | [`Take`](Action::Take) | `lease.rs`: `SET … NX GET` |
//! | [`Claim`](Action::Claim) | `claim.rs`: the same, by a look-up that has seen nothing yet |
//! | [`Begin`](Action::Begin) | the entry behind the lease, and `TIME`; then the application reads its database |
//! | [`Learn`](Action::Learn) | `lookup.rs`, `lease.rs`: any tracked read of the token; it may be believed for as long as one likes |
//! | [`CommitBelieved`](Action::CommitBelieved) | `commit.rs`: `COMMIT` with a token that is known to live |
//! | [`CommitCompared`](Action::CommitCompared) | `commit.rs`: `COMMIT` with one that it compares, or with a new one |
//! | [`Stamp`](Action::Stamp), [`Commit`](Action::Commit) | `commit.rs`, in a cluster: `STAMP` and `LAST_INVALIDATION`, compared with the load's start; then `COMMIT` |
//! | [`InvalidateKey`](Action::InvalidateKey) | `invalidate.rs`: `UNLINK` of entry and lease |
//! | [`Note`](Action::Note), [`InvalidateTag`](Action::InvalidateTag) | `invalidate.rs`: `NOTE_INVALIDATION`, then `INVALIDATE_TAG` |
//! | [`Ramp`](Action::Ramp) | `invalidate.rs`: `NOTE_INVALIDATION`, then `SOFTEN_TAG` over a window |
//! | [`TurnComes`](Action::TurnComes) | nothing is said: by the clock, the key's turn within a window is there |
//! | [`Reconnect`](Action::Reconnect) | `connection/connect.rs`: another connection, with a token table of its own |
//!
//! A command takes effect as soon as it is sent, a load reads as soon as it has its lease, and an invalidation is
//! acknowledged as soon as it takes effect: that makes more reads wrong, and none right. What is on its way to a node may
//! take as long as it likes. One node that reads is enough: nodes meet only at the server, and reads change nothing there.
//!
//! Not in the model, because time bounds them: a connection of which only one side knows that it is lost, entries that
//! grow old, and a server that some processes have found again and others have not, which is in `model_of_losses.rs`.

use std::collections::VecDeque;

use stateright::{Checker, HasDiscoveries, Model, Path, Property};

const STORE_NEVER_STALE: &str = "the server holds nothing valid that is stale";
const NEVER_STALE: &str = "a read over the connection is never stale";
/// A load that holds its lease does not begin if its entry is already there.
const ONE_LOAD: &str = "nobody loads what another load has brought";
/// Until then it is late by what is on its way; the node that invalidated doesn't wait for it.
const NEAR_NEVER_STALE: &str = "a first tier is not stale once every push on its way to it has arrived";

#[test]
fn nothing_stale_is_ever_stored_whoever_loads_and_whatever_is_lost() {
    Protocol { changes: 1, losses: None, ..FILLS }.explore();
}

#[test]
fn nothing_stale_is_ever_stored_however_often_the_truth_changes() {
    FILLS.explore();
}

#[test]
fn no_read_is_stale_while_one_node_loads() {
    READS.explore();
}

#[test]
fn no_read_is_stale_while_two_nodes_load() {
    ALL.explore();
}

#[test]
fn nothing_is_fresh_after_its_turn_whoever_loads() {
    RAMPED_FILLS.explore();
}

#[test]
fn nothing_is_read_as_fresh_after_its_turn() {
    RAMPED_READS.explore();
}

#[test]
fn the_model_finds_a_ramp_that_lets_a_load_under_way_pass() {
    let path = Protocol { ramps_fence: false, ..RAMPED_FILLS }.counterexample();
    assert!(path.contains(&Action::Ramp));
}

#[test]
fn the_model_finds_a_second_ramp_that_forgets_the_first() {
    let path = Protocol { ramps_kept: false, ..RAMPED_FILLS }.counterexample();
    assert_eq!(path.iter().filter(|action| **action == Action::Ramp).count(), 2);
}

#[test]
fn the_model_finds_a_commit_that_does_not_compare_its_lease() {
    let path = Protocol { lease_compared: false, ..FILLS }.counterexample();
    assert!(path.contains(&Action::InvalidateKey));
}

#[test]
fn the_model_finds_a_commit_that_an_invalidation_of_its_tag_overtook() {
    let path = Protocol { token_compared: false, ..FILLS }.counterexample();
    assert!(path.contains(&Action::InvalidateTag));
}

#[test]
fn the_model_finds_a_commit_that_an_invalidation_overtook_whose_token_was_lost() {
    let path = Protocol { note_consulted: false, ..FILLS }.counterexample();
    assert!(path.contains(&Action::InvalidateTag) && path.contains(&Action::LoseToken));
}

#[test]
fn the_model_finds_a_commit_that_trusts_a_token_made_by_another_fill_since() {
    let path = Protocol { created_tokens_doubted: false, ..FILLS }.counterexample();
    assert!(path.contains(&Action::InvalidateTag) && path.contains(&Action::LoseToken));
}

#[test]
fn the_model_finds_a_lease_that_is_taken_after_the_entry_was_looked_at() {
    let path = Protocol { read_behind_lease: false, ..FILLS }.counterexample();
    assert!(matches!(path.last(), Some(Action::Begin(_))));
}

#[test]
fn the_model_finds_a_load_that_is_dated_after_it_has_read() {
    let path = Protocol { dated_first: false, ..FILLS }.counterexample();
    assert!(path.iter().any(|action| matches!(action, Action::Date(_))));
}

#[test]
fn the_model_finds_a_believed_token_that_is_written_again_once_it_was_lost() {
    let path = Protocol { lost_stays_lost: false, ..FILLS }.counterexample();
    assert!(path.contains(&Action::LoseToken));
}

#[test]
fn the_model_finds_an_answer_that_is_kept_though_a_push_came_since_it_was_asked_for() {
    Protocol { push_beats_answer: false, ..READS }.counterexample();
}

#[test]
fn the_model_finds_a_first_tier_that_outlives_its_connection() {
    let path = Protocol { near_ends_with_connection: false, ..READS }.counterexample();
    assert!(path.contains(&Action::Reconnect));
}

#[test]
fn the_model_finds_pushes_that_are_applied_out_of_order() {
    Protocol { pushes_in_order: false, ..READS }.counterexample();
}

/// The protocol, and what of it can be left out.
struct Protocol {
    /// How often the truth changes, and is invalidated then.
    changes: Version,
    /// How many things are lost; any number if nothing is said.
    losses: Option<u8>,
    /// How many nodes load.
    loads: usize,
    /// Whether there is a node that reads.
    reads: bool,
    /// In every way that there is to take a lease and to commit. Otherwise by a claim, and with what is believed: what reads find
    /// does not differ by more than that.
    every_way: bool,
    /// Whether tags are softened over windows, too.
    ramps: bool,
    /// A ramp is noted, and its token voids the loads that began before it.
    ramps_fence: bool,
    /// A ramp's token says what the ramps before it were.
    ramps_kept: bool,
    /// A commit is refused unless its lease is still held.
    lease_compared: bool,
    /// A fill is dropped whose tag was invalidated since its load began.
    token_compared: bool,
    /// So is one that finds no token, if anything was invalidated since its load began.
    note_consulted: bool,
    /// So is one that finds a token that another fill made since.
    created_tokens_doubted: bool,
    /// The entry is read behind the lease.
    read_behind_lease: bool,
    /// A load knows when it began before it reads.
    dated_first: bool,
    /// A token that was known and is gone is not written again.
    lost_stays_lost: bool,
    /// A reply is not kept if a push came after its request was sent.
    push_beats_answer: bool,
    /// The first tier's entries are void with the connection that brought them.
    near_ends_with_connection: bool,
    /// Pushes are applied by the reader, between the replies before and after them.
    pushes_in_order: bool,
}

/// Two nodes load, and reading is asking the server.
const FILLS: Protocol = Protocol {
    changes: 2,
    losses: Some(1),
    loads: 2,
    reads: false,
    every_way: true,
    ramps: false,
    ramps_fence: true,
    ramps_kept: true,
    lease_compared: true,
    token_compared: true,
    note_consulted: true,
    created_tokens_doubted: true,
    read_behind_lease: true,
    dated_first: true,
    lost_stays_lost: true,
    push_beats_answer: true,
    near_ends_with_connection: true,
    pushes_in_order: true,
};

/// One node loads, another one reads.
const READS: Protocol = Protocol { losses: Some(1), loads: 1, reads: true, every_way: false, ..FILLS };

/// Two nodes load, another one reads.
const ALL: Protocol = Protocol { changes: 1, losses: Some(1), reads: true, every_way: false, ..FILLS };

/// Two nodes load, and tags are softened over windows.
const RAMPED_FILLS: Protocol = Protocol { ramps: true, every_way: false, ..FILLS };

/// One node loads, another one reads, and tags are softened over windows.
const RAMPED_READS: Protocol = Protocol { ramps: true, changes: 1, ..READS };

impl Protocol {
    /// Visits every state there is; panics with the way to one that must not be.
    fn explore(self) {
        let checker = self.checker().threads(2).spawn_bfs().join();
        println!("{} steps between {} states", checker.state_count(), checker.unique_state_count());
        checker.assert_properties();
    }

    /// The shortest way to a stale read, or to a load too many; panics if there is none.
    fn counterexample(self) -> Vec<Action> {
        let checker = self.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checker.discoveries();
        let path: Option<Path<State, Action>> = [STORE_NEVER_STALE, NEVER_STALE, NEAR_NEVER_STALE, ONE_LOAD]
            .into_iter()
            .find_map(|name| found.get(name).cloned());
        let actions = path.expect("a bug is found").into_actions();
        println!("{actions:?}");
        actions
    }
}

/// The number of a change of the data.
type Version = u8;
/// Tells tokens apart.
type Name = u8;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    truth: Version,
    floor: Floor,
    /// The ramps that there were.
    ramps: Vec<Ramp>,
    invalidation: Invalidation,
    /// The losses that may still happen.
    losses: Option<u8>,
    entry: Option<Entry>,
    lease: Option<usize>,
    token: Option<Token>,
    loads: Vec<Loader>,
    reader: Node,
    /// Whether a read over the connection returned what it must not.
    stale: bool,
    /// Whether a load began for what was there.
    wasted: bool,
}

/// The oldest version that a read that begins now may return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Floor {
    /// By the last invalidation that was acknowledged.
    any: Version,
    /// As something fresh: by the ramps in which the key's turn has come.
    fresh: Version,
}

impl Floor {
    fn permits(self, (version, fresh): (Version, bool)) -> bool {
        version >= self.any && (!fresh || version >= self.fresh)
    }
}

/// A soft invalidation of the tag over a window: from one token to the next of the same line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ramp {
    from: Name,
    to: Name,
    truth: Version,
    /// Whether the key's turn has come.
    turned: bool,
}

/// Whether what carries one token may be used while its tag has the other, and then, whether it is fresh.
fn freshness(ramps: &[Ramp], mut stamp: Name, token: Name) -> Option<bool> {
    let mut fresh = true;
    while stamp != token {
        let ramp = ramps.iter().find(|ramp| ramp.from == stamp && ramp.to != stamp)?;
        fresh &= !ramp.turned;
        stamp = ramp.to;
    }
    Some(fresh)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Invalidation {
    None,
    /// The truth changed.
    Due,
    /// Of the tag, under way.
    Noted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Entry {
    version: Version,
    /// The token of its tag.
    stamp: Name,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Token {
    name: Name,
    /// By an invalidation; otherwise by a fill that found none.
    invalidated: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Node {
    /// Whether it is this node that invalidates; otherwise it hears of it.
    invalidates: bool,
    /// The keys that the server tracks for this node's connection.
    tracked: Tracked,
    /// On its way from the server.
    inbox: VecDeque<Message>,
    near: Option<Entry>,
    /// Whether what is being read now may be kept in the first tier.
    near_asked: bool,
    token: Slot,
    read: Read,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Tracked {
    entry: bool,
    tag: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Message {
    Entry(Option<Entry>),
    Token(Option<Name>),
    EntryChanged,
    TagChanged,
}

/// The tag in a connection's token table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Slot {
    #[default]
    Unknown,
    Asked,
    Known(Name),
}

/// A read over the connection, and what it must not return less than.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Read {
    #[default]
    None,
    Getting(Floor),
    Got(Floor, Entry),
    AskingToken(Floor, Option<Entry>),
    ToldToken(Floor, Option<Entry>, Option<Name>),
}

/// A node that loads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Loader {
    load: Load,
    /// The token as it was read at some time; it may have changed since.
    known: Option<Known>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Known {
    token: Token,
    /// Whether it says that it was made since the load began.
    since: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Load {
    #[default]
    None,
    /// What was there is of no use. `changed`: it is no longer what was seen.
    Looked {
        changed: bool,
    },
    /// The lease is taken after that.
    Taken {
        changed: bool,
    },
    /// The lease is taken by a look-up.
    Claimed,
    /// With a guard taken out: it has read, and does not know when it began.
    Undated(Version),
    /// The server's clock is left out: instead, a load knows what came since it began.
    Began {
        version: Version,
        /// Whether any tag was invalidated, or the server forgot when one last was.
        noted: bool,
        /// Whether the tag got a token, by its own word.
        token_made: bool,
        /// Whether the other load under way began before.
        second: bool,
    },
    Stamped(Entry),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    ChangeTruth,
    InvalidateKey,
    Note,
    InvalidateTag,
    Ramp,
    /// In this one of the ramps.
    TurnComes(usize),
    LeaseRunsOut,
    LoseToken,
    LoseNote,
    Get,
    GetAnother,
    /// The message at this place of the inbox.
    Deliver(usize),
    Handle,
    Look(usize),
    Take(usize),
    Claim(usize),
    Begin(usize),
    Date(usize),
    Learn(usize),
    CommitBelieved(usize),
    CommitCompared(usize),
    Stamp(usize),
    Commit(usize),
    Reconnect,
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        [false, true].map(|invalidates| State::new(self, invalidates)).into()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        match state.invalidation {
            Invalidation::None if state.truth < self.changes => actions.push(Action::ChangeTruth),
            Invalidation::None => {}
            Invalidation::Due => {
                actions.extend([Action::InvalidateKey, Action::Note]);
                actions.extend((self.ramps && !self.ramps_fence).then_some(Action::Ramp));
            }
            Invalidation::Noted => {
                actions.push(Action::InvalidateTag);
                actions.extend(self.ramps.then_some(Action::Ramp));
            }
        }
        let turns = state.ramps.iter().enumerate().filter(|(_, ramp)| !ramp.turned);
        actions.extend(turns.map(|(number, _)| Action::TurnComes(number)));
        if state.losses != Some(0) {
            actions.extend(state.lease.map(|_| Action::LeaseRunsOut));
            actions.extend(state.token.map(|_| Action::LoseToken));
            if state.loads.iter().any(|loader| matches!(loader.load, Load::Began { noted: false, .. })) {
                actions.push(Action::LoseNote);
            }
            if state.reader.uses_connection() {
                actions.push(Action::Reconnect);
            }
        }
        for (id, loader) in state.loads.iter().enumerate() {
            self.load_on(state, id, *loader, actions);
        }
        let reader = &state.reader;
        match reader.read {
            Read::None if self.reads => {
                actions.push(Action::Get);
                if reader.token == Slot::Unknown {
                    actions.push(Action::GetAnother);
                }
            }
            Read::None => {}
            Read::Got(..) | Read::ToldToken(..) => actions.push(Action::Handle),
            Read::Getting(_) | Read::AskingToken(..) => {}
        }
        for (place, message) in reader.inbox.iter().enumerate() {
            if place == 0 || (!self.pushes_in_order && message.is_reply()) {
                actions.push(Action::Deliver(place));
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        if matches!(action, Action::LeaseRunsOut | Action::LoseToken | Action::LoseNote | Action::Reconnect) {
            state.losses = state.losses.map(|losses| losses - 1);
        }
        match action {
            Action::ChangeTruth => {
                state.truth += 1;
                state.invalidation = Invalidation::Due;
            }
            Action::InvalidateKey => {
                state.lease = None;
                if state.entry.is_some() {
                    state.change_entry(None);
                }
                if state.reader.invalidates {
                    state.reader.forget_entry();
                }
                state.acknowledge();
            }
            Action::Note => {
                state.note();
                state.invalidation = Invalidation::Noted;
            }
            Action::InvalidateTag => {
                state.make_token(true, None);
                if state.reader.invalidates {
                    state.reader.token = Slot::Unknown;
                }
                state.acknowledge();
            }
            Action::Ramp => {
                let before = state.token;
                let to = state.make_token(self.ramps_fence, None).name;
                if !self.ramps_kept {
                    state.ramps.iter_mut().for_each(|ramp| (ramp.to, ramp.turned) = (to, false));
                }
                // If there was no token, nothing is of this line, and all is void.
                let from = before.map_or(to, |before| before.name);
                state.ramps.push(Ramp { from, to, truth: state.truth, turned: false });
                if state.reader.invalidates {
                    state.reader.token = Slot::Unknown;
                }
                state.invalidation = Invalidation::None;
            }
            Action::TurnComes(number) => {
                let ramp = &mut state.ramps[number];
                ramp.turned = true;
                state.floor.fresh = state.floor.fresh.max(ramp.truth);
            }
            Action::LeaseRunsOut => state.lease = None,
            Action::LoseToken => {
                state.token = None;
                state.reader.hear_that_the_tag_changed();
            }
            // The next process that needs the note finds none, and writes the moment: for a load that has begun, that is as good as now.
            Action::LoseNote => state.note(),
            Action::Get => state.reader.get(state.entry, state.floor),
            Action::GetAnother => state.reader.ask_token(state.token, state.floor, None),
            Action::Deliver(place) => state.reader.deliver(place),
            Action::Handle => self.handle(&mut state),
            Action::Look(id) => state.loads[id].load = Load::Looked { changed: false },
            Action::Take(id) => {
                let Load::Looked { changed } = state.loads[id].load else { return None };
                state.lease = Some(id);
                state.loads[id].load = Load::Taken { changed };
            }
            Action::Claim(id) => {
                state.lease = Some(id);
                state.loads[id].load = Load::Claimed;
            }
            Action::Begin(id) => self.begin(&mut state, id),
            Action::Date(id) => {
                let Load::Undated(version) = state.loads[id].load else { return None };
                state.date(id, version);
            }
            Action::Learn(id) => state.learn(id),
            Action::CommitBelieved(id) => self.commit_believed(&mut state, id),
            Action::CommitCompared(id) => self.commit_compared(&mut state, id),
            Action::Stamp(id) => self.stamp(&mut state, id),
            Action::Commit(id) => {
                let Load::Stamped(entry) = state.loads[id].load else { return None };
                self.write(&mut state, id, entry);
            }
            Action::Reconnect => {
                state.reader.reconnect();
                if self.near_ends_with_connection {
                    state.reader.near = None;
                }
            }
        }
        state.rename_tokens();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(STORE_NEVER_STALE, |_, state: &State| {
                state.valid().is_none_or(|(entry, fresh)| state.floor.permits((entry.version, fresh)))
            }),
            Property::always(NEVER_STALE, |_, state: &State| !state.stale),
            Property::always(ONE_LOAD, |_, state: &State| !state.wasted),
            Property::always(NEAR_NEVER_STALE, |_, state: &State| {
                let reader = &state.reader;
                let heard = reader.invalidates || reader.inbox.iter().all(|message| message.is_reply());
                !heard || reader.near_hit(&state.ramps).is_none_or(|hit| state.floor.permits(hit))
            }),
            // Without these, a model in which nothing ever happens would do.
            Property::sometimes("a load is overtaken", |_, state: &State| {
                state
                    .loads
                    .iter()
                    .any(|loader| matches!(loader.load, Load::Began { version, .. } if version < state.floor.any.max(state.floor.fresh)))
            }),
            Property::sometimes("a believed token is out of date", |_, state: &State| {
                let out_of_date = |known: Known| state.token.is_none_or(|token| token.name != known.token.name);
                state.loads.iter().any(|loader| loader.known.is_some_and(out_of_date))
            }),
            Property::sometimes("the last version is stored and served", |protocol: &Self, state: &State| {
                let stored = state.entry.is_some_and(|entry| entry.version == protocol.changes);
                let hit = state.reader.near_hit(&state.ramps);
                let served = !protocol.reads || hit == Some((protocol.changes, true));
                state.floor.any == protocol.changes && stored && served
            }),
        ]
    }
}

impl Protocol {
    fn handle(&self, state: &mut State) {
        let reader = &mut state.reader;
        let (floor, entry, freshness) = match std::mem::take(&mut reader.read) {
            Read::Got(floor, entry) => match reader.token {
                Slot::Known(token) => (floor, entry, freshness(&state.ramps, entry.stamp, token)),
                Slot::Unknown | Slot::Asked => {
                    reader.ask_token(state.token, floor, Some(entry));
                    return;
                }
            },
            Read::ToldToken(floor, entry, token) => {
                if reader.token == Slot::Asked || !self.push_beats_answer {
                    reader.token = token.map_or(Slot::Unknown, Slot::Known);
                }
                let Some(entry) = entry else { return };
                (floor, entry, token.and_then(|token| freshness(&state.ramps, entry.stamp, token)))
            }
            Read::None | Read::Getting(_) | Read::AskingToken(..) => return,
        };
        let kept = std::mem::take(&mut reader.near_asked) || !self.push_beats_answer;
        if let Some(fresh) = freshness {
            if kept {
                reader.near = Some(entry);
            }
            state.stale |= !floor.permits((entry.version, fresh));
        }
    }

    /// The next actions of the node that loads, of this number.
    fn load_on(&self, state: &State, id: usize, loader: Loader, actions: &mut Vec<Action>) {
        match loader.load {
            Load::None => {
                if self.every_way && state.fresh().is_none() {
                    actions.push(Action::Look(id));
                }
                if state.lease.is_none() {
                    actions.push(Action::Claim(id));
                }
            }
            Load::Looked { .. } if state.lease.is_none() => actions.push(Action::Take(id)),
            Load::Looked { .. } => {}
            Load::Taken { .. } | Load::Claimed => actions.push(Action::Begin(id)),
            Load::Undated(_) => actions.push(Action::Date(id)),
            Load::Began { .. } => {
                actions.push(Action::CommitCompared(id));
                if self.every_way {
                    actions.push(Action::Stamp(id));
                }
                actions.extend(loader.known.map(|_| Action::CommitBelieved(id)));
                if state.token.is_some() && loader.known.map(|known| known.token) != state.token {
                    actions.push(Action::Learn(id));
                }
            }
            Load::Stamped(_) => actions.push(Action::Commit(id)),
        }
    }

    /// Looks at the entry behind the lease, and begins to load if that is of no use.
    fn begin(&self, state: &mut State, id: usize) {
        let as_seen = match state.loads[id].load {
            Load::Taken { changed } => !changed,
            _ => state.fresh().is_none(),
        };
        if self.read_behind_lease && !as_seen {
            state.release(id);
            return;
        }
        state.wasted |= state.lease == Some(id) && state.fresh().is_some();
        let version = state.truth;
        if self.dated_first {
            state.date(id, version);
        } else {
            state.loads[id].load = Load::Undated(version);
        }
    }

    /// Whether a fill is void that carries this token; `None` if that is for the note to say.
    fn is_overtaken(&self, Known { token, since }: Known) -> Option<bool> {
        match (token.invalidated, since) {
            (true, since) => Some(since && self.token_compared),
            (false, true) if self.created_tokens_doubted => None,
            (false, _) => Some(false),
        }
    }

    /// With the token that is known, and not compared.
    fn commit_believed(&self, state: &mut State, id: usize) {
        let Loader { load: Load::Began { version, noted, .. }, known: Some(known) } = state.loads[id] else { return };
        if self.is_overtaken(known).unwrap_or(noted && self.note_consulted) {
            state.release(id);
        } else {
            self.write(state, id, Entry { version, stamp: known.token.name });
        }
    }

    /// With the token that is known, or a new one, if that is what the tag has; otherwise, what it has is known from then on.
    fn commit_compared(&self, state: &mut State, id: usize) {
        let Loader { load: Load::Began { version, noted, .. }, known } = state.loads[id] else { return };
        match (state.token, known) {
            (Some(token), Some(known)) if token == known.token => self.commit_believed(state, id),
            (Some(_), _) => state.learn(id),
            (None, Some(known)) if !self.lost_stays_lost => {
                state.token = Some(known.token);
                self.commit_believed(state, id);
            }
            (None, Some(_)) => state.loads[id].known = None,
            (None, None) if noted && self.note_consulted => state.release(id),
            (None, None) => {
                if state.lease == Some(id) || !self.lease_compared {
                    let token = state.make_token(false, Some(id));
                    self.write(state, id, Entry { version, stamp: token.name });
                } else {
                    state.release(id);
                }
            }
        }
    }

    fn stamp(&self, state: &mut State, id: usize) {
        let Load::Began { version, noted, token_made, .. } = state.loads[id].load else { return };
        let found = state.token;
        let token = found.unwrap_or_else(|| state.make_token(false, None));
        let known = Known { token, since: found.is_none() || token_made };
        if self.is_overtaken(known).unwrap_or(noted && self.note_consulted) {
            state.release(id);
        } else {
            state.leave(id, Load::Stamped(Entry { version, stamp: token.name }));
        }
    }

    /// Writes, if the lease is still held, and ends it.
    fn write(&self, state: &mut State, id: usize, entry: Entry) {
        if state.lease == Some(id) || !self.lease_compared {
            state.lease = None;
            state.change_entry(Some(entry));
        }
        state.leave(id, Load::None);
    }
}

impl State {
    fn new(protocol: &Protocol, reader_invalidates: bool) -> Self {
        Self {
            truth: 0,
            floor: Floor::default(),
            ramps: Vec::new(),
            invalidation: Invalidation::None,
            losses: protocol.losses,
            entry: None,
            lease: None,
            token: None,
            loads: vec![Loader::default(); protocol.loads],
            reader: Node { invalidates: reader_invalidates, ..Node::default() },
            stale: false,
            wasted: false,
        }
    }

    /// The entry, if its tag's token says that it may be used, and whether it is fresh.
    fn valid(&self) -> Option<(Entry, bool)> {
        let entry = self.entry?;
        freshness(&self.ramps, entry.stamp, self.token?.name).map(|fresh| (entry, fresh))
    }

    /// The entry, if it is fresh.
    fn fresh(&self) -> Option<Entry> {
        self.valid().and_then(|(entry, fresh)| fresh.then_some(entry))
    }

    fn note(&mut self) {
        for loader in &mut self.loads {
            if let Load::Began { noted, .. } = &mut loader.load {
                *noted = true;
            }
        }
    }

    /// There is another entry, or none any more.
    fn change_entry(&mut self, entry: Option<Entry>) {
        self.entry = entry;
        for loader in &mut self.loads {
            if let Load::Looked { changed } | Load::Taken { changed } = &mut loader.load {
                *changed = true;
            }
        }
        self.reader.hear_that_the_entry_changed();
    }

    /// The load knows from now on what comes after it began.
    fn date(&mut self, id: usize, version: Version) {
        let second = self.loads.iter().any(|loader| matches!(loader.load, Load::Began { .. }));
        let loader = &mut self.loads[id];
        loader.load = Load::Began { version, noted: false, token_made: false, second };
        loader.known.iter_mut().for_each(|known| known.since = false);
    }

    fn learn(&mut self, id: usize) {
        let (token, loader) = (self.token, &mut self.loads[id]);
        let since = matches!(loader.load, Load::Began { token_made: true, .. });
        loader.known = token.map(|token| Known { token, since });
    }

    /// The load is no longer one that may make a token.
    fn leave(&mut self, id: usize, load: Load) {
        self.loads[id].load = load;
        for loader in &mut self.loads {
            if let Load::Began { second, .. } = &mut loader.load {
                *second = false;
            }
        }
    }

    /// The load has ended without anything to store.
    fn release(&mut self, id: usize) {
        self.leave(id, Load::None);
        if self.lease == Some(id) {
            self.lease = None;
        }
    }

    /// A new token for the tag: dated now or, if it is a load's, when that began.
    fn make_token(&mut self, invalidated: bool, by: Option<usize>) -> Token {
        let of_first = by.is_some_and(|id| matches!(self.loads[id].load, Load::Began { second: false, .. }));
        for (id, loader) in self.loads.iter_mut().enumerate() {
            if let Load::Began { token_made, .. } = &mut loader.load {
                // The load that began first dates the token before the other one began.
                *token_made |= by == Some(id) || !of_first;
            }
        }
        // Another one than there is anywhere; before the next step, it has a smaller one.
        let token = Token { name: Name::MAX, invalidated };
        self.token = Some(token);
        self.reader.hear_that_the_tag_changed();
        token
    }

    fn acknowledge(&mut self) {
        self.floor.any = self.truth;
        self.invalidation = Invalidation::None;
    }

    /// Tokens are only ever told apart: states that differ in nothing but their names are one.
    fn rename_tokens(&mut self) {
        let mut names = Vec::new();
        self.each_name(|name| {
            let place = names.iter().position(|known| known == name).unwrap_or_else(|| {
                names.push(*name);
                names.len() - 1
            });
            *name = place as Name;
        });
    }

    fn each_name(&mut self, mut visit: impl FnMut(&mut Name)) {
        self.entry.iter_mut().for_each(|entry| visit(&mut entry.stamp));
        self.token.iter_mut().for_each(|token| visit(&mut token.name));
        for Ramp { from, to, .. } in &mut self.ramps {
            visit(from);
            visit(to);
        }
        for Loader { load, known } in &mut self.loads {
            if let Load::Stamped(entry) = load {
                visit(&mut entry.stamp);
            }
            known.iter_mut().for_each(|known| visit(&mut known.token.name));
        }
        let reader = &mut self.reader;
        for message in &mut reader.inbox {
            match message {
                Message::Entry(entry) => entry.iter_mut().for_each(|entry| visit(&mut entry.stamp)),
                Message::Token(token) => token.iter_mut().for_each(&mut visit),
                Message::EntryChanged | Message::TagChanged => {}
            }
        }
        reader.near.iter_mut().for_each(|entry| visit(&mut entry.stamp));
        if let Slot::Known(token) = &mut reader.token {
            visit(token);
        }
        match &mut reader.read {
            Read::None | Read::Getting(_) => {}
            Read::Got(_, entry) => visit(&mut entry.stamp),
            Read::AskingToken(_, entry) => entry.iter_mut().for_each(|entry| visit(&mut entry.stamp)),
            Read::ToldToken(_, entry, token) => {
                entry.iter_mut().for_each(|entry| visit(&mut entry.stamp));
                token.iter_mut().for_each(&mut visit);
            }
        }
    }
}

impl Node {
    /// The result of a read in the first tier now. `local_tier.rs`: `get`.
    fn near_hit(&self, ramps: &[Ramp]) -> Option<(Version, bool)> {
        let (entry, Slot::Known(token)) = (self.near?, self.token) else { return None };
        freshness(ramps, entry.stamp, token).map(|fresh| (entry.version, fresh))
    }

    fn get(&mut self, entry: Option<Entry>, floor: Floor) {
        self.near_asked = true;
        self.tracked.entry = true;
        self.inbox.push_back(Message::Entry(entry));
        self.read = Read::Getting(floor);
    }

    fn ask_token(&mut self, token: Option<Token>, floor: Floor, entry: Option<Entry>) {
        self.read = Read::AskingToken(floor, entry);
        self.token = Slot::Asked;
        self.tracked.tag = true;
        self.inbox.push_back(Message::Token(token.map(|token| token.name)));
    }

    fn hear_that_the_entry_changed(&mut self) {
        if std::mem::take(&mut self.tracked.entry) {
            self.inbox.push_back(Message::EntryChanged);
        }
    }

    fn hear_that_the_tag_changed(&mut self) {
        if std::mem::take(&mut self.tracked.tag) {
            self.inbox.push_back(Message::TagChanged);
        }
    }

    fn deliver(&mut self, place: usize) {
        match (self.inbox.remove(place), self.read) {
            (Some(Message::EntryChanged), _) => self.forget_entry(),
            (Some(Message::TagChanged), _) => self.token = Slot::Unknown,
            (Some(Message::Entry(Some(entry))), Read::Getting(floor)) => self.read = Read::Got(floor, entry),
            (Some(Message::Entry(None)), _) => {
                self.read = Read::None;
                self.near_asked = false;
            }
            (Some(Message::Token(token)), Read::AskingToken(floor, entry)) => {
                self.read = Read::ToldToken(floor, entry, token);
            }
            (message, read) => unreachable!("{message:?} is no answer to {read:?}"),
        }
    }

    fn forget_entry(&mut self) {
        self.near = None;
        self.near_asked = false;
    }

    fn uses_connection(&self) -> bool {
        self.tracked != Tracked::default() || !self.inbox.is_empty() || self.read != Read::None
    }

    /// Reads under way fail with their connection; a load goes on, and is committed over the next one.
    fn reconnect(&mut self) {
        self.near_asked = false;
        self.token = Slot::Unknown;
        self.tracked = Tracked::default();
        self.inbox.clear();
        self.read = Read::None;
    }
}

impl Message {
    fn is_reply(self) -> bool {
        matches!(self, Self::Entry(_) | Self::Token(_))
    }
}
