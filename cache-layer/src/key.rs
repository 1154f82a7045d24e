//! The key of an entry: a digest to find the entry by, and the canonical key to prove that it is the right one.

use std::{
    cmp::Ordering,
    fmt::{self, Display},
    hash::{BuildHasher as _, BuildHasherDefault, Hash, Hasher, RandomState},
    sync::{Arc, LazyLock},
};

use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use crate::hex;
#[cfg(any(feature = "memory", feature = "redis"))]
use crate::ramp::Turn;

/// Bytes of the readable key that a store may show to people.
pub(crate) const READABLE_CAP: usize = 200;
/// The end of a readable key that was cut off. No other readable key ends in this.
pub(crate) const CAPPED: &str = "%+";

/// The name of a cache entry.
///
/// A key is made of parts (for a response: scheme, host, path with query). The parts are length-prefixed before they
/// are hashed with SHA-256, so `["a", "bc"]` and `["ab", "c"]` are two keys, and the prefixed bytes travel with every
/// entry and are compared on every read: even a collision of digests can't hand one key's entry to another.
///
/// ```
/// use cache_layer::Key;
///
/// let key = Key::new(["product", "42"]);
/// assert_eq!(key, Key::new(["product", "42"]));
/// assert_ne!(key, Key::new(["product4", "2"]));
/// ```
#[derive(Clone)]
pub struct Key {
    hash: KeyHash,
    /// The id, if it was computed: only keys that leave this process need it.
    id: Option<KeyId>,
    canonical: Arc<[u8]>,
}

/// The hash by which this process finds a key, of the primary key and, for a variant, of the variant. It is keyed by a secret,
/// so that clients can't construct collisions. Two keys have the same hash once in 2^64: code that looks something up by hash
/// also compares the keys, or does no harm if it confuses two keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct KeyHash {
    pub(crate) primary: u64,
    pub(crate) variant: u64,
}

/// The secret of the hashes of this process.
static HASHING: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl KeyHash {
    /// No variant.
    pub(crate) const PRIMARY: u64 = 0;

    fn of(canonical: &[u8]) -> Self {
        Self { primary: HASHING.hash_one(canonical), variant: Self::PRIMARY }
    }

    fn variant(self, selector: &[u8]) -> Self {
        Self { variant: HASHING.hash_one((self.primary, selector)).max(1), ..self }
    }

    pub(crate) fn is_variant(self) -> bool {
        self.variant != Self::PRIMARY
    }

    /// The turn of the key in a ramp, in this process.
    #[cfg(feature = "memory")]
    pub(crate) fn turn(self) -> Turn {
        Turn((self.primary >> 32) as u32)
    }
}

impl Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.primary ^ self.variant);
    }
}

/// A hasher for [`KeyHash`], which already is a hash.
pub(crate) type Hashed = BuildHasherDefault<HashedHasher>;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HashedHasher(u64);

impl Hasher for HashedHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // The other parts of a hashed value have few values: a flag, a kind.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 ^= hash;
    }
}

/// The fixed-size identity of a key: the digest of its primary key and, for a variant, the digest of the variant's canonical key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct KeyId {
    pub(crate) primary: [u8; 16],
    pub(crate) variant: [u8; 16],
}

impl KeyId {
    /// No variant: no SHA-256 digest is zero in practice, and a variant with a zero digest would only be a miss.
    pub(crate) const PRIMARY: [u8; 16] = [0; 16];

    #[cfg(feature = "redis")]
    pub(crate) fn is_variant(self) -> bool {
        self.variant != Self::PRIMARY
    }

    /// The turn of the key in a ramp, in the fleet.
    #[cfg(feature = "redis")]
    pub(crate) fn turn(self) -> Turn {
        let [.., a, b, c, d] = self.primary;
        Turn(u32::from_be_bytes([a, b, c, d]))
    }
}

impl Hash for KeyId {
    /// Eight bytes of two digests are as good as all of them, at a quarter of the cost.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let half = |digest: &[u8; 16]| digest.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        state.write_u64(half(&self.primary) ^ half(&self.variant));
    }
}

