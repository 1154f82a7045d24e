//! Content codings, which make content shorter (RFC 9110, section 8.4.1).

#[cfg(feature = "encode-br")]
mod brotli;
#[cfg(feature = "encode-gzip")]
mod gzip;
#[cfg(any(feature = "zstd", feature = "encode-zstd"))]
pub(crate) mod zstd;

use std::{fmt, ops::RangeInclusive, str::FromStr};

use bytes::Bytes;

use crate::error::{ConfigError, ConfigErrorKind};

/// A content coding that stored responses can be kept in, for [`CacheLayer::encode`](crate::CacheLayer::encode). Each needs
/// its feature: `encode-zstd`, `encode-br`, `encode-gzip`, or `encode` for all three.
///
/// ```
/// # #[cfg(feature = "encode-br")] {
/// use cache_layer::Coding;
///
/// assert_eq!("br".parse(), Ok(Coding::Brotli));
/// assert_eq!(Coding::Brotli.to_string(), "br");
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Coding {
    /// `zstd` (RFC 8878), at level 3 of 1 to 19: within the window that clients must support (RFC 9659).
    #[cfg(feature = "encode-zstd")]
    #[cfg_attr(docsrs, doc(cfg(feature = "encode-zstd")))]
    Zstd,
    /// `br` (RFC 7932), at quality 5 of 1 to 11.
    #[cfg(feature = "encode-br")]
    #[cfg_attr(docsrs, doc(cfg(feature = "encode-br")))]
    Brotli,
    /// `gzip` (RFC 1952), at level 6 of 1 to 9.
    #[cfg(feature = "encode-gzip")]
    #[cfg_attr(docsrs, doc(cfg(feature = "encode-gzip")))]
    Gzip,
}

impl Coding {
    /// All codings that this library was built with: the closed set of values of a metric's label.
    pub const ALL: &'static [Self] = &[
        #[cfg(feature = "encode-zstd")]
        Self::Zstd,
        #[cfg(feature = "encode-br")]
        Self::Brotli,
        #[cfg(feature = "encode-gzip")]
        Self::Gzip,
    ];

    /// The number of codings with all features.
    pub(crate) const COUNT: usize = 3;

    /// The name, as in `Accept-Encoding` and `Content-Encoding`, and for a metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            #[cfg(feature = "encode-zstd")]
            Self::Zstd => "zstd",
            #[cfg(feature = "encode-br")]
            Self::Brotli => "br",
            #[cfg(feature = "encode-gzip")]
            Self::Gzip => "gzip",
        }
    }

    /// A number below [`COUNT`](Self::COUNT), the same in every build: entries in Redis contain it.
    pub(crate) const fn number(self) -> usize {
        match self {
            #[cfg(feature = "encode-zstd")]
            Self::Zstd => 0,
            #[cfg(feature = "encode-br")]
            Self::Brotli => 1,
            #[cfg(feature = "encode-gzip")]
            Self::Gzip => 2,
        }
    }

    /// The coding with this number, if this library was built with it.
    #[cfg(feature = "redis")]
    pub(crate) fn of_number(number: usize) -> Option<Self> {
        Self::ALL.iter().copied().find(|coding| coding.number() == number)
    }

    /// Whether this is zstd, in which large entries are written to Redis.
    pub(crate) const fn is_zstd(self) -> bool {
        match self {
            #[cfg(feature = "encode-zstd")]
            Self::Zstd => true,
            // Unreachable with that feature alone.
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The levels of the coding, and the default one.
    const fn levels(self) -> (RangeInclusive<u8>, u8) {
        match self {
            #[cfg(feature = "encode-zstd")]
            // Beyond 19, a frame may need a larger window than clients support.
            Self::Zstd => (1..=19, zstd::LEVEL as u8),
            #[cfg(feature = "encode-br")]
            Self::Brotli => (1..=11, brotli::QUALITY as u8),
            #[cfg(feature = "encode-gzip")]
            Self::Gzip => (1..=9, gzip::LEVEL as u8),
        }
    }
}

/// A coding at a level: it makes the same bytes of the same content. Another level makes another representation, with
/// another entity tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Encoder {
    coding: Coding,
    /// 0 stands for the default level.
    level: u8,
}

impl Encoder {
    /// The coding at its default level.
    pub(crate) const fn usual(coding: Coding) -> Self {
        Self { coding, level: 0 }
    }

    /// The coding at this level, if it has such a level.
    pub(crate) fn at(coding: Coding, level: u8) -> Result<Self, ConfigError> {
        let (levels, usual) = coding.levels();
        if !levels.contains(&level) {
            return Err(Self::no_level(coding, level, ConfigErrorKind::Range));
        }
        Ok(Self { coding, level: if level == usual { 0 } else { level } })
    }

