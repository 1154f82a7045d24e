//! Drives a service to readiness and calls it once (as `tower::util::Oneshot` does, without a dependency on `tower`).

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower_service::Service;

pin_project! {
    #[project = OneshotProj]
    pub(super) enum Oneshot<S: Service<Q>, Q> {
        Waiting { service: S, request: Option<Q> },
        Called { #[pin] future: S::Future },
    }
}

impl<S: Service<Q>, Q> Oneshot<S, Q> {
    pub(super) fn new(service: S, request: Q) -> Self {
        Self::Waiting { service, request: Some(request) }
    }

    /// The request, which must not have been sent yet.
    pub(super) fn request(&self) -> &Q {
        match self {
            Self::Waiting { request: Some(request), .. } => request,
            _ => panic!("the request was sent"),
        }
    }

    /// As [`request`](Self::request).
    pub(super) fn request_mut(self: Pin<&mut Self>) -> &mut Q {
        match self.project() {
            OneshotProj::Waiting { request: Some(request), .. } => request,
            _ => panic!("the request was sent"),
        }
    }

    /// The service and the request, which must not have been sent yet.
    pub(super) fn unsent(self: Pin<&mut Self>) -> (S, Q)
    where
        S: Clone,
    {
        match self.project() {
            OneshotProj::Waiting { service, request } => {
                (service.clone(), request.take().expect("the request was sent"))
            }
            OneshotProj::Called { .. } => panic!("the request was sent"),
        }
    }
}

impl<S: Service<Q>, Q> Future for Oneshot<S, Q> {
    type Output = Result<S::Response, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let future = match self.as_mut().project() {
                OneshotProj::Called { future } => return future.poll(cx),
                OneshotProj::Waiting { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    service.call(request.take().expect("polled after it was ready"))
                }
            };
            self.set(Self::Called { future });
        }
    }
}
