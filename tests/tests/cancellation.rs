//! Clients leave, applications hang, fail and panic: the remaining clients are answered, and a load that has begun is not lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use tests::{
    App, Backend, CacheStatus, Failure, Feed, Gate, Origin, Response, echo, over_each_store, request, wait_until,
};
use tokio::{sync::Barrier, task::JoinHandle};

type Fields = &'static [(&'static str, &'static str)];

const MAX_AGE: Fields = &[("cache-control", "max-age=60")];

fn spawn_get(app: &App) -> JoinHandle<Response> {
    let app = app.clone();
    tokio::spawn(async move { app.get("/", &[]).await })
}

async fn wait_for_calls(origin: &Origin, calls: usize) {
    wait_until(&format!("the application is called {calls} times"), async || origin.calls() == calls).await;
}

/// Waits until so many requests wait for another one's load.
async fn wait_for_followers(app: &App, followers: u64) {
    wait_until(&format!("{followers} requests wait"), async || app.cache.counts().coalesced == followers).await;
}

/// Cancels a client's request, whatever its state.
async fn leave(client: JoinHandle<Response>) {
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled(), "it was answered before it could leave");
}

mod a_client_that_leaves {
    use super::*;

    async fn before_the_head_is_there_leaves_a_stored_response(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::gated_echo(&gate, MAX_AGE);
        let app = App::on(backend, &origin).await;
        let client = spawn_get(&app);
        wait_for_calls(&origin, 1).await;
        leave(client).await;
        gate.open();
        app.settled().await;
        let elsewhere = App::on(backend, &origin).await;
        for node in [&app, &elsewhere] {
            let answer = node.get("/", &[]).await;
            assert_eq!((answer.x_cache(), answer.call()), ("HIT", 1));
        }
    }

    async fn in_the_middle_of_the_body_leaves_a_stored_response(backend: &Backend) {
        let rest = Gate::closed();
        let origin = two_chunks(&rest);
        let app = App::on(backend, &origin).await;
        let mut response = app.begin(request(Method::GET, "/", &[])).await.unwrap();
        let first = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "one ");
        drop(response);
        rest.open();
        app.settled().await;
        let elsewhere = App::on(backend, &origin).await;
        for node in [&app, &elsewhere] {
            let answer = node.get("/", &[]).await;
            assert_eq!((answer.x_cache(), answer.text()), ("HIT", "one two"));
        }
        assert_eq!(origin.calls(), 1);
    }

    async fn while_others_wait_for_its_load_is_not_missed(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::gated_echo(&gate, MAX_AGE);
        let app = App::on(backend, &origin).await;
        let leader = spawn_get(&app);
        wait_for_calls(&origin, 1).await;
        let followers = [(); 5].map(|()| spawn_get(&app));
        wait_for_followers(&app, 5).await;
        leave(leader).await;
        gate.open();
        for follower in followers {
            let answer = follower.await.unwrap();
            assert_eq!((answer.x_cache(), answer.call()), ("HIT", 1));
        }
        assert_eq!(origin.calls(), 1);
    }

    async fn while_it_waits_for_anothers_load_changes_nothing(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::gated_echo(&gate, MAX_AGE);
        let app = App::on(backend, &origin).await;
        let leader = spawn_get(&app);
        wait_for_calls(&origin, 1).await;
        let leaving = [(); 3].map(|()| spawn_get(&app));
        let staying = spawn_get(&app);
        wait_for_followers(&app, 4).await;
        for client in leaving {
            leave(client).await;
        }
        gate.open();
        assert_eq!(leader.await.unwrap().x_cache(), "MISS");
        assert_eq!(staying.await.unwrap().x_cache(), "HIT");
        assert_eq!(app.get("/", &[]).await.x_cache(), "HIT");
        assert_eq!(origin.calls(), 1);
    }

    /// The client stays connected, and may read later or never.
    async fn its_answer_unread_holds_nobody_up(backend: &Backend) {
        let rest = Gate::closed();
        let origin = two_chunks(&rest);
        let app = App::on(backend, &origin).await;
        let unread = app.begin(request(Method::GET, "/", &[])).await.unwrap();
        let follower = spawn_get(&app);
        wait_for_followers(&app, 1).await;
        rest.open();
        let answer = follower.await.unwrap();
        assert_eq!((answer.x_cache(), answer.text()), ("HIT", "one two"));
        assert_eq!(unread.into_body().collect().await.unwrap().to_bytes(), "one two");
        assert_eq!(origin.calls(), 1);
    }

    over_each_store!(
        before_the_head_is_there_leaves_a_stored_response,
        in_the_middle_of_the_body_leaves_a_stored_response,
        while_others_wait_for_its_load_is_not_missed,
        while_it_waits_for_anothers_load_changes_nothing,
        its_answer_unread_holds_nobody_up,
    );

    /// Sends the second half of its body once `rest` is open.
    fn two_chunks(rest: &Gate) -> Origin {
        let rest = rest.clone();
        Origin::new(move |_, _| {
            let rest = rest.clone();
            async move {
                let (feed, body) = Feed::new();
                tokio::spawn(async move {
                    feed.data("one ").unwrap();
                    rest.pass().await;
                    feed.data("two").unwrap();
                });
                let response = http::Response::builder().header("cache-control", "max-age=60");
                Ok(response.body(body).unwrap())
            }
        })
    }
}

