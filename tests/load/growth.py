"""What a request costs as the work grows: with entries, tags, variants, bytes and processes."""

import time

import plot
import servers
from ask import Ask, ask, fill

STORES = ("memory", "tiered", "redis")


def growth(plan, out):
    """Parts of the page, and the bytes in memory of an entry beyond its own, for each number of entries but the first."""
    seconds = 1 if plan.quick else 2
    parts, beyond = [], []
    for name, part in {"tags": tags, "variants": variants, "bodies": bodies, "processes": processes}.items():
        if plan.parts(name):
            print(f"{name} ...", flush=True)
            parts.append(part(plan.binaries, seconds, out))
    if plan.parts("entries"):
        print("entries ...", flush=True)
        counts = [1_000, 10_000, 50_000] if plan.quick else [1_000, 10_000, 100_000, 1_000_000]
        part, beyond = entries(plan.binaries, counts, out)
        parts.insert(0, part)
    return parts, beyond


def entries(binaries, counts, out):
    """What an entry costs beyond its own bytes, by how much the process grows."""
    rows, series, beyond = [], {}, []
    # The body, and names and values of its fields.
    own = 1_580 + len("content-typeapplication/jsoncache-controlmax-age=3600datecontent-length1580") + 29
    for mode, name in (("memory", "memory"), ("redis", "Redis")):
        redis = servers.redis()
        server = servers.target(binaries, mode, redis, prefix="size", memory=8 << 30)
        size = server.memory if mode == "memory" else lambda redis=redis: int(servers.redis_info(redis)["used_memory"])
        try:
            fill(server, 1_000, start=900_000_000)
            before, done, series[name] = size(), 0, []
            for count in counts:
                fill(server, count - done, start=done)
                done = count
                time.sleep(1)
                each = (size() - before) / count
                rows.append([name, f"{count:,}", round(each), round(each - own)])
                if mode == "memory" and count > counts[0]:
                    beyond.append(round(each - own))
                series[name].append((count, ask(server, "same", 50, 2).rate))
        finally:
            server.stop()
            redis.stop()
    (out / "entries.svg").write_text(plot.lines("Hits by entries kept", "entries", "requests a second", series))
    text = (
        "## Entries\n\nThe body is 1,580 bytes; `beyond` is what an entry takes over its body and header fields: of the process's memory, and of "
        "Redis' own count.\n\n" + plot.table(rows, ["", "entries", "bytes each", "beyond"]) + "\n\n![hits by entries](entries.svg)\n"
    )
    return text, beyond


def rates(binaries, seconds, options, query="", many=0):
    """Requests a second from memory, from both tiers, and from Redis."""
    redis, row = servers.redis(), {}
    try:
        for mode in STORES:
            server = servers.target(binaries, mode, redis, prefix=mode, **options)
            try:
                if many:
                    fill(server, 1, start=1, variants=many)
                ask(server, "same", 50, 1, query)
                row[mode] = ask(server, "same", 50, seconds, query).rate
            finally:
                server.stop()
    finally:
        redis.stop()
    return row


def plotted(out, name, title, label, results):
    stores = list(results[0][1])
    series = {mode: [(x, row[mode]) for x, row in results] for mode in stores}
    (out / f"{name}.svg").write_text(plot.lines(title, label, "requests a second", series))
    rows = [[f"{x:,}", *(f"{row[mode]:,.0f}" for mode in stores)] for x, row in results]
    return f"## {title}\n\n{plot.table(rows, [label, *stores])}\n\n![{title}]({name}.svg)\n"


def tags(binaries, seconds, out):
    results = [(many, rates(binaries, seconds, {"tags": many})) for many in (0, 1, 10, 50)]
    return plotted(out, "tags", "Hits by tags of an entry", "tags", results)


def variants(binaries, seconds, out):
    results = [(many, rates(binaries, seconds, {"vary": True}, many=many)) for many in (1, 4, 16, 32)]
    return plotted(out, "variants", "Hits by variants of a URL", "variants", results)


def bodies(binaries, seconds, out):
    lengths = (1, 1_024, 16_384, 262_144, 1_048_576)
    results = [(length, rates(binaries, seconds, {}, f"?bytes={length}")) for length in lengths]
    return plotted(out, "bodies", "Hits by length of the body", "bytes", results)


def processes(binaries, seconds, out):
    redis, results = servers.redis(), []
    try:
        for many in (1, 2, 4, 8):
            results.append((many, {mode: together(binaries, seconds, redis, mode, many) for mode in ("tiered", "redis")}))
    finally:
        redis.stop()
    return plotted(out, "processes", "Hits of all processes together, on one Redis", "processes", results)


def together(binaries, seconds, redis, mode, many):
    """Requests a second of so many processes at the same time."""
    fleet = [servers.target(binaries, mode, redis, prefix=mode) for _ in range(many)]
    try:
        for server in fleet:
            ask(server, "zipf", 8, 1)
        running = [Ask(server, "zipf", 16, seconds, count=1_000, threads=1) for server in fleet]
        return sum(each.finish().rate for each in running)
    finally:
        for server in fleet:
            server.stop()
