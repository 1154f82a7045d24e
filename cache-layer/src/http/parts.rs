//! What a request is made of, step by step, for `benches/parts.rs` to time. No part of the interface.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use tower_layer::Layer as _;

use super::{
    CacheLayer, ResponseBody,
    annotate::Note,
    plan::{Asked, Came},
    select::{self, Step},
    service::Shared,
    target::Target,
};
use crate::{
    engine::Cache,
    entry::{Entry, envelope},
    key::Key,
    store::MemoryStore,
    tag::Tags,
};

/// A request for a product, and its response in a cache in memory.
#[allow(missing_debug_implementations)]
pub struct Parts {
    shared: std::sync::Arc<Shared>,
    uri: Uri,
    request: HeaderMap,
    asked: Asked,
    response: HeaderMap,
    entry: Entry,
    bytes: Bytes,
}

impl Parts {
    /// With a payload of this length.
    #[must_use]
    pub fn new(length: usize) -> Self {
        let cache = Cache::new(MemoryStore::new(1 << 30));
        let shared = CacheLayer::new(cache).layer(()).shared;
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
        shared.dated(&mut response);
        let target = Target::of(&shared.sites, &uri, &request).expect("it has a host").into_owned();
        let key = target.key(&shared.naming(&request));
        let asked =
            Asked { target, key, method: Method::GET, headers: Arc::new(request.clone()), time: shared.cache.now() };
        let plan = shared.plan(&asked, came(response.clone(), length)).expect("it may be stored");
        let (mut writes, _) = shared.writes(plan, &asked, None, true);
        let payload = Bytes::from(vec![b'x'; length]);
        let entry = shared
            .complete(&mut writes, &asked, |entry, millis| entry.loaded([&payload].into_iter(), millis))
            .expect("there is one");
        let bytes = envelope::encode(&entry);
        Self { shared, uri, request, asked, response, entry, bytes }
    }

    /// Stores the response.
    ///
    /// # Panics
    ///
    /// If that does not work.
    pub async fn store(&self) {
        let entries = vec![(self.asked.key.clone(), self.entry.clone())];
        self.shared.cache.put(entries, &Tags::default()).await.expect("memory is there");
    }

    /// What the request asks for, as a key.
    #[must_use]
    pub fn key(&self) -> Key {
        let target = Target::of(&self.shared.sites, &self.uri, &self.request).expect("it has a host");
        target.key(&self.shared.naming(&self.request))
    }

    /// Looks it up in memory.
    #[must_use]
    pub fn lookup(&self) -> bool {
        self.shared.cache.peek(&self.asked.key).is_some()
    }

    /// Decides whether what is stored may answer.
    #[must_use]
    pub fn decide(&self) -> bool {
        matches!(self.shared.step(&self.entry, &self.asked.key, &self.request, self.shared.cache.now()), Step::Answer)
    }

    /// The response to a hit.
    #[must_use]
    pub fn respond(&self) -> Response<ResponseBody<String>> {
        let mut look = self.shared.cache.look(&self.asked.key);
        self.shared.respond(self.entry.clone(), &Method::GET, &self.request, Note::Hit, &mut look)
    }

    /// Decides whether the response may be stored, for how long, and under which key, and makes its entry.
    #[must_use]
    pub fn plan(&self) -> bool {
        let came = came(self.response.clone(), self.entry.payload().len());
        let plan = self.shared.plan(&self.asked, came).expect("it may be stored");
        !self.shared.writes(plan, &self.asked, None, true).0.entries.is_empty()
    }

    /// The entry as Redis has it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        envelope::encode(&self.entry)
    }

    /// The entry out of what Redis has, and its header fields.
    #[must_use]
    pub fn decode(&self) -> bool {
        let entry = envelope::decode(&self.asked.key, &self.bytes).expect("it is whole");
        select::response(&entry).is_some()
    }
}

fn fields(fields: &[(header::HeaderName, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.clone(), header::HeaderValue::from_static(value))).collect()
}

fn came(headers: HeaderMap, length: usize) -> Came {
    let (status, tags, length) = (StatusCode::OK, Tags::default(), length as u64);
    Came { status, headers, tags, freshness: None, inherited: None, length }
}