mod a_load {
    use super::*;

    /// A lease lives for a third of it unless it is renewed, which a busy machine may be late to do.
    const LOCK_TIMEOUT: Duration = Duration::from_secs(9);

    async fn that_never_ends_costs_others_the_lock_timeout_and_no_answer(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::new({
            let gate = gate.clone();
            move |call, request| {
                let gate = gate.clone();
                async move {
                    if call == 1 {
                        gate.pass().await;
                    }
                    Ok(echo(call, &request, MAX_AGE))
                }
            }
        });
        let here = App::new(backend.cache().await.lock_timeout(LOCK_TIMEOUT).build(), &origin, |layer| layer);
        let there = App::new(backend.cache().await.lock_timeout(LOCK_TIMEOUT).build(), &origin, |layer| layer);
        let stuck = spawn_get(&here);
        wait_for_calls(&origin, 1).await;
        // Two that wait for it in its own process, and one that does in another.
        let alone = [&here, &here, &there].map(|node| {
            let node = node.clone();
            tokio::spawn(async move { node.begin(request(Method::GET, "/", &[])).await.unwrap() })
        });
        for client in alone {
            let status = CacheStatus::of(client.await.unwrap().headers());
            assert_eq!((status.hit, status.stored, status.detail.as_deref()), (false, false, Some("waited-too-long")));
        }
        assert_eq!(origin.calls(), 4);

        // Late as it is, nobody was faster.
        gate.open();
        assert_eq!(stuck.await.unwrap().call(), 1);
        for node in [&here, &there] {
            let answer = node.get("/", &[]).await;
            assert_eq!((answer.x_cache(), answer.call()), ("HIT", 1));
        }
    }

    async fn that_outlasts_the_lock_timeout_is_still_stored_and_still_the_only_one_to_be(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::gated_echo(&gate, MAX_AGE);
        let app = App::new(backend.cache().await.lock_timeout(LOCK_TIMEOUT).build(), &origin, |layer| layer);
        let slow = spawn_get(&app);
        wait_for_calls(&origin, 1).await;
        tokio::time::sleep(LOCK_TIMEOUT + Duration::from_secs(1)).await;
        gate.open();
        let answer = slow.await.unwrap();
        assert!(answer.cache_status().stored);
        assert_eq!(app.get("/", &[]).await.x_cache(), "HIT");
        assert_eq!(origin.calls(), 1);
    }

