//! A cluster: connections to each of its primaries, and a task that finds out which of them has which slots.
//!
//! All tags of a store lie in one slot, so one server's clock and one order hold for them: a load notes that server's time before
//! it begins, and compares the tokens of its tags with it before it is stored, exactly as with a single server. Clocks of two
//! servers are never compared.
//!
//! This is not the redis crate's own cluster client. A value that was read over a connection may be believed for as long as that
//! very connection receives the server's pushes, and only because pushes are applied before the next reply is handed out. That
//! client hides which connection answered, repeats commands over another one, and delivers pushes by a separate channel, in no
//! order with replies.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::slots::{Primary, Slots, slot_of, slot_of_key};
use crate::store::redis::connection::{
    address::Address,
    context::Context,
    endpoint::{at, host_of},
    handle::Connection,
    session::Session,
    shard::{Everything, Shard},
};
use crate::store::redis::wire::{errors::is_refused, scripts};
use crate::{
    key::Key,
    store::{BoxFuture, Scope, StoreError},
    sync::RwLock,
};

/// The pause between reads of the topology if nothing requires one sooner.
const LOOK: Duration = Duration::from_secs(2);
/// The shortest pause between them, however many redirections there are.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// How long one node may take to return the topology.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Cluster {
    seeds: Vec<ConnectionInfo>,
    connections: usize,
    context: Arc<Context>,
    runtime: Handle,
    stop: CancellationToken,
    slot_of_tags: u16,
    map: RwLock<Arc<Map>>,
    /// Never connected: for slots without a primary.
    nowhere: Arc<Connection>,
    /// Wakes the task before its next read of the topology.
    wake: Notify,
    /// Wakes all tasks that wait for that read.
    looked: Notify,
}

#[derive(Default)]
struct Map {
    slots: Slots,
    /// In the order of the primaries in `slots`.
    members: Vec<Arc<Member>>,
}

