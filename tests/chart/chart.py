"""The chart, rendered."""

import functools
import json
import pathlib
import subprocess

import yaml

CHART = pathlib.Path(__file__).parents[2] / "helm"
MODES = sorted(CHART.glob("ci/*-values.yaml"))
HELMS = ["helm", "helm3"]
KUBERNETES = ["1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]
MONITORING = [f"monitoring.coreos.com/v1/{kind}" for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule")]
NAME = "shop-cache-layer"


class Refused(Exception):
    """Helm's own words for why it renders nothing."""


def run(helm, *args, values=None):
    process = subprocess.run(
        [helm, *map(str, args)], input=None if values is None else json.dumps(values), capture_output=True, text=True
    )
    if process.returncode:
        raise Refused(process.stderr)
    return process.stdout


@functools.cache
def _text(helm, kubernetes, apis, mode, values, namespace):
    args = ["template", "shop", CHART, "--namespace", namespace, "--kube-version", kubernetes]
    args += [f"--api-versions={api}" for api in apis]
    args += ["-f", mode] if mode else []
    return run(helm, *args, "-f", "-", values=json.loads(values))


def text(mode=None, values=None, helm="helm", kubernetes=KUBERNETES[-1], apis=tuple(MONITORING), namespace="ns"):
    return _text(helm, kubernetes, tuple(apis), mode, json.dumps(values or {}), namespace)


def render(**how):
    """The objects, as `Kind/name`."""
    objects = [o for o in yaml.safe_load_all(text(**how)) if o]
    named = {f"{o['kind']}/{o['metadata']['name']}": o for o in objects}
    assert len(named) == len(objects), "two objects of one name"
    return named


def at(objects, path):
    """What is at `Kind/name key key …`: an item of a list by its name, or by its number. None, if nothing is."""
    name, *keys = path.split()
    here = objects.get(name)
    for key in keys:
        if isinstance(here, list):
            named = [item for item in here if isinstance(item, dict) and item.get("name") == key]
            here = named[0] if named else here[int(key)] if key.isdigit() and int(key) < len(here) else None
        elif isinstance(here, dict):
            here = here.get(key)
        else:
            return None
    return here


def nested(dotted):
    """`{"a.b": 1}` as `{"a": {"b": 1}}`."""
    tree = {}
    for path, value in dotted.items():
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def pod(thing):
    """Metadata and spec of the pods that this object makes, if it makes any."""
    if thing["kind"] == "Pod":
        return thing["metadata"], thing["spec"]
    template = thing.get("spec", {}).get("template") if thing["kind"] in ("Deployment", "StatefulSet", "Job") else None
    return (template["metadata"], template["spec"]) if template else (None, None)
