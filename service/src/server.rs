//! The service from start to end: open, listen, serve, and leave nothing half done.

use std::{fmt, future::pending, io, net::SocketAddr, time::Duration};

use axum::Router;
use tokio::{net::TcpListener, time};
use tokio_util::sync::CancellationToken;

use crate::{
    cache::ProductCache,
    catalogue::Catalogue,
    config::{Config, ConfigError, SecretUrl},
    connections::{self, Limits},
    database::Database,
    routes::{self, App},
    telemetry::metrics::Metrics,
};

/// How long Redis is waited for before the service listens. What is written through a service that has none yet, others do
/// not hear of; and in a cluster the network may take a second to let a new pod out.
const REDIS_PATIENCE: Duration = Duration::from_secs(5);
/// How long the cache and the database may take to close, after the last request.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long idle connections are kept once no more are accepted, for requests that are on their way.
const LAST_REQUESTS: Duration = Duration::from_millis(250);

/// The service, listening.
pub struct Server {
    config: Config,
    app: App,
    router: Router,
    listener: TcpListener,
    address: SocketAddr,
}

/// Why the service could not start.
#[derive(Debug)]
pub enum StartError {
    /// A setting is wrong.
    Config(ConfigError),
    /// The database cannot be opened.
    Database(SecretUrl, sqlx::Error),
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
}

/// Ends a [`Server`] from elsewhere; a clone ends the same one.
#[derive(Clone, Debug, Default)]
pub struct ShutdownHandle(CancellationToken);

impl Server {
    /// Opens the database and the cache, and listens. Requests wait until [`run`](Self::run).
    ///
    /// A Redis that is down delays this by five seconds, and does not keep the service from starting.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let metrics = Metrics::new().map_err(StartError::Config)?;
        let cache = ProductCache::new(&config, &metrics).map_err(StartError::Config)?;
        let database = async {
            let opened = Database::open(&config.database_url, config.database_connections).await;
            opened.map_err(|error| StartError::Database(config.database_url.clone(), error))
        };
        let redis = async {
            cache.wait_for_redis(REDIS_PATIENCE).await;
            Ok(())
        };
        let (database, ()) = tokio::try_join!(database, redis)?;
        let failed = |error| StartError::Listen(config.listen, error);
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;

        let app = App {
            catalogue: Catalogue::new(database.clone(), cache.clone()),
            database,
            cache,
            metrics,
            shutdown: ShutdownHandle::default(),
        };
        Ok(Self { router: routes::router(app.clone(), &config), config, app, listener, address })
    }

    /// Where the service listens: with port 0, the port that was free.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// A handle to end [`run`](Self::run) with.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.app.shutdown.clone()
    }

    /// Serves until `signal`, then shuts down.
    pub async fn run_until(self, signal: impl Future<Output = ()>) {
        let shutdown = self.shutdown_handle();
        let signal = async {
            signal.await;
            shutdown.shutdown();
            pending().await
        };
        tokio::select! {
            () = self.run() => {}
            () = signal => {}
        }
    }

    /// Serves until told to shut down; then lets requests in flight finish, writes out what the cache
    /// still has to write, and closes the database.
    pub async fn run(self) {
        let Self { config, app, router, listener, address } = self;
        tracing::info!(
            "listening on http://{address} (documentation at /docs), products in {}, cache in {}",
            config.database_url,
            config.redis_url.as_ref().map_or("memory".to_owned(), ToString::to_string),
        );

        let last = LAST_REQUESTS.min(config.shutdown_timeout / 2);
        let limits = Limits { head: config.header_timeout, idle: config.idle_timeout, last };
        let stop_accepting = {
            let shutdown = app.shutdown.clone();
            async move {
                shutdown.begun().await;
                tracing::info!("shutting down");
                time::sleep(config.shutdown_delay).await;
            }
        };
        let out_of_time = async {
            app.shutdown.begun().await;
            time::sleep(config.shutdown_delay + config.shutdown_timeout).await;
        };
        tokio::select! {
            () = connections::serve(listener, router, limits, app.shutdown.clone(), stop_accepting) => {}
            () = out_of_time => {
                tracing::warn!("requests still ran after {:?} and were cut off", config.shutdown_timeout);
            }
        }

        let closed = time::timeout(CLOSING_TIMEOUT, async {
            app.catalogue.finish().await;
            let drained = app.cache.drain(CLOSING_TIMEOUT).await;
            app.database.close().await;
            app.metrics.shutdown().await;
            drained
        });
        match closed.await {
            Ok(true) => tracing::info!("stopped"),
            _ => tracing::warn!("stopped with work of the cache or the database undone"),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).field("config", &self.config).finish_non_exhaustive()
    }
}

impl ShutdownHandle {
    /// Begins the shutdown. The server is no longer ready, and soon no longer there.
    pub fn shutdown(&self) {
        self.0.cancel();
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Ends when the shutdown begins.
    pub(crate) async fn begun(&self) {
        self.0.cancelled().await;
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Database(url, error) => write!(f, "cannot open the database {url}: {error}"),
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
