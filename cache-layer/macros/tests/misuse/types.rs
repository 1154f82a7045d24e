#![allow(unused_variables)]

use cache_layer::{Cache, cached};

#[derive(Clone)]
struct Slow;

#[cached(name = "list", hard_timeout("2s", Slow))]
async fn has_no_error(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list", hard_timeout("2s", Slow), many(id in ids))]
async fn has_no_error_for_many(cache: &Cache, ids: Vec<u32>) -> Vec<(u32, u32)> {
    Vec::new()
}

#[cached(name = "list", negative_ttl = "1s")]
async fn is_never_none(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list", many(id in ids))]
async fn returns_no_pairs(cache: &Cache, ids: Vec<u32>) -> Vec<u32> {
    Vec::new()
}

fn main() {}
