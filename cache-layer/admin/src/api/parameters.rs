//! The query of a request, parsed with clear errors.

use std::time::Duration;

use axum::extract::{FromRequestParts, Query};
use cache_layer::Hints;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, request::Parts};

use crate::problem::Problem;

/// The pairs of a query, in which a name may occur several times.
pub(crate) struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match Query::<Vec<(String, String)>>::try_from_uri(&parts.uri) {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(error) => Err(Problem::bad_request(format!("the query can't be read: {error}"))),
        }
    }
}

impl Parameters {
    /// Refuses unknown parameters: a mistyped one would otherwise be ignored.
    pub(crate) fn known(self, names: &[&str]) -> Result<Self, Problem> {
        match self.0.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            Some((name, _)) => {
                let why = format!("unknown parameter {name:?}; the parameters are {}", names.join(", "));
                Err(Problem::bad_request(why))
            }
            None => Ok(self),
        }
    }

    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The last value with this name that is not empty.
    pub(crate) fn get<'a>(&'a self, name: &str) -> Option<&'a str> {
        self.all(name).filter(|value| !value.is_empty()).last()
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        let parse = |text: &str| {
            text.parse().map_err(|_| Problem::bad_request(format!("{name} {text:?}: must be a number in range")))
        };
        self.get(name).map(parse).transpose()
    }

    /// The request that `method`, `url` and `header` describe; without a `method`, its method is `unless`.
    pub(crate) fn request(&self, unless: &str) -> Result<Request<()>, Problem> {
        let method = self.get("method").unwrap_or(unless);
        let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes())
            .map_err(|_| Problem::bad_request(format!("method {method:?}: must be an HTTP method, such as GET")))?;
        let uri = uri(self.get("url").ok_or_else(|| Problem::bad_request("url: missing"))?)?;
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut()) = (method, uri);
        *request.headers_mut() = fields(self.all("header"), "header")?;
        Ok(request)
    }
}

/// An absolute URL; or a path, together with a `Host`.
pub(crate) fn uri(text: &str) -> Result<Uri, Problem> {
    let text = text.trim();
    let text = text.split_once('#').map_or(text, |(before, _)| before);
    let parsed: Result<Uri, _> = text.parse();
    match parsed {
        Ok(uri) if uri.scheme().is_some() || uri.path().starts_with('/') => Ok(uri),
        Ok(_) => Err(Problem::bad_request("url: must be absolute, such as http://shop.example/products?page=2")),
        Err(error) => Err(Problem::bad_request(format!("url: {error}"))),
    }
}

/// Fields, each as `name: value`.
pub(crate) fn fields<'a>(lines: impl Iterator<Item = &'a str>, parameter: &str) -> Result<HeaderMap, Problem> {
    let mut headers = HeaderMap::new();
    for line in lines.filter(|line| !line.trim().is_empty()) {
        // The value may be a secret, and is not repeated.
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| Problem::bad_request(format!("{parameter}: must be `name: value`; a line has no colon")))?;
        let bad = |what: &str| Problem::bad_request(format!("{parameter}: the {what} of {name:?} can't be sent"));
        let field: HeaderName = name.trim().parse().map_err(|_| bad("name"))?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| bad("value"))?;
        headers.append(field, value);
    }
    Ok(headers)
}

/// The hints of an outer layer, as the request describes them.
pub(crate) fn hints(parameters: &Parameters) -> Result<Option<Hints>, Problem> {
    let mut hints = None;
    for hint in parameters.all("hint").filter(|hint| !hint.is_empty()) {
        let said: Hints = hints.take().unwrap_or_default();
        let wrong = || Problem::bad_request("hint: must be bypass, refresh, ttl:SECONDS or key-part:TEXT");
        hints = Some(match hint.split_once(':') {
            None if hint == "bypass" => said.bypass(),
            None if hint == "refresh" => said.refresh(),
            Some(("ttl", seconds)) => said.ttl(Duration::from_secs(seconds.parse().map_err(|_| wrong())?)),
            Some(("key-part", part)) => said.key_part(part),
            _ => return Err(wrong()),
        });
    }
    Ok(hints)
}
