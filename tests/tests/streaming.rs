//! A request that waits for another request's load is answered while the response comes in, if it may have that response, and
//! learns when the response breaks off.

use std::{
    pin::Pin,
    task::{self, Poll},
    time::Duration,
};

use bytes::Bytes;
use cache_layer::{BodyError, CacheLayer, ResponseBody, Tags};
use futures_util::stream::{self, StreamExt as _};
use http::{Method, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tests::{
    App, Backend, Body, CacheStatus, Failure, Feed, Gate, HttpClient, Origin, full, over_each_store, request,
    wait_until,
};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tower::ServiceExt as _;

type Fields = &'static [(&'static str, &'static str)];
type Answer = http::Response<ResponseBody<Body>>;

const LIMIT: Duration = Duration::from_secs(30);
const MAX_AGE: Fields = &[("cache-control", "max-age=60")];
const SIX_BYTES: Fields = &[("cache-control", "max-age=60"), ("content-length", "6")];

/// An application whose bodies the test writes, call by call.
struct Playwright {
    origin: Origin,
    calls: mpsc::UnboundedReceiver<Feed>,
}

impl Playwright {
    fn answering(fields: Fields) -> Self {
        let (tell, calls) = mpsc::unbounded_channel();
        let origin = Origin::new(move |call, request| {
            let (feed, body) = Feed::new();
            tell.send(feed).expect("the test goes on");
            let mut response = http::Response::builder().header("x-call", call);
            for (name, value) in fields {
                response = response.header(*name, *value);
            }
            if let Some(language) = request.headers().get("accept-language") {
                response = response.header("content-language", language);
            }
            let mut response = response.body(body).unwrap();
            response.extensions_mut().insert(Tags::new(["products"]));
            async move { Ok(response) }
        });
        Self { origin, calls }
    }

    /// The body of the next call.
    async fn call(&mut self) -> Feed {
        timeout(LIMIT, self.calls.recv()).await.expect("the application is called").unwrap()
    }
}

/// A cache in front of it.
async fn node(backend: &Backend, play: &Playwright) -> App {
    App::on(backend, &play.origin).await
}

/// GET, without reading the body.
fn begin(app: &App, fields: Fields) -> JoinHandle<Answer> {
    begin_at(app, "/", fields)
}

fn begin_at(app: &App, uri: &str, fields: Fields) -> JoinHandle<Answer> {
    let (app, request) = (app.clone(), request(Method::GET, uri, fields));
    tokio::spawn(async move { app.begin(request).await.unwrap() })
}

async fn answer(client: JoinHandle<Answer>) -> Answer {
    timeout(LIMIT, client).await.expect("an answer in time").unwrap()
}

async fn piece(response: &mut Answer) -> Option<Result<Bytes, BodyError<Failure>>> {
    let frame = timeout(LIMIT, response.body_mut().frame()).await.expect("a piece in time");
    frame.map(|frame| frame.map(|frame| frame.into_data().expect("data")))
}

async fn text(response: Answer) -> Result<String, BodyError<Failure>> {
    let body = timeout(LIMIT, response.into_body().collect()).await.expect("a whole body in time")?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

fn call(response: &Answer) -> &str {
    response.headers()["x-call"].to_str().unwrap()
}

async fn wait_for_followers(app: &App, followers: u64) {
    wait_until(&format!("{followers} requests wait"), async || app.cache.counts().coalesced == followers).await;
}

mod a_follower {
    use super::*;

    async fn has_the_first_byte_before_the_last_is_sent(backend: &Backend) {
        let mut play = Playwright::answering(SIX_BYTES);
        let app = node(backend, &play).await;
        let mut leader = answer(begin(&app, &[])).await;
        let feed = play.call().await;
        let mut early = answer(begin(&app, &[])).await;
        feed.data("one").unwrap();
        let mut late = answer(begin(&app, &[])).await;
        for client in [&mut leader, &mut early, &mut late] {
            assert_eq!(piece(client).await, Some(Ok("one".into())));
        }
        feed.data("two").unwrap();
        drop(feed);
        for mut client in [leader, early, late] {
            assert_eq!(piece(&mut client).await, Some(Ok("two".into())));
            assert_eq!(piece(&mut client).await, None);
            assert!(client.body().is_end_stream());
        }
        app.settled().await;
        let counts = app.cache.counts();
        assert_eq!((play.origin.calls(), counts.misses, counts.hits, counts.joined), (1, 1, 2, 2));
        assert_eq!(App::on(backend, &play.origin).await.get("/", &[]).await.text(), "onetwo");
    }

    async fn has_the_whole_of_what_trailers_keep_from_being_stored(backend: &Backend) {
        let mut play = Playwright::answering(SIX_BYTES);
        let app = node(backend, &play).await;
        let leader = answer(begin(&app, &[])).await;
        let feed = play.call().await;
        let follower = answer(begin(&app, &[])).await;
        feed.data("onetwo").unwrap();
        feed.trailers([(http::header::ETAG, http::HeaderValue::from_static("\"e\""))].into_iter().collect()).unwrap();
        drop(feed);
        assert_eq!((text(leader).await, text(follower).await), (Ok("onetwo".into()), Ok("onetwo".into())));
        app.settled().await;
        assert_eq!((play.origin.calls(), app.cache.counts().joined, app.cache.counts().stored), (1, 1, 0));
    }

    /// As what is rendered or compressed as it goes.
    async fn has_what_is_there_of_a_body_whose_length_nobody_knows(backend: &Backend) {
        let mut play = Playwright::answering(MAX_AGE);
        let app = node(backend, &play).await;
        let mut leader = answer(begin(&app, &[])).await;
        let feed = play.call().await;
        let mut early = answer(begin(&app, &[])).await;
        feed.data("one").unwrap();
        let mut late = answer(begin(&app, &[])).await;
        for client in [&mut leader, &mut early, &mut late] {
            assert_eq!(piece(client).await, Some(Ok("one".into())));
            assert_eq!(client.body().size_hint().exact(), None);
        }
        feed.data("two").unwrap();
        drop(feed);
        for client in [leader, early, late] {
            assert_eq!(text(client).await.unwrap(), "two");
        }
        app.settled().await;
        let counts = app.cache.counts();
        assert_eq!((play.origin.calls(), counts.misses, counts.hits, counts.joined), (1, 1, 2, 2));
        assert_eq!(App::on(backend, &play.origin).await.get("/", &[]).await.text(), "onetwo");
    }

    async fn may_ask_for_a_part_of_a_body_whose_length_nobody_knows(backend: &Backend) {
        let mut play = Playwright::answering(MAX_AGE);
        let app = node(backend, &play).await;
        let leader = answer(begin(&app, &[])).await;
        let feed = play.call().await;
        let part = begin(&app, &[("range", "bytes=1-3")]);
        wait_for_followers(&app, 1).await;
        feed.data("onetwo").unwrap();
        drop(feed);
        assert_eq!(text(leader).await.unwrap(), "onetwo");
        let part = answer(part).await;
        assert_eq!((part.status(), play.origin.calls()), (StatusCode::PARTIAL_CONTENT, 1));
        assert_eq!(text(part).await.unwrap(), "net");
    }

    async fn is_told_what_it_is_given(backend: &Backend) {
        let mut play = Playwright::answering(&[("cache-control", "max-age=60"), ("content-length", "0"), ("age", "7")]);
        let app = node(backend, &play).await;
        let leader = answer(begin(&app, &[])).await;
        let _feed = play.call().await;
        let follower = answer(begin(&app, &[])).await;
        let field = |name| follower.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!((field("x-cache"), field("age"), field("x-cache-age")), (Some("HIT"), Some("7"), Some("0")));
        let status = CacheStatus { fwd: Some("uri-miss".into()), collapsed: true, ..CacheStatus::default() };
        assert_eq!(CacheStatus::of(follower.headers()), status);
        assert_eq!(follower.body().size_hint().exact(), Some(0));
        assert!(!follower.body().is_end_stream(), "nobody has said that it ended");
        assert_eq!(call(&leader), call(&follower));
    }

    async fn has_every_byte_of_the_leaders(backend: &Backend) {
        for round in 0..20 {
            let whole: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(fastrand::usize(..50_000)).collect();
            let length: &'static str = whole.len().to_string().leak();
            let fields = vec![("cache-control", "max-age=60"), ("content-length", length)].leak();
            let mut play = Playwright::answering(fields);
            let app = node(backend, &play).await;
            let mut clients = JoinSet::new();
            let join = |clients: &mut JoinSet<_>| {
                let client = begin_at(&app, &format!("/{round}"), &[]);
                clients.spawn(async move {
                    let mut client = answer(client).await;
                    let mut got = Vec::new();
                    while let Some(data) = piece(&mut client).await {
                        got.extend_from_slice(&data.unwrap());
                        if fastrand::bool() {
                            tokio::task::yield_now().await;
                        }
                    }
                    got
                });
            };
            join(&mut clients);
            let feed = play.call().await;
            let mut rest = &whole[..];
            while !rest.is_empty() {
                let (data, left) = rest.split_at(fastrand::usize(1..=rest.len().min(5_000)));
                feed.data(Bytes::copy_from_slice(data)).unwrap();
                rest = left;
                join(&mut clients);
                if fastrand::bool() {
                    tokio::task::yield_now().await;
                }
            }
            drop(feed);
            while let Some(got) = clients.join_next().await {
                let got = got.unwrap();
                let agree = got.iter().zip(&whole).take_while(|(one, other)| one == other).count();
                assert!(got == whole, "round {round}: {agree} bytes agree of {} and {}", got.len(), whole.len());
            }
            assert_eq!(play.origin.calls(), 1);
        }
    }

    async fn may_ask_for_a_part_or_whether_it_has_it_already(backend: &Backend) {
        let mut play =
            Playwright::answering(&[("cache-control", "max-age=60"), ("content-length", "6"), ("etag", "\"a\"")]);
        let app = node(backend, &play).await;
        let leader = answer(begin(&app, &[])).await;
        let feed = play.call().await;
        let matching = answer(begin(&app, &[("if-none-match", "\"a\"")])).await;
        assert_eq!(matching.status(), StatusCode::NOT_MODIFIED);
        let part = answer(begin(&app, &[("range", "bytes=1-3")])).await;
        assert_eq!(
            (part.status(), &part.headers()["content-range"]),
            (StatusCode::PARTIAL_CONTENT, &"bytes 1-3/6".parse().unwrap())
        );
        feed.data("one").unwrap();
        feed.data("t").unwrap();
        assert_eq!(text(part).await.unwrap(), "net", "it is not kept waiting for what it has not asked for");
        feed.data("wo").unwrap();
        drop(feed);
        assert_eq!(text(leader).await.unwrap(), "onetwo");
        assert_eq!(play.origin.calls(), 1);
    }

    async fn that_is_slow_or_leaves_holds_nobody_up(backend: &Backend) {
        let mut play = Playwright::answering(SIX_BYTES);
        let app = node(backend, &play).await;
        let leader = answer(begin(&app, &[])).await;
        let feed = play.call().await;
        let slow = answer(begin(&app, &[])).await;
        let leaving = answer(begin(&app, &[])).await;
        let quick = answer(begin(&app, &[])).await;
        feed.data("one").unwrap();
        drop(leaving);
        feed.data("two").unwrap();
        drop(feed);
        assert_eq!(text(quick).await.unwrap(), "onetwo");
        app.settled().await;
        app.cache.invalidate_all().await.unwrap();
        assert_eq!(text(slow).await.unwrap(), "onetwo");
        assert_eq!(text(leader).await.unwrap(), "onetwo");
    }

    async fn goes_on_without_the_leaders_client(backend: &Backend) {
        let mut play = Playwright::answering(SIX_BYTES);
        let app = node(backend, &play).await;
        let leader = answer(begin(&app, &[])).await;
        let feed = play.call().await;
        let follower = answer(begin(&app, &[])).await;
        feed.data("one").unwrap();
        drop(leader);
        feed.data("two").unwrap();
        drop(feed);
        assert_eq!(text(follower).await.unwrap(), "onetwo");
    }

    over_each_store!(
        has_the_first_byte_before_the_last_is_sent,
        has_the_whole_of_what_trailers_keep_from_being_stored,
        has_what_is_there_of_a_body_whose_length_nobody_knows,
        may_ask_for_a_part_of_a_body_whose_length_nobody_knows,
        is_told_what_it_is_given,
        has_every_byte_of_the_leaders,
        may_ask_for_a_part_or_whether_it_has_it_already,
        that_is_slow_or_leaves_holds_nobody_up,
        goes_on_without_the_leaders_client,
    );
}

/// Nobody could know when it began.
mod a_body_that_is_longer_than_what_is_kept {
    use super::*;

    /// A leader and a follower that have its beginning, three bytes before it is too long.
    async fn begun(backend: &Backend) -> (Playwright, App, Feed, Answer, Answer) {
        let mut play = Playwright::answering(MAX_AGE);
        let app = App::new(backend.cache().await.build(), &play.origin, |layer| layer.max_body(6));
        let mut leader = answer(begin(&app, &[])).await;
        let feed = play.call().await;
        let mut follower = answer(begin(&app, &[])).await;
        feed.data("one").unwrap();
        for client in [&mut leader, &mut follower] {
            assert_eq!(piece(client).await, Some(Ok("one".into())));
        }
        (play, app, feed, leader, follower)
    }

    async fn goes_on_for_all_who_read_it(backend: &Backend) {
        let (play, app, feed, mut leader, mut follower) = begun(backend).await;
        feed.data("two").unwrap();
        feed.data("three").unwrap();
        for client in [&mut leader, &mut follower] {
            assert_eq!(piece(client).await, Some(Ok("two".into())));
            assert_eq!(piece(client).await, Some(Ok("three".into())), "it waits for nothing");
        }
        feed.data("four").unwrap();
        feed.trailers([(http::header::ETAG, http::HeaderValue::from_static("\"e\""))].into_iter().collect()).unwrap();
        drop(feed);
        let led = timeout(LIMIT, leader.into_body().collect()).await.unwrap().unwrap();
        assert_eq!(led.trailers().map(|trailers| trailers.contains_key("etag")), Some(true));
        assert_eq!((&led.to_bytes()[..], text(follower).await.unwrap()), (&b"four"[..], "four".into()));
        app.settled().await;
        assert_eq!((play.origin.calls(), app.cache.counts().stored), (1, 0));
    }

    async fn releases_those_who_still_wait_and_takes_nobody_more(backend: &Backend) {
        let (mut play, app, feed, leader, follower) = begun(backend).await;
        let waiting = begin(&app, &[("range", "bytes=0-1")]);
        wait_for_followers(&app, 2).await;
        feed.data("two").unwrap();
        feed.data("three").unwrap();
        // This request gets an answer of its own, while the other one's continues.
        let own = play.call().await;
        assert_eq!(call(&answer(waiting).await), "2");
        drop(own);
        let later = begin(&app, &[]);
        let own = play.call().await;
        own.data("whole").unwrap();
        drop(own);
        assert_eq!(text(answer(later).await).await.unwrap(), "whole");
        drop(feed);
        assert_eq!((text(leader).await, text(follower).await), (Ok("twothree".into()), Ok("twothree".into())));
    }

    async fn is_an_error_for_all_who_read_it_when_it_breaks_off(backend: &Backend) {
        let (_play, _app, feed, leader, follower) = begun(backend).await;
        feed.data("twothree").unwrap();
        feed.abort(Failure("the disk is gone")).unwrap();
        assert_eq!(text(leader).await, Err(BodyError::Inner(Failure("the disk is gone"))));
        assert_eq!(text(follower).await, Err(BodyError::BrokenOff));
    }

    async fn ends_when_nobody_reads_it_any_more(backend: &Backend) {
        let (_play, app, feed, leader, follower) = begun(backend).await;
        feed.data("twothree").unwrap();
        drop(leader);
        let mut follower = follower;
        assert_eq!(piece(&mut follower).await, Some(Ok("twothree".into())));
        drop(follower);
        wait_until("the application is told", async || feed.data("more").is_err()).await;
        app.settled().await;
    }

    over_each_store!(
        goes_on_for_all_who_read_it,
        releases_those_who_still_wait_and_takes_nobody_more,
        is_an_error_for_all_who_read_it_when_it_breaks_off,
        ends_when_nobody_reads_it_any_more,
    );
}

mod a_body_that_breaks_off {
    use super::*;

    async fn is_an_error_for_all_where_nobody_knew_its_length(backend: &Backend) {
        let mut play = Playwright::answering(MAX_AGE);
        let app = node(backend, &play).await;
        let leader = answer(begin(&app, &[])).await;
        let feed = play.call().await;
        let follower = answer(begin(&app, &[])).await;
        feed.data("one").unwrap();
        feed.abort(Failure("the disk is gone")).unwrap();
        assert_eq!(text(leader).await, Err(BodyError::Inner(Failure("the disk is gone"))));
        assert_eq!(text(follower).await, Err(BodyError::BrokenOff));
        app.settled().await;
        assert_eq!(app.cache.counts().stored, 0);
    }

    /// Two clients in the middle of a body.
    async fn half_way(backend: &Backend) -> (Playwright, App, Feed, Answer, Answer) {
        let mut play = Playwright::answering(SIX_BYTES);
        let app = node(backend, &play).await;
        let mut leader = answer(begin(&app, &[])).await;
        let feed = play.call().await;
        let mut follower = answer(begin(&app, &[])).await;
        feed.data("one").unwrap();
        for client in [&mut leader, &mut follower] {
            assert_eq!(piece(client).await, Some(Ok("one".into())));
        }
        (play, app, feed, leader, follower)
    }

    async fn is_an_error_for_all_and_is_not_stored(backend: &Backend) {
        let (mut play, app, feed, leader, follower) = half_way(backend).await;
        feed.abort(Failure("the disk is gone")).unwrap();
        assert_eq!(text(leader).await, Err(BodyError::Inner(Failure("the disk is gone"))));
        assert_eq!(text(follower).await, Err(BodyError::BrokenOff));
        app.settled().await;
        begin(&app, &[]);
        play.call().await;
    }

    async fn is_no_end_for_those_who_share_it_when_it_is_shorter_or_longer_than_announced(backend: &Backend) {
        for rest in [&["t"][..], &[], &["two", "three"], &["twothree"]] {
            let (mut play, app, feed, leader, follower) = half_way(backend).await;
            for data in rest {
                feed.data(*data).unwrap();
            }
            drop(feed);
            assert_eq!(text(leader).await.unwrap(), rest.concat(), "as it came");
            assert_eq!(text(follower).await, Err(BodyError::BrokenOff), "{rest:?}");
            app.settled().await;
            begin(&app, &[]);
            play.call().await;
        }
    }

    /// A body that states a length, whatever comes.
    struct Stating(Body, u64);

    impl http_body::Body for Stating {
        type Data = Bytes;
        type Error = Failure;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut task::Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.1)
        }
    }

    async fn is_not_stored_when_it_is_shorter_or_longer_than_its_body_states(backend: &Backend) {
        for (uri, length) in [("/short", 4), ("/long", 2)] {
            let origin = Origin::new(move |call, _| {
                let response = http::Response::builder().header("cache-control", "max-age=60").header("x-call", call);
                let response = response.body(Stating(full("one"), length).boxed_unsync()).unwrap();
                std::future::ready(Ok(response))
            });
            let app = App::on(backend, &origin).await;
            for number in ["1", "2"] {
                let response = answer(begin_at(&app, uri, &[])).await;
                assert_eq!(call(&response), number, "{uri}");
                assert_eq!(text(response).await.unwrap(), "one", "as it came");
                app.settled().await;
            }
        }
    }

    async fn is_no_end_for_those_who_share_it_when_the_application_panics(backend: &Backend) {
        let play = Playwright::answering(SIX_BYTES);
        let gate = Gate::closed();
        let origin = Origin::new({
            let gate = gate.clone();
            move |_, _| {
                let gate = gate.clone();
                let first = stream::once(std::future::ready(Ok(Frame::data(Bytes::from("one")))));
                let rest = stream::once(async move {
                    gate.pass().await;
                    panic!("the first body panics")
                });
                let response = http::Response::builder().header("cache-control", "max-age=60");
                let response =
                    response.header("content-length", 6).body(StreamBody::new(first.chain(rest)).boxed_unsync());
                async move { Ok(response.unwrap()) }
            }
        });
        let app = node(backend, &Playwright { origin, ..play }).await;
        let leader = answer(begin(&app, &[])).await;
        let mut follower = answer(begin(&app, &[])).await;
        assert_eq!(piece(&mut follower).await, Some(Ok("one".into())));
        gate.open();
        assert_eq!(text(follower).await, Err(BodyError::BrokenOff));
        assert!(tokio::spawn(text(leader)).await.unwrap_err().is_panic());
    }

    over_each_store!(
        is_an_error_for_all_and_is_not_stored,
        is_an_error_for_all_where_nobody_knew_its_length,
        is_no_end_for_those_who_share_it_when_the_application_panics,
        is_no_end_for_those_who_share_it_when_it_is_shorter_or_longer_than_announced,
        is_not_stored_when_it_is_shorter_or_longer_than_its_body_states,
    );

    /// The client can tell it from a complete response.
    #[tokio::test(flavor = "multi_thread")]
    async fn breaks_the_connection_of_those_who_share_it() {
        let mut play = Playwright::answering(SIX_BYTES);
        let app = node(&Backend::memory(), &play).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let service = app.service().map_request(|request: http::Request<hyper::body::Incoming>| {
            request.map(|body| body.map_err(|_| Failure("the client is gone")).boxed_unsync())
        });
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(service.clone());
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        let get = || {
            let url = url.clone();
            tokio::spawn(async move { HttpClient::without_keep_alive().try_request(Method::GET, &url, &[], "").await })
        };
        for whole in [false, true] {
            let leader = get();
            let feed = play.call().await;
            let joined = app.cache.counts().joined;
            let followers = [get(), get()];
            wait_until("they share it", async || app.cache.counts().joined == joined + 2).await;
            feed.data("one").unwrap();
            if whole {
                feed.data("two").unwrap();
                drop(feed);
            } else {
                feed.abort(Failure("the disk is gone")).unwrap();
            }
            for client in followers.into_iter().chain([leader]) {
                let body = client.await.unwrap().map(|response| response.body);
                assert_eq!(body.ok(), whole.then(|| "onetwo".into()));
            }
            app.settled().await;
        }
    }
}

