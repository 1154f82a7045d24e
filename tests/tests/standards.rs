//! Standards that most caches don't know yet: `No-Vary-Search`, `Incremental` (RFC 10036), groups at any status (RFC 9875),
//! requests ahead of their users, dictionaries (RFC 9842); and levels of `Vary`. QUERY is in `query.rs`.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use cache_layer::{CacheLayer, ClientPreferences, Clock, Hints, NoVarySearch, Vary};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use tests::{
    App, Backend, CacheStatus, Feed, Gate, Origin, Response, echo, obey, over_each_store, request, wait_until,
};
use tokio::task::JoinHandle;

type Fields<'a> = &'a [(&'a str, &'a str)];

const FRESH: (&str, &str) = ("x-say-cache-control", "max-age=60");

async fn app(backend: &Backend, origin: &Origin, set: impl FnOnce(CacheLayer) -> CacheLayer) -> App {
    App::new(backend.cache().await.build(), origin, set)
}

mod no_vary_search {
    use super::*;

    const UTM: (&str, &str) = ("x-say-no-vary-search", "params=(\"utm\")");

    fn on(layer: CacheLayer) -> CacheLayer {
        layer.no_vary_search(NoVarySearch::new())
    }

    async fn x_cache(app: &App, uri: &str, fields: Fields<'_>) -> String {
        app.get(uri, fields).await.x_cache().to_owned()
    }

    async fn one_response_answers_for_every_query_that_it_says(backend: &Backend) {
        let origin = Origin::obedient();
        let app = app(backend, &origin, on).await;
        assert_eq!(x_cache(&app, "/s?id=1&utm=a", &[FRESH, UTM]).await, "MISS");
        for uri in ["/s?id=1", "/s?utm=b&id=1&utm", "/s?id=1&utm=a", "/s?&id=1", "/s?%69d=1"] {
            let response = app.get(uri, &[]).await;
            assert_eq!((response.x_cache(), response.call()), ("HIT", 1), "{uri}");
            assert!(response.cache_status().hit, "{uri}");
        }
        let head = app.send(Method::HEAD, "/s?id=1", &[]).await;
        assert_eq!((head.x_cache(), head.call()), ("HIT", 1));
        for (uri, detail) in [("/s?id=1", Some("nvs")), ("/s?id=1&utm=a", None)] {
            assert_eq!(app.get(uri, &[]).await.cache_status().detail.as_deref(), detail, "{uri}");
        }
        let not_modified = [FRESH, UTM, ("x-say-etag", "\"v\"")];
        app.get("/e?utm=1", &not_modified).await;
        assert_eq!(app.get("/e", &[("if-none-match", "\"v\"")]).await.status, 304);
        for uri in ["/s?id=2", "/s?id=1&utm=a&x", "/t?id=1", "/s"] {
            assert_eq!(x_cache(&app, uri, &[FRESH, UTM]).await, "MISS", "{uri}");
        }
        // A response that is stored for exactly this target comes first.
        let own = app.get("/x?id=3", &[FRESH]).await.call();
        let other = app.get("/x?id=3&utm=1", &[FRESH, UTM]).await.call();
        assert_ne!(own, other);
        assert_eq!(app.get("/x?id=3", &[]).await.call(), own);
        assert_eq!(app.get("/x?id=3&utm=2", &[]).await.call(), other);
    }

    /// The vectors of the parser's own tests, through a whole cache.
    async fn queries_match_as_the_draft_says(backend: &Backend) {
        const YES: bool = true;
        const NO: bool = false;
        /// The stored URI, the lines of its field, the URI that is asked for, and whether they match.
        const VECTORS: [(&str, &[&str], &str, bool); 41] =
            include!("../../cache-layer/src/semantics/no_vary_search_vectors.rs");
        let set = |layer: CacheLayer| layer.no_vary_search(NoVarySearch::new().of_all(true));
        let app = app(backend, &Origin::obedient(), set).await;
        for (at, (stored, lines, asked, matches)) in VECTORS.into_iter().enumerate() {
            let host = format!("v{at}.example");
            let mut fields = vec![FRESH, ("host", &*host)];
            fields.extend(lines.iter().map(|line| ("x-say-no-vary-search", *line)));
            assert_eq!(x_cache(&app, stored, &fields).await, "MISS", "{stored} {lines:?}");
            let expected = if matches { "HIT" } else { "MISS" };
            assert_eq!(x_cache(&app, asked, &fields).await, expected, "{stored} {lines:?} {asked}");
        }
    }

    async fn the_field_means_nothing_unless_that_is_set(backend: &Backend) {
        let app = app(backend, &Origin::obedient(), |layer| layer).await;
        app.get("/s?id=1&utm=a", &[FRESH, UTM]).await;
        assert_eq!(x_cache(&app, "/s?id=1", &[]).await, "MISS");
        let hit = app.get("/s?id=1&utm=a", &[]).await;
        assert_eq!((hit.x_cache(), hit.header("no-vary-search")), ("HIT", Some("params=(\"utm\")")));
    }

