//! Codecs as trait objects, though their methods have type parameters: instead of the codec, the value and its reader have
//! their types erased.

use std::{any::Any, cell::Cell, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};

use super::contract::{Codec, CodecError};

/// A codec of any type.
pub(super) trait Erased: fmt::Debug + Send + Sync {
    fn name(&self) -> &str;

    fn encode_erased(&self, value: &dyn erased_serde::Serialize) -> Result<Vec<u8>, CodecError>;

    /// The value that [`READ`] reads from the bytes.
    fn decode_erased(&self, bytes: &[u8]) -> Result<Read, CodecError>;
}

impl<C: Codec> Erased for C {
    fn name(&self) -> &str {
        Codec::name(self)
    }

    fn encode_erased(&self, value: &dyn erased_serde::Serialize) -> Result<Vec<u8>, CodecError> {
        self.encode(value)
    }

    fn decode_erased(&self, bytes: &[u8]) -> Result<Read, CodecError> {
        self.decode(bytes)
    }
}

/// A value that was read.
pub(super) struct Read(Box<dyn Any>);

/// Reads a value of a type that the caller knows.
type ReadValue = for<'de> fn(&mut dyn erased_serde::Deserializer<'de>) -> Result<Box<dyn Any>, erased_serde::Error>;

thread_local! {
    /// How a [`Read`] of this thread is read now: a codec only knows that `Read` can be deserialized. It may do so several times,
    /// to try one format after another.
    static READ: Cell<Option<ReadValue>> = const { Cell::new(None) };
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Some(read) = READ.get() else { return Err(D::Error::custom("nothing says what to read")) };
        read(&mut <dyn erased_serde::Deserializer<'_>>::erase(deserializer)).map(Self).map_err(D::Error::custom)
    }
}

/// Restores how to read: a value may be decoded while another one is.
struct Restored(Option<ReadValue>);

impl Drop for Restored {
    fn drop(&mut self) {
        READ.set(self.0);
    }
}

fn read_as<V: DeserializeOwned + 'static>(
    deserializer: &mut dyn erased_serde::Deserializer<'_>,
) -> Result<Box<dyn Any>, erased_serde::Error> {
    let value: V = erased_serde::deserialize(deserializer)?;
    Ok(Box::new(value))
}

/// The value of this type that `codec` reads from the bytes.
pub(super) fn decode<V: DeserializeOwned + 'static>(codec: &dyn Erased, bytes: &[u8]) -> Result<V, CodecError> {
    let read = {
        let _before = Restored(READ.replace(Some(read_as::<V>)));
        codec.decode_erased(bytes)
    };
    read?.0.downcast().map(|value| *value).map_err(|_| "it is a value of another type".into())
}
