//! What to store for a response, or why it is not stored.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode,
    header::{AGE, CONTENT_ENCODING, DATE},
};
use smallvec::smallvec;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    annotate,
    context::Context,
    hints::Hints,
    minted::{self, with_tag},
    remaining_freshness::RemainingFreshness,
    response_entry::ResponseEntry,
    select::Varies,
    stored::{MOST_FIELDS, Stored, StoredInfo, StoredVaries, Traits},
    target::Target,
};
use crate::{
    clock::millis,
    entry::{Deadlines, Entry, EntryHead, EntryId, Version},
    inherit::Reads,
    key::Key,
    policy::Freshness,
    semantics::{
        cache_control::CacheControl,
        compressed::is_compressed,
        date::write_http_date,
        freshness::{initial_age, lifetime},
        groups::{GROUPS, cache_groups},
        list::has,
        names::{Shaped, Shapes},
        no_vary_search::NoVarySearch as Variation,
        received::Received,
        stale_windows::{Windows, forbids_stale_use},
        storable::{is_stored_field, refusal_of_freshness, refusal_of_response},
        tag_fields::named_tags,
        vary::{Vary, VaryFields},
    },
    store::Writes,
    tag::{TagState, Tags},
    telemetry::NoCacheReason,
};

/// A request as the cache sees it: the request that a response is stored for.
pub(super) struct CacheRequest {
    pub(super) target: Target<'static>,
    /// The primary key.
    pub(super) key: Key,
    pub(super) method: Method,
    /// Whether its content is part of its key.
    pub(super) has_content: bool,
    /// Whether a layer outside has added a part to its key.
    pub(super) is_hinted: bool,
    /// Shared by the load, and the request that waits for it.
    pub(super) headers: Arc<HeaderMap>,
    /// When it was forwarded, in milliseconds since the Unix epoch.
    pub(super) time: u64,
}

impl CacheRequest {
    /// A request that is answered like GET, and has not been forwarded yet.
    pub(super) fn as_get<B>(context: &Context, target: Target<'static>, key: Key, request: &Request<B>) -> Self {
        let has_content = !matches!(*request.method(), Method::GET | Method::HEAD);
        let headers = Arc::new(context.policy.cookies.that_count(request.headers()).into_owned());
        Self {
            target,
            key,
            method: Method::GET,
            has_content,
            is_hinted: is_hinted(request.extensions()),
            headers,
            time: 0,
        }
    }

    /// Whether its response may answer other queries as well: its key has no content and no hinted parts.
    pub(super) fn may_have_alias(&self) -> bool {
        !self.has_content && !self.is_hinted
    }

    /// A request that is answered like GET, and is forwarded now. `None` if it doesn't clearly state its host.
    pub(super) fn of_get<B>(context: &Context, key: Key, request: &Request<B>) -> Option<Self> {
        let target = Target::of_request(&context.sites, request)?.into_owned();
        Some(Self { time: context.cache.now(), ..Self::as_get(context, target, key, request) })
    }
}

/// Whether a layer outside has added a part to the request's key.
pub(super) fn is_hinted(extensions: &Extensions) -> bool {
    extensions.get::<Hints>().is_some_and(|hints| !hints.key_parts.is_empty())
}

/// A response as the application gave it, apart from its body.
pub(super) struct OriginResponse<'h> {
    pub(super) status: StatusCode,
    pub(super) headers: &'h HeaderMap,
    /// The shapes of their names.
    pub(super) names: Shapes,
    /// When it was received, in milliseconds since the Unix epoch.
    pub(super) time: u64,
    /// What its handler set in its extensions.
    pub(super) tags: Tags,
    pub(super) freshness: Option<Freshness>,
    /// The reads of its handler, if the response inherits from them.
    pub(super) inherited: Option<Reads>,
    /// The least length of its body.
    pub(super) length: u64,
}

/// The fields of a response, and the date that the cache adds if it has none.
#[derive(Clone, Copy)]
pub(super) struct DatedHeaders<'h> {
    pub(super) own: &'h HeaderMap,
    pub(super) date: Option<&'h HeaderValue>,
}

