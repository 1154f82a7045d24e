//! What the service sends by OTLP to a collector by TLS: everything if it trusts the collector, and why not in its log otherwise.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};
use tests::{HttpClient, ServiceProcess, wait_until};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const SERVICE: &str = env!("CARGO_BIN_EXE_service-under-test");

/// Each protocol, and the paths to which spans and metrics are sent by it.
const PROTOCOLS: [(&str, [&str; 2]); 2] = [
    (
        "grpc",
        [
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        ],
    ),
    ("http/protobuf", ["/v1/traces", "/v1/metrics"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_whose_certificate_the_system_trusts_gets_spans_and_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::start(folder.path()).await;
    for (protocol, paths) in PROTOCOLS {
        let service = exporting(&collector, protocol, &collector.certificate);
        let client = HttpClient::new();
        let product = format!("{}/api/products/1", service.url());
        wait_until("both arrive", async || {
            assert_eq!(client.get(&product, &[]).await.status, 200);
            paths.iter().all(|path| collector.received(path))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_trusted_gets_nothing_and_the_log_says_why_once_in_a_while() {
    let [folder, elsewhere] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let collector = Collector::start(folder.path()).await;
    let other = certified(elsewhere.path()).0;
    for (protocol, paths) in PROTOCOLS {
        let began = Instant::now();
        let service = exporting(&collector, protocol, &other);
        let client = HttpClient::new();
        for what in ["spans", "metrics"] {
            let said = format!("{what} could not be sent to the collector: ");
            let lines =
                || service.log().lines().filter(|line| line.contains(&said)).map(str::to_owned).collect::<Vec<_>>();
            wait_until("the log says so", async || {
                client.get(&format!("{}/api/products/1", service.url()), &[]).await;
                !lines().is_empty()
            })
            .await;
            let lines = lines();
            assert!(lines.len() as u64 <= 1 + began.elapsed().as_secs() / 10, "{lines:?}");
            assert!(lines[0].contains("invalid peer certificate"), "{lines:?}");
        }
        assert!(!paths.iter().any(|path| collector.received(path)));
    }
}

/// The service, which exports often, and trusts `trusted`.
fn exporting(collector: &Collector, protocol: &str, trusted: &Path) -> ServiceProcess {
    let endpoint = format!("https://{}", collector.address);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
        ("SSL_CERT_FILE", trusted.to_str().unwrap()),
    ];
    ServiceProcess::start(SERVICE, &variables)
}

/// Takes everything that is sent by TLS, and remembers the paths.
struct Collector {
    address: SocketAddr,
    certificate: PathBuf,
    paths: Arc<Mutex<Vec<String>>>,
    _accepting: tokio::task::JoinSet<()>,
}

impl Collector {
    async fn start(folder: &Path) -> Self {
        let (certificate, mut config) = certified(folder);
        config.alpn_protocols = [b"h2" as &[u8], b"http/1.1"].map(<[u8]>::to_vec).to_vec();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (paths, mut accepting) = (Arc::default(), tokio::task::JoinSet::new());
        accepting.spawn({
            let paths = Arc::clone(&paths);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(acceptor.clone(), stream, Arc::clone(&paths)));
                }
            }
        });
        Self { address, certificate, paths, _accepting: accepting }
    }

    fn received(&self, path: &str) -> bool {
        self.paths.lock().unwrap().iter().any(|received| received == path)
    }
}

/// A certificate for this machine that signs itself, in a file, and the server that has it.
fn certified(folder: &Path) -> (PathBuf, ServerConfig) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let file = folder.join("tls.crt");
    std::fs::write(&file, made.cert.pem()).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (file, config)
}

/// Until the client leaves, which it does at once if it does not trust the certificate.
async fn serve(acceptor: TlsAcceptor, stream: TcpStream, paths: Arc<Mutex<Vec<String>>>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let grpc = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| answer(request, Arc::clone(&paths), grpc));
    let _ = if grpc {
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await
    } else {
        http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
    };
}

async fn answer(
    request: Request<Incoming>,
    paths: Arc<Mutex<Vec<String>>>,
    grpc: bool,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let (parts, body) = request.into_parts();
    if body.collect().await.is_ok() {
        paths.lock().unwrap().push(parts.uri.path().to_owned());
    }
    // An empty message: by gRPC with its length before it, and the status after it.
    if !grpc {
        return Ok(Response::new(Full::default().boxed()));
    }
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
    let body = Full::from(vec![0; 5]).with_trailers(async { Some(Ok(trailers)) });
    Ok(Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap())
}
