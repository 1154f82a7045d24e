//! A URL that may hold a password.

use std::fmt;

/// A URL that may hold a password: what is printed of it leaves user, password and options out.
///
/// That holds for a mistyped one too, where nobody can tell which part was meant as the password.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// The whole URL, password included.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
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
        if is_address(address) { write!(f, "{scheme}://{credentials}{address}") } else { write!(f, "{scheme}://***") }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
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
            ("sqlite://products.db?mode=ro", "sqlite://products.db?mode=ro"),
            ("sqlite::memory:", "sqlite::memory:"),
            ("unix:///run/redis.sock?pass=secret", "unix:///run/redis.sock"),
        ] {
            let url = SecretUrl::from(url);
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
        }
    }
}
