//! Sealed entries, for a store that is not trusted: encrypted, and bound to their key and their times.
//!
//! A sealed envelope is one of [version 2](super::envelope) with the highest bit of byte 86 set, without a checksum, and with
//! this after the head:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | the id of the sealing key: the beginning of the key's SHA-256 |
//! | 12 | nonce, random |
//! | … | canonical key, tags, metadata and payload, encrypted |
//! | 16 | authentication tag (AES-256-GCM-SIV, RFC 8452) |
//!
//! The head stays readable: the id, the times and the lengths, which scripts and the server need, and with them how long the load
//! took, how many tags there are, and how the payload is written. What else an observer can read is listed at
//! [`sealed_with`](crate::store::RedisStoreBuilder::sealed_with). The head is authenticated
//! with the rest, and so are the store's prefix and the canonical key of the look-up: an entry that was changed, truncated, or
//! put under another key or another prefix does not open. Only the mark of a soft invalidation is not authenticated: a script
//! writes it, and it can only make an entry stale.

use std::{fmt, sync::Arc};

use aes_gcm_siv::{
    Aes256GcmSiv, Nonce, Tag,
    aead::{AeadInOut as _, KeyInit as _},
    aes::{
        Aes256,
        cipher::{BlockCipherDecrypt as _, BlockCipherEncrypt as _},
    },
};
use bytes::{BufMut as _, Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use super::{
    compression::Compression,
    contents::Entry,
    envelope::{self, HEAD, MARK, SEALED},
};
use crate::{hex, key::Key, telemetry::Rejection};

/// The lengths of the key's id, the nonce, and the authentication tag.
const KEY_ID: usize = 4;
const NONCE: usize = 12;
const PROOF: usize = 16;
const OVERHEAD: usize = KEY_ID + NONCE + PROOF;

/// The secrets of a [sealed](crate::store::RedisStoreBuilder::sealed_with) store: one that hides the names of keys and tags,
/// and one or more that seal entries. All are 32 random bytes, the same in every process of the fleet. Cheap to clone.
///
/// ```
/// use cache_layer::store::KeyRing;
///
/// # let (names, of_this_year, of_last_year) = ([1; 32], [2; 32], [3; 32]);
/// let ring = KeyRing::new(names, of_this_year).opens(of_last_year);
/// ```
///
/// # Rotation
///
/// A sealing key is rotated in three steps. Each step has to reach every process before the next one begins, so that no process
/// reads an entry that it can't open:
///
/// 1. all processes can open entries with the new key: `KeyRing::new(names, old).opens(new)`
/// 2. all processes seal with the new key: `KeyRing::new(names, new).opens(old)`
/// 3. once the last entry of the old key has expired: `KeyRing::new(names, new)`
///
/// An entry whose key is not in the ring is a miss, for the reason [`seal`](crate::telemetry::Rejection::Seal). The secret of the
/// names can't be rotated: with another secret, no existing entry is found.
///
/// # Several fleets
///
/// An entry opens under the [prefix](crate::store::RedisStoreBuilder::prefix) alone under which it was sealed, so that fleets with
/// different prefixes may share a ring. Fleets with one prefix, on different servers, need a ring each: who may write to both
/// could copy entries from one to the other.
#[derive(Clone)]
pub struct KeyRing(Arc<Ring>);

#[derive(Clone)]
struct Ring {
    /// The prefix of the store, at most 64 bytes.
    prefix: String,
    ids: Aes256,
    tags: Aes256GcmSiv,
    /// The first key seals.
    keys: Vec<SealKey>,
}

#[derive(Clone)]
struct SealKey {
    id: [u8; KEY_ID],
    cipher: Aes256GcmSiv,
}

impl SealKey {
    fn new(key: [u8; 32]) -> Self {
        let mut id = [0; KEY_ID];
        id.copy_from_slice(&derived("key", &key)[..KEY_ID]);
        Self { id, cipher: Aes256GcmSiv::new(&key.into()) }
    }
}

/// A secret for one purpose.
fn derived(purpose: &str, secret: &[u8; 32]) -> [u8; 32] {
    Sha256::new()
        .chain_update("cache-layer ")
        .chain_update(purpose)
        .chain_update([0_u8])
        .chain_update(secret)
        .finalize()
        .into()
}

impl KeyRing {
    /// Names are hidden with `names`; entries are sealed with `key`, and opened with it.
    #[must_use]
    pub fn new(names: [u8; 32], key: [u8; 32]) -> Self {
        let ids = Aes256::new(&derived("ids", &names).into());
        let tags = Aes256GcmSiv::new(&derived("tags", &names).into());
        Self(Arc::new(Ring { prefix: String::new(), ids, tags, keys: vec![SealKey::new(key)] }))
    }

    /// Entries that were sealed with `key` are opened, too.
    #[must_use]
    pub fn opens(mut self, key: [u8; 32]) -> Self {
        Arc::make_mut(&mut self.0).keys.push(SealKey::new(key));
        self
    }

    /// The same ring for the store with this prefix. Names are hidden in the same way under every prefix.
    pub(crate) fn bound_to(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut Arc::make_mut(&mut self.0).prefix);
        self
    }

    /// The hidden form of an id in names. A process with the secret can recognize it.
    pub(crate) fn hide_id(&self, id: [u8; 16]) -> [u8; 16] {
        let mut block = id.into();
        self.0.ids.encrypt_block(&mut block);
        block.into()
    }

    pub(crate) fn reveal_id(&self, hidden: [u8; 16]) -> [u8; 16] {
        let mut block = hidden.into();
        self.0.ids.decrypt_block(&mut block);
        block.into()
    }

    /// The hidden form of a tag in names: the same each time, so that it can be found. It reveals the tag's length.
    pub(crate) fn hide_tag(&self, tag: &str) -> String {
        let mut hidden = tag.as_bytes().to_vec();
        // This mode tolerates a constant nonce: it only reveals that equal tags are equal.
        let nonce = Nonce::default();
        let Ok(proof) = self.0.tags.encrypt_inout_detached(&nonce, b"", (&mut hidden[..]).into()) else {
            // Fails only for texts of 64 GiB.
            return String::new();
        };
        hidden.extend_from_slice(&proof);
        hidden.iter().flat_map(|byte| hex::of_byte(*byte)).map(char::from).collect()
    }

    pub(crate) fn reveal_tag(&self, hidden: &str) -> Option<String> {
        let mut bytes = (0..hidden.len() / 2)
            .map(|place| u8::from_str_radix(hidden.get(2 * place..2 * place + 2)?, 16).ok())
            .collect::<Option<Vec<u8>>>()?;
        let proof = bytes.split_off(bytes.len().checked_sub(PROOF)?);
        let proof = Tag::try_from(&proof[..]).ok()?;
        self.0.tags.decrypt_inout_detached(&Nonce::default(), b"", (&mut bytes[..]).into(), &proof).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// The envelope of an entry, sealed.
    pub(crate) fn seal(&self, entry: &Entry, compression: Compression) -> Bytes {
        let mut head = envelope::write(entry, compression);
        head[SEALED.0] |= SEALED.1;
        let mut body = head.split_off(HEAD);
        let Some(SealKey { id, cipher }) = self.0.keys.first() else { return Bytes::new() };
        let nonce = nonce();
        let proven = self.proven(&head, entry.canonical());
        let Ok(proof) = cipher.encrypt_inout_detached(&Nonce::from(nonce), &proven, (&mut body[..]).into()) else {
            // Fails only for entries of 64 GiB.
            return Bytes::new();
        };
        let mut out = BytesMut::with_capacity(HEAD + OVERHEAD + body.len());
        for part in [&head[..], &id[..], &nonce[..], &body[..], &proof[..]] {
            out.put_slice(part);
        }
        out.freeze()
    }

    /// The entry of `key` that is in a sealed envelope.
    pub(crate) fn open(&self, key: &Key, bytes: &Bytes) -> Result<Entry, Rejection> {
        envelope::check_version(bytes)?;
        if bytes.len() < HEAD + OVERHEAD {
            return Err(Rejection::Truncated);
        }
        let (head, rest) = bytes.split_at(HEAD);
        // An entry that is not sealed is not read.
        if head[SEALED.0] & SEALED.1 == 0 {
            return Err(Rejection::Seal);
        }
        if envelope::least_length(head) > rest.len().saturating_sub(OVERHEAD) as u64 {
            return Err(Rejection::Truncated);
        }
        let (id, rest) = rest.split_at(KEY_ID);
        let (nonce, rest) = rest.split_at(NONCE);
        let (body, proof) = rest.split_at(rest.len() - PROOF);
        let (Ok(nonce), Ok(proof)) = (Nonce::try_from(nonce), Tag::try_from(proof)) else {
            return Err(Rejection::Truncated);
        };
        let known = self.0.keys.iter().find(|known| known.id[..] == *id).ok_or(Rejection::Seal)?;
        let mut opened = BytesMut::with_capacity(HEAD + body.len());
        opened.put_slice(head);
        opened[MARK].fill(0);
        let proven = self.proven(&opened, key.canonical());
        opened[MARK].copy_from_slice(&head[MARK]);
        opened[SEALED.0] &= !SEALED.1;
        opened.put_slice(body);
        known
            .cipher
            .decrypt_inout_detached(&nonce, &proven, (&mut opened[HEAD..]).into(), &proof)
            .map_err(|_| Rejection::Seal)?;
        envelope::read(key, &opened.freeze())
    }

    /// The data that is authenticated in addition to the encrypted part: the head without the mark, the prefix after its length,
    /// and the canonical key.
    fn proven(&self, head: &[u8], canonical: &[u8]) -> Vec<u8> {
        let prefix = self.0.prefix.as_bytes();
        [head, &[prefix.len() as u8], prefix, canonical].concat()
    }
}

/// This mode tolerates a repeated nonce: it only reveals whether two entries are equal.
fn nonce() -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    if getrandom::fill(&mut nonce).is_err() {
        nonce.copy_from_slice(&fastrand::u128(..).to_be_bytes()[..NONCE]);
    }
    nonce
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The ids reveal nothing about the keys.
        let ids: Vec<String> = self.0.keys.iter().map(|key| format!("{:08x}", u32::from_be_bytes(key.id))).collect();
        f.debug_struct("KeyRing").field("keys", &ids).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entry::{Deadlines, EntryId},
        tag::{TagStamp, TagToken},
    };

    fn ring() -> KeyRing {
        KeyRing::new([1; 32], [2; 32])
    }

    fn key(name: &str) -> Key {
        Key::new(["http://", "shop.example", name])
    }

    fn entry(key: &Key, payload: &'static str) -> Entry {
        let (meta, payload) = (Bytes::from_static(b"some-metadata"), Bytes::from_static(payload.as_bytes()));
        let stamp = TagStamp { tag: "some-tag".into(), token: TagToken([b'7'; TagToken::LENGTH]) };
        Entry::new(EntryId::random(), key, Deadlines::fresh_until(1_800_000_000_000), meta, payload).stamped(&[stamp])
    }

    /// Why it does not open.
    fn reason(ring: &KeyRing, key: &Key, bytes: &[u8]) -> Option<Rejection> {
        ring.open(key, &Bytes::copy_from_slice(bytes)).err()
    }

    #[test]
    fn what_was_sealed_comes_back_as_it_was() {
        for payload in ["", "some payload"] {
            let entry = entry(&key("/a"), payload);
            let opened = ring().open(&key("/a"), &ring().seal(&entry, Compression::default())).unwrap();
            assert_eq!(opened.payload(), entry.payload());
            assert_eq!((opened.id(), opened.deadlines(), opened.meta()), (entry.id(), entry.deadlines(), entry.meta()));
            assert_eq!(opened.stamps(), entry.stamps());
        }
    }

    #[test]
    fn nothing_of_it_can_be_read() {
        let sealed = ring().seal(&entry(&key("/a"), "some payload"), Compression::default());
        let plain = envelope::encode(&entry(&key("/a"), "some payload"));
        for secret in ["shop.example", "some-tag", "some-metadata", "some payload"] {
            let is_in = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(is_in(&plain) && !is_in(&sealed), "{secret}");
        }
    }

    #[test]
    fn an_entry_that_is_sealed_twice_does_not_look_the_same() {
        let entry = entry(&key("/a"), "x");
        let [one, other] = [(); 2].map(|()| ring().seal(&entry, Compression::default()));
        assert_eq!(one[..HEAD + KEY_ID], other[..HEAD + KEY_ID]);
        let (nonce, body) = (HEAD + KEY_ID..HEAD + KEY_ID + NONCE, HEAD + KEY_ID + NONCE..);
        assert!(one[nonce.clone()] != other[nonce] && one[body.clone()] != other[body]);
    }

    #[test]
    fn the_id_of_a_key_tells_nothing_of_the_key() {
        let secret: [u8; 32] = std::array::from_fn(|place| 100 + place as u8);
        let id = SealKey::new(secret).id;
        assert!(!secret.windows(KEY_ID).any(|part| *part == id), "it is no part of it");
        assert_ne!(id, derived("ids", &secret)[..KEY_ID], "and no part of what hides names");
        assert_ne!(id, SealKey::new([7; 32]).id);
    }

    #[test]
    fn names_are_hidden_and_revealed_by_the_secret_of_the_names_alone() {
        let (ring, same) = (ring(), KeyRing::new([1; 32], [9; 32]));
        let other = KeyRing::new([8; 32], [2; 32]);
        let id = [7; 16];
        assert!(
            ring.hide_id(id) != id && ring.hide_id(id) == same.hide_id(id) && ring.hide_id(id) != other.hide_id(id)
        );
        assert!(ring.reveal_id(ring.hide_id(id)) == id && other.reveal_id(ring.hide_id(id)) != id);
        let hidden = ring.hide_tag("some-tag");
        assert!(hidden == same.hide_tag("some-tag") && hidden != other.hide_tag("some-tag"));
        // Not even as digits.
        let digits: String = "some-tag".bytes().flat_map(hex::of_byte).map(char::from).collect();
        assert!(!hidden.contains(&digits[..4]), "{hidden}");
        assert_eq!(ring.reveal_tag(&hidden).as_deref(), Some("some-tag"));
        assert_eq!(other.reveal_tag(&hidden), None);
        for place in 0..hidden.len() {
            let changed = if &hidden[place..=place] == "0" { "1" } else { "0" };
            let changed = format!("{}{changed}{}", &hidden[..place], &hidden[place + 1..]);
            assert_eq!(ring.reveal_tag(&changed), None, "{changed}");
            assert_eq!(ring.reveal_tag(&hidden[..place]), None, "cut at {place}");
        }
    }

    #[test]
    fn a_sealed_entry_is_of_this_form_for_ever() {
        let golden = include_bytes!("../../fixtures/entry-sealed.bin");
        let opened = ring().open(&key("/a"), &Bytes::from_static(golden)).unwrap();
        assert_eq!((&opened.payload()[..], &opened.meta()[..]), (&b"some payload"[..], &b"some-metadata"[..]));
        // Names are the same for as long.
        let hidden: String = ring().hide_id([7; 16]).into_iter().flat_map(hex::of_byte).map(char::from).collect();
        assert_eq!(
            (&*hidden, &*ring().hide_tag("t")),
            ("b69f5d72acf6dca977295687a211f4af", "946230db839387fee31d43da691c278808")
        );
    }

    #[test]
    fn every_bit_that_flips_is_a_miss_with_a_reason() {
        let (ring, key) = (ring(), key("/a"));
        let sealed = ring.seal(&entry(&key, "some payload"), Compression::default());
        for bit in 0..8 * sealed.len() {
            let mut flipped = sealed.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let reason = reason(&ring, &key, &flipped);
            match bit / 8 {
                0..3 => assert_eq!(reason, Some(Rejection::Foreign)),
                // There is more than one version, and each is sealed as what it is.
                3 => assert!(matches!(reason, Some(Rejection::Version | Rejection::Seal)), "{reason:?}"),
                // A script writes there, and all that it does is to make the entry stale.
                4..8 => assert_eq!(reason, None),
                place => assert!(matches!(reason, Some(Rejection::Seal | Rejection::Truncated)), "{place}: {reason:?}"),
            }
        }
    }

    #[test]
    fn whatever_is_cut_off_is_a_miss_with_a_reason() {
        let (ring, key) = (ring(), key("/a"));
        let sealed = ring.seal(&entry(&key, "some payload"), Compression::default());
        for length in 0..sealed.len() {
            let reason = reason(&ring, &key, &sealed[..length]);
            let expected = match length {
                0..3 => matches!(reason, Some(Rejection::Foreign)),
                3 => matches!(reason, Some(Rejection::Version)),
                // An operator can do something about truncation. The head tells all lengths but those of the tags.
                _ if length < sealed.len() - (2 + 8 + TagToken::LENGTH) => reason == Some(Rejection::Truncated),
                _ => matches!(reason, Some(Rejection::Truncated | Rejection::Seal)),
            };
            assert!(expected, "{length}: {reason:?}");
        }
        assert_eq!(reason(&ring, &key, &[&sealed[..], b"x"].concat()), Some(Rejection::Seal));
    }

    #[test]
    fn an_entry_opens_under_its_own_key_alone() {
        let (ring, one, other) = (ring(), key("/a"), key("/b"));
        let (of_one, of_other) = (
            ring.seal(&entry(&one, "1"), Compression::default()),
            ring.seal(&entry(&other, "2"), Compression::default()),
        );
        assert_eq!(reason(&ring, &one, &of_other), Some(Rejection::Seal));
        assert_eq!(reason(&ring, &other, &of_one), Some(Rejection::Seal));
        // Nor does it take on the moments of another one.
        let mixed = [&of_other[..HEAD], &of_one[HEAD..]].concat();
        assert_eq!(reason(&ring, &one, &mixed), Some(Rejection::Seal));
    }

    #[test]
    fn an_entry_opens_under_its_own_prefix_alone() {
        let (key, [staging, production]) = (key("/a"), ["stg", "prod"].map(|prefix| ring().bound_to(prefix)));
        let sealed = staging.seal(&entry(&key, "1"), Compression::default());
        assert_eq!(reason(&staging, &key, &sealed), None);
        assert_eq!(reason(&production, &key, &sealed), Some(Rejection::Seal));
        assert_eq!(reason(&ring(), &key, &sealed), Some(Rejection::Seal));
        // Nor does a part of the prefix pass for a part of the key.
        let (short, long) = (Key::new(["k"]), Key::new(["b", "k"]));
        let sealed = ring().bound_to("a").seal(&entry(&long, "1"), Compression::default());
        assert_eq!(reason(&ring().bound_to("a\0\0\0\x01b"), &short, &sealed), Some(Rejection::Seal));
    }

    #[test]
    fn what_is_not_sealed_does_not_count_and_what_is_needs_a_key() {
        let (ring, key) = (ring(), key("/a"));
        let plain = envelope::encode(&entry(&key, "1"));
        assert_eq!(reason(&ring, &key, &plain), Some(Rejection::Seal));
        assert_eq!(
            envelope::decode(&key, &ring.seal(&entry(&key, "1"), Compression::default())).err(),
            Some(Rejection::Seal)
        );
    }

    #[test]
    fn in_each_step_of_a_rotation_every_process_opens_what_every_other_seals() {
        let names = [1; 32];
        let steps = [
            KeyRing::new(names, [2; 32]),
            KeyRing::new(names, [2; 32]).opens([3; 32]),
            KeyRing::new(names, [3; 32]).opens([2; 32]),
            KeyRing::new(names, [3; 32]),
        ];
        let opens = |by: &KeyRing, of: &KeyRing| {
            by.open(&key("/a"), &of.seal(&entry(&key("/a"), "1"), Compression::default())).is_ok()
        };
        for (before, after) in steps.iter().zip(&steps[1..]) {
            assert!(opens(before, before) && opens(after, before) && opens(after, after));
        }
        assert!(opens(&steps[0], &steps[1]), "the first step seals as before");
        assert!(opens(&steps[1], &steps[2]), "who has not taken the second step opens what comes after it");
        assert!(!opens(&steps[0], &steps[2]) && !opens(&steps[3], &steps[0]));
    }
}