    fn no_level(coding: Coding, level: impl fmt::Display, kind: ConfigErrorKind) -> ConfigError {
        let (levels, _) = coding.levels();
        let why = format!("level {level} of {coding}: must be from {} to {}", levels.start(), levels.end());
        ConfigError::new(kind, why)
    }

    pub(crate) const fn coding(self) -> Coding {
        self.coding
    }

    /// 0 for the default level.
    pub(crate) const fn level(self) -> u8 {
        self.level
    }

    /// Whether it takes longer than the coding usually does.
    pub(crate) fn is_above_default(self) -> bool {
        // 0 is the default level.
        self.level > self.coding.levels().1
    }

    /// The content in this coding; `None` unless it is shorter by a tenth.
    pub(crate) fn encode(self, content: &[u8]) -> Option<Bytes> {
        let coded = self.compress(content).filter(|coded| is_worth_it(coded.len(), content.len()));
        // Drops the spare capacity.
        coded.map(|coded| coded.into_boxed_slice().into())
    }

    fn compress(self, content: &[u8]) -> Option<Vec<u8>> {
        let level = if self.level == 0 { self.coding.levels().1 } else { self.level };
        match self.coding {
            #[cfg(feature = "encode-zstd")]
            Coding::Zstd => zstd::compress(content, level.into()),
            #[cfg(feature = "encode-br")]
            Coding::Brotli => brotli::compress(content, level.into()),
            #[cfg(feature = "encode-gzip")]
            Coding::Gzip => gzip::compress(content, level.into()),
        }
    }
}

impl From<Coding> for Encoder {
    fn from(coding: Coding) -> Self {
        Self::usual(coding)
    }
}

/// As in entity tags: `br`, and `br9` for a level other than the default.
impl fmt::Display for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.coding.as_str())?;
        if self.level == 0 { Ok(()) } else { self.level.fmt(f) }
    }
}

/// Parses the name of a coding, and a level after a colon: `br:9`.
impl FromStr for Encoder {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let Some((name, level)) = text.split_once(':') else {
            return text.trim().parse().map(Self::usual);
        };
        let (coding, level) = (name.trim().parse::<Coding>()?, level.trim());
        let number = level.parse::<u8>().map_err(|_| Self::no_level(coding, level, ConfigErrorKind::Syntax))?;
        Self::at(coding, number)
    }
}

/// Whether `coded` bytes are sufficiently fewer than `whole`.
fn is_worth_it(coded: usize, whole: usize) -> bool {
    coded <= whole - whole / 10
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Parses the name of a coding.
impl FromStr for Coding {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::ALL.iter().copied().find(|coding| coding.as_str() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|coding| coding.as_str()).collect();
            let allowed = match names[..] {
                [] => "this build has no codings; they are features, `encode-…`".to_owned(),
                _ => format!("must be one of {}", names.join(", ")),
            };
            let why = format!("coding {name:?}: {allowed}");
            ConfigError::new(ConfigErrorKind::Syntax, why)
        })
    }
}

#[cfg(test)]
impl Coding {
    /// The content in this coding, at its default level.
    pub(crate) fn encode(self, content: &[u8]) -> Option<Bytes> {
        Encoder::usual(self).encode(content)
    }
}

