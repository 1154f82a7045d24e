//! A soft invalidation over a window: the loads that follow come one after the other, and not all together.

use std::time::Duration;

use cache_layer::{Cache, Clock, store::MemoryStore};
use tests::{App, Origin};

const KEYS: usize = 1_200;
const TICKS: usize = 6;
const TICK: Duration = Duration::from_secs(10);

/// How many loads there are in each tenth of a minute, where each key is asked for once in it.
async fn loads(app: &App, origin: &Origin, clock: &Clock) -> Vec<usize> {
    let mut loads = Vec::new();
    for _ in 0..TICKS {
        clock.advance(TICK);
        let before = origin.calls();
        for key in 0..KEYS {
            app.get(&format!("/{key}"), &[]).await;
        }
        loads.push(origin.calls() - before);
    }
    loads
}

/// An application behind a cache that has all of its pages.
async fn filled(clock: &Clock) -> (App, Origin) {
    let origin = Origin::echo(&[("cache-control", "max-age=3600"), ("cache-tag", "pages")]);
    let cache = Cache::builder(MemoryStore::new(256 << 20)).clock(clock.clone()).build();
    let app = App::new(cache, &origin, |layer| layer).unexplained();
    for key in 0..KEYS {
        app.get(&format!("/{key}"), &[]).await;
    }
    (app, origin)
}

#[tokio::test]
async fn what_a_ramp_covers_is_loaded_evenly_over_its_window() {
    let clock = Clock::manual();
    let (app, origin) = filled(&clock).await;
    app.cache.soft_invalidate_tag("pages").await.unwrap();
    let spike = loads(&app, &origin, &clock).await;
    assert_eq!(spike, [KEYS, 0, 0, 0, 0, 0], "at once, all are loaded at once");

    let clock = Clock::manual();
    let (app, origin) = filled(&clock).await;
    app.cache.soft_invalidate_tag("pages").over(TICK * TICKS as u32).await.unwrap();
    let ramped = loads(&app, &origin, &clock).await;
    println!("{ramped:?}, and at once {spike:?}");
    // The clock stood still while the pages were loaded, and the store's did not.
    assert!(ramped.iter().sum::<usize>() > KEYS / 3, "{ramped:?}");
    let (most, mean) = (ramped.iter().max().unwrap(), KEYS / TICKS);
    assert!(*most * 10 <= mean * 13, "{ramped:?}");
    let rest = loads(&app, &origin, &clock).await;
    assert_eq!(ramped.iter().chain(&rest).sum::<usize>(), KEYS, "each once: what was loaded since is not covered");
}

