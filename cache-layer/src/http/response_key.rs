//! The parts of a response's key, as people may see them: what [`target`](super::target) has made a key of, without values that
//! may be private.

use crate::key::Key;

/// The parts of a stored response's [`Key`], for logs and operators' tools. The values of request fields, cookies and hints in a
/// key may be private; they are left out here, whereas the [`Display`](std::fmt::Display) of the key has them.
///
/// ```
/// use cache_layer::{Cache, CacheLayer, Key, ResponseKey, store::MemoryStore};
///
/// let layer = CacheLayer::new(Cache::new(MemoryStore::new(1 << 20))).key_cookies(["session"]);
/// let key = layer.key(&http::Uri::from_static("https://shop.example/basket?page=2")).unwrap();
/// let parts = ResponseKey::of(&key).unwrap();
/// assert_eq!((&*parts.origin, &*parts.path_and_query), ("http://shop.example", "/basket?page=2"));
/// assert_eq!((parts.cookies.as_slice(), parts.is_target()), (&["session".to_owned()][..], false));
/// assert_eq!(ResponseKey::of(&Key::from(("product", 42))), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseKey {
    /// The beginning of the layer's keys; empty unless [set](crate::CacheLayer::namespace).
    pub namespace: String,
    /// Scheme and host, in the layer's canonical form.
    pub origin: String,
    /// Path and query, without the parameters that make no difference.
    pub path_and_query: String,
    /// The number of request fields that are part of the key ([`key_headers`](crate::CacheLayer::key_headers)).
    pub fields: usize,
    /// The names of the cookies that are part of the key ([`key_cookies`](crate::CacheLayer::key_cookies)).
    pub cookies: Vec<String>,
    /// The number of parts that a layer outside has [added](crate::Hints::key_part).
    pub hinted: usize,
    /// The method of the request, if the content of the request is part of the key.
    pub content_of: Option<String>,
    /// Whether the key has parts of another kind, such as the owner's credentials in a private cache.
    pub has_others: bool,
}

impl ResponseKey {
    /// The parts of `key`; `None` if it is not the key of a response.
    #[must_use]
    pub fn of(key: &Key) -> Option<Self> {
        let mut parts = key.parts();
        let mut text = || parts.next().map(String::from_utf8_lossy);
        let (namespace, scheme, separator) = (text()?, text()?, text()?);
        let (authority, path_and_query) = (text()?, text()?);
        if separator != "://" || !matches!(&*scheme, "http" | "https") {
            return None;
        }
        let mut of = Self {
            namespace: namespace.into_owned(),
            origin: format!("{scheme}://{authority}"),
            path_and_query: path_and_query.into_owned(),
            ..Self::default()
        };
        while let Some(part) = parts.next() {
            of.has_others |= of.add(part, &mut parts).is_none();
        }
        Some(of)
    }

    /// Whether the key is that of the target alone, so that every request for it without content has this key.
    #[must_use]
    pub fn is_target(&self) -> bool {
        let Self { fields, cookies, hinted, content_of, has_others, .. } = self;
        *fields == 0 && cookies.is_empty() && *hinted == 0 && content_of.is_none() && !has_others
    }

    /// Adds the further part that begins with `first`, and takes the rest of it from `parts`; `None` for one of another kind.
    fn add<'a>(&mut self, first: &[u8], parts: &mut impl Iterator<Item = &'a [u8]>) -> Option<()> {
        if let Some(lines) = count(first) {
            self.fields += 1;
            return skip(lines, parts);
        }
        match (first.strip_prefix(b"#")?, first.last()?) {
            (b"", _) => {
                self.hinted += 1;
                skip(1, parts)
            }
            (named, b'=') => {
                self.cookies.push(String::from_utf8_lossy(&named[..named.len() - 1]).into_owned());
                skip(count(parts.next()?)?, parts)
            }
            (named, b':') if named != b"alias:" => {
                self.content_of = Some(String::from_utf8_lossy(&named[..named.len() - 1]).into_owned());
                skip(1, parts)
            }
            _ => None,
        }
    }
}

/// The number that a part is, if it is one: how many lines a field has, or how many values a cookie.
fn count(part: &[u8]) -> Option<usize> {
    let number = usize::from_be_bytes(part.try_into().ok()?);
    // The name of a cookie may be as long as a number; as a number, it is larger than any.
    u16::try_from(number).ok().map(usize::from)
}

fn skip<'a>(number: usize, parts: &mut impl Iterator<Item = &'a [u8]>) -> Option<()> {
    (0..number).try_for_each(|_| parts.next().map(|_| ()))
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use http::{HeaderName, Method, Request, Uri};

    use super::*;
    use crate::{
        engine::Cache,
        http::{CacheLayer, Hints, target::Target},
        store::MemoryStore,
    };

    fn layer() -> CacheLayer {
        let names = ["x-a", "x-b"].map(HeaderName::from_static);
        let layer = CacheLayer::new(Cache::new(MemoryStore::new(1 << 20)));
        // A name that is as long as the number behind it.
        layer.namespace("shop ").key_headers(names).key_cookies(["abcdef", "session"])
    }

    /// A request whose field and hint look like cookies, and like content.
    fn request() -> Request<()> {
        let request = Request::get("http://a/x?y=%20").header("x-a", "#opensesame=").header("x-a", "#QUERY:");
        let request = request.header("cookie", "session=opensesame; session=#; abcdef=opensesame");
        let mut request = request.body(()).unwrap();
        Hints::new().key_part("#opensesame=").key_part("two").add_to(request.extensions_mut());
        request
    }

    fn keys() -> [Key; 2] {
        let (layer, request) = (layer(), request());
        let target = Target::of_request(&layer.context.sites, &request).unwrap();
        let rules = layer.context.key_rules(request.headers()).hinted(request.extensions().get());
        [target.key(&rules), target.key_with_content(&rules, &Method::POST, &[7; 32])]
    }

    #[test]
    fn each_part_is_told_by_its_name_or_number_and_no_value_is() {
        let [plain, with_content] = keys().map(|key| ResponseKey::of(&key).unwrap());
        let expected = ResponseKey {
            namespace: "shop ".to_owned(),
            origin: "http://a".to_owned(),
            path_and_query: "/x?y=%20".to_owned(),
            fields: 2,
            cookies: vec!["abcdef".to_owned(), "session".to_owned()],
            hinted: 2,
            content_of: None,
            has_others: false,
        };
        assert_eq!(plain, expected);
        assert_eq!(with_content, ResponseKey { content_of: Some("POST".to_owned()), ..expected });
        assert!(!plain.is_target());
    }

    #[test]
    fn the_key_of_a_target_has_nothing_else_and_other_keys_are_no_responses() {
        let layer = CacheLayer::new(Cache::new(MemoryStore::new(1 << 20)));
        let key = layer.key(&Uri::from_static("http://a/x")).unwrap();
        assert!(ResponseKey::of(&key).unwrap().is_target());
        assert!(ResponseKey::of(&key.variant(b"de")).unwrap().is_target());
        for other in [Key::from("http://a/x"), Key::from(("product", 42)), Key::new(["", "ftp", "://", "a", "/"])] {
            assert_eq!(ResponseKey::of(&other), None, "{other}");
        }
        let odd = Key::new(["", "http", "://", "a", "/", "#private", "0123"]);
        assert!(ResponseKey::of(&odd).unwrap().has_others && !ResponseKey::of(&odd).unwrap().is_target());
    }
}
