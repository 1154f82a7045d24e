//! A store that a fleet of processes shares, on Redis >= 7.0 or Valkey >= 7.2.
//!
//! Each file has one kind of operation; four folders lie below them. An import runs down this list, or to a folder below:
//!
//! - [`store`]: the store, and the choice of the connection for an operation
//! - [`config`], [`state`]: settings and their limits; what is known of the connections without asking the server
//! - [`lookup`], [`claim`], [`lease`], [`commit`], [`invalidate`], [`patterns`], [`lurker`], [`reclaim`] and their [`election`],
//!   [`bulk`], [`redirect`], [`inspect`], [`switches`], [`audit`], [`requests`], [`hot_lists`]: the operations
//! - [`waiting_patterns`]: patterns that wait for a sweep, since the list of bans has no room for them
//! - [`topology`]: which server has which keys
//! - [`connection`]: one connection and the task that keeps it
//! - [`tracking`]: what this process knows of the server; tracking never sends
//! - [`wire`]: the commands and replies on a connection; wire never remembers

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{
    Acquired, BoxFuture, Committed, Estimate, Failed, Failures, Fill, Hardness, Invalidated, Lease, LeaseState,
    LeaseToken, ListedPatterns, Lookup, Reach, Reserved, Scope, Seen, Store, StoreBackend, StoreError, SweepListener,
};
use crate::{
    clock::Clock,
    entry::Entry,
    key::Key,
    pattern::Pattern,
    switches::{SwitchState, Switches},
    tag::{TagToken, Tags},
};

#[cfg(test)]
mod acl_tests;
mod audit;
#[cfg(test)]
mod ban_tests;
mod bulk;
mod claim;
#[cfg(test)]
mod claim_tests;
#[cfg(test)]
mod coherence_tests;
mod commit;
mod config;
mod connection;
#[cfg(test)]
mod disconnected_tests;
mod election;
#[cfg(test)]
mod fleet_tests;
#[cfg(test)]
mod full_tests;
mod hot_lists;
mod inspect;
mod invalidate;
mod lease;
#[cfg(test)]
mod locale_tests;
mod lookup;
mod lurker;
#[cfg(test)]
mod lurker_tests;
#[cfg(test)]
mod pattern_tests;
mod patterns;
mod reclaim;
#[cfg(feature = "cluster")]
mod redirect;
mod requests;
#[cfg(test)]
mod schedule_tests;
mod state;
mod store;
mod switches;
#[cfg(test)]
mod together_tests;
mod topology;
mod tracking;
mod waiting_patterns;
mod wire;

pub use config::RedisStoreBuilder;
pub use connection::counters::Push;
pub use state::{Breaker, RedisState};
pub use store::{RedisStatus, RedisStore};
pub use tracking::dataset_guard::Restored;
pub(super) use tracking::local_tier::LocalTier;
pub use tracking::server_clock::ClockOffset;

impl Store for RedisStore {}

impl StoreBackend for RedisStore {
    fn peek(&self, _: &Key) -> Option<Entry> {
        None
    }

