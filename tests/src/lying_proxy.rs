//! A proxy in front of a Redis that replaces some replies.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// A loopback proxy in front of a Redis server that carries out every command, and replaces the replies to some.
#[derive(Debug)]
pub struct LyingProxy {
    addr: SocketAddr,
    lies: Lies,
    acceptor: JoinHandle<()>,
}

/// The beginnings of commands, and the replies to them.
type Lies = Arc<Mutex<Vec<Lie>>>;

#[derive(Debug)]
struct Lie {
    words: Vec<String>,
    /// `None` is silence, once.
    reply: Option<Vec<u8>>,
    told: usize,
}

/// What becomes of a reply.
enum Reply {
    Passed,
    Replaced(Vec<u8>),
    /// Nothing more is passed.
    Silence,
}

impl LyingProxy {
    /// Listens on a free port and, at first, passes all replies unchanged.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a free port");
        let (addr, lies) = (listener.local_addr().expect("it listens"), Lies::default());
        let acceptor = tokio::spawn(accept(listener, target, lies.clone()));
        Self { addr, lies, acceptor }
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers every command that begins with `words` with `reply`, as it is on the wire; an empty one closes the connection.
    pub fn lie(&self, words: &[&str], reply: &[u8]) {
        self.add(words, Some(reply.to_owned()));
    }

    /// As a network that is gone one way: from the next command that begins with `words` on, nothing is answered on its connection,
    /// which stays open. Other connections are answered, until this is called again.
    pub fn fall_silent(&self, words: &[&str]) {
        self.add(words, None);
    }

    fn add(&self, words: &[&str], reply: Option<Vec<u8>>) {
        let words = words.iter().map(|word| word.to_ascii_uppercase()).collect();
        self.lies().push(Lie { words, reply, told: 0 });
    }

    /// Passes all replies unchanged from now on; returns how many were replaced.
    #[must_use]
    pub fn be_honest(&self) -> usize {
        self.lies().drain(..).map(|lie| lie.told).sum()
    }

    fn lies(&self) -> std::sync::MutexGuard<'_, Vec<Lie>> {
        self.lies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LyingProxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, lies: Lies) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                let lies = lies.clone();
                connections.spawn(async move {
                    // However a connection ends, closing it is all that is left to do.
                    let _ = carry(client, target, lies).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(client: TcpStream, target: SocketAddr, lies: Lies) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    // One element for each reply that is due.
    let due = Mutex::new(VecDeque::<Reply>::new());
    let asking = async {
        let mut questions = Vec::new();
        loop {
            if from_client.read_buf(&mut questions).await? == 0 {
                return Err::<(), _>(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            let mut seen = 0;
            while let Some(length) = frame(&questions[seen..]) {
                let reply = reply_to(&questions[seen..seen + length], &lies);
                due.lock().unwrap_or_else(PoisonError::into_inner).push_back(reply);
                seen += length;
            }
            to_server.write_all(&questions[..seen]).await?;
            questions.drain(..seen);
        }
    };
    let answering = async {
        let mut answers = Vec::new();
        loop {
            if from_server.read_buf(&mut answers).await? == 0 {
                return Err::<(), _>(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            while let Some(length) = frame(&answers) {
                let answer: Vec<u8> = answers.drain(..length).collect();
                // A push of the server is not a reply.
                let reply = match answer[0] {
                    b'>' => None,
                    _ => due.lock().unwrap_or_else(PoisonError::into_inner).pop_front(),
                };
                match reply.unwrap_or(Reply::Passed) {
                    Reply::Replaced(lie) if lie.is_empty() => return Err(io::ErrorKind::ConnectionReset.into()),
                    Reply::Replaced(lie) => to_client.write_all(&lie).await?,
                    Reply::Passed => to_client.write_all(&answer).await?,
                    Reply::Silence => std::future::pending().await,
                }
            }
        }
    };
    tokio::try_join!(asking, answering).map(drop)
}

fn reply_to(question: &[u8], lies: &Lies) -> Reply {
    let words = words_of(question).unwrap_or_default();
    let mut lies = lies.lock().unwrap_or_else(PoisonError::into_inner);
    let is_due = |lie: &&mut Lie| words.starts_with(&lie.words) && (lie.reply.is_some() || lie.told == 0);
    let Some(lie) = lies.iter_mut().find(is_due) else { return Reply::Passed };
    lie.told += 1;
    lie.reply.clone().map_or(Reply::Silence, Reply::Replaced)
}

fn words_of(question: &[u8]) -> Option<Vec<String>> {
    let mut rest = line(question)?.1;
    let mut words = Vec::new();
    while let Some((header, after)) = line(rest) {
        let length: usize = str::from_utf8(&header[1..]).ok()?.parse().ok()?;
        words.push(String::from_utf8_lossy(&after[..length]).to_ascii_uppercase());
        rest = &after[length + 2..];
    }
    Some(words)
}

/// The first line, and what comes after it.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[..end], &bytes[end + 2..]))
}

/// How long the first value is, once all of it is there.
fn frame(bytes: &[u8]) -> Option<usize> {
    let (header, rest) = line(bytes)?;
    let begun = bytes.len() - rest.len();
    let number: i64 = str::from_utf8(&header[1..]).ok().and_then(|number| number.parse().ok()).unwrap_or(0);
    match header[0] {
        b'$' | b'=' | b'!' if number < 0 => Some(begun),
        b'$' | b'=' | b'!' => {
            let whole = begun + usize::try_from(number).ok()? + 2;
            (bytes.len() >= whole).then_some(whole)
        }
        b'*' | b'~' | b'>' | b'%' | b'|' => {
            let parts = if matches!(header[0], b'%' | b'|') { 2 * number } else { number };
            let mut at = begun;
            for _ in 0..parts.max(0) {
                at += frame(&bytes[at..])?;
            }
            Some(at)
        }
        _ => Some(begun),
    }
}
