//! The effect of the settings of a layer, of its rules, and of a request's hints on the responses.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cache_layer::{
    Cache, CacheLayer, Clock, Freshness, Hints, NoVarySearch, PrivateCacheLayer, Profile, Rule, Rules,
    store::MemoryStore,
};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header::CACHE_CONTROL, header::COOKIE};
use tests::{App, Backend, Body, Gate, Origin, Response, echo, over_each_store, request, wait_until};

type Fields = &'static [(&'static str, &'static str)];

const MAX_AGE: Fields = &[("cache-control", "max-age=60")];

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn cache(clock: &Clock) -> Cache {
    Cache::builder(MemoryStore::new(1 << 20)).clock(clock.clone()).build()
}

fn app(origin: &Origin, set: impl FnOnce(CacheLayer) -> CacheLayer) -> App {
    App::new(cache(&Clock::manual()), origin, set)
}

fn name(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

/// What `X-Cache` says, and the reason in `Cache-Status`.
fn said(response: &Response) -> (&str, Option<String>) {
    (response.x_cache(), response.cache_status().detail)
}

/// The outcome of the second of two requests.
async fn second(app: &App, uri: &str, fields: &[(&str, &str)]) -> (String, Option<String>) {
    app.get(uri, fields).await;
    let response = app.get(uri, fields).await;
    let (x_cache, detail) = said(&response);
    (x_cache.to_owned(), detail)
}

fn hit() -> (String, Option<String>) {
    ("HIT".to_owned(), None)
}

fn refused(reason: &str) -> (String, Option<String>) {
    ("BYPASS".to_owned(), Some(reason.to_owned()))
}

mod a_rule {
    use super::*;

    #[tokio::test]
    async fn states_a_lifetime_for_its_own_requests() {
        let clock = Clock::manual();
        let rules = |layer: CacheLayer| {
            let layer = layer.ttl(seconds(5)).ttl_for_path("/shops", seconds(7));
            let layer = layer.rule(Rule::path("/shops/{id}/orders").ttl(seconds(10))).unwrap();
            layer.rule(Rule::prefix("/shops/main").ttl(seconds(20)).stale_while_revalidate(seconds(5))).unwrap()
        };
        let app = App::new(cache(&clock), &Origin::echo(&[]), rules);
        for (uri, ttl) in [("/shops/7/orders?all", 10), ("/shops/main/orders", 20), ("/shops/7", 7), ("/", 5)] {
            app.get(uri, &[]).await;
            assert_eq!(app.get(uri, &[]).await.cache_status().ttl, Some(ttl), "{uri}");
        }
        clock.advance(seconds(22));
        assert_eq!(app.get("/shops/main/orders", &[]).await.x_cache(), "STALE");
        assert_eq!(app.get("/shops/7/orders?all", &[]).await.x_cache(), "MISS");
    }

    #[tokio::test]
    async fn is_for_a_host_if_it_says_so() {
        let rules = |layer: CacheLayer| {
            let layer = layer.canonical_host("www.shop.example", "shop.example").unwrap();
            let layer = layer.rule(Rule::any_path().host("Shop.Example:443").ttl(seconds(10))).unwrap();
            let layer = layer.rule(Rule::any_path().host("*.tenants.example").ttl(seconds(20))).unwrap();
            layer.rule(Rule::path("/x").host("a.tenants.example").ttl(seconds(30))).unwrap()
        };
        let app = app(&Origin::echo(&[]), rules);
        for (host, ttl) in [
            ("shop.example", Some(10)),
            ("www.shop.example", Some(10)),
            ("a.tenants.example", Some(30)),
            ("b.tenants.example", Some(20)),
            ("tenants.example", None),
            ("evil-tenants.example", None),
        ] {
            app.get("/x", &[("host", host)]).await;
            assert_eq!(app.get("/x", &[("host", host)]).await.cache_status().ttl, ttl, "{host}");
        }
    }

    #[tokio::test]
    async fn sends_requests_past_the_cache() {
        let app = app(&Origin::echo(MAX_AGE), |layer| layer.rule(Rule::prefix("/admin").bypass()).unwrap());
        assert_eq!(second(&app, "/admin/users", &[]).await, refused("rule"));
        assert_eq!(second(&app, "/", &[]).await, hit());
    }

    #[tokio::test]
    async fn has_a_say_in_the_key_and_writes_and_invalidations_find_it() {
        let rule = Rule::prefix("/shops/{id}").key_headers([name("x-tenant")]).ignore_query(["utm_*"]);
        let set = |layer: CacheLayer| layer.rule(rule.clone()).unwrap();
        let origin = Origin::new(|call, request: Request<Body>| async move {
            let mut response = echo(call, &request, MAX_AGE);
            if request.method() == Method::POST {
                response.headers_mut().insert("location", "/shops/7/orders".parse().unwrap());
                *response.status_mut() = StatusCode::SEE_OTHER;
            }
            Ok(response)
        });
        let app = app(&origin, set);
        let tenant = |tenant| [("x-tenant", tenant)];
        let one = app.get("/shops/7/orders", &tenant("one")).await.call();
        assert_ne!(app.get("/shops/7/orders", &tenant("two")).await.call(), one);
        assert_eq!(app.get("/shops/7/orders?utm_source=mail", &tenant("one")).await.call(), one);
        // From a path that has no rule.
        app.send(Method::POST, "/orders", &tenant("one")).await;
        assert_eq!(app.get("/shops/7/orders", &tenant("one")).await.x_cache(), "MISS");
        // A write concerns the target for all tenants (RFC 9111, section 4.4).
        assert_eq!(app.get("/shops/7/orders", &tenant("two")).await.x_cache(), "MISS");
        // To the path itself, by a method that the rule is not alone for.
        app.send(Method::DELETE, "/shops/7/orders", &tenant("two")).await;
        assert_eq!(app.get("/shops/7/orders", &tenant("two")).await.x_cache(), "MISS");

        let layer = set(CacheLayer::new(app.cache.clone()));
        let (parts, _) = request(Method::GET, "/shops/7/orders", &tenant("one")).into_parts();
        for key in [
            layer.key_of(&parts.uri, &parts.headers),
            layer.key_of(&Uri::from_static("/shops/7/orders?utm_source=x"), &parts.headers),
        ] {
            assert_eq!(second(&app, "/shops/7/orders", &tenant("one")).await, hit());
            app.cache.invalidate(&key.unwrap()).await.unwrap();
            assert_eq!(app.get("/shops/7/orders", &tenant("one")).await.x_cache(), "MISS");
        }
        assert_eq!(second(&app, "/shops/7", &[]).await, hit());
        app.cache.invalidate(&layer.key(&"http://shop.example/shops/7".parse().unwrap()).unwrap()).await.unwrap();
        assert_eq!(app.get("/shops/7", &[]).await.x_cache(), "MISS");
    }

    #[tokio::test]
    async fn keys_on_one_cookie() {
        let rule = Rule::path("/prices").ttl(seconds(60)).key_cookies(["currency"]);
        let app = app(&Origin::echo(&[]), |layer| layer.rule(rule).unwrap());
        let euros = app.get("/prices", &[("cookie", "currency=EUR")]).await.call();
        assert_eq!(app.get("/prices", &[("cookie", "currency=EUR")]).await.call(), euros);
        let mut others = Vec::new();
        for line in ["currency=USD", "currency=", "currency=EUR; currency=USD", ""] {
            let (before, after) =
                (app.get("/prices", &[("cookie", line)]).await, app.get("/prices", &[("cookie", line)]).await);
            assert_eq!((before.call(), after.x_cache()), (after.call(), "HIT"), "{line}");
            others.push(before.call());
        }
        others.push(euros);
        others.sort_unstable();
        others.dedup();
        assert_eq!(others.len(), 5, "each has its own");
        // An application may trim the name, or know a name without a value: what it makes of that is for nobody else.
        for line in ["currency =EUR", "currency\t=USD", "currency", "currency = GBP"] {
            let odd = app.get("/prices", &[("cookie", line)]).await.call();
            assert_eq!(app.get("/prices", &[("cookie", line)]).await.call(), odd, "{line}");
            others.push(odd);
        }
        others.push(app.get("/prices", &[]).await.call());
        others.sort_unstable();
        others.dedup();
        assert_eq!(others.len(), 9, "the request without a cookie has the answer of the one with an empty line");
        // Another cookie may make a difference that the key does not make.
        assert_eq!(
            app.get("/prices", &[("cookie", "currency=GBP; session=1")]).await.cache_status().detail.as_deref(),
            Some("cookie")
        );
    }

    #[tokio::test]
    async fn refuses_responses_and_keeps_statuses() {
        let origin = Origin::new(|call, request: Request<Body>| async move {
            let fields = if request.uri().query() == Some("good") { MAX_AGE } else { &[] };
            let mut response = echo(call, &request, fields);
            if request.uri().path() == "/missing" {
                *response.status_mut() = StatusCode::NOT_FOUND;
            }
            Ok(response)
        });
        let graphql = Rule::path("/graphql").ttl(seconds(60)).keep_if(|_, headers| headers.contains_key(CACHE_CONTROL));
        let missing = Rule::path("/missing").negative_ttl(StatusCode::NOT_FOUND, seconds(60));
        let app = app(&origin, |layer| layer.rule(graphql).unwrap().rule(missing).unwrap());
        assert_eq!(second(&app, "/graphql?good", &[]).await, hit());
        assert_eq!(second(&app, "/graphql?errors", &[]).await, ("MISS".to_owned(), Some("keep-if".to_owned())));
        assert_eq!(second(&app, "/missing", &[]).await, hit());
    }

    /// As an application does whose GraphQL takes mutations by GET.
    #[tokio::test]
    async fn leaves_out_the_requests_of_a_predicate() {
        let rule = Rule::path("/graphql").ttl(seconds(60));
        let is_mutation = |request: &http::request::Parts| {
            request.uri.query().is_some_and(|query| query.starts_with("query=mutation"))
        };
        let app = app(&Origin::echo(&[]), |layer| layer.rule(rule).unwrap().bypass_if(is_mutation));
        assert_eq!(second(&app, "/graphql?query=fresh", &[]).await, hit());
        let first = app.get("/graphql?query=mutation", &[]).await;
        let next = app.get("/graphql?query=mutation", &[]).await;
        assert_eq!((said(&next), first.call() == next.call()), (("BYPASS", Some("bypass-if".to_owned())), false));
        assert_eq!(second(&app, "/graphql?query=fresh", &[]).await, hit());
    }

    #[tokio::test]
    async fn of_a_method_says_whether_it_is_a_change() {
        let rule = Rule::path("/graphql").methods([Method::POST]).voids(false);
        let app = app(&Origin::echo(MAX_AGE), |layer| layer.rule(rule).unwrap());
        app.get("/graphql", &[]).await;
        app.send(Method::POST, "/graphql", &[]).await;
        assert_eq!(app.get("/graphql", &[]).await.x_cache(), "HIT");
        app.send(Method::PUT, "/graphql", &[]).await;
        assert_eq!(app.get("/graphql", &[]).await.x_cache(), "MISS");
    }

    #[tokio::test]
    async fn limits_bodies() {
        let app = app(&Origin::echo(MAX_AGE), |layer| layer.rule(Rule::path("/tiny").max_body(3)).unwrap());
        assert_eq!(second(&app, "/tiny", &[]).await.1.as_deref(), Some("remembered/body-too-large"));
        assert_eq!(second(&app, "/", &[]).await, hit());
    }

    /// Whose key would not be the one that the rule makes.
    #[tokio::test]
    async fn is_not_evaded_by_another_spelling() {
        let app = app(&Origin::echo(MAX_AGE), |layer| {
            layer.rule(Rule::prefix("/t").key_headers([name("x-tenant")])).unwrap()
        });
        for uri in ["/x/../t/1", "/%74/1", "//t/1", "/x/%2e%2e/t/1", "/t%2F1", "/x\\t", "/%40t/1", "/t%3a"] {
            assert_eq!(second(&app, uri, &[]).await, refused("unclear-path"), "{uri}");
        }
        assert_eq!(second(&app, "/t/1/", &[]).await, hit());
        // One that need not be refused: there are two ways to send one character.
        let rules = |layer: CacheLayer| {
            let layer = layer.rule(Rule::path("/caf%c3%a9").bypass()).unwrap();
            layer.rule(Rule::prefix("/a|b").bypass()).unwrap().rule(Rule::prefix("/@admin").bypass()).unwrap()
        };
        let app = self::app(&Origin::echo(MAX_AGE), rules);
        for uri in ["/caf%C3%A9", "/caf%c3%A9", "/caf\u{e9}", "/a|b", "/a%7Cb/c", "/@admin"] {
            assert_eq!(second(&app, uri, &[]).await, refused("rule"), "{uri}");
        }
        assert_eq!(second(&app, "/%40admin", &[]).await, refused("unclear-path"));
        for uri in ["/caf", "/caf%C3%A8", "/a|c"] {
            assert_eq!(second(&app, uri, &[]).await, hit(), "{uri}");
        }
        // Without rules, they are but paths.
        let app = self::app(&Origin::echo(MAX_AGE), |layer| layer);
        assert_eq!(second(&app, "/%74/1", &[]).await, hit());
    }

    #[test]
    fn that_no_request_can_match_is_refused() {
        let add = |rule| CacheLayer::new(cache(&Clock::manual())).rule(rule).map(drop);
        let error = |rule| add(rule).unwrap_err().to_string();
        assert_eq!(error(Rule::path("/a/{b")), "rule for \"/a/{b\": {b has no closing brace; write {{ for a brace");
        for method in [Method::HEAD, Method::QUERY] {
            let said = format!("must not name {method}, which follows the rule for GET");
            assert!(error(Rule::path("/a").methods([method.clone()])).contains(&said), "{method}");
        }
        assert!(error(Rule::path("/a").methods([])).contains("one method"));
        let lower = Method::from_bytes(b"get").unwrap();
        assert!(error(Rule::path("/a").methods([lower])).contains("in capitals"));
        // What is in force nowhere.
        for rule in [
            Rule::path("/a").ttl(seconds(1)),
            Rule::path("/a").key_headers([name("x-tenant")]),
            Rule::path("/a").bypass(),
            Rule::path("/a").voids(false).max_body(1),
        ] {
            assert!(error(rule.clone().methods([Method::POST, Method::PUT])).contains("is for GET"));
            assert!(add(rule.methods([Method::POST, Method::GET])).is_ok());
        }
        for methods in [[Method::GET], [Method::OPTIONS]] {
            assert!(error(Rule::path("/a").methods(methods).voids(false)).contains("that change something"));
        }
        for cookies in ["", "cur*", "a=b", "a b", "a;b", "é"] {
            assert!(error(Rule::path("/a").key_cookies([cookies])).contains("no cookie has the name"), "{cookies}");
        }
        for cookies in ["", "a=b", "*_id", "a=*"] {
            assert!(error(Rule::path("/a").ignore_cookies([cookies])).contains("no cookie has the name"), "{cookies}");
            assert!(error(Rule::path("/a").bypass_on_cookies([cookies])).contains("no cookie"), "{cookies}");
        }
        assert!(add(Rule::path("/a").ignore_cookies(["*"]).bypass_on_cookies(["__Host-id", "admin_*"])).is_ok());
        for host in ["", "*", "*example", "a b", "http://a", "shop.*", "*.*.example", "a*.example", "shop.example:*"] {
            assert!(error(Rule::path("/a").host(host)).contains("must be a host"), "{host}");
        }
        let twice = Rules::new([Rule::path("/a/{b}").host("x.example"), Rule::path("/a/{c}/").host("X.example:80")]);
        assert_eq!(
            twice.unwrap_err().to_string(),
            "rule for x.example/a/{c}/: there is one for the same requests already, x.example/a/{b}"
        );
    }

    #[test]
    fn that_keeps_nothing_and_says_how_to_keep_it_is_refused() {
        let add = |rule| CacheLayer::new(cache(&Clock::manual())).rule(rule).map(drop);
        for idle in [
            Rule::path("/a").ttl(seconds(1)),
            Rule::path("/a").ttl_cap(seconds(1)),
            Rule::path("/a").negative_ttl(StatusCode::NOT_FOUND, seconds(1)),
            Rule::path("/a").stale_while_revalidate(seconds(1)),
            Rule::path("/a").stale_if_error(seconds(1)),
            Rule::path("/a").soft_timeout(seconds(1)),
            Rule::path("/a").early_refresh(1.0),
            Rule::path("/a").verify(0.5),
            Rule::path("/a").max_body(1),
            Rule::path("/a").inherit(true),
            Rule::path("/a").etags(true),
            Rule::path("/a").encode([]),
            Rule::path("/a").keep_if(|_, _| true),
        ] {
            assert!(add(idle.clone()).is_ok());
            assert!(add(idle.bypass()).unwrap_err().to_string().contains("bypass stores nothing"));
        }
        let of_keys = Rule::path("/a").key_headers([name("x-tenant")]).ignore_query(["b"]).voids(false);
        assert!(add(of_keys.bypass()).is_ok(), "a write needs them");
    }

    #[tokio::test]
    async fn may_be_replaced_and_a_request_is_answered_by_the_rules_of_one_moment() {
        let rules = Rules::new([Rule::path("/a").ttl(seconds(10))]).unwrap();
        let app = app(&Origin::echo(&[]), |layer| layer.rules(rules.clone()));
        app.get("/a", &[]).await;
        assert_eq!(app.get("/a", &[]).await.cache_status().ttl, Some(10));
        rules.replace([Rule::path("/a").ttl(seconds(20)), Rule::path("/b").ttl(seconds(30))]).unwrap();
        assert_eq!(app.get("/a", &[]).await.cache_status().ttl, Some(10), "it was stored before");
        for (uri, ttl) in [("/a?x", 20), ("/b", 30)] {
            app.get(uri, &[]).await;
            assert_eq!(app.get(uri, &[]).await.cache_status().ttl, Some(ttl));
        }
        assert!(rules.replace([Rule::path("/c").ttl(seconds(5)), Rule::path("c")]).is_err());
        app.get("/a?y", &[]).await;
        assert_eq!(app.get("/a?y", &[]).await.cache_status().ttl, Some(20), "those before count");
        rules.replace([]).unwrap();
        assert_eq!(second(&app, "/a?z", &[]).await.1.as_deref(), Some("remembered/no-freshness"));
    }

    /// Two settings of one rule, which readers that see both halves of a change would find apart.
    #[test]
    fn is_never_seen_in_part() {
        let of = |number: u64| {
            let even = number.is_multiple_of(2);
            [Rule::path("/a").ttl(seconds(10 + number)), Rule::path("/b").ttl(seconds(10 + number)).etags(even)]
        };
        let rules = Rules::new(of(0)).unwrap();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = std::sync::atomic::AtomicBool::new(false);
        let seen = Mutex::new(std::collections::BTreeSet::new());
        std::thread::scope(|scope| {
            for reader in 0..2 {
                let (rules, ended, seen) = (rules.clone(), &ended, &seen);
                scope.spawn(move || {
                    runtime().block_on(async {
                        let app = app(&Origin::echo(&[]), |layer| layer.rules(rules));
                        let mut asked = 0;
                        while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                            asked += 1;
                            let uri = format!("/b?{reader}.{asked}");
                            app.get(&uri, &[]).await;
                            let response = app.get(&uri, &[]).await;
                            let ttl = response.cache_status().ttl.expect("it is stored");
                            assert_eq!(
                                response.header("etag").is_some(),
                                ttl % 2 == 0,
                                "{uri}: one rule's lifetime, another's tags"
                            );
                            seen.lock().unwrap().insert(ttl);
                        }
                    });
                });
            }
            for number in 1..400 {
                rules.replace(of(number)).unwrap();
                std::thread::sleep(Duration::from_micros(500));
            }
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(seen.lock().unwrap().len() > 5, "few changes were seen");
    }
}

mod a_hint {
    use super::*;

    async fn ask(app: &App, uri: &str, hints: Hints) -> Response {
        let mut request = request(Method::GET, uri, &[]);
        hints.add_to(request.extensions_mut());
        app.ask(request).await
    }

    #[tokio::test]
    async fn sends_its_request_past_the_cache() {
        let app = app(&Origin::echo(MAX_AGE), |layer| layer);
        let stored = app.get("/", &[]).await.call();
        let response = ask(&app, "/", Hints::new().bypass()).await;
        assert_eq!(said(&response), ("BYPASS", Some("hint".to_owned())));
        assert_eq!(app.get("/", &[]).await.call(), stored);
    }

    #[tokio::test]
    async fn has_what_is_stored_loaded_anew() {
        let app = app(&Origin::echo(MAX_AGE), |layer| layer);
        let stored = app.get("/", &[]).await.call();
        let refreshed = ask(&app, "/", Hints::new().refresh()).await;
        assert_ne!(refreshed.call(), stored);
        assert_eq!(refreshed.cache_status().fwd.as_deref(), Some("request"));
        assert_eq!(app.get("/", &[]).await.call(), refreshed.call());
    }

    #[tokio::test]
    async fn tells_tenants_apart() {
        let app = app(&Origin::echo(MAX_AGE), |layer| layer);
        let tenant = |tenant: &str| Hints::new().key_part(tenant);
        let one = ask(&app, "/", tenant("one")).await.call();
        let two = ask(&app, "/", tenant("two")).await.call();
        let nobody = app.get("/", &[]).await.call();
        for (hints, call) in [(tenant("one"), one), (tenant("two"), two), (Hints::new(), nobody)] {
            let response = ask(&app, "/", hints).await;
            assert_eq!((response.x_cache(), response.call()), ("HIT", call));
        }
        assert_eq!(ask(&app, "/", tenant("o").key_part("ne")).await.x_cache(), "MISS");
        // A write of a tenant's.
        let mut write = request(Method::PUT, "/", &[]);
        tenant("one").add_to(write.extensions_mut());
        app.ask(write).await;
        assert_eq!(ask(&app, "/", tenant("two")).await.x_cache(), "HIT");
        assert_eq!(ask(&app, "/", tenant("one")).await.x_cache(), "MISS");
        assert_eq!(app.cache.delete_pattern("*/#two").counted().await.unwrap(), 1);
        assert_eq!(ask(&app, "/", tenant("two")).await.x_cache(), "MISS");
    }

    #[tokio::test]
    async fn keeps_nothing_from_an_invalidation_of_its_uri() {
        let app = app(&Origin::echo(&[("cache-control", "max-age=60, stale-while-revalidate=60")]), |layer| layer);
        let tenants = || [Hints::new().key_part("one"), Hints::new().key_part("two"), Hints::new()];
        let uri = http::Uri::from_static("http://shop.example/prices");
        for (soft, expected) in [(false, "MISS"), (true, "STALE")] {
            for hints in tenants() {
                ask(&app, "/prices", hints.clone()).await;
                assert_eq!(ask(&app, "/prices", hints).await.x_cache(), "HIT");
            }
            match soft {
                true => assert!(app.layer.soft_invalidate_uri(&uri).await.unwrap()),
                false => assert!(app.layer.invalidate_uri(&uri).await.unwrap()),
            }
            for hints in tenants() {
                assert_eq!(ask(&app, "/prices", hints.clone()).await.x_cache(), expected, "{hints:?}");
            }
        }
    }

    #[tokio::test]
    async fn that_adds_to_the_key_has_no_response_to_post_kept() {
        let fields = &[("cache-control", "max-age=60"), ("content-location", "/prices")];
        let app = app(&Origin::echo(fields), |layer| layer.profile(Profile::Strict));
        let hints = || Hints::new().key_part("one");
        let mut post = request(Method::POST, "/prices", &[]);
        hints().add_to(post.extensions_mut());
        app.ask(post).await;
        for x_cache in ["MISS", "HIT"] {
            assert_eq!(ask(&app, "/prices", hints()).await.x_cache(), x_cache);
        }
        assert!(app.layer.invalidate_uri(&http::Uri::from_static("http://shop.example/prices")).await.unwrap());
        assert_eq!(ask(&app, "/prices", hints()).await.x_cache(), "MISS");
    }

    #[tokio::test]
    async fn states_a_lifetime_in_place_of_a_rules() {
        let app = app(&Origin::echo(&[]), |layer| layer.rule(Rule::any_path().ttl(seconds(60))).unwrap());
        ask(&app, "/", Hints::new().ttl(seconds(10))).await;
        assert_eq!(app.get("/", &[]).await.cache_status().ttl, Some(10));
        let none = ask(&app, "/none", Hints::new().ttl(Duration::ZERO)).await;
        assert_eq!(none.cache_status().detail.as_deref(), Some("rule"));
    }

    /// A refresh that could not be stored is followed by one that its request waits for, unless a hint is why.
    #[tokio::test]
    async fn leaves_the_next_refresh_in_the_background() {
        for (hints, waits) in [(Hints::new().ttl(Duration::ZERO), false), (Hints::new(), true)] {
            let clock = Clock::manual();
            let origin = Origin::new(move |call, request: Request<Body>| {
                let fields: Fields = match call {
                    1 => &[("cache-control", "max-age=5, stale-while-revalidate=600")],
                    2 if waits => &[("cache-control", "no-store")],
                    _ => &[],
                };
                async move { Ok(echo(call, &request, fields)) }
            });
            let app = App::new(cache(&clock), &origin, |layer| layer.ttl(seconds(60)));
            let stored = app.get("/", &[]).await.call();
            clock.advance(seconds(6));
            assert_eq!(ask(&app, "/", hints).await.call(), stored);
            app.settled().await;
            assert_eq!(origin.calls(), 2, "it was refreshed, and that was not stored");
            assert_eq!(app.get("/", &[]).await.call() != stored, waits);
        }
    }
}

/// However it is set, and whatever else would keep a response: its stale use, or its validation.
mod a_lifetime_of_zero {
    use super::*;

    type Set = fn(CacheLayer) -> CacheLayer;

    const NONE: Duration = Duration::ZERO;
    const MISSING: StatusCode = StatusCode::NOT_FOUND;

    const KEEPS: [(&str, Set); 6] = [
        ("nothing", |layer| layer),
        ("stale_while_revalidate", |layer| layer.stale_while_revalidate(seconds(60))),
        ("stale_if_error", |layer| layer.stale_if_error(seconds(60)).soft_timeout(seconds(1))),
        ("both", |layer| layer.stale_while_revalidate(seconds(60)).stale_if_error(seconds(60))),
        ("strict", |layer| layer.profile(Profile::Strict)),
        ("etags", |layer| layer.etags(true).stale_while_revalidate(seconds(60))),
    ];

    const SAYS: [(&str, Fields); 3] = [
        ("nothing", &[]),
        ("a validator", &[("etag", "\"a\"")]),
        ("a window", &[("cache-control", "stale-while-revalidate=60, stale-if-error=60")]),
    ];

    fn rule() -> Rule {
        Rule::path("/zero")
    }

    /// Each with the status that it is for.
    const WAYS: [(&str, StatusCode, Set); 9] = [
        ("ttl", StatusCode::OK, |layer| layer.ttl(NONE)),
        ("ttl_for_path", StatusCode::OK, |layer| layer.ttl(seconds(60)).ttl_for_path("/zero", NONE)),
        ("negative_ttl", MISSING, |layer| layer.ttl(seconds(60)).negative_ttl(MISSING, NONE)),
        ("ttl_cap", StatusCode::OK, |layer| layer.ttl(seconds(60)).ttl_cap(NONE)),
        ("a rule's ttl", StatusCode::OK, |layer| layer.ttl(seconds(60)).rule(rule().ttl(NONE)).unwrap()),
        ("a rule's ttl and windows", StatusCode::OK, |layer| {
            let rule = rule().ttl(NONE).stale_while_revalidate(seconds(60)).stale_if_error(seconds(60));
            layer.rule(rule).unwrap()
        }),
        ("a rule's negative_ttl", MISSING, |layer| {
            let layer = layer.negative_ttl(MISSING, seconds(60));
            layer.rule(rule().negative_ttl(MISSING, NONE).stale_while_revalidate(seconds(60))).unwrap()
        }),
        ("a rule's ttl_cap", StatusCode::OK, |layer| layer.ttl(seconds(60)).rule(rule().ttl_cap(NONE)).unwrap()),
        ("a rule's ttl, under jitter", StatusCode::OK, |layer| {
            layer.ttl(seconds(60)).jitter(100).rule(rule().ttl(NONE)).unwrap()
        }),
    ];

    fn origin(status: StatusCode, fields: Fields) -> Origin {
        Origin::new(move |call, request: Request<Body>| async move {
            let mut response = echo(call, &request, fields);
            *response.status_mut() = status;
            Ok(response)
        })
    }

    #[tokio::test]
    async fn keeps_nothing() {
        for (way, status, zero) in WAYS {
            for ((kept, keep), (says, fields)) in KEEPS.into_iter().flat_map(|keep| SAYS.map(|says| (keep, says))) {
                let app = app(&origin(status, fields), |layer| zero(keep(layer)));
                let first = app.get("/zero", &[]).await;
                assert_eq!(said(&first), ("MISS", Some("rule".to_owned())), "{way}, {kept}, {says}");
                let next = app.get("/zero", &[]).await;
                assert_ne!(next.call(), first.call(), "{way}, {kept}, {says}");
            }
        }
    }

    #[tokio::test]
    async fn of_a_cap_is_one_for_what_states_another() {
        let app = app(&Origin::echo(MAX_AGE), |layer| layer.ttl_cap(NONE).stale_while_revalidate(seconds(60)));
        assert_eq!(second(&app, "/", &[]).await, refused("remembered/rule"));
    }

    /// By hints for the request of one client, whose response no other client may get.
    #[tokio::test]
    async fn for_one_request_keeps_its_response_from_all_others() {
        for ((kept, keep), (says, fields)) in KEEPS.into_iter().flat_map(|keep| SAYS.map(|says| (keep, says))) {
            let app = app(&Origin::echo(fields), |layer| keep(layer).ttl(seconds(60)));
            let mut alice = request(Method::GET, "/", &[("x-user", "alice")]);
            Hints::new().ttl(NONE).add_to(alice.extensions_mut());
            let alice = app.ask(alice).await;
            assert_eq!(said(&alice), ("MISS", Some("rule".to_owned())), "{kept}, {says}");
            let bob = app.get("/", &[("x-user", "bob")]).await;
            assert_eq!(bob.x_cache(), "MISS", "{kept}, {says}");
            assert_ne!(bob.call(), alice.call(), "{kept}, {says}");
        }
    }

    /// What has to be validated each time is never used without being asked about, and says so itself.
    #[tokio::test]
    async fn is_not_for_what_says_no_cache() {
        let fields = &[("cache-control", "no-cache"), ("etag", "\"a\"")];
        let app = app(&Origin::echo(fields), |layer| layer.ttl(NONE).stale_while_revalidate(seconds(60)));
        app.get("/", &[]).await;
        assert_eq!(app.get("/", &[]).await.cache_status().fwd.as_deref(), Some("stale"));
    }
}

/// In a field that is named as one of credentials, such as `X-Api-Key`.
mod credentials {
    use super::*;

    const KEY: Fields = &[("x-api-key", "secret")];

    fn keyed(layer: CacheLayer) -> CacheLayer {
        layer.ttl(seconds(60)).credentials([name("x-api-key")])
    }

    #[tokio::test]
    async fn keep_a_response_for_those_who_have_them() {
        let origin = Origin::echo(&[]);
        for set in [keyed, |layer| keyed(layer).profile(Profile::Safe), |layer| keyed(layer).profile(Profile::Strict)] {
            let app = app(&origin, set);
            let with_key = app.get("/", KEY).await;
            assert_eq!(said(&with_key), ("MISS", Some("authorization".to_owned())));
            let without = app.get("/", &[]).await;
            assert_ne!((without.x_cache(), without.call()), ("HIT", with_key.call()));
        }
        let unnamed = app(&origin, |layer| layer.ttl(seconds(60)));
        assert_eq!(second(&unnamed, "/", KEY).await, hit());
    }

    #[tokio::test]
    async fn share_what_the_application_says_is_for_all() {
        for says in ["public, max-age=60", "s-maxage=60", "max-age=60, must-revalidate"] {
            let origin = Origin::new(move |call, request: Request<Body>| async move {
                Ok(echo(call, &request, &[("cache-control", says)]))
            });
            let app = app(&origin, keyed);
            app.get("/", KEY).await;
            assert_eq!(app.get("/", &[]).await.x_cache(), "HIT", "{says}");
        }
    }

    #[tokio::test]
    async fn are_personal_in_all_else() {
        let sharing = |layer: CacheLayer| keyed(layer).share_failures(true).failure_backoff(seconds(60), seconds(60));
        let failing = Origin::new(|call, request: Request<Body>| async move {
            let mut response = echo(call, &request, &[]);
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            Ok(response)
        });
        let app = app(&failing, sharing);
        app.get("/", KEY).await;
        assert_eq!(app.get("/", &[]).await.call(), 2, "a failure of theirs is theirs");

        let public: Fields = &[("cache-control", "public, max-age=60"), ("no-vary-search", "params=(\"utm\")")];
        let origin = Origin::echo(public);
        let app = self::app(&origin, |layer| keyed(layer).no_vary_search(NoVarySearch::new()).verify(1.0));
        app.get("/s?utm=1", KEY).await;
        assert_eq!(app.get("/s?utm=2", &[]).await.x_cache(), "MISS", "they don't speak for other queries");
        app.get("/t?utm=1", &[]).await;
        assert_eq!(app.get("/t?utm=2", KEY).await.x_cache(), "MISS", "nor get what is of another query");
        assert_eq!(app.get("/t?utm=1", KEY).await.x_cache(), "HIT");
        assert_eq!(app.cache.counts().verified, 0);
        let part = app.get("/r", &[KEY[0], ("range", "bytes=0-0")]).await;
        assert_eq!(part.cache_status().detail.as_deref(), Some("range"), "it is the application's");
    }

    #[tokio::test]
    async fn are_those_of_a_private_cache_as_well() {
        let origin = Origin::echo(MAX_AGE);
        let layer = PrivateCacheLayer::in_memory(1 << 20).with(|settings| settings.credentials([name("x-api-key")]));
        let stack = tower::ServiceBuilder::new().layer(layer).service(origin.clone());
        for (key, calls) in [("one", 1), ("two", 2), ("one", 2)] {
            tests::ask(&stack, request(Method::GET, "/", &[("x-api-key", key)])).await.unwrap();
            assert_eq!(origin.calls(), calls);
        }
    }
}

/// What is remembered of responses that could not be stored, by settings that are not those of the next request.
mod what_is_remembered {
    use super::*;

    over_each_store!(
        is_not_by_the_hints_of_one_request,
        does_not_bind_a_request_with_hints,
        is_not_by_rules_that_were_replaced,
        of_ranges_is_not_by_other_settings_either,
        of_a_load_that_a_change_of_rules_overtook_is_nothing,
        of_one_variant_is_nothing_of_the_others,
        of_a_stale_variant_keeps_that_from_being_used,
    );

    async fn over(backend: &Backend, origin: &Origin, set: impl FnOnce(CacheLayer) -> CacheLayer) -> App {
        App::new(backend.cache().await.build(), origin, set)
    }

    async fn hinted(app: &App, uri: &str, hints: Hints) -> Response {
        let mut request = request(Method::GET, uri, &[]);
        hints.add_to(request.extensions_mut());
        app.ask(request).await
    }

    async fn is_not_by_the_hints_of_one_request(backend: &Backend) {
        let origin = Origin::echo(&[]);
        let app = over(backend, &origin, |layer| layer.ttl(seconds(60))).await;
        let other = over(backend, &origin, |layer| layer.ttl(seconds(60))).await;
        for (uri, asked) in [("/here", &app), ("/elsewhere", &other)] {
            let refused = hinted(&app, uri, Hints::new().ttl(Duration::ZERO)).await;
            assert_eq!(said(&refused), ("MISS", Some("rule".to_owned())));
            assert_eq!(second(asked, uri, &[]).await, hit(), "{uri}");
        }
    }

    async fn does_not_bind_a_request_with_hints(backend: &Backend) {
        // The first answer for a path says nothing of itself, and those after it do.
        let seen = std::sync::Arc::new(Mutex::new(std::collections::HashSet::new()));
        let origin = Origin::new(move |call, request: Request<Body>| {
            let is_first = seen.lock().unwrap().insert(request.uri().path().to_owned());
            async move { Ok(echo(call, &request, if is_first { &[] } else { MAX_AGE })) }
        });
        let (app, other) = (over(backend, &origin, |layer| layer).await, over(backend, &origin, |layer| layer).await);
        for hints in [Hints::new().refresh(), Hints::new().ttl(seconds(60))] {
            for (here, asked) in [(true, &app), (false, &other)] {
                let uri = format!("/{here}/{}", hints == Hints::new().refresh());
                app.get(&uri, &[]).await;
                assert_eq!(said(&app.get(&uri, &[]).await), ("BYPASS", Some("remembered/no-freshness".to_owned())));
                let loaded = hinted(asked, &uri, hints.clone()).await;
                assert_eq!(said(&loaded), ("MISS", None), "{uri} {hints:?}");
                assert_eq!(asked.get(&uri, &[]).await.call(), loaded.call(), "{uri} {hints:?}");
            }
        }
    }

    /// In this process, and what another process has told Redis meanwhile.
    async fn is_not_by_rules_that_were_replaced(backend: &Backend) {
        let origin = Origin::echo(&[]);
        let none = || Rules::new([]).unwrap();
        for (at, (before, reason)) in [
            (none(), "no-freshness"),
            (Rules::new([Rule::prefix("/").ttl(Duration::ZERO)]).unwrap(), "rule"),
            (Rules::new([Rule::prefix("/").ttl(seconds(60)).max_body(1)]).unwrap(), "body-too-large"),
        ]
        .into_iter()
        .enumerate()
        {
            let app = over(backend, &origin, |layer| layer.rules(before.clone())).await.unexplained();
            let (uri, later) = (format!("/{at}"), format!("/{at}/later"));
            assert_eq!(second(&app, &uri, &[]).await, refused(&format!("remembered/{reason}")));
            let sluggish = over(backend, &origin, |layer| layer.rules(none())).await;
            before.replace([Rule::prefix("/").ttl(seconds(60))]).unwrap();
            assert_eq!(second(&app, &uri, &[]).await, hit(), "{reason}");
            assert_eq!(second(&sluggish, &later, &[]).await, refused("remembered/no-freshness"));
            assert_eq!(second(&app, &later, &[]).await, hit(), "{reason}");
        }
    }

    async fn of_ranges_is_not_by_other_settings_either(backend: &Backend) {
        let origin = Origin::echo(&[("accept-ranges", "bytes")]);
        let rules = Rules::new([]).unwrap();
        let app = over(backend, &origin, |layer| layer.rules(rules.clone())).await.unexplained();
        const PART: &[(&str, &str)] = &[("range", "bytes=0-0")];
        app.get("/a", &[]).await;
        assert_eq!(app.get("/a", PART).await.x_cache(), "BYPASS");
        rules.replace([Rule::prefix("/").ttl(seconds(60))]).unwrap();
        let part = app.get("/a", PART).await;
        assert_eq!((part.status, part.x_cache()), (StatusCode::PARTIAL_CONTENT, "MISS"));
        // Nor is that of one request.
        hinted(&app, "/b", Hints::new().ttl(Duration::ZERO)).await;
        let part = app.get("/b", PART).await;
        assert_eq!((part.status, part.x_cache()), (StatusCode::PARTIAL_CONTENT, "MISS"));
    }

    async fn of_a_load_that_a_change_of_rules_overtook_is_nothing(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::gated_echo(&gate, &[]);
        let rules = Rules::new([]).unwrap();
        let app = over(backend, &origin, |layer| layer.rules(rules.clone())).await.unexplained();
        let held = tokio::spawn({
            let app = app.clone();
            async move { app.get("/held", &[]).await }
        });
        wait_until("it is asked", async || origin.calls() == 1).await;
        rules.replace([Rule::prefix("/").ttl(seconds(60))]).unwrap();
        // The first request by the new rules forgets what is remembered by the former ones.
        let other = tokio::spawn({
            let app = app.clone();
            async move { app.get("/other", &[]).await }
        });
        wait_until("the other one is asked, too", async || origin.calls() == 2).await;
        gate.open();
        assert_eq!(held.await.unwrap().cache_status().detail.as_deref(), Some("no-freshness"));
        other.await.unwrap();
        assert_eq!(second(&app, "/held", &[]).await, hit());
    }

    /// A site that answers part of a page to who asks for a part, and keeps only whole pages.
    async fn of_one_variant_is_nothing_of_the_others(backend: &Backend) {
        const PART: &[(&str, &str)] = &[("x-part", "1")];
        let origin = Origin::new(|call, request: Request<Body>| async move {
            let is_part = request.headers().contains_key("x-part");
            let kept = if is_part { "no-store" } else { "max-age=60, stale-while-revalidate=60" };
            let mut response = echo(call, &request, &[("vary", "x-part")]);
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(kept));
            Ok(response)
        });
        let clock = Clock::manual();
        let process = async || {
            let cache = backend.cache().await.clock(clock.clone()).build();
            App::new(cache, &origin, |layer| layer)
        };
        let (here, there) = (process().await, process().await);
        let page = here.get("/", &[]).await.call();
        let remembered = Some("remembered/no-store".to_owned());
        assert_eq!(said(&here.get("/", PART).await), ("MISS", Some("no-store".to_owned())));
        assert_eq!(here.get("/", &[]).await.call(), page);
        let part = here.get("/", PART).await;
        assert_eq!((part.call(), part.cache_status().detail), (3, remembered.clone()), "it is loaded by nobody else");
        // That process has it from the store, which has no reasons.
        assert_eq!(there.get("/", PART).await.cache_status().detail.as_deref(), Some("remembered"));
        assert_eq!(there.get("/", &[]).await.call(), page);
        // What may be used stale is, and is refreshed.
        clock.advance(seconds(61));
        for app in [&here, &there] {
            let why = said(&app.get("/", PART).await).1.unwrap();
            assert!(why.starts_with("remembered"), "{why}");
        }
        let stale = here.get("/", &[]).await;
        assert_eq!((stale.x_cache(), stale.call()), ("STALE", page));
        let fresh = here.get("/", &[]).await;
        assert_eq!((fresh.x_cache(), fresh.call() > page), ("HIT", true));
        // Of what is not known to vary, no request waits for another.
        here.get("/other", PART).await;
        assert_eq!(said(&here.get("/other", &[]).await), ("BYPASS", remembered));
    }

    /// What the application answers now is not for others, and what it answered before is of less use than that.
    async fn of_a_stale_variant_keeps_that_from_being_used(backend: &Backend) {
        const ENGLISH: &[(&str, &str)] = &[("accept-language", "en")];
        let is_secret = Arc::new(AtomicBool::new(false));
        let secret = is_secret.clone();
        let origin = Origin::new(move |call, request: Request<Body>| {
            let mut response = echo(call, &request, &[("vary", "accept-language")]);
            let kept =
                if secret.load(Ordering::SeqCst) { "no-store" } else { "max-age=60, stale-while-revalidate=600" };
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(kept));
            async move { Ok(response) }
        });
        let clock = Clock::manual();
        let process = async || {
            let cache = backend.cache().await.clock(clock.clone()).build();
            App::new(cache, &origin, |layer| layer)
        };
        let (here, there) = (process().await, process().await);
        here.get("/", ENGLISH).await;
        assert!(there.get("/", ENGLISH).await.cache_status().hit);
        clock.advance(seconds(61));
        is_secret.store(true, Ordering::SeqCst);
        assert_eq!(here.get("/", ENGLISH).await.x_cache(), "STALE");
        here.settled().await;
        let calls = origin.calls();
        let answer = here.get("/", ENGLISH).await;
        assert_eq!(said(&answer), ("MISS", Some("remembered/no-store".to_owned())));
        assert_eq!(answer.call(), calls + 1);
        // The other process hears of it when it wants to refresh.
        assert_eq!(there.get("/", ENGLISH).await.x_cache(), "STALE");
        there.settled().await;
        let answer = there.get("/", ENGLISH).await;
        assert_eq!((answer.x_cache(), answer.call()), ("MISS", calls + 2));
    }
}

