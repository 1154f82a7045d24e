//! A store that a fleet of processes shares, on Redis >= 7.0 or Valkey >= 7.2.
//!
//! - [`names`]: what the keys are called
//! - [`scripts`]: acquire, commit, invalidate, on the server
//! - [`link`]: one connection, its keeper, and the breaker
//! - [`tokens`]: tag tokens known to a connection, kept right by server-assisted tracking
//! - [`near`]: entries known to a connection, in the same way, for the tiered store
//! - [`pending`]: invalidations that could not be delivered yet
//! - [`config`]: settings and their limits

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::select_all;
use redis::{Client, Pipeline, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::{runtime::Handle, time::sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{
    link::{Link, Live, Timeouts},
    names::Names,
    pending::Pending,
    scripts::Batch,
    tokens::Verdict,
};
use super::{Acquired, BoxFuture, Committed, Contract, Fill, Lease, Lookup, Scope, Seen, Store, StoreError};
use crate::{
    clock::{Clock, millis},
    entry::{Entry, envelope},
    key::Key,
    tag::{Stamp, Token},
    telemetry::Rejection,
};

mod config;
#[cfg(test)]
mod fleet_tests;
mod link;
mod names;
mod near;
mod pending;
mod scripts;
mod tokens;

pub use config::RedisStoreBuilder;
pub(super) use near::Near;

/// The first tier of this store, once there is one.
type NearSlot = Arc<OnceLock<Arc<Near>>>;

/// The tag that every entry here carries: its new token voids them all. No tag of a user's is empty.
const EVERYTHING: &str = "";
/// The least life of a tag's token. An entry that outlives its token becomes a miss, so it is renewed with every fill.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long to wait before looking again whether somebody else's lease has ended, in milliseconds.
const POLL: std::ops::Range<u64> = 5..25;

/// A store on a Redis or Valkey server. Cheap to clone; clones share their connections.
///
/// No request ever waits for a connection: while there is none, look-ups miss at once and nothing is stored.
///
/// ```no_run
/// use cache_layer::{Cache, store::RedisStore};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedisStore::builder("redis://127.0.0.1:6379/0").prefix("shop").build()?;
/// let cache = Cache::new(store);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    links: Vec<Arc<Link>>,
    names: Names,
    pending: Arc<Pending>,
    near: NearSlot,
    runtime: Handle,
    _stop: DropGuard,
}

/// How a Redis server is doing, from [`RedisStore::status`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RedisStatus {
    /// Whether the server answered.
    pub connected: bool,
    /// How long it took to answer a `PING`.
    pub ping: Option<Duration>,
    /// The memory that the server uses, as it says it, such as `1.05M`.
    pub used_memory_human: Option<String>,
    /// Clients connected to the server.
    pub connected_clients: Option<u64>,
    /// Why there is no answer.
    pub error: Option<String>,
}

impl RedisStore {
    /// Settings of a store at `url`: `redis://` or, with the feature `tls`, `rediss://`, then
    /// `[user[:password]@]host[:port][/db]`; or `unix:///path[?db=N&user=…&pass=…]`.
    pub fn builder(url: impl Into<String>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(url.into())
    }

    fn start(client: &Client, prefix: &str, connections: usize, timeouts: Timeouts, runtime: &Handle) -> Self {
        let names = Names::new(prefix);
        let stop = CancellationToken::new();
        let pending = Arc::new(Pending::default());
        let near = NearSlot::default();
        let links: Vec<_> = (0..connections)
            .map(|_| Link::new(client.clone(), names.clone(), pending.clone(), near.clone(), timeouts))
            .collect();
        for link in &links {
            runtime.spawn(link.clone().keep(stop.clone()));
        }
        Self(Arc::new(Inner { links, names, pending, near, runtime: runtime.clone(), _stop: stop.drop_guard() }))
    }

