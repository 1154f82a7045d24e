//! `#[cached]` functions, over every store.

#![allow(clippy::ptr_arg, reason = "a function may take the list that the cache asks for by reference")]
#![allow(clippy::option_option, reason = "it is one of the types whose keys could be taken for another's")]

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsStr,
    fmt::Debug,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cache_layer::{Cache, Clock, Key, cached};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tests::{Backend, Gate, over_each_store};

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
    each_call_is_answered_by_its_own_result,
    equal_maps_and_sets_are_one_argument,
    the_type_says_what_a_result_is,
    the_type_says_what_may_be_none,
    a_slow_or_failing_function_has_what_stands_in_for_it,
    a_function_is_refreshed_early_and_lives_are_jittered,
    each_of_many_has_an_entry_of_its_own,
    many_have_what_stands_in_for_them,
    many_return_what_they_are_written_to_return,
    methods_with_many_find_the_cache_in_self,
    one_and_many_share_their_entries,
    each_type_that_a_method_is_used_with_has_entries_of_its_own,
    settings_see_the_arguments_as_the_function_does,
    arguments_and_settings_have_any_names,
    a_function_within_another_one_has_its_companions,
    paths_mean_what_they_mean_to_the_function,
    bounds_hold_for_what_is_added_as_well,
    names_may_be_keywords,
    two_values_of_one_type_have_entries_of_their_own_by_a_template,
    static_references_are_passed_on_as_they_are,
    a_method_may_change_its_own_self,
    methods_find_the_cache_in_an_argument,
    absences_and_pauses_may_be_zero,
);

/// A body of one expression on one line is no reason for a warning about its braces.
#[rustfmt::skip]
#[deny(unused_braces)]
mod on_one_line {
    use super::{Arc, Cache, cached};

    #[cached(name = "on_one_line")]
    pub(crate) async fn same(cache: &Cache, id: u64) -> u64 { id }

    /// No `Clone`.
    pub(crate) struct Shop(pub(crate) Cache);

    impl Shop {
        #[cached(name = "on_one_line_in_shop", cache = "self.0")]
        pub(crate) async fn same(self: &Arc<Self>, id: u64) -> u64 { id }
    }
}

#[tokio::test]
async fn what_is_on_one_line_and_what_is_no_clone_can_be_cached() {
    let cache = Cache::new(cache_layer::store::MemoryStore::new(1 << 20));
    assert_eq!(on_one_line::same(&cache, 7).await, 7);
    assert_eq!(Arc::new(on_one_line::Shop(cache)).same(8).await, 8);
}

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
    settled(&one).await;
    one.delete_pattern("product_list:\"lamps\",*").await.unwrap();
    assert!(!one.contains(product_list_cache::key("lamps", 2)).await);
    assert!(one.contains(product_list_cache::key("desks", 1)).await);
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
async fn unnameable(cache: &Cache, db: &Db, by: &Path) -> usize {
    let _ = by;
    db.query()
}

async fn what_cannot_be_part_of_a_key_is_shared_with_nobody(backend: &Backend) {
    let cache = backend.cache().await.build();
    let db = Db::default();
    // serde writes paths as text, and this is none.
    let path = Path::new(OsStr::from_bytes(b"caf\xe9"));
    assert_eq!(unnameable(&cache, &db, path).await, 1);
    settled(&cache).await;
    assert_eq!(unnameable(&cache, &db, path).await, 2);
}

/// `None`: any owner; `Some(None)`: no owner.
#[cached(name = "owned")]
async fn owned(cache: &Cache, owner: Option<Option<u32>>) -> String {
    format!("{owner:?}")
}

#[cached(name = "below")]
async fn below(cache: &Cache, limit: Option<f64>, single: f32) -> String {
    format!("{limit:?} {single:?}")
}