/// Terms that have no end.
mod the_longest_life {
    use super::*;

    over_each_store!(is_a_fresh_one, has_times_after_it);

    /// The settings for paths that begin with these, and what answers them.
    async fn app(backend: &Backend) -> (App, Origin) {
        let origin = Origin::new(|call, request: Request<Body>| async move {
            let mut response = echo(call, &request, &[]);
            match request.uri().path() {
                "/missing" => *response.status_mut() = StatusCode::NOT_FOUND,
                "/said" => {
                    response.extensions_mut().insert(Freshness::of(Duration::MAX));
                }
                "/said/in/full" => {
                    let all = Freshness::of(Duration::MAX).stale_while_revalidate(Duration::MAX);
                    response.extensions_mut().insert(all.stale_if_error(Duration::MAX));
                }
                _ => {}
            }
            Ok(response)
        });
        let set = |layer: CacheLayer| {
            let layer = layer.ttl(Duration::MAX).negative_ttl(StatusCode::NOT_FOUND, Duration::MAX);
            let rule = Rule::prefix("/ruled").ttl(Duration::MAX).stale_if_error(Duration::MAX);
            layer.ttl_for_path("/path", Duration::MAX).rule(rule).unwrap()
        };
        (App::new(backend.cache().await.build(), &origin, set), origin)
    }

