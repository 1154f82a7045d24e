//! Which responses an unsafe request invalidates (RFC 9111, section 4.4).

use http::header::{CONTENT_LOCATION, HeaderMap, LOCATION};
use http::{Method, StatusCode};

use super::sites::Sites;

/// Whether a response with this status to this method invalidates its target.
///
/// A method that is not known to be safe counts as unsafe, and an error is assumed to have changed nothing.
pub(crate) fn invalidates(method: &Method, status: StatusCode) -> bool {
    !is_safe(method) && (status.is_success() || status.is_redirection())
}

/// Whether the method is known to change nothing (RFC 9110, section 9.2.1).
pub(crate) fn is_safe(method: &Method) -> bool {
    SAFE_METHODS.contains(&method.as_str())
}

const SAFE_METHODS: [&str; 8] = ["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"];

/// The path and query of the URIs that `Location` and `Content-Location` name on the origin of the target.
///
/// Other origins are left out: a response can only speak for its own.
pub(crate) fn affected_paths(target: Target<'_>, response: &HeaderMap) -> Vec<String> {
    [LOCATION, CONTENT_LOCATION].iter().filter_map(|name| target.resolve(response.get(name)?.to_str().ok()?)).collect()
}

/// The path and query to which a redirect leads on the origin of the target (RFC 9110, section 15.4).
pub(crate) fn redirected_path(target: Target<'_>, status: StatusCode, response: &HeaderMap) -> Option<String> {
    if !status.is_redirection() {
        return None;
    }
    target.resolve(response.get(LOCATION)?.to_str().ok()?)
}

/// Whether a response to an unsafe method has the content that GET of the same target would return: its `Content-Location` is
/// the target (RFC 9110, section 6.4.2).
pub(crate) fn represents_target(target: Target<'_>, response: &HeaderMap) -> bool {
    let mut lines = response.get_all(CONTENT_LOCATION).into_iter();
    let reference = lines.next().and_then(|line| line.to_str().ok()).filter(|_| lines.next().is_none());
    reference.and_then(|reference| target.resolve(reference)).is_some_and(|path| path == target.path_and_query)
}

/// The target of a request, against which references are resolved (RFC 3986, section 5).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// Decides which URIs are on the same site.
    pub(crate) sites: &'a Sites,
    /// In the canonical form of `sites`.
    pub(crate) scheme: &'a str,
    pub(crate) authority: &'a str,
    /// Path and query, beginning with `/`.
    pub(crate) path_and_query: &'a str,
}

impl Target<'_> {
    fn resolve(&self, reference: &str) -> Option<String> {
        let reference = reference.split('#').next()?;
        let reference = match split_scheme(reference) {
            Some((scheme, _)) if !self.sites.is_scheme(scheme, self.scheme) => return None,
            Some((_, rest)) if rest.starts_with("//") => rest,
            Some(_) => return None,
            None => reference,
        };
        let reference = match reference.strip_prefix("//") {
            Some(rest) => {
                let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
                if !self.has_authority(authority) {
                    return None;
                }
                format!("/{}", rest.strip_prefix('/').unwrap_or(rest))
            }
            None => self.merge(reference),
        };
        let (path, query) = reference.split_at(reference.find('?').unwrap_or(reference.len()));
        Some(remove_dot_segments(path) + query)
    }

    /// Completes a reference without an authority.
    fn merge(&self, reference: &str) -> String {
        let path = self.path_and_query.split('?').next().unwrap_or_default();
        match reference.as_bytes().first() {
            None => self.path_and_query.to_owned(),
            Some(b'/') => reference.to_owned(),
            Some(b'?') => format!("{path}{reference}"),
            Some(_) => {
                let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
                format!("{folder}{reference}")
            }
        }
    }

    fn has_authority(&self, authority: &str) -> bool {
        self.sites.authority(self.scheme, authority).is_some_and(|(authority, _)| authority == self.authority)
    }
}

/// Splits `scheme:` off a reference that has one.
fn split_scheme(reference: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = reference.split_once(':')?;
    let valid = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    valid.then_some((scheme, rest))
}

