//! How an argument is written in a key: readable, like `{:?}` without blanks. Values that serde distinguishes are written
//! differently, and equal values are written alike:
//!
//! - numbers by their value: equal integers are written alike, whatever their width; floats as the shortest text that is
//!   read back as the same value; `0.0` and `-0.0` differ, all `NaN`s are equal
//! - `"text"`, `'c'`, `b"bytes"`, with `\` before a closing quote or a `\`
//! - `None`, `Some(1)`; `()`, `(1,)`, `(1,2)`; `[1,2]`
//! - `{"a":1,"b":2}`, a map, and `<1,2>`, a set: sorted by their written form, whatever order they came in
//! - `Name`, `Name(1)`, `Name{field:1}`, and `Name::Variant` in the same forms; between backticks if they are not plain
//!   names

use std::{
    any::type_name,
    collections::{BinaryHeap, HashSet},
    fmt::{self, Display},
    io::Write as _,
};

use serde::{
    Serialize, Serializer,
    ser::{
        Error as _, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
        SerializeTupleStruct, SerializeTupleVariant,
    },
};

/// Writes a collection that is a set, so that its order makes no difference to the key of a
/// [cached](macro@crate::cached) function.
///
/// serde writes sets as lists. [`HashSet`](std::collections::HashSet) and [`BinaryHeap`](std::collections::BinaryHeap) are
/// recognized by their type wherever serde visits them. Use this for unordered collections of other crates, and where serde
/// visits another type: behind `#[serde(transparent)]`, and in a variant of an `#[serde(untagged)]` enum. Without it, equal
/// collections in different orders have different keys. Outside of keys it changes nothing.
///
/// ```
/// use cache_layer::{Cache, cached, unordered};
/// use serde::Serialize;
///
/// /// Iterates in the order of insertion.
/// #[derive(Clone, Serialize)]
/// #[serde(transparent)]
/// struct Labels(Vec<String>);
///
/// #[derive(Clone, Serialize)]
/// struct Filter {
///     #[serde(serialize_with = "unordered")]
///     labels: Labels,
/// }
///
/// #[cached(name = "found")]
/// async fn found(cache: &Cache, filter: Filter) -> u32 {
///     filter.labels.0.len() as u32
/// }
///
/// # fn main() {
/// let of = |labels: [&str; 2]| Filter { labels: Labels(labels.map(str::to_owned).into()) };
/// assert_eq!(found_cache::key(of(["red", "new"])), found_cache::key(of(["new", "red"])));
/// # }
/// ```
///
/// # Errors
///
/// Those of `serializer`.
pub fn unordered<T: Serialize + ?Sized, S: Serializer>(collection: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_newtype_struct(UNORDERED, collection)
}

/// Stands for a set, in place of a type's name.
const UNORDERED: &str = "$cache_layer::unordered";

/// Appends an argument.
pub(super) fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, argument: &T) -> Result<(), Error> {
    argument.serialize(Writer { out, of: type_name::<T>() })
}

/// Why an argument can't be written; only its own `Serialize` can fail.
#[derive(Debug)]
pub(super) struct Error(String);

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl serde::ser::Error for Error {
    fn custom<T: Display>(reason: T) -> Self {
        Self(reason.to_string())
    }
}

/// Whether the elements of a type with this name have no order. The compiler's names are independent of aliases and imports. If
/// a compiler named a type differently, equal sets would have several keys, which costs misses but never returns a wrong value.
fn is_unordered(mut name: &str) -> bool {
    /// The value behind these pointers is written in their place.
    const POINTERS: [&str; 8] = [
        "&",
        "mut ",
        "'_ ",
        "'_, ",
        "alloc::boxed::Box<",
        "alloc::sync::Arc<",
        "alloc::rc::Rc<",
        "alloc::borrow::Cow<",
    ];
    while let Some(inner) = POINTERS.iter().find_map(|pointer| name.strip_prefix(pointer)) {
        name = inner;
    }
    let without_parameters = |name: &'static str| name.split('<').next();
    let known = [without_parameters(type_name::<HashSet<()>>()), without_parameters(type_name::<BinaryHeap<()>>())];
    name == UNORDERED
        || known.into_iter().chain([Some("hashbrown::set::HashSet")]).any(|set| name.split('<').next() == set)
}

