"""The service beside a Redis, a collector, and their clients: each a process on this machine's loopback."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sysconfig

import pytest
import yaml
from common import DEPLOY, free_port, get, wait_until

LOOPBACK = "127.0.0.1"


@contextlib.contextmanager
def process(folder, command, environment=None):
    """Runs `command` in `folder`; at the end it is gone. What it says is in `log`, there."""
    with (folder / "log").open("ab") as log:
        running = subprocess.Popen(list(map(str, command)), cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGCONT)
        running.kill()
        running.wait()


@contextlib.contextmanager
def redis(folder):
    folder.mkdir()
    port = free_port()
    with process(folder, ["redis-server", "--bind", LOOPBACK, "--port", port, "--save", ""]) as running:
        wait_until("Redis answers", lambda: redis_cli(port, "ping") == "PONG")
        yield port, running


def redis_cli(port, *args):
    command = ["redis-cli", "-h", LOOPBACK, "-p", str(port), *args]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


class Service:
    def __init__(self, url, folder, running):
        self.url, self.folder, self.running = url, folder, running

    def get(self, path, **more):
        return get(self.url + path, **more)

    def log(self):
        return (self.folder / "log").read_text()

    def terminate(self, seconds=30):
        """SIGTERM; returns its exit code."""
        self.running.terminate()
        return self.running.wait(seconds)


@contextlib.contextmanager
def service(binary, folder, **variables):
    """The service with these variables and no others, once it is ready."""
    folder.mkdir()
    port = free_port()
    variables = {"APP_LISTEN": f"{LOOPBACK}:{port}", "APP_LOG_FORMAT": "json", **variables}
    with process(folder, [binary], variables) as running:
        started = Service(f"http://{LOOPBACK}:{port}", folder, running)
        wait_until("the service is ready", lambda: started.get("/health/ready")[0] == 200)
        yield started


def binary(folder):
    """The service's binary: `BINARY`, or what is in the image."""
    if path := os.environ.get("BINARY"):
        return pathlib.Path(path).absolute()
    # A machine may have no container engine.
    from engine import container, engine

    with container() as name:
        engine("cp", f"{name}:/service", folder / "service")
    return folder / "service"


def rotel():
    return pathlib.Path(sysconfig.get_path("purelib")) / "rotel/rotel-agent"


@contextlib.contextmanager
def collector(folder, receiver):
    """A collector that sends on to the port `receiver`: the OpenTelemetry Collector with the file in deploy/ where there is
    one, or else rotel. Yields where it listens, by protocol."""
    folder.mkdir()
    ports = {"grpc": free_port(), "http/protobuf": free_port()}
    grpc, http = (f"{LOOPBACK}:{port}" for port in ports.values())
    if program := shutil.which("otelcol") or shutil.which("otelcol-contrib"):
        config = yaml.safe_load((DEPLOY / "otel-collector.yaml").read_text())
        config["receivers"]["otlp"]["protocols"] = {"grpc": {"endpoint": grpc}, "http": {"endpoint": http}}
        config["exporters"]["prometheus"]["endpoint"] = f"{LOOPBACK}:{free_port()}"
        config["exporters"]["otlp/test"] = {"endpoint": f"{LOOPBACK}:{receiver}", "tls": {"insecure": True}}
        config["service"]["telemetry"] = {"metrics": {"level": "none"}}
        for pipeline in config["service"]["pipelines"].values():
            pipeline["exporters"].append("otlp/test")
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        command = [program, "--config", "config.yaml"]
    else:
        command = [rotel(), "start", "--otlp-grpc-endpoint", grpc, "--otlp-http-endpoint", http, "--exporter", "otlp"]
        command += ["--otlp-exporter-endpoint", f"http://{LOOPBACK}:{receiver}", "--otlp-exporter-protocol", "grpc"]
        command += ["--batch-timeout", "200ms"]
        if not os.access(rotel(), os.X_OK):
            rotel().chmod(0o755)
    with process(folder, command) as running:
        # Nothing is there, which it says.
        wait_until("the collector listens", lambda: get(f"http://{http}/")[0] or running.poll() is not None)
        if running.poll() is not None:
            pytest.fail((folder / "log").read_text())
        yield {protocol: f"http://{LOOPBACK}:{port}" for protocol, port in ports.items()}
