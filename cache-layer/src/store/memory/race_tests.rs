//! Bans and their sweep beside look-ups and loads, in threads of their own. Without one of the guards that these tests are for, the
//! order that it prevents comes up within the rounds.

use std::thread;

use bytes::Bytes;

use super::*;
use crate::entry::Deadlines;

/// How often an order is given the chance to come up.
const ROUNDS: u64 = 50_000;

fn key() -> Key {
    Key::new(["raced"])
}

fn lease(inner: &Inner) -> Lease {
    match inner.acquire(&key(), Seen::Unusable, Failures::Ignore) {
        Acquired::Granted(lease) => lease,
        other => panic!("{other:?}"),
    }
}

/// Stores a version, if the lease is still held.
fn commit(inner: &Inner, lease: &Lease, version: u64) {
    let deadlines = Deadlines::fresh_until(Clock::system().now() + 60_000);
    let payload = Bytes::copy_from_slice(&version.to_be_bytes());
    let entry = Entry::new(EntryId::random(), &key(), deadlines, Bytes::new(), payload);
    let writes = Writes { entries: vec![(key(), entry)].into(), guard: None };
    inner.commit(lease, &writes, &Tags::default());
}

fn found(lookup: Lookup) -> Option<Entry> {
    match lookup {
        Lookup::Found(entry) => Some(entry),
        Lookup::Absent | Lookup::Rejected(..) => None,
    }
}

fn ban(inner: &Inner, pattern: &Pattern) {
    assert!(inner.ban(pattern, Hardness::Hard), "there is room");
}

/// Does what the lurker does.
fn sweep(inner: &Inner) {
    let bans = inner.bans.read().clone();
    for shard in 0..inner.entries.shards() {
        inner.sweep(shard, &bans);
    }
    inner.take_off(&bans);
}

/// Ends the thread beside, also if this one panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Repeats `change` while another thread repeats `beside`; returns the first round after which `is_wrong`.
fn race(
    beside: impl Fn(&Inner) + Sync,
    change: impl Fn(&Inner, u64),
    is_wrong: impl Fn(&Inner, u64) -> bool,
) -> Option<u64> {
    let (store, ended) = (MemoryStore::new(1 << 20), AtomicBool::new(false));
    let inner = &*store.0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                beside(inner);
            }
        });
        let _ends = Ends(&ended);
        (1..=ROUNDS).find(|&round| {
            change(inner, round);
            is_wrong(inner, round)
        })
    })
}

fn is_older(inner: &Inner, version: u64) -> bool {
    found(inner.lookup(&key())).is_some_and(|entry| entry.payload()[..] < version.to_be_bytes()[..])
}

#[test]
fn no_load_is_stored_between_the_ban_and_the_end_of_its_lease() {
    let (version, all) = (AtomicU64::new(0), Pattern::new("*"));
    let load = |inner: &Inner| {
        let lease = lease(inner);
        commit(inner, &lease, version.load(Ordering::SeqCst));
    };
    let change = |inner: &Inner, round| {
        version.store(round, Ordering::SeqCst);
        ban(inner, &all);
    };
    assert_eq!(race(load, change, is_older), None);
}

#[test]
fn what_was_found_before_a_sweep_is_not_judged_by_the_list_after_it() {
    let store = MemoryStore::new(1 << 20);
    let (inner, looks) = (&*store.0, Cell::new(0));
    commit(inner, &lease(inner), 1);
    ban(inner, &Pattern::new("*"));
    let lookup = inner.while_bans_stay(|| {
        let entry = inner.entries.get(key().hash());
        assert_eq!(entry.is_some(), looks.get() == 0);
        if looks.replace(looks.get() + 1) == 0 {
            sweep(inner);
        }
        inner.judge(&key(), entry)
    });
    assert!(matches!(lookup, Lookup::Absent), "{lookup:?}");
    assert_eq!(looks.get(), 2);
}

#[test]
fn who_no_longer_finds_a_ban_finds_that_it_was_taken_off() {
    let (store, all, listed) = (MemoryStore::new(1 << 20), Pattern::new("*"), AtomicU64::new(0));
    let inner = &*store.0;
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                ban(inner, &all);
                listed.store(round, Ordering::SeqCst);
                let bans = inner.bans.read().clone();
                inner.take_off(&bans);
            }
        });
        let mut round = 0;
        while round < ROUNDS {
            round = listed.load(Ordering::SeqCst);
            let is_gone = inner.bans.read().is_empty();
            let taken_off = inner.taken_off.load(Ordering::SeqCst);
            assert!(!is_gone || taken_off >= round, "{taken_off} of {round}");
        }
    });
}