    async fn a_write_to_any_target_of_the_path_reaches_it(backend: &Backend) {
        let origin = Origin::obedient();
        let (here, there) = (app(backend, &origin, on).await, app(backend, &origin, on).await);
        here.get("/other?utm=1", &[FRESH, UTM]).await;
        // Each time another one, since what can't be kept is remembered for a while.
        for (id, written) in ["/s?id=0&utm=z", "/s?id=1&utm=a", "/s", "/s?id=9"].into_iter().enumerate() {
            let (own, other) = (format!("/s?id={id}&utm=a"), format!("/s?id={id}"));
            here.get(&own, &[FRESH, UTM]).await;
            assert_eq!(x_cache(&here, &other, &[]).await, "HIT");
            there.send(Method::POST, written, &[]).await;
            assert_eq!(x_cache(&here, &other, &[]).await, "MISS", "{written}");
            assert_eq!(x_cache(&here, &own, &[FRESH, UTM]).await, "MISS", "{written}");
        }
        assert_eq!(x_cache(&here, "/other", &[]).await, "HIT");
        let layer = on(CacheLayer::new(there.cache.clone()));
        here.get("/s?id=7&utm=a", &[FRESH, UTM]).await;
        assert!(layer.invalidate_uri(&"http://shop.example/s?id=7".parse().unwrap()).await.unwrap());
        assert_eq!(x_cache(&here, "/s?id=7", &[]).await, "MISS");
    }

    async fn a_load_that_such_a_write_overtakes_is_not_stored(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::new({
            let gate = gate.clone();
            move |call, request| {
                let gate = gate.clone();
                async move {
                    if call == 1 {
                        gate.pass().await;
                    }
                    let fields = [("cache-control", "max-age=60"), ("no-vary-search", "params=(\"utm\")")];
                    Ok(echo(call, &request, &fields))
                }
            }
        });
        let app = app(backend, &origin, on).await;
        let filling = tokio::spawn({
            let app = app.clone();
            async move { app.get("/s?utm=1", &[]).await }
        });
        wait_until("the load is under way", async || origin.calls() == 1).await;
        tests::ask(&app.service(), request(Method::POST, "/s?utm=2", &[])).await.unwrap();
        gate.open();
        filling.await.unwrap();
        assert_eq!(x_cache(&app, "/s?utm=1", &[]).await, "MISS");
    }

    async fn what_could_be_one_clients_own_is_not_believed(backend: &Backend) {
        let origin = Origin::obedient();
        let app = app(backend, &origin, |layer| {
            on(layer)
                .set_cookie(cache_layer::SetCookie::Keep)
                .negative_ttl(StatusCode::NOT_FOUND, Duration::from_secs(60))
        })
        .await;
        let public = ("x-say-cache-control", "public, max-age=60");
        for (at, fields) in [
            &[FRESH, UTM, ("x-status", "404")][..],
            &[FRESH, UTM, ("x-status", "301"), ("x-say-location", "/elsewhere")],
            &[FRESH, UTM, ("x-say-set-cookie", "a=b")],
            &[public, UTM, ("authorization", "Basic eA==")],
            &[FRESH, ("x-say-no-vary-search", "except=()")],
            &[FRESH, ("x-say-no-vary-search", "params")],
            &[FRESH, ("x-say-no-vary-search", "params=(utm)")],
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(x_cache(&app, &format!("/{at}?utm=1"), fields).await, "MISS");
            assert_eq!(x_cache(&app, &format!("/{at}?utm=1"), &[]).await, "HIT", "{fields:?}");
            assert_eq!(x_cache(&app, &format!("/{at}?utm=2"), &[]).await, "MISS", "{fields:?}");
        }
        // A client that may see more than others does not get their response either.
        app.get("/s?utm=1", &[FRESH, UTM]).await;
        assert_eq!(x_cache(&app, "/s?utm=2", &[("authorization", "Basic eA==")]).await, "MISS");
    }

    /// An alias does not say which clients its response is for.
    async fn what_a_layer_outside_tells_apart_stays_so(backend: &Backend) {
        let app = app(backend, &Origin::obedient(), on).await;
        let ask = async |uri: &str, tenant: Option<&str>| {
            let mut request = request(Method::GET, uri, &[FRESH, UTM]);
            if let Some(tenant) = tenant {
                Hints::new().key_part(tenant).add_to(request.extensions_mut());
            }
            app.ask(request).await.x_cache().to_owned()
        };
        for (path, of) in [("/a", None), ("/b", Some("one"))] {
            let [stored, asked] = [1, 2].map(|utm| format!("{path}?utm={utm}"));
            assert_eq!(ask(&stored, of).await, "MISS");
            assert_eq!(ask(&stored, of).await, "HIT");
            for other in [None, Some("one"), Some("two")].into_iter().filter(|other| *other != of) {
                assert_eq!(ask(&asked, other).await, "MISS", "{path} of {of:?} for {other:?}");
            }
        }
    }

    async fn more_is_believed_where_that_is_set(backend: &Backend) {
        let app = app(backend, &Origin::obedient(), |layer| {
            layer.no_vary_search(NoVarySearch::new().former_spelling(true).of_all(true))
        })
        .await;
        for (at, field, other, expected) in [
            (1, "except=()", "/1?b", "HIT"),
            (2, "params", "/2?b", "HIT"),
            (3, "params, except=(\"id\")", "/3?id=1&x=2", "HIT"),
            (4, "params, except=(\"id\")", "/4?id=2", "MISS"),
        ] {
            app.get(&format!("/{at}?id=1&x=1"), &[FRESH, ("x-say-no-vary-search", field)]).await;
            assert_eq!(x_cache(&app, other, &[]).await, expected, "{field} {other}");
        }
    }

