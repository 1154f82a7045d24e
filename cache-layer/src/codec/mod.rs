//! How values are written: a [`Codec`], which is [`Json`] unless [set](crate::CacheBuilder::codec).
//
// - `contract`: the trait of a codec
// - `shipped`: the codecs that come with the library; `json`: JSON that refuses values it would not read back
// - `chosen`: the codec of a cache, and its letter in an entry; `erased`: codecs as trait objects

mod chosen;
mod contract;
mod erased;
mod json;
mod shipped;

pub(crate) use self::chosen::Chosen;
#[cfg(feature = "postcard")]
#[cfg_attr(docsrs, doc(cfg(feature = "postcard")))]
pub use self::shipped::Postcard;
pub use self::{
    contract::{Codec, CodecError},
    shipped::Json,
};
