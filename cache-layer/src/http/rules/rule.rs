//! A rule: the requests that it applies to, and their settings.

use std::{fmt, time::Duration};

use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::{
    index::{HostPattern, Scope},
    path_pattern::PathPattern,
};
use crate::{
    clock::millis,
    error::{ConfigError, ConfigErrorKind},
    policy::{Encode, KeepIf, Policy, Verify, Voids},
    semantics::{invalidation::is_safe, names::Names, sites::plain_authority},
    telemetry::NoCacheReason,
};

/// Settings of a [`CacheLayer`](crate::CacheLayer) for some of its requests: those for a path, and, if the rule says so, only
/// those for one host or with some methods.
///
/// **Of several rules that match a request, only the most specific one applies; where it sets nothing, the layer's settings
/// apply.** A named host is more specific than a domain, and a domain is more specific than any host. Of two rules for the same
/// hosts, the path decides, by the first segment in which the two differ: a literal segment comes before a capture, and a
/// pattern that ends there before one that continues. Of two rules for the same path, the one that names the request's method
/// applies.
///
/// | rules | `/shops` | `/shops/7` | `/shops/7/orders` | `/shops/7/items` |
/// |---|---|---|---|---|
/// | `prefix("/shops")` | ✓ | | | ✓ |
/// | `path("/shops/{id}")` | | ✓ | | |
/// | `path("/shops/{id}/orders")` | | | ✓ | |
///
/// Paths are compared as they were sent, except that one slash at the end makes no difference, nor whether a character that needs
/// encoding is encoded (`é` and `%C3%A9`). If the application may read a path as another one (it has dot segments, empty segments,
/// or encoded characters that need no encoding, such as `%61` or `%40`), a layer that has rules does not look the request up, and
/// does not store the response (`detail=unclear-path`).
///
/// A rule's path is that of the request, and not the route that axum has matched: a layer around the routes does not know the
/// route yet. Write the route's path.
///
/// A rule that can have no effect is refused: one that no request can match, whose methods its settings are not for, or which
/// bypasses the cache and says how long to keep responses.
///
/// ```
/// use std::time::Duration;
/// use cache_layer::{Cache, CacheLayer, ConfigError, Rule, store::MemoryStore};
/// use http::{HeaderName, Method, StatusCode};
///
/// # fn main() -> Result<(), ConfigError> {
/// let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
/// let layer = CacheLayer::new(Cache::new(MemoryStore::new(64 * 1024 * 1024)))
///     .ttl(minute)
///     .rule(Rule::path("/shops/{id}/orders").ttl(second).key_headers([HeaderName::from_static("x-tenant")]))?
///     .rule(Rule::prefix("/files").ttl(60 * minute).max_body(64 * 1024 * 1024))?
///     .rule(Rule::path("/search").negative_ttl(StatusCode::NOT_FOUND, second))?
///     .rule(Rule::path("/graphql").methods([Method::POST]).voids(false))?
///     .rule(Rule::prefix("/admin").bypass())?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a rule does nothing until a layer has it"]
pub struct Rule {
    /// As it was given, for messages.
    path: String,
    scope: Result<Scope, ConfigError>,
    settings: RuleSettings,
}

/// The settings of a rule; `None` for a setting that it leaves to the layer.
#[derive(Clone, Debug, Default)]
struct RuleSettings {
    bypass: bool,
    verify: Option<Verify>,
    ttl: Option<Duration>,
    ttl_cap: Option<Duration>,
    negative_ttls: Vec<(StatusCode, Duration)>,
    stale_while_revalidate: Option<Duration>,
    stale_if_error: Option<Duration>,
    soft_timeout: Option<Duration>,
    early_refresh: Option<f32>,
    max_body: Option<u64>,
    #[cfg(feature = "typed")]
    inherit: Option<bool>,
    etags: Option<bool>,
    encode: Option<Encode>,
    keep_if: Option<KeepIf>,
    voids: Option<bool>,
    key_headers: Option<Vec<HeaderName>>,
    key_cookies: Option<Vec<Box<str>>>,
    ignore_query: Option<Vec<String>>,
    ignore_cookies: Option<Names>,
    bypass_on_cookies: Option<Names>,
}

