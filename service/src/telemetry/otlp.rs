//! OTLP export, set by the variables of the OpenTelemetry specification: `OTEL_EXPORTER_OTLP_ENDPOINT`,
//! `OTEL_EXPORTER_OTLP_PROTOCOL`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME` and their kin.
//!
//! Without an endpoint, nothing is exported: a service without a collector should not try to reach one every few seconds.

use std::{
    env,
    error::Error,
    iter,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, hyper::HyperClient};
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, SpanExporter, WithHttpConfig as _, WithTonicConfig as _,
    tonic_types::transport::ClientTlsConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{SdkTracerProvider, SpanData, SpanExporter as ExportSpans},
};
use tokio::runtime::Handle;

use super::Throttle;
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

    /// Whether the endpoint is to be reached by TLS: without a scheme, it is unless a variable says otherwise.
    fn is_encrypted(self) -> bool {
        let setting = |name| variable(&self.own(name)).or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")));
        setting("ENDPOINT").is_some_and(|endpoint| match endpoint.split_once("://") {
            Some((scheme, _)) => scheme.eq_ignore_ascii_case("https"),
            None => !setting("INSECURE").is_some_and(|insecure| insecure.eq_ignore_ascii_case("true")),
        })
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
    let cause = Cause::default();
    let exporter = match protocol {
        Protocol::Grpc if signal.is_encrypted() => SpanExporter::builder().with_tonic().with_tls_config(tls()).build(),
        Protocol::Grpc => SpanExporter::builder().with_tonic().build(),
        Protocol::Http => SpanExporter::builder().with_http().with_http_client(OnRuntime::new(&cause)?).build(),
    };
    let exporter = exporter.map_err(|error| signal.refused(&error))?;
    let exporter = Reported::new("spans", exporter, cause);
    Ok(Some(SdkTracerProvider::builder().with_resource(resource()).with_batch_exporter(exporter).build()))
}

/// What sends metrics to the collector, if there is one.
pub(super) fn metric_exporter() -> Result<Option<impl PushMetricExporter>, ConfigError> {
    let signal = Signal::Metrics;
    let Some(protocol) = signal.protocol()? else { return Ok(None) };
    let cause = Cause::default();
    let exporter = match protocol {
        Protocol::Grpc if signal.is_encrypted() => {
            MetricExporter::builder().with_tonic().with_tls_config(tls()).build()
        }
        Protocol::Grpc => MetricExporter::builder().with_tonic().build(),
        Protocol::Http => MetricExporter::builder().with_http().with_http_client(OnRuntime::new(&cause)?).build(),
    };
    let exporter = exporter.map_err(|error| signal.refused(&error))?;
    Ok(Some(Reported::new("metrics", exporter, cause)))
}

/// TLS by the certificates that the system trusts, or those in `SSL_CERT_FILE`. The exporter by itself would trust none.
fn tls() -> ClientTlsConfig {
    ClientTlsConfig::new().with_enabled_roots()
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

/// An exporter whose failures are logged: the SDK only returns them to its own threads.
#[derive(Debug)]
struct Reported<E> {
    what: &'static str,
    exporter: E,
    cause: Cause,
    failures: Throttle,
}

impl<E> Reported<E> {
    fn new(what: &'static str, exporter: E, cause: Cause) -> Self {
        Self { what, exporter, cause, failures: Throttle::new() }
    }

    fn report(&self, result: OTelSdkResult) -> OTelSdkResult {
        if let Err(error) = &result
            && let Some(kept_back) = self.failures.pass()
        {
            let cause = self.cause.text().map(|cause| format!(": {cause}")).unwrap_or_default();
            tracing::warn!("{} could not be sent to the collector: {error}{cause}{kept_back}", self.what);
        }
        result
    }
}

impl<E: ExportSpans> ExportSpans for Reported<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.report(self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Reported<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.report(self.exporter.export(metrics).await)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

/// Why the last request by HTTP had no response. The exporter's own error says only that there was none.
#[derive(Clone, Debug, Default)]
struct Cause(Arc<Mutex<Option<String>>>);

impl Cause {
    fn set(&self, cause: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cause;
    }

    fn text(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The SDK exports on a thread of its own; its HTTP client needs a runtime, and gets ours.
#[derive(Debug)]
struct OnRuntime {
    runtime: Handle,
    client: HyperClient<HttpsConnector<HttpConnector>>,
    cause: Cause,
}

impl OnRuntime {
    fn new(cause: &Cause) -> Result<Self, ConfigError> {
        let provider = rustls::crypto::ring::default_provider();
        let tls = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_native_roots().map_err(|error| rustls::Error::General(error.to_string())))
            .map(|builder| builder.with_no_client_auth())
            .map_err(|error| ConfigError::Wrong(format!("OTEL_EXPORTER_OTLP_PROTOCOL http/protobuf: {error}")))?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = HyperClient::new(connector, TIMEOUT, None);
        Ok(Self { runtime: Handle::current(), client, cause: cause.clone() })
    }
}

#[async_trait::async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let response = self.runtime.spawn(async move { client.send_bytes(request).await }).await?;
        self.cause.set(response.as_ref().err().map(|error| chain(&**error)));
        response
    }
}

/// An error with what caused it, on one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
