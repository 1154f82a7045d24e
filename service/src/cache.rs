//! The cache in front of the API: where it stores responses, which ones, and when they are invalid.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::Router;
use cache_layer::{
    Cache, CacheLayer, Encode, InvalidateError, Rules,
    store::{MemoryStore, RedisStore, TieredStore},
};
use cache_layer_admin::{Admin, PurgeLayer, PurgeRule, Recorder, TokenHandle};
use serde::Serialize;
use tokio::sync::Mutex;
use tracing::{instrument::WithSubscriber as _, subscriber::NoSubscriber};
use utoipa::ToSchema;

use crate::{
    config::{CacheRules, CacheSwitch, Config, ConfigError},
    telemetry::{Throttle, metrics::Metrics},
};

/// The name of the cache in metrics and traces.
const NAME: &str = "products";

/// A handle on the cache; clones share it.
#[derive(Clone)]
pub(crate) struct ProductCache {
    /// `None` if the cache is switched off: then nothing is stored, and there is nothing to invalidate.
    cache: Option<Cache>,
    layer: Option<CacheLayer>,
    redis: Option<RedisStore>,
    memory: Option<Memory>,
    /// The recorder for the operator's page, if its port is configured.
    recorder: Option<Recorder>,
    lifetimes: Arc<ValueLifetimes>,
    rules: CacheRulesInUse,
}

/// The lifetimes of values from the database, in milliseconds.
#[derive(Default)]
struct ValueLifetimes {
    /// The longest lifetime of any response.
    found: AtomicU64,
    /// The same, or the longest one of an error: a response lives no longer than what it is made from.
    absent: AtomicU64,
}

impl ValueLifetimes {
    fn set(&self, found: Duration, absent: Duration) {
        let millis = |lifetime: Duration| u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        self.found.store(millis(found), Ordering::Relaxed);
        self.absent.store(millis(absent), Ordering::Relaxed);
    }
}

/// The rules, and the file that they were read from.
#[derive(Clone, Default)]
struct CacheRulesInUse {
    rules: Rules,
    file: Option<PathBuf>,
    /// The longest lifetime of any path.
    longest_path_ttl: Duration,
    /// Held from the read of the file until its rules apply, so that those of an older read never replace newer ones.
    reload: Arc<Mutex<()>>,
}

/// The result of reading the rules again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// The number of rules.
    pub rules: usize,
    /// The file of the rules.
    pub file: PathBuf,
}

/// The operator's side.
pub(crate) struct OperatorsSide {
    /// The page and the API.
    pub(crate) router: Router,
    /// The middleware for `PURGE` on the service's own port.
    pub(crate) purge: PurgeLayer,
    /// Replaces the token.
    pub(crate) token: TokenHandle,
}

/// The memory of this process that holds responses.
#[derive(Clone)]
enum Memory {
    All(MemoryStore),
    FirstTier(TieredStore),
}

impl Memory {
    /// Returns the number of entries.
    fn entries(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let memory = self.clone();
        move || match &memory {
            Self::All(store) => store.entries(),
            Self::FirstTier(store) => store.memory_entries(),
        }
    }
}

/// A read from the database. A change invalidates the stored value of the read and every response that was made from it.
pub(crate) enum Source {
    Product(i64),
    /// All products: any change of any product changes a list.
    Products,
    Categories,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Product(id) => write!(f, "product:{id}"),
            Self::Products => f.write_str("products"),
            Self::Categories => f.write_str("categories"),
        }
    }
}

/// The Redis behind the cache.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RedisHealth {
    pub(crate) connected: bool,
    /// The time of a round trip in milliseconds.
    #[schema(example = 0.21)]
    ping_ms: Option<f64>,
    #[schema(example = "1.03M")]
    used_memory_human: Option<String>,
    #[schema(example = 3)]
    connected_clients: Option<u64>,
    /// Whether it is full and evicts nothing, so that nothing more is stored.
    pub(crate) full: bool,
    /// Why it is not connected, or what to do about it if it is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    error: Option<String>,
}

