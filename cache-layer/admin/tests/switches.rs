//! Switches through the operator's API.

use std::time::Duration;

use axum::{Router, body::Body};
use cache_layer::{Cache, Switch, store::MemoryStore};
use cache_layer_admin::Admin;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

const TOKEN: &str = "0123456789abcdef-admin";

async fn send(admin: &Router, method: &str, target: &str, body: &Value) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(target);
    let request = request.header("authorization", format!("Bearer {TOKEN}")).header("content-type", "application/json");
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let response = admin.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let (status, body) = (response.status(), response.into_body().collect().await.unwrap().to_bytes());
    (status, serde_json::from_slice(&body).unwrap())
}

async fn turn(admin: &Router, body: &Value) -> (StatusCode, Value) {
    send(admin, "POST", "/api/switches", body).await
}

/// What the answer says of the switch with a rate.
fn verification(answer: &Value) -> &Value {
    answer.as_array().unwrap().iter().find(|one| one["name"] == "verification-rate").unwrap()
}

#[tokio::test]
async fn the_rate_of_verification_is_turned_shown_and_audited() {
    let cache = Cache::builder(MemoryStore::new(1 << 20)).switches(true).build();
    let admin = Admin::new(cache.clone()).token(TOKEN).unwrap().router();
    let (_, answer) = send(&admin, "GET", "/api/switches", &Value::Null).await;
    assert_eq!(answer.as_array().unwrap().len(), Switch::ALL.len());
    assert_eq!((&verification(&answer)["on"], verification(&answer).get("rate")), (&json!(false), None));

    let (status, answer) =
        turn(&admin, &json!({"switch": "verification-rate", "seconds": 600, "rate": 0.25, "actor": "ada"})).await;
    assert_eq!((status, &verification(&answer)["rate"]), (StatusCode::OK, &json!(0.25)), "{answer}");
    assert_eq!(cache.switched_rate(), Some(0.25));
    assert!(answer.as_array().unwrap().iter().filter(|one| one.get("rate").is_some()).count() == 1);

    turn(&admin, &json!({"switch": "verification-rate", "seconds": 600})).await;
    assert_eq!(cache.switched_rate(), Some(0.01));
    let (_, answer) = turn(&admin, &json!({"switch": "verification-rate", "seconds": 0})).await;
    assert_eq!((&verification(&answer)["on"], cache.switched_rate()), (&json!(false), None));

    let (_, audit) = send(&admin, "GET", "/api/audit", &Value::Null).await;
    let told: Vec<_> = audit.as_array().unwrap().iter().map(|one| [&one["what"], &one["mode"]]).collect();
    let expected = [
        [&json!("verification-rate"), &json!("off")],
        [&json!("verification-rate"), &json!("on")],
        [&json!("verification-rate 0.25"), &json!("on")],
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn what_is_no_rate_or_has_none_changes_nothing() {
    let cache = Cache::builder(MemoryStore::new(1 << 20)).switches(true).build();
    let admin = Admin::new(cache.clone()).token(TOKEN).unwrap().router();
    for (switch, seconds, rate) in [
        ("verification-rate", 60, json!(1.5)),
        ("verification-rate", 60, json!(-0.5)),
        ("verification-rate", 60, json!("0.5")),
        ("verification-rate", 0, json!(0.5)),
        ("stop-fills", 60, json!(0.5)),
        ("verification", 60, json!(0.5)),
        ("verification-rate", 86_401, json!(0.5)),
    ] {
        let (status, problem) = turn(&admin, &json!({"switch": switch, "seconds": seconds, "rate": rate})).await;
        assert!(status.is_client_error(), "{switch} {seconds} {rate}: {problem}");
    }
    for name in ["actor", "reason"] {
        for unfit in ["x".repeat(201), "a\nb".to_owned()] {
            let mut asked = json!({"switch": "stop-fills", "seconds": 60});
            asked[name] = json!(unfit);
            assert_eq!(turn(&admin, &asked).await.0, StatusCode::BAD_REQUEST, "{asked}");
        }
    }
    assert_eq!(cache.switched_on(), []);
    cache.switch(Switch::VerificationRate, Duration::from_secs(60)).await.unwrap();
    assert_eq!(cache.switched_on().len(), 1);
}
