//! Rules of the cache, in a file.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use axum::http::{HeaderName, Method, StatusCode};
use cache_layer::{Rule, Rules};
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::quantity;

/// The rules of a file for some of the requests, and the path of the file, so that it can be reloaded.
///
/// ```toml
/// [[rule]]
/// path = "/api/products/{id}"    # or prefix = "/api/products"
/// methods = ["GET"]
/// ttl = "30s"
/// stale_while_revalidate = "10s"
/// negative_ttl = { 404 = "5s" }
/// ```
#[derive(Clone, Debug)]
pub struct CacheRules {
    file: PathBuf,
    pub(crate) rules: Vec<Rule>,
    /// The longest `ttl` of a rule.
    pub(crate) longest_ttl: Option<Duration>,
    /// The longest `negative_ttl` of a rule, of any status.
    pub(crate) longest_negative_ttl: Option<Duration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// Has to be there: a file that is empty, perhaps for a moment, must not take the rules away.
    rule: Option<Vec<Spanned<Entry>>>,
}

/// A rule as it is written in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    path: Option<String>,
    prefix: Option<String>,
    host: Option<String>,
    methods: Option<Vec<Written<Method>>>,
    #[serde(default)]
    bypass: bool,
    ttl: Option<Time>,
    ttl_cap: Option<Time>,
    #[serde(default)]
    negative_ttl: BTreeMap<Written<StatusCode>, Time>,
    stale_while_revalidate: Option<Time>,
    stale_if_error: Option<Time>,
    soft_timeout: Option<Time>,
    early_refresh: Option<f32>,
    verify: Option<f64>,
    max_body: Option<Size>,
    inherit: Option<bool>,
    etags: Option<bool>,
    encode: Option<bool>,
    voids: Option<bool>,
    key_headers: Option<Vec<Written<HeaderName>>>,
    key_cookies: Option<Vec<String>>,
    ignore_query: Option<Vec<String>>,
    ignore_cookies: Option<Vec<String>>,
    bypass_on_cookies: Option<Vec<String>>,
}

/// A time in the form of the settings: `30s`, or a number of seconds.
#[derive(Clone, Copy)]
struct Time(Duration);

/// A size in the form of the settings: `64MiB`, or a number of bytes.
struct Size(u64);

/// A value that its own type parses from a text.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Written<T>(T);

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Number(u64),
    Text(String),
}

impl fmt::Display for TextOrNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = TextOrNumber::deserialize(deserializer)?.to_string();
        quantity::time(&text).map(Self).map_err(|why| de::Error::custom(format!("{text:?} {why}")))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = TextOrNumber::deserialize(deserializer)?.to_string();
        quantity::bytes(&text).map(Self).map_err(|why| de::Error::custom(format!("{text:?} {why}")))
    }
}

impl<'de, T: std::str::FromStr<Err: fmt::Display>> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|why| de::Error::custom(format!("{text:?}: {why}")))
    }
}

impl CacheRules {
    /// Reads a file; the error says what is wrong with it, and in which line.
    pub(crate) fn read(file: impl AsRef<Path>) -> Result<Self, String> {
        let file = file.as_ref();
        let text = written(|| fs::read(file), || thread::sleep(PAUSE));
        let text = text.and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
        Self::parse(file, &text.map_err(|error| format!("cannot read that file: {error}"))?)
    }

    fn parse(file: &Path, text: &str) -> Result<Self, String> {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let document: Document = toml::from_str(text).map_err(|error| {
            let message = error.message().lines().collect::<Vec<_>>().join(" ");
            error.span().map_or_else(|| message.clone(), |span| format!("line {}: {message}", line_of(span.start)))
        })?;
        let entries =
            document.rule.ok_or("there are no rules in that file; write rule = [] if there are to be none")?;
        let mut rules = Vec::new();
        let (mut longest_ttl, mut longest_negative_ttl) = (None, None);
        for entry in entries {
            let line = line_of(entry.span().start);
            let entry = entry.into_inner();
            longest_ttl = longest_ttl.max(entry.ttl.as_ref().map(|Time(ttl)| *ttl));
            longest_negative_ttl = longest_negative_ttl.max(entry.negative_ttl.values().map(|Time(ttl)| *ttl).max());
            rules.push(entry.rule().map_err(|why| format!("line {line}: {why}"))?);
            // Checks whether the rule is compatible with those before it.
            Rules::new(rules.iter().cloned()).map_err(|error| format!("line {line}: {error}"))?;
        }
        Ok(Self { file: file.to_owned(), rules, longest_ttl, longest_negative_ttl })
    }

    /// The file of the rules.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }
}

/// The time between two reads of a file, and after how many of them it is given up.
const PAUSE: Duration = Duration::from_millis(100);
const READS: usize = 20;

