//! Checks the Redis behind a cache, without the application: reports what differs from the cache's requirements, and what to do.
//!
//! It reads settings and counters, and writes nothing.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redis::{FromRedisValue, RedisError, RedisResult, aio::MultiplexedConnection};
use serde_json::json;

use super::{
    servers::{SLOTS, Server, servers},
    show::table,
};

/// How long a command may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// If clocks differ by more, entries of other processes are useless.
const SKEW: u64 = 1_000;
/// What the user of the cache has to be allowed; what it is without, in the words of the store's documentation.
const COMMANDS: [(&str, &str); 19] = [
    ("get", "nothing is read"),
    ("mget", "nothing is read"),
    ("set", "nothing is stored"),
    ("getrange", "nothing is stored"),
    ("setrange", "soft invalidations fail"),
    ("unlink", "invalidations fail"),
    ("del", "leases don't end"),
    ("pexpire", "leases run out"),
    ("pttl", "waiting for another process takes longer"),
    ("evalsha", "nothing is stored"),
    ("script|load", "nothing is stored"),
    ("time", "nothing is stored"),
    ("client|tracking", "there is no first tier, and tags are read with every hit"),
    ("client|caching", "there is no first tier, and tags are read with every hit"),
    ("hello", "there is no connection"),
    ("info", "a data set that was restored is not noticed"),
    ("scan", "a pattern invalidates everything"),
    ("xadd", "each process has an audit of its own alone"),
    ("xrevrange", "each process shows an audit of its own alone"),
];

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Good,
    Note,
    Warning,
    Bad,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Warning => "WARN",
            Self::Bad => "BAD",
        }
    }
}

/// A finding, and what to do about it.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    level: Level,
    about: &'static str,
    found: String,
    advice: &'static str,
}

impl Finding {
    fn new(level: Level, about: &'static str, found: impl Into<String>, advice: &'static str) -> Self {
        Self { level, about, found: found.into(), advice }
    }
}

pub(crate) fn is_bad(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.level == Level::Bad)
}

pub(crate) fn shown(findings: &[Finding], as_json: bool) -> String {
    if as_json {
        let of = |one: &Finding| json!({"level": one.level.name().to_lowercase(), "about": one.about, "found": one.found, "advice": one.advice});
        let findings: Vec<_> = findings.iter().map(of).collect();
        return format!("{:#}\n", json!(findings));
    }
    let row = |one: &Finding| {
        let advice = if one.advice.is_empty() { String::new() } else { format!(" -> {}", one.advice) };
        vec![one.level.name().to_owned(), one.about.to_owned(), format!("{}{advice}", one.found)]
    };
    table(&["", "ABOUT", "FOUND"], &findings.iter().map(row).collect::<Vec<_>>())
}

/// Examines the server at `url`, each primary of a cluster, or the primary that the sentinels name; by TLS, it may have
/// certificates of its own to be [`trusted`](servers).
pub(crate) async fn examine(url: &str, prefix: &str, trusted: Option<&[u8]>) -> Vec<Finding> {
    let servers = match servers(url, trusted).await {
        Ok(servers) => servers,
        Err(why) => return vec![unreachable(why)],
    };
    let mut findings = Vec::new();
    if servers.iter().any(|server| server.slots > 0) {
        findings.extend(balance(&servers));
    }
    for Server { name, connection, .. } in servers {
        let of_server = match connection {
            Ok(mut server) => examine_server(&mut server, prefix).await,
            Err(why) => vec![unreachable(why)],
        };
        let named = |finding: Finding| match &name {
            Some(name) => Finding { found: format!("{name}: {}", finding.found), ..finding },
            None => finding,
        };
        findings.extend(of_server.into_iter().map(named));
    }
    findings
}

fn unreachable(why: String) -> Finding {
    let advice = "see whether it runs, and whether address, TLS, user and password are those of the application";
    Finding::new(Level::Bad, "connection", why, advice)
}

