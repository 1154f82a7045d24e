//! Shadow verification: some fresh hits are loaded again in the background, to compare. This module has no write permits, and
//! so can't store anything. It uses spare places only, and gives its place to a request that waits for one.

use std::time::Duration;

use tokio::time::{Instant, sleep};

#[cfg(feature = "typed")]
use super::cache::{Reading, Retrieved};
use super::{
    cache::Cache,
    load_limit::{LoadLimit, LoadPermit},
    verifier::{Print, Run, Turn, Verifier},
};
use crate::{
    clock::deadline,
    entry::Entry,
    key::Key,
    policy::Verify,
    telemetry::{Event, Named},
    throttle::Throttle,
};

/// How often a verification checks whether a request waits for its place.
const BEAT: Duration = Duration::from_millis(20);

/// One verification that is under way, until it is dropped. It can only compare.
pub(crate) struct Verification {
    cache: Cache,
    verifier: Verifier,
    key: Key,
    limit: LoadLimit,
    _run: Run,
}

impl Cache {
    /// Begins to verify a hit of `key` that has this turn, for a front end whose loads have this limit. `found`: the entry that
    /// was hit, if that is known.
    pub(crate) fn verification(
        &self,
        turn: Turn<'_>,
        key: &Key,
        found: Option<&Entry>,
        limit: &LoadLimit,
    ) -> Option<Verification> {
        turn.enter(key, found).map(|run| Verification {
            cache: self.clone(),
            verifier: turn.verifier.clone(),
            key: key.clone(),
            limit: limit.clone(),
            _run: run,
        })
    }

    /// Runs a verification in a task of its own. [`drain`](Cache::drain) does not wait for it: no client does, it stores nothing, and
    /// the application may hang.
    pub(crate) fn spawn_verification(&self, verification: impl Future<Output = ()> + Send + 'static) {
        self.0.flights.spawn_verification(verification);
    }

    /// Returns once no verification is under way.
    #[cfg(feature = "testing")]
    pub(crate) async fn verifications_ended(&self) {
        self.0.flights.verifications_ended().await;
    }
}

impl Verification {
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn settings(&self) -> &Verify {
        self.verifier.settings()
    }

    /// A place for its load, if there is one to spare.
    pub(crate) fn place(&self) -> Option<LoadPermit> {
        self.limit.spare()
    }

    /// The result of `load` in this place; `None` if it takes longer than a load may, or a request waits for the place.
    pub(crate) async fn load<T>(&self, place: LoadPermit, load: impl Future<Output = T>) -> Option<T> {
        let in_the_way = async {
            let end = deadline(self.cache.longest_load());
            while Instant::now() < end && !self.limit.is_contended() {
                sleep(BEAT).await;
            }
        };
        let loaded = tokio::select! {
            biased;
            loaded = load => Some(loaded),
            () = in_the_way => None,
        };
        drop(place);
        loaded
    }

    /// Whether its key still has this entry, as it was when it was found: neither invalidated nor replaced since.
    #[cfg(feature = "typed")]
    pub(crate) async fn finds_again(&self, entry: &Entry) -> bool {
        let Self { cache, key, .. } = self;
        let now = match cache.peek(key) {
            Some(now) => now,
            None => match cache.read(key, Reading::Inspection).await {
                Retrieved::Found(now) => now,
                Retrieved::Missing(_) | Retrieved::Unavailable => return false,
            },
        };
        now.version() == entry.version() && now.is_taken_for_current(cache.now())
    }

    /// Compares an entry of this age with the load, and reports the result. The entry was found again after the load: what an
    /// invalidation has just made stale is no news.
    pub(crate) async fn compare(&self, entry: &Entry, age: Duration, stored: Print, loaded: Print) {
        let Self { cache, verifier, key, .. } = self;
        if let Some(before) = verifier.take_doubt(entry) {
            return self.compare_again(before == loaded).await;
        }
        let differs = stored.differs_from(&loaded);
        cache.emit(Event::Verified { same: differs.is_none(), age });
        cache.tell(&Named::Verified { key, age, differs });
        if differs.is_some() {
            verifier.doubts(key, entry, loaded);
        }
    }

    /// Reports that an entry in doubt was loaded once more; `stable` if the result was the same as before.
    async fn compare_again(&self, stable: bool) {
        let Self { cache, verifier, key, .. } = self;
        cache.emit(Event::VerifiedAgain { stable });
        cache.tell(&Named::VerifiedAgain { key, stable });
        say(key, stable);
        if !stable || !verifier.settings().softens() {
            return;
        }
        // If another entry has just replaced it, that one is refreshed once more, too.
        if let Err(error) = cache.soft_invalidate(&key.primary()).await {
            tracing::debug!(%error, "a stale entry is not soft-invalidated everywhere yet");
        }
    }
}