    async fn is_a_fresh_one(backend: &Backend) {
        let (app, origin) = app(backend).await;
        let uris = ["/", "/path/a", "/ruled", "/missing", "/said", "/said/in/full"];
        for (calls, uri) in (1..).zip(uris) {
            for _ in 0..2 {
                app.get(uri, &[]).await;
            }
            let hit = app.get(uri, &[]).await;
            assert_eq!((hit.x_cache(), origin.calls()), ("HIT", calls), "{uri}");
            assert!(hit.cache_status().ttl > Some(i64::from(u32::MAX / 4)), "{uri} {hit:?}");
        }
        let hinted = || {
            let mut request = request(Method::GET, "/hinted", &[]);
            let hints = Hints::new().ttl(Duration::MAX);
            hints.add_to(request.extensions_mut());
            request
        };
        app.ask(hinted()).await;
        assert_eq!(app.ask(hinted()).await.x_cache(), "HIT");
    }

    /// A response that is said to be stale may be used for as long as it could at its end.
    async fn has_times_after_it(backend: &Backend) {
        let set = |layer: CacheLayer| layer.ttl(Duration::MAX).stale_while_revalidate(seconds(60));
        let app = App::new(backend.cache().await.build(), &Origin::echo(&[]), set);
        let uri: Uri = "http://shop.example/".parse().unwrap();
        assert_eq!(second(&app, "/", &[]).await, hit());
        app.cache.soft_invalidate(&app.layer.key(&uri).unwrap()).await.unwrap();
        wait_until("it is stale", async || app.get("/", &[]).await.x_cache() != "HIT").await;
        assert_eq!(app.get("/", &[]).await.call(), 2, "it was used, and refreshed");
    }
}

