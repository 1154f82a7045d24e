//! Access control: which requests are answered.
//!
//! | | without a token | with the token |
//! |---|---|---|
//! | the page itself, `/openapi.json` | any client that reaches the port | |
//! | reading | a client on this machine, under a name of this machine | any client |
//! | changing | no client | any client |
//!
//! If the port is reached from elsewhere, reading may take the token as well: see [`Admin::token_for_reading`](crate::Admin::token_for_reading).
//!
//! A token in the query is refused, whether it is right or not: queries are logged and remembered. A request from a page of
//! another origin is refused: by `Origin`, by `Sec-Fetch-Site`, and, where no token is required, by `Host`, which does not match
//! if a name was rebound to this machine.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

use axum::{
    extract::{ConnectInfo, Request, State},
    middleware::Next,
    response::Response,
};
use http::{
    HeaderMap, Method, StatusCode, Uri, Version,
    header::{AUTHORIZATION, HOST, ORIGIN},
};
use subtle::{Choice, ConstantTimeEq as _};

use crate::problem::Problem;

/// The token that is required for changes; while it is being replaced, one of two.
#[derive(Clone)]
pub(crate) struct Token(Arc<[Box<[u8]>]>);

impl Token {
    /// The minimum length of a token in bytes, so that it can't be guessed.
    pub(crate) const LEAST: usize = 16;
    /// The new one, and the one before.
    const MOST: usize = 2;

    /// The tokens in these lines. `None` if there are none or too many, or if one is too short, or can't be sent in a field.
    pub(crate) fn new(lines: &str) -> Option<Self> {
        let tokens: Vec<&str> = lines.lines().map(str::trim).filter(|token| !token.is_empty()).collect();
        let fits = |token: &&str| token.len() >= Self::LEAST && token.bytes().all(|byte| byte.is_ascii_graphic());
        let fit = (1..=Self::MOST).contains(&tokens.len()) && tokens.iter().all(fits);
        fit.then(|| Self(tokens.iter().map(|token| token.as_bytes().into()).collect()))
    }

    /// Compares with each in constant time, so that the duration does not reveal the first difference, nor which of them it was.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        self.0.iter().fold(Choice::from(0), |found, token| found | token.ct_eq(given)).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenError;

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = (Token::LEAST, Token::MOST);
        write!(
            f,
            "a token has at least {least} characters of visible ASCII, and no blanks; there is one, or there are up to {most} \
             in a line of their own each"
        )
    }
}

impl std::error::Error for TokenError {}

/// Replaces the token while the router is served, from [`Admin::token_handle`](crate::Admin::token_handle). Clones replace the
/// same one.
///
/// ```
/// use cache_layer::{Cache, store::MemoryStore};
/// use cache_layer_admin::Admin;
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = Cache::new(MemoryStore::new(1 << 20));
/// let admin = Admin::new(cache).token("0123456789abcdef")?;
/// let token = admin.token_handle();
/// let router: axum::Router = admin.router();
/// // Later, once the first one has become known:
/// token.replace(std::fs::read_to_string("/run/secrets/admin-token")?)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct TokenHandle(Arc<RwLock<Option<Token>>>);

impl TokenHandle {
    /// Requires this token from now on, and takes no other. White space around it is removed. Of two tokens, in a line of their own
    /// each, either is taken, so that clients can change from one to the other, one after the other.
    ///
    /// # Errors
    ///
    /// If a token has fewer than 16 characters, or characters other than visible ASCII, or if there are more than two: the former
    /// one is still required.
    pub fn replace(&self, token: impl AsRef<str>) -> Result<(), TokenError> {
        let token = Token::new(token.as_ref()).ok_or(TokenError)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(token);
        Ok(())
    }

    pub(crate) fn get(&self) -> Option<Token> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Which requests are answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    pub(crate) token: TokenHandle,
    /// Whether reading takes the token from a client on this machine, too.
    pub(crate) token_for_reading: bool,
}

/// Passes on the requests that are allowed.
pub(crate) async fn guard(State(access): State<Access>, request: Request, next: Next) -> Result<Response, Problem> {
    check(&access, &request)?;
    Ok(next.run(request).await)
}

