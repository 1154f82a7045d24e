"""The comparison: every server in turn, again and again, and the medians of what they reach beside each other.

Machines differ and are shared, so nothing here is compared across runs: a ratio is of two servers within one round, and
the figure is the median of the rounds."""

import argparse
import pathlib
import statistics
import subprocess
import tempfile
import time

import plot
import servers
import summary

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
RIVALS = ["plain", "memory", "tiered", "redis", "handmade", "nginx", "varnish"]
#: What the figures have to be: name, value of, at least or at most, bound.
BARS = [
    ("memory hit to the route without a cache", ("hits, 50 connections", "memory", "plain"), ">=", 0.95),
    ("memory hit to nginx", ("hits, 50 connections", "memory", "nginx"), ">=", 1.3),
    ("memory hit to Varnish", ("hits, 50 connections", "memory", "varnish"), ">=", 1.3),
    ("tiered hit to memory hit", ("hits, 50 connections", "tiered", "memory"), ">=", 0.97),
    ("Redis hit to the hand-written GET", ("hits, 50 connections", "redis", "handmade"), ">=", 0.95),
    ("miss to the route without a cache, that takes 200 µs", ("misses of 200 µs, 50 connections", "working memory", "working plain"), ">=", 0.9),
]


class Scenario:
    """`weight`: how many times as many rounds it is worth. What decides over a bar by some hundredths is worth more."""

    def __init__(self, name, connections, names, ask, query="", weight=1):
        self.name, self.connections, self.names, self.ask, self.query = name, connections, names, ask, query
        self.weight = weight


def scenarios():
    return [
        Scenario("hits, 1 connection", 1, RIVALS, "same"),
        Scenario("hits, 50 connections", 50, RIVALS, "same", weight=2),
        Scenario("hits, 400 connections", 400, RIVALS, "same"),
        Scenario("misses, 50 connections", 50, ["plain", "memory", "tiered", "redis", "handmade", "nginx", "varnish"], "distinct"),
        Scenario("misses of 200 µs, 50 connections", 50, ["working plain", "working memory", "working redis"], "distinct", weight=2),
        Scenario("Zipf over 10,000 URLs, 50 connections", 50, RIVALS, "zipf"),
        Scenario("hits of 64 KiB, 50 connections", 50, RIVALS, "same", "?bytes=65536"),
    ]


class Ask:
    """One run of the load generator."""

    started = 0

    def __init__(self, server, kind, connections, seconds, query=""):
        count = 10_000
        if kind == "distinct":
            Ask.started += 1
            count = Ask.started * 1_000_000_000
        threads = min(2, connections)
        command = ["wrk", "-t", str(threads), "-c", str(connections), "-d", f"{seconds}s", "--timeout", "10s", "--latency"]
        command += ["-s", str(HERE / "ask.lua"), server.url, "--", kind, str(count), query]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        words = next(line for line in out.splitlines() if line.startswith("RESULT")).split()[1:]
        requests, micros, self.errors, self.p50, self.p99, self.slowest = map(int, words)
        self.rate = requests / (micros / 1e6)


class Comparison:
    def __init__(self, binaries, rounds, seconds):
        self.rounds, self.seconds = rounds, seconds
        self.redis = servers.redis()
        self.by_hand = servers.redis()
        self.servers = {"plain": servers.target(binaries, "plain"), "memory": servers.target(binaries, "memory")}
        for mode in ("redis", "tiered"):
            self.servers[mode] = servers.target(binaries, mode, self.redis, prefix=mode)
        self.servers["handmade"] = servers.target(binaries, "handmade", self.by_hand)
        for mode in ("plain", "memory", "redis"):
            self.servers[f"working {mode}"] = servers.target(binaries, mode, self.redis, prefix="working", work=200)
        self.servers["nginx"] = servers.nginx(self.servers["plain"])
        self.servers["varnish"] = servers.varnish(self.servers["plain"])

    def stop(self):
        for server in [*self.servers.values(), self.redis, self.by_hand]:
            server.stop()

    def check(self):
        """Whether everybody answers the same, and the caches from what they keep."""
        for name, server in self.servers.items():
            servers.get(server.url + "/v/check")
            time.sleep(0.2)
            headers, body = servers.get(server.url + "/v/check")
            assert len(body) == 1_580, (name, len(body))
            if name in ("memory", "redis", "tiered", "nginx"):
                assert headers.get("x-cache") == "HIT", (name, headers)
            if name == "varnish":
                assert " " in headers.get("x-varnish", ""), headers

    def run(self, scenario):
        """Results of each server, a round each."""
        results = {name: [] for name in scenario.names}
        for name in scenario.names:
            Ask(self.servers[name], scenario.ask, scenario.connections, 1, scenario.query)
        for number in range(self.rounds * scenario.weight):
            # Turned round by round, so that nobody always comes after the same neighbour.
            turn = number % len(scenario.names)
            for name in scenario.names[turn:] + scenario.names[:turn]:
                if scenario.ask == "distinct":
                    self.empty()
                results[name].append(Ask(self.servers[name], scenario.ask, scenario.connections, self.seconds, scenario.query))
        return results

    def empty(self):
        """A million misses are not to fill the machine."""
        for server in (self.redis, self.by_hand):
            if int(servers.redis_info(server)["used_memory"]) > 1 << 30:
                servers.redis_command(server, "FLUSHALL")