    async fn that_panics_is_taken_over_by_one_of_those_who_wait(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::new({
            let gate = gate.clone();
            move |call, request| {
                let gate = gate.clone();
                async move {
                    gate.pass().await;
                    assert_ne!(call, 1, "the first call panics");
                    Ok(echo(call, &request, MAX_AGE))
                }
            }
        });
        let here = patient(backend, &origin).await;
        let there = patient(backend, &origin).await;
        let leader = spawn_get(&here);
        wait_for_calls(&origin, 1).await;
        let followers = [&here, &here, &here, &there, &there].map(spawn_get);
        wait_for_followers(&here, 3).await;
        wait_for_followers(&there, 1).await;
        gate.open();
        let panic = leader.await.unwrap_err().into_panic();
        let message = panic.downcast_ref::<String>().expect("the application's own panic");
        assert!(message.contains("the first call panics"), "{message}");
        for follower in followers {
            assert_eq!(follower.await.unwrap().call(), 2);
        }
        assert_eq!(origin.calls(), 2);
    }

    async fn that_fails_lets_all_who_wait_go_ahead_together(backend: &Backend) {
        let others = Arc::new(Barrier::new(5));
        let gate = Gate::closed();
        let origin = Origin::new({
            let gate = gate.clone();
            move |call, request| {
                let (gate, others) = (gate.clone(), others.clone());
                async move {
                    if call == 1 {
                        gate.pass().await;
                        return Err(Failure("no database"));
                    }
                    // If the loads ran one after the other, none would pass.
                    others.wait().await;
                    Ok(echo(call, &request, MAX_AGE))
                }
            }
        });
        let app = patient(backend, &origin).await;
        let leader = tokio::spawn({
            let app = app.clone();
            async move { app.begin(request(Method::GET, "/", &[])).await }
        });
        wait_for_calls(&origin, 1).await;
        let followers = [(); 5].map(|()| spawn_get(&app));
        wait_for_followers(&app, 5).await;
        gate.open();
        assert_eq!(leader.await.unwrap().unwrap_err(), Failure("no database"));
        for follower in followers {
            assert_eq!(follower.await.unwrap().status, StatusCode::OK);
        }
        assert_eq!(origin.calls(), 6);
    }

    async fn that_cannot_be_shared_lets_all_who_wait_go_ahead_together(backend: &Backend) {
        for (row, fields) in UNSHAREABLE.into_iter().enumerate() {
            let (gate, origin) = meeting(6, fields);
            let app = patient(backend, &origin).await;
            let leader = spawn_get_at(&app, row);
            wait_for_calls(&origin, 1).await;
            let followers = [(); 6].map(|()| spawn_get_at(&app, row));
            wait_for_followers(&app, 6).await;
            gate.open();
            assert_eq!(leader.await.unwrap().call(), 1);
            for follower in followers {
                assert_ne!(follower.await.unwrap().call(), 1, "{fields:?}");
            }
            assert_eq!(origin.calls(), 7, "{fields:?}");
        }
    }

    async fn that_cannot_be_shared_lets_all_go_ahead_who_wait_in_other_processes(backend: &Backend) {
        for (row, fields) in UNSHAREABLE.into_iter().enumerate() {
            let (gate, origin) = meeting(6, fields);
            let [here, there] = [patient(backend, &origin).await, patient(backend, &origin).await];
            let leader = spawn_get_at(&here, row);
            wait_for_calls(&origin, 1).await;
            let followers = [&here, &here, &here, &there, &there, &there].map(|node| spawn_get_at(node, row));
            wait_for_followers(&here, 3).await;
            wait_for_followers(&there, 2).await;
            gate.open();
            assert_eq!(leader.await.unwrap().call(), 1);
            for follower in followers {
                assert_ne!(follower.await.unwrap().call(), 1, "{fields:?}");
            }
            assert_eq!(origin.calls(), 7, "{fields:?}");
        }
    }

    const UNSHAREABLE: [Fields; 4] = [
        &[("cache-control", "no-store")],
        &[("cache-control", "private, max-age=60")],
        &[("cache-control", "max-age=60"), ("set-cookie", "sid=1")],
        &[],
    ];

