//! The addresses of servers: a URL names one server, a group behind sentinels, or a cluster.

use std::fmt;

#[cfg(feature = "cluster")]
use redis::ErrorKind;
use redis::{
    Client, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, RedisError, RedisResult, io::tcp::TcpSettings,
};

#[cfg(feature = "cluster")]
use super::endpoint::places;
#[cfg(feature = "sentinel")]
use super::sentinel::Sentinels;
use crate::error::{ConfigError, ConfigErrorKind};

#[derive(Clone)]
pub(crate) enum Address {
    One(Box<Client>),
    #[cfg(feature = "sentinel")]
    Sentinel(Sentinels),
    #[cfg(feature = "cluster")]
    Cluster(Vec<ConnectionInfo>),
}

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self, ConfigError> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let scheme = scheme.to_ascii_lowercase();
        // `valkey` is another name for `redis` in all URLs.
        let scheme = match scheme.strip_prefix("valkey") {
            Some(kind) => format!("redis{kind}"),
            None => scheme,
        };
        let address = match &*scheme {
            "" => Err(invalid(&without_scheme(url))),
            _ => Self::of_scheme(&scheme, &format!("{scheme}://{rest}")),
        };
        address.map_err(|error| ConfigError::new(error.kind(), format!("Redis URL: {error}{}", form(&scheme))))
    }

    fn of_scheme(scheme: &str, url: &str) -> Result<Self, ConfigError> {
        match scheme {
            "redis" | "unix" | "rediss" => {
                let info = server(url)?;
                Ok(Self::One(Box::new(Client::open(info).map_err(|error| not_understood(&error))?)))
            }
            #[cfg(feature = "sentinel")]
            "redis+sentinel" | "rediss+sentinel" => Ok(Self::Sentinel(sentinels(url)?)),
            #[cfg(feature = "cluster")]
            "redis+cluster" | "rediss+cluster" => Ok(Self::Cluster(cluster(url)?)),
            #[cfg(not(feature = "sentinel"))]
            "redis+sentinel" | "rediss+sentinel" => Err(lacks(scheme, "sentinel")),
            #[cfg(not(feature = "cluster"))]
            "redis+cluster" | "rediss+cluster" => Err(lacks(scheme, "cluster")),
            _ => Err(invalid(BEGINNINGS)),
        }
    }

    /// A client of the server, resolved again for each connection.
    pub(crate) async fn client(&self) -> RedisResult<Client> {
        match self {
            Self::One(client) => Ok((**client).clone()),
            #[cfg(feature = "sentinel")]
            Self::Sentinel(sentinels) => sentinels.primary().await,
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => {
                Err((ErrorKind::InvalidClientConfig, "the nodes of a cluster are known one by one").into())
            }
        }
    }
}

/// Where the server is, without secrets.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(client) => write!(f, "{}", client.get_connection_info().addr()),
            #[cfg(feature = "sentinel")]
            Self::Sentinel(sentinels) => write!(f, "{sentinels}"),
            #[cfg(feature = "cluster")]
            Self::Cluster(nodes) => f.write_str(&places(nodes)),
        }
    }
}

fn server(url: &str) -> Result<ConnectionInfo, ConfigError> {
    if url.starts_with("rediss://") && !cfg!(feature = "tls") {
        return Err(lacks("rediss", "tls"));
    }
    check(url)?;
    let info = url.into_connection_info().map_err(|error| not_understood(&error))?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Ok(info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

/// Refuses what the driver would ignore, or name no reason for, in the URL of one server.
fn check(url: &str) -> Result<(), ConfigError> {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let rest = rest.split('#').next().unwrap_or_default();
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let is_socket = scheme == "unix";
    for option in query.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("db" | "user" | "pass", _) if is_socket => {}
            ("protocol", "3" | "resp3") => {}
            ("protocol", _) => return Err(invalid("the only protocol is resp3")),
            _ if is_socket => return Err(invalid("its options can be db, user and pass")),
            _ => return Err(invalid("it takes no options; a ? in a password is written %3F")),
        }
    }
    let authority = place.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    match host.rsplit_once(':').map_or("", |(_, port)| port) {
        _ if is_socket => Ok(()),
        port if port.is_empty() || port.ends_with(']') || port.parse().is_ok_and(|port: u16| port > 0) => Ok(()),
        port if port.bytes().all(|byte| byte.is_ascii_digit()) => Err(invalid("the port must be 1 to 65535")),
        _ => Err(invalid("the port must be 1 to 65535; a / in a password is written %2F")),
    }
}

