//! An entry and its payload in content codings: reading, adding and inflating them.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    codings::{Codings, Form},
    contents::Entry,
};
use crate::coding::{Coding, Encoder};

static UNMADE: Form = Form::Unmade;

impl Entry {
    /// The form of the payload in this coding, by this encoder of it.
    pub(crate) fn form(&self, encoder: impl Into<Encoder>) -> &Form {
        let encoder = encoder.into();
        let (number, level) = (encoder.coding().number(), encoder.level());
        let codings = self.contents.codings.as_ref().filter(|codings| codings.levels[number] == level);
        codings.map_or(&UNMADE, |codings| &codings.forms[number])
    }

    /// Whether a zstd encoder, at any level, has found that the payload does not shrink.
    #[cfg(all(feature = "redis", any(feature = "zstd", feature = "encode-zstd")))]
    pub(super) fn is_zstd_in_vain(&self) -> bool {
        let forms = self.contents.codings.as_ref().map(|codings| &codings.forms);
        let zstd = Coding::ALL.iter().find(|coding| coding.is_zstd());
        forms.zip(zstd).is_some_and(|(forms, zstd)| forms[zstd.number()] == Form::InVain)
    }

    /// The codings in which the payload is here, and the size in each.
    pub(crate) fn made_codings(&self) -> impl Iterator<Item = (Coding, u64)> {
        let codings = self.contents.codings.as_ref();
        Coding::ALL.iter().copied().filter_map(move |coding| match codings?.forms[coding.number()] {
            Form::Made(ref coded) => Some((coding, coded.len() as u64)),
            Form::Unmade | Form::InVain => None,
        })
    }

    /// The same entry with this form of its payload.
    pub(crate) fn with_form(self, encoder: impl Into<Encoder>, form: Form) -> Self {
        self.change_codings(|codings| codings.set(encoder.into(), form))
    }

    /// The same entry, with the forms that `other` has of the same payload.
    pub(super) fn with_codings_of(self, other: &Self) -> Self {
        match &other.contents.codings {
            Some(codings) if !other.is_framed() => {
                let codings = codings.clone();
                self.change(|contents| contents.codings = Some(codings))
            }
            _ => self,
        }
    }

    fn change_codings(self, change: impl FnOnce(&mut Codings)) -> Self {
        self.change(|contents| change(Arc::make_mut(contents.codings.get_or_insert_default())))
    }

    /// Whether the entry has only a zstd frame of its payload, as it came from Redis, where no reader has needed more.
    pub(crate) fn is_framed(&self) -> bool {
        self.contents.codings.as_ref().is_some_and(|codings| codings.framed.is_some())
    }

    /// The length of the payload, whether or not the payload is here.
    pub(crate) fn payload_length(&self) -> u64 {
        let framed = self.contents.codings.as_ref().and_then(|codings| codings.framed);
        framed.unwrap_or(self.contents.payload.len() as u64)
    }

    /// The same entry with its payload, inflated from the zstd frame if only that was here; the frame is kept. `None` if the
    /// frame can't be inflated.
    pub(crate) fn inflated(&self) -> Option<Self> {
        if !self.is_framed() {
            return Some(self.clone());
        }
        self.inflate().map(|payload| self.clone().with_payload(payload))
    }

    /// The same entry, whose zstd frame contains this payload.
    pub(crate) fn with_payload(self, payload: Bytes) -> Self {
        let entry = self.change_codings(|codings| codings.framed = None);
        entry.change(|contents| {
            contents.held.buffer += payload.len();
            contents.payload = payload;
        })
    }

    #[cfg(all(feature = "redis", feature = "encode-zstd"))]
    fn inflate(&self) -> Option<Bytes> {
        use crate::coding::{Coding, zstd};

        let length = usize::try_from(self.payload_length()).ok()?;
        // The form of any encoder, at any level.
        let codings = self.contents.codings.as_ref()?;
        let Form::Made(frame) = &codings.forms[Coding::Zstd.number()] else { return None };
        zstd::decompress(Vec::with_capacity(length), frame, length).map(Bytes::from)
    }

    #[cfg(not(all(feature = "redis", feature = "encode-zstd")))]
    #[expect(clippy::unused_self, reason = "there is no such entry")]
    fn inflate(&self) -> Option<Bytes> {
        None
    }
}
