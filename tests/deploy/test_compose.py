"""The Compose stacks, up."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess

import pytest
import yaml
from common import DEPLOY, FILES, free_port, get, wait_until
from engine import COMPOSE, ENGINE, IMAGE, engine, inspect

# Of the operators.
TOKEN = "operators-" + secrets.token_hex(8)


@contextlib.contextmanager
def stack(folder, file, *services, **variables):
    """A stack of its own, in a copy of deploy/ and of what it mounts; gone at the end, with its volumes."""
    project = f"test{secrets.token_hex(4)}"
    shutil.copytree(DEPLOY, folder / "deploy", ignore=shutil.ignore_patterns("secrets"))
    shutil.copytree(FILES, folder / "helm/files")
    (folder / "deploy/secrets").mkdir(mode=0o711)
    password = folder / "deploy/secrets/redis-password"
    replace(password, "p@ss/w:rd%" + secrets.token_hex(8) + "\n")
    replace(folder / "deploy/secrets/admin-token", TOKEN + "\n")
    # Its folders belong to the user that runs this, alone: the containers' users pass by the folder's own mount.
    environment = {**os.environ, "SERVICE_IMAGE": IMAGE, **variables}

    def compose(*args):
        command = [*COMPOSE, "-p", project, "-f", file, *args]
        process = subprocess.run(command, cwd=folder / "deploy", env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return process.stdout

    # What Compose would build has been built already.
    for name in (f"{project}_service", f"{project}-service"):
        engine("tag", IMAGE, name)
    try:
        compose("up", "-d", "--no-build", *services)
        yield project, password.read_text().strip()
    finally:
        # Not every Compose removes the volumes that images ask for.
        mounts = [mount for name in containers_of(project, "") for mount in inspect(name)["Mounts"]]
        compose("down", "-v")
        for volume in (mount["Name"] for mount in mounts if mount["Type"] == "volume"):
            engine("volume", "rm", "--force", volume, check=False)
        engine("rmi", f"{project}_service", f"{project}-service", check=False)


def replace(file, text):
    """Another file in its place, as `mv` puts it there."""
    new = file.with_suffix(".next")
    new.write_text(text)
    new.chmod(0o444)
    new.rename(file)


def containers_of(project, service):
    return engine("ps", "-aq", "--filter", f"name={project}[-_]{service}").split()


def hit(url):
    wait_until("it is ready", lambda: get(f"{url}/health/ready")[0] == 200)
    wait_until("it has Redis", lambda: '"redis":{"connected":true' in get(f"{url}/health")[2])
    get(f"{url}/api/products/7/cache", method="DELETE")
    assert get(f"{url}/api/products/7")[1]["x-cache"] == "MISS"
    wait_until("it is stored", lambda: get(f"{url}/api/products/7")[1]["x-cache"] == "HIT")


VALKEY = "docker.io/valkey/valkey:8-alpine"


@pytest.mark.parametrize("redis", [os.environ["REDIS_IMAGE"], VALKEY])
def test_the_stack_that_stays_answers_from_its_redis_and_lives_without_it(redis, tmp_path):
    if engine("image", "inspect", redis, check=False).returncode and engine("pull", redis, check=False).returncode:
        pytest.skip(f"there is no {redis} to be had")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    operators = free_port()
    with stack(tmp_path, "compose.prod.yaml", PORT=str(port), ADMIN_PORT=str(operators), REDIS_IMAGE=redis) as (project, password):
        hit(url)
        stats = f"http://127.0.0.1:{operators}/api/stats"
        assert get(stats)[0] in (401, 403)
        assert get(stats, headers={"authorization": f"Bearer {TOKEN}"})[0] == 200
        # The token is replaced as docs/admin.md says.
        token = tmp_path / "deploy/secrets/admin-token"
        replace(token, TOKEN + "-next\n")
        wait_until("the new token is taken", lambda: get(stats, headers={"authorization": f"Bearer {TOKEN}-next"})[0] == 200)
        assert get(stats, headers={"authorization": f"Bearer {TOKEN}"})[0] in (401, 403)
        (server,) = containers_of(project, "redis")
        assert "NOAUTH" in engine("exec", server, "redis-cli", "ping", check=False).stdout
        engine("exec", server, "sh", "/etc/redis/redis-ping.sh")
        # The user of the service may touch the cache's own keys, by the cache's own commands.
        for refused in ("get other:x", "keys *", "flushall", "config get *", "acl list"):
            command = f'REDISCLI_AUTH=$(cat "$REDIS_PASSWORD_FILE") redis-cli --user service --no-auth-warning {refused!r}'
            command = command.replace("'", "")
            assert "NOPERM" in engine("exec", server, "sh", "-fc", command, check=False).stdout, refused
        # What `helm test` does is no different here.
        script = (FILES / "test.sh").read_text()
        names = [f"--env={variable}" for variable in ("SERVICE=service", "PORT=8000", "SHARED=true", "REDIS=redis")]
        nobody = ["--user=65534:65534", "--read-only", "--cap-drop=ALL", f"--network={project}_default"]
        said = engine("run", "--rm", *nobody, *names, os.environ["TEST_IMAGE"], "sh", "-euc", script)
        assert "ok: Redis refuses clients" in said and "ok: a miss, a hit, and after an invalidation a miss" in said
        for service in ("service", "redis"):
            (name,) = containers_of(project, service)
            for secret in (password, TOKEN):
                assert secret not in engine("inspect", name) and secret not in engine("logs", name)

        engine("stop", "--time=1", server)
        assert get(f"{url}/api/products/7")[0] == 200
        assert get(f"{url}/health/ready")[0] == 200
        wait_until("it knows", lambda: "degraded" in get(f"{url}/health")[2])
        engine("start", server)
        hit(url)


def test_the_stack_for_a_laptop_answers_from_its_redis(tmp_path):
    with socket.socket() as taken:
        if taken.connect_ex(("127.0.0.1", 8000)) == 0:
            pytest.skip("somebody listens at 127.0.0.1:8000 already")
    # The collector has a test of its own: its image can't be made from anything.
    with stack(tmp_path, "compose.yaml", "redis", "service"):
        hit("http://127.0.0.1:8000")


@pytest.mark.parametrize("file", ["compose.yaml", "compose.prod.yaml"])
def test_nothing_is_open_to_the_network_or_moves_by_itself(file):
    services = yaml.safe_load((DEPLOY / file).read_text())["services"]
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        image = service.get("image", "built:here")
        assert ":" in image.split("/")[-1] and not image.endswith(":latest"), name


def test_everything_that_stays_is_confined():
    for name, service in yaml.safe_load((DEPLOY / "compose.prod.yaml").read_text())["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["mem_limit"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["restart"], name
        assert "build" not in service, name


def test_every_secret_is_a_file_and_one_that_is_replaced_while_it_is_used_is_in_a_mounted_folder():
    services = yaml.safe_load((DEPLOY / "compose.prod.yaml").read_text())["services"]
    folders = [mount.split(":")[1] for mount in services["service"]["volumes"] if mount.startswith("./secrets:")]
    files = {name: file for name, file in services["service"]["environment"].items() if name.endswith("_FILE")}
    assert files.keys() == {"APP_REDIS_PASSWORD_FILE", "APP_ADMIN_TOKEN_FILE"}
    # A file that is mounted by itself stays the same one when another is renamed into its place.
    assert folders and {os.path.dirname(file) for file in files.values()} == set(folders)
    assert "secrets" not in services["service"]
    # Redis sees its password alone.
    assert services["redis"]["secrets"] == ["redis-password"]


def test_redis_evicts_before_it_is_killed():
    memory = (DEPLOY / "redis/memory.conf").read_text()
    limit = yaml.safe_load((DEPLOY / "compose.prod.yaml").read_text())["services"]["redis"]["mem_limit"]
    most = int(memory.split("maxmemory ")[1].split("mb")[0])
    assert most <= 0.75 * int(limit.removesuffix("m"))
    assert "maxmemory-policy allkeys-" in memory


@pytest.mark.skipif(ENGINE != "docker", reason="only Docker's own Compose knows the whole specification")
@pytest.mark.parametrize("file", ["compose.yaml", "compose.prod.yaml"])
def test_compose_understands_it(file):
    subprocess.run([*COMPOSE, "-f", file, "config", "-q"], cwd=DEPLOY, check=True)
