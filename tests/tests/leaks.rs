//! Nobody is given what was made for somebody else, nor what is no longer true. Each promise is kept over every store,
//! by the node that loaded the response and by another one.

use std::{future::ready, time::Duration};

use cache_layer::{BodyError, Cache, CacheLayer, Clock, telemetry::Rejection};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use tests::{
    App, Backend, Failure, Feed, Gate, HOST, Origin, Response, echo, full, over_each_store, request, wait_until,
};
use tokio::task::JoinHandle;

type Fields = &'static [(&'static str, &'static str)];
type Sent<'a> = &'a [(&'a str, &'a str)];

const MINUTE: Duration = Duration::from_secs(60);
const MAX_AGE: Fields = &[("cache-control", "max-age=60")];

/// An answer of the application, and whether a rule stores responses that state no freshness.
#[derive(Debug, Clone, Copy)]
struct Answer {
    fields: Fields,
    ruled: bool,
}

const fn explicit(fields: Fields) -> Answer {
    Answer { fields, ruled: false }
}

const fn ruled(fields: Fields) -> Answer {
    Answer { fields, ruled: true }
}

/// Every way for a response to be fresh.
const SOURCES: [Answer; 6] = [
    explicit(MAX_AGE),
    explicit(&[("cache-control", "s-maxage=60")]),
    explicit(&[("cache-control", "public, max-age=60")]),
    explicit(&[("expires", "Fri, 31 Dec 2100 00:00:00 GMT")]),
    ruled(&[("cache-control", "public")]),
    ruled(&[]),
];

/// Two nodes of one application.
struct Fleet {
    origin: Origin,
    here: App,
    there: App,
}

impl Fleet {
    async fn of(backend: &Backend, origin: Origin, ruled: bool) -> Self {
        let set = |layer: CacheLayer| if ruled { layer.ttl(MINUTE) } else { layer };
        let here = App::new(backend.cache().await.build(), &origin, set);
        let there = App::new(backend.cache().await.build(), &origin, set);
        Self { origin, here, there }
    }

    async fn answering(backend: &Backend, answer: Answer) -> Self {
        Self::of(backend, Origin::echo(answer.fields), answer.ruled).await
    }

    /// Whether one client's answer is given to another, at either node.
    async fn shares(&self, first: (&str, Sent<'_>), second: (&str, Sent<'_>)) -> bool {
        let call = self.fresh_call(first).await;
        let others = [self.here.get(second.0, second.1).await, self.there.get(second.0, second.1).await];
        match others.map(|other| other.call() == call) {
            [true, true] => true,
            [false, false] => false,
            mixed => panic!("{first:?}, then {second:?}: the nodes don't agree, {mixed:?}"),
        }
    }

    /// A request that nothing stored may answer.
    async fn fresh_call(&self, (uri, fields): (&str, Sent<'_>)) -> usize {
        let before = self.origin.calls();
        let answer = self.here.get(uri, fields).await;
        assert_eq!(answer.call(), before + 1, "{uri} {fields:?} was given an older answer");
        answer.call()
    }
}

/// With each of `answers`, at a URI of its own.
async fn expect_sharing(backend: &Backend, answers: &[Answer], first: Sent<'_>, second: Sent<'_>, shared: bool) {
    for (row, answer) in answers.iter().enumerate() {
        let uri = format!("/{row}");
        let fleet = Fleet::answering(backend, *answer).await;
        let shares = fleet.shares((&uri, first), (&uri, second)).await;
        assert_eq!(shares, shared, "{answer:?}: {first:?}, then {second:?}");
    }
}

fn with(answers: &[Answer], field: (&'static str, &'static str)) -> Vec<Answer> {
    let add = |answer: &Answer| Answer { fields: [answer.fields, &[field]].concat().leak(), ..*answer };
    answers.iter().map(add).collect()
}

mod a_user {
    use super::*;

    const ALICE: Sent<'_> = &[("authorization", "Bearer alice")];
    const BOB: Sent<'_> = &[("authorization", "Bearer bob")];
    const NOBODY: Sent<'_> = &[];

    /// RFC 9111, section 3.5.
    const NOT_PERMITTED: [Answer; 5] = [
        explicit(MAX_AGE),
        explicit(&[("cache-control", "max-age=60, proxy-revalidate")]),
        explicit(&[("cache-control", "max-age=60, public=yes")]),
        explicit(&[("expires", "Fri, 31 Dec 2100 00:00:00 GMT")]),
        ruled(&[]),
    ];
    const PERMITTED: [Answer; 4] = [
        explicit(&[("cache-control", "public, max-age=60")]),
        explicit(&[("cache-control", "s-maxage=60")]),
        explicit(&[("cache-control", "max-age=60, must-revalidate")]),
        ruled(&[("cache-control", "public")]),
    ];

    async fn with_credentials_shares_nothing_that_is_not_declared_shared(backend: &Backend) {
        expect_sharing(backend, &NOT_PERMITTED, ALICE, BOB, false).await;
    }

    async fn with_credentials_leaves_nothing_for_those_without(backend: &Backend) {
        expect_sharing(backend, &NOT_PERMITTED, ALICE, NOBODY, false).await;
    }

    async fn with_credentials_shares_what_is_declared_shared(backend: &Backend) {
        expect_sharing(backend, &PERMITTED, ALICE, BOB, true).await;
    }

    async fn with_a_cookie_shares_nothing_that_only_a_rule_keeps(backend: &Backend) {
        expect_sharing(backend, &[ruled(&[])], &[("cookie", "user=alice")], &[("cookie", "user=bob")], false).await;
    }

    async fn with_a_cookie_leaves_nothing_for_those_without(backend: &Backend) {
        expect_sharing(backend, &[ruled(&[])], &[("cookie", "user=alice")], NOBODY, false).await;
    }

    async fn with_a_cookie_shares_what_the_application_declares_fresh(backend: &Backend) {
        let explicit: Vec<_> = SOURCES.into_iter().filter(|source| !source.ruled).collect();
        expect_sharing(backend, &explicit, &[("cookie", "user=alice")], &[("cookie", "user=bob")], true).await;
    }

    async fn is_told_apart_by_a_cookie_that_the_response_varies_on(backend: &Backend) {
        let answers = with(&SOURCES, ("vary", "cookie"));
        expect_sharing(backend, &answers, &[("cookie", "user=alice")], &[("cookie", "user=bob")], false).await;
    }