    async fn the_response_itself_has_the_last_word(backend: &Backend) {
        let clock = Clock::manual();
        let origin = Origin::obedient();
        let app = App::new(backend.cache().await.clock(clock.clone()).build(), &origin, on);
        app.get("/s?id=1&utm=a", &[FRESH, UTM]).await;
        assert_eq!(x_cache(&app, "/s?id=1", &[]).await, "HIT");
        // It is made anew, and says nothing of the kind any more.
        clock.advance(Duration::from_secs(61));
        assert_eq!(x_cache(&app, "/s?id=1&utm=a", &[FRESH]).await, "MISS");
        assert_eq!(x_cache(&app, "/s?id=1", &[]).await, "MISS");
        // Only what is fresh stands in for another query.
        let stale = ("x-say-cache-control", "max-age=1, stale-while-revalidate=600");
        app.get("/t?utm=1", &[stale, UTM]).await;
        assert_eq!(x_cache(&app, "/t?utm=2", &[]).await, "HIT");
        clock.advance(Duration::from_secs(2));
        assert_eq!(x_cache(&app, "/t?utm=2", &[]).await, "MISS");
        assert_eq!(x_cache(&app, "/t?utm=1", &[]).await, "STALE");
    }

    /// A process that knows the path by an older response.
    async fn an_alias_of_before_leads_to_no_other_class(backend: &Backend) {
        let origin = Origin::obedient();
        let (here, there) = (app(backend, &origin, on).await, app(backend, &origin, on).await);
        let (own, other) = ("/s?id=1&utm=a", "/s?id=1&utm=b");
        assert_eq!(x_cache(&here, own, &[FRESH, UTM]).await, "MISS");
        assert_eq!(x_cache(&there, "/s?id=9", &[FRESH, UTM]).await, "MISS");
        assert_eq!(x_cache(&there, other, &[]).await, "HIT");
        let layer = CacheLayer::new(there.cache.clone());
        let key = layer.key(&format!("http://shop.example{own}").parse().unwrap()).unwrap();
        assert!(there.cache.invalidate(&key).await.is_ok());
        let made_anew = [FRESH, ("x-say-no-vary-search", "params=(\"ref\")")];
        assert_eq!(x_cache(&here, own, &made_anew).await, "MISS");
        assert_eq!(x_cache(&there, other, &[FRESH]).await, "MISS");
    }

    /// An alias of before leads to the place of what is stored for one client's own sake.
    async fn an_alias_leads_to_nothing_that_was_not_for_all(backend: &Backend) {
        let origin = Origin::obedient();
        let app = app(backend, &origin, on).await;
        let (own, other) = ("/s?id=1&utm=1", "/s?id=1&utm=2");
        let key = app.layer.key(&format!("http://shop.example{own}").parse().unwrap()).unwrap();
        app.get(own, &[FRESH, UTM]).await;
        app.cache.invalidate(&key).await.unwrap();
        let public = ("x-say-cache-control", "public, max-age=60");
        app.get(own, &[public, UTM, ("authorization", "Basic eA==")]).await;
        assert_eq!(x_cache(&app, own, &[]).await, "HIT");
        let asked = app.get(other, &[FRESH, UTM]).await;
        assert_eq!((asked.x_cache(), asked.call()), ("MISS", 3));
        app.send(Method::POST, other, &[]).await;
        assert_eq!(app.get(other, &[FRESH, UTM]).await.call(), 5);
    }

    async fn vary_selects_as_ever(backend: &Backend) {
        let app = app(backend, &Origin::obedient(), on).await;
        let fields = |language| [FRESH, UTM, ("x-say-vary", "Accept-Language"), ("accept-language", language)];
        app.get("/s?utm=1", &fields("de")).await;
        assert_eq!(x_cache(&app, "/s?utm=2", &fields("de")).await, "HIT");
        assert_eq!(x_cache(&app, "/s?utm=2", &fields("en")).await, "MISS");
    }

    async fn a_variant_is_found_by_other_queries_though_another_is_gone(backend: &Backend) {
        let app = app(backend, &Origin::obedient(), on).await;
        let ask = async |uri: &str, language, control| {
            let vary = ("x-say-vary", "Accept-Language");
            let fields = [("x-say-cache-control", control), UTM, vary, ("accept-language", language)];
            x_cache(&app, uri, &fields).await
        };
        assert_eq!(ask("/s?utm=1", "en", "max-age=6000").await, "MISS");
        assert_eq!(ask("/s?utm=1", "de", "max-age=2").await, "MISS");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(ask("/s?utm=2", "en", "max-age=6000").await, "HIT");
    }

    async fn what_one_process_has_another_finds(backend: &Backend) {
        let origin = Origin::obedient();
        let (here, there) = (app(backend, &origin, on).await, app(backend, &origin, on).await);
        here.get("/s?id=1&utm=1", &[FRESH, UTM]).await;
        // That process knows nothing of the path yet, and asks the application.
        assert_eq!(x_cache(&there, "/s?id=2&utm=2", &[FRESH, UTM]).await, "MISS");
        let found = there.get("/s?id=1&utm=3", &[]).await;
        assert_eq!((found.x_cache(), found.call()), ("HIT", 1));
        assert_eq!(here.get("/s?id=2", &[]).await.x_cache(), "HIT");
    }

    /// The load of a process after it knows the path, and the clients that ask at one time.
    async fn all_at_once(
        (app, origin): (&App, &Origin),
        path: &str,
        clients: usize,
        fields: Fields<'static>,
    ) -> Vec<JoinHandle<Response>> {
        let (coalesced, calls) = (app.cache.counts().coalesced, origin.calls());
        let clients: Vec<_> = (0..clients)
            .map(|utm| {
                let (app, uri) = (app.clone(), format!("{path}?id=1&utm={utm}"));
                tokio::spawn(async move { app.get(&uri, fields).await })
            })
            .collect();
        let waiting = clients.len() as u64 - 1;
        wait_until("all but one wait", async || app.cache.counts().coalesced == coalesced + waiting).await;
        wait_until("and that one loads", async || origin.calls() > calls).await;
        clients
    }

