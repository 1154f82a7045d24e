"""How many replicas the Deployment says. Helm takes away what it said before and says no more, and Kubernetes then puts 1: so
a Deployment whose number Helm once set must go on saying the one that is there."""

import pytest
from chart import HELMS, NAME, at, nested, render
from cluster import cluster_with, render_in

SCALED = {"database.existingSecret": "db", "autoscaling.enabled": True, "autoscaling.minReplicas": 2, "autoscaling.maxReplicas": 8}
DEPLOYMENT = f"Deployment/{NAME}"
MARK = "cache-layer/replicas"


def deployment(replicas, annotations={}):
    metadata = {"name": NAME, "annotations": annotations}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": replicas}}


AUTOSCALER = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": NAME}}


def rendered(things, helm, folder, values=SCALED):
    with cluster_with(things, folder) as kubeconfig:
        return render_in(kubeconfig, helm, values)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(("there", "said"), [(3, 3), (1, 2), (0, 2), (9, 8)])
def test_turning_autoscaling_on_keeps_the_number_that_is_there_within_its_bounds(there, said, helm, tmp_path):
    objects = rendered([deployment(there)], helm, tmp_path)
    assert at(objects, f"{DEPLOYMENT} spec replicas") == said


@pytest.mark.parametrize("helm", HELMS)
def test_every_upgrade_after_that_says_the_number_that_the_autoscaler_has_set(helm, tmp_path):
    first = rendered([deployment(3)], helm, tmp_path)[DEPLOYMENT]
    scaled = deployment(5, first["metadata"]["annotations"])
    second = rendered([scaled, AUTOSCALER], helm, tmp_path)[DEPLOYMENT]
    assert second["spec"]["replicas"] == 5
    assert second["metadata"]["annotations"][MARK] == first["metadata"]["annotations"][MARK]


@pytest.mark.parametrize("helm", HELMS)
def test_a_release_that_began_with_an_autoscaler_leaves_the_number_to_it(helm, tmp_path):
    for things in ([], [deployment(5), AUTOSCALER]):
        objects = rendered(things, helm, tmp_path)
        assert at(objects, f"{DEPLOYMENT} spec replicas") is None
        assert at(objects, f"{DEPLOYMENT} metadata annotations") is None


@pytest.mark.parametrize("helm", HELMS)
def test_turning_it_off_says_the_number_that_is_asked_for(helm, tmp_path):
    off = {"database.existingSecret": "db", "replicaCount": 4}
    things = [deployment(5, {MARK: "carried"}), AUTOSCALER]
    objects = rendered(things, helm, tmp_path, off)
    assert at(objects, f"{DEPLOYMENT} spec replicas") == 4
    assert at(objects, f"{DEPLOYMENT} metadata annotations") is None


def test_what_renders_without_a_cluster_leaves_the_number_to_the_autoscaler():
    assert at(render(values=nested(SCALED)), f"{DEPLOYMENT} spec replicas") is None