    over_each_store!(
        with_credentials_shares_nothing_that_is_not_declared_shared,
        with_credentials_leaves_nothing_for_those_without,
        with_credentials_shares_what_is_declared_shared,
        with_a_cookie_shares_nothing_that_only_a_rule_keeps,
        with_a_cookie_leaves_nothing_for_those_without,
        with_a_cookie_shares_what_the_application_declares_fresh,
        is_told_apart_by_a_cookie_that_the_response_varies_on,
    );
}

mod a_host {
    use super::*;

    async fn is_another_one_by_name_or_port(backend: &Backend) {
        for (row, source) in SOURCES.iter().enumerate() {
            let fleet = Fleet::answering(backend, *source).await;
            let uri = format!("/{row}");
            let mut calls = Vec::new();
            for host in ["a.example", "b.example", "a.example:8080", "a.example.", "a.example.evil"] {
                calls.push((host, fleet.fresh_call((&uri, &[("host", host)])).await));
            }
            for (host, call) in calls {
                let again = fleet.there.get(&uri, &[("host", host)]).await;
                assert_eq!((again.x_cache(), again.call()), ("HIT", call), "{host}");
            }
        }
    }

    async fn is_the_same_in_any_case_and_with_its_default_port(backend: &Backend) {
        let fleet = Fleet::answering(backend, explicit(MAX_AGE)).await;
        for (row, host) in ["A.Example", "a.example:80", "A.EXAMPLE:443"].into_iter().enumerate() {
            let uri = format!("/{row}");
            assert!(fleet.shares((&uri, &[("host", "a.example")]), (&uri, &[("host", host)])).await, "{host}");
        }
    }

    /// An application may repeat the port in what it makes: nobody else is to have that.
    async fn that_states_its_default_port_is_answered_and_answers_nobody_else(backend: &Backend) {
        let fleet = Fleet::answering(backend, explicit(MAX_AGE)).await;
        for (row, host) in ["a.example:80", "a.example:443", "a.example:"].into_iter().enumerate() {
            let (uri, other) = (format!("/{row}"), format!("/{row}/other"));
            assert!(!fleet.shares((&uri, &[("host", host)]), (&uri, &[("host", "a.example")])).await, "{host}");
            assert!(fleet.shares((&other, &[("host", "a.example")]), (&other, &[("host", host)])).await, "{host}");
        }
    }

    async fn with_a_user_name_in_it_is_not_the_one_without(backend: &Backend) {
        let fleet = Fleet::answering(backend, explicit(MAX_AGE)).await;
        let host = "evil.example:80@a.example";
        assert!(!fleet.shares(("/", &[("host", host)]), ("/", &[("host", "a.example")])).await);
    }

    async fn named_twice_is_nobodys(backend: &Backend) {
        for (row, hosts) in [["a", "b"], ["b", "a"], ["a", "a"]].into_iter().enumerate() {
            let uri = format!("/{row}");
            let both = hosts.map(|host| ("host", host));
            let fleet = Fleet::answering(backend, explicit(MAX_AGE)).await;
            assert!(!fleet.shares((&uri, &both), (&uri, &both)).await, "{hosts:?} is stored");
            for host in hosts {
                let fleet = Fleet::answering(backend, explicit(MAX_AGE)).await;
                fleet.here.get(&uri, &both).await;
                let call = fleet.there.get(&uri, &[("host", host)]).await.call();
                assert_ne!(call, 1, "{hosts:?} is stored for {host}");
                assert_ne!(fleet.here.get(&uri, &both).await.call(), call, "{hosts:?} is answered by {host}");
                fleet.here.cache.invalidate_all().await.unwrap();
            }
        }
    }

    async fn that_is_not_named_is_nobodys(backend: &Backend) {
        let fleet = Fleet::answering(backend, explicit(MAX_AGE)).await;
        let anonymous = || Request::get("/").body(full("")).unwrap();
        for call in 1..=2 {
            let answer = fleet.here.ask(anonymous()).await;
            assert_eq!((answer.x_cache(), answer.call()), ("BYPASS", call));
            assert_eq!(answer.cache_status().detail.as_deref(), Some("no-authority"));
        }
        assert_eq!(fleet.there.get("/", &[]).await.call(), 3);
        assert_eq!(fleet.there.ask(anonymous()).await.call(), 4);
    }

    async fn is_the_same_in_the_target_and_in_its_field(backend: &Backend) {
        let fleet = Fleet::answering(backend, explicit(MAX_AGE)).await;
        let by_field: (&str, Sent<'_>) = ("/x", &[("host", "a.example")]);
        assert!(fleet.shares(by_field, ("http://a.example/x", &[])).await);
        assert!(fleet.shares(("http://a.example/y", &[("host", "a.example")]), ("/y", by_field.1)).await);
    }

    /// Applications differ in which of the two they build their links from.
    async fn in_the_target_that_its_field_contradicts_poisons_neither(backend: &Backend) {
        let fleet = Fleet::answering(backend, explicit(MAX_AGE)).await;
        for (row, victim) in ["a.example", "evil.example"].into_iter().enumerate() {
            let muddled = format!("http://a.example/{row}");
            let sent: Sent<'_> = &[("host", "evil.example")];
            let shares = fleet.shares((&muddled, sent), (&format!("/{row}"), &[("host", victim)])).await;
            assert!(!shares, "{victim} is given what was made for both");
        }
    }

    async fn that_a_proxy_claims_makes_no_difference(backend: &Backend) {
        let fleet = Fleet::answering(backend, explicit(MAX_AGE)).await;
        for (row, claim) in ["x-forwarded-host", "x-host", "forwarded", "x-original-url"].into_iter().enumerate() {
            let uri = format!("/{row}");
            assert!(fleet.shares((&uri, &[]), (&uri, &[(claim, "evil.example")])).await, "{claim}");
        }
    }

    over_each_store!(
        is_another_one_by_name_or_port,
        is_the_same_in_any_case_and_with_its_default_port,
        that_states_its_default_port_is_answered_and_answers_nobody_else,
        with_a_user_name_in_it_is_not_the_one_without,
        named_twice_is_nobodys,
        that_is_not_named_is_nobodys,
        is_the_same_in_the_target_and_in_its_field,
        in_the_target_that_its_field_contradicts_poisons_neither,
        that_a_proxy_claims_makes_no_difference,
    );
}

mod a_language {
    use super::*;

    const GERMAN: Sent<'_> = &[("accept-language", "de")];
    const ENGLISH: Sent<'_> = &[("accept-language", "en")];

