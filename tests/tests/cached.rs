//! `#[cached]` functions, over every store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cache_layer::{Cache, Clock, Key, cached};
use serde::Serialize;
use tests::{Backend, over_each_store};

const SECOND: Duration = Duration::from_secs(1);

over_each_store!(
    a_function_runs_once_for_the_same_arguments,
    arguments_cannot_run_into_each_other,
    what_is_skipped_is_no_part_of_the_key,
    a_template_names_what_the_key_is_made_of,
    tags_are_made_of_arguments,
    errors_are_not_kept,
    an_entry_is_invalidated_by_its_arguments,
    a_refresh_runs_the_function_whatever_is_there,
    methods_find_the_cache_in_self,
    durations_and_locks_are_as_they_are_written,
    what_cannot_be_part_of_a_key_is_shared_with_nobody,
);

/// A database that counts what it is asked.
#[derive(Clone, Default)]
struct Db(Arc<AtomicUsize>);

impl Db {
    fn query(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn queries(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Missing;

#[derive(Serialize, Clone)]
struct Filter {
    category: String,
    page: Option<u32>,
}

async fn settled(cache: &Cache) {
    assert!(cache.drain(30 * SECOND).await);
}

/// Documented, to see that this stays.
#[cached(name = "product_list", ttl = "60s", tags = ["category:{category}", "products"], lock, skip(db))]
async fn product_list(cache: &Cache, db: &Db, category: &str, page: u32) -> Vec<String> {
    let query = db.query();
    vec![format!("{category} {page}: {query}")]
}

async fn a_function_runs_once_for_the_same_arguments(backend: &Backend) {
    let (one, other) = (backend.cache().await.build(), backend.cache().await.build());
    let db = Db::default();
    for cache in [&one, &one, &other] {
        assert_eq!(product_list(cache, &db, "lamps", 1).await, ["lamps 1: 1"]);
        settled(cache).await;
    }
    assert_eq!(product_list(&one, &db, "lamps", 2).await, ["lamps 2: 2"]);
    assert_eq!(product_list(&one, &db, "desks", 1).await, ["desks 1: 3"]);
    assert_eq!(product_list_cache::key("lamps", 1), Key::new(["product_list", ":", "\"lamps\"", ",", "1"]));
}

#[cached(name = "pair", skip(db))]
async fn pair(cache: &Cache, db: &Db, one: &str, other: &str) -> usize {
    let _ = (one, other);
    db.query()
}

#[cached(name = "text", key = "{one}/{other}")]
async fn text(cache: &Cache, db: &Db, one: &str, other: &str) -> usize {
    let _ = (one, other);
    db.query()
}

async fn arguments_cannot_run_into_each_other(backend: &Backend) {
    let cache = backend.cache().await.build();
    let db = Db::default();
    for (one, other) in [("a", "b"), ("a\",\"b", ""), ("", "a\",\"b"), ("ab", ""), ("a/", "b"), ("a", "/b")] {
        let before = db.queries();
        pair(&cache, &db, one, other).await;
        text(&cache, &db, one, other).await;
        assert_eq!(db.queries() - before, 2, "{one:?} and {other:?} were taken for others");
        settled(&cache).await;
    }
}

async fn what_is_skipped_is_no_part_of_the_key(backend: &Backend) {
    let cache = backend.cache().await.build();
    let (one, other) = (Db::default(), Db::default());
    product_list(&cache, &one, "lamps", 1).await;
    settled(&cache).await;
    product_list(&cache, &other, "lamps", 1).await;
    assert_eq!((one.queries(), other.queries()), (1, 0));
}

#[cached(name = "page", schema = 2, key = "{{{category}}}/{page}")]
async fn page(cache: Cache, category: String, page: u32, requested_by: &str) -> String {
    format!("{category} {page} for {requested_by}")
}

async fn a_template_names_what_the_key_is_made_of(backend: &Backend) {
    let cache = backend.cache().await.build();
    assert_eq!(page(cache.clone(), "lamps".into(), 1, "Ann").await, "lamps 1 for Ann");
    settled(&cache).await;
    assert_eq!(page(cache.clone(), "lamps".into(), 1, "Bob").await, "lamps 1 for Ann");
    let key = page_cache::key("lamps".into(), 1);
    assert_eq!(format!("{key:?}"), "Key(page@2:%7Blamps%7D/1)");
    assert!(cache.contains(key).await);
}

async fn tags_are_made_of_arguments(backend: &Backend) {
    let cache = backend.cache().await.build();
    let db = Db::default();
    for tag in ["category:lamps", "products"] {
        let before = db.queries();
        for _ in 0..2 {
            product_list(&cache, &db, "lamps", 1).await;
            settled(&cache).await;
        }
        assert_eq!(db.queries(), before + 1);
        cache.invalidate_tag("category:desks").await.unwrap();
        assert!(cache.contains(product_list_cache::key("lamps", 1)).await);
        cache.invalidate_tag(tag).await.unwrap();
        assert!(!cache.contains(product_list_cache::key("lamps", 1)).await);
    }
}

#[cached(name = "fallible", stale_if_error = "1h", negative_ttl = "2s", ttl = "1m", key = "{id}")]
async fn fallible(cache: &Cache, id: u32, outcome: Result<Option<u32>, Missing>) -> Result<Option<u32>, Missing> {
    outcome
}

async fn errors_are_not_kept(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    assert_eq!(fallible(&cache, 1, Err(Missing)).await, Err(Missing));
    settled(&cache).await;
    assert_eq!(fallible(&cache, 1, Ok(Some(7))).await, Ok(Some(7)));
    settled(&cache).await;
    assert_eq!(fallible(&cache, 1, Err(Missing)).await, Ok(Some(7)));
    clock.advance(90 * SECOND);
    assert_eq!(fallible(&cache, 1, Err(Missing)).await, Ok(Some(7)));
    clock.advance(3600 * SECOND);
    assert_eq!(fallible(&cache, 1, Err(Missing)).await, Err(Missing));
}

async fn an_entry_is_invalidated_by_its_arguments(backend: &Backend) {
    let cache = backend.cache().await.build();
    let db = Db::default();
    for page in [1, 2] {
        product_list(&cache, &db, "lamps", page).await;
    }
    settled(&cache).await;
    product_list_cache::invalidate(&cache, "lamps", 1).await.unwrap();
    assert!(!cache.contains(product_list_cache::key("lamps", 1)).await);
    assert!(cache.contains(product_list_cache::key("lamps", 2)).await);
}

async fn a_refresh_runs_the_function_whatever_is_there(backend: &Backend) {
    let cache = backend.cache().await.build();
    let db = Db::default();
    assert_eq!(product_list(&cache, &db, "lamps", 1).await, ["lamps 1: 1"]);
    settled(&cache).await;
    assert_eq!(product_list_cache::refresh(&cache, &db, "lamps", 1).await, ["lamps 1: 2"]);
    settled(&cache).await;
    assert_eq!(product_list(&cache, &db, "lamps", 1).await, ["lamps 1: 2"]);
}

#[derive(Clone)]
struct Repository {
    db: Db,
    cache: Cache,
}

impl Repository {
    /// By what a filter says.
    #[cached(name = "found", cache = "self.cache", tags = [format!("category:{}", filter.category), "found"])]
    async fn found(&self, filter: &Filter, words: Vec<String>) -> Result<usize, Missing> {
        let _ = (filter, words);
        Ok(self.db.query())
    }

    #[cached(name = "shared", cache = self.cache)]
    async fn shared(self: &Arc<Self>, mut id: u32) -> u32 {
        id += self.db.query() as u32;
        id
    }

    #[cached(name = "given")]
    async fn given(&self, cache: &Cache, id: u32) -> u32 {
        id + self.db.query() as u32
    }
}

async fn methods_find_the_cache_in_self(backend: &Backend) {
    let repository = Arc::new(Repository { db: Db::default(), cache: backend.cache().await.build() });
    let filter = |page| Filter { category: "lamps".into(), page };
    let words = || vec!["red".to_owned()];
    for _ in 0..2 {
        assert_eq!(repository.found(&filter(None), words()).await, Ok(1));
        settled(&repository.cache).await;
        assert_eq!(repository.found(&filter(Some(1)), words()).await, Ok(2));
        settled(&repository.cache).await;
    }
    repository.found_invalidate(&filter(None), words()).await.unwrap();
    assert!(!repository.cache.contains(Repository::found_key(&filter(None), words())).await);
    assert_eq!(repository.found_refresh(&filter(Some(1)), words()).await, Ok(3));

    for _ in 0..2 {
        assert_eq!(repository.shared(10).await, 14);
        assert_eq!(repository.given(&repository.cache, 10).await, 15);
        settled(&repository.cache).await;
    }
    Repository::given_invalidate(&repository.cache, 10).await.unwrap();
    assert!(!repository.cache.contains(Repository::given_key(10)).await);
    assert_eq!(repository.shared_refresh(10).await, 16);
}

#[cached(name = "timed", ttl = "1m30s", stale_while_revalidate = "500ms", lock = "process", key = "")]
async fn timed(cache: &Cache, db: &Db) -> usize {
    db.query()
}

async fn durations_and_locks_are_as_they_are_written(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let db = Db::default();
    let ask = async || {
        let value = timed(&cache, &db).await;
        settled(&cache).await;
        value
    };
    assert_eq!(ask().await, 1);
    clock.advance(Duration::from_millis(89_999));
    assert_eq!((ask().await, db.queries()), (1, 1));
    clock.advance(Duration::from_millis(400));
    assert_eq!((ask().await, db.queries()), (1, 2));
    clock.advance(Duration::from_millis(90_500));
    assert_eq!((ask().await, db.queries()), (3, 3));
}

#[cached(name = "unnameable", skip(db))]
async fn unnameable(cache: &Cache, db: &Db, by: std::collections::BTreeMap<Vec<u8>, u8>) -> usize {
    let _ = by;
    db.query()
}

async fn what_cannot_be_part_of_a_key_is_shared_with_nobody(backend: &Backend) {
    let cache = backend.cache().await.build();
    let db = Db::default();
    let argument = || std::collections::BTreeMap::from([(vec![1], 1)]);
    assert_eq!(unnameable(&cache, &db, argument()).await, 1);
    settled(&cache).await;
    assert_eq!(unnameable(&cache, &db, argument()).await, 2);
}
