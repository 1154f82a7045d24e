use std::io::Write as _;

use cache_layer::{Coding, Encode};
use tempfile::NamedTempFile;

use super::*;

fn parse(args: &[&str], variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let args = std::iter::once("service").chain(args.iter().copied());
    Config::parse_from_parts(
        args.map(OsString::from),
        variables.iter().map(|(name, value)| (name.into(), value.into())),
    )
}

#[track_caller]
fn wrong(args: &[&str], variables: &[(&str, &str)]) -> String {
    match parse(args, variables) {
        Err(ConfigError::Wrong(line)) => line,
        other => panic!("{args:?} {variables:?} gave {other:?}"),
    }
}

#[test]
fn nothing_needs_to_be_set() {
    let config = Config::default();
    assert_eq!(config.listen, "127.0.0.1:8000".parse().unwrap());
    assert_eq!(config.database_url.expose(), "sqlite://products.db");
    assert_eq!(config.redis_url, None);
    assert_eq!(config.cache, CacheSwitch::On);
    assert_eq!(config.cache_memory, 64 << 20);
    assert_eq!(config.cache_default_ttl, Duration::from_secs(300));
    assert_eq!(config.cache_lock_timeout, Duration::from_secs(5));
    assert_eq!(config.cache_verify, 0.0);
    assert!(config.cache_credentials.is_empty());
    let named = parse(&[], &[("APP_CACHE_CREDENTIALS", "X-Api-Key, x-session")]).unwrap().cache_credentials;
    assert_eq!(named, ["x-api-key", "x-session"]);
    assert_eq!((config.cache_hot_keys, config.cache_warm), (4096, Duration::from_secs(2)));
    assert_eq!(config.cache_reclaim, Duration::from_secs(600));
    assert_eq!(parse(&[], &[("APP_CACHE_RECLAIM", "0")]).unwrap().cache_reclaim, Duration::ZERO);
    assert_eq!(config.cache_encode, "zstd, gzip".parse().unwrap());
    assert_eq!(parse(&[], &[("APP_CACHE_ENCODE", "off")]).unwrap().cache_encode, CacheEncode::default());
    let leveled = parse(&[], &[("APP_CACHE_ENCODE", "br:9, gzip")]).unwrap().cache_encode;
    let wanted = Encode::new([Coding::Brotli, Coding::Gzip]).level(Coding::Brotli, 9).unwrap();
    assert_eq!(leveled, CacheEncode(Some(wanted)));
    for wrong in ["br:12", "br:0", "br:", "br:x", "deflate:1", "gzip:-1", "br:9:1"] {
        let line = self::wrong(&[], &[("APP_CACHE_ENCODE", wrong)]);
        assert!(line.contains(wrong), "{line}");
    }
    assert_eq!(config.cache_paths, "/api/products=60s,/api/categories=60s".parse().unwrap());
}

#[test]
fn a_flag_wins_over_its_variable() {
    let variables = [("APP_LISTEN", "0.0.0.0:80"), ("APP_REDIS_TIMEOUT", "1s")];
    let config = parse(&["--listen", "[::1]:81"], &variables).unwrap();
    assert_eq!(config.listen, "[::1]:81".parse().unwrap());
    assert_eq!(config.redis_timeout, Duration::from_secs(1));
}

#[test]
fn an_empty_variable_is_no_variable() {
    let config = parse(&[], &[("APP_LISTEN", ""), ("APP_REDIS_URL", "")]).unwrap();
    assert_eq!(config.listen, Config::default().listen);
    assert_eq!(config.redis_url, None);
}