    async fn is_not_answered_in_another(backend: &Backend) {
        let answers = with(&SOURCES, ("vary", "Accept-Language"));
        expect_sharing(backend, &answers, GERMAN, ENGLISH, false).await;
    }

    async fn is_kept_beside_the_others(backend: &Backend) {
        for (row, answer) in with(&SOURCES, ("vary", "accept-language")).into_iter().enumerate() {
            let uri = format!("/{row}");
            let fleet = Fleet::answering(backend, answer).await;
            let german = fleet.fresh_call((&uri, GERMAN)).await;
            let english = fleet.fresh_call((&uri, ENGLISH)).await;
            for node in [&fleet.here, &fleet.there] {
                for (language, call) in [(GERMAN, german), (ENGLISH, english)] {
                    let again = node.get(&uri, language).await;
                    assert_eq!((again.x_cache(), again.call()), ("HIT", call), "{answer:?} {language:?}");
                }
            }
        }
    }

    async fn that_is_not_asked_for_is_neither_the_empty_one_nor_any(backend: &Backend) {
        let answers = with(&SOURCES, ("vary", "accept-language"));
        let empty: Sent<'_> = &[("accept-language", "")];
        expect_sharing(backend, &answers, &[], empty, false).await;
        let answers = with(&[explicit(&[("cache-control", "max-age=61")])], ("vary", "accept-language"));
        let fleet = Fleet::answering(backend, answers[0]).await;
        for (uri, first, second) in [("/a", GERMAN, &[][..]), ("/b", &[], GERMAN), ("/c", empty, &[])] {
            assert!(!fleet.shares((uri, first), (uri, second)).await, "{first:?}, then {second:?}");
        }
    }

    async fn is_told_apart_by_every_line_of_vary(backend: &Backend) {
        let fields: Fields = &[
            ("cache-control", "max-age=60"),
            ("vary", "X-First"),
            ("vary", "x-second , X-THIRD"),
            ("vary", "Accept-Language"),
        ];
        let fleet = Fleet::answering(backend, explicit(fields)).await;
        for (row, name) in ["x-first", "x-second", "x-third", "accept-language"].into_iter().enumerate() {
            let uri = format!("/{row}");
            assert!(!fleet.shares((&uri, &[(name, "a")]), (&uri, &[(name, "b")])).await, "{name}");
        }
    }

    async fn is_not_mixed_up_between_fields(backend: &Backend) {
        let fields: Fields = &[("cache-control", "max-age=60"), ("vary", "x-a, x-b")];
        let fleet = Fleet::answering(backend, explicit(fields)).await;
        let mut calls = Vec::new();
        let requests: [Sent<'_>; 7] = [
            &[("x-a", "1")],
            &[("x-b", "1")],
            &[("x-a", "12"), ("x-b", "3")],
            &[("x-a", "1"), ("x-b", "23")],
            &[("x-a", ""), ("x-b", "1")],
            &[("x-a", "1"), ("x-b", "")],
            &[("x-a", "1, 1")],
        ];
        for sent in requests {
            calls.push(fleet.fresh_call(("/", sent)).await);
        }
        for (sent, call) in requests.into_iter().zip(calls) {
            assert_eq!(fleet.there.get("/", sent).await.call(), call, "{sent:?}");
        }
    }

    async fn of_a_response_that_varies_on_everything_is_never_known(backend: &Backend) {
        let answers = ["*", "accept-language, *"].map(|value| with(&SOURCES, ("vary", value))).concat();
        expect_sharing(backend, &answers, GERMAN, GERMAN, false).await;
    }

    async fn is_told_apart_by_what_the_newest_response_varies_on(backend: &Backend) {
        let origin = Origin::new(|call, request| async move {
            let vary = if call == 1 { "accept-language" } else { "accept-language, cookie" };
            Ok(echo(call, &request, &[("cache-control", "max-age=60"), ("vary", vary)]))
        });
        let fleet = Fleet::of(backend, origin, false).await;
        fleet.fresh_call(("/", GERMAN)).await;

        let alice: Sent<'_> = &[("accept-language", "en"), ("cookie", "user=alice")];
        let bob: Sent<'_> = &[("accept-language", "en"), ("cookie", "user=bob")];
        assert!(!fleet.shares(("/", alice), ("/", bob)).await);
        let bob: Sent<'_> = &[("accept-language", "de"), ("cookie", "user=bob")];
        let alice: Sent<'_> = &[("accept-language", "de"), ("cookie", "user=alice")];
        let answers = [fleet.there.get("/", bob).await, fleet.there.get("/", alice).await];
        assert_ne!(answers[0].call(), answers[1].call());
        for (answer, user) in answers.iter().zip(["bob", "alice"]) {
            assert!(answer.call() == 1 || answer.text().contains(&format!("user={user}")), "{}", answer.text());
        }
    }

    /// The same value in another field selects nothing that was stored before.
    async fn is_not_taken_for_what_responses_vary_on_later(backend: &Backend) {
        let origin = Origin::new(|call, request| async move {
            let vary = if call == 1 { "accept-language" } else { "x-region" };
            Ok(echo(call, &request, &[("cache-control", "max-age=60"), ("vary", vary)]))
        });
        let fleet = Fleet::of(backend, origin, false).await;
        fleet.fresh_call(("/", &[("accept-language", "no"), ("x-region", "eu")])).await;
        fleet.fresh_call(("/", &[("accept-language", "en"), ("x-region", "us")])).await;
        fleet.fresh_call(("/", &[("accept-language", "en"), ("x-region", "no")])).await;
    }

    async fn is_waited_for_by_those_alone_who_ask_for_it(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::gated_echo(&gate, &[("cache-control", "max-age=60"), ("vary", "accept-language")]);
        let fleet = Fleet::of(backend, origin.clone(), false).await;
        let mut clients = Vec::new();
        for language in ["de", "en", "fr"].into_iter().cycle().take(30) {
            let node = if clients.len() % 2 == 0 { fleet.here.clone() } else { fleet.there.clone() };
            clients
                .push(tokio::spawn(async move { (language, node.get("/", &[("accept-language", language)]).await) }));
        }
        wait_until("everybody waits", async || waiting(&fleet.here) + waiting(&fleet.there) >= 28).await;
        gate.open();
        for client in clients {
            let (language, answer) = client.await.unwrap();
            assert!(answer.text().contains(&format!("accept-language: {language}\n")), "{language}: {}", answer.text());
        }
        assert_eq!(origin.calls(), 3);
    }

