"""The comparison: every server in turn, again and again, and the medians of what they reach beside each other.

Machines differ and are shared, so nothing here is compared across runs: a ratio is of two servers within one round, and
the figure is the median of the rounds."""

import argparse
import pathlib
import shutil
import statistics
import tempfile
import time

import cost
import plot
import servers
import summary
import targets
from ask import ask
from growth import growth

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent

#: The handler alone, this cache, and what one would use instead: a cache by hand, another's layer, a proxy.
OURS = ["plain", "memory", "tiered", "redis"]
RIVALS = ["handmade", "moka", "http-cache", "hitbox", "nginx", "varnish", "haproxy", "trafficserver"]
#: Others' layers, and moka by hand: in a crate of their own.
LAYERS = {"moka", "http-cache", "hitbox"}
OVER_REDIS = {"tiered", "redis", "handmade", "hitbox"}
PROXIES = {proxy.__name__: proxy for proxy in (servers.nginx, servers.varnish, servers.haproxy, servers.trafficserver)}
#: The same, and what it sends is coded: once, or, around the cache, each time. Asked with this `Accept-Encoding`.
ENCODED = {"encoded memory": "gzip", "compressed memory": "gzip", "gzip_nginx": "gzip", "gzip_varnish": "gzip", "encoded redis": "zstd"}
#: As a browser asks.
BROWSER = "gzip, deflate, br, zstd"
#: By the coding that is asked for: once, and around the cache, each time.
CODINGS = {
    f"{kind} memory, {name}": accepts
    for name, accepts in {"gzip": "gzip", "br": "br", "zstd": "zstd", "browser": BROWSER}.items()
    for kind in ("encoded", "compressed")
}
PROXIES |= {"gzip_nginx": servers.gzip_nginx, "gzip_varnish": servers.gzip_varnish}
#: The field that says where a response comes from, and what it has if that is a cache.
MARKS = {name: ("x-cache", "HIT") for name in ("memory", "watched", "redis", "tiered", "reverse_proxy", "http-cache", "nginx")} | {
    "encoded memory": ("x-cache", "HIT"), "compressed memory": ("x-cache", "HIT"), "encoded redis": ("x-cache", "HIT"),
    "gzip_nginx": ("x-cache", "HIT"), "gzip_varnish": ("x-varnish", " "), "hitbox": ("x-cache-status", "HIT"), "varnish": ("x-varnish", " "), "haproxy": ("age", ""), "trafficserver": ("age", ""),
}  # fmt: skip
MARKS |= {name: ("x-cache", "HIT") for name in CODINGS}
#: Those that have no `working` one are proxies, whose share in so slow a miss is no question.
WORKING = [f"working {name}" for name in ("plain", "memory", "redis", "handmade", "moka", "hitbox")]
PRODUCTS = "the product API"


def accepts(name):
    """What it is asked for as `Accept-Encoding`; empty for none."""
    return ENCODED.get(name) or CODINGS.get(name, "")


class Scenario:
    """Servers that are asked the same. `seconds`: of a round; `pause`: of a connection after each answer, in milliseconds."""

    def __init__(self, name, connections, names, kind, query="", seconds=2, pause=0):
        self.name, self.connections, self.names, self.kind, self.query = name, connections, names, kind, query
        self.seconds, self.pause = seconds, pause

    def only(self, names):
        return Scenario(self.name, self.connections, names, self.kind, self.query, self.seconds, self.pause)


SCENARIOS = [
    Scenario("hits, 1 connection", 1, OURS + RIVALS, "same", seconds=1),
    Scenario(targets.HITS, 50, [*OURS, "watched", "reverse_proxy", *RIVALS], "same"),
    Scenario(targets.CROWD, 400, OURS + RIVALS, "same"),
    Scenario(targets.MISSES, 50, OURS + RIVALS, "distinct"),
    Scenario(targets.SLOW, 50, WORKING, "distinct"),
    Scenario(targets.ZIPF, 50, OURS + RIVALS, "zipf"),
    Scenario(targets.LARGE, 50, OURS + RIVALS, "same", "?bytes=65536"),
    Scenario(targets.ENCODED, 50, ["memory", "redis", *ENCODED], "same", "?page"),
    Scenario(targets.CODINGS, 50, ["memory", *CODINGS], "same", "?page"),
    Scenario(targets.ENCODED_ZIPF, 50, ["redis", "encoded redis"], "zipf", "?page"),
    Scenario(targets.ENCODED_MISSES, 2, ["memory", "encoded memory"], "distinct", "?page"),
    Scenario(targets.PACED_MISSES, 2, ["memory", "encoded memory"], "distinct", "?page", pause=1),
]


