//! Other caches, between this one and its clients.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::Duration,
};

use crate::{port::Port, program, supervisor::Supervisor, wait};

const START_LIMIT: Duration = Duration::from_secs(10);

/// An nginx or a HAProxy that caches the responses of one server, with the least configuration that makes it cache. It is
/// killed when dropped, and also when the process that holds it dies.
#[derive(Debug)]
pub struct Neighbour {
    /// Ends it when dropped.
    _supervisor: Supervisor,
    port: Port,
}

impl Neighbour {
    /// nginx in front of `upstream`.
    #[must_use]
    pub fn nginx(upstream: SocketAddr) -> Self {
        let config = |folder: &Path, port| {
            let folder = folder.display();
            let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {folder}/{kind};"))
                .concat();
            format!(
                "daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}
                http {{
                    access_log off; {temporary}
                    proxy_cache_path {folder}/cache keys_zone=all:1m;
                    server {{
                        listen 127.0.0.1:{port};
                        location / {{ proxy_pass http://{upstream}; proxy_http_version 1.1; proxy_set_header Host $host; proxy_cache all; }}
                    }}
                }}\n"
            )
        };
        Self::start("nginx", &["-e", "stderr", "-c"], config)
    }

    /// HAProxy in front of `upstream`.
    #[must_use]
    pub fn haproxy(upstream: SocketAddr) -> Self {
        let config = |_: &Path, port| {
            format!(
                "defaults\n mode http\n timeout connect 10s\n timeout client 30s\n timeout server 30s\n\
                cache all\n total-max-size 4\n max-age 3600\n\
                frontend all\n bind 127.0.0.1:{port}\n http-request cache-use all\n http-response cache-store all\n \
                default_backend all\n\
                backend all\n server one {upstream}\n"
            )
        };
        Self::start("haproxy", &["-db", "-f"], config)
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number)
    }

    fn start(name: &str, args: &[&str], config: impl Fn(&Path, u16) -> String + Copy) -> Self {
        let binary = program::find(name, name);
        loop {
            let folder = tempfile::Builder::new().prefix("tests-neighbour-").tempdir().expect("a temporary folder");
            let (file, port) = (folder.path().join("config"), Port::free());
            fs::write(&file, config(folder.path(), port.number)).expect("its configuration is written");
            let mut command = Command::new(&binary);
            command.args(args).arg(file);
            let mut supervisor = Supervisor::new(folder, "KILL", &command);
            supervisor.start();
            // Another process may have taken the port in between.
            let taken =
                || ["Address already in use", "cannot bind"].iter().any(|words| supervisor.log().contains(words));
            let listens = || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port.number)).is_ok();
            let settled = wait::poll(START_LIMIT, || taken() || listens());
            assert!(settled, "{name} did not listen within {START_LIMIT:?}: {}", supervisor.log());
            if !taken() {
                return Self { _supervisor: supervisor, port };
            }
        }
    }
}