    over_each_store!(
        is_not_answered_in_another,
        is_kept_beside_the_others,
        that_is_not_asked_for_is_neither_the_empty_one_nor_any,
        is_told_apart_by_every_line_of_vary,
        is_not_mixed_up_between_fields,
        of_a_response_that_varies_on_everything_is_never_known,
        is_told_apart_by_what_the_newest_response_varies_on,
        is_not_taken_for_what_responses_vary_on_later,
        is_waited_for_by_those_alone_who_ask_for_it,
    );
}

/// GET in a task of its own.
fn spawn_get(app: &App, uri: &str, fields: Fields) -> JoinHandle<Response> {
    let (app, uri) = (app.clone(), uri.to_owned());
    tokio::spawn(async move { app.get(&uri, fields).await })
}

/// Requests that wait for another one's load.
fn waiting(app: &App) -> u64 {
    app.cache.counts().coalesced
}

mod a_request {
    use super::*;

    async fn for_the_head_leaves_nothing_for_one_for_the_body(backend: &Backend) {
        for (row, source) in SOURCES.into_iter().enumerate() {
            let uri = format!("/{row}");
            let fleet = Fleet::answering(backend, source).await;
            fleet.here.send(Method::HEAD, &uri, &[]).await;
            for (node, x_cache) in [(&fleet.there, "MISS"), (&fleet.here, "HIT")] {
                let answer = node.get(&uri, &[]).await;
                assert_eq!((answer.x_cache(), answer.call()), (x_cache, 2), "{source:?}");
                assert!(answer.text().starts_with("answer 2 to GET"), "{}", answer.text());
            }
        }
    }

    async fn with_a_body_shares_nothing(backend: &Backend) {
        let fleet = Fleet::answering(backend, explicit(MAX_AGE)).await;
        let with_body = || Request::get("/").header("host", HOST).body(full("a query")).unwrap();
        let answer = fleet.here.ask(with_body()).await;
        assert_eq!(answer.cache_status().detail.as_deref(), Some("request-body"));
        fleet.fresh_call(("/", &[])).await;
        for node in [&fleet.here, &fleet.there] {
            let answer = node.ask(with_body()).await;
            assert_eq!((answer.x_cache(), answer.call()), ("BYPASS", fleet.origin.calls()));
        }
    }

    async fn for_another_uri_is_another_one_to_the_byte(backend: &Backend) {
        let fleet = Fleet::answering(backend, explicit(MAX_AGE)).await;
        let uris = [
            "/",
            "//",
            "/x",
            "/x?",
            "/x??",
            "/X",
            "//x",
            "/x/",
            "/./x",
            "/y/../x",
            "/x/..",
            "/%78",
            "/x%2Fy",
            "/x%2fy",
            "/x/y",
            "/x%3Fa",
            "/x?a",
            "/x?A",
            "/x?a=",
            "/x?a=1",
            "/x?a=2",
            "/x?a=1&b=2",
            "/x?b=2&a=1",
            "/x?a=1&a=2",
            "/x?a=2&a=1",
            "/x?a=1;b=2",
            "/x?a=%20",
            "/x?a=+",
            "/x;a=1",
            "/x?utm_source=a",
            "/x%00",
            "/x%0a",
            "/x?a=%31",
        ];
        let mut calls = Vec::new();
        for uri in uris {
            calls.push(fleet.fresh_call((uri, &[])).await);
        }
        for (uri, call) in uris.into_iter().zip(calls) {
            for node in [&fleet.here, &fleet.there] {
                let again = node.get(uri, &[]).await;
                assert_eq!((again.x_cache(), again.call()), ("HIT", call), "{uri}");
                assert!(again.text().starts_with(&format!("answer {call} to GET {uri}\n")), "{}", again.text());
            }
        }
    }

    async fn widens_no_reuse_by_its_directives(backend: &Backend) {
        const ANSWERS: [&str; 6] =
            ["max-age=10", "no-cache", "no-store", "private", "max-age=0", "max-age=10, no-cache"];
        const WISHES: [&str; 10] = [
            "max-stale",
            "max-stale=3600",
            "only-if-cached",
            "only-if-cached, max-stale",
            "max-age=3600",
            "max-age=3600, max-stale=3600",
            "min-fresh=0",
            "stale-if-error=3600",
            "public",
            "immutable",
        ];
        let origin = Origin::new(|call, request| async move {
            let row: usize = request.uri().path()[1..].parse().unwrap();
            Ok(echo(call, &request, &[("cache-control", ANSWERS[row])]))
        });
        let clock = Clock::manual();
        let here = App::new(backend.cache().await.clock(clock.clone()).build(), &origin, |layer| layer.ttl(MINUTE));
        let there = App::new(backend.cache().await.clock(clock.clone()).build(), &origin, |layer| layer.ttl(MINUTE));
        let uris: Vec<String> = (0..ANSWERS.len()).map(|row| format!("/{row}")).collect();
        for uri in &uris {
            here.get(uri, &[]).await;
        }
        clock.advance(2 * MINUTE);
        for wish in WISHES {
            // The response to such a request is not stored, so that it is not mistaken for one that may be shared.
            let sent = &[("cache-control", wish), ("authorization", "Bearer alice")];
            for (uri, answer) in uris.iter().zip(ANSWERS) {
                for node in [&here, &there] {
                    let got = node.get(uri, sent).await;
                    assert_eq!((got.status, got.call()), (StatusCode::OK, origin.calls()), "{answer}, asked {wish}");
                }
            }
        }
    }

    over_each_store!(
        for_the_head_leaves_nothing_for_one_for_the_body,
        with_a_body_shares_nothing,
        for_another_uri_is_another_one_to_the_byte,
        widens_no_reuse_by_its_directives,
    );
}

mod a_response {
    use super::*;

    async fn that_sets_a_cookie_is_its_clients_alone(backend: &Backend) {
        let permits = with(&SOURCES, ("set-cookie", "sid=1"));
        expect_sharing(backend, &permits, &[], &[], false).await;
    }

