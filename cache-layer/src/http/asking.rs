//! A request whose answer is not in memory, on its way to the store or the application.

use std::{pin::Pin, sync::Arc};

use http::Request;

use super::{context::Context, oneshot::Oneshot, origin::Origin, target::Target};
use crate::key::Key;

/// A request that the cache has to answer.
pub(super) struct Asking<S: Origin<B>, B> {
    pub(super) context: Arc<Context>,
    /// The request on its way to the service behind the cache. It is boxed once, because it is large, and passed from step to step.
    pub(super) sending: Pin<Box<Oneshot<S, Request<B>>>>,
    pub(super) key: Key,
    pub(super) target: Target<'static>,
}

impl<S: Origin<B>, B> Asking<S, B> {
    pub(super) fn request(&self) -> &Request<B> {
        self.sending.request()
    }
}