/// Writes that go through other rules than those by which something was stored.
mod a_write_by_other_rules {
    use super::*;

    over_each_store!(voids_what_another_process_keeps_by_its_own, voids_what_was_kept_by_those_before);

    const TENANT: &[(&str, &str)] = &[("x-tenant", "one")];

    fn keyed() -> [Rule; 1] {
        [Rule::path("/orders").ttl(seconds(60)).key_headers([name("x-tenant")])]
    }

    fn plain() -> [Rule; 1] {
        [Rule::path("/orders").ttl(seconds(60))]
    }

    async fn voids_what_another_process_keeps_by_its_own(backend: &Backend) {
        let origin = Origin::echo(&[]);
        let process = async |rules: [Rule; 1]| {
            let rules = Rules::new(rules).unwrap();
            App::new(backend.cache().await.build(), &origin, |layer| layer.rules(rules)).unexplained()
        };
        let (old, new) = (process(keyed()).await, process(plain()).await);
        for (keeps, writes) in [(&old, &new), (&new, &old)] {
            for fields in [TENANT, &[]] {
                assert_eq!(second(keeps, "/orders", fields).await, hit());
                writes.send(Method::PUT, "/orders", fields).await;
                wait_until("it is void", async || keeps.get("/orders", fields).await.x_cache() == "MISS").await;
            }
        }
    }

