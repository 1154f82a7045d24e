//! A real Redis primary with a replica, watched by sentinels.

use std::{fmt, fs, iter, path::PathBuf, process::Command, time::Duration};

use redis::{Connection, FromRedisValue, RedisResult};

use crate::{
    RedisServer, RedisServerBuilder, certificate::Certificate, port::Port, program, supervisor::Supervisor, wait,
};

const START_LIMIT: Duration = Duration::from_secs(10);
/// How long sentinels may take to find each other and the replica, or to promote it.
const AGREEMENT: Duration = Duration::from_secs(40);
const SENTINELS: usize = 3;

/// For how many milliseconds a primary may be silent.
const DOWN_AFTER: u32 = 500;
/// The same for [`RedisSentinelBuilder::patient`].
const DOWN_AFTER_LONG: u32 = 30_000;

/// A primary, a replica and three sentinels that promote the one when the other is silent for half a second.
///
/// ```no_run
/// let mut redis = tests::RedisSentinel::start();
/// redis.primary_mut().kill();
/// redis.wait_until_promoted();
/// ```
#[derive(Debug)]
pub struct RedisSentinel {
    sentinels: Vec<Sentinel>,
    servers: [RedisServer; 2],
    primary: usize,
}

/// The settings of a [`RedisSentinel`].
#[derive(Debug, Default)]
#[must_use]
pub struct RedisSentinelBuilder {
    user: Option<String>,
    password: Option<String>,
    sentinel_password: Option<String>,
    certificate: Option<Certificate>,
    patient: bool,
}

impl RedisSentinelBuilder {
    /// Nothing is promoted for half a minute's silence, unless it is [told to](RedisSentinel::fail_over): for tests of
    /// something else, on a machine that is busy.
    pub fn patient(mut self) -> Self {
        self.patient = true;
        self
    }

    /// The servers ask every client for this password.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// The servers let in this user only.
    pub fn user(mut self, user: &str, password: &str) -> Self {
        self.user = Some(user.to_owned());
        self.password(password)
    }

    /// The sentinels ask every client for this password, and one another.
    pub fn sentinel_password(mut self, password: &str) -> Self {
        self.sentinel_password = Some(password.to_owned());
        self
    }

    /// All of them talk to each other by TLS, and listen with it on a second port, by one certificate.
    pub fn tls(mut self) -> Self {
        self.certificate = Some(Certificate::new());
        self
    }

    /// Starts everything and waits until all know each other.
    #[must_use]
    pub fn start(self) -> RedisSentinel {
        let primary = self.server().start();
        let replica = self.server().config(&format!("replicaof 127.0.0.1 {}", port_among(&primary))).start();
        let linked = wait::poll(AGREEMENT, || replica.info("replication", "master_link_status") == "up");
        assert!(linked, "{replica} does not follow its primary:\n{}", replica.log());

        let sentinels = iter::repeat_with(|| Sentinel::start(&self, port_among(&primary))).take(SENTINELS).collect();
        let group = RedisSentinel { sentinels, servers: [primary, replica], primary: 0 };
        group.wait_until_all_is_known();
        group
    }

    fn server(&self) -> RedisServerBuilder {
        let mut builder = RedisServer::builder().config("repl-diskless-sync-delay 0");
        if let Some(certificate) = &self.certificate {
            builder = builder.certificate(certificate.clone()).config("tls-replication yes");
        }
        match (&self.user, &self.password) {
            (Some(user), Some(password)) => {
                builder.user(user, password).config(&format!("masteruser {user}\nmasterauth {password}"))
            }
            (None, Some(password)) => builder.password(password).config(&format!("masterauth {password}")),
            (_, None) => builder,
        }
    }
}

impl RedisSentinel {
    /// The name that the sentinels know the primary by.
    pub const NAME: &str = "main";

    /// A group that asks for no password.
    #[must_use]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A group with more than the defaults.
    pub fn builder() -> RedisSentinelBuilder {
        RedisSentinelBuilder::default()
    }

