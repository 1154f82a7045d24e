//! What must hold of any bytes at all, for the parsers that read what others wrote. Each function panics where it does not
//! hold; `fuzz/README.md` says how they are run.

use std::collections::HashSet;

use bytes::{BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_RANGE, CONTENT_TYPE, RANGE, VARY},
};

use crate::{
    engine::hot_list,
    entry::envelope,
    key::Key,
    semantics::{
        cache_control::CacheControl,
        content_key::{self, Meaning},
        date::{parse_http_date, write_http_date},
        groups::cache_groups,
        negotiated_fields::{canonical_coding, negotiated_codings, negotiated_languages},
        no_vary_search::{Grammar, NO_VARY_SEARCH, NoVarySearch},
        preference::{self, Order},
        range::{self, Selected},
        structured,
        targeted::ResponseDirectives,
        validator::entity_tags,
        vary::{Normalization, Vary, VaryFields},
    },
    space_saving::Counted,
};

/// Those that have a meaning get a byte of their own, so that bytes at random say something.
const PIECES: [&str; 64] = [
    ",",
    ", ",
    ";",
    "=",
    "\"",
    "\\",
    " ",
    "\t",
    "*",
    "-",
    "(",
    ")",
    "0",
    "1",
    "9",
    "59",
    "2026",
    "06",
    "Nov",
    "Mon",
    "Monday",
    "GMT",
    ":",
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "Sun Nov  6 08:49:37 1994",
    "max-age",
    "s-maxage",
    "no-store",
    "no-cache",
    "private",
    "public",
    "must-revalidate",
    "must-understand",
    "immutable",
    "stale-while-revalidate",
    "stale-if-error",
    "max-age=60",
    "no-cache=\"set-cookie\"",
    "2147483648",
    "99999999999999999999",
    "?0",
    "?1",
    ":aGk=:",
    "@1",
    "%\"",
    "bytes",
    "bytes=",
    "bytes 0-4/10",
    "0-1",
    "5-",
    "-5",
    "W/",
    "\"a\"",
    "W/\"a\"",
    "accept",
    "accept-language",
    "en",
    "de;q=0.5",
    ";q=",
    "0.500",
    "\u{e9}",
    "\r\n",
    "\0",
];

fn spelled(data: &[u8]) -> Vec<u8> {
    data.iter().fold(Vec::new(), |mut out, &byte| {
        match PIECES.get(usize::from(byte.wrapping_sub(128))) {
            Some(piece) => out.extend_from_slice(piece.as_bytes()),
            None => out.push(byte),
        }
        out
    })
}

/// The lines of one field; what no server would accept is left out.
fn fields(name: &HeaderName, text: &[u8]) -> HeaderMap {
    let lines = text.split(|&byte| byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok());
    lines.map(|line| (name.clone(), line)).collect()
}

/// A date that is read is the same moment when it is written and read again, whatever the clock says.
pub fn dates(data: &[u8]) {
    let (clock, text) = data.split_at(data.len().min(8));
    let now = clock.iter().fold(0, |now, &byte| now << 8 | u64::from(byte));
    for text in [text, &spelled(text)] {
        let Some(secs) = parse_http_date(text, now) else { continue };
        let written = write_http_date(secs);
        assert_eq!(parse_http_date(written.as_bytes(), now), Some(secs), "{written:?}");
    }
}

/// No line takes back what another one forbids, and what is meant for this cache decides alone.
pub fn directives(data: &[u8]) {
    const TARGET: HeaderName = HeaderName::from_static("cdn-cache-control");
    let text = spelled(data);
    let mut headers = fields(&CACHE_CONTROL, &text);
    let before = CacheControl::from_headers(&headers);
    headers.append(CACHE_CONTROL, HeaderValue::from_static("no-store, private"));
    let after = CacheControl::from_headers(&headers);
    assert!(after.no_store && after.private);
    assert!(after.no_cache || !before.no_cache);
    assert!(after.must_revalidate || !before.must_revalidate);

    headers.extend(fields(&TARGET, &text));
    let targeted = ResponseDirectives::from_headers(&headers, &[TARGET]);
    if targeted.targeted {
        headers.remove(CACHE_CONTROL);
        assert_eq!(ResponseDirectives::from_headers(&headers, &[TARGET]), targeted);
    } else {
        assert_eq!(targeted.cache_control, after);
    }
}

