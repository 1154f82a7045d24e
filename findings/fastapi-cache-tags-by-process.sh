#!/usr/bin/env bash
# fastapi-cache2's entity tags are other ones in each process, and no entity tags by HTTP's grammar.
#
# fastapi-cache2 0.2.2 (the newest) with fastapi 0.165.0. Run it with Python 3.10 or newer:
# findings/fastapi-cache-tags-by-process.sh
#
# Two processes of one application, as two workers or a restart, give the same response by `@cache(expire=60)`. Expected: it has
# the same `ETag` in both, a quoted one, so that a client or a cache that got it from one is answered 304 by the other. Seen:
# `W/` and a number without quotes, which is Python's own hash of the content, and that begins with another seed in each
# process. Whoever validates at another worker gets the whole response, and RFC 9110 (section 8.8.3) knows no such tag. Within one
# process it is answered 304.
#
# Output: same process 304, other process 200; bodies are the same: True, tags are the same: False, tags are quoted: False
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check fastapi-cache2==0.2.2 fastapi==0.165.0 jinja2==3.1.6

cat >application.py <<'PYTHON'
import socket
import sys

import uvicorn
from fastapi import FastAPI
from fastapi_cache import FastAPICache
from fastapi_cache.backends.inmemory import InMemoryBackend
from fastapi_cache.decorator import cache

app = FastAPI()
FastAPICache.init(InMemoryBackend())


@app.get("/")
@cache(expire=60)
async def page():
    return {"name": "one"}


with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
PYTHON
cat >try.py <<'PYTHON'
import http.client
import re
import subprocess
import sys


def ask(port, tag=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/", headers={} if tag is None else {"If-None-Match": tag})
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.getheader("ETag")


workers = []
try:
    for _ in range(2):
        workers.append(subprocess.Popen([sys.executable, "application.py"], stdout=subprocess.PIPE, text=True))
    one, other = (int(worker.stdout.readline()) for worker in workers)
    (_, body, tag), (_, body2, tag2) = ask(one), ask(other)
    same, elsewhere = ask(one, tag)[0], ask(other, tag)[0]
finally:
    for worker in workers:
        worker.kill()
        worker.wait()
quoted = bool(re.fullmatch(r'(W/)?"[^"]*"', tag))
print(
    f"same process {same}, other process {elsewhere}; bodies are the same: {body == body2}, "
    f"tags are the same: {tag == tag2}, tags are quoted: {quoted}"
)
sys.exit(0 if (same, elsewhere, body == body2, tag == tag2, quoted) == (304, 200, True, False, False) else 1)
PYTHON
PYTHONHASHSEED=random venv/bin/python try.py