/// # Which requests
impl Rule {
    /// A rule for a path, in the syntax of axum's routes: `/shops/{id}/orders`, where `{id}` is any one segment, or
    /// `/files/{*path}`, where `{*path}` is one segment or more. `{{` and `}}` stand for braces.
    ///
    /// A pattern that no request can match is refused when the rule is [given to a layer](crate::CacheLayer::rule): one with a
    /// segment that is only partly a capture, with `:id`, with a query, or with an unencoded character that clients send
    /// percent-encoded.
    pub fn path(pattern: impl Into<String>) -> Self {
        Self::of(pattern.into(), PathPattern::parse)
    }

    /// A rule for a path and all paths below it, by whole segments: `/shops/{id}` is for `/shops/7` and `/shops/7/orders`, but
    /// not for `/shops`.
    pub fn prefix(pattern: impl Into<String>) -> Self {
        Self::of(pattern.into(), PathPattern::parse_prefix)
    }

    /// A rule for every path, for example of one [host](Self::host).
    pub fn any_path() -> Self {
        Self::of("/".to_owned(), |_| Ok(PathPattern::all()))
    }

    fn of(text: String, parse: impl FnOnce(&str) -> Result<PathPattern, String>) -> Self {
        let scope = match parse(&text) {
            Ok(path) => Ok(Scope { host: HostPattern::Any, path, methods: Vec::new() }),
            Err(why) => Err(wrong(&text, &why)),
        };
        Self { path: text, scope, settings: RuleSettings::default() }
    }

    /// Limits the rule to this host, or to all hosts below a domain: `shop.example`, `shop.internal:8080`, `*.shop.example`. The
    /// request's host is compared after [`canonical_host`](crate::CacheLayer::canonical_host) was applied to it; the ports 80 and
    /// 443 make no difference.
    pub fn host(mut self, host: &str) -> Self {
        // No host has a `*` in its name; elsewhere than at the beginning, it would be taken for a part of one.
        let authority =
            |text: &str| plain_authority(text).filter(|_| !text.contains('*')).map(|authority| authority.into());
        let pattern = match host.strip_prefix('*') {
            // The dot stays, so that the domain does not match the end of another name.
            Some(domain) if domain.starts_with('.') => {
                authority(&domain[1..]).map(|domain: Box<str>| HostPattern::Below(format!(".{domain}").into()))
            }
            Some(_) => None,
            None => authority(host).map(HostPattern::Exact),
        };
        match (pattern, &mut self.scope) {
            (Some(pattern), Ok(scope)) => scope.host = pattern,
            (None, Ok(_)) => {
                self.scope = Err(wrong(&self.path, &format!("host {host:?} must be a host, or *. and a domain")));
            }
            (_, Err(_)) => {}
        }
        self
    }

    /// Limits the rule to requests with these methods; it is for all methods unless set. HEAD is answered like GET, and follows
    /// the rule for GET; so do QUERY, and a POST that is answered by its content ([`QueryLayer`](crate::QueryLayer)).
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        let mut methods: Vec<Method> = methods.into_iter().collect();
        methods.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        methods.dedup();
        let why = match () {
            () if methods.is_empty() => Some("must be for one method at least"),
            () if methods.iter().any(|method| method.as_str().bytes().any(|byte| byte.is_ascii_lowercase())) => {
                Some("must name methods in capitals, as requests have them")
            }
            () if methods.contains(&Method::HEAD) => Some("must not name HEAD, which follows the rule for GET"),
            () if methods.contains(&Method::QUERY) => Some("must not name QUERY, which follows the rule for GET"),
            () => None,
        };
        match (why, &mut self.scope) {
            (None, Ok(scope)) => scope.methods = methods,
            (Some(why), Ok(_)) => self.scope = Err(wrong(&self.path, why)),
            (_, Err(_)) => {}
        }
        self
    }
}