/// What is going to be stored, except for the body.
pub(super) struct Plan {
    info: StoredInfo,
    pub(super) vary: Option<VaryFields>,
    pub(super) tags: Tags,
    pub(super) deadlines: Deadlines,
    /// Whether it gets an entity tag of the cache.
    pub(super) mints: bool,
    /// The other queries that it answers, if it says so.
    pub(super) variation: Option<Arc<Variation>>,
}

/// The entries of a response, before its payload is there.
pub(super) struct Draft {
    /// Boxed: most responses do not vary, and a draft passes through several steps.
    variants: Option<Box<Variants>>,
    response: EntryHead,
    tags: Tags,
    mints: bool,
    encodable: bool,
}

/// The entry of a key that has variants, or had.
#[derive(Default)]
struct Variants {
    /// The entry that has to be there still.
    guard: Option<Box<(Key, Version)>>,
    /// The entry that leads to the response.
    parent: Option<(Key, Entry)>,
}

impl Draft {
    /// Whether the response may be sent in content codings of the cache's own.
    pub(super) fn is_encodable(&self) -> bool {
        self.encodable
    }

    /// Adds an entity tag of its `content` to the response, if it gets one.
    pub(super) fn mint<'a>(&mut self, content: impl Iterator<Item = &'a Bytes>) -> Option<HeaderValue> {
        let (meta, tag) = self.mints.then(|| with_tag(&self.response.meta, content))??;
        self.response.meta = meta;
        Some(tag)
    }

    /// The entries; that of the response is without its payload.
    pub(super) fn entries(&self) -> Arc<[(Key, Entry)]> {
        let response = (self.response.key.clone(), self.response.without_payload());
        let parent = self.variants.as_ref().and_then(|variants| variants.parent.clone());
        parent.into_iter().chain([response]).collect()
    }

    /// Adds the payload. Also returns the response's entry.
    pub(super) fn complete(self, with_payload: impl FnOnce(&EntryHead) -> Entry) -> (Writes, Tags, ResponseEntry) {
        let entry = with_payload(&self.response);
        let Self { variants, response: EntryHead { key, .. }, tags, .. } = self;
        let Variants { guard, parent } = variants.map_or_else(Variants::default, |variants| *variants);
        let answer = ResponseEntry::written(entry.clone());
        let entry = (key, entry);
        let entries = match parent {
            Some(parent) => smallvec![parent, entry],
            None => smallvec![entry],
        };
        (Writes { entries, guard }, tags, answer)
    }
}

impl Plan {
    /// Whether the response may be sent in content codings of the cache's own.
    pub(super) fn is_encodable(&self) -> bool {
        self.info.traits.encodable
    }

    /// The remaining freshness of the response, dated by the `local` clock.
    pub(super) fn remaining_freshness(&self, now: u64, local: u64) -> RemainingFreshness {
        RemainingFreshness::new(self.info.age(now), &self.deadlines, now).dated_by(local)
    }
}

