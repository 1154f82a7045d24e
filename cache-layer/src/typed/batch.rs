//! One load of many keys: leases are taken together, the load is called once for all keys that this call leads, and its results
//! are stored together.
//!
//! Each key has its own flight, lease and commit, so that a key that fails, is invalidated, or is loaded elsewhere holds up no
//! other. While the load runs, the call waits for the keys that another process loads; in the rare case that such a wait is in
//! vain, the load is called again, for those keys.

use std::{collections::HashMap, hash::Hash, pin::Pin, pin::pin, sync::Arc};

use futures_util::{FutureExt as _, StreamExt as _, future::join_all, stream::FuturesUnordered};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;

use super::{
    ask::{Ask, LoadResult},
    loaded::{Loaded, Stale},
    terms::Lock,
    value::Hit,
};
use crate::{
    engine::{
        Cache,
        flight::{Flight, FlightOutcome, ReplyTo},
        miss::{AttemptNow, Found, Miss},
        patience::{LONGEST_PAUSE, Patience},
        permit::{Purpose, WritePermit},
    },
    inherit::{self, Reads},
    key::Key,
    telemetry::NoCacheReason,
};

/// A key to load, and its stale value, if there is one.
pub(super) type Wanted<K, V> = (K, Option<Stale<V>>);
type Brought<K, V, E> = Result<Vec<(K, Result<Loaded<V>, E>)>, E>;
type Loading<K, V, E> = Pin<Box<dyn Future<Output = Brought<K, V, E>> + Send>>;
/// The load of many keys, which may be called more than once.
pub(super) type LoadMany<K, V, E> = Arc<dyn Fn(Vec<Wanted<K, V>>) -> Loading<K, V, E> + Send + Sync>;

/// The result of one key's part of the load. A call that can't share it calls the load by itself.
pub(super) type Part<V, E> = LoadResult<Option<V>, E, ()>;

/// A key that a call leads.
pub(super) struct Led<K, V, E> {
    pub(super) id: K,
    pub(super) ask: Ask<Option<V>>,
    pub(super) flight: Flight,
    pub(super) miss: Miss,
    pub(super) patience: Patience,
    /// The key has waited in vain for another process. If it is not there by now, it is loaded, and not stored.
    pub(super) is_impatient: bool,
    pub(super) purpose: Purpose,
    pub(super) reply_to: ReplyTo<Part<V, E>>,
}

/// A key that is about to be loaded.
struct Granted<K, V, E> {
    id: K,
    ask: Ask<Option<V>>,
    permit: Box<WritePermit>,
    miss: Miss,
    purpose: Purpose,
    reply_to: ReplyTo<Part<V, E>>,
}

/// The senders of the parts of a load, by their keys.
type Parts<K, V, E> = HashMap<K, oneshot::Sender<Received<V, E>>>;

/// The wait of a key for another process's load; then the key is looked up again.
type Wait<K, V, E> = Pin<Box<dyn Future<Output = Led<K, V, E>> + Send>>;

/// Leads the flights of `wanted` to their ends.
pub(super) async fn lead<K, V, E>(mut wanted: Vec<Led<K, V, E>>, load: LoadMany<K, V, E>)
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Serialize + DeserializeOwned + Send + 'static,
    E: Clone + Send + Sync + 'static,
{
    let (mut waits, mut loads) = (FuturesUnordered::<Wait<K, V, E>>::new(), FuturesUnordered::new());
    loop {
        let mut granted = Vec::with_capacity(wanted.len());
        for attempted in meanwhile(&mut loads, join_all(wanted.into_iter().map(Led::attempt))).await {
            match attempted {
                Attempted::Granted(one) => granted.push(*one),
                Attempted::Waits(wait) => waits.push(wait),
                Attempted::Ended => {}
            }
        }
        if !granted.is_empty() {
            loads.push(load_all(granted, &load));
        }
        let waited = loop {
            tokio::select! {
                biased;
                Some(waited) = waits.next() => break waited,
                Some(()) = loads.next() => {}
                else => return,
            }
        };
        let ended = together(waited, &mut waits).await;
        wanted = meanwhile(&mut loads, look_again(ended)).await;
    }
}

/// The result of `step`; the loads go on meanwhile, however slow the store is.
async fn meanwhile<T>(loads: &mut FuturesUnordered<impl Future<Output = ()>>, step: impl Future<Output = T>) -> T {
    let mut step = pin!(step);
    loop {
        tokio::select! {
            biased;
            done = &mut step => return done,
            Some(()) = loads.next() => {}
        }
    }
}