    async fn voids_what_was_kept_by_those_before(backend: &Backend) {
        let rules = Rules::new(keyed()).unwrap();
        let app = App::new(backend.cache().await.build(), &Origin::echo(&[]), |layer| layer.rules(rules.clone()));
        let app = app.unexplained();
        for (before, after) in [(keyed(), plain()), (plain(), keyed())] {
            rules.replace(before.clone()).unwrap();
            assert_eq!(second(&app, "/orders", TENANT).await, hit());
            rules.replace(after).unwrap();
            app.send(Method::PUT, "/orders", &[]).await;
            rules.replace(before).unwrap();
            assert_eq!(app.get("/orders", TENANT).await.x_cache(), "MISS");
        }
    }
}

/// Who has the last word on a response that says nothing of itself, for every combination.
mod precedence {
    use super::*;

    /// What a request, the rule that applies to it, and the layer say.
    #[derive(Clone, Copy, Debug)]
    struct Said {
        layer: Option<u64>,
        of_path: Option<u64>,
        /// `None` without a rule; a rule may leave its lifetime open.
        #[expect(clippy::option_option, reason = "the three cases differ")]
        rule: Option<Option<u64>>,
        hint: Option<u64>,
        negative: (Option<u64>, Option<u64>),
        bypass: Option<&'static str>,
        status: StatusCode,
    }