/// # What is kept, and for how long
///
/// Each of these works as the setter of the same name of a [`CacheLayer`](crate::CacheLayer), for the requests of the rule.
impl Rule {
    /// These requests go to the application, and their responses are not stored (`detail=rule`). Settings about stored responses
    /// are refused beside it.
    pub fn bypass(mut self) -> Self {
        self.settings.bypass = true;
        self
    }

    /// The share of the hits that is verified, counted for this rule alone; zero turns verification off, unless an operator's
    /// [switch](crate::Switch::VerificationRate) has another rate.
    pub fn verify(mut self, verify: impl Into<Verify>) -> Self {
        self.settings.verify = Some(verify.into());
        self
    }

    /// How long to keep responses for which the application states no freshness; zero means not at all (`detail=rule`).
    /// [`ttl_for_path`](crate::CacheLayer::ttl_for_path) has no effect then.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = Some(ttl);
        self
    }

    /// The longest time for which a response is fresh, whatever it says; with zero, nothing is stored (`detail=rule`).
    pub fn ttl_cap(mut self, cap: Duration) -> Self {
        self.settings.ttl_cap = Some(cap);
        self
    }

    /// How long to keep responses with this status that state no freshness of their own; zero means not at all. The layer's times
    /// for other statuses still apply, and so do `stale_while_revalidate` and `stale_if_error`.
    pub fn negative_ttl(mut self, status: StatusCode, ttl: Duration) -> Self {
        self.settings.negative_ttls.push((status, ttl));
        self
    }

    /// `stale-while-revalidate` for responses that have none.
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.settings.stale_while_revalidate = Some(window);
        self
    }

    /// `stale-if-error` for responses that have none.
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.settings.stale_if_error = Some(window);
        self
    }

    /// How long a request waits for a load if a stale response may take its place, which it may wherever one may on errors.
    pub fn soft_timeout(mut self, limit: Duration) -> Self {
        self.settings.soft_timeout = Some(limit);
        self
    }

    /// Refreshes responses in the background before they are stale.
    pub fn early_refresh(mut self, beta: f32) -> Self {
        self.settings.early_refresh = Some(beta);
        self
    }

    /// The longest body to keep, in bytes.
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.settings.max_body = Some(bytes);
        self
    }

    /// Whether responses inherit from the values that their handlers read from the cache.
    #[cfg(feature = "typed")]
    #[cfg_attr(docsrs, doc(cfg(feature = "typed")))]
    pub fn inherit(mut self, inherits: bool) -> Self {
        self.settings.inherit = Some(inherits);
        self
    }

    /// Whether responses without a validator get an entity tag.
    pub fn etags(mut self, minted: bool) -> Self {
        self.settings.etags = Some(minted);
        self
    }

    /// The content codings that responses are kept and sent in; none with [`Encode::new([])`](Encode::new). The layer sets how
    /// many are encoded at one time.
    pub fn encode(mut self, encode: impl Into<Encode>) -> Self {
        self.settings.encode = Some(encode.into());
        self
    }

    /// Which of the storable responses to store; replaces the layer's setting.
    pub fn keep_if(mut self, keeps: impl Fn(StatusCode, &HeaderMap) -> bool + Send + Sync + 'static) -> Self {
        self.settings.keep_if = Some(KeepIf::new(keeps));
        self
    }

    /// Whether requests with unsafe methods invalidate their target; replaces the layer's
    /// [setting](crate::CacheLayer::voids).
    pub fn voids(mut self, void: bool) -> Self {
        self.settings.voids = Some(void);
        self
    }
}

