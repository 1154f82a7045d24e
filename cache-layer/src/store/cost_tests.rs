//! Should memory be weighed by the load time that entries save per byte? A simulation with synthetic traces in the shape of
//! public ones (Zipf, with a share of keys that come once; sizes and load times log-normal; optionally, larger entries take
//! longer to load). It compares S3-FIFO, which the memory store has, with GreedyDual-Size-Frequency by cost, the usual method: an
//! entry's priority is `inflation + hits × load time / bytes`, and the entry with the lowest priority is evicted.
//!
//! `cargo test -p cache-layer --all-features --lib cost_tests -- --ignored --nocapture` prints the table.

use std::collections::{BTreeSet, HashMap};

use quick_cache::{Weighter, unsync::Cache as QuickCache};

const REQUESTS: usize = 1_000_000;

#[derive(Clone, Copy)]
struct Item {
    bytes: u64,
    /// The duration of its load, in milliseconds.
    load: f64,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<u64, Item> for ByBytes {
    fn weight(&self, _: &u64, item: &Item) -> u64 {
        item.bytes
    }
}

/// The shape of a trace.
struct Shape {
    name: &'static str,
    exponent: f64,
    keys: usize,
    /// Requests for keys that never come again.
    once: f64,
    /// Spread of sizes and of load times, as the deviation of their logarithms.
    sizes: f64,
    loads: f64,
    /// Whether larger entries take longer.
    by_size: bool,
}

const SHAPES: [Shape; 6] = [
    Shape { name: "Zipf 1.0, alike", exponent: 1.0, keys: 100_000, once: 0.0, sizes: 0.0, loads: 0.0, by_size: false },
    Shape { name: "Zipf 1.0, sizes", exponent: 1.0, keys: 100_000, once: 0.1, sizes: 1.5, loads: 0.0, by_size: false },
    Shape { name: "Zipf 1.0, loads", exponent: 1.0, keys: 100_000, once: 0.1, sizes: 0.5, loads: 1.5, by_size: false },
    Shape { name: "Zipf 0.8, both", exponent: 0.8, keys: 100_000, once: 0.2, sizes: 1.5, loads: 1.5, by_size: false },
    Shape { name: "Zipf 1.0, both", exponent: 1.0, keys: 100_000, once: 0.2, sizes: 1.5, loads: 1.5, by_size: false },
    Shape { name: "Zipf 1.0, by size", exponent: 1.0, keys: 100_000, once: 0.2, sizes: 1.5, loads: 0.5, by_size: true },
];

impl Shape {
    fn items(&self, random: &mut fastrand::Rng) -> Vec<Item> {
        (0..self.keys + (self.once * REQUESTS as f64) as usize + 1)
            .map(|_| {
                let bytes = (2000.0 * (self.sizes * normal(random)).exp()).clamp(100.0, 1e6);
                let by_size = if self.by_size { bytes / 2000.0 } else { 1.0 };
                Item { bytes: bytes as u64, load: 20.0 * by_size * (self.loads * normal(random)).exp() }
            })
            .collect()
    }

    fn trace(&self, random: &mut fastrand::Rng) -> Vec<usize> {
        let mut sum = 0.0;
        let weight = |rank: usize| (rank as f64).powf(-self.exponent);
        let sums: Vec<f64> = (1..=self.keys)
            .map(|rank| {
                sum += weight(rank);
                sum
            })
            .collect();
        let mut next_once = self.keys;
        (0..REQUESTS)
            .map(|_| {
                if random.f64() < self.once && next_once < self.keys + (self.once * REQUESTS as f64) as usize {
                    next_once += 1;
                    return next_once;
                }
                let point = random.f64() * sum;
                sums.partition_point(|sum| *sum < point)
            })
            .collect()
    }
}

fn normal(random: &mut fastrand::Rng) -> f64 {
    // Box and Muller.
    let (one, other) = (1.0 - random.f64(), random.f64());
    (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos()
}

trait Policy {
    fn hits(&mut self, key: usize, item: Item) -> bool;
}

struct S3Fifo(QuickCache<u64, Item, ByBytes>);

impl Policy for S3Fifo {
    fn hits(&mut self, key: usize, item: Item) -> bool {
        if self.0.get(&(key as u64)).is_some() {
            return true;
        }
        self.0.insert(key as u64, item);
        false
    }
}

#[derive(Default)]
struct GreedyDual {
    room: u64,
    used: u64,
    inflation: f64,
    kept: HashMap<usize, (u64, Item, f64)>,
    /// By the bits of their priority, which order as positive numbers do.
    order: BTreeSet<(u64, usize)>,
}

impl Policy for GreedyDual {
    fn hits(&mut self, key: usize, item: Item) -> bool {
        let priority = |hits: f64, inflation: f64| (inflation + hits * item.load / item.bytes as f64).to_bits();
        if let Some((bits, _, hits)) = self.kept.get_mut(&key) {
            self.order.remove(&(*bits, key));
            *hits += 1.0;
            *bits = priority(*hits, self.inflation);
            self.order.insert((*bits, key));
            return true;
        }
        while self.used + item.bytes > self.room {
            let Some((bits, least)) = self.order.pop_first() else { return false };
            self.inflation = f64::from_bits(bits);
            self.used -= self.kept.remove(&least).map_or(0, |(_, item, _)| item.bytes);
        }
        let bits = priority(1.0, self.inflation);
        self.used += item.bytes;
        self.kept.insert(key, (bits, item, 1.0));
        self.order.insert((bits, key));
        false
    }
}

/// The shares of requests, and of load time, that hits save once the cache is full.
fn run(policy: &mut dyn Policy, trace: &[usize], items: &[Item]) -> (f64, f64) {
    let (mut hits, mut saved, mut all, mut requests) = (0.0, 0.0, 0.0, 0.0);
    for (place, &key) in trace.iter().enumerate() {
        let item = items[key];
        let hit = policy.hits(key, item);
        if place >= trace.len() / 4 {
            (requests, all) = (requests + 1.0, all + item.load);
            if hit {
                (hits, saved) = (hits + 1.0, saved + item.load);
            }
        }
    }
    (hits / requests, saved / all)
}

#[test]
#[ignore = "a measurement, of a minute or two"]
fn load_time_saved_for_each_byte() {
    println!("| shape | room | hits, S3-FIFO | by cost | time saved, S3-FIFO | by cost |");
    for shape in SHAPES {
        let mut random = fastrand::Rng::with_seed(21);
        let (items, trace) = (shape.items(&mut random), shape.trace(&mut random));
        let total: u64 = items[..shape.keys].iter().map(|item| item.bytes).sum();
        for share in [100, 20] {
            let room = total / share;
            let capacity = usize::try_from(room / 2000).unwrap();
            let mut fifo = S3Fifo(QuickCache::with_weighter(capacity, room, ByBytes));
            let mut greedy = GreedyDual { room, ..GreedyDual::default() };
            let ((hits, saved), (by_cost, saved_by_cost)) =
                (run(&mut fifo, &trace, &items), run(&mut greedy, &trace, &items));
            println!(
                "| {} | {} % | {hits:.3} | {by_cost:.3} | {saved:.3} | {saved_by_cost:.3} |",
                shape.name,
                100 / share
            );
            assert!(saved > 0.0 && saved_by_cost > 0.0);
        }
    }
}
