"""The chart in every mode, by every Helm, for every Kubernetes."""

import functools
import json
import re

import kubernetes_validate.utils
import pytest
from chart import CHART, HELMS, KUBERNETES, MODES, render, run, text
from conventions import RULES

# It would read megabytes of schemas again for each object.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)
# Of others' making: no release of Kubernetes has schemas for them.
CUSTOM = ("monitoring.coreos.com/", "gateway.networking.k8s.io/")

every_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name.removesuffix("-values.yaml"))


def test_there_is_a_mode_for_each_way_to_run_it():
    assert len(MODES) >= 13


@functools.cache
def fits(thing, kubernetes):
    kubernetes_validate.utils.validate(json.loads(thing), kubernetes, strict=True)


@every_mode
def test_it_renders_and_fits_the_strict_schemas_of_every_kubernetes(mode):
    for kubernetes in KUBERNETES:
        for helm in HELMS:
            for thing in render(mode=mode, helm=helm, kubernetes=kubernetes).values():
                if not thing["apiVersion"].startswith(CUSTOM):
                    thing.get("data", {}).pop("password", None)  # made anew each time
                    fits(json.dumps(thing), kubernetes)


@every_mode
def test_helm_3_and_4_render_the_same(mode):
    both = [re.sub(r"(?m)^  password: .*$", "", text(mode=mode, helm=helm)) for helm in HELMS]
    blocks = [sorted(block.strip() for block in rendered.split("\n---\n")) for rendered in both]
    assert blocks[0] == blocks[1]


@every_mode
def test_it_renders_the_same_twice(mode):
    again = run("helm", "template", "shop", CHART, "--namespace", "ns", "-f", mode, "--kube-version", KUBERNETES[0])
    first = text(mode=mode, kubernetes=KUBERNETES[0], apis=())
    generated = re.compile(r"(?m)^  password: [A-Za-z0-9+/=]{44}$")
    assert generated.sub("", again) == generated.sub("", first)


@every_mode
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_it_keeps_the_convention(rule, mode):
    assert list(rule(render(mode=mode))) == []


@every_mode
@pytest.mark.parametrize("helm", HELMS)
def test_it_lints(helm, mode):
    run(helm, "lint", "--strict", CHART, "-f", mode)


def test_an_old_kubernetes_is_refused():
    with pytest.raises(Exception, match="1.29"):
        render(kubernetes="1.29")
