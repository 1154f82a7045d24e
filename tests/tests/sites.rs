//! One site: the same pages by either scheme and under every name, for reads, writes and invalidations, unless its owner says
//! that there are two sites.

use cache_layer::{Cache, CacheLayer, store::MemoryStore};
use http::{Method, Request, Uri};
use tests::{App, Backend, Origin, Response, echo, full, over_each_store};

type Fields = &'static [(&'static str, &'static str)];

const MAX_AGE: Fields = &[("cache-control", "max-age=60")];

/// The forms in which requests for one page come in: HTTP/1.1, HTTP/2 and proxies, each by both schemes.
const PAGE: [(&str, Fields); 5] = [
    ("/page", &[]),
    ("https://shop.example/page", &[]),
    ("http://shop.example/page", &[]),
    ("https://SHOP.example:443/page", &[("host", "shop.example")]),
    ("/page", &[("host", "shop.example:443")]),
];

async fn app(backend: &Backend, origin: &Origin, set: impl FnOnce(CacheLayer) -> CacheLayer) -> App {
    let app = App::new(backend.cache().await.build(), origin, set);
    app.cache.invalidate_all().await.unwrap();
    app
}

/// A layer as [`app`] has it, for its keys.
fn layer(app: &App) -> CacheLayer {
    CacheLayer::new(app.cache.clone())
}

/// Whether every one of `forms` is answered from the cache.
async fn all_hit(app: &App, forms: &[(&str, Fields)]) -> bool {
    let mut all = true;
    for (uri, fields) in forms {
        all &= app.get(uri, fields).await.x_cache() == "HIT";
    }
    all
}

async fn is_read_and_written_by_either_scheme(backend: &Backend) {
    let app = app(backend, &Origin::echo(MAX_AGE), |layer| layer).await;
    for (by, fields) in PAGE {
        app.get("/page", &[]).await;
        assert!(all_hit(&app, &PAGE).await, "before {by}");
        app.send(Method::PUT, by, fields).await;
        for (uri, fields) in PAGE {
            assert_eq!(app.get(uri, fields).await.x_cache(), "MISS", "{uri} after a PUT of {by}");
            app.send(Method::PUT, by, fields).await;
        }
    }
}

async fn is_voided_by_what_names_it_with_the_scheme_that_clients_see(backend: &Backend) {
    let origin = Origin::new(|call, request| async move {
        let mut response = echo(call, &request, MAX_AGE);
        let headers = response.headers_mut();
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/location") => {
                headers.insert("location", "https://shop.example/page".parse().unwrap());
                *response.status_mut() = http::StatusCode::SEE_OTHER;
            }
            (&Method::POST, "/content-location") => {
                drop(headers.insert("content-location", "https://shop.example:443/page".parse().unwrap()));
            }
            (&Method::POST, "/group") => {
                drop(headers.insert("cache-group-invalidation", "\"pages\"".parse().unwrap()));
            }
            _ => drop(headers.insert("cache-groups", "\"pages\"".parse().unwrap())),
        }
        Ok(response)
    });
    let app = app(backend, &origin, |layer| layer).await;
    for (uri, fields) in [
        ("/location", &[][..]),
        ("/content-location", &[]),
        ("/group", &[]),
        ("https://shop.example/location", &[]),
        ("https://shop.example/group", &[]),
    ] {
        app.get("/page", &[]).await;
        assert_eq!(app.get("/page", &[]).await.x_cache(), "HIT", "before POST {uri}");
        app.send(Method::POST, uri, fields).await;
        assert_eq!(app.get("/page", &[]).await.x_cache(), "MISS", "after POST {uri}");
    }
}

async fn is_invalidated_by_the_uri_that_clients_see_and_by_a_handlers_own(backend: &Backend) {
    let app = app(backend, &Origin::echo(MAX_AGE), |layer| layer).await;
    for uri in ["https://shop.example/page", "http://shop.example/page", "https://shop.example:443/page"] {
        app.get("/page", &[]).await;
        assert_eq!(app.get("/page", &[]).await.x_cache(), "HIT", "before {uri}");
        let key = layer(&app).key(&uri.parse().unwrap()).unwrap();
        app.cache.invalidate(&key).await.unwrap();
        assert_eq!(app.get("/page", &[]).await.x_cache(), "MISS", "after {uri}");
    }
    // The requests that a handler gets by HTTP/1.1 and by HTTP/2; and another page of the same site.
    for (uri, fields) in PAGE {
        app.get("/page", &[]).await;
        assert_eq!(app.get("/page", &[]).await.x_cache(), "HIT", "before {uri}");
        let (parts, _) = tests::request(Method::POST, uri, fields).into_parts();
        let key = layer(&app).key_of(&parts.uri, &parts.headers).unwrap();
        app.cache.invalidate(&key).await.unwrap();
        assert_eq!(app.get("/page", &[]).await.x_cache(), "MISS", "after {uri}");
        app.get("/list", &[]).await;
        let list = Uri::from_static("/list");
        let key = layer(&app).key_of(&list, &tests::request(Method::POST, "/page", &[]).into_parts().0.headers);
        app.cache.invalidate(&key.unwrap()).await.unwrap();
        assert_eq!(app.get("/list", &[]).await.x_cache(), "MISS");
    }
}

