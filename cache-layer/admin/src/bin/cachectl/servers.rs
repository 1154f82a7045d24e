//! The servers behind a URL: one, the primaries of a cluster, or the primary that sentinels name.

use redis::{Client, RedisError, TlsCertificates, Value, aio::MultiplexedConnection};

use super::doctor::{PATIENCE, ask, said};

/// The number of slots of a cluster.
pub(crate) const SLOTS: u64 = 16_384;

/// A server, and how it is reached.
pub(crate) struct Server {
    /// Its address, where there are several.
    pub(crate) name: Option<String>,
    /// How many slots it has, in a cluster.
    pub(crate) slots: u64,
    pub(crate) connection: Result<MultiplexedConnection, String>,
}

/// The servers of a URL as the application's setting has it: `redis://`, `redis+cluster://`, `redis+sentinel://`, or the same
/// with `rediss` or `valkey`. With `trusted`, certificates in PEM, TLS trusts these alone; otherwise those of the system, or of
/// `SSL_CERT_FILE` and `SSL_CERT_DIR`, as the application does.
///
/// # Errors
///
/// If none could be asked. An error contains no password.
pub(crate) async fn servers(url: &str, trusted: Option<&[u8]>) -> Result<Vec<Server>, String> {
    // `valkey` is another name for `redis` in URLs, which the cache accepts.
    let url = url.strip_prefix("valkey").map_or_else(|| url.to_owned(), |rest| format!("redis{rest}"));
    if trusted.is_some() && !url.starts_with("rediss") {
        return Err("certificates are for TLS, and the URL does not begin with rediss".to_owned());
    }
    let several = Several::of(&url, trusted);
    match several {
        None => Ok(vec![Server { name: None, slots: 0, connection: Ok(connect(&url, trusted).await?) }]),
        Some(several) if several.is_cluster => several.of_cluster().await,
        Some(several) => several.of_sentinels().await,
    }
}

/// A URL that names several servers.
struct Several<'a> {
    trusted: Option<&'a [u8]>,
    is_cluster: bool,
    /// `redis` or `rediss`.
    scheme: String,
    /// `user:password@`, or nothing.
    user: String,
    /// The same for the sentinels.
    sentinel_user: String,
    hosts: Vec<String>,
    /// What comes after the hosts.
    path: String,
}

impl<'a> Several<'a> {
    fn of(url: &str, trusted: Option<&'a [u8]>) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (scheme, kind) = scheme.split_once('+')?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let user = if user.is_empty() { String::new() } else { format!("{user}@") };
        let hosts = hosts.split(',').map(str::to_owned).collect();
        let option = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let sentinel_user = option("sentinel_pass")
            .map(|password| format!("{}:{password}@", option("sentinel_user").unwrap_or_default()))
            .unwrap_or_default();
        let (scheme, path) = (scheme.to_owned(), path.to_owned());
        Some(Self { trusted, is_cluster: kind == "cluster", scheme, user, sentinel_user, hosts, path })
    }

    async fn connect(&self, user: &str, host: &str, path: &str) -> Result<MultiplexedConnection, String> {
        connect(&format!("{}://{user}{host}/{path}", self.scheme), self.trusted).await
    }

    /// The primaries, by the first node that answers.
    async fn of_cluster(&self) -> Result<Vec<Server>, String> {
        let mut why = "no node is named".to_owned();
        for host in &self.hosts {
            let slots = match self.connect(&self.user, host, "").await {
                Ok(mut node) => ask::<Value>(&mut node, &["CLUSTER", "SLOTS"]).await.map_err(|error| said(&error)),
                Err(why) => Err(why),
            };
            match slots.map(|slots| primaries(&slots, host)) {
                Ok(primaries) => return Ok(self.each(primaries).await),
                Err(told) => why = format!("{host}: {told}"),
            }
        }
        Err(why)
    }

    async fn each(&self, primaries: Vec<(String, u64)>) -> Vec<Server> {
        let mut servers = Vec::new();
        for (host, slots) in primaries {
            let connection = self.connect(&self.user, &host, "").await;
            servers.push(Server { name: Some(host), slots, connection });
        }
        servers
    }

