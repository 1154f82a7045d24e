//! The knowledge that the library's Redis store has of a server, in every order in which threads can reach it: the source itself, with
//! the locks of [loom], which runs each test once for each order.
//!
//! Each guard is left out in turn, too, and then loom must find the order that it is there for.

use std::collections::HashMap;

use bounded::Bound;
use futures_util::FutureExt as _;
use key::KeyId;
use loom::{sync::Arc, thread};
use tracked::Tracked;
use waiters::{Waiter, Waiters};

#[path = "../../cache-layer/src/bounded.rs"]
#[expect(dead_code, reason = "the library uses the rest")]
mod bounded;
#[path = "../../cache-layer/src/store/redis/tracking/tracked.rs"]
#[expect(dead_code, reason = "the library uses the rest")]
mod tracked;
#[path = "../../cache-layer/src/store/redis/tracking/waiters.rs"]
#[expect(dead_code, reason = "the library uses the rest")]
mod waiters;

mod key {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) struct KeyId(pub(crate) u32);
}

/// As the library's `sync`, with loom's locks.
mod sync {
    use loom::sync::MutexGuard;

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Self::new(T::default())
        }
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}

const KEY: u32 = 1;
const OLD: u32 = 0;
const NEW: u32 = 1;

/// A server that pushes, once, when what was read from it changes.
struct Server(sync::Mutex<State>);

struct State {
    value: u32,
    tracks: bool,
}

impl Server {
    fn new() -> Self {
        Self(sync::Mutex::new(State { value: OLD, tracks: false }))
    }

    fn read(&self) -> u32 {
        let mut state = self.0.lock();
        state.tracks = true;
        state.value
    }

    /// Whether to push that it changed. The push is applied some time later.
    #[must_use]
    fn write(&self, value: u32) -> bool {
        let mut state = self.0.lock();
        state.value = value;
        std::mem::take(&mut state.tracks)
    }
}

/// Runs `test` once for each order of what its threads do, as far as none of them is interrupted more than three times, which
/// is more than any of these mistakes takes.
fn model(test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(test);
}

/// Runs `read` in so many threads while the server's value changes and `push` is applied, and then `check`.
fn explore<T: Send + Sync + 'static>(
    readers: usize,
    make: fn() -> T,
    read: fn(&T, &Server),
    push: fn(&T),
    known: fn(&T) -> Option<u32>,
) {
    model(move || {
        let shared = Arc::new((make(), Server::new()));
        let threads: Vec<_> = (0..readers)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || read(&shared.0, &shared.1))
            })
            .collect();
        if shared.1.write(NEW) {
            push(&shared.0);
            assert_ne!(known(&shared.0), Some(OLD), "known to be out of date after the push");
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert_ne!(known(&shared.0), Some(OLD), "known to be out of date for ever");
    });
}

type Table = Tracked<u32, u32>;

fn table() -> Table {
    Tracked::new(Bound::none())
}

fn read(table: &Table, server: &Server) {
    let ticket = table.begin_read(KEY);
    ticket.complete(server.read());
}

fn push(table: &Table) {
    table.void(&KEY);
}

fn known(table: &Table) -> Option<u32> {
    table.get(&KEY)
}

#[test]
fn what_is_known_is_what_the_server_has() {
    explore(1, table, read, push, known);
}

#[test]
fn readers_of_one_key_do_not_mislead_each_other() {
    explore(2, table, read, push, known);
}

#[test]
fn a_push_that_voids_everything_counts_as_well() {
    explore(2, table, read, |table| table.void_all(), known);
}

#[test]
fn a_reader_that_gives_up_misleads_nobody_and_leaves_nothing_behind() {
    model(|| {
        let shared = Arc::new((table(), Server::new()));
        let threads = [true, false].map(|gives_up| {
            let shared = shared.clone();
            thread::spawn(move || {
                let ticket = shared.0.begin_read(KEY);
                let value = shared.1.read();
                if gives_up {
                    drop(ticket);
                } else {
                    ticket.complete(value);
                }
            })
        });
        if shared.1.write(NEW) {
            push(&shared.0);
        }
        for thread in threads {
            thread.join().unwrap();
        }
        let known = known(&shared.0);
        assert_ne!(known, Some(OLD));
        assert_eq!(shared.0.len(), usize::from(known.is_some()), "a placeholder is left behind");
    });
}