    impl Said {
        /// Takes the documentation literally.
        fn foretold(&self) -> Result<u64, &'static str> {
            if let Some(reason) = self.bypass {
                return Err(reason);
            }
            // The rule's lifetime leaves the layer's lifetimes of paths without effect, and the hint's leaves both.
            let ttl = self.hint.or(self.rule.flatten()).or(self.of_path).or(self.layer);
            let (layer, rule) = self.negative;
            match (self.status == StatusCode::OK, ttl, rule.filter(|_| self.rule.is_some()).or(layer)) {
                (true, Some(0), _) | (false, _, Some(0)) => Err("rule"),
                (true, Some(ttl), _) | (false, _, Some(ttl)) => Ok(ttl),
                (true, None, _) | (false, None, None) => Err("no-freshness"),
                (false, Some(_), None) => Err("status"),
            }
        }

        async fn seen(&self) -> Result<u64, String> {
            let Self { layer, of_path, rule, hint, negative, bypass, status } = *self;
            let origin = Origin::new(move |call, request: Request<Body>| async move {
                let mut response = echo(call, &request, &[]);
                *response.status_mut() = status;
                Ok(response)
            });
            let set = |mut settings: CacheLayer| {
                settings = settings.enabled(bypass != Some("off"));
                settings = layer.map_or(settings.clone(), |ttl| settings.ttl(seconds(ttl)));
                settings = of_path.map_or(settings.clone(), |ttl| settings.ttl_for_path("/a", seconds(ttl)));
                settings = negative.0.map_or(settings.clone(), |ttl| settings.negative_ttl(status, seconds(ttl)));
                let Some(ttl) = rule else { return settings };
                let rule = ttl.map_or(Rule::path("/a"), |ttl| Rule::path("/a").ttl(seconds(ttl)));
                let rule = negative.1.map_or(rule.clone(), |ttl| rule.negative_ttl(status, seconds(ttl)));
                // A rule that bypasses says nothing of lifetimes.
                settings.rule(if bypass == Some("rule") { Rule::path("/a").bypass() } else { rule }).unwrap()
            };
            let app = app(&origin, set);
            let ask = async || {
                let hints = hint.map_or_else(Hints::new, |ttl| Hints::new().ttl(seconds(ttl)));
                let hints = if bypass == Some("hint") { hints.bypass() } else { hints };
                let mut request = request(Method::GET, "/a", &[]);
                hints.add_to(request.extensions_mut());
                app.ask(request).await
            };
            let first = ask().await.cache_status();
            match (first.detail, ask().await.cache_status().ttl) {
                (None, Some(ttl)) => Ok(u64::try_from(ttl).unwrap()),
                (detail, _) => Err(detail.unwrap_or_default()),
            }
        }
    }

    #[tokio::test]
    async fn is_as_it_is_written() {
        let ttls = |number: u64| [None, Some(0), Some(number)];
        let mut cases = Vec::new();
        for (layer, of_path) in ttls(10).into_iter().flat_map(|layer| ttls(20).map(|of_path| (layer, of_path))) {
            for rule in [None, Some(None), Some(Some(0)), Some(Some(30))] {
                for (hint, bypass) in ttls(40)
                    .into_iter()
                    .flat_map(|hint| [None, Some("off"), Some("rule"), Some("hint")].map(|by| (hint, by)))
                {
                    if bypass == Some("rule") && rule.is_none() {
                        continue;
                    }
                    let ok =
                        Said { layer, of_path, rule, hint, negative: (None, None), bypass, status: StatusCode::OK };
                    cases.push(ok);
                    if of_path.is_none() {
                        cases.extend([None, Some(0), Some(50)].into_iter().flat_map(|of_layer| {
                            ttls(60).map(|of_rule| Said {
                                negative: (of_layer, of_rule),
                                status: StatusCode::NOT_FOUND,
                                ..ok
                            })
                        }));
                    }
                }
            }
        }
        assert!(cases.len() > 1000, "{}", cases.len());
        for case in cases {
            assert_eq!(case.seen().await, case.foretold().map_err(str::to_owned), "{case:?}");
        }
    }
}

