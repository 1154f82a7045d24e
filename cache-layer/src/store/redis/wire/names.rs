//! The names of the library's keys in Redis. `{…}` makes an entry, its variants and its lease share a cluster slot; the part
//! after it is for people and patterns.
//!
//! | name | holds |
//! |---|---|
//! | `<prefix>:e:{<digest>}:<variant or ->:<readable>` | an entry |
//! | `<prefix>:l:{<digest>}:<variant or ->:<readable>` | its lease: the holder's token, or how the load ended: see [`scripts`](super::scripts) |
//! | `<prefix>:v:{<digest>}:-:<readable>` | the variants that the entry leads to: their digests, one after the other |
//! | `<prefix>:t:<tag>` | the tag's token, followed by the [ramps](crate::ramp) that led to it |
//! | `<prefix>:t:` | the token of everything, followed by the [bans](crate::ban), too |
//! | `<prefix>:lurker`, `<prefix>:reclaimer` | the process that sweeps banned entries; the one that sweeps what tags have made void |
//! | `<prefix>:reclaimed` | the last invalidation before the last sweep of what tags have made void |
//! | `<prefix>:i` | when a tag was last invalidated |
//! | `<prefix>:switches` | the operator's switches, and until when they are on |
//! | `<prefix>:audit` | who changed what: a stream |
//! | `<prefix>:request:<id>` | which process carries out an operator's request, and then the answer |
//! | `<prefix>:hot` | the keys with most hits of each process, for processes that start: a stream |
//! | `<prefix>:id` | the server that had this data set last |
//! | `<prefix>:mark` | the data set id, which distinguishes this data set from every other one |
//!
//! In a cluster, tags and related keys lie in one slot, the prefix's own, so that one server's clock and order hold for them:
//! `<prefix>:t:{<prefix>}:<tag>`, `<prefix>:i:{<prefix>}:`, and `<prefix>:id:{<prefix>}:<node>` and
//! `<prefix>:mark:{<prefix>}:<node>` for each primary.

use std::{borrow::Cow, time::Duration};

use super::sealing::Sealing;
use crate::{
    hex,
    key::{Key, KeyId},
};

/// The tag that every entry carries: a new token of it voids all entries. A user's tag is never empty.
pub(crate) const EVERYTHING: &str = "";
/// The minimum life of that tag's token, which is renewed with every fill. Tokens of other tags are kept for as long as [the
/// entries that carry them](crate::store::redis::wire::token_life::lives).
pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// 15 hex digits, the middle of a [`TagToken`](crate::tag::TagToken).
pub(crate) fn nonce() -> String {
    format!("{:015x}", fastrand::u64(..1 << 60))
}

/// The meaning of a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named<'a> {
    Tag(Cow<'a, str>),
    Entry(KeyId),
    Lease(KeyId),
    LastInvalidation,
    Switches,
}

/// The kinds of names that a key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Entry,
    Lease,
    Variants,
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Self::Entry => 'e',
            Self::Lease => 'l',
            Self::Variants => 'v',
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Names {
    prefix: String,
    /// The part before tags, so that they share a slot in a cluster.
    tags: String,
    /// The names that are needed for each request.
    last_invalidation: String,
    switches: String,
    sealing: Sealing,
}

impl Names {
    pub(crate) fn new(prefix: &str) -> Self {
        Self::with(prefix, String::new())
    }

    fn with(prefix: &str, tags: String) -> Self {
        let [last_invalidation, switches] = ["i", "switches"].map(|kind| beside_tags(prefix, &tags, kind));
        Self { prefix: prefix.to_owned(), tags, last_invalidation, switches, sealing: Sealing::default() }
    }

    /// The same names for sealed entries: digests and tags are hidden, and there is no readable part.
    pub(crate) fn sealed(self, sealing: Sealing) -> Self {
        Self { sealing: sealing.bound_to(&self.prefix), ..self }
    }

    /// How the entries with these names are written.
    pub(crate) fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    /// The same names for a cluster.
    #[cfg(feature = "cluster")]
    pub(crate) fn clustered(prefix: &str) -> Self {
        Self::with(prefix, format!("{{{prefix}}}:"))
    }

