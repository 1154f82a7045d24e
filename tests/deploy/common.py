"""What every test here needs: where things are, free ports, and questions by HTTP."""

import pathlib
import socket
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
# What Compose mounts, and the chart carries.
FILES = ROOT / "helm/files"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url, method="GET", headers=()):
    """Status, fields by their lower-case names, and body; the status is 0 if nobody answers."""
    try:
        request = urllib.request.Request(url, method=method, headers=dict(headers))
        with urllib.request.urlopen(request, timeout=10) as response:
            fields = {name.lower(): value for name, value in response.headers.items()}
            return response.status, fields, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, {}, error.read().decode()
    except OSError as error:
        return 0, {}, str(error)


def wait_until(what, met, seconds=30):
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, f"waited {seconds} s in vain until {what}"
        time.sleep(0.2)
