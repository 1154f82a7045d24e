//! Checks the contract against every store.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
#[cfg(feature = "cluster")]
use tests::RedisCluster;
#[cfg(feature = "sentinel")]
use tests::RedisSentinel;
use tests::{RedisServer, RedisServerBuilder, wait_until};
use tokio::time::sleep;

use super::{
    Acquired, Committed, Failed, Fill, Lease, Lookup, MemoryStore, RedisStore, RedisStoreBuilder, Scope, Seen,
    StoreBackend, TieredStore, Writes,
};
use crate::{
    clock::Clock,
    entry::{Deadlines, Entry, EntryId},
    key::Key,
    pattern::Pattern,
    store::{Failures, Hardness},
    tag::Tags,
    telemetry::Rejection,
};

const LEASE: Duration = Duration::from_secs(5);

/// The kinds of soft invalidation.
static SCOPES: [&str; 4] = ["key", "tag", "everything", "pattern"];
/// A ramp that is over before the stored entries are stale by themselves, and long after a test.
const WINDOW: Duration = Duration::from_secs(400);
/// A ramp in which no key's turn comes during a test.
const LONG: Duration = Duration::from_secs(7 * 24 * 60 * 60);

type LoseToken = Box<dyn Fn(&str) + Send + Sync>;

/// A store under test, and the servers that it needs.
struct Subject {
    store: Arc<dyn StoreBackend>,
    redis: Option<RedisServer>,
    memory: Option<MemoryStore>,
    remote: Option<RedisStore>,
    /// For servers that several tests share one after the other: takes a tag, and deletes its token.
    lose_token: Option<LoseToken>,
    /// The kinds of soft invalidation that the store has.
    scopes: &'static [&'static str],
}

impl Subject {
    fn memory() -> Self {
        let memory = MemoryStore::new(10 << 20);
        Self {
            store: Arc::new(memory.clone()),
            redis: None,
            memory: Some(memory),
            remote: None,
            lose_token: None,
            scopes: &SCOPES,
        }
    }

    #[cfg(feature = "testing")]
    fn testing() -> Self {
        let store = super::TestStore::new();
        let memory = Some(store.memory());
        Self { store: Arc::new(store), redis: None, memory, remote: None, lose_token: None, scopes: &SCOPES }
    }

    async fn redis() -> Self {
        let (store, server) = redis_store().await;
        let remote = Some(store.clone());
        Self { store: Arc::new(store), redis: Some(server), memory: None, remote, lose_token: None, scopes: &SCOPES }
    }

    async fn tiered() -> Self {
        let (store, server) = redis_store().await;
        Self {
            remote: Some(store.clone()),
            store: Arc::new(TieredStore::new(10 << 20, store)),
            redis: Some(server),
            memory: None,
            lose_token: None,
            scopes: &SCOPES,
        }
    }

    /// A store of its own, called `test`, for a user with exactly the permissions that are needed.
    async fn restricted(server: &Arc<RedisServer>, test: &'static str) -> Self {
        let store = connect(server.url().replace("redis://", "redis://cache:secret@"), test).await;
        let server = server.clone();
        let lose_token = move |tag: &str| {
            let lost: u64 = server.command(&["DEL", &format!("{test}:t:{tag}")]);
            assert_eq!(lost, 1);
        };
        let remote = Some(store.clone());
        let store = Arc::new(TieredStore::new(10 << 20, store));
        Self { store, remote, redis: None, memory: None, lose_token: Some(Box::new(lose_token)), scopes: &SCOPES }
    }

    /// A store of its own, called `test`, whose entries are sealed.
    #[cfg(feature = "sealed")]
    async fn sealed(server: &Arc<RedisServer>, test: &'static str) -> Self {
        let ring = crate::entry::KeyRing::new([1; 32], [2; 32]);
        let store = connect_with(RedisStore::builder(server.url()).prefix(test).sealed_with(ring.clone())).await;
        let server = server.clone();
        let lose_token = move |tag: &str| {
            let lost: u64 = server.command(&["DEL", &format!("{test}:t:{}", ring.hide_tag(tag))]);
            assert_eq!(lost, 1);
        };
        let remote = Some(store.clone());
        let store = Arc::new(TieredStore::new(10 << 20, store));
        Self { store, remote, redis: None, memory: None, lose_token: Some(Box::new(lose_token)), scopes: &SCOPES[..3] }
    }

    /// A store of its own, called `test`, in a cluster.
    #[cfg(feature = "cluster")]
    async fn cluster(cluster: &Arc<RedisCluster>, test: &'static str) -> Self {
        let store = connect(cluster.url().replace("://", "://cache:secret@"), test).await;
        let cluster = cluster.clone();
        let lose_token = move |tag: &str| {
            let name = format!("{test}:t:{{{test}}}:{tag}");
            let lost: u64 = cluster.primaries()[cluster.index_of(&name)].command(&["DEL", &name]);
            assert_eq!(lost, 1);
        };
        let remote = Some(store.clone());
        let store = Arc::new(TieredStore::new(10 << 20, store));
        Self { store, remote, redis: None, memory: None, lose_token: Some(Box::new(lose_token)), scopes: &SCOPES }
    }

    /// A store of its own, called `test`, behind sentinels.
    #[cfg(feature = "sentinel")]
    async fn sentinel(group: &Arc<RedisSentinel>, test: &'static str) -> Self {
        let store = connect(group.url(), test).await;
        let group = group.clone();
        let lose_token = move |tag: &str| {
            let lost: u64 = group.primary().command(&["DEL", &format!("{test}:t:{tag}")]);
            assert_eq!(lost, 1);
        };
        Self {
            remote: Some(store.clone()),
            store: Arc::new(store),
            redis: None,
            memory: None,
            lose_token: Some(Box::new(lose_token)),
            scopes: &SCOPES,
        }
    }

    async fn lease(&self, key: &Key) -> Lease {
        let mut granted = None;
        // A refused commit gives its lease back without waiting.
        wait_until("the lease to be free", async || {
            match self.store.acquire(key, Seen::Unusable, LEASE, Failures::Heed).await.unwrap() {
                Acquired::Granted(lease) => granted = Some(lease),
                Acquired::Held => {}
                other => panic!("no lease: {other:?}"),
            }
            granted.is_some()
        })
        .await;
        granted.expect("it was waited for")
    }

    /// Ends `lease` as failed, and waits until that is known.
    async fn fail(&self, lease: &Lease, pause: Duration) {
        self.store.fail(lease, Failed { status: Some(503), pause, remembered: LEASE });
        wait_until("the failure to be known", async || {
            matches!(
                self.store.acquire(&lease.key, Seen::Unusable, LEASE, Failures::Heed).await,
                Ok(Acquired::BackOff { .. })
            )
        })
        .await;
    }

    async fn commit(&self, lease: Lease, payload: &str, tags: &[&str]) -> Committed {
        let entries = vec![(lease.key.clone(), entry(&lease.key, payload))];
        self.commit_writes(lease, Writes { entries: entries.into(), guard: None }, tags).await
    }

    async fn commit_writes(&self, lease: Lease, writes: Writes, tags: &[&str]) -> Committed {
        self.store.commit(&Fill { lease, writes, tags: Tags::new(tags) }).await.unwrap()
    }

    async fn fill(&self, key: &Key, payload: &str, tags: &[&str]) {
        let lease = self.lease(key).await;
        assert_eq!(self.commit(lease, payload, tags).await, Committed::Stored);
    }

    async fn read(&self, key: &Key) -> Option<String> {
        let entry = match self.store.peek(key) {
            Some(entry) => entry,
            None => match self.store.get(key).await.unwrap() {
                Lookup::Found(entry) => entry,
                Lookup::Absent | Lookup::Rejected(..) => return None,
            },
        };
        Some(String::from_utf8(entry.payload().to_vec()).unwrap())
    }

    async fn found(&self, key: &Key) -> Option<Entry> {
        let found = match self.store.peek(key) {
            Some(entry) => Some(entry),
            None => match self.store.get(key).await.unwrap() {
                Lookup::Found(entry) => Some(entry),
                Lookup::Absent | Lookup::Rejected(..) => None,
            },
        };
        found.map(|entry| entry.seen_at(|| Clock::system().now()))
    }

    async fn state(&self, key: &Key) -> State {
        match self.found(key).await {
            Some(entry) if entry.deadlines().fresh <= Clock::system().now() => State::Stale,
            Some(_) => State::Fresh,
            None => State::Void,
        }
    }

    async fn soften(&self, scope: &str, name: &str, tag: &str) {
        self.soften_over(Duration::ZERO, scope, name, tag).await;
    }

    async fn soften_over(&self, window: Duration, scope: &str, name: &str, tag: &str) {
        let (key, tags) = (key(name), Tags::new([tag]));
        let pattern;
        let scope = match scope {
            "key" => Scope::Key(&key),
            "tag" => Scope::Tags(&tags),
            "pattern" => {
                pattern = Pattern::new(&format!("contract:{name}*"));
                Scope::Pattern(&pattern)
            }
            _ => Scope::Everything,
        };
        let hardness = if window.is_zero() { Hardness::Soft } else { Hardness::Ramp(window) };
        self.store.invalidate(scope, hardness).await.unwrap();
    }

    /// The time from which the entry is stale.
    async fn fresh_until(&self, key: &Key) -> u64 {
        self.found(key).await.expect("it is there").deadlines().fresh
    }

    async fn delete(&self, pattern: &str) -> u64 {
        self.store.delete_matching(&Pattern::new(pattern)).await.unwrap().deleted
    }

