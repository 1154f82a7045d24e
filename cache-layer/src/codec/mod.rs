//! How values are written: a [`Codec`], which is [`Json`] unless [set](crate::CacheBuilder::codec).
//
// - `contract`: what a codec is
// - `shipped`: those that come with the library; `json`: what JSON would not bring back
// - `chosen`: that of a cache, and its mark in an entry; `erased`: one of any type

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
