//! The key of a request: scheme, authority, path and query of its target.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, Uri, header::HOST, uri::PathAndQuery};

use crate::{
    key::Key,
    semantics::{
        invalidation::{self, affected_paths},
        query::without_parameters,
    },
};

/// The absolute target of a request, normalised no further than is safe: the application sees the bytes that the key
/// is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    scheme: &'static str,
    authority: Cow<'a, str>,
    path_and_query: Cow<'a, PathAndQuery>,
}

impl<'a> Target<'a> {
    /// `None` if the request doesn't say, or doesn't say clearly, which host it is for.
    pub(super) fn of(uri: &'a Uri, headers: &'a HeaderMap) -> Option<Self> {
        let Some(host) = host(headers).ok()? else { return Self::of_uri(uri) };
        let target = Self::with_authority(uri, host)?;
        // An application may take either for its host. Where they differ, one would answer for the other.
        let agreed = uri.authority().is_none() || Self::of_uri(uri)? == target;
        agreed.then_some(target)
    }

    /// The target of an absolute URI.
    pub(super) fn of_uri(uri: &'a Uri) -> Option<Self> {
        Self::with_authority(uri, uri.authority()?.as_str())
    }

    fn with_authority(uri: &'a Uri, authority: &'a str) -> Option<Self> {
        // Inside a server the scheme is rarely known, and never taken from a field that the client can write.
        let scheme = if uri.scheme_str() == Some("https") { "https" } else { "http" };
        let path_and_query =
            uri.path_and_query().map_or_else(|| Cow::Owned(PathAndQuery::from_static("/")), Cow::Borrowed);
        Some(Self { scheme, authority: normalize_authority(authority, scheme)?, path_and_query })
    }

    /// The same target, for longer than its request.
    pub(super) fn into_owned(self) -> Target<'static> {
        let Self { scheme, authority, path_and_query } = self;
        Target {
            scheme,
            authority: Cow::Owned(authority.into_owned()),
            path_and_query: Cow::Owned(path_and_query.into_owned()),
        }
    }

    pub(super) fn path(&self) -> &str {
        self.path_and_query.path()
    }

    /// Scheme and authority.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// The key of what is stored for it.
    pub(super) fn key(&self, naming: &Naming<'_>) -> Key {
        self.key_of(self.path_and_query.as_str(), naming)
    }

    fn key_of(&self, path_and_query: &str, naming: &Naming<'_>) -> Key {
        let path_and_query = without_parameters(path_and_query, naming.ignored_query);
        let parts = [naming.space, self.scheme, "://", &self.authority, &path_and_query];
        if naming.key_headers.is_empty() {
            return Key::of_parts(parts.iter().map(|part| part.as_bytes()));
        }
        let mut parts: Vec<Vec<u8>> = parts.iter().map(|part| part.as_bytes().to_vec()).collect();
        for name in naming.key_headers {
            // How many lines there are tells an absent field from an empty one.
            let lines: Vec<_> = naming.headers.get_all(name).iter().map(|line| line.as_bytes().to_vec()).collect();
            parts.push(lines.len().to_be_bytes().to_vec());
            parts.extend(lines);
        }
        Key::new(parts)
    }

    /// What references in a response are relative to.
    pub(super) fn reference(&self) -> invalidation::Target<'_> {
        invalidation::Target {
            scheme: self.scheme,
            authority: &self.authority,
            path_and_query: self.path_and_query.as_str(),
        }
    }

    /// The keys that a response to an unsafe method makes stale (RFC 9111, section 4.4).
    pub(super) fn affected(&self, naming: &Naming<'_>, response: &HeaderMap) -> Vec<Key> {
        let others = affected_paths(self.reference(), response);
        std::iter::once(self.key(naming)).chain(others.iter().map(|path| self.key_of(path, naming))).collect()
    }
}

/// What a key is made of beside the target.
#[derive(Clone, Copy)]
pub(super) struct Naming<'a> {
    /// The layer's own space.
    pub(super) space: &'a str,
    /// Query parameters that make no difference.
    pub(super) ignored_query: &'a [String],
    /// Request fields that do, and the request's.
    pub(super) key_headers: &'a [HeaderName],
    pub(super) headers: &'a HeaderMap,
}

/// Which host the application would take can't be known: a smuggler's doing, or a mistake.
struct Unclear;