    /// Bans matching entries.
    async fn ban(&self, pattern: &str) {
        self.store.invalidate(Scope::Pattern(&Pattern::new(pattern)), Hardness::Hard).await.unwrap();
    }

    /// Sweeps what tags have made void.
    async fn reclaim(&self) {
        if let Some(memory) = &self.memory {
            memory.reclaim_now();
        }
        if let Some(remote) = self.remote.as_ref().filter(|remote| !remote.hides_names()) {
            remote.reclaim_now().await;
        }
    }

    /// Waits until the lurker has swept all banned entries and taken the bans off the list.
    async fn swept(&self) {
        wait_until("everything to be swept that is banned", async || match (&self.memory, &self.remote) {
            (Some(memory), _) => !memory.has_bans(),
            (_, Some(remote)) => !remote.has_bans().await,
            (None, None) => true,
        })
        .await;
        // All pushes before this reply have been received.
        self.store.get(&key("nothing")).await.unwrap();
    }

    /// Whether a sweep by a list of bans may be under way that is no longer the current one. In memory, there is none.
    fn is_sweeping(&self) -> bool {
        self.memory.is_none() && self.remote.as_ref().is_some_and(RedisStore::is_lurking)
    }

    /// Stores so many entries that a pass over all takes several steps, also on each of several servers.
    async fn fill_up(&self) {
        let filler = |n: usize| {
            let key = key(&format!("filler {n}"));
            (key.clone(), entry(&key, "x"))
        };
        let fillers: Vec<_> = (0..20_000).map(filler).collect();
        for some in fillers.chunks(1_000) {
            self.store.put(some.to_vec(), &Tags::default()).await.unwrap();
        }
    }

    async fn invalidate_tag(&self, tag: &str) {
        self.store.invalidate(Scope::Tags(&Tags::new([tag])), Hardness::Hard).await.unwrap();
    }

    async fn invalidate(&self, key: &Key) {
        self.store.invalidate(Scope::Key(key), Hardness::Hard).await.unwrap();
    }

    /// Loses the token of `tag`, as a server does when memory is short.
    fn lose_token(&self, tag: &str) {
        if let Some(server) = &self.redis {
            let lost: u64 = server.command(&["DEL", &format!("test:t:{tag}")]);
            assert_eq!(lost, 1);
        }
        if let Some(memory) = &self.memory {
            memory.lose_token(tag);
        }
        if let Some(lose_token) = &self.lose_token {
            lose_token(tag);
        }
    }
}

async fn redis_store() -> (RedisStore, RedisServer) {
    let server = RedisServer::start();
    (connect(server.url(), "test").await, server)
}

async fn connect(url: String, prefix: &str) -> RedisStore {
    connect_with(RedisStore::builder(url).prefix(prefix).lurker_at_once()).await
}

async fn connect_with(builder: RedisStoreBuilder) -> RedisStore {
    // The machines that run tests pause for longer than a cache should wait.
    let builder = builder.operation_timeout(LEASE).connect_timeout(2 * LEASE);
    // It is read at once, even if the first attempt to connect failed.
    let store = builder.settle_time(Duration::ZERO).build().unwrap();
    assert!(store.wait_connected(2 * LEASE).await, "the server does not answer");
    store
}

/// The permissions that the documentation of [`RedisStore`] lists for its user, on one server and in a cluster.
const COMMANDS: &str = "+get +mget +set +getrange +setrange +scan +del +unlink +pexpire +pttl +evalsha +script|load +time \
                        +client|tracking +client|caching +hello +ping +info";
#[cfg(feature = "cluster")]
const CLUSTER_COMMANDS: &str = "+asking +cluster|slots +cluster|nodes +cluster|info";

fn restricted(server: RedisServerBuilder) -> RedisServerBuilder {
    server.config(&format!("user cache on >secret ~* resetchannels -@all {COMMANDS}"))
}

/// Panics if the server refused a command to a user. The driver's `CLIENT SETINFO` does not count: it is not needed.
fn refused_nothing(server: &RedisServer) {
    let log: Vec<HashMap<String, ::redis::Value>> = server.command(&["ACL", "LOG"]);
    let refused: Vec<String> =
        log.iter().map(|entry| ::redis::from_redis_value_ref(&entry["object"]).expect("a name")).collect();
    assert!(refused.iter().all(|command| command.starts_with("client|setinfo")), "{refused:?}");
}

/// Panics if the user has the permission for a command that was not used.
fn needs_all(server: &RedisServer) {
    let stats: String = server.command(&["INFO", "commandstats"]);
    for command in COMMANDS.split_whitespace().map(|command| &command[1..]) {
        // This command is only used for the status, outside of a cluster.
        let asked_for = command == "ping";
        assert!(asked_for || stats.contains(&format!("cmdstat_{command}:")), "{command} is not needed:\n{stats}");
    }
}

fn entry(key: &Key, payload: &str) -> Entry {
    let fresh = Clock::system().now() + 600_000;
    let deadlines = Deadlines { stale_while_revalidate: fresh + 60_000, ..Deadlines::fresh_until(fresh) };
    let deadlines = Deadlines { stale_if_error: fresh + 60_000, gone: fresh + 60_000, ..deadlines };
    Entry::new(
        EntryId::random(),
        key,
        deadlines,
        Bytes::from_static(b"meta"),
        Bytes::copy_from_slice(payload.as_bytes()),
    )
}

fn key(name: &str) -> Key {
    Key::new(["contract:", name])
}

