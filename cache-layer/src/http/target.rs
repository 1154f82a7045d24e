//! The key of a request: scheme, authority, path and query of its target.

use std::borrow::Cow;

use http::{
    Extensions, HeaderMap, HeaderName, Method, Request, StatusCode, Uri,
    header::HOST,
    request,
    uri::{Authority, PathAndQuery},
};

use super::{hints::Hints, owner::Owner};
use crate::{
    hex,
    key::Key,
    semantics::{
        cookies::{self, CookiePolicy},
        invalidation::{self, affected_paths, redirected_path},
        query::without_parameters,
        sites::Sites,
    },
};

/// The absolute target of a request, normalised only as far as is safe: the application gets the same bytes that the key
/// is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// In the canonical form of the layer's [`Sites`], as is the authority.
    scheme: &'static str,
    authority: Cow<'a, str>,
    path_and_query: Cow<'a, PathAndQuery>,
    /// Whether the request states a default port, which the authority here omits. The application may repeat it in its response.
    states_port: bool,
}

impl<'a> Target<'a> {
    /// `None` if the request doesn't clearly state its host.
    pub(super) fn of(sites: &'a Sites, uri: &'a Uri, headers: &'a HeaderMap) -> Option<Self> {
        let Some(host) = host(headers).ok()? else { return Self::of_uri(sites, uri) };
        let mut target = Self::with_authority(sites, uri, host)?;
        // An application may use either as its host. If they differ, one host's response would answer for the other.
        if uri.authority().is_some() {
            let stated = Self::of_uri(sites, uri)?;
            target.states_port |= stated.states_port;
            if (stated.scheme, &stated.authority) != (target.scheme, &target.authority) {
                return None;
            }
        }
        Some(target)
    }

    /// The target of a request, with the path that its client has sent.
    pub(super) fn of_request<B>(sites: &'a Sites, request: &'a Request<B>) -> Option<Self> {
        Self::as_sent(sites, request.uri(), request.headers(), request.extensions())
    }

    /// The same for a request without its body.
    pub(super) fn of_parts(sites: &'a Sites, request: &'a request::Parts) -> Option<Self> {
        Self::as_sent(sites, &request.uri, &request.headers, &request.extensions)
    }

    fn as_sent(sites: &'a Sites, uri: &'a Uri, headers: &'a HeaderMap, extensions: &'a Extensions) -> Option<Self> {
        Some(Self::of(sites, uri, headers)?.before_routing(extensions))
    }

    /// The target with the path that its client has sent.
    #[cfg_attr(not(feature = "axum"), expect(unused_variables, reason = "only axum leaves anything there"))]
    fn before_routing(self, extensions: &'a Extensions) -> Self {
        #[cfg(feature = "axum")]
        let target = self.before_nesting(extensions);
        #[cfg(not(feature = "axum"))]
        let target = self;
        target
    }

    /// The target before axum removed the prefix of a nested router. If the path was changed in another way, it is left as it
    /// is: the change may distinguish one client's page from another's.
    #[cfg(feature = "axum")]
    fn before_nesting(self, extensions: &'a Extensions) -> Self {
        let original = extensions.get::<axum::extract::OriginalUri>().and_then(|original| original.0.path_and_query());
        let Some(original) = original.filter(|original| **original != *self.path_and_query) else { return self };
        let nested = extensions.get::<axum::extract::NestedPath>();
        let (path, query) = (self.path_and_query.path(), self.path_and_query.query());
        let is_nested = nested.is_some_and(|nested| is_without_prefix(path, nested.as_str(), original.path()));
        match is_nested && original.query() == query {
            true => Self { path_and_query: Cow::Borrowed(original), ..self },
            false => self,
        }
    }

