//! The service from start to end: open, listen, serve, and leave nothing half done.

use std::{fmt, future::pending, net::SocketAddr, time::Duration};

use axum::Router;
use tokio::{net::TcpListener, sync::Semaphore, time};

use crate::{
    admin::AdminServer,
    app::{App, ShutdownHandle, StartError},
    cache::{ProductCache, Reloaded},
    config::{CacheSwitch, Config},
    connections::{self, Limits},
    routes,
};

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
    admin: Option<AdminServer>,
}

impl Server {
    /// Opens the database and the cache, and listens. Requests wait until [`run`](Self::run).
    ///
    /// A Redis that is down delays this by five seconds, and does not keep the service from starting.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let app = App::open(&config).await?;
        let failed = |error| StartError::Listen(config.listen, error);
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (admin, purge) = AdminServer::bind(&config, &app.cache).await?.unzip();
        Ok(Self { router: routes::router(app.clone(), &config, purge), config, app, listener, address, admin })
    }

    /// The address at which the service listens; if the configured port is 0, the port that was free.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The address of the operator's page, if its port is configured.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(AdminServer::local_addr)
    }

    /// A handle to end [`run`](Self::run) with.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.app.shutdown.clone()
    }

    /// A handle to read the rules of the cache again with.
    #[must_use]
    pub fn reload_handle(&self) -> ReloadHandle {
        ReloadHandle(self.app.cache.clone())
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
        let Self { config, app, router, listener, address, admin } = self;
        // Ends with this function: it holds up nothing.
        let _admin = admin.map(|admin| admin.start(&config));
        tracing::info!(
            "listening on http://{address} (documentation at /docs), products in {}, cache {}",
            config.database_url,
            where_the_cache_is(&config),
        );

        let last = LAST_REQUESTS.min(config.shutdown_timeout / 2);
        let limits = Limits {
            most: Semaphore::MAX_PERMITS,
            head: config.header_timeout,
            idle: config.idle_timeout,
            last,
            http1_only: false,
        };
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
            app.cache.leave_hot_keys().await;
            let drained = app.cache.drain(CLOSING_TIMEOUT).await;
            app.database.close().await;
            app.metrics.shutdown().await;
            drained
        });
        match closed.await {
            Ok(true) => tracing::info!("stopped"),
            _ => tracing::warn!("stopped before the cache or the database had finished its work"),
        }
    }
}

/// Reads the rules of the cache of a [`Server`] again, while it runs; a clone does the same.
#[derive(Clone)]
pub struct ReloadHandle(ProductCache);

impl ReloadHandle {
    /// Reads the file again: the rules in it count for all requests from then on, or, if something is wrong with it, those before.
    ///
    /// # Errors
    ///
    /// If there is no file, or if something is wrong with it: a sentence that names the line.
    pub async fn reload(&self) -> Result<Reloaded, String> {
        self.0.reload_rules().await
    }
}

impl fmt::Debug for ReloadHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReloadHandle")
    }
}

fn where_the_cache_is(config: &Config) -> String {
    match (config.cache, &config.redis_url) {
        (CacheSwitch::Off, _) => "off".to_owned(),
        (CacheSwitch::On, None) => "in memory".to_owned(),
        (CacheSwitch::On, Some(url)) => format!("in {url}"),
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, process::Command};

    use tokio::sync::oneshot;

    use super::*;
    use crate::config::CacheRules;

    fn rule(ttl: &str) -> String {
        format!("[[rule]]\npath = \"/api/products\"\nttl = \"{ttl}\"\n")
    }

    fn pipe(folder: &Path, name: &str) {
        assert!(Command::new("mkfifo").arg(folder.join(name)).status().unwrap().success());
    }

    /// Returns once somebody reads the pipe, and has been given the text, but not yet its end.
    async fn give(pipe: &Path, text: String) -> fs::File {
        use std::io::Write as _;
        let pipe = pipe.to_owned();
        let (give, given) = oneshot::channel();
        // No task of the runtime, which would wait for it if nobody reads.
        std::thread::spawn(move || {
            let mut pipe = fs::OpenOptions::new().write(true).open(pipe).unwrap();
            pipe.write_all(text.as_bytes()).unwrap();
            let _ = give.send(pipe);
        });
        time::timeout(Duration::from_secs(20), given).await.expect("it is read").unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_two_reloads_the_newer_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.toml");
        let put = |name: &str| fs::rename(folder.path().join(name), &file).unwrap();
        fs::write(&file, rule("100s")).unwrap();
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            database_url: "sqlite::memory:".into(),
            cache_rules: Some(CacheRules::read(&file).unwrap()),
            ..Config::default()
        };
        let server = Server::bind(config).await.unwrap();
        let reload = || {
            let handle = server.reload_handle();
            tokio::spawn(async move { handle.reload().await.unwrap() })
        };

        // The first one stands still at the end of its second, last read, while the file is replaced.
        for name in ["first", "second"] {
            pipe(folder.path(), name);
        }
        put("first");
        let first = reload();
        let end = give(&file, rule("200s")).await;
        put("second");
        drop(end);
        let end = give(&file, rule("200s")).await;
        fs::write(folder.path().join("newer"), rule("300s")).unwrap();
        put("newer");
        let mut second = reload();
        let ended = time::timeout(Duration::from_secs(1), &mut second).await;
        drop(end);
        first.await.unwrap();
        if ended.is_err() {
            second.await.unwrap();
        }
        assert_eq!(server.app.cache.ttl(), Duration::from_secs(300));
    }
}
