"""The caches, each with the least configuration that makes it cache. Those that are measured as well are configured as there."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "load"))
from servers import Server, free_port, haproxy, nginx, trafficserver, varnish  # noqa: E402


def cache_layer(proxy, origin):
    port = free_port()
    command = [proxy, "--listen", f"127.0.0.1:{port}", "--origin", f"http://127.0.0.1:{origin.port}", "--memory", "64MiB"]
    return Server("cache-layer", [*command, "--query", "64KiB", "--no-vary-search"], port)


def squid(origin):
    folder, port = tempfile.mkdtemp(prefix="standards-squid-"), free_port()
    os.chmod(folder, 0o777)
    config = pathlib.Path(folder, "squid.conf")
    config.write_text(f"""
http_port 127.0.0.1:{port} accel defaultsite=shop.example no-vhost
cache_peer 127.0.0.1 parent {origin.port} 0 no-query no-digest originserver
http_access allow all
cache_mem 64 MB
access_log none
cache_log {folder}/cache.log
cache_store_log none
pid_filename {folder}/pid
coredump_dir {folder}
netdb_filename none
pinger_enable off
visible_hostname shop.example
shutdown_lifetime 0 seconds
""")
    return Server("squid", ["squid", "-N", "-f", str(config)], port, folder=folder)


def httpd(origin):
    folder, port = tempfile.mkdtemp(prefix="standards-httpd-"), free_port()
    os.chmod(folder, 0o777)
    os.mkdir(f"{folder}/cache")
    os.chmod(f"{folder}/cache", 0o777)
    modules = ("mpm_event", "authz_core", "cache", "cache_disk", "proxy", "proxy_http")
    config = pathlib.Path(folder, "httpd.conf")
    config.write_text(
        "".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in modules)
        + f"""
ServerRoot {folder}
ServerName shop.example
Listen 127.0.0.1:{port}
PidFile {folder}/pid
DefaultRuntimeDir {folder}
ErrorLog {folder}/error.log
User www-data
Group www-data
CacheRoot {folder}/cache
CacheEnable disk /
ProxyPass / http://127.0.0.1:{origin.port}/
"""
    )
    return Server("httpd", ["apache2", "-DFOREGROUND", "-f", str(config)], port, folder=folder)


# The name in the table, the program, how its version is asked for, and how it is started.
OTHERS = [
    ("nginx", "nginx", "-v", nginx),
    ("Varnish", "varnishd", "-V", varnish),
    ("Squid", "squid", "-v", squid),
    ("Apache httpd", "apache2", "-v", httpd),
    ("HAProxy", "haproxy", "-v", haproxy),
    ("Traffic Server", "traffic_server", "-V", trafficserver),
]


def version(program, flag):
    said = subprocess.run([program, flag], capture_output=True, text=True)
    return re.search(r"\d+\.\d+(\.\d+)?", said.stdout + said.stderr)[0]


def all_of(proxy):
    """The name, version and start of each that is here, this cache first; and what is not here."""
    ours = ("cache-layer", "this version", lambda origin: cache_layer(proxy, origin))
    here = [(name, version(program, flag), start) for name, program, flag, start in OTHERS if shutil.which(program)]
    return [ours, *here], [name for name, program, *_ in OTHERS if not shutil.which(program)]
