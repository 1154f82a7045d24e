//! The paths that are cached, and for how long.

use std::{str::FromStr, time::Duration};

use cache_layer::{Rule, Rules};

use super::quantity;

/// The paths whose responses are cached: `/api/products=60s,/api/categories`.
///
/// A path covers everything below it. The responses of a path without a time are stored for the default time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachePaths(Vec<(String, Option<Duration>)>);

impl CachePaths {
    /// Every path with its time.
    pub(crate) fn with_default(&self, default: Duration) -> impl Iterator<Item = (&str, Duration)> {
        self.0.iter().map(move |(path, time)| (path.as_str(), time.unwrap_or(default)))
    }
}

impl FromStr for CachePaths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(rule).collect::<Result<_, _>>().map(Self)
    }
}

fn rule(text: &str) -> Result<(String, Option<Duration>), String> {
    let (path, time) = match text.split_once('=') {
        Some((path, time)) => {
            let time = quantity::positive_time(time).map_err(|why| format!("the time of {path} {why}"))?;
            (path, Some(time))
        }
        None => (text, None),
    };
    if !path.starts_with('/') || path.contains(char::is_whitespace) {
        return Err(
            "must be paths separated by commas, each with or without a time, such as /api/products=60s,/api/categories"
                .to_owned(),
        );
    }
    // Parsed as a rule is, so that a path that no request can have is refused.
    Rules::new([Rule::prefix(path)]).map_err(|error| error.to_string())?;
    Ok((path.to_owned(), time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_have_a_time_of_its_own() {
        let paths: CachePaths = "/api/products=30s,/api/categories,/".parse().unwrap();
        let default = Duration::from_secs(300);
        assert_eq!(
            paths.with_default(default).collect::<Vec<_>>(),
            [("/api/products", Duration::from_secs(30)), ("/api/categories", default), ("/", default),]
        );
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for wrong in [
            "",
            "api",
            "/a,",
            "/a, /b",
            "/a=",
            "/a=0s",
            "/a=x",
            "/a?b",
            "60s",
            "/a/:id",
            "/a/{id}.json",
            "/a/{*rest}",
            "/a/../b",
        ] {
            assert!(wrong.parse::<CachePaths>().is_err(), "{wrong}");
        }
    }
}
