//! An entry that holds a response.

use std::ops::Deref;

use http::HeaderMap;

use super::{
    annotate,
    stored::{Stored, StoredResponse},
};
use crate::entry::Entry;

/// An [`Entry`] whose metadata is a response: it was read as one, or written as one.
#[derive(Clone, Debug)]
pub(super) struct ResponseEntry(Entry);

impl ResponseEntry {
    /// `None` if the entry holds something else, or nothing that can be read.
    pub(super) fn new(entry: Entry) -> Option<Self> {
        matches!(view(&entry), Some(Stored::Response(_))).then_some(Self(entry))
    }

    /// An entry that was made of a [`Stored::Response`].
    pub(super) fn written(entry: Entry) -> Self {
        Self(entry)
    }

    /// The response, apart from its payload.
    pub(super) fn response(&self) -> &StoredResponse {
        match view(&self.0) {
            Some(Stored::Response(response)) => response,
            Some(Stored::Varies(_)) | None => unreachable!("it was read or written as a response"),
        }
    }

    /// The header fields of the response: taken out of the entry, if no other request has it.
    pub(super) fn into_headers(mut self) -> HeaderMap {
        match self.0.own_view() {
            Some(Stored::Response(response)) => std::mem::take(&mut response.headers),
            _ => self.response().headers.clone(),
        }
    }

    #[cfg(feature = "unstable-parts")]
    pub(super) fn into_entry(self) -> Entry {
        self.0
    }
}

impl Deref for ResponseEntry {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.0
    }
}

/// What an entry of this front end holds.
pub(super) fn view(entry: &Entry) -> Option<&Stored> {
    entry.view(|meta| {
        let mut stored = Stored::from_bytes(meta)?;
        // Of what no other request has, no copies are made.
        if let Stored::Response(response) = &mut stored
            && entry.is_shared()
        {
            response.headers = annotate::with_room(&response.headers);
        }
        Some(stored)
    })
}
