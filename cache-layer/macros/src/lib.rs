//! The `#[cached]` attribute of `cache-layer`, which re-exports it.

use proc_macro::TokenStream;

mod arguments;
mod duration;
mod expand;
mod function;
mod template;

/// Caches the results of an async function, by its arguments.
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
/// | setting | meaning |
/// |---|---|
/// | `name = "…"` | the name of the entries; required, and for one function only, except with [`many`](#many-at-once) |
/// | `ttl = "60s"` | how long a value is fresh (`ms`, `s`, `m`, `h`, `d`, or several: `"1m30s"`; or an expression); five minutes unless set |
/// | `jitter = 10` | shortens the freshness at random, by up to this many per cent |
/// | `early_refresh = 1.0`, or `early` | loads anew in the background before the value is stale, and how early |
/// | `tags = ["product:{id}"]` | tags, with arguments and fields of `self` in them as in `format!`, or expressions: `tags = [filter.tag()]` |
/// | `lock` | one load in the whole fleet (`lock = "fleet"`, the default), in each process (`"process"`), or no waiting (`"off"`) |
/// | `stale_while_revalidate = "10s"` | how long a stale value is used while it is loaded anew |
/// | `stale_if_error = "1h"` | how long a stale value is used if the function fails |
/// | `keep = "1d"` | how long a stale value is kept for a load that wants to see it; the function itself doesn't |
/// | `soft_timeout = "50ms"` | how long a call waits if a stale value may be used by `stale_if_error` |
/// | `hard_timeout("2s", Error::TimedOut)` | how long a call waits at most, and its error then, for a function that returns a `Result` |
/// | `fallback = Vec::new()` | what a call returns in place of an error |
/// | `failure_backoff("1s", "30s")` | how long the back-off after a failure lasts, at first and at most, while there is a stale value or a fallback; `"0s"` turns it off |
/// | `many(id in ids)` | [each element of `ids` has an entry of its own](#many-at-once) |
/// | `negative_ttl = "5s"` | how long `None` is fresh, for a function that returns an `Option`; with `"0s"`, it is not stored |
/// | `skip(db)` | arguments that are not part of the key |
/// | `key = "{category}/{page}"` | the key, from arguments, and fields of `self` (`{self.tenant}`), that implement `Display`; unless set, [from all arguments that are not skipped](#what-the-key-is-made-of) |
/// | `schema = 2` | a number to increase when the type changes, so that old and new processes don't share entries |
/// | `cache = "self.cache"` | the cache; not needed with an argument of type `&Cache`, which is not part of the key |
///
/// # What it makes
///
/// The function keeps its signature, its visibility and its documentation. The attribute adds a type with its name and `_cache`,
/// which has these functions:
///
/// - `key(…)`: the [`Key`] of these arguments
/// - `invalidate(&cache, …)`: [invalidates] the entry of these arguments
/// - `refresh(…)`: takes the function's arguments; runs it even if there is a fresh value, and stores the result
///
/// Both `key` and `invalidate` take the arguments that are part of the key. An `impl` can't contain a type, so for a method
/// `product(&self, …)` the attribute adds `product_key(…)`, `product_invalidate(&self, …)` (or `(&cache, …)`, if the cache is,
/// or comes from, an argument that is not part of the key) and `product_refresh(&self, …)`. If the key has a field of `self`,
/// `product_key` and `product_invalidate` take `&self` as their first argument.
///
/// Attributes for lints, such as `#[allow]`, hold for the function and for what is added. `#[expect]` has the effect of
/// `#[allow]`: there is no warning if a lint finds nothing.
///
/// # Many at once
///
/// With `many(id in ids)`, the function takes a list, `ids: Vec<u64>` or `ids: &[u64]`, and returns pairs of an element and its
/// value, as a `HashMap`, a `BTreeMap` or a `Vec<(u64, …)>`. It runs once, for the missing elements, and the caller gets the
/// values of all elements. An element that it leaves out has no value, which is stored for `negative_ttl`. `id` is one element
/// in tags, in a template, and in the added functions.
///
/// ```
/// use std::collections::HashMap;
/// use cache_layer::{Cache, cached, store::MemoryStore};
///
/// # #[derive(Clone)] struct Db;
/// # impl Db { async fn names(&self, ids: &[u64]) -> HashMap<u64, String> { ids.iter().map(|id| (*id, format!("lamp {id}"))).collect() } }
/// # #[derive(Clone, Debug)] struct DbError;
/// /// `SELECT … WHERE id = ANY($1)`, for the ids that are not cached.
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
/// Elements must be `Clone`, `Eq` and `Hash`; values and the other arguments must be `Clone`, and all of them `Sync`. The
/// entries are the same as those of a function that returns an `Option` for one `id`: that function may have the same name, if
/// its key is made of the same arguments. [`get_or_load_many`] describes how calls with many keys behave.
///
/// # What the key is made of
///
/// The key has the name, and the arguments one after another, as serde writes them: arguments that serde distinguishes have
/// different keys, and equal arguments have the same key. It looks like `{:?}` without blanks: `product_list:"lamps",1`.
/// Patterns are compared with this form, too: `delete_pattern("product_list:\"lamps\",*")`.
///
/// - `None`, `Some(None)`, `Some(())`, `NaN`, and each of the infinities have keys of their own. All `NaN`s are equal, but
///   `0.0` and `-0.0` differ, because a function may distinguish them. Integers are written by value, whatever their width.
/// - Equal maps and equal sets have the same key, whatever their order; a list in another order is another list. serde
///   writes sets as lists: a `HashSet` is recognized by its type; for unordered collections of other crates, use
///   [`unordered`].
/// - A call with an argument whose `Serialize` fails shares nothing with other calls, and a warning says so.
/// - `self` is not part of the key: two values of one type share their entries in a cache. If a field of `self` decides the result,
///   such as the tenant of a shop, the key needs a template that names it: `key = "{self.tenant}/{id}"`.
/// - A method of a generic type has an entry for each type that it is used with, as Rust [writes its name](std::any::type_name):
///   `Repository<Price>` and `Repository<Stock>` share nothing: `get<shop::Price>:7`. Another compiler may write a name
///   differently, and types with equal names, such as two closures in one function, share their entries.
///
/// # Requirements
///
/// The function runs in a task of its own, which outlives a caller that leaves: `self` and borrowed arguments must be `Clone`,
/// except for `&'static` ones, everything must be `Send`, and nothing else may borrow from elsewhere. The function returns a value
/// that serde can serialize, or a `Result` of one. Errors are not cached, and must be `Clone`, because every caller that waited
/// gets a clone. The attribute recognizes a `Result` by its type, also behind an alias; a `Result` within another type is a value
/// like any other, and so is one that a method returns as a type parameter of its `impl` (`-> T`): it is stored, even if it is an
/// error.
///
/// Functions with type parameters of their own, also by `impl Trait`, can't be cached, nor can functions of a trait or functions
/// without `self` within an `impl`: the compiler says of these that an enum is not supported there. Settings are evaluated at each
/// call, before the function runs; they see the arguments as the function does.
///
/// A type that is not `Clone` takes `self: &Arc<Self>`. An argument that is not part of what decides the result, such as a handle
/// to a database, is left out of the key by `skip(db)`; it need not be serializable then.
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
            // The function stays, so that its callers cause no further errors.
            let mut tokens: TokenStream = error.into_compile_error().into();
            tokens.extend(item);
            tokens
        }
    }
}
