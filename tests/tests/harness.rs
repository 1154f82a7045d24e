//! The other suites lean on this harness, so its own promises are tested first.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::Arc,
    task::{Context, Wake, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use rustix::process::{Pid, test_kill_process};
use tests::{
    Direction, Failure, Fault, FaultProxy, Feed, HttpClient, Load, PostgresServer, RedisCluster, RedisSentinel,
    RedisServer, Unread, slot, wait_until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

mod feed {
    use super::*;

    const ROUNDS: usize = 10_000;

    #[tokio::test(flavor = "multi_thread")]
    async fn gives_a_body_its_frames_in_order_and_then_its_end() {
        let checksum = HeaderMap::from_iter([("x-sum".parse().unwrap(), "5".parse().unwrap())]);
        for _ in 0..ROUNDS {
            let (feed, body) = Feed::new();
            let reader = tokio::spawn(body.collect());
            feed.data("he").unwrap();
            feed.data("llo").unwrap();
            feed.trailers(checksum.clone()).unwrap();
            drop(feed);
            let whole = reader.await.unwrap().unwrap();
            assert_eq!(whole.trailers(), Some(&checksum));
            assert_eq!(whole.to_bytes(), "hello");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn that_breaks_off_fails_the_body_after_what_came_before() {
        for _ in 0..ROUNDS {
            let (feed, mut body) = Feed::new();
            let reader = tokio::spawn(async move {
                let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
                (first, body.frame().await.unwrap().unwrap_err(), body.frame().await.is_none())
            });
            feed.data("hello").unwrap();
            feed.abort(Failure("the disk is gone")).unwrap();
            assert_eq!(reader.await.unwrap(), ("hello".into(), Failure("the disk is gone"), true));
        }
    }

    /// A channel wakes its reader by the newest waker that it was polled with, and drops the one before it in the
    /// middle of the poll: no other moment is as bad.
    #[tokio::test]
    async fn that_lets_go_while_its_body_is_polled_loses_nothing() {
        struct LetsGo(Feed);

        impl Wake for LetsGo {
            fn wake(self: Arc<Self>) {}
        }

        impl Drop for LetsGo {
            fn drop(&mut self) {
                self.0.data("hello").unwrap();
            }
        }

        let (feed, mut body) = Feed::new();
        let waker = Waker::from(Arc::new(LetsGo(feed)));
        assert!(Pin::new(&mut body).poll_frame(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
    }

    #[test]
    fn hears_that_nobody_reads_on() {
        let (feed, body) = Feed::new();
        drop(body);
        assert_eq!(feed.data("hello"), Err(Unread));
        assert_eq!(feed.abort(Failure("the disk is gone")), Err(Unread));
    }
}

mod groups {
    use super::*;

    #[test]
    fn a_cluster_knows_where_each_key_is_and_where_it_went() {
        let mut cluster = RedisCluster::start(3, 0);
        let at = |cluster: &RedisCluster, key: &str| cluster.index_of(key);
        let key = "greeting";
        assert_eq!(cluster.primaries()[0].command::<u16>(&["CLUSTER", "KEYSLOT", key]), slot(key));
        assert_eq!(slot("a{greeting}b"), slot(key));

        let home = at(&cluster, key);
        cluster.primaries()[home].command::<()>(&["SET", key, "hello"]);
        let added = cluster.add_node();
        cluster.move_slot(slot(key), home, added);
        assert_eq!(cluster.node_mut(added).command::<String>(&["GET", key]), "hello");
        assert!(cluster.primaries()[home].keys().is_empty());
    }

    #[test]
    fn a_replica_in_a_cluster_takes_its_primarys_place() {
        let mut cluster = RedisCluster::start(3, 1);
        let home = cluster.index_of("greeting");
        cluster.primaries()[home].command::<()>(&["SET", "greeting", "hello"]);
        cluster.fail_over_to(3 + home);
        assert_eq!(cluster.node_mut(3 + home).command::<String>(&["GET", "greeting"]), "hello");
    }

    #[test]
    fn sentinels_promote_the_replica_when_told_and_when_the_primary_dies() {
        let mut group = RedisSentinel::builder().password("secret").sentinel_password("other").start();
        group.primary().command::<()>(&["SET", "greeting", "hello"]);
        let first = group.primary().port();
        group.fail_over();
        assert_ne!(group.primary().port(), first);
        assert_eq!(group.primary().command::<String>(&["GET", "greeting"]), "hello");
        // It must know the new one before it can be asked to follow.
        while group.replica().info("replication", "master_link_status") != "up" {
            std::thread::sleep(Duration::from_millis(10));
        }
        group.primary_mut().kill();
        group.wait_until_promoted();
        assert_eq!(group.primary().port(), first);
    }
}

mod servers {
    use super::*;

    #[tokio::test]
    async fn redis_answers_on_tcp_and_on_its_unix_socket() {
        let redis = RedisServer::start();
        redis.command::<()>(&["SET", "greeting", "hello"]);

        for url in [redis.url(), redis.unix_url()] {
            assert_eq!(greeting(&url).await.unwrap(), "hello", "{url}");
        }
        assert_eq!(redis.keys(), ["greeting"]);
        redis.flushall();
        assert!(redis.keys().is_empty());
    }

    #[tokio::test]
    async fn redis_turns_away_whoever_does_not_give_the_password() {
        let redis = RedisServer::builder().password("secret").start();
        redis.command::<()>(&["SET", "greeting", "hello"]);

        assert_eq!(greeting(&redis.url()).await.unwrap(), "hello");
        assert_eq!(greeting(&redis.unix_url()).await.unwrap(), "hello");
        assert!(greeting(&format!("redis://127.0.0.1:{}", redis.port())).await.is_err());
    }

    #[tokio::test]
    async fn redis_with_a_named_user_has_no_default_user() {
        let redis = RedisServer::builder().user("alice", "secret").start();
        redis.command::<()>(&["SET", "greeting", "hello"]);

        assert_eq!(greeting(&redis.url()).await.unwrap(), "hello");
        assert_eq!(greeting(&redis.unix_url()).await.unwrap(), "hello");
        assert!(greeting(&format!("redis://:secret@127.0.0.1:{}", redis.port())).await.is_err());
    }

    #[test]
    fn redis_takes_further_configuration() {
        let redis = RedisServer::builder().config("maxmemory 5mb").start();
        let setting: Vec<String> = redis.command(&["CONFIG", "GET", "maxmemory"]);
        assert_eq!(setting, ["maxmemory", "5242880"]);
    }

    #[test]
    fn a_killed_redis_refuses_connections_and_restarts_empty_on_its_port() {
        let mut redis = RedisServer::start();
        redis.command::<()>(&["SET", "greeting", "hello"]);
        let (port, first) = (redis.port(), redis.pid());

        redis.kill();
        assert!(!runs(first));
        std::net::TcpStream::connect(redis.addr()).unwrap_err();

        redis.restart();
        assert_eq!(redis.port(), port);
        assert_ne!(redis.pid(), first);
        assert!(redis.keys().is_empty());

        redis.command::<()>(&["SET", "greeting", "hello"]);
        redis.restart();
        assert!(redis.keys().is_empty(), "restart kills a server that runs");
    }

    #[tokio::test]
    async fn a_stopped_redis_accepts_and_answers_only_when_continued() {
        let redis = RedisServer::start();
        let mut connection = TcpStream::connect(redis.addr()).await.unwrap();

        redis.stop();
        connection.write_all(b"PING\r\n").await.unwrap();
        assert!(is_silent(&mut connection).await);
        TcpStream::connect(redis.addr()).await.unwrap();

        redis.cont();
        assert_eq!(read(&mut connection, 7).await, b"+PONG\r\n");
    }

    #[test]
    fn a_dropped_redis_is_gone_with_its_folder_even_while_it_is_stopped() {
        let redis = RedisServer::start();
        let (pid, folder) = (redis.pid(), redis.folder());
        redis.stop();
        drop(redis);
        assert!(!runs(pid));
        assert!(!folder.exists());
    }

    #[tokio::test]
    async fn postgres_speaks_its_protocol_and_is_gone_when_dropped() {
        let postgres = PostgresServer::start();
        let (pid, folder) = (postgres.pid(), postgres.folder());
        assert!(postgres.url().contains(&postgres.port().to_string()));

        // An SSLRequest is the one message that is answered without a session: by N, as there is no certificate.
        let mut connection = TcpStream::connect(("127.0.0.1", postgres.port())).await.unwrap();
        connection.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
        assert_eq!(read(&mut connection, 1).await, b"N");

        drop(postgres);
        assert!(!runs(pid));
        assert!(!folder.exists());
    }

    #[tokio::test]
    async fn a_killed_test_process_leaves_no_server_and_no_folder_behind() {
        let mut holder =
            Command::new(env!("CARGO_BIN_EXE_hold-servers-until-killed")).stdout(Stdio::piped()).spawn().unwrap();
        let servers = held_servers(&mut holder);
        assert_eq!(servers.len(), 2);
        for (pid, folder) in &servers {
            assert!(runs(*pid));
            assert!(Path::new(folder).exists());
        }

        holder.kill().unwrap();
        holder.wait().unwrap();
        for (pid, folder) in servers {
            wait_until("the server is gone", async || !runs(pid)).await;
            wait_until("its folder is gone", async || !Path::new(&folder).exists()).await;
        }
    }

    fn held_servers(holder: &mut Child) -> Vec<(i32, String)> {
        BufReader::new(holder.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap)
            .take_while(|line| line != "ready")
            .map(|line| {
                let (pid, folder) = line.split_once(' ').unwrap();
                (pid.parse().unwrap(), folder.to_owned())
            })
            .collect()
    }

    fn runs(pid: i32) -> bool {
        test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
    }

    async fn greeting(url: &str) -> redis::RedisResult<String> {
        let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
        redis::cmd("GET").arg("greeting").query_async(&mut connection).await
    }
}

mod fault_proxy {
    use super::*;

    #[tokio::test]
    async fn passes_both_directions_and_their_ends() {
        let proxy = FaultProxy::start(echo().await).await;
        let mut connection = TcpStream::connect(proxy.addr()).await.unwrap();
        connection.write_all(b"hello").await.unwrap();
        assert_eq!(read(&mut connection, 5).await, b"hello");
        connection.shutdown().await.unwrap();
        assert_ended(&mut connection).await;
    }

    #[tokio::test]
    async fn carries_more_than_any_buffer_holds() {
        let proxy = FaultProxy::start(echo().await).await;
        let (mut from, mut to) = TcpStream::connect(proxy.addr()).await.unwrap().into_split();
        let sent: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        tokio::spawn(async move { to.write_all(&sent).await });

        let mut received = vec![0; expected.len()];
        from.read_exact(&mut received).await.unwrap();
        assert!(received == expected, "the bytes changed on the way");
    }

    #[tokio::test]
    async fn delays_each_direction() {
        let mut proxy = FaultProxy::start(echo().await).await;
        let mut connection = TcpStream::connect(proxy.addr()).await.unwrap();
        let delay = Duration::from_millis(200);
        proxy.set(Fault::Delay(delay)).await;

        let sent = Instant::now();
        connection.write_all(b"hello").await.unwrap();
        assert_eq!(read(&mut connection, 5).await, b"hello");
        assert!(sent.elapsed() >= 2 * delay);
    }

    #[tokio::test]
    async fn a_black_hole_accepts_and_answers_nothing_and_closes_what_lost_bytes_when_it_ends() {
        let mut proxy = FaultProxy::start(echo().await).await;
        let mut open = TcpStream::connect(proxy.addr()).await.unwrap();
        let mut idle = TcpStream::connect(proxy.addr()).await.unwrap();
        proxy.set(Fault::BlackHole).await;

        let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
        for connection in [&mut open, &mut new] {
            connection.write_all(b"hello").await.unwrap();
            assert!(is_silent(connection).await);
        }

        proxy.set(Fault::Pass).await;
        assert_ended(&mut open).await;
        assert_ended(&mut new).await;
        idle.write_all(b"hello").await.unwrap();
        assert_eq!(read(&mut idle, 5).await, b"hello");
    }

    #[tokio::test]
    async fn swallows_one_direction_only() {
        let (target, mut heard) = listener_that_greets().await;
        let mut proxy = FaultProxy::start(target).await;

        proxy.set(Fault::Swallow(Direction::ToClient)).await;
        let mut connection = TcpStream::connect(proxy.addr()).await.unwrap();
        connection.write_all(b"one").await.unwrap();
        assert_eq!(heard.recv().await.unwrap(), b"one");
        assert!(is_silent(&mut connection).await);

        proxy.set(Fault::Swallow(Direction::ToServer)).await;
        let mut connection = TcpStream::connect(proxy.addr()).await.unwrap();
        connection.write_all(b"two").await.unwrap();
        assert_eq!(read(&mut connection, 7).await, b"welcome");
        assert!(heard.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_cut_closes_what_is_open_refuses_what_is_new_and_can_be_mended() {
        let mut proxy = FaultProxy::start(echo().await).await;
        let mut connection = TcpStream::connect(proxy.addr()).await.unwrap();
        connection.write_all(b"hello").await.unwrap();
        assert_eq!(read(&mut connection, 5).await, b"hello");

        proxy.set(Fault::Cut).await;
        assert_ended(&mut connection).await;
        let refused = TcpStream::connect(proxy.addr()).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

        proxy.set(Fault::Pass).await;
        let mut connection = TcpStream::connect(proxy.addr()).await.unwrap();
        connection.write_all(b"hello").await.unwrap();
        assert_eq!(read(&mut connection, 5).await, b"hello");
    }

    #[tokio::test]
    async fn truncates_the_answers() {
        let mut proxy = FaultProxy::start(echo().await).await;
        proxy.set(Fault::Truncate(3)).await;
        let mut connection = TcpStream::connect(proxy.addr()).await.unwrap();
        connection.write_all(b"hello").await.unwrap();
        assert_eq!(read(&mut connection, 3).await, b"hel");
        assert_ended(&mut connection).await;
    }

    #[tokio::test]
    async fn answers_junk() {
        let mut proxy = FaultProxy::start(echo().await).await;
        proxy.set(Fault::Junk(b"\xff\x00junk")).await;
        let mut connection = TcpStream::connect(proxy.addr()).await.unwrap();
        connection.write_all(b"hello").await.unwrap();
        assert_eq!(read(&mut connection, 6).await, b"\xff\x00junk");
    }

    #[tokio::test]
    async fn closes_the_connection_when_its_target_is_down() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let proxy = FaultProxy::start(free).await;
        let mut connection = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_ended(&mut connection).await;
    }

    /// Sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = connection.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        addr
    }

    /// Greets everyone, and reports what it hears.
    async fn listener_that_greets() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (heard, hears) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let heard = heard.clone();
                tokio::spawn(async move {
                    connection.write_all(b"welcome").await.unwrap();
                    let mut bytes = vec![0; 64];
                    while let Ok(read @ 1..) = connection.read(&mut bytes).await {
                        heard.send(bytes[..read].to_vec()).unwrap();
                    }
                });
            }
        });
        (addr, hears)
    }

    /// The other side closed or reset the connection, without one more byte.
    async fn assert_ended(connection: &mut TcpStream) {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(10), connection.read_to_end(&mut rest))
            .await
            .expect("the connection ends");
        assert_eq!(rest, b"");
    }
}

mod http_client {
    use super::*;

    #[tokio::test]
    async fn reads_status_headers_body_and_trailers() {
        let server = serve(axum::Router::new().route("/", axum::routing::get(with_trailers))).await;
        let response = HttpClient::new().get(&format!("http://{server}/"), &[("te", "trailers")]).await;

        assert_eq!(response.status, 200);
        assert_eq!(response.header("x-colour"), Some("green"));
        assert_eq!(response.text(), "hello");
        assert_eq!(response.trailers.unwrap()["x-sum"], "5");
    }

    #[tokio::test]
    async fn keeps_its_connection_or_not_as_told() {
        for (client, expected) in [(HttpClient::new(), 1), (HttpClient::without_keep_alive(), 3)] {
            let server = serve(axum::Router::new().route("/", axum::routing::get(|| async { "hello" }))).await;
            let (proxy, accepted) = counting_proxy(server).await;
            for _ in 0..3 {
                client.get(&format!("http://{proxy}/"), &[]).await;
            }
            assert_eq!(accepted.load(std::sync::atomic::Ordering::Relaxed), expected);
        }
    }

    #[tokio::test]
    async fn a_broken_body_is_an_error_and_not_a_short_answer() {
        let server = serve(axum::Router::new().route("/", axum::routing::get(|| async { "hello" }))).await;
        let mut proxy = FaultProxy::start(server).await;
        // Status line and headers are longer than this, and axum sends them with the body in one write.
        proxy.set(Fault::Truncate(100)).await;
        let url = format!("http://{}/", proxy.addr());
        let error = HttpClient::new().try_request(http::Method::GET, &url, &[], "").await.unwrap_err();
        assert!(error.to_string().contains(&url), "{error}");
    }

    #[tokio::test]
    async fn a_load_counts_what_its_clients_saw() {
        let router = axum::Router::new()
            .route("/good", axum::routing::get(|| async { ([("x-cache", "HIT")], "hello") }))
            .route("/bad", axum::routing::get(|| async { http::StatusCode::INTERNAL_SERVER_ERROR }));
        let server = serve(router).await;

        let load = Load::start(&HttpClient::new(), 3, &[format!("http://{server}/good")]);
        load.more(30).await;
        let report = load.stop().await;
        report.assert_no_failure();
        assert!(report.latencies.len() >= 30);
        assert_eq!(report.x_cache["HIT"], report.latencies.len());
        assert!(report.quantile(0.5) <= report.quantile(1.0));

        let load = Load::start(&HttpClient::new(), 3, &[format!("http://{server}/bad")]);
        load.more(30).await;
        assert!(load.stop().await.failures.len() >= 30);
    }

    async fn with_trailers() -> axum::response::Response {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "5".parse().unwrap());
        let frames = [Frame::data(Bytes::from_static(b"hello")), Frame::trailers(trailers)];
        let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
        axum::response::Response::builder()
            .header("x-colour", "green")
            .header("trailer", "x-sum")
            .body(axum::body::Body::new(body.boxed()))
            .unwrap()
    }

    async fn counting_proxy(target: SocketAddr) -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accepted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let mut server = TcpStream::connect(target).await.unwrap();
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
            }
        });
        (addr, accepted)
    }

    async fn serve(router: axum::Router) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        addr
    }
}

async fn read(connection: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    tokio::time::timeout(Duration::from_secs(10), connection.read_exact(&mut bytes))
        .await
        .expect("an answer within ten seconds")
        .expect("a whole answer");
    bytes
}

/// Nothing came for a while. It can miss a late answer, but it never takes silence for one.
async fn is_silent(connection: &mut TcpStream) -> bool {
    tokio::time::timeout(Duration::from_millis(300), connection.read_u8()).await.is_err()
}