    /// The targets that a write may be for whose request does not state its host clearly: the host of its URI, and each `Host`,
    /// without user information, the first few of them. No stored response has such a target, but the application carries the
    /// write out for one of them.
    pub(super) fn candidates<B>(sites: &Sites, request: &Request<B>) -> Vec<Target<'static>> {
        let uri = request.uri();
        let hosts = request.headers().get_all(HOST).iter().filter_map(|host| host.to_str().ok());
        let stated = uri.authority().map(Authority::as_str).into_iter().chain(hosts);
        let hosts = stated.map(|stated| stated.rsplit_once('@').map_or(stated, |(_, host)| host));
        // A client may state any number of hosts, each of which costs invalidations.
        const MOST: usize = 4;
        let mut targets = Vec::new();
        for target in hosts.filter_map(|host| Target::with_authority(sites, uri, host)) {
            let target = target.before_routing(request.extensions()).into_owned();
            if !targets.contains(&target) {
                targets.push(target);
            }
            if targets.len() == MOST {
                break;
            }
        }
        targets
    }

    /// The target of an absolute URI.
    pub(super) fn of_uri(sites: &'a Sites, uri: &'a Uri) -> Option<Self> {
        Self::with_authority(sites, uri, uri.authority()?.as_str())
    }

    fn with_authority(sites: &'a Sites, uri: &'a Uri, authority: &'a str) -> Option<Self> {
        // The scheme is never taken from a field that the client can set.
        let scheme = sites.scheme(uri.scheme_str());
        let path_and_query =
            uri.path_and_query().map_or_else(|| Cow::Owned(PathAndQuery::from_static("/")), Cow::Borrowed);
        let (authority, states_port) = sites.authority(scheme, authority)?;
        Some(Self { scheme, authority, path_and_query, states_port })
    }

    /// The same target, independent of its request.
    pub(super) fn into_owned(self) -> Target<'static> {
        let Self { scheme, authority, path_and_query, states_port } = self;
        Target {
            states_port,
            scheme,
            authority: Cow::Owned(authority.into_owned()),
            path_and_query: Cow::Owned(path_and_query.into_owned()),
        }
    }

    /// Whether the response to this request may contain a port that other requests don't state: `Host: shop.example:443`, to an
    /// application without TLS.
    pub(super) fn states_port(&self) -> bool {
        self.states_port
    }

    pub(super) fn path(&self) -> &str {
        self.path_and_query.path()
    }

    pub(super) fn query(&self) -> Option<&str> {
        self.path_and_query.query()
    }

    pub(super) fn path_and_query(&self) -> &str {
        self.path_and_query.as_str()
    }

    /// Path and query, as in keys.
    pub(super) fn keyed_path_and_query(&self, key_rules: &KeyRules<'_>) -> Cow<'_, str> {
        without_parameters(self.path_and_query.as_str(), key_rules.ignored_query)
    }

    /// The authority, as in keys.
    pub(super) fn host(&self) -> &str {
        &self.authority
    }

    /// Scheme and authority.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// The key of the target's response.
    pub(super) fn key(&self, key_rules: &KeyRules<'_>) -> Key {
        self.key_of(self.path_and_query.as_str(), key_rules)
    }

    /// The key of the target's response by this method, for the content with this digest.
    ///
    /// In readable form it is the target's own key, and then `#QUERY:` and the digest: no target has a `#`.
    pub(super) fn key_with_content(&self, key_rules: &KeyRules<'_>, method: &Method, digest: &[u8; 32]) -> Key {
        let mut parts = self.parts_of(self.path_and_query.as_str(), key_rules);
        parts.push(format!("#{method}:").into_bytes());
        parts.push(digest.iter().flat_map(|byte| hex::of_byte(*byte)).collect());
        key_rules.named(Key::new(parts))
    }

    /// The key of the response for another target of the same origin.
    pub(super) fn key_of_other(&self, path_and_query: &str, key_rules: &KeyRules<'_>) -> Key {
        self.key_of(path_and_query, key_rules)
    }

    /// A key for the path, whatever the query.
    pub(super) fn path_key(&self, key_rules: &KeyRules<'_>) -> Key {
        self.key_of_uri(self.path(), key_rules)
    }

    /// The key of the alias for all queries whose common part has this digest.
    pub(super) fn alias_key(&self, key_rules: &KeyRules<'_>, digest: &[u8; 32]) -> Key {
        let mut parts = self.parts_of(self.path(), key_rules);
        parts.push(b"#alias:".to_vec());
        parts.push(digest.iter().flat_map(|byte| hex::of_byte(*byte)).collect());
        key_rules.named(Key::new(parts))
    }

    /// The tag of all responses that answer several queries of the path.
    pub(super) fn path_tag(&self, key_rules: &KeyRules<'_>) -> String {
        format!("path {}", name_of(&self.path_key(key_rules)))
    }

    fn key_of(&self, path_and_query: &str, key_rules: &KeyRules<'_>) -> Key {
        if key_rules.is_plain() {
            return self.key_of_uri(path_and_query, key_rules);
        }
        key_rules.named(Key::new(self.parts_of(path_and_query, key_rules)))
    }

    /// The key of this target alone, without the other parts that its key may have.
    pub(super) fn key_of_target(&self, key_rules: &KeyRules<'_>) -> Key {
        self.key_of_uri(self.path_and_query.as_str(), key_rules)
    }

    /// The key of a target alone, without the other parts that keys may have.
    fn key_of_uri(&self, path_and_query: &str, key_rules: &KeyRules<'_>) -> Key {
        let path_and_query = without_parameters(path_and_query, key_rules.ignored_query);
        let parts = [key_rules.namespace, self.scheme, "://", &self.authority, &path_and_query];
        key_rules.named(Key::of_parts(parts.iter().map(|part| part.as_bytes())))
    }

    /// The tag of all responses that are stored for this target under keys with further parts.
    pub(super) fn tag(&self, key_rules: &KeyRules<'_>) -> String {
        format!("uri {}", name_of(&self.key_of_target(key_rules)))
    }

    /// The parts of a key that may have more parts than the target.
    fn parts_of(&self, path_and_query: &str, key_rules: &KeyRules<'_>) -> Vec<Vec<u8>> {
        let path_and_query = without_parameters(path_and_query, key_rules.ignored_query);
        let parts = [key_rules.namespace, self.scheme, "://", &self.authority, &path_and_query];
        let mut parts: Vec<Vec<u8>> = parts.iter().map(|part| part.as_bytes().to_vec()).collect();
        for name in key_rules.key_headers {
            // The number of lines distinguishes an absent field from an empty one.
            let lines: Vec<_> = key_rules.headers.get_all(name).iter().map(|line| line.as_bytes().to_vec()).collect();
            parts.push(lines.len().to_be_bytes().to_vec());
            parts.extend(lines);
        }
        // No path has a fragment, so a client can't send a path that looks like this.
        for cookie in &key_rules.cookies.keyed {
            let given: Vec<_> = cookies::keyed(key_rules.headers, cookie).collect();
            parts.push(format!("#{cookie}=").into_bytes());
            parts.push(given.len().to_be_bytes().to_vec());
            parts.extend(given);
        }
        if let Some(owner) = key_rules.owner {
            parts.extend(owner.key_parts(key_rules.headers, key_rules.cookies));
        }
        for part in key_rules.hinted {
            parts.extend([b"#".to_vec(), part.as_bytes().to_vec()]);
        }
        parts
    }

    /// The base for references in a response.
    pub(super) fn reference<'t>(&'t self, sites: &'t Sites) -> invalidation::Target<'t> {
        invalidation::Target {
            sites,
            scheme: self.scheme,
            authority: &self.authority,
            path_and_query: self.path_and_query.as_str(),
        }
    }

    /// The targets that a response to an unsafe method makes stale (RFC 9111, section 4.4), this one first.
    pub(super) fn affected(&self, sites: &Sites, response: &HeaderMap) -> Vec<Self> {
        let others = affected_paths(self.reference(sites), response);
        let others = others.iter().filter_map(|path| self.with_path(path));
        std::iter::once(self.clone()).chain(others).collect()
    }

    /// Another path and query of the same site.
    fn with_path(&self, path_and_query: &str) -> Option<Self> {
        let path_and_query = Cow::Owned(path_and_query.parse().ok()?);
        Some(Self { path_and_query, ..self.clone() })
    }

    /// Whether a response redirects to its own key, so that clients that get the stored response would be redirected in a
    /// circle: to another scheme or name of the same site, or by a parameter that makes no difference.
    pub(super) fn redirects_to_itself(
        &self,
        key_rules: &KeyRules<'_>,
        status: StatusCode,
        response: &HeaderMap,
    ) -> bool {
        redirected_path(self.reference(key_rules.sites), status, response)
            .is_some_and(|path| self.key_of(&path, key_rules) == self.key(key_rules))
    }
}

