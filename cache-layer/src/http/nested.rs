//! Requests that pass two layers over one cache: a load leaves a note on its request, and an inner layer that would look the same
//! entry up passes the request through instead of waiting for the load that encloses it. A POST whose answer may be stored is such
//! a load.
//!
//! Within a process the note is an extension of the request, [`EnclosingLoad`]. Between processes that share a store, it is the
//! field [`FIELD`] with the token of the load's lease. No client can guess a token, a token is valid only while its load runs,
//! and its only effect is that one request goes to the application. A field with an invalid token is removed.

use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request};

use super::{context::Context, select::Selection};
use crate::{
    engine::{Cache, Reading, enclosing::EnclosingLoads},
    key::Key,
    semantics::list::has_any,
    store::LeaseToken,
};

/// The request field by which a load is known to another process.
static FIELD: HeaderName = HeaderName::from_static("cache-layer-load");

/// The load that a request belongs to, and the load around that one.
#[derive(Clone)]
struct EnclosingLoad {
    cache: Cache,
    key: Key,
    outer: Option<Arc<Self>>,
}

impl Context {
    /// Notes on a request that the load of `key` encloses it.
    pub(super) fn enclose<B>(&self, request: &mut Request<B>, key: &Key, lease: Option<LeaseToken>) {
        let extensions = request.extensions_mut();
        let outer = extensions.remove::<EnclosingLoad>().map(Arc::new);
        extensions.insert(EnclosingLoad { cache: self.cache.clone(), key: key.clone(), outer });
        // A private cache may send requests to any server, which must not learn the token.
        let token = lease.filter(|_| !self.cache.is_local() && self.owner.is_none());
        if let Some(value) = token.and_then(|token| HeaderValue::from_bytes(&token).ok()) {
            request.headers_mut().insert(&FIELD, value);
        }
    }

    /// Whether this process is loading `key` for a layer further out.
    pub(super) fn is_nested(&self, key: &Key, extensions: &Extensions) -> bool {
        let mut loads = std::iter::successors(extensions.get::<EnclosingLoad>(), |load| load.outer.as_deref());
        loads.any(|load| load.key == *key && load.cache.shares_with(&self.cache))
    }

    /// Whether this process is loading anything for a layer further out, or anything that has a place among the loads of this one.
    pub(super) fn is_within_a_load(&self, extensions: &Extensions) -> bool {
        extensions.get::<EnclosingLoad>().is_some() || EnclosingLoads::here().place_at(&self.load_limit).is_some()
    }

    /// Removes and returns the token of the load that encloses the request in another process, as the request states it.
    pub(super) fn take_enclosing(&self, headers: &mut HeaderMap) -> Option<HeaderValue> {
        // A store in this process is not shared with another process.
        let is_stated = !self.cache.is_local() && has_any(headers, std::slice::from_ref(&FIELD));
        if is_stated { headers.remove(&FIELD) } else { None }
    }

    /// Whether `enclosing` is the token of the load that this request would wait for. If so, the field stays on the request, for
    /// layers further in.
    pub(super) async fn is_enclosed_by(
        &self,
        headers: &mut HeaderMap,
        key: &Key,
        enclosing: HeaderValue,
        purpose: Reading,
    ) -> bool {
        let Some(token) =
            LeaseToken::try_from(enclosing.as_bytes()).ok().filter(|token| token.iter().all(u8::is_ascii_hexdigit))
        else {
            return false;
        };
        let awaited = match self.select(key, headers, purpose).await {
            Selection::Fresh(hit) => hit.key(key),
            Selection::Stale(_, miss) | Selection::Missing(miss) if miss.reached_store() => miss.key,
            // If the store doesn't answer, there is no lease that this request would wait for, and a client could have made the
            // token up: so the token is ignored.
            Selection::Stale(..) | Selection::Missing(_) => return false,
        };
        let nested = self.cache.is_held_by(&awaited, token).await.unwrap_or(false);
        if nested {
            headers.insert(&FIELD, enclosing);
        }
        nested
    }
}
