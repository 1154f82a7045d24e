#!/usr/bin/env bash
# aiohttp's server compresses by what the client accepts, and says it to no cache: there is no `Vary`, and one entity tag for all.
#
# aiohttp 3.14.5 (the newest). Run it with Python 3.10 or newer: findings/aiohttp-compresses-without-vary.sh
#
# A handler calls `enable_compression()` on a response with `max-age=60` and a strong entity tag. A client that accepts gzip
# asks, and one that accepts no coding. Expected (RFC 9110, sections 12.5.5 and 8.8.3): both responses have `Vary:
# Accept-Encoding`, and their tags differ, or are weak. Seen: neither has a `Vary`, and both have the same strong tag. A cache
# in front may so give the gzip of the first client to the second, which can't read it, and answer 304 to the tag of the
# other form. Files that lie there compressed already (`FileResponse`) do have a `Vary`.
#
# Output: gzip: Content-Encoding gzip, Vary None, ETag "a"; identity: Content-Encoding None, Vary None, ETag "a"; file: Vary Accept-Encoding
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check aiohttp==3.14.5

cat >try.py <<'PYTHON'
import asyncio
import gzip
import http.client
import sys

from aiohttp import web

with open("file.css", "wb") as file, open("file.css.gz", "wb") as compressed:
    file.write(b"one " * 1000)
    compressed.write(gzip.compress(b"one " * 1000))


async def page(_):
    response = web.Response(text="one " * 1000, headers={"Cache-Control": "max-age=60", "ETag": '"a"'})
    response.enable_compression()
    return response


async def file(_):
    return web.FileResponse("file.css")


def ask(port, path, accepted):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Accept-Encoding": accepted})
    answer = connection.getresponse()
    answer.read()
    return answer


async def main():
    app = web.Application()
    app.add_routes([web.get("/page", page), web.get("/file", file)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    seen = []
    for accepted in ("gzip", "identity"):
        answer = await asyncio.to_thread(ask, port, "/page", accepted)
        seen.append(tuple(answer.getheader(name) for name in ("Content-Encoding", "Vary", "ETag")))
    vary = (await asyncio.to_thread(ask, port, "/file", "gzip")).getheader("Vary")
    await runner.cleanup()
    form = "{}: Content-Encoding {}, Vary {}, ETag {}"
    print(form.format("gzip", *seen[0]), form.format("identity", *seen[1]), f"file: Vary {vary}", sep="; ")
    return seen == [("gzip", None, '"a"'), (None, None, '"a"')] and vary == "Accept-Encoding"


sys.exit(0 if asyncio.run(main()) else 1)
PYTHON
venv/bin/python try.py