#[cached(name = "marked")]
async fn marked(cache: &Cache, mark: Option<()>) -> String {
    format!("{mark:?}")
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Choice {
    All,
    Number(u64),
    Float(f64),
    Text(String),
    Id(ProductId),
    Maybe(Option<u64>),
    Pair((u64, u64)),
    List(Vec<u64>),
}

#[derive(Clone, Debug, Serialize)]
struct ProductId(u64);

#[cached(name = "chosen")]
async fn chosen(cache: &Cache, choice: &Choice) -> String {
    format!("{choice:?}")
}

#[cached(name = "wide")]
async fn wide(cache: &Cache, one: u128, other: i128) -> String {
    format!("{one} {other}")
}

async fn each_call_is_answered_by_its_own_result(backend: &Backend) {
    async fn check<A: Debug>(cache: &Cache, arguments: A, call: impl AsyncFn(&A) -> String, expected: String) {
        for _ in 0..2 {
            assert_eq!(call(&arguments).await, expected, "{arguments:?}");
            settled(cache).await;
        }
    }
    let cache = backend.cache().await.build();
    for owner in [None, Some(None), Some(Some(0)), Some(Some(7))] {
        check(&cache, owner, async |owner| owned(&cache, *owner).await, format!("{owner:?}")).await;
    }
    let floats = [f64::NEG_INFINITY, f64::INFINITY, f64::NAN, 0.0, -0.0, 0.1, 0.1 + 0.2, 0.3, 1.0, f64::MAX];
    for limit in floats.map(Some).into_iter().chain([None]) {
        for single in [0.5, f32::NAN, f32::INFINITY] {
            let call = async |(limit, single): &(_, _)| below(&cache, *limit, *single).await;
            check(&cache, (limit, single), call, format!("{limit:?} {single:?}")).await;
        }
    }
    for mark in [None, Some(())] {
        check(&cache, mark, async |mark| marked(&cache, *mark).await, format!("{mark:?}")).await;
    }
    let choices = [
        Choice::All,
        Choice::Number(1),
        Choice::Float(1.0),
        Choice::Text("1".into()),
        Choice::Text("null".into()),
        Choice::Id(ProductId(1)),
        Choice::Maybe(None),
        Choice::Maybe(Some(1)),
        Choice::Pair((1, 2)),
        Choice::List(vec![1, 2]),
        Choice::List(vec![2, 1]),
    ];
    for choice in choices {
        let expected = format!("{choice:?}");
        check(&cache, choice, async |choice| chosen(&cache, choice).await, expected).await;
    }
    for (one, other) in [(u128::MAX, i128::MIN), (u128::MAX - 1, i128::MIN), (0, 0)] {
        let call = async |(one, other): &(_, _)| wide(&cache, *one, *other).await;
        check(&cache, (one, other), call, format!("{one} {other}")).await;
    }
}

#[derive(Clone, Serialize)]
struct Search {
    fields: HashMap<String, Vec<HashSet<u32>>>,
    labels: Option<HashSet<String>>,
}

#[cached(name = "searched", skip(db))]
async fn searched(
    cache: &Cache,
    db: &Db,
    filter: HashMap<String, String>,
    ids: &HashSet<u32>,
    search: &Search,
    named: BTreeMap<Vec<u8>, HashSet<u32>>,
) -> usize {
    let _ = (filter, ids, search, named);
    db.query()
}

async fn equal_maps_and_sets_are_one_argument(backend: &Backend) {
    let cache = backend.cache().await.build();
    let db = Db::default();
    // Each that is built has an order of its own.
    let filter = || (0..20).map(|field| (format!("field {field}"), "x".to_owned())).collect();
    let ids = || (0..20).collect::<HashSet<u32>>();
    let search = || Search {
        fields: (0..20).map(|field| (format!("field {field}"), vec![ids(), HashSet::new()])).collect(),
        labels: Some((0..20).map(|label| label.to_string()).collect()),
    };
    let named = || BTreeMap::from([(vec![1], ids())]);
    for _ in 0..10 {
        assert_eq!(searched(&cache, &db, filter(), &ids(), &search(), named()).await, 1);
        settled(&cache).await;
    }
    searched_cache::invalidate(&cache, filter(), &ids(), &search(), named()).await.unwrap();
    assert!(!cache.contains(searched_cache::key(filter(), &ids(), &search(), named())).await);
    assert_eq!(searched(&cache, &db, filter(), &ids(), &search(), named()).await, 2);
    settled(&cache).await;
    // One element more or less makes another key.
    let other = ids().into_iter().skip(1).collect();
    assert_eq!(searched(&cache, &db, filter(), &other, &search(), named()).await, 3);
}

/// Errors that serde knows: they could be kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Away;

type Fallible<T> = Result<T, Away>;
type Answer = Fallible<usize>;

/// Fails each other time.
#[cached(name = "aliased", skip(db))]
async fn aliased(cache: &Cache, db: &Db) -> Fallible<usize> {
    let query = db.query();
    if query.is_multiple_of(2) { Ok(query) } else { Err(Away) }
}

#[cached(name = "aliased_twice", skip(db))]
async fn aliased_twice(cache: &Cache, db: &Db) -> Answer {
    aliased_body(db)
}

fn aliased_body(db: &Db) -> Answer {
    let query = db.query();
    if query.is_multiple_of(2) { Ok(query) } else { Err(Away) }
}

mod of_another_name {
    use super::*;

    /// Of a search, and no `Result` at all.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(crate) struct Result<T>(pub(crate) Vec<T>);

    #[cached(name = "no_result", skip(db))]
    pub(crate) async fn no_result(cache: &Cache, db: &Db) -> Result<usize> {
        Result(vec![db.query()])
    }
}

impl Repository {
    #[cached(name = "aliased_method", cache = "self.cache")]
    async fn aliased(&self) -> Fallible<usize> {
        aliased_body(&self.db)
    }
}

async fn the_type_says_what_a_result_is(backend: &Backend) {
    let cache = backend.cache().await.build();
    let repository = Repository { db: Db::default(), cache: cache.clone() };
    let (one, two) = (Db::default(), Db::default());
    for expected in [Err(Away), Ok(2), Ok(2)] {
        assert_eq!(aliased(&cache, &one).await, expected);
        assert_eq!(aliased_twice(&cache, &two).await, expected);
        assert_eq!(repository.aliased().await, expected);
        settled(&cache).await;
    }
    assert_eq!(aliased_cache::refresh(&cache, &one).await, Err(Away));
    settled(&cache).await;
    assert_eq!(aliased(&cache, &one).await, Ok(2));

    let db = Db::default();
    for _ in 0..2 {
        assert_eq!(of_another_name::no_result(&cache, &db).await, of_another_name::Result(vec![1]));
        settled(&cache).await;
    }
}

type Perhaps<T> = Option<T>;

#[cached(name = "perhaps", negative_ttl = "30s", skip(db))]
async fn perhaps(cache: &Cache, db: &Db) -> Fallible<Perhaps<usize>> {
    db.query();
    Ok(None)
}

async fn the_type_says_what_may_be_none(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let db = Db::default();
    for queries in [1, 1, 2] {
        assert_eq!(perhaps(&cache, &db).await, Ok(None));
        settled(&cache).await;
        assert_eq!(db.queries(), queries);
        clock.advance(15 * SECOND);
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Slow;

/// How long a call waits.
#[derive(Clone, Copy)]
struct Waits {
    soft: Duration,
    hard: Duration,
}

/// Answers at once the first time, then takes its time, and then fails.
#[cached(
    name = "rate",
    ttl = "1m",
    stale_if_error = "1h",
    soft_timeout = waits.soft,
    hard_timeout(waits.hard, Slow),
    failure_backoff("10s", "30s"),
    keep = "1d",
    skip(db, gate, waits)
)]
async fn rate(cache: &Cache, db: &Db, gate: &Gate, waits: Waits) -> Result<usize, Slow> {
    let _ = waits;
    let query = db.query();
    if query > 1 {
        gate.pass().await;
    }
    if query > 2 { Err(Slow) } else { Ok(query) }
}

#[cached(name = "names", fallback = vec![format!("none of {of}")], skip(db))]
async fn names(cache: &Cache, db: &Db, of: String) -> Result<Vec<String>, Slow> {
    let _ = (of, db.query());
    Err(Slow)
}

async fn a_slow_or_failing_function_has_what_stands_in_for_it(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let (db, gate) = (Db::default(), Gate::closed());
    // No look-up takes longer than the long wait, on a busy machine either.
    let (long, soon) = (60 * SECOND, Duration::from_millis(10));
    let patient = Waits { soft: long, hard: long };
    assert_eq!(rate(&cache, &db, &gate, patient).await, Ok(1));
    settled(&cache).await;
    clock.advance(100 * SECOND);
    assert_eq!(rate(&cache, &db, &gate, Waits { soft: soon, ..patient }).await, Ok(1), "while it is slow");
    gate.open();
    settled(&cache).await;
    assert_eq!((rate(&cache, &db, &gate, patient).await, db.queries()), (Ok(2), 2));
    clock.advance(100 * SECOND);
    for _ in 0..3 {
        assert_eq!(rate(&cache, &db, &gate, patient).await, Ok(2), "while it fails");
        settled(&cache).await;
        assert_eq!(db.queries(), 3, "and is left alone");
    }
    cache.invalidate_all().await.unwrap();
    let (cold, shut) = (Db::default(), Gate::closed());
    cold.query();
    assert_eq!(rate(&cache, &cold, &shut, Waits { hard: soon, ..patient }).await, Err(Slow), "there is nothing else");
    shut.open();
    assert_eq!(names(&cache, &db, "lamps".to_owned()).await, Ok(vec!["none of lamps".to_owned()]));
}

#[cached(name = "counted", ttl = "100s", jitter = 50, early = 1e6, skip(db, clock))]
async fn counted(cache: &Cache, db: &Db, clock: &Clock, id: u32) -> usize {
    let _ = id;
    clock.advance(Duration::from_millis(5));
    db.query()
}

async fn a_function_is_refreshed_early_and_lives_are_jittered(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let db = Db::default();
    for id in 0..40 {
        counted(&cache, &db, &clock, id).await;
    }
    settled(&cache).await;
    clock.advance(75 * SECOND);
    let mut fresh = 0;
    for id in 0..40 {
        fresh += usize::from(cache.contains(counted_cache::key(id)).await);
        counted(&cache, &db, &clock, id).await;
        settled(&cache).await;
    }
    assert!((5..35).contains(&fresh), "{fresh} of 40, where half of them are expected");
    assert!(cache.counts().early_refreshes > 0);
}

/// The calls of the functions below.
#[derive(Clone, Default)]
struct Asked(Arc<std::sync::Mutex<Vec<Vec<u64>>>>);

impl Asked {
    fn note(&self, ids: &[u64]) {
        self.0.lock().unwrap().push(ids.to_vec());
    }

    fn calls(&self) -> Vec<Vec<u64>> {
        self.0.lock().unwrap().clone()
    }
}

#[cached(name = "price", ttl = "1m", negative_ttl = "1m", tags = ["price:{shop}:{id}", "prices"], many(id in ids), skip(asked))]
async fn prices(cache: &Cache, asked: &Asked, shop: &str, ids: &[u64]) -> Result<HashMap<u64, String>, Missing> {
    asked.note(ids);
    if ids.contains(&13) {
        return Err(Missing);
    }
    Ok(ids.iter().filter(|id| **id < 100).map(|id| (*id, format!("{shop} {id}"))).collect())
}

async fn each_of_many_has_an_entry_of_its_own(backend: &Backend) {
    let (one, other) = (backend.cache().await.build(), backend.cache().await.build());
    let asked = Asked::default();
    let found = prices(&one, &asked, "a", &[1, 2, 2, 100]).await.unwrap();
    assert_eq!(found, HashMap::from([(1, "a 1".to_owned()), (2, "a 2".to_owned())]));
    settled(&one).await;
    assert_eq!(prices(&other, &asked, "a", &[1, 2, 3, 100]).await.unwrap().len(), 3);
    settled(&other).await;
    assert_eq!(prices(&other, &asked, "b", &[1]).await.unwrap()[&1], "b 1");
    settled(&other).await;
    assert_eq!(asked.calls(), [vec![1, 2, 100], vec![3], vec![1]]);
    assert_eq!(prices(&one, &asked, "a", &[1, 13]).await, Err(Missing));
    // By its own tag, and by its arguments.
    other.invalidate_tag("price:a:1").await.unwrap();
    prices_cache::invalidate(&other, "a", 2).await.unwrap();
    assert!(!other.contains(prices_cache::key("a", 1)).await && !other.contains(prices_cache::key("a", 2)).await);
    assert!(other.contains(prices_cache::key("a", 3)).await && other.contains(prices_cache::key("b", 1)).await);
    assert_eq!(prices_cache::refresh(&other, &asked, "a", &[3, 4]).await.unwrap().len(), 2);
    assert_eq!(asked.calls().pop(), Some(vec![3, 4]));
}

/// As [`rate`], for many.
#[cached(
    name = "rates",
    ttl = "1m",
    jitter = 10,
    early = 1.0,
    stale_if_error = "1h",
    soft_timeout = "10ms",
    failure_backoff("10s", "30s"),
    keep = "1d",
    many(id in ids),
    skip(db, gate)
)]
async fn rates(cache: &Cache, db: &Db, gate: &Gate, ids: &[u64]) -> Result<HashMap<u64, usize>, Slow> {
    let query = db.query();
    if query > 1 {
        gate.pass().await;
    }
    if query > 2 { Err(Slow) } else { Ok(ids.iter().map(|id| (*id, query)).collect()) }
}

