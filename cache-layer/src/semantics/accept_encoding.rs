//! The content codings that a client accepts, and their weights (RFC 9110, section 12.5.3).

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue, header::ACCEPT_ENCODING};

use super::{negotiated_fields::canonical_coding, preference::weighed};
use crate::coding::{Coding, Encoder};

/// The weights that an `Accept-Encoding` gives to the codings of this library, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acceptance {
    codings: [Option<u16>; Coding::COUNT],
    identity: Option<u16>,
    /// The weight of all codings that it does not name.
    others: Option<u16>,
}

/// The most frequent values, of today's browsers and client libraries, parsed once.
static USUAL: LazyLock<[(&str, Acceptance); 8]> = LazyLock::new(|| {
    [
        "gzip, deflate, br, zstd",
        "gzip, deflate, br",
        "gzip, deflate",
        "gzip",
        "br, gzip, deflate",
        "deflate, gzip, br, zstd",
        "br",
        "zstd",
    ]
    .map(|line| (line, Acceptance::of_lines([line.as_bytes()].into_iter())))
});

impl Acceptance {
    /// The codings that a request accepts. Without the field, or if it can't be read, only `identity`: such a client may not be
    /// able to decode any coding.
    pub(crate) fn of(request: &HeaderMap) -> Self {
        let mut lines = request.get_all(ACCEPT_ENCODING).iter().map(HeaderValue::as_bytes);
        let Some(first) = lines.next() else { return Self::default() };
        match USUAL.iter().find(|(line, _)| line.as_bytes() == first) {
            Some((_, acceptance)) if lines.size_hint().1 == Some(0) => *acceptance,
            _ => Self::of_lines(std::iter::once(first).chain(lines)),
        }
    }

    fn of_lines<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut acceptance = Self::default();
        for line in lines {
            for member in weighed(line) {
                let Some((name, weight)) = member else { return Self::default() };
                acceptance.add(canonical_coding(name), weight);
            }
        }
        acceptance
    }

    fn add(&mut self, name: &str, weight: u16) {
        let coding = Coding::ALL.iter().find(|coding| name.eq_ignore_ascii_case(coding.as_str()));
        let said = match coding {
            Some(coding) => &mut self.codings[coding.number()],
            None if name == "*" => &mut self.others,
            None if name.eq_ignore_ascii_case("identity") => &mut self.identity,
            None => return,
        };
        // Of several members for one coding, the most restrictive counts.
        *said = Some(said.map_or(weight, |first| first.min(weight)));
    }

    /// The weight of this coding; 0 if the client refuses it, or does not name it.
    pub(crate) fn weight(&self, coding: Coding) -> u16 {
        self.codings[coding.number()].or(self.others).unwrap_or(0)
    }

    /// The weight of `identity`, which `*` stands for as well: not more than that of codings, unless the field says so.
    pub(crate) fn identity(&self) -> u16 {
        self.identity.or(self.others).unwrap_or(1)
    }

    /// The encoder whose coding has the greatest weight, the first of equals, if the client prefers it to `identity`.
    pub(crate) fn best(&self, encoders: impl Iterator<Item = Encoder>) -> Option<Encoder> {
        let mut best = None;
        for encoder in encoders {
            let weight = self.weight(encoder.coding());
            // For equal weights, the first encoder wins: it makes the shortest results.
            if weight > best.map_or(0, |(_, weight)| weight) {
                best = Some((encoder, weight));
            }
        }
        best.filter(|(_, weight)| *weight >= self.identity()).map(|(encoder, _)| encoder)
    }
}

