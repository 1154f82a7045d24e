//! Tags, and the opaque tokens that say whether an entry still carries a valid one.
//!
//! An entry stores, for each of its tags, the token that the tag had when the entry was made. It is valid while every
//! stored token equals the tag's current one. Invalidating a tag writes a new token: one small write, however many
//! entries carry it. A tag without a current token makes its entries invalid, so losing tokens costs misses and never
//! serves what was invalidated.
//!
//! The middle of a token is its *line*: a soft invalidation writes a later time and keeps the line, a hard one begins a new
//! line. An entry whose token has another line is invalid. An entry whose token has the same line and another time is stale: at
//! once, or, by a [ramp](crate::ramp), at the key's turn.

use std::sync::Arc;

#[cfg(feature = "redis")]
use crate::ban::{Ban, Bans};
#[cfg(feature = "redis")]
use crate::pattern::Pattern;
#[cfg(any(feature = "memory", feature = "redis"))]
use crate::ramp::Ramp;
pub(crate) use crate::tag_state::TagState;
use crate::{
    hex,
    ramp::{Ramps, Turn},
};

/// The tags of a response, which a handler puts into the response's extensions:
///
/// ```
/// use cache_layer::Tags;
///
/// let mut response = http::Response::new("…");
/// response.extensions_mut().insert(Tags::new(["products", "product:42"]));
/// ```
///
/// The layer removes them from the extensions and stores them with the entry, together with the tags that the response names in
/// its [`tag_fields`](crate::CacheLayer::tag_fields). [`Cache::invalidate_tag`](crate::Cache::invalidate_tag) then drops every
/// entry that carries the tag. An entry has at most 1,024 tags of at most 256 bytes each; a response with more or longer tags
/// is not stored, since there must be no entry that an invalidation can't reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tags(Vec<Arc<str>>);

impl Tags {
    pub(crate) const MAX: usize = 1_024;
    /// The most tags of an entry that are the cache's own.
    pub(crate) const OWN: usize = 3;
    pub(crate) const MAX_LENGTH: usize = 256;

    /// The given tags, without repetitions and without empty tags: an empty text is no tag, and no invalidation reaches it.
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
        self.fit_with(0)
    }

    /// The same for an entry with this many tags of the cache's own, for which there is room beside the application's.
    pub(crate) fn fit_with(&self, own: usize) -> bool {
        self.0.len() <= Self::MAX + own.min(Self::OWN) && self.0.iter().all(|tag| tag.len() <= Self::MAX_LENGTH)
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

/// The state of a tag at one moment: 16 hex digits of the store's time in microseconds, 15 hex digits of its line, and a letter
/// for its origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TagToken(pub(crate) [u8; Self::LENGTH]);

impl TagToken {
    pub(crate) const LENGTH: usize = 32;

    /// Written by a fill that found no token: it refuses no load.
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

    /// Written by a soft invalidation: keeps the line of the token `before` it.
    #[cfg(feature = "memory")]
    fn soft_invalidated(at: u64, before: Option<Self>) -> Self {
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

    pub(crate) fn line(&self) -> &[u8] {
        &self.0[16..31]
    }

    /// Milliseconds since the Unix epoch; 0 if the digits are not hexadecimal, which no store writes.
    pub(crate) fn time(&self) -> u64 {
        self.micros() / 1000
    }

    /// The same in microseconds.
    pub(crate) fn micros(&self) -> u64 {
        hex::parse(&self.0[..16]).unwrap_or(0)
    }

    #[cfg(any(feature = "memory", feature = "redis"))]
    fn is_soft(&self) -> bool {
        self.0[31] == b's'
    }

    /// Whether this token was written by an invalidation at or after `start`, as 16 hex digits of the store's time.
    pub(crate) fn overtook(&self, start: &[u8; 16]) -> bool {
        self.0[31] != b'c' && self.0[..16] >= start[..]
    }

    /// Whether this token was written by a fill at or after `start`: then it may have replaced a token that was lost, and can't
    /// tell whether an invalidation came in between.
    pub(crate) fn created_since(&self, start: &[u8; 16]) -> bool {
        self.0[31] == b'c' && self.0[..16] >= start[..]
    }

    /// Parses a store's reply; `None` if it can't be a token.
    #[cfg(feature = "redis")]
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let token: [u8; Self::LENGTH] = bytes.try_into().ok()?;
        let plausible = token[..31].iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && matches!(token[31], b'c' | b'i' | b's');
        plausible.then_some(Self(token))
    }
}

/// Which bans a load knew of when it began: those under this token, up to this one.
#[cfg(feature = "redis")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BansKnown {
    token: TagToken,
    newest: u64,
}

