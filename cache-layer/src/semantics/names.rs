//! Lists of names, some of which are prefixes.

use http::HeaderName;

/// Names; one that ends in `*` is a prefix. They are compared byte by byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    exact: Vec<Box<str>>,
    prefixes: Vec<Box<str>>,
    /// The shapes of the exact names, one bit for each value of [`shape`].
    shapes: u64,
    /// The first bytes of the prefixes, one bit for each value of the lower six bits.
    initials: u64,
}

impl Names {
    pub(crate) fn new<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        let mut list = Self::default();
        for name in names {
            let name = name.as_ref();
            match name.strip_suffix('*') {
                Some(prefix) => {
                    list.initials |= prefix.bytes().next().map_or(u64::MAX, initial);
                    list.prefixes.push(prefix.into());
                }
                None => {
                    list.shapes |= shape(name.as_bytes());
                    list.exact.push(name.into());
                }
            }
        }
        list
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    /// As they were given, the prefixes last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = String> {
        let exact = self.exact.iter().map(ToString::to_string);
        exact.chain(self.prefixes.iter().map(|prefix| format!("{prefix}*")))
    }

    /// Whether `name` is one of them. Most names are excluded by their shape and first byte.
    pub(crate) fn has(&self, name: &[u8]) -> bool {
        self.has_shaped(name, Shapes(shape(name)))
    }

    /// As [`has`](Self::has), for a name whose shape is known.
    pub(crate) fn has_shaped(&self, name: &[u8], shape: Shapes) -> bool {
        let is_exact = || self.exact.iter().any(|exact| exact.as_bytes() == name);
        let is_below = || self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes()));
        let first = name.first().map_or(u64::MAX, |byte| initial(*byte));
        (shape.may_meet(Shapes(self.shapes)) && is_exact()) || (self.initials & first != 0 && is_below())
    }
}

/// The name of a field, with its shape, which is faster to compare.
#[derive(Clone, Copy)]
pub(crate) struct Shaped<'a> {
    pub(crate) name: &'a HeaderName,
    pub(crate) text: &'a str,
    pub(crate) shape: Shapes,
}

impl<'a> From<&'a HeaderName> for Shaped<'a> {
    fn from(name: &'a HeaderName) -> Self {
        let text = name.as_str();
        Self { name, text, shape: Shapes::of_text(text) }
    }
}

/// The set of the shapes of some names: two lists without a common shape have no common name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shapes(u64);

impl Shapes {
    /// The shapes of these names, in lower case.
    pub(crate) const fn of_each(names: &[&str]) -> Self {
        let (mut shapes, mut at) = (0, 0);
        while at < names.len() {
            shapes |= shape(names[at].as_bytes());
            at += 1;
        }
        Self(shapes)
    }

    /// The shape of one name, in lower case.
    pub(crate) const fn of_text(name: &str) -> Self {
        Self(shape(name.as_bytes()))
    }

    /// The union of both sets.
    pub(crate) const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a HeaderName>) -> Self {
        let mut shapes = Self::default();
        names.into_iter().for_each(|name| shapes.add(name));
        shapes
    }

    pub(crate) fn add(&mut self, name: &HeaderName) {
        *self = self.and(Self::of_text(name.as_str()));
    }

    /// Whether a name may be in both lists.
    pub(crate) const fn may_meet(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// One of 64 bits, by a name's length and its first and last bytes.
const fn shape(name: &[u8]) -> u64 {
    let (first, last) = match name {
        [first, .., last] => (*first, *last),
        [only] => (*only, *only),
        [] => (0, 0),
    };
    1 << ((name.len() + 7 * first as usize + 29 * last as usize) & 63)
}

fn initial(byte: u8) -> u64 {
    1 << (byte & 63)
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_TYPE, DATE, ETAG};

    use super::{Names, Shapes};

    #[test]
    fn lists_with_a_name_in_common_may_meet() {
        let shapes = |names: &[_]| Shapes::of(names);
        assert!(shapes(&[CONTENT_TYPE, DATE]).may_meet(shapes(&[ETAG, DATE])));
        assert_eq!(shapes(&[CONTENT_TYPE, DATE]), Shapes::of_each(&["date", "content-type"]));
        assert!(!shapes(&[ETAG]).may_meet(shapes(&[DATE])) && !shapes(&[]).may_meet(shapes(&[DATE])));
    }

    #[test]
    fn a_name_is_itself_and_a_star_is_for_all_that_begin_alike() {
        let names = Names::new(["_ga", "_gid", "utm_*", "x*y"]);
        for name in ["_ga", "_gid", "utm_", "utm_source", "x*y"] {
            assert!(names.has(name.as_bytes()), "{name}");
        }
        for name in ["", "_g", "_gaa", "_GA", "utm", "xzy", "UTM_source"] {
            assert!(!names.has(name.as_bytes()), "{name}");
        }
        assert!(!Names::default().has(b"") && Names::default().is_empty());
        assert!(Names::new(["*"]).has(b"anything") && Names::new(["*"]).has(b""));
        let long = "x".repeat(100);
        assert!(Names::new([&long]).has(long.as_bytes()) && !Names::new([&long]).has("y".repeat(99).as_bytes()));
    }
}
