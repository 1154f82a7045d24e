//! Which responses this cache may send in a content coding of its own (RFC 9110, sections 7.7, 8.4 and 12.5.3).

use std::str::FromStr;

use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, VARY},
};

use super::{
    cache_control::CacheControl,
    coded_tag,
    list::{has, has_any, members},
    storable::forbids_length,
};
use crate::{
    coding::{Coding, Encoder},
    error::{ConfigError, ConfigErrorKind},
};

/// Which responses this cache encodes itself, and how: for [`CacheLayer::encode`](crate::CacheLayer::encode).
///
/// ```
/// # #[cfg(feature = "encode")]
/// # fn example() -> Result<(), cache_layer::ConfigError> {
/// use cache_layer::{Cache, CacheLayer, Coding, Encode, store::MemoryStore};
///
/// let encode = Encode::new([Coding::Zstd, Coding::Brotli, Coding::Gzip])
///     .types(Encode::TYPES.iter().copied().chain(["application/vnd.shop.catalogue"]))?
///     .level(Coding::Brotli, 9)?
///     .at_least(1024)
///     .at_once(2);
/// let layer = CacheLayer::new(Cache::new(MemoryStore::new(64 * 1024 * 1024))).encode(encode);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it does nothing until a layer has it"]
pub struct Encode {
    encoders: Vec<Encoder>,
    types: Vec<String>,
    at_least: u64,
    at_once: Option<usize>,
    in_store: bool,
}

/// Fields about the bytes of one representation: they would be wrong for any other representation.
static OF_THE_BYTES: [HeaderName; 6] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("signature"),
    HeaderName::from_static("signature-input"),
];