/// Whether the primaries of a cluster have all slots, and about as many each.
fn balance(servers: &[Server]) -> Vec<Finding> {
    let slots: u64 = servers.iter().map(|server| server.slots).sum();
    let most = servers.iter().map(|server| server.slots).max().unwrap_or(0);
    let each: Vec<String> = servers.iter().map(|server| server.slots.to_string()).collect();
    let found = format!("{} primaries with {} slots", servers.len(), each.join(", "));
    let mut findings = Vec::new();
    if slots < SLOTS {
        let missing = format!("{} slots have no primary", SLOTS - slots);
        findings.push(Finding::new(Level::Bad, "slots", missing, "repair it: redis-cli --cluster fix"));
    }
    // A fifth more than an even share.
    findings.push(match most * servers.len() as u64 * 5 > slots * 6 {
        true => Finding::new(Level::Warning, "slots", found, "even them out: redis-cli --cluster rebalance"),
        false => Finding::new(Level::Good, "slots", found, ""),
    });
    findings
}

async fn examine_server(server: &mut MultiplexedConnection, prefix: &str) -> Vec<Finding> {
    let mut findings = vec![round_trip(server).await];
    let info = Info::of(server).await;
    match &info {
        None => findings.push(Finding::new(
            Level::Warning,
            "INFO",
            "not allowed",
            "allow `info`: without it, a data set that was restored is not noticed, and this command says less",
        )),
        Some(info) => {
            findings.push(version(info));
            findings.push(role(info));
            findings.push(memory(info));
            findings.push(eviction(info));
            findings.push(persistence(info));
        }
    }
    findings.push(clock(server).await);
    let is_clustered = info.as_ref().is_some_and(|info| info.number("cluster_enabled") == Some(1));
    findings.extend(permissions(server, prefix, is_clustered).await);
    findings.extend(settings(server, info.as_ref()).await);
    findings
}

