//! What compression makes of whole envelopes.

use bytes::Bytes;

use super::{Deadlines, Entry, EntryId, compression::THRESHOLD, envelope};
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
fn nothing_of_the_frame_is_kept_with_what_was_in_it() {
    let written = envelope::encode(&entry(page()));
    let read = read(&written).unwrap();
    let (reply, [canonical, meta, payload]) =
        (written.as_ptr_range(), [&read.contents.canonical, &read.contents.meta, &read.contents.payload]);
    assert_eq!([canonical.as_ptr_range().end, meta.as_ptr_range().end], [meta.as_ptr(), payload.as_ptr()]);
    assert!([canonical, meta, payload].iter().all(|part| !reply.contains(&part.as_ptr())));
}