async fn many_have_what_stands_in_for_them(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let (db, gate) = (Db::default(), Gate::closed());
    let of = |query: usize| Ok(HashMap::from([(1, query), (2, query)]));
    assert_eq!(rates(&cache, &db, &gate, &[1, 2]).await, of(1));
    settled(&cache).await;
    clock.advance(100 * SECOND);
    assert_eq!(rates(&cache, &db, &gate, &[1, 2]).await, of(1), "while it is slow");
    gate.open();
    settled(&cache).await;
    assert_eq!((rates(&cache, &db, &gate, &[1, 2]).await, db.queries()), (of(2), 2));
    clock.advance(100 * SECOND);
    for _ in 0..3 {
        assert_eq!(rates(&cache, &db, &gate, &[1, 2]).await, of(2), "while it fails");
        settled(&cache).await;
        assert_eq!(db.queries(), 3, "and is left alone");
    }
}

#[cached(name = "squares", many(n in numbers), key = "{n}")]
async fn squares(cache: &Cache, numbers: Vec<u64>) -> Vec<(u64, u64)> {
    numbers.into_iter().map(|n| (n, n * n)).collect()
}

#[cached(name = "cubes", many(n in numbers), hard_timeout("10s", Slow), lock = "process", jitter = 10)]
async fn cubes(cache: &Cache, numbers: &Vec<u64>) -> Result<BTreeMap<u64, u64>, Slow> {
    Ok(numbers.iter().map(|n| (*n, n * n * n)).collect())
}

