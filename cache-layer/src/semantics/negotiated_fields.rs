//! Negotiation in the application's place: which of the application's codings and languages a client accepts, and in which
//! order (RFC 9110, sections 12.5.3 and 12.5.4).
//!
//! The resulting field is the same for all clients that get the same answer. It is part of the key, and the application gets
//! it in place of the client's own field: otherwise the application could choose by a difference that is not in the key.

use super::preference::{Preference, preferences};

/// The field for an application that has these `codings`; `None` if the field has to stay as it is, because it can't be read,
/// or refuses `identity`.
pub(crate) fn negotiated_codings(value: &[u8], codings: &[String]) -> Option<Vec<u8>> {
    let members = preferences(value)?;
    if members.is_empty() {
        // The field is empty: the client wants no coding.
        return Some(Vec::new());
    }
    let weight = |name: &str| coding_weight(&members, name);
    if weight("identity") == Some(0) {
        return None;
    }
    let weights = codings.iter().map(|coding| (coding.as_str(), weight(coding).unwrap_or(0)));
    let accepted: Vec<_> = weights.filter(|(_, weight)| *weight > 0).collect();
    Some(if accepted.is_empty() { b"identity".to_vec() } else { ranked(accepted) })
}

/// Whether content in `coding` may be sent to a client with this `Accept-Encoding`.
pub(crate) fn accepts_coding(value: &[u8], coding: &[u8]) -> bool {
    let Ok(coding) = str::from_utf8(coding) else { return true };
    let coding = canonical_coding(coding.trim()).to_ascii_lowercase();
    // A field that can't be read is ignored, and an unknown coding may be a mistake of the application.
    let Some(members) = preferences(value).filter(|_| KNOWN_CODINGS.contains(&coding.as_str())) else { return true };
    coding_weight(&members, &coding).unwrap_or(0) > 0
}

const KNOWN_CODINGS: [&str; 7] = ["gzip", "compress", "deflate", "br", "zstd", "dcb", "dcz"];

/// The current name of a coding (RFC 9110, section 8.4.1).
pub(crate) fn canonical_coding(name: &str) -> &str {
    match name.len() {
        6 if name.eq_ignore_ascii_case("x-gzip") => "gzip",
        10 if name.eq_ignore_ascii_case("x-compress") => "compress",
        _ => name,
    }
}

/// The weight of a coding; `None` if neither the coding nor `*` is named.
fn coding_weight(members: &[Preference], coding: &str) -> Option<u16> {
    let of = |name: &str| {
        let mut named = members.iter().filter(|member| canonical_coding(&member.name) == name);
        // Of several members, the most restrictive counts.
        named.next().map(|first| named.map(|member| member.weight).fold(first.weight, u16::min))
    };
    of(canonical_coding(coding)).or_else(|| of("*"))
}

/// The field for an application that has these `languages`; `None` if the field has to stay as it is.
///
/// A language is accepted by the closest range: one that equals it, that it is a dialect of, or that is a dialect of it
/// (RFC 4647, sections 3.3.1 and 3.4). For equal weights, the language that was named first comes first.
pub(crate) fn negotiated_languages(value: &[u8], languages: &[String]) -> Option<Vec<u8>> {
    let members = preferences(value)?;
    let mut accepted = Vec::new();
    let mut refuses = false;
    for language in languages {
        let named = members.iter().enumerate().filter_map(|(at, member)| {
            closeness(&member.name, &language.to_ascii_lowercase()).map(|close| (close, member.weight, at))
        });
        // The closest range decides; of equally close ranges, the one with the greatest weight.
        if let Some((_, weight, at)) = named.max_by_key(|(close, weight, at)| (*close, *weight, usize::MAX - at)) {
            refuses |= weight == 0;
            accepted.extend((weight > 0).then_some((language.as_str(), weight, at)));
        }
    }
    if accepted.is_empty() {
        // The client accepts none of the languages, so any will do, unless it refuses one.
        return (!refuses).then(|| b"*".to_vec());
    }
    accepted.sort_by_key(|(_, weight, at)| (u16::MAX - weight, *at));
    // The weights encode the order, for applications that ignore the order of members.
    let ranks = (0_u16..).map(|rank| 1000_u16.saturating_sub(rank * 10).max(1));
    Some(ranked(accepted.iter().zip(ranks).map(|((language, ..), weight)| (*language, weight)).collect()))
}

/// How close a range is to a language, if they match: 3 if they are equal, 2 if the language is a dialect of the range,
/// and 1 if the range is a dialect of the language.
fn closeness(range: &str, language: &str) -> Option<u8> {
    let is_dialect = |one: &str, of: &str| one.strip_prefix(of).is_some_and(|rest| rest.starts_with('-'));
    match (range, language) {
        (range, language) if range == language => Some(3),
        (range, language) if is_dialect(language, range) => Some(2),
        (range, language) if is_dialect(range, language) => Some(1),
        _ => None,
    }
}

