//! The settings of a Redis store. They are checked before anything is connected.

use std::time::Duration;

use super::{
    RedisStore,
    connection::{
        address::Address,
        context::{Context, Timeouts},
    },
    tracking::{
        dataset_guard::{DatasetGuard, Restored},
        server_clock::ServerClock,
    },
    wire::{names::Names, sealing::Sealing},
};
#[cfg(feature = "sealed")]
use crate::entry::KeyRing;
use crate::{
    clock::Clock,
    error::{ConfigError, ConfigErrorKind},
};

/// The time from the first ban to the sweep by the lurker.
const LURKER_PAUSE: Duration = Duration::from_secs(1);
/// The time between two sweeps of what tags have made void.
const RECLAIM_EVERY: Duration = Duration::from_secs(600);

/// Settings of a [`RedisStore`], from [`RedisStore::builder`].
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct RedisStoreBuilder {
    url: String,
    prefix: String,
    connections: usize,
    timeouts: Timeouts,
    restored: Restored,
    sealing: Sealing,
    local_clock: Clock,
    lurker: Option<Duration>,
    reclaim_every: Option<Duration>,
    #[cfg(feature = "sentinel")]
    sentinel_credentials: Option<(Option<String>, String)>,
}

impl RedisStore {
    /// The settings of a store at `url`: `redis://` or, with the feature `tls`, `rediss://`, then
    /// `[user[:password]@]host[:port][/db]`; or `unix:///path[?db=N&user=…&pass=…]`. In all of these URLs, `valkey` may replace
    /// `redis`.
    ///
    /// With the feature `sentinel`: `redis+sentinel://[user[:password]@]host[:port][,…]/name[/db]`. The hosts are sentinels (port
    /// 26379 unless given), `name` is their name for the primary, and user and password are for the servers. Those for the
    /// sentinels are given as `?sentinel_user=…&sentinel_pass=…` or by
    /// [`sentinel_credentials`](https://docs.rs/cache-layer/latest/cache_layer/store/struct.RedisStoreBuilder.html#method.sentinel_credentials).
    ///
    /// With the feature `cluster`: `redis+cluster://[user[:password]@]host[:port][,…]`. The hosts are some of the nodes; the
    /// store finds the others.
    ///
    /// With `tls`: `rediss+sentinel://` and `rediss+cluster://`. The store then connects to every server and sentinel by TLS,
    /// under the name or address that the sentinels or the cluster give; the certificate must be for that name or address.
    ///
    /// ```no_run
    /// # use cache_layer::store::RedisStore;
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # #[cfg(all(feature = "cluster", feature = "sentinel"))] {
    /// let cluster = RedisStore::builder("redis+cluster://:password@10.0.0.1,10.0.0.2,10.0.0.3").build()?;
    /// let primary = RedisStore::builder("redis+sentinel://10.0.0.1,10.0.0.2,10.0.0.3/main/0").build()?;
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(url: impl Into<String>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(url.into())
    }
}

impl RedisStoreBuilder {
    pub(super) fn new(url: String) -> Self {
        let timeouts = Timeouts {
            connect: Duration::from_secs(1),
            operation: Duration::from_millis(50),
            delivery: Duration::from_secs(1),
            settling: Duration::from_secs(3),
        };
        Self {
            url,
            prefix: "cache".to_owned(),
            connections: 1,
            timeouts,
            restored: Restored::default(),
            sealing: Sealing::default(),
            local_clock: Clock::system(),
            lurker: Some(LURKER_PAUSE),
            reclaim_every: Some(RECLAIM_EVERY),
            #[cfg(feature = "sentinel")]
            sentinel_credentials: None,
        }
    }