async fn many_return_what_they_are_written_to_return(backend: &Backend) {
    let cache = backend.cache().await.build();
    for _ in 0..2 {
        assert_eq!(squares(&cache, vec![3, 1, 3]).await, [(3, 9), (1, 1), (3, 9)]);
        assert_eq!(cubes(&cache, &vec![3, 1]).await, Ok(BTreeMap::from([(1, 1), (3, 27)])));
        settled(&cache).await;
    }
    assert_eq!(squares_cache::key(3), Key::new(["squares", ":", "3"]));
    assert_eq!(cache.counts().hits, 4);
}

#[derive(Clone)]
struct Shop {
    cache: Cache,
    asked: Asked,
}

impl Shop {
    #[cached(name = "stock", cache = "self.cache", many(id in ids))]
    async fn stock_of(&self, ids: &[u64]) -> HashMap<u64, u32> {
        self.asked.note(ids);
        ids.iter().map(|id| (*id, 7)).collect()
    }

    /// One of the same.
    #[cached(name = "stock", cache = "self.cache")]
    async fn stock(&self, id: u64) -> Option<u32> {
        self.asked.note(&[id]);
        Some(8)
    }
}

async fn methods_with_many_find_the_cache_in_self(backend: &Backend) {
    let shop = Shop { cache: backend.cache().await.build(), asked: Asked::default() };
    assert_eq!(shop.stock_of(&[1, 2]).await.len(), 2);
    settled(&shop.cache).await;
    shop.stock_of_invalidate(1).await.unwrap();
    assert_eq!(shop.stock_of(&[1, 2]).await, HashMap::from([(1, 7), (2, 7)]));
    assert_eq!(shop.asked.calls(), [vec![1, 2], vec![1]]);
}

async fn one_and_many_share_their_entries(backend: &Backend) {
    let shop = Shop { cache: backend.cache().await.build(), asked: Asked::default() };
    assert_eq!(Shop::stock_key(1), Shop::stock_of_key(1));
    shop.stock(1).await;
    settled(&shop.cache).await;
    assert_eq!(shop.stock_of(&[1, 2]).await, HashMap::from([(1, 8), (2, 7)]));
    settled(&shop.cache).await;
    assert_eq!(shop.stock(2).await, Some(7));
    assert_eq!(shop.asked.calls(), [vec![1], vec![2]]);
}

/// Numbers of one type.
#[derive(Clone)]
struct Numbers<T> {
    cache: Cache,
    number: T,
}

impl<T: Clone + Serialize + DeserializeOwned + Send + Sync + 'static> Numbers<T> {
    #[cached(name = "number", cache = "self.cache")]
    async fn get(&self, id: u64) -> T {
        let _ = id;
        self.number.clone()
    }

    #[cached(name = "named_number", cache = "self.cache", key = "{id}")]
    async fn named(&self, id: u64) -> T {
        let _ = id;
        self.number.clone()
    }

    #[cached(name = "numbers", cache = "self.cache", many(id in ids))]
    async fn all(&self, ids: &[u64]) -> HashMap<u64, T> {
        ids.iter().map(|id| (*id, self.number.clone())).collect()
    }
}

async fn each_type_that_a_method_is_used_with_has_entries_of_its_own(backend: &Backend) {
    let cache = backend.cache().await.build();
    let (narrow, wide) =
        (Numbers { cache: cache.clone(), number: 1_u32 }, Numbers { cache: cache.clone(), number: 2_u64 });
    for _ in 0..2 {
        assert_eq!((narrow.get(7).await, narrow.named(7).await, narrow.all(&[7]).await[&7]), (1, 1, 1));
        settled(&cache).await;
        assert_eq!((wide.get(7).await, wide.named(7).await, wide.all(&[7]).await[&7]), (2, 2, 2));
        settled(&cache).await;
    }
    narrow.get_invalidate(7).await.unwrap();
    assert!(!cache.contains(Numbers::<u32>::get_key(7)).await && cache.contains(Numbers::<u64>::get_key(7)).await);
    assert_eq!(Numbers::<u32>::get_key(7), Key::new(["number", "<u32>", ":", "7"]));
    assert_eq!(Repository::given_key(7), Key::new(["given", ":", "7"]), "a type without parameters is no part of it");
}

