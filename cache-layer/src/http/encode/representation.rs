//! Which representation of a stored response a request gets (RFC 9110, sections 8.8.3, 12.5.3 and 13.1).

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, ETAG, IF_NONE_MATCH, IF_RANGE, VARY},
};
use smallvec::SmallVec;

use crate::{
    coding::{Coding, Encoder},
    entry::{Entry, EntryId, Form},
    http::{context::Context, response_entry::ResponseEntry},
    key::Key,
    semantics::{
        accept_encoding::Acceptance,
        coded_tag::{self, RepresentationId},
        encodable::forbids_transformation,
        list::has,
    },
    telemetry::{Event, Rejection},
};

/// The representation that a request gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// `None`: as the application made it.
    encoder: Option<Encoder>,
    /// The representation that it would get if that existed.
    pub(super) wanted: Option<Encoder>,
    /// Whether the client accepts more than one.
    several: bool,
}

/// A representation, apart from its status.
pub(in crate::http) struct Representation {
    pub(in crate::http) headers: HeaderMap,
    /// The coded content, if the representation is coded and the content is present. It is absent if the client already has it.
    pub(in crate::http) coded: Option<Bytes>,
    /// Whether a date suffices to identify the representation of which a client has a part.
    pub(in crate::http) is_told_by_date: bool,
}

/// Codings, the one that the client prefers first.
type Ranked = SmallVec<[Encoder; Coding::COUNT]>;
type Representations = SmallVec<[RepresentationId; Coding::COUNT + 1]>;

/// The representation that a conditional request names, because the client has all or a part of it.
#[allow(clippy::needless_pass_by_value, reason = "an iterator, which is gone through twice")]
fn named(
    request: &HeaderMap,
    (status, headers): (StatusCode, &HeaderMap),
    representations: &[RepresentationId],
    is_here: impl Fn(Encoder) -> bool,
) -> Option<RepresentationId> {
    let base = coded_tag::strong_tag(headers)?;
    if status.is_success()
        && has(request, &IF_NONE_MATCH)
        && let Some(all_of_it) = coded_tag::none_match(request, base, representations)
    {
        return Some(all_of_it);
    }
    if !has(request, &IF_RANGE) {
        return None;
    }
    let is_here = |representation: &RepresentationId| match *representation {
        RepresentationId::Plain => true,
        RepresentationId::Coded(encoder) => is_here(encoder),
    };
    let here: Representations = representations.iter().copied().filter(is_here).collect();
    coded_tag::if_range(request, base, &here)
}

/// The representations of a response that a client accepts.
fn representations(acceptance: &Acceptance, ranked: &Ranked) -> Representations {
    let plain = (acceptance.identity() > 0).then_some(RepresentationId::Plain);
    ranked.iter().copied().map(RepresentationId::Coded).chain(plain).collect()
}

impl Context {
    /// The client's acceptance, and the codings of this layer that it accepts; `None` if it accepts none.
    fn accepted(&self, request: &HeaderMap) -> Option<(Acceptance, Ranked)> {
        let encode = self.policy.encode.as_ref()?;
        let acceptance = Acceptance::of(request);
        let mut ranked: Ranked =
            encode.encoders().iter().copied().filter(|one| acceptance.weight(one.coding()) > 0).collect();
        if ranked.is_empty() || forbids_transformation(request) {
            return None;
        }
        ranked.sort_by_key(|encoder| u16::MAX - acceptance.weight(encoder.coding()));
        Some((acceptance, ranked))
    }

    /// Chooses the representation of this entry for a request.
    pub(super) fn choose(&self, entry: &ResponseEntry, request: &HeaderMap) -> Choice {
        let Some((acceptance, ranked)) = self.accepted(request) else { return Choice::default() };
        let stored = entry.response();
        let is_made = |encoder: Encoder| matches!(entry.form(encoder), Form::Made(_));
        let head = (stored.info.status, &stored.headers);
        match named(request, head, &representations(&acceptance, &ranked), is_made) {
            Some(RepresentationId::Coded(encoder)) => {
                return Choice { encoder: Some(encoder), wanted: None, several: true };
            }
            Some(RepresentationId::Plain) => return Choice { encoder: None, wanted: None, several: true },
            None => {}
        }
        let encoder = acceptance.best(ranked.iter().copied().filter(|encoder| is_made(*encoder)));
        let may_be_made = |encoder: &Encoder| *entry.form(*encoder) != Form::InVain;
        let is_long_enough =
            self.policy.encode.as_ref().is_some_and(|encode| encode.is_long_enough(entry.payload_length()));
        let wanted = acceptance.best(ranked.iter().copied().filter(may_be_made)).filter(|_| is_long_enough);
        Choice { encoder, wanted: wanted.filter(|wanted| Some(*wanted) != encoder), several: true }
    }

