//! Which cookies of a request make a difference to the response.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, header::COOKIE};

use super::names::Names;

/// The role of each cookie of an application, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CookiePolicy {
    /// A request with one of these cookies goes to the application.
    pub(crate) bypass: Names,
    /// These cookies make no difference to a response.
    pub(crate) ignored: Names,
    /// The values of these cookies are part of the key.
    pub(crate) keyed: Vec<Box<str>>,
}

impl CookiePolicy {
    /// Whether the request has a cookie that sends it to the application.
    pub(crate) fn bypasses(&self, request: &HeaderMap) -> bool {
        !self.bypass.is_empty() && pairs(request).any(|pair| self.bypass.has(name(pair)))
    }

    /// Whether any cookies are ignored or part of the key.
    fn leaves_out(&self) -> bool {
        !self.ignored.is_empty() || !self.keyed.is_empty()
    }

    /// Whether a cookie may make a difference that is not part of the key.
    fn counts(&self, pair: &[u8]) -> bool {
        let name = name(pair);
        !pair.is_empty() && !self.ignored.has(name) && !self.keyed.iter().any(|keyed| keyed.as_bytes() == name)
    }

    /// Whether the request has cookies that may make a difference to the response.
    pub(crate) fn any_counts(&self, request: &HeaderMap) -> bool {
        match self.leaves_out() {
            true => pairs(request).any(|pair| self.counts(pair)),
            false => request.contains_key(COOKIE),
        }
    }

    /// Whether none of the request's cookies makes any difference to a response, by the key or otherwise.
    pub(crate) fn ignores_all(&self, request: &HeaderMap) -> bool {
        pairs(request).all(|pair| pair.is_empty() || self.ignored.has(name(pair)))
    }

    /// The request's fields, reduced to the cookies that may make a difference that is not part of the key.
    pub(crate) fn that_count<'a>(&self, request: &'a HeaderMap) -> Cow<'a, HeaderMap> {
        if !self.leaves_out() || !request.contains_key(COOKIE) {
            return Cow::Borrowed(request);
        }
        let counting: Vec<&[u8]> = pairs(request).filter(|pair| self.counts(pair)).collect();
        let mut fields = request.clone();
        fields.remove(COOKIE);
        // Parts of field values, put together as they were.
        if let (false, Ok(value)) = (counting.is_empty(), HeaderValue::from_bytes(&counting.join(&b"; "[..]))) {
            fields.insert(COOKIE, value);
        }
        Cow::Owned(fields)
    }
}

/// The values of the cookie of this name, in the order of the request.
pub(crate) fn values<'a>(request: &'a HeaderMap, cookie: &'a str) -> impl Iterator<Item = &'a [u8]> {
    pairs(request).filter_map(move |pair| pair.strip_prefix(cookie.as_bytes())?.strip_prefix(b"="))
}

fn pairs(request: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = request.get_all(COOKIE).into_iter();
    lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b';')).map(<[u8]>::trim_ascii)
}

fn name(pair: &[u8]) -> &[u8] {
    pair.split(|&byte| byte == b'=').next().unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::test_fields::headers;

    fn policy() -> CookiePolicy {
        CookiePolicy {
            bypass: Names::new(["session", "admin_*"]),
            ignored: Names::new(["_ga*"]),
            keyed: vec!["currency".into()],
        }
    }

    /// The cookies that count, line by line.
    fn counting(policy: &CookiePolicy, lines: &[(&'static str, &str)]) -> Vec<String> {
        let request = headers(lines);
        let counting = policy.that_count(&request);
        assert_eq!(policy.any_counts(&request), counting.contains_key(COOKIE), "{lines:?}");
        counting.get_all(COOKIE).iter().map(|line| line.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn those_that_make_no_difference_and_those_in_the_key_do_not_count() {
        for (lines, expected) in [
            (&[][..], &[][..]),
            (&[("cookie", "_ga=1; _gat_x=2")], &[]),
            (&[("cookie", "_ga=1"), ("cookie", "currency=EUR")], &[]),
            (&[("cookie", "_ga=1; cart=7;_gid=2;x")], &["cart=7; _gid=2; x"][..]),
            (&[("cookie", "_g=1")], &["_g=1"]),
            (&[("cookie", "")], &[]),
        ] {
            let policy = CookiePolicy { keyed: vec!["currency".into()], ..policy() };
            assert_eq!(counting(&policy, lines), expected, "{lines:?}");
        }
        assert_eq!(counting(&CookiePolicy::default(), &[("cookie", " a=1 ;b")]), [" a=1 ;b"]);
    }

    #[test]
    fn a_request_with_one_of_some_cookies_goes_on() {
        let bypasses = |line: &str| policy().bypasses(&headers(&[("cookie", line)]));
        assert!(bypasses("session=1") && bypasses("a=b; admin_x=1") && bypasses("a; session"));
        assert!(!bypasses("sessions=1") && !bypasses("a=session") && !CookiePolicy::default().bypasses(&headers(&[])));
    }

    #[test]
    fn only_those_that_are_ignored_make_no_difference_at_all() {
        let ignores = |line: &str| policy().ignores_all(&headers(&[("cookie", line)]));
        assert!(ignores("_ga=1; _gat=2") && ignores("") && policy().ignores_all(&headers(&[])));
        assert!(!ignores("_ga=1; currency=EUR") && !ignores("session=1") && !ignores("a"));
    }

    #[test]
    fn a_cookie_may_be_there_twice() {
        let request = headers(&[("cookie", "a=1; b=2"), ("cookie", "a=; ab=3; a")]);
        assert_eq!(values(&request, "a").collect::<Vec<_>>(), [&b"1"[..], b""]);
    }
}
