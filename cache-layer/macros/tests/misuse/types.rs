#![allow(unused_variables)]

use cache_layer::{Cache, cached};

#[cached(name = "list", many(id in ids))]
async fn without_pairs(cache: &Cache, ids: Vec<u32>) -> Vec<u32> {
    ids
}

#[cached(name = "list", hard_timeout("2s", 7))]
async fn with_another_error(cache: &Cache) -> Result<u32, String> {
    Ok(1)
}

fn main() {}