    /// The prefix of all names of keys: stores with the same server and prefix are one cache. 1 to 64 of `A-Z a-z 0-9 _ . -`;
    /// `cache` unless set.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The number of connections of this process to the server, 1 to 64; 1 unless set. A connection carries any number of
    /// requests at once, so more than one helps only if a single core of the server, or of this process's reader, is the limit.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// How long a request may wait for one operation, 1 ms to 10 s; 50 ms unless set. A look-up that takes longer is a miss, and
    /// its request does not ask the store again.
    ///
    /// Once a second, the store asks whether a connection still works. It gives the connection up if there is no answer within a
    /// second, or within this time if that is longer. So if this is more than a second, a half-open connection is noticed a
    /// second after this time, rather than within two seconds.
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.operation = timeout;
        self
    }

    /// How long connecting may take, 1 ms to 60 s; 1 s unless set. No request ever waits for it.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.connect = timeout;
        self
    }

    /// How long an invalidation may wait for Redis after the connection was lost, 0 to 60 s; 1 s unless set. If the connection is
    /// back by then, no other process notices the loss: the invalidation is delivered before its caller continues.
    ///
    /// The time is counted from the loss, so that a longer outage of Redis delays no caller: an invalidation then returns an
    /// [error](crate::InvalidateError) at once, and is delivered when Redis is back.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.delivery = timeout;
        self
    }

    /// How long the process neither reads from Redis nor loads into it after the connection was lost, 0 to 60 s; 3 s unless set.
    /// In this time requests go to the application, and invalidations go to Redis.
    ///
    /// When Redis is back, the processes do not all reconnect at the same time. Redis does not know an invalidation of a process
    /// that has not reconnected yet. So this time should be longer than the other processes need: the longest pause between their
    /// attempts, 375 ms, and one or two attempts of the [connect timeout](Self::connect_timeout). A process that needs longer is
    /// a process without Redis: other processes may serve what it invalidates until it is back, or until their entries expire.
    ///
    /// There is no such pause if the same server is back within a quarter of the [delivery timeout](Self::delivery_timeout): in
    /// so short a time no process has given up an invalidation. Nor is there one for a server that is connected to at the first
    /// attempt after the start. In a cluster, this applies to each primary, and to a server that takes a primary's place. If only
    /// one store invalidates, zero is enough.
    pub fn settle_time(mut self, time: Duration) -> Self {
        self.timeouts.settling = time;
        self
    }

    /// What to do when a data set appears that may be older than the latest invalidations, because its server was restarted with
    /// the data that it had saved, or because a replica took its primary's place; [`Restored::Clear`] unless set. A server that
    /// comes back empty is not such a case, and costs nothing.
    ///
    /// A data set that `SWAPDB` replaced, and that is swapped back, is such a case. No server tells its clients of a swap: the
    /// store notices it with the next heartbeat, within two seconds, or with this process's next invalidation. Until then, a read
    /// may be as stale as the data set is. With every policy, the first tier becomes void.
    pub fn on_restored(mut self, policy: Restored) -> Self {
        self.restored = policy;
        self
    }

    /// The shortest payload that is compressed with zstd in Redis, in bytes: 1,024 unless set; `usize::MAX` for none. A payload
    /// that does not become shorter by an eighth is written as it is. So is a response of a type that is compressed by nature,
    /// such as a picture.
    ///
    /// This is for [values](crate::Cache::get_or_load), and for responses that no layer encodes: a response that is
    /// [encoded](crate::CacheLayer::encode) is written in that coding, at [its level](crate::Encode::level). Every process reads
    /// what was written with any setting, if it was built with the feature.
    ///
    /// ```no_run
    /// # use cache_layer::store::RedisStore;
    /// # fn example() -> Result<(), cache_layer::ConfigError> {
    /// // Large values, a slow network.
    /// let store = RedisStore::builder("redis://10.0.0.1").compress_at_least(256).compression_level(9).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(any(feature = "zstd", feature = "encode-zstd"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "zstd", feature = "encode-zstd"))))]
    pub fn compress_at_least(mut self, bytes: usize) -> Self {
        self.sealing.compression.at_least = bytes;
        self
    }

    /// The level of that [compression](Self::compress_at_least), 1 to 19; 3 unless set. Every fill takes the time of its level:
    /// for a page of JSON, level 9 takes three times as long as 3, and makes a tenth less. Readers take the same time at all
    /// levels.
    #[cfg(any(feature = "zstd", feature = "encode-zstd"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "zstd", feature = "encode-zstd"))))]
    pub fn compression_level(mut self, level: u8) -> Self {
        self.sealing.compression.level = level;
        self
    }

    /// Seals entries with the keys of `ring`, for a server, or other users of it, that can't be trusted: entries are encrypted
    /// (AES-256-GCM-SIV) and bound to their key, their moments, their tags and the [prefix](Self::prefix), and the names in Redis
    /// reveal neither keys nor tags.
    ///
    /// An entry that was changed, cut off, moved to another name or prefix, or written without the keys is a miss, for the reason
    /// [`seal`](crate::telemetry::Rejection::Seal). So is an entry from before the store was sealed. Entries cost some
    /// microseconds more to write and to read; those of the first tier are not sealed.
    ///
    /// What an observer can still learn:
    ///
    /// - of each entry: its size, and the lengths of its key, its metadata and its payload; whether the payload is compressed; how
    ///   many tags it has; when it was made, until when it is fresh, until when it is used as a stale one and kept; how long its
    ///   load took; when it was last invalidated softly; which key of the ring seals it; and which entries are variants of one
    /// - of each load that is under way: of which entry, since when, and by which process, which has a random number; of each one
    ///   that has ended without an entry, for as long as that is remembered: that the result can't be stored, or how many loads
    ///   failed one after the other, with which HTTP status the last one did, and how long the application is left alone
    /// - of each tag: its length, and when and how it was last invalidated, also over which windows
    /// - which [switches](crate::Switch) are on; the [ids of requests](crate::Cache::reserve_request); and the size and the time of
    ///   each record of the [audit](crate::Cache::audit) and of each list of hot keys
    /// - how many names there are of each kind, which ones are read and written how often, and whether a name under one prefix
    ///   stands for the same key or tag as a name under another
    ///
    /// What sealing does not prevent: a user who may write to the server can delete entries, keep processes from loading by taking
    /// leases, and put an earlier entry back under the same key, with the tokens of its tags, for as long as that entry may live.
    /// Set no lifetime for which that would not be acceptable.
    ///
    /// [Switches](crate::Switch) are not sealed. Such a user can turn them too, which makes hits into loads, or hides what
    /// verification would find, for a day each time. `wider-grace`, by which stale entries would be used for longer, is not taken
    /// from the server: [`switch`](crate::Cache::switch) refuses to turn it on, and
    /// [`switch_here`](crate::Cache::switch_here) turns it on in one process.
    ///
    /// With sealed names, [`delete_pattern`](crate::Cache::delete_pattern) has nothing to match, and invalidates everything.
    ///
    /// ```no_run
    /// use cache_layer::store::{KeyRing, RedisStore};
    ///
    /// # fn secret(_: &str) -> [u8; 32] { [7; 32] }
    /// # fn example() -> Result<(), cache_layer::ConfigError> {
    /// let ring = KeyRing::new(secret("cache-names"), secret("cache-entries"));
    /// let store = RedisStore::builder("redis://10.0.0.1").sealed_with(ring).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "sealed")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sealed")))]
    pub fn sealed_with(mut self, ring: KeyRing) -> Self {
        self.sealing.ring = Some(ring);
        self
    }

    /// The credentials for the sentinels themselves, if they are not in the URL; none unless set. Needs a URL of sentinels.
    #[cfg(feature = "sentinel")]
    pub fn sentinel_credentials(mut self, user: Option<String>, password: impl Into<String>) -> Self {
        self.sentinel_credentials = Some((user, password.into()));
        self
    }

    /// A clock in place of this machine's; for tests with wrong clocks.
    #[doc(hidden)]
    pub fn local_clock(mut self, clock: Clock) -> Self {
        self.local_clock = clock;
        self
    }

    /// Whether this process takes part in sweeping the entries of deleted [patterns](crate::Cache::delete_pattern); `true` unless
    /// set. One process of a fleet sweeps at a time, in small steps with pauses, for a fifth of the time at most, and only while
    /// there is something to sweep. If no process sweeps, up to 128 patterns stay listed, and each further pattern takes as long
    /// as [`counted`](crate::DeletePattern::counted) does.
    ///
    /// ```no_run
    /// # use cache_layer::store::RedisStore;
    /// # fn example() -> Result<(), cache_layer::ConfigError> {
    /// // A process that needs its processor for other work.
    /// let store = RedisStore::builder("redis://10.0.0.1").lurker(false).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lurker(mut self, lurks: bool) -> Self {
        self.lurker = lurks.then_some(LURKER_PAUSE);
        self
    }

    /// How often this process looks for entries in Redis that the invalidation of a tag, or of everything, has made void, and
    /// deletes them; every 10 minutes unless set, and `None` for never; 1 s to 24 h. Nothing depends on it but room: a void entry
    /// is never used, and leaves by itself when it expires, is evicted, or is loaded again.
    ///
    /// One process of a fleet looks at a time, and only if anything was invalidated since the fleet last looked. It examines
    /// every entry, in small steps with pauses, and rests for twenty times as long as that took, so that it takes a hundredth of
    /// the server's time at most. Stale entries stay, as they may still be used. Without the permission to `SCAN`, with
    /// [`lurker(false)`](Self::lurker), and where entries are sealed, it does not look.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use cache_layer::store::RedisStore;
    /// # fn example() -> Result<(), cache_layer::ConfigError> {
    /// // Entries live for a minute: none is void for longer.
    /// let store = RedisStore::builder("redis://10.0.0.1").reclaim_every(None).build()?;
    /// let other = RedisStore::builder("redis://10.0.0.2").reclaim_every(Duration::from_secs(3600)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn reclaim_every(mut self, pause: impl Into<Option<Duration>>) -> Self {
        self.reclaim_every = pause.into();
        self
    }

    /// The lurker sweeps as soon as there is a ban.
    #[cfg(test)]
    pub(in crate::store) fn lurker_at_once(mut self) -> Self {
        self.lurker = Some(Duration::ZERO);
        self
    }

    /// Checks the settings and begins to connect, in the background and for as long as the store lives. A server that is down is
    /// no error: the store connects when the server is up.
    ///
    /// # Errors
    ///
    /// If a setting can't be used, or if there is no Tokio runtime to connect from.
    pub fn build(self) -> Result<RedisStore, ConfigError> {
        self.check()?;
        let Self { url, prefix, connections, timeouts, restored, sealing, local_clock, lurker, reclaim_every, .. } =
            self;
        let address = Address::parse(&url)?;
        #[cfg(feature = "sentinel")]
        let address = match (address, self.sentinel_credentials) {
            (Address::Sentinel(sentinels), Some((user, password))) => {
                Address::Sentinel(sentinels.with_credentials(user.as_deref(), &password))
            }
            (_, Some(_)) => {
                return Err(ConfigError::new(
                    ConfigErrorKind::Conflict,
                    "sentinel credentials: need a URL that begins with redis[s]+sentinel://",
                ));
            }
            (address, None) => address,
        };
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
            ConfigError::new(ConfigErrorKind::NoRuntime, "a Redis store must be built inside a Tokio runtime")
        })?;
        let names = match &address {
            #[cfg(feature = "cluster")]
            Address::Cluster(_) => Names::clustered(&prefix),
            _ => Names::new(&prefix),
        };
        // A user who may write to an untrusted server could set its clock back, and so have expired entries served.
        let clock = ServerClock::new(local_clock, !sealing.hides_names());
        let context = Context::new(names.sealed(sealing), timeouts, DatasetGuard::new(restored), clock, lurker);
        let store = RedisStore::start(address, connections, context, &runtime);
        if let Some(every) = reclaim_every {
            store.begin_to_reclaim(every);
        }
        Ok(store)
    }

    /// Whether each setting is within its limits.
    fn check(&self) -> Result<(), ConfigError> {
        let Self { prefix, connections, timeouts, restored, .. } = self;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if prefix.is_empty() || prefix.len() > 64 || !prefix.chars().all(allowed) {
            return Err(ConfigError::new(
                ConfigErrorKind::Syntax,
                format!("prefix {prefix:?}: must be 1 to 64 of A-Z a-z 0-9 _ . -"),
            ));
        }
        if !(1..=64).contains(connections) {
            return Err(ConfigError::new(
                ConfigErrorKind::Range,
                format!("connections {connections}: must be 1 to 64"),
            ));
        }
        let millisecond = Duration::from_millis(1);
        if !(millisecond..=Duration::from_secs(10)).contains(&timeouts.operation) {
            return Err(ConfigError::new(
                ConfigErrorKind::Range,
                format!("operation timeout {:?}: must be 1 ms to 10 s", timeouts.operation),
            ));
        }
        if !(millisecond..=Duration::from_secs(60)).contains(&timeouts.connect) {
            return Err(ConfigError::new(
                ConfigErrorKind::Range,
                format!("connect timeout {:?}: must be 1 ms to 60 s", timeouts.connect),
            ));
        }
        for (name, time) in [("delivery timeout", timeouts.delivery), ("settle time", timeouts.settling)] {
            if time > Duration::from_secs(60) {
                return Err(ConfigError::new(ConfigErrorKind::Range, format!("{name} {time:?}: must be 0 to 60 s")));
            }
        }
        #[cfg(any(feature = "zstd", feature = "encode-zstd"))]
        if !(1..=19).contains(&self.sealing.compression.level) {
            let why = format!("compression level {}: must be 1 to 19", self.sealing.compression.level);
            return Err(ConfigError::new(ConfigErrorKind::Range, why));
        }
        let age = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
        if let Some(every) = self.reclaim_every
            && !age.contains(&every)
        {
            return Err(ConfigError::new(
                ConfigErrorKind::Range,
                format!("reclaiming every {every:?}: must be every 1 s to 24 h"),
            ));
        }
        if let Restored::Replay(last) = restored
            && !age.contains(last)
        {
            return Err(ConfigError::new(
                ConfigErrorKind::Range,
                format!("replay of {last:?} on a restored data set: must be 1 s to 24 h"),
            ));
        }
        Ok(())
    }
}

