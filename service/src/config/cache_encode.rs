//! In which content codings responses are kept.

use std::str::FromStr;

use cache_layer::Coding;

/// Content codings, the one that is sent first where a client has no preference first; none, if the cache encodes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheEncode(pub Vec<Coding>);

impl FromStr for CacheEncode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::default());
        }
        let codings: Result<Vec<Coding>, _> = text.split(',').map(|name| name.trim().parse()).collect();
        codings.map(Self).map_err(|_| "must be off, or some of zstd, br and gzip, such as zstd,gzip".to_owned())
    }
}