#[cfg(feature = "redis")]
impl BansKnown {
    /// The youngest of those under this token; 0 if it is another one, under which other bans may have had those numbers.
    pub(crate) fn under(self, token: &TagToken) -> u64 {
        if self.token == *token { self.newest } else { 0 }
    }

    pub(crate) fn token(&self) -> TagToken {
        self.token
    }

    /// The line of that token, in which no two bans have the same number.
    pub(crate) fn line(&self) -> &[u8] {
        self.token.line()
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }
}

/// A tag as a store keeps it: its token, and the ramps that led to the token; the tag of everything has the bans as well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TagRecord {
    pub(crate) token: TagToken,
    /// `None` if the last soft invalidation, if any, had no window.
    ramps: Option<Arc<Ramps>>,
    /// None if there was never one under this token.
    #[cfg(feature = "redis")]
    bans: Option<Arc<Bans>>,
}

impl From<TagToken> for TagRecord {
    fn from(token: TagToken) -> Self {
        Self {
            token,
            ramps: None,
            #[cfg(feature = "redis")]
            bans: None,
        }
    }
}

impl TagRecord {
    /// The length of a ramp in the text form: a token, the digit `1`, and the ramps. A ramp has 16 hex digits for the
    /// microseconds of its invalidation, 8 for the milliseconds by which its window began before that, and 8 for the
    /// milliseconds of its window.
    #[cfg(feature = "redis")]
    const RAMP: usize = 32;
    /// What begins the bans, which come last: 16 hex digits of the youngest that there ever was under this token, and then each
    /// ban, of 16 hex digits of when it came, `h` or, if it is soft, `s`, 8 of its window in milliseconds, and 4 of the length of
    /// its pattern, which follows.
    #[cfg(feature = "redis")]
    const BANS: u8 = b'|';

    /// The state of an entry with this turn that carries `token`.
    pub(crate) fn state_of(&self, token: &TagToken, turn: impl FnOnce() -> Turn) -> TagState {
        if *token == self.token {
            return TagState::Current;
        }
        if token.line() != self.token.line() {
            return TagState::Invalid;
        }
        match &self.ramps {
            None => TagState::StaleSince(self.token.time()),
            Some(ramps) => ramps.state_of(token.micros(), turn()),
        }
    }

    /// Written by a soft invalidation. For loads, it is like an [`invalidated`](TagToken::invalidated) token, but entries with
    /// the token before it only become stale: at once, or at their turns in the ramp.
    #[cfg(feature = "memory")]
    pub(crate) fn soft_invalidated(ramp: Ramp, before: Option<Self>) -> Self {
        let token = TagToken::soft_invalidated(ramp.at, before.as_ref().map(|before| before.token));
        // At once, the token says when that was, unless the clock was set back.
        let says_more = ramp.window > 0 || ramp.start / 1000 < token.time();
        let Some(before) = before.filter(|_| says_more) else { return token.into() };
        let at_once = Ramp { at: before.token.micros(), start: before.token.micros(), window: 0 };
        let earlier = match &before.ramps {
            Some(ramps) => ramps.as_slice(),
            None if before.token.is_soft() => std::slice::from_ref(&at_once),
            // No token of this line is older.
            None => &[],
        };
        Self { ramps: Some(Arc::new(Ramps::with(earlier, ramp))), ..token.into() }
    }

