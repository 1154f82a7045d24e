//! The settings of a layer: what to store, for how long, and under which keys. [`verify`]: how hits are verified. [`shown`]: the
//! settings in readable form.

mod shown;
mod verify;

use std::{borrow::Cow, cmp::Ordering, fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, Request, StatusCode, request};

pub use self::verify::Verify;
pub use crate::semantics::{
    caching_policy::{Profile, SetCookie},
    encodable::Encode,
};
use crate::{
    error::{ConfigError, ConfigErrorKind},
    semantics::{
        cache_control::CacheControl,
        caching_policy::CachingPolicy,
        cookies::CookiePolicy,
        delta_seconds::DeltaSeconds,
        list::has_any,
        names::{Names, Shapes},
        no_vary_search::Grammar,
        one_request::OF_ONE_REQUEST,
        path::canonical_path,
        tag_fields::{CACHE_TAG, SURROGATE_KEY},
        targeted::ResponseDirectives,
        vary::Normalization,
    },
    telemetry::NoCacheReason,
};

/// The field by which a response tells the caches in front of this one its remaining freshness.
///
/// No choice makes a response fresh for longer than it says. If a response says nothing to other caches, because it is stored by
/// a rule or by [`Freshness`], nothing is added to it. The choice applies to responses that this cache stores; a response that is
/// passed through stays as the application made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remaining {
    /// `Age`, as in RFC 9111: the remaining freshness is `max-age` less `Age`. For all caches that read `Age`. The default.
    #[default]
    Age,
    /// `Age`, and also `X-Accel-Expires`, which nginx reads and removes. The field states the remaining freshness for a shared
    /// cache, and takes precedence in nginx: its `proxy_cache_valid` has no effect on these responses. If the application sends
    /// this field itself, its value is reduced by the age; it is 0 for a response that is stale here.
    AccelExpires,
    /// `max-age` and `s-maxage` less the age, without `Age` and with the current time in `Date`, as if the response had just
    /// been generated. For caches that ignore `Age`; a cache that follows RFC 9111 keeps such a response for exactly as long as
    /// before.
    ///
    /// `CDN-Cache-Control` and other targeted fields, `Surrogate-Control`, `X-Accel-Expires` and `Expires` are changed in the
    /// same way. A response with none of these fields keeps `Age` and `Date`. A response that is already stale gets
    /// `max-age=0`, and the rest of its `stale-while-revalidate` and `stale-if-error`, so that two caches in a row do not serve
    /// it stale for twice the time. `X-Cache-Age` still says how long this cache has had the response.
    MaxAge,
}

/// Which requests get the same variant of a response that varies, though their fields differ.
///
/// An application names in `Vary` the request fields by which it chooses a response; requests with equal values in these fields
/// get the same response. Clients write the same preference in many ways, and an application may distinguish fewer: each level
/// treats more spellings as equal. At every level, a response in a coding that the client refuses is not used.
///
/// | one request | another | [`safe`](Self::safe) | [`all`](Self::all) | [`negotiate`](Self::negotiate) with `br` and `gzip` |
/// |---|---|---|---|---|
/// | `gzip, br` | `GZIP ,br;q=1.0` | same | same | same |
/// | `gzip, br` | `br, gzip` | | same | same |
/// | `gzip, deflate, br, zstd` | `br, gzip` | | | same |
/// | `gzip;q=0.5, br` | `gzip;q=0.4, br` | | | same |
/// | `gzip` | `gzip;q=0` | | | |
/// | nothing | an empty field | | | |
///
/// ```
/// # use cache_layer::{Cache, CacheLayer, ConfigError, Vary, store::MemoryStore};
/// # fn example() -> Result<(), ConfigError> {
/// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
/// let vary = Vary::negotiate(["br", "gzip"])?.languages(["de", "en"])?.cookies(["theme"]);
/// let layer = CacheLayer::new(cache).vary(vary);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vary(Normalization);

impl Vary {
    /// Ignores differences that an application can't see if it reads the fields by their syntax: case, white space, the digits of
    /// weights, and former names, in `Accept-Encoding` and `Accept-Language`; white space around commas in `Accept` and
    /// `Accept-Charset`. The default in the safe profile.
    #[must_use]
    pub fn safe() -> Self {
        Self(Normalization::safe())
    }

