//! `No-Vary-Search`: a response that answers several queries.
//!
//! Responses are stored under their own targets, as usual. If a response says which queries are equivalent to its own, an
//! *alias* is stored as well, under the part that all these queries have in common; it only names the response's target. A
//! request finds the response by the alias, and uses it only if the response itself, as it is stored then, says that the two
//! queries are equivalent. So an alias that leads nowhere, or to a changed response, is a miss, and invalidations need not
//! reach aliases.
//!
//! Queries that are equivalent by the newest response of their path are a *class*. Of the requests of this process for one
//! class, one loads, and the others wait. If the response is not of the class, each waiting request loads for itself, and for a
//! while no request of that class waits for another one.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Method, StatusCode};
use sha2::{Digest as _, Sha256};

use super::{
    context::Context,
    plan::{CacheRequest, Plan, is_hinted},
    response_entry::ResponseEntry,
    select::{Selection, Varies},
    target::{KeyRules, Target},
    variations::{NewAlias, Variations},
};
use crate::{
    engine::{Reading, Retrieved, flight::Role, in_progress::InProgress, permit::WritePermit},
    entry::{Deadlines, Entry, EntryId},
    key::Key,
    semantics::{caching_policy::CachingPolicy, no_vary_search::NoVarySearch as Variation},
};

/// The first byte of the metadata of an alias; the target's path and query follow.
const ALIAS: u8 = b'A';

/// How long requests of a class don't wait for each other, after a load returned a response of another class.
const REMEMBER_APART: Duration = Duration::from_secs(5);

/// The alias by which a request finds a response of an equivalent query.
pub(super) struct Alias<'a> {
    key: Key,
    target: &'a Target<'static>,
    variation: Arc<Variation>,
    variations: &'a Variations,
}

impl Alias<'_> {
    /// Joins the load of its class, unless requests of the class load separately.
    pub(super) fn join(&self) -> Option<Role> {
        (!self.variations.apart.has(&self.key)).then(|| self.variations.classes.join(&self.key))
    }

    /// Records that a load of its class returned a response of another class.
    pub(super) fn keep_apart(&self) {
        self.variations.apart.remember(&self.key, REMEMBER_APART);
    }
}

/// Whether a request may be answered by a response for another query.
fn may_have_alias(policy: &CachingPolicy, method: &Method, headers: &HeaderMap, extensions: &Extensions) -> bool {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    is_read && !policy.has_credentials(headers) && !is_hinted(extensions)
}

