//! The payload of an entry in content codings: besides the payload, or instead of it for a frame that came from Redis.

use bytes::Bytes;

use crate::coding::{Coding, Encoder};

/// The state of a payload in one coding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    #[default]
    Unmade,
    /// The coded form is not shorter.
    InVain,
    Made(Bytes),
}

/// A payload in its codings.
#[derive(Clone, Debug, Default)]
pub(super) struct Codings {
    pub(super) forms: [Form; Coding::COUNT],
    /// The levels at which they were made; 0 is the default level of a coding.
    pub(super) levels: [u8; Coding::COUNT],
    /// The length of the payload, if only its zstd frame is here.
    pub(super) framed: Option<u64>,
    /// Which of them have a buffer of their own.
    owned: [bool; Coding::COUNT],
}

impl Codings {
    /// Records the form of one coding. A form that another encoder of the same coding made is dropped.
    pub(super) fn set(&mut self, encoder: Encoder, form: Form) {
        let is_made = matches!(form, Form::Made(_));
        // This form may be the only copy of the payload.
        if self.framed.is_some() && encoder.coding().is_zstd() && !is_made {
            return;
        }
        let number = encoder.coding().number();
        self.owned[number] = is_made;
        (self.forms[number], self.levels[number]) = (form, encoder.level());
    }

    /// Codings that are slices of a buffer, which is counted elsewhere.
    #[cfg(feature = "redis")]
    pub(super) fn of(forms: [Form; Coding::COUNT], levels: [u8; Coding::COUNT], framed: Option<u64>) -> Self {
        Self { forms, levels, framed, ..Self::default() }
    }

    /// The number of codings that are present.
    pub(super) fn made(&self) -> usize {
        self.forms.iter().filter(|form| matches!(form, Form::Made(_))).count()
    }

    /// The number of buffers that these codings own, and of their bytes.
    pub(super) fn held(&self) -> (usize, usize) {
        let bytes = self.forms.iter().zip(self.owned).filter_map(|(form, owned)| match form {
            Form::Made(coded) if owned => Some(coded.len()),
            _ => None,
        });
        bytes.fold((0, 0), |(buffers, sum), bytes| (buffers + 1, sum + bytes))
    }
}
