//! Servers by TLS that ask for a user: one, a group behind sentinels, and a cluster. Processes that trust them share a
//! cache there, and one that doesn't says why, and serves without.

use std::path::Path;

use http::Method;
use serde_json::json;
use tempfile::TempDir;
use tests::{HttpClient, RedisCluster, RedisSentinel, RedisServer, ServiceProcess, wait_until};

const SERVICE: &str = env!("CARGO_BIN_EXE_service-under-test");
const USER: (&str, &str) = ("alice", "secret");
const PATH: &str = "/api/products/42";

#[tokio::test(flavor = "multi_thread")]
async fn one_server() {
    let redis = RedisServer::builder().user(USER.0, USER.1).tls().start();
    let fleet = Fleet::start(&redis.tls_url(), &redis.certificate()).await;
    fleet.share_what_they_store_and_what_they_void().await;
    says_that_it_does_not_trust(&redis.tls_url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster() {
    let cluster = RedisCluster::builder().user(USER.0, USER.1).tls().start(3, 0);
    let fleet = Fleet::start(&cluster.tls_url(), &cluster.certificate()).await;
    fleet.share_what_they_store_and_what_they_void().await;
    says_that_it_does_not_trust(&cluster.tls_url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_behind_sentinels_and_the_one_after_it() {
    for death in [false, true] {
        let mut group = RedisSentinel::builder().user(USER.0, USER.1).sentinel_password("other").tls().start();
        let url = format!("{}?sentinel_pass=other", group.tls_url());
        let fleet = Fleet::start(&url, &group.certificate()).await;
        fleet.share_what_they_store_and_what_they_void().await;
        if death {
            group.primary_mut().kill();
            group.wait_until_promoted();
        } else {
            group.fail_over();
        }
        fleet.wait_for_hits().await;
        assert!(
            group.primary().keys().iter().any(|name| name.contains(":e:")),
            "nothing was stored after the fail-over"
        );
        fleet.share_what_they_store_and_what_they_void().await;
        says_that_it_does_not_trust(&url).await;
    }
}

/// Two processes of the service on one Redis and one database.
struct Fleet {
    services: [ServiceProcess; 2],
    client: HttpClient,
    _database: TempDir,
}

impl Fleet {
    async fn start(url: &str, certificate: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = format!("sqlite://{}", folder.path().join("products.db").display());
        let certificate = certificate.to_str().unwrap();
        let variables = [
            ("APP_REDIS_URL", &*with_user(url)),
            ("APP_REDIS_TIMEOUT", "10s"),
            ("SSL_CERT_FILE", certificate),
            ("APP_DATABASE_URL", &database),
        ];
        let services = [(); 2].map(|()| ServiceProcess::start(SERVICE, &variables));
        // Behind one balancer, they hear one name.
        let fleet = Self { services, client: HttpClient::new().host("shop.example"), _database: folder };
        fleet.wait_for_hits().await;
        fleet
    }

    async fn get(&self, service: usize) -> tests::Response {
        let answer = self.client.get(&format!("{}{PATH}", self.services[service].url()), &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
    }

    async fn wait_for_hits(&self) {
        for service in 0..2 {
            wait_until("a hit", async || self.get(service).await.x_cache() == "HIT").await;
        }
    }

    /// A response that one instance stores is a hit at the other, and a write through one is seen by the other.
    async fn share_what_they_store_and_what_they_void(&self) {
        for write in 0..20 {
            let (here, there) = (write % 2, (write + 1) % 2);
            self.wait_for_hits().await;
            let url = format!("{}{PATH}", self.services[here].url());
            let lamp = json!({"name": "Lamp", "price": 19.99, "category": "electronics", "stock": write});
            let put = self.client.send_json(Method::PUT, &url, &lamp).await;
            assert_eq!(put.status, 200, "{}", put.text());
            // In a cluster, a moment later.
            wait_until("the other one to hear of it", async || self.get(there).await.json()["stock"] == write).await;
            wait_until("what one stored to be a hit here", async || self.get(here).await.x_cache() == "HIT").await;
            assert_eq!(self.get(here).await.json()["stock"], write);
        }
    }
}

async fn says_that_it_does_not_trust(url: &str) {
    let variables = [("APP_REDIS_URL", &*with_user(url)), ("SSL_CERT_FILE", "/dev/null")];
    let service = ServiceProcess::start(SERVICE, &variables);
    let client = HttpClient::new();
    let health = format!("{}/health", service.url());
    wait_until("it to say so", async || {
        client.get(&health, &[]).await.json()["redis"]["error"].to_string().contains("certificate")
    })
    .await;
    assert!(service.log().contains("certificate"), "{}", service.log());
    assert_eq!(client.get(&format!("{}{PATH}", service.url()), &[]).await.status, 200);
}

fn with_user(url: &str) -> String {
    url.replace("://", &format!("://{}:{}@", USER.0, USER.1))
}
