//! What a load replies to the request that waits for it.

use http::Response;
use http_body::Body;

use super::{annotate::Served, body::ResponseBody, response_entry::ResponseEntry};

pub(super) enum LoadReply<R: Body, E> {
    /// This entry is the answer.
    Entry(ResponseEntry, Served),
    Response(Response<ResponseBody<R>>),
    Failed(E),
}
