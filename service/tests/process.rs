//! The process as whoever deploys it meets it: settings, the start, the end.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread::{JoinHandle, sleep, spawn},
    time::Duration,
};

use tempfile::TempDir;

fn service(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_service"));
    command.env_clear().current_dir(folder.path()).env("APP_LISTEN", "127.0.0.1:0");
    command
}

/// The one line that a service which does not start has to say.
fn refusal(command: &mut Command, code: i32) -> String {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let ended = (0..1000).any(|_| {
        sleep(Duration::from_millis(10));
        process.try_wait().unwrap().is_some()
    });
    if !ended {
        process.kill().unwrap();
    }
    let output = process.wait_with_output().unwrap();
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(output.stdout.is_empty());
    line
}

/// A running service, killed if a test ends before it does.
struct Running {
    process: Child,
    address: SocketAddr,
    log: Option<JoinHandle<String>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut log = String::new();
        let address = loop {
            assert_ne!(output.read_line(&mut log).unwrap(), 0, "it ended before it listened: {log}");
            if let Some((_, rest)) = log.split_once("listening on http://") {
                break rest.split(' ').next().unwrap().parse().unwrap();
            }
        };
        // Read on: a full pipe would stop the service.
        let log = spawn(move || {
            output.read_to_string(&mut log).unwrap();
            log
        });
        Self { process, address, log: Some(log) }
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the end, and tells the exit code and what was logged.
    fn end(&mut self) -> (Option<i32>, String) {
        let code = self.process.wait().unwrap().code();
        (code, self.log.take().unwrap().join().unwrap())
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_wrong_variable_stops_the_start_with_one_line() {
    let folder = TempDir::new().unwrap();
    let line = refusal(service(&folder).env("APP_CACHE_DEFAULT_TTL", "5 minutes"), 2);
    assert!(
        line.starts_with("service: APP_CACHE_DEFAULT_TTL (or --cache-default-ttl) is \"5 minutes\": must be"),
        "{line}"
    );
}

#[test]
fn a_wrong_redis_url_stops_the_start_without_its_password() {
    let folder = TempDir::new().unwrap();
    let line = refusal(service(&folder).env("APP_REDIS_URL", "redis://:hunter2@cache:not-a-port/0"), 2);
    assert!(line.starts_with("service: APP_REDIS_URL (or --redis-url) is"), "{line}");
    assert!(!line.contains("hunter2"), "{line}");
}

#[test]
fn a_database_that_cannot_be_opened_stops_the_start_with_one_line() {
    let folder = TempDir::new().unwrap();
    let line = refusal(service(&folder).args(["--database-url", "sqlite://missing/products.db"]), 1);
    assert!(line.starts_with("service: cannot open the database sqlite://missing/products.db: "), "{line}");
}

#[test]
fn an_address_in_use_stops_the_start_with_one_line() {
    let folder = TempDir::new().unwrap();
    let running = Running::start(&mut service(&folder));
    let address = running.address.to_string();
    let line = refusal(service(&folder).env("APP_LISTEN", &address), 1);
    assert!(line.starts_with(&format!("service: cannot listen on {address}: ")), "{line}");
}

#[test]
fn help_goes_to_standard_output() {
    let folder = TempDir::new().unwrap();
    let output = service(&folder).arg("--help").output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("APP_REDIS_URL"));
    assert!(output.stderr.is_empty());
}

#[test]
fn a_redis_that_is_down_does_not_stop_the_start() {
    let folder = TempDir::new().unwrap();
    // Nothing listens on a port that was just given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let redis = format!("redis://{}", free.unwrap());
    let mut running = Running::start(service(&folder).env("APP_REDIS_URL", redis));

    for path in ["/api/products/1", "/health/ready", "/health"] {
        let mut connection = running.connect();
        write!(connection, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        if path == "/health" {
            assert!(answer.contains(r#""status":"degraded","redis":{"connected":false"#), "{answer}");
        }
    }

    running.signal("TERM");
    let (code, log) = running.end();
    assert_eq!(code, Some(0));
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("Redis")), "{log}");
}

#[test]
fn a_signal_lets_requests_in_flight_finish_and_the_exit_is_clean() {
    for signal in ["TERM", "INT"] {
        let folder = TempDir::new().unwrap();
        let mut running = Running::start(&mut service(&folder));
        let body = r#"{"name":"Kettle","price":10.5,"category":"kitchen","stock":3}"#;
        let idle = running.connect();
        let mut busy = running.connect();
        write!(
            busy,
            "POST /api/products HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nexpect: 100-continue\r\n\r\n",
            body.len()
        )
        .unwrap();
        // The request to go on proves that a handler waits for the body.
        let mut go_on = [0; 25];
        busy.read_exact(&mut go_on).unwrap();
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");

        running.signal(signal);
        let gone = (0..500).any(|_| {
            sleep(Duration::from_millis(10));
            TcpStream::connect(running.address).is_err()
        });
        assert!(gone, "it still accepts connections");

        busy.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        busy.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        assert_eq!(running.end().0, Some(0));
        drop(idle);
    }
}

#[test]
fn a_request_that_does_not_finish_is_cut_off() {
    let folder = TempDir::new().unwrap();
    let mut running = Running::start(service(&folder).env("APP_SHUTDOWN_TIMEOUT", "100ms"));
    let mut stuck = running.connect();
    let head = "POST /api/products HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                content-length: 9\r\nexpect: 100-continue\r\n\r\n";
    stuck.write_all(head.as_bytes()).unwrap();
    stuck.read_exact(&mut [0; 25]).unwrap();

    running.signal("TERM");
    let (code, log) = running.end();
    assert_eq!(code, Some(0));
    assert!(log.contains("requests still ran after 100ms"), "{log}");
}
