//! Tags, and the opaque tokens that say whether an entry still carries a valid one.
//!
//! An entry stores, for each of its tags, the token that the tag had when the entry was made. It is valid while every
//! stored token equals the tag's current one. Invalidating a tag writes a new token: one small write, however many
//! entries carry it. A tag without a current token makes its entries invalid, so losing tokens costs misses and never
//! serves what was invalidated.

use std::sync::Arc;

/// The tags of a response, put into its extensions by a handler:
///
/// ```
/// use cache_layer::Tags;
///
/// let mut response = http::Response::new("…");
/// response.extensions_mut().insert(Tags::new(["products", "product:42"]));
/// ```
///
/// The layer takes them out again and stores them with the entry. [`Cache::invalidate_tag`](crate::Cache::invalidate_tag)
/// then drops every entry that carries the tag. At most 64 tags of at most 256 bytes each are kept; a response with
/// more is not stored, since an entry that an invalidation can't reach must not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(Vec<Arc<str>>);

impl Tags {
    pub(crate) const MAX: usize = 64;
    pub(crate) const MAX_LENGTH: usize = 256;

    /// The given tags, without repetitions and empty ones.
    pub fn new<T: AsRef<str>>(tags: impl IntoIterator<Item = T>) -> Self {
        let mut list: Vec<Arc<str>> =
            tags.into_iter().map(|tag| Arc::from(tag.as_ref())).filter(|tag: &Arc<str>| !tag.is_empty()).collect();
        list.sort_unstable();
        list.dedup();
        Self(list)
    }

    /// Adds tags.
    #[cfg(feature = "typed")]
    pub(crate) fn extend<T: AsRef<str>>(&mut self, tags: impl IntoIterator<Item = T>) {
        let added = Self::new(tags);
        if !added.is_empty() {
            *self = Self::new(self.0.iter().chain(&added.0));
        }
    }

    /// Whether every tag can be stored, so that an invalidation will reach the entry.
    pub(crate) fn fit(&self) -> bool {
        self.0.len() <= Self::MAX && self.0.iter().all(|tag| tag.len() <= Self::MAX_LENGTH)
    }

    pub(crate) fn as_slice(&self) -> &[Arc<str>] {
        &self.0
    }

    /// The tags, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The state of a tag at one moment: 16 hex digits of the store's time, 15 of chance, and how it came to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Token(pub(crate) [u8; Self::LENGTH]);

impl Token {
    pub(crate) const LENGTH: usize = 32;

    /// Written by a fill that found no token: safe beside any load.
    #[cfg(feature = "memory")]
    pub(crate) fn created(at: u64) -> Self {
        Self::write(at, b'c')
    }

    /// Written by an invalidation: a load that began before it must not be stored.
    #[cfg(feature = "memory")]
    pub(crate) fn invalidated(at: u64) -> Self {
        Self::write(at, b'i')
    }

    #[cfg(feature = "memory")]
    fn write(at: u64, kind: u8) -> Self {
        let mut bytes = [kind; Self::LENGTH];
        bytes[..16].copy_from_slice(&hex(at));
        bytes[16..31].copy_from_slice(&hex(fastrand::u64(..))[1..]);
        Self(bytes)
    }

    /// Whether this token was written by an invalidation at or after `start`, as 16 hex digits of the store's time.
    pub(crate) fn overtook(&self, start: &[u8; 16]) -> bool {
        self.0[31] != b'c' && self.0[..16] >= start[..]
    }

    /// From a store's reply: anything that can't be a token is none.
    #[cfg(feature = "redis")]
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let token: [u8; Self::LENGTH] = bytes.try_into().ok()?;
        let plausible = token[..31].iter().all(u8::is_ascii_hexdigit) && matches!(token[31], b'c' | b'i');
        plausible.then_some(Self(token))
    }
}

/// 16 lower-case hex digits, which sort as the number does.
pub(crate) fn hex(number: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|i| DIGITS[(number >> (60 - 4 * i)) as usize & 15])
}

/// A tag as an entry carries it: with the token that it had when the entry was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) tag: Arc<str>,
    pub(crate) token: Token,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_sorts_as_the_number() {
        assert_eq!(&hex(0x1f), b"000000000000001f");
        assert!(hex(9) < hex(10) && hex(u64::MAX - 1) < hex(u64::MAX));
    }

    #[cfg(feature = "memory")]
    #[test]
    fn only_an_invalidation_overtakes_a_load() {
        assert!(Token::invalidated(7).overtook(&hex(7)));
        assert!(!Token::invalidated(6).overtook(&hex(7)));
        assert!(!Token::created(9).overtook(&hex(7)));
    }

    #[test]
    fn tags_are_a_set() {
        let tags = Tags::new(["b", "a", "", "b"]);
        assert_eq!(tags.iter().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn too_many_or_too_long_tags_do_not_fit() {
        assert!(Tags::new((0..64).map(|i| i.to_string())).fit());
        assert!(!Tags::new((0..65).map(|i| i.to_string())).fit());
        assert!(!Tags::new(["x".repeat(257)]).fit());
    }
}