/// # Keys
///
/// Each of these replaces the layer's setting.
impl Rule {
    /// Request fields that are part of the key.
    pub fn key_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.settings.key_headers = Some(names.into_iter().collect());
        self
    }

    /// Cookies whose values are part of the key.
    pub fn key_cookies<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        let names: Vec<Box<str>> = names.into_iter().map(|name| name.as_ref().into()).collect();
        self.check_cookies(names.iter().map(|name| &**name), |name| name);
        self.settings.key_cookies = Some(names);
        self
    }

    /// Query parameters that make no difference to the response.
    pub fn ignore_query<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.settings.ignore_query = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Cookies that make no difference to the response.
    pub fn ignore_cookies<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.settings.ignore_cookies = Some(self.cookies(names));
        self
    }

    /// Cookies that make a request go to the application, whatever is stored.
    pub fn bypass_on_cookies<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.settings.bypass_on_cookies = Some(self.cookies(names));
        self
    }

    fn cookies<N: AsRef<str>>(&mut self, names: impl IntoIterator<Item = N>) -> Names {
        let names = Names::new(names);
        self.check_cookies(names.iter(), |name| name.strip_suffix('*').unwrap_or(name));
        names
    }

    /// Refuses the rule if no cookie has one of these names; `exact` is what has to be in the name of a cookie.
    fn check_cookies<N: AsRef<str>>(&mut self, names: impl Iterator<Item = N>, exact: impl Fn(&str) -> &str) {
        for name in names {
            let (name, part) = (name.as_ref(), exact(name.as_ref()));
            let is_prefix = part.len() < name.len();
            let is_name = part.bytes().all(is_of_a_cookie) && (is_prefix || !part.is_empty());
            if !is_name && self.scope.is_ok() {
                self.scope = Err(wrong(&self.path, &format!("no cookie has the name {name:?}")));
            }
        }
    }
}

/// Whether names of cookies have this character (RFC 6265, section 4.1.1), apart from `*`, which stands for others where names may
/// be prefixes, and would be taken for that everywhere.
fn is_of_a_cookie(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&byte)
}

/// The settings that are about stored responses, or about storing them. Those of keys also say what a write invalidates.
const KEEPS: [&str; 13] = [
    "verify",
    "ttl",
    "ttl_cap",
    "negative_ttl",
    "stale_while_revalidate",
    "stale_if_error",
    "soft_timeout",
    "early_refresh",
    "max_body",
    "inherit",
    "etags",
    "encode",
    "keep_if",
];

impl Rule {
    /// The requests that the rule applies to; an error if the rule can have no effect.
    pub(super) fn checked_scope(&self) -> Result<&Scope, ConfigError> {
        let scope = self.scope.as_ref().map_err(Clone::clone)?;
        let (says, methods) = (self.says(), &scope.methods);
        if let Some(idle) = says.iter().find(|setting| self.settings.bypass && KEEPS.contains(setting)) {
            return Err(self.wrong(&format!("bypass stores nothing, so that {idle} has no effect")));
        }
        let is_for_get = methods.is_empty() || methods.contains(&Method::GET);
        let is_for_writes = methods.is_empty() || !methods.iter().all(is_safe);
        let idle = says.iter().find(|setting| if **setting == "voids" { !is_for_writes } else { !is_for_get });
        match idle {
            None => Ok(scope),
            Some(setting @ &"voids") => Err(self.wrong(&format!("{setting} is for methods that change something"))),
            Some(setting) => {
                Err(self.wrong(&format!("{setting} is for GET; of the settings for other methods there is only voids")))
            }
        }
    }

    fn wrong(&self, why: &str) -> ConfigError {
        wrong(&self.path, why)
    }

