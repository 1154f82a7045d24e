//! The directives of a response that address this cache: those of a targeted field (RFC 9213), or else those of
//! `Cache-Control`.

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry};

use super::{cache_control::CacheControl, delta_seconds::DeltaSeconds, structured};

/// What a response says about its caching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResponseDirectives {
    /// The directives that count.
    pub(crate) cache_control: CacheControl,
    /// Whether they are from a targeted field; then `Expires` is ignored, too.
    pub(crate) targeted: bool,
}

impl ResponseDirectives {
    /// The first of `targets` that is in the response, parses and is not empty decides alone.
    pub(crate) fn from_headers(headers: &HeaderMap, targets: &[HeaderName]) -> Self {
        match targets.iter().find_map(|name| targeted_directives(headers, name)) {
            Some(cache_control) => Self { cache_control, targeted: true },
            None => Self { cache_control: CacheControl::from_headers(headers), targeted: false },
        }
    }
}

fn targeted_directives(headers: &HeaderMap, name: &HeaderName) -> Option<CacheControl> {
    let dictionary = structured::dictionary(headers, name)?;
    (!dictionary.is_empty()).then(|| directives(&dictionary))
}

/// As in `Cache-Control`, a restriction counts whatever its value, except for a plain `?0`; a permission counts
/// only in its exact form.
fn directives(dictionary: &Dictionary) -> CacheControl {
    let value = |name: &str| dictionary.get(name).map(bare_item);
    let restricts = |name| value(name).is_some_and(|value| value != Some(&BareItem::Boolean(false)));
    let permits = |name| value(name) == Some(Some(&BareItem::Boolean(true)));
    let seconds = |name| value(name).map(delta_seconds);
    CacheControl {
        no_store: restricts("no-store"),
        no_cache: restricts("no-cache"),
        private: restricts("private"),
        public: permits("public"),
        must_revalidate: restricts("must-revalidate"),
        proxy_revalidate: restricts("proxy-revalidate"),
        must_understand: permits("must-understand"),
        immutable: permits("immutable"),
        no_transform: restricts("no-transform"),
        max_age: seconds("max-age"),
        s_maxage: seconds("s-maxage"),
        stale_while_revalidate: seconds("stale-while-revalidate"),
        stale_if_error: seconds("stale-if-error"),
        ..CacheControl::default()
    }
}

/// The value of a member that is an item, without its parameters.
fn bare_item(member: &ListEntry) -> Option<&BareItem> {
    match member {
        ListEntry::Item(item) => Some(&item.bare_item),
        ListEntry::InnerList(_) => None,
    }
}

fn delta_seconds(value: Option<&BareItem>) -> DeltaSeconds {
    match value {
        Some(BareItem::Integer(seconds)) => u64::try_from(*seconds)
            .map_or(DeltaSeconds::Invalid, |seconds| DeltaSeconds::Seconds(seconds.min(DeltaSeconds::MAX))),
        _ => DeltaSeconds::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        DeltaSeconds::{Invalid, Seconds},
        *,
    };
    use crate::semantics::test_fields::headers;

    const OWN: HeaderName = HeaderName::from_static("own-cache-control");
    const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");

    fn read(fields: &[(&'static str, &'static str)]) -> ResponseDirectives {
        ResponseDirectives::from_headers(&headers(fields), &[OWN, CDN])
    }

    fn cdn(line: &'static str) -> CacheControl {
        let read = read(&[("cdn-cache-control", line), ("cache-control", "no-transform")]);
        assert!(read.targeted, "{line}");
        assert!(!read.cache_control.no_transform, "{line}");
        read.cache_control
    }

    #[test]
    fn without_a_usable_targeted_field_cache_control_decides() {
        for line in ["", " ", "max-age=10000, &&&&&", "MaX-aGe=3600", "max-age =100", "max-age= 100", "max-age=1,"] {
            let read = read(&[("cdn-cache-control", line), ("cache-control", "no-store, max-age=1")]);
            assert!(!read.targeted && read.cache_control.no_store, "{line:?}");
        }
        assert!(!read(&[("cache-control", "max-age=1")]).targeted);
    }

    #[test]
    fn the_first_usable_target_decides_alone() {
        let first = read(&[("own-cache-control", "max-age=5"), ("cdn-cache-control", "no-store")]);
        assert_eq!((first.cache_control.max_age, first.cache_control.no_store), (Some(Seconds(5)), false));
        let second = read(&[("own-cache-control", "max-age=!"), ("cdn-cache-control", "max-age=6")]);
        assert_eq!(second.cache_control.max_age, Some(Seconds(6)));
    }

    #[test]
    fn a_field_that_is_no_target_says_nothing() {
        let fields = headers(&[("cdn-cache-control", "no-store"), ("cache-control", "max-age=5")]);
        let read = ResponseDirectives::from_headers(&fields, &[]);
        assert_eq!(read, ResponseDirectives::from_headers(&fields, &[OWN]));
        assert!(!read.targeted && !read.cache_control.no_store);
    }

    #[test]
    fn a_valid_targeted_field_silences_cache_control() {
        assert_eq!(cdn("foobar, max-age=3600").max_age, Some(Seconds(3600)));
        assert_eq!(cdn("foo"), CacheControl::default());
    }

    #[test]
    fn only_integers_are_seconds() {
        for (line, expected) in [
            ("max-age=3600", Seconds(3600)),
            ("max-age=3600;foo=bar", Seconds(3600)),
            ("max-age=1, max-age=2", Seconds(2)),
            ("max-age=2147483648", Seconds(DeltaSeconds::MAX)),
            ("max-age=99999999999", Seconds(DeltaSeconds::MAX)),
            ("max-age=\"10000\"", Invalid),
            ("max-age=3600.0", Invalid),
            ("max-age=-1", Invalid),
            ("max-age=(3600)", Invalid),
            ("max-age", Invalid),
            ("max-age=a", Invalid),
        ] {
            assert_eq!(cdn(line).max_age, Some(expected), "{line}");
        }
        let all = cdn("s-maxage=1, stale-while-revalidate=2, stale-if-error=3");
        assert_eq!(
            (all.s_maxage, all.stale_while_revalidate, all.stale_if_error),
            (Some(Seconds(1)), Some(Seconds(2)), Some(Seconds(3)))
        );
    }

    #[test]
    fn restrictions_count_in_any_form_and_permissions_in_theirs() {
        let restricted = cdn("no-store=1, private=\"a\", no-cache=(\"a\"), must-revalidate, proxy-revalidate=?1");
        assert!(restricted.no_store && restricted.private && restricted.no_cache);
        assert!(restricted.must_revalidate && restricted.proxy_revalidate);
        assert_eq!(cdn("no-store=?0, private=?0, public=1, immutable=x, must-understand=?0"), CacheControl::default());
        let permitted = cdn("public, immutable=?1, must-understand;x");
        assert!(permitted.public && permitted.immutable && permitted.must_understand);
    }

    #[test]
    fn lines_of_a_targeted_field_are_one_dictionary() {
        let read = read(&[("cdn-cache-control", "max-age=5"), ("cdn-cache-control", "no-cache")]);
        assert_eq!((read.cache_control.max_age, read.cache_control.no_cache), (Some(Seconds(5)), true));
    }
}