impl Key {
    /// A key made of `parts`, in their order.
    pub fn new<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Self {
        let parts: SmallVec<[P; 8]> = parts.into_iter().collect();
        Self::of_parts(parts.iter().map(AsRef::as_ref))
    }

    /// As [`new`](Self::new), for parts that can be iterated twice: only the key is allocated.
    pub(crate) fn of_parts<'a>(parts: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let length = parts.clone().map(|part| PREFIX + part.len()).sum();
        with_buffer(length, |canonical| {
            parts.fold(&mut *canonical, |rest, part| write_part(rest, part));
            Self::of(canonical)
        })
    }

    fn of(canonical: &[u8]) -> Self {
        Self { hash: KeyHash::of(canonical), id: None, canonical: canonical.into() }
    }

    /// The key of an entry with these canonical bytes.
    pub(crate) fn of_canonical(canonical: &[u8]) -> Self {
        let (primary, rest) = canonical.split_at(primary_length(canonical));
        let primary = Self::of(primary);
        match rest.get(1 + PREFIX..) {
            Some(selector) => primary.variant(selector),
            None => primary,
        }
    }

    /// As [`of_canonical`](Self::of_canonical), of bytes that may come from anywhere; `None` if they are no key's.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub(crate) fn parse_canonical(canonical: &[u8]) -> Option<Self> {
        let mut rest = canonical;
        while let Some((length, tail)) = rest.split_first_chunk::<PREFIX>().filter(|_| rest[0] != b'v') {
            rest = tail.get(u32::from_be_bytes(*length) as usize..)?;
        }
        if rest.len() == canonical.len() {
            return None;
        }
        if let Some(selector) = rest.strip_prefix(b"v") {
            let (length, selector) = selector.split_first_chunk::<PREFIX>()?;
            rest = selector.get(u32::from_be_bytes(*length) as usize..)?;
        }
        rest.is_empty().then(|| Self::of_canonical(canonical))
    }

    /// The key of the variant of this entry that `selector` names (for a response: the values of its `Vary` fields).
    ///
    /// Invalidating the primary key invalidates its variants: stores keep both in one place.
    #[must_use]
    pub fn variant(&self, selector: &[u8]) -> Self {
        with_buffer(self.canonical.len() + 1 + PREFIX + selector.len(), |canonical| {
            let (primary, rest) = canonical.split_at_mut(self.canonical.len());
            primary.copy_from_slice(&self.canonical);
            rest[0] = b'v';
            write_part(&mut rest[1..], selector);
            let id = self.id.map(|id| KeyId { variant: digest(canonical), ..id });
            Self { hash: self.hash.variant(selector), id, canonical: (&*canonical).into() }
        })
    }

    /// The key that this is a variant of; the key itself, if it is not a variant.
    pub(crate) fn primary(&self) -> Self {
        if !self.is_variant() {
            return self.clone();
        }
        let id = self.id.map(|id| KeyId { variant: KeyId::PRIMARY, ..id });
        let hash = KeyHash { variant: KeyHash::PRIMARY, ..self.hash };
        Self { hash, id, canonical: self.canonical[..self.primary_length()].into() }
    }

    /// The length of the primary key within the canonical key.
    fn primary_length(&self) -> usize {
        if !self.is_variant() {
            return self.canonical.len();
        }
        primary_length(&self.canonical)
    }

    pub(crate) fn is_variant(&self) -> bool {
        self.hash.is_variant()
    }

    /// The same key with the hash of another key: a collision, for tests.
    #[cfg(all(test, feature = "memory"))]
    pub(crate) fn colliding_with(self, other: &Self) -> Self {
        Self { hash: other.hash, ..self }
    }

    /// The hash by which this process finds the key.
    pub(crate) fn hash(&self) -> KeyHash {
        self.hash
    }

    /// The id by which the fleet finds the key. It is computed on each call, unless the key [has stored it](Self::named).
    pub(crate) fn id(&self) -> KeyId {
        self.id.unwrap_or_else(|| {
            let primary = digest(&self.canonical[..self.primary_length()]);
            let variant = if self.is_variant() { digest(&self.canonical) } else { KeyId::PRIMARY };
            KeyId { primary, variant }
        })
    }

    /// The same key with its [id](Self::id) stored, so that it is computed once; its variants and clones have theirs stored, too.
    pub(crate) fn named(self) -> Self {
        Self { id: Some(self.id()), ..self }
    }

    /// The bytes that are stored with the entry and compared on read.
    pub(crate) fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// The parts of the primary key, in their order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.canonical[..self.primary_length()];
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first_chunk::<PREFIX>()?;
            let (part, tail) = tail.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            rest = tail;
            Some(part)
        })
    }

    /// The digest by which stores find the entry, as 32 hex digits; for a variant, two digests with a colon between them.
    ///
    /// ```
    /// let key = cache_layer::Key::new(["product", "42"]);
    /// assert_eq!(key.digest().len(), 32);
    /// assert_eq!(key.variant(b"de").digest().split_once(':').map(|(primary, _)| primary.to_owned()), Some(key.digest()));
    /// ```
    #[must_use]
    pub fn digest(&self) -> String {
        let digits = |bytes: &[u8; 16]| format!("{:032x}", u128::from_be_bytes(*bytes));
        let id = self.id();
        match self.is_variant() {
            true => format!("{}:{}", digits(&id.primary), digits(&id.variant)),
            false => digits(&id.primary),
        }
    }

    /// The parts one after another, in readable form: printable, without unescaped braces, blanks or glob characters, and cut off
    /// after 200 bytes, with `%+` at the end.
    pub(crate) fn readable(&self) -> String {
        let mut text = String::with_capacity(self.canonical.len());
        self.push_readable(&mut text);
        text
    }

    /// Appends the [readable](Self::readable) form.
    pub(crate) fn push_readable(&self, text: &mut String) {
        push_readable(text, &self.canonical, READABLE_CAP);
    }
}

