//! A request whose answer is not in memory, on its way to the store or the application.

use std::{
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use http::Request;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{context::Context, oneshot::Oneshot, target::Target};
use crate::key::Key;

/// A request that the cache has to answer.
pub(super) struct Asking<S: Service<Request<B>>, B> {
    pub(super) context: Arc<Context>,
    /// It is boxed once, because it is large, and passed from step to step.
    pub(super) sending: Pin<Box<Sending<S, B>>>,
}

pin_project! {
    /// A request on its way to the service behind the cache.
    pub(super) struct Sending<S: Service<Request<B>>, B> {
        #[pin]
        request: Oneshot<S, Request<B>>,
        // What it asks for, until its next step takes that.
        asked: Option<(Key, Target<'static>)>,
    }
}

impl<S: Service<Request<B>>, B> Sending<S, B> {
    pub(super) fn new(service: S, request: Request<B>, key: Key, target: Target<'static>) -> Self {
        Self { request: Oneshot::new(service, request), asked: Some((key, target)) }
    }

    /// The request, which must not have been sent yet.
    pub(super) fn request(&self) -> &Request<B> {
        self.request.request()
    }

    /// As [`request`](Self::request).
    pub(super) fn request_mut(self: Pin<&mut Self>) -> &mut Request<B> {
        self.project().request.request_mut()
    }

    /// The service and the request, which must not have been sent yet.
    pub(super) fn unsent(self: Pin<&mut Self>) -> (S, Request<B>)
    where
        S: Clone,
    {
        self.project().request.unsent()
    }

    /// What it asks for, which must not have been taken yet.
    pub(super) fn asked(&self) -> &(Key, Target<'static>) {
        self.asked.as_ref().expect("it was taken")
    }

    /// As [`asked`](Self::asked).
    pub(super) fn take_asked(self: Pin<&mut Self>) -> (Key, Target<'static>) {
        self.project().asked.take().expect("it was taken")
    }
}

impl<S: Service<Request<B>>, B> Future for Sending<S, B> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        self.project().request.poll(cx)
    }
}
