//! A cache that answers QUERY in front of an application.

use cache_layer::{Cache, CacheLayer, QueryBody, QueryLayer, QueryService};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use tower::{
    Layer as _,
    util::{MapRequest, MapRequestLayer},
};

use crate::{
    Backend, Foreteller, Response,
    app::{request, settled},
    ask,
    origin::{Body, Origin, full},
};

type Plain = fn(Request<QueryBody<Body>>) -> Request<Body>;

/// A cache in front of an [`Origin`], by a [`QueryLayer`]. Clones are one.
#[derive(Debug, Clone)]
pub struct QueryApp {
    /// The cache.
    pub cache: Cache,
    /// The layer that it is behind.
    pub layer: QueryLayer,
    foreteller: Foreteller,
    /// The service, to put into a stack.
    pub service: QueryService<MapRequest<Origin, Plain>>,
}

impl QueryApp {
    /// `cache` in front of `origin`, by the settings that `set` makes.
    pub fn new(cache: Cache, origin: &Origin, set: impl FnOnce(CacheLayer) -> QueryLayer) -> Self {
        let plain: Plain = |request| request.map(QueryBody::boxed_unsync);
        let layer = set(CacheLayer::new(cache.clone()));
        let service = layer.layer(MapRequestLayer::new(plain).layer(origin.clone()));
        let foreteller = Foreteller::new(cache.clone(), origin);
        Self { cache, layer, foreteller, service }
    }

    /// One more cache on `backend` in front of `origin`, with nothing set.
    pub async fn on(backend: &Backend, origin: &Origin) -> Self {
        Self::new(backend.cache().await.build(), origin, CacheLayer::query)
    }

    /// The answer to the end, with all that it leaves behind stored.
    pub async fn ask(&self, request: Request<Body>) -> Response {
        let response =
            ask(&self.service, request).await.unwrap_or_else(|error| panic!("the application failed: {error}"));
        settled(&self.cache).await;
        response
    }

    /// As [`ask`](Self::ask), for a request of this method with this content. What the layer explains of it just before has to be
    /// what comes.
    pub async fn send(&self, method: &str, uri: &str, fields: &[(&str, &str)], content: &str) -> Response {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let request = request(method, uri, fields).map(|_| full(content.to_owned()));
        let explaining = self.layer.explain(&request, content.to_owned().into());
        let foretold = self.foreteller.foretell(&request, explaining).await;
        let response = self.ask(request).await;
        self.foreteller.compare(foretold, &response);
        response
    }

    /// As [`send`](Self::send), with QUERY.
    pub async fn query(&self, uri: &str, fields: &[(&str, &str)], content: &str) -> Response {
        self.send("QUERY", uri, fields, content).await
    }
}