/// Whether `path` is what is left of the `original` without the segments of this prefix of a nested router, as axum removes it.
#[cfg(feature = "axum")]
fn is_without_prefix(path: &str, prefix: &str, original: &str) -> bool {
    let mut rest = original;
    for segment in prefix.trim_matches('/').split('/') {
        let Some(after) = rest.strip_prefix('/') else { return false };
        let (given, _) = after.split_once('/').unwrap_or((after, ""));
        if !(is_capture(segment) || given == segment) {
            return false;
        }
        rest = &after[given.len()..];
    }
    rest == path || (rest.is_empty() && path == "/")
}

/// Whether a segment of a prefix is one that any segment matches.
#[cfg(feature = "axum")]
fn is_capture(segment: &str) -> bool {
    segment.starts_with('{') && segment.ends_with('}') && !segment.starts_with("{{") && !segment.ends_with("}}")
}

/// One of 4096 names, by the digest of a key. With so few names, their tokens exist at all times. If each target had its own
/// name, a fill would often be the first to use it, and a store without its token can't tell which invalidation may have been
/// of that name. The price is that a write also invalidates one in 4096 of the responses for other targets.
fn name_of(key: &Key) -> String {
    let [first, second, ..] = key.id().primary;
    format!("{:03x}", u16::from_be_bytes([first, second]) >> 4)
}