/// What a caller may want differently. It is no argument that the function can share with its load.
#[derive(Clone, Default)]
struct Terms {
    ttl: Duration,
    long: Duration,
    per_cent: u8,
    beta: f32,
    fallback: Vec<String>,
}

fn ttl_of(category: &str) -> Duration {
    if category == "lamps" { 10 * SECOND } else { 20 * SECOND }
}

#[cached(
    name = "on_terms",
    ttl = terms.ttl,
    jitter = terms.per_cent,
    early_refresh = terms.beta,
    stale_while_revalidate = terms.long,
    stale_if_error = terms.long,
    keep = terms.long,
    soft_timeout = terms.long,
    hard_timeout(terms.long, Slow),
    failure_backoff(terms.long, terms.long),
    fallback = terms.fallback.clone(),
    skip(terms)
)]
async fn on_terms(cache: &Cache, terms: &Terms, category: String) -> Result<Vec<String>, Slow> {
    if category.is_empty() { Err(Slow) } else { Ok(vec![category]) }
}

#[cached(name = "by_category", ttl = ttl_of(category), negative_ttl = ttl_of(category))]
async fn by_category(cache: &Cache, category: &str) -> Option<String> {
    Some(category.to_owned())
}

#[cached(name = "several", ttl = ttl_of(category) * ids.len() as u32, negative_ttl = terms.ttl, many(id in ids), skip(terms))]
async fn several(cache: &Cache, terms: &Terms, category: &str, ids: Vec<u64>) -> HashMap<u64, String> {
    ids.into_iter().map(|id| (id, category.to_owned())).collect()
}

#[derive(Clone)]
struct WithTerms {
    cache: Cache,
    terms: Terms,
}

impl WithTerms {
    #[cached(name = "of_terms", cache = "self.cache", ttl = self.terms.ttl)]
    async fn get(self: Arc<Self>) -> usize {
        self.terms.fallback.len()
    }
}

async fn settings_see_the_arguments_as_the_function_does(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let terms = Terms { ttl: 10 * SECOND, long: 1000 * SECOND, fallback: vec!["none".to_owned()], ..Terms::default() };
    assert_eq!(on_terms(&cache, &terms, "lamps".to_owned()).await, Ok(vec!["lamps".to_owned()]));
    assert_eq!(on_terms(&cache, &terms, String::new()).await, Ok(vec!["none".to_owned()]));
    for category in ["lamps", "desks"] {
        assert_eq!(by_category(&cache, category).await.as_deref(), Some(category));
    }
    assert_eq!(several(&cache, &terms, "lamps", vec![1, 2]).await.len(), 2);
    assert_eq!(Arc::new(WithTerms { cache: cache.clone(), terms }).get().await, 1);
    settled(&cache).await;
    let (mut now, in_turn) = (0, [(5, [true; 5]), (15, [false, false, false, true, true]), (25, [false; 5])]);
    for (after, expected) in in_turn {
        clock.advance((after - now) * SECOND);
        now = after;
        let fresh = [
            cache.contains(on_terms_cache::key("lamps".to_owned())).await,
            cache.contains(WithTerms::get_key()).await,
            cache.contains(by_category_cache::key("lamps")).await,
            cache.contains(by_category_cache::key("desks")).await,
            cache.contains(several_cache::key("lamps", 1)).await,
        ];
        assert_eq!(fresh, expected, "after {after} s");
    }
}

/// Functions whose names the companions have, too.
mod of_other_meanings {
    use super::*;

    fn key(id: u32) -> String {
        format!("key:{id}")
    }

    fn refresh() -> Duration {
        20 * SECOND
    }

    fn invalidate() -> u8 {
        10
    }

    #[cached(name = "meant", ttl = refresh(), jitter = invalidate(), tags = [key(id)])]
    pub(super) async fn meant(cache: &Cache, id: u32) -> u32 {
        id
    }
}

#[cached(name = "by_key")]
async fn by_key(cache: &Cache, key: &str, invalidate: u32, refresh: u32) -> String {
    format!("{key} {invalidate} {refresh}")
}

#[cached(name = "by_keys", many(key in keys))]
async fn by_keys(cache: &Cache, keys: &[u64]) -> HashMap<u64, u64> {
    keys.iter().map(|key| (*key, *key)).collect()
}

async fn arguments_and_settings_have_any_names(backend: &Backend) {
    let cache = backend.cache().await.build();
    assert_eq!(by_key(&cache, "a", 1, 2).await, "a 1 2");
    assert_eq!(by_keys(&cache, &[1, 2]).await.len(), 2);
    settled(&cache).await;
    by_key_cache::invalidate(&cache, "a", 1, 2).await.unwrap();
    by_keys_cache::invalidate(&cache, 1).await.unwrap();
    assert!(!cache.contains(by_key_cache::key("a", 1, 2)).await && !cache.contains(by_keys_cache::key(1)).await);
    assert!(cache.contains(by_keys_cache::key(2)).await);
    assert_eq!(of_other_meanings::meant_cache::refresh(&cache, 8).await, 8);
    settled(&cache).await;
    assert!(cache.contains(of_other_meanings::meant_cache::key(8)).await);
    cache.invalidate_tag("key:8").await.unwrap();
    assert!(!cache.contains(of_other_meanings::meant_cache::key(8)).await);
}

