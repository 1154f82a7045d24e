#!/usr/bin/env bash
# Starlette (so FastAPI), Django and aiohttp send gzip to a client that refuses it.
#
# Starlette 1.10.0, Django 5.2.19 and aiohttp 3.14.5 (the newest for Python 3.10). Run it with Python 3.10 or newer:
# findings/starlette-gzips-for-who-refuses-it.sh
#
# A client says `Accept-Encoding: br, gzip;q=0`: anything but gzip (RFC 9110, section 12.5.3: a weight of 0 means "not
# acceptable"). Starlette and Django have their `GZipMiddleware`, aiohttp's handler calls `enable_compression()`. Expected: the
# response is not compressed, as for a client that says `br` alone. Seen: it is gzip, as they look for the name, and not
# for its weight. A cache that takes the field for what it says keeps that gzip for everybody who refuses gzip.
#
# Output: starlette: br None, br, gzip;q=0 gzip; django: br None, br, gzip;q=0 gzip; aiohttp: br None, br, gzip;q=0 gzip
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check starlette==1.10.0 httpx==0.28.1 Django==5.2.19 aiohttp==3.14.5

cat >try.py <<'PYTHON'
import asyncio
import http.client
import sys

import django
import httpx
from aiohttp import web
from django.conf import settings
from django.http import HttpResponse
from django.test import Client
from django.urls import path
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

BODY = "one " * 1000
settings.configure(
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="none",
)
django.setup()
urlpatterns = [path("", lambda _: HttpResponse(BODY))]


async def starlette(accepted):
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse(BODY))], middleware=[Middleware(GZipMiddleware)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
        return (await client.get("/", headers={"Accept-Encoding": accepted})).headers.get("Content-Encoding")


async def django_(accepted):
    answer = await asyncio.to_thread(Client().get, "/", headers={"Accept-Encoding": accepted})
    return answer.get("Content-Encoding")


async def aiohttp(accepted):
    async def page(_):
        response = web.Response(text=BODY)
        response.enable_compression()
        return response

    def ask(port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/", headers={"Accept-Encoding": accepted})
        answer = connection.getresponse()
        answer.read()
        return answer.getheader("Content-Encoding")

    app = web.Application()
    app.add_routes([web.get("/", page)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    seen = await asyncio.to_thread(ask, runner.addresses[0][1])
    await runner.cleanup()
    return seen


seen = {}
for name, of in (("starlette", starlette), ("django", django_), ("aiohttp", aiohttp)):
    seen[name] = [(accepted, asyncio.run(of(accepted))) for accepted in ("br", "br, gzip;q=0")]
print("; ".join(f"{name}: " + ", ".join(f"{accepted} {coding}" for accepted, coding in both) for name, both in seen.items()))
sys.exit(0 if all([coding for _, coding in both] == [None, "gzip"] for both in seen.values()) else 1)
PYTHON
venv/bin/python try.py
