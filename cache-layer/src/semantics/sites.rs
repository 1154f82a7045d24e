//! Which schemes and hosts are one site, and share stored responses (RFC 9110, sections 4.2.3 and 4.3).

use std::borrow::Cow;

/// Maps schemes and authorities to their canonical form.
///
/// Unless schemes are set apart, all schemes are one: a server rarely knows the scheme of a request (HTTP/2 states it, HTTP/1.1
/// in its usual form does not, and a proxy that terminates TLS states it in ways that can't be trusted), while the
/// application's responses name the scheme that clients see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sites {
    schemes_apart: bool,
    /// Aliases and their canonical hosts; both normalised.
    host_aliases: Vec<(Box<str>, Box<str>)>,
}

impl Sites {
    pub(crate) fn tell_schemes_apart(&mut self, apart: bool) {
        self.schemes_apart = apart;
    }

    /// Makes `alias`, and all aliases of it, an alias of `host`. The error says what is wrong with them.
    pub(crate) fn add_host_alias(&mut self, alias: &str, host: &str) -> Result<(), &'static str> {
        const NO_HOST: &str = "must be a host, with a port where it has one of its own";
        if alias.contains('*') || host.contains('*') {
            return Err("must be one host, without *");
        }
        let alias = plain_authority(alias).ok_or(NO_HOST)?.into_owned().into_boxed_str();
        let host: Box<str> = self.named(plain_authority(host).ok_or(NO_HOST)?).into();
        if alias == host {
            return Err("a host is no alias of itself");
        }
        if self.host_aliases.iter().any(|(known, _)| *known == alias) {
            return Err("an alias has one host");
        }
        for (_, named) in &mut self.host_aliases {
            if *named == alias {
                named.clone_from(&host);
            }
        }
        self.host_aliases.push((alias, host));
        Ok(())
    }

    /// The canonical scheme of a URI.
    pub(crate) fn scheme(&self, stated: Option<&str>) -> &'static str {
        match stated {
            Some(stated) if self.schemes_apart && stated.eq_ignore_ascii_case("https") => "https",
            _ => "http",
        }
    }

    /// The canonical form of an authority under `scheme`: in lower case, without a default port; and whether it states a
    /// default port. `None` if it is not an authority.
    pub(crate) fn authority<'a>(&'a self, scheme: &str, authority: &'a str) -> Option<(Cow<'a, str>, bool)> {
        let bare = match (self.schemes_apart, scheme) {
            (false, _) => without_port(authority, &DEFAULT_PORTS),
            (true, "https") => without_port(authority, &[":443"]),
            (true, _) => without_port(authority, &[":80"]),
        };
        normal(bare).map(|named| (self.named(named), bare.len() < authority.len()))
    }

    /// Whether a reference with the scheme `stated` can refer to a site with the scheme `own`.
    pub(crate) fn is_scheme(&self, stated: &str, own: &str) -> bool {
        let is_http = ["http", "https"].iter().any(|scheme| scheme.eq_ignore_ascii_case(stated));
        is_http && self.scheme(Some(stated)) == own
    }

    fn named<'a>(&'a self, authority: Cow<'a, str>) -> Cow<'a, str> {
        match self.host_aliases.iter().find(|(alias, _)| **alias == *authority) {
            Some((_, host)) => Cow::Borrowed(host),
            None => authority,
        }
    }
}

/// The default ports of both schemes.
const DEFAULT_PORTS: [&str; 2] = [":80", ":443"];

/// An authority under either scheme.
pub(crate) fn plain_authority(authority: &str) -> Option<Cow<'_, str>> {
    normal(without_port(authority, &DEFAULT_PORTS))
}

fn without_port<'a>(authority: &'a str, defaults: &[&str]) -> &'a str {
    let without = defaults.iter().find_map(|port| authority.strip_suffix(port)).unwrap_or(authority);
    without.strip_suffix(':').unwrap_or(without)
}

/// The authority in lower case; `None` if it is not an authority, or has parts that don't belong into that of a target.
fn normal(authority: &str) -> Option<Cow<'_, str>> {
    let mut has_uppercase = false;
    for byte in authority.bytes() {
        match AUTHORITY[usize::from(byte)] {
            Byte::Refused => return None,
            Byte::Uppercase => has_uppercase = true,
            Byte::Plain => {}
        }
    }
    (!authority.is_empty()).then(|| match has_uppercase {
        true => Cow::Owned(authority.to_ascii_lowercase()),
        false => Cow::Borrowed(authority),
    })
}

/// The role of a byte in an authority.
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
            // User information does not belong into a target (RFC 9110, section 4.2.4), and applications treat it differently.
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
    use super::*;

    fn sites(aliases: &[(&str, &str)]) -> Sites {
        let mut sites = Sites::default();
        for (alias, host) in aliases {
            sites.add_host_alias(alias, host).unwrap();
        }
        sites
    }

    fn named(sites: &Sites, authority: &str) -> String {
        sites.authority("http", authority).unwrap().0.into_owned()
    }

    #[test]
    fn an_alias_is_taken_for_its_host_however_it_is_spelled() {
        let sites = sites(&[("WWW.Shop.example", "Shop.example:443"), ("shop.example:8443", "shop.example")]);
        for authority in ["www.shop.example", "www.shop.example:80", "WWW.SHOP.EXAMPLE:443", "shop.EXAMPLE:8443"] {
            assert_eq!(named(&sites, authority), "shop.example", "{authority}");
        }
        assert_eq!(named(&sites, "www.shop.example:8080"), "www.shop.example:8080");
    }

    #[test]
    fn an_alias_of_an_alias_is_one_of_the_host_in_whatever_order_they_are_set() {
        for order in [[("a", "b"), ("b", "c")], [("b", "c"), ("a", "b")]] {
            let sites = sites(&order);
            assert_eq!(["a", "b", "c"].map(|host| named(&sites, host)), ["c"; 3], "{order:?}");
        }
    }

    #[test]
    fn aliases_that_mean_nothing_are_refused() {
        let mut sites = sites(&[("a", "b")]);
        for (alias, host) in [
            ("b", "a"),
            ("A", "a"),
            ("a", "c"),
            ("", "a"),
            ("c", "d/e"),
            ("c", "me@d"),
            ("c d", "e"),
            ("*.c", "d"),
            ("c", "*.d"),
        ] {
            assert!(sites.add_host_alias(alias, host).is_err(), "{alias} {host}");
        }
        assert_eq!(named(&sites, "a"), "b");
    }

    #[test]
    fn schemes_are_one_or_two() {
        let (one, mut two) = (Sites::default(), Sites::default());
        two.tell_schemes_apart(true);
        assert_eq!([Some("https"), Some("http"), None].map(|stated| one.scheme(stated)), ["http"; 3]);
        assert_eq!([Some("HTTPS"), Some("http"), None].map(|stated| two.scheme(stated)), ["https", "http", "http"]);
        assert!(one.is_scheme("https", "http") && !two.is_scheme("https", "http"));
        assert!(!one.is_scheme("ftp", "http"));
        assert_eq!(two.authority("http", "a:443").unwrap(), ("a:443".into(), false));
        assert_eq!(two.authority("https", "a:443").unwrap(), ("a".into(), true));
    }
}