    /// As [`safe`](Self::safe), and also ignores the order of codings, and of languages with different weights. The order of
    /// languages with the same weight counts, because applications take the first.
    #[must_use]
    pub fn all() -> Self {
        Self(Normalization::all())
    }

    /// For an application that has these codings and no others, such as `br` and `gzip`: only which of them the client accepts,
    /// and in which order, counts. A load sends the application an `Accept-Encoding` that says exactly this, so
    /// that the application can't choose by more; the field as the client sent it is in
    /// [`ClientPreferences`](crate::ClientPreferences). A field that can't be read, or that refuses the form without a coding, is
    /// sent unchanged, and an absent field stays absent.
    ///
    /// # Errors
    ///
    /// If a name is not that of a coding.
    pub fn negotiate<N: AsRef<str>>(codings: impl IntoIterator<Item = N>) -> Result<Self, ConfigError> {
        Ok(Self(Normalization { codings: names("coding", codings)?, ..Normalization::safe() }))
    }

    /// For an application that has these languages and no others: only which of them the client accepts, and in which order,
    /// counts. A load sends the application an `Accept-Language` that says exactly this, or `*` if the client accepts none of
    /// them. A language matches its own name, the name of the language that it is a dialect of, and the name of one of its
    /// dialects: `de` also matches `de-CH`.
    ///
    /// # Errors
    ///
    /// If a name is not that of a language.
    pub fn languages<N: AsRef<str>>(mut self, languages: impl IntoIterator<Item = N>) -> Result<Self, ConfigError> {
        self.0.languages = names("language", languages)?;
        Ok(self)
    }

    /// If a response varies by `Cookie`, only these cookies count. By setting this, the application's owner promises that a
    /// response which says neither `private` nor `no-store` does not depend on any other cookie: the application still sees all
    /// of them.
    #[must_use]
    pub fn cookies<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.0.cookies = names.into_iter().map(Into::into).collect();
        self.0.cookies.sort_unstable();
        self.0.cookies.dedup();
        self
    }

    pub(crate) fn into_normalization(self) -> Normalization {
        self.0
    }
}

/// Names that may stand in a list of preferences.
fn names<N: AsRef<str>>(what: &str, names: impl IntoIterator<Item = N>) -> Result<Vec<String>, ConfigError> {
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let name = |name: N| match name.as_ref() {
        name if is_name(name) => Ok(name.to_owned()),
        name => Err(ConfigError::new(
            ConfigErrorKind::Syntax,
            format!("{what} {name:?}: must have letters, digits and hyphens only"),
        )),
    };
    names.into_iter().map(name).collect()
}

/// What responses may state about the queries that they answer, with `No-Vary-Search`
/// (draft-ietf-httpbis-no-vary-search-10): that the order of parameters does not matter (`key-order`), that some parameters don't
/// (`params=("utm_source")`), or that only some do (`except=("id")`).
///
/// A response with such a field answers requests for its own target, and for every query that is equivalent by the field. A
/// response that is stored for exactly the requested target takes precedence. `Vary`, freshness and all other rules apply as
/// usual; a stale response is used only for its own query. The field is honoured in a 200 without `Set-Cookie`, in answer to a
/// request without `Authorization`; a response to another request that is stored answers its own query alone. If no response of a
/// path has had the field, the cache does no extra look-up for that path. A write to any target of the path invalidates the
/// responses that answer several queries.
///
/// In one process, requests whose queries are equivalent by the newest response of their path share one load. If the response to
/// that load says something else, each of the other requests loads its own, and for some seconds none waits for another.
///
/// The response to the first request answers all equivalent requests. **A parameter that the page repeats in any way must not
/// be named**: one client's value would appear in every client's page. Nor must a parameter with a signature, a session, or a
/// consent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoVarySearch {
    former_spelling: bool,
    of_all: bool,
}

impl NoVarySearch {
    /// Honours the grammar of draft -10, but no statement about all parameters at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the former spelling `params, except=("id")` is understood as well, the only one that browsers understand in
    /// 2026; it is not unless set. `params=("…")` and `key-order` mean the same in both spellings.
    #[must_use]
    pub fn former_spelling(mut self, read: bool) -> Self {
        self.former_spelling = read;
        self
    }

    /// Whether a response may say that no parameter matters at all, `except=()`; it is not honoured unless set. An attacker who
    /// can inject one field into one response could make that response answer for the whole path.
    #[must_use]
    pub fn of_all(mut self, believed: bool) -> Self {
        self.of_all = believed;
        self
    }