/// The configured Redis, if any.
fn redis(config: &Config) -> Result<Option<RedisStore>, ConfigError> {
    let Some(url) = &config.redis_url else { return Ok(None) };
    let store = RedisStore::builder(url.expose())
        .prefix(&config.cache_prefix)
        .connections(config.redis_connections as usize)
        .operation_timeout(config.redis_timeout)
        .reclaim_every(Some(config.cache_reclaim).filter(|every| !every.is_zero()))
        .build()
        .map_err(|error| ConfigError::wrong("redis-url", url, error))?;
    Ok(Some(store))
}

/// The recorder, if the operator's port or the estimate of the memory size is configured.
fn recorder(config: &Config) -> Option<Recorder> {
    match (config.admin_sizing, config.admin_listen) {
        (true, _) => Some(Recorder::with_sizing()),
        (false, Some(_)) => Some(Recorder::new()),
        (false, None) => None,
    }
}

/// For how many keys hits are counted. Without a first tier, there is nothing to warm up.
fn hot_keys(config: &Config) -> usize {
    if config.cache_first_tier > 0 { config.cache_hot_keys as usize } else { 0 }
}

/// The configured codings.
fn encode(config: &Config) -> Encode {
    // Without a first tier, what no process has made before it is written is made by none.
    let keeps_none = config.redis_url.is_some() && config.cache_first_tier == 0;
    config.cache_encode.0.clone().unwrap_or_else(|| Encode::new([])).in_store(keeps_none)
}

/// The layer over `cache`, without rules.
fn layer(config: &Config, cache: &Cache) -> CacheLayer {
    CacheLayer::new(cache.clone())
        .ttl_for_paths(config.cache_paths.with_default(config.cache_default_ttl))
        .max_body(config.cache_max_body)
        .credentials(config.cache_credentials.iter().cloned())
        .etags(true)
        .encode(encode(config))
        .inherit(true)
        .verify(config.cache_verify)
}

impl ProductCache {
    /// Opens the store: Redis if its URL is configured, with a first tier if one is configured; otherwise memory; none if the cache
    /// is off. Does not wait for Redis.
    pub(crate) fn new(config: &Config, all_metrics: &Metrics) -> Result<Self, ConfigError> {
        let paths = config.cache_paths.with_default(config.cache_default_ttl);
        let longest_path_ttl = paths.map(|(_, ttl)| ttl).max().unwrap_or(config.cache_default_ttl);
        let file = config.cache_rules.as_ref().map(|rules| rules.file().to_owned());
        let rules = CacheRulesInUse { file, longest_path_ttl, ..CacheRulesInUse::default() };
        let without = Self {
            cache: None,
            layer: None,
            redis: None,
            memory: None,
            recorder: None,
            lifetimes: Arc::default(),
            rules,
        };
        if config.cache == CacheSwitch::Off {
            return Ok(without);
        }
        let redis = redis(config)?;
        let metrics = all_metrics.of_cache(NAME);
        let (cache, memory) = match (&redis, config.cache_first_tier) {
            (None, _) => {
                let store = MemoryStore::new(config.cache_memory);
                (Cache::builder(store.clone()), Some(Memory::All(store)))
            }
            (Some(redis), 0) => (Cache::builder(redis.clone()), None),
            (Some(redis), bytes) => {
                let store = TieredStore::new(bytes, redis.clone());
                (Cache::builder(store.clone()), Some(Memory::FirstTier(store)))
            }
        };
        match &memory {
            Some(Memory::All(store)) => metrics.watch_memory(store),
            Some(Memory::FirstTier(store)) => metrics.watch_first_tier(store),
            None => {}
        }
        if let Some(redis) = &redis {
            metrics.watch_redis(redis);
        }
        let recorder = recorder(config);
        if let (true, Some(recorder), Some(memory)) = (config.admin_sizing, &recorder, &memory) {
            all_metrics.watch_sizing(NAME, recorder, memory.entries());
        }
        let cache = match &recorder {
            Some(recorder) => cache.observer((metrics.observer(), recorder.clone())),
            None => cache.observer(metrics.observer()),
        };
        let cache = cache
            .hot_keys(hot_keys(config))
            .switches(true)
            .name(NAME)
            .keys_in_traces(config.trace_keys)
            .lock_timeout(config.cache_lock_timeout)
            .verify(config.cache_verify)
            .build();
        metrics.watch_cache(&cache);
        let layer = layer(config, &cache).rules(without.rules.rules.clone());
        let cache = Self { cache: Some(cache), layer: Some(layer), redis, memory, recorder, ..without };
        cache.rule_by(config.cache_rules.as_ref()).map_err(|why| ConfigError::wrong("cache-rules", "", why))?;
        Ok(cache)
    }

