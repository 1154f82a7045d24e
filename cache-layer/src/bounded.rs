//! Maps with a bound: their contents only save work, so that any of them may be dropped.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// How many keys a map may have, and what happens when it is full and one more is added.
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
    /// A full map is emptied: for contents that are cheap to learn again.
    pub(crate) const fn starting_anew(most: usize) -> Self {
        Self { most, when_full: WhenFull::StartAnew }
    }

    /// A full map takes no more: for contents that code relies on while they are there.
    pub(crate) const fn refusing(most: usize) -> Self {
        Self { most, when_full: WhenFull::Refuse }
    }

    /// A map that is bounded elsewhere.
    pub(crate) const fn none() -> Self {
        Self::refusing(usize::MAX)
    }

    /// Makes room in `map` for `more` keys; `false` if there is none.
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

/// The common operations of a hashed map and an ordered one.
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
