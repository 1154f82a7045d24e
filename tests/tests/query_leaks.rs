//! No request is answered with the response to another content, or to the same content with another meaning: whatever two
//! requests differ in, over every store, by the node that loaded the response and by another one.

use std::time::Duration;

use cache_layer::CacheLayer;
use http::{Method, Request};
use tests::{Backend, Body, Feed, Gate, Origin, QueryApp, Response, full, over_each_store, request, wait_until};

type Sent<'a> = &'a [(&'a str, &'a str)];

const MINUTE: Duration = Duration::from_secs(60);
const JSON: (&str, &str) = ("content-type", "application/json");
const A: &str = "{\"a\":1}";

/// Every way for a response to be fresh: what it says, and whether a rule keeps what says nothing.
const SOURCES: [(Sent<'_>, bool); 5] = [
    (&[("x-say-cache-control", "max-age=60")], false),
    (&[("x-say-cache-control", "s-maxage=60")], false),
    (&[("x-say-cache-control", "public, max-age=60")], false),
    (&[("x-say-expires", "Fri, 31 Dec 2100 00:00:00 GMT")], false),
    (&[], true),
];

/// What one client sends.
#[derive(Clone, Copy, Debug)]
struct Ask<'a> {
    method: &'a str,
    uri: &'a str,
    fields: Sent<'a>,
    content: &'a str,
}

const ASK: Ask<'_> = Ask { method: "QUERY", uri: "/s", fields: &[JSON], content: A };

impl<'a> Ask<'a> {
    const fn with(fields: Sent<'a>) -> Self {
        Self { fields, ..ASK }
    }

    const fn of(content: &'a str) -> Self {
        Self { content, ..ASK }
    }
}

/// Two nodes of one application.
struct Fleet {
    origin: Origin,
    here: QueryApp,
    there: QueryApp,
    says: Sent<'static>,
}

