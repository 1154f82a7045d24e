//! Free ports for servers.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    os::unix::net::UnixDatagram,
};

/// A loopback port for one server, until this is dropped.
///
/// It lies below the range from which systems take the ports of outgoing connections: a server that is killed and
/// started again on its port must not find one of its own clients there. Nor must it find the server of another test there,
/// whose process saw the port free meanwhile: so each holder claims its port, whether or not a server listens.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    _claim: Option<UnixDatagram>,
}

impl Port {
    /// One that nobody has claimed, and that nobody listens on.
    pub(crate) fn free() -> Self {
        loop {
            let number = fastrand::u16(12_000..32_000);
            let claim = match claim(number) {
                Ok(claim) => claim,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                Err(error) => panic!("port {number} can not be claimed: {error}"),
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self { number, _claim: claim };
            }
        }
    }
}

/// Binds a name that only one process can have, without a file: the kernel takes it back from a process that dies.
#[cfg(target_os = "linux")]
fn claim(number: u16) -> io::Result<Option<UnixDatagram>> {
    use std::os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr};

    let name = SocketAddr::from_abstract_name(format!("cache-layer-tests-port-{number}"))?;
    UnixDatagram::bind_addr(&name).map(Some)
}

/// Other systems have no such names: a server that is down can lose its port there.
#[cfg(not(target_os = "linux"))]
fn claim(_: u16) -> io::Result<Option<UnixDatagram>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_port_is_its_holders_though_nobody_listens_on_it() {
        let port = Port::free();
        drop(TcpListener::bind((Ipv4Addr::LOCALHOST, port.number)).expect("nobody listens"));
        assert_eq!(claim(port.number).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let number = port.number;
        drop(port);
        assert!(claim(number).is_ok());
    }
}
