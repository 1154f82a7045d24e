"""The files of the chart, as people and registries read them."""

import json
import re
import subprocess

import pytest
import readme
import yaml
from chart import CHART, HELMS, NAME, Refused, at, nested, render, run

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def leaves(values, path=()):
    for key, value in values.items():
        if isinstance(value, dict) and value and schema((*path, key)).get("properties"):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def schema(path):
    node = SCHEMA
    for key in path:
        node = node["properties"][key]
        if reference := node.get("$ref"):
            node = SCHEMA["$defs"][reference.removeprefix("#/$defs/")]
    return node


def test_every_value_is_described():
    described = {path for path, _ in readme.documented()}
    for path in leaves(VALUES):
        assert any(path[:length] in described for length in range(len(path), 0, -1)), ".".join(path)


def test_the_readme_has_the_values_as_they_are():
    text = (CHART / "README.md").read_text()
    assert text == readme.with_table(text), "run tests/chart/run --write"


def test_the_schema_is_closed_and_knows_every_value():
    def closed(node, path):
        # `global` belongs to every chart of a release.
        if "properties" in node and path != ("global",):
            assert node["additionalProperties"] is False, ".".join(path)
        for key in node.get("properties", {}):
            closed(schema((*path, key)), (*path, key))

    closed({key: SCHEMA[key] for key in ("properties", "additionalProperties")}, ())
    for path in leaves(VALUES):
        schema(path)


REFUSED = [
    ({"noSuchKey": 1}, "noSuchKey"),
    ({"redis.maxMemory": "1Gi"}, "maxMemory"),
    ({"replicaCount": "two"}, "replicaCount"),
    ({"image.tag": "latest"}, "tag"),
    ({"image.digest": "sha256:123"}, "digest"),
    ({"cache.defaultTtl": "5 minutes"}, "defaultTtl"),
    ({"cache.paths": "api"}, "paths"),
    ({"cache.reclaim": "1441m"}, "reclaim"),
    ({"cache.reclaim": "86401s"}, "reclaim"),
    ({"redis.maxmemoryPolicy": "noeviction"}, "maxmemoryPolicy"),
    ({"redis.maxmemory": "0"}, "maxmemory"),
    ({"cache.memory": "64 MiB"}, "memory"),
    ({"cache.maxBody": 0}, "maxBody"),
    ({"redis.enabled": False, "externalRedis.url": "redis://me:hunter2@redis"}, "url"),
    ({"redis.enabled": False, "externalRedis.mode": "replicated"}, "mode"),
    ({"otel.protocol": "http/json"}, "protocol"),
    ({"readinessProbe.httpGet": {"path": "/"}}, "httpGet"),
    # From here on, in words.
    ({"replicaCount": 2}, "replicaCount is 2, but without database.existingSecret"),
    ({"autoscaling.enabled": True}, "autoscaling.enabled needs a PostgreSQL"),
    ({"database.existingSecret": "db", "autoscaling.enabled": True, "autoscaling.minReplicas": 11}, "minReplicas is more"),
    ({"redis.maxmemory": "97Mi"}, "97Mi is more than 75% of redis.resources.limits.memory 128Mi"),
    ({"redis.maxmemory": "96Mi", "redis.persistence.enabled": True}, "more than 50%"),
    ({"redis.resources": {"limits": {"memory": None}}}, "redis.resources.limits.memory is missing"),
    ({"redis.tls.enabled": True}, "redis.tls.enabled needs redis.tls.existingSecret"),
    ({"redis.enabled": False, "externalRedis.mode": "cluster", "externalRedis.host": "a"}, "externalRedis.host is for mode"),
    ({"redis.enabled": False, "externalRedis.nodes": ["a:1"]}, "externalRedis.nodes are for"),
    (
        {"redis.enabled": False, "externalRedis.mode": "cluster", "externalRedis.nodes": ["a:1"], "externalRedis.database": 1},
        "a cluster has no other",
    ),
    ({"redis.enabled": False, "externalRedis.existingSecretUrlKey": "url"}, "needs externalRedis.existingSecret"),
    ({"redis.enabled": False, "externalRedis.mode": "sentinel", "externalRedis.masterName": "m"},
     "externalRedis.mode is sentinel, but externalRedis.nodes is empty: list HOST:PORT of each Sentinel"),
    ({"redis.enabled": False, "externalRedis.mode": "cluster"}, "list HOST:PORT of some nodes of the cluster"),
    ({"redis.enabled": False, "externalRedis.mode": "sentinel", "externalRedis.nodes": ["a:1"], "externalRedis.masterName": ""},
     "externalRedis.masterName is empty"),
    ({"redis.enabled": False, "externalRedis.host": "a", "externalRedis.url": "redis://a"}, "each say where Redis is"),
    ({"redis.enabled": False, "externalRedis.url": "redis://a", "externalRedis.existingSecret": "s", "externalRedis.existingSecretUrlKey": "url"},
     "each say where Redis is"),
    ({"redis.enabled": False, "externalRedis.url": "redis://a", "externalRedis.tls.enabled": True}, "begin it with rediss"),
    ({"redis.enabled": False, "externalRedis.host": "a", "externalRedis.tls.existingSecret": "ca"}, "but TLS is not"),
    ({"redis.tls.existingSecret": "t"}, "Redis would be spoken to in plain text"),
    ({"redis.enabled": False, "cache.memory": "129Mi"}, "cache.memory 129Mi is more than half of resources.limits.memory 256Mi"),
    ({"redis.enabled": False, "cache.memory": 134217729}, "cache.memory 134217729 is more than half of"),
    ({"cache.firstTier": "1GiB"}, "cache.firstTier 1GiB is more than half of resources.limits.memory 256Mi"),
    ({"redis.enabled": False, "cache.firstTier": "1Mi"}, "cache.firstTier is 1Mi, but there is no Redis"),
    ({"otel.enabled": True}, "otel.enabled needs otel.endpoint"),
    (
        {"metrics.serviceMonitor.enabled": True, "metrics.podMonitor.enabled": True},
        "would scrape every pod twice",
    ),
    ({"terminationGracePeriodSeconds": 32}, "terminationGracePeriodSeconds is 32, but shutdown adds up to 33"),
]  # fmt: skip

