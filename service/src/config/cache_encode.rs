//! The content codings in which responses are stored.

use std::str::FromStr;

use cache_layer::{Coding, Encode};

/// Content codings, the preferred one first, for clients without a preference, with the level of each, if it is not the default;
/// none, if the cache encodes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheEncode(pub Vec<(Coding, Option<u8>)>);

impl CacheEncode {
    /// The setting for the cache.
    pub(crate) fn encode(&self) -> Result<Encode, cache_layer::ConfigError> {
        let encode = Encode::new(self.0.iter().map(|(coding, _)| *coding));
        self.0.iter().try_fold(encode, |encode, (coding, level)| match level {
            Some(level) => encode.level(*coding, *level),
            None => Ok(encode),
        })
    }
}

impl FromStr for CacheEncode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::default());
        }
        let wrong =
            || "must be off, or some of zstd, br and gzip, with a level if wanted, such as zstd,br:9,gzip".to_owned();
        let one = |text: &str| {
            let (name, level) = text.split_once(':').map_or((text, None), |(name, level)| (name, Some(level)));
            let level = level.map(|level| level.trim().parse().map_err(|_| wrong())).transpose()?;
            Ok((name.trim().parse().map_err(|_| wrong())?, level))
        };
        let encode = Self(text.split(',').map(one).collect::<Result<_, String>>()?);
        // The cache checks the levels.
        let _ = encode.encode().map_err(|error| error.to_string())?;
        Ok(encode)
    }
}