    /// Whether there is a connection that is believed to work.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.0.links.iter().any(|link| link.is_live())
    }

    /// Waits, at most for `timeout`, until there is a connection. Nothing needs to call this: it is for a start-up that
    /// wants to say whether Redis is there.
    pub async fn wait_connected(&self, timeout: Duration) -> bool {
        let any = select_all(self.0.links.iter().map(|link| Box::pin(link.wait_connected())));
        tokio::time::timeout(timeout, any).await.is_ok()
    }

    /// Asks the server how it is; never waits longer than the operation timeout, or a second if that is longer.
    pub async fn status(&self) -> RedisStatus {
        let ask = async {
            let link = self.any_link();
            let live = link.live()?;
            let begun = Instant::now();
            link.run_patiently(&live, async |mut connection: MultiplexedConnection| {
                redis::cmd("PING").query_async::<()>(&mut connection).await
            })
            .await?;
            let ping = begun.elapsed();
            let info: String = link
                .run_patiently(&live, async |mut connection: MultiplexedConnection| {
                    redis::cmd("INFO").arg("memory").arg("clients").query_async(&mut connection).await
                })
                .await?;
            let field = |name: &str| {
                info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::to_owned)
            };
            Ok::<_, StoreError>(RedisStatus {
                connected: true,
                ping: Some(ping),
                used_memory_human: field("used_memory_human"),
                connected_clients: field("connected_clients").and_then(|count| count.parse().ok()),
                error: None,
            })
        };
        ask.await.unwrap_or_else(|error| {
            let error = match error {
                StoreError::Unavailable => self.any_link().absence(),
                other => other.to_string(),
            };
            RedisStatus { error: Some(error), ..RedisStatus::default() }
        })
    }

    /// The first tier; made, if there is none, to hold about `max_bytes`.
    pub(super) fn near_or_init(&self, max_bytes: u64) -> Arc<Near> {
        self.0.near.get_or_init(|| Arc::new(Near::new(max_bytes))).clone()
    }

    /// The entry of `key` in the first tier.
    pub(super) fn near(&self, key: &Key) -> Option<Entry> {
        self.0.near.get()?.get(self.link(key), key)
    }

    /// The connection of `key`: always the same one, so that what is done with a key stays in order.
    fn link(&self, key: &Key) -> &Arc<Link> {
        let links = &self.0.links;
        &links[usize::from(key.id().primary[0]) % links.len()]
    }

    fn any_link(&self) -> &Arc<Link> {
        let links = &self.0.links;
        links.iter().find(|link| link.is_live()).unwrap_or(&links[0])
    }

    async fn lookup(&self, key: &Key) -> Result<Lookup, StoreError> {
        let link = self.link(key);
        let live = link.live()?;
        let name = self.0.names.entry(key);
        let read = self.0.near.get().filter(|_| live.tracking).map(|near| near.ask(key));
        let mut pipeline = Pipeline::new();
        if read.is_some() {
            pipeline.cmd("CLIENT").arg("CACHING").arg("YES").ignore();
        }
        pipeline.cmd("GET").arg(&name);
        let reply = link
            .run(&live, async |mut connection: MultiplexedConnection| {
                match pipeline.query_async::<(Option<Vec<u8>>,)>(&mut connection).await {
                    Err(error) if is_wrong_type(&error) => Ok(Err(Rejection::Type)),
                    reply => reply.map(|(bytes,)| Ok(bytes)),
                }
            })
            .await?;
        let bytes = match reply {
            Ok(Some(bytes)) => Bytes::from(bytes),
            Ok(None) => return Ok(Lookup::Absent),
            Err(rejection) => return Ok(Lookup::Rejected(rejection)),
        };
        match envelope::decode(key, &bytes) {
            Ok(entry) if self.is_current(link, &live, &entry).await? => {
                if let Some(read) = read {
                    read.answer(&live, &entry);
                }
                Ok(Lookup::Found(entry))
            }
            Ok(_) => Ok(Lookup::Rejected(Rejection::Tag)),
            Err(rejection) => Ok(Lookup::Rejected(rejection)),
        }
    }

    /// Whether every tag of `entry` still has the token that the entry carries. To be asked after the entry's bytes
    /// came in: then every invalidation that came before them counts.
    async fn is_current(&self, link: &Link, live: &Arc<Live>, entry: &Entry) -> Result<bool, StoreError> {
        let unknown = match live.tokens.judge(entry.stamps()) {
            Verdict::Valid => return Ok(true),
            Verdict::Invalid => return Ok(false),
            Verdict::Unknown(unknown) => unknown,
        };
        let mut pipeline = Pipeline::new();
        if live.tracking {
            pipeline.cmd("CLIENT").arg("CACHING").arg("YES").ignore();
        }
        pipeline.cmd("MGET");
        for tag in &unknown {
            pipeline.arg(self.0.names.tag(tag));
        }
        let question = live.tracking.then(|| live.tokens.ask(&unknown));
        let (values,): (Vec<Option<Vec<u8>>>,) = link
            .run(live, async |mut connection: MultiplexedConnection| pipeline.query_async(&mut connection).await)
            .await?;
        let mut current = true;
        for (tag, value) in unknown.iter().zip(values) {
            let token = value.as_deref().and_then(Token::parse);
            if let Some(question) = question {
                live.tokens.answer(question, tag, token);
            }
            let carried = entry.stamps().iter().find(|stamp| stamp.tag == *tag);
            current &= token.is_some() && token == carried.map(|stamp| stamp.token);
        }
        Ok(current)
    }

    async fn acquire(&self, key: &Key, seen: Seen, ttl: Duration) -> Result<Acquired, StoreError> {
        let link = self.link(key);
        let live = link.live()?;
        let names = &self.0.names;
        let token = Lease::random_token();
        let life = millis(ttl).max(1).to_string();
        let seen: &[u8] = match &seen {
            Seen::Nothing => b"",
            Seen::Entry(id) => &id.0,
            Seen::Unusable => b"*",
        };
        let mut batch = Batch::default();
        batch.call(&scripts::LAST_INVALIDATION, &[&names.last_invalidation()], &[]);
        batch.call(&scripts::ACQUIRE, &[&names.entry(key), &names.lease(key)], &[&token, life.as_bytes(), seen]);
        let (_, reply): (Vec<u8>, Vec<u8>) =
            link.run(&live, async |mut connection: MultiplexedConnection| batch.run(&mut connection).await).await?;
        match &reply[..] {
            b"held" => Ok(Acquired::Held),
            b"changed" => Ok(Acquired::Changed),
            b"uncacheable" => Ok(Acquired::Uncacheable),
            time => match time.try_into() {
                Ok(started) => Ok(Acquired::Granted(Lease::new(key, token, started))),
                Err(_) => Err(StoreError::Failed("an answer that is none of the protocol's".to_owned())),
            },
        }
    }

    async fn commit(&self, Fill { lease, writes, tags }: &Fill) -> Result<Committed, StoreError> {
        let link = self.link(&lease.key);
        let live = link.live()?;
        let now = Clock::system().now();
        let life = |entry: &Entry| entry.deadlines().gone.saturating_sub(now);
        let longest = writes.entries.iter().map(|(_, entry)| life(entry)).max().unwrap_or(0);
        if longest == 0 {
            self.release(lease, None);
            return Ok(Committed::Refused);
        }

        // Tags lie in slots of their own, so they are read before the commit, not in it. An invalidation between the
        // two changes a token that is already on the entry, which makes the entry invalid: nothing slips through.
        let names = &self.0.names;
        let all: Vec<Arc<str>> = tags.as_slice().iter().cloned().chain([EVERYTHING.into()]).collect();
        let token_life = longest.saturating_mul(2).max(millis(TOKEN_LIFE)).to_string();
        let mut batch = Batch::default();
        for tag in &all {
            let chance = chance();
            batch.call(&scripts::STAMP, &[&names.tag(tag)], &[chance.as_bytes(), token_life.as_bytes()]);
        }
        let mut last = Batch::default();
        last.call(&scripts::LAST_INVALIDATION, &[&names.last_invalidation()], &[]);
        let (tokens, (last,)) = link
            .run_patiently(&live, async |mut connection: MultiplexedConnection| {
                Ok((
                    batch.run::<Vec<(Vec<u8>, bool)>>(&mut connection).await?,
                    last.run::<(Vec<u8>,)>(&mut connection).await?,
                ))
            })
            .await?;
        let mut stamps = Vec::with_capacity(all.len());
        for (tag, (token, created)) in all.into_iter().zip(tokens) {
            let overtaken = match Token::parse(&token) {
                // An absent token may be a forgotten one: was anything invalidated since the load began?
                Some(_) if created => last[..] >= lease.started[..],
                Some(token) => token.overtook(&lease.started),
                None => true,
            };
            let Some(token) = Token::parse(&token).filter(|_| !overtaken) else {
                self.release(lease, None);
                return Ok(Committed::Refused);
            };
            stamps.push(Stamp { tag, token });
        }

        let mut call = scripts::COMMIT.key(names.lease(&lease.key));
        match &writes.guard {
            Some((key, id)) => call.key(names.entry(key)).arg(&lease.token[..]).arg(&id.0[..]),
            None => call.key(names.entry(&lease.key)).arg(&lease.token[..]).arg(""),
        };
        for (key, entry) in &writes.entries {
            let bytes = envelope::encode(&entry.stamped(stamps.clone()));
            call.key(names.entry(key)).arg(&bytes[..]).arg(life(entry).max(1));
        }
        let stored: bool = link
            .run_patiently(&live, async |mut connection: MultiplexedConnection| {
                call.invoke_async(&mut connection).await
            })
            .await?;
        Ok(if stored { Committed::Stored } else { Committed::Refused })
    }

    async fn deliver(&self, scope: Scope<'_>) -> Result<(), StoreError> {
        let Inner { names, pending, .. } = &*self.0;
        let link = match scope {
            Scope::Key(key) => self.link(key),
            Scope::Tags(_) | Scope::Everything => self.any_link(),
        };
        let delivered = match link.live() {
            Ok(live) => {
                link.run_patiently(&live, async |mut connection: MultiplexedConnection| {
                    invalidate(names, &mut connection, scope).await
                })
                .await
            }
            Err(error) => Err(error),
        };
        match delivered {
            Ok(()) => {
                // This process's other connections hear of it by a push of their own, but not before this returns.
                for live in self.0.links.iter().filter_map(|link| link.live().ok()) {
                    match scope {
                        Scope::Key(key) => {
                            self.0.near.get().into_iter().for_each(|near| near.forget(key.primary().id()));
                        }
                        Scope::Tags(tags) => tags.iter().for_each(|tag| live.tokens.forget(tag)),
                        Scope::Everything => live.tokens.forget(EVERYTHING),
                    }
                }
                Ok(())
            }
            Err(error) => {
                // No connection is used again before it has delivered this.
                pending.add(scope);
                self.0.links.iter().for_each(|link| link.reset());
                Err(error)
            }
        }
    }
}

