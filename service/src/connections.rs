//! Connections: accepted, timed out, and closed gracefully.
//!
//! This does three things that `axum::serve` can't. A connection with half a request, or none, has a timeout of its own. And a
//! connection that a client keeps for its next request is not closed under that request when the service ends: responses say
//! `Connection: close` for as long as the service is unready, so that clients have left before anything is closed. And the number of
//! connections has a limit, beyond which they wait in the kernel, and take no file descriptor.

use std::{
    convert::Infallible,
    future::ready,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::ConnectInfo,
    http::{HeaderValue, Request, Response, Version, header},
    serve::Listener,
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::{io::InspectReader, sync::CancellationToken};

use crate::app::ShutdownHandle;

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many connections there are, and how long one is kept without a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How many at one time; more wait until one of them ends.
    pub(crate) most: usize,
    /// With a part of a request's head.
    pub(crate) head: Duration,
    /// With nothing of it.
    pub(crate) idle: Duration,
    /// With nothing of it, once no more connections are accepted: a request may be on its way.
    pub(crate) last: Duration,
    /// Whether HTTP/2 is refused: its clients can leave a response unread for as long as they like.
    pub(crate) http1_only: bool,
}

/// Accepts connections until `last`, and serves each to its end. Cuts them off when dropped.
pub(crate) async fn serve(
    mut listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: ShutdownHandle,
    last: impl Future<Output = ()>,
) {
    let mut connections = JoinSet::new();
    let closing = CancellationToken::new();
    let connection =
        Connection { service: TowerToHyperService::new(router), limits, shutdown, closing: closing.clone() };
    let places = Arc::new(Semaphore::new(limits.most));
    let mut last = pin!(last);
    loop {
        tokio::select! {
            accepted = accept(&mut listener, &places) => drop(connections.spawn(connection.clone().serve(accepted))),
            Some(_) = connections.join_next() => {}
            () = &mut last => break,
        }
    }
    // The kernel has made these connections already: closing the listener would reset them.
    loop {
        tokio::select! {
            biased;
            accepted = accept(&mut listener, &places) => drop(connections.spawn(connection.clone().serve(accepted))),
            () = ready(()) => break,
        }
    }
    drop(listener);
    closing.cancel();
    while connections.join_next().await.is_some() {}
}

/// A connection that was accepted.
struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    /// `None` once the semaphore is closed, which it never is.
    _place: Option<OwnedSemaphorePermit>,
}

/// Accepts the next connection, once there is a place for it.
async fn accept(listener: &mut TcpListener, places: &Arc<Semaphore>) -> Accepted {
    let place = places.clone().acquire_owned().await.ok();
    let (stream, peer) = Listener::accept(listener).await;
    Accepted { stream, peer, _place: place }
}

/// What the connections of a server have in common.
#[derive(Clone)]
struct Connection {
    service: TowerToHyperService<Router>,
    limits: Limits,
    shutdown: ShutdownHandle,
    /// No more connections are accepted, and those that are idle close.
    closing: CancellationToken,
}

impl Connection {
    async fn serve(self, Accepted { stream, peer, _place }: Accepted) {
        // Only a matter of latency.
        let _ = stream.set_nodelay(true);
        let traffic = Arc::new(Traffic::new());
        let stream = InspectReader::new(stream, {
            let traffic = traffic.clone();
            move |bytes: &[u8]| traffic.received(bytes)
        });
        let answer = service_fn(|request| self.answer(request, peer, &traffic));
        let mut protocols = auto::Builder::new(TokioExecutor::new());
        if self.limits.http1_only {
            protocols = protocols.http1_only();
        }
        let mut connection = pin!(protocols.serve_connection(TokioIo::new(stream), answer));
        let mut overdue = pin!(traffic.overdue(self.limits));
        let mut last_request = pin!(self.last_request(&traffic));
        let mut ending = false;
        loop {
            tokio::select! {
                // First: what has come in by now is answered.
                biased;
                _ = &mut connection => return,
                () = &mut last_request, if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                overdue = &mut overdue => {
                    if overdue == Overdue::Idle {
                        // HTTP/2 says so first, and the peer may have sent a request meanwhile.
                        connection.as_mut().graceful_shutdown();
                        let _ = time::timeout(self.limits.head, connection).await;
                    }
                    return;
                }
            }
        }
    }

