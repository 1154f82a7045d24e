//! `No-Vary-Search`: a response that answers for more queries than its own.
//!
//! Responses are kept under their own targets, as ever. Beside one that says which queries are one with its own, an *alias* is
//! kept, under what all of those have in common; it names the target, and nothing else. A request finds the response by the
//! alias, and has it only if the response itself, as it is stored then, says that the two queries are one. So an alias that
//! leads nowhere, or to what has changed, is a miss, and no invalidation has to reach it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use sha2::{Digest as _, Sha256};

use super::{
    context::Context,
    plan::{CacheRequest, is_hinted},
    response_entry::ResponseEntry,
    select::Selection,
    target::{KeyRules, Target},
};
use crate::{
    engine::{Reading, Retrieved},
    entry::{Deadlines, Entry, EntryId},
    key::Key,
    semantics::no_vary_search::NoVarySearch as Variation,
    throttle::Throttle,
};

/// The first byte of the metadata of an alias; the target's path and query follow.
const ALIAS: u8 = b'A';

/// Where a request finds a response that answers its query, too.
pub(super) struct Alias {
    key: Key,
    target: Target<'static>,
}

impl Context {
    /// The alias of a request for which nothing is stored under its own target; `None` if nothing is known of its path.
    pub(super) fn alias_of<B>(&self, request: &Request<B>) -> Option<Alias> {
        let variations = self.variations.as_ref()?;
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        if !is_read || request.headers().contains_key(header::AUTHORIZATION) || is_hinted(request) {
            return None;
        }
        let target = Target::of_request(&self.sites, request)?;
        let rules = self.key_rules(request.headers());
        let variation = variations.known(&target.path_key(&rules))?;
        let key = alias_key(&target, &rules, &variation)?;
        Some(Alias { key, target: target.into_owned() })
    }

    /// The response that an alias leads to, if it is fresh, and says itself that it answers the query. `None` if there is
    /// something under the request's own `key`, which comes first.
    pub(super) async fn select_by_alias(
        &self,
        key: &Key,
        headers: &HeaderMap,
        alias: &Alias,
        purpose: Reading,
    ) -> Option<ResponseEntry> {
        let variations = self.variations.as_ref()?;
        if !matches!(self.cache.read(key, purpose).await, Retrieved::Missing(_)) {
            return None;
        }
        let Retrieved::Found(found) = self.cache.read(&alias.key, purpose).await else { return None };
        let (&kind, owner) = found.meta().split_first()?;
        let owner = str::from_utf8(owner).ok().filter(|_| kind == ALIAS)?;
        let owner_key = alias.target.key_of_other(owner, &self.key_rules(headers));
        let Selection::Fresh(hit) = self.select(&owner_key, headers, purpose).await else { return None };
        let response = hit.entry.response();
        let variation = variations.of(headers, response.info.status, &response.headers)?;
        let (path, query) = split(owner);
        let is_one = path == alias.target.path() && variation.are_equivalent(query, alias.target.query());
        is_one.then_some(hit.entry)
    }

    /// For which other queries a response is an answer as well, if it says so and may be believed.
    pub(super) fn variation_of(
        &self,
        request: &CacheRequest,
        status: StatusCode,
        response: &HeaderMap,
    ) -> Option<Arc<Variation>> {
        let variations = self.variations.as_ref().filter(|_| request.may_have_alias())?;
        variations.of(&request.headers, status, response).map(Arc::new)
    }

    /// Learns from a response that is going to be stored.
    pub(super) fn learn_variation(&self, request: &CacheRequest, variation: Arc<Variation>) {
        if let Some(variations) = &self.variations {
            variations.learn(&request.target.path_key(&self.key_rules(&request.headers)), variation);
        }
    }

    /// Keeps the alias of a response that is going to be stored, in a task of its own.
    pub(super) fn keep_alias(&self, request: &CacheRequest, variation: &Variation, deadlines: Deadlines) {
        let rules = self.key_rules(&request.headers);
        let Some(key) = alias_key(&request.target, &rules, variation) else { return };
        let meta = [&[ALIAS], request.target.path_and_query().as_bytes()].concat();
        let entry = Entry::new(EntryId::random(), &key, deadlines, meta.into(), Bytes::new());
        let cache = self.cache.clone();
        drop(self.cache.spawn(async move {
            if let Err(error) = cache.put_alias(key, entry).await {
                static THROTTLE: Throttle = Throttle::new();
                if let Some(kept_back) = THROTTLE.pass() {
                    tracing::debug!(%error, kept_back, "an alias is not kept");
                }
            }
        }));
    }
}

fn split(path_and_query: &str) -> (&str, Option<&str>) {
    path_and_query.split_once('?').map_or((path_and_query, None), |(path, query)| (path, Some(query)))
}

fn alias_key(target: &Target<'_>, rules: &KeyRules<'_>, variation: &Variation) -> Option<Key> {
    let canonical = variation.canonical(target.query())?;
    Some(target.alias_key(rules, &Sha256::digest(canonical).into()))
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use super::*;
    use crate::{engine::Cache, http::variations::Variations, policy::NoVarySearch, store::MemoryStore};

    fn context() -> Context {
        let mut context = Context::new(Cache::new(MemoryStore::new(1 << 20)));
        context.variations = Some(Variations::new(NoVarySearch::new()));
        context
    }

    fn request(method: Method, uri: &str) -> Request<()> {
        Request::builder().method(method).uri(uri).body(()).unwrap()
    }

    fn learn(context: &Context, uri: &str, field: &'static str) -> Option<()> {
        let request = request(Method::GET, uri);
        let asked = CacheRequest::of_get(context, Key::new(["k"]), &request).unwrap();
        let headers = HeaderMap::from_iter([("no-vary-search".parse().unwrap(), field.parse().unwrap())]);
        let variation = context.variation_of(&asked, StatusCode::OK, &headers)?;
        context.learn_variation(&asked, variation);
        Some(())
    }

    #[test]
    fn nothing_is_looked_up_for_a_path_that_never_had_the_field() {
        let context = context();
        let alias = |method, uri| context.alias_of(&request(method, uri)).map(|alias| alias.key);
        assert!(alias(Method::GET, "http://a/s?x=1").is_none());
        assert!(learn(&context, "http://a/s?x=1&y=2", "params=(\"y\")").is_some());
        assert!(alias(Method::GET, "http://a/t?x=1").is_none() && alias(Method::GET, "http://b/s?x=1").is_none());
        let found = alias(Method::GET, "http://a/s?x=1");
        assert!(found.is_some() && found == alias(Method::HEAD, "http://a/s?y=3&x=1"));
        assert_ne!(found, alias(Method::GET, "http://a/s?x=2"));
        assert!(alias(Method::POST, "http://a/s?x=1").is_none());
        // The newest word counts.
        learn(&context, "http://a/s", "params=(\"z\")");
        assert_ne!(alias(Method::GET, "http://a/s?x=1"), found);
        assert!(learn(&context, "http://a/s", "except=()").is_none());
    }
}
