//! The key of a request: scheme, authority, path and query of its target.

use http::{HeaderMap, header::HOST, request, uri::PathAndQuery};

use crate::{
    key::Key,
    semantics::invalidation::{self, affected_paths},
};

/// The absolute target of a request, normalised no further than is safe: the application sees the bytes that the key
/// is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    scheme: &'static str,
    authority: String,
    path_and_query: PathAndQuery,
}

impl Target {
    /// `None` if the request doesn't say, or doesn't say clearly, which host it is for.
    pub(super) fn of(parts: &request::Parts) -> Option<Self> {
        // Inside a server the scheme is rarely known, and never taken from a field that the client can write.
        let scheme = if parts.uri.scheme_str() == Some("https") { "https" } else { "http" };
        let authority = match parts.uri.authority() {
            Some(authority) => authority.as_str(),
            None => host(&parts.headers)?,
        };
        let path_and_query = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        Some(Self { scheme, authority: normalize_authority(authority, scheme)?, path_and_query })
    }

    pub(super) fn key(&self) -> Key {
        self.key_of(self.path_and_query.as_str())
    }

    fn key_of(&self, path_and_query: &str) -> Key {
        Key::new([self.scheme, "://", &self.authority, path_and_query])
    }

    /// The keys that a response to an unsafe method makes stale (RFC 9111, section 4.4).
    pub(super) fn affected(&self, response: &HeaderMap) -> impl Iterator<Item = Key> {
        let target = invalidation::Target {
            scheme: self.scheme,
            authority: &self.authority,
            path_and_query: self.path_and_query.as_str(),
        };
        let others = affected_paths(target, response);
        std::iter::once(self.key()).chain(others.into_iter().map(|path| self.key_of(&path)))
    }
}

fn host(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(HOST).into_iter();
    let host = lines.next()?.to_str().ok()?;
    // Two hosts are a smuggler's, or a mistake: which one the application would take can't be known.
    lines.next().is_none().then_some(host)
}

/// Lower case, without the scheme's own port.
fn normalize_authority(authority: &str, scheme: &str) -> Option<String> {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'?' | b'#' | b'\\');
    if authority.is_empty() || !authority.bytes().all(plain) {
        return None;
    }
    let default_port = if scheme == "https" { ":443" } else { ":80" };
    let authority = authority.strip_suffix(default_port).unwrap_or(authority);
    let authority = authority.strip_suffix(':').unwrap_or(authority);
    (!authority.is_empty()).then(|| authority.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn target(uri: &str, hosts: &[&str]) -> Option<Target> {
        let mut request = Request::get(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        Target::of(&request.body(()).unwrap().into_parts().0)
    }

    fn key(uri: &str, hosts: &[&str]) -> Key {
        target(uri, hosts).unwrap().key()
    }

    #[test]
    fn the_two_forms_of_a_target_are_one_key() {
        assert_eq!(key("http://a.example/x?y", &[]), key("/x?y", &["a.example"]));
        assert_eq!(key("http://a.example", &[]), key("/", &["a.example"]));
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
        for hosts in [&[][..], &["a", "b"], &["a", "a"], &[""], &["a/b"], &["a b"], &[":80"]] {
            assert_eq!(target("/", hosts), None, "{hosts:?}");
        }
    }
}
