//! Compression of whole envelopes.

use bytes::Bytes;

use super::{
    Compression, Deadlines, Entry, EntryId,
    compression::THRESHOLD,
    envelope::{self, encode_with},
};
use crate::{key::Key, telemetry::Rejection};

fn entry(payload: Vec<u8>) -> Entry {
    Entry::new(EntryId::random(), &Key::new(["k"]), Deadlines::fresh_until(0), Bytes::new(), payload.into())
}

/// A page of twenty products, as an API would answer it.
fn page() -> Vec<u8> {
    let product = |id: u32| {
        format!(
            r#"{{"id":{id},"name":"Product {id}","description":"A product of the category {}, number {id}","price":"{}.{:02}","category":"{}","stock":{},"rating":{}.{},"currency":"EUR"}}"#,
            ["books", "clothing", "electronics"][id as usize % 3],
            5 + id * 37 % 500,
            id * 49 % 100,
            ["books", "clothing", "electronics"][id as usize % 3],
            id * 10,
            id % 5,
            id * 7 % 10,
        )
    };
    format!("[{}]", (1..=20).map(product).collect::<Vec<_>>().join(",")).into()
}

fn read(envelope: &Bytes) -> Result<Entry, Rejection> {
    envelope::decode(&Key::new(["k"]), envelope)
}

#[test]
fn a_page_of_products_shrinks_to_a_fifth_and_comes_back() {
    let page = entry(page());
    let written = envelope::encode(&page);
    assert!(page.payload().len() > 3_000);
    assert!(written.len() - 95 <= page.payload().len() / 5, "{} of {}", written.len(), page.payload().len());
    assert_eq!(read(&written).unwrap().payload(), page.payload());
}

#[test]
fn what_is_small_compressed_or_does_not_shrink_is_left_alone() {
    let noise = (0..4_000).map(|_| fastrand::u8(..)).collect();
    for entry in [entry(vec![b'x'; THRESHOLD - 1]), entry(vec![b'x'; 4_000]).compressed(true), entry(noise)] {
        let written = envelope::encode(&entry);
        assert!(written.ends_with(entry.payload()));
        assert_eq!(read(&written).unwrap().payload(), entry.payload());
    }
}

#[test]
fn from_which_length_on_and_how_much_it_is_compressed_can_be_set() {
    let (page, small) = (entry(page()), entry(vec![b'x'; 400]));
    let usual = Compression::default();
    let length = |entry: &Entry, compression| encode_with(entry, compression).len();
    let all = Compression { at_least: 0, ..usual };
    assert!(length(&small, all) < length(&small, usual) - 300);
    let none = Compression { at_least: usize::MAX, ..usual };
    assert!(length(&page, none) > page.payload().len());
    let lengths = [1, 3, 19].map(|level| length(&page, Compression { level, ..usual }));
    assert!(lengths[0] > lengths[1] && lengths[1] > lengths[2], "{lengths:?}");
    for compression in [all, none, Compression { level: 19, ..usual }] {
        for entry in [&page, &small] {
            assert_eq!(read(&encode_with(entry, compression)).unwrap().payload(), entry.payload());
        }
    }
}

#[test]
fn nothing_of_the_frame_is_kept_with_what_was_in_it() {
    let written = envelope::encode(&entry(page()));
    let read = read(&written).unwrap();
    let (reply, [canonical, meta, payload]) =
        (written.as_ptr_range(), [&read.contents.canonical, &read.contents.meta, &read.contents.payload]);
    assert_eq!([canonical.as_ptr_range().end, meta.as_ptr_range().end], [meta.as_ptr(), payload.as_ptr()]);
    assert!([canonical, meta, payload].iter().all(|part| !reply.contains(&part.as_ptr())));
}

#[cfg(feature = "encode")]
mod forms {
    use super::*;
    use crate::{
        coding::{Coding, Encoder},
        entry::Form,
    };

    fn coded(codings: &[Coding]) -> Entry {
        let add = |entry: Entry, coding: &Coding| {
            let form = coding.encode(entry.payload()).map_or(Form::InVain, Form::Made);
            entry.with_form(*coding, form)
        };
        codings.iter().fold(entry(page()), add)
    }

    #[test]
    fn what_is_kept_in_codings_comes_back_in_them() {
        for codings in [&[Coding::Zstd][..], &[Coding::Gzip], &[Coding::Brotli, Coding::Gzip], Coding::ALL] {
            let page = coded(codings);
            let written = envelope::encode(&page);
            let read = read(&written).unwrap();
            let has_frame = codings.contains(&Coding::Zstd);
            assert_eq!((read.is_framed(), read.payload_length()), (has_frame, page.payload().len() as u64));
            for coding in Coding::ALL {
                assert_eq!(read.form(*coding), page.form(*coding), "{coding}");
            }
            assert_eq!(envelope::encode(&read), written, "without having looked into it");
            let whole = read.inflated().unwrap();
            assert_eq!((whole.payload(), whole.is_framed()), (page.payload(), false));
            assert_eq!(envelope::encode(&whole), written);
            // One frame, and not the payload as well.
            let longest = codings.iter().map(|coding| coding.encode(page.payload()).unwrap().len() + 9).sum::<usize>();
            let plain = if has_frame { 0 } else { 9 + page.payload().len() };
            assert_eq!(written.len(), 95 + read.contents.canonical.len() - 1 + 9 + longest + plain);
        }
    }