    async fn queries_of_one_class_wait_for_one_load(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::gated_obedient(&gate, |call, request| call > 1 && request.method() == Method::GET);
        let app = app(backend, &origin, on).await;
        app.get("/s?utm=0", &[FRESH, UTM]).await;
        let clients = all_at_once((&app, &origin), "/s", 20, &[FRESH, UTM]).await;
        // Another class is another load, and HEAD does not wait for the body.
        let other = tests::ask(&app.service(), request(Method::HEAD, "/s?id=1", &[])).await.unwrap();
        assert_eq!((other.x_cache(), other.call()), ("MISS", 3));
        gate.open();
        let mut answers = Vec::new();
        for client in clients {
            let answer = client.await.unwrap();
            let status = answer.cache_status();
            assert_eq!(answer.call(), 2, "{answer:?}");
            answers.push((answer.x_cache().to_owned(), status.collapsed, status.detail));
        }
        answers.sort();
        let collapsed = ("HIT".to_owned(), true, Some("nvs".to_owned()));
        assert_eq!(answers.pop(), Some(("MISS".to_owned(), false, None)));
        assert_eq!(answers, vec![collapsed; 19]);
        let later = app.get("/s?id=1&utm=later", &[]).await;
        assert_eq!((later.call(), later.cache_status().detail.as_deref()), (2, Some("nvs")));
        assert_eq!(app.get("/s?id=2", &[]).await.call(), 4);
        assert_eq!(app.cache.loads_in_flight(), 0);
    }

    /// Whatever that response says: each of the other requests loads its own at once, and none waits a second time.
    async fn what_turns_out_to_be_of_no_class_is_loaded_by_each(backend: &Backend) {
        const CLIENTS: usize = 6;
        const RESPONSES: [Fields<'_>; 5] = [
            &[FRESH],
            &[FRESH, ("x-say-no-vary-search", "params=(\"ref\")")],
            &[("x-say-cache-control", "no-store"), UTM],
            &[FRESH, UTM, ("x-status", "500")],
            &[FRESH, UTM, ("x-status", "404")],
        ];
        for (at, fields) in RESPONSES.into_iter().enumerate() {
            let gates = [Gate::closed(), Gate::closed()];
            let (early, late) = (gates[0].clone(), gates[1].clone());
            let origin = Origin::new(move |call, request| {
                let gate = gates[usize::from(request.headers().contains_key("x-late"))].clone();
                async move {
                    if call > 1 {
                        gate.pass().await;
                    }
                    Ok(obey(call, request).await)
                }
            });
            // A request that waits for another one's load waits for longer than the test does.
            let cache = backend.cache().await.lock_timeout(Duration::from_secs(3600)).build();
            let (app, path) = (App::new(cache, &origin, on), format!("/{at}"));
            app.get(&format!("{path}?utm=0"), &[FRESH, UTM]).await;
            let clients = all_at_once((&app, &origin), &path, CLIENTS, fields).await;
            assert_eq!(origin.calls(), 2, "{fields:?}");
            early.open();
            let mut calls = Vec::new();
            for client in clients {
                calls.push(client.await.unwrap().call());
            }
            calls.sort_unstable();
            assert_eq!(calls, (2..2 + CLIENTS).collect::<Vec<_>>(), "{fields:?}");
            if fields.contains(&("x-status", "500")) {
                continue;
            }
            let later = ["a", "b"].map(|utm| {
                let (app, uri) = (app.clone(), format!("{path}?id=1&utm={utm}"));
                tokio::spawn(async move { app.get(&uri, &[FRESH, ("x-late", "")]).await })
            });
            wait_until("neither waits for the other", async || origin.calls() == 3 + CLIENTS).await;
            late.open();
            for client in later {
                assert_eq!(client.await.unwrap().x_cache(), "MISS");
            }
        }
    }

    async fn a_client_that_leaves_takes_nothing_from_its_class(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::gated_obedient(&gate, |call, _| call > 1);
        let app = app(backend, &origin, on).await;
        app.get("/s?utm=0", &[FRESH, UTM]).await;
        let leader = tokio::spawn({
            let app = app.clone();
            async move { app.get("/s?id=1", &[FRESH, UTM]).await }
        });
        wait_until("it loads", async || origin.calls() == 2).await;
        let others = ["/s?id=1&utm=1", "/s?id=1&utm=2"].map(|uri| {
            let app = app.clone();
            tokio::spawn(async move { app.get(uri, &[FRESH, UTM]).await })
        });
        wait_until("others wait", async || app.cache.counts().coalesced == 2).await;
        leader.abort();
        assert!(leader.await.unwrap_err().is_cancelled());
        gate.open();
        for other in others {
            assert_eq!(other.await.unwrap().call(), 2);
        }
    }

    /// And where nothing is known of the path, it is from the head on that comes.
    async fn a_query_of_the_class_has_part_in_what_comes_in(backend: &Backend) {
        for streamed in [1, 2] {
            let (feed, body) = Feed::new();
            let body = Arc::new(Mutex::new(Some(body)));
            let origin = Origin::new(move |call, request| {
                let body = body.clone();
                async move {
                    let response = obey(call, request).await;
                    let streamed = if call == streamed { body.lock().unwrap().take() } else { None };
                    Ok(match streamed {
                        Some(body) => response.map(|_| body),
                        None => response,
                    })
                }
            });
            let (app, path) = (app(backend, &origin, on).await, format!("/{streamed}"));
            if streamed == 2 {
                app.get(&format!("{path}?utm=0"), &[FRESH, UTM]).await;
            }
            let begin = async |uri: &str| app.begin(request(Method::GET, uri, &[FRESH, UTM])).await.unwrap();
            let mut bodies = Vec::new();
            for (query, detail) in [("id=1&utm=1", None), ("id=1&utm=2", Some("nvs")), ("id=1", Some("nvs"))] {
                let (head, body) = begin(&format!("{path}?{query}")).await.into_parts();
                assert_eq!(CacheStatus::of(&head.headers).detail.as_deref(), detail, "{query}");
                bodies.push(body);
            }
            feed.data("one").unwrap();
            for body in &mut bodies {
                assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
            }
            feed.data(" two").unwrap();
            drop(feed);
            for body in bodies {
                assert_eq!(body.collect().await.unwrap().to_bytes(), " two");
            }
            app.settled().await;
            assert_eq!(app.get(&format!("{path}?id=1&utm=3"), &[]).await.x_cache(), "HIT");
            assert_eq!(origin.calls(), streamed);
        }
    }

