//! Two servers that both take invalidations, as while an old primary is cut off from those that promoted the other one.

use std::{net::SocketAddr, sync::Mutex};

use tests::{RedisServer, wait_until};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use crate::store::redis::{fleet_tests::*, tracking::dataset_guard_tests::cut_replicas_off, *};

/// An address that leads to one server or another: to the one that it leads to when a connection is made.
struct Road {
    addr: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
}

impl Road {
    async fn to(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(server.addr()));
        let leads_to = target.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let target = *leads_to.lock().unwrap();
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { addr, target }
    }

    fn lead_to(&self, server: &RedisServer) {
        *self.target.lock().unwrap() = server.addr();
    }
}

/// Two primaries with the same data, and a store with this many connections to the first one, on a road that leads there.
async fn split(
    policy: Restored,
    connections: usize,
    before: impl AsyncFnOnce(&RedisStore),
) -> ([RedisServer; 2], Road, RedisStore) {
    let old = RedisServer::start();
    let new = RedisServer::builder().config(&format!("replicaof 127.0.0.1 {}", old.port())).start();
    let road = Road::to(&old).await;
    let url = format!("redis://{}", road.addr);
    let store = connect_with(builder(url).on_restored(policy).connections(connections)).await;
    for connection in store.connections() {
        connection.wait_connected().await;
    }
    before(&store).await;
    wait_until("the replica to have it", async || {
        let offset = |server: &RedisServer, field| server.info("replication", field);
        offset(&new, "master_link_status") == "up"
            && offset(&old, "master_repl_offset") == offset(&new, "master_repl_offset")
    })
    .await;
    cut_replicas_off(&old);
    let () = new.command(&["REPLICAOF", "NO", "ONE"]);
    ([old, new], road, store)
}

/// Loses one connection, and waits until it is there again.
async fn reconnect(store: &RedisStore, index: usize) {
    let connection = &store.connections()[index];
    let number = || connection.session().map(|session| session.number);
    let before = number();
    connection.reset();
    wait_until("it to be connected again", async || number().is_ok() && number() != before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_one_store_do_not_lead_to_two_servers() {
    for policy in [Restored::Replay(Duration::from_secs(600)), Restored::Trust] {
        let of_second = |store: &RedisStore| {
            let second = &store.connections()[1];
            (0..).map(|i: u32| key(&i.to_string())).find(|key| Arc::ptr_eq(&store.connection(key), second)).unwrap()
        };
        let (servers, road, store) = split(policy, 2, async |store: &RedisStore| {
            assert_eq!(fill(store, &of_second(store), "old", &["t"]).await, Committed::Stored);
        })
        .await;
        let key = of_second(&store);
        road.lead_to(&servers[1]);
        reconnect(&store, 1).await;
        assert_eq!(read(&store, &key).await.as_deref(), Some("old"), "{policy:?}");
        invalidate_tag(&store, "t").await.unwrap();
        assert_eq!(read(&store, &key).await, None, "{policy:?}");
        wait_until("the first one to be there", async || store.connections()[0].is_connected()).await;
        for index in [0, 1] {
            reconnect(&store, index).await;
            assert_eq!(read(&store, &key).await, None, "{policy:?}, after connection {index} was lost");
        }
        let live = |server: &RedisServer| server.command::<String>(&["CLIENT", "LIST", "TYPE", "normal"]);
        wait_until("no connection to lead to the old one", async || live(&servers[0]).lines().count() == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_left_and_is_used_again_hears_what_another_one_was_told_meanwhile() {
    let tags = Tags::new(["t"]);
    for policy in [Restored::Replay(Duration::from_secs(600)), Restored::Clear] {
        for scope in [Scope::Key(&key("a")), Scope::Tags(&tags), Scope::Everything] {
            let ([old, new], road, store) = split(policy, 1, async |_: &RedisStore| {}).await;
            road.lead_to(&new);
            reconnect(&store, 0).await;
            assert_eq!(fill(&store, &key("a"), "old", &["t"]).await, Committed::Stored);
            road.lead_to(&old);
            reconnect(&store, 0).await;
            store.invalidate(scope, Hardness::Hard).await.unwrap();
            road.lead_to(&new);
            reconnect(&store, 0).await;
            assert_eq!(read(&store, &key("a")).await, None, "{policy:?}, {scope:?}");
            assert_eq!(fill(&store, &key("a"), "new", &["t"]).await, Committed::Stored);
            // What it has heard costs nothing more.
            reconnect(&store, 0).await;
            assert_eq!(read(&store, &key("a")).await.as_deref(), Some("new"), "{policy:?}, {scope:?}");
        }
    }
}
