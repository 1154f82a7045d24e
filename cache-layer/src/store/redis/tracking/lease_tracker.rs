//! The leases that were granted over a connection, and whether they still stand as far as the connection knows.
//!
//! A lease is taken with tracking on: of its own key, of the last invalidation and, for a variant, of the primary entry. The
//! server pushes when one of them changes: a lease is [tracked](super::tracked) like a tag. So if a load's lease stands here, no
//! invalidation since the grant has made its reads over this connection wrong.

use super::tracked::{RangesTicket, TrackedRanges};
use crate::{
    bounded::Bound,
    key::{Key, KeyId},
    store::{Lease, LeaseToken},
};

/// The most leases that are known at one time. Further ones count as overtaken.
const MOST: usize = 10_000;

type Place = (KeyId, LeaseToken);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Standing,
    /// The lease was extended, or it is gone.
    Unknown,
}

/// A lease that is not in this table is overtaken, and stays so.
#[derive(Debug)]
pub(crate) struct LeaseTracker(TrackedRanges<Place, State>);

/// A lease that is being asked for; it is forgotten when it is dropped without a grant.
pub(crate) struct PendingLease<'a>(Option<RangesTicket<'a, Place, State>>);

impl Default for LeaseTracker {
    fn default() -> Self {
        Self(TrackedRanges::new(Bound::refusing(MOST)))
    }
}

impl LeaseTracker {
    /// Announces that a lease on `key` is about to be asked for. To be called before the command is sent.
    pub(crate) fn begin(&self, key: &Key, token: LeaseToken) -> PendingLease<'_> {
        PendingLease(Some(self.0.begin_read((key.id(), token))))
    }

    /// Announces that a lease that is held is about to be read again; `None` if it is overtaken for good.
    pub(crate) fn begin_again(&self, lease: &Lease) -> Option<PendingLease<'_>> {
        self.0.begin_read_again(place(lease)).map(|ticket| PendingLease(Some(ticket)))
    }

    pub(crate) fn stands(&self, lease: &Lease) -> bool {
        self.0.get(&place(lease)) == Some(State::Standing)
    }

    /// Whether there is a lease on the key of this id, or one is being asked for.
    pub(crate) fn has_any(&self, id: KeyId) -> bool {
        self.0.has_any((id, [0; 16])..=(id, [0xff; 16]))
    }

    /// The lease has ended.
    pub(crate) fn end(&self, lease: &Lease) {
        self.0.void(&place(lease));
    }

    /// Something happened to the lease on the key of this id.
    pub(crate) fn mark_unknown(&self, id: KeyId) {
        self.0.set_range((id, [0; 16])..=(id, [0xff; 16]), &State::Unknown);
    }

    /// The primary entry changed, on which the loads of its variants depend.
    pub(crate) fn revoke_variants(&self, primary: KeyId) {
        self.revoke(primary, KeyId::is_variant);
    }

    /// The key was invalidated, with all its variants.
    pub(crate) fn revoke_key(&self, primary: KeyId) {
        self.revoke(primary, |_| true);
    }

    /// Any key may have been invalidated, or invalidations are no longer received.
    pub(crate) fn revoke_all(&self) {
        self.0.void_all();
    }

    fn revoke(&self, primary: KeyId, which: impl Fn(KeyId) -> bool) {
        let first = KeyId { variant: [0; 16], ..primary };
        let last = KeyId { variant: [0xff; 16], ..primary };
        self.0.void_range((first, [0; 16])..=(last, [0xff; 16]), |(id, _)| which(*id));
    }
}

fn place(lease: &Lease) -> Place {
    (lease.key.id(), lease.token)
}

impl PendingLease<'_> {
    /// Records that the lease is held; returns whether it stands, as it does unless something happened to it since it was asked
    /// for.
    pub(crate) fn granted(mut self) -> bool {
        self.0.take().is_some_and(|ticket| ticket.complete(State::Standing))
    }
}

impl Drop for PendingLease<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.0.take() {
            ticket.void();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(key: &Key) -> Lease {
        Lease::new(key, *b"0123456789abcdef", *b"000000000000000a")
    }

    fn granted(leases: &LeaseTracker, key: &Key) -> Lease {
        let lease = lease(key);
        leases.begin(key, lease.token).granted();
        lease
    }

    #[test]
    fn a_push_while_a_lease_is_being_taken_wins_over_the_grant() {
        let (leases, key) = (LeaseTracker::default(), Key::new(["k"]));
        let pending = leases.begin(&key, lease(&key).token);
        leases.mark_unknown(key.id());
        pending.granted();
        assert!(!leases.stands(&lease(&key)));
        leases.begin_again(&lease(&key)).unwrap().granted();
        assert!(leases.stands(&lease(&key)));
    }

    #[test]
    fn what_is_revoked_can_not_be_asked_about_again() {
        let (leases, key) = (LeaseTracker::default(), Key::new(["k"]));
        let lease = granted(&leases, &key);
        leases.revoke_all();
        assert!(!leases.stands(&lease) && leases.begin_again(&lease).is_none());
    }

    #[test]
    fn a_primary_entry_that_changes_revokes_the_leases_of_its_variants_alone() {
        let (leases, key) = (LeaseTracker::default(), Key::new(["k"]));
        let [primary, variant, other] =
            [key.clone(), key.variant(b"de"), Key::new(["other"])].map(|key| granted(&leases, &key));
        leases.revoke_variants(key.id());
        assert_eq!([&primary, &variant, &other].map(|lease| leases.stands(lease)), [true, false, true]);
        leases.revoke_key(key.id());
        assert_eq!([&primary, &other].map(|lease| leases.stands(lease)), [false, true]);
    }

    #[test]
    fn a_lease_that_was_not_granted_leaves_nothing_behind() {
        let (leases, key) = (LeaseTracker::default(), Key::new(["k"]));
        drop(leases.begin(&key, lease(&key).token));
        let pending = leases.begin(&key, lease(&key).token);
        leases.mark_unknown(key.id());
        drop(pending);
        assert_eq!(leases.0.len(), 0);
    }

    #[test]
    fn the_table_is_bounded() {
        let leases = LeaseTracker::default();
        for i in 0..MOST + 10 {
            granted(&leases, &Key::new([i.to_string()]));
        }
        assert_eq!(leases.0.len(), MOST);
    }
}
