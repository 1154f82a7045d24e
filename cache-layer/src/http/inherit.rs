//! A response that inherits from what its handler read.

use http::Response;

use super::service::Shared;
use crate::inherit;

impl Shared {
    /// Runs a handler; its response is given what was read meanwhile, if it is to inherit from that.
    pub(super) async fn with_reads<R, E>(
        &self,
        handler: impl Future<Output = Result<Response<R>, E>>,
    ) -> Result<Response<R>, E> {
        if !self.policy.inherits {
            return handler.await;
        }
        let (result, reads) = inherit::collect(handler).await;
        result.map(|mut response| {
            response.extensions_mut().insert(reads);
            response
        })
    }
}