    pub(crate) fn is_clustered(&self) -> bool {
        !self.tags.is_empty()
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn entry(&self, key: &Key) -> String {
        self.of_key(Kind::Entry, key)
    }

    pub(crate) fn lease(&self, key: &Key) -> String {
        self.of_key(Kind::Lease, key)
    }

    /// The name of what is known of the variants of a primary key.
    pub(crate) fn variants(&self, primary: &Key) -> String {
        self.of_key(Kind::Variants, primary)
    }

    /// A variant, as it appears in names.
    pub(crate) fn variant_digits(&self, variant: &Key) -> String {
        let mut digits = String::with_capacity(32);
        push_hex(&mut digits, &self.sealing.hide_id(variant.id().variant));
        digits
    }

    pub(crate) fn tag(&self, tag: &str) -> String {
        format!("{}:t:{}{}", self.prefix, self.tags, self.sealing.hide_tag(tag))
    }

    pub(crate) fn last_invalidation(&self) -> String {
        self.last_invalidation.clone()
    }

    pub(crate) fn switches(&self) -> String {
        self.switches.clone()
    }

    pub(crate) fn lurker(&self) -> String {
        self.beside_tags("lurker")
    }

    pub(crate) fn reclaimer(&self) -> String {
        self.beside_tags("reclaimer")
    }

    /// The name of the invalidation that was the last one when void entries were last reclaimed.
    pub(crate) fn reclaimed(&self) -> String {
        self.beside_tags("reclaimed")
    }

    pub(crate) fn audit(&self) -> String {
        self.beside_tags("audit")
    }

    /// The name of the record of an operator's request.
    pub(crate) fn request(&self, id: &str) -> String {
        format!("{}{}{id}", self.beside_tags("request"), if self.is_clustered() { "" } else { ":" })
    }

    pub(crate) fn hot(&self) -> String {
        self.beside_tags("hot")
    }

    pub(crate) fn identity(&self, server: &str) -> String {
        self.beside_tags("id") + server
    }

    pub(crate) fn dataset_id(&self, server: &str) -> String {
        self.beside_tags("mark") + server
    }

    fn beside_tags(&self, kind: &str) -> String {
        beside_tags(&self.prefix, &self.tags, kind)
    }

    /// The meaning of a name; `None` if the library has no such name, or keeps nothing of its kind.
    pub(crate) fn parse<'a>(&self, name: &'a [u8]) -> Option<Named<'a>> {
        if *name == *self.last_invalidation.as_bytes() {
            return Some(Named::LastInvalidation);
        }
        if *name == *self.switches.as_bytes() {
            return Some(Named::Switches);
        }
        if let Some(tag) = name.strip_prefix(self.prefix.as_bytes()).and_then(|name| name.strip_prefix(b":t:")) {
            let tag = str::from_utf8(tag).ok()?.strip_prefix(&self.tags)?;
            return self.sealing.reveal_tag(tag).map(Named::Tag);
        }
        let entry = self.parse_of(Kind::Entry, name).map(|(id, _)| Named::Entry(id));
        entry.or_else(|| self.parse_of(Kind::Lease, name).map(|(id, _)| Named::Lease(id)))
    }

    /// The key that a name of this kind belongs to, and its readable form.
    pub(crate) fn parse_of<'a>(&self, kind: Kind, name: &'a [u8]) -> Option<(KeyId, &'a [u8])> {
        let rest = name.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b":")?;
        let rest = rest.strip_prefix(&[kind.letter() as u8])?.strip_prefix(b":")?;
        let (primary, rest) = rest.strip_prefix(b"{")?.split_at_checked(32)?;
        let rest = rest.strip_prefix(b"}:")?;
        let (variant, readable) = match rest.strip_prefix(b"-:") {
            Some(readable) => (KeyId::PRIMARY, readable),
            None => {
                let (variant, rest) = rest.split_at_checked(32)?;
                (parse_hex(variant)?, rest.strip_prefix(b":")?)
            }
        };
        let revealed = |id: [u8; 16]| if id == KeyId::PRIMARY { id } else { self.sealing.reveal_id(id) };
        let primary = self.sealing.reveal_id(parse_hex(primary)?);
        Some((KeyId { primary, variant: revealed(variant) }, readable))
    }

    /// The prefix of all names of this kind.
    pub(crate) fn of_kind(&self, kind: Kind) -> String {
        format!("{}:{}:", self.prefix, kind.letter())
    }

    fn of_key(&self, kind: Kind, key: &Key) -> String {
        let id = key.id();
        let mut name = String::with_capacity(self.prefix.len() + 80 + key.canonical().len());
        name.push_str(&self.prefix);
        name.push(':');
        name.push(kind.letter());
        name.push_str(":{");
        push_hex(&mut name, &self.sealing.hide_id(id.primary));
        name.push_str("}:");
        if id.is_variant() {
            push_hex(&mut name, &self.sealing.hide_id(id.variant));
        } else {
            name.push('-');
        }
        name.push(':');
        if !self.sealing.hides_names() {
            key.push_readable(&mut name);
        }
        name
    }
}

