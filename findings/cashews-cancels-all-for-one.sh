#!/usr/bin/env bash
# cashews' decorator cancels everybody who waits for a value when one of them is cancelled.
#
# cashews 7.6.0 (the newest); async-lru 2.4.0 beside it. Run it with Python 3.10 or newer: findings/cashews-cancels-all-for-one.sh
#
# A function that takes a second has `@cache(ttl="10m")`: of several calls at once, one runs it, and the others wait for that. Two
# callers ask; the second, which only waits, has a timeout of 0.3 seconds. Expected: the second times out, and the first, which
# runs the function, gets its value, as with async-lru. Seen: the first is cancelled, too, by a `CancelledError` of which it
# is not the cause, and nothing is cached: the impatient caller ends the work of all others. With `protected=False`, which
# lets all run the function at once, each is on its own.
#
# Output: cashews: first CancelledError, second TimeoutError, runs 2; protected=False: first value, second TimeoutError, runs 2; async-lru: first value, second TimeoutError, runs 1
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check cashews==7.6.0 async-lru==2.4.0

cat >try.py <<'PYTHON'
import asyncio
import sys

from async_lru import alru_cache
from cashews import Cache


runs = 0


async def work():
    global runs
    runs += 1
    await asyncio.sleep(1)
    return "value"


async def two_callers(cached):
    global runs
    runs = 0
    first = asyncio.create_task(cached())
    await asyncio.sleep(0.1)
    second = asyncio.create_task(asyncio.wait_for(cached(), 0.3))
    seen = await asyncio.gather(first, second, return_exceptions=True)
    # Nobody is there any more: is the value?
    assert await cached() == "value"
    return *(one if isinstance(one, str) else type(one).__name__ for one in seen), runs


async def main():
    cache = Cache()
    cache.setup("mem://")
    seen = {
        "cashews": await two_callers(cache(ttl="10m", prefix="one")(work)),
        "protected=False": await two_callers(cache(ttl="10m", prefix="two", protected=False)(work)),
        "async-lru": await two_callers(alru_cache(work)),
    }
    await cache.close()
    print("; ".join("{}: first {}, second {}, runs {}".format(name, *one) for name, one in seen.items()))
    return list(seen.values()) == [
        ("CancelledError", "TimeoutError", 2),
        ("value", "TimeoutError", 2),
        ("value", "TimeoutError", 1),
    ]


sys.exit(0 if asyncio.run(main()) else 1)
PYTHON
venv/bin/python try.py
