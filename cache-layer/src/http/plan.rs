//! What to store of a response, or why nothing.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{AGE, DATE},
};

use super::{
    annotate,
    remaining::Left,
    select::Varies,
    service::Shared,
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

/// What the request was, for deciding about its response.
pub(super) struct Asked {
    pub(super) target: Target<'static>,
    /// The primary key.
    pub(super) key: Key,
    pub(super) method: Method,
    /// For the load, and for who waits for it.
    pub(super) headers: Arc<HeaderMap>,
    /// When it was sent on, in milliseconds since the Unix epoch.
    pub(super) time: u64,
}

/// A response as it came, apart from its body.
pub(super) struct Came {
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
}

impl Plan {
    /// What is left of the response's freshness.
    pub(super) fn left(&self, now: u64) -> Left {
        Left::new(self.response.age(now), &self.deadlines, now)
    }
}

impl Shared {
    pub(super) fn plan(&self, asked: &Asked, came: Came) -> Result<Plan, NoCacheReason> {
        let Came { status, mut headers, tags, freshness, inherited, length } = came;
        let policy = &self.policy.caching;
        let response_time = self.cache.now();
        let directives = freshness
            .map_or_else(|| ResponseDirectives::from_headers(&headers, &policy.targets), Freshness::directives);
        let received =
            Received { status, headers: &headers, directives: &directives, request_time: asked.time, response_time };
        if let Some(reason) = refusal_of_response(policy, &asked.headers, &received) {
            return Err(reason);
        }
        if asked.target.states_port() {
            return Err(NoCacheReason::StatedPort);
        }
        if asked.target.is_led_to_itself(&self.naming(&asked.headers), status, &headers) {
            return Err(NoCacheReason::RedirectToItself);
        }
        let inherited = inherited.unwrap_or_default();
        let left = inherited.fresh_until.map(|moment| moment.saturating_sub(response_time));
        if left == Some(0) {
            return Err(NoCacheReason::MadeFromStale);
        }
        let rule = self.policy.ttl(asked.target.path()).map(millis).or(left);
        let mut lifetime = lifetime(policy, &received, rule);
        if let Some(lifetime) = &mut lifetime {
            lifetime.millis = self.jittered(lifetime.millis).min(left.unwrap_or(u64::MAX));
        }
        let age = initial_age(&received);
        let windows = Windows::new(policy, &received, lifetime, age);
        if let Some(reason) = refusal_of_freshness(&asked.headers, &received, lifetime, &windows) {
            return Err(reason);
        }
        if length > self.policy.max_body {
            return Err(NoCacheReason::BodyTooLarge);
        }
        let groups = cache_groups(&headers).ok_or(NoCacheReason::TooManyTags)?;
        let groups: Vec<String> = groups.iter().map(|group| self.group_tag(&asked.target, group)).collect();
        let named = named_tags(&headers, &self.policy.tag_fields).ok_or(NoCacheReason::TooManyTags)?;
        let mut tags = inherited.tags_and(tags);
        if !named.is_empty() || !groups.is_empty() {
            tags = Tags::new(tags.iter().chain(named).chain(groups.iter().map(String::as_str)));
        }
        if !tags.fit() {
            return Err(NoCacheReason::TooManyTags);
        }
        let vary = match Vary::from_headers(&headers) {
            None => None,
            Some(Vary::Fields(fields)) => Some(fields),
            Some(Vary::Star) => return Err(NoCacheReason::VaryStar),
        };
        annotate::clear(&mut headers);
        self.policy.strip_internal(&mut headers);
        retain_stored_fields(policy, &mut headers);
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
                unmatched: false,
            },
            parent: None,
        };
        let deadlines = Deadlines {
            made: response_time,
            fresh: windows.fresh,
            stale_while_revalidate: windows.stale_while_revalidate,
            stale_if_error: windows.stale_if_error,
            gone: windows.keep.max(windows.fresh),
        };
        Ok(Plan { response, vary, tags, deadlines })
    }

    /// The tag of a cache group: groups are an origin's own (RFC 9875, section 2).
    pub(super) fn group_tag(&self, target: &Target<'_>, group: &str) -> String {
        format!("group {} {} {group}", self.space, target.origin())
    }

    fn jittered(&self, lifetime: u64) -> u64 {
        lifetime - fastrand::u64(..=lifetime / 100 * u64::from(self.policy.jitter))
    }

    /// Without a date of its own, a response is dated before anybody has it: who answers with it later can't.
    pub(super) fn dated<'a>(&self, headers: &'a mut HeaderMap) -> &'a HeaderValue {
        headers.entry(DATE).or_insert_with(|| write_http_date(self.cache.now() / 1000))
    }

    /// The entries to write, the response's last, and still without its payload; and their tags. It is a new variant if
    /// there was nothing in its place.
    pub(super) fn writes(&self, plan: Plan, asked: &Asked, known: Option<Varies>, is_new: bool) -> (Writes, Tags) {
        let Plan { mut response, vary, tags, deadlines } = plan;
        // The load ran under a variant's lease, which an invalidation of the key doesn't reach. The primary entry is
        // what it deletes: without the one that was seen, nothing is written.
        let guard = known.as_ref().map(|known| (asked.key.clone(), known.version));
        let is_compressed = is_compressed(&response.headers);
        let entry = |id, key: &Key, stored: &Stored| {
            Entry::new(id, key, deadlines, stored.to_bytes(), Bytes::new()).compressed(is_compressed)
        };
        let Some(fields) = vary else {
            let stored = Stored::Response(response);
            let entries = vec![(asked.key.clone(), entry(EntryId::random(), &asked.key, &stored))];
            return (Writes { entries, guard }, tags);
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
        let variant = self.variant_key(&asked.key, &fields, &asked.headers);
        let varies = Stored::Varies(StoredVaries { fields, variants });
        response.parent = Some(parent);
        let stored = Stored::Response(response);
        let entries = vec![
            // Loads that begin at the same time count the same variants: whoever stores them counts better.
            (asked.key.clone(), entry(parent, &asked.key, &varies).leading_to(self.policy.max_variants)),
            (variant.clone(), entry(EntryId::random(), &variant, &stored)),
        ];
        (Writes { entries, guard }, tags)
    }

    /// What is there, to be written in its place as it is, but that the application doesn't know it by its validators.
    pub(super) fn unmatched(
        &self,
        entry: &Entry,
        stored: &StoredResponse,
        asked: &Asked,
        known: Option<&Varies>,
    ) -> Writes {
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
            || asked.key.clone(),
            |known| self.variant_key(&asked.key, &known.stored.fields, &asked.headers),
        );
        let entry = Entry::new(EntryId::random(), &key, entry.deadlines(), response.to_bytes(), Bytes::new())
            .compressed(is_compressed)
            .loaded_again(entry, entry.load_time());
        Writes { entries: vec![(key, entry)], guard: known.map(|known| (asked.key.clone(), known.version)) }
    }

    /// Puts the payload in its place, now that the load is over, and returns the response's entry. `with_payload` is told how
    /// many milliseconds it took.
    pub(super) fn complete(
        &self,
        writes: &mut Writes,
        asked: &Asked,
        with_payload: impl FnOnce(Entry, u64) -> Entry,
    ) -> Option<Entry> {
        let (key, entry) = writes.entries.pop()?;
        let entry = with_payload(entry, self.cache.now().saturating_sub(asked.time));
        writes.entries.push((key, entry.clone()));
        Some(entry)
    }
}