/// Writes one value.
struct Writer<'o> {
    out: &'o mut Vec<u8>,
    /// The name of the value's type.
    of: &'static str,
}

impl<'o> Writer<'o> {
    fn text(self, text: impl Display) -> Result<(), Error> {
        write!(self.out, "{text}").map_err(Error::custom)
    }

    fn named(mut self, name: &str) -> Self {
        self.push_name(name);
        self
    }

    fn variant(mut self, name: &str, variant: &str) -> Self {
        self.push_name(name);
        self.out.extend_from_slice(b"::");
        self.push_name(variant);
        self
    }

    fn push_name(&mut self, name: &str) {
        const OTHERS: [&str; 6] = ["None", "Some", "true", "false", "NaN", "inf"];
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if plain && name.starts_with(|first: char| !first.is_ascii_digit()) && !OTHERS.contains(&name) {
            self.out.extend_from_slice(name.as_bytes());
        } else {
            quote(self.out, b'`', name.as_bytes());
        }
    }

    /// Writes a value that is the only content of another: if the outer one is written as a set, so is the inner one.
    fn wrapped<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        let of = if self.of == UNORDERED { UNORDERED } else { type_name::<T>() };
        self.out.push(b'(');
        value.serialize(Writer { out: &mut *self.out, of })?;
        self.out.push(b')');
        Ok(())
    }

    fn ordered(self, [open, close]: [u8; 2]) -> Ordered<'o> {
        self.out.push(open);
        Ordered { out: self.out, close, length: 0 }
    }

    fn unordered(self, delimiters: [u8; 2]) -> Unordered<'o> {
        Unordered { begin: self.out.len(), out: self.out, delimiters, parts: Vec::new() }
    }
}

