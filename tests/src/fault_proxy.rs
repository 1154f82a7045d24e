//! A network that fails on demand.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::port::Port;

/// How a [`FaultProxy`] treats its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Everything passes.
    Pass,
    /// Each chunk is kept for this long, in both directions.
    Delay(Duration),
    /// Connections are accepted, and what is sent on them disappears, in both directions.
    BlackHole,
    /// Data in one direction disappears.
    Swallow(Direction),
    /// This many more bytes of answers on each connection, then it is closed.
    Truncate(usize),
    /// The server's bytes are replaced by these, chunk by chunk.
    Junk(&'static [u8]),
    /// Open connections are closed and new ones refused.
    Cut,
}

/// One of the two directions of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Requests: from the client to the server.
    ToServer,
    /// Answers: from the server to the client.
    ToClient,
}

impl Fault {
    fn swallows(self, direction: Direction) -> bool {
        self == Self::BlackHole || self == Self::Swallow(direction)
    }
}

/// A loopback TCP proxy in front of a server, whose [`Fault`] can be changed while connections are open.
///
/// When the fault ends, a connection that lost bytes is closed: no real connection continues with bytes missing.
#[derive(Debug)]
pub struct FaultProxy {
    port: Port,
    target: SocketAddr,
    fault: watch::Sender<Fault>,
    /// Owns the listener and every connection; none of them while the proxy is cut.
    acceptor: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// Listens on a free port and passes everything to `target`, which need not be up.
    pub async fn start(target: SocketAddr) -> Self {
        let mut proxy = Self { port: Port::free(), target, fault: watch::Sender::new(Fault::Cut), acceptor: None };
        proxy.set(Fault::Pass).await;
        proxy
    }

    /// Where clients connect; the same for as long as the proxy lives.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.number).into()
    }

    /// Changes the fault for new and for open connections.
    pub async fn set(&mut self, fault: Fault) {
        self.fault.send_replace(fault);
        if fault == Fault::Cut {
            if let Some(acceptor) = self.acceptor.take() {
                acceptor.abort();
                // Once it has ended, its sockets are closed.
                let _ = acceptor.await;
            }
        } else if self.acceptor.is_none() {
            let listener = TcpListener::bind(self.addr()).await.expect("the proxy's port is free");
            self.acceptor = Some(tokio::spawn(accept(listener, self.target, self.fault.subscribe())));
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(acceptor) = &self.acceptor {
            acceptor.abort();
        }
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, fault: watch::Receiver<Fault>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                let fault = fault.clone();
                connections.spawn(async move {
                    // However a connection ends, closing it is all that is left to do.
                    let _ = carry(client, target, fault).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(client: TcpStream, target: SocketAddr, fault: watch::Receiver<Fault>) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(
        pump(Direction::ToServer, from_client, to_server, fault.clone()),
        pump(Direction::ToClient, from_server, to_client, fault),
    )?;
    Ok(())
}

/// Carries one direction to its end; an error closes the other direction too.
async fn pump(
    direction: Direction,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    let mut lost_bytes = false;
    let mut ended = false;
    let mut answered = 0;
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer), if !ended => read?,
            changed = fault.changed() => match changed {
                Ok(()) if lost_bytes && !fault.borrow().swallows(direction) => return Err(io::ErrorKind::ConnectionReset.into()),
                Ok(()) => continue,
                Err(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
            },
        };
        let now = *fault.borrow_and_update();

        if now.swallows(direction) {
            // An end of stream that the other side must not see counts as lost, too.
            lost_bytes = true;
            ended = read == 0;
            continue;
        }
        if read == 0 {
            return to.shutdown().await;
        }

        let chunk = &buffer[..read];
        match now {
            Fault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                to.write_all(chunk).await?;
            }
            Fault::Junk(junk) if direction == Direction::ToClient => to.write_all(junk).await?,
            Fault::Truncate(limit) if direction == Direction::ToClient => {
                let rest = read.min(limit - answered);
                to.write_all(&chunk[..rest]).await?;
                answered += rest;
                if answered == limit {
                    to.shutdown().await?;
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            _ => to.write_all(chunk).await?,
        }
    }
}
