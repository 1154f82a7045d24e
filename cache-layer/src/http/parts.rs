//! The steps of a request, for `benches/parts.rs` to time. Not part of the public interface.

use std::sync::Arc;

use super::{
    ResponseBody,
    annotate::Served,
    context::Context,
    plan::{CacheRequest, DatedHeaders, OriginResponse},
    response_entry::ResponseEntry,
    select::Decision,
    target::Target,
};
use crate::{
    clock::Clock,
    engine::Cache,
    entry::{Entry, envelope},
    key::Key,
    semantics::{date::write_http_date, names::Shapes},
    store::MemoryStore,
    tag::Tags,
};
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, Uri, header};

/// A request for a product, and its response in a cache in memory.
#[allow(missing_debug_implementations)]
pub struct Parts {
    context: Context,
    uri: Uri,
    request: HeaderMap,
    asked: CacheRequest,
    response: HeaderMap,
    entry: Entry,
    bytes: Bytes,
}

impl Parts {
    /// With a payload of this length.
    #[must_use]
    pub fn new(length: usize) -> Self {
        let cache = Cache::new(MemoryStore::new(1 << 30));
        let context = Context::new(cache);
        let uri = Uri::from_static("/products/1?currency=EUR");
        let request = fields(&[
            (header::HOST, "shop.example"),
            (header::USER_AGENT, "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
            (header::ACCEPT, "application/json"),
            (header::ACCEPT_LANGUAGE, "de,en;q=0.5"),
        ]);
        let mut response = fields(&[
            (header::CONTENT_TYPE, "application/json"),
            (header::CACHE_CONTROL, "public, max-age=3600"),
            (header::ETAG, "\"33a64df551425fcc\""),
        ]);
        response.insert(header::DATE, write_http_date(context.cache.now() / 1000));
        let target = Target::of(&context.sites, &uri, &request).expect("it has a host").into_owned();
        let key = target.key(&context.key_rules(&request));
        let asked = CacheRequest {
            target,
            key,
            method: Method::GET,
            has_content: false,
            is_hinted: false,
            headers: Arc::new(request.clone()),
            time: context.cache.now(),
        };
        let plan = context.plan(&asked, came(&response, length)).expect("it may be stored");
        let payload = Bytes::from(vec![b'x'; length]);
        let draft = context.draft(plan, &asked, DatedHeaders { own: &response, date: None }, None);
        let (_, _, entry) = draft.complete(|entry| entry.loaded([&payload].into_iter(), 0));
        let entry = entry.into_entry();
        let bytes = envelope::encode(&entry);
        Self { context, uri, request, asked, response, entry, bytes }
    }

    /// Stores the response.
    ///
    /// # Panics
    ///
    /// If that does not work.
    pub async fn store(&self) {
        let entries = vec![(self.asked.key.clone(), self.entry.clone())];
        self.context.cache.put(entries, &Tags::default()).await.expect("memory is there");
    }

    /// What the request asks for, as a key.
    #[must_use]
    pub fn key(&self) -> Key {
        let target = Target::of(&self.context.sites, &self.uri, &self.request).expect("it has a host");
        target.key(&self.context.key_rules(&self.request))
    }

    /// Looks it up in memory.
    #[must_use]
    pub fn lookup(&self) -> bool {
        self.context.cache.peek(&self.asked.key).is_some()
    }

    /// Decides whether what is stored may answer.
    #[must_use]
    pub fn decide(&self) -> bool {
        matches!(
            self.context.decide(self.entry.clone(), &self.asked.key, &self.request, self.context.cache.now()),
            Decision::Answer(_)
        )
    }

    /// The response to a hit.
    #[must_use]
    pub fn respond(&self) -> Response<ResponseBody<String>> {
        let mut lookup = self.context.cache.lookup_span(&self.asked.key);
        self.context.respond(
            ResponseEntry::written(self.entry.clone()),
            &Method::GET,
            &self.request,
            Served::Hit,
            &mut lookup,
        )
    }

    /// Decides whether the response may be stored, for how long, and under which key, and makes its entry.
    #[must_use]
    pub fn plan(&self) -> bool {
        let came = came(&self.response, self.entry.payload().len());
        let plan = self.context.plan(&self.asked, came).expect("it may be stored");
        let headers = DatedHeaders { own: &self.response, date: None };
        !self.context.draft(plan, &self.asked, headers, None).entries().is_empty()
    }

    /// The entry as Redis has it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        envelope::encode(&self.entry)
    }

    /// The answer to a request by what Redis has replied: its key as it is found there, the entry out of the reply, whether
    /// that may answer, and the response.
    ///
    /// # Panics
    ///
    /// If the reply does not answer.
    #[must_use]
    pub fn answer(&self, reply: Vec<u8>) -> Response<ResponseBody<String>> {
        let key = self.key().named();
        let mut lookup = self.context.cache.lookup_span(&key);
        let entry = envelope::decode(&key, &reply.into()).expect("it is whole");
        let Decision::Answer(entry) = self.context.decide(entry, &key, &self.request, self.context.cache.now()) else {
            panic!("it is fresh");
        };
        self.context.respond(entry, &Method::GET, &self.request, Served::Hit, &mut lookup)
    }

    /// The entry out of what Redis has, and its header fields.
    #[must_use]
    pub fn decode(&self) -> bool {
        let entry = envelope::decode(&self.asked.key, &self.bytes).expect("it is whole");
        ResponseEntry::new(entry).is_some()
    }
}

fn fields(fields: &[(header::HeaderName, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.clone(), header::HeaderValue::from_static(value))).collect()
}

fn came(headers: &HeaderMap, length: usize) -> OriginResponse<'_> {
    let (status, tags, length) = (StatusCode::OK, Tags::default(), length as u64);
    let names = Shapes::of(headers.keys());
    OriginResponse {
        status,
        headers,
        names,
        time: Clock::system().now(),
        tags,
        freshness: None,
        inherited: None,
        length,
    }
}
