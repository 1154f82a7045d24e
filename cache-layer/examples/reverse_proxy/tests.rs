//! The proxy's own duties, over real connections.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use super::*;

/// So that a connection that stays open is a failed test and not a hung one.
const LIMIT: Duration = Duration::from_secs(60);

/// An origin that has one answer to everything, and the requests that it got.
struct Origin {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    /// Sends `answer` to each request, and closes the connection.
    async fn start(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, requests) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let (answer, log) = (answer.into(), requests.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (answer, log) = (answer.clone(), log.clone());
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !is_whole(&request) {
                        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "{}", request.escape_ascii());
                    }
                    log.lock().unwrap().push(String::from_utf8(request).unwrap());
                    // The proxy may have seen enough of it.
                    let _ = stream.write_all(&answer).await;
                });
            }
        });
        Self { address, requests }
    }

    fn take_request(&self) -> String {
        let mut requests = self.requests.lock().unwrap();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    match head.to_lowercase() {
        head if head.contains("transfer-encoding: chunked") => body.ends_with("0\r\n\r\n"),
        head if head.contains("content-length: 5") => body.len() >= 5,
        _ => true,
    }
}

/// Starts the proxy before this origin.
async fn proxy(origin: &Origin) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let arguments = ["reverse_proxy", "--listen", "127.0.0.1:0", "--header-timeout", "2", "--origin"];
    let origin = format!("http://{}", origin.address);
    let options = Options::parse_from(arguments.into_iter().chain([origin.as_str()]));
    let cache = cache(&options, None).await.unwrap();
    tokio::spawn(serve(listener, options, cache));
    address
}

/// Sends a request on a connection of its own, and reads all that comes until it is closed.
async fn ask(proxy: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("the connection is closed")?;
    Ok(String::from_utf8(answer).unwrap())
}