/// The connections to one primary, which end with this.
struct Member {
    primary: Primary,
    connections: Vec<Arc<Connection>>,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Cluster {
    pub(crate) fn start(
        seeds: Vec<ConnectionInfo>,
        connections: usize,
        context: Arc<Context>,
        runtime: &Handle,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let slot_of_tags = slot_of(context.names.prefix().bytes());
        let nowhere = Connection::new(Address::Cluster(Vec::new()), Box::new(Everything), false, context.clone());
        let cluster = Arc::new(Self {
            seeds,
            connections,
            context,
            runtime: runtime.clone(),
            stop: stop.clone(),
            slot_of_tags,
            map: RwLock::default(),
            nowhere,
            wake: Notify::new(),
            looked: Notify::new(),
        });
        runtime.spawn(cluster.clone().run());
        cluster
    }

    fn map(&self) -> Arc<Map> {
        self.map.read().clone()
    }

    pub(crate) fn connection(&self, key: &Key) -> Arc<Connection> {
        let map = self.map();
        let Some(member) = map.member(slot_of_key(key)) else { return self.nowhere.clone() };
        // Not by the bytes that choose the slot.
        member.connections[usize::from(key.id().primary[0]) % member.connections.len()].clone()
    }

    /// The connection to the tags that is always used beside `connection`, or one that is connected.
    pub(crate) fn connection_to_tags(&self, beside: Option<&Arc<Connection>>) -> Arc<Connection> {
        let map = self.map();
        let Some(member) = map.member(self.slot_of_tags) else { return self.nowhere.clone() };
        let place = |connection| {
            map.members.iter().find_map(|m| m.connections.iter().position(|other| Arc::ptr_eq(other, connection)))
        };
        let connection = match beside.and_then(place) {
            Some(index) => &member.connections[index],
            None => {
                member.connections.iter().find(|connection| connection.is_connected()).unwrap_or(&member.connections[0])
            }
        };
        connection.clone()
    }

    pub(crate) fn connections(&self) -> Vec<Arc<Connection>> {
        self.map().members.iter().flat_map(|member| member.connections.iter().cloned()).collect()
    }

    /// A connection to each primary: a connected one, if there is any.
    pub(crate) fn one_of_each_node(&self) -> Vec<Arc<Connection>> {
        let map = self.map();
        let one = |member: &Arc<Member>| {
            member
                .connections
                .iter()
                .find(|connection| connection.is_connected())
                .or_else(|| member.connections.first())
                .cloned()
        };
        if map.members.is_empty() { vec![self.nowhere.clone()] } else { map.members.iter().filter_map(one).collect() }
    }

    /// The connections to the server of `connection`.
    pub(crate) fn connections_beside(&self, connection: &Arc<Connection>) -> Vec<Arc<Connection>> {
        let map = self.map();
        let member =
            map.members.iter().find(|member| member.connections.iter().any(|other| Arc::ptr_eq(other, connection)));
        member.map_or_else(|| vec![connection.clone()], |member| member.connections.clone())
    }

    /// A connected connection to the node at `address`, as a redirection names it.
    pub(crate) fn session_at(&self, address: &str) -> Result<(Arc<Connection>, Arc<Session>), StoreError> {
        let map = self.map();
        let is_there = |member: &&Arc<Member>| {
            address.rsplit_once(':').is_some_and(|(host, port)| {
                port.parse() == Ok(member.primary.port) && (host.is_empty() || host == member.primary.host)
            })
        };
        let member = map.members.iter().find(is_there).ok_or(StoreError::Unavailable)?;
        member
            .connections
            .iter()
            .find_map(|connection| Some((connection.clone(), connection.session().ok()?)))
            .ok_or(StoreError::Unavailable)
    }

    /// Returns once every primary is connected.
    pub(crate) async fn wait_connected(&self) {
        loop {
            let looked = self.looked.notified();
            let map = self.map();
            let all = async {
                for connection in map.members.iter().flat_map(|member| &member.connections) {
                    connection.wait_connected().await;
                }
            };
            if map.members.is_empty() {
                looked.await;
            } else {
                tokio::select! {
                    () = all => return,
                    () = looked => {}
                }
            }
        }
    }

    /// Requests the topology again, and waits until it is read, or for a second.
    pub(crate) async fn look_again(&self) {
        let looked = self.looked.notified();
        self.wake.notify_one();
        let _ = timeout(PATIENCE, looked).await;
    }

    /// Returns once the topology [shows every node](Self::shows_every_node) that has keys.
    pub(crate) async fn look_until_every_node_is_shown(&self) {
        let mut held_up = None;
        loop {
            // First: if no node may say which others there are, the topology at least is a new one.
            self.look_again().await;
            if self.stop.is_cancelled() || self.shows_every_node().await {
                return;
            }
            held_up.get_or_insert_with(|| self.context.counters.hold_up_bans());
            sleep(PATIENCE).await;
        }
    }

    /// As [`shows_every_node`](Self::shows_every_node), by a second look if the first one says otherwise: what nodes know of each
    /// other differs for a moment, and one may just have been slow.
    pub(crate) async fn shows_every_node_at_last(&self) -> bool {
        if self.shows_every_node().await {
            return true;
        }
        self.look_again().await;
        self.shows_every_node().await
    }

    /// Whether the topology shows every node that has keys, as each primary knows of its own slots. A node that gets its first slot
    /// has keys before it has the slot. `false` if any primary does not answer; one that may not say, or can't, is not waited for.
    pub(crate) async fn shows_every_node(&self) -> bool {
        let map = self.map();
        if map.members.iter().any(|member| !member.primary.has_id()) {
            return true;
        }
        let is_shown = |id: &str| map.members.iter().any(|member| member.primary.name == id);
        for member in &map.members {
            let Some(session) = member.connections.iter().find_map(|connection| connection.session().ok()) else {
                return false;
            };
            let nodes = async { redis::cmd("CLUSTER").arg("NODES").query_async(&mut session.driver()).await };
            let nodes: RedisResult<String> = match timeout(PATIENCE, nodes).await {
                Ok(nodes) => nodes,
                Err(_) => return false,
            };
            let shows = match nodes {
                Ok(nodes) => with_keys(&nodes).all(is_shown),
                Err(error) => is_refused(&error),
            };
            if !shows {
                return false;
            }
        }
        true
    }

    async fn run(self: Arc<Self>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.follow_the_slots() => {}
        }
        // The connections hold their nodes, which hold nothing; this breaks the rest of the cycle.
        *self.map.write() = Arc::default();
    }

    /// Reads the topology, again and again.
    async fn follow_the_slots(self: &Arc<Self>) {
        let (mut reported, mut late) = (false, false);
        loop {
            match self.look().await {
                Ok(slots) => {
                    reported = false;
                    self.adopt(slots, late);
                }
                Err(error) => {
                    late = true;
                    self.nowhere.note_error(error.to_string());
                    if !reported {
                        tracing::warn!(%error, "no node of the Redis cluster says which node has which slots");
                        reported = true;
                    }
                }
            }
            self.looked.notify_waiters();
            sleep(SHORTEST_PAUSE.mul_f64(0.5 + fastrand::f64())).await;
            let _ = timeout(LOOK, self.wake.notified()).await;
        }
    }