    async fn that_restricts_reuse_is_its_clients_alone(backend: &Backend) {
        let restrictions = [
            "private",
            "Private",
            "private=\"x-user\"",
            "private=x-user",
            "private=",
            "no-store",
            "NO-STORE",
            "no-store=1",
            "no-cache",
            "no-cache=\"etag\"",
            "extension=\"a, private",
        ];
        for (row, restriction) in restrictions.into_iter().enumerate() {
            for (column, answer) in with(&SOURCES, ("cache-control", restriction)).into_iter().enumerate() {
                let uri = format!("/{row}/{column}");
                let fleet = Fleet::answering(backend, answer).await;
                assert!(!fleet.shares((&uri, &[]), (&uri, &[])).await, "{answer:?}");
            }
        }
    }

    async fn that_says_it_is_stale_is_not_kept_by_a_rule(backend: &Backend) {
        let stale: [Fields; 20] = [
            &[("cache-control", "max-age=0")],
            &[("cache-control", "s-maxage=0, max-age=60")],
            &[("cache-control", "max-age=60, max-age=0")],
            &[("cache-control", "max-age=0"), ("cache-control", "max-age=60")],
            &[("cache-control", "max-age=-1")],
            &[("cache-control", "max-age=60, max-age=-1")],
            &[("cache-control", "max-age=")],
            &[("cache-control", "max-age")],
            &[("cache-control", "max-age=1.5")],
            &[("cache-control", "max-age=60 s")],
            &[("cache-control", "max-age=soon")],
            &[("cache-control", "max-age=60"), ("age", "60")],
            &[("cache-control", "max-age=60"), ("age", "99999999999999999999")],
            &[("cache-control", "max-age=60"), ("date", "Sun, 06 Nov 1994 08:49:37 GMT")],
            &[("age", "3600")],
            &[("expires", "0")],
            &[("expires", "-1")],
            &[("expires", "Sun, 06 Nov 1994 08:49:37 GMT")],
            &[("expires", "Fri, 31 Dec 2100 00:00:00 GMT"), ("expires", "0")],
            &[("expires", "Fri, 31 Dec 2100 00:00:00 GMT"), ("cache-control", "max-age=0")],
        ];
        expect_sharing(backend, &stale.map(ruled), &[], &[], false).await;
    }

    async fn is_served_as_long_as_the_shortest_of_what_it_says(backend: &Backend) {
        let short: [Fields; 5] = [
            &[("cache-control", "max-age=3600, max-age=10")],
            &[("cache-control", "max-age=10"), ("cache-control", "max-age=3600")],
            &[("cache-control", "max-age=3600"), ("age", "3590")],
            &[("cache-control", "s-maxage=10, max-age=3600"), ("expires", "Fri, 31 Dec 2100 00:00:00 GMT")],
            &[("cache-control", "max-age=10"), ("expires", "Fri, 31 Dec 2100 00:00:00 GMT")],
        ];
        for (row, fields) in short.into_iter().enumerate() {
            let uri = format!("/{row}");
            let clock = Clock::manual();
            let origin = Origin::echo(fields);
            let here = App::new(backend.cache().await.clock(clock.clone()).build(), &origin, |layer| layer.ttl(MINUTE));
            let there =
                App::new(backend.cache().await.clock(clock.clone()).build(), &origin, |layer| layer.ttl(MINUTE));
            assert_eq!(here.get(&uri, &[]).await.call(), 1);
            clock.advance(Duration::from_secs(9));
            assert_eq!(here.get(&uri, &[]).await.call(), 1, "{fields:?}");
            assert_eq!(there.get(&uri, &[]).await.call(), 1, "{fields:?}");
            clock.advance(Duration::from_secs(1));
            assert_eq!(there.get(&uri, &[]).await.call(), 2, "{fields:?}");
        }
    }

    /// The entry is still in the store: neither a memory store nor Redis knows of this clock.
    async fn that_has_expired_is_never_served(backend: &Backend) {
        let varying = with(&SOURCES, ("vary", "accept-language"));
        for (row, answer) in SOURCES.iter().chain(&varying).enumerate() {
            if answer.fields.iter().any(|(name, _)| *name == "expires") {
                continue;
            }
            let uri = format!("/{row}");
            let clock = Clock::manual();
            let origin = Origin::echo(answer.fields);
            let here = App::new(backend.cache().await.clock(clock.clone()).build(), &origin, |layer| layer.ttl(MINUTE));
            let there =
                App::new(backend.cache().await.clock(clock.clone()).build(), &origin, |layer| layer.ttl(MINUTE));
            assert_eq!(here.get(&uri, &[]).await.call(), 1);
            clock.advance(MINUTE - Duration::from_millis(1));
            assert_eq!(there.get(&uri, &[]).await.call(), 1, "{answer:?}");
            clock.advance(Duration::from_millis(1));
            for node in [&there, &here] {
                assert_eq!(node.get(&uri, &[]).await.call(), 2, "{answer:?}");
            }
        }
    }

    async fn without_its_whole_body_is_not_kept(backend: &Backend) {
        for (row, (length, body)) in [("100", "half"), ("1", "too much"), ("4", "")].into_iter().enumerate() {
            expect_not_kept(backend, &format!("/{row}"), &[length], body).await;
        }
    }

    /// RFC 9110, section 8.6: the next reader may take another part of the connection for the body.
    async fn whose_length_is_announced_twice_or_in_no_number_is_not_kept(backend: &Backend) {
        let lengths: [&[&str]; 5] = [&["4", "5"], &["5", "4"], &["4, 5"], &["four"], &["+4"]];
        for (row, lengths) in lengths.into_iter().enumerate() {
            expect_not_kept(backend, &format!("/{row}"), lengths, "four").await;
        }
    }

