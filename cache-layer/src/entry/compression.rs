//! The form of payloads outside of this process: a large payload that shrinks is compressed, once, when it is written. A payload
//! that clients get in content codings is written in those codings.
//!
//! | first byte of the length | then |
//! |---|---|
//! | 0 | the payload |
//! | 1 | its length (8 bytes), and a zstd frame |
//! | 2 | its length (8 bytes), the number of its forms (1), for each form its kind (1) and length (8), and the forms |
//!
//! Kind 0 is the payload itself; 1, 2 and 3 are `zstd`, `br` and `gzip`, plus 8 for each level, if that is not the default of the
//! coding. The payload itself is there if `zstd` is not.

use bytes::Bytes;

use super::contents::Entry;
use crate::telemetry::Rejection;

/// How a payload is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written(pub(super) u8);

impl Written {
    const PLAIN: Self = Self(0);
    /// The length of the payload, 8 bytes, and a zstd frame.
    #[cfg(any(feature = "zstd", feature = "encode-zstd"))]
    const ZSTD: Self = Self(1);
    /// In content codings.
    pub(super) const FORMS: Self = Self(2);

    /// Whether the result is slices of the bytes that were read.
    pub(super) fn is_sliced(self) -> bool {
        self == Self::PLAIN || self == Self::FORMS
    }
}

/// Which payloads are compressed that are in no content coding, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compression {
    /// The least length.
    #[cfg(any(feature = "zstd", feature = "encode-zstd"))]
    pub(crate) at_least: usize,
    /// The level of zstd.
    #[cfg(any(feature = "zstd", feature = "encode-zstd"))]
    pub(crate) level: u8,
}

#[allow(clippy::derivable_impls, reason = "it can be derived only without the features")]
impl Default for Compression {
    fn default() -> Self {
        Self {
            #[cfg(any(feature = "zstd", feature = "encode-zstd"))]
            at_least: THRESHOLD,
            #[cfg(any(feature = "zstd", feature = "encode-zstd"))]
            level: crate::coding::zstd::LEVEL as u8,
        }
    }
}

/// The longest payload that a frame may declare; one that declares more is malformed.
const MOST: u64 = 64 * 1024 * 1024;

impl Entry {
    /// The payload, compressed if that is worth it.
    #[cfg_attr(
        not(any(feature = "zstd", feature = "encode-zstd")),
        expect(unused_variables, reason = "nothing is compressed")
    )]
    pub(super) fn written_payload(&self, compression: Compression) -> (Written, Bytes) {
        if let Some(forms) = forms::write(self) {
            return (Written::FORMS, forms);
        }
        #[cfg(any(feature = "zstd", feature = "encode-zstd"))]
        if !self.contents.is_compressed
            && !self.is_zstd_in_vain()
            && let Some(frame) = zstd::compress(self.payload(), compression)
        {
            return (Written::ZSTD, frame);
        }
        (Written::PLAIN, self.payload().clone())
    }
}

/// A key, metadata and a payload as they were before they were written. If the payload was compressed, they lie in one buffer of
/// their own: slices of the first two would keep the frame in memory as well.
pub(super) fn decompressed(written: Written, parts: [Bytes; 3]) -> Result<[Bytes; 3], Rejection> {
    match written {
        Written::PLAIN => Ok(parts),
        #[cfg(any(feature = "zstd", feature = "encode-zstd"))]
        Written::ZSTD => {
            let [canonical, meta, frame] = parts;
            let mut whole = zstd::decompress(&[&canonical, &meta], &frame).ok_or(Rejection::Malformed)?;
            Ok([whole.split_to(canonical.len()), whole.split_to(meta.len()), whole])
        }
        // Another version wrote it, or a program that was built with more features.
        _ => Err(Rejection::Version),
    }
}

/// Below this size, a round trip costs more than the bytes: the default.
#[cfg(any(feature = "zstd", feature = "encode-zstd"))]
pub(super) const THRESHOLD: usize = 1024;

#[cfg(any(feature = "zstd", feature = "encode-zstd"))]
mod zstd {
    use bytes::{BufMut as _, Bytes};

    use super::{Compression, MOST};
    use crate::coding::zstd;

    pub(super) fn compress(payload: &[u8], compression: Compression) -> Option<Bytes> {
        if payload.len() < compression.at_least || payload.len() as u64 > MOST {
            return None;
        }
        let frame = zstd::compress(payload, compression.level.into())?;
        // The saving is not worth the work of every reader.
        if frame.len() + size_of::<u64>() > payload.len() / 8 * 7 {
            return None;
        }
        let mut coded = Vec::with_capacity(size_of::<u64>() + frame.len());
        coded.put_u64(payload.len() as u64);
        coded.put_slice(&frame);
        Some(coded.into())
    }

    /// The bytes of `head` followed by the payload.
    pub(super) fn decompress(head: &[&[u8]], coded: &[u8]) -> Option<Bytes> {
        let (length, frame) = coded.split_first_chunk()?;
        let length = u64::from_be_bytes(*length);
        // The length is checked before anything is inflated, and inflating stops there.
        let length = usize::try_from(length).ok().filter(|_| length <= MOST)?;
        let ahead: usize = head.iter().map(|part| part.len()).sum();
        let mut whole = Vec::with_capacity(ahead + length);
        head.iter().for_each(|part| whole.extend_from_slice(part));
        zstd::decompress(whole, frame, length).map(Bytes::from)
    }
}

