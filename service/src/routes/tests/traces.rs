//! What a response says of its trace.

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::telemetry::traces::exported;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// Traces this thread, as if to a collector, until it is dropped.
fn traced() -> DefaultGuard {
    let provider = SdkTracerProvider::builder().build();
    tracing::subscriber::set_default(tracing_subscriber::registry().with(exported(&provider)))
}

async fn get(service: &Service, traceparent: Option<String>) -> Answer {
    let request = Request::builder().uri("/api/products/1").header(header::HOST, "shop.example");
    let request = traceparent.into_iter().fold(request, |request, parent| request.header("traceparent", parent));
    service.send(request.body(Body::empty()).unwrap()).await
}

/// Trace, span and flags.
fn traceresponse(answer: &Answer) -> (&str, &str, &str) {
    let parts: Vec<_> = answer.header("traceresponse").split('-').collect();
    let ["00", trace, span, flags] = parts[..] else { panic!("{parts:?}") };
    assert_eq!((trace.len(), span.len()), (32, 16));
    (trace, span, flags)
}

#[tokio::test]
async fn a_client_without_a_trace_is_told_where_to_find_its_own() {
    let (_traced, service) = (traced(), Service::new().await);
    let (one, other) = (get(&service, None).await, get(&service, None).await);
    let (one, other) = (traceresponse(&one), traceresponse(&other));
    assert_eq!((one.2, other.2), ("01", "01"));
    // Also when the answer itself was the other one's.
    assert_ne!((one.0, one.1), (other.0, other.1));
    assert_ne!(one.0, other.0);
}

#[tokio::test]
async fn a_sampled_trace_is_continued() {
    let (_traced, service) = (traced(), Service::new().await);
    let answer = get(&service, Some(format!("00-{TRACE}-{SPAN}-01"))).await;
    let (trace, span, flags) = traceresponse(&answer);
    assert_eq!((trace, flags), (TRACE, "01"));
    assert_ne!(span, SPAN, "it is a span of this service");
}

#[tokio::test]
async fn what_is_not_sampled_is_not_announced() {
    let (_traced, service) = (traced(), Service::new().await);
    let answer = get(&service, Some(format!("00-{TRACE}-{SPAN}-00"))).await;
    assert_eq!((answer.status, answer.header("traceresponse")), (200, ""));
}

#[tokio::test]
async fn where_nothing_is_exported_nothing_is_announced() {
    let answer = get(&Service::new().await, Some(format!("00-{TRACE}-{SPAN}-01"))).await;
    assert_eq!((answer.status, answer.header("traceresponse")), (200, ""));
}

#[tokio::test]
async fn a_trace_that_is_none_is_not_continued() {
    let (_traced, service) = (traced(), Service::new().await);
    for parent in [format!("00-{}-{SPAN}-01", "0".repeat(32)), "junk".to_owned()] {
        let answer = get(&service, Some(parent)).await;
        assert_ne!(traceresponse(&answer).0, "0".repeat(32));
    }
}

#[tokio::test]
async fn probes_are_not_traced() {
    let (_traced, service) = (traced(), Service::new().await);
    for (path, is_traced) in [
        ("/health", false),
        ("/health/live", false),
        ("/health/ready", false),
        ("/metrics", false),
        ("/api/products", true),
        ("/docs/", true),
        ("/nothing", true),
    ] {
        let request = Request::get(path).header(header::HOST, "shop.example");
        let request = request.header("traceparent", format!("00-{TRACE}-{SPAN}-01"));
        let answer = service.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(!answer.header("traceresponse").is_empty(), is_traced, "{path}");
    }
}
