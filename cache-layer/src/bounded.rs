//! Maps that stop growing: what is remembered in one of them only saves work, so that any of it may be given up.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// How many keys a map may have, and what becomes of it when it is full and one more comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    most: usize,
    when_full: WhenFull,
}

#[derive(Clone, Copy, Debug)]
enum WhenFull {
    StartAnew,
    Refuse,
}

impl Bound {
    /// A full map is emptied: for what is found out again at a small price, and by all at once.
    pub(crate) const fn starting_anew(most: usize) -> Self {
        Self { most, when_full: WhenFull::StartAnew }
    }

    /// A full map takes no more: for what somebody relies on while it is there.
    pub(crate) const fn refusing(most: usize) -> Self {
        Self { most, when_full: WhenFull::Refuse }
    }

    /// A map that something else bounds.
    pub(crate) const fn none() -> Self {
        Self::refusing(usize::MAX)
    }

    /// Makes room in `map` for so many `more`; `false` if there is none.
    pub(crate) fn make_room<K, V>(self, map: &mut impl Map<K, V>, more: usize) -> bool {
        let full = map.len().saturating_add(more) > self.most;
        match self.when_full {
            WhenFull::Refuse => !full,
            WhenFull::StartAnew => {
                if full {
                    map.clear();
                }
                true
            }
        }
    }
}

/// What a hashed map and an ordered one have in common.
pub(crate) trait Map<K, V>: Default {
    fn len(&self) -> usize;

    fn get<Q: Hash + Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>;

    fn get_mut<Q: Hash + Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>;

    fn insert(&mut self, key: K, value: V);

    fn remove<Q: Hash + Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>;

    fn clear(&mut self);
}

/// The methods are those that both maps have, by the same names.
macro_rules! map {
    ($map:ident, $($bound:path),+) => {
        impl<K: $($bound +)+ , V> Map<K, V> for $map<K, V> {
            fn len(&self) -> usize {
                self.len()
            }

            fn get<Q: Hash + Ord + ?Sized>(&self, key: &Q) -> Option<&V>
            where
                K: Borrow<Q>,
            {
                self.get(key)
            }

            fn get_mut<Q: Hash + Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
            where
                K: Borrow<Q>,
            {
                self.get_mut(key)
            }

            fn insert(&mut self, key: K, value: V) {
                self.insert(key, value);
            }

            fn remove<Q: Hash + Ord + ?Sized>(&mut self, key: &Q)
            where
                K: Borrow<Q>,
            {
                self.remove(key);
            }

            fn clear(&mut self) {
                self.clear();
            }
        }
    };
}

map!(HashMap, Hash, Eq);
map!(BTreeMap, Ord);
