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

struct NoClone;

#[cached(name = "list")]
async fn fails(cache: &Cache, id: u64) -> Result<u64, NoClone> {
    Ok(id)
}

#[cached(name = "many", many(id in ids))]
async fn fails_for_many(cache: &Cache, ids: Vec<u64>) -> Result<Vec<(u64, u64)>, NoClone> {
    Ok(Vec::new())
}

fn main() {}