/// A structured field that is read has no more members than it has bytes, and groups have their limits.
pub fn structured_fields(data: &[u8]) {
    const NAME: HeaderName = HeaderName::from_static("cache-groups");
    let text = spelled(data);
    let headers = fields(&NAME, &text);
    assert!(structured::list(&headers, &NAME).is_none_or(|members| members.len() <= text.len()));
    assert!(structured::dictionary(&headers, &NAME).is_none_or(|members| members.len() <= text.len()));
    let _ = cache_groups(&headers);
}

/// Queries that are one by a field are one both ways, and a query is one with itself in pieces that say nothing.
pub fn queries(data: &[u8]) {
    let mut parts = data.splitn(3, |&byte| byte == b'\n').map(spelled);
    let mut part = || parts.next().unwrap_or_default();
    let headers = fields(&NO_VARY_SEARCH, &part());
    let (one, other) = (part(), part());
    let (one, other) = (String::from_utf8_lossy(&one), String::from_utf8_lossy(&other));
    for grammar in [Grammar::Approved, Grammar::Former] {
        let Some(variation) = NoVarySearch::from_headers(&headers, grammar) else { continue };
        assert!(variation.are_equivalent(Some(&one), Some(&format!("&&{one}&"))));
        assert_eq!(
            variation.are_equivalent(Some(&one), Some(&other)),
            variation.are_equivalent(Some(&other), Some(&one))
        );
    }
}

/// A type that can be read is compared as it would be if it were written in its one spelling, and every byte of the content
/// counts, also where it is moved to a field.
pub fn contents(data: &[u8]) {
    let text = spelled(data);
    let mut parts = text.splitn(3, |&byte| byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let (media_type, language, content) = (part(), part(), part());
    let headers = |media_type: &[u8], language: &[u8]| {
        let mut headers = fields(&CONTENT_TYPE, media_type);
        headers.extend(fields(&CONTENT_LANGUAGE, language));
        headers
    };
    let asked = headers(media_type, language);
    let digest = |headers: &HeaderMap, content: &[u8]| content_key::digest(headers, Meaning::Raw(content));
    let own = digest(&asked, content);
    if content_key::has_one_type(&asked) {
        let canonical = content_key::canonical_media_type(media_type).expect("it is what has one type");
        assert_eq!(digest(&headers(&canonical, language), content), own);
        assert_eq!(content_key::canonical_media_type(&canonical), Some(canonical));
    }
    assert_ne!(digest(&asked, &[content, b"x"].concat()), own);
    assert_ne!(content_key::digest(&asked, Meaning::Normalized(content)), own);
    if asked.contains_key(CONTENT_LANGUAGE) {
        assert_ne!(digest(&fields(&CONTENT_TYPE, media_type), &[language, content].concat()), own);
    }
}

/// A part lies within what is stored, is not empty, and is not cut out of another part.
pub fn ranges(data: &[u8]) {
    let (length, text) = data.split_at(data.len().min(2));
    let length = length.iter().fold(0, |length, &byte| length << 8 | u64::from(byte));
    let request = fields(&RANGE, &spelled(text));
    let mut stored = HeaderMap::new();
    let select = |stored: &HeaderMap| range::select(&Method::GET, &request, StatusCode::OK, stored, length, 0);
    let selected = select(&stored);
    let parts = match &selected {
        Selected::Part(part) => std::slice::from_ref(part),
        Selected::Parts(parts) => parts,
        Selected::Whole | Selected::Unsatisfiable => &[],
    };
    for (at, part) in parts.iter().enumerate() {
        assert!(part.start < part.end && part.end <= length, "{part:?} of {length}");
        assert!(parts[..at].iter().all(|other| other.end < part.start || part.end < other.start), "{parts:?}");
    }
    if range::has_foreign_unit(&request) {
        assert_eq!(selected, Selected::Whole);
    }
    stored.insert(CONTENT_RANGE, HeaderValue::from_static("bytes 0-4/10"));
    assert_eq!(select(&stored), Selected::Whole);
}

/// What a selecting field is brought to selects the same, and nothing that can't be read is brought to it.
pub fn lists(data: &[u8]) {
    let text = spelled(data);
    for order in [Order::Counts, Order::CountsAmongEquals, Order::Moot] {
        if let Some(canonical) = preference::canonical(&text, order, canonical_coding) {
            assert_eq!(preference::canonical(&canonical, order, canonical_coding), Some(canonical));
        }
    }
    let has = ["br".to_owned(), "de".to_owned()];
    for negotiated in [negotiated_codings, negotiated_languages] {
        if let Some(once) = negotiated(&text, &has) {
            assert_eq!(negotiated(&once, &has), Some(once));
        }
    }
    assert!(entity_tags(&text).count() <= text.len());
    if let Some(Vary::Fields(names)) = Vary::from_headers(&fields(&VARY, &text)) {
        assert_eq!(VaryFields::from_bytes(&names.to_bytes()), Some(names));
    }
    let mut varies = HeaderMap::new();
    varies.insert(VARY, HeaderValue::from_static("accept-language, x-list"));
    let Some(Vary::Fields(names)) = Vary::from_headers(&varies) else { unreachable!("it names two fields") };
    let line: Vec<u8> = text.into_iter().filter(|&byte| byte != b'\n').collect();
    let mut request = fields(&ACCEPT_LANGUAGE, &line);
    request.extend(fields(&HeaderName::from_static("x-list"), &line));
    for normalization in [&Normalization::safe(), &Normalization::permitted()] {
        let values: Vec<_> = names.selecting_values(&request, normalization).collect();
        let spelled: HeaderMap = ["accept-language", "x-list"]
            .into_iter()
            .zip(&values)
            .filter_map(|(name, value)| Some((name, value.as_ref()?)))
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap()))
            .collect();
        assert_eq!(names.selecting_values(&spelled, normalization).collect::<Vec<_>>(), values);
    }
}

