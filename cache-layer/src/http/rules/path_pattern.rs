//! Which paths a rule is for.

use crate::semantics::path::{canonical_path, clear_path};

/// The segments of a path that a rule covers, and what may follow them.
///
/// Paths are compared as they were sent, except that one slash at the end makes no difference, nor does the one way to encode a
/// character that may not be in a path as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathPattern {
    pub(super) segments: Vec<Segment>,
    pub(super) tail: Tail,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// A literal segment.
    Literal(Box<str>),
    /// Any one segment: `{id}`.
    Any,
}

/// What may follow the segments of a pattern; the most specific first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing.
    End,
    /// One segment or more: `{*rest}`.
    Below,
    /// Nothing, or any segments.
    Prefix,
}

impl PathPattern {
    /// Parses a pattern in axum's syntax: `/shops/{id}/orders`, `/files/{*path}`, with `{{` and `}}` for braces. The error says
    /// what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix('/').ok_or("must begin with a slash")?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut pattern = Self { segments: Vec::new(), tail: Tail::End };
        if path.is_empty() {
            return Ok(pattern);
        }
        for text in path.split('/') {
            if pattern.tail != Tail::End {
                return Err("nothing may follow {*…}".to_owned());
            }
            match capture(text) {
                Some(name) if !is_name(name.trim_start_matches('*')) => {
                    return Err(format!("{text} must have a name, of letters, digits and underscores"));
                }
                Some(name) if name.starts_with('*') => pattern.tail = Tail::Below,
                Some(_) => pattern.segments.push(Segment::Any),
                None => pattern.segments.push(Segment::Literal(literal(text)?.into())),
            }
        }
        Ok(pattern)
    }

    /// As [`parse`](Self::parse), for all paths below the pattern as well.
    pub(super) fn parse_prefix(text: &str) -> Result<Self, String> {
        match Self::parse(text)? {
            Self { tail: Tail::End, segments } => Ok(Self { segments, tail: Tail::Prefix }),
            _ => Err("a prefix covers what is below it without {*…}".to_owned()),
        }
    }

    /// All paths.
    pub(super) fn all() -> Self {
        Self { segments: Vec::new(), tail: Tail::Prefix }
    }
}

/// The text between the braces, if the whole segment is one capture.
fn capture(text: &str) -> Option<&str> {
    let name = text.strip_prefix('{')?.strip_suffix('}')?;
    (!name.starts_with('{') && !name.ends_with('}')).then_some(name)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The segment that `text` stands for, if a request can have such a segment.
fn literal(text: &str) -> Result<String, String> {
    if text.starts_with([':', '*']) {
        return Err(format!("{text} is a pattern of older routers; write {{name}} or {{*name}}"));
    }
    let plain = text.replace("{{", "\u{1}").replace("}}", "\u{2}");
    if plain.contains(['{', '}']) {
        return Err(match (plain.contains('{'), plain.contains('}')) {
            (true, false) => format!("{text} has no closing brace; write {{{{ for a brace"),
            (false, true) => format!("{text} has no opening brace; write }}}} for a brace"),
            _ => format!("{text} must be all capture or none; write {{{{ and }}}} for braces"),
        });
    }
    if let Some(wrong) = text.chars().find(|char| !char.is_ascii_graphic() || matches!(char, '?' | '#')) {
        return Err(match wrong {
            '?' | '#' => format!("{wrong:?} is not part of a path"),
            _ => format!("{wrong:?} is sent percent-encoded; write it so"),
        });
    }
    let plain = plain.replace('\u{1}', "{").replace('\u{2}', "}");
    match canonical_path(&format!("/{plain}")) {
        _ if text.is_empty() => Err("a segment is empty".to_owned()),
        Some(path) => Ok(path[1..].to_owned()),
        None => Err(format!("{text} may mean another path to the application; write it plainly")),
    }
}

impl PathPattern {
    /// Whether no request that matches could be spelled in another way: no literal has an encoded character.
    pub(super) fn has_one_spelling(&self) -> bool {
        self.segments.iter().all(|segment| !matches!(segment, Segment::Literal(text) if text.contains('%')))
    }
}

/// As [`with_segments`], for patterns some of which have [several spellings](PathPattern::has_one_spelling).
#[cold]
pub(super) fn with_canonical_segments<T>(path: &str, look: impl FnOnce(Segments<'_>) -> T) -> Option<T> {
    canonical_path(path).map(|path| look(Segments::of(&path)))
}

/// Runs `look` with the segments of a path, as they are compared with those of patterns; `None` if the path is not
/// [clear](clear_path).
pub(super) fn with_segments<T>(path: &str, look: impl FnOnce(Segments<'_>) -> T) -> Option<T> {
    clear_path(path).map(|path| look(Segments::of(&path)))
}

/// The segments of a path that is clear.
#[derive(Clone, Debug)]
pub(super) struct Segments<'a> {
    /// What is left of the path.
    rest: &'a [u8],
}

impl<'a> Segments<'a> {
    fn of(path: &'a str) -> Self {
        Self { rest: without_slash_at_the_end(path.strip_prefix('/').unwrap_or(path).as_bytes()) }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let mut parts = self.rest.splitn(2, |&byte| byte == b'/');
        let segment = parts.next().filter(|segment| !segment.is_empty())?;
        self.rest = parts.next().unwrap_or_default();
        Some(segment)
    }
}

/// The segments of a path in which nothing may mean something else, as in most: no byte tells but single slashes.
#[derive(Clone, Debug)]
pub(super) struct PlainSegments<'a> {
    /// Without the first slash.
    path: &'a [u8],
    /// Where the next segment begins, and where this one and those after it end: a bit for each byte.
    start: usize,
    ends: u64,
}

impl<'a> PlainSegments<'a> {
    /// `None` for a path that is not plain; it may be so all the same, if it is short or long.
    #[inline(always)]
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let path = path.as_bytes();
        let (first, last) = (word_of(*path.first_chunk()?), word_of(*path.last_chunk()?));
        if telling(first) | telling(last) != 0 {
            return None;
        }
        let mut slashes = slashes_in(first) | (slashes_in(last) << ((path.len() - WORD) as u32 % u64::BITS));
        if path.len() > 2 * WORD {
            slashes |= slashes_between(path)?;
        }
        let path = path.strip_prefix(b"/")?;
        // The last segment ends where the path does, or one byte before that.
        let end = without_slash_at_the_end(path).len();
        (slashes & (slashes << 1) == 0).then(|| Self { path, start: 0, ends: (slashes >> 1) | (1 << end) })
    }
}

