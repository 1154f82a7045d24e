//! Every store that a cache can use.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use cache_layer::{
    Cache, CacheBuilder,
    store::{MemoryStore, RedisStore, TieredStore},
};

use crate::{RedisServer, wait_until};

/// A long timeout, so that no test fails because a busy machine was slow: other tests are about timeouts.
const PATIENCE: Duration = Duration::from_secs(10);
/// A long one, for the same reason: a lease is lost that a busy machine fails to renew for a third of it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
const BYTES: u64 = 16 * 1024 * 1024;

/// A store, with the server that it needs. Caches on one backend share their entries; on Redis they share nothing else, like the
/// processes of a fleet.
#[derive(Debug)]
pub enum Backend {
    /// A store in this process.
    Memory(MemoryStore),
    /// A Redis.
    Redis(RedisServer),
    /// A Redis, with a first tier in each cache.
    Tiered(RedisServer),
}

impl Backend {
    /// A store in this process.
    #[must_use]
    pub fn memory() -> Self {
        Self::Memory(MemoryStore::new(BYTES))
    }

    /// A Redis of its own.
    #[must_use]
    pub fn redis() -> Self {
        Self::Redis(RedisServer::start())
    }

    /// A Redis of its own, with a first tier in each cache.
    #[must_use]
    pub fn tiered() -> Self {
        Self::Tiered(RedisServer::start())
    }

    /// The server; panics when there is none.
    #[must_use]
    pub fn server(&self) -> &RedisServer {
        match self {
            Self::Redis(server) | Self::Tiered(server) => server,
            Self::Memory(_) => panic!("there is no server behind a memory store"),
        }
    }

    /// One more cache over this store, connected, with a long [lock timeout](CacheBuilder::lock_timeout).
    pub async fn cache(&self) -> CacheBuilder {
        let builder = match self {
            Self::Memory(store) => Cache::builder(store.clone()),
            Self::Redis(server) => Cache::builder(connect(server).await),
            Self::Tiered(server) => Cache::builder(TieredStore::new(BYTES, connect(server).await)),
        };
        builder.lock_timeout(LOCK_TIMEOUT)
    }
}

/// Waits until `reader` has heard of all that `writer` has changed until now, both over one server: its first tier hears of changes by
/// pushes, which come in their order, and may come after the change has returned to the writer.
///
/// # Panics
///
/// If the store does not answer, or the reader hears nothing within half a minute.
pub async fn heard(writer: &Cache, reader: &Cache) {
    static MARKS: AtomicU64 = AtomicU64::new(0);
    let key = ("a mark of what was heard", MARKS.fetch_add(1, Ordering::Relaxed));
    for step in ["before", "after"] {
        writer.set(key, step).await.expect("a store that answers");
        // From here on, the reader has the first one in memory, and gets the second one once it has heard of it.
        wait_until("the reader hears of it", async || reader.get::<String>(key).await.as_deref() == Some(step)).await;
    }
}

async fn connect(server: &RedisServer) -> RedisStore {
    let builder = RedisStore::builder(server.url()).operation_timeout(PATIENCE).connect_timeout(PATIENCE);
    // It is read at once, even if the first attempt to connect failed.
    let store = builder.settle_time(Duration::ZERO).build().expect("a valid URL");
    assert!(store.wait_connected(PATIENCE).await, "{server} took no connection:\n{}", server.log());
    store
}

/// Runs tests, each an `async fn(&Backend)`, over every store that there is.
#[macro_export]
macro_rules! over_each_store {
    ($($test:ident),+ $(,)?) => {
        $crate::over_each_store!(@ over_memory memory $($test)+);
        $crate::over_each_store!(@ over_redis redis $($test)+);
        $crate::over_each_store!(@ over_memory_and_redis tiered $($test)+);
    };
    (@ $name:ident $backend:ident $($test:ident)+) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    super::$test(&$crate::Backend::$backend()).await;
                }
            )+
        }
    };
}