/// The keys whose waits end with that of `first`, such as those of one load of another process, so that they are continued
/// together.
async fn together<K, V, E>(first: Led<K, V, E>, waits: &mut FuturesUnordered<Wait<K, V, E>>) -> Vec<Led<K, V, E>> {
    let mut ended = vec![first];
    while let Some(Some(more)) = waits.next().now_or_never() {
        ended.push(more);
    }
    if ended.iter().any(|led| led.is_impatient) {
        // All keys of a call have one deadline. Their timers may wake them one by one, and those that have heard of another
        // process just before it have just asked again: for all of them, the wait is over.
        ended.extend(waits.collect::<Vec<_>>().await);
        ended.iter_mut().for_each(|led| led.is_impatient = true);
    }
    ended
}

/// The result of asking for the right to load a key.
enum Attempted<K, V, E> {
    Granted(Box<Granted<K, V, E>>),
    /// Another process loads it, or it is changing.
    Waits(Wait<K, V, E>),
    Ended,
}

impl<K, V, E> Led<K, V, E>
where
    K: Send + 'static,
    V: Serialize + DeserializeOwned + Send + 'static,
    E: Clone + Send + Sync + 'static,
{
    async fn attempt(self) -> Attempted<K, V, E> {
        let Self { id, ask, flight, miss, mut patience, is_impatient, purpose, reply_to } = self;
        let cache = ask.cache.clone();
        let policy = ask.failure_policy(&miss);
        let attempted = match is_impatient {
            true => AttemptNow::Held(flight),
            false => cache.attempt(flight, &ask.key, miss.expected, policy).await,
        };
        let attempted = match attempted {
            AttemptNow::Held(flight) if is_impatient || ask.lock != Lock::Fleet => {
                cache.attempt_at_last(flight, &ask.key, policy).await
            }
            attempted => attempted,
        };
        let (flight, is_held) = match attempted {
            AttemptNow::Granted(permit) => {
                return Attempted::Granted(Box::new(Granted { id, ask, permit, miss, purpose, reply_to }));
            }
            AttemptNow::Uncacheable => {
                reply_to.send(LoadResult::Unshared(()));
                return Attempted::Ended;
            }
            AttemptNow::BackedOff(_) => {
                reply_to.send(ask.while_backing_off(&miss, ()));
                return Attempted::Ended;
            }
            AttemptNow::Held(flight) => (flight, true),
            AttemptNow::Changed(flight) => (flight, false),
        };
        Attempted::Waits(Box::pin(async move {
            let looks_again = match is_held {
                true => cache.wait_out(&ask.key, &mut patience).await,
                false => patience.again(LONGEST_PAUSE, std::time::Duration::ZERO).await,
            };
            Self { id, ask, flight, miss, patience, is_impatient: !looks_again, purpose, reply_to }
        }))
    }
}

/// Looks the keys up again, in one round trip; those that are found are answered.
async fn look_again<K, V, E>(led: Vec<Led<K, V, E>>) -> Vec<Led<K, V, E>>
where
    V: DeserializeOwned + 'static,
{
    let Some(cache) = led.first().map(|led| led.ask.cache.clone()) else { return led };
    let (looking, mut wanted): (Vec<_>, Vec<_>) =
        led.into_iter().partition(|led| led.miss.reached_store() && !led.ask.is_refresh());
    let keys: Vec<Key> = looking.iter().map(|led| led.ask.key.clone()).collect();
    for (mut led, found) in looking.into_iter().zip(find_again::<V>(&cache, &keys).await) {
        match found {
            Found::Fresh(hit) => {
                led.flight.finish(FlightOutcome::Found);
                led.reply_to.send(LoadResult::Found(hit));
            }
            Found::Stale(_, miss) | Found::Missing(miss) => {
                led.miss = miss;
                wanted.push(led);
            }
        }
    }
    wanted
}

async fn find_again<V: DeserializeOwned + 'static>(cache: &Cache, keys: &[Key]) -> Vec<Found<Hit<Option<V>>>> {
    if keys.is_empty() {
        return Vec::new();
    }
    let (retrieved, now) = (cache.lookup_many(keys).await, cache.now());
    keys.iter().zip(retrieved).map(|(key, retrieved)| cache.judge(key, retrieved, now)).collect()
}