mod who_comes_after_an_invalidation {
    use super::*;

    const OLD: &str = "1";
    const NEW: &str = "2";

    /// Invalidates at `writer` what `reader` is loading.
    async fn is_not_given(backend: &Backend, elsewhere: bool, by: &str) {
        let mut play = Playwright::answering(SIX_BYTES);
        let reader = node(backend, &play).await;
        // Removes the entry of the last round.
        reader.cache.invalidate_all().await.unwrap();
        let writer = if elsewhere { App::on(backend, &play.origin).await } else { reader.clone() };

        let leader = answer(begin(&reader, &[])).await;
        let old = play.call().await;
        old.data("old").unwrap();
        let before = answer(begin(&reader, &[])).await;
        let key = CacheLayer::new(writer.cache.clone()).key(&"http://shop.example/".parse().unwrap()).unwrap();
        match by {
            "key" => writer.cache.invalidate(&key).await.unwrap(),
            "tag" => writer.cache.invalidate_tag("products").await.unwrap(),
            _ => writer.cache.invalidate_all().await.unwrap(),
        }
        let waiting = reader.cache.counts().coalesced;
        let after = begin(&reader, &[]);
        wait_for_followers(&reader, waiting + 1).await;
        old.data("est").unwrap();
        drop(old);
        for client in [leader, before] {
            assert_eq!(call(&client), OLD);
            assert_eq!(text(client).await.unwrap(), "oldest");
        }
        let new = play.call().await;
        new.data("newest").unwrap();
        drop(new);
        let after = answer(after).await;
        assert_eq!(call(&after), NEW, "invalidated by {by}");
        assert_eq!(text(after).await.unwrap(), "newest");
        reader.settled().await;
    }

