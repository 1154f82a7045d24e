#!/usr/bin/env python3
"""Puts the probes to each cache, and writes what comes out into docs/standards.md."""

import argparse
import pathlib
import sys

from origin import Origin
from probes import PROBES, Client
from proxies import all_of

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "standards.md"
BEGIN, END = "<!-- tests/standards/run writes what follows -->\n", "<!-- until here -->\n"


def outcomes(start):
    """What each probe sees of one cache; an error is what it saw, too."""
    origin = Origin()
    server = start(origin)
    try:
        client = Client(server.port, origin)
        for name, probe in PROBES:
            try:
                yield name, probe(client)
            except (OSError, AssertionError) as error:
                yield name, f"not known: {type(error).__name__}"
    finally:
        server.stop()
        origin.server.shutdown()


def table(columns):
    lines = [
        "| | " + " | ".join(f"{name}<br>{version}" for name, version, _ in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    lines += [f"| {probe} | " + " | ".join(seen[probe] for *_, seen in columns) + " |" for probe, _ in PROBES]
    return "".join(line + "\n" for line in lines)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--proxy", required=True, help="the example reverse_proxy")
    options.add_argument("--check", action="store_true", help="compare, and write nothing")
    options = options.parse_args()
    caches, missing = all_of(options.proxy)
    for name in missing:
        print(f"left out: {name}, which is not installed")
    columns = []
    for name, version, start in caches:
        columns.append((name, version, dict(outcomes(start))))
        print(f"{name} {version}")
        for probe, seen in columns[-1][2].items():
            print(f"    {seen:24} {probe}")
    before, rest = PAGE.read_text().split(BEGIN)
    old, after = rest.split(END)
    new = table(columns)
    if not options.check:
        PAGE.write_text(before + BEGIN + new + END + after)
    elif new != old:
        print(f"{PAGE.name} says something else")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
