//! Leases that were granted over a connection, and whether they still stand as far as it knows.
//!
//! A lease is taken with tracking on: of its own key, of the last invalidation and, for a variant, of the primary entry.
//! The server pushes when one of them changes, and pushes are applied in order with replies, as for
//! [`tokens`](super::tokens). So whoever read over this connection, and finds a lease standing here, reads nothing that
//! an invalidation since the grant made wrong.

use std::{collections::BTreeMap, sync::MutexGuard};

use crate::{
    key::{Key, KeyId},
    store::Lease,
    sync::Mutex,
};

/// Leases known at one time. Those beyond count as overtaken.
const CAP: usize = 10_000;

type Token = [u8; 16];

#[derive(Debug, PartialEq, Eq)]
enum Grant {
    /// A read is under way. Its answer counts only if no push came in the meantime.
    Asked(u64),
    Standing,
    /// Something happened to the lease: it was extended, or it is gone.
    Unsure,
}

/// A lease that is not in here is overtaken, and stays so.
#[derive(Debug, Default)]
pub(crate) struct Grants(Mutex<BTreeMap<(KeyId, Token), Grant>>);

/// A lease that is being asked for; forgotten when it is dropped without an answer.
pub(crate) struct Application<'a> {
    grants: &'a Grants,
    place: (KeyId, Token),
    question: u64,
    answered: bool,
}

impl Grants {
    fn table(&self) -> MutexGuard<'_, BTreeMap<(KeyId, Token), Grant>> {
        self.0.lock()
    }

    /// Says that a lease on `key` is about to be asked for. To be called before the question is sent.
    pub(crate) fn apply(&self, key: &Key, token: Token) -> Application<'_> {
        let (place, question) = ((key.id(), token), fastrand::u64(..));
        let mut table = self.table();
        if table.len() < CAP {
            table.insert(place, Grant::Asked(question));
        }
        Application { grants: self, place, question, answered: false }
    }

    /// Says that a lease that is held is about to be read again; `None` if it is overtaken for good.
    pub(crate) fn ask_again(&self, lease: &Lease) -> Option<Application<'_>> {
        let (place, question) = ((lease.key.id(), lease.token), fastrand::u64(..));
        let mut table = self.table();
        *table.get_mut(&place)? = Grant::Asked(question);
        Some(Application { grants: self, place, question, answered: false })
    }

    pub(crate) fn stands(&self, lease: &Lease) -> bool {
        self.table().get(&(lease.key.id(), lease.token)) == Some(&Grant::Standing)
    }

    /// The lease has ended.
    pub(crate) fn end(&self, lease: &Lease) {
        self.table().remove(&(lease.key.id(), lease.token));
    }

    /// Something happened to the lease on the key of this id.
    pub(crate) fn doubt(&self, id: KeyId) {
        let mut table = self.table();
        for (_, grant) in table.range_mut((id, [0; 16])..=(id, [0xff; 16])) {
            *grant = Grant::Unsure;
        }
    }

    /// The primary entry changed, which the loads of its variants build on.
    pub(crate) fn void_variants(&self, primary: KeyId) {
        self.void(KeyId { variant: [0; 16], ..primary }, |id| id.is_variant());
    }

    /// The key was invalidated, with all its variants.
    pub(crate) fn void_key(&self, primary: KeyId) {
        self.void(KeyId { variant: [0; 16], ..primary }, |_| true);
    }

    /// Something was invalidated that may be any key, or nobody will tell.
    pub(crate) fn void_all(&self) {
        self.table().clear();
    }

    fn void(&self, primary: KeyId, which: impl Fn(KeyId) -> bool) {
        let last = KeyId { variant: [0xff; 16], ..primary };
        let mut table = self.table();
        let voided: Vec<_> = table
            .range((primary, [0; 16])..=(last, [0xff; 16]))
            .map(|(place, _)| *place)
            .filter(|(id, _)| which(*id))
            .collect();
        for place in voided {
            table.remove(&place);
        }
    }
}

impl Application<'_> {
    /// The lease is held; it stands unless something happened to it since the question.
    pub(crate) fn granted(mut self) {
        self.answered = true;
        let mut table = self.grants.table();
        if let Some(grant) = table.get_mut(&self.place).filter(|grant| **grant == Grant::Asked(self.question)) {
            *grant = Grant::Standing;
        }
    }
}

impl Drop for Application<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.grants.table().remove(&self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(key: &Key) -> Lease {
        Lease::new(key, *b"0123456789abcdef", *b"000000000000000a")
    }

    fn granted(grants: &Grants, key: &Key) -> Lease {
        let lease = lease(key);
        grants.apply(key, lease.token).granted();
        lease
    }

    #[test]
    fn a_push_while_a_lease_is_being_taken_wins_over_the_grant() {
        let (grants, key) = (Grants::default(), Key::new(["k"]));
        let application = grants.apply(&key, lease(&key).token);
        grants.doubt(key.id());
        application.granted();
        assert!(!grants.stands(&lease(&key)));
        grants.ask_again(&lease(&key)).unwrap().granted();
        assert!(grants.stands(&lease(&key)));
    }

    #[test]
    fn what_is_void_can_not_be_asked_about_again() {
        let (grants, key) = (Grants::default(), Key::new(["k"]));
        let lease = granted(&grants, &key);
        grants.void_all();
        assert!(!grants.stands(&lease) && grants.ask_again(&lease).is_none());
    }

    #[test]
    fn a_primary_entry_that_changes_voids_the_loads_of_its_variants_alone() {
        let (grants, key) = (Grants::default(), Key::new(["k"]));
        let [primary, variant, other] =
            [key.clone(), key.variant(b"de"), Key::new(["other"])].map(|key| granted(&grants, &key));
        grants.void_variants(key.id());
        assert_eq!([&primary, &variant, &other].map(|lease| grants.stands(lease)), [true, false, true]);
        grants.void_key(key.id());
        assert_eq!([&primary, &other].map(|lease| grants.stands(lease)), [false, true]);
    }

    #[test]
    fn a_lease_that_was_not_granted_leaves_nothing_behind() {
        let (grants, key) = (Grants::default(), Key::new(["k"]));
        drop(grants.apply(&key, [b'0'; 16]));
        assert!(grants.table().is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let grants = Grants::default();
        for i in 0..CAP + 10 {
            granted(&grants, &Key::new([i.to_string()]));
        }
        assert_eq!(grants.table().len(), CAP);
    }
}
