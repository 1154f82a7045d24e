//! Leases: taken, kept alive, given back, and waited for.

use std::{sync::Arc, time::Duration};

use redis::aio::MultiplexedConnection;
use tokio::time::sleep;

use super::{
    RedisStore,
    link::{Link, Live},
    scripts::{self, Batch},
};
use crate::{
    clock::millis,
    key::Key,
    store::{Acquired, Lease, Seen, StoreError},
};

/// How long to wait before looking again whether somebody else's lease has ended, in milliseconds.
const POLL: std::ops::Range<u64> = 5..25;

/// What a lease's key holds, and for how many milliseconds more.
type Watched = (Vec<u8>, i64);

impl RedisStore {
    pub(super) async fn acquire_lease(&self, key: &Key, seen: Seen, ttl: Duration) -> Result<Acquired, StoreError> {
        let link = self.link(key);
        let live = link.live()?;
        let names = &self.0.names;
        let token = Lease::random_token();
        let life = millis(ttl).max(1).to_string();
        let seen: &[u8] = match &seen {
            Seen::Nothing => b"",
            Seen::Entry(id) => &id.0,
            Seen::Unusable => b"*",
        };
        let application = live.grants.apply(key, token);
        let (entry, place) = (names.entry(key), names.lease(key));
        let mut batch = Batch::default();
        batch.track(&live);
        batch.call(&scripts::LAST_INVALIDATION, &[&names.last_invalidation()], &[]);
        if key.id().is_variant() {
            batch.watch(&live, &names.entry(&key.primary()));
        }
        batch.call(&scripts::ACQUIRE, &[&entry, &place], &[&token, life.as_bytes(), seen]);
        batch.track(&live);
        batch.call(&scripts::WATCH, &[&place], &[]);
        let (_, reply, (held, _)): (Vec<u8>, Vec<u8>, Watched) =
            link.run(&live, async |mut connection: MultiplexedConnection| batch.run(&mut connection).await).await?;
        match &reply[..] {
            b"held" => Ok(Acquired::Held),
            b"changed" => Ok(Acquired::Changed),
            b"uncacheable" => Ok(Acquired::Uncacheable),
            time => match time.try_into() {
                Ok(started) => {
                    if live.tracking && held == token {
                        application.granted();
                    }
                    Ok(Acquired::Granted(Lease::new(key, token, started)))
                }
                Err(_) => Err(StoreError::Failed("an answer that is none of the protocol's".to_owned())),
            },
        }
    }

    pub(super) async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, StoreError> {
        let link = self.link(&lease.key);
        let live = link.live()?;
        let mut call = scripts::RENEW.key(self.0.names.lease(&lease.key));
        call.arg(&lease.token[..]).arg(millis(ttl).max(1));
        let renewed = link
            .run_patiently(&live, async |mut connection: MultiplexedConnection| {
                call.invoke_async(&mut connection).await
            })
            .await?;
        if renewed {
            self.watch_again(link, &live, lease).await;
        } else {
            live.grants.end(lease);
        }
        Ok(renewed)
    }

    /// Finds out whether a lease that something happened to is still held, and goes on watching it.
    async fn watch_again(&self, link: &Link, live: &Arc<Live>, lease: &Lease) {
        let mut batch = Batch::default();
        batch.track(live);
        batch.call(&scripts::WATCH, &[&self.0.names.lease(&lease.key)], &[]);
        // The push of our own renewal may still be on its way to us. It comes before the first of these replies.
        for _ in 0..2 {
            let Some(question) = live.grants.ask_again(lease) else { return };
            let watched: Result<(Watched,), StoreError> = link
                .run_patiently(live, async |mut connection: MultiplexedConnection| batch.run(&mut connection).await)
                .await;
            match watched {
                Ok(((held, _),)) if held == lease.token => question.granted(),
                _ => return,
            }
        }
    }

    /// Gives a lease back without waiting. One that can't be given back runs out by itself.
    pub(super) fn release_lease(&self, lease: &Lease, uncacheable: Option<Duration>) {
        let link = self.link(&lease.key).clone();
        let Ok(live) = link.live() else { return };
        live.grants.end(lease);
        let mut call = scripts::RELEASE.key(self.0.names.lease(&lease.key));
        call.arg(&lease.token[..]).arg(uncacheable.map_or(0, millis));
        self.0.runtime.spawn(async move {
            let release = async |mut connection: MultiplexedConnection| call.invoke_async(&mut connection).await;
            let _: Result<bool, StoreError> = link.run_patiently(&live, release).await;
        });
    }

    /// Returns when it is time to look again.
    pub(super) async fn lease_may_have_ended(&self) {
        sleep(Duration::from_millis(fastrand::u64(POLL))).await;
    }
}
