"""Containers, by Docker or podman."""

import contextlib
import json
import os
import secrets
import subprocess

ENGINE = os.environ["ENGINE"]
IMAGE = os.environ["IMAGE"]
COMPOSE = ["docker", "compose"] if ENGINE == "docker" else ["podman-compose"]
# As nobody, with nothing: what every container of the service has to live with.
CONFINED = ["--read-only", "--user=65532:65532", "--cap-drop=ALL", "--security-opt=no-new-privileges"]


def engine(*args, check=True):
    process = subprocess.run([ENGINE, *map(str, args)], capture_output=True, text=True)
    if check and process.returncode:
        raise RuntimeError(f"{args}: {process.stderr}")
    return process.stdout.strip() if check else process


def inspect(thing):
    return json.loads(engine("inspect", thing))[0]


@contextlib.contextmanager
def container(*args, command=()):
    name = f"test-{secrets.token_hex(4)}"
    engine("run", "--detach", f"--name={name}", *CONFINED, "--publish=127.0.0.1::8000", *args, IMAGE, *command)
    try:
        yield name
    finally:
        engine("rm", "--force", "--volumes", name, check=False)


def published(name):
    return "http://" + engine("port", name, "8000/tcp").splitlines()[0]
