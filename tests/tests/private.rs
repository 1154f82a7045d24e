//! A private cache in front of a client: its owner is given what no shared cache may keep, and nobody else is.

use std::time::Duration;

use cache_layer::{
    Cache, CacheLayer, CacheService, Clock, ConfigErrorKind, PrivateCacheLayer, Profile, QueryBody, QueryService,
    Verdict,
};
use http::{HeaderName, HeaderValue, Method, Request, Uri, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use tests::{App, Backend, Body, Gate, Origin, Response, ask, echo, full, over_each_store, request, wait_until};
use tokio::task::JoinHandle;
use tower::{
    Layer as _,
    util::{MapRequest, MapRequestLayer},
};

type Fields = &'static [(&'static str, &'static str)];
type Plain = fn(Request<QueryBody<Body>>) -> Request<Body>;
type Reader = QueryService<MapRequest<Origin, Plain>>;
type Sent<'a> = &'a [(&'a str, &'a str)];

const MINUTE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(30);
const URI: &str = "http://api.example/me";
const PRIVATE: Fields = &[("cache-control", "private, max-age=60")];
const OLD_TOKEN: Sent<'_> = &[("authorization", "Bearer old-secret")];
const NEW_TOKEN: Sent<'_> = &[("authorization", "Bearer new-secret")];

over_each_store!(
    what_is_private_is_kept_for_its_owner,
    what_is_said_to_shared_caches_means_nothing,
    what_must_be_validated_is_not_used_stale,
    what_states_no_freshness_is_kept_for_a_tenth_of_its_age,
    two_owners_never_see_each_others,
    two_owners_never_wait_for_one_load,
    a_shared_layer_over_the_same_cache_has_none_of_it,
    no_setting_makes_it_shared,
    its_settings_alone_are_not_private,
    a_token_that_rotates_finds_nothing_of_the_former_one,
    another_session_finds_nothing_of_the_former_one,
    a_write_voids_what_was_stored_under_any_credentials,
    a_write_that_names_a_user_in_its_uri_voids_what_was_stored_without,
    other_fields_are_credentials_by_choice,
    what_is_forgotten_is_gone_for_its_owner_alone,
    a_load_that_the_owner_has_forgotten_is_not_stored,
    a_cookie_is_set_by_whoever_loads_and_by_no_hit,
    a_cookie_of_a_validation_reaches_who_asked,
    a_cookie_of_what_is_loaded_for_a_part_of_it_reaches_who_asked,
    a_cookie_of_a_validation_that_names_another_response_reaches_who_asked,
    a_cookie_that_comes_after_the_answer_reaches_nobody,
    a_client_decides_for_itself,
    what_a_client_takes_stale_outlives_its_freshness_in_each_store,
    a_query_is_kept_by_its_content_for_its_owner,
    what_came_without_tls_is_not_taken_for_what_comes_with_it,
    equal_requests_of_an_owner_are_one_load,
    a_failure_is_shared_with_its_owner_alone,
    a_part_is_cut_from_what_is_kept_for_its_owner,
    the_server_is_asked_nothing_but_what_the_client_asks,
);

/// A client with a cache of its owner's.
struct Client {
    layer: PrivateCacheLayer,
    service: CacheService<Origin>,
}

impl Client {
    fn new(layer: PrivateCacheLayer, origin: &Origin) -> Self {
        let service = layer.layer(origin.clone());
        Self { layer, service }
    }

    async fn of(owner: &str, backend: &Backend, origin: &Origin) -> Self {
        Self::new(PrivateCacheLayer::of(owner, backend.cache().await.build()).unwrap(), origin)
    }

    /// Answered to the end, with all that it leaves behind stored.
    async fn send(&self, method: Method, uri: &str, fields: Sent<'_>) -> Response {
        let explained = self.layer.explain(&request(method.clone(), uri, fields)).await;
        let response = ask(&self.service, request(method, uri, fields)).await.unwrap();
        assert!(self.layer.cache().drain(LIMIT).await);
        if explained.verdict == Verdict::Hit {
            assert!(response.cache_status().hit, "{explained:?}");
        }
        response
    }

    async fn get(&self, uri: &str, fields: Sent<'_>) -> Response {
        self.send(Method::GET, uri, fields).await
    }

    /// GET in a task of its own.
    fn begin(&self, uri: &'static str, fields: Sent<'static>) -> JoinHandle<Response> {
        let service = self.service.clone();
        tokio::spawn(async move { ask(&service, request(Method::GET, uri, fields)).await.unwrap() })
    }

    /// Which call of the origin's answers.
    async fn call(&self, uri: &str, fields: Sent<'_>) -> usize {
        self.get(uri, fields).await.call()
    }
}

async fn what_is_private_is_kept_for_its_owner(backend: &Backend) {
    for (row, (fields, sent)) in [
        (PRIVATE, &[][..]),
        (&[("cache-control", "private=\"x-user\", max-age=60")], &[]),
        (&[("cache-control", "max-age=60")], OLD_TOKEN),
        (&[("cache-control", "private, max-age=60")], &[("cookie", "session=1"), ("authorization", "Basic eA==")]),
        (&[("expires", "Fri, 31 Dec 2100 00:00:00 GMT")], OLD_TOKEN),
    ]
    .into_iter()
    .enumerate()
    {
        let (origin, uri) = (Origin::echo(fields), format!("http://api.example/{row}"));
        // Two processes of one owner.
        let (here, there) = (Client::of("alice", backend, &origin).await, Client::of("alice", backend, &origin).await);
        assert_eq!(here.get(&uri, sent).await.cache_status().detail, None, "{fields:?}");
        for client in [&here, &there] {
            assert_eq!(client.call(&uri, sent).await, 1, "{fields:?} {sent:?}");
        }
    }
}

async fn what_is_said_to_shared_caches_means_nothing(backend: &Backend) {
    for (row, (fields, is_fresh)) in [
        (&[("cache-control", "s-maxage=0, max-age=60")][..], true),
        (&[("cache-control", "s-maxage=60, max-age=0")], false),
        (&[("cache-control", "s-maxage=60")], false),
        (&[("cdn-cache-control", "no-store"), ("cache-control", "max-age=60")], true),
        (&[("cdn-cache-control", "max-age=60"), ("cache-control", "no-store")], false),
        (&[("surrogate-control", "max-age=60")], false),
        (&[("cache-control", "no-store, private")], false),
        (&[("vary", "*"), ("cache-control", "max-age=60")], false),
    ]
    .into_iter()
    .enumerate()
    {
        let (origin, uri) = (Origin::echo(fields), format!("http://api.example/{row}"));
        let client = Client::of("alice", backend, &origin).await;
        client.call(&uri, &[]).await;
        assert_eq!(client.call(&uri, &[]).await == 1, is_fresh, "{fields:?}");
    }
}

async fn what_must_be_validated_is_not_used_stale(backend: &Backend) {
    for (row, (directive, is_used)) in
        [("proxy-revalidate", true), ("s-maxage=60", true), ("must-revalidate", false), ("no-cache", false)]
            .into_iter()
            .enumerate()
    {
        let line: &'static str = format!("max-age=60, stale-if-error=600, {directive}").leak();
        let origin = Origin::new(move |call, request| async move {
            let mut response = echo(call, &request, &[("cache-control", line), ("etag", "\"a\"")]);
            if call > 1 {
                *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            }
            Ok(response)
        });
        let clock = Clock::manual();
        let cache = backend.cache().await.clock(clock.clone()).build();
        let client = Client::new(PrivateCacheLayer::of("alice", cache).unwrap(), &origin);
        let uri = format!("http://api.example/{row}");
        client.get(&uri, OLD_TOKEN).await;
        clock.advance(2 * MINUTE);
        assert_eq!(client.call(&uri, OLD_TOKEN).await == 1, is_used, "{directive}");
    }
}

async fn what_states_no_freshness_is_kept_for_a_tenth_of_its_age(backend: &Backend) {
    // A clock that is turned begins at the time of the machine.
    const LONG_AGO: (&str, &str) = ("last-modified", "Fri, 23 Nov 2018 00:00:00 GMT");
    for (row, (status, fields, is_kept)) in [
        (200, &[LONG_AGO][..], true),
        (404, &[LONG_AGO], true),
        (200, &[], false),
        (201, &[LONG_AGO], false),
        (302, &[LONG_AGO], false),
        (302, &[LONG_AGO, ("cache-control", "public")], true),
        (200, &[LONG_AGO, ("x-csrf-token", "t")], false),
    ]
    .into_iter()
    .enumerate()
    {
        let origin = Origin::new(move |call, request| async move {
            let mut response = echo(call, &request, fields);
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            Ok(response)
        });
        let (clock, uri) = (Clock::manual(), format!("http://api.example/{row}"));
        let cache = backend.cache().await.clock(clock.clone()).build();
        let client = Client::new(PrivateCacheLayer::of("alice", cache).unwrap(), &origin);
        let cookie: Sent<'_> = &[("cookie", "session=1")];
        client.call(&uri, cookie).await;
        clock.advance(MINUTE);
        assert_eq!(client.call(&uri, cookie).await == 1, is_kept, "{status} {fields:?}");
        // No longer than a day, however old it is.
        clock.advance(Duration::from_secs(25 * 3600));
        let call = client.call(&uri, cookie).await;
        assert!(call > 1, "{status} {fields:?}");
    }
}

async fn two_owners_never_see_each_others(backend: &Backend) {
    let all: [Fields; 5] = [
        PRIVATE,
        &[("cache-control", "public, max-age=60")],
        &[("cache-control", "private, max-age=60"), ("vary", "cookie")],
        &[("cache-control", "private, max-age=60, stale-if-error=60"), ("etag", "\"a\"")],
        &[("last-modified", "Fri, 23 Nov 2018 00:00:00 GMT")],
    ];
    for (row, fields) in all.into_iter().enumerate() {
        let (origin, uri) = (Origin::echo(fields), format!("http://api.example/{row}"));
        // The names of some begin as others'.
        let owners = ["alice", "alice ", "alice http", "5:alice", "bob"];
        // One token for all users, as of a program that is told in another way for whom it asks.
        for sent in [&[][..], OLD_TOKEN, &[("cookie", "session=1")]] {
            let mut calls = Vec::new();
            for owner in owners {
                let client = Client::of(owner, backend, &origin).await;
                let call = client.call(&uri, sent).await;
                assert!(!calls.contains(&call), "{owner:?} was given what another owner has, of {fields:?}");
                assert_eq!(client.call(&uri, sent).await, call, "{owner:?} {fields:?}");
                calls.push(call);
            }
        }
    }
}

async fn two_owners_never_wait_for_one_load(backend: &Backend) {
    let gate = Gate::closed();
    let origin = Origin::gated_echo(&gate, PRIVATE);
    let cache = backend.cache().await.build();
    let asking: Vec<_> = ["alice", "bob"]
        .into_iter()
        .map(|owner| Client::new(PrivateCacheLayer::of(owner, cache.clone()).unwrap(), &origin))
        .map(|client| tokio::spawn(async move { client.call(URI, OLD_TOKEN).await }))
        .collect();
    wait_until("both have asked", async || origin.calls() == 2).await;
    gate.open();
    let mut calls = Vec::new();
    for asked in asking {
        calls.push(asked.await.unwrap());
    }
    calls.sort_unstable();
    assert_eq!(calls, [1, 2]);
}

async fn a_shared_layer_over_the_same_cache_has_none_of_it(backend: &Backend) {
    let origin = Origin::echo(&[("cache-control", "public, max-age=60")]);
    let cache = backend.cache().await.build();
    let client = Client::new(PrivateCacheLayer::of("alice", cache.clone()).unwrap(), &origin);
    assert_eq!(client.call(URI, &[]).await, 1);
    // Even one that has the same beginning of its keys.
    let namespace = client.layer.explain(&request(Method::GET, URI, &[])).await.key.unwrap().namespace;
    assert!(namespace.contains("alice"), "{namespace}");
    for set in [
        (|layer: CacheLayer, _: &str| layer) as fn(CacheLayer, &str) -> CacheLayer,
        |layer, namespace| layer.namespace(namespace).schemes_apart(true),
        |layer, namespace| layer.namespace(namespace).schemes_apart(true).profile(Profile::Strict),
    ] {
        let app = App::new(cache.clone(), &origin, |layer| set(layer, &namespace)).unexplained();
        assert!(app.get(URI, &[]).await.call() > 1);
    }
    assert_eq!(client.call(URI, &[]).await, 1);
}

async fn no_setting_makes_it_shared(backend: &Backend) {
    let origin = Origin::echo(PRIVATE);
    let change = |settings: CacheLayer| settings.profile(Profile::Strict).namespace("n").schemes_apart(false);
    let cache = backend.cache().await.build();
    for other in
        [|settings: CacheLayer, _: &Cache| settings, |_: CacheLayer, cache: &Cache| CacheLayer::new(cache.clone())]
    {
        let uri = format!("http://api.example/{}", origin.calls());
        let mut calls = Vec::new();
        for owner in ["alice", "bob"] {
            let layer = PrivateCacheLayer::of(owner, cache.clone()).unwrap().with(change);
            let client = Client::new(layer.with(|settings| change(other(settings, &cache))), &origin);
            for sent in [OLD_TOKEN, NEW_TOKEN] {
                let call = client.call(&uri, sent).await;
                assert!(!calls.contains(&call));
                assert_eq!(client.call(&uri, sent).await, call, "it is kept all the same");
                calls.push(call);
            }
        }
    }
}

/// Settings that were taken out of it make a shared layer, which stores nothing for one user alone.
async fn its_settings_alone_are_not_private(backend: &Backend) {
    let mut taken = None;
    let layer = PrivateCacheLayer::of("alice", backend.cache().await.build()).unwrap();
    drop(layer.with(|settings| {
        taken = Some(settings.clone());
        settings
    }));
    let taken = taken.unwrap();
    for (fields, sent) in [(PRIVATE, &[][..]), (&[("cache-control", "max-age=60")], OLD_TOKEN)] {
        let origin = Origin::echo(fields);
        let service = taken.layer(origin.clone());
        for call in 1..=2 {
            assert_eq!(ask(&service, request(Method::GET, URI, sent)).await.unwrap().call(), call, "{fields:?}");
        }
    }
}

async fn a_token_that_rotates_finds_nothing_of_the_former_one(backend: &Backend) {
    let all: [Fields; 3] = [
        PRIVATE,
        &[("cache-control", "public, max-age=60")],
        &[("cache-control", "private, max-age=60"), ("vary", "accept")],
    ];
    for (row, fields) in all.into_iter().enumerate() {
        let (origin, uri) = (Origin::echo(fields), format!("http://api.example/{row}"));
        let client = Client::of("alice", backend, &origin).await;
        assert_eq!(client.call(&uri, OLD_TOKEN).await, 1);
        assert_eq!(client.call(&uri, NEW_TOKEN).await, 2, "{fields:?}");
        assert_eq!(client.call(&uri, &[]).await, 3, "{fields:?}");
        assert_eq!(client.call(&uri, NEW_TOKEN).await, 2, "{fields:?}");
        assert_eq!(client.call(&uri, OLD_TOKEN).await, 1, "{fields:?}");
    }
}

async fn another_session_finds_nothing_of_the_former_one(backend: &Backend) {
    let origin = Origin::echo(PRIVATE);
    let layer = PrivateCacheLayer::of("alice", backend.cache().await.build()).unwrap();
    let client = Client::new(layer.with(|settings| settings.ignore_cookies(["_ga*"])), &origin);
    assert_eq!(client.call(URI, &[("cookie", "session=1")]).await, 1);
    assert_eq!(client.call(URI, &[("cookie", "session=2")]).await, 2);
    assert_eq!(client.call(URI, &[("cookie", "session=1; theme=dark")]).await, 3);
    assert_eq!(client.call(URI, &[("cookie", "_ga=7; session=2")]).await, 2, "it makes no difference");
    let app = Client::new(client.layer.clone().with(|settings| settings), &origin);
    assert_eq!(app.call(URI, &[("cookie", "_ga=8")]).await, 4);
    assert_eq!(app.call(URI, &[]).await, 4, "none of them counts");
}

async fn a_write_voids_what_was_stored_under_any_credentials(backend: &Backend) {
    for method in [Method::PUT, Method::POST, Method::DELETE, Method::PATCH] {
        let (origin, uri) = (Origin::echo(PRIVATE), format!("http://api.example/{method}"));
        let (alice, bob) = (Client::of("alice", backend, &origin).await, Client::of("bob", backend, &origin).await);
        for sent in [&[][..], OLD_TOKEN, NEW_TOKEN] {
            alice.call(&uri, sent).await;
        }
        let bobs = bob.call(&uri, OLD_TOKEN).await;
        alice.send(method.clone(), &uri, NEW_TOKEN).await;
        let written = origin.calls();
        for sent in [&[][..], OLD_TOKEN, NEW_TOKEN] {
            assert!(alice.call(&uri, sent).await > written, "{method} {sent:?}");
        }
        assert_eq!(bob.call(&uri, OLD_TOKEN).await, bobs, "a client's write is its owner's alone");
    }
}

async fn a_write_that_names_a_user_in_its_uri_voids_what_was_stored_without(backend: &Backend) {
    // Its response would answer GET of the same URI, for the user that it names.
    let fields: Fields = &[("cache-control", "private, max-age=60"), ("content-location", "")];
    for method in [Method::PUT, Method::POST, Method::DELETE] {
        let (origin, path) = (Origin::echo(fields), format!("api.example/named/{method}"));
        let client = Client::of("alice", backend, &origin).await;
        let client = Client::new(client.layer.with(|settings| settings.profile(Profile::Strict)), &origin);
        let (uri, named) = (format!("http://{path}"), format!("http://user:secret@{path}"));
        for sent in [&[][..], OLD_TOKEN] {
            client.call(&uri, sent).await;
        }
        let written = client.send(method.clone(), &named, &[]).await.call();
        for sent in [&[][..], OLD_TOKEN] {
            assert!(client.call(&uri, sent).await > written, "{method} {sent:?}");
        }
        assert!(client.call(&named, &[]).await > written, "{method}: GET of such a URI is not looked up");
    }
}

async fn other_fields_are_credentials_by_choice(backend: &Backend) {
    let origin = Origin::echo(PRIVATE);
    let layer = PrivateCacheLayer::of("alice", backend.cache().await.build()).unwrap();
    let client = Client::new(layer.credentials([HeaderName::from_static("x-api-key")]), &origin);
    assert_eq!(client.call(URI, &[("x-api-key", "old-secret")]).await, 1);
    assert_eq!(client.call(URI, &[("x-api-key", "new-secret")]).await, 2);
    assert_eq!(client.call(URI, &[("x-api-key", "old-secret")]).await, 1);
    client.call(URI, OLD_TOKEN).await;
    client.call(URI, &[("cookie", "session=old-secret")]).await;
    let explained = client.layer.explain(&request(Method::GET, URI, OLD_TOKEN)).await;
    let key = explained.key.unwrap();
    assert!(key.fields.contains(&AUTHORIZATION) && !format!("{key:?}").contains("secret"), "{key:?}");
    if let Backend::Redis(server) | Backend::Tiered(server) = backend {
        let names = server.keys();
        assert!(names.iter().any(|name| name.contains("alice")), "{names:?}");
        assert!(names.iter().all(|name| !name.contains("secret")), "no credentials are shown: {names:?}");
    }
}

async fn what_is_forgotten_is_gone_for_its_owner_alone(backend: &Backend) {
    let origin = Origin::echo(PRIVATE);
    let (alice, there, bob) = (
        Client::of("alice", backend, &origin).await,
        Client::of("alice", backend, &origin).await,
        Client::of("bob", backend, &origin).await,
    );
    let pages = ["http://api.example/1", "https://api.example/1?q", "http://other.example/"];
    let asked: Vec<(&str, Sent<'_>)> =
        pages.iter().flat_map(|page| [&[][..], OLD_TOKEN].map(|sent| (*page, sent))).collect();
    let mut bobs = Vec::new();
    for (page, sent) in &asked {
        alice.call(page, sent).await;
        bobs.push(bob.call(page, sent).await);
    }
    alice.layer.forget().await.unwrap();
    let before = origin.calls();
    for ((page, sent), bobs) in asked.iter().zip(bobs) {
        assert!(there.call(page, sent).await > before, "{page} {sent:?}");
        assert_eq!(bob.call(page, sent).await, bobs, "{page} {sent:?}");
    }
}

async fn a_load_that_the_owner_has_forgotten_is_not_stored(backend: &Backend) {
    let gate = Gate::closed();
    let origin = Origin::gated_echo(&gate, PRIVATE);
    let client = Client::of("alice", backend, &origin).await;
    let asked = client.begin(URI, OLD_TOKEN);
    wait_until("the server is asked", async || origin.calls() == 1).await;
    client.layer.forget().await.unwrap();
    gate.open();
    asked.await.unwrap();
    assert!(client.layer.cache().drain(LIMIT).await);
    assert_eq!(client.call(URI, OLD_TOKEN).await, 2);
}

async fn a_cookie_is_set_by_whoever_loads_and_by_no_hit(backend: &Backend) {
    let origin = Origin::echo(&[("cache-control", "private, max-age=60"), ("set-cookie", "session=1")]);
    let client = Client::of("alice", backend, &origin).await;
    assert_eq!(client.get(URI, &[]).await.header("set-cookie"), Some("session=1"));
    let hit = client.get(URI, &[]).await;
    assert_eq!((hit.call(), hit.header("set-cookie")), (1, None), "it would undo what was set since");
}

async fn a_cookie_of_a_validation_reaches_who_asked(backend: &Backend) {
    let origin = Origin::new(|call, request| async move {
        let mut response = echo(call, &request, &[("cache-control", "private, max-age=60"), ("etag", "\"a\"")]);
        if request.headers().contains_key("if-none-match") {
            *response.status_mut() = http::StatusCode::NOT_MODIFIED;
            *response.body_mut() = tests::full("");
            for cookie in ["session=2", "theme=dark"] {
                response.headers_mut().append("set-cookie", cookie.parse().unwrap());
            }
        }
        Ok(response)
    });
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let client = Client::new(PrivateCacheLayer::of("alice", cache).unwrap(), &origin);
    client.get(URI, &[]).await;
    clock.advance(2 * MINUTE);
    let validated = client.get(URI, &[]).await;
    assert_eq!((validated.header("x-cache"), validated.text().starts_with("answer 1")), (Some("REVALIDATED"), true));
    let cookies: Vec<_> = validated.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["session=2", "theme=dark"]);
    let hit = client.get(URI, &[]).await;
    assert_eq!((hit.header("x-cache"), hit.header("set-cookie")), (Some("HIT"), None));
}

/// The same content, without a length.
fn unsized_body(content: Body) -> Body {
    StreamBody::new(BodyStream::new(content)).boxed_unsync()
}

/// The answer is made from the entry, which has no cookies.
async fn a_cookie_of_what_is_loaded_for_a_part_of_it_reaches_who_asked(backend: &Backend) {
    for streamed in [false, true] {
        let origin = Origin::new(move |_, _| async move {
            let content = full("a response of no length");
            let body = if streamed { unsized_body(content) } else { content };
            let mut response = http::Response::new(body);
            for (name, value) in
                [("cache-control", "private, max-age=60"), ("set-cookie", "a=1"), ("set-cookie", "b=2")]
            {
                response.headers_mut().append(name, HeaderValue::from_static(value));
            }
            Ok(response)
        });
        let layer = PrivateCacheLayer::of(streamed.to_string(), backend.cache().await.build()).unwrap();
        let client = Client::new(layer.with(|settings| settings.etags(true)), &origin);
        let tag = client.get(URI, &[]).await.header("etag").map(str::to_owned);
        let parts = [("range", "bytes=0-5".to_owned(), 206)];
        let known = tag.into_iter().map(|tag| ("if-none-match", tag, 304));
        for (name, value, status) in parts.into_iter().chain(known) {
            let answer = client.get(&format!("{URI}?{name}"), &[(name, value.as_str())]).await;
            let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().map(HeaderValue::as_bytes).collect();
            assert_eq!((answer.status.as_u16(), cookies), (status, vec![&b"a=1"[..], b"b=2"]), "{name}, {streamed}");
            assert_eq!(client.get(&format!("{URI}?{name}"), &[]).await.header("set-cookie"), None);
        }
    }
}

async fn a_cookie_of_a_validation_that_names_another_response_reaches_who_asked(backend: &Backend) {
    let origin = Origin::new(|call, request| async move {
        let mut response = echo(call, &request, &[("cache-control", "private, max-age=60"), ("etag", "\"a\"")]);
        if request.headers().contains_key("if-none-match") {
            *response.status_mut() = http::StatusCode::NOT_MODIFIED;
            *response.body_mut() = full("");
            response.headers_mut().insert("etag", HeaderValue::from_static("\"b\""));
            response.headers_mut().insert("set-cookie", HeaderValue::from_static("session=2"));
        }
        Ok(response)
    });
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let client = Client::new(PrivateCacheLayer::of("alice", cache).unwrap(), &origin);
    client.get(URI, &[]).await;
    clock.advance(2 * MINUTE);
    let unmatched = client.get(URI, &[]).await;
    assert_eq!(unmatched.cache_status().detail.as_deref(), Some("unmatched"));
    assert_eq!((unmatched.call(), unmatched.header("set-cookie")), (1, Some("session=2")));
}

/// As it says: whoever needs the cookies of a slow response waits for it.
async fn a_cookie_that_comes_after_the_answer_reaches_nobody(backend: &Backend) {
    let gate = Gate::closed();
    let origin = Origin::new({
        let gate = gate.clone();
        move |call, request| {
            let gate = gate.clone();
            async move {
                let mut response = echo(call, &request, &[("cache-control", "private, max-age=60"), ("etag", "\"a\"")]);
                if request.headers().contains_key("if-none-match") {
                    gate.pass().await;
                    *response.status_mut() = http::StatusCode::NOT_MODIFIED;
                    *response.body_mut() = tests::full("");
                    response.headers_mut().append("set-cookie", "session=2".parse().unwrap());
                }
                Ok(response)
            }
        }
    });
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let layer = PrivateCacheLayer::of("alice", cache).unwrap();
    let soon = Duration::from_millis(10);
    let client = Client::new(layer.with(|settings| settings.stale_if_error(10 * MINUTE).soft_timeout(soon)), &origin);
    client.get(URI, &[]).await;
    clock.advance(2 * MINUTE);
    let stale = ask(&client.service, request(Method::GET, URI, &[])).await.unwrap();
    assert_eq!((stale.header("x-cache"), stale.header("set-cookie")), (Some("STALE"), None));
    gate.open();
    assert!(client.layer.cache().drain(LIMIT).await);
    let hit = client.get(URI, &[]).await;
    assert_eq!((hit.header("x-cache"), hit.header("set-cookie"), origin.calls()), (Some("HIT"), None, 2));
}

async fn a_client_decides_for_itself(backend: &Backend) {
    let origin = Origin::echo(PRIVATE);
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let client = Client::new(PrivateCacheLayer::of("alice", cache).unwrap(), &origin);
    let says = |directive: &'static str| [("cache-control", directive)];
    assert_eq!(client.get(URI, &says("only-if-cached")).await.status, 504);
    assert_eq!(client.call(URI, &says("no-store")).await, 1);
    assert_eq!(client.call(URI, &[]).await, 2, "nothing was stored");
    assert_eq!(client.call(URI, &says("only-if-cached")).await, 2);
    assert_eq!(client.call(URI, &says("no-cache")).await, 3);
    clock.advance(2 * MINUTE);
    assert_eq!(client.call(URI, &says("max-stale=600")).await, 3);
    assert_eq!(client.call(URI, &[]).await, 4);
}

async fn what_a_client_takes_stale_outlives_its_freshness_in_each_store(backend: &Backend) {
    let origin = Origin::echo(&[("cache-control", "private, max-age=1")]);
    let client = Client::of("alice", backend, &origin).await;
    client.get(URI, &[]).await;
    // By the clocks of the stores, which no test turns.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(client.call(URI, &[("cache-control", "max-stale=600")]).await, 1);
    assert_eq!(client.call(URI, &[]).await, 2);
}

async fn a_query_is_kept_by_its_content_for_its_owner(backend: &Backend) {
    let (origin, cache) = (Origin::echo(PRIVATE), backend.cache().await.build());
    let client = |owner: &str| {
        let layer =
            PrivateCacheLayer::of(owner, cache.clone()).unwrap().query().posts(|post| post.uri.path() == "/reads");
        let plain: Plain = |request| request.map(QueryBody::boxed_unsync);
        layer.layer(MapRequestLayer::new(plain).layer(origin.clone()))
    };
    let (alice, bob) = (client("alice"), client("bob"));
    let call = async |client: &Reader, (method, path): (&'static str, &str), content: &str, token: &'static str| {
        let fields = [("content-type", "text/plain"), ("authorization", token)];
        let asked =
            request(Method::from_bytes(method.as_bytes()).unwrap(), &format!("http://api.example{path}"), &fields);
        let answer = ask(client, asked.map(|_| full(content.to_owned()))).await.unwrap();
        assert!(cache.drain(LIMIT).await);
        answer.call()
    };
    for (call_before, read) in [(0, ("QUERY", "/me")), (5, ("POST", "/reads"))] {
        for _ in 0..2 {
            assert_eq!(call(&alice, read, "a", "Bearer 1").await, call_before + 1, "{read:?}");
            assert_eq!(call(&alice, read, "b", "Bearer 1").await, call_before + 2, "by the content");
            assert_eq!(call(&alice, read, "a", "Bearer 2").await, call_before + 3, "by the credentials");
            assert_eq!(call(&bob, read, "a", "Bearer 1").await, call_before + 4, "by the owner");
        }
        let write = ("DELETE", read.1);
        assert_eq!(call(&alice, write, "", "Bearer 1").await, call_before + 5);
    }
    for token in ["Bearer 1", "Bearer 2"] {
        assert!(call(&alice, ("QUERY", "/me"), "a", token).await > 10, "a write voids it under any credentials");
    }
    assert_eq!(call(&bob, ("QUERY", "/me"), "a", "Bearer 1").await, 4, "and for nobody else");
}

async fn what_came_without_tls_is_not_taken_for_what_comes_with_it(backend: &Backend) {
    let origin = Origin::echo(&[("cache-control", "public, max-age=60")]);
    let layer = PrivateCacheLayer::of("alice", backend.cache().await.build()).unwrap();
    for layer in [layer.clone(), layer.with(|settings| settings.schemes_apart(false))] {
        let client = Client::new(layer, &origin);
        let (plain, tls) = (client.call(URI, &[]).await, client.call("https://api.example/me", &[]).await);
        assert_ne!(plain, tls);
    }
}

async fn equal_requests_of_an_owner_are_one_load(backend: &Backend) {
    let gate = Gate::closed();
    let origin = Origin::gated_echo(&gate, PRIVATE);
    let client = Client::of("alice", backend, &origin).await;
    let asking: Vec<_> = (0..8).map(|_| client.begin(URI, OLD_TOKEN)).collect();
    wait_until("the others wait", async || client.layer.cache().counts().coalesced == 7).await;
    gate.open();
    for asked in asking {
        assert_eq!(asked.await.unwrap().call(), 1);
    }
    assert_eq!(origin.calls(), 1);
}

/// Of requests that wait together, and of those that come later; over one cache, and over another one.
async fn a_failure_is_shared_with_its_owner_alone(backend: &Backend) {
    const LONG: Duration = Duration::from_secs(600);
    // So that each failure is known by its status.
    const STATUSES: [u16; 4] = [500, 502, 503, 504];
    let gate = Gate::closed();
    let origin = Origin::new({
        let gate = gate.clone();
        move |call, request| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                let mut response = echo(call, &request, &[]);
                *response.status_mut() = http::StatusCode::from_u16(STATUSES[(call - 1) % 4]).unwrap();
                Ok(response)
            }
        }
    });
    let cache = backend.cache().await.lock_timeout(LIMIT).build();
    let client = |owner: &str, cache: &Cache| {
        let layer = PrivateCacheLayer::of(owner, cache.clone()).unwrap();
        Client::new(layer.with(|settings| settings.share_failures(true).failure_backoff(LONG, LONG)), &origin)
    };
    let (alice, bob) = (client("alice", &cache), client("bob", &cache));
    let mut asking = Vec::new();
    for (client, calls) in [(&alice, 1), (&bob, 2)] {
        asking.push((0..4).map(|_| client.begin(URI, OLD_TOKEN)).collect::<Vec<_>>());
        wait_until("one asks, and the others wait", async || {
            origin.calls() == calls && cache.counts().coalesced == 3 * calls as u64
        })
        .await;
    }
    gate.open();
    for (asked, status) in asking.into_iter().zip(STATUSES) {
        let mut loaded = 0;
        for asked in asked {
            let response = asked.await.unwrap();
            assert_eq!(response.status.as_u16(), status);
            // Who only shares the failure is given none of its content.
            loaded += usize::from(!response.text().is_empty());
        }
        assert_eq!(loaded, 1);
    }
    assert!(cache.drain(LIMIT).await);
    assert_eq!(origin.calls(), 2);
    for (client, status) in [(&alice, 500), (&bob, 502)] {
        let again = client.get(URI, OLD_TOKEN).await;
        assert_eq!((again.status.as_u16(), again.cache_status().detail.as_deref()), (status, Some("backed-off")));
    }
    assert_eq!(origin.calls(), 2, "each owner's own failure is known");
    assert_eq!(client("carol", &cache).get(URI, OLD_TOKEN).await.status.as_u16(), 503, "her own");
    assert_eq!(alice.get(URI, NEW_TOKEN).await.status.as_u16(), 504, "and that of her new token");
    let elsewhere = backend.cache().await.build();
    wait_until("another process of the owner's knows it", async || {
        let calls = origin.calls();
        client("alice", &elsewhere).get(URI, OLD_TOKEN).await.status.as_u16() == 500 && origin.calls() == calls
    })
    .await;
    let calls = origin.calls();
    client("dave", &elsewhere).get(URI, OLD_TOKEN).await;
    assert_eq!(origin.calls(), calls + 1, "and no other owner is refused for it");
    for client in [&alice, &bob] {
        client.get(URI, &[]).await;
    }
    assert_eq!(origin.calls(), calls + 3, "nor without credentials");
}

