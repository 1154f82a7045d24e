//! The trait of a codec.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

/// Turns values into bytes and back.
///
/// ```
/// use cache_layer::{Cache, codec::{Codec, CodecError}, store::MemoryStore};
/// use serde::{Serialize, de::DeserializeOwned};
///
/// /// Readable in Redis.
/// #[derive(Debug)]
/// struct PrettyJson;
///
/// impl Codec for PrettyJson {
///     fn name(&self) -> &str {
///         "pretty-json"
///     }
///
///     fn encode<V: Serialize + ?Sized>(&self, value: &V) -> Result<Vec<u8>, CodecError> {
///         Ok(serde_json::to_vec_pretty(value)?)
///     }
///
///     fn decode<V: DeserializeOwned>(&self, bytes: &[u8]) -> Result<V, CodecError> {
///         Ok(serde_json::from_slice(bytes)?)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), cache_layer::SetError> {
/// let cache = Cache::builder(MemoryStore::new(64 * 1024 * 1024)).codec(PrettyJson).build();
/// cache.set("price", &[7, 8]).await?;
/// assert_eq!(cache.get::<Vec<u32>>("price").await, Some(vec![7, 8]));
/// # Ok(())
/// # }
/// ```
///
/// A loaded value is read back once before it is stored: if that fails, it is not stored, for the reason
/// [`unserializable`](crate::telemetry::NoCacheReason::Unserializable).
pub trait Codec: fmt::Debug + Send + Sync + 'static {
    /// The name of the codec in each entry, cut off after 64 bytes. A value that was written by a codec with
    /// another name is a miss, for the reason [`codec`](crate::telemetry::Rejection::Codec), unless that is [`Json`](super::Json)
    /// or [`Postcard`](https://docs.rs/cache-layer/latest/cache_layer/codec/struct.Postcard.html), which every cache can read. A
    /// codec that changes its format needs a new name.
    fn name(&self) -> &str;

    /// The value as bytes.
    ///
    /// # Errors
    ///
    /// If the value can't be written so that it is read back unchanged.
    fn encode<V: Serialize + ?Sized>(&self, value: &V) -> Result<Vec<u8>, CodecError>;

    /// The value, if all of the bytes are a value of this type.
    ///
    /// # Errors
    ///
    /// If they are not.
    fn decode<V: DeserializeOwned>(&self, bytes: &[u8]) -> Result<V, CodecError>;
}

/// Why a value can't be written, or read.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;