impl Encode {
    /// Types of content that are text, or shrink as text does: `*` stands for any name, and `*+json` for all names with that
    /// ending.
    pub const TYPES: &'static [&'static str] = &[
        "text/*",
        "application/*+json",
        "application/*+xml",
        "application/graphql",
        "application/javascript",
        "application/json",
        "application/json-seq",
        "application/jsonl",
        "application/ndjson",
        "application/rtf",
        "application/sql",
        "application/toml",
        "application/wasm",
        "application/x-javascript",
        "application/x-ndjson",
        "application/xml",
        "application/yaml",
        "font/otf",
        "font/ttf",
        "image/bmp",
        "image/svg+xml",
        "image/vnd.microsoft.icon",
        "image/x-icon",
        "model/gltf+json",
    ];

    /// Encodes in these codings. Of the codings that a client accepts with the same weight, the first one here is sent: name the
    /// coding with the shortest results first.
    pub fn new(codings: impl IntoIterator<Item = Coding>) -> Self {
        let mut encoders = Vec::new();
        for encoder in codings.into_iter().map(Encoder::usual) {
            if !encoders.contains(&encoder) {
                encoders.push(encoder);
            }
        }
        let types = Self::TYPES.iter().map(|&name| name.to_owned()).collect();
        Self { encoders, types, at_least: 256, at_once: None, in_store: false }
    }

    /// How much work to put into one of these codings: `zstd` 1 to 19 (3 unless set), `br` 1 to 11 (5), `gzip` 1 to 9 (6). The
    /// highest levels take many times as long as the defaults, which were chosen for content that changes; no request waits for
    /// an encoder.
    ///
    /// Another level makes other bytes, so the entity tag differs as well: `"v-cl~br"` at the default, `"v-cl~br9"` at 9. So
    /// instances may have different levels, as happens during a roll-out: an instance encodes again what another instance
    /// encoded at another level.
    ///
    /// # Errors
    ///
    /// If the coding has no such level, or is not one of the codings that are set.
    pub fn level(mut self, coding: Coding, level: u8) -> Result<Self, ConfigError> {
        let encoder = Encoder::at(coding, level)?;
        let Some(known) = self.encoders.iter_mut().find(|known| known.coding() == coding) else {
            let why = format!("level {level} of {coding}: {coding} must be one of the codings that are set");
            return Err(ConfigError::new(ConfigErrorKind::Conflict, why));
        };
        *known = encoder;
        Ok(self)
    }

    /// The types of content to encode, by `Content-Type`; [`TYPES`](Self::TYPES) unless set. Each is `NAME/NAME`, with at most
    /// one `*`, in the second part.
    ///
    /// # Errors
    ///
    /// If one of them is not `NAME/NAME`, or has a `*` elsewhere, or more than one `*`.
    pub fn types<N: AsRef<str>>(mut self, types: impl IntoIterator<Item = N>) -> Result<Self, ConfigError> {
        let media_type = |name: N| media_type(name.as_ref());
        self.types = types.into_iter().map(media_type).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// The shortest content to encode, in bytes; 256 unless set. Content that does not shrink by a tenth is always sent as it is.
    pub fn at_least(mut self, bytes: u64) -> Self {
        self.at_least = bytes;
        self
    }

    /// The most responses that are encoded at one time, in this process, over all services made with the layer or its clones; half the
    /// number of processors unless set, and at least one. Beyond that, content is sent as it is, and encoded for a later
    /// request. The limit does not apply to `zstd` up to its default level when an entry is written to Redis: large entries are
    /// compressed as much there anyway.
    pub fn at_once(mut self, most: usize) -> Self {
        self.at_once = Some(most.max(1));
        self
    }

    /// Whether a store outside of this process keeps all of these codings; unless set, it keeps the content once, in `zstd` if
    /// that is one of the codings.
    ///
    /// A client that accepts `zstd` gets that frame as Redis returns it. For other clients the content is decompressed or
    /// encoded in another coding; the result is kept in the first tier. Without a first tier, these clients get the content
    /// without a coding, unless this is set, or `zstd` is not one of the codings: nothing would ever be coded then, so that all of
    /// them are kept. With it, the process that loads makes all codings before it writes the entry, and
    /// each entry takes correspondingly more memory in Redis. If no encoder is free then, the entry is written without the
    /// other codings, until it is loaded again. This also holds for `zstd` at a [level](Self::level) above its default.
    pub fn in_store(mut self, all: bool) -> Self {
        self.in_store = all;
        self
    }

    pub(crate) fn encoders(&self) -> &[Encoder] {
        &self.encoders
    }

    /// The encoders whose results are written to a store outside of this process. `keeps_additions`: this process keeps what it
    /// encodes afterwards.
    pub(crate) fn stored_encoders(&self, keeps_additions: bool) -> impl Iterator<Item = Encoder> + '_ {
        let has_zstd = || self.encoders.iter().any(|encoder| encoder.coding().is_zstd());
        let all = self.in_store || !(keeps_additions || has_zstd());
        self.encoders.iter().copied().filter(move |encoder| all || encoder.coding().is_zstd())
    }

    pub(crate) fn most_at_once(&self) -> Option<usize> {
        self.at_once
    }

    /// Whether content of this length is worth encoding.
    pub(crate) fn is_long_enough(&self, length: u64) -> bool {
        length >= self.at_least
    }

    /// Whether a response that came without a coding may be sent in one: `length` is the least length of its content, and 0 if
    /// that is not known.
    pub(crate) fn may_encode(&self, status: StatusCode, headers: &HeaderMap, length: u64) -> bool {
        let is_of_type = || headers.get(CONTENT_TYPE).is_some_and(|value| self.has_type(value.as_bytes()));
        let has_content =
            !forbids_length(status) && !matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED);
        let chooses = |name: &[u8]| name == b"*" || name.eq_ignore_ascii_case(ACCEPT_ENCODING.as_str().as_bytes());
        !self.encoders.is_empty()
            && has_content
            && (length == 0 || self.is_long_enough(length))
            && is_of_type()
            && !has(headers, &CONTENT_ENCODING)
            && !has(headers, &CONTENT_RANGE)
            && !has_any(headers, &OF_THE_BYTES)
            // An application that negotiates itself continues to do so.
            && !members(headers, &VARY).any(chooses)
            && coded_tag::can_be_coded(headers)
            && !forbids_transformation(headers)
    }

    fn has_type(&self, value: &[u8]) -> bool {
        let end = value.iter().position(|&byte| byte == b';').unwrap_or(value.len());
        let media_type = value[..end].trim_ascii();
        self.types.iter().any(|wanted| matches_type(wanted.as_bytes(), media_type))
    }
}

impl<const N: usize> From<[Coding; N]> for Encode {
    fn from(codings: [Coding; N]) -> Self {
        Self::new(codings)
    }
}

impl From<Vec<Coding>> for Encode {
    fn from(codings: Vec<Coding>) -> Self {
        Self::new(codings)
    }
}