/// Text between two `delimiter`s.
fn quote(out: &mut Vec<u8>, delimiter: u8, text: &[u8]) {
    out.push(delimiter);
    for &byte in text {
        if byte == delimiter || byte == b'\\' {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(delimiter);
}

/// Values that are written by their `Display`.
macro_rules! as_displayed {
    ($($method:ident($type:ty))+) => {$(
        fn $method(self, value: $type) -> Result<(), Error> {
            self.text(value)
        }
    )+};
}

impl<'o> Serializer for Writer<'o> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Sequence<'o>;
    type SerializeTuple = Ordered<'o>;
    type SerializeTupleStruct = Ordered<'o>;
    type SerializeTupleVariant = Ordered<'o>;
    type SerializeMap = Unordered<'o>;
    type SerializeStruct = Ordered<'o>;
    type SerializeStructVariant = Ordered<'o>;

    as_displayed! {
        serialize_bool(bool)
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64) serialize_i128(i128)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_u128(u128)
    }

    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        self.serialize_f64(value.into())
    }

    /// With a point or an exponent, so that it differs from an integer.
    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        self.text(format_args!("{value:?}"))
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        quote(self.out, b'\'', value.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        quote(self.out, b'"', value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        self.out.push(b'b');
        quote(self.out, b'"', value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.text("None")
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        self.out.extend_from_slice(b"Some");
        self.wrapped(value)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.text("()")
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<(), Error> {
        self.named(name);
        Ok(())
    }

    fn serialize_unit_variant(self, name: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.variant(name, variant);
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<(), Error> {
        if name == UNORDERED {
            return value.serialize(Writer { out: self.out, of: UNORDERED });
        }
        self.named(name).wrapped(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.variant(name, variant).wrapped(value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Sequence<'o>, Error> {
        Ok(if is_unordered(self.of) {
            Sequence::Unordered(self.unordered(*b"<>"))
        } else {
            Sequence::Ordered(self.ordered(*b"[]"))
        })
    }

    fn serialize_tuple(self, _: usize) -> Result<Ordered<'o>, Error> {
        Ok(self.ordered(*b"()"))
    }

    fn serialize_tuple_struct(self, name: &'static str, _: usize) -> Result<Ordered<'o>, Error> {
        Ok(self.named(name).ordered(*b"()"))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Ordered<'o>, Error> {
        Ok(self.variant(name, variant).ordered(*b"()"))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Unordered<'o>, Error> {
        Ok(self.unordered(*b"{}"))
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Ordered<'o>, Error> {
        Ok(self.named(name).ordered(*b"{}"))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Ordered<'o>, Error> {
        Ok(self.variant(name, variant).ordered(*b"{}"))
    }
}

/// Elements or fields, in the order in which they come.
struct Ordered<'o> {
    out: &'o mut Vec<u8>,
    close: u8,
    length: usize,
}

impl Ordered<'_> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.separate();
        write(self.out, value)
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Error> {
        self.separate();
        Writer { out: &mut *self.out, of: "" }.push_name(name);
        self.out.push(b':');
        write(self.out, value)
    }

    fn separate(&mut self) {
        if self.length > 0 {
            self.out.push(b',');
        }
        self.length += 1;
    }

    fn finish(self) -> Result<(), Error> {
        // One value in parentheses is what a type wraps, and none is the unit.
        if self.close == b')' && self.length < 2 {
            self.out.push(b',');
        }
        self.out.push(self.close);
        Ok(())
    }
}

/// Elements, or keys and their values, sorted by their written form.
struct Unordered<'o> {
    out: &'o mut Vec<u8>,
    begin: usize,
    delimiters: [u8; 2],
    parts: Vec<Part>,
}

/// The position of an element, or of a key followed by its value.
#[derive(Clone, Copy)]
struct Part {
    begin: usize,
    key_end: usize,
    end: usize,
}

impl Unordered<'_> {
    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        let begin = self.out.len();
        write(self.out, key)?;
        let end = self.out.len();
        self.parts.push(Part { begin, key_end: end, end });
        Ok(())
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        write(self.out, value)?;
        if let Some(part) = self.parts.last_mut() {
            part.end = self.out.len();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), Error> {
        let written = self.out.split_off(self.begin);
        let slice = |from: usize, to: usize| &written[from - self.begin..to - self.begin];
        // If a key occurs twice, the order of the two is part of the value: this stable sort keeps it.
        self.parts.sort_by(|one, other| slice(one.begin, one.key_end).cmp(slice(other.begin, other.key_end)));
        let [open, close] = self.delimiters;
        self.out.push(open);
        for (place, part) in self.parts.iter().enumerate() {
            if place > 0 {
                self.out.push(b',');
            }
            self.out.extend_from_slice(slice(part.begin, part.key_end));
            if open == b'{' {
                self.out.push(b':');
                self.out.extend_from_slice(slice(part.key_end, part.end));
            }
        }
        self.out.push(close);
        Ok(())
    }
}

/// A list or a set: serde calls both a sequence.
enum Sequence<'o> {
    Ordered(Ordered<'o>),
    Unordered(Unordered<'o>),
}

impl SerializeSeq for Sequence<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        match self {
            Self::Ordered(list) => list.element(value),
            Self::Unordered(set) => set.key(value),
        }
    }

    fn end(self) -> Result<(), Error> {
        match self {
            Self::Ordered(list) => list.finish(),
            Self::Unordered(set) => set.finish(),
        }
    }
}

impl SerializeMap for Unordered<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.value(value)
    }

    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

/// Implements serde's separate traits, which are all the same here.
macro_rules! ordered {
    ($($kind:ident: $method:ident($($name:ident)?) => $write:ident,)+) => {$(
        impl $kind for Ordered<'_> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, $($name: &'static str,)? value: &T) -> Result<(), Error> {
                self.$write($($name,)? value)
            }

            fn end(self) -> Result<(), Error> {
                self.finish()
            }
        }
    )+};
}

ordered! {
    SerializeTuple: serialize_element() => element,
    SerializeTupleStruct: serialize_field() => element,
    SerializeTupleVariant: serialize_field() => element,
    SerializeStruct: serialize_field(name) => field,
    SerializeStructVariant: serialize_field(name) => field,
}

#[cfg(test)]
mod tests {
    use std::{
        borrow::Cow,
        collections::{BTreeMap, BTreeSet, HashMap},
    };

    use proptest::prelude::*;

    use super::*;

