//! Lists of names, some of which stand for all that begin alike.

/// Names; one that ends in `*` is a prefix. They are compared byte by byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    exact: Vec<Box<str>>,
    prefixes: Vec<Box<str>>,
    /// What exact names are of, one bit for each value of their [`shape`].
    shapes: u64,
    /// What prefixes begin with, one bit for each value of the lower six bits.
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

    /// Whether `name` is one of them. Most are of none of these shapes, and begin otherwise.
    pub(crate) fn has(&self, name: &[u8]) -> bool {
        let is_exact = || self.exact.iter().any(|exact| exact.as_bytes() == name);
        let is_below = || self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes()));
        let first = name.first().map_or(u64::MAX, |byte| initial(*byte));
        (self.shapes & shape(name) != 0 && is_exact()) || (self.initials & first != 0 && is_below())
    }
}

/// One of 64 bits, by a name's length and its ends.
fn shape(name: &[u8]) -> u64 {
    let (first, last) = (name.first().copied().unwrap_or(0), name.last().copied().unwrap_or(0));
    1 << ((name.len() + 7 * usize::from(first) + 29 * usize::from(last)) & 63)
}

fn initial(byte: u8) -> u64 {
    1 << (byte & 63)
}

#[cfg(test)]
mod tests {
    use super::Names;

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