impl Context {
    /// What to store of `response`.
    pub(super) fn plan(&self, request: &CacheRequest, response: OriginResponse<'_>) -> Result<Plan, NoCacheReason> {
        let OriginResponse { status, headers, names, time: response_time, tags, freshness, inherited, length } =
            response;
        let policy = &self.policy.caching;
        let directives = freshness.map_or_else(|| policy.directives(headers), Freshness::directives);
        let local_time = self.cache.local_time(response_time);
        let (request_time, directives) = (request.time, &directives);
        let received = Received { status, headers, names, directives, request_time, response_time, local_time };
        self.check(request, &received)?;
        let inherited = inherited.unwrap_or_default();
        let left = inherited.fresh_until.map(|moment| moment.saturating_sub(local_time));
        if left == Some(0) {
            return Err(NoCacheReason::MadeFromStale);
        }
        let rule = self.policy.ttl(request.target.path()).map(millis);
        let ruled = rule.is_some();
        let age = initial_age(&received);
        // Of a lifetime, which begins with the response's creation, this is over.
        let over = age.saturating_mul(1000);
        let left = left.map(|left| left.saturating_add(over));
        let mut lifetime = lifetime(policy, &received, rule.or(left));
        if let Some(lifetime) = &mut lifetime {
            lifetime.millis = self.jittered(lifetime.millis, over).min(left.unwrap_or(u64::MAX));
        }
        let windows = Windows::new(policy, &received, lifetime, age);
        if let Some(reason) = refusal_of_freshness(policy, &request.headers, &received, lifetime, &windows, ruled) {
            return Err(reason);
        }
        if !self.policy.keeps(status, headers) {
            return Err(NoCacheReason::KeepIf);
        }
        if length > self.policy.max_body {
            return Err(NoCacheReason::BodyTooLarge);
        }
        if headers.len() > MOST_FIELDS {
            return Err(NoCacheReason::TooManyFields);
        }
        let variation = self.variation_of(request, status, headers);
        let of_path = variation.as_ref().map(|_| request.target.path_tag(&self.key_rules(&request.headers)));
        let tags = self.tags_of(request, &received, inherited.tags_and(tags), of_path.as_deref())?;
        let vary = match Some(headers).filter(|_| names.may_meet(VARY)).and_then(Vary::from_headers) {
            None => None,
            Some(Vary::Fields(fields)) => Some(fields),
            Some(Vary::Star) => return Err(NoCacheReason::VaryStar),
        };
        let mints = self.policy.etags && minted::is_due(status, headers, &directives.cache_control);
        let encodable = self.policy.encode.as_ref().is_some_and(|encode| encode.may_encode(status, headers, length));
        let is_coded = names.may_meet(CODED) && has(headers, &CONTENT_ENCODING);
        let info = StoredInfo {
            status,
            response_time,
            initial_age: age,
            stale_if_disconnected: windows.stale_if_disconnected,
            traits: traits(status, is_coded, &directives.cache_control, encodable, variation.is_some()),
            parent: None,
        };
        let deadlines = deadlines(&windows, response_time);
        Ok(Plan { info, vary, tags, deadlines, mints, variation })
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

    /// The tags of a response: the given ones, and those that its fields name.
    fn tags_of(
        &self,
        request: &CacheRequest,
        &Received { headers, names, .. }: &Received<'_>,
        mut tags: Tags,
        of_path: Option<&str>,
    ) -> Result<Tags, NoCacheReason> {
        let of_target = self.tag_of_target(request);
        let of_owner = self.owner.as_ref().map(|owner| owner.tag());
        let may_be_named = self.policy.may_name_tags(names) || names.may_meet(GROUPS);
        if !may_be_named && of_target.is_none() && of_path.is_none() && of_owner.is_none() {
            return if tags.fit() { Ok(tags) } else { Err(NoCacheReason::TooManyTags) };
        }
        let groups = cache_groups(headers).ok_or(NoCacheReason::TooManyTags)?;
        let groups: Vec<String> = groups.iter().map(|group| self.group_tag(&request.target, group)).collect();
        let named = named_tags(headers, &self.policy.tag_fields).ok_or(NoCacheReason::TooManyTags)?;
        let own = [of_target.as_deref(), of_path, of_owner];
        let given = tags.iter().chain(named).chain(groups.iter().map(String::as_str));
        tags = Tags::new(given.chain(own.into_iter().flatten()));
        if tags.fit_with(own.iter().flatten().count()) { Ok(tags) } else { Err(NoCacheReason::TooManyTags) }
    }

    /// The tag by which a write to its target reaches a response, if the target alone does not determine the key.
    fn tag_of_target(&self, request: &CacheRequest) -> Option<String> {
        let key_is_target = !request.has_content && !request.is_hinted && !self.keys_have_parts();
        (!key_is_target).then(|| request.target.tag(&self.key_rules(&request.headers)))
    }

    /// The tag of a cache group: groups belong to one origin (RFC 9875, section 2).
    pub(super) fn group_tag(&self, target: &Target<'_>, group: &str) -> String {
        format!("group {} {} {group}", self.namespace, target.origin())
    }

    /// These tags, without those of the response's groups: a newer response states its groups again.
    pub(super) fn without_groups(&self, target: &Target<'_>, tags: &Tags) -> Tags {
        let of_groups = self.group_tag(target, "");
        Tags::new(tags.iter().filter(|tag| !tag.starts_with(&of_groups)))
    }

    /// Milliseconds since the application was asked.
    pub(super) fn load_time(&self, request: &CacheRequest) -> u64 {
        self.cache.now().saturating_sub(request.time)
    }

    /// This lifetime, shortened at random by a share of what is left after the part that is `over`. Something is always left, so
    /// that no response is stale on arrival that would be fresh without jitter.
    fn jittered(&self, lifetime: u64, over: u64) -> u64 {
        let left = lifetime.saturating_sub(over);
        if self.policy.jitter == 0 || left == 0 {
            return lifetime;
        }
        lifetime - fastrand::u64(..=(left / 100 * u64::from(self.policy.jitter)).min(left - 1))
    }

    /// The entries of a plan, for a response with these fields.
    pub(super) fn draft(
        &self,
        plan: Plan,
        request: &CacheRequest,
        headers: DatedHeaders<'_>,
        known: Option<Box<Varies>>,
    ) -> Draft {
        let Plan { mut info, vary, tags, deadlines, mints, variation: _ } = plan;
        let encodable = info.traits.encodable;
        // The load ran under a variant's lease, which an invalidation of the key doesn't reach. Such an invalidation deletes
        // the primary entry: if the primary entry that was seen is gone, nothing is written.
        let guard = known.as_ref().map(|known| Box::new((request.key.clone(), known.version)));
        // It only matters where entries are compressed.
        let is_compressed = !self.cache.is_local() && is_compressed(headers.own);
        let head = |key, info: StoredInfo| {
            let meta = self.stored_head(info, headers);
            EntryHead { key, id: EntryId::random(), deadlines, meta, is_compressed }
        };
        let Some(fields) = vary else {
            let variants = guard.map(|guard| Box::new(Variants { guard: Some(guard), parent: None }));
            return Draft { variants, response: head(request.key.clone(), info), tags, mints, encodable };
        };
        // If the selecting fields are the same, the entry keeps its id, and with it the variants that refer to it. It gets a
        // new id if there are too many variants, or if its key was soft-invalidated, be it by a ramp whose turn has not come:
        // the rewritten entry has no mark of that, and would keep them fresh. As long as it leads to others, it lasts as long as
        // they do, however short the life of this response.
        let variant = self.variant_key(&request.key, &fields, &request.headers);
        let (parent, made, lasts) = match known.map(|known| *known) {
            Some(Varies { version: version @ Version { id, .. }, stored, softening, index })
                if stored.fields == fields && !version.is_marked() && !matches!(softening, TagState::StaleSince(_)) =>
            {
                let made = made_with(index.payload(), &variant);
                if made.len() <= usize::from(self.policy.max_variants) * MARK {
                    (id, made, deadlines.latest(index.deadlines()))
                } else {
                    (EntryId::random(), made_with(&[], &variant), deadlines)
                }
            }
            _ => (EntryId::random(), made_with(&[], &variant), deadlines),
        };
        let variants = u16::try_from(made.len() / MARK).unwrap_or(u16::MAX);
        let varies = Stored::Varies(StoredVaries { fields, variants });
        // Concurrent loads start from the same list and moments: the store corrects both.
        let leads_there = Entry::new(parent, &request.key, lasts, varies.to_bytes().into(), made.into())
            .compressed(is_compressed)
            .leading_to(self.policy.max_variants);
        info.parent = Some(parent);
        let variants = Some(Box::new(Variants { guard, parent: Some((request.key.clone(), leads_there)) }));
        Draft { variants, response: head(variant, info), tags, mints, encodable }
    }

    /// The metadata of a response, with only the fields that are stored.
    pub(super) fn stored_head(&self, info: StoredInfo, headers: DatedHeaders<'_>) -> Vec<u8> {
        let is_stored = self.stores_fields_of(headers.own);
        let fields = headers.own.iter().filter(|(name, _)| is_stored(name));
        info.with_fields(fields.chain(headers.date.map(|date| (&DATE, date))))
    }

    /// A predicate on the names of the fields of a response with these `headers`: whether the field is stored.
    pub(super) fn stores_fields_of<'a>(&'a self, headers: &HeaderMap) -> impl Fn(&HeaderName) -> bool + use<'a> {
        let is_stored = is_stored_field(&self.policy.caching, &self.policy.not_stored, headers);
        move |name| {
            let field @ Shaped { shape, .. } = Shaped::from(name);
            is_stored(field)
                && !(shape.may_meet(annotate::OWN) && annotate::is_own(name))
                && !(self.policy.may_name_tags(shape) && self.policy.is_internal(name))
        }
    }

    /// The stored response, so noted that its validators are not used again.
    pub(super) fn unmatched(&self, entry: &ResponseEntry, request: &CacheRequest, known: Option<&Varies>) -> Writes {
        let stored = entry.response();
        let info = StoredInfo {
            stale_if_disconnected: stored.info.stale_if_disconnected.saturating_sub(entry.brought_forward()),
            traits: Traits { unmatched: true, ..stored.info.traits },
            ..stored.info
        };
        let headers = entry.stored_headers();
        let fields = headers.iter().filter(|(name, _)| **name != AGE && !annotate::is_own(name));
        let key = known.map_or_else(
            || request.key.clone(),
            |known| self.variant_key(&request.key, &known.stored.fields, &request.headers),
        );
        let head = EntryHead {
            key: key.clone(),
            id: EntryId::random(),
            deadlines: entry.deadlines(),
            meta: info.with_fields(fields),
            is_compressed: !self.cache.is_local() && is_compressed(&headers),
        };
        let entry = head.loaded_again(entry, entry.load_time(), info.traits.encodable);
        Writes {
            entries: smallvec![(key, entry)],
            guard: known.map(|known| Box::new((request.key.clone(), known.version))),
        }
    }
}

