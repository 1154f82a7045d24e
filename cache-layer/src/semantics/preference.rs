//! Lists of preferences with weights, as in `Accept-Encoding` and `Accept-Language` (RFC 9110, section 12.4.2).

use smallvec::SmallVec;

/// Whether the order of members matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Order {
    /// It may matter: members keep their order.
    #[default]
    Counts,
    /// It matters among members of the same weight.
    CountsAmongEquals,
    /// It does not matter.
    Moot,
}

/// The canonical spelling of a list: lower case, no white space, weights without needless digits, names mapped by `rename`, which
/// gets them as they are spelled.
///
/// `None` for a value that is not such a list.
pub(crate) fn canonical(value: &[u8], order: Order, rename: fn(&str) -> &str) -> Option<Vec<u8>> {
    let mut members = weighed(value).collect::<Option<SmallVec<[(&str, u16); 8]>>>()?;
    for member in &mut members {
        member.0 = rename(member.0);
    }
    match order {
        Order::Counts => {}
        Order::CountsAmongEquals => members.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight)),
        Order::Moot => members.sort_by(|(one, weight), (other, other_weight)| {
            other_weight.cmp(weight).then_with(|| lowercase(one).cmp(lowercase(other)))
        }),
    }
    // No spelling is shorter.
    let mut spelled = Vec::with_capacity(value.len());
    for (at, (name, weight)) in members.into_iter().enumerate() {
        if at > 0 {
            spelled.push(b',');
        }
        spelled.extend(lowercase(name));
        spell_weight(&mut spelled, weight);
    }
    Some(spelled)
}

fn lowercase(text: &str) -> impl Iterator<Item = u8> {
    text.bytes().map(|byte| byte.to_ascii_lowercase())
}

/// The shortest spelling that can be parsed, so that it can't equal a value that could not be parsed and was kept.
fn spell_weight(spelled: &mut Vec<u8>, weight: u16) {
    if weight == 1000 {
        return;
    }
    spelled.extend_from_slice(b";q=0");
    let digits = [weight / 100, weight / 10 % 10, weight % 10].map(|digit| b'0' + (digit % 10) as u8);
    let trimmed = digits.iter().rposition(|digit| *digit != b'0').map_or(&[][..], |last| &digits[..=last]);
    if !trimmed.is_empty() {
        spelled.push(b'.');
        spelled.extend_from_slice(trimmed);
    }
}

/// The members of a list; `None` for a value that is not such a list.
pub(crate) fn preferences(value: &[u8]) -> Option<Vec<Preference>> {
    weighed(value)
        .map(|member| member.map(|(name, weight)| Preference { name: name.to_ascii_lowercase(), weight }))
        .collect()
}

/// The members of a list, as they are spelled, and their weights in thousandths; `None` for an invalid member.
pub(crate) fn weighed(value: &[u8]) -> impl Iterator<Item = Option<(&str, u16)>> {
    let members = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty());
    members.map(weighed_member)
}

pub(crate) struct Preference {
    /// In lower case.
    pub(crate) name: String,
    /// Thousandths.
    pub(crate) weight: u16,
}

fn weighed_member(member: &[u8]) -> Option<(&str, u16)> {
    let mut parts = member.splitn(2, |&byte| byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next()?;
    if name.is_empty() || !name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.*+".contains(byte)) {
        return None;
    }
    let weight = match parts.next() {
        None => 1000,
        Some(parameter) => parse_weight(parameter)?,
    };
    Some((str::from_utf8(name).ok()?, weight))
}