    async fn a_load_of_a_class_that_a_write_overtakes_reaches_nobody_who_came_after_it(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::gated_obedient(&gate, |call, _| call == 2);
        let app = app(backend, &origin, on).await;
        app.get("/s?utm=0", &[FRESH, UTM]).await;
        let before = all_at_once((&app, &origin), "/s", 3, &[FRESH, UTM]).await;
        tests::ask(&app.service(), request(Method::POST, "/s?id=9", &[])).await.unwrap();
        let after = tokio::spawn({
            let app = app.clone();
            async move { app.get("/s?id=1&utm=after", &[FRESH, UTM]).await }
        });
        wait_until("it waits, or has its own", async || app.cache.counts().coalesced == 3 || origin.calls() == 4).await;
        gate.open();
        assert_eq!(after.await.unwrap().call(), 4);
        for client in before {
            let call = client.await.unwrap().call();
            assert!(call == 2 || call == 4, "{call}");
        }
        assert_eq!(origin.calls(), 4, "one more load, for all");
    }

    /// Such as a page that is put together from others, of which one is of its own class.
    async fn what_a_load_asks_for_itself_waits_for_no_class(backend: &Backend) {
        let service = Arc::new(OnceLock::new());
        let inside = service.clone();
        let origin = Origin::new(move |call, asked| {
            let inside = inside.clone();
            async move {
                if call == 2 {
                    let service: &cache_layer::CacheService<Origin> = inside.get().expect("it is set");
                    let mut part = request(Method::GET, "/s?id=1&utm=part", &[FRESH, UTM]);
                    *part.extensions_mut() = asked.extensions().clone();
                    let part = tests::ask(service, part).await?;
                    assert_eq!((part.x_cache(), part.cache_status().detail), ("MISS", None));
                }
                Ok(obey(call, asked).await)
            }
        });
        let app = app(backend, &origin, on).await;
        assert!(service.set(app.service()).is_ok());
        app.get("/s?utm=0", &[FRESH, UTM]).await;
        assert_eq!(app.get("/s?id=1&utm=page", &[FRESH, UTM]).await.call(), 2);
    }

    #[tokio::test]
    async fn a_field_is_learned_from_what_another_process_has_stored() {
        for backend in [Backend::redis(), Backend::tiered()] {
            let origin = Origin::obedient();
            let (here, there) = (app(&backend, &origin, on).await, app(&backend, &origin, on).await);
            here.get("/s?id=1&utm=1", &[FRESH, UTM]).await;
            // An explanation reads the entry into the first tier.
            let there = there.unexplained();
            let own = there.get("/s?id=1&utm=1", &[]).await;
            assert_eq!((own.x_cache(), own.cache_status().detail), ("HIT", None));
            let other = there.get("/s?id=1&utm=2", &[]).await;
            assert_eq!((other.call(), other.cache_status().detail.as_deref()), (1, Some("nvs")));
        }
    }

    over_each_store!(
        queries_of_one_class_wait_for_one_load,
        what_turns_out_to_be_of_no_class_is_loaded_by_each,
        a_client_that_leaves_takes_nothing_from_its_class,
        a_query_of_the_class_has_part_in_what_comes_in,
        a_load_of_a_class_that_a_write_overtakes_reaches_nobody_who_came_after_it,
        what_a_load_asks_for_itself_waits_for_no_class,
        queries_match_as_the_draft_says,
        one_response_answers_for_every_query_that_it_says,
        the_field_means_nothing_unless_that_is_set,
        a_write_to_any_target_of_the_path_reaches_it,
        a_load_that_such_a_write_overtakes_is_not_stored,
        what_could_be_one_clients_own_is_not_believed,
        what_a_layer_outside_tells_apart_stays_so,
        more_is_believed_where_that_is_set,
        the_response_itself_has_the_last_word,
        an_alias_of_before_leads_to_no_other_class,
        an_alias_leads_to_nothing_that_was_not_for_all,
        vary_selects_as_ever,
        a_variant_is_found_by_other_queries_though_another_is_gone,
        what_one_process_has_another_finds,
    );
}

mod vary {
    use super::*;

    const VARIES: Fields<'static> =
        &[("cache-control", "max-age=60"), ("vary", "Accept-Encoding, Accept-Language, Cookie")];

    /// An origin that varies, and what it was asked.
    fn varying() -> (Origin, Arc<Mutex<Vec<HeaderMap>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        let origin = Origin::new(move |call, request| {
            seen.lock().unwrap().push(request.headers().clone());
            async move { Ok(echo(call, &request, VARIES)) }
        });
        (origin, asked)
    }

    async fn calls(app: &App, name: &str, values: &[&str]) -> Vec<usize> {
        let mut calls = Vec::new();
        for value in values {
            let first = app.get("/", &[(name, value)]).await.call();
            assert_eq!(app.get("/", &[(name, value)]).await.call(), first, "{value}");
            calls.push(first);
        }
        calls
    }

