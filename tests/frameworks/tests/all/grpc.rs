//! tonic: calls pass through, and are no writes.

use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};
use tower::{ServiceBuilder, util::MapErrLayer};

use crate::{caching, settled};

#[tokio::test]
async fn passes_and_voids_nothing() {
    let (cache, layer) = caching();
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("shop", ServingStatus::Serving).await;
    let service = ServiceBuilder::new()
        .layer(MapErrLayer::new(|never: std::convert::Infallible| match never {}))
        .layer(layer)
        .service(health);
    let mut client: HealthClient<_> = HealthClient::with_origin(service, "http://shop.example".parse().unwrap());
    let check = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let answer = client.check(check("shop")).await.unwrap();
    assert_eq!(answer.metadata().get("x-cache").unwrap(), "BYPASS");
    assert_eq!(answer.into_inner().status, 1);
    assert_eq!(client.check(check("unheard-of")).await.unwrap_err().code(), tonic::Code::NotFound);
    // A stream that goes on.
    let mut watched = client.watch(check("shop")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status, 1);
    drop(watched);
    settled(&cache).await;
    let counts = cache.counts();
    assert_eq!((counts.bypasses, counts.invalidations), (3, 0));
}