impl Fleet {
    async fn new(backend: &Backend, (says, ruled): (Sent<'static>, bool)) -> Self {
        let origin = Origin::obedient();
        let set = |layer: CacheLayer| if ruled { layer.ttl(MINUTE).query() } else { layer.query() };
        let here = QueryApp::new(backend.cache().await.build(), &origin, set);
        let there = QueryApp::new(backend.cache().await.build(), &origin, set);
        // Removes the entries of an earlier fleet on the same store.
        here.cache.invalidate_all().await.unwrap();
        Self { origin, here, there, says }
    }

    async fn ask(&self, node: &QueryApp, ask: Ask<'_>) -> Response {
        let fields = [ask.fields, self.says].concat();
        let response = node.send(ask.method, ask.uri, &fields, ask.content).await;
        let asked = format!("to {} {}\n", ask.method, ask.uri);
        assert!(
            response.text().contains(&asked) && response.text().ends_with(&format!("\n{}", ask.content)),
            "{ask:?}"
        );
        response
    }

    /// Whether one's answer is given to the other, at either node.
    async fn shares(&self, first: Ask<'_>, second: Ask<'_>) -> bool {
        let calls = self.origin.calls();
        let call = self.ask(&self.here, first).await.call();
        assert_eq!(call, calls + 1, "{first:?} was given an older answer");
        let others = [self.ask(&self.here, second).await, self.ask(&self.there, second).await];
        match others.map(|other| other.call() == call) {
            [true, true] => true,
            [false, false] => false,
            mixed => panic!("{first:?}, then {second:?}: the nodes don't agree, {mixed:?}"),
        }
    }
}

/// With each source, each of which is a fleet of its own.
async fn are_told_apart(backend: &Backend, pairs: &[(Ask<'_>, Ask<'_>)]) {
    for source in SOURCES {
        for (one, other) in pairs {
            for (first, second) in [(one, other), (other, one)] {
                let fleet = Fleet::new(backend, source).await;
                assert!(!fleet.shares(*first, *second).await, "{source:?}: {first:?}, then {second:?}");
            }
        }
    }
}

async fn another_uri(backend: &Backend) {
    let at = |uri| Ask { uri, ..ASK };
    let host = Ask::with(&[JSON, ("host", "other.example")]);
    let pairs = [(at("/s"), at("/t")), (at("/s"), at("/s?")), (at("/s?a=1"), at("/s?a=2")), (ASK, host)];
    are_told_apart(backend, &pairs).await;
}

async fn another_content(backend: &Backend) {
    let long = ["x".repeat(20_000), format!("{}y", "x".repeat(19_999))];
    let pairs = [
        (Ask::of("1"), Ask::of("2")),
        (Ask::of(""), Ask::of("1")),
        (Ask::of("1"), Ask::of("1 ")),
        (Ask::of("a\0b"), Ask::of("a\0c")),
        (Ask::of(&long[0]), Ask::of(&long[1])),
    ];
    are_told_apart(backend, &pairs).await;
}

/// And what is a name, a value or a boundary in one is none in the other.
async fn another_meaning_of_the_same_bytes(backend: &Backend) {
    let json = Ask::with(&[JSON]);
    let pairs = [
        (json, Ask::with(&[("content-type", "text/plain")])),
        (json, Ask::with(&[("content-type", "application/json; charset=utf-8")])),
        (
            Ask::with(&[("content-type", "multipart/mixed; boundary=\"a\"")]),
            Ask::with(&[("content-type", "multipart/mixed; boundary=\"A\"")]),
        ),
        (json, Ask::with(&[JSON, ("content-encoding", "gzip")])),
        (Ask::with(&[JSON, ("content-encoding", "br")]), Ask::with(&[JSON, ("content-encoding", "gzip")])),
        (Ask::with(&[JSON, ("content-encoding", "gzip, br")]), Ask::with(&[JSON, ("content-encoding", "br, gzip")])),
        (json, Ask::with(&[JSON, ("content-language", "de")])),
        (Ask::with(&[JSON, ("content-language", "en")]), Ask::with(&[JSON, ("content-language", "de")])),
        (json, Ask::with(&[JSON, ("content-location", "/x")])),
        (json, Ask::with(&[JSON, ("content-of-tomorrow", "x")])),
        (
            Ask::with(&[JSON, ("content-x", "1"), ("content-y", "2")]),
            Ask::with(&[JSON, ("content-x", "12"), ("content-y", "")]),
        ),
        (
            Ask { content: "", ..Ask::with(&[JSON, ("content-language", "de")]) },
            Ask { content: "de", ..Ask::with(&[JSON, ("content-language", "")]) },
        ),
    ];
    are_told_apart(backend, &pairs).await;
}

async fn another_method(backend: &Backend) {
    let by = |method| Ask { method, content: "", ..ASK };
    for source in SOURCES {
        for (first, second) in [("QUERY", "GET"), ("GET", "QUERY"), ("QUERY", "POST"), ("QUERY", "query")] {
            // GET has no content that would be of a type.
            let fields = |method| if method == "GET" { &[][..] } else { ASK.fields };
            let (first, second) =
                (Ask { fields: fields(first), ..by(first) }, Ask { fields: fields(second), ..by(second) });
            let fleet = Fleet::new(backend, source).await;
            assert!(!fleet.shares(first, second).await, "{source:?}: {first:?}, then {second:?}");
        }
    }
}

async fn what_is_one_users(backend: &Backend) {
    let alice = Ask::with(&[JSON, ("authorization", "Bearer alice")]);
    let bob = Ask::with(&[JSON, ("authorization", "Bearer bob")]);
    for source in [SOURCES[0], SOURCES[3], SOURCES[4]] {
        for other in [bob, ASK] {
            let fleet = Fleet::new(backend, source).await;
            assert!(!fleet.shares(alice, other).await, "{source:?}: {other:?}");
        }
    }
    let cookie = Ask::with(&[JSON, ("cookie", "id=alice")]);
    let fleet = Fleet::new(backend, SOURCES[4]).await;
    assert!(!fleet.shares(cookie, ASK).await);
    for says in [("x-say-set-cookie", "id=alice"), ("x-say-cache-control", "private"), ("x-say-vary", "*")] {
        let own = [JSON, says];
        let fleet = Fleet::new(backend, SOURCES[0]).await;
        assert!(!fleet.shares(Ask::with(&own), Ask::with(&own)).await, "{says:?}");
    }
    for name in ["accept", "accept-language", "x-user"] {
        let fleet = Fleet::new(backend, SOURCES[0]).await;
        let [one, other] = ["1", "2"].map(|value| [JSON, ("x-say-vary", name), (name, value)]);
        assert!(!fleet.shares(Ask::with(&one), Ask::with(&other)).await, "{name}");
    }
}

/// Differences that do not matter: without this test, the rest of this file would hold for a cache that stores nothing.
async fn nothing_else_tells_them_apart(backend: &Backend) {
    for source in SOURCES {
        for (first, second) in [
            (ASK, ASK),
            (ASK, Ask::with(&[("content-type", "Application/JSON")])),
            (ASK, Ask::with(&[JSON, ("content-length", "7")])),
            (ASK, Ask::with(&[JSON, ("user-agent", "another")])),
            (Ask::of(""), Ask::of("")),
        ] {
            let fleet = Fleet::new(backend, source).await;
            assert!(fleet.shares(first, second).await, "{source:?}: {first:?}, then {second:?}");
        }
    }
}

/// However it comes in: the same bytes in one piece, in many, with their length said before, or not.
async fn framing_is_no_part_of_the_content(backend: &Backend) {
    let fleet = Fleet::new(backend, SOURCES[0]).await;
    let call = fleet.ask(&fleet.here, ASK).await.call();
    let in_pieces = |pieces: &[&'static str]| -> Request<Body> {
        let (feed, body) = Feed::new();
        pieces.iter().for_each(|piece| feed.data(*piece).unwrap());
        request(Method::QUERY, "/s", &[JSON]).map(|_| body)
    };
    for pieces in [&["{\"a\":1}"][..], &["{", "\"a\"", ":1}"], &["", "{\"a\":1", "", "}", ""]] {
        for node in [&fleet.here, &fleet.there] {
            assert_eq!(node.ask(in_pieces(pieces)).await.call(), call, "{pieces:?}");
        }
    }
    // And where one ends and the next one begins is no part of it either.
    for pieces in [&["{\"a\":1}", "{\"a\":1}"][..], &["{\"a\":1", "}{\"a\":1}"]] {
        assert!(fleet.there.ask(in_pieces(pieces)).await.text().ends_with("\n{\"a\":1}{\"a\":1}"), "{pieces:?}");
    }
    let with_length = request(Method::QUERY, "/s", &[JSON, ("content-length", "7")]).map(|_| full(A));
    assert_eq!(fleet.there.ask(with_length).await.call(), call);
}

/// While they are being loaded: each waits for its own.
async fn those_who_wait_get_their_own(backend: &Backend) {
    let gate = Gate::closed();
    let origin = Origin::gated_obedient(&gate, |_, _| true);
    let (here, there) = (QueryApp::on(backend, &origin).await, QueryApp::on(backend, &origin).await);
    let asks = [Ask::of("1"), Ask::of("2"), Ask { content: "1", ..Ask::with(&[("content-type", "text/plain")]) }];
    let clients: Vec<_> = (0..30)
        .map(|number| {
            let (node, ask) = (if number % 2 == 0 { here.clone() } else { there.clone() }, asks[number % 3]);
            tokio::spawn(async move {
                let fields = [ask.fields, &[("x-say-cache-control", "max-age=60")]].concat();
                (ask, node.query(ask.uri, &fields, ask.content).await)
            })
        })
        .collect();
    wait_until("each content is loaded, and all others wait", async || {
        let waiting = here.cache.counts().coalesced + there.cache.counts().coalesced;
        origin.calls() == asks.len() && waiting >= 30 - 2 * asks.len() as u64
    })
    .await;
    gate.open();
    for client in clients {
        let (ask, answer) = client.await.unwrap();
        let of_its_type = format!("content-type: {}\n", ask.fields[0].1);
        assert!(
            answer.text().ends_with(&format!("\n{}", ask.content)) && answer.text().contains(&of_its_type),
            "{ask:?}"
        );
    }
    assert_eq!(origin.calls(), asks.len());
}

over_each_store!(
    another_uri,
    another_content,
    another_meaning_of_the_same_bytes,
    another_method,
    what_is_one_users,
    nothing_else_tells_them_apart,
    framing_is_no_part_of_the_content,
    those_who_wait_get_their_own,
);
