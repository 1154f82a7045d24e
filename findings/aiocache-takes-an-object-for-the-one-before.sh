#!/usr/bin/env bash
# aiocache's and cashews' decorators on a method give one object what the method said of another, which has gone meanwhile.
#
# aiocache 0.12.3 and cashews 7.6.0 (the newest), on CPython. Run it with Python 3.10 or newer:
# findings/aiocache-takes-an-object-for-the-one-before.sh
#
# A class has a method with `@cached(ttl=60)`, or cashews' `@cache(ttl=60)`, without arguments. An object is made for every request,
# say of a user's name, asked, and dropped. Expected: each object has its own values, since the key has `self` in it (aiocache's
# `noself=True` takes it out); at worst nothing is ever a hit. Seen: the key has the address of the object, where CPython puts
# the next object of the same class as soon as the first is dropped, which so gets the value of the first.
# `functools.cache` keeps its objects, and has no such mix-up.
#
# Output: aiocache: in turn ann ann ann, at once ann bob eve; cashews: in turn ann ann ann, at once ann bob eve; functools.cache: in turn ann bob eve, at once ann bob eve
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check aiocache==0.12.3 cashews==7.6.0

cat >try.py <<'PYTHON'
import asyncio
import functools
import sys

from aiocache import cached
from cashews import cache

NAMES = "ann", "bob", "eve"
cache.setup("mem://")


class Named:
    def __init__(self, name):
        self.name = name


class Aiocache(Named):
    @cached(ttl=60)
    async def load(self):
        return self.name


class Cashews(Named):
    @cache(ttl=60)
    async def load(self):
        return self.name


class Functools(Named):
    @functools.cache
    def kept(self):
        return self.name

    async def load(self):
        return self.kept()


async def main():
    right, seen = list(NAMES), {}
    for name, page in (("aiocache", Aiocache), ("cashews", Cashews), ("functools.cache", Functools)):
        # At once first, as these are still there when the others are made.
        pages = [page(name) for name in NAMES]
        at_once = [await one.load() for one in pages]
        seen[name] = [await page(name).load() for name in NAMES], at_once
    await cache.close()
    print("; ".join(f"{name}: in turn {' '.join(turns)}, at once {' '.join(once)}" for name, (turns, once) in seen.items()))
    kept = seen.pop("functools.cache")
    # Where the next object lies is up to the interpreter: one mix-up will do.
    return kept == (right, right) and all(turns != right and once == right for turns, once in seen.values())


sys.exit(0 if asyncio.run(main()) else 1)
PYTHON
venv/bin/python try.py
