//! The user's own rules: how long to keep what the application says nothing about.

use std::time::Duration;

/// Which responses are kept for how long when the application states no freshness of its own.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    ttl: Option<Duration>,
    /// Longest prefix first.
    paths: Vec<(String, Duration)>,
    pub(crate) max_body: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { ttl: None, paths: Vec::new(), max_body: 1024 * 1024 }
    }
}

impl Policy {
    pub(crate) fn set_ttl(&mut self, ttl: Duration) {
        self.ttl = Some(ttl);
    }

    pub(crate) fn add_path(&mut self, prefix: &str, ttl: Duration) {
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        self.paths.retain(|(known, _)| *known != prefix);
        self.paths.push((prefix, ttl));
        self.paths.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    }

    /// The most specific rule for `path`; none means that only the application decides.
    pub(crate) fn ttl(&self, path: &str) -> Option<Duration> {
        self.paths.iter().find(|(prefix, _)| covers(prefix, path)).map(|(_, ttl)| *ttl).or(self.ttl)
    }
}

/// Whether `path` is `prefix` or lies below it: `/a` covers `/a` and `/a/b`, and not `/ab`.
fn covers(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn policy() -> Policy {
        let mut policy = Policy::default();
        policy.add_path("/api", HOUR);
        policy.add_path("/api/products/", MINUTE);
        policy
    }

    #[test]
    fn the_most_specific_prefix_wins() {
        assert_eq!(policy().ttl("/api/products"), Some(MINUTE));
        assert_eq!(policy().ttl("/api/products/42"), Some(MINUTE));
        assert_eq!(policy().ttl("/api/users"), Some(HOUR));
    }

    #[test]
    fn a_prefix_covers_whole_segments_only() {
        assert_eq!(policy().ttl("/apiary"), None);
        assert_eq!(policy().ttl("/api/products-internal"), Some(HOUR));
    }

    #[test]
    fn without_a_rule_the_default_decides() {
        let mut policy = policy();
        assert_eq!(policy.ttl("/"), None);
        policy.set_ttl(MINUTE);
        assert_eq!(policy.ttl("/"), Some(MINUTE));
    }

    #[test]
    fn the_root_covers_everything() {
        let mut policy = policy();
        policy.add_path("/", MINUTE);
        assert_eq!(policy.ttl("/x"), Some(MINUTE));
        assert_eq!(policy.ttl("/"), Some(MINUTE));
    }

    #[test]
    fn slashes_around_a_prefix_make_no_difference() {
        let mut policy = Policy::default();
        policy.add_path("api/", MINUTE);
        assert_eq!(policy.ttl("/api/users"), Some(MINUTE));
    }

    #[test]
    fn a_later_rule_for_the_same_prefix_replaces_the_earlier() {
        let mut policy = policy();
        policy.add_path("/api", MINUTE);
        assert_eq!(policy.ttl("/api/users"), Some(MINUTE));
    }
}