class Servers:
    """Started when they are first asked for. Each that needs a Redis has one for itself."""

    def __init__(self, binaries):
        self.binaries, self.running, self.redis = binaries, {}, {}

    def __getitem__(self, name):
        if name not in self.running:
            self.running[name] = self.start(name)
            self.check(name)
        return self.running[name]

    def start(self, name):
        mode = name.removeprefix("working ")
        options = {"work": 200} if mode != name else {}
        kind, _, rest = name.partition(" ")
        if kind == "encoded":
            mode, options = rest.partition(",")[0], {"encode": "zstd,br,gzip" if name in CODINGS else "zstd,gzip"}
        if kind == "compressed":
            mode, options = "memory", {"compress": True}
        if mode in PROXIES:
            return PROXIES[mode](self["plain"])
        if mode == "reverse_proxy":
            return servers.reverse_proxy(self.binaries, self["plain"])
        if mode in OVER_REDIS:
            self.redis[name] = servers.redis()
        begin = servers.rival if mode in LAYERS else servers.target
        return begin(self.binaries, mode, self.redis.get(name), **options)

    def check(self, name):
        """Whether it answers as all do, and, where that can be seen, from what it keeps."""
        server = self.running[name]
        servers.get(server.url + "/v/check")
        time.sleep(0.2)
        headers, body = servers.get(server.url + "/v/check")
        assert len(body) == 1_580, (name, len(body))
        field, value = MARKS.get(name.removeprefix("working "), ("content-type", "json"))
        assert field in headers and value in headers[field], (name, headers)
        if accepts(name):
            self.check_coding(name)

    def check_coding(self, name):
        """Whether it sends a page in a coding that it is asked for, once it has had the time to make it."""
        for _ in range(3):
            headers, _ = servers.get(self.running[name].url + "/v/check?page", accepts(name))
            time.sleep(0.2)
        assert headers.get("content-encoding") in accepts(name).split(", "), (name, headers)

    def empty(self):
        """A million misses are not to fill the machine."""
        for server in self.redis.values():
            if int(servers.redis_info(server)["used_memory"]) > 1 << 30:
                servers.redis_command(server, "FLUSHALL")

    def stop(self):
        for server in [*self.running.values(), *self.redis.values()]:
            server.stop()


def run(scenario, running, rounds, seconds):
    """Results of each server, a round each."""
    results = {name: [] for name in scenario.names}
    def begin(name, seconds):
        return ask(
            running[name], scenario.kind, scenario.connections, seconds, scenario.query,
            accepts=accepts(name), pause=scenario.pause,
        )  # fmt: skip

    for name in scenario.names:
        begin(name, 1)
    for number in range(rounds):
        # Turned round by round, so that nobody always comes after the same neighbour.
        turn = number % len(scenario.names)
        for name in scenario.names[turn:] + scenario.names[:turn]:
            if scenario.kind == "distinct":
                running.empty()
            results[name].append(begin(name, seconds))
    return results


def median(asks, what):
    return statistics.median(getattr(ask, what) for ask in asks)


def section(scenario, results, out):
    """Its part of the page, with its plot."""
    base = results[scenario.names[0]]
    rows = [
        [
            name, f"{median(asks, 'rate'):,.0f}", f"{statistics.median(a.rate / b.rate for a, b in zip(asks, base, strict=True)):.2f}",
            f"{median(asks, 'p50') / 1000:.2f}", f"{median(asks, 'p99') / 1000:.2f}", sum(ask.errors for ask in asks),
        ]
        for name, asks in results.items()
    ]  # fmt: skip
    text = plot.table(rows, ["", "requests/s", f"to {scenario.names[0]}", "p50 ms", "p99 ms", "errors"])
    print(text, flush=True)
    file = scenario.name.replace(",", "").replace("µ", "u").replace(" ", "-").lower() + ".svg"
    bars = [(name, median(asks, "rate"), f"p99 {median(asks, 'p99') / 1000:.1f} ms") for name, asks in results.items()]
    (out / file).write_text(plot.bars(scenario.name, "requests a second", bars))
    return f"## {scenario.name[0].upper()}{scenario.name[1:]}\n\n{text}\n\n![{scenario.name}]({file})\n"


def compare(plan, out):
    """The scenarios: parts of the page, and what was measured."""
    parts, measured, running = [], {}, Servers(plan.binaries)
    try:
        for scenario in plan.scenarios():
            print(f"{scenario.name} ...", flush=True)
            measured[scenario.name] = run(scenario, running, plan.rounds, min(scenario.seconds, plan.seconds))
            parts.append(section(scenario, measured[scenario.name], out))
        if plan.whole:
            peaks = [[name, f"{server.memory('VmHWM') / 2**20:,.0f}"] for name, server in running.running.items()]
            about = "After all of the above, caches full of what the misses brought. HAProxy takes all that it may use at its start."
            parts.append(f"## Peak memory\n\n{about}\n\n" + plot.table(peaks, ["", "MiB"]) + "\n")
    finally:
        running.stop()
    return parts, measured


def costs(plan):
    print("what a miss costs Redis ...", flush=True)
    begin = {name: servers.rival if name in LAYERS else servers.target for name in ("redis", "tiered", "handmade", "hitbox")}
    found = {
        name: cost.of_a_miss(lambda redis, name=name, **options: begin[name](plan.binaries, name, redis, **options), plan.misses)
        for name in plan.here(list(begin))
    }
    text = plot.table([found[name].row(name) for name in found], cost.HEADER)
    print(text, flush=True)
    return f"## What a miss costs Redis\n\n{(HERE / 'cost.md').read_text()}\n{text}\n", found