impl<'a> Iterator for PlainSegments<'a> {
    type Item = &'a [u8];

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        // After the last end, this is behind any path.
        let end = self.ends.trailing_zeros() as usize;
        let segment = self.path.get(self.start..end)?;
        (self.start, self.ends) = (end + 1, self.ends & (self.ends - 1));
        Some(segment)
    }
}

/// One slash at the end makes no difference.
fn without_slash_at_the_end(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").unwrap_or(path)
}

/// The number of bytes that are examined in one step.
const WORD: usize = size_of::<u64>();
const EACH: u64 = u64::from_ne_bytes([1; WORD]);

fn word_of(bytes: [u8; WORD]) -> u64 {
    u64::from_le_bytes(bytes)
}

/// The slashes of a path after its first word, a bit for each byte; `None` if there is a byte that tells, or if the path has more
/// bytes than there are bits.
#[inline(never)]
fn slashes_between(path: &[u8]) -> Option<u64> {
    let after = path.get(WORD..).filter(|_| path.len() <= u64::BITS as usize)?;
    let (words, _) = after.as_chunks();
    words.iter().copied().map(word_of).enumerate().try_fold(0, |slashes, (number, word)| {
        (telling(word) == 0).then(|| slashes | (slashes_in(word) << (WORD * (number + 1))))
    })
}

/// Not 0 if a word has a dot, a percent sign or a backslash.
#[inline(always)]
fn telling(word: u64) -> u64 {
    let (dots, _) = dots_and_slashes(word);
    dots | having(word, b'%') | having(word, b'\\')
}

/// The slashes in a word, a bit for each byte.
#[inline(always)]
fn slashes_in(word: u64) -> u64 {
    let (_, slashes) = dots_and_slashes(word);
    bits(slashes)
}

/// Sets the highest bit of each byte of a word that equals `byte`, and perhaps of its neighbour in ASCII that comes after one.
fn having(word: u64, byte: u8) -> u64 {
    let differs = word ^ (EACH * u64::from(byte));
    differs.wrapping_sub(EACH) & !differs & (EACH << 7)
}

/// The highest bits of the bytes of a word that are a dot, and of those that are a slash: the two differ in the lowest bit alone.
fn dots_and_slashes(word: u64) -> (u64, u64) {
    let either = having(word | EACH, b'/');
    let slashes = either & (word << 7);
    (either ^ slashes, slashes)
}

