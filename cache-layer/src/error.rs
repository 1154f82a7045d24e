//! What can go wrong, where the caller can do something about it. Requests never see any of it.

use std::fmt;

/// A setting that can't be used: says which, what it was, and what is allowed. Secrets are left out.
///
/// ```
/// use cache_layer::{Cache, CacheLayer, ConfigErrorKind, store::MemoryStore};
///
/// let layer = CacheLayer::new(Cache::new(MemoryStore::new(1 << 20)));
/// let error = layer.name("").unwrap_err();
/// assert_eq!(error.kind(), ConfigErrorKind::Syntax);
/// assert_eq!(error.to_string(), "cache name \"\": must be printable ASCII, not empty");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    kind: ConfigErrorKind,
    message: String,
}

/// What is wrong with a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// A text is not what it has to be: a URL, a host, a prefix, a name.
    Syntax,
    /// A number or a time is too small or too large.
    Range,
    /// It needs a feature of this crate that it was built without.
    Feature,
    /// It does not go together with another setting.
    Conflict,
    /// There is no Tokio runtime to work in.
    NoRuntime,
}

impl ConfigError {
    pub(crate) fn new(kind: ConfigErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What is wrong, for a program that is to tell one case from another.
    #[must_use]
    pub fn kind(&self) -> ConfigErrorKind {
        self.kind
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}