def median_of_ratios(results, one, other):
    return statistics.median(a.rate / b.rate for a, b in zip(results[one], results[other], strict=True))


def median(asks, what):
    return statistics.median(getattr(ask, what) for ask in asks)


def table(rows, header):
    align = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [header, align, *rows])


def compare(binaries, rounds, seconds, out):
    comparison = Comparison(binaries, rounds, seconds)
    try:
        comparison.check()
        parts, measured = [], {}
        for scenario in scenarios():
            print(f"{scenario.name} ...", flush=True)
            results = measured[scenario.name] = comparison.run(scenario)
            rows = []
            for name in scenario.names:
                asks = results[name]
                rows.append([
                    name, f"{median(asks, 'rate'):,.0f}", f"{median_of_ratios(results, name, scenario.names[0]):.2f}",
                    f"{median(asks, 'p50') / 1000:.2f}", f"{median(asks, 'p99') / 1000:.2f}", sum(ask.errors for ask in asks),
                ])
            text = table(rows, ["", "requests/s", f"to {scenario.names[0]}", "p50 ms", "p99 ms", "errors"])
            print(text, flush=True)
            plain_name = scenario.name.replace(",", "").replace("µ", "u").replace(" ", "-").lower()
            parts.append(f"## {scenario.name[0].upper()}{scenario.name[1:]}\n\n{text}\n\n![{scenario.name}]({plain_name}.svg)\n")
            bars = [(name, median(results[name], "rate"), f"p99 {median(results[name], 'p99') / 1000:.1f} ms") for name in scenario.names]
            (out / f"{plain_name}.svg").write_text(plot.bars(scenario.name, "requests a second", bars))
        peaks = [[name, f"{server.memory('VmHWM') / 2**20:,.0f}"] for name, server in comparison.servers.items()]
        parts.append("## Peak memory\n\nAfter all of the above, caches full of what the misses brought.\n\n" + table(peaks, ["", "MiB"]) + "\n")
        return parts, bounds(measured)
    finally:
        comparison.stop()


def bounds(measured):
    rows = []
    for name, (scenario, one, other), _, bound in BARS:
        ratio = median_of_ratios(measured[scenario], one, other)
        # A digit more than the bound has, so that a miss by a hair is seen as one.
        rows.append([name, f"{ratio:.3f}", f"at least {bound}", "yes" if ratio >= bound else "**no**"])
    crowd = measured["hits, 400 connections"]
    ours = median(crowd["memory"], "p99")
    for proxy in ("nginx", "varnish"):
        theirs = median(crowd[proxy], "p99")
        rows.append([f"p99 of memory hits under 400 connections, to {proxy}", f"{ours / theirs:.2f}", "below 1", "yes" if ours < theirs else "**no**"])
    return rows