/// Outdated targets: their own keys, and the tags of the responses that are stored for them under other keys.
#[derive(Default)]
pub(super) struct Affected {
    pub(super) keys: Vec<Key>,
    pub(super) tags: Vec<String>,
}

impl Affected {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.tags.is_empty()
    }
}

/// The parts of a key in addition to the target.
#[derive(Clone, Copy)]
pub(super) struct KeyRules<'a> {
    pub(super) sites: &'a Sites,
    /// The layer's own namespace.
    pub(super) namespace: &'a str,
    /// Query parameters that make no difference.
    pub(super) ignored_query: &'a [String],
    /// Request fields and cookies that are part of the key, and the request's fields.
    pub(super) key_headers: &'a [HeaderName],
    pub(super) cookies: &'a CookiePolicy,
    /// The owner, in a private cache.
    pub(super) owner: Option<&'a Owner>,
    pub(super) headers: &'a HeaderMap,
    /// The parts that a layer outside has added.
    pub(super) hinted: &'a [Box<str>],
    /// Whether the store is shared by processes.
    pub(super) is_shared: bool,
}

impl<'a> KeyRules<'a> {
    /// Whether the key only has the target.
    fn is_plain(&self) -> bool {
        self.key_headers.is_empty() && self.cookies.keyed.is_empty() && self.hinted.is_empty() && self.owner.is_none()
    }

    /// The key in the form by which its store finds it.
    fn named(&self, key: Key) -> Key {
        if self.is_shared { key.named() } else { key }
    }

    /// The same, with the parts that a layer outside has added.
    pub(super) fn hinted(self, hints: Option<&'a Hints>) -> Self {
        Self { hinted: hints.map_or(&[], |hints| &hints.key_parts), ..self }
    }
}

/// It can't be known which host the application would use: the request is an attack, or a mistake.
struct Unclear;

