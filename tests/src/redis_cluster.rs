//! A real Redis Cluster.

use std::{iter, ops::RangeInclusive, path::PathBuf, time::Duration};

use crate::{RedisServer, certificate::Certificate, wait};

const SLOTS: usize = 16_384;
/// How long nodes may take to agree: they gossip once or twice a second.
const AGREEMENT: Duration = Duration::from_secs(30);
/// After so many milliseconds a node that is silent is taken for dead, where a replica can take its place.
const NODE_TIMEOUT: u32 = 2_000;
/// The same without replicas: that there is no cluster any more is all that could come of it, and a busy machine is silent, too.
const NODE_TIMEOUT_ALONE: u32 = 10_000;

/// Primaries that share the slots evenly, each with the same number of replicas.
///
/// ```no_run
/// let cluster = tests::RedisCluster::start(3, 0);
/// assert_eq!(cluster.primaries().len(), 3);
/// ```
#[derive(Debug)]
pub struct RedisCluster {
    settings: RedisClusterBuilder,
    nodes: Vec<RedisServer>,
    primaries: usize,
}

/// The settings of a [`RedisCluster`].
#[derive(Debug, Default)]
#[must_use]
pub struct RedisClusterBuilder {
    user: Option<[String; 2]>,
    certificate: Option<Certificate>,
    node_timeout: u32,
}

impl RedisClusterBuilder {
    /// Lets in this user only, also from node to node.
    pub fn user(mut self, user: &str, password: &str) -> Self {
        self.user = Some([user, password].map(str::to_owned));
        self
    }

    /// The nodes talk to each other by TLS, and listen with it on a second port, all by one certificate.
    pub fn tls(mut self) -> Self {
        self.certificate = Some(Certificate::new());
        self
    }

    /// Starts the nodes and waits until all of them say that the cluster is well.
    #[must_use]
    pub fn start(mut self, primaries: usize, replicas_of_each: usize) -> RedisCluster {
        self.node_timeout = if replicas_of_each == 0 { NODE_TIMEOUT_ALONE } else { NODE_TIMEOUT };
        let nodes = iter::repeat_with(|| self.start_node()).take(primaries * (1 + replicas_of_each)).collect();
        let cluster = RedisCluster { settings: self, nodes, primaries };
        for (index, node) in cluster.nodes.iter().enumerate() {
            // Otherwise all have the same one, and resolving that takes them seconds.
            let () = node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        }
        for (index, node) in cluster.primaries().iter().enumerate() {
            let slots = share(index, primaries);
            let range = [slots.start().to_string(), slots.end().to_string()];
            let () = node.command(&["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]]);
        }
        for node in &cluster.nodes[1..] {
            cluster.introduce(node);
        }
        cluster.wait_until_well();
        for (index, node) in cluster.replicas().iter().enumerate() {
            let () = node.command(&["CLUSTER", "REPLICATE", &id(&cluster.nodes[index % primaries])]);
        }
        for replica in cluster.replicas() {
            let linked = wait::poll(AGREEMENT, || replica.info("replication", "master_link_status") == "up");
            assert!(linked, "{replica} does not follow its primary:\n{}", replica.log());
        }
        // A fail-over needs the consent of all primaries, which must know the replica.
        for (node, primary) in
            cluster.primaries().iter().flat_map(|node| cluster.primaries().iter().map(move |p| (node, p)))
        {
            let primary = id(primary);
            let heard = wait::poll(AGREEMENT, || {
                node.command::<Vec<String>>(&["CLUSTER", "REPLICAS", &primary]).len() == replicas_of_each
            });
            assert!(heard, "{node} does not know the replicas of {primary}");
        }
        cluster
    }

    fn start_node(&self) -> RedisServer {
        let mut node = RedisServer::builder()
            .cluster()
            .config(&format!("cluster-node-timeout {}", self.node_timeout))
            // A node that has no slot yet, or none any more, stays the primary that a test made it.
            .config("cluster-allow-replica-migration no")
            .config("repl-diskless-sync-delay 0");
        if let Some([user, password]) = &self.user {
            node = node.user(user, password).config(&format!("masteruser {user}\nmasterauth {password}"));
        }
        if let Some(certificate) = &self.certificate {
            node = node.certificate(certificate.clone()).config("tls-cluster yes\ntls-replication yes");
        }
        node.start()
    }
}

impl RedisCluster {
    /// A cluster that lets everybody in.
    #[must_use]
    pub fn start(primaries: usize, replicas_of_each: usize) -> Self {
        Self::builder().start(primaries, replicas_of_each)
    }

    /// A cluster with more than the defaults.
    pub fn builder() -> RedisClusterBuilder {
        RedisClusterBuilder::default()
    }

    /// `redis+cluster://`, with the first two nodes: a client finds the others. Without a user.
    #[must_use]
    pub fn url(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().take(2).map(|node| node.addr().to_string()).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }

    /// The same by TLS; it must have been started [with it](RedisClusterBuilder::tls).
    #[must_use]
    pub fn tls_url(&self) -> String {
        let port = |node: &RedisServer| node.tls_port().expect("the cluster was started with TLS");
        let nodes: Vec<_> = self.nodes.iter().take(2).map(|node| format!("127.0.0.1:{}", port(node))).collect();
        format!("rediss+cluster://{}", nodes.join(","))
    }

    /// The file of the certificate that has to be trusted for [`tls_url`](Self::tls_url).
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.nodes[0].certificate()
    }

    /// The nodes that were given slots at the start.
    #[must_use]
    pub fn primaries(&self) -> &[RedisServer] {
        &self.nodes[..self.primaries]
    }

    /// The nodes that follow them: the first replica of each primary, in order, then the second ones.
    #[must_use]
    pub fn replicas(&self) -> &[RedisServer] {
        &self.nodes[self.primaries..]
    }

    /// Any node, to be killed, frozen and started again.
    pub fn node_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.nodes[index]
    }