async fn is_deleted_by_a_pattern_that_names_either_scheme(backend: &Backend) {
    let app = app(backend, &Origin::echo(MAX_AGE), |layer| layer.namespace("front ")).await;
    for (pattern, deleted) in [
        ("front%20https://shop.example/*", 2),
        ("front%20http://shop.example/*", 2),
        ("*https://*/page", 1),
        ("*//shop.example/page", 1),
        ("https://other.example/*", 0),
    ] {
        for uri in ["https://shop.example/page", "/list?to=http://start"] {
            app.get(uri, &[]).await;
            assert_eq!(app.get(uri, &[]).await.x_cache(), "HIT", "{uri} before {pattern}");
        }
        assert_eq!(app.cache.delete_pattern(pattern).counted().await.unwrap(), deleted, "{pattern}");
    }
}

async fn is_one_under_every_name_that_its_owner_says(backend: &Backend) {
    let origin = Origin::new(|call, request| async move {
        let mut response = echo(call, &request, MAX_AGE);
        match request.uri().path() {
            "/moved" => {
                drop(response.headers_mut().insert("location", "https://www.shop.example/page".parse().unwrap()))
            }
            "/menu" => drop(response.headers_mut().insert("cache-groups", "\"food\"".parse().unwrap())),
            "/order" => {
                drop(response.headers_mut().insert("cache-group-invalidation", "\"food\"".parse().unwrap()));
            }
            _ => {}
        }
        Ok(response)
    });
    let named = |layer: CacheLayer| {
        let layer = layer.canonical_host("WWW.shop.example", "shop.example").unwrap();
        layer.canonical_host("shop.internal:8080", "shop.example").unwrap()
    };
    let app = app(backend, &origin, named).await;
    let forms: [(&str, Fields); 4] = [
        ("/page", &[]),
        ("/page", &[("host", "www.shop.example")]),
        ("https://www.shop.example/page", &[]),
        ("/page", &[("host", "Shop.Internal:8080")]),
    ];
    for (by, fields) in forms {
        app.get("/page", &[]).await;
        assert!(all_hit(&app, &forms).await, "before {by}");
        app.send(Method::PUT, by, fields).await;
        assert_eq!(app.get("/page", &[]).await.x_cache(), "MISS", "after a PUT of {by} {fields:?}");
    }
    app.send(Method::POST, "/moved", &[]).await;
    assert_eq!(app.get("/page", &[]).await.x_cache(), "MISS", "what `Location` calls by another name");
    let key = named(layer(&app)).key(&Uri::from_static("https://www.shop.example/page")).unwrap();
    app.cache.invalidate(&key).await.unwrap();
    assert_eq!(app.get("/page", &[]).await.x_cache(), "MISS", "what `key` is told by another name");
    app.get("/menu", &[]).await;
    app.send(Method::POST, "/order", &[("host", "www.shop.example")]).await;
    assert_eq!(app.get("/menu", &[]).await.x_cache(), "MISS", "a group of the site");
    assert_eq!(app.get("/page", &[("host", "other.example")]).await.x_cache(), "MISS", "no name of it");
    assert_eq!(app.cache.delete_pattern("https://shop.example/*").counted().await.unwrap(), 2);
}

/// An application that redirects requests by `http`, by another name or with a campaign's parameter to the canonical URL.
fn sends_to_the_page_proper() -> Origin {
    Origin::new(|call, request| async move {
        let uri = request.uri();
        let host = request.headers().get("host").map_or(uri.host(), |host| host.to_str().ok());
        let is_secure = uri.scheme_str() == Some("https") || request.headers().contains_key("x-forwarded-proto");
        let is_proper = is_secure && host == Some("shop.example") && uri.query().is_none();
        let mut response = echo(call, &request, MAX_AGE);
        if !is_proper {
            *response.status_mut() = http::StatusCode::MOVED_PERMANENTLY;
            let location = format!("https://shop.example{}", uri.path());
            response.headers_mut().insert("location", location.parse().unwrap());
        }
        Ok(response)
    })
}

