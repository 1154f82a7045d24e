"""The servers of a comparison: started on free loopback ports, and ended by their process id."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


class Server:
    """A process in a process group of its own, with a folder that goes when it goes."""

    def __init__(self, name, command, port=None, env=None, folder=None):
        self.name, self.folder = name, folder
        out = subprocess.PIPE if port is None else subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True, env={**os.environ, **(env or {})}
        )
        if port is None:
            port = int(self.process.stdout.readline().decode().strip().rpartition(":")[2])
        self.port = port
        wait_for(port)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def pids(self):
        """Of the process and everything that it started."""
        children = subprocess.run(["pgrep", "-g", str(self.process.pid)], capture_output=True, text=True).stdout.split()
        return [int(pid) for pid in children] or [self.process.pid]

    def memory(self, field="VmRSS"):
        """Bytes, of all its processes: VmRSS now, VmHWM at most."""
        total = 0
        for pid in self.pids():
            try:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field + ":"))
        return total

    def stop(self):
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        except ProcessLookupError:
            pass
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def redis():
    folder, port = tempfile.mkdtemp(prefix="load-redis-"), free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
    return Server("redis", command, port, folder=folder)


class RedisInfo:
    """What a Redis counts, asked for over one connection: each question is one read of Redis', and nothing else."""

    def __init__(self, server):
        self.connection = socket.create_connection(("127.0.0.1", server.port))
        self.replies = self.connection.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.replies.close()
        self.connection.close()

    def section(self, *names):
        self.connection.sendall(f"INFO {' '.join(names)}\r\n".encode())
        text = self.replies.read(int(self.replies.readline()[1:]) + 2).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def redis_info(server, section="memory"):
    with RedisInfo(server) as info:
        return info.section(section)


def redis_command(server, *words):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        request = b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)
        connection.sendall(b"*%d\r\n" % len(words) + request)
        return connection.makefile("rb").readline()


def target(binaries, mode, redis_server=None, **options):
    """The handler behind one of our stores, or without, or with a cache by hand."""
    return handler(binaries / "load-target", mode, redis_server, **options)


def rival(binaries, mode, redis_server=None, **options):
    """The handler behind another's layer."""
    return handler(binaries / "load-rivals", mode, redis_server, **options)


def handler(binary, mode, redis_server=None, **options):
    command = [str(binary), mode]
    if redis_server:
        command += ["--redis", f"redis://127.0.0.1:{redis_server.port}"]
    for name, value in options.items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return Server(mode, command)


def reverse_proxy(binaries, origin):
    port = free_port()
    command = [str(binaries / "examples" / "reverse_proxy"), "--listen", f"127.0.0.1:{port}", "--origin", origin.url, "--memory", "1GiB"]
    return Server("reverse_proxy", command, port)


def service(binaries, name, env):
    folder, port = tempfile.mkdtemp(prefix="load-service-"), free_port()
    settings = {"APP_LISTEN": f"127.0.0.1:{port}", "APP_DATABASE_URL": f"sqlite://{folder}/products.db", "APP_LOG": "warn", **env}
    return Server(name, [str(binaries / "service")], port, env=settings, folder=folder)


def gzip_nginx(origin):
    return nginx(origin, "gzip on; gzip_types application/json; gzip_comp_level 6; gzip_proxied any;")


def nginx(origin, more=""):
    folder, port = tempfile.mkdtemp(prefix="load-nginx-"), free_port()
    # Workers may run as another user than their parent.
    os.chmod(folder, 0o777)
    config = pathlib.Path(folder, "nginx.conf")
    config.write_text(f"""
worker_processes auto; daemon off; pid {folder}/pid; error_log /dev/null crit;
events {{ worker_connections 4096; }}
http {{
    {more}
    access_log off; sendfile on; tcp_nodelay on; keepalive_requests 100000000; client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/temp; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    proxy_cache_path {folder}/cache levels=1:2 keys_zone=c:64m max_size=4g inactive=1h use_temp_path=off;
    upstream origin {{ server 127.0.0.1:{origin.port}; keepalive 256; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_cache c; proxy_cache_key $scheme$host$request_uri; proxy_cache_lock on;
            add_header X-Cache $upstream_cache_status;
        }}
    }}
}}
""")
    return Server("nginx", ["nginx", "-c", str(config), "-e", "/dev/null"], port, folder=folder)


def gzip_varnish(origin):
    """It keeps what it has compressed."""
    return varnish(origin, "sub vcl_backend_response { set beresp.do_gzip = true; }")


