use cache_layer::{Cache, cached};

struct Opaque;

#[cached(name = "opaque")]
async fn not_serializable(cache: &Cache) -> Opaque {
    Opaque
}

#[cached(name = "list", negative_ttl = "1s")]
async fn never_none(cache: &Cache) -> u32 {
    1
}

struct Repository {
    cache: Cache,
}

impl Repository {
    #[cached(name = "list", cache = "self.cache")]
    async fn not_clone(&self) -> u32 {
        1
    }
}

fn main() {}