    async fn here_is_not_given_what_began_before_it(backend: &Backend) {
        for by in ["key", "tag", "everything"] {
            is_not_given(backend, false, by).await;
        }
    }

    async fn elsewhere_is_not_given_what_began_before_it(backend: &Backend) {
        for by in ["key", "tag", "everything"] {
            is_not_given(backend, true, by).await;
        }
    }

    /// The load of a variant has a lease of its own, and the key that was invalidated leads to the variants again.
    async fn of_the_key_is_not_given_a_variant_that_began_before_it(backend: &Backend) {
        const GERMAN: Fields = &[("accept-language", "de")];
        const ENGLISH: Fields = &[("accept-language", "en")];
        let mut play = Playwright::answering(&[
            ("cache-control", "max-age=60"),
            ("vary", "accept-language"),
            ("content-length", "6"),
        ]);
        let reader = node(backend, &play).await;
        let writer = App::on(backend, &play.origin).await;
        let load_english = async |play: &mut Playwright| {
            let english = begin(&writer, ENGLISH);
            play.call().await.data("saxon!").unwrap();
            text(answer(english).await).await.unwrap();
            writer.settled().await;
        };
        load_english(&mut play).await;
        let leader = answer(begin(&reader, GERMAN)).await;
        let old = play.call().await;
        let key = CacheLayer::new(writer.cache.clone()).key(&"http://shop.example/".parse().unwrap()).unwrap();
        writer.cache.invalidate(&key).await.unwrap();
        load_english(&mut play).await;
        let after = begin(&reader, GERMAN);
        wait_for_followers(&reader, 1).await;
        old.data("gothic").unwrap();
        drop(old);
        assert_eq!(text(leader).await.unwrap(), "gothic");
        play.call().await.data("german").unwrap();
        assert_eq!(text(answer(after).await).await.unwrap(), "german");
    }

