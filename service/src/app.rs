//! What the parts of one running service share, and how it is opened.

use std::{fmt, io, net::SocketAddr, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    cache::ProductCache,
    catalogue::Catalogue,
    config::{Config, ConfigError, SecretUrl},
    database::Database,
    telemetry::metrics::Metrics,
};

/// How long the service waits for Redis before it listens. Until it is connected, other instances do not learn of writes through
/// this one; and in Kubernetes the network may take a second to let a new pod out.
const REDIS_PATIENCE: Duration = Duration::from_secs(5);

/// What handlers work with; a clone is the same service.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) database: Database,
    pub(crate) cache: ProductCache,
    pub(crate) catalogue: Catalogue,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: ShutdownHandle,
}

/// Ends a [`Server`](crate::Server) from elsewhere; a clone ends the same one.
#[derive(Clone, Debug, Default)]
pub struct ShutdownHandle(CancellationToken);

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

impl App {
    /// Opens the database and the cache. A Redis that is down delays this by five seconds, and is no error; nor is
    /// one with nothing to warm up by, which delays it by no longer than the configuration says.
    pub(crate) async fn open(config: &Config) -> Result<Self, StartError> {
        let metrics = Metrics::new().map_err(StartError::Config)?;
        let cache = ProductCache::new(config, &metrics).map_err(StartError::Config)?;
        let database = async {
            let opened = Database::open(&config.database_url, config.database_connections).await;
            opened.map_err(|error| StartError::Database(config.database_url.clone(), error))
        };
        let redis = async {
            cache.wait_for_redis(REDIS_PATIENCE).await;
            cache.warm(config).await;
            Ok(())
        };
        let (database, ()) = tokio::try_join!(database, redis)?;
        let catalogue = Catalogue::new(database.clone(), cache.clone());
        Ok(Self { database, cache, catalogue, metrics, shutdown: ShutdownHandle::default() })
    }
}

impl ShutdownHandle {
    /// Begins the shutdown. The server is no longer ready, and ends soon.
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
