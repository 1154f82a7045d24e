//! Errors that the caller of a setter or builder can do something about. No request ever sees one.

use std::fmt;

/// A setting that can't be used. The message names the setting, its value, and what is allowed, but contains no secrets.
///
/// ```
/// use cache_layer::{Cache, CacheLayer, ConfigErrorKind, store::MemoryStore};
///
/// let layer = CacheLayer::new(Cache::new(MemoryStore::new(1 << 20)));
/// let error = layer.name("").unwrap_err();
/// assert_eq!(error.kind(), ConfigErrorKind::Syntax);
/// assert_eq!(error.to_string(), "cache name \"\": must be printable ASCII, not empty");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigError {
    kind: ConfigErrorKind,
    message: String,
}

/// What is wrong with a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// A text has the wrong syntax: a URL, a host, a prefix, a name.
    Syntax,
    /// A number or a time is too small or too large.
    Range,
    /// The setting needs a feature that this crate was built without.
    Feature,
    /// The setting conflicts with another one.
    Conflict,
    /// There is no Tokio runtime to run in.
    NoRuntime,
}

impl ConfigError {
    pub(crate) fn new(kind: ConfigErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What is wrong, for programs that handle cases differently.
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

/// The message alone: it is what a program shows whose `main` returns the error.
impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ConfigError {}