    /// The entry in a form that can answer a request: with its payload, unless the client gets the frame as it came from Redis.
    pub(in crate::http) fn legible(
        &self,
        entry: ResponseEntry,
        key: &Key,
        request: &HeaderMap,
    ) -> Result<ResponseEntry, EntryId> {
        if !entry.is_framed() || self.choose(&entry, request).encoder.is_some() {
            return Ok(entry);
        }
        let Some(whole) = entry.inflated() else {
            self.cache.emit(Event::Rejected(Rejection::Malformed));
            return Err(entry.id());
        };
        let with_payload = |kept: &Entry| match kept.is_framed() {
            true => kept.clone().with_payload(whole.payload().clone()),
            false => kept.clone(),
        };
        // For the next request, if it is kept here.
        self.cache.amend(key, whole.id(), with_payload);
        Ok(ResponseEntry::written(whole))
    }

    /// The representation that a request gets of an entry that may have several; `is_whole`: the payload is present.
    pub(in crate::http) fn represent(
        &self,
        entry: ResponseEntry,
        request: &HeaderMap,
        is_whole: bool,
    ) -> Representation {
        let Choice { encoder, wanted, several } = self.choose(&entry, request);
        if let Some(wanted) = wanted.filter(|_| is_whole) {
            self.encoders.start(&self.cache, &entry, wanted);
        }
        let coded = encoder.and_then(|encoder| match entry.form(encoder) {
            Form::Made(coded) => Some(coded.clone()),
            Form::Unmade | Form::InVain => None,
        });
        let mut headers = entry.into_headers();
        vary(&mut headers);
        if let Some(encoder) = encoder {
            describe(&mut headers, encoder, coded.as_ref().map_or(0, Bytes::len));
        }
        Representation { headers, coded, is_told_by_date: !several }
    }

    /// Adapts the fields of a new response, which may have other representations later, for its client, which gets this
    /// representation, or a 304 for one that it already has.
    pub(in crate::http) fn as_it_came(&self, request: Option<&HeaderMap>, status: StatusCode, headers: &mut HeaderMap) {
        let accepted = request.and_then(|request| Some((request, self.accepted(request)?)));
        if let Some((request, (acceptance, ranked))) = accepted {
            let representations = representations(&acceptance, &ranked);
            if let Some(RepresentationId::Coded(encoder)) =
                named(request, (status, headers), &representations, |_| false)
            {
                describe(headers, encoder, 0);
            }
        }
        vary(headers);
    }
}

/// Adapts the fields of a response to its representation in this coding, of this length.
fn describe(headers: &mut HeaderMap, encoder: Encoder, length: usize) {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoder.coding().as_str()));
    if let Some(declared) = headers.get_mut(CONTENT_LENGTH) {
        *declared = HeaderValue::from(length);
    }
    if let Some(tag) = coded_tag::strong_tag(headers) {
        let tag = coded_tag::coded(tag, encoder);
        headers.insert(ETAG, tag);
    }
}

/// Adds `Accept-Encoding` to `Vary`, in one line, because some clients read only one.
pub(in crate::http) fn vary(headers: &mut HeaderMap) {
    const NAME: &str = "accept-encoding";
    let mut lines = headers.get_all(VARY).iter();
    let value = match lines.next() {
        None => HeaderValue::from_static(NAME),
        Some(first) => {
            let lines = std::iter::once(first).chain(lines).map(HeaderValue::as_bytes);
            let names = lines.chain([NAME.as_bytes()]).collect::<Vec<_>>().join(&b", "[..]);
            HeaderValue::from_bytes(&names).unwrap_or_else(|_| unreachable!("values and a comma are a value"))
        }
    };
    headers.insert(VARY, value);
}
