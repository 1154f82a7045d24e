//! async-graphql in axum: what it says of its responses, by GET and by POST.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_graphql::{EmptySubscription, Object, Schema};
use async_graphql_axum::{GraphQLRequest, GraphQLResponse};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Method, Request, header::CACHE_CONTROL},
    response::Response,
    routing::get,
};
use cache_layer::{CacheLayer, Rule};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use crate::{MINUTE, caching, settled};

static ASKED: AtomicUsize = AtomicUsize::new(0);

struct Query;

#[Object]
impl Query {
    #[graphql(cache_control(max_age = 60))]
    async fn fresh(&self) -> usize {
        ASKED.fetch_add(1, Ordering::SeqCst)
    }

    #[graphql(cache_control(max_age = 60, private))]
    async fn own(&self) -> usize {
        ASKED.fetch_add(1, Ordering::SeqCst)
    }

    #[graphql(cache_control(no_cache))]
    async fn live(&self) -> usize {
        ASKED.fetch_add(1, Ordering::SeqCst)
    }

    async fn plain(&self) -> usize {
        ASKED.fetch_add(1, Ordering::SeqCst)
    }

    async fn broken(&self) -> async_graphql::Result<usize> {
        Err(format!("{}", ASKED.fetch_add(1, Ordering::SeqCst)).into())
    }
}

struct Mutation;

#[Object]
impl Mutation {
    async fn change(&self) -> usize {
        ASKED.fetch_add(1, Ordering::SeqCst)
    }
}

type Api = Schema<Query, Mutation, EmptySubscription>;

async fn answer(State(api): State<Api>, request: GraphQLRequest) -> GraphQLResponse {
    api.execute(request.into_inner()).await.into()
}

fn router() -> Router {
    let api = Schema::new(Query, Mutation, EmptySubscription);
    Router::new().route("/graphql", get(answer).post(answer)).with_state(api)
}

fn by_get(query: &str) -> Request<Body> {
    let query = query.replace(' ', "%20").replace('{', "%7B").replace('}', "%7D");
    Request::get(format!("http://shop.example/graphql?query={query}")).body(Body::empty()).unwrap()
}

fn by_post(query: &str) -> Request<Body> {
    let request = Request::post("http://shop.example/graphql").header("content-type", "application/json");
    request.body(format!("{{\"query\":\"{query}\"}}").into()).unwrap()
}

fn x_cache(response: &Response) -> String {
    response.headers()["x-cache"].to_str().unwrap().to_owned()
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Whether the second of two clients is given the first one's answer.
async fn shares(app: &Router, ask: fn(&str) -> Request<Body>, query: &str) -> bool {
    let mut texts = Vec::new();
    for _ in 0..2 {
        texts.push(text(app.clone().oneshot(ask(query)).await.unwrap()).await);
    }
    texts[0] == texts[1]
}

#[tokio::test]
async fn its_hints_decide_where_no_rule_does() {
    let (cache, _) = caching();
    let app = router().layer(CacheLayer::new(cache));
    for (query, shared) in [
        ("{fresh}", true),
        ("{own}", false),
        ("{live}", false),
        ("{fresh own}", false),
        ("{plain}", false),
        ("{broken}", false),
        ("{fresh broken}", false),
    ] {
        assert_eq!(shares(&app, by_get, query).await, shared, "{query}");
    }
}

/// With a rule, the answer with errors, which says nothing of itself and has the status 200, is kept; but not with `keep_if`.
#[tokio::test]
async fn a_rule_keeps_errors_unless_it_is_told_not_to() {
    for (sees_to_it, shared) in [(false, true), (true, false)] {
        let (cache, _) = caching();
        let rule = Rule::path("/graphql").ttl(MINUTE);
        let rule = if sees_to_it { rule.keep_if(|_, fields| fields.contains_key(CACHE_CONTROL)) } else { rule };
        let app = router().layer(CacheLayer::new(cache).rule(rule).unwrap());
        for query in ["{broken}", "{nothing}"] {
            let answer = text(app.clone().oneshot(by_get(query)).await.unwrap()).await;
            assert!(answer.contains("errors"), "{answer}");
            let second = x_cache(&app.clone().oneshot(by_get(query)).await.unwrap());
            assert_eq!(second == "HIT", shared, "{query}: {second}");
        }
        assert!(shares(&app, by_get, "{fresh}").await);
    }
}

#[tokio::test]
async fn a_post_is_a_write_unless_it_is_said_to_read() {
    for (voids, expected) in [(true, "MISS"), (false, "HIT")] {
        let (cache, _) = caching();
        let get = format!("{}?query=%7Bfresh%7D", "http://shop.example/graphql");
        let rule = Rule::path("/graphql").methods([Method::POST]).voids(voids);
        let app = router().layer(CacheLayer::new(cache.clone()).rule(rule).unwrap());
        let ask = async || app.clone().oneshot(Request::get(&get).body(Body::empty()).unwrap()).await.unwrap();
        ask().await;
        assert_eq!(x_cache(&ask().await), "HIT");
        // To the same target as the GET, query and all.
        let mut write = by_post("{plain}");
        *write.uri_mut() = get.parse().unwrap();
        assert_eq!(x_cache(&app.clone().oneshot(write).await.unwrap()), "BYPASS");
        settled(&cache).await;
        assert_eq!(x_cache(&ask().await), expected);
    }
}

/// What a POST asks for is in its content.
#[tokio::test]
async fn a_post_may_be_answered_by_its_content() {
    let (cache, _) = caching();
    let layer = CacheLayer::new(cache).voids(|request| request.uri.path() != "/graphql").query();
    let app = router().layer(layer.posts(|request| request.uri.path() == "/graphql"));
    for (query, shared) in
        [("{fresh}", true), ("{ fresh }", true), ("{own}", false), ("{plain}", false), ("mutation {change}", false)]
    {
        assert_eq!(shares(&app, by_post, query).await, shared, "{query}");
    }
    assert_ne!(
        text(app.clone().oneshot(by_post("{fresh}")).await.unwrap()).await,
        text(app.clone().oneshot(by_post("{ fresh }")).await.unwrap()).await,
    );
}
