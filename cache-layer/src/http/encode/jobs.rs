//! The encodings under way. No request ever waits for one.

use std::{collections::HashSet, fmt, sync::Arc, thread::available_parallelism, time::Instant};

use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{spawn_blocking, yield_now},
};

use crate::{
    coding::Encoder,
    engine::Cache,
    entry::{Entry, EntryId, Form},
    key::Key,
    store::Amended,
    sync::Mutex,
    telemetry::Event,
};

/// Content of this length or more is encoded on another thread, so that it does not delay requests on this one; for shorter
/// content, at the default level or a lower one, switching threads would take longer.
const LONG: usize = 32 * 1024;
/// The most entries that are remembered because their encoded form could not be kept for lack of room.
const NOT_KEPT: usize = 10_000;

/// The encodings under way of one layer. Clones share them.
#[derive(Clone)]
pub(in crate::http) struct Jobs(Arc<Inner>);

struct Inner {
    room: Arc<Semaphore>,
    work: Mutex<Work>,
}

#[derive(Default)]
struct Work {
    under_way: HashSet<(EntryId, Encoder)>,
    not_kept: HashSet<(EntryId, Encoder)>,
}

impl Default for Jobs {
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self::at_once((processors / 2).max(1))
    }
}

impl Jobs {
    pub(in crate::http) fn at_once(most: usize) -> Self {
        Self(Arc::new(Inner { room: Arc::new(Semaphore::new(most)), work: Mutex::default() }))
    }

    /// Encodes an entry for later requests, in a task of its own, if the entry is kept in memory here and one more may run.
    pub(in crate::http) fn start(&self, cache: &Cache, entry: &Entry, encoder: Encoder) {
        // Without a runtime, as in a test with Tower's tools, there is no place to run it.
        if !cache.keeps_additions() || Handle::try_current().is_err() {
            return;
        }
        let Some(job) = self.job(entry.id(), encoder) else { return };
        let key = Key::of_canonical(entry.canonical());
        let Some(entry) = cache.peek(&key).filter(|kept| kept.id() == entry.id()) else { return };
        let encoding = job.encode_in(cache.clone(), key, entry);
        drop(cache.spawn(encoding));
    }

    /// The content in this coding, if an encoder is free.
    pub(super) async fn encode(&self, cache: &Cache, entry: &Entry, encoder: Encoder) -> Form {
        match self.job(entry.id(), encoder) {
            Some(_job) => encode(cache, entry.payload().clone(), encoder).await,
            None => Form::Unmade,
        }
    }

    /// As [`encode`](Self::encode), for a store that compresses what has no coding: a short zstd frame costs no more than that,
    /// so that it needs no free encoder.
    pub(super) async fn encode_for_store(&self, cache: &Cache, entry: &Entry, encoder: Encoder) -> Form {
        match encoder.coding().is_zstd() && is_quick(encoder, entry.payload().len()) {
            true => encode_here(cache, entry.payload(), encoder),
            false => self.encode(cache, entry, encoder).await,
        }
    }

    /// The right to encode this entry; `None` if as many run as may, or if it is already being encoded, or could not be kept
    /// before.
    fn job(&self, entry: EntryId, encoder: Encoder) -> Option<Job> {
        let room = self.0.room.clone().try_acquire_owned().ok()?;
        let mut work = self.0.work.lock();
        let is_new = !work.not_kept.contains(&(entry, encoder)) && work.under_way.insert((entry, encoder));
        is_new.then(|| Job { jobs: self.clone(), entry, encoder, _room: room })
    }
}

/// One entry that is being encoded.
struct Job {
    jobs: Jobs,
    entry: EntryId,
    encoder: Encoder,
    _room: OwnedSemaphorePermit,
}

impl Job {
    async fn encode_in(self, cache: Cache, key: Key, entry: Entry) {
        // The client whose request caused this is answered first.
        yield_now().await;
        let Some(entry) = entry.inflated() else { return };
        let encoder = self.encoder;
        let form = encode(&cache, entry.payload().clone(), encoder).await;
        drop(entry);
        // An entry that is gone may come back from the store behind this memory, with the same id.
        if form == Form::Unmade
            || cache.amend(&key, self.entry, |kept| kept.clone().with_form(encoder, form.clone())) == Amended::NoRoom
        {
            self.is_not_kept();
        }
    }

    fn is_not_kept(&self) {
        let mut work = self.jobs.0.work.lock();
        if work.not_kept.len() >= NOT_KEPT {
            // Searching for expired entries would take longer than encoding some of them once more.
            work.not_kept.clear();
        }
        work.not_kept.insert((self.entry, self.encoder));
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.jobs.0.work.lock().under_way.remove(&(self.entry, self.encoder));
    }
}

