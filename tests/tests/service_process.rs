//! The service's binary as people and orchestrators run it: environment in, log, signals and exit codes out.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Method;
use serde_json::json;
use tests::{HttpClient, RedisServer, ServiceProcess, wait_until};
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

    /// For starts that fail: runs the service to its end.
    fn run(variables: &[(&str, &str)]) -> Output {
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
        // It says so only once it waits for the body.
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
        let mut service = ServiceProcess::start(SERVICE, &[("APP_SHUTDOWN_DELAY", "3s")]);
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
        let start = || ServiceProcess::start(SERVICE, &[("APP_SHUTDOWN_DELAY", "1s")]);
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

    #[tokio::test(flavor = "multi_thread")]
    async fn flushes_what_the_cache_has_still_to_write() {
        let redis = RedisServer::start();
        let variables = [("APP_REDIS_URL", redis.url()), ("APP_REDIS_TIMEOUT", "5s".to_owned())];
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        let mut service = ServiceProcess::start(SERVICE, &variables);
        let client = HttpClient::without_keep_alive();
        for id in 1..=10 {
            let warm = format!("{}/api/products/100", service.url());
            wait_until("there is a hit", async || client.get(&warm, &[]).await.x_cache() == "HIT").await;

            let path = format!("/api/products/{id}");
            let answer = client.get(&format!("{}{path}", service.url()), &[]).await;
            assert_eq!(answer.x_cache(), "MISS");
            service.terminate();
            assert_eq!(service.wait(), 0, "{}", service.log());
            let keys = redis.keys();
            assert!(keys.iter().any(|key| key.ends_with(&path)), "{path} is not among {keys:?}");
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

fn read_until(connection: &mut TcpStream, end: &str) {
    connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut seen = String::new();
    let mut byte = [0];
    while !seen.ends_with(end) {
        connection.read_exact(&mut byte).unwrap();
        seen.push(byte[0].into());
    }
}
