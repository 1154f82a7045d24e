"""As much of an API server as a Helm needs that looks up what is there."""

import contextlib
import http.server
import json
import threading

import yaml
from chart import CHART, nested, run

KINDS = {
    "v1": ["ConfigMap", "PersistentVolumeClaim", "Pod", "Secret", "Service", "ServiceAccount"],
    "apps/v1": ["Deployment", "StatefulSet"],
    "autoscaling/v2": ["HorizontalPodAutoscaler"],
    "policy/v1": ["PodDisruptionBudget"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
}


def plural(kind):
    return kind.lower()[:-1] + "ies" if kind.endswith("y") else kind.lower() + "s"


def group(version):
    versions = {"groupVersion": version, "version": version.split("/")[1]}
    return {"name": version.split("/")[0], "versions": [versions], "preferredVersion": versions}


ANSWERS = {
    "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group(version) for version in KINDS if "/" in version]},
}
for version, kinds in KINDS.items():
    resources = [{"name": plural(kind), "kind": kind, "namespaced": True, "verbs": ["get", "list"]} for kind in kinds]
    answer = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
    ANSWERS[f"/apis/{version}" if "/" in version else f"/api/{version}"] = answer
NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


def path(thing):
    root = "/apis" if "/" in thing["apiVersion"] else "/api"
    return f"{root}/{thing['apiVersion']}/namespaces/ns/{plural(thing['kind'])}/{thing['metadata']['name']}"


def owned(thing):
    """By the release that asks: what another one made isn't touched."""
    annotations = {"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": "ns"}
    annotations |= thing["metadata"].get("annotations", {})
    labels = {"app.kubernetes.io/managed-by": "Helm"}
    return {**thing, "metadata": {"name": thing["metadata"]["name"], "namespace": "ns", "labels": labels, "annotations": annotations}}


@contextlib.contextmanager
def cluster_with(things, folder):
    """The configuration for a cluster in which the release `shop` has made these objects in the namespace `ns`."""
    there = {path(thing): owned(thing) for thing in things}

    class Api(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            answer = ANSWERS.get(path) or there.get(path)
            body = json.dumps(answer or NOT_FOUND).encode()
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": url}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": ""}}],
            "current-context": "here",
        }
        (folder / "kubeconfig").write_text(json.dumps(config))
        yield folder / "kubeconfig"
        server.shutdown()


def render_in(kubeconfig, helm, values):
    """As `chart.render`, by a Helm that asks that cluster."""
    args = ["template", "shop", CHART, "--namespace", "ns", "--dry-run=server", "--disable-openapi-validation"]
    rendered = run(helm, *args, "--kubeconfig", kubeconfig, "-f", "-", values=nested(values))
    return {f"{o['kind']}/{o['metadata']['name']}": o for o in yaml.safe_load_all(rendered) if o}