    async fn each_level_takes_more_for_one(backend: &Backend) {
        const CODINGS: [&str; 6] = ["gzip, br", "GZIP ,br;q=1.0", "br, gzip", "gzip, zstd, br", "gzip", "gzip;q=0"];
        const LANGUAGES: [&str; 5] = ["de-CH, de;q=0.9", "DE-ch,de;q=0.900", "de;q=0.9, de-CH", "en, de", "de, en"];
        let negotiate = || Vary::negotiate(["br", "gzip"]).unwrap().languages(["de", "en"]).unwrap();
        for (level, codings, languages) in [
            (Vary::safe(), [1, 1, 2, 3, 4, 5], [1, 1, 2, 3, 4]),
            (Vary::all(), [1, 1, 1, 2, 3, 4], [1, 1, 1, 2, 3]),
            (negotiate(), [1, 1, 1, 1, 2, 3], [1, 1, 1, 2, 3]),
        ] {
            for (name, values, expected) in
                [("accept-encoding", &CODINGS[..], &codings[..]), ("accept-language", &LANGUAGES, &languages)]
            {
                let (origin, _) = varying();
                let app = app(backend, &origin, |layer| layer.vary(level.clone())).await;
                app.cache.invalidate_all().await.unwrap();
                assert_eq!(calls(&app, name, values).await, expected, "{level:?}");
            }
        }
    }

    /// The fields of two clients, and whether each level treats them as one; the last level is with `br` and `gzip`.
    async fn two_clients_are_one_where_the_level_says_so(backend: &Backend) {
        type Said = Option<&'static str>;
        const CODING: &str = "accept-encoding";
        const LANGUAGE: &str = "accept-language";
        const ROWS: [(&str, Said, Said, [bool; 3]); 12] = [
            (CODING, Some("gzip, br"), Some("GZIP ,br;q=1.0"), [true, true, true]),
            (CODING, Some("gzip, br"), Some("br, gzip"), [false, true, true]),
            (CODING, Some("gzip, deflate, br, zstd"), Some("br, gzip"), [false, false, true]),
            (CODING, Some("gzip"), Some("gzip;q=0"), [false, false, false]),
            (CODING, Some("gzip;q=0.5, br"), Some("gzip;q=0.4, br"), [false, false, true]),
            (CODING, None, Some(""), [false, false, false]),
            (CODING, Some("gzip, br, dcb"), Some("gzip, br"), [false, false, true]),
            (CODING, Some("*"), Some("gzip, br"), [false, false, true]),
            (CODING, Some("x-gzip"), Some("gzip"), [true, true, true]),
            // Nothing is negotiated of these: it is as without.
            (LANGUAGE, Some("de-CH, de;q=0.9"), Some("DE-ch,de;q=0.900"), [true, true, true]),
            (LANGUAGE, Some("en, de"), Some("de, en"), [false, false, false]),
            (LANGUAGE, Some("en;q=0.8, de;q=0.9"), Some("de;q=0.9, en;q=0.8"), [false, true, false]),
        ];
        let levels = [Vary::safe(), Vary::all(), Vary::negotiate(["br", "gzip"]).unwrap()];
        for (at, level) in levels.into_iter().enumerate() {
            let (origin, _) = varying();
            let app = app(backend, &origin, |layer| layer.namespace(at.to_string()).vary(level.clone())).await;
            for (row, (name, one, other, expected)) in ROWS.into_iter().enumerate() {
                let uri = format!("/{row}");
                let fields = |said: Said| said.map(|value| (name, value)).into_iter().collect::<Vec<_>>();
                let call = app.get(&uri, &fields(one)).await.call();
                let is_one = app.get(&uri, &fields(other)).await.call() == call;
                assert_eq!(is_one, expected[at], "{level:?}: {name}: {one:?} and {other:?}");
                assert_eq!(app.get(&uri, &fields(one)).await.call(), call);
            }
        }
    }

    async fn the_application_gets_what_it_is_selected_by(backend: &Backend) {
        let (origin, asked) = varying();
        let vary = Vary::negotiate(["br", "gzip"]).unwrap().languages(["de", "en"]).unwrap();
        let app = app(backend, &origin, |layer| layer.vary(vary)).await;
        let mine = [("accept-encoding", "zstd, gzip, br;q=0.5"), ("accept-language", "de-AT, fr"), ("cookie", "a=b")];
        app.get("/", &mine).await;
        let asked = asked.lock().unwrap();
        let of = |name| asked[0].get(name).map(|value| value.to_str().unwrap());
        assert_eq!(of("accept-encoding"), Some("gzip, br;q=0.99"));
        assert_eq!((of("accept-language"), of("cookie")), (Some("de"), Some("a=b")));
        for (name, value) in [("coding", "br, gzip"), ("coding", ""), ("coding", "*")] {
            assert!(Vary::negotiate([value]).is_err(), "{name} {value}");
            assert!(Vary::safe().languages([value]).is_err(), "{name} {value}");
        }
    }

    async fn what_a_client_has_sent_is_beside_it(backend: &Backend) {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let seen = sent.clone();
        let origin = Origin::new(move |call, request| {
            seen.lock().unwrap().push(request.extensions().get::<ClientPreferences>().cloned());
            async move { Ok(echo(call, &request, VARIES)) }
        });
        let vary = Vary::negotiate(["br", "gzip"]).unwrap().languages(["de", "en"]).unwrap();
        let app = app(backend, &origin, |layer| layer.vary(vary)).await;
        for fields in [
            &[("accept-encoding", "zstd, gzip"), ("accept-encoding", "br;q=0.5"), ("accept-language", "fr")][..],
            &[("accept-encoding", "gzip"), ("accept-language", "de-AT, fr")],
            // There is nothing to negotiate.
            &[("accept-encoding", "br, gzip")],
            &[],
        ] {
            app.get("/", fields).await;
            let kept = sent.lock().unwrap().pop().unwrap();
            let is_rewritten = fields.iter().any(|(_, value)| value.contains("zstd") || value.contains("fr"));
            let expected = is_rewritten.then(|| request(Method::GET, "http://h/", fields).headers().clone());
            assert_eq!(kept.as_ref().map(ClientPreferences::headers), expected.as_ref(), "{fields:?}");
        }
        // A request that is passed through keeps its own field.
        app.get("/", &[("accept-encoding", "zstd, gzip"), ("cache-control", "no-store")]).await;
        assert_eq!(sent.lock().unwrap().pop(), Some(None));
    }

