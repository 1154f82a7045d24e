//! The operator's page and API, on a port of its own.

use std::{future::pending, net::SocketAddr, time::Duration};

use axum::Router;
use cache_layer_admin::{PurgeLayer, TokenHandle};
use tokio::{
    net::TcpListener,
    task::{JoinSet, spawn_blocking},
    time,
};

use crate::{
    app::{ShutdownHandle, StartError},
    cache::{OperatorsSide, ProductCache},
    config::{Config, TokenFile},
    connections::{self, Limits},
};

/// How many connections there are at one time, so that they leave the application its file descriptors.
const MOST: usize = 64;
/// The longest that a connection is kept without a request, since others may wait for its place.
const IDLE: Duration = Duration::from_secs(30);
/// How often the file with the token is read.
const READ: Duration = Duration::from_secs(5);

/// Listening, if there is a port for it.
pub(crate) struct AdminServer {
    router: Router,
    token: TokenHandle,
    listener: TcpListener,
    address: SocketAddr,
}

impl AdminServer {
    /// `None` if it is not asked for. With it comes what takes `PURGE` on the service's own port.
    pub(crate) async fn bind(config: &Config, cache: &ProductCache) -> Result<Option<(Self, PurgeLayer)>, StartError> {
        let Some(listen) = config.admin_listen else { return Ok(None) };
        let Some(side) = cache.admin(config, listen).map_err(StartError::Config)? else {
            tracing::warn!("APP_ADMIN_LISTEN is set, but the cache is off: there is nothing to show");
            return Ok(None);
        };
        let OperatorsSide { router, purge, token } = side;
        let failed = |error| StartError::Listen(listen, error);
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Some((Self { router, token, listener, address }, purge)))
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until what this returns is dropped. It answers while the service shuts down, too.
    pub(crate) fn start(self, config: &Config) -> JoinSet<()> {
        let Self { router, token, listener, address } = self;
        tracing::info!("the operator's page is at http://{address}");
        let limits = Limits {
            most: MOST,
            head: config.header_timeout,
            idle: config.idle_timeout.min(IDLE),
            last: Duration::ZERO,
            http1_only: true,
        };
        let mut serving = JoinSet::new();
        serving.spawn(connections::serve(listener, router, limits, ShutdownHandle::default(), pending()));
        if let Some(file) = config.admin_token_file.clone() {
            serving.spawn(follow(file, token));
        }
        serving
    }
}

/// Takes the token from the file whenever that has another one, so that it can be replaced without a restart.
async fn follow(mut file: TokenFile, token: TokenHandle) {
    let mut told = None;
    loop {
        time::sleep(READ).await;
        let again = spawn_blocking({
            let file = file.clone();
            move || file.read_again()
        });
        let replaced = match again.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(again) if again == file => Ok(false),
            Ok(again) => token
                .replace(again.token().expose())
                .map(|()| file = again)
                .map(|()| true)
                .map_err(|error| error.to_string()),
            Err(why) => Err(why),
        };
        match replaced {
            Ok(false) => told = None,
            Ok(true) => tracing::info!("the operator's token was read from its file again"),
            // Once, and not each time that it is read.
            Err(why) if told.as_ref() != Some(&why) => {
                tracing::error!("the file in APP_ADMIN_TOKEN_FILE is not accepted, and the former token stays: {why}");
                told = Some(why);
            }
            Err(_) => {}
        }
    }
}
