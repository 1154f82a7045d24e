//! Log lines on standard output.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Sends the log of this process to standard output, as the configuration asks.
///
/// The first call in a process counts.
pub fn init(config: &Config) {
    // PostgreSQL notes at every start that the table of migrations is there already.
    let filter = EnvFilter::new(format!("sqlx::postgres::notice=warn,{}", config.log));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(io::stdout().is_terminal());
    let _ = match config.log_format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).with_span_list(false).try_init(),
    };
}
