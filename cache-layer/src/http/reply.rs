//! What a load replies to the request that waits for it.

use http::{HeaderValue, Response};
use http_body::Body;

use super::{annotate::Served, body::ResponseBody, response_entry::ResponseEntry};

pub(super) enum LoadReply<R: Body, E> {
    /// This entry is the answer.
    Entry(ResponseEntry, Served),
    /// It is, with cookies that the application sets in the request's client: they are not kept.
    WithCookies(Box<(ResponseEntry, Served, Vec<HeaderValue>)>),
    Response(Response<ResponseBody<R>>),
    Failed(E),
}
