//! The span of a request, by the semantic conventions for HTTP servers, inside the trace that its client began.

use std::time::Duration;

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, header::USER_AGENT},
    middleware::Next,
    response::Response,
};
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracerProvider, Tracer},
};
use tower_http::trace::{MakeSpan, OnResponse};
use tracing::{Level, Span, Subscriber, field::Empty};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt as _};
use tracing_subscriber::{
    Layer,
    filter::{FilterFn, filter_fn},
    registry::LookupSpan,
};

/// W3C Trace Context Level 2.
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Sends spans to the collector: all of this service's and its cache's, also those that the log leaves out.
pub(crate) fn exported<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let ours: FilterFn = filter_fn(|metadata| {
        let target = metadata.target();
        metadata.is_span()
            && *metadata.level() <= Level::DEBUG
            && (target.starts_with("service") || target.starts_with("cache_layer"))
    });
    let layer: OpenTelemetryLayer<S, Tracer> = tracing_opentelemetry::layer()
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_tracer(provider.tracer(env!("CARGO_PKG_NAME")));
    layer.with_filter(ours)
}

/// Makes the span of a request, and tells it how the request ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerSpan;

impl<B> MakeSpan<B> for ServerSpan {
    fn make_span(&mut self, request: &axum::http::Request<B>) -> Span {
        let method = request.method().as_str();
        let route = route(request.extensions());
        let name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
        let headers = request.headers();
        let span = tracing::info_span!(
            "request",
            otel.name = name,
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = method,
            http.route = route,
            http.response.status_code = Empty,
            url.scheme = "http",
            url.path = request.uri().path(),
            network.protocol.version = version(request.version()),
            user_agent.original = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()),
            error.r#type = Empty,
            cache_layer.cache_status = Empty,
        );
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Fields(headers));
        if parent.span().span_context().is_valid() {
            // It fails only if nothing is exported.
            let _ = span.set_parent(parent);
        }
        span
    }
}

impl<B> OnResponse<B> for ServerSpan {
    fn on_response(self, response: &Response<B>, latency: Duration, span: &Span) {
        let status = response.status();
        span.record("http.response.status_code", i64::from(status.as_u16()));
        if let Some(cache) = response.headers().get(CACHE_STATUS).and_then(|status| status.to_str().ok()) {
            span.record("cache_layer.cache_status", cache);
        }
        if status.is_server_error() {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", status.as_str());
        }
        tracing::debug!(status = status.as_u16(), latency_ms = latency.as_secs_f64() * 1000.0, "answered");
    }
}

/// Names in the response the span that it was made in, if that is exported: a client that began no trace finds this one.
pub(crate) async fn name_trace(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let context = Span::current().context();
    let ids = context.span().span_context().clone();
    if ids.is_valid() && ids.is_sampled() {
        let value = format!("00-{}-{}-{:02x}", ids.trace_id(), ids.span_id(), ids.trace_flags());
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(TRACERESPONSE, value);
        }
    }
    response
}

/// The route of a request as it is declared: never its path, of which clients can make up any number.
pub(crate) fn route(extensions: &axum::http::Extensions) -> Option<&str> {
    extensions.get::<MatchedPath>().map(MatchedPath::as_str)
}

fn version(version: axum::http::Version) -> Option<&'static str> {
    match version {
        axum::http::Version::HTTP_10 => Some("1.0"),
        axum::http::Version::HTTP_11 => Some("1.1"),
        axum::http::Version::HTTP_2 => Some("2"),
        axum::http::Version::HTTP_3 => Some("3"),
        _ => None,
    }
}

struct Fields<'a>(&'a HeaderMap);

impl Extractor for Fields<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
