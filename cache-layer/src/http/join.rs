//! Having what is loaded for another request, while it is loaded.

use http::{HeaderMap, Method, Response};
use http_body::Body;

use super::{body::ResponseBody, select::Vacancy, service::Shared};
use crate::{engine::share::Sharing, key::Key, telemetry::Event};

impl Shared {
    /// The response that is coming in, if it answers this request as well as it will from the store. `vacancy` is what
    /// the request's own look-up brought, if the store answered.
    pub(super) fn join<R: Body>(
        &self,
        sharing: &Sharing,
        key: &Key,
        vacancy: Option<&Vacancy>,
        method: &Method,
        headers: &HeaderMap,
    ) -> Option<Response<ResponseBody<R>>> {
        // An invalidation of the key takes away the entry that led to the variant, and another one leads there since: the
        // variant's own lease knows nothing of that.
        let parent = vacancy.and_then(|vacancy| vacancy.varies.as_ref()).map(|varies| varies.id);
        if parent != sharing.parent || !self.cache.may_join(sharing, vacancy.is_some()) {
            return None;
        }
        let entry = self.select_among(&sharing.entries, key, headers)?;
        self.cache.emit(Event::Joined);
        Some(self.respond_while_loading(&entry, &sharing.payload, method, headers))
    }
}