    /// Nobody can ask the store any more, and what this process alone knows must do.
    #[tokio::test(flavor = "multi_thread")]
    async fn that_could_not_be_delivered_is_not_given_what_began_before_it() {
        let mut play = Playwright::answering(SIX_BYTES);
        let backend = Backend::redis();
        let app = node(&backend, &play).await;
        drop(backend);
        wait_until("the store is lost", async || {
            app.begin(request(Method::HEAD, "/lost", &[])).await.unwrap();
            drop(play.call().await);
            app.cache.counts().unavailable > 0
        })
        .await;
        let before = play.origin.calls();
        let leader = answer(begin(&app, &[])).await;
        let old = play.call().await;
        let follower = answer(begin(&app, &[])).await;
        app.cache.invalidate_tag("products").await.unwrap_err();
        let waiting = app.cache.counts().coalesced;
        let after = begin(&app, &[]);
        wait_for_followers(&app, waiting + 1).await;
        old.data("oldest").unwrap();
        drop(old);
        for client in [leader, follower] {
            assert_eq!(call(&client), (before + 1).to_string());
            assert_eq!(text(client).await.unwrap(), "oldest");
        }
        play.call().await.data("newest").unwrap();
        assert_eq!(text(answer(after).await).await.unwrap(), "newest");
    }

