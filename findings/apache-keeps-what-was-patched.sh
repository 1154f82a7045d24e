#!/usr/bin/env bash
# Apache httpd's cache goes on serving a page after a PATCH of it went through and succeeded; after PUT, POST and DELETE it doesn't.
#
# Apache httpd 2.4.71 with mod_cache_disk, the newest of Debian 12, for amd64 or arm64. Needs apt-get with Debian 12's packages,
# and python3; installs nothing outside of its own folder: findings/apache-keeps-what-was-patched.sh
#
# A page with `Cache-Control: max-age=60` is in the cache. A DELETE (a PUT, a POST, a PATCH) of the same URL goes through httpd to
# the server, which says 200. Expected (RFC 9111, section 4.4: a cache MUST invalidate the target URI for every unsafe method,
# those included that it doesn't know): the GET behind it goes to the server. Seen: so it does, but for PATCH (RFC 5789), after
# which it is answered from the cache.
#
# Output: DELETE 200, then asked; PUT 200, then asked; POST 200, then asked; PATCH 200, then a hit
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
# What is downloaded is unpacked, and installed nowhere.
for package in 'apache2-bin=2.4.71-*' libapr1 libaprutil1; do
    apt-get download -qq "$package" 2>/dev/null || { echo "there is no $package"; exit 1; }
done
for file in ./*.deb; do dpkg-deb -x "$file" root; done
libraries=$(find root -name '*.so*' -printf '%h\n' | sort -u | sed "s|^|$folder/|" | paste -sd:)

cat >try.py <<'PYTHON'
import http.client
import http.server
import os
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
        self.send_response(200)
        self.send_header("Cache-Control", "max-age=60")
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"one")

    do_GET = do_DELETE = do_PUT = do_POST = do_PATCH = answer

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
folder = os.getcwd()
modules = "".join(
    f"LoadModule {name}_module {folder}/root/usr/lib/apache2/modules/mod_{name}.so\n"
    for name in ("mpm_event", "authz_core", "proxy", "proxy_http", "cache", "cache_disk")
)
os.mkdir("cache")
# As root, httpd works as another user, who has to get at its files.
os.chmod(folder, 0o755)
os.chmod("cache", 0o777)
with open("httpd.conf", "w") as file:
    file.write(f"""{modules}
User nobody
Group nogroup
ServerName localhost
ServerRoot {folder}
DefaultRuntimeDir {folder}
PidFile {folder}/pid
ErrorLog {folder}/log
Listen 127.0.0.1:{port}
CacheRoot {folder}/cache
CacheEnable disk /
ProxyPass / http://127.0.0.1:{server.server_port}/
""")
httpd = subprocess.Popen(
    ["root/usr/sbin/apache2", "-f", f"{folder}/httpd.conf", "-D", "FOREGROUND"],
    env=os.environ | {"LD_LIBRARY_PATH": sys.argv[1]},
)


def request(method, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Content-Length": "0"} if method != "GET" else {})
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
    for method in ("DELETE", "PUT", "POST", "PATCH"):
        path = f"/{method}"
        request("GET", path)
        request("GET", path)
        if asked.count(("GET", path)) != 1:
            sys.exit("it does not cache")
        status = request(method, path)
        request("GET", path)
        hit = asked.count((method, path)) == 1 and asked.count(("GET", path)) == 1
        seen.append(f"{method} {status}, then {'a hit' if hit else 'asked'}")
finally:
    httpd.terminate()
    httpd.wait()
print("; ".join(seen))
expected = ["DELETE 200, then asked", "PUT 200, then asked", "POST 200, then asked", "PATCH 200, then a hit"]
sys.exit(0 if seen == expected else 1)
PYTHON
python3 try.py "$libraries"
