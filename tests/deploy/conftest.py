import processes
import pytest


@pytest.fixture(scope="session")
def binary(tmp_path_factory):
    return processes.binary(tmp_path_factory.mktemp("binary"))
