//! The levels of zstd for a page of an API: the time to compress and to decompress it, and the compressed size.
//!
//! ```sh
//! cargo bench -p cache-layer --features zstd --bench compression
//! ```

use divan::{Bencher, Divan, counter::BytesCount};

fn main() {
    let page = page();
    println!("{} bytes of JSON", page.len());
    for level in LEVELS {
        let frame = zstd::bulk::compress(&page, level).expect("a frame");
        println!("level {level}: {} bytes, {:.2} to 1", frame.len(), page.len() as f64 / frame.len() as f64);
    }
    Divan::default().config_with_args().main();
}

const LEVELS: [i32; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];

/// Twenty products, some 4 KB, which zlib compresses to about 800 bytes at level 6.
fn page() -> Vec<u8> {
    let words = ["bright", "small", "wooden", "green", "silent", "heavy", "round", "foldable", "warm", "robust"];
    let product = |id: usize| {
        let (one, other) = (words[id * 7 % 10], words[(id * 3 + 1) % 10]);
        let category = ["books", "clothing", "electronics", "garden"][id % 4];
        let (price, cents, stock) = (5 + id * 37 % 500, id * 49 % 100, id * 10);
        format!(
            r#"{{"id":{id},"name":"Product {id}","description":"A {one} and {other} thing for {category}","price":"{price}.{cents:02}","currency":"EUR","category":"{category}","stock":{stock},"image":"/images/products/{id}.jpg"}}"#
        )
    };
    let items: Vec<_> = (1..=20).map(product).collect();
    format!(r#"{{"items":[{}],"total":100,"page":1,"per_page":20}}"#, items.join(",")).into()
}

#[divan::bench(args = LEVELS)]
fn write(bencher: Bencher<'_, '_>, level: i32) {
    let page = page();
    bencher.counter(BytesCount::of_slice(&page)).bench_local(|| zstd::bulk::compress(&page, level));
}

#[divan::bench(args = LEVELS)]
fn read(bencher: Bencher<'_, '_>, level: i32) {
    let page = page();
    let frame = zstd::bulk::compress(&page, level).expect("a frame");
    bencher.counter(BytesCount::of_slice(&page)).bench_local(|| zstd::bulk::decompress(&frame, page.len()));
}
