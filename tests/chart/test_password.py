"""The password of Redis, which is made once and kept."""

import base64
import subprocess

import pytest
from chart import CHART, HELMS, NAME, Refused
from cluster import cluster_with, render_in


def secret(data):
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{NAME}-redis"}, "data": data}


def password(helm, kubeconfig, values={}):
    objects = render_in(kubeconfig, helm, values)
    return base64.b64decode(objects[f"Secret/{NAME}-redis"]["data"]["password"]).decode()


@pytest.mark.parametrize("helm", HELMS)
def test_it_is_made_when_there_is_none(helm, tmp_path):
    with cluster_with([], tmp_path) as kubeconfig:
        first, second = (password(helm, kubeconfig) for _ in range(2))
    assert len(first) == len(second) == 32 and first.isalnum() and first != second


@pytest.mark.parametrize("helm", HELMS)
def test_it_is_kept_when_there_is_one(helm, tmp_path):
    with cluster_with([secret({"password": base64.b64encode(b"as it was").decode()})], tmp_path) as kubeconfig:
        assert password(helm, kubeconfig) == "as it was"
        assert password(helm, kubeconfig, {"redis.auth.password": "new"}) == "new"


@pytest.mark.parametrize("helm", HELMS)
def test_a_secret_without_one_is_refused(helm, tmp_path):
    with cluster_with([secret({"other": "eA=="})], tmp_path) as kubeconfig:
        with pytest.raises(Refused, match=f"the secret ns/{NAME}-redis exists, but has no password in it"):
            password(helm, kubeconfig)


def test_what_helm_says_after_an_installation_does_not_give_it_away(tmp_path):
    args = ["install", "shop", CHART, "--namespace", "ns", "--dry-run=client", "--set", "redis.auth.password=hunter2"]
    process = subprocess.run(["helm", *args], check=True, capture_output=True, text=True)
    notes = process.stdout.split("NOTES:")[1]
    assert "kubectl" in notes and "hunter2" not in notes
    assert "WARNING: the products are in a SQLite" in notes