    #[test]
    fn what_another_encoder_has_made_is_not_there() {
        let [usual, best] = [Encoder::usual(Coding::Brotli), Encoder::at(Coding::Brotli, 11).unwrap()];
        let made = |encoder: Encoder| Form::Made(encoder.encode(&page()).unwrap());
        let page = coded(&[Coding::Zstd]).with_form(best, made(best));
        let read = read(&envelope::encode(&page)).unwrap();
        assert_eq!([usual, best].map(|encoder| read.form(encoder)), [&Form::Unmade, &made(best)]);
        assert_eq!(read.form(Coding::Zstd), page.form(Coding::Zstd));
        assert_eq!(read.inflated().unwrap().payload(), page.payload());
        // One replaces the other, and its weight.
        let again = page.clone().with_form(usual, made(usual));
        assert_eq!([usual, best].map(|encoder| again.form(encoder)), [&made(usual), &Form::Unmade]);
        assert_eq!(again.with_form(best, made(best)).weight(), page.weight());
        // A frame of any level contains the payload.
        let frame = Encoder::at(Coding::Zstd, 9).unwrap();
        let framed = entry(self::page()).with_form(frame, made(frame));
        let read = self::read(&envelope::encode(&framed)).unwrap();
        assert_eq!((read.form(Coding::Zstd), read.is_framed()), (&Form::Unmade, true));
        let read = read.with_form(Coding::Zstd, Form::InVain);
        assert_eq!(read.inflated().unwrap().payload(), framed.payload());
    }

    #[test]
    fn what_was_in_vain_is_written_as_it_is() {
        let in_vain = entry(page()).with_form(Coding::Gzip, Form::InVain);
        assert_eq!(read(&envelope::encode(&in_vain)).unwrap().payload(), in_vain.payload());
    }

    #[test]
    fn a_frame_that_lies_is_no_payload() {
        for (frame, length) in [
            (::zstd::bulk::compress(&vec![0; 100 << 20], 1).unwrap(), 1_000_u64),
            (::zstd::bulk::compress(b"short", 1).unwrap(), 6),
            (b"no frame at all".to_vec(), 15),
            (Vec::new(), 1),
        ] {
            let mut written = envelope::encode(&coded(&[Coding::Zstd])).to_vec();
            let at = envelope::HEAD + Key::new(["k"]).canonical().len();
            written.truncate(at);
            written.extend_from_slice(&length.to_be_bytes());
            written.extend_from_slice(&[1, 1]);
            written.extend_from_slice(&(frame.len() as u64).to_be_bytes());
            written.extend_from_slice(&frame);
            let payload = (2 << 56 | (written.len() - at) as u64).to_be_bytes();
            written[envelope::HEAD - 8..envelope::HEAD].copy_from_slice(&payload);
            let read = read(&envelope::summed(&written.into())).unwrap();
            assert!(read.is_framed() && read.inflated().is_none(), "{length}");
        }
    }

    #[test]
    fn forms_that_are_cut_off_or_changed_are_named_misses() {
        let whole = envelope::encode(&coded(Coding::ALL));
        for length in envelope::HEAD..whole.len() {
            let mut cut = whole[..length].to_vec();
            let at = envelope::HEAD + Key::new(["k"]).canonical().len();
            if length < at {
                continue;
            }
            let payload = (2 << 56 | (length - at) as u64).to_be_bytes();
            cut[envelope::HEAD - 8..envelope::HEAD].copy_from_slice(&payload);
            assert_eq!(read(&envelope::summed(&cut.into())).unwrap_err(), Rejection::Malformed, "{length}");
        }
        let at = envelope::HEAD + Key::new(["k"]).canonical().len();
        // The number of forms, and the kinds of the first and the second.
        for (offset, byte, rejection) in [
            (8, 0, Rejection::Malformed),
            (8, 2, Rejection::Malformed),
            (9, 0, Rejection::Malformed),
            (9, 2, Rejection::Malformed),
            (9, 7, Rejection::Version),
            (9, 1 << 3, Rejection::Version),
            (18, 1, Rejection::Malformed),
        ] {
            let mut changed = whole.to_vec();
            changed[at + offset] = byte;
            assert_eq!(read(&envelope::summed(&changed.into())).unwrap_err(), rejection, "{offset} {byte}");
        }
    }
}