fn check<B>(access: &Access, request: &http::Request<B>) -> Result<(), Problem> {
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    if has_token_in_query(uri) {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "a token does not belong into the query, where it is logged: send it as `Authorization: Bearer …`, and \
             replace it if it was a real one",
        ));
    }
    if is_from_elsewhere(headers) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "the request comes from a page of another origin"));
    }
    let given = bearer(headers);
    let reads_freely = || !access.token_for_reading && only_reads(method, uri) && is_local(request);
    match (access.token.get(), given) {
        (Some(token), Some(given)) if token.is(given) => Ok(()),
        (_, Some(_)) => Err(Problem::unauthorized("the token is wrong")),
        (_, None) if reads_freely() => Ok(()),
        (None, None) if access.token_for_reading => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "no token is set, and this port is not one of the machine alone, so that nothing is answered",
        )),
        (None, None) => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "no token is set, so that only a client on the same machine may ask, and nothing can be changed",
        )),
        (Some(_), None) => Err(Problem::unauthorized("a token is needed: `Authorization: Bearer …`")),
    }
}

/// Explaining a request with content changes nothing, either.
fn only_reads(method: &Method, uri: &Uri) -> bool {
    *method == Method::GET || (*method == Method::POST && uri.path() == "/api/explain")
}

fn has_token_in_query(uri: &Uri) -> bool {
    const NAMES: [&str; 6] = ["token", "access_token", "auth_token", "bearer", "authorization", "api_key"];
    let names = uri.query().unwrap_or_default().split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    let mut names = names.map(|name| percent_encoding::percent_decode_str(name).decode_utf8_lossy().to_lowercase());
    names.any(|name| NAMES.contains(&&*name))
}

/// The token of a request.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let line = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, given) = line.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| given.trim_ascii())
}

/// Whether the browser reports that another site's page makes this request.
pub(crate) fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    // `none` means that the user typed the address.
    let by_another_site = site.is_some_and(|site| !matches!(site, b"same-origin" | b"none"));
    let origin = headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or("null"));
    let by_another_origin = origin.is_some_and(|origin| {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        host.is_none() || authority.is_none() || !same(authority, host)
    });
    by_another_site || by_another_origin
}

fn same(one: Option<&str>, other: Option<&str>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one.eq_ignore_ascii_case(other))
}

/// The address of the client's end of the connection.
pub(crate) fn peer<B>(request: &http::Request<B>) -> Option<SocketAddr> {
    request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer)
}

/// Whether the client is on this machine, and there is no sign of a proxy in between, which would hide another client.
///
/// The address is one of the two that a client on this machine has: a sidecar may use another loopback address (Istio:
/// 127.0.0.6). HTTP/1.0 is what nginx speaks unless it is told otherwise. A proxy on this machine that speaks HTTP/1.1 and adds no
/// field can't be told from a client.
pub(crate) fn is_direct<B>(request: &http::Request<B>) -> bool {
    const LOCAL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    peer(request).is_some_and(|peer| LOCAL.contains(&peer.ip().to_canonical()))
        && request.version() > Version::HTTP_10
        && !request.headers().keys().any(|name| is_of_proxies(name.as_str()))
}

