//! Query parameters that make no difference to a response.

use std::borrow::Cow;

/// A path and query without the parameters of these names, where a name that ends in `*` is a prefix.
///
/// Names are compared byte by byte, without decoding; the other parameters keep their order and their bytes.
pub(crate) fn without_parameters<'a>(path_and_query: &'a str, ignored: &[String]) -> Cow<'a, str> {
    if ignored.is_empty() {
        return Cow::Borrowed(path_and_query);
    }
    let Some((path, query)) = path_and_query.split_once('?') else { return Cow::Borrowed(path_and_query) };
    let counts = |parameter: &&str| {
        let name = parameter.split('=').next().unwrap_or_default();
        !ignored.iter().any(|ignored| match ignored.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == ignored,
        })
    };
    if query.split('&').all(|parameter| counts(&parameter)) {
        return Cow::Borrowed(path_and_query);
    }
    let kept: Vec<&str> = query.split('&').filter(counts).collect();
    if kept.is_empty() {
        return Cow::Borrowed(path);
    }
    Cow::Owned(format!("{path}?{}", kept.join("&")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::without_parameters;

    fn ignored() -> Vec<String> {
        vec!["fbclid".to_owned(), "utm_*".to_owned()]
    }

    #[test]
    fn only_the_named_parameters_are_dropped() {
        for (target, expected) in [
            ("/a", "/a"),
            ("/a?", "/a?"),
            ("/a?b=1&c=2", "/a?b=1&c=2"),
            ("/a?b=1&fbclid=x&c", "/a?b=1&c"),
            ("/a?utm_source=x&utm_=&utm_medium", "/a"),
            ("/a?fbclid", "/a"),
            ("/a?fbclid2=1&xfbclid=2&utm=3&FBCLID=4", "/a?fbclid2=1&xfbclid=2&utm=3&FBCLID=4"),
            ("/a?b=utm_x?fbclid=1", "/a?b=utm_x?fbclid=1"),
            ("/a?&fbclid=1&", "/a?&"),
        ] {
            assert_eq!(without_parameters(target, &ignored()), expected, "{target}");
        }
    }

    #[test]
    fn without_a_list_the_target_is_as_it_stands() {
        assert_eq!(without_parameters("/a?utm_source=x", &[]), "/a?utm_source=x");
    }

    proptest! {
        #[test]
        fn targets_that_differ_in_another_parameter_stay_apart(one in "[a-z=&]{0,12}", other in "[a-z=&]{0,12}") {
            let target = |query: &str| without_parameters(&format!("/?{query}&fbclid=1"), &ignored()).into_owned();
            prop_assert_eq!(target(&one) == target(&other), one == other);
        }
    }
}
