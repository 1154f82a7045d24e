//! JSON, except for values that would not be read back unchanged. serde_json writes these all the same: `null` for `NaN`, the
//! same `null` for `None` and for `Some` of a value that is `null` itself, and more levels than it can read.

use std::fmt::Display;

use serde::{
    Serialize, Serializer,
    ser::{
        Error, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
        SerializeTupleStruct, SerializeTupleVariant,
    },
};

/// The deepest nesting of arrays and objects that serde_json reads.
const MAX_DEPTH: u8 = 127;

/// The value as JSON, or why it can't be.
pub(super) fn encode<V: Serialize + ?Sized>(value: &V) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(128);
    let at = Place { depth: 0, in_some: false };
    let json = &mut serde_json::Serializer::new(&mut bytes);
    value.serialize(Faithful { json, at }).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// The position of a value.
#[derive(Clone, Copy)]
struct Place {
    /// The number of arrays and objects around it.
    depth: u8,
    /// Whether it is the content of a `Some`.
    in_some: bool,
}

impl Place {
    /// The position within `levels` more.
    fn within<E: Error>(self, levels: u8) -> Result<Self, E> {
        let depth = self.depth + levels;
        if depth > MAX_DEPTH {
            return Err(E::custom(format_args!("JSON is not read back from more than {MAX_DEPTH} levels of nesting")));
        }
        Ok(Self { depth, in_some: false })
    }

    fn null<E: Error>(self) -> Result<(), E> {
        if self.in_some {
            return Err(E::custom("JSON has one `null` for `None` and for `Some` of what is `null` itself"));
        }
        Ok(())
    }
}

/// Writes one value.
struct Faithful<S> {
    json: S,
    at: Place,
}

/// A value that is written at a position.
struct At<'v, T: ?Sized>(&'v T, Place);

impl<T: Serialize + ?Sized> Serialize for At<'_, T> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(Faithful { json, at: self.1 })
    }
}

/// An array or an object, and the position of its members.
struct Members<C> {
    json: C,
    at: Place,
}

/// Values that JSON writes so that they are read back unchanged.
macro_rules! as_it_is {
    ($($method:ident($type:ty))+) => {$(
        fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.json.$method(value)
        }
    )+};
}

impl<S: Serializer> Serializer for Faithful<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Members<S::SerializeSeq>;
    type SerializeTuple = Members<S::SerializeTuple>;
    type SerializeTupleStruct = Members<S::SerializeTupleStruct>;
    type SerializeTupleVariant = Members<S::SerializeTupleVariant>;
    type SerializeMap = Members<S::SerializeMap>;
    type SerializeStruct = Members<S::SerializeStruct>;
    type SerializeStructVariant = Members<S::SerializeStructVariant>;

    as_it_is! {
        serialize_bool(bool) serialize_char(char) serialize_str(&str)
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64) serialize_i128(i128)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_u128(u128)
    }

    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        if !value.is_finite() {
            return Err(no_number(value));
        }
        self.json.serialize_f32(value)
    }

    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        if !value.is_finite() {
            return Err(no_number(value));
        }
        self.json.serialize_f64(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<S::Ok, S::Error> {
        self.at.within::<S::Error>(1)?;
        self.json.serialize_bytes(value)
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.at.null::<S::Error>()?;
        self.json.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.json.serialize_some(&At(value, Place { in_some: true, ..self.at }))
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.at.null::<S::Error>()?;
        self.json.serialize_unit()
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.at.null::<S::Error>()?;
        self.json.serialize_unit_struct(name)
    }

    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<S::Ok, S::Error> {
        self.json.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        self.json.serialize_newtype_struct(name, &At(value, self.at))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.json.serialize_newtype_variant(name, index, variant, &At(value, self.at.within::<S::Error>(1)?))
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        let at = self.at.within::<S::Error>(1)?;
        Ok(Members { json: self.json.serialize_seq(length)?, at })
    }

    fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple, S::Error> {
        let at = self.at.within::<S::Error>(1)?;
        Ok(Members { json: self.json.serialize_tuple(length)?, at })
    }

    fn serialize_tuple_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeTupleStruct, S::Error> {
        let at = self.at.within::<S::Error>(1)?;
        Ok(Members { json: self.json.serialize_tuple_struct(name, length)?, at })
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        let at = self.at.within::<S::Error>(2)?;
        Ok(Members { json: self.json.serialize_tuple_variant(name, index, variant, length)?, at })
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        let at = self.at.within::<S::Error>(1)?;
        Ok(Members { json: self.json.serialize_map(length)?, at })
    }

    fn serialize_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeStruct, S::Error> {
        let at = self.at.within::<S::Error>(1)?;
        Ok(Members { json: self.json.serialize_struct(name, length)?, at })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        let at = self.at.within::<S::Error>(2)?;
        Ok(Members { json: self.json.serialize_struct_variant(name, index, variant, length)?, at })
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.json.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.json.is_human_readable()
    }
}

