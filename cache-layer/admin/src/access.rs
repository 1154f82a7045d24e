//! Access control: which requests are answered.
//!
//! | | without a token | with the token |
//! |---|---|---|
//! | the page itself, `/openapi.json` | any client that reaches the port | |
//! | reading | a client on this machine, under a name of this machine | any client |
//! | changing | no client | any client |
//!
//! A token in the query is refused, whether it is right or not: queries are logged and remembered. A request from a page of
//! another origin is refused: by `Origin`, by `Sec-Fetch-Site`, and, where no token is required, by `Host`, which does not match
//! if a name was rebound to this machine.

use std::{fmt, net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    middleware::Next,
    response::Response,
};
use http::{
    HeaderMap, Method, StatusCode, Uri,
    header::{AUTHORIZATION, HOST, ORIGIN},
};
use subtle::ConstantTimeEq as _;

use crate::problem::Problem;

/// The token that is required for changes.
#[derive(Clone)]
pub(crate) struct Token(Arc<[u8]>);

impl Token {
    /// The minimum length of a token in bytes, so that it can't be guessed.
    pub(crate) const LEAST: usize = 16;

    /// `None` if the token is too short, or can't be sent in a field.
    pub(crate) fn new(token: &str) -> Option<Self> {
        let token = token.trim();
        let fit = token.len() >= Self::LEAST && token.bytes().all(|byte| byte.is_ascii_graphic());
        fit.then(|| Self(token.as_bytes().into()))
    }

    /// Compares in constant time, so that the duration does not reveal the first difference.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        self.0.ct_eq(given).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Passes on the requests that are allowed.
pub(crate) async fn guard(
    State(token): State<Option<Token>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
    check(token.as_ref(), peer, request.method(), request.uri(), request.headers())?;
    Ok(next.run(request).await)
}

fn check(
    token: Option<&Token>,
    peer: Option<SocketAddr>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), Problem> {
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
    match (token, given) {
        (Some(token), Some(given)) if token.is(given) => Ok(()),
        (_, Some(_)) => Err(Problem::unauthorized("the token is wrong")),
        (_, None) if only_reads(method, uri) && is_local(peer, uri, headers) => Ok(()),
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

/// Whether the client is on this machine, and connects without a proxy in between, which would hide another client.
pub(crate) fn is_direct(peer: Option<SocketAddr>, headers: &HeaderMap) -> bool {
    const OF_PROXIES: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
    peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
        && !OF_PROXIES.iter().any(|name| headers.contains_key(*name))
}

/// Whether the client is on this machine, and uses a name that only this machine has.
fn is_local(peer: Option<SocketAddr>, uri: &Uri, headers: &HeaderMap) -> bool {
    if !is_direct(peer, headers) {
        return false;
    }
    let stated = headers.get(HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = stated.or(uri.authority().map(http::uri::Authority::as_str)) else { return false };
    let Ok(authority) = authority.parse::<http::uri::Authority>() else { return false };
    let host = authority.host().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
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
        let token = token.map(|token| Token(token.as_bytes().into()));
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let peer = peer.map(|peer| peer.parse().unwrap());
        let checked = check(token.as_ref(), peer, &method.parse().unwrap(), &target.parse().unwrap(), &headers);
        checked.map_or_else(|problem| problem.status().as_u16(), |()| 200)
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
        ] {
            assert_eq!(status(HERE, "GET", "/api/stats", &fields), 401, "{fields:?}");
        }
        assert_eq!(status(HERE, "GET", "/api/stats", &[("host", "[::1]:9000")]), 200);
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
