#!/usr/bin/env bash
# aiocache's `@cached` on a method gives one object what the method said of another, which has gone meanwhile.
#
# aiocache 0.12.3 (the newest), on CPython. Run it with Python 3.10 or newer: findings/aiocache-takes-an-object-for-the-one-before.sh
#
# A class has a method with `@cached(ttl=60)`, without arguments. An object is made for every request, say of a user's name, asked, and
# dropped. Expected: each object has its own values, since the key has `self` in it (`noself=True` takes it out); at worst
# nothing is ever a hit. Seen: the key has the address of the object, where CPython puts the next object of the same class as soon
# as the first is dropped, which so gets the value of the first. `functools.cache` keeps its objects, and has no such mix-up.
#
# Output: one after the other: ann ann ann; all at once: ann bob eve; functools.cache, one after the other: ann bob eve
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check aiocache==0.12.3

cat >try.py <<'PYTHON'
import asyncio
import functools
import sys

from aiocache import cached

NAMES = "ann", "bob", "eve"


class Page:
    def __init__(self, name):
        self.name = name

    @cached(ttl=60)
    async def load(self):
        return self.name

    @functools.cache
    def kept(self):
        return self.name


class Other(Page):
    @cached(ttl=60)
    async def load_other(self):
        return self.name


async def main():
    turns = [await Page(name).load() for name in NAMES]
    others = [Other(name) for name in NAMES]
    at_once = [await other.load_other() for other in others]
    kept = [Page(name).kept() for name in NAMES]
    form = "one after the other: {}; all at once: {}; functools.cache, one after the other: {}"
    print(form.format(*(" ".join(seen) for seen in (turns, at_once, kept))))
    # Where the next object lies is up to the interpreter: one mix-up will do.
    return turns != list(NAMES) and at_once == kept == list(NAMES)


sys.exit(0 if asyncio.run(main()) else 1)
PYTHON
venv/bin/python try.py
