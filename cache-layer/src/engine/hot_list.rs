//! The list of hot keys that a process leaves for others, as bytes. Its reader does not trust them.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the version, `1` |
//! | 8 | the node that left it |
//! | then, for each key: 4 | samples |
//! | 2 | the length of the key |
//! | as many | the key, in the form that entries carry |
//!
//! Numbers are big-endian.

use std::collections::HashMap;

use super::hot::{Canonical, LONGEST_KEY};
use crate::{key::Key, space_saving::Counted};

const VERSION: u8 = b'1';
/// The most bytes of a list.
pub(super) const LONGEST: usize = 256 * 1024;
/// The number of bytes before each key.
const HEAD: usize = 6;

/// The list of a node, of as many of these keys as fit, from the first on.
pub(crate) fn write(node: u64, counted: &[Counted<Canonical>]) -> Vec<u8> {
    let mut list = vec![VERSION];
    list.extend_from_slice(&node.to_be_bytes());
    for one in counted {
        let length = u16::try_from(one.key.len()).unwrap_or(u16::MAX);
        if one.key.len() > LONGEST_KEY || list.len() + HEAD + one.key.len() > LONGEST {
            continue;
        }
        list.extend_from_slice(&u32::try_from(one.sum).unwrap_or(u32::MAX).to_be_bytes());
        list.extend_from_slice(&length.to_be_bytes());
        list.extend_from_slice(&one.key);
    }
    list
}

/// The node of a list, and its keys with their samples; `None` if the bytes are not a list, to the last byte.
pub(crate) fn read(list: &[u8]) -> Option<(u64, Vec<(Key, u64)>)> {
    if list.len() > LONGEST {
        return None;
    }
    let (node, mut rest) = list.strip_prefix(&[VERSION])?.split_first_chunk()?;
    let mut keys = Vec::new();
    while !rest.is_empty() {
        let (samples, tail) = rest.split_first_chunk()?;
        let (length, tail) = tail.split_first_chunk()?;
        let (canonical, tail) = tail.split_at_checked(u16::from_be_bytes(*length).into())?;
        if canonical.len() > LONGEST_KEY {
            return None;
        }
        keys.push((Key::parse_canonical(canonical)?, u32::from_be_bytes(*samples).into()));
        rest = tail;
    }
    Some((u64::from_be_bytes(*node), keys))
}

/// The keys of these lists, those with the most samples first: of each node its newest list, which comes first here, and none of
/// the node `own`; and the number of lists that could not be read.
pub(crate) fn merge<L: AsRef<[u8]>>(lists: &[L], own: Option<u64>) -> Merged {
    let (mut nodes, mut refused) = (Vec::new(), 0);
    let mut samples: HashMap<Canonical, (Key, u64)> = HashMap::new();
    for list in lists {
        let Some((node, keys)) = read(list.as_ref()) else {
            refused += 1;
            continue;
        };
        if Some(node) == own || nodes.contains(&node) {
            continue;
        }
        nodes.push(node);
        for (key, count) in keys {
            samples.entry(key.canonical().into()).or_insert((key, 0)).1 += count;
        }
    }
    let mut keys: Vec<(Key, u64)> = samples.into_values().collect();
    keys.sort_by_key(|(_, samples)| std::cmp::Reverse(*samples));
    Merged { keys: keys.into_iter().map(|(key, _)| key).collect(), nodes: nodes.len(), refused }
}

/// The merged content of several lists.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) keys: Vec<Key>,
    pub(crate) nodes: usize,
    pub(crate) refused: usize,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::space_saving::SpaceSaving;

    fn counted(keys: &[(Key, u64)]) -> Vec<Counted<Canonical>> {
        let mut sketch = SpaceSaving::new(keys.len());
        keys.iter().for_each(|(key, sum)| sketch.add(&key.canonical().into(), *sum));
        SpaceSaving::merged([&sketch])
    }

    fn key(name: &str) -> Key {
        Key::new(["http://", "shop", name])
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let keys = [(key("/a"), 7), (key("/b").variant(b"de"), 5), (key(""), 1)];
        let (node, read) = read(&write(9, &counted(&keys))).unwrap();
        assert_eq!((node, read), (9, keys.to_vec()));
    }

    #[test]
    fn what_does_not_fit_in_is_left_out() {
        let long = "x".repeat(900);
        let keys: Vec<_> = (0..1000).map(|n| (key(&format!("{n}{long}")), 1000 - n)).collect();
        let list = write(1, &counted(&keys));
        assert!(list.len() <= LONGEST);
        let read = read(&list).unwrap().1;
        assert!(read.len() > 200 && read[0].0 == keys[0].0, "{}", read.len());
    }

    #[test]
    fn the_last_list_of_each_node_counts_and_none_of_the_reader() {
        let list = |node, keys: &[(&str, u64)]| {
            write(node, &counted(&keys.iter().map(|(name, sum)| (key(name), *sum)).collect::<Vec<_>>()))
        };
        let lists = [
            list(1, &[("/a", 5), ("/b", 4)]),
            list(2, &[("/b", 4), ("/c", 1)]),
            list(1, &[("/old", 99)]),
            list(3, &[("/own", 99)]),
            b"nonsense".to_vec(),
        ];
        let merged = merge(&lists, Some(3));
        assert_eq!(merged.keys, [key("/b"), key("/a"), key("/c")]);
        assert_eq!((merged.nodes, merged.refused), (2, 1));
    }

    proptest! {
        /// Whatever the bytes are, nothing panics, and bytes that read as a list are written in the same way.
        #[test]
        fn bytes_of_any_kind_are_a_list_or_none(mut bytes in prop::collection::vec(any::<u8>(), 0..200), begin: bool) {
            if begin && bytes.len() > 9 {
                bytes[0] = VERSION;
            }
            if let Some((_, keys)) = read(&bytes) {
                prop_assert!(keys.iter().all(|(key, _)| Key::parse_canonical(key.canonical()).as_ref() == Some(key)));
            }
        }

        #[test]
        fn a_list_that_is_cut_or_changed_never_panics(cut in 0_usize..100, at in 0_usize..100, by: u8) {
            let mut list = write(7, &counted(&[(key("/a"), 2), (key("/b").variant(b"v"), 1)]));
            list.truncate(list.len().saturating_sub(cut));
            if let Some(byte) = list.get_mut(at) {
                *byte ^= by;
            }
            let _ = read(&list);
        }
    }
}