    /// The primary, by the first sentinel that knows it.
    async fn of_sentinels(&self) -> Result<Vec<Server>, String> {
        let (name, database) = self.path.split_once('/').unwrap_or((&self.path, ""));
        let mut why = "no sentinel is named".to_owned();
        for host in &self.hosts {
            let sentinel = if has_port(host) { host.clone() } else { format!("{host}:26379") };
            let named: Result<Option<(String, u16)>, String> =
                match self.connect(&self.sentinel_user, &sentinel, "").await {
                    Ok(mut sentinel) => {
                        let asked = ask(&mut sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name]).await;
                        asked.map_err(|error: RedisError| said(&error))
                    }
                    Err(why) => Err(why),
                };
            match named {
                Ok(Some((host, port))) => {
                    let host = address(&host, port);
                    let connection = self.connect(&self.user, &host, database).await;
                    return Ok(vec![Server { name: Some(host), slots: 0, connection }]);
                }
                Ok(None) => why = format!("{sentinel}: knows no primary of the name {name:?}"),
                Err(told) => why = format!("{sentinel}: {told}"),
            }
        }
        Err(why)
    }
}

async fn connect(url: &str, trusted: Option<&[u8]>) -> Result<MultiplexedConnection, String> {
    let opened = match trusted {
        None => Client::open(url),
        Some(trusted) => {
            Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert: Some(trusted.to_vec()) })
        }
    };
    // An error may contain the URL, and with it the password.
    let client = opened.map_err(|_| match trusted {
        None => "the URL can't be read".to_owned(),
        Some(_) => "the URL, or the file with the certificates, can't be read".to_owned(),
    })?;
    let connecting = tokio::time::timeout(PATIENCE, client.get_multiplexed_async_connection()).await;
    let connection = connecting.map_err(|_| format!("no connection within {PATIENCE:?}"))?;
    connection.map_err(|error| said(&error))
}

/// The primaries of a reply to `CLUSTER SLOTS`, and how many slots each has. `asked` is the node that replied.
fn primaries(slots: &Value, asked: &str) -> Vec<(String, u64)> {
    let mut primaries: Vec<(String, u64)> = Vec::new();
    let Value::Array(ranges) = slots else { return primaries };
    for range in ranges {
        let Value::Array(range) = range else { continue };
        let [Value::Int(first), Value::Int(last), Value::Array(node), ..] = &range[..] else { continue };
        let [host, Value::Int(port), ..] = &node[..] else { continue };
        let host = match host {
            Value::BulkString(host) if !host.is_empty() => String::from_utf8_lossy(host).into_owned(),
            // The node does not know its own address.
            _ => asked.rsplit_once(':').map_or(asked, |(host, _)| host).trim_matches(['[', ']']).to_owned(),
        };
        let (address, count) = (address(&host, u16::try_from(*port).unwrap_or(0)), (last - first + 1).unsigned_abs());
        match primaries.iter_mut().find(|(known, _)| *known == address) {
            Some((_, slots)) => *slots += count,
            None => primaries.push((address, count)),
        }
    }
    primaries
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':')
        .is_some_and(|(before, port)| !before.contains(':') || before.ends_with(']') && !port.is_empty())
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_several_is_taken_apart() {
        let several =
            Several::of("rediss+sentinel://u:p@a,[::1]:7,b:8/main/3?sentinel_user=s&sentinel_pass=q", None).unwrap();
        assert!(!several.is_cluster);
        assert_eq!((&*several.scheme, &*several.user, &*several.path), ("rediss", "u:p@", "main/3"));
        assert_eq!(several.hosts, ["a", "[::1]:7", "b:8"]);
        assert_eq!(several.hosts.iter().map(|host| has_port(host)).collect::<Vec<_>>(), [false, true, true]);
        assert!(!has_port("[::1]"));
        assert_eq!(several.sentinel_user, "s:q@");
        assert!(Several::of("redis+cluster://a", None).unwrap().is_cluster);
        assert_eq!(Several::of("redis+sentinel://u:p@a/main", None).unwrap().sentinel_user, "");
        assert!(Several::of("redis://a", None).is_none());
    }
}
