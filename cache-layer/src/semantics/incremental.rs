//! Messages that are to be passed on as they arrive (RFC 10036).

use http::{HeaderMap, HeaderName};
use sfv::BareItem;

use super::structured;

pub(crate) const INCREMENTAL: HeaderName = HeaderName::from_static("incremental");

/// Whether the message is incremental: `?1`, whatever its parameters. Any other value is ignored (section 3).
pub(crate) fn is_incremental(headers: &HeaderMap) -> bool {
    let item = structured::item(headers, &INCREMENTAL);
    item.is_some_and(|item| item.bare_item == BareItem::Boolean(true))
}

#[cfg(test)]
mod tests {
    use super::is_incremental;
    use crate::semantics::test_fields::headers;

    #[test]
    fn only_true_means_anything() {
        for (lines, expected) in [
            (&[][..], false),
            (&["?1"], true),
            (&[" ?1 "], true),
            (&["?1;why=x"], true),
            (&["?0"], false),
            (&["1"], false),
            (&["true"], false),
            (&["?1, ?1"], false),
            (&["?1", "?1"], false),
            (&["(?1)"], false),
            (&[""], false),
        ] {
            let fields: Vec<_> = lines.iter().map(|line| ("incremental", *line)).collect();
            assert_eq!(is_incremental(&headers(&fields)), expected, "{lines:?}");
        }
    }
}
