//! Layers in one another's way: a load leaves a mark on its request, and a layer further in that meets the mark of its own
//! entry passes the request through instead of waiting for it.
//!
//! In the process the mark is an extension of the request. Between processes, which share a store, it is the field
//! [`FIELD`] with the token of the load's lease: no client can guess one, it counts for as long as the load takes, and all that
//! it does is to send one request to the application, where it was going. What doesn't count goes no further.

use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request};

use super::{context::Context, select::Selection};
use crate::{
    engine::{Cache, Reading},
    key::Key,
    semantics::list::has_any,
    store::LeaseToken,
};

/// The request field by which a load is known to another process.
static FIELD: HeaderName = HeaderName::from_static("cache-layer-load");

/// A load that the request was sent on for, and the one around it.
#[derive(Clone)]
struct LoadMark {
    cache: Cache,
    key: Key,
    outer: Option<Arc<Self>>,
}

impl Context {
    /// Leaves the mark of the load of `key` on its request.
    pub(super) fn mark<B>(&self, request: &mut Request<B>, key: &Key, lease: Option<LeaseToken>) {
        let extensions = request.extensions_mut();
        let outer = extensions.remove::<LoadMark>().map(Arc::new);
        extensions.insert(LoadMark { cache: self.cache.clone(), key: key.clone(), outer });
        // What a private cache asks may be anybody's server, which is not to know.
        let token = lease.filter(|_| !self.cache.is_local() && self.owner.is_none());
        if let Some(value) = token.and_then(|token| HeaderValue::from_bytes(&token).ok()) {
            request.headers_mut().insert(&FIELD, value);
        }
    }

    /// Whether this process is loading `key` for a layer further out.
    pub(super) fn is_nested(&self, key: &Key, extensions: &Extensions) -> bool {
        let mut marks = std::iter::successors(extensions.get::<LoadMark>(), |mark| mark.outer.as_deref());
        marks.any(|mark| mark.key == *key && mark.cache.shares_with(&self.cache))
    }

    /// Whether this process is loading anything for a layer further out.
    pub(super) fn is_within_a_load(extensions: &Extensions) -> bool {
        extensions.get::<LoadMark>().is_some()
    }

    /// Takes the mark that another process may have left.
    pub(super) fn take_mark(&self, headers: &mut HeaderMap) -> Option<HeaderValue> {
        // A store of this process has nothing to do with another one.
        let marked = !self.cache.is_local() && has_any(headers, std::slice::from_ref(&FIELD));
        if marked { headers.remove(&FIELD) } else { None }
    }

    /// Whether `mark` is that of a load of what this request would wait for. It stays on the request then, for layers that
    /// are further in still.
    pub(super) async fn keep_mark(
        &self,
        headers: &mut HeaderMap,
        key: &Key,
        mark: HeaderValue,
        purpose: Reading,
    ) -> bool {
        let Some(token) =
            LeaseToken::try_from(mark.as_bytes()).ok().filter(|token| token.iter().all(u8::is_ascii_hexdigit))
        else {
            return false;
        };
        let place = match self.select(key, headers, purpose).await {
            Selection::Fresh(hit) => hit.key(key),
            Selection::Stale(_, miss) | Selection::Missing(miss) if miss.reached_store() => miss.key,
            // A store that doesn't answer has given no lease that this request would wait for, and a client could have made the
            // mark up: so it counts for nothing.
            Selection::Stale(..) | Selection::Missing(_) => return false,
        };
        let nested = self.cache.is_held_by(&place, token).await.unwrap_or(false);
        if nested {
            headers.insert(&FIELD, mark);
        }
        nested
    }
}