    /// The settings that the rule sets, by the names of their setters.
    pub(in crate::http) fn says(&self) -> Vec<&'static str> {
        // Taken apart, so that no setting is forgotten here.
        let RuleSettings {
            bypass,
            verify,
            ttl,
            ttl_cap,
            negative_ttls,
            stale_while_revalidate,
            stale_if_error,
            soft_timeout,
            early_refresh,
            max_body,
            #[cfg(feature = "typed")]
            inherit,
            etags,
            encode,
            keep_if,
            voids,
            key_headers,
            key_cookies,
            ignore_query,
            ignore_cookies,
            bypass_on_cookies,
        } = &self.settings;
        let said = [
            ("bypass", *bypass),
            ("verify", verify.is_some()),
            ("ttl", ttl.is_some()),
            ("ttl_cap", ttl_cap.is_some()),
            ("negative_ttl", !negative_ttls.is_empty()),
            ("stale_while_revalidate", stale_while_revalidate.is_some()),
            ("stale_if_error", stale_if_error.is_some()),
            ("soft_timeout", soft_timeout.is_some()),
            ("early_refresh", early_refresh.is_some()),
            ("max_body", max_body.is_some()),
            #[cfg(feature = "typed")]
            ("inherit", inherit.is_some()),
            ("etags", etags.is_some()),
            ("encode", encode.is_some()),
            ("keep_if", keep_if.is_some()),
            ("voids", voids.is_some()),
            ("key_headers", key_headers.is_some()),
            ("key_cookies", key_cookies.is_some()),
            ("ignore_query", ignore_query.is_some()),
            ("ignore_cookies", ignore_cookies.is_some()),
            ("bypass_on_cookies", bypass_on_cookies.is_some()),
        ];
        said.into_iter().filter(|(_, said)| *said).map(|(name, _)| name).collect()
    }

    /// Applies this rule's settings to a layer's policy.
    pub(super) fn apply(&self, policy: &mut Policy) {
        // Taken apart, so that no setting is forgotten here.
        let RuleSettings {
            bypass,
            verify,
            ttl,
            ttl_cap,
            negative_ttls,
            stale_while_revalidate,
            stale_if_error,
            soft_timeout,
            early_refresh,
            max_body,
            #[cfg(feature = "typed")]
            inherit,
            etags,
            encode,
            keep_if,
            voids,
            key_headers,
            key_cookies,
            ignore_query,
            ignore_cookies,
            bypass_on_cookies,
        } = self.settings.clone();
        let caching = &mut policy.caching;
        if bypass {
            policy.bypass.get_or_insert(NoCacheReason::Rule);
        }
        caching.negative_ttl.extend(negative_ttls.into_iter().map(|(status, ttl)| (status.as_u16(), millis(ttl))));
        caching.ttl_cap = ttl_cap.map(millis).or(caching.ttl_cap);
        set(&mut caching.default_stale_while_revalidate, stale_while_revalidate.map(millis));
        set(&mut caching.default_stale_if_error, stale_if_error.map(millis));
        set(&mut caching.ignored_query, ignore_query);
        set(&mut policy.soft_timeout, soft_timeout.map(Some));
        if let Some(beta) = early_refresh {
            policy.set_early_refresh(beta);
        }
        if let Some(verify) = verify {
            policy.set_verify(verify);
        }
        set(&mut policy.max_body, max_body);
        #[cfg(feature = "typed")]
        set(&mut policy.inherits, inherit);
        set(&mut policy.etags, etags);
        if let Some(encode) = encode {
            policy.set_encode(encode);
        }
        set(&mut policy.keep_if, keep_if.map(Some));
        set(&mut policy.voids, voids.map(|void| if void { Voids::All } else { Voids::None }));
        set(&mut policy.key_headers, key_headers);
        set(&mut policy.cookies.keyed, key_cookies);
        set(&mut policy.cookies.ignored, ignore_cookies);
        set(&mut policy.cookies.bypass, bypass_on_cookies);
        if let Some(ttl) = ttl {
            policy.set_only_ttl(ttl);
        }
    }
}

fn set<T>(setting: &mut T, said: Option<T>) {
    if let Some(said) = said {
        *setting = said;
    }
}

fn wrong(path: &str, why: &str) -> ConfigError {
    ConfigError::new(ConfigErrorKind::Syntax, format!("rule for {path:?}: {why}"))
}

impl fmt::Display for Rule {
    /// The requests that the rule applies to: `GET shop.example/shops/{id}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(scope) = &self.scope else { return f.write_str(&self.path) };
        for (number, method) in scope.methods.iter().enumerate() {
            let between = if number == 0 { "" } else { "," };
            write!(f, "{between}{method}")?;
        }
        if !scope.methods.is_empty() {
            f.write_str(" ")?;
        }
        match &scope.host {
            HostPattern::Any => {}
            HostPattern::Exact(host) => f.write_str(host)?,
            HostPattern::Below(domain) => write!(f, "*{domain}")?,
        }
        write!(f, "{scope_path}", scope_path = self.path)
    }
}
