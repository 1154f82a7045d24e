//! The contract, held against every store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tests::{RedisServer, wait_until};

use super::{
    Acquired, Committed, Contract, Fill, Lease, Lookup, MemoryStore, RedisStore, Scope, Seen, TieredStore, Writes,
};
use crate::{
    clock::Clock,
    entry::{Deadlines, Entry, EntryId},
    key::Key,
    tag::Tags,
    telemetry::Rejection,
};

const LEASE: Duration = Duration::from_secs(5);

/// A store under test, and what keeps it alive.
struct Subject {
    store: Arc<dyn Contract>,
    redis: Option<RedisServer>,
    memory: Option<MemoryStore>,
}

impl Subject {
    fn memory() -> Self {
        let memory = MemoryStore::new(10 << 20);
        Self { store: Arc::new(memory.clone()), redis: None, memory: Some(memory) }
    }

    async fn redis() -> Self {
        let (store, server) = redis_store().await;
        Self { store: Arc::new(store), redis: Some(server), memory: None }
    }

    async fn tiered() -> Self {
        let (store, server) = redis_store().await;
        Self { store: Arc::new(TieredStore::new(10 << 20, store)), redis: Some(server), memory: None }
    }

    async fn lease(&self, key: &Key) -> Lease {
        match self.store.acquire(key, Seen::Unusable, LEASE).await.unwrap() {
            Acquired::Granted(lease) => lease,
            other => panic!("no lease: {other:?}"),
        }
    }

    async fn commit(&self, lease: Lease, payload: &str, tags: &[&str]) -> Committed {
        let entries = vec![(lease.key.clone(), entry(&lease.key, payload))];
        self.commit_writes(lease, Writes { entries, guard: None }, tags).await
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
                Lookup::Absent | Lookup::Rejected(_) => return None,
            },
        };
        Some(String::from_utf8(entry.payload().to_vec()).unwrap())
    }

    async fn invalidate_tag(&self, tag: &str) {
        self.store.invalidate(Scope::Tags(&Tags::new([tag]))).await.unwrap();
    }

    async fn invalidate(&self, key: &Key) {
        self.store.invalidate(Scope::Key(key)).await.unwrap();
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
    }
}

async fn redis_store() -> (RedisStore, RedisServer) {
    let server = RedisServer::start();
    let store = RedisStore::builder(server.url())
        .prefix("test")
        // The machines that tests run on pause for longer than a cache should wait.
        .operation_timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    assert!(store.wait_connected(Duration::from_secs(10)).await, "the server does not answer");
    (store, server)
}

