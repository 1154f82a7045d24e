//! Runs the service with the configuration of its environment until it is told to stop.

use std::{fmt::Display, pin::pin, process::ExitCode};

use mimalloc::MiMalloc;
use service::{Config, ConfigError, ReloadHandle, Server, StartError, Telemetry};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What one thread allocates for a request, another one often frees: with the C library's allocator they wait for each
/// other, on every second hit in Redis.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let config = match Config::from_environment() {
        Ok(config) => config,
        Err(ConfigError::Asked(text)) => {
            println!("{}", text.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(wrong) => return refuse(&wrong, 2),
    };
    if config.healthcheck {
        return service::healthcheck(config.listen).map_or_else(|error| refuse(&error, 1), |()| ExitCode::SUCCESS);
    }
    let telemetry = match Telemetry::start(&config) {
        Ok(telemetry) => telemetry,
        Err(wrong) => return refuse(&wrong, 2),
    };
    for warning in Config::unknown_variables() {
        tracing::warn!("{warning}");
    }

    let (terminate, interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return refuse(&error, 1),
    };
    // Before the server is there, so that the signal ends nothing.
    let hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return refuse(&error, 1),
    };
    let mut stopped = pin!(stopped(terminate, interrupt));
    let server = tokio::select! {
        server = Server::bind(config) => server,
        () = &mut stopped => {
            tracing::info!("stopped before it listened");
            telemetry.shutdown().await;
            return ExitCode::SUCCESS;
        }
    };
    match server {
        Ok(server) => {
            tokio::spawn(reload(hangup, server.reload_handle()));
            server.run_until(stopped).await;
            telemetry.shutdown().await;
            ExitCode::SUCCESS
        }
        Err(StartError::Config(wrong)) => refuse(&wrong, 2),
        Err(error) => refuse(&error, 1),
    }
}

/// The first signal begins the shutdown; a second one ends it.
async fn stopped(mut terminate: Signal, mut interrupt: Signal) {
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    next().await;
    tokio::spawn(async move {
        next().await;
        std::process::exit(1);
    });
}

/// Reads the rules of the cache again with each signal.
async fn reload(mut hangup: Signal, rules: ReloadHandle) {
    while hangup.recv().await.is_some() {
        match rules.reload().await {
            Ok(reloaded) => tracing::info!("{} cache rules of {}", reloaded.rules, reloaded.file.display()),
            Err(why) => tracing::error!("the cache rules could not be read again, and stay as they are: {why}"),
        }
    }
}

/// Prints one line, however many the cause has.
fn refuse(why: &impl Display, code: u8) -> ExitCode {
    let why = why.to_string();
    eprintln!("service: {}", why.lines().collect::<Vec<_>>().join(" "));
    ExitCode::from(code)
}
