"""The dashboard and the alerts, asked of a live Prometheus that looks at a service with traffic, and at its Redis."""

import json
import math
import re
import threading
import urllib.parse

import pytest
import yaml
from common import FILES, free_port, get, wait_until
from processes import LOOPBACK, process, redis, redis_cli, service

BOARD = json.loads((FILES / "dashboard.json").read_text())
QUERIES = [
    pytest.param(target["expr"], target["legendFormat"], id=f"{panel['title']} {target['refId']}")
    for panel in BOARD["panels"]
    for target in panel.get("targets", [])
]
CHOSEN = {"namespace": "shop", "job": "catalogue", "cache": "products"}


class Traffic(threading.Thread):
    """Everything that is counted: hits, misses, waits, invalidations, responses that can't be stored, and entries that can't be read."""

    def __init__(self, started, redis_port):
        super().__init__(daemon=True)
        self.started, self.redis_port, self.over = started, redis_port, threading.Event()

    def run(self):
        while not self.over.wait(0.1):
            crowd = [threading.Thread(target=self.started.get, args=("/api/products/7",)) for _ in range(16)]
            [one.start() for one in crowd]
            [one.join() for one in crowd]
            for path in ("/api/products", "/api/products?page=2", "/api/products/4711", "/nothing"):
                self.started.get(path)
            for name in redis_cli(self.redis_port, "--scan", "--pattern", "*:e:*page=2*").split():
                redis_cli(self.redis_port, "set", name, "junk")
            self.started.get("/api/products?page=2")
            self.started.get("/api/products/7/cache", method="DELETE")


@pytest.fixture(scope="module")
def prometheus(binary, tmp_path_factory):
    """The address of a Prometheus with the alerts, and what it looks at."""
    folder = tmp_path_factory.mktemp("live")
    listen, exporter = f"{LOOPBACK}:{free_port()}", f"{LOOPBACK}:{free_port()}"
    with redis(folder / "redis") as (redis_port, _):
        variables = {"APP_REDIS_URL": f"redis://{LOOPBACK}:{redis_port}", "APP_CACHE_FIRST_TIER": "1MiB"}
        exporting = ["prometheus-redis-exporter", "--web.listen-address", exporter]
        exporting += ["--redis.addr", f"redis://{LOOPBACK}:{redis_port}"]
        with service(binary, folder / "service", **variables) as started, process(folder, exporting):
            targets = {"catalogue": started.url.removeprefix("http://"), "redis": exporter}
            config = {
                "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
                "rule_files": [str(FILES / "alerts.yaml")],
                "scrape_configs": [
                    {"job_name": job, "static_configs": [{"targets": [target], "labels": {"namespace": "shop"}}]}
                    for job, target in targets.items()
                ],
            }
            (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
            command = ["prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data"]
            traffic = Traffic(started, redis_port)
            with process(folder, [*command, f"--web.listen-address={listen}"]):
                wait_until("Prometheus is ready", lambda: get(f"http://{listen}/-/ready")[0] == 200)
                traffic.start()
                yield f"http://{listen}"
                traffic.over.set()
                traffic.join()


def answer(prometheus, query):
    status, _, body = get(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    assert status == 200, body
    return json.loads(body)["data"]["result"]


def numbers(prometheus, query):
    return [number for series in answer(prometheus, query) if math.isfinite(number := float(series["value"][1]))]


def filled_in(expression):
    expression = expression.replace("$__rate_interval", "10s")
    return re.sub(r"\$(\w+)", lambda variable: CHOSEN[variable[1]], expression)


@pytest.mark.parametrize(("expression", "legend"), QUERIES)
def test_each_query_of_the_dashboard_has_an_answer_with_what_its_legend_names(prometheus, expression, legend):
    query, labels = filled_in(expression), set(re.findall(r"{{(\w+)}}", legend))
    wait_until(f"there is data for {query}", lambda: numbers(prometheus, query), 60)
    assert any(labels <= series["metric"].keys() for series in answer(prometheus, query))


@pytest.mark.parametrize("variable", CHOSEN)
def test_each_variable_of_the_dashboard_offers_what_there_is(prometheus, variable):
    (definition,) = (one for one in BOARD["templating"]["list"] if one["name"] == variable)
    selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", definition["query"]["query"]).groups()

    def offered():
        return {series["metric"].get(label) for series in answer(prometheus, filled_in(selector))}

    wait_until("it is scraped", lambda: offered() == {CHOSEN[variable]})


def rules(prometheus):
    groups = json.loads(get(f"{prometheus}/api/v1/rules")[2])["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_each_alert_and_each_rule_can_be_evaluated(prometheus):
    wait_until("all are", lambda: all(rule["health"] != "unknown" for rule in rules(prometheus)))
    assert {rule["name"]: rule["health"] for rule in rules(prometheus) if rule["health"] != "ok"} == {}
    for rule in rules(prometheus):
        answer(prometheus, rule["query"])


def test_nothing_fires_while_all_is_well(prometheus):
    assert [rule["name"] for rule in rules(prometheus) if rule.get("state") == "firing"] == []
    wait_until("there is a hit ratio", lambda: numbers(prometheus, "job_cache:cache_layer_hit_ratio:rate10m"))
    wait_until("there are slow requests to be had", lambda: numbers(prometheus, "job:http_server_slow:ratio_rate5m"))
