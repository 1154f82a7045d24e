//! What [`Tracked`] keeps of a read, by the pushes that come before and after its reply.

use super::tracked::{Tracked, TrackedRanges};
use crate::bounded::Bound;

fn table(bound: Bound) -> Tracked<&'static str, u32> {
    Tracked::new(bound)
}

#[test]
fn what_was_read_is_known_until_it_changes() {
    let tracked = table(Bound::none());
    tracked.begin_read("a").complete(1);
    assert_eq!(tracked.get("a"), Some(1));
    tracked.void("a");
    assert_eq!(tracked.get("a"), None);
    tracked.begin_read("a").complete(2);
    tracked.void_all();
    assert_eq!((tracked.get("a"), tracked.len()), (None, 0));
}

#[test]
fn a_change_while_a_read_is_under_way_wins_over_its_value() {
    let tracked = table(Bound::none());
    let (by_key, by_all) = (tracked.begin_read("a"), tracked.begin_read("b"));
    tracked.void("a");
    by_key.complete(1);
    tracked.void_all();
    by_all.complete(1);
    assert_eq!((tracked.get("a"), tracked.get("b"), tracked.len()), (None, None, 0));
}

#[test]
fn a_change_of_another_key_leaves_a_read_alone() {
    let tracked = table(Bound::none());
    let ticket = tracked.begin_read("a");
    tracked.void("b");
    ticket.complete(1);
    assert_eq!(tracked.get("a"), Some(1));
}

#[test]
fn of_two_reads_of_a_key_the_one_that_began_last_counts() {
    let tracked = table(Bound::none());
    let first = tracked.begin_read("a");
    tracked.void("a");
    let second = tracked.begin_read("a");
    first.complete(1);
    assert_eq!(tracked.get("a"), None);
    second.complete(2);
    assert_eq!(tracked.get("a"), Some(2));
}

#[test]
fn what_is_known_is_unknown_while_it_is_read_again() {
    let tracked = table(Bound::none());
    tracked.begin_read("a").complete(1);
    let ticket = tracked.begin_read("a");
    assert_eq!(tracked.get("a"), None);
    ticket.complete(2);
    assert_eq!(tracked.get("a"), Some(2));
}

#[test]
fn a_read_without_a_value_leaves_nothing_behind() {
    let tracked = table(Bound::none());
    drop(tracked.begin_read("a"));
    assert_eq!(tracked.len(), 0);
    let first = tracked.begin_read("a");
    let second = tracked.begin_read("a");
    drop(first);
    second.complete(2);
    assert_eq!(tracked.get("a"), Some(2));
    tracked.begin_read("a").void();
    assert_eq!(tracked.len(), 0);
}

#[test]
fn a_value_that_is_kept_elsewhere_is_put_there_only_if_it_did_not_change() {
    let tracked = table(Bound::none());
    let mut kept = Vec::new();
    let overtaken = tracked.begin_read("a");
    tracked.void("a");
    overtaken.complete_with(|| {
        kept.push(1);
        None
    });
    tracked.begin_read("a").complete_with(|| {
        kept.push(2);
        None
    });
    assert_eq!((kept, tracked.len()), (vec![2], 0));
}

#[test]
fn many_keys_are_read_at_once_and_each_is_completed_alone() {
    let tracked = table(Bound::none());
    let tickets = tracked.begin_reads(["a", "b", "c"].into_iter());
    tracked.void("b");
    for (ticket, value) in tickets.into_iter().zip([Some(1), Some(2), None]) {
        if let Some(value) = value {
            ticket.complete(value);
        }
    }
    let known = tracked.look(|known| ["a", "b", "c"].map(|key| known.get(key).copied()));
    assert_eq!((known, tracked.len()), ([Some(1), None, None], 1));
}

#[test]
fn only_what_is_there_is_read_again() {
    let tracked = table(Bound::none());
    assert!(tracked.begin_read_again("a").is_none());
    tracked.begin_read("a").complete(1);
    tracked.begin_read_again("a").unwrap().complete(2);
    assert_eq!(tracked.get("a"), Some(2));
}

#[test]
fn a_full_table_starts_anew_or_takes_no_more() {
    let anew = table(Bound::starting_anew(2));
    for key in ["a", "b", "c"] {
        anew.begin_read(key).complete(1);
    }
    assert_eq!((anew.get("a"), anew.get("c"), anew.len()), (None, Some(1), 1));

    let refusing = table(Bound::refusing(2));
    for key in ["a", "b", "c"] {
        refusing.begin_read(key).complete(1);
    }
    assert_eq!((refusing.get("a"), refusing.get("c"), refusing.len()), (Some(1), None, 2));
}

#[test]
fn a_range_changes_together_with_the_reads_in_it() {
    let tracked = TrackedRanges::<u32, u32>::new(Bound::none());
    for key in 1..=4 {
        tracked.begin_read(key).complete(key);
    }
    let under_way = tracked.begin_read(3);
    tracked.void_range(2..=4, |key| *key != 4);
    under_way.complete(9);
    assert_eq!([1, 2, 3, 4].map(|key| tracked.get(&key)), [Some(1), None, None, Some(4)]);

    let under_way = tracked.begin_read_again(4).unwrap();
    tracked.set_range(2..=4, &7);
    under_way.complete(9);
    assert_eq!([1, 2, 3, 4].map(|key| tracked.get(&key)), [Some(1), None, None, Some(7)]);
}
