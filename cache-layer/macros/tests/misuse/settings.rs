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

#[cached(name = "list", jitter = "10%")]
async fn quoted_number(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list", early = "soon")]
async fn no_factor(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list", soft_timeout = 50)]
async fn no_soft_duration(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list", hard_timeout = "2s")]
async fn without_an_error(cache: &Cache) -> Result<u32, String> {
    Ok(1)
}

#[cached(name = "list", failure_backoff("1s"))]
async fn without_a_longest(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list", many = ids)]
async fn names_no_element(cache: &Cache, ids: Vec<u32>) -> Vec<(u32, u32)> {
    Vec::new()
}

#[cached(name = "list", many(id of ids))]
async fn no_in(cache: &Cache, ids: Vec<u32>) -> Vec<(u32, u32)> {
    Vec::new()
}

#[cached(name = "list", many(id in all))]
async fn many_of_what_is_not_there(cache: &Cache, ids: Vec<u32>) -> Vec<(u32, u32)> {
    Vec::new()
}

#[cached(name = "list", many(id in ids))]
async fn many_of_one(cache: &Cache, ids: u32) -> Vec<(u32, u32)> {
    Vec::new()
}

#[cached(name = "list", many(id in ids), key = "all")]
async fn one_key_for_all(cache: &Cache, ids: Vec<u32>) -> Vec<(u32, u32)> {
    Vec::new()
}

#[cached(name = "list", many(id in ids), fallback = Vec::new())]
async fn a_fallback_of_many(cache: &Cache, ids: Vec<u32>) -> Vec<(u32, u32)> {
    Vec::new()
}

#[cached(name = "list", early = 1.0, early_refresh = 2.0)]
async fn early_in_two_words(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list", key = "{self.tenant()}")]
async fn no_field(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list", negative_ttl = "")]
async fn an_empty_duration(cache: &Cache) -> Option<u32> {
    None
}

fn main() {}
