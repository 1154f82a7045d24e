//! A URL that may contain a password.
//!
//! It is parsed here, and not by the crate `url`, for two reasons. That crate refuses URLs with several hosts and ports, which
//! clusters have. And if a password contains an `@` or a `/` that is not encoded, it takes the rest of the password for a host
//! and a path, which would then be printed: a mistyped secret must be hidden as well.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Password;

/// All characters that are not unreserved (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A URL that may contain a password: its printed form leaves out user, password and options.
///
/// That also holds for a mistyped URL, any part of which could be meant as the password.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// The whole URL, password included.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The same URL with `password`, which may contain any characters.
    pub(super) fn with_password(&self, password: &Password) -> Result<Self, String> {
        let (scheme, rest) = self.0.split_once("://").unwrap_or_default();
        if scheme == "unix" {
            return Err("a unix:// URL takes its password as ?pass=".to_owned());
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        if user.contains(':') {
            return Err("the URL of Redis has a password of its own".to_owned());
        }
        let password = utf8_percent_encode(password.expose(), RESERVED);
        Ok(Self(format!("{scheme}://{user}:{password}@{hosts}{path}")))
    }
}

impl From<&str> for SecretUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

impl From<String> for SecretUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once(':') else {
            return f.write_str("***");
        };
        // An address without a scheme is shown as it was written.
        if is_bare_address(&self.0) {
            return f.write_str(&self.0);
        }
        match scheme {
            "sqlite" => return f.write_str(&self.0),
            "unix" => {
                let path = rest.split('?').next().unwrap_or_default();
                return write!(f, "unix:{path}");
            }
            _ => {}
        }
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((_, address)) => ("***@", address),
            None => ("", rest.strip_prefix("//").unwrap_or(rest)),
        };
        let address = address.split(['?', '#']).next().unwrap_or_default();
        // Without slashes and `@`, what follows the colon may be a password.
        let is_shown = is_address(address) && (rest.starts_with("//") || !credentials.is_empty());
        if is_shown { write!(f, "{scheme}://{credentials}{address}") } else { write!(f, "{scheme}://***") }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `host:port`, perhaps with a path.
fn is_bare_address(text: &str) -> bool {
    let place = text.split('/').next().unwrap_or_default();
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    place.rsplit_once(':').is_some_and(|(_, port)| is_port(port)) && !text.contains(['@', '?'])
}

/// `host`, `host:port` or either with a path; anything else could be a password without its `@`.
fn is_address(text: &str) -> bool {
    let authority = text.split('/').next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, "0"),
    };
    !host.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_has_no_secret() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
            ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
            ("redis://[::1]", "redis://[::1]"),
            ("redis://:secret@host:6379/0", "redis://***@host:6379/0"),
            ("rediss://me:s@c/r?e#t@host", "rediss://***@host"),
            ("redis+cluster://:secret@a:1,b:2", "redis+cluster://***@a:1,b:2"),
            ("redis+sentinel://a,b:2/main?sentinel_pass=secret", "redis+sentinel://a,b:2/main"),
            ("redis://:secret", "redis://***"),
            ("redis://:secret/0", "redis://***"),
            ("postgres://me:secret", "postgres://***"),
            ("postgres://me:secret/products", "postgres://***"),
            ("postgres://me:secret@db/products?password=secret", "postgres://***@db/products"),
            ("redis:secret@host", "redis://***@host"),
            ("secret", "***"),
            ("localhost:6379", "localhost:6379"),
            ("[::1]:6379/0", "[::1]:6379/0"),
            ("me:secret@localhost:6379", "me://***@localhost:6379"),
            ("localhost:secret", "localhost://***"),
            ("sqlite://products.db?mode=ro", "sqlite://products.db?mode=ro"),
            ("sqlite::memory:", "sqlite::memory:"),
            ("unix:///run/redis.sock?pass=secret", "unix:///run/redis.sock"),
        ] {
            let url = SecretUrl::from(url);
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
        }
    }

    #[test]
    fn a_password_goes_where_the_scheme_wants_it() {
        let password = Password::from("p@ss/w:rd%é".to_owned());
        let encoded = "p%40ss%2Fw%3Ard%25%C3%A9";
        for (url, before, after) in [
            ("redis://host:6379/0", "redis://:", "@host:6379/0"),
            ("rediss://me@host", "rediss://me:", "@host"),
            ("redis://me@[::1]:6379?db=1", "redis://me:", "@[::1]:6379?db=1"),
            ("redis+sentinel://me@a:1,b:2/main", "redis+sentinel://me:", "@a:1,b:2/main"),
        ] {
            let url = SecretUrl::from(url).with_password(&password).unwrap();
            assert_eq!(url.expose(), format!("{before}{encoded}{after}"));
        }
        for url in ["redis://me:other@host", "redis://:@host", "unix:///run/redis.sock"] {
            assert!(SecretUrl::from(url).with_password(&password).is_err(), "{url}");
        }
    }
}