fn entry(key: &Key, payload: &str) -> Entry {
    let deadlines = Deadlines::fresh_until(Clock::system().now() + 600_000);
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

/// Each test once for every store.
macro_rules! contract {
    ($($(#[$meta:meta])* async fn $name:ident($subject:ident) $body:block)+) => {
        mod memory {
            use super::*;
            $($(#[$meta])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { let $subject = Subject::memory(); $body })+
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
        let second = subject.store.acquire(&key("a"), Seen::Nothing, LEASE).await.unwrap();
        assert!(matches!(second, Acquired::Held), "{second:?}");
        subject.lease(&key("b")).await;
        subject.lease(&key("a").variant(b"de")).await;
        subject.store.release(&lease, None);
        wait_until("the lease to be free", async || {
            matches!(subject.store.acquire(&key("a"), Seen::Nothing, LEASE).await, Ok(Acquired::Granted(_)))
        })
        .await;
    }

    async fn who_waits_for_a_lease_hears_of_its_end(subject) {
        let lease = subject.lease(&key("a")).await;
        let (store, waiting) = (subject.store.clone(), key("a"));
        let waiter = tokio::spawn(async move {
            loop {
                match store.acquire(&waiting, Seen::Nothing, LEASE).await.unwrap() {
                    Acquired::Held => store.changed(&waiting).await,
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
            let acquired = subject.store.acquire(&key("a"), seen, LEASE).await.unwrap();
            assert!(matches!(acquired, Acquired::Changed), "{acquired:?}");
        }
        let acquired = subject.store.acquire(&key("a"), Seen::Entry(seen.id()), LEASE).await.unwrap();
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
                subject.store.invalidate(scope).await.unwrap();
                assert!(subject.store.overtaken(&lease), "{scope:?}");
                subject.store.renew(&lease, LEASE).await.unwrap();
                assert!(subject.store.overtaken(&lease), "{scope:?}, and a renewal changes nothing");
                subject.commit(lease, "void", &["t"]).await;
                // By then, all that happened is known here.
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
        subject.store.invalidate(Scope::Everything).await.unwrap();
        assert_eq!(subject.commit(lease, "old", &[]).await, Committed::Refused);
        assert_eq!(subject.read(&key("a")).await, None);
    }

    async fn invalidation_of_a_forgotten_tag_during_a_load_wins(subject) {
        subject.fill(&key("other"), "x", &["t"]).await;
        let lease = subject.lease(&key("a")).await;
        subject.invalidate_tag("t").await;
        subject.lose_token("t");
        assert_eq!(subject.commit(lease, "old", &["t"]).await, Committed::Refused);
    }

    async fn invalidation_of_the_key_voids_a_variants_load(subject) {
        let varies = entry(&key("a"), "varies");
        let lease = subject.lease(&key("a")).await;
        let writes = Writes { entries: vec![(key("a"), varies.clone())], guard: None };
        assert_eq!(subject.commit_writes(lease, writes, &[]).await, Committed::Stored);

        let german = key("a").variant(b"de");
        let lease = subject.lease(&german).await;
        subject.invalidate(&key("a")).await;
        let writes = Writes {
            entries: vec![(key("a"), varies.clone()), (german.clone(), entry(&german, "alt"))],
            guard: Some((key("a"), varies.id())),
        };
        assert_eq!(subject.commit_writes(lease, writes, &[]).await, Committed::Refused);
        assert_eq!(subject.read(&key("a")).await, None);
    }

    async fn a_fill_under_a_guard_that_holds_is_stored_whole(subject) {
        let varies = entry(&key("a"), "varies");
        let lease = subject.lease(&key("a")).await;
        let writes = Writes { entries: vec![(key("a"), varies.clone())], guard: None };
        assert_eq!(subject.commit_writes(lease, writes, &[]).await, Committed::Stored);

        let german = key("a").variant(b"de");
        let lease = subject.lease(&german).await;
        let writes = Writes {
            entries: vec![(key("a"), varies.clone()), (german.clone(), entry(&german, "deutsch"))],
            guard: Some((key("a"), varies.id())),
        };
        assert_eq!(subject.commit_writes(lease, writes, &[]).await, Committed::Stored);
        assert_eq!(subject.read(&german).await.unwrap(), "deutsch");
        assert_eq!(subject.read(&key("a")).await.unwrap(), "varies");
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
        assert!(matches!(subject.store.get(&key("a")).await.unwrap(), Lookup::Rejected(Rejection::Tag)));
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
        subject.store.invalidate(Scope::Everything).await.unwrap();
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
        let deadlines = Deadlines::fresh_until(Clock::system().now() - 1);
        let gone = Entry::new(EntryId::random(), &key("a"), deadlines, Bytes::new(), Bytes::new());
        let writes = Writes { entries: vec![(key("a"), gone)], guard: None };
        subject.commit_writes(lease, writes, &[]).await;
        assert_eq!(subject.read(&key("a")).await, None);
    }

    async fn nobody_reads_what_an_invalidation_that_returned_covers(subject) {
        Schedules { subject: Arc::new(subject), keys: Arc::default() }.run().await;
    }
}

/// Writers, loaders and readers at random: no read that began after an invalidation returned sees what was there before.
struct Schedules {
    subject: Arc<Subject>,
    keys: Arc<[Truth; 4]>,
}

/// What a key's entry is made from.
#[derive(Default)]
struct Truth {
    version: AtomicU64,
    /// Readers that begin now must not see less.
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
                    match worker {
                        0 => {
                            let version = truth.version.fetch_add(1, Ordering::SeqCst) + 1;
                            match fastrand::u8(..8) {
                                0 => subject.store.invalidate(Scope::Everything).await.unwrap(),
                                1..4 => subject.invalidate(&key).await,
                                _ => subject.invalidate_tag(&tag).await,
                            }
                            truth.floor.fetch_max(version, Ordering::SeqCst);
                        }
                        1..4 => {
                            let acquired = subject.store.acquire(&key, Seen::Unusable, LEASE).await.unwrap();
                            let Acquired::Granted(lease) = acquired else { continue };
                            let version = truth.version.load(Ordering::SeqCst);
                            for _ in 0..fastrand::u8(..4) {
                                tokio::task::yield_now().await;
                            }
                            subject.commit(lease, &version.to_string(), &[&tag]).await;
                        }
                        _ => {
                            let floor = truth.floor.load(Ordering::SeqCst);
                            if let Some(version) = subject.read(&key).await {
                                let version: u64 = version.parse().unwrap();
                                assert!(version >= floor, "read version {version} after {floor} was invalidated");
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
