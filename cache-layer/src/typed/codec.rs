//! How a value is written.

use serde::{Serialize, de::DeserializeOwned};

/// How typed values are written, set by [`CacheBuilder::codec`](crate::CacheBuilder::codec).
///
/// A value is read the way it was written, so changing this changes nothing about what is stored already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Codec {
    /// JSON: people read it in `redis-cli` behind the envelope's header, and a type that gains an optional field still reads
    /// what was written before. What JSON can't tell apart (`None` and `Some(None)`, `NaN` and `None`) comes back as one of
    /// them.
    #[default]
    Json,
    /// [Postcard](https://postcard.jamesmunns.com): compact and quick, without the names of fields. It doesn't describe
    /// itself: a type that changes at all needs a new name in its keys, or what was written before may be read as something
    /// else. Types that look at what is there before they decide (`#[serde(untagged)]`, `#[serde(flatten)]`,
    /// `serde_json::Value`) can't be read back, and are loaded every time.
    #[cfg(feature = "postcard")]
    Postcard,
}

impl Codec {
    /// Stands for the codec in an entry.
    pub(super) fn mark(self) -> u8 {
        match self {
            Self::Json => b'j',
            #[cfg(feature = "postcard")]
            Self::Postcard => b'p',
        }
    }

    pub(super) fn of_mark(mark: u8) -> Option<Self> {
        match mark {
            b'j' => Some(Self::Json),
            #[cfg(feature = "postcard")]
            b'p' => Some(Self::Postcard),
            _ => None,
        }
    }

    pub(super) fn encode<V: Serialize + ?Sized>(self, value: &V) -> Result<Vec<u8>, String> {
        match self {
            Self::Json => serde_json::to_vec(value).map_err(|error| error.to_string()),
            #[cfg(feature = "postcard")]
            Self::Postcard => postcard::to_stdvec(value).map_err(|error| error.to_string()),
        }
    }

    /// The value, if the bytes are one of this type's, to the last byte.
    pub(super) fn decode<V: DeserializeOwned>(self, bytes: &[u8]) -> Option<V> {
        match self {
            Self::Json => serde_json::from_slice(bytes).ok(),
            #[cfg(feature = "postcard")]
            Self::Postcard => {
                postcard::take_from_bytes(bytes).ok().filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
            }
        }
    }
}
