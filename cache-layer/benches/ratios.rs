//! Typed values compared with hand-written code, as ratios: each pair is measured in turn, round by round, in one run.
//!
//! ```sh
//! cargo bench -p cache-layer --features sealed --bench ratios
//! ```
//!
//! A row is the median over the rounds, with what it has to reach. `by hand` is what one would write with the `redis` crate, as in
//! the bench `typed`. Run it while nothing else runs; nothing here fails a build.

use std::{
    convert::Infallible,
    hint::black_box,
    time::{Duration, Instant},
};

use cache_layer::{
    Cache, Clock,
    store::{MemoryStore, RedisStore, RedisStoreBuilder, TieredStore},
};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use tests::RedisServer;

use product::{Product, product};

mod product;

const MANY: u64 = 100;
const ROUNDS: usize = 25;
/// How long each side of a pair is measured in a round.
const LENGTH: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo bench` passes this argument; without it, each pair runs once, to show that it works.
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let rounds = if is_test { 1 } else { ROUNDS };
    let server = RedisServer::start();
    let cache = over(&server, |store| store).await;
    let client = redis::Client::open(server.url()).expect("a URL");
    let by_hand = client.get_multiplexed_async_connection().await.expect("a connection");

    let (ours, theirs) = warm(&server, &cache, by_hand.clone(), rounds).await;
    print_ratio("get_or_load_many(100), all there, to MGET by hand", &ours, &theirs, 1.3);
    let first_tier = Cache::new(TieredStore::new(64 << 20, store(&server, |store| store).await));
    let (ours, theirs) = warm(&server, &first_tier, by_hand.clone(), rounds).await;
    print_ratio("get_or_load_many(100), all there and in a first tier, to MGET by hand", &ours, &theirs, 1.3);
    let (ours, theirs) = cold(&server, &cache, by_hand, rounds).await;
    print_ratio("get_or_load_many(100), none there, to MGET and a pipeline by hand", &ours, &theirs, 1.3);
    #[cfg(feature = "sealed")]
    sealed(&server, &cache, rounds).await;
    hit(rounds).await;
    soft_timeout(if is_test { 3 } else { 300 }).await;
}

/// The microseconds that one run takes, on average over one round: in all, and of that on a processor, here and at the server.
#[derive(Clone, Copy)]
struct Takes {
    all: f64,
    here: f64,
    there: f64,
}

async fn round(mut run: impl AsyncFnMut()) -> f64 {
    let (began, mut runs) = (Instant::now(), 0_u32);
    loop {
        run().await;
        runs += 1;
        let elapsed = began.elapsed();
        if elapsed >= LENGTH {
            return elapsed.as_secs_f64() * 1e6 / f64::from(runs);
        }
    }
}

/// As [`round`], with the times on a processor, which other work on the machine makes little longer.
async fn round_over(server: &RedisServer, mut run: impl AsyncFnMut()) -> Takes {
    let (here, there, mut runs) = (time_here(), time_there(server), 0_u32);
    let all = round(async || {
        run().await;
        runs += 1;
    })
    .await;
    let each = |now: f64, then: f64| (now - then) / f64::from(runs);
    Takes { all, here: each(time_here(), here), there: each(time_there(server), there) }
}

/// The microseconds that this thread, which runs all, has had a processor.
fn time_here() -> f64 {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    times.split(' ').next().and_then(|time| time.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e3
}

fn time_there(server: &RedisServer) -> f64 {
    let seconds = |field| server.info("cpu", field).parse::<f64>().unwrap_or(f64::NAN);
    (seconds("used_cpu_user") + seconds("used_cpu_sys")) * 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of the ratios of the rounds, each of which has measured both.
fn print_ratio(name: &str, ours: &[Takes], theirs: &[Takes], most: f64) {
    let ratio =
        |of: fn(&Takes) -> f64| median(ours.iter().zip(theirs).map(|(ours, theirs)| of(ours) / of(theirs)).collect());
    let each = |takes: &[Takes], of: fn(&Takes) -> f64| median(takes.iter().map(of).collect());
    let (all, met) = (ratio(|takes| takes.all), if ratio(|takes| takes.all) <= most { "met" } else { "NOT MET" });
    let both = |of| (each(ours, of), each(theirs, of));
    let (ours_all, theirs_all) = both(|takes| takes.all);
    println!("{name}: {all:.3} ({ours_all:.1} us to {theirs_all:.1} us), at most {most}: {met}");
    for (place, of) in [("here", (|takes| takes.here) as fn(&Takes) -> f64), ("at the server", |takes| takes.there)] {
        let (ours, theirs) = both(of);
        println!("    on a processor {place}: {:.3} ({ours:.1} us to {theirs:.1} us)", ratio(of));
    }
}

async fn store(server: &RedisServer, set: impl FnOnce(RedisStoreBuilder) -> RedisStoreBuilder) -> RedisStore {
    let store = set(RedisStore::builder(server.url())).build().expect("a store");
    assert!(store.wait_connected(Duration::from_secs(10)).await, "{server} is not reachable");
    store
}

async fn over(server: &RedisServer, set: impl FnOnce(RedisStoreBuilder) -> RedisStoreBuilder) -> Cache {
    Cache::new(store(server, set).await)
}

async fn many(cache: &Cache, from: u64) -> Vec<Option<Product>> {
    let load = async |missing: Vec<(&'static str, u64)>| {
        Ok::<_, Infallible>(missing.into_iter().map(|key| (key, product(key.1))).collect::<Vec<_>>())
    };
    let found = cache.get_or_load_many((from..from + MANY).map(|id| ("product", id)), load).await;
    found.unwrap_or_else(|never| match never {})
}

fn names(from: u64) -> Vec<String> {
    (from..from + MANY).map(|id| format!("product:{id}")).collect()
}

async fn read(by_hand: &mut MultiplexedConnection, names: &[String]) -> Vec<Option<Product>> {
    let replies: Vec<Option<Vec<u8>>> = by_hand.mget(names).await.expect("an answer");
    let parse = |reply: &Option<Vec<u8>>| reply.as_ref().map(|reply| serde_json::from_slice(reply).expect("a product"));
    replies.iter().map(parse).collect()
}

async fn write(by_hand: &mut MultiplexedConnection, names: &[String], products: &[Product]) {
    let mut pipeline = redis::pipe();
    for (name, product) in names.iter().zip(products) {
        pipeline.set_ex(name, serde_json::to_vec(product).expect("JSON"), 300).ignore();
    }
    let () = pipeline.query_async(by_hand).await.expect("stored");
}

/// A hundred keys that are all stored.
async fn warm(
    server: &RedisServer,
    cache: &Cache,
    mut by_hand: MultiplexedConnection,
    rounds: usize,
) -> (Vec<Takes>, Vec<Takes>) {
    many(cache, 0).await;
    assert!(cache.drain(Duration::from_secs(10)).await);
    let (names, products) = (names(0), (0..MANY).map(product).collect::<Vec<_>>());
    write(&mut by_hand, &names, &products).await;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(
            round_over(server, async || assert!(black_box(many(cache, 0).await).iter().all(Option::is_some))).await,
        );
        theirs.push(
            round_over(server, async || {
                assert!(black_box(read(&mut by_hand, &names).await).iter().all(Option::is_some))
            })
            .await,
        );
    }
    (ours, theirs)
}

/// A hundred keys of which none is stored: a look-up and a load, and all values are stored before the next round.
async fn cold(
    server: &RedisServer,
    cache: &Cache,
    mut by_hand: MultiplexedConnection,
    rounds: usize,
) -> (Vec<Takes>, Vec<Takes>) {
    let mut from = 1_000_000;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let run = async || {
            from += MANY;
            black_box(many(cache, from).await);
            assert!(cache.drain(Duration::from_secs(10)).await);
        };
        ours.push(round_over(server, run).await);
        let run = async || {
            from += MANY;
            let names = names(from);
            assert!(read(&mut by_hand, &names).await.iter().all(Option::is_none));
            let products: Vec<_> = (from..from + MANY).map(product).collect();
            write(&mut by_hand, &names, &products).await;
            black_box(products);
        };
        theirs.push(round_over(server, run).await);
    }
    (ours, theirs)
}

/// A value of 4 KiB from a Redis whose entries are sealed, compared with one whose entries are not.
#[cfg(feature = "sealed")]
async fn sealed(server: &RedisServer, plain: &Cache, rounds: usize) {
    const MOST: f64 = 5.0;
    let ring = cache_layer::store::KeyRing::new([1; 32], [2; 32]);
    let sealed = over(server, |store| store.prefix("sealed").sealed_with(ring)).await;
    for cache in [plain, &sealed] {
        cache.set("page", &"x".repeat(4096)).await.expect("stored");
    }
    let mut more = Vec::new();
    for _ in 0..rounds {
        let mut takes = [0.0; 2];
        for (time, cache) in takes.iter_mut().zip([plain, &sealed]) {
            *time = round(async || drop(black_box(cache.get::<String>("page").await.expect("found")))).await;
        }
        more.push(takes[1] - takes[0]);
    }
    let more = median(more);
    let met = if more <= MOST { "met" } else { "NOT MET" };
    println!("4 KiB that are sealed, beyond 4 KiB that are not: {more:.2} us, at most {MOST}: {met}");
}

/// A typed hit in memory, compared with decoding the same bytes alone.
async fn hit(rounds: usize) {
    let cache = Cache::new(MemoryStore::new(64 << 20));
    cache.set(("product", 1), &product(1)).tags(["product:1"]).await.expect("stored");
    let bytes = serde_json::to_vec(&product(1)).expect("JSON");
    let (mut ours, mut serde) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let run = async || {
            let load = async || -> Result<Product, Infallible> { unreachable!("it is there") };
            drop(black_box(cache.get_or_load(("product", 1), load).await));
        };
        ours.push(round(run).await);
        let run = async || drop(black_box(serde_json::from_slice::<Product>(black_box(&bytes)).expect("a product")));
        serde.push(round(run).await);
    }
    let [ours, serde] = [ours, serde].map(median);
    println!("a typed hit in memory: {:.0} ns, of which reading its JSON is {:.0} ns", ours * 1e3, serde * 1e3);
}

/// A stale value after a soft timeout of 10 ms, while the load takes 300 ms.
async fn soft_timeout(calls: usize) {
    const MOST: f64 = 15.0;
    let (second, clock) = (Duration::from_secs(1), Clock::manual());
    let cache = Cache::builder(MemoryStore::new(64 << 20)).clock(clock.clone()).build();
    let ask = |load_time: Duration| {
        let load = async move || {
            tokio::time::sleep(load_time).await;
            Ok::<_, Infallible>(product(1))
        };
        let ask = cache.get_or_load(("product", 1), load).ttl(second).stale_if_error(3600 * second);
        ask.soft_timeout(Duration::from_millis(10))
    };
    black_box(ask(Duration::ZERO).await.expect("an answer"));
    assert!(cache.drain(second).await);
    let mut times = Vec::new();
    for _ in 0..calls {
        clock.advance(2 * second);
        let began = Instant::now();
        black_box(ask(Duration::from_millis(300)).await.expect("an answer"));
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let p99 = times[(times.len() * 99).div_ceil(100) - 1];
    let met = if p99 <= MOST { "met" } else { "NOT MET" };
    println!("a stale value after a soft timeout of 10 ms, p99 of {calls}: {p99:.1} ms, at most {MOST}: {met}");
}
