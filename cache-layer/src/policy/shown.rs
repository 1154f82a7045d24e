//! Settings in readable form, by the names of their setters.

use std::{fmt::Display, time::Duration};

use super::{Policy, Voids};
use crate::{
    semantics::{caching_policy::CachingPolicy, cookies::CookiePolicy},
    telemetry::NoCacheReason,
};

/// A setting by the name of its setter, and what it is.
pub(crate) type Shown = (&'static str, String);

impl Policy {
    /// Each setting that applies to a request for `path`.
    pub(crate) fn shown(&self, path: &str) -> Vec<Shown> {
        // Destructured in full, so that the compiler reports a setting that is missing here.
        let Self {
            caching,
            bypass,
            bypass_if,
            verify: _,
            refresh,
            is_hinted: _,
            ttl: _,
            paths: _,
            jitter,
            max_body,
            early_refresh,
            inherits,
            keep_if,
            etags,
            not_stored,
            max_variants,
            key_headers,
            tag_fields,
            tag_shapes: _,
            pass_tag_fields,
            remaining,
            cookies,
            failure_backoff: (first, longest),
            share_failures,
            voids,
            soft_timeout,
            encode,
        } = self;
        let mut shown = vec![
            ("enabled", yes(*bypass != Some(NoCacheReason::Off))),
            ("bypass", yes(matches!(bypass, Some(NoCacheReason::Rule | NoCacheReason::Hint)))),
            ("bypass_if", set(bypass_if.is_some())),
            ("refresh", yes(*refresh)),
            ("verify", or_off(self.verification_rate().as_ref())),
            ("ttl", self.shown_ttl(path)),
            ("jitter", format!("{jitter} %")),
            ("max_body", format!("{max_body} bytes")),
            ("soft_timeout", soft_timeout.map_or_else(|| "none".to_owned(), |limit| format!("{limit:?}"))),
            ("early_refresh", or_off(early_refresh.as_ref())),
            ("inherit", yes(*inherits)),
            ("keep_if", set(keep_if.is_some())),
            ("etags", yes(*etags)),
            ("encode", listed(encode.iter().flat_map(|encode| encode.encoders()))),
            ("not_stored", listed(not_stored.iter())),
            ("max_variants", max_variants.to_string()),
            ("key_headers", listed(key_headers)),
            ("tag_fields", listed(tag_fields)),
            ("pass_tag_fields", yes(*pass_tag_fields)),
            ("remaining", format!("{remaining:?}")),
            ("failure_backoff", format!("{first:?} to {longest:?}")),
            ("share_failures", yes(*share_failures)),
            ("voids", shown_voids(voids).to_owned()),
        ];
        shown.extend(shown_cookies(cookies));
        shown.extend(shown_choices(caching));
        shown
    }

    /// How long a response without stated freshness is kept, and the prefix that says so, if one does.
    fn shown_ttl(&self, path: &str) -> String {
        match (self.ttl(path), self.prefix_of(path)) {
            (None, _) => "none".to_owned(),
            (Some(ttl), Some(prefix)) => format!("{ttl:?} for {prefix}"),
            (Some(ttl), None) => format!("{ttl:?}"),
        }
    }
}

fn shown_cookies(CookiePolicy { bypass, ignored, keyed }: &CookiePolicy) -> [Shown; 3] {
    [
        ("bypass_on_cookies", listed(bypass.iter())),
        ("ignore_cookies", listed(ignored.iter())),
        ("key_cookies", listed(keyed)),
    ]
}

fn shown_choices(caching: &CachingPolicy) -> Vec<Shown> {
    let CachingPolicy {
        private,
        credentials,
        targets,
        heuristics,
        set_cookie,
        stray_content_range,
        post_for_get,
        negative_ttl,
        ttl_cap,
        default_stale_while_revalidate,
        default_stale_if_error,
        s_maxage_permits_stale,
        stale_if_disconnected,
        keep_for_validation,
        request_directives,
        normalization,
        ignored_query,
    } = caching;
    let negative = negative_ttl.iter().map(|(status, millis)| format!("{status}: {}", duration(*millis)));
    vec![
        ("private", yes(*private)),
        ("credentials", listed(credentials)),
        ("targeted_fields", listed(targets)),
        ("heuristics", yes(*heuristics)),
        ("set_cookie", format!("{set_cookie:?}")),
        ("stray_content_range", yes(*stray_content_range)),
        ("post_for_get", yes(*post_for_get)),
        ("negative_ttl", listed(negative)),
        ("ttl_cap", ttl_cap.map_or_else(|| "none".to_owned(), duration)),
        ("stale_while_revalidate", duration(*default_stale_while_revalidate)),
        ("stale_if_error", duration(*default_stale_if_error)),
        ("s_maxage_permits_stale", yes(*s_maxage_permits_stale)),
        ("stale_if_disconnected", duration(*stale_if_disconnected)),
        ("keep_for_validation", duration(*keep_for_validation)),
        ("request_directives", yes(*request_directives)),
        ("vary", normalization.to_string()),
        ("ignore_query", listed(ignored_query)),
    ]
}

fn shown_voids(voids: &Voids) -> &'static str {
    match voids {
        Voids::All => "all",
        Voids::None => "none",
        Voids::If(_) => "set",
    }
}

fn duration(millis: u64) -> String {
    format!("{:?}", Duration::from_millis(millis))
}

fn yes(on: bool) -> String {
    if on { "yes" } else { "no" }.to_owned()
}

/// A setting that can't be printed, because it is a function.
fn set(is_set: bool) -> String {
    if is_set { "set" } else { "none" }.to_owned()
}

fn or_off(value: Option<&impl Display>) -> String {
    value.map_or_else(|| "no".to_owned(), ToString::to_string)
}

fn listed<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    if values.is_empty() { "none".to_owned() } else { values.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_has_one_name_and_a_value() {
        let mut policy = Policy::default();
        policy.add_path("/shops", Duration::from_secs(60));
        let mut names: Vec<&str> = policy.shown("/").iter().map(|(name, _)| *name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(policy.shown("/").iter().all(|(_, value)| !value.is_empty()));
        let ttl = |path| policy.shown(path).into_iter().find(|(name, _)| *name == "ttl").unwrap().1;
        assert_eq!([ttl("/"), ttl("/shops/7")], ["none", "60s for /shops"]);
    }
}