    pub(crate) fn grammar(self) -> Grammar {
        if self.former_spelling { Grammar::Former } else { Grammar::Approved }
    }

    pub(crate) fn believes_all(self) -> bool {
        self.of_all
    }
}

/// How long this cache keeps a response, set by its handler in the response's extensions. It overrides whatever `Cache-Control`
/// and `Expires` say to other caches, `private` and `no-store` included, and is not sent.
///
/// ```
/// use std::time::Duration;
/// use cache_layer::Freshness;
///
/// let mut response = http::Response::new("…");
/// let minute = Duration::from_secs(60);
/// response.extensions_mut().insert(Freshness::of(minute).stale_while_revalidate(minute));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    fresh: Option<u64>,
    stale_while_revalidate: u64,
    stale_if_error: u64,
}

impl Freshness {
    /// Fresh for `duration`, in whole seconds, 2^31 at most. With zero, it is stale at once, as with `max-age=0`, and may be kept
    /// to be validated; [`none`](Self::none) says that it is not stored.
    #[must_use]
    pub fn of(duration: Duration) -> Self {
        Self { fresh: Some(duration.as_secs()), stale_while_revalidate: 0, stale_if_error: 0 }
    }

    /// The response is not to be stored.
    #[must_use]
    pub fn none() -> Self {
        Self { fresh: None, stale_while_revalidate: 0, stale_if_error: 0 }
    }

    /// After its freshness, the response is used for `duration` more while it is refreshed in the background (RFC 5861, section
    /// 3).
    #[must_use]
    pub fn stale_while_revalidate(mut self, duration: Duration) -> Self {
        self.stale_while_revalidate = duration.as_secs();
        self
    }

    /// After its freshness, the response is used for `duration` more in place of an error (RFC 5861, section 4).
    #[must_use]
    pub fn stale_if_error(mut self, duration: Duration) -> Self {
        self.stale_if_error = duration.as_secs();
        self
    }

    pub(crate) fn directives(self) -> ResponseDirectives {
        let seconds = |seconds: u64| Some(DeltaSeconds::Seconds(seconds.min(DeltaSeconds::MAX)));
        let cache_control = CacheControl {
            no_store: self.fresh.is_none(),
            max_age: self.fresh.and_then(seconds),
            stale_while_revalidate: seconds(self.stale_while_revalidate),
            stale_if_error: seconds(self.stale_if_error),
            ..CacheControl::default()
        };
        ResponseDirectives { cache_control, targeted: true }
    }
}

/// All choices for one layer.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) caching: CachingPolicy,
    /// Why requests bypass the cache, if they do.
    pub(crate) bypass: Option<NoCacheReason>,
    pub(crate) bypass_if: Option<RequestPredicate>,
    /// How hits are verified, if that was set.
    pub(crate) verify: Option<Verify>,
    /// Whether a stored response is loaded anew, or validated, instead of used.
    pub(crate) refresh: bool,
    /// Whether hints have changed this policy: it is that of one request.
    pub(crate) is_hinted: bool,
    ttl: Option<Duration>,
    /// The most specific first.
    paths: Vec<(String, Duration)>,
    /// Shortens every freshness at random by up to this share, in per cent.
    pub(crate) jitter: u8,
    pub(crate) max_body: u64,
    /// The factor by which responses are refreshed early, if they are.
    pub(crate) early_refresh: Option<f32>,
    /// How long a request waits for a response if a stale one may stand in.
    pub(crate) soft_timeout: Option<Duration>,
    /// Whether responses inherit from what their handlers read.
    pub(crate) inherits: bool,
    /// Which responses are kept, of those that may be.
    pub(crate) keep_if: Option<KeepIf>,
    /// Whether responses without a validator are given one.
    pub(crate) etags: bool,
    /// The codings that this cache makes itself, if it does.
    pub(crate) encode: Option<Arc<Encode>>,
    /// Response fields that are about one request.
    pub(crate) not_stored: Names,
    /// The most variants of one key; when one more is stored, the former ones are dropped.
    pub(crate) max_variants: u16,
    pub(crate) key_headers: Vec<HeaderName>,
    /// Response fields that name tags, and whether clients see them.
    pub(crate) tag_fields: Vec<HeaderName>,
    /// The shapes of the names in `tag_fields`.
    tag_shapes: Shapes,
    pub(crate) pass_tag_fields: bool,
    pub(crate) remaining: Remaining,
    pub(crate) cookies: CookiePolicy,
    /// How long the back-off lasts: after the first failure, and at most.
    pub(crate) failure_backoff: (Duration, Duration),
    pub(crate) share_failures: bool,
    pub(crate) voids: Voids,
}