fn chunked(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

/// Breaks off one byte before the end of its only chunk.
fn cut(fields: &str, body: &str) -> String {
    let length = body.len() + 1;
    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{fields}\r\n{length:x}\r\n{body}")
}

#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let proxy = proxy(&Origin::start(chunked("whole")).await).await;
    let mut silent = TcpStream::connect(proxy).await.unwrap();
    silent.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n").await.unwrap();
    let mut slow = TcpStream::connect(proxy).await.unwrap();
    let begun = Instant::now();
    // A byte each while doesn't help.
    while slow.write_all(b"G").await.is_ok() && begun.elapsed() < LIMIT {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(begun.elapsed() < LIMIT, "a slow head is waited for");
    let mut rest = Vec::new();
    let closed = timeout(LIMIT, silent.read_to_end(&mut rest)).await;
    assert!(closed.is_ok() && rest.is_empty(), "half a head is waited for, or answered: {}", rest.escape_ascii());
}

#[tokio::test]
async fn a_request_names_its_host_once() {
    let origin = Origin::start(chunked("whole")).await;
    let proxy = proxy(&origin).await;
    let status = async |target: &str, version: &str, hosts: &[&str]| {
        let hosts: String = hosts.iter().map(|host| format!("host: {host}\r\n")).collect();
        let answer = ask(proxy, &format!("GET {target} {version}\r\n{hosts}connection: close\r\n\r\n")).await.unwrap();
        answer["HTTP/1.1 ".len()..][..3].to_owned()
    };
    for hosts in [
        &[][..],
        &["a", "a"],
        &["a", "b"],
        &["", "a"],
        &[""],
        &["user@a"],
        &["a b"],
        &["a/b"],
        &["a:b"],
        &["caf\u{e9}"],
    ] {
        assert_eq!(status("/", "HTTP/1.1", hosts).await, "400", "{hosts:?}");
    }
    // An absolute target is no reason to send two, or none.
    assert_eq!(status("http://a/", "HTTP/1.1", &["a", "b"]).await, "400");
    assert_eq!(status("http://a/", "HTTP/1.1", &[]).await, "400");
    assert_eq!(status("/", "HTTP/1.0", &["a", "b"]).await, "400");
    assert!(origin.requests.lock().unwrap().is_empty());
    for host in ["a", "a:8080", "127.0.0.1", "[::1]:80", "A.example."] {
        assert_eq!(status("/", "HTTP/1.1", &[host]).await, "200", "{host}");
    }
    assert_eq!(status("http://a/", "HTTP/1.1", &["b"]).await, "200");
    assert_eq!(status("/", "HTTP/1.0", &[]).await, "200");
}

#[tokio::test]
async fn a_request_keeps_its_body_whatever_its_method() {
    let origin = Origin::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let proxy = proxy(&origin).await;
    let send = async |method: &str, rest: &str| {
        let answer =
            ask(proxy, &format!("{method} / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{rest}")).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        origin.take_request()
    };
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
        let request = send(method, "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
        assert!(request.contains("transfer-encoding: chunked\r\n"), "{request}");
        assert!(request.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "{request}");
        let request = send(method, "content-length: 5\r\n\r\nhello").await;
        assert!(request.contains("content-length: 5\r\n") && request.ends_with("\r\n\r\nhello"), "{request}");
        assert!(!request.contains("transfer-encoding"), "{request}");
    }
    for method in ["GET", "HEAD", "DELETE"] {
        let request = send(method, "\r\n").await;
        assert!(!request.contains("transfer-encoding") && !request.contains("content-length"), "{request}");
    }
}

#[tokio::test]
async fn a_client_of_http_10_takes_no_broken_body_for_a_whole_one() {
    let get = async |origin: String| {
        let proxy = proxy(&Origin::start(origin).await).await;
        ask(proxy, "GET / HTTP/1.0\r\nhost: a\r\n\r\n").await
    };
    let large = "x".repeat(6 << 20);

    let whole = get(chunked("whole")).await.unwrap();
    assert!(whole.contains("content-length: 5\r\n") && whole.ends_with("\r\n\r\nwhole"), "{whole}");
    let broken = get(cut("", "a part")).await.unwrap();
    assert!(broken.starts_with("HTTP/1.0 502") && !broken.contains("a part"), "{broken}");

    let whole = get(chunked(&large)).await.unwrap();
    assert!(whole.ends_with(&large) && !whole.contains("content-length"));
    let broken = get(cut("", &large)).await.map(|answer| answer.len());
    assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_of_http_10_gets_events_as_they_come() {
    // What follows the event doesn't come: the origin closes only when the test is over.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = Origin { address: listener.local_addr().unwrap(), requests: Arc::default() };
    let proxy = proxy(&origin).await;
    let mut client = TcpStream::connect(proxy).await.unwrap();
    client.write_all(b"GET / HTTP/1.0\r\nhost: a\r\n\r\n").await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(cut("content-type: text/event-stream\r\n", "data: 1\n\n").as_bytes()).await.unwrap();

    let mut got = Vec::new();
    while !got.ends_with(b"data: 1\n\n") {
        let read = timeout(LIMIT, client.read_buf(&mut got)).await.expect("an event");
        assert_ne!(read.unwrap(), 0, "{}", got.escape_ascii());
    }
    drop(stream);
    let end = timeout(LIMIT, client.read_to_end(&mut got)).await.expect("an end");
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_rate_is_a_number_from_0_to_1() {
    assert_eq!(rate("0.001"), Ok(0.001));
    for odd in ["-1", "1.5", "NaN", "much", ""] {
        assert!(rate(odd).is_err(), "{odd}");
    }
}

#[cfg(feature = "encode")]
#[test]
fn a_coding_may_have_a_level() {
    let parse = |codings| {
        Options::try_parse_from([
            "proxy",
            "--listen",
            "127.0.0.1:0",
            "--origin",
            "http://127.0.0.1:1",
            "--encode",
            codings,
        ])
    };
    let usual = "zstd:3,br:5,gzip:6";
    assert_eq!(
        parse(usual).ok().and_then(|options| options.encode),
        "zstd,br,gzip".parse().ok(),
        "these are the defaults"
    );
    let leveled = parse("br:9,gzip").ok().and_then(|options| options.encode);
    assert_eq!(leveled, "br,gzip".parse::<Encode>().unwrap().level(cache_layer::Coding::Brotli, 9).ok());
    for (wrong, why) in [
        ("br:12", "level 12 of br: must be from 1 to 11"),
        ("br:high", "level high of br: must be from 1 to 11"),
        ("deflate", "must be one of zstd, br, gzip"),
        ("gzip,gzip:9", "coding gzip: is named twice"),
    ] {
        let error = parse(wrong).err().expect("an error").to_string();
        assert!(error.contains(why) && error.contains("--encode"), "{error}");
    }
}
