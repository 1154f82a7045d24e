#!/usr/bin/env bash
# Flask-Caching's `cached` answers a POST with what a GET has left in the cache, and the view is not called.
#
# Flask-Caching 2.5.1 (the newest) with Flask 3.1.3. Run it with Python 3.10 or newer:
# findings/flask-caching-answers-a-post-from-the-get.sh
#
# A view takes GET and POST, and has `@cache.cached(query_string=True)`. A client sends a GET, and then a POST and a DELETE of the same URL.
# Expected: these two are done, as a cache answers safe methods alone (RFC 9111, section 4: it MUST write through the others).
# Seen: they get 200 and the page of the GET, and nothing is done. Two QUERYs with different bodies get one answer, too.
# The other way round, what a POST said is served to GETs.
#
# Output: GET said GET; POST said GET; DELETE said GET; QUERY said GET; calls of the view: 1; after a POST a GET said POST
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check Flask-Caching==2.5.1 Flask==3.1.3

cat >try.py <<'PYTHON'
import sys

from flask import Flask, request
from flask_caching import Cache

METHODS = ["GET", "POST", "DELETE", "QUERY"]
app = Flask(__name__)
cache = Cache(app, config={"CACHE_TYPE": "SimpleCache", "CACHE_DEFAULT_TIMEOUT": 60})
calls = 0


@app.route("/<name>", methods=METHODS)
@cache.cached(query_string=True)
def view(name):
    global calls
    calls += 1
    return request.method


client = app.test_client()
seen = [client.open("/one", method=method, data=b"what") for method in METHODS]
said = [answer.text for answer in seen]
called = calls
client.post("/other")
after = client.get("/other").text
print("; ".join(f"{method} said {text}" for method, text in zip(METHODS, said)), end="; ")
print(f"calls of the view: {called}; after a POST a GET said {after}")
done = [answer.status_code for answer in seen] == [200] * 4
sys.exit(0 if done and said == ["GET"] * 4 and called == 1 and after == "POST" else 1)
PYTHON
venv/bin/python try.py
