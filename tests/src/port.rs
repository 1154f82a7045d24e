//! Free ports for servers.

use std::net::{Ipv4Addr, TcpListener};

/// A loopback port that nobody listens on.
///
/// It lies below the range from which systems take the ports of outgoing connections: a server that is killed and
/// started again on its port must not find one of its own clients there.
pub(crate) fn free() -> u16 {
    loop {
        let port = fastrand::u16(12_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
