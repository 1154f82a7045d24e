//! A request whose answer is not in memory, on its way to the store or the application.

use std::sync::Arc;

use http::Request;

use super::{context::Context, target::Target};
use crate::key::Key;

/// A request that the cache has to answer, and the service behind the cache. It is boxed, because it is large, and passed from
/// step to step.
pub(super) struct Asking<S, B> {
    pub(super) context: Arc<Context>,
    pub(super) service: S,
    pub(super) request: Request<B>,
    pub(super) key: Key,
    pub(super) target: Target<'static>,
}