/// Which unsafe requests invalidate what they are sent to.
#[derive(Clone, Debug, Default)]
pub(crate) enum Voids {
    #[default]
    All,
    None,
    If(RequestPredicate),
}

impl Voids {
    /// Whether `request` invalidates; gives the request back.
    pub(crate) fn judge<B>(&self, request: Request<B>) -> (bool, Request<B>) {
        match self {
            Self::All => (true, request),
            Self::None => (false, request),
            Self::If(is_change) => is_change.judge(request),
        }
    }
}

/// A user's predicate on requests.
#[derive(Clone)]
pub(crate) struct RequestPredicate(Arc<dyn Fn(&request::Parts) -> bool + Send + Sync>);

impl RequestPredicate {
    pub(crate) fn new(holds: impl Fn(&request::Parts) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(holds))
    }

    /// Whether it holds for `request`; gives the request back.
    pub(crate) fn judge<B>(&self, request: Request<B>) -> (bool, Request<B>) {
        let (parts, body) = request.into_parts();
        ((self.0)(&parts), Request::from_parts(parts, body))
    }
}

impl fmt::Debug for RequestPredicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a predicate")
    }
}

/// A user's predicate on responses that may be stored.
#[derive(Clone)]
pub(crate) struct KeepIf(Arc<ResponsePredicate>);

type ResponsePredicate = dyn Fn(StatusCode, &HeaderMap) -> bool + Send + Sync;

impl KeepIf {
    pub(crate) fn new(keeps: impl Fn(StatusCode, &HeaderMap) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(keeps))
    }
}

impl fmt::Debug for KeepIf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a predicate")
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            caching: CachingPolicy::safe(),
            bypass: None,
            bypass_if: None,
            verify: None,
            refresh: false,
            is_hinted: false,
            ttl: None,
            paths: Vec::new(),
            jitter: 0,
            max_body: 1024 * 1024,
            early_refresh: None,
            soft_timeout: None,
            inherits: false,
            keep_if: None,
            etags: false,
            encode: None,
            not_stored: Names::new(OF_ONE_REQUEST),
            max_variants: 64,
            key_headers: Vec::new(),
            tag_fields: vec![CACHE_TAG, SURROGATE_KEY],
            tag_shapes: Shapes::of(&[CACHE_TAG, SURROGATE_KEY]),
            pass_tag_fields: false,
            remaining: Remaining::Age,
            cookies: CookiePolicy::default(),
            failure_backoff: (Duration::from_secs(1), Duration::from_secs(30)),
            share_failures: false,
            voids: Voids::default(),
        }
    }
}

impl Policy {
    pub(crate) fn set_ttl(&mut self, ttl: Duration) {
        self.ttl = Some(ttl);
    }

    pub(crate) fn add_path(&mut self, prefix: &str, ttl: Duration) {
        let prefix = canonical_prefix(prefix.trim_matches('/'));
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        self.paths.retain(|(known, _)| *known != prefix);
        self.paths.push((prefix, ttl));
        self.paths.sort_by(|(one, _), (other, _)| order(one, other));
    }

    /// Sets the factor of early refreshes; a value that is no valid factor turns them off.
    pub(crate) fn set_early_refresh(&mut self, beta: f32) {
        self.early_refresh = beta_of(beta);
    }

    /// Sets how hits are verified; a rate of zero turns verification off, unless an operator's switch has another rate.
    pub(crate) fn set_verify(&mut self, verify: Verify) {
        self.verify = Some(verify);
    }

    /// The share of the hits that is verified, if some are.
    pub(crate) fn verification_rate(&self) -> Option<f64> {
        self.verify.as_ref().map(Verify::rate).filter(|rate| *rate > 0.0)
    }

    /// Sets what this cache encodes; an `encode` without codings turns encoding off.
    pub(crate) fn set_encode(&mut self, encode: Encode) {
        self.encode = Some(encode).filter(|encode| !encode.encoders().is_empty()).map(Arc::new);
    }

    /// Makes `ttl` apply to all paths.
    pub(crate) fn set_only_ttl(&mut self, ttl: Duration) {
        self.paths.clear();
        self.ttl = Some(ttl);
    }

