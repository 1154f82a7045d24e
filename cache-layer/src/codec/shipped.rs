//! The codecs that come with the library.

use serde::{Serialize, de::DeserializeOwned};

use super::{
    contract::{Codec, CodecError},
    json,
};

/// JSON: readable in `redis-cli` after the envelope's header. A type that gains an optional field can still read
/// older values. Floats are read back to the last bit.
///
/// Values that JSON can't represent unambiguously are refused, and not stored: `NaN` and the infinities, `Some(None)` and
/// `Some(())`, keys of maps other than strings, numbers, `bool`s and names of variants, and more than 127 levels of lists, maps
/// and structs. [`Postcard`](https://docs.rs/cache-layer/latest/cache_layer/codec/struct.Postcard.html) can store them.
///
/// Within `#[serde(tag)]`, `#[serde(untagged)]` and `#[serde(flatten)]`, serde can read back neither maps with numbers
/// as keys nor integers of 128 bits: such values are loaded every time, and [`set`](crate::Cache::set), which only writes, stores
/// a value that [`get`](crate::Cache::get) then doesn't find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json;

impl Codec for Json {
    fn name(&self) -> &str {
        "json"
    }

    fn encode<V: Serialize + ?Sized>(&self, value: &V) -> Result<Vec<u8>, CodecError> {
        Ok(json::encode(value)?)
    }

    fn decode<V: DeserializeOwned>(&self, bytes: &[u8]) -> Result<V, CodecError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// [Postcard](https://postcard.jamesmunns.com): compact and fast, without the names of fields.
///
/// The format doesn't describe itself: after any change of a type, use a new name in its keys, or a new
/// [schema](crate::CacheBuilder::schema); otherwise older values may be read with another meaning. Types that need a
/// self-describing format (`#[serde(untagged)]`, `#[serde(flatten)]`, `serde_json::Value`) can't be read back: they are loaded
/// every time, and [`set`](crate::Cache::set), which only writes, stores a value that [`get`](crate::Cache::get) then doesn't
/// find.
#[cfg(feature = "postcard")]
#[cfg_attr(docsrs, doc(cfg(feature = "postcard")))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Postcard;

#[cfg(feature = "postcard")]
impl Codec for Postcard {
    fn name(&self) -> &str {
        "postcard"
    }

    fn encode<V: Serialize + ?Sized>(&self, value: &V) -> Result<Vec<u8>, CodecError> {
        Ok(postcard::to_stdvec(value)?)
    }

    fn decode<V: DeserializeOwned>(&self, bytes: &[u8]) -> Result<V, CodecError> {
        match postcard::take_from_bytes(bytes)? {
            (value, []) => Ok(value),
            (_, rest) => Err(format!("{} bytes more than its type has", rest.len()).into()),
        }
    }
}