# Each value of a Redis of the user's own, set to something.
EXTERNAL_REDIS = {
    "mode": "cluster", "host": "a", "port": 6380, "nodes": ["a:1"], "masterName": "m", "database": 1, "username": "u",
    "url": "redis://a", "existingSecret": "s", "existingSecretPasswordKey": "k", "existingSecretUrlKey": "url",
    "tls.enabled": True, "tls.existingSecret": "ca", "tls.caKey": "k",
}  # fmt: skip
SERVERS = {"host", "url"}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(("values", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_cannot_work_is_refused_by_name(values, words, helm):
    with pytest.raises(Refused) as refusal:
        render(values=nested(values), helm=helm)
    assert words in " ".join(str(refusal.value).split())


def test_every_value_of_an_external_redis_is_tried_below():
    of_one = [path[1:] for path in leaves(VALUES) if path[0] == "externalRedis"]
    assert {".".join(path) for path in of_one} == EXTERNAL_REDIS.keys()


@pytest.mark.parametrize("value", EXTERNAL_REDIS)
def test_an_external_redis_beside_the_chart_s_own_is_refused(value):
    with pytest.raises(Refused) as refusal:
        render(values=nested({f"externalRedis.{value}": EXTERNAL_REDIS[value]}))
    assert f"externalRedis.{value} is set, but redis.enabled is true" in " ".join(str(refusal.value).split())


@pytest.mark.parametrize("value", [value for value in EXTERNAL_REDIS if value not in SERVERS])
def test_an_external_redis_without_a_server_is_refused(value):
    with pytest.raises(Refused, match="externalRedis"):
        render(values=nested({"redis.enabled": False, f"externalRedis.{value}": EXTERNAL_REDIS[value]}))


def test_the_notes_say_what_has_to_be_known():
    def notes(values):
        args = ["install", "shop", CHART, "--namespace", "ns", "--dry-run=client", "-f", "-"]
        return " ".join(run("helm", *args, values=nested(values)).split("NOTES:")[1].split())

    postgres = {"database.existingSecret": "db", "replicaCount": 2}
    sqlite = notes({})
    assert "Draining its node interrupts the service for as long as the volume takes" in sqlite
    assert "these are not taken along" in sqlite
    assert "An upgrade and a drain of its node" in notes({"persistence.accessModes": ["ReadWriteOncePod"]})
    assert "SQLite" not in notes(postgres)
    for most, warned in ((0, True), ("0%", True), (1, False), ("25%", False)):
        text = notes({**postgres, "podDisruptionBudget.maxUnavailable": most})
        assert ("no node with a pod of this can be drained" in text) == warned, most
    assert "can be drained" not in notes({"podDisruptionBudget.maxUnavailable": 0})


def test_the_files_are_tidy():
    rules = "{extends: default, rules: {line-length: {max: 160}, document-start: disable, braces: {max-spaces-inside: 0}}}"
    files = [CHART / "Chart.yaml", CHART / "values.yaml", *CHART.glob("ci/*.yaml")]
    tidy = subprocess.run(["yamllint", "--strict", "-d", rules, *files], capture_output=True, text=True)
    assert tidy.returncode == 0, tidy.stdout


def test_the_scripts_are_scripts():
    for script in CHART.glob("files/*.sh"):
        subprocess.run(["sh", "-n", script], check=True)


# Answers as the service does: `/health` with what is in the file, everything else well.
NC = """#!/bin/sh
read -r _ path _
case $path in
    /health) cat "$HEALTH" ;;
    /health/ready) echo '{"status":"ready"}' ;;
    */cache) echo 'HTTP/1.1 204 No Content'; echo MISS >"$STATE" ;;
    *) printf 'X-Cache: %s\r\n' "$(cat "$STATE")"; echo HIT >"$STATE" ;;
esac
"""


@pytest.mark.parametrize(
    ("cached", "shared", "health", "x_cache", "said"),
    [
        ("true", "true", '{"redis":{"connected":true,"ping_ms":1}}', "MISS", None),
        ("true", "true", '{"redis":{"connected":false,"error":"WRONGPASS: invalid"}}', "MISS", "not connected to Redis: .*WRONGPASS"),
        ("true", "true", '{"redis":null}', "MISS", "not connected to Redis"),
        ("true", "false", '{"redis":null}', "MISS", None),
        ("false", "false", '{"redis":null}', "", None),
        ("false", "false", '{"redis":null}', "MISS", "the cache is off, but a response comes with X-Cache"),
    ],
)
def test_what_helm_test_runs_says_what_is_not_as_it_was_set(cached, shared, health, x_cache, said, tmp_path):
    (tmp_path / "nc").write_text(NC)
    (tmp_path / "nc").chmod(0o755)
    (tmp_path / "sleep").symlink_to("/bin/true")
    (tmp_path / "health").write_text(f"HTTP/1.1 200 OK\r\n\r\n{health}")
    (tmp_path / "state").write_text(x_cache)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HEALTH": str(tmp_path / "health"), "STATE": str(tmp_path / "state")}
    env |= {"SERVICE": "shop", "PORT": "80", "SHARED": shared, "CACHED": cached}
    script = ["sh", "-eu", CHART / "files/test.sh"]
    process = subprocess.run(script, env=env, capture_output=True, text=True)
    assert (process.returncode == 0) == (said is None), process.stdout
    assert said is None or re.search(f"FAILED: .*{said}", process.stdout)


@pytest.fixture
def redis(tmp_path):
    """Runs a script of the chart's Redis, at home in a folder: its password, its certificate, and what it answers are files there."""
    server, client = "#!/bin/sh\n", '#!/bin/sh\ncat "$ANSWER"\n'
    files = {"server": server, "cli": client}
    for path, text in {f"bin/{kind}-{end}": files[end] for kind in ("redis", "valkey") for end in files}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    for folder in ("run/redis", "run/secrets/redis-tls"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("password", "run/secrets/redis-tls/tls.crt", "run/secrets/redis-tls/tls.key", "run/secrets/redis-tls/ca.crt"):
        (tmp_path / file).write_text("the first one\n")
    (tmp_path / "answer").write_text("NOAUTH Authentication required.\n")
    env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "ANSWER": str(tmp_path / "answer"), "CACHE_PREFIX": "ns.shop"}
    env |= {"REDIS_PASSWORD_FILE": str(tmp_path / "password")}

    def run_script(name, tls):
        script = (CHART / f"files/{name}").read_text().replace("/run/", f"{tmp_path}/run/")
        return subprocess.run(["sh", "-c", script], env={**env, "REDIS_TLS": tls}, capture_output=True, text=True)

    return run_script


@pytest.mark.parametrize("tls", ["true", "false"])
@pytest.mark.parametrize("answer", ["NOAUTH Authentication required.", "LOADING Redis is loading the dataset in memory", "PONG"])
def test_redis_goes_on_whatever_it_answers(answer, tls, redis, tmp_path):
    assert redis("redis-start.sh", tls).returncode == 0
    (tmp_path / "answer").write_text(answer)
    assert redis("redis-live.sh", tls).returncode == 0
    (tmp_path / "answer").write_text("")
    assert redis("redis-live.sh", tls).returncode != 0


@pytest.mark.parametrize(
    ("tls", "changed"),
    [("false", "password"), ("true", "password"), *(("true", f"run/secrets/redis-tls/{file}") for file in ("tls.crt", "tls.key", "ca.crt"))],
)
def test_redis_starts_again_once_its_password_or_its_certificate_is_another_one(tls, changed, redis, tmp_path):
    assert redis("redis-start.sh", tls).returncode == 0
    assert redis("redis-live.sh", tls).returncode == 0
    (tmp_path / changed).write_text("the next one\n")
    probe = redis("redis-live.sh", tls)
    assert probe.returncode != 0 and "another one than at the start" in probe.stdout
    assert redis("redis-start.sh", tls).returncode == 0
    assert redis("redis-live.sh", tls).returncode == 0


# Says of the release what the commands of the runbook ask for.
KUBECTL = """#!/bin/sh
case "$*" in
    port-forward*) ;;
    "get secret operators -o go-template={{.data.token | base64decode}}") echo operators-token ;;
    "get secret shop-cache-layer-redis -o go-template={{.data.password | base64decode}}") printf hunter2 ;;
    "get deployment shop-cache-layer -o jsonpath={.spec.template.spec.containers[0].env[?(@.name==\\"APP_CACHE_PREFIX\\")].value}")
        printf %s "$PREFIX_OF_THE_CHART" ;;
    *) echo "kubectl $*: unexpected" >&2; exit 1 ;;
esac
"""


def test_the_runbook_asks_the_redis_of_the_chart_as_its_user_for_its_prefix(tmp_path):
    objects = render(values=nested({"redis.auth.password": "hunter2", "admin.enabled": True, "admin.existingSecret": "operators"}))
    service = at(objects, f"Deployment/{NAME} spec template spec containers 0")
    assert at({"a": service}, "a env APP_ADMIN_LISTEN value").endswith(":9090")
    prefix = at({"a": service}, "a env APP_CACHE_PREFIX value")
    text = (CHART / "../docs/runbook.md").read_text()
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    script = text.split("```sh\n")[1].split("```")[0].replace("NAME", NAME)
    process = subprocess.run(
        ["sh", "-euc", script + '\necho "$CACHECTL_REDIS_URL $PREFIX $(cat "$CACHECTL_TOKEN_FILE")"'],
        cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PREFIX_OF_THE_CHART": prefix}, capture_output=True, text=True,
    )  # fmt: skip
    user = re.search(r"user (?!default)(\w+) on", (CHART / "files/redis-start.sh").read_text())[1]
    assert process.stdout.split() == [f"redis://{user}:hunter2@127.0.0.1:6379", prefix, "operators-token"], process.stderr
    assert set(re.findall(r"cachectl doctor.*?(?= +#)", text)) == {'cachectl doctor --prefix "$PREFIX"'}


def test_it_packs_into_an_archive_with_everything_it_renders_from(tmp_path):
    run("helm", "package", CHART, "-d", tmp_path)
    archive = next(tmp_path.glob("cache-layer-*.tgz"))
    assert run("helm", "template", "shop", archive, "--dry-run=client").count("helm.sh/chart") > 10
    assert "redis.conf" in subprocess.run(["tar", "tzf", archive], capture_output=True, text=True).stdout


def test_compose_runs_the_redis_of_the_chart():
    compose = CHART / "../deploy/compose.prod.yaml"
    mounts = [mount.split(":") for mount in yaml.safe_load(compose.read_text())["services"]["redis"]["volumes"]]
    carried = {target: (compose.parent / source).resolve() for source, target, _ in mounts}
    for name in ("redis.conf", "redis-start.sh", "redis-ping.sh"):
        assert carried[f"/etc/redis/{name}"] == (CHART / "files" / name).resolve()
    assert all(file.is_file() for file in carried.values())


def test_the_version_of_the_image_is_that_of_the_service():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = next(line for line in (CHART / "../Cargo.toml").read_text().splitlines() if line.startswith("version = "))
    assert version == f'version = "{chart["appVersion"]}"'
    images = {image["name"]: image["image"] for image in yaml.safe_load(chart["annotations"]["artifacthub.io/images"])}
    used = {container.split("/", 1)[1] for container in images.values()}
    rendered = {
        container["image"].split("/", 1)[1]
        for thing in render().values()
        for container in thing.get("spec", {}).get("template", thing).get("spec", {}).get("containers", [])
    }
    assert rendered == used
