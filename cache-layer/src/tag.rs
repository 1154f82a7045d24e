//! Tags, and the opaque tokens that say whether an entry still carries a valid one.
//!
//! An entry stores, for each of its tags, the token that the tag had when the entry was made. It is valid while every
//! stored token equals the tag's current one. Invalidating a tag writes a new token: one small write, however many
//! entries carry it. A tag without a current token makes its entries invalid, so losing tokens costs misses and never
//! serves what was invalidated.
//!
//! The middle of a token is its *line*: a soft invalidation writes a later time and keeps the line, a hard one begins a
//! new line. An entry with a token of another line is invalid, and one of the same line and another time is stale.

use std::sync::Arc;

#[cfg(feature = "memory")]
use crate::hex;

/// The tags of a response, put into its extensions by a handler:
///
/// ```
/// use cache_layer::Tags;
///
/// let mut response = http::Response::new("…");
/// response.extensions_mut().insert(Tags::new(["products", "product:42"]));
/// ```
///
/// The layer takes them out again and stores them with the entry, and with them those that the response names in its
/// [`tag_fields`](crate::CacheLayer::tag_fields). [`Cache::invalidate_tag`](crate::Cache::invalidate_tag)
/// then drops every entry that carries the tag. At most 1,024 tags of at most 256 bytes each are kept; a response with
/// more is not stored, since an entry that an invalidation can't reach must not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(Vec<Arc<str>>);

impl Tags {
    pub(crate) const MAX: usize = 1_024;
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

/// The state of a tag at one moment: 16 hex digits of the store's time in microseconds, 15 of its line, and how it came to
/// be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TagToken(pub(crate) [u8; Self::LENGTH]);

impl TagToken {
    pub(crate) const LENGTH: usize = 32;

    /// Written by a fill that found no token: safe beside any load.
    #[cfg(feature = "memory")]
    pub(crate) fn created(at: u64) -> Self {
        Self::write(at, b'c')
    }

    /// Written by a load that began at `start` and found no token; it must be stored only if nothing was invalidated
    /// since. `chance` is 15 hex digits.
    #[cfg(feature = "redis")]
    pub(crate) fn created_by(start: [u8; 16], chance: &str) -> Self {
        let mut bytes = [b'c'; Self::LENGTH];
        bytes[..16].copy_from_slice(&start);
        bytes[16..31].copy_from_slice(chance.as_bytes());
        Self(bytes)
    }

    /// Written by an invalidation: a load that began before it must not be stored.
    #[cfg(feature = "memory")]
    pub(crate) fn invalidated(at: u64) -> Self {
        Self::write(at, b'i')
    }

    /// Written by a soft invalidation: as [`invalidated`](Self::invalidated) for loads, but entries with the token that it
    /// came after are only stale.
    #[cfg(feature = "memory")]
    pub(crate) fn soft_invalidated(at: u64, before: Option<Self>) -> Self {
        let mut token = Self::write(at, b's');
        if let Some(before) = before {
            token.0[16..31].copy_from_slice(before.line());
        }
        token
    }

    #[cfg(feature = "memory")]
    fn write(at: u64, kind: u8) -> Self {
        let mut bytes = [kind; Self::LENGTH];
        bytes[..16].copy_from_slice(&hex::of_u64(at));
        bytes[16..31].copy_from_slice(&hex::of_u64(fastrand::u64(..))[1..]);
        Self(bytes)
    }

    fn line(&self) -> &[u8] {
        &self.0[16..31]
    }

    /// Milliseconds since the Unix epoch; 0 if the digits are none, which no store writes.
    pub(crate) fn time(&self) -> u64 {
        str::from_utf8(&self.0[..16]).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0) / 1000
    }

    /// The state of an entry with this token, now that its tag has the `current` one.
    pub(crate) fn compared_with(&self, current: &Self) -> TagState {
        if self == current {
            TagState::Current
        } else if self.line() == current.line() {
            TagState::StaleSince(current.time())
        } else {
            TagState::Invalid
        }
    }

    /// Whether this token was written by an invalidation at or after `start`, as 16 hex digits of the store's time.
    pub(crate) fn overtook(&self, start: &[u8; 16]) -> bool {
        self.0[31] != b'c' && self.0[..16] >= start[..]
    }

