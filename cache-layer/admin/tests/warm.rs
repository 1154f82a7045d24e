//! `cachectl warm` against an application with a cache.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use axum::{Router, http::header, routing::get};
use cache_layer::{Cache, CacheLayer, store::MemoryStore};
use tokio::{net::TcpListener, process::Command};

/// An application that states a minute's freshness, but for `/private`; and what it was asked.
async fn application() -> (SocketAddr, Cache) {
    let cache = Cache::new(MemoryStore::new(1 << 20));
    let fresh = || async { ([(header::CACHE_CONTROL, "max-age=60")], "content") };
    let private = || async { ([(header::CACHE_CONTROL, "private")], "content") };
    let failing = || async { axum::http::StatusCode::SERVICE_UNAVAILABLE };
    let enough = || async { (axum::http::StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "2")]) };
    let router = Router::new()
        .route("/a", get(fresh))
        .route("/b", get(fresh))
        .route("/private", get(private))
        .route("/failing", get(failing))
        .route("/enough", get(enough))
        .layer(CacheLayer::new(cache.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, cache)
}

/// What `cachectl` says, and its exit code.
async fn warm(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cachectl"));
    command.arg("warm").args(arguments).args(["--rate", "1000"]).env_clear();
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await.unwrap().unwrap();
    let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code().unwrap(), out, error)
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_list_names_is_stored_under_the_host_that_it_names() {
    let (address, cache) = application().await;
    let list =
        file("# ours\nhttps://shop.example/a\nhttps://shop.example/b\n\nhttps://shop.example/private\nnonsense\n");
    let list = list.path().to_str().unwrap();
    let to = format!("http://{address}");
    let (code, out, _) = warm(&[list, "--to", &to]).await;
    assert_eq!(code, 0, "{out}");
    for line in ["2         stored", "1         not stored: private", "1 lines are no URL"] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert!(cache.drain(Duration::from_secs(10)).await);
    let layer = CacheLayer::new(cache.clone());
    let key = layer.key(&"http://shop.example/a".parse().unwrap()).unwrap();
    assert!(matches!(cache.inspect(&key).await, Ok(cache_layer::Inspected::Entry(..))));
    let (_, again, _) = warm(&[list, "--to", &to, "--json"]).await;
    let told: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!((&told["asked"], &told["failed"], &told["unreadable_lines"]), (&3.into(), &0.into(), &1.into()));
    assert!(again.contains("there already"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_has_failed_and_too_many_requests_are_followed_by_fewer() {
    let (address, _) = application().await;
    let to = format!("http://{address}");
    let list = file("/a\n/mistyped\n");
    let (code, out, _) = warm(&[list.path().to_str().unwrap(), "--to", &to, "--host", "shop.example"]).await;
    assert!(code == 1 && out.contains("1         failed: 404") && out.contains("1         stored"), "{code} {out}");
    let list = file("/enough\n/a\n");
    let list = list.path().to_str().unwrap();
    let began = std::time::Instant::now();
    let (code, out, _) = warm(&[list, "--to", &to, "--host", "shop.example", "--at-once", "1"]).await;
    assert!(code == 1 && out.contains("1         failed: 429"), "{code} {out}");
    // It is told to wait that long.
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_log_the_most_frequent_come_first_and_failures_are_told() {
    let (address, cache) = application().await;
    let line = |path: &str| format!("::1 - - [29/Nov/2026:10:00:00 +0000] \"GET {path} HTTP/1.1\" 200 7 \"-\" \"x\"\n");
    let log =
        file(&[line("/a"), line("/b"), line("/b"), line("/failing"), line("/failing"), line("/failing")].concat());
    let (log, to) = (log.path().to_str().unwrap(), format!("http://{address}"));
    let (code, out, _) = warm(&[log, "--to", &to, "--host", "shop.example", "--top", "2"]).await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("1         stored") && out.contains("1         failed: 503"), "{out}");
    assert!(cache.drain(Duration::from_secs(10)).await);
    assert_eq!(cache.count_all().await, Ok(Some(1)));
    let (code, _, error) = warm(&[log, "--to", "http://127.0.0.1:1"]).await;
    assert_eq!(code, 4, "{error}");
    let (code, _, error) = warm(&[log]).await;
    assert!(code == 2 && error.contains("--to"), "{error}");
}