    /// Whether a setting needs to examine a request before its look-up.
    pub(crate) fn asks_first(&self) -> bool {
        self.bypass.is_some() || self.bypass_if.is_some() || !self.cookies.bypass.is_empty()
    }

    /// Whether the user's `keep_if` accepts such a response.
    pub(crate) fn keeps(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        self.keep_if.as_ref().is_none_or(|keep_if| (keep_if.0)(status, headers))
    }

    /// The most specific rule for `path`; none means that only the application decides.
    pub(crate) fn ttl(&self, path: &str) -> Option<Duration> {
        if self.paths.is_empty() && self.ttl.is_none() {
            return None;
        }
        // `/public/../account` may be one thing to a rule and another to the application.
        if path.split('/').any(is_dot_segment) {
            return None;
        }
        if self.paths.is_empty() {
            return self.ttl;
        }
        let path = by_canonical_segments(path)?;
        self.of_prefix(&path).map(|(_, ttl)| *ttl).or(self.ttl)
    }

    fn of_prefix(&self, path: &str) -> Option<&(String, Duration)> {
        self.paths.iter().find(|(prefix, _)| covers(prefix, path))
    }

    /// The prefix whose lifetime counts for `path`, if there is one.
    fn prefix_of(&self, path: &str) -> Option<&str> {
        self.of_prefix(&by_canonical_segments(path)?)
            .map(|(prefix, _)| if prefix.is_empty() { "/" } else { prefix.as_str() })
    }

    pub(crate) fn set_tag_fields(&mut self, names: impl IntoIterator<Item = HeaderName>) {
        self.tag_fields = names.into_iter().collect();
        self.tag_shapes = Shapes::of(&self.tag_fields);
    }

    /// Whether one of these names may be that of a field which names tags.
    pub(crate) fn may_name_tags(&self, names: Shapes) -> bool {
        names.may_meet(self.tag_shapes)
    }

    /// Removes the fields that are between the application and this cache.
    pub(crate) fn strip_internal(&self, headers: &mut HeaderMap) {
        if !self.pass_tag_fields && has_any(headers, &self.tag_fields) {
            self.tag_fields.iter().for_each(|name| drop(headers.remove(name)));
        }
    }

    /// Whether a field is between the application and this cache.
    pub(crate) fn is_internal(&self, name: &HeaderName) -> bool {
        !self.pass_tag_fields && self.tag_fields.contains(name)
    }
}

/// A prefix with its literal segments as they are compared.
fn canonical_prefix(prefix: &str) -> String {
    let canonical = |segment| match canonical_path(segment) {
        Some(canonical) if !is_capture(segment) => canonical,
        _ => Cow::Borrowed(segment),
    };
    prefix.split('/').map(canonical).collect::<Vec<_>>().join("/")
}

/// A path as it is compared with prefixes; `None` if the application may read one of its segments as another one, so that no prefix
/// is evaded by its spelling. Empty segments are segments.
fn by_canonical_segments(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains("//") {
        return canonical_path(path);
    }
    let segments = path.split('/').map(canonical_path).collect::<Option<Vec<_>>>()?;
    Some(segments.join("/").into())
}