/// A file that is not just being written: two reads with a pause between them agree.
fn written(mut read: impl FnMut() -> io::Result<Vec<u8>>, mut pause: impl FnMut()) -> io::Result<Vec<u8>> {
    let mut before = read()?;
    for _ in 1..READS {
        pause();
        let now = read()?;
        if now == before {
            return Ok(now);
        }
        before = now;
    }
    Err(io::Error::other("it changes all the time"))
}

impl Entry {
    fn rule(self) -> Result<Rule, String> {
        let mut rule = match (self.path, self.prefix) {
            (Some(path), None) => Rule::path(path),
            (None, Some(prefix)) => Rule::prefix(prefix),
            _ => return Err("a rule must have either a path or a prefix".to_owned()),
        };
        if let Some(host) = self.host {
            rule = rule.host(&host);
        }
        if let Some(methods) = self.methods {
            rule = rule.methods(methods.into_iter().map(|Written(method)| method));
        }
        if self.bypass {
            rule = rule.bypass();
        }
        if self.encode == Some(true) {
            return Err("encode can only be false: APP_CACHE_ENCODE chooses the codings of all responses".to_owned());
        }
        if self.early_refresh.is_some_and(|beta| !(beta.is_finite() && beta >= 0.0)) {
            return Err("early_refresh must be a number, 0 for never".to_owned());
        }
        if self.verify.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            return Err("verify must be a share of the hits, from 0 to 1".to_owned());
        }
        for (Written(status), Time(ttl)) in self.negative_ttl {
            rule = rule.negative_ttl(status, ttl);
        }
        let names = |names: Vec<Written<HeaderName>>| names.into_iter().map(|Written(name)| name).collect::<Vec<_>>();
        rule = with(rule, self.ttl, |rule, Time(ttl)| rule.ttl(ttl));
        rule = with(rule, self.ttl_cap, |rule, Time(cap)| rule.ttl_cap(cap));
        rule = with(rule, self.stale_while_revalidate, |rule, Time(window)| rule.stale_while_revalidate(window));
        rule = with(rule, self.stale_if_error, |rule, Time(window)| rule.stale_if_error(window));
        rule = with(rule, self.soft_timeout, |rule, Time(limit)| rule.soft_timeout(limit));
        rule = with(rule, self.early_refresh, Rule::early_refresh);
        rule = with(rule, self.verify, |rule, share| rule.verify(share));
        rule = with(rule, self.max_body, |rule, Size(bytes)| rule.max_body(bytes));
        rule = with(rule, self.inherit, Rule::inherit);
        rule = with(rule, self.etags, Rule::etags);
        rule = with(rule, self.encode, |rule, _| rule.encode([]));
        rule = with(rule, self.voids, Rule::voids);
        rule = with(rule, self.key_headers.map(names), Rule::key_headers);
        rule = with(rule, self.key_cookies, Rule::key_cookies);
        rule = with(rule, self.ignore_query, Rule::ignore_query);
        rule = with(rule, self.ignore_cookies, Rule::ignore_cookies);
        Ok(with(rule, self.bypass_on_cookies, Rule::bypass_on_cookies))
    }
}

