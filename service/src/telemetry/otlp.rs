//! OTLP export, set by the variables of the OpenTelemetry specification: `OTEL_EXPORTER_OTLP_ENDPOINT`,
//! `OTEL_EXPORTER_OTLP_PROTOCOL`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME` and their kin.
//!
//! Without an endpoint, nothing is exported: a service without a collector should not try to reach one every few seconds.

use std::{env, time::Duration};

use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, hyper::HyperClient};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio::runtime::Handle;

use crate::config::ConfigError;

const PROTOCOLS: [&str; 2] = ["grpc", "http/protobuf"];
/// For a request to the collector.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a collector may take for the last spans and metrics, at the end.
pub(super) const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// A kind of telemetry, by the name that its variables carry.
#[derive(Clone, Copy)]
enum Signal {
    Traces,
    Metrics,
}

enum Protocol {
    Grpc,
    Http,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        }
    }

    /// How this signal is exported, if it is.
    fn protocol(self) -> Result<Option<Protocol>, ConfigError> {
        let exporter = format!("OTEL_{}_EXPORTER", self.name());
        let wanted = match variable(&exporter).as_deref() {
            None => {
                ["OTEL_EXPORTER_OTLP_ENDPOINT", &self.own("ENDPOINT")].into_iter().any(|name| variable(name).is_some())
            }
            Some("otlp") => true,
            Some("none") => false,
            Some(other) => return Err(wrong(&exporter, other, "otlp or none")),
        };
        match variable("OTEL_SDK_DISABLED").as_deref() {
            Some("true") => return Ok(None),
            None | Some("false") if wanted => {}
            None | Some("false") => return Ok(None),
            Some(other) => return Err(wrong("OTEL_SDK_DISABLED", other, "true or false")),
        }
        for name in [self.own("PROTOCOL").as_str(), "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            match variable(name).as_deref() {
                None => {}
                Some("grpc") => return Ok(Some(Protocol::Grpc)),
                Some("http/protobuf") => return Ok(Some(Protocol::Http)),
                Some(other) => return Err(wrong(name, other, &PROTOCOLS.join(" or "))),
            }
        }
        Ok(Some(Protocol::Grpc))
    }

    fn own(self, setting: &str) -> String {
        format!("OTEL_EXPORTER_OTLP_{}_{setting}", self.name())
    }

    fn refused(self, error: &ExporterBuildError) -> ConfigError {
        ConfigError::Wrong(format!("OTEL_EXPORTER_OTLP_* for {}: {error}", self.name().to_lowercase()))
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn wrong(name: &str, value: &str, allowed: &str) -> ConfigError {
    ConfigError::Wrong(format!("{name} {value:?}: must be {allowed}"))
}

/// What identifies this service to the collector.
pub(super) fn resource() -> Resource {
    let named = variable("OTEL_SERVICE_NAME").is_some()
        || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|attributes| attributes.contains("service.name="));
    let resource = Resource::builder();
    let resource = if named { resource } else { resource.with_service_name(env!("CARGO_PKG_NAME")) };
    resource.with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build()
}

/// What sends spans to the collector, if there is one.
pub(super) fn tracer_provider() -> Result<Option<SdkTracerProvider>, ConfigError> {
    let signal = Signal::Traces;
    let Some(protocol) = signal.protocol()? else { return Ok(None) };
    sampler_is_known()?;
    let exporter = match protocol {
        Protocol::Grpc => SpanExporter::builder().with_tonic().build(),
        Protocol::Http => SpanExporter::builder().with_http().with_http_client(OnRuntime::new()?).build(),
    };
    let exporter = exporter.map_err(|error| signal.refused(&error))?;
    Ok(Some(SdkTracerProvider::builder().with_resource(resource()).with_batch_exporter(exporter).build()))
}

/// What sends metrics to the collector, if there is one.
pub(super) fn metric_exporter() -> Result<Option<MetricExporter>, ConfigError> {
    let signal = Signal::Metrics;
    let exporter = match signal.protocol()? {
        None => return Ok(None),
        Some(Protocol::Grpc) => MetricExporter::builder().with_tonic().build(),
        Some(Protocol::Http) => MetricExporter::builder().with_http().with_http_client(OnRuntime::new()?).build(),
    };
    exporter.map(Some).map_err(|error| signal.refused(&error))
}

/// The SDK would fall back on sampling everything.
fn sampler_is_known() -> Result<(), ConfigError> {
    const SAMPLERS: [&str; 6] = [
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ];
    const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
    const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
    if let Some(sampler) = variable(SAMPLER).filter(|sampler| !SAMPLERS.contains(&sampler.as_str())) {
        return Err(wrong(SAMPLER, &sampler, &SAMPLERS.join(", ")));
    }
    let in_range = |ratio: &String| ratio.parse().is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio));
    match variable(ARGUMENT).filter(|ratio| !in_range(ratio)) {
        Some(ratio) => Err(wrong(ARGUMENT, &ratio, "a ratio from 0 to 1")),
        None => Ok(()),
    }
}

/// The SDK exports on a thread of its own; its HTTP client needs a runtime, and gets ours.
#[derive(Debug)]
struct OnRuntime {
    runtime: Handle,
    client: HyperClient<HttpsConnector<HttpConnector>>,
}

impl OnRuntime {
    fn new() -> Result<Self, ConfigError> {
        let provider = rustls::crypto::ring::default_provider();
        let tls = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_native_roots().map_err(|error| rustls::Error::General(error.to_string())))
            .map(|builder| builder.with_no_client_auth())
            .map_err(|error| ConfigError::Wrong(format!("OTEL_EXPORTER_OTLP_PROTOCOL http/protobuf: {error}")))?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Self { runtime: Handle::current(), client: HyperClient::new(connector, TIMEOUT, None) })
    }
}

#[async_trait::async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        self.runtime.spawn(async move { client.send_bytes(request).await }).await?
    }
}
