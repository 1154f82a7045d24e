//! The `#[cached]` attribute of `cache-layer`, which re-exports it.

use proc_macro::TokenStream;

mod arguments;
mod duration;
mod expand;
mod function;
mod template;

/// Caches what an async function returns, by its arguments.
///
/// ```
/// use cache_layer::{Cache, cached, store::MemoryStore};
///
/// # #[derive(Clone)] struct Db;
/// # impl Db { async fn products(&self, _: &str, _: u32) -> Result<Vec<String>, DbError> { Ok(vec!["lamp".into()]) } }
/// # #[derive(Clone, Debug)] struct DbError;
/// /// A page of the products of a category.
/// #[cached(name = "product_list", ttl = "60s", tags = ["category:{category}"], lock, skip(db))]
/// async fn product_list(cache: &Cache, db: &Db, category: &str, page: u32) -> Result<Vec<String>, DbError> {
///     db.products(category, page).await // runs on a miss only
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
/// let products = product_list(&cache, &Db, "lamps", 1).await.unwrap();
/// # assert_eq!(products, ["lamp"]);
/// # assert!(cache.drain(std::time::Duration::from_secs(1)).await);
/// # assert!(cache.contains(product_list_cache::key("lamps", 1)).await);
/// product_list_cache::invalidate(&cache, "lamps", 1).await?;
/// # assert!(!cache.contains(product_list_cache::key("lamps", 1)).await);
/// # Ok(())
/// # }
/// ```
///
/// # Settings
///
/// | setting | what it says |
/// |---|---|
/// | `name = "…"` | what the entries are called; needed, and to be used by one function only, but for [`many`](#many-at-once) |
/// | `ttl = "60s"` | how long a value is fresh (`ms`, `s`, `m`, `h`, `d`, or several: `"1m30s"`; or an expression); five minutes unless set |
/// | `jitter = 10` | by up to how many per cent it is shorter, at random |
/// | `early_refresh = 1.0`, or `early` | loaded anew in the background before it is stale, and how early |
/// | `tags = ["product:{id}"]` | tags, with arguments in them as in `format!`, or expressions: `tags = [filter.tag()]` |
/// | `lock` | one load in the whole fleet (`lock = "fleet"`, as if it were not said), in each process (`"process"`), or no waiting (`"off"`) |
/// | `stale_while_revalidate = "10s"` | for so long after, the value is used while it is loaded anew |
/// | `stale_if_error = "1h"` | for so long after, the value is used if the function fails |
/// | `keep = "1d"` | for so long after, the value is there for a load that wants to know it; the function itself doesn't |
/// | `soft_timeout = "50ms"` | how long a call waits where a stale value may stand in by `stale_if_error` |
/// | `hard_timeout("2s", Error::TimedOut)` | how long it waits at most, and its error then |
/// | `fallback = Vec::new()` | what it returns in place of an error |
/// | `failure_backoff("1s", "30s")` | how long a failing function is left alone where something stands in, at first and at most |
/// | `many(id in ids)` | [each element of `ids` has an entry of its own](#many-at-once) |
/// | `negative_ttl = "5s"` | how long `None` is fresh, of a function that returns an `Option` |
/// | `skip(db)` | arguments that are no part of the key |
/// | `key = "{category}/{page}"` | the key, of arguments that implement `Display`; unless set, [of all that are not skipped](#what-the-key-is-made-of) |
/// | `schema = 2` | to be counted up when the type changes, so that old and new processes keep apart |
/// | `cache = "self.cache"` | where the cache is; not needed beside an argument of type `&Cache`, which is no part of the key |
///
/// # What it makes
///
/// The function keeps its signature, its visibility and its documentation. Beside it is a module of its name and `_cache`:
///
/// - `key(…)`: the [`Key`] of these arguments
/// - `invalidate(&cache, …)`: [invalidates] the entry of these arguments
/// - `refresh(…)`: takes what the function takes; runs it whatever is there, and stores what it returns
///
/// Both `key` and `invalidate` take the arguments that are part of the key. An `impl` has no room for a module: beside
/// a method `product(&self, …)` there are `product_key(…)`, `product_invalidate(&self, …)` (or `(&cache, …)`, if the cache is
/// an argument) and `product_refresh(&self, …)`.
///
/// # Many at once
///
/// With `many(id in ids)`, the function takes a list, `ids: Vec<u64>` or `ids: &[u64]`, and returns pairs of an element and its
/// value, as a `HashMap`, a `BTreeMap` or a `Vec<(u64, …)>`. It runs for the elements that are missing, once, and the caller has all
/// that there are. One that it leaves out has no value, which is known for as long as `negative_ttl` says. `id` is an element in
/// tags, in a template, and for the companions.
///
/// ```
/// use std::collections::HashMap;
/// use cache_layer::{Cache, cached, store::MemoryStore};
///
/// # #[derive(Clone)] struct Db;
/// # impl Db { async fn names(&self, ids: &[u64]) -> HashMap<u64, String> { ids.iter().map(|id| (*id, format!("lamp {id}"))).collect() } }
/// # #[derive(Clone, Debug)] struct DbError;
/// /// `SELECT … WHERE id = ANY($1)`, for those that are not there.
/// #[cached(name = "product_name", ttl = "5m", tags = ["product:{id}"], many(id in ids), skip(db))]
/// async fn names(cache: &Cache, db: &Db, ids: &[u64]) -> Result<HashMap<u64, String>, DbError> {
///     Ok(db.names(ids).await)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
/// let names = names(&cache, &Db, &[7, 8]).await.unwrap();
/// assert_eq!(names[&8], "lamp 8");
/// # assert!(cache.drain(std::time::Duration::from_secs(1)).await);
/// # assert!(cache.contains(names_cache::key(8)).await);
/// names_cache::invalidate(&cache, 8).await?;
/// # assert!(!cache.contains(names_cache::key(8)).await);
/// # Ok(())
/// # }
/// ```
///
/// Elements are `Clone`, `Eq` and `Hash`; values, and what else the function takes, are `Clone`, and all is `Sync`. The entries are
/// those of a function that returns an `Option` for one `id`: it may have the same name, if its key is made of the same
/// arguments. What it means to ask for many is with [`get_or_load_many`].
///
/// # What the key is made of
///
/// The name, and the arguments one after another, as serde has them: what it tells apart has two keys, and what is equal has
/// one. It reads much as `{:?}` does, without blanks: `product_list:"lamps",1`. Patterns see that, too:
/// `delete_pattern("product_list:\"lamps\",*")`.
///
/// - `None`, `Some(None)`, `Some(())`, `NaN`, and each of the infinities are themselves. All `NaN`s are one, and `0.0` and
///   `-0.0` are two, as a function may tell them apart. Integers are their value, whatever their width.
/// - Maps and sets that are equal have one key, in whatever order they are; a list in another order is another list. serde
///   writes sets as lists: a `HashSet` is known by its type, and for the unordered collections of others there is
///   [`unordered`].
/// - A call with an argument that its own `Serialize` refuses shares nothing with other calls, and a warning says so.
///
/// # What it asks for
///
/// The function runs in a task of its own, which outlives a caller that leaves: `self` and what is borrowed must be
/// `Clone`, everything `Send`, and nothing borrow from elsewhere. What it returns is a value that serde knows, or a
/// `Result` of one; errors are not cached, and every caller that waited gets a clone, so they are `Clone`. It is the type that says
/// what a `Result` is, by whatever alias; one within something else is a value like any other. Functions with type
/// parameters can't be cached, nor can those of a trait.
///
/// [`Key`]: https://docs.rs/cache-layer/latest/cache_layer/struct.Key.html
/// [invalidates]: https://docs.rs/cache-layer/latest/cache_layer/struct.Cache.html#method.invalidate
/// [`get_or_load_many`]: https://docs.rs/cache-layer/latest/cache_layer/struct.Cache.html#method.get_or_load_many
/// [`unordered`]: https://docs.rs/cache-layer/latest/cache_layer/fn.unordered.html
#[proc_macro_attribute]
pub fn cached(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = syn::parse(arguments)
        .and_then(|arguments| function::Function::new(arguments, syn::parse(item.clone())?))
        .map(|function| expand::expand(&function));
    match expanded {
        Ok(tokens) => tokens.into(),
        Err(error) => {
            // The function stays, so that what calls it adds no errors of its own.
            let mut tokens: TokenStream = error.into_compile_error().into();
            tokens.extend(item);
            tokens
        }
    }
}
