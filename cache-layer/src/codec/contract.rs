//! What a codec is.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

/// Turns values into bytes and back.
///
/// ```
/// use cache_layer::{Cache, codec::{Codec, CodecError}, store::MemoryStore};
/// use serde::{Serialize, de::DeserializeOwned};
///
/// /// For those who look into Redis often.
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
/// What a load brings is read back once before it is stored: a value that doesn't come back is not kept, for the reason
/// [`unserializable`](crate::telemetry::NoCacheReason::Unserializable).
pub trait Codec: fmt::Debug + Send + Sync + 'static {
    /// What stands for it in each entry, 64 bytes at most; what is beyond is cut off. A value that was written by a codec of
    /// another name is a miss, for the reason [`codec`](crate::telemetry::Rejection::Codec), unless that is [`Json`](super::Json) or
    /// [`Postcard`](super::Postcard), which every cache reads. A codec that writes otherwise than before needs a new name.
    fn name(&self) -> &str;

    /// The value as bytes.
    ///
    /// # Errors
    ///
    /// If it can't be written so that it is read back as it is.
    fn encode<V: Serialize + ?Sized>(&self, value: &V) -> Result<Vec<u8>, CodecError>;

    /// The value, if the bytes are one of this type's, to the last byte.
    ///
    /// # Errors
    ///
    /// If they are not.
    fn decode<V: DeserializeOwned>(&self, bytes: &[u8]) -> Result<V, CodecError>;
}

/// Why a value can't be written, or read.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;