    async fn expect_not_kept(backend: &Backend, uri: &str, lengths: &[&'static str], body: &'static str) {
        let lengths = lengths.to_vec();
        let origin = Origin::new(move |call, _| {
            let mut response = http::Response::builder().header("cache-control", "max-age=60").header("x-call", call);
            for length in &lengths {
                response = response.header("content-length", *length);
            }
            ready(Ok(response.body(full(body)).unwrap()))
        });
        let fleet = Fleet::of(backend, origin, false).await;
        for (call, node) in [("1", &fleet.here), ("2", &fleet.there), ("3", &fleet.here)] {
            let answer = node.get(uri, &[]).await;
            assert_eq!((answer.header("x-call"), answer.text()), (Some(call), body), "{:?}", answer.headers);
        }
    }

    async fn whose_body_fails_is_not_kept(backend: &Backend) {
        let origin = Origin::new(|call, request| async move {
            if call > 1 {
                return Ok(echo(call, &request, MAX_AGE));
            }
            let (feed, body) = Feed::new();
            feed.data("half").unwrap();
            feed.abort(Failure("the disk is gone")).unwrap();
            Ok(http::Response::builder().header("cache-control", "max-age=60").body(body).unwrap())
        });
        let fleet = Fleet::of(backend, origin, false).await;
        let failed = fleet.here.begin(request(Method::GET, "/", &[])).await.unwrap();
        assert_eq!(failed.into_body().collect().await.unwrap_err(), BodyError::Inner(Failure("the disk is gone")));
        fleet.here.settled().await;
        assert_eq!(fleet.there.get("/", &[]).await.call(), 2);
        assert_eq!(fleet.here.get("/", &[]).await.call(), 2);
    }

    over_each_store!(
        that_sets_a_cookie_is_its_clients_alone,
        that_restricts_reuse_is_its_clients_alone,
        that_says_it_is_stale_is_not_kept_by_a_rule,
        is_served_as_long_as_the_shortest_of_what_it_says,
        that_has_expired_is_never_served,
        without_its_whole_body_is_not_kept,
        whose_length_is_announced_twice_or_in_no_number_is_not_kept,
        whose_body_fails_is_not_kept,
    );
}

mod those_who_wait {
    use super::*;

    /// Responses that may not be shared, and the field in which their clients differ.
    const PERSONAL: [(Answer, &str); 7] = [
        (explicit(&[("cache-control", "max-age=60"), ("set-cookie", "sid=secret")]), "x-user"),
        (explicit(&[("cache-control", "private, max-age=60")]), "x-user"),
        (explicit(&[("cache-control", "no-store")]), "x-user"),
        (explicit(&[("cache-control", "max-age=60"), ("vary", "*")]), "x-user"),
        (explicit(&[]), "x-user"),
        (explicit(MAX_AGE), "authorization"),
        (ruled(&[]), "cookie"),
    ];

    async fn never_get_what_was_made_for_the_one_they_wait_for(backend: &Backend) {
        for (row, (answer, field)) in PERSONAL.into_iter().enumerate() {
            let gate = Gate::closed();
            let fleet = Fleet::of(backend, Origin::gated_echo(&gate, answer.fields), answer.ruled).await;
            let ask = |node: &App, user: usize| {
                let node = node.clone();
                tokio::spawn(async move { node.get(&format!("/{row}"), &[(field, &*format!("user {user}"))]).await })
            };
            let mut clients = vec![ask(&fleet.here, 0)];
            wait_until("it is loaded", async || fleet.origin.calls() == 1).await;
            clients.extend((1..10).map(|user| ask(if user % 2 == 0 { &fleet.here } else { &fleet.there }, user)));
            // One of the requests leads at the other node.
            wait_until("the others wait", async || waiting(&fleet.here) + waiting(&fleet.there) == 8).await;
            gate.open();
            let mut calls = Vec::new();
            for (user, client) in clients.into_iter().enumerate() {
                let got = client.await.unwrap();
                assert!(got.text().contains(&format!("{field}: user {user}\n")), "{answer:?}: {}", got.text());
                calls.push(got.call());
            }
            calls.sort_unstable();
            assert!(calls.into_iter().eq(1..=10), "{answer:?}");
        }
    }

    over_each_store!(never_get_what_was_made_for_the_one_they_wait_for);
}

/// Reads that began before a write must not undo what it made true.
mod a_write {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use http::HeaderValue;

    use super::*;

    /// An application with one piece of state, which a call reads or writes at once. The one with the number `slow`
    /// answers when the gate is open.
    fn stateful(fields: Fields, slow: usize, gate: &Gate) -> Origin {
        let gate = gate.clone();
        let written = AtomicBool::new(false);
        Origin::new(move |call, request| {
            let writes = request.method() != Method::GET;
            let state = if written.fetch_or(writes, Ordering::SeqCst) || writes { "new" } else { "old" };
            let gate = gate.clone();
            async move {
                if call == slow {
                    gate.pass().await;
                }
                let mut response = echo(call, &request, fields);
                response.headers_mut().insert("x-state", HeaderValue::from_static(state));
                Ok(response)
            }
        })
    }

    const VARYING: Fields = &[("cache-control", "max-age=60"), ("vary", "accept-language")];

    fn state(response: &Response) -> &str {
        response.header("x-state").unwrap()
    }

    async fn overtakes_a_load(backend: &Backend) {
        for (row, method) in ["POST", "PUT", "DELETE", "PATCH", "UNHEARD-OF"].into_iter().enumerate() {
            for (column, fields) in [MAX_AGE, VARYING].into_iter().enumerate() {
                let uri = format!("/{row}/{column}");
                let gate = Gate::closed();
                let Fleet { origin, here, there } = Fleet::of(backend, stateful(fields, 1, &gate), false).await;
                let early = spawn_get(&here, &uri, &[]);
                wait_until("it is loaded", async || origin.calls() == 1).await;
                let written = there.begin(request(method.parse().unwrap(), &uri, &[])).await.unwrap();
                assert_eq!(written.headers()["x-state"], "new");
                // This request begins after the write, while the old load is still under way.
                let late = spawn_get(&here, &uri, &[]);
                wait_until("the late reader waits", async || waiting(&here) == 1).await;
                gate.open();
                assert_eq!(state(&early.await.unwrap()), "old");
                assert_eq!(state(&late.await.unwrap()), "new", "{method} {fields:?}");
                for node in [&here, &there] {
                    assert_eq!(state(&node.get(&uri, &[]).await), "new", "{method} {fields:?}");
                }
            }
        }
    }

    async fn overtakes_the_load_of_a_variant(backend: &Backend) {
        const GERMAN: Fields = &[("accept-language", "de")];
        const ENGLISH: Fields = &[("accept-language", "en")];
        let gate = Gate::closed();
        let Fleet { origin, here, there } = Fleet::of(backend, stateful(VARYING, 2, &gate), false).await;
        assert_eq!(state(&here.get("/", ENGLISH).await), "old");
        let early = spawn_get(&here, "/", GERMAN);
        wait_until("the variant is loaded", async || origin.calls() == 2).await;
        there.begin(request(Method::POST, "/", &[])).await.unwrap();
        // Meanwhile the other variant is read anew, and the key has an entry again.
        assert_eq!(state(&there.get("/", ENGLISH).await), "new");
        gate.open();
        assert_eq!(state(&early.await.unwrap()), "old");
        for node in [&here, &there] {
            for language in [GERMAN, ENGLISH] {
                assert_eq!(state(&node.get("/", language).await), "new", "{language:?}");
            }
        }
    }

