//! What `#[cached]` expands to, beside the public methods of a cache. Not for other use.

pub use std::{borrow::ToOwned, clone::Clone, convert::Infallible, format, time::Duration};

use std::fmt::Display;

use serde::Serialize;

pub use crate::{Cache, InvalidateError, Key, Lock};

/// A key in the making. Each part keeps its own length, so arguments can't run into each other or into the text between.
#[derive(Debug)]
#[must_use]
pub struct Parts(Vec<Vec<u8>>);

impl Parts {
    /// Of the function with that name.
    pub fn new(name: &str) -> Self {
        Self(vec![name.into(), b":".into()])
    }

    /// An argument, as JSON.
    pub fn argument<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.0.push(serde_json::to_vec(value).unwrap_or_else(|error| {
            tracing::warn!(%error, name = %String::from_utf8_lossy(&self.0[0]), "an argument can't be part of a key: nothing is shared");
            // Nobody else's.
            fastrand::u128(..).to_be_bytes().into()
        }));
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