/// Whether content of this length is encoded so soon that requests on the same thread can wait for it.
fn is_quick(encoder: Encoder, length: usize) -> bool {
    length < LONG && !encoder.is_above_default()
}

/// Encodes content without delaying requests on this thread.
async fn encode(cache: &Cache, content: Bytes, encoder: Encoder) -> Form {
    if is_quick(encoder, content.len()) {
        return encode_here(cache, &content, encoder);
    }
    let cache = cache.clone();
    // It fails if it panics, or if the runtime is shutting down.
    spawn_blocking(move || encode_here(&cache, &content, encoder)).await.unwrap_or_default()
}

/// Encodes content, and emits the event.
fn encode_here(cache: &Cache, content: &Bytes, encoder: Encoder) -> Form {
    let begun = Instant::now();
    let coded = encoder.encode(content);
    cache.emit(Event::Encoded {
        coding: encoder.coding(),
        content: content.len() as u64,
        coded: coded.as_ref().map(|coded| coded.len() as u64),
        duration: begun.elapsed(),
    });
    coded.map_or(Form::InVain, Form::Made)
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("room", &self.0.room.available_permits()).finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "encode", feature = "memory"))]
mod tests {
    use super::*;
    use crate::{coding::Coding, entry::Deadlines, store::MemoryStore};

    const GZIP: Encoder = Encoder::usual(Coding::Gzip);
    const BROTLI: Encoder = Encoder::usual(Coding::Brotli);

    fn entry(number: usize) -> Entry {
        let key = Key::new([number.to_string()]);
        let text = Bytes::from(format!("number {number}. ").repeat(100));
        let deadlines = Deadlines::fresh_until(crate::clock::Clock::system().now() + 60_000);
        Entry::new(EntryId::random(), &key, deadlines, Bytes::new(), text)
    }

    fn key(entry: &Entry) -> Key {
        Key::of_canonical(entry.canonical())
    }

    async fn cache_with(entries: &[Entry]) -> Cache {
        let cache = Cache::new(MemoryStore::new(1 << 20));
        for entry in entries {
            cache.put_alias((key(entry), entry.clone())).await;
        }
        cache
    }

    fn forms(cache: &Cache, entries: &[Entry]) -> usize {
        let is_made =
            |entry: &&Entry| cache.peek(&key(entry)).is_some_and(|kept| matches!(kept.form(GZIP), Form::Made(_)));
        entries.iter().filter(is_made).count()
    }

    #[tokio::test]
    async fn what_has_no_room_is_not_waited_for() {
        let entries: Vec<_> = (0..10).map(entry).collect();
        let cache = cache_with(&entries).await;
        let jobs = Jobs::at_once(2);
        entries.iter().for_each(|entry| jobs.start(&cache, entry, GZIP));
        assert!(cache.drain(std::time::Duration::from_secs(10)).await);
        assert_eq!(forms(&cache, &entries), 2, "the others had no room, and nothing was queued");
        jobs.start(&cache, &entries[9], GZIP);
        assert!(cache.drain(std::time::Duration::from_secs(10)).await);
        assert_eq!(forms(&cache, &entries), 3);
    }

    #[tokio::test]
    async fn one_thing_is_encoded_once_at_a_time() {
        let entry = entry(0);
        let cache = cache_with(std::slice::from_ref(&entry)).await;
        let jobs = Jobs::at_once(8);
        let job = jobs.job(entry.id(), GZIP).unwrap();
        assert!(jobs.job(entry.id(), GZIP).is_none());
        assert!(jobs.job(entry.id(), BROTLI).is_some());
        assert_eq!(jobs.encode(&cache, &entry, GZIP).await, Form::Unmade);
        drop(job);
        assert!(matches!(jobs.encode(&cache, &entry, GZIP).await, Form::Made(_)));
    }

    #[tokio::test]
    async fn what_was_removed_meanwhile_stays_gone() {
        let entry = entry(0);
        let cache = cache_with(std::slice::from_ref(&entry)).await;
        let jobs = Jobs::at_once(1);
        jobs.start(&cache, &entry, GZIP);
        cache.invalidate(&key(&entry)).await.unwrap();
        assert!(cache.drain(std::time::Duration::from_secs(10)).await);
        assert!(cache.peek(&key(&entry)).is_none());
        jobs.start(&cache, &entry, GZIP);
        assert_eq!(cache.loads_in_flight(), 0, "there is nothing to encode");
    }

