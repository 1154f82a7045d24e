//! An entry with a response.

use std::ops::Deref;

use http::HeaderMap;

use super::{
    annotate, coded_fields,
    stored::{Stored, StoredResponse},
};
use crate::entry::Entry;

/// An [`Entry`] whose metadata is a response: it was read as one, or written as one.
#[derive(Clone, Debug)]
pub(super) struct ResponseEntry(Entry);

impl ResponseEntry {
    /// `None` if the entry holds something else, or can't be read.
    pub(super) fn new(entry: Entry) -> Option<Self> {
        matches!(view(&entry), Some(Stored::Response(_))).then_some(Self(entry))
    }

    /// An entry that was made from a [`Stored::Response`].
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

    /// The header fields as they were stored. Those of [`response`](Self::response) may have room for what answers have besides.
    pub(super) fn stored_headers(&self) -> HeaderMap {
        match Stored::from_bytes(self.0.meta()) {
            Some(Stored::Response(response)) => response.headers,
            Some(Stored::Varies(_)) | None => unreachable!("it was read or written as a response"),
        }
    }

    /// The header fields of the response: moved out of the entry, if no other request holds it.
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

/// The metadata of an entry of this front end.
pub(super) fn view(entry: &Entry) -> Option<&Stored> {
    entry.view(|meta| {
        let mut stored = Stored::from_bytes(meta)?;
        // Written by somebody else: its content would be left out.
        if entry.is_framed() && !matches!(&stored, Stored::Response(response) if response.info.traits.encodable) {
            return None;
        }
        // If no other request holds the entry, nothing is copied.
        if let Stored::Response(response) = &mut stored
            && entry.is_shared()
        {
            if response.info.traits.encodable {
                response.headers = coded_fields::with_room(&response.headers);
                response.coded = Some(Box::default());
            } else {
                response.headers = annotate::with_room(&response.headers, &[]);
            }
        }
        Some(stored)
    })
}
