//! Content that is compressed already, and would only cost time to compress again.

use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

use super::list::has;

/// Families of types that are compressed by nature, with few exceptions.
const FAMILIES: &[&str] = &["image", "audio", "video"];
/// Other types of content that are compressed by nature.
const COMPRESSED: &[&str] = &[
    "application/gzip",
    "application/java-archive",
    "application/pdf",
    "application/vnd.rar",
    "application/x-7z-compressed",
    "application/x-bzip2",
    "application/x-xz",
    "application/zip",
    "application/zstd",
    "font/woff",
    "font/woff2",
];
/// The exceptions: types of these families that are not compressed.
const TEXTUAL: &[&str] = &["image/bmp", "image/svg+xml"];

/// Whether a response with these fields has content that is compressed already.
pub(crate) fn is_compressed(headers: &HeaderMap) -> bool {
    let is_identity = |value: &[u8]| value.eq_ignore_ascii_case(b"identity");
    if has(headers, &CONTENT_ENCODING)
        && headers.get_all(CONTENT_ENCODING).iter().any(|value| !is_identity(value.as_bytes().trim_ascii()))
    {
        return true;
    }
    let Some(media_type) = headers.get(CONTENT_TYPE).map(|value| value.as_bytes()) else { return false };
    let end = media_type.iter().position(|&byte| byte == b';').unwrap_or(media_type.len());
    let media_type = media_type[..end].trim_ascii();
    let family = &media_type[..media_type.iter().position(|&byte| byte == b'/').unwrap_or(media_type.len())];
    let is_one_of = |types: &[&str]| types.iter().any(|one| media_type.eq_ignore_ascii_case(one.as_bytes()));
    let is_medium = FAMILIES.iter().any(|one| family.eq_ignore_ascii_case(one.as_bytes()));
    (is_medium && !is_one_of(TEXTUAL)) || is_one_of(COMPRESSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_and_encoded_content_are_packed_and_texts_are_not() {
        let is_compressed = |name, value: &str| is_compressed(&HeaderMap::from_iter([(name, value.parse().unwrap())]));
        for encoding in ["gzip", "br", "identity, zstd"] {
            assert!(is_compressed(CONTENT_ENCODING, encoding), "{encoding}");
        }
        for media_type in ["image/png", "Image/JPEG; q=1", "video/mp4", "application/zip"] {
            assert!(is_compressed(CONTENT_TYPE, media_type), "{media_type}");
        }
        assert!(!is_compressed(CONTENT_ENCODING, "Identity"));
        for media_type in ["application/json", "text/html; charset=utf-8", "image/svg+xml", "", "zip"] {
            assert!(!is_compressed(CONTENT_TYPE, media_type), "{media_type}");
        }
    }
}
