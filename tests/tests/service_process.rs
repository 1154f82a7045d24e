//! The service's binary as people and orchestrators run it: environment in, log, signals and exit codes out.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use serde_json::json;
use tests::{HttpClient, Load, RedisServer, ServiceProcess, wait_until};
use tokio::task::JoinSet;

const SERVICE: &str = env!("CARGO_BIN_EXE_service-under-test");

mod start {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn without_any_configuration_answers_a_miss_and_then_a_hit() {
        let service = ServiceProcess::start(SERVICE, &[]);
        let client = HttpClient::new();
        let url = format!("{}/api/products/42", service.url());

        let miss = client.get(&url, &[]).await;
        assert_eq!(miss.status, 200);
        assert_eq!(miss.x_cache(), "MISS");
        assert_eq!(miss.json()["id"], 42);

        wait_until("the second answer is a hit", async || client.get(&url, &[]).await.x_cache() == "HIT").await;
        let hit = client.get(&url, &[]).await;
        assert!(hit.header("age").unwrap().parse::<u64>().is_ok());
        assert_eq!(hit.body, miss.body);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_a_cache_needs_no_redis_and_keeps_nothing() {
        let redis = RedisServer::start();
        let variables = [("APP_CACHE", "off"), ("APP_REDIS_URL", &redis.url())];
        let connections = || redis.info("stats", "total_connections_received").parse::<u64>().unwrap();
        let before = connections();
        let service = ServiceProcess::start(SERVICE, &variables);
        assert!(service.log().contains("cache off"), "{}", service.log());
        let client = HttpClient::new();
        let url = format!("{}/api/products/42", service.url());
        for _ in 0..3 {
            let answer = client.get(&url, &[]).await;
            assert_eq!((answer.status, answer.header("x-cache"), answer.header("age")), (StatusCode::OK, None, None));
        }
        assert_eq!(connections(), before + 1, "of this test alone");
        let metrics = client.get(&format!("{}/metrics", service.url()), &[]).await;
        let metrics = metrics.text();
        assert!(metrics.contains("http_server") && !metrics.contains("cache_layer"), "{metrics}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn finds_the_products_that_the_run_before_it_left() {
        let mut service = ServiceProcess::start(SERVICE, &[]);
        let client = HttpClient::new();
        let kettle = json!({"name": "Kettle", "price": 19.99, "category": "kitchen", "stock": 7});
        let added = client.send_json(Method::POST, &format!("{}/api/products", service.url()), &kettle).await;
        assert_eq!(added.status, 201, "{}", added.text());
        let path = added.header("location").unwrap();

        service.terminate();
        assert_eq!(service.wait(), 0, "{}", service.log());
        service.restart();
        let found = client.get(&format!("{}{path}", service.url()), &[]).await;
        assert_eq!(found.json(), added.json());
        let list = client.get(&format!("{}/api/products", service.url()), &[]).await;
        assert_eq!(list.json()["total"], 101);
    }

    #[test]
    fn with_a_wrong_setting_is_one_line_and_exit_code_2() {
        for (variable, value, allowed) in [
            ("APP_LISTEN", "localhost", "IP address"),
            ("APP_DATABASE_URL", "mysql://db/products", "postgres://"),
            ("APP_REDIS_URL", "http://redis", "redis://"),
            ("APP_REDIS_CONNECTIONS", "0", "1"),
            ("APP_CACHE_PREFIX", "a b", "letters"),
            ("APP_CACHE_DEFAULT_TTL", "soon", "30s"),
            ("APP_CACHE_LOCK_TIMEOUT", "-5", "30s"),
            ("APP_CACHE_PATHS", "api", "/api"),
            ("APP_HEADER_TIMEOUT", "0s", "more than 0"),
            ("APP_IDLE_TIMEOUT", "never", "30s"),
        ] {
            let output = run(&[(variable, value)]);
            let line = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{line}");
            assert_eq!(line.lines().count(), 1, "{line}");
            assert!(line.contains(variable) && line.contains(allowed), "{line}");
            assert!(line.contains(value) || variable.ends_with("_URL"), "{line}");
        }
    }

    #[test]
    fn with_a_wrong_redis_url_keeps_its_password() {
        let output = run(&[("APP_REDIS_URL", "redis://:hunter2@cache:not-a-port/0")]);
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(line.contains("APP_REDIS_URL") && !line.contains("hunter2"), "{line}");
    }

    #[test]
    fn with_something_in_the_way_is_one_line_and_exit_code_1() {
        let occupant = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let occupied = occupant.local_addr().unwrap().to_string();
        for variables in [
            [("APP_LISTEN", occupied.as_str()), ("APP_DATABASE_URL", "sqlite::memory:")],
            [("APP_LISTEN", "127.0.0.1:0"), ("APP_DATABASE_URL", "sqlite:///no/such/folder/products.db")],
        ] {
            let output = run(&variables);
            let line = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{line}");
            assert_eq!(line.lines().count(), 1, "{line}");
        }
    }

    #[test]
    fn help_lists_the_variables_with_their_defaults() {
        let output = Command::new(SERVICE).arg("--help").env_clear().output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let help = String::from_utf8(output.stdout).unwrap();
        for expected in [
            "APP_LISTEN",
            "APP_DATABASE_URL",
            "APP_REDIS_URL",
            "APP_REDIS_CONNECTIONS",
            "APP_CACHE_PREFIX",
            "APP_CACHE_DEFAULT_TTL",
            "APP_CACHE_LOCK_TIMEOUT",
            "APP_CACHE_PATHS",
            "[default: 300s]",
            "[default: 5s]",
        ] {
            assert!(help.contains(expected), "{expected} is missing in\n{help}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn is_healthy_to_the_check_whatever_has_become_of_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let [rules, token] = ["rules.toml", "token"].map(|name| folder.path().join(name));
        std::fs::write(&rules, "rule = []\n").unwrap();
        std::fs::write(&token, "a-token-of-some-length").unwrap();
        let variables = [
            ("APP_CACHE_RULES", rules.to_str().unwrap()),
            ("APP_ADMIN_TOKEN_FILE", token.to_str().unwrap()),
            ("APP_ADMIN_LISTEN", "127.0.0.1:0"),
        ];
        let mut service = ServiceProcess::start(SERVICE, &variables);
        let check = || {
            let address = service.addr().to_string();
            let mut check = Command::new(SERVICE);
            check.arg("--healthcheck").env_clear().envs(variables).env("APP_LISTEN", address);
            check.output().unwrap()
        };
        // A check gives up after three seconds, and is made again by who asks.
        let is_healthy = async || check().status.code() == Some(0);
        wait_until("it is healthy", is_healthy).await;
        std::fs::write(&rules, "[[rule]]\npath = \"/a\"\nttl = \"soon\"\n").unwrap();
        std::fs::write(&token, "").unwrap();
        wait_until("it is healthy though both files are wrong", is_healthy).await;
        std::fs::remove_file(&rules).unwrap();
        wait_until("it is healthy though a file is gone", is_healthy).await;
        let address = service.addr();
        service.kill();
        let output =
            Command::new(SERVICE).args(["--healthcheck", "--listen", &address.to_string()]).env_clear().output();
        assert_eq!(output.unwrap().status.code(), Some(1));
    }

    /// For starts that fail: runs the service to its end.
    pub(super) fn run(variables: &[(&str, &str)]) -> Output {
        Command::new("timeout")
            .args(["20", SERVICE])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs(variables.iter().copied())
            .current_dir(tempfile::tempdir().unwrap().path())
            .output()
            .unwrap()
    }
}

mod sigterm {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn lets_a_request_in_flight_finish_and_ends_with_exit_code_0() {
        let mut service = ServiceProcess::start(SERVICE, &[]);
        let body = json!({"name": "Kettle", "price": 19.99, "category": "kitchen", "stock": 7}).to_string();
        let mut connection = TcpStream::connect(service.addr()).unwrap();
        write!(
            connection,
            "POST /api/products HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
            body.len()
        )
        .unwrap();
        // The service sends this only once it waits for the body.
        read_until(&mut connection, "100 Continue\r\n\r\n");

        service.terminate();
        wait_until("the service accepts no more", async || TcpStream::connect(service.addr()).is_err()).await;

        connection.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        assert!(answer.contains("Kettle"), "{answer}");
        assert_eq!(service.wait(), 0, "{}", service.log());
    }

    /// A connection, which comes within as long as the service may take.
    fn accepted(listener: &std::net::TcpListener) -> TcpStream {
        listener.set_nonblocking(true).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match listener.accept() {
                Ok((connection, _)) => return connection,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("nothing connects to {listener:?}: {error}"),
            }
        }
    }

    #[test]
    fn ends_a_start_that_waits_for_redis_and_the_database() {
        let silent = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let [redis, database] = silent.each_ref().map(|silent| silent.local_addr().unwrap());
        // It passes the signal on, and ends the service if that doesn't end by itself. By default it would pass it on twice.
        let starting = Command::new("timeout")
            .args(["--foreground", "--signal=KILL", "20", SERVICE])
            .env_clear()
            .env("APP_LISTEN", "127.0.0.1:0")
            .env("APP_REDIS_URL", format!("redis://{redis}"))
            .env("APP_DATABASE_URL", format!("postgres://me@{database}/products"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _connections = silent.each_ref().map(accepted);
        rustix::process::kill_process(rustix::process::Pid::from_child(&starting), rustix::process::Signal::TERM)
            .unwrap();
        let output = starting.wait_with_output().unwrap();
        let log = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{log}{}", String::from_utf8_lossy(&output.stderr));
        assert!(log.contains("stopped before it listened"), "{log}");
        assert!(!log.contains("starting without Redis"), "{log}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn cuts_off_a_request_that_does_not_finish() {
        let mut service = ServiceProcess::start(SERVICE, &[("APP_SHUTDOWN_TIMEOUT", "100ms")]);
        let mut connection = TcpStream::connect(service.addr()).unwrap();
        let head = "POST /api/products HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                    Content-Length: 9\r\nExpect: 100-continue\r\n\r\n";
        connection.write_all(head.as_bytes()).unwrap();
        read_until(&mut connection, "100 Continue\r\n\r\n");
        service.terminate();
        assert_eq!(service.wait(), 0, "{}", service.log());
        assert!(service.log().contains("requests still ran after 100ms"), "{}", service.log());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn makes_it_unready_before_it_stops_to_accept() {
        let mut service = ServiceProcess::start(SERVICE, &[("APP_SHUTDOWN_DELAY", "8s")]);
        let client = HttpClient::without_keep_alive();
        let ready = format!("{}/health/ready", service.url());
        assert_eq!(client.get(&ready, &[]).await.status, 200);

        service.terminate();
        wait_until("it is unready", async || client.get(&ready, &[]).await.status == 503).await;
        let live = client.get(&format!("{}/health/live", service.url()), &[]).await;
        assert_eq!(live.status, 200);
        assert_eq!(service.wait(), 0, "{}", service.log());
    }

    /// Behind what a load balancer does: it asks every replica whether it is ready, and sends requests to those that are.
    #[tokio::test(flavor = "multi_thread")]
    async fn under_load_fails_no_request_of_those_who_go_by_readiness() {
        let start = || ServiceProcess::start(SERVICE, &[("APP_SHUTDOWN_DELAY", "5s")]);
        let (mut first, second) = (start(), start());
        let urls = [first.url(), second.url()];
        let first_is_ready = Arc::new(AtomicBool::new(true));
        let (client, answers) = (HttpClient::new(), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for number in 0..16 {
            let (client, urls) = (client.clone(), urls.clone());
            let (first_is_ready, answers) = (first_is_ready.clone(), answers.clone());
            clients.spawn(async move {
                for id in (1..=100).cycle() {
                    let replica = usize::from(number % 2 == 1 || !first_is_ready.load(Ordering::SeqCst));
                    let answer = client.get(&format!("{}/api/products/{id}", urls[replica]), &[]).await;
                    assert_eq!(answer.status, 200);
                    answers.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let more = async |count| {
            let wanted = answers.load(Ordering::SeqCst) + count;
            wait_until("there are more answers", async || answers.load(Ordering::SeqCst) >= wanted).await;
        };
        more(500).await;
        first.terminate();
        let ready = format!("{}/health/ready", urls[0]);
        wait_until("it is unready", async || client.get(&ready, &[]).await.status == 503).await;
        first_is_ready.store(false, Ordering::SeqCst);
        assert_eq!(tokio::task::block_in_place(|| first.wait()), 0, "{}", first.log());
        more(500).await;
        assert!(clients.try_join_next().is_none(), "a request failed");
    }

    /// As behind a Kubernetes Service: a client that keeps a connection stays with its replica, ready or not, until it is closed.
    #[tokio::test(flavor = "multi_thread")]
    async fn under_kept_connections_fails_no_request_though_nobody_tries_again() {
        let start = || ServiceProcess::start(SERVICE, &[("APP_SHUTDOWN_DELAY", "5s")]);
        let (mut ending, staying) = (start(), start());
        let replicas = [ending.addr(), staying.addr()];
        let (ended, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for number in 0..24_u64 {
            let (ended, begun) = (ended.clone(), begun.clone());
            clients.spawn_blocking(move || {
                let balanced = || replicas[usize::from(ended.load(Ordering::SeqCst))];
                let mut connection = Kept::connect(replicas[0]);
                let mut kept = connection.ask(1 + number);
                begun.fetch_add(1, Ordering::SeqCst);
                let mut then = 0;
                while then < 20 {
                    if !kept {
                        connection = Kept::connect(balanced());
                    }
                    // Some never pause, some for longer than a round trip takes.
                    std::thread::sleep(Duration::from_millis(number % 4 * 20));
                    kept = connection.ask(1 + number);
                    then += usize::from(ended.load(Ordering::SeqCst));
                }
                connection.peer == replicas[1]
            });
        }
        wait_until("every client has a connection", async || begun.load(Ordering::SeqCst) == 24).await;
        ending.terminate();
        let (client, ready) = (HttpClient::without_keep_alive(), format!("{}/health/ready", ending.url()));
        wait_until("it is unready", async || client.get(&ready, &[]).await.status == 503).await;
        ended.store(true, Ordering::SeqCst);
        while let Some(client) = clients.join_next().await {
            assert!(client.expect("no request failed"), "a client stayed with the replica that ended");
        }
        assert_eq!(tokio::task::block_in_place(|| ending.wait()), 0, "{}", ending.log());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tells_http_2_at_once_and_answers_what_is_on_its_way() {
        let mut service = ServiceProcess::start(SERVICE, &[("APP_SHUTDOWN_DELAY", "600s")]);
        let ask = |path: &str| {
            let uri = format!("http://{}{path}", service.addr());
            http::Request::get(uri).body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap()
        };
        let connect = async || {
            let stream = tokio::net::TcpStream::connect(service.addr()).await.unwrap();
            let executor = hyper_util::rt::TokioExecutor::new();
            let io = hyper_util::rt::TokioIo::new(stream);
            let (requests, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
            (requests, tokio::spawn(connection))
        };
        let (mut before, before_ended) = connect().await;
        assert_eq!(before.send_request(ask("/api/products/1")).await.unwrap().status(), 200);
        service.terminate();
        // GOAWAY: long before the delay is over.
        tokio::time::timeout(Duration::from_secs(30), before_ended).await.expect("it ends").unwrap().unwrap();

        let (mut during, during_ended) = connect().await;
        let answer = during.send_request(ask("/health/ready")).await.unwrap();
        assert_eq!(answer.status(), 503);
        assert!(!answer.headers().contains_key("connection"));
        tokio::time::timeout(Duration::from_secs(30), during_ended).await.expect("it ends").unwrap().unwrap();
        service.kill();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn flushes_what_the_cache_has_still_to_write() {
        let redis = RedisServer::start();
        let variables = [("APP_REDIS_URL", redis.url()), ("APP_REDIS_TIMEOUT", "5s".to_owned())];
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        let mut service = ServiceProcess::start(SERVICE, &variables);
        let client = HttpClient::without_keep_alive();
        let mut cut_short = 0;
        for id in 1..=10 {
            let warm = format!("{}/api/products/100", service.url());
            wait_until("there is a hit", async || client.get(&warm, &[]).await.x_cache() == "HIT").await;

            let path = format!("/api/products/{id}");
            let answer = client.get(&format!("{}{path}", service.url()), &[]).await;
            assert_eq!(answer.x_cache(), "MISS");
            let before = service.log().len();
            service.terminate();
            assert_eq!(service.wait(), 0, "{}", service.log());
            // It takes two seconds at most, and says so if that was not enough: on a machine that has other things to do.
            if service.log()[before..].contains("stopped before the cache") {
                cut_short += 1;
                assert!(cut_short <= 3, "{}", service.log());
            } else {
                let keys = redis.keys();
                assert!(keys.iter().any(|key| key.ends_with(&path)), "{path} is not among {keys:?}");
            }
            service.restart();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn ends_it_even_while_redis_is_frozen() {
        let redis = RedisServer::start();
        let mut service = ServiceProcess::start(SERVICE, &[("APP_REDIS_URL", &redis.url())]);
        let client = HttpClient::without_keep_alive();
        let url = format!("{}/api/products/1", service.url());
        wait_until("there is a hit", async || client.get(&url, &[]).await.x_cache() == "HIT").await;

        redis.stop();
        assert_eq!(client.get(&url, &[]).await.status, 200);
        service.terminate();
        assert_eq!(service.wait(), 0, "{}", service.log());
    }
}

mod limits {
    use super::*;

    #[test]
    fn half_a_head_is_not_held_for_ever() {
        let service = ServiceProcess::start(SERVICE, &[("APP_HEADER_TIMEOUT", "300ms")]);
        let mut connection = TcpStream::connect(service.addr()).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        connection.write_all(b"GET /api/products HTTP/1.1\r\nHost: lo").unwrap();
        assert_eq!(connection.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_request_without_a_host_or_with_two_is_400_as_problem_details() {
        let service = ServiceProcess::start(SERVICE, &[]);
        for (version, hosts, status) in [
            ("1.1", "", "400"),
            ("1.1", "Host: a.example\r\nHost: b.example\r\n", "400"),
            ("1.1", "Host: a.example\r\nHOST: a.example\r\n", "400"),
            ("1.1", "Host: a b\r\n", "400"),
            ("1.1", "Host: a.example\r\n", "200"),
            ("1.0", "", "200"),
            ("1.0", "Host: a.example\r\n", "200"),
        ] {
            let mut connection = TcpStream::connect(service.addr()).unwrap();
            write!(connection, "GET /api/products/1 HTTP/{version}\r\n{hosts}Connection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            connection.read_to_string(&mut answer).unwrap();
            assert_eq!(&answer[9..12], status, "{version} {hosts:?}: {answer}");
            assert_eq!(answer.contains("application/problem+json"), status == "400", "{answer}");
        }
    }
}

mod log {
    use super::*;

    fn lines(service: &ServiceProcess, text: &str) -> usize {
        service.log().lines().filter(|line| line.contains(text)).count()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn has_not_a_line_for_every_write_while_redis_is_away() {
        const UNTOLD: &str = "but the cache could not be told yet";
        let mut redis = RedisServer::start();
        let service = ServiceProcess::start(SERVICE, &[("APP_REDIS_URL", &redis.url())]);
        let client = HttpClient::new();
        redis.kill();
        let (began, mut writes) = (Instant::now(), 0);
        while lines(&service, UNTOLD) == 0 || writes < 60 {
            let pot = json!({"name": "Pot", "price": 1, "category": "kitchen", "stock": writes});
            let url = format!("{}/api/products/{}", service.url(), 1 + writes % 100);
            assert_eq!(client.send_json(Method::PUT, &url, &pot).await.status, 200);
            writes += 1;
        }
        // At most one line in ten seconds.
        let most = 1 + began.elapsed().as_secs() / 10;
        assert!(lines(&service, UNTOLD) as u64 <= most, "{}", service.log());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn says_once_in_a_while_that_the_database_is_gone_and_every_answer_is_the_same() {
        let service = ServiceProcess::start(SERVICE, &[]);
        let client = HttpClient::new();
        let hit = format!("{}/api/products/1", service.url());
        wait_until("there is a hit", async || client.get(&hit, &[]).await.x_cache() == "HIT").await;
        let ready = format!("{}/health/ready", service.url());
        assert_eq!(client.get(&ready, &[]).await.status, 200);

        let (file, elsewhere) = (service.folder().join("products.db"), service.folder().join("elsewhere.db"));
        std::fs::rename(&file, &elsewhere).unwrap();
        let began = Instant::now();
        let pot = json!({"name": "Pot", "price": 1, "category": "kitchen", "stock": 1});
        for path in
            ["/api/products", "/api/products?page=2", "/api/products/2", "/api/products/4711", "/api/categories"]
        {
            let answer = client.get(&format!("{}{path}", service.url()), &[]).await;
            assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, Some("5")), "{path}");
        }
        for (method, path) in [(Method::PUT, "/api/products/2"), (Method::POST, "/api/products")] {
            let answer = client.send_json(method, &format!("{}{path}", service.url()), &pot).await;
            assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, Some("5")), "{path}");
        }
        assert_eq!(client.get(&hit, &[]).await.x_cache(), "HIT", "what is kept is served");
        assert_eq!(client.get(&ready, &[]).await.status, 503);
        let health = client.get(&format!("{}/health", service.url()), &[]).await;
        assert_eq!(health.json()["database"]["connected"], false);
        assert!(!file.exists(), "nothing is made in its place");
        let most = 1 + began.elapsed().as_secs() / 10;
        assert!(lines(&service, "requests fail for want of the database") as u64 <= most, "{}", service.log());

        std::fs::rename(&elsewhere, &file).unwrap();
        for url in [ready, format!("{}/api/products/2", service.url())] {
            let answer = async || client.try_request(Method::GET, &url, &[], "").await;
            wait_until("all is well again", async || answer().await.is_ok_and(|answer| answer.status == 200)).await;
        }
    }
}

/// A connection that is kept for as long as the server lets it, and what is asked on it.
struct Kept {
    connection: BufReader<TcpStream>,
    peer: SocketAddr,
}

impl Kept {
    fn connect(peer: SocketAddr) -> Self {
        let connection = TcpStream::connect(peer).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { connection: BufReader::new(connection), peer }
    }

    /// Whether the connection may be used again. Panics if there is no whole answer.
    fn ask(&mut self, id: u64) -> bool {
        let request = format!("GET /api/products/{id} HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        self.connection.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut kept, mut length, mut status) = (true, None, None);
        loop {
            let mut line = String::new();
            assert_ne!(self.connection.read_line(&mut line).unwrap(), 0, "cut off");
            match line.trim_end().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().ok(),
                Some(("connection", value)) => kept = value != "close",
                None if line.starts_with("HTTP/1.1 ") => status = line.get(9..12).map(str::to_owned),
                None if line == "\r\n" => break,
                _ => {}
            }
        }
        let mut body = vec![0; length.expect("a length")];
        self.connection.read_exact(&mut body).unwrap();
        assert_eq!(status.as_deref(), Some("200"));
        kept
    }
}

fn read_until(connection: &mut TcpStream, end: &str) {
    connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut seen = String::new();
    let mut byte = [0];
    while !seen.ends_with(end) {
        connection.read_exact(&mut byte).unwrap();
        seen.push(byte[0].into());
    }
}

/// The operator's port.
mod admin {
    use std::fs;

    use super::*;

    const TOKEN: &str = "a-token-of-some-length";

    fn service(folder: &tempfile::TempDir, variables: &[(&str, &str)]) -> ServiceProcess {
        let token = folder.path().join("token");
        fs::write(&token, TOKEN).unwrap();
        let known = [("APP_ADMIN_LISTEN", "127.0.0.1:0"), ("APP_ADMIN_TOKEN_FILE", token.to_str().unwrap())];
        ServiceProcess::start(SERVICE, &[&known[..], variables].concat())
    }

    /// The address in the log.
    fn address(service: &ServiceProcess) -> SocketAddr {
        let log = service.log();
        let (_, rest) = log.split_once("operator's page is at http://").unwrap_or_else(|| panic!("{log}"));
        rest.split_whitespace().next().unwrap().parse().unwrap()
    }

    async fn status(client: &HttpClient, at: SocketAddr, token: &str) -> u16 {
        let bearer = format!("Bearer {token}");
        client.get(&format!("http://{at}/api/stats"), &[("authorization", &bearer)]).await.status.as_u16()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn connections_without_a_request_end_and_make_room_for_others() {
        let folder = tempfile::tempdir().unwrap();
        let service = service(&folder, &[("APP_HEADER_TIMEOUT", "300ms"), ("APP_IDLE_TIMEOUT", "300ms")]);
        let at = address(&service);
        let open = |number: usize| {
            let mut connection = TcpStream::connect(at).unwrap();
            connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            if number.is_multiple_of(2) {
                connection.write_all(b"GET /api/stats HTTP/1.1\r\nHost: lo").unwrap();
            }
            connection
        };
        let connections: Vec<_> = (0..200).map(open).collect();
        let client = HttpClient::new();
        assert_eq!(client.get(&format!("{}/api/products/1", service.url()), &[]).await.status, 200);
        for mut connection in connections {
            // Closed or reset.
            assert!(!matches!(connection.read(&mut [0]), Ok(1..)), "an answer without a request");
        }
        assert_eq!(status(&client, at, TOKEN).await, 200);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_purge_is_recorded_with_the_address_of_its_client() {
        let folder = tempfile::tempdir().unwrap();
        let service = service(&folder, &[("APP_ADMIN_PURGE", "/api")]);
        let mut connection = TcpStream::connect(service.addr()).unwrap();
        write!(
            connection,
            "PURGE /api/products/1 HTTP/1.1\r\nHost: a.example\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert_eq!(&answer[9..12], "200", "{answer}");
        let audit =
            HttpClient::new().get(&format!("http://{}/api/audit?by=method", address(&service)), &[]).await.json();
        assert_eq!(
            (&audit[0]["what"], &audit[0]["from"]),
            (&json!("http://a.example/api/products/1"), &json!("127.0.0.1"))
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_token_is_replaced_with_its_file_and_without_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let service = service(&folder, &[]);
        let (at, client) = (address(&service), HttpClient::new());
        assert_eq!(status(&client, at, TOKEN).await, 200);
        let put = |token: &str| {
            fs::write(folder.path().join("new"), token).unwrap();
            fs::rename(folder.path().join("new"), folder.path().join("token")).unwrap();
        };
        // Both, for as long as clients change from one to the other.
        put(&format!("another-token-of-some-length\n{TOKEN}\n"));
        wait_until("the new one is taken", async || status(&client, at, "another-token-of-some-length").await == 200)
            .await;
        assert_eq!(status(&client, at, TOKEN).await, 200);
        put("another-token-of-some-length\n");
        wait_until("the former one is refused", async || status(&client, at, TOKEN).await == 401).await;
        assert_eq!(status(&client, at, "another-token-of-some-length").await, 200);
        put("short");
        wait_until("it is not taken", async || service.log().contains("is not accepted")).await;
        assert_eq!(status(&client, at, "another-token-of-some-length").await, 200);
        assert_eq!(status(&client, at, "short").await, 401);
    }
}

/// Rules in a file, read again while requests run.
mod rules {
    use std::{fs, path::Path};

    use super::*;

    /// A file whose settings say its number, all of them: lifetimes in hundreds of seconds, and whether products have entity tags.
    fn file(number: u64) -> String {
        let rule = |path: &str| {
            let (ttl, etags) = (100 * number, number.is_multiple_of(2));
            format!("[[rule]]\npath = \"{path}\"\nttl = \"{ttl}s\"\netags = {etags}\ninherit = false\n")
        };
        // The other rules make the file longer than a single read.
        let others: String = (0..200).map(|other| rule(&format!("/api/other/{other}"))).collect();
        format!("{}{others}{}", rule("/api/products/{id}"), rule("/api/products"))
    }

    /// In one step, as editors and orchestrators do.
    fn put(folder: &Path, text: &str) {
        fs::write(folder.join("rules.new"), text).unwrap();
        fs::rename(folder.join("rules.new"), folder.join("rules.toml")).unwrap();
    }

    fn service(folder: &Path) -> ServiceProcess {
        put(folder, &file(1));
        ServiceProcess::start(SERVICE, &[("APP_CACHE_RULES", folder.join("rules.toml").to_str().unwrap())])
    }

    /// The number of the file that the answer to a second request is by.
    async fn number(client: &HttpClient, url: &str) -> u64 {
        wait_until("it is stored", async || client.get(url, &[]).await.x_cache() == "HIT").await;
        let hit = client.get(url, &[]).await;
        let status = hit.header("cache-status").unwrap();
        let ttl: u64 = status.split("ttl=").nth(1).unwrap().parse().unwrap_or_else(|_| panic!("{status}"));
        let number = ttl.div_ceil(100);
        assert_eq!(hit.header("etag").is_some(), number.is_multiple_of(2), "{url}: half of a file, {status}");
        number
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn are_read_again_at_a_signal_without_a_failed_request() {
        const FILES: u64 = 12;
        let folder = tempfile::tempdir().unwrap();
        let service = service(folder.path());
        let client = HttpClient::new();
        let urls: Vec<_> = (1..=20).map(|id| format!("{}/api/products/{id}", service.url())).collect();
        let load = Load::start(&client, 4, &urls);
        // Meanwhile, each answer is by the rules of one file: those for products come first in it, and those for lists last. One
        // half of a newer set with the other half of an older one would be seen as a step back.
        let asking = async {
            let mut before = 1;
            for asked in 0_u64.. {
                let path = if asked.is_multiple_of(2) { "products/1" } else { "products" };
                let number = number(&client, &format!("{}/api/{path}?asked={asked}", service.url())).await;
                assert!((before..=FILES).contains(&number), "{path} by file {number}, after one by file {before}");
                before = number;
            }
        };
        let mut seen = Vec::new();
        let reloading = async {
            for file_number in 1..=FILES {
                put(folder.path(), &file(file_number));
                service.hangup();
                let text = format!("{} cache rules", file(file_number).matches("[[rule]]").count());
                wait_until("it is read", async || service.log().matches(&text).count() >= file_number as usize).await;
                // What no request has asked for yet.
                seen.push(
                    number(&client, &format!("{}/api/products/{file_number}?new={file_number}", service.url())).await,
                );
                assert_eq!(
                    number(&client, &format!("{}/api/products?limit={file_number}", service.url())).await,
                    file_number
                );
            }
        };
        tokio::select! {
            () = asking => {}
            () = reloading => {}
        }
        let report = load.stop().await;
        report.assert_no_failure();
        assert_eq!(seen, (1..=FILES).collect::<Vec<_>>());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn that_are_wrong_are_named_by_their_line_and_leave_those_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut service = service(folder.path());
        let client = HttpClient::new();
        for (text, why) in [
            ("[[rule]]\npath = \"/a\"\nttl = \"soon\"\n", "rules.toml: line 3: \"soon\" must be a time"),
            ("[[rule]]\npath = \"/a/{b\"\n", "rules.toml: line 1: rule for \"/a/{b\""),
        ] {
            put(folder.path(), text);
            service.hangup();
            wait_until("it says why", async || {
                let log = service.log().replace("\\\"", "\"");
                log.contains(why) && log.contains("the rules are those before")
            })
            .await;
        }
        assert_eq!(number(&client, &format!("{}/api/products/1", service.url())).await, 1);
        // One that is being copied over the other is empty for a moment.
        fs::write(folder.path().join("rules.toml"), "").unwrap();
        service.hangup();
        wait_until("it says that there are none", async || service.log().contains("write rule = []")).await;
        assert_eq!(number(&client, &format!("{}/api/products/3", service.url())).await, 1);
        fs::remove_file(folder.path().join("rules.toml")).unwrap();
        service.hangup();
        wait_until("it says that it is gone", async || service.log().contains("cannot read that file")).await;
        assert_eq!(number(&client, &format!("{}/api/products/2", service.url())).await, 1);
        service.terminate();
        assert_eq!(service.wait(), 0, "{}", service.log());

        let output = start::run(&[("APP_CACHE_RULES", folder.path().join("rules.toml").to_str().unwrap())]);
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(line.starts_with("service: APP_CACHE_RULES (or --cache-rules) is \""), "{line}");
        assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{line}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_signal_without_a_file_ends_nothing() {
        let service = ServiceProcess::start(SERVICE, &[]);
        service.hangup();
        wait_until("it says that there is none", async || service.log().contains("APP_CACHE_RULES names one")).await;
        assert_eq!(HttpClient::new().get(&format!("{}/health/live", service.url()), &[]).await.status, 200);
    }
}