def bytes_per_entry(binaries, counts):
    """What an entry costs beyond its own bytes, by how much the process grows."""
    rows, body, head = [], 1_580, len("content-typeapplication/jsoncache-controlmax-age=3600datecontent-length1580") + 29
    series = {"memory": [], "Redis": []}
    for mode in ("memory", "redis"):
        redis = servers.redis()
        server = servers.target(binaries, mode, redis, prefix="size", memory=8 << 30)
        try:
            fill(server, 1_000, start=900_000_000)
            before = server.memory() if mode == "memory" else int(servers.redis_info(redis)["used_memory"])
            done = 0
            for count in counts:
                fill(server, count - done, start=done)
                done = count
                time.sleep(1)
                after = server.memory() if mode == "memory" else int(servers.redis_info(redis)["used_memory"])
                each = (after - before) / count
                name = "memory" if mode == "memory" else "Redis"
                rows.append([name, f"{count:,}", round(each), round(each - body - head)])
                rate = Ask(server, "same", 50, 2).rate
                series[name].append((count, rate))
        finally:
            server.stop()
            redis.stop()
    return rows, series


def fill(server, count, start):
    """Asks for so many URLs that nobody asked for before, each once."""
    subprocess.run(
        ["python3", str(HERE / "fill.py"), str(server.port), str(start), str(count)], check=True, stdout=subprocess.DEVNULL
    )


def growth(binaries, out, quick):
    """What one request costs as the work grows."""
    parts = []
    counts = [1_000, 10_000, 50_000] if quick else [1_000, 10_000, 100_000, 1_000_000]
    print("entries ...", flush=True)
    sizes, series = bytes_per_entry(binaries, counts)
    (out / "entries.svg").write_text(plot.lines("Hits by entries kept", "entries", "requests a second", series))
    parts.append(
        "## Entries\n\nThe body is 1,580 bytes; `beyond` is what an entry takes over its body and header fields: of the process's memory, and of "
        "Redis' own count.\n\n" + table(sizes, ["", "entries", "bytes each", "beyond"]) + "\n\n![hits by entries](entries.svg)\n"
    )
    seconds = 1 if quick else 2

    def rates(options, query="", warm=None):
        """Requests a second from memory, from both tiers, and from Redis."""
        redis, row = servers.redis(), {}
        try:
            for mode in ("memory", "tiered", "redis"):
                server = servers.target(binaries, mode, redis, prefix=mode, **options)
                try:
                    if warm:
                        warm(server)
                    Ask(server, "same", 50, 1, query)
                    row[mode] = Ask(server, "same", 50, seconds, query).rate
                finally:
                    server.stop()
        finally:
            redis.stop()
        return row

    def plotted(name, title, label, results):
        series = {mode: [(x, row[mode]) for x, row in results] for mode in ("memory", "tiered", "redis")}
        (out / f"{name}.svg").write_text(plot.lines(title, label, "requests a second", series))
        rows = [[f"{x:,}", *(f"{row[mode]:,.0f}" for mode in series)] for x, row in results]
        return f"## {title}\n\n{table(rows, [label, *series])}\n\n![{title}]({name}.svg)\n"

    print("tags ...", flush=True)
    parts.append(plotted("tags", "Hits by tags of an entry", "tags", [(many, rates({"tags": many})) for many in (0, 1, 10, 50)]))

    print("variants ...", flush=True)

    def variants(many):
        def warm(server):
            subprocess.run(["python3", str(HERE / "fill.py"), str(server.port), "1", "1", str(many)], check=True)
        return rates({"vary": True}, warm=warm)

    parts.append(plotted("variants", "Hits by variants of a URL", "variants", [(many, variants(many)) for many in (1, 4, 16, 32)]))

    print("body sizes ...", flush=True)
    lengths = (1, 1_024, 16_384, 262_144, 1_048_576)
    parts.append(plotted("bodies", "Hits by length of the body", "bytes", [(length, rates({}, f"?bytes={length}")) for length in lengths]))

    print("processes ...", flush=True)
    redis, results = servers.redis(), []
    try:
        for many in (1, 2, 4, 8):
            row = {}
            for mode in ("tiered", "redis"):
                fleet = [servers.target(binaries, mode, redis, prefix=mode) for _ in range(many)]
                try:
                    commands = [
                        ["wrk", "-t", "1", "-c", "16", "-d", f"{seconds}s", "-s", str(HERE / "ask.lua"), server.url, "--", "zipf", "1000"]
                        for server in fleet
                    ]
                    for server in fleet:
                        Ask(server, "zipf", 8, 1)
                    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
                    outs = [process.communicate()[0] for process in running]
                    words = [next(line for line in out.splitlines() if line.startswith("RESULT")).split() for out in outs]
                    row[mode] = sum(int(word[1]) / (int(word[2]) / 1e6) for word in words)
                finally:
                    for server in fleet:
                        server.stop()
            results.append((many, row))
    finally:
        redis.stop()
    series = {mode: [(many, row[mode]) for many, row in results] for mode in ("tiered", "redis")}
    (out / "processes.svg").write_text(plot.lines("Hits of all processes together, on one Redis", "processes", "requests a second", series))
    rows = [[many, *(f"{row[mode]:,.0f}" for mode in series)] for many, row in results]
    parts.append("## Processes on one Redis\n\n" + table(rows, ["processes", *series]) + "\n\n![processes](processes.svg)\n")
    beyond = max(beyond for name, entries, _, beyond in sizes if name == "memory" and entries != f"{counts[0]:,}")
    bar = ["bytes in memory of an entry beyond its own", beyond, "at most 1,024", "yes" if beyond <= 1_024 else "**no**"]
    return parts, bar


