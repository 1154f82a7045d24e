//! How a value is written.

use serde::{Serialize, de::DeserializeOwned};

mod json;

/// How typed values are written, set by [`CacheBuilder::codec`](crate::CacheBuilder::codec).
///
/// A value is read the way it was written, so changing this changes nothing about what is stored already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Codec {
    /// JSON: people read it in `redis-cli` behind the envelope's header, and a type that gains an optional field still reads
    /// what was written before. Floats come back to the last bit. What JSON has no form of its own for is refused, and not
    /// kept: `NaN` and the infinities, `Some(None)` and `Some(())`, keys of maps that are neither texts, numbers, `bool`s nor
    /// names of variants, and more than 127 lists, maps and structs within each other. [`Postcard`](Self::Postcard) keeps
    /// them. Within `#[serde(tag)]`, `#[serde(untagged)]` and `#[serde(flatten)]`, serde reads back neither maps with numbers
    /// for keys nor integers of 128 bits: they are loaded every time, and [`set`](crate::Cache::set), which only writes, stores
    /// what [`get`](crate::Cache::get) then doesn't find.
    #[default]
    Json,
    /// [Postcard](https://postcard.jamesmunns.com): compact and quick, without the names of fields. It doesn't describe
    /// itself: a type that changes at all needs a new name in its keys, or what was written before may be read as something
    /// else. Types that look at what is there before they decide (`#[serde(untagged)]`, `#[serde(flatten)]`,
    /// `serde_json::Value`) can't be read back: they are loaded every time, and [`set`](crate::Cache::set), which only writes,
    /// stores what [`get`](crate::Cache::get) then doesn't find.
    #[cfg(feature = "postcard")]
    Postcard,
}

impl Codec {
    /// Stands for the codec in an entry.
    pub(crate) fn mark(self) -> u8 {
        match self {
            Self::Json => b'j',
            #[cfg(feature = "postcard")]
            Self::Postcard => b'p',
        }
    }

    pub(crate) fn of_mark(mark: u8) -> Option<Self> {
        match mark {
            b'j' => Some(Self::Json),
            #[cfg(feature = "postcard")]
            b'p' => Some(Self::Postcard),
            _ => None,
        }
    }

    pub(crate) fn encode<V: Serialize + ?Sized>(self, value: &V) -> Result<Vec<u8>, String> {
        match self {
            Self::Json => json::encode(value),
            #[cfg(feature = "postcard")]
            Self::Postcard => postcard::to_stdvec(value).map_err(|error| error.to_string()),
        }
    }

    /// The value, if the bytes are one of this type's, to the last byte.
    pub(crate) fn decode<V: DeserializeOwned>(self, bytes: &[u8]) -> Result<V, String> {
        match self {
            Self::Json => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
            #[cfg(feature = "postcard")]
            Self::Postcard => match postcard::take_from_bytes(bytes) {
                Ok((value, [])) => Ok(value),
                Ok((_, rest)) => Err(format!("{} bytes more than its type has", rest.len())),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}
