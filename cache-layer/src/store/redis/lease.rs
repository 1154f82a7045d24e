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
        if live.is_full() {
            return Err(StoreError::Failed("there is no room".to_owned()));
        }
        let (tags, tags_live) = self.link_of_tags(&link, &live)?;
        let mut acquire = Batch::default();
        acquire.call(&scripts::ACQUIRE, &[&names.entry(key), &names.lease(key)], &[&token, life.as_bytes(), seen]);
        let (moment, reply) = tokio::join!(
            self.moment(&tags, &tags_live),
            link.run(&live, async |mut connection: MultiplexedConnection| {
                acquire.run::<(Vec<u8>,)>(&mut connection).await
            })
        );
        let (reply,) = reply?;
        match &reply[..] {
            b"held" => Ok(Acquired::Held),
            b"changed" => Ok(Acquired::Changed),
            b"uncacheable" => Ok(Acquired::Uncacheable),
            time if time.len() == 16 => match moment {
                Ok(started) => Ok(Acquired::Granted(Lease::new(key, token, started).under(tags_live.identity()))),
                Err(error) => {
                    self.release_lease(&Lease::new(key, token, [0; 16]), None);
                    Err(error)
                }
            },
            _ => Err(StoreError::Failed("an answer that is none of the protocol's".to_owned())),
        }
    }

    /// The time by which invalidations of tags are dated, from before the load that is about to begin. It is the clock
    /// of the server that has the tags, whoever has the entry.
    async fn moment(&self, tags: &Link, live: &Arc<Live>) -> Result<[u8; 16], StoreError> {
        let mut batch = Batch::default();
        batch.call(&scripts::LAST_INVALIDATION, &[&self.0.names.last_invalidation()], &[]);
        let ((_, now),): ((Vec<u8>, Vec<u8>),) =
            tags.run(live, async |mut connection: MultiplexedConnection| batch.run(&mut connection).await).await?;
        now.try_into().map_err(|_| StoreError::Failed("an answer that is none of the protocol's".to_owned()))
    }

    pub(super) async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, StoreError> {
        let link = self.link(&lease.key);
        let live = link.live()?;
        let mut call = scripts::RENEW.key(self.0.names.lease(&lease.key));
        call.arg(&lease.token[..]).arg(millis(ttl).max(1));
        link.run_patiently(&live, async |mut connection: MultiplexedConnection| {
            call.invoke_async(&mut connection).await
        })
        .await
    }

    /// Gives a lease back without waiting. One that can't be given back runs out by itself.
    pub(super) fn release_lease(&self, lease: &Lease, uncacheable: Option<Duration>) {
        let link = self.link(&lease.key);
        let Ok(live) = link.live() else { return };
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
