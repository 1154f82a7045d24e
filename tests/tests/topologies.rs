//! Several Redis servers that fail over to each other and are rearranged, under load: every request is answered, rightly
//! and in time, and the hits come back from the server that has the data now.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::Path,
    response::{IntoResponse, Response},
    routing::get,
};
use cache_layer::{Cache, CacheLayer, Tags, store::RedisStore};
use tests::{HttpClient, Load, RedisCluster, RedisSentinel, Report, slot, wait_until};
use tokio::net::TcpListener;

const CLIENTS: usize = 8;
const ITEMS: usize = 24;
const MANY: usize = 1_000;
const PREFIX: &str = "shop";

#[tokio::test(flavor = "multi_thread")]
async fn a_fail_over_by_sentinels_fails_no_request_and_the_new_primary_is_filled() {
    for death in [false, true] {
        let mut group = RedisSentinel::start();
        let app = App::over(&group.url()).await;
        app.expect_hits().await;
        let load = app.load();
        load.more(MANY).await;
        if death {
            group.primary_mut().kill();
            load.more(MANY).await;
            group.wait_until_promoted();
        } else {
            group.fail_over();
        }
        load.more(MANY).await;
        wait_until("the new primary to be filled", async || entries(&group.primary().keys()) == ITEMS).await;
        app.expect_hits().await;
        say(if death { "primary killed" } else { "primary demoted" }, &load.stop().await);
        app.cache.invalidate_tag("items").await.unwrap();
        assert_eq!(app.get(0).await.x_cache(), "MISS");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_a_primary_fails_no_request_and_its_replica_is_filled() {
    for tags_die in [false, true] {
        let mut cluster = RedisCluster::start(3, 1);
        let app = App::over(&cluster.url()).await;
        app.expect_hits().await;
        let load = app.load();
        load.more(MANY).await;
        let home = cluster.index_of(&format!("{PREFIX}:t:{{{PREFIX}}}:items"));
        let index = if tags_die { home } else { (home + 1) % 3 };
        cluster.node_mut(index).kill();
        load.more(MANY).await;
        let replica = 3 + index;
        wait_until("its replica to be promoted", async || {
            cluster.node_mut(replica).info("replication", "role") == "master"
        })
        .await;
        load.more(MANY).await;
        app.expect_hits().await;
        say(if tags_die { "node with the tags killed" } else { "node killed" }, &load.stop().await);
        app.cache.invalidate_tag("items").await.unwrap();
        assert_eq!(app.get(0).await.x_cache(), "MISS");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_resharded_fails_no_request_and_the_new_node_is_used() {
    let mut cluster = RedisCluster::start(3, 0);
    let app = App::over(&cluster.url()).await;
    app.expect_hits().await;
    let added = cluster.add_node();
    let load = app.load();
    load.more(MANY).await;
    let tokens = format!("{PREFIX}:t:{{{PREFIX}}}:items");
    let names: Vec<String> = cluster.primaries().iter().flat_map(|node| node.keys()).collect();
    for name in names.iter().filter(|name| name.contains(":e:")).take(ITEMS / 2).chain([&tokens]) {
        let from = cluster.index_of(name);
        if from != added {
            cluster.move_slot(slot(name), from, added);
        }
        load.more(MANY / 10).await;
    }
    wait_until("the new node to be filled", async || entries(&cluster.node_mut(added).keys()) > 0).await;
    app.expect_hits().await;
    assert_eq!(cluster.index_of(&tokens), added);
    say("resharded", &load.stop().await);
    app.cache.invalidate_tag("items").await.unwrap();
    assert_eq!(app.get(0).await.x_cache(), "MISS");
}

fn entries(names: &[String]) -> usize {
    names.iter().filter(|name| name.contains(":e:")).count()
}

fn say(what: &str, report: &Report) {
    report.assert_no_failure();
    println!(
        "{what}: {} requests, 0 failed, p50 {:?}, p99 {:?}, max {:?}, {:?}",
        report.latencies.len(),
        report.quantile(0.5),
        report.quantile(0.99),
        report.quantile(1.0),
        report.x_cache
    );
}

/// A small application behind the cache.
struct App {
    addr: SocketAddr,
    cache: Cache,
    client: HttpClient,
}

impl App {
    async fn over(url: &str) -> Self {
        let store = RedisStore::builder(url).prefix(PREFIX).build().unwrap();
        assert!(store.wait_connected(Duration::from_secs(10)).await);
        let cache = Cache::new(store);
        let router = Router::new().route("/items/{id}", get(item)).layer(CacheLayer::new(cache.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { addr, cache, client: HttpClient::new() }
    }

    /// One answer, which must be right whatever happened to the cache.
    async fn get(&self, item: usize) -> tests::Response {
        let response = self.client.get(&self.url(item), &[]).await;
        assert_eq!((response.status.as_u16(), response.text()), (200, &body(item)[..]));
        response
    }

    async fn expect_hits(&self) {
        for item in 0..ITEMS {
            wait_until(&format!("item {item} is a hit"), async || self.get(item).await.x_cache() == "HIT").await;
        }
    }

    fn load(&self) -> Load {
        let urls: Vec<String> = (0..ITEMS).map(|item| self.url(item)).collect();
        Load::start(&self.client, CLIENTS, &urls)
    }

    fn url(&self, item: usize) -> String {
        format!("http://{}/items/{item}", self.addr)
    }
}

async fn item(Path(item): Path<usize>) -> Response {
    let mut response = ([("cache-control", "public, max-age=300")], body(item)).into_response();
    response.extensions_mut().insert(Tags::new(["items".to_owned(), format!("item:{item}")]));
    response
}

fn body(item: usize) -> String {
    format!("this is item {item}")
}
