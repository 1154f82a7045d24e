"""Runs of the load generator."""

import pathlib
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).with_suffix(".lua")


class Ask:
    """One that has begun. `kind`: the `same` URL, `distinct` ones that nobody has asked for, or `zipf` over `count` of them; `accepts`: its
    `Accept-Encoding`; `pause`: milliseconds between an answer and the next request. What came of it: requests,
    their rate in a second, errors, and microseconds that they took."""

    #: Of those with distinct URLs, each begins where no other has been.
    distinct = 0

    def __init__(self, server, kind, connections, seconds, query="", count=10_000, threads=2, accepts="", pause=0):
        if kind == "distinct":
            Ask.distinct += 1
            count = Ask.distinct * 1_000_000_000
        self.process = subprocess.Popen(
            [
                "wrk", "-t", str(min(threads, connections)), "-c", str(connections), "-d", f"{seconds}s", "--timeout", "10s", "--latency",
                "-s", str(SCRIPT), server.url, "--", kind, str(count), query, accepts, str(pause),
            ],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self):
        """Waits until it has ended."""
        out, _ = self.process.communicate()
        if self.process.returncode:
            raise SystemExit(f"wrk failed: {out}")
        words = next(line for line in out.splitlines() if line.startswith("RESULT")).split()[1:]
        self.requests, micros, self.errors, self.p50, self.p99, self.slowest = map(int, words)
        self.rate = self.requests / (micros / 1e6)
        return self


def ask(*args, **options):
    return Ask(*args, **options).finish()


def fill(server, count, start, variants=0, connections=4, ahead=64):
    """Asks for exactly so many URLs that nobody asked for before, each once, or once for each variant, with so many requests on the
    way on each connection."""
    numbers = map(str, (server.port, start, count, variants, connections, ahead))
    subprocess.run([sys.executable, str(SCRIPT.with_name("fill.py")), *numbers], check=True, stdout=subprocess.DEVNULL)
