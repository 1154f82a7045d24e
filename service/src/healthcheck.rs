//! Asks the service from outside whether it is ready, for containers that have no other program for that.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// Longer than a healthy service takes to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the service that was told to listen at `listen` whether it is ready.
///
/// # Errors
///
/// If it isn't, or doesn't answer.
pub fn healthcheck(listen: SocketAddr) -> io::Result<()> {
    let address = reachable(listen);
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    // At once: a server may answer, and close, as soon as it has read a part of it.
    let request = format!("GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes())?;
    let mut status = String::new();
    BufReader::new(connection).read_line(&mut status)?;
    if status.starts_with("HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err(io::Error::other(format!("{address} answered {:?}", status.trim_end())))
    }
}

/// "Every address of this machine" is one to listen at, not to connect to.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use std::{io::Read, net::TcpListener, thread};

    use super::*;

    /// Asks a server that answers with `answer`, and returns what it was asked as well.
    fn asked(answer: &'static str) -> (io::Result<()>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = connection.read(&mut request).unwrap();
            connection.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let outcome = healthcheck(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
        (outcome, server.join().unwrap())
    }

    #[test]
    fn only_a_service_that_says_so_is_ready() {
        let (outcome, request) = asked("HTTP/1.1 200 OK\r\n\r\n");
        outcome.unwrap();
        assert!(request.starts_with("GET /health/ready HTTP/1.1\r\n"), "{request}");
        for answer in ["HTTP/1.1 503 Service Unavailable\r\n\r\n", "", "+PONG\r\n"] {
            asked(answer).0.unwrap_err();
        }
    }

    #[test]
    fn a_service_that_is_not_there_is_not_ready() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        healthcheck(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).unwrap_err();
    }
}