    /// The first call answers when the gate is open, and the others when so many of them have come together: one after
    /// the other, they would never get past.
    fn meeting(others: usize, fields: Fields) -> (Gate, Origin) {
        let (gate, others) = (Gate::closed(), Arc::new(Barrier::new(others)));
        let origin = Origin::new({
            let gate = gate.clone();
            move |call, request| {
                let (gate, others) = (gate.clone(), others.clone());
                async move {
                    if call == 1 {
                        gate.pass().await;
                    } else {
                        others.wait().await;
                    }
                    Ok(echo(call, &request, fields))
                }
            }
        });
        (gate, origin)
    }

    /// Waits longer for another's load than a test has time.
    async fn patient(backend: &Backend, origin: &Origin) -> App {
        App::new(backend.cache().await.lock_timeout(Duration::from_secs(600)).build(), origin, |layer| layer)
    }

    fn spawn_get_at(app: &App, row: usize) -> JoinHandle<Response> {
        let app = app.clone();
        tokio::spawn(async move { app.get(&format!("/{row}"), &[]).await })
    }

    async fn of_a_cold_key_is_the_only_one_in_a_process(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::gated_echo(&gate, MAX_AGE);
        let app = App::on(backend, &origin).await;
        let clients: Vec<_> = (0..100).map(|_| spawn_get(&app)).collect();
        wait_for_followers(&app, 99).await;
        gate.open();
        for client in clients {
            assert_eq!(client.await.unwrap().call(), 1);
        }
        assert_eq!(origin.calls(), 1);
        let counts = app.cache.counts();
        assert_eq!((counts.hits, counts.misses, counts.stored), (99, 1, 1));
    }

    async fn of_a_cold_key_is_the_only_one_in_a_fleet(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::gated_echo(&gate, MAX_AGE);
        let nodes = [App::on(backend, &origin).await, App::on(backend, &origin).await, App::on(backend, &origin).await];
        let clients: Vec<_> = (0..60).map(|client| spawn_get(&nodes[client % nodes.len()])).collect();
        for node in &nodes {
            wait_for_followers(node, 19).await;
        }
        gate.open();
        for client in clients {
            assert_eq!(client.await.unwrap().call(), 1);
        }
        assert_eq!(origin.calls(), 1);
        assert_eq!(nodes.iter().map(|node| node.cache.counts().stored).sum::<u64>(), 1);
    }

    async fn of_an_expired_key_is_the_only_one_in_a_fleet(backend: &Backend) {
        let clock = cache_layer::Clock::manual();
        let gate = Gate::closed();
        let origin = Origin::new({
            let gate = gate.clone();
            move |call, request| {
                let gate = gate.clone();
                async move {
                    if call > 1 {
                        gate.pass().await;
                    }
                    Ok(echo(call, &request, MAX_AGE))
                }
            }
        });
        let here = App::new(backend.cache().await.clock(clock.clone()).build(), &origin, |layer| layer);
        let there = App::new(backend.cache().await.clock(clock.clone()).build(), &origin, |layer| layer);
        here.get("/", &[]).await;
        clock.advance(Duration::from_secs(60));
        let clients: Vec<_> = (0..20).map(|client| spawn_get([&here, &there][client % 2])).collect();
        for node in [&here, &there] {
            wait_for_followers(node, 9).await;
        }
        gate.open();
        for client in clients {
            assert_eq!(client.await.unwrap().call(), 2);
        }
        assert_eq!(origin.calls(), 2);
    }

    async fn is_waited_for_by_a_shutdown(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::gated_echo(&gate, MAX_AGE);
        let app = App::on(backend, &origin).await;
        let client = spawn_get(&app);
        wait_for_calls(&origin, 1).await;
        leave(client).await;
        assert!(!app.cache.drain(Duration::from_millis(50)).await, "a load is under way");

        let drained = Arc::new(AtomicBool::new(false));
        let shutdown = tokio::spawn({
            let (cache, drained) = (app.cache.clone(), drained.clone());
            async move {
                let all = cache.drain(Duration::from_secs(30)).await;
                drained.store(true, Ordering::SeqCst);
                all
            }
        });
        tokio::task::yield_now().await;
        assert!(!drained.load(Ordering::SeqCst));
        gate.open();
        assert!(shutdown.await.unwrap());
        // The response is in the store by now.
        let elsewhere = App::on(backend, &origin).await;
        assert_eq!(elsewhere.get("/", &[]).await.x_cache(), "HIT");
    }

