//! `PURGE` as a method on the application's own port, where a rule allows it.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    task::{self, Poll},
};

use futures_util::future::{BoxFuture, Either};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    access::{Access, bearer, is_direct, is_from_elsewhere, peer},
    api::{purge_url, said_in_fields},
    state::Context,
};

/// Where `PURGE` is accepted as a method, and from which clients. Without a rule, it is not accepted.
///
/// ```
/// use cache_layer_admin::PurgeRule;
///
/// // `PURGE /api/products/42`, from this machine or with the token.
/// let rule = PurgeRule::under("/api/").from_this_machine();
/// // With the token alone.
/// let rule = PurgeRule::under("/");
/// ```
#[derive(Clone, Debug)]
#[must_use = "it does nothing until it is given to `Admin::router_and_purge_layer`"]
pub struct PurgeRule {
    prefix: Arc<str>,
    from_this_machine: bool,
}

impl PurgeRule {
    /// For a path and those below it, with the [token](crate::Admin::token) as `Authorization: Bearer …`. If no token is set, no
    /// client can purge.
    pub fn under(prefix: impl AsRef<str>) -> Self {
        Self { prefix: prefix.as_ref().into(), from_this_machine: false }
    }

    /// Clients on this machine need no token: those with a connection from 127.0.0.1 or ::1, according to
    /// `ConnectInfo<SocketAddr>` in the extensions of the request, with HTTP/1.1 or HTTP/2, and without a field that a proxy adds,
    /// such as `X-Forwarded-For`.
    ///
    /// Not for a machine with a reverse proxy on it that adds no such field, as nginx does unless told to: it connects from the same
    /// address, and every client of it could purge.
    pub fn from_this_machine(mut self) -> Self {
        self.from_this_machine = true;
        self
    }
}

/// Handles `PURGE` requests that a [rule](PurgeRule) matches, and passes all others on; made by
/// [`Admin::router_and_purge_layer`](crate::Admin::router_and_purge_layer). It belongs outside of the cache, and outside of
/// layers that must not see `PURGE`. With the feature `axum` of `cache-layer`, it may be in a nested router: rules and purges go
/// by the path that the client has sent, as the keys of the cache do.
///
/// The stored response of the URL becomes void with all its variants, as with `POST /api/purge`, and the audit records it, with
/// what the fields `X-Actor` and `X-Reason` say: up to 200 characters each, for people, and not verified. The response has no
/// content: 200; 202 if the store has not received the purge yet, so that it is delivered later; 400 if one of these fields is too
/// long, or has control characters; 401 or 403 if the rule does not allow it. `PURGE` of other paths goes to the application, as before.
#[derive(Clone)]
pub struct PurgeLayer {
    context: Context,
    rules: Arc<[PurgeRule]>,
}

impl PurgeLayer {
    pub(crate) fn new(context: Context, rules: impl IntoIterator<Item = PurgeRule>) -> Self {
        Self { context, rules: rules.into_iter().collect() }
    }

    /// The rule for a path, if there is one.
    fn rule(&self, path: &str) -> Option<&PurgeRule> {
        self.rules.iter().find(|rule| is_under(path, &rule.prefix))
    }

    /// The absolute URI that a request was sent to, as the cache sees it: a router may have removed the beginning of its path.
    fn uri<B>(&self, request: &Request<B>) -> Option<Uri> {
        let (_, layer) = self.context.0.layers.first()?;
        layer.cache_layer().uri_of(request)
    }
}

impl fmt::Debug for PurgeLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PurgeLayer").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for PurgeLayer {
    type Service = PurgeService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PurgeService { inner, layer: self.clone() }
    }
}

/// A service that handles `PURGE` before its inner service, made by [`PurgeLayer`].
#[derive(Clone, Debug)]
pub struct PurgeService<S> {
    inner: S,
    layer: PurgeLayer,
}

impl<S, B, R> Service<Request<B>> for PurgeService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: 'static,
    R: Default + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if request.method().as_str() != "PURGE" {
            return Either::Left(self.inner.call(request));
        }
        let uri = self.layer.uri(&request);
        let path = uri.as_ref().map_or(request.uri().path(), Uri::path);
        let Some(rule) = self.layer.rule(path) else { return Either::Left(self.inner.call(request)) };
        let peer = peer(&request);
        let refused = is_unclear(path).then_some(StatusCode::BAD_REQUEST);
        let refused = refused.or_else(|| refusal(rule, &self.layer.context.0.access, &request));
        let said = said_in_fields(request.headers());
        let context = self.layer.context.clone();
        Either::Right(Box::pin(async move {
            let status = match (refused, uri, said) {
                (Some(status), ..) => status,
                (None, Some(uri), Ok(said)) => purged(&context, &uri.to_string(), peer, said).await,
                (None, ..) => StatusCode::BAD_REQUEST,
            };
            let mut response = Response::new(R::default());
            *response.status_mut() = status;
            let headers = response.headers_mut();
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            if status == StatusCode::UNAUTHORIZED {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Ok(response)
        }))
    }
}

async fn purged(context: &Context, url: &str, peer: Option<SocketAddr>, said: [Option<String>; 2]) -> StatusCode {
    match purge_url(context, url, peer.map(|peer| peer.ip().to_string()), said).await {
        Ok(true) => StatusCode::OK,
        Ok(false) => StatusCode::ACCEPTED,
        Err(problem) => problem.status(),
    }
}

fn is_under(path: &str, prefix: &str) -> bool {
    let below = |rest: &str| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/');
    path.strip_prefix(prefix).is_some_and(below)
}

/// Whether a path may match another rule once it is resolved.
fn is_unclear(path: &str) -> bool {
    path.split('/').any(|segment| {
        let segment = percent_encoding::percent_decode_str(segment).decode_utf8_lossy();
        matches!(&*segment, "." | "..") || segment.contains(['/', '\\'])
    })
}

/// Why a request may not purge, if it may not.
fn refusal<B>(rule: &PurgeRule, access: &Access, request: &Request<B>) -> Option<StatusCode> {
    let headers = request.headers();
    // A browser sends these fields for a page of another site. No page of this service purges, so that any `Origin` is foreign.
    if is_from_elsewhere(headers) || headers.contains_key(header::ORIGIN) {
        return Some(StatusCode::FORBIDDEN);
    }
    match (access.token.get(), bearer(headers)) {
        (Some(token), Some(given)) if token.is(given) => None,
        (_, None) if rule.from_this_machine && is_direct(request) => None,
        (Some(_), _) => Some(StatusCode::UNAUTHORIZED),
        (None, _) => Some(StatusCode::FORBIDDEN),
    }
}