def the_service(binaries, rounds, seconds):
    """The product API, as its users ask it."""
    redis = servers.redis()
    url = f"redis://127.0.0.1:{redis.port}"
    running = {
        "values alone": servers.service(binaries, "values alone", {"APP_CACHE_PATHS": "/none=1s"}),
        "memory": servers.service(binaries, "memory", {}),
        "tiered": servers.service(binaries, "tiered", {"APP_REDIS_URL": url, "APP_CACHE_FIRST_TIER": "64MiB"}),
        "redis": servers.service(binaries, "redis", {"APP_REDIS_URL": url, "APP_CACHE_PREFIX": "alone"}),
    }
    try:
        path = "/api/products?category=books&page=1&per_page=20"
        rates = {name: [] for name in running}
        for _ in range(rounds):
            for name, server in running.items():
                command = ["wrk", "-t", "2", "-c", "50", "-d", f"{seconds}s", "--latency", server.url + path]
                out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                rates[name].append(float(next(line for line in out.splitlines() if line.startswith("Requests/sec")).split()[1]))
        rows = []
        for name, values in rates.items():
            ratio = statistics.median(value / none for value, none in zip(values, rates["values alone"], strict=True))
            rows.append([name, f"{statistics.median(values):,.0f}", f"{ratio:.1f}"])
        about = (
            "A list of 20 products, 50 connections. *Values alone* keeps no responses: what its handlers read from the database is "
            "in memory by `#[cached]`, so that its handler works as little as any."
        )
        return f"## The product API\n\n{about}\n\n" + table(rows, ["", "requests/s", "to values alone"]) + "\n"
    finally:
        for server in [*running.values(), redis]:
            server.stop()


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--binaries", type=pathlib.Path, required=True)
    arguments.add_argument("--quick", action="store_true", help="short, to try it out: the figures mean nothing")
    arguments = arguments.parse_args()
    out = pathlib.Path(tempfile.mkdtemp(prefix="load-")) if arguments.quick else ROOT / "docs" / "performance"
    out.mkdir(parents=True, exist_ok=True)
    rounds, seconds = (2, 1) if arguments.quick else (3, 2)

    began = time.monotonic()
    compared, bars = compare(arguments.binaries, rounds, seconds, out)
    product_api = the_service(arguments.binaries, rounds, seconds)
    grown, bar = growth(arguments.binaries, out, arguments.quick)
    bars.append(bar)
    machine = servers.machine()
    introduction = (HERE / "introduction.md").read_text()
    page = [
        introduction,
        f"Measured on {machine['cores']} cores ({machine['cpu']}), which the load generator shares; {machine['versions']}; "
        f"{rounds} rounds of {seconds} s each, {2 * rounds} of hits at 50 connections and of misses of 200 µs.\n",
        "## What it has to reach\n\n" + table(bars, ["", "measured", "wanted", "reached"]) + "\n",
        *compared,
        product_api,
        *grown,
        (HERE / "tracking.md").read_text(),
    ]
    (out / "README.md").write_text("\n".join(page))
    summary.write(out)
    print(table(bars, ["", "measured", "wanted", "reached"]))
    print(f"written to {out} in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
