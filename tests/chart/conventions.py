"""What schemas don't know, as rules over a rendered chart. A rule yields a complaint for each object that breaks it."""

import re

from chart import pod

LABELS = ["name", "instance", "version", "component", "part-of", "managed-by"]
SIZES = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "k": 10**3, "M": 10**6, "G": 10**9}


def size(text):
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()
    return float(number) * SIZES[unit]


def is_test(thing):
    return "helm.sh/hook" in (thing["metadata"].get("annotations") or {})


def pods(objects):
    for name, thing in objects.items():
        metadata, spec = pod(thing)
        if spec:
            yield name, thing, metadata, spec


def containers(objects):
    for name, thing, _, spec in pods(objects):
        for container in spec["containers"] + spec.get("initContainers", []):
            yield f"{name} {container['name']}", thing, spec, container


def every_object_is_labelled(objects):
    for name, thing in objects.items():
        labels = thing["metadata"].get("labels") or {}
        for label in [f"app.kubernetes.io/{label}" for label in LABELS] + ["helm.sh/chart"]:
            if not labels.get(label):
                yield f"{name} has no label {label}"
        if thing["metadata"].get("namespace") != "ns":
            yield f"{name} is not in the namespace of the release"
        for key, value in labels.items():
            if len(value) > 63 or len(key.split("/")[-1]) > 63:
                yield f"{name} has a label that is too long: {key}={value}"


def names_are_dns_labels(objects):
    for name in objects:
        name = name.split("/")[1]
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
            yield f"{name} is no DNS label"


def selectors_select_one_workload(objects):
    workloads = [(name, metadata["labels"]) for name, _, metadata, _ in pods(objects)]
    for name, thing in objects.items():
        spec = thing.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector")) or {}
        selector = selector.get("matchLabels", selector)
        if not selector or thing["kind"] not in (
            "Deployment", "StatefulSet", "Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "PodMonitor"
        ):  # fmt: skip
            continue
        if {"app.kubernetes.io/version", "helm.sh/chart"} & selector.keys():
            yield f"{name} selects by a label that the next version changes"
        selected = [workload for workload, labels in workloads if selector.items() <= labels.items()]
        if len(selected) != 1:
            yield f"{name} selects {selected}"


def pods_are_restricted(objects):
    for name, _, spec, container in containers(objects):
        context = {**(spec.get("securityContext") or {}), **(container.get("securityContext") or {})}
        if context.get("runAsNonRoot") is not True or not isinstance(context.get("runAsUser"), int):
            yield f"{name} may run as root"
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{name} may gain privileges"
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"{name} may write to its image"
        if (context.get("capabilities") or {}) != {"drop": ["ALL"]}:
            yield f"{name} has capabilities"
        if (context.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
            yield f"{name} has no seccomp profile"


def nobody_gets_a_token(objects):
    for name, _, _, spec in pods(objects):
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name} mounts a service account's token"
        if spec.get("enableServiceLinks") is not False:
            yield f"{name} has a variable for every service of its namespace"


def images_are_fixed(objects):
    for name, _, _, container in containers(objects):
        if not re.search(r"(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})$", container["image"]):
            yield f"{name} runs {container['image']}"


def memory_is_limited(objects):
    for name, _, _, container in containers(objects):
        resources = container.get("resources") or {}
        if not {"cpu", "memory"} <= (resources.get("requests") or {}).keys():
            yield f"{name} requests no CPU or memory"
        if "memory" not in (resources.get("limits") or {}):
            yield f"{name} has no limit on its memory"
        if "cpu" in (resources.get("limits") or {}):
            yield f"{name} is throttled"


def containers_are_probed(objects):
    for name, thing, _, container in containers(objects):
        wanted = ["startupProbe"] if container["name"] in ("service", "redis") else []
        for probe in [] if is_test(thing) else ["readinessProbe", "livenessProbe", *wanted]:
            if probe not in container:
                yield f"{name} has no {probe}"
        if container["name"] == "service" and "ready" in container["livenessProbe"]["httpGet"]["path"]:
            yield f"{name} is restarted when its database is gone"


def redis_evicts_before_it_is_killed(objects):
    for name, _, _, container in containers(objects):
        if container["name"] != "redis":
            continue
        config = objects[name.split()[0].replace("StatefulSet", "ConfigMap")]["data"]["memory.conf"]
        most = int(re.search(r"^maxmemory (\d+)$", config, re.M)[1])
        if most > 0.75 * size(container["resources"]["limits"]["memory"]):
            yield f"{name} is killed before maxmemory {most}"
        if "noeviction" in config or "maxmemory-policy" not in config:
            yield f"{name} does not evict"


def secrets_are_files(objects):
    for name, _, _, container in containers(objects):
        for variable in container.get("env", []):
            # The standard variable for headers has no form that names a file.
            if variable["name"] != "OTEL_EXPORTER_OTLP_HEADERS" and "secretKeyRef" in variable.get("valueFrom", {}):
                yield f"{name} has a secret in {variable['name']}"
            if re.search(r"//[^/@]*:[^/@]+@", variable.get("value", "")):
                yield f"{name} has a password in {variable['name']}"


def replicas_are_spread(objects):
    for name, thing, _, spec in pods(objects):
        if (thing["spec"].get("replicas") or 1) > 1 and not spec.get("topologySpreadConstraints"):
            yield f"{name} may be on one node alone"


def a_drain_is_bounded_and_possible(objects):
    budgets = {name.split("/")[1] for name in objects if name.startswith("PodDisruptionBudget/")}
    for name, thing, _, _ in pods(objects):
        scaled = f"HorizontalPodAutoscaler/{name.split('/')[1]}" in objects
        several = thing["kind"] == "Deployment" and (scaled or thing["spec"].get("replicas", 1) > 1)
        if several != (name.split("/")[1] in budgets):
            yield f"{name} has {'no' if several else 'a'} disruption budget"


def no_request_is_lost_when_a_pod_stops(objects):
    for name, thing, _, spec in pods(objects):
        if thing["kind"] != "Deployment":
            continue
        env = {variable["name"]: variable.get("value") for variable in spec["containers"][0]["env"]}
        stopping = sum(int(env[f"APP_SHUTDOWN_{part}"].rstrip("s")) for part in ("DELAY", "TIMEOUT"))
        sleep = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if sleep < 1:
            yield f"{name} is told to stop while requests are still sent to it"
        if spec["terminationGracePeriodSeconds"] <= sleep + stopping:
            yield f"{name} is killed while requests are in flight"
        if thing["spec"]["strategy"].get("rollingUpdate", {}).get("maxUnavailable") != 0:
            yield f"{name} has fewer pods during an upgrade"


RULES = [
    every_object_is_labelled,
    names_are_dns_labels,
    selectors_select_one_workload,
    pods_are_restricted,
    nobody_gets_a_token,
    images_are_fixed,
    memory_is_limited,
    containers_are_probed,
    redis_evicts_before_it_is_killed,
    secrets_are_files,
    replicas_are_spread,
    a_drain_is_bounded_and_possible,
    no_request_is_lost_when_a_pod_stops,
]