    /// `redis+sentinel://`, with every sentinel and the name; without a password.
    #[must_use]
    pub fn url(&self) -> String {
        let sentinels: Vec<_> =
            self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port.number)).collect();
        format!("redis+sentinel://{}/{}", sentinels.join(","), Self::NAME)
    }

    /// The same by TLS; it must have been started [with it](RedisSentinelBuilder::tls).
    #[must_use]
    pub fn tls_url(&self) -> String {
        let port =
            |sentinel: &Sentinel| sentinel.tls_port.as_ref().expect("the sentinels were started with TLS").number;
        let sentinels: Vec<_> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", port(sentinel))).collect();
        format!("rediss+sentinel://{}/{}", sentinels.join(","), Self::NAME)
    }

    /// The file of the certificate that has to be trusted for [`tls_url`](Self::tls_url).
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.servers[0].certificate()
    }

    /// The server that was last known to be the primary: at first, or by [`wait_until_promoted`](Self::wait_until_promoted).
    #[must_use]
    pub fn primary(&self) -> &RedisServer {
        &self.servers[self.primary]
    }

    /// The same, to be killed, frozen and started again.
    pub fn primary_mut(&mut self) -> &mut RedisServer {
        &mut self.servers[self.primary]
    }

    /// The other server.
    #[must_use]
    pub fn replica(&self) -> &RedisServer {
        &self.servers[1 - self.primary]
    }

    /// Tells the sentinels to fail over, and waits until they have.
    pub fn fail_over(&mut self) {
        // Refused for a moment after another one.
        let begun =
            wait::poll(AGREEMENT, || self.sentinels[0].ask::<()>(&["SENTINEL", "FAILOVER", Self::NAME]).is_ok());
        assert!(begun, "the sentinels refuse to fail over:\n{}", self.sentinels[0].supervisor.log());
        self.wait_until_promoted();
    }

    /// Waits until every sentinel names the replica as the primary, and it is one.
    pub fn wait_until_promoted(&mut self) {
        let port = port_among(self.replica());
        let promoted = wait::poll(AGREEMENT, || {
            self.sentinels.iter().all(|sentinel| sentinel.primary_port() == Some(port))
                && self.replica().info("replication", "role") == "master"
        });
        assert!(promoted, "the replica was not promoted:\n{}", self.sentinels[0].supervisor.log());
        self.primary = 1 - self.primary;
    }

    fn wait_until_all_is_known(&self) {
        for sentinel in &self.sentinels {
            let known = wait::poll(AGREEMENT, || {
                let facts =
                    sentinel.ask::<std::collections::HashMap<String, String>>(&["SENTINEL", "MASTER", Self::NAME]);
                facts.is_ok_and(|facts| {
                    facts["num-slaves"] == "1" && facts["num-other-sentinels"] == (SENTINELS - 1).to_string()
                })
            });
            assert!(known, "{sentinel} does not know the others:\n{}", sentinel.supervisor.log());
        }
    }
}

#[derive(Debug)]
struct Sentinel {
    supervisor: Supervisor,
    port: Port,
    tls_port: Option<Port>,
    password: Option<String>,
}

impl Sentinel {
    fn start(settings: &RedisSentinelBuilder, primary: u16) -> Self {
        loop {
            let mut sentinel = Self::prepare(settings, primary, Port::free());
            sentinel.supervisor.start();
            let mut port_taken = false;
            let ready = wait::poll(START_LIMIT, || {
                port_taken = sentinel.supervisor.log().contains("Address already in use");
                port_taken || sentinel.primary_port() == Some(primary)
            });
            assert!(ready, "{sentinel} did not answer:\n{}", sentinel.supervisor.log());
            if !port_taken {
                return sentinel;
            }
        }
    }

    fn prepare(settings: &RedisSentinelBuilder, primary: u16, port: Port) -> Self {
        let name = RedisSentinel::NAME;
        let folder = tempfile::Builder::new().prefix("tests-sentinel-").tempdir().expect("a temporary folder");
        let file = folder.path().join("sentinel.conf");
        let down_after = if settings.patient { DOWN_AFTER_LONG } else { DOWN_AFTER };
        let mut config = format!(
            "bind 127.0.0.1\nport {}\ndir \"{}\"\nsentinel monitor {name} 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds {name} {down_after}\nsentinel failover-timeout {name} 3000\n",
            port.number,
            folder.path().display()
        );
        if let Some(user) = &settings.user {
            config.push_str(&format!("sentinel auth-user {name} {user}\n"));
        }
        if let Some(password) = &settings.password {
            config.push_str(&format!("sentinel auth-pass {name} {password}\n"));
        }
        if let Some(password) = &settings.sentinel_password {
            config.push_str(&format!("requirepass {password}\nsentinel sentinel-pass {password}\n"));
        }
        let tls_port = settings.certificate.as_ref().map(|_| Port::free());
        if let Some((certificate, port)) = settings.certificate.as_ref().zip(tls_port.as_ref()) {
            config.push_str(&certificate.config(folder.path(), port.number));
            config.push_str("tls-replication yes\n");
        }
        fs::write(&file, config).expect("sentinel.conf is written");
        let mut command = Command::new(program::find("redis-server", "redis-server"));
        command.arg(file).arg("--sentinel");
        let password = settings.sentinel_password.clone();
        Self { supervisor: Supervisor::new(folder, "KILL", &command), port, tls_port, password }
    }

    fn primary_port(&self) -> Option<u16> {
        let address: (String, u16) = self.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", RedisSentinel::NAME]).ok()?;
        Some(address.1)
    }

    fn ask<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        let password = self.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        let client = redis::Client::open(format!("redis://{password}127.0.0.1:{}", self.port.number))?;
        let mut connection: Connection = client.get_connection_with_timeout(START_LIMIT)?;
        connection.set_read_timeout(Some(START_LIMIT))?;
        redis::cmd(command[0]).arg(&command[1..]).query(&mut connection)
    }
}

/// The port by which the servers and sentinels of a group know one of the servers.
fn port_among(server: &RedisServer) -> u16 {
    server.tls_port().unwrap_or_else(|| server.port())
}

impl fmt::Display for Sentinel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the sentinel on port {}", self.port.number)
    }
}