    /// Ends when this connection is to finish the responses under way, and take no more requests.
    async fn last_request(&self, traffic: &Traffic) {
        let no_more_accepted = async {
            self.closing.cancelled().await;
            time::sleep(self.limits.last).await;
        };
        // HTTP/2 can say so at once without losing a request: GOAWAY tells which ones are still answered. But only the first
        // request shows that it is HTTP/2, and that the handshake is over.
        let spoke_http2 = async {
            self.shutdown.begun().await;
            traffic.http2.notified().await;
        };
        tokio::select! {
            () = no_more_accepted => {}
            () = spoke_http2 => {}
        }
    }

    fn answer(
        &self,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        traffic: &Arc<Traffic>,
    ) -> impl Future<Output = Result<Response<Answer>, Infallible>> + Send + use<> {
        let version = request.version();
        request.extensions_mut().insert(ConnectInfo(peer));
        let answering = Answering::new(traffic, version);
        let (answer, shutdown) = (self.service.call(request), self.shutdown.clone());
        async move {
            let mut response = answer.await?;
            if version < Version::HTTP_2 && shutdown.is_shutting_down() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| Answer { body, _answering: answering }))
        }
    }
}

/// What comes and goes on a connection, for the code that times it out.
struct Traffic {
    state: Mutex<State>,
    /// A request came by HTTP/2.
    http2: Notify,
}

struct State {
    /// Requests whose answers are under way.
    answering: usize,
    /// A part of the next request is there.
    head: bool,
    /// HTTP/2 sends more than requests.
    http2: bool,
    /// What is still missing of its preface; nothing, once other bytes have come.
    preface: &'static [u8],
    /// When that part came or, without one, when the last answer was sent.
    since: Instant,
}

/// Why a connection is to end.
#[derive(PartialEq, Eq)]
enum Overdue {
    Head,
    Idle,
}