async fn a_function_within_another_one_has_its_companions(backend: &Backend) {
    #[derive(Clone, Serialize)]
    struct Local(u64);

    #[cached(name = "local", skip(db))]
    async fn local(cache: &Cache, db: &Db, of: &Local) -> u64 {
        db.query();
        of.0
    }

    let (cache, db) = (backend.cache().await.build(), Db::default());
    assert_eq!(local(&cache, &db, &Local(7)).await, 7);
    assert_eq!(local_cache::refresh(&cache, &db, &Local(7)).await, 7);
    settled(&cache).await;
    assert_eq!(db.queries(), 2);
    assert!(cache.contains(local_cache::key(&Local(7))).await);
    local_cache::invalidate(&cache, &Local(7)).await.unwrap();
    assert!(!cache.contains(local_cache::key(&Local(7))).await);
}

/// Ids of the shop, which are no numbers.
type Id = String;

mod shop {
    use super::*;

    pub(super) type Id = u64;

    pub(super) fn ttl() -> Duration {
        20 * SECOND
    }

    pub(super) mod shelf {
        use cache_layer::{Cache, cached};

        pub(in crate::shop) type Name = String;

        #[cached(name = "on_shelf", ttl = super::ttl(), tags = [self::tag_of(&shop)])]
        pub(in super::super) async fn on_shelf(cache: &Cache, shop: super::super::Id, id: super::Id) -> self::Name {
            format!("{shop} {id}")
        }

        fn tag_of(shop: &str) -> String {
            format!("shop:{shop}")
        }
    }
}

async fn paths_mean_what_they_mean_to_the_function(backend: &Backend) {
    use shop::shelf::{on_shelf, on_shelf_cache};

    let cache = backend.cache().await.build();
    assert_eq!(on_shelf(&cache, Id::from("a"), 7).await, "a 7");
    assert_eq!(on_shelf_cache::refresh(&cache, Id::from("a"), 7).await, "a 7");
    settled(&cache).await;
    assert!(cache.contains(on_shelf_cache::key("a".into(), 7)).await);
    cache.invalidate_tag("shop:a").await.unwrap();
    assert!(!cache.contains(on_shelf_cache::key("a".into(), 7)).await);
}

/// Where a lint that is not allowed is an error, and so is an expectation that is not fulfilled. This compiles.
#[deny(unused_variables, unfulfilled_lint_expectations)]
mod with_attributes {
    use super::*;

    #[cached(name = "allowed")]
    #[allow(unused_variables, reason = "it is what this is about")]
    pub(super) async fn allowed(cache: &Cache) -> u32 {
        let unused = 1;
        1
    }

    #[cached(name = "expected")]
    #[expect(unused_variables, reason = "it is what this is about")]
    pub(super) async fn expected(cache: &Cache) -> u32 {
        let unused = 1;
        2
    }

    #[cached(name = "expected_at_times")]
    #[cfg_attr(test, expect(unused_variables), doc = "Of a test.")]
    pub(super) async fn expected_at_times(cache: &Cache) -> u32 {
        let unused = 1;
        3
    }

    #[cached(name = "left_out")]
    #[cfg(not(test))]
    async fn left_out(cache: &Cache, of: NoSuchType) -> NoSuchType {
        of
    }

    impl Repository {
        #[cached(name = "left_out", cache = "self.cache")]
        #[cfg(not(test))]
        async fn left_out(&self, of: NoSuchType) -> NoSuchType {
            of
        }

        #[cached(name = "allowed_method", cache = "self.cache")]
        #[allow(unused_variables, reason = "it is what this is about")]
        pub(super) async fn allowed(&self) -> u32 {
            let unused = 1;
            4
        }
    }

    #[tokio::test]
    async fn attributes_hold_for_the_body() {
        let cache = Cache::new(cache_layer::store::MemoryStore::new(1 << 20));
        assert_eq!((allowed(&cache).await, expected(&cache).await, expected_at_times(&cache).await), (1, 2, 3));
        assert_eq!(Repository { db: Db::default(), cache }.allowed().await, 4);
    }
}

/// Where clippy is to find nothing, which a build of the workspace that denies warnings shows.
#[warn(clippy::needless_pass_by_value, clippy::ptr_arg, clippy::ref_option, clippy::trivially_copy_pass_by_ref)]
mod without_lints {
    use super::*;

    /// Takes a list with a spare capacity, and a text by value.
    #[cached(name = "room")]
    async fn room(_cache: &Cache, list: &Vec<u64>, text: String) -> String {
        let room = list.capacity() > 0;
        text + if room { " has room" } else { " has none" }
    }

    #[tokio::test]
    async fn the_form_of_an_argument_is_the_functions_own_matter() {
        let cache = Cache::new(cache_layer::store::MemoryStore::new(1 << 20));
        assert_eq!(room(&cache, &vec![1], "it".to_owned()).await, "it has room");
    }
}

/// Rows of one type, whatever that is: what has to be known of it is said where it is needed.
#[derive(Clone)]
struct Rows<T> {
    cache: Cache,
    row: T,
}

impl<T> Rows<T> {
    #[cached(name = "row", cache = "self.cache")]
    async fn row(&self, id: u64) -> T
    where
        T: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let _ = id;
        self.row.clone()
    }

    #[cached(name = "row", cache = "self.cache", many(id in ids))]
    async fn rows(&self, ids: &[u64]) -> HashMap<u64, T>
    where
        T: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        ids.iter().map(|id| (*id, self.row.clone())).collect()
    }
}

#[cached(name = "bounded")]
async fn bounded(cache: &Cache, id: u64) -> Vec<u64>
where
    Vec<u64>: Clone,
{
    vec![id]
}

