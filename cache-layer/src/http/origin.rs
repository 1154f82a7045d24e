//! The service behind the cache.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

/// The bounds of a service behind the cache; every service that meets them is an origin.
pub(super) trait Origin<B>:
    Service<Request<B>, Response = Response<Self::Content>, Error: Send + 'static, Future: Send + 'static>
    + Clone
    + Send
    + 'static
{
    /// The body of its responses.
    type Content: Body<Data = Bytes, Error: Send + 'static> + Send + 'static;
}

impl<S, B, R> Origin<B> for S
where
    S: Service<Request<B>, Response = Response<R>, Error: Send + 'static, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
    R: Body<Data = Bytes, Error: Send + 'static> + Send + 'static,
{
    type Content = R;
}
