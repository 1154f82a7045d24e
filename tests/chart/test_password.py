"""The password of Redis, which is made once and kept: seen by a Helm that asks an API server, of which there is as much
here as that takes."""

import base64
import contextlib
import http.server
import json
import subprocess
import threading

import pytest
import yaml
from chart import CHART, HELMS, NAME, Refused, run

SECRET = f"/api/v1/namespaces/ns/secrets/{NAME}-redis"
KINDS = {
    "v1": ["ConfigMap", "PersistentVolumeClaim", "Pod", "Secret", "Service", "ServiceAccount"],
    "apps/v1": ["Deployment", "StatefulSet"],
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
# By the release that asks: what another one made isn't touched.
OWNED = {
    "name": f"{NAME}-redis",
    "namespace": "ns",
    "labels": {"app.kubernetes.io/managed-by": "Helm"},
    "annotations": {"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": "ns"},
}
NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


@contextlib.contextmanager
def cluster_with(data, folder):
    """The configuration for a cluster in which the secret holds this; or nothing, if there is none."""

    class Api(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            answer = ANSWERS.get(path)
            if path == SECRET and data is not None:
                answer = {"kind": "Secret", "apiVersion": "v1", "metadata": OWNED, "data": data}
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


def password(helm, kubeconfig, *values):
    args = ["template", "shop", CHART, "--namespace", "ns", "--dry-run=server", "--disable-openapi-validation"]
    objects = yaml.safe_load_all(run(helm, *args, "--kubeconfig", kubeconfig, *values))
    secret = next(o for o in objects if o and o["kind"] == "Secret")
    return base64.b64decode(secret["data"]["password"]).decode()


@pytest.mark.parametrize("helm", HELMS)
def test_it_is_made_when_there_is_none(helm, tmp_path):
    with cluster_with(None, tmp_path) as kubeconfig:
        first, second = (password(helm, kubeconfig) for _ in range(2))
    assert len(first) == len(second) == 32 and first.isalnum() and first != second


@pytest.mark.parametrize("helm", HELMS)
def test_it_is_kept_when_there_is_one(helm, tmp_path):
    with cluster_with({"password": base64.b64encode(b"as it was").decode()}, tmp_path) as kubeconfig:
        assert password(helm, kubeconfig) == "as it was"
        assert password(helm, kubeconfig, "--set", "redis.auth.password=new") == "new"


@pytest.mark.parametrize("helm", HELMS)
def test_a_secret_without_one_is_refused(helm, tmp_path):
    with cluster_with({"other": "eA=="}, tmp_path) as kubeconfig:
        with pytest.raises(Refused, match=f"the secret ns/{NAME}-redis exists, but has no password in it"):
            password(helm, kubeconfig)


def test_what_helm_says_after_an_installation_does_not_give_it_away(tmp_path):
    args = ["install", "shop", CHART, "--namespace", "ns", "--dry-run=client", "--set", "redis.auth.password=hunter2"]
    process = subprocess.run(["helm", *args], check=True, capture_output=True, text=True)
    notes = process.stdout.split("NOTES:")[1]
    assert "kubectl" in notes and "hunter2" not in notes
    assert "WARNING: the products are in a SQLite" in notes
