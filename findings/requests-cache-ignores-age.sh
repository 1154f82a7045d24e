#!/usr/bin/env bash
# requests-cache, told to obey `Cache-Control`, takes every response for new: it counts neither `Age` nor `Date`.
#
# requests-cache 1.3.3 (the newest) with requests 2.32.5. Run it with Python 3.10 or newer: findings/requests-cache-ignores-age.sh
#
# A response comes from another cache with `Cache-Control: max-age=60`, `Age: 58` and a `Date` of 58 seconds ago. Expected
# (RFC 9111, section 4.2), with `cache_control=True`: it is fresh for 2 seconds more, and the request after 4 seconds goes
# to the server. Seen: it is answered from the cache, which gives the response 60 seconds from when it came.
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check requests-cache==1.3.3 requests==2.32.5

cat >try.py <<'PYTHON'
import email.utils
import http.server
import sys
import threading
import time

import requests_cache

asked = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        self.send_response_only(200)
        self.send_header("Date", email.utils.formatdate(time.time() - 58, usegmt=True))
        self.send_header("Age", "58")
        self.send_header("Cache-Control", "max-age=60")
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"one")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
session = requests_cache.CachedSession(backend="memory", cache_control=True)
url = f"http://127.0.0.1:{server.server_port}/"
session.get(url)
time.sleep(4)
second = session.get(url)
print(f"after 4 s: from_cache={second.from_cache}; the server was asked {asked} time(s)")
sys.exit(0 if second.from_cache and asked == 1 else 1)
PYTHON
venv/bin/python try.py
