//! Requests to the API.

use std::{fmt, path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as Connections, connect::HttpConnector},
    rt::TokioExecutor,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// The characters that need no encoding anywhere in a URL.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// How long an answer may take; a pattern may be searched for among millions of keys.
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest answer.
const MOST: usize = 64 << 20;

/// Text as a part of a path or a query.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line, or a file that it names, is wrong.
    Usage(String),
    /// The API has refused the request.
    Refused(String),
    /// There is no API at that address, or it doesn't answer.
    Unreachable(String),
    /// Anything else.
    Broken(String),
}

impl Failure {
    /// Adds what to do, where the request may have had its effect.
    pub(crate) fn also(self, what: &str) -> Self {
        match self {
            Self::Unreachable(why) => Self::Unreachable(format!("{why}; {what}")),
            Self::Broken(why) => Self::Broken(format!("{why}; {what}")),
            other => other,
        }
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Broken(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) => 3,
            Self::Unreachable(_) => 4,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Refused(why) | Self::Unreachable(why) | Self::Broken(why) => f.write_str(why),
        }
    }
}

/// The API of one application.
pub(crate) struct Client {
    base: String,
    token: Option<HeaderValue>,
    connections: Connections<HttpConnector, Full<Bytes>>,
}

impl Client {
    pub(crate) fn new(base: &str, token_file: Option<&Path>) -> Result<Self, Failure> {
        let uri: Uri = base.parse().map_err(|error| Failure::Usage(format!("--api {base}: {error}")))?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() {
            let how = "for an application on another machine, forward its port (ssh -L, kubectl port-forward)";
            return Err(Failure::Usage(format!("--api {base}: must be a URL with http://; {how}")));
        }
        let token = token_file.map(read_token).transpose()?;
        let connections = Connections::builder(TokioExecutor::new()).build_http();
        Ok(Self { base: base.trim_end_matches('/').to_owned(), token, connections })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.answer(self.request(Method::GET, path)?.body(Full::default())).await
    }

    pub(crate) async fn post(&self, path: &str, kind: &str, body: impl Into<Bytes>) -> Result<Value, Failure> {
        let request = self.request(Method::POST, path)?.header(header::CONTENT_TYPE, kind);
        self.answer(request.body(Full::from(body.into()))).await
    }

    /// As [`post`](Self::post), for a request that has its effect once, however often it is sent with this key.
    pub(crate) async fn post_once(
        &self,
        path: &str,
        key: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> Result<Value, Failure> {
        let request = self.request(Method::POST, path)?.header(header::CONTENT_TYPE, kind);
        self.answer(request.header("idempotency-key", key).body(Full::from(body.into()))).await
    }

    /// Calls `take` with the type and the data of each event, until it returns `false`, or there are no more.
    pub(crate) async fn watch(
        &self,
        path: &str,
        mut take: impl FnMut(&str, &str) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let mut body = self.send(self.request(Method::GET, path)?.body(Full::default())).await?;
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Failure::Unreachable(format!("{}: {error}", self.base)))?;
            if let Some(data) = frame.data_ref() {
                text.extend_from_slice(data);
            }
            while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = text.drain(..end + 2).collect();
                let event = String::from_utf8_lossy(&event);
                let field = |name: &str| {
                    event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
                };
                let Some(data) = field("data") else { continue };
                if !take(field("event").unwrap_or_default(), data)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn request(&self, method: Method, path: &str) -> Result<http::request::Builder, Failure> {
        let uri: Uri = format!("{}{path}", self.base).parse().map_err(|error| Failure::Usage(format!("{error}")))?;
        let request = Request::builder().method(method).uri(uri);
        Ok(match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, token),
            None => request,
        })
    }

    async fn answer(&self, request: http::Result<Request<Full<Bytes>>>) -> Result<Value, Failure> {
        let answer = async { read(self.send(request).await?, &self.base).await };
        let late = |_| Failure::Unreachable(format!("{} has not answered within {PATIENCE:?}", self.base));
        let bytes = tokio::time::timeout(PATIENCE, answer).await.map_err(late)??;
        serde_json::from_slice(&bytes).map_err(|_| Failure::Broken(format!("{} is no such API: no JSON", self.base)))
    }

    /// The body of a success.
    async fn send(&self, request: http::Result<Request<Full<Bytes>>>) -> Result<Incoming, Failure> {
        let request = request.map_err(|error| Failure::Usage(error.to_string()))?;
        let response = self.connections.request(request).await.map_err(|error| {
            let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Failure::Unreachable(format!("{} can't be reached: {why}", self.base))
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let problem = read(response.into_body(), &self.base).await.unwrap_or_default();
        let detail = serde_json::from_slice::<Value>(&problem).ok();
        let detail = detail.as_ref().and_then(|problem| problem["detail"].as_str()).map(str::to_owned);
        let why = detail.unwrap_or_else(|| format!("{} says {status}", self.base));
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Refused(why),
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Failure::Usage(why),
            _ => Failure::Broken(why),
        })
    }
}

async fn read(body: Incoming, base: &str) -> Result<Bytes, Failure> {
    let whole = Limited::new(body, MOST).collect().await;
    whole.map(|body| body.to_bytes()).map_err(|error| Failure::Unreachable(format!("{base}: {error}")))
}

fn read_token(file: &Path) -> Result<HeaderValue, Failure> {
    let shown = file.display();
    let token =
        std::fs::read_to_string(file).map_err(|error| Failure::Usage(format!("--token-file {shown}: {error}")))?;
    // While it is being replaced, the file may have the one before in a second line.
    let token = token.lines().map(str::trim).find(|token| !token.is_empty()).unwrap_or_default();
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| Failure::Usage(format!("--token-file {shown}: does not contain a valid token")))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_file_with_two_tokens_the_first_is_sent() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sent = |content: &str| {
            std::fs::write(file.path(), content).unwrap();
            read_token(file.path()).map(|value| value.to_str().unwrap().to_owned()).unwrap()
        };
        assert_eq!(sent("the-new-one\nthe-old-one\n"), "Bearer the-new-one");
        assert_eq!(sent("\r\n  the-only-one\r\n"), "Bearer the-only-one");
    }
}