    fn text<T: Serialize + ?Sized>(argument: &T) -> String {
        let mut out = Vec::new();
        write(&mut out, argument).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[derive(Serialize)]
    struct Nothing;
    #[derive(Serialize)]
    struct Id(u64);
    #[derive(Serialize)]
    struct Range(u8, u8);
    #[derive(Serialize)]
    struct Filter<T> {
        category: &'static str,
        #[serde(rename = "in stock")]
        in_stock: T,
    }
    #[derive(Serialize)]
    enum Sort {
        Name,
        By(&'static str),
        Both(u8, u8),
        Of { field: u8 },
        None,
    }

    #[test]
    fn people_can_read_it() {
        assert_eq!(text("lamps"), r#""lamps""#);
        assert_eq!(text("a \"b\" \\ c\n"), "\"a \\\"b\\\" \\\\ c\n\"");
        assert_eq!((text(&1), text(&-1_i8), text(&true)), ("1".into(), "-1".into(), "true".into()));
        assert_eq!((text(&u128::MAX), text(&i128::MIN)), (u128::MAX.to_string(), i128::MIN.to_string()));
        assert_eq!((text(&'a'), text(&'\'')), ("'a'".into(), r"'\''".into()));
        assert_eq!((text(&()), text(&(1,)), text(&(1, "b"))), ("()".into(), "(1,)".into(), r#"(1,"b")"#.into()));
        assert_eq!((text(&[0; 0]), text(&[1, 2]), text(&vec![1, 2])), ("(,)".into(), "(1,2)".into(), "[1,2]".into()));
        assert_eq!(
            (text(&Nothing), text(&Id(7)), text(&Range(1, 2))),
            ("Nothing".into(), "Id(7)".into(), "Range(1,2)".into())
        );
        assert_eq!(
            text(&Filter { category: "lamps", in_stock: Some(1) }),
            r#"Filter{category:"lamps",`in stock`:Some(1)}"#
        );
        assert_eq!((text(&Sort::Name), text(&Sort::By("name"))), ("Sort::Name".into(), r#"Sort::By("name")"#.into()));
        assert_eq!(
            (text(&Sort::Both(1, 2)), text(&Sort::Of { field: 1 })),
            ("Sort::Both(1,2)".into(), "Sort::Of{field:1}".into())
        );
        assert_eq!((text(&Sort::None), text(&Some(Sort::None))), ("Sort::`None`".into(), "Some(Sort::`None`)".into()));
        assert_eq!(text(&BTreeMap::from([("b", 1), ("a", 2)])), r#"{"a":2,"b":1}"#);
        assert_eq!(text(&HashSet::from(["a"])), r#"<"a">"#);
    }

    #[test]
    fn floats_are_what_they_are() {
        let written = [0.0, -0.0, 1.0, 0.1, 1e300, f64::MIN_POSITIVE, f64::INFINITY, f64::NEG_INFINITY, f64::NAN]
            .map(|f| text(&f));
        assert_eq!(written, ["0.0", "-0.0", "1.0", "0.1", "1e300", "2.2250738585072014e-308", "inf", "-inf", "NaN"]);
        assert_eq!(text(&f64::from_bits(f64::NAN.to_bits() ^ 1 ^ (1 << 63))), "NaN");
        assert_eq!((text(&0.5_f32), text(&f32::NAN)), ("0.5".into(), "NaN".into()));
        assert_ne!(text(&0.1_f32), text(&0.1));
        assert_ne!(text(&1.0), text(&1));
    }

    #[test]
    fn what_looks_alike_is_written_apart() {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Any {
            None(Option<u8>),
            #[expect(clippy::option_option, reason = "its key could be taken for an `Option's`")]
            NoNone(Option<Option<u8>>),
            NoUnit(Option<()>),
            Unit,
            Named(Nothing),
            Text(String),
            Char(char),
            Variant(Sort),
            Integer(u64),
            Float(f64),
            Tuple((u8, u8)),
            List(Vec<u8>),
            Id(Id),
            Set(#[serde(serialize_with = "unordered")] HashSet<u8>),
            Map(BTreeMap<String, u8>),
            Filter(Filter<u8>),
        }
        let all = [
            Any::None(None),
            Any::None(Some(1)),
            Any::NoNone(Some(None)),
            Any::NoNone(Some(Some(1))),
            Any::NoUnit(Some(())),
            Any::Unit,
            Any::Named(Nothing),
            Any::Text("None".into()),
            Any::Text("1".into()),
            Any::Text("a".into()),
            Any::Char('a'),
            Any::Text("Name".into()),
            Any::Variant(Sort::Name),
            Any::Integer(1),
            Any::Float(1.0),
            Any::Float(f64::NAN),
            Any::Tuple((1, 2)),
            Any::List(vec![1, 2]),
            Any::List(vec![]),
            Any::Id(Id(1)),
            Any::Set(HashSet::from([1])),
            Any::Set(HashSet::new()),
            Any::Map(BTreeMap::new()),
            Any::Map(BTreeMap::from([("category".into(), 1)])),
            Any::Filter(Filter { category: "a", in_stock: 1 }),
        ];
        let written: BTreeSet<String> = all.iter().map(text).collect();
        assert_eq!(written.len(), all.len(), "{written:?}");
    }

    /// Each with an order of its own.
    fn sets() -> impl Iterator<Item = HashSet<u32>> {
        (0..20).map(|_| (0..20).collect())
    }

    fn maps() -> impl Iterator<Item = HashMap<u32, &'static str>> {
        (0..20).map(|_| (0..20).map(|key| (key, "value")).collect())
    }

    fn assert_alike<T: Serialize>(equal: impl Iterator<Item = T>) {
        let written: BTreeSet<String> = equal.map(|argument| text(&argument)).collect();
        assert_eq!(written.len(), 1, "{}: {written:?}", type_name::<T>());
    }

    #[test]
    fn equal_maps_and_sets_are_written_alike_wherever_they_stand() {
        #[derive(Serialize)]
        struct Wrapped<T>(T);
        #[derive(Serialize)]
        enum Variant<T> {
            One(T),
            Two(u8, T),
            Named { field: T },
        }
        assert_alike(maps());
        assert_alike(maps().map(Some));
        assert_alike(maps().map(|map| vec![map.clone(), HashMap::new(), map]));
        assert_alike(maps().map(|map| (1, map)));
        assert_alike(maps().map(|map| Filter { category: "a", in_stock: map }));
        assert_alike(maps().map(|map| BTreeMap::from([(1, map)])));
        assert_alike(maps().map(Box::new));
        assert_alike(maps().map(Wrapped));
        assert_alike(maps().map(Variant::One));
        assert_alike(maps().map(|map| Variant::Two(1, map)));
        assert_alike(maps().map(|field| Variant::Named { field }));
        assert_alike(
            maps().map(|map| map.into_keys().map(|key| (vec![key], sets().next())).collect::<HashMap<_, _>>()),
        );

        assert_alike(sets());
        assert_alike(sets().map(Some).map(Some));
        assert_alike(sets().map(|set| vec![set.clone(), HashSet::new(), set]));
        assert_alike(sets().map(|set| (1, set)));
        assert_alike(sets().map(|set| Filter { category: "a", in_stock: set }));
        assert_alike(sets().map(|set| HashMap::from([(1, set)])));
        assert_alike(sets().map(Box::new).map(Box::new));
        assert_alike(sets().map(Cow::<HashSet<u32>>::Owned));
        assert_alike(sets().map(Wrapped).map(Wrapped));
        assert_alike(sets().map(Variant::One));
        assert_alike(sets().map(|set| Variant::Two(1, set)));
        assert_alike(sets().map(|field| Variant::Named { field }));
        assert_alike(sets().map(|set| set.into_iter().map(|element| vec![element]).collect::<HashSet<_>>()));
        assert_alike(sets().map(BinaryHeap::from_iter));
        let all: Vec<_> = sets().collect();
        assert_alike(all.iter());
        assert_alike(all.iter().map(Cow::Borrowed));
        assert_alike(all.iter().map(|set| (1, set)));

        assert_ne!(text(&vec![1, 2]), text(&vec![2, 1]));
        assert_ne!(text(&vec![(1, 2), (3, 4)]), text(&vec![(3, 4), (1, 2)]));
    }

    #[test]
    fn a_set_of_anyones_is_what_it_is_said_to_be() {
        #[derive(Clone, Serialize)]
        #[serde(transparent)]
        struct Labels(Vec<&'static str>);
        #[derive(Serialize)]
        struct Search {
            #[serde(serialize_with = "unordered")]
            labels: Option<Labels>,
        }
        let of = |labels: [&'static str; 2]| Search { labels: Some(Labels(labels.into())) };
        assert_eq!(text(&of(["b", "a"])), r#"Search{labels:Some(<"a","b">)}"#);
        assert_eq!(text(&of(["b", "a"])), text(&of(["a", "b"])));
        assert_eq!(serde_json::to_string(&of(["b", "a"])).unwrap(), r#"{"labels":["b","a"]}"#);
    }

    /// Anything that serde knows.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Any {
        Bool(bool),
        Integer(i128),
        Float(u64),
        Char(char),
        Text(String),
        Bytes(Vec<u8>),
        None,
        Some(Box<Self>),
        Unit,
        UnitStruct(&'static str),
        UnitVariant(&'static str, &'static str),
        Newtype(&'static str, Box<Self>),
        NewtypeVariant(&'static str, &'static str, Box<Self>),
        List(Vec<Self>),
        Set(Vec<Self>),
        Tuple(Vec<Self>),
        TupleStruct(&'static str, Vec<Self>),
        TupleVariant(&'static str, &'static str, Vec<Self>),
        Map(BTreeMap<Self, Self>),
        Struct(&'static str, Vec<(&'static str, Self)>),
        StructVariant(&'static str, &'static str, Vec<(&'static str, Self)>),
    }

    impl Serialize for Any {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            match self {
                Self::Bool(value) => to.serialize_bool(*value),
                Self::Integer(value) => to.serialize_i128(*value),
                Self::Float(bits) => to.serialize_f64(f64::from_bits(*bits)),
                Self::Char(value) => to.serialize_char(*value),
                Self::Text(value) => to.serialize_str(value),
                Self::Bytes(value) => to.serialize_bytes(value),
                Self::None => to.serialize_none(),
                Self::Some(value) => to.serialize_some(value),
                Self::Unit => to.serialize_unit(),
                Self::UnitStruct(name) => to.serialize_unit_struct(name),
                Self::UnitVariant(name, variant) => to.serialize_unit_variant(name, 0, variant),
                Self::Newtype(name, value) => to.serialize_newtype_struct(name, value),
                Self::NewtypeVariant(name, variant, value) => to.serialize_newtype_variant(name, 0, variant, value),
                Self::List(values) => to.collect_seq(values),
                Self::Set(values) => unordered(values, to),
                Self::Tuple(values) => {
                    let mut to = to.serialize_tuple(values.len())?;
                    values.iter().try_for_each(|value| to.serialize_element(value))?;
                    to.end()
                }
                Self::TupleStruct(name, values) => {
                    let mut to = to.serialize_tuple_struct(name, values.len())?;
                    values.iter().try_for_each(|value| to.serialize_field(value))?;
                    to.end()
                }
                Self::TupleVariant(name, variant, values) => {
                    let mut to = to.serialize_tuple_variant(name, 0, variant, values.len())?;
                    values.iter().try_for_each(|value| to.serialize_field(value))?;
                    to.end()
                }
                Self::Map(entries) => to.collect_map(entries),
                Self::Struct(name, fields) => {
                    let mut to = to.serialize_struct(name, fields.len())?;
                    fields.iter().try_for_each(|(field, value)| to.serialize_field(field, value))?;
                    to.end()
                }
                Self::StructVariant(name, variant, fields) => {
                    let mut to = to.serialize_struct_variant(name, 0, variant, fields.len())?;
                    fields.iter().try_for_each(|(field, value)| to.serialize_field(field, value))?;
                    to.end()
                }
            }
        }
    }

    impl Any {
        /// With its sets in one order.
        fn canonical(self) -> Self {
            let all = |values: Vec<Self>| values.into_iter().map(Self::canonical).collect::<Vec<_>>();
            let fields =
                |fields: Vec<(_, Self)>| fields.into_iter().map(|(name, value)| (name, value.canonical())).collect();
            match self {
                Self::Some(value) => Self::Some(Box::new(value.canonical())),
                Self::Newtype(name, value) => Self::Newtype(name, Box::new(value.canonical())),
                Self::NewtypeVariant(name, variant, value) => {
                    Self::NewtypeVariant(name, variant, Box::new(value.canonical()))
                }
                Self::List(values) => Self::List(all(values)),
                Self::Set(values) => {
                    let mut values = all(values);
                    values.sort();
                    Self::Set(values)
                }
                Self::Tuple(values) => Self::Tuple(all(values)),
                Self::TupleStruct(name, values) => Self::TupleStruct(name, all(values)),
                Self::TupleVariant(name, variant, values) => Self::TupleVariant(name, variant, all(values)),
                Self::Map(entries) => {
                    Self::Map(entries.into_iter().map(|(key, value)| (key.canonical(), value.canonical())).collect())
                }
                Self::Struct(name, values) => Self::Struct(name, fields(values)),
                Self::StructVariant(name, variant, values) => Self::StructVariant(name, variant, fields(values)),
                other => other,
            }
        }
    }

    /// Of few letters, among them those that mean something, so that much is nearly the same.
    fn values() -> impl Strategy<Value = Any> {
        let name = || prop::sample::select(vec!["A", "None", "Some", "true", "a b", "", "`", "1", "é", ":"]);
        let text = || prop::collection::vec(prop::sample::select(vec!["a", "\"", "\\", "'", "`", "1", ",", "("]), 0..3);
        let leaf = prop_oneof![
            any::<bool>().prop_map(Any::Bool),
            (-1..2_i128).prop_map(Any::Integer),
            prop::sample::select(vec![0.0, -0.0, 1.0, f64::INFINITY, f64::NAN]).prop_map(|f| Any::Float(f.to_bits())),
            prop::sample::select(vec!['a', '\'', '\\', '1']).prop_map(Any::Char),
            text().prop_map(|text| Any::Text(text.concat())),
            text().prop_map(|text| Any::Bytes(text.concat().into())),
            Just(Any::None),
            Just(Any::Unit),
            name().prop_map(Any::UnitStruct),
            (name(), name()).prop_map(|(name, variant)| Any::UnitVariant(name, variant)),
        ];
        leaf.prop_recursive(3, 8, 2, move |inner| {
            let list = || prop::collection::vec(inner.clone(), 0..3);
            let fields = || prop::collection::vec((name(), inner.clone()), 0..3);
            let boxed = || inner.clone().prop_map(Box::new);
            prop_oneof![
                boxed().prop_map(Any::Some),
                (name(), boxed()).prop_map(|(name, value)| Any::Newtype(name, value)),
                (name(), name(), boxed()).prop_map(|(name, variant, value)| Any::NewtypeVariant(name, variant, value)),
                list().prop_map(Any::List),
                list().prop_map(Any::Set),
                list().prop_map(Any::Tuple),
                (name(), list()).prop_map(|(name, values)| Any::TupleStruct(name, values)),
                (name(), name(), list()).prop_map(|(name, variant, values)| Any::TupleVariant(name, variant, values)),
                prop::collection::btree_map(inner.clone().prop_map(Any::canonical), inner.clone(), 0..3)
                    .prop_map(Any::Map),
                (name(), fields()).prop_map(|(name, fields)| Any::Struct(name, fields)),
                (name(), name(), fields())
                    .prop_map(|(name, variant, fields)| Any::StructVariant(name, variant, fields)),
            ]
        })
    }

    proptest! {
        // Each compares 40 values with each other.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn equal_and_written_alike_are_the_same(all in prop::collection::vec(values(), 40)) {
            let all: Vec<_> = all.into_iter().map(|value| (text(&value), value.canonical())).collect();
            for (written, value) in &all {
                prop_assert_eq!(written, &text(value), "{:?}", value);
                for (also_written, other) in &all {
                    prop_assert_eq!(written == also_written, value == other, "{:?} and {:?}", value, other);
                }
            }
        }
    }
}