mod cookies {
    use super::*;

    const ANALYTICS: &[(&str, &str)] = &[("cookie", "_ga=GA1.1; _ga_X=2"), ("cookie", "consent=yes")];

    #[tokio::test]
    async fn that_are_ignored_make_no_difference() {
        const VARIED: Fields = &[("vary", "cookie")];
        for fields in [&[][..], VARIED] {
            let app = app(&Origin::echo(fields), |layer| layer.ttl(seconds(60)).ignore_cookies(["_ga*", "consent"]));
            let first = app.get("/", ANALYTICS).await;
            assert_eq!(first.cache_status().detail, None);
            assert!(first.text().contains("_ga=GA1.1"), "the application still sees them: {first:?}");
            for cookies in [&[][..], &[("cookie", "_ga=3")], ANALYTICS] {
                assert_eq!(app.get("/", cookies).await.call(), first.call(), "{cookies:?}");
            }
            let session = [("cookie", "_ga=3; session=1")];
            let expected = if fields == VARIED { "MISS" } else { "HIT" };
            assert_eq!(app.get("/", &session).await.x_cache(), expected);
            assert_eq!(app.get("/other", &session).await.cache_status().detail.as_deref(), Some("cookie"));
        }
    }

    /// Many applications know no cookie of a line that isn't ASCII: the answer to such a request is not that of its cookies.
    #[tokio::test]
    async fn of_a_line_that_an_application_may_ignore_keep_a_response_from_being_stored_by_a_rule() {
        let app = app(&Origin::echo(&[]), |layer| {
            let layer = layer.rule(Rule::any_path().key_cookies(["currency"]).ignore_cookies(["_ga"])).unwrap();
            layer.ttl(seconds(60))
        });
        let mut odd = request(Method::GET, "/", &[]);
        odd.headers_mut().insert(COOKIE, HeaderValue::from_bytes(b"_ga=\xe9; currency=EUR").unwrap());
        assert_eq!(app.ask(odd).await.cache_status().detail.as_deref(), Some("cookie"));
        assert_eq!(second(&app, "/", &[("cookie", "_ga=e; currency=EUR")]).await, hit());
    }

    #[tokio::test]
    async fn that_bypass_are_named_or_begin_alike() {
        let app = app(&Origin::echo(MAX_AGE), |layer| layer.bypass_on_cookies(["session", "admin_*"]));
        for cookie in ["session=1", "a=b; admin_x=1"] {
            assert_eq!(second(&app, "/", &[("cookie", cookie)]).await, refused("cookie"));
        }
        assert_eq!(second(&app, "/", &[("cookie", "sessions=1")]).await, hit());
    }

    /// An analytics cookie is on each request of a browser's, and makes no range of it personal.
    #[tokio::test]
    async fn that_are_ignored_keep_no_range_from_being_cut_out_of_the_whole() {
        let app = app(&Origin::echo(MAX_AGE), |layer| layer.ignore_cookies(["_ga"]));
        let fields = [("cookie", "_ga=1"), ("range", "bytes=0-1")];
        assert_eq!(app.get("/", &fields).await.status, StatusCode::PARTIAL_CONTENT);
    }
}

mod a_layer {
    use super::*;

    #[tokio::test]
    async fn that_is_off_looks_nothing_up_and_voids_all_the_same() {
        let origin = Origin::echo(MAX_AGE);
        let app = app(&origin, |layer| layer);
        let off = App::new(app.cache.clone(), &origin, |layer| layer.enabled(false));
        assert_eq!(second(&off, "/", &[]).await, refused("off"));
        let stored = app.get("/", &[]).await.call();
        assert_eq!(off.get("/", &[]).await.cache_status().detail.as_deref(), Some("off"));
        assert_eq!(app.get("/", &[]).await.call(), stored);
        off.send(Method::PUT, "/", &[]).await;
        assert_eq!(app.get("/", &[]).await.x_cache(), "MISS");
        let rules = |layer: CacheLayer| layer.enabled(false).rule(Rule::path("/").bypass()).unwrap();
        assert_eq!(second(&self::app(&origin, rules), "/", &[]).await, refused("off"));
    }

    #[tokio::test]
    async fn may_be_there_or_not() {
        for on in [true, false] {
            let layer = CacheLayer::new(cache(&Clock::manual())).enabled(on);
            let stack = tower::ServiceBuilder::new().layer(layer).service(Origin::echo(MAX_AGE));
            let get = || tests::ask(&stack, request(Method::GET, "/", &[]));
            get().await.unwrap();
            assert_eq!(get().await.unwrap().x_cache(), if on { "HIT" } else { "BYPASS" });
        }
    }

    #[tokio::test]
    async fn asks_a_predicate_what_is_not_for_the_cache() {
        let app =
            app(&Origin::echo(MAX_AGE), |layer| layer.bypass_if(|request| request.headers.contains_key("x-preview")));
        assert_eq!(second(&app, "/", &[("x-preview", "1")]).await, refused("bypass-if"));
        assert_eq!(second(&app, "/", &[]).await, hit());
    }

    #[tokio::test]
    async fn names_what_it_refuses() {
        let rules = |layer: CacheLayer| layer.ttl(seconds(60)).ttl_for_path("/zero", Duration::ZERO);
        let status = |status| {
            Origin::new(move |call, request: Request<Body>| async move {
                let mut response = echo(call, &request, &[]);
                *response.status_mut() = status;
                Ok(response)
            })
        };
        let reason = async |origin: &Origin, uri| app(origin, rules).get(uri, &[]).await.cache_status().detail;
        assert_eq!(reason(&Origin::echo(&[]), "/zero").await.as_deref(), Some("rule"));
        for code in [StatusCode::NOT_FOUND, StatusCode::SEE_OTHER, StatusCode::TOO_MANY_REQUESTS] {
            assert_eq!(reason(&status(code), "/").await.as_deref(), Some("status"), "{code}");
        }
        let without_rule = app(&Origin::echo(&[]), |layer| layer).get("/", &[]).await;
        assert_eq!(without_rule.cache_status().detail.as_deref(), Some("no-freshness"));
    }

    #[tokio::test]
    async fn says_what_it_did_in_other_fields_or_not_at_all() {
        let names = ["x-cache", "x-cache-age", "cache-status", "x-app-cache", "x-app-age", "app-cache-status"];
        let there = |response: &Response| names.map(|name| response.headers.contains_key(name));
        let renamed = |layer: CacheLayer| {
            let layer = layer.x_cache_field(name("x-app-cache")).x_cache_age_field(name("x-app-age"));
            layer.cache_status_field(name("app-cache-status"))
        };
        type Set = fn(CacheLayer) -> CacheLayer;
        let cases: [(Set, [bool; 6]); 4] = [
            (|layer| layer.announce(false).announce(true), [true, true, true, false, false, false]),
            (|layer| layer.announce(false), [false; 6]),
            (renamed, [false, false, false, true, true, true]),
            (|layer| layer.x_cache_field(None), [false, true, true, false, false, false]),
        ];
        for (set, on_hits) in cases {
            let app = app(&Origin::echo(MAX_AGE), set);
            let mut without_age = on_hits;
            (without_age[1], without_age[4]) = (false, false);
            assert_eq!(there(&app.get("/", &[]).await), without_age);
            let hit = app.get("/", &[]).await;
            assert_eq!((there(&hit), hit.header("age")), (on_hits, Some("0")));
            assert_eq!(there(&app.send(Method::POST, "/", &[]).await), without_age);
        }
        let silent = App::new(cache(&Clock::manual()), &Origin::echo(MAX_AGE), |layer| renamed(layer).announce(false));
        assert_eq!(there(&silent.get("/", &[]).await), [false; 6]);
    }
}

mod fields_of_one_request {
    use super::*;