    over_each_store!(
        here_is_not_given_what_began_before_it,
        elsewhere_is_not_given_what_began_before_it,
        of_the_key_is_not_given_a_variant_that_began_before_it,
    );
}

mod what_is_not_shareable {
    use super::*;

    const UNSHAREABLE: [Fields; 6] = [
        &[("cache-control", "max-age=60, private"), ("content-length", "6")],
        &[("cache-control", "no-store"), ("content-length", "6")],
        &[("cache-control", "max-age=60"), ("set-cookie", "sid=1"), ("content-length", "6")],
        &[("cache-control", "max-age=60"), ("vary", "*"), ("content-length", "6")],
        &[("cache-control", "max-age=60"), ("content-length", "2000000")],
        &[("content-length", "6")],
    ];

    /// Each has an answer of its own, and has it while the first one is still coming in.
    async fn releases_those_who_wait_before_a_byte(backend: &Backend) {
        for (row, fields) in UNSHAREABLE.into_iter().enumerate() {
            let mut play = Playwright::answering(fields);
            let app = node(backend, &play).await;
            let clients = [(); 4].map(|()| begin_at(&app, &format!("/{row}"), &[]));
            let mut calls = Vec::new();
            for client in clients {
                calls.push(call(&answer(client).await).to_owned());
            }
            calls.sort_unstable();
            assert_eq!(calls, ["1", "2", "3", "4"], "{fields:?}");
            for _ in 0..4 {
                drop(play.call().await);
            }
            assert_eq!((play.origin.calls(), app.cache.counts().joined), (4, 0), "{fields:?}");
            app.settled().await;
        }
    }

    async fn is_another_ones_language(backend: &Backend) {
        let mut play = Playwright::answering(&[
            ("cache-control", "max-age=60"),
            ("vary", "accept-language"),
            ("content-length", "6"),
        ]);
        let app = node(backend, &play).await;
        let german = answer(begin(&app, &[("accept-language", "de")])).await;
        let feed = play.call().await;
        let english = begin(&app, &[("accept-language", "en")]);
        wait_for_followers(&app, 1).await;
        let same = answer(begin(&app, &[("accept-language", "de")])).await;
        assert_eq!((call(&same), app.cache.counts().joined), (call(&german), 1));
        feed.data("german").unwrap();
        drop(feed);
        assert_eq!(text(same).await.unwrap(), "german");
        let feed = play.call().await;
        feed.data("saxon!").unwrap();
        drop(feed);
        let english = answer(english).await;
        assert_eq!(english.headers()["content-language"], "en");
        assert_eq!(text(english).await.unwrap(), "saxon!");
    }

    over_each_store!(releases_those_who_wait_before_a_byte, is_another_ones_language);
}
