#!/usr/bin/env bash
# hishel's clients keep responses that say `no-store`, and use them again, unless they are told to follow the RFC.
#
# hishel 2.0.0 (the newest) with httpx 0.28.1. Run it with Python 3.10 or newer: findings/hishel-keeps-what-must-not-be-stored.sh
#
# A client is made with its default settings, and asks twice for a response with `Cache-Control: no-store`. Expected (RFC
# 9111, section 5.2.2.5, and as version 1 did it): two requests reach the server. Seen: one does, and the second is answered
# from the cache. With `rfc=True` two do. That the default looks at no field is said where the transport is documented, and
# not where somebody looks who makes a client, or upgrades.
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'hishel[httpx]==2.0.0' httpx==0.28.1

cat >try.py <<'PYTHON'
import http.server
import sys
import threading

from hishel.httpx import CacheClient

asked = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append(self.path)
        self.send_response(200)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"one")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
for path, settings in (("/default", {}), ("/rfc", {"rfc": True})):
    with CacheClient(**settings) as client:
        for _ in range(2):
            client.get(url + path)
counts = asked.count("/default"), asked.count("/rfc")
print(f"requests for two gets: {counts[0]} by default, {counts[1]} by the RFC")
sys.exit(0 if counts == (1, 2) else 1)
PYTHON
venv/bin/python try.py