async fn does_not_lead_its_readers_round_in_a_circle(backend: &Backend) {
    let set = |layer: CacheLayer| {
        layer.canonical_host("www.shop.example", "shop.example").unwrap().ignore_query(["utm_source"])
    };
    let app = app(backend, &sends_to_the_page_proper(), set).await;
    let proper: [(&str, Fields); 2] =
        [("https://shop.example/page", &[]), ("/page", &[("x-forwarded-proto", "https"), ("host", "shop.example")])];
    let others: [(&str, Fields); 4] = [
        ("/page", &[]),
        ("http://www.shop.example/page", &[]),
        ("https://www.shop.example/page", &[]),
        ("https://shop.example/page?utm_source=mail", &[]),
    ];
    for (other, fields) in others {
        for _ in 0..2 {
            let redirect = app.get(other, fields).await;
            assert_eq!((redirect.status.as_u16(), redirect.x_cache()), (301, "MISS"), "{other}");
            assert_eq!(redirect.cache_status().detail.as_deref(), Some("redirect-to-itself"), "{other}");
        }
        for (uri, fields) in proper {
            let page = app.get(uri, fields).await;
            assert_eq!((page.status.as_u16(), page.x_cache()), (200, "MISS"), "{uri} after {other}");
            app.cache.invalidate_all().await.unwrap();
        }
    }
}

async fn keeps_redirects_that_lead_elsewhere(backend: &Backend) {
    let origin = Origin::new(|call, request| async move {
        let mut response = echo(call, &request, MAX_AGE);
        *response.status_mut() = http::StatusCode::MOVED_PERMANENTLY;
        response.headers_mut().insert("location", "https://shop.example/new".parse().unwrap());
        Ok(response)
    });
    let app = app(backend, &origin, |layer| layer).await;
    for uri in ["/old", "https://shop.example/older", "/new?page=2"] {
        assert_eq!(app.get(uri, &[]).await.x_cache(), "MISS", "{uri}");
        assert_eq!(app.get(uri, &[]).await.x_cache(), "HIT", "{uri}");
    }
}

async fn is_two_where_its_owner_says_so(backend: &Backend) {
    let app = app(backend, &sends_to_the_page_proper(), |layer| layer.schemes_apart(true)).await;
    for x_cache in ["MISS", "HIT"] {
        let redirect = app.get("/page", &[]).await;
        assert_eq!((redirect.status.as_u16(), redirect.x_cache()), (301, x_cache));
        let page = app.get("https://shop.example/page", &[]).await;
        assert_eq!((page.status.as_u16(), page.x_cache()), (200, x_cache));
    }
    app.send(Method::PUT, "https://shop.example/page", &[]).await;
    assert_eq!(app.get("/page", &[]).await.x_cache(), "HIT");
    assert_eq!(app.get("https://shop.example/page", &[]).await.x_cache(), "MISS");
    let key = layer(&app).schemes_apart(true).key(&Uri::from_static("https://shop.example/page")).unwrap();
    app.cache.invalidate(&key).await.unwrap();
    assert_eq!(app.get("https://shop.example/page", &[]).await.x_cache(), "MISS");
    assert_eq!(app.get("/page", &[]).await.x_cache(), "HIT");
}

over_each_store!(
    is_read_and_written_by_either_scheme,
    is_voided_by_what_names_it_with_the_scheme_that_clients_see,
    is_invalidated_by_the_uri_that_clients_see_and_by_a_handlers_own,
    is_deleted_by_a_pattern_that_names_either_scheme,
    is_one_under_every_name_that_its_owner_says,
    does_not_lead_its_readers_round_in_a_circle,
    keeps_redirects_that_lead_elsewhere,
    is_two_where_its_owner_says_so,
);

#[test]
fn names_that_cannot_be_are_refused_with_what_they_should_be() {
    let layer = || CacheLayer::new(Cache::new(MemoryStore::new(1 << 20)));
    for (alias, host, why) in [
        ("https://www.shop.example", "shop.example", "must be a host, with a port where it has one of its own"),
        ("www.shop.example", "", "must be a host, with a port where it has one of its own"),
        ("SHOP.example:80", "shop.example", "a host is no alias of itself"),
    ] {
        let error = layer().canonical_host(alias, host).unwrap_err();
        assert_eq!(error.to_string(), format!("canonical host {host:?} of {alias:?}: {why}"));
    }
    let layer = layer().canonical_host("a.example", "b.example").unwrap();
    assert!(layer.clone().canonical_host("b.example", "a.example").is_err(), "round in a circle");
    assert!(layer.canonical_host("a.example", "c.example").is_err(), "one name, two hosts");
}

