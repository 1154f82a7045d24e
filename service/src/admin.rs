//! The operator's page and API, on a port of its own.

use std::net::SocketAddr;

use axum::Router;
use cache_layer_admin::PurgeLayer;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{app::StartError, cache::ProductCache, config::Config};

/// Listening, if there is a port for it.
pub(crate) struct AdminServer {
    router: Router,
    listener: TcpListener,
    address: SocketAddr,
}

impl AdminServer {
    /// `None` if it is not asked for. With it comes what takes `PURGE` on the service's own port.
    pub(crate) async fn bind(config: &Config, cache: &ProductCache) -> Result<Option<(Self, PurgeLayer)>, StartError> {
        let Some(listen) = config.admin_listen else { return Ok(None) };
        let Some((router, purge)) = cache.admin(config).map_err(StartError::Config)? else {
            tracing::warn!("APP_ADMIN_LISTEN is set, but the cache is off: there is nothing to show");
            return Ok(None);
        };
        let failed = |error| StartError::Listen(listen, error);
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Some((Self { router, listener, address }, purge)))
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until what this returns is dropped. It answers while the service shuts down, too.
    pub(crate) fn start(self) -> JoinSet<()> {
        let Self { router, listener, address } = self;
        tracing::info!("the operator's page is at http://{address}");
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let service = router.into_make_service_with_connect_info::<SocketAddr>();
            if let Err(error) = axum::serve(listener, service).await {
                tracing::error!("the operator's page is gone: {error}");
            }
        });
        serving
    }
}
