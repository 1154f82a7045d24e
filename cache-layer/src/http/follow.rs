//! Having what is loaded for another request, while it is loaded.

use http::{HeaderMap, Method, Response, header::RANGE};
use http_body::Body;

use super::{body::ResponseBody, respond::Content, service::Shared};
use crate::{
    engine::{share::Sharing, span::Look},
    key::Key,
    telemetry::Event,
};

impl Shared {
    /// The response that is coming in, if it answers this request as well as it will from the store, and the request
    /// came before any invalidation of it. `reached_store`: the request's own look-up was answered.
    pub(super) fn join<R: Body>(
        &self,
        sharing: &Sharing,
        key: &Key,
        reached_store: bool,
        method: &Method,
        headers: &HeaderMap,
        look: &mut Look,
    ) -> Option<Response<ResponseBody<R>>> {
        if !self.cache.may_join(sharing, reached_store) {
            return None;
        }
        let entry = self.select_among(&sharing.entries, key, headers)?;
        let content = match sharing.payload.length() {
            Some(length) => Content::Loading(sharing.payload.clone(), length),
            // A part can be cut out once the whole is there.
            None if headers.contains_key(RANGE) => return None,
            None => Content::Growing(sharing.payload.read_all()?),
        };
        self.cache.emit(Event::Joined);
        Some(self.respond_while_loading(entry, content, method, headers, look))
    }
}