/// One invalidation, in one round trip.
async fn invalidate(names: &Names, connection: &mut MultiplexedConnection, scope: Scope<'_>) -> RedisResult<()> {
    let life = millis(TOKEN_LIFE).to_string();
    let mut batch = Batch::default();
    let tags: Vec<&str> = match scope {
        // The lease goes with the entry: a load in flight can't commit any more. Variants are reached through this
        // entry alone, and theirs compare it when they commit.
        Scope::Key(key) => {
            let key = key.primary();
            return redis::cmd("UNLINK")
                .arg(names.entry(&key))
                .arg(names.lease(&key))
                .query_async::<i64>(connection)
                .await
                .map(drop);
        }
        Scope::Tags(tags) => tags.iter().collect(),
        Scope::Everything => vec![EVERYTHING],
    };
    // Noted first: a fill that finds no token must find the note.
    batch.call(&scripts::NOTE_INVALIDATION, &[&names.last_invalidation()], &[]);
    for tag in tags {
        batch.call(&scripts::INVALIDATE_TAG, &[&names.tag(tag)], &[chance().as_bytes(), life.as_bytes()]);
    }
    batch.run::<Vec<String>>(connection).await.map(drop)
}

/// 15 hex digits, the middle of a [`Token`].
fn chance() -> String {
    format!("{:015x}", fastrand::u64(..1 << 60))
}

