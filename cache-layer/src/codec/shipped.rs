//! The codecs that come with the library.

use serde::{Serialize, de::DeserializeOwned};

use super::{
    contract::{Codec, CodecError},
    json,
};

/// JSON: people read it in `redis-cli` behind the envelope's header, and a type that gains an optional field still reads
/// what was written before. Floats come back to the last bit. What JSON has no form of its own for is refused, and not
/// kept: `NaN` and the infinities, `Some(None)` and `Some(())`, keys of maps that are neither texts, numbers, `bool`s nor
/// names of variants, and more than 127 lists, maps and structs within each other. [`Postcard`] keeps
/// them. Within `#[serde(tag)]`, `#[serde(untagged)]` and `#[serde(flatten)]`, serde reads back neither maps with numbers
/// for keys nor integers of 128 bits: they are loaded every time, and [`set`](crate::Cache::set), which only writes, stores
/// what [`get`](crate::Cache::get) then doesn't find.
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

/// [Postcard](https://postcard.jamesmunns.com): compact and quick, without the names of fields. It doesn't describe
/// itself: a type that changes at all needs a new name in its keys, or a new [schema](crate::CacheBuilder::schema), or what was
/// written before may be read as something else. Types that look at what is there before they decide (`#[serde(untagged)]`,
/// `#[serde(flatten)]`, `serde_json::Value`) can't be read back: they are loaded every time, and [`set`](crate::Cache::set),
/// which only writes, stores what [`get`](crate::Cache::get) then doesn't find.
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