async fn bounds_hold_for_what_is_added_as_well(backend: &Backend) {
    let cache = backend.cache().await.build();
    let rows = Rows { cache: cache.clone(), row: 7 };
    assert_eq!((rows.row(1).await, rows.row_refresh(1).await), (7, 7));
    assert!(cache.drain(10 * SECOND).await);
    assert!(cache.contains(Rows::<i32>::row_key(1)).await);
    rows.row_invalidate(1).await.unwrap();
    assert!(!cache.contains(Rows::<i32>::row_key(1)).await);
    assert_eq!(rows.rows(&[1, 2]).await, rows.rows_refresh(&[1, 2]).await);
    assert!(cache.drain(10 * SECOND).await);
    rows.rows_invalidate(2).await.unwrap();
    let keys = [Rows::<i32>::rows_key(1), Rows::<i32>::rows_key(2)];
    assert_eq!((cache.contains(keys[0].clone()).await, cache.contains(keys[1].clone()).await), (true, false));
    assert_eq!((bounded(&cache, 1).await, bounded_cache::refresh(&cache, 1).await), (vec![1], vec![1]));
    assert!(cache.drain(10 * SECOND).await);
    bounded_cache::invalidate(&cache, 1).await.unwrap();
    assert!(!cache.contains(bounded_cache::key(1)).await);
}

#[cached(name = "kind", key = "{type}/{r#match}", tags = ["type:{type}"])]
async fn r#loop(cache: &Cache, r#type: &str, r#match: u32, r#in: u32) -> String {
    format!("{type} {match} {in}")
}