/// RFC 3986, section 5.2.4.
fn remove_dot_segments(path: &str) -> String {
    let mut kept = Vec::new();
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment == ".." {
            kept.pop();
        }
        if !matches!(segment, "." | "..") {
            kept.push(segment);
        } else if segments.peek().is_none() {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const PATH: &str = "/api/products/7?full=1";
    static ONE: LazyLock<Sites> = LazyLock::new(|| {
        let mut sites = Sites::default();
        sites.add_host_alias("www.shop.example", "shop.example").unwrap();
        sites
    });
    static APART: LazyLock<Sites> = LazyLock::new(|| {
        let mut sites = Sites::default();
        sites.tell_schemes_apart(true);
        sites
    });

    fn target(sites: &'static Sites, scheme: &'static str) -> Target<'static> {
        Target { sites, scheme, authority: "shop.example", path_and_query: PATH }
    }

    #[test]
    fn a_successful_unsafe_request_invalidates() {
        for (method, status, expected) in [
            ("POST", 200, true),
            ("PUT", 204, true),
            ("PATCH", 200, true),
            ("DELETE", 303, true),
            ("M-SEARCH", 200, true),
            ("post", 200, true),
            ("POST", 100, false),
            ("POST", 404, false),
            ("DELETE", 500, false),
            ("GET", 200, false),
            ("HEAD", 200, false),
            ("OPTIONS", 200, false),
            ("TRACE", 200, false),
            ("PROPFIND", 207, false),
            ("REPORT", 200, false),
            ("SEARCH", 200, false),
            ("QUERY", 200, false),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(invalidates(&method, status), expected, "{method} {status}");
        }
    }

    #[test]
    fn references_are_resolved_on_the_same_origin_only() {
        for (reference, expected) in [
            ("/a/b?c=d#e", Some("/a/b?c=d")),
            ("/a//b/", Some("/a//b/")),
            ("/a/./b/../c", Some("/a/c")),
            ("/a/b/..", Some("/a/")),
            ("/../../a", Some("/a")),
            ("8", Some("/api/products/8")),
            ("./8/", Some("/api/products/8/")),
            ("../categories", Some("/api/categories")),
            ("?page=2", Some("/api/products/7?page=2")),
            ("", Some("/api/products/7?full=1")),
            ("#top", Some("/api/products/7?full=1")),
            ("8?next=http://other.example/../x", Some("/api/products/8?next=http://other.example/../x")),
            ("http://shop.example/a", Some("/a")),
            ("HTTP://SHOP.example:80/a", Some("/a")),
            ("http://shop.example", Some("/")),
            ("http://shop.example?a=b", Some("/?a=b")),
            ("//shop.example/a", Some("/a")),
            ("https://shop.example/a", Some("/a")),
            ("HTTPS://shop.example:443/a", Some("/a")),
            ("https://WWW.shop.example/a", Some("/a")),
            ("//www.shop.example:443/a", Some("/a")),
            ("https:///a", None),
            ("ftp://shop.example/a", None),
            ("http://shop.example:8080/a", None),
            ("https://www.other.example/a", None),
            ("http://other.example/a", None),
            ("http://user@shop.example/a", None),
            ("//other.example/a", None),
            ("http:/a", None),
            ("mailto:a@shop.example", None),
        ] {
            assert_eq!(target(&ONE, "http").resolve(reference).as_deref(), expected, "{reference:?}");
        }
    }

    #[test]
    fn where_schemes_are_apart_a_reference_is_resolved_under_its_own() {
        for (reference, of_http, of_https) in [
            ("http://shop.example:80/a", true, false),
            ("https://shop.example:443/a", false, true),
            ("http://shop.example:443/a", false, false),
            ("https://shop.example:80/a", false, false),
            ("//shop.example/a", true, true),
            ("//shop.example:443/a", false, true),
            ("/a", true, true),
        ] {
            let resolved = ["http", "https"].map(|scheme| target(&APART, scheme).resolve(reference).is_some());
            assert_eq!(resolved, [of_http, of_https], "{reference}");
        }
    }

    #[test]
    fn only_a_redirect_leads_elsewhere() {
        let target = target(&ONE, "http");
        let mut headers = HeaderMap::new();
        assert_eq!(redirected_path(target, StatusCode::MOVED_PERMANENTLY, &headers), None);
        headers.insert(LOCATION, HeaderValue::from_static("https://shop.example/b#top"));
        for status in [StatusCode::MOVED_PERMANENTLY, StatusCode::TEMPORARY_REDIRECT, StatusCode::SEE_OTHER] {
            assert_eq!(redirected_path(target, status, &headers).as_deref(), Some("/b"), "{status}");
        }
        assert_eq!(redirected_path(target, StatusCode::CREATED, &headers), None);
        headers.insert(LOCATION, HeaderValue::from_static("https://other.example/b"));
        assert_eq!(redirected_path(target, StatusCode::FOUND, &headers), None);
    }

    #[test]
    fn both_fields_name_what_is_affected() {
        let target = target(&ONE, "http");
        let mut headers = HeaderMap::new();
        assert_eq!(affected_paths(target, &headers), [""; 0]);
        headers.insert(CONTENT_LOCATION, HeaderValue::from_static("/a"));
        headers.insert(LOCATION, HeaderValue::from_static("/b"));
        assert_eq!(affected_paths(target, &headers), ["/b", "/a"]);
        headers.insert(LOCATION, HeaderValue::from_bytes(b"/\xff").unwrap());
        assert_eq!(affected_paths(target, &headers), ["/a"]);
    }

    #[test]
    fn a_response_represents_the_target_that_it_names() {
        for (lines, expected) in [
            (&["/api/products/7?full=1"][..], true),
            (&["http://SHOP.example:80/api/products/7?full=1"], true),
            (&["7?full=1"], true),
            (&[""], true),
            (&["/api/products/7"], false),
            (&["/api/products/8?full=1"], false),
            (&["https://shop.example/api/products/7?full=1"], true),
            (&["http://other.example/api/products/7?full=1"], false),
            (&["7?full=1", "7?full=1"], false),
            (&["\u{e9}"], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONTENT_LOCATION, HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            assert_eq!(represents_target(target(&ONE, "http"), &headers), expected, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_resolved_is_a_path(reference in "[a/.?#:@ -~]*") {
            if let Some(path) = target(&ONE, "http").resolve(&reference) {
                prop_assert!(path.starts_with('/') && !path.contains('#'));
            }
        }
    }
}
