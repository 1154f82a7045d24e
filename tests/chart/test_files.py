"""The files of the chart, as people and registries read them."""

import json
import subprocess

import pytest
import readme
import yaml
from chart import CHART, HELMS, Refused, nested, render, run

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
    ({"redis.maxmemoryPolicy": "noeviction"}, "maxmemoryPolicy"),
    ({"externalRedis.host": "redis"}, "host"),
    ({"externalRedis.nodes": ["redis:6379"], "externalRedis.mode": "cluster"}, "nodes"),
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
    ({"otel.enabled": True}, "otel.enabled needs otel.endpoint"),
    (
        {"metrics.serviceMonitor.enabled": True, "metrics.podMonitor.enabled": True},
        "would scrape every pod twice",
    ),
    ({"terminationGracePeriodSeconds": 32}, "terminationGracePeriodSeconds is 32, but shutdown adds up to 33"),
]  # fmt: skip


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(("values", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_cannot_work_is_refused_by_name(values, words, helm):
    with pytest.raises(Refused) as refusal:
        render(values=nested(values), helm=helm)
    assert words in " ".join(str(refusal.value).split())


def test_the_files_are_tidy():
    rules = "{extends: default, rules: {line-length: {max: 160}, document-start: disable, braces: {max-spaces-inside: 0}}}"
    files = [CHART / "Chart.yaml", CHART / "values.yaml", *CHART.glob("ci/*.yaml")]
    tidy = subprocess.run(["yamllint", "--strict", "-d", rules, *files], capture_output=True, text=True)
    assert tidy.returncode == 0, tidy.stdout


def test_the_scripts_are_scripts():
    for script in CHART.glob("files/*.sh"):
        subprocess.run(["sh", "-n", script], check=True)


def test_it_packs_into_an_archive_with_everything_it_renders_from(tmp_path):
    run("helm", "package", CHART, "-d", tmp_path)
    archive = next(tmp_path.glob("cache-layer-*.tgz"))
    assert run("helm", "template", "shop", archive, "--dry-run=client").count("helm.sh/chart") > 10
    assert "redis.conf" in subprocess.run(["tar", "tzf", archive], capture_output=True, text=True).stdout


def test_compose_and_the_chart_run_the_same_redis():
    for name in ("redis.conf", "redis-start.sh", "redis-ping.sh"):
        assert (CHART / "files" / name).read_text() == (CHART / "../deploy/redis" / name).read_text(), name


def test_the_chart_carries_the_alerts_and_the_dashboard():
    for carried, original in (("alerts.yaml", "prometheus/alerts.yaml"), ("dashboard.json", "grafana/dashboard.json")):
        assert (CHART / "files" / carried).read_text() == (CHART / "../deploy" / original).read_text(), carried


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