    /// The topology according to one node, if that node considers the cluster well: otherwise its view may be out of date.
    async fn look(&self) -> RedisResult<Slots> {
        let map = self.map();
        let mut members: Vec<_> = map.members.iter().collect();
        fastrand::shuffle(&mut members);
        let mut failure = RedisError::from((ErrorKind::Io, "no node answers"));
        for member in members {
            let Some(session) = member.connections.iter().find_map(|connection| connection.session().ok()) else {
                continue;
            };
            match timeout(PATIENCE, ask(session.driver(), &member.primary.host)).await {
                Ok(Ok(slots)) => return Ok(slots),
                Ok(Err(error)) => failure = error,
                Err(_) => {}
            }
        }
        let known = map.members.iter().map(|member| self.info_of(&member.primary));
        for node in known.chain(self.seeds.iter().cloned()) {
            let asking = async {
                let host = host_of(&node);
                ask(connect(node, self.context.timeouts.connect).await?, &host).await
            };
            match timeout(PATIENCE, asking).await {
                Ok(Ok(slots)) => return Ok(slots),
                Ok(Err(error)) => failure = error,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    fn info_of(&self, primary: &Primary) -> ConnectionInfo {
        at(&self.seeds[0], primary.host.clone(), primary.port)
    }

    /// Routes by `slots` from now on. Connections to primaries that stay are kept. A primary that appears after the first read
    /// may have replaced one that was lost; if it took several reads to find the cluster, all of them may have.
    fn adopt(self: &Arc<Self>, slots: Slots, late: bool) {
        let old = self.map();
        let rejoins = late || !old.members.is_empty();
        if old.slots == slots {
            return;
        }
        tracing::info!(primaries = slots.primaries.len(), "the Redis cluster has changed");
        let (mut members, mut new) = (Vec::new(), Vec::new());
        for primary in &slots.primaries {
            let member = old.members.iter().find(|member| member.primary == *primary).cloned().unwrap_or_else(|| {
                let member = Arc::new(self.member(primary, rejoins));
                new.push(member.clone());
                member
            });
            members.push(member);
        }
        let map = Arc::new(Map { slots, members });
        // What a server pushes that has left says nothing of invalidations that others receive from now on.
        for left in old.members.iter().filter(|old| !map.members.iter().any(|member| Arc::ptr_eq(member, old))) {
            left.stop.cancel();
            left.connections.iter().for_each(|connection| connection.reset());
        }
        // Kept invalidations may now be for another server, which must receive them before anything is read from it.
        self.context.outbox.undisturbed(|kept| {
            if kept {
                map.members.iter().flat_map(|member| &member.connections).for_each(|connection| connection.reset());
            }
            *self.map.write() = map;
        });
        for member in new {
            for connection in &member.connections {
                self.runtime.spawn(connection.clone().supervise(member.stop.clone()));
            }
        }
    }

    fn member(self: &Arc<Self>, primary: &Primary, rejoins: bool) -> Member {
        // The URL was checked with the settings: only the address differs.
        let address = || {
            Client::open(self.info_of(primary))
                .map_or_else(|_| Address::Cluster(Vec::new()), |client| Address::One(Box::new(client)))
        };
        let connection = || {
            let patience = self.context.timeouts.connect;
            let Primary { name, host, .. } = primary.clone();
            let node = Node { cluster: Arc::downgrade(self), name, host, patience };
            Connection::new(address(), Box::new(node), rejoins, self.context.clone())
        };
        let stop = self.stop.child_token();
        let connections = std::iter::repeat_with(connection).take(self.connections).collect();
        Member { primary: primary.clone(), connections, stop: stop.clone(), _stop: stop.drop_guard() }
    }
}

impl Map {
    fn member(&self, slot: u16) -> Option<&Arc<Member>> {
        self.members.get(self.slots.owner(slot)?)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

/// One primary, as its connections see it.
struct Node {
    cluster: Weak<Cluster>,
    name: String,
    host: String,
    /// How long to wait for another node.
    patience: Duration,
}

impl Node {
    fn has_key(&self, key: &Key) -> bool {
        self.cluster.upgrade().is_some_and(|cluster| self.has_slot(&cluster, slot_of_key(key)))
    }

    fn has_tags(&self) -> bool {
        self.cluster.upgrade().is_some_and(|cluster| self.has_slot(&cluster, cluster.slot_of_tags))
    }

    fn has_slot(&self, cluster: &Cluster, slot: u16) -> bool {
        cluster.map().member(slot).is_some_and(|member| member.primary.name == self.name)
    }

    async fn driver_of_tags(&self) -> RedisResult<MultiplexedConnection> {
        let connecting = async {
            loop {
                // The cluster is not held while waiting, which would keep an unused cluster alive.
                let connection = self.cluster.upgrade()?.connection_to_tags(None);
                if let Ok(session) = connection.session() {
                    return Some(session.driver());
                }
                // Another node may have the tags by the time that this wait ends.
                let _ = timeout(SHORTEST_PAUSE, connection.wait_connected()).await;
            }
        };
        let driver = timeout(self.patience, connecting).await.ok().flatten();
        Ok(driver.ok_or((ErrorKind::Io, "the node that has the tags is not connected"))?)
    }
}

impl Shard for Node {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_everything(&self) -> bool {
        false
    }

    fn covers(&self, scope: Scope<'_>) -> bool {
        match scope {
            Scope::Key(key) => self.has_key(key),
            Scope::Tags(_) | Scope::Pattern(_) | Scope::Everything => self.has_tags(),
        }
    }

    fn hold_up_tags(&self) {
        let map = self.cluster.upgrade().map(|cluster| (cluster.map(), cluster.slot_of_tags));
        let member = map.as_ref().and_then(|(map, slot)| map.member(*slot));
        member.into_iter().flat_map(|member| &member.connections).for_each(|connection| connection.reset());
    }

    fn refresh_topology(&self) {
        if let Some(cluster) = self.cluster.upgrade() {
            cluster.wake.notify_one();
        }
    }

    fn is_served<'a>(&'a self, driver: &'a mut MultiplexedConnection) -> BoxFuture<'a, RedisResult<()>> {
        Box::pin(is_well(driver))
    }

    fn driver_to_tags<'a>(
        &'a self,
        own: &'a MultiplexedConnection,
    ) -> BoxFuture<'a, RedisResult<MultiplexedConnection>> {
        Box::pin(async move { if self.has_tags() { Ok(own.clone()) } else { self.driver_of_tags().await } })
    }

    fn driver_at<'a>(&'a self, address: &'a str) -> BoxFuture<'a, RedisResult<MultiplexedConnection>> {
        Box::pin(async move {
            let node = self.cluster.upgrade().and_then(|cluster| {
                let (host, port) = address.rsplit_once(':')?;
                let host = if host.is_empty() { &self.host } else { host };
                Some(at(&cluster.seeds[0], host.to_owned(), port.parse().ok()?))
            });
            // A connection of its own: the node may have no slot yet, or wait for its turn to receive invalidations.
            let mut driver = connect(node.ok_or((ErrorKind::Io, "no such node"))?, self.patience).await?;
            scripts::load(&mut driver).await?;
            Ok(driver)
        })
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(&self.name).finish()
    }
}

/// A connection to `node` that is used for little.
async fn connect(node: ConnectionInfo, patience: Duration) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(patience)).set_response_timeout(None);
    Client::open(node)?.get_multiplexed_async_connection_with_config(&config).await
}

/// An error if the node considers its cluster unable to serve.
async fn is_well(driver: &mut MultiplexedConnection) -> RedisResult<()> {
    let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(driver).await?;
    if info.lines().any(|line| line == "cluster_state:ok") {
        return Ok(());
    }
    Err((ErrorKind::Io, "the node finds its cluster down").into())
}

/// The ids of the nodes that have keys, by this reply to `CLUSTER NODES`: those that have slots, and those to which the node that
/// replied hands one over. A line has the id of its node, seven more fields, and the slots. Among those of the node that replied
/// are `[<slot>->-<id>]`, if it hands a slot over, and `[<slot>-<-<id>]`, if it gets one.
fn with_keys(nodes: &str) -> impl Iterator<Item = &str> {
    nodes.lines().flat_map(|line| {
        let mut fields = line.split(' ');
        let id = fields.next().filter(|_| fields.clone().skip(7).any(|slots| !slots.starts_with('[')));
        let handed = fields.skip(7).filter_map(|slots| slots.strip_suffix(']')?.split_once("->-"));
        id.into_iter().chain(handed.map(|(_, id)| id))
    })
}

async fn ask(mut driver: MultiplexedConnection, host: &str) -> RedisResult<Slots> {
    is_well(&mut driver).await?;
    let reply: Value = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut driver).await?;
    Slots::parse(&reply, host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_keys_is_what_has_slots_or_gets_some() {
        let nodes = "\
            a 127.0.0.1:1@11 myself,master - 0 0 1 connected 0-5460 [77->-d] [93-<-e]\n\
            b 127.0.0.1:2@12,host master - 0 0 2 connected 5461-10922 10924\n\
            c 127.0.0.1:3@13 slave b 0 0 2 connected\n\
            d 127.0.0.1:4@14 master - 0 0 0 connected\n";
        assert_eq!(with_keys(nodes).collect::<Vec<_>>(), ["a", "d", "b"]);
        assert_eq!(with_keys("").count(), 0);
    }
}
