//! The payload of an entry in content codings, beside itself, or in place of itself as it came from Redis.

use bytes::Bytes;

use crate::coding::Coding;

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
    /// The length of the payload, where only its zstd frame is here.
    pub(super) framed: Option<u64>,
    /// Buffers that are here for these alone, and their bytes.
    buffers: usize,
    bytes: usize,
}

impl Codings {
    /// Takes note of what is known of one coding.
    pub(super) fn set(&mut self, coding: Coding, form: Form) {
        if let Form::Made(coded) = &form {
            self.buffers += 1;
            self.bytes += coded.len();
        }
        self.forms[coding.number()] = form;
    }

    /// Made of what is in a buffer that is counted otherwise.
    #[cfg(feature = "redis")]
    pub(super) fn of(forms: [Form; Coding::COUNT], framed: Option<u64>) -> Self {
        Self { forms, framed, ..Self::default() }
    }

    /// How many buffers it has of its own, and of how many bytes.
    #[cfg(feature = "memory")]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.buffers, self.bytes)
    }
}