    fn identity(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>> {
        Box::pin(self.lookup(key, true))
    }

    fn follow_switches(&self) -> Arc<Switches> {
        self.begin_to_follow_switches()
    }

    fn set_switch(&self, state: SwitchState) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.turn_for_all(state))
    }

    fn audit<'a>(&'a self, record: &'a [u8]) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { self.add_record(record).await.map(|()| true) })
    }

    fn audited<'a>(&'a self, most: usize) -> BoxFuture<'a, Result<Vec<Bytes>, StoreError>> {
        Box::pin(self.read_records(most))
    }

    fn reserve_request<'a>(
        &'a self,
        id: &'a str,
        record: &'a [u8],
        life: Duration,
    ) -> BoxFuture<'a, Result<Reserved, StoreError>> {
        Box::pin(self.reserve(id, record, life))
    }

    fn record_request<'a>(
        &'a self,
        id: &'a str,
        reserved: &'a [u8],
        record: &'a [u8],
        life: Duration,
    ) -> BoxFuture<'a, Result<Reserved, StoreError>> {
        Box::pin(self.record(id, reserved, record, life))
    }

    fn look<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>> {
        Box::pin(self.lookup(key, false))
    }

    fn leave_list<'a>(&'a self, list: &'a [u8]) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { self.leave_hot_list(list).await.map(|()| true) })
    }

    fn lists<'a>(&'a self) -> BoxFuture<'a, Result<(Vec<Bytes>, usize), StoreError>> {
        Box::pin(self.hot_lists())
    }

    fn fetch<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Lookup, StoreError>>> {
        Box::pin(self.fetch_many(keys))
    }

    fn on_sweep(&self, listener: &Arc<SweepListener>) {
        self.0.context.sweeps.add(listener);
    }

    fn clock(&self) -> Option<Clock> {
        Some(self.0.context.clock.clock().clone())
    }

    fn runtime(&self) -> Option<Handle> {
        Some(self.0.runtime.clone())
    }

    fn lease_state<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<LeaseState, StoreError>> {
        Box::pin(self.read_lease(key))
    }

    fn tag_token<'a>(&'a self, tag: &'a str) -> BoxFuture<'a, Result<Option<TagToken>, StoreError>> {
        Box::pin(self.read_tag(tag))
    }

    fn patterns(&self) -> BoxFuture<'_, Result<ListedPatterns, StoreError>> {
        Box::pin(self.read_patterns())
    }

    fn banned_by<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(self.voiding_ban(key))
    }

    fn count<'a>(&'a self, reach: Reach<'a>) -> BoxFuture<'a, Result<Option<u64>, StoreError>> {
        Box::pin(self.count_names(reach))
    }

    fn estimate<'a>(
        &'a self,
        reach: Reach<'a>,
        within: Duration,
    ) -> BoxFuture<'a, Result<Option<Estimate>, StoreError>> {
        Box::pin(self.sample_names(reach, within))
    }

    fn acquire<'a>(
        &'a self,
        key: &'a Key,
        seen: Seen,
        ttl: Duration,
        failures: Failures,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        Box::pin(self.acquire_lease(key, seen, ttl, failures))
    }

    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        // In a task: a renewal that is left half-way is completed all the same.
        let (store, lease) = (self.clone(), lease.clone());
        self.spawn_detached(async move { store.renew_lease(&lease, ttl).await })
    }

    fn is_held_by<'a>(&'a self, key: &'a Key, token: LeaseToken) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.is_lease_held_by(key, token))
    }

    fn overtaken(&self, lease: &Lease) -> bool {
        !(self.connection(&lease.key).is_connected() && self.0.context.leases.stands(lease))
    }

    fn commit<'a>(&'a self, fill: &'a Fill) -> BoxFuture<'a, Result<Committed, StoreError>> {
        Box::pin(self.commit_fill(fill))
    }

    fn release(&self, lease: &Lease, uncacheable: Option<Duration>) {
        self.release_lease(lease, uncacheable);
    }

    fn supersede<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.supersede_entry(lease))
    }

    fn end_lease<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.end_lease_of(key))
    }

    fn note_write(&self, key: &Key) {
        self.0.context.guard.remember(Scope::Key(key));
    }

    fn fail(&self, lease: &Lease, failed: Failed) {
        self.fail_lease(lease, failed);
    }

    fn lease_ended<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, ()> {
        Box::pin(self.lease_may_have_ended(key))
    }

    fn invalidate(&self, scope: Scope<'_>, hardness: Hardness) -> BoxFuture<'static, Result<Invalidated, StoreError>> {
        let (store, scope) = (self.clone(), scope.to_owned());
        self.spawn_detached(async move {
            let extent = match scope.borrow() {
                Scope::Pattern(pattern) => store.ban(pattern, hardness).await?,
                scope => store.deliver(scope, hardness).await?,
            };
            Ok(extent.into())
        })
    }

    fn delete_matching(&self, pattern: &Pattern) -> BoxFuture<'static, Result<Invalidated, StoreError>> {
        let (store, pattern) = (self.clone(), pattern.clone());
        self.spawn_detached(async move { store.invalidate_patterns(&[&pattern], Hardness::Hard).await })
    }

    fn get_many<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Lookup, StoreError>>> {
        Box::pin(self.lookup_many(keys))
    }

    fn put<'a>(&'a self, entries: Vec<(Key, Entry)>, tags: &'a Tags) -> BoxFuture<'a, Result<(), StoreError>> {
        let (store, tags) = (self.clone(), tags.clone());
        self.spawn_detached(async move { store.put_many(entries, &tags).await })
    }
}
