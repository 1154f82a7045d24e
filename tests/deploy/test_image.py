"""The image, started as an orchestrator would."""

import re
import subprocess

from common import DEPLOY, get, wait_until
from engine import CONFINED, IMAGE, container, engine, inspect, published


def test_the_dockerfile_is_clean_and_builds_with_any_builder():
    subprocess.run(["hadolint", DEPLOY / "Dockerfile"], check=True)
    text = (DEPLOY / "Dockerfile").read_text()
    # Not every builder knows these; and an architecture in it would be the only one.
    assert not re.search(r"<<-?\s*['\"]?\w|--link|amd64[^,]|aarch64", text)
    assert "--locked" in text


def test_it_is_small_and_runs_as_nobody():
    image = inspect(IMAGE)
    config = image["Config"]
    assert image["Size"] < 25_000_000
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["/service"]
    assert config["StopSignal"] in ("SIGTERM", "15")
    # Docker and podman keep it in different places.
    assert (image.get("Healthcheck") or config["Healthcheck"])["Test"] == ["CMD", "/service", "--healthcheck"]
    assert config["Labels"]["org.opencontainers.image.licenses"] == "MIT OR Apache-2.0"


def test_there_is_no_shell_in_it():
    process = engine("run", "--rm", "--entrypoint=sh", IMAGE, "-c", "true", check=False)
    assert process.returncode == 127, process.stderr


def test_it_lists_its_crates_for_scanners(tmp_path):
    with container() as name:
        engine("cp", f"{name}:/service", tmp_path / "service")
    sections = subprocess.run(["readelf", "-SW", tmp_path / "service"], check=True, capture_output=True, text=True)
    assert ".dep-v0" in sections.stdout
    assert ".symtab" not in sections.stdout


def test_the_certificates_are_where_the_chart_says(tmp_path):
    with container() as name:
        engine("cp", f"{name}:/etc/ssl/certs", tmp_path / "certs")
    assert "BEGIN CERTIFICATE" in (tmp_path / "certs/ca-certificates.crt").read_text()


def test_it_serves_a_miss_and_a_hit_read_only_and_without_any_right():
    with container() as name:
        url = published(name)
        wait_until("it is ready", lambda: get(f"{url}/health/ready")[0] == 200)
        assert get(f"{url}/api/products/1")[1]["x-cache"] == "MISS"
        wait_until("it is stored", lambda: get(f"{url}/api/products/1")[1]["x-cache"] == "HIT")


def test_it_reads_a_secret_from_a_file(tmp_path):
    (tmp_path / "url").write_text("sqlite:///data/other.db\n")
    (tmp_path / "url").chmod(0o444)
    mounted = [f"--volume={tmp_path}/url:/run/secrets/url:ro", "--env=APP_DATABASE_URL_FILE=/run/secrets/url"]
    with container(*mounted) as name:
        wait_until("it is ready", lambda: get(f"{published(name)}/health/ready")[0] == 200)
        assert "products in sqlite:///data/other.db" in engine("logs", name)


def test_its_own_health_check_knows_whether_it_is_ready():
    with container() as name:
        wait_until("it is ready", lambda: get(f"{published(name)}/health/ready")[0] == 200)
        engine("exec", name, "/service", "--healthcheck")
    alone = engine("run", "--rm", *CONFINED, IMAGE, "--healthcheck", check=False)
    assert alone.returncode == 1 and "Connection refused" in alone.stderr


def test_sigterm_ends_it_in_order():
    with container() as name:
        wait_until("it is ready", lambda: get(f"{published(name)}/health/ready")[0] == 200)
        engine("stop", "--time=30", name)
        assert inspect(name)["State"]["ExitCode"] == 0
        assert '"stopped"' in engine("logs", name)
