//! Code that `#[cached]` expands to, in addition to the public methods of a cache. Not for other use.

pub use std::{borrow::ToOwned, format, time::Duration};

use std::{
    any::type_name,
    collections::{BTreeMap, HashMap, VecDeque},
    convert::Infallible,
    fmt,
    fmt::Display,
    hash::{BuildHasher, Hash, Hasher},
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
};

use serde::{Serialize, de::DeserializeOwned};

use super::{argument, load::GetOrLoad, many::GetOrLoadMany};
use crate::throttle::Throttle;

pub use crate::{Cache, InvalidateError, Key, Lock};

/// Builds a key. Each part keeps its own length, so that different arguments never make the same key.
#[derive(Debug)]
#[must_use]
pub struct KeyParts(Vec<Vec<u8>>);

impl KeyParts {
    /// The key of a call of the function with this name.
    pub fn new(name: &str) -> Self {
        Self(vec![name.into(), b":".into()])
    }

    /// The key of a call of the method with this name. With a generic type, the key states what its parameters are: otherwise, the
    /// entries of one type would be those of another one.
    pub fn of<T: ?Sized>(name: &str) -> Self {
        let ty = type_name::<T>();
        match ty.find('<') {
            Some(parameters) => Self(vec![name.into(), ty[parameters..].into(), b":".into()]),
            None => Self::new(name),
        }
    }

    /// Appends an argument.
    pub fn argument<T: Keyed + ?Sized>(mut self, value: &T) -> Self {
        let mut part = Vec::with_capacity(32);
        if let Err(error) = argument::write(&mut part, value) {
            // It would occur with every call.
            static THROTTLE: Throttle = Throttle::new();
            if let Some(kept_back) = THROTTLE.pass() {
                let name = String::from_utf8_lossy(&self.0[0]);
                tracing::warn!(%error, %name, kept_back, "an argument can't be part of a key: nothing is shared");
            }
            // A random key, which no other call has.
            part = fastrand::u128(..).to_be_bytes().into();
        }
        self.0.push(part);
        self
    }

    /// Appends a piece of a template.
    pub fn piece(mut self, value: impl Display) -> Self {
        self.0.push(value.to_string().into());
        self
    }

    /// The key.
    #[must_use]
    pub fn key(self) -> Key {
        Key::new(self.0)
    }
}

/// One element that a function with `many` is asked for, identified by its key.
#[derive(Clone, Debug)]
pub struct Item<T> {
    item: T,
    key: Key,
    tags: Arc<[String]>,
}

impl<T> Item<T> {
    /// An element, the key of its entry, and its tags.
    pub fn new(item: T, key: Key, tags: Vec<String>) -> Self {
        Self { item, key, tags: tags.into() }
    }

    /// Its tags.
    #[must_use]
    pub fn tags(&self) -> Vec<String> {
        self.tags.to_vec()
    }
}

impl<T> PartialEq for Item<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<T> Eq for Item<T> {}

impl<T> Hash for Item<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash().primary.hash(state);
    }
}

impl<T> From<Item<T>> for Key {
    fn from(item: Item<T>) -> Self {
        item.key
    }
}

/// The elements to call the function with.
#[must_use]
pub fn items<T: Clone>(missing: &[Item<T>]) -> Vec<T> {
    missing.iter().map(|item| item.item.clone()).collect()
}

/// The values that the function returned, each with the element that it was asked for. Elements that are equal, and yet have
/// different keys, get their values in the order in which they were asked for, and one value is for all of them.
#[must_use]
pub fn brought<T, C>(missing: Vec<Item<T>>, returned: C) -> Vec<(Item<T>, C::Value)>
where
    T: Clone + Eq + Hash,
    C: Pairs<T, Value: Clone>,
{
    let mut equal: HashMap<T, VecDeque<Item<T>>> = HashMap::with_capacity(missing.len());
    for item in missing {
        equal.entry(item.item.clone()).or_default().push_back(item);
    }
    let mut brought = Vec::with_capacity(equal.len());
    // The last value of those elements that wait for more.
    let mut last: HashMap<T, C::Value> = HashMap::new();
    for (element, value) in returned.into_pairs() {
        let Some(items) = equal.get_mut(&element) else { continue };
        let Some(item) = items.pop_front() else { continue };
        if !items.is_empty() {
            last.insert(element, value.clone());
        }
        brought.push((item, value));
    }
    for (element, value) in last {
        let items = equal.remove(&element).unwrap_or_default();
        brought.extend(items.into_iter().map(|item| (item, value.clone())));
    }
    brought
}

/// The result for the caller, in the order of the elements.
#[must_use]
pub fn found<T, C: Pairs<T>>(asked: Vec<Item<T>>, values: Vec<Option<C::Value>>) -> C {
    C::of_pairs(asked.into_iter().zip(values).filter_map(|(item, value)| Some((item.item, value?))).collect())
}

/// What a function with `many` returns: pairs of an element and its value.
#[diagnostic::on_unimplemented(
    message = "`many` is for a function that returns pairs of `{T}` and a value, which `{Self}` does not hold: return a \
               `HashMap<{T}, …>`, a `BTreeMap<{T}, …>` or a `Vec<({T}, …)>`",
    label = "this holds no such pairs"
)]
pub trait Pairs<T>: Sized {
    /// The value of an element.
    type Value;

    /// The pairs.
    fn into_pairs(self) -> Vec<(T, Self::Value)>;

