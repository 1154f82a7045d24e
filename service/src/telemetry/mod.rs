//! What operators see: logs, traces and metrics.
//!
//! - [`logs`]: lines on standard output
//! - [`traces`]: the span of a request, and what it shares with other services
//! - [`metrics`]: numbers, at `/metrics` and by OTLP
//! - [`throttle`]: log lines that would come with every request, once in a while
//! - [`otlp`]: where spans and metrics are sent, by the standard `OTEL_*` variables

mod logs;
pub(crate) mod metrics;
mod otlp;
mod throttle;
pub(crate) mod traces;

pub(crate) use self::throttle::Throttle;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{Config, ConfigError};

/// What logs too much unless it is enabled by name. PostgreSQL notes at every start that the table of migrations exists
/// already; the others log every frame on its way to the collector.
const QUIET: &str = "sqlx::postgres::notice=warn,h2=info,hyper=info,hyper_util=info,tonic=info,tower=info";

/// The log and the traces of this process.
#[derive(Debug)]
pub struct Telemetry {
    tracer: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends the log to standard output and, if an `OTEL_*` variable names a collector, spans to it. The first call in a
    /// process counts. To be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// If an `OTEL_*` variable has a value that is not allowed.
    pub fn start(config: &Config) -> Result<Self, ConfigError> {
        let tracer = otlp::tracer_provider()?;
        let filter = EnvFilter::new(format!("{QUIET},{}", config.log));
        let subscriber = tracing_subscriber::registry()
            .with(tracer.as_ref().map(traces::exported))
            .with(logs::layer(config.log_format).with_filter(filter));
        if subscriber.try_init().is_ok() {
            logs::find_trace_ids();
        }
        Ok(Self { tracer })
    }

    /// Sends what is left to the collector, and waits for it a little.
    pub async fn shutdown(self) {
        let Some(tracer) = self.tracer else { return };
        // It blocks its thread.
        let flushed = tokio::task::spawn_blocking(move || tracer.shutdown_with_timeout(otlp::FLUSH_TIMEOUT)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("the last spans could not be sent");
        }
    }
}