async fn a_part_is_cut_from_what_is_kept_for_its_owner(backend: &Backend) {
    let origin = Origin::echo(PRIVATE);
    let client = Client::of("alice", backend, &origin).await;
    let sent: Sent<'_> = &[("authorization", "Bearer old-secret"), ("range", "bytes=0-5")];
    for _ in 0..2 {
        let part = client.get(URI, sent).await;
        assert_eq!((part.status.as_u16(), part.text()), (206, "answer"));
    }
    assert_eq!(origin.calls(), 1, "the first one loads the whole, since that can be kept");
}

async fn the_server_is_asked_nothing_but_what_the_client_asks(backend: &Backend) {
    let origin = Origin::echo(PRIVATE);
    let client = Client::of("alice", backend, &origin).await;
    let answer = client.get(URI, OLD_TOKEN).await;
    assert_eq!(answer.text(), "answer 1 to GET http://api.example/me\nauthorization: Bearer old-secret\n");
}

#[tokio::test]
async fn a_cache_in_memory_is_its_owners_own() {
    let origin = Origin::echo(PRIVATE);
    let layers = [PrivateCacheLayer::in_memory(1 << 20), PrivateCacheLayer::in_memory(1 << 20)];
    let clients = layers.map(|layer| Client::new(layer, &origin));
    for (client, call) in clients.iter().zip([1, 2]) {
        assert_eq!(client.call(URI, &[]).await, call);
    }
    let same = Client::new(clients[0].layer.clone(), &origin);
    assert_eq!(same.call(URI, &[]).await, 1, "its clones are one");
    assert!(same.layer.invalidate_uri(&Uri::from_static(URI)).await.unwrap());
    assert!(!same.layer.invalidate_uri(&Uri::from_static("/me")).await.unwrap());
    assert_eq!(clients[0].call(URI, &[]).await, 3);
    assert_eq!(clients[1].call(URI, &[]).await, 2);
    let key = same.layer.key(&Uri::from_static(URI)).unwrap();
    same.layer.cache().invalidate(&key).await.unwrap();
    assert_eq!(clients[0].call(URI, &[]).await, 4);
}