    /// Whether this token was written by a fill at or after `start`: then it may stand in for one that was lost, and does
    /// not say whether an invalidation came in between.
    pub(crate) fn created_since(&self, start: &[u8; 16]) -> bool {
        self.0[31] == b'c' && self.0[..16] >= start[..]
    }

    /// From a store's reply: anything that can't be a token is none.
    #[cfg(feature = "redis")]
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let token: [u8; Self::LENGTH] = bytes.try_into().ok()?;
        let plausible = token[..31].iter().all(u8::is_ascii_hexdigit) && matches!(token[31], b'c' | b'i' | b's');
        plausible.then_some(Self(token))
    }
}

/// The state of an entry by its tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TagState {
    Current,
    /// A soft invalidation came after it, at that time, in milliseconds since the Unix epoch.
    StaleSince(u64),
    Invalid,
}

impl TagState {
    /// The state by both of two tags: the worse one.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Invalid, _) | (_, Self::Invalid) => Self::Invalid,
            (Self::StaleSince(one), Self::StaleSince(other)) => Self::StaleSince(one.min(other)),
            (Self::Current, state) | (state, Self::Current) => state,
        }
    }
}

/// A tag as an entry carries it: with the token that it had when the entry was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TagStamp {
    pub(crate) tag: Arc<str>,
    pub(crate) token: TagToken,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "memory")]
    #[test]
    fn only_an_invalidation_overtakes_a_load() {
        assert!(TagToken::invalidated(7).overtook(&hex::of_u64(7)));
        assert!(!TagToken::invalidated(6).overtook(&hex::of_u64(7)));
        assert!(!TagToken::created(9).overtook(&hex::of_u64(7)));
        assert!(
            TagToken::created(9).created_since(&hex::of_u64(7)) && !TagToken::created(6).created_since(&hex::of_u64(7))
        );
    }

    #[cfg(feature = "memory")]
    #[test]
    fn a_soft_invalidation_overtakes_a_load_as_a_hard_one_does() {
        assert!(TagToken::soft_invalidated(7, Some(TagToken::created(1))).overtook(&hex::of_u64(7)));
        assert!(!TagToken::soft_invalidated(6, None).overtook(&hex::of_u64(7)));
    }

    #[cfg(feature = "memory")]
    #[test]
    fn what_is_softened_is_stale_until_its_line_ends() {
        let made = TagToken::created(1_000);
        let soft = TagToken::soft_invalidated(5_000_000, Some(made));
        let softer = TagToken::soft_invalidated(6_000_000, Some(soft));
        assert_eq!(made.compared_with(&made), TagState::Current);
        assert_eq!(made.compared_with(&soft), TagState::StaleSince(5_000));
        assert_eq!(made.compared_with(&softer), TagState::StaleSince(6_000));
        assert_eq!(soft.compared_with(&softer), TagState::StaleSince(6_000));
        assert_eq!(soft.compared_with(&soft), TagState::Current);

        let hard = TagToken::invalidated(7_000_000);
        let soft_after = TagToken::soft_invalidated(8_000_000, Some(hard));
        for token in [made, soft, softer] {
            assert_eq!(token.compared_with(&hard), TagState::Invalid);
            assert_eq!(token.compared_with(&soft_after), TagState::Invalid);
        }
        assert_eq!(
            made.compared_with(&TagToken::soft_invalidated(9_000_000, None)),
            TagState::Invalid,
            "its token was lost"
        );
    }

    #[test]
    fn the_worst_of_several_tags_decides() {
        use TagState::{Current, Invalid, StaleSince};
        assert_eq!(Current.and(StaleSince(2)), StaleSince(2));
        assert_eq!(StaleSince(3).and(StaleSince(2)), StaleSince(2));
        assert_eq!(StaleSince(3).and(Invalid), Invalid);
        assert_eq!(Invalid.and(Current), Invalid);
    }

    #[test]
    fn tags_are_a_set() {
        let tags = Tags::new(["b", "a", "", "b"]);
        assert_eq!(tags.iter().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn too_many_or_too_long_tags_do_not_fit() {
        assert!(Tags::new((0..1_024).map(|i| i.to_string())).fit());
        assert!(!Tags::new((0..1_025).map(|i| i.to_string())).fit());
        assert!(!Tags::new(["x".repeat(257)]).fit());
    }
}
