//! The application confirms that a stored response still holds (RFC 9111, section 4.3.4).

use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT_RANGES, AGE, DATE, SET_COOKIE},
    response,
};
use http_body::Body;

use super::{
    annotate::Served,
    context::Context,
    granted_load::{Asked, GrantedLoad},
    plan::{DatedHeaders, OriginResponse, date_for},
    reply::LoadReply,
    response_entry::ResponseEntry,
    stored::{StoredInfo, Traits},
    target::Target,
};
use crate::{
    entry::{EntryHead, EntryId},
    inherit::Reads,
    key::Key,
    policy::Freshness,
    semantics::{
        caching_policy::SetCookie,
        encodable::forbids_transformation,
        groups::names_groups,
        list::has_any,
        names::Shapes,
        update::{freshen, selects},
    },
    tag::Tags,
    telemetry::{Event, NoCacheReason},
};

impl<R: Body, E> GrantedLoad<R, E> {
    /// Ends a load because `entry` still holds, by the head of a 304. `validates`: the application was asked whether it does.
    pub(super) async fn revalidated(mut self, entry: ResponseEntry, mut head: response::Parts, validates: bool) {
        self.permit.not_modified();
        self.permit.reserve(Some(entry.payload_length()));
        let (stored, now) = (entry.response(), self.asked.context.cache.now());
        let cookies = self.asked.context.cookies_for_client(&head.headers);
        if !validates || !selects(&head.headers, &stored.headers, now / 1000) {
            return self.unmatched(entry, cookies, validates).await;
        }
        let headers = self.asked.context.freshened(&entry, &mut head);
        let response = self.asked.context.origin_response(&self.asked.request.target, &entry, &headers, &mut head);
        let (why, varies) = (self.asked.miss.detail.why, self.asked.miss.detail.varies.take());
        match self.asked.context.plan(&self.asked.request, response) {
            Ok(plan) => {
                let Asked { context, request, .. } = &*self.asked;
                context.lead_there(request, &plan, varies.as_deref(), now, &mut self.permit);
                let headers = DatedHeaders { own: &headers, date: None };
                let draft = self.asked.context.draft(plan, &self.asked.request, headers, varies);
                let (millis, coded) = (self.asked.context.load_time(&self.asked.request), draft.is_encodable());
                let (writes, tags, again) = draft.complete(|again| again.loaded_again(&entry, millis, coded));
                let served = Served::Validated { why, not_stored: self.permit.refusal() };
                let encoding = coded.then(|| self.encoding());
                self.reply_to.send(LoadReply::entry(again, served, cookies));
                match encoding {
                    // Codings that the stored response does not have are made now: there may be no other load for long.
                    Some(encoding) => encoding.commit(self.permit, writes, tags).await,
                    None => self.permit.commit(writes, tags).await,
                }
            }
            Err(reason) => {
                let (status, offers_ranges) = (stored.info.status, stored.headers.contains_key(ACCEPT_RANGES));
                let served = Served::Validated { why, not_stored: Some(reason) };
                let freshened = self.asked.context.as_freshened(&entry, &headers);
                self.reply_to.send(LoadReply::entry(freshened, served, cookies));
                let Asked { context, request, miss, .. } = &*self.asked;
                context.record_uncacheable(self.permit, request, &miss.key, (status, offers_ranges), reason);
            }
        }
    }

    /// Ends a load whose 304 names another response than the one in the request. The stored response is not freshened, though
    /// its tag may only be spelled differently. It answers this request, because the application has sent no other content. The
    /// next request asks for the whole response.
    async fn unmatched(self, entry: ResponseEntry, cookies: Vec<HeaderValue>, validates: bool) {
        let Self { asked, permit, reply_to } = self;
        let Asked { context, request, miss, enclosing: _place } = *asked;
        let reason = NoCacheReason::Unmatched;
        let served = Served::Validated { why: miss.detail.why, not_stored: Some(reason) };
        reply_to.send(LoadReply::entry(entry.clone(), served, cookies));
        if !validates {
            return permit.uncacheable(reason, None);
        }
        permit.emit(Event::NotStored(reason));
        let writes = context.unmatched(&entry, &request, miss.detail.varies.as_deref());
        permit.commit(writes, entry.tags()).await;
    }
}

impl Context {
    /// The cookies of a response, for the client whose request it was loaded for, unless they are stored with the response.
    pub(super) fn cookies_for_client(&self, head: &HeaderMap) -> Vec<HeaderValue> {
        match self.policy.caching.set_cookie {
            SetCookie::Refuse | SetCookie::Strip => head.get_all(SET_COOKIE).iter().cloned().collect(),
            SetCookie::Keep => Vec::new(),
        }
    }

    /// The stored fields as a 304 updates them (section 3.2), with its `Age`, from which the age of the response is determined anew
    /// (section 4.2.3), and which is not stored.
    pub(super) fn freshened(&self, entry: &ResponseEntry, head: &mut response::Parts) -> HeaderMap {
        if let Some(date) = date_for(&head.headers, self.cache.local_time(self.cache.now())) {
            head.headers.insert(DATE, date);
        }
        let mut headers = entry.stored_headers();
        freshen(&mut headers, &head.headers, &self.policy.caching);
        if let Some(age) = head.headers.get(AGE) {
            headers.insert(AGE, age.clone());
        }
        headers
    }

    /// The stored response with these fields, which is not stored again.
    fn as_freshened(&self, entry: &ResponseEntry, headers: &HeaderMap) -> ResponseEntry {
        let info = entry.response().info;
        let encodable = info.traits.encodable && !forbids_transformation(headers);
        let plain = info.traits.plain || (info.traits.encodable && !encodable);
        let info = StoredInfo { traits: Traits { encodable, plain, ..info.traits }, ..info };
        let head = EntryHead {
            key: Key::of_canonical(entry.canonical()),
            id: EntryId::random(),
            deadlines: entry.deadlines(),
            meta: self.stored_head(info, DatedHeaders { own: headers, date: None }),
            is_compressed: false,
        };
        ResponseEntry::written(head.loaded_again(entry, entry.load_time(), encodable))
    }

    /// The stored response, with these fields, and with the tags and freshness that the handler of the 304 set.
    pub(super) fn origin_response<'h>(
        &self,
        target: &Target<'_>,
        entry: &ResponseEntry,
        headers: &'h HeaderMap,
        head: &mut response::Parts,
    ) -> OriginResponse<'h> {
        let names_tags = has_any(&head.headers, &self.policy.tag_fields);
        let tags = head.extensions.remove::<Tags>().or_else(|| names_tags.then(Tags::default));
        OriginResponse {
            status: entry.response().info.status,
            headers,
            names: Shapes::of(headers.keys()),
            time: self.cache.now(),
            tags: match tags {
                Some(tags) => tags,
                None if names_groups(&head.headers) => self.without_groups(target, &entry.tags()),
                None => entry.tags(),
            },
            freshness: head.extensions.remove::<Freshness>(),
            inherited: head.extensions.remove::<Reads>().map(|reads| reads.and(&entry.tags())),
            length: entry.payload_length(),
        }
    }
}