/// The length of the primary key within a canonical key, which may be that of a variant.
fn primary_length(canonical: &[u8]) -> usize {
    let mut end = 0;
    // Every part is complete: this process wrote the bytes, or compared them with bytes that it wrote.
    while let Some(length) =
        canonical.get(end..).and_then(|rest| rest.first_chunk::<4>()).filter(|length| length[0] != b'v')
    {
        end += 4 + u32::from_be_bytes(*length) as usize;
    }
    end.min(canonical.len())
}

/// The readable form of a canonical key, in full: patterns are compared with it.
pub(crate) fn readable_in_full(canonical: &[u8]) -> String {
    let mut text = String::with_capacity(canonical.len());
    push_readable(&mut text, canonical, usize::MAX);
    text
}

fn push_readable(text: &mut String, canonical: &[u8], cap: usize) {
    let end = cap.saturating_add(text.len());
    let mut rest = canonical;
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        // After the parts of its primary key, a variant has its selector, which is not shown: the entry has it.
        let Some((part, tail)) = tail.split_at_checked(length) else {
            break;
        };
        let mut part = part;
        while let Some(&byte) = part.first() {
            if text.len() + 3 > end {
                text.push_str(CAPPED);
                return;
            }
            // The longest run of bytes that fits and needs no escape.
            let room = end - 2 - text.len();
            let shown = &part[..room.min(part.len())];
            let plain = shown.iter().position(|byte| !READABLE[usize::from(*byte)]).unwrap_or(shown.len());
            text.push_str(str::from_utf8(&part[..plain]).unwrap_or_default());
            part = &part[plain..];
            if plain == 0 {
                text.push('%');
                text.extend(hex::of_byte(byte).map(|digit| char::from(digit.to_ascii_uppercase())));
                part = &part[1..];
            }
        }
        rest = tail;
        if rest.first() == Some(&b'v') {
            break;
        }
    }
}

/// Which bytes are not escaped in a readable key.
const READABLE: [bool; 256] = {
    let mut readable = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        readable[byte as usize] = !matches!(byte, b'{' | b'}' | b'%' | b'*' | b'[' | b']' | b'\\');
        byte += 1;
    }
    readable
};