#[test]
#[should_panic(expected = "known to be out of date")]
fn a_read_that_begins_after_the_server_answered_would_be_out_of_date() {
    let read_first = |table: &Table, server: &Server| {
        let value = server.read();
        table.begin_read(KEY).complete(value);
    };
    explore(1, table, read_first, push, known);
}

/// A table without placeholders.
type Plain = sync::Mutex<HashMap<u32, u32>>;

#[test]
#[should_panic(expected = "known to be out of date")]
fn without_a_placeholder_the_value_would_be_out_of_date() {
    let read = |plain: &Plain, server: &Server| {
        let value = server.read();
        plain.lock().insert(KEY, value);
    };
    let push = |plain: &Plain| {
        plain.lock().remove(&KEY);
    };
    explore(1, || Plain::new(HashMap::new()), read, push, |plain| plain.lock().get(&KEY).copied());
}

/// Values that are kept elsewhere, as the first tier keeps its entries.
struct Tier {
    reads: Table,
    entries: Plain,
}

impl Tier {
    fn new() -> Self {
        Self { reads: table(), entries: Plain::new(HashMap::new()) }
    }

    fn read(&self, server: &Server) {
        let ticket = self.reads.begin_read(KEY);
        let value = server.read();
        ticket.complete_with(|| {
            self.entries.lock().insert(KEY, value);
            None
        });
    }

    fn push(&self) {
        self.reads.void(&KEY);
        self.entries.lock().remove(&KEY);
    }

    fn known(&self) -> Option<u32> {
        self.entries.lock().get(&KEY).copied()
    }
}

#[test]
fn what_is_kept_elsewhere_is_what_the_server_has() {
    explore(2, Tier::new, Tier::read, Tier::push, Tier::known);
}

#[test]
#[should_panic(expected = "known to be out of date")]
fn what_is_removed_elsewhere_before_its_read_is_void_would_come_back() {
    let push = |tier: &Tier| {
        tier.entries.lock().remove(&KEY);
        tier.reads.void(&KEY);
    };
    explore(1, Tier::new, Tier::read, push, Tier::known);
}

const LEASE: KeyId = KeyId(1);

/// Begins to wait for the end of a lease as `wait` does, which tells whether it is held, while another one comes and goes
/// and the lease ends.
fn wait_for_the_end(wait: for<'a> fn(&'a Waiters, &Server) -> (Waiter<'a>, bool)) {
    model(move || {
        let shared = Arc::new((Waiters::default(), Server::new()));
        let threads = [
            |waiters: &Waiters, server: &Server| {
                if server.write(NEW) {
                    waiters.wake(LEASE);
                }
            },
            |waiters: &Waiters, _: &Server| drop(waiters.join(LEASE)),
        ]
        .map(|act| {
            let shared = shared.clone();
            thread::spawn(move || act(&shared.0, &shared.1))
        });
        let (waiter, held) = wait(&shared.0, &shared.1);
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(!held || waiter.woken().now_or_never().is_some(), "nobody wakes the waiter");
        drop(waiter);
        assert_eq!(shared.0.len(), 0, "a waker is left behind");
    });
}

#[test]
fn who_waits_for_a_lease_is_woken_when_it_ends() {
    wait_for_the_end(|waiters, server| {
        let waiter = waiters.join(LEASE);
        let held = server.read() == OLD;
        (waiter, held)
    });
}

#[test]
#[should_panic(expected = "nobody wakes the waiter")]
fn who_begins_to_wait_after_the_lease_was_read_would_not_be_woken() {
    wait_for_the_end(|waiters, server| {
        let held = server.read() == OLD;
        (waiters.join(LEASE), held)
    });
}
