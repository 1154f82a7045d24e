//! Verifying hits: some fresh responses are loaded again in the background, and compared. The new responses are not stored, and
//! no client waits for them.

use std::{future::poll_fn, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;

use super::{
    context::Context, oneshot::Oneshot, origin::Origin, preferences::ClientPreferences, response_entry::ResponseEntry,
    select::Selection,
};
use crate::{
    engine::{
        Reading,
        verifier::{Print, Printing, Turn},
        verify::Verification,
    },
    key::Key,
    semantics::{conditional::unconditional, stale_windows::is_replaceable_error},
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
        if let Some(verification) = self.cache.verification(turn, key, &self.load_limit) {
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
        let mut body = Printing::new();
        body.add(entry.payload());
        let stored = self.print(&verification, stored.info.status, &entry.stored_headers(), body.body(), &entry);
        unconditional(request.headers_mut());
        if let Some(sent) = self.policy.caching.normalization.negotiate(request.headers_mut()) {
            ClientPreferences::keep(sent, request.extensions_mut());
        }
        // An inner layer has to ask the application as well.
        self.enclose(&mut request, verification.key(), None);
        let room = place.clone();
        let load = async {
            let response = self.in_its_place(room, Oneshot::new(service, request)).await.ok()?;
            self.print_of(&verification, response, &entry).await
        };
        // A failure says nothing about the stored response.
        let Some(loaded) = verification.load(place, Box::pin(load)).await.flatten() else { return };
        // Nor does a load during which the response was invalidated, or replaced.
        let now = self.fresh_entry(verification.key(), &fields).await;
        if now.is_some_and(|now| now.version() == version) {
            verification.compare(entry.id(), age, stored, loaded).await;
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

    /// The print of a response; `None` if the response is an error, or incomplete.
    async fn print_of<R: Body<Data = Bytes>>(
        &self,
        verification: &Verification,
        response: Response<R>,
        stored: &ResponseEntry,
    ) -> Option<Print> {
        let (head, body) = response.into_parts();
        if is_replaceable_error(head.status) {
            return None;
        }
        let mut body = pin!(body);
        let (mut printing, mut length) = (Printing::new(), 0_u64);
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            if let Ok(data) = frame.ok()?.into_data() {
                printing.add(&data);
                length += data.len() as u64;
            }
            // No stored response is this long.
            if length > self.policy.max_body {
                return Some(self.print(verification, head.status, &head.headers, u128::MAX, stored));
            }
        }
        Some(self.print(verification, head.status, &head.headers, printing.body(), stored))
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
        for name in verification.settings().compared() {
            let ours = *name == http::header::ETAG && stored.response().info.traits.minted;
            if ours || self.policy.not_stored.has(name.as_str().as_bytes()) || self.policy.is_internal(name) {
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
