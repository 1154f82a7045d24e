//! 1xx responses on their way to a client (RFC 9110, section 15.2). hyper's client reports those that it receives, but its server
//! can't send any. So this module writes them to the connection itself, between one response and the next.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use hyper::{HeaderMap, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The most that is buffered for a client that doesn't read, in bytes; later interim responses are dropped.
const MAX_WAITING: usize = 64 << 10;

/// A client's connection.
pub(crate) struct Wire<T: Break> {
    stream: T,
    waiting: Arc<Mutex<Waiting>>,
}

/// A stream that can be closed so that the other side notices that the message is incomplete.
pub(crate) trait Break {
    /// From now on, closing the stream resets the connection.
    fn break_on_close(&self);
}

impl Break for TcpStream {
    fn break_on_close(&self) {
        // An error means that the client has gone.
        let _ = self.set_zero_linger();
    }
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// The server has written a part of a response: nothing else may be written now.
    in_response: bool,
    /// Counts the requests, so that the interim responses of one request are not sent for the next.
    request: u64,
    /// The connection's task, which writes.
    task: Option<Waker>,
    /// The response under way ends with the connection.
    open_end: bool,
}

impl<T: Break> Drop for Wire<T> {
    fn drop(&mut self) {
        if lock(&self.waiting).open_end {
            self.stream.break_on_close();
        }
    }
}

impl<T: Break> Wire<T> {
    pub(crate) fn new(stream: T) -> Self {
        Self { stream, waiting: Arc::default() }
    }

    /// The handle by which the requests of this connection begin.
    pub(crate) fn requests(&self) -> Requests {
        Requests(self.waiting.clone())
    }
}

/// The requests of one connection, which come one after the other.
#[derive(Clone)]
pub(crate) struct Requests(Arc<Mutex<Waiting>>);

impl Requests {
    pub(crate) fn begin(&self) -> Interim {
        Interim { request: lock(&self.0).request, waiting: self.0.clone() }
    }

    /// Records that the request has its final response.
    pub(crate) fn end(&self) {
        lock(&self.0).request += 1;
    }

    /// Records that the response ends with its connection: unless the connection is shut down in order, it is to be reset.
    pub(crate) fn end_with_connection(&self) {
        lock(&self.0).open_end = true;
    }
}

/// Takes the interim responses to one request, until it is answered. A background refresh may get more of them later, which are
/// dropped.
#[derive(Clone)]
pub(crate) struct Interim {
    request: u64,
    waiting: Arc<Mutex<Waiting>>,
}

impl Interim {
    pub(crate) fn send(&self, status: StatusCode, headers: &HeaderMap) {
        let reason = status.canonical_reason().unwrap_or_default();
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
        for (name, value) in headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
        head.extend_from_slice(b"\r\n");

        let mut waiting = lock(&self.waiting);
        let fits = waiting.bytes.len() + head.len() <= MAX_WAITING;
        // While a response is being written, only a pipelined request can be waiting, whose turn has not come.
        if waiting.request == self.request && !waiting.in_response && fits {
            waiting.bytes.append(&mut head);
            if let Some(task) = waiting.task.take() {
                task.wake();
            }
        }
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: AsyncWrite + Break + Unpin> Wire<T> {
    /// Writes the buffered interim responses completely, before anything else.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut waiting = lock(&self.waiting);
        while !waiting.bytes.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &waiting.bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            waiting.bytes.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Break + Unpin> AsyncRead for Wire<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Break + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        lock(&self.waiting).in_response = true;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        lock(&self.waiting).in_response = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper calls this whenever its task is woken, after it has written all that it had.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        {
            let mut waiting = lock(&self.waiting);
            waiting.in_response = false;
            waiting.task = Some(cx.waker().clone());
        }
        ready!(self.poll_interim(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// hyper calls this once all is written, but not after a body that failed.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.waiting).open_end = false;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::{Response, body::Incoming, server, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    impl Break for DuplexStream {
        fn break_on_close(&self) {}
    }

    /// A connection whose server sends two interim responses to each request, and one that comes too late.
    fn connect() -> DuplexStream {
        let (client, server) = tokio::io::duplex(1024);
        let wire = Wire::new(server);
        let requests = wire.requests();
        let serve = service_fn(move |_: hyper::Request<Incoming>| {
            let requests = requests.clone();
            async move {
                let interim = requests.begin();
                let mut hints = HeaderMap::new();
                hints.append("link", "</a.css>; rel=preload".parse().unwrap());
                hints.append("link", "</b.css>; rel=preload".parse().unwrap());
                interim.send(StatusCode::PROCESSING, &HeaderMap::new());
                tokio::task::yield_now().await;
                interim.send(StatusCode::EARLY_HINTS, &hints);
                requests.end();
                interim.send(StatusCode::PROCESSING, &HeaderMap::new());
                Ok::<_, Infallible>(Response::new("whole".to_owned()))
            }
        });
        tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(wire), serve));
        client
    }

    async fn read_until_whole(client: &mut DuplexStream) -> Vec<String> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"whole") {
            bytes.push(client.read_u8().await.unwrap());
        }
        let text = String::from_utf8(bytes).unwrap();
        text.split("\r\n")
            .filter(|line| line.starts_with("HTTP") || line.starts_with("link"))
            .map(str::to_owned)
            .collect()
    }

    const EXPECTED: [&str; 5] = [
        "HTTP/1.1 102 Processing",
        "HTTP/1.1 103 Early Hints",
        "link: </a.css>; rel=preload",
        "link: </b.css>; rel=preload",
        "HTTP/1.1 200 OK",
    ];

    #[tokio::test]
    async fn interim_responses_come_before_the_final_one_and_none_after_it() {
        let mut client = connect();
        for _ in 0..3 {
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            assert_eq!(read_until_whole(&mut client).await, EXPECTED);
        }
    }

    #[tokio::test]
    async fn one_does_not_wait_for_the_final_response() {
        let (mut client, server) = tokio::io::duplex(1024);
        let wire = Wire::new(server);
        let requests = wire.requests();
        let serve = service_fn(move |_: hyper::Request<Incoming>| {
            requests.begin().send(StatusCode::PROCESSING, &HeaderMap::new());
            std::future::pending::<Result<Response<String>, Infallible>>()
        });
        tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(wire), serve));
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut head = [0; 27];
        client.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 102 Processing\r\n\r\n");
    }

    #[tokio::test]
    async fn what_a_client_does_not_read_is_bounded() {
        let wire = Wire::new(tokio::io::duplex(1).0);
        let interim = wire.requests().begin();
        let mut large = HeaderMap::new();
        large.append("x", "y".repeat(1000).parse().unwrap());
        for _ in 0..100 {
            interim.send(StatusCode::EARLY_HINTS, &large);
        }
        let length = lock(&wire.waiting).bytes.len();
        assert!((MAX_WAITING - 2000..=MAX_WAITING).contains(&length), "{length}");
    }
}
