//! The application of a fleet.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::Gate;

/// An HTTP server whose answers are its version, and after it what it was sent, fresh for five minutes and tagged `all`. It records
/// its callers.
#[derive(Debug)]
pub struct SharedOrigin {
    addr: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    version: AtomicU64,
    delay: Duration,
    failing: AtomicBool,
    gate: Gate,
    /// The path and the process of each call.
    calls: Mutex<Vec<(String, String)>>,
}

impl SharedOrigin {
    /// Answers after `delay`, and not before `gate` is open.
    pub async fn start(delay: Duration, gate: &Gate) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            version: AtomicU64::new(0),
            delay,
            failing: AtomicBool::new(false),
            gate: gate.clone(),
            calls: Mutex::default(),
        });
        let server = tokio::spawn(serve(listener, state.clone()));
        Self { addr, state, server }
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The version that it answers with now.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.state.version.load(Ordering::SeqCst)
    }

    /// Changes what it answers, and says to what.
    #[must_use]
    pub fn change(&self) -> u64 {
        self.state.version.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// From now on it answers 503, or no longer.
    pub fn fail(&self, failing: bool) {
        self.state.failing.store(failing, Ordering::SeqCst);
    }

    /// The callers that asked for `path`, one name for each call.
    #[must_use]
    pub fn callers(&self, path: &str) -> Vec<String> {
        self.state.calls().iter().filter(|(called, _)| called == path).map(|(_, caller)| caller.clone()).collect()
    }
}

impl Drop for SharedOrigin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    fn calls(&self) -> std::sync::MutexGuard<'_, Vec<(String, String)>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let caller = request.headers().get("x-node").and_then(|name| name.to_str().ok()).unwrap_or_default();
        self.calls().push((request.uri().path().to_owned(), caller.to_owned()));
        let content = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
        // The version is read before the pause, as if it came from a database.
        let version = self.version.load(Ordering::SeqCst);
        let failing = self.failing.load(Ordering::SeqCst);
        tokio::time::sleep(self.delay).await;
        self.gate.pass().await;
        let response = Response::builder().header("cache-control", "public, max-age=300").header("x-tags", "all");
        let response = if failing { Response::builder().status(503) } else { response };
        response.body(Full::from([version.to_string().as_bytes(), &content].concat())).expect("a valid response")
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let state = state.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, Infallible>(state.answer(request).await) }
            });
            // However a client leaves, the others stay.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