impl Context {
    /// The alias of a request for `target`; `None` if nothing is known of its path.
    pub(super) fn alias_of<'a>(
        &'a self,
        target: &'a Target<'static>,
        method: &Method,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Option<Alias<'a>> {
        let may_have_alias = |_: &_| may_have_alias(&self.policy.caching, method, headers, extensions);
        let variations = self.variations.as_ref().filter(may_have_alias)?;
        let rules = self.key_rules(headers);
        let variation = variations.known(&target.path_key(&rules))?;
        let key = alias_key(target, &rules, &variation)?;
        Some(Alias { key, target, variation, variations })
    }

    /// The response that an alias leads to, if it is fresh, and says itself that it answers the query. A response that is
    /// stored for the request's own target takes precedence.
    pub(super) async fn select_by_alias(
        &self,
        alias: &Alias<'_>,
        headers: &HeaderMap,
        purpose: Reading,
    ) -> Option<ResponseEntry> {
        let Retrieved::Found(found) = self.cache.read(&alias.key, purpose).await else { return None };
        let (&kind, owner) = found.meta().split_first()?;
        let owner = str::from_utf8(owner).ok().filter(|_| kind == ALIAS)?;
        let owner_key = alias.target.key_of_other(owner, &self.key_rules(headers));
        let Selection::Fresh(hit) = self.select(&owner_key, headers, purpose).await else { return None };
        let response = hit.entry.response();
        // What has taken the place of the alias' own response may be for its clients alone, such as those with `Authorization`.
        let answers = Some(response).filter(|response| response.info.traits.answers_several)?;
        let variation = alias.variations.of(headers, answers.info.status, &answers.headers)?;
        let (path, query) = split(owner);
        let is_one = path == alias.target.path() && variation.are_equivalent(query, alias.target.query());
        is_one.then_some(hit.entry)
    }

    /// The response that is being loaded for another query of the class, if it answers the request, and says itself that it is
    /// of the class.
    pub(super) fn select_of_class(
        &self,
        load: &InProgress,
        alias: &Alias<'_>,
        headers: &HeaderMap,
    ) -> Option<ResponseEntry> {
        let (owner, _) = load.entries.first()?;
        let entry = self.select_among(&load.entries, owner, headers)?;
        let response = entry.response();
        let variation = alias.variations.of(headers, response.info.status, &response.headers)?;
        (variation == *alias.variation).then_some(entry)
    }

    /// The other queries that a response answers, if it says so and the statement is honoured.
    pub(super) fn variation_of(
        &self,
        request: &CacheRequest,
        status: StatusCode,
        response: &HeaderMap,
    ) -> Option<Arc<Variation>> {
        let is_for_all = request.may_have_alias() && !self.policy.caching.has_credentials(&request.headers);
        let variations = self.variations.as_ref().filter(|_| is_for_all)?;
        variations.of(&request.headers, status, response).map(Arc::new)
    }

    /// Makes a response that came at `time` available to the other queries that it answers: the permit stores the alias. If the
    /// response is a variant, the alias lasts as long as the others that are `known`, to which it leads as well.
    pub(super) fn lead_there(
        &self,
        request: &CacheRequest,
        plan: &Plan,
        known: Option<&Varies>,
        time: u64,
        permit: &mut WritePermit,
    ) {
        let (Some(variations), Some(variation)) = (&self.variations, &plan.variation) else { return };
        let path = request.target.path_key(&self.key_rules(&request.headers));
        variations.learn(&path, variation.clone(), time);
        let lasts = known.map_or(plan.deadlines, |known| plan.deadlines.latest(known.index.deadlines()));
        if let Some(alias) = self.alias_to(request, lasts) {
            alias.be_stored_by(permit);
        }
    }

    /// Learns from a response that is stored, maybe by another process.
    pub(super) fn learn_from_stored(
        &self,
        target: &Target<'_>,
        method: &Method,
        headers: &HeaderMap,
        extensions: &Extensions,
        stored: &ResponseEntry,
    ) {
        let Some(variations) = &self.variations else { return };
        let response = stored.response();
        if response.info.traits.answers_several
            && let Some(variation) = variations.of(headers, response.info.status, &response.headers)
            && may_have_alias(&self.policy.caching, method, headers, extensions)
        {
            let path = target.path_key(&self.key_rules(headers));
            variations.learn(&path, Arc::new(variation), response.info.response_time);
        }
    }

    /// The alias of a response that is going to be stored.
    fn alias_to(&self, request: &CacheRequest, deadlines: Deadlines) -> Option<NewAlias> {
        let variations = self.variations.as_ref()?;
        let rules = self.key_rules(&request.headers);
        let variation = variations.known(&request.target.path_key(&rules))?;
        let key = alias_key(&request.target, &rules, &variation)?;
        let meta = [&[ALIAS], request.target.path_and_query().as_bytes()].concat();
        let entry = Entry::new(EntryId::random(), &key, deadlines, meta.into(), Bytes::new());
        // From now on, requests of the class wait for this response, though the class was not known before.
        let flight = match variations.classes.join(&key) {
            Role::Leader(flight) => Some(Box::new(flight)),
            Role::Follower(_) => None,
        };
        Some(NewAlias::new((key, entry), flight))
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
    use http::Request;

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

    fn learn(context: &Context, uri: &str, field: &'static str, time: u64) -> Option<()> {
        let request = request(Method::GET, uri);
        let asked = CacheRequest::of_get(context, Key::new(["k"]), &request).unwrap();
        let headers = HeaderMap::from_iter([("no-vary-search".parse().unwrap(), field.parse().unwrap())]);
        let variation = context.variation_of(&asked, StatusCode::OK, &headers)?;
        let path = asked.target.path_key(&context.key_rules(&asked.headers));
        context.variations.as_ref().unwrap().learn(&path, variation, time);
        Some(())
    }

    #[test]
    fn nothing_is_looked_up_for_a_path_that_never_had_the_field() {
        let context = context();
        let alias = |method, uri| {
            let request = request(method, uri);
            let target = Target::of_request(&context.sites, &request)?.into_owned();
            context.alias_of(&target, request.method(), request.headers(), request.extensions()).map(|alias| alias.key)
        };
        assert!(alias(Method::GET, "http://a/s?x=1").is_none());
        assert!(learn(&context, "http://a/s?x=1&y=2", "params=(\"y\")", 1).is_some());
        assert!(alias(Method::GET, "http://a/t?x=1").is_none() && alias(Method::GET, "http://b/s?x=1").is_none());
        let found = alias(Method::GET, "http://a/s?x=1");
        assert!(found.is_some() && found == alias(Method::HEAD, "http://a/s?y=3&x=1"));
        assert_ne!(found, alias(Method::GET, "http://a/s?x=2"));
        assert!(alias(Method::POST, "http://a/s?x=1").is_none());
        // The newest word counts, in whatever order they are heard.
        learn(&context, "http://a/s", "params=(\"z\")", 3);
        let newest = alias(Method::GET, "http://a/s?x=1");
        assert_ne!(newest, found);
        learn(&context, "http://a/s", "params=(\"y\")", 2);
        assert_eq!(alias(Method::GET, "http://a/s?x=1"), newest);
        assert!(learn(&context, "http://a/s", "except=()", 4).is_none());
    }
}
