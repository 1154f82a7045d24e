"""The collector's configuration. What goes through it is tested where spans and metrics are."""

import shutil
import subprocess

import pytest
import yaml
from common import DEPLOY

CONFIG = yaml.safe_load((DEPLOY / "otel-collector.yaml").read_text())
# In the core distribution, and in every other one.
EVERYWHERE = {
    "receivers": {"otlp"},
    "processors": {"batch", "memory_limiter"},
    "exporters": {"debug", "otlp", "otlphttp", "prometheus"},
}


def test_every_build_of_the_collector_has_what_it_is_made_of():
    for kind, known in EVERYWHERE.items():
        assert {name.split("/")[0] for name in CONFIG[kind]} <= known
    assert CONFIG.keys() == {*EVERYWHERE, "service"}


def test_what_is_defined_is_used_and_what_is_used_is_defined():
    pipelines = CONFIG["service"]["pipelines"].values()
    for kind in EVERYWHERE:
        assert {name for pipeline in pipelines for name in pipeline[kind]} == CONFIG[kind].keys()


def test_memory_is_guarded_first_and_batches_are_made_last():
    for pipeline in CONFIG["service"]["pipelines"].values():
        assert pipeline["processors"][0] == "memory_limiter" and pipeline["processors"][-1] == "batch"


def test_the_collector_itself_agrees():
    collector = shutil.which("otelcol") or shutil.which("otelcol-contrib")
    if not collector:
        pytest.skip("there is no otelcol here")
    subprocess.run([collector, "validate", "--config", DEPLOY / "otel-collector.yaml"], check=True)