    async fn is_waited_for_by_everybody_who_wants_to(backend: &Backend) {
        let app = App::on(backend, &Origin::echo(&[("cache-control", "no-store")])).await;
        for _ in 0..200 {
            let waiting = [(); 4].map(|()| {
                let app = app.clone();
                tokio::spawn(async move {
                    app.begin(request(Method::GET, "/", &[])).await.unwrap();
                    app.cache.drain(Duration::from_secs(10)).await
                })
            });
            for drained in waiting {
                assert!(drained.await.unwrap(), "nothing was under way any more");
            }
        }
    }

    over_each_store!(
        that_never_ends_costs_others_the_lock_timeout_and_no_answer,
        that_outlasts_the_lock_timeout_is_still_stored_and_still_the_only_one_to_be,
        that_panics_is_taken_over_by_one_of_those_who_wait,
        that_fails_lets_all_who_wait_go_ahead_together,
        that_cannot_be_shared_lets_all_who_wait_go_ahead_together,
        that_cannot_be_shared_lets_all_go_ahead_who_wait_in_other_processes,
        of_a_cold_key_is_the_only_one_in_a_process,
        of_a_cold_key_is_the_only_one_in_a_fleet,
        of_an_expired_key_is_the_only_one_in_a_fleet,
        is_waited_for_by_a_shutdown,
        is_waited_for_by_everybody_who_wants_to,
    );
}

/// The client has left that asked for it, and nobody else waits.
mod a_load_that_nobody_waits_for {
    use cache_layer::{Cache, telemetry::LoadOutcome};
    use tokio::sync::watch;

    use super::*;

    const BOUND: Duration = Duration::from_millis(200);
    const NEVER: Duration = Duration::from_secs(600);

