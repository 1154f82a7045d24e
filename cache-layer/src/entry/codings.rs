//! The payload of an entry in content codings, beside itself, or in place of itself as it came from Redis.

use bytes::Bytes;

use crate::coding::{Coding, Encoder};

/// What is known of a payload in one coding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    #[default]
    Unmade,
    /// It is no shorter.
    InVain,
    Made(Bytes),
}

/// A payload in its codings.
#[derive(Clone, Debug, Default)]
pub(super) struct Codings {
    pub(super) forms: [Form; Coding::COUNT],
    /// At which levels they were made; 0 is the usual one of a coding.
    pub(super) levels: [u8; Coding::COUNT],
    /// The length of the payload, where only its zstd frame is here.
    pub(super) framed: Option<u64>,
    /// Which of them have a buffer of their own.
    owned: [bool; Coding::COUNT],
}

impl Codings {
    /// Takes note of what is known of one coding. What was made by another encoder of it goes.
    pub(super) fn set(&mut self, encoder: Encoder, form: Form) {
        let is_made = matches!(form, Form::Made(_));
        // The payload itself may be nowhere else.
        if self.framed.is_some() && encoder.coding().is_zstd() && !is_made {
            return;
        }
        let number = encoder.coding().number();
        self.owned[number] = is_made;
        (self.forms[number], self.levels[number]) = (form, encoder.level());
    }

    /// Made of what is in a buffer that is counted otherwise.
    #[cfg(feature = "redis")]
    pub(super) fn of(forms: [Form; Coding::COUNT], levels: [u8; Coding::COUNT], framed: Option<u64>) -> Self {
        Self { forms, levels, framed, ..Self::default() }
    }

    /// How many buffers it has of its own, and of how many bytes.
    #[cfg(feature = "memory")]
    pub(super) fn held(&self) -> (usize, usize) {
        let bytes = self.forms.iter().zip(self.owned).filter_map(|(form, owned)| match form {
            Form::Made(coded) if owned => Some(coded.len()),
            _ => None,
        });
        bytes.fold((0, 0), |(buffers, sum), bytes| (buffers + 1, sum + bytes))
    }
}