def the_service(plan):
    """The product API, as its users ask it."""
    print(f"{PRODUCTS} ...", flush=True)
    redis = servers.redis()
    url = f"redis://127.0.0.1:{redis.port}"
    variables = {
        "no cache": {"APP_CACHE": "off"},
        "values alone": {"APP_CACHE_PATHS": "/none=1s"},
        "memory": {},
        "tiered": {"APP_REDIS_URL": url, "APP_CACHE_FIRST_TIER": "64MiB"},
        "redis": {"APP_REDIS_URL": url, "APP_CACHE_PREFIX": "alone"},
    }
    running = {}
    try:
        for name, settings in variables.items():
            running[name] = servers.service(plan.binaries, name, settings)
        rates = {name: [] for name in running}
        for _ in range(plan.rounds):
            for name, server in running.items():
                path = "/api/products?category=books&page=1&per_page=20"
                rates[name].append(ask(server, "path", 50, plan.seconds, path).rate)
        rows = []
        for name, values in rates.items():
            ratio = statistics.median(value / none for value, none in zip(values, rates["no cache"], strict=True))
            rows.append([name, f"{statistics.median(values):,.0f}", f"{ratio:.1f}"])
        text = plot.table(rows, ["", "requests/s", "to no cache"])
        print(text, flush=True)
        about = (
            "A list of 20 products, 50 connections. *No cache* is `APP_CACHE=off`: each request reads SQLite. *Values alone* keeps no "
            "responses: what its handlers read from the database is in memory by `#[cached]`."
        )
        return f"## The product API\n\n{about}\n\n{text}\n"
    finally:
        for server in [*running.values(), redis]:
            server.stop()


class Plan:
    """What to measure, and for how long."""

    def __init__(self, arguments):
        self.binaries, self.quick, self.only = arguments.binaries, arguments.quick, arguments.only
        self.whole = not self.only
        self.rounds, self.seconds, self.misses = (2, 1, 2_000) if self.quick else (6, 2, 20_000)

    def wants(self, name):
        return self.whole or any(text.lower() in name.lower() for text in self.only)

    def here(self, names):
        """Those that are installed."""
        needs = {"haproxy": "haproxy", "trafficserver": "traffic_server"}
        absent = {name for name in LAYERS if not (self.binaries / "load-rivals").exists()}
        absent |= {name for name, program in needs.items() if not shutil.which(program)}
        return [name for name in names if name.removeprefix("working ") not in absent]

    def scenarios(self):
        """Whole ones, and of the others the servers that the rows need which are asked for."""
        for scenario in SCENARIOS:
            wanted = {name for target in targets.TARGETS if target.part == scenario.name and self.wants(target.name) for name in target.servers}
            names = [name for name in scenario.names if self.wants(scenario.name) or name in wanted]
            if names:
                yield scenario.only(self.here(names))

    def parts(self, *names):
        """Whether one of these parts is asked for, or a row that needs it."""
        return any(self.wants(name) or any(target.part == name and self.wants(target.name) for target in targets.TARGETS) for name in names)


def options():
    arguments = argparse.ArgumentParser(prog="tests/load/run", description="Measures this cache beside others.")
    arguments.add_argument("--binaries", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    arguments.add_argument("--quick", action="store_true", help="short, to try it out: the figures mean nothing")
    arguments.add_argument(
        "--only", action="append", metavar="ROW", default=[],
        help="measure what this row of the targets needs, or this part of the page: any piece of its name. May be given more than once",
    )  # fmt: skip
    return arguments.parse_args()


def main():
    plan = Plan(options())
    away = plan.quick or not plan.whole
    out = pathlib.Path(tempfile.mkdtemp(prefix="load-")) if away else ROOT / "docs" / "performance"
    out.mkdir(parents=True, exist_ok=True)

    began = time.monotonic()
    parts, measured = compare(plan, out)
    if plan.parts(targets.COST):
        part, measured[targets.COST] = costs(plan)
        parts.append(part)
    if plan.parts(PRODUCTS):
        parts.append(the_service(plan))
    grown, beyond = growth(plan, out)
    parts += grown
    if beyond:
        measured[targets.ENTRIES] = beyond
    reached = plot.table(targets.rows(measured, plan.wants), ["", "now", "target", "met"])
    machine = servers.machine()
    page = [
        (HERE / "introduction.md").read_text(),
        f"Measured on {machine['cores']} cores ({machine['cpu']}), which the load generator shares; {machine['versions']}; "
        f"medians of {plan.rounds} rounds of {plan.seconds} s, each of which asks every server in turn.\n",
        f"## What it has to reach\n\n{reached}\n",
        *parts,
        (HERE / "tracking.md").read_text(),
    ]
    (out / "README.md").write_text("\n".join(page))
    if not away:
        summary.write(out)
    print(reached)
    print(f"written to {out} in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
