"""What arrives behind a real collector, of real requests to the service and its Redis."""

import contextlib
import socket
import threading
import time

import pytest
from common import free_port, wait_until
from processes import LOOPBACK, collector, redis, service
from receiver import receiving

PROTOCOLS = ["grpc", "http/protobuf"]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
# An hour: what arrives has been flushed.
NEVER = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}


@contextlib.contextmanager
def traced(binary, folder, protocol="grpc", **variables):
    """The service before its Redis, its settings for a collector, and the collector."""
    with receiving() as (receiver, port), collector(folder / "collector", port) as listening:
        with redis(folder / "redis") as (redis_port, _):
            variables = {
                "APP_REDIS_URL": f"redis://{LOOPBACK}:{redis_port}",
                "APP_REDIS_TIMEOUT": "5s",
                "OTEL_EXPORTER_OTLP_ENDPOINT": listening[protocol],
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_BSP_SCHEDULE_DELAY": "100",
                **variables,
            }
            with service(binary, folder / "service", **variables) as started:
                wait_until("it has Redis", lambda: '"connected":true' in started.get("/health")[2])
                yield started, receiver, redis_port


def ask(started, path, span=PARENT, flags="01"):
    return started.get(path, headers={"traceparent": f"00-{TRACE}-{span}-{flags}"}.items())


def only(spans):
    (span,) = spans
    return span


def requests(spans):
    return [span for span in spans if span.kind == "SERVER"]


def below(spans, parent):
    return [span for span in spans if span.parent == parent.id]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_is_one_trace_from_the_client_to_redis(binary, tmp_path, protocol):
    with traced(binary, tmp_path, protocol, OTEL_SERVICE_NAME="shop") as (started, receiver, redis_port):
        status, fields, _ = ask(started, "/api/products/7")
        assert (status, fields["x-cache"]) == (200, "MISS")
        wait_until("it arrives", lambda: requests(receiver.of(TRACE)))
        # They end behind the response, when what they brought is stored.
        loads = lambda: [span for span in receiver.of(TRACE) if span.name == "cache.load products"]
        wait_until("both loads arrive", lambda: len(loads()) == 2)
        spans = receiver.of(TRACE)

    server = only(requests(spans))
    assert (server.name, server.parent) == ("GET /api/products/{id}", PARENT)
    assert fields["traceresponse"] == f"00-{TRACE}-{server.id}-01"
    said = server.attributes
    assert (said["http.request.method"], said["http.route"]) == ("GET", "/api/products/{id}")
    assert (said["http.response.status_code"], said["url.path"]) == (200, "/api/products/7")
    assert said["cache_layer.cache_status"].startswith("cache-layer; fwd=uri-miss")
    assert all(span.resource["service.name"] == "shop" and span.resource["service.version"] for span in spans)

    # The response, and within its load the product that it is made from.
    response = only(span for span in below(spans, server) if span.name == "cache.get products")
    load = only(span for span in below(spans, response) if span.name == "cache.load products")
    value = only(span for span in below(spans, load) if span.name == "cache.get products")
    assert [span.name for span in below(spans, value) if span.kind == "INTERNAL"] == ["cache.load products"]
    for look in (response, value):
        assert look.kind == "INTERNAL" and look.attributes["cache.name"] == "products"
        said = (look.attributes["cache.hit"], look.attributes["cache_layer.result"], look.attributes["cache_layer.tier"])
        assert said == (False, "miss", "none")
        assert len(look.attributes["cache_layer.key_hash"]) == 32

    trips = [span for span in spans if span.kind == "CLIENT"]
    assert [span.name for span in below(spans, response) if span.kind == "CLIENT"] == ["GET"]
    assert {"PIPELINE", "EVALSHA"} <= {span.name for span in below(spans, load)}
    for trip in trips:
        assert (trip.attributes["db.system.name"], trip.attributes["db.operation.name"]) == ("redis", trip.name)
        assert (trip.attributes["server.address"], trip.attributes["server.port"]) == (LOOPBACK, redis_port)
    assert all(span.status != 2 for span in spans)
    assert {span.parent for span in spans} - {span.id for span in spans} == {PARENT}, "no span is an orphan"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_hit_says_so_and_costs_one_round_trip(binary, tmp_path, protocol):
    with traced(binary, tmp_path, protocol) as (started, receiver, _):
        wait_until("it is stored", lambda: started.get("/api/products/7")[1]["x-cache"] == "HIT")
        assert ask(started, "/api/products/7")[1]["x-cache"] == "HIT"
        wait_until("it arrives", lambda: requests(receiver.of(TRACE)))
        spans = receiver.of(TRACE)
    assert sorted(span.name for span in spans) == ["GET", "GET /api/products/{id}", "cache.get products"]
    hit = only(span for span in spans if span.name == "cache.get products").attributes
    assert (hit["cache.hit"], hit["cache_layer.result"], hit["cache_layer.tier"]) == (True, "hit", "store")
    assert hit["cache_layer.age"] >= 0


