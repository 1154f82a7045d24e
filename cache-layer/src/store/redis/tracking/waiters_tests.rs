//! [`Waiters`]: which waiter is woken by what, and that a waiter that goes away leaves nothing behind.

use futures_util::FutureExt as _;

use super::waiters::{Waiter, Waiters};
use crate::key::{Key, KeyId};

fn id(name: &str) -> KeyId {
    Key::new([name]).id()
}

fn is_woken(waiter: &Waiter<'_>) -> bool {
    waiter.woken().now_or_never().is_some()
}

#[test]
fn a_push_wakes_those_who_wait_for_its_key() {
    let waiters = Waiters::default();
    let [first, second, other] = ["a", "a", "b"].map(|name| waiters.join(id(name)));
    waiters.wake(id("a"));
    assert_eq!([&first, &second, &other].map(is_woken), [true, true, false]);
    waiters.wake_all();
    assert!(is_woken(&other));
}

#[test]
fn who_joins_after_a_push_waits_for_the_next_one_whatever_the_earlier_ones_do() {
    let waiters = Waiters::default();
    let earlier = waiters.join(id("a"));
    waiters.wake(id("a"));
    let later = waiters.join(id("a"));
    assert!(!is_woken(&later));
    drop(earlier);
    waiters.wake(id("a"));
    assert!(is_woken(&later));
}

#[test]
fn the_last_to_leave_leaves_nothing_behind() {
    let waiters = Waiters::default();
    let [first, second] = [(); 2].map(|()| waiters.join(id("a")));
    drop(first);
    assert_eq!(waiters.len(), 1);
    drop(second);
    assert_eq!(waiters.len(), 0);
}
