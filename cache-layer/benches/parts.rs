//! What a request costs, step by step: its key, the look-up, the decision, the response; on the way in, what to store; and
//! an entry's way to Redis and back, by the size of its payload.
//!
//! ```sh
//! cargo bench -p cache-layer --features unstable-parts --bench parts
//! ```

use std::hint::black_box;

use cache_layer::Parts;
use divan::{Bencher, counter::BytesCount};

fn main() {
    divan::main();
}

/// Bytes of a payload: one object, a page of twenty, a long list.
const LENGTHS: [usize; 3] = [200, 1_580, 65_536];

fn parts() -> Parts {
    let parts = Parts::new(1_580);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(parts.store());
    parts
}

#[divan::bench]
fn key(bencher: Bencher<'_, '_>) {
    let parts = parts();
    bencher.bench_local(|| black_box(&parts).key());
}

#[divan::bench]
fn lookup(bencher: Bencher<'_, '_>) {
    let parts = parts();
    assert!(parts.lookup());
    bencher.bench_local(|| black_box(&parts).lookup());
}

#[divan::bench]
fn decide(bencher: Bencher<'_, '_>) {
    let parts = parts();
    assert!(parts.decide());
    bencher.bench_local(|| black_box(&parts).decide());
}

#[divan::bench]
fn respond(bencher: Bencher<'_, '_>) {
    let parts = parts();
    bencher.bench_local(|| black_box(&parts).respond());
}

#[divan::bench]
fn answer_by_redis(bencher: Bencher<'_, '_>) {
    let parts = parts();
    let reply = parts.encode();
    bencher.with_inputs(|| reply.to_vec()).bench_local_values(|reply| black_box(&parts).answer(reply));
}

#[divan::bench]
fn plan(bencher: Bencher<'_, '_>) {
    let parts = parts();
    bencher.bench_local(|| black_box(&parts).plan());
}

#[divan::bench(args = LENGTHS)]
fn encode(bencher: Bencher<'_, '_>, length: usize) {
    let parts = Parts::new(length);
    bencher.counter(BytesCount::new(length)).bench_local(|| black_box(&parts).encode());
}

#[divan::bench(args = LENGTHS)]
fn decode(bencher: Bencher<'_, '_>, length: usize) {
    let parts = Parts::new(length);
    bencher.counter(BytesCount::new(length)).bench_local(|| black_box(&parts).decode());
}
