//! A real Redis.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use redis::{Connection, FromRedisValue, RedisResult, ToRedisArgs};
use rustix::process::Signal;

use crate::{certificate::Certificate, port::Port, program, supervisor::Supervisor, wait};

const START_LIMIT: Duration = Duration::from_secs(10);
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// A `redis-server` that listens on a free loopback port and on a Unix socket and keeps nothing on disk. Killed when
/// dropped, and also when the process that holds it dies.
///
/// ```no_run
/// let mut redis = tests::RedisServer::start();
/// redis.command::<()>(&["SET", "greeting", "hello"]);
/// redis.kill();
/// redis.restart();
/// assert_eq!(redis.command::<u64>(&["DBSIZE"]), 0);
/// ```
#[derive(Debug)]
pub struct RedisServer {
    supervisor: Supervisor,
    port: Port,
    credentials: Option<Credentials>,
    tls_port: Option<Port>,
    bus_port: Option<Port>,
}

#[derive(Debug, Clone)]
struct Credentials {
    user: Option<String>,
    password: String,
}

/// The settings of a [`RedisServer`].
#[derive(Debug, Default)]
#[must_use]
pub struct RedisServerBuilder {
    credentials: Option<Credentials>,
    config: String,
    certificate: Option<Certificate>,
    cluster: bool,
    locale: Option<String>,
}

impl RedisServerBuilder {
    /// Asks every client for this password.
    pub fn password(mut self, password: &str) -> Self {
        self.credentials = Some(Credentials { user: None, password: password.to_owned() });
        self.config(&format!("requirepass {password}"))
    }

    /// Lets in this user only; the default user is switched off.
    pub fn user(mut self, user: &str, password: &str) -> Self {
        self.credentials = Some(Credentials { user: Some(user.to_owned()), password: password.to_owned() });
        self.config("user default off").config(&format!("user {user} on >{password} ~* &* +@all"))
    }

    /// Listens on a second port with TLS, by a certificate for `localhost` that it signs itself.
    pub fn tls(self) -> Self {
        self.certificate(Certificate::new())
    }

    /// As [`tls`](Self::tls), by a certificate that it shares with others.
    pub(crate) fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// As a node of a [`RedisCluster`](crate::RedisCluster), with a bus on a port of its own.
    pub(crate) fn cluster(mut self) -> Self {
        self.cluster = true;
        self
    }

    /// In this locale, such as `cs_CZ`: scripts order text by it.
    pub fn locale(mut self, name: &str) -> Self {
        self.locale = Some(name.to_owned());
        self
    }

    /// One more line of `redis.conf`.
    pub fn config(mut self, line: &str) -> Self {
        self.config.push_str(line);
        self.config.push('\n');
        self
    }

    /// Starts the server and waits until it answers.
    #[must_use]
    pub fn start(self) -> RedisServer {
        loop {
            let mut server = self.prepare(Port::free());
            server.supervisor.start();
            if server.wait_until_ready() {
                return server;
            }
        }
    }

    fn prepare(&self, port: Port) -> RedisServer {
        let binary = program::find("redis-server", "redis-server");
        let folder = tempfile::Builder::new().prefix("tests-redis-").tempdir().expect("a temporary folder");
        let path = folder.path().display();
        let config = folder.path().join("redis.conf");
        let tls_port = self.certificate.as_ref().map(|_| Port::free());
        let tls =
            self.certificate.as_ref().zip(tls_port.as_ref()).map(|(by, port)| by.config(folder.path(), port.number));
        // The default, 10,000 above the port, may be where clients' ports are.
        let bus_port = self.cluster.then(Port::free);
        let cluster = bus_port.as_ref().map(|port| format!("cluster-enabled yes\ncluster-port {}\n", port.number));
        let lines = format!(
            "bind 127.0.0.1\nport {}\nunixsocket \"{path}/redis.sock\"\ndir \"{path}\"\nsave \"\"\n{}{}{}",
            port.number,
            self.config,
            tls.unwrap_or_default(),
            cluster.unwrap_or_default(),
        );
        fs::write(&config, lines).expect("redis.conf is written");

        let mut command = Command::new(binary);
        command.arg(config);
        if let Some(locale) = &self.locale {
            command.env("LOCPATH", folder.path()).env("LC_ALL", compile_locale(locale, folder.path()));
        }
        RedisServer {
            supervisor: Supervisor::new(folder, "KILL", &command),
            port,
            credentials: self.credentials.clone(),
            tls_port,
            bus_port,
        }
    }
}

impl RedisServer {
    /// A server that asks for no password.
    #[must_use]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A server with more than the defaults.
    pub fn builder() -> RedisServerBuilder {
        RedisServerBuilder::default()
    }