fn beside_tags(prefix: &str, tags: &str, kind: &str) -> String {
    format!("{prefix}:{kind}{}{tags}", if tags.is_empty() { "" } else { ":" })
}

fn parse_hex(digits: &[u8]) -> Option<[u8; 16]> {
    let number = u128::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    Some(number.to_be_bytes())
}

fn push_hex(name: &mut String, digest: &[u8; 16]) {
    let number = u128::from_be_bytes(*digest);
    for half in [(number >> 64) as u64, number as u64] {
        name.push_str(str::from_utf8(&hex::of_u64(half)).unwrap_or_default());
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
        assert_eq!(names.parse(names.tag("product:1").as_bytes()), Some(Named::Tag("product:1".into())));
        // A readable part that looks like a variant is none.
        let key = Key::new(["http://a/", &"0".repeat(32), ":e:{}"]);
        for key in [key.clone(), key.variant(b"de")] {
            assert_eq!(names.parse(names.entry(&key).as_bytes()), Some(Named::Entry(key.id())));
            assert_eq!(names.parse(names.lease(&key).as_bytes()), Some(Named::Lease(key.id())));
            let readable = key.readable();
            for (kind, name) in [(Kind::Entry, names.entry(&key)), (Kind::Lease, names.lease(&key))] {
                assert_eq!(names.parse_of(kind, name.as_bytes()), Some((key.id(), readable.as_bytes())));
            }
        }
        assert_eq!(names.parse(names.last_invalidation().as_bytes()), Some(Named::LastInvalidation));
        assert_eq!(names.parse(names.identity("").as_bytes()), None);
        assert_eq!(names.parse(names.dataset_id("").as_bytes()), None);
        assert_eq!(names.parse(b"shop:x:{00"), None);
        assert_eq!(names.parse(b"other:t:product:1"), None);
        assert_eq!(names.parse(b"shop:e:{00"), None);
    }

    #[cfg(feature = "sealed")]
    #[test]
    fn hidden_names_are_found_again_by_those_who_have_the_secret() {
        let sealing =
            |secret| Sealing { ring: Some(crate::entry::KeyRing::new([secret; 32], [2; 32])), ..Sealing::default() };
        let names = Names::new("shop").sealed(sealing(1));
        let others = Names::new("shop").sealed(sealing(3));
        let key = Key::new(["http://a/", "secret"]);
        for key in [key.clone(), key.variant(b"de")] {
            let name = names.entry(&key);
            assert_eq!(names.parse(name.as_bytes()), Some(Named::Entry(key.id())));
            assert_eq!(names.parse(names.lease(&key).as_bytes()), Some(Named::Lease(key.id())));
            assert_ne!(others.parse(name.as_bytes()), Some(Named::Entry(key.id())));
            assert_ne!(others.entry(&key), name);
            assert!(!name.contains("secret") && !name.contains(&Names::new("shop").entry(&key)[8..40]), "{name}");
            assert_eq!(name.contains(&names.variant_digits(&key)), key.id().is_variant());
        }
        for tag in ["", "product:1", "a\u{e9}"] {
            let name = names.tag(tag);
            assert_eq!(names.parse(name.as_bytes()), Some(Named::Tag(tag.into())));
            assert_eq!((others.parse(name.as_bytes()), names.tag(tag)), (None, name.clone()));
            assert!(tag.is_empty() || !name.contains(tag), "{name}");
        }
        assert_eq!(names.parse(b"shop:t:product:1"), None);
        assert_eq!(names.parse("shop:t:\u{e9}\u{e9}".as_bytes()), None);
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn in_a_cluster_no_tag_chooses_its_slot() {
        let names = Names::clustered("shop");
        for tag in ["", "a", "{b}", "}{c}"] {
            let name = names.tag(tag);
            assert!(name.starts_with("shop:t:{shop}:"), "{name}");
            assert_eq!(names.parse(name.as_bytes()), Some(Named::Tag(tag.into())));
        }
        assert_eq!(names.last_invalidation(), "shop:i:{shop}:");
        assert_eq!(names.identity("abc"), "shop:id:{shop}:abc");
    }
}