    /// Tells when its holder is dropped.
    struct Held(watch::Sender<bool>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.send_replace(true);
        }
    }

    fn held() -> (Held, watch::Receiver<bool>) {
        let (gone, seen) = watch::channel(false);
        (Held(gone), seen)
    }

    async fn wait_until_gone(gone: &watch::Receiver<bool>) {
        wait_until("the application's own work is dropped", async || *gone.borrow()).await;
    }

    /// Never answers the first call.
    fn silent_at_first(fields: Fields) -> (Origin, watch::Receiver<bool>) {
        let (hold, gone) = held();
        let hold = std::sync::Mutex::new(Some(hold));
        let origin = Origin::new(move |call, request| {
            let hold = hold.lock().unwrap().take();
            async move {
                if hold.is_some() {
                    std::future::pending::<()>().await;
                }
                Ok(echo(call, &request, fields))
            }
        });
        (origin, gone)
    }

    async fn node(backend: &Backend, origin: &Origin, bound: Duration) -> App {
        App::new(backend.cache().await.abandoned_load(bound).build(), origin, |layer| layer)
    }

    async fn is_ended_where_no_answer_comes(backend: &Backend) {
        let (origin, gone) = silent_at_first(MAX_AGE);
        let app = node(backend, &origin, BOUND).await;
        let client = spawn_get(&app);
        wait_for_calls(&origin, 1).await;
        leave(client).await;
        wait_until_gone(&gone).await;
        app.settled().await;
        assert_eq!((app.cache.loads_in_flight(), app.cache.counts().not_stored), (0, 1));
        let answer = app.get("/", &[]).await;
        assert_eq!((answer.x_cache(), answer.call(), answer.cache_status().stored), ("MISS", 2, true));
    }

    async fn is_ended_where_no_end_comes(backend: &Backend) {
        for fields in [MAX_AGE, &[("cache-control", "max-age=60"), ("content-length", "1000")]] {
            let (tell, mut feeds) = tokio::sync::mpsc::unbounded_channel();
            let origin = Origin::new(move |_, _| {
                let (feed, body) = Feed::new();
                tell.send(feed).unwrap();
                let mut response = http::Response::builder();
                for (name, value) in fields {
                    response = response.header(*name, *value);
                }
                async move { Ok(response.body(body).unwrap()) }
            });
            let app = node(backend, &origin, BOUND).await;
            let mut response = app.begin(request(Method::GET, &format!("/{}", fields.len()), &[])).await.unwrap();
            let feed = feeds.recv().await.unwrap();
            feed.data("one").unwrap();
            response.body_mut().frame().await.unwrap().unwrap();
            drop(response);
            wait_until("the application is told", async || feed.data("x").is_err()).await;
            app.settled().await;
            assert_eq!(app.cache.counts().stored, 0);
        }
    }

    async fn goes_on_as_long_as_others_wait_for_its_head_or_read_its_body(backend: &Backend) {
        for in_the_body in [false, true] {
            let (head, rest) = (Gate::closed(), Gate::closed());
            let origin = Origin::new({
                let (head, rest) = (head.clone(), rest.clone());
                move |_, _| {
                    let (head, rest) = (head.clone(), rest.clone());
                    async move {
                        head.pass().await;
                        let (feed, body) = Feed::new();
                        tokio::spawn(async move {
                            rest.pass().await;
                            let _ = feed.data("whole");
                        });
                        Ok(http::Response::builder().header("cache-control", "max-age=60").body(body).unwrap())
                    }
                }
            });
            let cache = backend.cache().await.abandoned_load(Duration::ZERO).lock_timeout(Duration::from_secs(60));
            let app = App::new(cache.build(), &origin, |layer| layer);
            let uri = format!("/{in_the_body}");
            let leader = tokio::spawn({
                let (app, uri) = (app.clone(), uri.clone());
                async move { app.get(&uri, &[]).await }
            });
            wait_for_calls(&origin, 1).await;
            let follower = tokio::spawn({
                let (app, uri) = (app.clone(), uri.clone());
                async move { app.begin(request(Method::GET, &uri, &[])).await.unwrap().into_body().collect().await }
            });
            wait_for_followers(&app, 1).await;
            if in_the_body {
                head.open();
                wait_until("it is read", async || app.cache.counts().joined == 1).await;
            }
            leave(leader).await;
            // Longer than it is looked twice whether anybody waits.
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            head.open();
            rest.open();
            assert_eq!(follower.await.unwrap().unwrap().to_bytes(), "whole");
            assert_eq!((app.get(&uri, &[]).await.x_cache(), origin.calls()), ("HIT", 1));
        }
    }

    /// Another process has found that this is nobody else's.
    async fn ends_with_its_client_where_it_is_nobody_elses(backend: &Backend) {
        let private: Fields = &[("cache-control", "private")];
        let elsewhere = App::on(backend, &Origin::echo(private)).await;
        elsewhere.get("/", &[]).await;
        let (origin, gone) = silent_at_first(private);
        let app = node(backend, &origin, NEVER).await;
        let client = spawn_get(&app);
        wait_for_calls(&origin, 1).await;
        leave(client).await;
        wait_until_gone(&gone).await;
    }

    async fn is_ended_where_it_makes_a_value(backend: &Backend) {
        let (hold, gone) = held();
        let outcomes = Arc::new(std::sync::Mutex::new(Vec::new()));
        let cache = backend.cache().await.abandoned_load(BOUND).observer({
            let outcomes = outcomes.clone();
            move |event| {
                if let cache_layer::telemetry::Event::Loaded { outcome, .. } = event {
                    outcomes.lock().unwrap().push(outcome);
                }
            }
        });
        let cache: Cache = cache.build();
        let (begun, mut begins) = watch::channel(false);
        let caller = tokio::spawn({
            let cache = cache.clone();
            async move {
                let load = move || async move {
                    let _hold = hold;
                    begun.send_replace(true);
                    std::future::pending::<Result<u64, String>>().await
                };
                cache.get_or_load("silent", load).await
            }
        });
        begins.wait_for(|begun| *begun).await.unwrap();
        caller.abort();
        wait_until_gone(&gone).await;
        assert!(cache.drain(Duration::from_secs(30)).await);
        assert_eq!(*outcomes.lock().unwrap(), [LoadOutcome::Abandoned]);
        assert_eq!(cache.get_or_load("silent", || async { Ok::<u64, String>(7) }).await, Ok(7));
    }

    over_each_store!(
        is_ended_where_no_answer_comes,
        is_ended_where_no_end_comes,
        goes_on_as_long_as_others_wait_for_its_head_or_read_its_body,
        ends_with_its_client_where_it_is_nobody_elses,
        is_ended_where_it_makes_a_value,
    );

    #[tokio::test(flavor = "multi_thread")]
    async fn is_ended_at_once_where_it_can_not_be_stored() {
        let backend = Backend::redis();
        let (origin, gone) = silent_at_first(MAX_AGE);
        let app = node(&backend, &origin, NEVER).await;
        drop(backend);
        wait_until("the store is lost", async || {
            app.cache.get::<u64>("lost").await;
            app.cache.counts().unavailable > 0
        })
        .await;
        let client = spawn_get(&app);
        wait_for_calls(&origin, 1).await;
        leave(client).await;
        wait_until_gone(&gone).await;
    }
}