fn is_wrong_type(error: &RedisError) -> bool {
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.iter().any(|(_, error)| error.code() == "WRONGTYPE"))
}

impl Store for RedisStore {}

impl Contract for RedisStore {
    fn peek(&self, _: &Key) -> Option<Entry> {
        None
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>> {
        Box::pin(self.lookup(key))
    }

    fn acquire<'a>(&'a self, key: &'a Key, seen: Seen, ttl: Duration) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        Box::pin(self.acquire(key, seen, ttl))
    }

    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let link = self.link(&lease.key);
            let live = link.live()?;
            let mut call = scripts::RENEW.key(self.0.names.lease(&lease.key));
            call.arg(&lease.token[..]).arg(millis(ttl).max(1));
            link.run_patiently(&live, async |mut connection: MultiplexedConnection| {
                call.invoke_async(&mut connection).await
            })
            .await
        })
    }

    fn commit<'a>(&'a self, fill: &'a Fill) -> BoxFuture<'a, Result<Committed, StoreError>> {
        Box::pin(self.commit(fill))
    }

    fn release(&self, lease: &Lease, uncacheable: Option<Duration>) {
        // A lease that can't be given back runs out by itself.
        let link = self.link(&lease.key).clone();
        let Ok(live) = link.live() else { return };
        let mut call = scripts::RELEASE.key(self.0.names.lease(&lease.key));
        call.arg(&lease.token[..]).arg(uncacheable.map_or(0, millis));
        self.0.runtime.spawn(async move {
            let release = async |mut connection: MultiplexedConnection| call.invoke_async(&mut connection).await;
            let _: Result<bool, StoreError> = link.run_patiently(&live, release).await;
        });
    }

    fn changed<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, ()> {
        Box::pin(sleep(Duration::from_millis(fastrand::u64(POLL))))
    }

    fn invalidate<'a>(&'a self, scope: Scope<'a>) -> BoxFuture<'a, Result<(), StoreError>> {
        // In a task of its own: a caller that is cancelled has written what is to be invalidated all the same.
        let (store, scope) = (self.clone(), scope.to_owned());
        let delivery = self.0.runtime.spawn(async move { store.deliver(scope.borrow()).await });
        Box::pin(async move { delivery.await.unwrap_or(Err(StoreError::Unavailable)) })
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("links", &self.0.links).finish_non_exhaustive()
    }
}
