"""Alerts, their runbook, and the dashboard."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from common import FILES, ROOT

ALERTS = FILES / "alerts.yaml"
CASES = Path(__file__).with_name("alerts_test.yaml")
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
NAMES = [rule["alert"] for rule in RULES if "alert" in rule]
BOARD = json.loads((FILES / "dashboard.json").read_text())


def promtool(*args):
    process = subprocess.run(["promtool", *args], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr


def test_the_rules_are_rules():
    promtool("check", "rules", "--lint-fatal", str(ALERTS))


def test_each_alert_fires_when_it_should_and_only_then():
    promtool("test", "rules", str(CASES))


@pytest.mark.parametrize("alert", NAMES)
def test_there_is_a_case_that_fires_and_one_that_does_not(alert):
    tests = yaml.safe_load(CASES.read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", []) if case["alertname"] == alert]
    assert {bool(case.get("exp_alerts")) for case in cases} == {True, False}


@pytest.mark.parametrize("alert", NAMES)
def test_the_runbook_says_what_to_do(alert):
    rule = next(rule for rule in RULES if rule.get("alert") == alert)
    assert rule["annotations"]["runbook_url"].endswith(f"/docs/runbook.md#{alert.lower()}")
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert f"\n## {alert}\n" in (ROOT / "docs/runbook.md").read_text()


def test_the_runbook_names_panels_that_are_there():
    titles = {panel["title"] for panel in BOARD["panels"]}
    named = re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", (ROOT / "docs/runbook.md").read_text())
    assert named and set(named) <= titles


def expressions():
    for panel in BOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def test_every_query_of_the_dashboard_is_one(tmp_path):
    rules = []
    for _, expression in expressions():
        expression = expression.replace("$__rate_interval", "5m")
        rules.append({"record": f"a:b{len(rules)}", "expr": re.sub(r"\$\w+", ".*", expression)})
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "rules.yaml"))


def test_a_cache_that_has_found_nothing_yet_is_shown_with_a_hit_ratio_of_0(tmp_path):
    misses = 'cache_layer_lookups_total{namespace="shop", job="catalogue", cache="http", result="miss", tier="none"}'
    shown = {title: re.sub(r"\$\w+", ".*", text.replace("$__rate_interval", "5m")) for title, text in expressions()}
    samples = {"Hit ratio": [{"value": 0}], "Hit ratio by cache": [{"labels": '{cache="http"}', "value": 0}]}
    cases = [{"expr": shown[title], "eval_time": "10m", "exp_samples": expected} for title, expected in samples.items()]
    series = [{"series": misses, "values": "0+60x10"}]
    case = {"interval": "1m", "input_series": series, "promql_expr_test": cases}
    (tmp_path / "test.yaml").write_text(json.dumps({"rule_files": [str(ALERTS)], "tests": [case]}))
    promtool("test", "rules", str(tmp_path / "test.yaml"))


def test_the_dashboard_can_be_imported_anywhere():
    assert BOARD["id"] is None and BOARD["uid"]
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert "datasource" in {variable["type"] for variable in BOARD["templating"]["list"]}
    for panel in BOARD["panels"]:
        assert panel["title"]
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in BOARD["panels"]]
    assert places == sorted(places, key=lambda place: (place[1], place[0])) and len(places) == len(set(places))


def test_each_metric_that_alerts_can_be_looked_at():
    def metrics(expression):
        names = re.findall(r"\b(?:cache_layer|redis|http_server)_\w+", expression)
        # What a histogram consists of is one metric.
        return {re.sub("_(bucket|count|sum)$", "", name) for name in names}

    shown = set().union(*(metrics(expression) for _, expression in expressions()))
    alerted = set().union(*(metrics(rule["expr"]) for rule in RULES))
    recorded = {"http_server_errors", "http_server_slow", "cache_layer_hit_ratio"}
    assert {metric for metric in alerted if not metric.startswith(tuple(recorded))} <= shown