def test_who_waits_for_a_load_is_linked_with_it(binary, tmp_path):
    with traced(binary, tmp_path) as (started, receiver, _):
        collapsed = lambda: [s for s in receiver.spans if s.attributes.get("cache_layer.result") == "collapsed"]

        def stampede():
            started.get("/api/products/7/cache", method="DELETE")
            crowd = [threading.Thread(target=started.get, args=("/api/products/7",)) for _ in range(16)]
            [one.start() for one in crowd]
            [one.join() for one in crowd]
            return collapsed()

        wait_until("somebody waited", stampede)
        waiter = collapsed()[0]
        (trace, load), *_ = waiter.links
        loads = lambda: [span for span in receiver.spans if (span.trace, span.id) == (trace, load)]
        wait_until("the load arrives", loads)
    assert only(loads()).name == "cache.load products"
    assert trace != waiter.trace, "it is in the trace of who loads"
    assert waiter.attributes["cache_layer.wait_ms"] >= 0


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_client_decides_whether_it_is_traced(binary, tmp_path, flags):
    with traced(binary, tmp_path) as (started, receiver, _):
        _, fields, _ = ask(started, "/api/products/7", flags=flags)
        assert ("traceresponse" in fields) == (flags == "01")
        assert started.terminate() == 0
        # All that was to be sent has been.
        wait_until("its other requests arrive", lambda: any(span.trace != TRACE for span in receiver.spans))
        time.sleep(1)
        assert bool(receiver.of(TRACE)) == (flags == "01")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_left_is_sent_at_sigterm(binary, tmp_path, protocol):
    with traced(binary, tmp_path, protocol, **NEVER) as (started, receiver, _):
        ask(started, "/api/products/7")
        assert not receiver.of(TRACE)
        assert started.terminate() == 0, started.log()
        wait_until("the span arrives", lambda: requests(receiver.of(TRACE)))
        wait_until("metrics arrive", lambda: "cache_layer.lookups" in receiver.metrics)
    assert {"result": "miss", "tier": "none", "cache": "products"} in receiver.metrics["cache_layer.lookups"]


@pytest.mark.parametrize("asked_for", [False, True])
def test_keys_and_tags_leave_only_if_somebody_asks_for_it(binary, tmp_path, asked_for):
    with traced(binary, tmp_path, APP_TRACE_KEYS=str(asked_for).lower()) as (started, receiver, _):
        ask(started, "/api/products?category=toys")
        started.get("/api/products/7/cache", method="DELETE")
        assert started.terminate() == 0
        wait_until("it arrives", lambda: requests(receiver.of(TRACE)))
        wait_until("metrics arrive", lambda: "cache_layer.invalidations" in receiver.metrics)
    # A request's path is its server's to tell.
    told = [span.attributes for span in receiver.spans if span.kind != "SERVER"]
    told += [point for points in receiver.metrics.values() for point in points]
    secrets = ("category", "toys", "products/7", "product:7")
    leaked = [said for said in told if any(secret in str(said) for secret in secrets)]
    assert bool(leaked) == asked_for, leaked
    assert all("cache.key" in said for said in leaked), leaked


@contextlib.contextmanager
def nobody(kind):
    """A collector that is missing, or that accepts connections and never answers."""
    if kind == "refuses":
        yield free_port()
        return
    with socket.create_server((LOOPBACK, 0), backlog=64) as silent:
        yield silent.getsockname()[1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["refuses", "hangs"])
def test_a_collector_that_is_down_costs_requests_nothing(binary, tmp_path, protocol, kind):
    with nobody(kind) as port:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{LOOPBACK}:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "50",
        }
        begun = time.monotonic()
        with service(binary, tmp_path / "service", **variables) as started:
            assert time.monotonic() - begun < 10, "it starts"
            slowest = 0.0
            for round in range(300):
                asked = time.monotonic()
                assert started.get(f"/api/products/{1 + round % 20}")[0] == 200
                slowest = max(slowest, time.monotonic() - asked)
            assert slowest < 1, "it answers"
            told = time.monotonic()
            assert started.terminate() == 0, started.log()
            stopped = time.monotonic() - told
            print(f"{kind} {protocol}: slowest answer {slowest:.3f} s, stopped within {stopped:.1f} s")
            assert stopped < 8, "it stops"