/// The URL of a single server for each of `hosts`.
#[cfg(any(feature = "sentinel", feature = "cluster"))]
fn servers(
    scheme: &str,
    credentials: &str,
    hosts: &str,
    port: u16,
    path: &str,
) -> Result<Vec<ConnectionInfo>, ConfigError> {
    let scheme = scheme.split('+').next().unwrap_or_default();
    let each = hosts.split(',').map(|host| {
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let port = if has_port { String::new() } else { format!(":{port}") };
        server(&format!("{scheme}://{credentials}{host}{port}/{path}"))
    });
    each.collect()
}

/// Scheme, credentials with their `@`, hosts, path and query.
#[cfg(any(feature = "sentinel", feature = "cluster"))]
fn parts(url: &str) -> (&str, &str, &str, &str, &str) {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let hosts = authority.rfind('@').map_or(0, |at| at + 1);
    (scheme, &authority[..hosts], &authority[hosts..], path, query)
}

#[cfg(feature = "sentinel")]
fn sentinels(url: &str) -> Result<Sentinels, ConfigError> {
    let (scheme, credentials, hosts, path, query) = parts(url);
    let (name, db) = path.split_once('/').unwrap_or((path, ""));
    if name.is_empty() {
        return Err(invalid("after the sentinels comes the name that they know the primary by"));
    }
    let (mut user, mut password) = ("", None);
    for option in query.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("sentinel_user", value)) => user = value,
            Some(("sentinel_pass", value)) => password = Some(value),
            _ => return Err(invalid("its options can be sentinel_user and sentinel_pass")),
        }
    }
    let own = password.map(|password| format!("{user}:{password}@")).unwrap_or_default();
    let sentinels = servers(scheme, &own, hosts, 26_379, "")?;
    // The sentinels will tell its address.
    let primary = servers(scheme, credentials, "primary", 6_379, db)?.remove(0);
    Ok(Sentinels::new(name, sentinels, primary))
}

#[cfg(feature = "cluster")]
fn cluster(url: &str) -> Result<Vec<ConnectionInfo>, ConfigError> {
    let (scheme, credentials, hosts, path, query) = parts(url);
    if !path.is_empty() || !query.is_empty() {
        return Err(invalid("a cluster has one database and takes no options"));
    }
    servers(scheme, credentials, hosts, 6_379, "")
}

fn lacks(scheme: &str, feature: &str) -> ConfigError {
    ConfigError::new(ConfigErrorKind::Feature, format!("{scheme}:// needs this library's feature `{feature}`"))
}

fn invalid(reason: &str) -> ConfigError {
    ConfigError::new(ConfigErrorKind::Syntax, reason)
}

/// The driver's reason, without its name for the kind of all of them.
fn not_understood(error: &RedisError) -> ConfigError {
    let reason = error.to_string();
    invalid(reason.trim_end_matches("InvalidClientConfig").trim_end_matches([' ', '-']))
}

const BEGINNINGS: &str = "must begin with redis://, rediss:// or unix://, redis+sentinel:// or redis+cluster://, or with valkey in \
                          place of redis";

/// What is wrong with a text without a scheme, which is told only if it is an address: it may be a password.
fn without_scheme(text: &str) -> String {
    let is_host = |host: &str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-[]:".contains(&byte));
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && is_host(host) && port.parse::<u16>().is_ok() => {
            format!("{BEGINNINGS}: redis://{text}")
        }
        _ => BEGINNINGS.to_owned(),
    }
}