impl std::fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL holds the password.
        f.debug_struct("RedisStoreBuilder")
            .field("prefix", &self.prefix)
            .field("connections", &self.connections)
            .field("timeouts", &self.timeouts)
            .field("restored", &self.restored)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(builder: RedisStoreBuilder) -> String {
        builder.build().unwrap_err().to_string()
    }

    fn builder() -> RedisStoreBuilder {
        RedisStoreBuilder::new("redis://127.0.0.1:1".to_owned())
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_value_and_what_is_allowed() {
        assert_eq!(error(builder().prefix("a b")), "prefix \"a b\": must be 1 to 64 of A-Z a-z 0-9 _ . -");
        assert_eq!(error(builder().connections(0)), "connections 0: must be 1 to 64");
        assert_eq!(error(builder().operation_timeout(Duration::ZERO)), "operation timeout 0ns: must be 1 ms to 10 s");
        assert_eq!(
            error(builder().connect_timeout(Duration::from_secs(61))),
            "connect timeout 61s: must be 1 ms to 60 s"
        );
        assert_eq!(
            error(builder().delivery_timeout(Duration::from_secs(61))),
            "delivery timeout 61s: must be 0 to 60 s"
        );
        assert_eq!(error(builder().reclaim_every(Duration::ZERO)), "reclaiming every 0ns: must be every 1 s to 24 h");
        #[cfg(feature = "zstd")]
        for level in [0, 20] {
            let wrong = format!("compression level {level}: must be 1 to 19");
            assert_eq!(error(builder().compression_level(level)), wrong);
        }
        assert_eq!(error(builder().settle_time(Duration::from_secs(61))), "settle time 61s: must be 0 to 60 s");
        assert_eq!(
            error(builder().on_restored(Restored::Replay(Duration::ZERO))),
            "replay of 0ns on a restored data set: must be 1 s to 24 h"
        );
    }

    #[test]
    fn outside_a_runtime_it_says_so_instead_of_panicking() {
        assert_eq!(error(builder()), "a Redis store must be built inside a Tokio runtime");
    }

    #[test]
    fn the_debug_form_keeps_the_secret() {
        let builder = RedisStoreBuilder::new("redis://u:hunter2@h".to_owned());
        assert!(!format!("{builder:?}").contains("hunter2"));
    }
}