// A response's key has five parts or more, so no key made here can be equal to one.

impl From<&Self> for Key {
    fn from(key: &Self) -> Self {
        key.clone()
    }
}

/// A key of one part, such as `"exchange_rates"`. It never equals a key of a name and an id, even if both print the same.
impl From<&str> for Key {
    fn from(key: &str) -> Self {
        Self::new([key])
    }
}

/// As from a `&str`.
impl From<String> for Key {
    fn from(key: String) -> Self {
        Self::new([key])
    }
}

/// The name of a kind of values, and the id of one of them: `("product", 42)` prints as `product:42`, also in patterns. Name
/// and id are separate parts, so that no two different pairs make the same key.
///
/// If the type of these values changes so that processes of the old and the new release can't read each other's values, give
/// the kind a new name, such as `"product@2"`: each release then has its own entries until the old processes are gone.
impl<D: Display> From<(&str, D)> for Key {
    fn from((name, id): (&str, D)) -> Self {
        Self::new([name, ":", &id.to_string()])
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.canonical == other.canonical
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

/// Keys are ordered by the bytes of their parts.
impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.canonical.cmp(&other.canonical)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The parts one after another, as [patterns](crate::Cache::delete_pattern) are compared with them: in printable ASCII. Other
/// bytes and `{ } % * [ ] \` are written as `%` and two hex digits; a text longer than 200 bytes is cut off, and ends in `%+`.
///
/// ```
/// # use cache_layer::Key;
/// assert_eq!(Key::from(("product", 42)).to_string(), "product:42");
/// ```
impl Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.readable())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.readable())
    }
}

/// The size of a part's length prefix.
const PREFIX: usize = size_of::<u32>();

/// Runs `write` with a buffer of this length: most keys are short enough for a buffer on the stack.
fn with_buffer<T>(length: usize, write: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut short = [0; 256];
    match short.get_mut(..length) {
        Some(buffer) => write(buffer),
        None => write(&mut vec![0; length]),
    }
}

/// Writes a part at the beginning of `buffer`, and returns the rest of the buffer.
fn write_part<'b>(buffer: &'b mut [u8], part: &[u8]) -> &'b mut [u8] {
    // Parts come out of request heads and are far below 4 GiB; a longer one is cut in its prefix, never in its bytes.
    let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
    let (prefix, rest) = buffer.split_at_mut(PREFIX);
    prefix.copy_from_slice(&length.to_be_bytes());
    let (bytes, rest) = rest.split_at_mut(part.len());
    bytes.copy_from_slice(part);
    rest
}