    /// Parses a store's reply; `None` if it can't be a record.
    #[cfg(feature = "redis")]
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (token, rest) = bytes.split_at_checked(TagToken::LENGTH)?;
        let (ramps, bans) = match rest.iter().position(|byte| *byte == Self::BANS) {
            None => (rest, None),
            Some(bar) => (&rest[..bar], Some(parse_bans(&rest[bar + 1..])?)),
        };
        Some(Self { bans: bans.map(Arc::new), ..Self::parse_ramps(TagToken::parse(token)?, ramps)? })
    }

    #[cfg(feature = "redis")]
    fn parse_ramps(token: TagToken, rest: &[u8]) -> Option<Self> {
        let Some((version, rest)) = rest.split_first() else { return Some(token.into()) };
        let ramp = |digits: &[u8]| {
            let (at, rest) = digits.split_at(16);
            let (lead, window) = rest.split_at(8);
            let at = hex::parse(at)?;
            Some(Ramp { at, start: at.checked_sub(hex::parse(lead)? * 1000)?, window: hex::parse(window)? * 1000 })
        };
        let whole = *version == b'1' && rest.len().is_multiple_of(Self::RAMP) && token.is_soft();
        let ramps = whole.then(|| rest.chunks_exact(Self::RAMP).map(ramp).collect::<Option<Vec<_>>>())??;
        let ramps = Ramps::new(ramps).filter(|ramps| ramps.newest() == token.micros())?;
        Some(Self { ramps: Some(Arc::new(ramps)), ..token.into() })
    }

    /// The bans that still count, if there ever was any under this token.
    #[cfg(feature = "redis")]
    pub(crate) fn bans(&self) -> Option<&Bans> {
        self.bans.as_deref()
    }

    /// The same, if there is one that an entry, whose load knew of the bans up to `known`, may be covered by.
    #[cfg(feature = "redis")]
    pub(crate) fn bans_since(&self, known: u64) -> Option<&Arc<Bans>> {
        self.bans.as_ref().filter(|bans| known < bans.newest())
    }

    /// What a load that begins now knows of them.
    #[cfg(feature = "redis")]
    pub(crate) fn bans_known(&self) -> BansKnown {
        BansKnown { token: self.token, newest: self.bans().map_or(0, Bans::newest) }
    }

    /// The text form, as [`parse`](Self::parse) reads it.
    #[cfg(all(test, feature = "redis"))]
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::from_utf8(self.token.0.to_vec()).expect("hex digits");
        if let Some(ramps) = &self.ramps {
            text.push('1');
            for Ramp { at, start, window } in ramps.as_slice() {
                text.push_str(&format!("{at:016x}{:08x}{:08x}", (at - start) / 1000, window / 1000));
            }
        }
        if let Some(bans) = self.bans() {
            text.push_str(&format!("|{:016x}", bans.newest()));
            for Ban { at, soft_over, pattern, .. } in bans.as_slice() {
                let (kind, window) = soft_over.map_or(('h', 0), |window| ('s', window));
                text.push_str(&format!("{at:016x}{kind}{window:08x}{:04x}{pattern}", pattern.as_str().len()));
            }
        }
        text
    }
}

