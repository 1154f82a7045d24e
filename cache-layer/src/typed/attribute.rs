//! What `#[cached]` expands to, beside the public methods of a cache. Not for other use.

pub use std::{borrow::ToOwned, clone::Clone, format, time::Duration};

use std::{convert::Infallible, fmt, fmt::Display, marker::PhantomData};

use serde::Serialize;

use super::{argument, load::GetOrLoad};
use crate::throttle::Throttle;

pub use crate::{Cache, InvalidateError, Key, Lock};

/// A key in the making. Each part keeps its own length, so arguments can't run into each other or into the text between.
#[derive(Debug)]
#[must_use]
pub struct KeyParts(Vec<Vec<u8>>);

impl KeyParts {
    /// Of the function with that name.
    pub fn new(name: &str) -> Self {
        Self(vec![name.into(), b":".into()])
    }

    /// An argument.
    pub fn argument<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        let mut part = Vec::with_capacity(32);
        if let Err(error) = argument::write(&mut part, value) {
            // With every call.
            static THROTTLE: Throttle = Throttle::new();
            if let Some(kept_back) = THROTTLE.pass() {
                let name = String::from_utf8_lossy(&self.0[0]);
                tracing::warn!(%error, %name, kept_back, "an argument can't be part of a key: nothing is shared");
            }
            // A key of its own, which no other call has.
            part = fastrand::u128(..).to_be_bytes().into();
        }
        self.0.push(part);
        self
    }

    /// A piece of a template.
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

/// What a function returns. Of a `Result`, by whatever name the function calls it, only the successes are kept: its own
/// methods come before those of [`Plain`].
pub struct Returned<R>(PhantomData<fn(R)>);

impl<R> Returned<R> {
    /// What a function of that type returns.
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

/// What is no `Result`, and kept whatever it is.
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

/// A value that may say that there is nothing.
#[diagnostic::on_unimplemented(
    message = "`negative_ttl` is for `None`, which `{Self}` never is: return an `Option<…>`, or leave it out",
    label = "this is no `Option`"
)]
pub trait Absent: Sized {
    /// For how long that is fresh.
    fn negative_ttl<E>(ask: GetOrLoad<Self, E>, ttl: Duration) -> GetOrLoad<Self, E>;
}

impl<T> Absent for Option<T> {
    fn negative_ttl<E>(ask: GetOrLoad<Self, E>, ttl: Duration) -> GetOrLoad<Self, E> {
        ask.negative_ttl(ttl)
    }
}