/// The bytes by which the entry of a key with variants knows each of those that were made: one that is made anew counts once,
/// though its former entry has expired.
const MARK: usize = size_of::<u64>();

/// The marks of variants, and of this one.
fn made_with(made: &[u8], variant: &Key) -> Vec<u8> {
    let mark = xxh3_64(variant.canonical()).to_be_bytes();
    let is_known = made.chunks_exact(MARK).any(|known| known == mark);
    if is_known { made.to_vec() } else { [made, &mark].concat() }
}

/// The shapes of the names of fields that few responses have.
const VARY: Shapes = Shapes::of_each(&["vary"]);
const CODED: Shapes = Shapes::of_each(&["content-encoding"]);

fn traits(status: StatusCode, is_coded: bool, cc: &CacheControl, encodable: bool, answers_several: bool) -> Traits {
    let encodable = encodable && !cc.no_transform;
    Traits {
        immutable: cc.immutable,
        never_stale: forbids_stale_use(cc),
        no_circle: true,
        unmatched: false,
        minted: false,
        plain: !status.is_redirection() && !encodable && !is_coded,
        encodable,
        answers_several,
    }
}

/// The date for a response that came at `now` without one. It is added before any client gets the response, because a later
/// answer can't know it.
pub(super) fn date_for(headers: &HeaderMap, now: u64) -> Option<HeaderValue> {
    (!has(headers, &DATE)).then(|| write_http_date(now / 1000))
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
            | NoCacheReason::Incremental
            | NoCacheReason::Dictionary
            | NoCacheReason::Grpc
            | NoCacheReason::NoFreshness
            | NoCacheReason::AlreadyStale
            | NoCacheReason::Rule
            | NoCacheReason::OneClient
            | NoCacheReason::BodyTooLarge
            | NoCacheReason::Trailers
            | NoCacheReason::TooManyTags
            | NoCacheReason::TooManyFields
    )
}