/// The plot in the docs, of as many entries as an import may touch: each is asked for once a second.
///
/// `RAMP_PLOT=docs/ramp.svg cargo test --release -p tests --test ramps -- --ignored --nocapture`
mod plotted {
    use std::{
        convert::Infallible,
        fmt::Write as _,
        sync::Arc,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    const ENTRIES: u32 = 200_000;
    const SECONDS: usize = 60;
    const SECOND: Duration = Duration::from_secs(1);
    /// The threads that ask.
    const THREADS: u32 = 2;

    #[derive(Clone)]
    struct Shop {
        cache: Cache,
        clock: Clock,
        loads: Arc<AtomicUsize>,
    }

    impl Shop {
        async fn filled() -> Self {
            let clock = Clock::manual();
            let cache = Cache::builder(MemoryStore::new(1 << 30)).clock(clock.clone()).build();
            let shop = Self { cache, clock, loads: Arc::default() };
            assert_eq!(shop.ask_for_all().await, ENTRIES as usize);
            // The store dates an invalidation by the system's clock.
            shop.clock.advance(Duration::from_millis(Clock::system().now() - shop.clock.now()));
            assert_eq!(shop.ask_for_all().await, 0, "all are there");
            shop
        }

        /// Asks for each entry once; returns how many had to be loaded.
        async fn ask_for_all(&self) -> usize {
            let before = self.loads.load(Ordering::SeqCst);
            let asking = (0..THREADS).map(|thread| {
                let shop = self.clone();
                tokio::spawn(async move {
                    for id in (thread..ENTRIES).step_by(THREADS as usize) {
                        shop.value(id).await;
                    }
                })
            });
            for asked in asking.collect::<Vec<_>>() {
                asked.await.unwrap();
            }
            self.loads.load(Ordering::SeqCst) - before
        }

        async fn value(&self, id: u32) {
            let loads = self.loads.clone();
            let load = async move || {
                loads.fetch_add(1, Ordering::SeqCst);
                Ok::<_, Infallible>(id)
            };
            let value = self.cache.get_or_load(("price", id), load).ttl(3_600 * SECOND).tags(["prices"]).await;
            assert_eq!(value, Ok(id));
        }

        async fn loads_a_second(&self, seconds: usize) -> Vec<usize> {
            let mut loads = Vec::with_capacity(seconds);
            for _ in 0..seconds {
                self.clock.advance(SECOND);
                loads.push(self.ask_for_all().await);
            }
            loads
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "a measurement, of a minute or two"]
    async fn two_hundred_thousand_entries_at_once_and_over_a_minute() {
        let shop = Shop::filled().await;
        shop.cache.soft_invalidate_tag("prices").await.unwrap();
        let at_once = shop.loads_a_second(10).await;
        assert_eq!((at_once[0], at_once.iter().sum::<usize>()), (ENTRIES as usize, ENTRIES as usize));

        let shop = Shop::filled().await;
        shop.cache.soft_invalidate_tag("prices").over(SECOND * SECONDS as u32).await.unwrap();
        // The last turns are a moment after the last second, since the invalidation came a moment after the clock was set.
        let ramped = shop.loads_a_second(SECONDS + 1).await;
        let (most, mean) = (*ramped.iter().max().unwrap(), ENTRIES as usize / SECONDS);
        println!("at once: {at_once:?}\nover {SECONDS} s: {ramped:?}\nmost {most}, mean {mean}");
        assert_eq!(ramped.iter().sum::<usize>(), ENTRIES as usize);
        assert!(most * 10 <= mean * 13, "{most} beside a mean of {mean}");
        if let Ok(path) = std::env::var("RAMP_PLOT") {
            std::fs::write(path, plot(&at_once, &ramped)).unwrap();
        }
    }

    const WIDTH: f64 = 720.0;
    const HEIGHT: f64 = 320.0;
    const LEFT: f64 = 70.0;
    const BOTTOM: f64 = HEIGHT - 45.0;
    const TEXT: &str = "font-family:system-ui,sans-serif;font-size:12px;fill:#334155";

    /// Bars for each second, over a logarithmic axis.
    fn plot(at_once: &[usize], ramped: &[usize]) -> String {
        let across = |second: usize| (WIDTH - LEFT - 20.0).mul_add(second as f64 / ramped.len() as f64, LEFT);
        let up = |loads: usize| (loads.max(1) as f64).log10().mul_add(-(BOTTOM - 60.0) / 5.5, BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        let mut text = |x: f64, y: f64, anchor: &str, text: &str| {
            // Writing to a string can't fail.
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" style=\"{TEXT}\">{text}</text>"
            );
        };
        text(12.0, 22.0, "start", "Loads a second after a soft invalidation of 200,000 entries");
        text(WIDTH / 2.0, HEIGHT - 8.0, "middle", "seconds since the invalidation");
        for second in (0..=SECONDS).step_by(10) {
            text(across(second), BOTTOM + 18.0, "middle", &second.to_string());
        }
        for power in 0..=5 {
            let loads = 10_usize.pow(power);
            text(LEFT - 6.0, up(loads) + 4.0, "end", &loads.to_string());
        }
        let series = [("at once", "#ea580c", at_once), ("over 60 s", "#2563eb", ramped)];
        for (place, (name, _, loads)) in series.iter().enumerate() {
            let most = loads.iter().max().unwrap();
            text(
                LEFT + 60.0,
                16.0f64.mul_add(place as f64, 50.0),
                "start",
                &format!("{name}: at most {most} a second"),
            );
        }
        for (place, (_, colour, loads)) in series.iter().enumerate() {
            let y = 16.0f64.mul_add(place as f64, 41.0);
            let _ =
                writeln!(svg, "<rect x=\"{}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>", LEFT + 44.0);
            for (second, loads) in loads.iter().enumerate().filter(|(_, loads)| **loads > 0) {
                let (x, y) = (across(second), up(*loads));
                // The bar of the first second has the other one beside it.
                let (x, width) = (4.0f64.mul_add(place as f64, x), 4.0);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width}\" height=\"{:.1}\" fill=\"{colour}\"/>",
                    BOTTOM - y
                );
            }
        }
        svg + "</svg>\n"
    }
}
