"""Redis as the chart and the production stack start it, in each of its ways."""

import contextlib
import os
import re
import secrets
import subprocess

import pytest
from common import DEPLOY, FILES, wait_until
from engine import engine

# As the chart confines it.
CONFINED = ["--user=999:999", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]


@contextlib.contextmanager
def redis(folder, **variables):
    (folder / "password").write_text("p@ss/w:rd%\n")
    (folder / "password").chmod(0o444)
    variables = {"CACHE_PREFIX": "ns.shop", "REDIS_PASSWORD_FILE": "/run/secrets/redis/password", **variables}
    files = [DEPLOY / "redis/memory.conf", *(FILES / name for name in ("redis.conf", "redis-start.sh", "redis-ping.sh", "redis-live.sh"))]
    mounts = [f"{file}:/etc/redis/{file.name}:ro" for file in files]
    mounts.append(f"{folder}/password:/run/secrets/redis/password:ro")
    if "REDIS_TLS" in variables:
        certificate(folder)
        mounts.append(f"{folder}/tls:/run/secrets/redis-tls:ro")
    name = f"test-{secrets.token_hex(4)}"
    engine(
        "run", "--detach", f"--name={name}", *CONFINED, "--tmpfs=/run/redis:mode=1777", "--volume=/data",
        *(f"--volume={mount}" for mount in mounts),
        *(f"--env={variable}={value}" for variable, value in variables.items()),
        "--entrypoint=sh", os.environ["REDIS_IMAGE"], "/etc/redis/redis-start.sh",
    )  # fmt: skip
    try:
        ping = ["exec", name, "sh", "/etc/redis/redis-ping.sh"]
        wait_until("it answers", lambda: engine(*ping, check=False).returncode == 0)
        yield name
    finally:
        engine("rm", "--force", "--volumes", name, check=False)


def certificate(folder):
    (folder / "tls").mkdir()
    subject = ["-subj", "/CN=redis", "-addext", "subjectAltName=DNS:redis"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", folder / "tls/tls.key", "-out", folder / "tls/tls.crt"]
    subprocess.run(["openssl", "req", "-x509", *key, *subject, "-days", "2", *files], check=True, capture_output=True)
    (folder / "tls/ca.crt").write_bytes((folder / "tls/tls.crt").read_bytes())
    for file in (folder / "tls").iterdir():
        file.chmod(0o444)


def says(name, command, user="service", tls=""):
    """What Redis answers to this user."""
    script = f'REDISCLI_AUTH=$(cat "$REDIS_PASSWORD_FILE") redis-cli --user {user} --no-auth-warning {tls} {command}'
    return engine("exec", name, "sh", "-fc", script, check=False).stdout.strip()


def test_its_user_can_do_what_the_cache_does_and_nothing_else(tmp_path):
    with redis(tmp_path) as name:
        assert says(name, "set ns.shop:e:x 1 px 1000") == "OK"
        assert says(name, "scan 0 match ns.shop:*") != ""
        assert says(name, "eval 'return redis.call([[TIME]])' 0") != ""
        refused = ["set other:x 1", "get other:x", "keys *", "flushall", "flushdb", "config get *", "acl list"]
        refused += ["shutdown", "replicaof no one", "monitor", "client kill 127.0.0.1:1", "eval 'return redis.call([[KEYS]],[[*]])' 0"]
        # Within a script, each version has words of its own for it.
        forbidden = re.compile("NOPERM|can't run this command|ACL failure in script")
        for command in refused:
            assert forbidden.search(says(name, command)), command
        assert "NOAUTH" in says(name, "info", user="exporter")


def test_the_exporter_can_look_but_not_read(tmp_path):
    with redis(tmp_path, REDIS_EXPORTER="true") as name:
        assert "used_memory_rss" in says(name, "info", user="exporter")
        assert "maxmemory" in says(name, "config get maxmemory", user="exporter")
        for command in ("get ns.shop:e:x", "config set maxmemory 1", "acl list"):
            assert "NOPERM" in says(name, command, user="exporter"), command


def test_over_tls_there_is_no_other_way_in(tmp_path):
    with redis(tmp_path, REDIS_TLS="true") as name:
        assert says(name, "ping") != "PONG"
        assert says(name, "ping", tls="--tls --cacert /run/secrets/redis-tls/ca.crt") == "PONG"


@pytest.mark.parametrize("variables", [{}, {"REDIS_TLS": "true"}])
def test_it_starts_again_once_its_password_is_another_one(variables, tmp_path):
    with redis(tmp_path, **variables) as name:
        live = ["exec", name, "sh", "/etc/redis/redis-live.sh"]
        engine(*live)
        # In place, since the file is mounted by itself.
        (tmp_path / "password").chmod(0o644)
        (tmp_path / "password").write_text("another one\n")
        assert engine(*live, check=False).returncode != 0
        engine("restart", "--time=5", name)
        wait_until("it answers", lambda: engine("exec", name, "sh", "/etc/redis/redis-ping.sh", check=False).returncode == 0)
        engine(*live)


@pytest.mark.parametrize(("persistence", "files"), [("true", ["appendonlydir"]), ("false", [])])
def test_it_writes_to_its_volume_only_when_asked_to(persistence, files, tmp_path):
    with redis(tmp_path, REDIS_PERSISTENCE=persistence) as name:
        assert says(name, "set ns.shop:e:x 1") == "OK"
        assert engine("exec", name, "ls", "/data").split() == files


def test_the_memory_that_it_was_given_is_the_memory_it_takes(tmp_path):
    with redis(tmp_path) as name:
        assert "maxmemory:100663296" in says(name, "info memory")
        assert "maxmemory_policy:allkeys-lfu" in says(name, "info memory")
