//! What to store of a response, or why nothing.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode,
    header::{AGE, DATE},
};

use super::{
    annotate,
    context::Context,
    minted::{self, with_tag},
    remaining_freshness::RemainingFreshness,
    response_entry::ResponseEntry,
    select::Varies,
    stored::{Stored, StoredResponse, StoredVaries, Traits},
    target::Target,
};
use crate::{
    clock::millis,
    entry::{Deadlines, Entry, EntryId, Version},
    inherit::Reads,
    key::Key,
    policy::Freshness,
    semantics::{
        compressed::is_compressed,
        date::write_http_date,
        freshness::{initial_age, lifetime},
        groups::cache_groups,
        received::Received,
        staleness::{Windows, forbids_stale_use},
        storable::{refusal_of_freshness, refusal_of_response, retain_stored_fields},
        tag_fields::named_tags,
        targeted::ResponseDirectives,
        vary::{Vary, VaryFields},
    },
    store::Writes,
    tag::Tags,
    telemetry::NoCacheReason,
};

/// A request as the cache sees it: what its response is stored for.
pub(super) struct CacheRequest {
    pub(super) target: Target<'static>,
    /// The primary key.
    pub(super) key: Key,
    pub(super) method: Method,
    /// For the load, and for the request that waits for it.
    pub(super) headers: Arc<HeaderMap>,
    /// When it was sent on, in milliseconds since the Unix epoch.
    pub(super) time: u64,
}

impl CacheRequest {
    /// A request that is answered as GET is. `None` if it doesn't say clearly which host it is for.
    pub(super) fn of_get<B>(context: &Context, key: Key, request: &Request<B>) -> Option<Self> {
        let target = Target::of_request(&context.sites, request)?.into_owned();
        let headers = Arc::new(context.policy.cookies.that_count(request.headers()).into_owned());
        Some(Self { target, key, method: Method::GET, headers, time: context.cache.now() })
    }
}

/// A response as the application gave it, apart from its body.
pub(super) struct OriginResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// What its handler said about it beside its fields.
    pub(super) tags: Tags,
    pub(super) freshness: Option<Freshness>,
    /// What its handler read from the cache, if the response is to inherit from that.
    pub(super) inherited: Option<Reads>,
    /// The least that its body can be.
    pub(super) length: u64,
}

/// What is going to be stored, but for the body.
pub(super) struct Plan {
    response: StoredResponse,
    vary: Option<VaryFields>,
    tags: Tags,
    deadlines: Deadlines,
    /// Whether it is to be given an entity tag.
    mints: bool,
}

/// The entries of a response, before its payload is there.
pub(super) struct Draft {
    guard: Option<(Key, Version)>,
    /// The entry that leads to the response, if the key has variants.
    parent: Option<(Key, Entry)>,
    response: (Key, Entry),
    tags: Tags,
    mints: bool,
}

impl Draft {
    /// Gives the response an entity tag of its `content`, if it is to have one.
    pub(super) fn mint<'a>(&mut self, content: impl Iterator<Item = &'a Bytes>) -> Option<HeaderValue> {
        let (_, entry) = &mut self.response;
        let (meta, tag) = self.mints.then(|| with_tag(entry.meta(), content))??;
        *entry = entry.clone().described(meta);
        Some(tag)
    }

    /// The entries, the response's without its payload.
    pub(super) fn entries(&self) -> Arc<[(Key, Entry)]> {
        self.parent.iter().chain([&self.response]).cloned().collect()
    }

    /// Puts the payload in its place. Returns the response's entry, too.
    pub(super) fn complete(self, with_payload: impl FnOnce(Entry) -> Entry) -> (Writes, Tags, ResponseEntry) {
        let Self { guard, parent, response: (key, entry), tags, .. } = self;
        let entry = with_payload(entry);
        let response = ResponseEntry::written(entry.clone());
        let entries = parent.into_iter().chain([(key, entry)]).collect();
        (Writes { entries, guard }, tags, response)
    }
}

impl Plan {
    /// What is left of the response's freshness.
    pub(super) fn remaining_freshness(&self, now: u64) -> RemainingFreshness {
        RemainingFreshness::new(self.response.age(now), &self.deadlines, now)
    }
}

