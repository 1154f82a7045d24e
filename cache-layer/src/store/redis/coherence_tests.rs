//! How coherent first tiers are with the server, and with one another.
//!
//! A look-up over the connection is never stale, nor is one in the first tier after any reply over the connection. Without a
//! reply, it may be late by the time that a push takes: that is measured, and also what happens if the connection loses
//! everything.
//!
//! `READS=1000000 cargo test -p cache-layer --all-features --lib coherence -- --nocapture` reads that often: minutes.

use std::{
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tests::{Fault, FaultProxy, RedisServer, wait_until};
use tokio::task::JoinSet;

use super::{
    RedisStore,
    schedule_tests::{By, Place, REFUSED, begin, connect, end, get, invalidate, version},
};
use crate::{
    key::Key,
    store::{StoreBackend, TieredStore},
};

const KEYS: u64 = 8;
const READERS: usize = 2;
/// Reads under way in one reader.
const TASKS: usize = 8;

/// A key, and when its last invalidation returned.
struct Watched {
    place: Place,
    returned: Mutex<Instant>,
}

#[derive(Debug, Default)]
struct Counters {
    over_the_connection: AtomicU64,
    after_a_reply: AtomicU64,
    in_the_first_tier: AtomicU64,
    refused: AtomicU64,
    hits: AtomicU64,
    writes: AtomicU64,
    stale: AtomicU64,
    late: AtomicU64,
    longest_delay_us: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_of_many_under_a_writer_is_stale() {
    let reads = env::var("READS").map_or(40_000, |number| number.parse().expect("READS is a number"));
    let server = RedisServer::start();
    let watched: Arc<[Watched]> =
        (0..KEYS).map(|number| Watched { place: Place::new(number), returned: Mutex::new(Instant::now()) }).collect();
    let (counters, done) = (Arc::new(Counters::default()), Arc::new(AtomicBool::new(false)));

    let writer = {
        let (store, watched) = (connect(server.url()).await, watched.clone());
        let (counters, done) = (counters.clone(), done.clone());
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let Watched { place, returned } = &watched[fastrand::usize(..watched.len())];
                let version = place.version.fetch_add(1, Ordering::SeqCst) + 1;
                let by = if fastrand::bool() { By::Key } else { By::Tag };
                if invalidate(&store, place, by).await {
                    *returned.lock().unwrap() = Instant::now();
                    place.floor.store(version, Ordering::SeqCst);
                    count(&counters.writes);
                }
                if let Some(lease) = begin(&store, place).await {
                    end(&store, place, lease, version).await;
                }
            }
        })
    };

    let (left, mut readers) = (Arc::new(AtomicU64::new(reads)), JoinSet::new());
    for _ in 0..READERS {
        let store = TieredStore::new(1 << 20, connect(server.url()).await);
        for _ in 0..TASKS {
            let (store, watched) = (store.clone(), watched.clone());
            let (counters, left) = (counters.clone(), left.clone());
            readers.spawn(async move {
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    read(&store, &watched[fastrand::usize(..watched.len())], &counters).await;
                }
            });
        }
    }
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    writer.await.unwrap();

    println!("{counters:?}");
    assert_eq!(counters.stale.load(Ordering::Relaxed), 0);
    // The result is meaningful only if much was written, and much was found.
    assert!(counters.writes.load(Ordering::Relaxed) > reads / 1_000);
    assert!(counters.hits.load(Ordering::Relaxed) > reads / 10);
}

/// The reads must not be over before a connection is back that was lost because the machine paused.
async fn refused(counters: &Counters) {
    count(&counters.refused);
    tokio::time::sleep(REFUSED).await;
}

async fn read(store: &TieredStore, Watched { place, returned }: &Watched, counters: &Counters) {
    let floor = place.floor.load(Ordering::SeqCst);
    let in_the_first_tier = || store.peek(&place.key).map(|entry| version(&entry));
    match fastrand::u8(..4) {
        0 | 1 => {
            count(&counters.over_the_connection);
            let Ok(found) = get(store, &place.key).await else { return refused(counters).await };
            if let Some(version) = found {
                count(&counters.hits);
                counters.stale.fetch_add(u64::from(version < floor), Ordering::Relaxed);
            }
        }
        2 => {
            count(&counters.after_a_reply);
            let Ok(_) = get(store, &Key::new(["nobody's"])).await else { return refused(counters).await };
            if let Some(version) = in_the_first_tier() {
                count(&counters.hits);
                counters.stale.fetch_add(u64::from(version < floor), Ordering::Relaxed);
            }
        }
        _ => {
            count(&counters.in_the_first_tier);
            if let Some(version) = in_the_first_tier() {
                count(&counters.hits);
                if version < floor {
                    count(&counters.late);
                    let delay = returned.lock().unwrap().elapsed().as_micros();
                    counters.longest_delay_us.fetch_max(u64::try_from(delay).unwrap(), Ordering::Relaxed);
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_tier_behind_a_black_hole_is_void_within_its_heartbeat() {
    let server = RedisServer::start();
    let mut proxy = FaultProxy::start(server.addr()).await;
    let writer = connect(server.url()).await;
    // A heartbeat is awaited for as long as an operation may take, and for a second at least.
    let redis = RedisStore::builder(format!("redis://{}", proxy.addr())).prefix("test");
    let redis = redis.operation_timeout(Duration::from_secs(1)).build().unwrap();
    assert!(redis.wait_connected(Duration::from_secs(10)).await, "the server does not answer");
    let reader = TieredStore::new(1 << 20, redis);
    let mut delays = Vec::new();
    for number in 0..3 {
        let place = Place::new(number);
        let lease = begin(&writer, &place).await.expect("nobody else loads");
        assert!(end(&writer, &place, lease, 0).await);
        wait_until("the entry to be near", async || {
            let _ = reader.get(&place.key).await;
            reader.peek(&place.key).is_some()
        })
        .await;

        proxy.set(Fault::BlackHole).await;
        assert!(invalidate(&writer, &place, By::Tag).await);
        let invalidated = Instant::now();
        wait_until("the first tier to be void", async || reader.peek(&place.key).is_none()).await;
        delays.push(invalidated.elapsed());
        proxy.set(Fault::Pass).await;
    }
    println!("served after an invalidation behind a black hole for {delays:?}");
    // A heartbeat's pause and its deadline, a second each, and what a busy machine adds.
    assert!(delays.iter().all(|delay| *delay < Duration::from_secs(5)), "{delays:?}");
}