    async fn named_cookies_count_alone(backend: &Backend) {
        let (origin, _) = varying();
        let app = app(backend, &origin, |layer| layer.vary(Vary::safe().cookies(["theme"]))).await;
        let cookies = ["theme=dark", "id=1; theme=dark", "theme=light", "id=2; theme=light; x=y", "id=3"];
        assert_eq!(calls(&app, "cookie", &cookies).await, [1, 1, 2, 2, 3]);
        assert_eq!(app.get("/", &[]).await.call(), 3);
    }

    /// However it came about that one key has them all.
    async fn no_client_gets_a_coding_that_it_refuses(backend: &Backend) {
        let origin = Origin::new(|call, request| async move {
            let coding = request.headers().get("accept-encoding").cloned();
            let mut response = echo(call, &request, &[("cache-control", "max-age=60"), ("etag", "\"v\"")]);
            if let Some(coding) = coding.filter(|coding| coding == "gzip" || coding == "unheard-of") {
                response.headers_mut().insert("content-encoding", coding);
            }
            Ok(response)
        });
        let app = app(backend, &origin, |layer| layer).await;
        let coding = |response: &Response| response.header("content-encoding").map(str::to_owned);
        app.get("/", &[("accept-encoding", "gzip")]).await;
        for accepts in [&[][..], &[("accept-encoding", "x-gzip, br")], &[("accept-encoding", "*")]] {
            let response = app.get("/", accepts).await;
            assert_eq!((response.x_cache(), coding(&response).as_deref()), ("HIT", Some("gzip")), "{accepts:?}");
        }
        for refuses in ["identity", "br", "gzip;q=0, *", ""] {
            app.get("/", &[("accept-encoding", "gzip")]).await;
            let response = app.get("/", &[("accept-encoding", refuses)]).await;
            assert_eq!((response.x_cache(), coding(&response)), ("MISS", None), "{refuses}");
            app.cache.invalidate_all().await.unwrap();
        }
        // An unknown coding is left to the application.
        app.get("/odd", &[("accept-encoding", "unheard-of")]).await;
        assert_eq!(app.get("/odd", &[("accept-encoding", "br")]).await.x_cache(), "HIT");
    }

    over_each_store!(
        each_level_takes_more_for_one,
        two_clients_are_one_where_the_level_says_so,
        the_application_gets_what_it_is_selected_by,
        what_a_client_has_sent_is_beside_it,
        named_cookies_count_alone,
        no_client_gets_a_coding_that_it_refuses,
    );
}

mod incremental {
    use super::*;

    async fn a_request_waits_for_no_other_and_none_for_it(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::new({
            let gate = gate.clone();
            move |call, request| {
                let gate = gate.clone();
                async move {
                    if !request.headers().contains_key("incremental") {
                        gate.pass().await;
                    }
                    Ok(echo(call, &request, &[("cache-control", "max-age=60")]))
                }
            }
        });
        let app = app(backend, &origin, |layer| layer).await;
        let loading = tokio::spawn({
            let app = app.clone();
            async move { app.get("/", &[]).await }
        });
        wait_until("another request is loading", async || origin.calls() == 1).await;
        let response = tests::ask(&app.service(), request(Method::GET, "/", &[("incremental", "?1")])).await.unwrap();
        assert_eq!((response.call(), response.cache_status().detail.as_deref()), (2, Some("incremental")));
        gate.open();
        assert_eq!(loading.await.unwrap().call(), 1);
        // A complete response may answer such a request as well.
        let response = app.get("/", &[("incremental", "?1")]).await;
        assert_eq!((response.x_cache(), response.call()), ("HIT", 1));
        assert_eq!(app.get("/b", &[("incremental", "?0")]).await.x_cache(), "MISS");
        assert_eq!(app.get("/b", &[]).await.x_cache(), "HIT");
    }

    async fn a_response_goes_through_as_it_comes_in(backend: &Backend) {
        let (feed, body) = Feed::new();
        let body = Arc::new(Mutex::new(Some(body)));
        let origin = Origin::new(move |call, request| {
            let body = body.clone();
            async move {
                let fields = [("cache-control", "max-age=60"), ("incremental", "?1")];
                let response = echo(call, &request, &fields);
                let first = body.lock().unwrap().take();
                Ok(match first {
                    Some(body) => response.map(|_| body),
                    None => response,
                })
            }
        });
        let app = app(backend, &origin, |layer| layer).await;
        let mut live = app.begin(request(Method::GET, "/", &[])).await.unwrap().into_body();
        feed.data("one").unwrap();
        let frame = http_body_util::BodyExt::frame(&mut live).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "one");
        // Nobody is attached to it, and it is not kept.
        let other = app.get("/", &[]).await;
        assert_eq!((other.call(), other.header("incremental")), (2, Some("?1")));
        drop((feed, live));
        let status = app.get("/", &[]).await.cache_status();
        assert!(!status.hit && !status.stored, "{status:?}");
    }

    over_each_store!(a_request_waits_for_no_other_and_none_for_it, a_response_goes_through_as_it_comes_in);
}

