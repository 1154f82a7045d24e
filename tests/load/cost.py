"""What a miss costs Redis, counted by Redis itself: round trips, scripts, commands, bytes and processor time. Nothing here depends
on how fast or busy the machine is, but for the processor time."""

import statistics
import threading
import time

import servers
from ask import fill

HEADER = ["", "round trips before the load", "after it", "scripts", "commands", "bytes in", "bytes out", "Redis' CPU µs"]
#: The load takes so long: time enough to ask Redis in the middle of it, also where the processor is shared.
LOAD = 0.06
SCRIPTS = ("cmdstat_eval", "cmdstat_evalsha", "cmdstat_fcall")


class Cost:
    """Of one miss."""

    def __init__(self, before, after, scripts, commands, bytes_in, bytes_out, micros):
        self.before, self.after, self.scripts, self.commands = before, after, scripts, commands
        self.bytes_in, self.bytes_out, self.micros = bytes_in, bytes_out, micros

    def row(self, name):
        return [
            name, self.before, self.after, f"{self.scripts:.2f}", f"{self.commands:.1f}",
            f"{self.bytes_in:,.0f}", f"{self.bytes_out:,.0f}", f"{self.micros:.0f}",
        ]  # fmt: skip


def of_a_miss(start, misses):
    """`start(redis, **options)` starts the handler over a Redis. One client, for whom Redis' reads are the round trips; then 50
    clients, for whom what is sent together counts as what it is."""
    redis = servers.redis()
    try:
        slow = start(redis, work=round(LOAD * 1e6))
        try:
            before, after = round_trips(redis, slow)
        finally:
            slow.stop()
        quick = start(redis)
        try:
            return Cost(before, after, *totals(redis, quick, misses))
        finally:
            quick.stop()
    finally:
        redis.stop()


def round_trips(redis, server):
    """How often Redis read something before the load of a miss began, and afterwards: medians, since connections are also checked
    from time to time. What is sent in one piece is read at once."""
    servers.get(server.url + "/v/first")
    time.sleep(1)
    before, after = [], []
    with servers.RedisInfo(redis) as info:
        def reads():
            return int(info.section("stats")["total_reads_processed"])

        for number in range(11):
            miss = threading.Thread(target=servers.get, args=(f"{server.url}/v/trip-{number}",))
            began = reads()
            miss.start()
            time.sleep(LOAD / 2)
            loading = reads()
            miss.join()
            time.sleep(LOAD)
            # One read of each question's own.
            before.append(loading - began - 1)
            after.append(reads() - loading - 1)
    return statistics.median(before), statistics.median(after)


def totals(redis, server, misses):
    """Scripts, commands (also those within scripts), bytes and processor time, for each of so many misses."""
    fill(server, 1_000, start=0, connections=50, ahead=1)
    with servers.RedisInfo(redis) as info:
        def counters():
            time.sleep(0.2)
            found = info.section("stats", "cpu", "commandstats")
            calls = {name: int(value.split("calls=")[1].split(",")[0]) for name, value in found.items() if name.startswith("cmdstat_")}
            return [
                sum(calls.get(name, 0) for name in SCRIPTS),
                sum(calls.values()) - calls.get("cmdstat_info", 0),
                int(found["total_net_input_bytes"]),
                int(found["total_net_output_bytes"]),
                (float(found["used_cpu_user_main_thread"]) + float(found["used_cpu_sys_main_thread"])) * 1e6,
            ]

        began = counters()
        fill(server, misses, start=1_000, connections=50, ahead=1)
        return [(end - start) / misses for start, end in zip(began, counters(), strict=True)]
