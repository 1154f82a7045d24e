//! A primary that changes in a fail-over.

use tests::{RedisSentinel, wait_until};

use crate::store::TieredStore;
use crate::store::redis::{
    fleet_tests::*,
    tracking::dataset_guard_tests::{cut_replicas_off, fill_when_possible},
    *,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_fail_over_the_new_primary_is_used_and_holds_nothing_stale() {
    let mut group = RedisSentinel::start();
    let redis = connect(group.url()).await;
    let store = TieredStore::new(1 << 20, redis.clone());
    for death in [false, true] {
        fill_when_possible(&store, &key("a"), "old", &["t"]).await;
        let Acquired::Granted(lease) = StoreBackend::acquire(
            &store,
            &key(&format!("in flight {death}")),
            Seen::Unusable,
            Duration::from_secs(60),
            Failures::Heed,
        )
        .await
        .unwrap() else {
            panic!("no lease")
        };
        wait_until("the replica to have it", async || !group.replica().keys().is_empty()).await;
        cut_replicas_off(group.primary());
        invalidate_tag(&store, "t").await.unwrap();
        if death {
            group.primary_mut().kill();
            group.wait_until_promoted();
        } else {
            group.fail_over();
        }
        let port = group.primary().port();
        wait_until("the new primary to be used", async || {
            matches!(
                StoreBackend::acquire(&store, &key("b"), Seen::Unusable, LEASE, Failures::Heed).await,
                Ok(Acquired::Granted(_))
            ) && group.primary().keys().iter().any(|name| name.contains(":l:"))
        })
        .await;
        // The sentinels may cut the new primary's connections once more.
        wait_until("the connection to settle", async || store.get(&key("a")).await.is_ok()).await;
        assert_eq!(read(&store, &key("a")).await, None, "on port {port}");
        let late = loaded(lease, "old", &["t"]);
        wait_until("the late fill to be refused", async || match StoreBackend::commit(&store, &late).await {
            Ok(Committed::Stored) => panic!("stored what was invalidated"),
            committed => committed.is_ok(),
        })
        .await;
        fill_when_possible(&store, &key("a"), "new", &["t"]).await;
        assert_eq!(read(&store, &key("a")).await.unwrap(), "new");
        if !death {
            wait_until("the old primary to follow", async || {
                group.replica().info("replication", "master_link_status") == "up"
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_and_servers_may_ask_for_passwords_of_their_own() {
    let group = RedisSentinel::builder().patient().password("right").sentinel_password("other").start();
    let servers = group.url().replace("://", "://:right@");
    let in_url = RedisStore::builder(format!("{servers}?sentinel_pass=other"));
    let in_setting = RedisStore::builder(&servers).sentinel_credentials(None, "other");
    for builder in [in_url, in_setting] {
        let store = builder.prefix("test").operation_timeout(PATIENCE).build().unwrap();
        assert!(store.wait_connected(PATIENCE).await, "{:?}", store.status().await);
        assert_eq!(fill(&store, &key("a"), "one", &["t"]).await, Committed::Stored);
    }
    let store = RedisStore::builder(&servers).prefix("test").build().unwrap();
    wait_until("the store to say why", async || {
        store.status().await.error.is_some_and(|error| error.to_lowercase().contains("auth"))
    })
    .await;
}

#[tokio::test]
async fn credentials_for_sentinels_need_sentinels() {
    let error = RedisStore::builder("redis://127.0.0.1").sentinel_credentials(None, "hunter2").build().unwrap_err();
    assert_eq!(error.to_string(), "sentinel credentials: need a URL that begins with redis[s]+sentinel://");
}