mod others {
    use super::*;

    async fn a_refusal_to_prefetch_is_for_that_request_alone(backend: &Backend) {
        let app = app(backend, &Origin::obedient(), |layer| layer).await;
        for status in ["403", "429", "503"] {
            let uri = format!("/{status}");
            let ahead = [FRESH, ("sec-purpose", "prefetch"), ("x-status", status)];
            let refused = app.get(&uri, &ahead).await;
            assert_eq!((refused.status.as_str(), refused.cache_status().stored), (status, false));
            let visit = app.get(&uri, &[FRESH]).await;
            assert_eq!((visit.status.as_u16(), visit.x_cache()), (200, "MISS"), "{status}");
        }
        app.get("/kept", &[FRESH, ("sec-purpose", "prefetch")]).await;
        assert_eq!(app.get("/kept", &[]).await.x_cache(), "HIT");
        app.get("/visit", &[FRESH, ("x-status", "403")]).await;
        assert_eq!(app.get("/visit", &[]).await.x_cache(), "HIT");
    }

    async fn what_needs_a_dictionary_is_not_kept(backend: &Backend) {
        let app = app(backend, &Origin::obedient(), |layer| layer).await;
        for (uri, field) in [
            ("/a", ("x-say-content-encoding", "dcb")),
            ("/b", ("x-say-content-encoding", "gzip, DCZ")),
            ("/c", ("x-say-vary", "accept-encoding, Available-Dictionary")),
        ] {
            let response = app.get(uri, &[FRESH, field]).await;
            assert_eq!(response.cache_status().detail.as_deref(), Some("dictionary"), "{field:?}");
            assert_ne!(app.get(uri, &[FRESH, field]).await.x_cache(), "HIT");
        }
        app.get("/d", &[FRESH, ("x-say-use-as-dictionary", "match=\"/d*\"")]).await;
        let dictionary = app.get("/d", &[]).await;
        assert_eq!((dictionary.x_cache(), dictionary.header("use-as-dictionary")), ("HIT", Some("match=\"/d*\"")));
    }

    async fn a_group_is_stale_whatever_the_status(backend: &Backend) {
        let app = app(backend, &Origin::obedient(), |layer| layer).await;
        for (method, status, expected) in [
            (Method::POST, "200", "MISS"),
            (Method::POST, "409", "MISS"),
            (Method::PUT, "500", "MISS"),
            (Method::GET, "409", "HIT"),
        ] {
            for uri in ["/in", "/out"] {
                app.get(uri, &[FRESH, ("x-say-cache-groups", "\"g\"")]).await;
            }
            let fields = [("x-say-cache-group-invalidation", "\"g\""), ("x-status", status)];
            app.send(method.clone(), "/write", &fields).await;
            assert_eq!(app.get("/in", &[FRESH]).await.x_cache(), expected, "{method} {status}");
            app.cache.invalidate_all().await.unwrap();
        }
        // An error says nothing about its own target.
        app.get("/in", &[FRESH]).await;
        app.send(Method::POST, "/in", &[("x-say-cache-group-invalidation", "\"g\""), ("x-status", "409")]).await;
        assert_eq!(app.get("/in", &[FRESH]).await.x_cache(), "HIT");
    }

    async fn a_304_says_again_in_which_groups_a_response_is(backend: &Backend) {
        let clock = Clock::manual();
        let origin = Origin::obedient();
        let app = App::new(backend.cache().await.clock(clock.clone()).build(), &origin, |layer| layer);
        let first = [FRESH, ("x-say-etag", "\"v\""), ("x-say-cache-groups", "\"one\""), ("x-say-cache-tag", "t")];
        for (groups, stale_by) in [(None, "\"one\""), (Some("\"two\""), "\"two\"")] {
            app.cache.invalidate_all().await.unwrap();
            app.get("/", &first).await;
            clock.advance(Duration::from_secs(61));
            let mut fields = vec![FRESH, ("x-say-etag", "\"v\""), ("x-status", "304")];
            fields.extend(groups.map(|groups| ("x-say-cache-groups", groups)));
            assert_eq!(app.get("/", &fields).await.x_cache(), "REVALIDATED");
            let other = if stale_by == "\"one\"" { "\"two\"" } else { "\"one\"" };
            app.send(Method::POST, "/w", &[("x-say-cache-group-invalidation", other)]).await;
            assert_eq!(app.get("/", &[]).await.x_cache(), "HIT", "{groups:?}");
            app.send(Method::POST, "/w", &[("x-say-cache-group-invalidation", stale_by)]).await;
            assert_eq!(app.get("/", &first).await.x_cache(), "MISS", "{groups:?}");
        }
        // Present and empty: in none any more. Its tags are another matter.
        clock.advance(Duration::from_secs(61));
        let fields = [FRESH, ("x-say-etag", "\"v\""), ("x-status", "304"), ("x-say-cache-groups", "")];
        assert_eq!(app.get("/", &fields).await.x_cache(), "REVALIDATED");
        app.send(Method::POST, "/w", &[("x-say-cache-group-invalidation", "\"one\"")]).await;
        assert_eq!(app.get("/", &[]).await.x_cache(), "HIT");
        app.cache.invalidate_tag("t").await.unwrap();
        assert_eq!(app.get("/", &first).await.x_cache(), "MISS");
    }

    over_each_store!(
        a_refusal_to_prefetch_is_for_that_request_alone,
        what_needs_a_dictionary_is_not_kept,
        a_group_is_stale_whatever_the_status,
        a_304_says_again_in_which_groups_a_response_is,
    );
}
