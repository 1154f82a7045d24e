#![allow(unused_variables)]

use cache_layer::{Cache, cached};

struct Shop {
    cache: Cache,
}

impl Shop {
    #[cached(name = "price", cache = "self.cache")]
    async fn price(&self, id: u64) -> u64 {
        id
    }
}

#[derive(Clone)]
struct Handle;

#[cached(name = "weight")]
async fn weight(cache: &Cache, db: &Handle, id: u64) -> u64 {
    id
}

fn main() {}
