//! The names of our keys in Redis. `{…}` makes an entry, its variants and its lease share a cluster slot; what follows
//! is for people and patterns.
//!
//! | name | holds |
//! |---|---|
//! | `<prefix>:e:{<digest>}:<variant or ->:<readable>` | an entry |
//! | `<prefix>:l:{<digest>}:<variant or ->:<readable>` | its lease: the holder's token, or `!u`, recently uncacheable |
//! | `<prefix>:t:<tag>` | the tag's token |
//! | `<prefix>:i` | when a tag was last invalidated |

use std::fmt::Write as _;

use crate::key::{Key, KeyId};

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named<'a> {
    Tag(&'a str),
    Entry(KeyId),
    Lease(KeyId),
    LastInvalidation,
}

#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn entry(&self, key: &Key) -> String {
        self.of_key('e', key)
    }

    pub(super) fn lease(&self, key: &Key) -> String {
        self.of_key('l', key)
    }

    pub(super) fn tag(&self, tag: &str) -> String {
        format!("{}:t:{tag}", self.prefix)
    }

    pub(super) fn last_invalidation(&self) -> String {
        format!("{}:i", self.prefix)
    }

    /// What a name stands for; `None` if it is none of ours, or nobody keeps what it stands for.
    pub(super) fn parse<'a>(&self, name: &'a [u8]) -> Option<Named<'a>> {
        let name = name.strip_prefix(self.prefix.as_bytes())?;
        if let Some(tag) = name.strip_prefix(b":t:") {
            return str::from_utf8(tag).ok().map(Named::Tag);
        }
        if name == b":i" {
            return Some(Named::LastInvalidation);
        }
        let of_key: fn(KeyId) -> Named<'a> = match name.get(..4)? {
            b":e:{" => Named::Entry,
            b":l:{" => Named::Lease,
            _ => return None,
        };
        let (primary, rest) = name[4..].split_at_checked(32)?;
        let variant = rest.strip_prefix(b"}:")?;
        let variant = match variant.strip_prefix(b"-:") {
            Some(_) => KeyId::PRIMARY,
            None => parse_hex(variant.get(..32)?)?,
        };
        Some(of_key(KeyId { primary: parse_hex(primary)?, variant }))
    }

    fn of_key(&self, kind: char, key: &Key) -> String {
        let id = key.id();
        let mut name = String::with_capacity(self.prefix.len() + 80 + key.canonical().len());
        name.push_str(&self.prefix);
        name.push(':');
        name.push(kind);
        name.push_str(":{");
        push_hex(&mut name, &id.primary);
        name.push_str("}:");
        if id.is_variant() {
            push_hex(&mut name, &id.variant);
        } else {
            name.push('-');
        }
        name.push(':');
        name.push_str(&key.readable());
        name
    }
}

fn parse_hex(digits: &[u8]) -> Option<[u8; 16]> {
    let number = u128::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    Some(number.to_be_bytes())
}

fn push_hex(name: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string can't fail.
        let _ = write!(name, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_its_variants_and_its_lease_share_a_slot() {
        let names = Names::new("shop");
        let key = Key::new(["http://", "a", "/x"]);
        let slot = |name: &str| name[name.find('{').unwrap()..=name.find('}').unwrap()].to_owned();
        let entry = names.entry(&key);
        assert!(entry.starts_with("shop:e:{") && entry.ends_with("}:-:http://a/x"), "{entry}");
        assert_eq!(slot(&entry), slot(&names.lease(&key)));
        assert_eq!(slot(&entry), slot(&names.entry(&key.variant(b"de"))));
        assert_ne!(entry, names.entry(&key.variant(b"de")));
    }

    #[test]
    fn what_a_name_stands_for_is_found_again() {
        let names = Names::new("shop");
        assert_eq!(names.parse(names.tag("product:1").as_bytes()), Some(Named::Tag("product:1")));
        // A readable part that looks like a variant is none.
        let key = Key::new(["http://a/", &"0".repeat(32), ":e:{}"]);
        for key in [key.clone(), key.variant(b"de")] {
            assert_eq!(names.parse(names.entry(&key).as_bytes()), Some(Named::Entry(key.id())));
            assert_eq!(names.parse(names.lease(&key).as_bytes()), Some(Named::Lease(key.id())));
        }
        assert_eq!(names.parse(names.last_invalidation().as_bytes()), Some(Named::LastInvalidation));
        assert_eq!(names.parse(b"shop:x:{00"), None);
        assert_eq!(names.parse(b"other:t:product:1"), None);
        assert_eq!(names.parse(b"shop:e:{00"), None);
    }
}
