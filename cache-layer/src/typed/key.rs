//! Keys of typed values. A response's key has five parts or more, so these are never one.

use std::fmt::Display;

use crate::key::Key;

impl From<&Self> for Key {
    fn from(key: &Self) -> Self {
        key.clone()
    }
}

/// A key in one piece, such as `"exchange_rates"`. Not the same as any key of a name and an id, however it reads.
impl From<&str> for Key {
    fn from(key: &str) -> Self {
        Self::new([key])
    }
}

/// As from a `&str`.
impl From<String> for Key {
    fn from(key: String) -> Self {
        Self::new([key])
    }
}

/// The name of a kind of values, and what tells one of them from the others: `("product", 42)` reads `product:42`, in
/// patterns too. The two can't run into each other, whatever is in them.
///
/// When the type of these values changes so that processes of the old and the new release can't read each other's, give
/// the kind a new name, such as `"product@2"`: until the old ones are gone, each has its own.
impl<D: Display> From<(&str, D)> for Key {
    fn from((name, id): (&str, D)) -> Self {
        Self::new([name, ":", &id.to_string()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_an_id_read_as_one_text_and_are_none() {
        assert_eq!(Key::from(("product", 42)).readable(), "product:42");
        assert_ne!(Key::from(("product", 42)), Key::from("product:42"));
        assert_ne!(Key::from(("a", "b:c")), Key::from(("a:b", "c")));
    }
}