/// The text of the error, without its context.
pub(crate) fn said(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

pub(crate) async fn ask<T: FromRedisValue>(server: &mut MultiplexedConnection, words: &[&str]) -> RedisResult<T> {
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    match tokio::time::timeout(PATIENCE, command.query_async(server)).await {
        Ok(answer) => answer,
        Err(_) => Err((redis::ErrorKind::Io, "no answer in time").into()),
    }
}

async fn round_trip(server: &mut MultiplexedConnection) -> Finding {
    let begun = Instant::now();
    if let Err(error) = ask::<String>(server, &["PING"]).await {
        return Finding::new(Level::Bad, "PING", said(&error), "the cache can't ask whether the server lives");
    }
    let took = begun.elapsed();
    let found = format!("a round trip takes {:.1} ms from here", took.as_secs_f64() * 1e3);
    match took.as_millis() {
        0..=9 => Finding::new(Level::Good, "round trip", found, ""),
        _ => Finding::new(Level::Warning, "round trip", found, "bring it closer: every hit in Redis takes one"),
    }
}

/// The reply to `INFO`.
struct Info(String);

impl Info {
    async fn of(server: &mut MultiplexedConnection) -> Option<Self> {
        ask(server, &["INFO"]).await.ok().map(Self)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

fn version(info: &Info) -> Finding {
    let (name, version, least) = match info.text("valkey_version") {
        Some(version) => ("Valkey", version, (7, 2)),
        None => ("Redis", info.text("redis_version").unwrap_or("unknown"), (7, 0)),
    };
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let is = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let found = format!("{name} {version}");
    match is >= least {
        true => Finding::new(Level::Good, "version", found, ""),
        false => Finding::new(Level::Bad, "version", found, "the cache needs Redis 7.0 or Valkey 7.2, or newer"),
    }
}

fn role(info: &Info) -> Finding {
    let cluster = info.number("cluster_enabled") == Some(1);
    match info.text("role") {
        Some("master") if cluster => Finding::new(Level::Good, "role", "a primary of a cluster", ""),
        Some("master") => Finding::new(Level::Good, "role", "a primary", ""),
        Some(_) => Finding::new(
            Level::Bad,
            "role",
            "a replica",
            "give the cache the primary: replicas lag, and take no writes",
        ),
        None => Finding::new(Level::Note, "role", "not said", ""),
    }
}

fn memory(info: &Info) -> Finding {
    let used = info.text("used_memory_human").unwrap_or("?").to_owned();
    match (info.number("used_memory"), info.number("maxmemory")) {
        (_, Some(0) | None) => Finding::new(
            Level::Warning,
            "memory",
            format!("{used} used, without a limit"),
            "set maxmemory: a cache takes what it is given, and the system would end the server",
        ),
        (Some(used_bytes), Some(most)) => {
            let share = used_bytes * 100 / most;
            Finding::new(Level::Good, "memory", format!("{used} used, {share} % of maxmemory"), "")
        }
        (None, Some(_)) => Finding::new(Level::Note, "memory", "not said", ""),
    }
}

fn eviction(info: &Info) -> Finding {
    let policy = info.text("maxmemory_policy").unwrap_or("unknown").to_owned();
    let evicted = info.number("evicted_keys").unwrap_or(0);
    let limited = info.number("maxmemory").is_some_and(|most| most > 0);
    match &*policy {
        "noeviction" if limited => Finding::new(
            Level::Bad,
            "eviction",
            "maxmemory-policy is noeviction",
            "set allkeys-lfu or allkeys-lru: once it is full, nothing more is stored, and invalidations of tags may fail",
        ),
        "noeviction" => Finding::new(Level::Note, "eviction", policy, "set allkeys-lfu together with maxmemory"),
        _ => Finding::new(Level::Good, "eviction", format!("{policy}, {evicted} keys evicted so far"), ""),
    }
}

fn persistence(info: &Info) -> Finding {
    let aof = info.number("aof_enabled") == Some(1);
    let failed = info.text("rdb_last_bgsave_status") == Some("err");
    match (aof, failed) {
        (_, true) => Finding::new(
            Level::Bad,
            "persistence",
            "the last snapshot failed",
            "see to its disk, or switch snapshots off (save \"\"): with stop-writes-on-bgsave-error nothing is stored",
        ),
        (true, false) => Finding::new(
            Level::Note,
            "persistence",
            "the append-only file is on",
            "a cache can do without: what is restored is invalidated first",
        ),
        (false, false) => Finding::new(Level::Good, "persistence", "no append-only file", ""),
    }
}

/// Compares the server's clock with this machine's.
async fn clock(server: &mut MultiplexedConnection) -> Finding {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    let before = now();
    match ask::<(u64, u64)>(server, &["TIME"]).await {
        Err(error) => Finding::new(Level::Bad, "clock", said(&error), "allow `time`: leases are dated by it"),
        Ok((seconds, micros)) => {
            // The request and the reply probably took equally long.
            let here = before.midpoint(now());
            let offset = here.abs_diff(seconds * 1000 + micros / 1000);
            let found = format!("{offset} ms beside this machine's");
            match offset {
                0..=250 => Finding::new(Level::Good, "clock", found, ""),
                251..=SKEW => Finding::new(
                    Level::Warning,
                    "clock",
                    found,
                    "keep both by NTP: dates of responses are this machine's",
                ),
                _ => Finding::new(
                    Level::Bad,
                    "clock",
                    found,
                    "keep both by NTP: freshness goes by the server's clock, but caches with sealed entries or a clock of their own \
                     don't use each other's then, nor do versions before that",
                ),
            }
        }
    }
}

/// The kinds of names that the cache has, with what it is without if the user may not read or write them.
fn names(prefix: &str, is_clustered: bool) -> Vec<(String, &'static str)> {
    // In a cluster, these lie in one slot.
    let together = if is_clustered { format!(":{{{prefix}}}:") } else { String::new() };
    let tags = if is_clustered { &*together } else { ":" };
    vec![
        (format!("{prefix}:e:{{doctor}}:-:x"), "nothing is stored"),
        (format!("{prefix}:l:{{doctor}}:-:x"), "nothing is stored"),
        (format!("{prefix}:v:{{doctor}}:-:x"), "variants are lost"),
        (format!("{prefix}:t{tags}doctor"), "nothing is stored, and invalidations fail"),
        (format!("{prefix}:t{tags}"), "nothing is stored, and invalidations of everything fail"),
        (format!("{prefix}:i{together}"), "nothing is stored, and invalidations fail"),
        (format!("{prefix}:id{together}"), "a data set that was restored is not noticed"),
        (format!("{prefix}:mark{together}"), "there is no connection"),
        (format!("{prefix}:lurker{together}"), "banned entries are not swept"),
        (format!("{prefix}:reclaimer{together}"), "entries that tags made void stay until they expire"),
        (format!("{prefix}:reclaimed{together}"), "processes search for void entries one after the other"),
        (format!("{prefix}:switches{together}"), "switches can't be turned"),
        (format!("{prefix}:audit{together}"), "each process has an audit of its own alone"),
        (format!("{prefix}:request{tags}doctor"), "a purge that is sent again may purge again"),
        (format!("{prefix}:hot{together}"), "there is no warm start"),
    ]
}

/// Commands that the cache needs and that this user may not use, and names that it may not use them on.
async fn permissions(server: &mut MultiplexedConnection, prefix: &str, is_clustered: bool) -> Vec<Finding> {
    const ADVICE: &str =
        "run `ACL DRYRUN` as an administrator, or look at the permissions that RedisStore's documentation lists";
    let Ok(user) = ask::<String>(server, &["ACL", "WHOAMI"]).await else {
        return vec![Finding::new(Level::Note, "permissions", "can't be asked for by this user", ADVICE)];
    };
    let names = names(prefix, is_clustered);
    let commands = COMMANDS.iter().map(|(command, without)| (*command, &*names[0].0, *without));
    let keys = names.iter().skip(1);
    // `get` and `set` stand for reading and writing.
    let on_keys = keys.flat_map(|(key, without)| ["get", "set"].map(|command| (command, &**key, *without)));
    let mut missing: Vec<Finding> = Vec::new();
    let mut refused: Vec<&str> = Vec::new();
    for (command, key, without) in commands.chain(on_keys) {
        if refused.contains(&command) {
            continue;
        }
        let mut words = vec!["ACL", "DRYRUN", &*user];
        words.extend(command.split('|'));
        words.extend(arguments(command, key));
        match ask::<String>(server, &words).await {
            Ok(answer) if answer == "OK" => {}
            Ok(_) => {
                let found = match key == names[0].0 {
                    true => format!("no {command}: {without}"),
                    false => format!("no {command} of {key}: {without}"),
                };
                if key == names[0].0 {
                    refused.push(command);
                }
                missing.push(Finding::new(Level::Bad, "permissions", found, "allow it"));
            }
            Err(error) => {
                let found = match error.code() {
                    Some("NOPERM") => format!("{user} may not ask what it may do"),
                    _ => format!("can't be asked for: {}", said(&error)),
                };
                missing.push(Finding::new(Level::Note, "permissions", found, ADVICE));
                return missing;
            }
        }
    }
    if missing.is_empty() {
        let found = format!("{user} may do all that the cache does under {prefix}:");
        missing.push(Finding::new(Level::Good, "permissions", found, ""));
    }
    missing
}

/// The arguments for a valid call of the command.
fn arguments<'a>(command: &str, key: &'a str) -> Vec<&'a str> {
    match command {
        "get" | "mget" | "unlink" | "del" | "pttl" => vec![key],
        "set" => vec![key, "x"],
        "getrange" => vec![key, "0", "1"],
        "setrange" => vec![key, "0", "x"],
        "pexpire" => vec![key, "1"],
        "evalsha" => vec!["0000000000000000000000000000000000000000", "1", key],
        "script|load" => vec!["return 1"],
        "client|tracking" => vec!["on", "optin"],
        "client|caching" => vec!["yes"],
        "hello" => vec!["3"],
        "scan" => vec!["0"],
        "xadd" => vec![key, "*", "record", "x"],
        "xrevrange" => vec![key, "+", "-"],
        _ => Vec::new(),
    }
}

async fn settings(server: &mut MultiplexedConnection, info: Option<&Info>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut setting = async |name: &str| {
        let pair: Vec<String> = ask(server, &["CONFIG", "GET", name]).await.ok()?;
        pair.into_iter().nth(1)
    };
    let Some(timeout) = setting("timeout").await else {
        return vec![Finding::new(
            Level::Note,
            "settings",
            "CONFIG is not allowed",
            "ask an administrator for timeout and tracking-table-max-keys",
        )];
    };
    if timeout != "0" {
        let found = format!("timeout is {timeout} s");
        findings.push(Finding::new(
            Level::Warning,
            "timeout",
            found,
            "set it to 0: an idle connection that is closed voids the first tier",
        ));
    }
    let most = setting("tracking-table-max-keys").await.and_then(|most| most.parse::<u64>().ok()).unwrap_or(0);
    let tracked = info.and_then(|info| info.number("tracking_total_keys")).unwrap_or(0);
    let found = format!("{tracked} keys are tracked, of {most} at most");
    findings.push(match most {
        0 => Finding::new(Level::Good, "tracking", format!("{tracked} keys are tracked, without a limit"), ""),
        most if tracked * 10 >= most * 8 => Finding::new(
            Level::Warning,
            "tracking",
            found,
            "raise tracking-table-max-keys: beyond it, the server evicts from first tiers what has not changed",
        ),
        _ => Finding::new(Level::Good, "tracking", found, ""),
    });
    findings
}

#[cfg(test)]
mod tests {
    use ::tests::RedisServer;

    use super::*;

    fn level(findings: &[Finding], about: &str) -> Vec<Level> {
        findings.iter().filter(|finding| finding.about == about).map(|finding| finding.level).collect()
    }

    #[tokio::test]
    async fn a_server_as_the_cache_needs_it_is_found_good() {
        let server = RedisServer::builder().config("maxmemory 100mb").config("maxmemory-policy allkeys-lfu").start();
        let findings = examine(&server.url(), "shop", None).await;
        assert!(!is_bad(&findings), "{}", shown(&findings, false));
        for about in ["version", "role", "memory", "eviction", "persistence", "clock", "permissions", "tracking"] {
            assert_eq!(level(&findings, about), [Level::Good], "{}", shown(&findings, false));
        }
        assert!(serde_json::from_str::<serde_json::Value>(&shown(&findings, true)).unwrap().is_array());
    }

    #[tokio::test]
    async fn what_is_wrong_is_found_with_what_to_do() {
        let server = RedisServer::builder()
            .config("maxmemory 100mb")
            .config("maxmemory-policy noeviction")
            .config("timeout 30")
            .start();
        let findings = examine(&server.url(), "shop", None).await;
        assert_eq!(level(&findings, "eviction"), [Level::Bad]);
        assert_eq!(level(&findings, "timeout"), [Level::Warning]);
        assert!(is_bad(&findings));
        assert!(findings.iter().filter(|one| one.level == Level::Bad).all(|one| !one.advice.is_empty()));
    }

    #[tokio::test]
    async fn a_user_that_may_not_do_enough_is_told_what_is_missing() {
        let server = RedisServer::builder()
            .config(
                "user lame on >secret ~shop:* -@all +get +mget +hello +ping +info +acl +acl|whoami +acl|dryrun +time",
            )
            .start();
        let url = server.url().replace("redis://", "redis://lame:secret@");
        let findings = examine(&url, "shop", None).await;
        let missing: Vec<&str> =
            findings.iter().filter(|one| one.about == "permissions").map(|one| one.found.as_str()).collect();
        assert!(missing.iter().any(|found| found.starts_with("no evalsha")), "{missing:?}");
        assert!(missing.iter().any(|found| found.starts_with("no scan")), "{missing:?}");
        assert!(!missing.iter().any(|found| found.starts_with("no get:")), "{missing:?}");
        let other = examine(&url, "another", None).await;
        assert!(other.iter().any(|one| one.found.starts_with("no get:")), "its keys are not this user's");
    }

    #[tokio::test]
    async fn a_user_of_entries_alone_is_told_which_names_are_missing() {
        let server =
            RedisServer::builder().config("user narrow on >secret ~shop:e:* ~shop:audit +@all -cluster").start();
        let findings = examine(&server.url().replace("redis://", "redis://narrow:secret@"), "shop", None).await;
        let missing: Vec<&str> = findings.iter().filter(|one| one.level == Level::Bad).map(|one| &*one.found).collect();
        for name in [
            "get of shop:l:",
            "set of shop:t:doctor",
            "set of shop:switches",
            "set of shop:request:doctor",
            "set of shop:reclaimer: entries that tags made void stay",
            "set of shop:reclaimed: processes search",
        ] {
            assert!(missing.iter().any(|found| found.starts_with(&format!("no {name}"))), "{name}: {missing:?}");
        }
        assert!(!missing.iter().any(|found| found.contains("shop:e:") || found.contains("shop:audit")), "{missing:?}");
    }

    #[tokio::test]
    async fn permissions_that_could_not_be_asked_for_are_not_called_good() {
        let server = RedisServer::builder().config("maxmemory 100mb").start();
        let proxy = ::tests::LyingProxy::start(server.addr()).await;
        proxy.lie(&["ACL", "DRYRUN"], b"-ERR unknown command 'ACL'\r\n");
        let findings = examine(&format!("redis://{}", proxy.addr()), "shop", None).await;
        assert_eq!(level(&findings, "permissions"), [Level::Note], "{}", shown(&findings, false));
        assert!(shown(&findings, false).contains("unknown command"));
        assert!(proxy.be_honest() > 0);
    }

    #[tokio::test]
    async fn each_primary_of_a_cluster_is_examined() {
        let cluster = ::tests::RedisCluster::start(3, 0);
        let findings = examine(&cluster.url(), "shop", None).await;
        assert_eq!(level(&findings, "slots"), [Level::Good], "{}", shown(&findings, false));
        for about in ["version", "role", "permissions", "clock"] {
            assert_eq!(level(&findings, about), [Level::Good; 3], "{about}: {}", shown(&findings, false));
        }
    }

    #[tokio::test]
    async fn the_primary_that_sentinels_name_is_examined() {
        let sentinel = ::tests::RedisSentinel::start();
        let findings = examine(&sentinel.url(), "shop", None).await;
        assert_eq!(level(&findings, "role"), [Level::Good], "{}", shown(&findings, false));
        let unknown = examine(&sentinel.url().replace("/main", "/another"), "shop", None).await;
        assert!(is_bad(&unknown) && shown(&unknown, false).contains("another"), "{}", shown(&unknown, false));
    }

    /// By the certificates that the file of the server has, by those of another one, and by the system's.
    async fn trusts_those_that_it_is_told(url: &str, certificate: &std::path::Path, roles: usize) {
        let (trusted, other) = (std::fs::read(certificate).unwrap(), RedisServer::builder().tls().start());
        let findings = examine(url, "shop", Some(&trusted)).await;
        assert_eq!(level(&findings, "role"), vec![Level::Good; roles], "{}", shown(&findings, false));
        let others = std::fs::read(other.certificate()).unwrap();
        for unfit in [Some(&*others), None, Some(&b"no certificate"[..])] {
            let findings = examine(url, "shop", unfit).await;
            assert_eq!(level(&findings, "connection"), [Level::Bad], "{}", shown(&findings, false));
            assert!(!shown(&findings, false).contains("opensesame"), "{}", shown(&findings, false));
        }
    }

    #[tokio::test]
    async fn servers_by_tls_are_examined_if_their_certificate_is_trusted() {
        let server = RedisServer::builder().user("alice", "opensesame").tls().start();
        let url = server.tls_url().replace("://", "://alice:opensesame@");
        trusts_those_that_it_is_told(&url, &server.certificate(), 1).await;
        let without_tls = examine(&server.url(), "shop", Some(&std::fs::read(server.certificate()).unwrap())).await;
        assert!(
            is_bad(&without_tls) && shown(&without_tls, false).contains("rediss"),
            "{}",
            shown(&without_tls, false)
        );
        let cluster = ::tests::RedisCluster::builder().tls().start(3, 0);
        trusts_those_that_it_is_told(&cluster.tls_url(), &cluster.certificate(), 3).await;
        let group = ::tests::RedisSentinel::builder().sentinel_password("other").tls().start();
        let url = format!("{}?sentinel_pass=other", group.tls_url());
        trusts_those_that_it_is_told(&url, &group.certificate(), 1).await;
    }

    #[test]
    fn slots_that_are_missing_or_uneven_are_told() {
        let server = |slots| Server { name: None, slots, connection: Err(String::new()) };
        let levels = |slots: &[u64]| -> Vec<Level> {
            balance(&slots.iter().map(|slots| server(*slots)).collect::<Vec<_>>()).iter().map(|one| one.level).collect()
        };
        assert_eq!(levels(&[5461, 5462, 5461]), [Level::Good]);
        assert_eq!(levels(&[10_000, 3_192, 3_192]), [Level::Warning]);
        assert_eq!(levels(&[5461, 5462, 0]), [Level::Bad, Level::Warning]);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_one_finding_without_its_password() {
        let findings = examine("redis://:opensesame@127.0.0.1:1/0", "shop", None).await;
        assert_eq!(findings.len(), 1);
        assert!(is_bad(&findings) && !shown(&findings, false).contains("opensesame"));
        let unreadable = examine("nonsense opensesame", "shop", None).await;
        assert!(!shown(&unreadable, false).contains("opensesame"));
    }
}