#[cfg(all(test, feature = "encode"))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::{negotiated_fields::accepts_coding, preference::preferences};

    fn acceptance(lines: &[&str]) -> Acceptance {
        let mut request = HeaderMap::new();
        for line in lines {
            request.append(ACCEPT_ENCODING, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        Acceptance::of(&request)
    }

    /// Of all that there are.
    fn best(acceptance: &Acceptance) -> Option<Coding> {
        acceptance.best(Coding::ALL.iter().copied().map(Encoder::usual)).map(Encoder::coding)
    }

    /// RFC 9110, section 12.5.3, case by case, with `zstd`, `br` and `gzip` at hand, in this order.
    #[test]
    fn the_client_has_the_last_word() {
        for (value, expected) in [
            ("gzip", "gzip"),
            ("gzip, deflate", "gzip"),
            ("gzip, deflate, br", "br"),
            ("gzip, deflate, br, zstd", "zstd"),
            ("GZIP", "gzip"),
            ("x-gzip", "gzip"),
            ("compress, gzip", "gzip"),
            ("", "identity"),
            ("*", "zstd"),
            ("*;q=0.1", "zstd"),
            ("gzip;q=1.0, identity; q=0.5, *;q=0", "gzip"),
            ("compress;q=0.5, gzip;q=1.0", "gzip"),
            ("gzip;q=0.9, br;q=0.8", "gzip"),
            ("gzip;q=0.8, br;q=0.9, zstd;q=0.1", "br"),
            ("gzip;q=0", "identity"),
            ("gzip;q=0, *", "zstd"),
            ("zstd;q=0, br;q=0.0, *", "gzip"),
            ("*;q=0", "identity"),
            ("identity", "identity"),
            ("identity, gzip", "gzip"),
            ("identity;q=1, gzip;q=0.5", "identity"),
            ("identity;q=0.5, gzip;q=0.4, br;q=0.6", "br"),
            ("identity;q=0, gzip;q=0.001", "gzip"),
            ("identity;q=1, *;q=0", "identity"),
            ("gzip;q=0.001", "gzip"),
            ("gzip;q=0.1, br;q=0.1, zstd;q=0.1, *;q=0.9", "identity"),
            ("gzip;q=0.9, br;q=0.1, zstd;q=0.1, *;q=0.5", "gzip"),
            ("gzip;q=0.1, br;q=0.1, zstd;q=0.1, *;q=0.9, identity;q=0", "zstd"),
            ("gzip, gzip;q=0", "identity"),
            ("deflate", "identity"),
            ("dcb, dcz", "identity"),
            ("gzip;level=9", "identity"),
            ("gzip, br;q=2", "identity"),
            ("\u{fc}", "identity"),
        ] {
            let best = best(&acceptance(&[value]));
            assert_eq!(best.map_or("identity", Coding::as_str), expected, "{value}");
        }
        assert_eq!(best(&acceptance(&[])), None);
        assert_eq!(best(&acceptance(&["br;q=0.5", "gzip"])), Some(Coding::Gzip));
    }

    #[test]
    fn what_is_usual_is_read_as_all_else() {
        for (line, usual) in USUAL.iter() {
            assert_eq!(acceptance(&[line, "deflate"]), *usual, "{line}");
            assert_eq!(acceptance(&[line, "gzip;q=0"]).weight(Coding::Gzip), 0, "{line}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_waited_for() {
        let only =
            |value, coding: Coding| acceptance(&[value]).best(std::iter::once(coding.into())).map(Encoder::coding);
        assert_eq!(only("zstd, gzip;q=0.5", Coding::Gzip), Some(Coding::Gzip));
        assert_eq!(only("zstd, identity;q=0.9, gzip;q=0.5", Coding::Gzip), None);
        assert_eq!(only("gzip;q=0.1, *;q=0.9", Coding::Gzip), None);
    }

    proptest! {
        #[test]
        fn it_is_what_the_rest_of_the_cache_takes_it_for(
            members in prop::collection::vec(("(gzip|x-gzip|BR|br|zstd|identity|\\*|deflate)", 0..=1000_u16), 0..5),
            junk in prop::option::of("[ -~]{0,6}"),
        ) {
            let spelled = members.iter().map(|(name, weight)| format!("{name};q={}.{:03}", weight / 1000, weight % 1000));
            let value = spelled.chain(junk).collect::<Vec<_>>().join(",");
            let acceptance = acceptance(&[&value]);
            let Some(members) = preferences(value.as_bytes()) else {
                prop_assert_eq!(acceptance, Acceptance::default());
                return Ok(());
            };
            for coding in Coding::ALL {
                let accepts = accepts_coding(value.as_bytes(), coding.as_str().as_bytes());
                prop_assert_eq!(acceptance.weight(*coding) > 0, accepts, "{} {}", value, coding);
            }
            let best = best(&acceptance);
            prop_assert!(best.is_some() || !members.iter().any(|member| member.name == "gzip" && member.weight > 0)
                || acceptance.identity() > 1 || acceptance.weight(Coding::Gzip) == 0, "{}", value);
        }
    }
}
