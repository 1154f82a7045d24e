//! Values by name, found with a few comparisons of numbers.

/// Values by hosts, or by segments of paths: a hash table with open addressing, at most half full.
#[derive(Clone, Debug)]
pub(super) struct NameTable<T> {
    /// None, or a power of two.
    slots: Vec<Option<Slot<T>>>,
    /// The bits of a hash beside those that say the slot, which are its highest.
    shift: u32,
    count: usize,
}

#[derive(Clone, Debug)]
struct Slot<T> {
    first: u64,
    last: u64,
    text: Box<[u8]>,
    value: T,
}

/// A name with its first and last eight bytes as numbers, which are compared faster; of a shorter one, all bytes are in the second
/// number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a> {
    first: u64,
    last: u64,
    text: &'a [u8],
}

/// The slots of the smallest table.
const FEWEST: usize = 8;

impl<T> Default for NameTable<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), shift: 0, count: 0 }
    }
}

impl<T> NameTable<T> {
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    #[inline(always)]
    pub(super) fn get(&self, name: Name<'_>) -> Option<&T> {
        let mut at = self.first_place(name);
        // An empty table has no slot at any place.
        while let Some(slot) = self.slots.get(at)?.as_ref() {
            if slot.is_of(name) {
                return Some(&slot.value);
            }
            at = self.next_place(at);
        }
        None
    }

    #[inline(always)]
    fn first_place(&self, name: Name<'_>) -> usize {
        (name.hash() >> self.shift) as usize
    }

    #[inline(always)]
    fn next_place(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }

    /// The place of a name: where it is, or where it belongs. There must be a free slot.
    fn place(&self, name: Name<'_>) -> usize {
        let mut at = self.first_place(name);
        while self.slots[at].as_ref().is_some_and(|slot| !slot.is_of(name)) {
            at = self.next_place(at);
        }
        at
    }

    fn grow(&mut self) {
        let slots = (2 * self.slots.len()).max(FEWEST);
        let former = std::mem::take(&mut self.slots);
        self.slots.resize_with(slots, || None);
        self.shift = u64::BITS - slots.trailing_zeros();
        for slot in former.into_iter().flatten() {
            let at = self.place(Name::of(&slot.text));
            self.slots[at] = Some(slot);
        }
    }
}

impl<T: Default> NameTable<T> {
    pub(super) fn get_or_insert(&mut self, text: &[u8]) -> &mut T {
        if 2 * (self.count + 1) > self.slots.len() {
            self.grow();
        }
        let name @ Name { first, last, .. } = Name::of(text);
        let at = self.place(name);
        let slot = &mut self.slots[at];
        self.count += usize::from(slot.is_none());
        let new = || Slot { first, last, text: text.into(), value: T::default() };
        &mut slot.get_or_insert_with(new).value
    }
}

impl<T> Slot<T> {
    #[inline(always)]
    fn is_of(&self, name: Name<'_>) -> bool {
        (self.first, self.last, self.text.len()) == (name.first, name.last, name.text.len())
            && (self.text.len() <= Name::SHORT || *self.text == *name.text)
    }
}

impl<'a> Name<'a> {
    /// Names of up to this many bytes are the same if their lengths and their numbers are.
    const SHORT: usize = 2 * size_of::<u64>();

    #[inline(always)]
    pub(super) fn of(text: &'a [u8]) -> Self {
        let (first, last) = match (text.first_chunk(), text.last_chunk()) {
            (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
            _ => (0, text.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte))),
        };
        Self { first, last, text }
    }

    /// Fast, and not safe against chosen names. Only the owner of the rules chooses those that are in a table: requests are looked
    /// up and never inserted.
    #[inline(always)]
    fn hash(self) -> u64 {
        let word = self.first.rotate_left(29) ^ self.last ^ self.text.len() as u64;
        // The golden ratio: the highest bits of a product depend on all of its factors'.
        word.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Of any length, and often alike but for one byte.
        #[test]
        fn names_are_the_same_if_their_bytes_are(one in "[ab]{0,30}", other in "[ab]{0,30}", at in any::<usize>()) {
            let mut close = one.clone().into_bytes();
            if !close.is_empty() {
                let at = at % close.len();
                close[at] ^= 1;
            }
            let mut names = NameTable::default();
            *names.get_or_insert(one.as_bytes()) = true;
            for other in [one.as_bytes(), other.as_bytes(), &close] {
                prop_assert_eq!(names.get(Name::of(other)), (one.as_bytes() == other).then_some(&true));
            }
        }

        #[test]
        fn a_table_finds_what_a_map_finds(
            inserted in prop::collection::vec("[ab]{0,9}|[a-z]{14,18}", 0..100),
            others in prop::collection::vec("[ab]{0,9}|[a-z]{14,18}", 0..20),
        ) {
            let (mut names, mut map) = (NameTable::default(), HashMap::new());
            for (number, name) in inserted.iter().enumerate() {
                *names.get_or_insert(name.as_bytes()) = number;
                map.insert(name.as_bytes(), number);
            }
            prop_assert_eq!(names.is_empty(), map.is_empty());
            for name in inserted.iter().chain(&others).map(String::as_bytes) {
                prop_assert_eq!(names.get(Name::of(name)), map.get(name));
            }
        }
    }

    #[test]
    fn an_empty_table_has_nothing() {
        let names = NameTable::<()>::default();
        assert!(names.is_empty() && names.get(Name::of(b"")).is_none() && names.get(Name::of(b"products")).is_none());
    }
}