/// An envelope that is read is, to the last bit, the one that would be written, but for the mark, which scripts write in
/// place; one with a wrong sum is not read.
pub fn envelopes(data: &[u8]) {
    let key = key();
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(entry) = envelope::decode(&key, &bytes) {
        let mut unmarked = bytes.to_vec();
        unmarked[envelope::MARK].fill(0);
        assert_eq!(envelope::encode(&entry), unmarked);
    }
    let summed = envelope::summed(&as_envelope(&key, data));
    if let Ok(entry) = envelope::decode(&key, &summed) {
        assert_eq!(envelope::encode(&entry), summed);
        let mut damaged = summed.to_vec();
        let at = data.len() % damaged.len();
        damaged[at] ^= 1 << (data.len() % 8);
        assert!(envelope::decode(&key, &damaged.into()).is_err() != envelope::MARK.contains(&at));
    }
}

/// A list of hot keys that is read is, to the last byte, the one that would be written. Of the lists of a node the first counts, none
/// of the reader's own does, and each key comes once, those with the most samples first.
pub fn hot_lists(data: &[u8]) {
    check_list(data);
    let list = as_list(data);
    check_list(&list);
    let (node, keys) = hot_list::read(&list).expect("it was written");
    let at = data.iter().map(|&byte| usize::from(byte)).sum::<usize>() % list.len();
    let mut damaged = list.clone();
    damaged[at] ^= 1 << (data.len() % 8);
    check_list(&damaged);
    check_list(&list[..at]);

    let sum = |wanted: &Key| keys.iter().filter(|(key, _)| key == wanted).map(|(_, samples)| samples).sum::<u64>();
    let merged = hot_list::merge(&[&list, &list], None);
    assert_eq!((merged.nodes, merged.refused), (1, 0));
    assert!(merged.keys.windows(2).all(|pair| sum(&pair[0]) >= sum(&pair[1])));
    assert!(keys.iter().all(|(key, _)| merged.keys.iter().filter(|merged| *merged == key).count() == 1));
    assert!(hot_list::merge(&[&list], Some(node)).keys.is_empty());

    let lists = [data, &list, &damaged, &list[..at]];
    let all = hot_list::merge(&lists, None);
    assert_eq!(all.refused, lists.iter().filter(|list| hot_list::read(list).is_none()).count());
    assert!(all.nodes + all.refused <= lists.len());
    let distinct: HashSet<&[u8]> = all.keys.iter().map(Key::canonical).collect();
    assert_eq!(distinct.len(), all.keys.len());
}

fn check_list(list: &[u8]) {
    if let Some((node, keys)) = hot_list::read(list) {
        assert_eq!(written(node, &keys), list);
    }
}

fn written(node: u64, keys: &[(Key, u64)]) -> Vec<u8> {
    let counted = |(key, sum): &(Key, u64)| Counted { key: key.canonical().into(), sum: *sum, error: 0, times: 1 };
    hot_list::write(node, &keys.iter().map(counted).collect::<Vec<_>>())
}

