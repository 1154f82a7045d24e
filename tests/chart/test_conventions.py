"""What judges the chart is judged first: each rule notices a chart that breaks it."""

import copy

import conventions
import pytest
from chart import CHART, NAME, nested, render

SERVICE = f"Deployment/{NAME} spec template spec containers service"
REDIS = f"StatefulSet/{NAME}-redis spec template spec containers redis"

BROKEN = {
    "every_object_is_labelled": [(f"Service/{NAME} metadata labels helm.sh/chart", None)],
    "names_are_dns_labels": [(f"Service/{NAME}_ metadata", {})],
    "selectors_select_one_workload": [
        (f"Service/{NAME} spec selector", {"app.kubernetes.io/instance": "shop"}),
        (f"NetworkPolicy/{NAME} spec podSelector matchLabels app.kubernetes.io/component", "nobody"),
        (f"Deployment/{NAME} spec selector matchLabels helm.sh/chart", "cache-layer-0.1.0"),
    ],
    "pods_are_restricted": [
        (f"Deployment/{NAME} spec template spec securityContext runAsUser", None),
        (f"{SERVICE} securityContext readOnlyRootFilesystem", False),
        (f"{REDIS} securityContext capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
        (f"Pod/{NAME}-test spec securityContext seccompProfile", None),
    ],
    "nobody_gets_a_token": [(f"Pod/{NAME}-test spec automountServiceAccountToken", True)],
    "images_are_fixed": [(f"{REDIS} image", "docker.io/library/redis"), (f"{REDIS} image", "redis:latest")],
    "memory_is_limited": [(f"{SERVICE} resources limits", None), (f"{SERVICE} resources limits cpu", "1")],
    "containers_are_probed": [
        (f"{REDIS} startupProbe", None),
        (f"{SERVICE} livenessProbe httpGet path", "/health/ready"),
    ],
    "redis_evicts_before_it_is_killed": [
        (f"{REDIS} resources limits memory", "96Mi"),
        (f"ConfigMap/{NAME}-redis data memory.conf", "maxmemory 1\n"),
    ],
    "secrets_are_files": [(f"{SERVICE} env APP_REDIS_URL value", "redis://service:hunter2@redis:6379")],
    "replicas_are_spread": [(f"Deployment/{NAME} spec template spec topologySpreadConstraints", None)],
    "a_drain_is_bounded_and_possible": [(f"PodDisruptionBudget/{NAME}", None), (f"Deployment/{NAME} spec replicas", 1)],
    "no_request_is_lost_when_a_pod_stops": [
        (f"Deployment/{NAME} spec template spec terminationGracePeriodSeconds", 28),
        (f"{SERVICE} lifecycle", None),
        (f"Deployment/{NAME} spec strategy rollingUpdate maxUnavailable", 1),
    ],
}


def test_every_rule_has_a_chart_that_breaks_it():
    assert {rule.__name__ for rule in conventions.RULES} == BROKEN.keys()


@pytest.mark.parametrize(
    ("rule", "path", "value"), [(rule, *change) for rule, changes in BROKEN.items() for change in changes]
)
def test_a_chart_that_breaks_it_is_noticed(rule, path, value):
    rule = getattr(conventions, rule)
    good = render(mode=CHART / "ci/postgres-values.yaml", values=nested({"fullnameOverride": NAME}))
    assert list(rule(good)) == []
    bad = copy.deepcopy(good)
    *parents, last = path.split()
    node = bad
    for key in parents:
        if isinstance(node, list):
            node = next(item for item in node if item["name"] == key)
        else:
            node = node.setdefault(key, {})
    if value is None:
        del node[last]
    else:
        node[last] = value
    assert list(rule(bad)) != []
