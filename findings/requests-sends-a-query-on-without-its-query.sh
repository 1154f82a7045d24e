#!/usr/bin/env bash
# requests follows a redirection of a QUERY with a QUERY that has no body, or with a GET.
#
# requests 2.34.2 (the newest). Run it with Python 3.10 or newer: findings/requests-sends-a-query-on-without-its-query.sh
#
# QUERY (RFC 10008) is a safe method whose body says what is asked for. A server answers one with 301, and one with 302.
# Expected: the same QUERY goes to the new address, since only POST may become GET there (RFC 9110, section 15.4), and so it does
# in urllib3, aiohttp, got, axios and Node's `fetch`. Seen: after 301 a QUERY with an empty body, and without its `Content-Type`,
# for which the server that gets it may have an answer of 200, to another question; after 302 a GET. After 307 and 308 it is
# the same QUERY.
#
# Output: 301: QUERY without a body; 302: GET without a body; 307: QUERY with its body; 308: QUERY with its body
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check requests==2.34.2

cat >try.py <<'PYTHON'
import http.server
import sys
import threading

import requests

arrived = {}


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        way, _, status = self.path[1:].partition("/")
        if way == "from":
            self.send_response_only(int(status))
            self.send_header("Location", f"/to/{status}")
        else:
            arrived[status] = self.command, body, self.headers.get("Content-Type")
            self.send_response_only(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_QUERY = answer

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
seen = []
for status in ("301", "302", "307", "308"):
    url = f"http://127.0.0.1:{server.server_port}/from/{status}"
    requests.request("QUERY", url, json={"name": "one"}).raise_for_status()
    method, body, kind = arrived[status]
    whole = body == b'{"name": "one"}' and kind == "application/json"
    seen.append(f"{status}: {method} {'with its' if whole else 'without a' if not body and not kind else 'with another'} body")
print("; ".join(seen))
expected = ["301: QUERY without a body", "302: GET without a body", "307: QUERY with its body", "308: QUERY with its body"]
sys.exit(0 if seen == expected else 1)
PYTHON
venv/bin/python try.py