impl Traffic {
    fn new() -> Self {
        let state = State { answering: 0, head: false, http2: false, preface: PREFACE, since: Instant::now() };
        Self { state: Mutex::new(state), http2: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn received(&self, bytes: &[u8]) {
        let mut state = self.state();
        let preface = state.preface;
        if !preface.is_empty() && bytes.starts_with(preface) {
            // The complete preface is no part of a request, which may come much later.
            (state.http2, state.head, state.since) = (true, false, Instant::now());
        }
        state.preface = preface.strip_prefix(bytes).unwrap_or_default();
        if !bytes.is_empty() && state.answering == 0 && !state.head && !state.http2 {
            (state.head, state.since) = (true, Instant::now());
        }
    }

    /// Ends when a request, or the rest of one, has not come for too long.
    async fn overdue(&self, limits: Limits) -> Overdue {
        loop {
            let now = Instant::now();
            // A head that begins after this check is not due before the next one.
            let mut next_look = now + limits.head;
            {
                let state = self.state();
                let (limit, overdue) =
                    if state.head { (limits.head, Overdue::Head) } else { (limits.idle, Overdue::Idle) };
                let due = state.since + limit;
                if state.answering == 0 {
                    if due <= now {
                        return overdue;
                    }
                    next_look = next_look.min(due);
                }
            }
            time::sleep_until(next_look).await;
        }
    }
}

/// An answer under way, until it is dropped.
struct Answering(Arc<Traffic>);

impl Answering {
    fn new(traffic: &Arc<Traffic>, version: Version) -> Self {
        let mut state = traffic.state();
        state.answering += 1;
        state.head = false;
        state.http2 |= version == Version::HTTP_2;
        Self(traffic.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.answering -= 1;
        if state.http2 {
            // Not earlier: the first response is on its way before the client learns that no more will follow.
            self.0.http2.notify_one();
        }
        // What came meanwhile may be the body of this request, or the next one as a whole.
        (state.head, state.since) = (false, Instant::now());
    }
}

/// A response's body, which is under way until it is dropped.
struct Answer {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinHandle,
    };

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    /// Longer than any of these tests.
    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(300);
    const PATIENT: Limits =
        Limits { most: Semaphore::MAX_PERMITS, head: LONG, idle: LONG, last: LONG, http1_only: false };

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A server until its handle is aborted.
    async fn start(limits: Limits) -> (SocketAddr, ShutdownHandle, JoinHandle<()>) {
        let (listener, address) = listen().await;
        let shutdown = ShutdownHandle::default();
        let router = Router::new().route("/", get(async || "hello").put(async |body: Bytes| body));
        let running = tokio::spawn(serve(listener, router, limits, shutdown.clone(), pending()));
        (address, shutdown, running)
    }

    /// The head and body of an answer whose body is `body`.
    async fn answer(connection: &mut TcpStream, body: &str) -> String {
        let mut answer = String::new();
        while !answer.ends_with(&format!("\r\n\r\n{body}")) {
            answer.push(connection.read_u8().await.unwrap().into());
        }
        answer
    }

    async fn ask(connection: &mut TcpStream) -> String {
        connection.write_all(REQUEST).await.unwrap();
        answer(connection, "hello").await
    }

    /// Waits until it is closed, whatever is said before.
    async fn closed(mut connection: impl AsyncReadExt + Unpin) {
        let end = time::timeout(Duration::from_secs(30), connection.read_to_end(&mut Vec::new())).await;
        end.expect("it is still open").ok();
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_is_given_up_however_it_trickles() {
        let (address, _shutdown, _running) = start(Limits { head: SHORT, ..PATIENT }).await;
        let half = b"GET / HTTP/1.1\r\nHost: a.example\r\nX: ";
        for beginning in [b"G", &half[..], &PREFACE[..10], &PREFACE[..23]] {
            let mut connection = TcpStream::connect(address).await.unwrap();
            connection.write_all(beginning).await.unwrap();
            closed(connection).await;
        }

        let (reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
        writer.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\nX: ").await.unwrap();
        let trickle = async {
            while writer.write_all(b"x").await.is_ok() {
                time::sleep(SHORT / 10).await;
            }
        };
        tokio::join!(closed(reader), trickle);
    }

    #[tokio::test]
    async fn the_second_head_on_a_connection_has_its_time_as_well() {
        let (address, _shutdown, _running) = start(Limits { head: SHORT, ..PATIENT }).await;
        let mut connection = TcpStream::connect(address).await.unwrap();
        ask(&mut connection).await;
        connection.write_all(&REQUEST[..20]).await.unwrap();
        closed(connection).await;
    }

    #[tokio::test]
    async fn a_kept_connection_may_be_idle_for_longer_than_a_head_may_take() {
        let (address, _shutdown, _running) = start(Limits { head: SHORT, ..PATIENT }).await;
        let mut connection = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            time::sleep(3 * SHORT).await;
            ask(&mut connection).await;
        }
        // The bytes of a body are no head.
        connection.write_all(b"PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nbo").await.unwrap();
        time::sleep(3 * SHORT).await;
        connection.write_all(b"dy").await.unwrap();
        answer(&mut connection, "body").await;
        time::sleep(3 * SHORT).await;
        ask(&mut connection).await;
    }

    #[tokio::test]
    async fn http2_without_a_request_is_kept_as_long_as_any_idle_connection() {
        const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        // Much longer than between the halves of the preface, which is a head until it is complete.
        let (head, idle) = (Duration::from_secs(2), Duration::from_secs(4));
        let (address, _shutdown, _running) = start(Limits { head, idle, ..PATIENT }).await;
        let silent = async |first: usize| {
            let mut connection = TcpStream::connect(address).await.unwrap();
            connection.set_nodelay(true).unwrap();
            let begun = Instant::now();
            connection.write_all(&PREFACE[..first]).await.unwrap();
            time::sleep(SHORT / 3).await;
            connection.write_all(&PREFACE[first..]).await.unwrap();
            connection.write_all(&SETTINGS).await.unwrap();
            closed(connection).await;
            assert!(begun.elapsed() >= idle, "{first}: closed after {:?}", begun.elapsed());
        };
        tokio::join!(silent(5), silent(PREFACE.len()));
    }

    #[tokio::test]
    async fn a_connection_that_nobody_uses_is_closed_after_its_time() {
        let (address, _shutdown, _running) = start(Limits { idle: SHORT, ..PATIENT }).await;
        let unused = TcpStream::connect(address).await.unwrap();
        closed(unused).await;
        let mut used = TcpStream::connect(address).await.unwrap();
        ask(&mut used).await;
        closed(used).await;
    }

    #[tokio::test]
    async fn one_connection_too_many_waits_until_another_ends() {
        let (address, _shutdown, _running) = start(Limits { most: 2, ..PATIENT }).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        ask(&mut first).await;
        // Half a head takes a place as well.
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(&REQUEST[..20]).await.unwrap();
        let mut third = TcpStream::connect(address).await.unwrap();
        third.write_all(REQUEST).await.unwrap();
        let early = time::timeout(SHORT, answer(&mut third, "hello")).await;
        assert!(early.is_err(), "it is answered while two are open");
        // One that is idle ends by itself in time; this one leaves.
        drop(first);
        answer(&mut third, "hello").await;
    }

    #[tokio::test]
    async fn a_request_names_the_address_of_its_client() {
        let (listener, address) = listen().await;
        let peer = async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string();
        let router = Router::new().route("/", get(peer));
        let _running = tokio::spawn(serve(listener, router, PATIENT, ShutdownHandle::default(), pending()));
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(REQUEST).await.unwrap();
        let own = connection.local_addr().unwrap().to_string();
        answer(&mut connection, &own).await;
    }

    #[tokio::test]
    async fn what_the_kernel_took_in_before_the_end_is_answered() {
        let (listener, address) = listen().await;
        let mut early = Vec::new();
        for _ in 0..20 {
            let mut connection = TcpStream::connect(address).await.unwrap();
            connection.write_all(REQUEST).await.unwrap();
            early.push(connection);
        }
        let shutdown = ShutdownHandle::default();
        shutdown.shutdown();
        let router = Router::new().route("/", get(async || "hello"));
        let running = tokio::spawn(serve(listener, router, PATIENT, shutdown, ready(())));
        for mut connection in early {
            let answer = answer(&mut connection, "hello").await;
            assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
            closed(connection).await;
        }
        running.await.unwrap();
    }

    #[tokio::test]
    async fn an_idle_connection_is_kept_until_no_more_are_accepted_and_then_for_a_last_request() {
        for last in [LONG, Duration::ZERO] {
            let (listener, address) = listen().await;
            let (shutdown, no_more) = (ShutdownHandle::default(), CancellationToken::new());
            let router = Router::new().route("/", get(async || "hello"));
            let limits = Limits { last, ..PATIENT };
            let running =
                tokio::spawn(serve(listener, router, limits, shutdown.clone(), no_more.clone().cancelled_owned()));
            let mut kept = Vec::new();
            for _ in 0..2 {
                let mut connection = TcpStream::connect(address).await.unwrap();
                assert!(!ask(&mut connection).await.contains("connection: close"));
                kept.push(connection);
            }
            shutdown.shutdown();
            // Still there, and told to go.
            let mut connection = kept.pop().unwrap();
            assert!(ask(&mut connection).await.contains("connection: close"));
            closed(connection).await;

            no_more.cancel();
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
            let mut connection = kept.pop().unwrap();
            if last == LONG {
                assert!(ask(&mut connection).await.contains("connection: close"));
            }
            closed(connection).await;
            running.await.unwrap();
        }
    }
}