impl Context {
    /// What to store of `response`.
    pub(super) fn plan(&self, request: &CacheRequest, response: OriginResponse) -> Result<Plan, NoCacheReason> {
        let OriginResponse { status, mut headers, tags, freshness, inherited, length } = response;
        let policy = &self.policy.caching;
        let response_time = self.cache.now();
        let directives = freshness
            .map_or_else(|| ResponseDirectives::from_headers(&headers, &policy.targets), Freshness::directives);
        let received =
            Received { status, headers: &headers, directives: &directives, request_time: request.time, response_time };
        self.check(request, &received)?;
        let inherited = inherited.unwrap_or_default();
        let left = inherited.fresh_until.map(|moment| moment.saturating_sub(response_time));
        if left == Some(0) {
            return Err(NoCacheReason::MadeFromStale);
        }
        let rule = self.policy.ttl(request.target.path()).map(millis);
        let ruled = rule.is_some();
        let rule = rule.or(left);
        let mut lifetime = lifetime(policy, &received, rule);
        if let Some(lifetime) = &mut lifetime {
            lifetime.millis = self.jittered(lifetime.millis).min(left.unwrap_or(u64::MAX));
        }
        let age = initial_age(&received);
        let windows = Windows::new(policy, &received, lifetime, age);
        if let Some(reason) = refusal_of_freshness(&request.headers, &received, lifetime, &windows, ruled) {
            return Err(reason);
        }
        if !self.policy.keeps(status, &headers) {
            return Err(NoCacheReason::KeepIf);
        }
        if length > self.policy.max_body {
            return Err(NoCacheReason::BodyTooLarge);
        }
        let tags = self.tags_of(request, &headers, inherited.tags_and(tags))?;
        let vary = match Vary::from_headers(&headers) {
            None => None,
            Some(Vary::Fields(fields)) => Some(fields),
            Some(Vary::Star) => return Err(NoCacheReason::VaryStar),
        };
        let mints = self.policy.etags && minted::is_due(status, &headers, &directives.cache_control);
        annotate::clear(&mut headers);
        self.policy.strip_internal(&mut headers);
        retain_stored_fields(policy, &self.policy.not_stored, &mut headers);
        let cc = &directives.cache_control;
        let response = StoredResponse {
            status,
            headers,
            response_time,
            initial_age: age,
            stale_if_disconnected: windows.stale_if_disconnected,
            traits: Traits {
                immutable: cc.immutable,
                never_stale: forbids_stale_use(cc),
                no_circle: true,
                ..Traits::default()
            },
            parent: None,
        };
        Ok(Plan { response, vary, tags, deadlines: deadlines(&windows, response_time), mints })
    }

    /// Whether a response may be stored, whatever its freshness.
    fn check(&self, request: &CacheRequest, received: &Received<'_>) -> Result<(), NoCacheReason> {
        let redirects =
            || request.target.redirects_to_itself(&self.key_rules(&request.headers), received.status, received.headers);
        match refusal_of_response(&self.policy.caching, &request.headers, received) {
            Some(reason) => Err(reason),
            None if request.target.states_port() => Err(NoCacheReason::StatedPort),
            None if redirects() => Err(NoCacheReason::RedirectToItself),
            None => Ok(()),
        }
    }

    /// The tags of a response: these, and those that its fields name.
    fn tags_of(&self, request: &CacheRequest, headers: &HeaderMap, mut tags: Tags) -> Result<Tags, NoCacheReason> {
        let groups = cache_groups(headers).ok_or(NoCacheReason::TooManyTags)?;
        let groups: Vec<String> = groups.iter().map(|group| self.group_tag(&request.target, group)).collect();
        let named = named_tags(headers, &self.policy.tag_fields).ok_or(NoCacheReason::TooManyTags)?;
        if !named.is_empty() || !groups.is_empty() {
            tags = Tags::new(tags.iter().chain(named).chain(groups.iter().map(String::as_str)));
        }
        if tags.fit() { Ok(tags) } else { Err(NoCacheReason::TooManyTags) }
    }

    /// The tag of a cache group: groups are an origin's own (RFC 9875, section 2).
    pub(super) fn group_tag(&self, target: &Target<'_>, group: &str) -> String {
        format!("group {} {} {group}", self.namespace, target.origin())
    }

    /// Milliseconds since the application was asked.
    pub(super) fn load_time(&self, request: &CacheRequest) -> u64 {
        self.cache.now().saturating_sub(request.time)
    }

    fn jittered(&self, lifetime: u64) -> u64 {
        lifetime - fastrand::u64(..=lifetime / 100 * u64::from(self.policy.jitter))
    }