    /// Such a load is not stored, and must reach nobody else in any other way.
    async fn overtakes_a_load_that_goes_ahead_without_a_lease(backend: &Backend) {
        const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
        let gates = [Gate::closed(), Gate::closed()];
        let written = Arc::new(AtomicBool::new(false));
        let origin = Origin::new({
            let (gates, written) = (gates.clone(), written.clone());
            move |call, request| {
                let state = if written.load(Ordering::SeqCst) { "new" } else { "old" };
                let gate = gates.get(call - 1).cloned();
                async move {
                    if let Some(gate) = gate {
                        gate.pass().await;
                    }
                    let mut response = echo(call, &request, MAX_AGE);
                    response.headers_mut().insert("x-state", HeaderValue::from_static(state));
                    Ok(response)
                }
            }
        });
        let here = App::new(backend.cache().await.lock_timeout(LOCK_TIMEOUT).build(), &origin, |layer| layer);
        let there = App::new(backend.cache().await.lock_timeout(LOCK_TIMEOUT).build(), &origin, |layer| layer);
        let stuck = spawn_get(&here, "/", &[]);
        wait_until("it is loaded", async || origin.calls() == 1).await;
        let impatient = spawn_get(&there, "/", &[]);
        wait_until("it is loaded at the other node too", async || origin.calls() == 2).await;

        written.store(true, Ordering::SeqCst);
        here.cache.invalidate_all().await.unwrap();
        let late = spawn_get(&there, "/", &[]);
        wait_until("the late reader waits", async || waiting(&there) == 1).await;
        gates[1].open();
        assert_eq!(state(&impatient.await.unwrap()), "old");
        assert_eq!(state(&late.await.unwrap()), "new");
        gates[0].open();
        assert_eq!(state(&stuck.await.unwrap()), "old");
        for node in [&here, &there] {
            assert_eq!(state(&node.get("/", &[]).await), "new");
        }
    }

    over_each_store!(
        overtakes_a_load,
        overtakes_the_load_of_a_variant,
        overtakes_a_load_that_goes_ahead_without_a_lease,
        whose_client_leaves_before_it_is_answered_makes_its_target_stale,
    );

    /// The application may have carried out the write by then.
    async fn whose_client_leaves_before_it_is_answered_makes_its_target_stale(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::new({
            let gate = gate.clone();
            move |call, request| {
                let gate = gate.clone();
                async move {
                    if request.method() != Method::GET {
                        gate.pass().await;
                    }
                    Ok(echo(call, &request, MAX_AGE))
                }
            }
        });
        let app = App::on(backend, &origin).await;
        app.get("/item", &[]).await;
        assert_eq!(app.get("/item", &[]).await.x_cache(), "HIT");
        let writer = tokio::spawn({
            let app = app.clone();
            async move { app.begin(request(Method::PUT, "/item", &[])).await.map(drop) }
        });
        wait_until("it is being written", async || origin.calls() == 2).await;
        writer.abort();
        assert!(writer.await.unwrap_err().is_cancelled());
        wait_until("it is read anew", async || app.get("/item", &[]).await.call() > 2).await;
    }

    /// The client leaves while a slow Redis is told: the other entries that the write made stale must be invalidated as well.
    #[tokio::test(flavor = "multi_thread")]
    async fn that_nobody_waits_for_makes_everything_stale_that_it_names() {
        let backend = Backend::redis();
        let origin = Origin::new(|call, request| async move {
            let fields: Fields = match *request.method() {
                Method::GET => MAX_AGE,
                _ => &[("location", "/item")],
            };
            Ok(echo(call, &request, fields))
        });
        let app = App::on(&backend, &origin).await;
        for uri in ["/list", "/item"] {
            app.get(uri, &[]).await;
            assert_eq!(app.get(uri, &[]).await.x_cache(), "HIT");
        }
        backend.server().stop();
        let writer = tokio::spawn({
            let app = app.clone();
            async move { app.begin(request(Method::POST, "/list", &[])).await }
        });
        wait_until("it is written", async || origin.calls() == 3).await;
        writer.abort();
        assert!(writer.await.unwrap_err().is_cancelled(), "the store was told at once: there was nothing to leave");
        backend.server().cont();
        for uri in ["/list", "/item"] {
            wait_until(&format!("{uri} is read anew"), async || app.get(uri, &[]).await.call() > 3).await;
        }
    }
}

/// Other programs may write to Redis.
mod bytes_in_redis {
    use super::*;

    struct Shelf {
        backend: Backend,
        origin: Origin,
    }

    impl Shelf {
        fn new(fields: Fields) -> Self {
            Self { backend: Backend::redis(), origin: Origin::echo(fields) }
        }

        /// A node that has seen nothing yet.
        async fn node(&self) -> App {
            App::on(&self.backend, &self.origin).await.unexplained()
        }

        fn entries(&self) -> Vec<String> {
            self.backend.server().keys().into_iter().filter(|key| key.contains(":e:")).collect()
        }

        fn read(&self, key: &str) -> Vec<u8> {
            self.backend.server().command(&["GET", key])
        }

        fn write(&self, key: &str, bytes: &[u8]) {
            self.backend.server().command(&[b"SET", key.as_bytes(), bytes])
        }
    }