/// Payloads in content codings.
pub(super) mod forms {
    use std::sync::Arc;

    use bytes::{Buf as _, BufMut as _, Bytes};

    use super::MOST;
    use crate::{
        coding::Coding,
        entry::{
            codings::{Codings, Form},
            contents::Entry,
        },
        telemetry::Rejection,
    };

    /// The payload itself.
    const ITSELF: u8 = 0;

    /// The number of a coding at a level. A program that knows no levels takes a coding with a level for an unknown coding.
    fn kind(coding: Coding, levels: [u8; Coding::COUNT]) -> u8 {
        (coding.number() as u8 + 1) | levels[coding.number()] << 3
    }

    /// `None` if the payload is in no content coding.
    pub(super) fn write(entry: &Entry) -> Option<Bytes> {
        let codings = entry.contents.codings.as_ref()?;
        let made = |coding: Coding| match &codings.forms[coding.number()] {
            Form::Made(coded) => Some((coding, coded)),
            Form::Unmade | Form::InVain => None,
        };
        let coded: Vec<_> = Coding::ALL.iter().copied().filter_map(made).collect();
        let has_frame = coded.first()?.0.is_zstd() && entry.payload_length() <= MOST;
        let itself = (!has_frame).then(|| (ITSELF, entry.payload()));
        let forms: Vec<_> = itself
            .into_iter()
            .chain(coded.iter().map(|(coding, coded)| (kind(*coding, codings.levels), *coded)))
            .collect();
        let bytes: usize = forms.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut written = Vec::with_capacity(9 + 9 * forms.len() + bytes);
        written.put_u64(entry.payload_length());
        written.put_u8(forms.len() as u8);
        for (kind, bytes) in &forms {
            written.put_u8(*kind);
            written.put_u64(bytes.len() as u64);
        }
        forms.iter().for_each(|(_, bytes)| written.put_slice(bytes));
        Some(written.into())
    }

    /// The payload, which is empty if there is only a frame of it, and its codings. Nothing is copied or inflated.
    pub(in crate::entry) fn read(mut written: Bytes) -> Result<(Bytes, Arc<Codings>), Rejection> {
        let length = u64::from_be_bytes(take(&mut written)?);
        let [count] = take(&mut written)?;
        let mut heads = Vec::with_capacity(count.into());
        for _ in 0..count {
            let [kind] = take(&mut written)?;
            heads.push((kind, u64::from_be_bytes(take(&mut written)?)));
        }
        let (mut itself, mut forms, mut levels) = (None, <[Form; Coding::COUNT]>::default(), [0; Coding::COUNT]);
        let mut last = None;
        for (kind, length) in heads {
            let length = usize::try_from(length).ok().filter(|length| *length <= written.len());
            let bytes = written.split_to(length.ok_or(Rejection::Malformed)?);
            let (kind, level) = (kind & 7, kind >> 3);
            if last.replace(kind) >= Some(kind) {
                return Err(Rejection::Malformed);
            }
            match kind.checked_sub(1) {
                None if level > 0 => return Err(Rejection::Version),
                None => itself = Some(bytes),
                Some(number) => {
                    let coding = Coding::of_number(number.into()).ok_or(Rejection::Version)?;
                    (forms[coding.number()], levels[coding.number()]) = (Form::Made(bytes), level);
                }
            }
        }
        let has_frame = Coding::ALL.iter().any(|one| one.is_zstd() && forms[one.number()] != Form::Unmade);
        match itself {
            _ if !written.is_empty() => Err(Rejection::Malformed),
            Some(itself) if itself.len() as u64 == length && count > 1 && !(has_frame && length <= MOST) => {
                Ok((itself, Arc::new(Codings::of(forms, levels, None))))
            }
            None if has_frame && length <= MOST => {
                Ok((Bytes::new(), Arc::new(Codings::of(forms, levels, Some(length)))))
            }
            _ => Err(Rejection::Malformed),
        }
    }

    fn take<const N: usize>(bytes: &mut Bytes) -> Result<[u8; N], Rejection> {
        let chunk = *bytes.first_chunk().ok_or(Rejection::Malformed)?;
        bytes.advance(N);
        Ok(chunk)
    }
}

#[cfg(all(test, any(feature = "zstd", feature = "encode-zstd")))]
mod tests {
    use super::*;

    fn unpack(written: Written, payload: Vec<u8>) -> Result<[Bytes; 3], Rejection> {
        decompressed(written, [Bytes::from_static(b"key"), Bytes::from_static(b"meta"), payload.into()])
    }

    #[test]
    fn a_bomb_is_a_miss() {
        let bomb = ::zstd::bulk::compress(&vec![0; 100 << 20], 1).unwrap();
        for declared in [100_u64 << 20, 1 << 20, 0, u64::MAX] {
            let coded: Vec<u8> = declared.to_be_bytes().into_iter().chain(bomb.iter().copied()).collect();
            assert_eq!(unpack(Written::ZSTD, coded), Err(Rejection::Malformed), "{declared}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for length in 0..200 {
            let bytes: Vec<u8> = (0..length).map(|_| fastrand::u8(..)).collect();
            let _ = unpack(Written::ZSTD, bytes);
        }
    }

    #[test]
    fn another_way_to_write_it_is_a_named_miss() {
        assert_eq!(unpack(Written(9), Vec::new()), Err(Rejection::Version));
    }
}