/// Runs each test once for every store.
macro_rules! contract {
    ($($(#[$meta:meta])* async fn $name:ident($subject:ident) $body:block)+) => {
        mod memory {
            use super::*;
            $($(#[$meta])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { let $subject = Subject::memory(); $body })+
        }
        #[cfg(feature = "testing")]
        mod testing {
            use super::*;
            $($(#[$meta])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { let $subject = Subject::testing(); $body })+
        }
        mod tiered {
            use super::*;
            $($(#[$meta])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { let $subject = Subject::tiered().await; $body })+
        }
        mod redis {
            use super::*;
            $($(#[$meta])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { let $subject = Subject::redis().await; $body })+
        }
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn a_user_who_may_do_no_more_than_is_needed_keeps_all_of_it() {
            let server = Arc::new(restricted(RedisServer::builder()).start());
            $(
                println!("{}", stringify!($name));
                // A test that examines every key must not find those of earlier tests.
                server.command::<()>(&["FLUSHALL"]);
                let $subject = Subject::restricted(&server, stringify!($name)).await;
                Box::pin(async move { $body }).await;
            )+
            refused_nothing(&server);
            needs_all(&server);
        }
        #[cfg(feature = "sealed")]
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn a_sealed_store_keeps_all_of_it_but_patterns() {
            let server = Arc::new(RedisServer::start());
            $(
                // With hidden names, a pattern can't be matched.
                if !stringify!($name).contains("pattern") {
                    println!("{}", stringify!($name));
                    server.command::<()>(&["FLUSHALL"]);
                    let $subject = Subject::sealed(&server, stringify!($name)).await;
                    Box::pin(async move { $body }).await;
                }
            )+
        }
        // These take seconds to start: one for all tests.
        #[cfg(feature = "cluster")]
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn a_cluster_keeps_all_of_it() {
            let cluster = Arc::new(RedisCluster::start(3, 0));
            for node in cluster.primaries() {
                let commands = COMMANDS.split_whitespace().chain(CLUSTER_COMMANDS.split_whitespace());
                let user = ["ACL", "SETUSER", "cache", "on", ">secret", "~*", "resetchannels", "-@all"];
                let () = node.command(&user.into_iter().chain(commands).collect::<Vec<_>>());
            }
            $(
                println!("{}", stringify!($name));
                cluster.primaries().iter().for_each(|node| node.command(&["FLUSHALL"]));
                let $subject = Subject::cluster(&cluster, stringify!($name)).await;
                Box::pin(async move { $body }).await;
            )+
            cluster.primaries().iter().for_each(refused_nothing);
        }
        #[cfg(feature = "sentinel")]
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn a_primary_behind_sentinels_keeps_all_of_it() {
            let group = Arc::new(RedisSentinel::builder().patient().start());
            $(
                println!("{}", stringify!($name));
                group.primary().command::<()>(&["FLUSHALL"]);
                let $subject = Subject::sentinel(&group, stringify!($name)).await;
                Box::pin(async move { $body }).await;
            )+
        }
    };
}

contract! {
    async fn what_is_committed_is_read(subject) {
        subject.fill(&key("a"), "one", &["t"]).await;
        let Lookup::Found(found) = subject.store.get(&key("a")).await.unwrap() else { panic!("not found") };
        assert_eq!((&found.payload()[..], &found.meta()[..]), (&b"one"[..], &b"meta"[..]));
        assert!(found.is_of(&key("a")));
        assert!(matches!(subject.store.get(&key("b")).await.unwrap(), Lookup::Absent));
    }

    async fn a_variant_is_a_place_of_its_own(subject) {
        let german = key("a").variant(b"de");
        subject.fill(&key("a"), "primary", &[]).await;
        subject.fill(&german, "deutsch", &[]).await;
        assert_eq!(subject.read(&german).await.unwrap(), "deutsch");
        assert_eq!(subject.read(&key("a")).await.unwrap(), "primary");
        assert_eq!(subject.read(&key("a").variant(b"en")).await, None);
    }

    async fn one_holds_the_lease_at_a_time(subject) {
        let lease = subject.lease(&key("a")).await;
        let second = subject.store.acquire(&key("a"), Seen::Nothing, LEASE, Failures::Heed).await.unwrap();
        assert!(matches!(second, Acquired::Held), "{second:?}");
        subject.lease(&key("b")).await;
        subject.lease(&key("a").variant(b"de")).await;
        subject.store.release(&lease, None);
        wait_until("the lease to be free", async || {
            matches!(subject.store.acquire(&key("a"), Seen::Nothing, LEASE, Failures::Heed).await, Ok(Acquired::Granted(_)))
        })
        .await;
    }

    async fn what_a_load_has_superseded_goes_with_its_lease(subject) {
        subject.fill(&key("a"), "one", &[]).await;
        assert_eq!(subject.read(&key("a")).await.unwrap(), "one");
        let lease = subject.lease(&key("a")).await;
        subject.store.supersede(&lease).await.unwrap();
        assert_eq!(subject.read(&key("a")).await, None);
        assert_eq!(subject.commit(lease, "late", &[]).await, Committed::Refused);
        subject.fill(&key("a"), "two", &[]).await;
        assert_eq!(subject.read(&key("a")).await.unwrap(), "two");
    }

    async fn a_load_that_was_overtaken_supersedes_nothing(subject) {
        subject.fill(&key("a"), "one", &[]).await;
        let lease = subject.lease(&key("a")).await;
        subject.invalidate(&key("a")).await;
        subject.fill(&key("a"), "two", &[]).await;
        subject.store.supersede(&lease).await.unwrap();
        assert_eq!(subject.read(&key("a")).await.unwrap(), "two");
    }

    async fn who_ends_a_lease_may_load_and_what_is_there_stays(subject) {
        subject.fill(&key("a"), "one", &[]).await;
        let (overtaken, variant) = (subject.lease(&key("a")).await, subject.lease(&key("a").variant(b"de")).await);
        subject.store.end_lease(&key("a")).await.unwrap();
        assert!(subject.store.overtaken(&overtaken));
        assert_eq!(subject.read(&key("a")).await.unwrap(), "one");
        let Ok(Acquired::Granted(lease)) = subject.store.acquire(&key("a"), Seen::Unusable, LEASE, Failures::Heed).await
        else {
            panic!("it is free");
        };
        assert_eq!(subject.commit(overtaken, "late", &[]).await, Committed::Refused);
        assert_eq!(subject.commit(variant, "deutsch", &[]).await, Committed::Stored, "it has its own lease");
        assert_eq!(subject.commit(lease, "two", &[]).await, Committed::Stored);
        assert_eq!(subject.read(&key("a")).await.unwrap(), "two");
    }

    async fn who_ends_a_lease_that_nobody_holds_changes_nothing(subject) {
        subject.store.end_lease(&key("a")).await.unwrap();
        let lease = subject.lease(&key("a")).await;
        subject.store.fail(&lease, Failed { status: None, pause: LONG, remembered: LONG });
        let backs_off = async || {
            let acquired = subject.store.acquire(&key("a"), Seen::Unusable, LEASE, Failures::Heed).await;
            matches!(acquired, Ok(Acquired::BackOff { .. }))
        };
        wait_until("the failure is known", async || backs_off().await).await;
        subject.store.end_lease(&key("a")).await.unwrap();
        assert!(backs_off().await);
    }

    async fn a_lease_is_known_by_its_token_for_as_long_as_it_is_held(subject) {
        let (store, key) = (&subject.store, Key::new(["k"]));
        let lease = subject.lease(&key).await;
        let is_held = async |key: &Key, token| store.is_held_by(key, token).await.unwrap();
        assert!(is_held(&key, lease.token).await);
        assert!(!is_held(&key, Lease::random_token()).await && !is_held(&key.variant(b"v"), lease.token).await);
        let token = lease.token;
        assert_eq!(subject.commit(lease, "one", &[]).await, Committed::Stored);
        assert!(!is_held(&key, token).await);
        assert!(!is_held(&Key::new(["none"]), token).await);
    }

    async fn who_waits_for_a_lease_hears_of_its_end(subject) {
        let lease = subject.lease(&key("a")).await;
        let (store, waiting) = (subject.store.clone(), key("a"));
        let waiter = tokio::spawn(async move {
            loop {
                match store.acquire(&waiting, Seen::Nothing, LEASE, Failures::Heed).await.unwrap() {
                    Acquired::Held => store.lease_ended(&waiting).await,
                    other => break other,
                }
            }
        });
        assert_eq!(subject.commit(lease, "one", &[]).await, Committed::Stored);
        let ended = waiter.await.unwrap();
        assert!(matches!(ended, Acquired::Changed), "{ended:?}");
    }

    async fn a_fill_since_the_look_up_is_noticed(subject) {
        subject.fill(&key("a"), "one", &[]).await;
        let Lookup::Found(seen) = subject.store.get(&key("a")).await.unwrap() else { panic!("not found") };
        for seen in [Seen::Nothing, Seen::Entry(EntryId::random())] {
            let acquired = subject.store.acquire(&key("a"), seen, LEASE, Failures::Heed).await.unwrap();
            assert!(matches!(acquired, Acquired::Changed), "{acquired:?}");
        }
        let acquired = subject.store.acquire(&key("a"), Seen::Entry(seen.id()), LEASE, Failures::Heed).await.unwrap();
        assert!(matches!(acquired, Acquired::Granted(_)), "{acquired:?}");
    }

    async fn a_fill_since_the_look_up_of_what_was_invalidated_is_noticed(subject) {
        subject.fill(&key("a"), "one", &["t"]).await;
        subject.invalidate_tag("t").await;
        let look_up = async || match subject.store.get(&key("a")).await.unwrap() {
            Lookup::Rejected(Rejection::Tag, seen) => seen,
            other => panic!("not rejected: {other:?}"),
        };
        let seen = look_up().await;
        subject.fill(&key("a"), "two", &["t"]).await;
        let acquired = subject.store.acquire(&key("a"), seen, LEASE, Failures::Heed).await.unwrap();
        assert!(matches!(acquired, Acquired::Changed), "{acquired:?}");

        subject.invalidate_tag("t").await;
        let acquired = subject.store.acquire(&key("a"), look_up().await, LEASE, Failures::Heed).await.unwrap();
        assert!(matches!(acquired, Acquired::Granted(_)), "{acquired:?}");
    }

    async fn a_lease_is_renewed_only_while_it_is_held(subject) {
        let lease = subject.lease(&key("a")).await;
        assert!(subject.store.renew(&lease, LEASE).await.unwrap());
        subject.invalidate(&key("a")).await;
        assert!(!subject.store.renew(&lease, LEASE).await.unwrap());
    }

    async fn a_lease_is_overtaken_by_every_invalidation_that_may_cover_it(subject) {
        subject.fill(&key("other"), "x", &["t"]).await;
        for place in [key("a"), key("a").variant(b"de")] {
            for scope in [Scope::Key(&key("a")), Scope::Tags(&Tags::new(["t"])), Scope::Everything] {
                let lease = subject.lease(&place).await;
                assert!(!subject.store.overtaken(&lease), "{scope:?}");
                assert!(subject.store.renew(&lease, LEASE).await.unwrap());
                assert!(!subject.store.overtaken(&lease), "{scope:?}, after a renewal");
                subject.store.invalidate(scope, Hardness::Hard).await.unwrap();
                assert!(subject.store.overtaken(&lease), "{scope:?}");
                subject.store.renew(&lease, LEASE).await.unwrap();
                assert!(subject.store.overtaken(&lease), "{scope:?}, and a renewal changes nothing");
                subject.commit(lease, "void", &["t"]).await;
                // By then, this process has received every earlier push.
                subject.read(&place).await;
            }
        }
    }

    async fn a_lease_is_not_overtaken_by_what_happens_to_other_keys(subject) {
        subject.fill(&key("b"), "x", &[]).await;
        let lease = subject.lease(&key("a")).await;
        subject.invalidate(&key("b")).await;
        subject.fill(&key("b"), "y", &["t"]).await;
        let german = subject.lease(&key("a").variant(b"de")).await;
        assert_eq!(subject.commit(german, "z", &[]).await, Committed::Stored);
        assert!(!subject.store.overtaken(&lease));
        assert_eq!(subject.commit(lease, "x", &[]).await, Committed::Stored);
    }

    async fn after_a_failure_everybody_is_told_to_hold_off(subject) {
        let lease = subject.lease(&key("a")).await;
        subject.fail(&lease, Duration::from_secs(60)).await;
        let acquired = subject.store.acquire(&key("a"), Seen::Unusable, LEASE, Failures::Heed).await.unwrap();
        let Acquired::BackOff { remaining, status: Some(503) } = acquired else { panic!("{acquired:?}") };
        assert!((Duration::from_secs(30)..=Duration::from_secs(60)).contains(&remaining), "{remaining:?}");
        let acquired = subject.store.acquire(&key("a"), Seen::Unusable, LEASE, Failures::Ignore).await.unwrap();
        let Acquired::Granted(lease) = acquired else { panic!("{acquired:?}") };
        assert_eq!(lease.failures, 1);
        let other = subject.store.acquire(&key("a"), Seen::Unusable, LEASE, Failures::Ignore).await.unwrap();
        assert!(matches!(other, Acquired::Held), "it is a lease like any other: {other:?}");
        assert_eq!(subject.commit(lease, "one", &[]).await, Committed::Stored);
        assert_eq!(subject.lease(&key("a")).await.failures, 0, "a success ends it");
    }

    async fn failures_in_a_row_are_counted_beyond_their_pauses(subject) {
        for before in 0..3 {
            let mut lease = None;
            wait_until("the pause to be over", async || {
                lease = match subject.store.acquire(&key("a"), Seen::Unusable, LEASE, Failures::Heed).await.unwrap() {
                    Acquired::Granted(lease) => Some(lease),
                    _ => None,
                };
                lease.is_some()
            })
            .await;
            let lease = lease.unwrap();
            assert_eq!(lease.failures, before);
            subject.store.fail(&lease, Failed { status: None, pause: Duration::from_millis(30), remembered: LEASE });
        }
    }

    async fn an_invalidation_of_the_key_ends_its_back_off(subject) {
        for overtaken in [false, true] {
            let lease = subject.lease(&key("a")).await;
            if overtaken {
                subject.invalidate(&key("a")).await;
            }
            subject.store.fail(&lease, Failed { status: None, pause: LEASE, remembered: LEASE });
            if !overtaken {
                wait_until("the failure to be known", async || {
                    let acquired = subject.store.acquire(&key("a"), Seen::Unusable, LEASE, Failures::Heed).await;
                    matches!(acquired, Ok(Acquired::BackOff { status: None, .. }))
                })
                .await;
                subject.invalidate(&key("a")).await;
            }
            let lease = subject.lease(&key("a")).await;
            assert_eq!(lease.failures, 0);
            assert_eq!(subject.commit(lease, "x", &[]).await, Committed::Stored);
        }
    }

    async fn many_are_written_and_read_at_once_and_voided_by_their_tag(subject) {
        let keys: Vec<Key> = (0..20).map(|number| key(&format!("many {number}"))).collect();
        let read = async || {
            let found = subject.store.get_many(&keys).await;
            let payload = |entry: Entry| String::from_utf8(entry.payload().to_vec()).unwrap();
            let text = |lookup| if let Lookup::Found(entry) = lookup { payload(entry) } else { String::new() };
            found.into_iter().map(|lookup| text(lookup.unwrap())).collect::<Vec<_>>()
        };
        let loaded = subject.lease(&keys[7]).await;
        for round in ["one", "two"] {
            let payloads: Vec<String> = (0..keys.len()).map(|number| format!("{round} {number}")).collect();
            let entries = keys.iter().zip(&payloads).map(|(key, payload)| (key.clone(), entry(key, payload))).collect();
            subject.store.put(entries, &Tags::new(["many"])).await.unwrap();
            assert_eq!(read().await, payloads);
            subject.invalidate_tag("many").await;
            assert_eq!(read().await, vec![""; keys.len()]);
        }
        assert_eq!(subject.commit(loaded, "older than what was put", &[]).await, Committed::Refused);
    }

    async fn invalidation_of_the_key_during_a_load_wins(subject) {
        let lease = subject.lease(&key("a")).await;
        subject.invalidate(&key("a")).await;
        assert_eq!(subject.commit(lease, "old", &[]).await, Committed::Refused);
        assert_eq!(subject.read(&key("a")).await, None);
        subject.fill(&key("a"), "new", &[]).await;
        assert_eq!(subject.read(&key("a")).await.unwrap(), "new");
    }

    async fn invalidation_of_a_tag_during_a_load_wins(subject) {
        for tag in ["never seen", "known"] {
            subject.fill(&key("other"), "x", &["known"]).await;
            let lease = subject.lease(&key("a")).await;
            subject.invalidate_tag(tag).await;
            assert_eq!(subject.commit(lease, "old", &[tag]).await, Committed::Refused, "{tag}");
            assert_eq!(subject.read(&key("a")).await, None, "{tag}");
        }
    }

    async fn invalidation_of_everything_during_a_load_wins(subject) {
        let lease = subject.lease(&key("a")).await;
        subject.store.invalidate(Scope::Everything, Hardness::Hard).await.unwrap();
        assert_eq!(subject.commit(lease, "old", &[]).await, Committed::Refused);
        assert_eq!(subject.read(&key("a")).await, None);
    }

    async fn invalidation_of_a_forgotten_tag_during_a_load_wins(subject) {
        subject.fill(&key("other"), "x", &["t"]).await;
        let lease = subject.lease(&key("a")).await;
        subject.invalidate_tag("t").await;
        subject.lose_token("t");
        assert_eq!(subject.commit(lease, "old", &["t"]).await, Committed::Refused);
        // So does a soft one.
        subject.fill(&key("other"), "x", &["t"]).await;
        let lease = subject.lease(&key("b")).await;
        subject.soften("tag", "", "t").await;
        subject.lose_token("t");
        assert_eq!(subject.commit(lease, "old", &["t"]).await, Committed::Refused);
    }

    async fn invalidation_of_a_tag_forgotten_and_brought_back_wins(subject) {
        subject.fill(&key("other"), "x", &["t"]).await;
        let lease = subject.lease(&key("a")).await;
        subject.invalidate_tag("t").await;
        subject.lose_token("t");
        subject.fill(&key("b"), "b", &["t"]).await;
        assert_eq!(subject.commit(lease, "old", &["t"]).await, Committed::Refused);
        assert_eq!(subject.read(&key("b")).await.unwrap(), "b");
    }

    async fn invalidation_of_the_key_voids_a_variants_load(subject) {
        let varies = entry(&key("a"), "varies");
        let lease = subject.lease(&key("a")).await;
        let writes = Writes { entries: vec![(key("a"), varies.clone())].into(), guard: None };
        assert_eq!(subject.commit_writes(lease, writes, &[]).await, Committed::Stored);

        let german = key("a").variant(b"de");
        let lease = subject.lease(&german).await;
        subject.invalidate(&key("a")).await;
        let writes = Writes {
            entries: vec![(key("a"), varies.clone()), (german.clone(), entry(&german, "alt"))].into(),
            guard: Some((key("a"), varies.version()).into()),
        };
        assert_eq!(subject.commit_writes(lease, writes, &[]).await, Committed::Refused);
        assert_eq!(subject.read(&key("a")).await, None);
    }

    async fn a_fill_under_a_guard_that_holds_is_stored_whole(subject) {
        let varies = entry(&key("a"), "varies");
        let lease = subject.lease(&key("a")).await;
        let writes = Writes { entries: vec![(key("a"), varies.clone())].into(), guard: None };
        assert_eq!(subject.commit_writes(lease, writes, &[]).await, Committed::Stored);

        let german = key("a").variant(b"de");
        let lease = subject.lease(&german).await;
        let writes = Writes {
            entries: vec![(key("a"), varies.clone()), (german.clone(), entry(&german, "deutsch"))].into(),
            guard: Some((key("a"), varies.version()).into()),
        };
        assert_eq!(subject.commit_writes(lease, writes, &[]).await, Committed::Stored);
        assert_eq!(subject.read(&german).await.unwrap(), "deutsch");
        assert_eq!(subject.read(&key("a")).await.unwrap(), "varies");
    }

    /// Loads at one time have each seen the index as it was before.
    async fn an_index_lasts_as_long_as_any_of_its_variants(subject) {
        let (english, german) = (key("a").variant(b"en"), key("a").variant(b"de"));
        let lasting = |id, key: &Key, made, millis| {
            let deadlines = Deadlines { made, ..Deadlines::fresh_until(made + millis) };
            Entry::new(id, key, deadlines, Bytes::new(), Bytes::from_static(b"x"))
        };
        let writes = |id, variant: &Key, made, millis| {
            let of_variant = lasting(EntryId::random(), variant, made, millis);
            vec![(key("a"), lasting(id, &key("a"), made, millis)), (variant.clone(), of_variant)]
        };
        let (id, now) = (EntryId::random(), Clock::system().now());
        let lease = subject.lease(&key("a")).await;
        let index = Writes { entries: writes(id, &english, now, 600_000).into(), guard: None };
        assert_eq!(subject.commit_writes(lease, index, &[]).await, Committed::Stored);
        // The second one is from a process whose clock is ahead.
        for (made, gone) in [(now, now + 600_000), (now + 3_600_000, now + 3_601_500)] {
            let lease = subject.lease(&german).await;
            let version = subject.found(&key("a")).await.unwrap().version();
            let writes = Writes { entries: writes(id, &german, made, 1_500).into(), guard: Some(Box::new((key("a"), version))) };
            assert_eq!(subject.commit_writes(lease, writes, &[]).await, Committed::Stored);
            assert_eq!(subject.found(&key("a")).await.unwrap().deadlines().gone, gone);
        }
        sleep(Duration::from_millis(2_500)).await;
        assert!(subject.read(&key("a")).await.is_some() && subject.read(&english).await.is_some());
        // A new index is not an old one's heir.
        let lease = subject.lease(&key("a")).await;
        let another = Writes { entries: writes(EntryId::random(), &german, now, 300_000).into(), guard: None };
        assert_eq!(subject.commit_writes(lease, another, &[]).await, Committed::Stored);
        assert_eq!(subject.found(&key("a")).await.unwrap().deadlines().gone, now + 300_000);
        // Its moments may be of several clocks; it lasts as long as what is written with it.
        let lease = subject.lease(&key("a")).await;
        let index = (key("a"), lasting(EntryId::random(), &key("a"), now + 3_600_000, 1_000));
        let of_variant = (german.clone(), lasting(EntryId::random(), &german, now, 600_000));
        let ahead = Writes { entries: vec![index, of_variant].into(), guard: None };
        assert_eq!(subject.commit_writes(lease, ahead, &[]).await, Committed::Stored);
        sleep(Duration::from_millis(1_500)).await;
        assert!(subject.read(&key("a")).await.is_some() && subject.read(&german).await.is_some());
    }

    async fn a_late_leader_does_not_overwrite_a_later_load(subject) {
        let late = subject.lease(&key("a")).await;
        subject.invalidate(&key("a")).await;
        subject.fill(&key("a"), "new", &[]).await;
        assert_eq!(subject.commit(late, "old", &[]).await, Committed::Refused);
        assert_eq!(subject.read(&key("a")).await.unwrap(), "new");
    }

    async fn a_lease_is_good_for_one_commit(subject) {
        let lease = subject.lease(&key("a")).await;
        assert_eq!(subject.commit(lease.clone(), "one", &[]).await, Committed::Stored);
        assert_eq!(subject.commit(lease, "two", &[]).await, Committed::Refused);
    }

    async fn an_invalidated_tag_voids_its_entries_and_no_others(subject) {
        subject.fill(&key("a"), "a", &["red", "round"]).await;
        subject.fill(&key("b"), "b", &["red"]).await;
        subject.fill(&key("c"), "c", &["blue"]).await;
        subject.invalidate_tag("round").await;
        assert!(matches!(subject.store.get(&key("a")).await.unwrap(), Lookup::Rejected(Rejection::Tag, _)));
        assert_eq!(subject.read(&key("b")).await.unwrap(), "b");
        subject.invalidate_tag("red").await;
        assert_eq!(subject.read(&key("b")).await, None);
        assert_eq!(subject.read(&key("c")).await.unwrap(), "c");
        subject.fill(&key("a"), "a2", &["red", "round"]).await;
        assert_eq!(subject.read(&key("a")).await.unwrap(), "a2");
    }

    async fn everything_is_voided_at_once(subject) {
        subject.fill(&key("a"), "a", &["t"]).await;
        subject.fill(&key("b"), "b", &[]).await;
        subject.store.invalidate(Scope::Everything, Hardness::Hard).await.unwrap();
        assert_eq!((subject.read(&key("a")).await, subject.read(&key("b")).await), (None, None));
        subject.fill(&key("a"), "a2", &["t"]).await;
        assert_eq!(subject.read(&key("a")).await.unwrap(), "a2");
    }

    async fn loads_that_share_a_new_tag_do_not_void_each_other(subject) {
        let first = subject.lease(&key("a")).await;
        let second = subject.lease(&key("b")).await;
        assert_eq!(subject.commit(first, "a", &["new"]).await, Committed::Stored);
        assert_eq!(subject.commit(second, "b", &["new"]).await, Committed::Stored);
        assert_eq!(subject.read(&key("a")).await.unwrap(), "a");
        assert_eq!(subject.read(&key("b")).await.unwrap(), "b");
    }

    async fn an_entry_that_is_gone_is_not_stored(subject) {
        let lease = subject.lease(&key("a")).await;
        let deadlines = Deadlines::fresh_until(Clock::system().now() - 60_000);
        let gone = Entry::new(EntryId::random(), &key("a"), deadlines, Bytes::new(), Bytes::new());
        let writes = Writes { entries: vec![(key("a"), gone)].into(), guard: None };
        subject.commit_writes(lease, writes, &[]).await;
        assert_eq!(subject.read(&key("a")).await, None);
    }

    async fn a_soft_invalidation_makes_stale_at_once_and_keeps_the_entry(subject) {
        for scope in ["key", "tag", "everything"] {
            subject.fill(&key("a"), "one", &["t"]).await;
            subject.fill(&key("b"), "b", &["other"]).await;
            let made = subject.found(&key("a")).await.unwrap();
            subject.soften(scope, "a", "t").await;
            let soft = subject.found(&key("a")).await.unwrap();
            let now = Clock::system().now();
            assert!(soft.deadlines().fresh <= now && made.deadlines().fresh > now, "{scope}");
            let window = |entry: &Entry| entry.deadlines().stale_while_revalidate - entry.deadlines().fresh;
            assert_eq!(window(&soft), window(&made), "{scope}");
            assert_eq!((soft.id(), soft.payload(), soft.meta()), (made.id(), made.payload(), made.meta()), "{scope}");
            let others = if scope == "everything" { State::Stale } else { State::Fresh };
            assert_eq!(subject.state(&key("b")).await, others, "{scope}");
            // A reader that saw the stale entry may load it again, and the new one is fresh.
            let acquired = subject.store.acquire(&key("a"), Seen::Entry(soft.id()), LEASE, Failures::Heed).await.unwrap();
            let Acquired::Granted(lease) = acquired else { panic!("{scope}: {acquired:?}") };
            assert_eq!(subject.commit(lease, "two", &["t"]).await, Committed::Stored, "{scope}");
            assert_eq!(subject.state(&key("a")).await, State::Fresh, "{scope}");
        }
    }

    async fn a_soft_invalidation_during_a_load_wins(subject) {
        for scope in ["key", "tag", "everything"] {
            subject.fill(&key("a"), "old", &["t"]).await;
            let lease = subject.lease(&key("a")).await;
            subject.soften(scope, "a", "t").await;
            assert_eq!(subject.commit(lease, "old", &["t"]).await, Committed::Refused, "{scope}");
            assert_eq!(subject.state(&key("a")).await, State::Stale, "{scope}");
        }
    }

    async fn a_ramp_makes_each_key_stale_in_its_turn_within_its_window(subject) {
        let names: Vec<String> = (0..60).map(|number| format!("many {number}")).collect();
        for &scope in subject.scopes {
            let mut turns = Vec::new();
            for name in &names {
                subject.fill(&key(name), "one", &["t"]).await;
            }
            subject.fill(&key("other"), "b", &["other"]).await;
            let made = subject.fresh_until(&key(&names[0])).await;
            let before = Clock::system().now();
            for name in &names[..if scope == "key" { names.len() } else { 1 }] {
                let name = if scope == "pattern" { "many" } else { name.as_str() };
                subject.soften_over(WINDOW, scope, name, "t").await;
            }
            let window = before - 1_000..=Clock::system().now() + WINDOW.as_millis() as u64;
            for name in &names {
                let turn = subject.fresh_until(&key(name)).await;
                assert!(window.contains(&turn), "{scope}: {turn} in {window:?}");
                turns.push(turn - window.start());
            }
            let early = turns.iter().filter(|turn| **turn < WINDOW.as_millis() as u64 / 2).count();
            assert!((10..=50).contains(&early), "{scope}: {turns:?}");
            assert_eq!(subject.fresh_until(&key("other")).await >= made, scope != "everything", "{scope}");
            // A later entry is not covered, whenever its turn is.
            subject.fill(&key(&names[0]), "two", &["t"]).await;
            assert!(subject.fresh_until(&key(&names[0])).await >= made, "{scope}");
        }
    }

    async fn once_a_ramp_is_over_all_that_it_covers_is_stale(subject) {
        for &scope in subject.scopes {
            subject.fill(&key("a"), "one", &["t"]).await;
            let made = subject.found(&key("a")).await.unwrap();
            subject.soften_over(Duration::from_millis(20), scope, "a", "t").await;
            wait_until("it is stale", async || subject.state(&key("a")).await == State::Stale).await;
            let soft = subject.found(&key("a")).await.unwrap();
            assert!(soft.is_soft_invalidated() && soft.id() == made.id(), "{scope}");
            let window = |entry: &Entry| entry.deadlines().stale_while_revalidate - entry.deadlines().fresh;
            assert_eq!(window(&soft), window(&made), "{scope}");
        }
    }

    async fn a_ramp_during_a_load_wins_whenever_the_turn_is(subject) {
        for &scope in subject.scopes {
            subject.fill(&key("a"), "old", &["t"]).await;
            let lease = subject.lease(&key("a")).await;
            subject.soften_over(LONG, scope, "a", "t").await;
            assert_eq!(subject.commit(lease, "old", &["t"]).await, Committed::Refused, "{scope}");
            assert_eq!(subject.state(&key("a")).await, State::Fresh, "{scope}: its turn is to come");
        }
    }

    async fn of_ramps_that_overlap_the_earliest_turn_counts(subject) {
        for &scope in subject.scopes {
            for name in ["early", "late"] {
                subject.fill(&key(name), "one", &["t"]).await;
            }
            let made = subject.fresh_until(&key("late")).await;
            let both = async |window| {
                for name in if scope == "key" || scope == "pattern" { &["early", "late"][..] } else { &["all"][..] } {
                    subject.soften_over(window, scope, name, "t").await;
                }
            };
            both(WINDOW).await;
            let first = subject.fresh_until(&key("early")).await;
            subject.fill(&key("late"), "two", &["t"]).await;
            assert!(subject.fresh_until(&key("late")).await >= made, "{scope}");
            both(WINDOW).await;
            let second = subject.fresh_until(&key("early")).await;
            // A key's mark is a second earlier, so that it differs.
            assert!((first - 1_000..=first).contains(&second), "{scope}: {first} {second}");
            assert!(subject.fresh_until(&key("late")).await < made, "{scope}");
            both(LONG).await;
            let third = subject.fresh_until(&key("early")).await;
            assert!((second - 1_000..=second).contains(&third), "{scope}: a longer one moves no turn back");
            // An invalidation at once ends both.
            both(Duration::ZERO).await;
            assert_eq!(subject.state(&key("early")).await, State::Stale, "{scope}");
            // A ramp makes no stale entry fresh.
            both(LONG).await;
            assert_eq!(subject.state(&key("early")).await, State::Stale, "{scope}");
        }
    }

    async fn after_a_ramp_a_lost_token_voids_what_carried_it(subject) {
        subject.fill(&key("a"), "one", &["t"]).await;
        subject.soften_over(LONG, "tag", "a", "t").await;
        assert_eq!(subject.state(&key("a")).await, State::Fresh);
        subject.lose_token("t");
        // All pushes before this reply have been received.
        subject.store.get(&key("nothing")).await.unwrap();
        assert_eq!(subject.state(&key("a")).await, State::Void);
        subject.soften_over(LONG, "tag", "a", "t").await;
        assert_eq!(subject.state(&key("a")).await, State::Void, "what is void stays void");
    }

    async fn a_ramp_of_a_key_makes_its_variants_stale_with_it(subject) {
        let (varies, german) = (entry(&key("a"), "varies"), key("a").variant(b"de"));
        let lease = subject.lease(&key("a")).await;
        let writes = Writes {
            entries: vec![(key("a"), varies.clone()), (german.clone(), entry(&german, "alt"))].into(),
            guard: None,
        };
        assert_eq!(subject.commit_writes(lease, writes, &["t"]).await, Committed::Stored);
        for scope in ["tag", "everything"] {
            subject.soften_over(WINDOW, scope, "a", "t").await;
            let turn = subject.fresh_until(&key("a")).await;
            assert_eq!(subject.fresh_until(&german).await, turn, "{scope}");
        }
        // A load of a variant that began before is refused because of the mark of its primary entry.
        let version = subject.found(&key("a")).await.unwrap().version();
        let lease = subject.lease(&german).await;
        subject.soften_over(LONG, "key", "a", "").await;
        let writes =
            Writes { entries: vec![(german.clone(), entry(&german, "alt"))].into(), guard: Some((key("a"), version).into()) };
        assert_eq!(subject.commit_writes(lease, writes, &["t"]).await, Committed::Refused);
    }

    async fn a_soft_invalidation_of_the_key_voids_a_variants_load(subject) {
        let varies = entry(&key("a"), "varies");
        let lease = subject.lease(&key("a")).await;
        let writes = Writes { entries: vec![(key("a"), varies.clone())].into(), guard: None };
        assert_eq!(subject.commit_writes(lease, writes, &[]).await, Committed::Stored);

        let german = key("a").variant(b"de");
        let mut version = varies.version();
        for _ in 0..3 {
            let lease = subject.lease(&german).await;
            subject.soften("key", "a", "").await;
            let writes = Writes {
                entries: vec![(key("a"), varies.clone()), (german.clone(), entry(&german, "alt"))].into(),
                guard: Some((key("a"), version).into()),
            };
            assert_eq!(subject.commit_writes(lease, writes, &[]).await, Committed::Refused);
            let softened = subject.found(&key("a")).await.unwrap().version();
            assert!(softened != version && softened.id == version.id, "{softened:?} after {version:?}");
            version = softened;
        }
    }

    async fn hard_and_soft_invalidations_make_what_the_model_says(subject) {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        Algebra::new(&subject, seed).run().await;
    }

    async fn a_pattern_deletes_what_matches_and_counts_keys(subject) {
        let lists = |n: u32| Key::new(["products:", "list:", &n.to_string()]);
        let detail = Key::new(["products:", "detail:", "1"]);
        for n in 0..30 {
            subject.fill(&lists(n), "list", &["t"]).await;
        }
        subject.fill(&lists(3).variant(b"de"), "liste", &[]).await;
        subject.fill(&detail, "detail", &[]).await;
        assert_eq!(subject.delete("products:list:[12]?").await, 20);
        assert_eq!((subject.read(&lists(9)).await.is_some(), subject.read(&lists(10)).await), (true, None));
        assert_eq!(subject.delete("products:list:*").await, 10);
        assert_eq!((subject.read(&lists(3)).await, subject.read(&lists(3).variant(b"de")).await), (None, None));
        assert_eq!(subject.read(&detail).await.unwrap(), "detail");
        assert_eq!(subject.delete("products:list:*").await, 0);
        assert_eq!(subject.delete("*").await, 1);
    }

    async fn a_pattern_tells_long_keys_apart(subject) {
        let long = |end: &str| Key::new([&"x".repeat(300), end]);
        subject.fill(&long("one"), "1", &[]).await;
        subject.fill(&long("two"), "2", &[]).await;
        assert_eq!(subject.delete("x*xone").await, 1);
        assert_eq!((subject.read(&long("one")).await, subject.read(&long("two")).await.unwrap()), (None, "2".into()));
        assert_eq!(subject.delete(&format!("{}tw?", "x".repeat(300))).await, 1);
    }

    async fn a_pattern_voids_loads_of_what_matches(subject) {
        let lease = subject.lease(&key("a")).await;
        let other = subject.lease(&key("b")).await;
        assert_eq!(subject.delete("contract:a*").await, 0);
        assert_eq!(subject.commit(lease, "old", &[]).await, Committed::Refused);
        assert_eq!(subject.commit(other, "b", &[]).await, Committed::Stored);
        subject.fill(&key("a"), "new", &[]).await;
        assert_eq!(subject.read(&key("a")).await.unwrap(), "new");
    }

    async fn what_a_pattern_voids_is_void_before_and_after_it_is_swept(subject) {
        let list = |n: u32| Key::new(["products:", "list:", &n.to_string()]);
        let (detail, long) = (Key::new(["products:", "detail:", "1"]), Key::new(["products:list:", &"x".repeat(300), "!"]));
        for key in (0..30).map(list).chain([list(3).variant(b"de"), detail.clone(), long.clone()]) {
            subject.fill(&key, "old", &["t"]).await;
        }
        // Once it is swept, there is no entry of which to say so.
        wait_until("why it is void to be said", async || {
            subject.fill(&list(0), "old", &["t"]).await;
            subject.ban("products:list:*[^!]").await;
            matches!(subject.store.look(&list(0)).await, Ok(Lookup::Rejected(Rejection::Pattern, _)))
        })
        .await;
        let void = async |key: &Key| subject.read(key).await.is_none();
        for key in (0..30).map(list).chain([list(3).variant(b"de")]) {
            assert!(void(&key).await, "{key:?}");
        }
        assert!(!void(&detail).await && !void(&long).await);
        // A later entry stays, whatever is swept.
        for key in [list(1), list(3).variant(b"de")] {
            subject.fill(&key, "new", &["t"]).await;
        }
        subject.swept().await;
        for key in (0..30).map(list) {
            let found = subject.read(&key).await;
            assert_eq!(found.as_deref(), (key == list(1)).then_some("new"), "{key:?}");
        }
        assert_eq!(subject.read(&list(3).variant(b"de")).await.as_deref(), Some("new"));
        assert!(!void(&detail).await && !void(&long).await);
        subject.ban("*!").await;
        assert!(void(&long).await && !void(&detail).await);
        subject.swept().await;
        assert!(void(&long).await && !void(&detail).await);
    }

    async fn a_pattern_that_is_said_voids_loads_of_what_matches(subject) {
        subject.fill(&key("sink"), "x", &[]).await;
        let (lease, other) = (subject.lease(&key("a")).await, subject.lease(&key("b")).await);
        subject.ban("contract:a*").await;
        // No request joins a load that began before.
        assert!(subject.store.overtaken(&lease));
        assert_eq!(subject.commit(lease, "old", &[]).await, Committed::Refused);
        assert_eq!(subject.commit(other, "b", &[]).await, Committed::Stored);
        subject.fill(&key("a"), "new", &[]).await;
        assert_eq!(subject.read(&key("a")).await.as_deref(), Some("new"));
    }

    async fn no_load_slips_through_a_pattern_that_is_said_and_swept(subject) {
        subject.fill_up().await;
        let old = |n: u32| Key::new(["old:", &n.to_string()]);
        let mut leases = Vec::new();
        for n in 0..300 {
            leases.push(subject.lease(&old(n)).await);
        }
        let late = leases.split_off(200);
        let banning = async {
            subject.ban("old:*").await;
            subject.swept().await;
        };
        let loading = async {
            for lease in leases {
                subject.commit(lease, "old", &[]).await;
            }
        };
        tokio::join!(loading, banning);
        // Their leases were taken by the sweep.
        for lease in late {
            subject.commit(lease, "old", &[]).await;
        }
        for n in 0..300 {
            assert_eq!(subject.read(&old(n)).await, None, "{n}");
        }
    }

    async fn what_is_put_after_a_pattern_was_said_is_not_covered_by_it(subject) {
        subject.fill(&key("a"), "old", &[]).await;
        subject.ban("contract:*").await;
        subject.store.put(vec![(key("a"), entry(&key("a"), "new"))], &Tags::new(["t"])).await.unwrap();
        assert_eq!(subject.read(&key("a")).await.as_deref(), Some("new"));
        subject.ban("contract:*").await;
        assert_eq!(subject.read(&key("a")).await, None);
        subject.swept().await;
        assert_eq!(subject.read(&key("a")).await, None);
    }

    async fn a_soft_pattern_makes_stale_before_and_after_it_is_swept(subject) {
        for name in ["a", "ab", "b", "c"] {
            subject.fill(&key(name), "one", &["t"]).await;
        }
        subject.soften("pattern", "a", "").await;
        subject.soften_over(LONG, "pattern", "c", "").await;
        let made = subject.found(&key("a")).await.unwrap();
        let turn = subject.fresh_until(&key("c")).await;
        for _ in 0..2 {
            for (name, state) in [("a", State::Stale), ("ab", State::Stale), ("b", State::Fresh), ("c", State::Fresh)] {
                assert_eq!(subject.state(&key(name)).await, state, "{name}");
            }
            let soft = subject.found(&key("a")).await.unwrap();
            assert!(soft.deadlines().stale_if_error > Clock::system().now(), "it may be used where a stale one may");
            assert_eq!(soft.id(), made.id());
            assert_eq!(subject.fresh_until(&key("c")).await, turn, "sweeping moves no turn");
            subject.swept().await;
        }
        subject.fill(&key("a"), "two", &["t"]).await;
        assert_eq!(subject.state(&key("a")).await, State::Fresh);
    }

    async fn one_pattern_more_than_there_is_room_for_is_swept_at_once(subject) {
        let place = |n: usize| Key::new(["full:", &n.to_string()]);
        for n in 0..140 {
            subject.fill(&place(n), "old", &[]).await;
        }
        subject.fill(&key("other"), "other", &[]).await;
        for n in 0..140 {
            subject.ban(&format!("full:{n}")).await;
            assert_eq!(subject.read(&place(n)).await, None, "{n}");
        }
        subject.ban(&format!("full:*{}", "*".repeat(1_100))).await;
        subject.swept().await;
        for n in 0..140 {
            assert_eq!(subject.read(&place(n)).await, None, "{n}");
        }
        assert_eq!(subject.read(&key("other")).await.as_deref(), Some("other"), "nothing else is gone");
    }

    async fn a_soft_everything_leaves_void_what_a_pattern_voided(subject) {
        subject.fill(&key("a"), "a", &[]).await;
        subject.fill(&key("b"), "b", &[]).await;
        subject.fill(&key("c"), "c", &[]).await;
        subject.ban("contract:a").await;
        subject.soften("everything", "", "").await;
        assert_eq!((subject.state(&key("a")).await, subject.state(&key("b")).await), (State::Void, State::Stale));
        subject.soften_over(LONG, "everything", "", "").await;
        subject.ban("contract:b").await;
        assert_eq!(subject.state(&key("b")).await, State::Void);
        subject.swept().await;
        assert_eq!((subject.state(&key("a")).await, subject.state(&key("b")).await), (State::Void, State::Void));
        assert_eq!(subject.state(&key("c")).await, State::Stale, "that no pattern is left changes nothing");
    }

    async fn no_load_slips_through_a_pattern(subject) {
        subject.fill_up().await;
        let mut leases = Vec::new();
        for n in 0..300 {
            leases.push(subject.lease(&Key::new(["old:", &n.to_string()])).await);
        }
        let subject = Arc::new(subject);
        let deleting = subject.clone();
        let deleting = tokio::spawn(async move { deleting.delete("old:*").await });
        for lease in leases {
            // Its entry is older than the call: void, or deleted.
            subject.commit(lease, "old", &[]).await;
        }
        deleting.await.unwrap();
        for n in 0..300 {
            assert_eq!(subject.read(&Key::new(["old:", &n.to_string()])).await, None, "{n}");
        }
    }

    async fn what_is_remembered_as_uncacheable_is_forgotten_with_its_key(subject) {
        let lease = subject.lease(&key("a")).await;
        subject.store.release(&lease, Some(Duration::from_secs(60)));
        let acquire = async || subject.store.acquire(&key("a"), Seen::Nothing, LEASE, Failures::Heed).await.unwrap();
        wait_until("it to be remembered", async || matches!(acquire().await, Acquired::Uncacheable)).await;
        subject.invalidate(&key("a")).await;
        let acquired = acquire().await;
        assert!(matches!(acquired, Acquired::Granted(_)), "{acquired:?}");
    }

    async fn nobody_reads_what_an_invalidation_that_returned_covers(subject) {
        Schedules { subject: Arc::new(subject), keys: Arc::default() }.run().await;
    }
}

/// Writers, loaders and readers at random: no read that began after an invalidation returned sees an older entry.
struct Schedules {
    subject: Arc<Subject>,
    keys: Arc<[Truth; 4]>,
}

/// The source of a key's entry.
#[derive(Default)]
struct Truth {
    version: AtomicU64,
    /// The lowest versions that readers may see from now on: as fresh, and at all.
    fresh_floor: AtomicU64,
    floor: AtomicU64,
}

impl Schedules {
    const ROUNDS: usize = 1_500;

    async fn run(self) {
        let (subject, keys) = (self.subject, self.keys);
        let mut tasks = tokio::task::JoinSet::new();
        for worker in 0..6 {
            let (subject, keys) = (subject.clone(), keys.clone());
            tasks.spawn(async move {
                for _ in 0..Self::ROUNDS {
                    let index = fastrand::usize(..keys.len());
                    let (key, tag, truth) = (key(&index.to_string()), format!("tag {index}"), &keys[index]);
                    let pattern = Pattern::new(&format!("*:{index}"));
                    match worker {
                        0 => {
                            let version = truth.version.fetch_add(1, Ordering::SeqCst) + 1;
                            let tags = Tags::new([&tag]);
                            let soft = match fastrand::u8(..12) {
                                0 => subject.store.invalidate(Scope::Everything, Hardness::Hard).await.map(|_| false),
                                1..4 => subject.store.invalidate(Scope::Key(&key), Hardness::Hard).await.map(|_| false),
                                4..7 => {
                                    subject.store.invalidate(Scope::Tags(&tags), Hardness::Hard).await.map(|_| false)
                                }
                                7 if fastrand::bool() => subject.store.delete_matching(&pattern).await.map(|_| false),
                                7 => {
                                    let scope = Scope::Pattern(&pattern);
                                    let soft = fastrand::u8(..3) == 0;
                                    let hardness = if soft { Hardness::Soft } else { Hardness::Hard };
                                    subject.store.invalidate(scope, hardness).await.map(|_| soft)
                                }
                                8 => subject.store.invalidate(Scope::Everything, Hardness::Soft).await.map(|_| true),
                                9 => subject.store.invalidate(Scope::Key(&key), Hardness::Soft).await.map(|_| true),
                                _ => subject.store.invalidate(Scope::Tags(&tags), Hardness::Soft).await.map(|_| true),
                            };
                            truth.fresh_floor.fetch_max(version, Ordering::SeqCst);
                            if !soft.unwrap() {
                                truth.floor.fetch_max(version, Ordering::SeqCst);
                            }
                        }
                        1..4 => {
                            let acquired =
                                subject.store.acquire(&key, Seen::Unusable, LEASE, Failures::Heed).await.unwrap();
                            let Acquired::Granted(lease) = acquired else { continue };
                            let version = truth.version.load(Ordering::SeqCst);
                            for _ in 0..fastrand::u8(..4) {
                                tokio::task::yield_now().await;
                            }
                            subject.commit(lease, &version.to_string(), &[&tag]).await;
                        }
                        _ => {
                            let floor = truth.floor.load(Ordering::SeqCst);
                            let fresh_floor = truth.fresh_floor.load(Ordering::SeqCst);
                            if let Some(entry) = subject.found(&key).await {
                                let version: u64 = str::from_utf8(entry.payload()).unwrap().parse().unwrap();
                                assert!(version >= floor, "read version {version} after {floor} was invalidated");
                                let fresh = entry.deadlines().fresh > Clock::system().now();
                                assert!(!fresh || version >= fresh_floor, "{version} is fresh after {fresh_floor}");
                            }
                        }
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
        while let Some(finished) = tasks.join_next().await {
            finished.unwrap();
        }
    }
}

/// The use that a reader may make of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Fresh,
    Stale,
    Void,
}

/// Fills, hard and soft invalidations and lost tokens in any order, compared with a model that knows only the meaning of each.
struct Algebra<'a> {
    subject: &'a Subject,
    random: fastrand::Rng,
    /// By key: its entry, the tags, and a load that has begun.
    places: [Place; 4],
    /// Tags with a token.
    known: [bool; 3],
    step: usize,
    commits: usize,
    /// Commits that were refused although nothing had overtaken their loads, except for what came before they began.
    in_doubt: usize,
}

#[derive(Default)]
struct Place {
    state: Option<State>,
    tags: Vec<usize>,
    loading: Option<Loading>,
    /// Whether something was invalidated since its last load ended.
    invalidated: bool,
    /// Whether its key was banned since no sweep has been under way.
    banned: bool,
    /// The same, and then everything was made void: the sweep may take what was loaded since, which knows of no ban.
    may_be_swept: bool,
    /// Whether such a sweep may have taken the lease that a look-up claimed for the next load.
    claim_may_be_swept: bool,
}

/// A load under way, and the invalidations that overtook it.
struct Loading {
    lease: Lease,
    voided: bool,
    /// The tags that were invalidated.
    any_tag: bool,
    tags: [bool; 3],
    /// Tokens that fills made, whose loads began after it.
    made: [bool; 3],
    /// The same, whose loads began before it. A store may know that nothing was invalidated between their beginning and the
    /// token, and need not.
    made_before: [bool; 3],
    /// A ban came: a store may treat it as an invalidation of any tag, but need not.
    any_ban: bool,
    /// At this step.
    began: usize,
    /// Whether something was invalidated between the load before it and its beginning.
    after_invalidation: bool,
    /// Whether a sweep may have taken its lease.
    may_be_swept: bool,
}

impl<'a> Algebra<'a> {
    const STEPS: usize = 600;
    /// No load may lose it by its age, however slow the machine is.
    const LEASE: Duration = Duration::from_secs(600);

    fn new(subject: &'a Subject, seed: u64) -> Self {
        let (places, random) = (std::array::from_fn(|_| Place::default()), fastrand::Rng::with_seed(seed));
        Self { subject, random, places, known: [false; 3], step: 0, commits: 0, in_doubt: 0 }
    }

    async fn run(mut self) {
        let mut seen = [0; 3];
        // On a server, everything has a token, which the first fill creates.
        self.subject.fill(&key("sink"), "x", &[]).await;
        for step in 0..Self::STEPS {
            self.step = step;
            let place = self.random.usize(..self.places.len());
            let action = self.random.u8(..17);
            match action {
                0..6 => self.begin_or_end(place).await,
                6..8 => self.invalidate_tags(State::Void).await,
                8..10 => self.invalidate_tags(State::Stale).await,
                10 => {
                    let becomes = if self.random.bool() { State::Void } else { State::Stale };
                    self.invalidate_key(place, becomes).await;
                }
                11 => {
                    let becomes = if self.random.u8(..4) == 0 { State::Void } else { State::Stale };
                    self.invalidate_everything(becomes).await;
                }
                12 => self.ramp(place).await,
                13..15 if self.subject.scopes.contains(&"pattern") => {
                    let becomes = [State::Void, State::Void, State::Stale, State::Fresh][self.random.usize(..4)];
                    self.ban(place, becomes).await;
                }
                13..15 => self.begin_or_end(place).await,
                // Nothing that may still be used is touched.
                15 => self.subject.reclaim().await,
                _ => self.lose_token().await,
            }
            let is_sweeping = self.subject.is_sweeping();
            for (index, place) in self.places.iter_mut().enumerate() {
                let found = self.subject.state(&key(&index.to_string())).await;
                if found == State::Void && place.may_be_swept {
                    place.state = None;
                }
                let expected = place.state.unwrap_or(State::Void);
                assert_eq!(found, expected, "key {index} after step {step}, {action}");
                seen[expected as usize] += 1;
                if !is_sweeping {
                    place.end_sweep();
                }
            }
        }
        assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
        assert!(self.in_doubt * 20 <= self.commits, "{} of {}", self.in_doubt, self.commits);
    }

    async fn begin_or_end(&mut self, index: usize) {
        let (key, sink) = (key(&index.to_string()), key("sink"));
        self.places[index].pass_doubt_on();
        let Some(loading) = self.places[index].loading.take() else {
            let mut granted = None;
            // A refused commit gives its lease back without waiting.
            wait_until("the lease to be free", async || {
                let acquired = self.subject.store.acquire(&key, Seen::Unusable, Self::LEASE, Failures::Heed).await;
                granted = match acquired.unwrap() {
                    Acquired::Granted(lease) => Some(lease),
                    _ => None,
                };
                granted.is_some()
            })
            .await;
            let lease = granted.expect("it was waited for");
            let none = [false; 3];
            let (voided, any_tag, made, made_before, began) = (false, false, none, none, self.step);
            let (tags, place) = (none, &mut self.places[index]);
            let after_invalidation = place.invalidated;
            place.loading = Some(Loading {
                lease,
                voided,
                any_tag,
                tags,
                made,
                made_before,
                any_ban: false,
                began,
                after_invalidation,
                may_be_swept: std::mem::take(&mut place.claim_may_be_swept),
            });
            return;
        };
        let Loading { lease, voided, any_tag, tags, made, made_before, any_ban, began, .. } = loading;
        // A look-up may have claimed the lease for the next load as soon as this one had lost it.
        self.places[index].invalidated = voided || loading.may_be_swept;
        let carried: Vec<usize> = (0..3).filter(|_| self.random.bool()).collect();
        let names: Vec<String> = carried.iter().map(|tag| format!("tag {tag}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let committed = self.subject.commit(lease, "x", &names).await;
        // Without a token from before the load, Redis does not tell whether this tag was invalidated. Memory knows.
        let is_exact = self.subject.memory.is_some();
        let overtaken = |tag: &usize| tags[*tag] || !is_exact && any_tag && (!self.known[*tag] || made[*tag]);
        let lost = |tag: &usize| !self.known[*tag] || made[*tag] || made_before[*tag];
        let in_doubt = |tag: &usize| !is_exact && any_tag && made_before[*tag] || any_ban && lost(tag);
        let either = carried.iter().any(in_doubt);
        let expected = if voided || carried.iter().any(overtaken) { Committed::Refused } else { Committed::Stored };
        self.commits += 1;
        // The lease of a look-up is as old as the look-up: an invalidation since then counts as if it had overtaken the load.
        let may_be_older = self.subject.memory.is_none() && loading.after_invalidation;
        if expected == Committed::Refused || !either && !may_be_older && !loading.may_be_swept {
            assert_eq!(committed, expected, "{carried:?}");
        } else if committed != expected && !either {
            self.in_doubt += 1;
        }
        if committed == Committed::Stored {
            let place = &mut self.places[index];
            (place.state, place.tags) = (Some(State::Fresh), carried.clone());
        } else {
            // How many tokens a refused fill creates is not part of the contract.
            self.subject.fill(&sink, "x", &names).await;
        }
        // Tokens that it did not create were created by the fill of the sink, which began last.
        let began = if committed == Committed::Stored { began } else { self.step };
        for tag in carried {
            if !std::mem::replace(&mut self.known[tag], true) {
                for load in self.places.iter_mut().filter_map(|place| place.loading.as_mut()) {
                    load.made[tag] |= load.began <= began;
                    load.made_before[tag] |= load.began > began;
                }
            }
        }
    }

    /// Hard or soft, at once or by a ramp whose turns are still to come, so that all entries are as fresh as before.
    fn hardness(becomes: State) -> Hardness {
        match becomes {
            State::Void => Hardness::Hard,
            State::Stale => Hardness::Soft,
            State::Fresh => Hardness::Ramp(LONG),
        }
    }

    /// A ramp over a random scope.
    async fn ramp(&mut self, place: usize) {
        match self.random.u8(..4) {
            0 => self.invalidate_key(place, State::Fresh).await,
            1 => self.invalidate_everything(State::Fresh).await,
            _ => self.invalidate_tags(State::Fresh).await,
        }
    }

    async fn invalidate_tags(&mut self, becomes: State) {
        let tags: Vec<usize> = (0..3).filter(|_| self.random.u8(..3) == 0).collect();
        if tags.is_empty() {
            return;
        }
        let names = Tags::new(tags.iter().map(|tag| format!("tag {tag}")));
        self.subject.store.invalidate(Scope::Tags(&names), Self::hardness(becomes)).await.unwrap();
        for tag in tags {
            self.known[tag] = true;
            for place in &mut self.places {
                place.invalidated = true;
                place.lower(becomes, |place| place.tags.contains(&tag));
                if let Some(loading) = &mut place.loading {
                    (loading.any_tag, loading.tags[tag]) = (true, true);
                }
            }
        }
    }

    async fn invalidate_key(&mut self, index: usize, becomes: State) {
        let key = key(&index.to_string());
        self.subject.store.invalidate(Scope::Key(&key), Self::hardness(becomes)).await.unwrap();
        self.places[index].invalidated = true;
        self.places[index].lower(becomes, |_| true);
        self.places[index].loading.iter_mut().for_each(|loading| loading.voided = true);
    }

    async fn ban(&mut self, index: usize, becomes: State) {
        let pattern = Pattern::new(&format!("c*:{index}"));
        self.subject.store.invalidate(Scope::Pattern(&pattern), Self::hardness(becomes)).await.unwrap();
        for (other, place) in self.places.iter_mut().enumerate() {
            place.invalidated = true;
            place.loading.iter_mut().for_each(|loading| {
                loading.any_ban = true;
                loading.voided |= other == index;
            });
        }
        self.places[index].banned = true;
        self.places[index].lower(becomes, |_| true);
    }

    async fn invalidate_everything(&mut self, becomes: State) {
        self.subject.store.invalidate(Scope::Everything, Self::hardness(becomes)).await.unwrap();
        for place in &mut self.places {
            place.invalidated = true;
            place.may_be_swept |= place.banned && becomes == State::Void;
            place.lower(becomes, |_| true);
            place.loading.iter_mut().for_each(|loading| loading.voided = true);
        }
    }

    async fn lose_token(&mut self) {
        let tag = self.random.usize(..3);
        if !std::mem::take(&mut self.known[tag]) {
            return;
        }
        self.subject.lose_token(&format!("tag {tag}"));
        // All pushes before this reply have been received. In a cluster it comes from the server that has the tags, as a look-up's need
        // not.
        self.subject.store.tag_token("nothing").await.unwrap();
        for place in &mut self.places {
            place.lower(State::Void, |place| place.tags.contains(&tag));
        }
    }
}

impl Place {
    /// A load under way may have lost its lease to the sweep that may take what is stored.
    fn pass_doubt_on(&mut self) {
        self.loading.iter_mut().for_each(|loading| loading.may_be_swept |= self.may_be_swept);
    }

    fn end_sweep(&mut self) {
        self.pass_doubt_on();
        self.claim_may_be_swept |= self.may_be_swept;
        (self.banned, self.may_be_swept) = (false, false);
    }

    fn lower(&mut self, state: State, condition: impl Fn(&Self) -> bool) {
        if condition(self) {
            self.state = self.state.map(|now| now.max(state));
        }
    }
}
