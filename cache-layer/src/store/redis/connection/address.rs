//! The addresses of servers: a URL names one server, a group behind sentinels, or a cluster.

#[cfg(feature = "cluster")]
use redis::ErrorKind;
use redis::{Client, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, RedisResult, io::tcp::TcpSettings};

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
        // `valkey` is another name for `redis` in all URLs.
        let renamed = url.strip_prefix("valkey").map(|rest| format!("redis{rest}"));
        let url = renamed.as_deref().unwrap_or(url);
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        match scheme {
            "redis" | "unix" | "rediss" => {
                let info = server(url)?;
                Ok(Self::One(Box::new(Client::open(info).map_err(|error| invalid(&error.to_string()))?)))
            }
            #[cfg(feature = "sentinel")]
            "redis+sentinel" | "rediss+sentinel" => Ok(Self::Sentinel(sentinels(url)?)),
            #[cfg(feature = "cluster")]
            "redis+cluster" | "rediss+cluster" => Ok(Self::Cluster(cluster(url)?)),
            #[cfg(not(feature = "sentinel"))]
            "redis+sentinel" | "rediss+sentinel" => Err(lacks(scheme, "sentinel")),
            #[cfg(not(feature = "cluster"))]
            "redis+cluster" | "rediss+cluster" => Err(lacks(scheme, "cluster")),
            _ => Err(invalid("must begin with redis://, rediss:// or unix://, redis+sentinel:// or redis+cluster://")),
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

fn server(url: &str) -> Result<ConnectionInfo, ConfigError> {
    if url.starts_with("rediss://") && !cfg!(feature = "tls") {
        return Err(lacks("rediss", "tls"));
    }
    let info = url.into_connection_info().map_err(|error| invalid(&error.to_string()))?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Ok(info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true)))
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
    refused(ConfigErrorKind::Feature, &format!("{scheme}:// needs this library's feature `{feature}`"))
}

fn invalid(reason: &str) -> ConfigError {
    refused(ConfigErrorKind::Syntax, reason)
}

/// The URL itself is left out: it may contain a password, and in a malformed URL its position can't be told.
fn refused(kind: ConfigErrorKind, reason: &str) -> ConfigError {
    let message = format!(
        "Redis URL: {reason} (allowed: redis[s]://[user[:password]@]host[:port][/db], unix:///path[?db=N], \
         redis[s]+sentinel://[user[:password]@]host[:port][,…]/name[/db][?sentinel_user=…&sentinel_pass=…], \
         redis[s]+cluster://[user[:password]@]host[:port][,…], and each with valkey for redis)"
    );
    ConfigError::new(kind, message)
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