/// The store was told, or is being told, and nobody waits for its answer any more.
mod an_invalidation_whose_caller_leaves {
    use cache_layer::{Cache, Clock, testing::TestStore};
    use futures_util::{FutureExt as _, future::BoxFuture};
    use http::Uri;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Begins it while the server answers nothing, and leaves.
    fn begin_and_leave<T>(backend: &Backend, invalidation: BoxFuture<'_, T>) {
        backend.server().stop();
        assert!(invalidation.now_or_never().is_none(), "the store was told at once: there was nothing to leave");
        backend.server().cont();
    }

    type Way = (&'static str, fn(&Cache) -> BoxFuture<'_, bool>);

    const WAYS: [Way; 8] = [
        ("a key", |cache| Box::pin(async move { cache.invalidate(&"value".into()).await.is_ok() })),
        ("a tag", |cache| Box::pin(async move { cache.invalidate_tag("tag").await.is_ok() })),
        ("a pattern", |cache| Box::pin(async move { cache.delete_pattern("val*").await.is_ok() })),
        ("a pattern, counted", |cache| Box::pin(async move { cache.delete_pattern("val*").counted().await.is_ok() })),
        ("everything", |cache| Box::pin(async move { cache.invalidate_all().await.is_ok() })),
        ("a key, softly", |cache| Box::pin(async move { cache.soft_invalidate(&"value".into()).await.is_ok() })),
        ("a tag, softly", |cache| Box::pin(async move { cache.soft_invalidate_tag("tag").await.is_ok() })),
        ("a key, by a value", |cache| Box::pin(async move { cache.set("value", "another").await.is_ok() })),
    ];

    #[tokio::test(flavor = "multi_thread")]
    async fn reaches_all_processes() {
        for backend in [Backend::redis(), Backend::tiered()] {
            let (here, there) = (backend.cache().await.build(), backend.cache().await.build());
            for (way, invalidate) in WAYS {
                here.set("value", "former").tags(["tag"]).await.unwrap();
                wait_until("it is there", async || there.get::<String>("value").await.as_deref() == Some("former"))
                    .await;
                begin_and_leave(&backend, invalidate(&here));
                for cache in [&here, &there] {
                    wait_until(&format!("{way} is void"), async || {
                        cache.get::<String>("value").await.as_deref() != Some("former")
                    })
                    .await;
                }
            }
        }
    }