    /// A collection of these pairs.
    fn of_pairs(pairs: Vec<(T, Self::Value)>) -> Self;
}

impl<T, V> Pairs<T> for Vec<(T, V)> {
    type Value = V;

    fn into_pairs(self) -> Self {
        self
    }

    fn of_pairs(pairs: Self) -> Self {
        pairs
    }
}

impl<T: Eq + Hash, V, S: BuildHasher + Default> Pairs<T> for HashMap<T, V, S> {
    type Value = V;

    fn into_pairs(self) -> Vec<(T, V)> {
        self.into_iter().collect()
    }

    fn of_pairs(pairs: Vec<(T, V)>) -> Self {
        pairs.into_iter().collect()
    }
}

impl<T: Ord, V> Pairs<T> for BTreeMap<T, V> {
    type Value = V;

    fn into_pairs(self) -> Vec<(T, V)> {
        self.into_iter().collect()
    }

    fn of_pairs(pairs: Vec<(T, V)>) -> Self {
        pairs.into_iter().collect()
    }
}

/// The future of a call. It is named, so that of a bound that does not hold, such as of an error that is not `Clone`, there is one
/// error, and not another one that the call is no future.
pub fn asked<V, E>(ask: GetOrLoad<V, E>) -> Answer<Result<V, E>>
where
    V: Serialize + DeserializeOwned + Send + 'static,
    E: Clone + Send + Sync + 'static,
{
    ask.into_future()
}

/// As [`asked`], for many elements.
pub fn asked_many<K, V, E>(ask: GetOrLoadMany<K, V, E>) -> Answer<Result<Vec<Option<V>>, E>>
where
    K: Clone + Eq + Hash + Into<Key> + Send + Sync + 'static,
    V: Serialize + DeserializeOwned + Clone + Send + 'static,
    E: Clone + Send + Sync + 'static,
{
    ask.into_future()
}

/// The future of a call.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The return type of a function. For a `Result`, also behind an alias, only successes are stored: its inherent methods take
/// precedence over those of [`Plain`].
pub struct Returned<R>(PhantomData<fn(R)>);

impl<R> Returned<R> {
    /// For a function of this type.
    #[must_use]
    pub const fn of() -> Self {
        Self(PhantomData)
    }
}

impl<R> fmt::Debug for Returned<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Returned")
    }
}

impl<T, E> Returned<Result<T, E>> {
    /// What the function returned, for the cache.
    ///
    /// # Errors
    ///
    /// The function's own.
    pub fn loaded(self, returned: Result<T, E>) -> Result<T, E> {
        returned
    }

    /// What the cache has, for the caller.
    ///
    /// # Errors
    ///
    /// The function's own.
    pub fn answer(self, found: Result<T, E>) -> Result<T, E> {
        found
    }
}

/// A return type other than `Result`: every value is stored.
pub trait Plain<R> {
    /// What the function returned, for the cache.
    ///
    /// # Errors
    ///
    /// None.
    fn loaded(self, returned: R) -> Result<R, Infallible>;

    /// What the cache has, for the caller.
    fn answer(self, found: Result<R, Infallible>) -> R;
}

impl<R> Plain<R> for Returned<R> {
    fn loaded(self, returned: R) -> Result<R, Infallible> {
        Ok(returned)
    }

    fn answer(self, found: Result<R, Infallible>) -> R {
        let Ok(value) = found;
        value
    }
}

/// A return type that has room for an error.
#[diagnostic::on_unimplemented(
    message = "`hard_timeout` returns an error, and `{Self}` is no `Result`: return a `Result<…, …>`, or leave it out",
    label = "this is no `Result`"
)]
pub trait Fallible {
    /// The error.
    type Error;
}

impl<T, E> Fallible for Result<T, E> {
    type Error = E;
}

/// The error of a call that takes too long, for a function of this return type.
#[must_use]
pub fn timed_out<R: Fallible>(error: R::Error) -> R::Error {
    error
}

/// A value that may state an absence, such as an `Option`.
#[diagnostic::on_unimplemented(
    message = "`negative_ttl` is for `None`, which `{Self}` never is: return an `Option<…>`, or leave it out",
    label = "this is no `Option`"
)]
pub trait Absent: Sized {
    /// Sets how long an absence is fresh.
    fn negative_ttl<E>(ask: GetOrLoad<Self, E>, ttl: Duration) -> GetOrLoad<Self, E>;
}

impl<T> Absent for Option<T> {
    fn negative_ttl<E>(ask: GetOrLoad<Self, E>, ttl: Duration) -> GetOrLoad<Self, E> {
        ask.negative_ttl(ttl)
    }
}

/// The `self` of a cached method, which the load takes a clone of.
#[diagnostic::on_unimplemented(
    message = "`#[cached]` runs the method in a task of its own, which needs a clone of `self`: derive `Clone` for `{Self}`, or \
               take `self: &Arc<Self>`",
    label = "this can't be cloned"
)]
pub trait Shared: Sized {
    /// A clone.
    #[must_use]
    fn share(&self) -> Self;
}

#[diagnostic::do_not_recommend]
impl<T: Clone> Shared for T {
    fn share(&self) -> Self {
        self.clone()
    }
}

/// An argument that is part of the key.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be part of the key: add `skip(…)` with the argument's name to `#[cached]` if the result does not \
               depend on it, or derive `Serialize`",
    label = "serde can't serialize this"
)]
pub trait Keyed: Serialize {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + ?Sized> Keyed for T {}
