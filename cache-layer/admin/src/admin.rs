//! The settings, and the router.

use std::{fmt, sync::Arc};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use cache_layer::{
    Cache, CacheLayer, QueryLayer,
    store::{MemoryStore, RedisStore, TieredStore},
};
use http::{HeaderValue, StatusCode, Uri, header};

use crate::{
    access::{Access, TokenError, TokenHandle, guard},
    answers::Answers,
    api,
    audit::Audit,
    method::{PurgeLayer, PurgeRule},
    page,
    problem::Problem,
    recorder::{Recorder, now},
    state::{Context, Inner, Layer, Memory, Places},
};

/// The maximum size of a request's body.
const MOST: usize = 64 * 1024;

/// The operator's side of a cache: a page and an API to inspect it and to purge.
///
/// ```
/// use cache_layer::{Cache, CacheLayer, store::MemoryStore};
/// use cache_layer_admin::Admin;
///
/// let cache = Cache::new(MemoryStore::new(1 << 20));
/// let layer = CacheLayer::new(cache.clone());
/// let router: axum::Router = Admin::new(cache).layer("shop", &layer).router();
/// ```
#[must_use = "nothing is shown until its router is served"]
pub struct Admin(Inner);

impl Admin {
    /// The operator's side of `cache`. Without a [`token`](Self::token), nothing can be changed, and only clients on this machine
    /// may read.
    pub fn new(cache: Cache) -> Self {
        Self(Inner {
            name: "cache".to_owned(),
            cache,
            layers: Vec::new(),
            memory: None,
            redis: None,
            recorder: None,
            access: Access::default(),
            audit: Audit::default(),
            answers: Answers::default(),
            places: Places::default(),
            since: now(),
        })
    }

    /// The name of the cache; `cache` unless set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.name = name.into();
        self
    }

    /// A layer over the cache, which turns URLs into keys and explains requests. It must be the layer in the application's stack,
    /// or a clone of it. Several layers must have different names.
    pub fn layer(self, name: impl Into<String>, layer: &CacheLayer) -> Self {
        self.named(name.into(), Layer::Plain(layer.clone()))
    }

    /// As [`layer`](Self::layer), for a layer that answers requests by their content.
    pub fn query_layer(self, name: impl Into<String>, layer: &QueryLayer) -> Self {
        self.named(name.into(), Layer::Query(layer.clone()))
    }

    fn named(mut self, name: String, layer: Layer) -> Self {
        self.0.layers.retain(|(known, _)| *known != name);
        self.0.layers.push((name, layer));
        self
    }

    /// The store in this process, for its size and its evictions.
    pub fn memory(mut self, store: MemoryStore) -> Self {
        self.0.memory = Some(Memory::All(store));
        self
    }

    /// The store with a first tier in this process.
    pub fn first_tier(mut self, store: TieredStore) -> Self {
        self.0.memory = Some(Memory::FirstTier(store));
        self
    }

    /// The Redis behind the cache, for its status.
    pub fn redis(mut self, store: RedisStore) -> Self {
        self.0.redis = Some(store);
        self
    }

    /// The recorder, which must also be an observer of the cache. Without it there are no plots, no hottest keys, and no live
    /// decisions.
    pub fn recorder(mut self, recorder: Recorder) -> Self {
        self.0.recorder = Some(recorder);
        self
    }

    /// The token that a request must send as `Authorization: Bearer …` to change anything, or to read from another machine. White
    /// space around it is removed, so that a file may end with a newline. Of two tokens, in a line of their own each, either is
    /// taken: the new one, and the one that it replaces.
    ///
    /// # Errors
    ///
    /// If a token has fewer than 16 characters, or characters other than visible ASCII, or if there are more than two.
    pub fn token(self, token: impl AsRef<str>) -> Result<Self, TokenError> {
        self.0.access.token.replace(token)?;
        Ok(self)
    }

    /// Replaces the token later, without a restart.
    pub fn token_handle(&self) -> TokenHandle {
        self.0.access.token.clone()
    }

    /// Whether a client on this machine needs the token for reading, too; `false` unless set. For a port that is not at a
    /// loopback address: there, a proxy or a sidecar on this machine may stand for any client.
    pub fn token_for_reading(mut self, is_needed: bool) -> Self {
        self.0.access.token_for_reading = is_needed;
        self
    }

    /// The [routes](Self::router), and a layer that accepts `PURGE` on the application's own port, if one of `rules` allows it.
    ///
    /// ```
    /// use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// use cache_layer_admin::{Admin, PurgeRule};
    ///
    /// let cache = Cache::new(MemoryStore::new(1 << 20));
    /// let layer = CacheLayer::new(cache.clone());
    /// let admin = Admin::new(cache).layer("shop", &layer);
    /// let (admin, purge) = admin.router_and_purge_layer([PurgeRule::under("/api/").from_this_machine()]);
    /// let app: axum::Router = axum::Router::new().layer(layer).layer(purge);
    /// ```
    pub fn router_and_purge_layer(self, rules: impl IntoIterator<Item = PurgeRule>) -> (Router, PurgeLayer) {
        let context = self.context();
        (routes(context.clone()), PurgeLayer::new(context, rules))
    }

    /// The routes: `/`, `/api/…` and `/openapi.json`. The router must be served with the addresses of its clients:
    /// `into_make_service_with_connect_info::<SocketAddr>()`.
    pub fn router(self) -> Router {
        routes(self.context())
    }

    pub(crate) fn context(self) -> Context {
        Context(Arc::new(self.0))
    }
}

fn routes(context: Context) -> Router {
    let guarded = api::routes()
        .layer(middleware::from_fn_with_state(context.0.access.clone(), guard))
        .layer(DefaultBodyLimit::max(MOST))
        .with_state(context);
    Router::new()
        .merge(page::routes())
        .route("/openapi.json", get(api::document))
        .merge(guarded)
        .fallback(not_found)
        .layer(middleware::from_fn(with_care))
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
}

/// Adds headers that keep other caches from storing the response, other pages from framing it, and browsers from guessing its
/// type.
async fn with_care(request: Request, next: Next) -> Response {
    const POLICY: HeaderValue = HeaderValue::from_static(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    );
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers: Vec<&str> = self.0.layers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Admin").field("name", &self.0.name).field("layers", &layers).finish_non_exhaustive()
    }
}