#[tokio::test]
async fn an_owner_has_a_name_that_fits() {
    let cache = PrivateCacheLayer::in_memory(1 << 20).cache().clone();
    for name in [String::new(), "x".repeat(201)] {
        let error = PrivateCacheLayer::of(name, cache.clone()).unwrap_err();
        assert_eq!(error.kind(), ConfigErrorKind::Range, "{error}");
    }
    let origin = Origin::echo(PRIVATE);
    let client = Client::new(PrivateCacheLayer::of("x".repeat(200), cache).unwrap(), &origin);
    assert_eq!([client.call(URI, &[]).await, client.call(URI, &[]).await], [1, 1]);
}

/// The clients of others, over sockets.
mod clients {
    use std::net::SocketAddr;

    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Empty};
    use hyper::{body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::{
        client::legacy::Client as HyperClient,
        rt::{TokioExecutor, TokioIo},
    };
    use tests::{Body, Failure};
    use tokio::{net::TcpListener, task::JoinHandle};
    use tower::{Service, ServiceExt as _};

    use super::*;

    struct Server {
        addr: SocketAddr,
        task: JoinHandle<()>,
    }

    impl Server {
        async fn start(origin: Origin) -> Self {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let addr = listener.local_addr().unwrap();
            let task = tokio::spawn(async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let origin = origin.clone();
                    let service = service_fn(move |request: http::Request<Incoming>| {
                        let request =
                            request.map(|body| body.map_err(|_| Failure("the client broke off")).boxed_unsync());
                        origin.clone().oneshot(request)
                    });
                    connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
                }
            });
            Self { addr, task }
        }

        fn url(&self, path: &str) -> String {
            format!("http://{}{path}", self.addr)
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    #[tokio::test]
    async fn hyper_utils_client() {
        let origin = Origin::echo(PRIVATE);
        let server = Server::start(origin.clone()).await;
        let inner = HyperClient::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let client = PrivateCacheLayer::in_memory(1 << 20).layer(inner);
        let get = |token: &str| {
            let request = http::Request::get(server.url("/me")).header(AUTHORIZATION, token);
            request.body(Empty::new()).unwrap()
        };
        for (token, call) in [("old", 1), ("old", 1), ("new", 2), ("old", 1)] {
            assert_eq!(ask(&client, get(token)).await.unwrap().call(), call);
        }
        assert_eq!(origin.calls(), 2);
        // Its errors are its own.
        drop(server);
        let dead = http::Request::get("http://127.0.0.1:1/").body(Empty::new()).unwrap();
        assert!(ask(&client, dead).await.unwrap_err().is_connect());
    }

    /// As the guide has it.
    fn reqwest_service(
        client: reqwest::Client,
    ) -> impl Service<
        http::Request<reqwest::Body>,
        Response = http::Response<reqwest::Body>,
        Error = reqwest::Error,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static {
        tower::service_fn(move |request: http::Request<reqwest::Body>| {
            let client = client.clone();
            async move { Ok(http::Response::from(client.execute(request.try_into()?).await?)) }
        })
    }

    #[tokio::test]
    async fn reqwests() {
        let origin = Origin::new(|call, request| async move {
            let mut response = echo(call, &request, PRIVATE);
            if request.uri().path() == "/moved" {
                *response.status_mut() = http::StatusCode::FOUND;
                response.headers_mut().insert("location", "/me".parse().unwrap());
            }
            Ok::<http::Response<Body>, Failure>(response)
        });
        let server = Server::start(origin.clone()).await;
        let inner = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let layer = PrivateCacheLayer::in_memory(1 << 20);
        let client = layer.layer(reqwest_service(inner));
        let get = |path: &str, token: &str| {
            let request = http::Request::get(server.url(path)).header(AUTHORIZATION, token);
            request.body(reqwest::Body::default()).unwrap()
        };
        for (token, call) in [("old", 1), ("old", 1), ("new", 2), ("old", 1)] {
            assert_eq!(ask(&client, get("/me", token)).await.unwrap().call(), call);
        }
        let post = http::Request::post(server.url("/me")).body(reqwest::Body::from("{}")).unwrap();
        assert_eq!(ask(&client, post).await.unwrap().call(), 3);
        assert_eq!(ask(&client, get("/me", "old")).await.unwrap().call(), 4);
        // A redirect is the answer to its own URI, and stays that.
        for _ in 0..2 {
            let moved = ask(&client, get("/moved", "old")).await.unwrap();
            assert_eq!((moved.status.as_u16(), moved.call()), (302, 5));
        }
        let unsendable = http::Request::get("/no-host").body(reqwest::Body::default()).unwrap();
        assert!(ask(&client, unsendable).await.unwrap_err().is_builder());
    }

    #[tokio::test]
    async fn a_layer_that_follows_redirects_around_it() {
        let origin = Origin::new(|call, request| async move {
            let mut response = echo(call, &request, PRIVATE);
            if request.uri().path() == "/moved" {
                *response.status_mut() = http::StatusCode::FOUND;
                response.headers_mut().insert("location", "/me".parse().unwrap());
            }
            Ok::<http::Response<Body>, Failure>(response)
        });
        let client = PrivateCacheLayer::in_memory(1 << 20).layer(origin.clone());
        let following = tower::ServiceBuilder::new()
            .layer(tower_http::follow_redirect::FollowRedirectLayer::new())
            .service(client.clone());
        let get = |uri: &str| request(Method::GET, uri, &[]);
        for _ in 0..2 {
            assert_eq!(ask(&following, get("http://api.example/moved")).await.unwrap().call(), 2);
        }
        assert_eq!(ask(&client, get(URI)).await.unwrap().call(), 2);
        assert_eq!(ask(&client, get("http://api.example/moved")).await.unwrap().call(), 1);
    }
}
