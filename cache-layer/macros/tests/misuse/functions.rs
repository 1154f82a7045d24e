#![allow(unused_variables)]

use cache_layer::{Cache, cached};

#[cached(name = "list")]
fn not_async(cache: &Cache) -> u32 {
    1
}

#[cached(name = "list")]
async fn no_cache(id: u32) -> u32 {
    id
}

#[cached(name = "list")]
async fn nothing_to_keep(cache: &Cache) {}

#[cached(name = "list")]
async fn of_any_type<T: Send>(cache: &Cache, of: T) -> u32 {
    1
}

#[cached(name = "list")]
async fn changes_something(cache: &Cache, counter: &mut u32) -> u32 {
    *counter
}

#[cached(name = "list")]
async fn without_names(cache: &Cache, (one, other): (u32, u32)) -> u32 {
    one + other
}

#[cached(name = "list")]
async fn of_no_name(cache: &Cache) -> impl Clone {
    1
}

#[cached(name = "list")]
async fn of_any_reference(cache: &Cache, of: &impl Clone) -> u32 {
    1
}

#[cached(name = "list")]
async fn of_any_list(cache: &Cache, of: Vec<Option<impl Clone>>) -> u32 {
    1
}

#[cached(name = "list")]
async fn of_no_name_within(cache: &Cache) -> Option<impl Clone> {
    Some(1)
}

#[cached(name = "list", key = "{self.tenant}/{id}")]
async fn of_a_self_that_is_not_there(cache: &Cache, id: u32) -> u32 {
    1
}

#[cached(name = "list", many(id in ids))]
async fn of_a_static_list(cache: &Cache, ids: &'static [u32]) -> Vec<(u32, u32)> {
    Vec::new()
}

struct Repository {
    cache: Cache,
}

impl Repository {
    #[cached(name = "list", cache = "self.cache")]
    async fn changes_itself(&mut self) -> u32 {
        1
    }

    #[cached(name = "list")]
    async fn of_no_self(cache: &Cache, id: u32) -> Option<Self> {
        None
    }
}

fn main() {}