fn with<T>(rule: Rule, setting: Option<T>, set: impl FnOnce(Rule, T) -> Rule) -> Rule {
    match setting {
        Some(setting) => set(rule, setting),
        None => rule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CacheRules, String> {
        CacheRules::parse(Path::new("rules.toml"), text)
    }

    const ALL: &str = r#"
# What changes often.
[[rule]]
path = "/api/products/{id}"
host = "shop.example"
methods = ["GET"]
ttl = "30s"
ttl_cap = "5m"
negative_ttl = { 404 = "5s", 410 = 60 }
stale_while_revalidate = 10
stale_if_error = "1h"
soft_timeout = "50ms"
early_refresh = 1.5
verify = 0.25
max_body = "64KiB"
inherit = false
etags = true
encode = false
key_headers = ["x-tenant"]
key_cookies = ["currency"]
ignore_query = ["utm_*"]
ignore_cookies = ["_ga*"]
bypass_on_cookies = ["session"]

[[rule]]
prefix = "/api"
ttl = "2m"

[[rule]]
path = "/api/products"
methods = ["POST"]
voids = false

[[rule]]
prefix = "/admin"
bypass = true
"#;

    #[test]
    fn every_setting_can_be_written() {
        let rules = parse(ALL).unwrap();
        let scopes: Vec<_> = rules.rules.iter().map(ToString::to_string).collect();
        assert_eq!(scopes, ["GET shop.example/api/products/{id}", "/api", "POST /api/products", "/admin"]);
        let longest = |rules: &CacheRules| [rules.longest_ttl, rules.longest_negative_ttl];
        assert_eq!(longest(&rules), [Some(Duration::from_secs(120)), Some(Duration::from_secs(60))]);
        let longest = |text| longest(&parse(text).unwrap());
        let negative = "[[rule]]\npath = \"/a\"\nttl = \"30s\"\nnegative_ttl = { 404 = \"10m\", 410 = 5 }\n";
        assert_eq!(longest(negative), [Some(Duration::from_secs(30)), Some(Duration::from_secs(600))], "of any status");
        assert_eq!(longest("[[rule]]\npath = \"/a\"\nbypass = true\n"), [None; 2]);
        let seconds = Duration::from_secs;
        let same = [
            Rule::path("/api/products/{id}")
                .host("shop.example")
                .methods([Method::GET])
                .ttl(seconds(30))
                .ttl_cap(seconds(300))
                .negative_ttl(StatusCode::NOT_FOUND, seconds(5))
                .negative_ttl(StatusCode::GONE, seconds(60))
                .stale_while_revalidate(seconds(10))
                .stale_if_error(seconds(3600))
                .soft_timeout(Duration::from_millis(50))
                .early_refresh(1.5)
                .verify(0.25)
                .max_body(64 * 1024)
                .inherit(false)
                .etags(true)
                .encode([])
                .key_headers([HeaderName::from_static("x-tenant")])
                .key_cookies(["currency"])
                .ignore_query(["utm_*"])
                .ignore_cookies(["_ga*"])
                .bypass_on_cookies(["session"]),
            Rule::prefix("/api").ttl(seconds(120)),
            Rule::path("/api/products").methods([Method::POST]).voids(false),
            Rule::prefix("/admin").bypass(),
        ];
        for (rule, same) in rules.rules.iter().zip(same) {
            assert_eq!(format!("{rule:?}"), format!("{same:?}"));
        }
    }

    #[test]
    fn no_rules_are_written_as_such() {
        assert!(parse("rule = []\n").unwrap().rules.is_empty());
        for text in ["", "\n", "# [[rule]]\n"] {
            assert!(parse(text).unwrap_err().contains("write rule = []"), "{text:?}");
        }
    }

    #[test]
    fn a_file_is_not_read_while_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.toml");
        // A writer that stops where a half is well-formed, and at the very beginning.
        let halves: Vec<_> = ALL.match_indices("[[rule]]").map(|(at, _)| &ALL[..at]).collect();
        let mut steps = halves.into_iter().chain([ALL]);
        let mut write = || {
            if let Some(part) = steps.next() {
                fs::write(&file, part).unwrap();
            }
        };
        write();
        let text = written(|| fs::read(&file), write).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), ALL);
        let mut count = 0_u8;
        let endless = || {
            count += 1;
            Ok(vec![count])
        };
        assert!(written(endless, || {}).unwrap_err().to_string().contains("all the time"));
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, line, why) in [
            ("[[rule]]\npath = \"/a\"\nttl = \"soon\"\n", 3, "\"soon\" must be a time"),
            ("[[rule]]\npath = \"/a\"\ntll = \"5s\"\n", 3, "unknown field `tll`"),
            ("[[rule]]\npath = \"/a\"\n\n[[rule]]\npath = \"/a/{b\"\n", 4, "no closing brace"),
            ("[[rule]]\npath = \"/a\"\n[[rule]]\npath = \"/a/\"\n", 3, "for the same requests already"),
            ("[[rule]]\nttl = \"5s\"\n", 1, "either a path or a prefix"),
            ("[[rule]]\npath = \"/a\"\nprefix = \"/b\"\n", 1, "either a path or a prefix"),
            ("[[rule]]\npath = \"/a\"\nnegative_ttl = { 4040 = \"5s\" }\n", 3, "status code"),
            ("[[rule]]\npath = \"/a\"\nkey_headers = [\"x y\"]\n", 3, "header name"),
            ("[[rule]]\npath = \"/a\"\nmax_body = \"64M\"\n", 3, "\"64M\" must be a size"),
            ("[[rule]]\npath = \"/a\"\nbypass = \"yes\"\n", 3, "boolean"),
            ("# well\n[[rule]\n", 2, "]"),
            ("[[rules]]\npath = \"/a\"\n", 1, "unknown field `rules`"),
            ("[[rule]]\npath = \"/a\"\nhost = \"*\"\n", 1, "must be a host"),
            ("[[rule]]\npath = \"/a\"\nmethods = [\"get\"]\n", 1, "in capitals"),
            ("[[rule]]\npath = \"/a\"\nmethods = [\"POST\"]\nttl = 5\n", 1, "ttl is for GET"),
            ("[[rule]]\npath = \"/a\"\nkey_cookies = [\"cur*\"]\n", 1, "no cookie has the name"),
            ("[[rule]]\npath = \"/a\"\nencode = true\n", 1, "can only be false"),
            ("[[rule]]\npath = \"/a\"\nverify = 2.0\n", 1, "from 0 to 1"),
            ("[[rule]]\npath = \"/a\"\nearly_refresh = -1.0\n", 1, "must be a number"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("line {line}: ")) && error.contains(why), "{text}{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