fn no_number<E: Error>(value: impl Display) -> E {
    E::custom(format_args!("JSON has no number for `{value}`"))
}

/// Keys are left to serde_json, which writes them so that they are read back unchanged, or refuses them.
impl<C: SerializeMap> SerializeMap for Members<C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        self.json.serialize_key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.json.serialize_value(&At(value, self.at))
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.json.end()
    }
}

/// Implements serde's separate traits, which are all the same here.
macro_rules! members {
    ($($kind:ident: $method:ident($($name:ident)?),)+) => {$(
        impl<C: $kind> $kind for Members<C> {
            type Ok = C::Ok;
            type Error = C::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, $($name: &'static str,)? value: &T) -> Result<(), C::Error> {
                self.json.$method($($name,)? &At(value, self.at))
            }

            fn end(self) -> Result<C::Ok, C::Error> {
                self.json.end()
            }
        }
    )+};
}

members! {
    SerializeSeq: serialize_element(),
    SerializeTuple: serialize_element(),
    SerializeTupleStruct: serialize_field(),
    SerializeTupleVariant: serialize_field(),
    SerializeStruct: serialize_field(name),
    SerializeStructVariant: serialize_field(name),
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, HashMap},
        fmt::Debug,
    };

    use proptest::prelude::*;
    use serde::{Deserialize, de::DeserializeOwned};

    use super::*;

    fn read<V: DeserializeOwned>(json: &[u8]) -> Option<V> {
        serde_json::from_slice(json).ok()
    }

    fn comes_back<V: Serialize + DeserializeOwned + PartialEq + Debug>(value: V) {
        let json = encode(&value).unwrap();
        assert_eq!(json, serde_json::to_vec(&value).unwrap());
        assert_eq!(read(&json), Some(value));
    }

    fn is_refused<V: Serialize + DeserializeOwned + PartialEq + Debug>(value: V, because: &str) {
        let reason = encode(&value).unwrap_err();
        assert!(reason.contains(because), "{value:?}: {reason}");
        let json = serde_json::to_vec(&value).unwrap();
        assert_ne!(read(&json), Some(value), "{} is what it was", json.escape_ascii());
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Empty;
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(transparent)]
    struct Transparent(Option<u8>);
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Of<T> {
        value: T,
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            is_refused(value, "JSON has no number for");
            is_refused(Some(value), "no number");
            is_refused(vec![(1, value)], "no number");
            is_refused(Of { value: BTreeMap::from([("a".to_owned(), value as f32)]) }, "no number");
        }
        assert!(encode(&f64::NEG_INFINITY).unwrap_err().contains("`-inf`"));
    }

    #[test]
    fn a_some_that_reads_as_none_is_refused() {
        let why = "one `null`";
        is_refused(Some(None::<u8>), why);
        is_refused(Some(()), why);
        is_refused(Some(Empty), why);
        is_refused(Some(Some(None::<u8>)), why);
        is_refused(Some(Transparent(None)), why);
        is_refused(Some(serde_json::Value::Null), why);
        is_refused(vec![Some(Some(1)), Some(None)], why);
        is_refused(Of { value: (1, Some(None::<Of<u8>>)) }, why);

        comes_back(None::<Option<u8>>);
        comes_back(Some(Some(1)));
        comes_back(Some(vec![None::<u8>]));
        comes_back(Some((None::<u8>, ())));
        comes_back(Some(Of { value: None::<u8> }));
        comes_back(((), Empty, None::<()>, Some(Transparent(Some(1)))));
        comes_back(Some(serde_json::json!([null, {"a": null}])));
    }

    #[test]
    fn the_rest_comes_back() {
        comes_back((u128::MAX, i128::MIN, u64::MAX, i64::MIN));
        comes_back(('a', "\u{0}\"\\\u{2028}é".to_owned(), vec![0_u8, 255]));
        comes_back(HashMap::from([(1, 2), (-3, 4)]));
        comes_back(BTreeMap::from([(true, 'a'), (false, 'b')]));
        comes_back(HashMap::from([(Some('a'), 1)]));
        comes_back(Ok::<_, u8>(Err::<u8, _>("a".to_owned())));
        comes_back(-0.0);
        let json = encode(&-0.0).unwrap();
        assert!(read::<f64>(&json).unwrap().is_sign_negative());
        // A key that is no text is serde_json's to refuse.
        assert!(encode(&BTreeMap::from([(None::<u8>, 1)])).is_err());
        assert!(encode(&BTreeMap::from([(vec![1], 1)])).is_err());
    }

    /// Nests `value` so often.
    fn nested<V>(mut value: V, times: usize, wrap: impl Fn(V) -> V) -> V {
        for _ in 0..times {
            value = wrap(value);
        }
        value
    }

    #[test]
    fn no_more_levels_are_written_than_are_read() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        enum Deep {
            End,
            Newtype(Box<Self>),
            Tuple(u8, Box<Self>),
            Struct { inner: Box<Self> },
            List(Vec<Self>),
            Map(BTreeMap<u8, Self>),
            Some(Option<Box<Self>>),
            Pair(Box<(Self, u8)>),
            Of(Box<Of<Self>>),
        }
        let wraps: [fn(Deep) -> Deep; 8] = [
            |inner| Deep::Newtype(Box::new(inner)),
            |inner| Deep::Tuple(1, Box::new(inner)),
            |inner| Deep::Struct { inner: Box::new(inner) },
            |inner| Deep::List(vec![inner]),
            |inner| Deep::Map(BTreeMap::from([(1, inner)])),
            |inner| Deep::Some(Some(Box::new(inner))),
            |inner| Deep::Pair(Box::new((inner, 1))),
            |inner| Deep::Of(Box::new(Of { value: inner })),
        ];
        let mut refused = 0;
        for wrap in wraps {
            for times in 60..130 {
                let value = nested(Deep::End, times, wrap);
                let written = encode(&value);
                refused += usize::from(written.is_err());
                let readable = read::<Deep>(&serde_json::to_vec(&value).unwrap()).is_some();
                assert_eq!(written.is_ok(), readable, "{times} times {:?}", wrap(Deep::End));
            }
        }
        assert!(refused > 0);
        let deep = |times| nested(serde_json::json!(1), times, |inner| serde_json::json!([inner]));
        comes_back(deep(127));
        let reason = encode(&deep(128)).unwrap_err();
        assert_eq!(reason, "JSON is not read back from more than 127 levels of nesting");
    }

    proptest! {
        #[test]
        fn floats_come_back_to_the_last_bit(bits: u64, single: u32, cents in 0..10_000_000_u32) {
            #[derive(Debug, PartialEq, Serialize, Deserialize)]
            #[serde(untagged)]
            enum Price {
                Exact(u64),
                Float(f64),
            }
            let price = f64::from(cents) / 100.0 * 1.19;
            for value in [f64::from_bits(bits), price].into_iter().filter(|value| value.is_finite()) {
                prop_assert_eq!(read::<f64>(&encode(&value).unwrap()).unwrap().to_bits(), value.to_bits());
                let value = Of { value: Price::Float(value) };
                prop_assert_eq!(read(&encode(&value).unwrap()), Some(value));
            }
            let single = f32::from_bits(single);
            if single.is_finite() {
                prop_assert_eq!(read::<f32>(&encode(&single).unwrap()).unwrap().to_bits(), single.to_bits());
            }
        }
    }
}