/// A list whose node is the first byte of `data`, with a key for each of its lines: the first byte is the number of samples, and the rest
/// the parts of the key, and what selects its variant, with `/` in between.
fn as_list(data: &[u8]) -> Vec<u8> {
    let (node, rest) = data.split_at(data.len().min(1));
    let key = |line: &[u8]| {
        let (samples, parts) = line.split_first()?;
        let mut parts: Vec<&[u8]> = parts.split(|&byte| byte == b'/').collect();
        let selector = if parts.len() > 1 { parts.pop() } else { None };
        let key = Key::new(parts);
        Some((selector.map_or_else(|| key.clone(), |selector| key.variant(selector)), u64::from(*samples)))
    };
    let keys: Vec<_> = rest.split(|&byte| byte == b'\n').filter_map(key).collect();
    written(node.first().copied().unwrap_or_default().into(), &keys)
}

/// The key of the corpus' entries.
fn key() -> Key {
    Key::new(["http://", "example.org", "/products?page=2"])
}

/// An envelope of today's version, whose head has the lengths that `data` begins with, and whose tags, metadata and payload
/// are the rest of it.
fn as_envelope(key: &Key, data: &[u8]) -> Bytes {
    let (lengths, rest) = data.split_at(data.len().min(5));
    let length = |at: usize| lengths.get(at).copied().unwrap_or_default();
    let mut out = BytesMut::zeroed(envelope::LENGTHS);
    out[..4].copy_from_slice(&envelope::MAGIC_AND_VERSION);
    // Off by one where the input says so.
    out.put_u32((key.canonical().len() as u32).wrapping_add(u32::from(length(0) == 1)));
    out.put_u16(u16::from(length(1)));
    out.put_u32(if length(2) == u8::MAX { u32::MAX } else { u32::from(length(2)) });
    let payload = u64::from(length(3));
    out.put_u64(if length(4) == u8::MAX { u64::MAX - payload } else { payload });
    debug_assert_eq!(out.len(), envelope::HEAD);
    out.put_slice(key.canonical());
    out.put_slice(rest);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, thread::panicking, time::Duration, time::Instant};

    use super::*;

    /// Shows the input that something does not hold of.
    struct Input(Vec<u8>);

    impl Drop for Input {
        fn drop(&mut self) {
            if panicking() {
                eprintln!("of {:?}, which is {}", self.0, spelled(&self.0).escape_ascii());
            }
        }
    }

    /// The corpus as it is, and then, for as long as `FUZZ_SECONDS` says, damaged and put together at random.
    fn fuzz(name: &str, target: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        assert!(!corpus.is_empty(), "{}", folder.display());

        let check = |bytes: Vec<u8>| {
            let input = Input(bytes);
            target(&input.0);
        };
        corpus.iter().for_each(|bytes| check(bytes.clone()));
        let seconds = std::env::var("FUZZ_SECONDS").map_or(1.0, |seconds| seconds.parse().unwrap());
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let mut random = fastrand::Rng::new();
        let mut runs = 0_u64;
        while Instant::now() < until {
            for _ in 0..100 {
                check(mutated(&corpus, &mut random));
            }
            runs += 100;
        }
        println!("{name}: {runs} runs beyond the corpus of {}", corpus.len());
    }

    fn mutated(corpus: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
        let mut bytes = corpus[random.usize(..corpus.len())].clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..=bytes.len());
            match random.u8(..5) {
                0 => bytes.insert(at, random.u8(..)),
                1 => bytes.insert(at, random.u8(128..192)),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
                4 => {
                    let other = &corpus[random.usize(..corpus.len())];
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[random.usize(..=other.len())..]);
                }
                _ => {}
            }
        }
        bytes
    }

    macro_rules! targets {
        ($($name:ident)+) => {$(
            #[test]
            fn $name() {
                fuzz(stringify!($name), super::$name);
            }
        )+};
    }

    /// Without one that is read, nothing behind the first check would be tried.
    #[test]
    fn the_corpus_has_envelopes_that_are_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/envelopes");
        let golden = fs::read(folder.join("golden")).unwrap();
        envelope::decode(&key(), &golden.into()).expect("it is one as it stands");
        for name in ["plain", "tagged"] {
            let summed = envelope::summed(&as_envelope(&key(), &fs::read(folder.join(name)).unwrap()));
            envelope::decode(&key(), &summed).unwrap_or_else(|rejection| panic!("{name}: {rejection:?}"));
        }
    }

    #[test]
    fn the_corpus_has_lists_of_hot_keys_that_are_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/hot_lists");
        let (node, keys) = hot_list::read(&fs::read(folder.join("golden")).unwrap()).expect("it is one as it stands");
        let two = [(Key::new(["http://", "shop", "/a"]), 7), (Key::new(["http://", "shop", "/b"]).variant(b"de"), 5)];
        assert_eq!((node, keys), (9, two.to_vec()));
    }

    targets! { dates directives structured_fields ranges lists queries contents envelopes hot_lists }
}
