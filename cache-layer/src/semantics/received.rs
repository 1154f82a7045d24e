//! A response as the cache received it, from which its freshness, its age and its storability are computed.

use http::{HeaderMap, StatusCode};

use super::{names::Shapes, targeted::ResponseDirectives};

/// The head of a response, its directives for this cache, and the two times of RFC 9111, section 4.2.3, in milliseconds
/// since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    /// The shapes of the names of its fields: most fields that are looked for are absent.
    pub(crate) names: Shapes,
    pub(crate) directives: &'a ResponseDirectives,
    /// When the request was sent.
    pub(crate) request_time: u64,
    /// When the response arrived.
    pub(crate) response_time: u64,
    /// The same moment by the clock of this machine, where the cache's is another one: its dates are compared with that. They are the
    /// origin's, which knows nothing of the cache's clock, and is most often in this process.
    pub(crate) local_time: u64,
}

#[cfg(test)]
impl<'a> Received<'a> {
    /// A response that arrived at the time of its request.
    pub(crate) fn at(
        moment: u64,
        status: StatusCode,
        headers: &'a HeaderMap,
        directives: &'a ResponseDirectives,
    ) -> Self {
        let names = Shapes::of(headers.keys());
        Self { status, headers, names, directives, request_time: moment, response_time: moment, local_time: moment }
    }
}