/// The highest bits of the bytes of a word, one next to the other.
fn bits(highest: u64) -> u64 {
    (highest >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn literal_of(text: &str) -> Segment {
        Segment::Literal(text.into())
    }

    #[test]
    fn patterns_are_read_as_axum_writes_them() {
        for (text, segments, tail) in [
            ("/", vec![], Tail::End),
            ("/shops", vec![literal_of("shops")], Tail::End),
            ("/shops/", vec![literal_of("shops")], Tail::End),
            ("/shops/{id}/orders", vec![literal_of("shops"), Segment::Any, literal_of("orders")], Tail::End),
            ("/files/{*path}", vec![literal_of("files")], Tail::Below),
            ("/{*path}", vec![], Tail::Below),
            ("/a/{{b}}", vec![literal_of("a"), literal_of("%7Bb%7D")], Tail::End),
            ("/a|b/@c", vec![literal_of("a%7Cb"), literal_of("@c")], Tail::End),
            ("/caf%c3%A9", vec![literal_of("caf%C3%A9")], Tail::End),
            ("/a.json", vec![literal_of("a.json")], Tail::End),
        ] {
            assert_eq!(PathPattern::parse(text), Ok(PathPattern { segments, tail }), "{text}");
        }
        assert_eq!(PathPattern::parse_prefix("/"), Ok(PathPattern::all()));
        let prefix = PathPattern { segments: vec![Segment::Any], tail: Tail::Prefix };
        assert_eq!(PathPattern::parse_prefix("/{id}/"), Ok(prefix));
    }

    #[test]
    fn what_no_request_can_match_is_refused_and_says_why() {
        for (text, why) in [
            ("", "begin with a slash"),
            ("shops", "begin with a slash"),
            ("/a//b", "empty"),
            ("/a/{}", "must have a name"),
            ("/a/{*}", "must have a name"),
            ("/a/{b c}", "must have a name"),
            ("/a/{b", "{b has no closing brace"),
            ("/a/b}", "b} has no opening brace"),
            ("/a/x{b}", "all capture or none"),
            ("/a/{b}.json", "all capture or none"),
            ("/a/:b", "{name}"),
            ("/a/*b", "{*name}"),
            ("/{*a}/b", "nothing may follow"),
            ("/a?b", "not part of a path"),
            ("/a#b", "not part of a path"),
            ("/a b", "percent-encoded"),
            ("/café", "percent-encoded"),
            ("/a/../b", "write it plainly"),
            ("/a/%62", "write it plainly"),
            ("/%40b", "write it plainly"),
            ("/a/%zz", "write it plainly"),
        ] {
            let error = PathPattern::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(PathPattern::parse_prefix("/a/{*b}").is_err());
    }

    proptest! {
        /// Of any length, with what tells at any place in a word.
        #[test]
        fn words_say_what_bytes_do(path in "/?(/|[a-z0-9\u{80}-\u{ff}]{1,20}/?|[.%\\\\]){0,12}") {
            let tells = |byte| matches!(byte, b'.' | b'%' | b'\\');
            let plain = !path.bytes().any(tells) && !path.contains("//");
            let found = PlainSegments::of(&path);
            // What is shorter, longer, or no path of a server is looked at byte by byte.
            let is_looked_at = (8..=64).contains(&path.len()) && path.starts_with('/');
            prop_assert_eq!(found.is_some(), plain && is_looked_at, "{}", path);
            if let Some(found) = found {
                prop_assert!(found.eq(Segments::of(&path)), "{}", path);
            }
            if plain {
                let split: Vec<&[u8]> = path.split('/').filter(|part| !part.is_empty()).map(str::as_bytes).collect();
                prop_assert_eq!(Segments::of(&path).collect::<Vec<_>>(), split, "{}", path);
            }
        }
    }

    #[test]
    fn a_path_is_split_the_same_way_whether_it_has_a_telling_character_or_not() {
        let segments =
            |path| with_segments(path, |segments| String::from_utf8(segments.collect::<Vec<_>>().join(&b'|')).unwrap());
        for (path, expected) in [
            ("/", Some("")),
            ("/a", Some("a")),
            ("/a/", Some("a")),
            ("/a/b/c/", Some("a|b|c")),
            ("/a.b/c/", Some("a.b|c")),
            ("/a/caf%c3%a9", Some("a|caf%C3%A9")),
            ("/1/2/3/4/5/6/7/8/9/10", Some("1|2|3|4|5|6|7|8|9|10")),
            ("*", Some("*")),
            ("", Some("")),
            ("//", None),
            ("//a", None),
            ("/a//", None),
            ("/a//b", None),
            ("/a/./b", None),
            ("/a\\b", None),
            ("/a/%2f", None),
        ] {
            assert_eq!(segments(path).as_deref(), expected, "{path}");
            assert_eq!(segments(path).is_some(), clear_path(path).is_some(), "{path}");
        }
    }
}