/// Names in the order of their weights, with new weights that only express the order, or without weights if all are equal.
fn ranked(mut names: Vec<(&str, u16)>) -> Vec<u8> {
    names.sort_by_key(|(_, weight)| u16::MAX - weight);
    let mut text = String::new();
    let (mut rank, mut last) = (100_u16, names.first().map_or(0, |(_, weight)| *weight));
    for (name, weight) in names {
        if weight != last {
            (rank, last) = (rank.saturating_sub(1).max(1), weight);
        }
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(name);
        if rank < 100 {
            text.push_str(&format!(";q=0.{rank:02}"));
        }
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn codings(value: &str) -> Option<String> {
        let has = ["br".to_owned(), "gzip".to_owned()];
        negotiated_codings(value.as_bytes(), &has).map(|value| String::from_utf8(value).unwrap())
    }

    fn languages(value: &str) -> Option<String> {
        let has = ["de", "en", "fr-CA"].map(str::to_owned);
        negotiated_languages(value.as_bytes(), &has).map(|value| String::from_utf8(value).unwrap())
    }

    #[test]
    fn codings_are_those_that_the_application_has() {
        for (value, expected) in [
            ("gzip, br", Some("br, gzip")),
            ("GZIP ,br;q=1.0", Some("br, gzip")),
            ("gzip, deflate, br, zstd", Some("br, gzip")),
            ("gzip, br, dcb", Some("br, gzip")),
            ("*", Some("br, gzip")),
            ("gzip;q=0.5, br;q=0.5", Some("br, gzip")),
            ("gzip", Some("gzip")),
            ("x-gzip", Some("gzip")),
            ("br;q=0, *", Some("gzip")),
            ("gzip;q=0.5, br", Some("br, gzip;q=0.99")),
            ("gzip;q=0.4, br", Some("br, gzip;q=0.99")),
            ("gzip, br;q=0.1", Some("gzip, br;q=0.99")),
            ("gzip;q=0", Some("identity")),
            ("zstd", Some("identity")),
            ("identity", Some("identity")),
            ("", Some("")),
            (" , ", Some("")),
            ("identity;q=0, gzip", None),
            ("*;q=0, gzip", None),
            ("gzip;level=9", None),
        ] {
            assert_eq!(codings(value).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn a_client_accepts_what_it_names_and_does_not_forbid() {
        for (value, coding, expected) in [
            ("gzip", "gzip", true),
            ("gzip", "x-gzip", true),
            ("x-gzip", "GZIP", true),
            ("gzip;q=0", "gzip", false),
            ("gzip;q=0, *", "gzip", false),
            ("gzip, gzip;q=0", "gzip", false),
            ("*", "br", true),
            ("*;q=0", "br", false),
            ("gzip", "br", false),
            ("identity", "br", false),
            ("", "gzip", false),
            ("gzip;x", "br", true),
            ("gzip", "aes128gcm", true),
            ("gzip", "identity", true),
        ] {
            assert_eq!(accepts_coding(value.as_bytes(), coding.as_bytes()), expected, "{value} {coding}");
        }
    }

    #[test]
    fn languages_are_those_that_the_application_has_in_the_order_of_the_client() {
        for (value, expected) in [
            ("de", Some("de")),
            ("de-CH", Some("de")),
            ("de-CH, de;q=0.9", Some("de")),
            ("fr", Some("fr-CA")),
            ("en, de", Some("en, de;q=0.99")),
            ("de, en", Some("de, en;q=0.99")),
            ("en;q=0.8, de;q=0.9", Some("de, en;q=0.99")),
            ("en-GB, fr, de;q=0.5", Some("en, fr-CA;q=0.99, de;q=0.98")),
            ("de;q=0.1, de-AT, en;q=0.5", Some("en, de;q=0.99")),
            ("ja", Some("*")),
            ("", Some("*")),
            ("*", Some("*")),
            ("ja, de;q=0", None),
            ("deu", Some("*")),
            ("no language, de", None),
        ] {
            assert_eq!(languages(value).as_deref(), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_negotiated_is_negotiated_as_itself(
            members in prop::collection::vec(("(gzip|br|x-gzip|identity|zstd|\\*|de|de-ch|en|fr)", 0..=1000_u16), 0..5),
        ) {
            let spelled = members.iter().map(|(name, weight)| format!("{name};q={}.{:03}", weight / 1000, weight % 1000));
            let value = spelled.collect::<Vec<_>>().join(",");
            for negotiated in [codings, languages] {
                if let Some(once) = negotiated(&value) {
                    prop_assert_eq!(negotiated(&once), Some(once.clone()), "{} {}", value, once);
                }
            }
        }

        #[test]
        fn no_coding_is_made_up(
            members in prop::collection::vec(("(gzip|br|x-gzip|identity|zstd|\\*)", 0..=1000_u16), 0..5),
        ) {
            let spelled = members.iter().map(|(name, weight)| format!("{name};q={}.{:03}", weight / 1000, weight % 1000));
            let value = spelled.collect::<Vec<_>>().join(",");
            if let Some(negotiated) = codings(&value) {
                for coding in ["gzip", "br"] {
                    prop_assert_eq!(
                        accepts_coding(negotiated.as_bytes(), coding.as_bytes()),
                        accepts_coding(value.as_bytes(), coding.as_bytes()),
                        "{} {} {}", value, negotiated, coding
                    );
                }
            }
        }

        #[test]
        fn junk_never_panics(value: Vec<u8>, coding: Vec<u8>) {
            let has = ["br".to_owned(), "de".to_owned()];
            let _ = (negotiated_codings(&value, &has), negotiated_languages(&value, &has), accepts_coding(&value, &coding));
        }
    }
}
