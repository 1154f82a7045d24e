"""The plot of the README: what hits take away from a handler that works for 200 microseconds, out of the tables of
docs/performance. `python3 tests/load/summary.py` writes it anew; `measure.py` does so after each measurement."""

import re
from pathlib import Path

import plot

PERFORMANCE = Path(__file__).resolve().parents[2] / "docs" / "performance"

# What a bar is called, and the table and row that it is taken from.
BARS = [
    ("no cache", "Misses of 200 µs, 50 connections", "working plain"),
    ("cache-layer, memory", "Hits, 50 connections", "memory"),
    ("cache-layer, memory over Redis", "Hits, 50 connections", "tiered"),
    ("cache-layer, Redis", "Hits, 50 connections", "redis"),
    ("nginx", "Hits, 50 connections", "nginx"),
    ("Varnish", "Hits, 50 connections", "varnish"),
]


def requests_per_second(page, table, row):
    section = page.split(f"\n## {table}\n")[1].split("\n## ")[0]
    return float(re.search(rf"^\| {row} \| ([\d,]+) \|", section, re.M)[1].replace(",", ""))


def summary(page):
    rows = [(name, requests_per_second(page, table, row), "") for name, table, row in BARS]
    base = rows[0][1]
    rows = [rows[0], *((name, value, f"{value / base:.1f} ×") for name, value, _ in rows[1:])]
    return plot.bars("A handler that takes 200 µs, and its responses from a cache", "requests/s, 50 connections, 2 cores", rows)


def write(folder=PERFORMANCE):
    (folder / "summary.svg").write_text(summary((folder / "README.md").read_text()))


if __name__ == "__main__":
    write()
