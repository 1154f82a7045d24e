"""What the figures have to reach, one row each."""

import pathlib
import statistics

INSTRUCTIONS = pathlib.Path(__file__).resolve().parents[1] / "instructions" / "expected.txt"

HITS, CROWD, MISSES = "hits, 50 connections", "hits, 400 connections", "misses, 50 connections"
SLOW, ZIPF, LARGE = "misses of 200 µs, 50 connections", "Zipf over 10,000 URLs, 50 connections", "hits of 64 KiB, 50 connections"
ENCODED, ENCODED_MISSES = "hits of an encoded page, 50 connections", "misses of an encoded page, 2 connections"
CODINGS = "hits of an encoded page by coding, 50 connections"
#: A client that asks again at once measures how fast the processors are free again, not how long it waits.
PACED_MISSES = "misses of an encoded page, 2 connections, each asks a millisecond after its last answer"
ENCODED_ZIPF = "encoded pages, Zipf over 10,000 URLs, 50 connections"
COST = "what a miss costs Redis"
ENTRIES = "entries"


class Ratio:
    """Of `one` to `other`, two servers of one scenario: the median over its rounds, each of which has asked both."""

    def __init__(self, name, scenario, one, other, least):
        self.name, self.part, self.servers, self.least = name, scenario, (one, other), least

    def row(self, results):
        one, other = (results[name] for name in self.servers)
        ratio = statistics.median(a.rate / b.rate for a, b in zip(one, other, strict=True))
        # A digit more than the target has, so that a miss by a hair is seen as one.
        return [self.name, f"{ratio:.3f}", f"at least {self.least:.2f}", ratio >= self.least]


class Latency(Ratio):
    """Of the 99th percentiles, where less is better."""

    def row(self, results):
        one, other = (statistics.median(ask.p99 for ask in results[name]) for name in self.servers)
        return [self.name, f"{one / other:.3f}", f"at most {self.least:.2f}", one / other <= self.least]


class Median(Ratio):
    """Of the medians of what requests take, where less is better."""

    def row(self, results):
        one, other = (statistics.median(ask.p50 for ask in results[name]) for name in self.servers)
        return [self.name, f"{one / other:.3f}", f"at most {self.least:.2f}", one / other <= self.least]


class Count:
    """At most so many of something that is counted: `count` takes it from what was measured of `part`. Without a part, it is
    what `tests/instructions/run` has counted, and checks."""

    servers = ()

    def __init__(self, name, part, count, most):
        self.name, self.part, self.count, self.most = name, part, count, most

    def row(self, results):
        count = self.count(results)
        text = f"{count:.2f}" if count < 100 and count != round(count) else f"{count:,.0f}"
        return [self.name, text, f"at most {self.most:,}", count <= self.most]


def instructions():
    lines = (line.split() for line in INSTRUCTIONS.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2}


TARGETS = [
    Ratio("miss over Redis, to the hand-written GET + SET", MISSES, "redis", "handmade", 0.80),
    Ratio("miss over Redis, handler of 200 µs, to no cache", SLOW, "working redis", "working plain", 0.90),
    Ratio("miss in memory, to no cache, handler that costs nothing", MISSES, "memory", "plain", 0.65),
    Ratio("miss in memory, handler of 200 µs, to no cache", SLOW, "working memory", "working plain", 0.97),
    Ratio("hit in memory, to no cache, one URL", HITS, "memory", "plain", 0.97),
    Ratio("hit in memory, to no cache, Zipf over 10,000", ZIPF, "memory", "plain", 0.95),
    Ratio("hit in memory, watched by an operator, to one that is not", HITS, "watched", "memory", 0.97),
    Ratio("hit in the first tier, to no cache, one URL", HITS, "tiered", "plain", 0.96),
    Ratio("hit in the first tier, to no cache, Zipf over 10,000", ZIPF, "tiered", "plain", 0.93),
    Ratio("hit in Redis, to by hand, one URL", HITS, "redis", "handmade", 0.95),
    Ratio("hit in Redis, to by hand, Zipf over 10,000", ZIPF, "redis", "handmade", 1.00),
    Ratio("hit in memory, to nginx, requests", HITS, "memory", "nginx", 1.70),
    Latency("hit in memory, to nginx, p99 at 400 connections", CROWD, "memory", "nginx", 0.90),
    Ratio("hit in memory, to nginx, 64 KiB", LARGE, "memory", "nginx", 1.00),
    Ratio("hit in memory, to Varnish, requests", HITS, "memory", "varnish", 1.30),
    Latency("hit in memory, to Varnish, p99 at 400 connections", CROWD, "memory", "varnish", 1.00),
    Ratio("hit through the example reverse_proxy, to nginx before the same origin", HITS, "reverse_proxy", "nginx", 1.30),
    Ratio("encoded hit in memory, to one that is not", ENCODED, "encoded memory", "memory", 0.95),
    Ratio(
        "encoded hit in memory, to CompressionLayer around the cache, as a browser asks",
        CODINGS, "encoded memory, browser", "compressed memory, browser", 4.00,
    ),  # fmt: skip
    Ratio(
        "encoded hit in memory, to CompressionLayer around the cache, asked for gzip",
        CODINGS, "encoded memory, gzip", "compressed memory, gzip", 4.00,
    ),  # fmt: skip
    Ratio("encoded hit in memory, to nginx with gzip on", ENCODED, "encoded memory", "gzip_nginx", 1.30),
    Ratio("encoded hit in memory, to Varnish, which keeps gzip", ENCODED, "encoded memory", "gzip_varnish", 1.30),
    # With one URL, one read and one inflated copy are for all requests of the moment.
    Ratio("hit in Redis sent as it is kept, to one that is inflated, one URL", ENCODED, "encoded redis", "redis", 1.00),
    Ratio("hit in Redis sent as it is kept, to one that is inflated, Zipf over 10,000", ENCODED_ZIPF, "encoded redis", "redis", 1.00),
    Median("miss in memory of what may be encoded, to one that is not", PACED_MISSES, "encoded memory", "memory", 1.02),
    Count("round trips of a miss over Redis before the load", COST, lambda costs: costs["redis"].before, 1),
    Count("round trips of a miss over Redis after the load", COST, lambda costs: costs["redis"].after, 1),
    # Redis 7.0; with the commands of Valkey 8.1, one would be enough.
    Count("scripts of a miss over Redis", COST, lambda costs: costs["redis"].scripts, 2),
    Count("bytes in memory of an entry beyond its own", ENTRIES, max, 1_024),
    Count("instructions of a hit in memory beside the application's own", None, lambda found: found["memory-hit"] - found["application"], 5_000),
    Count("instructions of a miss in memory in all", None, lambda found: found["memory-miss"], 33_000),
]


def rows(measured, wants):
    """Of those targets that one `wants`, or whose part was measured: what it is now, the target, and whether it is met."""
    found = []
    for target in TARGETS:
        results = measured.get(target.part)
        if target.part is None and wants(target.name):
            results = instructions()
        if results is not None and all(name in results for name in target.servers):
            *words, met = target.row(results)
            found.append([*words, "yes" if met else "**no**"])
    return found
