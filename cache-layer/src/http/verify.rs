//! Verifying hits: some fresh responses are loaded again in the background, and compared. The new responses are not stored, and
//! no client waits for them.

use std::{future::poll_fn, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{DATE, ETAG},
};
use http_body::Body;

use super::{
    context::{Context, within},
    oneshot::Oneshot,
    origin::Origin,
    plan::CacheRequest,
    preferences::ClientPreferences,
    record::content_length,
    response_entry::ResponseEntry,
    select::Selection,
};
use crate::{
    engine::{
        Reading,
        enclosing::EnclosingLoads,
        verifier::{Print, Printing, Turn},
        verify::Verification,
    },
    key::Key,
    semantics::{conditional::unconditional, storable::says_what_is_there},
};

impl Context {
    /// The turn of the next hit, of `key`, if it may be verified.
    #[inline(always)]
    pub(super) fn verification_turn(&self, key: &Key) -> Option<Turn<'_>> {
        self.verifier.as_ref()?.turn(key)
    }

    /// Verifies a hit that has this turn, unless it is a client's own.
    #[cold]
    pub(super) fn verify<S: Origin<B>, B: Send + 'static>(
        self: &Arc<Self>,
        turn: Turn<'_>,
        service: S,
        request: Request<B>,
        key: &Key,
    ) {
        if *request.method() != Method::GET || !self.is_anonymous(request.headers()) {
            return;
        }
        let found = self.peek_answer(key, request.headers());
        if let Some(verification) = self.cache.verification(turn, key, found.as_deref(), &self.load_limit) {
            self.cache.spawn_verification(self.clone().verified(verification, service, request));
        }
    }

    /// Whether the response can't depend on the client, and the application may be asked.
    fn is_anonymous(&self, headers: &HeaderMap) -> bool {
        !self.policy.caching.has_credentials(headers)
            && self.policy.cookies.ignores_all(headers)
            && !self.directives(headers).only_if_cached()
    }

    async fn verified<S: Origin<B>, B>(
        self: Arc<Self>,
        verification: Verification,
        service: S,
        mut request: Request<B>,
    ) {
        let fields = request.headers().clone();
        let Some(found) = self.fresh_entry(verification.key(), &fields).await else { return };
        let version = found.version();
        let Some(entry) = found.inflated().and_then(ResponseEntry::new) else { return };
        let (stored, now) = (entry.response(), self.cache.now());
        let age = Duration::from_secs(stored.info.resident(now));
        let Some(place) = verification.place() else { return };
        let Some(asked) = CacheRequest::of_get(&self, verification.key().clone(), &request) else { return };
        let mut body = Printing::new();
        body.add(entry.payload());
        let stored = self.print(&verification, stored.info.status, &entry.stored_headers(), body.body(), &entry);
        unconditional(request.headers_mut());
        if let Some(sent) = self.policy.caching.normalization.negotiate(request.headers_mut()) {
            ClientPreferences::keep(sent, request.extensions_mut());
        }
        // An inner layer has to ask the application as well.
        self.enclose(&mut request, verification.key(), None);
        let enclosing = EnclosingLoads::default().placed(&self.load_limit, place.clone());
        let load = async {
            let response = self.with_reads(enclosing.clone(), Oneshot::new(service, request)).await.ok()?;
            within(enclosing, self.print_of(&verification, &asked, response, &entry)).await
        };
        // A failure says nothing about the stored response.
        let Some(loaded) = verification.load(place, Box::pin(load)).await.flatten() else { return };
        // Nor does a load during which the response was invalidated, or replaced.
        let now = self.fresh_entry(verification.key(), &fields).await;
        if now.is_some_and(|now| now.version() == version) {
            verification.compare(&entry, age, stored, loaded).await;
        }
    }

    /// The fresh entry for a request, if it is a success that no invalidation is about to make stale.
    async fn fresh_entry(&self, key: &Key, headers: &HeaderMap) -> Option<ResponseEntry> {
        let entry = match self.peek_answer(key, headers) {
            Some(entry) => entry,
            None => match self.select(key, headers, Reading::Inspection).await {
                Selection::Fresh(hit) => hit.entry,
                Selection::Stale(..) | Selection::Missing(_) => return None,
            },
        };
        let is_success = entry.response().info.status == StatusCode::OK;
        (is_success && entry.is_taken_for_current(self.cache.now())).then_some(entry)
    }

    /// The print of a response; `None` if it can't be compared: it does not say what is there now, or is incomplete.
    async fn print_of<R: Body<Data = Bytes>>(
        &self,
        verification: &Verification,
        request: &CacheRequest,
        response: Response<R>,
        stored: &ResponseEntry,
    ) -> Option<Print> {
        let (mut head, body) = response.into_parts();
        let refusal = self.plan_head(request, &mut head, body.size_hint(), self.cache.now()).plan.err();
        if !says_what_is_there(head.status, refusal) {
            return None;
        }
        let declared = content_length(&head.headers).ok()?;
        let print = |body| self.print(verification, head.status, &head.headers, body, stored);
        let mut body = pin!(body);
        let longest = self.policy.max_body.max(stored.payload_length());
        let (mut printing, mut length) = (Printing::new(), 0_u64);
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            match frame.ok()?.into_data() {
                Ok(data) => {
                    printing.add(&data);
                    length += data.len() as u64;
                }
                // With trailers, it would not be stored.
                Err(other) if other.is_trailers() => return None,
                Err(_) => {}
            }
            // Neither is the stored response this long, nor would one be that is stored now.
            if length > longest {
                return Some(print(u128::MAX));
            }
        }
        (declared.is_none_or(|declared| declared == length)).then(|| print(printing.body()))
    }

    fn print(
        &self,
        verification: &Verification,
        status: StatusCode,
        headers: &HeaderMap,
        body: u128,
        stored: &ResponseEntry,
    ) -> Print {
        let mut fields = Printing::new();
        let is_stored = self.stores_fields_of(headers);
        for name in verification.settings().compared() {
            // The date is that of the response, whatever is in it.
            let ours = *name == DATE || (*name == ETAG && stored.response().info.traits.minted);
            if ours || !is_stored(name) {
                continue;
            }
            for value in headers.get_all(name) {
                for part in [name.as_str().as_bytes(), value.as_bytes()] {
                    fields.add(&(part.len() as u64).to_be_bytes());
                    fields.add(part);
                }
            }
        }
        Print { status: status.as_u16(), fields: fields.fields(), body }
    }
}