def varnish(origin, more=""):
    folder, port = tempfile.mkdtemp(prefix="load-varnish-"), free_port()
    os.chmod(folder, 0o777)
    settings = pathlib.Path(folder, "settings.vcl")
    settings.write_text(f'vcl 4.1; backend default {{ .host = "127.0.0.1"; .port = "{origin.port}"; }} {more}')
    command = ["varnishd", "-F", "-n", folder, "-a", f"127.0.0.1:{port}", "-f", str(settings), "-s", "malloc,4g"]
    return Server("varnish", command, port, folder=folder)


def haproxy(origin):
    folder, port = tempfile.mkdtemp(prefix="load-haproxy-"), free_port()
    config = pathlib.Path(folder, "haproxy.cfg")
    config.write_text(f"""
global
    maxconn 4096
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    http-reuse always
cache kept
    total-max-size 1024
    max-object-size 1048576
    max-age 3600
frontend all
    bind 127.0.0.1:{port}
    http-request cache-use kept
    http-response cache-store kept
    default_backend origin
backend origin
    server one 127.0.0.1:{origin.port}
""")
    return Server("haproxy", ["haproxy", "-db", "-f", str(config)], port, folder=folder)


def trafficserver(origin):
    folder, port = tempfile.mkdtemp(prefix="load-trafficserver-"), free_port()
    for name in ("etc", "var", "log", "run", "cache"):
        os.mkdir(f"{folder}/{name}")
    layout = {
        "prefix": folder, "exec_prefix": folder, "bindir": "/usr/bin", "sbindir": "/usr/sbin", "sysconfdir": f"{folder}/etc",
        "datadir": f"{folder}/cache", "includedir": "/usr/include", "libdir": "/usr/lib", "libexecdir": folder,
        "localstatedir": f"{folder}/var", "runtimedir": f"{folder}/run", "logdir": f"{folder}/log", "cachedir": f"{folder}/cache",
    }  # fmt: skip
    pathlib.Path(folder, "runroot.yaml").write_text("".join(f"{name}: {path}\n" for name, path in layout.items()))
    # As the user that starts it, and without what the others don't do either: log lines, Via, name resolution.
    settings = f"""
        proxy.config.admin.user_id STRING #-1
        proxy.config.http.server_ports STRING {port}:ip-in=127.0.0.1
        proxy.config.http.insert_request_via_str INT 0
        proxy.config.log.logging_enabled INT 0
        proxy.config.diags.show_location INT 0
        proxy.config.cache.ram_cache.size INT 1073741824
        proxy.config.net.connections_throttle INT 4096
    """
    etc = pathlib.Path(folder, "etc")
    (etc / "records.config").write_text("".join(f"CONFIG {line.strip()}\n" for line in settings.strip().splitlines()))
    (etc / "remap.config").write_text(f"map / http://127.0.0.1:{origin.port}/\n")
    (etc / "ip_allow.yaml").write_text("ip_allow: [{apply: in, ip_addrs: 127.0.0.1, action: allow, methods: ALL}]\n")
    (etc / "storage.config").write_text(f"{folder}/cache 1G\n")
    server = Server("trafficserver", ["traffic_server", f"--run-root={folder}/runroot.yaml"], port, folder=folder)
    # It listens before its cache is there.
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if "age" in get(server.url + "/v/ready")[0]:
                return server
        except OSError:
            pass
        time.sleep(0.2)
    server.stop()
    raise SystemExit("trafficserver keeps nothing")


def get(url, accepts="identity"):
    asked = urllib.request.Request(url, headers={"Accept-Encoding": accepts})
    with urllib.request.urlopen(asked, timeout=10) as response:
        return {name.lower(): value for name, value in response.headers.items()}, response.read()


def machine():
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    versions = {
        "nginx": subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip().rpartition("/")[2],
        "varnish": subprocess.run(["varnishd", "-V"], capture_output=True, text=True).stderr.split("-")[1].split(" ")[0],
        "redis": subprocess.run(["redis-server", "--version"], capture_output=True, text=True).stdout.split("v=")[1].split()[0],
    }
    # Each says it in a way of its own.
    for name, command in {"haproxy": ["haproxy", "-v"], "traffic_server": ["traffic_server", "-V"]}.items():
        if shutil.which(name):
            out = subprocess.run(command, capture_output=True, text=True).stdout
            versions[name.replace("_", "")] = re.search(r"\d+\.\d+\.\d+", out)[0]
    pinned = (pathlib.Path(__file__).parent / "rivals" / "Cargo.toml").read_text()
    for name in ("http-cache-tower-server", "hitbox-tower", "moka"):
        versions[name] = re.search(rf'^{name} = .*"=([^"]+)"', pinned, re.M)[1]
    return {"cores": os.cpu_count(), "cpu": cpu, "versions": ", ".join(" ".join(pair) for pair in versions.items())}