/// Calls the load once for all `granted` keys, and stores its results.
async fn load_all<K, V, E>(mut granted: Vec<Granted<K, V, E>>, load: &LoadMany<K, V, E>)
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Serialize + DeserializeOwned + Send + 'static,
    E: Clone + Send + Sync + 'static,
{
    granted.retain_mut(Granted::is_useful);
    let Some(first) = granted.first() else { return };
    // One load has one place, for any number of keys.
    let ask = first.ask.clone();
    let purposes: Vec<_> = granted.iter().map(|one| one.purpose).collect();
    let Ok(place) = ask.place(purposes.into_iter(), granted.iter_mut().map(|one| &mut *one.permit)) else {
        return granted.into_iter().for_each(|mut one| one.permit.leave_out());
    };
    let keys: Vec<Key> = granted.iter().map(|one| one.ask.key.clone()).collect();
    let elsewhere: Vec<_> = granted.iter().filter_map(Granted::loaded_elsewhere).collect();
    let (mut wanted, mut senders) = (Vec::with_capacity(granted.len()), HashMap::with_capacity(granted.len()));
    let mut parts = Vec::with_capacity(granted.len());
    for one in granted {
        wanted.push((one.id.clone(), one.ask.former(&one.miss).and_then(Stale::transpose)));
        let (sender, receiver) = oneshot::channel();
        senders.insert(one.id.clone(), sender);
        parts.push(one.end(receiver));
    }
    let loading = async {
        let (enclosing, has_waited) = ask.placed(place).await;
        if has_waited && !elsewhere.is_empty() {
            hand_out_found(&ask.cache, elsewhere, &mut senders).await;
            wanted.retain(|(id, _)| senders.contains_key(id));
        }
        if wanted.is_empty() {
            return enclosing;
        }
        let began = ask.cache.now();
        let within = enclosing.clone().loading(&ask.cache, keys.iter());
        let (brought, reads) = inherit::collect(within.hold(async { load(wanted).await })).await;
        hand_out(brought, &reads, began, senders);
        enclosing
    };
    let mut ended = pin!(join_all(parts));
    // The load keeps its place until its results are stored: the next load may look for them.
    let _place = tokio::select! {
        biased;
        // No call waits for any of the keys any more.
        _ = &mut ended => return,
        place = loading => place,
    };
    ended.await;
}

/// One key's part of the load.
enum Received<V, E> {
    /// The result, what it is made from, and when the load began.
    Loaded((Result<Loaded<Option<V>>, E>, Reads), u64),
    /// Another process has stored this value while the load waited for its place.
    Found(Hit<Option<V>>),
}

/// Looks the keys that another process loads up once more, and gives those their parts that are there by now.
async fn hand_out_found<K, V, E>(cache: &Cache, elsewhere: Vec<(K, Key)>, senders: &mut Parts<K, V, E>)
where
    K: Eq + Hash,
    V: DeserializeOwned + 'static,
{
    let (ids, keys): (Vec<_>, Vec<_>) = elsewhere.into_iter().unzip();
    for (id, found) in ids.into_iter().zip(find_again::<V>(cache, &keys).await) {
        if let Found::Fresh(hit) = found
            && let Some(sender) = senders.remove(&id)
        {
            let _ = sender.send(Received::Found(hit));
        }
    }
}

/// Gives each key its part of the load's result: an absence, if the load left the key out.
fn hand_out<K, V, E>(brought: Brought<K, V, E>, reads: &Reads, began: u64, mut senders: Parts<K, V, E>)
where
    K: Eq + Hash,
    E: Clone,
{
    let loaded = |part: Result<Loaded<Option<V>>, E>| Received::Loaded((part, reads.clone()), began);
    // A part may have been abandoned.
    let left_out = match brought {
        Ok(values) => {
            for (id, value) in values {
                if let Some(sender) = senders.remove(&id) {
                    let _ = sender.send(loaded(value.map(|loaded| loaded.map(Some))));
                }
            }
            None
        }
        Err(error) => Some(error),
    };
    for (_, sender) in senders {
        let part = left_out.clone().map_or_else(|| Ok(Loaded::new(None)), Err);
        let _ = sender.send(loaded(part));
    }
}

impl<K, V, E> Granted<K, V, E>
where
    V: Serialize + DeserializeOwned + Send + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// Whether the load is of any use; if not, it counts as skipped.
    fn is_useful(&mut self) -> bool {
        let is_useful = self.permit.is_useful(self.purpose);
        if !is_useful {
            self.permit.leave_out();
        }
        is_useful
    }

    /// The key, if another process loads it, for which the call has waited in vain.
    fn loaded_elsewhere(&self) -> Option<(K, Key)>
    where
        K: Clone,
    {
        let may_be_there = self.permit.refusal() == Some(NoCacheReason::WaitedTooLong)
            && self.miss.reached_store()
            && !self.ask.is_refresh();
        may_be_there.then(|| (self.id.clone(), self.ask.key.clone()))
    }

    /// Keeps the lease until the load provides this key's part, and stores that.
    async fn end(self, part: oneshot::Receiver<Received<V, E>>) {
        let Self { ask, mut permit, miss, purpose, reply_to, .. } = self;
        permit.set_purpose(purpose, &ask.key);
        let demand = || ask.demand(reply_to.is_awaited());
        match permit.while_loading(part, demand).await {
            None => permit.abandon(),
            Some(Ok(Received::Found(hit))) => {
                permit.found();
                reply_to.send(LoadResult::Found(hit));
            }
            Some(Ok(Received::Loaded(loaded, began))) => ask.conclude(permit, &miss, loaded, began, reply_to).await,
            // The load panicked.
            Some(Err(_)) => drop(permit),
        }
    }
}
