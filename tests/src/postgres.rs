//! A real PostgreSQL.

use std::{
    fs, io,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::{port::Port, program, supervisor::Supervisor, wait};

const START_LIMIT: Duration = Duration::from_secs(30);

/// PostgreSQL refuses to run as root; its packages bring this user.
const SYSTEM_USER: &str = "postgres";

/// A PostgreSQL cluster of its own on a free loopback port, which trusts every client. Shut down and removed when
/// dropped, and also when the process that holds it dies.
#[derive(Debug)]
pub struct PostgresServer {
    supervisor: Supervisor,
    port: Port,
}

impl PostgresServer {
    /// Makes an empty cluster, starts it and waits until it takes connections.
    #[must_use]
    pub fn start() -> Self {
        loop {
            let mut server = Self::prepare(Port::free());
            server.supervisor.start();
            if server.wait_until_ready() {
                return server;
            }
        }
    }

    /// A `postgres://` URL of an empty database.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port.number)
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// The process id of the postmaster.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.supervisor.pid().as_raw_nonzero().get()
    }

    /// Where the cluster and its log are.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.supervisor.folder().to_owned()
    }

    fn prepare(port: Port) -> Self {
        let folder = tempfile::Builder::new().prefix("tests-postgres-").tempdir().expect("a temporary folder");
        let unprivileged = Unprivileged::of(&folder);
        let data = folder.path().join("data");

        let initdb = unprivileged
            .command(&program::find_postgres("initdb"))
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "--pgdata"])
            .arg(&data)
            .current_dir(folder.path())
            .output()
            .expect("`initdb` starts");
        assert!(initdb.status.success(), "initdb failed:\n{}", String::from_utf8_lossy(&initdb.stderr));

        let mut postgres = unprivileged.command(&program::find_postgres("postgres"));
        postgres.arg("-D").arg(&data).args(["-p", &port.number.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"] {
            postgres.args(["-c", setting]);
        }
        // SIGQUIT ends it at once but, unlike SIGKILL, lets it give back its shared memory.
        Self { supervisor: Supervisor::new(folder, "QUIT", &postgres), port }
    }

    /// False when another process has the port.
    fn wait_until_ready(&self) -> bool {
        let mut port_taken = false;
        let ready = wait::poll(START_LIMIT, || {
            port_taken = self.supervisor.log().contains("Address already in use");
            port_taken || self.says_ready().unwrap_or(false)
        });
        assert!(ready, "PostgreSQL was not ready within {START_LIMIT:?}:\n{}", self.supervisor.log());
        !port_taken
    }

    /// The last line of its lock file is the postmaster's state.
    fn says_ready(&self) -> io::Result<bool> {
        let lock = fs::read_to_string(self.folder().join("data/postmaster.pid"))?;
        Ok(lock.lines().last().is_some_and(|state| state.trim() == "ready"))
    }
}

/// Runs commands as an ordinary user: as [`SYSTEM_USER`] for root, unchanged for everyone else.
struct Unprivileged {
    drop_root: bool,
}

impl Unprivileged {
    /// Makes `folder` that user's as well.
    fn of(folder: &TempDir) -> Self {
        let drop_root = rustix::process::geteuid().is_root();
        if drop_root {
            chown(folder.path(), Some(id("-u")), Some(id("-g"))).expect("root may give a folder away");
        }
        Self { drop_root }
    }

    fn command(&self, program: &Path) -> Command {
        if !self.drop_root {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid", SYSTEM_USER, "--regid", SYSTEM_USER, "--init-groups"]).arg(program);
        command
    }
}

/// `id -u` or `id -g` of [`SYSTEM_USER`].
fn id(which: &str) -> u32 {
    let output = Command::new("id").args([which, SYSTEM_USER]).output().expect("`id` starts");
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_else(|_| {
        panic!("there is no user `{SYSTEM_USER}`, which root runs PostgreSQL as: the package `postgresql` makes it")
    })
}
