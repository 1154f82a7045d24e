//! The paths for which `PURGE` is accepted as a method.

use std::str::FromStr;

/// Paths below which `PURGE` is accepted: `/api/products,/api/categories`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PurgePaths(pub Vec<String>);

impl FromStr for PurgePaths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_path =
            |path: &str| path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?');
        match text.split(',').all(is_path) {
            true => Ok(Self(text.split(',').map(str::to_owned).collect())),
            false => Err("must be paths separated by commas, such as /api/products,/api/categories".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_paths_and_nothing_else() {
        assert_eq!("/api,/".parse(), Ok(PurgePaths(vec!["/api".to_owned(), "/".to_owned()])));
        for wrong in ["", "api", "/a,", "/a, /b", "/a?b", "*"] {
            assert!(wrong.parse::<PurgePaths>().is_err(), "{wrong}");
        }
    }
}
