#!/usr/bin/env bash
# HAProxy's cache keeps a response that was old when it came for the whole of its max-age.
#
# HAProxy 2.6.12, the newest of Debian 12, for amd64 or arm64. Needs apt-get with Debian 12's packages, and python3; installs
# nothing outside of its own folder: findings/haproxy-keeps-for-the-whole-max-age.sh
#
# A response comes from another cache with `Cache-Control: max-age=5` and `Age: 3`. Expected (RFC 9111, sections 4.2 and
# 5.1): it is fresh for 2 seconds more, and says `Age: 3` to the first client. Seen: the first client gets it without `Age`;
# 3 seconds later it is still answered from the cache, with the age that it has by then, which is more than its max-age.
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
# What is downloaded is unpacked, and installed nowhere.
for package in 'haproxy=2.6.12-*' liblua5.3-0 libopentracing-c-wrapper0 libopentracing1; do
    apt-get download -qq "$package" 2>/dev/null || [ "${package%%=*}" != haproxy ] || { echo "there is no $package"; exit 1; }
done
for file in ./*.deb; do dpkg-deb -x "$file" root; done
libraries=$(find root -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)

cat >try.py <<'PYTHON'
import http.client
import http.server
import os
import socket
import subprocess
import sys
import threading
import time

asked = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        self.send_response_only(200)
        self.send_header("Cache-Control", "max-age=5")
        self.send_header("Age", "3")
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"one")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
with open("haproxy.cfg", "w") as file:
    file.write(f"""
defaults
    mode http
    timeout connect 10s
    timeout client 10s
    timeout server 10s
cache all
    total-max-size 4
    max-age 3600
listen all
    bind 127.0.0.1:{port}
    http-request cache-use all
    http-response cache-store all
    server one 127.0.0.1:{server.server_port}
""")
haproxy = subprocess.Popen(sys.argv[1:] + ["-db", "-f", "haproxy.cfg"])


def age():
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/", headers={"Host": "a"})
    answer = connection.getresponse()
    answer.read()
    return answer.getheader("Age")


try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    first = age()
    time.sleep(3)
    later = age()
finally:
    haproxy.kill()
    haproxy.wait()
print(f"age at first: {first}; 3 s later: {later}; the server was asked {asked} time(s)")
sys.exit(0 if first is None and int(later) > 5 and asked == 1 else 1)
PYTHON
LD_LIBRARY_PATH=$libraries python3 try.py root/usr/sbin/haproxy
