//! The reply of a load to the request that waits for it.

use http::{HeaderValue, Response};
use http_body::Body;
use tokio::task::JoinHandle;

use super::{annotate::Served, body::ResponseBody, response_entry::ResponseEntry};

pub(super) enum LoadReply<R: Body, E> {
    /// This entry is the answer.
    Entry(ResponseEntry, Served),
    /// This entry is the answer, with cookies for the request's client, which are not stored.
    WithCookies(Box<(ResponseEntry, Served, Vec<HeaderValue>)>),
    Response(Response<ResponseBody<R>>),
    Failed(E),
}

impl<R: Body, E> LoadReply<R, E> {
    /// This entry, with these cookies if there are any.
    pub(super) fn entry(entry: ResponseEntry, served: Served, cookies: Vec<HeaderValue>) -> Self {
        match cookies.is_empty() {
            true => Self::Entry(entry, served),
            false => Self::WithCookies(Box::new((entry, served, cookies))),
        }
    }

    /// Sets the task that records the body of the response, if a task does.
    pub(super) fn set_recorder(&mut self, task: JoinHandle<()>) {
        if let Self::Response(response) = self {
            response.body_mut().set_recorder(task);
        }
    }

    /// Receives the reply in place of a request that has been answered otherwise, for as long as its body is recorded.
    pub(super) async fn received(self) {
        if let Self::Response(response) = self {
            response.into_body().received().await;
        }
    }
}