impl From<&[Coding]> for Encode {
    fn from(codings: &[Coding]) -> Self {
        Self::new(codings.iter().copied())
    }
}

/// Parses the codings, the preferred one first, each with a [level](Encode::level) if wanted.
///
/// ```
/// # #[cfg(feature = "encode")] {
/// use cache_layer::{Coding, Encode};
///
/// let same = Encode::new([Coding::Zstd, Coding::Brotli, Coding::Gzip]).level(Coding::Brotli, 9).unwrap();
/// assert_eq!("zstd, br:9, gzip".parse(), Ok(same));
/// assert_eq!("br:12".parse::<Encode>().unwrap_err().to_string(), "level 12 of br: must be from 1 to 11");
/// # }
/// ```
impl FromStr for Encode {
    type Err = ConfigError;

    /// # Errors
    ///
    /// If a coding is none that this library was built with, is named twice, or has no such level.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut encode = Self::new([]);
        for encoder in text.split(',').map(str::parse::<Encoder>) {
            let encoder = encoder?;
            let coding = encoder.coding();
            if encode.encoders.iter().any(|known| known.coding() == coding) {
                return Err(ConfigError::new(ConfigErrorKind::Conflict, format!("coding {coding}: is named twice")));
            }
            encode.encoders.push(encoder);
        }
        Ok(encode)
    }
}

/// Whether a message says that nobody on its way may change its content (RFC 9111, sections 5.2.1.6 and 5.2.2.6).
pub(crate) fn forbids_transformation(headers: &HeaderMap) -> bool {
    has(headers, &CACHE_CONTROL) && CacheControl::from_headers(headers).no_transform
}

fn media_type(name: &str) -> Result<String, ConfigError> {
    let is_name = |part: &str, also: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || also.as_bytes().contains(&byte))
    };
    let is_type = name.split_once('/').is_some_and(|(first, second)| {
        is_name(first, "!#$&-^_.+") && is_name(second, "!#$&-^_.+*") && second.matches('*').count() <= 1
    });
    if is_type {
        return Ok(name.to_ascii_lowercase());
    }
    let why = format!("type {name:?}: must be one such as text/html, text/* or application/*+json");
    Err(ConfigError::new(ConfigErrorKind::Syntax, why))
}

fn matches_type(wanted: &[u8], media_type: &[u8]) -> bool {
    let Some(star) = wanted.iter().position(|&byte| byte == b'*') else {
        return media_type.eq_ignore_ascii_case(wanted);
    };
    let (before, after) = (&wanted[..star], &wanted[star + 1..]);
    let Some((head, rest)) = media_type.split_at_checked(before.len()) else { return false };
    let Some(from) = rest.len().checked_sub(after.len()).filter(|from| *from > 0) else { return false };
    head.eq_ignore_ascii_case(before) && rest[from..].eq_ignore_ascii_case(after)
}

#[cfg(all(test, feature = "encode"))]
mod tests {
    use super::*;
    use crate::semantics::test_fields::{Fields, headers};

    fn encode() -> Encode {
        Encode::new([Coding::Zstd, Coding::Gzip])
    }

    #[test]
    fn what_is_text_shrinks() {
        for (media_type, expected) in [
            ("text/html; charset=utf-8", true),
            ("Text/CSS", true),
            ("text/", false),
            ("application/json", true),
            ("application/problem+json;charset=utf-8", true),
            ("application/+json", false),
            ("application/ld+JSON", true),
            ("application/atom+xml", true),
            ("application/jsonx", false),
            ("image/svg+xml", true),
            ("image/png", false),
            ("application/zip", false),
            ("application/octet-stream", false),
            ("", false),
            ("text", false),
        ] {
            let response = headers(&[("content-type", media_type)]);
            assert_eq!(encode().may_encode(StatusCode::OK, &response, 0), expected, "{media_type}");
        }
        assert!(!encode().may_encode(StatusCode::OK, &headers(&[]), 0), "nobody knows what it is");
        let own = encode().types(["application/x-own", "model/*"]).unwrap();
        for (media_type, expected) in [("application/X-own", true), ("model/stl", true), ("text/plain", false)] {
            assert_eq!(own.may_encode(StatusCode::OK, &headers(&[("content-type", media_type)]), 0), expected);
        }
        for wrong in ["text", "*/*", "text/*a*", "text/", "/x", "text/html; charset=utf-8", ""] {
            let error = encode().types([wrong]).unwrap_err();
            assert!(error.to_string().contains(&format!("{wrong:?}")), "{error}");
        }
    }