/// The value of `Host`, if the field is present.
fn host(headers: &HeaderMap) -> Result<Option<&str>, Unclear> {
    let mut lines = headers.get_all(HOST).into_iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(host), None) => host.to_str().map(Some).map_err(|_| Unclear),
        (Some(_), Some(_)) => Err(Unclear),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    static ONE: LazyLock<Sites> = LazyLock::new(Sites::default);
    static APART: LazyLock<Sites> = LazyLock::new(|| {
        let mut sites = Sites::default();
        sites.tell_schemes_apart(true);
        sites
    });

    fn target_in(sites: &'static Sites, uri: &str, hosts: &[&str]) -> Option<Target<'static>> {
        let mut request = Request::get(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let request = request.body(()).unwrap();
        Target::of(sites, request.uri(), request.headers()).map(Target::into_owned)
    }

    fn target(uri: &str, hosts: &[&str]) -> Option<Target<'static>> {
        target_in(&ONE, uri, hosts)
    }

    fn key_rules(namespace: &str) -> KeyRules<'_> {
        static NO_FIELDS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        static NO_COOKIES: LazyLock<CookiePolicy> = LazyLock::new(CookiePolicy::default);
        KeyRules {
            sites: &ONE,
            namespace,
            ignored_query: &[],
            key_headers: &[],
            cookies: &NO_COOKIES,
            owner: None,
            hinted: &[],
            headers: &NO_FIELDS,
            is_shared: false,
        }
    }

    fn key(uri: &str, hosts: &[&str]) -> Key {
        target(uri, hosts).unwrap().key(&key_rules(""))
    }

    fn key_apart(uri: &str, hosts: &[&str]) -> Key {
        target_in(&APART, uri, hosts).unwrap().key(&KeyRules { sites: &APART, ..key_rules("") })
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
    fn a_key_with_content_is_that_of_one_method_target_and_content() {
        let digests = [[1; 32], [2; 32]];
        let mut keys = Vec::new();
        for uri in ["http://a/s", "http://a/s?x", "http://b/s"] {
            let target = target(uri, &[]).unwrap();
            keys.push(target.key(&key_rules("")));
            for method in [Method::POST, Method::from_bytes(b"QUERY").unwrap(), Method::from_bytes(b"query").unwrap()] {
                keys.extend(digests.iter().map(|digest| target.key_with_content(&key_rules(""), &method, digest)));
            }
        }
        for key in &keys {
            assert_eq!(keys.iter().filter(|other| *other == key).count(), 1, "{key:?}");
        }
        let readable = keys[3].readable();
        assert!(readable.starts_with("http://a/s#QUERY:0101"), "{readable}");
    }

    #[test]
    fn a_target_has_one_tag_whatever_its_keys_are_made_of() {
        let name = [HeaderName::from_static("x-tenant")];
        let fields = HeaderMap::from_iter([(name[0].clone(), "1".parse().unwrap())]);
        let rules = KeyRules { key_headers: &name, headers: &fields, ..key_rules("") };
        let target = |uri| target(uri, &[]).unwrap();
        assert_eq!(target("http://a/s").tag(&rules), target("http://a/s").tag(&key_rules("")));
        assert_ne!(target("http://a/s").key(&rules), target("http://a/s").key(&key_rules("")));
        assert_ne!(target("http://a/s").tag(&rules), target("http://a/s?").tag(&rules));
        assert_ne!(target("http://a/s").tag(&rules), target("http://a/s").tag(&key_rules("x")));
        assert_eq!(target("http://a/s").path_tag(&rules), target("http://a/s?x").path_tag(&rules));
    }

    #[cfg(feature = "axum")]
    #[test]
    fn a_prefix_of_a_nested_router_is_what_was_removed_and_nothing_else_is() {
        for (path, prefix, original) in [
            ("/items", "/shop", "/shop/items"),
            ("/items/", "/shop/", "/shop/items/"),
            ("/", "/shop", "/shop"),
            ("/", "/shop", "/shop/"),
            ("/", "/shop/", "/shop/"),
            ("/a/b", "/shops/{id}/x", "/shops/7/x/a/b"),
        ] {
            assert!(is_without_prefix(path, prefix, original), "{path} {prefix} {original}");
        }
        for (path, prefix, original) in [
            ("/", "/shop", "/shop/account"),
            ("/a", "/shop", "/shop/premium/a"),
            ("/items", "/shop", "/shops/items"),
            ("/items", "/shop", "/items"),
            ("/a", "/shops/{id}/x", "/shops/7/a"),
        ] {
            assert!(!is_without_prefix(path, prefix, original), "{path} {prefix} {original}");
        }
    }

    #[cfg(feature = "axum")]
    #[tokio::test]
    async fn a_request_in_a_nested_router_has_the_path_that_its_client_has_sent() {
        use axum::{Router, extract::Request, routing::any};
        use tower::ServiceExt as _;

        async fn path(request: Request) -> String {
            let sites = Sites::default();
            let path = Target::of_request(&sites, &request).unwrap().path_and_query().to_owned();
            assert_eq!(Target::candidates(&sites, &request)[0].path_and_query(), path);
            let (parts, _) = request.into_parts();
            assert_eq!(Target::of_parts(&sites, &parts).unwrap().path_and_query(), path);
            path
        }
        let inner = || Router::new().route("/", any(path)).route("/{*rest}", any(path));
        let app = Router::new().nest("/shop", Router::new().nest("/{id}", inner())).nest("/old/", inner());
        for uri in ["http://a/shop/7/items?x=1", "http://a/shop/7", "http://a/old/x", "http://a/old/"] {
            let response =
                app.clone().oneshot(Request::get(uri).body(axum::body::Body::empty()).unwrap()).await.unwrap();
            let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
            assert_eq!(body, uri.strip_prefix("http://a").unwrap().as_bytes());
        }
    }

    #[test]
    fn another_namespace_is_another_key() {
        let target = target("/h", &["a"]).unwrap();
        assert_ne!(target.key(&key_rules("shop")), target.key(&key_rules("admin")));
    }

    #[test]
    fn case_and_the_default_port_make_no_difference_to_a_host() {
        for host in ["A.Example", "a.example:80", "a.example:", "a.EXAMPLE:80", "a.example:443"] {
            assert_eq!(key("/", &[host]), key("/", &["a.example"]), "{host}");
        }
        assert_ne!(key("/", &["a.example:8080"]), key("/", &["a.example"]));
        assert_ne!(key_apart("/", &["a.example:443"]), key_apart("/", &["a.example"]));
    }

    #[test]
    fn another_host_path_or_query_is_another_key() {
        let one = key("http://a/x?y", &[]);
        for other in ["http://b/x?y", "http://a/X?y", "http://a/x?Y", "http://a/x", "http://a/x?"] {
            assert_ne!(one, key(other, &[]), "{other}");
        }
    }

    #[test]
    fn schemes_are_one_unless_they_are_apart() {
        let forms: [(&str, &[&str]); 4] = [
            ("/x?y", &["a"]),
            ("https://a/x?y", &[]),
            ("https://A:443/x?y", &["a"]),
            ("https://a:443/x?y", &["a:443"]),
        ];
        for (uri, hosts) in forms {
            assert_eq!(key(uri, hosts), key("http://a/x?y", &[]), "{uri} {hosts:?}");
        }
        for (uri, hosts) in &forms[1..] {
            assert_eq!(key_apart(uri, hosts), key_apart("https://a/x?y", &[]), "{uri} {hosts:?}");
        }
        assert_eq!(key_apart("/x?y", &["a"]), key_apart("http://a/x?y", &[]));
        assert_ne!(key_apart("https://a/x?y", &[]), key_apart("http://a/x?y", &[]));
        assert_eq!(key("https://a/x?y", &[]).readable(), "http://a/x?y");
    }

    #[test]
    fn a_redirect_to_the_same_key_leads_to_itself() {
        let leads = |path: &str, location: &'static str, ignored: &[String]| {
            let mut headers = HeaderMap::new();
            headers.insert("location", location.parse().unwrap());
            let key_rules = KeyRules { ignored_query: ignored, ..key_rules("") };
            target(path, &["a"]).unwrap().redirects_to_itself(&key_rules, StatusCode::MOVED_PERMANENTLY, &headers)
        };
        for location in ["https://a/x?y", "http://A:80/x?y", "/x?y", "", "//a/./x?y#top", "?y"] {
            assert!(leads("/x?y", location, &[]), "{location}");
        }
        for location in ["https://b/x?y", "https://a/x", "/x/?y", "https://a:8443/x?y", "https://"] {
            assert!(!leads("/x?y", location, &[]), "{location}");
        }
        assert!(leads("/x?utm_source=mail", "/x", &["utm_*".to_owned()]));
        assert!(!leads("/x?utm_source=mail", "/x", &[]));
    }

    #[test]
    fn a_request_that_does_not_say_clearly_which_host_it_is_for_has_none() {
        for hosts in [&[][..], &["a", "b"], &["a", "a"], &[""], &["a/b"], &["a b"], &[":80"], &["user@a"]] {
            assert_eq!(target("/", hosts), None, "{hosts:?}");
        }
    }
}
