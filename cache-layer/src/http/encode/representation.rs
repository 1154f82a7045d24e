//! Which representation of a stored response a request gets (RFC 9110, sections 8.8.3, 12.5.3 and 13.1).

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{CACHE_CONTROL, IF_NONE_MATCH, IF_RANGE},
};
use smallvec::SmallVec;

use crate::{
    coding::{Coding, Encoder},
    entry::{Entry, EntryId, Form},
    http::{
        coded_fields::{describe, describe_plain, vary},
        context::Context,
        response_entry::ResponseEntry,
    },
    key::Key,
    semantics::{
        accept_encoding::Acceptance,
        coded_tag::{self, RepresentationId},
        encodable::forbids_transformation,
        list::{has, has_any},
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
}

/// A representation, apart from its status.
pub(in crate::http) struct Representation {
    pub(in crate::http) headers: HeaderMap,
    /// The coded content, if the representation is coded and the content is present. It is absent if the client already has it.
    pub(in crate::http) coded: Option<Bytes>,
}

/// Codings, the one that the client prefers first.
type Ranked = SmallVec<[Encoder; Coding::COUNT]>;
type Representations = SmallVec<[RepresentationId; Coding::COUNT + 1]>;

/// The fields of a request that can decide about its representation together with `Accept-Encoding`.
static DECIDING: [HeaderName; 3] = [IF_NONE_MATCH, IF_RANGE, CACHE_CONTROL];

/// The codings of a layer, as a client accepts them: one of them at least.
struct Accepted<'a> {
    acceptance: Acceptance,
    encoders: &'a [Encoder],
    /// Whether the request has one of the fields that [decide](DECIDING), too. Most requests do not.
    is_decided_by_more: bool,
}

impl Accepted<'_> {
    /// The representations that the client accepts, the one that it prefers first.
    fn representations(&self) -> Representations {
        let weight = |encoder: &Encoder| self.acceptance.weight(encoder.coding());
        let mut ranked: Ranked = self.encoders.iter().copied().filter(|one| weight(one) > 0).collect();
        ranked.sort_by_key(|encoder| u16::MAX - weight(encoder));
        let plain = (self.acceptance.identity() > 0).then_some(RepresentationId::Plain);
        ranked.into_iter().map(RepresentationId::Coded).chain(plain).collect()
    }

    /// The encoder that the client prefers among some, if it prefers one to none.
    fn best(&self, among: impl Fn(Encoder) -> bool) -> Option<Encoder> {
        self.acceptance.best(self.encoders.iter().copied().filter(|encoder| among(*encoder)))
    }

    /// The representation that a conditional request names, because the client has all or a part of it.
    fn named(
        &self,
        request: &HeaderMap,
        (status, headers): (StatusCode, &HeaderMap),
        is_here: impl Fn(Encoder) -> bool,
    ) -> Option<RepresentationId> {
        if !self.is_decided_by_more {
            return None;
        }
        let base = coded_tag::strong_tag(headers)?;
        let representations = self.representations();
        if status.is_success()
            && has(request, &IF_NONE_MATCH)
            && let Some(all_of_it) = coded_tag::none_match(request, base, &representations)
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
        let here: Representations = representations.into_iter().filter(is_here).collect();
        coded_tag::if_range(request, base, &here)
    }
}

impl Context {
    /// The codings of this layer, as the client accepts them; `None` if it accepts none.
    fn accepted(&self, request: &HeaderMap) -> Option<Accepted<'_>> {
        let encoders = self.policy.encode.as_ref()?.encoders();
        let acceptance = Acceptance::of(request);
        if !encoders.iter().any(|encoder| acceptance.weight(encoder.coding()) > 0) {
            return None;
        }
        let is_decided_by_more = has_any(request, &DECIDING);
        let is_refused = is_decided_by_more && forbids_transformation(request);
        (!is_refused).then_some(Accepted { acceptance, encoders, is_decided_by_more })
    }

    /// Chooses the representation of this entry for a request.
    pub(super) fn choose(&self, entry: &ResponseEntry, request: &HeaderMap) -> Choice {
        let Some(accepted) = self.accepted(request) else { return Choice::default() };
        let stored = entry.response();
        let is_made = |encoder: Encoder| matches!(entry.form(encoder), Form::Made(_));
        match accepted.named(request, (stored.info.status, &stored.headers), is_made) {
            Some(RepresentationId::Coded(encoder)) => return Choice { encoder: Some(encoder), wanted: None },
            Some(RepresentationId::Plain) => return Choice { encoder: None, wanted: None },
            None => {}
        }
        let best = accepted.best(|encoder| *entry.form(encoder) != Form::InVain);
        if best.is_none_or(is_made) {
            return Choice { encoder: best, wanted: None };
        }
        let is_long_enough =
            self.policy.encode.as_ref().is_some_and(|encode| encode.is_long_enough(entry.payload_length()));
        Choice { encoder: accepted.best(is_made), wanted: best.filter(|_| is_long_enough) }
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
        let Choice { encoder, wanted } = self.choose(&entry, request);
        if let Some(wanted) = wanted.filter(|_| is_whole) {
            self.encoding_jobs.start(&self.cache, &entry, wanted);
        }
        let coded = encoder.and_then(|encoder| match entry.form(encoder) {
            Form::Made(coded) => Some(coded.clone()),
            Form::Unmade | Form::InVain => None,
        });
        let headers = headers_of(entry, encoder, coded.as_ref().map(Bytes::len));
        Representation { headers, coded }
    }

    /// Adapts the fields of a new response, which may have other representations later, for its client, which gets this
    /// representation, or a 304 for one that it already has.
    pub(in crate::http) fn as_it_came(&self, request: Option<&HeaderMap>, status: StatusCode, headers: &mut HeaderMap) {
        let accepted = request.and_then(|request| Some((request, self.accepted(request)?)));
        if let Some((request, accepted)) = accepted
            && let Some(RepresentationId::Coded(encoder)) = accepted.named(request, (status, headers), |_| false)
        {
            describe(headers, encoder, 0);
        }
        vary(headers);
    }
}

/// The fields of a response in this coding, of this length, if the coded content is present.
fn headers_of(entry: ResponseEntry, encoder: Option<Encoder>, length: Option<usize>) -> HeaderMap {
    if let Some(fields) = &entry.response().coded {
        let mut headers = entry.response().headers.clone();
        match (encoder, length) {
            (Some(encoder), Some(length)) => fields.describe(&mut headers, encoder, length),
            // A 304, which has no length.
            (Some(encoder), None) => describe(&mut headers, encoder, 0),
            (None, _) => describe_plain(&mut headers),
        }
        return headers;
    }
    let mut headers = entry.into_headers();
    vary(&mut headers);
    if let Some(encoder) = encoder {
        describe(&mut headers, encoder, length.unwrap_or(0));
    }
    headers
}