/// `q=0.5`, in thousandths.
fn parse_weight(parameter: &[u8]) -> Option<u16> {
    let [b'q' | b'Q', b'=', whole @ (b'0' | b'1'), rest @ ..] = parameter else {
        return None;
    };
    let digits = match rest {
        [] => &[],
        [b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => digits,
        _ => return None,
    };
    let fraction = [100, 10, 1].iter().zip(digits).map(|(scale, digit)| scale * u16::from(digit - b'0')).sum::<u16>();
    let weight = u16::from(whole - b'0') * 1000 + fraction;
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Order, canonical};

    fn spelled(value: &str, order: Order) -> Option<String> {
        canonical(value.as_bytes(), order, |name| name).map(|value| String::from_utf8(value).unwrap())
    }

    fn ordered(value: &str) -> Option<String> {
        spelled(value, Order::Counts)
    }

    fn unordered(value: &str) -> Option<String> {
        spelled(value, Order::Moot)
    }

    #[test]
    fn the_order_of_equals_may_count_alone() {
        let by_weight = |value| spelled(value, Order::CountsAmongEquals);
        assert_eq!(by_weight("en;q=0.8, de;q=0.9"), by_weight("de;q=0.9, en;q=0.8"));
        assert_ne!(by_weight("en, de"), by_weight("de, en"));
    }

    #[test]
    fn spellings_are_one() {
        for value in ["en,de", "en, de", " EN ,\tde;q=1", "en;q=1.000,,de ; Q=1.0", "en,de,"] {
            assert_eq!(ordered(value).as_deref(), Some("en,de"), "{value}");
        }
        assert_eq!(ordered("").as_deref(), Some(""));
        assert_eq!(ordered("fr;q=0.5, de;q=1.0, *;q=0").as_deref(), Some("fr;q=0.5,de,*;q=0"));
        assert_eq!(ordered("a;q=0.50, b;q=.5"), None);
    }

    #[test]
    fn the_order_matters_or_not() {
        assert_eq!(ordered("gzip, br, zstd;q=0.9").as_deref(), Some("gzip,br,zstd;q=0.9"));
        assert_ne!(ordered("fr;q=0.5, de"), ordered("de, fr;q=0.5"));
        assert_eq!(unordered("gzip, br, zstd;q=0.9"), unordered("zstd;q=0.9, br, gzip"));
        assert_ne!(unordered("en, de"), unordered("en, de;q=0.9"));
    }

    #[test]
    fn anything_else_is_not_read() {
        for value in
            ["en;q=2", "en;q=1.001", "en;q=0.1234", "en;q=", "en;q", "en;x=1", "en;q=1;x", "e n", "\"en\"", ";q=1"]
        {
            assert_eq!(ordered(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn the_one_spelling_is_read_as_itself(weights in prop::collection::vec(0..=1000_u16, 0..6)) {
            let members = weights.iter().map(|weight| format!("en;q={}.{:03}", weight / 1000, weight % 1000));
            let canonical = ordered(&members.collect::<Vec<_>>().join(",")).unwrap();
            prop_assert_eq!(ordered(&canonical), Some(canonical));
        }

        #[test]
        fn a_canonical_value_loses_nothing_that_counts(
            members in prop::collection::vec(("[a-z]{1,2}", 0..=1000_u16), 0..6),
        ) {
            let spell = |members: &[(String, u16)], space: &str| {
                let spelled = members.iter().map(|(name, weight)| {
                    format!("{name}{space};{space}q={}.{:03}", weight / 1000, weight % 1000)
                });
                spelled.collect::<Vec<_>>().join(&format!("{space},"))
            };
            prop_assert_eq!(ordered(&spell(&members, "")), ordered(&spell(&members, " ")));
            let mut sorted = members.clone();
            sorted.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
            let mut reversed = members.clone();
            reversed.reverse();
            prop_assert_eq!(unordered(&spell(&members, "")), unordered(&spell(&sorted, "")));
            prop_assert_eq!(unordered(&spell(&members, "")), unordered(&spell(&reversed, "")));
            if let [(name, weight), ..] = &mut reversed[..] {
                *weight = (*weight + 1) % 1001;
                name.make_ascii_uppercase();
                prop_assert_ne!(unordered(&spell(&members, "")), unordered(&spell(&reversed, "")));
            }
        }

        #[test]
        fn junk_never_panics(junk: Vec<u8>) {
            let _ = canonical(&junk, Order::Moot, |name| name);
        }
    }
}