/// Logs, at most once in a while, the result of a second load.
fn say(key: &Key, stable: bool) {
    static THROTTLE: Throttle = Throttle::new();
    if let Some(kept_back) = THROTTLE.pass() {
        let found = if stable { "what is taken to be fresh is stale" } else { "what is loaded differs each time" };
        // Not the key itself, which may contain one client's cookies, or a credential.
        tracing::info!(key = %key.digest(), kept_back, "{found}");
    }
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        engine::verifier::{AT_ONCE, DOUBT, Running},
        entry::{Deadlines, EntryId},
        store::MemoryStore,
    };

    fn entry_of(key: &Key) -> Entry {
        Entry::new(EntryId::random(), key, Deadlines::fresh_until(1), Bytes::new(), Bytes::new())
    }

    fn print(body: u128) -> Print {
        Print { status: 200, fields: 7, body }
    }

    #[tokio::test(start_paused = true)]
    async fn what_differs_is_loaded_again_out_of_the_same_budget() {
        let cache = Cache::new(MemoryStore::new(1 << 20));
        let verifier = Verifier::new(Some(&Verify::new(0.1)), None, &Running::default()).unwrap();
        let (one, other) = (Key::new(["one"]), Key::new(["other"]));
        let limit = LoadLimit::default();
        let entries = [&one, &other].map(entry_of);
        let (mut loads, mut again) = (0, 0);
        for hit in 1..=2_000 {
            let (key, entry) = if hit % 3 == 0 { (&one, &entries[0]) } else { (&other, &entries[1]) };
            let verification = |turn| cache.verification(turn, key, Some(entry), &limit);
            if let Some(verification) = verifier.turn(key).and_then(verification) {
                loads += 1;
                let before = cache.counts().unstable;
                // It never says the same twice.
                verification.compare(entry, Duration::ZERO, print(0), print(hit)).await;
                again += cache.counts().unstable - before;
            }
            assert!(f64::from(loads) <= (hit as f64 * 0.1).ceil(), "{loads} of {hit}");
        }
        let counts = cache.counts();
        assert!(loads > 150 && again > 50, "{loads} {again}");
        assert_eq!((counts.verified, counts.differing), (u64::try_from(loads).unwrap() - again, counts.verified));
        assert_eq!((counts.unstable, counts.stale_for_certain), (again, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubt_is_about_one_entry_and_ends() {
        let cache = Cache::new(MemoryStore::new(1 << 20));
        let verifier = Verifier::new(Some(&Verify::new(1.0)), None, &Running::default()).unwrap();
        let (key, limit) = (Key::new(["k"]), LoadLimit::default());
        let (first, second) = (entry_of(&key), entry_of(&key));
        let compare = async |entry, loaded| {
            let verification = verifier
                .turn(&key)
                .and_then(|turn| cache.verification(turn, &key, Some(entry), &limit))
                .expect("each hit is verified");
            verification.compare(entry, Duration::ZERO, print(0), print(loaded)).await;
        };
        compare(&first, 1).await;
        compare(&first, 1).await;
        assert_eq!((cache.counts().verified, cache.counts().stale_for_certain), (1, 1));
        compare(&first, 1).await;
        compare(&second, 0).await;
        assert_eq!(
            (cache.counts().verified, cache.counts().differing, cache.counts().unstable),
            (3, 2, 0),
            "another entry"
        );
        compare(&first, 1).await;
        tokio::time::advance(2 * DOUBT).await;
        compare(&first, 2).await;
        assert_eq!((cache.counts().verified, cache.counts().unstable), (5, 0), "too late to tell");
    }

    #[tokio::test(start_paused = true)]
    async fn it_takes_spare_room_alone_and_gives_way() {
        let cache = Cache::builder(MemoryStore::new(1 << 20)).max_loads(2).build();
        let verifier = Verifier::new(Some(&Verify::new(1.0)), None, &Running::default()).unwrap();
        let (key, limit) = (Key::new(["k"]), cache.load_limit().clone());
        let verification = verifier.turn(&key).and_then(|turn| cache.verification(turn, &key, None, &limit)).unwrap();
        let place = verification.place().expect("both are free");
        assert!(verification.place().is_none(), "the last place is not for it");
        let other = limit.take().expect("that is for requests");
        let waiting = tokio::spawn({
            let limit = limit.clone();
            async move { limit.wait(Instant::now() + Duration::from_secs(60)).await }
        });
        let began = Instant::now();
        assert!(verification.load(place, std::future::pending::<()>()).await.is_none());
        assert!(began.elapsed() < cache.longest_load() / 2, "a request waits");
        assert!(waiting.await.unwrap().is_some());
        drop(other);
        let place = verification.place().expect("both are free again");
        let began = Instant::now();
        assert!(verification.load(place, std::future::pending::<()>()).await.is_none());
        assert!(began.elapsed() >= cache.longest_load());
    }

    #[test]
    fn only_so_many_run_at_one_time() {
        let cache = Cache::new(MemoryStore::new(1 << 20));
        let verifier = Verifier::new(Some(&Verify::new(1.0)), None, &Running::default()).unwrap();
        let (key, limit) = (Key::new(["k"]), LoadLimit::default());
        let mut running: Vec<_> = (0..AT_ONCE)
            .map(|_| verifier.turn(&key).and_then(|turn| cache.verification(turn, &key, None, &limit)).unwrap())
            .collect();
        assert!(verifier.turn(&key).and_then(|turn| cache.verification(turn, &key, None, &limit)).is_none());
        running.pop();
        assert!(verifier.turn(&key).and_then(|turn| cache.verification(turn, &key, None, &limit)).is_some());
    }
}
