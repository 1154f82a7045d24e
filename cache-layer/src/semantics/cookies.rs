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
        !self.bypass.is_empty() && pairs(request).any(|pair| self.bypass.has(pair.name))
    }

    /// Whether any cookies are ignored or part of the key.
    fn leaves_out(&self) -> bool {
        !self.ignored.is_empty() || !self.keyed.is_empty()
    }

    /// Whether a cookie may make a difference that is not part of the key.
    fn counts(&self, Pair { text, name, is_legible }: Pair<'_>) -> bool {
        let is_known = || self.ignored.has(name) || self.keyed.iter().any(|keyed| keyed.as_bytes() == name);
        !(text.is_empty() || is_legible && is_known())
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
        pairs(request).all(|pair| pair.text.is_empty() || (pair.is_legible && self.ignored.has(pair.name)))
    }

    /// The request's fields, reduced to the cookies that may make a difference that is not part of the key.
    pub(crate) fn that_count<'a>(&self, request: &'a HeaderMap) -> Cow<'a, HeaderMap> {
        if !self.leaves_out() || !request.contains_key(COOKIE) {
            return Cow::Borrowed(request);
        }
        let counting: Vec<&[u8]> = pairs(request).filter(|pair| self.counts(*pair)).map(|pair| pair.text).collect();
        let mut fields = request.clone();
        fields.remove(COOKIE);
        // Parts of field values, put together as they were.
        if let (false, Ok(value)) = (counting.is_empty(), HeaderValue::from_bytes(&counting.join(&b"; "[..]))) {
            fields.insert(COOKIE, value);
        }
        Cow::Owned(fields)
    }
}

/// The cookies of this name as a key has them, in the order of the request: the value of each, or all that follows the name and a
/// `;`, which no value has, if that is not a `=` and a value.
pub(crate) fn keyed<'a>(request: &'a HeaderMap, cookie: &'a str) -> impl Iterator<Item = Vec<u8>> {
    let of_name = pairs(request).filter(move |pair| pair.name == cookie.as_bytes());
    of_name.map(move |pair| match pair.text[pair.name.len()..].split_first() {
        Some((b'=', value)) => value.to_vec(),
        _ => [b";", &pair.text[pair.name.len()..]].concat(),
    })
}

/// One cookie of a request.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    /// As it was sent, without the blanks around it.
    pub(super) text: &'a [u8],
    /// Applications trim it, or take the blanks for a part of it.
    pub(super) name: &'a [u8],
    /// Its line has characters of ASCII alone: many applications ignore any other line as a whole, and so every cookie in it.
    is_legible: bool,
}

/// The cookies of a request. Whatever asks for their names has to ask here, so that a key has what is taken to be in it.
pub(super) fn pairs(request: &HeaderMap) -> impl Iterator<Item = Pair<'_>> {
    request.get_all(COOKIE).into_iter().flat_map(|line| {
        let is_legible = line.as_bytes().is_ascii();
        line.as_bytes().split(|&byte| byte == b';').map(move |pair| {
            let text = pair.trim_ascii();
            let name = text.split(|&byte| byte == b'=').next().unwrap_or_default().trim_ascii_end();
            Pair { text, name, is_legible }
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        assert_eq!(keyed(&request, "a").collect::<Vec<_>>(), [&b"1"[..], b"", b";"]);
    }

    #[test]
    fn an_odd_spelling_is_in_the_key_and_is_none_of_a_value() {
        let of = |line: &str| keyed(&headers(&[("cookie", line)]), "a").collect::<Vec<_>>();
        let lines =
            ["a=1", "a =1", "a\t=1", "a= 1", "a", "a=", "a =", "a= =1", "a=a =1", "a=1; a", "a; a=1", "b=1", ""];
        for line in lines {
            assert_eq!(
                lines.iter().filter(|other| of(other) == of(line)).count(),
                if line == "b=1" || line.is_empty() { 2 } else { 1 },
                "{line}"
            );
        }
        assert_eq!(of("x=1;a = 1 ;y"), [b"; = 1"]);
    }

    #[test]
    fn cookies_of_a_line_that_an_application_may_ignore_as_a_whole_count() {
        let count = |line: &str| policy().any_counts(&headers(&[("cookie", line)]));
        assert!(!count("_ga=1; currency=EUR"));
        assert!(count("_ga=é; currency=EUR") && !policy().ignores_all(&headers(&[("cookie", "_ga=é")])));
        let lines = headers(&[("cookie", "_ga=é; currency=EUR"), ("cookie", "_ga=2")]);
        let counting = policy().that_count(&lines).into_owned();
        assert_eq!(counting.get(COOKIE).unwrap().as_bytes(), "_ga=é; currency=EUR".as_bytes());
        assert!(policy().any_counts(&counting));
    }

    proptest! {
        /// A cookie that keeps nothing from being stored is one that is ignored, or one that changes the key.
        #[test]
        fn what_neither_counts_nor_is_ignored_is_in_the_key(line in "([ \t]?(currency|curr|_ga|x)?[ \t]?(=[ \t]?[a-cé]{0,2})?;?){0,4}") {
            let (request, policy) = (headers(&[("cookie", &line)]), policy());
            let is_ignored = |pair: &Pair<'_>| pair.text.is_empty() || policy.ignored.has(pair.name);
            let silent = pairs(&request).filter(|pair| !policy.counts(*pair) && !is_ignored(pair)).count();
            let in_key = keyed(&request, "currency").count();
            prop_assert!(silent <= in_key, "{line:?}: {silent} cookies say nothing, of which {in_key} are in the key");
            prop_assert_eq!(in_key, pairs(&request).filter(|pair| pair.text.starts_with(b"currency") && pair.name == b"currency").count());
        }
    }
}