/// What `Host` says, if it is there.
fn host(headers: &HeaderMap) -> Result<Option<&str>, Unclear> {
    let mut lines = headers.get_all(HOST).into_iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(host), None) => host.to_str().map(Some).map_err(|_| Unclear),
        (Some(_), Some(_)) => Err(Unclear),
    }
}

/// Lower case, without the scheme's own port.
fn normalize_authority<'a>(authority: &'a str, scheme: &str) -> Option<Cow<'a, str>> {
    let mut has_uppercase = false;
    for byte in authority.bytes() {
        match AUTHORITY[usize::from(byte)] {
            Byte::Refused => return None,
            Byte::Uppercase => has_uppercase = true,
            Byte::Plain => {}
        }
    }
    let default_port = if scheme == "https" { ":443" } else { ":80" };
    let authority = authority.strip_suffix(default_port).unwrap_or(authority);
    let authority = authority.strip_suffix(':').unwrap_or(authority);
    (!authority.is_empty()).then(|| match has_uppercase {
        true => Cow::Owned(authority.to_ascii_lowercase()),
        false => Cow::Borrowed(authority),
    })
}

/// What a byte is in an authority.
#[derive(Clone, Copy)]
enum Byte {
    Plain,
    Uppercase,
    Refused,
}

const AUTHORITY: [Byte; 256] = {
    let mut bytes = [Byte::Refused; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        bytes[byte as usize] = match byte {
            // A user's name has no place in a target (RFC 9110, section 4.2.4), and what an application makes of it is its
            // own.
            b'/' | b'?' | b'#' | b'\\' | b'@' => Byte::Refused,
            b'A'..=b'Z' => Byte::Uppercase,
            _ => Byte::Plain,
        };
        byte += 1;
    }
    bytes
};

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use http::Request;

    use super::*;

    fn target(uri: &str, hosts: &[&str]) -> Option<Target<'static>> {
        let mut request = Request::get(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let request = request.body(()).unwrap();
        Target::of(request.uri(), request.headers()).map(Target::into_owned)
    }

    fn naming(space: &str) -> Naming<'_> {
        static NO_FIELDS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        Naming { space, ignored_query: &[], key_headers: &[], headers: &NO_FIELDS }
    }

    fn key(uri: &str, hosts: &[&str]) -> Key {
        target(uri, hosts).unwrap().key(&naming(""))
    }

    #[test]
    fn the_two_forms_of_a_target_are_one_key() {
        assert_eq!(key("http://a.example/x?y", &[]), key("/x?y", &["a.example"]));
        assert_eq!(key("http://a.example", &[]), key("/", &["a.example"]));
    }

    #[test]
    fn a_host_that_contradicts_the_target_is_none() {
        assert_eq!(target("http://victim/h", &["evil"]), None);
        assert_eq!(key("http://a.example/h", &["A.example:80"]), key("/h", &["a.example"]));
    }

    #[test]
    fn another_space_is_another_key() {
        let target = target("/h", &["a"]).unwrap();
        assert_ne!(target.key(&naming("shop")), target.key(&naming("admin")));
    }

    #[test]
    fn case_and_the_default_port_make_no_difference_to_a_host() {
        for host in ["A.Example", "a.example:80", "a.example:", "a.EXAMPLE:80"] {
            assert_eq!(key("/", &[host]), key("/", &["a.example"]), "{host}");
        }
        assert_ne!(key("/", &["a.example:8080"]), key("/", &["a.example"]));
        assert_ne!(key("/", &["a.example:443"]), key("/", &["a.example"]));
    }

    #[test]
    fn another_scheme_host_path_or_query_is_another_key() {
        let one = key("http://a/x?y", &[]);
        for other in ["https://a/x?y", "http://b/x?y", "http://a/X?y", "http://a/x?Y", "http://a/x", "http://a/x?"] {
            assert_ne!(one, key(other, &[]), "{other}");
        }
    }

    #[test]
    fn a_request_that_does_not_say_clearly_which_host_it_is_for_has_none() {
        for hosts in [&[][..], &["a", "b"], &["a", "a"], &[""], &["a/b"], &["a b"], &[":80"], &["user@a"]] {
            assert_eq!(target("/", hosts), None, "{hosts:?}");
        }
    }
}