    /// The memory may be the first tier of a store that still has it.
    #[tokio::test]
    async fn what_left_the_memory_meanwhile_is_encoded_when_it_is_back() {
        let entry = entry(0);
        let cache = cache_with(std::slice::from_ref(&entry)).await;
        let jobs = Jobs::at_once(1);
        jobs.start(&cache, &entry, GZIP);
        cache.invalidate(&key(&entry)).await.unwrap();
        assert!(cache.drain(std::time::Duration::from_secs(10)).await);
        cache.put_alias((key(&entry), entry.clone())).await;
        jobs.start(&cache, &entry, GZIP);
        assert!(cache.drain(std::time::Duration::from_secs(10)).await);
        assert_eq!(forms(&cache, std::slice::from_ref(&entry)), 1);
    }

    #[tokio::test]
    async fn what_has_no_room_in_its_store_is_not_tried_again() {
        let noise: String = (0..4_000).map(|_| fastrand::char('a'..='f')).collect();
        let deadlines = Deadlines::fresh_until(crate::clock::Clock::system().now() + 60_000);
        let entry = Entry::new(EntryId::random(), &Key::new(["noise"]), deadlines, Bytes::new(), noise.into());
        let store = MemoryStore::new(1 << 20);
        Cache::new(store.clone()).put_alias((key(&entry), entry.clone())).await;
        // An entry may take 95 of 100 bytes of its shard.
        let cache = Cache::new(MemoryStore::new((store.bytes() / 95 + 1) * 100));
        cache.put_alias((key(&entry), entry.clone())).await;
        assert!(cache.peek(&key(&entry)).is_some());
        let jobs = Jobs::at_once(1);
        jobs.start(&cache, &entry, GZIP);
        assert!(cache.drain(std::time::Duration::from_secs(10)).await);
        assert_eq!(forms(&cache, std::slice::from_ref(&entry)), 0);
        assert!(jobs.job(entry.id(), GZIP).is_none());
        assert!(jobs.job(entry.id(), BROTLI).is_some());
    }

    /// What takes long has a thread of its own, and needs a free encoder, whatever the store.
    #[tokio::test]
    async fn only_what_a_store_would_do_as_well_needs_no_free_encoder() {
        let key = Key::new(["long"]);
        let deadlines = Deadlines::fresh_until(crate::clock::Clock::system().now() + 60_000);
        let text = Bytes::from("number. ".repeat(LONG));
        let (short, long) = (entry(0), Entry::new(EntryId::random(), &key, deadlines, Bytes::new(), text));
        let cache = cache_with(&[short.clone(), long.clone()]).await;
        let [usual, highest] = [3, 19].map(|level| Encoder::at(Coding::Zstd, level).unwrap());
        assert!(is_quick(usual, LONG - 1) && !is_quick(usual, LONG));
        assert!(!is_quick(highest, 1), "its level makes up for its length");
        assert!(is_quick(Encoder::at(Coding::Brotli, 1).unwrap(), LONG - 1));

        let jobs = Jobs::at_once(1);
        let busy = jobs.job(EntryId::random(), GZIP);
        for (entry, encoder, is_made) in [(&short, usual, true), (&short, highest, false), (&long, usual, false)] {
            let form = jobs.encode_for_store(&cache, entry, encoder).await;
            assert_eq!(form != Form::Unmade, is_made, "{encoder} {}", entry.payload().len());
        }
        drop(busy);
        for (entry, encoder) in [(&short, highest), (&long, usual)] {
            assert!(matches!(jobs.encode_for_store(&cache, entry, encoder).await, Form::Made(_)));
        }
    }

    #[tokio::test]
    async fn what_took_its_place_meanwhile_gets_nothing_of_it() {
        let (old, new) = (entry(0), entry(0));
        let cache = cache_with(std::slice::from_ref(&old)).await;
        Jobs::at_once(1).start(&cache, &old, GZIP);
        cache.put_alias((key(&new), new.clone())).await;
        assert!(cache.drain(std::time::Duration::from_secs(10)).await);
        let kept = cache.peek(&key(&new)).unwrap();
        assert_eq!((kept.id(), kept.form(GZIP)), (new.id(), &Form::Unmade));
    }

    #[test]
    fn without_a_runtime_nothing_is_started() {
        let entry = entry(0);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let cache = runtime.block_on(cache_with(std::slice::from_ref(&entry)));
        Jobs::at_once(1).start(&cache, &entry, GZIP);
        assert_eq!(cache.loads_in_flight(), 0);
    }
}
