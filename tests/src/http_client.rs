//! A small HTTP client.

use std::{error::Error, fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// Makes a request fail, instead of hang, if a server never answers.
const LIMIT: Duration = Duration::from_secs(30);

/// Speaks HTTP/1.1 over real sockets. Clones share their connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client<HttpConnector, Full<Bytes>>,
    host: Option<&'static str>,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: StatusCode,
    /// The header fields as they came.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The trailer fields, if any came.
    pub trailers: Option<HeaderMap>,
}

/// No complete answer came: the connection failed, the body broke off, or 30 seconds passed.
#[derive(Debug)]
pub struct RequestError {
    request: String,
    reason: Box<dyn Error + Send + Sync>,
}

impl HttpClient {
    /// A client that keeps its connections for the next request.
    #[must_use]
    pub fn new() -> Self {
        Self::with_idle_connections(usize::MAX)
    }

    /// A client that opens a connection for each request.
    #[must_use]
    pub fn without_keep_alive() -> Self {
        Self::with_idle_connections(0)
    }

    fn with_idle_connections(limit: usize) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(limit)
            // A test has to see what the server did at the first attempt.
            .retry_canceled_requests(false)
            .build_http();
        Self { client, host: None }
    }

    /// Sends this `Host`, whatever address the client connects to, like clients that reach the same site through
    /// different servers.
    #[must_use]
    pub fn host(self, host: &'static str) -> Self {
        Self { host: Some(host), ..self }
    }

    /// GET; panics when no whole answer comes.
    pub async fn get(&self, url: &str, headers: &[(&str, &str)]) -> Response {
        self.request(Method::GET, url, headers, "").await
    }

    /// A request with a JSON body; panics when no whole answer comes.
    pub async fn send_json(&self, method: Method, url: &str, body: &Value) -> Response {
        self.request(method, url, &[("content-type", "application/json")], body.to_string()).await
    }

    /// Any request; panics when no whole answer comes.
    pub async fn request(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response {
        match self.try_request(method, url, headers, body).await {
            Ok(response) => response,
            Err(error) => panic!("{error}"),
        }
    }

    /// Any request, for tests that expect failure or count it.
    ///
    /// # Errors
    ///
    /// When no whole answer comes.
    pub async fn try_request(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response, RequestError> {
        let name = format!("{method} {url}");
        let mut request = Request::builder().method(method).uri(url);
        let host = self.host.map(|host| ("host", host));
        for (field, value) in host.iter().chain(headers) {
            request = request.header(*field, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a valid request");

        match tokio::time::timeout(LIMIT, self.send(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(reason)) => Err(RequestError { request: name, reason }),
            Err(elapsed) => Err(RequestError { request: name, reason: elapsed.into() }),
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response, Box<dyn Error + Send + Sync>> {
        let (parts, body) = self.client.request(request).await?.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned();
        Ok(Response { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
    }
}

impl Default for HttpClient {
    fn default() -> Self {
        Self::new()
    }
}

impl Response {
    /// The first value of a header field, if it is there and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What `X-Cache` says, or an empty string.
    #[must_use]
    pub fn x_cache(&self) -> &str {
        self.header("x-cache").unwrap_or_default()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("a body of UTF-8")
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.request, self.reason)?;
        let mut cause = self.reason.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for RequestError {}