    /// The operator's side, to be served at `listen`; `None` if there is no port for that.
    pub(crate) fn admin(&self, config: &Config, listen: SocketAddr) -> Result<Option<OperatorsSide>, ConfigError> {
        let (Some(cache), Some(layer), Some(recorder)) = (&self.cache, &self.layer, &self.recorder) else {
            return Ok(None);
        };
        let mut admin = Admin::new(cache.clone()).name(NAME).layer(NAME, layer).recorder(recorder.clone());
        if let Some(redis) = &self.redis {
            admin = admin.redis(redis.clone());
        }
        admin = match &self.memory {
            Some(Memory::All(store)) => admin.memory(store.clone()),
            Some(Memory::FirstTier(store)) => admin.first_tier(store.clone()),
            None => admin,
        };
        if let Some(token) = &config.admin_token_file {
            let wrong =
                |error| ConfigError::Wrong(format!("the token in APP_ADMIN_TOKEN_FILE is not accepted: {error}"));
            admin = admin.token(token.token().expose()).map_err(wrong)?;
        }
        // Whoever reaches another address may come through a proxy or a sidecar on this machine.
        admin = admin.token_for_reading(!listen.ip().is_loopback());
        let token = admin.token_handle();
        let paths = config.admin_purge.iter().flat_map(|paths| &paths.0);
        let (router, purge) = admin.router_and_purge_layer(paths.map(PurgeRule::under));
        Ok(Some(OperatorsSide { router, purge, token }))
    }

    /// Returns once Redis is connected, or after `patience`.
    pub(crate) async fn wait_for_redis(&self, patience: Duration) {
        let Some(redis) = &self.redis else { return };
        if !redis.wait_connected(patience).await {
            let why = redis.status().await.error.unwrap_or_default();
            tracing::warn!("starting without Redis, which was not there within {patience:?}: {why}");
        }
    }

    /// Fetches into the first tier, if there is one, what other processes answer with most, as long as the configuration allows.
    /// Without Redis, or without other processes, it is over at once.
    pub(crate) async fn warm(&self, config: &Config) {
        let (Some(cache), Some(Memory::FirstTier(_))) = (&self.cache, &self.memory) else { return };
        if config.cache_warm.is_zero() || !self.redis.as_ref().is_some_and(RedisStore::connected) {
            return;
        }
        let warmed = cache.warm(config.cache_hot_keys as usize, config.cache_warm).await;
        if !warmed.first_tier {
            tracing::warn!(
                "nothing was fetched into the first tier, which is not used: an operator has turned it off, or Redis refuses                  CLIENT TRACKING"
            );
        }
        if warmed.nodes > 0 || warmed.refused_lists > 0 {
            tracing::info!(
                found = warmed.found,
                asked = warmed.asked,
                lists = warmed.nodes,
                refused_lists = warmed.refused_lists,
                complete = warmed.complete,
                "fetched what other processes answer with most"
            );
        }
    }

    /// Writes the list of this process' hottest keys for the processes that start next.
    pub(crate) async fn leave_hot_keys(&self) {
        let Some(cache) = &self.cache else { return };
        if let Err(error) = cache.leave_hot_keys().await {
            tracing::info!("the list of hot keys could not be published: {error}");
        }
    }

    /// Applies these rules to all requests from now on.
    fn rule_by(&self, rules: Option<&CacheRules>) -> Result<(), cache_layer::ConfigError> {
        self.rules.rules.replace(rules.iter().flat_map(|rules| rules.rules.iter().cloned()))?;
        let longest = |of_rules: Option<Duration>, least: Duration| of_rules.map_or(least, |ttl| ttl.max(least));
        let found = longest(rules.and_then(|rules| rules.longest_ttl), self.rules.longest_path_ttl);
        self.lifetimes.set(found, longest(rules.and_then(|rules| rules.longest_negative_ttl), found));
        Ok(())
    }

