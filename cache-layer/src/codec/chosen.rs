//! The codec of a cache, and its letter in an entry.

use std::{any::Any, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

#[cfg(feature = "postcard")]
use super::shipped::Postcard;
use super::{contract::Codec, erased, shipped::Json};
use crate::telemetry::Rejection;

/// The first byte of a typed entry's metadata. A response's metadata begins with another byte.
const KIND: u8 = b'T';
/// The longest name of a codec.
const LONGEST_NAME: usize = 64;

/// The codec of a cache, and the schema of its values.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    codec: Shipped,
    schema: u32,
}

/// The codecs that come with the library, which are called directly.
#[derive(Clone, Debug)]
enum Shipped {
    Json,
    #[cfg(feature = "postcard")]
    Postcard,
    Other(Arc<dyn erased::Erased>),
}

impl Default for Chosen {
    fn default() -> Self {
        Self { codec: Shipped::Json, schema: 0 }
    }
}

impl Chosen {
    pub(crate) fn set_codec(&mut self, codec: impl Codec) {
        let any: &dyn Any = &codec;
        #[cfg(feature = "postcard")]
        if any.is::<Postcard>() {
            self.codec = Shipped::Postcard;
            return;
        }
        self.codec = if any.is::<Json>() { Shipped::Json } else { Shipped::Other(Arc::new(codec)) };
    }

    pub(crate) fn set_schema(&mut self, schema: u32) {
        self.schema = schema;
    }

    /// The metadata of the values that it writes: the kind of entry, the codec (in capitals if there is a schema), the schema
    /// in four bytes, and the name of a codec that doesn't come with the library.
    pub(crate) fn meta(&self) -> Vec<u8> {
        let (letter, name) = match &self.codec {
            Shipped::Json => (b'j', ""),
            #[cfg(feature = "postcard")]
            Shipped::Postcard => (b'p', ""),
            Shipped::Other(codec) => (b'c', codec.name()),
        };
        let mut meta = vec![KIND, letter];
        if self.schema != 0 {
            meta[1] = letter.to_ascii_uppercase();
            meta.extend_from_slice(&self.schema.to_be_bytes());
        }
        meta.extend_from_slice(cut(name));
        meta
    }

    pub(crate) fn encode<V: Serialize + ?Sized>(&self, value: &V) -> Result<Vec<u8>, String> {
        let written = match &self.codec {
            Shipped::Json => Json.encode(value),
            #[cfg(feature = "postcard")]
            Shipped::Postcard => Postcard.encode(value),
            Shipped::Other(codec) => codec.encode_erased(&value),
        };
        written.map_err(|error| error.to_string())
    }

    /// Decodes a value that this codec has written.
    pub(crate) fn decode_own<V: DeserializeOwned + 'static>(&self, bytes: &[u8]) -> Result<V, String> {
        let read = match &self.codec {
            Shipped::Json => Json.decode(bytes),
            #[cfg(feature = "postcard")]
            Shipped::Postcard => Postcard.decode(bytes),
            Shipped::Other(codec) => erased::decode(&**codec, bytes),
        };
        read.map_err(|error| error.to_string())
    }

    /// Decodes a value that was written with this metadata, if it is of this type.
    pub(crate) fn decode<V: DeserializeOwned + 'static>(&self, meta: &[u8], bytes: &[u8]) -> Result<V, Rejection> {
        let [KIND, letter, rest @ ..] = meta else { return Err(Rejection::Type) };
        let (schema, name) = match letter.is_ascii_uppercase() {
            false => (0, rest),
            true => match rest.split_first_chunk() {
                Some((schema, name)) => (u32::from_be_bytes(*schema), name),
                None => return Err(Rejection::Type),
            },
        };
        let read = match (letter.to_ascii_lowercase(), &self.codec) {
            _ if schema != self.schema => return Err(Rejection::Schema),
            (b'j', _) if name.is_empty() => Json.decode(bytes),
            #[cfg(feature = "postcard")]
            (b'p', _) if name.is_empty() => Postcard.decode(bytes),
            (b'c', Shipped::Other(codec)) if name == cut(codec.name()) => erased::decode(&**codec, bytes),
            _ => return Err(Rejection::Codec),
        };
        read.map_err(|_| Rejection::Type)
    }
}

fn cut(name: &str) -> &[u8] {
    &name.as_bytes()[..name.len().min(LONGEST_NAME)]
}