    const REPLAYED: Fields = &[
        ("x-request-id", "1"),
        ("x-correlation-id", "1"),
        ("traceparent", "00-1"),
        ("traceresponse", "00-1"),
        ("server-timing", "db;dur=53"),
        ("x-ratelimit-remaining", "2"),
        ("ratelimit", "\"d\";r=2"),
        ("ratelimit-policy", "\"d\";q=3"),
        ("x-served-by", "7"),
    ];

    fn with_replayed(more: Fields) -> Origin {
        Origin::new(move |call, request: Request<Body>| async move {
            let mut response = echo(call, &request, REPLAYED);
            for (name, value) in more {
                response.headers_mut().append(*name, value.parse().unwrap());
            }
            Ok(response)
        })
    }

    #[tokio::test]
    async fn are_not_replayed() {
        let app = app(&with_replayed(MAX_AGE), |layer| layer);
        let names = |response: &Response| -> Vec<&str> {
            REPLAYED.iter().map(|(name, _)| *name).filter(|name| response.headers.contains_key(*name)).collect()
        };
        let first = app.get("/", &[]).await;
        assert_eq!(names(&first).len(), REPLAYED.len(), "its own it has");
        assert_eq!(names(&app.get("/", &[]).await), ["x-served-by"]);
        let mine = CacheLayer::NOT_STORED.iter().copied().chain(["X-Served-*"]);
        let app = self::app(&with_replayed(MAX_AGE), |layer| layer.not_stored(mine));
        app.get("/", &[]).await;
        assert!(names(&app.get("/", &[]).await).is_empty());
    }

    #[tokio::test]
    async fn of_a_304_are_not_kept_either() {
        let origin = Origin::new(|call, request: Request<Body>| async move {
            let mut response = echo(call, &request, &[("cache-control", "max-age=1"), ("etag", "\"a\"")]);
            response.headers_mut().insert("x-request-id", call.into());
            if request.headers().contains_key("if-none-match") {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                *response.body_mut() = tests::full("");
            }
            Ok(response)
        });
        let clock = Clock::manual();
        let app = App::new(cache(&clock), &origin, |layer| layer);
        app.get("/", &[]).await;
        clock.advance(seconds(2));
        assert_eq!(app.get("/", &[]).await.x_cache(), "REVALIDATED");
        assert_eq!(app.get("/", &[]).await.header("x-request-id"), None);
    }

    #[tokio::test]
    async fn or_for_one_client_keep_a_response_from_being_stored_by_a_rule_alone() {
        const ONE: [Fields; 4] = [
            &[("clear-site-data", "\"cache\"")],
            &[("x-csrf-token", "t")],
            &[("content-security-policy", "script-src 'nonce-abc'")],
            &[("content-security-policy-report-only", "script-src 'nonce-abc'")],
        ];
        for fields in ONE {
            let app = app(&with_replayed(fields), |layer| layer.ttl(seconds(60)));
            assert_eq!(second(&app, "/", &[]).await, refused("remembered/one-client"), "{fields:?}");
            // The application's own fields count.
            let by_itself = Origin::new(move |call, request: Request<Body>| async move {
                let mut response = echo(call, &request, fields);
                response.extensions_mut().insert(Freshness::of(seconds(60)));
                Ok(response)
            });
            assert_eq!(second(&self::app(&by_itself, |layer| layer), "/", &[]).await, hit());
        }
    }
}

mod entity_tags {
    use super::*;

    fn minting(origin: &Origin, clock: &Clock) -> App {
        App::new(cache(clock), origin, |layer| layer.ttl(seconds(60)).etags(true))
    }

    fn same(fields: Fields) -> Origin {
        Origin::new(move |_, request: Request<Body>| async move {
            assert!(!request.headers().contains_key("if-none-match"), "asked by a tag that it knows nothing of");
            let mut response = http::Response::new(tests::full("[1,2,3]"));
            response.headers_mut().insert("content-type", "application/json".parse().unwrap());
            for (name, value) in fields {
                response.headers_mut().insert(*name, value.parse().unwrap());
            }
            Ok(response)
        })
    }

    #[tokio::test]
    async fn are_given_to_what_has_none_and_answer_conditional_requests() {
        let clock = Clock::manual();
        let app = minting(&same(&[]), &clock);
        let first = app.get("/", &[]).await;
        let tag = first.header("etag").expect("a tag").to_owned();
        assert_eq!(app.get("/", &[]).await.header("etag"), Some(&*tag));
        let conditional = [("if-none-match", &*tag)];
        let not_modified = app.get("/", &conditional).await;
        assert_eq!((not_modified.status, not_modified.x_cache()), (StatusCode::NOT_MODIFIED, "HIT"));
        // Once it is loaded anew, and is the same.
        clock.advance(seconds(7200));
        let loaded = app.get("/", &conditional).await;
        assert_eq!(
            (loaded.status, loaded.x_cache(), loaded.header("etag")),
            (StatusCode::NOT_MODIFIED, "MISS", Some(&*tag))
        );
        let part = app.get("/", &[("range", "bytes=1-1"), ("if-range", &tag)]).await;
        assert_eq!((part.status, part.text()), (StatusCode::PARTIAL_CONTENT, "1"));
        // A layer that mints none, or not to all.
        let plain = self::app(&same(&[]), |layer| layer.ttl(seconds(60)));
        assert_eq!(second(&plain, "/", &[]).await, hit());
        assert_eq!(plain.get("/", &[]).await.header("etag"), None);
    }

    #[tokio::test]
    async fn are_not_given_where_there_is_another_validator_or_the_application_forbids_it() {
        const ITS_OWN: [Fields; 5] = [
            &[("etag", "W/\"its own\"")],
            &[("last-modified", "Mon, 23 Nov 2026 00:00:00 GMT")],
            &[("cache-control", "max-age=60, no-transform")],
            &[("cache-control", "no-transform"), ("cdn-cache-control", "max-age=60")],
            &[("cdn-cache-control", "max-age=60, no-transform")],
        ];
        for fields in ITS_OWN {
            let app = App::new(cache(&Clock::manual()), &same(fields), |layer| {
                layer.ttl(seconds(60)).etags(true).targeted_fields([name("cdn-cache-control")])
            });
            let own = fields.iter().find(|(name, _)| *name == "etag").map(|(_, value)| *value);
            for _ in 0..2 {
                assert_eq!(app.get("/", &[]).await.header("etag"), own, "{fields:?}");
            }
        }
        // Where a handler states the freshness, the field says the rest.
        for (fields, minted) in [(&[][..], true), (&[("cache-control", "no-transform")][..], false)] {
            let origin = Origin::new(move |_, _| async move {
                let mut response = http::Response::new(tests::full("[1,2,3]"));
                response.extensions_mut().insert(Freshness::of(seconds(60)));
                for (name, value) in fields {
                    response.headers_mut().insert(*name, HeaderValue::from_static(value));
                }
                Ok(response)
            });
            let app = app(&origin, |layer| layer.etags(true));
            for x_cache in ["MISS", "HIT"] {
                let response = app.get("/", &[]).await;
                assert_eq!((response.x_cache(), response.header("etag").is_some()), (x_cache, minted), "{fields:?}");
            }
        }
        let app = minting(&same(&[("cache-control", "no-store")]), &Clock::manual());
        assert_eq!(app.get("/", &[]).await.header("etag"), None, "it is not stored");
    }

    #[tokio::test]
    async fn change_with_the_content() {
        let clock = Clock::manual();
        let app = minting(&Origin::echo(&[]), &clock);
        let before = app.get("/", &[]).await.header("etag").unwrap().to_owned();
        clock.advance(seconds(7200));
        let after = app.get("/", &[("if-none-match", &before)]).await;
        assert_eq!(after.status, StatusCode::OK);
        assert_ne!(after.header("etag"), Some(&*before));
    }
}

#[tokio::test]
#[deny(clippy::mutable_key_type)]
async fn keys_go_into_sets_and_logs() {
    let layer = CacheLayer::new(cache(&Clock::manual()));
    let key = |uri: &'static str| layer.key(&Uri::from_static(uri)).unwrap();
    let keys = std::collections::BTreeSet::from([key("http://a/x"), key("https://a/x"), key("http://a/y")]);
    let texts: Vec<_> = keys.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["http://a/x", "http://a/y"]);
    assert_eq!(keys.into_iter().collect::<std::collections::HashSet<_>>().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_ages_with_tokios_clock() {
    let cache = Cache::builder(MemoryStore::new(1 << 20)).clock(Clock::tokio()).build();
    let app = App::new(cache, &Origin::echo(MAX_AGE), |layer| layer);
    app.get("/", &[]).await;
    tokio::time::advance(seconds(59)).await;
    assert_eq!(app.get("/", &[]).await.x_cache(), "HIT");
    tokio::time::advance(seconds(1)).await;
    assert_eq!(app.get("/", &[]).await.x_cache(), "MISS");
}