    fn rejected(cache: &Cache) -> Vec<(Rejection, u64)> {
        cache.counts().rejected
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_one_key_are_no_entry_of_another() {
        let shelf = Shelf::new(MAX_AGE);
        let node = shelf.node().await;
        let uris = ["/alice", "/bob"];
        for uri in uris {
            node.get(uri, &[]).await;
        }
        node.get("/bob", &[("host", "other.example")]).await;
        let keys = shelf.entries();
        assert_eq!(keys.len(), 3, "{keys:?}");
        let all: Vec<Vec<u8>> = keys.iter().map(|key| shelf.read(key)).collect();
        for (into, key) in keys.iter().enumerate() {
            for from in (0..keys.len()).filter(|from| *from != into) {
                shelf.write(key, &all[from]);
                let (host, uri) = key.split_once("://").unwrap().1.split_once('/').unwrap();
                let node = shelf.node().await;
                let answer = node.get(&format!("/{uri}"), &[("host", host)]).await;
                assert_eq!((answer.x_cache(), answer.call()), ("MISS", shelf.origin.calls()), "{key}");
                assert!(answer.text().contains(&format!("GET /{uri}\n")), "{}", answer.text());
                assert!(answer.text().contains(&format!("host: {host}\n")), "{}", answer.text());
                assert_eq!(rejected(&node.cache), [(Rejection::Key, 1)]);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_one_variant_are_no_entry_of_another() {
        let shelf = Shelf::new(&[("cache-control", "max-age=60"), ("vary", "accept-language")]);
        let node = shelf.node().await;
        let german: Sent<'_> = &[("accept-language", "de")];
        node.get("/", german).await;
        let [primary, german_entry] = &shelf.entries()[..] else { panic!("{:?}", shelf.entries()) };
        node.get("/", &[("accept-language", "en")]).await;
        let entries = shelf.entries();
        let english_entry = entries.iter().find(|key| ![primary, german_entry].contains(key)).unwrap();

        shelf.write(german_entry, &shelf.read(english_entry));
        let node = shelf.node().await;
        let answer = node.get("/", german).await;
        assert!(answer.text().contains("accept-language: de\n"), "{}", answer.text());
        assert_eq!(rejected(&node.cache), [(Rejection::Key, 1)]);

        shelf.write(primary, &shelf.read(english_entry));
        let node = shelf.node().await;
        let answer = node.get("/", german).await;
        assert!(answer.text().contains("accept-language: de\n"), "{}", answer.text());
        assert_eq!(rejected(&node.cache), [(Rejection::Key, 1)]);
    }

    /// The entry, and one more answer than there were before: a miss that is stored again.
    async fn expect_a_miss(shelf: &Shelf, node: &App, what: &str) -> Rejection {
        let before = rejected(&node.cache);
        let calls = shelf.origin.calls();
        let answer = node.get("/", &[]).await;
        assert_eq!((answer.status, answer.x_cache(), answer.call()), (StatusCode::OK, "MISS", calls + 1), "{what}");
        let again = node.get("/", &[]).await;
        assert_eq!((again.x_cache(), again.call()), ("HIT", calls + 1), "{what}: it is not stored anew");
        let mut reasons = rejected(&node.cache);
        reasons.retain(|(reason, count)| !before.contains(&(*reason, *count)));
        let [(reason, _)] = reasons[..] else { panic!("{what}: {reasons:?}, and before {before:?}") };
        let count = |counts: &[(Rejection, u64)]| counts.iter().find(|(one, _)| *one == reason).map_or(0, |(_, n)| *n);
        assert_eq!(count(&rejected(&node.cache)), count(&before) + 1, "{what}");
        reason
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn with_any_bit_flipped_are_a_miss() {
        let shelf = Shelf::new(MAX_AGE);
        let node = shelf.node().await;
        node.get("/", &[]).await;
        let [key] = &shelf.entries()[..] else { panic!("one entry") };
        let good = shelf.read(key);
        for bit in 0..8 * good.len() {
            let (position, mut bytes) = (bit / 8, good.clone());
            bytes[position] ^= 1 << (bit % 8);
            shelf.write(key, &bytes);
            // The mark of a soft invalidation is written in place: whatever it says, the entry is not fresh.
            if (4..8).contains(&position) {
                assert_eq!(node.get("/", &[]).await.x_cache(), "MISS", "bit {bit}");
                // The next damage comes after the answer to this one was stored.
                assert_eq!(node.get("/", &[]).await.x_cache(), "HIT", "bit {bit}");
                continue;
            }
            let reason = expect_a_miss(&shelf, &node, &format!("bit {bit}: {:02x}", bytes[position])).await;
            let expected: &[Rejection] = match position {
                0..3 => &[Rejection::Foreign],
                // There are two versions, and one bit lies between them.
                3 if matches!(bytes[3], 2 | 3) => &[Rejection::Checksum, Rejection::Truncated],
                3 => &[Rejection::Version],
                _ => &[Rejection::Checksum, Rejection::Truncated],
            };
            assert!(expected.contains(&reason), "bit {bit}: {reason:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn that_are_cut_or_continued_are_a_miss() {
        let shelf = Shelf::new(MAX_AGE);
        let node = shelf.node().await;
        node.get("/", &[]).await;
        let [key] = &shelf.entries()[..] else { panic!("one entry") };
        let good = shelf.read(key);
        for length in 0..good.len() {
            shelf.write(key, &good[..length]);
            let reason = expect_a_miss(&shelf, &node, &format!("{length} of {} bytes", good.len())).await;
            let expected: &[Rejection] = match length {
                0..3 => &[Rejection::Foreign],
                3 => &[Rejection::Version],
                _ => &[Rejection::Truncated, Rejection::Checksum],
            };
            assert!(expected.contains(&reason), "{length} of {} bytes: {reason:?}", good.len());
        }
        for tail in [&b"\0"[..], b"more", &good] {
            shelf.write(key, &[&good[..], tail].concat());
            assert_eq!(expect_a_miss(&shelf, &node, "a longer entry").await, Rejection::Checksum);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_another_type_are_a_miss_and_make_way() {
        let shelf = Shelf::new(MAX_AGE);
        let node = shelf.node().await;
        node.get("/", &[]).await;
        let [key] = &shelf.entries()[..] else { panic!("one entry") };
        let others: [&[&str]; 5] = [
            &["RPUSH", key, "a"],
            &["HSET", key, "a", "b"],
            &["SADD", key, "a"],
            &["ZADD", key, "1", "a"],
            &["XADD", key, "*", "a", "b"],
        ];
        for command in others {
            shelf.backend.server().command::<()>(&["DEL", key]);
            shelf.backend.server().command::<()>(command);
            assert_eq!(expect_a_miss(&shelf, &node, command[0]).await, Rejection::Type);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_another_type_in_place_of_a_lease_fail_no_request() {
        let shelf = Shelf::new(MAX_AGE);
        let node = shelf.node().await;
        node.get("/", &[]).await;
        let [key] = &shelf.entries()[..] else { panic!("one entry") };
        shelf.backend.server().command::<()>(&["DEL", key]);
        shelf.backend.server().command::<()>(&["RPUSH", &key.replacen(":e:", ":l:", 1), "a"]);
        let answer = node.get("/", &[]).await;
        assert_eq!((answer.status, answer.x_cache(), answer.call()), (StatusCode::OK, "MISS", 2));
        let again = shelf.node().await.get("/", &[]).await;
        assert_eq!((again.status, again.x_cache(), again.call()), (StatusCode::OK, "HIT", 2));
    }
}