    /// `redis://127.0.0.1:PORT`, with user and password where the server asks for them.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.credentials {
            None => format!("redis://127.0.0.1:{}", self.port.number),
            Some(Credentials { user, password }) => {
                let user = user.as_deref().unwrap_or_default();
                format!("redis://{user}:{password}@127.0.0.1:{}", self.port.number)
            }
        }
    }

    /// The same server by its Unix socket.
    #[must_use]
    pub fn unix_url(&self) -> String {
        let mut url = format!("unix://{}", self.folder().join("redis.sock").display());
        if let Some(Credentials { user, password }) = &self.credentials {
            url.push_str(&format!("?pass={password}"));
            if let Some(user) = user {
                url.push_str(&format!("&user={user}"));
            }
        }
        url
    }

    /// The same server by TLS; it must have been started [with it](RedisServerBuilder::tls).
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("rediss://localhost:{}", self.tls_port().expect("the server was started with TLS"))
    }

    /// The file of the certificate that has to be trusted for [`tls_url`](Self::tls_url).
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder().join("tls.crt")
    }

    /// The TCP port, the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// The port of [`tls_url`](Self::tls_url), where there is one.
    pub(crate) fn tls_port(&self) -> Option<u16> {
        self.tls_port.as_ref().map(|port| port.number)
    }

    /// The port on which the other nodes of a cluster reach it.
    pub(crate) fn bus_port(&self) -> u16 {
        self.bus_port.as_ref().expect("the server is a node of a cluster").number
    }

    /// `127.0.0.1:PORT`, as a [`FaultProxy`](crate::FaultProxy) wants it.
    #[must_use]
    pub fn addr(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port()).into()
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.supervisor.pid().as_raw_nonzero().get()
    }

    /// Where the socket, the configuration and the log are.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.supervisor.folder().to_owned()
    }

    /// The log of the server so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.supervisor.log()
    }

    /// `kill -9`. When this returns, connections are closed and new ones are refused.
    pub fn kill(&mut self) {
        self.supervisor.kill();
    }

    /// SIGSTOP: the process is there, its port accepts, and nothing is ever answered.
    pub fn stop(&self) {
        self.supervisor.signal(Signal::STOP);
    }

    /// SIGCONT: the end of [`stop`](Self::stop).
    pub fn cont(&self) {
        self.supervisor.signal(Signal::CONT);
    }

    /// Starts the server again on the same port, empty; kills it first if it still runs.
    pub fn restart(&mut self) {
        if self.supervisor.is_running() {
            self.kill();
        }
        self.supervisor.start();
        assert!(self.wait_until_ready(), "port {} was taken while redis-server was down", self.port());
    }

    /// Deletes every key.
    pub fn flushall(&self) {
        self.command(&["FLUSHALL"])
    }

    /// Runs one command and panics with its error. Arguments are strings or byte slices.
    pub fn command<T: FromRedisValue>(&self, command: &[impl ToRedisArgs]) -> T {
        self.try_command(command).unwrap_or_else(|error| panic!("{self}: {error}"))
    }

    /// Runs one command that may be refused.
    pub(crate) fn try_command<T: FromRedisValue>(&self, command: &[impl ToRedisArgs]) -> RedisResult<T> {
        self.connect().and_then(|mut connection| arguments(command).query(&mut connection))
    }

    /// One field of `INFO`; empty if there is none of that name.
    #[must_use]
    pub fn info(&self, section: &str, field: &str) -> String {
        let info: redis::InfoDict = self.ask(&["INFO", section]);
        info.get(field).unwrap_or_default()
    }

    /// Every key there is, sorted.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(&["KEYS", "*"]);
        keys.sort_unstable();
        keys
    }

    /// Runs a command that changes nothing, and runs it again if the server closes the connection: a server does so to all its
    /// clients when a sentinel gives it another role.
    fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let mut attempts = 5;
        loop {
            attempts -= 1;
            match self.try_command(command) {
                Err(error) if error.is_connection_dropped() && attempts > 0 => {}
                answer => return answer.unwrap_or_else(|error| panic!("{self}: {error}")),
            }
        }
    }

    fn connect(&self) -> RedisResult<Connection> {
        let connection = redis::Client::open(self.url())?.get_connection_with_timeout(COMMAND_LIMIT)?;
        connection.set_read_timeout(Some(COMMAND_LIMIT))?;
        Ok(connection)
    }

    /// False when another process has the port.
    fn wait_until_ready(&self) -> bool {
        let mut port_taken = false;
        let ready = wait::poll(START_LIMIT, || {
            port_taken = self.supervisor.log().contains("Address already in use");
            port_taken || self.answers()
        });
        assert!(ready, "{self} did not answer within {START_LIMIT:?}:\n{}", self.log());
        !port_taken
    }

    /// Whether it is this server that answers, and not one that was quicker to take the port.
    fn answers(&self) -> bool {
        let Ok(mut connection) = self.connect() else {
            return false;
        };
        let Ok(info) = redis::cmd("INFO").arg("server").query::<redis::InfoDict>(&mut connection) else {
            return false;
        };
        let version: String = info.get("redis_version").unwrap_or_default();
        let major: Option<u32> = version.split('.').next().and_then(|major| major.parse().ok());
        assert!(major >= Some(7), "redis-server {version} is too old: 7.0 or newer is needed");
        info.get("process_id") == Some(self.pid())
    }
}

impl fmt::Display for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis-server on port {}", self.port())
    }
}

/// Compiles a locale into `folder`, since a machine may have none but its own; returns its name there.
fn compile_locale(locale: &str, folder: &Path) -> String {
    let name = format!("{locale}.UTF-8");
    let mut command = Command::new(program::find("localedef", "libc-bin"));
    let output = command.args(["-i", locale, "-f", "UTF-8"]).arg(folder.join(&name)).output().expect("localedef runs");
    assert!(
        output.status.success(),
        "{name} cannot be compiled: install the system's package `locales`, or let `tests/run` do it:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    name
}

fn arguments(command: &[impl ToRedisArgs]) -> redis::Cmd {
    let mut cmd = redis::Cmd::new();
    for argument in command {
        cmd.arg(argument);
    }
    cmd
}