/// As [`TagRecord::BANS`] says.
#[cfg(feature = "redis")]
fn parse_bans(bytes: &[u8]) -> Option<Bans> {
    const HEAD: usize = 29;
    let (newest, mut rest) = bytes.split_at_checked(16)?;
    let newest = hex::parse(newest)?;
    let mut bans = Vec::new();
    while !rest.is_empty() {
        let (head, tail) = rest.split_at_checked(HEAD)?;
        let (pattern, tail) =
            tail.split_at_checked(hex::parse(&head[25..]).and_then(|length| length.try_into().ok())?)?;
        rest = tail;
        let window = hex::parse(&head[17..25])?;
        let soft_over = match head[16] {
            b'h' => None,
            b's' => Some(window),
            _ => return None,
        };
        // What another program has written there may be no text, which matches no key, then.
        let pattern = Pattern::new(&String::from_utf8_lossy(pattern));
        let at = hex::parse(&head[..16])?;
        bans.push(Ban { at, begin: at, soft_over, pattern });
    }
    Bans::new(bans, newest)
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
    #[cfg(all(feature = "redis", feature = "memory"))]
    use crate::ramp::MOST;

    #[cfg(feature = "redis")]
    #[test]
    fn what_a_load_knows_of_bans_counts_under_their_token_alone() {
        let record = |line: &str| {
            let text = format!("{:016x}{line}i|{:016x}", 1, 9);
            TagRecord::parse(text.as_bytes()).expect("a record")
        };
        let (one, other) = (record("0123456789abcde"), record("1123456789abcde"));
        let known = one.bans_known();
        assert_eq!((known.under(&one.token), known.under(&other.token)), (9, 0));
    }

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
    fn softened(at: u64, window: u64, before: Option<&TagRecord>) -> TagRecord {
        TagRecord::soft_invalidated(Ramp { at, start: at, window }, before.cloned())
    }

    #[cfg(feature = "memory")]
    #[test]
    fn a_soft_invalidation_overtakes_a_load_as_a_hard_one_does() {
        let made = TagRecord::from(TagToken::created(1));
        for window in [0, 60_000_000] {
            assert!(softened(7, window, Some(&made)).token.overtook(&hex::of_u64(7)));
            assert!(!softened(6, window, None).token.overtook(&hex::of_u64(7)));
        }
    }

    #[cfg(feature = "memory")]
    #[test]
    fn what_is_softened_is_stale_until_its_line_ends() {
        let made = TagRecord::from(TagToken::created(1_000));
        let soft = softened(5_000_000, 0, Some(&made));
        let softer = softened(6_000_000, 0, Some(&soft));
        let state = |of: &TagRecord, by: &TagRecord| by.state_of(&of.token, || Turn(0));
        assert_eq!(state(&made, &made), TagState::Current);
        assert_eq!(state(&made, &soft), TagState::StaleSince(5_000));
        assert_eq!(state(&made, &softer), TagState::StaleSince(6_000));
        assert_eq!(state(&soft, &softer), TagState::StaleSince(6_000));
        assert_eq!(state(&soft, &soft), TagState::Current);

        let hard = TagRecord::from(TagToken::invalidated(7_000_000));
        let soft_after = softened(8_000_000, 1_000_000, Some(&hard));
        for record in [&made, &soft, &softer] {
            assert_eq!(state(record, &hard), TagState::Invalid);
            assert_eq!(state(record, &soft_after), TagState::Invalid);
        }
        let lost = softened(9_000_000, 1_000_000, None);
        assert_eq!(state(&made, &lost), TagState::Invalid, "its token was lost");
    }

    #[cfg(feature = "memory")]
    #[test]
    fn by_a_ramp_each_key_is_stale_in_its_turn_and_what_was_stale_stays_so() {
        let made = TagRecord::from(TagToken::created(1_000));
        let soft = softened(5_000_000, 0, Some(&made));
        let ramped = softened(9_000_000, 4_000_000, Some(&soft));
        let half = || Turn(1 << 31);
        assert_eq!(ramped.state_of(&soft.token, half), TagState::StaleFrom(11_000));
        assert_eq!(ramped.state_of(&made.token, half), TagState::StaleSince(5_000));
        assert_eq!(ramped.state_of(&ramped.token, half), TagState::Current);
        let soft_after = softened(10_000_000, 0, Some(&ramped));
        assert_eq!(soft_after.state_of(&soft.token, half), TagState::StaleSince(10_000), "all at once");
    }

    #[cfg(all(feature = "redis", feature = "memory"))]
    #[test]
    fn a_record_is_read_as_it_was_written_and_nothing_else_is_one() {
        let mut record = TagRecord::from(TagToken::created(1_000_000));
        for step in 0..40 {
            assert_eq!(TagRecord::parse(record.to_text().as_bytes()), Some(record.clone()));
            record = softened((2 + step) * 1_000_000, 60_000_000, Some(&record));
        }
        let text = record.to_text();
        let token = &text[..TagToken::LENGTH];
        assert_eq!(text.len(), 33 + MOST * 32);
        assert_eq!(TagRecord::parse(token.as_bytes()).unwrap().ramps, None);
        for length in (0..text.len()).filter(|length| ![32, text.len()].contains(length)) {
            assert_eq!(TagRecord::parse(&text.as_bytes()[..length]), None, "{length}");
        }
        let ramp = &text[text.len() - 32..];
        let with = |ramps: &str| TagRecord::parse(format!("{token}{ramps}").as_bytes());
        assert!(with(&format!("1{ramp}")).is_some());
        for odd in [
            "1".to_owned(),
            format!("2{ramp}"),
            format!("1{ramp}{ramp}"),
            format!("1{}", ramp.to_uppercase().replace('0', "g")),
            format!("1{}ffffffff", &ramp[..24]),
            format!("1{}{}{}", &ramp[..16], "ffffffff", &ramp[24..]),
            format!("1{:016x}{}", 7, &ramp[16..]),
            format!("1{}{ramp}", format!("{:016x}{}", 1, &ramp[16..]).repeat(MOST)),
        ] {
            assert_eq!(with(&odd), None, "{odd}");
        }
        let created = token.replace('s', "c");
        assert_eq!(TagRecord::parse(format!("{created}1{ramp}").as_bytes()), None, "no fill makes a ramp");
    }

    #[cfg(all(feature = "redis", feature = "memory"))]
    #[test]
    fn the_bans_of_a_record_are_read_as_they_were_written_behind_its_ramps() {
        let token = TagRecord::from(TagToken::created(1_000_000));
        let ban = |at, soft_over, pattern: &str| Ban { at, begin: at, soft_over, pattern: Pattern::new(pattern) };
        let bans = Bans::new(vec![ban(7, None, "a|b*"), ban(8, Some(0), ""), ban(9, Some(60_000), "ä")], 9).unwrap();
        for record in [token.clone(), softened(2_000_000, 60_000_000, Some(&token))] {
            let record = TagRecord { bans: Some(Arc::new(bans.clone())), ..record };
            let text = record.to_text();
            assert_eq!(TagRecord::parse(text.as_bytes()), Some(record.clone()), "{text}");
            let bar = text.find('|').unwrap();
            for length in (bar + 1..text.len()).filter(|length| text.is_char_boundary(*length)) {
                let cut = TagRecord::parse(&text.as_bytes()[..length]);
                assert!(cut.is_none_or(|cut| cut.bans() != record.bans()), "{length}");
            }
            let none = TagRecord::parse(&text.as_bytes()[..bar + 17]).unwrap();
            assert_eq!(none.bans(), Bans::new(vec![], 9).as_ref(), "all of them were swept");
        }
        let with = |bans: &str| TagRecord::parse(format!("{}|{bans}", token.to_text()).as_bytes());
        let one = |at: u64, kind: char| format!("{at:016x}{kind}000000000001a");
        assert!(with(&format!("{:016x}{}", 7, one(7, 'h'))).is_some());
        for odd in [
            String::new(),
            "7".to_owned(),
            format!("{:016x}{}", 6, one(7, 'h')),
            format!("{:016x}{}", 7, one(7, 'x')),
            format!("{:016x}{}{}", 7, one(7, 'h'), one(7, 'h')),
            format!("{:016x}{}", 7, one(7, 'h').replace("0001a", "0002a")),
            format!("{:016x}{}", 999, (1..=129).map(|at| one(at, 'h')).collect::<String>()),
        ] {
            assert_eq!(with(&odd), None, "{odd}");
        }
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
        assert!(Tags::new((0..1_027).map(|i| i.to_string())).fit_with(3));
        assert!(!Tags::new((0..1_028).map(|i| i.to_string())).fit_with(4));
    }
}