#[cached(name = "kinds", key = "{type}", skip(r#in), many(r#type in types))]
async fn kinds(cache: &Cache, types: &[String], r#in: u32) -> HashMap<String, u32> {
    types.iter().map(|r#type| (r#type.clone(), r#in)).collect()
}

async fn names_may_be_keywords(backend: &Backend) {
    let cache = backend.cache().await.build();
    assert_eq!(r#loop(&cache, "lamp", 1, 2).await, "lamp 1 2");
    assert!(cache.drain(10 * SECOND).await);
    assert_eq!(r#loop(&cache, "lamp", 1, 3).await, "lamp 1 2", "the template does not name it");
    assert_eq!(loop_cache::key("lamp", 1).to_string(), "kind:lamp/1");
    cache.invalidate_tag("type:lamp").await.unwrap();
    assert_eq!(r#loop(&cache, "lamp", 1, 3).await, "lamp 1 3");
    let types = ["lamp".to_owned()];
    assert_eq!(kinds(&cache, &types, 1).await["lamp"], 1);
    assert!(cache.drain(10 * SECOND).await);
    assert_eq!(kinds(&cache, &types, 2).await["lamp"], 1);
    assert_eq!(kinds_cache::key("lamp".to_owned()).to_string(), "kinds:lamp");
}

#[derive(Clone)]
struct Tenant(&'static str);

/// Of one tenant, in a cache that tenants share.
#[derive(Clone)]
struct Stall {
    cache: Cache,
    tenant: (Tenant, u32),
    price: u64,
}

impl Stall {
    #[cached(
        name = "stall_price",
        cache = "self.cache",
        key = "{self.tenant.0.0}/{id}",
        tags = ["tenant:{self.tenant.0.0}", "{{{self.tenant.1:03}}}:{id}"]
    )]
    async fn price(&self, id: u64) -> Option<u64> {
        Some(self.price + id)
    }

    #[cached(name = "stall_price", cache = "self.cache", key = "{self.tenant.0.0}/{id}", many(id in ids))]
    async fn prices(&self, ids: &[u64]) -> HashMap<u64, u64> {
        ids.iter().map(|id| (*id, self.price + id)).collect()
    }

    #[cached(name = "given_stall_price", key = "{id}/{self.tenant.0.0}")]
    async fn given(self: Arc<Self>, cache: &Cache, id: u64) -> u64 {
        self.price + id
    }
}

async fn two_values_of_one_type_have_entries_of_their_own_by_a_template(backend: &Backend) {
    let cache = backend.cache().await.build();
    let stall = |name, number, price| Arc::new(Stall { cache: cache.clone(), tenant: (Tenant(name), number), price });
    let (one, other) = (stall("a", 1, 100), stall("b", 2, 200));
    for _ in 0..2 {
        for stall in [&one, &other] {
            assert_eq!(stall.price(7).await, Some(stall.price + 7));
            assert_eq!(stall.clone().given(&cache, 7).await, stall.price + 7);
            settled(&cache).await;
            assert_eq!(stall.prices(&[7, 8]).await, HashMap::from([(7, stall.price + 7), (8, stall.price + 8)]));
            settled(&cache).await;
        }
    }
    assert_eq!(one.price_key(7), Key::new(["stall_price", ":", "a", "/", "7"]));
    assert_eq!(
        (one.prices_key(7), one.given_key(7).to_string()),
        (one.price_key(7), "given_stall_price:7/a".to_owned())
    );

    one.prices_invalidate(8).await.unwrap();
    one.given_invalidate(&cache, 7).await.unwrap();
    assert!(!cache.contains(one.price_key(8)).await && !cache.contains(one.given_key(7)).await);
    assert!(cache.contains(other.price_key(8)).await && cache.contains(other.given_key(7)).await);
    one.price_invalidate(7).await.unwrap();
    assert!(!cache.contains(one.price_key(7)).await && cache.contains(other.price_key(7)).await);
    one.price_refresh(7).await;
    settled(&cache).await;
    for tag in ["tenant:a", "{002}:7"] {
        assert!(cache.contains(other.price_key(7)).await);
        cache.invalidate_tag(tag).await.unwrap();
        assert!(!cache.contains(one.price_key(7)).await);
    }
    assert!(!cache.contains(other.price_key(7)).await);
}

/// What takes nothing else.
fn kept(kind: &'static str, db: &'static Db) -> String {
    format!("{kind}: {}", db.query())
}

#[cached(name = "of_kind", skip(db))]
async fn of_kind(cache: &Cache, db: &'static Db, kind: &'static str, of: &str) -> String {
    kept(kind, db) + of
}

impl Repository {
    #[cached(name = "kind_of", cache = "self.cache", many(id in ids), skip(db))]
    async fn kind_of(&self, db: &'static Db, kind: &'static str, ids: &[u64]) -> HashMap<u64, String> {
        ids.iter().map(|id| (*id, kept(kind, db))).collect()
    }
}

async fn static_references_are_passed_on_as_they_are(backend: &Backend) {
    let cache = backend.cache().await.build();
    let repository = Repository { db: Db::default(), cache: cache.clone() };
    let db: &'static Db = Box::leak(Box::default());
    for _ in 0..2 {
        assert_eq!(of_kind(&cache, db, "lamps", "!").await, "lamps: 1!");
        settled(&cache).await;
        assert_eq!(of_kind(&cache, db, "desks", "!").await, "desks: 2!");
        settled(&cache).await;
        assert_eq!(repository.kind_of(db, "lamps", &[7]).await[&7], "lamps: 3");
        settled(&cache).await;
    }
    of_kind_cache::invalidate(&cache, "lamps", "!").await.unwrap();
    assert!(!cache.contains(of_kind_cache::key("lamps", "!")).await);
    assert_eq!(of_kind_cache::refresh(&cache, db, "desks", "!").await, "desks: 4!");
}

/// Where a `mut` for nothing is an error. This compiles.
#[deny(unused_mut)]
mod by_value {
    use super::*;

    impl Repository {
        #[cached(name = "changed", cache = "self.cache")]
        pub(super) async fn changed(mut self, mut id: u32) -> u32 {
            self.db = Db::default();
            id += self.db.query() as u32;
            id
        }

        #[cached(name = "changed_shared", cache = "self.cache")]
        pub(super) async fn changed_shared(mut self: Arc<Self>, id: u32) -> u32 {
            Arc::make_mut(&mut self).db = Db::default();
            id + self.db.query() as u32
        }
    }
}

async fn a_method_may_change_its_own_self(backend: &Backend) {
    let repository = Repository { db: Db::default(), cache: backend.cache().await.build() };
    let shared = Arc::new(repository.clone());
    assert_eq!((repository.clone().changed(10).await, shared.clone().changed_shared(10).await), (11, 11));
    assert_eq!(
        (repository.clone().changed_refresh(10).await, shared.clone().changed_shared_refresh(10).await),
        (11, 11)
    );
    settled(&repository.cache).await;
    repository.clone().changed_invalidate(10).await.unwrap();
    shared.changed_shared_invalidate(10).await.unwrap();
    for key in [Repository::changed_key(10), Repository::changed_shared_key(10)] {
        assert!(!repository.cache.contains(key).await);
    }
}

/// The state of an application.
#[derive(Clone)]
struct State {
    cache: Cache,
}

/// By which everything is priced.
#[derive(Clone)]
struct Pricing(u64);

impl Pricing {
    #[cached(name = "priced", cache = "state.cache", skip(state))]
    async fn priced(&self, state: &State, id: u64) -> u64 {
        self.0 * id
    }

    #[cached(name = "priced_by", cache = "state.cache", key = "{id}/{self.0}", skip(state))]
    async fn priced_by(&self, state: State, id: u64) -> u64 {
        self.0 * id
    }
}

impl Repository {
    /// A field of `self` is none of the arguments, whatever it is called.
    #[cached(name = "logged", cache = "self.cache", skip(cache))]
    async fn logged(&self, cache: &str, id: u64) -> String {
        format!("{cache} {id}")
    }
}

async fn methods_find_the_cache_in_an_argument(backend: &Backend) {
    let state = State { cache: backend.cache().await.build() };
    let pricing = Pricing(3);
    assert_eq!((pricing.priced(&state, 7).await, pricing.priced_by(state.clone(), 7).await), (21, 21));
    settled(&state.cache).await;
    assert!(state.cache.contains(Pricing::priced_key(7)).await && state.cache.contains(pricing.priced_by_key(7)).await);
    Pricing::priced_invalidate(&state.cache, 7).await.unwrap();
    pricing.priced_by_invalidate(&state.cache, 7).await.unwrap();
    assert!(
        !state.cache.contains(Pricing::priced_key(7)).await && !state.cache.contains(pricing.priced_by_key(7)).await
    );
    assert_eq!(pricing.priced_refresh(&state, 7).await, 21);

    let repository = Repository { db: Db::default(), cache: state.cache };
    repository.logged("to a file", 7).await;
    settled(&repository.cache).await;
    repository.logged_invalidate(7).await.unwrap();
    assert!(!repository.cache.contains(Repository::logged_key(7)).await);
}

#[cached(
    name = "asked_again",
    ttl = "1m",
    negative_ttl = "0s",
    stale_if_error = "1h",
    failure_backoff("0s", "0ms"),
    skip(db)
)]
async fn asked_again(cache: &Cache, db: &Db) -> Result<Option<usize>, Missing> {
    match db.query() {
        1 => Ok(Some(1)),
        2 | 3 => Err(Missing),
        _ => Ok(None),
    }
}

async fn absences_and_pauses_may_be_zero(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let db = Db::default();
    for (queries, expected) in [(1, Some(1)), (2, Some(1)), (3, Some(1)), (4, None), (5, None)] {
        assert_eq!(asked_again(&cache, &db).await, Ok(expected));
        settled(&cache).await;
        assert_eq!(db.queries(), queries);
        clock.advance(100 * SECOND);
    }
}
