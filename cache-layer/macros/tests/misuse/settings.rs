#![allow(unused_variables)]

use cache_layer::{Cache, cached};

#[cached(ttl = "60s")]
async fn without_a_name(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list", tll = "60s")]
async fn misspelt(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list", ttl = 60)]
async fn not_quoted(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list", ttl = "60 seconds")]
async fn no_duration(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list", ttl = "0s")]
async fn no_time(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list", lock = "global")]
async fn no_lock(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list", tags = "product:{id}")]
async fn one_tag(cache: &Cache, id: u32) -> u32 {
    id
}

#[cached(name = "list", skip = db)]
async fn no_list(cache: &Cache, db: u32) -> u32 {
    db
}

#[cached(name = "list", skip(database))]
async fn skips_what_is_not_there(cache: &Cache, db: u32) -> u32 {
    db
}

#[cached(name = "list", key = "{id")]
async fn open_brace(cache: &Cache, id: u32) -> u32 {
    id
}

#[cached(name = "list", key = "{ids}")]
async fn names_what_is_not_there(cache: &Cache, id: u32) -> u32 {
    id
}

fn main() {}