/// Whether a segment is `.` or `..` (RFC 3986, section 3.3), encoded or not.
fn is_dot_segment(segment: &str) -> bool {
    // Most segments have nothing to decode, and on a miss every segment is examined.
    if !segment.bytes().any(|byte| matches!(byte, b'.' | b'%' | b'\\')) {
        return false;
    }
    let decoded =
        segment.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/").replace('\\', "/");
    decoded.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// Whether `path` is `prefix` or lies below it: `/a` covers `/a` and `/a/b`, and not `/ab`. `{any}` stands for one segment.
fn covers(prefix: &str, path: &str) -> bool {
    if !prefix.contains('{') {
        return path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    }
    let mut segments = path.split('/');
    prefix.split('/').all(|wanted| segments.next().is_some_and(|segment| is_any(wanted, segment) || wanted == segment))
}

fn is_any(wanted: &str, segment: &str) -> bool {
    is_capture(wanted) && !segment.is_empty()
}

fn is_capture(segment: &str) -> bool {
    segment.len() > 2 && segment.starts_with('{') && segment.ends_with('}')
}

/// Orders the more specific of two prefixes first: by the first segment in which they differ.
fn order(one: &str, other: &str) -> Ordering {
    let rank = |segment| (is_capture(segment), segment);
    let (mut segments, mut others) = (one.split('/'), other.split('/'));
    loop {
        match (segments.next(), others.next()) {
            (None, None) => return Ordering::Equal,
            (Some(_), None) => return Ordering::Less,
            (None, Some(_)) => return Ordering::Greater,
            (Some(one), Some(other)) if one == other => {}
            (Some(one), Some(other)) => return rank(one).cmp(&rank(other)),
        }
    }
}

/// The factor of early refreshes, if `beta` is a valid one.
pub(crate) fn beta_of(beta: f32) -> Option<f32> {
    Some(beta).filter(|beta| beta.is_finite() && *beta > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn policy() -> Policy {
        let mut policy = Policy::default();
        policy.add_path("/api", HOUR);
        policy.add_path("/api/products/", MINUTE);
        policy
    }

    #[test]
    fn the_most_specific_prefix_wins() {
        assert_eq!(policy().ttl("/api/products"), Some(MINUTE));
        assert_eq!(policy().ttl("/api/products/42"), Some(MINUTE));
        assert_eq!(policy().ttl("/api/users"), Some(HOUR));
    }

    #[test]
    fn a_prefix_covers_whole_segments_only() {
        assert_eq!(policy().ttl("/apiary"), None);
        assert_eq!(policy().ttl("/api/products-internal"), Some(HOUR));
    }

    #[test]
    fn without_a_rule_the_default_decides() {
        let mut policy = policy();
        assert_eq!(policy.ttl("/"), None);
        policy.set_ttl(MINUTE);
        assert_eq!(policy.ttl("/"), Some(MINUTE));
    }

    #[test]
    fn the_root_covers_everything() {
        let mut policy = policy();
        policy.add_path("/", MINUTE);
        assert_eq!(policy.ttl("/x"), Some(MINUTE));
        assert_eq!(policy.ttl("/"), Some(MINUTE));
    }

    #[test]
    fn a_path_that_may_mean_another_one_has_no_rule() {
        for path in ["/api/../account", "/api/%2E%2e/account", "/api/./x", "/api/x%2f..%2faccount", "/api/..\\account"]
        {
            assert_eq!(policy().ttl(path), None, "{path}");
        }
        assert_eq!(policy().ttl("/api/v1..2/...x"), Some(HOUR));
    }

    #[test]
    fn a_prefix_is_not_evaded_by_another_spelling() {
        let mut policy = policy();
        policy.set_ttl(HOUR);
        policy.add_path("/@me/caf%c3%a9", MINUTE);
        for path in ["/@me/caf%C3%A9", "/@me/caf%c3%a9/x", "/@me/café"] {
            assert_eq!(policy.ttl(path), Some(MINUTE), "{path}");
            assert_eq!(policy.prefix_of(path), Some("/@me/caf%C3%A9"));
        }
        for path in ["/%40me/caf%C3%A9", "/@m%65/caf%C3%A9", "//x/%61"] {
            assert_eq!((policy.ttl(path), policy.prefix_of(path)), (None, None), "{path}");
        }
        assert_eq!(policy.ttl("/other/é"), Some(HOUR));
    }

    #[test]
    fn slashes_around_a_prefix_make_no_difference() {
        let mut policy = Policy::default();
        policy.add_path("api/", MINUTE);
        assert_eq!(policy.ttl("/api/users"), Some(MINUTE));
    }

    #[test]
    fn a_capture_is_any_segment_and_less_special_than_a_literal_one() {
        let second = Duration::from_secs(1);
        let mut policy = Policy::default();
        policy.add_path("/shops", HOUR);
        policy.add_path("/shops/{id}/orders", second);
        policy.add_path("/shops/main", MINUTE);
        for (path, expected) in [
            ("/shops/7/orders", Some(second)),
            ("/shops/7/orders/8", Some(second)),
            ("/shops/7", Some(HOUR)),
            ("/shops//orders", Some(HOUR)),
            ("/shops/main/orders", Some(MINUTE)),
            ("/shop/7/orders", None),
        ] {
            assert_eq!(policy.ttl(path), expected, "{path}");
        }
    }

    #[test]
    fn a_later_rule_for_the_same_prefix_replaces_the_earlier() {
        let mut policy = policy();
        policy.add_path("/api", MINUTE);
        assert_eq!(policy.ttl("/api/users"), Some(MINUTE));
    }
}