    #[test]
    fn what_others_have_a_say_in_is_left_alone() {
        let kept: [Fields<'_>; 6] = [
            &[("vary", "origin")],
            &[("cache-control", "max-age=60")],
            &[("etag", "\"a\"")],
            &[("etag", "W/\"a\"")],
            &[("unencoded-digest", "sha-256=:AA==:")],
            &[("accept-ranges", "bytes")],
        ];
        let left: [Fields<'_>; 14] = [
            &[("content-encoding", "gzip")],
            &[("content-encoding", "identity")],
            &[("content-range", "bytes 0-4/10")],
            &[("content-digest", "sha-256=:AA==:")],
            &[("repr-digest", "sha-256=:AA==:")],
            &[("digest", "sha-256=AA==")],
            &[("content-md5", "AA==")],
            &[("signature", "sig=:AA==:")],
            &[("signature-input", "sig=()")],
            &[("vary", "Origin, Accept-Encoding")],
            &[("vary", "origin"), ("vary", "accept-encoding")],
            &[("cache-control", "max-age=60, No-Transform")],
            &[("etag", "a")],
            &[("etag", "\"a\""), ("etag", "\"b\"")],
        ];
        let of = |fields: Fields<'_>| {
            let mut response = headers(&[("content-type", "text/plain")]);
            response.extend(headers(fields));
            encode().may_encode(StatusCode::OK, &response, 0)
        };
        for fields in kept {
            assert!(of(fields), "{fields:?}");
        }
        for fields in left {
            assert!(!of(fields), "{fields:?}");
        }
    }

    #[test]
    fn a_level_is_one_of_a_coding_that_is_set() {
        let set = encode().level(Coding::Gzip, 9).unwrap().level(Coding::Zstd, 3).unwrap();
        let names: Vec<_> = set.encoders().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["zstd", "gzip9"]);
        for (coding, level, kind) in [
            (Coding::Gzip, 10, ConfigErrorKind::Range),
            (Coding::Gzip, 0, ConfigErrorKind::Range),
            (Coding::Brotli, 9, ConfigErrorKind::Conflict),
        ] {
            assert_eq!(encode().level(coding, level).unwrap_err().kind(), kind, "{coding} {level}");
        }
    }

    #[test]
    fn codings_are_listed_with_their_levels() {
        let names = |text: &str| {
            text.parse::<Encode>().map(|encode| encode.encoders().iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(names("gzip"), Ok(vec!["gzip".to_owned()]));
        assert_eq!(names("gzip:9, zstd"), Ok(vec!["gzip9".to_owned(), "zstd".to_owned()]));
        assert_eq!("zstd,gzip".parse::<Encode>().unwrap(), encode());
        for (text, kind, named) in [
            ("gzip,zstd,gzip:9", ConfigErrorKind::Conflict, "gzip"),
            ("", ConfigErrorKind::Syntax, "zstd, br, gzip"),
            ("gzip,", ConfigErrorKind::Syntax, "zstd, br, gzip"),
            ("gzip,deflate", ConfigErrorKind::Syntax, "deflate"),
            ("gzip,br:12", ConfigErrorKind::Range, "12"),
            ("off", ConfigErrorKind::Syntax, "off"),
        ] {
            let error = names(text).unwrap_err();
            assert!(error.kind() == kind && error.to_string().contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn what_has_no_content_or_little_is_left_alone() {
        let text = headers(&[("content-type", "text/plain")]);
        for (status, expected) in
            [(200, true), (203, true), (404, true), (410, true), (204, false), (206, false), (304, false)]
        {
            assert_eq!(encode().may_encode(StatusCode::from_u16(status).unwrap(), &text, 0), expected, "{status}");
        }
        for (length, expected) in [(0, true), (1, false), (255, false), (256, true)] {
            assert_eq!(encode().may_encode(StatusCode::OK, &text, length), expected, "{length}");
        }
        assert!(!Encode::new([]).may_encode(StatusCode::OK, &text, 0));
        assert_eq!(Encode::from([Coding::Gzip, Coding::Gzip]).encoders(), [Encoder::usual(Coding::Gzip)]);
    }
}