/// Whether proxies add the field, and clients do not.
fn is_of_proxies(name: &str) -> bool {
    const NAMES: [&str; 6] = ["forwarded", "via", "client-ip", "true-client-ip", "x-client-ip", "x-cluster-client-ip"];
    const BEGINNINGS: [&str; 7] = ["x-forwarded", "x-real-", "x-envoy-", "x-original-", "x-amzn-", "cf-", "cdn-"];
    NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// Whether the client is on this machine, and uses a name that only this machine has.
fn is_local<B>(request: &http::Request<B>) -> bool {
    if !is_direct(request) {
        return false;
    }
    let stated = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = stated.or(request.uri().authority().map(http::uri::Authority::as_str)) else { return false };
    let Ok(authority) = authority.parse::<http::uri::Authority>() else { return false };
    let host = authority.host().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "a token of some length";
    const HERE: Option<&str> = Some("127.0.0.1:5000");

    /// The status with which a request is refused; 200 if it is not.
    fn status(peer: Option<&str>, method: &str, target: &str, fields: &[(&'static str, &str)]) -> u16 {
        status_by(Some(TOKEN), peer, method, target, fields)
    }

    fn status_by(
        token: Option<&str>,
        peer: Option<&str>,
        method: &str,
        target: &str,
        fields: &[(&'static str, &str)],
    ) -> u16 {
        let request = request(peer, method, target, fields);
        let access = Access::default();
        if let Some(token) = token {
            *access.token.0.write().unwrap() = Some(Token(Arc::from([Box::from(token.as_bytes())])));
        }
        let checked = check(&access, &request);
        checked.map_or_else(|problem| problem.status().as_u16(), |()| 200)
    }

    fn request(peer: Option<&str>, method: &str, target: &str, fields: &[(&'static str, &str)]) -> http::Request<()> {
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        if let Some(peer) = peer {
            request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer.parse().unwrap()));
        }
        request
    }

    #[test]
    fn reading_takes_a_client_here_or_the_token_and_changing_takes_the_token() {
        let right = ("authorization", &*format!("Bearer {TOKEN}"));
        let local = ("host", "localhost:9000");
        for peer in [HERE, Some("[::1]:5000"), Some("[::ffff:127.0.0.1]:5000")] {
            assert_eq!(status(peer, "GET", "/api/stats", &[local]), 200, "{peer:?}");
        }
        for peer in [Some("10.0.0.7:5000"), None] {
            assert_eq!(status(peer, "GET", "/api/stats", &[local]), 401, "{peer:?}");
            assert_eq!(status(peer, "GET", "/api/stats", &[local, right]), 200, "{peer:?}");
            assert_eq!(status(peer, "POST", "/api/purge", &[local, right]), 200, "{peer:?}");
        }
        assert_eq!(status(HERE, "POST", "/api/purge", &[local]), 401);
        assert_eq!(status(HERE, "DELETE", "/api/stats", &[local]), 401);
        assert_eq!(status(HERE, "POST", "/api/explain", &[local]), 200);
        assert_eq!(status(Some("10.0.0.7:5000"), "POST", "/api/explain", &[local]), 401);
    }

    #[test]
    fn without_a_token_set_nothing_can_be_changed_and_nobody_else_may_read() {
        let given = ("authorization", "Bearer ");
        for (peer, method, fields, expected) in [
            (HERE, "GET", vec![("host", "127.0.0.1")], 200),
            (HERE, "POST", vec![("host", "127.0.0.1")], 403),
            (Some("10.0.0.7:1"), "GET", vec![("host", "127.0.0.1")], 403),
            (HERE, "POST", vec![("host", "127.0.0.1"), given], 401),
        ] {
            assert_eq!(status_by(None, peer, method, "/api/stats", &fields), expected, "{peer:?} {method} {fields:?}");
        }
    }

    #[test]
    fn a_wrong_token_is_refused_even_where_none_is_needed() {
        let almost = format!("Bearer {}", &TOKEN[1..]);
        let longer = format!("Bearer {TOKEN}x");
        for wrong in [&*almost, &*longer, "Bearer", "Basic dXNlcjpwYXNz", "Bearer x"] {
            let refused = status(Some("10.0.0.7:1"), "GET", "/api/stats", &[("authorization", wrong)]);
            assert_eq!(refused, 401, "{wrong}");
        }
        assert_eq!(status(HERE, "GET", "/api/stats", &[("host", "localhost"), ("authorization", &almost)]), 401);
        assert_eq!(status(None, "GET", "/api/stats", &[("authorization", &format!("bEARER {TOKEN}"))]), 200);
    }

    #[test]
    fn a_token_in_the_query_is_refused_right_or_wrong() {
        let right = ("authorization", &*format!("Bearer {TOKEN}"));
        for query in ["token=x", "a=b&access_token=x", "%74oken=x", "TOKEN", "api_key="] {
            assert_eq!(status(HERE, "GET", &format!("/api/stats?{query}"), &[right]), 400, "{query}");
        }
        assert_eq!(status(None, "GET", "/api/stats?tokens=5&url=token%3Dx", &[right]), 200);
    }

    #[test]
    fn a_page_of_another_origin_can_do_nothing() {
        let right = ("authorization", &*format!("Bearer {TOKEN}"));
        let host = ("host", "localhost:9000");
        for (field, expected) in [
            (("origin", "http://evil.example"), 403),
            (("origin", "null"), 403),
            (("origin", "http://localhost:9001"), 403),
            (("origin", "http://localhost:9000"), 200),
            (("sec-fetch-site", "cross-site"), 403),
            (("sec-fetch-site", "same-site"), 403),
            (("sec-fetch-site", "same-origin"), 200),
            (("sec-fetch-site", "none"), 200),
        ] {
            assert_eq!(status(HERE, "GET", "/api/stats", &[host, field]), expected, "{field:?}");
            assert_eq!(status(HERE, "POST", "/api/purge", &[host, right, field]), expected, "{field:?}");
        }
    }

    #[test]
    fn a_name_that_was_rebound_to_this_machine_and_a_proxy_on_it_need_the_token() {
        for fields in [
            vec![("host", "evil.example")],
            vec![("host", "127.0.0.1.evil.example")],
            vec![],
            vec![("host", "localhost"), ("x-forwarded-for", "10.0.0.7")],
            vec![("host", "localhost"), ("via", "1.1 proxy")],
            vec![("host", "localhost"), ("x-forwarded-proto", "https")],
            vec![("host", "localhost"), ("x-forwarded-client-cert", "By=spiffe://a")],
            vec![("host", "localhost"), ("x-envoy-attempt-count", "1")],
            vec![("host", "localhost"), ("cf-connecting-ip", "10.0.0.7")],
        ] {
            assert_eq!(status(HERE, "GET", "/api/stats", &fields), 401, "{fields:?}");
        }
        assert_eq!(status(HERE, "GET", "/api/stats", &[("host", "[::1]:9000")]), 200);
        // A sidecar's address, and nginx's version of HTTP.
        assert_eq!(status(Some("127.0.0.6:5000"), "GET", "/api/stats", &[("host", "localhost")]), 401);
        let mut request = request(HERE, "GET", "/api/stats", &[("host", "localhost")]);
        assert!(is_direct(&request));
        *request.version_mut() = Version::HTTP_10;
        assert!(!is_direct(&request));
        assert!(check(&Access::default(), &request).is_err());
    }

    #[test]
    fn where_reading_takes_the_token_it_does_so_from_this_machine_too() {
        let access = Access { token_for_reading: true, ..Access::default() };
        let local = ("host", "localhost");
        let status = |fields: &[(&'static str, &str)]| {
            let checked = check(&access, &request(HERE, "GET", "/api/stats", fields));
            checked.map_or_else(|problem| problem.status().as_u16(), |()| 200)
        };
        assert_eq!(status(&[local]), 403, "there is no token");
        access.token.replace("0123456789abcdef").unwrap();
        assert_eq!(status(&[local]), 401);
        assert_eq!(status(&[local, ("authorization", "Bearer 0123456789abcdef")]), 200);
    }

    #[test]
    fn a_replaced_token_is_taken_at_once_and_the_former_one_no_longer() {
        let access = Access::default();
        let status = |token: &str| {
            let checked = check(&access, &request(None, "GET", "/api/stats", &[("authorization", token)]));
            checked.map_or_else(|problem| problem.status().as_u16(), |()| 200)
        };
        access.token.replace("the-first-one-of-some-length").unwrap();
        assert_eq!(status("Bearer the-first-one-of-some-length"), 200);
        assert_eq!(access.token.clone().replace("short"), Err(TokenError));
        assert_eq!(status("Bearer the-first-one-of-some-length"), 200, "an unfit one replaces nothing");
        access.token.clone().replace("the-second-one-of-some-length\n").unwrap();
        assert_eq!(status("Bearer the-first-one-of-some-length"), 401);
        assert_eq!(status("Bearer the-second-one-of-some-length"), 200);
    }

    #[test]
    fn while_a_token_is_replaced_both_are_taken_and_afterwards_one() {
        let access = Access::default();
        let taken = || {
            ["the-first-one-of-some-length", "the-second-one-of-some-length"].map(|token| {
                let bearer = format!("Bearer {token}");
                check(&access, &request(None, "POST", "/api/purge", &[("authorization", &bearer)])).is_ok()
            })
        };
        access.token.replace("the-first-one-of-some-length").unwrap();
        assert_eq!(taken(), [true, false]);
        access.token.replace("the-second-one-of-some-length\r\n\n  the-first-one-of-some-length\n").unwrap();
        assert_eq!(taken(), [true, true]);
        for unfit in ["the-second-one-of-some-length\nshort", "the-third-of-some-length\n".repeat(3).as_str(), "\n\n"] {
            assert_eq!(access.token.replace(unfit), Err(TokenError), "{unfit:?}");
            assert_eq!(taken(), [true, true], "an unfit one replaces nothing");
        }
        // The two together are no token.
        let together = "Bearer the-second-one-of-some-length the-first-one-of-some-length";
        assert!(check(&access, &request(None, "POST", "/api/purge", &[("authorization", together)])).is_err());
        access.token.replace("the-second-one-of-some-length").unwrap();
        assert_eq!(taken(), [false, true]);
    }

    #[test]
    fn a_token_that_could_be_guessed_or_not_be_sent_is_none() {
        for bad in ["", "short", "with a blank and long enough", "umlaut-ü-long-enough"] {
            assert!(Token::new(bad).is_none(), "{bad}");
        }
        let token = Token::new(" 0123456789abcdef\n").unwrap();
        assert!(token.is(b"0123456789abcdef"));
        assert_eq!(format!("{token:?}"), "Token(…)");
    }
}