fn digest(bytes: &[u8]) -> [u8; 16] {
    let full = Sha256::digest(bytes);
    let mut half = [0; 16];
    half.copy_from_slice(&full[..16]);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "redis")]
    #[test]
    fn the_turns_of_many_keys_are_even_over_a_window() {
        let (mut here, mut fleet) = (vec![0_u32; 60], vec![0_u32; 60]);
        for number in 0..200_000 {
            let key = Key::new(["http://", "shop.example", &format!("/products/{number}")]);
            here[key.hash().turn().of(60) as usize] += 1;
            fleet[key.id().turn().of(60) as usize] += 1;
        }
        let key = Key::new(["http://", "shop.example", "/"]);
        assert_eq!(key.variant(b"de").id().turn(), key.id().turn());
        for seconds in [here, fleet] {
            let most = f64::from(*seconds.iter().max().expect("there are sixty")) * 60.0 / 200_000.0;
            println!("of 200,000 keys over 60 seconds, the fullest second has {most:.3} of the mean");
            assert!(most <= 1.3, "{seconds:?}");
        }
    }

    #[test]
    fn parts_cannot_run_into_each_other() {
        assert_ne!(Key::new(["a", "bc"]), Key::new(["ab", "c"]));
        assert_ne!(Key::new(["a", ""]), Key::new(["a"]));
    }

    #[test]
    fn a_key_and_its_variants_have_the_parts_that_it_was_made_of() {
        let parts: [&[u8]; 4] = [b"http", b"", b"/v", b"\0\xff"];
        let key = Key::new(parts);
        for key in [key.variant(b"de"), key] {
            assert_eq!(key.parts().collect::<Vec<_>>(), parts);
        }
        assert_eq!(Key::new([""; 0]).parts().count(), 0);
    }

    #[test]
    fn a_variant_shares_its_primary_digest_and_nothing_else() {
        let key = Key::new(["http://", "a", "/x"]);
        let german = key.variant(b"de");
        let english = key.variant(b"en");
        assert_eq!(german.id().primary, key.id().primary);
        assert_ne!(german, english);
        assert_ne!(german, key);
        assert!(german.id().is_variant() && !key.id().is_variant());
    }

    #[test]
    fn a_key_is_known_by_its_canonical_bytes() {
        let key = Key::new(["http://", "", "/v?v=v"]);
        for key in [key.variant(b"de"), key.variant(b""), key.variant(b"vvvvvvvv"), key, Key::new([""; 0])] {
            let again = Key::of_canonical(key.canonical());
            assert_eq!((&again, again.id()), (&key, key.id()));
        }
    }

    #[test]
    fn a_key_is_found_by_the_same_whether_it_is_at_hand_or_not() {
        let key = Key::new(["http://", "a", "/x"]);
        let named = key.clone().named();
        for (one, other) in [
            (named.clone(), key.clone()),
            (named.variant(b"de"), key.variant(b"de")),
            (named.variant(b"de"), key.variant(b"de").named()),
            (named.variant(b"de").primary(), key.variant(b"de").primary()),
        ] {
            assert_eq!((one.id(), one.hash(), &one), (other.id(), other.hash(), &other));
        }
    }

    #[test]
    fn a_variant_is_found_beside_its_primary_key_and_apart_from_it() {
        let key = Key::new(["http://", "a", "/x"]);
        let (german, english) = (key.variant(b"de").hash(), key.variant(b"en").hash());
        assert_eq!([german.primary, english.primary], [key.hash().primary; 2]);
        assert!(german.is_variant() && english.is_variant() && !key.is_variant() && german != english);
    }

    #[test]
    fn a_key_that_is_too_long_for_the_stack_is_a_key() {
        for length in [200, 252, 253, 5_000] {
            let key = Key::new([vec![b'x'; length]]);
            assert_eq!(key.canonical().len(), PREFIX + length);
            assert_eq!(key.variant(b"de").primary(), key);
        }
    }

    #[test]
    fn the_readable_form_is_safe_to_print_and_capped() {
        assert_eq!(Key::new(["http://", "a.example", "/x?y=1"]).readable(), "http://a.example/x?y=1");
        assert_eq!(Key::new(["a{b}c *\n"]).readable(), "a%7Bb%7Dc%20%2A%0A");
        let long = Key::new(["x".repeat(1_000)]).readable();
        assert!(long.len() <= READABLE_CAP + 2 && long.ends_with(CAPPED), "{long}");
        assert_eq!(readable_in_full(Key::new(["x".repeat(1_000)]).canonical()).len(), 1_000);
    }

    #[test]
    #[deny(clippy::mutable_key_type)]
    fn keys_are_ordered_and_hashed_as_they_are_equal() {
        let keys =
            [Key::new(["b"]), Key::new(["a"]).variant(b"x"), Key::new(["a"]), Key::new(["a", ""]), Key::new(["b"])];
        let sorted = std::collections::BTreeSet::from(keys.clone());
        assert_eq!(sorted.len(), 4);
        assert_eq!(std::collections::HashSet::from(keys), sorted.into_iter().collect());
    }

    #[test]
    fn a_variant_reads_as_its_primary_key() {
        let key = Key::new(["http://", "a", "/x"]);
        assert_eq!(key.variant(b"de").readable(), key.readable());
    }

    #[test]
    fn a_name_and_an_id_read_as_one_text_and_are_none() {
        assert_eq!(Key::from(("product", 42)).readable(), "product:42");
        assert_ne!(Key::from(("product", 42)), Key::from("product:42"));
        assert_ne!(Key::from(("a", "b:c")), Key::from(("a:b", "c")));
    }
}