    /// The index of the primary that serves the slot of `key`, by what the first living node says.
    #[must_use]
    pub fn index_of(&self, key: &str) -> usize {
        let ranges: Vec<redis::Value> = self.nodes[0].command(&["CLUSTER", "SLOTS"]);
        let slot = i64::from(slot(key));
        for range in ranges {
            let (first, last, primary): (i64, i64, (String, u16, String)) = {
                let redis::Value::Array(mut parts) = range else { panic!("not a range: {range:?}") };
                let primary = match parts.swap_remove(2) {
                    redis::Value::Array(mut primary) => {
                        primary.truncate(3);
                        redis::from_redis_value(redis::Value::Array(primary)).expect("a node")
                    }
                    other => panic!("not a node: {other:?}"),
                };
                let number = |value: &redis::Value| redis::from_redis_value_ref(value).expect("a slot");
                (number(&parts[0]), number(&parts[1]), primary)
            };
            if (first..=last).contains(&slot) {
                let served_by = |node: &RedisServer| node.port() == primary.1;
                return self.nodes.iter().position(served_by).expect("a node of ours");
            }
        }
        panic!("nobody serves slot {slot}")
    }

    /// Adds an empty primary without slots, and returns its index.
    pub fn add_node(&mut self) -> usize {
        self.nodes.push(self.settings.start_node());
        let index = self.nodes.len() - 1;
        self.introduce(&self.nodes[index]);
        self.wait_until_well();
        index
    }

    /// Moves one slot with its keys to a node, the way `redis-cli --cluster reshard` does.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        self.begin_to_move_slot(slot, from, to);
        self.finish_to_move_slot(slot, from, to);
    }

    /// The first half of [`move_slot`](Self::move_slot): from now on, the node answers `ASK` for keys that it lacks.
    pub fn begin_to_move_slot(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        self.tell(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(&self.nodes[from])]);
        self.tell(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(&self.nodes[to])]);
    }

    /// The second half of [`move_slot`](Self::move_slot).
    pub fn finish_to_move_slot(&self, slot: u16, from: usize, to: usize) {
        let (slot, port) = (slot.to_string(), self.nodes[to].port().to_string());
        loop {
            let keys: Vec<String> = self.nodes[from].command(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            if keys.is_empty() {
                break;
            }
            let mut migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"].map(str::to_owned).to_vec();
            migrate.extend(keys);
            // `NOKEY` if they expired in the meantime.
            self.tell(from, &migrate);
        }
        let owner = id(&self.nodes[to]);
        for node in [to, from] {
            self.tell(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &owner]);
        }
    }

    /// Runs one command on a node, again if it is refused: on a busy machine a node may think for a moment that the
    /// others are gone.
    fn tell(&self, node: usize, command: &[impl redis::ToRedisArgs]) {
        let node = &self.nodes[node];
        let mut refusal = None;
        let done = wait::poll(AGREEMENT, || {
            refusal = node.try_command::<redis::Value>(command).err();
            refusal.is_none()
        });
        assert!(done, "{node}: {refusal:?}");
    }

    /// Makes a replica take its primary's place, and waits until it has.
    pub fn fail_over_to(&self, index: usize) {
        let replica = &self.nodes[index];
        let () = replica.command(&["CLUSTER", "FAILOVER"]);
        let promoted = wait::poll(AGREEMENT, || replica.info("replication", "role") == "master");
        assert!(promoted, "{replica} was not promoted:\n{}", replica.log());
    }

    fn introduce(&self, node: &RedisServer) {
        let port = node.tls_port().unwrap_or_else(|| node.port()).to_string();
        let bus = node.bus_port().to_string();
        let () = self.nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }

    fn wait_until_well(&self) {
        for node in &self.nodes {
            let well = wait::poll(AGREEMENT, || {
                let info: String = node.command(&["CLUSTER", "INFO"]);
                let says = |line: &str| info.lines().any(|other| other == line);
                says("cluster_state:ok") && says(&format!("cluster_known_nodes:{}", self.nodes.len()))
            });
            assert!(well, "{node} does not find the cluster well:\n{}", node.log());
        }
    }
}

/// The slot of `key`, as the servers compute it.
#[must_use]
pub fn slot(key: &str) -> u16 {
    let hashed = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map_or(key, |(tag, _)| if tag.is_empty() { key } else { tag });
    let crc = hashed.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    crc % SLOTS as u16
}

fn id(node: &RedisServer) -> String {
    node.command(&["CLUSTER", "MYID"])
}

fn share(index: usize, primaries: usize) -> RangeInclusive<usize> {
    index * SLOTS / primaries..=(index + 1) * SLOTS / primaries - 1
}