/// One server by TLS, which speaks HTTP/1.1 and HTTP/2.
mod over_tls {
    use std::{convert::Infallible, net::SocketAddr, sync::Arc};

    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use hyper::{
        body::Incoming,
        client::conn::{http1, http2},
        service::service_fn,
    };
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName},
    };
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

    use super::*;

    const BOTH: [&[u8]; 2] = [b"h2", b"http/1.1"];

    struct Server {
        address: SocketAddr,
        certificate: CertificateDer<'static>,
        _accepting: tokio::task::JoinSet<()>,
    }

    impl Server {
        async fn start(app: &App) -> Self {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let certificate = made.cert.der().clone();
            let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
            let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], key)
                .unwrap();
            config.alpn_protocols = BOTH.map(<[u8]>::to_vec).to_vec();
            let (acceptor, app) = (TlsAcceptor::from(Arc::new(config)), app.clone());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut accepting = tokio::task::JoinSet::new();
            accepting.spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (acceptor, app) = (acceptor.clone(), app.clone());
                    tokio::spawn(async move {
                        let stream = acceptor.accept(stream).await.unwrap();
                        let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(BOTH[0]);
                        let service = service_fn(move |request| answer(app.clone(), request));
                        // Either ends with its client.
                        if speaks_http2 {
                            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                        } else {
                            let builder = hyper::server::conn::http1::Builder::new();
                            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                        }
                    });
                }
            });
            Self { address, certificate, _accepting: accepting }
        }

        async fn connect(&self, protocol: &[u8]) -> TokioIo<TlsStream<TcpStream>> {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.clone()).unwrap();
            let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = vec![protocol.to_vec()];
            let stream = TcpStream::connect(self.address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
            TokioIo::new(stream)
        }

        /// The answer over HTTP/1.1, in the form that clients use: a path, and `Host`.
        async fn by_http1(&self, method: Method, path: &str) -> Response {
            let (mut sender, connection) = http1::handshake(self.connect(BOTH[1]).await).await.unwrap();
            tokio::spawn(connection);
            let request = Request::builder().method(method).uri(path).header("host", "shop.example");
            read(sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()).await
        }

        /// The answer over HTTP/2, which says scheme and authority.
        async fn by_http2(&self, method: Method, path: &str) -> Response {
            let stream = self.connect(BOTH[0]).await;
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            let request = Request::builder().method(method).uri(format!("https://shop.example{path}"));
            read(sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()).await
        }
    }

    async fn answer(app: App, request: Request<Incoming>) -> Result<http::Response<Full<Bytes>>, Infallible> {
        let (parts, body) = request.into_parts();
        let body = full(body.collect().await.unwrap().to_bytes());
        let answer = app.ask(Request::from_parts(parts, body)).await;
        let mut response = http::Response::new(Full::new(answer.body));
        (*response.status_mut(), *response.headers_mut()) = (answer.status, answer.headers);
        Ok(response)
    }

    async fn read(response: http::Response<Incoming>) -> Response {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Response { status: parts.status, headers: parts.headers, body, trailers: None }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_written_by_one_protocol_is_read_by_the_other() {
        let origin = Origin::new(|call, request| async move {
            let by = if request.uri().authority().is_some() { "absolute" } else { "path" };
            let mut response = echo(call, &request, MAX_AGE);
            response.headers_mut().insert("x-form", by.parse().unwrap());
            Ok(response)
        });
        let app = App::on(&Backend::memory(), &origin).await;
        let server = Server::start(&app).await;
        assert_eq!(server.by_http1(Method::GET, "/page").await.header("x-form"), Some("path"));
        assert_eq!(server.by_http2(Method::GET, "/other").await.header("x-form"), Some("absolute"));
        for _ in 0..2 {
            assert_eq!(server.by_http1(Method::GET, "/page").await.x_cache(), "HIT");
            assert_eq!(server.by_http2(Method::GET, "/page").await.x_cache(), "HIT", "one cache, and not two");
            server.by_http2(Method::PUT, "/page").await;
            assert_eq!(server.by_http1(Method::GET, "/page").await.x_cache(), "MISS", "after a PUT by HTTP/2");
            server.by_http1(Method::PUT, "/page").await;
            assert_eq!(server.by_http2(Method::GET, "/page").await.x_cache(), "MISS", "after a PUT by HTTP/1.1");
        }
    }
}