    /// Reads the file of rules again and applies them. If the file is wrong, returns its error and keeps the former rules.
    pub(crate) async fn reload_rules(&self) -> Result<Reloaded, String> {
        let Some(file) = self.rules.file.clone() else {
            return Err("there is no file of rules; APP_CACHE_RULES names one".to_owned());
        };
        let _reload = self.rules.reload.lock().await;
        let read = tokio::task::spawn_blocking({
            let file = file.clone();
            move || CacheRules::read(file)
        });
        let rules = read.await.unwrap_or_else(|error| Err(error.to_string()));
        let wrong = |why| format!("{}: {why}; the rules are those before", file.display());
        let rules = rules.map_err(wrong)?;
        self.rule_by(Some(&rules)).map_err(|error| wrong(error.to_string()))?;
        Ok(Reloaded { rules: rules.rules.len(), file })
    }

    /// The middleware that answers requests for the configured paths from the cache, if there is a cache.
    pub(crate) fn layer(&self) -> Option<CacheLayer> {
        self.layer.clone()
    }

    /// The cache for values, unless the cache is off.
    pub(crate) fn values(&self) -> Option<&Cache> {
        self.cache.as_ref()
    }

    /// How long a value from the database is fresh.
    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_millis(self.lifetimes.found.load(Ordering::Relaxed))
    }

    /// How long the absence of a value is.
    pub(crate) fn negative_ttl(&self) -> Duration {
        Duration::from_millis(self.lifetimes.absent.load(Ordering::Relaxed))
    }

    /// Invalidates what a created, changed or deleted product was part of. The database has committed: an invalidation that
    /// can't be delivered at once is delivered later, and must not fail the request.
    pub(crate) async fn product_changed(&self, id: i64) {
        let sources = [Source::Product(id), Source::Products, Source::Categories];
        if let Err(error) = self.invalidate(sources).await {
            static UNTOLD: Throttle = Throttle::new();
            if let Some(kept_back) = UNTOLD.pass() {
                tracing::warn!("product {id} changed, but the cache could not be told yet: {error}{kept_back}");
            }
        }
    }

    /// Drops a product and every list. Returns whether that has reached the whole cache by now.
    pub(crate) async fn forget_product(&self, id: i64) -> bool {
        let forgotten = self.invalidate([Source::Product(id), Source::Products]).await;
        if let Err(error) = &forgotten {
            static UNTOLD: Throttle = Throttle::new();
            if let Some(kept_back) = UNTOLD.pass() {
                tracing::warn!("the cache could not be told yet to forget product {id}: {error}{kept_back}");
            }
        }
        forgotten.is_ok()
    }

    async fn invalidate(&self, sources: impl IntoIterator<Item = Source> + Send) -> Result<(), InvalidateError> {
        let Some(cache) = &self.cache else { return Ok(()) };
        let tags: Vec<_> = sources.into_iter().map(|source| source.to_string()).collect();
        cache.invalidate_tags(tags).await
    }

    /// `None` without a Redis, or if the cache is off.
    pub(crate) async fn redis_health(&self) -> Option<RedisHealth> {
        // Monitors ask every few seconds: without this, each of their round trips would be a trace.
        let status = self.redis.as_ref()?.status().with_subscriber(NoSubscriber::new()).await;
        Some(RedisHealth {
            connected: status.connected,
            ping_ms: status.ping.map(|ping| (ping.as_secs_f64() * 1e5).round() / 100.0),
            used_memory_human: status.used_memory_human,
            connected_clients: status.connected_clients,
            full: status.full,
            error: status.error,
        })
    }

    /// The switches that are on: the name of each, and the seconds until it ends.
    pub(crate) fn switched_on(&self) -> BTreeMap<String, u64> {
        let on = self.cache.iter().flat_map(Cache::switched_on);
        on.map(|(switch, left)| (switch.as_str().to_owned(), left.as_secs())).collect()
    }

    /// Waits for writes to the cache that no request waits for.
    pub(crate) async fn drain(&self, patience: Duration) -> bool {
        match &self.cache {
            Some(cache) => cache.drain(patience).await,
            None => true,
        }
    }
}