    /// Without a date of its own, a response is dated before any client has it: a later answer can't know the date.
    pub(super) fn dated<'a>(&self, headers: &'a mut HeaderMap) -> &'a HeaderValue {
        headers.entry(DATE).or_insert_with(|| write_http_date(self.cache.now() / 1000))
    }

    /// The entries of a plan. The response is a new variant if there was nothing in its place.
    pub(super) fn draft(&self, plan: Plan, request: &CacheRequest, known: Option<Varies>, is_new: bool) -> Draft {
        let Plan { mut response, vary, tags, deadlines, mints } = plan;
        // The load ran under a variant's lease, which an invalidation of the key doesn't reach. The primary entry is
        // what it deletes: without the one that was seen, nothing is written.
        let guard = known.as_ref().map(|known| (request.key.clone(), known.version));
        let is_compressed = is_compressed(&response.headers);
        let entry = |id, key: &Key, stored: &Stored| {
            Entry::new(id, key, deadlines, stored.to_bytes(), Bytes::new()).compressed(is_compressed)
        };
        let Some(fields) = vary else {
            let stored = Stored::Response(response);
            let entry = entry(EntryId::random(), &request.key, &stored);
            return Draft { guard, parent: None, response: (request.key.clone(), entry), tags, mints };
        };
        // The same selecting fields keep their entry's id, and with it the variants that name it, until they are too
        // many, or softened: written again, the entry would make them fresh.
        let (parent, variants) = match known {
            Some(Varies { version: Version { id, .. }, stored, softened: None }) if stored.fields == fields => {
                match stored.variants.saturating_add(u16::from(is_new)) {
                    variants if variants <= self.policy.max_variants => (id, variants),
                    _ => (EntryId::random(), 1),
                }
            }
            _ => (EntryId::random(), 1),
        };
        let variant = self.variant_key(&request.key, &fields, &request.headers);
        let varies = Stored::Varies(StoredVaries { fields, variants });
        response.parent = Some(parent);
        let stored = Stored::Response(response);
        // Loads that begin at the same time count the same variants: the store that writes them counts better.
        let leads_there = entry(parent, &request.key, &varies).leading_to(self.policy.max_variants);
        let response = entry(EntryId::random(), &variant, &stored);
        Draft { guard, parent: Some((request.key.clone(), leads_there)), response: (variant, response), tags, mints }
    }

    /// The stored response as it is, but that the application doesn't know it by its validators.
    pub(super) fn unmatched(&self, entry: &ResponseEntry, request: &CacheRequest, known: Option<&Varies>) -> Writes {
        let stored = entry.response();
        let mut headers = stored.headers.clone();
        annotate::clear(&mut headers);
        headers.remove(AGE);
        let is_compressed = is_compressed(&headers);
        let response = Stored::Response(StoredResponse {
            headers,
            stale_if_disconnected: stored.stale_if_disconnected.saturating_sub(entry.brought_forward()),
            traits: Traits { unmatched: true, ..stored.traits },
            ..*stored
        });
        let key = known.map_or_else(
            || request.key.clone(),
            |known| self.variant_key(&request.key, &known.stored.fields, &request.headers),
        );
        let entry = Entry::new(EntryId::random(), &key, entry.deadlines(), response.to_bytes(), Bytes::new())
            .compressed(is_compressed)
            .loaded_again(entry, entry.load_time());
        Writes { entries: vec![(key, entry)], guard: known.map(|known| (request.key.clone(), known.version)) }
    }
}

fn deadlines(windows: &Windows, made: u64) -> Deadlines {
    Deadlines {
        made,
        fresh: windows.fresh,
        stale_while_revalidate: windows.stale_while_revalidate,
        stale_if_error: windows.stale_if_error,
        gone: windows.keep.max(windows.fresh),
    }
}

/// Whether the next response to the same request will most likely be refused for the same reason.
pub(super) fn is_lasting(reason: NoCacheReason) -> bool {
    matches!(
        reason,
        NoCacheReason::NoStore
            | NoCacheReason::Private
            | NoCacheReason::NoCache
            | NoCacheReason::SetCookie
            | NoCacheReason::VaryStar
            | NoCacheReason::EventStream
            | NoCacheReason::Grpc
            | NoCacheReason::NoFreshness
            | NoCacheReason::AlreadyStale
            | NoCacheReason::Rule
            | NoCacheReason::OneClient
            | NoCacheReason::BodyTooLarge
            | NoCacheReason::Trailers
            | NoCacheReason::TooManyTags
    )
}