#[test]
fn a_wrong_value_is_named_with_what_is_allowed() {
    for (name, value, allowed) in [
        ("APP_LISTEN", "localhost", "must be an IP address and a port"),
        ("APP_LISTEN", "127.0.0.1:65536", "must be an IP address and a port"),
        ("APP_DATABASE_URL", "mysql://db/products", "sqlite://products.db or postgres://"),
        ("APP_DATABASE_URL", "products.db", "sqlite://products.db or postgres://"),
        ("APP_DATABASE_CONNECTIONS", "0", "from 1 to 1000"),
        ("APP_REDIS_URL", "http://redis", "redis://:PASSWORD@HOST:6379/0"),
        ("APP_REDIS_CONNECTIONS", "many", "from 1 to 64"),
        ("APP_REDIS_TIMEOUT", "0ms", "from 1ms to 10s"),
        ("APP_CACHE", "no", "must be on or off"),
        ("APP_CACHE", "OFF", "must be on or off"),
        ("APP_CACHE_PREFIX", "a b", "1 to 64 letters"),
        ("APP_CACHE_PREFIX", "{a}", "1 to 64 letters"),
        ("APP_CACHE_MEMORY", "64M", "64MiB"),
        ("APP_CACHE_FIRST_TIER", "0 B", "or 0"),
        ("APP_CACHE_PATHS", "api/products", "/api/products=60s,/api/categories"),
        ("APP_CACHE_PATHS", "/api=soon", "the time of /api must be a time"),
        ("APP_CACHE_DEFAULT_TTL", "-1", "250ms, 30s, 5m"),
        ("APP_CACHE_LOCK_TIMEOUT", "0", "must be more than 0"),
        ("APP_CACHE_MAX_BODY", "0", "a size of 1 byte"),
        ("APP_CACHE_ENCODE", "deflate", "off, or some of zstd, br and gzip"),
        ("APP_CACHE_VERIFY", "1.5", "from 0 to 1"),
        ("APP_CACHE_CREDENTIALS", "x api key", "such as x-api-key"),
        ("APP_CACHE_VERIFY", "some", "from 0 to 1"),
        ("APP_CACHE_HOT_KEYS", "65537", "from 0 to 65536"),
        ("APP_CACHE_WARM", "31s", "from 0 to 30s"),
        ("APP_CACHE_RECLAIM", "500ms", "from 1s to 24h, or 0"),
        ("APP_CACHE_ENCODE", "gzip,off", "off, or some of zstd, br and gzip"),
        ("APP_REQUEST_TIMEOUT", "soon", "250ms, 30s, 5m"),
        ("APP_HEADER_TIMEOUT", "0", "must be more than 0"),
        ("APP_IDLE_TIMEOUT", "forever", "250ms, 30s, 5m"),
        ("APP_SHUTDOWN_DELAY", "1 s", "250ms, 30s, 5m"),
        ("APP_SHUTDOWN_TIMEOUT", "400d", "at most a year"),
        ("APP_LOG", "service=loud", "error, warn, info, debug, trace or off"),
        ("APP_LOG", "warning", "error, warn, info, debug, trace or off"),
        ("APP_LOG", "info,verbose", "such as info,cache_layer=debug"),
        ("APP_LOG", "info, service=debug", "such as info,cache_layer=debug"),
        ("APP_LOG", "tower_http", "such as info,cache_layer=debug"),
        ("APP_LOG_FORMAT", "xml", "must be text or json"),
    ] {
        let line = wrong(&[], &[(name, value)]);
        assert!(line.starts_with(name), "{line}");
        assert!(line.contains(value) || name.ends_with("_URL"), "{line}");
        assert!(line.contains(allowed), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn what_to_log_is_a_level_also_by_module_and_by_span() {
    for log in ["warn", "OFF", "info,", "info,tower_http=debug", "tower_http=trace", "[request]=debug,error"] {
        assert_eq!(parse(&[], &[("APP_LOG", log)]).unwrap().log, log);
    }
}

#[test]
fn a_setting_that_needs_another_one_names_both() {
    let token = file("a-token-of-some-length");
    let variables =
        [("APP_ADMIN_PURGE", "/api"), ("APP_ADMIN_TOKEN_FILE", path(&token)), ("APP_ADMIN_LISTEN", "127.0.0.1:9090")];
    for needed in 1..variables.len() {
        let line = wrong(&[], &variables[..needed]);
        let names = [variables[needed - 1].0, variables[needed].0];
        assert!(line.starts_with(names[0]) && line.contains(names[1]), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
    assert!(parse(&[], &variables).is_ok());
}

#[test]
fn a_healthcheck_reads_no_variable_but_the_address() {
    let variables = [("APP_LISTEN", "127.0.0.1:81"), ("APP_CACHE_RULES", "/nowhere/rules.toml"), ("APP_CACHE", "no")];
    let config = parse(&["--healthcheck"], &variables).unwrap();
    assert!(config.healthcheck);
    assert_eq!(config.listen, "127.0.0.1:81".parse().unwrap());
    let config = parse(&["--healthcheck", "--listen", "127.0.0.1:82"], &variables).unwrap();
    assert_eq!(config.listen, "127.0.0.1:82".parse().unwrap());
    assert!(wrong(&["--healthcheck"], &[("APP_LISTEN", "localhost")]).starts_with("APP_LISTEN"));
}

#[test]
fn a_wrong_url_does_not_give_its_password_away() {
    for (name, url) in [
        ("APP_REDIS_URL", "reddis://:hunter2@host:6379"),
        ("APP_REDIS_URL", "redis:/:hunter2"),
        ("APP_REDIS_URL", "hunter2"),
        ("APP_DATABASE_URL", "postgres://me:hunter2"),
        ("APP_DATABASE_URL", "postgres://me:hunter2@db:port/products"),
        ("APP_DATABASE_URL", "postgres://me@db/products?password=hunter2&sslmode=perhaps"),
        ("APP_DATABASE_URL", "mysql://me:hunter2@db/products"),
    ] {
        let line = wrong(&[], &[(name, url)]);
        assert!(line.starts_with(name), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
}

#[test]
fn a_wrong_flag_is_one_line() {
    for args in [&["--lisen", "127.0.0.1:80"] as &[_], &["--listen"], &["serve"]] {
        let line = wrong(args, &[]);
        assert!(line.ends_with("see service --help"), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn the_help_lists_every_variable_and_default_but_no_value() {
    let variables = [("APP_REDIS_URL", "redis://:hunter2@host")];
    let Err(ConfigError::Asked(help)) = parse(&["--help"], &variables) else {
        panic!("no help");
    };
    for flag in settings(&Config::command()) {
        assert!(help.contains(&format!("--{flag} <")), "{help}");
        assert!(help.contains(&format!("[env: {}]", variable(flag))), "{help}");
    }
    assert!(help.contains("[default: 127.0.0.1:8000]"), "{help}");
    assert!(!help.contains("hunter2"), "{help}");
}

#[test]
fn an_unknown_variable_is_answered_with_the_one_that_was_meant() {
    assert_eq!(
        unknown_variable("APP_REDIS_URI").unwrap(),
        "APP_REDIS_URI is not a setting of this service; did you mean APP_REDIS_URL?"
    );
    assert_eq!(unknown_variable("APP_ZZZ").unwrap(), "APP_ZZZ is not a setting of this service");
    assert!(unknown_variable("APP_HEALTHCHECK").is_some());
    assert_eq!(unknown_variable("APP_REDIS_URL"), None);
    assert_eq!(unknown_variable("PATH"), None);
}

fn file(content: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

#[test]
fn a_secret_can_be_given_as_a_file() {
    let (database, redis, password) =
        (file("postgres://me:hunter2@db/products\n"), file("redis://service@cache:6379"), file("hunt/er2\r\n"));
    let variables = [
        ("APP_DATABASE_URL_FILE", path(&database)),
        ("APP_REDIS_URL_FILE", path(&redis)),
        ("APP_REDIS_PASSWORD_FILE", path(&password)),
    ];
    let config = parse(&[], &variables).unwrap();
    assert_eq!(config.database_url.expose(), "postgres://me:hunter2@db/products");
    assert_eq!(config.redis_url.as_ref().unwrap().expose(), "redis://service:hunt%2Fer2@cache:6379");
    assert!(!format!("{config:?}").contains("hunt"));

    let config = parse(&[], &[("APP_REDIS_URL", "redis://cache"), ("APP_REDIS_PASSWORD_FILE", path(&password))]);
    assert_eq!(config.unwrap().redis_url.unwrap().expose(), "redis://:hunt%2Fer2@cache");
}

#[test]
fn a_scheme_may_be_written_in_capitals() {
    let config = parse(&[], &[("APP_REDIS_URL", "REDIS://cache")]).unwrap();
    assert_eq!(config.redis_url.unwrap().expose(), "REDIS://cache");
}

#[test]
fn an_address_without_a_scheme_is_named_as_it_was_written() {
    let line = wrong(&[], &[("APP_REDIS_URL", "localhost:6379")]);
    assert!(line.contains("is \"localhost:6379\": must be a URL such as redis://"), "{line}");
}

#[test]
fn a_file_that_holds_no_secret_is_named() {
    let (empty, mysql) = (file("\n"), file("mysql://me:hunter2@db/products"));
    for (name, path, why) in [
        ("APP_REDIS_PASSWORD_FILE", "/nowhere/password", "cannot read that file: No such file"),
        ("APP_REDIS_PASSWORD_FILE", path(&empty), "that file is empty"),
        ("APP_REDIS_URL_FILE", path(&mysql), "must be a URL such as redis://"),
        ("APP_DATABASE_URL_FILE", path(&mysql), "must be a URL such as sqlite://"),
    ] {
        let line = wrong(&[], &[(name, path)]);
        assert!(line.starts_with(name) && line.contains(path) && line.contains(why), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn two_answers_to_one_question_are_refused() {
    let (url, password) = (file("redis://cache"), file("hunter2"));
    let line = wrong(&[], &[("APP_REDIS_URL", "redis://cache"), ("APP_REDIS_URL_FILE", path(&url))]);
    assert!(line.contains("--redis-url") && line.contains("--redis-url-file"), "{line}");
    for (redis, why) in [("", "set APP_REDIS_URL"), ("redis://me:hunter2@cache", "a password of its own")] {
        let line = wrong(&[], &[("APP_REDIS_URL", redis), ("APP_REDIS_PASSWORD_FILE", path(&password))]);
        assert!(line.starts_with("APP_REDIS_PASSWORD_FILE is set, but ") && line.contains(why), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
}
