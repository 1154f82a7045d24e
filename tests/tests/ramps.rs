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