#[cfg(all(test, feature = "encode"))]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;
    use crate::hex;

    fn decoded(coding: Coding, coded: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        match coding {
            Coding::Zstd => content = ::zstd::stream::decode_all(coded).unwrap(),
            Coding::Brotli => drop(::brotli::Decompressor::new(coded, 4096).read_to_end(&mut content).unwrap()),
            Coding::Gzip => drop(flate2::read::GzDecoder::new(coded).read_to_end(&mut content).unwrap()),
        }
        content
    }

    fn page() -> Vec<u8> {
        let product = |id: u32| format!(r#"{{"id":{id},"name":"Product {id}","price":"{}.95"}}"#, id * 37 % 500);
        (0..60).map(product).collect::<Vec<_>>().join(",").into()
    }

    #[test]
    fn names_are_those_of_the_registry_and_numbers_are_for_ever() {
        let named: Vec<_> = Coding::ALL.iter().map(|coding| (coding.number(), coding.as_str())).collect();
        assert_eq!(named, [(0, "zstd"), (1, "br"), (2, "gzip")]);
        for coding in Coding::ALL {
            assert_eq!(coding.as_str().parse(), Ok(*coding));
        }
        assert!("deflate".parse::<Coding>().unwrap_err().to_string().contains("zstd, br, gzip"));
    }

    #[test]
    fn what_does_not_shrink_by_a_tenth_is_left_as_it_is() {
        let noise: Vec<u8> = (0..4_000).map(|_| fastrand::u8(..)).collect();
        for coding in Coding::ALL {
            assert_eq!(coding.encode(&noise), None, "{coding}");
            assert_eq!(coding.encode(b"short"), None, "{coding}");
            assert_eq!(coding.encode(b""), None, "{coding}");
            let page = page();
            assert!(coding.encode(&page).unwrap().len() < page.len() / 3, "{coding}");
        }
        assert!(is_worth_it(90, 100) && !is_worth_it(91, 100));
    }

    /// A strong entity tag identifies bytes: all processes of a fleet, also of different versions, have to make the same bytes.
    /// A change of a level, or an update of an encoder that changes its output, needs a new suffix in [`coded_tag`].
    ///
    /// [`coded_tag`]: crate::semantics::coded_tag
    #[test]
    fn encoders_write_what_they_have_always_written() {
        let digest = |coding: &Coding| {
            let digest = xxhash_rust::xxh3::xxh3_64(&coding.encode(&page()).unwrap());
            String::from_utf8(hex::of_u64(digest).to_vec()).unwrap()
        };
        let digests: Vec<_> = Coding::ALL.iter().map(digest).collect();
        assert_eq!(digests, ["3a603703c85be16a", "d0ca62c625c25493", "d2e2a93fa6d44174"]);
    }

    #[test]
    fn a_level_makes_other_bytes_and_has_another_name() {
        for (coding, levels, name) in
            [(Coding::Zstd, 1..=19, "zstd19"), (Coding::Brotli, 1..=11, "br11"), (Coding::Gzip, 1..=9, "gzip9")]
        {
            let highest = Encoder::at(coding, *levels.end()).unwrap();
            let (usual, coded) = (coding.encode(&page()).unwrap(), highest.encode(&page()).unwrap());
            assert_ne!(coded, usual, "{coding}");
            assert_eq!((decoded(coding, &coded), &*highest.to_string()), (page(), name));
            for wrong in [0, levels.end() + 1, u8::MAX] {
                let error = Encoder::at(coding, wrong).unwrap_err();
                assert_eq!(error.kind(), ConfigErrorKind::Range, "{error}");
            }
            let (_, usual) = coding.levels();
            assert_eq!(Encoder::at(coding, usual).unwrap(), Encoder::usual(coding), "it is one, however it was set");
            assert_eq!(Encoder::usual(coding).to_string(), coding.as_str());
        }
    }

    #[test]
    fn a_level_is_above_the_default_or_not() {
        let above = |coding, level| Encoder::at(coding, level).unwrap().is_above_default();
        assert!(Coding::ALL.iter().all(|coding| !Encoder::usual(*coding).is_above_default()));
        assert!(!above(Coding::Zstd, 1) && !above(Coding::Zstd, 3) && !above(Coding::Gzip, 1));
        assert!(above(Coding::Zstd, 4) && above(Coding::Zstd, 19) && above(Coding::Gzip, 9));
    }

    #[test]
    fn a_level_is_written_after_its_coding() {
        for (text, expected) in [("br", "br"), ("br:9", "br9"), (" gzip : 9 ", "gzip9"), ("zstd:3", "zstd")] {
            assert_eq!(text.parse::<Encoder>().unwrap().to_string(), expected, "{text}");
        }
        for (text, kind) in [
            ("br:12", ConfigErrorKind::Range),
            ("br:0", ConfigErrorKind::Range),
            ("br:", ConfigErrorKind::Syntax),
            ("gzip:-1", ConfigErrorKind::Syntax),
            ("br:9:1", ConfigErrorKind::Syntax),
            ("br:1000", ConfigErrorKind::Syntax),
            ("deflate:1", ConfigErrorKind::Syntax),
            ("", ConfigErrorKind::Syntax),
        ] {
            assert_eq!(text.parse::<Encoder>().unwrap_err().kind(), kind, "{text}");
        }
    }

    /// RFC 9659: a client need not support a window of more than 8 MiB.
    #[test]
    fn a_frame_needs_no_larger_window_than_clients_have() {
        let content: Vec<u8> = (0..20_000_000_u32).map(|at| (at / 7 % 251) as u8).collect();
        for encoder in [Encoder::usual(Coding::Zstd), Encoder::at(Coding::Zstd, 19).unwrap()] {
            let frame = encoder.encode(&content).unwrap();
            let descriptor = frame[4];
            assert_eq!(descriptor & 0x20, 0, "it has a window of its own");
            assert!(10 + (frame[5] >> 3) <= 23, "{}", frame[5]);
        }
    }

    proptest! {
        #[test]
        fn what_was_coded_is_what_is_decoded(
            words in prop::collection::vec("[a-z]{1,8}", 0..600),
            noise in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let content = [words.join(" ").into_bytes(), noise].concat();
            for coding in Coding::ALL {
                if let Some(coded) = coding.encode(&content) {
                    prop_assert!(coded.len() * 10 <= content.len() * 9 + 10);
                    prop_assert_eq!(&decoded(*coding, &coded), &content, "{}", coding);
                }
            }
        }
    }
}