/// The form of URLs with this scheme, in brackets. An error shows it in place of the URL, which may contain a password; in a
/// malformed URL its position can't be told.
fn form(scheme: &str) -> String {
    let of = |rest: &str| format!(" (allowed: {scheme}://{rest})");
    match scheme {
        "redis" | "rediss" => of("[user[:password]@]host[:port][/db]"),
        "unix" => of("/path[?db=N&user=…&pass=…]"),
        "redis+sentinel" | "rediss+sentinel" => {
            of("[user[:password]@]host[:port][,…]/name[/db][?sentinel_user=…&sentinel_pass=…]")
        }
        "redis+cluster" | "rediss+cluster" => of("[user[:password]@]host[:port][,…]"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(url: &str) -> String {
        Address::parse(url).err().unwrap_or_else(|| panic!("{url} is valid")).to_string()
    }

    #[test]
    fn a_wrong_url_is_an_error_that_keeps_the_secret() {
        for url in [
            "",
            "http://u:hunter2@h",
            "redis://u:hunter2@h:port",
            "redis://u:hunter2@h/not-a-number",
            "h:6379",
            "redis+sentinel://u:hunter2@h",
            "redis+sentinel://u:hunter2@h/name/not-a-number",
            "redis+sentinel://h/name?password=hunter2",
            "redis+sentinel://u:hunter2@h:port/name",
            "redis+sentinel://u:hunter2@a,,b/name",
            "redis+cluster://u:hunter2@h/1",
            "redis+cluster://u:hunter2@a:1,b:port",
            "redis+cluster://u:hunter2@",
        ] {
            let message = error(url);
            assert!(message.starts_with("Redis URL: ") && !message.contains("hunter2"), "{url}: {message}");
        }
    }

    #[test]
    fn an_error_is_short_and_says_what_to_write() {
        for (url, message) in [
            ("localhost:6379", "must begin with redis://"),
            ("localhost:6379", ": redis://localhost:6379"),
            (
                "redis://localhost:99999",
                "the port must be 1 to 65535 (allowed: redis://[user[:password]@]host[:port][/db])",
            ),
            ("redis://localhost:0", "the port must be 1 to 65535"),
            ("redis://u:hunt/er2@localhost", "%2F"),
            ("redis://u:hunt?er2@localhost", "%3F"),
            ("redis://localhost?protocol=resp2", "resp3"),
            ("redis://localhost?x=1", "takes no options"),
            ("redis://localhost?db=1", "takes no options"),
            ("unix:///run/redis.sock?x=1", "db, user and pass (allowed: unix:///path["),
            ("redis://localhost/one", "database number (allowed: redis://"),
            ("http://localhost", "must begin with redis://"),
        ] {
            let error = error(url);
            assert!(error.contains(message), "{url}: {error}");
            assert!(error.len() < 160 && !error.contains("InvalidClientConfig"), "{url}: {error}");
        }
        // What may be a password is not repeated.
        for url in ["u:hunter2", "u:hunter2@localhost:6379", "hunter2", "localhost:99999"] {
            assert!(!error(url).contains(url), "{url}");
        }
        let shown = format!("{:?}", Address::parse("localhost:6379").err().unwrap());
        assert_eq!(shown, error("localhost:6379"), "as `main` shows it");
    }

    #[test]
    fn what_is_written_in_another_way_is_the_same_address() {
        for url in ["REDIS://u:p@h:7000/3", "redis://u:p@h:7000/3?protocol=resp3", "Valkey://u:p@h:7000/3"] {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.to_string(), "h:7000", "{url}");
            let Address::One(client) = address else { panic!("{url}") };
            let settings = client.get_connection_info().redis_settings();
            assert_eq!((settings.db(), settings.protocol()), (3, ProtocolVersion::RESP3), "{url}");
        }
        assert!(Address::parse("redis://[::1]").is_ok() && Address::parse("redis://[::1]:6379").is_ok());
        let socket = Address::parse("unix:///run/redis.sock?db=1&user=u&pass=hunter2").unwrap();
        assert_eq!(socket.to_string(), "/run/redis.sock");
        #[cfg(feature = "sentinel")]
        assert_eq!(Address::parse("redis+sentinel://u:p@a,b:1/main").unwrap().to_string(), "main by a:26379,b:1");
        #[cfg(feature = "cluster")]
        assert_eq!(Address::parse("redis+cluster://u:p@a,b:1").unwrap().to_string(), "a:6379,b:1");
    }

    #[test]
    fn valkey_is_redis_by_another_name() {
        for scheme in ["valkey://", "redis://"] {
            let Ok(Address::One(client)) = Address::parse(&format!("{scheme}me:secret@h:7000/3")) else {
                panic!("{scheme}")
            };
            let info = client.get_connection_info();
            assert_eq!((&*info.addr().to_string(), info.redis_settings().db()), ("h:7000", 3));
            assert_eq!(info.redis_settings().protocol(), ProtocolVersion::RESP3);
        }
        #[cfg(feature = "tls")]
        assert!(Address::parse("valkeys://h").is_ok());
        #[cfg(feature = "sentinel")]
        assert!(matches!(Address::parse("valkey+sentinel://h/name"), Ok(Address::Sentinel(_))));
        #[cfg(feature = "cluster")]
        assert!(matches!(Address::parse("valkey+cluster://a,b"), Ok(Address::Cluster(nodes)) if nodes.len() == 2));
        for wrong in ["valkeyz://h", "valkey:h", "valkey"] {
            assert!(error(wrong).contains("valkey"), "{wrong}");
        }
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn every_node_of_a_cluster_is_known_with_the_same_credentials() {
        let Ok(Address::Cluster(nodes)) = Address::parse("redis+cluster://me:s%40@a:7000,[::1],c") else {
            panic!("not a cluster")
        };
        let places: Vec<_> = nodes.iter().map(|node| node.addr().to_string()).collect();
        assert_eq!(places, ["a:7000", "::1:6379", "c:6379"]);
        for node in &nodes {
            assert_eq!((node.redis_settings().username(), node.redis_settings().password()), (Some("me"), Some("s@")));
            assert_eq!(node.redis_settings().protocol(), ProtocolVersion::RESP3);
        }
    }

    #[cfg(not(feature = "cluster"))]
    #[test]
    fn what_was_not_built_in_is_named() {
        assert!(error("redis+cluster://h").contains("feature `cluster`"));
    }
}
