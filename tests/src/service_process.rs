//! The product service as a process.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use rustix::process::Signal;

use crate::{supervisor::Supervisor, wait};

const START_LIMIT: Duration = Duration::from_secs(30);

/// The service's binary, on a free loopback port, in a folder of its own that is also where it looks for its database.
/// Killed when dropped, and also when the process that holds it dies.
#[derive(Debug)]
pub struct ServiceProcess {
    supervisor: Supervisor,
    addr: SocketAddr,
}

impl ServiceProcess {
    /// Starts `program` with these variables and no others, and waits until it listens.
    #[must_use]
    pub fn start(program: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("tests-service-").tempdir().expect("a temporary folder");
        let mut chdir = OsString::from("--chdir=");
        chdir.push(folder.path());
        let mut command = Command::new("env");
        command.arg("--ignore-environment").arg(chdir).arg("APP_LISTEN=127.0.0.1:0");
        command.args(variables.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(program);

        let mut supervisor = Supervisor::new(folder, "KILL", &command);
        supervisor.start();
        let addr = listening(&supervisor, 0);
        Self { supervisor, addr }
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its working directory.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.supervisor.folder().to_owned()
    }

    /// Its standard output and error so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.supervisor.log()
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.supervisor.signal(Signal::TERM);
    }

    /// SIGHUP.
    pub fn hangup(&self) {
        self.supervisor.signal(Signal::HUP);
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        self.supervisor.kill();
    }

    /// Waits until it ends, and returns its exit code.
    pub fn wait(&mut self) -> i32 {
        self.supervisor.wait()
    }

    /// Starts it again in the same folder, where it finds what it left; probably on another port.
    pub fn restart(&mut self) {
        if self.supervisor.is_running() {
            self.supervisor.kill();
        }
        let seen = self.log().len();
        self.supervisor.start();
        self.addr = listening(&self.supervisor, seen);
    }
}

/// The address in the log, which the process writes once it listens.
fn listening(supervisor: &Supervisor, seen: usize) -> SocketAddr {
    let mut addr = None;
    wait::poll(START_LIMIT, || {
        let log = supervisor.log();
        addr = log[seen..]
            .split_once("listening on http://")
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        addr.is_some()
    });
    addr.unwrap_or_else(|| panic!("the service did not listen within {START_LIMIT:?}:\n{}", supervisor.log()))
}