    /// A URI has a key, and tags for what is stored for it under other keys.
    #[tokio::test(flavor = "multi_thread")]
    async fn reaches_all_that_is_stored_for_a_uri() {
        let uri = Uri::from_static("http://shop.example/page");
        for backend in [Backend::redis(), Backend::tiered()] {
            for soft in [false, true] {
                let origin = Origin::echo(MAX_AGE);
                let cache = backend.cache().await.build();
                cache.invalidate_all().await.unwrap();
                let languages = |layer: cache_layer::CacheLayer| layer.key_headers([http::header::ACCEPT_LANGUAGE]);
                let [plain, keyed] = [
                    App::new(cache.clone(), &origin, |layer| layer).unexplained(),
                    App::new(cache.clone(), &origin, languages).unexplained(),
                ];
                let german: &[(&str, &str)] = &[("accept-language", "de")];
                for _ in 0..2 {
                    assert_eq!((plain.get("/page", &[]).await.call(), keyed.get("/page", german).await.call()), (1, 2));
                }
                match soft {
                    false => begin_and_leave(&backend, Box::pin(plain.layer.invalidate_uri(&uri))),
                    true => begin_and_leave(&backend, plain.layer.soft_invalidate_uri(&uri).into_future()),
                }
                wait_until("that of its key is void", async || plain.get("/page", &[]).await.call() > 2).await;
                wait_until("that of its tags is void", async || keyed.get("/page", german).await.call() > 2).await;
            }
        }
    }

    /// By the clock of these tests, the store has the invalidation long before this process would ask it again about a failure.
    #[tokio::test(start_paused = true)]
    async fn ends_the_back_off_of_what_it_covers() {
        const WAYS: [fn(&Cache) -> BoxFuture<'_, bool>; 2] = [
            |cache| Box::pin(async move { cache.invalidate(&"value".into()).await.is_ok() }),
            |cache| Box::pin(async move { cache.invalidate_all().await.is_ok() }),
        ];
        for (way, invalidate) in WAYS.into_iter().enumerate() {
            let (store, calls) = (TestStore::new(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
            let cache = Cache::builder(store.clone()).clock(Clock::manual()).build();
            let ask = async || {
                let called = calls.clone();
                let fail = async move || {
                    called.fetch_add(1, Ordering::SeqCst);
                    Err::<u32, _>("broken")
                };
                let answer = cache.get_or_load("value", fail).fallback(7).failure_backoff(MINUTE, MINUTE).await;
                assert_eq!(answer, Ok(7));
                assert!(cache.drain(MINUTE).await);
                calls.load(Ordering::SeqCst)
            };
            assert_eq!((ask().await, ask().await), (1, 1), "it is left alone");
            store.delay(MINUTE / 60..=MINUTE / 60);
            assert_eq!(invalidate(&cache).now_or_never(), None);
            tokio::task::yield_now().await;
            store.delay(Duration::ZERO..=Duration::ZERO);
            tokio::time::sleep(MINUTE / 30).await;
            assert_eq!(ask().await, 2, "{way}: it is asked again");
        }
    }

    /// What was sent to the store for tests of one's own arrives, as over a network.
    #[tokio::test(start_paused = true)]
    async fn reaches_the_store_for_tests() {
        for (way, invalidate) in WAYS {
            let store = TestStore::new();
            let cache = Cache::new(store.clone());
            cache.set("value", "former").tags(["tag"]).await.unwrap();
            store.delay(MINUTE..=MINUTE);
            assert_eq!(invalidate(&cache).now_or_never(), None);
            tokio::task::yield_now().await;
            store.delay(Duration::ZERO..=Duration::ZERO);
            assert_eq!(cache.get::<String>("value").await.as_deref(), Some("former"), "{way} is still on its way");
            tokio::time::sleep(2 * MINUTE).await;
            assert_ne!(cache.get::<String>("value").await.as_deref(), Some("former"), "{way}");
        }
    }
}
