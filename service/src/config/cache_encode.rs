//! The content codings in which responses are stored.

use std::str::FromStr;

use cache_layer::Encode;

/// Content codings, the preferred one first, for clients without a preference, each with a level if it is not the default; `None`
/// if the cache encodes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheEncode(pub Option<Encode>);

impl FromStr for CacheEncode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::default());
        }
        let allowed = "must be off, or some of zstd, br and gzip, with a level if wanted, such as zstd,br:9,gzip";
        text.parse()
            .map(|encode| Self(Some(encode)))
            .map_err(|error: cache_layer::ConfigError| format!("{allowed} ({error})"))
    }
}
